/*
 * models/prune/magnitude.c - pruning by |w|: the baseline that every pruning is compared with
 */
#include "models/prune/method.h"

static scbm_tensor *score_magnitude(cbm_prune_run *run, scbm_graph *graph, int matrix) {
    (void)graph;
    return run->weight[matrix];
}

const cbm_prune_kind cbm_prune_magnitude = {
    .name = "magnitude",
    .help = "|w|, the same for every concept",
    .score = score_magnitude,
};
