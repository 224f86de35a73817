/*
 * tests/cuda/test-hosted.c - the CUDA backend where there is no GPU: what is said when it cannot be used, what it does with
 * failures, and what a step costs
 */
#define _POSIX_C_SOURCE 200809L

#include "tests/cuda/shim.h"
#include "tests/small-encoder.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIMS(...)                                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) {                                     \
        __VA_ARGS__                                                                                                    \
    }

/* ------------------------------------------------------------------------------------------
 * Opening
 * ---------------------------------------------------------------------------------------- */

static void put_back(void) {
    shim_driver_version = 13000;
    shim_devices = 1;
    shim_capability = 90;
    shim_fails_at = shim_launch_fails_at = 0;
}

static void expect_refusal(const char *name, scbm_status status, const char *words) {
    scbm_backend *backend = NULL;
    assert_error(scbm_backend_open(&backend, name, NULL), status, words);
    assert_null(backend);
}

static void what_cannot_be_used_is_a_sentence(void **state) {
    (void)state;
    shim_driver_version = 0;
    expect_refusal("cuda", SCBM_ERROR_UNSUPPORTED, "no NVIDIA driver");
    shim_driver_version = 12040;
    expect_refusal("cuda", SCBM_ERROR_UNSUPPORTED, "12.4");
    put_back();
    shim_devices = 0;
    expect_refusal("cuda", SCBM_ERROR_UNSUPPORTED, "no GPU");
    put_back();
    shim_capability = 75;
    expect_refusal("cuda", SCBM_ERROR_UNSUPPORTED, "7.5");
    put_back();
    expect_refusal("cuda:1", SCBM_ERROR_ARGUMENT, "device 1");
    expect_refusal("cuda:", SCBM_ERROR_ARGUMENT, "''");
    expect_refusal("cuda:one", SCBM_ERROR_ARGUMENT, "'one'");
    expect_refusal("cuda:-1", SCBM_ERROR_ARGUMENT, "'-1'");
    expect_refusal("cuda:99999999999999999999", SCBM_ERROR_ARGUMENT, "there is no device");
}

static void automatic_is_the_gpu_or_else_the_cpu(void **state) {
    (void)state;
    scbm_backend *backend;
    for (int has_driver = 0; has_driver < 2; has_driver++) {
        shim_driver_version = has_driver ? 13000 : 0;
        assert_ok(scbm_backend_open(&backend, "auto", NULL));
        assert_string_equal(backend->functions->name, has_driver ? "cuda" : "cpu");
        scbm_backend_close(backend);
    }
    put_back();
}

static int is_listed(void) {
    scbm_backend_info info;
    int found = 0;
    for (int i = 0; i < scbm_backend_count(); i++) {
        assert_ok(scbm_backend_describe(i, &info));
        found += !strncmp(info.name, "cuda", 4);
    }
    return found;
}

static void devices_are_listed(void **state) {
    (void)state;
    shim_devices = 3;
    assert_int_equal(is_listed(), 3);
    shim_driver_version = 0;
    assert_int_equal(is_listed(), 0);
    put_back();
}

/* ------------------------------------------------------------------------------------------
 * A step of training: one masked layer and what steps its weights
 * ---------------------------------------------------------------------------------------- */

enum { WIDTH = 64, STREAMS = 2, TOKENS = 5 };

typedef struct step {
    scbm_context *context;
    scbm_graph *graph;
    scbm_adamw *optimizer;
    scbm_tensor w, dense, masks, *x, *loss;
    float data[WIDTH * WIDTH], dense_data[WIDTH * WIDTH];
    uint8_t bits[STREAMS * WIDTH * WIDTH / 8];
} step;

