/*
 * models/prune/prune.h - finding the subnetworks: when masks change in a training run, and by what
 *
 * METHOD: gradual pruning. At the end of each epoch in [start, end] every concept's masks are set anew, so that exactly
 * floor(s n + 1/2) of a matrix's n weights are zero: those with the smallest scores, and where scores are equal those
 * that come first in row-major order. A weight once masked for a concept stays masked, except by methods that say
 * otherwise. The scores are the method's (method.h); a training run knows no method by name.
 */
#ifndef CBM_PRUNE_H
#define CBM_PRUNE_H

#include "models/cbm-train.h"
#include "models/core/masks.h"

/* Takes the gradient [S, out, in] of a prunable weight by adding nodes that read it to its graph, which keeps it no longer than
 * they need it. Returns what the weight itself is trained by, F32 [out, in]; NULL: it stays as it is. */
typedef scbm_tensor *(*cbm_take_gradient)(void *user, scbm_graph *graph, const scbm_tensor *weight,
                                          scbm_tensor *gradient);

/* Gradients of the training loss, asked of whoever trains: without dropout and MixUp, nothing clipped. */
typedef struct cbm_gradient_request {
    scbm_tensor *const *weights; /* [n]: of these matrices alone */
    int n;
    const int32_t *rows; /* [n_batches, batch] of the training data: one loss for each minibatch */
    int64_t n_batches, batch;
    cbm_take_gradient take_gradient; /* those of W ⊙ M_s; what it returns does not count */
    /* Is told when a minibatch, of `done` so far, has run. */
    scbm_status (*on_batch)(void *user, int64_t done);
    void *user;
} cbm_gradient_request;

typedef struct cbm_prune_report {
    double sparsity;          /* of each matrix, to one weight */
    double magnitude_overlap; /* of the kept weights, the share that magnitude would keep too; -1: not looked at */
    int n_groups;             /* passes over the gradients */
    size_t bytes;             /* that the Fisher matrices of the largest group took */
} cbm_prune_report;

struct cbm_prune_kind;
struct cbm_prune_choice;

/* Pruning in a training run. */
typedef struct cbm_prune_run {
    /* What whoever trains says before cbm_prune_open: */
    cbm_backbone *backbone; /* that owns its tensors */
    scbm_context *context;
    const cbm_prune_options *options;
    const scbm_hooks *hooks;
    int n_streams;      /* K, the concepts */
    int64_t n_texts;    /* of the training data */
    int64_t batch_size; /* of the training */
    uint64_t seed;
    scbm_status (*gradients)(void *user, const cbm_gradient_request *request);
    /* The bytes that the graphs of training and of these gradients (NULL: none) take, when the masks are there. */
    scbm_status (*graph_bytes)(void *user, const cbm_gradient_request *request, size_t *training, size_t *gradients);
    void *user;              /* of both */
    size_t available_memory; /* bytes that are free for the taking; 0: as the system says */
    /* Sees the scores [out, in] of a choice after an epoch. NULL: nobody does. */
    void (*on_scores)(void *user, const scbm_tensor *weight, int stream, const double *score);
    void *on_scores_user;

    /* What the room keeps: */
    const struct cbm_prune_kind *kind; /* NULL: a dense model */
    cbm_parameter **matrix;            /* [n]: the prunable ones, block by block */
    scbm_tensor **weight;              /* [n]: theirs */
    int n;
    int64_t largest;    /* weights of the largest */
    void *state;        /* the method's own */
    int64_t epoch;      /* of the choice that is being made, and its sparsity */
    double sparsity;
    struct cbm_prune_choice *choice;
} cbm_prune_run;

/* ---- The schedule ---- */

/* Checks the options against each other and against the run. */
scbm_status cbm_prune_check(const cbm_prune_options *options, cbm_mode mode, int epochs);
/* s(epoch): 0 before start, from initial_sparsity at start to sparsity at end. */
double cbm_prune_sparsity(const cbm_prune_options *options, int64_t epoch);
/* How many weights of n are zero at a sparsity. */
int64_t cbm_prune_zeros(int64_t n, double sparsity);

/* ---- In a run, in this order ---- */

/* Finds the method, and checks the options against the network: a sparsity that leaves nothing of a matrix is an error
 * that names it. To be closed, after a failure too. */
scbm_status cbm_prune_open(cbm_prune_run *run);
void cbm_prune_close(cbm_prune_run *run);
/* What pruning takes of memory while it prunes, beside weights and optimizer. */
typedef struct cbm_prune_memory {
    size_t of_method;       /* "Fisher matrices" */
    const char *what;       /* which */
    int is_kept;            /* between the prunings, too: what a method learns */
    size_t scores, masks;   /* `masks`: of one set of them, and there are two while new ones are chosen */
    size_t graph, gradients; /* the graph of training with masks; and that of the gradients which the method asks for */
} cbm_prune_memory;
scbm_status cbm_prune_measure(cbm_prune_run *run, cbm_prune_memory *memory);
/* Says in the log what pruning will take, before anything is taken; an error that names a setting that takes less, where
 * that is more than the machine has. */
scbm_status cbm_prune_plan(cbm_prune_run *run);
/* From here on each concept has masks, of ones at first where there are none. `steps`: how many the run has done since. */
scbm_status cbm_prune_begin(cbm_prune_run *run, int64_t steps);
/* Whether the method takes the gradients of every step: of each prunable matrix, [S, out, in], dense (SCBM_DW_DENSE), by
 * cbm_prune_take_gradient, whose user is the run; before there are masks it passes them over. */
int cbm_prune_takes_gradients(const cbm_prune_run *run);
scbm_tensor *cbm_prune_take_gradient(void *run, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient);
/* Adds the step of what the method itself learns, of the gradients that it has taken: to the graph `batch` where `keep` is
 * NULL; else that one adds them to sums (see scbm_accumulate), and `step` makes the step. */
scbm_status cbm_prune_add_step(cbm_prune_run *run, scbm_graph *batch, scbm_graph *step, scbm_tensor *keep);
/* The matrix of a weight; -1: masks may not cover it. */
int cbm_prune_matrix(const cbm_prune_run *run, const scbm_tensor *weight);
/* Whether the encoder's weights stay as they are from now on. */
int cbm_prune_freezes(const cbm_prune_run *run);
/* Before and after the runs of each step with these masks: all learning rates times `rate`; `epoch` is the last whole one. */
scbm_status cbm_prune_begin_step(cbm_prune_run *run, int64_t epoch, float rate);
scbm_status cbm_prune_after_step(cbm_prune_run *run);
/* Whether the masks change after this epoch; and changes them. */
int cbm_prune_is_due(const cbm_prune_run *run, int64_t epoch);
scbm_status cbm_prune_after_epoch(cbm_prune_run *run, int64_t epoch, cbm_prune_report *report);
/* What belongs to a checkpoint: masks, and the method's own tensors. Returns how many; fills `tensors` where it is not
 * NULL. */
int cbm_prune_state(const cbm_prune_run *run, scbm_tensor **tensors);

#endif
