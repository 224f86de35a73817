/*
 * tests/test-cbm.c - loaded models: what is refused, predictions and what explains them, threads, vectors, quantization
 */
#define _XOPEN_SOURCE 700

#include "tests/small-encoder.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static cbm_model *encoder, *joint, *independent, *vanilla;

enum { N_TEXTS = 40 };
static cbm_dataset texts; /* the first is empty, the second longer than the model reads */

static void replace_text(size_t i, const char *text) {
    texts.text[i] = text;
    texts.text_length[i] = strlen(text);
}

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), NULL));
    encoder = load(in_folder("encoder.gguf"));
    joint = small_model(encoder, CBM_JOINT, 0, in_folder("joint.gguf"));
    independent = small_model(encoder, CBM_INDEPENDENT, 0, in_folder("independent.gguf"));
    vanilla = small_model(encoder, CBM_VANILLA, 0, in_folder("vanilla.gguf"));
    assert_ok(small_data(&texts, 2000, N_TEXTS));
    replace_text(0, "");
    replace_text(1,
                 "the soup was tasty and the waiter was rude and it was there and we came with friends and the waiter "
                 "was kind and the soup was bland and it was monday");
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_model_free(joint);
    cbm_model_free(independent);
    cbm_model_free(vanilla);
    cbm_dataset_clear(&texts);
    return remove_folder(state);
}

static cbm_context *create(const cbm_model *model, const cbm_context_options *options) {
    cbm_context *ctx;
    assert_ok(cbm_context_create(&ctx, model, options));
    return ctx;
}

static const char *const *all_texts(void) {
    return (const char *const *)texts.text;
}

static void predict_all(cbm_context *ctx, cbm_prediction p[N_TEXTS]) {
    if (predict_values(ctx, all_texts(), texts.text_length, N_TEXTS, p)) fail_msg("%s", cbm_context_error(ctx));
}

static void assert_same_bits(const float *a, const float *b, int n) {
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
}

static void assert_same_prediction(const cbm_prediction *a, const cbm_prediction *b) {
    assert_int_equal(a->label_index, b->label_index);
    assert_int_equal(a->n_concepts, b->n_concepts);
    assert_same_bits(a->logits, b->logits, a->n_labels);
    assert_same_bits(&a->bias, &b->bias, 1);
    for (int k = 0; k < a->n_concepts; k++) {
        assert_same_bits(a->concepts[k].logits, b->concepts[k].logits, a->concepts[k].n_classes);
        assert_same_bits(&a->concepts[k].contribution, &b->concepts[k].contribution, 1);
    }
    assert_int_equal(a->truncated, b->truncated);
    assert_int_equal(a->n_tokens, b->n_tokens);
}

/* ------------------------------------------------------------------------------------------
 * Loading
 * ---------------------------------------------------------------------------------------- */

static void models_tell_what_they_are(void **state) {
    (void)state;
    assert_int_equal(cbm_model_mode(encoder), CBM_ENCODER);
    assert_int_equal(cbm_model_n_labels(encoder), 0);
    assert_int_equal(cbm_model_n_concepts(encoder), 0);
    assert_int_equal(cbm_model_hidden_size(joint), 32);
    assert_int_equal(cbm_model_max_tokens(joint), SMALL_MAX_TOKENS);
    assert_int_equal(cbm_model_mode(joint), CBM_JOINT);
    assert_int_equal(cbm_model_n_concepts(joint), 2);
    assert_string_equal(cbm_model_concept(joint, 0), "taste");
    assert_int_equal(cbm_model_n_concept_classes(joint, 1), 2);
    assert_string_equal(cbm_model_concept_class(joint, 0, 2), "unknown");
    assert_string_equal(cbm_model_label(joint, 0), "low");
    assert_null(cbm_model_concept(joint, 2));
    assert_null(cbm_model_concept(joint, -1));
    assert_null(cbm_model_concept_class(joint, 1, 2));
    assert_null(cbm_model_label(joint, 3));
    assert_int_equal(cbm_model_n_concept_classes(joint, 9), 0);
    assert_string_equal(cbm_mode_name(CBM_SEQUENTIAL), "sequential");
    assert_string_equal(cbm_mode_name((cbm_mode)99), "unknown");
    cbm_model_free(NULL);
    cbm_context_free(NULL);
}

/* Writes joint.gguf again with a change. */
typedef struct change {
    const char *without, *as_vector;  /* a tensor that is left out, or becomes a vector */
    void (*set)(scbm_writer *writer); /* keys */
    const char *message;
} change;

static void set_odd_mode(scbm_writer *writer) {
    scbm_writer_set_string(writer, CBM_KEY_MODE, "jiont");
}

static void set_next_version(scbm_writer *writer) {
    scbm_writer_set_int(writer, CBM_KEY_FORMAT, SCBM_VALUE_U32, CBM_FILE_FORMAT + 1);
}

static void set_format_of_0_1(scbm_writer *writer) {
    scbm_writer_remove_key(writer, CBM_KEY_FORMAT);
    scbm_writer_set_int(writer, CBM_KEY_FORMAT_1, SCBM_VALUE_U32, 1);
}

static void set_two_labels(scbm_writer *writer) {
    static const char *const two[] = {"low", "high"};
    scbm_writer_set_strings(writer, CBM_KEY_LABELS, two, 2);
}

static void set_number_labels(scbm_writer *writer) {
    scbm_writer_set_int(writer, CBM_KEY_LABELS, SCBM_VALUE_U32, 3);
}

static void remove_classes(scbm_writer *writer) {
    scbm_writer_remove_key(writer, CBM_KEY_CLASSES);
}

static void set_groups(scbm_writer *writer, int64_t second, int64_t last) {
    const int64_t groups[3] = {0, second, last};
    scbm_writer_set_ints(writer, CBM_KEY_GROUPS, SCBM_VALUE_I32, groups, 3);
}

static void set_empty_group(scbm_writer *writer) {
    set_groups(writer, 0, 5);
}

static void set_large_group(scbm_writer *writer) {
    set_groups(writer, 6, 5);
}

static void set_short_groups(scbm_writer *writer) {
    set_groups(writer, 3, 4);
}

static void set_many_heads(scbm_writer *writer) {
    scbm_writer_set_int(writer, "bert.attention.head_count", SCBM_VALUE_U32, 3);
}

static void set_no_blocks(scbm_writer *writer) {
    scbm_writer_set_int(writer, "bert.block_count", SCBM_VALUE_U32, 0);
}

