/*
 * models/intervene/intervene.c - interventions: a concept's mask changed for one text, or its values edited
 *
 * A context's overlay is a backbone that shares the model's weights and has masks of its own, of one stream: a copy of
 * the concept's planes, which the steps change. Two graphs run on it: the concept's logits and cross-entropy, and the
 * same with the dense gradient of every prunable matrix, of which only the bits to move are kept.
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/cbm-train.h"
#include "models/intervene/intervene.h"
#include "models/base/rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEFAULT_PORTION 0.05
#define DEFAULT_STEPS 10
#define SEARCH_PRECISION 1.1
#define SAMPLE_STRIDE 61 /* of the weights whose scores bound those that are looked at */

/* A weight whose bit a step moves. */
typedef struct mask_move {
    uint64_t key;  /* of its score: the smallest move first */
    int64_t place; /* in bits of the matrix's masks */
} mask_move;

/* A matrix's masks and the bits that the next step moves: [2 n_moves], first those that go, then those that come. */
typedef struct overlay_matrix {
    struct cbm_overlay *overlay;
    const cbm_parameter *parameter; /* of the model */
    scbm_tensor masks;              /* I8 [1, out, row bytes], the overlay's own */
    mask_move *move;
    size_t move_capacity;
    int64_t kept;              /* weights; no step changes their number */
    int64_t n_moves, n_listed; /* n_listed: while the moves are being listed */
} overlay_matrix;

/* Weights of a matrix that may move one way. */
typedef struct candidates {
    int64_t *place;
    uint64_t *key; /* of the score */
    int64_t n;
} candidates;

typedef struct overlay_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *targets, *logits, *loss; /* I32 [1, K], [1, C], [1] */
} overlay_graph;

struct cbm_overlay {
    cbm_context *ctx;
    cbm_backbone backbone; /* the model's tensors, the overlay's masks */
    overlay_matrix *matrix;
    int n;
    int64_t capacity; /* tokens that the graphs hold */
    overlay_graph forward, gradient;
    /* The text, and what it reads now: */
    uint64_t run; /* of the context, that brought it */
    cbm_sequences sequence;
    float *base;              /* [C]: the concepts' logits without interventions */
    float *computed, *values; /* [C]: their logits now, and u */
    float *place_numbers[2];  /* of two predictions: before, after */
    cbm_concept_result *place_concepts[2];
    /* Of the intervention at hand: */
    const cbm_intervene_options *options;
    double portion;
    float *weight;           /* a matrix as f32, where it is not */
    candidates candidate[2]; /* that may go, and that may come: room for the largest matrix */
    int32_t *column;         /* of a row */
};
typedef struct cbm_overlay cbm_overlay;

static const scbm_hooks *hooks_of(const cbm_overlay *o) {
    return &o->ctx->model->hooks;
}

static const cbm_heads *heads_of(const cbm_overlay *o) {
    return &o->ctx->model->network.heads;
}

/* ------------------------------------------------------------------------------------------
 * Making and freeing
 * ---------------------------------------------------------------------------------------- */

static void free_overlay(cbm_context *ctx, void *state) {
    cbm_overlay *o = state;
    const scbm_hooks *hooks = &ctx->model->hooks;
    scbm_graph_free(o->forward.graph);
    scbm_graph_free(o->gradient.graph);
    for (int i = 0; i < o->n; i++) {
        scbm_release(hooks, o->matrix[i].masks.data);
        scbm_release(hooks, o->matrix[i].move);
    }
    for (int i = 0; i < 2; i++) {
        scbm_release(hooks, o->place_numbers[i]);
        scbm_release(hooks, o->place_concepts[i]);
    }
    cbm_sequences_clear(&o->sequence, hooks);
    scbm_release(hooks, o->matrix);
    scbm_release(hooks, o->backbone.parameters);
    scbm_release(hooks, o->base);
    scbm_release(hooks, o->computed);
    scbm_release(hooks, o->values);
    scbm_release(hooks, o->weight);
    scbm_release(hooks, o->column);
    for (int i = 0; i < 2; i++) {
        scbm_release(hooks, o->candidate[i].place);
        scbm_release(hooks, o->candidate[i].key);
    }
    scbm_release(hooks, o);
}

/* NULL: the context has none yet. */
static cbm_overlay *overlay_of(const cbm_context *ctx) {
    return cbm_context_find_part(ctx, free_overlay);
}

static scbm_status create_matrix(cbm_overlay *o, cbm_parameter *parameter, const cbm_parameter *of_model) {
    overlay_matrix *m = &o->matrix[o->n++];
    const int64_t shape[3] = {1, of_model->masks->shape[1], of_model->masks->shape[2]};
    m->overlay = o;
    m->parameter = of_model;
    scbm_status status = scbm_tensor_init(&m->masks, of_model->masks->name, SCBM_I8, 3, shape);
    if (status) return status;
    m->masks.data = scbm_alloc_array(hooks_of(o), scbm_tensor_bytes(&m->masks), 1);
    if (!m->masks.data) return SCBM_ERROR_MEMORY;
    parameter->masks = &m->masks;
    return SCBM_OK;
}

