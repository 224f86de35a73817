/*
 * models/program/train/runs.c - the runs of `train`: one, or one a seed; their files and their data
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int train_exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* ------------------------------------------------------------------------------------------
 * Seeds and files
 * ---------------------------------------------------------------------------------------- */

static int read_seeds(train_command *t) {
    const char *text = t->seeds;
    if (!text) {
        t->n_runs = 1;
        return CLI_GO_ON;
    }
    for (; t->n_runs < TRAIN_MAX_SEEDS; text++) {
        char *end;
        long long seed = strtoll(text, &end, 10);
        if (end == text || *text < '0' || *text > '9' || (*end && *end != ',') || seed > 9000000000000000)
            return cli_misuse(t->command, "--seeds wants numbers with commas between them, got '%s'", t->seeds);
        for (int i = 0; i < t->n_runs; i++)
            if (t->run[i].seed == seed) return cli_misuse(t->command, "--seeds: %lld is there twice", seed);
        t->run[t->n_runs++].seed = seed;
        if (!*end) return CLI_GO_ON;
        text = end;
    }
    return cli_misuse(t->command, "--seeds: there are more than %d", TRAIN_MAX_SEEDS);
}

/* A path of a run, "model-7.gguf" of "model.gguf" with several seeds, and `suffix` behind it. NULL: out of memory. */
static char *name_file(const train_command *t, const train_run *run, const char *path, const char *suffix) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    size_t size = strlen(path) + strlen(suffix) + 32;
    size_t stem = dot && dot != path && dot[-1] != '/' ? (size_t)(dot - path) : strlen(path);
    char *name = malloc(size), seed[24] = "";
    if (t->seeds) snprintf(seed, sizeof seed, "-%lld", (long long)run->seed);
    if (name) snprintf(name, size, "%.*s%s%s%s", (int)stem, path, seed, path + stem, suffix);
    return name;
}

static int name_files(train_command *t, train_run *run) {
    const cbm_train_options *o = &t->options;
    int is_complete = 1;
    const struct {
        char **name;
        const char *path, *suffix;
    } files[] = {{&run->output, t->output, ""},
                 {&run->checkpoint, t->output, ".checkpoint"},
                 {&run->steps, o->step_log, ""},
                 {&run->order, o->order_log, ""},
                 {&run->page, t->html, ""},
                 {&run->encoder, train_is_from_scratch(t) ? t->output : NULL, ".encoder"},
                 {&run->epochs, o->epoch_log ? o->epoch_log : t->output, o->epoch_log ? "" : ".epochs.csv"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!files[i].path) continue;
        *files[i].name = name_file(t, run, files[i].path, files[i].suffix);
        is_complete = is_complete && *files[i].name;
    }
    return is_complete ? CLI_GO_ON : cli_fail(t->command, "out of memory");
}

/* A model, or a checkpoint, that stands there cost hours. */
static int check_replaced(const train_command *t, const train_run *run) {
    int has_model = train_exists(run->output), has_checkpoint = train_exists(run->checkpoint);
    if (t->force || (t->options.resume && has_checkpoint) || !(has_model || has_checkpoint)) return CLI_GO_ON;
    if (has_checkpoint)
        return cli_fail(
            t->command,
            "%.300s is there: --resume goes on with the run that wrote it, --force starts anew and replaces it",
            has_model ? run->output : run->checkpoint);
    return cli_fail(t->command, "%.300s is there, without a checkpoint to go on from: --force replaces it",
                    run->output);
}