static void set_more_blocks(scbm_writer *writer) {
    scbm_writer_set_int(writer, "bert.block_count", SCBM_VALUE_U32, SMALL_LAYERS + 1);
}

static void set_long_texts(scbm_writer *writer) {
    scbm_writer_set_int(writer, "sparsecbm.max_tokens", SCBM_VALUE_U32, SMALL_MAX_TOKENS + 1);
}

static void set_other_architecture(scbm_writer *writer) {
    scbm_writer_set_string(writer, "general.architecture", "llama");
}

static void set_other_family(scbm_writer *writer) {
    scbm_writer_set_string(writer, "sparsecbm.family", "nomic");
}

static void set_wide_hidden(scbm_writer *writer) {
    scbm_writer_set_int(writer, "bert.embedding_length", SCBM_VALUE_U32, 34);
}

static void set_odd_activation(scbm_writer *writer) {
    scbm_writer_set_string(writer, "sparsecbm.activation", "swish");
}

static void write_changed(const change *what, const char *path) {
    scbm_writer *writer;
    scbm_file *file;
    scbm_tensor vector;
    assert_ok(scbm_file_open(&file, in_folder("joint.gguf"), NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    if (what->set) what->set(writer);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        if (what->without && strcmp(tensor->name, what->without) == 0) continue;
        if (what->as_vector && strcmp(tensor->name, what->as_vector) == 0) {
            int64_t n = scbm_tensor_elements(tensor);
            assert_ok(scbm_tensor_init(&vector, tensor->name, tensor->type, 1, &n));
            vector.data = tensor->data;
            tensor = &vector;
        }
        scbm_writer_add_tensor(writer, tensor, tensor->type);
    }
    assert_ok(scbm_writer_write(writer, path));
    scbm_writer_free(writer);
    scbm_file_close(file);
}

static void damaged_models_are_refused_with_their_reason(void **state) {
    (void)state;
    static const change changes[] = {
        {NULL, NULL, set_odd_mode, "'jiont'"},
        {NULL, NULL, set_next_version, "reads formats 1 to 2"},
        {NULL, NULL, set_two_labels, CBM_LABEL_WEIGHT},
        {NULL, NULL, set_number_labels, "must be an array of strings"},
        {NULL, NULL, remove_classes, CBM_KEY_CLASSES},
        {NULL, NULL, set_empty_group, CBM_KEY_GROUPS},
        {NULL, NULL, set_large_group, CBM_KEY_GROUPS},
        {NULL, NULL, set_short_groups, CBM_KEY_GROUPS},
        {NULL, NULL, set_many_heads, "3 attention heads"},
        {NULL, NULL, set_no_blocks, "block_count is 0"},
        {NULL, NULL, set_more_blocks, "blk.2."},
        {NULL, NULL, set_long_texts, "sparsecbm.max_tokens"},
        {NULL, NULL, set_other_architecture, "'llama'"},
        {NULL, NULL, set_other_family, "does not know the family 'nomic' of 'bert'"},
        {NULL, NULL, set_wide_hidden, "[any, 34]"},
        {NULL, NULL, set_odd_activation, "'swish'"},
        {CBM_CONCEPT_WEIGHT, NULL, NULL, CBM_CONCEPT_WEIGHT " is missing"},
        {CBM_CONCEPT_MEAN, NULL, NULL, CBM_CONCEPT_MEAN " is missing"},
        {CBM_GOLD_COUNTS, NULL, NULL, CBM_GOLD_COUNTS " is missing"},
        {"blk.1.attn_k.bias", NULL, NULL, "blk.1.attn_k.bias is missing"},
        {"token_embd.weight", NULL, NULL, "token_embd.weight is missing"},
        {NULL, CBM_LABEL_WEIGHT, NULL, "[15]"},
        {NULL, "blk.0.ffn_up.weight", NULL, "blk.0.ffn_up.weight"},
    };
    const char *path = in_folder("changed.gguf");
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        cbm_model *model = joint;
        write_changed(&changes[i], path);
        scbm_status status = cbm_model_load(&model, path, NULL);
        if (!status) fail_msg("case %d (%s) was loaded", (int)i, changes[i].message);
        assert_true(status == SCBM_ERROR_FORMAT || status == SCBM_ERROR_UNSUPPORTED);
        assert_null(model);
        if (!strstr(cbm_last_error(), changes[i].message))
            fail_msg("'%s' is not in: %s", changes[i].message, cbm_last_error());
        if (!strstr(cbm_last_error(), path)) fail_msg("no path in: %s", cbm_last_error());
    }
    const change none = {NULL, NULL, NULL, NULL};
    cbm_model *model;
    write_changed(&none, path);
    assert_ok(cbm_model_load(&model, path, NULL));
    cbm_model_free(model);
    assert_error(cbm_model_load(&model, in_folder("nothing.gguf"), NULL), SCBM_ERROR_IO, "nothing.gguf");
    assert_error(cbm_model_load(&model, NULL, NULL), SCBM_ERROR_ARGUMENT, "NULL");
    assert_error(cbm_model_load_memory(&model, NULL, 10, NULL), SCBM_ERROR_ARGUMENT, "NULL");
}

static void a_model_of_version_0_1_is_read(void **state) {
    (void)state;
    const change old = {NULL, NULL, set_format_of_0_1, NULL};
    const char *path = in_folder("changed.gguf");
    cbm_prediction wanted[N_TEXTS], p[N_TEXTS];
    cbm_model *model;
    write_changed(&old, path);
    assert_ok(cbm_model_load(&model, path, NULL));
    cbm_context *ctx = context_for(model), *other = context_for(joint);
    predict_all(ctx, p);
    predict_all(other, wanted);
    for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&wanted[i], &p[i]);
    cbm_context_free(ctx);
    cbm_context_free(other);
    cbm_model_free(model);
}

static void tokens_are_listed(void **state) {
    (void)state;
    const char *text = "the soup was tasty";
    const cbm_token_list *list;
    const cbm_prediction *p;
    cbm_context *ctx = context_for(joint);
    assert_ok(cbm_predict(ctx, text, &p));
    float before = p->logits[0];
    assert_ok(cbm_tokens_of(ctx, text, strlen(text), &list));
    assert_int_equal(list->n, p->n_tokens);
    assert_false(list->truncated);
    assert_true(list->tokens[0].is_special && list->tokens[list->n - 1].is_special);
    for (int i = 0, end = 0; i < list->n; i++) {
        assert_non_null(list->tokens[i].piece);
        if (list->tokens[i].is_special) continue;
        assert_true(list->tokens[i].start >= end && list->tokens[i].end > list->tokens[i].start);
        end = list->tokens[i].end;
    }
    assert_true(p->logits[0] == before); /* the prediction is still there */
    assert_error(cbm_tokens_of(ctx, "\xff", 1, &list), SCBM_ERROR_FORMAT, "UTF-8");
    assert_error(cbm_tokens_of(ctx, NULL, 0, &list), SCBM_ERROR_ARGUMENT, "NULL");
    assert_null(list);
    cbm_context_free(ctx);
}

