/*
 * tests/test-pooling.c - the mean, the first or the last token: whatever reads a text reads it as its model file says.
 * Pooled vectors and logits are computed here in double, from the hidden states of the encoder's graph
 */
#include "tests/small-sparse.h"

#include "models/core/network.h"
#include "models/intervene/intervene.h"

enum { K = SMALL_CONCEPTS, N_TEXTS = 4, N_POOLINGS = 4, HIDDEN = 32 };

/* Of each pooling: an encoder whose file says so, and models that were trained on it. */
static cbm_model *encoder[N_POOLINGS], *sparse[N_POOLINGS], *vanilla[N_POOLINGS];

static const char *const texts[N_TEXTS] = {"the soup was tasty and the waiter rude", "bland soup", "tasty",
                                           "we came on monday with kind friends"};

static const char *file_of(const char *what, int pooling) {
    char name[64];
    snprintf(name, sizeof name, "%s-%d.gguf", what, pooling);
    return in_folder(name);
}

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        const small_options options = {.pooling = p};
        assert_ok(small_encoder(file_of("encoder", p), &options));
        encoder[p] = load(file_of("encoder", p));
        sparse[p] = small_model(encoder[p], CBM_JOINT, 0.6, file_of("sparse", p));
        vanilla[p] = small_model(encoder[p], CBM_VANILLA, 0.0, file_of("vanilla", p));
    }
    return 0;
}

static int tear_down(void **state) {
    for (int p = 0; p < N_POOLINGS; p++) {
        cbm_model_free(encoder[p]);
        cbm_model_free(sparse[p]);
        cbm_model_free(vanilla[p]);
    }
    return remove_folder(state);
}

/* ------------------------------------------------------------------------------------------
 * In double
 * ---------------------------------------------------------------------------------------- */

typedef struct pooled_text {
    int n_streams;
    double vector[K][HIDDEN];
} pooled_text;

static void pool_by_hand(pooled_text *pooled, const float *hidden, const int64_t shape[SCBM_MAX_DIMS], int pooling) {
    int64_t n = shape[1], first = pooling == CBM_POOL_LAST ? n - 1 : 0, end = pooling == CBM_POOL_FIRST ? 1 : n;
    memset(pooled, 0, sizeof *pooled);
    pooled->n_streams = (int)shape[0];
    assert_true(pooled->n_streams <= K && shape[2] == HIDDEN && n > 2);
    for (int64_t s = 0; s < shape[0]; s++)
        for (int64_t t = first; t < end; t++)
            for (int64_t j = 0; j < HIDDEN; j++)
                pooled->vector[s][j] += (double)hidden[(s * n + t) * HIDDEN + j] / (double)(end - first);
}

/* The text's vectors by the backbone, which may have other masks than the model. */
static void encode(pooled_text *pooled, const cbm_model *model, const cbm_backbone *backbone, int use_masks,
                   const char *text, int pooling) {
    const cbm_encode_options options = {.use_masks = use_masks};
    const int32_t row = 0;
    int64_t shape[SCBM_MAX_DIMS];
    cbm_sequences sequences = {0};
    cbm_encoding encoding;
    scbm_context *context;
    scbm_graph *g;
    assert_ok(cbm_sequences_add(&sequences, model->tokenizer, text, strlen(text), SMALL_MAX_TOKENS, NULL));
    assert_ok(scbm_context_create(&context, &one_thread, NULL));
    assert_ok(scbm_graph_create(&g, context));
    scbm_graph_set_capacity(g, SMALL_MAX_TOKENS, 1);
    cbm_backbone_encode(backbone, g, 1, &options, &encoding);
    scbm_graph_fetch(g, encoding.hidden);
    assert_ok(scbm_graph_plan(g));
    assert_ok(scbm_graph_run(g, cbm_fill_inputs(backbone, &encoding, &sequences, &row, 1), 1));
    scbm_graph_shape(g, encoding.hidden, shape);
    pool_by_hand(pooled, encoding.hidden->data, shape, pooling);
    scbm_graph_free(g);
    scbm_context_free(context);
    cbm_sequences_clear(&sequences, NULL);
}

