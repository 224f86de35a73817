/*
 * tests/test-device.c - graphs on a device with memory of its own: what crosses the bus and when, and whose copy is newer
 */
#include "tests/helpers.h"
#include "tests/shadow-device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DIMS(...)                                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) {                                     \
        __VA_ARGS__                                                                                                    \
    }

static scbm_backend *backend;

static int open_device(void **state) {
    (void)state;
    return shadow_register() || scbm_backend_open(&backend, "shadow", NULL);
}

/* Nothing is left of what the tests have made. */
static int close_device(void **state) {
    (void)state;
    int is_clean = !scbm_backend_copied(backend) && !shadow_blocks() && !shadow_pending();
    scbm_backend_close(backend);
    return is_clean ? 0 : -1;
}

static scbm_context *new_context(void) {
    const scbm_hooks hooks = {.n_workers = 1};
    scbm_context *context;
    assert_ok(scbm_context_create(&context, &hooks, backend));
    return context;
}

static scbm_tensor weight_of(const char *name, void *data, int n_dims, const int64_t *shape) {
    scbm_tensor tensor;
    assert_ok(scbm_tensor_init(&tensor, name, SCBM_F32, n_dims, shape));
    tensor.data = data;
    return tensor;
}

/* y = tanh(x w + w), of which y comes back. */
typedef struct small_graph {
    scbm_graph *graph;
    scbm_tensor *x, *product, *y;
} small_graph;

static small_graph new_graph(scbm_context *context, scbm_tensor *w) {
    small_graph s;
    assert_ok(scbm_graph_create(&s.graph, context));
    s.x = scbm_input(s.graph, "x", SCBM_F32, DIMS(3), NULL);
    s.product = scbm_output(s.graph, scbm_mul(s.graph, s.x, w));
    s.y = scbm_graph_fetch(s.graph, scbm_activate(s.graph, scbm_add(s.graph, s.product, w), SCBM_TANH));
    assert_ok(scbm_graph_plan(s.graph));
    for (int i = 0; i < 3; i++) ((float *)s.x->data)[i] = 0.25f * (float)(i + 1);
    return s;
}

static void check_run(small_graph *s, const float *w) {
    assert_ok(scbm_graph_run(s->graph, 0, 0));
    for (int i = 0; i < 3; i++) {
        double x = (double)((float *)s->x->data)[i];
        assert_near((double)((float *)s->y->data)[i], tanh(x * (double)w[i] + (double)w[i]), 1e-6);
    }
}

static void clear_counts(void) {
    shadow_count = (shadow_counts){0};
}

/* ------------------------------------------------------------------------------------------
 * Over the bus
 * ---------------------------------------------------------------------------------------- */

static void inputs_go_up_and_what_is_fetched_comes_back(void **state) {
    (void)state;
    float values[3] = {0.5f, -1.0f, 2.0f};
    scbm_tensor w = weight_of("w", values, DIMS(3));
    scbm_context *context = new_context();
    assert_int_equal(scbm_context_is_host(context), 0);
    assert_non_null(strstr(scbm_context_device(context), "shadow of cpu"));
    small_graph s = new_graph(context, &w);
    assert_null(s.product->data); /* kept on the device alone */
    for (int round = 0; round < 4; round++) {
        if (round == 2) values[0] = 4.0f, scbm_tensor_changed(&w);
        clear_counts();
        check_run(&s, values);
        int sends_weight = round == 0 || round == 2;
        assert_int_equal(shadow_count.uploads, sends_weight ? 2 : 1);
        assert_int_equal(shadow_count.downloads, 1);
        assert_int_equal(shadow_count.bytes_down, 12);
        assert_int_equal(shadow_count.waits, sends_weight ? 2 : 1);
        assert_int_equal(shadow_count.allocations, round ? 0 : 1);
    }
    scbm_graph_free(s.graph);
    scbm_tensor_forget(&w);
    scbm_context_free(context);
}

