/*
 * tests/test-backend.c - every op of the op table, on every backend, against the double-precision reference
 *
 * test-backend [NAME]            the devices whose name contains NAME ("avx2", say), or SCBM_TEST_BACKEND; default: all that this
 *                                machine has
 * test-backend --device NAME     that of this name for scbm_backend_open, a plug-in too: a table of what it has, then the tests
 *     -o OP                      one op
 *     support | perf             the table alone; a table of times
 */
#define _POSIX_C_SOURCE 200809L

#include "tests/helpers.h"
#include "tests/op-cases.h"
#include "tests/op-tables.h"
#include "tests/shadow-device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------
 * Devices
 * ---------------------------------------------------------------------------------------- */

typedef struct device {
    const char *description;
    const char *name; /* for scbm_backend_open */
    int runs_all_ops;       /* else an op that the backend refuses must run decomposed, or be reported */
    int has_all_precisions; /* that the cases ask for; else F32, and what it refuses is counted */
} device;

static const device devices[] = {
    {"cpu (portable)", "cpu:portable", 1, 1},
    {"cpu (avx2)", "cpu:avx2", 1, 1},
    {"cpu (avx512)", "cpu:avx512", 1, 1},
    {"cpu (amx)", "cpu:amx", 1, 1},
    {"shadow of cpu (portable)", "shadow:portable", 1, 1},
    {"shadow of cpu (avx2)", "shadow:avx2", 1, 1},
    {"cuda", "cuda", 1, 0},
};

/* The same work on one, two and three threads, and on three workers that take the tasks from the last to the first. */
enum { ONE_WORKER, TWO_WORKERS, THREE_WORKERS, REVERSED, N_WAYS };
static const char *const way_names[N_WAYS] = {"one worker", "two workers", "three workers", "reversed tasks"};

static void reversed(void *user, int64_t n, scbm_task task, void *arg) {
    (void)user;
    for (int64_t i = n - 1; i >= 0; i--) task(arg, i, (int)(i % 3));
}

typedef struct bench {
    const device *device;
    scbm_backend *backend;
    scbm_context *way[N_WAYS];
    int64_t compared; /* elements */
    int n_refused;    /* cases that the backend cannot run at all */
} bench;

typedef struct op_test {
    scbm_op op;
    bench *bench;
    char name[96];
} op_test;

static scbm_status bench_open(bench *b, const device *d) {
    memset(b, 0, sizeof *b);
    b->device = d;
    scbm_status status = scbm_backend_open(&b->backend, d->name, NULL);
    for (int i = 0; i < N_WAYS && !status; i++) {
        scbm_hooks hooks = {0};
        hooks.n_workers = i == REVERSED ? 3 : i + 1;
        if (i == REVERSED) hooks.parallel_for = reversed;
        status = scbm_context_create(&b->way[i], &hooks, b->backend);
    }
    return status;
}

static void bench_close(bench *b) {
    for (int i = 0; i < N_WAYS; i++) scbm_context_free(b->way[i]);
    scbm_backend_close(b->backend);
}

/* ------------------------------------------------------------------------------------------
 * Running a case
 * ---------------------------------------------------------------------------------------- */

/* What a run left: the bytes and tensors (for shapes and types) of the results, and of the sources that were updated. */
typedef struct outcome {
    int n;
    scbm_tensor tensor[REF_RESULTS];
    size_t bytes[REF_RESULTS];
    unsigned char *data[REF_RESULTS];
} outcome;

static void outcome_free(outcome *o) {
    for (int i = 0; i < o->n; i++) free(o->data[i]);
    memset(o, 0, sizeof *o);
}

static unsigned char *copy_bytes(const void *bytes, size_t size) {
    unsigned char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    if (size) memcpy(copy, bytes, size);
    return copy;
}

static void assert_same(const outcome *a, const outcome *b, const char *what, const char *how) {
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        assert_int_equal(a->bytes[i], b->bytes[i]);
        if (memcmp(a->data[i], b->data[i], a->bytes[i])) fail_msg("%s: result %d has other bits %s", what, i, how);
    }
}

