/*
 * tests/test-explain.c - explanations: what adds up, what finite differences of changed model files say, subnetworks by
 * counting bit by bit, faithfulness by taking words out of the text
 */
#define _XOPEN_SOURCE 700

#include "models/explain/explain.h"
#include "tests/small-encoder.h"

#include <cjson/cJSON.h>
#include <unistd.h>

static cbm_model *encoder, *sparse, *dense, *independent, *sequential;
static const scbm_hooks three_threads = {.n_workers = 3};

enum { K = SMALL_CONCEPTS, N_TEXTS = 6 };
enum { GRADIENT_INPUT, INTEGRATED_GRADIENTS, ATTENTION, RANDOM, N_METHODS }; /* their places in the table */
static const char *const texts[N_TEXTS] = {
    "the soup was tasty and the waiter rude",
    "bland soup",
    "we came on monday with kind friends and it was unheard of",
    "tasty",
    "the soup was [MASK] and the waiter was kind",
    "the soup was tasty and the waiter was rude and it was there and we came with friends and the waiter was kind and bland"};

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), NULL));
    encoder = load(in_folder("encoder.gguf"));
    sparse = small_model(encoder, CBM_JOINT, 0.9, in_folder("sparse.gguf"));
    dense = small_model(encoder, CBM_JOINT, 0.0, in_folder("dense.gguf"));
    independent = small_model(encoder, CBM_INDEPENDENT, 0.4, in_folder("independent.gguf"));
    sequential = small_model(encoder, CBM_SEQUENTIAL, 0.0, in_folder("sequential.gguf"));
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_model_free(sparse);
    cbm_model_free(dense);
    cbm_model_free(independent);
    cbm_model_free(sequential);
    return remove_folder(state);
}

static void explain(cbm_context *ctx, const char *text, const cbm_explain_options *options, const cbm_explanation **e) {
    if (cbm_explain(ctx, text, options, e)) fail_msg("%s", cbm_context_error(ctx));
}

/* The logit of a concept's class by a prediction. */
static double predicted_logit(const cbm_model *model, const char *text, int k, int c) {
    cbm_context *ctx = context_for(model);
    cbm_prediction p;
    assert_ok(predict_value(ctx, text, &p));
    double logit = (double)p.concepts[k].logits[c];
    cbm_context_free(ctx);
    return logit;
}

/* ------------------------------------------------------------------------------------------
 * What adds up
 * ---------------------------------------------------------------------------------------- */

static cbm_model **const models[] = {&sparse, &dense, &independent, &sequential};
enum { N_MODELS = sizeof models / sizeof models[0] };

static void contributions_add_up_to_the_logit(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++) {
        cbm_context *ctx = context_for(*models[m]);
        for (int i = 0; i < N_TEXTS; i++) {
            const cbm_explanation *e;
            explain(ctx, texts[i], NULL, &e);
            double sum = (double)e->prediction->bias, logit = (double)e->prediction->logits[e->prediction->label_index];
            assert_int_equal(e->n_concepts, K);
            for (int k = 0; k < K; k++) {
                sum += (double)e->concepts[k].result->contribution;
                assert_ptr_equal(e->concepts[k].result, &e->prediction->concepts[k]);
            }
            assert_near(sum, logit, 1e-5 * fmax(1.0, fabs(logit)));
        }
        cbm_context_free(ctx);
    }
}

static void the_prediction_has_the_bits_of_predict(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++) {
        cbm_context *ctx = context_for(*models[m]), *other = context_for(*models[m]);
        const cbm_explanation *e;
        cbm_prediction p;
        explain(ctx, texts[0], NULL, &e);
        assert_ok(predict_value(other, texts[0], &p));
        assert_string_equal(e->prediction->label, p.label);
        assert_memory_equal(e->prediction->logits, p.logits, (size_t)p.n_labels * sizeof *p.logits);
        for (int k = 0; k < K; k++)
            assert_memory_equal(e->prediction->concepts[k].logits, p.concepts[k].logits,
                                (size_t)p.concepts[k].n_classes * sizeof(float));
        cbm_context_free(ctx);
        cbm_context_free(other);
    }
}

static void integrated_gradients_add_up_to_the_difference_of_logits(void **state) {
    (void)state;
    double largest = 0.0;
    for (int m = 0; m < N_MODELS; m++) {
        cbm_context *ctx = context_for(*models[m]);
        for (int i = 0; i < N_TEXTS; i++) {
            const cbm_explanation *e;
            explain(ctx, texts[i], NULL, &e);
            for (int k = 0; k < K; k++) {
                const cbm_concept_explanation *c = &e->concepts[k];
                double sum = 0.0, delta = (double)c->logit.value - (double)c->logit.baseline;
                for (int t = 0; t < e->n_tokens; t++) sum += (double)c->logit.tokens[INTEGRATED_GRADIENTS][t];
                assert_true(c->logit.converged && c->logit.steps >= 32 && c->logit.steps <= 512);
                assert_near(sum, delta, 0.01 * fmax(fabs(delta), 1.0));
                assert_int_equal(c->target, c->result->class_index);
                assert_near((double)c->logit.value, (double)c->result->logits[c->target], 1e-5);
                largest = fmax(largest, fabs(delta));
            }
        }
        cbm_context_free(ctx);
    }
    assert_true(largest > 0.3); /* or all of this would hold of nothing */
}

/* The tokenizer takes "[MASK]" in a text for the mask token. */
static void the_baseline_is_the_text_with_every_word_masked(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++) {
        cbm_context *ctx = context_for(*models[m]);
        const cbm_explanation *e;
        explain(ctx, "tasty soup kind waiter", NULL, &e);
        for (int k = 0; k < K; k++)
            assert_near((double)e->concepts[k].logit.baseline,
                        predicted_logit(*models[m], "[MASK] [MASK] [MASK] [MASK]", k, e->concepts[k].target), 1e-5);
        cbm_context_free(ctx);
    }
}

