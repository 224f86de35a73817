/*
 * tests/test-sparse.c - masked weights are left out, and nobody can tell
 *
 * A product with masked weights is computed without the weights that the masks drop. Its bits, and those of its
 * gradient by x, are those of the same product with zeros in the place of those weights and no masks; on matrix tiles
 * (amx) in bf16 alone. Sums in f32, and the gradient by the weights, whose sums may run in another order, are compared with
 * sums in double precision. On every tier of this machine; with two workers here and one there.
 */
#include "tests/helpers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TOKENS = 300, MOST_STREAMS = 3 };

/* ------------------------------------------------------------------------------------------
 * A product: its weights, and its masks
 * ---------------------------------------------------------------------------------------- */

typedef struct product {
    int64_t in, out, streams, x_streams;
    scbm_tensor w, masks, bias;
    float *x, *dy;
} product;

static void fill(float *values, int64_t n, scbm_random *random) {
    for (int64_t i = 0; i < n; i++) values[i] = (float)scbm_random_uniform(random) - 0.5f;
}

static void *zeros(int64_t bytes) {
    void *memory = scbm_alloc(NULL, (size_t)bytes + 1);
    assert_non_null(memory);
    return memory;
}

static void tensor_new(scbm_tensor *t, const char *name, scbm_type type, int n_dims, int64_t a, int64_t b, int64_t c) {
    const int64_t shape[3] = {a, b, c};
    assert_ok(scbm_tensor_init(t, name, type, n_dims, shape));
    t->data = zeros((int64_t)scbm_tensor_bytes(t));
}

static int kept(const product *p, int64_t s, int64_t row, int64_t column) {
    const uint8_t *plane = p->masks.data;
    return plane[(s * p->out + row) * p->masks.shape[2] + column / 8] >> column % 8 & 1;
}

/* A density below 0: whole rows are dropped. Bits behind a row's end are set, and mean nothing. */
static void fill_masks(product *p, double density, scbm_random *random) {
    uint8_t *plane = p->masks.data;
    for (int64_t row = 0; row < p->streams * p->out; row++, plane += p->masks.shape[2]) {
        int dropped = density < 0 && scbm_random_uniform(random) < -density;
        for (int64_t i = 0; i < 8 * p->masks.shape[2]; i++)
            if (i >= p->in || (density < 0 ? !dropped : scbm_random_uniform(random) < density))
                plane[i / 8] |= (uint8_t)(1 << i % 8);
    }
}

static void product_new(product *p, scbm_type type, int64_t in, int64_t out, int64_t streams, int shared,
                        double density) {
    scbm_random random = {7, (uint64_t)(in * 1000 + out), 0};
    int64_t n = in * out;
    float *values = zeros(n * (int64_t)sizeof(float));
    memset(p, 0, sizeof *p);
    p->in = in;
    p->out = out;
    p->streams = streams;
    p->x_streams = shared ? 1 : streams;
    tensor_new(&p->w, "w", type, 2, out, in, 0);
    tensor_new(&p->masks, "masks", SCBM_I8, 3, streams, out, scbm_mask_row_bytes(in));
    tensor_new(&p->bias, "bias", SCBM_F32, 1, out, 0, 0);
    fill(values, n, &random);
    assert_ok(scbm_convert(type, p->w.data, SCBM_F32, values, n));
    fill(p->bias.data, out, &random);
    fill_masks(p, density, &random);
    p->x = zeros(p->x_streams * MOST_TOKENS * in * (int64_t)sizeof(float));
    p->dy = zeros(streams * MOST_TOKENS * out * (int64_t)sizeof(float));
    fill(p->x, p->x_streams * MOST_TOKENS * in, &random);
    fill(p->dy, streams * MOST_TOKENS * out, &random);
    scbm_release(NULL, values);
}

static void product_clear(product *p) {
    scbm_release(NULL, p->w.data);
    scbm_release(NULL, p->masks.data);
    scbm_release(NULL, p->bias.data);
    scbm_release(NULL, p->x);
    scbm_release(NULL, p->dy);
}

