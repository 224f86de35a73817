/*
 * models/prune/obert.c - second-order scores (Optimal BERT Surgeon; Kurtic et al., EMNLP 2022)
 *
 * The Fisher matrices of all weights at once may be more than there is memory: matrices are scored in groups that fit,
 * with the gradients computed for each group anew. The masks do not depend on the grouping.
 */
#include "models/prune/fisher.h"
#include "models/prune/method.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MEBIBYTE 1048576.0

/* ------------------------------------------------------------------------------------------
 * Groups of matrices
 * ---------------------------------------------------------------------------------------- */

/* What a group's Fisher matrices may take. */
static size_t memory_limit(const cbm_prune_run *run) {
    if (run->options->fisher_memory) return run->options->fisher_memory;
    size_t quarter = cbm_prune_available(run) / 4;
    return quarter < CBM_FISHER_MEMORY ? quarter : CBM_FISHER_MEMORY;
}

static size_t matrix_bytes(const cbm_prune_run *run, int matrix) {
    return cbm_fisher_bytes(run->options, run->weight[matrix], run->n_streams);
}

/* How many of the matrices from `first` on make the next group, and what it takes: at least one. */
static int next_group(const cbm_prune_run *run, size_t limit, int first, size_t *bytes) {
    int end = first;
    *bytes = 0;
    while (end < run->n) {
        size_t more = matrix_bytes(run, end);
        if (end > first && *bytes + more > limit) break;
        *bytes += more;
        end++;
    }
    return end - first;
}

static void needs_obert(const cbm_prune_run *run, cbm_prune_needs *needs) {
    size_t limit = memory_limit(run), single = 0, bytes;
    int n_groups = 0;
    for (int first = 0; first < run->n; n_groups++) {
        first += next_group(run, limit, first, &bytes);
        if (bytes > needs->bytes) needs->bytes = bytes;
    }
    for (int i = 0; i < run->n; i++)
        if (matrix_bytes(run, i) > single) single = matrix_bytes(run, i);
    needs->what = "Fisher matrices";
    snprintf(needs->details, sizeof needs->details, "%d matrices in %d group%s, %lld gradients of %lld texts for each",
             run->n, n_groups, n_groups == 1 ? "" : "s", (long long)cbm_fisher_gradients(run->options),
             (long long)cbm_fisher_batch(run));
    if (single > needs->room)
        snprintf(needs->advice, sizeof needs->advice, "a fisher_block smaller than %d takes less",
                 run->options->fisher_block);
    else
        snprintf(needs->advice, sizeof needs->advice, "a fisher_memory of %.0f MiB makes groups of layers that fit",
                 fmax(1.0, floor((double)needs->room / MEBIBYTE)));
}

/* ------------------------------------------------------------------------------------------
 * Gradients and scores
 * ---------------------------------------------------------------------------------------- */

/* One choice of masks: the group at hand, and how far it is. */
typedef struct obert {
    cbm_prune_run *run;
    cbm_fisher fisher;
    int first;           /* matrix of the group */
    int64_t done, total; /* gradients of all groups */
} obert;

static scbm_tensor *take_gradient(void *user, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    obert *o = user;
    cbm_fisher_add(&o->fisher, graph, weight, gradient);
    return NULL;
}

static scbm_status tell_progress(void *user, int64_t done) {
    const obert *o = user;
    const scbm_hooks *hooks = o->run->hooks;
    if (hooks && hooks->progress && hooks->progress(hooks->user, "prune", o->done + done, o->total))
        return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled while pruning");
    return SCBM_OK;
}

static scbm_status choose_group(obert *o, int n, cbm_gradient_request *request) {
    cbm_prune_run *run = o->run;
    scbm_status status = cbm_fisher_create(&o->fisher, run->options, run->matrix + o->first, n, run->n_streams,
                                           run->hooks);
    request->weights = run->weight + o->first;
    request->n = n;
    if (!status) status = run->gradients(run->user, request);
    if (!status) status = cbm_prune_choose(run, o->first, n);
    cbm_fisher_clear(&o->fisher);
    return status;
}

static scbm_status choose_groups(obert *o, cbm_gradient_request *request, cbm_prune_report *report) {
    cbm_prune_run *run = o->run;
    size_t limit = memory_limit(run), bytes;
    scbm_status status = SCBM_OK;
    for (int first = 0; first < run->n; o->total += request->n_batches) first += next_group(run, limit, first, &bytes);
    for (int n; o->first < run->n && !status; o->first += n) {
        n = next_group(run, limit, o->first, &bytes);
        status = choose_group(o, n, request);
        report->n_groups++;
        if (bytes > report->bytes) report->bytes = bytes;
        o->done += request->n_batches;
    }
    return status;
}

/* Every group's gradients are those of the same network: new masks come into force when all have been chosen. */
static scbm_status choose_obert(cbm_prune_run *run, cbm_prune_report *report) {
    obert o = {.run = run, .fisher = {.hooks = run->hooks}};
    cbm_gradient_request request = {.take_gradient = take_gradient, .on_batch = tell_progress, .user = &o};
    int32_t *rows = NULL;
    scbm_status status = cbm_fisher_draw(run, run->epoch, &rows, &request.n_batches, &request.batch);
    request.rows = rows;
    run->state = &o;
    if (!status) status = choose_groups(&o, &request, report);
    run->state = NULL;
    scbm_release(run->hooks, rows);
    return status;
}

static scbm_tensor *score_obert(cbm_prune_run *run, scbm_graph *graph, int matrix) {
    obert *o = run->state;
    return cbm_fisher_scores(&o->fisher, graph, matrix - o->first);
}

/* Of all matrices, which no group's graph is larger for. */
static scbm_status request_obert(const cbm_prune_run *run, cbm_gradient_request *request, int32_t **rows) {
    const cbm_prune_options *o = run->options;
    int64_t epochs = o->end - o->start + 1, n_batches, batch;
    request->weights = run->weight;
    request->n = run->n;
    request->batch = cbm_fisher_batch(run);
    request->n_batches = epochs * cbm_fisher_gradients(o);
    int64_t of_epoch = cbm_fisher_gradients(o) * request->batch;
    int32_t *all = scbm_alloc_array(run->hooks, (size_t)(epochs * of_epoch), sizeof *all);
    scbm_status status = all ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int64_t i = 0; i < epochs && !status; i++) {
        int32_t *drawn = NULL;
        status = cbm_fisher_draw(run, o->start + i, &drawn, &n_batches, &batch);
        if (!status) memcpy(all + i * of_epoch, drawn, (size_t)of_epoch * sizeof *all);
        scbm_release(run->hooks, drawn);
    }
    request->rows = *rows = all;
    return status;
}

const cbm_prune_kind cbm_prune_obert = {
    .name = "obert",
    .help = "w² / (2 [F⁻¹]_jj), second order, by the empirical Fisher matrix in blocks",
    .needs = needs_obert,
    .request = request_obert,
    .score = score_obert,
    .n_scratch = cbm_fisher_scratch,
    .choose = choose_obert,
};
