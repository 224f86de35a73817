/*
 * models/prune/choose.h - the choice of all matrices' new masks
 */
#ifndef CBM_PRUNE_CHOOSE_H
#define CBM_PRUNE_CHOOSE_H

#include "models/prune/method.h"

/* Chooses the masks of all matrices and concepts anew, at run->sparsity. All change at the end, together: until then, and
 * where it fails, they are what they were. */
scbm_status cbm_prune_set_masks(cbm_prune_run *run, cbm_prune_report *report);
/* The bytes that it works with: for the new masks, and for scores. */
size_t cbm_prune_mask_bytes(const cbm_prune_run *run);
size_t cbm_prune_score_bytes(const cbm_prune_run *run);

#endif
