/*
 * models/intervene/moves.c - which bits of a matrix's mask a step moves
 *
 * Of a matrix's n weights q that are kept go and q zeros come, each time those of the smallest scores; where scores are
 * equal, those that stand first. n is millions and q a few, so not every weight is ranked:
 *
 *   1. A sample of the weights (one of 61) says how large a score of rank q is: a bound for each way, with a margin.
 *   2. One pass over the matrix keeps the weights whose scores lie within the bounds: the candidates. It computes in f32
 *      and without branches, for the signs are as good as random; the bounds are a little widened, so that no weight is
 *      lost to rounding. Only the candidates' scores are then computed in double.
 *   3. The q smallest of each list of candidates are found by their rank.
 *
 * Where the sample misled, and a bound left fewer than q candidates, the pass is done again without bounds: the result is
 * always that of ranking every weight.
 */
#include "models/base/rank.h"
#include "models/intervene/intervene.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_STRIDE 61

/* ------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------- */

static scbm_status create_candidates(cbm_candidates *c, int64_t n, const scbm_hooks *hooks) {
    c->place = scbm_alloc_array(hooks, (size_t)n + 1, sizeof *c->place); /* one more: see add_candidate */
    c->key = scbm_alloc_array(hooks, (size_t)n + 1, sizeof *c->key);
    return c->place && c->key ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_move_scratch_create(cbm_move_scratch *scratch, int64_t largest_matrix, int64_t widest_row,
                                    const scbm_hooks *hooks) {
    scratch->weight = scbm_alloc_array(hooks, (size_t)largest_matrix, sizeof *scratch->weight);
    scratch->column = scbm_alloc_array(hooks, (size_t)widest_row + 1, sizeof *scratch->column); /* see list_columns */
    scbm_status status = scratch->weight && scratch->column ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) status = create_candidates(&scratch->going, largest_matrix, hooks);
    if (!status) status = create_candidates(&scratch->coming, largest_matrix, hooks);
    return status;
}

void cbm_move_scratch_clear(cbm_move_scratch *scratch, const scbm_hooks *hooks) {
    void *const memory[] = {scratch->weight,       scratch->column,    scratch->going.place,
                            scratch->coming.place, scratch->going.key, scratch->coming.key};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    memset(scratch, 0, sizeof *scratch);
}

/* ------------------------------------------------------------------------------------------
 * Scores
 * ---------------------------------------------------------------------------------------- */

/* A matrix as a step sees it. */
typedef struct scored_matrix {
    const scbm_tensor *masks;
    const float *gradient, *weight; /* [out, in] */
    int64_t out, in;
    int is_signed; /* the rule: by G = g w, or else by |G| */
} scored_matrix;

/* Bounds of the scores: a weight with a larger one is passed over. */
typedef struct score_bounds {
    double going, coming;
} score_bounds;

/* What moving a weight costs, by G = g w; the smallest moves first. That a kept weight goes changes the cross-entropy by
 * −G, and that a zero comes by +G; the paper's rule turns the kept weights with the smallest |G| off, and the zeros with
 * the largest |G| on. */
static double move_score(const scored_matrix *m, int is_kept, double product) {
    double score = m->is_signed ? -product : fabs(product);
    return is_kept ? score : -score;
}

/* Adds a weight, if it may move at all: by the signed rule only where that lowers the cross-entropy. Without a branch: what
 * is not added is written over by the next one, for which there is one place more than weights. */
static void add_candidate(cbm_candidates *c, const scored_matrix *m, int64_t place, double score) {
    c->place[c->n] = place;
    c->key[c->n] = cbm_rank_key(score);
    c->n += !m->is_signed | (score < 0.0);
}

static void add_weight(cbm_move_scratch *scratch, const scored_matrix *m, int is_kept, int64_t place, int64_t at) {
    double score = move_score(m, is_kept, (double)m->gradient[at] * (double)m->weight[at]);
    add_candidate(is_kept ? &scratch->going : &scratch->coming, m, place, score);
}

