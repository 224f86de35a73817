/*
 * models/prune/popup.h - learned scores (edge-popup; Ramanujan et al., CVPR 2020)
 *
 * One score for each prunable weight and concept. The forward pass uses the weights with the largest |score| (or, in the
 * structured form, the rows with the largest norm of scores); the gradient goes straight through to the scores:
 * d loss / d score = (d loss / d (W ⊙ M)) ⊙ W · sign(score).
 */
#ifndef CBM_POPUP_H
#define CBM_POPUP_H

#include "models/prune/method.h"

/* What a run keeps in its `state`. */
typedef struct cbm_popup {
    scbm_tensor *score, *gradient; /* [matrices]: F32 [K, out, in] */
    scbm_tensor **scores;          /* [matrices]: pointers to the above, as the optimizer wants them */
    scbm_tensor **gradients;
    scbm_tensor *weight_gradient; /* [matrices]: F32 [out, in]; NULL where the weights stay as they are */
    scbm_adamw *optimizer;
} cbm_popup;

#endif
