/*
 * convert/random-model.c - concept bottleneck models with random masks and heads, to measure what subnetworks cost
 */
#include "models/cbm-train.h"
#include "models/core/keys.h"
#include "models/core/model-file.h"

#include <stdio.h>
#include <string.h>

enum { CLASSES = 3, LABELS = 5, NAME_SIZE = 24, N_TENSORS = 7 };

typedef struct random_model {
    cbm_network network;
    cbm_statistics statistics;
    scbm_tensor tensor[N_TENSORS]; /* heads, and statistics of no training data */
    int n_tensors;
    char (*name)[NAME_SIZE];
    const scbm_hooks *hooks;
} random_model;

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): there are up to a billion bits
 * to draw, for which the library's generator is too slow. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

int64_t cbm_draw_masks(const scbm_tensor *masks, int64_t in, double sparsity, uint64_t *state) {
    const uint64_t zeros = (uint64_t)(sparsity * 65536 + 0.5);
    const int64_t row_bytes = masks->shape[2], n_rows = masks->shape[0] * masks->shape[1];
    int64_t n_kept = 0;
    for (int64_t row = 0; row < n_rows; row++) {
        uint8_t *bits = (uint8_t *)masks->data + row * row_bytes;
        uint64_t random = 0;
        memset(bits, 0, (size_t)row_bytes);
        for (int64_t j = 0; j < in; j++, random >>= 16) {
            if (j % 4 == 0) random = next_random(state);
            int kept = (random & 0xffff) >= zeros;
            bits[j >> 3] |= (uint8_t)(kept << (j & 7));
            n_kept += kept;
        }
    }
    return n_kept;
}

static scbm_status draw_backbone(random_model *s, const cbm_model *encoder, int n, double sparsity, uint64_t seed) {
    cbm_backbone *backbone = &s->network.backbone;
    scbm_status status = cbm_backbone_copy(backbone, &encoder->network.backbone, s->hooks);
    if (!status && sparsity > 0) status = cbm_masks_create(backbone, n, s->hooks);
    for (int i = 0; i < backbone->n_parameters && !status; i++) {
        const cbm_parameter *parameter = &backbone->parameters[i];
        if (parameter->masks) cbm_draw_masks(parameter->masks, parameter->tensor->shape[1], sparsity, &seed);
        status = scbm_cancelled(s->hooks);
    }
    return status;
}

static scbm_status name_heads(random_model *s, int n) {
    static const char *const classes[CLASSES] = {"Negative", "Positive", "unknown"};
    static const char *const labels[LABELS] = {"1", "2", "3", "4", "5"};
    cbm_heads *heads = &s->network.heads;
    s->name = scbm_alloc_array(s->hooks, (size_t)n, sizeof *s->name);
    if (!s->name) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_heads_create(heads, CBM_JOINT, n, n * CLASSES, LABELS, s->hooks);
    if (status) return status;
    for (int k = 0; k < n; k++) {
        snprintf(s->name[k], NAME_SIZE, "concept %d", k + 1);
        heads->concept_name[k] = s->name[k];
        heads->groups[k + 1] = (k + 1) * CLASSES;
        for (int c = 0; c < CLASSES; c++) heads->class_name[k * CLASSES + c] = classes[c];
    }
    for (int y = 0; y < LABELS; y++) heads->label_name[y] = labels[y];
    return cbm_heads_finish(heads);
}

/* A tensor of zeros that is freed with the model; `columns` 0: a vector. */
static scbm_tensor *make_tensor(random_model *s, const char *name, scbm_type type, int64_t rows, int64_t columns) {
    const int64_t shape[2] = {rows, columns};
    scbm_tensor *tensor = &s->tensor[s->n_tensors];
    if (scbm_tensor_init(tensor, name, type, columns ? 2 : 1, shape)) return NULL;
    tensor->data = scbm_alloc(s->hooks, scbm_tensor_bytes(tensor));
    if (!tensor->data) return NULL;
    s->n_tensors++;
    return tensor;
}

