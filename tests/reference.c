/* reference.c - the ops in double precision; see reference.h */
#include "tests/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846

/* ------------------------------------------------------------------------------------------
 * Arrays and types
 * ---------------------------------------------------------------------------------------- */

void *checked(void *pointer) {
    if (!pointer) {
        fprintf(stderr, "out of memory in the reference or its cases\n");
        exit(1);
    }
    return pointer;
}

ref_array ref_new(int n_dims, const int64_t *shape, int with_scale) {
    ref_array a = {0};
    a.n_dims = n_dims;
    a.n = 1;
    for (int i = 0; i < n_dims; i++) {
        a.shape[i] = shape[i];
        a.n *= shape[i];
    }
    a.value = checked(calloc((size_t)a.n + 1, sizeof *a.value));
    if (with_scale) a.scale = checked(calloc((size_t)a.n + 1, sizeof *a.scale));
    a.terms = 1;
    return a;
}

void ref_free(ref_array *array) {
    free(array->value);
    free(array->scale);
    memset(array, 0, sizeof *array);
}

static int64_t last(const ref_array *a) {
    return a->shape[a->n_dims - 1];
}

/* Rows of the last dimension. */
static int64_t rows(const ref_array *a) {
    int64_t n = 1;
    for (int i = 0; i < a->n_dims - 1; i++) n *= a->shape[i];
    return n;
}

static unsigned read16(const unsigned char *bytes) {
    return bytes[0] | (unsigned)bytes[1] << 8;
}

