/*
 * models/program/cmd-train.c - train a concept bottleneck model on labelled texts
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct train_command {
    const cli_command *command;
    const char *model_path;
    cli_list data, valid;
    cli_columns columns;
    cbm_train_options options;
    int json;
    char *checkpoint_path;
    cli_lock lock;
    int n_epochs; /* that are done, in this run */
    cli_progress progress;
    /* The options as they are parsed. */
    int mode, concept_loss, prune;
    int64_t prune_start, prune_end, fisher_block, fisher_batches, fisher_batch_size, fisher_memory;
    double initial_sparsity, damping_absolute, score_rate;
    int64_t epochs, batch, patience, max_length, seed, threads;
    double encoder_rate, head_rate, weight_decay, warmup, clip, lambda, dropout, mixup, teacher_weight, temperature;
} train_command;

static void print_epoch(void *user, const cbm_epoch_report *r) {
    train_command *t = user;
    cli_progress_clear(&t->progress);
    t->n_epochs++;
    if (t->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "epoch", cli_json_int(r->epoch));
        cJSON_AddItemToObject(object, "epochs", cli_json_int(r->epochs));
        cJSON_AddItemToObject(object, "seconds", cli_json_double(r->seconds));
        cJSON_AddItemToObject(object, "train_loss", cli_json_double(r->train_loss));
        cJSON_AddItemToObject(object, "valid_loss", cli_json_double(r->valid_loss));
        cJSON_AddItemToObject(object, "label_accuracy", cli_json_double(r->label_accuracy));
        cJSON_AddItemToObject(object, "label_f1", cli_json_double(r->label_f1));
        cJSON_AddItemToObject(object, "concept_accuracy", cli_json_double(r->concept_accuracy));
        cJSON_AddItemToObject(object, "concept_f1", cli_json_double(r->concept_f1));
        if (t->options.prune.method != CBM_PRUNE_NONE) {
            cJSON_AddItemToObject(object, "sparsity", cli_json_double(r->sparsity));
            cJSON_AddItemToObject(object, "magnitude_overlap", r->magnitude_overlap < 0 ? cJSON_CreateNull() : cli_json_double(r->magnitude_overlap));
        }
        cJSON_AddItemToObject(object, "score", cli_json_double(r->score));
        cJSON_AddBoolToObject(object, "best", r->is_best != 0);
        cli_json_print(object);
    } else {
        printf("epoch %2d/%d  %6.1f s  loss %.4f, validation %.4f  label %.1f %% (F1 %.1f)", r->epoch, r->epochs, r->seconds,
               r->train_loss, r->valid_loss, 100 * r->label_accuracy, 100 * r->label_f1);
        if (t->columns.n_concepts) printf("  concepts %.1f %% (F1 %.1f)", 100 * r->concept_accuracy, 100 * r->concept_f1);
        if (r->sparsity > 0) printf("  %.0f %% zeros", 100 * r->sparsity);
        printf("%s\n", r->is_best ? "  best so far" : "");
    }
    fflush(stdout);
}

/* How many of the `n` classes there are: "Negative 120, Positive 98". */
static void print_classes(const char *what, const cbm_classes *classes, const int32_t *values, size_t n, size_t stride) {
    printf("  %-12s", what);
    for (size_t c = 0; c < classes->n; c++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++) count += values[i * stride] == (int32_t)c;
        printf("%s%s %zu", c ? ", " : " ", classes->name[c], count);
    }
    putchar('\n');
}

static void print_data(const train_command *t, const cbm_dataset *train, const cbm_dataset *valid) {
    printf("training on %zu texts", train->n);
    if (train->n_read > train->n) printf(" (%zu more with label \"%s\" are left out)", train->n_read - train->n, t->columns.drop_label);
    printf(", validation on %zu\n", valid->n);
    print_classes("label", &train->label_classes, train->label, train->n, 1);
    for (int k = 0; k < t->columns.n_concepts; k++)
        print_classes(t->columns.concepts[k].name, &train->concept_classes[k], train->concept_class + k, train->n,
                      (size_t)t->columns.n_concepts);
    fflush(stdout);
}

#define BY_DEFAULT (-1) /* the option was not given */
#define EPOCHS_AFTER_PRUNING 5

