/*
 * models/explain/random.c - random attributions: a baseline
 */
#include "models/explain/methods.h"

static scbm_status compute_random(cbm_explainer *x, float *value) {
    const uint64_t n_units = (uint64_t)cbm_explainer_units(x);
    for (int i = 0; i < x->group.n_texts; i++) {
        const cbm_group_text *text = &x->group.text[i];
        for (uint64_t u = 0; u < n_units; u++) {
            scbm_random random = {x->plan.seed, text->number * n_units + u, 0};
            for (int64_t t = text->first_token; t < text->first_token + text->n_tokens; t++)
                if (!x->group.tokens[t].is_special)
                    value[u * (uint64_t)x->group.n_tokens + (uint64_t)t] = (float)scbm_random_uniform(&random);
        }
    }
    return SCBM_OK;
}

const cbm_attribution_kind cbm_attribution_random = {
    .shown = {.name = "random", .title = "random", .is_baseline = 1},
    .compute = compute_random,
};
