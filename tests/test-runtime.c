/*
 * tests/test-runtime.c - what the runtime promises beside the ops' values: errors, hooks, memory, cancelling, the planner,
 * random numbers, AdamW, the schedule, conversions, shape rules
 */
#define _POSIX_C_SOURCE 200809L

#include "tests/helpers.h"
#include "tests/op-cases.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static scbm_context *new_context(int workers) {
    scbm_hooks hooks = {0};
    scbm_context *context;
    hooks.n_workers = workers;
    assert_ok(scbm_context_create(&context, &hooks, NULL));
    return context;
}

static scbm_graph *new_graph(scbm_context *context) {
    scbm_graph *graph;
    assert_ok(scbm_graph_create(&graph, context));
    return graph;
}

static scbm_tensor weight_of(const char *name, scbm_type type, void *data, int n_dims, const int64_t *shape) {
    scbm_tensor tensor;
    assert_ok(scbm_tensor_init(&tensor, name, type, n_dims, shape));
    tensor.data = data;
    return tensor;
}

/* ------------------------------------------------------------------------------------------
 * Status, errors, types, tensors
 * ---------------------------------------------------------------------------------------- */

static void version_is_the_headers(void **state) {
    (void)state;
    assert_int_equal(scbm_version(), SCBM_VERSION);
    assert_int_equal(SCBM_VERSION, SCBM_VERSION_MAJOR * 10000 + SCBM_VERSION_MINOR * 100 + SCBM_VERSION_PATCH);
}

static void every_status_has_its_own_name(void **state) {
    (void)state;
    for (int i = SCBM_OK; i <= SCBM_ERROR_NUMERIC; i++) {
        assert_true(strlen(scbm_status_name((scbm_status)i)) > 1);
        assert_string_not_equal(scbm_status_name((scbm_status)i), scbm_status_name((scbm_status)999));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(scbm_status_name((scbm_status)i), scbm_status_name((scbm_status)j));
    }
    assert_string_equal(scbm_status_name(SCBM_ERROR_MEMORY), "out of memory");
}

static void *fail_elsewhere(void *user) {
    *(int *)user = scbm_last_error()[0] == 0; /* a thread starts without an error */
    scbm_fail(SCBM_ERROR_IO, "elsewhere");
    return NULL;
}

static void errors_are_one_sentence_for_each_thread(void **state) {
    (void)state;
    pthread_t thread;
    int was_empty = 0;
    assert_int_equal(scbm_fail(SCBM_ERROR_FORMAT, "%s: row %d has no label", "a.csv", 7), SCBM_ERROR_FORMAT);
    assert_string_equal(scbm_last_error(), "a.csv: row 7 has no label");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &was_empty), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(was_empty);
    assert_string_equal(scbm_last_error(), "a.csv: row 7 has no label");
    scbm_fail(SCBM_ERROR_IO, "opening: %s", scbm_last_error()); /* a message about a message */
    assert_string_equal(scbm_last_error(), "opening: a.csv: row 7 has no label");
    char huge[5000];
    memset(huge, 'x', sizeof huge - 1);
    huge[sizeof huge - 1] = 0;
    scbm_fail(SCBM_ERROR_IO, "%s", huge);
    assert_in_range(strlen(scbm_last_error()), 100, 1000);
}

static void types_have_names_and_sizes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int block, bytes, is_float;
    } wanted[SCBM_TYPE_COUNT] = {
        [SCBM_F32] = {"f32", 1, 4, 1},     [SCBM_F16] = {"f16", 1, 2, 1}, [SCBM_BF16] = {"bf16", 1, 2, 1},
        [SCBM_I32] = {"i32", 1, 4, 0},     [SCBM_I8] = {"i8", 1, 1, 0},   [SCBM_Q8_0] = {"q8_0", 32, 34, 1},
        [SCBM_Q4_0] = {"q4_0", 32, 18, 1}, [SCBM_F64] = {"f64", 1, 8, 0},
    };
    for (int i = 0; i < SCBM_TYPE_COUNT; i++) {
        const scbm_type_info *info = scbm_type_of((scbm_type)i);
        scbm_type type = SCBM_TYPE_COUNT;
        assert_string_equal(info->name, wanted[i].name);
        assert_int_equal(info->block, wanted[i].block);
        assert_int_equal(info->block_bytes, wanted[i].bytes);
        assert_int_equal(info->is_float, wanted[i].is_float);
        assert_ok(scbm_type_parse(info->name, &type));
        assert_int_equal(type, i);
    }
    scbm_type type;
    assert_null(scbm_type_of(SCBM_TYPE_COUNT));
    assert_null(scbm_type_of((scbm_type)-1));
    assert_error(scbm_type_parse("q5_1", &type), SCBM_ERROR_ARGUMENT, "q5_1");
}

static void tensors_check_their_shape(void **state) {
    (void)state;
    scbm_tensor t;
    char text[64], tight[6];
    assert_ok(scbm_tensor_init(&t, "w", SCBM_Q4_0, DIMS(3, 64)));
    assert_int_equal(scbm_tensor_elements(&t), 192);
    assert_int_equal(scbm_tensor_bytes(&t), 6 * 18);
    assert_string_equal(scbm_shape_text(&t, text, sizeof text), "[3, 64]");
    scbm_shape_text(&t, tight, sizeof tight);
    assert_string_equal(tight, "[3, 6");
    assert_null(t.data);
    assert_null(t.graph);
    assert_ok(scbm_tensor_init(&t, NULL, SCBM_F32, DIMS(0, 5)));
    assert_int_equal(scbm_tensor_bytes(&t), 0);
    assert_error(scbm_tensor_init(&t, "w", SCBM_Q8_0, DIMS(64, 3)), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_F32, DIMS(2, -1)), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_F32, DIMS(INT64_MAX, 2)), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_F32, DIMS(0, INT64_MAX, INT64_MAX)), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_F32, DIMS(1ll << 31, 1ll << 31)), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_F32, 0, (int64_t[]){1}), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_F32, DIMS(1, 1, 1, 1, 1)), SCBM_ERROR_SHAPE, "w");
    assert_error(scbm_tensor_init(&t, "w", SCBM_TYPE_COUNT, DIMS(1)), SCBM_ERROR_ARGUMENT, "w");
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_ok(scbm_tensor_init(&t, name, SCBM_F32, DIMS(1)));
    assert_int_equal(strlen(t.name), SCBM_MAX_NAME - 1);
}

/* ------------------------------------------------------------------------------------------
 * Hooks
 * ---------------------------------------------------------------------------------------- */

/* An allocator that counts, fails at the `fail_at`-th call (and after it, if `fails_on`), and gives dirty memory. */
static void memory_is_aligned_and_zeroed(void **state) {
    (void)state;
    counting_allocator c = {0};
    scbm_hooks hooks = allocator_hooks(&c);
    for (int i = 0; i < 2; i++) {
        const scbm_hooks *by = i ? &hooks : NULL;
        for (size_t size = 0; size < 300; size += 37) {
            unsigned char *bytes = scbm_alloc(by, size);
            assert_non_null(bytes);
            assert_int_equal((uintptr_t)bytes % 64, 0);
            for (size_t j = 0; j < size; j++) assert_int_equal(bytes[j], 0);
            memset(bytes, 1, size);
            scbm_release(by, bytes);
        }
        char *copy = scbm_strdup(by, "Ærøskøbing");
        assert_string_equal(copy, "Ærøskøbing");
        scbm_release(by, copy);
        scbm_release(by, NULL);
    }
    assert_int_equal(c.held, 0);
    assert_true(c.n > 5);
}

static void sizes_that_overflow_are_refused(void **state) {
    (void)state;
    assert_null(scbm_alloc(NULL, SIZE_MAX));
    assert_non_null(strstr(scbm_last_error(), "memory"));
    assert_null(scbm_alloc_array(NULL, SIZE_MAX / 2, 3));
    assert_null(scbm_alloc_array(NULL, 3, SIZE_MAX / 2));
    void *array = NULL;
    size_t capacity = 0;
    assert_int_equal(scbm_grow(NULL, &array, &capacity, SIZE_MAX / 2, 8), SCBM_ERROR_MEMORY);
    assert_null(array);
    assert_int_equal(capacity, 0);
}

static void arrays_grow_and_keep_what_they_hold(void **state) {
    (void)state;
    counting_allocator c = {0};
    scbm_hooks hooks = allocator_hooks(&c);
    int32_t *array = NULL;
    size_t capacity = 0;
    for (size_t n = 0; n < 1000; n++) {
        assert_ok(scbm_grow(&hooks, (void **)&array, &capacity, n + 1, sizeof *array));
        assert_int_equal(array[n], 0);
        array[n] = (int32_t)n;
    }
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(array[i], i);
    assert_in_range(c.n, 2, 15);
    c.fails_at = c.n + 1;
    assert_int_equal(scbm_grow(&hooks, (void **)&array, &capacity, capacity + 1, sizeof *array), SCBM_ERROR_MEMORY);
    assert_int_equal(array[999], 999);
    scbm_release(&hooks, array);
    assert_int_equal(c.held, 0);
}

static void keep_message(void *user, scbm_log_level level, const char *message) {
    snprintf(user, 64, "%d %s", (int)level, message);
}

static void messages_go_to_the_log_hook(void **state) {
    (void)state;
    char kept[64] = "";
    scbm_hooks hooks = {0};
    hooks.user = kept;
    scbm_log(NULL, SCBM_LOG_INFO, "%d", 1);
    scbm_log(&hooks, SCBM_LOG_INFO, "%d", 2);
    hooks.log = keep_message;
    scbm_log(&hooks, SCBM_LOG_WARNING, "%d texts", 3);
    assert_string_equal(kept, "1 3 texts");
}

static void hooks_that_make_no_sense_are_refused(void **state) {
    (void)state;
    counting_allocator c = {0};
    scbm_context *context = NULL;
    scbm_hooks hooks = allocator_hooks(&c);
    hooks.free = NULL;
    assert_error(scbm_context_create(&context, &hooks, NULL), SCBM_ERROR_ARGUMENT, "free");
    hooks = allocator_hooks(&c);
    hooks.n_workers = -1;
    assert_error(scbm_context_create(&context, &hooks, NULL), SCBM_ERROR_ARGUMENT, "n_workers");
    assert_null(context);
    scbm_context *three = new_context(3), *all = new_context(0);
    assert_true(scbm_context_workers(three) == 3 || scbm_context_workers(three) == 1); /* without OpenMP */
    assert_true(scbm_context_workers(all) >= 1);
    assert_int_equal(scbm_context_hooks(three)->n_workers, 3);
    scbm_context_free(three);
    scbm_context_free(all);
    scbm_context_free(NULL);
}

typedef struct loop {
    int64_t calls, tasks;
} loop;

static void counting_loop(void *user, int64_t n, scbm_task task, void *arg) {
    loop *l = user;
    l->calls++;
    for (int64_t i = 0; i < n; i++, l->tasks++) task(arg, i, (int)(i & 1));
}

static void mark(void *arg, int64_t index, int worker) {
    ((int *)arg)[index] += 1 + worker;
}

static void the_parallel_loop_can_be_taken_over(void **state) {
    (void)state;
    loop l = {0, 0};
    scbm_context *context;
    scbm_hooks hooks = {0};
    hooks.user = &l;
    hooks.parallel_for = counting_loop;
    assert_error(scbm_context_create(&context, &hooks, NULL), SCBM_ERROR_ARGUMENT, "n_workers");
    hooks.n_workers = 2;
    assert_ok(scbm_context_create(&context, &hooks, NULL));
    assert_int_equal(scbm_context_workers(context), 2);
    int marks[5] = {0};
    scbm_parallel(context, 5, mark, marks);
    assert_int_equal(l.calls, 1);
    for (int i = 0; i < 5; i++) assert_int_equal(marks[i], 1 + (i & 1));
    scbm_graph *g = new_graph(context);
    scbm_scale(g, scbm_input(g, "x", SCBM_F32, DIMS(100000), NULL), 2.0f);
    assert_ok(scbm_graph_plan(g));
    assert_ok(scbm_graph_run(g, 0, 0));
    assert_int_equal(l.calls, 2);
    assert_true(l.tasks > 5 + 2);
    scbm_graph_free(g);
    scbm_context_free(context);
}

enum { OUTER_TASKS = 40, INNER_TASKS = 25 };

typedef struct nested {
    scbm_context *context;
    int outer[OUTER_TASKS]; /* workers */
    int inner[OUTER_TASKS][INNER_TASKS];
} nested;

typedef struct inner_loop {
    int *workers;
} inner_loop;

static void note_worker(void *arg, int64_t index, int worker) {
    ((inner_loop *)arg)->workers[index] = worker;
}

static void begin_a_loop(void *arg, int64_t index, int worker) {
    nested *n = arg;
    inner_loop inner = {n->inner[index]};
    const struct timespec a_while = {0, 200000};
    n->outer[index] = worker;
    nanosleep(&a_while, NULL); /* the other threads come */
    scbm_parallel(n->context, INNER_TASKS, note_worker, &inner);
}

/* So that what belongs to a worker (scratch) is never used by two threads. */
static void a_loop_inside_a_task_is_run_by_its_worker(void **state) {
    (void)state;
    for (int workers = 1; workers <= 3; workers++) {
        scbm_context *context = new_context(workers);
        for (int round = 0; round < 5; round++) {
            nested n = {.context = context};
            memset(n.inner, 0xff, sizeof n.inner);
            scbm_parallel(context, OUTER_TASKS, begin_a_loop, &n);
            for (int i = 0; i < OUTER_TASKS; i++)
                for (int j = 0; j < INNER_TASKS; j++) assert_int_equal(n.inner[i][j], n.outer[i]);
        }
        scbm_context_free(context);
    }
}

/* ------------------------------------------------------------------------------------------
 * Everything is released, also when memory runs out at any place
 * ---------------------------------------------------------------------------------------- */