static void settle_pruning(train_command *t) {
    cbm_prune_options *p = &t->options.prune;
    p->method = (cbm_prune_method)t->prune;
    p->start = (int)t->prune_start;
    p->end = (int)t->prune_end;
    p->fisher_block = (int)t->fisher_block;
    p->fisher_batches = (int)t->fisher_batches;
    p->fisher_batch_size = (int)t->fisher_batch_size;
    p->fisher_memory = (size_t)t->fisher_memory << 20;
    p->score_rate = (float)t->score_rate;
    if (t->damping_absolute > 0) {
        p->damping = t->damping_absolute;
        p->damping_absolute = 1;
    }
    if (t->initial_sparsity >= 0) p->initial_sparsity = t->initial_sparsity;
    else if (p->initial_sparsity > p->sparsity) p->initial_sparsity = p->sparsity;
    if (t->epochs == BY_DEFAULT) t->epochs = p->method ? p->end + EPOCHS_AFTER_PRUNING : t->options.epochs;
}

/* Moves the parsed options to where the library takes them from. */
static void settle_options(train_command *t, scbm_hooks *hooks) {
    static const cbm_mode modes[] = {CBM_VANILLA, CBM_INDEPENDENT, CBM_SEQUENTIAL, CBM_JOINT};
    cbm_train_options *o = &t->options;
    o->mode = modes[t->mode];
    settle_pruning(t);
    o->concept_loss = t->concept_loss ? CBM_LOSS_SIGMOID : CBM_LOSS_PLAIN;
    o->epochs = (int)t->epochs;
    o->batch_size = (int)t->batch;
    o->patience = (int)t->patience;
    o->max_tokens = (int)t->max_length;
    o->seed = (uint64_t)t->seed;
    o->encoder_rate = (float)t->encoder_rate;
    o->head_rate = (float)t->head_rate;
    o->weight_decay = (float)t->weight_decay;
    o->warmup = (float)t->warmup;
    o->clip_norm = (float)t->clip;
    o->concept_weight = (float)t->lambda;
    o->dropout = (float)t->dropout;
    o->mixup = (float)t->mixup;
    o->teacher_weight = (float)t->teacher_weight;
    o->temperature = (float)t->temperature;
    o->on_epoch = print_epoch;
    o->user = t;
    o->hooks = hooks;
}

static void default_options(train_command *t) {
    const cbm_train_options *o = &t->options;
    cbm_train_defaults(&t->options);
    t->mode = o->mode == CBM_VANILLA ? 0 : o->mode == CBM_INDEPENDENT ? 1 : o->mode == CBM_SEQUENTIAL ? 2 : 3;
    t->concept_loss = o->concept_loss == CBM_LOSS_SIGMOID;
    t->epochs = BY_DEFAULT;
    t->initial_sparsity = BY_DEFAULT;
    t->prune = (int)o->prune.method;
    t->prune_start = o->prune.start;
    t->prune_end = o->prune.end;
    t->fisher_block = o->prune.fisher_block;
    t->fisher_batches = o->prune.fisher_batches;
    t->fisher_batch_size = o->prune.fisher_batch_size;
    t->score_rate = (double)o->prune.score_rate;
    t->batch = o->batch_size;
    t->patience = o->patience;
    t->max_length = o->max_tokens;
    t->seed = (int64_t)o->seed;
    t->encoder_rate = (double)o->encoder_rate;
    t->head_rate = (double)o->head_rate;
    t->weight_decay = (double)o->weight_decay;
    t->warmup = (double)o->warmup;
    t->clip = (double)o->clip_norm;
    t->lambda = (double)o->concept_weight;
    t->dropout = (double)o->dropout;
    t->mixup = (double)o->mixup;
    t->teacher_weight = (double)o->teacher_weight;
    t->temperature = (double)o->temperature;
}

/* Pruning must be over before training is. */
static int check_schedule(const train_command *t) {
    if (!t->prune) return CLI_GO_ON;
    if (t->prune_start > t->prune_end)
        return cli_misuse(t->command, "--prune-start %d comes after --prune-end %d", (int)t->prune_start,
                          (int)t->prune_end);
    if (t->epochs != BY_DEFAULT && t->epochs < t->prune_end)
        return cli_misuse(
            t->command,
            "--epochs %d end before the last pruning, in epoch %d: lower --prune-end, or train for more --epochs",
            (int)t->epochs, (int)t->prune_end);
    return CLI_GO_ON;
}

