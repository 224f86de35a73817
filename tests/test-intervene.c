/*
 * tests/test-intervene.c - interventions: what moves and what stays, edits, the oracle, and models that are shared
 */
#define _XOPEN_SOURCE 700

#include "models/intervene/intervene.h"
#include "tests/small-sparse.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static cbm_model *sparse;
static cbm_dataset data;

enum {
    HIDDEN = 64,
    N_TRAIN = 96,
    N_TEXTS = 24,
    N_WEIGHTS = SMALL_LAYERS * 8 * HIDDEN * HIDDEN,
    LARGEST = 2 * HIDDEN * HIDDEN
};

static int set_up(void **state) {
    const small_options options = {.hidden = HIDDEN};
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), &options));
    small_train(in_folder("sparse.gguf"), in_folder("encoder.gguf"), CBM_JOINT, "obert", 0.6, 3, N_TRAIN);
    assert_ok(small_data(&data, 2000, N_TEXTS));
    sparse = load(in_folder("sparse.gguf"));
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(sparse);
    cbm_dataset_clear(&data);
    return remove_folder(state);
}

/* ------------------------------------------------------------------------------------------
 * Predictions that outlive their context's calls
 * ---------------------------------------------------------------------------------------- */

typedef struct reading {
    int label, classes[SMALL_CONCEPTS];
    float labels[SMALL_LABELS], concepts[SMALL_CLASSES], contributions[SMALL_CONCEPTS], bias;
} reading;

static reading read_of(const cbm_prediction *p) {
    reading r;
    int n = 0;
    memset(&r, 0, sizeof r);
    assert_int_equal(p->n_labels, SMALL_LABELS);
    assert_int_equal(p->n_concepts, SMALL_CONCEPTS);
    r.label = p->label_index;
    r.bias = p->bias;
    memcpy(r.labels, p->logits, sizeof r.labels);
    for (int k = 0; k < SMALL_CONCEPTS; k++) {
        r.classes[k] = p->concepts[k].class_index;
        r.contributions[k] = p->concepts[k].contribution;
        for (int c = 0; c < p->concepts[k].n_classes; c++) r.concepts[n++] = p->concepts[k].logits[c];
    }
    return r;
}

static reading predict(cbm_context *ctx, const char *text) {
    cbm_prediction p;
    assert_ok(predict_value(ctx, text, &p));
    return read_of(&p);
}

static void assert_same(reading a, reading b) {
    assert_memory_equal(&a, &b, sizeof a);
}

static const char *class_name(int k, int c) {
    return cbm_model_concept_class(sparse, k, c);
}

static const int first_class[SMALL_CONCEPTS + 1] = {0, 3, 5};

/* The cross-entropy of concept k with class c. */
static double cross_entropy(const reading *r, int k, int c) {
    double sum = 0.0;
    for (int i = first_class[k]; i < first_class[k + 1]; i++)
        sum += exp((double)r->concepts[i] - (double)r->concepts[first_class[k] + c]);
    return log(sum);
}

/* A copy; its predictions live until the context's next intervention. */
static cbm_intervention intervene(cbm_context *ctx, int k, int c, const cbm_intervene_options *options) {
    const cbm_intervention *result;
    assert_ok(cbm_intervene_report(ctx, small_concepts[k], class_name(k, c), options, &result));
    return *result;
}

/* ------------------------------------------------------------------------------------------
 * Masks
 * ---------------------------------------------------------------------------------------- */

static uint64_t checksum_of(const char *path) {
    FILE *file = fopen(path, "rb");
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    assert_non_null(file);
    for (int c = getc(file); c != EOF; c = getc(file)) hash = (hash ^ (uint64_t)c) * UINT64_C(0x100000001b3);
    fclose(file);
    return hash;
}