static double half_value(unsigned h) {
    double sign = h >> 15 ? -1.0 : 1.0;
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

static double bfloat_value(unsigned h) {
    uint32_t bits = (uint32_t)h << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void decode_block(double *to, scbm_type type, const unsigned char *block) {
    double scale = half_value(read16(block));
    for (int i = 0; i < 32; i++) {
        if (type == SCBM_Q8_0) to[i] = scale * (signed char)block[2 + i];
        else to[i] = scale * ((i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4) - 8);
    }
}

void ref_decode(double *to, scbm_type type, const void *from, int64_t n) {
    const unsigned char *bytes = from;
    for (int64_t i = 0; i < n; i++) {
        float f;
        int32_t word;
        switch (type) {
        case SCBM_F32:
            memcpy(&f, bytes + 4 * i, 4);
            to[i] = f;
            break;
        case SCBM_I32:
            memcpy(&word, bytes + 4 * i, 4);
            to[i] = word;
            break;
        case SCBM_F16: to[i] = half_value(read16(bytes + 2 * i)); break;
        case SCBM_BF16: to[i] = bfloat_value(read16(bytes + 2 * i)); break;
        case SCBM_I8: to[i] = (signed char)bytes[i]; break;
        case SCBM_F64: memcpy(&to[i], bytes + 8 * i, 8); break;
        default:
            if (i % 32 == 0) decode_block(to + i, type, bytes + i / 32 * (type == SCBM_Q8_0 ? 34 : 18));
            break;
        }
    }
}

/* To `bits` bits of mantissa and no exponent below `lowest`, ties to even. */
static double round_to(double value, int bits, int lowest, double largest) {
    if (value == 0.0 || !isfinite(value)) return value;
    int exponent;
    frexp(value, &exponent);
    int unit = exponent - bits < lowest ? lowest : exponent - bits;
    double rounded = ldexp(nearbyint(ldexp(value, -unit)), unit);
    return fabs(rounded) > largest ? copysign(INFINITY, value) : rounded;
}

double ref_round(double value, scbm_type type) {
    if (type == SCBM_F16) return round_to(value, 11, -24, 65504.0);
    if (type == SCBM_BF16) return round_to(value, 8, -133, ldexp(255.0, 120));
    return value;
}

double ref_bound(const ref_array *array, int64_t i) {
    return ldexp(1.0, -24) * (8.0 + 2.0 * sqrt(array->terms)) * array->scale[i] + 1e-37;
}

double ref_distance(const float *got, const ref_array *want) {
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < want->n; i++) {
        difference += (got[i] - want->value[i]) * (got[i] - want->value[i]);
        norm += want->value[i] * want->value[i];
    }
    if (difference == 0.0) return 0.0;
    return norm > 0.0 ? sqrt(difference / norm) : INFINITY;
}

/* The element of b that stands with element i of a: b's shape is aligned at the last dimension, 1 fits any. */
static int64_t broadcast_index(const ref_array *a, int64_t i, const ref_array *b) {
    int64_t index = 0, stride = 1;
    for (int d = 1; d <= a->n_dims; d++) {
        int64_t size = a->shape[a->n_dims - d], position = i % size;
        i /= size;
        if (d > b->n_dims) continue;
        int64_t own = b->shape[b->n_dims - d];
        index += own == 1 ? 0 : position * stride;
        stride *= own;
    }
    return index;
}

static void set(ref_array *a, int64_t i, double value, double scale) {
    a->value[i] = value;
    if (a->scale) a->scale[i] = scale;
}

static void accumulate(ref_array *a, int64_t i, double term) {
    a->value[i] += term;
    if (a->scale) a->scale[i] += fabs(term);
}

/* As accumulate, where the term itself is only as exact as `scale`. */
static void accumulate_scaled(ref_array *a, int64_t i, double term, double scale) {
    a->value[i] += term;
    if (a->scale) a->scale[i] += scale;
}

/* ------------------------------------------------------------------------------------------
 * Lookup, elementwise, moving
 * ---------------------------------------------------------------------------------------- */

static void get_rows(ref_call *c) {
    const ref_array *table = &c->source[0], *ids = &c->source[1];
    int64_t d = last(table);
    for (int64_t t = 0; t < ids->n; t++)
        for (int64_t j = 0; j < d; j++)
            set(&c->result[0], t * d + j, table->value[(int64_t)ids->value[t] * d + j], 0.0);
}

static void get_rows_back(ref_call *c) {
    const ref_array *dy = &c->source[0], *ids = &c->source[1];
    int64_t d = last(dy);
    for (int64_t t = 0; t < ids->n; t++)
        for (int64_t j = 0; j < d; j++) accumulate(&c->result[0], (int64_t)ids->value[t] * d + j, dy->value[t * d + j]);
    c->result[0].terms = (double)ids->n;
}

static void binary(ref_call *c) {
    const ref_array *a = &c->source[0], *b = &c->source[1];
    for (int64_t i = 0; i < a->n; i++) {
        double x = a->value[i], y = b->value[broadcast_index(a, i, b)];
        if (c->op == SCBM_OP_ADD) set(&c->result[0], i, x + y, 0.1 * fabs(x + y));
        else set(&c->result[0], i, x * y, 0.1 * fabs(x * y)); /* one rounding: a tenth of ten units is enough */
    }
}

static void scale(ref_call *c) {
    for (int64_t i = 0; i < c->source[0].n; i++) {
        double y = c->source[0].value[i] * c->scalar[0];
        set(&c->result[0], i, y, 0.1 * fabs(y));
    }
}

static void sum_to(ref_call *c) {
    const ref_array *a = &c->source[0];
    ref_array *y = &c->result[0];
    double count = y->n ? (double)a->n / (double)y->n : 0.0;
    for (int64_t i = 0; i < a->n; i++) accumulate(y, broadcast_index(a, i, y), a->value[i]);
    for (int64_t i = 0; i < y->n && c->integer[0]; i++)
        set(y, i, y->value[i] / count, y->scale ? y->scale[i] / count : 0);
    y->terms = count;
}

static void broadcast(ref_call *c) {
    const ref_array *a = &c->source[0];
    ref_array *y = &c->result[0];
    double count = c->integer[0] && a->n ? (double)y->n / (double)a->n : 1.0;
    for (int64_t i = 0; i < y->n; i++) {
        double value = a->value[broadcast_index(y, i, a)] / count;
        set(y, i, value, 0.2 * fabs(value));
    }
}

/* copy, cast and reshape */
static void copy(ref_call *c) {
    scbm_type type = c->op == SCBM_OP_CAST && !c->exact ? (scbm_type)c->integer[0] : SCBM_F32;
    for (int64_t i = 0; i < c->source[0].n; i++) set(&c->result[0], i, ref_round(c->source[0].value[i], type), 0.0);
}

static void concat(ref_call *c) {
    const ref_array *a = &c->source[0], *b = &c->source[1];
    int64_t na = last(a), nb = last(b), n = na + nb;
    for (int64_t r = 0; r < rows(&c->result[0]); r++)
        for (int64_t j = 0; j < n; j++)
            set(&c->result[0], r * n + j, j < na ? a->value[r * na + j] : b->value[r * nb + j - na], 0.0);
}

static void slice(ref_call *c) {
    int64_t first = c->integer[0], count = c->integer[1], n = last(&c->source[0]);
    for (int64_t r = 0; r < rows(&c->source[0]); r++)
        for (int64_t j = 0; j < count; j++)
            set(&c->result[0], r * count + j, c->source[0].value[r * n + first + j], 0.0);
}

static void slice_back(ref_call *c) {
    int64_t first = c->integer[0], count = last(&c->source[0]), n = last(&c->result[0]);
    for (int64_t r = 0; r < rows(&c->source[0]); r++)
        for (int64_t j = 0; j < count; j++)
            set(&c->result[0], r * n + first + j, c->source[0].value[r * count + j], 0.0);
}

/* ------------------------------------------------------------------------------------------
 * Activations
 * ---------------------------------------------------------------------------------------- */

static double activation(int64_t kind, double x) {
    switch (kind) {
    case SCBM_GELU_ERF: return 0.5 * x * erfc(-x / sqrt(2.0));
    case SCBM_GELU_TANH: return 0.5 * x * (1.0 + tanh(sqrt(2.0 / PI) * (x + 0.044715 * x * x * x)));
    case SCBM_RELU: return x > 0.0 ? x : 0.0;
    case SCBM_TANH: return tanh(x);
    case SCBM_SIGMOID: return 1.0 / (1.0 + exp(-x));
    default: return x;
    }
}

static double activation_slope(int64_t kind, double x) {
    double y = activation(kind, x), u, t;
    switch (kind) {
    case SCBM_GELU_ERF: return 0.5 * erfc(-x / sqrt(2.0)) + x * exp(-0.5 * x * x) / sqrt(2.0 * PI);
    case SCBM_GELU_TANH:
        u = sqrt(2.0 / PI) * (x + 0.044715 * x * x * x);
        t = tanh(u);
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * sqrt(2.0 / PI) * (1.0 + 3.0 * 0.044715 * x * x);
    case SCBM_RELU: return x > 0.0 ? 1.0 : 0.0;
    case SCBM_TANH: return 1.0 - y * y;
    case SCBM_SIGMOID: return y * (1.0 - y);
    default: return 1.0;
    }
}

/* What a few units in the last place are relative to: GELU's Φ(x) is exact to ulps of 1, the others to their own. */
static double activation_scale(int64_t kind, double x) {
    return kind == SCBM_GELU_ERF || kind == SCBM_GELU_TANH ? fabs(x) : fabs(activation(kind, x));
}

static void activate(ref_call *c) {
    for (int64_t i = 0; i < c->source[0].n; i++) {
        double x = c->source[0].value[i];
        set(&c->result[0], i, activation(c->integer[0], x), activation_scale(c->integer[0], x));
    }
}

static void activate_back(ref_call *c) {
    for (int64_t i = 0; i < c->source[0].n; i++) {
        double dy = c->source[0].value[i];
        set(&c->result[0], i, dy * activation_slope(c->integer[0], c->source[1].value[i]), fabs(dy));
    }
}

/* ------------------------------------------------------------------------------------------
 * The linear ops
 * ---------------------------------------------------------------------------------------- */

/* Whether stream s keeps weight j of row r: a bit of the plane; all are kept without masks. */
static int is_kept(const ref_array *masks, int64_t s, int64_t r, int64_t j) {
    if (!masks->value) return 1;
    int64_t row = (s * masks->shape[1] + r) * masks->shape[2];
    return (int)masks->value[row + j / 8] >> j % 8 & 1;
}

static int64_t streams(const ref_array *x) {
    return x->n_dims == 3 ? x->shape[0] : 1;
}

static double operand(const ref_call *c, double value) {
    return c->precision == SCBM_PRECISION_BF16 && !c->exact ? ref_round(value, SCBM_BF16) : value;
}

/* A row of x as the int8 precision has it: in blocks of 32 the nearest of 255 multiples of a scale, each step in float. */
static void quantize_row(double *row, int64_t n) {
    for (int64_t j = 0; j < n; j += 32) {
        float size = 0.0f;
        for (int64_t i = j; i < j + 32; i++) size = fmaxf(size, fabsf((float)row[i]));
        const float scale = size < 0x1p-100f ? 0.0f : size / 127.0f, factor = size < 0x1p-100f ? 0.0f : 127.0f / size;
        for (int64_t i = j; i < j + 32; i++) row[i] = (double)scale * nearbyint((double)((float)row[i] * factor));
    }
}

/* x as the product reads it; for free(). */
static double *operands(const ref_call *c, const ref_array *x) {
    const scbm_type type = c->source[1].type;
    double *value = checked(malloc(((size_t)x->n + 1) * sizeof *value));
    for (int64_t i = 0; i < x->n; i++) value[i] = operand(c, x->value[i]);
    if (c->precision != SCBM_PRECISION_INT8 || c->exact || c->source[3].value) return value;
    if (type != SCBM_Q8_0 && type != SCBM_Q4_0) return value;
    for (int64_t i = 0; i < x->n; i += last(x)) quantize_row(value + i, last(x));
    return value;
}

static void linear(ref_call *c) {
    const ref_array *x = &c->source[0], *w = &c->source[1], *b = &c->source[2], *masks = &c->source[3];
    ref_array *y = &c->result[0];
    int64_t in = last(x), out = last(y), t_n = rows(x) / streams(x), s_n = streams(y);
    int64_t act = c->integer[0];
    double *read = operands(c, x);
    for (int64_t s = 0; s < s_n; s++)
        for (int64_t t = 0; t < t_n; t++)
            for (int64_t o = 0; o < out; o++) {
                const double *row = read + ((streams(x) == 1 ? 0 : s) * t_n + t) * in;
                double sum = b->value ? b->value[o] : 0.0, size = fabs(sum);
                for (int64_t j = 0; j < in; j++) {
                    if (!is_kept(masks, s, o, j)) continue;
                    double term = row[j] * operand(c, w->value[o * in + j]);
                    sum += term;
                    size += fabs(term);
                }
                int64_t i = (s * t_n + t) * out + o;
                set(y, i, activation(act, sum), act ? 1.2 * size + activation_scale(act, sum) : size);
                if (c->n_results > 1) set(&c->result[1], i, sum, size);
            }
    free(read);
    y->terms = c->result[1].terms = (double)in;
}

static void linear_back_x(ref_call *c) {
    const ref_array *dy = &c->source[0], *w = &c->source[1], *masks = &c->source[2];
    int64_t out = last(dy), in = last(w), t_n = rows(dy) / streams(dy);
    for (int64_t r = 0; r < rows(dy); r++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t j = 0; j < in; j++)
                if (is_kept(masks, r / t_n, o, j))
                    accumulate(&c->result[0], r * in + j,
                               operand(c, dy->value[r * out + o]) * operand(c, w->value[o * in + j]));
    c->result[0].terms = (double)out;
}

static void linear_back_w(ref_call *c) {
    const ref_array *dy = &c->source[0], *x = &c->source[1], *masks = &c->source[3], none = {0};
    int64_t in = last(x), out = last(dy), s_n = streams(dy), t_n = rows(dy) / s_n, mode = c->integer[0];
    for (int64_t s = 0; s < s_n; s++)
        for (int64_t t = 0; t < t_n; t++) {
            const double *row = x->value + ((streams(x) == 1 ? 0 : s) * t_n + t) * in;
            for (int64_t o = 0; o < out; o++)
                for (int64_t j = 0; j < in; j++)
                    if (is_kept(mode == SCBM_DW_DENSE ? &none : masks, s, o, j))
                        accumulate(&c->result[0], ((mode == SCBM_DW_SUMMED ? 0 : s) * out + o) * in + j,
                                   operand(c, dy->value[(s * t_n + t) * out + o]) * operand(c, row[j]));
        }
    c->result[0].terms = (double)(mode == SCBM_DW_SUMMED ? s_n * t_n : t_n);
}

/* The group that class `o` is in. */
static int64_t group_of(const ref_array *groups, int64_t o) {
    for (int64_t k = 0; k + 1 < groups->n; k++)
        if (o >= (int64_t)groups->value[k] && o < (int64_t)groups->value[k + 1]) return k;
    return 0;
}

/* The row of z that class o of text n reads. */
static int64_t head_row(const ref_array *z, const ref_array *groups, int64_t n, int64_t o) {
    return (z->shape[0] == 1 ? 0 : group_of(groups, o)) * z->shape[1] + n;
}

static void group_linear(ref_call *c) {
    const ref_array *z = &c->source[0], *w = &c->source[1], *groups = &c->source[2], *b = &c->source[3];
    int64_t d = last(z), out = w->shape[0];
    for (int64_t n = 0; n < z->shape[1]; n++)
        for (int64_t o = 0; o < out; o++) {
            int64_t i = n * out + o;
            if (b->value) accumulate(&c->result[0], i, b->value[o]);
            for (int64_t j = 0; j < d; j++)
                accumulate(&c->result[0], i, z->value[head_row(z, groups, n, o) * d + j] * w->value[o * d + j]);
        }
    c->result[0].terms = (double)d;
}

static void group_linear_back_z(ref_call *c) {
    const ref_array *dy = &c->source[0], *w = &c->source[1], *groups = &c->source[2];
    int64_t d = last(w), out = w->shape[0];
    for (int64_t n = 0; n < dy->shape[0]; n++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t j = 0; j < d; j++)
                accumulate(&c->result[0], head_row(&c->result[0], groups, n, o) * d + j,
                           dy->value[n * out + o] * w->value[o * d + j]);
    c->result[0].terms = (double)out;
}

static void group_linear_back_w(ref_call *c) {
    const ref_array *dy = &c->source[0], *z = &c->source[1], *groups = &c->source[2];
    int64_t d = last(z), out = last(dy);
    for (int64_t n = 0; n < dy->shape[0]; n++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t j = 0; j < d; j++)
                accumulate(&c->result[0], o * d + j,
                           dy->value[n * out + o] * z->value[head_row(z, groups, n, o) * d + j]);
    c->result[0].terms = (double)dy->shape[0];
}

/* ------------------------------------------------------------------------------------------
 * Layer normalization
 * ---------------------------------------------------------------------------------------- */

/* One row x[d]; results: y, mean, rstd. */
static void norm_row(ref_call *c, const double *x, int64_t row, const ref_array *gamma, const ref_array *beta) {
    int64_t d = last(&c->result[0]);
    double mean = 0.0, size = 0.0, variance = 0.0;
    for (int64_t j = 0; j < d; j++) mean += x[j] / (double)d;
    for (int64_t j = 0; j < d; j++) size += fabs(x[j]) / (double)d;
    for (int64_t j = 0; j < d; j++) variance += (x[j] - mean) * (x[j] - mean) / (double)d;
    double rstd = 1.0 / sqrt(variance + c->scalar[0]);
    for (int64_t j = 0; j < d; j++) {
        double g = gamma->value[j], b = beta->value[j];
        set(&c->result[0], row * d + j, (x[j] - mean) * rstd * g + b,
            fabs(g) * rstd * (fabs(x[j] - mean) + size) + fabs(b));
    }
    set(&c->result[1], row, mean, size);
    set(&c->result[2], row, rstd, rstd);
    for (int i = 0; i < 3; i++) c->result[i].terms = (double)d;
}

static void layer_norm(ref_call *c) {
    int64_t d = last(&c->source[0]);
    for (int64_t r = 0; r < rows(&c->source[0]); r++)
        norm_row(c, c->source[0].value + r * d, r, &c->source[1], &c->source[2]);
}

static void add_layer_norm(ref_call *c) {
    const ref_array *x = &c->source[0], *residual = &c->source[1];
    int64_t d = last(x);
    double *sum = checked(calloc((size_t)d + 1, sizeof *sum));
    for (int64_t r = 0; r < rows(x); r++) {
        for (int64_t j = 0; j < d; j++) {
            sum[j] = x->value[r * d + j] + residual->value[broadcast_index(x, r * d + j, residual)];
            if (c->n_results > 3) set(&c->result[3], r * d + j, sum[j], fabs(sum[j]));
        }
        norm_row(c, sum, r, &c->source[2], &c->source[3]);
    }
    free(sum);
}

static void layer_norm_back(ref_call *c) {
    const ref_array *dy = &c->source[0], *x = &c->source[1], *gamma = &c->source[2];
    int64_t d = last(x);
    for (int64_t r = 0; r < rows(x); r++) {
        double mean = c->source[3].value[r], rstd = c->source[4].value[r];
        double m1 = 0.0, m2 = 0.0, s1 = 0.0, s2 = 0.0; /* means of g and of g · x̂, and of their sizes */
        for (int64_t j = 0; j < d; j++) {
            double unit = (x->value[r * d + j] - mean) * rstd, g = dy->value[r * d + j] * gamma->value[j];
            m1 += g / (double)d;
            m2 += g * unit / (double)d;
            s1 += fabs(g) / (double)d;
            s2 += fabs(g * unit) / (double)d;
            accumulate(&c->result[1], j, dy->value[r * d + j] * unit);
            accumulate(&c->result[2], j, dy->value[r * d + j]);
        }
        for (int64_t j = 0; j < d; j++) {
            double unit = (x->value[r * d + j] - mean) * rstd, g = dy->value[r * d + j] * gamma->value[j];
            set(&c->result[0], r * d + j, rstd * (g - m1 - unit * m2), rstd * (fabs(g) + s1 + fabs(unit) * s2));
        }
    }
    c->result[0].terms = (double)d;
    c->result[1].terms = c->result[2].terms = (double)rows(x);
}

static void rms_norm(ref_call *c) {
    const ref_array *x = &c->source[0], *gamma = &c->source[1];
    int64_t d = last(x);
    for (int64_t r = 0; r < rows(x); r++) {
        double squares = 0.0;
        for (int64_t j = 0; j < d; j++) squares += x->value[r * d + j] * x->value[r * d + j] / (double)d;
        double rstd = 1.0 / sqrt(squares + c->scalar[0]);
        for (int64_t j = 0; j < d; j++) {
            double y = x->value[r * d + j] * rstd * gamma->value[j];
            set(&c->result[0], r * d + j, y, fabs(y));
        }
        set(&c->result[1], r, rstd, rstd);
    }
    for (int i = 0; i < 2; i++) c->result[i].terms = (double)d;
}

static void rms_norm_back(ref_call *c) {
    const ref_array *dy = &c->source[0], *x = &c->source[1], *gamma = &c->source[2];
    int64_t d = last(x);
    for (int64_t r = 0; r < rows(x); r++) {
        double rstd = c->source[3].value[r], mean = 0.0, size = 0.0; /* of g · x̂ */
        for (int64_t j = 0; j < d; j++) {
            double unit = x->value[r * d + j] * rstd, product = dy->value[r * d + j] * gamma->value[j] * unit;
            mean += product / (double)d;
            size += fabs(product) / (double)d;
            accumulate(&c->result[1], j, dy->value[r * d + j] * unit);
        }
        for (int64_t j = 0; j < d; j++) {
            double unit = x->value[r * d + j] * rstd, g = dy->value[r * d + j] * gamma->value[j];
            set(&c->result[0], r * d + j, rstd * (g - unit * mean), rstd * (fabs(g) + fabs(unit) * size));
        }
    }
    c->result[0].terms = (double)d;
    c->result[1].terms = (double)rows(x);
}

/* ------------------------------------------------------------------------------------------
 * Softmax and dropout
 * ---------------------------------------------------------------------------------------- */

/* p[j] and how exact it is. A row of −∞ alone is all zeros. */
static void softmax_row(const double *x, int64_t n, double *p, double *size) {
    double top = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < n; j++) top = x[j] > top ? x[j] : top;
    for (int64_t j = 0; j < n; j++) sum += p[j] = isinf(x[j]) ? 0.0 : exp(x[j] - top);
    for (int64_t j = 0; j < n; j++) {
        p[j] = sum > 0.0 ? p[j] / sum : 0.0;
        size[j] = isinf(x[j]) ? 0.0 : p[j] * (1.0 + top - x[j]);
    }
}

