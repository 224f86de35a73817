/*
 * tests/test-prune.c - finding subnetworks: the exact choice of zeros, the scores, the schedule, and runs that go on
 */
#define _XOPEN_SOURCE 700

#include "tests/small-sparse.h"

#include "models/prune/fisher.h"
#include "models/prune/popup.h"
#include "models/train/graph.h"

#include <sys/wait.h>
#include <unistd.h>

static const scbm_hooks two_threads = {.n_workers = 2};
static cbm_model *encoder, *dense; /* dense: trained, joint, for networks to prune */
static cbm_dataset train_data, valid_data;

enum { HIDDEN = 20, N_TRAIN = 96, N_VALID = 40, N_MATRICES = 6 * SMALL_LAYERS, LARGEST = 2 * HIDDEN * HIDDEN, K = SMALL_CONCEPTS };

static int set_up(void **state) {
    const small_options options = {.hidden = HIDDEN};
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), &options));
    small_train(in_folder("dense.gguf"), in_folder("encoder.gguf"), CBM_JOINT, NULL, 0.5, 2, N_TRAIN);
    encoder = load(in_folder("encoder.gguf"));
    dense = load(in_folder("dense.gguf"));
    assert_ok(small_data(&train_data, 0, N_TRAIN));
    assert_ok(small_data(&valid_data, 1000, N_VALID));
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(dense);
    cbm_model_free(encoder);
    cbm_dataset_clear(&train_data);
    cbm_dataset_clear(&valid_data);
    return remove_folder(state);
}

static int64_t zeros_of(int64_t n, double sparsity) {
    return (int64_t)floor(sparsity * (double)n + 0.5);
}

/* ------------------------------------------------------------------------------------------
 * The choice of zeros
 * ---------------------------------------------------------------------------------------- */

static void zeros_are_rounded_to_the_nearest_weight(void **state) {
    (void)state;
    static const struct {
        int64_t n;
        double sparsity;
        int64_t zeros;
    } cases[] = {{10, 0.25, 3}, {10, 0.24, 2},  {10, 0.0, 0},     {7, 0.5, 4},
                 {1, 0.5, 1},   {1, 0.49, 0},   {1000, 0.7, 700}, {147456, 0.7, 103219},
                 {3, 1.0, 3},   {589824, 0.9, 530842}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cbm_prune_zeros(cases[i].n, cases[i].sparsity), cases[i].zeros);
}

static void sparsity_climbs_linearly_from_start_to_end(void **state) {
    (void)state;
    cbm_prune_options o = {.method = "magnitude", .sparsity = 0.7, .initial_sparsity = 0.2, .start = 2, .end = 7};
    static const double wanted[] = {0, 0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.7, 0.7};
    for (int epoch = 0; epoch < 10; epoch++) assert_true(fabs(cbm_prune_sparsity(&o, epoch) - wanted[epoch]) < 1e-15);
    assert_true(cbm_prune_sparsity(&o, 7) == 0.7);
    o.start = o.end = 3; /* all at once */
    assert_true(cbm_prune_sparsity(&o, 2) == 0.0 && cbm_prune_sparsity(&o, 3) == 0.7);
    o.method = "none";
    assert_true(cbm_prune_sparsity(&o, 9) == 0.0);
    o.method = NULL;
    assert_true(cbm_prune_sparsity(&o, 9) == 0.0);
}

static void methods_have_names_and_help(void **state) {
    (void)state;
    int n = 0;
    for (; cbm_prune_method_name(n); n++) {
        const cbm_prune_kind *kind;
        assert_ok(cbm_prune_find(cbm_prune_method_name(n), &kind));
        assert_string_equal(kind->name, cbm_prune_method_name(n));
        assert_true(strlen(cbm_prune_method_help(n)) > 5);
        assert_true(!kind->take_gradient == !kind->after_step); /* what learns from steps changes masks after them */
    }
    assert_true(n >= 5);
    assert_null(cbm_prune_method_help(n));
    assert_null(cbm_prune_method_name(-1));
}

typedef struct item {
    double score;
    int64_t place;
    int is_off;
} item;

