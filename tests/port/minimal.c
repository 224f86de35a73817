/*
 * tests/port/minimal.c - the smallest port: 27 rows in plain C, with which everything but speed is there
 *
 * "Porting to a new device" in the README, worked out. The device has memory of its own (which is the host's, for want of another)
 * and does what it is asked at once. What it has no row for the runtime makes of those that it has, or, where that is done seldom,
 * runs on the host. It is built without the rest of the project, as a plug-in:
 *     cc -std=c11 -O2 -shared -fPIC -DSCBM_PLUGIN -I include -o libsparsecbm-minimal.so minimal.c -lm
 */
#include "sparsecbm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Views
 * ---------------------------------------------------------------------------------------- */

static float *floats(const scbm_view *view) {
    return view->data;
}

static int64_t columns(const scbm_view *view) {
    return view->shape[view->n_dims - 1];
}

static int64_t elements(const scbm_view *view) {
    int64_t n = 1;
    for (int i = 0; i < view->n_dims; i++) n *= view->shape[i];
    return n;
}

static int64_t rows(const scbm_view *view) {
    int64_t n = 1;
    for (int i = 0; i + 1 < view->n_dims; i++) n *= view->shape[i];
    return n;
}

/* What n numbers from number `first` of a tensor of any type are. */
static void read_floats(float *to, const scbm_view *view, int64_t first, int64_t n) {
    const scbm_type_info *type = scbm_type_of(view->type);
    const char *from = (const char *)view->data + first / type->block * type->block_bytes;
    scbm_convert(SCBM_F32, to, view->type, from, n);
}

/* The element of b that stands with element i of a: b's shape is aligned at the last dimension, 1 or nothing fits any. */
static int64_t broadcast_index(const scbm_view *a, int64_t i, const scbm_view *b) {
    int64_t index = 0, stride = 1;
    for (int d = 1; d <= a->n_dims; d++) {
        int64_t at = i % a->shape[a->n_dims - d];
        i /= a->shape[a->n_dims - d];
        if (d > b->n_dims) continue;
        if (b->shape[b->n_dims - d] > 1) index += at * stride;
        stride *= b->shape[b->n_dims - d];
    }
    return index;
}

/* ------------------------------------------------------------------------------------------
 * Rows: lookup, elementwise
 * ---------------------------------------------------------------------------------------- */

static scbm_status get_rows(scbm_queue *queue, const scbm_kernel_call *call) {
    const int32_t *ids = call->source[1].data;
    int64_t d = columns(&call->source[0]);
    (void)queue;
    for (int64_t t = 0; t < call->source[1].shape[0]; t++)
        read_floats(floats(&call->result[0]) + t * d, &call->source[0], ids[t] * d, d);
    return SCBM_OK;
}

static scbm_status get_rows_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const int32_t *ids = call->source[1].data;
    int64_t d = columns(&call->source[0]);
    (void)queue;
    memset(call->result[0].data, 0, (size_t)elements(&call->result[0]) * sizeof(float));
    for (int64_t t = 0; t < call->source[1].shape[0]; t++)
        for (int64_t j = 0; j < d; j++) floats(&call->result[0])[ids[t] * d + j] += floats(&call->source[0])[t * d + j];
    return SCBM_OK;
}

static scbm_status binary(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *b = &call->source[1];
    (void)queue;
    for (int64_t i = 0; i < elements(a); i++) {
        float x = floats(a)[i], y = floats(b)[broadcast_index(a, i, b)];
        floats(&call->result[0])[i] = call->node->op == SCBM_OP_ADD ? x + y : x * y;
    }
    return SCBM_OK;
}

static scbm_status scale(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    for (int64_t i = 0; i < elements(&call->source[0]); i++)
        floats(&call->result[0])[i] = floats(&call->source[0])[i] * call->node->scalar[0];
    return SCBM_OK;
}

