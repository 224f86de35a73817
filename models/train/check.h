/*
 * models/train/check.h - whether models and data fit each other
 */
#ifndef CBM_TRAIN_CHECK_H
#define CBM_TRAIN_CHECK_H

#include "models/core/heads.h"
#include "models/cbm-train.h"

/* Checks that a data set's classes are those of the model at `path` that `into`, made for the data, takes something
 * from; its concepts have the same names, too. Where `into` is vanilla, the label's classes alone. */
scbm_status cbm_check_heads(const cbm_heads *from, const cbm_heads *into, const cbm_dataset *data, const char *path);

/* Whether data can be trained on (or validated on, beside the training data) in a mode; `what` names them. */
scbm_status cbm_check_train_data(const cbm_dataset *data, const cbm_dataset *train, const char *what, cbm_mode mode,
                                 const char *const *concept_names);

/* Warns of a label or a concept of which the training data have one class, or none. */
void cbm_say_single_classes(const cbm_dataset *train, int n_concepts, const char *const *concept_names,
                            const scbm_hooks *hooks);

#endif