/* Those that are off first, then those that are no number, then by score, then by place. */
static int compare_items(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->is_off != y->is_off) return y->is_off - x->is_off;
    int x_nan = isnan(x->score), y_nan = isnan(y->score);
    if (x_nan != y_nan) return y_nan - x_nan;
    if (!x_nan && x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* Turns off by sorting. */
static void select_by_sorting(uint8_t *is_on, const double *score, int64_t n, int64_t zeros) {
    assert_true(n > 0);
    item *items = calloc(n > 0 ? (size_t)n : 1, sizeof *items);
    assert_non_null(items);
    for (int64_t i = 0; i < n; i++) items[i] = (item){score[i], i, !is_on[i]};
    qsort(items, (size_t)n, sizeof *items, compare_items);
    for (int64_t i = 0; i < zeros; i++) is_on[items[i].place] = 0;
    free(items);
}

static scbm_tensor make_masks(int n, int64_t out, int64_t in) {
    scbm_tensor masks = small_masks(n, out, in);
    for (int s = 0; s < n; s++) cbm_mask_fill(&masks, s, in);
    return masks;
}

static void assert_same_bits(const scbm_tensor *masks, int stream, int64_t in, const uint8_t *is_on) {
    for (int64_t row = 0; row < masks->shape[1]; row++)
        for (int64_t j = 0; j < in; j++)
            assert_int_equal(cbm_mask_get(cbm_mask_row(masks, stream, row), j), is_on[row * in + j]);
}

/* Scores of a few values only, with infinities and what is no number among them. */
static double random_score(scbm_random *random, int few) {
    static const double special[] = {INFINITY, -INFINITY, NAN, 0.0, 1e-310, -1e300};
    if (scbm_random_uniform(random) < 0.05) return special[scbm_random_below(random, 6)];
    return few ? (double)scbm_random_below(random, 4) - 1.0 : scbm_random_normal(random);
}

/* The runtime's choice, on masks of one stream. */
static void choose_masks(scbm_tensor *masks, int64_t in, double *score, int64_t zeros) {
    const int64_t shape[3] = {1, masks->shape[1], in}, one = 1;
    int32_t number = (int32_t)zeros;
    scbm_context *context;
    scbm_graph *graph;
    scbm_tensor scores, count;
    assert_ok(scbm_tensor_init(&scores, "score", SCBM_F64, 3, shape));
    assert_ok(scbm_tensor_init(&count, "zeros", SCBM_I32, 1, &one));
    scores.data = score;
    count.data = &number;
    assert_ok(scbm_context_create(&context, &one_thread, NULL));
    assert_ok(scbm_graph_create(&graph, context));
    assert_non_null(scbm_keep_largest(graph, &scores, masks, &count, SCBM_KEEP_NESTED));
    assert_ok(scbm_graph_plan(graph));
    assert_ok(scbm_graph_run(graph, 0, 0));
    assert_ok(scbm_tensor_fetch(masks, context));
    scbm_graph_free(graph);
    scbm_tensor_forget(masks);
    scbm_tensor_forget(&scores);
    scbm_tensor_forget(&count);
    scbm_context_free(context);
}

static void the_choice_is_that_of_a_sort(void **state) {
    (void)state;
    scbm_random random = {17, 1, 0};
    static double score[400];
    static uint8_t is_on[400];
    for (int round = 0; round < 300; round++) {
        int64_t out = 1 + (int64_t)scbm_random_below(&random, 9), in = 1 + (int64_t)scbm_random_below(&random, 40), n = out * in;
        scbm_tensor masks = make_masks(1, out, in);
        int64_t zeros = 0;
        memset(is_on, 1, sizeof is_on);
        for (int step = 0; step < 3; step++) { /* more zeros each time, by new scores */
            zeros += (int64_t)scbm_random_below(&random, (uint64_t)(n - zeros) + 1);
            for (int64_t i = 0; i < n; i++) score[i] = random_score(&random, round % 2);
            choose_masks(&masks, in, score, zeros);
            select_by_sorting(is_on, score, n, zeros);
            assert_same_bits(&masks, 0, in, is_on);
            assert_int_equal(cbm_mask_kept(&masks, 0), n - zeros);
        }
        free(masks.data);
    }
}

static void equal_scores_go_in_order_of_place(void **state) {
    (void)state;
    double score[15];
    scbm_tensor masks = make_masks(1, 3, 5);
    for (int i = 0; i < 15; i++) score[i] = 2.5;
    score[1] = 3.0;
    score[9] = 1.0;
    choose_masks(&masks, 5, score, 4);
    for (int i = 0; i < 15; i++) /* 9, then 0, 2, 3 */
        assert_int_equal(cbm_mask_get(cbm_mask_row(&masks, 0, i / 5), i % 5), i != 9 && i != 0 && i != 2 && i != 3);
    choose_masks(&masks, 5, score, 2); /* fewer than there are: none comes back */
    assert_int_equal(cbm_mask_kept(&masks, 0), 11);
    free(masks.data);
}

/* ------------------------------------------------------------------------------------------
 * One pruning of a network
 * ---------------------------------------------------------------------------------------- */

/* A network that is not being trained, with what pruning needs around it. */
typedef struct rig {
    cbm_network network;
    scbm_context *context;
    cbm_sequences sequences;
    cbm_training_settings settings;
    cbm_gradient_source source;
    cbm_prune_options options;
    cbm_prune_run run;
    cbm_parameter *parameter[N_MATRICES];
} rig;

static scbm_status give_gradients(void *user, const cbm_gradient_request *request) {
    const rig *r = user;
    return cbm_gradients(&r->source, request);
}

static scbm_status measure_gradients(void *user, const cbm_gradient_request *request, size_t *training,
                                     size_t *gradients) {
    const rig *r = user;
    *training = 0;
    return request ? cbm_gradients_measure(&r->source, request, gradients) : SCBM_OK;
}

static void make_rig(rig *r, const char *method, const scbm_hooks *hooks) {
    memset(r, 0, sizeof *r);
    assert_ok(scbm_context_create(&r->context, hooks, NULL));
    assert_ok(cbm_backbone_copy(&r->network.backbone, &dense->network.backbone, &one_thread));
    assert_ok(cbm_masks_create(&r->network.backbone, K, &one_thread));
    r->network.heads = dense->network.heads;
    r->network.pooling = dense->network.pooling;
    assert_ok(cbm_sequences_add_texts(&r->sequences, dense->tokenizer, (const char *const *)train_data.text,
                                      train_data.text_length, train_data.n, SMALL_MAX_TOKENS, &one_thread));
    r->settings.concept_weight = 5.0f;
    cbm_train_options settled;
    assert_ok(cbm_train_settle(NULL, NULL, &settled));
    r->options = settled.prune;
    r->options.fisher_gradients = r->options.fisher_texts = 0;
    r->options.method = method;
    r->options.start = 1;
    r->options.end = 4;
    r->options.fisher_block = 7;
    r->source = (cbm_gradient_source){&r->network, r->context, &r->settings, &r->sequences, &train_data, hooks};
    r->run = (cbm_prune_run){.backbone = &r->network.backbone,
                             .context = r->context,
                             .options = &r->options,
                             .hooks = hooks,
                             .n_streams = K,
                             .n_texts = (int64_t)train_data.n,
                             .batch_size = 16,
                             .seed = 5,
                             .gradients = give_gradients,
                             .graph_bytes = measure_gradients,
                             .user = r};
    assert_ok(cbm_prune_open(&r->run));
    assert_int_equal(r->run.n, N_MATRICES);
    for (int i = 0; i < N_MATRICES; i++) r->parameter[i] = r->run.matrix[i];
}

static void clear_rig(rig *r) {
    cbm_prune_close(&r->run);
    cbm_tokens_clear(&r->sequences.tokens, &dense->hooks);
    cbm_sequences_clear(&r->sequences, &one_thread);
    cbm_backbone_clear(&r->network.backbone, &one_thread);
    scbm_tensor_forget(&r->network.heads.group_tensor);
    scbm_tensor_forget(&r->network.heads.label_group_tensor);
    scbm_context_free(r->context);
}

static int64_t size_of(const rig *r, int m) {
    return scbm_tensor_elements(r->parameter[m]->tensor);
}

/* Every mask's bytes, one after the other. */
static uint8_t *copy_masks(const rig *r, size_t *size) {
    *size = 0;
    for (int m = 0; m < N_MATRICES; m++) *size += scbm_tensor_bytes(r->parameter[m]->masks);
    uint8_t *copy = malloc(*size), *end = copy;
    assert_non_null(copy);
    for (int m = 0; m < N_MATRICES; m++) {
        memcpy(end, r->parameter[m]->masks->data, scbm_tensor_bytes(r->parameter[m]->masks));
        end += scbm_tensor_bytes(r->parameter[m]->masks);
    }
    return copy;
}

static void assert_exact_counts(const rig *r, double sparsity) {
    for (int m = 0; m < N_MATRICES; m++)
        for (int k = 0; k < K; k++)
            assert_int_equal(small_count_kept(r->parameter[m]->masks, k, r->parameter[m]->tensor->shape[1]),
                             size_of(r, m) - zeros_of(size_of(r, m), sparsity));
}

static void every_method_prunes_exactly_and_never_back(void **state) {
    (void)state;
    static const char *const methods[] = {"obert", "magnitude", "random"};
    for (int i = 0; i < 3; i++) {
        rig r;
        make_rig(&r, methods[i], &one_thread);
        size_t size;
        uint8_t *before = copy_masks(&r, &size);
        for (int epoch = 1; epoch <= 5; epoch++) {
            cbm_prune_report report;
            uint64_t generation = r.parameter[0]->masks->generation;
            assert_ok(cbm_prune_after_epoch(&r.run, epoch, &report));
            assert_true(report.sparsity == cbm_prune_sparsity(&r.options, epoch));
            assert_exact_counts(&r, report.sparsity);
            assert_true(r.parameter[0]->masks->generation > generation);
            assert_true(report.magnitude_overlap > 0.0 && report.magnitude_overlap <= 1.0);
            uint8_t *after = copy_masks(&r, &size);
            for (size_t b = 0; b < size; b++) assert_int_equal(after[b] & ~before[b], 0);
            if (epoch == 5) assert_memory_equal(before, after, size); /* nothing more to prune */
            free(before);
            before = after;
        }
        free(before);
        clear_rig(&r);
    }
}

static void magnitude_keeps_the_largest_weights_for_all_concepts(void **state) {
    (void)state;
    rig r;
    cbm_prune_report report;
    static double score[LARGEST];
    static uint8_t is_on[LARGEST];
    make_rig(&r, "magnitude", &one_thread);
    assert_ok(cbm_prune_after_epoch(&r.run, 4, &report));
    assert_true(report.magnitude_overlap == 1.0);
    for (int m = 0; m < N_MATRICES; m++) {
        int64_t n = size_of(&r, m);
        for (int64_t i = 0; i < n; i++) score[i] = fabs((double)((const float *)r.parameter[m]->tensor->data)[i]);
        memset(is_on, 1, sizeof is_on);
        select_by_sorting(is_on, score, n, zeros_of(n, 0.7));
        for (int k = 0; k < K; k++) assert_same_bits(r.parameter[m]->masks, k, r.parameter[m]->tensor->shape[1], is_on);
    }
    clear_rig(&r);
}

static void random_masks_differ_by_concept_matrix_and_seed(void **state) {
    (void)state;
    cbm_prune_report report;
    uint8_t *masks[2];
    size_t size;
    for (int seed = 0; seed < 2; seed++) {
        rig r;
        make_rig(&r, "random", seed ? &two_threads : &one_thread);
        r.run.seed = (uint64_t)seed;
        assert_ok(cbm_prune_after_epoch(&r.run, 4, &report));
        assert_true(fabs(report.magnitude_overlap - 0.3) < 0.03); /* of 30 % kept, 30 % are large by chance */
        double iou = cbm_masks_overlap(&r.network.backbone, 0, 1, -1);
        assert_true(fabs(iou - 0.09 / 0.51) < 0.03);
        assert_memory_not_equal(r.parameter[0]->masks->data, r.parameter[1]->masks->data, HIDDEN * 8);
        masks[seed] = copy_masks(&r, &size);
        clear_rig(&r);
    }
    assert_memory_not_equal(masks[0], masks[1], size);
    free(masks[0]);
    free(masks[1]);
}

/* ------------------------------------------------------------------------------------------
 * Second order
 * ---------------------------------------------------------------------------------------- */

/* Gradients of W ⊙ M of every minibatch, and the scores that pruning saw. */
typedef struct evidence {
    const rig *r;
    int batch; /* at hand */
    float *gradient[N_MATRICES]; /* [batches, K, n] */
    double *score[N_MATRICES];   /* [K, n] */
} evidence;

static int matrix_of(const rig *r, const scbm_tensor *weight) {
    int m = 0;
    while (r->parameter[m]->tensor != weight) m++;
    return m;
}

static scbm_status keep_gradient(void *user, const scbm_tensor *gradient) {
    evidence *e = user;
    int m = 0;
    while (strcmp(e->r->parameter[m]->tensor->name, gradient->name)) m++;
    int64_t n = K * size_of(e->r, m);
    memcpy(e->gradient[m] + e->batch * n, gradient->data, (size_t)n * sizeof(float));
    return SCBM_OK;
}

/* Each gradient is handed over as soon as it is computed. */
static scbm_tensor *watch_gradient(void *user, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    snprintf(gradient->name, sizeof gradient->name, "%s", weight->name);
    scbm_graph_watch(graph, gradient, keep_gradient, user);
    return NULL;
}

static void keep_scores(void *user, const scbm_tensor *weight, int stream, const double *score) {
    evidence *e = user;
    int m = matrix_of(e->r, weight);
    memcpy(e->score[m] + stream * size_of(e->r, m), score, (size_t)size_of(e->r, m) * sizeof *score);
}

/* The gradients of the whole loss, dropout off, over the minibatches that pruning draws. */
static void collect_gradients(rig *r, evidence *e, int64_t epoch, int64_t n_batches) {
    cbm_training_settings settings = r->settings;
    cbm_training_graph graph;
    int32_t *rows;
    int64_t drawn, batch;
    e->r = r;
    assert_ok(cbm_fisher_draw(&r->run, epoch, &rows, &drawn, &batch));
    assert_int_equal(drawn, n_batches);
    for (int m = 0; m < N_MATRICES; m++) {
        e->gradient[m] = calloc((size_t)(n_batches * K * size_of(r, m)), sizeof(float));
        e->score[m] = calloc((size_t)(K * size_of(r, m)), sizeof(double));
        assert_true(e->gradient[m] && e->score[m]);
    }
    settings.max_tokens = batch * SMALL_MAX_TOKENS;
    settings.max_texts = batch;
    settings.weight_gradients = SCBM_DW_MASKED;
    settings.take_gradient = watch_gradient;
    settings.take_gradient_user = e;
    assert_ok(cbm_training_graph_create(&graph, &r->network, r->context, &settings));
    for (e->batch = 0; e->batch < n_batches; e->batch++) {
        int64_t tokens = cbm_training_fill(&graph, &r->network, &r->sequences, &train_data, rows + e->batch * batch, batch, NULL, 1);
        assert_ok(scbm_graph_run(graph.graph, tokens, batch));
    }
    cbm_training_graph_clear(&graph, scbm_context_hooks(r->context));
    scbm_release(r->run.hooks, rows);
}

static void clear_evidence(evidence *e) {
    for (int m = 0; m < N_MATRICES; m++) {
        free(e->gradient[m]);
        free(e->score[m]);
    }
}

enum { MOST_BLOCK = 20 };

/* METHOD's recursion: F⁻¹_0 = I / δ; F⁻¹ ← F⁻¹ − (F⁻¹ g)(F⁻¹ g)ᵀ / (m + gᵀ F⁻¹ g). `g` is [n_batches] rows, `stride` apart. */
static void invert_by_recursion(long double f[MOST_BLOCK][MOST_BLOCK], const float *g, int64_t stride, int64_t n_batches, int size,
                                long double damping) {
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) f[i][j] = i == j ? 1.0L / damping : 0.0L;
    for (int64_t b = 0; b < n_batches; b++, g += stride) {
        long double fg[MOST_BLOCK], denominator = (long double)n_batches;
        for (int i = 0; i < size; i++) {
            fg[i] = 0.0L;
            for (int j = 0; j < size; j++) fg[i] += f[i][j] * (long double)g[j];
        }
        for (int i = 0; i < size; i++) denominator += (long double)g[i] * fg[i];
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++) f[i][j] -= fg[i] * fg[j] / denominator;
    }
}

