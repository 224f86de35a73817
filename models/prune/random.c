/*
 * models/prune/random.c - pruning by lot: a control
 */
#include "models/prune/method.h"

#define RANDOM_PRUNE UINT64_C(0xffff0010)

static scbm_tensor *score_random(cbm_prune_run *run, scbm_graph *graph, int matrix) {
    const scbm_tensor *weight = run->weight[matrix];
    const int64_t shape[3] = {run->n_streams, weight->shape[0], weight->shape[1]};
    return scbm_input(graph, "lots", SCBM_F64, 3, shape, NULL);
}

static void draw_scores(const cbm_prune_run *run, int matrix, scbm_tensor *score) {
    double *to = score->data;
    for (int s = 0; s < run->n_streams; s++) {
        uint64_t place = (uint64_t)matrix * 4096 + (uint64_t)s;
        scbm_random random = {run->seed, RANDOM_PRUNE << 32 | (uint64_t)run->epoch, place << 32};
        for (int64_t i = 0; i < scbm_tensor_elements(run->weight[matrix]); i++) *to++ = scbm_random_uniform(&random);
    }
}

const cbm_prune_kind cbm_prune_random = {
    .name = "random",
    .help = "for comparison",
    .score = score_random,
    .fill = draw_scores,
};