/* The same of normal numbers. */
static scbm_tensor *draw_tensor(random_model *s, const char *name, int64_t rows, int64_t columns, uint64_t seed) {
    scbm_random random = {seed, (uint64_t)s->n_tensors, 0};
    scbm_tensor *tensor = make_tensor(s, name, SCBM_F32, rows, columns);
    float *data = tensor ? tensor->data : NULL;
    for (int64_t i = 0; tensor && i < scbm_tensor_elements(tensor); i++)
        data[i] = (float)(0.1 * scbm_random_normal(&random));
    return tensor;
}

static scbm_status draw_heads(random_model *s, int n, uint64_t seed) {
    cbm_heads *heads = &s->network.heads;
    int64_t hidden = s->network.backbone.output, classes = (int64_t)n * CLASSES;
    scbm_status status = name_heads(s, n);
    if (status) return status;
    heads->concept_weight = draw_tensor(s, CBM_CONCEPT_WEIGHT, classes, hidden, seed);
    heads->concept_bias = draw_tensor(s, CBM_CONCEPT_BIAS, classes, 0, seed);
    heads->label_weight = draw_tensor(s, CBM_LABEL_WEIGHT, LABELS, classes, seed);
    heads->label_bias = draw_tensor(s, CBM_LABEL_BIAS, LABELS, 0, seed);
    const scbm_tensor *mean = make_tensor(s, CBM_CONCEPT_MEAN, SCBM_F32, classes, 0);
    const scbm_tensor *gold_means = make_tensor(s, CBM_GOLD_MEANS, SCBM_F32, classes, CLASSES);
    const scbm_tensor *gold_counts = make_tensor(s, CBM_GOLD_COUNTS, SCBM_I32, classes, 0);
    if (s->n_tensors < N_TENSORS) return SCBM_ERROR_MEMORY;
    s->statistics = (cbm_statistics){*mean, *gold_means, *gold_counts};
    return SCBM_OK;
}

static void clear(random_model *s) {
    for (int i = 0; i < s->n_tensors; i++) scbm_release(s->hooks, s->tensor[i].data);
    cbm_heads_clear(&s->network.heads, s->hooks);
    cbm_backbone_clear(&s->network.backbone, s->hooks);
    scbm_release(s->hooks, s->name);
}

static scbm_status create(random_model *s, const char *path, const char *encoder_path, int n, double sparsity,
                          uint64_t seed) {
    const cbm_load_options load = {.hooks = s->hooks};
    cbm_model *encoder;
    scbm_status status = cbm_model_load(&encoder, encoder_path, &load);
    if (status) return status;
    s->network.pooling = cbm_model_pooling(encoder);
    status = draw_backbone(s, encoder, n, sparsity, seed);
    if (!status) status = draw_heads(s, n, seed);
    if (!status) status = cbm_write_model(path, encoder, &s->network, &s->statistics, NULL, 0, NULL, NULL, s->hooks);
    cbm_model_free(encoder);
    return status;
}

scbm_status cbm_random_model_write(const char *path, const char *encoder_path,
                                   const cbm_random_model_options *options) {
    static const cbm_random_model_options defaults;
    const cbm_random_model_options *o = options ? options : &defaults;
    int n = o->n_concepts ? o->n_concepts : 4;
    double sparsity = o->sparsity == 0 ? 0.7 : o->sparsity < 0 ? 0 : o->sparsity;
    if (n < 1 || n > CBM_RANDOM_CONCEPTS)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d concepts; a random model has 1 to %d", n, CBM_RANDOM_CONCEPTS);
    if (!(sparsity < 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a random model's sparsity is %g; it is below 1", sparsity);
    scbm_status status = cbm_check_reserved(o->reserved, "cbm_random_model_options");
    if (status) return status;
    random_model s = {.hooks = o->hooks};
    status = create(&s, path, encoder_path, n, sparsity, o->seed);
    clear(&s);
    return status;
}
