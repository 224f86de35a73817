/*
 * models/explain/graphs.c - the encoder from given word embeddings, and what goes into it
 */
#include "models/explain/explain.h"

#include <string.h>

void cbm_explain_free_graph(cbm_explain_graph *graph) {
    scbm_graph_free(graph->graph);
    memset(graph, 0, sizeof *graph);
}

scbm_status cbm_explain_start_graph(cbm_explainer *x, cbm_explain_graph *made, scbm_tensor **attention) {
    const cbm_backbone *backbone = &cbm_explainer_network(x)->backbone;
    const int64_t shape[3] = {cbm_explainer_streams(x), 0, backbone->embedding_width};
    const scbm_extent extent[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    scbm_status status = scbm_graph_create(&made->graph, x->ctx->runtime);
    if (status) return status;
    scbm_graph *g = made->graph;
    scbm_graph_set_capacity(g, made->tokens, made->texts);
    made->embeddings = scbm_input(g, "embeddings", SCBM_F32, 3, shape, extent);
    const cbm_encode_options options = {.use_masks = 1, .embeddings = made->embeddings, .attention = attention};
    cbm_backbone_encode(backbone, g, made->texts, &options, &made->encoding);
    return SCBM_OK;
}

static scbm_tensor *add_wanted_input(scbm_graph *g, const char *name, int n) {
    const int64_t shape[2] = {0, n};
    const scbm_extent extent[2] = {SCBM_TEXTS, SCBM_FIXED};
    return scbm_input(g, name, SCBM_F32, 2, shape, extent);
}

/* u of independent mode: the softmax of each concept's logits. */
static scbm_tensor *add_softmaxes(scbm_graph *g, const cbm_heads *heads, scbm_tensor *logits) {
    scbm_tensor *values = NULL;
    for (int k = 0; k < heads->n_concepts; k++) {
        int n = heads->groups[k + 1] - heads->groups[k];
        scbm_tensor *part = scbm_softmax(g, scbm_slice(g, logits, heads->groups[k], n));
        values = k ? scbm_concat(g, values, part) : part;
    }
    return values;
}

scbm_tensor *cbm_explain_add_wanted(cbm_explainer *x, cbm_explain_graph *made) {
    const cbm_network *network = cbm_explainer_network(x);
    const cbm_heads *heads = &network->heads;
    scbm_graph *g = made->graph;
    scbm_tensor *pooled = cbm_network_pool(g, network, &made->encoding);
    made->logits = scbm_graph_fetch(g, cbm_network_logits(g, network, pooled));
    made->wanted = add_wanted_input(g, "wanted", cbm_n_logits(heads));
    scbm_tensor *sum = scbm_sum(g, scbm_mul(g, made->logits, made->wanted));
    if (heads->mode != CBM_INDEPENDENT) return sum;
    made->wanted_values = add_wanted_input(g, "wanted values", heads->n_classes);
    scbm_tensor *values = add_softmaxes(g, heads, made->logits);
    return scbm_add(g, sum, scbm_sum(g, scbm_mul(g, values, made->wanted_values)));
}

scbm_status cbm_explain_prepare_graph(cbm_explainer *x, cbm_explain_graph *graph, int64_t tokens, int64_t texts,
                                      scbm_status (*build)(cbm_explainer *x, cbm_explain_graph *made)) {
    if (graph->graph && graph->tokens >= tokens) return SCBM_OK;
    cbm_explain_free_graph(graph);
    graph->tokens = cbm_graph_capacity(tokens);
    graph->texts = texts;
    scbm_status status = build(x, graph);
    if (status) cbm_explain_free_graph(graph);
    return status;
}
