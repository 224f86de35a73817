/*
 * models/backbones/distilbert.c - DistilBERT (Sanh et al., 2019): BERT without token types, in a file BERT
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
    {CBM_QUERY, "attn_q.weight", "attention.q_lin.weight", {A, D}, .flags = MATRIX},
    {CBM_QUERY_BIAS, "attn_q.bias", "attention.q_lin.bias", {A}, .flags = VECTOR},
    {CBM_KEY, "attn_k.weight", "attention.k_lin.weight", {A, D}, .flags = MATRIX},
    {CBM_KEY_BIAS, "attn_k.bias", "attention.k_lin.bias", {A}, .flags = VECTOR},
    {CBM_VALUE, "attn_v.weight", "attention.v_lin.weight", {A, D}, .flags = MATRIX},
    {CBM_VALUE_BIAS, "attn_v.bias", "attention.v_lin.bias", {A}, .flags = VECTOR},
    {CBM_ATTENTION_OUTPUT, "attn_output.weight", "attention.out_lin.weight", {D, A}, .flags = MATRIX},
    {CBM_ATTENTION_OUTPUT_BIAS, "attn_output.bias", "attention.out_lin.bias", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM, "attn_output_norm.weight", "sa_layer_norm.weight", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM_BIAS, "attn_output_norm.bias", "sa_layer_norm.bias", {D}, .flags = VECTOR},
    {CBM_FEED_UP, "ffn_up.weight", "ffn.lin1.weight", {F, D}, .flags = MATRIX},
    {CBM_FEED_UP_BIAS, "ffn_up.bias", "ffn.lin1.bias", {F}, .flags = VECTOR},
    {CBM_FEED_DOWN, "ffn_down.weight", "ffn.lin2.weight", {D, F}, .flags = MATRIX},
    {CBM_FEED_DOWN_BIAS, "ffn_down.bias", "ffn.lin2.bias", {D}, .flags = VECTOR},
    {CBM_FEED_NORM, "layer_output_norm.weight", "output_layer_norm.weight", {D}, .flags = VECTOR},
    {CBM_FEED_NORM_BIAS, "layer_output_norm.bias", "output_layer_norm.bias", {D}, .flags = VECTOR},
};

static const cbm_key keys[] = {
    {NULL, "vocab_size", CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {"context_length", "max_position_embeddings", CBM_KEY_SIZE, FIELD(context), 512},
    {"embedding_length", "dim", CBM_KEY_SIZE, FIELD(hidden), 0},
    {"feed_forward_length", "hidden_dim", CBM_KEY_SIZE, FIELD(feed_forward), 0},
    {"block_count", "n_layers", CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"attention.head_count", "n_heads", CBM_KEY_COUNT, FIELD(n_heads), 0},
    {"attention.layer_norm_epsilon", NULL, CBM_KEY_FRACTION, FIELD(epsilon), 1e-12},
    {"attention.causal", NULL, CBM_KEY_SWITCH, FIELD(causal), 0},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 1},
    {"sparsecbm.activation", "activation", CBM_KEY_ACTIVATION, FIELD(activation), SCBM_GELU_ERF},
    {"sparsecbm.hidden_dropout", "dropout", CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "attention_dropout", CBM_KEY_FRACTION, FIELD(attention_dropout), 0.1},
};
/* clang-format on */

static const char *const prefixes[] = {"distilbert.", NULL};
static const char *const unused[] = {
    "vocab_transform.", "vocab_layer_norm.", "vocab_projector.",        "pre_classifier.",
    "classifier.",      "qa_outputs.",       "embeddings.position_ids", NULL};

const cbm_architecture cbm_distilbert = {
    .name = "bert",
    .title = "DistilBERT",
    .family = "distilbert",
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .encode = cbm_encode_bert,
    .hf_type = "distilbert",
    .hf_examples = "distilbert-base-uncased, multi-qa-distilbert",
    .hf_class = "DistilBert",
    .hf_prefixes = prefixes,
    .hf_block = "transformer.layer.",
    .hf_unused = unused,
};
