/*
 * models/prune/popup.c - subnetworks by learned scores (edge-popup; Ramanujan et al., CVPR 2020)
 */
#include "models/prune/prune.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int find_matrix(const cbm_popup *popup, const scbm_tensor *weight) {
    for (int i = 0; i < popup->n; i++)
        if (popup->parameter[i]->tensor == weight) return i;
    return -1;
}

/* ------------------------------------------------------------------------------------------
 * Making
 * ---------------------------------------------------------------------------------------- */

static scbm_status create_tensor(scbm_tensor *tensor, const char *prefix, const scbm_tensor *weight, int n_streams,
                                 const scbm_hooks *hooks) {
    const int64_t shape[3] = {n_streams, weight->shape[0], weight->shape[1]};
    char masks_name[SCBM_MAX_NAME], name[SCBM_MAX_NAME];
    cbm_masks_name(masks_name, weight);
    snprintf(name, sizeof name, "%s%.*s", prefix, (int)(sizeof name - strlen(prefix) - 1), masks_name);
    scbm_status status = n_streams ? scbm_tensor_init(tensor, name, SCBM_F32, 3, shape)
                                   : scbm_tensor_init(tensor, name, SCBM_F32, 2, shape + 1);
    if (status) return status;
    tensor->data = scbm_alloc_array(hooks, (size_t)scbm_tensor_elements(tensor), sizeof(float));
    return tensor->data ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* |w| over the matrix's root mean square, for every stream. */
static void start_scores(scbm_tensor *score, const scbm_tensor *weight) {
    const float *w = weight->data;
    float *values = score->data;
    int64_t n = scbm_tensor_elements(weight);
    double square = 0.0;
    for (int64_t i = 0; i < n; i++) square += (double)w[i] * (double)w[i];
    double scale = square > 0.0 ? sqrt((double)n / square) : 1.0;
    for (int64_t s = 0; s < score->shape[0]; s++)
        for (int64_t i = 0; i < n; i++) values[s * n + i] = (float)(fabs((double)w[i]) * scale);
}

static scbm_status create_matrices(cbm_popup *popup, cbm_backbone *backbone, const scbm_hooks *hooks) {
    size_t most = (size_t)backbone->n_parameters;
    int n_streams = cbm_masks_streams(backbone);
    popup->parameter = scbm_alloc_array(hooks, most, sizeof *popup->parameter);
    popup->score = scbm_alloc_array(hooks, most, sizeof *popup->score);
    popup->gradient = scbm_alloc_array(hooks, most, sizeof *popup->gradient);
    popup->weight_gradient = scbm_alloc_array(hooks, most, sizeof *popup->weight_gradient);
    popup->scores = scbm_alloc_array(hooks, most, sizeof *popup->scores);
    popup->gradients = scbm_alloc_array(hooks, most, sizeof *popup->gradients);
    if (!popup->parameter || !popup->score || !popup->gradient || !popup->weight_gradient || !popup->scores ||
        !popup->gradients)
        return SCBM_ERROR_MEMORY;
    for (int i = 0; i < backbone->n_parameters; i++) {
        cbm_parameter *parameter = &backbone->parameters[i];
        if (!cbm_is_prunable(parameter)) continue;
        int at = popup->n++;
        popup->parameter[at] = parameter;
        popup->scores[at] = &popup->score[at];
        popup->gradients[at] = &popup->gradient[at];
        scbm_status status = create_tensor(&popup->score[at], "score.", parameter->tensor, n_streams, hooks);
        if (!status) status = create_tensor(&popup->gradient[at], "grad.", parameter->tensor, n_streams, hooks);
        if (!status) status = create_tensor(&popup->weight_gradient[at], "grad.", parameter->tensor, 0, hooks);
        if (status) return status;
        start_scores(&popup->score[at], parameter->tensor);
    }
    return SCBM_OK;
}

scbm_status cbm_popup_create(cbm_popup *popup, cbm_network *network, scbm_context *context, int structured,
                             float rate) {
    const scbm_hooks *hooks = scbm_context_hooks(context);
    const scbm_adamw_options options = {0.9f, 0.999f, 1e-8f, 0.0f};
    memset(popup, 0, sizeof *popup);
    popup->context = context;
    popup->structured = structured;
    scbm_status status = create_matrices(popup, &network->backbone, hooks);
    float *rates = status ? NULL : scbm_alloc_array(hooks, 2 * (size_t)popup->n + 1, sizeof *rates);
    if (!status && !rates) status = SCBM_ERROR_MEMORY;
    for (int i = 0; i < popup->n && !status; i++) rates[i] = rate;
    if (!status)
        status = scbm_adamw_create(&popup->optimizer, context, popup->scores, popup->n, rates, rates + popup->n,
                                   &options);
    scbm_release(hooks, rates);
    if (status) cbm_popup_clear(popup);
    return status;
}

void cbm_popup_clear(cbm_popup *popup) {
    if (!popup->context) return;
    const scbm_hooks *hooks = scbm_context_hooks(popup->context);
    scbm_adamw_free(popup->optimizer);
    for (int i = 0; i < popup->n; i++) {
        scbm_release(hooks, popup->score[i].data);
        scbm_release(hooks, popup->gradient[i].data);
        scbm_release(hooks, popup->weight_gradient[i].data);
    }
    scbm_release(hooks, popup->parameter);
    scbm_release(hooks, popup->score);
    scbm_release(hooks, popup->gradient);
    scbm_release(hooks, popup->weight_gradient);
    scbm_release(hooks, popup->scores);
    scbm_release(hooks, popup->gradients);
    memset(popup, 0, sizeof *popup);
}

/* ------------------------------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------------------------- */

typedef struct gradient_run {
    const scbm_tensor *dense, *weight, *score, *masks;
    scbm_tensor *gradient, *weight_gradient;
} gradient_run;

static void gradient_task(void *arg, int64_t row, int worker) {
    const gradient_run *r = arg;
    int64_t in = r->weight->shape[1], n = r->weight->shape[0] * in;
    const float *w = (const float *)r->weight->data + row * in;
    float *dw = (float *)r->weight_gradient->data + row * in;
    (void)worker;
    memset(dw, 0, (size_t)in * sizeof *dw);
    for (int s = 0; s < (int)r->score->shape[0]; s++) {
        const float *dense = (const float *)r->dense->data + s * n + row * in;
        const float *score = (const float *)r->score->data + s * n + row * in;
        float *gradient = (float *)r->gradient->data + s * n + row * in;
        const uint8_t *bits = cbm_mask_row(r->masks, s, row);
        for (int64_t j = 0; j < in; j++) {
            gradient[j] = dense[j] * w[j] * (score[j] < 0.0f ? -1.0f : 1.0f);
            if (cbm_mask_get(bits, j)) dw[j] += dense[j];
        }
    }
}

scbm_status cbm_popup_gradient(void *user, const scbm_tensor *weight, const scbm_tensor *gradient) {
    cbm_popup *popup = user;
    int i = find_matrix(popup, weight);
    if (i < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "popup: %s has no scores", weight->name);
    gradient_run run = {gradient,
                        weight,
                        &popup->score[i],
                        popup->parameter[i]->masks,
                        &popup->gradient[i],
                        &popup->weight_gradient[i]};
    scbm_parallel(popup->context, weight->shape[0], gradient_task, &run);
    return SCBM_OK;
}

scbm_tensor *cbm_popup_weight_gradient(cbm_popup *popup, const scbm_tensor *weight) {
    int i = find_matrix(popup, weight);
    return i < 0 ? NULL : &popup->weight_gradient[i];
}

scbm_status cbm_popup_step(cbm_popup *popup, float rate) {
    return scbm_adamw_step(popup->optimizer, popup->gradients, rate, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Masks
 * ---------------------------------------------------------------------------------------- */

typedef struct popup_masks {
    cbm_popup *popup;
    double sparsity;
    int n_streams;
    int64_t largest;
    double **score; /* [workers] */
    uint64_t **keys;
} popup_masks;

/* Every weight of a row has the norm of the row's scores; whole rows go, as many as fit the sparsity best. */
static int64_t score_rows(const float *score, int64_t out, int64_t in, double sparsity, double *into) {
    for (int64_t row = 0; row < out; row++) {
        double square = 0.0;
        for (int64_t j = 0; j < in; j++) square += (double)score[row * in + j] * (double)score[row * in + j];
        for (int64_t j = 0; j < in; j++) into[row * in + j] = sqrt(square);
    }
    return cbm_prune_zeros(out, sparsity) * in;
}

static int64_t score_weights(const float *score, int64_t n, double sparsity, double *into) {
    for (int64_t i = 0; i < n; i++) into[i] = fabs((double)score[i]);
    return cbm_prune_zeros(n, sparsity);
}

static void masks_task(void *arg, int64_t index, int worker) {
    const popup_masks *r = arg;
    int matrix = (int)(index / r->n_streams), stream = (int)(index % r->n_streams);
    const cbm_parameter *parameter = r->popup->parameter[matrix];
    int64_t out = parameter->tensor->shape[0], in = parameter->tensor->shape[1];
    const float *score = (const float *)r->popup->score[matrix].data + stream * out * in;
    double *values = r->score[worker];
    int64_t zeros = r->popup->structured ? score_rows(score, out, in, r->sparsity, values)
                                         : score_weights(score, out * in, r->sparsity, values);
    cbm_mask_fill(parameter->masks, stream, in);
    cbm_prune_select(parameter->masks, stream, in, values, zeros, r->keys[worker]);
}

scbm_status cbm_popup_masks(cbm_popup *popup, double sparsity) {
    const scbm_hooks *hooks = scbm_context_hooks(popup->context);
    int workers = scbm_context_workers(popup->context);
    popup_masks run = {popup, sparsity, (int)popup->score[0].shape[0], 0, NULL, NULL};
    for (int i = 0; i < popup->n; i++) {
        int64_t n = scbm_tensor_elements(popup->parameter[i]->tensor);
        if (n > run.largest) run.largest = n;
    }
    run.score = scbm_alloc_array(hooks, (size_t)workers, sizeof *run.score);
    run.keys = scbm_alloc_array(hooks, (size_t)workers, sizeof *run.keys);
    scbm_status status = run.score && run.keys ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int i = 0; i < workers && !status; i++) {
        run.score[i] = scbm_alloc_array(hooks, (size_t)run.largest, sizeof **run.score);
        run.keys[i] = scbm_alloc_array(hooks, (size_t)run.largest, sizeof **run.keys);
        if (!run.score[i] || !run.keys[i]) status = SCBM_ERROR_MEMORY;
    }
    if (!status) scbm_parallel(popup->context, (int64_t)popup->n * run.n_streams, masks_task, &run);
    for (int i = 0; i < popup->n && !status; i++) popup->parameter[i]->masks->generation++;
    for (int i = 0; i < workers; i++) {
        if (run.score) scbm_release(hooks, run.score[i]);
        if (run.keys) scbm_release(hooks, run.keys[i]);
    }
    scbm_release(hooks, run.score);
    scbm_release(hooks, run.keys);
    return status;
}
