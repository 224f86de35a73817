/*
 * models/program/cmd-train.c - train a concept bottleneck model on labelled texts
 */
#include "models/program/train/train.h"

#include <stdio.h>
#include <stdlib.h>

static int finish(train_command *t, int status) {
    free((void *)t->data.item);
    free((void *)t->validation.item);
    train_clear_runs(t);
    cli_columns_clear(&t->columns);
    cJSON_Delete(t->config_values);
    scbm_backend_close(t->backend);
    free(t);
    return status;
}

/* A run that goes on from a checkpoint, or has written one, can be gone on from. */
static void say_how_to_go_on(const train_command *t) {
    const train_run *run = t->current ? t->current : t->run;
    int has_checkpoint = t->n_epochs > 0 || (t->options.resume && train_exists(run->checkpoint));
    if (has_checkpoint || run > t->run) /* runs before this one are over */
        fprintf(stderr, "sparsecbm train: the same command with --resume goes on after the last whole epoch\n");
    else fprintf(stderr, "sparsecbm train: the first epoch was not over, so there is nothing to resume\n");
}

/* How the program runs it, and files of options. */
static void add_run_options(train_command *t) {
    const cli_option run[] = {
        CLI_TEXT_OPTION(
            "seeds", "N,N,...", &t->seeds,
            "a run for each of these seeds, with files that have it in their names; then mean and deviation"),
        CLI_FLAG_OPTION("force", &t->force, "start anew where a model or a checkpoint stands, and replace it"),
        CLI_THREADS_OPTION(*t),
        CLI_DEVICE_OPTION(*t),
        CLI_FLAG_OPTION("plan", &t->plan, "print what the run would take of memory, and do not run it; -o may be left out but with --encoder bilstm"),
        CLI_FLAG_OPTION("json", &t->json, "print one JSON object an epoch"),
        CLI_END_OPTIONS,
    };
    const cli_option files[] = {
        CLI_READ_OPTION("config", &t->config,
                        "read options from a JSON file: {\"lr\": 0.001, ...}; those of the command line win"),
        CLI_WRITE_OPTION("save-config", &t->save_config, "write such a file with all that has an effect in this run"),
        CLI_END_OPTIONS,
    };
    train_add_options(t, "Run", run);
    int first = t->n_options;
    train_add_options(t, "Run", files);
    for (int i = first; i < t->n_options; i++) t->table[i].given = NULL; /* a file cannot name another */
}

