/*
 * models/train/checkpoint.h - the state of a training run after an epoch, in a file
 */
#ifndef CBM_CHECKPOINT_H
#define CBM_CHECKPOINT_H

#include "models/core/model-file.h"

#define CBM_EPOCH_MEASURES 10

/* The state of a training run after an epoch. */
typedef struct cbm_checkpoint {
    scbm_tensor **parameters;         /* all of the network's */
    int n_parameters;
    scbm_tensor **trained;            /* those that the optimizer moves */
    int n_trained;
    scbm_adamw *optimizer;
    scbm_tensor **extra;              /* what else belongs to the state, of any type: masks, scores */
    int n_extra;
    int64_t epoch, step;
    int64_t best_epoch, epochs_since_best;
    double best_score;
    float *step_loss, *step_norm;     /* [step]: the log so far */
    float *epochs;                    /* [epoch, CBM_EPOCH_MEASURES]: what came out of each */
    int64_t max_steps, max_epochs;    /* that these have room for */
    const cbm_fact *facts;            /* what must be the same when the run goes on */
    int n_facts;
    int goes_on_anyway;               /* facts that may change are no error where they differ, but logged */
    char run[17];                     /* what tells the run from others; a checkpoint that is read gives its own */
} cbm_checkpoint;

scbm_status cbm_checkpoint_write(const cbm_checkpoint *checkpoint, const char *path, const scbm_hooks *hooks);
/* The epoch of a checkpoint, before it is read; 0 where there is no such file. */
scbm_status cbm_checkpoint_epoch(const char *path, int64_t *epoch, const scbm_hooks *hooks);
/* Reads the state into the checkpoint's tensors, arrays and numbers. A fact that differs is an error that names it. *found is
 * 0 when there is no such file. */
scbm_status cbm_checkpoint_read(cbm_checkpoint *checkpoint, const char *path, int *found, const scbm_hooks *hooks);

#endif
