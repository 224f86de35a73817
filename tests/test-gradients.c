/*
 * tests/test-gradients.c - every backward rule of the op table against finite differences
 *
 * For each op, loss = Σ w ⊙ op(…) with random w. Three values of its gradient must agree: the runtime's (f32), the
 * reference's evaluation of the nodes that scbm_graph_backward has built (f64), and central differences of the
 * reference's forward pass.
 */
#include "tests/helpers.h"
#include "tests/op-cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static scbm_context *context;

static int create_context(void **state) {
    (void)state;
    scbm_hooks hooks = {0};
    hooks.n_workers = 1;
    return scbm_context_create(&context, &hooks, NULL) ? -1 : 0;
}

static int free_context(void **state) {
    (void)state;
    scbm_context_free(context);
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Comparing a graph with the reference
 * ---------------------------------------------------------------------------------------- */

/* With gradients that the host can look at. */
static scbm_status backward(scbm_graph *g, scbm_tensor *loss, scbm_tensor *const *wrt, int n) {
    scbm_status status = scbm_graph_backward(g, loss, wrt, n);
    for (int i = 0; i < n && !status; i++) scbm_graph_fetch(g, scbm_graph_gradient(g, wrt[i]));
    return status;
}

/* Fetches what every node reads and makes, so that each can be looked at. */
static void keep_all(scbm_graph *g) {
    for (int i = 0; i < scbm_graph_nodes(g); i++) {
        const scbm_node *node = scbm_graph_node(g, i);
        for (int s = 0; s < node->n_sources; s++)
            if (node->source[s] && node->source[s]->graph) scbm_graph_fetch(g, node->source[s]);
        for (int r = 0; r < node->n_results; r++) scbm_graph_fetch(g, node->result[r]);
    }
}

static double norm_of(const ref_array *a) {
    double sum = 0.0;
    for (int64_t i = 0; i < a->n; i++) sum += a->value[i] * a->value[i];
    return sqrt(sum);
}

/* Every f32 result of every node is the reference's; a sum's error is relative to what was summed. */
static void compare_nodes(const scbm_graph *g, reference *r, const char *what) {
    for (int i = 0; i < scbm_graph_nodes(g); i++) {
        const scbm_node *node = scbm_graph_node(g, i);
        for (int j = 0; j < node->n_results; j++) {
            const ref_array *want = reference_array(r, node->result[j]);
            if (node->result[j]->type != SCBM_F32 || !want->n) continue;
            double norm = norm_of(want), distance = ref_distance(node->result[j]->data, want) * norm;
            if (node->op == SCBM_OP_SUM_TO) norm = fmax(norm, norm_of(reference_array(r, node->source[0])));
            if (norm > 0.0 && !(distance < 1e-5 * norm))
                fail_msg("%s: result %d of node %d, %s, is %g of %g from the reference", what, j, i,
                         scbm_op_of(node->op)->name, distance, norm);
        }
    }
}

/* Up to `n` elements of the gradient in the reference against central differences; returns the largest one. */
static double compare_differences(reference *r, scbm_graph *g, const scbm_tensor *loss, const scbm_tensor *tensor,
                                  int64_t n, const char *what) {
    const ref_array *gradient = reference_array(r, scbm_graph_gradient(g, tensor));
    double largest = 0.0;
    for (int64_t i = 0; i < gradient->n; i++) largest = fmax(largest, fabs(gradient->value[i]));
    scbm_random random = {17, (uint64_t)gradient->n, 0};
    for (int64_t i = 0; i < n && i < gradient->n; i++) {
        int64_t j = gradient->n <= n ? i : (int64_t)scbm_random_below(&random, (uint64_t)gradient->n);
        double value = reference_array(r, scbm_graph_gradient(g, tensor))->value[j];
        double difference = reference_difference(r, loss, tensor, j);
        if (!(fabs(value - difference) <= 1e-6 * largest + 1e-8))
            fail_msg("%s: the gradient of %s has %.12g at %lld, the difference quotient is %.12g", what, tensor->name,
                     value, (long long)j, difference);
    }
    return largest;
}

/* ------------------------------------------------------------------------------------------
 * One op at a time
 * ---------------------------------------------------------------------------------------- */

typedef struct tally {
    double largest[SCBM_MAX_SOURCES];
    int n_looks[SCBM_MAX_SOURCES], n_gradients;
} tally;

/* The sum of the op's first result, weighted by an input w. */
static scbm_tensor *weighted_sum(scbm_graph *g, const scbm_node *node, scbm_tensor **w) {
    scbm_tensor *y = node ? node->result[0] : NULL;
    if (!y) return NULL;
    if (y->type != SCBM_F32) y = scbm_cast(g, y, SCBM_F32);
    scbm_extent extent[SCBM_MAX_DIMS];
    for (int i = 0; i < y->n_dims; i++) extent[i] = (scbm_extent)y->extent[i];
    *w = scbm_input(g, "w", SCBM_F32, y->n_dims, y->shape, extent);
    return scbm_sum(g, scbm_mul(g, y, *w));
}

static void check_gradients(void *user, op_case *c) {
    tally *t = user;
    built_case built;
    scbm_tensor *wrt[SCBM_MAX_SOURCES], *w = NULL;
    int index[SCBM_MAX_SOURCES], n = 0;
    assert_ok_for(case_build(&built, c, context), c->what);
    scbm_tensor *loss = scbm_graph_fetch(built.graph, weighted_sum(built.graph, built.node, &w));
    for (int i = 0; i < c->n_sources; i++)
        if (c->source[i].is_present && c->source[i].is_differentiable) {
            index[n] = i;
            wrt[n++] = built.source[i];
        }
    assert_ok_for(backward(built.graph, loss, wrt, n), c->what);
    keep_all(built.graph);
    assert_ok_for(scbm_graph_plan(built.graph), c->what);
    case_fill(&built, c);
    int64_t shape[SCBM_MAX_DIMS], elements = batch_shape(w, c->tokens, c->texts, shape);
    for (int64_t i = 0; i < elements; i++) ((float *)w->data)[i] = (float)(scbm_random_uniform(&c->random) * 2.0 - 1.0);
    assert_ok_for(scbm_graph_run(built.graph, c->tokens, c->texts), c->what);

    reference r;
    reference_create(&r, built.graph, c->tokens, c->texts);
    r.seed = c->seed;
    r.step = c->step;
    reference_run(&r, -1);
    compare_nodes(built.graph, &r, c->what);
    r.exact = 1;
    reference_run(&r, -1);
    for (int i = 0; i < n; i++) {
        t->largest[index[i]] = fmax(t->largest[index[i]],
                                    compare_differences(&r, built.graph, loss, wrt[i], 40, c->what));
        t->n_looks[index[i]]++;
        t->n_gradients++;
    }
    reference_free(&r);
    case_release(&built);
}

static void rule_agrees_with_differences(void **state) {
    scbm_op op = (scbm_op)(intptr_t)*state;
    tally t = {{0.0}, {0}, 0};
    if (!op_cases(op, 1, check_gradients, &t)) fail_msg("%s has no test case", scbm_op_of(op)->name);
    assert_true(t.n_gradients > 0);
    for (int i = 0; i < SCBM_MAX_SOURCES; i++) /* a source that was looked at had another gradient than zero */
        if (t.n_looks[i] && t.largest[i] == 0.0) fail_msg("source %d: the gradient was zero in every case", i);
}

/* What cannot be differentiated says so. */
static void refuse(void *user, op_case *c) {
    int *n = user;
    built_case built;
    scbm_tensor *wrt = NULL, *w = NULL;
    if (*n) return;
    assert_ok_for(case_build(&built, c, context), c->what);
    if (!built.node->n_results || built.node->result[0]->type != SCBM_F32) { /* no loss can be made of it */
        case_release(&built);
        (*n)++;
        return;
    }
    scbm_tensor *loss = weighted_sum(built.graph, built.node, &w);
    for (int i = 0; i < c->n_sources && !wrt; i++)
        if (c->source[i].is_present && c->source[i].tensor.type == SCBM_F32) wrt = built.source[i];
    assert_int_equal(backward(built.graph, loss, &wrt, 1), SCBM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(scbm_last_error(), scbm_op_of(c->op)->name));
    assert_int_equal(scbm_graph_plan(built.graph), SCBM_ERROR_UNSUPPORTED);
    case_release(&built);
    (*n)++;
}

static void op_without_a_rule_is_refused(void **state) {
    scbm_op op = (scbm_op)(intptr_t)*state;
    int n = 0;
    op_cases(op, 1, refuse, &n);
    assert_int_equal(n, 1);
}

/* ------------------------------------------------------------------------------------------
 * Whole graphs
 * ---------------------------------------------------------------------------------------- */

/* A graph with inputs and weights of random values. */
#define MAX_WEIGHTS 40
typedef struct model {
    scbm_graph *graph;
    scbm_tensor weight[MAX_WEIGHTS];
    scbm_tensor *wrt[MAX_WEIGHTS]; /* those that have a gradient */
    int n_weights, n_wrt;
    scbm_random random;
} model;

static void model_create(model *m, scbm_context *in, int64_t tokens, int64_t texts) {
    memset(m, 0, sizeof *m);
    m->random = (scbm_random){4, 2, 0};
    assert_ok(scbm_graph_create(&m->graph, in));
    scbm_graph_set_capacity(m->graph, tokens, texts);
    scbm_graph_set_random(m->graph, 99, 3);
}

static void model_free(model *m) {
    scbm_graph_free(m->graph);
    for (int i = 0; i < m->n_weights; i++) {
        scbm_tensor_forget(&m->weight[i]);
        free(m->weight[i].data);
    }
    memset(m, 0, sizeof *m);
}

static scbm_tensor *new_weight(model *m, const char *name, scbm_type type, int n_dims, const int64_t *shape) {
    assert_true(m->n_weights < MAX_WEIGHTS);
    scbm_tensor *t = &m->weight[m->n_weights++];
    assert_ok_for(scbm_tensor_init(t, name, type, n_dims, shape), name);
    t->data = calloc(1, scbm_tensor_bytes(t) + 1);
    assert_non_null(t->data);
    return t;
}

/* Uniform in center ± spread; its gradient is wanted. */
static scbm_tensor *parameter(model *m, const char *name, double center, double spread, int n_dims,
                              const int64_t *shape) {
    scbm_tensor *t = new_weight(m, name, SCBM_F32, n_dims, shape);
    for (int64_t i = 0; i < scbm_tensor_elements(t); i++)
        ((float *)t->data)[i] = (float)(center + spread * (2.0 * scbm_random_uniform(&m->random) - 1.0));
    m->wrt[m->n_wrt++] = t;
    return t;
}

static scbm_tensor *masks_of(model *m, int64_t s, int64_t out, int64_t in) {
    scbm_tensor *t = new_weight(m, "masks", SCBM_I8, DIMS(s, out, scbm_mask_row_bytes(in)));
    for (size_t i = 0; i < scbm_tensor_bytes(t); i++)
        ((unsigned char *)t->data)[i] = (unsigned char)scbm_random_below(&m->random, 256);
    return t;
}

static scbm_tensor *integers(model *m, const char *name, int n, const int32_t *values) {
    scbm_tensor *t = new_weight(m, name, SCBM_I32, DIMS(n));
    memcpy(t->data, values, (size_t)n * sizeof *values);
    return t;
}

static scbm_tensor *masked_linear(model *m, scbm_tensor *x, int64_t out, int64_t in, scbm_activation act) {
    scbm_tensor *w = parameter(m, "w", 0.0, 0.7, DIMS(out, in)), *b = parameter(m, "b", 0.0, 0.3, DIMS(out));
    return scbm_linear(m->graph, x, w, b, masks_of(m, 3, out, in), act);
}

static scbm_tensor *normalized(model *m, scbm_tensor *x, scbm_tensor *residual, int64_t d) {
    scbm_tensor *gamma = parameter(m, "gamma", 1.0, 0.3, DIMS(d)), *beta = parameter(m, "beta", 0.0, 0.3, DIMS(d));
    if (!residual) return scbm_layer_norm(m->graph, x, gamma, beta, 1e-3f);
    return scbm_add_layer_norm(m->graph, x, residual, gamma, beta, 1e-3f);
}

typedef struct block {
    model m;
    scbm_tensor *ids, *offsets, *targets, *loss;
} block;

/* A transformer block over three masked streams, from token ids to the loss of three concepts. */
static void block_build(block *b, scbm_context *in, float dropout) {
    enum { D = 8, HIDDEN = 12, HEADS = 2 };
    static const int32_t groups[] = {0, 3, 5, 9}, buckets[] = {0, 0, 0, 1, 1, 2, 1, 1, 0, 2, 2};
    static const scbm_extent by_token[] = {SCBM_TOKENS}, by_text[] = {SCBM_TEXTS, SCBM_FIXED};
    model *m = &b->m;
    model_create(m, in, 12, 4);
    scbm_graph *g = m->graph;
    b->ids = scbm_input(g, "ids", SCBM_I32, DIMS(0), by_token);
    b->offsets = scbm_input(g, "offsets", SCBM_I32, DIMS(5), NULL);
    b->targets = scbm_input(g, "targets", SCBM_I32, DIMS(0, 3), by_text);
    scbm_tensor *x = scbm_get_rows(g, parameter(m, "table", 0.0, 1.0, DIMS(7, D)), b->ids);
    x = scbm_dropout(g, normalized(m, x, NULL, D), dropout);
    scbm_tensor *q = masked_linear(m, x, D, D, SCBM_NONE), *k = masked_linear(m, x, D, D, SCBM_NONE);
    scbm_tensor *v = masked_linear(m, x, D, D, SCBM_NONE);
    scbm_tensor *distances = scbm_get_rows(g, parameter(m, "biases", 0.0, 0.5, DIMS(3, HEADS)),
                                           integers(m, "buckets", 11, buckets));
    scbm_tensor *y = scbm_attention_biased(g, q, k, v, distances, b->offsets, HEADS, 0.5f, 0, dropout);
    y = scbm_rms_norm(g, y, parameter(m, "gamma", 1.0, 0.3, DIMS(D)), 1e-3f);
    y = normalized(m, scbm_dropout(g, masked_linear(m, y, D, D, SCBM_NONE), dropout), x, D);
    scbm_tensor *hidden = masked_linear(m, y, HIDDEN, D, SCBM_GELU_ERF);
    y = normalized(m, masked_linear(m, hidden, D, HIDDEN, SCBM_NONE), y, D);
    scbm_tensor *z = scbm_segment_mean(g, y, b->offsets);
    scbm_tensor *w = parameter(m, "heads", 0.0, 1.0, DIMS(9, D)), *bias = parameter(m, "bias", 0.0, 0.2, DIMS(9));
    scbm_tensor *cuts = integers(m, "groups", 4, groups);
    b->loss = scbm_graph_fetch(g,
                               scbm_cross_entropy(g, scbm_group_linear(g, z, w, bias, cuts), b->targets, cuts, NULL));
}

static void block_run(block *b) {
    static const int32_t ids[] = {0, 3, 3, 6, 1, 2, 5, 0, 4, 6}, offsets[] = {0, 4, 4, 10, -1};
    static const int32_t targets[] = {2, 0, 1, 0, -1, 3, 1, 1, 0};
    assert_ok(scbm_graph_plan(b->m.graph));
    memcpy(b->ids->data, ids, sizeof ids);
    memcpy(b->offsets->data, offsets, sizeof offsets);
    memcpy(b->targets->data, targets, sizeof targets);
    assert_ok(scbm_graph_run(b->m.graph, 10, 3));
}

static void block_of_three_streams(void **state) {
    (void)state;
    block b;
    reference r;
    block_build(&b, context, 0.1f);
    assert_ok(backward(b.m.graph, b.loss, b.m.wrt, b.m.n_wrt));
    keep_all(b.m.graph);
    block_run(&b);
    reference_create(&r, b.m.graph, 10, 3);
    r.seed = 99;
    r.step = 3;
    reference_run(&r, -1);
    compare_nodes(b.m.graph, &r, "block");
    r.exact = 1;
    reference_run(&r, -1);
    int n_zero = 0;
    for (int i = 0; i < b.m.n_wrt; i++)
        n_zero += compare_differences(&r, b.m.graph, b.loss, b.m.wrt[i], 6, "block") < 1e-12;
    assert_int_equal(b.m.n_wrt, 23);
    assert_true(n_zero <= 1); /* a key bias adds the same to all scores of a query: its gradient is zero */
    reference_free(&r);
    model_free(&b.m);
}

/* Reusing dead memory changes nothing, nor does the number of threads. */
static void gradients_have_the_same_bits(void **state) {
    (void)state;
    enum { KEPT, REUSED, THREADS, N };
    block b[N];
    scbm_context *three;
    scbm_hooks hooks = {0};
    size_t bytes[N];
    hooks.n_workers = 3;
    assert_ok(scbm_context_create(&three, &hooks, NULL));
    for (int i = 0; i < N; i++) {
        block_build(&b[i], i == THREADS ? three : context, 0.1f);
        assert_ok(backward(b[i].m.graph, b[i].loss, b[i].m.wrt, b[i].m.n_wrt));
        if (i == KEPT) keep_all(b[i].m.graph);
        block_run(&b[i]);
        assert_ok(scbm_graph_measure(b[i].m.graph, &bytes[i]));
    }
    assert_true(bytes[REUSED] < bytes[KEPT]);
    for (int i = 0; i < b[KEPT].m.n_wrt; i++) {
        const scbm_tensor *kept = scbm_graph_gradient(b[KEPT].m.graph, b[KEPT].m.wrt[i]);
        for (int j = REUSED; j < N; j++)
            assert_memory_equal(kept->data, scbm_graph_gradient(b[j].m.graph, b[j].m.wrt[i])->data,
                                scbm_tensor_bytes(kept));
    }
    for (int i = 0; i < N; i++) model_free(&b[i].m);
    scbm_context_free(three);
}

/* The fused ops and their decompositions have the same gradients. */
static void decomposed_block(void **state) {
    (void)state;
    block fused, parts;
    block_build(&fused, context, 0.0f);
    block_build(&parts, context, 0.0f);
    int n_before = scbm_graph_nodes(parts.m.graph);
    assert_ok(scbm_graph_decompose(parts.m.graph));
    assert_true(scbm_graph_nodes(parts.m.graph) > n_before);
    for (int i = 0; i < scbm_graph_nodes(parts.m.graph); i++) {
        const scbm_node *node = scbm_graph_node(parts.m.graph, i);
        int is_linear = (node->op == SCBM_OP_LINEAR && !node->integer[0]) || node->op == SCBM_OP_GROUP_LINEAR;
        assert_true(!scbm_op_of(node->op)->has_decomposition || is_linear);
    }
    assert_ok(backward(fused.m.graph, fused.loss, fused.m.wrt, fused.m.n_wrt));
    assert_ok(backward(parts.m.graph, parts.loss, parts.m.wrt, parts.m.n_wrt));
    block_run(&fused);
    block_run(&parts);
    for (int i = 0; i < scbm_graph_nodes(parts.m.graph);
         i++) /* linear layers were replaced when their gradients were there */
        assert_false(scbm_op_of(scbm_graph_node(parts.m.graph, i)->op)->has_decomposition);
    for (int i = 0; i < fused.m.n_wrt; i++) {
        const float *a = scbm_graph_gradient(fused.m.graph, fused.m.wrt[i])->data;
        const float *b = scbm_graph_gradient(parts.m.graph, parts.m.wrt[i])->data;
        double difference = 0.0, norm = 0.0;
        for (int64_t j = 0; j < scbm_tensor_elements(fused.m.wrt[i]); j++) {
            difference += (a[j] - b[j]) * (a[j] - b[j]);
            norm += a[j] * a[j];
        }
        if (!(sqrt(difference) <= 1e-5 * sqrt(norm) + 1e-7)) fail_msg("%s differs", fused.m.wrt[i]->name);
    }
    model_free(&fused.m);
    model_free(&parts.m);
}

/* loss = Σ (x² + 3 x − x · x + …): every use of a tensor adds to its gradient. */
static void uses_add_up(void **state) {
    (void)state;
    model m;
    model_create(&m, context, 0, 0);
    scbm_graph *g = m.graph;
    scbm_tensor *x = parameter(&m, "x", 0.5, 1.0, DIMS(2, 5));
    scbm_tensor *square = scbm_mul(g, x, x), *thrice = scbm_scale(g, x, 3.0f);
    scbm_tensor *sum = scbm_add(g, scbm_add(g, square, thrice), scbm_mul(g, square, x)); /* x² + 3 x + x³ */
    scbm_tensor *loss = scbm_sum(g, scbm_add(g, sum, sum));
    scbm_tensor *wrt[] = {x, square};
    assert_ok(backward(g, loss, wrt, 2));
    assert_ok(scbm_graph_plan(g));
    assert_ok(scbm_graph_run(g, 0, 0));
    for (int i = 0; i < 10; i++) {
        double v = ((float *)x->data)[i];
        assert_float_equal(((float *)scbm_graph_gradient(g, x)->data)[i], 2.0 * (2.0 * v + 3.0 + 3.0 * v * v), 1e-4);
        assert_float_equal(((float *)scbm_graph_gradient(g, square)->data)[i], 2.0 * (1.0 + v), 1e-5);
    }
    model_free(&m);
}

static void no_influence_is_a_zero_gradient(void **state) {
    (void)state;
    model m;
    model_create(&m, context, 0, 0);
    scbm_tensor *x = parameter(&m, "x", 0.5, 1.0, DIMS(3)), *other = parameter(&m, "other", 0.5, 1.0, DIMS(2, 2));
    scbm_tensor *loss = scbm_sum(m.graph, scbm_scale(m.graph, x, 2.0f));
    assert_null(scbm_graph_gradient(m.graph, x));
    assert_ok(backward(m.graph, loss, m.wrt, 2));
    assert_ok(scbm_graph_plan(m.graph));
    memset(scbm_graph_gradient(m.graph, x)->data, 0xff, 3 * sizeof(float));
    assert_ok(scbm_graph_run(m.graph, 0, 0));
    for (int i = 0; i < 3; i++) assert_true(((float *)scbm_graph_gradient(m.graph, x)->data)[i] == 2.0f);
    for (int i = 0; i < 4; i++) assert_true(((float *)scbm_graph_gradient(m.graph, other)->data)[i] == 0.0f);
    model_free(&m);
}

/* A masked linear over three streams: its gradient by stream, masked and dense, against the summed one. */
static void weight_gradients_by_stream(void **state) {
    (void)state;
    enum { S = 3, OUT = 5, IN = 9 };
    double sum[OUT * IN] = {0.0};
    float masked[S * OUT * IN];
    for (int mode = SCBM_DW_DENSE; mode >= SCBM_DW_SUMMED; mode--) {
        model m;
        reference r;
        model_create(&m, context, 4, 1);
        scbm_tensor *w = parameter(&m, "w", 0.0, 1.0, DIMS(OUT, IN)), *masks = masks_of(&m, S, OUT, IN);
        scbm_tensor *x = parameter(&m, "x", 0.0, 1.0, DIMS(1, 4, IN));
        scbm_tensor *y = scbm_linear(m.graph, x, w, NULL, masks, SCBM_TANH);
        scbm_tensor *loss = scbm_sum(m.graph, scbm_mul(m.graph, y, y));
        scbm_graph_set_weight_gradients(m.graph, (scbm_dw_mode)mode);
        assert_ok(backward(m.graph, loss, &w, 1));
        const scbm_tensor *gradient = scbm_graph_gradient(m.graph, w);
        assert_int_equal(scbm_tensor_elements(gradient), (mode == SCBM_DW_SUMMED ? 1 : S) * OUT * IN);
        keep_all(m.graph);
        assert_ok(scbm_graph_plan(m.graph));
        assert_ok(scbm_graph_run(m.graph, 0, 0));
        reference_create(&r, m.graph, 0, 0);
        reference_run(&r, -1);
        compare_nodes(m.graph, &r, "by stream");
        const float *got = gradient->data;
        const unsigned char *planes = masks->data;
        int64_t row = scbm_mask_row_bytes(IN);
        for (int i = 0; i < S * OUT * IN && mode != SCBM_DW_SUMMED; i++) {
            int bit = planes[i / IN * row + i % IN / 8] >> (i % IN % 8) & 1;
            if (mode == SCBM_DW_DENSE) masked[i] = bit ? got[i] : 0.0f;
            else assert_true(got[i] == masked[i]);
            if (mode == SCBM_DW_MASKED) sum[i % (OUT * IN)] += got[i];
        }
        for (int i = 0; i < OUT * IN && mode == SCBM_DW_SUMMED; i++) assert_float_equal(got[i], sum[i], 1e-5);
        reference_free(&r);
        model_free(&m);
    }
}

/* The weight may be of any float type then, and only then. */
static void weights_of_16_bits_have_gradients_by_stream(void **state) {
    (void)state;
    for (int mode = SCBM_DW_SUMMED; mode <= SCBM_DW_DENSE; mode++) {
        model m;
        model_create(&m, context, 4, 1);
        scbm_tensor *w = new_weight(&m, "w", SCBM_BF16, DIMS(3, 4)), *x = parameter(&m, "x", 0.0, 1.0, DIMS(2, 3, 4));
        scbm_tensor *loss = scbm_sum(m.graph, scbm_linear(m.graph, x, w, NULL, NULL, SCBM_NONE));
        scbm_graph_set_weight_gradients(m.graph, (scbm_dw_mode)mode);
        assert_int_equal(backward(m.graph, loss, &w, 1), mode ? SCBM_OK : SCBM_ERROR_ARGUMENT);
        if (mode) {
            assert_ok(scbm_graph_plan(m.graph));
            assert_ok(scbm_graph_run(m.graph, 0, 0));
            const float *got = scbm_graph_gradient(m.graph, w)->data, *from = x->data;
            for (int i = 0; i < 2 * 3 * 4; i++) { /* each row of stream s is its three tokens' sum */
                double want = 0.0;
                for (int t = 0; t < 3; t++) want += from[(i / 12 * 3 + t) * 4 + i % 4];
                assert_float_equal(got[i], want, 1e-5);
            }
        }
        model_free(&m);
    }
}

/* Distances of texts of two tokens, and a text of three. */
static void a_text_beyond_the_bias_is_refused(void **state) {
    (void)state;
    static const scbm_extent by_token[] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    model m;
    model_create(&m, context, 4, 1);
    scbm_tensor *x = scbm_input(m.graph, "x", SCBM_F32, DIMS(1, 0, 4), by_token);
    scbm_tensor *offsets = scbm_input(m.graph, "offsets", SCBM_I32, DIMS(2), NULL);
    scbm_tensor *bias = parameter(&m, "bias", 0.0, 1.0, DIMS(1, 3, 2));
    scbm_output(m.graph, scbm_attention_biased(m.graph, x, x, x, bias, offsets, 2, 1.0f, 0, 0.0f));
    assert_ok(scbm_graph_plan(m.graph));
    memset(x->data, 0, 12 * sizeof(float));
    ((int32_t *)offsets->data)[0] = 0;
    ((int32_t *)offsets->data)[1] = 2;
    assert_ok(scbm_graph_run(m.graph, 2, 1));
    ((int32_t *)offsets->data)[1] = 3;
    assert_error(scbm_graph_run(m.graph, 3, 1), SCBM_ERROR_SHAPE,
                 "a text of 3 tokens, and the bias's distances are for 2");
    model_free(&m);
}

static void bad_requests_are_refused(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        model m;
        model_create(&m, context, 0, 0);
        scbm_tensor *x = parameter(&m, "x", 0.5, 1.0, DIMS(3)), *half = new_weight(&m, "half", SCBM_F16, DIMS(3));
        scbm_tensor *y = scbm_scale(m.graph, x, 2.0f), *loss = scbm_sum(m.graph, y);
        scbm_tensor *wrt = i == 0 ? half : i == 1 ? NULL : x;
        if (i == 3) assert_ok(backward(m.graph, loss, &wrt, 1));
        assert_int_equal(scbm_graph_backward(m.graph, i == 2 ? y : loss, &wrt, 1), SCBM_ERROR_ARGUMENT);
        assert_int_equal(scbm_graph_plan(m.graph), SCBM_ERROR_ARGUMENT);
        model_free(&m);
    }
}