static scbm_status make_step(step *s, scbm_backend *backend) {
    static const float rates[2] = {0.01f, 0.01f}, decays[2] = {0.0f, 0.0f};
    scbm_tensor *wanted[2] = {&s->w, &s->dense};
    memset(s, 0, sizeof *s);
    assert_ok(scbm_tensor_init(&s->w, "w", SCBM_F32, DIMS(WIDTH, WIDTH)));
    assert_ok(scbm_tensor_init(&s->masks, "masks", SCBM_I8, DIMS(STREAMS, WIDTH, WIDTH / 8)));
    assert_ok(scbm_tensor_init(&s->dense, "dense", SCBM_F32, DIMS(WIDTH, WIDTH)));
    s->w.data = s->data;
    s->dense.data = s->dense_data;
    s->masks.data = s->bits;
    for (int i = 0; i < WIDTH * WIDTH; i++) s->data[i] = s->dense_data[i] = (float)(i * 7 % 13 - 6) * 0.05f;
    for (int i = 0; i < (int)sizeof s->bits; i++) s->bits[i] = (uint8_t)(i * 37 % 251);
    scbm_status status = scbm_context_create(&s->context, NULL, backend);
    if (!status) status = scbm_graph_create(&s->graph, s->context);
    if (status) return status;
    scbm_graph_set_capacity(s->graph, TOKENS, 1);
    s->x = scbm_input(s->graph, "x", SCBM_F32, DIMS(1, 0, WIDTH),
                      (const scbm_extent[3]){SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED});
    scbm_tensor *y = scbm_linear(s->graph, s->x, &s->w, NULL, &s->masks, SCBM_GELU_ERF);
    y = scbm_linear(s->graph, y, &s->dense, NULL, NULL, SCBM_NONE);
    s->loss = scbm_graph_fetch(s->graph, scbm_mean(s->graph, scbm_mul(s->graph, y, y)));
    scbm_graph_backward(s->graph, s->loss, wanted, 2);
    status = scbm_adamw_create(&s->optimizer, s->context, wanted, 2, rates, decays, NULL);
    if (!status) status = scbm_graph_adamw(s->graph, s->optimizer, NULL);
    return status ? status : scbm_graph_plan(s->graph);
}

static scbm_status run_step(step *s) {
    scbm_status status = scbm_adamw_begin(s->optimizer, 1.0f);
    if (status) return status;
    for (int i = 0; i < TOKENS * WIDTH; i++) ((float *)s->x->data)[i] = (float)(i % 5) - 2.0f;
    status = scbm_graph_run(s->graph, TOKENS, 1);
    return status ? status : scbm_adamw_end(s->optimizer, NULL);
}

static void clear_step(step *s) {
    scbm_graph_free(s->graph);
    scbm_adamw_free(s->optimizer);
    scbm_tensor_forget(&s->w);
    scbm_tensor_forget(&s->dense);
    scbm_tensor_forget(&s->masks);
    scbm_context_free(s->context);
}

/* How many of the launches since the counts were set to zero are of kernels whose names begin so. */
static int launches_of(const char *name) {
    int n = 0;
    assert_true(shim_count.launches < SHIM_NAMES);
    for (int64_t i = 1; i <= shim_count.launches; i++) n += !strncmp(shim_launched[i], name, strlen(name));
    return n;
}

/* Nothing waits inside a step, what comes back are the loss and the norm, and AdamW steps all tensors at once. */
static void a_step_waits_once_and_brings_little_back(void **state) {
    (void)state;
    static step s;
    scbm_backend *backend;
    assert_ok(scbm_backend_open(&backend, "cuda", NULL));
    assert_ok(make_step(&s, backend));
    float first = 0.0f;
    for (int i = 0; i < 3; i++) {
        shim_count = (shim_counts){0};
        assert_ok(run_step(&s));
        if (!i) first = *(float *)s.loss->data;
        if (!i) continue;
        assert_int_equal(shim_count.synchronizations, 1);
        assert_int_equal(shim_count.allocations, 0);
        assert_true(shim_count.bytes_down <= 1024);
        assert_true(shim_count.bytes_up <= TOKENS * WIDTH * 4 + 1024);
        assert_int_equal(launches_of("squares_kernel"), 1);
        assert_int_equal(launches_of("squares_pair_kernel"), 1);
        assert_int_equal(launches_of("adamw_kernel"), 1);
    }
    assert_true(*(float *)s.loss->data < first);
    clear_step(&s);
    scbm_backend_close(backend);
    assert_int_equal(shim_blocks(), 0);
    assert_int_equal(shim_pending(), 0);
}

