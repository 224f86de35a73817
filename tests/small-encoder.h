/*
 * tests/small-encoder.h - what the tests of models share: a small encoder file, labelled texts that it can learn,
 * and models that have
 *
 * Texts are of two concepts: taste ("tasty", "bland", or nothing said: 3 classes) and staff ("kind" or "rude": 2 classes).
 * The label is the sign of their sum: low, even, high.
 */
#ifndef SMALL_ENCODER_H
#define SMALL_ENCODER_H

#include "models/cbm-train.h"
#include "models/core/context.h"
#include "models/core/keys.h"
#include "models/core/model-file.h"
#include "models/train/checkpoint.h"
#include "models/train/graph.h"
#include "models/train/label-head.h"
#include "models/train/statistics.h"
#include "models/train/validation.h"
#include "tests/helpers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    SMALL_CONCEPTS = 2,
    SMALL_CLASSES = 5,
    SMALL_LABELS = 3,
    SMALL_LAYERS = 2,
    SMALL_HEADS = 2,
    SMALL_MAX_TOKENS = 24
};

static const char *const small_concepts[SMALL_CONCEPTS] = {"taste", "staff"};
static const char *const small_words[] = {"tasty",  "bland", "kind",    "rude", "the", "we",  "came", "there", "on",
                                          "monday", "with",  "friends", "and",  "it",  "was", "soup", "waiter"};
enum { SMALL_FILLERS = 4, SMALL_WORDS = sizeof small_words / sizeof small_words[0] }; /* fillers begin at "the" */

/* ------------------------------------------------------------------------------------------
 * The encoder
 * ---------------------------------------------------------------------------------------- */

typedef struct small_options {
    int hidden, pooling;    /* 0: 32 and 1 (mean) */
    int quiet_not_a_number; /* one weight of the first block is no number */
} small_options;

static inline void small_vocabulary(scbm_writer *writer) {
    static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    static const char *const keys[] = {"padding", "unknown", "cls", "seperator", "mask"};
    const char *tokens[5 + SMALL_WORDS];
    int64_t types[5 + SMALL_WORDS];
    char words[SMALL_WORDS][16], key[64];
    for (int i = 0; i < 5; i++) {
        tokens[i] = special[i];
        types[i] = 3;
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", keys[i]);
        scbm_writer_set_int(writer, key, SCBM_VALUE_U32, i);
    }
    for (int i = 0; i < SMALL_WORDS; i++) {
        snprintf(words[i], sizeof words[i], "\xE2\x96\x81%s", small_words[i]);
        tokens[5 + i] = words[i];
        types[5 + i] = 1;
    }
    scbm_writer_set_string(writer, "tokenizer.ggml.model", "bert");
    scbm_writer_set_strings(writer, "tokenizer.ggml.tokens", tokens, 5 + SMALL_WORDS);
    scbm_writer_set_ints(writer, "tokenizer.ggml.token_type", SCBM_VALUE_I32, types, 5 + SMALL_WORDS);
}

static inline void small_keys(scbm_writer *writer, int hidden, int pooling) {
    scbm_writer_set_string(writer, "general.architecture", "bert");
    scbm_writer_set_int(writer, "bert.context_length", SCBM_VALUE_U32, SMALL_MAX_TOKENS);
    scbm_writer_set_int(writer, "bert.embedding_length", SCBM_VALUE_U32, hidden);
    scbm_writer_set_int(writer, "bert.feed_forward_length", SCBM_VALUE_U32, 2 * hidden);
    scbm_writer_set_int(writer, "bert.block_count", SCBM_VALUE_U32, SMALL_LAYERS);
    scbm_writer_set_int(writer, "bert.attention.head_count", SCBM_VALUE_U32, SMALL_HEADS);
    scbm_writer_set_float(writer, "bert.attention.layer_norm_epsilon", SCBM_VALUE_F32, 1e-12);
    scbm_writer_set_int(writer, "bert.pooling_type", SCBM_VALUE_U32, pooling);
}

typedef struct small_tensors {
    scbm_tensor tensor[64];
    int n;
} small_tensors;

