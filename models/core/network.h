/*
 * models/core/network.h - a backbone with heads. A loaded model and a training run each have one: the first
 * reads its tensors from the file, the second owns them
 */
#ifndef CBM_NETWORK_H
#define CBM_NETWORK_H

#include "models/backbones/backbone.h"
#include "models/core/heads.h"

typedef struct cbm_network {
    cbm_backbone backbone;
    cbm_heads heads;
} cbm_network;

#endif
