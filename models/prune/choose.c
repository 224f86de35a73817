/*
 * models/prune/choose.c - scores and choices for every matrix, one after the other, as a graph each
 */
#include "models/base/tensor.h"
#include "models/prune/choose.h"

#include <math.h>
#include <string.h>

/* What a choice of all masks works with. */
typedef struct cbm_prune_choice {
    scbm_tensor *next;      /* [n]: the masks that are to be */
    int64_t agreeing, kept; /* of all matrices and concepts so far */
} cbm_prune_choice;

/* Scores in f64 of all concepts, and a key for each weight and worker. */
size_t cbm_prune_score_bytes(const cbm_prune_run *run) {
    size_t workers = (size_t)scbm_context_workers(run->context), streams = (size_t)run->n_streams;
    size_t scratch = run->kind->n_scratch ? run->kind->n_scratch(run->options) * sizeof(double) * workers : 0;
    return (size_t)run->largest * (streams * sizeof(double) + workers * sizeof(uint64_t)) + scratch;
}

size_t cbm_prune_mask_bytes(const cbm_prune_run *run) {
    size_t bytes = 0;
    for (int i = 0; i < run->n; i++) {
        const scbm_tensor *weight = run->weight[i];
        bytes += (size_t)run->n_streams * (size_t)weight->shape[0] * (size_t)scbm_mask_row_bytes(weight->shape[1]);
    }
    return bytes;
}

/* ------------------------------------------------------------------------------------------
 * One matrix
 * ---------------------------------------------------------------------------------------- */

int32_t cbm_prune_zeros_of(const cbm_prune_run *run, int matrix, double sparsity) {
    const scbm_tensor *weight = run->weight[matrix];
    return (int32_t)cbm_prune_zeros(run->kind->by_rows ? weight->shape[0] : scbm_tensor_elements(weight), sparsity);
}

scbm_tensor *cbm_prune_add_choice(const cbm_prune_run *run, scbm_graph *graph, int matrix, scbm_tensor *score,
                                  scbm_tensor *masks) {
    const int64_t one = 1;
    int choice = (run->kind->by_rows ? SCBM_KEEP_ROWS : 0) | (run->kind->revives ? 0 : SCBM_KEEP_NESTED);
    scbm_tensor *zeros = scbm_input(graph, run->weight[matrix]->name, SCBM_I32, 1, &one, NULL);
    scbm_keep_largest(graph, score, masks, zeros, choice);
    return zeros;
}

/* The score of a weight, as the choice has it. */
static double score_at(const cbm_prune_run *run, const scbm_tensor *score, int64_t stream, int64_t at) {
    int64_t in = score->shape[score->n_dims - 1], n = score->shape[score->n_dims - 2] * in;
    int64_t first = score->n_dims == 3 ? stream * n : 0;
    double square = 0.0;
    if (score->type == SCBM_F64) return ((const double *)score->data)[first + at];
    const float *values = (const float *)score->data + first;
    if (!run->kind->by_rows) return fabs((double)values[at]);
    for (int64_t j = at / in * in; j < at / in * in + in; j++) square += (double)values[j] * (double)values[j];
    return sqrt(square);
}

static scbm_status tell_scores(const cbm_prune_run *run, int matrix, const scbm_tensor *score) {
    int64_t n = scbm_tensor_elements(run->weight[matrix]);
    double *values = scbm_alloc_array(run->hooks, (size_t)n, sizeof *values);
    if (!values) return SCBM_ERROR_MEMORY;
    for (int s = 0; s < run->n_streams; s++) {
        for (int64_t i = 0; i < n; i++) values[i] = score_at(run, score, s, i);
        run->on_scores(run->on_scores_user, run->weight[matrix], s, values);
    }
    scbm_release(run->hooks, values);
    return SCBM_OK;
}

