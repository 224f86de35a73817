/*
 * models/backbones/mpnet.c - MPNet (Song et al., 2020): BERT with biases of attention by distance, shared by all blocks
 *
 * Positions are RoBERTa's (roberta.c), with the padding token 1 whatever the tokenizer says.
 */
#include "models/backbones/architecture.h"
#include "models/backbones/blocks.h"

#define TABLE CBM_IS_MATRIX
#define MATRIX (CBM_IN_BLOCK | CBM_IS_MATRIX | CBM_PRUNABLE | CBM_QUANTIZED)
#define VECTOR CBM_IN_BLOCK
#define V CBM_VOCABULARY_SIZE
#define P CBM_POSITIONS_SIZE
#define E CBM_EMBEDDING_SIZE
#define D CBM_HIDDEN_SIZE
#define A CBM_ATTENTION_SIZE
#define F CBM_FEED_FORWARD_SIZE
#define FIELD(name) offsetof(cbm_backbone, name)

/* clang-format off */
static const cbm_row rows[] = {
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", "embeddings.word_embeddings.weight", {V, E}, .flags = TABLE | CBM_QUANTIZED},
    {CBM_POSITION_EMBEDDING, "position_embd.weight", "embeddings.position_embeddings.weight", {P, D}, .flags = TABLE},
    {CBM_EMBEDDING_NORM, "token_embd_norm.weight", "embeddings.LayerNorm.weight", {D}, .flags = 0},
    {CBM_EMBEDDING_NORM_BIAS, "token_embd_norm.bias", "embeddings.LayerNorm.bias", {D}, .flags = 0},
    {CBM_DISTANCE_BIAS, "attn_rel_b.weight", "encoder.relative_attention_bias.weight", {CBM_BUCKETS_SIZE, CBM_HEADS_SIZE}, .flags = TABLE},
    {CBM_QUERY, "attn_q.weight", "attention.attn.q.weight", {A, D}, .flags = MATRIX},
    {CBM_QUERY_BIAS, "attn_q.bias", "attention.attn.q.bias", {A}, .flags = VECTOR},
    {CBM_KEY, "attn_k.weight", "attention.attn.k.weight", {A, D}, .flags = MATRIX},
    {CBM_KEY_BIAS, "attn_k.bias", "attention.attn.k.bias", {A}, .flags = VECTOR},
    {CBM_VALUE, "attn_v.weight", "attention.attn.v.weight", {A, D}, .flags = MATRIX},
    {CBM_VALUE_BIAS, "attn_v.bias", "attention.attn.v.bias", {A}, .flags = VECTOR},
    {CBM_ATTENTION_OUTPUT, "attn_output.weight", "attention.attn.o.weight", {D, A}, .flags = MATRIX},
    {CBM_ATTENTION_OUTPUT_BIAS, "attn_output.bias", "attention.attn.o.bias", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM, "attn_output_norm.weight", "attention.LayerNorm.weight", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM_BIAS, "attn_output_norm.bias", "attention.LayerNorm.bias", {D}, .flags = VECTOR},
    {CBM_FEED_UP, "ffn_up.weight", "intermediate.dense.weight", {F, D}, .flags = MATRIX},
    {CBM_FEED_UP_BIAS, "ffn_up.bias", "intermediate.dense.bias", {F}, .flags = VECTOR},
    {CBM_FEED_DOWN, "ffn_down.weight", "output.dense.weight", {D, F}, .flags = MATRIX},
    {CBM_FEED_DOWN_BIAS, "ffn_down.bias", "output.dense.bias", {D}, .flags = VECTOR},
    {CBM_FEED_NORM, "layer_output_norm.weight", "output.LayerNorm.weight", {D}, .flags = VECTOR},
    {CBM_FEED_NORM_BIAS, "layer_output_norm.bias", "output.LayerNorm.bias", {D}, .flags = VECTOR},
};

static const cbm_key keys[] = {
    {NULL, "vocab_size", CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {"sparsecbm.position_padding", NULL, CBM_KEY_TOKEN, FIELD(padding), 1},
    {"context_length", "max_position_embeddings", CBM_KEY_SIZE, FIELD(context), 512},
    {"embedding_length", "hidden_size", CBM_KEY_SIZE, FIELD(hidden), 0},
    {"feed_forward_length", "intermediate_size", CBM_KEY_SIZE, FIELD(feed_forward), 0},
    {"block_count", "num_hidden_layers", CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"attention.head_count", "num_attention_heads", CBM_KEY_COUNT, FIELD(n_heads), 0},
    {"attention.layer_norm_epsilon", "layer_norm_eps", CBM_KEY_FRACTION, FIELD(epsilon), 1e-12},
    {"attention.causal", NULL, CBM_KEY_SWITCH, FIELD(causal), 0},
    {"attention.relative_buckets_count", "relative_attention_num_buckets", CBM_KEY_COUNT, FIELD(n_buckets), 32},
    {"sparsecbm.max_distance", NULL, CBM_KEY_COUNT, FIELD(max_distance), 128},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 1},
    {"sparsecbm.activation", "hidden_act", CBM_KEY_ACTIVATION, FIELD(activation), SCBM_GELU_ERF},
    {"sparsecbm.hidden_dropout", "hidden_dropout_prob", CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "attention_probs_dropout_prob", CBM_KEY_FRACTION, FIELD(attention_dropout), 0.1},
};
/* clang-format on */

static const char *const prefixes[] = {"mpnet.", NULL};
static const char *const unused[] = {"pooler.", "lm_head.", "classifier.", "qa_outputs.", "embeddings.position_ids",
                                     NULL};

const cbm_architecture cbm_mpnet = {
    .name = "mpnet",
    .title = "MPNet",
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .encode = cbm_encode_bert,
    .hf_counts_padding = 1,
    .hf_type = "mpnet",
    .hf_examples = "all-mpnet-base-v2, multi-qa-mpnet-base",
    .hf_class = "MPNet",
    .hf_prefixes = prefixes,
    .hf_block = "encoder.layer.",
    .hf_unused = unused,
};