/* From the context as far as a step of the optimizer. */
static scbm_status train_once(const scbm_hooks *hooks, int decomposed) {
    static float table[5 * 4], w[4 * 4], gamma[4];
    static uint64_t planes[3 * 4];
    static const scbm_extent by_token[] = {SCBM_TOKENS};
    static const int32_t token_ids[] = {0, 4, 2, 1}, starts[] = {0, 3, 4};
    static const float rates[3] = {0.1f, 0.1f, 0.1f}, decays[3] = {0.0f, 0.0f, 0.0f};
    static const scbm_adamw_options options = {.clip_norm = 1.0f};
    scbm_tensor t[3], masks;
    scbm_tensor *params[3] = {&t[0], &t[1], &t[2]}, *gradients[3];
    t[0] = weight_of("table", SCBM_F32, table, DIMS(5, 4));
    t[1] = weight_of("w", SCBM_F32, w, DIMS(4, 4));
    t[2] = weight_of("gamma", SCBM_F32, gamma, DIMS(4));
    masks = weight_of("masks", SCBM_I8, planes, DIMS(3, 4, 8));
    for (int i = 0; i < 20; i++) table[i] = 0.1f * (float)(i % 7) - 0.2f;
    for (int i = 0; i < 16; i++) w[i] = 0.3f * (float)(i % 5) - 0.5f;
    for (int i = 0; i < 4; i++) gamma[i] = 1.0f;
    for (int i = 0; i < 12; i++) planes[i] = 0x0101010101010101u * (uint64_t)(3 + i);
    scbm_context *context = NULL;
    scbm_graph *g = NULL;
    scbm_adamw *optimizer = NULL;
    scbm_status status = scbm_context_create(&context, hooks, NULL);
    if (!status) status = scbm_graph_create(&g, context);
    if (!status) status = scbm_adamw_create(&optimizer, context, params, 3, rates, decays, &options);
    if (!status) {
        scbm_graph_set_capacity(g, 6, 2);
        scbm_tensor *ids = scbm_input(g, "ids", SCBM_I32, DIMS(0), by_token);
        scbm_tensor *offsets = scbm_input(g, "offsets", SCBM_I32, DIMS(3), NULL);
        scbm_tensor *x = scbm_get_rows(g, params[0], ids);
        scbm_tensor *y = scbm_linear(g, x, params[1], NULL, &masks, SCBM_GELU_TANH);
        y = scbm_attention(g, y, y, y, offsets, 2, 0.5f, 1, 0.0f);
        y = scbm_add_layer_norm(g, y, x, params[2], params[2], 1e-5f);
        scbm_tensor *loss = scbm_mean(g, scbm_mul(g, scbm_segment_mean(g, y, offsets), scbm_scale(g, params[2], 2.0f)));
        if (decomposed) status = scbm_graph_decompose(g);
        if (!status) status = scbm_graph_backward(g, loss, params, 3);
        if (!status) status = scbm_graph_plan(g);
        if (!status) {
            memcpy(ids->data, token_ids, sizeof token_ids);
            memcpy(offsets->data, starts, sizeof starts);
            status = scbm_graph_run(g, 4, 2);
        }
        for (int i = 0; i < 3; i++) gradients[i] = scbm_graph_gradient(g, params[i]);
        if (!status) status = scbm_adamw_step(optimizer, gradients, 1.0f, NULL);
    }
    scbm_adamw_free(optimizer);
    scbm_graph_free(g);
    scbm_context_free(context);
    return status;
}

static void memory_may_run_out_anywhere(void **state) {
    (void)state;
    for (int decomposed = 0; decomposed < 2; decomposed++) {
        counting_allocator c = {0};
        scbm_hooks hooks = allocator_hooks(&c);
        assert_ok(train_once(&hooks, decomposed));
        assert_int_equal(c.held, 0);
        assert_int_equal(c.bytes, 0);
        long total = c.n;
        assert_true(total > 60);
        for (long at = 1; at <= total; at++)
            for (int fails_on = 0; fails_on < 2; fails_on++) {
                c = (counting_allocator){.fails_at = at, .fails_on = fails_on};
                assert_error(train_once(&hooks, decomposed), SCBM_ERROR_MEMORY, "memory");
                assert_int_equal(c.held, 0);
            }
    }
}

/* ------------------------------------------------------------------------------------------
 * Cancelling
 * ---------------------------------------------------------------------------------------- */

typedef struct journal {
    int64_t calls, cancel_at, total;
    int in_order;
} journal;

static int note_progress(void *user, const char *what, int64_t done, int64_t total) {
    journal *j = user;
    if (strcmp(what, "graph") || done != j->calls) j->in_order = 0;
    j->total = total;
    j->calls++;
    return j->cancel_at && j->calls == j->cancel_at;
}

typedef struct slow_machine {
    int questions, stops_at; /* asked; the one that is answered with "stop" */
} slow_machine;

static int stop_at_question(void *user) {
    slow_machine *m = user;
    return ++m->questions == m->stops_at;
}

/* Tasks that take their time, until it says "stop". */
static void slow_loop(void *user, int64_t n, scbm_task task, void *arg) {
    const slow_machine *m = user;
    for (int64_t i = 0; i < n; i++) {
        double started = scbm_seconds();
        while (m->questions < m->stops_at && scbm_seconds() < started + 0.15) {
        }
        task(arg, i, 0);
    }
}

static void a_long_node_can_be_cancelled_inside(void **state) {
    (void)state;
    slow_machine machine = {0, 2};
    const scbm_hooks hooks = {.user = &machine, .cancel = stop_at_question, .parallel_for = slow_loop, .n_workers = 1};
    scbm_context *context;
    assert_ok(scbm_context_create(&context, &hooks, NULL));
    scbm_graph *g = new_graph(context);
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(256, 4096), NULL);
    scbm_tensor *y = scbm_output(g, scbm_scale(g, x, 2.0f)); /* the only node: it is asked once before it */
    assert_ok(scbm_graph_plan(g));
    memset(x->data, 0, scbm_tensor_bytes(x));
    assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_CANCELLED, "cancelled");
    assert_int_equal(machine.questions, 2);
    machine.stops_at = 0;
    ((float *)x->data)[256 * 4096 - 1] = 3.0f;
    assert_ok(scbm_graph_run(g, 0, 0)); /* and the graph goes on working */
    assert_true(((float *)y->data)[256 * 4096 - 1] == 6.0f);
    scbm_graph_free(g);
    scbm_context_free(context);
}

static void a_run_can_be_cancelled_at_every_node(void **state) {
    (void)state;
    journal j = {0, 0, 0, 1};
    scbm_hooks hooks = {0};
    scbm_context *context;
    hooks.user = &j;
    hooks.progress = note_progress;
    assert_ok(scbm_context_create(&context, &hooks, NULL));
    scbm_graph *g = new_graph(context);
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(3), NULL), *y = x;
    for (int i = 0; i < 6; i++) y = scbm_scale(g, y, 2.0f);
    scbm_output(g, y);
    assert_ok(scbm_graph_plan(g));
    for (int i = 0; i < 3; i++) ((float *)x->data)[i] = (float)i;
    for (int64_t at = 1; at <= 6; at++) {
        j = (journal){0, at, 0, 1};
        assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_CANCELLED, "cancelled");
        assert_int_equal(j.calls, at);
    }
    j = (journal){0, 0, 0, 1};
    assert_ok(scbm_graph_run(g, 0, 0)); /* and the graph goes on working */
    assert_true(j.in_order);
    assert_int_equal(j.total, 6);
    for (int i = 0; i < 3; i++) assert_true(((float *)y->data)[i] == 64.0f * (float)i);
    scbm_graph_free(g);
    scbm_context_free(context);
}

/* ------------------------------------------------------------------------------------------
 * The planner
 * ---------------------------------------------------------------------------------------- */

/* A chain of n ops over 1000 floats (4000 bytes); `twice` reads every intermediate a second time at the end. */
static size_t chain_bytes(scbm_context *context, int n, int in_place, int twice) {
    scbm_graph *g = new_graph(context);
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(1000), NULL), *y = x, *kept[20];
    for (int i = 0; i < n; i++) kept[i] = y = in_place ? scbm_scale(g, y, 2.0f) : scbm_copy(g, y);
    for (int i = 0; twice && i < n; i++) y = scbm_add(g, y, kept[i]);
    scbm_output(g, y);
    size_t bytes = 0;
    assert_ok(scbm_graph_measure(g, &bytes));
    scbm_graph_free(g);
    return bytes;
}

static void dead_memory_is_used_again(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    const size_t one = 4032; /* 4000 bytes, aligned to 64 */
    assert_int_equal(chain_bytes(context, 1, 0, 0), 2 * one);
    assert_int_equal(chain_bytes(context, 10, 0, 0), 3 * one); /* input and two that take turns */
    assert_int_equal(chain_bytes(context, 10, 1, 0), 2 * one); /* each works where the one before it was */
    assert_true(chain_bytes(context, 10, 1, 1) >= 10 * one);   /* all are alive at the end */
    assert_true(chain_bytes(context, 10, 1, 1) <= 13 * one);
    scbm_context_free(context);
}

static void planning_takes_what_was_measured(void **state) {
    (void)state;
    counting_allocator c = {0};
    scbm_context *context;
    scbm_hooks hooks = allocator_hooks(&c);
    assert_ok(scbm_context_create(&context, &hooks, NULL));
    float w[40 * 30] = {0};
    scbm_tensor weight = weight_of("w", SCBM_F32, w, DIMS(40, 30));
    for (int i = 0; i < 2; i++) {
        scbm_graph *g = new_graph(context);
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(1, 20, 30), NULL);
        if (i) scbm_softmax(g, scbm_linear(g, x, &weight, NULL, NULL, SCBM_RELU));
        size_t bytes = 0;
        long held = c.held;
        size_t before = c.bytes;
        assert_ok(scbm_graph_measure(g, &bytes));
        assert_int_equal(c.bytes, before); /* a dry plan keeps nothing */
        assert_int_equal(c.held, held);
        assert_ok(scbm_graph_plan(g));
        assert_in_range(c.bytes - before, bytes, bytes + 384); /* and the alignment of two blocks, and some words a node */
        size_t again = 0;
        assert_ok(scbm_graph_measure(g, &again));
        assert_int_equal(again, bytes);
        long n = c.n;
        assert_ok(scbm_graph_run(g, 0, 0));
        assert_int_equal(c.n, n); /* a run takes no memory */
        scbm_graph_free(g);
    }
    scbm_context_free(context);
    assert_int_equal(c.held, 0);
}

enum { WIDE = 70, DEEP = 66 };

/* y = x (W ⊙ M)ᵀ, M's plane NULL: all ones. */
static void multiply(const float *x, const float *w, const uint8_t *plane, int64_t rows, int64_t tokens, double *y) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t n = 0; n < rows; n++) {
            double sum = 0.0;
            for (int64_t k = 0; k < DEEP; k++)
                if (!plane || plane[n * 16 + k / 8] >> (k % 8) & 1)
                    sum += (double)x[t * DEEP + k] * (double)w[n * DEEP + k];
            y[t * rows + n] = sum;
        }
}

/* Layers that follow each other on one x, on another x, and on the same x anew in the next run. */
static void layers_that_follow_each_other_read_their_own_input(void **state) {
    (void)state;
    static float weights[3][WIDE * DEEP];
    static uint8_t planes[3][2 * WIDE * 16];
    static double wanted[WIDE * WIDE];
    scbm_random random = {5, 0, 0};
    scbm_context *context = new_context(2);
    for (int i = 0; i < 3; i++)
        for (int64_t j = 0; j < WIDE * DEEP; j++) weights[i][j] = (float)scbm_random_uniform(&random) - 0.5f;
    for (int i = 0; i < 3; i++)
        for (int64_t s = 0; s < 2 * WIDE; s++)
            for (int64_t k = 0; k < DEEP; k++)
                if (scbm_random_below(&random, 3) == 0) planes[i][s * 16 + k / 8] |= (uint8_t)(1u << (k % 8));
    for (int masked = 0; masked < 2; masked++) {
        scbm_graph *g = new_graph(context);
        scbm_graph_set_capacity(g, WIDE, 1);
        const scbm_extent by_token[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
        scbm_tensor w[3], m[3], *x = scbm_input(g, "x", SCBM_F32, DIMS(2, 0, DEEP), by_token), *y[3];
        scbm_tensor *other = scbm_input(g, "other", SCBM_F32, DIMS(2, 0, DEEP), by_token);
        for (int i = 0; i < 3; i++) {
            w[i] = weight_of("w", SCBM_F32, weights[i], DIMS(WIDE, DEEP));
            m[i] = weight_of("m", SCBM_I8, planes[i], DIMS(2, WIDE, 16));
            y[i] = scbm_output(g, scbm_linear(g, i < 2 ? x : other, &w[i], NULL, masked ? &m[i] : NULL, SCBM_NONE));
        }
        assert_ok(scbm_graph_plan(g));
        for (int run = 0; run < 4; run++) {
            const int64_t tokens = run < 2 ? WIDE : 7; /* many, and few */
            float *values[2] = {x->data, other->data};
            for (int i = 0; i < 2; i++)
                for (int64_t j = 0; j < 2 * tokens * DEEP; j++) values[i][j] = (float)scbm_random_uniform(&random);
            assert_ok(scbm_graph_run(g, tokens, 1));
            for (int i = 0; i < 3; i++)
                for (int64_t s = 0; s < 2; s++) {
                    const float *made = (const float *)y[i]->data + s * tokens * WIDE;
                    multiply(values[i / 2] + s * tokens * DEEP, weights[i], masked ? planes[i] + s * WIDE * 16 : NULL,
                             WIDE, tokens, wanted);
                    for (int64_t j = 0; j < tokens * WIDE; j++) assert_near((double)made[j], wanted[j], 1e-4);
                }
        }
        scbm_graph_free(g);
    }
    scbm_context_free(context);
}

/* A random graph of elementwise, moving and reducing ops over [4, 6] tensors. */
static scbm_tensor *random_graph(scbm_graph *g, uint64_t seed, int n, int keep, scbm_tensor **input) {
    scbm_random random = {seed, 0, 0};
    scbm_tensor *made[64];
    made[0] = *input = scbm_input(g, "x", SCBM_F32, DIMS(4, 6), NULL);
    for (int i = 1; i < n; i++) {
        scbm_tensor *a = made[scbm_random_below(&random, (uint64_t)i)],
                    *b = made[scbm_random_below(&random, (uint64_t)i)];
        scbm_tensor *flat;
        switch (scbm_random_below(&random, 8)) {
        case 0: made[i] = scbm_add(g, a, b); break;
        case 1: made[i] = scbm_scale(g, scbm_mul(g, a, b), 0.1f); break;
        case 2: made[i] = scbm_activate(g, a, SCBM_TANH); break;
        case 3: made[i] = scbm_concat(g, scbm_slice(g, a, 2, 4), scbm_slice(g, b, 0, 2)); break;
        case 4: made[i] = scbm_copy(g, a); break;
        case 5:
            flat = scbm_activate(g, scbm_reshape(g, a, DIMS(24), NULL), SCBM_SIGMOID);
            made[i] = scbm_reshape(g, flat, DIMS(4, 6), NULL);
            break;
        case 6: made[i] = scbm_softmax(g, a); break;
        default: made[i] = scbm_add(g, a, scbm_mean(g, b)); break;
        }
        if (keep) scbm_output(g, made[i]);
    }
    return scbm_output(g, made[n - 1]);
}

static void reused_memory_never_changes_a_result(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    int n_smaller = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        size_t bytes[2];
        float result[2][24];
        for (int keep = 0; keep < 2; keep++) {
            scbm_graph *g = new_graph(context);
            scbm_tensor *input, *y = random_graph(g, seed, 3 + (int)(seed % 40), keep, &input);
            assert_ok(scbm_graph_plan(g));
            assert_ok(scbm_graph_measure(g, &bytes[keep]));
            for (int i = 0; i < 24; i++) ((float *)input->data)[i] = 0.1f * (float)i - 1.0f;
            assert_ok(scbm_graph_run(g, 0, 0));
            memcpy(result[keep], y->data, sizeof result[keep]);
            assert_ok(scbm_graph_run(g, 0, 0)); /* the input is still there */
            assert_memory_equal(result[keep], y->data, sizeof result[keep]);
            scbm_graph_free(g);
        }
        assert_memory_equal(result[0], result[1], sizeof result[0]);
        assert_true(bytes[0] <= bytes[1]);
        n_smaller += bytes[0] < bytes[1];
    }
    assert_true(n_smaller > 200);
    scbm_context_free(context);
}