/* Runs a planned graph. What was in the results' memory (a reshape has its source's) must not count: it is not a
 * number. */
static void run_once(outcome *o, built_case *built, const op_case *c, scbm_context *context, scbm_tensor *const *result,
                     int n) {
    for (int i = 0; i < n && c->op != SCBM_OP_RESHAPE; i++)
        if (result[i]->graph) memset(result[i]->data, 0xff, scbm_tensor_bytes(result[i]));
    assert_ok_for(scbm_graph_run(built->graph, c->tokens, c->texts), c->what);
    memset(o, 0, sizeof *o);
    o->n = n;
    for (int i = 0; i < n; i++) {
        if (!result[i]->graph) assert_ok_for(scbm_tensor_fetch(result[i], context), c->what);
        int64_t shape[SCBM_MAX_DIMS], wanted[SCBM_MAX_DIMS] = {0};
        batch_shape(result[i], c->tokens, c->texts, wanted);
        scbm_graph_shape(built->graph, result[i], shape);
        assert_memory_equal(shape, wanted, sizeof shape);
        o->tensor[i] = *result[i];
        o->bytes[i] = batch_bytes(result[i], c->tokens, c->texts);
        o->data[i] = copy_bytes(result[i]->data, o->bytes[i]);
    }
}

static void assert_inputs_unchanged(const built_case *built, const op_case *c) {
    for (int i = 0; i < c->n_sources; i++)
        if (c->source[i].is_present && !case_updates(c, i) && c->source[i].bytes &&
            memcmp(built->source[i]->data, c->source[i].tensor.data, c->source[i].bytes))
            fail_msg("%s: source %d was written to", c->what, i);
}

/* Runs the case twice, the second time in memory that was used; 0 where the backend refuses the op. `decomposed` looks
 * at the first result alone. */
static int run_case(outcome *o, const op_case *c, scbm_context *context, int decomposed) {
    built_case built;
    outcome again;
    scbm_tensor *result[REF_RESULTS];
    assert_ok_for(case_build(&built, c, context), c->what);
    int n = built.node ? decomposed ? 1 : built.node->n_results : 0;
    for (int i = 0; i < n; i++) result[i] = scbm_graph_fetch(built.graph, built.node->result[i]);
    scbm_status status = decomposed ? scbm_graph_decompose(built.graph) : SCBM_OK;
    if (!status) status = scbm_graph_plan(built.graph);
    int lacks_results = status == SCBM_ERROR_ARGUMENT && strstr(scbm_last_error(), "no node of the graph computes it");
    if (status == SCBM_ERROR_UNSUPPORTED || lacks_results) { /* a decomposition has the first one alone */
        case_release(&built);
        return 0;
    }
    assert_ok_for(status, c->what);
    case_fill(&built, c);
    for (int i = 0; i < c->n_sources && !decomposed; i++)
        if (c->source[i].is_present && case_updates(c, i)) result[n++] = built.source[i];
    run_once(o, &built, c, context, result, n);
    case_fill(&built, c);
    run_once(&again, &built, c, context, result, n);
    assert_same(o, &again, c->what, "in a second run");
    assert_inputs_unchanged(&built, c);
    outcome_free(&again);
    case_release(&built);
    return 1;
}

/* ------------------------------------------------------------------------------------------
 * Comparing with the reference
 * ---------------------------------------------------------------------------------------- */