/* The weights and masks in memory. */
static uint64_t checksum_of_tensors(const cbm_model *model) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int64_t i = 0; i < scbm_file_n_tensors(model->file); i++) {
        const scbm_tensor *t = scbm_file_tensor(model->file, i);
        for (size_t b = 0; b < scbm_tensor_bytes(t); b++)
            hash = (hash ^ ((const uint8_t *)t->data)[b]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* The program of the manual. */
static void a_concept_is_brought_to_a_class_and_the_label_follows(void **state) {
    (void)state;
    uint64_t file = checksum_of(in_folder("sparse.gguf")), tensors = checksum_of_tensors(sparse);
    cbm_context *ctx = context_for(sparse);
    const cbm_prediction *p;
    assert_ok(cbm_predict(ctx, "the soup was tasty and the waiter kind", &p));
    reading before = read_of(p);
    const char *other = p->concepts[1].class_index ? "kind" : "rude";
    assert_ok(cbm_intervene(ctx, "staff", other, NULL, &p));
    reading after = read_of(p);
    assert_string_equal(p->concepts[1].class_name, other);
    assert_true(after.classes[1] != before.classes[1]);
    assert_true(memcmp(after.labels, before.labels, sizeof after.labels) != 0);
    assert_memory_equal(after.concepts, before.concepts, 3 * sizeof(float)); /* the other concept's */
    assert_true(fabs((double)p->logits[p->label_index] - ((double)p->bias + (double)p->concepts[0].contribution +
                                                          (double)p->concepts[1].contribution)) < 1e-5);
    assert_int_equal(p->n_tokens, 10);
    assert_same(predict(ctx, "the soup was tasty and the waiter kind"), before); /* the model is what it was */
    cbm_context_free(ctx);
    assert_true(checksum_of(in_folder("sparse.gguf")) == file);
    assert_true(checksum_of_tensors(sparse) == tensors);
}

/* The overlay's bit of weight `at`, and the model's. */
static int overlay_bit(const cbm_context *ctx, const cbm_parameter *p, int64_t at) {
    int64_t in = p->tensor->shape[1];
    return cbm_mask_get(cbm_mask_row(cbm_overlay_masks(ctx, p->tensor), 0, at / in), at % in);
}

static int model_bit(const cbm_parameter *p, int k, int64_t at) {
    int64_t in = p->tensor->shape[1];
    return cbm_mask_get(cbm_mask_row(p->masks, k, at / in), at % in);
}

static void steps_lower_the_cross_entropy_and_keep_the_sparsity(void **state) {
    (void)state;
    static const double portions[] = {0.002, 0.02, 0.05, 0.3, 1.0};
    cbm_context *ctx = context_for(sparse);
    int n = 0, succeeded = 0;
    for (int i = 0; i < N_TEXTS; i++) {
        reading before = predict(ctx, data.text[i]);
        int k = i % SMALL_CONCEPTS, c = (before.classes[k] + 1) % (k ? 2 : 3);
        const cbm_intervene_options options = {.portion = portions[i % 5], .steps = 1 + i % 4};
        cbm_intervention result = intervene(ctx, k, c, &options);
        reading after = read_of(result.after);
        assert_same(read_of(result.before), before);
        assert_true(cross_entropy(&after, k, c) <= cross_entropy(&before, k, c));
        assert_int_equal(result.succeeded, after.classes[k] == c);
        assert_in_range(result.steps, 0, options.steps);
        assert_true((result.steps > 0) == (result.moved_bits > 0));
        assert_int_equal(result.total_bits, N_WEIGHTS);
        int64_t moved = 0;
        for (int j = 0; j < sparse->network.backbone.n_parameters; j++) {
            const cbm_parameter *p = &sparse->network.backbone.parameters[j];
            if (!p->masks) continue;
            const scbm_tensor *masks = cbm_overlay_masks(ctx, p->tensor);
            assert_int_equal(small_count_kept(masks, 0, p->tensor->shape[1]),
                             small_count_kept(p->masks, k, p->tensor->shape[1]));
            for (int64_t at = 0; at < scbm_tensor_elements(p->tensor); at++)
                moved += overlay_bit(ctx, p, at) != model_bit(p, k, at);
        }
        assert_int_equal(result.moved_bits, moved);
        n += result.steps > 0;
        succeeded += result.succeeded;
    }
    assert_true(n > N_TEXTS / 2 && succeeded > N_TEXTS / 4);
    cbm_context_free(ctx);
}

/* A file whose concept k has the overlay's masks: what the intervention says is what this model predicts, to the bit. */
typedef struct transplant {
    const cbm_context *ctx;
    int concept;
} transplant;

static int put_masks(void *user, scbm_tensor *t) {
    const transplant *from = user;
    for (int j = 0; j < sparse->network.backbone.n_parameters; j++) {
        const cbm_parameter *p = &sparse->network.backbone.parameters[j];
        if (!p->masks || strcmp(p->masks->name, t->name) != 0) continue;
        size_t bytes = scbm_tensor_bytes(t) / SMALL_CONCEPTS;
        memcpy((uint8_t *)t->data + (size_t)from->concept * bytes, cbm_overlay_masks(from->ctx, p->tensor)->data,
               bytes);
    }
    return 1;
}

static void a_model_with_the_moved_masks_predicts_the_same_bits(void **state) {
    (void)state;
    static const scbm_precision precisions[] = {SCBM_PRECISION_F32, SCBM_PRECISION_BF16};
    for (int i = 0; i < 4; i++) {
        const cbm_context_options precise = {.precision = precisions[i % 2]};
        cbm_context *ctx, *other;
        scbm_status status = cbm_context_create(&ctx, sparse, &precise);
        if (status && precise.precision == SCBM_PRECISION_BF16) { /* not with masks, on this processor */
            assert_error(status, SCBM_ERROR_UNSUPPORTED, "has no bf16 products");
            continue;
        }
        assert_ok(status);
        reading before = predict(ctx, data.text[i]);
        int k = i / 2, c = (before.classes[k] + 1) % (k ? 2 : 3);
        cbm_intervention result = intervene(ctx, k, c, NULL);
        assert_true(result.moved_bits > 0);
        transplant from = {ctx, k};
        assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("moved.gguf"), put_masks, &from));
        cbm_model *moved = load(in_folder("moved.gguf"));
        assert_ok(cbm_context_create(&other, moved, &precise));
        assert_same(predict(other, data.text[i]), read_of(result.after));
        cbm_context_free(other);
        cbm_model_free(moved);
        cbm_context_free(ctx);
    }
}

/* The dense gradient of concept k's cross-entropy with class c on one text, by a training graph: [n] of each matrix. */
typedef struct gradients {
    float *of[64];
    int k;
} gradients;

static scbm_status keep_gradient(void *user, const scbm_tensor *gradient) {
    gradients *g = user;
    for (int j = 0; j < sparse->network.backbone.n_parameters; j++) {
        const scbm_tensor *weight = sparse->network.backbone.parameters[j].tensor;
        if (!weight || strcmp(weight->name, gradient->name)) continue;
        int64_t n = scbm_tensor_elements(weight);
        g->of[j] = malloc((size_t)n * sizeof(float));
        memcpy(g->of[j], (const float *)gradient->data + g->k * n, (size_t)n * sizeof(float));
    }
    return SCBM_OK;
}

/* Each gradient is handed over as soon as it is computed. */
static scbm_tensor *watch_gradient(void *user, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    snprintf(gradient->name, sizeof gradient->name, "%s", weight->name);
    scbm_graph_watch(graph, gradient, keep_gradient, user);
    return NULL;
}

static void compute_gradients(gradients *g, int text, int k, int c) {
    cbm_network network = sparse->network;
    cbm_training_settings settings;
    cbm_training_graph graph;
    cbm_sequences sequences;
    scbm_context *context;
    scbm_tensor *only[64];
    int32_t row = 0, label = -1, classes[SMALL_CONCEPTS];
    cbm_dataset one = {.n = 1, .label = &label, .concept_class = classes, .n_concepts = SMALL_CONCEPTS};
    memset(g, 0, sizeof *g);
    memset(&settings, 0, sizeof settings);
    memset(&sequences, 0, sizeof sequences);
    g->k = k;
    for (int i = 0; i < SMALL_CONCEPTS; i++) classes[i] = i == k ? c : -1;
    network.heads.mode = CBM_SEQUENTIAL; /* the concepts' loss alone */
    settings.max_tokens = SMALL_MAX_TOKENS;
    settings.max_texts = 1;
    settings.weight_gradients = SCBM_DW_DENSE;
    settings.only = only;
    for (int j = 0; j < network.backbone.n_parameters; j++)
        if (network.backbone.parameters[j].masks) only[settings.n_only++] = network.backbone.parameters[j].tensor;
    settings.take_gradient = watch_gradient;
    settings.take_gradient_user = g;
    assert_ok(scbm_context_create(&context, &one_thread, NULL));
    assert_ok(cbm_training_graph_create(&graph, &network, context, &settings));
    assert_ok(cbm_sequences_add(&sequences, sparse->tokenizer, data.text[text], data.text_length[text],
                                SMALL_MAX_TOKENS, &one_thread));
    assert_ok(scbm_graph_run(graph.graph, cbm_training_fill(&graph, &network, &sequences, &one, &row, 1, NULL, 1), 1));
    cbm_training_graph_clear(&graph, &one_thread);
    cbm_sequences_clear(&sequences, &one_thread);
    scbm_tensor_forget(&network.heads.group_tensor);
    scbm_context_free(context);
}

