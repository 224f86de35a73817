/*
 * models/backbones/t5.c - T5's encoder (Raffel et al., 2020) and version 1.1's, whose feed-forward layer has a gate
 *
 * RMS norms before attention and feed-forward layer, no biases but those of distances, scores that are not scaled. Tensors
 * are named as llama.cpp's "t5encoder" names them. What leaves the feed-forward layers is too large for f16 in some
 * checkpoints, so their second matrix is no f16 (transformers keeps it f32, too).
 */
#include "models/backbones/architecture.h"
#include "models/backbones/blocks.h"

#define TABLE CBM_IS_MATRIX
#define MATRIX (CBM_IN_BLOCK | CBM_IS_MATRIX | CBM_PRUNABLE | CBM_QUANTIZED)
#define VECTOR CBM_IN_BLOCK
#define V CBM_VOCABULARY_SIZE
#define E CBM_EMBEDDING_SIZE
#define D CBM_HIDDEN_SIZE
#define A CBM_ATTENTION_SIZE
#define F CBM_FEED_FORWARD_SIZE
#define FIELD(name) offsetof(cbm_backbone, name)

/* clang-format off */
static const cbm_row rows[] = {
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", "shared.weight", {V, E}, .flags = TABLE | CBM_QUANTIZED},
    {CBM_DISTANCE_BIAS, "enc.blk.0.attn_rel_b.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", {CBM_BUCKETS_SIZE, CBM_HEADS_SIZE}, .flags = TABLE},
    {CBM_FINAL_NORM, "enc.output_norm.weight", "encoder.final_layer_norm.weight", {D}, .flags = 0},
    {CBM_ATTENTION_NORM, "enc.attn_norm.weight", "layer.0.layer_norm.weight", {D}, .flags = VECTOR},
    {CBM_QUERY, "enc.attn_q.weight", "layer.0.SelfAttention.q.weight", {A, D}, .flags = MATRIX},
    {CBM_KEY, "enc.attn_k.weight", "layer.0.SelfAttention.k.weight", {A, D}, .flags = MATRIX},
    {CBM_VALUE, "enc.attn_v.weight", "layer.0.SelfAttention.v.weight", {A, D}, .flags = MATRIX},
    {CBM_ATTENTION_OUTPUT, "enc.attn_o.weight", "layer.0.SelfAttention.o.weight", {D, A}, .flags = MATRIX},
    {CBM_FEED_NORM, "enc.ffn_norm.weight", "layer.1.layer_norm.weight", {D}, .flags = VECTOR},
    {CBM_FEED_GATE, "enc.ffn_gate.weight", "layer.1.DenseReluDense.wi_0.weight", {F, D}, .flags = MATRIX, .when = CBM_IF_GATED},
    {CBM_FEED_UP, "enc.ffn_up.weight", "layer.1.DenseReluDense.wi_1.weight", {F, D}, .flags = MATRIX, .when = CBM_IF_GATED},
    {CBM_FEED_UP, "enc.ffn_up.weight", "layer.1.DenseReluDense.wi.weight", {F, D}, .flags = MATRIX, .when = CBM_IF_NOT_GATED},
    {CBM_FEED_DOWN, "enc.ffn_down.weight", "layer.1.DenseReluDense.wo.weight", {D, F}, .flags = MATRIX | CBM_NOT_F16},
};

static const cbm_key keys[] = {
    {NULL, "vocab_size", CBM_KEY_SIZE, FIELD(vocabulary), 0},
    {"context_length", NULL, CBM_KEY_SIZE, FIELD(context), 512},
    {"embedding_length", "d_model", CBM_KEY_SIZE, FIELD(hidden), 0},
    {"feed_forward_length", "d_ff", CBM_KEY_SIZE, FIELD(feed_forward), 0},
    {"block_count", "num_layers", CBM_KEY_COUNT, FIELD(n_blocks), 0},
    {"attention.head_count", "num_heads", CBM_KEY_COUNT, FIELD(n_heads), 0},
    {"attention.key_length", "d_kv", CBM_KEY_SIZE, FIELD(head_size), 64},
    {"attention.layer_norm_rms_epsilon", "layer_norm_epsilon", CBM_KEY_FRACTION, FIELD(epsilon), 1e-6},
    {"attention.relative_buckets_count", "relative_attention_num_buckets", CBM_KEY_COUNT, FIELD(n_buckets), 32},
    {"sparsecbm.max_distance", "relative_attention_max_distance", CBM_KEY_COUNT, FIELD(max_distance), 128},
    {"attention.causal", NULL, CBM_KEY_SWITCH, FIELD(causal), 0},
    {"sparsecbm.unscaled", NULL, CBM_KEY_SWITCH, FIELD(unscaled), 1},
    {"pooling_type", NULL, CBM_KEY_POOLING, FIELD(pooling), 1},
    {"sparsecbm.activation", "feed_forward_proj", CBM_KEY_ACTIVATION, FIELD(activation), SCBM_RELU},
    {"sparsecbm.gated", "feed_forward_proj", CBM_KEY_GATED, FIELD(gated), 0},
    {"sparsecbm.hidden_dropout", "dropout_rate", CBM_KEY_FRACTION, FIELD(hidden_dropout), 0.1},
    {"sparsecbm.attention_dropout", "dropout_rate", CBM_KEY_FRACTION, FIELD(attention_dropout), 0.1},
};
/* clang-format on */

static const char *const prefixes[] = {"transformer.", NULL};
/* The decoder, heads, and the encoder's own name of the embeddings that it shares. */
static const char *const unused[] = {"decoder.", "lm_head.", "encoder.embed_tokens.", "classification_head.", NULL};

static void encode(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding) {
    const cbm_builder builder = {backbone, graph, options, encoding};
    const cbm_block_form form = {.pre_norm = 1, .drops_inside = 1, .distances = cbm_distance_biases(&builder)};
    cbm_encode_blocks(&builder, &form, cbm_add_embeddings(&builder, cbm_word_embeddings(&builder)));
}

const cbm_architecture cbm_t5 = {
    .name = "t5encoder",
    .title = "T5",
    .rms_norm = 1,
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .encode = encode,
    .hf_type = "t5",
    .hf_examples = "t5-small, t5-v1_1-base, flan-t5-base, gtr-t5",
    .hf_class = "T5Encoder",
    .hf_prefixes = prefixes,
    .hf_block = "encoder.block.",
    .hf_unused = unused,
};