static void softmax(ref_call *c) {
    int64_t n = last(&c->source[0]);
    double *size = checked(malloc(((size_t)n + 1) * sizeof *size));
    for (int64_t r = 0; r < rows(&c->source[0]); r++) {
        softmax_row(c->source[0].value + r * n, n, c->result[0].value + r * n, size);
        for (int64_t j = 0; j < n; j++) set(&c->result[0], r * n + j, c->result[0].value[r * n + j], size[j]);
    }
    c->result[0].terms = (double)n;
    free(size);
}

static void softmax_back(ref_call *c) {
    const ref_array *dy = &c->source[0], *y = &c->source[1];
    int64_t n = last(y);
    for (int64_t r = 0; r < rows(y); r++) {
        double dot = 0.0, size = 0.0;
        for (int64_t j = r * n; j < (r + 1) * n; j++) {
            dot += dy->value[j] * y->value[j];
            size += fabs(dy->value[j] * y->value[j]);
        }
        for (int64_t j = r * n; j < (r + 1) * n; j++)
            set(&c->result[0], j, y->value[j] * (dy->value[j] - dot), fabs(y->value[j]) * (fabs(dy->value[j]) + size));
    }
    c->result[0].terms = (double)n;
}

/* 0 for a dropped element, 1 / (1 − p) for a kept one. */
static double dropout_factor(const ref_call *c, float p, uint64_t stream, uint64_t counter, int word) {
    uint32_t words[4];
    scbm_philox(c->seed, c->step << 32 | stream, counter, words);
    return words[word] >= (double)p * 4294967296.0 ? 1.0 / (1.0 - (double)p) : 0.0;
}

static void dropout(ref_call *c) {
    for (int64_t i = 0; i < c->source[0].n; i++) {
        uint64_t stream = (uint64_t)c->integer[0] << 16, counter = (uint64_t)(i / 64 * 16 + i % 16);
        int word = (int)(i / 16 % 4);
        if (c->integer[1]) { /* key i % C of query t, in head and stream */
            int64_t n = last(&c->source[0]), t_n = c->source[0].shape[2], t = i / n % t_n;
            stream += (uint64_t)(i / n / t_n);
            counter = (uint64_t)(t / 4) << 32 | (uint64_t)(i % n);
            word = (int)(t % 4);
        }
        double y = c->source[0].value[i] * dropout_factor(c, c->scalar[0], stream, counter, word);
        set(&c->result[0], i, y, 0.2 * fabs(y));
    }
}

/* ------------------------------------------------------------------------------------------
 * Attention
 * ---------------------------------------------------------------------------------------- */

/* A query's neighbourhood: its text and where the arrays' rows are. */
typedef struct place {
    int64_t s_n, t_n, heads, size, row; /* size: of a head, row: heads · size */
    const ref_array *offsets;
    int causal;
} place;

static place place_of(const ref_call *c, const ref_array *x, const ref_array *offsets) {
    return (place){x->shape[0], x->shape[1], c->integer[0],     x->shape[2] / c->integer[0],
                   x->shape[2], offsets,     c->integer[1] != 0};
}

/* First token and length of token t's text; length 0 where t is in none. */
static int64_t text_of(const ref_array *offsets, int64_t texts, int64_t t, int64_t *first) {
    for (int64_t n = 0; n < texts; n++)
        if (t >= (int64_t)offsets->value[n] && t < (int64_t)offsets->value[n + 1]) {
            *first = (int64_t)offsets->value[n];
            return (int64_t)offsets->value[n + 1] - *first;
        }
    *first = t;
    return 0;
}

static const double *head(const place *p, const ref_array *x, int64_t s, int64_t t, int64_t h) {
    return x->value + (s * p->t_n + t) * p->row + h * p->size;
}

static double dot(const double *a, const double *b, int64_t n, double *size) {
    double sum = 0.0;
    *size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
        *size += fabs(a[i] * b[i]);
    }
    return sum;
}

/* Walks (stream, head, query): `visit` gets the query's text. */
typedef void (*visit_query)(ref_call *c, const place *p, int64_t s, int64_t h, int64_t t, int64_t first,
                            int64_t length);

static void each_query(ref_call *c, const place *p, visit_query visit) {
    int64_t first, length, texts = p->offsets->n - 1;
    for (int64_t s = 0; s < p->s_n; s++)
        for (int64_t h = 0; h < p->heads; h++)
            for (int64_t t = 0; t < p->t_n; t++)
                if ((length = text_of(p->offsets, texts, t, &first)) > 0) visit(c, p, s, h, t, first, length);
}