/* Puts zeros where stream s has none of the weights; a zero of the weights' own type. */
static void drop(const product *p, int64_t s, scbm_tensor *w) {
    uint8_t *data = w->data;
    const scbm_type_info *type = scbm_type_of(w->type);
    for (int64_t i = 0; i < p->in * p->out; i++) {
        uint8_t *block = data + i / type->block * type->block_bytes;
        int64_t at = i % type->block;
        if (kept(p, s, i / p->in, i % p->in)) continue;
        if (w->type == SCBM_Q8_0) block[2 + at] = 0;
        else if (w->type == SCBM_Q4_0)
            block[2 + at % 16] = (uint8_t)(at < 16 ? (block[2 + at] & 0xf0) | 8 : (block[2 + at % 16] & 0x0f) | 0x80);
        else memset(block, 0, (size_t)type->block_bytes);
    }
}

/* ------------------------------------------------------------------------------------------
 * Its graph: y, and the gradients of the sum over y ⊙ dy
 * ---------------------------------------------------------------------------------------- */

typedef struct run {
    scbm_graph *graph;
    scbm_tensor *x, *dy, *y;
    scbm_tensor *wrt;
} run;

/* Of all streams with masks, or of one with the weights `dense`. */
static void run_new(run *r, scbm_context *context, product *p, scbm_tensor *dense, scbm_precision precision,
                    const scbm_dw_mode *by_weights) {
    const scbm_extent tokens[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    const int64_t x_shape[3] = {dense ? 1 : p->x_streams, 0, p->in}, y_shape[3] = {dense ? 1 : p->streams, 0, p->out};
    assert_ok(scbm_graph_create(&r->graph, context));
    scbm_graph_set_capacity(r->graph, MOST_TOKENS, 1);
    scbm_graph_set_precision(r->graph, precision);
    r->x = scbm_input(r->graph, "x", SCBM_F32, 3, x_shape, tokens);
    r->dy = scbm_input(r->graph, "dy", SCBM_F32, 3, y_shape, tokens);
    r->y = scbm_output(r->graph, scbm_linear(r->graph, r->x, dense ? dense : &p->w, &p->bias, dense ? NULL : &p->masks,
                                             SCBM_GELU_ERF));
    r->wrt = by_weights ? &p->w : r->x;
    if (by_weights) scbm_graph_set_weight_gradients(r->graph, *by_weights);
    scbm_tensor *linear = scbm_linear(r->graph, r->x, dense ? dense : &p->w, NULL, dense ? NULL : &p->masks, SCBM_NONE);
    scbm_tensor *loss = scbm_sum(r->graph, scbm_mul(r->graph, linear, r->dy));
    assert_ok(scbm_graph_backward(r->graph, loss, &r->wrt, 1));
    assert_ok(scbm_graph_plan(r->graph));
}

/* For the first T tokens of the product's, of stream s or of all. */
static void run_tokens(const run *r, const product *p, int64_t s, int64_t tokens) {
    int64_t x_stream = p->x_streams > 1 ? s : 0;
    for (int64_t i = 0; i < r->x->shape[0]; i++)
        memcpy((float *)r->x->data + i * tokens * p->in, p->x + (x_stream + i) * MOST_TOKENS * p->in,
               (size_t)(tokens * p->in) * sizeof(float));
    for (int64_t i = 0; i < r->dy->shape[0]; i++)
        memcpy((float *)r->dy->data + i * tokens * p->out, p->dy + (s + i) * MOST_TOKENS * p->out,
               (size_t)(tokens * p->out) * sizeof(float));
    assert_ok(scbm_graph_run(r->graph, tokens, 1));
}

static const float *gradient(const run *r) {
    return scbm_graph_gradient(r->graph, r->wrt)->data;
}

/* ------------------------------------------------------------------------------------------
 * Tests, each on one tier
 * ---------------------------------------------------------------------------------------- */

typedef struct bench {
    scbm_backend *backend;
    scbm_context *one, *two; /* workers */
} bench;

static void bench_open(bench *b, const char *tier) {
    scbm_hooks hooks = {0};
    memset(b, 0, sizeof *b);
    char name[32];
    snprintf(name, sizeof name, "cpu:%s", tier);
    if (scbm_backend_open(&b->backend, name, NULL)) skip(); /* not on this machine */
    hooks.n_workers = 1;
    assert_ok(scbm_context_create(&b->one, &hooks, b->backend));
    hooks.n_workers = 2;
    assert_ok(scbm_context_create(&b->two, &hooks, b->backend));
}

static void bench_close(bench *b) {
    scbm_context_free(b->one);
    scbm_context_free(b->two);
    scbm_backend_close(b->backend);
}

/* Around the vectors, tiles and blocks of every tier; each product gets every fifth, the next one those beside them. */
static const int64_t token_counts[] = {1, 4, 7, 8, 16, 17, 25, 32, 33, 48, 64, 65, 100, 129, MOST_TOKENS};
static int next_count;

static void same_bits(const float *a, const float *b, int64_t n, const char *what, const product *p, int64_t tokens) {
    for (int64_t i = memcmp(a, b, (size_t)n * sizeof *a) ? 0 : n; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i]))
            fail_msg("%s, %s weights [%d, %d], %d streams, %d tokens: element %d is %.9g masked and %.9g with zeros",
                     what, scbm_type_of(p->w.type)->name, (int)p->out, (int)p->in, (int)p->streams, (int)tokens, (int)i,
                     a[i], b[i]);
}