static void reference_of(ref_call *call, const op_case *c, const outcome *o) {
    int64_t shape[SCBM_MAX_DIMS];
    memset(call, 0, sizeof *call);
    call->op = c->op;
    memcpy(call->scalar, c->scalar, sizeof call->scalar);
    memcpy(call->integer, c->integer, sizeof call->integer);
    call->precision = c->precision;
    call->seed = c->seed;
    call->step = c->step;
    call->n_sources = c->n_sources;
    call->n_results = o->n;
    for (int i = 0; i < c->n_sources; i++) {
        if (!c->source[i].is_present) continue;
        const scbm_tensor *tensor = &c->source[i].tensor;
        int64_t n = batch_shape(tensor, c->tokens, c->texts, shape);
        call->source[i] = ref_new(tensor->n_dims, shape, 0);
        call->source[i].type = tensor->type;
        ref_decode(call->source[i].value, tensor->type, tensor->data, n);
    }
    for (int i = 0; i < o->n || i < SCBM_MAX_RESULTS;
         i++) { /* the reference writes statistics too that a decomposition lacks */
        const scbm_tensor *like = &o->tensor[i < o->n ? i : 0];
        batch_shape(like, c->tokens, c->texts, shape);
        call->result[i] = ref_new(like->n_dims, shape, 1);
    }
    ref_compute(call);
}

static void reference_release(ref_call *call) {
    for (int i = 0; i < call->n_sources; i++) ref_free(&call->source[i]);
    for (int i = 0; i < REF_RESULTS; i++) ref_free(&call->result[i]);
}

/* `slack`: how many bounds the values may be off. Infinities and zeros from nothing are exact. */
static int64_t compare_result(const op_case *c, const outcome *o, int i, const ref_array *want, double slack) {
    double *got = malloc(((size_t)want->n + 1) * sizeof *got);
    assert_non_null(got);
    ref_decode(got, o->tensor[i].type, o->data[i], want->n);
    for (int64_t j = 0; j < want->n; j++) {
        double bound = slack * ref_bound(want, j), off = fabs(got[j] - want->value[j]);
        if (got[j] == want->value[j] || (isnan(got[j]) && isnan(want->value[j]))) continue;
        if (!(off <= bound))
            fail_msg("%s: result %d, element %lld is %.9g, the reference has %.9g: off by %.3g, %.3g is the bound",
                     c->what, i, (long long)j, got[j], want->value[j], off, bound);
    }
    free(got);
    return want->n;
}

static void compare(bench *b, const op_case *c, const outcome *o, double slack) {
    ref_call call;
    reference_of(&call, c, o);
    for (int i = 0; i < o->n; i++) b->compared += compare_result(c, o, i, &call.result[i], slack);
    reference_release(&call);
}

/* Whether the op's products are rounded: in integers those of quantized weights without masks. */
static int is_rounded(const op_case *c) {
    const scbm_type type = c->source[1].tensor.type;
    if (c->precision == SCBM_PRECISION_BF16) return 1;
    return c->precision == SCBM_PRECISION_INT8 && !c->source[3].is_present && (type == SCBM_Q8_0 || type == SCBM_Q4_0);
}

/* Operands of eight bits: the whole result is near what f32 gives, and not the same. */
static void compare_with_f32(const op_case *c, const outcome *o) {
    op_case full = *c;
    ref_call call;
    full.precision = SCBM_PRECISION_F32;
    reference_of(&call, &full, o);
    double distance = ref_distance((const float *)(const void *)o->data[0], &call.result[0]);
    if (!(distance < 1e-2)) fail_msg("%s: %s is %g from f32", c->what, scbm_precision_name(c->precision), distance);
    if (call.result[0].n > 20 && c->tokens) assert_true(distance > 1e-6);
    reference_release(&call);
}

/* ------------------------------------------------------------------------------------------
 * The checks of one case
 * ---------------------------------------------------------------------------------------- */

static void check_ways(bench *b, const op_case *c, const outcome *o) {
    for (int i = TWO_WORKERS; i < N_WAYS; i++) {
        outcome other;
        assert_true(run_case(&other, c, b->way[i], 0));
        assert_same(o, &other, c->what, way_names[i]);
        outcome_free(&other);
    }
}