/* Sums, or means, in double precision. */
static scbm_status sum_to(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *y = &call->result[0];
    int64_t n = elements(y);
    double *sum = calloc((size_t)n + 1, sizeof *sum);
    (void)queue;
    if (!sum) return scbm_fail(SCBM_ERROR_MEMORY, "minimal: out of memory for %lld sums", (long long)n);
    for (int64_t i = 0; i < elements(a); i++) sum[broadcast_index(a, i, y)] += (double)floats(a)[i];
    double share = call->node->integer[0] && n ? (double)n / (double)elements(a) : 1.0;
    for (int64_t i = 0; i < n; i++) floats(y)[i] = (float)(sum[i] * share);
    free(sum);
    return SCBM_OK;
}

static scbm_status broadcast(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *y = &call->result[0];
    (void)queue;
    float share = call->node->integer[0] && elements(y) ? (float)elements(a) / (float)elements(y) : 1.0f;
    for (int64_t i = 0; i < elements(y); i++) floats(y)[i] = floats(a)[broadcast_index(y, i, a)] * share;
    return SCBM_OK;
}

static const double root_of_2 = 1.4142135623730951, root_of_2_over_pi = 0.7978845608028654;

static double activation(int64_t kind, double x) {
    switch (kind) {
    case SCBM_GELU_ERF: return 0.5 * x * erfc(-x / root_of_2);
    case SCBM_GELU_TANH: return 0.5 * x * (1.0 + tanh(root_of_2_over_pi * (x + 0.044715 * x * x * x)));
    case SCBM_RELU: return x > 0.0 ? x : 0.0;
    case SCBM_TANH: return tanh(x);
    default: return 1.0 / (1.0 + exp(-x)); /* SCBM_SIGMOID */
    }
}

static double activation_slope(int64_t kind, double x) {
    double y = activation(kind, x), t = tanh(root_of_2_over_pi * (x + 0.044715 * x * x * x));
    switch (kind) {
    case SCBM_GELU_ERF: return 0.5 * erfc(-x / root_of_2) + 0.5 * root_of_2_over_pi * x * exp(-0.5 * x * x);
    case SCBM_GELU_TANH:
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root_of_2_over_pi * (1.0 + 0.134145 * x * x);
    case SCBM_RELU: return x > 0.0 ? 1.0 : 0.0;
    case SCBM_TANH: return 1.0 - y * y;
    default: return y * (1.0 - y);
    }
}

static scbm_status activate(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    for (int64_t i = 0; i < elements(&call->source[0]); i++)
        floats(&call->result[0])[i] = (float)activation(call->node->integer[0], (double)floats(&call->source[0])[i]);
    return SCBM_OK;
}

static scbm_status activate_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const float *dy = floats(&call->source[0]), *x = floats(&call->source[1]);
    (void)queue;
    for (int64_t i = 0; i < elements(&call->source[0]); i++)
        floats(&call->result[0])[i] = (float)((double)dy[i] * activation_slope(call->node->integer[0], (double)x[i]));
    return SCBM_OK;
}

