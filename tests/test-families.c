/*
 * tests/test-families.c - every architecture of the table does all that a model can: the four modes, each way to prune,
 * interventions, explanations, embedding, quantizing, going on after a stop; a row is tested by being there
 */
#include "models/backbones/architecture.h"
#include "models/core/masks.h"
#include "tests/small-encoder.h"

enum { N_TRAIN = 64, N_VALID = 24 };

static const cbm_architecture *architecture;
static cbm_model *encoder;
static cbm_dataset train_data, valid_data;
static double last_loss;

static const char *name_of(const cbm_architecture *a) {
    return a->family ? a->family : a->name;
}

static void make_encoder(void) {
    static const char *const special[] = {"[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"};
    const char *tokens[5 + SMALL_WORDS];
    for (int i = 0; i < 5; i++) tokens[i] = special[i];
    for (int i = 0; i < SMALL_WORDS; i++) tokens[5 + i] = small_words[i];
    const cbm_random_encoder_options options = {.architecture = name_of(architecture),
                                                .hidden = 32,
                                                .blocks = 2,
                                                .heads = 2,
                                                .feed_forward = 48,
                                                .max_tokens = SMALL_MAX_TOKENS,
                                                .deviation = 0.15,
                                                .tokens = tokens,
                                                .n_tokens = 5 + SMALL_WORDS,
                                                .hooks = &one_thread};
    assert_ok_for(cbm_random_encoder_write(in_folder("encoder.gguf"), &options), name_of(architecture));
    encoder = load(in_folder("encoder.gguf"));
    assert_ptr_equal(encoder->network.backbone.architecture, architecture);
    assert_true(scbm_file_int_or(encoder->file, "tokenizer.ggml.token_type_count", 0) >=
                1); /* or llama.cpp refuses it */
}

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_data(&train_data, 0, N_TRAIN));
    assert_ok(small_data(&valid_data, 1000, N_VALID));
    return 0;
}

static int tear_down(void **state) {
    cbm_dataset_clear(&train_data);
    cbm_dataset_clear(&valid_data);
    return remove_folder(state);
}

static cbm_train_options options_for(cbm_mode mode, const char *method) {
    cbm_train_options o = {
        .mode = mode, .epochs = 2, .batch_size = 16, .learning_rate = 2e-3, .head_learning_rate = 1e-2};
    o.prune = (cbm_prune_options){.method = method, .sparsity = 0.4, .start = 1, .end = 1, .fisher_gradients = 8};
    o.hooks = &one_thread;
    o.dropout = -1;
    return o;
}

static void train(const char *path, const cbm_train_options *o) {
    const char *const *names = o->mode == CBM_VANILLA ? NULL : small_concepts;
    assert_ok_for(cbm_train(encoder, &train_data, &valid_data, names, path, o), name_of(architecture));
}

/* ------------------------------------------------------------------------------------------
 * What a trained model does
 * ---------------------------------------------------------------------------------------- */

static void check_contributions(cbm_context *ctx, const cbm_prediction *p) {
    const cbm_contributions *c;
    assert_ok(cbm_contributions_of(ctx, p, &c));
    for (int y = 0; y < c->n_labels; y++) {
        double sum = c->raw_bias[y];
        for (int k = 0; k < c->n_concepts; k++) sum += c->raw[k * c->n_labels + y];
        assert_near(sum, p->logits[y], 1e-4);
    }
}

static void check_explanation(cbm_context *ctx, const char *text) {
    const cbm_explain_options options = {.steps = 64, .max_steps = 1024, .n_neurons = 2};
    const cbm_explanation *e;
    assert_ok_for(cbm_explain(ctx, text, &options, &e), name_of(architecture));
    for (int k = 0; k < e->n_concepts; k++) {
        const cbm_explained_logit *logit = &e->concepts[k].logit;
        double sum = 0, difference = (double)logit->value - (double)logit->baseline;
        for (int t = 0; t < e->n_tokens; t++) sum += (double)logit->tokens[0][t];
        if (!logit->converged) fail_msg("%s: %g, and the words add up to %g", name_of(architecture), difference, sum);
    }
}

static void check_interventions(cbm_context *ctx, const cbm_model *model, const char *text) {
    const cbm_prediction *p;
    const cbm_intervention *i;
    for (int method = CBM_INTERVENE_MASK; method <= CBM_INTERVENE_EDIT; method++) {
        const cbm_intervene_options options = {.method = (cbm_intervention_method)method, .portion = 0.2, .steps = 3};
        if (method == CBM_INTERVENE_MASK && !cbm_model_is_sparse(model)) continue;
        assert_ok(cbm_predict(ctx, text, &p));
        assert_ok_for(cbm_intervene_report(ctx, "staff", "rude", &options, &i), name_of(architecture));
        assert_ok(cbm_intervene_report(ctx, "taste", "tasty", &options, &i));
    }
}

