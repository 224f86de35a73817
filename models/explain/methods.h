/*
 * models/explain/methods.h - ways to attribute a logit to tokens: a table with one row a method
 *
 * A further method is a file with its compute function and a row in methods.c; explanations, faithfulness, reports and JSON
 * loop over the rows.
 */
#ifndef CBM_METHODS_H
#define CBM_METHODS_H

#include "models/explain/explain.h"

/* What a method needs; bits. */
enum {
    CBM_NEEDS_GRADIENT = 1, /* ∂c/∂e at the text itself: group.gradient */
    CBM_NEEDS_STEPS = 2,    /* it is left out where there are no steps */
    CBM_NEEDS_ATTENTION = 4 /* it is left out where the encoder has no attention */
};

typedef struct cbm_attribution_kind {
    cbm_attribution_method shown; /* name, title, adds_up, is_baseline */
    unsigned needs;
    /* Fills value [units, tokens of the group] for the texts at hand. A pass over the encoder is a walk of points
     * (cbm_walk_points), or a graph of its own. */
    scbm_status (*compute)(cbm_explainer *x, float *value);
} cbm_attribution_kind;

/* NULL: there is none of this number. */
const cbm_attribution_kind *cbm_attribution_kind_at(int method);

scbm_status cbm_compute_gradient_input(cbm_explainer *x, float *value);
scbm_status cbm_compute_integrated_gradients(cbm_explainer *x, float *value);
scbm_status cbm_compute_attention(cbm_explainer *x, float *value);
scbm_status cbm_compute_random(cbm_explainer *x, float *value);

#endif