/* No file of the run may be one that is read, and no other run may write the model. */
static int secure_files(train_command *t, train_run *run) {
    const struct {
        const char *what, *path;
        int is_named; /* by an option, which was checked */
    } files[] = {
        {"-o's checkpoint", run->checkpoint, 0}, {"-o's log of epochs", run->epochs, t->options.epoch_log && !t->seeds},
        {"-o", run->output, !t->seeds},          {"--log-steps", run->steps, !t->seeds},
        {"--dump-order", run->order, !t->seeds}, {"--html", run->page, !t->seeds},
        {"-o's encoder", run->encoder, 0}};
    int status = CLI_GO_ON;
    for (size_t i = 0; i < sizeof files / sizeof *files && status == CLI_GO_ON; i++)
        if (files[i].path && !files[i].is_named)
            status = cli_check_output(t->command, t->table, files[i].what, files[i].path);
    if (status == CLI_GO_ON) status = cli_lock_output(t->command, &run->lock, run->output);
    if (status == CLI_GO_ON) status = train_check_encoder(t, run);
    return status == CLI_GO_ON ? check_replaced(t, run) : status;
}

int train_plan_runs(train_command *t) {
    int status = read_seeds(t);
    for (int i = 0; i < t->n_runs && status == CLI_GO_ON; i++) {
        status = name_files(t, &t->run[i]);
        if (status == CLI_GO_ON) status = secure_files(t, &t->run[i]);
    }
    return status;
}

int train_plan_memory(train_command *t) {
    int status = read_seeds(t);
    t->n_runs = 1; /* all of them take the same */
    train_run *run = &t->run[0];
    if (status == CLI_GO_ON && t->output) status = name_files(t, run);
    if (status != CLI_GO_ON || !run->encoder) return status;
    status = cli_check_output(t->command, t->table, "-o's encoder", run->encoder); /* which is made, and goes again */
    if (status == CLI_GO_ON) status = train_check_encoder(t, run);
    return status == CLI_GO_ON ? cli_lock_output(t->command, &run->lock, run->output) : status;
}

void train_clear_runs(train_command *t) {
    for (int i = 0; i < t->n_runs; i++) {
        train_run *run = &t->run[i];
        char *const names[] = {run->output, run->checkpoint, run->steps,  run->order,
                               run->epochs, run->page,       run->encoder};
        for (size_t j = 0; j < sizeof names / sizeof *names; j++) free(names[j]);
        cli_unlock_output(&run->lock);
    }
}

/* ------------------------------------------------------------------------------------------
 * The work
 * ---------------------------------------------------------------------------------------- */

/* The first rows of a data set alone; the whole keeps the memory. */
static cbm_dataset limited(const cbm_dataset *data, int64_t limit) {
    cbm_dataset part = *data;
    if (limit && part.n > (size_t)limit) part.n = (size_t)limit;
    return part;
}

static void begin_run(void *user, const cbm_dataset *train, const cbm_dataset *validation) {
    train_command *t = user;
    t->validated = validation;
    train_print_data(t, train, validation);
}

static void end_run(void *user, const cbm_train_history *history) {
    train_command *t = user;
    if (history->best_epoch) t->current->best = history->epoch[history->best_epoch - 1];
    if (t->current->page) t->page_status = train_write_page(t, history);
}

static void say_wrote(const char *path, const char *no_longer_needed) {
    printf("wrote ");
    cli_print_name(path, 0);
    if (no_longer_needed) {
        printf("; ");
        cli_print_name(no_longer_needed, 0);
        printf(" can be deleted");
    }
    putchar('\n');
}

static scbm_status do_run(train_command *t, train_run *run, const cbm_model *encoder, const cbm_dataset *train,
                          const cbm_dataset *validation, const char *const *names) {
    const cbm_dataset_options columns = cli_columns_options(&t->columns, NULL);
    cbm_train_options o = t->options;
    if (t->seeds) o.seed = run->seed ? run->seed : -1;
    o.columns = &columns;
    o.step_log = run->steps;
    o.order_log = run->order;
    o.epoch_log = run->epochs;
    o.on_data = begin_run;
    o.on_memory = train_print_memory;
    o.on_epoch = train_print_epoch;
    o.on_end = end_run;
    o.user = t;
    o.hooks = &t->hooks;
    o.backend = t->backend;
    t->current = run;
    t->n_epochs = 0;
    t->page_status = SCBM_OK;
    if (t->seeds && !t->json) printf("%sseed %lld\n", run == t->run ? "" : "\n", (long long)run->seed);
    scbm_status status = train_translate_error(cbm_train(encoder, train, validation, names, run->output, &o));
    if (status == SCBM_OK) status = t->page_status;
    cli_progress_clear(&t->progress);
    if (status != SCBM_OK || t->json) return status;
    say_wrote(run->output, t->n_epochs ? run->checkpoint : NULL);
    if (run->page) say_wrote(run->page, NULL);
    return SCBM_OK;
}