static void a_model_in_memory_is_the_same_model(void **state) {
    (void)state;
    size_t size;
    char *data = read_file(in_folder("joint.gguf"), &size), *shifted = malloc(size + 1);
    memcpy(shifted + 1, data, size);
    cbm_context *wanted_ctx = context_for(joint);
    cbm_prediction wanted[N_TEXTS], got[N_TEXTS];
    predict_all(wanted_ctx, wanted);
    for (int is_shifted = 0; is_shifted < 2; is_shifted++) {
        const cbm_load_options options = {.hooks = &one_thread};
        cbm_model *model;
        assert_ok(cbm_model_load_memory(&model, is_shifted ? shifted + 1 : data, size, &options));
        cbm_context *ctx = context_for(model);
        predict_all(ctx, got);
        for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&wanted[i], &got[i]);
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
    cbm_model *model;
    for (size_t n = 0; n < size; n += 1 + size / 23)
        assert_error(cbm_model_load_memory(&model, data, n, NULL), SCBM_ERROR_FORMAT, "model in memory");
    cbm_context_free(wanted_ctx);
    free(shifted);
    free(data);
}

/* ------------------------------------------------------------------------------------------
 * Predicting
 * ---------------------------------------------------------------------------------------- */

static void a_batch_has_the_bits_of_its_texts_alone(void **state) {
    (void)state;
    const cbm_model *const models[] = {joint, independent, vanilla};
    for (int m = 0; m < 3; m++) {
        cbm_prediction alone[N_TEXTS], batch[N_TEXTS];
        cbm_context *contexts[N_TEXTS];
        for (int i = 0; i < N_TEXTS; i++) {
            contexts[i] = context_for(models[m]);
            assert_ok(predict_value(contexts[i], texts.text[i], &alone[i]));
        }
        for (int tokens = 0; tokens < 300; tokens += 7 * tokens + 1) { /* 0: the default; 1: each text is a batch */
            const cbm_context_options options = {.max_batch_tokens = tokens};
            cbm_context *ctx = create(models[m], &options);
            predict_all(ctx, batch);
            for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&alone[i], &batch[i]);
            assert_ok(predict_values(ctx, all_texts(), NULL, N_TEXTS, batch)); /* again, NUL-terminated */
            for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&alone[i], &batch[i]);
            cbm_context_free(ctx);
        }
        assert_true(alone[1].truncated && !alone[0].truncated);
        assert_int_equal(alone[1].n_tokens, SMALL_MAX_TOKENS);
        assert_int_equal(alone[0].n_tokens, 2); /* [CLS] and [SEP] */
        for (int i = 0; i < N_TEXTS; i++) cbm_context_free(contexts[i]);
    }
}

static void check_probabilities(const float *logits, const float *probabilities, int n, int index) {
    double total = 0.0;
    for (int i = 0; i < n; i++) total += exp((double)logits[i]);
    for (int i = 0; i < n; i++) {
        assert_float_equal(probabilities[i], exp((double)logits[i]) / total, 1e-6);
        assert_true(logits[i] <= logits[index]);
    }
}

static void contributions_and_bias_are_the_logit(void **state) {
    (void)state;
    const cbm_model *const models[] = {joint, independent};
    for (int m = 0; m < 2; m++) {
        cbm_context *ctx = context_for(models[m]);
        cbm_prediction p[N_TEXTS];
        predict_all(ctx, p);
        for (int i = 0; i < N_TEXTS; i++) {
            double sum = (double)p[i].bias, logit = (double)p[i].logits[p[i].label_index];
            for (int k = 0; k < p[i].n_concepts; k++) {
                const cbm_concept_result *c = &p[i].concepts[k];
                sum += (double)c->contribution;
                check_probabilities(c->logits, c->probabilities, c->n_classes, c->class_index);
                assert_string_equal(c->name, small_concepts[k]);
                assert_string_equal(c->class_name, cbm_model_concept_class(models[m], k, c->class_index));
                assert_true(c->probability == c->probabilities[c->class_index]);
            }
            assert_float_equal(sum, logit, 1e-5 * fmax(1.0, fabs(logit)));
            check_probabilities(p[i].logits, p[i].probabilities, p[i].n_labels, p[i].label_index);
            assert_string_equal(p[i].label, cbm_model_label(models[m], p[i].label_index));
        }
        cbm_context_free(ctx);
    }
}

/* contribution = G_k · (u_k − ū_k), by hand from the file's tensors. */
static void contributions_are_centred(void **state) {
    (void)state;
    cbm_context *ctx = context_for(joint);
    cbm_prediction p;
    assert_ok(predict_value(ctx, "the soup was tasty and the waiter was rude", &p));
    const float *row = (const float *)scbm_file_find_tensor(joint->file, CBM_LABEL_WEIGHT)->data +
                       p.label_index * SMALL_CLASSES;
    const float *mean = scbm_file_find_tensor(joint->file, CBM_CONCEPT_MEAN)->data;
    for (int k = 0, c = 0; k < 2; k++) {
        double contribution = 0.0;
        for (int j = 0; j < p.concepts[k].n_classes; j++, c++)
            contribution += (double)row[c] * ((double)p.concepts[k].logits[j] - (double)mean[c]);
        assert_float_equal(p.concepts[k].contribution, contribution, 1e-5);
    }
    cbm_context_free(ctx);
}

static void a_vanilla_model_has_no_concepts(void **state) {
    (void)state;
    cbm_context *ctx = context_for(vanilla);
    cbm_prediction p;
    assert_ok(predict_value(ctx, "it was tasty", &p));
    assert_int_equal(p.n_concepts, 0);
    assert_null(p.concepts);
    assert_int_equal(p.n_labels, SMALL_LABELS);
    cbm_context_free(ctx);
}