static scbm_status run_choice(cbm_prune_run *run, scbm_graph *g, int matrix) {
    cbm_prune_choice *c = run->choice;
    scbm_tensor *weight = run->weight[matrix], *masks = run->matrix[matrix]->masks, *next = &c->next[matrix];
    scbm_tensor *score = run->kind->score(run, g, matrix), *agreeing = NULL;
    scbm_tensor *zeros = cbm_prune_add_choice(run, g, matrix, score, next);
    if (run->on_scores) scbm_graph_fetch(g, score);
    if (!run->kind->revives) agreeing = scbm_graph_fetch(g, scbm_agree(g, weight, masks, next, zeros));
    scbm_status status = scbm_graph_plan(g);
    if (status) return status;
    *(int32_t *)zeros->data = cbm_prune_zeros_of(run, matrix, run->sparsity);
    if (run->kind->fill) run->kind->fill(run, matrix, score);
    status = scbm_graph_run(g, 0, 0);
    for (int s = 0; s < run->n_streams && !status && agreeing; s++) {
        c->agreeing += ((const int32_t *)agreeing->data)[s];
        c->kept += scbm_tensor_elements(weight) - *(const int32_t *)zeros->data;
    }
    return !status && run->on_scores ? tell_scores(run, matrix, score) : status;
}

scbm_status cbm_prune_choose(cbm_prune_run *run, int first, int n) {
    scbm_status status = SCBM_OK;
    for (int i = first; i < first + n && !status; i++) {
        scbm_graph *graph;
        status = scbm_graph_create(&graph, run->context);
        if (status) return status;
        status = run_choice(run, graph, i);
        scbm_graph_free(graph);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * All of them
 * ---------------------------------------------------------------------------------------- */

static void clear_choice(const cbm_prune_run *run, cbm_prune_choice *c) {
    for (int i = 0; i < run->n && c->next; i++) cbm_tensor_release(&c->next[i], run->hooks);
    scbm_release(run->hooks, c->next);
}

static scbm_status copy_masks(const cbm_prune_run *run, cbm_prune_choice *c) {
    c->next = scbm_alloc_array(run->hooks, (size_t)run->n, sizeof *c->next);
    if (!c->next) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < run->n; i++) {
        scbm_tensor *masks = run->matrix[i]->masks, *next = &c->next[i];
        scbm_status status = cbm_tensor_create(next, masks->name, SCBM_I8, masks->n_dims, masks->shape, run->hooks);
        if (!status) status = scbm_tensor_fetch(masks, run->context);
        if (status) return status;
        memcpy(next->data, masks->data, scbm_tensor_bytes(masks));
    }
    return SCBM_OK;
}

/* The new masks come into force. */
static scbm_status take_masks(const cbm_prune_run *run, cbm_prune_choice *c) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < run->n && !status; i++) status = scbm_tensor_fetch(&c->next[i], run->context);
    for (int i = 0; i < run->n && !status; i++) {
        scbm_tensor *masks = run->matrix[i]->masks;
        memcpy(masks->data, c->next[i].data, scbm_tensor_bytes(masks));
        scbm_tensor_changed(masks);
    }
    return status;
}

static double overlap_of(const cbm_prune_run *run, const cbm_prune_choice *c) {
    if (run->kind->revives) return -1.0;
    return c->kept ? (double)c->agreeing / (double)c->kept : 1.0;
}

scbm_status cbm_prune_set_masks(cbm_prune_run *run, cbm_prune_report *report) {
    cbm_prune_choice choice = {0};
    scbm_status status = copy_masks(run, &choice);
    run->choice = &choice;
    if (!status && run->kind->choose) status = run->kind->choose(run, report);
    else if (!status) status = cbm_prune_choose(run, 0, run->n);
    run->choice = NULL;
    if (!status) status = take_masks(run, &choice);
    if (!status) report->magnitude_overlap = overlap_of(run, &choice);
    clear_choice(run, &choice);
    return status;
}