static double dot(const scbm_tensor *weight, const scbm_tensor *bias, int row, const double *vector) {
    double sum = (double)((const float *)bias->data)[row];
    for (int j = 0; j < HIDDEN; j++) sum += (double)((const float *)weight->data)[row * HIDDEN + j] * vector[j];
    return sum;
}

/* logits [C], what concept k's class is by the stream of concept k. */
static void concept_logits(double *logits, const cbm_heads *heads, const pooled_text *pooled) {
    for (int k = 0; k < heads->n_concepts; k++)
        for (int c = heads->groups[k]; c < heads->groups[k + 1]; c++)
            logits[c] = dot(heads->concept_weight, heads->concept_bias, c,
                            pooled->vector[pooled->n_streams == 1 ? 0 : k]);
}

static void assert_concepts(const cbm_prediction *p, const double *logits) {
    for (int k = 0, c = 0; k < K; k++)
        for (int i = 0; i < p->concepts[k].n_classes; i++, c++)
            assert_near((double)p->concepts[k].logits[i], logits[c], 1e-4);
}

static void assert_predicts_by(const cbm_model *model, int pooling) {
    cbm_context *ctx = context_for(model);
    for (int i = 0; i < N_TEXTS; i++) {
        const cbm_prediction *p;
        pooled_text pooled;
        double logits[SMALL_CLASSES];
        encode(&pooled, model, &model->network.backbone, 1, texts[i], pooling);
        concept_logits(logits, &model->network.heads, &pooled);
        assert_ok(cbm_predict(ctx, texts[i], &p));
        assert_int_equal(pooled.n_streams, K);
        assert_concepts(p, logits);
    }
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------------------------- */

static void vectors_are_pooled_as_asked_or_as_the_file_says(void **state) {
    (void)state;
    static float vectors[N_TEXTS][HIDDEN];
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        cbm_context *ctx = context_for(encoder[p]);
        assert_int_equal(cbm_model_pooling(encoder[p]), p);
        for (int asked = CBM_POOL_FILE; asked <= CBM_POOL_LAST; asked++) {
            assert_ok(
                cbm_embed_batch(ctx, texts, NULL, N_TEXTS, (cbm_pooling)asked, CBM_NORMALIZE_NO, vectors[0], NULL));
            for (int i = 0; i < N_TEXTS; i++) {
                pooled_text pooled;
                encode(&pooled, encoder[p], &encoder[p]->network.backbone, 0, texts[i], asked ? asked : p);
                for (int j = 0; j < HIDDEN; j++) assert_near((double)vectors[i][j], pooled.vector[0][j], 1e-5);
            }
        }
        for (int bad = -1; bad <= 4; bad += 5)
            assert_int_equal(cbm_embed_batch(ctx, texts, NULL, 1, (cbm_pooling)bad, CBM_NORMALIZE_NO, vectors[0], NULL),
                             SCBM_ERROR_ARGUMENT);
        assert_non_null(strstr(cbm_context_error(ctx), "pool"));
        cbm_context_free(ctx);
    }
}

static void poolings_have_names(void **state) {
    (void)state;
    static const char *const names[] = {"file", "mean", "first", "last", "attention"};
    for (int i = 0; i < 5; i++) assert_string_equal(cbm_pooling_name((cbm_pooling)i), names[i]);
    assert_null(cbm_pooling_name((cbm_pooling)5));
    assert_null(cbm_pooling_name((cbm_pooling)-1));
}

static void predictions_read_what_their_file_says(void **state) {
    (void)state;
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        assert_predicts_by(sparse[p], p);
        const cbm_heads *heads = &vanilla[p]->network.heads;
        cbm_context *ctx = context_for(vanilla[p]);
        for (int i = 0; i < N_TEXTS; i++) {
            const cbm_prediction *prediction;
            pooled_text pooled;
            encode(&pooled, vanilla[p], &vanilla[p]->network.backbone, 1, texts[i], p);
            assert_ok(cbm_predict(ctx, texts[i], &prediction));
            for (int y = 0; y < SMALL_LABELS; y++)
                assert_near((double)prediction->logits[y],
                            dot(heads->label_weight, heads->label_bias, y, pooled.vector[0]), 1e-4);
        }
        cbm_context_free(ctx);
    }
}

/* ------------------------------------------------------------------------------------------
 * Training
 * ---------------------------------------------------------------------------------------- */