/* Masks of its own for every matrix, and scratch for the largest; nothing of this for a dense model. */
static scbm_status create_matrices(cbm_overlay *o) {
    const cbm_backbone *model = &o->ctx->model->network.backbone;
    const scbm_hooks *hooks = hooks_of(o);
    size_t n = (size_t)model->n_parameters;
    int64_t largest = 0, widest = 0;
    o->backbone = *model;
    o->backbone.owns_tensors = 0;
    o->backbone.parameters = scbm_alloc_array(hooks, n, sizeof *o->backbone.parameters);
    o->matrix = scbm_alloc_array(hooks, n, sizeof *o->matrix);
    if (!o->backbone.parameters || !o->matrix) return SCBM_ERROR_MEMORY;
    memcpy(o->backbone.parameters, model->parameters, n * sizeof *model->parameters);
    if (!cbm_masks_streams(model)) return SCBM_OK;
    for (size_t i = 0; i < n; i++) {
        if (!model->parameters[i].masks) continue;
        scbm_status status = create_matrix(o, &o->backbone.parameters[i], &model->parameters[i]);
        if (status) return status;
        int64_t elements = scbm_tensor_elements(model->parameters[i].tensor);
        if (elements > largest) largest = elements;
        if (model->parameters[i].tensor->shape[1] > widest) widest = model->parameters[i].tensor->shape[1];
    }
    o->weight = scbm_alloc_array(hooks, (size_t)largest, sizeof *o->weight);
    o->column = scbm_alloc_array(hooks, (size_t)widest + 1, sizeof *o->column); /* one more: see list_columns */
    if (!o->weight || !o->column) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < 2; i++) {
        candidates *c = &o->candidate[i];
        c->place = scbm_alloc_array(hooks, (size_t)largest + 1, sizeof *c->place); /* one more: see add_candidate */
        c->key = scbm_alloc_array(hooks, (size_t)largest + 1, sizeof *c->key);
        if (!c->place || !c->key) return SCBM_ERROR_MEMORY;
    }
    return SCBM_OK;
}