/* Every text has the bits that it has without the others. */
static void check_alone(bench *b, const op_case *c, const outcome *o) {
    for (int64_t n = 0; n < c->texts; n++) {
        op_case alone;
        outcome own;
        case_of_text(&alone, c, n);
        assert_true(run_case(&own, &alone, b->way[ONE_WORKER], 0));
        for (int i = 0; i < o->n; i++) {
            size_t bytes = copy_text(NULL, o->data[i], &o->tensor[i], c, n);
            unsigned char *part = malloc(bytes ? bytes : 1);
            assert_non_null(part);
            copy_text(part, o->data[i], &o->tensor[i], c, n);
            if (bytes) assert_int_equal(bytes, own.bytes[i]);
            if (memcmp(part, own.data[i], bytes)) fail_msg("%s: result %d has other bits alone", alone.what, i);
            free(part);
        }
        outcome_free(&own);
        case_clear(&alone);
    }
}

/* The fused op's parts give the same within both roundings, and draw the same numbers. 0: there are none that it can run. */
static int check_decomposition(bench *b, const op_case *c) {
    outcome o;
    if (!scbm_op_of(c->op)->has_decomposition) return 0;
    if (!run_case(&o, c, b->way[ONE_WORKER], 1)) {
        if (b->device->runs_all_ops) fail_msg("%s: cannot run decomposed", c->what);
        return 0;
    }
    op_case parts = *c;
    if (c->precision == SCBM_PRECISION_INT8) parts.precision = SCBM_PRECISION_F32; /* no product is in integers */
    compare(b, &parts, &o, 2.0);
    outcome_free(&o);
    return 1;
}

static void check_in_place(bench *b, const op_case *c, const outcome *o) {
    op_case copies = *c;
    outcome other;
    if (!scbm_op_of(c->op)->in_place) return;
    copies.from_copies = 1;
    if (!run_case(&other, &copies, b->way[ONE_WORKER], 0)) { /* it lacks copies */
        assert_false(b->device->runs_all_ops);
        return;
    }
    assert_same(o, &other, c->what, "in place");
    outcome_free(&other);
}

/* The backend has a row, which leaves some cases to other ops (attention's parts, and their own gradients). */
static int has_choosy_row(const bench *b, scbm_op op) {
    const scbm_kernel *kernel = &b->backend->functions->kernels[op];
    return kernel->run && kernel->supports;
}

static void check_case(void *user, op_case *c) {
    bench *b = user;
    outcome o;
    if (!b->device->has_all_precisions && scbm_context_check_precision(b->way[ONE_WORKER], c->precision)) {
        b->n_refused++;
        return;
    }
    if (!run_case(&o, c, b->way[ONE_WORKER], 0)) {
        if (b->device->runs_all_ops && !has_choosy_row(b, c->op)) fail_msg("%s: %s", c->what, scbm_last_error());
        b->n_refused += !check_decomposition(b, c);
        return;
    }
    compare(b, c, &o, 1.0);
    if (is_rounded(c)) compare_with_f32(c, &o);
    check_ways(b, c, &o);
    if (!c->depends_on_batch) check_alone(b, c, &o);
    check_decomposition(b, c);
    check_in_place(b, c, &o);
    outcome_free(&o);
}

/* An op without a test cannot exist. */
static void op_agrees_with_the_reference(void **state) {
    const op_test *test = *state;
    bench *b = test->bench;
    b->compared = b->n_refused = 0;
    int n = op_cases(test->op, 0, check_case, b);
    if (!n) fail_msg("%s has no test case", scbm_op_of(test->op)->name);
    if (b->n_refused) print_message("%s: %d of %d cases are refused\n", test->name, b->n_refused, n);
    else assert_true(b->compared > 50);
}

/* ------------------------------------------------------------------------------------------
 * Integers
 * ---------------------------------------------------------------------------------------- */

enum { INT_TOKENS = 37, INT_DEPTH = 768, INT_ROWS = 29 };

/* Numbers whose blocks have a 127 and so a power of two for a scale; those of token 0 are all 127. */
static void fill_integers(int32_t *q, float *x, scbm_random *random) {
    for (int t = 0; t < INT_TOKENS; t++)
        for (int k = 0; k < INT_DEPTH; k++, q++, x++) {
            int drawn = (int)(scbm_random_uniform(random) * 255) - 127;
            int size = t && k / 32 % 3 == 1 ? 2 : 1;
            *q = (t == 0 || k % 32 == 5 ? 127 : drawn) * size;
            *x = (float)*q * 0.125f;
        }
}

