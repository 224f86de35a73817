/*
 * models/backbones/blocks.c - pieces of which architectures build their graphs
 */
#include "models/backbones/architecture.h"
#include "models/backbones/blocks.h"

#include <math.h>

static scbm_tensor *tensor_of(const cbm_builder *b, cbm_role role, int block) {
    cbm_parameter *parameter = cbm_backbone_find(b->backbone, role, block);
    return parameter ? parameter->tensor : NULL;
}

scbm_tensor *cbm_linear(const cbm_builder *b, cbm_role role, int block, scbm_tensor *x, scbm_activation activation) {
    cbm_parameter *weight = cbm_backbone_find(b->backbone, role, block);
    scbm_tensor *bias = tensor_of(b, (cbm_role)(role + 1), block);
    return scbm_linear(b->graph, x, weight ? weight->tensor : NULL, bias,
                       weight && b->options->use_masks ? weight->masks : NULL, activation);
}

scbm_tensor *cbm_lstm(const cbm_builder *b, cbm_role input, cbm_role state, int block, scbm_tensor *x, int reverse) {
    cbm_parameter *weight = cbm_backbone_find(b->backbone, state, block);
    scbm_tensor *gates = cbm_linear(b, input, block, x, SCBM_NONE);
    return scbm_lstm(b->graph, gates, weight ? weight->tensor : NULL,
                     weight && b->options->use_masks ? weight->masks : NULL, b->encoding->offsets, reverse);
}

scbm_tensor *cbm_norm(const cbm_builder *b, cbm_role role, int block, scbm_tensor *x, scbm_tensor *residual) {
    scbm_tensor *weight = tensor_of(b, role, block), *bias = tensor_of(b, (cbm_role)(role + 1), block);
    if (b->backbone->architecture->rms_norm)
        return scbm_rms_norm(b->graph, residual ? scbm_add(b->graph, x, residual) : x, weight, b->backbone->epsilon);
    if (!residual) return scbm_layer_norm(b->graph, x, weight, bias, b->backbone->epsilon);
    return scbm_add_layer_norm(b->graph, x, residual, weight, bias, b->backbone->epsilon);
}

/* ------------------------------------------------------------------------------------------
 * Embeddings
 * ---------------------------------------------------------------------------------------- */

scbm_tensor *cbm_word_embeddings(const cbm_builder *b) {
    if (b->options->embeddings) return b->options->embeddings;
    return scbm_get_rows(b->graph, tensor_of(b, CBM_TOKEN_EMBEDDING, -1), b->encoding->ids);
}

scbm_tensor *cbm_add_embeddings(const cbm_builder *b, scbm_tensor *x) {
    scbm_graph *g = b->graph;
    scbm_tensor *types = tensor_of(b, CBM_TYPE_EMBEDDING, -1), *positions = NULL;
    if (types) {
        const int64_t one = 1;
        b->encoding->type = scbm_input(g, "type", SCBM_I32, 1, &one, NULL);
        x = scbm_add(g, x, scbm_get_rows(g, types, b->encoding->type)); /* one row for all tokens: broadcast */
    }
    if (b->encoding->positions)
        positions = scbm_get_rows(g, tensor_of(b, CBM_POSITION_EMBEDDING, -1), b->encoding->positions);
    if (tensor_of(b, CBM_EMBEDDING_NORM, -1)) x = cbm_norm(b, CBM_EMBEDDING_NORM, -1, x, positions);
    else if (positions) x = scbm_add(g, x, positions);
    return scbm_dropout(g, x, b->options->hidden_dropout);
}

/* ------------------------------------------------------------------------------------------
 * Blocks
 * ---------------------------------------------------------------------------------------- */

scbm_tensor *cbm_distance_biases(const cbm_builder *b) {
    if (!b->encoding->buckets) return NULL;
    return scbm_get_rows(b->graph, tensor_of(b, CBM_DISTANCE_BIAS, -1), b->encoding->buckets);
}

/* How much each token attends to each token of its text, head by head. */
static scbm_tensor *attention_weights(const cbm_builder *b, const cbm_block_form *form, scbm_tensor *q, scbm_tensor *k,
                                      float scale) {
    scbm_graph *g = b->graph;
    int64_t context = q ? q->shape[1] : 1;
    scbm_tensor *scores = scbm_attention_scores(g, scbm_scale(g, q, scale), k, b->encoding->offsets,
                                                b->backbone->n_heads, context, b->backbone->causal, -INFINITY);
    if (form->distances)
        scores = scbm_add(g, scores, scbm_attention_bias(g, form->distances, b->encoding->offsets, context));
    return scbm_graph_fetch(g, scbm_softmax(g, scores));
}