static int is_kept_at(const scored_matrix *m, int64_t row, int64_t column) {
    return cbm_mask_get(cbm_mask_row(m->masks, 0, row), column);
}

/* ------------------------------------------------------------------------------------------
 * 1. Bounds
 * ---------------------------------------------------------------------------------------- */

/* A bound on the score of rank q among all weights, from those of a sample: most likely not below it. */
static double bound_of_sample(const cbm_candidates *sample, int64_t q) {
    int64_t smaller, rank = q / SAMPLE_STRIDE * 3 / 2 + 16;
    return rank < sample->n ? cbm_rank_value(cbm_key_of_rank(sample->key, sample->n, rank, &smaller)) : INFINITY;
}

static score_bounds sample_bounds(cbm_move_scratch *scratch, const scored_matrix *m, int64_t q) {
    scratch->going.n = scratch->coming.n = 0;
    for (int64_t at = 0; at < m->out * m->in; at += SAMPLE_STRIDE)
        add_weight(scratch, m, is_kept_at(m, at / m->in, at % m->in), at, at);
    return (score_bounds){bound_of_sample(&scratch->going, q), bound_of_sample(&scratch->coming, q)};
}

/* A little more than a bound, so that no score within it is passed over for its rounding. */
static float widen(double bound) {
    return (float)(bound + fabs(bound) * 1e-6 + 1e-37);
}

/* ------------------------------------------------------------------------------------------
 * 2. Candidates
 * ---------------------------------------------------------------------------------------- */

/* The columns of a row whose scores, rounded to f32, do not exceed the bounds: at most `in` of them. What does not belong
 * there is written too, and written over, for which `column` has one place more. With is_signed known when this is
 * compiled, the loop has no branch. */
static inline int64_t list_columns(int is_signed, const float *gradient, const float *weight, const uint8_t *bits,
                                   int64_t in, float most_going, float most_coming, int32_t *column) {
    int64_t n = 0;
    for (int64_t j = 0; j < in; j++) {
        float product = gradient[j] * weight[j], score = is_signed ? -product : fabsf(product);
        int kept = cbm_mask_get(bits, j);
        column[n] = (int32_t)j;
        n += (kept & !(score > most_going)) | (!kept & !(score < -most_coming)); /* a zero's score is −score */
    }
    return n;
}

/* Lists the weights that may go, and those that may come, in order of place, without those beyond the bounds. */
static void list_candidates(cbm_move_scratch *scratch, const scored_matrix *m, score_bounds bounds) {
    const int64_t row_bits = 8 * m->masks->shape[2];
    const float most_going = widen(bounds.going), most_coming = widen(bounds.coming);
    int32_t *column = scratch->column;
    scratch->going.n = scratch->coming.n = 0;
    for (int64_t row = 0; row < m->out; row++) {
        const float *gradient = m->gradient + row * m->in, *weight = m->weight + row * m->in;
        const uint8_t *bits = cbm_mask_row(m->masks, 0, row);
        int64_t n = m->is_signed ? list_columns(1, gradient, weight, bits, m->in, most_going, most_coming, column)
                                 : list_columns(0, gradient, weight, bits, m->in, most_going, most_coming, column);
        for (int64_t i = 0; i < n; i++)
            add_weight(scratch, m, cbm_mask_get(bits, column[i]), row * row_bits + column[i], row * m->in + column[i]);
    }
}

/* ------------------------------------------------------------------------------------------
 * 3. Moves
 * ---------------------------------------------------------------------------------------- */

/* The `n` candidates of the smallest scores, in order of place; where scores are equal, those of the first places. */
static void take_moves(const cbm_candidates *c, int64_t n, cbm_mask_move *move) {
    int64_t n_smaller = 0, n_taken = 0;
    if (n == 0) return;
    uint64_t threshold = cbm_key_of_rank(c->key, c->n, n - 1, &n_smaller);
    int64_t ties = n - n_smaller;
    for (int64_t i = 0; i < c->n; i++)
        if (c->key[i] < threshold || (c->key[i] == threshold && ties-- > 0))
            move[n_taken++] = (cbm_mask_move){c->key[i], c->place[i]};
}