typedef struct candidate {
    double score; /* the smallest move */
    int64_t place;
} candidate;

static int compare_candidates(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* The candidates of one direction by score: kept weights that go, or zeros that come. Returns their number. */
static int64_t sort_candidates(candidate *list, const cbm_parameter *p, int k, const float *gradient, int is_kept,
                               int is_signed) {
    const float *w = p->tensor->data;
    int64_t n = 0;
    for (int64_t at = 0; at < scbm_tensor_elements(p->tensor); at++) {
        double g = (double)gradient[at] * (double)w[at];
        if (model_bit(p, k, at) != is_kept) continue;
        if (is_signed && (is_kept ? g <= 0 : g >= 0)) continue;
        list[n++] = (candidate){is_signed ? (is_kept ? -g : g) : is_kept ? fabs(g) : -fabs(g), at};
    }
    qsort(list, (size_t)n, sizeof *list, compare_candidates);
    return n;
}

static void one_step_moves_what_the_rule_says(void **state) {
    (void)state;
    static const double portions[] = {0.01, 0.05, 0.3, 1.0};
    static candidate goes[LARGEST], comes[LARGEST];
    static uint8_t wanted[LARGEST];
    cbm_context *ctx = context_for(sparse);
    int64_t largest = 0;
    int n = 0;
    for (int i = 0; i < 16; i++) {
        const cbm_intervene_options options = {.rule = i % 2 ? CBM_SELECT_ABS : CBM_SELECT_SIGNED,
                                               .portion = portions[i / 2 % 4],
                                               .steps = 1,
                                               .whole_steps = 1};
        reading before = predict(ctx, data.text[i]);
        int k = i / 8, c = (before.classes[k] + 1) % (k ? 2 : 3);
        gradients g;
        cbm_intervention result = intervene(ctx, k, c, &options);
        if (result.steps == 0) continue; /* a signed step that did not help was undone */
        n++;
        compute_gradients(&g, i, k, c);
        for (int j = 0; j < sparse->network.backbone.n_parameters; j++) {
            const cbm_parameter *p = &sparse->network.backbone.parameters[j];
            if (!p->masks) continue;
            int64_t size = scbm_tensor_elements(p->tensor), kept = cbm_mask_kept(p->masks, k);
            int64_t q = (int64_t)floor(options.portion * (double)kept + 0.5);
            if (q > size - kept) q = size - kept;
            int64_t n_goes = sort_candidates(goes, p, k, g.of[j], 1, i % 2 == 0);
            int64_t n_comes = sort_candidates(comes, p, k, g.of[j], 0, i % 2 == 0);
            if (q > n_goes) q = n_goes;
            if (q > n_comes) q = n_comes;
            if (i % 2) assert_true(q == (options.portion == 1.0 ? kept : q)); /* 60 % are zeros: everything can go */
            for (int64_t at = 0; at < size; at++) wanted[at] = (uint8_t)model_bit(p, k, at);
            for (int64_t m = 0; m < q; m++) wanted[goes[m].place] = 0, wanted[comes[m].place] = 1;
            for (int64_t at = 0; at < size; at++) assert_int_equal(overlay_bit(ctx, p, at), wanted[at]);
            if (q > largest) largest = q;
            free(g.of[j]);
        }
    }
    assert_true(n >= 10 && largest > 1000);
    cbm_context_free(ctx);
}

/* The overlay's bits, of all matrices. */
static uint8_t *copy_bits(const cbm_context *ctx) {
    uint8_t *bits = malloc(N_WEIGHTS), *next = bits;
    assert_non_null(bits);
    for (int j = 0; j < sparse->network.backbone.n_parameters; j++) {
        const cbm_parameter *p = &sparse->network.backbone.parameters[j];
        for (int64_t at = 0; p->masks && at < scbm_tensor_elements(p->tensor); at++)
            *next++ = (uint8_t)overlay_bit(ctx, p, at);
    }
    assert_true(next == bits + N_WEIGHTS);
    return bits;
}

static void a_step_is_no_larger_than_it_must_be(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    int shrunk = 0;
    for (int i = 0; i < 12; i++) {
        reading before = predict(ctx, data.text[i]);
        int k = i % SMALL_CONCEPTS, c = (before.classes[k] + 1) % (k ? 2 : 3);
        cbm_intervene_options whole = {.portion = 0.3, .steps = 1, .whole_steps = 1};
        cbm_intervene_options options = {.portion = 0.3, .steps = 1};
        cbm_intervention all = intervene(ctx, k, c, &whole);
        if (!all.succeeded) continue;
        assert_true(all.portion == 0.3);
        int64_t all_bits = all.moved_bits;
        cbm_intervention least = intervene(ctx, k, c, &options);
        reading after = read_of(least.after);
        if (!least.succeeded) continue; /* the search ended before: a larger portion was worse than none */
        assert_true(least.steps == 1 && least.moved_bits <= all_bits && least.portion <= 0.3);
        uint8_t *bits = copy_bits(ctx);
        shrunk += least.moved_bits < all_bits;
        /* It is the whole step of that portion … */
        whole.portion = least.portion;
        cbm_intervention again = intervene(ctx, k, c, &whole);
        uint8_t *bits_again = copy_bits(ctx);
        assert_memory_equal(bits, bits_again, N_WEIGHTS);
        assert_same(read_of(again.after), after);
        /* … and of the portions a little smaller one is not enough, unless nothing at all moves there. */
        double failing = least.portion;
        for (int j = 0; j < 40 && again.succeeded && again.moved_bits > 0; j++) {
            failing /= 1.0025;
            whole.portion = failing;
            again = intervene(ctx, k, c, &whole);
        }
        assert_false(again.succeeded && again.moved_bits > 0);
        free(bits);
        free(bits_again);
    }
    assert_true(shrunk >= 3);
    cbm_context_free(ctx);
}

static void the_papers_rule_takes_one_step_by_default(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    const cbm_intervene_options options = {.rule = CBM_SELECT_ABS};
    for (int i = 0; i < 4; i++) {
        reading before = predict(ctx, data.text[i]);
        cbm_intervention result = intervene(ctx, 0, (before.classes[0] + 1) % 3, &options);
        assert_int_equal(result.steps, 1);
        /* twice 5 % of the kept weights of each matrix, of 1,638 and of 3,277 */
        assert_int_equal(result.moved_bits, 2 * SMALL_LAYERS * (4 * 82 + 2 * 164));
    }
    cbm_context_free(ctx);
}

static void nothing_moves_where_nothing_is_to_do(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    reading before = predict(ctx, data.text[0]);
    cbm_intervention result = intervene(ctx, 0, before.classes[0], NULL); /* it reads that already */
    assert_true(result.succeeded && result.steps == 0 && result.moved_bits == 0);
    assert_same(read_of(result.after), before);
    const cbm_intervene_options little = {.portion = 0.0003}; /* 0.98 of the 3,277 weights of the largest matrices */
    result = intervene(ctx, 0, (before.classes[0] + 1) % 3, &little);
    assert_true(!result.succeeded && result.steps == 0 && result.moved_bits == 0);
    assert_same(read_of(result.after), before);
    cbm_context_free(ctx);
}

static void interventions_on_several_concepts_add_up(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    reading before = predict(ctx, data.text[3]), after[2];
    int c[2] = {(before.classes[0] + 1) % 3, 1 - before.classes[1]};
    cbm_intervention alone = intervene(ctx, 0, c[0], NULL);
    reading first = read_of(alone.after);
    cbm_intervene_reset(ctx);
    for (int order = 0; order < 2; order++) {
        intervene(ctx, order, c[order], NULL);
        cbm_intervention second = intervene(ctx, 1 - order, c[1 - order], NULL);
        after[order] = read_of(second.after);
        if (order == 0) assert_same(read_of(second.before), first);
        cbm_intervene_reset(ctx);
    }
    assert_same(after[0], after[1]);
    assert_true(after[0].classes[0] == c[0] && after[0].classes[1] == c[1]);
    cbm_intervention again = intervene(ctx, 0, c[0], NULL); /* after the reset */
    assert_same(read_of(again.before), before);
    assert_same(read_of(again.after), first);
    cbm_context_free(ctx);
}

static void the_same_concept_starts_from_the_models_mask_again(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    reading before = predict(ctx, data.text[5]);
    int c = (before.classes[0] + 1) % 3, other = (before.classes[0] + 2) % 3;
    cbm_intervention result = intervene(ctx, 0, other, NULL);
    reading first = read_of(result.after);
    int64_t moved = result.moved_bits;
    result = intervene(ctx, 0, c, NULL); /* something else first */
    assert_same(read_of(result.before), first);
    result = intervene(ctx, 0, other, NULL);
    assert_same(read_of(result.after), first);
    assert_int_equal(result.moved_bits, moved);
    result = intervene(ctx, 0, before.classes[0], NULL); /* which the model's mask reads */
    assert_same(read_of(result.after), before);
    assert_int_equal(result.moved_bits, 0);
    cbm_context_free(ctx);
}

static void texts_of_any_length_can_be_intervened_on(void **state) {
    (void)state;
    char longest[1000] = "rude";
    const char *const texts[] = {"", "kind", longest};
    cbm_context *ctx = context_for(sparse);
    for (int i = 0; i < 60; i++) strcat(longest, " soup");
    for (int i = 0; i < 3; i++) {
        reading before = predict(ctx, texts[i]);
        cbm_intervention result = intervene(ctx, 1, 1 - before.classes[1], NULL);
        assert_true(result.succeeded);
        assert_int_equal(result.after->truncated, i == 2);
        assert_int_equal(result.after->n_tokens, i == 2 ? SMALL_MAX_TOKENS : 2 + i);
    }
    cbm_context_free(ctx);
}

static void quantized_subnetworks_can_be_intervened_on(void **state) {
    (void)state;
    const small_options options = {.hidden = 32};
    assert_ok(small_encoder(in_folder("encoder32.gguf"), &options));
    small_train(in_folder("sparse32.gguf"), in_folder("encoder32.gguf"), CBM_SEQUENTIAL, "obert", 0.5, 2, N_TRAIN);
    static const scbm_type types[] = {SCBM_Q8_0, SCBM_Q4_0, SCBM_F16};
    for (int t = 0; t < 3; t++) {
        int succeeded = 0;
        assert_ok(cbm_quantize(in_folder("sparse32.gguf"), in_folder("small.gguf"), types[t], NULL, NULL));
        cbm_model *model = load(in_folder("small.gguf"));
        cbm_context *ctx = context_for(model);
        for (int i = 0; i < 6; i++) {
            reading before = predict(ctx, data.text[i]);
            cbm_intervention result = intervene(ctx, 1, 1 - before.classes[1], NULL);
            reading after = read_of(result.after);
            assert_true(cross_entropy(&after, 1, 1 - before.classes[1]) <=
                        cross_entropy(&before, 1, 1 - before.classes[1]));
            succeeded += result.succeeded;
        }
        assert_true(succeeded >= 5);
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
}

/* ------------------------------------------------------------------------------------------
 * Edits
 * ---------------------------------------------------------------------------------------- */

/* y = G u + g by hand. */
static void assert_labels(const cbm_model *model, const cbm_prediction *p, const float u[SMALL_CLASSES]) {
    const float *weight = model->network.heads.label_weight->data, *bias = model->network.heads.label_bias->data;
    for (int y = 0; y < SMALL_LABELS; y++) {
        double sum = (double)bias[y];
        for (int c = 0; c < SMALL_CLASSES; c++) sum += (double)weight[y * SMALL_CLASSES + c] * (double)u[c];
        assert_true(fabs(sum - (double)p->logits[y]) < 1e-5);
    }
}

static void edits_replace_the_values_that_the_label_reads(void **state) {
    (void)state;
    static const cbm_mode modes[] = {CBM_JOINT, CBM_INDEPENDENT};
    static const float given[3] = {0.7f, 0.2f, 0.1f};
    for (int m = 0; m < 2; m++) { /* dense models: an edit needs no masks */
        small_train(in_folder("dense.gguf"), in_folder("encoder.gguf"), modes[m], NULL, 0.5, 3, N_TRAIN);
        cbm_model *model = load(in_folder("dense.gguf"));
        cbm_context *ctx = context_for(model);
        const float *means = model->gold_means->data;
        cbm_prediction p;
        float u[SMALL_CLASSES];
        for (cbm_edit_values edit = CBM_EDIT_GOLD_MEAN; edit <= CBM_EDIT_GIVEN; edit++) {
            const cbm_intervene_options options = {
                .method = CBM_INTERVENE_EDIT, .edit = edit, .values = given, .n_values = 3, .edit_always = 1};
            assert_ok(predict_value(ctx, data.text[1], &p));
            for (int k = 0; k < SMALL_CONCEPTS; k++)
                memcpy(u + first_class[k], m ? p.concepts[k].probabilities : p.concepts[k].logits,
                       (size_t)p.concepts[k].n_classes * sizeof *u);
            assert_labels(model, &p, u);
            cbm_intervention result = intervene(ctx, 0, 1, &options);
            for (int c = 0; c < 3; c++)
                u[c] = edit == CBM_EDIT_GOLD_MEAN ? means[1 * 3 + c]
                       : edit == CBM_EDIT_ONE_HOT ? (float)(c == 1)
                                                  : given[c];
            assert_labels(model, result.after, u);
            assert_true(result.steps == 0 && result.moved_bits == 0 && result.total_bits == 0);
            assert_int_equal(result.after->concepts[0].class_index, cbm_largest(u, 3));
            assert_int_equal(result.succeeded, cbm_largest(u, 3) == 1);
            if (m) /* values are probabilities */
                for (int c = 0; c < 3; c++)
                    assert_true(fabs((double)result.after->concepts[0].probabilities[c] - (double)u[c]) < 1e-6);
            else assert_memory_equal(result.after->concepts[0].logits, u, 3 * sizeof *u);
        }
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
}

static void a_mask_and_an_edit_add_up(void **state) {
    (void)state;
    const cbm_intervene_options edit = {.method = CBM_INTERVENE_EDIT, .edit_always = 1};
    cbm_context *ctx = context_for(sparse);
    reading before = predict(ctx, data.text[2]);
    cbm_intervention result = intervene(ctx, 0, (before.classes[0] + 1) % 3, NULL);
    reading moved = read_of(result.after);
    result = intervene(ctx, 1, 0, &edit);
    reading both = read_of(result.after);
    assert_int_equal(result.total_bits, N_WEIGHTS);
    assert_memory_equal(both.concepts, moved.concepts, 3 * sizeof(float));
    assert_memory_equal(both.concepts + 3, (const float *)sparse->gold_means->data + 3 * 3, 2 * sizeof(float));
    result = intervene(ctx, 1, before.classes[1], NULL); /* masks again: the edit is gone */
    reading back = read_of(result.after);
    assert_same(back, moved);
    cbm_context_free(ctx);
}

static int forget_a_class(void *user, scbm_tensor *t) {
    (void)user;
    if (strcmp(t->name, CBM_GOLD_COUNTS) == 0) ((int32_t *)t->data)[4] = 0; /* staff: rude */
    return 1;
}

static void a_class_that_training_never_saw_has_no_mean(void **state) {
    (void)state;
    assert_ok(small_rewrite(in_folder("sparse.gguf"), in_folder("unseen.gguf"), forget_a_class, NULL));
    cbm_model *model = load(in_folder("unseen.gguf"));
    cbm_context *ctx = context_for(model);
    cbm_intervene_options edit = {.method = CBM_INTERVENE_EDIT, .edit_always = 1};
    const cbm_prediction *p;
    reading before = predict(ctx, data.text[2]);
    assert_error(cbm_intervene(ctx, "staff", "rude", &edit, &p), SCBM_ERROR_ARGUMENT,
                 "no training text has class 'rude' of concept 'staff'");
    assert_string_equal(cbm_context_error(ctx), scbm_last_error());
    assert_ok(cbm_intervene(ctx, "staff", "kind", &edit, &p));
    edit.edit = CBM_EDIT_ONE_HOT;
    assert_ok(cbm_intervene(ctx, "staff", "rude", &edit, &p));
    assert_int_equal(p->concepts[1].class_index, 1);
    assert_memory_equal(p->concepts[0].logits, before.concepts, 3 * sizeof(float));
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* ------------------------------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------------------------- */

static void dense_models_are_offered_an_edit(void **state) {
    (void)state;
    static const cbm_mode modes[] = {CBM_JOINT, CBM_VANILLA};
    const cbm_prediction *p;
    for (int m = 0; m < 2; m++) {
        small_train(in_folder("dense.gguf"), in_folder("encoder.gguf"), modes[m], NULL, 0.5, 1, N_TRAIN);
        cbm_model *model = load(in_folder("dense.gguf"));
        cbm_context *ctx = context_for(model);
        const cbm_oracle *oracle;
        assert_ok(cbm_predict(ctx, data.text[0], &p));
        const char *words = m ? "a model in vanilla mode has no concepts" : "edit the concept";
        assert_error(cbm_intervene(ctx, "staff", "rude", NULL, &p), SCBM_ERROR_UNSUPPORTED, words);
        assert_error(cbm_intervene_check(model, NULL), SCBM_ERROR_UNSUPPORTED, words);
        assert_error(cbm_intervene_oracle(ctx, &data, NULL, 0, &oracle), SCBM_ERROR_UNSUPPORTED, words);
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
    cbm_model *encoder = load(in_folder("encoder.gguf"));
    assert_error(cbm_intervene_check(encoder, NULL), SCBM_ERROR_UNSUPPORTED, "encoder mode");
    cbm_model_free(encoder);
}

static void what_makes_no_sense_is_refused(void **state) {
    (void)state;
    static const double portions[] = {-0.1, 1.01, NAN};
    const cbm_intervene_options defaults = {.method = CBM_INTERVENE_MASK};
    cbm_context *ctx = context_for(sparse);
    const cbm_prediction *p;
    const cbm_intervention *by_number;
    reading before = predict(ctx, data.text[0]);
    assert_error(cbm_intervene(ctx, "stuff", "rude", NULL, &p), SCBM_ERROR_ARGUMENT,
                 "there is no concept 'stuff'; the model has taste, staff");
    assert_error(cbm_intervene(ctx, "staff", "tasty", NULL, &p), SCBM_ERROR_ARGUMENT,
                 "concept 'staff' has no class 'tasty'; it has kind, rude");
    assert_error(cbm_intervene(ctx, NULL, NULL, NULL, &p), SCBM_ERROR_ARGUMENT, "no concept ''");
    assert_error(cbm_intervene(ctx, "staff", NULL, NULL, &p), SCBM_ERROR_ARGUMENT, "no class ''");
    for (int i = 0; i < 3; i++) {
        cbm_intervene_options o = defaults;
        o.portion = portions[i];
        assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "must lie in (0, 1]");
    }
    cbm_intervene_options o = defaults;
    o.steps = -1;
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "-1 steps");
    o = defaults;
    o.method = (cbm_intervention_method)5;
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "unknown");
    o = defaults;
    o.method = CBM_INTERVENE_EDIT;
    o.edit = CBM_EDIT_GIVEN;
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT,
                 "0 values are given for concept 'staff'");
    o.values = (const float[2]){0.0f, INFINITY};
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "0 values");
    o.n_values = 3;
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "which has 2 classes");
    o.n_values = 2;
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "not finite");
    assert_null(p);
    o = defaults;
    o.reserved[7] = 1;
    assert_error(cbm_intervene(ctx, "staff", "rude", &o, &p), SCBM_ERROR_ARGUMENT, "reserved");
    assert_error(cbm_intervene_on(ctx, 0, 2, 0, NULL, &by_number), SCBM_ERROR_ARGUMENT, "no concept 2 among 2");
    assert_error(cbm_intervene_on(ctx, 0, -1, 0, NULL, &by_number), SCBM_ERROR_ARGUMENT, "no concept -1");
    assert_error(cbm_intervene_on(ctx, 0, 1, 2, NULL, &by_number), SCBM_ERROR_ARGUMENT, "has no class 2");
    assert_error(cbm_intervene_on(ctx, 1, 1, 1, NULL, &by_number), SCBM_ERROR_ARGUMENT, "no text 1 among the 1");
    assert_null(by_number);
    cbm_intervention result = intervene(ctx, 0, before.classes[0], NULL); /* none of it left a trace */
    assert_same(read_of(result.after), before);
    cbm_context_free(ctx);
}