/* Q8_0 of scales 0.5 and 1; row 0 is all -128, which a sum of two products in 16 bits would not hold. */
static void fill_blocks(int32_t *q, unsigned char *block, scbm_random *random) {
    for (int n = 0; n < INT_ROWS; n++)
        for (int b = 0; b < INT_DEPTH / 32; b++, block += 34) {
            const int is_one = n == 0 || b % 2;
            block[0] = 0;
            block[1] = is_one ? 0x3c : 0x38;
            for (int k = 0; k < 32; k++, q++) {
                int drawn = n ? (int)(scbm_random_uniform(random) * 256) - 128 : -128;
                block[2 + k] = (unsigned char)drawn;
                *q = drawn * (is_one ? 2 : 1);
            }
        }
}

/* Where every number is an integer times a power of two, nothing is rounded on the way. */
static void int8_products_are_those_of_integers(void **state) {
    bench *b = ((const op_test *)*state)->bench;
    static int32_t x_q[INT_TOKENS * INT_DEPTH], w_q[INT_ROWS * INT_DEPTH];
    static float x_data[INT_TOKENS * INT_DEPTH];
    static _Alignas(64) unsigned char blocks[INT_ROWS * INT_DEPTH / 32 * 34];
    if (scbm_context_check_precision(b->way[TWO_WORKERS], SCBM_PRECISION_INT8)) skip();
    scbm_random random = {17, 0, 0};
    fill_integers(x_q, x_data, &random);
    fill_blocks(w_q, blocks, &random);
    scbm_tensor w;
    assert_ok(scbm_tensor_init(&w, "w", SCBM_Q8_0, 2, (const int64_t[]){INT_ROWS, INT_DEPTH}));
    w.data = blocks;
    scbm_graph *g;
    assert_ok(scbm_graph_create(&g, b->way[TWO_WORKERS]));
    scbm_graph_set_precision(g, SCBM_PRECISION_INT8);
    scbm_graph_set_capacity(g, INT_TOKENS, 1);
    scbm_tensor *x = scbm_input(g, "x", SCBM_F32, 3, (const int64_t[]){1, INT_TOKENS, INT_DEPTH},
                                (const scbm_extent[]){SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED});
    scbm_tensor *y = scbm_graph_fetch(g, scbm_linear(g, x, &w, NULL, NULL, SCBM_NONE));
    assert_ok(scbm_graph_plan(g));
    memcpy(x->data, x_data, sizeof x_data);
    assert_ok(scbm_graph_run(g, INT_TOKENS, 1));
    const float *got = y->data;
    for (int t = 0; t < INT_TOKENS; t++)
        for (int n = 0; n < INT_ROWS; n++) {
            int64_t sum = 0;
            for (int k = 0; k < INT_DEPTH; k++) sum += (int64_t)x_q[t * INT_DEPTH + k] * w_q[n * INT_DEPTH + k];
            const double want = (double)sum / 16;
            if ((double)got[t * INT_ROWS + n] != want)
                fail_msg("token %d, row %d: %.9g, the integers give %.9g", t, n, (double)got[t * INT_ROWS + n], want);
        }
    scbm_graph_free(g);
    scbm_tensor_forget(&w);
}

/* ------------------------------------------------------------------------------------------
 * Bad ids, offsets, permutations, targets and groups
 * ---------------------------------------------------------------------------------------- */

