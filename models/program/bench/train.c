/*
 * models/program/bench/train.c - a training step of 16 texts, joint where there are concepts
 */
#include "models/program/bench/bench.h"

#include <stdio.h>
#include <string.h>

enum { TRAIN_TEXTS = 12 * BENCH_TRAIN_BATCH, MOST_EPOCHS = 20, MOST_TIMES = 100 };

typedef struct epoch_times {
    double seconds[MOST_TIMES];
    int n;
} epoch_times;

static void keep_time(void *user, const cbm_epoch_report *report) {
    epoch_times *times = user;
    if (times->n < MOST_TIMES) times->seconds[times->n++] = report->seconds;
}

/* The first epochs plan and, for subnetworks, prune to what is measured: they do not count. */
static int uncounted_epochs(const bench_command *b) {
    return b->sparsity > 0 ? 2 : 1;
}

static cbm_train_options train_options(bench_command *b, epoch_times *times) {
    cbm_train_options options = {
        .mode = b->columns.n_concepts ? CBM_JOINT : CBM_VANILLA,
        .epochs = (int)(b->repeats < MOST_EPOCHS ? b->repeats : MOST_EPOCHS) + uncounted_epochs(b),
        .batch_size = BENCH_TRAIN_BATCH,
        .precision = (scbm_precision)b->in.precision,
        .max_length = (int)b->in.max_length,
        .on_epoch = keep_time,
        .user = times,
        .hooks = &b->in.hooks,
        .backend = b->in.backend,
    };
    if (b->sparsity > 0) {
        options.prune.method = "random";
        options.prune.sparsity = options.prune.initial_sparsity = b->sparsity;
        options.prune.start = options.prune.end = 1;
    }
    return options;
}

/* Trains on the data's first texts, in whole batches. */
static scbm_status train(bench_command *b, const cbm_model *encoder, const char *const *names, cbm_dataset *data,
                         cbm_dataset *validation, epoch_times *times) {
    const size_t n = data->n, n_validation = validation->n, wanted = b->n_texts ? (size_t)b->n_texts : TRAIN_TEXTS;
    const cbm_train_options options = train_options(b, times);
    data->n = (n < wanted ? n : wanted) / BENCH_TRAIN_BATCH * BENCH_TRAIN_BATCH;
    validation->n = n_validation < BENCH_TRAIN_BATCH ? n_validation : BENCH_TRAIN_BATCH;
    scbm_status status = SCBM_OK;
    if (data->n == 0)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "bench train needs at least %d labelled texts", BENCH_TRAIN_BATCH);
    if (status == SCBM_OK) status = cbm_train(encoder, data, validation, names, b->path[BENCH_TRAINED], &options);
    for (int i = 0; status == SCBM_OK && i < times->n; i++)
        times->seconds[i] *= 1e3 / (double)(data->n / BENCH_TRAIN_BATCH);
    data->n = n;
    validation->n = n_validation;
    return status;
}

static scbm_status time_steps(bench_command *b, epoch_times *times) {
    const cbm_load_options load = {.hooks = &b->in.hooks};
    cbm_model *encoder = NULL;
    cbm_dataset data, validation;
    memset(&data, 0, sizeof data);
    memset(&validation, 0, sizeof validation);
    const char **names = scbm_alloc_array(&b->in.hooks, (size_t)b->columns.n_concepts, sizeof *names);
    scbm_status status = names ? bench_make_folder(b) : SCBM_ERROR_MEMORY;
    for (int k = 0; names && k < b->columns.n_concepts; k++) names[k] = b->columns.concepts[k].name;
    if (status == SCBM_OK) status = bench_find_encoder(b);
    if (status == SCBM_OK) status = bench_find_data(b, 1, &data);
    if (status == SCBM_OK) status = bench_find_data(b, 1, &validation);
    if (status == SCBM_OK) status = cbm_model_load(&encoder, b->in.model_path, &load);
    if (status == SCBM_OK) status = train(b, encoder, names, &data, &validation, times);
    cbm_model_free(encoder);
    cbm_dataset_clear(&validation);
    cbm_dataset_clear(&data);
    scbm_release(&b->in.hooks, names);
    return status;
}

static scbm_status print_step(const bench_command *b, double median, int n) {
    if (b->in.json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "ms_per_step", cli_json_double(median));
        cJSON_AddItemToObject(object, "batch", cli_json_int(BENCH_TRAIN_BATCH));
        cJSON_AddItemToObject(object, "concepts", cli_json_int(b->columns.n_concepts));
        if (b->sparsity > 0) cJSON_AddItemToObject(object, "sparsity", cli_json_double(b->sparsity));
        return bench_print_json(b, "train", object, -1);
    }
    printf("train%s: %.1f ms a step of %d texts, %d concepts (median of %d epochs)\n",
           b->sparsity > 0 ? ", sparse" : "", median, BENCH_TRAIN_BATCH, b->columns.n_concepts, n);
    bench_print_machine(b, -1);
    return SCBM_OK;
}

static scbm_status run(bench_command *b) {
    epoch_times times = {.n = 0};
    int first = uncounted_epochs(b);
    scbm_status status = time_steps(b, &times);
    if (status != SCBM_OK) return status;
    if (times.n <= first) return scbm_fail(SCBM_ERROR_ARGUMENT, "training ended after epoch %d", times.n);
    return print_step(b, bench_quantile(times.seconds + first, times.n - first, 0.5), times.n - first);
}

const bench_kind bench_train = {"train", "milliseconds for a training step of 16 texts", run, 1};