static scbm_status create_overlay(cbm_context *ctx) {
    const scbm_hooks *hooks = &ctx->model->hooks;
    const cbm_heads *heads = &ctx->model->network.heads;
    if (overlay_of(ctx)) return SCBM_OK;
    cbm_overlay *o = scbm_alloc(hooks, sizeof *o);
    if (!o) return SCBM_ERROR_MEMORY;
    o->ctx = ctx;
    o->base = scbm_alloc_array(hooks, (size_t)heads->n_classes, sizeof *o->base);
    o->computed = scbm_alloc_array(hooks, (size_t)heads->n_classes, sizeof *o->computed);
    o->values = scbm_alloc_array(hooks, (size_t)heads->n_classes, sizeof *o->values);
    int has_memory = o->base && o->computed && o->values;
    for (int i = 0; i < 2; i++) {
        o->place_numbers[i] = scbm_alloc_array(hooks, cbm_prediction_numbers(heads), sizeof(float));
        o->place_concepts[i] = scbm_alloc_array(hooks, (size_t)heads->n_concepts, sizeof **o->place_concepts);
        has_memory = has_memory && o->place_numbers[i] && o->place_concepts[i];
    }
    scbm_status status = has_memory ? create_matrices(o) : SCBM_ERROR_MEMORY;
    if (!status) status = cbm_context_set_part(ctx, free_overlay, o);
    if (status) free_overlay(ctx, o);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Choosing the bits to move
 * ---------------------------------------------------------------------------------------- */

/* Appends the `n` candidates of the smallest scores to the matrix's moves; where scores are equal, those of the first
 * places. */
static void add_moves(const candidates *c, int64_t n, overlay_matrix *m) {
    int64_t n_smaller = 0;
    if (n == 0) return;
    uint64_t threshold = cbm_key_of_rank(c->key, c->n, n - 1, &n_smaller);
    int64_t ties = n - n_smaller;
    for (int64_t i = 0; i < c->n; i++)
        if (c->key[i] < threshold || (c->key[i] == threshold && ties-- > 0))
            m->move[m->n_listed++] = (mask_move){c->key[i], c->place[i]};
}

/* The score of a kept weight by the rule, from g w; that of a zero is its negative. Signed: −G; abs: |G|. */
static double kept_score(int is_signed, double product) {
    return is_signed ? -product : fabs(product);
}

/* Adds a weight, if it may move at all: by the signed rule only where its score is below 0. */
static void add_candidate(candidates *c, int64_t place, double score, int is_signed) {
    c->place[c->n] = place;
    c->key[c->n] = cbm_rank_key(score);
    c->n += !is_signed | (score < 0.0);
}

/* Bounds of the scores [kept, zero]: a weight with a larger one is passed over. */
typedef struct score_bounds {
    double kept, zero;
} score_bounds;

/* A bound on the score of rank `wanted` among n weights, from those of a sample: most likely not below it. */
static double bound_of_sample(const candidates *sample, int64_t wanted) {
    int64_t smaller, rank = wanted / SAMPLE_STRIDE * 3 / 2 + 16;
    return rank < sample->n ? cbm_rank_value(cbm_key_of_rank(sample->key, sample->n, rank, &smaller)) : INFINITY;
}

static score_bounds sample_bounds(cbm_overlay *o, const overlay_matrix *m, const float *gradient, const float *weight,
                                  int64_t wanted) {
    int64_t in = m->parameter->tensor->shape[1], n = scbm_tensor_elements(m->parameter->tensor);
    int is_signed = o->options->rule == CBM_SELECT_SIGNED;
    o->candidate[0].n = o->candidate[1].n = 0;
    for (int64_t at = 0; at < n; at += SAMPLE_STRIDE) {
        int is_zero = !cbm_mask_get(cbm_mask_row(&m->masks, 0, at / in), at % in);
        double score = kept_score(is_signed, (double)gradient[at] * (double)weight[at]);
        add_candidate(&o->candidate[is_zero], at, is_zero ? -score : score, is_signed);
    }
    return (score_bounds){bound_of_sample(&o->candidate[0], wanted), bound_of_sample(&o->candidate[1], wanted)};
}

/* The columns of a row whose scores, rounded to f32, do not exceed the bounds: at most `in` of them. */
static inline int64_t list_columns(int is_signed, const float *gradient, const float *weight, const uint8_t *bits,
                                   int64_t in, float most_kept, float least_zero, int32_t *column) {
    int64_t n = 0;
    for (int64_t j = 0; j < in; j++) { /* without branches: the signs are as good as random */
        float product = gradient[j] * weight[j], score = is_signed ? -product : fabsf(product);
        int kept = cbm_mask_get(bits, j);
        column[n] = (int32_t)j;
        n += (kept & !(score > most_kept)) | (!kept & !(score < least_zero));
    }
    return n;
}

/* A little more than a bound, so that no score within it is passed over for its rounding. */
static float widen(double bound) {
    return (float)(bound + fabs(bound) * 1e-6 + 1e-37);
}

/* Lists the weights that may go, and those that may come, in order of place (in bits of the masks) and with scores of
 * which the smallest move first, without those whose scores exceed the bounds. */
static void list_candidates(cbm_overlay *o, const overlay_matrix *m, const float *gradient, const float *weight,
                            score_bounds bounds) {
    int64_t in = m->parameter->tensor->shape[1], row_bits = 8 * m->masks.shape[2];
    float most_kept = widen(bounds.kept), least_zero = -widen(bounds.zero);
    int is_signed = o->options->rule == CBM_SELECT_SIGNED;
    o->candidate[0].n = o->candidate[1].n = 0;
    for (int64_t row = 0; row < m->masks.shape[1]; row++, gradient += in, weight += in) {
        const uint8_t *bits = cbm_mask_row(&m->masks, 0, row);
        int64_t n = is_signed ? list_columns(1, gradient, weight, bits, in, most_kept, least_zero, o->column)
                              : list_columns(0, gradient, weight, bits, in, most_kept, least_zero, o->column);
        for (int64_t i = 0; i < n; i++) {
            int64_t j = o->column[i];
            int is_zero = !cbm_mask_get(bits, j);
            double score = kept_score(is_signed, (double)gradient[j] * (double)weight[j]);
            add_candidate(&o->candidate[is_zero], row * row_bits + j, is_zero ? -score : score, is_signed);
        }
    }
}

static int64_t smaller_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The weights of a matrix that a portion is, of those that are kept. */
static int64_t portion_of(const overlay_matrix *m, double portion) {
    return (int64_t)floor(portion * (double)m->kept + 0.5);
}

/* Takes a matrix's dense gradient during the backward pass. */
static scbm_status choose_moves(void *user, const scbm_tensor *gradient) {
    overlay_matrix *m = user;
    cbm_overlay *o = m->overlay;
    const scbm_tensor *tensor = m->parameter->tensor;
    int64_t n = scbm_tensor_elements(tensor);
    const float *weight = tensor->data;
    scbm_status status = SCBM_OK;
    m->n_moves = m->n_listed = 0;
    if (tensor->type != SCBM_F32) {
        status = scbm_convert(SCBM_F32, o->weight, tensor->type, tensor->data, n);
        weight = o->weight;
    }
    if (status) return status;
    int64_t q = smaller_of(portion_of(m, o->portion), n - m->kept);
    if (q == 0) return SCBM_OK;
    score_bounds bounds = sample_bounds(o, m, gradient->data, weight, q);
    list_candidates(o, m, gradient->data, weight, bounds);
    if (smaller_of(o->candidate[0].n, o->candidate[1].n) < q && (isfinite(bounds.kept) || isfinite(bounds.zero)))
        list_candidates(o, m, gradient->data, weight, (score_bounds){INFINITY, INFINITY});
    q = smaller_of(q, smaller_of(o->candidate[0].n, o->candidate[1].n));
    status = scbm_grow(hooks_of(o), (void **)&m->move, &m->move_capacity, 2 * (size_t)q, sizeof *m->move);
    if (status) return status;
    add_moves(&o->candidate[0], q, m);
    add_moves(&o->candidate[1], q, m);
    m->n_moves = q;
    return SCBM_OK;
}

/* Turns the first half of the moves off and the second on, or back: all of them, or with a smaller portion than the step's
 * the first of each half. */
static void apply_moves(cbm_overlay *o, double portion, int undo) {
    for (int i = 0; i < o->n; i++) {
        overlay_matrix *m = &o->matrix[i];
        int64_t n = smaller_of(m->n_moves, portion_of(m, portion));
        const mask_move *comes = n ? m->move + m->n_moves : NULL;
        for (int64_t j = 0; j < n; j++) {
            cbm_mask_set(m->masks.data, m->move[j].place, undo);
            cbm_mask_set(m->masks.data, comes[j].place, !undo);
        }
        m->masks.generation++;
    }
}

static int compare_moves(const void *a, const void *b) {
    const mask_move *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* Orders each half of the moves by score, then place: a smaller portion moves the first of them. */
static void sort_moves(cbm_overlay *o) {
    for (int i = 0; i < o->n; i++) {
        overlay_matrix *m = &o->matrix[i];
        if (m->n_moves == 0) continue;
        qsort(m->move, (size_t)m->n_moves, sizeof *m->move, compare_moves);
        qsort(m->move + m->n_moves, (size_t)m->n_moves, sizeof *m->move, compare_moves);
    }
}

static int64_t count_moves(const cbm_overlay *o) {
    int64_t n = 0;
    for (int i = 0; i < o->n; i++) n += o->matrix[i].n_moves;
    return n;
}

/* Starts from the model's mask of a concept. */
static void load_masks(cbm_overlay *o, int concept) {
    for (int i = 0; i < o->n; i++) {
        overlay_matrix *m = &o->matrix[i];
        memcpy(m->masks.data, cbm_mask_row(m->parameter->masks, concept, 0), scbm_tensor_bytes(&m->masks));
        m->masks.generation++;
        m->kept = cbm_mask_kept(&m->masks, 0);
        m->n_moves = 0;
    }
}

/* Bits that differ from the model's now. */
static int64_t count_moved(const cbm_overlay *o, int concept) {
    int64_t moved = 0;
    for (int i = 0; i < o->n; i++)
        moved += cbm_mask_difference(&o->matrix[i].masks, 0, o->matrix[i].parameter->masks, concept);
    return moved;
}

/* ------------------------------------------------------------------------------------------
 * Graphs
 * ---------------------------------------------------------------------------------------- */

#define SMALLEST_CAPACITY 64

static scbm_status build_graph(cbm_overlay *o, overlay_graph *made, int with_gradients) {
    const cbm_heads *heads = heads_of(o);
    const cbm_encode_options options = {.use_masks = 1};
    const int64_t shape[2] = {1, heads->n_concepts};
    scbm_tensor **weights = NULL;
    scbm_status status = scbm_graph_create(&made->graph, o->ctx->runtime);
    if (status) return status;
    scbm_graph *g = made->graph;
    scbm_graph_set_precision(g, o->ctx->runner.precision);
    scbm_graph_set_capacity(g, o->capacity, 1);
    cbm_backbone_encode(&o->backbone, g, 1, &options, &made->encoding);
    scbm_tensor *pooled = scbm_segment_mean(g, made->encoding.hidden, made->encoding.offsets);
    made->logits = scbm_group_linear(g, pooled, heads->concept_weight, heads->concept_bias,
                                     (scbm_tensor *)&heads->group_tensor);
    made->targets = scbm_input(g, "targets", SCBM_I32, 2, shape, (const scbm_extent[2]){SCBM_TEXTS, SCBM_FIXED});
    made->loss = scbm_cross_entropy(g, made->logits, made->targets, (scbm_tensor *)&heads->group_tensor, NULL);
    scbm_output(g, made->logits);
    scbm_output(g, made->loss);
    if (with_gradients) {
        weights = scbm_alloc_array(hooks_of(o), (size_t)o->n, sizeof *weights);
        if (!weights) return SCBM_ERROR_MEMORY;
        for (int i = 0; i < o->n; i++) weights[i] = o->matrix[i].parameter->tensor;
        scbm_graph_set_weight_gradients(g, SCBM_DW_DENSE);
        status = scbm_graph_backward(g, made->loss, weights, o->n);
        for (int i = 0; i < o->n && !status; i++)
            status = scbm_graph_watch(g, scbm_graph_gradient(g, weights[i]), choose_moves, &o->matrix[i]);
        scbm_release(hooks_of(o), weights);
    }
    return status ? status : scbm_graph_plan(g);
}

/* Graphs that hold the text; capacities double. */
static scbm_status prepare_graphs(cbm_overlay *o) {
    int64_t tokens = cbm_sequence_length(&o->sequence, 0);
    if (o->capacity >= tokens && o->gradient.graph) return SCBM_OK;
    scbm_graph_free(o->forward.graph);
    scbm_graph_free(o->gradient.graph);
    memset(&o->forward, 0, sizeof o->forward);
    memset(&o->gradient, 0, sizeof o->gradient);
    for (o->capacity = SMALLEST_CAPACITY; o->capacity < tokens;) o->capacity *= 2;
    scbm_status status = build_graph(o, &o->forward, 0);
    if (!status) status = build_graph(o, &o->gradient, 1);
    if (status) {
        scbm_graph_free(o->gradient.graph);
        memset(&o->gradient, 0, sizeof o->gradient);
    }
    return status;
}

/* The cross-entropy of a concept with a class under the overlay's masks. */
static scbm_status run_graph(cbm_overlay *o, overlay_graph *graph, int concept, int class_index, double *loss) {
    const int32_t row = 0;
    int32_t *targets = graph->targets->data;
    for (int k = 0; k < heads_of(o)->n_concepts; k++) targets[k] = k == concept ? class_index : -1;
    int64_t tokens = cbm_fill_inputs(&o->backbone, &graph->encoding, &o->sequence, &row, 1);
    scbm_status status = scbm_graph_run(graph->graph, tokens, 1);
    if (!status) *loss = (double)*(const float *)graph->loss->data;
    if (!status && !isfinite(*loss))
        status = scbm_fail(SCBM_ERROR_NUMERIC, "the cross-entropy of concept '%s' is not finite",
                           heads_of(o)->concept_name[concept]);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Interventions on the overlay's text
 * ---------------------------------------------------------------------------------------- */

static int reads(const cbm_heads *heads, const float *logits, int concept) {
    int first = heads->groups[concept];
    return cbm_largest(logits + first, heads->groups[concept + 1] - first);
}

/* Takes a concept's logits, out of those of all, for the text's. */
static void take_logits(cbm_overlay *o, const float *logits, int concept) {
    const cbm_heads *heads = heads_of(o);
    size_t first = (size_t)heads->groups[concept], n = (size_t)heads->groups[concept + 1] - first;
    memcpy(o->computed + first, logits + first, n * sizeof(float));
    if (heads->mode == CBM_INDEPENDENT) cbm_softmax(o->computed + first, (int)n, o->values + first);
    else memcpy(o->values + first, o->computed + first, n * sizeof(float));
}

static int64_t largest_kept(const cbm_overlay *o) {
    int64_t most = 0;
    for (int i = 0; i < o->n; i++)
        if (o->matrix[i].kept > most) most = o->matrix[i].kept;
    return most;
}

/* The concept's cross-entropy, and whether it reads the class, when a portion of the step is done. The masks are those
 * before the step, before and after. */
static scbm_status try_portion(cbm_overlay *o, double portion, int concept, int class_index, double *loss,
                               int *is_enough) {
    apply_moves(o, portion, 0);
    scbm_status status = run_graph(o, &o->forward, concept, class_index, loss);
    apply_moves(o, portion, 1);
    *is_enough = !status && reads(heads_of(o), (const float *)o->forward.logits->data, concept) == class_index;
    return status;
}

/* How much of a step to do, from one weight of the largest matrix up to o->portion, by doubling: what is enough for the
 * class, to a tenth; or, when the cross-entropy is larger again than the `loss` before the step, what made it smallest; 0
 * where nothing does. A small step along a gradient says more than a large one. */
static scbm_status search_portion(cbm_overlay *o, int concept, int class_index, double loss, double *portion) {
    double too_little = 0.5 / (double)largest_kept(o), least = loss, best = 0, tried = 0, after = loss;
    int is_enough = 0;
    sort_moves(o);
    while (!is_enough && tried < o->portion && !(best > 0 && after > loss)) {
        tried = 2 * too_little < o->portion ? 2 * too_little : o->portion;
        scbm_status status = try_portion(o, tried, concept, class_index, &after, &is_enough);
        if (status) return status;
        if (is_enough || after < least) {
            best = tried;
            least = after;
        }
        if (!is_enough) too_little = tried;
    }
    while (is_enough && best > too_little * SEARCH_PRECISION) {
        int is_still;
        double middle = sqrt(best * too_little);
        scbm_status status = try_portion(o, middle, concept, class_index, &after, &is_still);
        if (status) return status;
        if (is_still) best = middle;
        else too_little = middle;
    }
    *portion = best;
    return SCBM_OK;
}

/* Steps by the rule until the concept reads the class, or nothing more can be moved. */
static scbm_status step_masks(cbm_overlay *o, int concept, int class_index, int steps, cbm_intervention *result) {
    double loss, after;
    const int is_signed = o->options->rule == CBM_SELECT_SIGNED, searches = is_signed && !o->options->whole_steps;
    int64_t kept = largest_kept(o);
    for (int step = 0; step < steps && o->portion * (double)kept >= 1.0; step++) {
        double portion = o->portion;
        scbm_status status = run_graph(o, &o->gradient, concept, class_index, &loss);
        if (status) return status;
        if (count_moves(o) == 0) break;
        if (searches) status = search_portion(o, concept, class_index, loss, &portion);
        if (status) return status;
        if (portion == 0) break;
        apply_moves(o, portion, 0);
        status = run_graph(o, &o->forward, concept, class_index, &after);
        if (status) return status;
        if (is_signed && !searches && after > loss) {
            apply_moves(o, portion, 1);
            o->portion /= 2;
            continue;
        }
        result->steps++;
        result->portion = portion;
        take_logits(o, o->forward.logits->data, concept);
        if (reads(heads_of(o), o->computed, concept) == class_index) break;
    }
    return SCBM_OK;
}

static scbm_status intervene_masks(cbm_overlay *o, int concept, int class_index, cbm_intervention *result) {
    const cbm_intervene_options *options = o->options;
    load_masks(o, concept);
    take_logits(o, o->base, concept);
    o->portion = options->portion > 0 ? options->portion : DEFAULT_PORTION;
    int steps = options->steps ? options->steps : options->rule == CBM_SELECT_ABS ? 1 : DEFAULT_STEPS;
    scbm_status status = prepare_graphs(o);
    if (!status && reads(heads_of(o), o->computed, concept) != class_index)
        status = step_masks(o, concept, class_index, steps, result);
    result->moved_bits = count_moved(o, concept);
    return status;
}

static scbm_status gold_mean(const cbm_model *model, int concept, int class_index, float *values, int n) {
    const cbm_heads *heads = &model->network.heads;
    int row = heads->groups[concept] + class_index;
    if (((const int32_t *)model->gold_counts->data)[row] < 1)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "no training text has class '%s' of concept '%s', so its mean is unknown: use one-hot values",
                         heads->class_name[row], heads->concept_name[concept]);
    memcpy(values, (const float *)model->gold_means->data + (size_t)row * (size_t)heads->max_classes,
           (size_t)n * sizeof *values);
    return SCBM_OK;
}

/* Replaces u_k. The concept's logits become those that say the same. */
static scbm_status intervene_edit(cbm_overlay *o, int concept, int class_index) {
    const cbm_heads *heads = heads_of(o);
    int first = heads->groups[concept], n = heads->groups[concept + 1] - first;
    float *values = o->values + first, *logits = o->computed + first;
    if (o->options->edit == CBM_EDIT_GIVEN) {
        if (!o->options->values) return scbm_fail(SCBM_ERROR_ARGUMENT, "an edit with given values, and there are none");
        for (int c = 0; c < n; c++)
            if (!isfinite(o->options->values[c]))
                return scbm_fail(SCBM_ERROR_ARGUMENT, "value %d that is given for concept '%s' is not finite", c,
                                 heads->concept_name[concept]);
        memcpy(values, o->options->values, (size_t)n * sizeof *values);
    } else if (o->options->edit == CBM_EDIT_ONE_HOT) {
        for (int c = 0; c < n; c++) values[c] = c == class_index ? 1.0f : 0.0f;
    } else {
        scbm_status status = gold_mean(o->ctx->model, concept, class_index, values, n);
        if (status) return status;
    }
    for (int c = 0; c < n; c++) {
        int is_probability = heads->mode == CBM_INDEPENDENT;
        logits[c] = !is_probability ? values[c] : values[c] > 1e-30f ? logf(values[c]) : logf(1e-30f);
    }
    return SCBM_OK;
}

static void predict_overlay(cbm_overlay *o, int place, cbm_prediction *p) {
    memset(p, 0, sizeof *p);
    cbm_fill_prediction(o->ctx->model, o->computed, o->values, o->place_numbers[place], o->place_concepts[place], p);
    p->truncated = o->sequence.truncated[0];
    p->n_tokens = (int)cbm_sequence_length(&o->sequence, 0);
}

static scbm_status intervene(cbm_overlay *o, int concept, int class_index, const cbm_intervene_options *options,
                             cbm_intervention *result) {
    memset(result, 0, sizeof *result);
    o->options = options;
    result->total_bits = o->n ? cbm_masks_weights(&o->backbone, -1) : 0;
    predict_overlay(o, 0, &result->before);
    scbm_status status = options->method == CBM_INTERVENE_MASK ? intervene_masks(o, concept, class_index, result)
                                                               : intervene_edit(o, concept, class_index);
    if (status) return status;
    predict_overlay(o, 1, &result->after);
    result->succeeded = reads(heads_of(o), o->computed, concept) == class_index;
    return SCBM_OK;
}

/* Text `i` of the context's last run becomes the overlay's, without interventions. */
static scbm_status load_text(cbm_overlay *o, size_t i) {
    const cbm_sequences *from = &o->ctx->sequences;
    const cbm_heads *heads = heads_of(o);
    cbm_sequences *to = &o->sequence;
    size_t n = (size_t)cbm_sequence_length(from, i);
    const float *logits = o->ctx->logits + i * (size_t)heads->n_classes;
    scbm_status status = scbm_grow(hooks_of(o), (void **)&to->ids, &to->ids_capacity, n, sizeof *to->ids);
    if (!status) status = scbm_grow(hooks_of(o), (void **)&to->first, &to->first_capacity, 2, sizeof *to->first);
    if (!status) status = scbm_grow(hooks_of(o), (void **)&to->truncated, &to->truncated_capacity, 1, 1);
    if (status) return status;
    if (n) memcpy(to->ids, from->ids + from->first[i], n * sizeof *to->ids);
    to->n = 1;
    to->first[0] = 0;
    to->first[1] = n;
    to->truncated[0] = from->truncated[i];
    memcpy(o->base, logits, (size_t)heads->n_classes * sizeof *logits);
    memcpy(o->computed, logits, (size_t)heads->n_classes * sizeof *logits);
    cbm_concept_values(heads, logits, o->values);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The public functions
 * ---------------------------------------------------------------------------------------- */

static const cbm_intervene_options default_options = {
    CBM_INTERVENE_MASK, CBM_SELECT_SIGNED, 0, 0, 0, CBM_EDIT_GOLD_MEAN, NULL};

scbm_status cbm_intervene_check(const cbm_model *model, const cbm_intervene_options *options) {
    cbm_mode mode = model->network.heads.mode;
    if (!options) options = &default_options;
    if (mode == CBM_ENCODER || mode == CBM_VANILLA)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "a model in %s mode has no concepts to intervene on",
                         cbm_mode_name(mode));
    if (!(options->portion >= 0 && options->portion <= 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the portion of weights to move is %g, and must lie in (0, 1]",
                         options->portion);
    if (options->steps < 0 || options->steps > 100000)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d steps of intervention", options->steps);
    if ((unsigned)options->method > CBM_INTERVENE_EDIT || (unsigned)options->rule > CBM_SELECT_ABS ||
        (unsigned)options->edit > CBM_EDIT_GIVEN)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "intervention: the method, rule or kind of edit is unknown");
    if (options->method == CBM_INTERVENE_MASK && !cbm_model_is_sparse(model))
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "a dense model has no subnetworks whose masks could change: edit the concept instead (--method edit)");
    return SCBM_OK;
}

static scbm_status intervene_by_name(cbm_context *ctx, const char *concept, const char *class_name,
                                     const cbm_intervene_options *options, cbm_intervention *result) {
    int k, c;
    if (!options) options = &default_options;
    scbm_status status = cbm_intervene_check(ctx->model, options);
    if (!status) status = cbm_model_find_class(ctx->model, concept, class_name, &k, &c);
    if (!status && ctx->n_computed != 1)
        status = scbm_fail(SCBM_ERROR_ARGUMENT,
                           "an intervention is on the text of the last cbm_predict, and there is none");
    if (!status) status = create_overlay(ctx);
    if (status) return status;
    cbm_overlay *o = overlay_of(ctx);
    if (o->run != ctx->n_runs) {
        status = load_text(o, 0);
        if (status) return status;
        o->run = ctx->n_runs;
    }
    return intervene(o, k, c, options, result);
}

scbm_status cbm_intervene_report(cbm_context *ctx, const char *concept, const char *class_name,
                                 const cbm_intervene_options *options, cbm_intervention *result) {
    return cbm_context_result(ctx, intervene_by_name(ctx, concept, class_name, options, result));
}

scbm_status cbm_intervene(cbm_context *ctx, const char *concept, const char *class_name,
                          const cbm_intervene_options *options, cbm_prediction *after) {
    cbm_intervention result;
    scbm_status status = cbm_intervene_report(ctx, concept, class_name, options, &result);
    if (!status) *after = result.after;
    return status;
}

void cbm_intervene_reset(cbm_context *ctx) {
    cbm_overlay *o = overlay_of(ctx);
    if (o) o->run = 0;
}

const scbm_tensor *cbm_overlay_masks(const cbm_context *ctx, const scbm_tensor *weight) {
    const cbm_overlay *o = overlay_of(ctx);
    for (int i = 0; o && i < o->n; i++)
        if (o->matrix[i].parameter->tensor == weight) return &o->matrix[i].masks;
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * The oracle
 * ---------------------------------------------------------------------------------------- */

void cbm_oracle_clear(cbm_context *ctx, cbm_oracle *oracle) {
    const scbm_hooks *hooks = &ctx->model->hooks;
    scbm_release(hooks, oracle->row);
    scbm_release(hooks, oracle->label_before);
    scbm_release(hooks, oracle->label_after);
    scbm_release(hooks, oracle->concept_before);
    scbm_release(hooks, oracle->concept_after);
    memset(oracle, 0, sizeof *oracle);
}

static scbm_status create_oracle(cbm_oracle *oracle, size_t n_texts, size_t most, size_t n_concepts,
                                 const scbm_hooks *hooks) {
    size_t n = most && most < n_texts ? most : n_texts;
    memset(oracle, 0, sizeof *oracle);
    oracle->row = scbm_alloc_array(hooks, n, sizeof *oracle->row);
    oracle->label_before = scbm_alloc_array(hooks, n, sizeof *oracle->label_before);
    oracle->label_after = scbm_alloc_array(hooks, n, sizeof *oracle->label_after);
    oracle->concept_before = scbm_alloc_array(hooks, n * n_concepts, sizeof *oracle->concept_before);
    oracle->concept_after = scbm_alloc_array(hooks, n * n_concepts, sizeof *oracle->concept_after);
    if (!oracle->row || !oracle->label_before || !oracle->label_after || !oracle->concept_before ||
        !oracle->concept_after)
        return SCBM_ERROR_MEMORY;
    oracle->n = n;
    for (size_t i = 0; i < n; i++) oracle->row[i] = (size_t)((double)i * (double)n_texts / (double)n);
    return SCBM_OK;
}

/* Sets every concept of text `i` that is misread to its gold class. */
static scbm_status correct_text(cbm_overlay *o, const cbm_dataset *data, const cbm_intervene_options *options,
                                cbm_oracle *oracle, size_t i) {
    const cbm_heads *heads = heads_of(o);
    size_t n_concepts = (size_t)heads->n_concepts;
    const int32_t *gold = data->concept_class + oracle->row[i] * n_concepts;
    cbm_intervention result;
    cbm_prediction now;
    scbm_status status = load_text(o, i);
    if (status) return status;
    predict_overlay(o, 0, &now);
    oracle->label_before[i] = oracle->label_after[i] = now.label_index;
    for (size_t k = 0; k < n_concepts && !status; k++) {
        int32_t *before = &oracle->concept_before[i * n_concepts + k],
                *after = &oracle->concept_after[i * n_concepts + k];
        *before = *after = reads(heads, o->computed, (int)k);
        if (gold[k] < 0 || gold[k] == *before) continue;
        oracle->concepts_wrong++;
        status = intervene(o, (int)k, gold[k], options, &result);
        if (status) return status;
        *after = reads(heads, o->computed, (int)k);
        oracle->concepts_fixed += *after == gold[k];
        oracle->moved_bits += result.moved_bits;
        oracle->steps += result.steps;
        oracle->label_after[i] = result.after.label_index;
    }
    int32_t label = data->label ? data->label[oracle->row[i]] : -1;
    if (label >= 0) {
        oracle->labels_fixed += oracle->label_before[i] != label && oracle->label_after[i] == label;
        oracle->labels_broken += oracle->label_before[i] == label && oracle->label_after[i] != label;
    }
    return SCBM_OK;
}

/* Texts of the oracle's rows through the model, into the context. */
static scbm_status predict_rows(cbm_context *ctx, const cbm_dataset *data, const cbm_oracle *oracle) {
    const scbm_hooks *hooks = &ctx->model->hooks;
    const char **texts = scbm_alloc_array(hooks, oracle->n, sizeof *texts);
    size_t *lengths = scbm_alloc_array(hooks, oracle->n, sizeof *lengths);
    scbm_status status = texts && lengths ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < oracle->n && !status; i++) {
        texts[i] = data->text[oracle->row[i]];
        lengths[i] = data->text_length[oracle->row[i]];
    }
    if (!status) status = cbm_compute_logits(ctx, texts, lengths, oracle->n, "predict");
    scbm_release(hooks, (void *)texts);
    scbm_release(hooks, lengths);
    return status;
}

static scbm_status run_oracle(cbm_context *ctx, const cbm_dataset *data, const cbm_intervene_options *options,
                              size_t most, cbm_oracle *oracle) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->model->hooks;
    double start = scbm_seconds();
    const cbm_names names = cbm_heads_names(heads);
    scbm_status status = cbm_dataset_check_names(data, &names, "the data");
    if (!status) status = create_oracle(oracle, data->n, most, (size_t)heads->n_concepts, hooks);
    if (!status) status = create_overlay(ctx);
    if (!status) status = predict_rows(ctx, data, oracle);
    oracle->predict_seconds = scbm_seconds() - start;
    for (size_t i = 0; i < oracle->n && !status; i++) {
        status = correct_text(overlay_of(ctx), data, options, oracle, i);
        if (!status && hooks->progress && hooks->progress(hooks->user, "intervene", (int64_t)i + 1, (int64_t)oracle->n))
            status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %zu of %zu texts", i + 1, oracle->n);
    }
    cbm_intervene_reset(ctx);
    oracle->seconds = scbm_seconds() - start;
    return status;
}

scbm_status cbm_intervene_oracle(cbm_context *ctx, const struct cbm_dataset *data, const cbm_intervene_options *options,
                                 size_t most, cbm_oracle *oracle) {
    if (!options) options = &default_options;
    memset(oracle, 0, sizeof *oracle);
    scbm_status status = cbm_intervene_check(ctx->model, options);
    if (!status) status = run_oracle(ctx, data, options, most, oracle);
    if (status) cbm_oracle_clear(ctx, oracle);
    return cbm_context_result(ctx, status);
}