static scbm_status ignore(void *user, const scbm_tensor *tensor) {
    (void)user;
    (void)tensor;
    return SCBM_OK;
}

static void graphs_check_how_they_are_used(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    scbm_graph *g = new_graph(context);
    scbm_graph_set_capacity(g, 10, 3);
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(0, 2), (scbm_extent[]){SCBM_TOKENS, SCBM_FIXED});
    scbm_tensor *y = scbm_output(g, scbm_scale(g, x, 2.0f));
    assert_int_equal(x->shape[0], 10);
    assert_error(scbm_graph_run(g, 1, 1), SCBM_ERROR_ARGUMENT, "planned");
    assert_ok(scbm_graph_plan(g));
    assert_error(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT, "planned");
    assert_error(scbm_graph_run(g, 11, 1), SCBM_ERROR_SHAPE, "11");
    assert_error(scbm_graph_run(g, 1, 4), SCBM_ERROR_SHAPE, "4");
    assert_error(scbm_graph_run(g, -1, 0), SCBM_ERROR_SHAPE, "-1");
    assert_ok(scbm_graph_run(g, 7, 3));
    int64_t shape[SCBM_MAX_DIMS];
    scbm_graph_shape(g, y, shape);
    assert_int_equal(shape[0], 7);
    assert_int_equal(shape[1], 2);
    double seconds = 0.0;
    for (int i = 0; i < SCBM_OP_COUNT; i++) seconds += scbm_graph_op_seconds(g)[i];
    assert_true(seconds >= 0.0 && seconds == scbm_graph_op_seconds(g)[SCBM_OP_SCALE]);
    assert_int_equal(scbm_graph_nodes(g), 1);
    assert_int_equal(scbm_graph_node(g, 0)->op, SCBM_OP_SCALE);
    assert_null(scbm_graph_node(g, 1));
    assert_null(scbm_graph_node(g, -1));
    assert_null(scbm_scale(g, y, 2.0f)); /* too late */
    assert_null(scbm_input(g, "z", SCBM_F32, DIMS(1), NULL));
    scbm_graph_free(g);
    g = new_graph(context);
    scbm_tensor empty = weight_of("empty weight", SCBM_F32, NULL, DIMS(4));
    scbm_scale(g, &empty, 1.0f);
    assert_ok(scbm_graph_plan(g));
    assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_ARGUMENT, "empty weight");
    scbm_graph_free(g);
    scbm_graph_free(NULL);
    g = new_graph(context);
    scbm_graph_set_precision(g, (scbm_precision)SCBM_PRECISION_COUNT);
    scbm_scale(g, scbm_input(g, "x", SCBM_F32, DIMS(4), NULL), 1.0f);
    assert_error(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT, "precision");
    scbm_graph_free(g);
    scbm_context_free(context);
}

static void precisions_have_names(void **state) {
    (void)state;
    static const char *const names[] = {"f32", "tf32", "bf16", "int8"};
    scbm_precision precision;
    assert_int_equal(COUNT_OF(names), SCBM_PRECISION_COUNT);
    for (int i = 0; i < SCBM_PRECISION_COUNT; i++) {
        assert_string_equal(scbm_precision_name((scbm_precision)i), names[i]);
        assert_ok(scbm_precision_parse(names[i], &precision));
        assert_int_equal(precision, i);
    }
    assert_null(scbm_precision_name(SCBM_PRECISION_COUNT));
    assert_error(scbm_precision_parse("f16", &precision), SCBM_ERROR_ARGUMENT, "'f16'");
}

/* Rather than computed in another one. */
static void a_precision_that_the_backend_has_not_is_refused(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    for (int i = 0; i < SCBM_PRECISION_COUNT; i++) {
        const scbm_precision precision = (scbm_precision)i;
        const int is_there = precision != SCBM_PRECISION_TF32;
        scbm_graph *g = new_graph(context);
        scbm_graph_set_precision(g, precision);
        if (is_there) {
            assert_ok(scbm_context_check_precision(context, precision));
            assert_ok(scbm_graph_plan(g));
        } else {
            assert_error(scbm_context_check_precision(context, precision), SCBM_ERROR_UNSUPPORTED, "it has f32, bf16, int8");
            assert_error(scbm_graph_plan(g), SCBM_ERROR_UNSUPPORTED, scbm_precision_name(precision));
        }
        scbm_graph_free(g);
    }
    assert_error(scbm_context_check_precision(context, (scbm_precision)-1), SCBM_ERROR_ARGUMENT, "precision -1");
    scbm_context_free(context);
}

/* y = 2 x, loss = mean(y), another loss = sum(y). */
typedef struct moment {
    scbm_graph *graph;
    scbm_tensor *x, *y, *loss, *other;
} moment;

static void call_precision(moment *m) {
    scbm_graph_set_precision(m->graph, SCBM_PRECISION_BF16);
}

static void call_capacity(moment *m) {
    scbm_graph_set_capacity(m->graph, 1000, 1000);
}

static void call_input(moment *m) {
    scbm_input(m->graph, "late", SCBM_F32, DIMS(2), NULL);
}

static void call_op(moment *m) {
    if (m->y) scbm_activate(m->graph, m->y, SCBM_TANH);
}

static void call_reshape(moment *m) {
    if (m->y) scbm_reshape(m->graph, m->y, DIMS(2, 2), NULL);
}

static void call_output(moment *m) {
    if (m->y) scbm_output(m->graph, m->y);
}

static void call_watch(moment *m) {
    if (m->y) scbm_graph_watch(m->graph, m->y, ignore, NULL);
}

static void call_weight_gradients(moment *m) {
    scbm_graph_set_weight_gradients(m->graph, SCBM_DW_MASKED);
}

static void call_decompose(moment *m) {
    scbm_graph_decompose(m->graph);
}

static void call_backward(moment *m) {
    if (m->other) scbm_graph_backward(m->graph, m->other, &m->x, 1);
}

enum { EMPTY, BUILT, DIFFERENTIATED, PLANNED, N_MOMENTS };

/* Builds a graph as far as `when`. */
static void build_until(moment *m, scbm_context *context, int when) {
    *m = (moment){.graph = new_graph(context)};
    if (when == EMPTY) return;
    m->x = scbm_input(m->graph, "x", SCBM_F32, DIMS(4), NULL);
    m->y = scbm_scale(m->graph, m->x, 2.0f);
    m->loss = scbm_output(m->graph, scbm_mean(m->graph, m->y));
    m->other = scbm_sum(m->graph, m->y);
    if (when >= DIFFERENTIATED) assert_ok(scbm_graph_backward(m->graph, m->loss, &m->x, 1));
    if (when == PLANNED) assert_ok(scbm_graph_plan(m->graph));
}

static void every_call_has_its_moment(void **state) {
    (void)state;
    static const struct {
        const char *words; /* of the error */
        void (*call)(moment *m);
        int last; /* the last moment at which it is allowed */
    } calls[] = {
        {"precision", call_precision, EMPTY},    {"capacity", call_capacity, EMPTY},
        {"decompose", call_decompose, BUILT},    {"weight gradients", call_weight_gradients, BUILT},
        {"backward", call_backward, BUILT},      {"input late", call_input, DIFFERENTIATED},
        {"activate", call_op, DIFFERENTIATED},   {"reshape", call_reshape, DIFFERENTIATED},
        {"output", call_output, DIFFERENTIATED}, {"watch", call_watch, DIFFERENTIATED},
    };
    scbm_context *context = new_context(1);
    for (int i = 0; i < COUNT_OF(calls); i++)
        for (int when = EMPTY; when < N_MOMENTS; when++) {
            moment m;
            size_t bytes;
            build_until(&m, context, when);
            calls[i].call(&m);
            if (when <= calls[i].last) {
                assert_ok_for(scbm_graph_plan(m.graph), calls[i].words);
                assert_ok_for(scbm_graph_run(m.graph, 0, 0), calls[i].words);
            } else {
                assert_error(scbm_graph_measure(m.graph, &bytes), SCBM_ERROR_ARGUMENT, calls[i].words);
                if (when < PLANNED) assert_error(scbm_graph_plan(m.graph), SCBM_ERROR_ARGUMENT, calls[i].words);
                else assert_error(scbm_graph_run(m.graph, 0, 0), SCBM_ERROR_ARGUMENT, calls[i].words);
            }
            scbm_graph_free(m.graph);
        }
    scbm_context_free(context);
}

static void capacities_and_modes_have_bounds(void **state) {
    (void)state;
    static const int64_t bad[][2] = {{-1, 3}, {3, -1}, {INT32_MAX, 3}, {3, INT32_MAX}, {INT64_MAX, INT64_MAX}};
    scbm_context *context = new_context(1);
    size_t bytes;
    for (int i = 0; i < COUNT_OF(bad); i++) {
        scbm_graph *g = new_graph(context);
        scbm_graph_set_capacity(g, bad[i][0], bad[i][1]);
        assert_error(scbm_graph_measure(g, &bytes), SCBM_ERROR_ARGUMENT, "capacity");
        scbm_graph_free(g);
    }
    scbm_graph *g = new_graph(context);
    scbm_graph_set_weight_gradients(g, (scbm_dw_mode)3);
    assert_error(scbm_graph_measure(g, &bytes), SCBM_ERROR_ARGUMENT, "mode 3");
    scbm_graph_free(g);
    scbm_context_free(context);
}

static void tensors_of_another_graph_are_refused(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    moment other, m;
    build_until(&other, context, BUILT);
    build_until(&m, context, BUILT);
    assert_null(scbm_output(m.graph, other.y));
    assert_error(scbm_graph_plan(m.graph), SCBM_ERROR_ARGUMENT, "another graph");
    scbm_graph_free(m.graph);
    build_until(&m, context, BUILT);
    assert_error(scbm_graph_backward(m.graph, m.loss, &other.x, 1), SCBM_ERROR_ARGUMENT, "another graph");
    scbm_graph_free(m.graph);
    scbm_graph_free(other.graph);
    scbm_context_free(context);
}

/* What a decomposed node computed beside its first result is computed no more. */
static void other_results_of_a_decomposed_node_are_missed(void **state) {
    (void)state;
    static float values[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    scbm_tensor gamma = weight_of("gamma", SCBM_F32, values, DIMS(4));
    scbm_context *context = new_context(1);
    for (int how = 0; how < 3; how++) {
        scbm_graph *g = new_graph(context);
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(1, 2, 4), NULL);
        scbm_tensor *y = scbm_output(g, scbm_add_layer_norm(g, x, x, &gamma, &gamma, 1e-5f));
        scbm_tensor *mean = scbm_graph_node(g, y->node)->result[1];
        if (how == 1) scbm_output(g, mean);
        if (how == 2) scbm_scale(g, mean, 2.0f);
        assert_ok(scbm_graph_decompose(g));
        if (how) assert_error(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT, "no node of the graph computes it");
        else assert_ok(scbm_graph_plan(g));
        scbm_graph_free(g);
    }
    scbm_context_free(context);
}

/* Each tensor's bytes fit, their sum does not. */
static void a_workspace_larger_than_memory_has_addresses_is_refused(void **state) {
    (void)state;
    const int64_t size = INT64_MAX / 64;
    scbm_context *context = new_context(1);
    scbm_graph *g = new_graph(context);
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(size), NULL);
    for (int i = 0; i < 40; i++) scbm_output(g, scbm_scale(g, x, 2.0f));
    size_t bytes;
    assert_error(scbm_graph_measure(g, &bytes), SCBM_ERROR_MEMORY, "memory");
    assert_error(scbm_graph_plan(g), SCBM_ERROR_MEMORY, "memory");
    scbm_graph_free(g);
    scbm_context_free(context);
}

static scbm_status run_again(void *user, const scbm_tensor *tensor) {
    (void)tensor;
    return scbm_graph_run(user, 0, 0);
}

static void a_graph_does_not_run_inside_its_own_run(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    moment m, other;
    for (int i = 0; i < 2; i++) {
        build_until(&m, context, BUILT);
        build_until(&other, context, PLANNED);
        assert_ok(scbm_graph_watch(m.graph, m.y, run_again, i ? m.graph : other.graph));
        assert_ok(scbm_graph_plan(m.graph));
        for (int again = 0; again < 2; again++) { /* and what it refused leaves it as it was */
            if (i) assert_error(scbm_graph_run(m.graph, 0, 0), SCBM_ERROR_ARGUMENT, "inside its own run");
            else assert_ok(scbm_graph_run(m.graph, 0, 0));
        }
        scbm_graph_free(m.graph);
        scbm_graph_free(other.graph);
    }
    scbm_context_free(context);
}

/* ------------------------------------------------------------------------------------------
 * Backends by name
 * ---------------------------------------------------------------------------------------- */

static void what_this_build_does_not_have_is_said(void **state) {
    (void)state;
    static const char *const names[] = {"cuda", "cuda:1", "cpux", "cp", "", ":", "CPU"};
    scbm_backend *backend;
    for (int i = 0; i < COUNT_OF(names); i++) {
        backend = (scbm_backend *)&backend;
        assert_error(scbm_backend_open(&backend, names[i], NULL), SCBM_ERROR_UNSUPPORTED, "this build has: cpu");
        assert_non_null(strstr(scbm_last_error(), names[i]));
        assert_null(backend);
    }
    const scbm_backend_options unknown = {.reserved = {[7] = 1}};
    assert_error(scbm_backend_open(&backend, "cpu", &unknown), SCBM_ERROR_ARGUMENT, "reserved");
    scbm_backend_close(NULL);
}

/* NULL, "cpu" and, where nothing else was registered, "auto". */
static void the_cpu_is_the_default_backend(void **state) {
    (void)state;
    static const char *const names[] = {NULL, "cpu", "auto"};
    counting_allocator a = {0};
    const scbm_hooks hooks = allocator_hooks(&a);
    const scbm_backend_options zeros = {0}, options = {.hooks = &hooks};
    scbm_backend_info info;
    scbm_context *context, *defaults = new_context(1);
    assert_int_equal(scbm_backend_count(), 1);
    assert_ok(scbm_backend_describe(0, &info));
    assert_string_equal(info.name, "cpu");
    assert_string_equal(info.description, scbm_context_device(defaults));
    for (int i = -1; i < 3; i += 2)
        assert_error(scbm_backend_describe(i, &info), SCBM_ERROR_ARGUMENT, "this machine has 1");
    for (int i = 0; i < 3 * COUNT_OF(names); i++) {
        scbm_backend *backend;
        assert_ok(scbm_backend_open(&backend, names[i / 3], i % 3 == 0 ? NULL : i % 3 == 1 ? &zeros : &options));
        assert_int_equal(a.held, i % 3 == 2);
        assert_ok(scbm_context_create(&context, NULL, backend));
        assert_string_equal(scbm_context_device(context), scbm_context_device(defaults));
        scbm_context_free(context);
        scbm_backend_close(backend);
        assert_int_equal(a.held, 0);
    }
    a.fails_at = a.n + 1;
    scbm_backend *backend;
    assert_error(scbm_backend_open(&backend, "cpu", &options), SCBM_ERROR_MEMORY, "memory");
    scbm_context_free(defaults);
}

/* A backend of the program's own: two devices, of which the driver may be missing and the opening may fail. */
static void remote_free(scbm_backend *backend) {
    (void)backend;
}