static scbm_status whole_life(scbm_backend **backend) {
    static step s;
    memset(&s, 0, sizeof s);
    *backend = NULL;
    scbm_status status = scbm_backend_open(backend, "cuda", NULL);
    if (status) return status;
    status = make_step(&s, *backend);
    for (int i = 0; i < 2 && !status; i++) status = run_step(&s);
    clear_step(&s);
    return status;
}

static void memory_may_run_out_at_any_moment(void **state) {
    (void)state;
    int64_t failures = 0;
    scbm_status status = SCBM_ERROR_MEMORY;
    for (int64_t at = 1; status; at++) {
        scbm_backend *backend;
        shim_count = (shim_counts){0};
        shim_fails_at = at;
        status = whole_life(&backend);
        shim_fails_at = 0;
        if (status) {
            assert_int_equal(status, SCBM_ERROR_MEMORY);
            assert_non_null(strstr(scbm_last_error(), "memory"));
            failures++;
        }
        scbm_backend_close(backend);
        assert_int_equal(shim_blocks(), 0);
    }
    assert_true(failures > 5);
}

/* A launch that the device refuses is an error of the run, and the next one works. */
static void a_refused_launch_is_an_error_and_passes(void **state) {
    (void)state;
    static step s;
    scbm_backend *backend;
    assert_ok(scbm_backend_open(&backend, "cuda", NULL));
    assert_ok(make_step(&s, backend));
    assert_ok(run_step(&s));
    shim_count.launches = 0;
    shim_launch_fails_at = 3;
    scbm_status status = run_step(&s);
    assert_int_equal(status, SCBM_ERROR_NUMERIC);
    assert_non_null(strstr(scbm_last_error(), "invalid argument"));
    put_back();
    assert_ok(run_step(&s));
    clear_step(&s);
    scbm_backend_close(backend);
}

/* A context of the parent's, and a device that was opened before the fork, are of no use; the CPU is. */
static int use_in_child(step *s) {
    scbm_backend *backend = NULL;
    scbm_context *context;
    if (run_step(s) != SCBM_ERROR_UNSUPPORTED || !strstr(scbm_last_error(), "forked")) return 1;
    if (scbm_backend_open(&backend, "cuda", NULL) != SCBM_ERROR_UNSUPPORTED || backend) return 2;
    if (scbm_context_create(&context, NULL, NULL)) return 3;
    scbm_context_free(context);
    return 0;
}

static void a_forked_child_is_told(void **state) {
    (void)state;
    static step s;
    scbm_backend *backend;
    int result = -1;
    assert_ok(scbm_backend_open(&backend, "cuda", NULL));
    assert_ok(make_step(&s, backend));
    assert_ok(run_step(&s));
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) _exit(use_in_child(&s));
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
    assert_ok(run_step(&s));
    clear_step(&s);
    scbm_backend_close(backend);
}

/* ------------------------------------------------------------------------------------------
 * Several devices, several threads
 * ---------------------------------------------------------------------------------------- */

typedef struct scaled {
    scbm_graph *graph;
    scbm_tensor *y;
    scbm_status status;
} scaled;

static void *run_scaled(void *arg) {
    scaled *s = arg;
    s->status = scbm_graph_run(s->graph, 0, 0);
    return NULL;
}

