/*
 * models/backbones/bert.c - BERT (Devlin et al., 2019): LayerNorm behind each sum
 *
 * Tensors and keys are named as llama.cpp names them. Positions and token types stay F32 when quantized, as llama.cpp
 * has them: they are small.
 */
#include "models/backbones/architecture.h"
#include "models/backbones/blocks.h"

#define TABLE CBM_IS_MATRIX
#define MATRIX (CBM_IN_BLOCK | CBM_IS_MATRIX | CBM_PRUNABLE | CBM_QUANTIZED)
#define VECTOR CBM_IN_BLOCK
#define D CBM_HIDDEN_SIZE
#define A CBM_ATTENTION_SIZE
#define F CBM_FEED_FORWARD_SIZE

/* clang-format off */
static const cbm_row rows[] = {
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", "embeddings.word_embeddings.weight", {CBM_VOCABULARY_SIZE, CBM_EMBEDDING_SIZE}, .flags = TABLE | CBM_QUANTIZED},
    {CBM_POSITION_EMBEDDING, "position_embd.weight", "embeddings.position_embeddings.weight", {CBM_POSITIONS_SIZE, D}, .flags = TABLE},
    {CBM_TYPE_EMBEDDING, "token_types.weight", "embeddings.token_type_embeddings.weight", {CBM_TYPES_SIZE, D}, .flags = TABLE | CBM_OPTIONAL},
    {CBM_EMBEDDING_NORM, "token_embd_norm.weight", "embeddings.LayerNorm.weight", {D}, .flags = 0},
    {CBM_EMBEDDING_NORM_BIAS, "token_embd_norm.bias", "embeddings.LayerNorm.bias", {D}, .flags = 0},
    {CBM_QUERY, "attn_q.weight", "attention.self.query.weight", {A, D}, .flags = MATRIX},
    {CBM_QUERY_BIAS, "attn_q.bias", "attention.self.query.bias", {A}, .flags = VECTOR},
    {CBM_KEY, "attn_k.weight", "attention.self.key.weight", {A, D}, .flags = MATRIX},
    {CBM_KEY_BIAS, "attn_k.bias", "attention.self.key.bias", {A}, .flags = VECTOR},
    {CBM_VALUE, "attn_v.weight", "attention.self.value.weight", {A, D}, .flags = MATRIX},
    {CBM_VALUE_BIAS, "attn_v.bias", "attention.self.value.bias", {A}, .flags = VECTOR},
    {CBM_ATTENTION_OUTPUT, "attn_output.weight", "attention.output.dense.weight", {D, A}, .flags = MATRIX},
    {CBM_ATTENTION_OUTPUT_BIAS, "attn_output.bias", "attention.output.dense.bias", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM, "attn_output_norm.weight", "attention.output.LayerNorm.weight", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM_BIAS, "attn_output_norm.bias", "attention.output.LayerNorm.bias", {D}, .flags = VECTOR},
    {CBM_FEED_UP, "ffn_up.weight", "intermediate.dense.weight", {F, D}, .flags = MATRIX},
    {CBM_FEED_UP_BIAS, "ffn_up.bias", "intermediate.dense.bias", {F}, .flags = VECTOR},
    {CBM_FEED_DOWN, "ffn_down.weight", "output.dense.weight", {D, F}, .flags = MATRIX},
    {CBM_FEED_DOWN_BIAS, "ffn_down.bias", "output.dense.bias", {D}, .flags = VECTOR},
    {CBM_FEED_NORM, "layer_output_norm.weight", "output.LayerNorm.weight", {D}, .flags = VECTOR},
    {CBM_FEED_NORM_BIAS, "layer_output_norm.bias", "output.LayerNorm.bias", {D}, .flags = VECTOR},
};

static const cbm_key keys[] = {
    {NULL, "vocab_size", CBM_KEY_SIZE, offsetof(cbm_backbone, vocabulary), 0},
    {NULL, "type_vocab_size", CBM_KEY_SIZE, offsetof(cbm_backbone, types), 2},
    {"context_length", "max_position_embeddings", CBM_KEY_SIZE, offsetof(cbm_backbone, context), 512},
    {"embedding_length", "hidden_size", CBM_KEY_SIZE, offsetof(cbm_backbone, hidden), 0},
    {"feed_forward_length", "intermediate_size", CBM_KEY_SIZE, offsetof(cbm_backbone, feed_forward), 0},
    {"block_count", "num_hidden_layers", CBM_KEY_COUNT, offsetof(cbm_backbone, n_blocks), 0},
    {"attention.head_count", "num_attention_heads", CBM_KEY_COUNT, offsetof(cbm_backbone, n_heads), 0},
    {"attention.layer_norm_epsilon", "layer_norm_eps", CBM_KEY_FRACTION, offsetof(cbm_backbone, epsilon), 1e-12},
    {"attention.causal", NULL, CBM_KEY_SWITCH, offsetof(cbm_backbone, causal), 0},
    {"pooling_type", NULL, CBM_KEY_POOLING, offsetof(cbm_backbone, pooling), 1},
    {"sparsecbm.activation", "hidden_act", CBM_KEY_ACTIVATION, offsetof(cbm_backbone, activation), SCBM_GELU_ERF},
    {"sparsecbm.hidden_dropout", "hidden_dropout_prob", CBM_KEY_FRACTION, offsetof(cbm_backbone, hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "attention_probs_dropout_prob", CBM_KEY_FRACTION, offsetof(cbm_backbone, attention_dropout), 0.1},
};
/* clang-format on */

static const char *const prefixes[] = {"bert.", NULL};
/* The pooler, heads, and buffers that old versions saved. */
static const char *const unused[] = {
    "pooler.", "cls.", "classifier.", "qa_outputs.", "embeddings.position_ids", "embeddings.token_type_ids", NULL};
static const cbm_demand demands[] = {{"position_embedding_type", "absolute"}, {NULL, NULL}};

const cbm_architecture cbm_bert = {
    .name = "bert",
    .title = "BERT",
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .encode = cbm_encode_bert,
    .hf_type = "bert",
    .hf_examples = "bert-base-uncased, all-MiniLM-L6-v2, bge, e5, gte, mxbai, snowflake-arctic-embed v1",
    .hf_class = "Bert",
    .hf_prefixes = prefixes,
    .hf_block = "encoder.layer.",
    .hf_unused = unused,
    .hf_demands = demands,
};