/* The loss's 1 and the gradient of what has none went there with the plan. */
static void constants_go_up_once(void **state) {
    (void)state;
    float values[3] = {0.5f, -1.0f, 2.0f}, unused[3] = {0};
    scbm_tensor w = weight_of("w", values, DIMS(3)), other = weight_of("other", unused, DIMS(3));
    scbm_tensor *wanted[2] = {&w, &other};
    scbm_context *context = new_context();
    scbm_graph *g;
    assert_ok(scbm_graph_create(&g, context));
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(3), NULL);
    scbm_tensor *loss = scbm_graph_fetch(g, scbm_sum(g, scbm_mul(g, x, &w)));
    assert_ok(scbm_graph_backward(g, loss, wanted, 2));
    scbm_tensor *gradient[2];
    for (int i = 0; i < 2; i++) gradient[i] = scbm_graph_fetch(g, scbm_graph_gradient(g, wanted[i]));
    assert_ok(scbm_graph_plan(g));
    for (int i = 0; i < 3; i++) ((float *)x->data)[i] = (float)i;
    for (int round = 0; round < 2; round++) {
        clear_counts();
        assert_ok(scbm_graph_run(g, 0, 0));
        assert_int_equal(shadow_count.uploads, round ? 1 : 2); /* x; at first w */
        assert_near((double)*(float *)loss->data, 3.0, 1e-6);
        for (int i = 0; i < 3; i++) {
            assert_true(((float *)gradient[0]->data)[i] == (float)i);
            assert_true(((float *)gradient[1]->data)[i] == 0.0f);
        }
    }
    scbm_graph_free(g);
    scbm_tensor_forget(&w);
    scbm_context_free(context);
}

static void a_weight_without_data_is_refused_before_it_is_copied(void **state) {
    (void)state;
    scbm_tensor w = weight_of("empty weight", NULL, DIMS(3));
    scbm_context *context = new_context();
    small_graph s = new_graph(context, &w);
    clear_counts();
    assert_error(scbm_graph_run(s.graph, 0, 0), SCBM_ERROR_ARGUMENT, "empty weight");
    assert_int_equal(shadow_count.uploads, 0);
    scbm_graph_free(s.graph);
    scbm_context_free(context);
}

static int64_t cancel_at;

static int cancel_progress(void *user, const char *what, int64_t done, int64_t total) {
    (void)user, (void)what, (void)total;
    return cancel_at >= 0 && done == cancel_at;
}

/* The next inputs may be written as soon as a run is over, whatever its end. */
static void a_run_that_ends_early_waits_for_the_device(void **state) {
    (void)state;
    const scbm_hooks hooks = {.n_workers = 1, .progress = cancel_progress};
    float values[3] = {0.5f, -1.0f, 2.0f};
    scbm_tensor w = weight_of("w", values, DIMS(3));
    scbm_context *context;
    assert_ok(scbm_context_create(&context, &hooks, backend));
    cancel_at = -1;
    small_graph s = new_graph(context, &w);
    for (int64_t at = 0; at < 3; at++) {
        cancel_at = at;
        assert_error(scbm_graph_run(s.graph, 0, 0), SCBM_ERROR_CANCELLED, "cancelled");
        assert_int_equal(shadow_pending(), 0);
        cancel_at = -1;
        shadow_fails_at = shadow_count.kernels + at + 1;
        assert_error(scbm_graph_run(s.graph, 0, 0), SCBM_ERROR_NUMERIC, "out of order");
        assert_int_equal(shadow_pending(), 0);
        shadow_fails_at = 0;
        check_run(&s, values);
    }
    scbm_graph_free(s.graph);
    scbm_tensor_forget(&w);
    scbm_context_free(context);
}

/* ------------------------------------------------------------------------------------------
 * Copies of tensors
 * ---------------------------------------------------------------------------------------- */

static void contexts_share_one_copy(void **state) {
    (void)state;
    float values[3] = {0.5f, -1.0f, 2.0f};
    scbm_tensor w = weight_of("w", values, DIMS(3));
    scbm_context *context[2] = {new_context(), new_context()};
    small_graph s[3];
    for (int i = 0; i < 3; i++) s[i] = new_graph(context[i % 2], &w);
    for (int i = 0; i < 3; i++) {
        clear_counts();
        check_run(&s[i], values);
        assert_int_equal(shadow_count.uploads, i ? 1 : 2);
        assert_int_equal(scbm_backend_copied(backend), sizeof values);
    }
    for (int i = 0; i < 3; i++) scbm_graph_free(s[i].graph);
    assert_int_equal(scbm_backend_copied(backend), sizeof values); /* the tensor's, not the graphs' */
    scbm_context_free(context[0]);
    scbm_context_free(context[1]);
    scbm_tensor_forget(&w);
    assert_int_equal(scbm_backend_copied(backend), 0);
}

