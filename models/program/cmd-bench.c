/*
 * models/program/cmd-bench.c - how fast it is: matrix products, whole texts, one text, a training step, the start
 *
 * Every figure is the median of repeats. What is measured stands in each function's comment. With --subnetworks or
 * --sparsity it is measured on a model of which each concept has a subnetwork of its own, with random masks.
 */
#define _DEFAULT_SOURCE /* wait4 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"
#include "models/program/demo/demo.h"
#include "models/core/masks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define X86_PEAK 1
#endif

enum { SYNTHETIC_TEXTS = 512, TRAIN_BATCH = 16, LATENCY_TEXTS = 200, TRAIN_TEXTS = 12 * TRAIN_BATCH, PATH_SIZE = 1024 };

/* A model with a context, texts, and room for their results. */
typedef struct loaded {
    cbm_model *model;
    cbm_context *context;
    cbm_dataset data;
    float *vectors;
    int is_loaded;
} loaded;

typedef struct bench_command {
    const cli_command *command;
    const char *model_path, *data, *output;
    cli_columns columns;
    int64_t threads, repeats, texts, max_length, subnetworks;
    double sparsity;           /* below 0: not given */
    int json, precision, shape;
    cli_progress progress;
    scbm_hooks hooks;
    char directory[PATH_SIZE]; /* for what is made; removed at the end */
    char made_encoder[PATH_SIZE + 32], made_model[PATH_SIZE + 32];
    char tier[64];
    int workers;
    loaded loaded;
} bench_command;

/* ------------------------------------------------------------------------------------------
 * Results
 * ---------------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which `share` of the n values lie; sorts them. */
static double quantile(double *values, int n, double share) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    int index = (int)(share * (n - 1) + 0.5);
    return values[index];
}

/* Adds what every result has, and prints it. `peak_mb` below 0: this process's. */
static scbm_status print_json(const bench_command *b, const char *what, cJSON *object, double peak_mb) {
    cJSON_AddStringToObject(object, "bench", what);
    if (b->subnetworks) cJSON_AddItemToObject(object, "subnetworks", cli_json_int(b->subnetworks));
    if (b->subnetworks) cJSON_AddItemToObject(object, "sparsity", cli_json_double(b->sparsity));
    cJSON_AddStringToObject(object, "tier", b->tier);
    cJSON_AddItemToObject(object, "threads", cli_json_int(b->workers));
    cJSON_AddItemToObject(object, "peak_mb", cli_json_double(peak_mb < 0 ? cli_peak_megabytes() : peak_mb));
    return cli_json_print(object);
}

static void print_machine(const bench_command *b, double peak_mb) {
    printf("  %s, %d threads, peak memory %.0f MiB\n", b->tier, b->workers, peak_mb < 0 ? cli_peak_megabytes() : peak_mb);
}

/* Learns the tier and the number of threads. */
static scbm_status look_at_machine(bench_command *b) {
    scbm_context *context;
    scbm_status status = scbm_context_create(&context, &b->hooks, NULL);
    if (status != SCBM_OK) return status;
    const char *device = scbm_context_device(context), *open = strchr(device, '(');
    snprintf(b->tier, sizeof b->tier, "%s", open ? open + 1 : device);
    b->tier[strcspn(b->tier, ")")] = 0;
    b->workers = scbm_context_workers(context);
    scbm_context_free(context);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The machine's peak: fused multiply-adds on registers alone
 * ---------------------------------------------------------------------------------------- */

#ifdef X86_PEAK

enum { PEAK_ROUNDS = 2000000, PEAK_CHAINS = 12 };

__attribute__((target("avx2,fma"))) static float peak_avx2(void) {
    __m256 sum[PEAK_CHAINS], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
    for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm256_set1_ps((float)c);
    for (int i = 0; i < PEAK_ROUNDS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm256_fmadd_ps(sum[c], factor, term);
    }
    for (int c = 1; c < PEAK_CHAINS; c++) sum[0] = _mm256_add_ps(sum[0], sum[c]);
    return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) static float peak_avx512(void) {
    __m512 sum[PEAK_CHAINS], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
    for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < PEAK_ROUNDS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_fmadd_ps(sum[c], factor, term);
    }
    for (int c = 1; c < PEAK_CHAINS; c++) sum[0] = _mm512_add_ps(sum[0], sum[c]);
    return _mm512_cvtss_f32(sum[0]);
}

typedef struct peak_job {
    pthread_t thread;
    int wide;
    float sum; /* kept, so that the work cannot be left out */
} peak_job;

static void *peak_thread(void *job) {
    peak_job *mine = job;
    mine->sum = mine->wide ? peak_avx512() : peak_avx2();
    return NULL;
}

