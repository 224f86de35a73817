/*
 * models/program/cmd-train.c - train a concept bottleneck model on labelled texts
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* A model, or a checkpoint, that stands there cost hours. */
static int check_replaced(const train_command *t) {
    int has_model = exists(t->output), has_checkpoint = exists(t->checkpoint_path);
    if (t->force || (t->options.resume && has_checkpoint) || !(has_model || has_checkpoint)) return CLI_GO_ON;
    if (has_checkpoint)
        return cli_fail(
            t->command,
            "%.300s is there: --resume goes on with the run that wrote it, --force starts anew and replaces it",
            has_model ? t->output : t->checkpoint_path);
    return cli_fail(t->command, "%.300s is there, without a checkpoint to go on from: --force replaces it", t->output);
}

/* Names the checkpoint as the library does, and keeps other runs from it. */
static int secure_output(train_command *t) {
    size_t size = strlen(t->output) + sizeof ".checkpoint";
    t->checkpoint_path = malloc(size);
    if (!t->checkpoint_path) return cli_fail(t->command, "out of memory");
    snprintf(t->checkpoint_path, size, "%s.checkpoint", t->output);
    int status = cli_check_output(t->command, t->table, "-o's checkpoint", t->checkpoint_path);
    if (status == CLI_GO_ON) status = cli_lock_output(t->command, &t->lock, t->output);
    return status == CLI_GO_ON ? check_replaced(t) : status;
}

static scbm_status train(train_command *t, const scbm_hooks *hooks) {
    cbm_model *encoder = NULL;
    cbm_dataset train_data, valid_data;
    cbm_load_options load = {.hooks = hooks};
    const cbm_dataset_options columns = cli_columns_options(&t->columns, NULL);
    const char **names = calloc((size_t)t->columns.n_concepts + 1, sizeof *names);
    t->options.columns = &columns;
    memset(&train_data, 0, sizeof train_data);
    memset(&valid_data, 0, sizeof valid_data);
    scbm_status status = names ? SCBM_OK : scbm_fail(SCBM_ERROR_MEMORY, "out of memory");
    for (int k = 0; names && k < t->columns.n_concepts; k++) names[k] = t->columns.concepts[k].name;
    if (status == SCBM_OK) status = cbm_model_load(&encoder, t->encoder_path, &load);
    if (status == SCBM_OK) status = cli_columns_read(&t->columns, &t->data, NULL, &train_data, hooks);
    if (status == SCBM_OK) status = cli_columns_read(&t->columns, &t->validation, &train_data, &valid_data, hooks);
    if (status == SCBM_OK && t->save_config) status = train_save_config(t, encoder, hooks);
    if (status == SCBM_OK) {
        if (!t->json) train_print_data(t, &train_data, &valid_data);
        status = train_translate_error(cbm_train(encoder, &train_data, &valid_data, names, t->output, &t->options));
    }
    cbm_model_free(encoder);
    cbm_dataset_clear(&valid_data);
    cbm_dataset_clear(&train_data);
    free((void *)names);
    return status;
}

static int finish(train_command *t, int status) {
    free((void *)t->data.item);
    free((void *)t->validation.item);
    free(t->checkpoint_path);
    cli_unlock_output(&t->lock);
    cli_columns_clear(&t->columns);
    cJSON_Delete(t->config_values);
    free(t);
    return status;
}

/* A run that goes on from a checkpoint, or has written one, can be gone on from. */
static void say_how_to_go_on(const train_command *t) {
    int has_checkpoint = t->n_epochs > 0 || (t->options.resume && access(t->checkpoint_path, F_OK) == 0);
    if (has_checkpoint)
        fprintf(stderr, "sparsecbm train: the same command with --resume goes on after the last whole epoch\n");
    else fprintf(stderr, "sparsecbm train: the first epoch was not over, so there is nothing to resume\n");
}

/* The program's own options and the library's settings, group by group. */
static void make_options(train_command *t) {
    const cli_option data[] = {
        CLI_READ_LIST_OPTION("data", &t->data,
                             "training data, CSV or JSONL (required); repeated files are put together"),
        CLI_READ_LIST_OPTION("validation", &t->validation,
                             "validation data, by which the best epoch is chosen (required)"),
        CLI_COLUMNS_OPTIONS(t->columns),
        CLI_END_OPTIONS,
    };
    const cli_option model[] = {
        CLI_READ_OPTION("encoder", &t->encoder_path, "the encoder to train (required)"),
        CLI_END_OPTIONS,
    };
    const cli_option output[] = {
        CLI_OUTPUT_OPTION(&t->output,
                          "the model to write (required); the checkpoint stands beside it as FILE.checkpoint"),
        CLI_END_OPTIONS,
    };
    const cli_option run[] = {
        CLI_FLAG_OPTION("force", &t->force, "start anew where a model or a checkpoint stands, and replace it"),
        CLI_INT_OPTION("threads", "N", &t->threads, 0, 1024, "threads; 0: all cores. The result does not depend on it"),
        CLI_FLAG_OPTION("json", &t->json, "print one JSON object an epoch"),
        CLI_END_OPTIONS,
    };
    const cli_option files[] = {
        CLI_READ_OPTION("config", &t->config,
                        "read options from a JSON file: {\"lr\": 0.001, ...}; those of the command line win"),
        CLI_WRITE_OPTION("save-config", &t->save_config, "write such a file with all that has an effect in this run"),
        CLI_END_OPTIONS,
    };
    static const char *const groups[] = {"Optimization", "Losses", "Subnetworks", "Popup", "Teacher"};
    train_add_options(t, "Data", data);
    train_add_settings(t, "Data");
    train_add_options(t, "Model", model);
    train_add_settings(t, "Model");
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) train_add_settings(t, groups[i]);
    train_add_options(t, "Output", output);
    train_add_settings(t, "Output");
    train_add_settings(t, "Run");
    train_add_options(t, "Run", run);
    int first = t->n_options;
    train_add_options(t, "Run", files);
    for (int i = first; i < t->n_options; i++) t->table[i].given = NULL; /* a file cannot name another */
    train_add_settings(t, NULL);
}