static int check_usage(train_command *t) {
    const cli_command *command = t->command;
    if (!t->model_path) return cli_misuse(command, "--model FILE is required: the encoder to start from");
    if (!t->data.n) return cli_misuse(command, "--data FILE is required: what to train on");
    if (!t->valid.n) return cli_misuse(command, "--valid FILE is required: the best epoch is chosen on it");
    if (!t->options.output) return cli_misuse(command, "-o FILE is required: where the model goes");
    int status = cli_columns_from_options(command, &t->columns);
    if (status != CLI_GO_ON) return status;
    if (t->mode == 0 && t->columns.n_concepts)
        return cli_misuse(command, "--mode vanilla has no concepts: leave --concept out, or choose another mode");
    if (t->mode != 0 && !t->columns.n_concepts)
        return cli_misuse(command, "--concept NAME=COLUMN is required (or --mode vanilla, which has no concepts)");
    return check_schedule(t);
}

/* Names the checkpoint as the library does, and keeps other runs from it. */
static int secure_output(train_command *t, const cli_option *options) {
    const char *output = t->options.output;
    size_t size = strlen(output) + sizeof ".checkpoint";
    t->checkpoint_path = malloc(size);
    if (!t->checkpoint_path) return cli_fail(t->command, "out of memory");
    snprintf(t->checkpoint_path, size, "%s.checkpoint", output);
    int status = cli_check_output(t->command, options, "-o's checkpoint", t->checkpoint_path);
    return status == CLI_GO_ON ? cli_lock_output(t->command, &t->lock, output) : status;
}

/* Writes into the trained model which columns it was trained on. */
static scbm_status note_columns(const train_command *t, const scbm_hooks *hooks) {
    scbm_file *file = NULL;
    scbm_writer *writer = NULL;
    scbm_status status = scbm_file_open(&file, t->options.output, hooks);
    if (status == SCBM_OK) status = scbm_writer_create(&writer, hooks);
    if (status == SCBM_OK) {
        scbm_writer_copy_keys(writer, file);
        cli_columns_note(&t->columns, writer);
        for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
            const scbm_tensor *tensor = scbm_file_tensor(file, i);
            scbm_writer_add_tensor(writer, tensor, tensor->type);
        }
        status = scbm_writer_write(writer, t->options.output);
    }
    scbm_writer_free(writer);
    scbm_file_close(file);
    return status;
}

static scbm_status train(train_command *t, const scbm_hooks *hooks) {
    cbm_model *encoder = NULL;
    cbm_dataset train_data, valid_data;
    cbm_load_options load = {.hooks = hooks};
    const char **names = calloc((size_t)t->columns.n_concepts + 1, sizeof *names);
    memset(&train_data, 0, sizeof train_data);
    memset(&valid_data, 0, sizeof valid_data);
    scbm_status status = names ? SCBM_OK : scbm_fail(SCBM_ERROR_MEMORY, "out of memory");
    for (int k = 0; names && k < t->columns.n_concepts; k++) names[k] = t->columns.concepts[k].name;
    if (status == SCBM_OK) status = cli_columns_read(&t->columns, &t->data, NULL, &train_data, hooks);
    if (status == SCBM_OK) status = cli_columns_read(&t->columns, &t->valid, &train_data, &valid_data, hooks);
    if (status == SCBM_OK) status = cbm_model_load(&encoder, t->model_path, &load);
    if (status == SCBM_OK) {
        if (!t->json) print_data(t, &train_data, &valid_data);
        status = cbm_train(encoder, &train_data, &valid_data, names, &t->options);
    }
    if (status == SCBM_OK) status = note_columns(t, hooks);
    cbm_model_free(encoder);
    cbm_dataset_clear(&valid_data);
    cbm_dataset_clear(&train_data);
    free((void *)names);
    return status;
}

static int finish(train_command *t, int status) {
    free((void *)t->data.item);
    free((void *)t->valid.item);
    free(t->checkpoint_path);
    cli_unlock_output(&t->lock);
    cli_columns_clear(&t->columns);
    return status;
}

/* A run that goes on from a checkpoint, or has written one, can be gone on from. */
static void say_how_to_go_on(const train_command *t) {
    int has_checkpoint = t->n_epochs > 0 || (t->options.resume && access(t->checkpoint_path, F_OK) == 0);
    if (has_checkpoint)
        fprintf(stderr, "sparsecbm train: the same command with --resume goes on after the last whole epoch\n");
    else fprintf(stderr, "sparsecbm train: the first epoch was not over, so there is nothing to resume\n");
}