static const scbm_backend_functions remote_functions = {
    .version = SCBM_BACKEND_VERSION,
    .name = "remote",
    .free = remote_free,
};

static int remote_devices = 2, remote_is_broken;
static char remote_asked[32];

static int count_remotes(void) {
    return remote_devices;
}

static void describe_remote(int device, char *text, size_t size) {
    snprintf(text, size, "remote number %d", device);
}

static scbm_status open_remote(scbm_backend **backend, const char *device, const scbm_backend_options *options) {
    static scbm_backend opened = {.functions = &remote_functions};
    assert_non_null(options);
    if (remote_is_broken) return scbm_fail(SCBM_ERROR_UNSUPPORTED, "the driver is too old");
    snprintf(remote_asked, sizeof remote_asked, "%s", device ? device : "none");
    *backend = &opened;
    return SCBM_OK;
}

static void entries_that_make_no_sense_are_not_registered(void **state) {
    (void)state;
    const scbm_backend_entry good = {SCBM_BACKEND_VERSION, "other", count_remotes, describe_remote, open_remote};
    static const char *const names[] = {"cpu", "auto", "train", "", NULL, "a:b", "a b", "GPU"};
    scbm_backend_entry bad = good;
    bad.version++;
    assert_error(scbm_backend_register(&bad), SCBM_ERROR_UNSUPPORTED, "version 4");
    for (int i = 0; i < COUNT_OF(names); i++) {
        bad = good;
        bad.name = names[i];
        assert_error(scbm_backend_register(&bad), SCBM_ERROR_ARGUMENT, i ? "called" : "already");
    }
    for (int i = 0; i < 3; i++) {
        bad = good;
        if (i == 0) bad.count = NULL;
        if (i == 1) bad.describe = NULL;
        if (i == 2) bad.open = NULL;
        assert_error(scbm_backend_register(&bad), SCBM_ERROR_ARGUMENT, "lacks");
    }
    assert_int_equal(scbm_backend_count(), 1);
}

static void a_registered_backend_is_opened_by_its_name(void **state) {
    (void)state;
    static const scbm_backend_entry entry = {SCBM_BACKEND_VERSION, "remote", count_remotes, describe_remote,
                                             open_remote};
    static const struct {
        const char *name, *asked;
    } names[] = {{"remote", "none"}, {"remote:1", "1"}, {"remote:", ""}, {"auto", "none"}};
    char message[200] = "";
    const scbm_hooks hooks = {.user = message, .log = keep_message};
    const scbm_backend_options options = {.hooks = &hooks};
    scbm_backend *backend;
    scbm_backend_info info;
    assert_ok(scbm_backend_register(&entry));
    assert_error(scbm_backend_register(&entry), SCBM_ERROR_ARGUMENT, "already");
    for (int i = 0; i < COUNT_OF(names); i++) {
        assert_ok(scbm_backend_open(&backend, names[i].name, NULL));
        assert_string_equal(backend->functions->name, "remote");
        assert_string_equal(remote_asked, names[i].asked);
        scbm_backend_close(backend);
    }
    assert_error(scbm_backend_open(&backend, "cuda", NULL), SCBM_ERROR_UNSUPPORTED, "this build has: cpu, remote");
    assert_int_equal(scbm_backend_count(), 3);
    assert_ok(scbm_backend_describe(2, &info));
    assert_string_equal(info.name, "remote:1");
    assert_string_equal(info.description, "remote number 1");
    remote_devices = 1;
    assert_ok(scbm_backend_describe(1, &info));
    assert_string_equal(info.name, "remote");
    remote_is_broken = 1; /* asked for by name it is an error, otherwise the next is taken */
    assert_error(scbm_backend_open(&backend, "remote", NULL), SCBM_ERROR_UNSUPPORTED, "too old");
    for (remote_devices = 1; remote_devices >= 0; remote_devices--) {
        message[0] = 0;
        assert_ok(scbm_backend_open(&backend, "auto", &options));
        assert_string_equal(backend->functions->name, "cpu");
        assert_string_equal(message, remote_devices ? "1 remote is not used: the driver is too old"
                                                   : "0 remote has no device here: remote number -1");
        scbm_backend_close(backend);
    }
    assert_int_equal(scbm_backend_count(), 1);
}

/* ------------------------------------------------------------------------------------------
 * Watching
 * ---------------------------------------------------------------------------------------- */

typedef struct watched {
    double sum;
    int calls, fail_at;
} watched;

static scbm_status add_up(void *user, const scbm_tensor *tensor) {
    watched *w = user;
    if (++w->calls == w->fail_at) return scbm_fail(SCBM_ERROR_NUMERIC, "seen enough");
    for (int64_t i = 0; i < scbm_tensor_elements(tensor); i++) w->sum += ((const float *)tensor->data)[i];
    return SCBM_OK;
}

/* Ten large results, each of which is looked at once, need the memory of one. */
static void watched_results_are_handed_over(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    size_t bytes[2];
    for (int watch = 0; watch < 2; watch++) {
        watched w = {0.0, 0, 0};
        scbm_graph *g = new_graph(context);
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(1), NULL);
        scbm_tensor *large = scbm_input(g, "like", SCBM_F32, DIMS(1000), NULL), *made[10];
        for (int i = 0; i < 10; i++) {
            scbm_tensor *sources[] = {scbm_scale(g, x, (float)(i + 1)), large};
            made[i] = scbm_output(g, scbm_graph_add(g, SCBM_OP_BROADCAST, 2, sources, NULL, NULL)->result[0]);
            if (watch) assert_ok(scbm_graph_watch(g, made[i], add_up, &w));
        }
        assert_ok(scbm_graph_plan(g));
        assert_ok(scbm_graph_measure(g, &bytes[watch]));
        *(float *)x->data = 0.5f;
        assert_ok(scbm_graph_run(g, 0, 0));
        assert_int_equal(w.calls, watch ? 10 : 0);
        if (watch) assert_true(w.sum == 0.5 * 55.0 * 1000.0);
        w = (watched){0.0, 0, 4};
        if (watch) assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_NUMERIC, "seen enough");
        if (watch) assert_int_equal(w.calls, 4);
        scbm_graph_free(g);
    }
    assert_true(bytes[1] + 8 * 4000 < bytes[0]);
    scbm_graph *g = new_graph(context);
    assert_error(scbm_graph_watch(g, scbm_input(g, "x", SCBM_F32, DIMS(1), NULL), add_up, NULL), SCBM_ERROR_ARGUMENT,
                 "watch");
    scbm_graph_free(g);
    g = new_graph(context);
    scbm_tensor *y = scbm_scale(g, scbm_input(g, "x", SCBM_F32, DIMS(1), NULL), 2.0f);
    assert_error(scbm_graph_watch(g, y, NULL, NULL), SCBM_ERROR_ARGUMENT, "watch");
    scbm_graph_free(g);
    scbm_context_free(context);
}

/* ------------------------------------------------------------------------------------------
 * Threads
 * ---------------------------------------------------------------------------------------- */

typedef struct shared {
    scbm_tensor *w;
    float first[50];
    int failed;
} shared;

static void *use_weights(void *user) {
    shared *s = user;
    for (int round = 0; round < 20; round++) {
        scbm_context *context = NULL;
        scbm_graph *g = NULL;
        scbm_hooks hooks = {0};
        hooks.n_workers = 1;
        s->failed |= scbm_context_create(&context, &hooks, NULL) || scbm_graph_create(&g, context);
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(5, 30), NULL);
        scbm_tensor *y = scbm_output(g, scbm_linear(g, x, s->w, NULL, NULL, SCBM_GELU_ERF));
        s->failed |= scbm_graph_plan(g) != SCBM_OK;
        for (int i = 0; i < 150; i++) ((float *)x->data)[i] = 0.01f * (float)i;
        s->failed |= scbm_graph_run(g, 0, 0) != SCBM_OK;
        if (round == 0) memcpy(s->first, y->data, sizeof s->first);
        s->failed |= memcmp(s->first, y->data, sizeof s->first) != 0;
        scbm_graph_free(g);
        scbm_context_free(context);
    }
    return NULL;
}

static void threads_share_weights(void **state) {
    (void)state;
    float data[300];
    for (int i = 0; i < 300; i++) data[i] = 0.01f * (float)(i % 37);
    scbm_tensor w = weight_of("w", SCBM_F32, data, DIMS(10, 30));
    shared s[3];
    pthread_t thread[3];
    memset(s, 0, sizeof s);
    for (int i = 0; i < 3; i++) {
        s[i].w = &w;
        assert_int_equal(pthread_create(&thread[i], NULL, use_weights, &s[i]), 0);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < 3; i++) {
        assert_false(s[i].failed);
        assert_memory_equal(s[i].first, s[0].first, sizeof s[0].first);
    }
}

/* ------------------------------------------------------------------------------------------
 * Random numbers
 * ---------------------------------------------------------------------------------------- */

/* The known answers for philox4x32-10 that come with Salmon et al.'s Random123. The counter's words are counter and
 * stream, the key is the seed, low words first. */
static void philox_gives_the_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < COUNT_OF(known); i++) {
        const uint32_t *c = known[i].counter, *k = known[i].key;
        uint32_t out[4];
        scbm_philox((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2], (uint64_t)c[1] << 32 | c[0], out);
        assert_memory_equal(out, known[i].want, sizeof out);
    }
}

static void the_counter_is_the_whole_state(void **state) {
    (void)state;
    scbm_random a = {7, 3, 0}, other = {7, 4, 0};
    double values[10];
    int n_equal = 0;
    for (int i = 0; i < 10; i++) {
        values[i] = scbm_random_uniform(&a);
        n_equal += values[i] == scbm_random_uniform(&other);
    }
    assert_int_equal(n_equal, 0);
    assert_int_equal(a.counter, 10);
    scbm_random b = {7, 3, 6};
    for (int i = 6; i < 10; i++) assert_true(values[i] == scbm_random_uniform(&b));
}

/* Off libm's, in units of its last place. */
static double units_off(double value, double wanted) {
    int exponent;
    frexp(wanted, &exponent);
    return fabs(value - wanted) / ldexp(1.0, exponent > -1021 ? exponent - 53 : -1074);
}

static void exponentials_and_logarithms_are_libm_s_to_one_unit(void **state) {
    (void)state;
    scbm_random random = {9, 1, 0};
    double worst = 0.0;
    for (int i = 0; i < 200000; i++) {
        double x = 1416.0 * scbm_random_uniform(&random) - 707.0, y = exp(x), near = 0.5 + scbm_random_uniform(&random);
        worst = fmax(worst, units_off(scbm_exponential(x), y));
        worst = fmax(worst, units_off(scbm_logarithm(y), log(y)));
        if (near != 1.0) worst = fmax(worst, units_off(scbm_logarithm(near), log(near)));
    }
    if (!(worst <= 1.0)) fail_msg("%g units off", worst);
    assert_true(scbm_exponential(0.0) == 1.0 && scbm_logarithm(1.0) == 0.0 && scbm_logarithm(2.0) == log(2.0));
    assert_true(scbm_exponential(-745.0) > 0.0 && scbm_exponential(-800.0) == 0.0 && scbm_exponential(-HUGE_VAL) == 0.0);
    assert_true(scbm_exponential(800.0) == HUGE_VAL && scbm_exponential(HUGE_VAL) == HUGE_VAL);
    assert_true(scbm_logarithm(0.0) == -HUGE_VAL && scbm_logarithm(HUGE_VAL) == HUGE_VAL);
    assert_true(units_off(scbm_logarithm(0x1p-1074), log(0x1p-1074)) <= 1.0);
    assert_true(isnan(scbm_exponential(NAN)) && isnan(scbm_logarithm(NAN)) && isnan(scbm_logarithm(-1.0)));
}