static void texts_that_cannot_be_read_are_named(void **state) {
    (void)state;
    const char *bad[3] = {"tasty", "rude \xff", "kind"};
    cbm_context *ctx = context_for(joint);
    cbm_prediction p[3], again;
    assert_error(predict_values(ctx, bad, NULL, 3, p), SCBM_ERROR_FORMAT, "text 2 of 3");
    assert_non_null(strstr(cbm_context_error(ctx), "text 2 of 3"));
    bad[1] = NULL;
    assert_error(predict_values(ctx, bad, NULL, 3, p), SCBM_ERROR_ARGUMENT, "text 2 of 3 is NULL");
    assert_ok(predict_values(ctx, bad, NULL, 0, p));
    assert_ok(predict_value(ctx, "tasty", &again)); /* the context goes on */
    cbm_context_free(ctx);
    ctx = context_for(encoder);
    assert_error(predict_value(ctx, "tasty", &again), SCBM_ERROR_UNSUPPORTED, "encoder without labels");
    cbm_context_free(ctx);
}

/* Devices may lack it. */
static int computes_in_int8(void) {
    scbm_context *context;
    assert_ok(scbm_context_create(&context, NULL, NULL));
    scbm_status status = scbm_context_check_precision(context, SCBM_PRECISION_INT8);
    scbm_context_free(context);
    return !status;
}

static void bad_context_options_are_refused(void **state) {
    (void)state;
    cbm_context *ctx;
    const cbm_context_options quantized = {.precision = SCBM_PRECISION_INT8}, negative = {.max_batch_tokens = -1},
                              long_texts = {.max_tokens = SMALL_MAX_TOKENS + 1};
    assert_error(cbm_context_create(&ctx, joint, &quantized), SCBM_ERROR_UNSUPPORTED,
                 computes_in_int8() ? "quantize it first" : "int8");
    assert_error(cbm_context_create(&ctx, joint, &negative), SCBM_ERROR_ARGUMENT, "max_batch_tokens");
    assert_error(cbm_context_create(&ctx, joint, &long_texts), SCBM_ERROR_ARGUMENT, "at most 24");
    assert_error(cbm_context_create(&ctx, NULL, NULL), SCBM_ERROR_ARGUMENT, "NULL");
    assert_null(ctx);
}

static void bf16_predicts_about_the_same(void **state) {
    (void)state;
    const cbm_context_options options = {.precision = SCBM_PRECISION_BF16};
    cbm_context *exact = context_for(joint), *rounded = create(joint, &options);
    cbm_prediction a[N_TEXTS], b[N_TEXTS];
    double difference = 0.0, size = 0.0;
    predict_all(exact, a);
    predict_all(rounded, b);
    for (int i = 0; i < N_TEXTS; i++) {
        for (int y = 0; y < SMALL_LABELS; y++) {
            difference += pow((double)a[i].logits[y] - (double)b[i].logits[y], 2);
            size += pow((double)a[i].logits[y], 2);
        }
    }
    assert_true(difference > 0.0 && sqrt(difference / size) < 0.03);
    cbm_context_free(exact);
    cbm_context_free(rounded);
}

/* What int8 rounds beside f32 on the same quantized weights; alone, and in a batch. */
static void int8_predicts_about_the_same(void **state) {
    (void)state;
    if (!computes_in_int8()) skip();
    static const scbm_type types[] = {SCBM_Q8_0, SCBM_Q4_0};
    const cbm_context_options options = {.precision = SCBM_PRECISION_INT8};
    cbm_prediction a[N_TEXTS], b[N_TEXTS], alone;
    for (int t = 0; t < COUNT_OF(types); t++) {
        double difference = 0.0, size = 0.0;
        assert_ok(cbm_quantize(in_folder("joint.gguf"), in_folder("int8.gguf"), types[t], NULL, NULL));
        cbm_model *model = load(in_folder("int8.gguf"));
        cbm_context *exact = context_for(model), *rounded = create(model, &options);
        predict_all(exact, a);
        predict_all(rounded, b);
        for (int i = 0; i < N_TEXTS; i++) {
            for (int y = 0; y < SMALL_LABELS; y++) {
                difference += pow((double)a[i].logits[y] - (double)b[i].logits[y], 2);
                size += pow((double)a[i].logits[y], 2);
            }
            assert_ok(predict_value(rounded, texts.text[i], &alone));
            assert_memory_equal(alone.logits, b[i].logits, SMALL_LABELS * sizeof(float));
        }
        assert_true(difference > 0.0 && sqrt(difference / size) < 0.03);
        cbm_context_free(exact);
        cbm_context_free(rounded);
        cbm_model_free(model);
    }
}

typedef struct reader {
    pthread_t thread;
    cbm_prediction wanted[N_TEXTS];
    int n_different, failed;
} reader;

static void *predict_in_thread(void *arg) {
    reader *r = arg;
    cbm_context *ctx = NULL;
    cbm_prediction p[N_TEXTS];
    r->failed = cbm_context_create(&ctx, joint, NULL) != SCBM_OK;
    for (int round = 0; round < 10 && !r->failed; round++) {
        r->failed = predict_values(ctx, all_texts(), texts.text_length, N_TEXTS, p) != SCBM_OK;
        for (int i = 0; i < N_TEXTS && !r->failed; i++)
            r->n_different += memcmp(p[i].logits, r->wanted[i].logits, SMALL_LABELS * sizeof(float)) != 0;
    }
    cbm_context_free(ctx);
    return NULL;
}

static void threads_share_a_model(void **state) {
    (void)state;
    enum { N_THREADS = 4 };
    static reader readers[N_THREADS];
    cbm_context *ctx = context_for(joint);
    cbm_prediction p[N_TEXTS];
    predict_all(ctx, p);
    for (int t = 0; t < N_THREADS; t++) {
        memcpy(readers[t].wanted, p, sizeof p);
        assert_int_equal(pthread_create(&readers[t].thread, NULL, predict_in_thread, &readers[t]), 0);
    }
    for (int t = 0; t < N_THREADS; t++) {
        pthread_join(readers[t].thread, NULL);
        assert_false(readers[t].failed);
        assert_int_equal(readers[t].n_different, 0);
    }
    cbm_context_free(ctx);
}

static int stop_at_once(void *user, const char *what, int64_t done, int64_t total) {
    int *stops = user;
    (void)what, (void)done, (void)total;
    return *stops;
}

