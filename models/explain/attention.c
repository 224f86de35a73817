/*
 * models/explain/attention.c - how much attention tokens get in the last block: a baseline for attributions
 */
#include "models/explain/methods.h"

static scbm_status build_attention(cbm_explainer *x, cbm_explain_graph *made) {
    scbm_status status = cbm_explain_start_graph(x, made, &made->attention);
    if (!status) status = scbm_graph_plan(made->graph);
    if (!status && !made->attention)
        status = scbm_fail(SCBM_ERROR_UNSUPPORTED, "the encoder has no attention to compare with");
    return status;
}

/* What token j of a text of n tokens gets in stream s: the mean over heads and attending tokens. */
static double received(const cbm_explainer *x, int64_t s, int64_t j, int64_t n) {
    const int64_t capacity = x->attention.tokens, rows = cbm_explainer_network(x)->backbone.n_heads * n;
    const float *weight = (const float *)x->attention.attention->data + s * rows * capacity + j;
    double sum = 0.0;
    for (int64_t i = 0; i < rows; i++) sum += (double)weight[i * capacity];
    return sum / (double)rows;
}

/* A concept's tokens get what they get in its stream, a label's the mean over the streams; each time the sum is 1. */
static void take_text(const cbm_explainer *x, const cbm_group_text *text, float *value) {
    const int n_concepts = cbm_explainer_concepts(x), n_streams = cbm_explainer_streams(x);
    for (int64_t t = 0; t < text->n_tokens; t++) {
        double sum = 0.0;
        float *at = value + text->first_token + t;
        for (int s = 0; s < n_streams; s++) {
            double one = received(x, s, t, text->n_tokens);
            if (n_concepts) at[s * x->group.n_tokens] = (float)one;
            sum += one;
        }
        for (int u = n_concepts; u < cbm_explainer_units(x); u++) at[u * x->group.n_tokens] = (float)(sum / n_streams);
    }
}

static scbm_status compute_attention(cbm_explainer *x, float *value) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < x->group.n_texts && !status; i++) {
        const cbm_group_text *text = &x->group.text[i];
        if (!text->n_tokens) continue;
        status = cbm_explain_prepare_graph(x, &x->attention, text->n_tokens, 1, build_attention);
        if (!status) status = cbm_explain_run_text(x, &x->attention, i);
        if (!status) take_text(x, text, value);
        if (!status) status = cbm_explain_tell(x, 1);
    }
    return status;
}

const cbm_attribution_kind cbm_attribution_attention = {
    .shown = {.name = "attention", .title = "attention", .is_baseline = 1},
    .needs = CBM_NEEDS_ATTENTION,
    .compute = compute_attention,
};