static void other_data_at_the_same_place_are_another_tensor(void **state) {
    (void)state;
    float first[3] = {0.5f, -1.0f, 2.0f}, second[3] = {3.0f, 2.0f, 1.0f}, third[3] = {-1.0f, 0.0f, 1.0f};
    scbm_tensor w = weight_of("w", first, DIMS(3));
    scbm_context *context = new_context();
    small_graph s = new_graph(context, &w);
    check_run(&s, first);
    w.data = second; /* the generation is the same */
    check_run(&s, second);
    scbm_tensor copy = w; /* has a copy of its own */
    copy.data = third;
    small_graph of_copy = new_graph(context, &copy);
    check_run(&of_copy, third);
    check_run(&s, second);
    w = weight_of("w", third, DIMS(3)); /* another tensor by now, at the same address */
    check_run(&s, third);
    scbm_tensor_forget(&copy);
    clear_counts();
    check_run(&s, third);
    assert_int_equal(shadow_count.uploads, 1);
    scbm_tensor_forget(&w); /* and made again */
    check_run(&s, third);
    assert_int_equal(shadow_count.uploads, 3);
    scbm_tensor_forget(&w);
    scbm_graph_free(s.graph);
    scbm_graph_free(of_copy.graph);
    scbm_context_free(context);
}

static void a_backend_of_another_version_is_refused(void **state) {
    (void)state;
    scbm_backend_functions old = *backend->functions;
    const scbm_backend_functions *kept = backend->functions;
    old.version = SCBM_BACKEND_VERSION + 1;
    scbm_context *context;
    backend->functions = &old;
    assert_error(scbm_context_create(&context, NULL, backend), SCBM_ERROR_UNSUPPORTED, "version");
    assert_null(context);
    old.version = SCBM_BACKEND_VERSION;
    old.has_precision = NULL;
    assert_ok(scbm_context_create(&context, NULL, backend));
    assert_ok(scbm_context_check_precision(context, SCBM_PRECISION_F32));
    assert_error(scbm_context_check_precision(context, SCBM_PRECISION_BF16), SCBM_ERROR_UNSUPPORTED, "it has f32");
    scbm_context_free(context);
    backend->functions = kept;
}

/* A device reads nothing of what the host has derived. */
static void masks_that_the_host_has_packed_are_not_used(void **state) {
    (void)state;
    enum { OUT = 16, IN = 64, TOKENS = 80 };
    static float w_data[OUT * IN];
    static uint8_t bits[2 * OUT * IN / 8];
    for (int i = 0; i < OUT * IN; i++) w_data[i] = (float)(i % 7) - 3.0f;
    for (int i = 0; i < (int)sizeof bits; i++) bits[i] = (uint8_t)(i * 37);
    scbm_tensor w = weight_of("w", w_data, DIMS(OUT, IN)), masks;
    assert_ok(scbm_tensor_init(&masks, "masks", SCBM_I8, DIMS(2, OUT, IN / 8)));
    masks.data = bits;
    assert_ok(scbm_masks_pack(&masks, &w, 0, NULL));
    scbm_context *context[2] = {new_context(), NULL};
    assert_ok(scbm_context_create(&context[1], NULL, NULL));
    float result[2][2 * TOKENS * OUT];
    for (int i = 0; i < 2; i++) {
        scbm_graph *g;
        assert_ok(scbm_graph_create(&g, context[i]));
        scbm_graph_set_capacity(g, TOKENS, 1);
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(1, 0, IN),
                                    (const scbm_extent[3]){SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED});
        scbm_tensor *y = scbm_graph_fetch(g, scbm_linear(g, x, &w, NULL, &masks, SCBM_NONE));
        assert_ok(scbm_graph_plan(g));
        for (int j = 0; j < TOKENS * IN; j++) ((float *)x->data)[j] = (float)(j % 11) * 0.125f;
        assert_ok(scbm_graph_run(g, TOKENS, 1));
        memcpy(result[i], y->data, sizeof result[i]);
        scbm_graph_free(g);
        scbm_context_free(context[i]);
    }
    assert_memory_equal(result[0], result[1], sizeof result[0]);
    scbm_masks_unpack(&masks, NULL);
    scbm_tensor_forget(&w);
    scbm_tensor_forget(&masks);
}

/* ------------------------------------------------------------------------------------------
 * Updates
 * ---------------------------------------------------------------------------------------- */

static scbm_graph *new_sum(scbm_context *context, scbm_tensor *sum, scbm_tensor *part, scbm_tensor *keep) {
    scbm_graph *g;
    assert_ok(scbm_graph_create(&g, context));
    scbm_accumulate(g, sum, part, keep);
    assert_ok(scbm_graph_plan(g));
    return g;
}