/* Where the bias of key j and query t, of a text that begins at `first`, stands in source i. */
static int64_t bias_index(const ref_call *c, int i, const place *p, int64_t h, int64_t t, int64_t first, int64_t j) {
    const ref_array *bias = &c->source[i];
    return (bias->n / p->heads / 2 + j - (t - first)) * p->heads + h;
}

/* Scaled scores of query t with the keys of its text (−∞ after it if causal), with the bias of source `bias` where there
 * is one, and how exact they are. */
static void scores_of(const ref_call *c, const place *p, int bias, const ref_array *q, const ref_array *k, int64_t s,
                      int64_t h, int64_t t, int64_t first, int64_t length, double *score, double *size) {
    for (int64_t j = 0; j < length; j++) {
        score[j] = c->scalar[0] * dot(head(p, q, s, t, h), head(p, k, s, first + j, h), p->size, &size[j]);
        size[j] *= fabs(c->scalar[0]);
        if (c->source[bias].value) {
            double value = c->source[bias].value[bias_index(c, bias, p, h, t, first, j)];
            score[j] += value;
            size[j] += fabs(value);
        }
        if (p->causal && first + j > t) score[j] = -INFINITY;
    }
}

static double attention_keep(const ref_call *c, const place *p, int64_t s, int64_t h, int64_t t, int64_t j) {
    if (!(c->scalar[1] > 0.0f)) return 1.0;
    uint64_t stream = (uint64_t)((c->integer[2] << 16) + s * p->heads + h);
    return dropout_factor(c, c->scalar[1], stream, (uint64_t)(t / 4) << 32 | (uint64_t)j, (int)(t % 4));
}

static void attention_query(ref_call *c, const place *p, int64_t s, int64_t h, int64_t t, int64_t first,
                            int64_t length) {
    double *score = checked(malloc((size_t)length * 4 * sizeof *score)), *probability = score + length;
    double *size = probability + length, *inexact = size + length;
    double top = -INFINITY, largest = 0.0, sum = 0.0;
    scores_of(c, p, 4, &c->source[0], &c->source[1], s, h, t, first, length, score, size);
    softmax_row(score, length, probability, inexact);
    for (int64_t j = 0; j < length; j++) {
        top = score[j] > top ? score[j] : top;
        largest = size[j] > largest ? size[j] : largest;
    }
    for (int64_t j = 0; j < length; j++) {
        if (isinf(score[j])) continue;
        double keep = attention_keep(c, p, s, h, t, j);
        const double *v = head(p, &c->source[2], s, first + j, h);
        for (int64_t i = 0; i < p->size; i++)
            accumulate_scaled(&c->result[0], (s * p->t_n + t) * p->row + h * p->size + i, keep * probability[j] * v[i],
                              keep * fabs(v[i]) * (inexact[j] + probability[j] * (size[j] + largest)));
        sum += exp(score[j] - top);
    }
    set(&c->result[1], (s * p->heads + h) * p->t_n + t, top + log(sum), 1.0 + fabs(top) + largest);
    free(score);
}

static void attention(ref_call *c) {
    place p = place_of(c, &c->source[0], &c->source[3]);
    each_query(c, &p, attention_query);
    c->result[0].terms = c->result[1].terms = (double)(p.size + p.t_n);
}

/* sources: dy, y, q, k, v, log-sum-exp, offsets, bias */
static void attention_back_query(ref_call *c, const place *p, int64_t s, int64_t h, int64_t t, int64_t first,
                                 int64_t length) {
    const ref_array *q = &c->source[2], *k = &c->source[3], *v = &c->source[4];
    double *score = checked(malloc((size_t)length * 2 * sizeof *score)), *size = score + length;
    double lse = c->source[5].value[(s * p->heads + h) * p->t_n + t], whole_size, product_size;
    const double *dy = head(p, &c->source[0], s, t, h);
    double whole = dot(dy, head(p, &c->source[1], s, t, h), p->size, &whole_size);
    scores_of(c, p, 7, q, k, s, h, t, first, length, score, size);
    for (int64_t j = 0; j < length; j++) {
        if (isinf(score[j])) continue;
        double probability = exp(score[j] - lse), keep = attention_keep(c, p, s, h, t, j);
        double inexact = probability * (1.0 + size[j] + fabs(lse));
        double dp = keep * dot(dy, head(p, v, s, first + j, h), p->size, &product_size);
        double ds = c->scalar[0] * probability * (dp - whole);
        double ds_size = fabs(c->scalar[0]) * inexact * (keep * product_size + whole_size);
        if (c->source[7].value)
            accumulate_scaled(&c->result[3], bias_index(c, 7, p, h, t, first, j), probability * (dp - whole),
                              inexact * (keep * product_size + whole_size));
        for (int64_t i = 0; i < p->size; i++) {
            int64_t own = (s * p->t_n + t) * p->row + h * p->size + i;
            int64_t other = (s * p->t_n + first + j) * p->row + h * p->size + i;
            accumulate_scaled(&c->result[0], own, ds * k->value[other], ds_size * fabs(k->value[other]));
            accumulate_scaled(&c->result[1], other, ds * q->value[own], ds_size * fabs(q->value[own]));
            accumulate_scaled(&c->result[2], other, keep * probability * dy[i], keep * inexact * fabs(dy[i]));
        }
    }
    free(score);
}

static void attention_back(ref_call *c) {
    place p = place_of(c, &c->source[2], &c->source[6]);
    each_query(c, &p, attention_back_query);
    for (int i = 0; i < 3; i++) c->result[i].terms = (double)(p.size + p.t_n);
    if (c->source[7].value) c->result[3].terms = (double)(p.size + p.s_n * p.t_n * p.t_n);
}

/* The biases in the scores' places, and the other way. sources: bias, offsets; dy, offsets, bias */
static void attention_bias(ref_call *c) {
    int is_back = c->op == SCBM_OP_ATTENTION_BIAS_BACK, which = is_back ? 2 : 0;
    const ref_array *scores = is_back ? &c->source[0] : &c->result[0], *offsets = &c->source[1];
    place p = {.heads = scores->shape[1], .t_n = scores->shape[2]};
    int64_t first, length, context = scores->shape[3];
    for (int64_t i = 0; i < c->result[0].n; i++) set(&c->result[0], i, 0.0, 0.0);
    for (int64_t h = 0; h < p.heads; h++)
        for (int64_t t = 0; t < p.t_n; t++) {
            length = text_of(offsets, offsets->n - 1, t, &first);
            for (int64_t j = 0; j < length && j < context; j++) {
                int64_t bias = bias_index(c, which, &p, h, t, first, j), score = (h * p.t_n + t) * context + j;
                if (is_back) accumulate(&c->result[0], bias, c->source[0].value[score]);
                else set(&c->result[0], score, c->source[0].value[bias], 0.0);
            }
        }
    c->result[0].terms = is_back ? (double)p.t_n : 1.0;
}

/* sources: a, b, offsets; scores [S, heads, T, C] */
static void scores_query(ref_call *c, const place *p, int64_t s, int64_t h, int64_t t, int64_t first, int64_t length) {
    int64_t context = last(&c->result[0]), row = ((s * p->heads + h) * p->t_n + t) * context;
    for (int64_t j = 0; j < length && j < context; j++) {
        double size,
            score = dot(head(p, &c->source[0], s, t, h), head(p, &c->source[1], s, first + j, h), p->size, &size);
        if (!p->causal || first + j <= t) set(&c->result[0], row + j, score, size);
    }
}

static void attention_scores(ref_call *c) {
    place p = place_of(c, &c->source[0], &c->source[2]);
    for (int64_t i = 0; i < c->result[0].n; i++) set(&c->result[0], i, c->scalar[0], 0.0);
    each_query(c, &p, scores_query);
    c->result[0].terms = (double)p.size;
}

/* sources: p [S, heads, T, C], b or a [S, T, heads · size], offsets */
static void mix_query(ref_call *c, const place *p, int64_t s, int64_t h, int64_t t, int64_t first, int64_t length) {
    int64_t context = last(&c->source[0]);
    const double *weight = c->source[0].value + ((s * p->heads + h) * p->t_n + t) * context;
    for (int64_t j = 0; j < length && j < context; j++) {
        if (p->causal && first + j > t) continue;
        int64_t to = c->op == SCBM_OP_ATTENTION_MIX ? t : first + j,
                from = c->op == SCBM_OP_ATTENTION_MIX ? first + j : t;
        const double *x = head(p, &c->source[1], s, from, h);
        for (int64_t i = 0; i < p->size; i++)
            accumulate(&c->result[0], (s * p->t_n + to) * p->row + h * p->size + i, weight[j] * x[i]);
    }
}

static void attention_mix(ref_call *c) {
    place p = place_of(c, &c->source[1], &c->source[2]);
    each_query(c, &p, mix_query);
    c->result[0].terms = (double)p.t_n;
}

/* ------------------------------------------------------------------------------------------
 * Texts
 * ---------------------------------------------------------------------------------------- */

