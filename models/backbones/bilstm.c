/*
 * models/backbones/bilstm.c - LSTMs in both directions over words (the method's baseline)
 *
 * A block is two LSTMs (Hochreiter and Schmidhuber, 1997; gates and their order as PyTorch has them: input, forget, cell,
 * output), whose states stand side by side. What PyTorch has as two biases of a gate is one, their sum. A text is summed up
 * by dot-product attention (Luong et al., 2015): its tokens' states are weighted by the softmax of their products with the
 * last state of each direction.
 */
#include "models/backbones/architecture.h"
#include "models/backbones/blocks.h"

#include <math.h>

#define TABLE CBM_IS_MATRIX
#define MATRIX (CBM_IN_BLOCK | CBM_IS_MATRIX | CBM_PRUNABLE | CBM_QUANTIZED)
#define VECTOR CBM_IN_BLOCK
#define V CBM_VOCABULARY_SIZE
#define E CBM_EMBEDDING_SIZE
#define H CBM_STATE_SIZE
#define FIELD(name) offsetof(cbm_backbone, name)

/* clang-format off */
static const cbm_row rows[] = {
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", NULL, {V, E}, .flags = TABLE | CBM_QUANTIZED},
    {CBM_LSTM_INPUT, "lstm_input.weight", NULL, {H, E}, .flags = MATRIX, .times = 4},
    {CBM_LSTM_INPUT_BIAS, "lstm_input.bias", NULL, {H}, .flags = VECTOR, .times = 4},
    {CBM_LSTM_STATE, "lstm_state.weight", NULL, {H, H}, .flags = MATRIX, .times = 4},
    {CBM_LSTM_REVERSE_INPUT, "lstm_reverse_input.weight", NULL, {H, E}, .flags = MATRIX, .times = 4},
    {CBM_LSTM_REVERSE_INPUT_BIAS, "lstm_reverse_input.bias", NULL, {H}, .flags = VECTOR, .times = 4},
    {CBM_LSTM_REVERSE_STATE, "lstm_reverse_state.weight", NULL, {H, H}, .flags = MATRIX, .times = 4},
};

static const cbm_key keys[] = {
    {NULL, NULL, CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {NULL, NULL, CBM_KEY_COUNT, FIELD(n_heads), 1},
    {"context_length", NULL, CBM_KEY_SIZE, FIELD(context), 512},
    {"embedding_length", NULL, CBM_KEY_SIZE, FIELD(hidden), 0},
    {"sparsecbm.embedding_width", NULL, CBM_KEY_SIZE, FIELD(embedding_width), -1},
    {"block_count", NULL, CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 4},
    {"sparsecbm.hidden_dropout", NULL, CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
};
/* clang-format on */

/* What the tokens of a text are compared with, at its last token. */
static scbm_tensor *summary(const cbm_builder *b, scbm_tensor *forth, scbm_tensor *back, scbm_tensor *states) {
    scbm_tensor *offsets = b->encoding->offsets;
    scbm_tensor *ends = scbm_concat(b->graph, scbm_segment_last(b->graph, forth, offsets),
                                    scbm_segment_first(b->graph, back, offsets));
    scbm_tensor *const sources[] = {ends, offsets, states};
    scbm_node *node = scbm_graph_add(b->graph, SCBM_OP_SEGMENT_LAST_BACK, 3, sources, NULL, NULL);
    return node ? node->result[0] : NULL;
}

/* How much attention tokens get. Only a text's last token has something to compare them with; to the others all are equal. */
static scbm_tensor *attention_weights(const cbm_builder *b, scbm_tensor *query, scbm_tensor *states) {
    int64_t context = states ? states->shape[1] : 1;
    scbm_tensor *scores = scbm_attention_scores(b->graph, query, states, b->encoding->offsets, 1, context, 0,
                                                -INFINITY);
    return scbm_graph_fetch(b->graph, scbm_softmax(b->graph, scores));
}

static void encode(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding) {
    const cbm_builder builder = {backbone, graph, options, encoding}, *b = &builder;
    scbm_tensor *x = scbm_dropout(graph, cbm_word_embeddings(b), options->hidden_dropout), *forth = NULL, *back = NULL;
    if (options->states) options->states[0] = scbm_output(graph, x);
    for (int block = 0; block < backbone->n_blocks; block++) {
        forth = cbm_lstm(b, CBM_LSTM_INPUT, CBM_LSTM_STATE, block, x, 0);
        back = cbm_lstm(b, CBM_LSTM_REVERSE_INPUT, CBM_LSTM_REVERSE_STATE, block, x, 1);
        x = scbm_concat(graph, forth, back);
        if (block < backbone->n_blocks - 1) x = scbm_dropout(graph, x, options->hidden_dropout);
        if (options->states) options->states[block + 1] = scbm_output(graph, x);
    }
    encoding->hidden = x;
    encoding->summary = summary(b, forth, back, x);
    if (options->attention) *options->attention = attention_weights(b, encoding->summary, x);
}

const cbm_architecture cbm_bilstm = {
    .name = "bilstm",
    .title = "BiLSTM",
    .is_recurrent = 1,
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .encode = encode,
};