/* What a graph has updated stays there until somebody asks. */
static void an_updated_tensor_is_newer_on_the_device(void **state) {
    (void)state;
    float sum_data[3] = {1.0f, 2.0f, 3.0f}, part_data[3] = {0.5f, 0.25f, 0.125f}, keep_data[1] = {1.0f};
    scbm_tensor sum = weight_of("sum", sum_data, DIMS(3)), part = weight_of("part", part_data, DIMS(3)),
                keep = weight_of("keep", keep_data, DIMS(1));
    scbm_context *context = new_context(), *other = new_context();
    scbm_graph *g = new_sum(context, &sum, &part, &keep), *theirs = new_sum(other, &sum, &part, &keep);
    for (int i = 0; i < 2; i++) assert_ok(scbm_graph_run(g, 0, 0));
    assert_true(sum_data[0] == 1.0f);
    assert_error(scbm_graph_run(theirs, 0, 0), SCBM_ERROR_ARGUMENT, "sum was updated by another context");
    assert_error(scbm_tensor_fetch(&sum, other), SCBM_ERROR_ARGUMENT, "another context");
    clear_counts();
    uint64_t generation = sum.generation;
    for (int i = 0; i < 2; i++) assert_ok(scbm_tensor_fetch(&sum, context)); /* the second has nothing to bring */
    assert_int_equal(shadow_count.bytes_down, sizeof sum_data);
    assert_true(sum_data[0] == 2.0f && sum_data[1] == 2.5f && sum_data[2] == 3.25f && sum.generation > generation);
    clear_counts();
    assert_ok(scbm_graph_run(theirs, 0, 0)); /* and is there already */
    assert_int_equal(shadow_count.bytes_up, 0);
    sum_data[0] = 100.0f; /* what the host writes wins */
    scbm_tensor_changed(&sum);
    assert_ok(scbm_graph_run(g, 0, 0));
    scbm_graph_free(g);
    scbm_context_free(context); /* what it has updated is anybody's now */
    assert_ok(scbm_tensor_fetch(&sum, other));
    assert_true(sum_data[0] == 100.5f && sum_data[1] == 2.75f);
    scbm_graph_free(theirs);
    scbm_tensor_forget(&sum);
    scbm_tensor_forget(&part);
    scbm_tensor_forget(&keep);
    scbm_context_free(other);
}

/* ------------------------------------------------------------------------------------------
 * Rows that a device lacks
 * ---------------------------------------------------------------------------------------- */

enum { WORDS = 7, WIDTH = 64, HEADS = 2, STREAMS = 2, TOKENS = 6, TEXTS = 2, CLASSES = 4, N_WEIGHTS = 6 };

/* One block of an encoder with masks, and what trains it. */
typedef struct trained {
    scbm_graph *graph;
    scbm_adamw *optimizer;
    scbm_tensor weight[N_WEIGHTS], masks, groups;
    scbm_tensor *ids, *offsets, *targets, *loss;
    float data[N_WEIGHTS][WIDTH * WIDTH];
    uint8_t bits[STREAMS * WIDTH * WIDTH / 8];
    int32_t bounds[STREAMS + 1];
} trained;

static void make_weights(trained *t) {
    static const int64_t shape[N_WEIGHTS][2] = {{WORDS, WIDTH}, {WIDTH, WIDTH}, {WIDTH, 0},
                                                {WIDTH, 0},     {WIDTH, 0},     {CLASSES, WIDTH}};
    scbm_random random = {1, 2, 0};
    const int64_t n_bounds = STREAMS + 1;
    for (int i = 0; i < N_WEIGHTS; i++) {
        char name[8] = {'w', (char)('0' + i), 0};
        t->weight[i] = weight_of(name, t->data[i], shape[i][1] ? 2 : 1, shape[i]);
        for (int64_t j = 0; j < scbm_tensor_elements(&t->weight[i]); j++)
            t->data[i][j] = (float)(0.2 * scbm_random_normal(&random) + (i == 3));
    }
    for (int i = 0; i < (int)sizeof t->bits; i++) t->bits[i] = (uint8_t)(i * 37 % 251);
    assert_ok(scbm_tensor_init(&t->masks, "masks", SCBM_I8, DIMS(STREAMS, WIDTH, WIDTH / 8)));
    t->masks.data = t->bits;
    for (int k = 0; k <= STREAMS; k++) t->bounds[k] = k * CLASSES / STREAMS;
    assert_ok(scbm_tensor_init(&t->groups, "groups", SCBM_I32, 1, &n_bounds));
    t->groups.data = t->bounds;
}

