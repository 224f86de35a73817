/*
 * models/core/network.h - a backbone with heads, and what is between them. A loaded model and a training run each have
 * one: the first reads its tensors from the file, the second owns them
 */
#ifndef CBM_NETWORK_H
#define CBM_NETWORK_H

#include "models/backbones/backbone.h"
#include "models/core/heads.h"

typedef struct cbm_network {
    cbm_backbone backbone;
    cbm_heads heads;
    cbm_pooling pooling; /* what the heads read of a text's tokens; never CBM_POOL_FILE */
} cbm_network;

/* How a file's network pools: by `sparsecbm.pooling`, which training writes, else by the architecture's own key. Models of
 * format 1 were trained on means, whatever their encoder's key says. The heads are those of the file. */
scbm_status cbm_pooling_read(cbm_network *network, const scbm_file *file);

/* SCBM_ERROR_ARGUMENT where the encoder's texts cannot be pooled so. */
scbm_status cbm_pooling_check(const cbm_backbone *backbone, cbm_pooling pooling);
/* Hidden states [S, tokens, d] to vectors [S, texts, d], not by CBM_POOL_FILE. */
scbm_tensor *cbm_pool(scbm_graph *graph, const cbm_encoding *encoding, cbm_pooling pooling);
/* As the network pools. */
scbm_tensor *cbm_network_pool(scbm_graph *graph, const cbm_network *network, const cbm_encoding *encoding);
/* The concepts' logits [texts, C] of pooled vectors, a stream for each concept or one for all; the label's [texts, Y] in
 * vanilla mode. */
scbm_tensor *cbm_network_logits(scbm_graph *graph, const cbm_network *network, scbm_tensor *pooled);

#endif
