/*
 * tests/test-memory.c - what training and converting need of memory: computed before, measured after, and refused with the
 * setting that makes it fit
 */
#define _DEFAULT_SOURCE

#include "models/base/memory.h"
#include "models/core/masks.h"
#include "tests/small-encoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEBIBYTE 1048576.0
enum { N_TRAIN = 32, N_VALID = 16 };

static cbm_dataset train_data, valid_data;
static cbm_model *encoder;

/* An encoder whose weights and activations are larger than the program: 7 MB of weights. */
static void write_encoder(const char *path) {
    const cbm_random_encoder_options options = {
        .hidden = 256, .blocks = 2, .heads = 4, .max_tokens = 64, .hooks = &one_thread};
    assert_ok(cbm_random_encoder_write(path, &options));
}

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_data(&train_data, 0, N_TRAIN));
    assert_ok(small_data(&valid_data, N_TRAIN, N_VALID));
    write_encoder(in_folder("encoder.gguf"));
    encoder = load_with(in_folder("encoder.gguf"), &one_thread);
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_dataset_clear(&train_data);
    cbm_dataset_clear(&valid_data);
    return remove_folder(state);
}

static int measures_are_its_own(void) {
    const char *sanitizers = getenv("SANITIZE");
    return cbm_resident_memory() > 0 && !(sanitizers && *sanitizers);
}

static scbm_status make_plan(const cbm_train_options *options, cbm_memory_plan *plan) {
    return cbm_train_plan(encoder, &train_data, &valid_data, small_concepts, NULL, options, plan);
}