static void there_must_be_a_text(void **state) {
    (void)state;
    static const char *const texts[] = {"kind", "rude"};
    float vector[2 * HIDDEN];
    const cbm_prediction *after;
    cbm_prediction p[2];
    cbm_context *ctx = context_for(sparse);
    assert_error(cbm_intervene(ctx, "staff", "rude", NULL, &after), SCBM_ERROR_ARGUMENT,
                 "the last cbm_predict, and there is none");
    assert_ok(predict_values(ctx, texts, NULL, 2, p));
    assert_error(cbm_intervene(ctx, "staff", "rude", NULL, &after), SCBM_ERROR_ARGUMENT, "there is none");
    assert_ok(predict_value(ctx, "kind", p));
    assert_ok(cbm_embed_batch(ctx, texts + 1, NULL, 1, CBM_POOL_MEAN, 0, vector, NULL));
    assert_error(cbm_intervene(ctx, "staff", "rude", NULL, &after), SCBM_ERROR_ARGUMENT, "there is none");
    assert_ok(predict_value(ctx, "kind", p));
    assert_error(predict_value(ctx, "\xff", p), SCBM_ERROR_FORMAT, "UTF-8");
    assert_error(cbm_intervene(ctx, "staff", "rude", NULL, &after), SCBM_ERROR_ARGUMENT, "there is none");
    assert_ok(predict_value(ctx, "kind", p));
    assert_ok(cbm_intervene(ctx, "staff", "rude", NULL, &after));
    cbm_context_free(ctx);
}