/* Weights are drawn with them: the same bits on every machine, and, rounded to floats, those of a good libm. */
static void normal_numbers_are_the_same_on_every_machine(void **state) {
    (void)state;
    enum { N = 200000 };
    scbm_random random = {7, 3, 0}, again = random;
    uint64_t hash = 0xcbf29ce484222325u, bits;
    int n_other = 0;
    for (int i = 0; i < N; i++) {
        double z = scbm_random_normal(&random), u = scbm_random_uniform(&again), v = scbm_random_uniform(&again);
        memcpy(&bits, &z, sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
        n_other += (float)z != (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586477 * v));
    }
    for (int i = 0; i < 2000; i++) {
        double b = scbm_random_beta(&random, 0.4, 0.4);
        memcpy(&bits, &b, sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    assert_true(n_other <= 1);
    if (hash != UINT64_C(0xe0654f012a0aaf1d)) fail_msg("the numbers' hash is 0x%016llx", (unsigned long long)hash);
}

/* Means and variances within five standard errors. */
static void distributions_have_their_moments(void **state) {
    (void)state;
    enum { N = 40000 };
    scbm_random random = {1, 2, 0};
    double uniform[2] = {0, 0}, normal[4] = {0, 0, 0, 0}, beta[2] = {0, 0}, small = 0.0;
    for (int i = 0; i < N; i++) {
        double u = scbm_random_uniform(&random), z = scbm_random_normal(&random);
        double b = scbm_random_beta(&random, 2.0, 3.0), s = scbm_random_beta(&random, 0.4, 0.4);
        assert_true(u > 0.0 && u < 1.0 && b >= 0.0 && b <= 1.0 && s >= 0.0 && s <= 1.0);
        uniform[0] += u / N;
        uniform[1] += (u - 0.5) * (u - 0.5) / N;
        for (int p = 0; p < 4; p++) normal[p] += pow(z, p + 1) / N;
        beta[0] += b / N;
        beta[1] += (b - 0.4) * (b - 0.4) / N;
        small += (s - 0.5) * (s - 0.5) / N;
    }
    assert_float_equal(uniform[0], 0.5, 5.0 * sqrt(1.0 / 12.0 / N));
    assert_float_equal(uniform[1], 1.0 / 12.0, 5.0 * sqrt(1.0 / 180.0 / N));
    assert_float_equal(normal[0], 0.0, 5.0 * sqrt(1.0 / N));
    assert_float_equal(normal[1], 1.0, 5.0 * sqrt(2.0 / N));
    assert_float_equal(normal[2], 0.0, 5.0 * sqrt(15.0 / N));
    assert_float_equal(normal[3], 3.0, 5.0 * sqrt(96.0 / N));
    assert_float_equal(beta[0], 0.4, 5.0 * sqrt(0.04 / N)); /* mean a / (a + b), variance ab / (a + b)² / (a + b + 1) */
    assert_float_equal(beta[1], 0.04, 5.0 * 0.05 / sqrt(N));    /* the square is below 0.36: its deviation below 0.05 */
    assert_float_equal(small, 0.25 / 1.8, 5.0 * 0.1 / sqrt(N)); /* the square lies in [0, 0.25] */
}

static void integers_are_below_their_bound(void **state) {
    (void)state;
    scbm_random random = {5, 6, 0};
    int counts[7] = {0};
    for (int i = 0; i < 14000; i++) counts[scbm_random_below(&random, 7)]++;
    for (int i = 0; i < 7; i++) assert_in_range(counts[i], 2000 - 210, 2000 + 210); /* 5 deviations of 41.4 */
    assert_int_equal(scbm_random_below(&random, 1), 0);
    int n_high = 0;
    const uint64_t large = (1ull << 63) + 1; /* nearly half of the words are drawn again */
    for (int i = 0; i < 1000; i++) {
        uint64_t value = scbm_random_below(&random, large);
        assert_true(value < large);
        n_high += value > large / 2;
    }
    assert_in_range(n_high, 420, 580);
}

static void shuffles_are_permutations(void **state) {
    (void)state;
    scbm_random random = {8, 9, 0};
    int32_t items[100];
    int places[4] = {0}, n_moved = 0;
    for (int i = 0; i < 100; i++) items[i] = i;
    scbm_random_shuffle(&random, items, 100);
    int seen[100] = {0};
    for (int i = 0; i < 100; i++) {
        seen[items[i]]++;
        n_moved += items[i] != i;
    }
    for (int i = 0; i < 100; i++) assert_int_equal(seen[i], 1);
    assert_true(n_moved > 80);
    for (int i = 0; i < 4000; i++) { /* an item comes to every place equally often */
        int32_t four[4] = {0, 1, 2, 3};
        scbm_random_shuffle(&random, four, 4);
        for (int j = 0; j < 4; j++) places[j] += four[j] == 0;
    }
    for (int j = 0; j < 4; j++) assert_in_range(places[j], 1000 - 137, 1000 + 137);
    scbm_random_shuffle(&random, items, 0);
    scbm_random_shuffle(&random, items, 1);
}

/* ------------------------------------------------------------------------------------------
 * AdamW
 * ---------------------------------------------------------------------------------------- */

/* One parameter of one element, by hand: w = 1, g = 0.5, rate 0.1, decay 0.2, no epsilon. Step 1: m = 0.05,
 * v = 0.00025, corrected 0.5 and 0.25: the step is 0.5 / √0.25 = 1, so w = 1 − 0.1 · 0.2 · 1 − 0.1 = 0.88.
 * Step 2 with g = −1: m = 0.9 · 0.05 − 0.1 = −0.055, corrected by 0.19: −0.289474; v = 0.999 · 0.00025 + 0.001 =
 * 0.00124975, corrected by 0.001999: 0.625188; step −0.366104; w = 0.88 · 0.98 + 0.0366104 = 0.8990104. */
static void adamw_by_hand(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    float w = 1.0f, g = 0.5f, rate = 0.1f, decay = 0.2f, norm = 0.0f;
    scbm_tensor weight = weight_of("w", SCBM_F32, &w, DIMS(1)), gradient = weight_of("g", SCBM_F32, &g, DIMS(1));
    scbm_tensor *params[] = {&weight}, *gradients[] = {&gradient};
    scbm_adamw_options options = {.epsilon = -1.0f};
    scbm_adamw *optimizer;
    assert_ok(scbm_adamw_create(&optimizer, context, params, 1, &rate, &decay, &options));
    assert_int_equal(scbm_adamw_steps(optimizer), 0);
    uint64_t generation = weight.generation;
    assert_ok(scbm_adamw_step(optimizer, gradients, 1.0f, &norm));
    assert_float_equal(norm, 0.5, 1e-7);
    assert_float_equal(w, 0.88, 1e-6);
    assert_true(weight.generation > generation);
    assert_float_equal(*(float *)scbm_adamw_moment(optimizer, 0, 0)->data, 0.05, 1e-7);
    assert_float_equal(*(float *)scbm_adamw_moment(optimizer, 0, 1)->data, 0.00025, 1e-8);
    g = -1.0f;
    assert_ok(scbm_adamw_step(optimizer, gradients, 1.0f, NULL));
    assert_float_equal(w, 0.8990104, 1e-6);
    assert_int_equal(scbm_adamw_steps(optimizer), 2);
    assert_null(scbm_adamw_moment(optimizer, 1, 0));
    assert_null(scbm_adamw_moment(optimizer, -1, 0));
    scbm_adamw_free(optimizer);
    scbm_adamw_free(NULL);
    scbm_context_free(context);
}

/* A parameter without a gradient stays as it is, decay and all, and counts in no norm. */
static void adamw_leaves_parameters_without_gradients(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    float w[2] = {1.0f, 1.0f}, g = 0.5f, norm = 0.0f;
    const float rate[] = {0.1f, 0.1f}, decay[] = {0.2f, 0.2f};
    scbm_tensor a = weight_of("a", SCBM_F32, &w[0], DIMS(1)), b = weight_of("b", SCBM_F32, &w[1], DIMS(1));
    scbm_tensor gradient = weight_of("g", SCBM_F32, &g, DIMS(1));
    scbm_tensor *params[] = {&a, &b}, *gradients[] = {NULL, &gradient};
    scbm_adamw_options options = {.epsilon = -1.0f};
    scbm_adamw *optimizer;
    assert_ok(scbm_adamw_create(&optimizer, context, params, 2, rate, decay, &options));
    uint64_t generation = a.generation;
    assert_ok(scbm_adamw_step(optimizer, gradients, 1.0f, &norm));
    assert_float_equal(norm, 0.5, 1e-7);
    assert_true(w[0] == 1.0f && w[1] < 0.9f);
    assert_true(a.generation == generation);
    assert_true(*(float *)scbm_adamw_moment(optimizer, 0, 0)->data == 0.0f);
    scbm_adamw_free(optimizer);
    scbm_context_free(context);
}

#define N_PARAMS 3
typedef struct trainee {
    scbm_context *context;
    scbm_adamw *optimizer;
    int64_t n[N_PARAMS];
    float *w[N_PARAMS], *g[N_PARAMS];
    scbm_tensor weight[N_PARAMS], gradient[N_PARAMS];
    scbm_tensor *params[N_PARAMS], *gradients[N_PARAMS];
} trainee;

static const float rates[N_PARAMS] = {0.01f, 0.1f, 0.003f}, decays[N_PARAMS] = {0.0f, 0.01f, 0.3f};

static void trainee_create(trainee *t, int workers, float clip_norm) {
    static const int64_t sizes[N_PARAMS] = {1, 17, 20001};
    scbm_adamw_options options = {.beta2 = 0.99f, .epsilon = 1e-6f, .clip_norm = clip_norm};
    scbm_random random = {3, 1, 0};
    memset(t, 0, sizeof *t);
    t->context = new_context(workers);
    for (int i = 0; i < N_PARAMS; i++) {
        t->n[i] = sizes[i];
        t->w[i] = calloc((size_t)t->n[i], sizeof(float));
        t->g[i] = calloc((size_t)t->n[i], sizeof(float));
        assert_true(t->w[i] && t->g[i]);
        t->weight[i] = weight_of("w", SCBM_F32, t->w[i], DIMS(t->n[i]));
        t->gradient[i] = weight_of("g", SCBM_F32, t->g[i], DIMS(t->n[i]));
        t->params[i] = &t->weight[i];
        t->gradients[i] = &t->gradient[i];
        for (int64_t j = 0; j < t->n[i]; j++) t->w[i][j] = (float)scbm_random_normal(&random);
    }
    assert_ok(scbm_adamw_create(&t->optimizer, t->context, t->params, N_PARAMS, rates, decays, &options));
}

/* The gradients of a step: the same whoever asks. */
static void trainee_gradients(trainee *t, int step) {
    scbm_random random = {11, (uint64_t)step, 0};
    for (int i = 0; i < N_PARAMS; i++)
        for (int64_t j = 0; j < t->n[i]; j++)
            t->g[i][j] = (float)(scbm_random_normal(&random) * (step == 2 ? 100.0 : 0.01));
}

static void trainee_free(trainee *t) {
    scbm_adamw_free(t->optimizer);
    for (int i = 0; i < N_PARAMS; i++) {
        free(t->w[i]);
        free(t->g[i]);
    }
    scbm_context_free(t->context);
}

static float rate_of(int step) {
    return 1.0f / (float)(1 + step);
}

/* Against the published recurrences in f64, with decoupled weight decay, and with every norm above 1 clipped. */
static void adamw_follows_the_recurrences(void **state) {
    (void)state;
    for (int clipped = 0; clipped < 2; clipped++) {
        trainee t;
        double *want[N_PARAMS][3]; /* w, m, v */
        trainee_create(&t, 2, clipped ? 1.0f : 0.0f);
        for (int i = 0; i < N_PARAMS; i++) {
            for (int k = 0; k < 3; k++) assert_non_null(want[i][k] = calloc((size_t)t.n[i], sizeof(double)));
            for (int64_t j = 0; j < t.n[i]; j++) want[i][0][j] = t.w[i][j];
        }
        int n_clipped = 0;
        for (int step = 0; step < 6; step++) {
            float norm;
            double squares = 0.0, clip = 1.0;
            trainee_gradients(&t, step);
            for (int i = 0; i < N_PARAMS; i++)
                for (int64_t j = 0; j < t.n[i]; j++) squares += (double)t.g[i][j] * t.g[i][j];
            if (clipped && sqrt(squares) > 1.0) clip = 1.0 / sqrt(squares);
            n_clipped += clip < 1.0;
            assert_ok(scbm_adamw_step(t.optimizer, t.gradients, rate_of(step), &norm));
            assert_float_equal(norm, sqrt(squares), 1e-6 * sqrt(squares));
            for (int i = 0; i < N_PARAMS; i++)
                for (int64_t j = 0; j < t.n[i]; j++) {
                    double g = t.g[i][j] * clip, *w = &want[i][0][j], *m = &want[i][1][j], *v = &want[i][2][j];
                    double rate = (double)rates[i] * rate_of(step), beta1 = 0.9f, beta2 = 0.99f;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    double update = *m / (1.0 - pow(beta1, step + 1)) /
                                    (sqrt(*v / (1.0 - pow(beta2, step + 1))) + 1e-6);
                    *w -= rate * decays[i] * *w + rate * update;
                    if (!(fabs(t.w[i][j] - *w) < 2e-6 * (1.0 + fabs(*w))))
                        fail_msg("step %d, %d[%lld]: %.9g, not %.9g", step, i, (long long)j, (double)t.w[i][j], *w);
                }
        }
        assert_true(clipped ? n_clipped > 0 : n_clipped == 0);
        for (int i = 0; i < N_PARAMS; i++)
            for (int k = 0; k < 3; k++) free(want[i][k]);
        trainee_free(&t);
    }
}

static void adamw_resumes_to_the_same_bits(void **state) {
    (void)state;
    trainee whole, parts;
    trainee_create(&whole, 1, 1.0f);
    trainee_create(&parts, 3, 1.0f);
    for (int step = 0; step < 6; step++) {
        trainee_gradients(&whole, step);
        assert_ok(scbm_adamw_step(whole.optimizer, whole.gradients, rate_of(step), NULL));
    }
    for (int step = 0; step < 6; step++) {
        if (step == 3) { /* a new optimizer with the old one's state */
            scbm_adamw *old = parts.optimizer;
            scbm_adamw_options options = {.beta2 = 0.99f, .epsilon = 1e-6f, .clip_norm = 1.0f};
            assert_ok(
                scbm_adamw_create(&parts.optimizer, parts.context, parts.params, N_PARAMS, rates, decays, &options));
            for (int i = 0; i < N_PARAMS; i++)
                for (int second = 0; second < 2; second++)
                    memcpy(scbm_adamw_moment(parts.optimizer, i, second)->data, scbm_adamw_moment(old, i, second)->data,
                           scbm_tensor_bytes(scbm_adamw_moment(old, i, second)));
            scbm_adamw_set_steps(parts.optimizer, scbm_adamw_steps(old));
            scbm_adamw_free(old);
        }
        trainee_gradients(&parts, step);
        assert_ok(scbm_adamw_step(parts.optimizer, parts.gradients, rate_of(step), NULL));
    }
    for (int i = 0; i < N_PARAMS; i++) assert_memory_equal(whole.w[i], parts.w[i], (size_t)whole.n[i] * sizeof(float));
    trainee_free(&whole);
    trainee_free(&parts);
}

static void a_gradient_that_is_not_finite_changes_nothing(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    trainee t, clean;
    trainee_create(&t, 1, 1.0f);
    trainee_create(&clean, 1, 1.0f);
    for (int step = 0; step < 4; step++) {
        if (step) {
            trainee_gradients(&t, step);
            t.g[step - 1][t.n[step - 1] / 2] = bad[step - 1];
            assert_error(scbm_adamw_step(t.optimizer, t.gradients, 1.0f, NULL), SCBM_ERROR_NUMERIC, "finite");
        }
        trainee_gradients(&t, step);
        trainee_gradients(&clean, step);
        assert_ok(scbm_adamw_step(t.optimizer, t.gradients, 1.0f, NULL));
        assert_ok(scbm_adamw_step(clean.optimizer, clean.gradients, 1.0f, NULL));
        for (int i = 0; i < N_PARAMS; i++) assert_memory_equal(t.w[i], clean.w[i], (size_t)t.n[i] * sizeof(float));
    }
    assert_int_equal(scbm_adamw_steps(t.optimizer), 4);
    trainee_free(&t);
    trainee_free(&clean);
}

/* No options, zeros, and the defaults spelled out; and what a negative number stands for. */
static void adamw_of_zeros_is_that_of_the_manual(void **state) {
    (void)state;
    const scbm_adamw_options zeros = {0}, spelled = {.beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f};
    const scbm_adamw_options *const all[] = {NULL, &zeros, &spelled};
    const scbm_adamw_options plain = {.beta1 = -1.0f, .beta2 = -1.0f, .epsilon = -1.0f};
    const float rate = 0.1f, decay = 0.0f;
    float w[4], g = 0.5f;
    scbm_tensor gradient = weight_of("g", SCBM_F32, &g, DIMS(1)), *gradients[] = {&gradient};
    for (int i = 0; i < 4; i++) {
        scbm_context *context = new_context(1);
        scbm_tensor weight = weight_of("w", SCBM_F32, &w[i], DIMS(1)), *params[] = {&weight};
        scbm_adamw *optimizer;
        w[i] = 1.0f;
        assert_ok(scbm_adamw_create(&optimizer, context, params, 1, &rate, &decay, i < 3 ? all[i] : &plain));
        for (int step = 0; step < 3; step++) {
            g = 0.5f - (float)step;
            assert_ok(scbm_adamw_step(optimizer, gradients, 1.0f, NULL));
        }
        scbm_adamw_free(optimizer);
        scbm_context_free(context);
    }
    assert_true(w[0] == w[1] && w[0] == w[2]);
    assert_float_equal(w[3], 1.0 - 0.1 + 0.1 + 0.1, 1e-6); /* without moments each step is the gradient's sign */
}

static void adamw_checks_what_it_is_given(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    float w[4] = {0}, rate = 0.1f, decay = 0.0f;
    scbm_tensor weight = weight_of("w", SCBM_F32, w, DIMS(4)), half = weight_of("h", SCBM_F16, w, DIMS(4));
    scbm_tensor empty = weight_of("e", SCBM_F32, NULL, DIMS(4)), shorter = weight_of("s", SCBM_F32, w, DIMS(3));
    scbm_tensor *bad[] = {&half, &empty, NULL}, *params[] = {&weight};
    const scbm_adamw_options good = {0};
    scbm_adamw *optimizer = NULL;
    for (int i = 0; i < 3; i++)
        assert_error(scbm_adamw_create(&optimizer, context, &bad[i], 1, &rate, &decay, &good), SCBM_ERROR_ARGUMENT,
                     "AdamW");
    const scbm_adamw_options wrong[] = {{.beta1 = 1.0f},        {.beta2 = 2.0f}, {.epsilon = NAN},
                                        {.clip_norm = -1.0f},   {.beta1 = NAN},  {.clip_norm = NAN},
                                        {.reserved = {[7] = 1}}};
    for (int i = 0; i < COUNT_OF(wrong); i++)
        assert_error(scbm_adamw_create(&optimizer, context, params, 1, &rate, &decay, &wrong[i]), SCBM_ERROR_ARGUMENT,
                     "AdamW");
    assert_null(optimizer);
    assert_ok(scbm_adamw_create(&optimizer, context, params, 1, &rate, &decay, &good));
    scbm_tensor *gradients[] = {&shorter, &half, &empty};
    for (int i = 0; i < 3; i++)
        assert_error(scbm_adamw_step(optimizer, &gradients[i], 1.0f, NULL), SCBM_ERROR_ARGUMENT, "gradient 0");
    assert_int_equal(scbm_adamw_steps(optimizer), 0);
    scbm_adamw_free(optimizer);
    scbm_context_free(context);
}

/* ---- The same as nodes of a graph ---- */

static scbm_graph *step_graph(trainee *t) {
    scbm_graph *g;
    assert_ok(scbm_graph_create(&g, t->context));
    assert_ok(scbm_graph_adamw(g, t->optimizer, t->gradients));
    assert_ok(scbm_graph_plan(g));
    return g;
}

static scbm_status run_step(trainee *t, scbm_graph *g, float rate, float *norm) {
    scbm_status status = scbm_adamw_begin(t->optimizer, rate);
    if (!status) status = scbm_graph_run(g, 0, 0);
    return status ? status : scbm_adamw_end(t->optimizer, norm);
}

static void adamw_as_nodes_has_the_same_bits(void **state) {
    (void)state;
    trainee alone, t;
    trainee_create(&alone, 2, 1.0f);
    trainee_create(&t, 1, 1.0f);
    scbm_graph *g = step_graph(&t);
    for (int step = 0; step < 6; step++) {
        float want, norm;
        trainee_gradients(&alone, step);
        trainee_gradients(&t, step);
        for (int i = 0; i < N_PARAMS; i++) t.gradient[i].generation++;
        uint64_t generation = t.weight[0].generation;
        assert_ok(scbm_adamw_step(alone.optimizer, alone.gradients, rate_of(step), &want));
        assert_ok(run_step(&t, g, rate_of(step), &norm));
        assert_true(norm == want);
        assert_true(t.weight[0].generation > generation);
        for (int i = 0; i < N_PARAMS; i++) assert_memory_equal(t.w[i], alone.w[i], (size_t)t.n[i] * sizeof(float));
    }
    assert_int_equal(scbm_adamw_steps(t.optimizer), 6);
    scbm_graph_free(g);
    trainee_free(&t);
    trainee_free(&alone);
}

/* A step that cannot be taken leaves all as it was, and the next ones go on as if it had not been. */
static void nodes_of_a_step_do_nothing_where_a_gradient_is_not_finite(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, 1e30f};
    trainee t, clean;
    trainee_create(&t, 1, 1.0f);
    trainee_create(&clean, 1, 1.0f);
    scbm_graph *g = step_graph(&t);
    for (int step = 0; step < 4; step++) {
        if (step) {
            trainee_gradients(&t, step);
            t.g[step - 1][t.n[step - 1] / 2] = bad[step - 1];
            assert_error(run_step(&t, g, 1.0f, NULL), SCBM_ERROR_NUMERIC, "finite");
        }
        trainee_gradients(&t, step);
        trainee_gradients(&clean, step);
        assert_ok(run_step(&t, g, 1.0f, NULL));
        assert_ok(scbm_adamw_step(clean.optimizer, clean.gradients, 1.0f, NULL));
        for (int i = 0; i < N_PARAMS; i++) assert_memory_equal(t.w[i], clean.w[i], (size_t)t.n[i] * sizeof(float));
    }
    assert_int_equal(scbm_adamw_steps(t.optimizer), 4);
    scbm_graph_free(g);
    trainee_free(&t);
    trainee_free(&clean);
}

static void a_step_has_its_order(void **state) {
    (void)state;
    trainee t;
    trainee_create(&t, 1, 1.0f);
    trainee_gradients(&t, 0);
    assert_error(scbm_adamw_begin(t.optimizer, 1.0f), SCBM_ERROR_ARGUMENT, "planned");
    assert_error(scbm_adamw_end(t.optimizer, NULL), SCBM_ERROR_ARGUMENT, "run");
    scbm_graph *g = step_graph(&t);
    assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_ARGUMENT, "scbm_adamw_begin");
    assert_ok(scbm_adamw_begin(t.optimizer, 1.0f));
    assert_error(scbm_adamw_end(t.optimizer, NULL), SCBM_ERROR_ARGUMENT, "run");
    assert_ok(scbm_graph_run(g, 0, 0));
    assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_ARGUMENT, "scbm_adamw_begin");
    assert_error(scbm_adamw_begin(t.optimizer, 1.0f), SCBM_ERROR_ARGUMENT, "ended");
    assert_ok(scbm_adamw_end(t.optimizer, NULL));
    scbm_graph *second = step_graph(&t); /* the optimizer is the second's now */
    scbm_graph_free(g);
    assert_ok(run_step(&t, second, 1.0f, NULL));
    assert_int_equal(scbm_adamw_steps(t.optimizer), 2);
    scbm_adamw_free(t.optimizer);
    t.optimizer = NULL;
    assert_error(scbm_graph_run(second, 0, 0), SCBM_ERROR_ARGUMENT, "freed");
    scbm_graph_free(second);
    trainee_free(&t);
}

