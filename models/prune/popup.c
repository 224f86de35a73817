/*
 * models/prune/popup.c - subnetworks by learned scores (edge-popup; Ramanujan et al., CVPR 2020)
 */
#include "models/prune/popup.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Scores, gradients and two moments a concept, and the weights' own gradients. */
static void needs_popup(const cbm_prune_run *run, cbm_prune_needs *needs) {
    size_t tensors = 4 * (size_t)run->n_streams + !run->options->freeze_weights;
    for (int i = 0; i < run->n; i++) needs->bytes += tensors * scbm_tensor_bytes(run->weight[i]);
    needs->what = "learned scores";
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

static scbm_status create_arrays(const cbm_prune_run *run, cbm_popup *popup) {
    size_t n = (size_t)run->n;
    popup->score = scbm_alloc_array(run->hooks, n, sizeof *popup->score);
    popup->gradient = scbm_alloc_array(run->hooks, n, sizeof *popup->gradient);
    popup->scores = scbm_alloc_array(run->hooks, n, sizeof *popup->scores);
    popup->gradients = scbm_alloc_array(run->hooks, n, sizeof *popup->gradients);
    if (!run->options->freeze_weights)
        popup->weight_gradient = scbm_alloc_array(run->hooks, n, sizeof *popup->weight_gradient);
    int has_all = popup->score && popup->gradient && popup->scores && popup->gradients;
    return has_all && (popup->weight_gradient || run->options->freeze_weights) ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static scbm_status create_matrices(const cbm_prune_run *run, cbm_popup *popup) {
    scbm_status status = create_arrays(run, popup);
    for (int i = 0; i < run->n && !status; i++) {
        const scbm_tensor *weight = run->weight[i];
        popup->scores[i] = &popup->score[i];
        popup->gradients[i] = &popup->gradient[i];
        status = create_tensor(&popup->score[i], "score.", weight, run->n_streams, run->hooks);
        if (!status) status = create_tensor(&popup->gradient[i], "grad.", weight, run->n_streams, run->hooks);
        if (!status && popup->weight_gradient)
            status = create_tensor(&popup->weight_gradient[i], "grad.", weight, 0, run->hooks);
        if (!status) start_scores(&popup->score[i], weight);
    }
    return status;
}

/* The moments have names of their own in checkpoints. */
static void name_moments(const cbm_prune_run *run, cbm_popup *popup) {
    for (int i = 0; i < 2 * run->n; i++) {
        scbm_tensor *moment = scbm_adamw_moment(popup->optimizer, i / 2, i % 2);
        snprintf(moment->name, sizeof moment->name, "%c.%.*s", i % 2 ? 'v' : 'm', SCBM_MAX_NAME - 3,
                 popup->score[i / 2].name);
    }
}

static scbm_status create_optimizer(const cbm_prune_run *run, cbm_popup *popup, int64_t steps) {
    float *rates = scbm_alloc_array(run->hooks, 2 * (size_t)run->n, sizeof *rates); /* and decays, which are 0 */
    if (!rates) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < run->n; i++) rates[i] = (float)run->options->score_learning_rate;
    scbm_status status = scbm_adamw_create(&popup->optimizer, run->context, popup->scores, run->n, rates,
                                           rates + run->n, NULL);
    scbm_release(run->hooks, rates);
    if (status) return status;
    scbm_adamw_set_steps(popup->optimizer, steps);
    name_moments(run, popup);
    return SCBM_OK;
}

static scbm_status begin_popup(cbm_prune_run *run, int64_t steps) {
    cbm_popup *popup = scbm_alloc(run->hooks, sizeof *popup);
    if (!popup) return SCBM_ERROR_MEMORY;
    run->state = popup;
    scbm_status status = create_matrices(run, popup);
    return status ? status : create_optimizer(run, popup, steps);
}

static void end_popup(cbm_prune_run *run) {
    cbm_popup *popup = run->state;
    scbm_adamw_free(popup->optimizer);
    for (int i = 0; i < run->n; i++) {
        if (popup->score) scbm_release(run->hooks, popup->score[i].data);
        if (popup->gradient) scbm_release(run->hooks, popup->gradient[i].data);
        if (popup->weight_gradient) scbm_release(run->hooks, popup->weight_gradient[i].data);
    }
    scbm_release(run->hooks, popup->score);
    scbm_release(run->hooks, popup->gradient);
    scbm_release(run->hooks, popup->weight_gradient);
    scbm_release(run->hooks, popup->scores);
    scbm_release(run->hooks, popup->gradients);
    scbm_release(run->hooks, popup);
    run->state = NULL;
}

/* ------------------------------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------------------------- */

typedef struct gradient_run {
    const scbm_tensor *dense, *weight, *score, *masks;
    scbm_tensor *gradient, *weight_gradient; /* the latter NULL: not wanted */
    int adds;                                /* to the scores' gradient; the weights' is whoever trains's to add */
} gradient_run;

/* One row of a matrix, of all concepts. */
static void gradient_task(void *arg, int64_t row, int worker) {
    const gradient_run *r = arg;
    int64_t in = r->weight->shape[1], n = r->weight->shape[0] * in;
    const float *w = (const float *)r->weight->data + row * in;
    float *dw = r->weight_gradient ? (float *)r->weight_gradient->data + row * in : NULL;
    (void)worker;
    if (dw) memset(dw, 0, (size_t)in * sizeof *dw);
    for (int s = 0; s < (int)r->score->shape[0]; s++) {
        const float *dense = (const float *)r->dense->data + s * n + row * in;
        const float *score = (const float *)r->score->data + s * n + row * in;
        float *gradient = (float *)r->gradient->data + s * n + row * in;
        const uint8_t *bits = cbm_mask_row(r->masks, s, row);
        for (int64_t j = 0; j < in; j++) {
            float part = dense[j] * w[j] * (score[j] < 0.0f ? -1.0f : 1.0f);
            gradient[j] = r->adds ? gradient[j] + part : part;
        }
        for (int64_t j = 0; j < in && dw; j++)
            if (cbm_mask_get(bits, j)) dw[j] += dense[j];
    }
}

static scbm_status take_gradient(cbm_prune_run *run, int matrix, const scbm_tensor *gradient) {
    cbm_popup *popup = run->state;
    gradient_run task = {gradient,
                         run->weight[matrix],
                         &popup->score[matrix],
                         run->matrix[matrix]->masks,
                         &popup->gradient[matrix],
                         popup->weight_gradient ? &popup->weight_gradient[matrix] : NULL,
                         run->adds_gradients};
    scbm_parallel(run->context, run->weight[matrix]->shape[0], gradient_task, &task);
    return SCBM_OK;
}

static scbm_tensor *weight_gradient(const cbm_prune_run *run, int matrix) {
    const cbm_popup *popup = run->state;
    return popup && popup->weight_gradient ? &popup->weight_gradient[matrix] : NULL;
}

static scbm_status step_scores(cbm_prune_run *run, float rate) {
    cbm_popup *popup = run->state;
    return scbm_adamw_step(popup->optimizer, popup->gradients, rate, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Scores
 * ---------------------------------------------------------------------------------------- */

static const float *scores_of(const cbm_prune_run *run, int matrix, int stream) {
    const cbm_popup *popup = run->state;
    return (const float *)popup->score[matrix].data + stream * scbm_tensor_elements(run->weight[matrix]);
}

static void score_weights(const cbm_prune_run *run, int matrix, int stream, double *score, double *scratch) {
    const float *learned = scores_of(run, matrix, stream);
    (void)scratch;
    for (int64_t i = 0; i < scbm_tensor_elements(run->weight[matrix]); i++) score[i] = fabs((double)learned[i]);
}

/* Every weight of a row has the norm of the row's scores. */
static void score_rows(const cbm_prune_run *run, int matrix, int stream, double *score, double *scratch) {
    const float *learned = scores_of(run, matrix, stream);
    int64_t out = run->weight[matrix]->shape[0], in = run->weight[matrix]->shape[1];
    (void)scratch;
    for (int64_t row = 0; row < out; row++) {
        double square = 0.0;
        for (int64_t j = 0; j < in; j++) square += (double)learned[row * in + j] * (double)learned[row * in + j];
        for (int64_t j = 0; j < in; j++) score[row * in + j] = sqrt(square);
    }
}

static int list_state(const cbm_prune_run *run, scbm_tensor **tensors) {
    const cbm_popup *popup = run->state;
    for (int i = 0; i < run->n && tensors; i++) {
        *tensors++ = popup->scores[i];
        *tensors++ = scbm_adamw_moment(popup->optimizer, i, 0);
        *tensors++ = scbm_adamw_moment(popup->optimizer, i, 1);
    }
    return 3 * run->n;
}

const cbm_prune_kind cbm_prune_popup = {
    .name = "popup",
    .help = "learned scores (edge-popup), what is off can come back",
    .revives = 1,
    .needs = needs_popup,
    .begin = begin_popup,
    .end = end_popup,
    .gradient = take_gradient,
    .weight_gradient = weight_gradient,
    .after_step = step_scores,
    .score = score_weights,
    .state = list_state,
};

const cbm_prune_kind cbm_prune_popup_structured = {
    .name = "popup-structured",
    .help = "the same, whole output rows by the norm of their scores",
    .by_rows = 1,
    .revives = 1,
    .needs = needs_popup,
    .begin = begin_popup,
    .end = end_popup,
    .gradient = take_gradient,
    .weight_gradient = weight_gradient,
    .after_step = step_scores,
    .score = score_rows,
    .state = list_state,
};