static void a_batch_can_be_cancelled(void **state) {
    (void)state;
    int stops = 1;
    scbm_hooks hooks = {.user = &stops, .progress = stop_at_once, .n_workers = 1};
    const cbm_load_options load_options = {.hooks = &hooks};
    const cbm_context_options options = {.max_batch_tokens = 32};
    cbm_prediction p[N_TEXTS];
    cbm_model *model;
    assert_ok(cbm_model_load(&model, in_folder("joint.gguf"), &load_options));
    cbm_context *ctx = create(model, &options);
    assert_error(predict_values(ctx, all_texts(), NULL, N_TEXTS, p), SCBM_ERROR_CANCELLED, "cancelled");
    stops = 0;
    assert_ok(predict_values(ctx, all_texts(), NULL, N_TEXTS, p));
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* ------------------------------------------------------------------------------------------
 * Vectors
 * ---------------------------------------------------------------------------------------- */

static double length_of(const float *vector) {
    double square = 0.0;
    for (int i = 0; i < 32; i++) square += (double)vector[i] * (double)vector[i];
    return sqrt(square);
}

static void embeddings_are_pooled_and_scaled_as_asked(void **state) {
    (void)state;
    static float mean[N_TEXTS][32], first[N_TEXTS][32], vectors[N_TEXTS][32], scaled[N_TEXTS][32];
    uint8_t truncated[N_TEXTS];
    cbm_context *ctx = context_for(encoder);
    assert_ok(cbm_embed_batch(ctx, all_texts(), NULL, N_TEXTS, CBM_POOL_MEAN, 0, mean[0], truncated));
    assert_ok(cbm_embed_batch(ctx, all_texts(), NULL, N_TEXTS, CBM_POOL_FIRST, 0, first[0], NULL));
    assert_ok(cbm_embed_batch(ctx, all_texts(), NULL, N_TEXTS, CBM_POOL_FILE, 0, vectors[0], NULL));
    assert_ok(cbm_embed_batch(ctx, all_texts(), NULL, N_TEXTS, CBM_POOL_MEAN, 1, scaled[0], NULL));
    assert_memory_equal(vectors, mean, sizeof mean); /* the file says mean */
    assert_memory_not_equal(first, mean, sizeof mean);
    for (int i = 0; i < N_TEXTS; i++) {
        assert_int_equal(truncated[i], i == 1);
        assert_float_equal(length_of(scaled[i]), 1.0, 1e-5);
        for (int j = 0; j < 32; j++) assert_float_equal(scaled[i][j] * length_of(mean[i]), mean[i][j], 1e-5);
        assert_ok(cbm_embed_batch(ctx, all_texts() + i, NULL, 1, CBM_POOL_MEAN, 0, vectors[0], NULL));
        assert_memory_equal(vectors[0], mean[i], sizeof mean[0]); /* alone */
        /* The last LayerNorm has weight 1 and bias 0.01: a token's vector has the mean 0.01 and length √32 · √(1 + 1e-4). */
        assert_float_equal(length_of(first[i]), sqrt(32.0 * 1.0001), 1e-3);
        assert_true(length_of(mean[i]) < sqrt(32.0 * 1.0001));
    }
    cbm_context_free(ctx);
}

static void the_file_says_which_pooling_is_the_default(void **state) {
    (void)state;
    const small_options options = {.pooling = 2};
    const char *text = "the soup was tasty";
    float first[32], vector[32];
    assert_ok(small_encoder(in_folder("first.gguf"), &options));
    cbm_model *model = load(in_folder("first.gguf"));
    cbm_context *ctx = context_for(model);
    assert_ok(cbm_embed_batch(ctx, &text, NULL, 1, CBM_POOL_FIRST, 0, first, NULL));
    assert_ok(cbm_embed_batch(ctx, &text, NULL, 1, CBM_POOL_FILE, 0, vector, NULL));
    assert_memory_equal(first, vector, sizeof first);
    cbm_context_free(ctx);
    cbm_model_free(model);
}

static void a_file_pools_in_no_other_way(void **state) {
    (void)state;
    const small_options options = {.pooling = 4};
    cbm_model *model;
    assert_ok(small_encoder(in_folder("other.gguf"), &options));
    assert_error(cbm_model_load(&model, in_folder("other.gguf"), NULL), SCBM_ERROR_UNSUPPORTED,
                 "other.gguf: bert.pooling_type is 4; 1 (mean), 2 (first token) and 3 (last token) are known");
}

/* ------------------------------------------------------------------------------------------
 * Evaluation
 * ---------------------------------------------------------------------------------------- */

static void evaluation_is_prediction(void **state) {
    (void)state;
    cbm_context *ctx = context_for(joint), *other = context_for(joint);
    const cbm_evaluation *e;
    cbm_prediction p[N_TEXTS];
    assert_ok(cbm_evaluate(ctx, &texts, &e));
    predict_all(other, p);
    assert_int_equal(e->n, N_TEXTS);
    assert_int_equal(e->n_truncated, 1);
    assert_true(e->seconds > 0.0);
    for (int i = 0; i < N_TEXTS; i++) {
        assert_int_equal(e->label[i], p[i].label_index);
        assert_memory_equal(e->label_probability + i * SMALL_LABELS, p[i].probabilities, SMALL_LABELS * sizeof(float));
        for (int k = 0; k < 2; k++) {
            const cbm_concept_result *concept = &p[i].concepts[k];
            assert_int_equal(e->concept_class[i * 2 + k], concept->class_index);
            assert_memory_equal(e->concept_probability + i * e->n_classes + e->first_class[k], concept->probabilities,
                                (size_t) concept->n_classes * sizeof(float));
        }
    }
    cbm_dataset renamed = texts;
    const char *names[] = {"low", "even", "top"};
    renamed.label_classes.name = names;
    assert_error(cbm_evaluate(ctx, &renamed, &e), SCBM_ERROR_ARGUMENT, "'top'");
    renamed = texts;
    renamed.n_concepts = 1;
    assert_error(cbm_evaluate(ctx, &renamed, &e), SCBM_ERROR_ARGUMENT, "the model has 2");
    int32_t labels[N_TEXTS] = {0, -1, SMALL_LABELS}, classes[N_TEXTS * 2] = {0};
    renamed = texts; /* arrays of the caller's own, with a class that there is not */
    renamed.label = labels;
    assert_error(cbm_evaluate(ctx, &renamed, &e), SCBM_ERROR_ARGUMENT, "row 2 has label 3, and there are 3");
    renamed = texts;
    renamed.concept_class = classes;
    classes[3] = -2;
    assert_error(cbm_evaluate(ctx, &renamed, &e), SCBM_ERROR_ARGUMENT, "row 1 has class -2 of concept 1");
    assert_null(e);
    cbm_context_free(ctx);
    cbm_context_free(other);
}

/* ------------------------------------------------------------------------------------------
 * Quantization
 * ---------------------------------------------------------------------------------------- */

static void quantized_models_predict_about_the_same(void **state) {
    (void)state;
    static const struct {
        scbm_type type;
        double most; /* relative difference of the label logits */
    } types[] = {{SCBM_F32, 0.0}, {SCBM_F16, 2e-3}, {SCBM_BF16, 2e-2}, {SCBM_Q8_0, 3e-2}, {SCBM_Q4_0, 0.4}};
    cbm_context *exact = context_for(joint);
    cbm_prediction a[N_TEXTS], b[N_TEXTS];
    double before = 0.0;
    predict_all(exact, a);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        int kept = -1;
        double difference = 0.0, size = 0.0;
        assert_ok(cbm_quantize(in_folder("joint.gguf"), in_folder("q.gguf"), types[t].type, NULL, &kept));
        assert_int_equal(kept, 0);
        cbm_model *model = load(in_folder("q.gguf"));
        assert_int_equal(scbm_file_find_tensor(model->file, "blk.1.ffn_down.weight")->type, types[t].type);
        assert_int_equal(scbm_file_find_tensor(model->file, "token_embd.weight")->type, types[t].type);
        assert_int_equal(scbm_file_find_tensor(model->file, "position_embd.weight")->type, SCBM_F32);
        assert_int_equal(scbm_file_find_tensor(model->file, CBM_CONCEPT_WEIGHT)->type, SCBM_F32);
        cbm_context *ctx = context_for(model);
        predict_all(ctx, b);
        for (int i = 0; i < N_TEXTS; i++) {
            for (int y = 0; y < SMALL_LABELS; y++) {
                difference += pow((double)a[i].logits[y] - (double)b[i].logits[y], 2);
                size += pow((double)a[i].logits[y], 2);
            }
        }
        difference = sqrt(difference / size);
        if (difference > types[t].most)
            fail_msg("%s: the logits differ by %g", scbm_type_of(types[t].type)->name, difference);
        if (t) assert_true(difference > before); /* fewer bits, larger errors */
        before = difference;
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
    cbm_context_free(exact);
}

/* What a rounding took away does not come back. */
static void quantizing_again_must_be_asked_for(void **state) {
    (void)state;
    static const scbm_type others[] = {SCBM_F32, SCBM_F16, SCBM_BF16, SCBM_Q8_0};
    const cbm_quantize_options again = {.requantize = 1};
    assert_ok(cbm_quantize(in_folder("joint.gguf"), in_folder("q4.gguf"), SCBM_Q4_0, NULL, NULL));
    for (int i = 0; i < COUNT_OF(others); i++) {
        assert_error(cbm_quantize(in_folder("q4.gguf"), in_folder("q.gguf"), others[i], NULL, NULL),
                     SCBM_ERROR_ARGUMENT,
                     "of its matrices are q4_0 already, and what that took away does not come back");
        assert_ok(cbm_quantize(in_folder("q4.gguf"), in_folder("q.gguf"), others[i], &again, NULL));
    }
    assert_ok(cbm_quantize(in_folder("q4.gguf"), in_folder("same.gguf"), SCBM_Q4_0, NULL, NULL)); /* nothing is lost */
    assert_true(same_files(in_folder("q4.gguf"), in_folder("same.gguf")));
}

static void rows_that_are_no_blocks_stay_f16(void **state) {
    (void)state;
    const small_options narrow = {.hidden = 20};
    int kept = 0;
    assert_ok(small_encoder(in_folder("narrow.gguf"), &narrow));
    assert_ok(cbm_quantize(in_folder("narrow.gguf"), in_folder("q.gguf"), SCBM_Q4_0, NULL, &kept));
    assert_int_equal(kept, 1 + 6 * SMALL_LAYERS); /* rows of 20 and 40: token embeddings, and six matrices a block */
    cbm_model *model = load(in_folder("q.gguf"));
    assert_int_equal(scbm_file_find_tensor(model->file, "blk.0.attn_q.weight")->type, SCBM_F16);
    cbm_model_free(model);
    assert_error(cbm_quantize(in_folder("narrow.gguf"), in_folder("q.gguf"), SCBM_I32, NULL, NULL), SCBM_ERROR_ARGUMENT,
                 "q8_0");
    assert_error(cbm_quantize(in_folder("nothing.gguf"), in_folder("q.gguf"), SCBM_Q8_0, NULL, NULL), SCBM_ERROR_IO,
                 "nothing.gguf");
    assert_error(cbm_quantize(in_folder("narrow.gguf"), in_folder("missing/q.gguf"), SCBM_Q8_0, NULL, NULL),
                 SCBM_ERROR_IO, "missing/q.gguf");
}

/* ------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------- */

/* Loads, predicts, embeds and evaluates, and gives everything back. */
static scbm_status use_a_model(const scbm_hooks *hooks) {
    static float vectors[N_TEXTS][32];
    const cbm_load_options options = {.hooks = hooks};
    cbm_prediction p[N_TEXTS];
    const cbm_evaluation *e;
    cbm_model *model = NULL;
    cbm_context *ctx = NULL;
    scbm_status status = cbm_model_load(&model, in_folder("joint.gguf"), &options);
    if (!status) status = cbm_context_create(&ctx, model, NULL);
    if (!status) status = predict_value(ctx, texts.text[2], p);
    if (!status) status = predict_values(ctx, all_texts(), NULL, N_TEXTS, p);
    if (!status) status = cbm_embed_batch(ctx, all_texts(), NULL, N_TEXTS, CBM_POOL_MEAN, 1, vectors[0], NULL);
    if (!status) status = cbm_evaluate(ctx, &texts, &e);
    cbm_context_free(ctx);
    cbm_model_free(model);
    return status;
}

static void no_memory_is_an_error_anywhere(void **state) {
    (void)state;
    counting_allocator memory = {0};
    scbm_hooks hooks = allocator_hooks(&memory);
    assert_ok(use_a_model(&hooks));
    assert_int_equal(memory.held, 0);
    long total = memory.n;
    assert_true(total > 100);
    for (long at = 1; at <= total; at += 1 + total / 300) {
        memory = (counting_allocator){.fails_at = at};
        assert_error(use_a_model(&hooks), SCBM_ERROR_MEMORY, "memory");
        if (memory.held) fail_msg("allocation %ld of %ld failed, and %ld were not given back", at, total, memory.held);
    }
}

static void a_context_goes_on_after_it_had_no_memory(void **state) {
    (void)state;
    counting_allocator memory = {0};
    scbm_hooks hooks = allocator_hooks(&memory);
    const cbm_load_options options = {.hooks = &hooks};
    cbm_prediction wanted[N_TEXTS], p[N_TEXTS];
    cbm_context *other = context_for(joint);
    cbm_model *model;
    predict_all(other, wanted);
    assert_ok(cbm_model_load(&model, in_folder("joint.gguf"), &options));
    cbm_context *ctx = context_for(model);
    int failures = 0;
    for (long more = 1; more < 200; more++) { /* each call gets a little further */
        memory.fails_at = memory.n + more;
        scbm_status status = predict_values(ctx, all_texts(), NULL, N_TEXTS, p);
        if (!status) break;
        assert_int_equal(status, SCBM_ERROR_MEMORY);
        failures++;
    }
    memory.fails_at = 0;
    assert_true(failures > 5);
    predict_all(ctx, p);
    for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&wanted[i], &p[i]);
    cbm_context_free(ctx);
    cbm_model_free(model);
    assert_int_equal(memory.held, 0);
    cbm_context_free(other);
}

