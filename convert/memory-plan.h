/*
 * convert/memory-plan.h - what a conversion needs of memory
 */
#ifndef CONVERT_MEMORY_PLAN_H
#define CONVERT_MEMORY_PLAN_H

#include "convert/hf-weights.h"
#include "models/cbm-train.h"

/* When the folder has been read but for its weights. More than there may be is an error that says what would take less. */
scbm_status cbm_plan_conversion(const hf_weights *weights, const char *folder, const cbm_convert_options *options,
                                cbm_memory_plan *plan);

#endif