static void compare_with_zeros(bench *b, scbm_type type, int64_t in, int64_t out, int64_t streams, int shared,
                               double density, scbm_precision precision) {
    product p;
    run masked, dense[MOST_STREAMS];
    scbm_tensor w[MOST_STREAMS];
    product_new(&p, type, in, out, streams, shared, density);
    run_new(&masked, b->two, &p, NULL, precision, NULL);
    for (int64_t s = 0; s < streams; s++) {
        tensor_new(&w[s], "zeros", type, 2, out, in, 0);
        memcpy(w[s].data, p.w.data, scbm_tensor_bytes(&w[s]));
        drop(&p, s, &w[s]);
        run_new(&dense[s], b->one, &p, &w[s], precision, NULL);
    }
    const int first = next_count++ % 5, n_counts = COUNT_OF(token_counts);
    for (int i = first; i < 2 * n_counts; i += 5) {
        /* all of them once more, packed */
        int64_t tokens = token_counts[i % n_counts], ny = tokens * out, nx = tokens * in;
        for (int few = 0; few < 2 && i >= n_counts; few++) assert_ok(scbm_masks_pack(&p.masks, &p.w, few, NULL));
        run_tokens(&masked, &p, 0, tokens);
        for (int64_t s = 0; s < streams; s++) {
            run_tokens(&dense[s], &p, s, tokens);
            same_bits((float *)masked.y->data + s * ny, dense[s].y->data, ny, "y", &p, tokens);
            /* what streams share has the sum of their gradients, in which zeros may have another sign */
            if (!shared) same_bits(gradient(&masked) + s * nx, gradient(&dense[s]), nx, "dx", &p, tokens);
        }
    }
    for (int64_t s = 0; s < streams; s++) {
        scbm_graph_free(dense[s].graph);
        scbm_release(NULL, w[s].data);
    }
    scbm_graph_free(masked.graph);
    scbm_masks_unpack(&p.masks, NULL);
    product_clear(&p);
}

static const struct shape {
    int64_t in, out;
} shapes[] = {{1, 1}, {5, 33}, {63, 17}, {77, 130}, {257, 20}, {200, 66}}, block_shapes[] = {{32, 5}, {224, 130}};
/* Below 0: so much of the rows is dropped. */
static const double densities[] = {0, 0.02, 0.3, 0.7, 1, -0.5};

static void on_every_density(bench *b, scbm_type type, scbm_precision precision) {
    int blocks = scbm_type_of(type)->block > 1;
    const struct shape *of = blocks ? block_shapes : shapes;
    for (int i = 0; i < (blocks ? COUNT_OF(block_shapes) : COUNT_OF(shapes)); i++)
        for (int d = 0; d < COUNT_OF(densities); d++)
            compare_with_zeros(b, type, of[i].in, of[i].out, 1 + (i + d) % MOST_STREAMS, d % 2, densities[d],
                               precision);
}