static void zeros_and_null_are_the_defaults(void **state) {
    (void)state;
    const cbm_load_options load_options = {0};
    const cbm_context_options context_options = {0};
    cbm_prediction by_null[N_TEXTS], by_zeros[N_TEXTS];
    cbm_model *model;
    cbm_context *ctx = context_for(joint), *other;
    assert_ok(cbm_model_load(&model, in_folder("joint.gguf"), &load_options));
    assert_ok(cbm_context_create(&other, model, &context_options));
    predict_all(ctx, by_null);
    predict_all(other, by_zeros);
    for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&by_null[i], &by_zeros[i]);
    cbm_context_free(other);
    cbm_model_free(model);
    cbm_context_free(ctx);
}

static void reserved_fields_must_be_zero(void **state) {
    (void)state;
    const cbm_load_options load_options = {.reserved = {0, 0, 1}};
    const cbm_context_options context_options = {.reserved = {[7] = 1}};
    cbm_model *model;
    cbm_context *ctx;
    assert_error(cbm_model_load(&model, in_folder("joint.gguf"), &load_options), SCBM_ERROR_ARGUMENT, "reserved");
    assert_error(cbm_context_create(&ctx, joint, &context_options), SCBM_ERROR_ARGUMENT, "reserved");
    assert_null(model);
    assert_null(ctx);
}