/* The six segment ops: forward reads x [S, T, d] and gives [S, N, d], back the other way. */
static void segment(ref_call *c) {
    const ref_array *a = &c->source[0], *offsets = &c->source[1];
    ref_array *y = &c->result[0];
    int is_last = c->op == SCBM_OP_SEGMENT_LAST || c->op == SCBM_OP_SEGMENT_LAST_BACK;
    int is_back = c->op == SCBM_OP_SEGMENT_MEAN_BACK || c->op == SCBM_OP_SEGMENT_FIRST_BACK ||
                  c->op == SCBM_OP_SEGMENT_LAST_BACK;
    int is_mean = c->op == SCBM_OP_SEGMENT_MEAN || c->op == SCBM_OP_SEGMENT_MEAN_BACK;
    const ref_array *tokens = is_back ? y : a, *texts = is_back ? a : y;
    int64_t d = last(a), t_n = tokens->shape[1], n_n = texts->shape[1];
    for (int64_t s = 0; s < a->shape[0]; s++)
        for (int64_t n = 0; n < n_n; n++) {
            int64_t first = (int64_t)offsets->value[n], length = (int64_t)offsets->value[n + 1] - first;
            int64_t from = is_last && length > 0 ? length - 1 : 0, to = is_mean || is_last ? length : length > 0;
            for (int64_t t = from; t < to; t++)
                for (int64_t j = 0; j < d; j++) {
                    int64_t token = (s * t_n + first + t) * d + j, text = (s * n_n + n) * d + j;
                    double weight = is_mean ? 1.0 / (double)length : 1.0;
                    accumulate(y, is_back ? token : text, weight * a->value[is_back ? text : token]);
                }
        }
    y->terms = is_mean && !is_back ? (double)t_n : 1.0;
}

static void mix_texts(ref_call *c) {
    const ref_array *x = &c->source[0], *permutation = &c->source[1];
    double beta = c->source[2].value[0];
    int64_t d = last(x), n_n = x->shape[1];
    for (int64_t s = 0; s < x->shape[0]; s++)
        for (int64_t n = 0; n < n_n; n++)
            for (int64_t j = 0; j < d; j++) {
                int64_t own = (s * n_n + n) * d + j, other = (s * n_n + (int64_t)permutation->value[n]) * d + j;
                int is_back = c->op == SCBM_OP_MIX_TEXTS_BACK;
                accumulate(&c->result[0], own, beta * x->value[own]);
                accumulate(&c->result[0], is_back ? other : own, (1.0 - beta) * x->value[is_back ? own : other]);
            }
    c->result[0].terms = (double)n_n;
}

/* One group of one text: the probabilities, and the loss of its targets with their weights.
 * A hard target counts with its class's weight, soft targets (not all zero) count one. */
static void cross_entropy_group(ref_call *c, int64_t n, int64_t k, double *loss, double *loss_scale, double *total) {
    const ref_array *targets = &c->source[1], *groups = &c->source[2], *weights = &c->source[3];
    int64_t classes = last(&c->source[0]), from = (int64_t)groups->value[k];
    int64_t count = (int64_t)groups->value[k + 1] - from;
    const double *x = c->source[0].value + n * classes + from;
    double *p = c->result[1].value + n * classes + from, *size = checked(malloc(((size_t)count + 1) * sizeof *size));
    double top = -INFINITY, sum = 0.0, share = 0.0;
    softmax_row(x, count, p, size);
    for (int64_t j = 0; j < count; j++) {
        set(&c->result[1], n * classes + from + j, p[j], size[j]);
        top = x[j] > top ? x[j] : top;
    }
    for (int64_t j = 0; j < count; j++) sum += exp(x[j] - top);
    for (int64_t j = 0; j < count; j++) {
        double weight = weights->value ? weights->value[from + j] : 1.0, t;
        if (targets->type == SCBM_I32) t = (int64_t)targets->value[n * targets->shape[1] + k] == j;
        else t = targets->value[n * classes + from + j];
        *loss += weight * t * (top + log(sum) - x[j]);
        *loss_scale += weight * t * (1.0 + fabs(top) + fabs(x[j]) + log(sum));
        share += targets->type == SCBM_I32 ? weight * t : t;
    }
    *total += targets->type == SCBM_I32 ? share : share > 0.0 ? 1.0 : 0.0;
    free(size);
}

static void cross_entropy(ref_call *c) {
    double loss = 0.0, loss_scale = 0.0, total = 0.0;
    for (int64_t n = 0; n < c->source[0].shape[0]; n++)
        for (int64_t k = 0; k + 1 < c->source[2].n; k++) cross_entropy_group(c, n, k, &loss, &loss_scale, &total);
    set(&c->result[0], 0, total > 0.0 ? loss / total : 0.0, total > 0.0 ? loss_scale / total : 0.0);
    set(&c->result[2], 0, total, total);
    for (int i = 0; i < 3; i++) c->result[i].terms = (double)(c->source[0].n + 1);
}

/* sources: the loss's gradient, probabilities, total weight, targets, groups, class weights */
static void cross_entropy_back(ref_call *c) {
    const ref_array *p = &c->source[1], *targets = &c->source[3], *groups = &c->source[4], *weights = &c->source[5];
    int64_t classes = last(p);
    double total = c->source[2].value[0], factor = total > 0.0 ? c->source[0].value[0] / total : 0.0;
    for (int64_t n = 0; n < p->shape[0]; n++)
        for (int64_t k = 0; k + 1 < groups->n; k++) {
            int64_t from = (int64_t)groups->value[k], to = (int64_t)groups->value[k + 1];
            double mass = 0.0; /* Σ w t of the group */
            for (int pass = 0; pass < 2; pass++)
                for (int64_t j = from; j < to; j++) {
                    double weight = weights->value ? weights->value[j] : 1.0, t, q = p->value[n * classes + j];
                    if (targets->type == SCBM_I32) t = from + (int64_t)targets->value[n * targets->shape[1] + k] == j;
                    else t = targets->value[n * classes + j];
                    if (pass == 0) mass += weight * t;
                    else
                        set(&c->result[0], n * classes + j, factor * (q * mass - weight * t),
                            fabs(factor) * (q * mass + weight * t));
                }
        }
    c->result[0].terms = (double)classes;
}

/* ------------------------------------------------------------------------------------------
 * Ops that update: what they write stands after the results
 * ---------------------------------------------------------------------------------------- */

static void accumulate_op(ref_call *c) {
    for (int64_t i = 0; i < c->source[0].n; i++) {
        double y = c->source[1].value[i] + (c->source[2].value[0] == 0.0 ? 0.0 : c->source[0].value[i]);
        set(&c->result[0], i, y, 0.1 * fabs(y));
    }
}

static void square_sum(ref_call *c) {
    const ref_array *a = &c->source[0];
    double sum = 0.0;
    for (int64_t i = 0; i < c->source[1].n; i++) set(&c->result[0], i, c->source[1].value[i], 0.0);
    for (int64_t i = 0; i < a->n; i++) sum += a->value[i] * a->value[i];
    float nearest = (float)sum;
    double left = isfinite(nearest) ? sum - nearest : 0.0;
    set(&c->result[0], 2 * c->integer[0], nearest, 0.1 * sum);
    set(&c->result[0], 2 * c->integer[0] + 1, left, 0.1 * sum);
}

static void clip(ref_call *c) {
    const ref_array *norms = &c->source[0];
    double sum = 0.0, most = c->scalar[0];
    for (int64_t i = 0; i < norms->n; i++) sum += norms->value[i];
    double norm = sqrt(sum), factor = most > 0.0 && norm > most ? most / norm : 1.0;
    double stopped = isfinite(norm) ? c->source[1].value[0] : 1.0;
    set(&c->result[0], 0, norm, norm);
    set(&c->result[0], 1, factor, factor);
    set(&c->result[0], 2, stopped, 0.0);
    set(&c->result[1], 0, stopped, 0.0);
}

static void adamw(ref_call *c) {
    const double *number = c->source[4].value, *own = number + 6 + 2 * c->integer[0], *clipping = c->source[5].value;
    double rate = own[0] * number[0], beta1 = number[3], beta2 = number[4];
    for (int64_t i = 0; i < c->source[0].n; i++) {
        double w = c->source[0].value[i], m = c->source[1].value[i], v = c->source[2].value[i];
        double g = c->source[3].value[i] * clipping[1];
        if (clipping[2] == 0.0) {
            m = beta1 * m + (1.0 - beta1) * g;
            v = beta2 * v + (1.0 - beta2) * g * g;
            w -= rate * (m / number[1] / (sqrt(v / number[2]) + number[5]) + own[1] * w);
        }
        set(&c->result[0], i, w, 4.0 * (fabs(w) + fabs(rate)));
        set(&c->result[1], i, m, fabs(m) + fabs(g));
        set(&c->result[2], i, v, v + g * g);
    }
}

/* ------------------------------------------------------------------------------------------
 * Pruning and explanations
 * ---------------------------------------------------------------------------------------- */

static int bit_of(const ref_array *masks, int64_t s, int64_t row, int64_t column) {
    int64_t at = (s * masks->shape[1] + row) * masks->shape[2] + column / 8;
    return (int)masks->value[at] >> (column % 8) & 1;
}

static void fisher_add(ref_call *c) {
    const ref_array *sums = &c->source[0], *dw = &c->source[1];
    int64_t size = c->integer[0], n = dw->shape[1] * dw->shape[2], blocks = sums->shape[1];
    for (int64_t i = 0; i < sums->n; i++) set(&c->result[0], i, sums->value[i], 1e-8 * fabs(sums->value[i]));
    for (int64_t s = 0; s < dw->shape[0]; s++)
        for (int64_t a = 0; a < n; a++)
            for (int64_t b = a / size * size; b <= a; b++) {
                int64_t i = a % size, j = b % size, at = (s * blocks + a / size) * sums->shape[2] + i * (i + 1) / 2 + j;
                double product = dw->value[s * n + a] * dw->value[s * n + b];
                set(&c->result[0], at, sums->value[at] + product, 1e-8 * (fabs(sums->value[at]) + fabs(product)));
            }
}

static void row_saliency(ref_call *c) {
    const ref_array *dw = &c->source[0], *w = &c->source[1];
    int64_t out = w->shape[0], in = w->shape[1];
    for (int64_t i = 0; i < dw->n; i++) {
        double y = fabs(dw->value[i] * w->value[i % (out * in)]);
        c->result[0].value[i / in] += y;
        if (c->result[0].scale) c->result[0].scale[i / in] += 0.1 * y;
    }
}

