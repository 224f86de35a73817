/*
 * models/backbones/opt.c - OPT (Zhang et al., 2022): causal, with positions from row 2 on
 *
 * Most have norms before attention and feed-forward layer and a last one; that of 350 M parameters has them behind the
 * sums and no last one, and projections of the words' embeddings and of what comes out.
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
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", "decoder.embed_tokens.weight", {V, E}, .flags = TABLE | CBM_QUANTIZED},
    {CBM_POSITION_EMBEDDING, "position_embd.weight", "decoder.embed_positions.weight", {P, D}, .flags = TABLE},
    {CBM_EMBEDDING_PROJECTION, "embd_proj.weight", "decoder.project_in.weight", {D, E}, .flags = TABLE | CBM_QUANTIZED, .when = CBM_IF_PROJECTED},
    {CBM_OUTPUT_PROJECTION, "output_proj.weight", "decoder.project_out.weight", {CBM_OUTPUT_SIZE, D}, .flags = TABLE | CBM_QUANTIZED, .when = CBM_IF_PROJECTED},
    {CBM_FINAL_NORM, "output_norm.weight", "decoder.final_layer_norm.weight", {D}, .flags = 0, .when = CBM_IF_PRE_NORM},
    {CBM_FINAL_NORM_BIAS, "output_norm.bias", "decoder.final_layer_norm.bias", {D}, .flags = 0, .when = CBM_IF_PRE_NORM},
    {CBM_ATTENTION_NORM, "attn_norm.weight", "self_attn_layer_norm.weight", {D}, .flags = VECTOR},
    {CBM_ATTENTION_NORM_BIAS, "attn_norm.bias", "self_attn_layer_norm.bias", {D}, .flags = VECTOR},
    {CBM_QUERY, "attn_q.weight", "self_attn.q_proj.weight", {A, D}, .flags = MATRIX},
    {CBM_QUERY_BIAS, "attn_q.bias", "self_attn.q_proj.bias", {A}, .flags = VECTOR},
    {CBM_KEY, "attn_k.weight", "self_attn.k_proj.weight", {A, D}, .flags = MATRIX},
    {CBM_KEY_BIAS, "attn_k.bias", "self_attn.k_proj.bias", {A}, .flags = VECTOR},
    {CBM_VALUE, "attn_v.weight", "self_attn.v_proj.weight", {A, D}, .flags = MATRIX},
    {CBM_VALUE_BIAS, "attn_v.bias", "self_attn.v_proj.bias", {A}, .flags = VECTOR},
    {CBM_ATTENTION_OUTPUT, "attn_output.weight", "self_attn.out_proj.weight", {D, A}, .flags = MATRIX},
    {CBM_ATTENTION_OUTPUT_BIAS, "attn_output.bias", "self_attn.out_proj.bias", {D}, .flags = VECTOR},
    {CBM_FEED_NORM, "ffn_norm.weight", "final_layer_norm.weight", {D}, .flags = VECTOR},
    {CBM_FEED_NORM_BIAS, "ffn_norm.bias", "final_layer_norm.bias", {D}, .flags = VECTOR},
    {CBM_FEED_UP, "ffn_up.weight", "fc1.weight", {F, D}, .flags = MATRIX},
    {CBM_FEED_UP_BIAS, "ffn_up.bias", "fc1.bias", {F}, .flags = VECTOR},
    {CBM_FEED_DOWN, "ffn_down.weight", "fc2.weight", {D, F}, .flags = MATRIX},
    {CBM_FEED_DOWN_BIAS, "ffn_down.bias", "fc2.bias", {D}, .flags = VECTOR},
};

static const cbm_key keys[] = {
    {NULL, "vocab_size", CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {"context_length", "max_position_embeddings", CBM_KEY_SIZE, FIELD(context), 2048},
    {"embedding_length", "hidden_size", CBM_KEY_SIZE, FIELD(hidden), 0},
    {"sparsecbm.embedding_width", "word_embed_proj_dim", CBM_KEY_SIZE, FIELD(embedding_width), -1},
    {"sparsecbm.output_width", "word_embed_proj_dim", CBM_KEY_SIZE, FIELD(output), -1},
    {"feed_forward_length", "ffn_dim", CBM_KEY_SIZE, FIELD(feed_forward), 0},
    {"block_count", "num_hidden_layers", CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"attention.head_count", "num_attention_heads", CBM_KEY_COUNT, FIELD(n_heads), 0},
    {"attention.layer_norm_epsilon", NULL, CBM_KEY_FRACTION, FIELD(epsilon), 1e-5},
    {"attention.causal", NULL, CBM_KEY_SWITCH, FIELD(causal), 1},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 3},
    {"sparsecbm.pre_norm", "do_layer_norm_before", CBM_KEY_SWITCH, FIELD(pre_norm), 1},
    {"sparsecbm.activation", "activation_function", CBM_KEY_ACTIVATION, FIELD(activation), SCBM_RELU},
    {"sparsecbm.hidden_dropout", "dropout", CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "attention_dropout", CBM_KEY_FRACTION, FIELD(attention_dropout), 0.0},
};
/* clang-format on */

static const char *const prefixes[] = {"model.", NULL};
static const char *const unused[] = {"lm_head.", "score.", "qa_outputs.", "decoder.embed_positions.position_ids", NULL};
static const cbm_demand demands[] = {{"_remove_final_layer_norm", "false"},
                                     {"enable_bias", "true"},
                                     {"layer_norm_elementwise_affine", "true"},
                                     {NULL, NULL}};

static void encode(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding) {
    const cbm_builder builder = {backbone, graph, options, encoding};
    const cbm_block_form form = {.pre_norm = backbone->pre_norm};
    scbm_tensor *x = cbm_word_embeddings(&builder);
    if (backbone->embedding_width != backbone->hidden)
        x = cbm_linear(&builder, CBM_EMBEDDING_PROJECTION, -1, x, SCBM_NONE);
    cbm_encode_blocks(&builder, &form, cbm_add_embeddings(&builder, x));
}

const cbm_architecture cbm_opt = {
    .name = "opt",
    .title = "OPT",
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .first_position = 2,
    .encode = encode,
    .hf_type = "opt",
    .hf_examples = "opt-125m, opt-350m, opt-1.3b",
    .hf_class = "OPT",
    .hf_prefixes = prefixes,
    .hf_block = "decoder.layers.",
    .hf_unused = unused,
    .hf_demands = demands,
};
