/* op-cases.c - inputs for every op; see op-cases.h */
#include "tests/op-cases.h"
#include "tests/helpers.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Batches
 * ---------------------------------------------------------------------------------------- */

typedef struct batch {
    int64_t texts, spare_texts, spare_tokens; /* spare: how much larger the capacity is */
    const int *lengths;
} batch;

#define LENGTHS(...) ((const int[]){__VA_ARGS__})
static const int few_of_many[130] = {2, 0, 0, 1, [63] = 3, [64] = 1, [129] = 2};

/* The CPU kernels' tokens are cut at 32, 48, 64, 96, 256: longer and shorter than each of these. */
enum { ONE_TOKEN, ONE_TEXT, PANEL, TEXTS_3, SPARE, EMPTY_ENDS, LONG, LONGER, MANY, NOBODY, N_BATCHES };
static const batch batches[N_BATCHES] = {
    [ONE_TOKEN] = {1, 0, 0, LENGTHS(1)},       [ONE_TEXT] = {1, 0, 0, LENGTHS(7)},
    [PANEL] = {1, 0, 0, LENGTHS(32)},          [TEXTS_3] = {3, 0, 0, LENGTHS(5, 1, 8)},
    [SPARE] = {4, 2, 13, LENGTHS(3, 0, 6, 2)}, [EMPTY_ENDS] = {5, 0, 0, LENGTHS(0, 9, 0, 4, 0)},
    [LONG] = {2, 0, 0, LENGTHS(97, 130)},      [LONGER] = {3, 1, 5, LENGTHS(200, 33, 64)},
    [MANY] = {130, 3, 0, few_of_many},         [NOBODY] = {0, 2, 8, LENGTHS(0)},
};

enum { SMALL_ONE, SMALL_TWO, SMALL_SPARE, N_SMALL };
static const batch small_batches[N_SMALL] = {
    [SMALL_ONE] = {1, 0, 0, LENGTHS(1)},
    [SMALL_TWO] = {2, 0, 0, LENGTHS(3, 2)},
    [SMALL_SPARE] = {3, 1, 2, LENGTHS(2, 0, 3)},
};

/* ------------------------------------------------------------------------------------------
 * Making cases
 * ---------------------------------------------------------------------------------------- */

typedef struct maker {
    scbm_op op;
    int small;
    case_visit visit;
    void *user;
    int n;
} maker;

static op_case start(const maker *m, const batch *b) {
    op_case c = {0};
    c.op = m->op;
    c.precision = SCBM_PRECISION_F32;
    c.texts = b->texts;
    c.max_texts = b->texts + b->spare_texts;
    for (int64_t i = 0; i < b->texts; i++) c.tokens += b->lengths[i];
    c.max_tokens = c.tokens + b->spare_tokens;
    c.lengths = b->lengths;
    c.seed = 0x123456789abcdefu + (uint64_t)m->n;
    c.step = (uint64_t)m->n % 7;
    c.random = (scbm_random){(uint64_t)m->op, (uint64_t)m->n, 0};
    return c;
}

/* Sizes in the lists of dimensions that stand for the batch's. */
#define T_DIM (-1)
#define N_DIM (-2)

enum { INPUT = 0, WEIGHT = 1, GRADIENT = 2 }; /* flags: the caller's tensor; has a gradient */

/* A device gets the caller's tensors whole, at their capacity. */
static size_t capacity_bytes(const case_source *source) {
    size_t bytes = scbm_tensor_bytes(&source->tensor);
    if (bytes < source->bytes) bytes = source->bytes;
    return bytes ? bytes : 1;
}

static void *put(op_case *c, int i, int flags, scbm_type type, int n_dims, const int64_t *dims) {
    case_source *source = &c->source[i];
    int64_t shape[SCBM_MAX_DIMS] = {0};
    for (int d = 0; d < n_dims; d++)
        shape[d] = dims[d] == T_DIM ? c->max_tokens : dims[d] == N_DIM ? c->max_texts : dims[d];
    if (scbm_tensor_init(&source->tensor, "", type, n_dims, shape)) {
        fprintf(stderr, "a case of %s: %s\n", scbm_op_of(c->op)->name, scbm_last_error());
        exit(1);
    }
    snprintf(source->tensor.name, sizeof source->tensor.name, "source%d", i);
    for (int d = 0; d < n_dims; d++)
        source->tensor.extent[d] = dims[d] == T_DIM ? SCBM_TOKENS : dims[d] == N_DIM ? SCBM_TEXTS : SCBM_FIXED;
    source->is_present = 1;
    source->is_weight = (flags & WEIGHT) != 0;
    source->is_differentiable = (flags & GRADIENT) != 0 && type == SCBM_F32;
    source->bytes = batch_bytes(&source->tensor, c->tokens, c->texts);
    source->tensor.data = checked(calloc(1, capacity_bytes(source)));
    if (c->n_sources <= i) c->n_sources = i + 1;
    return source->tensor.data;
}

static int64_t n_elements(const op_case *c, int i) {
    int64_t shape[SCBM_MAX_DIMS];
    return batch_shape(&c->source[i].tensor, c->tokens, c->texts, shape);
}

static double uniform(op_case *c, double low, double high) {
    return low + (high - low) * scbm_random_uniform(&c->random);
}

static int below(op_case *c, int n) {
    return (int)scbm_random_below(&c->random, (uint64_t)n);
}

static float *put_f32(op_case *c, int i, int flags, int n_dims, const int64_t *dims) {
    float *values = put(c, i, flags, SCBM_F32, n_dims, dims);
    for (int64_t j = 0; j < n_elements(c, i); j++) values[j] = (float)uniform(c, -2.0, 2.0);
    return values;
}

static int32_t *put_i32(op_case *c, int i, int flags, int n_dims, const int64_t *dims, int below_n) {
    int32_t *values = put(c, i, flags, SCBM_I32, n_dims, dims);
    for (int64_t j = 0; j < n_elements(c, i); j++) values[j] = below(c, below_n);
    return values;
}

static void put_u16(unsigned char *to, unsigned value) {
    to[0] = (unsigned char)value;
    to[1] = (unsigned char)(value >> 8);
}

/* A half of either sign from 2^-7 to 2^2, or, one in 16, a subnormal one. */
static unsigned random_half(op_case *c) {
    unsigned sign = (unsigned)below(c, 2) << 15, mantissa = (unsigned)below(c, 1024);
    unsigned exponent = below(c, 16) ? (unsigned)(8 + below(c, 9)) : 0;
    return sign | exponent << 10 | mantissa;
}

/* Weights of any type, made of random bits of its own form. */
static void put_weights(op_case *c, int i, int flags, scbm_type type, int n_dims, const int64_t *dims) {
    if (type == SCBM_F32) {
        put_f32(c, i, flags, n_dims, dims);
        return;
    }
    unsigned char *bytes = put(c, i, flags, type, n_dims, dims);
    int block = scbm_type_of(type)->block_bytes;
    for (size_t j = 0; j < c->source[i].bytes; j += (size_t)block) {
        if (type == SCBM_F16) put_u16(bytes + j, random_half(c));
        else if (type == SCBM_BF16)
            put_u16(bytes + j, (unsigned)(0x3c00 + below(c, 0x400)) | (unsigned)below(c, 2) << 15);
        else put_u16(bytes + j, (unsigned)((type == SCBM_Q8_0 ? 4 : 8) + below(c, 4)) << 10 | (unsigned)below(c, 1024));
        for (int b = 2; b < block; b++) bytes[j + (size_t)b] = (unsigned char)below(c, 256);
    }
}

/* Where texts begin. Entries past the batch's do not count: they hold what would be an error. */
static void put_offsets(op_case *c, int i) {
    int32_t *offsets = put(c, i, INPUT, SCBM_I32, DIMS(c->max_texts + 1));
    c->source[i].is_offsets = 1;
    static const int32_t past[] = {0, -1, INT32_MAX};
    for (int64_t n = 0; n < c->max_texts; n++)
        offsets[n + 1] = n < c->texts ? offsets[n] + c->lengths[n] : past[(n - c->texts) % COUNT_OF(past)];
}

typedef enum mask_kind { UNMASKED, RANDOM, SPARSE, ONES, ZEROS } mask_kind;

/* Bit planes; the padding bits are random or set too, as they must not count. */
static void put_masks(op_case *c, int i, mask_kind kind, int64_t s, int64_t out, int64_t in) {
    if (kind == UNMASKED) return;
    unsigned char *bytes = put(c, i, WEIGHT, SCBM_I8, DIMS(s, out, scbm_mask_row_bytes(in)));
    for (size_t j = 0; j < c->source[i].bytes; j++) {
        unsigned bits = (unsigned)below(c, 256);
        if (kind == SPARSE) bits &= (unsigned)below(c, 256) & (unsigned)below(c, 256);
        bytes[j] = kind == ONES ? 255 : kind == ZEROS ? 0 : (unsigned char)bits;
    }
}

static void put_groups(op_case *c, int i, const int *groups, int k) {
    int32_t *to = put(c, i, WEIGHT, SCBM_I32, DIMS(k + 1));
    for (int j = 0; j <= k; j++) to[j] = groups[j];
}

static void append(char *text, size_t size, const char *format, ...) SCBM_PRINTF(3, 4);
static void append(char *text, size_t size, const char *format, ...) {
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
}

static void describe(op_case *c) {
    char shape[96];
    for (int i = 0; i < c->n_sources; i++) {
        const scbm_tensor *tensor = &c->source[i].tensor;
        if (!c->source[i].is_present) append(c->what, sizeof c->what, "- ");
        else
            append(c->what, sizeof c->what, "%s%s ", tensor->type == SCBM_F32 ? "" : scbm_type_of(tensor->type)->name,
                   scbm_shape_text(tensor, shape, sizeof shape));
    }
    append(c->what, sizeof c->what, "(%g %g; %lld %lld %lld) %s, %lld/%lld tokens, %lld/%lld texts",
           (double)c->scalar[0], (double)c->scalar[1], (long long)c->integer[0], (long long)c->integer[1],
           (long long)c->integer[2], scbm_precision_name(c->precision), (long long)c->tokens, (long long)c->max_tokens,
           (long long)c->texts, (long long)c->max_texts);
}

static void emit(maker *m, op_case *c) {
    describe(c);
    m->visit(m->user, c);
    case_clear(c);
    m->n++;
}

/* Evaluates another op in the reference with the case's sources `from`, and puts its result `r` as source `to`:
 * what a backward op reads has to be what the forward op had left. */
static void put_result(op_case *c, int to, scbm_op op, int n_from, const int *from, int n_results,
                       const scbm_tensor *const *like, int r) {
    ref_call call = {0};
    call.op = op;
    memcpy(call.scalar, c->scalar, sizeof call.scalar);
    memcpy(call.integer, c->integer, sizeof call.integer);
    call.seed = c->seed;
    call.step = c->step;
    call.n_sources = n_from;
    call.n_results = n_results;
    for (int i = 0; i < n_from; i++) {
        if (from[i] < 0 || !c->source[from[i]].is_present) continue;
        const scbm_tensor *tensor = &c->source[from[i]].tensor;
        int64_t shape[SCBM_MAX_DIMS];
        int64_t n = batch_shape(tensor, c->tokens, c->texts, shape);
        call.source[i] = ref_new(tensor->n_dims, shape, 0);
        call.source[i].type = tensor->type;
        ref_decode(call.source[i].value, tensor->type, tensor->data, n);
    }
    for (int i = 0; i < n_results; i++) {
        int64_t shape[SCBM_MAX_DIMS];
        batch_shape(like[i], c->tokens, c->texts, shape);
        call.result[i] = ref_new(like[i]->n_dims, shape, 1);
    }
    ref_compute(&call);
    float *values = c->source[to].tensor.data;
    for (int64_t j = 0; j < call.result[r].n; j++) values[j] = (float)call.result[r].value[j];
    for (int i = 0; i < n_from; i++) ref_free(&call.source[i]);
    for (int i = 0; i < n_results; i++) ref_free(&call.result[i]);
}

/* ------------------------------------------------------------------------------------------
 * Lookup, elementwise, moving
 * ---------------------------------------------------------------------------------------- */