/* Writes `value` into element `at` of source i, expects the run to fail, and puts back what was there. */
static int expect_error(bench *b, op_case *c, int i, int64_t at, int64_t value) {
    built_case built;
    int32_t *values = c->source[i].tensor.data, kept = values[at];
    values[at] = (int32_t)value;
    assert_ok_for(case_build(&built, c, b->way[ONE_WORKER]), c->what);
    scbm_status status = scbm_graph_plan(built.graph);
    if (!status) {
        case_fill(&built, c);
        status = scbm_graph_run(built.graph, c->tokens, c->texts);
        if (status != SCBM_ERROR_ARGUMENT)
            fail_msg("%s: %lld at %lld of source %d is taken: %s", c->what, (long long)value, (long long)at, i,
                     scbm_status_name(status));
        if (!strstr(scbm_last_error(), scbm_op_of(c->op)->name)) fail_msg("%s: says '%s'", c->what, scbm_last_error());
        values[at] = kept; /* and the graph goes on working */
        case_fill(&built, c);
        assert_ok_for(scbm_graph_run(built.graph, c->tokens, c->texts), c->what);
    } else if (b->device->runs_all_ops) {
        fail_msg("%s: %s", c->what, scbm_last_error());
    }
    values[at] = kept;
    case_release(&built);
    return 1;
}

static int bad_offsets(bench *b, op_case *c, int i) {
    const int32_t *offsets = c->source[i].tensor.data;
    return expect_error(b, c, i, 0, -1) + expect_error(b, c, i, c->texts, c->tokens + 1) +
           expect_error(b, c, i, c->texts, offsets[c->texts - 1] - 1) +
           expect_error(b, c, i, 1, (int64_t)offsets[c->texts] + 1) + expect_error(b, c, i, 1, INT32_MIN);
}

static int bad_groups(bench *b, op_case *c, int i, int64_t classes) {
    int64_t last = c->source[i].tensor.shape[0] - 1;
    return expect_error(b, c, i, 0, -1) + expect_error(b, c, i, last, classes + 1) + expect_error(b, c, i, last, -1) +
           expect_error(b, c, i, last, classes - 1);
}

/* Below and at the size. */
static int bad_index(bench *b, op_case *c, int i, int64_t size) {
    return expect_error(b, c, i, 0, -1) + expect_error(b, c, i, 0, size) + expect_error(b, c, i, 0, INT32_MAX);
}

typedef struct damage {
    bench *bench;
    int n;
} damage;

static void check_damage(void *user, op_case *c) {
    damage *d = user;
    bench *b = d->bench;
    if (c->texts < 2) return;
    for (int i = 0; i < c->n_sources; i++)
        if (c->source[i].is_offsets) d->n += bad_offsets(b, c, i);
    switch (c->op) {
    case SCBM_OP_GET_ROWS: d->n += bad_index(b, c, 1, c->source[0].tensor.shape[0]); break;
    case SCBM_OP_GET_ROWS_BACK: d->n += bad_index(b, c, 1, c->source[2].tensor.shape[0]); break;
    case SCBM_OP_MIX_TEXTS:
    case SCBM_OP_MIX_TEXTS_BACK: d->n += bad_index(b, c, 1, c->texts); break;
    case SCBM_OP_GROUP_LINEAR:
    case SCBM_OP_GROUP_LINEAR_BACK_Z:
    case SCBM_OP_GROUP_LINEAR_BACK_W: d->n += bad_groups(b, c, 2, c->source[1].tensor.shape[0]); break;
    case SCBM_OP_CROSS_ENTROPY:
    case SCBM_OP_CROSS_ENTROPY_BACK: {
        int back = c->op == SCBM_OP_CROSS_ENTROPY_BACK ? 2 : 0;
        const int32_t *groups = c->source[2 + back].tensor.data;
        d->n += bad_groups(b, c, 2 + back, c->source[back ? 1 : 0].tensor.shape[1]);
        if (c->source[1 + back].tensor.type == SCBM_I32) d->n += expect_error(b, c, 1 + back, 0, groups[1]);
        break;
    }
    default: break;
    }
}

