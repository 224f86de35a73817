/*
 * models/explain/methods.c - the table of attribution methods
 */
#include "models/explain/methods.h"

#include <string.h>

static const cbm_attribution_kind kinds[] = {
    /* name, title, adds up, is a baseline; needs; compute */
    {{"gradient_input", "gradient × input", 0, 0}, CBM_NEEDS_GRADIENT, cbm_compute_gradient_input},
    {{"integrated_gradients", "integrated gradients", 1, 0}, CBM_NEEDS_STEPS, cbm_compute_integrated_gradients},
    {{"attention", "attention", 0, 1}, CBM_NEEDS_ATTENTION, cbm_compute_attention},
    {{"random", "random", 0, 1}, 0, cbm_compute_random},
};

enum { N_KINDS = sizeof kinds / sizeof kinds[0] };
_Static_assert(N_KINDS <= CBM_MOST_METHODS, "sets of methods are bits of a word");

const cbm_attribution_kind *cbm_attribution_kind_at(int method) {
    return method >= 0 && method < N_KINDS ? &kinds[method] : NULL;
}

int cbm_n_attribution_methods(void) {
    return N_KINDS;
}

const cbm_attribution_method *cbm_attribution_method_at(int method) {
    return method >= 0 && method < N_KINDS ? &kinds[method].shown : NULL;
}

int cbm_find_attribution_method(const char *name) {
    for (int m = 0; name && m < N_KINDS; m++)
        if (strcmp(kinds[m].shown.name, name) == 0) return m;
    return -1;
}