typedef struct table_shape {
    int batch, rows, d;
    scbm_type type;
} table_shape;

static const table_shape tables[] = {
    {ONE_TOKEN, 1, 1, SCBM_F32}, {TEXTS_3, 9, 5, SCBM_F32},     {SPARE, 30, 64, SCBM_F32},
    {LONGER, 70, 33, SCBM_F32},  {NOBODY, 3, 4, SCBM_F32},      {ONE_TEXT, 300, 384, SCBM_F32},
    {TEXTS_3, 9, 5, SCBM_F16},   {LONG, 11, 33, SCBM_BF16},     {SPARE, 11, 100, SCBM_BF16},
    {ONE_TEXT, 5, 1, SCBM_F16},  {TEXTS_3, 7, 64, SCBM_Q8_0},   {SPARE, 5, 32, SCBM_Q8_0},
    {LONG, 40, 96, SCBM_Q4_0},   {ONE_TOKEN, 1, 32, SCBM_Q4_0},
};
static const table_shape small_tables[] = {{SMALL_TWO, 3, 2, SCBM_F32}, {SMALL_SPARE, 4, 3, SCBM_F32}};

/* get_rows and its backward. The first and the last row are among those that are read. */
static void cases_rows(maker *m) {
    const table_shape *list = m->small ? small_tables : tables;
    for (int i = 0; i < (m->small ? COUNT_OF(small_tables) : COUNT_OF(tables)); i++) {
        const table_shape *t = &list[i];
        int is_back = m->op == SCBM_OP_GET_ROWS_BACK;
        if (is_back && t->type != SCBM_F32) continue;
        op_case c = start(m, m->small ? &small_batches[t->batch] : &batches[t->batch]);
        if (is_back) put_f32(&c, 0, INPUT, DIMS(1, T_DIM, t->d));
        put_weights(&c, is_back ? 2 : 0, WEIGHT | GRADIENT, t->type, DIMS(t->rows, t->d));
        int32_t *ids = put_i32(&c, 1, INPUT, DIMS(T_DIM), t->rows);
        if (c.tokens > 0) ids[0] = t->rows - 1;
        if (c.tokens > 1) ids[1] = 0;
        emit(m, &c);
    }
}

/* Two shapes, the second of which broadcasts to the first. */
typedef struct shape_pair {
    int batch, n_a;
    int64_t a[4];
    int n_b;
    int64_t b[4];
} shape_pair;

static const shape_pair pairs[] = {
    {ONE_TOKEN, 1, {1}, 1, {1}},
    {ONE_TOKEN, 1, {17}, 1, {17}},
    {ONE_TOKEN, 1, {40}, 1, {1}},
    {TEXTS_3, 3, {3, T_DIM, 5}, 3, {3, T_DIM, 5}},
    {TEXTS_3, 3, {3, T_DIM, 5}, 3, {1, T_DIM, 5}},
    {SPARE, 3, {3, T_DIM, 20}, 1, {20}},
    {SPARE, 3, {2, T_DIM, 9}, 3, {2, 1, 9}},
    {LONGER, 3, {3, T_DIM, 33}, 3, {1, T_DIM, 33}},
    {LONGER, 3, {1, T_DIM, 64}, 1, {64}},
    {LONG, 3, {4, T_DIM, 16}, 3, {4, 1, 1}},
    {LONG, 3, {2, T_DIM, 35}, 3, {1, T_DIM, 1}},
    {EMPTY_ENDS, 3, {2, T_DIM, 7}, 2, {T_DIM, 1}},
    {TEXTS_3, 3, {2, N_DIM, 8}, 2, {N_DIM, 8}},
    {NOBODY, 3, {2, T_DIM, 8}, 1, {8}},
    {ONE_TEXT, 2, {7, 5}, 2, {7, 1}},
    {ONE_TEXT, 4, {2, 3, 4, 5}, 3, {3, 1, 5}},
    {ONE_TEXT, 4, {2, 3, 4, 5}, 4, {2, 1, 4, 1}},
    {ONE_TEXT, 2, {150, 129}, 2, {150, 129}},
    {ONE_TEXT, 2, {700, 3}, 1, {3}},
    {ONE_TEXT, 2, {3, 8209}, 1, {8209}},
    {ONE_TEXT, 2, {17, 8209}, 1, {8209}},
};
static const shape_pair small_pairs[] = {
    {SMALL_ONE, 1, {3}, 1, {3}},
    {SMALL_TWO, 3, {2, T_DIM, 3}, 3, {2, T_DIM, 3}},
    {SMALL_TWO, 3, {3, T_DIM, 2}, 3, {1, T_DIM, 2}},
    {SMALL_SPARE, 3, {2, T_DIM, 3}, 1, {3}},
    {SMALL_SPARE, 3, {2, T_DIM, 3}, 3, {2, 1, 3}},
    {SMALL_SPARE, 3, {2, N_DIM, 3}, 2, {N_DIM, 1}},
    {SMALL_ONE, 4, {2, 3, 2, 2}, 3, {3, 1, 2}},
    {SMALL_ONE, 2, {2, 3}, 1, {1}},
};

/* add, mul; sum_to and broadcast with their transposed pairs, as sums and as means. */
static void cases_pairs(maker *m) {
    const shape_pair *list = m->small ? small_pairs : pairs;
    int is_binary = m->op == SCBM_OP_ADD || m->op == SCBM_OP_MUL, is_sum = m->op == SCBM_OP_SUM_TO;
    for (int i = 0; i < (m->small ? COUNT_OF(small_pairs) : COUNT_OF(pairs)); i++)
        for (int mean = 0; mean < (is_binary ? 1 : 2); mean++) {
            const shape_pair *p = &list[i];
            if (is_sum && mean && p->batch == NOBODY && !m->small) continue; /* the mean of nothing */
            op_case c = start(m, m->small ? &small_batches[p->batch] : &batches[p->batch]);
            c.integer[0] = mean;
            int b_first = m->op == SCBM_OP_BROADCAST;
            c.depends_on_batch = mean; /* how many elements are shared or summed */
            put_f32(&c, b_first, b_first ? INPUT : GRADIENT, p->n_a, p->a);
            put_f32(&c, !b_first, is_binary || b_first ? GRADIENT | (i % 2 ? WEIGHT : INPUT) : INPUT, p->n_b, p->b);
            emit(m, &c);
        }
    for (int i = 0; is_sum && i < 5; i++) { /* without a second source: of everything */
        static const int of[3] = {TEXTS_3, LONGER, NOBODY};
        op_case c = start(m, m->small ? &small_batches[i % 3] : &batches[of[i % 3]]);
        c.integer[0] = i / 3;
        put_f32(&c, 0, GRADIENT, DIMS(2, T_DIM, i % 3 == 1 && !m->small ? 50 : 3));
        emit(m, &c);
    }
}

static const shape_pair singles[] = {
    {ONE_TOKEN, 1, {1}, 0, {0}},         {ONE_TEXT, 2, {9, 13}, 0, {0}},     {SPARE, 3, {3, T_DIM, 5}, 0, {0}},
    {LONGER, 3, {2, T_DIM, 65}, 0, {0}}, {NOBODY, 3, {2, T_DIM, 5}, 0, {0}}, {TEXTS_3, 4, {2, 3, T_DIM, 6}, 0, {0}},
    {SPARE, 3, {2, N_DIM, 31}, 0, {0}},  {ONE_TEXT, 1, {8192}, 0, {0}},      {ONE_TEXT, 1, {8193}, 0, {0}},
};
static const shape_pair small_singles[] = {
    {SMALL_ONE, 1, {1}, 0, {0}}, {SMALL_TWO, 3, {2, T_DIM, 3}, 0, {0}}, {SMALL_SPARE, 4, {2, 2, T_DIM, 3}, 0, {0}}};

static const shape_pair *single_shapes(const maker *m, int *n) {
    *n = m->small ? COUNT_OF(small_singles) : COUNT_OF(singles);
    return m->small ? small_singles : singles;
}

static void cases_scale(maker *m) {
    static const float factors[] = {0.7f, -3.0f, 0.0f};
    int n;
    const shape_pair *list = single_shapes(m, &n);
    for (int i = 0; i < n; i++) {
        op_case c = start(m, m->small ? &small_batches[list[i].batch] : &batches[list[i].batch]);
        c.scalar[0] = factors[i % 3];
        put_f32(&c, 0, GRADIENT, list[i].n_a, list[i].a);
        emit(m, &c);
    }
}

/* From one shape to another; a weight's memory is copied first. */
static void cases_reshape(maker *m) {
    for (int i = 0; i < 5; i++) {
        static const int of[5] = {TEXTS_3, ONE_TEXT, SPARE, ONE_TEXT, NOBODY};
        op_case c = start(m, m->small ? &small_batches[i % N_SMALL] : &batches[of[i]]);
        if (i == 1 || i == 3) {
            put_f32(&c, 0, GRADIENT | (i == 3 ? WEIGHT : INPUT), DIMS(6, 4));
            c.n_dims = i == 1 ? 3 : 1;
            memcpy(c.shape, i == 1 ? (int64_t[4]){3, 2, 4, 0} : (int64_t[4]){24, 0, 0, 0}, sizeof c.shape);
        } else {
            put_f32(&c, 0, GRADIENT, DIMS(1, T_DIM, 6));
            c.n_dims = 3;
            memcpy(c.shape, (int64_t[4]){0, 2, 3, 0}, sizeof c.shape);
            c.extent[0] = SCBM_TOKENS;
        }
        emit(m, &c);
    }
}

static void cases_copy(maker *m) {
    int n;
    const shape_pair *list = single_shapes(m, &n);
    for (int i = 0; i < n; i++) {
        op_case c = start(m, m->small ? &small_batches[list[i].batch] : &batches[list[i].batch]);
        put_f32(&c, 0, GRADIENT, list[i].n_a, list[i].a);
        emit(m, &c);
    }
    if (m->small) return;
    op_case ids = start(m, &batches[SPARE]);
    put_i32(&ids, 0, INPUT, DIMS(T_DIM), 1000);
    emit(m, &ids);
    static const scbm_type types[] = {SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};
    for (int i = 0; i < COUNT_OF(types); i++) {
        op_case c = start(m, &batches[ONE_TEXT]);
        put_weights(&c, 0, WEIGHT, types[i], DIMS(3, 64));
        emit(m, &c);
    }
    op_case planes = start(m, &batches[ONE_TEXT]);
    put_masks(&planes, 0, RANDOM, 2, 3, 65);
    emit(m, &planes);
}

/* Between the three floats, with values that round up to the next power, overflow, underflow and tie. */
static void cases_cast(maker *m) {
    static const float hard[] = {0.0f,      -0.0f,      65504.0f,   65519.99f, 65520.0f,  -1e6f,   1e38f,    3.4e38f,
                                 5.9e-8f,   2.9e-8f,    2.98e-8f,   -6.1e-5f,  6.103e-5f, 1.0f,    2049.0f,  2051.0f,
                                 1.001953f, 1.0039062f, 1.0117188f, -1.99999f, 3e-39f,    -1e-45f, 0.33333f, 1e-40f};
    static const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16};
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            for (int size = 0; size < (m->small ? 1 : 3); size++) {
                static const int of[3] = {SPARE, LONGER, ONE_TOKEN};
                if (m->small && from) continue;
                op_case c = start(m, m->small ? &small_batches[to] : &batches[of[size]]);
                c.integer[0] = types[to];
                put_weights(&c, 0, GRADIENT, types[from], DIMS(2, T_DIM, size == 1 ? 30 : 3));
                float *values = c.source[0].tensor.data;
                for (int64_t j = 0; !m->small && from == 0 && j < n_elements(&c, 0) && j < COUNT_OF(hard); j++)
                    values[j] = hard[j];
                emit(m, &c);
            }
}