/* A graph without inputs begins with a launch: on the context's device, whatever device the thread has used before. */
static void a_launch_goes_to_the_device_of_its_context(void **state) {
    (void)state;
    enum { DEVICES = 2 };
    scbm_backend *backend[DEVICES];
    scbm_context *context[DEVICES];
    scaled s[DEVICES];
    float numbers[3] = {1.0f, 2.0f, 3.0f};
    scbm_tensor a;
    shim_devices = DEVICES;
    assert_ok(scbm_tensor_init(&a, "a", SCBM_F32, DIMS(3)));
    a.data = numbers;
    for (int i = 0; i < DEVICES; i++) {
        assert_ok(scbm_backend_open(&backend[i], i ? "cuda:1" : "cuda:0", NULL));
        assert_ok(scbm_context_create(&context[i], NULL, backend[i]));
        assert_ok(scbm_graph_create(&s[i].graph, context[i]));
        s[i].y = scbm_graph_fetch(s[i].graph, scbm_scale(s[i].graph, &a, (float)(i + 2)));
        assert_ok(scbm_graph_plan(s[i].graph));
        assert_ok(scbm_graph_run(s[i].graph, 0, 0));
    }
    for (int i = 0; i < 2 * DEVICES; i++) {
        scaled *own = &s[i % DEVICES];
        pthread_t thread;
        if (i < DEVICES) run_scaled(own);
        else assert_int_equal(pthread_create(&thread, NULL, run_scaled, own) || pthread_join(thread, NULL), 0);
        assert_ok(own->status);
        assert_true(((float *)own->y->data)[2] == 3.0f * (float)(i % DEVICES + 2));
    }
    for (int i = 0; i < DEVICES; i++) scbm_graph_free(s[i].graph);
    scbm_tensor_forget(&a);
    for (int i = 0; i < DEVICES; i++) {
        scbm_context_free(context[i]);
        scbm_backend_close(backend[i]);
    }
    put_back();
}

/* ------------------------------------------------------------------------------------------
 * What a layer costs
 * ---------------------------------------------------------------------------------------- */

/* Of a model that reads texts, from one block's attention to the next one's. */
static void a_layer_has_seven_launches(void **state) {
    static const char *const texts[] = {"the soup was tasty and the waiter was kind", "we came on monday"};
    const small_options options = {.hidden = 64};
    float vectors[2 * 64];
    scbm_backend *backend;
    cbm_context *context;
    int64_t first = 0, second = 0;
    assert_false(make_folder(state));
    assert_ok(small_encoder(in_folder("encoder.gguf"), &options));
    cbm_model *model = load(in_folder("encoder.gguf"));
    assert_ok(scbm_backend_open(&backend, "cuda", NULL));
    const cbm_context_options on_cuda = {.backend = backend};
    assert_ok(cbm_context_create(&context, model, &on_cuda));
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_FILE, CBM_NORMALIZE_FILE, vectors, NULL));
    shim_count = (shim_counts){0};
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_FILE, CBM_NORMALIZE_FILE, vectors, NULL));
    assert_true(shim_count.launches < SHIM_NAMES);
    for (int64_t i = 1; i <= shim_count.launches; i++) {
        if (strncmp(shim_launched[i], "attention_kernel", 16)) continue;
        if (!first) first = i;
        else if (!second) second = i;
    }
    print_message("a layer has %lld launches, two texts %lld\n", (long long)(second - first),
                  (long long)shim_count.launches);
    assert_true(first && second);
    assert_true(second - first <= 7);
    assert_int_equal(shim_count.synchronizations, 1);
    cbm_context_free(context);
    cbm_model_free(model);
    scbm_backend_close(backend);
    assert_false(remove_folder(state));
}

enum { DEPTH = 128, OUTPUTS = 128, MANY_TOKENS = 128, TOKEN_TILE = 64, OPERATIONS = 2 * 16 * 8 * 16 };

/* A masked layer of four streams, forward and backward, in bf16: every operation of its products is a matrix instruction's, and
 * for each 64 tokens a weight is read once for all streams. */
