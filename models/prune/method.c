/*
 * models/prune/method.c - the table of prune methods, and what is asked of it by name
 */
#include "models/prune/method.h"

#include <stdio.h>
#include <string.h>

#define CBM_PRUNE_ROW(name) &cbm_prune_##name,
static const cbm_prune_kind *const kinds[] = {CBM_PRUNE_METHODS(CBM_PRUNE_ROW)};
#undef CBM_PRUNE_ROW

enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

const char *cbm_prune_method_name(int index) {
    return index >= 0 && index < N_KINDS ? kinds[index]->name : NULL;
}

const char *cbm_prune_method_help(int index) {
    return index >= 0 && index < N_KINDS ? kinds[index]->help : NULL;
}

static scbm_status refuse_name(const char *method) {
    char names[256] = "";
    for (int i = 0; i < N_KINDS; i++) {
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", kinds[i]->name);
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: there is no method '%.64s'; there are none, %s", method, names);
}

scbm_status cbm_prune_find(const char *method, const cbm_prune_kind **kind) {
    *kind = NULL;
    if (!method || strcmp(method, "none") == 0) return SCBM_OK;
    for (int i = 0; i < N_KINDS && !*kind; i++)
        if (strcmp(kinds[i]->name, method) == 0) *kind = kinds[i];
    return *kind ? SCBM_OK : refuse_name(method);
}
