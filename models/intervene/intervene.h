/*
 * models/intervene/intervene.h - a context's interventions from the inside
 */
#ifndef CBM_INTERVENE_H
#define CBM_INTERVENE_H

#include "models/core/context.h"

/* The masks I8 [1, out, row bytes] of a weight as the last mask intervention left them; NULL: there are none. */
const scbm_tensor *cbm_overlay_masks(const cbm_context *ctx, const scbm_tensor *weight);

#endif