static void products_in_bf16_are_matrix_instructions_and_read_weights_once(void **state) {
    (void)state;
    enum { S = 4 };
    static float data[OUTPUTS * DEPTH];
    static uint8_t bits[S * OUTPUTS * DEPTH / 8];
    scbm_tensor w, masks, *wanted[2];
    scbm_backend *backend;
    scbm_context *context;
    scbm_graph *g;
    for (int i = 0; i < OUTPUTS * DEPTH; i++) data[i] = (float)(i * 7 % 13 - 6) * 0.05f;
    for (int i = 0; i < (int)sizeof bits; i++) bits[i] = (uint8_t)(i * 37 % 251);
    assert_ok(scbm_tensor_init(&w, "w", SCBM_F32, DIMS(OUTPUTS, DEPTH)));
    assert_ok(scbm_tensor_init(&masks, "masks", SCBM_I8, DIMS(S, OUTPUTS, scbm_mask_row_bytes(DEPTH))));
    assert_int_equal(scbm_tensor_bytes(&masks), sizeof bits);
    w.data = data;
    masks.data = bits;
    assert_ok(scbm_backend_open(&backend, "cuda", NULL));
    assert_ok(scbm_context_create(&context, NULL, backend));
    for (int with_gradients = 0; with_gradients < 2; with_gradients++) {
        assert_ok(scbm_graph_create(&g, context));
        scbm_graph_set_precision(g, SCBM_PRECISION_BF16);
        scbm_graph_set_capacity(g, MANY_TOKENS, 1);
        scbm_tensor *x = scbm_input(g, "x", SCBM_F32, DIMS(S, 0, DEPTH),
                                    (const scbm_extent[3]){SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED});
        scbm_tensor *y = scbm_linear(g, x, &w, NULL, &masks, SCBM_NONE);
        scbm_tensor *loss = scbm_graph_fetch(g, scbm_mean(g, scbm_mul(g, y, y)));
        wanted[0] = &w;
        wanted[1] = x;
        if (with_gradients) {
            scbm_graph_backward(g, loss, wanted, 2);
            for (int i = 0; i < 2; i++) scbm_graph_fetch(g, scbm_graph_gradient(g, wanted[i]));
        }
        assert_ok(scbm_graph_plan(g));
        for (int i = 0; i < S * MANY_TOKENS * DEPTH; i++) ((float *)x->data)[i] = (float)(i % 5) - 2.0f;
        shim_count = (shim_counts){0};
        assert_ok(scbm_graph_run(g, MANY_TOKENS, 1));
        int64_t operations = (with_gradients ? 3 : 1) * 2LL * S * MANY_TOKENS * DEPTH * OUTPUTS;
        assert_true(shim_count.matrix_instructions * OPERATIONS >= operations / 100 * 95);
        assert_int_equal(shim_count.weights, (with_gradients ? 2 : 1) * OUTPUTS * DEPTH * (MANY_TOKENS / TOKEN_TILE));
        scbm_graph_free(g);
    }
    scbm_tensor_forget(&w);
    scbm_tensor_forget(&masks);
    scbm_context_free(context);
    scbm_backend_close(backend);
}

/* ------------------------------------------------------------------------------------------
 * Pruning
 * ---------------------------------------------------------------------------------------- */

enum { PRUNED_STREAMS = 2, PRUNED_ROWS = 48, PRUNED_COLUMNS = 65, FISHER_BLOCK = 20 };