/* The share of the mean squared gradient of the weights that are kept, or the damping as it is. */
static long double damping_of(const rig *r, const evidence *e, int m, int k, int64_t n_batches) {
    int64_t n = size_of(r, m);
    long double sum = 0.0L;
    if (r->options.damping_absolute > 0) return (long double)r->options.damping_absolute;
    for (int64_t b = 0; b < n_batches; b++)
        for (int64_t i = 0; i < n; i++) sum += powl((long double)e->gradient[m][(b * K + k) * n + i], 2);
    return (long double)r->options.damping * sum / (long double)(n_batches * cbm_mask_kept(r->parameter[m]->masks, k));
}

/* Scores of one matrix and concept by the recursion; returns the largest relative difference to those that pruning saw. */
static double compare_scores(const rig *r, const evidence *e, int m, int k, int64_t n_batches, double *score) {
    int64_t n = size_of(r, m), block = r->options.fisher_block;
    const float *w = r->parameter[m]->tensor->data;
    long double damping = damping_of(r, e, m, k, n_batches), f[MOST_BLOCK][MOST_BLOCK];
    double largest = 0.0;
    for (int64_t start = 0; start < n; start += block) {
        int size = (int)(n - start < block ? n - start : block);
        invert_by_recursion(f, e->gradient[m] + k * n + start, K * n, n_batches, size, damping);
        for (int j = 0; j < size; j++) {
            int64_t at = start + j;
            score[at] = (double)((long double)w[at] * (long double)w[at] / (2.0L * f[j][j]));
            largest = fmax(largest, fabs(score[at] - e->score[m][k * n + at]) / score[at]);
        }
    }
    return largest;
}