static void no_memory_is_an_error_and_the_context_goes_on(void **state) {
    (void)state;
    counting_allocator allocator = {0};
    const scbm_hooks hooks = allocator_hooks(&allocator);
    int failures = 0;
    cbm_model *model = load_with(in_folder("sparse.gguf"), &hooks);
    for (long at = 1;; at += 1 + at / 8) {
        const cbm_prediction *p;
        long held = allocator.held;
        cbm_context *ctx = context_for(model);
        reading before = predict(ctx, data.text[0]);
        int c = 1 - before.classes[1];
        allocator.fails_at = allocator.n + at;
        scbm_status status = cbm_intervene(ctx, "staff", class_name(1, c), NULL, &p);
        allocator.fails_at = 0;
        if (status) assert_ok(cbm_intervene(ctx, "staff", class_name(1, c), NULL, &p)); /* now there is memory */
        assert_int_equal(p->concepts[1].class_index, c);
        cbm_context_free(ctx);
        assert_int_equal(allocator.held, held);
        if (!status) break;
        assert_int_equal(status, SCBM_ERROR_MEMORY);
        failures++;
    }
    assert_true(failures > 15);
    cbm_model_free(model);
    assert_int_equal(allocator.held, 0);
}

/* ------------------------------------------------------------------------------------------
 * By numbers, of a batch; what fails leaves no trace
 * ---------------------------------------------------------------------------------------- */