static int run_train(const cli_command *command, int argc, char **argv) {
    train_command t;
    memset(&t, 0, sizeof t);
    t.command = command;
    default_options(&t);
    cbm_train_options *o = &t.options;
    const cli_option options[] = {
        CLI_READ_OPTION("model", &t.model_path, "the encoder to start from (required)"),
        CLI_READ_LIST_OPTION("data", &t.data,
                             "training data, CSV or JSONL (required); repeated files are put together"),
        CLI_READ_LIST_OPTION("valid", &t.valid, "validation data, by which the best epoch is chosen (required)"),
        CLI_OUTPUT_OPTION(&o->output,
                          "the model to write (required); the checkpoint stands beside it as FILE.checkpoint"),
        CLI_COLUMNS_OPTIONS(t.columns),
        CLI_CHOICE_OPTION("mode", "vanilla|independent|sequential|joint", &t.mode, "what is learned from what"),
        CLI_INT_OPTION(
            "epochs", "N", &t.epochs, 0, 100000,
            "passes over the training data (default 10, with --prune 5 after the last pruning); 0 only initializes"),
        CLI_INT_OPTION("batch", "N", &t.batch, 1, 65536, "texts in a step"),
        CLI_REAL_OPTION("encoder-rate", "X", &t.encoder_rate, 0, 10, "learning rate of the encoder"),
        CLI_REAL_OPTION("head-rate", "X", &t.head_rate, 0, 10, "learning rate of the concept and label heads"),
        CLI_REAL_OPTION("weight-decay", "X", &t.weight_decay, 0, 10, "decoupled weight decay of the matrices"),
        CLI_REAL_OPTION("warmup", "X", &t.warmup, 0, 1, "share of all steps in which the rate climbs"),
        CLI_REAL_OPTION("clip", "X", &t.clip, 0, 1e9, "the gradient's largest norm; 0: any"),
        CLI_REAL_OPTION("lambda", "X", &t.lambda, 0, 1e6, "weight of the concepts' loss beside the label's"),
        CLI_REAL_OPTION("dropout", "X", &t.dropout, -1, 0.99, "dropout; below 0: as the encoder's file says"),
        CLI_CHOICE_OPTION("concept-loss", "plain|sigmoid", &t.concept_loss,
                          "cross-entropy on logits, or on their sigmoid as released"),
        CLI_FLAG_OPTION("class-weights", &o->class_weights, "weigh classes by the inverse of their frequency"),
        CLI_REAL_OPTION("mixup", "A", &t.mixup, 0, 100, "concept-level MixUp with Beta(A, A); 0: off"),
        CLI_READ_OPTION("teacher", &o->teacher,
                        "a trained model with the same classes, whose probabilities are learned too (distillation)"),
        CLI_REAL_OPTION("teacher-weight", "X", &t.teacher_weight, 0, 1e6,
                        "weight of that loss beside that of the gold classes"),
        CLI_REAL_OPTION("temperature", "X", &t.temperature, 1e-3, 1e6,
                        "the teacher's probabilities and the logits are softened by it"),
        CLI_CHOICE_OPTION("prune", "none|obert|magnitude|popup|popup-structured|random", &t.prune,
                          "find a sparse subnetwork for each concept, by this score"),
        CLI_REAL_OPTION("sparsity", "X", &o->prune.sparsity, 0, 1,
                        "the share of zeros in each matrix of each subnetwork in the end"),
        CLI_REAL_OPTION("initial-sparsity", "X", &t.initial_sparsity, 0, 1,
                        "the share after the first pruning (default 0.2, or --sparsity where that is less)"),
        CLI_INT_OPTION("prune-start", "N", &t.prune_start, 1, 100000,
                       "the epoch (from 1) after which is pruned for the first time"),
        CLI_INT_OPTION("prune-end", "N", &t.prune_end, 1, 100000, "and for the last time"),
        CLI_INT_OPTION("fisher-block", "N", &t.fisher_block, 1, 1024, "obert: weights that are scored together"),
        CLI_INT_OPTION("fisher-batches", "N", &t.fisher_batches, 0, 1000000,
                       "obert: gradients; 0: four times the block"),
        CLI_INT_OPTION("fisher-batch", "N", &t.fisher_batch_size, 0, 65536,
                       "obert: texts of a gradient; 0: as in a step"),
        CLI_REAL_OPTION("damping", "X", &o->prune.damping, 0, 1e9,
                        "obert: the damping, as a share of a matrix's mean squared gradient"),
        CLI_REAL_OPTION("damping-absolute", "X", &t.damping_absolute, 0, 1e9,
                        "obert: the damping as it is (published: 1e-7)"),
        CLI_INT_OPTION(
            "fisher-memory", "MIB", &t.fisher_memory, 0, 100000000,
            "obert: memory for Fisher matrices; layers are scored in groups that fit, to the same masks; 0: up to 4096"),
        CLI_REAL_OPTION("score-rate", "X", &t.score_rate, 0, 100, "popup: learning rate of the scores"),
        CLI_FLAG_OPTION("freeze-weights", &o->prune.freeze_weights,
                        "popup: from the first pruning on only scores and heads learn"),
        CLI_FLAG_OPTION("refit-label", &o->refit_label,
                        "joint mode: fit the label head anew to the frozen concepts of each epoch"),
        CLI_INT_OPTION("patience", "N", &t.patience, 0, 100000, "stop after N epochs without a better one; 0: never"),
        CLI_INT_OPTION("max-length", "N", &t.max_length, 0, 1000000,
                       "cut texts after N tokens; 0: as many as the model reads"),
        CLI_INT_OPTION("seed", "N", &t.seed, 0, 9e15, "seed of everything random"),
        CLI_FLAG_OPTION("resume", &o->resume, "go on from the checkpoint of a run that was stopped, to the same bits"),
        CLI_READ_OPTION("init", &o->init, "a model with the same heads to start from, instead of new heads"),
        CLI_WRITE_OPTION("log-steps", &o->step_log, "write every step's loss and gradient norm (CSV)"),
        CLI_WRITE_OPTION("dump-order", &o->order_log, "write which rows each step used"),
        CLI_INT_OPTION("threads", "N", &t.threads, 0, 1024, "threads; 0: all cores. The result does not depend on it"),
        CLI_FLAG_OPTION("json", &t.json, "print one JSON object an epoch"),
        CLI_END_OPTIONS,
    };
    int status = cli_parse(command, options, argc, argv, NULL);
    if (status == CLI_GO_ON) status = check_usage(&t);
    cli_catch_interrupt();
    if (status == CLI_GO_ON) status = secure_output(&t, options);
    if (status != CLI_GO_ON) return finish(&t, status);
    scbm_hooks hooks = cli_hooks(&t.progress, command, t.threads);
    settle_options(&t, &hooks);
    scbm_status trained = train(&t, &hooks);
    cli_progress_clear(&t.progress);
    if (trained != SCBM_OK) {
        status = cli_fail_status(command, trained);
        if (status > CLI_SIGNAL) say_how_to_go_on(&t);
        return finish(&t, status);
    }
    if (!t.json && t.n_epochs) printf("wrote %s; %s can be deleted\n", o->output, t.checkpoint_path);
    else if (!t.json) printf("wrote %s\n", o->output);
    return finish(&t, cli_finish(command));
}

static const char *const train_examples[] = {
    "train --model demo/encoder.gguf --data demo/train.csv --valid demo/dev.csv --text review --label stars"
    " --concept food --concept service --concept noise --concept price --epochs 20 --encoder-rate 0.002 -o demo/trained.gguf",
    NULL};
const cli_command cmd_train = {
    "train",
    "train a concept bottleneck model on a CSV or JSONL file",
    "--model FILE --data FILE --valid FILE --text COLUMN --label COLUMN --concept NAME=COLUMN ... -o FILE [options]",
    "The best epoch by validation is kept. A run that was killed goes on with --resume and ends with the same bits as one\n"
    "that was not. Its state is in FILE.checkpoint (three times the size of the model), which stays when training is over, so\n"
    "that --resume then does nothing; delete it when the model is done. FILE.lock keeps a second run from the same files\n"
    "while this one lasts. Of a --model or --init with subnetworks the weights are taken, and not the masks.\n"
    "With --json, an epoch is {epoch, epochs, seconds, train_loss, valid_loss, label_accuracy, label_f1,\n"
    "concept_accuracy, concept_f1, score, best}.",
    train_examples,
    run_train};