/* [rows, columns] of normal numbers, or (rows 0) a vector of `value`. */
static inline scbm_status small_tensor(small_tensors *t, const char *name, int64_t rows, int64_t columns, double spread,
                                       float value) {
    const int64_t shape[2] = {rows ? rows : columns, columns};
    scbm_tensor *tensor = &t->tensor[t->n++];
    scbm_status status = scbm_tensor_init(tensor, name, SCBM_F32, rows ? 2 : 1, shape);
    if (status) return status;
    int64_t n = scbm_tensor_elements(tensor);
    float *data = tensor->data = scbm_alloc_array(NULL, (size_t)n, sizeof *data);
    scbm_random random = {7, (uint64_t)t->n, 0};
    for (int64_t i = 0; data && i < n; i++) data[i] = rows ? (float)(spread * scbm_random_normal(&random)) : value;
    return data ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static inline scbm_status small_layer(small_tensors *t, int block, const char *part, int64_t rows, int64_t columns) {
    char name[SCBM_MAX_NAME];
    snprintf(name, sizeof name, "blk.%d.%s.weight", block, part);
    scbm_status status = small_tensor(t, name, rows, columns, 0.6 / sqrt((double)columns), 1);
    snprintf(name, sizeof name, "blk.%d.%s.bias", block, part);
    return status ? status : small_tensor(t, name, 0, rows ? rows : columns, 0, 0.01f);
}

static inline scbm_status small_weights(small_tensors *t, int hidden) {
    static const char *const square[] = {"attn_q", "attn_k", "attn_v", "attn_output"};
    scbm_status status = small_tensor(t, "token_embd.weight", 5 + SMALL_WORDS, hidden, 0.5, 0);
    if (!status) status = small_tensor(t, "position_embd.weight", SMALL_MAX_TOKENS, hidden, 0.1, 0);
    if (!status) status = small_tensor(t, "token_types.weight", 2, hidden, 0.1, 0);
    if (!status) status = small_tensor(t, "token_embd_norm.weight", 0, hidden, 0, 1);
    if (!status) status = small_tensor(t, "token_embd_norm.bias", 0, hidden, 0, 0);
    for (int block = 0; block < SMALL_LAYERS && !status; block++) {
        for (int i = 0; i < 4 && !status; i++) status = small_layer(t, block, square[i], hidden, hidden);
        if (!status) status = small_layer(t, block, "attn_output_norm", 0, hidden);
        if (!status) status = small_layer(t, block, "ffn_up", 2 * hidden, hidden);
        if (!status) status = small_layer(t, block, "ffn_down", hidden, 2 * hidden);
        if (!status) status = small_layer(t, block, "layer_output_norm", 0, hidden);
    }
    return status;
}

/* A BERT of two blocks with random weights. */
static inline scbm_status small_encoder(const char *path, const small_options *options) {
    static small_tensors t;
    scbm_writer *writer;
    int hidden = options && options->hidden ? options->hidden : 32;
    t.n = 0;
    scbm_status status = small_weights(&t, hidden);
    if (!status && options && options->quiet_not_a_number) ((float *)t.tensor[5].data)[3] = (float)NAN;
    if (!status) status = scbm_writer_create(&writer, NULL);
    if (!status) {
        small_keys(writer, hidden, options && options->pooling ? options->pooling : 1);
        small_vocabulary(writer);
        for (int i = 0; i < t.n; i++) scbm_writer_add_tensor(writer, &t.tensor[i], SCBM_F32);
        status = scbm_writer_write(writer, path);
        scbm_writer_free(writer);
    }
    for (int i = 0; i < t.n; i++) scbm_release(NULL, t.tensor[i].data);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Texts
 * ---------------------------------------------------------------------------------------- */

static inline void small_append(char *text, size_t size, const char *word) {
    size_t n = strlen(text);
    snprintf(text + n, size - n, "%s%s", n ? " " : "", word);
}

static inline void small_fillers(char *text, size_t size, scbm_random *random, uint64_t most) {
    for (uint64_t n = scbm_random_below(random, most); n > 0; n--)
        small_append(text, size, small_words[SMALL_FILLERS + scbm_random_below(random, SMALL_WORDS - SMALL_FILLERS)]);
}

/* Text `number` of the collection: its words, its classes and its label. */
static inline void small_text(char *text, size_t size, uint64_t number, int32_t classes[SMALL_CONCEPTS],
                              int32_t *label) {
    scbm_random random = {11, number, 0};
    int taste = (int)scbm_random_below(&random, 3), staff = (int)scbm_random_below(&random, 2);
    int sum = (taste == 1) - (taste == 0) + (staff == 0 ? 1 : -1);
    text[0] = 0;
    small_fillers(text, size, &random, 6);
    if (taste < 2) small_append(text, size, taste ? "tasty" : "bland");
    small_fillers(text, size, &random, 4);
    small_append(text, size, staff == 0 ? "kind" : "rude");
    small_fillers(text, size, &random, 3);
    classes[0] = taste; /* bland, tasty, unknown */
    classes[1] = staff; /* kind, rude */
    *label = sum < 0 ? 0 : sum == 0 ? 1 : 2;
}

/* Texts first … first + n - 1; free with cbm_dataset_clear. */
static inline scbm_status small_data(cbm_dataset *data, uint64_t first, size_t n) {
    static const char *labels[] = {"low", "even", "high"}, *taste[] = {"bland", "tasty", "unknown"},
                      *staff[] = {"kind", "rude"};
    static const cbm_classes label_classes = {labels, 3, NULL}, classes[] = {{taste, 3, NULL}, {staff, 2, NULL}};
    static const cbm_concept_column concepts[SMALL_CONCEPTS] = {{"taste", NULL}, {"staff", NULL}};
    const cbm_dataset_options options = {.concepts = concepts, .n_concepts = SMALL_CONCEPTS,
                                         .label_classes = &label_classes, .concept_classes = classes};
    char text[512];
    scbm_status status = cbm_dataset_begin(data, &options, NULL);
    for (size_t i = 0; i < n && !status; i++) {
        int32_t class[SMALL_CONCEPTS], label;
        small_text(text, sizeof text, first + i, class, &label);
        const char *values[SMALL_CONCEPTS] = {taste[class[0]], staff[class[1]]};
        status = cbm_dataset_add(data, text, strlen(text), labels[label], values);
    }
    return status ? status : cbm_dataset_finish(data);
}

/* ------------------------------------------------------------------------------------------
 * Models
 * ---------------------------------------------------------------------------------------- */

static const scbm_hooks one_thread = {.n_workers = 1};

static inline cbm_model *load_with(const char *path, const scbm_hooks *hooks) {
    const cbm_load_options options = {.hooks = hooks};
    cbm_model *model;
    assert_ok(cbm_model_load(&model, path, &options));
    return model;
}

static inline cbm_model *load(const char *path) {
    return load_with(path, &one_thread);
}

static inline cbm_context *context_for(const cbm_model *model) {
    cbm_context *ctx;
    assert_ok(cbm_context_create(&ctx, model, NULL));
    return ctx;
}

/* Two epochs on data that is cleared then; a sparsity above 0 prunes each matrix and concept to it at the end of the
 * first. */
static inline cbm_model *train_shortly(const cbm_model *encoder, cbm_dataset *train, cbm_dataset *valid,
                                       const char *const *concepts, cbm_mode mode, double sparsity, const char *path) {
    cbm_train_options o = {0};
    o.mode = mode;
    o.epochs = 2;
    o.learning_rate = 2e-3;
    o.head_learning_rate = 3e-2;
    o.hooks = &one_thread;
    o.prune.method = sparsity > 0 ? "random" : NULL;
    o.prune.sparsity = o.prune.initial_sparsity = sparsity;
    o.prune.start = o.prune.end = 1;
    assert_ok(cbm_train(encoder, train, valid, concepts, path, &o));
    cbm_dataset_clear(train);
    cbm_dataset_clear(valid);
    return load(path);
}

static inline cbm_model *small_model(const cbm_model *encoder, cbm_mode mode, double sparsity, const char *path) {
    cbm_dataset train, valid;
    assert_ok(small_data(&train, 0, 60));
    assert_ok(small_data(&valid, 500, 20));
    return train_shortly(encoder, &train, &valid, small_concepts, mode, sparsity, path);
}

/* What a run said of its epochs. */
typedef struct reports {
    cbm_epoch_report report[64];
    int n;
} reports;

static inline void keep_report(void *user, const cbm_epoch_report *report) {
    reports *r = user;
    r->report[r->n++] = *report;
}

/* Predictions by value; what they point to is the context's. */
static inline scbm_status predict_values(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                                        cbm_prediction *into) {
    const cbm_prediction *const *predictions;
    scbm_status status = cbm_predict_batch(ctx, texts, lengths, n, &predictions);
    memset(into, 0, n * sizeof *into);
    for (size_t i = 0; i < n && !status; i++) into[i] = *predictions[i];
    return status;
}

static inline scbm_status predict_value(cbm_context *ctx, const char *text, cbm_prediction *into) {
    return predict_values(ctx, &text, NULL, 1, into);
}

#endif