static void popup_back(ref_call *c) {
    const ref_array *dense = &c->source[0], *w = &c->source[1], *score = &c->source[2], *masks = &c->source[3];
    int64_t in = w->shape[1];
    for (int64_t i = 0; i < dense->n; i++) {
        int64_t at = i % w->n;
        double y = dense->value[i] * w->value[at] * (score->value[i] < 0.0 ? -1.0 : 1.0);
        set(&c->result[0], i, y, 0.2 * fabs(y));
        if (bit_of(masks, i / w->n, at / in, at % in)) accumulate(&c->result[1], at, dense->value[i]);
    }
}

static void copy_updated(ref_call *c, int result, int source) {
    for (int64_t i = 0; i < c->source[source].n; i++) set(&c->result[result], i, c->source[source].value[i], 0.0);
}

/* The diagonal of F⁻¹ by eliminating F beside the identity. */
static void inverse_diagonal(const double *sums, int64_t size, double m, double damping, double *diagonal) {
    long double *f = checked(calloc((size_t)(2 * size * size), sizeof *f));
    for (int64_t a = 0; a < size; a++) {
        for (int64_t b = 0; b < size; b++) {
            int64_t high = a > b ? a : b, low = a > b ? b : a;
            f[a * 2 * size + b] = sums[high * (high + 1) / 2 + low] / (long double)m +
                                  (a == b ? (long double)damping : 0);
        }
        f[a * 2 * size + size + a] = 1;
    }
    for (int64_t k = 0; k < size; k++)
        for (int64_t a = 0; a < size; a++) {
            long double by = f[a * 2 * size + k] / f[k * 2 * size + k];
            for (int64_t b = k; b < 2 * size && a != k; b++) f[a * 2 * size + b] -= by * f[k * 2 * size + b];
        }
    for (int64_t a = 0; a < size; a++) diagonal[a] = (double)(f[a * 2 * size + size + a] / f[a * 2 * size + a]);
    free(f);
}

static double fisher_damping(const ref_call *c, int64_t s, const double *sums) {
    const ref_array *w = &c->source[1], *masks = &c->source[2];
    const double *number = c->source[3].value;
    int64_t block = c->integer[0], triangle = block * (block + 1) / 2, in = w->shape[1];
    double trace = 0.0, kept = 0.0;
    for (int64_t i = 0; i < w->n; i++) {
        int64_t j = i % block;
        trace += sums[i / block * triangle + j * (j + 1) / 2 + j];
        kept += bit_of(masks, s, i / in, i % in);
    }
    if (number[2] > 0.0) return number[2];
    return kept > 0.0 && trace > 0.0 ? number[1] * (trace / number[0] / kept) : 1e-12;
}

static void fisher_scores(ref_call *c) {
    const ref_array *sums = &c->source[0], *w = &c->source[1];
    int64_t block = c->integer[0], triangle = block * (block + 1) / 2;
    double *diagonal = checked(malloc((size_t)block * sizeof *diagonal));
    for (int64_t s = 0; s < sums->shape[0]; s++) {
        const double *of = sums->value + s * sums->shape[1] * triangle;
        double damping = fisher_damping(c, s, of);
        for (int64_t first = 0; first < w->n; first += block) {
            int64_t size = w->n - first < block ? w->n - first : block;
            inverse_diagonal(of + first / block * triangle, size, c->source[3].value[0], damping, diagonal);
            for (int64_t j = 0; j < size; j++) {
                double y = w->value[first + j] * w->value[first + j] / (2.0 * diagonal[j]);
                set(&c->result[0], s * w->n + first + j, y, 1e-3 * y);
            }
        }
    }
    free(diagonal);
}

typedef struct ranked {
    double score;
    int64_t at;
    int kept;
} ranked;

/* Those that are off, then by score, a NaN first, then by place. */
static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->kept != y->kept) return x->kept - y->kept;
    if (x->kept && isnan(x->score) != isnan(y->score)) return isnan(x->score) ? -1 : 1;
    if (x->kept && x->score < y->score) return -1;
    if (x->kept && x->score > y->score) return 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Marks in goes[n] which `zeros` of a stream's weights (or rows) the scores let go; those that are off go first. */
static void choose(char *goes, const ref_array *score, const ref_array *masks, int64_t s, int64_t zeros, int choice) {
    int64_t in = score->shape[score->n_dims - 1], out = masks->shape[1], n = out * in;
    int64_t units = choice & SCBM_KEEP_ROWS ? out : n, of_unit = n / units, first = score->n_dims == 3 ? s * n : 0;
    ranked *list = checked(malloc((size_t)units * sizeof *list));
    for (int64_t u = 0; u < units; u++) {
        double sum = 0.0;
        int kept = !(choice & SCBM_KEEP_NESTED);
        for (int64_t i = u * of_unit; i < (u + 1) * of_unit; i++) {
            double x = score->value[first + i];
            sum += choice & SCBM_KEEP_ROWS ? x * x : score->type == SCBM_F64 ? x : fabs(x);
            kept |= bit_of(masks, s, i / in, i % in);
        }
        list[u] = (ranked){choice & SCBM_KEEP_ROWS ? sqrt(sum) : sum, u, kept};
    }
    qsort(list, (size_t)units, sizeof *list, compare_ranked);
    memset(goes, 0, (size_t)n);
    for (int64_t u = 0; u < zeros && u < units; u++) memset(goes + list[u].at * of_unit, 1, (size_t)of_unit);
    free(list);
}

static void set_bit(ref_array *masks, int64_t s, int64_t row, int64_t column, int on) {
    int64_t at = (s * masks->shape[1] + row) * masks->shape[2] + column / 8;
    int byte = (int)masks->value[at] & 255;
    byte = on ? byte | 1 << (column % 8) : byte & ~(1 << (column % 8));
    masks->value[at] = (signed char)byte;
}

static void keep_largest(ref_call *c) {
    const ref_array *score = &c->source[0], *before = &c->source[1];
    ref_array *masks = &c->result[0];
    int64_t in = score->shape[score->n_dims - 1], n = before->shape[1] * in;
    int nested = (int)c->integer[0] & SCBM_KEEP_NESTED;
    char *goes = checked(malloc((size_t)n));
    copy_updated(c, 0, 1);
    for (int64_t s = 0; s < before->shape[0]; s++) {
        choose(goes, score, before, s, (int64_t)c->source[2].value[0], (int)c->integer[0]);
        for (int64_t i = 0; i < before->shape[1] * before->shape[2] && !nested; i++)
            masks->value[s * before->shape[1] * before->shape[2] + i] = 0.0;
        for (int64_t i = 0; i < n; i++) {
            int kept = nested ? bit_of(before, s, i / in, i % in) : 1;
            set_bit(masks, s, i / in, i % in, kept && !goes[i]);
        }
    }
    free(goes);
}

static void agree(ref_call *c) {
    const ref_array *score = &c->source[0], *before = &c->source[1], *after = &c->source[2];
    int64_t in = score->shape[score->n_dims - 1], n = before->shape[1] * in;
    char *goes = checked(malloc((size_t)n));
    for (int64_t s = 0; s < before->shape[0]; s++) {
        int64_t count = 0;
        choose(goes, score, before, s, (int64_t)c->source[3].value[0], SCBM_KEEP_NESTED);
        for (int64_t i = 0; i < n; i++) count += !goes[i] && bit_of(after, s, i / in, i % in);
        set(&c->result[0], s, (double)count, 0.0);
    }
    free(goes);
}

/* All weights that may go, or come, in order. */
static int64_t rank_moves(ranked *list, const ref_call *c, int comes, int is_signed) {
    const ref_array *w = &c->source[1], *masks = &c->source[2];
    int64_t in = w->shape[1], n = 0;
    for (int64_t i = 0; i < w->n; i++) {
        double product = c->source[0].value[i] * w->value[i], score = is_signed ? -product : fabs(product);
        if (bit_of(masks, 0, i / in, i % in) == comes) continue;
        if (comes) score = -score;
        if (is_signed && !(score < 0.0)) continue;
        list[n++] = (ranked){score, i / in * masks->shape[2] * 8 + i % in, 1};
    }
    qsort(list, (size_t)n, sizeof *list, compare_ranked);
    return n;
}

static void mask_moves(ref_call *c) {
    const double *wanted = c->source[3].value + 2 * c->integer[0];
    int64_t n = c->source[1].n, most = c->source[4].shape[1], q = (int64_t)wanted[0] < most ? (int64_t)wanted[0] : most;
    ranked *list[2];
    copy_updated(c, 0, 4);
    copy_updated(c, 1, 5);
    for (int comes = 0; comes < 2; comes++) {
        list[comes] = checked(malloc((size_t)(n + 1) * sizeof *list[comes]));
        int64_t there = rank_moves(list[comes], c, comes, wanted[1] != 0.0);
        q = there < q ? there : q;
    }
    for (int comes = 0; comes < 2; comes++) {
        for (int64_t i = 0; i < q; i++) set(&c->result[0], comes * most + i, (double)list[comes][i].at, 0.0);
        free(list[comes]);
    }
    set(&c->result[1], c->integer[0], (double)(q < 0 ? 0 : q), 0.0);
}

static void flip_bits(ref_call *c) {
    const ref_array *moves = &c->source[1];
    const double *wanted = c->source[3].value + 2 * c->integer[0];
    double count = c->source[2].value[c->integer[0]];
    int64_t row_bits = c->source[0].shape[2] * 8;
    copy_updated(c, 0, 0);
    for (int64_t i = 0; i < (int64_t)fmin(wanted[0], count) && i < moves->shape[1]; i++)
        for (int comes = 0; comes < 2; comes++) {
            int64_t at = (int64_t)moves->value[comes * moves->shape[1] + i];
            set_bit(&c->result[0], 0, at / row_bits, at % row_bits, comes ? wanted[1] == 0.0 : wanted[1] != 0.0);
        }
}