int main(void) {
    static char names[SCBM_OP_COUNT][96];
    static const struct CMUnitTest whole[] = {
        cmocka_unit_test(block_of_three_streams),
        cmocka_unit_test(gradients_have_the_same_bits),
        cmocka_unit_test(decomposed_block),
        cmocka_unit_test(uses_add_up),
        cmocka_unit_test(no_influence_is_a_zero_gradient),
        cmocka_unit_test(weight_gradients_by_stream),
        cmocka_unit_test(weights_of_16_bits_have_gradients_by_stream),
        cmocka_unit_test(a_text_beyond_the_bias_is_refused),
        cmocka_unit_test(bad_requests_are_refused),
    };
    static struct CMUnitTest table[SCBM_OP_COUNT + COUNT_OF(whole)];
    int n = 0;
    for (; n < SCBM_OP_COUNT; n++) {
        int has_rule = scbm_op_of((scbm_op)n)->has_backward;
        snprintf(names[n], sizeof names[n], "%s %s", scbm_op_of((scbm_op)n)->name,
                 has_rule ? "agrees with differences" : "has no rule and is refused");
        table[n] = (struct CMUnitTest){names[n], has_rule ? rule_agrees_with_differences : op_without_a_rule_is_refused,
                                       NULL, NULL, (void *)(intptr_t)n};
    }
    for (int i = 0; i < COUNT_OF(whole); i++) table[n++] = whole[i];
    return _cmocka_run_group_tests("gradients", table, (size_t)n, create_context, free_context);
}
