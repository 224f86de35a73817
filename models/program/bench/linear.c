/*
 * models/program/bench/linear.c - y = x Wᵀ + b as one node of a graph; with subnetworks, y[s] = x[s] (W ⊙ M[s])ᵀ + b
 */
#include "models/program/bench/bench.h"

#include <stdio.h>
#include <string.h>

typedef struct linear_shape {
    int64_t in, out;
} linear_shape;

/* A layer with its weights, for so many tokens at a time. */
typedef struct layer {
    const bench_command *bench;
    linear_shape shape;
    int64_t streams, tokens;
    scbm_tensor weight, bias, masks;
    scbm_graph *graph;
    double work; /* multiply-adds of one run; those of masked weights are not done, and do not count */
} layer;

static void fill_normal(float *data, int64_t n, uint64_t seed) {
    scbm_random random = {seed, 0, 0};
    for (int64_t i = 0; i < n; i++) data[i] = (float)(0.1 * scbm_random_normal(&random));
}

static scbm_status make_tensor(const layer *l, scbm_tensor *tensor, const char *name, scbm_type type, int n_dims,
                               const int64_t *shape) {
    scbm_status status = scbm_tensor_init(tensor, name, type, n_dims, shape);
    if (status != SCBM_OK) return status;
    tensor->data = scbm_alloc_array(&l->bench->in.hooks, scbm_tensor_bytes(tensor), 1);
    return tensor->data ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* Integers are computed with quantized weights alone. */
static scbm_status quantize_weight(layer *l) {
    scbm_tensor from = l->weight;
    scbm_status status = make_tensor(l, &l->weight, "w", SCBM_Q8_0, 2, from.shape);
    if (status == SCBM_OK)
        status = scbm_convert(SCBM_Q8_0, l->weight.data, SCBM_F32, from.data, scbm_tensor_elements(&from));
    scbm_release(&l->bench->in.hooks, from.data);
    return status;
}

static scbm_status make_weights(layer *l) {
    const int64_t out = l->shape.out, in = l->shape.in, row_bytes = scbm_mask_row_bytes(in);
    scbm_status status = make_tensor(l, &l->weight, "w", SCBM_F32, 2, (const int64_t[]){out, in});
    if (status == SCBM_OK) status = make_tensor(l, &l->bias, "b", SCBM_F32, 1, &out);
    if (status == SCBM_OK)
        status = make_tensor(l, &l->masks, "masks", SCBM_I8, 3, (const int64_t[]){l->streams, out, row_bytes});
    if (status != SCBM_OK) return status;
    fill_normal(l->weight.data, out * in, 1);
    if (l->bench->in.precision == SCBM_PRECISION_INT8) status = quantize_weight(l);
    if (status != SCBM_OK) return status;
    l->work = (double)l->tokens * (double)(out * in);
    if (!l->bench->subnetworks) return SCBM_OK;
    uint64_t seed = 3;
    l->work = (double)l->tokens * (double)cbm_draw_masks(&l->masks, in, l->bench->sparsity, &seed);
    return scbm_masks_pack(&l->masks, &l->weight, l->tokens <= SCBM_FEW_TOKENS, &l->bench->in.hooks);
}

static scbm_status make_graph(layer *l, scbm_context *context) {
    const int64_t shape[3] = {l->streams, l->tokens, l->shape.in};
    const scbm_extent extent[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    scbm_status status = scbm_graph_create(&l->graph, context);
    if (status != SCBM_OK) return status;
    scbm_graph_set_precision(l->graph, (scbm_precision)l->bench->in.precision);
    scbm_graph_set_capacity(l->graph, l->tokens, 1);
    scbm_tensor *x = scbm_input(l->graph, "x", SCBM_F32, 3, shape, extent);
    scbm_output(l->graph,
                scbm_linear(l->graph, x, &l->weight, &l->bias, l->bench->subnetworks ? &l->masks : NULL, SCBM_NONE));
    status = scbm_graph_plan(l->graph);
    if (status == SCBM_OK) fill_normal(x->data, scbm_tensor_elements(x), 2);
    return status;
}

static void clear(layer *l) {
    const scbm_hooks *hooks = &l->bench->in.hooks;
    scbm_graph_free(l->graph);
    scbm_masks_unpack(&l->masks, hooks);
    scbm_tensor_forget(&l->weight);
    scbm_tensor_forget(&l->bias);
    scbm_tensor_forget(&l->masks);
    scbm_release(hooks, l->weight.data);
    scbm_release(hooks, l->bias.data);
    scbm_release(hooks, l->masks.data);
}

/* Seconds of one run, the median of at least `repeats` and of a quarter of a second. */
static scbm_status time_graph(scbm_graph *graph, int64_t tokens, int64_t repeats, double *seconds) {
    enum { MOST = 4000 };
    static double times[MOST];
    int n = 0;
    scbm_status status = scbm_graph_run(graph, tokens, 1);
    double begin = scbm_seconds(), before = begin;
    while (status == SCBM_OK && n < MOST && (n < repeats || before - begin < 0.25)) {
        status = scbm_graph_run(graph, tokens, 1);
        double now = scbm_seconds();
        times[n++] = now - before;
        before = now;
    }
    if (status == SCBM_OK) *seconds = bench_quantile(times, n, 0.5);
    return status;
}

static scbm_status print_layer(const layer *l, double seconds, double peak) {
    double gflops = 2e-9 * l->work / seconds;
    if (!l->bench->in.json) {
        printf("  %6lld %6lld %6lld  %10.3f  %9.1f", (long long)l->tokens, (long long)l->shape.out,
               (long long)l->shape.in, 1e3 * seconds, gflops);
        if (peak > 0) printf("  %5.0f %%", 100 * gflops / peak);
        putchar('\n');
        return cli_flush();
    }
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "tokens", cli_json_int(l->tokens));
    cJSON_AddItemToObject(object, "in", cli_json_int(l->shape.in));
    cJSON_AddItemToObject(object, "out", cli_json_int(l->shape.out));
    cJSON_AddItemToObject(object, "gflops", cli_json_double(gflops));
    if (peak > 0) cJSON_AddItemToObject(object, "peak_gflops", cli_json_double(peak));
    return bench_print_json(l->bench, "linear", object, -1);
}

static scbm_status measure_layer(const bench_command *b, scbm_context *context, linear_shape shape, int64_t tokens,
                                 double peak) {
    layer l = {.bench = b, .shape = shape, .streams = b->subnetworks ? b->subnetworks : 1, .tokens = tokens};
    double seconds;
    scbm_status status = make_weights(&l);
    if (status == SCBM_OK) status = make_graph(&l, context);
    if (status == SCBM_OK) status = time_graph(l.graph, tokens, b->repeats, &seconds);
    if (status == SCBM_OK) status = print_layer(&l, seconds, peak);
    clear(&l);
    return status;
}

static void print_head(const bench_command *b, double peak) {
    printf("linear, %s", scbm_precision_name((scbm_precision)b->in.precision));
    if (b->subnetworks)
        printf(", %lld subnetworks, %g %% zeros (only kept weights count)", (long long)b->subnetworks,
               100 * b->sparsity);
    putchar('\n');
    if (peak > 0) printf("  measured peak of f32 multiply-adds: %.0f GFLOP/s\n", peak);
    printf("  %6s %6s %6s  %10s  %9s%s\n", "tokens", "out", "in", "ms", "GFLOP/s", peak > 0 ? "  of peak" : "");
}

static scbm_status measure_layers(bench_command *b, scbm_context *context) {
    static const int64_t tokens[] = {25, 128, 512, 1024};
    static const linear_shape shapes[] = {{384, 384}, {768, 768}, {768, 3072}, {3072, 768}};
    double peak = b->in.precision == SCBM_F32 ? bench_measure_peak(b) : 0;
    scbm_status status = SCBM_OK;
    if (!b->in.json) print_head(b, peak);
    for (size_t i = 0; status == SCBM_OK && i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; status == SCBM_OK && j < sizeof tokens / sizeof *tokens; j++)
            status = measure_layer(b, context, shapes[i], tokens[j], peak);
    if (status == SCBM_OK && !b->in.json) bench_print_machine(b, -1);
    return status;
}

static scbm_status run(bench_command *b) {
    scbm_context *context;
    scbm_status status = scbm_context_create(&context, &b->in.hooks, b->in.backend);
    if (status != SCBM_OK) return status;
    status = (b->subnetworks ? scbm_context_check_masked_precision
                             : scbm_context_check_precision)(context, (scbm_precision)b->in.precision);
    if (status == SCBM_OK) status = measure_layers(b, context);
    scbm_context_free(context);
    return status;
}

const bench_kind bench_linear = {
    "linear",
    "one matrix product, in GFLOP/s, for several sizes, beside the processor's measured peak;\n"
    "with --subnetworks, K masked ones (only the kept weights count)",
    run, 0};