/* The graph up to its logits. */
static scbm_tensor *add_logits(trained *t, scbm_context *context) {
    const int64_t n_offsets = TEXTS + 1;
    memset(t, 0, sizeof *t);
    make_weights(t);
    assert_ok(scbm_graph_create(&t->graph, context));
    scbm_graph *g = t->graph;
    scbm_tensor *w = t->weight;
    scbm_graph_set_capacity(g, TOKENS, TEXTS);
    t->ids = scbm_input(g, "ids", SCBM_I32, DIMS(0), (const scbm_extent[1]){SCBM_TOKENS});
    t->offsets = scbm_input(g, "offsets", SCBM_I32, 1, &n_offsets, NULL);
    t->targets = scbm_input(g, "targets", SCBM_I32, DIMS(0, STREAMS), (const scbm_extent[2]){SCBM_TEXTS, SCBM_FIXED});
    scbm_tensor *x = scbm_get_rows(g, &w[0], t->ids);
    x = scbm_add(g, x, &w[2]); /* as positions are */
    scbm_tensor *h = scbm_linear(g, x, &w[1], &w[2], &t->masks, SCBM_GELU_ERF);
    h = scbm_attention(g, h, h, h, t->offsets, HEADS, 0.2f, 0, 0.0f);
    h = scbm_add_layer_norm(g, h, x, &w[3], &w[4], 1e-5f);
    return scbm_graph_fetch(g, scbm_group_linear(g, scbm_segment_mean(g, h, t->offsets), &w[5], NULL, &t->groups));
}

/* The plan's status. */
static scbm_status make_training(trained *t, scbm_context *context) {
    static const float rates[N_WEIGHTS] = {0.01f, 0.01f, 0.01f, 0.01f, 0.01f, 0.01f}, decays[N_WEIGHTS] = {0};
    scbm_tensor *logits = add_logits(t, context), *wanted[N_WEIGHTS];
    scbm_graph *g = t->graph;
    for (int i = 0; i < N_WEIGHTS; i++) wanted[i] = &t->weight[i];
    t->loss = scbm_graph_fetch(g, scbm_cross_entropy(g, logits, t->targets, &t->groups, NULL));
    scbm_graph_backward(g, t->loss, wanted, N_WEIGHTS);
    assert_ok(scbm_adamw_create(&t->optimizer, context, wanted, N_WEIGHTS, rates, decays, NULL));
    scbm_graph_adamw(g, t->optimizer, NULL);
    return scbm_graph_plan(g);
}

static int uses_host; /* some rows run there: more is copied than inputs, and waited for */

static void train(trained *t, float loss[3], scbm_context *context) {
    static const int32_t ids[TOKENS] = {1, 4, 2, 6, 0, 4}, offsets[TEXTS + 1] = {0, 4, 6},
                         targets[TEXTS * STREAMS] = {0, 1, 1, 0};
    memcpy(t->ids->data, ids, sizeof ids);
    memcpy(t->offsets->data, offsets, sizeof offsets);
    memcpy(t->targets->data, targets, sizeof targets);
    for (int step = 0; step < 3; step++) {
        assert_ok(scbm_adamw_begin(t->optimizer, 1.0f));
        clear_counts();
        assert_ok(scbm_graph_run(t->graph, TOKENS, TEXTS));
        assert_ok(scbm_adamw_end(t->optimizer, NULL));
        loss[step] = *(float *)t->loss->data;
        if (!step || scbm_context_is_host(context) || uses_host) continue;
        assert_int_equal(shadow_count.waits, 1); /* nothing waits inside a step, and only inputs go up */
        assert_int_equal(shadow_count.uploads, 1);
        assert_true(shadow_count.bytes_down <= 1024);
    }
    for (int i = 0; i < N_WEIGHTS; i++) assert_ok(scbm_tensor_fetch(&t->weight[i], context));
}

static void clear_training(trained *t) {
    scbm_graph_free(t->graph);
    scbm_adamw_free(t->optimizer);
    for (int i = 0; i < N_WEIGHTS; i++) scbm_tensor_forget(&t->weight[i]);
    scbm_tensor_forget(&t->masks);
    scbm_tensor_forget(&t->groups);
}