/* concat: the sizes of both; slice and its backward: the row's size, first and count. */
static void cases_columns(maker *m) {
    static const int sizes[][3] = {{1, 0, 1}, {5, 3, 2}, {8, 0, 5}, {96, 32, 64}, {33, 7, 19}, {7, 0, 7}};
    for (int i = 0; i < (m->small ? 3 : COUNT_OF(sizes)); i++)
        for (int b = 0; b < (m->small ? 2 : 4); b++) {
            static const int of[4] = {ONE_TOKEN, SPARE, LONGER, NOBODY};
            op_case c = start(m, m->small ? &small_batches[b + 1] : &batches[of[b]]);
            int64_t s = 1 + i % 3, n = sizes[i][0], first = sizes[i][1], count = sizes[i][2];
            if (m->op == SCBM_OP_CONCAT) {
                put_f32(&c, 0, GRADIENT, DIMS(s, T_DIM, n));
                put_f32(&c, 1, GRADIENT, DIMS(s, T_DIM, count));
            } else {
                int is_back = m->op == SCBM_OP_SLICE_BACK;
                if (is_back) put_f32(&c, 1, INPUT, DIMS(s, T_DIM, n));
                put_f32(&c, 0, GRADIENT, DIMS(s, T_DIM, is_back ? count : n));
                c.integer[0] = first;
                c.integer[1] = count;
            }
            emit(m, &c);
        }
    op_case flat = start(m, &batches[ONE_TOKEN]);
    put_f32(&flat, 0, GRADIENT, DIMS(6));
    if (m->op != SCBM_OP_SLICE) put_f32(&flat, 1, m->op == SCBM_OP_CONCAT ? GRADIENT | WEIGHT : INPUT, DIMS(9));
    flat.integer[0] = m->op == SCBM_OP_CONCAT ? 0 : 2;
    flat.integer[1] = m->op == SCBM_OP_SLICE ? 3 : 0;
    emit(m, &flat);
}

/* ------------------------------------------------------------------------------------------
 * The linear ops
 * ---------------------------------------------------------------------------------------- */

typedef enum layout { STREAMS, POOLED, MATRIX } layout; /* x [S, T, in], [S, N, in], [T, in] */

typedef struct linear_shape {
    int batch, s, x_s, in, out; /* the CPU kernels cut in at 384 and 256, out at 12 … 96 */
    scbm_type type;
    mask_kind masks;
    scbm_activation act;
    int has_bias;
    scbm_precision precision;
    layout layout;
} linear_shape;

