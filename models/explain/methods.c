/*
 * models/explain/methods.c - the table of attribution methods
 */
#include "models/explain/methods.h"

#include <string.h>

#define ROW(name) &cbm_attribution_##name,
static const cbm_attribution_kind *const kinds[] = {CBM_ATTRIBUTION_KINDS(ROW)};
#undef ROW

enum { N_KINDS = sizeof kinds / sizeof kinds[0] };
_Static_assert(N_KINDS <= CBM_MOST_METHODS, "sets of methods are bits of a word");

const cbm_attribution_kind *cbm_attribution_kind_at(int method) {
    return method >= 0 && method < N_KINDS ? kinds[method] : NULL;
}

int cbm_attribution_method_count(void) {
    return N_KINDS;
}

const cbm_attribution_method *cbm_attribution_method_at(int method) {
    return method >= 0 && method < N_KINDS ? &kinds[method]->shown : NULL;
}

int cbm_attribution_method_find(const char *name) {
    for (int m = 0; name && m < N_KINDS; m++)
        if (strcmp(kinds[m]->shown.name, name) == 0) return m;
    return -1;
}
