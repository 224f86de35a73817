/*
 * models/prune/select.h - the exact choice of the weights that go
 */
#ifndef CBM_PRUNE_SELECT_H
#define CBM_PRUNE_SELECT_H

#include "models/core/masks.h"

/* Of the n = out · in weights of stream `stream`, turns off `zeros`, by score (a NaN counts as the smallest), then position.
 * Weights that are off already go first. `keys` is scratch of n. That the masks have changed is the caller's to say
 * (scbm_tensor_changed). */
void cbm_prune_select(scbm_tensor *masks, int stream, int64_t in, const double *score, int64_t zeros, uint64_t *keys);

/* The scores of a stream's weights as keys of the same order (see rank.h): 0 for those that are off. */
void cbm_prune_keys(const scbm_tensor *masks, int stream, int64_t in, const double *score, uint64_t *keys);
/* Of the weights that a stream keeps, the number that the choice by other scores would keep too, whose keys are those of
 * the masks before. */
int64_t cbm_prune_agreeing(const scbm_tensor *masks, int stream, int64_t in, const uint64_t *keys, int64_t zeros);

#endif