/* Steps of a graph and steps without one, in turn. */
static void both_ways_to_step_share_their_moments(void **state) {
    (void)state;
    float w_data[2][3] = {{1.0f, 2.0f, 3.0f}, {1.0f, 2.0f, 3.0f}}, g_data[3] = {0.5f, -1.0f, 0.25f};
    const float rate = 0.1f, decay = 0.0f;
    scbm_context *context[2] = {new_context(), NULL};
    assert_ok(scbm_context_create(&context[1], NULL, NULL));
    for (int i = 0; i < 2; i++) {
        scbm_tensor w = weight_of("w", w_data[i], DIMS(3)), g = weight_of("g", g_data, DIMS(3));
        scbm_tensor *params[] = {&w}, *gradients[] = {&g};
        scbm_adamw *optimizer;
        scbm_graph *graph;
        assert_ok(scbm_adamw_create(&optimizer, context[i], params, 1, &rate, &decay, NULL));
        assert_ok(scbm_graph_create(&graph, context[i]));
        assert_ok(scbm_graph_adamw(graph, optimizer, gradients));
        assert_ok(scbm_graph_plan(graph));
        for (int step = 0; step < 5; step++) {
            g_data[0] = 0.5f - (float)step;
            scbm_tensor_changed(&g);
            if (step % 2) {
                assert_ok(scbm_adamw_step(optimizer, gradients, 1.0f, NULL));
                continue;
            }
            assert_ok(scbm_adamw_begin(optimizer, 1.0f));
            assert_ok(scbm_graph_run(graph, 0, 0));
            assert_ok(scbm_adamw_end(optimizer, NULL));
        }
        assert_ok(scbm_tensor_fetch(&w, context[i]));
        scbm_graph_free(graph);
        scbm_adamw_free(optimizer);
        scbm_tensor_forget(&w);
        scbm_tensor_forget(&g);
        scbm_context_free(context[i]);
    }
    assert_memory_equal(w_data[0], w_data[1], sizeof w_data[0]);
}

static void training_on_a_device_has_the_bits_of_the_host(void **state) {
    (void)state;
    static trained t[2];
    float loss[2][3];
    scbm_context *context[2] = {new_context(), NULL};
    assert_ok(scbm_context_create(&context[1], NULL, NULL));
    for (int i = 0; i < 2; i++) {
        assert_ok(make_training(&t[i], context[i]));
        train(&t[i], loss[i], context[i]);
        clear_training(&t[i]);
        scbm_context_free(context[i]);
    }
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    assert_memory_equal(t[0].data, t[1].data, sizeof t[0].data);
    assert_true(loss[0][2] < loss[0][0]);
}

/* Each row is taken away in turn: a fused one is replaced, and training goes on; any other is named before anything runs. */
static void a_device_without_a_row_trains_or_names_it(void **state) {
    (void)state;
    static trained t;
    scbm_context *context = new_context();
    float whole[3], loss[3];
    int used[SCBM_OP_COUNT] = {0}, n_replaced = 0, n_named = 0;
    assert_ok(make_training(&t, context));
    for (int i = 0; i < scbm_graph_nodes(t.graph); i++) used[scbm_graph_node(t.graph, i)->op] = 1;
    train(&t, whole, context);
    clear_training(&t);
    for (int op = 0; op < SCBM_OP_COUNT; op++) {
        const char *name = scbm_op_of((scbm_op)op)->name;
        shadow_set_lacking((scbm_op)op, 1);
        scbm_status status = make_training(&t, context);
        shadow_set_lacking((scbm_op)op, 0);
        if (status) {
            assert_int_equal(status, SCBM_ERROR_UNSUPPORTED);
            if (!used[op] || !strstr(scbm_last_error(), name)) fail_msg("without %s: %s", name, scbm_last_error());
            n_named++;
        } else {
            train(&t, loss, context);
            for (int i = 0; i < 3; i++) assert_near((double)loss[i], (double)whole[i], 1e-5);
            n_replaced += used[op];
        }
        clear_training(&t);
    }
    print_message("%d rows are replaced, %d named\n", n_replaced, n_named);
    assert_int_equal(n_replaced,
                     9); /* add_layer_norm, attention, attention_back, linear, group_linear, and back of these */
    scbm_context_free(context);
}

