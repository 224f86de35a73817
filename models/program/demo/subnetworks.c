/*
 * models/program/demo/subnetworks.c - concept bottleneck models with random masks and heads, to measure what subnetworks cost
 */
#include "models/core/keys.h"
#include "models/core/model-file.h"
#include "models/train/statistics.h"
#include "models/program/demo/demo.h"

#include <stdio.h>
#include <string.h>

enum { CLASSES = 3, LABELS = 5, NAME_SIZE = 24 };

typedef struct subnetworks {
    cbm_network network;
    cbm_statistics statistics;
    scbm_tensor head[4];
    char name[DEMO_MOST_SUBNETWORKS][NAME_SIZE];
    const scbm_hooks *hooks;
} subnetworks;

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): there are up to a billion bits
 * to draw, for which the library's generator is too slow. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

int64_t demo_draw_masks(const scbm_tensor *masks, int64_t in, double sparsity, uint64_t *state) {
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

static scbm_status draw_backbone(subnetworks *s, const cbm_model *encoder, int n, double sparsity, uint64_t seed) {
    cbm_backbone *backbone = &s->network.backbone;
    scbm_status status = cbm_backbone_copy(backbone, &encoder->network.backbone, s->hooks);
    if (!status && sparsity > 0) status = cbm_masks_create(backbone, n, s->hooks);
    for (int i = 0; i < backbone->n_parameters && !status; i++) {
        const cbm_parameter *parameter = &backbone->parameters[i];
        if (parameter->masks) demo_draw_masks(parameter->masks, parameter->tensor->shape[1], sparsity, &seed);
    }
    return status;
}

static scbm_status name_heads(subnetworks *s, int n) {
    static const char *const classes[CLASSES] = {"Negative", "Positive", "unknown"};
    static const char *const labels[LABELS] = {"1", "2", "3", "4", "5"};
    cbm_heads *heads = &s->network.heads;
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

static scbm_status draw_head(subnetworks *s, int which, const char *name, int64_t rows, int64_t columns, uint64_t seed,
                             scbm_tensor **made) {
    const int64_t shape[2] = {rows, columns};
    scbm_tensor *tensor = *made = &s->head[which];
    scbm_status status = scbm_tensor_init(tensor, name, SCBM_F32, columns ? 2 : 1, shape);
    if (status) return status;
    int64_t n = scbm_tensor_elements(tensor);
    float *data = tensor->data = scbm_alloc_array(s->hooks, (size_t)n, sizeof *data);
    if (!data) return SCBM_ERROR_MEMORY;
    scbm_random random = {seed, (uint64_t)which, 0};
    for (int64_t i = 0; i < n; i++) data[i] = (float)(0.1 * scbm_random_normal(&random));
    return SCBM_OK;
}

static scbm_status draw_heads(subnetworks *s, int n, uint64_t seed) {
    cbm_heads *heads = &s->network.heads;
    int64_t hidden = s->network.backbone.hidden, classes = (int64_t)n * CLASSES;
    scbm_status status = name_heads(s, n);
    if (!status) status = draw_head(s, 0, CBM_CONCEPT_WEIGHT, classes, hidden, seed, &heads->concept_weight);
    if (!status) status = draw_head(s, 1, CBM_CONCEPT_BIAS, classes, 0, seed, &heads->concept_bias);
    if (!status) status = draw_head(s, 2, CBM_LABEL_WEIGHT, LABELS, classes, seed, &heads->label_weight);
    if (!status) status = draw_head(s, 3, CBM_LABEL_BIAS, LABELS, 0, seed, &heads->label_bias);
    if (!status) status = cbm_statistics_create(&s->statistics, heads, s->hooks);
    return status;
}

static void clear(subnetworks *s) {
    for (int i = 0; i < 4; i++) scbm_release(s->hooks, s->head[i].data);
    cbm_statistics_clear(&s->statistics, s->hooks);
    cbm_heads_clear(&s->network.heads, s->hooks);
    cbm_backbone_clear(&s->network.backbone, s->hooks);
}

scbm_status demo_write_subnetworks(const char *path, const char *encoder_path, int n, double sparsity, uint64_t seed,
                                   const scbm_hooks *hooks) {
    const cbm_load_options options = {.hooks = hooks};
    cbm_model *encoder;
    if (n < 1 || n > DEMO_MOST_SUBNETWORKS)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d subnetworks; there can be 1 to %d", n, DEMO_MOST_SUBNETWORKS);
    scbm_status status = cbm_model_load(&encoder, encoder_path, &options);
    if (status) return status;
    subnetworks *s = scbm_alloc(hooks, sizeof *s);
    if (s) {
        s->hooks = hooks;
        status = draw_backbone(s, encoder, n, sparsity, seed);
        if (!status) status = draw_heads(s, n, seed);
        if (!status) status = cbm_write_model(path, encoder, &s->network, &s->statistics, NULL, 0, NULL, NULL);
        clear(s);
    } else {
        status = SCBM_ERROR_MEMORY;
    }
    scbm_release(hooks, s);
    cbm_model_free(encoder);
    return status;
}
