/*
 * models/explain/contributions.c - what each concept adds to each label's logit, and the label head itself
 */
#include "models/explain/explain.h"

#include <string.h>

scbm_status cbm_model_label_head(const cbm_model *model, const float **weight, const float **bias, const float **mean) {
    const cbm_heads *heads = &model->network.heads;
    if (weight) *weight = NULL;
    if (bias) *bias = NULL;
    if (mean) *mean = NULL;
    if (heads->mode == CBM_ENCODER)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is an encoder, which has no label head",
                         scbm_file_path(model->file));
    if (weight) *weight = heads->label_weight->data;
    if (bias) *bias = heads->label_bias->data;
    if (mean && model->concept_mean) *mean = model->concept_mean->data;
    return SCBM_OK;
}

int cbm_model_first_class(const cbm_model *model, int k) {
    const cbm_heads *heads = &model->network.heads;
    return k >= 0 && k <= heads->n_concepts && heads->groups ? heads->groups[k] : 0;
}

/* A context's last contributions, and what they point to. */
typedef struct label_contributions {
    cbm_contributions shown;
    double *numbers; /* raw and centred [K, Y], biases and logits [Y] */
} label_contributions;

static void free_contributions(cbm_context *ctx, void *state) {
    label_contributions *c = state;
    scbm_release(&ctx->hooks, c->numbers);
    scbm_release(&ctx->hooks, c);
}

static scbm_status find_contributions(cbm_context *ctx, label_contributions **found) {
    const scbm_hooks *hooks = &ctx->hooks;
    const cbm_heads *heads = &ctx->model->network.heads;
    const size_t n_labels = (size_t)heads->n_labels, cells = (size_t)heads->n_concepts * n_labels;
    *found = cbm_context_find_part(ctx, free_contributions);
    if (*found) return SCBM_OK;
    label_contributions *c = scbm_alloc(hooks, sizeof *c);
    if (!c) return SCBM_ERROR_MEMORY;
    c->numbers = scbm_alloc_array(hooks, 2 * cells + 3 * n_labels, sizeof *c->numbers);
    scbm_status status = c->numbers ? cbm_context_set_part(ctx, free_contributions, c) : SCBM_ERROR_MEMORY;
    if (status) {
        free_contributions(ctx, c);
        return status;
    }
    c->shown = (cbm_contributions){heads->n_concepts,
                                   heads->n_labels,
                                   c->numbers,
                                   c->numbers + 2 * cells,
                                   c->numbers + cells,
                                   c->numbers + 2 * cells + n_labels,
                                   c->numbers + 2 * cells + 2 * n_labels};
    *found = c;
    return SCBM_OK;
}

/* Of concept k to label y: `row` and `mean` are its columns of G_y and ū. */
static void add_contribution(double *raw, double *centred, double *bias, double *logit, const float *row,
                             const float *mean, const cbm_concept_result *result) {
    for (int c = 0; c < result->n_classes; c++) {
        double product = (double)row[c] * (double)result->values[c];
        *raw += product;
        *centred += (double)row[c] * ((double)result->values[c] - (double)mean[c]);
        *bias += (double)row[c] * (double)mean[c];
        *logit += product;
    }
}

static void fill_contributions(const cbm_model *model, const cbm_prediction *p, double *numbers) {
    const cbm_heads *heads = &model->network.heads;
    const size_t n_labels = (size_t)heads->n_labels, cells = (size_t)heads->n_concepts * n_labels;
    const float *weight = heads->label_weight->data, *bias = heads->label_bias->data, *mean = model->concept_mean->data;
    double *raw = numbers, *centred = raw + cells, *raw_bias = centred + cells, *centred_bias = raw_bias + n_labels,
           *logit = centred_bias + n_labels;
    memset(numbers, 0, (2 * cells + 3 * n_labels) * sizeof *numbers);
    for (size_t y = 0; y < n_labels; y++) {
        raw_bias[y] = centred_bias[y] = logit[y] = (double)bias[y];
        for (size_t k = 0; k < (size_t)heads->n_concepts; k++)
            add_contribution(&raw[k * n_labels + y], &centred[k * n_labels + y], &centred_bias[y], &logit[y],
                             weight + y * (size_t)heads->n_classes + heads->groups[k], mean + heads->groups[k],
                             &p->concepts[k]);
    }
}

scbm_status cbm_contributions_of(cbm_context *ctx, const cbm_prediction *prediction,
                                 const cbm_contributions **contributions) {
    label_contributions *found = NULL;
    *contributions = NULL;
    scbm_status status = cbm_check_concepts(ctx->model);
    if (!status && (!prediction || prediction->n_concepts != ctx->model->network.heads.n_concepts))
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "contributions are of a prediction by the context's model");
    if (!status) status = find_contributions(ctx, &found);
    if (!status) {
        fill_contributions(ctx->model, prediction, found->numbers);
        *contributions = &found->shown;
    }
    return cbm_context_result(ctx, status);
}
