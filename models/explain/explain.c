/*
 * models/explain/explain.c - what tokens, words and neurons did to each concept of a text
 *
 * The encoder's graph takes the word embeddings as an input [K, tokens, d], so that every concept has a stream of its own
 * even in a dense model, and the loss is the sum of the target classes' logits: one backward pass gives every concept's
 * gradient. The points between baseline and text at which integrated gradients look are texts of packed batches.
 */
#include "models/explain/explain.h"

#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Making and freeing
 * ---------------------------------------------------------------------------------------- */

static void free_explainer(cbm_context *ctx, void *state) {
    cbm_explainer *x = state;
    const scbm_hooks *hooks = &ctx->hooks;
    const cbm_explained_text *t = &x->text;
    void *const memory[] = {t->target,          t->embedding,     t->baseline,     t->text_logit,    t->baseline_logit,
                            t->gradient_input,  t->integral,      x->rows.watched, x->rows.row,      x->rows.saliency,
                            x->result.concepts, x->result.tokens, x->result.words, x->result.neurons};
    cbm_explain_free_graph(&x->attribution);
    cbm_explain_free_graph(&x->saliency);
    cbm_explain_free_graph(&x->attention);
    cbm_subnetworks_clear(&x->subnetworks, hooks);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    scbm_release(hooks, x);
}

/* NULL: the context has none yet. */
cbm_explainer *cbm_explainer_of(const cbm_context *ctx) {
    return cbm_context_find_part(ctx, free_explainer);
}

scbm_status cbm_explainer_create(cbm_context *ctx) {
    const scbm_hooks *hooks = &ctx->hooks;
    size_t n_concepts = (size_t)ctx->model->network.heads.n_concepts;
    if (cbm_explainer_of(ctx)) return SCBM_OK;
    cbm_explainer *x = scbm_alloc(hooks, sizeof *x);
    if (!x) return SCBM_ERROR_MEMORY;
    x->ctx = ctx;
    x->text.target = scbm_alloc_array(hooks, n_concepts, sizeof *x->text.target);
    x->text.text_logit = scbm_alloc_array(hooks, n_concepts, sizeof *x->text.text_logit);
    x->text.baseline_logit = scbm_alloc_array(hooks, n_concepts, sizeof *x->text.baseline_logit);
    x->result.concepts = scbm_alloc_array(hooks, n_concepts, sizeof *x->result.concepts);
    int has_memory = x->text.target && x->text.text_logit && x->text.baseline_logit && x->result.concepts;
    scbm_status status = has_memory ? cbm_subnetworks_create(&x->subnetworks, ctx->model) : SCBM_ERROR_MEMORY;
    for (int m = 0; m < x->subnetworks.n_matrices; m++) {
        x->rows.n_neurons += x->subnetworks.matrices[m].rows;
        if (x->subnetworks.matrices[m].columns > x->rows.longest_row)
            x->rows.longest_row = x->subnetworks.matrices[m].columns;
    }
    if (!status) status = cbm_context_set_part(ctx, free_explainer, x);
    if (status) free_explainer(ctx, x);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The whole explanation
 * ---------------------------------------------------------------------------------------- */

void cbm_explain_defaults(cbm_explain_options *options) {
    *options = (cbm_explain_options){32, 512, 5, NULL};
}

scbm_status cbm_check_concepts(const cbm_model *model) {
    cbm_mode mode = model->network.heads.mode;
    if (mode != CBM_ENCODER && mode != CBM_VANILLA) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is %s, which has no concepts to explain a prediction by",
                     scbm_file_path(model->file), mode == CBM_ENCODER ? "an encoder" : "a vanilla model");
}

scbm_status cbm_check_explain_options(const cbm_model *model, const cbm_explain_options *options) {
    const cbm_heads *heads = &model->network.heads;
    if (options->steps < 0 || options->steps > 1 << 20 || options->max_steps > 1 << 20)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "integrated gradients in %d to %d steps: at most %d are possible",
                         options->steps, options->max_steps, 1 << 20);
    if (options->n_neurons < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "%d neurons", options->n_neurons);
    for (int k = 0; options->target && k < heads->n_concepts; k++) {
        int n = heads->groups[k + 1] - heads->groups[k];
        if (options->target[k] < -1 || options->target[k] >= n)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no class %d; it has %d classes",
                             heads->concept_name[k], options->target[k], n);
    }
    return SCBM_OK;
}

