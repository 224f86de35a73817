/*
 * models/train/run.h - a training run: what its parts share
 *
 * run.c sets it up and takes it down, start.c makes its network, subnetworks.c is where pruning meets it, loop.c does
 * its epochs, facts.c, logs.c and resume.c are about its files.
 */
#ifndef CBM_TRAINING_RUN_H
#define CBM_TRAINING_RUN_H

#include "models/train/checkpoint.h"
#include "models/train/statistics.h"
#include "models/train/validation.h"

/* The streams of random numbers; dropout's have a step in their upper half, which stays below. */
enum { RANDOM_HEADS = 1, RANDOM_ORDER, RANDOM_MIXUP };
#define RANDOM_STREAM(what, number) (((uint64_t)0xffff0000u + (what)) << 32 | (uint32_t)(number))

enum { CONCEPT_WEIGHT, CONCEPT_BIAS, LABEL_WEIGHT, LABEL_BIAS, N_HEAD_TENSORS };

#define MAX_FACTS 64
#define RUN_BATCH_TOKENS 1024 /* of the passes without gradients */

typedef struct cbm_training_run {
    const cbm_model *encoder;
    const cbm_dataset *train, *valid;
    const char *output;
    const cbm_train_options *options; /* settled */
    scbm_hooks hooks;
    scbm_context *context;
    cbm_network network; /* the backbone and the head tensors are the run's own */
    scbm_tensor head_tensors[N_HEAD_TENSORS];
    void *label_head[2]; /* with refit_label: weight and bias that training goes on with */
    scbm_tensor label_weights, concept_weights;
    cbm_teacher teacher;
    cbm_sequences train_sequences, valid_sequences;
    cbm_training_settings settings;
    cbm_training_graph graph;
    scbm_adamw *optimizer;
    scbm_graph *step;  /* where a step has several batches: its end, of the sums of their gradients */
    scbm_tensor *keep; /* and an input of the batches' graph: whether they are added to those before */
    cbm_runner runner;
    float *computed; /* what the network says of the training or the validation texts */
    size_t computed_capacity;
    cbm_statistics statistics;
    int32_t *order, *permutation; /* [n], [batch] */
    double magnitude_overlap;     /* of the last pruning */
    int64_t batches_per_epoch, steps_per_epoch, total_steps;
    scbm_tensor *accumulated;       /* [n_trained]: the sums of a step of several batches; data NULL: without a gradient */
    scbm_tensor **sums;             /* pointers to them, as the optimizer wants them */
    scbm_tensor **parameters; /* all of the network's, */
    int n_parameters;
    scbm_tensor **kept; /* and those that a checkpoint has: not the frozen ones */
    scbm_tensor **trained;   /* those that the optimizer has */
    scbm_tensor **gradients; /* and their gradients; NULL: it stays as it is */
    cbm_prune_run pruning;
    size_t prune_memory;        /* what the graphs and pruning may take; 0: as the system says then */
    cbm_gradient_source source; /* of its gradients */
    scbm_tensor **learning;     /* where pruning freezes the encoder: what the loss is still derived by */
    scbm_tensor **extra;        /* of the checkpoint: what pruning keeps */
    cbm_checkpoint state;
    cbm_epoch_report *reports; /* [epochs], of those that are over */
    cbm_fact facts[MAX_FACTS]; /* of the checkpoint */
    int n_facts;
    char *checkpoint_path;
    char data_hash[17], start_hash[17], teacher_hash[17];
    cbm_split split;              /* where there were no validation data */
    const char **concept_columns; /* [K] of options->columns; NULL: not to be noted */
} cbm_training_run;

/* run.c. The network, the texts, and what passes over them need; `run` is zeros but for the encoder, the data, the options
 * and the hooks. Clear it even where this fails. */