/* ------------------------------------------------------------------------------------------
 * LSTM
 * ---------------------------------------------------------------------------------------- */

/* A number and how exact it is. */
typedef struct rough {
    double value, size;
} rough;

static double sigmoid(double x) {
    return 1.0 / (1.0 + exp(-x));
}

/* Token t's place in the text that begins at `first`, walked in the direction of the LSTM. */
static int64_t lstm_place(const ref_call *c, int64_t first, int64_t length, int64_t step) {
    return c->integer[0] ? first + length - 1 - step : first + step;
}

/* What gate g of neuron j gets: of the token, and of the state before (NULL: there is none). */
static rough gate_input(const ref_call *c, int64_t s, int64_t t, int64_t row, const rough *before, int64_t h_n) {
    const ref_array *x = &c->source[0], *w = &c->source[1], *masks = &c->source[3];
    double value = x->value[((x->shape[0] == 1 ? 0 : s) * x->shape[1] + t) * 4 * h_n + row];
    rough z = {value, fabs(value)};
    for (int64_t k = 0; before && k < h_n; k++) {
        if (!is_kept(masks, s, row, k)) continue;
        z.value += w->value[row * h_n + k] * before[k].value;
        z.size += fabs(w->value[row * h_n + k]) * (fabs(before[k].value) + before[k].size);
    }
    return z;
}

static rough gate_of(rough z, int is_tanh) {
    double y = is_tanh ? tanh(z.value) : sigmoid(z.value);
    return (rough){y, fabs(y) + (is_tanh ? 1.0 - y * y : y * (1.0 - y)) * z.size};
}

/* One token; h and cell are those of the state before, and become those of this one. */
static void lstm_token(ref_call *c, int64_t s, int64_t t, int is_first, rough *h, rough *cell, int64_t h_n) {
    rough *z = checked(calloc((size_t)(4 * h_n) + 1, sizeof *z));
    int64_t t_n = c->result[0].shape[1];
    for (int64_t row = 0; row < 4 * h_n; row++) {
        z[row] = gate_of(gate_input(c, s, t, row, is_first ? NULL : h, h_n), row / h_n == 2);
        set(&c->result[1], (s * t_n + t) * 4 * h_n + row, z[row].value, z[row].size);
    }
    for (int64_t j = 0; j < h_n; j++) {
        rough in = z[j], forget = z[h_n + j], new = z[2 * h_n + j], out = z[3 * h_n + j], before = cell[j];
        double value = forget.value * before.value + in.value * new.value, tanh_c = tanh(value);
        double size = forget.value * before.size + fabs(before.value) * forget.size + in.value * new.size +
                      fabs(new.value) * in.size;
        cell[j] = (rough){value, size};
        h[j] = (rough){out.value * tanh_c,
                       fabs(tanh_c) * out.size + out.value * ((1.0 - tanh_c * tanh_c) * size + fabs(tanh_c))};
        set(&c->result[2], (s * t_n + t) * h_n + j, cell[j].value, cell[j].size);
        set(&c->result[0], (s * t_n + t) * h_n + j, h[j].value, h[j].size);
    }
    free(z);
}

/* The texts of a batch, behind which offsets may hold anything: they ascend to at most the number of tokens. */
static int64_t texts_of(const ref_array *offsets, int64_t tokens) {
    int64_t n = 0;
    while (n + 1 < offsets->n && offsets->value[n + 1] >= offsets->value[n] && offsets->value[n + 1] <= (double)tokens) n++;
    return n;
}

static void lstm(ref_call *c) {
    const ref_array *offsets = &c->source[2];
    int64_t h_n = last(&c->source[1]), s_n = c->result[0].shape[0];
    rough *h = checked(calloc((size_t)h_n + 1, sizeof *h)), *cell = checked(calloc((size_t)h_n + 1, sizeof *cell));
    for (int64_t s = 0; s < s_n; s++)
        for (int64_t n = 0; n < texts_of(offsets, c->source[0].shape[1]); n++) {
            int64_t first = (int64_t)offsets->value[n], length = (int64_t)offsets->value[n + 1] - first;
            memset(cell, 0, (size_t)h_n * sizeof *cell);
            for (int64_t step = 0; step < length; step++)
                lstm_token(c, s, lstm_place(c, first, length, step), step == 0, h, cell, h_n);
        }
    free(h);
    free(cell);
    for (int i = 0; i < 3; i++) c->result[i].terms = (double)h_n;
}

/* One token: dh and dc come from the token behind it, and leave for the one before it, at `before` (-1: there is none). */
static void lstm_token_back(ref_call *c, int64_t s, int64_t t, int64_t before, rough *dh, rough *dc, int64_t h_n) {
    const ref_array *dy = &c->source[0], *y = &c->source[1], *gates = &c->source[2], *cells = &c->source[3];
    const ref_array *w = &c->source[4], *masks = &c->source[6];
    int64_t t_n = dy->shape[1], at = (s * t_n + t) * h_n, earlier = (s * t_n + before) * h_n;
    for (int64_t j = 0; j < h_n; j++) {
        const double *gate = gates->value + 4 * at + j;
        double in = gate[0], forget = gate[h_n], new = gate[2 * h_n], out = gate[3 * h_n];
        double cell_before = before < 0 ? 0.0 : cells->value[earlier + j], tanh_c = tanh(cells->value[at + j]);
        rough d = {dy->value[at + j] + dh[j].value, fabs(dy->value[at + j]) + dh[j].size};
        rough cell = {d.value * out * (1.0 - tanh_c * tanh_c) + dc[j].value, d.size * out + dc[j].size};
        double to_in = new *in, to_forget = cell_before *forget, to_out = tanh_c *out;
        set(&c->result[0], 4 * at + j, cell.value * to_in * (1.0 - in), cell.size * fabs(to_in));
        set(&c->result[0], 4 * at + h_n + j, cell.value * to_forget * (1.0 - forget), cell.size * fabs(to_forget));
        set(&c->result[0], 4 * at + 2 * h_n + j, cell.value * in * (1.0 - new *new), cell.size * in);
        set(&c->result[0], 4 * at + 3 * h_n + j, d.value * to_out * (1.0 - out), d.size * fabs(to_out));
        set(&c->result[1], at + j, before < 0 ? 0.0 : y->value[earlier + j], 0.0);
        dc[j] = (rough){cell.value * forget, cell.size * forget};
        dh[j] = (rough){0.0, 0.0};
    }
    for (int64_t row = 0; row < 4 * h_n; row++)
        for (int64_t k = 0; k < h_n; k++) {
            if (!is_kept(masks, s, row, k)) continue;
            double weight = w->value[row * h_n + k], z = c->result[0].value[4 * at + row];
            dh[k].value += weight * z;
            dh[k].size += fabs(weight) * (c->result[0].scale ? c->result[0].scale[4 * at + row] : fabs(z));
        }
}

static void lstm_back(ref_call *c) {
    const ref_array *offsets = &c->source[5];
    int64_t h_n = last(&c->source[4]), s_n = c->source[0].shape[0];
    rough *dh = checked(calloc((size_t)h_n + 1, sizeof *dh)), *dc = checked(calloc((size_t)h_n + 1, sizeof *dc));
    for (int64_t s = 0; s < s_n; s++)
        for (int64_t n = 0; n < texts_of(offsets, c->source[0].shape[1]); n++) {
            int64_t first = (int64_t)offsets->value[n], length = (int64_t)offsets->value[n + 1] - first;
            memset(dh, 0, (size_t)h_n * sizeof *dh);
            memset(dc, 0, (size_t)h_n * sizeof *dc);
            for (int64_t step = length - 1; step >= 0; step--)
                lstm_token_back(c, s, lstm_place(c, first, length, step),
                                step ? lstm_place(c, first, length, step - 1) : -1, dh, dc, h_n);
        }
    free(dh);
    free(dc);
    c->result[0].terms = 4.0 * (double)h_n;
}

/* ------------------------------------------------------------------------------------------
 * The parts of linear ops
 * ---------------------------------------------------------------------------------------- */

/* Element (row, column) of a stream, of which there may be one for all. */
static double factor(const ref_array *x, int64_t s, int64_t row, int64_t column) {
    int64_t n = x->shape[x->n_dims - 1], of_stream = x->shape[x->n_dims - 2] * n;
    return x->value[(streams(x) == 1 ? 0 : s) * of_stream + row * n + column];
}

static void product(ref_call *c) {
    const ref_array *a = &c->source[0], *b = &c->source[1];
    ref_array *y = &c->result[0];
    int64_t form = c->integer[0], n_rows = y->shape[y->n_dims - 2], n_columns = last(y);
    int64_t terms = a->shape[a->n_dims - (form == SCBM_PRODUCT_TN ? 2 : 1)];
    for (int64_t i = 0; i < y->n; i++) {
        int64_t s = i / (n_rows * n_columns), row = i / n_columns % n_rows, column = i % n_columns;
        double sum = 0.0, size = 0.0;
        for (int64_t k = 0; k < terms; k++) {
            double x = form == SCBM_PRODUCT_TN ? factor(a, s, k, row) : factor(a, s, row, k);
            double z = form == SCBM_PRODUCT_NT ? factor(b, s, column, k) : factor(b, s, k, column);
            double term = c->integer[1] ? operand(c, x) * operand(c, z) : x * z;
            sum += term;
            size += fabs(term);
        }
        set(y, i, sum, size);
    }
    y->terms = (double)terms;
}

