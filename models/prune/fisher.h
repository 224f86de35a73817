/*
 * models/prune/fisher.h - empirical Fisher matrices in diagonal blocks, and the second-order scores that they give
 *
 * METHOD has the recursion F⁻¹_i = F⁻¹_{i−1} − (F⁻¹_{i−1} g)(F⁻¹_{i−1} g)ᵀ / (m + gᵀ F⁻¹_{i−1} g) from I/δ. By Sherman and
 * Morrison that is the inverse of δI + (1/m) Σ g gᵀ, so the sum is kept (its lower triangle, in f64) and inverted once:
 * half the memory, a quarter of the work for each gradient, and no error that grows with m.
 */
#ifndef CBM_FISHER_H
#define CBM_FISHER_H

#include "models/cbm-train.h"
#include "models/prune/prune.h"

typedef struct cbm_fisher_matrix {
    const cbm_parameter *parameter;
    scbm_tensor sums; /* F64 [K, blocks of B weights, B (B + 1) / 2]; the last block may be shorter */
} cbm_fisher_matrix;

typedef struct cbm_fisher {
    const scbm_hooks *hooks;
    const cbm_prune_options *options;
    cbm_fisher_matrix *matrix; /* [n] */
    int n;
    double number[3]; /* see scbm_fisher_scores */
    scbm_tensor numbers;
} cbm_fisher;

#define CBM_FISHER_MEMORY ((size_t)4 << 30) /* the most that Fisher matrices take where no setting says it, in bytes */

/* How many gradients there are, of how many texts each. */
int64_t cbm_fisher_gradients(const cbm_prune_options *options);
int64_t cbm_fisher_batch(const cbm_prune_run *run);
/* The rows of the training data that the gradients are taken from after an epoch: *n_batches minibatches of *batch texts,
 * to be released with the run's hooks. */
scbm_status cbm_fisher_draw(const cbm_prune_run *run, int64_t epoch, int32_t **rows, int64_t *n_batches,
                            int64_t *batch);

/* What the matrices of one weight take, in bytes; and the numbers (f64) that cbm_fisher_scores works with. */
size_t cbm_fisher_bytes(const cbm_prune_options *options, const scbm_tensor *weight, int n_streams);
size_t cbm_fisher_scratch(const cbm_prune_options *options);

/* For n weights of a backbone with masks of K streams, all zeros; to be cleared with cbm_fisher_clear, after a failure
 * too. */
scbm_status cbm_fisher_create(cbm_fisher *fisher, const cbm_prune_options *options, cbm_parameter **parameter, int n,
                              int n_streams, const scbm_hooks *hooks);
void cbm_fisher_clear(cbm_fisher *fisher);
/* Adds g gᵀ of a weight's gradient [K, out, in], as a node of its graph. */
void cbm_fisher_add(cbm_fisher *fisher, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient);
/* w² / (2 [F⁻¹]_jj) of matrix `matrix` of those, after all gradients, as a node. */
scbm_tensor *cbm_fisher_scores(cbm_fisher *fisher, scbm_graph *graph, int matrix);

#endif