static void the_training_graph_pools_as_the_network(void **state) {
    (void)state;
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        const cbm_network *network = &sparse[p]->network;
        const cbm_training_settings settings = {.max_tokens = N_TEXTS * SMALL_MAX_TOKENS, .max_texts = N_TEXTS};
        const int32_t rows[N_TEXTS] = {0, 1, 2, 3};
        cbm_training_graph graph;
        cbm_sequences sequences = {0};
        cbm_dataset data;
        scbm_context *context;
        assert_ok(small_data(&data, 0, N_TEXTS));
        for (int i = 0; i < N_TEXTS; i++)
            assert_ok(cbm_sequences_add(&sequences, sparse[p]->tokenizer, texts[i], strlen(texts[i]), SMALL_MAX_TOKENS,
                                        NULL));
        assert_ok(scbm_context_create(&context, &one_thread, NULL));
        assert_ok(cbm_training_graph_build(&graph, network, context, &settings));
        scbm_graph_fetch(graph.graph, graph.concept_logits);
        assert_ok(scbm_graph_plan(graph.graph));
        int64_t tokens = cbm_training_fill(&graph, network, &sequences, &data, rows, N_TEXTS, NULL, 1);
        assert_ok(scbm_graph_run(graph.graph, tokens, N_TEXTS));
        const float *made = graph.concept_logits->data;
        for (int i = 0; i < N_TEXTS; i++) {
            pooled_text pooled;
            double logits[SMALL_CLASSES];
            encode(&pooled, sparse[p], &network->backbone, 1, texts[i], p);
            concept_logits(logits, &network->heads, &pooled);
            for (int c = 0; c < SMALL_CLASSES; c++) assert_near((double)made[i * SMALL_CLASSES + c], logits[c], 1e-4);
        }
        cbm_training_graph_clear(&graph, &one_thread);
        scbm_context_free(context);
        cbm_sequences_clear(&sequences, NULL);
        cbm_dataset_clear(&data);
    }
}

static scbm_status train(const cbm_model *from, const char *output, const cbm_train_options *options) {
    cbm_dataset data, valid;
    assert_ok(small_data(&data, 0, 40));
    assert_ok(small_data(&valid, 500, 20));
    scbm_status status = cbm_train(from, &data, &valid, small_concepts, output, options);
    cbm_dataset_clear(&data);
    cbm_dataset_clear(&valid);
    return status;
}

static void assert_same_tensors(const cbm_model *a, const cbm_model *b) {
    assert_int_equal(scbm_file_n_tensors(a->file), scbm_file_n_tensors(b->file));
    for (int64_t i = 0; i < scbm_file_n_tensors(a->file); i++) {
        const scbm_tensor *s = scbm_file_tensor(a->file, i), *t = scbm_file_tensor(b->file, i);
        assert_memory_equal(s->data, t->data, scbm_tensor_bytes(s));
    }
}

/* From encoders that differ in this key alone come the same weights where the same was asked for. */
static void training_pools_as_asked_or_as_the_file_says(void **state) {
    (void)state;
    cbm_model *made[2];
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        for (int i = 0; i < 2; i++) {
            int from = i ? p % CBM_POOL_LAST + 1 : p;
            const cbm_train_options options = {.epochs = 1,
                                               .learning_rate = 2e-3,
                                               .pooling = i ? (cbm_pooling)p : CBM_POOL_FILE,
                                               .hooks = &one_thread};
            assert_ok(train(encoder[from], file_of(i ? "asked" : "said", p), &options));
            made[i] = load(file_of(i ? "asked" : "said", p));
            assert_int_equal(cbm_model_pooling(made[i]), p);
            assert_string_equal(scbm_file_string_or(made[i]->file, CBM_KEY_POOLING, ""),
                                cbm_pooling_name((cbm_pooling)p));
            assert_int_equal(scbm_file_int_or(made[i]->file, "bert.pooling_type", 0), from);
        }
        assert_same_tensors(made[0], made[1]);
        cbm_model_free(made[0]);
        cbm_model_free(made[1]);
    }
    cbm_model *mean = load(file_of("said", CBM_POOL_MEAN)), *first = load(file_of("said", CBM_POOL_FIRST));
    const scbm_tensor *a = mean->network.heads.concept_weight, *b = first->network.heads.concept_weight;
    assert_memory_not_equal(a->data, b->data, scbm_tensor_bytes(a));
    cbm_model_free(mean);
    cbm_model_free(first);
}