/* Masks by the scores of Fisher sums of five gradients, the same in every call. */
static void prune_on(const char *device, unsigned char *masks, size_t bytes) {
    enum { N = PRUNED_ROWS * PRUNED_COLUMNS, BLOCKS = (N + FISHER_BLOCK - 1) / FISHER_BLOCK };
    enum { TRIANGLE = FISHER_BLOCK * (FISHER_BLOCK + 1) / 2 };
    static double sums[PRUNED_STREAMS * BLOCKS * TRIANGLE], numbers[3] = {5.0, 0.1, 0.0};
    static float weights[N], gradient[N];
    int32_t zeros = 2 * N / 3;
    scbm_random random = {16, 3, 0};
    scbm_tensor of_sums, of_weights, of_masks, of_numbers, of_zeros;
    scbm_backend *backend;
    scbm_context *context;
    scbm_graph *graph;
    memset(sums, 0, sizeof sums);
    memset(masks, 255, bytes);
    for (int i = 0; i < N; i++) weights[i] = (float)scbm_random_normal(&random);
    for (int k = 0; k < 5 * PRUNED_STREAMS; k++) {
        for (int i = 0; i < N; i++) gradient[i] = (float)scbm_random_normal(&random);
        for (int i = 0; i < N; i++)
            for (int j = i / FISHER_BLOCK * FISHER_BLOCK; j <= i; j++) {
                int row = i % FISHER_BLOCK, at = row * (row + 1) / 2 + j % FISHER_BLOCK;
                sums[(k / 5 * BLOCKS + i / FISHER_BLOCK) * TRIANGLE + at] += (double)gradient[i] * (double)gradient[j];
            }
    }
    assert_ok(scbm_tensor_init(&of_sums, "sums", SCBM_F64, DIMS(PRUNED_STREAMS, BLOCKS, TRIANGLE)));
    assert_ok(scbm_tensor_init(&of_weights, "w", SCBM_F32, DIMS(PRUNED_ROWS, PRUNED_COLUMNS)));
    assert_ok(scbm_tensor_init(&of_masks, "masks", SCBM_I8,
                               DIMS(PRUNED_STREAMS, PRUNED_ROWS, scbm_mask_row_bytes(PRUNED_COLUMNS))));
    assert_ok(scbm_tensor_init(&of_numbers, "numbers", SCBM_F64, DIMS(3)));
    assert_ok(scbm_tensor_init(&of_zeros, "zeros", SCBM_I32, DIMS(1)));
    of_sums.data = sums;
    of_weights.data = weights;
    of_masks.data = masks;
    of_numbers.data = numbers;
    of_zeros.data = &zeros;
    assert_int_equal(scbm_tensor_bytes(&of_masks), bytes);
    assert_ok(scbm_backend_open(&backend, device, NULL));
    assert_ok(scbm_context_create(&context, NULL, backend));
    assert_ok(scbm_graph_create(&graph, context));
    scbm_tensor *scores = scbm_fisher_scores(graph, &of_sums, &of_weights, &of_masks, &of_numbers, FISHER_BLOCK);
    scbm_keep_largest(graph, scores, &of_masks, &of_zeros, SCBM_KEEP_NESTED);
    assert_ok(scbm_graph_plan(graph));
    assert_ok(scbm_graph_run(graph, 0, 0));
    assert_ok(scbm_tensor_fetch(&of_masks, context));
    scbm_graph_free(graph);
    scbm_tensor *const all[] = {&of_sums, &of_weights, &of_masks, &of_numbers, &of_zeros};
    for (int i = 0; i < COUNT_OF(all); i++) scbm_tensor_forget(all[i]);
    scbm_context_free(context);
    scbm_backend_close(backend);
}

static void the_same_sums_give_the_masks_of_the_cpu(void **state) {
    (void)state;
    static unsigned char cpu[PRUNED_STREAMS * PRUNED_ROWS * 16], cuda[sizeof cpu];
    prune_on("cpu", cpu, sizeof cpu);
    prune_on("cuda", cuda, sizeof cuda);
    assert_memory_equal(cpu, cuda, sizeof cpu);
    assert_memory_not_equal(cpu, cpu + sizeof cpu / 2, sizeof cpu / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_used_is_a_sentence),
        cmocka_unit_test(automatic_is_the_gpu_or_else_the_cpu),
        cmocka_unit_test(devices_are_listed),
        cmocka_unit_test(a_step_waits_once_and_brings_little_back),
        cmocka_unit_test(memory_may_run_out_at_any_moment),
        cmocka_unit_test(a_refused_launch_is_an_error_and_passes),
        cmocka_unit_test(a_forked_child_is_told),
        cmocka_unit_test(a_launch_goes_to_the_device_of_its_context),
        cmocka_unit_test(a_layer_has_seven_launches),
        cmocka_unit_test(products_in_bf16_are_matrix_instructions_and_read_weights_once),
        cmocka_unit_test(the_same_sums_give_the_masks_of_the_cpu),
    };
    return cmocka_run_group_tests_name("cuda", tests, NULL, NULL);
}
