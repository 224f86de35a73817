/*
 * models/prune/method.h - the prune methods: one row each
 *
 * A further method is a file that defines its row, cbm_prune_NAME, and its name in CBM_PRUNE_METHODS: the program's
 * choices, checks, facts and checkpoints come out of them. A setting of its own is a field of cbm_prune_options and a row
 * of the table of settings (models/train/settings.c).
 */
#ifndef CBM_PRUNE_METHOD_H
#define CBM_PRUNE_METHOD_H

#include "models/prune/prune.h"

/* What a method will take of memory. */
typedef struct cbm_prune_needs {
    size_t room;       /* what it may take: what the machine has less all else; SIZE_MAX: unknown */
    size_t bytes;      /* what it takes at most at a time, */
    const char *what;  /* and for what: "Fisher matrices" */
    char details[128]; /* more words about it, "" for none */
    char advice[128];  /* where it takes more than the room: what would take less */
} cbm_prune_needs;

/* One method. What is NULL is not needed. */
typedef struct cbm_prune_kind {
    const char *name, *help; /* "obert"; a line of help */
    int by_rows;             /* whole output rows go, not single weights; their weights have equal scores */
    int revives;             /* the choice is among all weights each time: what is off can come back */
    void (*needs)(const cbm_prune_run *run, cbm_prune_needs *needs);
    /* The gradients that it will ask for in all epochs, for planning; the rows are the caller's to release. */
    scbm_status (*request)(const cbm_prune_run *run, cbm_gradient_request *request, int32_t **rows);

    /* When masks are there: makes run->state, of which `end` frees all. `steps`: see cbm_prune_begin. */
    scbm_status (*begin)(cbm_prune_run *run, int64_t steps);
    void (*end)(cbm_prune_run *run);
    /* Takes a matrix's gradients [S, out, in] of each step as nodes (see cbm_take_gradient). Whoever does adds its step (see
     * cbm_prune_add_step), which begins before each run and ends after it. */
    scbm_tensor *(*take_gradient)(cbm_prune_run *run, int matrix, scbm_graph *graph, scbm_tensor *gradient);
    scbm_status (*add_step)(cbm_prune_run *run, scbm_graph *batch, scbm_graph *step, scbm_tensor *keep);
    scbm_status (*begin_step)(cbm_prune_run *run, int64_t epoch, float rate);
    scbm_status (*after_step)(cbm_prune_run *run); /* the step has chosen the masks anew, too */

    /* Adds what computes the scores of a matrix's weights (see scbm_keep_largest) to a graph, or returns a tensor that has
     * them. Where that is an input, `fill` writes it before the run. n_scratch: the numbers that a worker works with. */
    scbm_tensor *(*score)(cbm_prune_run *run, scbm_graph *graph, int matrix);
    void (*fill)(const cbm_prune_run *run, int matrix, scbm_tensor *score);
    size_t (*n_scratch)(const cbm_prune_options *options);
    /* What the scores need that would be too much for all matrices at once: calls cbm_prune_choose for some of them at a
     * time, until all have been chosen. NULL: for all at once. */
    scbm_status (*choose)(cbm_prune_run *run, cbm_prune_report *report);

    int (*state)(const cbm_prune_run *run, scbm_tensor **tensors); /* see cbm_prune_state */
} cbm_prune_kind;

#define CBM_PRUNE_METHODS(row) row(obert) row(magnitude) row(popup) row(popup_structured) row(random)

#define CBM_PRUNE_ROW(name) extern const cbm_prune_kind cbm_prune_##name;
CBM_PRUNE_METHODS(CBM_PRUNE_ROW)
#undef CBM_PRUNE_ROW

/* The row of a method; *kind is NULL for none. An unknown name is an error that has the known ones. */
scbm_status cbm_prune_find(const char *method, const cbm_prune_kind **kind);
/* What may be taken, in bytes; SIZE_MAX: unknown. */
size_t cbm_prune_available(const cbm_prune_run *run);
/* Chooses the new masks of matrices first … first + n − 1, which come into force when all have been chosen. */
scbm_status cbm_prune_choose(cbm_prune_run *run, int first, int n);

#endif
