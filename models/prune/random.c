/*
 * models/prune/random.c - pruning by lot: a control
 */
#include "models/prune/method.h"

#define RANDOM_PRUNE UINT64_C(0xffff0010)

static void score_random(const cbm_prune_run *run, int matrix, int stream, double *score, double *scratch) {
    uint64_t place = (uint64_t)matrix * 4096 + (uint64_t)stream;
    scbm_random random = {run->seed, RANDOM_PRUNE << 32 | (uint64_t)run->epoch, place << 32};
    (void)scratch;
    for (int64_t i = 0; i < scbm_tensor_elements(run->weight[matrix]); i++) score[i] = scbm_random_uniform(&random);
}

const cbm_prune_kind cbm_prune_random = {
    .name = "random",
    .help = "for comparison",
    .score = score_random,
};
