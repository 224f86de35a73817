/*
 * models/prune/popup.h - learned scores (edge-popup; Ramanujan et al., CVPR 2020)
 *
 * One score for each prunable weight and concept. The forward pass uses the weights with the largest |score| (or, in the
 * structured form, the rows with the largest norm of scores); the gradient goes straight through to the scores:
 * d loss / d score = (d loss / d (W ⊙ M)) ⊙ W · sign(score).
 */
#ifndef CBM_POPUP_H
#define CBM_POPUP_H

#include "models/prune/choose.h"

/* What a run keeps in its `state`. */
typedef struct cbm_popup {
    scbm_tensor *score;      /* [matrices]: F32 [K, out, in] */
    scbm_tensor *sum;        /* of their gradients, where a step has several batches; else without data */
    scbm_tensor **scores;    /* [matrices]: pointers to the scores, as the optimizer wants them, */
    scbm_tensor **gradients; /* and to their gradients, of the graph that computes them */
    scbm_tensor **zeros;     /* [matrices]: inputs of the graph that chooses the masks */
    scbm_adamw *optimizer;
} cbm_popup;

#endif
