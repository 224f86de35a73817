/*
 * models/prune/magnitude.c - pruning by |w|: the baseline that every pruning is compared with
 */
#include "models/prune/method.h"

#include <math.h>

void cbm_magnitudes(const scbm_tensor *weight, double *score) {
    const float *w = weight->data;
    for (int64_t i = 0; i < scbm_tensor_elements(weight); i++) score[i] = fabs((double)w[i]);
}

static void score_magnitude(const cbm_prune_run *run, int matrix, int stream, double *score, double *scratch) {
    (void)stream, (void)scratch;
    cbm_magnitudes(run->weight[matrix], score);
}

const cbm_prune_kind cbm_prune_magnitude = {
    .name = "magnitude",
    .help = "|w|, the same for every concept",
    .score = score_magnitude,
};
