/*
 * tests/small-sparse.h - what the tests of subnetworks share: a small sparse model, and files with something changed
 */
#ifndef SMALL_SPARSE_H
#define SMALL_SPARSE_H

#include "tests/small-encoder.h"

#include "models/prune/prune.h"

/* Trains on texts 0 … n − 1 of the collection, pruned after the first epoch and the second, and writes `path`. */
static inline void small_train(const char *path, const char *encoder_path, cbm_mode mode, const char *method,
                               double sparsity, int epochs, size_t n) {
    cbm_train_options o = {0};
    cbm_dataset train, valid;
    cbm_model *encoder = load(encoder_path);
    o.mode = mode;
    o.epochs = epochs;
    o.learning_rate = 2e-3;
    o.head_learning_rate = 1e-2;
    o.prune.method = method;
    o.prune.sparsity = sparsity;
    o.prune.initial_sparsity = sparsity / 2;
    o.prune.start = 1;
    o.prune.end = 2;
    o.prune.fisher_block = 4;
    o.hooks = &one_thread;
    assert_ok(small_data(&train, 0, n));
    assert_ok(small_data(&valid, 1000, 40));
    assert_ok(cbm_train(encoder, &train, &valid, small_concepts, path, &o));
    cbm_model_free(encoder);
    cbm_dataset_clear(&train);
    cbm_dataset_clear(&valid);
}

/* Writes a model file again. `change` sees a copy of each tensor with data of its own (8 bytes longer than they need be),
 * and may change shape, type and data; what it returns 0 for is left out. Without heads it becomes a bare encoder. */
typedef int (*small_change)(void *user, scbm_tensor *tensor);

static inline scbm_status small_rewrite(const char *from, const char *to, small_change change, void *user) {
    scbm_file *file = NULL;
    scbm_writer *writer = NULL;
    scbm_status status = scbm_file_open(&file, from, NULL);
    if (!status) status = scbm_writer_create(&writer, NULL);
    int64_t n = status ? 0 : scbm_file_n_tensors(file);
    scbm_tensor *copies = scbm_alloc_array(NULL, (size_t)n + 1, sizeof *copies);
    if (!status && !copies) status = SCBM_ERROR_MEMORY;
    int has_heads = 0;
    if (!status) scbm_writer_copy_keys(writer, file);
    for (int64_t i = 0; i < n && !status; i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        size_t bytes = scbm_tensor_bytes(tensor);
        copies[i] = *tensor;
        copies[i].data = scbm_alloc(NULL, bytes + 8);
        if (!copies[i].data) status = SCBM_ERROR_MEMORY;
        else memcpy(copies[i].data, tensor->data, bytes);
        if (status || !change(user, &copies[i])) continue;
        has_heads |= strcmp(copies[i].name, CBM_LABEL_WEIGHT) == 0;
        scbm_writer_add_tensor(writer, &copies[i], copies[i].type);
    }
    if (!status && !has_heads) scbm_writer_remove_key(writer, CBM_KEY_MODE);
    if (!status) status = scbm_writer_write(writer, to);
    for (int64_t i = 0; i < n && copies; i++) scbm_release(NULL, copies[i].data);
    scbm_release(NULL, copies);
    scbm_writer_free(writer);
    scbm_file_close(file);
    return status;
}

/* Masks of a matrix [out, in] that keep nothing; free(masks.data). */
static inline scbm_tensor small_masks(int n, int64_t out, int64_t in) {
    const int64_t shape[3] = {n, out, scbm_mask_row_bytes(in)};
    scbm_tensor masks;
    assert_ok(scbm_tensor_init(&masks, "masks", SCBM_I8, 3, shape));
    masks.data = calloc(1, scbm_tensor_bytes(&masks));
    assert_non_null(masks.data);
    return masks;
}

static inline int small_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The number of weights, one by one. */
static inline int64_t small_count_kept(const scbm_tensor *masks, int stream, int64_t in) {
    int64_t kept = 0;
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        const uint8_t *bits = (const uint8_t *)masks->data + (stream * masks->shape[1] + row) * masks->shape[2];
        for (int64_t j = 0; j < in; j++) kept += bits[j / 8] >> (j % 8) & 1;
    }
    return kept;
}

#endif