static void texts_of_a_batch_are_intervened_on_by_their_numbers(void **state) {
    (void)state;
    enum { N = 5 };
    cbm_context *ctx = context_for(sparse), *alone = context_for(sparse);
    static cbm_prediction p[N];
    const cbm_intervention *result;
    assert_ok(predict_values(ctx, (const char *const *)data.text, data.text_length, N, p));
    for (size_t i = 0; i < N; i++) {
        reading before = predict(alone, data.text[i]);
        int k = (int)i % 2, c = (before.classes[k] + 1) % (k ? 2 : 3), other = 1 - k;
        cbm_intervention wanted = intervene(alone, k, c, NULL);
        assert_ok(cbm_intervene_on(ctx, i, k, c, NULL, &result));
        assert_true(result->text == i && result->concept == k && result->class_index == c);
        assert_same(read_of(result->before), before);
        assert_same(read_of(result->after), read_of(wanted.after));
        assert_true(result->succeeded == wanted.succeeded && result->moved_bits == wanted.moved_bits);
        int other_class = before.classes[other]; /* of the same text: what was done to it stays */
        assert_ok(cbm_intervene_on(ctx, i, other, other_class, NULL, &result));
        assert_same(read_of(result->before), read_of(wanted.after));
    }
    reading first = predict(alone, data.text[0]); /* another text in between: the first begins anew */
    assert_ok(cbm_intervene_on(ctx, 0, 1, first.classes[1], NULL, &result));
    assert_same(read_of(result->after), first);
    assert_error(cbm_intervene_on(ctx, N, 0, 0, NULL, &result), SCBM_ERROR_ARGUMENT, "no text 5 among the 5");
    assert_memory_equal(p[0].logits, first.labels, sizeof first.labels); /* predictions are left alone */
    cbm_context_free(ctx);
    cbm_context_free(alone);
}

static void zeros_are_the_defaults(void **state) {
    (void)state;
    const cbm_intervene_options zeros = {0}, given = {.portion = 0.05, .steps = 10};
    const cbm_intervene_options *const same[] = {&zeros, &given};
    cbm_context *ctx = context_for(sparse);
    for (int i = 0; i < 6; i++) {
        reading before = predict(ctx, data.text[i]);
        int k = i % 2, c = (before.classes[k] + 1) % (k ? 2 : 3);
        cbm_intervention wanted = intervene(ctx, k, c, NULL);
        reading after = read_of(wanted.after);
        for (int j = 0; j < 2; j++) {
            cbm_intervention again = intervene(ctx, k, c, same[j]);
            assert_same(read_of(again.after), after);
            assert_true(again.moved_bits == wanted.moved_bits && again.steps == wanted.steps);
        }
    }
    cbm_context_free(ctx);
}

