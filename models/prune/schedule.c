/*
 * models/prune/schedule.c - the options of pruning: their checks, and how many weights are zero after which epoch
 */
#include "models/prune/method.h"

#include <math.h>

scbm_status cbm_prune_check(const cbm_prune_options *o, cbm_mode mode, int epochs) {
    const cbm_prune_kind *kind;
    scbm_status status = cbm_prune_find(o->method, &kind);
    if (status || !kind) return status;
    if (mode == CBM_VANILLA)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: a vanilla model has no concepts, and so no subnetworks");
    if (!(o->sparsity > 0 && o->sparsity < 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the sparsity is %g, and must lie between 0 and 1", o->sparsity);
    if (!(o->initial_sparsity >= 0 && o->initial_sparsity <= o->sparsity))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the initial sparsity is %g, and must lie between 0 and %g",
                         o->initial_sparsity, o->sparsity);
    if (o->start < 1 || o->end < o->start)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: from epoch %d to %d; epochs count from 1", o->start, o->end);
    if (epochs < o->end)
        return scbm_fail(
            SCBM_ERROR_ARGUMENT,
            "pruning: %d epochs end before the last pruning in epoch %d; train for more epochs or end it sooner",
            epochs, o->end);
    return SCBM_OK;
}

double cbm_prune_sparsity(const cbm_prune_options *o, int64_t epoch) {
    const cbm_prune_kind *kind;
    if (cbm_prune_find(o->method, &kind) || !kind || epoch < o->start) return 0.0;
    if (epoch >= o->end) return o->sparsity;
    double way = (double)(epoch - o->start) / (double)(o->end - o->start);
    return o->initial_sparsity + way * (o->sparsity - o->initial_sparsity);
}

int64_t cbm_prune_zeros(int64_t n, double sparsity) {
    int64_t zeros = (int64_t)floor(sparsity * (double)n + 0.5);
    return zeros < 0 ? 0 : zeros > n ? n : zeros;
}
