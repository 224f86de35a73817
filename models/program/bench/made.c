/*
 * models/program/bench/made.c - what is measured: the user's model and texts, or an encoder with random weights and
 * generated reviews
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/bench/bench.h"
#include "models/program/demo/demo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SYNTHETIC_TEXTS = 512 };

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

scbm_status bench_make_folder(bench_command *b) {
    static const char *const names[BENCH_FILES] = {
        [BENCH_ENCODER] = "encoder.gguf", [BENCH_MODEL] = "model.gguf",
        [BENCH_TRAINED] = "trained.gguf", [BENCH_CHECKPOINT] = "trained.gguf.checkpoint",
        [BENCH_DATA] = "data.csv",
    };
    const char *parent = getenv("TMPDIR");
    if (b->folder[0]) return SCBM_OK;
    if (!parent || !*parent || strlen(parent) > BENCH_PATH - 32) parent = "/tmp";
    snprintf(b->folder, sizeof b->folder, "%s/sparsecbm-XXXXXX", parent);
    if (!mkdtemp(b->folder)) {
        scbm_status status = scbm_fail(SCBM_ERROR_IO, "%s cannot be made: %s", b->folder, strerror(errno));
        b->folder[0] = 0;
        return status;
    }
    for (int i = 0; i < BENCH_FILES; i++) snprintf(b->path[i], sizeof b->path[i], "%s/%s", b->folder, names[i]);
    return SCBM_OK;
}

void bench_remove_folder(const bench_command *b) {
    if (!b->folder[0]) return;
    for (int i = 0; i < BENCH_FILES; i++) unlink(b->path[i]);
    rmdir(b->folder);
}

/* ------------------------------------------------------------------------------------------
 * Models and texts
 * ---------------------------------------------------------------------------------------- */

static int is_made(const bench_command *b, bench_file file) {
    return b->folder[0] && access(b->path[file], F_OK) == 0;
}

scbm_status bench_find_encoder(bench_command *b) {
    static const demo_shape shapes[] = {{384, 6, 12, 1536, 512}, {768, 12, 12, 3072, 512}};
    if (b->in.model_path) return SCBM_OK;
    scbm_status status = bench_make_folder(b);
    if (status != SCBM_OK) return status;
    b->in.model_path = b->path[BENCH_ENCODER];
    if (!b->in.json)
        printf("no --model: an encoder of %s's shape with random weights\n", b->shape ? "BERT-base" : "MiniLM");
    return demo_write_encoder(b->in.model_path, &shapes[b->shape], 1, 100, &b->in.hooks);
}

scbm_status bench_find_model(bench_command *b) {
    const char *path = b->output ? b->output : b->path[BENCH_MODEL];
    if (b->subnetworks && b->in.model_path == path) return SCBM_OK; /* made before */
    scbm_status status = bench_find_encoder(b);
    if (status == SCBM_OK && b->subnetworks) status = bench_make_folder(b);
    if (status != SCBM_OK || !b->subnetworks) return status;
    const char *encoder = b->in.model_path;
    b->in.model_path = path;
    if (!b->in.json) printf("%lld concepts, random masks, %g %% zeros\n", (long long)b->subnetworks, 100 * b->sparsity);
    const cbm_random_model_options options = {.n_concepts = (int)b->subnetworks,
                                              .sparsity = b->sparsity > 0 ? b->sparsity : -1,
                                              .seed = 1,
                                              .hooks = &b->in.hooks};
    return cbm_random_model_write(path, encoder, &options);
}

scbm_status bench_find_data(bench_command *b, int labels, cbm_dataset *data) {
    cli_columns columns = b->columns;
    const char *path = b->data;
    cli_list paths = {&path, 1};
    if (!b->data) {
        scbm_status status = bench_make_folder(b);
        if (status != SCBM_OK) return status;
        path = b->path[BENCH_DATA];
        columns.text = "review";
        if (!b->in.json && !is_made(b, BENCH_DATA)) printf("no --data: %d generated reviews\n", SYNTHETIC_TEXTS);
        status = demo_write_reviews(path, 1, 0, SYNTHETIC_TEXTS, &b->in.hooks);
        if (status != SCBM_OK) return status;
    }
    if (!labels) columns.label = NULL;
    if (!labels) columns.n_concepts = 0;
    return cli_columns_read(&columns, &paths, NULL, data, &b->in.hooks);
}

/* ------------------------------------------------------------------------------------------
 * A loaded model with its texts
 * ---------------------------------------------------------------------------------------- */

void bench_unload(bench_command *b) {
    scbm_release(&b->in.hooks, b->vectors);
    b->vectors = NULL;
    cbm_dataset_clear(&b->texts);
    memset(&b->texts, 0, sizeof b->texts);
    cli_session_close(&b->in);
}

scbm_status bench_answer(bench_command *b, size_t first, size_t n) {
    const char *const *texts = (const char *const *)b->texts.text + first;
    const size_t *lengths = b->texts.text_length + first;
    const cbm_prediction *const *predictions;
    if (cbm_model_mode(b->in.model) != CBM_ENCODER)
        return cbm_predict_batch(b->in.context, texts, lengths, n, &predictions);
    return cbm_embed_batch(b->in.context, texts, lengths, n, CBM_POOL_FILE, 0, b->vectors, NULL);
}

scbm_status bench_load(bench_command *b) {
    if (b->vectors) return SCBM_OK;
    scbm_status status = bench_find_model(b);
    if (status == SCBM_OK) status = bench_find_data(b, 0, &b->texts);
    if (status == SCBM_OK) status = cli_session_open(&b->in);
    if (status != SCBM_OK) return status;
    size_t size = (size_t)cbm_model_hidden_size(b->in.model);
    b->vectors = scbm_alloc_array(&b->in.hooks, b->texts.n * size, sizeof *b->vectors);
    return b->vectors ? bench_answer(b, 0, b->texts.n) : SCBM_ERROR_MEMORY;
}