/* What a run would take; where that is too much the status says so, when all is printed. */
static scbm_status say_memory(train_command *t, train_run *run, const cbm_model *encoder, const cbm_dataset *train,
                              const cbm_dataset *validation, const char *const *names) {
    cbm_train_options o = t->options;
    cbm_memory_plan plan;
    o.hooks = &t->hooks;
    o.backend = t->backend;
    scbm_status status = cbm_train_plan(encoder, train, validation, names, run->output, &o, &plan);
    cli_progress_clear(&t->progress);
    if (status != SCBM_OK) return train_translate_error(status);
    train_translate_advice(plan.advice, sizeof plan.advice);
    if (t->json) {
        cJSON *object = cJSON_CreateObject();
        cli_json_memory(object, &plan);
        status = cli_json_print(object);
    } else {
        cli_print_memory(&plan);
    }
    if (status == SCBM_OK && plan.bytes > plan.limit) status = scbm_fail(SCBM_ERROR_MEMORY, "%s", plan.advice);
    return status;
}

/* `encoder` NULL: each run has one of its own. */
static scbm_status do_all(train_command *t, const cbm_model *encoder, const cbm_dataset *data,
                          const cbm_dataset *validation_data) {
    const cbm_dataset train = limited(data, t->limit), validation = limited(validation_data, t->limit);
    const char **names = calloc((size_t)t->columns.n_concepts + 1, sizeof *names);
    scbm_status status = names ? SCBM_OK : scbm_fail(SCBM_ERROR_MEMORY, "out of memory");
    for (int k = 0; names && k < t->columns.n_concepts; k++) names[k] = t->columns.concepts[k].name;
    for (int i = 0; i < t->n_runs && status == SCBM_OK; i++) {
        train_run *run = &t->run[i];
        cbm_model *made = NULL;
        if (!encoder) status = train_make_encoder(t, run, &train, &made);
        if (status == SCBM_OK && i == 0 && t->save_config)
            status = train_save_config(t, encoder ? encoder : made, &t->hooks);
        if (status == SCBM_OK)
            status = (t->plan ? say_memory : do_run)(t, run, encoder ? encoder : made, &train,
                                                     t->validation.n ? &validation : NULL, names);
        if (!encoder) train_drop_encoder(run, made);
    }
    if (status == SCBM_OK && t->seeds && !t->plan) train_print_seeds(t);
    free((void *)names);
    return status;
}

/* The encoder comes first: a wrong path is told before large files are read. */
scbm_status train_do_runs(train_command *t) {
    const cbm_load_options load = {.hooks = &t->hooks};
    cbm_model *encoder = NULL;
    cbm_dataset train, validation;
    memset(&train, 0, sizeof train);
    memset(&validation, 0, sizeof validation);
    scbm_status status = train_is_from_scratch(t) ? SCBM_OK : cbm_model_load(&encoder, t->encoder_path, &load);
    if (status == SCBM_OK) status = cli_columns_read(&t->columns, &t->data, NULL, &train, &t->hooks);
    if (status == SCBM_OK && t->validation.n)
        status = cli_columns_read(&t->columns, &t->validation, &train, &validation, &t->hooks);
    t->n_left_out = train.n_dropped;
    if (status == SCBM_OK) status = do_all(t, encoder, &train, &validation);
    cbm_model_free(encoder);
    cbm_dataset_clear(&validation);
    cbm_dataset_clear(&train);
    return status;
}
