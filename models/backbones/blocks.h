/*
 * models/backbones/blocks.h - pieces of which architectures build their graphs
 *
 * What is there decides: a bias, a gate, positions, token types or a norm that an architecture has no row for, or an
 * optional one that its file lacks, is left out.
 */
#ifndef CBM_BLOCKS_H
#define CBM_BLOCKS_H

#include "models/backbones/backbone.h"

/* An encoder's graph while it is built. */
typedef struct cbm_builder {
    const cbm_backbone *backbone;
    scbm_graph *graph;
    const cbm_encode_options *options;
    cbm_encoding *encoding;
} cbm_builder;

/* How an architecture's blocks differ from BERT's, which is all zeros. */
typedef struct cbm_block_form {
    int pre_norm;           /* norms before attention and feed-forward layer instead of behind each sum */
    int drops_inside;       /* in training the feed-forward layer's neurons are dropped, too */
    scbm_tensor *distances; /* what is added to the scores, of cbm_distance_biases; NULL: nothing */
} cbm_block_form;

/* x [S or 1, T, in] through a linear layer: [S, T, out]. `block` is -1 outside the blocks. */
scbm_tensor *cbm_linear(const cbm_builder *builder, cbm_role role, int block, scbm_tensor *x,
                        scbm_activation activation);
/* The architecture's norm of x, or of x + residual where that is not NULL. */
scbm_tensor *cbm_norm(const cbm_builder *builder, cbm_role role, int block, scbm_tensor *x, scbm_tensor *residual);

/* The words' embeddings [1, T, width], or those that the options give. */
scbm_tensor *cbm_word_embeddings(const cbm_builder *builder);
/* What is added to them: token type, position, the norm of their sum, and dropout. */
scbm_tensor *cbm_add_embeddings(const cbm_builder *builder, scbm_tensor *x);

/* An LSTM over x [S or 1, T, in] in one direction; `input` and `state` are its matrices' roles: [S, T, hidden / 2]. */
scbm_tensor *cbm_lstm(const cbm_builder *builder, cbm_role input, cbm_role state, int block, scbm_tensor *x,
                      int reverse);

/* The biases of attention by distance, for all blocks: [1, 2 · longest text - 1, heads]; NULL where there are none. */
scbm_tensor *cbm_distance_biases(const cbm_builder *builder);

/* x [S or 1, T, d] through attention, or a feed-forward layer, with residual and norm: [S, T, d]. */
scbm_tensor *cbm_attention_block(const cbm_builder *builder, const cbm_block_form *form, int block, scbm_tensor *x);
scbm_tensor *cbm_feed_forward_block(const cbm_builder *builder, const cbm_block_form *form, int block, scbm_tensor *x);
/* All the blocks, the last norm, the projection of what comes out, and the states that the options ask for; sets
 * encoding->hidden. */
void cbm_encode_blocks(const cbm_builder *builder, const cbm_block_form *form, scbm_tensor *x);
/* The whole graph of BERT and of those that differ from it by their rows alone. */
void cbm_encode_bert(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                     cbm_encoding *encoding);

#endif