static void a_failed_batch_says_which_text(void **state) {
    (void)state;
    const char *bad[3] = {"tasty", "kind", "rude \xff"};
    cbm_context *ctx = context_for(joint);
    const cbm_prediction *const *p;
    assert_int_equal(cbm_context_error_text(ctx), -1);
    assert_error(cbm_predict_batch(ctx, bad, NULL, 3, &p), SCBM_ERROR_FORMAT, "text 3 of 3");
    assert_int_equal(cbm_context_error_text(ctx), 2);
    assert_null(p);
    const cbm_token_list *list;
    assert_error(cbm_tokens_of(ctx, NULL, 0, &list), SCBM_ERROR_ARGUMENT, "NULL");
    assert_int_equal(cbm_context_error_text(ctx), -1);
    assert_error(cbm_predict_batch(ctx, bad + 2, NULL, 1, &p), SCBM_ERROR_FORMAT,
                 "UTF-8"); /* there is one text alone */
    assert_int_equal(cbm_context_error_text(ctx), -1);
    assert_ok(cbm_predict_batch(ctx, bad, NULL, 2, &p));
    assert_int_equal(cbm_context_error_text(ctx), -1);
    cbm_context_free(ctx);
}

static void a_prediction_can_be_kept(void **state) {
    (void)state;
    const char *const files[] = {"joint.gguf", "vanilla.gguf"};
    for (int m = 0; m < 2; m++) {
        cbm_model *model;
        cbm_prediction *kept, *again;
        const cbm_prediction *p;
        assert_ok(cbm_model_load(&model, in_folder(files[m]), NULL));
        cbm_context *ctx = context_for(model);
        assert_ok(cbm_predict(ctx, "it was tasty", &p));
        assert_ok(cbm_prediction_copy(&kept, p));
        assert_same_prediction(p, kept);
        assert_string_equal(p->label, kept->label);
        for (int k = 0; k < p->n_concepts; k++) {
            assert_string_equal(p->concepts[k].name, kept->concepts[k].name);
            assert_string_equal(p->concepts[k].class_name, kept->concepts[k].class_name);
            assert_ptr_not_equal(p->concepts[k].name, kept->concepts[k].name);
        }
        cbm_context_free(ctx);
        cbm_model_free(model);
        assert_ok(cbm_prediction_copy(&again, kept)); /* nothing of it was the model's */
        assert_same_prediction(kept, again);
        cbm_prediction_free(kept);
        cbm_prediction_free(again);
    }
    cbm_prediction_free(NULL);
}

static void a_copied_model_does_not_need_its_file(void **state) {
    (void)state;
    const cbm_load_options options = {.copy = 1};
    char path[512];
    cbm_prediction wanted[N_TEXTS], p[N_TEXTS];
    cbm_model *model;
    cbm_context *ctx = context_for(joint), *other;
    predict_all(ctx, wanted);
    snprintf(path, sizeof path, "%s", in_folder("copied.gguf"));
    assert_ok(cbm_quantize(in_folder("joint.gguf"), path, SCBM_F32, NULL, NULL));
    assert_ok(cbm_model_load(&model, path, &options));
    FILE *file = fopen(path, "wb"); /* cut to nothing */
    assert_non_null(file);
    fclose(file);
    other = context_for(model);
    predict_all(other, p);
    for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&wanted[i], &p[i]);
    cbm_context_free(other);
    cbm_context_free(ctx);
    cbm_model_free(model);
    assert_error(cbm_model_load(&model, path, &options), SCBM_ERROR_FORMAT, "copied.gguf");
}

static void the_memory_of_a_context_is_counted(void **state) {
    (void)state;
    counting_allocator memory = {0};
    size_t in_use = 0; /* not heeded by contexts, which count for themselves */
    scbm_hooks hooks = allocator_hooks(&memory);
    hooks.in_use = &in_use;
    const cbm_context_options options = {.hooks = &hooks};
    cbm_prediction p[N_TEXTS];
    cbm_context *ctx = create(joint, &options);
    size_t before = cbm_context_memory(ctx);
    predict_all(ctx, p);
    size_t after = cbm_context_memory(ctx);
    assert_true(after > before + 1024);
    predict_all(ctx, p);
    assert_int_equal(cbm_context_memory(ctx), after);
    cbm_context_free(ctx);
    assert_int_equal(memory.held, 0); /* all of it came from the context's own hooks */
    assert_int_equal(in_use, 0);
}