/* The program's own options and the library's settings, group by group. */
static void make_options(train_command *t) {
    const cli_option data[] = {
        CLI_READ_LIST_OPTION("data", &t->data,
                             "training data, CSV or JSONL (required); repeated files are put together"),
        CLI_READ_LIST_OPTION("validation", &t->validation,
                             "validation data, by which the best epoch is chosen (required, or --validation-split)"),
        CLI_COLUMNS_OPTIONS(t->columns),
        CLI_INT_OPTION("limit", "N", &t->limit, 0, 2147483647,
                       "only the first N rows of each, to try something; 0: all"),
        CLI_END_OPTIONS,
    };
    const cli_option model[] = {
        CLI_READ_OPTION("encoder", &t->encoder_path,
                        "the encoder to train (required); bilstm: one that nobody has trained, of the data's words"),
        CLI_INT_OPTION("lstm-size", "N", &t->scratch.hidden, 0, 1 << 19,
                       "of a bilstm: states in each direction; 0: 128"),
        CLI_INT_OPTION("lstm-layers", "N", &t->scratch.blocks, 0, 4096, "of a bilstm: layers; 0: 1"),
        CLI_INT_OPTION(
            "word-size", "N", &t->scratch.width, 0, 1 << 20,
            "of a bilstm: numbers of a word; 0: 300, or with several layers as many as states of both directions"),
        CLI_INT_OPTION("vocabulary", "N", &t->scratch.words, 0, 16777216,
                       "of a bilstm: the most frequent words of the training data; 0: 30,000"),
        CLI_READ_OPTION("vectors", &t->scratch.vectors,
                        "of a bilstm: fastText's vectors (.vec or .bin) that its words begin with, and their size"),
        CLI_END_OPTIONS,
    };
    const cli_option output[] = {
        CLI_OUTPUT_OPTION(&t->output,
                          "the model to write (required); the checkpoint stands beside it as FILE.checkpoint"),
        CLI_WRITE_OPTION("html", &t->html,
                         "write a page on the run: curves, settings, measures of each class, confusion"),
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
    add_run_options(t);
    train_add_settings(t, NULL);
}

static int check_usage(train_command *t) {
    const cli_command *command = t->command;
    if (!t->encoder_path) return cli_misuse(command, "--encoder FILE is required: the encoder to train");
    if (!t->data.n) return cli_misuse(command, "--data FILE is required: what to train on");
    if (!t->validation.n && !train_is_given(t, "validation_split"))
        return cli_misuse(command,
                          "--validation FILE is required: the best epoch is chosen on it (or --validation-split 0.1: "
                          "on that part of the training data)");
    if (t->validation.n && train_is_given(t, "validation_split"))
        return cli_misuse(command, "--validation-split has no effect beside --validation FILE");
    if (!t->validation.n && t->columns.unseen)
        return cli_misuse(command, "--unseen has no effect without --validation FILE");
    if (t->seeds && train_is_given(t, "seed")) return cli_misuse(command, "--seed has no effect beside --seeds");
    if (t->plan && (t->html || t->save_config))
        return cli_misuse(command, "--plan writes nothing: leave %s out", t->html ? "--html" : "--save-config");
    if (!t->output && (!t->plan || train_is_from_scratch(t))) return cli_misuse(command, "-o FILE is required: where the model goes");
    if (t->options.resume_anyway) t->options.resume = 1;
    if (t->force && t->options.resume)
        return cli_misuse(command, "--resume goes on and --force starts anew: give one of the two");
    if (t->html && t->options.epochs < 0)
        return cli_misuse(command, "--html has no effect with --epochs 0: there is no epoch to show");
    int status = cli_columns_from_options(command, &t->columns);
    if (status == CLI_GO_ON) status = train_check_scratch(t);
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
    if (status == CLI_GO_ON) status = cli_open_device(command, t->device, &t->backend);
    if (status == CLI_GO_ON) status = t->plan ? train_plan_memory(t) : train_plan_runs(t);
    if (status != CLI_GO_ON) return finish(t, status);
    t->hooks = cli_hooks(&t->progress, command, t->threads);
    t->progress.main = "train"; /* what is left of the run, validation and pruning too */
    scbm_status trained = train_do_runs(t);
    cli_progress_clear(&t->progress);
    if (trained == SCBM_OK) return finish(t, cli_finish(command));
    status = cli_fail_status(command, trained);
    if (status > CLI_SIGNAL) say_how_to_go_on(t);
    return finish(t, status);
}

static const char *const train_examples[] = {
    "train --encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv --text review --label stars"
    " --concept food --concept service --concept noise --concept price --epochs 3 --batch-size 32 --lr 0.004 -o demo/trained.gguf",
    NULL};
const cli_command cmd_train = {
    "train",
    "train a concept bottleneck model on a CSV or JSONL file",
    "--encoder FILE --data FILE --validation FILE --text COLUMN --label COLUMN --concept NAME=COLUMN ... -o FILE [options]",
    "The best epoch by validation is kept. A run that was killed goes on with --resume and ends with the same bits as one\n"
    "that was not. Its state is in FILE.checkpoint (three times the size of the model), which stays when training is over, so\n"
    "that --resume then does nothing (--epochs 20 --resume-anyway trains on); delete it when the model is done. FILE.lock\n"
    "keeps a second run from the same files while this one lasts, FILE.epochs.csv has every epoch's measures, and --html\n"
    "writes a page of them. Of an --encoder or --init with subnetworks the weights are taken, and not the masks. A --config\n"
    "is one JSON object whose keys are these options, without dashes.\n"
    "With --json, an epoch is {epoch, epochs, seconds, train_loss, valid_loss, label_accuracy, label_f1,\n"
    "concept_accuracy, concept_f1, score, best}, with --prune also sparsity and magnitude_overlap, with --seeds also seed;\n"
    "and with --seeds the last line is {seeds, label_accuracy: {mean, deviation}, ...}. With --plan it is one object\n"
    "{memory: {bytes, limit, when, parts: {...}, fits, advice}}, and the exit status is 1 where it does not fit.",
    train_examples,
    run_train};
