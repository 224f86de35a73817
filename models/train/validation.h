/*
 * models/train/validation.h - a network measured while it is trained
 */
#ifndef CBM_VALIDATION_H
#define CBM_VALIDATION_H

#include "models/train/graph.h"

typedef struct cbm_validation {
    double loss;                                       /* the training loss, without dropout and MixUp */
    double label_accuracy, concept_accuracy, label_f1, concept_f1;
    double score;                                      /* see cbm_train */
} cbm_validation;

/* Measures a network by what a runner computed for every text of the data. */
scbm_status cbm_validate(cbm_validation *validation, const cbm_heads *heads, const cbm_dataset *data, const float *computed,
                         const cbm_training_settings *settings, const scbm_hooks *hooks);

#endif
