/*
 * models/backbones/gpt2.c - GPT-2 (Radford et al., 2019): norms before attention and feed-forward layer, causal
 *
 * Matrices are stored [in, out] in a folder, with those of queries, keys and values in one; here they are three,
 * which the model file of a plain encoder has in one, too, as llama.cpp wants it.
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
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", "wte.weight", {V, E}, .flags = TABLE | CBM_QUANTIZED},
    {CBM_POSITION_EMBEDDING, "position_embd.weight", "wpe.weight", {P, D}, .flags = TABLE},
    {CBM_FINAL_NORM, "output_norm.weight", "ln_f.weight", {D}, .flags = 0},
    {CBM_FINAL_NORM_BIAS, "output_norm.bias", "ln_f.bias", {D}, .flags = 0},
    {CBM_ATTENTION_NORM, "attn_norm.weight", "ln_1.weight", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM_BIAS, "attn_norm.bias", "ln_1.bias", {D}, .flags = VECTOR},
    {CBM_QUERY, "attn_q.weight", "attn.c_attn.weight", {A, D}, .flags = MATRIX, .is_transposed = 1, .fused = "attn_qkv.weight", .part = 0, .parts = 3},
    {CBM_QUERY_BIAS, "attn_q.bias", "attn.c_attn.bias", {A}, .flags = VECTOR, .fused = "attn_qkv.bias", .part = 0, .parts = 3},
    {CBM_KEY, "attn_k.weight", "attn.c_attn.weight", {A, D}, .flags = MATRIX, .is_transposed = 1, .fused = "attn_qkv.weight", .part = 1, .parts = 3},
    {CBM_KEY_BIAS, "attn_k.bias", "attn.c_attn.bias", {A}, .flags = VECTOR, .fused = "attn_qkv.bias", .part = 1, .parts = 3},
    {CBM_VALUE, "attn_v.weight", "attn.c_attn.weight", {A, D}, .flags = MATRIX, .is_transposed = 1, .fused = "attn_qkv.weight", .part = 2, .parts = 3},
    {CBM_VALUE_BIAS, "attn_v.bias", "attn.c_attn.bias", {A}, .flags = VECTOR, .fused = "attn_qkv.bias", .part = 2, .parts = 3},
    {CBM_ATTENTION_OUTPUT, "attn_output.weight", "attn.c_proj.weight", {D, A}, .flags = MATRIX, .is_transposed = 1},
    {CBM_ATTENTION_OUTPUT_BIAS, "attn_output.bias", "attn.c_proj.bias", {D}, .flags = VECTOR},
    {CBM_FEED_NORM, "ffn_norm.weight", "ln_2.weight", {D}, .flags = VECTOR},
    {CBM_FEED_NORM_BIAS, "ffn_norm.bias", "ln_2.bias", {D}, .flags = VECTOR},
    {CBM_FEED_UP, "ffn_up.weight", "mlp.c_fc.weight", {F, D}, .flags = MATRIX, .is_transposed = 1},
    {CBM_FEED_UP_BIAS, "ffn_up.bias", "mlp.c_fc.bias", {F}, .flags = VECTOR},
    {CBM_FEED_DOWN, "ffn_down.weight", "mlp.c_proj.weight", {D, F}, .flags = MATRIX, .is_transposed = 1},
    {CBM_FEED_DOWN_BIAS, "ffn_down.bias", "mlp.c_proj.bias", {D}, .flags = VECTOR},
};

static const cbm_key keys[] = {
    {NULL, "vocab_size", CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {"context_length", "n_positions", CBM_KEY_SIZE, FIELD(context), 1024},
    {"embedding_length", "n_embd", CBM_KEY_SIZE, FIELD(hidden), 0},
    {"feed_forward_length", "n_inner", CBM_KEY_SIZE, FIELD(feed_forward), -1},
    {"block_count", "n_layer", CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"attention.head_count", "n_head", CBM_KEY_COUNT, FIELD(n_heads), 0},
    {"attention.layer_norm_epsilon", "layer_norm_epsilon", CBM_KEY_FRACTION, FIELD(epsilon), 1e-5},
    {"attention.causal", NULL, CBM_KEY_SWITCH, FIELD(causal), 1},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 3},
    {"sparsecbm.scales_by_block", "scale_attn_by_inverse_layer_idx", CBM_KEY_SWITCH, FIELD(scales_by_block), 0},
    {"sparsecbm.activation", "activation_function", CBM_KEY_ACTIVATION, FIELD(activation), SCBM_GELU_TANH},
    {"sparsecbm.hidden_dropout", "resid_pdrop", CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "attn_pdrop", CBM_KEY_FRACTION, FIELD(attention_dropout), 0.1},
};
/* clang-format on */

static const char *const prefixes[] = {"transformer.", NULL};
static const char *const unused[] = {"lm_head.", "score.", "classifier.", "multiple_choice_head.", NULL};
/* Buffers: which tokens come before which. */
static const char *const unused_in_block[] = {"attn.bias", "attn.masked_bias", NULL};
static const cbm_demand demands[] = {{"scale_attn_weights", "true"}, {NULL, NULL}};

static void encode(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding) {
    const cbm_builder builder = {backbone, graph, options, encoding};
    const cbm_block_form form = {.pre_norm = 1};
    cbm_encode_blocks(&builder, &form, cbm_add_embeddings(&builder, cbm_word_embeddings(&builder)));
}

const cbm_architecture cbm_gpt2 = {
    .name = "gpt2",
    .title = "GPT-2",
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .encode = encode,
    .hf_type = "gpt2",
    .hf_examples = "gpt2, distilgpt2",
    .hf_class = "GPT2",
    .hf_prefixes = prefixes,
    .hf_block = "h.",
    .hf_unused = unused,
    .hf_unused_in_block = unused_in_block,
    .hf_demands = demands,
};