/* Prunes after epoch 2, where masks of epoch 1 are there, and compares scores and masks with the recursion's. */
static void check_second_order(rig *r, int64_t n_batches, double tolerance) {
    evidence e;
    cbm_prune_report report;
    static double score[LARGEST];
    static uint8_t is_on[LARGEST];
    memset(&e, 0, sizeof e);
    assert_ok(cbm_prune_after_epoch(&r->run, 1, &report));
    collect_gradients(r, &e, 2, n_batches);
    rig before = *r;
    uint8_t *old[N_MATRICES];
    for (int m = 0; m < N_MATRICES; m++) {
        old[m] = malloc(scbm_tensor_bytes(r->parameter[m]->masks));
        memcpy(old[m], r->parameter[m]->masks->data, scbm_tensor_bytes(r->parameter[m]->masks));
    }
    r->run.on_scores = keep_scores;
    r->run.on_scores_user = &e;
    assert_ok(cbm_prune_after_epoch(&r->run, 2, &report));
    r->run.on_scores = NULL;
    assert_exact_counts(r, report.sparsity);
    for (int m = 0; m < N_MATRICES; m++) {
        scbm_tensor old_masks = *r->parameter[m]->masks;
        cbm_parameter old_parameter = *r->parameter[m];
        int64_t in = r->parameter[m]->tensor->shape[1], n = size_of(r, m);
        old_masks.data = old[m];
        old_parameter.masks = &old_masks;
        before.parameter[m] = &old_parameter;
        for (int k = 0; k < K; k++) {
            double difference = compare_scores(&before, &e, m, k, n_batches, score);
            if (!(difference < tolerance)) fail_msg("%s, concept %d: a score is off by %g", old_parameter.tensor->name, k, difference);
            for (int64_t i = 0; i < n; i++) is_on[i] = (uint8_t)cbm_mask_get(cbm_mask_row(&old_masks, k, i / in), i % in);
            select_by_sorting(is_on, score, n, zeros_of(n, report.sparsity));
            assert_same_bits(r->parameter[m]->masks, k, in, is_on);
        }
        free(old[m]);
    }
    clear_evidence(&e);
}

/* 400 and 800 weights in blocks of 7; four gradients for each of a block's weights. */
static void second_order_scores_are_those_of_the_recursion(void **state) {
    (void)state;
    rig r;
    make_rig(&r, "obert", &one_thread);
    check_second_order(&r, 28, 1e-10);
    clear_rig(&r);
}

static void the_published_setting_works(void **state) {
    (void)state;
    rig r;
    make_rig(&r, "obert", &one_thread);
    r.options.fisher_block = 20;
    r.options.fisher_gradients = 20;
    r.options.damping_absolute = 1e-7;
    check_second_order(&r, 20, 1e-6);
    clear_rig(&r);
}

/* A block of one weight: [F⁻¹] = 1 / (δ + Σ g² / m), so that the score is w² (δ + Σ g² / m) / 2. */
static void blocks_of_one_are_a_diagonal_fisher_matrix(void **state) {
    (void)state;
    rig r;
    make_rig(&r, "obert", &one_thread);
    r.options.fisher_block = 1;
    r.options.fisher_gradients = 3;
    r.options.fisher_texts = 5;
    check_second_order(&r, 3, 1e-12);
    clear_rig(&r);
}

static void fisher_memory_changes_groups_and_no_mask(void **state) {
    (void)state;
    static const size_t memory[] = {0, 1, 300000};
    static const int groups[] = {1, N_MATRICES, 2};
    /* A matrix of 400 weights has 58 blocks of 7 (28 numbers), of two concepts: 25,984 bytes; one of 800 has 51,520. Four and
     * two of them are a layer: 206,976 bytes; 300,000 hold a layer and three more, and then the other three. */
    uint8_t *masks[3];
    size_t size;
    for (int i = 0; i < 3; i++) {
        rig r;
        cbm_prune_report report;
        make_rig(&r, "obert", &one_thread);
        r.options.fisher_gradients = 12;
        r.options.fisher_memory = memory[i];
        assert_ok(cbm_prune_after_epoch(&r.run, 1, &report));
        assert_ok(cbm_prune_after_epoch(&r.run, 2, &report));
        static const size_t bytes[] = {413952, 51520, 284928};
        assert_int_equal(report.n_groups, groups[i]);
        assert_int_equal(report.bytes, bytes[i]);
        masks[i] = copy_masks(&r, &size);
        clear_rig(&r);
    }
    assert_memory_equal(masks[0], masks[1], size);
    assert_memory_equal(masks[0], masks[2], size);
    for (int i = 0; i < 3; i++) free(masks[i]);
}

typedef struct listener {
    char log[2000];
    int64_t prunings, most;
    int64_t cancel_at; /* call of "prune" that is answered by stop */
} listener;

static void listen_log(void *user, scbm_log_level level, const char *message) {
    listener *l = user;
    size_t n = strlen(l->log);
    (void)level;
    snprintf(l->log + n, sizeof l->log - n, "%s\n", message);
}

static int listen_progress(void *user, const char *what, int64_t done, int64_t total) {
    listener *l = user;
    if (strcmp(what, "prune") != 0) return 0;
    assert_true(done >= 1 && done <= total && done == l->prunings % total + 1);
    l->most = total;
    return ++l->prunings == l->cancel_at;
}

/* The number before these words in a text. */
static double number_before(const char *text, const char *words) {
    const char *end = strstr(text, words), *start = end;
    if (!end) fail_msg("'%s' has no '%s'", text, words);
    while (start > text && strchr("0123456789.", start[-1])) start--;
    return strtod(start, NULL);
}