/* What is known without a gradient. */
static void start_concepts(cbm_explainer *x, const cbm_explain_options *options, const cbm_prediction *prediction) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    for (int k = 0; k < heads->n_concepts; k++) {
        cbm_concept_explanation *concept = &x->result.concepts[k];
        const cbm_concept_result *result = &prediction->concepts[k];
        memset(concept, 0, sizeof *concept);
        x->text.target[k] = options->target && options->target[k] >= 0 ? options->target[k] : result->class_index;
        concept->result = result;
        concept->target = x->text.target[k];
        concept->target_name = heads->class_name[heads->groups[k] + x->text.target[k]];
        concept->density = x->subnetworks.density[k];
        concept->converged = options->steps > 0 && !x->text.n_tokens;
        x->text.text_logit[k] = x->text.baseline_logit[k] = (double)result->logits[x->text.target[k]];
    }
}

static void finish_concepts(cbm_explainer *x, cbm_explanation *explanation) {
    for (int k = 0; k < explanation->n_concepts; k++) {
        cbm_concept_explanation *concept = &x->result.concepts[k];
        cbm_token_attribution *tokens = x->result.tokens + k * x->text.n_tokens;
        for (int64_t t = 0; t < x->text.n_tokens; t++)
            tokens[t].gradient_input = (float)x->text.gradient_input[k * x->text.n_tokens + t];
        concept->target_logit = (float)x->text.text_logit[k];
        concept->baseline_logit = (float)x->text.baseline_logit[k];
        concept->tokens = tokens;
        concept->words = x->result.words + k * x->text.n_tokens;
        explanation->n_words = cbm_join_words(x, tokens, x->result.words + k * x->text.n_tokens);
    }
}

static scbm_status explain_tokens(cbm_explainer *x, const cbm_explain_options *options, const char *progress) {
    if (!x->text.n_tokens) return SCBM_OK;
    scbm_status status = cbm_list_tokens(x);
    if (!status) status = cbm_explain_read_text(x);
    if (!status) status = cbm_attribute(x, options, progress);
    if (!status && options->n_neurons) status = cbm_find_neurons(x, options);
    return status;
}

scbm_status cbm_explain_as(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                           const char *progress, cbm_explanation *explanation) {
    cbm_explain_options defaults;
    cbm_explain_defaults(&defaults);
    if (!options) options = &defaults;
    memset(explanation, 0, sizeof *explanation);
    scbm_status status = cbm_check_concepts(ctx->model);
    if (!status) status = cbm_check_explain_options(ctx->model, options);
    if (!status) status = cbm_explainer_create(ctx);
    const cbm_prediction *const *predictions;
    if (!status) status = cbm_predict_batch(ctx, &text, &length, 1, &predictions);
    if (status) return status;
    explanation->prediction = *predictions[0];
    cbm_explainer *x = cbm_explainer_of(ctx);
    x->text.n_tokens = cbm_sequence_length(&ctx->sequences, 0);
    start_concepts(x, options, &explanation->prediction);
    status = explain_tokens(x, options, progress);
    if (status) return status;
    explanation->n_concepts = cbm_explainer_network(x)->heads.n_concepts;
    explanation->n_tokens = (int)x->text.n_tokens;
    explanation->concepts = x->result.concepts;
    explanation->subnetworks = &x->subnetworks;
    finish_concepts(x, explanation);
    return SCBM_OK;
}

scbm_status cbm_explain_text(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                             cbm_explanation *explanation) {
    return cbm_context_result(ctx, cbm_explain_as(ctx, text, length, options, "explain", explanation));
}

scbm_status cbm_explain(cbm_context *ctx, const char *text, const cbm_explain_options *options,
                        cbm_explanation *explanation) {
    if (!text) {
        memset(explanation, 0, sizeof *explanation);
        return cbm_context_result(ctx, scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_explain: the text is NULL"));
    }
    return cbm_explain_text(ctx, text, strlen(text), options, explanation);
}

scbm_status cbm_describe_subnetworks(cbm_context *ctx, const cbm_subnetworks **subnetworks) {
    *subnetworks = NULL;
    scbm_status status = cbm_check_concepts(ctx->model);
    if (!status) status = cbm_explainer_create(ctx);
    if (!status) *subnetworks = &cbm_explainer_of(ctx)->subnetworks;
    return cbm_context_result(ctx, status);
}