static void a_concept_that_reads_the_class_is_left_by_masks_and_by_edits(void **state) {
    (void)state;
    const cbm_intervene_options mask = {0}, mean = {.method = CBM_INTERVENE_EDIT},
                                one_hot = {.method = CBM_INTERVENE_EDIT, .edit = CBM_EDIT_ONE_HOT},
                                always = {.method = CBM_INTERVENE_EDIT, .edit = CBM_EDIT_ONE_HOT, .edit_always = 1};
    const cbm_intervene_options *const left[] = {&mask, &mean, &one_hot};
    cbm_context *ctx = context_for(sparse);
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 3; j++) {
            reading before = predict(ctx, data.text[i]);
            cbm_intervention result = intervene(ctx, i % 2, before.classes[i % 2], left[j]);
            assert_true(result.succeeded && result.steps == 0);
            assert_same(read_of(result.after), before);
            intervene(ctx, i % 2, (before.classes[i % 2] + 1) % 2, &one_hot); /* an edit, and back again */
            result = intervene(ctx, i % 2, before.classes[i % 2], left[j]);
            assert_same(read_of(result.after), before);
        }
        reading before = predict(ctx, data.text[i]);
        cbm_intervention result = intervene(ctx, i % 2, before.classes[i % 2], &always);
        assert_true(memcmp(result.after->logits, before.labels, sizeof before.labels) != 0);
    }
    cbm_context_free(ctx);
}

/* Cancels at the n-th call of a hook, which count from 1. */
typedef struct canceller {
    int64_t calls, at, last_done;
} canceller;

static int cancel_at(void *user, const char *what, int64_t done, int64_t total) {
    canceller *c = user;
    assert_string_equal(what, "intervene");
    assert_true(done >= c->last_done && done <= total);
    c->last_done = done;
    return ++c->calls == c->at;
}

static int cancel_at_question(void *user) {
    canceller *c = user;
    return ++c->calls == c->at;
}

/* Whenever it is cancelled, the text is what it was: other interventions go on from there. */
static void check_cancelling(const scbm_hooks *hooks, canceller *c, int64_t step_share) {
    const cbm_intervene_options small_steps = {.portion = 0.001, .steps = 12, .whole_steps = 1};
    const cbm_context_options options = {.hooks = hooks};
    cbm_context *ctx, *alone = context_for(sparse);
    assert_ok(cbm_context_create(&ctx, sparse, &options));
    int text = -1, taste, staff;
    reading before, first, both;
    for (int n_steps = 0; n_steps < 2;) { /* a text that takes several of them */
        assert_true(++text < N_TEXTS);
        before = predict(alone, data.text[text]);
        taste = (before.classes[0] + 1) % 3;
        staff = 1 - before.classes[1];
        cbm_intervention one = intervene(alone, 1, staff, NULL);
        first = read_of(one.after);
        cbm_intervention two = intervene(alone, 0, taste, &small_steps);
        both = read_of(two.after);
        n_steps = two.steps;
    }
    for (int64_t at = 1;; at += 1 + at / step_share) {
        const cbm_intervention *result;
        predict(ctx, data.text[text]);
        *c = (canceller){0};
        cbm_intervention again = intervene(ctx, 1, staff, NULL);
        assert_same(read_of(again.after), first);
        *c = (canceller){.at = at};
        scbm_status status = cbm_intervene_on(ctx, 0, 0, taste, &small_steps, &result);
        *c = (canceller){0};
        if (!status) {
            assert_true(at > 4); /* two runs a step */
            break;
        }
        assert_int_equal(status, SCBM_ERROR_CANCELLED);
        assert_null(result);
        again = intervene(ctx, 0, before.classes[0], NULL); /* which it reads: nothing was left behind */
        assert_same(read_of(again.before), first);
        assert_same(read_of(again.after), first);
        *c = (canceller){0};
        again = intervene(ctx, 0, taste, &small_steps);
        assert_same(read_of(again.after), both);
    }
    cbm_context_free(ctx);
    cbm_context_free(alone);
}

static void an_intervention_that_is_cancelled_leaves_no_trace(void **state) {
    (void)state;
    canceller c = {0};
    const scbm_hooks progress = {.user = &c, .progress = cancel_at, .n_workers = 1},
                     questions = {.user = &c, .cancel = cancel_at_question, .n_workers = 1};
    check_cancelling(&progress, &c, INT64_MAX);
    check_cancelling(&questions, &c, 16);
}

/* ------------------------------------------------------------------------------------------
 * Threads
 * ---------------------------------------------------------------------------------------- */

typedef struct reader {
    reading wanted[4];
    atomic_int stops;
    int n, n_different;
} reader;

static void *read_all_the_time(void *arg) {
    reader *r = arg;
    cbm_context *ctx = NULL;
    cbm_prediction p;
    if (cbm_context_create(&ctx, sparse, NULL)) return arg;
    do {
        for (int i = 0; i < 4; i++) {
            if (predict_value(ctx, data.text[i], &p)) return arg;
            reading now = read_of(&p);
            r->n_different += memcmp(&now, &r->wanted[i], sizeof now) != 0;
        }
        r->n++;
    } while (!r->stops);
    cbm_context_free(ctx);
    return NULL;
}

