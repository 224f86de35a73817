/*
 * models/explain/gradient-input.c - gradient × input: Σ_d e_d ∂c/∂e_d of each token
 */
#include "models/explain/methods.h"

static scbm_status compute_gradient_input(cbm_explainer *x, float *value) {
    const int64_t n_tokens = x->group.n_tokens, width = cbm_explainer_network(x)->backbone.embedding_width;
    for (int unit = 0; unit < cbm_explainer_units(x); unit++) {
        const float *gradient = x->group.gradient + unit * n_tokens * width;
        for (int64_t t = 0; t < n_tokens; t++)
            value[unit * n_tokens + t] = (float)cbm_explain_dot(gradient + t * width, x->group.embedding + t * width,
                                                                NULL, width);
    }
    return SCBM_OK;
}

const cbm_attribution_kind cbm_attribution_gradient_input = {
    .shown = {.name = "gradient_input", .title = "gradient × input"},
    .needs = CBM_NEEDS_GRADIENT,
    .compute = compute_gradient_input,
};
