/*
 * models/program/cmd-bench.c - how fast it is: the table of benchmarks, and the options that they share
 */
#include "models/program/bench/bench.h"
#include "models/program/demo/demo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * The benchmarks
 * ---------------------------------------------------------------------------------------- */

#define BENCHMARKS(ROW) ROW(linear) ROW(encoder) ROW(latency) ROW(train) ROW(start) ROW(model)
#define DECLARE(name) extern const bench_kind bench_##name;
#define ADDRESS(name) &bench_##name,
#define NAME(name) #name,

BENCHMARKS(DECLARE)
static const bench_kind *const kinds[] = {BENCHMARKS(ADDRESS)};
static const char *const names[] = {BENCHMARKS(NAME) NULL};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static const bench_kind *find_kind(const char *name) {
    for (int i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    return NULL;
}

/* Appends to `text` as far as it goes. */
static void add(char *text, size_t size, const char *more) {
    size_t length = strlen(text);
    snprintf(text + length, size - length, "%s", more);
}

/* "linear, encoder or latency", and the like with other words between. */
static const char *list_kinds(char *text, size_t size, const char *between, const char *last) {
    *text = 0;
    for (int i = 0; i < N_KINDS; i++) {
        if (i) add(text, size, i == N_KINDS - 1 ? last : between);
        add(text, size, kinds[i]->name);
    }
    return text;
}

/* Each benchmark on lines of its own, then `rest`. */
static void tell_kinds(char *text, size_t size, const char *rest) {
    *text = 0;
    for (int i = 0; i < N_KINDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%-10s", kinds[i]->name);
        add(text, size, name);
        for (const char *c = kinds[i]->summary; *c; c++) add(text, size, *c == '\n' ? "\n          " : (char[]){*c, 0});
        add(text, size, "\n");
    }
    add(text, size, rest);
}

/* ------------------------------------------------------------------------------------------
 * Usage
 * ---------------------------------------------------------------------------------------- */

static int check_kinds(const bench_command *b, const cli_list *rest, int *trains) {
    char all[128];
    *trains = 0;
    list_kinds(all, sizeof all, ", ", " or ");
    if (rest->n == 0) return cli_misuse(b->in.command, "say what to measure: %s", all);
    for (int i = 0; i < rest->n; i++) {
        const bench_kind *kind = find_kind(rest->item[i]);
        const char *nearest = kind ? NULL : cli_nearest(rest->item[i], names);
        if (!kind)
            return cli_misuse(b->in.command, "'%s' cannot be measured; %s%s", rest->item[i],
                              nearest ? "did you mean " : "try ", nearest ? nearest : all);
        *trains |= kind->is_of_training;
        if (kind->is_of_training && rest->n > 1) return cli_misuse(b->in.command, "%s is measured alone", kind->name);
    }
    return CLI_GO_ON;
}

/* Settles the subnetworks: 4, 70 % zeros, where one of the two options is given and not the other. */
static int check_subnetworks(bench_command *b, int trains) {
    if (trains && b->subnetworks)
        return cli_misuse(b->in.command,
                          "bench train --sparsity has a subnetwork for each --concept; leave out --subnetworks");
    if (trains) return CLI_GO_ON;
    if (!b->subnetworks && b->sparsity >= 0) b->subnetworks = 4;
    if (b->subnetworks && b->sparsity < 0) b->sparsity = 0.7;
    if (b->output && !b->subnetworks)
        return cli_misuse(b->in.command, "-o needs --subnetworks: there is no model to keep");
    return CLI_GO_ON;
}

/* The columns of generated reviews. */
static int take_columns_of_demo(bench_command *b) {
    const char **item = realloc(b->columns.concept.item, DEMO_CONCEPTS * sizeof *item);
    if (!item) return cli_fail(b->in.command, "out of memory");
    memcpy(item, demo_concepts, DEMO_CONCEPTS * sizeof *item);
    b->columns.concept.item = item;
    b->columns.concept.n = DEMO_CONCEPTS;
    b->columns.text = "review";
    b->columns.label = "stars";
    return CLI_GO_ON;
}

/* What only some of the benchmarks, or only made models and given data, heed. */
static int check_effect(const bench_command *b, const cli_option *options, const cli_list *rest, int trains) {
    int counts_texts = trains;
    for (int i = 0; i < rest->n; i++) counts_texts |= strcmp(rest->item[i], "latency") == 0;
    const cli_columns *c = &b->columns;
    int status = CLI_GO_ON;
    if (!b->data)
        status = cli_refuse(b->in.command, options, "without --data",
                            (const void *const[]){&c->text, &c->label, &c->concept, &c->drop_label, &c->ignore_label,
                                                  &c->unknown, &c->unknown_missing, &c->merge_classes, &c->unseen,
                                                  NULL});
    else if (!trains)
        status = cli_refuse(b->in.command, options, "but with train",
                            (const void *const[]){&c->label, &c->concept, &c->drop_label, &c->ignore_label, &c->unknown,
                                                  &c->unknown_missing, &c->merge_classes, &c->unseen, NULL});
    if (status == CLI_GO_ON && b->in.model_path)
        status = cli_refuse(b->in.command, options, "beside --model", (const void *const[]){&b->shape, NULL});
    if (status == CLI_GO_ON && !counts_texts)
        status = cli_refuse(b->in.command, options, "but with latency and train",
                            (const void *const[]){&b->n_texts, NULL});
    return status;
}

static int check_usage(bench_command *b, const cli_option *options, const cli_list *rest) {
    int trains, status = check_kinds(b, rest, &trains);
    if (status == CLI_GO_ON) status = check_effect(b, options, rest, trains);
    if (status == CLI_GO_ON) status = check_subnetworks(b, trains);
    if (status != CLI_GO_ON) return status;
    if (b->data && !b->columns.text)
        return cli_misuse(b->in.command, "--data needs --text COLUMN: which column holds the text?");
    if (b->data && trains && !b->columns.label)
        return cli_misuse(b->in.command, "bench train with --data needs --label COLUMN");
    if (!b->data && trains) status = take_columns_of_demo(b);
    return status == CLI_GO_ON && trains ? cli_columns_from_options(b->in.command, &b->columns) : status;
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

/* Learns the tier and the number of threads. */
static scbm_status look_at_machine(bench_command *b) {
    scbm_context *context;
    scbm_status status = scbm_context_create(&context, &b->in.hooks, b->in.backend);
    if (status != SCBM_OK) return status;
    const char *device = scbm_context_device(context), *open = strchr(device, '(');
    snprintf(b->tier, sizeof b->tier, "%s", open ? open + 1 : device);
    b->tier[strcspn(b->tier, ")")] = 0;
    b->workers = scbm_context_workers(context);
    scbm_context_free(context);
    return SCBM_OK;
}

static scbm_status run_kinds(bench_command *b, const cli_list *rest) {
    scbm_status status = look_at_machine(b);
    for (int i = 0; status == SCBM_OK && i < rest->n; i++) {
        status = find_kind(rest->item[i])->run(b);
        if (status == SCBM_OK) status = cli_flush();
    }
    bench_unload(b);
    bench_remove_folder(b);
    return status;
}

static int run_bench(const cli_command *command, int argc, char **argv) {
    char details[2048];
    cli_command told = *command;
    bench_command b;
    memset(&b, 0, sizeof b);
    b.repeats = 5;
    b.sparsity = -1;
    tell_kinds(details, sizeof details, command->details);
    told.details = details;
    const cli_option options[] = {
        CLI_GROUP_OF("Model"),
        CLI_READ_OPTION("model", &b.in.model_path, "the model; without it, an encoder with random weights"),
        CLI_CHOICE_OPTION("shape", "minilm|bert-base", &b.shape, "that encoder's shape"),
        CLI_INT_OPTION("subnetworks", "K", &b.subnetworks, 1, CBM_RANDOM_CONCEPTS,
                       "measure a concept bottleneck model on that encoder, with K concepts and random masks"),
        CLI_REAL_OPTION(
            "sparsity", "X", &b.sparsity, 0, 0.999,
            "the share of zeros in those masks (default 0.7; 0: no masks); with train, pruned to it at random"),
        CLI_OUTPUT_OPTION(&b.output, "keep that model in FILE"),
        CLI_GROUP_OF("Texts"),
        CLI_READ_OPTION("data", &b.data, "texts, CSV or JSONL; without it, generated reviews"),
        CLI_COLUMNS_OPTIONS(b.columns),
        CLI_GROUP_OF("Measuring"),
        CLI_INT_OPTION("repeats", "N", &b.repeats, 1, 1000, "measure N times and take the median"),
        CLI_INT_OPTION("texts", "N", &b.n_texts, 1, 10000,
                       "latency and train: the first N texts (default 200 and 192)"),
        CLI_RUN_OPTIONS(b.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_parse(&b.in, &told, options, argc, argv);
    if (status == CLI_GO_ON) status = check_usage(&b, options, &b.in.texts.argument);
    if (status == CLI_GO_ON) {
        b.in.hooks.progress = NULL; /* nothing but the work itself is measured */
        status = cli_fail_status(command, run_kinds(&b, &b.in.texts.argument));
    }
    cli_columns_clear(&b.columns);
    return cli_session_finish(&b.in, status);
}

static const char *const bench_examples[] = {
    "bench encoder latency --model demo/encoder.gguf --data demo/test.csv --text review",
    "bench latency --subnetworks 4 --sparsity 0.7 --texts 20", NULL};
const cli_command cmd_bench = {
    "bench",
    "measure speed and memory",
    "linear|encoder|latency|train|start|model ... [options]",
    "With --json, each line has bench, tier, threads and peak_mb (and subnetworks and sparsity, where there are) beside\n"
    "tokens, in, out and gflops; texts_per_s; ms_median and ms_p90; ms_per_step; or tensor_mb, masked_weights_mb and\n"
    "masks_mb.",
    bench_examples,
    run_bench};