/* The pair has what an f64 has, to the digits of two f32. */
static void norms_are_pairs_of_floats(void **state) {
    (void)state;
    enum { N = 100003 };
    scbm_context *context = new_context(2);
    float *a = malloc(N * sizeof *a), pairs[4] = {5.0f, 6.0f, 7.0f, 8.0f};
    double want = 0.0;
    scbm_random random = {5, 6, 0};
    assert_non_null(a);
    for (int i = 0; i < N; i++) {
        a[i] = (float)scbm_random_normal(&random);
        want += (double)a[i] * (double)a[i];
    }
    scbm_tensor gradient = weight_of("g", SCBM_F32, a, DIMS(N)), norms = weight_of("n", SCBM_F32, pairs, DIMS(2, 2));
    scbm_tensor *sources[] = {&gradient, &norms};
    const int64_t second[4] = {1, 0, 0, 0};
    scbm_graph *g = new_graph(context);
    assert_non_null(scbm_graph_add(g, SCBM_OP_SQUARE_SUM, 2, sources, NULL, second));
    assert_ok(scbm_graph_plan(g));
    assert_ok(scbm_graph_run(g, 0, 0));
    assert_true(pairs[0] == 5.0f && pairs[1] == 6.0f);
    assert_true(pairs[2] == (float)want);
    assert_float_equal((double)pairs[2] + (double)pairs[3], want, 1e-12 * want);
    scbm_graph_free(g);
    scbm_context_free(context);
    free(a);
}

/* ------------------------------------------------------------------------------------------
 * Nodes that update
 * ---------------------------------------------------------------------------------------- */

/* What is read before a node that updates has the values before, what is read after it those after. */
static void updates_keep_their_place(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    float w[3] = {1.0f, 2.0f, 3.0f}, a[3] = {10.0f, 20.0f, 30.0f}, one = 1.0f;
    scbm_tensor weight = weight_of("w", SCBM_F32, w, DIMS(3)), add = weight_of("a", SCBM_F32, a, DIMS(3)),
                keep = weight_of("k", SCBM_F32, &one, DIMS(1));
    scbm_graph *g = new_graph(context);
    uint64_t generation = weight.generation;
    scbm_tensor *before = scbm_output(g, scbm_copy(g, &weight));
    assert_non_null(scbm_accumulate(g, &weight, &add, &keep));
    scbm_tensor *between = scbm_output(g, scbm_scale(g, &weight, 2.0f));
    assert_non_null(scbm_accumulate(g, &weight, &add, &keep));
    scbm_tensor *after = scbm_output(g, scbm_copy(g, &weight));
    assert_ok(scbm_graph_plan(g));
    for (int run = 0; run < 2; run++) {
        assert_ok(scbm_graph_run(g, 0, 0));
        assert_true(((float *)before->data)[1] == 2.0f + 40.0f * (float)run);
        assert_true(((float *)between->data)[1] == 2.0f * (22.0f + 40.0f * (float)run));
        assert_true(((float *)after->data)[1] == 42.0f + 40.0f * (float)run);
    }
    assert_int_equal(weight.generation, generation + 4);
    scbm_graph_free(g);
    scbm_context_free(context);
}

/* Indices are checked before anything runs, of inputs and of copies of them. */
static void a_run_that_is_refused_for_an_index_updates_nothing(void **state) {
    (void)state;
    for (int copied = 0; copied < 2; copied++) {
        scbm_context *context = new_context(1);
        float w[3] = {1.0f, 2.0f, 3.0f}, a[3] = {10.0f, 20.0f, 30.0f}, table[4] = {5.0f, 6.0f, 7.0f, 8.0f}, one = 1.0f;
        scbm_tensor weight = weight_of("w", SCBM_F32, w, DIMS(3)), add = weight_of("a", SCBM_F32, a, DIMS(3)),
                    keep = weight_of("k", SCBM_F32, &one, DIMS(1)), rows = weight_of("t", SCBM_F32, table, DIMS(2, 2));
        scbm_graph *g = new_graph(context);
        scbm_accumulate(g, &weight, &add, &keep);
        scbm_tensor *ids = scbm_input(g, "ids", SCBM_I32, DIMS(2), NULL);
        scbm_tensor *y = scbm_graph_fetch(g, scbm_get_rows(g, &rows, copied ? scbm_copy(g, ids) : ids));
        assert_ok(scbm_graph_plan(g));
        ((int32_t *)ids->data)[0] = 1;
        ((int32_t *)ids->data)[1] = 2;
        assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_ARGUMENT, "get_rows: id 1 is 2");
        assert_true(w[0] == 1.0f && w[2] == 3.0f);
        ((int32_t *)ids->data)[1] = 0;
        assert_ok(scbm_graph_run(g, 0, 0));
        assert_true(w[0] == 11.0f && ((float *)y->data)[0] == 7.0f && ((float *)y->data)[2] == 5.0f);
        scbm_graph_free(g);
        scbm_context_free(context);
    }
}

static void computed_indices_are_refused(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    float values[16] = {0};
    uint8_t bits[16] = {0xff, [8] = 0xff};
    int32_t none = 0;
    scbm_tensor score = weight_of("score", SCBM_F32, values, DIMS(2, 1, 8)),
                masks = weight_of("m", SCBM_I8, bits, DIMS(2, 1, 8)), zeros = weight_of("z", SCBM_I32, &none, DIMS(1)),
                rows = weight_of("t", SCBM_F32, values, DIMS(8, 2));
    scbm_graph *g = new_graph(context);
    scbm_tensor *ids = scbm_agree(g, &score, &masks, &masks, &zeros);
    scbm_graph_fetch(g, scbm_get_rows(g, &rows, ids));
    assert_ok(scbm_graph_plan(g));
    assert_error(scbm_graph_run(g, 0, 0), SCBM_ERROR_ARGUMENT, "get_rows: its indices are computed by agree");
    scbm_graph_free(g);
    scbm_context_free(context);
}

static void what_is_updated_is_the_callers(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    float w[3] = {1.0f, 2.0f, 3.0f}, a[3] = {0}, one = 1.0f;
    scbm_tensor weight = weight_of("w", SCBM_F32, w, DIMS(3)), add = weight_of("a", SCBM_F32, a, DIMS(3)),
                keep = weight_of("k", SCBM_F32, &one, DIMS(1));
    scbm_graph *g = new_graph(context);
    assert_null(scbm_accumulate(g, scbm_copy(g, &weight), &add, &keep));
    assert_error(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT, "is updated: a tensor of the caller's is wanted");
    scbm_graph_free(g);
    g = new_graph(context);
    assert_null(scbm_accumulate(g, &weight, &weight, &keep));
    assert_error(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT, "once");
    scbm_graph_free(g);
    g = new_graph(context); /* the backward rule of mul would read the weight again */
    scbm_tensor *loss = scbm_sum(g, scbm_mul(g, &add, &weight)), *wrt[] = {&add};
    scbm_accumulate(g, &weight, &add, &keep);
    assert_error(scbm_graph_backward(g, loss, wrt, 1), SCBM_ERROR_ARGUMENT, "backward: comes before accumulate");
    scbm_graph_free(g);
    scbm_context_free(context);
}

typedef struct asked {
    int n;
} asked;

static int count_questions(void *user, const char *what, int64_t done, int64_t total) {
    (void)what, (void)done, (void)total;
    ((asked *)user)->n++;
    return 0;
}

/* Nodes that update one after another are done whole or not at all. */
static void updates_in_a_row_are_not_cancelled_between(void **state) {
    (void)state;
    asked questions = {0};
    scbm_hooks hooks = {.user = &questions, .progress = count_questions, .n_workers = 1};
    scbm_context *context;
    assert_ok(scbm_context_create(&context, &hooks, NULL));
    float w = 1.0f, a = 2.0f, one = 1.0f;
    scbm_tensor weight = weight_of("w", SCBM_F32, &w, DIMS(1)), add = weight_of("a", SCBM_F32, &a, DIMS(1)),
                keep = weight_of("k", SCBM_F32, &one, DIMS(1));
    scbm_graph *g = new_graph(context);
    scbm_output(g, scbm_copy(g, &add));
    for (int i = 0; i < 5; i++) scbm_accumulate(g, &weight, &add, &keep);
    assert_ok(scbm_graph_plan(g));
    assert_ok(scbm_graph_run(g, 0, 0));
    assert_int_equal(questions.n, 2);
    assert_true(w == 11.0f);
    scbm_graph_free(g);
    scbm_context_free(context);
}

/* Warm-up of 4 of 10 steps: ¼, ½, ¾, 1, then sixths down to 0. */
static void the_schedule_rises_and_falls(void **state) {
    (void)state;
    static const double want[] = {0.0, 0.25, 0.5, 0.75, 1.0, 5.0 / 6, 4.0 / 6, 3.0 / 6, 2.0 / 6, 1.0 / 6, 0.0, 0.0};
    for (int i = 0; i < COUNT_OF(want); i++) assert_float_equal(scbm_linear_schedule(i, 4, 10), want[i], 1e-7);
    assert_float_equal(scbm_linear_schedule(1, 0, 4), 0.75, 1e-7);
    assert_float_equal(scbm_linear_schedule(3, 0, 4), 0.25, 1e-7);
    assert_float_equal(scbm_linear_schedule(5, 5, 5), 0.0, 0.0); /* warming up to the end */
    assert_float_equal(scbm_linear_schedule(4, 5, 5), 0.8, 1e-7);
    assert_float_equal(scbm_linear_schedule(0, 0, 0), 0.0, 0.0);
}

/* ------------------------------------------------------------------------------------------
 * Conversions
 * ---------------------------------------------------------------------------------------- */