static void what_pruning_takes_is_said_or_refused_beforehand(void **state) {
    (void)state;
    listener l;
    scbm_hooks hooks = {.user = &l, .log = listen_log, .n_workers = 1};
    rig r;
    memset(&l, 0, sizeof l);
    make_rig(&r, "obert", &hooks);
    r.options.fisher_block = 64;
    /* 7 or 13 blocks of 2,080 numbers, two concepts: 232,960 or 432,640 bytes a matrix, 3.4 MiB in all; for scores those of 800
     * weights and eight blocks' inverses, 289,536 bytes; masks of 8 bytes a row, twice. */
    assert_ok(cbm_prune_plan(&r.run));
    assert_true(number_before(l.log, " for Fisher matrices") == 3.4);
    assert_true(number_before(l.log, " for scores") == 0.3);
    assert_true(number_before(l.log, " for graphs") > (scbm_context_is_host(r.context) ? 1.0 : 0.5)); /* scratch of products */
    assert_non_null(strstr(l.log, "12 matrices in 1 group, 256 gradients of 16 texts"));
    double rest = number_before(l.log, " MiB: ") - 3.4;
    r.run.available_memory = (size_t)((rest + 2.2) * (1 << 20));
    l.log[0] = 0;
    r.options.fisher_memory = 4000000;
    assert_error(cbm_prune_plan(&r.run), SCBM_ERROR_MEMORY, "a fisher_memory of 2 MiB makes groups of layers that fit");
    assert_string_equal(l.log, "");
    r.options.fisher_memory = 2 << 20; /* as it was told */
    assert_ok(cbm_prune_plan(&r.run));
    assert_non_null(strstr(l.log, "12 matrices in 2 groups"));
    r.options.fisher_memory = 0; /* a quarter of what is free, but a matrix at least */
    assert_ok(cbm_prune_plan(&r.run));
    r.run.available_memory = (size_t)((rest + 0.2) * (1 << 20));
    assert_error(cbm_prune_plan(&r.run), SCBM_ERROR_MEMORY, "a fisher_block smaller than 64 takes less");
    r.run.available_memory = 100000;
    assert_error(cbm_prune_plan(&r.run), SCBM_ERROR_MEMORY, "for graphs), and 0.1 MiB are free");
    clear_rig(&r);
    make_rig(&r, "popup", &hooks); /* 6,400 weights: for both concepts score, gradient and moments; and weights' gradients */
    l.log[0] = 0;
    assert_ok(cbm_prune_plan(&r.run));
    assert_true(number_before(l.log, " for learned scores") == 0.2);
    clear_rig(&r);
    make_rig(&r, "magnitude", &hooks); /* which takes little */
    r.run.available_memory = 400000;
    assert_ok(cbm_prune_plan(&r.run));
    clear_rig(&r);
}

/* Planning looks at the graphs with masks that are there for that alone. */
static void planning_leaves_a_dense_network_dense(void **state) {
    (void)state;
    rig r;
    make_rig(&r, "obert", &one_thread);
    cbm_masks_remove(&r.network.backbone, &one_thread);
    assert_ok(cbm_prune_plan(&r.run));
    assert_int_equal(cbm_masks_streams(&r.network.backbone), 0);
    assert_int_equal(cbm_prune_state(&r.run, NULL), 0);
    assert_ok(cbm_prune_begin(&r.run, 0));
    assert_int_equal(cbm_masks_streams(&r.network.backbone), K);
    assert_int_equal(cbm_prune_state(&r.run, NULL), N_MATRICES);
    clear_rig(&r);
}

static void a_cancelled_pruning_leaves_the_masks(void **state) {
    (void)state;
    for (int cancel_at = 1; cancel_at <= 60; cancel_at += 30) {
        listener l;
        scbm_hooks hooks = {.user = &l, .progress = listen_progress, .n_workers = 1};
        rig r;
        cbm_prune_report report;
        size_t size;
        memset(&l, 0, sizeof l);
        l.cancel_at = cancel_at;
        make_rig(&r, "obert", &hooks);
        r.options.fisher_memory = 1; /* the first group's masks are chosen by then, and not yet set */
        uint8_t *before = copy_masks(&r, &size);
        assert_error(cbm_prune_after_epoch(&r.run, 1, &report), SCBM_ERROR_CANCELLED, "cancelled while pruning");
        assert_int_equal(l.most, 28 * N_MATRICES);
        uint8_t *after = copy_masks(&r, &size);
        assert_memory_equal(before, after, size);
        free(before);
        free(after);
        clear_rig(&r);
    }
}

static void no_memory_leaves_the_masks(void **state) {
    (void)state;
    long failures = 0, advised = 0; /* of the Fisher matrices: how they take less */
    for (long at = 1;; at += 1 + at / 5) {
        counting_allocator allocator = {0};
        const scbm_hooks hooks = allocator_hooks(&allocator);
        rig r;
        cbm_prune_report report;
        size_t size;
        make_rig(&r, "obert", &hooks);
        r.options.fisher_gradients = 2;
        uint8_t *before = copy_masks(&r, &size);
        long held = allocator.held;
        allocator.fails_at = allocator.n + at;
        scbm_status status = cbm_prune_after_epoch(&r.run, 1, &report);
        assert_int_equal(allocator.held, held);
        uint8_t *after = copy_masks(&r, &size);
        if (status) assert_memory_equal(before, after, size);
        else assert_memory_not_equal(before, after, size);
        free(before);
        free(after);
        clear_rig(&r);
        if (!status) break;
        assert_int_equal(status, SCBM_ERROR_MEMORY);
        failures++;
        advised += strstr(scbm_last_error(), "MiB of Fisher matrices; a fisher_memory of ") != NULL;
    }
    assert_true(failures > 10 && advised > 0);
}

/* ------------------------------------------------------------------------------------------
 * Learned scores
 * ---------------------------------------------------------------------------------------- */

static void learned_scores_start_with_magnitude(void **state) {
    (void)state;
    rig popup, magnitude;
    cbm_prune_report report;
    make_rig(&magnitude, "magnitude", &one_thread);
    make_rig(&popup, "popup", &one_thread);
    assert_ok(cbm_prune_after_epoch(&magnitude.run, 4, &report));
    assert_ok(cbm_prune_begin(&popup.run, 0));
    assert_ok(cbm_prune_after_epoch(&popup.run, 4, &report));
    assert_true(report.magnitude_overlap == -1.0);
    const cbm_popup *p = popup.run.state;
    for (int m = 0; m < N_MATRICES; m++) {
        const scbm_tensor *a = popup.parameter[m]->masks, *b = magnitude.parameter[m]->masks;
        double square = 0.0;
        const float *score = p->scores[m]->data;
        for (int64_t i = 0; i < size_of(&popup, m); i++) square += (double)score[i] * (double)score[i];
        assert_true(fabs(square / (double)size_of(&popup, m) - 1.0) < 1e-5); /* of mean square 1 */
        assert_memory_equal(a->data, b->data, scbm_tensor_bytes(a));
    }
    clear_rig(&popup);
    clear_rig(&magnitude);
}