static scbm_tensor *attention(const cbm_builder *b, const cbm_block_form *form, int block, scbm_tensor *x) {
    const cbm_backbone *backbone = b->backbone;
    float scale = backbone->unscaled ? 1.0f : (float)(1.0 / sqrt((double)backbone->head_size));
    if (backbone->scales_by_block) scale /= (float)(block + 1);
    scbm_tensor *q = cbm_linear(b, CBM_QUERY, block, x, SCBM_NONE);
    scbm_tensor *k = cbm_linear(b, CBM_KEY, block, x, SCBM_NONE);
    scbm_tensor *v = cbm_linear(b, CBM_VALUE, block, x, SCBM_NONE);
    if (b->options->attention && block == backbone->n_blocks - 1)
        *b->options->attention = attention_weights(b, form, q, k, scale);
    scbm_tensor *y = scbm_attention_biased(b->graph, q, k, v, form->distances, b->encoding->offsets, backbone->n_heads,
                                           scale, backbone->causal, b->options->attention_dropout);
    y = cbm_linear(b, CBM_ATTENTION_OUTPUT, block, y, SCBM_NONE);
    return scbm_dropout(b->graph, y, b->options->hidden_dropout);
}

static scbm_tensor *feed_forward(const cbm_builder *b, const cbm_block_form *form, int block, scbm_tensor *x) {
    scbm_activation activation = b->backbone->activation;
    scbm_tensor *y;
    if (tensor_of(b, CBM_FEED_GATE, block)) {
        scbm_tensor *gate = cbm_linear(b, CBM_FEED_GATE, block, x, activation);
        y = scbm_mul(b->graph, cbm_linear(b, CBM_FEED_UP, block, x, SCBM_NONE), gate);
    } else {
        y = cbm_linear(b, CBM_FEED_UP, block, x, activation);
    }
    if (form->drops_inside) y = scbm_dropout(b->graph, y, b->options->hidden_dropout);
    y = cbm_linear(b, CBM_FEED_DOWN, block, y, SCBM_NONE);
    return scbm_dropout(b->graph, y, b->options->hidden_dropout);
}

scbm_tensor *cbm_attention_block(const cbm_builder *b, const cbm_block_form *form, int block, scbm_tensor *x) {
    if (!form->pre_norm) return cbm_norm(b, CBM_ATTENTION_NORM, block, attention(b, form, block, x), x);
    scbm_tensor *y = attention(b, form, block, cbm_norm(b, CBM_ATTENTION_NORM, block, x, NULL));
    return scbm_add(b->graph, y, x); /* y may have more streams than x */
}

scbm_tensor *cbm_feed_forward_block(const cbm_builder *b, const cbm_block_form *form, int block, scbm_tensor *x) {
    if (!form->pre_norm) return cbm_norm(b, CBM_FEED_NORM, block, feed_forward(b, form, block, x), x);
    return scbm_add(b->graph, feed_forward(b, form, block, cbm_norm(b, CBM_FEED_NORM, block, x, NULL)), x);
}

void cbm_encode_blocks(const cbm_builder *b, const cbm_block_form *form, scbm_tensor *x) {
    scbm_tensor **states = b->options->states;
    int last = b->backbone->n_blocks - 1;
    if (states) states[0] = scbm_output(b->graph, x);
    for (int block = 0; block <= last; block++) {
        x = cbm_attention_block(b, form, block, x);
        x = cbm_feed_forward_block(b, form, block, x);
        if (block == last && tensor_of(b, CBM_FINAL_NORM, -1)) x = cbm_norm(b, CBM_FINAL_NORM, -1, x, NULL);
        if (block == last && tensor_of(b, CBM_OUTPUT_PROJECTION, -1))
            x = cbm_linear(b, CBM_OUTPUT_PROJECTION, -1, x, SCBM_NONE);
        if (states) states[block + 1] = scbm_output(b->graph, x);
    }
    b->encoding->hidden = x;
}

void cbm_encode_bert(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                     cbm_encoding *encoding) {
    const cbm_builder builder = {backbone, graph, options, encoding};
    const cbm_block_form form = {.distances = cbm_distance_biases(&builder)};
    cbm_encode_blocks(&builder, &form, cbm_add_embeddings(&builder, cbm_word_embeddings(&builder)));
}