/* Every 16-bit pattern means what the reference's decoder says, and comes back as itself; not-a-numbers stay such. */
static void sixteen_bits_come_back(void **state) {
    (void)state;
    static uint16_t bits[65536], back[65536];
    static float values[65536];
    static double want[65536];
    static const scbm_type types[] = {SCBM_F16, SCBM_BF16};
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 65536; i++) bits[i] = (uint16_t)i;
        ref_decode(want, types[k], bits, 65536);
        assert_ok(scbm_convert(SCBM_F32, values, types[k], bits, 65536));
        assert_ok(scbm_convert(types[k], back, SCBM_F32, values, 65536));
        for (int i = 0; i < 65536; i++) {
            if (isnan(want[i])) {
                float again;
                assert_true(isnan(values[i]));
                assert_ok(scbm_convert(SCBM_F32, &again, types[k], &back[i], 1));
                assert_true(isnan(again));
            } else if (values[i] != want[i] || back[i] != bits[i]) {
                fail_msg("%s %04x is %g, not %g, and comes back as %04x", scbm_type_of(types[k])->name, i,
                         (double)values[i], want[i], back[i]);
            }
        }
    }
}

/* The nearest number of 16 bits, ties to even, in the middle of vectors and in their remainders. */
static void sixteen_bits_round_to_nearest_even(void **state) {
    (void)state;
    static const scbm_type types[] = {SCBM_F16, SCBM_BF16};
    static const float hard[] = {65504.0f,      65519.996f,     65520.0f,       2049.0f,       2051.0f,
                                 5.9604645e-8f, 2.9802322e-8f,  2.9802326e-8f,  8.940697e-8f,  6.1035156e-5f,
                                 6.1005354e-5f, 1.00048828125f, 1.00146484375f, 3.3895314e38f, 3.4e38f,
                                 FLT_MAX,       1.00390625f,    1.01171875f,    1e-45f};
    scbm_random random = {21, 1, 0};
    enum { N = 5003 };
    static float values[N];
    static uint16_t bits[N];
    static double got[N];
    for (int i = 0; i < N; i++) {
        int exponent = (int)scbm_random_below(&random, 48) - 28;
        double value = ldexp(scbm_random_uniform(&random) + 0.5, exponent);
        if (i % 3 == 0) value = ldexp(floor(value * ldexp(1.0, 12 - exponent)) + 0.5, exponent - 12); /* near ties */
        if (i < COUNT_OF(hard)) value = hard[i];
        values[i] = (float)(scbm_random_below(&random, 2) ? -value : value);
    }
    for (int k = 0; k < 2; k++) {
        assert_ok(scbm_convert(types[k], bits, SCBM_F32, values, N));
        ref_decode(got, types[k], bits, N);
        for (int i = 0; i < N; i++)
            if (got[i] != ref_round(values[i], types[k]))
                fail_msg("%.9g becomes %s %.9g, not %.9g", (double)values[i], scbm_type_of(types[k])->name, got[i],
                         ref_round(values[i], types[k]));
    }
}

/* By hand: the largest of 32 values is 127, so the scale is 1 (half 0x3c00) and the bytes are the values, halves
 * rounded away from zero. */
static void q8_0_by_hand(void **state) {
    (void)state;
    float values[32] = {127.0f, -127.0f, 0.5f, -0.5f, 2.5f, -2.5f, 0.49f, 126.6f, 0.0f, -0.0f, 1.0f};
    static const signed char want[11] = {127, -127, 1, -1, 3, -3, 0, 127, 0, 0, 1};
    unsigned char block[34];
    assert_ok(scbm_convert(SCBM_Q8_0, block, SCBM_F32, values, 32));
    assert_int_equal(block[0] | block[1] << 8, 0x3c00);
    assert_memory_equal(block + 2, want, sizeof want);
    for (int i = 13; i < 34; i++) assert_int_equal(block[i], 0);
    for (int i = 0; i < 32; i++) values[i] *= -0.25f; /* the scale alone changes, and the signs */
    assert_ok(scbm_convert(SCBM_Q8_0, block, SCBM_F32, values, 32));
    assert_int_equal(block[0] | block[1] << 8, 0x3400);
    for (int i = 0; i < 11; i++) assert_int_equal((signed char)block[2 + i], -want[i]);
}

/* By hand: −8 has the largest size, so the scale is −8 / −8 = 1 and a nibble is ⌊x + 8.5⌋, at most 15; value i is the low
 * nibble of byte i, value 16 + i its high one. With 4 the largest the scale is −½ (0xb800): 4 is nibble 0. */
static void q4_0_by_hand(void **state) {
    (void)state;
    float values[32] = {-8.0f, 7.0f, 7.9f, 0.0f, 0.49f, 0.5f, -0.5f, -0.51f};
    values[16] = 1.0f;
    values[31] = -7.0f;
    unsigned char block[18];
    assert_ok(scbm_convert(SCBM_Q4_0, block, SCBM_F32, values, 32));
    static const unsigned char want[8] = {0x90, 0x8f, 0x8f, 0x88, 0x88, 0x89, 0x88, 0x87};
    assert_int_equal(block[0] | block[1] << 8, 0x3c00);
    assert_memory_equal(block + 2, want, sizeof want);
    for (int i = 8; i < 15; i++) assert_int_equal(block[2 + i], 0x88);
    assert_int_equal(block[17], 0x18);
    memset(values, 0, sizeof values);
    values[0] = 4.0f;
    values[1] = -3.5f;
    values[17] = -4.0f;
    assert_ok(scbm_convert(SCBM_Q4_0, block, SCBM_F32, values, 32));
    assert_int_equal(block[0] | block[1] << 8, 0xb800);
    assert_int_equal(block[2], 0x80);
    assert_int_equal(block[3], 0xff); /* 3.5 / 0.5 + 8 = 15, and −4 would be 16 */
}

static void quantized_values_are_near(void **state) {
    (void)state;
    enum { N = 32 * 70 };
    static float values[N], back[N];
    static double want[N];
    static unsigned char blocks[N / 32 * 34];
    scbm_random random = {31, 1, 0};
    for (int i = 0; i < N; i++) values[i] = (float)(scbm_random_normal(&random) * pow(10.0, i / 32 % 9 - 5));
    for (int i = 0; i < 32; i++) values[i] = 0.0f;
    for (int i = 32; i < 64; i++) values[i] = i % 2 ? 1e-41f : 0.0f; /* scales vanish, nothing else happens */
    for (int k = 0; k < 2; k++) {
        scbm_type type = k ? SCBM_Q4_0 : SCBM_Q8_0;
        assert_ok(scbm_convert(type, blocks, SCBM_F32, values, N));
        assert_ok(scbm_convert(SCBM_F32, back, type, blocks, N));
        ref_decode(want, type, blocks, N);
        for (int b = 0; b < N; b += 32) {
            double top = 0.0;
            for (int i = b; i < b + 32; i++) top = fmax(top, fabs(values[i]));
            /* half a step, or at one end of four bits a whole one, and the scale's own rounding */
            double bound = (k ? top / 8.0 : top / 254.0) * 1.01 + top * 0.0005 + (k ? 8.0 : 127.0) * 3e-8;
            for (int i = b; i < b + 32; i++) {
                assert_true(back[i] == (float)want[i]);
                if (!(fabs(back[i] - values[i]) <= bound))
                    fail_msg("%s: %g became %g", scbm_type_of(type)->name, (double)values[i], (double)back[i]);
            }
        }
        for (int i = 0; i < 64; i++) assert_true(back[i] == 0.0f);
    }
}

static void conversions_check_their_arguments(void **state) {
    (void)state;
    float values[64] = {0};
    unsigned char bytes[256];
    int32_t words[2] = {-1, 7}, copy[2] = {0, 0};
    assert_error(scbm_convert(SCBM_Q8_0, bytes, SCBM_F32, values, 33), SCBM_ERROR_ARGUMENT, "q8_0");
    assert_error(scbm_convert(SCBM_F32, values, SCBM_Q4_0, bytes, 31), SCBM_ERROR_ARGUMENT, "q4_0");
    assert_error(scbm_convert(SCBM_F32, values, SCBM_F32, values, -1), SCBM_ERROR_ARGUMENT, "-1");
    assert_error(scbm_convert(SCBM_TYPE_COUNT, values, SCBM_F32, values, 1), SCBM_ERROR_ARGUMENT, "type");
    assert_error(scbm_convert(SCBM_I32, words, SCBM_F32, values, 1), SCBM_ERROR_UNSUPPORTED, "i32");
    assert_ok(scbm_convert(SCBM_I32, copy, SCBM_I32, words, 2));
    assert_memory_equal(copy, words, sizeof words);
    static const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX};
    for (int i = 0; i < COUNT_OF(bad); i++) {
        values[40] = bad[i];
        assert_error(scbm_convert(SCBM_Q8_0, bytes, SCBM_F32, values, 64), SCBM_ERROR_NUMERIC, "q8_0");
        assert_error(scbm_convert(SCBM_Q4_0, bytes, SCBM_F32, values, 64), SCBM_ERROR_NUMERIC, "q4_0");
    }
    assert_ok(scbm_convert(SCBM_F32, NULL, SCBM_F16, NULL, 0));
    /* through f32 from one to another: 1 + 2^-8 is a half and a tie of bf16, which goes to even */
    uint16_t half = 0x3c04, brain = 0;
    assert_ok(scbm_convert(SCBM_BF16, &brain, SCBM_F16, &half, 1));
    assert_int_equal(brain, 0x3f80);
}

/* ------------------------------------------------------------------------------------------
 * Shape rules
 * ---------------------------------------------------------------------------------------- */

/* Inputs of a graph with the capacity of 6 tokens and 2 texts, for building what does not fit. */
typedef struct parts {
    scbm_graph *g;
    scbm_tensor *x, *wide, *texts, *flat, *matrix; /* f32 [2, T, 4], [2, T, 5], [2, N, 4], [4], [3, 4] */
    scbm_tensor *ids, *offsets, *fixed;            /* i32 [T], [3], f32 [2, 6, 4]: T is not 6 */
    scbm_tensor *logits, *labels, *groups, *masks; /* f32 [N, 5], i32 [N, 2], [3], i8 [2, 3, 8] */
    scbm_tensor *half;                             /* f16 [3, 4] */
} parts;

static parts make_parts(scbm_graph *g) {
    static const scbm_extent tokens[] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED}, by_token[] = {SCBM_TOKENS};
    static const scbm_extent texts[] = {SCBM_FIXED, SCBM_TEXTS, SCBM_FIXED}, by_text[] = {SCBM_TEXTS, SCBM_FIXED};
    parts p;
    scbm_graph_set_capacity(g, 6, 2);
    p.g = g;
    p.x = scbm_input(g, "x", SCBM_F32, DIMS(2, 0, 4), tokens);
    p.wide = scbm_input(g, "wide", SCBM_F32, DIMS(2, 0, 5), tokens);
    p.texts = scbm_input(g, "texts", SCBM_F32, DIMS(2, 0, 4), texts);
    p.flat = scbm_input(g, "flat", SCBM_F32, DIMS(4), NULL);
    p.matrix = scbm_input(g, "matrix", SCBM_F32, DIMS(3, 4), NULL);
    p.ids = scbm_input(g, "ids", SCBM_I32, DIMS(0), by_token);
    p.offsets = scbm_input(g, "offsets", SCBM_I32, DIMS(3), NULL);
    p.fixed = scbm_input(g, "fixed", SCBM_F32, DIMS(2, 6, 4), NULL);
    p.logits = scbm_input(g, "logits", SCBM_F32, DIMS(0, 5), by_text);
    p.labels = scbm_input(g, "labels", SCBM_I32, DIMS(0, 2), by_text);
    p.groups = scbm_input(g, "groups", SCBM_I32, DIMS(3), NULL);
    p.masks = scbm_input(g, "masks", SCBM_I8, DIMS(2, 3, 8), NULL);
    p.half = scbm_input(g, "half", SCBM_F16, DIMS(3, 4), NULL);
    return p;
}

