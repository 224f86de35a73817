/*
 * models/train/check.c - whether models and data fit each other
 */
#include "models/train/check.h"

#include <string.h>

scbm_status cbm_check_heads(const cbm_heads *from, const cbm_heads *into, const cbm_dataset *data, const char *path) {
    cbm_names names = cbm_heads_names(from);
    if (into->mode == CBM_VANILLA) names.n_concepts = -1;
    scbm_status status = cbm_dataset_check_names(data, &names, path);
    for (int k = 0; k < into->n_concepts && !status; k++)
        if (strcmp(from->concept_name[k], into->concept_name[k]) != 0)
            status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its concept %d is '%s', and here it is '%s'", path, k + 1,
                               from->concept_name[k], into->concept_name[k]);
    return status;
}