/* d loss / d score = dense ⊙ w · sign(score), d loss / d w = Σ_s M_s ⊙ dense_s; and what is masked can come back. */
static void gradients_go_straight_through_to_the_scores(void **state) {
    (void)state;
    rig r;
    cbm_prune_report report;
    make_rig(&r, "popup", &one_thread);
    r.options.sparsity = r.options.initial_sparsity = 0.5;
    assert_ok(cbm_prune_begin(&r.run, 0));
    assert_ok(cbm_prune_after_epoch(&r.run, 1, &report));
    const cbm_popup *p = r.run.state;
    const scbm_tensor *weight = r.parameter[3]->tensor, *masks = r.parameter[3]->masks;
    int64_t n = scbm_tensor_elements(weight), in = weight->shape[1];
    const int64_t shape[3] = {K, weight->shape[0], in};
    scbm_tensor dense_gradient, other;
    assert_ok(scbm_tensor_init(&dense_gradient, "dense", SCBM_F32, 3, shape));
    float *g = dense_gradient.data = calloc((size_t)(K * n), sizeof *g);
    scbm_random random = {1, 2, 0};
    for (int64_t i = 0; i < K * n; i++) g[i] = (float)scbm_random_normal(&random);
    float *score = p->scores[3]->data;
    score[7] = -score[7];
    scbm_tensor_changed(p->scores[3]);
    scbm_graph *graph;
    assert_ok(scbm_graph_create(&graph, r.context));
    scbm_tensor *of_weight = scbm_graph_fetch(graph, cbm_prune_take_gradient(&r.run, graph, weight, &dense_gradient));
    scbm_graph_fetch(graph, p->gradients[3]);
    assert_ok(scbm_tensor_init(&other, "other", SCBM_F32, 2, shape + 1));
    assert_null(cbm_prune_take_gradient(&r.run, graph, &other, &dense_gradient));
    assert_ok(scbm_graph_plan(graph));
    assert_ok(scbm_graph_run(graph, 0, 0));
    const float *w = weight->data, *ds = p->gradients[3]->data, *dw = of_weight->data;
    for (int64_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int k = 0; k < K; k++) {
            float sign = k == 0 && i == 7 ? -1.0f : 1.0f;
            assert_true(ds[k * n + i] == g[k * n + i] * w[i] * sign);
            if (cbm_mask_get(cbm_mask_row(masks, k, i / in), i % in)) sum += g[k * n + i];
        }
        assert_true(dw[i] == sum);
    }
    scbm_graph_free(graph);
    scbm_tensor_forget(&dense_gradient);
    int64_t victim = 0;
    while (cbm_mask_get(cbm_mask_row(masks, 1, victim / in), victim % in)) victim++;
    score[n + victim] = 100.0f;
    scbm_tensor_changed(p->scores[3]);
    uint64_t generation = masks->generation;
    assert_ok(cbm_prune_after_epoch(&r.run, 1, &report));
    assert_true(masks->generation > generation);
    assert_true(cbm_mask_get(cbm_mask_row(masks, 1, victim / in), victim % in));
    assert_false(cbm_mask_get(cbm_mask_row(masks, 0, victim / in), victim % in));
    assert_exact_counts(&r, 0.5);
    free(g);
    clear_rig(&r);
}

static double row_square(const float *score, int64_t in, int64_t row) {
    double square = 0.0;
    for (int64_t j = 0; j < in; j++) square += (double)score[row * in + j] * (double)score[row * in + j];
    return square;
}

static void structured_scores_keep_whole_rows(void **state) {
    (void)state;
    rig r;
    cbm_prune_report report;
    scbm_random random = {4, 4, 0};
    make_rig(&r, "popup-structured", &one_thread);
    assert_ok(cbm_prune_begin(&r.run, 0));
    const cbm_popup *p = r.run.state;
    for (int m = 0; m < N_MATRICES; m++)
        for (int64_t i = 0; i < K * size_of(&r, m); i++) ((float *)p->scores[m]->data)[i] = (float)scbm_random_normal(&random);
    assert_ok(cbm_prune_after_epoch(&r.run, 4, &report));
    for (int m = 0; m < N_MATRICES; m++) {
        int64_t out = r.parameter[m]->tensor->shape[0], in = r.parameter[m]->tensor->shape[1];
        for (int k = 0; k < K; k++) {
            const float *score = (const float *)p->scores[m]->data + k * out * in;
            double smallest_kept = INFINITY, largest_dropped = 0.0;
            int64_t kept = 0;
            for (int64_t row = 0; row < out; row++) {
                int64_t bits = 0;
                for (int64_t j = 0; j < in; j++) bits += cbm_mask_get(cbm_mask_row(r.parameter[m]->masks, k, row), j);
                assert_true(bits == 0 || bits == in);
                kept += bits > 0;
                if (bits) smallest_kept = fmin(smallest_kept, row_square(score, in, row));
                else largest_dropped = fmax(largest_dropped, row_square(score, in, row));
            }
            assert_int_equal(kept, out - zeros_of(out, 0.7));
            assert_true(smallest_kept >= largest_dropped);
        }
    }
    clear_rig(&r);
}

/* ------------------------------------------------------------------------------------------
 * Training runs
 * ---------------------------------------------------------------------------------------- */

static const char *output; /* where runs write */

static cbm_train_options options_for(const char *method, const char *path) {
    cbm_train_options o = {0};
    o.epochs = 4;
    o.learning_rate = 2e-3;
    o.head_learning_rate = 1e-2;
    output = path;
    o.hooks = &one_thread;
    o.prune.method = method;
    o.prune.start = 1;
    o.prune.end = 3;
    o.prune.fisher_block = 5;
    o.prune.score_learning_rate = 0.1;
    return o;
}

static scbm_status train(const cbm_train_options *o) {
    return cbm_train(encoder, &train_data, &valid_data, small_concepts, output, o);
}

