/*
 * models/base/names.h - the names of a model's labels, concepts and their classes
 */
#ifndef CBM_NAMES_H
#define CBM_NAMES_H

#include "sparsecbm.h"

/* Concept k's classes are class_name[groups[k]] … class_name[groups[k + 1] - 1]. The strings are someone else's. */
typedef struct cbm_names {
    int n_labels, n_concepts;      /* n_concepts -1: concepts are not looked at */
    const char *const *label_name; /* [n_labels] */
    const char *const *concept_name;
    const char *const *class_name;
    const int32_t *groups;
} cbm_names;

#endif
