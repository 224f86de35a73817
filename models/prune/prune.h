/*
 * models/prune/prune.h - finding the subnetworks: scores for every weight and concept, and the exact choice of zeros
 *
 * METHOD: gradual pruning. At the end of each epoch in [start, end] every concept's masks are set anew, so that exactly
 * floor(s n + 1/2) of a matrix's n weights are zero: those with the smallest scores, and where scores are equal those
 * that come first in row-major order. A weight once masked for a concept stays masked (not so with the learned scores of
 * popup, which can bring a weight back).
 */
#ifndef CBM_PRUNE_H
#define CBM_PRUNE_H

#include "models/cbm-train.h"
#include "models/core/masks.h"
#include "models/train/graph.h"

/* What pruning needs of a training run. */
typedef struct cbm_prune_job {
    cbm_network *network; /* whose masks are there */
    scbm_context *context;
    const cbm_dataset *data; /* the training data, for gradients */
    const cbm_sequences *sequences;
    const cbm_training_settings *settings; /* of the loss; dropout and MixUp count nowhere here */
    const cbm_prune_options *options;
    int batch_size; /* of the training */
    uint64_t seed;
    const scbm_hooks *hooks;
    size_t available_memory; /* bytes that are free for the taking; 0: as the system says */
    /* Sees the scores [out, in] before the choice, from several threads at once. NULL: nobody does. */
    void (*on_scores)(void *user, const scbm_tensor *weight, int stream, const double *score);
    void *on_scores_user;
} cbm_prune_job;

typedef struct cbm_prune_report {
    double sparsity;          /* of each matrix, to one weight */
    double magnitude_overlap; /* of the kept weights, the share that magnitude would keep too */
    int n_groups;             /* passes over the gradients */
    size_t bytes;             /* that the Fisher matrices of the largest group took */
} cbm_prune_report;

/* "obert", …; NULL for an unknown number. */
const char *cbm_prune_name(cbm_prune_method method);

/* Checks the options against each other and against the run (see cbm_prune_plan for the network). */
scbm_status cbm_prune_check(const cbm_prune_options *options, cbm_mode mode, int epochs);
/* s(epoch): 0 before start, from initial_sparsity at start to sparsity at end. */
double cbm_prune_sparsity(const cbm_prune_options *options, int64_t epoch);
/* How many weights of n are zero at a sparsity. */
int64_t cbm_prune_zeros(int64_t n, double sparsity);

/* Checks the options against the network: a sparsity that leaves nothing of a matrix is an error that names it. Says in the
 * log what second-order pruning will take, before anything is taken; an error that names a smaller --fisher-memory, or a
 * smaller --fisher-block, when that is more than the machine has. `n_streams` is K. */
scbm_status cbm_prune_plan(const cbm_prune_job *job, int n_streams);

/* Sets all masks anew at the end of an epoch (obert, magnitude, random). */
scbm_status cbm_prune_epoch(const cbm_prune_job *job, int64_t epoch, cbm_prune_report *report);

/* The rows of the training data that second-order pruning takes its gradients from after an epoch: *n_batches minibatches
 * of *batch texts, to be released with the job's hooks. */
scbm_status cbm_prune_draw(const cbm_prune_job *job, int64_t epoch, int32_t **rows, int64_t *n_batches, int64_t *batch);

/* The choice itself: of the n = out · in weights of stream `stream`, turns off `zeros`, by score (a NaN counts as the
 * smallest), then position. Weights that are off already go first. `keys` is scratch of n. The masks' generation is the
 * caller's to raise. */
void cbm_prune_select(scbm_tensor *masks, int stream, int64_t in, const double *score, int64_t zeros, uint64_t *keys);

/* ------------------------------------------------------------------------------------------
 * Learned scores (edge-popup; Ramanujan et al., CVPR 2020)
 * ---------------------------------------------------------------------------------------- */

/* One score for each prunable weight and concept. The forward pass uses the weights with the largest |score|; the
 * gradient goes straight through to the scores: d loss / d score = (d loss / d (W ⊙ M)) ⊙ W · sign(score). */
typedef struct cbm_popup {
    int n;                         /* matrices */
    cbm_parameter **parameter;     /* [n], of the network */
    scbm_tensor *score, *gradient; /* [n]: F32 [K, out, in] */
    scbm_tensor **scores;          /* [n]: pointers to the above, as the optimizer wants them */
    scbm_tensor **gradients;
    scbm_tensor *weight_gradient; /* [n]: F32 [out, in], of the weights where they are trained too */
    scbm_adamw *optimizer;
    int structured; /* whole rows, by the norm of their scores */
    scbm_context *context;
} cbm_popup;

/* Starts with |w| over the matrix's root mean square, so that the first choice is magnitude's. `rate` is AdamW's. */
scbm_status cbm_popup_create(cbm_popup *popup, cbm_network *network, scbm_context *context, int structured, float rate);
void cbm_popup_clear(cbm_popup *popup);
/* What a training graph hands over for each prunable weight: [K, out, in], dense. */
scbm_status cbm_popup_gradient(void *popup, const scbm_tensor *weight, const scbm_tensor *gradient);
/* The weight's gradient that was made of it: Σ_s M_s ⊙ dense_s. NULL for a weight without scores. */
scbm_tensor *cbm_popup_weight_gradient(cbm_popup *popup, const scbm_tensor *weight);
/* A step of the scores, and the masks that follow from them. */
scbm_status cbm_popup_step(cbm_popup *popup, float rate);
scbm_status cbm_popup_masks(cbm_popup *popup, double sparsity);

#endif