static void runs_end_with_the_sparsity_that_was_asked_for(void **state) {
    (void)state;
    const char *method;
    for (int way = 0; (method = cbm_prune_method_name(way)); way++) {
        reports r = {.n = 0};
        cbm_train_options o = options_for(method, in_folder("run.gguf"));
        int by_rows = strcmp(method, "popup-structured") == 0, has_scores = by_rows || strcmp(method, "popup") == 0;
        o.on_epoch = keep_report;
        o.user = &r;
        assert_ok(train(&o));
        assert_int_equal(r.n, 4);
        static const double sparsity[] = {0.2, 0.45, 0.7, 0.7};
        for (int i = 0; i < 4; i++) {
            assert_true(fabs(r.report[i].sparsity - sparsity[i]) < 1e-15);
            if (i < 2) assert_false(r.report[i].is_best); /* not yet at the final sparsity */
            if (has_scores || i == 3) assert_true(r.report[i].magnitude_overlap == -1.0);
            else assert_true(r.report[i].magnitude_overlap > 0.2 && r.report[i].magnitude_overlap <= 1.0);
        }
        assert_true(r.report[2].is_best);
        cbm_model *model = load(output);
        assert_true(cbm_model_is_sparse(model));
        assert_true(scbm_file_int_or(model->file, "sparsecbm.train.epoch", 0) >= 3);
        assert_string_equal(scbm_file_string_or(model->file, "sparsecbm.train.prune_method", ""), method);
        assert_true(fabs(scbm_file_float_or(model->file, "sparsecbm.train.sparsity", 0) - 0.7) < 1e-6);
        for (int i = 0; i < model->network.backbone.n_parameters; i++) {
            const cbm_parameter *p = &model->network.backbone.parameters[i];
            if (!cbm_is_prunable(p)) continue;
            int64_t out = p->tensor->shape[0], in = p->tensor->shape[1];
            int64_t zeros = by_rows ? zeros_of(out, 0.7) * in : zeros_of(out * in, 0.7);
            for (int k = 0; k < K; k++) assert_int_equal(small_count_kept(p->masks, k, in), out * in - zeros);
        }
        double iou = cbm_model_overlap(model, 0, 1, -1);
        if (strcmp(method, "magnitude") == 0) assert_true(iou == 1.0); /* the same weights for every concept */
        else assert_true(iou > 0.1 && iou < 1.0);
        cbm_model_free(model);
    }
}

static void other_modes_prune_too(void **state) {
    (void)state;
    static const cbm_mode modes[] = {CBM_INDEPENDENT, CBM_SEQUENTIAL};
    for (int i = 0; i < 2; i++) {
        cbm_train_options o = options_for("obert", in_folder("mode.gguf"));
        o.mode = modes[i];
        o.epochs = o.prune.end = 2;
        assert_ok(train(&o));
        cbm_model *model = load(output);
        assert_true(cbm_model_mode(model) == modes[i] && fabs(cbm_model_density(model, 1, -1) - 0.3) < 1e-9);
        cbm_model_free(model);
    }
}

/* Before the first pruning a run is that of a dense model, to the bit; after it, it is not. */
static void runs_are_dense_until_the_first_pruning(void **state) {
    (void)state;
    char line[2][64];
    int same = 0, steps = 0;
    cbm_train_options o = options_for("magnitude", in_folder("run.gguf"));
    o.prune.start = 2;
    o.step_log = in_folder("pruned.csv");
    assert_ok(train(&o));
    o.prune.method = NULL;
    o.step_log = in_folder("dense.csv");
    assert_ok(train(&o));
    FILE *a = fopen(in_folder("pruned.csv"), "r"), *b = fopen(in_folder("dense.csv"), "r");
    assert_true(a && b);
    while (fgets(line[0], 64, a) && fgets(line[1], 64, b)) {
        if (strcmp(line[0], line[1]) == 0 && same == steps) same++;
        steps++;
    }
    fclose(a);
    fclose(b);
    assert_int_equal(steps, 1 + 4 * N_TRAIN / 16);
    assert_int_equal(same, 1 + 2 * N_TRAIN / 16);
}

/* Copies the checkpoint of each epoch. */
static void keep_checkpoint(void *user, const cbm_epoch_report *report) {
    const char *path = user;
    char line[400];
    snprintf(line, sizeof line, "cp %s.checkpoint %s.%d", path, path, report->epoch);
    assert_int_equal(system(line), 0);
}

/* Of two files, whether the tensors called `name` have the same bytes. */
static int same_tensor(const char *a, const char *b, const char *name) {
    scbm_file *x, *y;
    assert_ok(scbm_file_open(&x, a, NULL));
    assert_ok(scbm_file_open(&y, b, NULL));
    const scbm_tensor *s = scbm_file_find_tensor(x, name), *t = scbm_file_find_tensor(y, name);
    assert_true(s && t);
    int same = memcmp(s->data, t->data, scbm_tensor_bytes(s)) == 0;
    scbm_file_close(x);
    scbm_file_close(y);
    return same;
}

/* The largest gradient norm of the steps in a log, from line `from` on. */
static double largest_norm(const char *path, int from) {
    char line[100];
    double largest = 0.0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (int i = 1; fgets(line, sizeof line, file); i++)
        if (i >= from) largest = fmax(largest, strtod(strrchr(line, ',') + 1, NULL));
    fclose(file);
    return largest;
}

static void frozen_weights_stay_while_their_scores_learn(void **state) {
    (void)state;
    double norm[2];
    cbm_train_options o = options_for("popup", in_folder("frozen.gguf"));
    o.on_epoch = keep_checkpoint;
    o.user = (void *)(uintptr_t)output;
    o.step_log = in_folder("steps.csv");
    for (int frozen = 1; frozen >= 0; frozen--) {
        o.prune.freeze_weights = frozen;
        assert_ok(train(&o));
        norm[frozen] = largest_norm(o.step_log, 2 + N_TRAIN / 16);
        const char *before = in_folder("frozen.gguf.1"), *after = in_folder("frozen.gguf.4");
        static const char *const encoder_tensors[] = {"blk.0.attn_k.weight", "blk.1.ffn_down.weight", "blk.1.ffn_down.bias",
                                                      "token_embd.weight", "blk.0.attn_output_norm.weight"};
        for (int i = 0; i < COUNT_OF(encoder_tensors); i++)
            assert_int_equal(same_tensor(before, after, encoder_tensors[i]), frozen);
        assert_false(same_tensor(before, after, "blk.1.ffn_down.masks"));
        assert_false(same_tensor(before, after, "score.blk.1.ffn_down.masks"));
        assert_false(same_tensor(before, after, CBM_CONCEPT_WEIGHT));
        assert_false(same_tensor(before, after, CBM_LABEL_BIAS));
    }
    assert_true(norm[1] > 0 && norm[1] < norm[0]); /* what is frozen does not count in what is clipped */
}

/* ------------------------------------------------------------------------------------------
 * The same bits
 * ---------------------------------------------------------------------------------------- */

static void threads_do_not_change_the_bits(void **state) {
    (void)state;
    static const char *const methods[] = {"obert", "popup", "popup-structured"};
    for (int i = 0; i < 3; i++) {
        cbm_train_options o = options_for(methods[i], in_folder("one.gguf"));
        o.epochs = o.prune.end = 2;
        o.prune.fisher_gradients = 4;
        assert_ok(train(&o));
        output = in_folder("two.gguf");
        o.hooks = &two_threads;
        o.prune.fisher_memory = 100000;
        assert_ok(train(&o));
        assert_true(same_files(in_folder("one.gguf"), output));
        assert_true(same_files(in_folder("one.gguf.checkpoint"), in_folder("two.gguf.checkpoint")));
    }
}

typedef struct killer {
    const char *what;
    int64_t at; /* the process ends there, as kill -9 would have it */
} killer;

static int kill_there(void *user, const char *what, int64_t done, int64_t total) {
    const killer *k = user;
    (void)total;
    if (strcmp(what, k->what) == 0 && done == k->at) _exit(3);
    return 0;
}

