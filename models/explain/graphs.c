/*
 * models/explain/graphs.c - the encoder from given word embeddings, and the text that goes in
 */
#include "models/explain/explain.h"

#include <string.h>

void cbm_explain_free_graph(cbm_explain_graph *graph) {
    scbm_graph_free(graph->graph);
    memset(graph, 0, sizeof *graph);
}

/* The encoder from given embeddings, in f32: [K, tokens, d], one stream a concept. */
scbm_status cbm_explain_start_graph(cbm_explainer *x, cbm_explain_graph *made, scbm_tensor **attention) {
    const cbm_network *network = cbm_explainer_network(x);
    const int64_t shape[3] = {network->heads.n_concepts, 0, network->backbone.hidden};
    const scbm_extent extent[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    scbm_status status = scbm_graph_create(&made->graph, x->ctx->runtime);
    if (status) return status;
    scbm_graph *g = made->graph;
    scbm_graph_set_capacity(g, made->tokens, made->texts);
    made->embeddings = scbm_input(g, "embeddings", SCBM_F32, 3, shape, extent);
    const cbm_encode_options options = {.use_masks = 1, .embeddings = made->embeddings, .attention = attention};
    cbm_backbone_encode(&network->backbone, g, made->texts, &options, &made->encoding);
    return SCBM_OK;
}

/* The logits, and the sum of the wanted ones. */
scbm_tensor *cbm_explain_add_target_logits(cbm_explainer *x, cbm_explain_graph *made) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    const int64_t shape[2] = {0, heads->n_classes};
    const scbm_extent extent[2] = {SCBM_TEXTS, SCBM_FIXED};
    scbm_graph *g = made->graph;
    scbm_tensor *pooled = scbm_segment_mean(g, made->encoding.hidden, made->encoding.offsets);
    made->logits = scbm_output(g, scbm_group_linear(g, pooled, heads->concept_weight, heads->concept_bias,
                                                    (scbm_tensor *)&heads->group_tensor));
    made->wanted = scbm_input(g, "wanted", SCBM_F32, 2, shape, extent);
    return scbm_sum(g, scbm_mul(g, made->logits, made->wanted));
}

/* A graph that holds so many tokens; each of the three has its own number of texts. */
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

/* Writes `n` times the text at hand into the inputs, but for the embeddings. */
void cbm_explain_fill_graph(const cbm_explainer *x, const cbm_explain_graph *graph, int64_t n) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    cbm_fill_inputs(&cbm_explainer_network(x)->backbone, &graph->encoding, &x->ctx->sequences, x->zeros, n);
    if (!graph->wanted) return;
    float *wanted = graph->wanted->data;
    memset(wanted, 0, (size_t)n * (size_t)heads->n_classes * sizeof *wanted);
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < heads->n_concepts; k++)
            wanted[i * heads->n_classes + heads->groups[k] + x->text.target[k]] = 1.0f;
}

/* ------------------------------------------------------------------------------------------
 * The text and its baseline
 * ---------------------------------------------------------------------------------------- */

/* A word embedding as f32: zeros for an id below 0. */
static scbm_status read_embedding(const scbm_tensor *table, int32_t id, float *place) {
    const scbm_type_info *type = scbm_type_of(table->type);
    size_t bytes = (size_t)(table->shape[1] / type->block) * (size_t)type->block_bytes;
    if (id >= 0)
        return scbm_convert(SCBM_F32, place, table->type, (const char *)table->data + (size_t)id * bytes,
                            table->shape[1]);
    memset(place, 0, (size_t)table->shape[1] * sizeof *place);
    return SCBM_OK;
}

/* Those that were added to the text or stand in it as such; not what stands for an unknown word. */
int cbm_is_special_token(const cbm_tokenizer *tokenizer, int32_t id) {
    return cbm_token_is_special(tokenizer, id) && id != cbm_tokenizer_special(tokenizer, CBM_TOKEN_UNKNOWN);
}

scbm_status cbm_explain_read_text(cbm_explainer *x) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    const scbm_tensor *table = cbm_backbone_find(&cbm_explainer_network(x)->backbone, CBM_TOKEN_EMBEDDING, -1)->tensor;
    size_t d = (size_t)table->shape[1], n = (size_t)x->text.n_tokens;
    int32_t neutral = cbm_tokenizer_special(tokenizer, CBM_TOKEN_MASK);
    if (neutral < 0) neutral = cbm_tokenizer_special(tokenizer, CBM_TOKEN_PADDING);
    scbm_status status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->text.embedding, &x->text.embedding_capacity,
                                   n * d, sizeof *x->text.embedding);
    if (!status)
        status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->text.baseline, &x->text.baseline_capacity, n * d,
                           sizeof *x->text.baseline);
    for (size_t t = 0; t < n && !status; t++) {
        int32_t id = x->ctx->sequences.ids[t];
        status = read_embedding(table, id, x->text.embedding + t * d);
        if (!status)
            status = read_embedding(table, cbm_is_special_token(tokenizer, id) ? id : neutral,
                                    x->text.baseline + t * d);
    }
    return status;
}

/* The embeddings at a place between baseline (0) and text (1), into every stream; `at` is the place of the text's first
 * token in a batch of `n_tokens`. */
void cbm_explain_write_point(const cbm_explainer *x, float *embeddings, int64_t at, int64_t n_tokens, double place) {
    int64_t d = cbm_explainer_network(x)->backbone.hidden, n = x->text.n_tokens * d;
    float *first = embeddings + at * d, part = (float)place;
    for (int64_t i = 0; i < n; i++)
        first[i] = place == 1.0 ? x->text.embedding[i]
                                : x->text.baseline[i] + part * (x->text.embedding[i] - x->text.baseline[i]);
    for (int k = 1; k < cbm_explainer_network(x)->heads.n_concepts; k++)
        memcpy(embeddings + (k * n_tokens + at) * d, first, (size_t)n * sizeof *first);
}