/* The tables of "Porting to a new device". */
static void the_rows_that_the_guide_names_are_enough(void **state) {
    (void)state;
#define LOGITS SCBM_OP_GET_ROWS, SCBM_OP_ADD, SCBM_OP_LINEAR, SCBM_OP_SEGMENT_MEAN, SCBM_OP_GROUP_LINEAR
#define PARTS SCBM_OP_SCALE, SCBM_OP_ATTENTION_SCORES, SCBM_OP_SOFTMAX, SCBM_OP_ATTENTION_MIX
#define TRAINING                                                                                                       \
    SCBM_OP_LINEAR_BACK_X, SCBM_OP_LINEAR_BACK_W, SCBM_OP_ACTIVATE_BACK, SCBM_OP_LAYER_NORM_BACK,                      \
        SCBM_OP_SEGMENT_MEAN_BACK, SCBM_OP_GROUP_LINEAR_BACK_Z, SCBM_OP_GROUP_LINEAR_BACK_W, SCBM_OP_CROSS_ENTROPY,    \
        SCBM_OP_CROSS_ENTROPY_BACK, SCBM_OP_GET_ROWS_BACK, SCBM_OP_SUM_TO, SCBM_OP_SQUARE_SUM, SCBM_OP_CLIP,           \
        SCBM_OP_ADAMW
#define END SCBM_OP_COUNT
#define PRODUCTS                                                                                                       \
    SCBM_OP_GET_ROWS, SCBM_OP_ADD, SCBM_OP_PRODUCT, SCBM_OP_APPLY_MASKS, SCBM_OP_SUM_TO, SCBM_OP_ACTIVATE,             \
        SCBM_OP_SEGMENT_MEAN, SCBM_OP_LAYER_NORM, PARTS
    static const struct {
        int trains;
        scbm_op rows[40];
    } ports[] = {
        {0, {PRODUCTS, END}},
        {1,
         {PRODUCTS, SCBM_OP_SUM_MASKED, SCBM_OP_GET_ROWS_BACK, SCBM_OP_ACTIVATE_BACK, SCBM_OP_SOFTMAX_BACK,
          SCBM_OP_LAYER_NORM_BACK, SCBM_OP_SEGMENT_MEAN_BACK, SCBM_OP_ATTENTION_MIX_TRANSPOSED, SCBM_OP_CROSS_ENTROPY,
          SCBM_OP_CROSS_ENTROPY_BACK, SCBM_OP_SQUARE_SUM, SCBM_OP_CLIP, SCBM_OP_ADAMW, END}},
        {0, {LOGITS, SCBM_OP_ATTENTION, SCBM_OP_ADD_LAYER_NORM, END}},
        {0, {LOGITS, PARTS, SCBM_OP_LAYER_NORM, END}},
        {1, {LOGITS, SCBM_OP_ATTENTION, SCBM_OP_ADD_LAYER_NORM, TRAINING, SCBM_OP_ATTENTION_BACK, END}},
        {1, {LOGITS, PARTS, SCBM_OP_LAYER_NORM, TRAINING, SCBM_OP_SOFTMAX_BACK, SCBM_OP_ATTENTION_MIX_TRANSPOSED, END}},
    };
    static trained t;
    float loss[3];
    scbm_context *context = new_context();
    for (int i = 0; i < COUNT_OF(ports); i++) {
        for (int op = 0; op < SCBM_OP_COUNT; op++) shadow_set_lacking((scbm_op)op, 1);
        for (const scbm_op *row = ports[i].rows; *row != END; row++) shadow_set_lacking(*row, 0);
        scbm_status status;
        if (ports[i].trains) {
            status = make_training(&t, context);
        } else {
            add_logits(&t, context);
            status = scbm_graph_plan(t.graph);
        }
        for (int op = 0; op < SCBM_OP_COUNT; op++) shadow_set_lacking((scbm_op)op, 0);
        assert_ok(status);
        if (ports[i].trains) train(&t, loss, context);
        clear_training(&t);
    }
    scbm_context_free(context);
}

/* With the option, all that the device lacks runs on the CPU, with the same bits: no kernel is missed. The log tells of each row. */
static char told[4096];

static void keep_what_is_told(void *user, scbm_log_level level, const char *message) {
    size_t used = strlen(told);
    (void)user, (void)level;
    snprintf(told + used, sizeof told - used, "%s\n", message);
}