static void die_there(cbm_train_options o, const char *what, int64_t at) {
    killer k = {what, at};
    scbm_hooks hooks = {.user = &k, .progress = kill_there, .n_workers = 1};
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        o.hooks = &hooks;
        train(&o);
        _exit(4); /* it should not come so far */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
}

/* Six steps an epoch: killed in the second epoch (pruned once), in the fourth, and while pruning. */
static void killed_runs_go_on_to_the_same_bits(void **state) {
    (void)state;
    needs_fork();
    static const char *const methods[] = {"obert", "random", "popup", "popup-structured"};
    for (int i = 0; i < 4; i++) {
        cbm_train_options o = options_for(methods[i], in_folder("whole.gguf"));
        o.prune.freeze_weights = i == 3;
        assert_ok(train(&o));
        output = in_folder("resumed.gguf");
        o.resume = 1;
        for (int way = 0; way < (i == 0 ? 3 : 2); way++) {
            remove(in_folder("resumed.gguf"));
            remove(in_folder("resumed.gguf.checkpoint"));
            die_there(o, way < 2 ? "train" : "prune", way == 0 ? 8 : way == 1 ? 21 : 13);
            assert_ok(train(&o));
            if (!same_files(in_folder("whole.gguf"), output)) fail_msg("%s, way %d: another model", methods[i], way);
            assert_true(same_files(in_folder("whole.gguf.checkpoint"), in_folder("resumed.gguf.checkpoint")));
        }
    }
}

static void going_on_with_another_pruning_is_refused(void **state) {
    (void)state;
    cbm_train_options o = options_for("obert", in_folder("same.gguf"));
    assert_ok(train(&o));
    o.resume = 1;
    cbm_train_options other = o;
    other.prune.method = "magnitude";
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another prune_method (obert, now magnitude)");
    other = o;
    other.prune.sparsity = 0.6;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another sparsity (");
    other = o;
    other.prune.damping = 0.2;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another damping (");
    other = o;
    other.prune.method = NULL;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another prune_method (obert, now none)");
    other = o;
    other.prune.fisher_memory = 12345; /* to the same masks: no difference */
    assert_ok(train(&other));
}

/* ------------------------------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------------------------- */

static void assert_train_refused(cbm_train_options o, const char *words) {
    output = in_folder("refused.gguf");
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, words);
    assert_int_equal(access(output, F_OK), -1);
}

static void senseless_prunings_are_refused(void **state) {
    (void)state;
    const cbm_train_options good = options_for("obert", NULL);
    cbm_train_options o = good;
    o.epochs = 2;
    assert_train_refused(o, "2 epochs end before the last pruning in epoch 3");
    o = good;
    o.mode = CBM_VANILLA;
    assert_train_refused(o, "a vanilla model has no concepts");
    static const double outside[] = {1e-9, 1.0, -0.1, 1.5, NAN};
    for (int i = 0; i < 5; i++) {
        o = good;
        o.prune.sparsity = outside[i];
        assert_train_refused(o, "and must lie between 1e-06 and 0.999999");
    }
    o = good;
    o.prune.initial_sparsity = 0.71;
    assert_train_refused(o, "the initial sparsity is 0.71, and must lie between 0 and 0.7");
    o.prune.initial_sparsity = NAN;
    assert_train_refused(o, "initial_sparsity is nan");
    o = good;
    o.prune.start = -1;
    assert_train_refused(o, "prune_start is -1, and must lie between 1 and");
    o.prune.start = 4;
    assert_train_refused(o, "from epoch 4 to 3");
    o = good;
    o.prune.fisher_block = 1025;
    assert_train_refused(o, "fisher_block is 1025, and must lie between 1 and 1024");
    o = good;
    o.prune.fisher_gradients = -1;
    assert_train_refused(o, "fisher_gradients is -1");
    o = good;
    o.prune.damping = -0.1;
    assert_train_refused(o, "damping is -0.1");
    o.prune.damping = NAN;
    assert_train_refused(o, "damping is nan");
    o = good;
    o.prune.score_learning_rate = INFINITY;
    assert_train_refused(o, "score_learning_rate is inf");
    o = good;
    o.prune.method = "obvert";
    assert_train_refused(o, "prune_method is 'obvert', and must be one of none, obert, magnitude, popup, popup-structured, random");
}

static void a_sparsity_that_empties_a_matrix_is_refused(void **state) {
    (void)state;
    cbm_train_options o = options_for("magnitude", NULL);
    o.prune.sparsity = 0.999; /* 0.4 of 400 weights */
    assert_train_refused(o, "a sparsity of 0.999 leaves nothing of blk.0.attn_q.weight, which has 400 weights");
    o.prune.method = "popup-structured";
    o.prune.sparsity = 0.98; /* 0.4 of 20 rows */
    assert_train_refused(o, "leaves nothing of blk.0.attn_q.weight, which has 20 rows");
    o.prune.method = "popup"; /* 8 of 400 weights stay */
    output = in_folder("few.gguf");
    o.epochs = o.prune.end = 1;
    assert_ok(train(&o));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeros_are_rounded_to_the_nearest_weight),
        cmocka_unit_test(sparsity_climbs_linearly_from_start_to_end),
        cmocka_unit_test(methods_have_names_and_help),
        cmocka_unit_test(the_choice_is_that_of_a_sort),
        cmocka_unit_test(equal_scores_go_in_order_of_place),
        cmocka_unit_test(every_method_prunes_exactly_and_never_back),
        cmocka_unit_test(magnitude_keeps_the_largest_weights_for_all_concepts),
        cmocka_unit_test(random_masks_differ_by_concept_matrix_and_seed),
        cmocka_unit_test(second_order_scores_are_those_of_the_recursion),
        cmocka_unit_test(the_published_setting_works),
        cmocka_unit_test(blocks_of_one_are_a_diagonal_fisher_matrix),
        cmocka_unit_test(fisher_memory_changes_groups_and_no_mask),
        cmocka_unit_test(what_pruning_takes_is_said_or_refused_beforehand),
        cmocka_unit_test(planning_leaves_a_dense_network_dense),
        cmocka_unit_test(a_cancelled_pruning_leaves_the_masks),
        cmocka_unit_test(no_memory_leaves_the_masks),
        cmocka_unit_test(learned_scores_start_with_magnitude),
        cmocka_unit_test(gradients_go_straight_through_to_the_scores),
        cmocka_unit_test(structured_scores_keep_whole_rows),
        cmocka_unit_test(runs_end_with_the_sparsity_that_was_asked_for),
        cmocka_unit_test(other_modes_prune_too),
        cmocka_unit_test(runs_are_dense_until_the_first_pruning),
        cmocka_unit_test(frozen_weights_stay_while_their_scores_learn),
        cmocka_unit_test(threads_do_not_change_the_bits),
        cmocka_unit_test(killed_runs_go_on_to_the_same_bits),
        cmocka_unit_test(going_on_with_another_pruning_is_refused),
        cmocka_unit_test(senseless_prunings_are_refused),
        cmocka_unit_test(a_sparsity_that_empties_a_matrix_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