static void heads_that_read_something_else_are_no_start(void **state) {
    (void)state;
    cbm_train_options options = {.epochs = 1, .hooks = &one_thread, .init = file_of("sparse", CBM_POOL_MEAN)};
    options.pooling = CBM_POOL_LAST;
    assert_error(train(encoder[CBM_POOL_MEAN], in_folder("none.gguf"), &options), SCBM_ERROR_ARGUMENT, "the last");
    options.pooling = CBM_POOL_FILE;
    assert_ok(train(encoder[CBM_POOL_MEAN], in_folder("on.gguf"), &options));
    options.pooling = CBM_POOL_ATTENTION;
    assert_error(train(encoder[CBM_POOL_MEAN], in_folder("none.gguf"), &options), SCBM_ERROR_ARGUMENT,
                 "BERT are not pooled by attention");
    options.pooling = (cbm_pooling)5;
    assert_error(train(encoder[CBM_POOL_MEAN], in_folder("none.gguf"), &options), SCBM_ERROR_ARGUMENT, "pooling");
}

/* ------------------------------------------------------------------------------------------
 * Explanations and interventions
 * ---------------------------------------------------------------------------------------- */

static void explanations_add_up_to_the_logits_of_the_file(void **state) {
    (void)state;
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        const int place = cbm_attribution_method_find("integrated_gradients");
        assert_true(place >= 0);
        cbm_context *ctx = context_for(sparse[p]);
        for (int i = 0; i < N_TEXTS; i++) {
            const cbm_explanation *e;
            pooled_text pooled;
            double logits[SMALL_CLASSES];
            encode(&pooled, sparse[p], &sparse[p]->network.backbone, 1, texts[i], p);
            concept_logits(logits, &sparse[p]->network.heads, &pooled);
            assert_ok(cbm_explain(ctx, texts[i], NULL, &e));
            for (int k = 0; k < K; k++) {
                const cbm_explained_logit *logit = &e->concepts[k].logit;
                double sum = 0.0, delta = (double)logit->value - (double)logit->baseline;
                for (int t = 0; t < e->n_tokens; t++) sum += (double)logit->tokens[place][t];
                assert_true(logit->converged);
                assert_near(sum, delta, 0.01 * fmax(fabs(delta), 1.0));
                assert_near((double)logit->value, logits[sparse[p]->network.heads.groups[k] + e->concepts[k].target],
                            1e-4);
            }
        }
        cbm_context_free(ctx);
    }
}

static void interventions_read_the_moved_masks_as_the_file_says(void **state) {
    (void)state;
    for (int p = CBM_POOL_MEAN; p <= CBM_POOL_LAST; p++) {
        cbm_context *ctx = context_for(sparse[p]);
        for (int i = 0; i < N_TEXTS; i++) {
            const cbm_prediction *prediction;
            const cbm_intervention *result;
            pooled_text pooled, moved;
            double logits[SMALL_CLASSES];
            assert_ok(cbm_predict(ctx, texts[i], &prediction));
            int other = (prediction->concepts[0].class_index + 1) % prediction->concepts[0].n_classes;
            assert_ok(cbm_intervene_report(ctx, small_concepts[0], cbm_model_concept_class(sparse[p], 0, other), NULL,
                                           &result));
            assert_true(result->moved_bits > 0);
            encode(&pooled, sparse[p], &sparse[p]->network.backbone, 1, texts[i], p);
            encode(&moved, sparse[p], &cbm_overlay_of(ctx)->backbone, 1, texts[i], p);
            assert_int_equal(moved.n_streams, 1); /* the concept's alone */
            memcpy(pooled.vector[0], moved.vector[0], sizeof pooled.vector[0]);
            concept_logits(logits, &sparse[p]->network.heads, &pooled);
            assert_concepts(result->after, logits);
        }
        cbm_context_free(ctx);
    }
}

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