static size_t part_of(const cbm_memory_plan *plan, const char *what) {
    for (int i = 0; i < plan->n_parts; i++)
        if (strcmp(plan->part[i].what, what) == 0) return plan->part[i].bytes;
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Training
 * ---------------------------------------------------------------------------------------- */

static void parts_add_up_and_depend_on_the_settings(void **state) {
    (void)state;
    cbm_memory_plan plain, smaller, frozen, summed;
    const cbm_train_options few = {.epochs = 1, .batch_size = 4}, half = {.epochs = 1, .freeze = "1"},
                            sums = {.epochs = 1, .batch_size = 4, .accumulate = 4};
    const cbm_train_options defaults = {.epochs = 1};
    assert_ok(make_plan(&defaults, &plain));
    assert_ok(make_plan(&few, &smaller));
    assert_ok(make_plan(&half, &frozen));
    assert_ok(make_plan(&sums, &summed));
    size_t sum = 0;
    for (int i = 0; i < plain.n_parts; i++) sum += plain.part[i].bytes;
    assert_true(sum == plain.bytes && plain.bytes < plain.limit && !plain.advice[0]);
    assert_string_equal(plain.when, "training");
    size_t weights = part_of(&plain, "weights");
    assert_true(weights > 6 * MEBIBYTE && part_of(&plain, "gradients") == weights);
    assert_true(part_of(&plain, "the optimizer") == 2 * weights);
    assert_true(part_of(&smaller, "activations") < part_of(&plain, "activations") / 2);
    assert_true(part_of(&frozen, "gradients") < 0.6 * (double)weights);
    assert_true(part_of(&summed, "sums of gradients") == weights && !part_of(&plain, "sums of gradients"));
}

static void what_pruning_and_a_teacher_take_is_a_part(void **state) {
    (void)state;
    cbm_memory_plan plan;
    cbm_train_options options = {.epochs = 3,
                                 .prune = {.method = "obert", .start = 1, .end = 2, .fisher_gradients = 2}};
    assert_ok(make_plan(&options, &plan));
    assert_string_equal(plan.when, "pruning");
    assert_true(part_of(&plan, "Fisher matrices") > 50 * MEBIBYTE && part_of(&plan, "new masks") > 0);
    options.prune.fisher_memory = (size_t)64 << 20;
    assert_ok(make_plan(&options, &plan));
    assert_true(part_of(&plan, "Fisher matrices") <= options.prune.fisher_memory);
    options.prune.method = "popup";
    assert_ok(make_plan(&options, &plan));
    assert_true(part_of(&plan, "learned scores") > 8 * 6 * MEBIBYTE);
    assert_int_equal(cbm_masks_streams(&encoder->network.backbone), 0);
    cbm_train_options short_run = {.epochs = -1};
    assert_ok(cbm_train(encoder, &train_data, &valid_data, small_concepts, in_folder("teacher.gguf"), &short_run));
    short_run = (cbm_train_options){.epochs = 1, .batch_size = 1, .teacher = in_folder("teacher.gguf")};
    assert_ok(make_plan(&short_run, &plan)); /* training takes more than asking it does */
    assert_string_equal(plan.when, "training");
}

/* What is too much is refused before anything is written; the advised settings fit, and train. */
static void too_much_is_refused_with_settings_that_fit(void **state) {
    (void)state;
    if (!measures_are_its_own()) skip();
    cbm_memory_plan plan;
    cbm_train_options options = {.epochs = 1};
    assert_ok(make_plan(&options, &plan));
    options.memory = plan.bytes - part_of(&plan, "activations") / 3;
    const char *path = in_folder("refused.gguf");
    assert_error(cbm_train(encoder, &train_data, &valid_data, small_concepts, path, &options), SCBM_ERROR_MEMORY,
                 "a batch_size of ");
    assert_false(exists(path));
    assert_ok(make_plan(&options, &plan));
    assert_true(plan.bytes > plan.limit && plan.limit == options.memory);
    int batch, accumulate;
    assert_int_equal(sscanf(plan.advice, "a batch_size of %d and an accumulate of %d takes", &batch, &accumulate), 2);
    assert_int_equal(batch * accumulate, 16);
    options.batch_size = batch;
    options.accumulate = accumulate;
    assert_ok(make_plan(&options, &plan));
    assert_true(plan.bytes <= plan.limit);
    assert_ok(cbm_train(encoder, &train_data, &valid_data, small_concepts, path, &options));
}

static void other_settings_are_advised_where_they_are_what_helps(void **state) {
    (void)state;
    if (!measures_are_its_own()) skip();
    cbm_memory_plan plan;
    cbm_train_options options = {
        .epochs = 2,
        .prune = {.method = "obert", .start = 1, .end = 1, .fisher_gradients = 2, .fisher_memory = (size_t)4 << 30}};
    assert_ok(make_plan(&options, &plan));
    options.memory = plan.bytes - part_of(&plan, "Fisher matrices") / 2;
    assert_ok(make_plan(&options, &plan));
    assert_non_null(strstr(plan.advice, "a fisher_memory of "));
    options = (cbm_train_options){.epochs = 1, .batch_size = 1};
    assert_ok(make_plan(&options, &plan));
    options.memory = plan.bytes - part_of(&plan, "gradients");
    assert_ok(make_plan(&options, &plan));
    assert_non_null(strstr(plan.advice, "a freeze of 1"));
    options.memory = (size_t)1 << 20;
    assert_ok(make_plan(&options, &plan));
    assert_non_null(strstr(plan.advice, "no setting makes it fit"));
    assert_error(cbm_train(encoder, &train_data, &valid_data, small_concepts, in_folder("n.gguf"), &options),
                 SCBM_ERROR_MEMORY, "no setting makes it fit");
}

/* ------------------------------------------------------------------------------------------
 * Measured
 * ---------------------------------------------------------------------------------------- */

/* Does `work` in a process of its own, which reports what it planned; returns that over the memory that it then had. */
static double planned_over_measured(scbm_status (*work)(const void *options, size_t *planned), const void *options) {
    int ends[2], status = 0;
    struct rusage used;
    size_t planned = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int is_done = work(options, &planned) == SCBM_OK && write(ends[1], &planned, sizeof planned) > 0;
        _exit(is_done ? 0 : 1);
    }
    close(ends[1]);
    assert_true(child > 0 && wait4(child, &status, 0, &used) == child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(read(ends[0], &planned, sizeof planned), sizeof planned);
    close(ends[0]);
    return (double)planned / (1024.0 * (double)used.ru_maxrss);
}

static scbm_status train_as_planned(const void *options, size_t *planned) {
    cbm_memory_plan plan;
    scbm_status status = make_plan(options, &plan);
    *planned = plan.bytes;
    if (status) return status;
    return cbm_train(encoder, &train_data, &valid_data, small_concepts, in_folder("measured.gguf"), options);
}

static void training_takes_what_was_planned(void **state) {
    (void)state;
    if (!measures_are_its_own()) skip();
    const cbm_train_options dense = {.epochs = 1},
                            sparse = {
                                .epochs = 2,
                                .batch_size = 4,
                                .prune = {
                                    .method = "obert", .start = 1, .end = 1, .fisher_gradients = 1, .fisher_block = 4}};
    double ratio = planned_over_measured(train_as_planned, &dense);
    if (ratio < 0.9 || ratio > 1.1) fail_msg("dense: planned / measured is %.3f", ratio);
    ratio = planned_over_measured(train_as_planned, &sparse);
    if (ratio < 0.9 || ratio > 1.1) fail_msg("sparse: planned / measured is %.3f", ratio);
}

/* ------------------------------------------------------------------------------------------
 * Converting
 * ---------------------------------------------------------------------------------------- */

static const char *folder_to_convert(void) {
    const char *folder = in_folder("hf");
    if (!exists(in_folder("hf/config.json"))) assert_ok(cbm_export(encoder, folder, NULL));
    return folder;
}

static scbm_status convert_as_planned(const void *options, size_t *planned) {
    cbm_conversion conversion;
    scbm_status status = cbm_convert(folder_to_convert(), in_folder("converted.gguf"), options, &conversion);
    *planned = conversion.memory.bytes;
    return status;
}

static void converting_takes_what_was_planned(void **state) {
    (void)state;
    if (!measures_are_its_own()) skip();
    const cbm_convert_options plain = {.hooks = &one_thread}, verified = {.verify = 1, .hooks = &one_thread};
    double ratio = planned_over_measured(convert_as_planned, &plain);
    if (ratio < 0.9 || ratio > 1.1) fail_msg("planned / measured is %.3f", ratio);
    ratio = planned_over_measured(convert_as_planned, &verified);
    if (ratio < 0.9 || ratio > 1.1) fail_msg("verified: planned / measured is %.3f", ratio);
}

static void a_conversion_that_is_too_large_is_refused(void **state) {
    (void)state;
    if (!measures_are_its_own()) skip();
    const char *folder = folder_to_convert(), *output = in_folder("too-large.gguf");
    cbm_conversion c;
    cbm_convert_options options = {.verify = 1, .hooks = &one_thread};
    assert_ok(cbm_convert(folder, output, &options, &c));
    assert_int_equal(remove(output), 0);
    options.memory = c.memory.bytes - (4 << 20);
    const char *words = strcmp(c.memory.when, "verifying") == 0 ? "without verifying it takes " : "are the least";
    assert_error(cbm_convert(folder, output, &options, &c), SCBM_ERROR_MEMORY, words);
    assert_false(exists(output));
    options.memory = 1 << 20;
    assert_error(cbm_convert(folder, output, &options, &c), SCBM_ERROR_MEMORY, "are the least");
    assert_true(c.memory.bytes > c.memory.limit && c.memory.advice[0]);
}

/* Memory that a test has released may stay the process's, and be taken again: what is measured comes first. */
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_takes_what_was_planned),
        cmocka_unit_test(converting_takes_what_was_planned),
        cmocka_unit_test(parts_add_up_and_depend_on_the_settings),
        cmocka_unit_test(what_pruning_and_a_teacher_take_is_a_part),
        cmocka_unit_test(too_much_is_refused_with_settings_that_fit),
        cmocka_unit_test(other_settings_are_advised_where_they_are_what_helps),
        cmocka_unit_test(a_conversion_that_is_too_large_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