static void products_without_masked_weights_have_the_bits_of_products_with_zeros(void **state) {
    const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};
    bench b;
    bench_open(&b, *state);
    for (int i = 0; i < COUNT_OF(types); i++) on_every_density(&b, types[i], SCBM_PRECISION_F32);
    bench_close(&b);
}

static void products_in_bf16_have_the_bits_of_products_with_zeros(void **state) {
    bench b;
    bench_open(&b, *state);
    on_every_density(&b, SCBM_F32, SCBM_PRECISION_BF16);
    on_every_density(&b, SCBM_BF16, SCBM_PRECISION_BF16);
    bench_close(&b);
}

/* ---- Sums ---- */

/* Of x around `x_scale`, and w around `w_scale` (1: as they are), without and with masks: the largest error of y beside
 * Σ|w x|, in double precision. Matrix tiles may leave out 2^-21 of each product; chains of f32 sums have about half of that
 * here. */
static void check_sums(bench *b, scbm_type type, int64_t in, int64_t out, int has_masks, float x_scale, float w_scale) {
    const scbm_extent extents[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    const int64_t shape[3] = {2, 0, in}, tokens = 45;
    product p;
    product_new(&p, type, in, out, 2, 0, 0.5);
    float *w = zeros(in * out * (int64_t)sizeof(float));
    assert_ok(scbm_convert(SCBM_F32, w, type, p.w.data, in * out));
    if (w_scale != 1) {
        for (int64_t i = 0; i < in * out; i++) w[i] *= w_scale;
        assert_ok(scbm_convert(type, p.w.data, SCBM_F32, w, in * out));
        assert_ok(scbm_convert(SCBM_F32, w, type, p.w.data, in * out));
    }
    for (int64_t i = 0; i < 2 * MOST_TOKENS * in; i++) p.x[i] *= x_scale;
    scbm_graph *graph;
    assert_ok(scbm_graph_create(&graph, b->two));
    scbm_graph_set_capacity(graph, MOST_TOKENS, 1);
    scbm_tensor *x = scbm_input(graph, "x", SCBM_F32, 3, shape, extents);
    scbm_tensor *y = scbm_output(graph, scbm_linear(graph, x, &p.w, NULL, has_masks ? &p.masks : NULL, SCBM_NONE));
    assert_ok(scbm_graph_plan(graph));
    for (int64_t s = 0; s < 2; s++)
        memcpy((float *)x->data + s * tokens * in, p.x + s * MOST_TOKENS * in, (size_t)(tokens * in) * sizeof(float));
    assert_ok(scbm_graph_run(graph, tokens, 1));
    double error = 0;
    for (int64_t s = 0; s < 2; s++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t n = 0; n < out; n++) {
                double sum = 0, all = 0;
                for (int64_t k = 0; k < in; k++) {
                    const double term = (double)p.x[(s * MOST_TOKENS + t) * in + k] * (double)w[n * in + k];
                    if (has_masks && !kept(&p, s, n, k)) continue;
                    sum += term;
                    all += fabs(term);
                }
                const double wrong = fabs((double)((const float *)y->data)[(s * tokens + t) * out + n] - sum);
                error = fmax(error, all > 0 ? wrong / all : wrong > 0);
            }
    if (error > 0x1p-21)
        fail_msg("%lld -> %lld, %s: an error of %g", (long long)in, (long long)out, scbm_type_of(type)->name, error);
    scbm_graph_free(graph);
    scbm_release(NULL, w);
    product_clear(&p);
}

static void sums_are_as_exact_as_in_f32(void **state) {
    const struct shape of[] = {{1, 1}, {5, 33}, {96, 20}, {416, 64}, {1537, 40}};
    const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};
    /* the last: products of some 2^-93, most of them above 2^-107 */
    const float scales[][2] = {{1, 1}, {1e30f, 1}, {1e-25f, 1}, {1e30f, 1e-30f}, {1e-25f, 1e20f}, {1e-14f, 1e-14f}};
    bench b;
    bench_open(&b, *state);
    for (int i = 0; i < COUNT_OF(of); i++)
        for (int t = 0; t < COUNT_OF(types); t++)
            if (of[i].in % scbm_type_of(types[t])->block == 0)
                for (int has_masks = 0; has_masks < 2; has_masks++)
                    check_sums(&b, types[t], of[i].in, of[i].out, has_masks, scales[(i + t + has_masks) % 3][0], 1);
    for (int i = 0; i < COUNT_OF(scales); i++) {
        check_sums(&b, SCBM_F32, 416, 64, 0, scales[i][0], scales[i][1]);
        check_sums(&b, SCBM_BF16, 416, 64, 0, scales[i][0], scales[i][1]);
    }
    bench_close(&b);
}

