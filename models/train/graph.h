/*
 * models/train/graph.h - the loss of a batch and its gradients, as a graph
 */
#ifndef CBM_TRAINING_GRAPH_H
#define CBM_TRAINING_GRAPH_H

#include "models/cbm-train.h"
#include "models/core/network.h"
#include "models/core/sequences.h"
#include "models/prune/prune.h"
#include "models/train/teacher.h"

/* What the training graph depends on. */
typedef struct cbm_training_settings {
    float hidden_dropout, attention_dropout;
    float concept_weight; /* λ */
    cbm_concept_loss concept_loss;
    int mixup;
    const cbm_teacher *teacher;                   /* NULL: none */
    scbm_tensor *label_weights, *concept_weights; /* F32 [Y], [C]: of the classes; NULL: all 1 */
    scbm_precision precision;
    int64_t max_tokens, max_texts; /* the capacity */
    scbm_tensor **states;          /* see cbm_encode_options */
    int frozen;                    /* see cbm_frozen_part */
    int has_shares;                /* each loss counts by its share of a step of several batches */
    /* What is wanted of the gradients: */
    scbm_tensor *const *only; /* [n_only]: of these parameters alone; NULL: of all */
    int n_only;
    scbm_dw_mode weight_gradients; /* see scbm_graph_set_weight_gradients */
    cbm_take_gradient take_gradient; /* NULL: the gradients are outputs */
    void *take_gradient_user;
} cbm_training_settings;

/* The loss of a batch and its gradients. Which losses there are depends on the mode: both in joint mode, the
 * concepts' alone in independent and sequential mode, the label's alone in vanilla mode. */
typedef struct cbm_training_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *concept_targets, *label_targets;             /* inputs: I32 [texts, K], [texts, 1]; NULL: not in use */
    scbm_tensor *mixed_concept_targets, *mixed_label_targets; /* MixUp: those of the permuted texts */
    scbm_tensor *permutation, *beta, *rest;                   /* I32 [texts], F32 [1] β and 1 − β */
    scbm_tensor *label_share, *concept_share, *text_share;    /* F32 [1]; NULL: all of them are the batch's */
    const cbm_teacher *teacher;
    scbm_tensor *taught_concepts, *taught_labels; /* F32 [texts, C], [texts, Y]: what the teacher says */
    scbm_tensor *pooled, *concept_logits, *label_logits, *loss;
    scbm_tensor **parameters, **gradients; /* those that the loss trains */
    int n_parameters;
} cbm_training_graph;

/* What "embeddings", "2" or NULL of cbm_train_options.freeze stands for: 0: nothing, 1: the embeddings, n + 1: they and the
 * lowest n blocks; checked against the backbone (may be NULL). */
scbm_status cbm_frozen_part(const char *freeze, const cbm_backbone *backbone, int *frozen);
int cbm_is_frozen(const cbm_parameter *parameter, int frozen);

/* Not planned yet: whoever asks may add nodes. To be cleared after a failure too. */
scbm_status cbm_training_graph_build(cbm_training_graph *training, const cbm_network *network, scbm_context *context,
                                     const cbm_training_settings *settings);
/* The same, planned; and nothing to be cleared after a failure. */
scbm_status cbm_training_graph_create(cbm_training_graph *training, const cbm_network *network, scbm_context *context,
                                      const cbm_training_settings *settings);
/* The bytes that such a graph takes, without taking them. */
scbm_status cbm_training_graph_measure(const cbm_network *network, scbm_context *context,
                                       const cbm_training_settings *settings, size_t *bytes);
void cbm_training_graph_clear(cbm_training_graph *training, const scbm_hooks *hooks);
/* Writes the inputs for rows row[0 … n) of the data; returns the number of tokens. `permutation` (of 0 … n − 1) and
 * beta are MixUp's, NULL without. */
int64_t cbm_training_fill(const cbm_training_graph *training, const cbm_network *network,
                          const cbm_sequences *sequences, const cbm_dataset *data, const int32_t *row, int64_t n,
                          const int32_t *permutation, float beta);

/* ---- Gradients of the loss, as pruning asks for them ---- */

/* Where they come from. */
typedef struct cbm_gradient_source {
    const cbm_network *network;
    scbm_context *context;
    const cbm_training_settings *settings; /* of the loss; dropout, MixUp and the teacher count nowhere here */
    const cbm_sequences *sequences;
    const cbm_dataset *data;
    const scbm_hooks *hooks;
} cbm_gradient_source;

/* Runs every minibatch of a request forward and backward. */
scbm_status cbm_gradients(const cbm_gradient_source *source, const cbm_gradient_request *request);
/* The bytes that its graph takes. */
scbm_status cbm_gradients_measure(const cbm_gradient_source *source, const cbm_gradient_request *request,
                                  size_t *bytes);

#endif