/* The numbers that scbm_dropout and scbm_attention draw. */
static scbm_status dropout(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    float p = call->node->scalar[0];
    uint32_t limit = (uint32_t)((double)p * 4294967296.0), word[4];
    (void)queue;
    for (int64_t i = 0; i < elements(x); i++) {
        uint64_t stream = call->step << 32 | (uint64_t)call->node->integer[0] << 16;
        uint64_t counter = (uint64_t)(i / 64 * 16 + i % 16);
        int64_t which = i / 16 % 4;
        if (call->node->integer[1]) {
            int64_t row = i / columns(x), t = row % x->shape[2];
            stream += (uint64_t)(row / x->shape[2]);
            counter = (uint64_t)(t / 4) << 32 | (uint64_t)(i % columns(x));
            which = t % 4;
        }
        scbm_philox(call->seed, stream, counter, word);
        floats(&call->result[0])[i] = word[which] >= limit ? floats(x)[i] * (1.0f / (1.0f - p)) : 0.0f;
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Rows: products, masks
 * ---------------------------------------------------------------------------------------- */

/* Where stream s of a factor begins, which may have one for all. */
static int64_t stream_of(const scbm_view *x, int64_t s) {
    return x->n_dims == 3 && x->shape[0] > 1 ? s * x->shape[1] * x->shape[2] : 0;
}

/* y += the sum over `terms` of a's numbers, `step` apart, times rows of b. */
static void product_of_rows(float *y, const float *a, int64_t step, const float *b, int64_t terms, int64_t n) {
    for (int64_t k = 0; k < terms; k++)
        for (int64_t j = 0; j < n; j++) y[j] += a[k * step] * b[k * n + j];
}

static void product_of_stream(const scbm_kernel_call *call, float *y, const float *a, const float *b) {
    const scbm_view *result = &call->result[0], *second = &call->source[1];
    int64_t m = result->shape[result->n_dims - 2], n = columns(result), in = columns(&call->source[0]);
    int64_t terms = second->shape[second->n_dims - 2];
    for (int64_t i = 0; i < m; i++) switch (call->node->integer[0]) {
        case SCBM_PRODUCT_NT:
            for (int64_t j = 0; j < n; j++) {
                double sum = 0.0;
                for (int64_t k = 0; k < in; k++) sum += (double)a[i * in + k] * (double)b[j * in + k];
                y[i * n + j] = (float)sum;
            }
            break;
        case SCBM_PRODUCT_NN: product_of_rows(y + i * n, a + i * in, 1, b, terms, n); break;
        default: product_of_rows(y + i * n, a + i, in, b, terms, n); break;
        }
}

static scbm_status product(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *b = &call->source[1], *y = &call->result[0];
    int64_t streams = y->n_dims == 3 ? y->shape[0] : 1, n = elements(b);
    float *second = malloc(((size_t)n + 1) * sizeof *second);
    (void)queue;
    if (!second) return scbm_fail(SCBM_ERROR_MEMORY, "minimal: out of memory for %lld weights", (long long)n);
    read_floats(second, b, 0, n);
    memset(y->data, 0, (size_t)elements(y) * sizeof(float));
    for (int64_t s = 0; s < streams; s++)
        product_of_stream(call, floats(y) + s * (elements(y) / streams), floats(a) + stream_of(a, s),
                          second + stream_of(b, s));
    free(second);
    return SCBM_OK;
}

/* Whether weight i of [S, out, in] is kept. */
static int is_kept(const scbm_view *masks, int64_t i, int64_t in) {
    return ((const uint8_t *)masks->data)[i / in * masks->shape[2] + i % in / 8] >> (i % in % 8) & 1;
}

static scbm_status apply_masks(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *w = &call->source[0], *y = &call->result[0];
    int64_t n = elements(w), in = columns(w);
    (void)queue;
    for (int64_t s = 0; s < elements(y) / (n ? n : 1); s++)
        if (w->data != y->data) read_floats(floats(y) + s * n, w, 0, n);
    for (int64_t i = 0; i < elements(y); i++)
        if (!is_kept(&call->source[1], i, in)) floats(y)[i] = 0.0f;
    return SCBM_OK;
}

static scbm_status sum_masked(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *dw = &call->source[0], *y = &call->result[0];
    (void)queue;
    memset(y->data, 0, (size_t)elements(y) * sizeof(float));
    for (int64_t i = 0; i < elements(dw); i++)
        if (is_kept(&call->source[1], i, columns(dw))) floats(y)[i % elements(y)] += floats(dw)[i];
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Rows: normalization, softmax
 * ---------------------------------------------------------------------------------------- */

static scbm_status layer_norm(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    const float *gamma = floats(&call->source[1]), *beta = floats(&call->source[2]);
    int64_t d = columns(x);
    (void)queue;
    for (int64_t r = 0; r < rows(x); r++) {
        const float *from = floats(x) + r * d;
        double mean = 0.0, variance = 0.0;
        for (int64_t j = 0; j < d; j++) mean += (double)from[j] / (double)d;
        for (int64_t j = 0; j < d; j++) variance += ((double)from[j] - mean) * ((double)from[j] - mean) / (double)d;
        double rstd = 1.0 / sqrt(variance + (double)call->node->scalar[0]);
        for (int64_t j = 0; j < d; j++)
            floats(&call->result[0])[r * d + j] = (float)(((double)from[j] - mean) * rstd * (double)gamma[j] +
                                                          (double)beta[j]);
        floats(&call->result[1])[r] = (float)mean;
        floats(&call->result[2])[r] = (float)rstd;
    }
    return SCBM_OK;
}

/* Two sums for each column of gamma and beta, which are of all rows. */
static scbm_status layer_norm_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[1];
    const float *dy = floats(&call->source[0]), *gamma = floats(&call->source[2]);
    int64_t d = columns(x);
    double *sum = calloc(2 * (size_t)d + 1, sizeof *sum);
    (void)queue;
    if (!sum) return scbm_fail(SCBM_ERROR_MEMORY, "minimal: out of memory for %lld sums", (long long)(2 * d));
    for (int64_t r = 0; r < rows(x); r++) {
        double mean = (double)floats(&call->source[3])[r], rstd = (double)floats(&call->source[4])[r];
        double along = 0.0, across = 0.0;
        for (int64_t j = r * d; j < (r + 1) * d; j++) {
            double unit = ((double)floats(x)[j] - mean) * rstd, g = (double)dy[j];
            along += g * (double)gamma[j % d] / (double)d;
            across += g * (double)gamma[j % d] * unit / (double)d;
            sum[j % d] += g * unit;
            sum[d + j % d] += g;
        }
        for (int64_t j = r * d; j < (r + 1) * d; j++) {
            double unit = ((double)floats(x)[j] - mean) * rstd;
            floats(&call->result[0])[j] = (float)(rstd *
                                                  ((double)dy[j] * (double)gamma[j % d] - along - unit * across));
        }
    }
    for (int64_t j = 0; j < 2 * d; j++) floats(&call->result[1 + (j >= d)])[j % d] = (float)sum[j];
    free(sum);
    return SCBM_OK;
}

/* Minus infinity gives 0, also where all are. Returns the logarithm of what the exponentials sum up to. */
static double softmax_of(float *y, const float *x, int64_t n) {
    double top = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < n; j++) top = fmax(top, (double)x[j]);
    for (int64_t j = 0; j < n; j++) sum += isinf(x[j]) ? 0.0 : exp((double)x[j] - top);
    for (int64_t j = 0; j < n; j++) y[j] = isinf(x[j]) ? 0.0f : (float)(exp((double)x[j] - top) / sum);
    return top + log(sum);
}

static scbm_status softmax(scbm_queue *queue, const scbm_kernel_call *call) {
    int64_t n = columns(&call->source[0]);
    (void)queue;
    for (int64_t r = 0; r < rows(&call->source[0]); r++)
        softmax_of(floats(&call->result[0]) + r * n, floats(&call->source[0]) + r * n, n);
    return SCBM_OK;
}

static scbm_status softmax_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const float *dy = floats(&call->source[0]), *y = floats(&call->source[1]);
    int64_t n = columns(&call->source[1]);
    (void)queue;
    for (int64_t r = 0; r < rows(&call->source[1]); r++) {
        double dot = 0.0;
        for (int64_t j = r * n; j < (r + 1) * n; j++) dot += (double)dy[j] * (double)y[j];
        for (int64_t j = r * n; j < (r + 1) * n; j++)
            floats(&call->result[0])[j] = (float)((double)y[j] * ((double)dy[j] - dot));
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Rows: attention in parts, texts
 * ---------------------------------------------------------------------------------------- */

/* Calls `pair` for every stream, head, query t and key j of its text; at: the score [S, heads, T, C]; a, b: where the query's and
 * the key's head begin in [S, T, heads · size]. */
typedef void (*pair_function)(const scbm_kernel_call *call, int64_t at, int64_t a, int64_t b, int64_t size);

static void each_pair(const scbm_kernel_call *call, const scbm_view *x, const scbm_view *p, pair_function pair) {
    const int32_t *offsets = call->source[2].data;
    int64_t heads = call->node->integer[0], tokens = x->shape[1], size = columns(x) / heads, context = columns(p);
    for (int64_t i = 0; i < x->shape[0] * heads; i++)
        for (int64_t n = 0; n < call->texts; n++)
            for (int64_t t = offsets[n]; t < offsets[n + 1]; t++)
                for (int64_t j = offsets[n]; j < offsets[n + 1] && j - offsets[n] < context; j++) {
                    if (call->node->integer[1] && j > t) break; /* causal */
                    int64_t stream = i / heads * tokens, head = i % heads;
                    pair(call, (i * tokens + t) * context + j - offsets[n], ((stream + t) * heads + head) * size,
                         ((stream + j) * heads + head) * size, size);
                }
}

static void score_pair(const scbm_kernel_call *call, int64_t at, int64_t a, int64_t b, int64_t size) {
    double sum = 0.0;
    for (int64_t i = 0; i < size; i++)
        sum += (double)floats(&call->source[0])[a + i] * (double)floats(&call->source[1])[b + i];
    floats(&call->result[0])[at] = (float)sum;
}

static scbm_status attention_scores(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    for (int64_t i = 0; i < elements(&call->result[0]); i++) floats(&call->result[0])[i] = call->node->scalar[0];
    each_pair(call, &call->source[0], &call->result[0], score_pair);
    return SCBM_OK;
}

static void mix_pair(const scbm_kernel_call *call, int64_t at, int64_t a, int64_t b, int64_t size) {
    int64_t to = call->node->op == SCBM_OP_ATTENTION_MIX ? a : b, from = a + b - to;
    float p = floats(&call->source[0])[at];
    for (int64_t i = 0; i < size; i++) floats(&call->result[0])[to + i] += p * floats(&call->source[1])[from + i];
}

static scbm_status attention_mix(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    memset(call->result[0].data, 0, (size_t)elements(&call->result[0]) * sizeof(float));
    each_pair(call, &call->source[1], &call->source[0], mix_pair);
    return SCBM_OK;
}

/* The mean of each text's tokens, or each token's part of the mean's gradient; tokens outside of texts have none. */
static scbm_status segment_mean(scbm_queue *queue, const scbm_kernel_call *call) {
    const int32_t *offsets = call->source[1].data;
    int is_back = call->node->op == SCBM_OP_SEGMENT_MEAN_BACK;
    const scbm_view *x = &call->source[0], *y = &call->result[0];
    int64_t tokens = is_back ? y->shape[1] : x->shape[1], d = columns(x);
    (void)queue;
    memset(y->data, 0, (size_t)elements(y) * sizeof(float));
    for (int64_t s = 0; s < x->shape[0]; s++)
        for (int64_t n = 0; n < call->texts; n++)
            for (int64_t t = offsets[n]; t < offsets[n + 1]; t++)
                for (int64_t j = 0; j < d; j++) {
                    int64_t text = (s * call->texts + n) * d + j, token = (s * tokens + t) * d + j;
                    float value = floats(x)[is_back ? text : token] / (float)(offsets[n + 1] - offsets[n]);
                    floats(y)[is_back ? token : text] += value;
                }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Rows: the loss
 * ---------------------------------------------------------------------------------------- */

/* What group k of text n has of its target in column j, and how much it counts. */
static double target_of(const scbm_view *targets, const int32_t *groups, int64_t classes, int64_t n, int64_t k,
                        int64_t j) {
    if (targets->type == SCBM_F32) return (double)floats(targets)[n * classes + j];
    return ((const int32_t *)targets->data)[n * targets->shape[1] + k] == j - groups[k];
}

static double weight_of(const scbm_view *weights, int64_t j) {
    return weights->data ? (double)floats(weights)[j] : 1.0;
}

static scbm_status cross_entropy(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *logits = &call->source[0], *targets = &call->source[1];
    const int32_t *groups = call->source[2].data;
    int64_t classes = columns(logits);
    double loss = 0.0, total = 0.0;
    (void)queue;
    for (int64_t n = 0; n < logits->shape[0]; n++)
        for (int64_t k = 0; k + 1 < call->source[2].shape[0]; k++) {
            const float *x = floats(logits) + n * classes;
            float *p = floats(&call->result[1]) + n * classes;
            double log_sum = softmax_of(p + groups[k], x + groups[k], groups[k + 1] - groups[k]), share = 0.0;
            for (int64_t j = groups[k]; j < groups[k + 1]; j++) {
                double weight = weight_of(&call->source[3], j), t = target_of(targets, groups, classes, n, k, j);
                if (t != 0.0) loss += weight * t * (log_sum - (double)x[j]);
                share += targets->type == SCBM_I32 ? weight * t : t;
            }
            total += targets->type == SCBM_I32 ? share : share > 0.0;
        }
    floats(&call->result[0])[0] = total > 0.0 ? (float)(loss / total) : 0.0f;
    floats(&call->result[2])[0] = (float)total;
    return SCBM_OK;
}

static scbm_status cross_entropy_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *p = &call->source[1], *targets = &call->source[3], *weights = &call->source[5];
    const int32_t *groups = call->source[4].data;
    int64_t classes = columns(p);
    double total = (double)floats(&call->source[2])[0],
           factor = total > 0.0 ? (double)floats(&call->source[0])[0] / total : 0.0;
    (void)queue;
    for (int64_t n = 0; n < p->shape[0]; n++)
        for (int64_t k = 0; k + 1 < call->source[4].shape[0]; k++) {
            double mass = 0.0;
            for (int64_t j = groups[k]; j < groups[k + 1]; j++)
                mass += weight_of(weights, j) * target_of(targets, groups, classes, n, k, j);
            for (int64_t j = groups[k]; j < groups[k + 1]; j++) {
                double own = weight_of(weights, j) * target_of(targets, groups, classes, n, k, j);
                floats(&call->result[0])[n * classes + j] = (float)(factor *
                                                                    ((double)floats(p)[n * classes + j] * mass - own));
            }
        }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Rows: a step
 * ---------------------------------------------------------------------------------------- */

/* A pair of f32: the sum, and what it lacks. */
static scbm_status square_sum(scbm_queue *queue, const scbm_kernel_call *call) {
    float *pair = floats(&call->source[1]) + 2 * call->node->integer[0];
    double sum = 0.0;
    (void)queue;
    for (int64_t i = 0; i < elements(&call->source[0]); i++)
        sum += (double)floats(&call->source[0])[i] * (double)floats(&call->source[0])[i];
    pair[0] = (float)sum;
    pair[1] = isfinite(pair[0]) ? (float)(sum - (double)pair[0]) : 0.0f;
    return SCBM_OK;
}

static scbm_status clip(scbm_queue *queue, const scbm_kernel_call *call) {
    float *stopped = floats(&call->source[1]), *y = floats(&call->result[0]), most = call->node->scalar[0];
    double sum = 0.0;
    (void)queue;
    for (int64_t i = 0; i < elements(&call->source[0]); i++) sum += (double)floats(&call->source[0])[i];
    double norm = sqrt(sum);
    if (!isfinite(norm)) *stopped = 1.0f;
    y[0] = (float)norm;
    y[1] = most > 0.0f && norm > (double)most ? (float)((double)most / norm) : 1.0f;
    y[2] = *stopped;
    return SCBM_OK;
}

static scbm_status adamw(scbm_queue *queue, const scbm_kernel_call *call) {
    float *w = floats(&call->source[0]), *m = floats(&call->source[1]), *v = floats(&call->source[2]);
    const float *numbers = floats(&call->source[4]), *clipping = floats(&call->source[5]);
    const float *own = numbers + 6 + 2 * call->node->integer[0];
    (void)queue;
    if (clipping[2] != 0.0f) return SCBM_OK;
    for (int64_t i = 0; i < elements(&call->source[0]); i++) {
        float g = floats(&call->source[3])[i] * clipping[1];
        m[i] = numbers[3] * m[i] + (1.0f - numbers[3]) * g;
        v[i] = numbers[4] * v[i] + (1.0f - numbers[4]) * g * g;
        w[i] -= own[0] * numbers[0] * (m[i] / numbers[1] / (sqrtf(v[i] / numbers[2]) + numbers[5]) + own[1] * w[i]);
    }
    return SCBM_OK;
}

static const scbm_kernel kernels[SCBM_OP_COUNT] = {
    [SCBM_OP_GET_ROWS] = {.run = get_rows},
    [SCBM_OP_GET_ROWS_BACK] = {.run = get_rows_back},
    [SCBM_OP_ADD] = {.run = binary},
    [SCBM_OP_MUL] = {.run = binary},
    [SCBM_OP_SCALE] = {.run = scale},
    [SCBM_OP_SUM_TO] = {.run = sum_to},
    [SCBM_OP_BROADCAST] = {.run = broadcast},
    [SCBM_OP_LAYER_NORM] = {.run = layer_norm},
    [SCBM_OP_LAYER_NORM_BACK] = {.run = layer_norm_back},
    [SCBM_OP_ACTIVATE] = {.run = activate},
    [SCBM_OP_ACTIVATE_BACK] = {.run = activate_back},
    [SCBM_OP_SOFTMAX] = {.run = softmax},
    [SCBM_OP_SOFTMAX_BACK] = {.run = softmax_back},
    [SCBM_OP_DROPOUT] = {.run = dropout},
    [SCBM_OP_ATTENTION_SCORES] = {.run = attention_scores},
    [SCBM_OP_ATTENTION_MIX] = {.run = attention_mix},
    [SCBM_OP_ATTENTION_MIX_TRANSPOSED] = {.run = attention_mix},
    [SCBM_OP_SEGMENT_MEAN] = {.run = segment_mean},
    [SCBM_OP_SEGMENT_MEAN_BACK] = {.run = segment_mean},
    [SCBM_OP_CROSS_ENTROPY] = {.run = cross_entropy},
    [SCBM_OP_CROSS_ENTROPY_BACK] = {.run = cross_entropy_back},
    [SCBM_OP_SQUARE_SUM] = {.run = square_sum},
    [SCBM_OP_CLIP] = {.run = clip},
    [SCBM_OP_ADAMW] = {.run = adamw},
    [SCBM_OP_PRODUCT] = {.run = product},
    [SCBM_OP_APPLY_MASKS] = {.run = apply_masks},
    [SCBM_OP_SUM_MASKED] = {.run = sum_masked},
};

/* ------------------------------------------------------------------------------------------
 * Memory, queue, name
 * ---------------------------------------------------------------------------------------- */

static void free_backend(scbm_backend *backend) {
    free(backend);
}

static const char *device_name(scbm_backend *backend) {
    (void)backend;
    return "minimal";
}

static scbm_status queue_create(scbm_backend *backend, scbm_context *context, scbm_queue **queue) {
    (void)backend, (void)context;
    *queue = calloc(1, sizeof **queue);
    return *queue ? SCBM_OK : scbm_fail(SCBM_ERROR_MEMORY, "minimal: out of memory for a queue");
}

static void queue_free(scbm_queue *queue) {
    free(queue);
}

static void *allocate(scbm_backend *backend, size_t bytes) {
    (void)backend;
    return bytes > SIZE_MAX - 64 ? NULL : aligned_alloc(64, (bytes / 64 + 1) * 64);
}

static void deallocate(scbm_backend *backend, void *memory) {
    (void)backend;
    free(memory);
}

static scbm_status copy(scbm_queue *queue, void *to, const void *from, size_t bytes) {
    (void)queue;
    memcpy(to, from, bytes);
    return SCBM_OK;
}

static scbm_status wait_for_all(scbm_queue *queue) {
    (void)queue; /* everything was done when it was asked for */
    return SCBM_OK;
}

static const scbm_backend_functions functions = {
    .version = SCBM_BACKEND_VERSION,
    .name = "minimal",
    .n_kernels = SCBM_OP_COUNT,
    .kernels = kernels,
    .free = free_backend,
    .device = device_name,
    .queue_create = queue_create,
    .queue_free = queue_free,
    .allocate = allocate,
    .deallocate = deallocate,
    .upload = copy,
    .download = copy,
    .wait = wait_for_all,
};

static int count(void) {
    return 1;
}

static void describe(int device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "minimal (a port in plain C)");
}

static scbm_status open_device(scbm_backend **backend, const char *device, const scbm_backend_options *options) {
    (void)options;
    *backend = NULL;
    if (device && strcmp(device, "0"))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "minimal: there is no device '%.20s'", device);
    *backend = calloc(1, sizeof **backend);
    if (!*backend) return scbm_fail(SCBM_ERROR_MEMORY, "minimal: out of memory");
    (*backend)->functions = &functions;
    return SCBM_OK;
}

static const scbm_backend_entry entry = {SCBM_BACKEND_VERSION, "minimal", count, describe, open_device};

SCBM_PLUGIN_MAIN(&entry)
