/*
 * models/prune/choose.h - the choice of all matrices' new masks
 */
#ifndef CBM_PRUNE_CHOOSE_H
#define CBM_PRUNE_CHOOSE_H

#include "models/prune/method.h"

/* Chooses the masks of all matrices and concepts anew, at run->sparsity. All change at the end, together: until then, and
 * where it fails, they are what they were. */
scbm_status cbm_prune_set_masks(cbm_prune_run *run, cbm_prune_report *report);
/* Adds the choice of a matrix's masks by scores. Returns an input, I32 [1]: how many are to be zero. */
scbm_tensor *cbm_prune_add_choice(const cbm_prune_run *run, scbm_graph *graph, int matrix, scbm_tensor *score,
                                  scbm_tensor *masks);
/* How many of a matrix's weights, or of its rows, are zero at a sparsity. */
int32_t cbm_prune_zeros_of(const cbm_prune_run *run, int matrix, double sparsity);
/* The bytes that it works with: for the new masks, and for scores. */
size_t cbm_prune_mask_bytes(const cbm_prune_run *run);
size_t cbm_prune_score_bytes(const cbm_prune_run *run);

#endif