/* GFLOP/s that as many threads as are used reach without touching memory; 0 where that is not known. */
static double measure_peak(const bench_command *b) {
    int wide = strcmp(b->tier, "avx512") == 0;
    if (!wide && strcmp(b->tier, "avx2") != 0) return 0;
    double best = 0;
    for (int repeat = 0; repeat < 20; repeat++) {
        peak_job job[64];
        int n = b->workers < 64 ? b->workers : 64, started = 0;
        double begin = scbm_seconds();
        for (int i = 0; i < n; i++) job[i].wide = wide;
        while (started < n && pthread_create(&job[started].thread, NULL, peak_thread, &job[started]) == 0) started++;
        for (int i = 0; i < started; i++) pthread_join(job[i].thread, NULL);
        double rate = 2.0 * (wide ? 16 : 8) * PEAK_CHAINS * PEAK_ROUNDS * started / (scbm_seconds() - begin) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

#else

static double measure_peak(const bench_command *b) {
    (void)b;
    return 0;
}

#endif

/* ------------------------------------------------------------------------------------------
 * linear: y = x Wᵀ + b as one node of a graph; with subnetworks, y[s] = x[s] (W ⊙ M[s])ᵀ + b
 * ---------------------------------------------------------------------------------------- */

typedef struct linear_shape {
    int64_t in, out;
} linear_shape;

static void fill_normal(float *data, int64_t n, uint64_t seed) {
    scbm_random random = {seed, 0, 0};
    for (int64_t i = 0; i < n; i++) data[i] = (float)(0.1 * scbm_random_normal(&random));
}

/* How many weights of the subnetworks are kept in all. */
static int64_t draw_masks(const bench_command *b, const scbm_tensor *masks, linear_shape shape) {
    uint64_t seed = 3;
    int64_t kept = 0;
    demo_draw_masks(masks, shape.in, b->sparsity, &seed);
    for (int s = 0; s < (int)b->subnetworks; s++) kept += cbm_mask_kept(masks, s);
    return kept;
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
    if (status == SCBM_OK) *seconds = quantile(times, n, 0.5);
    return status;
}

/* `work` is the multiply-adds of one run; those of masked weights are not done, and do not count. */
static scbm_status time_linear(const bench_command *b, scbm_context *context, int64_t tokens, linear_shape shape, double *seconds,
                               double *work) {
    const int64_t S = b->subnetworks ? b->subnetworks : 1;
    const int64_t x_shape[3] = {S, tokens, shape.in}, w_shape[2] = {shape.out, shape.in}, b_shape[1] = {shape.out};
    const int64_t masks_shape[3] = {S, shape.out, scbm_mask_row_bytes(shape.in)};
    const scbm_extent extent[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    scbm_tensor w, bias, masks;
    scbm_graph *graph = NULL;
    scbm_status status = scbm_tensor_init(&w, "w", SCBM_F32, 2, w_shape);
    if (status == SCBM_OK) status = scbm_tensor_init(&bias, "b", SCBM_F32, 1, b_shape);
    if (status == SCBM_OK) status = scbm_tensor_init(&masks, "masks", SCBM_I8, 3, masks_shape);
    if (status != SCBM_OK) return status;
    w.data = scbm_alloc_array(&b->hooks, (size_t)(shape.out * shape.in), sizeof(float));
    bias.data = scbm_alloc_array(&b->hooks, (size_t)shape.out, sizeof(float));
    masks.data = scbm_alloc_array(&b->hooks, (size_t)(S * shape.out), (size_t)masks_shape[2]);
    if (!w.data || !bias.data || !masks.data) status = SCBM_ERROR_MEMORY;
    if (status == SCBM_OK) status = scbm_graph_create(&graph, context);
    if (status == SCBM_OK) {
        *work = (double)tokens * (double)(b->subnetworks ? draw_masks(b, &masks, shape) : shape.out * shape.in);
        fill_normal(w.data, shape.out * shape.in, 1);
        scbm_graph_set_precision(graph, (scbm_precision)b->precision);
        scbm_graph_set_capacity(graph, tokens, 1);
        scbm_tensor *x = scbm_input(graph, "x", SCBM_F32, 3, x_shape, extent);
        if (b->subnetworks) status = scbm_masks_pack(&masks, &w, tokens <= SCBM_FEW_TOKENS, &b->hooks);
        scbm_output(graph, scbm_linear(graph, x, &w, &bias, b->subnetworks ? &masks : NULL, SCBM_NONE));
        status = scbm_graph_plan(graph);
        if (status == SCBM_OK) {
            fill_normal(x->data, S * tokens * shape.in, 2);
            status = time_graph(graph, tokens, b->repeats, seconds);
        }
    }
    scbm_graph_free(graph);
    scbm_release(&b->hooks, w.data);
    scbm_release(&b->hooks, bias.data);
    scbm_masks_unpack(&masks, &b->hooks);
    scbm_release(&b->hooks, masks.data);
    return status;
}

static scbm_status print_linear(const bench_command *b, int64_t tokens, linear_shape shape, double seconds, double work,
                                double peak) {
    double gflops = 2e-9 * work / seconds;
    if (!b->json) {
        printf("  %6lld %6lld %6lld  %10.3f  %9.1f", (long long)tokens, (long long)shape.out, (long long)shape.in, 1e3 * seconds, gflops);
        if (peak > 0) printf("  %5.0f %%", 100 * gflops / peak);
        putchar('\n');
        return cli_flush();
    }
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "tokens", cli_json_int(tokens));
    cJSON_AddItemToObject(object, "in", cli_json_int(shape.in));
    cJSON_AddItemToObject(object, "out", cli_json_int(shape.out));
    cJSON_AddItemToObject(object, "gflops", cli_json_double(gflops));
    if (peak > 0) cJSON_AddItemToObject(object, "peak_gflops", cli_json_double(peak));
    return print_json(b, "linear", object, -1);
}

static scbm_status bench_linear(bench_command *b) {
    static const int64_t tokens[] = {25, 128, 512, 1024};
    static const linear_shape shapes[] = {{384, 384}, {768, 768}, {768, 3072}, {3072, 768}};
    scbm_context *context;
    scbm_status status = scbm_context_create(&context, &b->hooks, NULL);
    if (status != SCBM_OK) return status;
    status = scbm_context_check_precision(context, (scbm_precision)b->precision);
    if (status != SCBM_OK) {
        scbm_context_free(context);
        return status;
    }
    double peak = b->precision ? 0 : measure_peak(b);
    if (!b->json) {
        printf("linear, %s", scbm_precision_name((scbm_precision)b->precision));
        if (b->subnetworks) printf(", %lld subnetworks, %g %% zeros (only kept weights count)", (long long)b->subnetworks, 100 * b->sparsity);
        putchar('\n');
        if (peak > 0) printf("  measured peak of f32 multiply-adds: %.0f GFLOP/s\n", peak);
        printf("  %6s %6s %6s  %10s  %9s%s\n", "tokens", "out", "in", "ms", "GFLOP/s", peak > 0 ? "  of peak" : "");
    }
    for (size_t i = 0; status == SCBM_OK && i < sizeof shapes / sizeof *shapes; i++) {
        for (size_t j = 0; status == SCBM_OK && j < sizeof tokens / sizeof *tokens; j++) {
            double seconds, work;
            status = time_linear(b, context, tokens[j], shapes[i], &seconds, &work);
            if (status == SCBM_OK) status = print_linear(b, tokens[j], shapes[i], seconds, work, peak);
        }
    }
    if (status == SCBM_OK && !b->json) print_machine(b, -1);
    scbm_context_free(context);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Models and texts: the user's, or an encoder with random weights and generated reviews
 * ---------------------------------------------------------------------------------------- */

static const char *const made_names[] = {"encoder.gguf", "model.gguf", "trained.gguf", "trained.gguf.checkpoint", "data.csv"};
enum { MADE_ENCODER, MADE_MODEL, MADE_TRAINED, MADE_CHECKPOINT, MADE_DATA, N_MADE };

static void made_path(const bench_command *b, int which, char path[PATH_SIZE + 32]) {
    snprintf(path, PATH_SIZE + 32, "%s/%s", b->directory, made_names[which]);
}

static scbm_status make_directory(bench_command *b) {
    const char *parent = getenv("TMPDIR");
    if (b->directory[0]) return SCBM_OK;
    if (!parent || !*parent || strlen(parent) > PATH_SIZE - 32) parent = "/tmp";
    snprintf(b->directory, sizeof b->directory, "%s/sparsecbm-XXXXXX", parent);
    if (mkdtemp(b->directory)) return SCBM_OK;
    scbm_status status = scbm_fail(SCBM_ERROR_IO, "%s cannot be made: %s", b->directory, strerror(errno));
    b->directory[0] = 0;
    return status;
}

static void remove_directory(const bench_command *b) {
    char path[PATH_SIZE + 32];
    if (!b->directory[0]) return;
    for (int i = 0; i < N_MADE; i++) {
        made_path(b, i, path);
        unlink(path);
    }
    rmdir(b->directory);
}

static scbm_status find_encoder(bench_command *b) {
    static const demo_shape shapes[] = {{384, 6, 12, 1536, 512}, {768, 12, 12, 3072, 512}};
    if (b->model_path) return SCBM_OK;
    scbm_status status = make_directory(b);
    if (status != SCBM_OK) return status;
    made_path(b, MADE_ENCODER, b->made_encoder);
    b->model_path = b->made_encoder;
    if (!b->json) printf("no --model: an encoder of %s's shape with random weights\n", b->shape ? "BERT-base" : "MiniLM");
    return demo_write_encoder(b->made_encoder, &shapes[b->shape], 1, 100, &b->hooks);
}

/* The encoder, or a model with subnetworks on it. */
static scbm_status find_model(bench_command *b) {
    if (b->made_model[0]) return SCBM_OK;
    scbm_status status = find_encoder(b);
    if (status == SCBM_OK && b->subnetworks) status = make_directory(b);
    if (status != SCBM_OK || !b->subnetworks) return status;
    made_path(b, MADE_MODEL, b->made_model);
    const char *encoder = b->model_path;
    b->model_path = b->output ? b->output : b->made_model;
    if (!b->json) printf("%lld concepts, random masks, %g %% zeros\n", (long long)b->subnetworks, 100 * b->sparsity);
    return demo_write_subnetworks(b->model_path, encoder, (int)b->subnetworks, b->sparsity, 1, &b->hooks);
}

/* Texts and, with `labels`, what they are labelled with. */
static scbm_status find_data(bench_command *b, int labels, cbm_dataset *data) {
    static const char *demo_path;
    static char path[PATH_SIZE + 32];
    cli_list paths = {&b->data, 1};
    cli_columns columns = b->columns;
    if (!b->data) {
        scbm_status status = make_directory(b);
        if (status != SCBM_OK) return status;
        made_path(b, MADE_DATA, path);
        demo_path = path;
        status = demo_write_reviews(path, 1, 0, SYNTHETIC_TEXTS, &b->hooks);
        if (status != SCBM_OK) return status;
        paths.item = &demo_path;
        columns.text = "review";
        if (!b->json) printf("no --data: %d generated reviews\n", SYNTHETIC_TEXTS);
    }
    if (!labels) columns.label = NULL;
    if (!labels) columns.n_concepts = 0;
    return cli_columns_read(&columns, &paths, NULL, data, &b->hooks);
}

static void unload(bench_command *b) {
    loaded *l = &b->loaded;
    scbm_release(&b->hooks, l->vectors);
    cbm_context_free(l->context);
    cbm_model_free(l->model);
    cbm_dataset_clear(&l->data);
    memset(l, 0, sizeof *l);
}

/* Texts first … first + n - 1: predicted, or by an encoder embedded. */
static scbm_status answer(loaded *l, size_t first, size_t n) {
    const char *const *texts = (const char *const *)l->data.text + first;
    const size_t *lengths = l->data.text_length + first;
    const cbm_prediction *const *predictions;
    if (cbm_model_mode(l->model) != CBM_ENCODER) return cbm_predict_batch(l->context, texts, lengths, n, &predictions);
    return cbm_embed_batch(l->context, texts, lengths, n, CBM_POOL_DEFAULT, 0, l->vectors, NULL);
}

/* Once, for all that is measured with it; every text was answered once then. */
static scbm_status load(bench_command *b) {
    const cbm_load_options options = {.hooks = &b->hooks};
    cbm_context_options context;
    loaded *l = &b->loaded;
    if (l->is_loaded) return SCBM_OK;
    memset(&context, 0, sizeof context);
    context.precision = (scbm_precision)b->precision;
    context.max_tokens = (int)b->max_length;
    scbm_status status = find_model(b);
    if (status == SCBM_OK) status = find_data(b, 0, &l->data);
    if (status == SCBM_OK) status = cbm_model_load(&l->model, b->model_path, &options);
    if (status == SCBM_OK) status = cbm_context_create(&l->context, l->model, &context);
    if (status != SCBM_OK) return status;
    l->vectors = scbm_alloc_array(&b->hooks, l->data.n * (size_t)cbm_model_hidden_size(l->model), sizeof *l->vectors);
    l->is_loaded = l->vectors != NULL;
    return l->is_loaded ? answer(l, 0, l->data.n) : SCBM_ERROR_MEMORY;
}

/* ------------------------------------------------------------------------------------------
 * encoder: all texts at once; latency: one text after the other
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_encoder(const bench_command *b, double rate, size_t n_texts, int repeats) {
    if (b->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "texts_per_s", cli_json_double(rate));
        cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)n_texts));
        return print_json(b, "encoder", object, -1);
    }
    printf("encoder, %s: %.1f texts/s (%zu texts, median of %d)\n", scbm_precision_name((scbm_precision)b->precision), rate, n_texts, repeats);
    print_machine(b, -1);
    return SCBM_OK;
}

static scbm_status bench_encoder(bench_command *b) {
    enum { MOST = 100 };
    loaded *l = &b->loaded;
    double times[MOST];
    int n = (int)(b->repeats < MOST ? b->repeats : MOST);
    scbm_status status = load(b);
    for (int i = 0; status == SCBM_OK && i < n; i++) {
        double begin = scbm_seconds();
        status = answer(l, 0, l->data.n);
        times[i] = scbm_seconds() - begin;
    }
    return status == SCBM_OK ? print_encoder(b, (double)l->data.n / quantile(times, n, 0.5), l->data.n, n) : status;
}

static scbm_status print_latency(const bench_command *b, double *times, int n) {
    double median = quantile(times, n, 0.5), slow = quantile(times, n, 0.9);
    if (b->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "ms_median", cli_json_double(median));
        cJSON_AddItemToObject(object, "ms_p90", cli_json_double(slow));
        return print_json(b, "latency", object, -1);
    }
    printf("latency, %s: %.2f ms a text (median of %d texts; nine of ten within %.2f ms)\n", scbm_precision_name((scbm_precision)b->precision),
           median, n, slow);
    print_machine(b, -1);
    return SCBM_OK;
}

static scbm_status bench_latency(bench_command *b) {
    enum { MOST = 10000 };
    static double times[MOST];
    loaded *l = &b->loaded;
    scbm_status status = load(b);
    if (status != SCBM_OK) return status;
    size_t wanted = b->texts ? (size_t)b->texts : LATENCY_TEXTS;
    int n = (int)(l->data.n < wanted ? l->data.n : wanted);
    for (int i = 0; status == SCBM_OK && i < 10; i++) status = answer(l, (size_t)(i % n), 1);
    for (int i = 0; status == SCBM_OK && i < n; i++) {
        double begin = scbm_seconds();
        status = answer(l, (size_t)i, 1);
        times[i] = 1e3 * (scbm_seconds() - begin);
    }
    return status == SCBM_OK ? print_latency(b, times, n) : status;
}

/* ------------------------------------------------------------------------------------------
 * train: steps of 16 texts, joint where there are concepts
 * ---------------------------------------------------------------------------------------- */

typedef struct epoch_times {
    double seconds[100];
    int n;
} epoch_times;

static void keep_time(void *user, const cbm_epoch_report *report) {
    epoch_times *times = user;
    if (times->n < 100) times->seconds[times->n++] = report->seconds;
}

/* The first epochs plan and, for subnetworks, prune to what is measured: they do not count. */
static int uncounted_epochs(const bench_command *b) {
    return b->sparsity > 0 ? 2 : 1;
}

static void set_train_options(bench_command *b, cbm_train_options *options, epoch_times *times) {
    memset(options, 0, sizeof *options);
    options->mode = b->columns.n_concepts ? CBM_JOINT : CBM_VANILLA;
    options->epochs = (int)(b->repeats < 20 ? b->repeats : 20) + uncounted_epochs(b);
    options->batch_size = TRAIN_BATCH;
    options->max_length = (int)b->max_length;
    options->on_epoch = keep_time;
    options->user = times;
    options->hooks = &b->hooks;
    if (b->sparsity <= 0) return;
    options->prune.method = "random";
    options->prune.sparsity = options->prune.initial_sparsity = b->sparsity;
    options->prune.start = options->prune.end = 1;
}

/* Trains on the first texts for a few epochs. */
static scbm_status train_epochs(bench_command *b, cbm_dataset *data, cbm_dataset *valid, epoch_times *times) {
    static const char *names[256];
    cbm_train_options options;
    const cbm_load_options load_options = {.hooks = &b->hooks};
    cbm_model *encoder = NULL;
    char output[PATH_SIZE + 32];
    scbm_status status = make_directory(b);
    if (status == SCBM_OK) status = cbm_model_load(&encoder, b->model_path, &load_options);
    if (status != SCBM_OK) return status;
    for (int k = 0; k < b->columns.n_concepts && k < 256; k++) names[k] = b->columns.concepts[k].name;
    set_train_options(b, &options, times);
    made_path(b, MADE_TRAINED, output);
    size_t n = data->n, n_valid = valid->n, wanted = b->texts ? (size_t)b->texts : TRAIN_TEXTS;
    data->n = (n < wanted ? n : wanted) / TRAIN_BATCH * TRAIN_BATCH;
    valid->n = n_valid < TRAIN_BATCH ? n_valid : TRAIN_BATCH;
    if (data->n == 0) status = scbm_fail(SCBM_ERROR_ARGUMENT, "bench train needs at least %d labelled texts", TRAIN_BATCH);
    else status = cbm_train(encoder, data, valid, names, output, &options);
    times->n = status == SCBM_OK ? times->n : 0;
    for (int i = 0; i < times->n; i++) times->seconds[i] *= 1e3 / (double)(data->n / TRAIN_BATCH);
    data->n = n;
    valid->n = n_valid;
    cbm_model_free(encoder);
    return status;
}

static int concepts_of_demo(bench_command *b) {
    for (int k = 0; k < DEMO_CONCEPTS && !b->columns.concept.n; k++) {
        const char **item = realloc(b->columns.concept.item, DEMO_CONCEPTS * sizeof *item);
        if (!item) return cli_fail(b->command, "out of memory");
        memcpy(item, demo_concepts, DEMO_CONCEPTS * sizeof *item);
        b->columns.concept.item = item;
        b->columns.concept.n = DEMO_CONCEPTS;
    }
    b->columns.text = "review";
    b->columns.label = "stars";
    return CLI_GO_ON;
}

static scbm_status print_train(const bench_command *b, double median, int n) {
    if (b->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "ms_per_step", cli_json_double(median));
        cJSON_AddItemToObject(object, "batch", cli_json_int(TRAIN_BATCH));
        cJSON_AddItemToObject(object, "concepts", cli_json_int(b->columns.n_concepts));
        if (b->sparsity > 0) cJSON_AddItemToObject(object, "sparsity", cli_json_double(b->sparsity));
        return print_json(b, "train", object, -1);
    }
    printf("train%s: %.1f ms a step of %d texts, %d concepts (median of %d epochs)\n", b->sparsity > 0 ? ", sparse" : "", median,
           TRAIN_BATCH, b->columns.n_concepts, n);
    print_machine(b, -1);
    return SCBM_OK;
}

static scbm_status bench_train(bench_command *b) {
    cbm_dataset data, valid;
    epoch_times times;
    memset(&data, 0, sizeof data);
    memset(&valid, 0, sizeof valid);
    memset(&times, 0, sizeof times);
    int first = uncounted_epochs(b);
    scbm_status status = find_encoder(b);
    if (status == SCBM_OK) status = find_data(b, 1, &data);
    if (status == SCBM_OK) status = find_data(b, 1, &valid);
    if (status == SCBM_OK) status = train_epochs(b, &data, &valid, &times);
    if (status == SCBM_OK && times.n <= first) status = scbm_fail(SCBM_ERROR_ARGUMENT, "training ended after epoch %d", times.n);
    if (status == SCBM_OK) status = print_train(b, quantile(times.seconds + first, times.n - first, 0.5), times.n - first);
    cbm_dataset_clear(&valid);
    cbm_dataset_clear(&data);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * start: from starting a process to its first result
 * ---------------------------------------------------------------------------------------- */

/* Runs `predict` (or `embed`) on one text in a process of its own; how long until it wrote something, and its
 * peak memory. */
static scbm_status time_start(const bench_command *b, const char *command, double *milliseconds, double *peak_mb) {
    int ends[2];
    char byte, threads[32];
    struct rusage usage;
    int result = 0;
    if (pipe(ends) != 0) return scbm_fail(SCBM_ERROR_IO, "a pipe cannot be made: %s", strerror(errno));
    snprintf(threads, sizeof threads, "%lld", (long long)b->threads);
    double begin = scbm_seconds();
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execlp("/proc/self/exe", cli_program, command, "--model", b->model_path, "--threads", threads, "--json",
               "The soup was cold, but the waiter was lovely.", (char *)NULL);
        execlp(cli_program, cli_program, command, "--model", b->model_path, "--threads", threads, "--json",
               "The soup was cold, but the waiter was lovely.", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    ssize_t got = child > 0 ? read(ends[0], &byte, 1) : -1;
    *milliseconds = 1e3 * (scbm_seconds() - begin);
    while (got > 0 && (got = read(ends[0], threads, sizeof threads)) > 0) continue;
    close(ends[0]);
    if (child < 0 || wait4(child, &result, 0, &usage) < 0)
        return scbm_fail(SCBM_ERROR_IO, "a process cannot be started: %s", strerror(errno));
    if (!WIFEXITED(result) || WEXITSTATUS(result) != 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the process that was to be timed failed");
    *peak_mb = (double)usage.ru_maxrss / 1024;
    return SCBM_OK;
}

static scbm_status bench_start(bench_command *b) {
    enum { MOST = 100 };
    double times[MOST], peak_mb = 0;
    unload(b); /* what this process holds when it starts the other one counts as that one's */
    int n = (int)(b->repeats < MOST ? b->repeats : MOST);
    cbm_model *model = NULL;
    cbm_load_options options = {.hooks = &b->hooks};
    scbm_status status = find_model(b);
    if (status == SCBM_OK) status = cbm_model_load(&model, b->model_path, &options);
    if (status != SCBM_OK) return status;
    const char *command = cbm_model_mode(model) == CBM_ENCODER ? "embed" : "predict";
    cbm_model_free(model);
    for (int i = 0; status == SCBM_OK && i < n; i++) status = time_start(b, command, &times[i], &peak_mb);
    if (status != SCBM_OK) return status;
    double median = quantile(times, n, 0.5);
    if (b->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "ms_median", cli_json_double(median));
        cJSON_AddItemToObject(object, "ms_p90", cli_json_double(quantile(times, n, 0.9)));
        return print_json(b, "start", object, peak_mb);
    }
    printf("start: %.1f ms from starting the process to the first result of %s (median of %d)\n", median, command, n);
    print_machine(b, peak_mb);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * model: what a file with subnetworks takes
 * ---------------------------------------------------------------------------------------- */

static scbm_status bench_model(bench_command *b) {
    scbm_file *file = NULL;
    int64_t weights = 0, masks = 0, all = 0;
    scbm_status status = find_model(b);
    if (status == SCBM_OK) status = scbm_file_open(&file, b->model_path, &b->hooks);
    if (status != SCBM_OK) return status;
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        char name[SCBM_MAX_NAME];
        cbm_masks_name(name, tensor);
        all += (int64_t)scbm_tensor_bytes(tensor);
        if (cbm_is_masks_name(tensor->name)) masks += (int64_t)scbm_tensor_bytes(tensor);
        else if (scbm_file_find_tensor(file, name)) weights += (int64_t)scbm_tensor_bytes(tensor);
    }
    scbm_file_close(file);
    if (b->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "tensor_mb", cli_json_double((double)all / 1048576));
        cJSON_AddItemToObject(object, "masked_weights_mb", cli_json_double((double)weights / 1048576));
        cJSON_AddItemToObject(object, "masks_mb", cli_json_double((double)masks / 1048576));
        return print_json(b, "model", object, -1);
    }
    printf("model: tensors of %.1f MiB, among them masks of %.1f MiB over weights of %.1f MiB\n", (double)all / 1048576,
           (double)masks / 1048576, (double)weights / 1048576);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

#define KIND_NAMES "linear, encoder, latency, train, start or model"

typedef scbm_status (*bench_function)(bench_command *b);

static bench_function find_kind(const char *name) {
    static const struct {
        const char *name;
        bench_function run;
    } kinds[] = {{"linear", bench_linear}, {"encoder", bench_encoder}, {"latency", bench_latency},
                 {"train", bench_train},   {"start", bench_start},     {"model", bench_model}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) return kinds[i].run;
    }
    return NULL;
}

static int check_kinds(const bench_command *b, const cli_list *rest, int *trains) {
    static const char *const names[] = {"linear", "encoder", "latency", "train", "start", "model", NULL};
    *trains = 0;
    if (rest->n == 0) return cli_misuse(b->command, "say what to measure: " KIND_NAMES);
    for (int i = 0; i < rest->n; i++) {
        bench_function kind = find_kind(rest->item[i]);
        if (!kind) {
            const char *nearest = cli_nearest(rest->item[i], names);
            return cli_misuse(b->command, "'%s' cannot be measured; %s%s", rest->item[i], nearest ? "did you mean " : "try ",
                              nearest ? nearest : KIND_NAMES);
        }
        if (kind == bench_train) *trains = 1;
    }
    if (*trains && rest->n > 1) return cli_misuse(b->command, "train is measured alone");
    return CLI_GO_ON;
}

/* Settles the subnetworks: 4, 70 % zeros, where one of the two options is given and not the other. */
static int check_subnetworks(bench_command *b, int trains) {
    if (trains && b->subnetworks)
        return cli_misuse(b->command, "bench train --sparsity has a subnetwork for each --concept; leave out --subnetworks");
    if (trains) return CLI_GO_ON;
    if (!b->subnetworks && b->sparsity >= 0) b->subnetworks = 4;
    if (b->subnetworks && b->sparsity < 0) b->sparsity = 0.7;
    if (b->output && !b->subnetworks) return cli_misuse(b->command, "-o needs --subnetworks: there is no model to keep");
    return CLI_GO_ON;
}

static int check_usage(bench_command *b, const cli_list *rest) {
    int trains, status = check_kinds(b, rest, &trains);
    if (status == CLI_GO_ON) status = check_subnetworks(b, trains);
    if (status != CLI_GO_ON) return status;
    if (!b->data) status = trains ? concepts_of_demo(b) : CLI_GO_ON;
    else if (!b->columns.text) return cli_misuse(b->command, "--data needs --text COLUMN: which column holds the text?");
    else if (trains && !b->columns.label) return cli_misuse(b->command, "bench train with --data needs --label COLUMN");
    return status == CLI_GO_ON && trains ? cli_columns_from_options(b->command, &b->columns) : status;
}

static scbm_status run_kinds(bench_command *b, const cli_list *rest) {
    scbm_status status = look_at_machine(b);
    for (int i = 0; status == SCBM_OK && i < rest->n; i++) {
        status = find_kind(rest->item[i])(b);
        if (status == SCBM_OK) status = cli_flush();
    }
    unload(b);
    remove_directory(b);
    return status;
}

static int run_bench(const cli_command *command, int argc, char **argv) {
    bench_command b;
    cli_list rest = {NULL, 0};
    memset(&b, 0, sizeof b);
    b.command = command;
    b.repeats = 5;
    b.sparsity = -1;
    const cli_option options[] = {
        CLI_READ_OPTION("model", &b.model_path, "the model; without it, an encoder with random weights"),
        CLI_CHOICE_OPTION("shape", "minilm|bert-base", &b.shape, "that encoder's shape"),
        CLI_INT_OPTION("subnetworks", "K", &b.subnetworks, 1, DEMO_MOST_SUBNETWORKS,
                       "measure a concept bottleneck model on that encoder, with K concepts and random masks"),
        CLI_REAL_OPTION("sparsity", "X", &b.sparsity, 0, 0.999,
                        "the share of zeros in those masks (default 0.7; 0: no masks); with train, pruned to it at random"),
        CLI_OUTPUT_OPTION(&b.output, "keep that model in FILE"),
        CLI_READ_OPTION("data", &b.data, "texts, CSV or JSONL; without it, generated reviews"),
        CLI_COLUMNS_OPTIONS(b.columns),
        CLI_INT_OPTION("max-length", "N", &b.max_length, 0, 1000000, "cut texts after N tokens; 0: as many as the model reads"),
        CLI_INT_OPTION("repeats", "N", &b.repeats, 1, 1000, "measure N times and take the median"),
        CLI_INT_OPTION("texts", "N", &b.texts, 1, 10000, "latency and train: the first N texts (default 200 and 192)"),
        CLI_CHOICE_OPTION("precision", CLI_PRECISIONS, &b.precision, "what matrix products compute with"),
        CLI_INT_OPTION("threads", "N", &b.threads, 0, 1024, "threads; 0: all cores"),
        CLI_FLAG_OPTION("json", &b.json, "print one JSON object a line"),
        CLI_END_OPTIONS,
    };
    int status = cli_parse(command, options, argc, argv, &rest);
    if (status == CLI_GO_ON) status = check_usage(&b, &rest);
    if (status == CLI_GO_ON) {
        b.hooks = cli_hooks(&b.progress, command, b.threads);
        b.hooks.progress = NULL; /* nothing but the work itself is measured */
        status = cli_fail_status(command, run_kinds(&b, &rest));
    }
    free((void *)rest.item);
    cli_columns_clear(&b.columns);
    return status;
}

static const char *const bench_examples[] = {"bench encoder latency --model demo/encoder.gguf --data demo/test.csv --text review",
                                             "bench latency --subnetworks 4 --sparsity 0.7 --texts 20", NULL};
const cli_command cmd_bench = {
    "bench", "measure speed and memory", "linear|encoder|latency|train|start|model … [options]",
    "linear    one matrix product, in GFLOP/s, for several sizes, beside the processor's measured peak;\n"
    "          with --subnetworks, K masked ones (only the kept weights count)\n"
    "encoder   texts per second, all texts in one call\n"
    "latency   milliseconds for one text\n"
    "train     milliseconds for a training step of 16 texts\n"
    "start     milliseconds from starting the program to its first result\n"
    "model     sizes of the weights and the masks; with -o, keeps the model that --subnetworks makes\n"
    "With --json, each line has bench, tier, threads and peak_mb (and subnetworks and sparsity, where there are) beside\n"
    "tokens, in, out and gflops; texts_per_s; ms_median and ms_p90; ms_per_step; or tensor_mb, masked_weights_mb and\n"
    "masks_mb.",
    bench_examples, run_bench};