static void rows_without_a_kernel_can_run_on_the_host(void **state) {
    (void)state;
    static const scbm_op lacking[] = {SCBM_OP_GET_ROWS, SCBM_OP_SEGMENT_MEAN, SCBM_OP_CROSS_ENTROPY, SCBM_OP_ADAMW};
    static trained t[2];
    const scbm_hooks hooks = {.n_workers = 1, .log = keep_what_is_told};
    const scbm_backend_options options = {.cpu_fallback = 1};
    scbm_backend *with_host;
    scbm_context *context[2] = {new_context(), NULL};
    float loss[2][3];
    assert_ok(scbm_backend_open(&with_host, "shadow", &options));
    assert_ok(scbm_context_create(&context[1], &hooks, with_host));
    for (int i = 0; i < 2; i++) {
        for (int op = 0; op < COUNT_OF(lacking); op++) shadow_set_lacking(lacking[op], i);
        uses_host = i;
        assert_ok(make_training(&t[i], context[i]));
        train(&t[i], loss[i], context[i]);
        clear_training(&t[i]);
        for (int op = 0; op < COUNT_OF(lacking); op++) shadow_set_lacking(lacking[op], 0);
    }
    uses_host = 0;
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    assert_memory_equal(t[0].data, t[1].data, sizeof t[0].data);
    for (int op = 0; op < COUNT_OF(lacking); op++) {
        char words[96];
        snprintf(words, sizeof words, "has no %s: it runs on the CPU", scbm_op_of(lacking[op])->name);
        const char *first = strstr(told, words);
        assert_non_null(first);
        assert_null(strstr(first + 1, words)); /* once */
    }
    for (int i = 0; i < 2; i++) scbm_context_free(context[i]);
    scbm_backend_close(with_host);
}

/* Attention in parts has columns for the longest text that was said to come, and the same logits. */
static void attention_in_parts_has_the_longest_text_as_its_context(void **state) {
    (void)state;
    static const int32_t ids[TOKENS] = {1, 4, 2, 6, 0, 4}, offsets[2][TEXTS + 1] = {{0, 4, 6}, {0, 5, 6}};
    static trained t;
    float logits[2][TEXTS * CLASSES];
    scbm_context *context = new_context();
    for (int in_parts = 0; in_parts < 2; in_parts++) {
        scbm_tensor *made = add_logits(&t, context);
        scbm_graph_set_longest(t.graph, 4);
        shadow_set_lacking(SCBM_OP_ATTENTION, in_parts);
        assert_ok(scbm_graph_plan(t.graph));
        shadow_set_lacking(SCBM_OP_ATTENTION, 0);
        for (int i = 0; i < scbm_graph_nodes(t.graph); i++)
            if (scbm_graph_node(t.graph, i)->op == SCBM_OP_ATTENTION_SCORES)
                assert_int_equal(scbm_graph_node(t.graph, i)->integer[2], 4);
        memcpy(t.ids->data, ids, sizeof ids);
        memcpy(t.offsets->data, offsets[1], sizeof offsets[1]);
        assert_error(scbm_graph_run(t.graph, TOKENS, TEXTS), SCBM_ERROR_SHAPE, "a text of 5 tokens");
        memcpy(t.offsets->data, offsets[0], sizeof offsets[0]);
        assert_ok(scbm_graph_run(t.graph, TOKENS, TEXTS));
        memcpy(logits[in_parts], made->data, sizeof logits[in_parts]);
        clear_training(&t);
    }
    for (int i = 0; i < TEXTS * CLASSES; i++) assert_near((double)logits[1][i], (double)logits[0][i], 1e-5);
    scbm_context_free(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_go_up_and_what_is_fetched_comes_back),
        cmocka_unit_test(constants_go_up_once),
        cmocka_unit_test(a_weight_without_data_is_refused_before_it_is_copied),
        cmocka_unit_test(a_run_that_ends_early_waits_for_the_device),
        cmocka_unit_test(contexts_share_one_copy),
        cmocka_unit_test(other_data_at_the_same_place_are_another_tensor),
        cmocka_unit_test(a_backend_of_another_version_is_refused),
        cmocka_unit_test(masks_that_the_host_has_packed_are_not_used),
        cmocka_unit_test(an_updated_tensor_is_newer_on_the_device),
        cmocka_unit_test(both_ways_to_step_share_their_moments),
        cmocka_unit_test(training_on_a_device_has_the_bits_of_the_host),
        cmocka_unit_test(a_device_without_a_row_trains_or_names_it),
        cmocka_unit_test(the_rows_that_the_guide_names_are_enough),
        cmocka_unit_test(rows_without_a_kernel_can_run_on_the_host),
        cmocka_unit_test(attention_in_parts_has_the_longest_text_as_its_context),
    };
    return cmocka_run_group_tests_name("device", tests, open_device, close_device);
}