/* Predictions of a file of quantized weights are near those of the file that it was made of. */
static void check_quantized(const char *path, const char *text) {
    static const scbm_type types[] = {SCBM_F16, SCBM_Q8_0};
    cbm_model *model = load(path);
    cbm_context *ctx = context_for(model);
    const cbm_prediction *p, *q;
    assert_ok(cbm_predict(ctx, text, &p));
    for (int i = 0; i < COUNT_OF(types); i++) {
        assert_ok(cbm_quantize(path, in_folder("quantized.gguf"), types[i], NULL, NULL));
        cbm_model *small = load(in_folder("quantized.gguf"));
        cbm_context *other = context_for(small);
        assert_ok(cbm_predict(other, text, &q));
        for (int y = 0; y < SMALL_LABELS; y++) assert_near(q->logits[y], p->logits[y], 0.3);
        cbm_context_free(other);
        cbm_model_free(small);
    }
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* A text of no words, one, and more than are read; with the padding token in one. */
static const char *const hard[] = {
    "", "soup", "[PAD] tasty [PAD] soup kind",
    ("the we came there on monday with friends and it was soup the we came there on monday "
     "with friends and it was soup the we came there on")};

static void check_model(const char *path) {
    cbm_model *model = load(path);
    cbm_context *ctx = context_for(model);
    const cbm_prediction *p, *const *all;
    float *vector = calloc((size_t)cbm_model_hidden_size(model), sizeof *vector);
    assert_non_null(vector);
    assert_ok_for(cbm_predict_batch(ctx, hard, NULL, COUNT_OF(hard), &all), name_of(architecture));
    for (int i = 0; i < COUNT_OF(hard); i++)
        for (int y = 0; y < SMALL_LABELS; y++) assert_true(all[i]->logits[y] == all[i]->logits[y]);
    for (int i = 0; i < COUNT_OF(hard); i++) {
        assert_ok(cbm_predict(ctx, hard[i], &p));
        if (cbm_model_mode(model) != CBM_VANILLA) check_contributions(ctx, p);
        assert_ok(cbm_embed_batch(ctx, &hard[i], NULL, 1, CBM_POOL_FILE, CBM_NORMALIZE_FILE, vector, NULL));
    }
    const char *text = train_data.text[3];
    if (cbm_model_mode(model) == CBM_JOINT) {
        for (int i = 0; i < 2; i++) check_explanation(ctx, i ? hard[0] : text);
        check_interventions(ctx, model, text);
    }
    free(vector);
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* ------------------------------------------------------------------------------------------
 * The tests
 * ---------------------------------------------------------------------------------------- */

typedef void (*family_test)(void);

static void each(family_test test) {
    for (int i = 0; (architecture = cbm_architecture_at(i)); i++) {
        make_encoder();
        test();
        cbm_model_free(encoder);
        empty_folder();
    }
}

static void train_modes(void) {
    for (cbm_mode mode = CBM_VANILLA; mode <= CBM_JOINT; mode++) {
        cbm_train_options o = options_for(mode, NULL);
        train(in_folder("model.gguf"), &o);
        check_model(in_folder("model.gguf"));
    }
    check_quantized(in_folder("model.gguf"), train_data.text[3]);
}

static void prune_methods(void) {
    const char *method;
    for (int i = 0; (method = cbm_prune_method_name(i)); i++) {
        cbm_train_options o = options_for(CBM_JOINT, method);
        o.epochs = 1;
        train(in_folder("model.gguf"), &o);
        check_model(in_folder("model.gguf"));
        cbm_model *model = load(in_folder("model.gguf"));
        const cbm_backbone *backbone = &model->network.backbone;
        assert_true(cbm_model_is_sparse(model));
        /* queries, keys, values, what leaves attention, and two or three more; of tokens and states, both ways */
        int per_block = architecture->is_recurrent ? 4 : backbone->gated ? 7 : 6;
        assert_int_equal(cbm_n_prunable(backbone), per_block * backbone->n_blocks);
        cbm_model_free(model);
    }
    check_quantized(in_folder("model.gguf"), train_data.text[3]);
}

/* Stops in the second epoch: there are four steps in one. */
static int stop_later(void *user, const char *what, int64_t done, int64_t total) {
    (void)total;
    return strcmp(what, "train") == 0 && done == 6 && ++*(int *)user;
}

static void stop_and_go_on(void) {
    int stopped = 0;
    scbm_hooks hooks = {.n_workers = 1, .progress = stop_later, .user = &stopped};
    cbm_train_options o = options_for(CBM_JOINT, "magnitude");
    o.dropout = 0.1;
    train(in_folder("whole.gguf"), &o);
    o.hooks = &hooks;
    assert_int_equal(cbm_train(encoder, &train_data, &valid_data, small_concepts, in_folder("parts.gguf"), &o),
                     SCBM_ERROR_CANCELLED);
    assert_int_equal(stopped, 1);
    o.hooks = &one_thread;
    o.resume = 1;
    train(in_folder("parts.gguf"), &o);
    assert_true(same_files(in_folder("whole.gguf.checkpoint"), in_folder("parts.gguf.checkpoint")));
}

static void note_loss(void *user, const cbm_epoch_report *report) {
    (void)user;
    last_loss = report->train_loss;
}

/* Subnetworks with half of the weights learn their texts by heart. */
static void learn_by_heart(void) {
    cbm_train_options o = options_for(CBM_JOINT, "random");
    o.prune.sparsity = 0.5;
    o.epochs = 45;
    o.learning_rate = 4e-3;
    o.on_epoch = note_loss;
    train(in_folder("model.gguf"), &o);
    if (!(last_loss < 0.05)) fail_msg("%s: a loss of %g", name_of(architecture), last_loss);
}

static void four_modes(void **state) {
    (void)state;
    each(train_modes);
}

static void every_prune_method(void **state) {
    (void)state;
    each(prune_methods);
}

static void going_on_after_a_stop(void **state) {
    (void)state;
    each(stop_and_go_on);
}

static void sixty_four_texts_by_heart(void **state) {
    (void)state;
    each(learn_by_heart);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_modes),
        cmocka_unit_test(every_prune_method),
        cmocka_unit_test(going_on_after_a_stop),
        cmocka_unit_test(sixty_four_texts_by_heart),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