static void bad_indices_are_errors(void **state) {
    static const scbm_op ops[] = {SCBM_OP_GET_ROWS,
                                  SCBM_OP_GET_ROWS_BACK,
                                  SCBM_OP_GROUP_LINEAR,
                                  SCBM_OP_GROUP_LINEAR_BACK_Z,
                                  SCBM_OP_GROUP_LINEAR_BACK_W,
                                  SCBM_OP_ATTENTION,
                                  SCBM_OP_ATTENTION_BACK,
                                  SCBM_OP_ATTENTION_SCORES,
                                  SCBM_OP_ATTENTION_MIX,
                                  SCBM_OP_ATTENTION_MIX_TRANSPOSED,
                                  SCBM_OP_ATTENTION_BIAS,
                                  SCBM_OP_ATTENTION_BIAS_BACK,
                                  SCBM_OP_SEGMENT_MEAN,
                                  SCBM_OP_SEGMENT_MEAN_BACK,
                                  SCBM_OP_SEGMENT_FIRST,
                                  SCBM_OP_SEGMENT_FIRST_BACK,
                                  SCBM_OP_SEGMENT_LAST,
                                  SCBM_OP_SEGMENT_LAST_BACK,
                                  SCBM_OP_LSTM,
                                  SCBM_OP_LSTM_BACK,
                                  SCBM_OP_MIX_TEXTS,
                                  SCBM_OP_MIX_TEXTS_BACK,
                                  SCBM_OP_CROSS_ENTROPY,
                                  SCBM_OP_CROSS_ENTROPY_BACK};
    const op_test *test = *state;
    for (int i = 0; i < COUNT_OF(ops); i++) {
        damage d = {test->bench, 0};
        op_cases(ops[i], 1, check_damage, &d);
        if (!d.n) fail_msg("%s: nothing was damaged", scbm_op_of(ops[i])->name);
    }
}

/* ------------------------------------------------------------------------------------------
 * Creating backends
 * ---------------------------------------------------------------------------------------- */

static void the_tier_can_be_chosen(void **state) {
    (void)state;
    scbm_backend *backend = NULL;
    assert_error(scbm_backend_open(&backend, "cpu:z80", NULL), SCBM_ERROR_ARGUMENT, "'z80'");
    assert_error(scbm_backend_open(&backend, "cpu:", NULL), SCBM_ERROR_ARGUMENT, "''");
    assert_null(backend);
    setenv("SCBM_CPU", "abacus", 1);
    scbm_context *context = NULL;
    assert_int_equal(scbm_context_create(&context, NULL, NULL), SCBM_ERROR_ARGUMENT);
    assert_null(context);
    assert_non_null(strstr(scbm_last_error(), "abacus"));
    int n = 0;
    for (int i = 0; i < COUNT_OF(devices); i++) {
        if (strncmp(devices[i].name, "cpu:", 4)) continue;
        scbm_status status = scbm_backend_open(&backend, devices[i].name, NULL);
        scbm_backend_close(backend);
        backend = NULL;
        if (status) continue;
        setenv("SCBM_CPU", strchr(devices[i].name, ':') + 1, 1);
        assert_ok_for(scbm_context_create(&context, NULL, NULL), devices[i].description);
        assert_string_equal(scbm_context_device(context), devices[i].description);
        scbm_context_free(context);
        n++;
    }
    assert_true(n > 0);
    unsetenv("SCBM_CPU");
}

static const struct CMUnitTest others[] = {
    {"bad indices are errors", bad_indices_are_errors, NULL, NULL, NULL},
    {"int8 products are those of integers", int8_products_are_those_of_integers, NULL, NULL, NULL},
};

/* ------------------------------------------------------------------------------------------
 * What was asked for
 * ---------------------------------------------------------------------------------------- */

typedef struct request {
    const char *wanted, *op; /* part of a device's name; an op, NULL: all */
    int only_support, only_perf;
} request;

static device devices_asked[COUNT_OF(devices)];
static int n_devices;

static int misuse(const char *what) {
    fprintf(stderr, "test-backend: %s\nusage: test-backend [NAME | --device NAME] [-o OP] [support | perf]\n", what);
    return 0;
}

static int is_op(const char *name) {
    for (int op = 0; op < SCBM_OP_COUNT; op++)
        if (!strcmp(scbm_op_of((scbm_op)op)->name, name)) return 1;
    return 0;
}