static int64_t smaller_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The weights of a matrix that a portion is, of those that are kept. */
static int64_t portion_of(const cbm_overlay_matrix *m, double portion) {
    return (int64_t)floor(portion * (double)m->kept + 0.5);
}

/* The matrix's weights as f32: its own, or converted. */
static scbm_status read_weights(cbm_move_scratch *scratch, const scbm_tensor *tensor, const float **weight) {
    *weight = tensor->data;
    if (tensor->type == SCBM_F32) return SCBM_OK;
    *weight = scratch->weight;
    return scbm_convert(SCBM_F32, scratch->weight, tensor->type, tensor->data, scbm_tensor_elements(tensor));
}

scbm_status cbm_choose_moves(void *user, const scbm_tensor *gradient) {
    cbm_overlay_matrix *matrix = user;
    cbm_overlay *o = matrix->overlay;
    cbm_move_scratch *scratch = &o->scratch;
    const scbm_tensor *tensor = matrix->parameter->tensor;
    scored_matrix m = {&matrix->masks,   gradient->data,   NULL,
                       tensor->shape[0], tensor->shape[1], o->options->rule == CBM_SELECT_SIGNED};
    int64_t q = smaller_of(portion_of(matrix, o->portion), m.out * m.in - matrix->kept);
    matrix->n_moves = 0;
    scbm_status status = read_weights(scratch, tensor, &m.weight);
    if (status || q == 0) return status;
    score_bounds bounds = sample_bounds(scratch, &m, q);
    list_candidates(scratch, &m, bounds);
    int is_bounded = isfinite(bounds.going) || isfinite(bounds.coming);
    if (is_bounded && smaller_of(scratch->going.n, scratch->coming.n) < q)
        list_candidates(scratch, &m, (score_bounds){INFINITY, INFINITY});
    q = smaller_of(q, smaller_of(scratch->going.n, scratch->coming.n));
    status = scbm_grow(cbm_overlay_hooks(o), (void **)&matrix->move, &matrix->move_capacity, 2 * (size_t)q,
                       sizeof *matrix->move);
    if (status || q == 0) return status;
    take_moves(&scratch->going, q, matrix->move);
    take_moves(&scratch->coming, q, matrix->move + q);
    matrix->n_moves = q;
    return SCBM_OK;
}

void cbm_apply_moves(cbm_overlay *o, double portion, int undo) {
    for (int i = 0; i < o->n_matrices; i++) {
        cbm_overlay_matrix *m = &o->matrix[i];
        int64_t n = smaller_of(m->n_moves, portion_of(m, portion));
        const cbm_mask_move *comes = n ? m->move + m->n_moves : NULL;
        for (int64_t j = 0; j < n; j++) {
            cbm_mask_set(m->masks.data, m->move[j].place, undo);
            cbm_mask_set(m->masks.data, comes[j].place, !undo);
        }
        scbm_tensor_changed(&m->masks);
    }
}

static int compare_moves(const void *a, const void *b) {
    const cbm_mask_move *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

void cbm_sort_moves(cbm_overlay *o) {
    for (int i = 0; i < o->n_matrices; i++) {
        cbm_overlay_matrix *m = &o->matrix[i];
        if (m->n_moves == 0) continue;
        qsort(m->move, (size_t)m->n_moves, sizeof *m->move, compare_moves);
        qsort(m->move + m->n_moves, (size_t)m->n_moves, sizeof *m->move, compare_moves);
    }
}

int64_t cbm_count_moves(const cbm_overlay *o) {
    int64_t n = 0;
    for (int i = 0; i < o->n_matrices; i++) n += o->matrix[i].n_moves;
    return n;
}