static int check_usage(train_command *t) {
    const cli_command *command = t->command;
    if (!t->encoder_path) return cli_misuse(command, "--encoder FILE is required: the encoder to train");
    if (!t->data.n) return cli_misuse(command, "--data FILE is required: what to train on");
    if (!t->validation.n) return cli_misuse(command, "--validation FILE is required: the best epoch is chosen on it");
    if (!t->output) return cli_misuse(command, "-o FILE is required: where the model goes");
    if (t->force && t->options.resume)
        return cli_misuse(command, "--resume goes on and --force starts anew: give one of the two");
    int status = cli_columns_from_options(command, &t->columns);
    if (status == CLI_GO_ON) status = train_check_settings(t);
    if (status != CLI_GO_ON) return status;
    if (t->options.mode == CBM_VANILLA && t->columns.n_concepts)
        return cli_misuse(command, "--mode vanilla has no concepts: leave --concept out, or choose another mode");
    if (t->options.mode != CBM_VANILLA && !t->columns.n_concepts)
        return cli_misuse(command, "--concept NAME=COLUMN is required (or --mode vanilla, which has no concepts)");
    return CLI_GO_ON;
}

static int read_options(train_command *t, int argc, char **argv) {
    int status = cli_parse(t->command, t->table, argc, argv, NULL);
    if (status == CLI_GO_ON && t->config) status = cli_read_config(t->command, t->table, t->config, &t->config_values);
    if (status == CLI_GO_ON && t->config) status = cli_check_files(t->command, t->table);
    if (status != CLI_GO_ON) return status;
    train_take_settings(t);
    return check_usage(t);
}

static int run_train(const cli_command *command, int argc, char **argv) {
    train_command *t = calloc(1, sizeof *t);
    if (!t) return cli_fail(command, "out of memory");
    t->command = command;
    make_options(t);
    int status = read_options(t, argc, argv);
    cli_catch_interrupt();
    if (status == CLI_GO_ON) status = secure_output(t);
    if (status != CLI_GO_ON) return finish(t, status);
    scbm_hooks hooks = cli_hooks(&t->progress, command, t->threads);
    t->options.on_epoch = train_print_epoch;
    t->options.user = t;
    t->options.hooks = &hooks;
    scbm_status trained = train(t, &hooks);
    cli_progress_clear(&t->progress);
    if (trained != SCBM_OK) {
        status = cli_fail_status(command, trained);
        if (status > CLI_SIGNAL) say_how_to_go_on(t);
        return finish(t, status);
    }
    if (!t->json && t->n_epochs) printf("wrote %s; %s can be deleted\n", t->output, t->checkpoint_path);
    else if (!t->json) printf("wrote %s\n", t->output);
    return finish(t, cli_finish(command));
}

static const char *const train_examples[] = {
    "train --encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv --text review --label stars"
    " --concept food --concept service --concept noise --concept price --epochs 20 --lr 0.002 -o demo/trained.gguf",
    NULL};
const cli_command cmd_train = {
    "train",
    "train a concept bottleneck model on a CSV or JSONL file",
    "--encoder FILE --data FILE --validation FILE --text COLUMN --label COLUMN --concept NAME=COLUMN ... -o FILE [options]",
    "The best epoch by validation is kept. A run that was killed goes on with --resume and ends with the same bits as one\n"
    "that was not. Its state is in FILE.checkpoint (three times the size of the model), which stays when training is over, so\n"
    "that --resume then does nothing; delete it when the model is done. FILE.lock keeps a second run from the same files\n"
    "while this one lasts. Of an --encoder or --init with subnetworks the weights are taken, and not the masks.\n"
    "With --json, an epoch is {epoch, epochs, seconds, train_loss, valid_loss, label_accuracy, label_f1,\n"
    "concept_accuracy, concept_f1, score, best}.",
    train_examples,
    run_train};
