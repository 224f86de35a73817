/*
 * models/explain/methods.h - ways to attribute a logit to tokens: a table with one row a method
 *
 * A further method is a file that defines cbm_attribution_NAME, and its name in the list below; explanations, faithfulness,
 * reports and JSON loop over the rows.
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

/* The table, in the order of the methods' numbers: new ones go to the end. */
#define CBM_ATTRIBUTION_KINDS(row) row(gradient_input) row(integrated_gradients) row(attention) row(random)

#define CBM_DECLARE_KIND(name) extern const cbm_attribution_kind cbm_attribution_##name;
CBM_ATTRIBUTION_KINDS(CBM_DECLARE_KIND)
#undef CBM_DECLARE_KIND

/* NULL: there is none of this number. */
const cbm_attribution_kind *cbm_attribution_kind_at(int method);

#endif
