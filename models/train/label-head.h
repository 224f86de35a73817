/*
 * models/train/label-head.h - the label head trained alone
 */
#ifndef CBM_LABEL_HEAD_H
#define CBM_LABEL_HEAD_H

#include "models/core/heads.h"
#include "models/cbm-train.h"

/* Trains the label head alone, on values u [n, C] of n texts and their labels (below 0: ignored), from zeros to close
 * to the least loss. The result does not depend on the head's weights before. */
scbm_status cbm_fit_label_head(cbm_heads *heads, scbm_context *context, const float *values, const int32_t *labels,
                               int64_t n, scbm_tensor *class_weights);
/* The gold concepts of every text as values [n, C]: one-hot; where one is missing, its classes' frequencies. */
scbm_status cbm_gold_values(const cbm_heads *heads, const cbm_dataset *data, float *values, const scbm_hooks *hooks);

#endif
