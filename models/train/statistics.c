/*
 * models/train/statistics.c - what a model file says of the concepts' values over the training data
 */
#include "models/base/tensor.h"
#include "models/core/keys.h"
#include "models/train/statistics.h"

#include <string.h>

static scbm_status create_tensor(scbm_tensor *tensor, const char *name, scbm_type type, int64_t rows, int64_t columns,
                                 const scbm_hooks *hooks) {
    const int64_t shape[2] = {rows, columns};
    return cbm_tensor_create(tensor, name, type, columns ? 2 : 1, shape, hooks);
}

scbm_status cbm_statistics_create(cbm_statistics *s, const cbm_heads *heads, const scbm_hooks *hooks) {
    memset(s, 0, sizeof *s);
    int64_t n = heads->n_classes;
    scbm_status status = create_tensor(&s->mean, CBM_CONCEPT_MEAN, SCBM_F32, n, 0, hooks);
    if (!status) status = create_tensor(&s->gold_means, CBM_GOLD_MEANS, SCBM_F32, n, heads->max_classes, hooks);
    if (!status) status = create_tensor(&s->gold_counts, CBM_GOLD_COUNTS, SCBM_I32, n, 0, hooks);
    if (status) cbm_statistics_clear(s, hooks);
    return status;
}

void cbm_statistics_clear(cbm_statistics *s, const scbm_hooks *hooks) {
    scbm_release(hooks, s->mean.data);
    scbm_release(hooks, s->gold_means.data);
    scbm_release(hooks, s->gold_counts.data);
    memset(s, 0, sizeof *s);
}

/* Adds one text's values to the sums: [C], then [C, max R] of its gold classes. */
static void add_text(const cbm_heads *heads, const float *values, const int32_t *gold, double *sums, int32_t *counts) {
    double *gold_sums = sums + heads->n_classes;
    for (int c = 0; c < heads->n_classes; c++) sums[c] += (double)values[c];
    for (int k = 0; k < heads->n_concepts; k++) {
        if (gold[k] < 0) continue;
        int first = heads->groups[k], n = heads->groups[k + 1] - first, row = first + gold[k];
        counts[row]++;
        for (int c = 0; c < n; c++)
            gold_sums[(size_t)row * (size_t)heads->max_classes + (size_t)c] += (double)values[first + c];
    }
}

scbm_status cbm_statistics_compute(cbm_statistics *s, const cbm_heads *heads, const cbm_dataset *data,
                                   const float *logits, const scbm_hooks *hooks) {
    size_t n_classes = (size_t)heads->n_classes, most = (size_t)heads->max_classes;
    float *mean = s->mean.data, *gold_means = s->gold_means.data;
    int32_t *counts = s->gold_counts.data;
    float *values = scbm_alloc_array(hooks, n_classes, sizeof *values);
    double *sums = scbm_alloc_array(hooks, n_classes * (1 + most), sizeof *sums);
    int has_memory = values && sums;
    memset(counts, 0, n_classes * sizeof *counts);
    for (size_t i = 0; i < data->n && has_memory; i++) {
        cbm_concept_values(heads, logits + i * n_classes, values);
        add_text(heads, values, data->concept_class + i * (size_t)heads->n_concepts, sums, counts);
    }
    for (size_t c = 0; c < n_classes && has_memory; c++) {
        mean[c] = data->n ? (float)(sums[c] / (double)data->n) : 0.0f;
        for (size_t j = 0; j < most; j++) {
            size_t at = c * most + j;
            gold_means[at] = counts[c] ? (float)(sums[n_classes + at] / counts[c]) : 0.0f;
        }
    }
    scbm_release(hooks, sums);
    scbm_release(hooks, values);
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}