static void special_tokens_have_no_integrated_gradients(void **state) {
    (void)state;
    static const char *const text = "tasty [MASK] unheard waiter";
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    explain(ctx, text, NULL, &e);
    assert_int_equal(e->n_tokens, 6);
    assert_int_equal(e->n_words, 3);
    static const int special[] = {1, 0, 1, 0, 0, 1};
    for (int k = 0; k < K; k++) {
        const cbm_explained_token *t = e->tokens;
        const cbm_explained_logit *logit = &e->concepts[k].logit;
        for (int i = 0; i < 6; i++) {
            assert_int_equal(t[i].is_special, special[i]);
            assert_true((logit->tokens[INTEGRATED_GRADIENTS][i] == 0.0f) == special[i]);
            assert_true(logit->tokens[GRADIENT_INPUT][i] != 0.0f);
        }
        assert_string_equal(t[0].piece, "[CLS]");
        assert_string_equal(t[3].piece, "[UNK]");
        assert_int_equal(t[3].start, 13);
        assert_int_equal(t[3].end, 20);
        assert_int_equal(e->words[1].first_token, 3);
    }
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Changed model files
 * ---------------------------------------------------------------------------------------- */

/* Writes a model file again with row `row` of a tensor times `factor`. */
static void scale_row(const char *from, const char *to, const char *tensor_name, int64_t row, float factor) {
    scbm_file *file;
    scbm_writer *writer;
    float *data = NULL;
    scbm_tensor changed;
    assert_ok(scbm_file_open(&file, in_folder(from), NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        if (strcmp(tensor->name, tensor_name) == 0) {
            int64_t in = tensor->shape[1], n = scbm_tensor_elements(tensor);
            changed = *tensor;
            changed.data = data = malloc((size_t)n * sizeof *data);
            assert_non_null(data);
            memcpy(data, tensor->data, (size_t)n * sizeof *data);
            for (int64_t j = 0; j < in; j++) data[row * in + j] *= factor;
            tensor = &changed;
        }
        scbm_writer_add_tensor(writer, tensor, tensor->type);
    }
    assert_non_null(data);
    assert_ok(scbm_writer_write(writer, in_folder(to)));
    scbm_writer_free(writer);
    scbm_file_close(file);
    free(data);
}

/* d logit / d factor at 1, by central differences of two model files. */
static double derivative_by_row(const char *model_name, const char *tensor, int64_t row, double step, const char *text,
                                int k, int c) {
    double logit[2];
    for (int side = 0; side < 2; side++) {
        cbm_model *model;
        scale_row(model_name, "changed.gguf", tensor, row, (float)(side ? 1 + step : 1 - step));
        model = load(in_folder("changed.gguf"));
        logit[side] = predicted_logit(model, text, k, c);
        cbm_model_free(model);
    }
    return (logit[1] - logit[0]) / (2 * step);
}

/* Where a token occurs once, scaling its row of the embedding table scales its embedding: the derivative is gradient × input.
 * It is small, for the LayerNorm that follows takes most of a change of scale back. */
static void gradient_input_agrees_with_finite_differences(void **state) {
    (void)state;
    static const struct {
        const char *file;
        cbm_model **model;
    } cases[] = {{"sparse.gguf", &sparse}, {"dense.gguf", &dense}};
    static const char *const text = "the soup was tasty and we came with a rude waiter";
    double largest = 0.0;
    for (int m = 0; m < 2; m++) {
        cbm_context *ctx = context_for(*cases[m].model);
        const cbm_explanation *e;
        explain(ctx, text, NULL, &e);
        for (int t = 0; t < e->n_tokens; t += m ? 4 : 1) {
            int32_t id = ctx->sequences.ids[t];
            for (int k = 0; k < K; k++) {
                double found = (double)e->concepts[k].logit.tokens[GRADIENT_INPUT][t];
                double wanted = derivative_by_row(cases[m].file, "token_embd.weight", id, 0.01, text, k,
                                                  e->concepts[k].target);
                assert_near(found, wanted, 2e-4 + 1e-2 * fabs(wanted));
                largest = fmax(largest, fabs(wanted));
            }
        }
        cbm_context_free(ctx);
    }
    assert_true(largest > 0.01);
}

/* A neuron that keeps one weight for a concept has |w ∂c/∂w|, which scaling its row shows (its bias stays). */
static void saliency_agrees_with_finite_differences(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    const cbm_explain_options options = {.steps = -1, .n_neurons = 1 << 20};
    int n_checked = 0, n_empty = 0;
    double largest = 0.0;
    explain(ctx, texts[0], &options, &e);
    for (int k = 0; k < K; k++) {
        double total = 0.0;
        for (int i = 0; i < e->concepts[k].n_neurons; i++) {
            const cbm_neuron_saliency *neuron = &e->concepts[k].neurons[i];
            const char *name = e->subnetworks->matrices[neuron->matrix].name;
            const scbm_tensor *masks = cbm_backbone_named(&sparse->network.backbone, name)->masks;
            int kept = 0;
            for (int64_t j = 0; j < e->subnetworks->matrices[neuron->matrix].columns; j++)
                kept += cbm_mask_get(cbm_mask_row(masks, k, neuron->row), j);
            if (i) assert_true(neuron->saliency <= neuron[-1].saliency);
            total += (double)neuron->share;
            if (!kept) assert_true(neuron->saliency == 0.0f);
            n_empty += !kept;
            if (kept != 1 || n_checked > 5 * (k + 1)) continue;
            double wanted = fabs(
                derivative_by_row("sparse.gguf", name, neuron->row, 0.05, texts[0], k, e->concepts[k].target));
            assert_near((double)neuron->saliency, wanted, 5e-5 + 1e-2 * wanted);
            largest = fmax(largest, wanted);
            n_checked++;
        }
        assert_near(total, 1.0, 1e-4);
    }
    assert_true(n_checked > 5 && n_empty > 0 && largest > 0.001);
    cbm_context_free(ctx);
}

/* "monday" of two pieces: "mon" begins a word and "day" goes on. */
static void write_pieces(const char *from, const char *to) {
    scbm_file *file;
    scbm_writer *writer;
    const char *tokens[5 + SMALL_WORDS];
    assert_ok(scbm_file_open(&file, in_folder(from), NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    int64_t key = scbm_file_find_key(file, "tokenizer.ggml.tokens");
    for (int i = 0; i < 5 + SMALL_WORDS; i++) {
        assert_ok(scbm_file_string_at(file, key, i, &tokens[i]));
        if (strstr(tokens[i], "monday")) tokens[i] = "day";
        else if (strstr(tokens[i], "there")) tokens[i] = "\xE2\x96\x81mon";
    }
    scbm_writer_set_strings(writer, "tokenizer.ggml.tokens", tokens, 5 + SMALL_WORDS);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++)
        scbm_writer_add_tensor(writer, scbm_file_tensor(file, i), scbm_file_tensor(file, i)->type);
    assert_ok(scbm_writer_write(writer, in_folder(to)));
    scbm_writer_free(writer);
    scbm_file_close(file);
}

static void pieces_add_up_to_words(void **state) {
    (void)state;
    const cbm_explanation *e;
    write_pieces("sparse.gguf", "pieces.gguf");
    cbm_model *model = load(in_folder("pieces.gguf"));
    cbm_context *ctx = context_for(model);
    explain(ctx, "Kind on Monday", NULL, &e);
    assert_int_equal(e->n_tokens, 6);
    assert_int_equal(e->n_words, 3);
    for (int k = 0; k < K; k++) {
        const cbm_explained_word *word = &e->words[2];
        const cbm_explained_token *token = &e->tokens[3];
        const cbm_explained_logit *logit = &e->concepts[k].logit;
        assert_string_equal(token[1].piece, "##day");
        assert_int_equal(word->first_token, 3);
        assert_int_equal(word->n_tokens, 2);
        assert_int_equal(word->start, 8);
        assert_int_equal(word->end, 14);
        for (int m = 0; m < 2; m++) assert_true(logit->words[m][2] == logit->tokens[m][3] + logit->tokens[m][4]);
    }
    const char *both[] = {"kind on monday", "rude on MONDAY"};
    cbm_global_report *report;
    const cbm_global_options options = {.n_words = 8};
    assert_ok(cbm_global_report_create(&report, ctx, both, NULL, 2, &options));
    int64_t n = 0;
    for (int c = 0; c < report->n_classes; c++)
        for (int i = 0; i < report->n_words[c]; i++)
            if (strcmp(report->words[c * report->most_words + i].text, "monday") == 0)
                n += report->words[c * report->most_words + i].count;
    assert_true(n > 0); /* the words are whole, and compared without case */
    cbm_global_report_free(report);
    cbm_context_free(ctx);
    cbm_model_free(model);
}

static void quantized_weights_are_explained(void **state) {
    static const struct {
        scbm_type type;
        const char *file;
    } cases[] = {{SCBM_F16, "f16.gguf"}, {SCBM_BF16, "bf16.gguf"}, {SCBM_Q8_0, "q8.gguf"}, {SCBM_Q4_0, "q4.gguf"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const cbm_explanation *e;
        assert_ok(cbm_quantize(in_folder("sparse.gguf"), in_folder(cases[i].file), cases[i].type, NULL, NULL));
        cbm_model *model = load(in_folder(cases[i].file));
        cbm_context *ctx = context_for(model);
        explain(ctx, texts[0], NULL, &e);
        for (int k = 0; k < K; k++) {
            const cbm_concept_explanation *c = &e->concepts[k];
            double sum = 0.0, delta = (double)c->logit.value - (double)c->logit.baseline;
            for (int t = 0; t < e->n_tokens; t++) sum += (double)c->logit.tokens[INTEGRATED_GRADIENTS][t];
            assert_near(sum, delta, 0.01 * fmax(fabs(delta), 1.0));
            assert_near((double)c->logit.value, predicted_logit(model, texts[0], k, c->target), 1e-4);
            assert_true(c->n_neurons == 5 && c->neurons[0].saliency > 0);
            assert_near(c->density, 0.1, 0.001);
        }
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
}

/* ------------------------------------------------------------------------------------------
 * Subnetworks
 * ---------------------------------------------------------------------------------------- */

static int keeps(const scbm_tensor *masks, int k, int64_t row, int64_t column) {
    return cbm_mask_get(cbm_mask_row(masks, k, row), column);
}

/* Counts everything again, weight by weight. */
static void counts_of_subnetworks_agree_with_the_bits(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    const cbm_subnetworks *s;
    int64_t total = 0, kept[K] = {0}, both = 0, either = 0, by[K + 1] = {0}, own[K] = {0};
    assert_ok(cbm_describe_subnetworks(ctx, &s));
    assert_int_equal(s->n_matrices, 6 * SMALL_LAYERS);
    assert_true(s->is_sparse);
    for (int m = 0; m < s->n_matrices; m++) {
        const scbm_tensor *masks = cbm_backbone_named(&sparse->network.backbone, s->matrices[m].name)->masks;
        int64_t in_matrix[K] = {0};
        for (int64_t row = 0; row < s->matrices[m].rows; row++) {
            for (int64_t column = 0; column < s->matrices[m].columns; column++) {
                int a = keeps(masks, 0, row, column), b = keeps(masks, 1, row, column);
                in_matrix[0] += a;
                in_matrix[1] += b;
                both += a && b;
                either += a || b;
                by[a + b]++;
                own[0] += a && !b;
                own[1] += b && !a;
                total++;
            }
        }
        for (int k = 0; k < K; k++) {
            assert_int_equal(s->kept[k * s->n_matrices + m], in_matrix[k]);
            kept[k] += in_matrix[k];
        }
    }
    assert_int_equal(s->n_weights, total);
    for (int k = 0; k < K; k++) {
        assert_near(s->density[k], (double)kept[k] / (double)total, 1e-12);
        assert_near(s->own[k], (double)own[k] / (double)kept[k], 1e-12);
        assert_true(s->overlap[k * K + k] == 1.0);
        assert_near(s->density[k], cbm_model_density(sparse, k, -1), 1e-12);
    }
    for (int j = 0; j <= K; j++) assert_near(s->kept_by[j], (double)by[j] / (double)total, 1e-12);
    assert_near(s->overlap[1], (double)both / (double)either, 1e-12);
    assert_true(s->overlap[1] > 0 && s->overlap[1] < 0.5 && s->overlap[1] == s->overlap[2]);
    for (int block = 0; block < s->n_blocks; block++) {
        assert_near(s->block_overlap[(block * K + 0) * K + 1], cbm_model_overlap(sparse, 0, 1, block), 1e-12);
        assert_near(s->block_density[1 * s->n_blocks + block], cbm_model_density(sparse, 1, block), 1e-12);
        assert_near(s->block_kept_by[block * (K + 1)] + s->block_kept_by[block * (K + 1) + 1] +
                        s->block_kept_by[block * (K + 1) + 2],
                    1.0, 1e-12);
    }
    cbm_context_free(ctx);
}

static void a_dense_model_shares_everything(void **state) {
    (void)state;
    cbm_context *ctx = context_for(dense);
    const cbm_explanation *e;
    float map[4];
    explain(ctx, texts[0], NULL, &e);
    const cbm_subnetworks *s = e->subnetworks;
    assert_false(s->is_sparse);
    for (int k = 0; k < K; k++) {
        assert_true(e->concepts[k].density == 1.0 && s->density[k] == 1.0 && s->own[k] == 0.0);
        for (int j = 0; j < K; j++) assert_true(s->overlap[k * K + j] == 1.0);
        assert_int_equal(s->kept[k * s->n_matrices], (int64_t)s->matrices[0].rows * s->matrices[0].columns);
    }
    assert_true(s->kept_by[K] == 1.0 && s->kept_by[0] == 0.0);
    assert_ok(cbm_mask_map(dense, 0, CBM_ALL_CONCEPTS, 2, 2, map));
    for (int i = 0; i < 4; i++) assert_true(map[i] == 1.0f);
    cbm_context_free(ctx);
}

static void mask_maps_are_densities_of_cells(void **state) {
    (void)state;
    enum { ROWS = 5, COLUMNS = 7 };
    float map[ROWS * COLUMNS], whole[1];
    const cbm_matrix matrix = {"blk.0.attn_q.weight", 0, 32, 32};
    const scbm_tensor *masks = cbm_backbone_named(&sparse->network.backbone, matrix.name)->masks;
    for (int k = CBM_ALL_CONCEPTS; k < K; k++) {
        double sum = 0.0;
        assert_ok(cbm_mask_map(sparse, 0, k, ROWS, COLUMNS, map));
        assert_ok(cbm_mask_map(sparse, 0, k, 1, 1, whole));
        for (int r = 0; r < ROWS; r++) {
            for (int c = 0; c < COLUMNS; c++) {
                int kept = 0, n = 0;
                for (int i = r * 32 / ROWS; i < (r + 1) * 32 / ROWS; i++)
                    for (int j = c * 32 / COLUMNS; j < (c + 1) * 32 / COLUMNS; j++, n++)
                        kept += k < 0 ? keeps(masks, 0, i, j) && keeps(masks, 1, i, j) : keeps(masks, k, i, j);
                assert_near((double)map[r * COLUMNS + c], (double)kept / n, 1e-6);
                sum += kept;
            }
        }
        assert_near((double)whole[0], sum / (32 * 32), 1e-6);
    }
    assert_error(cbm_mask_map(sparse, 12, 0, 1, 1, map), SCBM_ERROR_ARGUMENT, "matrix 12");
    assert_error(cbm_mask_map(sparse, -1, 0, 1, 1, map), SCBM_ERROR_ARGUMENT, "matrix -1");
    assert_error(cbm_mask_map(sparse, 0, K, 1, 1, map), SCBM_ERROR_ARGUMENT, "concept 2");
    assert_error(cbm_mask_map(sparse, 0, 0, 33, 1, map), SCBM_ERROR_ARGUMENT, "33 x 1");
    assert_error(cbm_mask_map(sparse, 0, 0, 1, 0, map), SCBM_ERROR_ARGUMENT, "1 x 0");
}

/* ------------------------------------------------------------------------------------------
 * Determinism, options, bounds
 * ---------------------------------------------------------------------------------------- */

static void assert_same_logit(const cbm_explanation *e, const cbm_explained_logit *a, const cbm_explained_logit *b) {
    assert_memory_equal(&a->value, &b->value, sizeof a->value);
    assert_memory_equal(&a->baseline, &b->baseline, sizeof a->baseline);
    assert_int_equal(a->steps, b->steps);
    assert_int_equal(a->converged, b->converged);
    for (int m = 0; m < N_METHODS; m++) {
        assert_int_equal(a->tokens[m] != NULL, b->tokens[m] != NULL);
        if (!a->tokens[m]) continue;
        if (e->n_tokens) assert_memory_equal(a->tokens[m], b->tokens[m], (size_t)e->n_tokens * sizeof(float));
        if (e->n_words) assert_memory_equal(a->words[m], b->words[m], (size_t)e->n_words * sizeof(float));
    }
}

static void assert_same_explanation(const cbm_explanation *a, const cbm_explanation *b) {
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_labels, b->n_labels);
    assert_int_equal(a->n_concepts, b->n_concepts);
    for (int k = 0; k < a->n_concepts; k++) {
        const cbm_concept_explanation *x = &a->concepts[k], *y = &b->concepts[k];
        assert_same_logit(a, &x->logit, &y->logit);
        assert_int_equal(x->n_neurons, y->n_neurons);
        if (x->n_neurons) assert_memory_equal(x->neurons, y->neurons, (size_t)x->n_neurons * sizeof *x->neurons);
    }
    for (int i = 0; i < a->n_labels; i++) {
        assert_int_equal(a->labels[i].label, b->labels[i].label);
        assert_same_logit(a, &a->labels[i].logit, &b->labels[i].logit);
    }
}

/* … nor on what the context did before. */
static void results_do_not_depend_on_threads_or_batches(void **state) {
    (void)state;
    for (int is_sparse = 0; is_sparse < 2; is_sparse++) {
        cbm_context *ctx = context_for(is_sparse ? sparse : dense), *small, *threads;
        const cbm_context_options small_batches = {.max_batch_tokens = 64};
        const cbm_explanation *a, *b, *c;
        assert_ok(cbm_context_create(&small, is_sparse ? sparse : dense, &small_batches));
        cbm_model *model = load_with(in_folder(is_sparse ? "sparse.gguf" : "dense.gguf"), &three_threads);
        threads = context_for(model);
        explain(small, texts[5], NULL, &b);
        explain(small, texts[3], NULL, &b);
        for (int i = 0; i < N_TEXTS; i++) {
            explain(ctx, texts[i], NULL, &a);
            explain(small, texts[i], NULL, &b);
            explain(threads, texts[i], NULL, &c);
            assert_same_explanation(a, b);
            assert_same_explanation(a, c);
        }
        cbm_context_free(ctx);
        cbm_context_free(small);
        cbm_context_free(threads);
        cbm_model_free(model);
    }
}

static void steps_are_doubled_until_they_converge(void **state) {
    (void)state;
    cbm_context *ctx = context_for(dense);
    const cbm_explanation *e;
    cbm_explain_options options = {.steps = 1, .max_steps = -1, .n_neurons = -1};
    int doubled = 0;
    explain(ctx, texts[0], &options, &e);
    for (int k = 0; k < K; k++) assert_int_equal(e->concepts[k].logit.steps, 1);
    options.max_steps = 512;
    for (int i = 0; i < N_TEXTS; i++) {
        explain(ctx, texts[i], &options, &e);
        for (int k = 0; k < K; k++) {
            assert_true(e->concepts[k].logit.converged);
            doubled += e->concepts[k].logit.steps > 1;
        }
    }
    assert_true(doubled > 0);
    options.steps = -1;
    explain(ctx, texts[0], &options, &e);
    assert_true(e->concepts[0].logit.tokens[GRADIENT_INPUT][1] != 0);
    assert_null(e->concepts[0].logit.tokens[INTEGRATED_GRADIENTS]);
    assert_int_equal(e->concepts[0].logit.steps, 0);
    assert_false(e->concepts[0].logit.converged);
    assert_int_equal(e->concepts[0].n_neurons, 0);
    cbm_context_free(ctx);
}

static void zeros_are_the_defaults(void **state) {
    (void)state;
    static const int predicted[K] = {-1, -1}, methods[] = {GRADIENT_INPUT, INTEGRATED_GRADIENTS};
    const cbm_explain_options zeros = {0}, given = {.steps = 32,
                                                    .max_steps = 512,
                                                    .n_neurons = 5,
                                                    .target = predicted,
                                                    .methods = methods,
                                                    .n_methods = 2};
    const cbm_explain_options *const same[] = {&zeros, &given};
    for (int m = 0; m < N_MODELS; m++) {
        cbm_context *ctx = context_for(*models[m]), *other = context_for(*models[m]);
        const cbm_explanation *a, *b;
        for (int i = 0; i < 2; i++) {
            explain(ctx, texts[0], NULL, &a);
            explain(other, texts[0], same[i], &b);
            assert_same_explanation(a, b);
        }
        cbm_context_free(ctx);
        cbm_context_free(other);
    }
}

static void methods_are_found_by_name(void **state) {
    (void)state;
    static const char *const names[] = {"gradient_input", "integrated_gradients", "attention", "random"};
    assert_int_equal(cbm_attribution_method_count(), N_METHODS);
    for (int m = 0; m < N_METHODS; m++) {
        assert_int_equal(cbm_attribution_method_find(names[m]), m);
        assert_string_equal(cbm_attribution_method_at(m)->name, names[m]);
        assert_int_equal(cbm_attribution_method_at(m)->is_baseline, m >= ATTENTION);
        assert_int_equal(cbm_attribution_method_at(m)->adds_up, m == INTEGRATED_GRADIENTS);
    }
    assert_int_equal(cbm_attribution_method_find("lime"), -1);
    assert_null(cbm_attribution_method_at(N_METHODS));
    assert_null(cbm_attribution_method_at(-1));
}

static void another_class_can_be_explained(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    int target[K] = {2, -1};
    const cbm_explain_options options = {.n_neurons = -1, .target = target};
    explain(ctx, texts[0], &options, &e);
    assert_int_equal(e->concepts[0].target, 2);
    assert_string_equal(e->concepts[0].target_name, "unknown");
    assert_near((double)e->concepts[0].logit.value, predicted_logit(sparse, texts[0], 0, 2), 1e-5);
    assert_int_equal(e->concepts[1].target, e->concepts[1].result->class_index);
    target[1] = 2; /* staff has two classes */
    assert_error(cbm_explain(ctx, texts[0], &options, &e), SCBM_ERROR_ARGUMENT, "staff");
    target[1] = -2;
    assert_error(cbm_explain(ctx, texts[0], &options, &e), SCBM_ERROR_ARGUMENT, "staff");
    cbm_context_free(ctx);
}

static void empty_and_long_texts_are_explained(void **state) {
    (void)state;
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    explain(ctx, "", NULL, &e);
    assert_int_equal(e->n_tokens, 2);
    assert_int_equal(e->n_words, 0);
    for (int k = 0; k < K; k++) {
        assert_true(e->concepts[k].logit.converged);
        assert_true(e->concepts[k].logit.value == e->concepts[k].logit.baseline);
    }
    explain(ctx, texts[5], NULL, &e);
    assert_true(e->prediction->truncated);
    assert_int_equal(e->n_tokens, SMALL_MAX_TOKENS);
    assert_int_equal(e->n_words, SMALL_MAX_TOKENS - 2);
    cbm_context_free(ctx);
    const cbm_context_options short_texts = {.max_tokens = 2};
    assert_ok(cbm_context_create(&ctx, sparse, &short_texts));
    explain(ctx, texts[0], NULL, &e);
    assert_int_equal(e->n_tokens, 2);
    cbm_context_free(ctx);
}

static void what_cannot_be_explained_is_an_error(void **state) {
    (void)state;
    cbm_model *vanilla;
    const cbm_explanation *e;
    const cbm_subnetworks *s;
    const cbm_faithfulness *f;
    cbm_global_report *report;
    cbm_context *ctx = context_for(sparse);
    assert_error(cbm_explain(ctx, NULL, NULL, &e), SCBM_ERROR_ARGUMENT, "NULL");
    assert_error(cbm_explain(ctx, "\xff", NULL, &e), SCBM_ERROR_FORMAT, "UTF-8");
    static const int integrated[] = {INTEGRATED_GRADIENTS}, unknown[] = {N_METHODS}, many[] = {SMALL_LABELS},
                     few[] = {-3};
    const cbm_explain_options wrong[] = {{.steps = 1 << 21},
                                         {.max_steps = 1 << 21},
                                         {.methods = integrated, .n_methods = 1, .steps = -1},
                                         {.methods = unknown, .n_methods = 1},
                                         {.n_labels = 1},
                                         {.labels = many, .n_labels = 1},
                                         {.labels = few, .n_labels = 1},
                                         {.n_methods = -1},
                                         {.reserved = {0, 1}}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(cbm_explain(ctx, "tasty", &wrong[i], &e), SCBM_ERROR_ARGUMENT);
        assert_null(e);
    }
    assert_error(cbm_global_report_create(&report, ctx, texts, NULL, 0, NULL), SCBM_ERROR_ARGUMENT, "no texts");
    explain(ctx, "tasty", NULL, &e); /* the context works on */
    cbm_context_free(ctx);

    vanilla = small_model(encoder, CBM_VANILLA, 0.0, in_folder("vanilla.gguf"));
    cbm_model *const without[] = {vanilla, encoder};
    for (int i = 0; i < 2; i++) {
        ctx = context_for(without[i]);
        assert_error(cbm_describe_subnetworks(ctx, &s), SCBM_ERROR_UNSUPPORTED, "no concepts");
        assert_non_null(strstr(cbm_context_error(ctx), "no concepts"));
        assert_null(s);
        cbm_context_free(ctx);
    }
    cbm_model_free(vanilla);
    ctx = context_for(encoder);
    assert_error(cbm_measure_faithfulness(ctx, texts, NULL, N_TEXTS, NULL, &f), SCBM_ERROR_UNSUPPORTED, "no label");
    assert_error(cbm_global_report_create(&report, ctx, texts, NULL, N_TEXTS, NULL), SCBM_ERROR_UNSUPPORTED,
                 "no label");
    assert_error(cbm_explain(ctx, "tasty", NULL, &e), SCBM_ERROR_UNSUPPORTED, "no label");
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Labels, vanilla models, contributions
 * ---------------------------------------------------------------------------------------- */

/* The label's logit by a prediction. */
static double predicted_label_logit(const cbm_model *model, const char *text, int y) {
    cbm_context *ctx = context_for(model);
    const cbm_prediction *p;
    assert_ok(cbm_predict(ctx, text, &p));
    double logit = (double)p->logits[y];
    cbm_context_free(ctx);
    return logit;
}

static void check_label(const cbm_model *model, const cbm_explanation *e, const cbm_label_explanation *label,
                        const char *masked) {
    double sum = 0.0, delta = (double)label->logit.value - (double)label->logit.baseline;
    assert_string_equal(label->name, cbm_model_label(model, label->label));
    assert_near((double)label->logit.value, (double)e->prediction->logits[label->label], 1e-4);
    assert_near((double)label->logit.baseline, predicted_label_logit(model, masked, label->label), 1e-4);
    for (int t = 0; t < e->n_tokens; t++) sum += (double)label->logit.tokens[INTEGRATED_GRADIENTS][t];
    assert_true(label->logit.converged);
    assert_near(sum, delta, 0.01 * fmax(fabs(delta), 1.0));
}

static void words_attributed_to_labels_add_up_to_the_difference_of_their_logits(void **state) {
    (void)state;
    static const int labels[] = {CBM_PREDICTED, 0, 2, CBM_RUNNER_UP};
    const cbm_explain_options options = {.labels = labels, .n_labels = 4};
    double largest = 0.0;
    for (int m = 0; m < N_MODELS; m++) {
        cbm_context *ctx = context_for(*models[m]);
        const cbm_explanation *e;
        explain(ctx, "tasty soup kind waiter", &options, &e);
        assert_int_equal(e->n_labels, 4);
        assert_int_equal(e->labels[0].label, e->prediction->label_index);
        int larger = 0; /* logits than the runner-up's */
        for (int y = 0; y < SMALL_LABELS; y++)
            larger += e->prediction->logits[y] > e->prediction->logits[e->labels[3].label];
        assert_int_equal(larger, 1);
        assert_int_equal(e->labels[2].label, 2);
        for (int i = 0; i < 4; i++) {
            check_label(*models[m], e, &e->labels[i], "[MASK] [MASK] [MASK] [MASK]");
            largest = fmax(largest, fabs((double)e->labels[i].logit.value - (double)e->labels[i].logit.baseline));
        }
        cbm_context_free(ctx);
    }
    assert_true(largest > 0.3);
}

/* In joint mode the label reads the logits, so it is the sum of what its head makes of every class of every concept. */
static void a_labels_attributions_are_those_of_the_classes_through_its_head(void **state) {
    (void)state;
    static const int label[] = {1};
    const float *weight;
    cbm_context *ctx = context_for(sparse);
    double wanted[2][SMALL_MAX_TOKENS] = {{0}};
    const cbm_explanation *e;
    assert_ok(cbm_model_label_head(sparse, &weight, NULL, NULL));
    cbm_explain_options options = {.steps = 64, .max_steps = -1, .n_neurons = -1};
    for (int c = 0; c < 3; c++) {
        int target[K] = {c, c < 2 ? c : 0};
        options.target = target;
        explain(ctx, texts[0], &options, &e);
        for (int k = 0; k < K && (k == 0 || c < 2); k++)
            for (int m = 0; m < 2; m++)
                for (int t = 0; t < e->n_tokens; t++)
                    wanted[m][t] += (double)weight[1 * SMALL_CLASSES + cbm_model_first_class(sparse, k) + c] *
                                    (double)e->concepts[k].logit.tokens[m][t];
    }
    options.target = NULL;
    options.labels = label;
    options.n_labels = 1;
    explain(ctx, texts[0], &options, &e);
    for (int m = 0; m < 2; m++)
        for (int t = 0; t < e->n_tokens; t++) assert_near((double)e->labels[0].logit.tokens[m][t], wanted[m][t], 2e-5);
    cbm_context_free(ctx);
}

static void a_vanilla_model_explains_its_label(void **state) {
    (void)state;
    cbm_model *vanilla = small_model(encoder, CBM_VANILLA, 0.0, in_folder("words.gguf"));
    cbm_context *ctx = context_for(vanilla);
    const cbm_explanation *e;
    static const int labels[] = {0, 1};
    const cbm_explain_options options = {.labels = labels, .n_labels = 2};
    explain(ctx, "tasty soup kind waiter", NULL, &e);
    assert_true(e->n_concepts == 0 && e->concepts == NULL && e->subnetworks == NULL && e->n_labels == 1);
    assert_int_equal(e->labels[0].label, e->prediction->label_index);
    check_label(vanilla, e, &e->labels[0], "[MASK] [MASK] [MASK] [MASK]");
    explain(ctx, "tasty soup kind waiter", &options, &e);
    assert_int_equal(e->n_labels, 2);
    for (int i = 0; i < 2; i++) check_label(vanilla, e, &e->labels[i], "[MASK] [MASK] [MASK] [MASK]");
    explain(ctx, "", NULL, &e);
    assert_int_equal(e->n_words, 0);
    cbm_context_free(ctx);
    cbm_model_free(vanilla);
}

static void contributions_to_every_label_add_up_in_both_forms(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++) {
        const cbm_model *model = *models[m];
        cbm_context *ctx = context_for(model);
        const float *weight, *bias, *mean;
        assert_ok(cbm_model_label_head(model, &weight, &bias, &mean));
        for (int i = 0; i < N_TEXTS; i++) {
            const cbm_prediction *p;
            const cbm_contributions *c;
            assert_ok(cbm_predict(ctx, texts[i], &p));
            assert_ok(cbm_contributions_of(ctx, p, &c));
            assert_true(c->n_concepts == K && c->n_labels == SMALL_LABELS);
            for (int y = 0; y < SMALL_LABELS; y++) {
                double raw = c->raw_bias[y], centred = c->centred_bias[y];
                for (int k = 0; k < K; k++) {
                    raw += c->raw[k * SMALL_LABELS + y];
                    centred += c->centred[k * SMALL_LABELS + y];
                }
                assert_near(raw, c->logits[y], 1e-12 * fmax(1.0, fabs(c->logits[y])));
                assert_near(centred, c->logits[y], 1e-12 * fmax(1.0, fabs(c->logits[y])));
                assert_true((float)c->logits[y] == p->logits[y]);
                assert_true(c->raw_bias[y] == (double)bias[y]);
            }
            for (int k = 0; k < K; k++) {
                int first = cbm_model_first_class(model, k), y = p->label_index;
                double product = 0.0;
                for (int j = 0; j < p->concepts[k].n_classes; j++)
                    product += (double)weight[y * SMALL_CLASSES + first + j] *
                               ((double)p->concepts[k].values[j] - (double)mean[first + j]);
                assert_near(c->centred[k * SMALL_LABELS + y], product, 1e-12);
                assert_true((float)c->centred[k * SMALL_LABELS + y] == p->concepts[k].contribution);
            }
            assert_true((float)c->centred_bias[p->label_index] == p->bias);
        }
        cbm_context_free(ctx);
    }
}

/* ------------------------------------------------------------------------------------------
 * Several texts
 * ---------------------------------------------------------------------------------------- */

typedef struct batch {
    cbm_context *alone; /* explains each text by itself */
    const cbm_explain_options *options;
    const char *const *text;
    size_t n, fails_at;
} batch;

static scbm_status compare_with_alone(void *user, size_t i, const cbm_explanation *explanation) {
    batch *b = user;
    const cbm_explanation *alone;
    assert_int_equal(i, b->n);
    if (b->n++ == b->fails_at) return scbm_fail(SCBM_ERROR_IO, "no more room");
    explain(b->alone, b->text[i], b->options, &alone);
    assert_same_explanation(alone, explanation);
    assert_string_equal(alone->prediction->label, explanation->prediction->label);
    assert_memory_equal(alone->prediction->logits, explanation->prediction->logits, SMALL_LABELS * sizeof(float));
    return SCBM_OK;
}

static void a_batch_has_the_bits_of_its_texts_alone(void **state) {
    (void)state;
    enum { N = 90 };
    static const int labels[] = {-1}, methods[] = {GRADIENT_INPUT, INTEGRATED_GRADIENTS, ATTENTION};
    const cbm_explain_options options = {
        .steps = 4, .n_neurons = 2, .labels = labels, .n_labels = 1, .methods = methods, .n_methods = 3};
    const char *many[N];
    for (int i = 0; i < N; i++) many[i] = i % 7 == 5 ? "" : texts[i % N_TEXTS];
    for (int m = 0; m < N_MODELS; m += 2) {
        cbm_context *ctx = context_for(*models[m]);
        batch b = {context_for(*models[m]), &options, many, 0, N};
        assert_ok(cbm_explain_batch(ctx, many, NULL, N, &options, compare_with_alone, &b));
        assert_int_equal(b.n, N);
        cbm_context_free(ctx);
        cbm_context_free(b.alone);
    }
}

static void a_batch_ends_where_its_function_or_a_text_fails(void **state) {
    (void)state;
    const char *bad[] = {"tasty", "rude", "\xff", "kind"};
    const cbm_explain_options options = {.steps = -1, .n_neurons = -1};
    cbm_context *ctx = context_for(sparse);
    batch b = {context_for(sparse), &options, texts, 0, 2};
    assert_error(cbm_explain_batch(ctx, texts, NULL, N_TEXTS, &options, compare_with_alone, &b), SCBM_ERROR_IO, "room");
    assert_int_equal(b.n, 3);
    b.n = 0;
    b.fails_at = N_TEXTS;
    assert_error(cbm_explain_batch(ctx, bad, NULL, 4, &options, compare_with_alone, &b), SCBM_ERROR_FORMAT,
                 "text 3 of 4");
    assert_int_equal(cbm_context_error_text(ctx), 2);
    bad[2] = NULL;
    assert_error(cbm_explain_batch(ctx, bad, NULL, 4, &options, compare_with_alone, &b), SCBM_ERROR_ARGUMENT, "NULL");
    assert_error(cbm_explain_batch(ctx, texts, NULL, 4, &options, NULL, NULL), SCBM_ERROR_ARGUMENT, "function is NULL");
    assert_error(cbm_explain_batch(ctx, NULL, NULL, 4, &options, compare_with_alone, &b), SCBM_ERROR_ARGUMENT,
                 "texts are");
    assert_ok(cbm_explain_batch(ctx, NULL, NULL, 0, NULL, NULL, NULL));
    b.n = 0;
    assert_ok(cbm_explain_batch(ctx, texts, NULL, N_TEXTS, &options, compare_with_alone, &b));
    assert_int_equal(b.n, N_TEXTS);
    cbm_context_free(ctx);
    cbm_context_free(b.alone);
}

static scbm_status pass_over(void *user, size_t i, const cbm_explanation *explanation) {
    (void)user, (void)i, (void)explanation;
    return SCBM_OK;
}

/* One text of many must not pass for the one that was explained last. */
static void only_a_single_explanation_leaves_a_text_to_intervene_on(void **state) {
    (void)state;
    const cbm_explain_options short_options = {.steps = 1, .max_steps = -1, .n_neurons = -1};
    const cbm_global_options options = {.explain = short_options};
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    const cbm_faithfulness *f;
    cbm_global_report *report;
    for (int call = 0; call < 4; call++) {
        explain(ctx, texts[0], &short_options, &e);
        assert_int_equal(ctx->n_computed, 1);
        if (call == 0) assert_ok(cbm_measure_faithfulness(ctx, texts, NULL, N_TEXTS, &short_options, &f));
        if (call == 1) assert_ok(cbm_global_report_create(&report, ctx, texts, NULL, N_TEXTS, &options));
        if (call == 1) cbm_global_report_free(report);
        if (call == 2) assert_ok(cbm_explain_batch(ctx, texts, NULL, 1, &short_options, pass_over, NULL));
        if (call == 3) assert_int_equal(cbm_explain(ctx, "\xff", &short_options, &e), SCBM_ERROR_FORMAT);
        assert_int_equal(ctx->n_computed, 0);
    }
    cbm_context_free(ctx);
}

/* ------------------------------------------------------------------------------------------
 * Faithfulness and whole data sets
 * ---------------------------------------------------------------------------------------- */

static void attention_that_tokens_receive_adds_up_to_one(void **state) {
    (void)state;
    static const int methods[] = {ATTENTION}, labels[] = {-1};
    const cbm_explain_options options = {.methods = methods, .n_methods = 1, .labels = labels, .n_labels = 1};
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    explain(ctx, texts[0], &options, &e);
    for (int k = 0; k <= K; k++) {
        const cbm_explained_logit *logit = k < K ? &e->concepts[k].logit : &e->labels[0].logit;
        double sum = 0.0;
        assert_null(logit->tokens[GRADIENT_INPUT]);
        for (int t = 0; t < e->n_tokens; t++) sum += (double)logit->tokens[ATTENTION][t];
        assert_near(sum, 1.0, 1e-5);
    }
    assert_true(e->concepts[0].logit.tokens[ATTENTION][0] != e->concepts[1].logit.tokens[ATTENTION][0]); /* its own */
    cbm_context_free(ctx);
}

/* The text without the words that are taken, or with them alone. */
static void join_words(char *text, const char *const *words, int n, const int *is_taken, int taken) {
    text[0] = 0;
    for (int i = 0; i < n; i++)
        if (is_taken[i] == taken) small_append(text, 256, words[i]);
}

enum { N_ABLATED = 6 };
static const char *const ablated_words[N_ABLATED] = {"tasty", "soup", "and", "rude", "waiter", "monday"};
static const char ablated_text[] = "tasty soup and rude waiter monday";

/* The probability of a class that concept k (−1: the label) reads in another text. */
static double probability_of(const cbm_model *model, const char *text, int k, int class_index) {
    cbm_context *ctx = context_for(model);
    const cbm_prediction *p;
    assert_ok(cbm_predict(ctx, text, &p));
    double probability = (double)(k < 0 ? p->probabilities : p->concepts[k].probabilities)[class_index];
    cbm_context_free(ctx);
    return probability;
}

/* Half of the words with the largest attributions are taken away, or kept alone: the drops of the probability. */
static void ablate_by_hand(const cbm_model *model, const cbm_explained_logit *logit, int k, int class_index,
                           double drop[2]) {
    int is_taken[N_ABLATED] = {0};
    const float *value = logit->words[INTEGRATED_GRADIENTS];
    const double p = probability_of(model, ablated_text, k, class_index);
    for (int taken = 0; taken < N_ABLATED / 2; taken++) {
        int best = -1;
        for (int i = 0; i < N_ABLATED; i++)
            if (!is_taken[i] && (best < 0 || value[i] > value[best])) best = i;
        is_taken[best] = 1;
    }
    for (int alone = 0; alone < 2; alone++) {
        char text[256];
        join_words(text, ablated_words, N_ABLATED, is_taken, alone);
        drop[alone] = p - probability_of(model, text, k, class_index);
    }
}

/* In a small model every word is a token: half of the tokens are taken away by taking words away. */
static void faithfulness_is_that_of_texts_without_words(void **state) {
    (void)state;
    double comprehensiveness = 0.0, sufficiency = 0.0;
    cbm_context *ctx = context_for(sparse);
    const cbm_explanation *e;
    const cbm_faithfulness *f;
    explain(ctx, ablated_text, NULL, &e);
    for (int k = 0; k < K; k++) {
        double drop[2];
        ablate_by_hand(sparse, &e->concepts[k].logit, k, e->concepts[k].result->class_index, drop);
        comprehensiveness += drop[0] / K;
        sufficiency += drop[1] / K;
    }
    const char *const only[] = {ablated_text, ""};
    assert_ok(cbm_measure_faithfulness(ctx, only, NULL, 2, NULL, &f));
    assert_int_equal(f->n, 1); /* the empty text has nothing to take away */
    assert_true(f->n_shares == 5 && f->share[4] == 0.5);
    assert_int_equal(f->n_methods, N_METHODS);
    double first[N_METHODS][5];
    for (int m = 0; m < N_METHODS; m++) { /* 1, 5 and 10 % are one token each, 20 % too */
        assert_string_equal(f->methods[m].name, cbm_attribution_method_at(m)->name);
        assert_true(f->methods[m].comprehensiveness[0] == f->methods[m].comprehensiveness[3]);
        assert_true(f->methods[m].comprehensiveness[4] != f->methods[m].comprehensiveness[0]);
        memcpy(first[m], f->methods[m].comprehensiveness, sizeof first[m]);
    }
    assert_near(f->methods[INTEGRATED_GRADIENTS].comprehensiveness[4], comprehensiveness, 1e-6);
    assert_near(f->methods[INTEGRATED_GRADIENTS].sufficiency[4], sufficiency, 1e-6);
    assert_true(fabs(comprehensiveness) > 1e-3);
    assert_ok(cbm_measure_faithfulness(ctx, only, NULL, 2, NULL, &f));
    for (int m = 0; m < N_METHODS; m++) assert_memory_equal(f->methods[m].comprehensiveness, first[m], sizeof first[m]);
    const cbm_explain_options no_steps = {.steps = -1};
    assert_ok(cbm_measure_faithfulness(ctx, only, NULL, 2, &no_steps, &f));
    assert_int_equal(f->n_methods, N_METHODS - 1);
    cbm_context_free(ctx);
}

static void faithfulness_of_a_vanilla_model_is_about_its_label(void **state) {
    (void)state;
    cbm_model *vanilla = small_model(encoder, CBM_VANILLA, 0.0, in_folder("ablated.gguf"));
    cbm_context *ctx = context_for(vanilla);
    const char *const only[] = {ablated_text};
    const cbm_explanation *e;
    const cbm_faithfulness *f;
    double drop[2];
    explain(ctx, ablated_text, NULL, &e);
    ablate_by_hand(vanilla, &e->labels[0].logit, -1, e->prediction->label_index, drop);
    assert_ok(cbm_measure_faithfulness(ctx, only, NULL, 1, NULL, &f));
    assert_true(f->n == 1 && f->n_methods == N_METHODS && f->share[4] == 0.5);
    assert_near(f->methods[INTEGRATED_GRADIENTS].comprehensiveness[4], drop[0], 1e-6);
    assert_near(f->methods[INTEGRATED_GRADIENTS].sufficiency[4], drop[1], 1e-6);
    assert_true(fabs(drop[0]) > 1e-3);
    cbm_context_free(ctx);
    cbm_model_free(vanilla);
}

static void a_global_report_counts_what_predictions_say(void **state) {
    (void)state;
    enum { N = 40, Y = SMALL_LABELS, C = SMALL_CLASSES };
    cbm_dataset data;
    cbm_context *ctx = context_for(sparse);
    cbm_global_report *report;
    cbm_prediction p[N];
    double sum[K][Y] = {{0}}, absolute[K] = {0};
    int64_t labels[Y] = {0}, classes[C] = {0}, words = 0, wanted_words = 0;
    assert_ok(small_data(&data, 3000, N));
    assert_ok(predict_values(ctx, (const char *const *)data.text, data.text_length, N, p));
    for (int i = 0; i < N; i++) {
        labels[p[i].label_index]++;
        for (int k = 0; k < K; k++) {
            sum[k][p[i].label_index] += (double)p[i].concepts[k].contribution;
            absolute[k] += fabs((double)p[i].concepts[k].contribution) / N;
            classes[3 * k + p[i].concepts[k].class_index]++;
        }
        const char *kind = strstr(data.text[i], "kind");
        wanted_words += kind != NULL && i % 2 == 0;
    }
    const cbm_global_options options = {.sample = N / 2, .n_words = 32, .faithfulness = 1};
    assert_ok(cbm_global_report_create(&report, ctx, (const char *const *)data.text, data.text_length, N, &options));
    assert_int_equal(report->n_texts, N);
    assert_int_equal(report->n_explained, N / 2);
    for (int y = 0; y < Y; y++) {
        assert_int_equal(report->label_count[y], labels[y]);
        for (int k = 0; k < K && labels[y]; k++)
            assert_near(report->contribution[k * Y + y], sum[k][y] / (double)labels[y], 1e-9);
    }
    for (int c = 0; c < C; c++) assert_int_equal(report->class_count[c], classes[c]);
    for (int k = 0; k < K; k++) assert_near(report->importance[k], absolute[k], 1e-9);
    for (int c = 3; c < C; c++) { /* of staff */
        for (int i = 0; i < report->n_words[c]; i++) {
            const cbm_word_influence *word = &report->words[c * report->most_words + i];
            if (strcmp(word->text, "kind") == 0) words += word->count;
            assert_near(word->score, word->mean * (double)word->count / (double)(word->count + 2), 1e-9);
            assert_true(word->score > 0 && (i == 0 || word->score <= word[-1].score));
        }
    }
    assert_true(words > 0 && words <= wanted_words); /* a negative mean is not among the influential words */
    assert_non_null(report->faithfulness);
    assert_int_equal(report->faithfulness->n, N / 2);
    cbm_global_report_free(report);
    cbm_dataset_clear(&data);
    cbm_context_free(ctx);
}

/* A word's attributions to the predicted label, added up over texts that are explained one by one. */
typedef struct label_word {
    const char *text;
    double sum[SMALL_LABELS];
    int64_t count[SMALL_LABELS], texts[SMALL_LABELS];
} label_word;

static scbm_status add_label_word(void *user, size_t i, const cbm_explanation *e) {
    label_word *w = user;
    const int y = e->labels[0].label;
    (void)i;
    w->texts[y]++;
    for (int j = 0; j < e->n_words; j++) {
        const cbm_explained_token *token = &e->tokens[e->words[j].first_token];
        if (strcmp(token->piece, w->text) != 0) continue;
        w->count[y]++;
        w->sum[y] += (double)e->labels[0].logit.words[INTEGRATED_GRADIENTS][j];
    }
    return SCBM_OK;
}

static void check_label_word(const cbm_global_report *r, const label_word *w, int *n_found) {
    for (int y = 0; y < SMALL_LABELS; y++) {
        const cbm_word_influence *list = r->label_words + y * r->most_words;
        assert_int_equal(r->label_count[y], w->texts[y]);
        for (int i = 0; i < r->n_label_words[y]; i++) {
            assert_true(list[i].score > 0 && (i == 0 || list[i].score <= list[i - 1].score));
            if (strcmp(list[i].text, w->text) != 0) continue;
            assert_int_equal(list[i].count, w->count[y]);
            assert_near(list[i].mean, w->sum[y] / (double)w->count[y], 1e-9);
            ++*n_found;
        }
    }
}

/* Of a vanilla model they are all there is; of others they come when asked for, and change nothing else. */
static void a_global_report_lists_the_words_of_labels(void **state) {
    (void)state;
    enum { N = 24 };
    static const int predicted[] = {CBM_PREDICTED};
    const cbm_explain_options one_by_one = {.labels = predicted, .n_labels = 1, .n_neurons = -1};
    cbm_model *vanilla = small_model(encoder, CBM_VANILLA, 0.0, in_folder("global.gguf"));
    const cbm_model *const both[] = {vanilla, sparse};
    cbm_dataset data;
    assert_ok(small_data(&data, 4000, N));
    const char *const *text = (const char *const *)data.text;
    for (int m = 0; m < 2; m++) {
        cbm_context *ctx = context_for(both[m]);
        const cbm_global_options options = {.sample = -1, .n_words = 64, .labels = m, .faithfulness = 1},
                                 plain = {.sample = -1, .n_words = 64};
        cbm_global_report *report, *without;
        assert_ok(cbm_global_report_create(&report, ctx, text, data.text_length, N, &options));
        assert_ok(cbm_global_report_create(&without, ctx, text, data.text_length, N, &plain));
        assert_true((without->label_words == NULL) == m && report->faithfulness->n == N);
        assert_true((report->subnetworks == NULL) == !m && report->n_concepts == (m ? K : 0));
        for (int c = 0; c < report->n_classes; c++) assert_int_equal(report->n_words[c], without->n_words[c]);
        int n_found = 0;
        static const char *const words[] = {"tasty", "rude", "kind", "soup"};
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            label_word word = {.text = words[i]};
            assert_ok(cbm_explain_batch(ctx, text, data.text_length, N, &one_by_one, add_label_word, &word));
            check_label_word(report, &word, &n_found);
        }
        assert_true(n_found > 0);
        cbm_global_report_free(report);
        cbm_global_report_free(without);
        cbm_context_free(ctx);
    }
    cbm_dataset_clear(&data);
    cbm_model_free(vanilla);
}

/* ------------------------------------------------------------------------------------------
 * Memory, cancelling
 * ---------------------------------------------------------------------------------------- */

static scbm_status explain_everything(const scbm_hooks *hooks) {
    cbm_model *model = NULL;
    cbm_context *ctx = NULL;
    const cbm_explanation *e;
    cbm_global_report *report = NULL;
    static const int labels[] = {-1, 0};
    const cbm_global_options options = {.explain = {.steps = 2, .max_steps = 2}, .faithfulness = 1};
    const cbm_explain_options explain_options = {
        .steps = 2, .max_steps = 2, .n_neurons = 3, .labels = labels, .n_labels = 2};
    const cbm_load_options load_options = {.hooks = hooks, .unpacked = 1}; /* packing does without memory */
    scbm_status status = cbm_model_load(&model, in_folder("sparse.gguf"), &load_options);
    if (!status) status = cbm_context_create(&ctx, model, NULL);
    if (!status) status = cbm_explain(ctx, texts[0], &explain_options, &e);
    if (!status) status = cbm_global_report_create(&report, ctx, texts, NULL, 2, &options);
    cbm_global_report_free(report);
    cbm_context_free(ctx);
    cbm_model_free(model);
    return status;
}

static void running_out_of_memory_is_an_error_without_leaks(void **state) {
    (void)state;
    counting_allocator allocator = {0};
    const scbm_hooks hooks = allocator_hooks(&allocator);
    assert_ok(explain_everything(&hooks));
    assert_int_equal(allocator.held, 0);
    long n = allocator.n;
    for (long fails_at = 1; fails_at <= n; fails_at += 1 + n / 150) {
        allocator = (counting_allocator){.fails_at = fails_at};
        assert_int_equal(explain_everything(&hooks), SCBM_ERROR_MEMORY);
        assert_int_equal(allocator.held, 0);
    }
}

/* The same context, after a failure, gives the same result as if there had been none. */
static void a_context_works_on_after_a_failure(void **state) {
    (void)state;
    counting_allocator allocator = {0};
    const scbm_hooks hooks = allocator_hooks(&allocator);
    const cbm_explain_options options = {.steps = 4, .max_steps = 4, .n_neurons = 3};
    const cbm_explanation *wanted, *e;
    cbm_context *reference = context_for(sparse);
    explain(reference, texts[0], &options, &wanted);
    cbm_model *model = load_with(in_folder("sparse.gguf"), &hooks);
    for (long fails_at = 1, failed = 1; failed; fails_at += 7) {
        cbm_context *ctx = context_for(model);
        allocator.n = 0;
        allocator.fails_at = fails_at;
        failed = cbm_explain(ctx, texts[0], &options, &e) == SCBM_ERROR_MEMORY;
        assert_true(failed || fails_at > 20);
        allocator.fails_at = 0;
        explain(ctx, texts[0], &options, &e);
        assert_same_explanation(wanted, e);
        cbm_context_free(ctx);
    }
    cbm_model_free(model);
    cbm_context_free(reference);
}

/* Cancels at the n-th call of a hook, which count from 1; what the progress hook is told must make sense. */
typedef struct canceller {
    counting_allocator memory; /* the first: what the allocator's hooks take `user` for */
    int64_t calls, at, last_done;
} canceller;

static void start_calls(canceller *c, int64_t at) {
    c->calls = c->last_done = 0;
    c->at = at;
}

static int cancel_at(void *user, const char *what, int64_t done, int64_t total) {
    canceller *c = user;
    assert_true(done >= c->last_done && done <= total);
    if (strcmp(what, "explain") == 0) c->last_done = done;
    return ++c->calls == c->at;
}

static int cancel_at_question(void *user) {
    canceller *c = user;
    return ++c->calls == c->at;
}

static scbm_status explain_cancellably(cbm_context *ctx, int call) {
    static const int labels[] = {-1, 0};
    const cbm_explain_options options = {.steps = 8, .max_steps = 8, .labels = labels, .n_labels = 2};
    const cbm_global_options global = {.explain = {.steps = 8, .max_steps = 8}, .faithfulness = 1};
    const cbm_explanation *e;
    const cbm_faithfulness *f;
    cbm_global_report *report;
    scbm_status status;
    switch (call) {
    case 0: return cbm_explain(ctx, texts[0], &options, &e);
    case 1: return cbm_explain_batch(ctx, texts, NULL, N_TEXTS, &options, pass_over, NULL);
    case 2: return cbm_measure_faithfulness(ctx, texts, NULL, N_TEXTS, &options, &f);
    default:
        status = cbm_global_report_create(&report, ctx, texts, NULL, N_TEXTS, &global);
        if (status) assert_null(report);
        cbm_global_report_free(report);
        return status;
    }
}

/* Whenever a call is cancelled, nothing leaks, and the context gives what it would have given. */
static void check_cancelling(scbm_hooks hooks, canceller *c, int64_t step_share) {
    const cbm_explain_options options = {.steps = 8, .max_steps = 8};
    const cbm_explanation *wanted, *e;
    cbm_context *reference = context_for(sparse);
    explain(reference, texts[0], &options, &wanted);
    hooks.n_workers = 1;
    for (int call = 0; call < 4; call++) {
        const cbm_context_options context_options = {.hooks = &hooks};
        cbm_context *ctx;
        assert_ok(cbm_context_create(&ctx, sparse, &context_options));
        start_calls(c, 0);
        assert_ok(explain_cancellably(ctx, call)); /* the first one asks more often: it makes the graphs */
        start_calls(c, 0);
        assert_ok(explain_cancellably(ctx, call));
        const int64_t n = c->calls;
        assert_true(n >= 3);
        for (int64_t at = 1; at <= n; at += 1 + at / step_share) {
            start_calls(c, at);
            assert_int_equal(explain_cancellably(ctx, call), SCBM_ERROR_CANCELLED);
            assert_int_equal(c->calls, at);
        }
        start_calls(c, 0);
        explain(ctx, texts[0], &options, &e);
        assert_same_explanation(wanted, e);
        cbm_context_free(ctx);
        assert_int_equal(c->memory.held, 0);
    }
    cbm_context_free(reference);
}

/* The first call of a context makes its graphs: cancelled while it does, or later, it leaves a context that gives what it
 * would have given. A context of its own for each moment. */
static void check_cancelling_the_first(scbm_hooks hooks, canceller *c, int64_t step_share) {
    const cbm_explain_options options = {.steps = 8, .max_steps = 8};
    const cbm_context_options context_options = {.hooks = &hooks};
    const cbm_explanation *wanted, *e;
    cbm_context *reference = context_for(sparse);
    explain(reference, texts[0], &options, &wanted);
    hooks.n_workers = 1;
    for (int call = 0; call < 4; call++) {
        int64_t n = 0;
        for (int64_t at = 0; at <= n;
             at += 1 + at / step_share) { /* at 0 it goes through, and its questions are counted */
            cbm_context *ctx;
            assert_ok(cbm_context_create(&ctx, sparse, &context_options));
            start_calls(c, at);
            assert_int_equal(explain_cancellably(ctx, call), at ? SCBM_ERROR_CANCELLED : SCBM_OK);
            if (at) assert_int_equal(c->calls, at);
            else n = c->calls;
            start_calls(c, 0);
            explain(ctx, texts[0], &options, &e);
            assert_same_explanation(wanted, e);
            cbm_context_free(ctx);
            assert_int_equal(c->memory.held, 0);
        }
    }
    cbm_context_free(reference);
}

static void every_call_of_the_progress_hook_can_cancel(void **state) {
    (void)state;
    canceller c = {.memory = {.n = 0}};
    scbm_hooks hooks = allocator_hooks(&c.memory);
    hooks.progress = cancel_at;
    check_cancelling(hooks, &c, INT64_MAX);
}

/* Between the nodes of a run, too. */
static void every_question_of_the_cancel_hook_can_cancel(void **state) {
    (void)state;
    canceller c = {.memory = {.n = 0}};
    scbm_hooks hooks = allocator_hooks(&c.memory);
    hooks.cancel = cancel_at_question;
    check_cancelling(hooks, &c, 16);
}

static void the_first_call_of_a_context_can_be_cancelled(void **state) {
    (void)state;
    canceller c = {.memory = {.n = 0}};
    scbm_hooks hooks = allocator_hooks(&c.memory);
    hooks.cancel = cancel_at_question;
    check_cancelling_the_first(hooks, &c, 8);
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

/* What the program (the environment's MAIN, or models/main) prints of a model in the folder, or of none; it must end with
 * `status`. */
static char *run(const char *model, const char *arguments, int status) {
    static char output[1 << 20];
    char line[1024];
    const char *program = getenv("MAIN");
    snprintf(line, sizeof line, "\"%s\" explain %s %s %s --threads 1 2>&1 </dev/null",
             program ? program : "models/main", model ? "--model" : "", model ? in_folder(model) : "", arguments);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = 0;
    assert_int_equal(pclose(pipe), status << 8);
    return output;
}

static const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!found) fail_msg("there is no key %s", key);
    return found;
}

static void assert_keys(const cJSON *object, const char *keys) {
    char found[256] = "";
    for (const cJSON *item = object->child; item; item = item->next) small_append(found, sizeof found, item->string);
    assert_string_equal(found, keys);
}

static void json_has_the_promised_keys(void **state) {
    (void)state;
    char *line = run("sparse.gguf", "--json \"tasty soup\" \"rude\"", 0);
    assert_int_equal(line[strlen(line) - 1], '\n');
    char *second = strchr(line, '\n') + 1;
    assert_ptr_not_equal(strchr(second, '\n'), NULL);
    second[-1] = 0;
    cJSON *object = cJSON_Parse(line);
    assert_non_null(object);
    assert_keys(object, "label probability logits labels bias truncated concepts overlaps");
    const cJSON *concept = member(object, "concepts")->child, *token = member(concept, "tokens")->child;
    assert_keys(
        concept,
        "name class probability logits classes contribution density tokens baseline_logit target_logit steps converged difference");
    assert_keys(token, "text start end gradient_input integrated_gradients");
    assert_string_equal(member(token, "text")->valuestring, "[CLS]");
    assert_string_equal(member(token->next, "text")->valuestring, "tasty");
    assert_int_equal(member(token->next->next, "start")->valueint, 6);
    assert_int_equal(cJSON_GetArraySize(member(concept, "tokens")), 4);
    assert_int_equal(cJSON_GetArraySize(member(object, "overlaps")), 1);
    assert_keys(member(object, "overlaps")->child, "a b iou");
    double sum = 0.0;
    for (; token; token = token->next) sum += member(token, "integrated_gradients")->valuedouble;
    assert_near(sum, member(concept, "target_logit")->valuedouble - member(concept, "baseline_logit")->valuedouble,
                0.011);
    cJSON_Delete(object);

    object = cJSON_Parse(run("sparse.gguf", "--global --faithfulness --json \"tasty soup\" rude kind", 0));
    assert_non_null(object);
    assert_keys(object, "texts texts_explained labels concepts overlaps kept_by faithfulness");
    assert_int_equal(member(object, "texts")->valueint, 3);
    assert_keys(member(object, "labels")->child, "name texts contributions");
    assert_keys(member(object, "concepts")->child, "name density own mean_absolute_contribution classes");
    assert_keys(member(object, "faithfulness"), "texts shares gradient_input integrated_gradients attention random");
    cJSON_Delete(object);
}

static void labels_are_explained_where_they_are_asked_for(void **state) {
    (void)state;
    cJSON *object = cJSON_Parse(run("sparse.gguf", "--json --labels \"tasty soup\"", 0));
    assert_non_null(object);
    int n = 0, explained = 0;
    const cJSON *concepts = member(object, "concepts");
    for (const cJSON *label = member(object, "labels")->child; label; label = label->next, n++) {
        double sum = member(label, "bias")->valuedouble, logit = member(label, "logit")->valuedouble;
        for (const cJSON *c = member(label, "contributions")->child; c; c = c->next)
            sum += member(c, "contribution")->valuedouble;
        assert_near(sum, logit, 1e-5);
        assert_near(logit, cJSON_GetArrayItem(member(object, "logits"), n)->valuedouble, 1e-6);
        if (!cJSON_GetObjectItem(label, "tokens")) continue;
        explained++;
        assert_keys(
            label,
            "name probability logit bias contributions tokens baseline_logit target_logit steps converged difference");
        assert_keys(member(label, "tokens")->child, "text start end gradient_input integrated_gradients");
    }
    assert_int_equal(n, SMALL_LABELS);
    assert_int_equal(explained, 2); /* the predicted label, and the runner-up */
    n = 0;
    for (const cJSON *c = member(concepts->child, "classes")->child; c; c = c->next, n++)
        assert_near(member(c, "logit")->valuedouble,
                    cJSON_GetArrayItem(member(concepts->child, "logits"), n)->valuedouble, 1e-6);
    assert_int_equal(n, 3);
    cJSON_Delete(object);
    char *output = run("sparse.gguf", "--labels \"tasty soup\" rude", 0);
    static const char *const wanted[] = {"  why ", " and not ", "\n    bias ", "\n  label ", "with every word masked"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (!strstr(output, wanted[i])) fail_msg("'%s' is not in:\n%s", wanted[i], output);
}

static void a_folder_has_a_page_for_each_text_and_an_index(void **state) {
    (void)state;
    char options[600];
    size_t size;
    snprintf(options, sizeof options, "--steps 2 --pages %s \"tasty <soup>\" rude", in_folder("pages"));
    run("sparse.gguf", options, 0);
    char *index = read_file(in_folder("pages/index.html"), &size);
    static const char *const wanted[] = {"<a href=\"1.html\">tasty &lt;soup&gt;</a>", "<a href=\"2.html\">rude</a>",
                                         "2 texts", "</html>"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (!strstr(index, wanted[i])) fail_msg("'%s' is not in:\n%s", wanted[i], strstr(index, "<body>"));
    free(index);
    for (int i = 1; i <= 2; i++) {
        char *page = read_file(in_folder(i == 1 ? "pages/1.html" : "pages/2.html"), &size);
        assert_non_null(strstr(page, i == 1 ? "tasty" : "rude"));
        free(page);
        unlink(in_folder(i == 1 ? "pages/1.html" : "pages/2.html"));
    }
    unlink(in_folder("pages/index.html"));
    assert_int_equal(rmdir(in_folder("pages")), 0);
}

static void the_command_explains_vanilla_models(void **state) {
    (void)state;
    cbm_model_free(small_model(encoder, CBM_VANILLA, 0.0, in_folder("plain.gguf")));
    char *output = run("plain.gguf", "\"tasty soup\"", 0);
    assert_non_null(strstr(output, "\n  label "));
    assert_null(strstr(output, "subnetworks"));
    cJSON *object = cJSON_Parse(run("plain.gguf", "--json \"tasty soup\"", 0));
    assert_non_null(object);
    assert_keys(object, "label probability logits labels bias truncated concepts");
    int explained = 0;
    for (const cJSON *label = member(object, "labels")->child; label; label = label->next)
        explained += cJSON_GetObjectItem(label, "tokens") != NULL;
    assert_int_equal(explained, 1);
    cJSON_Delete(object);
    output = run("plain.gguf", "--global \"tasty soup\" rude kind --faithfulness", 0);
    assert_non_null(strstr(output, "  label "));
    assert_non_null(strstr(output, "the drop of the predicted label's probability, over 3 texts\n"));
    assert_null(strstr(output, "reads "));
    assert_null(strstr(output, "concept"));
    object = cJSON_Parse(run("plain.gguf", "--global --json \"tasty soup\" rude kind", 0));
    assert_keys(object, "texts texts_explained labels concepts");
    assert_keys(member(object, "labels")->child, "name texts words");
    cJSON_Delete(object);
    assert_non_null(strstr(run("plain.gguf", "--global --labels x", 2), "--labels has no effect with --global"));
    object = cJSON_Parse(run("sparse.gguf", "--global --labels --json \"tasty soup\" rude kind", 0));
    assert_keys(member(object, "labels")->child, "name texts contributions words");
    cJSON_Delete(object);
    char options[256];
    snprintf(options, sizeof options, "x --html '%s'", in_folder("plain.html"));
    run("plain.gguf", options, 0);
    assert_true(exists(in_folder("plain.html")));
}

static void text_output_and_errors_of_the_command(void **state) {
    (void)state;
    char *output = run("sparse.gguf", "\"tasty soup\" --neurons 2 --words 1", 0);
    static const char *const wanted[] = {"tasty soup\n", "  label ",      "contributions",
                                         "taste reads ", "neurons: blk.", "overlap with"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (!strstr(output, wanted[i])) fail_msg("'%s' is not in:\n%s", wanted[i], output);
    output = run("sparse.gguf", "--global rude kind \"the soup was tasty\"", 0);
    assert_non_null(strstr(output, "most influential words"));
    static const struct {
        const char *arguments, *message;
    } wrong[] = {{"--faithfulness x", "--faithfulness needs --global"},
                 {"--global --steps 0 x", "--steps cannot be 0"},
                 {"--steps -1 x", "--steps wants"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        output = run("sparse.gguf", wrong[i].arguments, 2);
        if (!strstr(output, wrong[i].message)) fail_msg("'%s' is not in: %s", wrong[i].message, output);
    }
    assert_non_null(strstr(run(NULL, "x", 2), "--model FILE is required"));
    run("encoder.gguf", "x", 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contributions_add_up_to_the_logit),
        cmocka_unit_test(the_prediction_has_the_bits_of_predict),
        cmocka_unit_test(integrated_gradients_add_up_to_the_difference_of_logits),
        cmocka_unit_test(the_baseline_is_the_text_with_every_word_masked),
        cmocka_unit_test(special_tokens_have_no_integrated_gradients),
        cmocka_unit_test(gradient_input_agrees_with_finite_differences),
        cmocka_unit_test(saliency_agrees_with_finite_differences),
        cmocka_unit_test(pieces_add_up_to_words),
        cmocka_unit_test(quantized_weights_are_explained),
        cmocka_unit_test(counts_of_subnetworks_agree_with_the_bits),
        cmocka_unit_test(a_dense_model_shares_everything),
        cmocka_unit_test(mask_maps_are_densities_of_cells),
        cmocka_unit_test(results_do_not_depend_on_threads_or_batches),
        cmocka_unit_test(steps_are_doubled_until_they_converge),
        cmocka_unit_test(zeros_are_the_defaults),
        cmocka_unit_test(methods_are_found_by_name),
        cmocka_unit_test(another_class_can_be_explained),
        cmocka_unit_test(empty_and_long_texts_are_explained),
        cmocka_unit_test(what_cannot_be_explained_is_an_error),
        cmocka_unit_test(words_attributed_to_labels_add_up_to_the_difference_of_their_logits),
        cmocka_unit_test(a_labels_attributions_are_those_of_the_classes_through_its_head),
        cmocka_unit_test(a_vanilla_model_explains_its_label),
        cmocka_unit_test(contributions_to_every_label_add_up_in_both_forms),
        cmocka_unit_test(a_batch_has_the_bits_of_its_texts_alone),
        cmocka_unit_test(a_batch_ends_where_its_function_or_a_text_fails),
        cmocka_unit_test(only_a_single_explanation_leaves_a_text_to_intervene_on),
        cmocka_unit_test(attention_that_tokens_receive_adds_up_to_one),
        cmocka_unit_test(faithfulness_is_that_of_texts_without_words),
        cmocka_unit_test(faithfulness_of_a_vanilla_model_is_about_its_label),
        cmocka_unit_test(a_global_report_counts_what_predictions_say),
        cmocka_unit_test(a_global_report_lists_the_words_of_labels),
        cmocka_unit_test(running_out_of_memory_is_an_error_without_leaks),
        cmocka_unit_test(a_context_works_on_after_a_failure),
        cmocka_unit_test(every_call_of_the_progress_hook_can_cancel),
        cmocka_unit_test(every_question_of_the_cancel_hook_can_cancel),
        cmocka_unit_test(the_first_call_of_a_context_can_be_cancelled),
        cmocka_unit_test(json_has_the_promised_keys),
        cmocka_unit_test(labels_are_explained_where_they_are_asked_for),
        cmocka_unit_test(a_folder_has_a_page_for_each_text_and_an_index),
        cmocka_unit_test(the_command_explains_vanilla_models),
        cmocka_unit_test(text_output_and_errors_of_the_command),
    };
    return cmocka_run_group_tests_name("explain", tests, set_up, tear_down);
}
