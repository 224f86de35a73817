/*
 * models/core/network.c - from an encoder's hidden states to what the heads say: the one place where texts are pooled
 */
#include "models/backbones/architecture.h"
#include "models/core/keys.h"
#include "models/core/network.h"

#include <string.h>

static const char *const pooling_names[] = {"file", "mean", "first", "last", "attention"};
enum { N_POOLINGS = sizeof pooling_names / sizeof pooling_names[0] };

const char *cbm_pooling_name(cbm_pooling pooling) {
    return (unsigned)pooling < N_POOLINGS ? pooling_names[pooling] : NULL;
}

scbm_status cbm_pooling_read(cbm_network *network, const scbm_file *file) {
    const char *name;
    int is_of_format_1 = network->heads.mode != CBM_ENCODER && scbm_file_find_key(file, CBM_KEY_FORMAT_1) >= 0;
    network->pooling = is_of_format_1 ? CBM_POOL_MEAN : (cbm_pooling)network->backbone.pooling;
    if (scbm_file_find_key(file, CBM_KEY_POOLING) < 0) return SCBM_OK;
    scbm_status status = scbm_file_get_string(file, CBM_KEY_POOLING, &name);
    if (status) return status;
    for (int i = CBM_POOL_MEAN; i < N_POOLINGS; i++) {
        if (strcmp(pooling_names[i], name) == 0) {
            network->pooling = (cbm_pooling)i;
            if (!cbm_pooling_check(&network->backbone, network->pooling)) return SCBM_OK;
            return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: %s", scbm_file_path(file), scbm_last_error());
        }
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: %s is '%s'; mean, first, last and attention are known",
                     scbm_file_path(file), CBM_KEY_POOLING, name);
}

scbm_status cbm_pooling_check(const cbm_backbone *backbone, cbm_pooling pooling) {
    if (!cbm_pooling_name(pooling)) return scbm_fail(SCBM_ERROR_ARGUMENT, "%d is no way to pool", (int)pooling);
    if (pooling != CBM_POOL_ATTENTION || backbone->architecture->is_recurrent) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT, "the tokens of %s are not pooled by attention: mean, first and last are left",
                     backbone->architecture->title);
}

scbm_tensor *cbm_pool(scbm_graph *g, const cbm_encoding *encoding, cbm_pooling pooling) {
    switch (pooling) {
    case CBM_POOL_FIRST: return scbm_segment_first(g, encoding->hidden, encoding->offsets);
    case CBM_POOL_LAST: return scbm_segment_last(g, encoding->hidden, encoding->offsets);
    case CBM_POOL_ATTENTION: {
        scbm_tensor *y = scbm_attention(g, encoding->summary, encoding->hidden, encoding->hidden, encoding->offsets, 1,
                                        1.0f, 0, 0.0f);
        return scbm_segment_last(g, y, encoding->offsets);
    }
    case CBM_POOL_MEAN:
    case CBM_POOL_FILE: break;
    }
    return scbm_segment_mean(g, encoding->hidden, encoding->offsets);
}

scbm_tensor *cbm_network_pool(scbm_graph *g, const cbm_network *network, const cbm_encoding *encoding) {
    return cbm_pool(g, encoding, network->pooling);
}

scbm_tensor *cbm_network_logits(scbm_graph *g, const cbm_network *network, scbm_tensor *pooled) {
    const cbm_heads *heads = &network->heads;
    if (heads->mode == CBM_VANILLA)
        return scbm_group_linear(g, pooled, heads->label_weight, heads->label_bias,
                                 (scbm_tensor *)&heads->label_group_tensor);
    return scbm_group_linear(g, pooled, heads->concept_weight, heads->concept_bias,
                             (scbm_tensor *)&heads->group_tensor);
}