static void rewrite(const char *from, const char *to, void (*change)(scbm_writer *writer)) {
    scbm_file *file;
    scbm_writer *writer;
    assert_ok(scbm_file_open(&file, from, NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    change(writer);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++)
        scbm_writer_add_tensor(writer, scbm_file_tensor(file, i), scbm_file_tensor(file, i)->type);
    assert_ok(scbm_writer_write(writer, to));
    scbm_writer_free(writer);
    scbm_file_close(file);
}

static void say_nothing_in_particular(scbm_writer *writer) {
    scbm_writer_remove_key(writer, CBM_KEY_POOLING);
}

static void be_of_format_1(scbm_writer *writer) {
    scbm_writer_remove_key(writer, CBM_KEY_POOLING);
    scbm_writer_remove_key(writer, CBM_KEY_FORMAT);
    scbm_writer_set_int(writer, CBM_KEY_FORMAT_1, SCBM_VALUE_U32, 1);
}

static void say_last(scbm_writer *writer) {
    scbm_writer_set_string(writer, CBM_KEY_POOLING, "last");
}

static void say_largest(scbm_writer *writer) {
    scbm_writer_set_string(writer, CBM_KEY_POOLING, "largest");
}

static void say_a_number(scbm_writer *writer) {
    scbm_writer_set_int(writer, CBM_KEY_POOLING, SCBM_VALUE_U32, 3);
}

static void say_none(scbm_writer *writer) {
    scbm_writer_set_int(writer, "bert.pooling_type", SCBM_VALUE_U32, 0);
}

static void say_rank(scbm_writer *writer) {
    scbm_writer_set_int(writer, "bert.pooling_type", SCBM_VALUE_U32, 4);
}

static void the_trained_key_wins_and_format_1_was_trained_on_means(void **state) {
    (void)state;
    static const struct {
        const char *what;
        int from;
        void (*change)(scbm_writer *writer);
        cbm_pooling read;
    } files[] = {
        {"sparse", CBM_POOL_FIRST, say_nothing_in_particular, CBM_POOL_FIRST},
        {"sparse", CBM_POOL_FIRST, be_of_format_1, CBM_POOL_MEAN},
        {"sparse", CBM_POOL_FIRST, say_last, CBM_POOL_LAST},
        {"encoder", CBM_POOL_MEAN, say_last, CBM_POOL_LAST},
        {"encoder", CBM_POOL_LAST, say_none, CBM_POOL_MEAN},
    };
    for (int i = 0; i < COUNT_OF(files); i++) {
        rewrite(file_of(files[i].what, files[i].from), in_folder("changed.gguf"), files[i].change);
        cbm_model *model = load(in_folder("changed.gguf"));
        assert_int_equal(cbm_model_pooling(model), files[i].read);
        if (cbm_model_mode(model) != CBM_ENCODER) assert_predicts_by(model, (int)files[i].read);
        cbm_model_free(model);
    }
}

static void unknown_poolings_are_refused(void **state) {
    (void)state;
    static const struct {
        void (*change)(scbm_writer *writer);
        scbm_status status;
        const char *words;
    } files[] = {{say_largest, SCBM_ERROR_UNSUPPORTED, "'largest'"},
                 {say_a_number, SCBM_ERROR_FORMAT, CBM_KEY_POOLING},
                 {say_rank, SCBM_ERROR_UNSUPPORTED, "3 (last token)"}};
    for (int i = 0; i < COUNT_OF(files); i++) {
        cbm_model *model;
        rewrite(file_of("sparse", CBM_POOL_MEAN), in_folder("changed.gguf"), files[i].change);
        assert_error(cbm_model_load(&model, in_folder("changed.gguf"), NULL), files[i].status, files[i].words);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(poolings_have_names),
        cmocka_unit_test(vectors_are_pooled_as_asked_or_as_the_file_says),
        cmocka_unit_test(predictions_read_what_their_file_says),
        cmocka_unit_test(the_training_graph_pools_as_the_network),
        cmocka_unit_test(training_pools_as_asked_or_as_the_file_says),
        cmocka_unit_test(heads_that_read_something_else_are_no_start),
        cmocka_unit_test(explanations_add_up_to_the_logits_of_the_file),
        cmocka_unit_test(interventions_read_the_moved_masks_as_the_file_says),
        cmocka_unit_test(the_trained_key_wins_and_format_1_was_trained_on_means),
        cmocka_unit_test(unknown_poolings_are_refused),
    };
    return cmocka_run_group_tests_name("pooling", tests, set_up, tear_down);
}