typedef struct questions {
    long n, stops_at; /* asked so far; the one that is answered with "stop", 0: none */
} questions;

static int stop_at_question(void *user) {
    questions *q = user;
    return ++q->n == q->stops_at;
}

static void one_context_can_be_cancelled_at_any_question(void **state) {
    (void)state;
    questions q = {0, 0};
    const scbm_hooks hooks = {.user = &q, .cancel = stop_at_question, .n_workers = 1};
    const cbm_context_options options = {.hooks = &hooks, .max_batch_tokens = 32};
    cbm_context *ctx = create(joint, &options), *other = context_for(joint);
    cbm_prediction wanted[N_TEXTS], p[N_TEXTS];
    predict_all(other, wanted);
    predict_all(ctx, p);
    long total = q.n;
    assert_true(total > 20); /* between the nodes of each run, too */
    for (long at = 1; at <= total; at++) {
        q = (questions){0, at};
        assert_error(predict_values(ctx, all_texts(), texts.text_length, N_TEXTS, p), SCBM_ERROR_CANCELLED,
                     "cancelled");
        if (at % 16 == 0) predict_all(other, p); /* the other one does not know of it */
    }
    q = (questions){0, 0};
    predict_all(ctx, p);
    for (int i = 0; i < N_TEXTS; i++) assert_same_prediction(&wanted[i], &p[i]);
    cbm_context_free(ctx);
    cbm_context_free(other);
}

static void header_and_library_are_of_one_version(void **state) {
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", SCBM_VERSION_MAJOR, SCBM_VERSION_MINOR, SCBM_VERSION_PATCH);
    assert_int_equal(scbm_version(), SCBM_VERSION);
    assert_string_equal(text, SCBM_VERSION_TEXT);
}

static void copy_model(const char *to) {
    size_t size;
    char *bytes = read_file(in_folder("joint.gguf"), &size);
    write_file(to, bytes, size);
    free(bytes);
}

/* A mapped file that is cut off or overwritten in place is an error, not a signal; one that is replaced by renaming stays what
 * it was, and a copy in memory does, whatever happens to the file. */
static void a_model_file_that_changes_in_use_is_told(void **state) {
    (void)state;
    const char *path = in_folder("in-use.gguf"), *other = in_folder("other.gguf");
    const cbm_prediction *p;
    const struct timespec later[2] = {{1000000000, 0}, {1000000000, 5}};
    enum { CUT, OVERWRITTEN, REPLACED, REMOVED, COPIED, CASES };
    for (int i = 0; i < CASES; i++) {
        const cbm_load_options options = {.copy = i == COPIED};
        cbm_model *model;
        cbm_context *ctx;
        copy_model(path);
        assert_ok(cbm_model_load(&model, path, &options));
        assert_ok(cbm_context_create(&ctx, model, NULL));
        assert_ok(cbm_predict(ctx, "the food was good", &p));
        float before = p->logits[0];
        if (i == CUT || i == COPIED) assert_int_equal(truncate(path, 100), 0);
        if (i == OVERWRITTEN) {
            copy_model(path);
            assert_int_equal(utimensat(AT_FDCWD, path, later, 0), 0); /* the clock of files may be coarse */
        }
        if (i == REPLACED) {
            copy_model(other);
            assert_int_equal(rename(other, path), 0);
        }
        if (i == REMOVED) assert_int_equal(unlink(path), 0);
        if (i <= OVERWRITTEN) {
            const char *texts[] = {"the food was good"};
            const cbm_explanation *x;
            const cbm_intervention *changed;
            float vector[1024];
            const char *words = "in-use.gguf: was written to after it was opened";
            assert_error(cbm_predict(ctx, texts[0], &p), SCBM_ERROR_IO, words);
            assert_error(cbm_embed_batch(ctx, texts, NULL, 1, CBM_POOL_FILE, CBM_NORMALIZE_FILE, vector, NULL),
                         SCBM_ERROR_IO, words);
            assert_error(cbm_explain(ctx, texts[0], NULL, &x), SCBM_ERROR_IO, words);
            assert_error(cbm_intervene_on(ctx, 0, 0, 0, NULL, &changed), SCBM_ERROR_IO, words);
        } else {
            assert_ok(cbm_predict(ctx, "the food was good", &p));
            assert_true(p->logits[0] == before);
        }
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_file_that_changes_in_use_is_told),
        cmocka_unit_test(models_tell_what_they_are),
        cmocka_unit_test(damaged_models_are_refused_with_their_reason),
        cmocka_unit_test(a_model_in_memory_is_the_same_model),
        cmocka_unit_test(a_model_of_version_0_1_is_read),
        cmocka_unit_test(tokens_are_listed),
        cmocka_unit_test(a_batch_has_the_bits_of_its_texts_alone),
        cmocka_unit_test(contributions_and_bias_are_the_logit),
        cmocka_unit_test(contributions_are_centred),
        cmocka_unit_test(a_vanilla_model_has_no_concepts),
        cmocka_unit_test(texts_that_cannot_be_read_are_named),
        cmocka_unit_test(bad_context_options_are_refused),
        cmocka_unit_test(bf16_predicts_about_the_same),
        cmocka_unit_test(int8_predicts_about_the_same),
        cmocka_unit_test(threads_share_a_model),
        cmocka_unit_test(a_batch_can_be_cancelled),
        cmocka_unit_test(one_context_can_be_cancelled_at_any_question),
        cmocka_unit_test(zeros_and_null_are_the_defaults),
        cmocka_unit_test(reserved_fields_must_be_zero),
        cmocka_unit_test(a_failed_batch_says_which_text),
        cmocka_unit_test(a_prediction_can_be_kept),
        cmocka_unit_test(a_copied_model_does_not_need_its_file),
        cmocka_unit_test(the_memory_of_a_context_is_counted),
        cmocka_unit_test(header_and_library_are_of_one_version),
        cmocka_unit_test(embeddings_are_pooled_and_scaled_as_asked),
        cmocka_unit_test(the_file_says_which_pooling_is_the_default),
        cmocka_unit_test(a_file_pools_in_no_other_way),
        cmocka_unit_test(evaluation_is_prediction),
        cmocka_unit_test(quantized_models_predict_about_the_same),
        cmocka_unit_test(quantizing_again_must_be_asked_for),
        cmocka_unit_test(rows_that_are_no_blocks_stay_f16),
        cmocka_unit_test(no_memory_is_an_error_anywhere),
        cmocka_unit_test(a_context_goes_on_after_it_had_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
