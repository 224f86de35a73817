/*
 * models/prune/popup.c - subnetworks by learned scores (edge-popup; Ramanujan et al., CVPR 2020)
 */
#include "models/base/tensor.h"
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
    return cbm_tensor_create(tensor, name, SCBM_F32, 3, shape, hooks);
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
    popup->sum = scbm_alloc_array(run->hooks, n, sizeof *popup->sum);
    popup->scores = scbm_alloc_array(run->hooks, n, sizeof *popup->scores);
    popup->gradients = scbm_alloc_array(run->hooks, n, sizeof *popup->gradients);
    popup->zeros = scbm_alloc_array(run->hooks, n, sizeof *popup->zeros);
    int has_all = popup->score && popup->sum && popup->scores && popup->gradients && popup->zeros;
    return has_all ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static scbm_status create_matrices(const cbm_prune_run *run, cbm_popup *popup) {
    scbm_status status = create_arrays(run, popup);
    for (int i = 0; i < run->n && !status; i++) {
        const scbm_tensor *weight = run->weight[i];
        popup->scores[i] = &popup->score[i];
        status = create_tensor(&popup->score[i], "score.", weight, run->n_streams, run->hooks);
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
        if (popup->score) cbm_tensor_release(&popup->score[i], run->hooks);
        if (popup->sum) cbm_tensor_release(&popup->sum[i], run->hooks);
    }
    scbm_release(run->hooks, popup->score);
    scbm_release(run->hooks, popup->sum);
    scbm_release(run->hooks, popup->scores);
    scbm_release(run->hooks, popup->gradients);
    scbm_release(run->hooks, popup->zeros);
    scbm_release(run->hooks, popup);
    run->state = NULL;
}

/* ------------------------------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------------------------- */

static scbm_tensor *take_gradient(cbm_prune_run *run, int matrix, scbm_graph *graph, scbm_tensor *gradient) {
    cbm_popup *popup = run->state;
    const scbm_node *node = scbm_popup_back(graph, gradient, run->weight[matrix], &popup->score[matrix],
                                            run->matrix[matrix]->masks);
    popup->gradients[matrix] = node ? node->result[0] : NULL;
    return node && !run->options->freeze_weights ? node->result[1] : NULL;
}

static scbm_status add_step(cbm_prune_run *run, scbm_graph *batch, scbm_graph *step, scbm_tensor *keep) {
    cbm_popup *popup = run->state;
    for (int i = 0; i < run->n && keep; i++) {
        scbm_status status = SCBM_OK;
        if (!popup->sum[i].data)
            status = create_tensor(&popup->sum[i], "grad.", run->weight[i], run->n_streams, run->hooks);
        if (status) return status;
        scbm_accumulate(batch, &popup->sum[i], popup->gradients[i], keep);
        popup->gradients[i] = &popup->sum[i];
    }
    scbm_status status = scbm_graph_adamw(step, popup->optimizer, popup->gradients);
    for (int i = 0; i < run->n && !status; i++)
        popup->zeros[i] = cbm_prune_add_choice(run, step, i, popup->scores[i], run->matrix[i]->masks);
    return status;
}

static scbm_status begin_step(cbm_prune_run *run, int64_t epoch, float rate) {
    cbm_popup *popup = run->state;
    double sparsity = cbm_prune_sparsity(run->options, epoch);
    scbm_status status = scbm_adamw_begin(popup->optimizer, rate);
    for (int i = 0; i < run->n && !status; i++)
        *(int32_t *)popup->zeros[i]->data = cbm_prune_zeros_of(run, i, sparsity);
    return status;
}

static scbm_status end_step(cbm_prune_run *run) {
    cbm_popup *popup = run->state;
    return scbm_adamw_end(popup->optimizer, NULL);
}

/* By their absolute values, or the norms of rows of them. */
static scbm_tensor *learned_scores(cbm_prune_run *run, scbm_graph *graph, int matrix) {
    (void)graph;
    return ((cbm_popup *)run->state)->scores[matrix];
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
    .take_gradient = take_gradient,
    .add_step = add_step,
    .begin_step = begin_step,
    .after_step = end_step,
    .score = learned_scores,
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
    .take_gradient = take_gradient,
    .add_step = add_step,
    .begin_step = begin_step,
    .after_step = end_step,
    .score = learned_scores,
    .state = list_state,
};
