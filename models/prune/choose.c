/*
 * models/prune/choose.c - scores and choices for every matrix and concept, side by side
 */
#include "models/prune/choose.h"
#include "models/prune/select.h"

#include <string.h>

/* What a choice works with. Each worker has scores and keys of its own. */
typedef struct cbm_prune_choice {
    scbm_tensor *next; /* [n]: the masks that are to be */
    double **score;    /* [workers] */
    uint64_t **keys;
    int64_t *agreeing, *kept; /* [n, K] */
    int first;                /* matrix of the part that is being chosen */
} cbm_prune_choice;

static size_t n_scores(const cbm_prune_run *run) {
    return (size_t)run->largest + (run->kind->n_scratch ? run->kind->n_scratch(run->options) : 0);
}

size_t cbm_prune_score_bytes(const cbm_prune_run *run) {
    size_t bytes = n_scores(run) * sizeof(double) + 2 * (size_t)run->largest * sizeof(uint64_t);
    return bytes * (size_t)scbm_context_workers(run->context);
}

size_t cbm_prune_mask_bytes(const cbm_prune_run *run) {
    size_t bytes = 0;
    for (int i = 0; i < run->n; i++) {
        const scbm_tensor *weight = run->weight[i];
        bytes += (size_t)run->n_streams * (size_t)weight->shape[0] * (size_t)scbm_mask_row_bytes(weight->shape[1]);
    }
    return bytes;
}

static void choose_task(void *arg, int64_t index, int worker) {
    const cbm_prune_run *run = arg;
    const cbm_prune_kind *kind = run->kind;
    cbm_prune_choice *c = run->choice;
    int matrix = c->first + (int)(index / run->n_streams), stream = (int)(index % run->n_streams);
    const scbm_tensor *weight = run->weight[matrix];
    scbm_tensor *next = &c->next[matrix];
    int64_t out = weight->shape[0], in = weight->shape[1], n = out * in;
    int64_t zeros = kind->by_rows ? cbm_prune_zeros(out, run->sparsity) * in : cbm_prune_zeros(n, run->sparsity);
    double *score = c->score[worker];
    uint64_t *keys = c->keys[worker], *by_magnitude = keys + run->largest;
    if (kind->revives) {
        cbm_mask_fill(next, stream, in);
    } else {
        cbm_magnitudes(weight, score);
        cbm_prune_keys(next, stream, in, score, by_magnitude);
    }
    kind->score(run, matrix, stream, score, score + run->largest);
    if (run->on_scores) run->on_scores(run->on_scores_user, weight, stream, score);
    cbm_prune_select(next, stream, in, score, zeros, keys);
    if (kind->revives) return;
    int64_t at = (int64_t)matrix * run->n_streams + stream;
    c->agreeing[at] = cbm_prune_agreeing(next, stream, in, by_magnitude, zeros);
    c->kept[at] = n - zeros;
}

void cbm_prune_choose(cbm_prune_run *run, int first, int n) {
    run->choice->first = first;
    scbm_parallel(run->context, (int64_t)n * run->n_streams, choose_task, run);
}

static void clear_choice(const cbm_prune_run *run, cbm_prune_choice *c) {
    const scbm_hooks *hooks = run->hooks;
    for (int i = 0; i < scbm_context_workers(run->context); i++) {
        if (c->score) scbm_release(hooks, c->score[i]);
        if (c->keys) scbm_release(hooks, c->keys[i]);
    }
    for (int i = 0; i < run->n && c->next; i++) scbm_release(hooks, c->next[i].data);
    scbm_release(hooks, c->score);
    scbm_release(hooks, c->keys);
    scbm_release(hooks, c->next);
    scbm_release(hooks, c->agreeing);
    scbm_release(hooks, c->kept);
}

static scbm_status copy_masks(const cbm_prune_run *run, cbm_prune_choice *c) {
    for (int i = 0; i < run->n; i++) {
        const scbm_tensor *masks = run->matrix[i]->masks;
        scbm_tensor *next = &c->next[i];
        scbm_status status = scbm_tensor_init(next, masks->name, SCBM_I8, masks->n_dims, masks->shape);
        if (status) return status;
        next->data = scbm_alloc_array(run->hooks, scbm_tensor_bytes(masks), 1);
        if (!next->data) return SCBM_ERROR_MEMORY;
        memcpy(next->data, masks->data, scbm_tensor_bytes(masks));
    }
    return SCBM_OK;
}

static scbm_status create_choice(const cbm_prune_run *run, cbm_prune_choice *c) {
    const scbm_hooks *hooks = run->hooks;
    int workers = scbm_context_workers(run->context);
    size_t counts = (size_t)run->n * (size_t)run->n_streams;
    c->score = scbm_alloc_array(hooks, (size_t)workers, sizeof *c->score);
    c->keys = scbm_alloc_array(hooks, (size_t)workers, sizeof *c->keys);
    c->next = scbm_alloc_array(hooks, (size_t)run->n, sizeof *c->next);
    c->agreeing = scbm_alloc_array(hooks, counts, sizeof *c->agreeing);
    c->kept = scbm_alloc_array(hooks, counts, sizeof *c->kept);
    if (!c->score || !c->keys || !c->next || !c->agreeing || !c->kept) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < workers; i++) {
        c->score[i] = scbm_alloc_array(hooks, n_scores(run), sizeof **c->score);
        c->keys[i] = scbm_alloc_array(hooks, 2 * (size_t)run->largest, sizeof **c->keys);
        if (!c->score[i] || !c->keys[i]) return SCBM_ERROR_MEMORY;
    }
    return copy_masks(run, c);
}

static double overlap_of(const cbm_prune_run *run, const cbm_prune_choice *c) {
    int64_t agreeing = 0, kept = 0;
    if (run->kind->revives) return -1.0;
    for (int64_t i = 0; i < (int64_t)run->n * run->n_streams; i++) {
        agreeing += c->agreeing[i];
        kept += c->kept[i];
    }
    return kept ? (double)agreeing / (double)kept : 1.0;
}

scbm_status cbm_prune_set_masks(cbm_prune_run *run, cbm_prune_report *report) {
    cbm_prune_choice choice = {0};
    scbm_status status = create_choice(run, &choice);
    run->choice = &choice;
    if (!status && run->kind->choose) status = run->kind->choose(run, report);
    else if (!status) cbm_prune_choose(run, 0, run->n);
    run->choice = NULL;
    for (int i = 0; i < run->n && !status; i++) {
        scbm_tensor *masks = run->matrix[i]->masks;
        memcpy(masks->data, choice.next[i].data, scbm_tensor_bytes(masks));
        scbm_tensor_changed(masks);
    }
    if (!status) report->magnitude_overlap = overlap_of(run, &choice);
    clear_choice(run, &choice);
    return status;
}
