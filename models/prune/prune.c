/*
 * models/prune/prune.c - pruning in a training run: what it calls, handed to the method's row
 */
#include "models/prune/choose.h"

#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Before the masks
 * ---------------------------------------------------------------------------------------- */

/* Whether every matrix keeps something in the end. */
static scbm_status check_sparsity(const cbm_prune_run *run) {
    int by_rows = run->kind->by_rows;
    for (int i = 0; i < run->n; i++) {
        const scbm_tensor *weight = run->weight[i];
        int64_t units = by_rows ? weight->shape[0] : scbm_tensor_elements(weight);
        if (cbm_prune_zeros(units, run->options->sparsity) == units)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: a sparsity of %g leaves nothing of %s, which has %lld %s",
                             run->options->sparsity, weight->name, (long long)units, by_rows ? "rows" : "weights");
    }
    return SCBM_OK;
}

scbm_status cbm_prune_open(cbm_prune_run *run) {
    scbm_status status = cbm_prune_find(run->options->method, &run->kind);
    if (status || !run->kind) return status;
    run->n = cbm_n_prunable(run->backbone);
    if (!run->n) return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: this encoder has no matrix that masks may cover");
    run->matrix = scbm_alloc_array(run->hooks, (size_t)run->n, sizeof *run->matrix);
    run->weight = scbm_alloc_array(run->hooks, (size_t)run->n, sizeof *run->weight);
    if (!run->matrix || !run->weight) return SCBM_ERROR_MEMORY;
    int n = 0;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(run->backbone, p)); n++) {
        run->matrix[n] = p;
        run->weight[n] = p->tensor;
        if (scbm_tensor_elements(p->tensor) > run->largest) run->largest = scbm_tensor_elements(p->tensor);
    }
    return check_sparsity(run);
}

void cbm_prune_close(cbm_prune_run *run) {
    if (run->kind && run->kind->end && run->state) run->kind->end(run);
    scbm_release(run->hooks, run->matrix);
    scbm_release(run->hooks, run->weight);
    run->state = NULL;
    run->matrix = NULL;
    run->weight = NULL;
    run->kind = NULL;
}

int cbm_prune_matrix(const cbm_prune_run *run, const scbm_tensor *weight) {
    for (int i = 0; i < run->n; i++)
        if (run->weight[i] == weight) return i;
    return -1;
}

/* ------------------------------------------------------------------------------------------
 * Masks
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_prune_begin(cbm_prune_run *run, int64_t steps) {
    scbm_status status = cbm_masks_create(run->backbone, run->n_streams, run->hooks);
    return !status && run->kind->begin ? run->kind->begin(run, steps) : status;
}

static scbm_status set_masks(cbm_prune_run *run, int64_t epoch, cbm_prune_report *report) {
    memset(report, 0, sizeof *report);
    if (!cbm_masks_streams(run->backbone)) return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the network has no masks");
    run->epoch = epoch;
    run->sparsity = report->sparsity = cbm_prune_sparsity(run->options, epoch);
    return cbm_prune_set_masks(run, report);
}

int cbm_prune_is_due(const cbm_prune_run *run, int64_t epoch) {
    return run->kind && epoch >= run->options->start && (epoch <= run->options->end || run->kind->after_step);
}

scbm_status cbm_prune_after_epoch(cbm_prune_run *run, int64_t epoch, cbm_prune_report *report) {
    scbm_status status = set_masks(run, epoch, report);
    if (status || report->magnitude_overlap < 0) return status;
    scbm_log(run->hooks, SCBM_LOG_INFO,
             "epoch %lld: pruned to %.1f %% zeros; magnitude would have kept %.1f %% of what %s kept", (long long)epoch,
             100.0 * report->sparsity, 100.0 * report->magnitude_overlap, run->kind->name);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------------------------- */

int cbm_prune_takes_gradients(const cbm_prune_run *run) {
    return run->kind && run->kind->take_gradient;
}

scbm_tensor *cbm_prune_take_gradient(void *user, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    cbm_prune_run *run = user;
    int matrix = run->state ? cbm_prune_matrix(run, weight) : -1;
    return matrix >= 0 ? run->kind->take_gradient(run, matrix, graph, gradient) : NULL;
}

scbm_status cbm_prune_add_step(cbm_prune_run *run, scbm_graph *batch, scbm_graph *step, scbm_tensor *keep) {
    if (!cbm_prune_takes_gradients(run) || !run->state) return SCBM_OK;
    return run->kind->add_step(run, batch, step, keep);
}

scbm_status cbm_prune_begin_step(cbm_prune_run *run, int64_t epoch, float rate) {
    return cbm_prune_takes_gradients(run) && run->state ? run->kind->begin_step(run, epoch, rate) : SCBM_OK;
}

int cbm_prune_freezes(const cbm_prune_run *run) {
    return cbm_prune_takes_gradients(run) && run->options->freeze_weights;
}

scbm_status cbm_prune_after_step(cbm_prune_run *run) {
    return run->kind && run->kind->after_step && run->state ? run->kind->after_step(run) : SCBM_OK;
}

int cbm_prune_state(const cbm_prune_run *run, scbm_tensor **tensors) {
    int n = 0;
    for (int i = 0; i < run->n; i++) {
        if (!run->matrix[i]->masks) continue;
        if (tensors) tensors[n] = run->matrix[i]->masks;
        n++;
    }
    if (run->state && run->kind->state) n += run->kind->state(run, tensors ? tensors + n : NULL);
    return n;
}
