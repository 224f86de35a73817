/*
 * models/train/statistics.h - what a model file says of the concepts' values over the training data
 */
#ifndef CBM_STATISTICS_H
#define CBM_STATISTICS_H

#include "models/core/model-file.h"
#include "models/cbm-train.h"

scbm_status cbm_statistics_create(cbm_statistics *statistics, const cbm_heads *heads, const scbm_hooks *hooks);
void cbm_statistics_clear(cbm_statistics *statistics, const scbm_hooks *hooks);
/* `logits` [n, C] are the network's for every text of the data. */
scbm_status cbm_statistics_compute(cbm_statistics *statistics, const cbm_heads *heads, const cbm_dataset *data,
                                   const float *logits, const scbm_hooks *hooks);

#endif