static void apply_masks(ref_call *c) {
    const ref_array *w = &c->source[0];
    ref_array *y = &c->result[0];
    int64_t out = y->shape[1], in = y->shape[2];
    for (int64_t i = 0; i < y->n; i++)
        if (bit_of(&c->source[1], i / (out * in), i / in % out, i % in)) set(y, i, w->value[i % w->n], 0.0);
}

static void sum_masked(ref_call *c) {
    const ref_array *dw = &c->source[0];
    int64_t out = dw->shape[1], in = dw->shape[2];
    for (int64_t i = 0; i < dw->n; i++)
        if (bit_of(&c->source[1], i / (out * in), i / in % out, i % in))
            accumulate(&c->result[0], i % (out * in), dw->value[i]);
    c->result[0].terms = (double)dw->shape[0];
}

/* ------------------------------------------------------------------------------------------
 * All ops
 * ---------------------------------------------------------------------------------------- */

void ref_compute(ref_call *call) {
    static void (*const ops[SCBM_OP_COUNT])(ref_call *) = {
        [SCBM_OP_GET_ROWS] = get_rows,
        [SCBM_OP_GET_ROWS_BACK] = get_rows_back,
        [SCBM_OP_ADD] = binary,
        [SCBM_OP_MUL] = binary,
        [SCBM_OP_SCALE] = scale,
        [SCBM_OP_SUM_TO] = sum_to,
        [SCBM_OP_BROADCAST] = broadcast,
        [SCBM_OP_RESHAPE] = copy,
        [SCBM_OP_COPY] = copy,
        [SCBM_OP_CAST] = copy,
        [SCBM_OP_CONCAT] = concat,
        [SCBM_OP_SLICE] = slice,
        [SCBM_OP_SLICE_BACK] = slice_back,
        [SCBM_OP_LINEAR] = linear,
        [SCBM_OP_LINEAR_BACK_X] = linear_back_x,
        [SCBM_OP_LINEAR_BACK_W] = linear_back_w,
        [SCBM_OP_PRODUCT] = product,
        [SCBM_OP_APPLY_MASKS] = apply_masks,
        [SCBM_OP_SUM_MASKED] = sum_masked,
        [SCBM_OP_GROUP_LINEAR] = group_linear,
        [SCBM_OP_GROUP_LINEAR_BACK_Z] = group_linear_back_z,
        [SCBM_OP_GROUP_LINEAR_BACK_W] = group_linear_back_w,
        [SCBM_OP_LAYER_NORM] = layer_norm,
        [SCBM_OP_ADD_LAYER_NORM] = add_layer_norm,
        [SCBM_OP_LAYER_NORM_BACK] = layer_norm_back,
        [SCBM_OP_ACTIVATE] = activate,
        [SCBM_OP_ACTIVATE_BACK] = activate_back,
        [SCBM_OP_SOFTMAX] = softmax,
        [SCBM_OP_SOFTMAX_BACK] = softmax_back,
        [SCBM_OP_DROPOUT] = dropout,
        [SCBM_OP_RMS_NORM] = rms_norm,
        [SCBM_OP_RMS_NORM_BACK] = rms_norm_back,
        [SCBM_OP_ATTENTION_BIAS] = attention_bias,
        [SCBM_OP_ATTENTION_BIAS_BACK] = attention_bias,
        [SCBM_OP_ATTENTION] = attention,
        [SCBM_OP_ATTENTION_BACK] = attention_back,
        [SCBM_OP_ATTENTION_SCORES] = attention_scores,
        [SCBM_OP_ATTENTION_MIX] = attention_mix,
        [SCBM_OP_ATTENTION_MIX_TRANSPOSED] = attention_mix,
        [SCBM_OP_SEGMENT_MEAN] = segment,
        [SCBM_OP_SEGMENT_MEAN_BACK] = segment,
        [SCBM_OP_SEGMENT_FIRST] = segment,
        [SCBM_OP_SEGMENT_FIRST_BACK] = segment,
        [SCBM_OP_SEGMENT_LAST] = segment,
        [SCBM_OP_SEGMENT_LAST_BACK] = segment,
        [SCBM_OP_MIX_TEXTS] = mix_texts,
        [SCBM_OP_MIX_TEXTS_BACK] = mix_texts,
        [SCBM_OP_CROSS_ENTROPY] = cross_entropy,
        [SCBM_OP_CROSS_ENTROPY_BACK] = cross_entropy_back,
        [SCBM_OP_ACCUMULATE] = accumulate_op,
        [SCBM_OP_SQUARE_SUM] = square_sum,
        [SCBM_OP_CLIP] = clip,
        [SCBM_OP_ADAMW] = adamw,
        [SCBM_OP_FISHER_ADD] = fisher_add,
        [SCBM_OP_ROW_SALIENCY] = row_saliency,
        [SCBM_OP_POPUP_BACK] = popup_back,
        [SCBM_OP_FISHER_SCORES] = fisher_scores,
        [SCBM_OP_KEEP_LARGEST] = keep_largest,
        [SCBM_OP_AGREE] = agree,
        [SCBM_OP_MASK_MOVES] = mask_moves,
        [SCBM_OP_FLIP_BITS] = flip_bits,
        [SCBM_OP_LSTM] = lstm,
        [SCBM_OP_LSTM_BACK] = lstm_back,
    };
    for (int i = 0; i < call->n_results; i++) {
        ref_array *a = &call->result[i];
        memset(a->value, 0, (size_t)a->n * sizeof *a->value);
        if (a->scale) memset(a->scale, 0, (size_t)a->n * sizeof *a->scale);
        a->terms = 1;
    }
    if (!ops[call->op]) {
        fprintf(stderr, "the reference lacks %s\n", scbm_op_of(call->op)->name);
        exit(1);
    }
    ops[call->op](call);
}

/* ------------------------------------------------------------------------------------------
 * Graphs
 * ---------------------------------------------------------------------------------------- */

static int find_array(const reference *r, const scbm_tensor *tensor) {
    for (int i = 0; i < r->n_arrays; i++)
        if (r->tensor[i] == tensor) return i;
    return -1;
}

/* The tensor's array; new ones are read from the tensor's data where it has no node. */
static int add_array(reference *r, const scbm_tensor *tensor) {
    int known = find_array(r, tensor);
    if (known >= 0) return known;
    if (r->n_arrays == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 64;
        r->tensor = checked(realloc(r->tensor, (size_t)r->capacity * sizeof *r->tensor));
        r->array = checked(realloc(r->array, (size_t)r->capacity * sizeof *r->array));
    }
    int64_t shape[SCBM_MAX_DIMS];
    for (int i = 0; i < tensor->n_dims; i++)
        shape[i] = tensor->extent[i] == SCBM_TOKENS  ? r->tokens
                   : tensor->extent[i] == SCBM_TEXTS ? r->texts
                                                     : tensor->shape[i];
    ref_array array = ref_new(tensor->n_dims, shape, 0);
    array.type = tensor->type;
    if ((!tensor->graph || tensor->node < 0) && tensor->data)
        ref_decode(array.value, tensor->type, tensor->data, array.n);
    r->tensor[r->n_arrays] = tensor;
    r->array[r->n_arrays] = array;
    return r->n_arrays++;
}

void reference_create(reference *r, const scbm_graph *graph, int64_t tokens, int64_t texts) {
    memset(r, 0, sizeof *r);
    r->graph = graph;
    r->tokens = tokens;
    r->texts = texts;
    r->n_nodes = scbm_graph_nodes(graph);
    r->index = checked(calloc((size_t)r->n_nodes + 1, sizeof *r->index));
    for (int i = 0; i < r->n_nodes; i++) {
        const scbm_node *node = scbm_graph_node(graph, i);
        for (int s = 0; s < SCBM_MAX_SOURCES; s++)
            r->index[i][s] = s < node->n_sources && node->source[s] ? add_array(r, node->source[s]) : -1;
        for (int s = 0; s < node->n_results; s++) r->index[i][SCBM_MAX_SOURCES + s] = add_array(r, node->result[s]);
    }
}

void reference_free(reference *r) {
    for (int i = 0; i < r->n_arrays; i++) ref_free(&r->array[i]);
    free(r->array);
    free(r->tensor);
    free(r->index);
    memset(r, 0, sizeof *r);
}

ref_array *reference_array(reference *r, const scbm_tensor *tensor) {
    return &r->array[add_array(r, tensor)];
}

static void run_reference_node(reference *r, int i) {
    const scbm_node *node = scbm_graph_node(r->graph, i);
    ref_call call = {0};
    call.op = node->op;
    memcpy(call.scalar, node->scalar, sizeof call.scalar);
    memcpy(call.integer, node->integer, sizeof call.integer);
    call.n_sources = node->n_sources;
    call.n_results = node->n_results;
    for (int s = 0; s < node->n_sources; s++)
        if (r->index[i][s] >= 0) call.source[s] = r->array[r->index[i][s]];
    for (int s = 0; s < node->n_results; s++) call.result[s] = r->array[r->index[i][SCBM_MAX_SOURCES + s]];
    call.precision = r->precision;
    call.exact = r->exact;
    call.seed = r->seed;
    call.step = r->step;
    ref_compute(&call);
}

void reference_run(reference *r, int n_nodes) {
    for (int i = 0; i < r->n_nodes && (n_nodes < 0 || i < n_nodes); i++) run_reference_node(r, i);
}

double reference_difference(reference *r, const scbm_tensor *loss, const scbm_tensor *tensor, int64_t element) {
    double *value = &reference_array(r, tensor)->value[element], kept = *value, step = 1e-5 * (1.0 + fabs(kept));
    double high, low;
    *value = kept + step;
    reference_run(r, loss->node + 1);
    high = reference_array(r, loss)->value[0];
    *value = kept - step;
    reference_run(r, loss->node + 1);
    low = reference_array(r, loss)->value[0];
    *value = kept;
    return (high - low) / (2.0 * step);
}
