/*
 * models/train/memory/memory.h - what a run will need of memory
 */
#ifndef CBM_TRAIN_MEMORY_H
#define CBM_TRAIN_MEMORY_H

#include "models/train/run.h"

/* What the run would need with other settled options. The run has its network and its texts, and no graph yet. */
scbm_status cbm_memory_measure(cbm_training_run *run, const cbm_train_options *options, cbm_memory_plan *plan);
/* Says in plan->advice which settings would make it fit. */
scbm_status cbm_memory_advise(cbm_training_run *run, cbm_memory_plan *plan);

#endif
