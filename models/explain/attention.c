/*
 * models/explain/attention.c - how much attention tokens get: a baseline for attributions
 */
#include "models/explain/explain.h"

static scbm_status build_attention(cbm_explainer *x, cbm_explain_graph *made) {
    scbm_status status = cbm_explain_start_graph(x, made, &made->attention);
    return status ? status : scbm_graph_plan(made->graph);
}

static scbm_status find_attention(cbm_explainer *x, float *received) {
    int64_t n = x->text.n_tokens, n_heads = cbm_explainer_network(x)->backbone.n_heads;
    scbm_status status = cbm_explain_prepare_graph(x, &x->attention, n, 1, build_attention);
    if (!status) status = cbm_explain_read_text(x);
    if (status) return status;
    cbm_explain_fill_graph(x, &x->attention, 1);
    cbm_explain_write_point(x, x->attention.embeddings->data, 0, n, 1.0);
    status = scbm_graph_run(x->attention.graph, n, 1);
    for (int64_t k = 0; k < cbm_explainer_network(x)->heads.n_concepts && !status; k++) {
        for (int64_t j = 0; j < n; j++) {
            const float *weight = (const float *)x->attention.attention->data + k * n_heads * n * x->attention.tokens +
                                  j;
            double sum = 0.0;
            for (int64_t i = 0; i < n_heads * n; i++) sum += (double)weight[i * x->attention.tokens];
            received[k * n + j] = (float)(sum / (double)(n_heads * n));
        }
    }
    return status;
}

scbm_status cbm_attention_received(cbm_context *ctx, float *received) {
    scbm_status status = cbm_explainer_create(ctx);
    if (status) return status;
    cbm_explainer *x = cbm_explainer_of(ctx);
    x->text.n_tokens = cbm_sequence_length(&ctx->sequences, 0);
    return x->text.n_tokens ? find_attention(x, received) : SCBM_OK;
}