/* ---- Layers that follow each other ---- */

enum { N_LAYERS = 3 };

/* Three layers; with `stores` what the first two compute is an output too, and must be stored. */
typedef struct chain {
    scbm_graph *graph;
    scbm_tensor *x, *y;
} chain;

static void chain_new(chain *c, scbm_context *context, product *layer, const int *has_masks, int stores,
                      scbm_precision precision) {
    const scbm_extent tokens[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    const int64_t shape[3] = {layer->x_streams, 0, layer->in};
    assert_ok(scbm_graph_create(&c->graph, context));
    scbm_graph_set_capacity(c->graph, MOST_TOKENS, 1);
    scbm_graph_set_precision(c->graph, precision);
    c->y = c->x = scbm_input(c->graph, "x", SCBM_F32, 3, shape, tokens);
    for (int i = 0; i < N_LAYERS; i++) {
        c->y = scbm_linear(c->graph, c->y, &layer[i].w, i == 1 ? NULL : &layer[i].bias, has_masks[i] ? &layer[i].masks : NULL,
                           i == 0 ? SCBM_GELU_ERF : SCBM_NONE);
        if (stores || i == N_LAYERS - 1) scbm_output(c->graph, c->y);
    }
    assert_ok(scbm_graph_plan(c->graph));
}

static void chain_run(chain *c, const product *p, int64_t tokens) {
    for (int64_t i = 0; i < p->x_streams; i++)
        memcpy((float *)c->x->data + i * tokens * p->in, p->x + i * MOST_TOKENS * p->in,
               (size_t)(tokens * p->in) * sizeof(float));
    assert_ok(scbm_graph_run(c->graph, tokens, 1));
}

static void compare_chains(chain *a, chain *b, const product *layer, int64_t tokens) {
    const product *last = &layer[N_LAYERS - 1];
    chain_run(a, layer, tokens);
    chain_run(b, layer, tokens);
    same_bits(a->y->data, b->y->data, a->y->shape[0] * tokens * last->out, "the last layer's y", last, tokens);
}

static void layers_that_feed_the_next_one_have_the_same_bits(void **state) {
    const int64_t widths[][N_LAYERS + 1] = {
        {70, 130, 66, 5},  {257, 20, 200, 64}, {64, 400, 31, 17},
        {257, 32, 200, 64}, {64, 416, 96, 17}, {33, 32, 64, 32}, {32, 64, 96, 160}}; /* on tiles 32 rows feed */
    bench b;
    bench_open(&b, *state);
    for (int round = 0; round < 56; round++) { /* with every choice of masks */
        const int has_masks[N_LAYERS] = {round & 1, round >> 1 & 1, round >> 2 & 1};
        const int64_t *width = widths[round % 7], streams = 1 + round % MOST_STREAMS;
        const scbm_precision precision = round % 8 == 7 && round > 24 ? SCBM_PRECISION_BF16 : SCBM_PRECISION_F32;
        product layer[N_LAYERS];
        chain feeds, stores;
        for (int i = 0; i < N_LAYERS; i++)
            product_new(&layer[i], SCBM_F32, width[i], width[i + 1], streams, i == 0 && round & 8, 0.4);
        chain_new(&feeds, b.two, layer, has_masks, 0, precision);
        chain_new(&stores, b.one, layer, has_masks, 1, precision);
        for (int i = round % 4; i < COUNT_OF(token_counts); i += 4)
            compare_chains(&feeds, &stores, layer, token_counts[i]);
        /* some of the layers with lists, then some packed for many tokens as well */
        for (int packed = 0; packed < 2 << N_LAYERS; packed++) {
            for (int l = 0; l < N_LAYERS; l++)
                if (packed >> l & 1) assert_ok(scbm_masks_pack(&layer[l].masks, &layer[l].w, 1, NULL));
                else if (packed >> N_LAYERS) assert_ok(scbm_masks_pack(&layer[l].masks, &layer[l].w, 0, NULL));
            compare_chains(&feeds, &stores, layer, packed % 3 ? 33 + (packed + round) % 32 : token_counts[(packed + round) % 14]);
            for (int l = 0; l < N_LAYERS; l++) scbm_masks_unpack(&layer[l].masks, NULL);
        }
        scbm_graph_free(feeds.graph);
        scbm_graph_free(stores.graph);
        for (int i = 0; i < N_LAYERS; i++) product_clear(&layer[i]);
    }
    bench_close(&b);
}

/* Masks are read anew by every run. */
static void masks_may_change_between_runs(void **state) {
    bench b;
    product p;
    run r;
    int n_changed = 0;
    bench_open(&b, *state); /* it may skip the test */
    float *before = zeros(25 * 96 * (int64_t)sizeof(float));
    product_new(&p, SCBM_F32, 128, 96, 1, 0, 0.4);
    run_new(&r, b.one, &p, NULL, SCBM_PRECISION_F32, NULL);
    run_tokens(&r, &p, 0, 25);
    memcpy(before, r.y->data, 25 * 96 * sizeof(float));
    ((uint8_t *)p.masks.data)[5 * 16 + 3] ^= 0x10;
    run_tokens(&r, &p, 0, 25);
    for (int i = 0; i < 25 * 96; i++) {
        if (i % 96 == 5) n_changed += before[i] != ((float *)r.y->data)[i];
        else assert_true(before[i] == ((float *)r.y->data)[i]);
    }
    assert_true(n_changed > 5);
    scbm_graph_free(r.graph);
    product_clear(&p);
    scbm_release(NULL, before);
    bench_close(&b);
}

/* Masks that are not there yet when the graph is planned. */
static void masks_may_be_an_input(void **state) {
    const scbm_extent tokens[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    bench b;
    product p;
    run r;
    scbm_graph *g;
    bench_open(&b, *state);
    product_new(&p, SCBM_F32, 70, 40, 2, 0, 0.3);
    run_new(&r, b.one, &p, NULL, SCBM_PRECISION_F32, NULL);
    assert_ok(scbm_graph_create(&g, b.two));
    scbm_graph_set_capacity(g, MOST_TOKENS, 1);
    const int64_t shape[3] = {2, 0, 70};
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, 3, shape, tokens);
    scbm_tensor *masks = scbm_input(g, "masks", SCBM_I8, 3, p.masks.shape, NULL);
    scbm_tensor *y = scbm_output(g, scbm_linear(g, x, &p.w, &p.bias, masks, SCBM_GELU_ERF));
    assert_ok(scbm_graph_plan(g));
    memcpy(masks->data, p.masks.data, scbm_tensor_bytes(&p.masks));
    for (int i = 0; i < COUNT_OF(token_counts); i++) {
        int64_t T = token_counts[i];
        run_tokens(&r, &p, 0, T);
        for (int64_t s = 0; s < 2; s++)
            memcpy((float *)x->data + s * T * 70, p.x + s * MOST_TOKENS * 70, (size_t)(T * 70) * sizeof(float));
        assert_ok(scbm_graph_run(g, T, 1));
        same_bits(y->data, r.y->data, 2 * T * 40, "y", &p, T);
    }
    scbm_graph_free(g);
    scbm_graph_free(r.graph);
    product_clear(&p);
    bench_close(&b);
}

/* Packed weights are used, and no longer when the masks or the weights have changed. */
static void check_packed_masks(bench *b, int64_t T, int few) {
    enum { N = 96, K = 128 };
    product p;
    run r;
    size_t bytes, n = (size_t)(2 * T * N) * sizeof(float);
    float *before = zeros((int64_t)n), *after = zeros((int64_t)n);
    product_new(&p, SCBM_F32, K, N, 2, 1, 0.4);
    run_new(&r, b->one, &p, NULL, SCBM_PRECISION_F32, NULL);
    assert_ok(scbm_masks_packed_bytes(&p.w, &p.masks, few, &bytes));
    float *w = p.w.data, value = w[5 * K + 28];
    uint8_t *byte = (uint8_t *)p.masks.data + 5 * (K / 8) + 3;
    *byte |= 0x10;
    assert_ok(scbm_masks_pack(&p.masks, &p.w, few, NULL));
    run_tokens(&r, &p, 0, T);
    memcpy(before, r.y->data, n);
    *byte ^= 0x10; /* not told: the packed ones are read, if there are any */
    run_tokens(&r, &p, 0, T);
    if (bytes) assert_memory_equal(before, r.y->data, n);
    scbm_tensor_changed(&p.masks);
    run_tokens(&r, &p, 0, T);
    memcpy(after, r.y->data, n);
    assert_memory_not_equal(before, after, n);
    assert_ok(scbm_masks_pack(&p.masks, &p.w, few, NULL));
    run_tokens(&r, &p, 0, T);
    assert_memory_equal(after, r.y->data, n);
    *byte ^= 0x10;
    scbm_tensor_changed(&p.masks);
    assert_ok(scbm_masks_pack(&p.masks, &p.w, few, NULL));
    w[5 * K + 28] = 0.0f;
    scbm_tensor_changed(&p.w);
    run_tokens(&r, &p, 0, T);
    assert_memory_equal(after, r.y->data, n);
    w[5 * K + 28] = value;
    scbm_masks_unpack(&p.masks, NULL);
    scbm_masks_unpack(&p.masks, NULL);
    run_tokens(&r, &p, 0, T);
    assert_memory_equal(before, r.y->data, n);
    scbm_graph_free(r.graph);
    product_clear(&p);
    scbm_release(NULL, before);
    scbm_release(NULL, after);
}

static void packed_masks_follow_their_tensors(void **state) {
    bench b;
    bench_open(&b, *state);
    check_packed_masks(&b, 65, 0);
    for (int64_t tokens = 5; strcmp(*state, "portable") && tokens <= SCBM_FEW_TOKENS; tokens += 10) /* it has no lists */
        check_packed_masks(&b, tokens, 1);
    bench_close(&b);
}

static void masks_of_other_weights_are_not_packed(void **state) {
    product p, q;
    scbm_tensor empty;
    size_t bytes;
    (void)state;
    product_new(&p, SCBM_F32, 70, 20, 2, 0, 0.5);
    product_new(&q, SCBM_F32, 70, 21, 2, 0, 0.5);
    assert_error(scbm_masks_pack(&p.masks, &q.w, 0, NULL), SCBM_ERROR_SHAPE, "masks: these are no masks of w");
    assert_error(scbm_masks_pack(&p.w, &p.w, 1, NULL), SCBM_ERROR_SHAPE, "no masks");
    empty = p.masks;
    empty.data = NULL;
    assert_error(scbm_masks_pack(&empty, &p.w, 1, NULL), SCBM_ERROR_ARGUMENT, "packed");
    assert_int_equal(scbm_masks_pack(NULL, &p.w, 1, NULL), SCBM_ERROR_ARGUMENT);
    assert_int_equal(scbm_masks_pack(&p.masks, NULL, 0, NULL), SCBM_ERROR_ARGUMENT);
    assert_ok(scbm_masks_packed_bytes(&p.w, &p.masks, 0, &bytes));
    int64_t n = 0;
    for (int64_t i = 0; i < 2 * 20 * 70; i++) n += kept(&p, 0, i / 70, i % 70);
    assert_in_range(bytes, 4 * n + 2 * 20 * 2 * 8, 4 * n + 2 * 20 * 2 * 8 + 2 * 2 * 2 * 8 + 512);
    product_clear(&p);
    product_clear(&q);
    product_new(&p, SCBM_F32, 0, 20, 2, 0, 0.5); /* no columns */
    for (int few = 0; few < 2; few++) assert_ok(scbm_masks_pack(&p.masks, &p.w, few, NULL));
    assert_true(!p.masks.packed[0] && !p.masks.packed[1]);
    product_clear(&p);
}

/* The gradient by weight (row, column) of stream s for the first T tokens, and the sum of its terms' sizes. */
static double reference_dw(const product *p, int64_t s, int64_t row, int64_t column, int64_t tokens, double *size) {
    const float *x = p->x + (p->x_streams > 1 ? s : 0) * MOST_TOKENS * p->in + column;
    const float *dy = p->dy + s * MOST_TOKENS * p->out + row;
    double sum = 0;
    for (int64_t t = 0; t < tokens; t++) {
        sum += (double)x[t * p->in] * dy[t * p->out];
        *size += fabs((double)x[t * p->in] * dy[t * p->out]);
    }
    return sum;
}

static void check_dw(const product *p, const float *dw, scbm_dw_mode mode, int64_t tokens) {
    for (int64_t i = 0; i < p->in * p->out; i++) {
        double sum = 0, size = 0;
        int any = 0;
        for (int64_t s = 0; s < p->streams; s++) {
            int is_kept = kept(p, s, i / p->in, i % p->in);
            any |= is_kept;
            if (mode == SCBM_DW_MASKED) sum = size = 0, any = is_kept;
            if (is_kept) sum += reference_dw(p, s, i / p->in, i % p->in, tokens, &size);
            if (mode == SCBM_DW_SUMMED && s < p->streams - 1) continue;
            float got = dw[(mode == SCBM_DW_MASKED ? s * p->in * p->out : 0) + i];
            if (any ? !(fabs(got - sum) <= 1e-6 * size) : got != 0)
                fail_msg("dw [%d, %d], %d tokens, mode %d, stream %d: element %d is %.9g, not %.9g", (int)p->out,
                         (int)p->in, (int)tokens, (int)mode, (int)s, (int)i, got, sum);
        }
    }
}

static void gradients_by_masked_weights_are_sums_over_tokens(void **state) {
    const scbm_dw_mode modes[] = {SCBM_DW_SUMMED, SCBM_DW_MASKED};
    const int64_t tokens[] = {1, 25, 48, 65, 129};
    bench b;
    bench_open(&b, *state);
    for (int i = 0; i < COUNT_OF(shapes); i++)
        for (int d = 0; d < COUNT_OF(densities); d++) {
            product p;
            run r;
            product_new(&p, SCBM_F32, shapes[i].in, shapes[i].out, 1 + (i + d) % MOST_STREAMS, i % 2, densities[d]);
            run_new(&r, b.two, &p, NULL, SCBM_PRECISION_F32, &modes[(i + d) % 2]);
            for (int t = (i + d) % 3; t < COUNT_OF(tokens); t += 3) {
                run_tokens(&r, &p, 0, tokens[t]);
                check_dw(&p, gradient(&r), modes[(i + d) % 2], tokens[t]);
            }
            scbm_graph_free(r.graph);
            product_clear(&p);
        }
    bench_close(&b);
}

#define ON_TIER(test, tier)                                                                                            \
    { #test " (" tier ")", test, NULL, NULL, (void *)(uintptr_t)tier }
#define ON_VECTOR_TIERS(test) ON_TIER(test, "portable"), ON_TIER(test, "avx2"), ON_TIER(test, "avx512")
#define ON_EVERY_TIER(test) ON_VECTOR_TIERS(test), ON_TIER(test, "amx")

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_VECTOR_TIERS(products_without_masked_weights_have_the_bits_of_products_with_zeros),
        ON_EVERY_TIER(products_in_bf16_have_the_bits_of_products_with_zeros),
        ON_EVERY_TIER(sums_are_as_exact_as_in_f32),
        ON_EVERY_TIER(layers_that_feed_the_next_one_have_the_same_bits),
        ON_EVERY_TIER(masks_may_change_between_runs),
        ON_EVERY_TIER(masks_may_be_an_input),
        ON_EVERY_TIER(packed_masks_follow_their_tensors),
        cmocka_unit_test(masks_of_other_weights_are_not_packed),
        ON_EVERY_TIER(gradients_by_masked_weights_are_sums_over_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
