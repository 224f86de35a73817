/*
 * models/backbones/roberta.c - RoBERTa (Liu et al., 2019) and what has its form: XLM-RoBERTa, CamemBERT
 *
 * BERT in a file of another model. In Hugging Face's tables of positions the first row that is used is the padding
 * token's, which stands at the token's own number; here it is the last one, so that positions begin at row 0 as llama.cpp
 * has them. A padding token that stands in a text gets that row, and counts for no position.
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
    {NULL, "vocab_size", CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {NULL, "type_vocab_size", CBM_KEY_SIZE, FIELD(types), 2},
    {"sparsecbm.position_padding", "pad_token_id", CBM_KEY_TOKEN, FIELD(padding), 1},
    {"context_length", "max_position_embeddings", CBM_KEY_SIZE, FIELD(context), 512},
    {"embedding_length", "hidden_size", CBM_KEY_SIZE, FIELD(hidden), 0},
    {"feed_forward_length", "intermediate_size", CBM_KEY_SIZE, FIELD(feed_forward), 0},
    {"block_count", "num_hidden_layers", CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"attention.head_count", "num_attention_heads", CBM_KEY_COUNT, FIELD(n_heads), 0},
    {"attention.layer_norm_epsilon", "layer_norm_eps", CBM_KEY_FRACTION, FIELD(epsilon), 1e-12},
    {"attention.causal", NULL, CBM_KEY_SWITCH, FIELD(causal), 0},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 1},
    {"sparsecbm.activation", "hidden_act", CBM_KEY_ACTIVATION, FIELD(activation), SCBM_GELU_ERF},
    {"sparsecbm.hidden_dropout", "hidden_dropout_prob", CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "attention_probs_dropout_prob", CBM_KEY_FRACTION, FIELD(attention_dropout), 0.1},
};
/* clang-format on */

static const char *const prefixes[] = {"roberta.", NULL};
static const char *const unused[] = {
    "pooler.", "lm_head.", "classifier.", "qa_outputs.", "embeddings.position_ids", "embeddings.token_type_ids", NULL};
static const cbm_demand demands[] = {{"position_embedding_type", "absolute"}, {NULL, NULL}};

/* They differ in nothing but their names. */
#define ARCHITECTURE(type, called, of_class, examples)                                                                 \
    {                                                                                                                  \
        .name = "bert", .title = called, .family = type, .keys = keys, .n_keys = sizeof keys / sizeof keys[0],         \
        .rows = rows, .n_rows = sizeof rows / sizeof rows[0], .encode = cbm_encode_bert, .hf_counts_padding = 1,       \
        .hf_type = type, .hf_examples = examples, .hf_class = of_class, .hf_prefixes = prefixes,                       \
        .hf_block = "encoder.layer.", .hf_unused = unused, .hf_demands = demands                                       \
    }

const cbm_architecture cbm_roberta = ARCHITECTURE("roberta", "RoBERTa", "Roberta",
                                                  "roberta-base, distilroberta-base, all-distilroberta-v1");
const cbm_architecture cbm_xlm_roberta = ARCHITECTURE("xlm-roberta", "XLM-RoBERTa", "XLMRoberta",
                                                      "xlm-roberta-base, multilingual-e5-base, bge-m3");
const cbm_architecture cbm_camembert = ARCHITECTURE("camembert", "CamemBERT", "Camembert", "camembert-base");