static int read_arguments(request *r, int argc, char **argv) {
    *r = (request){.wanted = getenv("SCBM_TEST_BACKEND")};
    for (int i = 1; i < argc; i++) {
        int has_value = !strcmp(argv[i], "--device") || !strcmp(argv[i], "-o");
        if (has_value && i + 1 == argc) return misuse("an option lacks its value");
        if (!strcmp(argv[i], "--device")) devices_asked[0] = (device){argv[i + 1], argv[i + 1], 0, 0};
        else if (!strcmp(argv[i], "-o")) r->op = argv[i + 1];
        else if (!strcmp(argv[i], "support")) r->only_support = 1;
        else if (!strcmp(argv[i], "perf")) r->only_perf = 1;
        else if (argv[i][0] == '-') return misuse("there is no such option");
        else r->wanted = argv[i];
        i += has_value;
    }
    if (r->op && !is_op(r->op)) return misuse("there is no such op");
    if (r->only_support && r->only_perf) return misuse("one of support and perf is wanted");
    n_devices = 1;
    if (devices_asked[0].name) r->wanted = NULL;
    else memcpy(devices_asked, devices, sizeof devices), n_devices = COUNT_OF(devices);
    return 1;
}

/* The tests of a device go into the table; returns how many there are now. */
static int add_tests(bench *b, const request *r, op_test *tests, struct CMUnitTest *table, int n) {
    for (int op = 0; op < SCBM_OP_COUNT + COUNT_OF(others); op++) {
        op_test *test = &tests[n];
        const struct CMUnitTest *other = op < SCBM_OP_COUNT ? NULL : &others[op - SCBM_OP_COUNT];
        const char *name = other ? other->name : scbm_op_of((scbm_op)op)->name;
        if (r->op && strcmp(r->op, name)) continue;
        test->op = (scbm_op)op;
        test->bench = b;
        snprintf(test->name, sizeof test->name, "%.50s: %s", b->device->description, name);
        table[n++] = (struct CMUnitTest){test->name, other ? other->test_func : op_agrees_with_the_reference, NULL,
                                         NULL, test};
    }
    return n;
}

int main(int argc, char **argv) {
    /* Threads that spin between these many short runs slow each other down on a busy machine. OpenMP reads this when
     * a program starts. */
    if (!getenv("OMP_WAIT_POLICY") && !setenv("OMP_WAIT_POLICY", "passive", 1)) execvp(argv[0], argv);
    static bench benches[COUNT_OF(devices)];
    static op_test tests[COUNT_OF(devices) * (SCBM_OP_COUNT + COUNT_OF(others))];
    static struct CMUnitTest table[COUNT_OF(devices) * (SCBM_OP_COUNT + COUNT_OF(others)) + 1];
    request r;
    int n_benches = 0, n = 0;
    unsetenv("SCBM_CPU");
    if (shadow_register() || !read_arguments(&r, argc, argv)) return 2;
    int is_asked = devices_asked[0].name != devices[0].name;
    for (int i = 0; i < n_devices; i++) {
        if (r.wanted && !strstr(devices_asked[i].description, r.wanted)) continue;
        bench *b = &benches[n_benches];
        if (bench_open(b, &devices_asked[i])) {
            printf("%s: not on this machine (%s)\n", devices_asked[i].description, scbm_last_error());
            bench_close(b);
            continue;
        }
        n_benches++;
        if (is_asked || r.only_support) print_support(b->backend, b->way[ONE_WORKER], r.op);
        if (r.only_perf) print_timings(b->way[ONE_WORKER], r.op);
        n = add_tests(b, &r, tests, table, n);
    }
    if (!n_benches) {
        fprintf(stderr, "no backend to test\n");
        return 1;
    }
    if (!is_asked && !r.op)
        table[n++] = (struct CMUnitTest){"the tier can be chosen", the_tier_can_be_chosen, NULL, NULL, NULL};
    fflush(stdout);
    int failed = r.only_support || r.only_perf ? 0 : _cmocka_run_group_tests("backend", table, (size_t)n, NULL, NULL);
    for (int i = 0; i < n_benches; i++) bench_close(&benches[i]);
    return failed;
}