scbm_status cbm_run_create(cbm_training_run *run, const char *const *concept_names);
/* What the graph of training depends on, from the options. */
scbm_status cbm_run_settle(cbm_training_run *run);
/* What the optimizer has: all that the loss of the first graph is derived by. */
scbm_status cbm_run_list_trained(cbm_training_run *run, const cbm_training_graph *graph);
/* What steps need: the training graph, its optimizer, the state that a checkpoint holds. */
scbm_status cbm_run_prepare_steps(cbm_training_run *run);
void cbm_run_clear(cbm_training_run *run);
/* Makes the training graph (again, when the network has got streams or masks), the optimizer's step in it, and what goes with
 * it: the gradients where the optimizer finds them, and what the checkpoint holds. */
scbm_status cbm_run_build_graph(cbm_training_run *run);
int cbm_run_has_concepts(const cbm_training_run *run);
int cbm_run_is_head(const cbm_training_run *run, const scbm_tensor *tensor);
/* The order of the texts in an epoch (from 1), into run->order. */
void cbm_run_shuffle(cbm_training_run *run, int64_t epoch);
/* Batch `index` (from 0) of an epoch: its place in the order, and how many texts it has; and step `index`, of all its
 * batches. */
int64_t cbm_run_batch(const cbm_training_run *run, int64_t index, size_t *first);
int64_t cbm_run_step_texts(const cbm_training_run *run, int64_t index, size_t *first);

/* start.c. A copy of the encoder, and heads; their weights new, or those of the model that the options start from. */
scbm_status cbm_run_create_network(cbm_training_run *run, const char *const *concept_names);

/* memory/plan.c. What the run will need of memory at most. Refuses what is more than there is. */
scbm_status cbm_run_plan_memory(cbm_training_run *run, cbm_memory_plan *plan);
scbm_status cbm_run_check_memory(cbm_training_run *run);

/* subnetworks.c. Opens pruning. */
scbm_status cbm_run_open_pruning(cbm_training_run *run);
/* The same; what it will take is said, or refused, before the first epoch. */
scbm_status cbm_run_prepare_pruning(cbm_training_run *run);
int cbm_run_prunes(const cbm_training_run *run);
/* Whether an epoch's model may be the best: with subnetworks, only at their final sparsity. */
int cbm_run_competes(const cbm_training_run *run, int64_t epoch);
/* From here on, `epoch` epochs into the run, each concept has a stream and masks of its own, all ones at first: graphs are
 * made anew. */
scbm_status cbm_run_begin_subnetworks(cbm_training_run *run, int64_t epoch);
/* Sets the masks anew after an epoch, if it is one of those. */
scbm_status cbm_run_prune(cbm_training_run *run);

/* facts.c. What must be the same when the run goes on, into run->facts. */
void cbm_run_settle_facts(cbm_training_run *run);
/* Writes the output with what is known of the epoch; `v` NULL: before the first one. */
scbm_status cbm_run_write_model(cbm_training_run *run, const cbm_validation *v, double train_loss);

/* logs.c. The logs that the options ask for, of all steps and epochs so far. */
scbm_status cbm_run_write_logs(cbm_training_run *run);
/* Keeps an epoch's report for logs and checkpoints; and reads all reports from the state that a checkpoint gave. */
void cbm_run_keep_report(cbm_training_run *run, const cbm_epoch_report *report);
void cbm_run_read_reports(cbm_training_run *run);

/* resume.c. Goes on from the checkpoint, if there is one. */
scbm_status cbm_run_resume(cbm_training_run *run);

/* loop.c. In independent mode the label head does not depend on the network, and is fitted once. */
scbm_status cbm_run_fit_gold_head(cbm_training_run *run);
/* The epochs that are left; and for no epochs, the file of a model that was only set up. */
scbm_status cbm_run_epochs(cbm_training_run *run);
scbm_status cbm_run_write_start(cbm_training_run *run);
/* Whether no epoch is left: all are done, or patience is over. */
int cbm_run_is_over(const cbm_training_run *run);

#endif