/* Misuse i of the builders: *op is what the message starts with. Returns 0 after the last. */
static int misuse(int i, const parts *p, const char **op, scbm_tensor **made) {
    scbm_graph *g = p->g;
    switch (i) {
#define MISUSE(number, name, call)                                                                                     \
    case number:                                                                                                       \
        *op = name;                                                                                                    \
        *made = call;                                                                                                  \
        return 1;
        MISUSE(0, "get_rows", scbm_get_rows(g, p->flat, p->ids))
        MISUSE(1, "get_rows", scbm_get_rows(g, p->matrix, p->flat))
        MISUSE(2, "add", scbm_add(g, p->x, p->wide))
        MISUSE(3, "add", scbm_add(g, p->flat, p->x))  /* only the second is broadcast */
        MISUSE(4, "add", scbm_add(g, p->x, p->fixed)) /* six is not the number of tokens */
        MISUSE(5, "mul", scbm_mul(g, p->matrix, p->half))
        MISUSE(6, "scale", scbm_scale(g, p->half, 2.0f))
        MISUSE(7, "sum_to", scbm_sum_to(g, p->x, p->wide))
        MISUSE(8, "sum_to", scbm_sum(g, p->ids))
        MISUSE(9, "sum_to", scbm_mean(g, p->half))
        MISUSE(10, "reshape", scbm_reshape(g, p->matrix, 1, (int64_t[]){11}, NULL))
        MISUSE(11, "reshape", scbm_reshape(g, p->x, 2, (int64_t[]){12, 4}, NULL))
        MISUSE(12, "reshape", scbm_reshape(g, p->matrix, 5, (int64_t[]){3, 1, 1, 1, 4}, NULL))
        MISUSE(13, "reshape", scbm_reshape(g, p->matrix, 2, (int64_t[]){-3, -4}, NULL))
        MISUSE(14, "cast", scbm_cast(g, p->ids, SCBM_F32))
        MISUSE(15, "cast", scbm_cast(g, p->x, SCBM_Q8_0))
        MISUSE(16, "concat", scbm_concat(g, p->x, p->texts))
        MISUSE(17, "concat", scbm_concat(g, p->x, p->matrix))
        MISUSE(18, "slice", scbm_slice(g, p->x, 1, 4))
        MISUSE(19, "slice", scbm_slice(g, p->x, -1, 2))
        MISUSE(20, "slice", scbm_slice(g, p->x, INT64_MAX, 2))
        MISUSE(21, "slice", scbm_slice(g, p->x, 2, INT64_MIN))
        MISUSE(22, "linear", scbm_linear(g, p->wide, p->matrix, NULL, NULL, SCBM_NONE))
        MISUSE(23, "linear", scbm_linear(g, p->x, p->matrix, p->flat, NULL, SCBM_NONE)) /* a bias of 4 for 3 outputs */
        MISUSE(24, "linear", scbm_linear(g, p->x, p->matrix, NULL, p->matrix, SCBM_NONE))
        MISUSE(25, "linear", scbm_linear(g, p->x, p->matrix, NULL, NULL, (scbm_activation)6))
        MISUSE(26, "linear", scbm_linear(g, p->logits, p->matrix, NULL, p->masks, SCBM_NONE))
        MISUSE(27, "linear", scbm_linear(g, p->x, p->flat, NULL, NULL, SCBM_NONE))
        MISUSE(28, "group_linear", scbm_group_linear(g, p->texts, p->matrix, p->flat, p->groups))
        MISUSE(29, "group_linear", scbm_group_linear(g, p->texts, p->matrix, NULL, p->flat))
        MISUSE(30, "group_linear", scbm_group_linear(g, p->wide, p->matrix, NULL, p->groups))
        MISUSE(31, "layer_norm", scbm_layer_norm(g, p->wide, p->flat, p->flat, 1e-5f))
        MISUSE(32, "layer_norm", scbm_layer_norm(g, p->x, p->flat, p->matrix, 1e-5f))
        MISUSE(33, "add_layer_norm", scbm_add_layer_norm(g, p->x, p->wide, p->flat, p->flat, 1e-5f))
        MISUSE(34, "add_layer_norm", scbm_add_layer_norm(g, p->x, p->x, p->matrix, p->flat, 1e-5f))
        MISUSE(35, "activate", scbm_activate(g, p->half, SCBM_TANH))
        MISUSE(36, "activate", scbm_activate(g, p->x, (scbm_activation)-1))
        MISUSE(37, "softmax", scbm_softmax(g, p->ids))
        MISUSE(38, "dropout", scbm_dropout(g, p->x, 1.0f))
        MISUSE(39, "dropout", scbm_dropout(g, p->x, NAN))
        MISUSE(40, "attention", scbm_attention(g, p->x, p->x, p->x, p->offsets, 3, 1.0f, 0, 0.0f))
        MISUSE(41, "attention", scbm_attention(g, p->x, p->x, p->wide, p->offsets, 2, 1.0f, 0, 0.0f))
        MISUSE(42, "attention", scbm_attention(g, p->x, p->x, p->x, p->ids, 2, 1.0f, 0, 0.0f))
        MISUSE(43, "attention", scbm_attention(g, p->x, p->x, p->x, p->offsets, 2, 1.0f, 0, -0.5f))
        MISUSE(44, "attention", scbm_attention(g, p->x, p->x, p->x, p->offsets, 0, 1.0f, 0, 0.0f))
        MISUSE(45, "attention_scores", scbm_attention_scores(g, p->x, p->x, p->offsets, 2, 0, 0, 0.0f))
        MISUSE(46, "attention_scores", scbm_attention_scores(g, p->x, p->wide, p->offsets, 2, 6, 0, 0.0f))
        MISUSE(47, "attention_mix", scbm_attention_mix(g, p->x, p->x, p->offsets, 2))
        MISUSE(48, "attention_mix_transposed", scbm_attention_mix_transposed(g, p->x, p->x, p->offsets, 2))
        MISUSE(49, "segment_mean", scbm_segment_mean(g, p->texts, p->offsets))
        MISUSE(50, "segment_mean", scbm_segment_mean(g, p->x, p->flat))
        MISUSE(51, "segment_first", scbm_segment_first(g, p->fixed, p->offsets))
        MISUSE(52, "mix_texts", scbm_mix_texts(g, p->texts, p->ids, p->flat))
        MISUSE(53, "cross_entropy", scbm_cross_entropy(g, p->logits, p->ids, p->groups, NULL))
        MISUSE(54, "cross_entropy", scbm_cross_entropy(g, p->logits, p->labels, p->offsets, p->flat))
        MISUSE(55, "cross_entropy", scbm_cross_entropy(g, p->x, p->labels, p->groups, NULL))
        MISUSE(56, "tensor", scbm_input(g, "z", SCBM_Q8_0, DIMS(3, 31), NULL))
        MISUSE(57, "tensor", scbm_input(g, "z", SCBM_F32, DIMS(INT64_MAX, 31), NULL))
        MISUSE(58, "tensor", scbm_input(g, "z", SCBM_F32, 7, (int64_t[]){1, 1, 1, 1, 1, 1, 1}, NULL))
        MISUSE(59, "segment_last", scbm_segment_last(g, p->fixed, p->offsets))
#undef MISUSE
    default: return 0;
    }
}

/* NULL at once, the reason when planning, and no later op changes it. */
static void builders_refuse_what_does_not_fit(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    int n = 0;
    for (;; n++) {
        scbm_graph *g = new_graph(context);
        parts p = make_parts(g);
        scbm_tensor *made = NULL;
        const char *op = "";
        int is_there = misuse(n, &p, &op, &made);
        if (is_there) {
            if (made) fail_msg("misuse %d of %s is taken", n, op);
            assert_null(scbm_add(g, made, p.x));
            assert_null(scbm_scale(g, p.x, 2.0f));
            size_t bytes;
            assert_error(scbm_graph_measure(g, &bytes), SCBM_ERROR_SHAPE, op);
            assert_error(scbm_graph_plan(g), SCBM_ERROR_SHAPE, op);
            assert_int_equal(strncmp(scbm_last_error(), op, strlen(op)), 0);
            assert_error(scbm_graph_backward(g, p.flat, &p.x, 1), SCBM_ERROR_SHAPE, op);
            assert_error(scbm_graph_decompose(g), SCBM_ERROR_SHAPE, op);
        }
        scbm_graph_free(g);
        if (!is_there) break;
    }
    assert_int_equal(n, 60);
    scbm_context_free(context);
}

static void nodes_check_their_sources(void **state) {
    (void)state;
    scbm_context *context = new_context(1);
    for (int op = 0; op < SCBM_OP_COUNT; op++) {
        const scbm_op_info *info = scbm_op_of((scbm_op)op);
        for (int i = 0; i < 4; i++) {
            scbm_graph *g = new_graph(context), *stranger = new_graph(context);
            parts p = make_parts(g), other = make_parts(stranger);
            scbm_tensor *sources[SCBM_MAX_SOURCES + 4];
            for (int s = 0; s < SCBM_MAX_SOURCES + 4; s++) sources[s] = p.x;
            if (i == 2) sources[info->min_sources - 1] = NULL;
            if (i == 3) sources[0] = other.x;
            int count = i == 0 ? info->min_sources - 1 : i == 1 ? info->n_sources + 1 : info->min_sources;
            assert_null(scbm_graph_add(g, (scbm_op)op, count, sources, NULL, NULL));
            assert_error(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT, op == SCBM_OP_RESHAPE ? "op" : info->name);
            scbm_graph_free(g);
            scbm_graph_free(stranger);
        }
    }
    assert_null(scbm_op_of(SCBM_OP_COUNT));
    scbm_graph *g = new_graph(context);
    assert_null(scbm_graph_add(g, SCBM_OP_COUNT, 0, NULL, NULL, NULL));
    assert_int_equal(scbm_graph_plan(g), SCBM_ERROR_ARGUMENT);
    scbm_graph_free(g);
    scbm_context_free(context);
}

/* Another type, dimension, extent or number of dimensions for one source of a good case. */
static void distort(scbm_tensor *t, scbm_random *random) {
    int d = (int)scbm_random_below(random, (uint64_t)t->n_dims);
    static const int64_t sizes[] = {0, 1, 2, 3, 5, 8, 64};
    switch (scbm_random_below(random, 5)) {
    case 0: t->type = (scbm_type)scbm_random_below(random, SCBM_TYPE_COUNT); break;
    case 1: t->extent[d] = (uint8_t)scbm_random_below(random, 3); break;
    case 2:
        if (t->n_dims < SCBM_MAX_DIMS) {
            t->shape[t->n_dims] = sizes[scbm_random_below(random, COUNT_OF(sizes))];
            t->extent[t->n_dims++] = SCBM_FIXED;
        }
        break;
    case 3:
        if (t->n_dims > 1) t->n_dims--;
        break;
    default: t->shape[d] = sizes[scbm_random_below(random, COUNT_OF(sizes))]; break;
    }
    if (t->type == SCBM_Q8_0 || t->type == SCBM_Q4_0) {
        t->shape[t->n_dims - 1] = 32;
        t->extent[t->n_dims - 1] = SCBM_FIXED;
    }
}

typedef struct distortion {
    scbm_context *context;
    int64_t built, refused;
} distortion;

/* Every source is memory of its own that ends where the tensor does, so that reading past it is seen. */
static void try_distorted(distortion *d, const op_case *c, scbm_random *random) {
    scbm_tensor t[SCBM_MAX_SOURCES], *sources[SCBM_MAX_SOURCES] = {NULL};
    int64_t integer[4];
    int which = (int)scbm_random_below(random, (uint64_t)c->n_sources);
    memcpy(integer, c->integer, sizeof integer);
    if (scbm_random_below(random, 4) == 0)
        integer[scbm_random_below(random, 3)] = (int64_t)scbm_random_below(random, 9) - 2;
    scbm_graph *g = new_graph(d->context);
    scbm_graph_set_capacity(g, c->max_tokens, c->max_texts);
    for (int i = 0; i < c->n_sources; i++) {
        if (!c->source[i].is_present) continue;
        t[i] = c->source[i].tensor;
        sources[i] = &t[i];
        if (i == which) distort(&t[i], random);
        for (int j = 0; j < t[i].n_dims; j++)
            if (t[i].extent[j]) t[i].shape[j] = t[i].extent[j] == SCBM_TOKENS ? c->max_tokens : c->max_texts;
        size_t bytes = scbm_tensor_bytes(&t[i]), given = c->source[i].bytes;
        t[i].data = calloc(1, bytes ? bytes : 1);
        assert_non_null(t[i].data);
        if (bytes && given) memcpy(t[i].data, c->source[i].tensor.data, bytes < given ? bytes : given);
    }
    const scbm_node *node = scbm_graph_add(g, c->op, c->n_sources, sources, c->scalar, integer);
    scbm_status status = scbm_graph_plan(g);
    assert_true(node ? status == SCBM_OK || status == SCBM_ERROR_UNSUPPORTED : status != SCBM_OK);
    if (!status) status = scbm_graph_run(g, c->tokens, c->texts);
    if (status && status != SCBM_ERROR_SHAPE && status != SCBM_ERROR_ARGUMENT && status != SCBM_ERROR_UNSUPPORTED)
        fail_msg("%s: %s", c->what, scbm_last_error());
    if (status) d->refused++;
    else d->built++;
    scbm_graph_free(g);
    for (int i = 0; i < c->n_sources; i++) free(sources[i] ? t[i].data : NULL);
}

static void distort_case(void *user, op_case *c) {
    scbm_random random = {(uint64_t)c->op, c->seed, 0};
    for (int i = 0; i < 60 && c->op != SCBM_OP_RESHAPE; i++) try_distorted(user, c, &random);
}

/* Whatever the sources' shapes are, an op is refused or stays inside them (AddressSanitizer watches). */
static void shape_rules_keep_runs_inside_their_sources(void **state) {
    (void)state;
    distortion d = {new_context(1), 0, 0};
    for (int op = 0; op < SCBM_OP_COUNT; op++) op_cases((scbm_op)op, 1, distort_case, &d);
    assert_true(d.built > 1000);
    assert_true(d.refused > 1000);
    scbm_context_free(d.context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_is_the_headers),
        cmocka_unit_test(every_status_has_its_own_name),
        cmocka_unit_test(errors_are_one_sentence_for_each_thread),
        cmocka_unit_test(types_have_names_and_sizes),
        cmocka_unit_test(tensors_check_their_shape),
        cmocka_unit_test(memory_is_aligned_and_zeroed),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(arrays_grow_and_keep_what_they_hold),
        cmocka_unit_test(messages_go_to_the_log_hook),
        cmocka_unit_test(hooks_that_make_no_sense_are_refused),
        cmocka_unit_test(the_parallel_loop_can_be_taken_over),
        cmocka_unit_test(a_loop_inside_a_task_is_run_by_its_worker),
        cmocka_unit_test(memory_may_run_out_anywhere),
        cmocka_unit_test(a_run_can_be_cancelled_at_every_node),
        cmocka_unit_test(a_long_node_can_be_cancelled_inside),
        cmocka_unit_test(dead_memory_is_used_again),
        cmocka_unit_test(planning_takes_what_was_measured),
        cmocka_unit_test(layers_that_follow_each_other_read_their_own_input),
        cmocka_unit_test(reused_memory_never_changes_a_result),
        cmocka_unit_test(graphs_check_how_they_are_used),
        cmocka_unit_test(precisions_have_names),
        cmocka_unit_test(a_precision_that_the_backend_has_not_is_refused),
        cmocka_unit_test(every_call_has_its_moment),
        cmocka_unit_test(capacities_and_modes_have_bounds),
        cmocka_unit_test(tensors_of_another_graph_are_refused),
        cmocka_unit_test(other_results_of_a_decomposed_node_are_missed),
        cmocka_unit_test(a_workspace_larger_than_memory_has_addresses_is_refused),
        cmocka_unit_test(a_graph_does_not_run_inside_its_own_run),
        cmocka_unit_test(what_this_build_does_not_have_is_said),
        cmocka_unit_test(the_cpu_is_the_default_backend),
        cmocka_unit_test(entries_that_make_no_sense_are_not_registered),
        cmocka_unit_test(a_registered_backend_is_opened_by_its_name),
        cmocka_unit_test(watched_results_are_handed_over),
        cmocka_unit_test(threads_share_weights),
        cmocka_unit_test(philox_gives_the_known_answers),
        cmocka_unit_test(the_counter_is_the_whole_state),
        cmocka_unit_test(exponentials_and_logarithms_are_libm_s_to_one_unit),
        cmocka_unit_test(normal_numbers_are_the_same_on_every_machine),
        cmocka_unit_test(distributions_have_their_moments),
        cmocka_unit_test(integers_are_below_their_bound),
        cmocka_unit_test(shuffles_are_permutations),
        cmocka_unit_test(adamw_by_hand),
        cmocka_unit_test(adamw_leaves_parameters_without_gradients),
        cmocka_unit_test(adamw_follows_the_recurrences),
        cmocka_unit_test(adamw_resumes_to_the_same_bits),
        cmocka_unit_test(a_gradient_that_is_not_finite_changes_nothing),
        cmocka_unit_test(adamw_of_zeros_is_that_of_the_manual),
        cmocka_unit_test(adamw_checks_what_it_is_given),
        cmocka_unit_test(adamw_as_nodes_has_the_same_bits),
        cmocka_unit_test(nodes_of_a_step_do_nothing_where_a_gradient_is_not_finite),
        cmocka_unit_test(a_step_has_its_order),
        cmocka_unit_test(norms_are_pairs_of_floats),
        cmocka_unit_test(updates_keep_their_place),
        cmocka_unit_test(a_run_that_is_refused_for_an_index_updates_nothing),
        cmocka_unit_test(computed_indices_are_refused),
        cmocka_unit_test(what_is_updated_is_the_callers),
        cmocka_unit_test(updates_in_a_row_are_not_cancelled_between),
        cmocka_unit_test(the_schedule_rises_and_falls),
        cmocka_unit_test(sixteen_bits_come_back),
        cmocka_unit_test(sixteen_bits_round_to_nearest_even),
        cmocka_unit_test(q8_0_by_hand),
        cmocka_unit_test(q4_0_by_hand),
        cmocka_unit_test(quantized_values_are_near),
        cmocka_unit_test(conversions_check_their_arguments),
        cmocka_unit_test(builders_refuse_what_does_not_fit),
        cmocka_unit_test(nodes_check_their_sources),
        cmocka_unit_test(shape_rules_keep_runs_inside_their_sources),
    };
    return cmocka_run_group_tests_name("runtime", tests, NULL, NULL);
}