#define F SCBM_F32
#define FULL SCBM_PRECISION_F32
#define HALF SCBM_PRECISION_BF16
#define BYTES SCBM_PRECISION_INT8
static const linear_shape linears[] = {
    {ONE_TOKEN, 1, 1, 1, 1, F, UNMASKED, SCBM_NONE, 0, FULL, STREAMS},
    {ONE_TOKEN, 1, 1, 5, 3, F, UNMASKED, SCBM_NONE, 1, FULL, STREAMS},
    {ONE_TEXT, 1, 1, 33, 17, F, UNMASKED, SCBM_GELU_ERF, 1, FULL, STREAMS},
    {PANEL, 1, 1, 64, 24, F, UNMASKED, SCBM_GELU_TANH, 1, FULL, STREAMS},
    {TEXTS_3, 1, 1, 65, 50, F, UNMASKED, SCBM_RELU, 1, FULL, STREAMS},
    {SPARE, 3, 3, 31, 13, F, UNMASKED, SCBM_TANH, 1, FULL, STREAMS},
    {EMPTY_ENDS, 1, 1, 100, 36, F, UNMASKED, SCBM_SIGMOID, 0, FULL, STREAMS},
    {LONG, 2, 2, 70, 20, F, UNMASKED, SCBM_NONE, 0, FULL, STREAMS},
    {LONGER, 1, 1, 129, 97, F, UNMASKED, SCBM_GELU_ERF, 1, FULL, STREAMS},
    {TEXTS_3, 1, 1, 800, 13, F, UNMASKED, SCBM_NONE, 1, FULL, STREAMS},
    {ONE_TOKEN, 1, 1, 385, 300, F, UNMASKED, SCBM_NONE, 1, FULL, STREAMS},
    {NOBODY, 2, 2, 9, 4, F, UNMASKED, SCBM_RELU, 1, FULL, STREAMS},
    {SPARE, 1, 1, 40, 11, F, UNMASKED, SCBM_TANH, 1, FULL, POOLED},
    {SPARE, 3, 3, 40, 11, F, RANDOM, SCBM_TANH, 1, FULL, POOLED},
    {TEXTS_3, 1, 1, 40, 11, F, UNMASKED, SCBM_NONE, 1, FULL, MATRIX},
    {ONE_TEXT, 1, 1, 33, 17, F, RANDOM, SCBM_GELU_ERF, 1, FULL, STREAMS},
    {TEXTS_3, 3, 3, 65, 50, F, RANDOM, SCBM_GELU_TANH, 1, FULL, STREAMS},
    {TEXTS_3, 3, 1, 65, 50, F, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {SPARE, 4, 1, 64, 36, F, SPARSE, SCBM_SIGMOID, 0, FULL, STREAMS},
    {SPARE, 4, 4, 200, 40, F, SPARSE, SCBM_NONE, 1, FULL, STREAMS},
    {TEXTS_3, 5, 5, 65, 50, F, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {SPARE, 6, 1, 65, 50, F, RANDOM, SCBM_NONE, 1, HALF, STREAMS},
    {ONE_TOKEN, 2, 2, 1, 1, F, ONES, SCBM_NONE, 0, FULL, STREAMS},
    {ONE_TEXT, 2, 1, 12, 7, F, ONES, SCBM_RELU, 1, FULL, STREAMS},
    {ONE_TEXT, 2, 2, 12, 7, F, ZEROS, SCBM_TANH, 1, FULL, STREAMS},
    {LONGER, 3, 3, 40, 25, F, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {TEXTS_3, 2, 1, 800, 13, F, RANDOM, SCBM_NONE, 0, FULL, STREAMS},
    {NOBODY, 3, 3, 9, 4, F, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {TEXTS_3, 1, 1, 33, 17, SCBM_F16, UNMASKED, SCBM_NONE, 1, FULL, STREAMS},
    {ONE_TOKEN, 2, 1, 800, 19, SCBM_F16, RANDOM, SCBM_GELU_ERF, 1, FULL, STREAMS},
    {PANEL, 1, 1, 33, 17, SCBM_BF16, UNMASKED, SCBM_NONE, 0, FULL, STREAMS},
    {SPARE, 3, 3, 71, 30, SCBM_BF16, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {ONE_TOKEN, 1, 1, 32, 5, SCBM_Q8_0, UNMASKED, SCBM_NONE, 1, FULL, STREAMS},
    {ONE_TEXT, 1, 1, 64, 17, SCBM_Q8_0, UNMASKED, SCBM_RELU, 1, FULL, STREAMS},
    {LONG, 2, 2, 416, 13, SCBM_Q8_0, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {ONE_TOKEN, 1, 1, 32, 5, SCBM_Q4_0, UNMASKED, SCBM_NONE, 1, FULL, STREAMS},
    {TEXTS_3, 3, 1, 64, 17, SCBM_Q4_0, SPARSE, SCBM_GELU_TANH, 1, FULL, STREAMS},
    {LONG, 1, 1, 416, 13, SCBM_Q4_0, UNMASKED, SCBM_NONE, 0, FULL, STREAMS},
    {ONE_TOKEN, 1, 1, 1, 1, F, UNMASKED, SCBM_NONE, 0, HALF, STREAMS},
    {TEXTS_3, 1, 1, 65, 50, F, UNMASKED, SCBM_GELU_ERF, 1, HALF, STREAMS},
    {LONGER, 1, 1, 129, 97, F, UNMASKED, SCBM_NONE, 1, HALF, STREAMS},
    {SPARE, 3, 1, 801, 13, F, RANDOM, SCBM_TANH, 1, HALF, STREAMS},
    {SPARE, 3, 3, 33, 36, SCBM_BF16, SPARSE, SCBM_NONE, 1, HALF, STREAMS},
    {ONE_TEXT, 1, 1, 70, 9, SCBM_F16, UNMASKED, SCBM_NONE, 1, HALF, STREAMS},
    {ONE_TEXT, 2, 2, 64, 9, SCBM_Q8_0, RANDOM, SCBM_RELU, 1, HALF, STREAMS},
    {PANEL, 1, 1, 96, 14, SCBM_Q4_0, UNMASKED, SCBM_NONE, 1, HALF, STREAMS},
    {NOBODY, 1, 1, 9, 4, F, UNMASKED, SCBM_NONE, 1, HALF, STREAMS},
    {LONG, 2, 2, 70, 20, F, SPARSE, SCBM_NONE, 1, HALF, STREAMS},
    {LONGER, 1, 1, 129, 97, F, SPARSE, SCBM_NONE, 1, HALF, STREAMS},
    {TEXTS_3, 1, 1, 40, 11, F, UNMASKED, SCBM_NONE, 1, HALF, MATRIX},
    {ONE_TOKEN, 1, 1, 32, 5, SCBM_Q8_0, UNMASKED, SCBM_NONE, 1, BYTES, STREAMS},
    {ONE_TEXT, 1, 1, 64, 17, SCBM_Q8_0, UNMASKED, SCBM_RELU, 1, BYTES, STREAMS},
    {LONG, 1, 1, 416, 37, SCBM_Q8_0, UNMASKED, SCBM_NONE, 0, BYTES, STREAMS},
    {TEXTS_3, 1, 1, 800, 100, SCBM_Q4_0, UNMASKED, SCBM_GELU_ERF, 1, BYTES, STREAMS},
    {SPARE, 3, 3, 96, 20, SCBM_Q4_0, UNMASKED, SCBM_TANH, 1, BYTES, STREAMS},
    {LONGER, 1, 1, 128, 97, SCBM_Q8_0, UNMASKED, SCBM_NONE, 1, BYTES, STREAMS},
    {TEXTS_3, 3, 1, 64, 17, SCBM_Q8_0, RANDOM, SCBM_NONE, 1, BYTES, STREAMS},
    {PANEL, 1, 1, 33, 17, F, UNMASKED, SCBM_NONE, 1, BYTES, STREAMS},
    {SPARE, 1, 1, 64, 11, SCBM_Q8_0, UNMASKED, SCBM_NONE, 1, BYTES, POOLED},
    {NOBODY, 1, 1, 32, 4, SCBM_Q8_0, UNMASKED, SCBM_NONE, 1, BYTES, STREAMS},
};
static const linear_shape small_linears[] = {
    {SMALL_ONE, 1, 1, 1, 1, F, UNMASKED, SCBM_NONE, 0, FULL, STREAMS},
    {SMALL_TWO, 1, 1, 3, 2, F, UNMASKED, SCBM_GELU_ERF, 1, FULL, STREAMS},
    {SMALL_TWO, 1, 1, 3, 2, F, UNMASKED, SCBM_GELU_TANH, 0, FULL, STREAMS},
    {SMALL_SPARE, 2, 2, 3, 2, F, UNMASKED, SCBM_RELU, 1, FULL, STREAMS},
    {SMALL_SPARE, 3, 3, 5, 4, F, RANDOM, SCBM_TANH, 1, FULL, STREAMS},
    {SMALL_SPARE, 3, 1, 5, 4, F, RANDOM, SCBM_SIGMOID, 1, FULL, STREAMS},
    {SMALL_TWO, 2, 1, 4, 3, F, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {SMALL_TWO, 2, 2, 4, 3, F, ZEROS, SCBM_NONE, 1, FULL, STREAMS},
    {SMALL_TWO, 2, 2, 4, 3, F, ONES, SCBM_GELU_ERF, 1, FULL, STREAMS},
    {SMALL_SPARE, 2, 2, 4, 3, F, RANDOM, SCBM_NONE, 1, FULL, POOLED},
    {SMALL_TWO, 1, 1, 4, 3, F, UNMASKED, SCBM_TANH, 1, FULL, MATRIX},
    {SMALL_TWO, 2, 1, 4, 3, SCBM_BF16, RANDOM, SCBM_NONE, 1, FULL, STREAMS},
    {SMALL_TWO, 1, 1, 32, 2, SCBM_Q8_0, UNMASKED, SCBM_RELU, 1, FULL, STREAMS},
};

static void put_activations(op_case *c, int i, int flags, layout layout, int64_t s, int64_t d) {
    if (layout == MATRIX) put_f32(c, i, flags, DIMS(T_DIM, d));
    else put_f32(c, i, flags, DIMS(s, layout == POOLED ? N_DIM : T_DIM, d));
}

static void linear_forward(maker *m, const linear_shape *l, const batch *b) {
    op_case c = start(m, b);
    put_activations(&c, 0, GRADIENT, l->layout, l->x_s, l->in);
    put_weights(&c, 1, WEIGHT | GRADIENT, l->type, DIMS(l->out, l->in));
    if (l->has_bias) put_f32(&c, 2, WEIGHT | GRADIENT, DIMS(l->out));
    put_masks(&c, 3, l->masks, l->s, l->out, l->in);
    c.integer[0] = l->act;
    c.precision = l->precision;
    emit(m, &c);
}

static void linear_back_x(maker *m, const linear_shape *l, const batch *b) {
    op_case c = start(m, b);
    put_activations(&c, 0, INPUT, l->layout, l->s, l->out);
    put_weights(&c, 1, WEIGHT, l->type, DIMS(l->out, l->in));
    put_masks(&c, 2, l->masks, l->s, l->out, l->in);
    c.precision = l->precision;
    emit(m, &c);
}

/* Without masks too, streams may have gradients of their own for one x. */
static void linear_back_w(maker *m, const linear_shape *l, const batch *b, scbm_dw_mode mode) {
    op_case c = start(m, b);
    put_activations(&c, 0, INPUT, l->layout, l->s, l->out);
    put_activations(&c, 1, INPUT, l->layout, l->x_s, l->in);
    put_weights(&c, 2, WEIGHT, l->type, DIMS(l->out, l->in));
    put_masks(&c, 3, l->masks, l->s, l->out, l->in);
    c.integer[0] = mode;
    c.precision = l->precision;
    emit(m, &c);
}

static void cases_linear(maker *m) {
    const linear_shape *list = m->small ? small_linears : linears;
    for (int i = 0; i < (m->small ? COUNT_OF(small_linears) : COUNT_OF(linears)); i++) {
        const linear_shape *l = &list[i];
        const batch *b = m->small ? &small_batches[l->batch] : &batches[l->batch];
        if (m->op == SCBM_OP_LINEAR) linear_forward(m, l, b);
        if (m->op == SCBM_OP_LINEAR_BACK_X && l->precision != SCBM_PRECISION_INT8) linear_back_x(m, l, b);
        for (int mode = SCBM_DW_SUMMED; mode <= SCBM_DW_DENSE; mode++)
            if (m->op == SCBM_OP_LINEAR_BACK_W && l->precision != SCBM_PRECISION_INT8 && l->type == SCBM_F32)
                linear_back_w(m, l, b, (scbm_dw_mode)mode);
    }
}
#undef F

typedef struct head_shape {
    int batch, s, d, k, groups[8], has_bias;
} head_shape;

static const head_shape heads[] = {
    {ONE_TOKEN, 1, 1, 1, {0, 1}, 0},         {TEXTS_3, 1, 5, 1, {0, 4}, 1},
    {SPARE, 3, 33, 3, {0, 2, 3, 9}, 1},      {EMPTY_ENDS, 1, 64, 4, {0, 3, 6, 9, 12}, 1},
    {SPARE, 4, 384, 4, {0, 3, 6, 9, 12}, 0}, {LONGER, 2, 70, 2, {0, 1, 40}, 1},
    {NOBODY, 2, 5, 2, {0, 2, 4}, 1},         {MANY, 2, 17, 2, {0, 3, 5}, 1},
};
static const head_shape small_heads[] = {
    {SMALL_ONE, 1, 1, 1, {0, 1}, 0}, {SMALL_TWO, 1, 3, 2, {0, 1, 4}, 1}, {SMALL_SPARE, 3, 2, 3, {0, 2, 3, 5}, 1}};

static void cases_heads(maker *m) {
    const head_shape *list = m->small ? small_heads : heads;
    for (int i = 0; i < (m->small ? COUNT_OF(small_heads) : COUNT_OF(heads)); i++) {
        const head_shape *h = &list[i];
        int64_t classes = h->groups[h->k];
        op_case c = start(m, m->small ? &small_batches[h->batch] : &batches[h->batch]);
        int z = m->op == SCBM_OP_GROUP_LINEAR ? 0 : m->op == SCBM_OP_GROUP_LINEAR_BACK_Z ? 3 : 1;
        int w = m->op == SCBM_OP_GROUP_LINEAR_BACK_W ? 3 : 1;
        put_f32(&c, z, GRADIENT, DIMS(h->s, N_DIM, h->d));
        put_f32(&c, w, WEIGHT | GRADIENT, DIMS(classes, h->d));
        put_groups(&c, 2, h->groups, h->k);
        if (m->op != SCBM_OP_GROUP_LINEAR) put_f32(&c, 0, INPUT, DIMS(N_DIM, classes));
        else if (h->has_bias) put_f32(&c, 3, WEIGHT | GRADIENT, DIMS(classes));
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * Rows: layer normalization, activations, softmax, dropout
 * ---------------------------------------------------------------------------------------- */

typedef struct row_shape {
    int batch, s, d, residual_s;
} row_shape;

static const row_shape norm_shapes[] = {
    {ONE_TOKEN, 1, 1, 1}, {ONE_TEXT, 1, 5, 1},  {SPARE, 3, 64, 1},      {LONGER, 2, 33, 2},
    {LONG, 3, 100, 1},    {TEXTS_3, 1, 384, 1}, {ONE_TEXT, 2, 1001, 2}, {NOBODY, 2, 8, 1},
};
static const row_shape small_norm_shapes[] = {{SMALL_TWO, 1, 4, 1}, {SMALL_SPARE, 3, 3, 1}, {SMALL_SPARE, 2, 5, 2}};

/* The first row has equal elements: only epsilon keeps it finite. (Not in small cases, whose second derivatives
 * would be too large for finite differences.) */
static void put_rows(op_case *c, int i, int is_small, const row_shape *shape) {
    float *x = put_f32(c, i, GRADIENT, DIMS(shape->s, T_DIM, shape->d));
    for (int j = 0; !is_small && c->tokens > 0 && j < shape->d; j++) x[j] = 0.75f;
}

static void put_norm_statistics(op_case *c) {
    const int from[3] = {1, 2, 2};
    const scbm_tensor *const like[3] = {&c->source[1].tensor, &c->source[3].tensor, &c->source[4].tensor};
    put_result(c, 3, SCBM_OP_LAYER_NORM, 3, from, 3, like, 1);
    put_result(c, 4, SCBM_OP_LAYER_NORM, 3, from, 3, like, 2);
}

static void rms_case(op_case *c, int is_small, const row_shape *shape) {
    const int from[2] = {1, 2};
    if (c->op == SCBM_OP_RMS_NORM) {
        put_rows(c, 0, is_small, shape);
        put_f32(c, 1, WEIGHT | GRADIENT, DIMS(shape->d));
        return;
    }
    put_f32(c, 0, INPUT, DIMS(shape->s, T_DIM, shape->d));
    put_f32(c, 1, INPUT, DIMS(shape->s, T_DIM, shape->d));
    put_f32(c, 2, WEIGHT, DIMS(shape->d));
    put_f32(c, 3, INPUT, DIMS(shape->s, T_DIM, 1));
    const scbm_tensor *const like[2] = {&c->source[1].tensor, &c->source[3].tensor};
    put_result(c, 3, SCBM_OP_RMS_NORM, 2, from, 2, like, 1);
}

static void cases_norm(maker *m) {
    const row_shape *list = m->small ? small_norm_shapes : norm_shapes;
    for (int i = 0; i < (m->small ? COUNT_OF(small_norm_shapes) : COUNT_OF(norm_shapes)); i++) {
        const row_shape *shape = &list[i];
        op_case c = start(m, m->small ? &small_batches[shape->batch] : &batches[shape->batch]);
        c.scalar[0] = m->small ? 1e-2f : i % 2 ? 1e-12f : 1e-5f;
        if (!m->small && i % 2 && shape->d > 1) c.scalar[0] = 1e-6f;
        if (m->op == SCBM_OP_RMS_NORM || m->op == SCBM_OP_RMS_NORM_BACK) {
            rms_case(&c, m->small, shape);
        } else if (m->op == SCBM_OP_LAYER_NORM_BACK) {
            put_f32(&c, 0, INPUT, DIMS(shape->s, T_DIM, shape->d));
            put_f32(&c, 1, INPUT, DIMS(shape->s, T_DIM, shape->d));
            put_f32(&c, 2, WEIGHT, DIMS(shape->d));
            put_f32(&c, 3, INPUT, DIMS(shape->s, T_DIM, 1));
            put_f32(&c, 4, INPUT, DIMS(shape->s, T_DIM, 1));
            put_norm_statistics(&c);
        } else {
            int with_residual = m->op == SCBM_OP_ADD_LAYER_NORM;
            put_rows(&c, 0, m->small, shape);
            if (with_residual) put_f32(&c, 1, GRADIENT, DIMS(shape->residual_s, T_DIM, shape->d));
            put_f32(&c, 1 + with_residual, WEIGHT | GRADIENT, DIMS(shape->d));
            put_f32(&c, 2 + with_residual, WEIGHT | GRADIENT, DIMS(shape->d));
        }
        emit(m, &c);
    }
}

/* Zeros of both signs, tiny, saturating and huge arguments stand first. */
static void cases_activate(maker *m) {
    static const float hard[] = {0.0f,  -0.0f, 1e-30f, -1e-30f, 1e-6f,  -1e-6f, 0.499f,  5.5f, -5.5f, 8.9f,
                                 -8.9f, 20.0f, -20.0f, 88.0f,   -88.0f, 120.0f, -120.0f, 1e4f, -1e4f};
    int n, is_back = m->op == SCBM_OP_ACTIVATE_BACK;
    const shape_pair *list = single_shapes(m, &n);
    for (int act = SCBM_GELU_ERF; act <= SCBM_SIGMOID; act++)
        for (int i = 0; i < n; i++) {
            op_case c = start(m, m->small ? &small_batches[list[i].batch] : &batches[list[i].batch]);
            c.integer[0] = act;
            if (is_back) put_f32(&c, 0, INPUT, list[i].n_a, list[i].a);
            float *x = put_f32(&c, is_back, GRADIENT, list[i].n_a, list[i].a);
            for (int64_t j = 0; j < n_elements(&c, is_back); j++) {
                if (!m->small) x[j] *= 3.0f;
                if (!m->small && j < COUNT_OF(hard)) x[j] = hard[j];
            }
            emit(m, &c);
        }
}

static const shape_pair softmax_shapes[] = {
    {ONE_TOKEN, 1, {1}, 0, {0}},           {ONE_TOKEN, 1, {100}, 0, {0}},       {TEXTS_3, 2, {N_DIM, 5}, 0, {0}},
    {SPARE, 4, {2, 3, T_DIM, 11}, 0, {0}}, {LONGER, 3, {2, T_DIM, 33}, 0, {0}}, {NOBODY, 3, {2, T_DIM, 4}, 0, {0}},
    {ONE_TEXT, 2, {3, 1000}, 0, {0}},
};

/* In large forward cases one column is −∞ in every second row, and the last row is nothing else. */
static void cases_softmax(maker *m) {
    int n = COUNT_OF(softmax_shapes);
    const shape_pair *list = m->small ? single_shapes(m, &n) : softmax_shapes;
    for (int i = 0; i < n; i++) {
        op_case c = start(m, m->small ? &small_batches[list[i].batch] : &batches[list[i].batch]);
        int64_t d = list[i].a[list[i].n_a - 1];
        if (m->op == SCBM_OP_SOFTMAX_BACK) put_f32(&c, 0, INPUT, list[i].n_a, list[i].a);
        int at = m->op == SCBM_OP_SOFTMAX_BACK;
        float *x = put_f32(&c, at, GRADIENT, list[i].n_a, list[i].a);
        int64_t rows = n_elements(&c, at) / d;
        for (int64_t r = 0; !m->small && r < rows; r++)
            for (int64_t j = 0; j < d; j++) {
                x[r * d + j] *= r % 3 == 2 ? 40.0f : 1.0f;
                if (d > 1 && (r == rows - 1 || (r % 2 == 1 && j == d / 2))) x[r * d + j] = -INFINITY;
            }
        if (at) {
            const int from[1] = {1};
            const scbm_tensor *const like[1] = {&c.source[1].tensor};
            put_result(&c, 1, SCBM_OP_SOFTMAX, 1, from, 1, like, 0);
        }
        emit(m, &c);
    }
}

static void cases_dropout(maker *m) {
    static const float p[] = {0.5f, 0.1f, 0.9f, 0.0f};
    int n;
    const shape_pair *list = single_shapes(m, &n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < COUNT_OF(p); j++) {
            op_case c = start(m, m->small ? &small_batches[list[i].batch] : &batches[list[i].batch]);
            c.scalar[0] = p[j];
            c.integer[0] = j == 1 ? 60000 : j + 1; /* places have 16 bits */
            c.depends_on_batch = p[j] > 0.0f;
            put_f32(&c, 0, GRADIENT, list[i].n_a, list[i].a);
            emit(m, &c);
        }
    for (int i = 0; i < (m->small ? 1 : 4); i++) { /* of attention's parts */
        static const int batch[] = {TEXTS_3, LONG, SPARE, NOBODY};
        op_case c = start(m, m->small ? &small_batches[SMALL_TWO] : &batches[batch[i]]);
        c.scalar[0] = p[i];
        c.integer[0] = 7;
        c.integer[1] = 1;
        c.depends_on_batch = 1;
        put_f32(&c, 0, GRADIENT, DIMS(2, 3, T_DIM, m->small ? 2 : 19));
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * Attention
 * ---------------------------------------------------------------------------------------- */

typedef struct attention_shape {
    int batch, s, heads, size, causal;
    float p;
} attention_shape;

static const attention_shape attentions[] = {
    {ONE_TOKEN, 1, 1, 1, 0, 0.0f}, {ONE_TEXT, 1, 2, 5, 0, 0.0f},   {ONE_TEXT, 2, 3, 8, 1, 0.0f},
    {TEXTS_3, 1, 12, 32, 0, 0.0f}, {TEXTS_3, 3, 2, 33, 1, 0.0f},   {SPARE, 3, 2, 16, 0, 0.0f},
    {SPARE, 2, 1, 64, 1, 0.3f},    {EMPTY_ENDS, 1, 4, 7, 0, 0.5f}, {LONG, 2, 2, 32, 0, 0.0f},
    {LONG, 1, 1, 20, 1, 0.1f},     {LONGER, 1, 2, 31, 1, 0.0f},    {LONGER, 2, 1, 12, 0, 0.1f},
    {NOBODY, 2, 2, 4, 0, 0.1f},    {MANY, 2, 2, 8, 0, 0.0f},      {TEXTS_3, 1, 1, 100, 0, 0.1f},
    {TEXTS_3, 2, 2, 136, 1, 0.0f},
};
static const attention_shape small_attentions[] = {
    {SMALL_ONE, 1, 1, 1, 0, 0.0f},   {SMALL_TWO, 2, 2, 2, 0, 0.0f},    {SMALL_TWO, 1, 1, 3, 1, 0.0f},
    {SMALL_SPARE, 3, 2, 2, 0, 0.4f}, {SMALL_SPARE, 1, 2, 3, 1, 0.25f},
};

static void attention_forward(op_case *c, const attention_shape *a, int first, int flags) {
    int64_t row = (int64_t)a->heads * a->size;
    for (int i = 0; i < 3; i++) put_f32(c, first + i, flags, DIMS(a->s, T_DIM, row));
    c->scalar[0] = 1.0f / sqrtf((float)a->size);
    c->scalar[1] = a->p;
    c->integer[0] = a->heads;
    c->integer[1] = a->causal;
    c->integer[2] = a->p > 0.0f ? 3 : 0;
    c->depends_on_batch = a->p > 0.0f;
}

static int64_t longest_text(const op_case *c) {
    int64_t longest = 1;
    for (int64_t n = 0; n < c->texts; n++) longest = c->lengths[n] > longest ? c->lengths[n] : longest;
    return longest;
}

/* Biases of all distances that there are, and of some that there are not. */
static void put_bias(op_case *c, int i, int flags, const attention_shape *a, int64_t more) {
    put_f32(c, i, flags, DIMS(1, 2 * (longest_text(c) + more) - 1, a->heads));
}

/* sources: dy, y, q, k, v, log-sum-exp, offsets, and a bias where there is one */
static void attention_backward(op_case *c, const attention_shape *a, int with_bias) {
    const int from[5] = {2, 3, 4, 6, 7};
    attention_forward(c, a, 2, INPUT);
    if (with_bias) put_bias(c, 7, INPUT, a, 2);
    put_f32(c, 0, INPUT, DIMS(a->s, T_DIM, a->heads * a->size));
    put_f32(c, 1, INPUT, DIMS(a->s, T_DIM, a->heads * a->size));
    put_f32(c, 5, INPUT, DIMS(a->s, a->heads, T_DIM));
    put_offsets(c, 6);
    const scbm_tensor *const like[2] = {&c->source[1].tensor, &c->source[5].tensor};
    put_result(c, 1, SCBM_OP_ATTENTION, 4 + with_bias, from, 2, like, 0);
    put_result(c, 5, SCBM_OP_ATTENTION, 4 + with_bias, from, 2, like, 1);
}

/* scores, mix and mix_transposed; a context as long as the longest text, or longer. What mix reads past a text's end
 * must not count. */
static void attention_parts(op_case *c, const attention_shape *a, int is_small, int index) {
    int64_t row = (int64_t)a->heads * a->size, context = longest_text(c);
    if (index % 2) context += 3;
    c->integer[0] = a->heads;
    c->integer[1] = a->causal;
    c->integer[2] = context;
    if (c->op == SCBM_OP_ATTENTION_SCORES) {
        put_f32(c, 0, GRADIENT, DIMS(a->s, T_DIM, row));
        c->scalar[0] = is_small || index % 3 == 0 ? -2.5f : -INFINITY;
    } else {
        put_f32(c, 0, GRADIENT, DIMS(a->s, a->heads, T_DIM, context));
    }
    put_f32(c, 1, GRADIENT, DIMS(a->s, T_DIM, row));
    put_offsets(c, 2);
}

static void bias_parts(op_case *c, const attention_shape *a, int index) {
    int64_t context = longest_text(c) + index % 2 * 3;
    int is_back = c->op == SCBM_OP_ATTENTION_BIAS_BACK;
    if (is_back) put_f32(c, 0, INPUT, DIMS(1, a->heads, T_DIM, context));
    else c->integer[0] = context;
    put_bias(c, is_back ? 2 : 0, is_back ? WEIGHT : WEIGHT | GRADIENT, a, index % 3);
    put_offsets(c, 1);
}

/* Attention, its backward rule and its parts; the fused ops without a bias, then with one. */
static void cases_attention(maker *m) {
    const attention_shape *list = m->small ? small_attentions : attentions;
    int n = m->small ? COUNT_OF(small_attentions) : COUNT_OF(attentions);
    int is_fused = m->op == SCBM_OP_ATTENTION || m->op == SCBM_OP_ATTENTION_BACK;
    for (int j = 0; j < (is_fused ? 2 * n : n); j++) {
        int i = j % n, with_bias = j >= n;
        op_case c = start(m, m->small ? &small_batches[list[i].batch] : &batches[list[i].batch]);
        if (m->op == SCBM_OP_ATTENTION) {
            attention_forward(&c, &list[i], 0, GRADIENT);
            if (with_bias) put_bias(&c, 4, WEIGHT | GRADIENT, &list[i], i % 3);
            put_offsets(&c, 3);
        } else if (m->op == SCBM_OP_ATTENTION_BACK) {
            attention_backward(&c, &list[i], with_bias);
        } else if (m->op == SCBM_OP_ATTENTION_BIAS || m->op == SCBM_OP_ATTENTION_BIAS_BACK) {
            bias_parts(&c, &list[i], i);
        } else {
            attention_parts(&c, &list[i], m->small, i);
        }
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * Texts
 * ---------------------------------------------------------------------------------------- */

static void cases_segment(maker *m) {
    static const int sizes[] = {1, 5, 33, 384};
    int is_back = m->op == SCBM_OP_SEGMENT_MEAN_BACK || m->op == SCBM_OP_SEGMENT_FIRST_BACK ||
                  m->op == SCBM_OP_SEGMENT_LAST_BACK;
    for (int b = 0; b < (m->small ? N_SMALL : N_BATCHES); b++)
        for (int s = 1; s <= 3; s += 2) {
            int64_t d = m->small ? 2 + b : sizes[(b + s) % COUNT_OF(sizes)];
            op_case c = start(m, m->small ? &small_batches[b] : &batches[b]);
            put_f32(&c, 0, GRADIENT, DIMS(s, is_back ? N_DIM : T_DIM, d));
            put_offsets(&c, 1);
            if (is_back) put_f32(&c, 2, INPUT, DIMS(s, T_DIM, d));
            emit(m, &c);
        }
}

/* The permutation moves every text by one; the last case leaves each where it is. */
static void cases_mix(maker *m) {
    static const float betas[] = {0.25f, 1.0f, 0.0f, 0.9f};
    for (int b = 0; b < (m->small ? N_SMALL : N_BATCHES); b++)
        for (int s = 1; s <= 3; s += 2) {
            op_case c = start(m, m->small ? &small_batches[b] : &batches[b]);
            put_f32(&c, 0, GRADIENT, DIMS(s, N_DIM, m->small ? 2 : 5 + 60 * (b % 2)));
            int32_t *permutation = put_i32(&c, 1, INPUT, DIMS(N_DIM), 1);
            for (int64_t n = 0; n < c.texts; n++) permutation[n] = (int32_t)((n + (s == 1)) % c.texts);
            put_f32(&c, 2, INPUT, DIMS(1))[0] = betas[b % COUNT_OF(betas)];
            c.depends_on_batch = 1;
            emit(m, &c);
        }
}

/* Class targets with some ignored, or probabilities with some groups of zeros. */
typedef struct loss_shape {
    int batch, k, groups[8], is_soft, has_weights, ignored;
} loss_shape;

enum { COUNTED, SOME_IGNORED, ALL_IGNORED };
static const loss_shape losses[] = {
    {ONE_TOKEN, 1, {0, 1}, 0, 0, COUNTED},
    {TEXTS_3, 1, {0, 5}, 0, 0, COUNTED},
    {SPARE, 4, {0, 3, 6, 9, 12}, 0, 0, SOME_IGNORED},
    {SPARE, 3, {0, 2, 3, 40}, 0, 1, SOME_IGNORED},
    {EMPTY_ENDS, 2, {0, 2, 7}, 0, 1, ALL_IGNORED},
    {TEXTS_3, 1, {0, 5}, 1, 0, COUNTED},
    {SPARE, 4, {0, 3, 6, 9, 12}, 1, 0, SOME_IGNORED},
    {SPARE, 3, {0, 2, 3, 40}, 1, 1, SOME_IGNORED},
    {EMPTY_ENDS, 2, {0, 2, 7}, 1, 1, ALL_IGNORED},
    {NOBODY, 2, {0, 2, 7}, 0, 0, COUNTED},
    {LONG, 1, {0, 130}, 0, 1, COUNTED},
    {MANY, 2, {0, 5, 9}, 0, 1, SOME_IGNORED},
    {MANY, 2, {0, 5, 9}, 1, 0, SOME_IGNORED},
};
static const loss_shape small_losses[] = {
    {SMALL_ONE, 1, {0, 3}, 0, 0, COUNTED},           {SMALL_SPARE, 2, {0, 2, 5}, 0, 1, SOME_IGNORED},
    {SMALL_SPARE, 2, {0, 2, 5}, 1, 1, SOME_IGNORED}, {SMALL_TWO, 2, {0, 3, 4}, 1, 0, COUNTED},
    {SMALL_TWO, 2, {0, 3, 4}, 0, 0, ALL_IGNORED},
};

static int is_ignored(const loss_shape *l, int64_t n, int k) {
    return l->ignored == ALL_IGNORED || (l->ignored == SOME_IGNORED && (n + k) % 2 == 1);
}

static void put_hard_targets(op_case *c, int i, const loss_shape *l) {
    int32_t *targets = put_i32(c, i, INPUT, DIMS(N_DIM, l->k), 1);
    for (int64_t n = 0; n < c->texts; n++)
        for (int k = 0; k < l->k; k++)
            targets[n * l->k + k] = is_ignored(l, n, k) ? (k % 2 ? -100 : -1)
                                                        : below(c, l->groups[k + 1] - l->groups[k]);
}

static void put_soft_targets(op_case *c, int i, const loss_shape *l) {
    int classes = l->groups[l->k];
    float *targets = put(c, i, INPUT, SCBM_F32, DIMS(N_DIM, classes));
    for (int64_t n = 0; n < c->texts; n++)
        for (int k = 0; k < l->k; k++) {
            double rest = is_ignored(l, n, k) ? 0.0 : 1.0;
            for (int j = l->groups[k]; j < l->groups[k + 1]; j++) {
                double share = j == l->groups[k + 1] - 1 ? rest : rest * uniform(c, 0.0, 1.0);
                targets[n * classes + j] = (float)share;
                rest -= share;
            }
        }
}

static void cases_cross_entropy(maker *m) {
    const loss_shape *list = m->small ? small_losses : losses;
    int back = m->op == SCBM_OP_CROSS_ENTROPY_BACK ? 2 : 0; /* targets and what follows stand two places later */
    for (int i = 0; i < (m->small ? COUNT_OF(small_losses) : COUNT_OF(losses)); i++) {
        const loss_shape *l = &list[i];
        int64_t classes = l->groups[l->k];
        op_case c = start(m, m->small ? &small_batches[l->batch] : &batches[l->batch]);
        put_f32(&c, back ? 1 : 0, GRADIENT, DIMS(N_DIM, classes));
        if (l->is_soft) put_soft_targets(&c, 1 + back, l);
        else put_hard_targets(&c, 1 + back, l);
        put_groups(&c, 2 + back, l->groups, l->k);
        float *weights = l->has_weights ? put_f32(&c, 3 + back, WEIGHT, DIMS(classes)) : NULL;
        for (int64_t j = 0; weights && j < classes; j++) weights[j] = (float)uniform(&c, 0.2, 3.0);
        if (back) {
            const int from[4] = {1, 3, 4, 5};
            put_f32(&c, 0, INPUT, DIMS(1))[0] = 0.6f;
            put_f32(&c, 2, INPUT, DIMS(1));
            const scbm_tensor *const like[3] = {&c.source[0].tensor, &c.source[1].tensor, &c.source[2].tensor};
            put_result(&c, 2, SCBM_OP_CROSS_ENTROPY, 4, from, 3, like, 2);
            put_result(&c, 1, SCBM_OP_CROSS_ENTROPY, 4, from, 3, like, 1);
        }
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * Ops that update
 * ---------------------------------------------------------------------------------------- */

/* Without texts. */
static const batch no_batch = {0, 0, 0, LENGTHS(0)};

typedef struct sum_shape {
    int n_dims;
    int64_t shape[3];
} sum_shape;

static const sum_shape sum_shapes[] = {{1, {1}},    {1, {7}},     {2, {5, 13}}, {3, {3, 17, 19}}, {1, {8192}},
                                       {1, {8193}}, {1, {30001}}, {2, {64, 0}}, {2, {301, 128}},  {3, {2, 96, 65}}};

static int n_sum_shapes(const maker *m) {
    return m->small ? 3 : COUNT_OF(sum_shapes);
}

static void cases_accumulate(maker *m) {
    for (int i = 0; i < 2 * n_sum_shapes(m); i++) {
        const sum_shape *s = &sum_shapes[i / 2];
        op_case c = start(m, &no_batch);
        put_f32(&c, 0, WEIGHT, s->n_dims, s->shape);
        put_f32(&c, 1, i % 3 ? INPUT : WEIGHT, s->n_dims, s->shape);
        put_f32(&c, 2, INPUT, DIMS(1))[0] = (float)(i % 2);
        emit(m, &c);
    }
}

static void cases_square_sum(maker *m) {
    for (int i = 0; i < 2 * n_sum_shapes(m); i++) {
        const sum_shape *s = &sum_shapes[i / 2];
        op_case c = start(m, &no_batch);
        float *a = put_f32(&c, 0, i % 2 ? INPUT : WEIGHT, s->n_dims, s->shape);
        put_f32(&c, 1, WEIGHT, DIMS(5, 2));
        c.integer[0] = i % 5;
        if (i == 5) a[3] = 3e19f; /* the sum is infinite */
        if (i == 7) a[1] = 1e12f;
        emit(m, &c);
    }
}

/* Norms below and above what they are clipped to, without clipping, not finite, and stopped before. */
static void cases_clip(maker *m) {
    for (int i = 0; i < 24; i++) {
        op_case c = start(m, &no_batch);
        int64_t n = i % 3 ? 1 + i : 300;
        c.scalar[0] = i % 4 == 0 ? 0.0f : i % 4 == 1 ? 1000.0f : 0.5f;
        float *norms = put_f32(&c, 0, i % 2 ? INPUT : WEIGHT, DIMS(n, 2));
        for (int64_t j = 0; j < n; j++) {
            norms[2 * j] = fabsf(norms[2 * j]);
            norms[2 * j + 1] *= 1e-8f;
        }
        if (i == 9) norms[0] = INFINITY;
        if (i == 14) norms[2 * n - 2] = NAN;
        put_f32(&c, 1, WEIGHT, DIMS(1))[0] = i % 7 == 6 ? 1.0f : 0.0f;
        emit(m, &c);
    }
}

static void cases_adamw(maker *m) {
    for (int i = 0; i < 2 * n_sum_shapes(m); i++) {
        static const float common[6] = {0.7f, 0.271f, 0.003f, 0.9f, 0.999f, 1e-6f};
        const sum_shape *s = &sum_shapes[i / 2];
        op_case c = start(m, &no_batch);
        for (int j = 0; j < 4; j++) {
            float *values = put_f32(&c, j, j < 3 ? WEIGHT : i % 2 ? INPUT : WEIGHT, s->n_dims, s->shape);
            for (int64_t k = 0; k < n_elements(&c, j) && j == 2; k++) values[k] = 0.001f + fabsf(values[k]);
        }
        float *numbers = put_f32(&c, 4, INPUT, DIMS(6 + 2 * 3));
        memcpy(numbers, common, sizeof common);
        for (int j = 6; j < 12; j++) numbers[j] = 0.01f * fabsf(numbers[j]);
        float *clipping = put_f32(&c, 5, i % 3 ? INPUT : WEIGHT, DIMS(3));
        clipping[1] = i % 4 ? 1.0f : 0.3f;
        clipping[2] = i % 5 == 4 ? 1.0f : 0.0f;
        c.integer[0] = i % 3;
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * Pruning and explanations
 * ---------------------------------------------------------------------------------------- */

typedef struct matrix_shape {
    int64_t s, out, in;
    int block;
} matrix_shape;

/* Blocks that end with a matrix and that do not, a whole matrix in one, and some too large for a GPU's shared memory; rows that are
 * and are not whole words. The last has sixteen times the places that a GPU's block ranks at once. */
static const matrix_shape matrices[] = {{1, 1, 1, 1},     {2, 3, 5, 4},     {3, 4, 8, 3},     {1, 7, 64, 20},
                                        {4, 33, 65, 20},  {2, 128, 130, 7}, {3, 40, 96, 64},  {2, 96, 257, 20},
                                        {2, 13, 25, 90},  {1, 160, 200, 20}};

/* Without the last, which is for a few cases. */
static int n_matrices(const maker *m) {
    return m->small ? 3 : COUNT_OF(matrices) - 1;
}

static double *put_f64(op_case *c, int i, int flags, int n_dims, const int64_t *dims, double low, double high) {
    double *values = put(c, i, flags, SCBM_F64, n_dims, dims);
    for (int64_t j = 0; j < n_elements(c, i); j++) values[j] = uniform(c, low, high);
    return values;
}

static void cases_fisher_add(maker *m) {
    for (int i = 0; i < n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i];
        int64_t blocks = (x->out * x->in + x->block - 1) / x->block;
        op_case c = start(m, &no_batch);
        put_f64(&c, 0, WEIGHT, DIMS(x->s, blocks, x->block * (x->block + 1) / 2), -1.0, 4.0);
        float *dw = put_f32(&c, 1, i % 2 ? INPUT : WEIGHT, DIMS(x->s, x->out, x->in));
        for (int64_t j = 0; j < n_elements(&c, 1); j += 3) dw[j] = 0.0f; /* as a mask leaves it */
        c.integer[0] = x->block;
        emit(m, &c);
    }
}

static void cases_row_saliency(maker *m) {
    static const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16};
    for (int i = 0; i < 3 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 3];
        op_case c = start(m, &no_batch);
        put_f32(&c, 0, i % 2 ? INPUT : WEIGHT, DIMS(x->s, x->out, x->in));
        put_weights(&c, 1, WEIGHT, types[i % 3], DIMS(x->out, x->in));
        emit(m, &c);
    }
    for (int i = 0; i < 2 && !m->small; i++) {
        op_case c = start(m, &no_batch);
        put_f32(&c, 0, INPUT, DIMS(2, 9, 96));
        put_weights(&c, 1, WEIGHT, i ? SCBM_Q4_0 : SCBM_Q8_0, DIMS(9, 96));
        emit(m, &c);
    }
}

static void cases_popup_back(maker *m) {
    for (int i = 0; i < 2 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 2];
        op_case c = start(m, &no_batch);
        put_f32(&c, 0, i % 2 ? INPUT : WEIGHT, DIMS(x->s, x->out, x->in));
        put_f32(&c, 1, WEIGHT, DIMS(x->out, x->in));
        float *score = put_f32(&c, 2, WEIGHT, DIMS(x->s, x->out, x->in));
        score[0] = i % 3 ? 0.0f : -0.0f;
        put_masks(&c, 3, i % 4 == 3 ? ZEROS : i % 4 == 2 ? ONES : RANDOM, x->s, x->out, x->in);
        emit(m, &c);
    }
}

/* Sums of five gradients; damping by share, as it is, and of a stream without a gradient. */
static void cases_fisher_scores(maker *m) {
    for (int i = 0; i < 2 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 2];
        int64_t n = x->out * x->in, blocks = (n + x->block - 1) / x->block, triangle = x->block * (x->block + 1) / 2;
        op_case c = start(m, &no_batch);
        double *sums = put(&c, 0, WEIGHT, SCBM_F64, DIMS(x->s, blocks, triangle));
        double *g = checked(malloc((size_t)n * sizeof *g));
        for (int64_t s = i % 5 == 4; s < x->s; s++)
            for (int k = 0; k < 5; k++) {
                for (int64_t a = 0; a < n; a++) g[a] = uniform(&c, -1.0, 1.0);
                for (int64_t a = 0; a < n; a++)
                    for (int64_t b = a / x->block * x->block; b <= a; b++) {
                        int64_t row = a % x->block, at = row * (row + 1) / 2 + b % x->block;
                        sums[(s * blocks + a / x->block) * triangle + at] += g[a] * g[b];
                    }
            }
        free(g);
        put_f32(&c, 1, WEIGHT, DIMS(x->out, x->in));
        put_masks(&c, 2, i % 3 ? RANDOM : ONES, x->s, x->out, x->in);
        double *numbers = put_f64(&c, 3, i % 2 ? INPUT : WEIGHT, DIMS(3), 0.0, 0.0);
        numbers[0] = 5.0;
        numbers[1] = 0.1;
        numbers[2] = i % 3 == 2 ? 0.01 : 0.0;
        c.integer[0] = x->block;
        emit(m, &c);
    }
}

/* Scores of few values, so that many are equal. */
static void put_scores(op_case *c, int i, const matrix_shape *x, int kind) {
    if (kind == 0) {
        double *score = put_f64(c, i, WEIGHT, DIMS(x->s, x->out, x->in), 0.0, 1.0);
        for (int64_t j = 0; j < n_elements(c, i); j++) score[j] = j % 17 == 3 ? (double)NAN : (double)below(c, 9) - 4.0;
        return;
    }
    float *score = kind == 1 ? put_f32(c, i, WEIGHT, DIMS(x->s, x->out, x->in))
                             : put_f32(c, i, WEIGHT, DIMS(x->out, x->in));
    for (int64_t j = 0; j < n_elements(c, i); j += 2) score[j] = (float)(below(c, 5) - 2);
}

static void cases_keep_largest(maker *m) {
    for (int i = 0; i < 6 * n_matrices(m) + (m->small ? 0 : 2); i++) {
        const matrix_shape *x = &matrices[i / 6];
        int by_rows = i % 6 == 5 || i % 6 == 4, units = (int)(by_rows ? x->out : x->out * x->in);
        op_case c = start(m, &no_batch);
        put_scores(&c, 0, x, by_rows ? 1 : i % 3);
        put_masks(&c, 1, i % 4 == 3 ? ONES : RANDOM, x->s, x->out, x->in);
        put_i32(&c, 2, INPUT, DIMS(1), units + 1);
        c.integer[0] = (by_rows ? SCBM_KEEP_ROWS : 0) | (i % 2 ? SCBM_KEEP_NESTED : 0);
        emit(m, &c);
    }
}

static void cases_agree(maker *m) {
    for (int i = 0; i < 9 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 9];
        op_case c = start(m, &no_batch);
        put_scores(&c, 0, x, i % 3);
        put_masks(&c, 1, i % 4 == 3 ? ONES : RANDOM, x->s, x->out, x->in);
        put_masks(&c, 2, RANDOM, x->s, x->out, x->in);
        put_i32(&c, 3, INPUT, DIMS(1), (int)(x->out * x->in) + 1);
        emit(m, &c);
    }
}

/* Both rules; q of none, of a few, and of more than there are; weights as they are stored. */
static void cases_mask_moves(maker *m) {
    static const scbm_type types[] = {SCBM_F32, SCBM_F32, SCBM_F16, SCBM_BF16};
    for (int i = 0; i < 8 * n_matrices(m) + (m->small ? 0 : 2); i++) {
        const matrix_shape *x = &matrices[i / 8];
        int n = (int)(x->out * x->in), most = 1 + (i % 3 ? n / 2 : n / 20);
        op_case c = start(m, &no_batch);
        float *dw = put_f32(&c, 0, i % 2 ? INPUT : WEIGHT, DIMS(1, x->out, x->in));
        for (int64_t j = 0; j < n; j += 3) dw[j] = (float)(below(&c, 5) - 2);
        put_weights(&c, 1, WEIGHT, types[i % 4], DIMS(x->out, x->in));
        put_masks(&c, 2, i % 5 == 4 ? SPARSE : RANDOM, 1, x->out, x->in);
        int32_t *wanted = put_i32(&c, 3, INPUT, DIMS(3, 2), 1);
        c.integer[0] = i % 3;
        wanted[2 * (i % 3)] = i % 7 == 6 ? 0 : i % 5 == 4 ? n : 1 + below(&c, most);
        wanted[2 * (i % 3) + 1] = i / 2 % 2;
        put_i32(&c, 4, WEIGHT, DIMS(2, most), 9);
        put_i32(&c, 5, WEIGHT, DIMS(3), 9);
        emit(m, &c);
    }
}

static void cases_flip_bits(maker *m) {
    for (int i = 0; i < 4 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 4];
        int bytes = (int)(x->out * scbm_mask_row_bytes(x->in)), q = 4 * bytes;
        op_case c = start(m, &no_batch);
        put_masks(&c, 0, RANDOM, 1, x->out, x->in);
        int32_t *moves = put_i32(&c, 1, WEIGHT, DIMS(2, q), 1);
        for (int j = 0; j < 2 * q; j++) moves[j] = j; /* every bit once */
        put_i32(&c, 2, WEIGHT, DIMS(2), q + 1);
        int32_t *wanted = put_i32(&c, 3, INPUT, DIMS(2, 2), q + 2);
        wanted[1] = wanted[3] = i / 2 % 2;
        c.integer[0] = i % 2;
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * LSTM
 * ---------------------------------------------------------------------------------------- */

typedef struct lstm_shape {
    int batch, s, x_s, size;
    scbm_type type;
    mask_kind masks;
} lstm_shape;

static const lstm_shape lstms[] = {
    {ONE_TOKEN, 1, 1, 1, SCBM_F32, UNMASKED},  {TEXTS_3, 1, 1, 5, SCBM_F32, UNMASKED},
    {SPARE, 3, 1, 33, SCBM_F32, RANDOM},       {EMPTY_ENDS, 2, 2, 17, SCBM_F32, RANDOM},
    {LONG, 2, 2, 8, SCBM_F32, UNMASKED},       {LONGER, 2, 1, 40, SCBM_F32, SPARSE},
    {MANY, 1, 1, 9, SCBM_F32, UNMASKED},       {NOBODY, 2, 1, 6, SCBM_F32, RANDOM},
    {TEXTS_3, 2, 1, 96, SCBM_F32, RANDOM},     {SPARE, 1, 1, 70, SCBM_F32, ONES},
    {TEXTS_3, 2, 2, 12, SCBM_F32, ZEROS},      {ONE_TEXT, 2, 1, 20, SCBM_BF16, RANDOM},
    {ONE_TEXT, 1, 1, 11, SCBM_F16, UNMASKED},  {ONE_TEXT, 2, 1, 64, SCBM_Q8_0, RANDOM},
    {ONE_TEXT, 1, 1, 32, SCBM_Q4_0, UNMASKED},
};
static const lstm_shape small_lstms[] = {
    {SMALL_ONE, 1, 1, 1, SCBM_F32, UNMASKED}, {SMALL_TWO, 1, 1, 3, SCBM_F32, UNMASKED},
    {SMALL_SPARE, 2, 1, 2, SCBM_F32, RANDOM}, {SMALL_SPARE, 2, 2, 3, SCBM_F32, RANDOM},
    {SMALL_TWO, 2, 2, 2, SCBM_F32, UNMASKED},
};

/* Weights of a size at which a long text does not blow rounding up. */
static void put_recurrent(op_case *c, int i, int flags, const lstm_shape *l) {
    put_weights(c, i, flags, l->type, DIMS(4 * l->size, l->size));
    float *w = c->source[i].tensor.data;
    for (int64_t j = 0; l->type == SCBM_F32 && j < n_elements(c, i); j++) w[j] /= sqrtf((float)l->size);
}

/* sources: x, w, offsets, masks */
static void lstm_forward(op_case *c, const lstm_shape *l) {
    put_f32(c, 0, GRADIENT, DIMS(l->x_s, T_DIM, 4 * l->size));
    put_recurrent(c, 1, WEIGHT | GRADIENT, l);
    put_offsets(c, 2);
    put_masks(c, 3, l->masks, l->s, 4 * l->size, l->size);
}

/* sources: dy, y, gates, cells, w, offsets, masks; y, gates and cells are what forward gives. Until it has, x lies where the
 * gates will. */
static void lstm_backward(op_case *c, const lstm_shape *l) {
    const int from[4] = {2, 4, 5, 6};
    for (int i = 0; i < 4; i++) put_f32(c, i, INPUT, DIMS(l->s, T_DIM, (i == 2 ? 4 : 1) * l->size));
    put_recurrent(c, 4, WEIGHT, l);
    put_offsets(c, 5);
    put_masks(c, 6, l->masks, l->s, 4 * l->size, l->size);
    const scbm_tensor *const like[3] = {&c->source[1].tensor, &c->source[2].tensor, &c->source[3].tensor};
    put_result(c, 1, SCBM_OP_LSTM, 4, from, 3, like, 0);
    put_result(c, 3, SCBM_OP_LSTM, 4, from, 3, like, 2);
    put_result(c, 2, SCBM_OP_LSTM, 4, from, 3, like, 1);
}

static void cases_lstm(maker *m) {
    const lstm_shape *list = m->small ? small_lstms : lstms;
    for (int i = 0; i < 2 * (m->small ? COUNT_OF(small_lstms) : COUNT_OF(lstms)); i++) {
        const lstm_shape *l = &list[i / 2];
        op_case c = start(m, m->small ? &small_batches[l->batch] : &batches[l->batch]);
        c.integer[0] = i % 2;
        if (m->op == SCBM_OP_LSTM) lstm_forward(&c, l);
        else lstm_backward(&c, l);
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * The parts of linear ops
 * ---------------------------------------------------------------------------------------- */

/* Streams of a and b (0: a matrix), and what is not the batch's: of a in columns, of b in rows or columns. */
typedef struct product_shape {
    int batch;
    int64_t a, b, m, n;
    scbm_type type;
} product_shape;

static const product_shape products[] = {
    {ONE_TOKEN, 1, 1, 1, 1, SCBM_F32},  {TEXTS_3, 3, 3, 5, 7, SCBM_F32},   {SPARE, 1, 4, 33, 40, SCBM_F32},
    {LONG, 2, 1, 64, 17, SCBM_F32},     {LONGER, 3, 3, 100, 65, SCBM_F32}, {TEXTS_3, 0, 0, 9, 20, SCBM_F32},
    {SPARE, 4, 0, 32, 33, SCBM_F16},    {ONE_TEXT, 0, 0, 64, 9, SCBM_Q8_0}, {TEXTS_3, 2, 0, 96, 5, SCBM_Q4_0},
    {PANEL, 1, 0, 128, 48, SCBM_BF16},  {NOBODY, 2, 2, 8, 8, SCBM_F32},
};
static const product_shape small_products[] = {
    {SMALL_ONE, 2, 2, 2, 3, SCBM_F32}, {SMALL_TWO, 1, 3, 3, 2, SCBM_F32},
    {SMALL_SPARE, 2, 0, 2, 2, SCBM_F32}, {SMALL_TWO, 0, 0, 3, 2, SCBM_F32}, {SMALL_SPARE, 3, 1, 2, 2, SCBM_F32},
};

static void put_factor(op_case *c, int i, scbm_type type, int64_t streams, int64_t rows, int64_t columns) {
    int flags = (rows == T_DIM ? INPUT : WEIGHT) | GRADIENT;
    if (!streams) put_weights(c, i, flags, type, DIMS(rows, columns));
    else put_f32(c, i, flags, DIMS(streams, rows, columns));
}

/* m is the first factor's columns, n what the second has beside; a quantized row is the second's. */
static void cases_product(maker *m) {
    const product_shape *list = m->small ? small_products : products;
    for (int i = 0; i < 6 * (m->small ? COUNT_OF(small_products) : COUNT_OF(products)); i++) {
        const product_shape *p = &list[i / 6];
        int form = i / 2 % 3;
        if (form == SCBM_PRODUCT_TN && p->type != SCBM_F32) continue;
        op_case c = start(m, m->small ? &small_batches[p->batch] : &batches[p->batch]);
        c.integer[0] = form;
        c.integer[1] = i % 2;
        if (i % 2 && !m->small) c.precision = SCBM_PRECISION_BF16;
        c.depends_on_batch = form == SCBM_PRODUCT_TN;
        int64_t in = form == SCBM_PRODUCT_NN ? p->n : p->m;
        put_factor(&c, 0, SCBM_F32, p->a, T_DIM, in);
        if (form == SCBM_PRODUCT_NT) put_factor(&c, 1, p->type, p->b, p->n, p->m);
        if (form == SCBM_PRODUCT_NN) put_factor(&c, 1, p->type, p->b, p->n, p->m);
        if (form == SCBM_PRODUCT_TN) put_factor(&c, 1, SCBM_F32, p->b, T_DIM, p->n);
        emit(m, &c);
    }
}

static void cases_apply_masks(maker *m) {
    static const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16};
    for (int i = 0; i < 4 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 4];
        op_case c = start(m, &no_batch);
        if (i % 4 == 3) put_f32(&c, 0, INPUT | GRADIENT, DIMS(x->s, x->out, x->in));
        else put_weights(&c, 0, WEIGHT | GRADIENT, m->small ? SCBM_F32 : types[i % 4], DIMS(x->out, x->in));
        put_masks(&c, 1, i % 5 == 4 ? SPARSE : RANDOM, x->s, x->out, x->in);
        emit(m, &c);
    }
    for (int i = 0; i < 2 && !m->small; i++) {
        op_case c = start(m, &no_batch);
        put_weights(&c, 0, WEIGHT, i ? SCBM_Q4_0 : SCBM_Q8_0, DIMS(9, 96));
        put_masks(&c, 1, RANDOM, 2, 9, 96);
        emit(m, &c);
    }
}

static void cases_sum_masked(maker *m) {
    for (int i = 0; i < 2 * n_matrices(m); i++) {
        const matrix_shape *x = &matrices[i / 2];
        op_case c = start(m, &no_batch);
        put_f32(&c, 0, INPUT | GRADIENT, DIMS(x->s, x->out, x->in));
        put_masks(&c, 1, i % 2 ? SPARSE : RANDOM, x->s, x->out, x->in);
        emit(m, &c);
    }
}

/* ------------------------------------------------------------------------------------------
 * The table of ops
 * ---------------------------------------------------------------------------------------- */

int op_cases(scbm_op op, int small, case_visit visit, void *user) {
    static void (*const makers[SCBM_OP_COUNT])(maker *) = {
        [SCBM_OP_GET_ROWS] = cases_rows,
        [SCBM_OP_GET_ROWS_BACK] = cases_rows,
        [SCBM_OP_ADD] = cases_pairs,
        [SCBM_OP_MUL] = cases_pairs,
        [SCBM_OP_SCALE] = cases_scale,
        [SCBM_OP_SUM_TO] = cases_pairs,
        [SCBM_OP_BROADCAST] = cases_pairs,
        [SCBM_OP_RESHAPE] = cases_reshape,
        [SCBM_OP_COPY] = cases_copy,
        [SCBM_OP_CAST] = cases_cast,
        [SCBM_OP_CONCAT] = cases_columns,
        [SCBM_OP_SLICE] = cases_columns,
        [SCBM_OP_SLICE_BACK] = cases_columns,
        [SCBM_OP_LINEAR] = cases_linear,
        [SCBM_OP_LINEAR_BACK_X] = cases_linear,
        [SCBM_OP_LINEAR_BACK_W] = cases_linear,
        [SCBM_OP_PRODUCT] = cases_product,
        [SCBM_OP_APPLY_MASKS] = cases_apply_masks,
        [SCBM_OP_SUM_MASKED] = cases_sum_masked,
        [SCBM_OP_GROUP_LINEAR] = cases_heads,
        [SCBM_OP_GROUP_LINEAR_BACK_Z] = cases_heads,
        [SCBM_OP_GROUP_LINEAR_BACK_W] = cases_heads,
        [SCBM_OP_LAYER_NORM] = cases_norm,
        [SCBM_OP_ADD_LAYER_NORM] = cases_norm,
        [SCBM_OP_LAYER_NORM_BACK] = cases_norm,
        [SCBM_OP_RMS_NORM] = cases_norm,
        [SCBM_OP_RMS_NORM_BACK] = cases_norm,
        [SCBM_OP_ACTIVATE] = cases_activate,
        [SCBM_OP_ACTIVATE_BACK] = cases_activate,
        [SCBM_OP_SOFTMAX] = cases_softmax,
        [SCBM_OP_SOFTMAX_BACK] = cases_softmax,
        [SCBM_OP_DROPOUT] = cases_dropout,
        [SCBM_OP_ATTENTION] = cases_attention,
        [SCBM_OP_ATTENTION_BACK] = cases_attention,
        [SCBM_OP_ATTENTION_SCORES] = cases_attention,
        [SCBM_OP_ATTENTION_MIX] = cases_attention,
        [SCBM_OP_ATTENTION_MIX_TRANSPOSED] = cases_attention,
        [SCBM_OP_ATTENTION_BIAS] = cases_attention,
        [SCBM_OP_ATTENTION_BIAS_BACK] = cases_attention,
        [SCBM_OP_SEGMENT_MEAN] = cases_segment,
        [SCBM_OP_SEGMENT_MEAN_BACK] = cases_segment,
        [SCBM_OP_SEGMENT_FIRST] = cases_segment,
        [SCBM_OP_SEGMENT_FIRST_BACK] = cases_segment,
        [SCBM_OP_SEGMENT_LAST] = cases_segment,
        [SCBM_OP_SEGMENT_LAST_BACK] = cases_segment,
        [SCBM_OP_MIX_TEXTS] = cases_mix,
        [SCBM_OP_MIX_TEXTS_BACK] = cases_mix,
        [SCBM_OP_CROSS_ENTROPY] = cases_cross_entropy,
        [SCBM_OP_CROSS_ENTROPY_BACK] = cases_cross_entropy,
        [SCBM_OP_ACCUMULATE] = cases_accumulate,
        [SCBM_OP_SQUARE_SUM] = cases_square_sum,
        [SCBM_OP_CLIP] = cases_clip,
        [SCBM_OP_ADAMW] = cases_adamw,
        [SCBM_OP_FISHER_ADD] = cases_fisher_add,
        [SCBM_OP_ROW_SALIENCY] = cases_row_saliency,
        [SCBM_OP_POPUP_BACK] = cases_popup_back,
        [SCBM_OP_FISHER_SCORES] = cases_fisher_scores,
        [SCBM_OP_KEEP_LARGEST] = cases_keep_largest,
        [SCBM_OP_AGREE] = cases_agree,
        [SCBM_OP_MASK_MOVES] = cases_mask_moves,
        [SCBM_OP_FLIP_BITS] = cases_flip_bits,
        [SCBM_OP_LSTM] = cases_lstm,
        [SCBM_OP_LSTM_BACK] = cases_lstm,
    };
    maker m = {op, small, visit, user, 0};
    if (makers[op]) makers[op](&m);
    return m.n;
}

/* ------------------------------------------------------------------------------------------
 * Graphs of cases
 * ---------------------------------------------------------------------------------------- */

int case_updates(const op_case *c, int i) {
    return scbm_op_of(c->op)->updates >> i & 1;
}

static scbm_tensor *add_source(built_case *built, const op_case *c, int i) {
    const case_source *source = &c->source[i];
    if (!source->is_present) return NULL;
    if (source->is_weight) {
        built->weight[i] = source->tensor;
        if (case_updates(c, i)) {
            built->updated[i] = built->weight[i].data = checked(malloc(source->bytes ? source->bytes : 1));
            if (source->bytes) memcpy(built->updated[i], source->tensor.data, source->bytes);
        }
        return &built->weight[i];
    }
    scbm_extent extent[SCBM_MAX_DIMS];
    for (int d = 0; d < source->tensor.n_dims; d++) extent[d] = (scbm_extent)source->tensor.extent[d];
    return scbm_input(built->graph, source->tensor.name, source->tensor.type, source->tensor.n_dims,
                      source->tensor.shape, extent);
}

scbm_status case_build(built_case *built, const op_case *c, scbm_context *context) {
    memset(built, 0, sizeof *built);
    scbm_status status = scbm_graph_create(&built->graph, context);
    if (status) return status;
    scbm_graph_set_precision(built->graph, c->precision);
    scbm_graph_set_capacity(built->graph, c->max_tokens, c->max_texts);
    scbm_tensor *given[SCBM_MAX_SOURCES] = {NULL};
    for (int i = 0; i < c->n_sources; i++) {
        given[i] = built->source[i] = add_source(built, c, i);
        if (c->from_copies && given[i] && !case_updates(c, i)) given[i] = scbm_copy(built->graph, given[i]);
    }
    if (c->op == SCBM_OP_RESHAPE) {
        scbm_tensor *result = scbm_reshape(built->graph, given[0], c->n_dims, c->shape, c->extent);
        built->node = result ? scbm_graph_node(built->graph, result->node) : NULL;
    } else {
        built->node = scbm_graph_add(built->graph, c->op, c->n_sources, given, c->scalar, c->integer);
    }
    return SCBM_OK;
}

void case_fill(built_case *built, const op_case *c) {
    for (int i = 0; i < c->n_sources; i++) {
        const case_source *source = &c->source[i];
        if (!source->is_present) continue;
        if (source->bytes && (!source->is_weight || case_updates(c, i)))
            memcpy(built->source[i]->data, source->tensor.data, source->bytes);
        scbm_tensor_changed(built->source[i]);
    }
    scbm_graph_set_random(built->graph, c->seed, c->step);
}

void case_release(built_case *built) {
    scbm_graph_free(built->graph);
    for (int i = 0; i < SCBM_MAX_SOURCES; i++) scbm_tensor_forget(&built->weight[i]);
    for (int i = 0; i < SCBM_MAX_SOURCES; i++) free(built->updated[i]);
    memset(built, 0, sizeof *built);
}

/* ------------------------------------------------------------------------------------------
 * Batches of cases
 * ---------------------------------------------------------------------------------------- */

int64_t batch_shape(const scbm_tensor *tensor, int64_t tokens, int64_t texts, int64_t shape[SCBM_MAX_DIMS]) {
    int64_t n = 1;
    for (int i = 0; i < tensor->n_dims; i++) {
        shape[i] = tensor->extent[i] == SCBM_TOKENS  ? tokens
                   : tensor->extent[i] == SCBM_TEXTS ? texts
                                                     : tensor->shape[i];
        n *= shape[i];
    }
    return n;
}

size_t batch_bytes(const scbm_tensor *tensor, int64_t tokens, int64_t texts) {
    int64_t shape[SCBM_MAX_DIMS];
    const scbm_type_info *type = scbm_type_of(tensor->type);
    return (size_t)(batch_shape(tensor, tokens, texts, shape) / type->block) * (size_t)type->block_bytes;
}

size_t copy_text(void *to, const void *data, const scbm_tensor *tensor, const op_case *c, int64_t n) {
    int64_t shape[SCBM_MAX_DIMS], outer = 1, first = n, count = 1;
    size_t inner = (size_t)scbm_type_of(tensor->type)->block_bytes, copied = 0;
    int at = -1;
    batch_shape(tensor, c->tokens, c->texts, shape);
    for (int i = 0; i < tensor->n_dims; i++) {
        if (tensor->extent[i] != SCBM_FIXED) at = i;
        else if (at < 0) outer *= shape[i];
        else inner *= (size_t)shape[i];
    }
    if (at < 0) return 0;
    if (tensor->extent[at] == SCBM_TOKENS) {
        first = 0;
        for (int64_t i = 0; i < n; i++) first += c->lengths[i];
        count = c->lengths[n];
    }
    for (int64_t o = 0; o < outer; o++) {
        const unsigned char *from = (const unsigned char *)data + (size_t)(o * shape[at] + first) * inner;
        if (to) memcpy((unsigned char *)to + copied, from, (size_t)count * inner);
        copied += (size_t)count * inner;
    }
    return copied;
}

void case_of_text(op_case *alone, const op_case *c, int64_t n) {
    *alone = *c;
    alone->texts = alone->max_texts = 1;
    alone->tokens = alone->max_tokens = c->lengths[n];
    alone->lengths = c->lengths + n;
    append(alone->what, sizeof alone->what, "; text %lld", (long long)n);
    for (int i = 0; i < c->n_sources; i++) {
        case_source *source = &alone->source[i];
        if (!source->is_present) continue;
        if (source->is_offsets) source->tensor.shape[0] = 2;
        for (int d = 0; d < source->tensor.n_dims; d++) {
            if (source->tensor.extent[d] == SCBM_TOKENS) source->tensor.shape[d] = alone->max_tokens;
            if (source->tensor.extent[d] == SCBM_TEXTS) source->tensor.shape[d] = 1;
        }
        source->bytes = batch_bytes(&source->tensor, alone->tokens, alone->texts);
        source->tensor.data = checked(calloc(1, capacity_bytes(source)));
        if (source->is_offsets) ((int32_t *)source->tensor.data)[1] = c->lengths[n];
        else if (!copy_text(source->tensor.data, c->source[i].tensor.data, &c->source[i].tensor, c, n) && source->bytes)
            memcpy(source->tensor.data, c->source[i].tensor.data, source->bytes);
    }
}

void case_clear(op_case *c) {
    for (int i = 0; i < c->n_sources; i++) free(c->source[i].tensor.data);
    memset(c, 0, sizeof *c);
}