static void other_threads_see_nothing_of_it(void **state) {
    (void)state;
    reader r;
    pthread_t thread;
    void *failed;
    cbm_context *ctx = context_for(sparse);
    memset(&r, 0, sizeof r);
    for (int i = 0; i < 4; i++) r.wanted[i] = predict(ctx, data.text[i]);
    assert_int_equal(pthread_create(&thread, NULL, read_all_the_time, &r), 0);
    for (int i = 0; i < 40; i++) {
        reading before = predict(ctx, data.text[i % 4]);
        assert_same(before, r.wanted[i % 4]);
        cbm_intervention result = intervene(ctx, i % 2, (before.classes[i % 2] + 1) % (i % 2 ? 2 : 3), NULL);
        assert_true(result.moved_bits > 0);
    }
    r.stops = 1;
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_true(r.n > 0 && r.n_different == 0);
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * The oracle
 * ---------------------------------------------------------------------------------------- */

/* The same text by text, through the public functions. */
static void check_oracle(cbm_context *ctx, const cbm_intervene_options *options, size_t most) {
    const cbm_oracle *o;
    int64_t wrong = 0, fixed = 0, labels_fixed = 0, labels_broken = 0, moved = 0, steps = 0;
    assert_ok(cbm_intervene_oracle(ctx, &data, options, most, &o));
    assert_int_equal(o->n, most ? most : N_TEXTS);
    for (size_t i = 0; i < o->n; i++) {
        size_t row = o->row[i];
        const int32_t *gold = data.concept_class + row * SMALL_CONCEPTS;
        assert_int_equal(row, i * N_TEXTS / o->n);
        reading before = predict(ctx, data.text[row]), after = before;
        for (int k = 0; k < SMALL_CONCEPTS; k++) {
            assert_int_equal(o->concept_before[i * SMALL_CONCEPTS + (size_t)k], before.classes[k]);
            if (gold[k] >= 0 && before.classes[k] != gold[k]) {
                cbm_intervention result = intervene(ctx, k, gold[k], options);
                after = read_of(result.after);
                wrong++;
                fixed += result.succeeded;
                moved += result.moved_bits;
                steps += result.steps;
            }
            assert_int_equal(o->concept_after[i * SMALL_CONCEPTS + (size_t)k], after.classes[k]);
        }
        assert_int_equal(o->label_before[i], before.label);
        assert_int_equal(o->label_after[i], after.label);
        labels_fixed += before.label != data.label[row] && after.label == data.label[row] && data.label[row] >= 0;
        labels_broken += before.label == data.label[row] && after.label != data.label[row];
    }
    assert_true(o->concepts_wrong == wrong && o->concepts_fixed == fixed && wrong > 2);
    assert_true(o->labels_fixed == labels_fixed && o->labels_broken == labels_broken);
    assert_true(o->moved_bits == moved && o->steps == steps);
    assert_true(o->seconds >= o->predict_seconds && o->predict_seconds > 0);
}

static void check_distribution(const float *p, int n, int best) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)p[i];
        assert_true(p[i] <= p[best]);
    }
    assert_float_equal(sum, 1, 1e-5);
}

/* Before the interventions they are an evaluation's; after them the class that is read has the largest. */
static void the_oracle_has_probabilities(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse), *other = context_for(sparse);
    const cbm_oracle *o;
    const cbm_evaluation *e;
    assert_ok(cbm_evaluate(other, &data, &e));
    assert_ok(cbm_intervene_oracle(ctx, &data, NULL, 0, &o));
    assert_true(o->n_labels == e->n_labels && o->n_concepts == e->n_concepts && o->n_classes == e->n_classes);
    for (size_t i = 0; i < o->n; i++) {
        const size_t y = i * (size_t)o->n_labels, c = i * (size_t)o->n_classes;
        assert_memory_equal(o->label_probability_before + y, e->label_probability + y,
                            (size_t)o->n_labels * sizeof(float));
        assert_memory_equal(o->concept_probability_before + c, e->concept_probability + c,
                            (size_t)o->n_classes * sizeof(float));
        check_distribution(o->label_probability_after + y, o->n_labels, o->label_after[i]);
        for (int k = 0; k < o->n_concepts; k++)
            check_distribution(o->concept_probability_after + c + o->first_class[k],
                               o->first_class[k + 1] - o->first_class[k],
                               o->concept_after[i * (size_t)o->n_concepts + (size_t)k]);
    }
    cbm_context_free(ctx);
    cbm_context_free(other);
}

static void the_oracle_corrects_every_misread_concept(void **state) {
    (void)state;
    const cbm_intervene_options paper = {.rule = CBM_SELECT_ABS, .portion = 0.2}, edit = {.method = CBM_INTERVENE_EDIT};
    cbm_context *ctx = context_for(sparse);
    check_oracle(ctx, NULL, 0);
    check_oracle(ctx, &paper, 0);
    check_oracle(ctx, &edit, 0);
    check_oracle(ctx, NULL, 17);
    int32_t gold = data.concept_class[1], label = data.label[0];
    data.concept_class[1] = -1; /* missing classes are nobody's mistake */
    data.label[0] = -1;
    check_oracle(ctx, NULL, 0);
    data.concept_class[1] = gold;
    data.label[0] = label;
    cbm_context_free(ctx);
}

static int cancel_later(void *user, const char *what, int64_t done, int64_t total) {
    int *calls = user;
    return strcmp(what, "intervene") == 0 && total == N_TEXTS && done == 3 && ++*calls;
}

static void the_oracle_can_be_cancelled(void **state) {
    (void)state;
    int calls = 0;
    const scbm_hooks hooks = {.user = &calls, .progress = cancel_later, .n_workers = 1};
    const cbm_oracle *o;
    cbm_model *model = load_with(in_folder("sparse.gguf"), &hooks);
    cbm_context *ctx = context_for(model);
    assert_error(cbm_intervene_oracle(ctx, &data, NULL, 0, &o), SCBM_ERROR_CANCELLED, "cancelled: intervene, 3 of 24");
    assert_int_equal(calls, 1);
    assert_null(o);
    cbm_context_free(ctx);
    cbm_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_concept_is_brought_to_a_class_and_the_label_follows),
        cmocka_unit_test(steps_lower_the_cross_entropy_and_keep_the_sparsity),
        cmocka_unit_test(a_model_with_the_moved_masks_predicts_the_same_bits),
        cmocka_unit_test(one_step_moves_what_the_rule_says),
        cmocka_unit_test(a_step_is_no_larger_than_it_must_be),
        cmocka_unit_test(the_papers_rule_takes_one_step_by_default),
        cmocka_unit_test(nothing_moves_where_nothing_is_to_do),
        cmocka_unit_test(interventions_on_several_concepts_add_up),
        cmocka_unit_test(the_same_concept_starts_from_the_models_mask_again),
        cmocka_unit_test(texts_of_any_length_can_be_intervened_on),
        cmocka_unit_test(quantized_subnetworks_can_be_intervened_on),
        cmocka_unit_test(edits_replace_the_values_that_the_label_reads),
        cmocka_unit_test(a_mask_and_an_edit_add_up),
        cmocka_unit_test(a_class_that_training_never_saw_has_no_mean),
        cmocka_unit_test(dense_models_are_offered_an_edit),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(there_must_be_a_text),
        cmocka_unit_test(no_memory_is_an_error_and_the_context_goes_on),
        cmocka_unit_test(texts_of_a_batch_are_intervened_on_by_their_numbers),
        cmocka_unit_test(zeros_are_the_defaults),
        cmocka_unit_test(a_concept_that_reads_the_class_is_left_by_masks_and_by_edits),
        cmocka_unit_test(an_intervention_that_is_cancelled_leaves_no_trace),
        cmocka_unit_test(other_threads_see_nothing_of_it),
        cmocka_unit_test(the_oracle_has_probabilities),
        cmocka_unit_test(the_oracle_corrects_every_misread_concept),
        cmocka_unit_test(the_oracle_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
