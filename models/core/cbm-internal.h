/*
 * models/core/cbm-internal.h - what cbm.c, network.c, train.c, checkpoint.c and the tests' programs share
 *
 * A network is a backbone with heads; a runner computes it for many texts in packed batches. A loaded model and a
 * training run each have a network: the first reads its tensors from the file, the second owns them.
 */
#ifndef CBM_INTERNAL_H
#define CBM_INTERNAL_H

#include "models/backbones/backbone.h"
#include "models/cbm.h"
#include "models/data/dataset.h"
#include "models/core/masks.h"
#include "models/tokenizers/tokenizer.h"

/* Names of keys and tensors that are ours in a model file. */
#define CBM_FILE_VERSION 1
#define CBM_KEY_VERSION "sparsecbm.version"
#define CBM_KEY_MODE "sparsecbm.mode"
#define CBM_KEY_CONCEPTS "sparsecbm.concepts"
#define CBM_KEY_GROUPS "sparsecbm.concept.groups"
#define CBM_KEY_CLASSES "sparsecbm.concept.classes"
#define CBM_KEY_LABELS "sparsecbm.labels"
#define CBM_KEY_TRAIN "sparsecbm.train."

#define CBM_CONCEPT_WEIGHT "sparsecbm.concept.weight"
#define CBM_CONCEPT_BIAS "sparsecbm.concept.bias"
#define CBM_LABEL_WEIGHT "sparsecbm.label.weight"
#define CBM_LABEL_BIAS "sparsecbm.label.bias"
#define CBM_CONCEPT_MEAN "sparsecbm.concept.mean"
#define CBM_GOLD_MEANS "sparsecbm.concept.gold_means"
#define CBM_GOLD_COUNTS "sparsecbm.concept.gold_counts"

/* ------------------------------------------------------------------------------------------
 * Networks
 * ---------------------------------------------------------------------------------------- */

/* K concepts of R_k classes each, C = Σ R_k; Y labels. u are the concepts' values, what the label head reads. */
typedef struct cbm_heads {
    cbm_mode mode;
    int n_concepts, n_classes, max_classes, n_labels;  /* K, C, the largest R_k, Y */
    int32_t *groups;              /* [K + 1]: concept k's classes are groups[k] … groups[k + 1] − 1 of the C */
    const char **concept_name;    /* [K]; the strings belong to the file or the data set */
    const char **class_name;      /* [C] */
    const char **label_name;      /* [Y] */
    scbm_tensor group_tensor;     /* groups as I32 [K + 1], and {0, Y}, for the graphs */
    scbm_tensor label_group_tensor;
    int32_t label_groups[2];
    scbm_tensor *concept_weight, *concept_bias; /* [C, d], [C]; NULL in vanilla mode */
    scbm_tensor *label_weight, *label_bias;     /* [Y, C] ([Y, d] in vanilla mode), [Y] */
} cbm_heads;

typedef struct cbm_network {
    cbm_backbone backbone;
    cbm_heads heads;
} cbm_network;

/* Takes memory for names and groups and sets the sizes; the caller fills both in, then calls cbm_heads_finish. */
scbm_status cbm_heads_create(cbm_heads *heads, cbm_mode mode, int n_concepts, int n_classes, int n_labels,
                             const scbm_hooks *hooks);
scbm_status cbm_heads_finish(cbm_heads *heads);
void cbm_heads_clear(cbm_heads *heads, const scbm_hooks *hooks);
/* Reads names and tensors of a model file (mode CBM_ENCODER where it has none), and checks them. */
scbm_status cbm_heads_read(cbm_heads *heads, scbm_file *file, int64_t hidden, const scbm_hooks *hooks);

/* The file's tensor of this name, which must have this type and shape ([rows] where columns is 0). */
scbm_status cbm_find_tensor(scbm_file *file, const char *name, scbm_type type, int64_t rows, int64_t columns,
                            scbm_tensor **found);

/* How many numbers the network computes for a text: C, or Y in vanilla mode. */
int cbm_n_logits(const cbm_heads *heads);
/* u of a text's concept logits [C]: the logits, or the softmax of each concept in independent mode. */
void cbm_concept_values(const cbm_heads *heads, const float *logits, float *values);
/* y = G u + g, in double and in order, so that it is the same wherever it is computed. */
void cbm_label_logits(const cbm_heads *heads, const float *values, float *logits);
/* In double, with an exponential that is the same on every machine. `probabilities` may be `logits`. */
void cbm_softmax(const float *logits, int n, float *probabilities);
int cbm_largest(const float *values, int n);   /* the first of the largest */

/* ------------------------------------------------------------------------------------------
 * Running a network
 * ---------------------------------------------------------------------------------------- */

/* The token ids of many texts, end to end. */
typedef struct cbm_sequences {
    size_t n;
    int32_t *ids;
    size_t *first;            /* [n + 1]: text i's ids are first[i] … first[i + 1] − 1 */
    uint8_t *truncated;       /* [n] */
    cbm_tokens tokens;        /* of the text that was added last */
    size_t ids_capacity, first_capacity, truncated_capacity;
} cbm_sequences;

scbm_status cbm_sequences_add(cbm_sequences *sequences, const cbm_tokenizer *tokenizer, const char *text, size_t length,
                              int max_tokens, const scbm_hooks *hooks);
/* Adds `n` texts; an error says which of them. `lengths` NULL: NUL-terminated. */
scbm_status cbm_sequences_add_texts(cbm_sequences *sequences, const cbm_tokenizer *tokenizer, const char *const *texts,
                                    const size_t *lengths, size_t n, int max_tokens, const scbm_hooks *hooks);
void cbm_sequences_reset(cbm_sequences *sequences);    /* empties, keeps the memory */
void cbm_sequences_clear(cbm_sequences *sequences, const scbm_hooks *hooks);
/* The number of tokens of text i. */
int64_t cbm_sequence_length(const cbm_sequences *sequences, size_t i);

/* Writes texts row[0 … n) into an encoder's inputs; returns the number of tokens. They must fit. */
int64_t cbm_fill_inputs(const cbm_backbone *backbone, const cbm_encoding *encoding, const cbm_sequences *sequences,
                        const int32_t *row, int64_t n);

/* What a graph of a runner computes. */
typedef enum cbm_forward { CBM_FORWARD_LOGITS, CBM_FORWARD_MEAN, CBM_FORWARD_FIRST, CBM_FORWARD_KINDS } cbm_forward;

#define CBM_MAX_BUCKETS 32

typedef struct cbm_forward_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *result;      /* [texts, C or Y]; [1, texts, d] for the two poolings */
    int64_t max_tokens, max_texts;
} cbm_forward_graph;

/* Graphs of one network by capacity, made when first needed. */
typedef struct cbm_runner {
    const cbm_network *network;
    scbm_context *context;
    scbm_type precision;
    int64_t max_batch_tokens;
    /* Packs the network's masks for many tokens when it has read so many in batches of many, and for few likewise; 0: never. */
    int64_t packs_from, tokens_read[2];
    cbm_forward_graph graphs[CBM_FORWARD_KINDS][CBM_MAX_BUCKETS];
    int32_t *order;           /* the texts by length */
    size_t order_capacity;
} cbm_runner;

/* `context` is the caller's and outlives the runner; batches have at most max_batch_tokens tokens, or one text. */
void cbm_runner_init(cbm_runner *runner, const cbm_network *network, scbm_context *context, scbm_type precision,
                     int64_t max_batch_tokens);
void cbm_runner_clear(cbm_runner *runner);
/* Computes every text: results [n, C or Y], or [n, d], in the texts' order. Progress is told to `hooks` as `what`
 * between batches. */
scbm_status cbm_runner_run(cbm_runner *runner, cbm_forward what, const cbm_sequences *sequences, float *results,
                           const scbm_hooks *hooks, const char *progress);

/* ------------------------------------------------------------------------------------------
 * Models
 * ---------------------------------------------------------------------------------------- */

struct cbm_model {
    scbm_hooks hooks;
    scbm_hooks quiet;                 /* the same without progress, for the runtime's contexts */
    int unpacked;                     /* masks are not packed */
    scbm_file *file;
    cbm_tokenizer *tokenizer;
    cbm_network network;
    scbm_tensor *concept_mean;        /* ū [C]; NULL in vanilla mode */
    scbm_tensor *gold_means;          /* [C, max R] */
    scbm_tensor *gold_counts;         /* I32 [C] */
};

/* A context; what interventions and explanations need is made when first asked for, and freed with it. */
struct cbm_context {
    const cbm_model *model;
    scbm_context *runtime;
    cbm_runner runner;
    int max_tokens;
    int64_t backward_tokens;        /* of a run with a backward pass, over all streams: it keeps everything of them */
    char error[512];
    cbm_sequences sequences;
    uint64_t n_runs;                /* counts what was computed into `sequences` and `logits` */
    size_t n_computed;              /* texts whose logits stand there; 0 after a failure, or when embedding */
    float *logits;                  /* [texts, C or Y], as computed */
    float *numbers;                 /* what predictions point to */
    cbm_concept_result *concepts;   /* [texts, K] */
    size_t logits_capacity, numbers_capacity, concepts_capacity;
    struct cbm_overlay *overlay;    /* models/intervene.c; NULL: none yet */
    struct cbm_explainer *explainer; /* models/explain.c; NULL: none yet */
};

void cbm_overlay_free(cbm_context *ctx);     /* accepts a context without one */
void cbm_explainer_free(cbm_context *ctx);
/* The masks I8 [1, out, row bytes] of a weight as the last mask intervention left them; NULL: there are none. */
const scbm_tensor *cbm_overlay_masks(const cbm_context *ctx, const scbm_tensor *weight);

/* Keeps the message of a failure for cbm_context_error; returns the status. */
scbm_status cbm_context_result(cbm_context *ctx, scbm_status status);
/* Tokens and logits [n, C or Y] of the texts, in the context. */
scbm_status cbm_compute_logits(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                               const char *progress);
/* The numbers of one text's prediction, and fills it from what the network computed (C concept logits, or Y in vanilla
 * mode). `values` (NULL: those of the logits) are the u that the label head reads; `numbers` and `concepts` are the
 * place that the prediction then points to. */
size_t cbm_prediction_numbers(const cbm_heads *heads);
void cbm_fill_prediction(const cbm_model *model, const float *computed, const float *values, float *numbers,
                         cbm_concept_result *concepts, cbm_prediction *prediction);

/* Checks that a data set's classes are the model's, by name and order. */
scbm_status cbm_check_classes(const cbm_heads *heads, const cbm_dataset *data, const char *what);
/* The same for the heads of the model at `path` that `into`, made for the data, takes something from; its concepts have the
 * same names, too. Where `into` is vanilla, the label's classes alone. */
scbm_status cbm_check_heads(const cbm_heads *from, const cbm_heads *into, const cbm_dataset *data, const char *path);

/* ------------------------------------------------------------------------------------------
 * Training
 * ---------------------------------------------------------------------------------------- */

/* FNV-1a's step on eight bytes at a time, folded so that the upper bits count: to tell data apart. */
#define CBM_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t cbm_hash(uint64_t hash, const void *data, size_t size);

/* Distillation (Hinton et al., 2015): a teacher's probabilities at temperature τ, for every text of the training data.
 * The loss gets weight · τ² (CE of the label + λ CE of the concepts), of the student's logits over τ with these. */
typedef struct cbm_teacher {
    float *labels, *concepts;     /* [n, Y], [n, C] */
    float weight, temperature;
    uint64_t source;              /* a hash of the two */
} cbm_teacher;

/* Runs the model at `path` over the data, whose classes it must have. Free with cbm_teacher_clear. */
scbm_status cbm_teacher_create(cbm_teacher *teacher, const char *path, const cbm_heads *student, const cbm_dataset *data,
                               float weight, float temperature, const scbm_hooks *hooks);
void cbm_teacher_clear(cbm_teacher *teacher, const scbm_hooks *hooks);

/* What the training graph depends on. */
typedef struct cbm_training_settings {
    float hidden_dropout, attention_dropout;
    float concept_weight;                              /* λ */
    cbm_concept_loss concept_loss;
    int mixup;
    const cbm_teacher *teacher;                        /* NULL: none */
    scbm_tensor *label_weights, *concept_weights;      /* F32 [Y], [C]: of the classes; NULL: all 1 */
    scbm_type precision;
    int64_t max_tokens, max_texts;                     /* the capacity */
    scbm_tensor **states;                              /* see cbm_encode_options */
    /* What is wanted of the gradients: */
    scbm_tensor *const *only;                          /* [n_only]: of these parameters alone; NULL: of all */
    int n_only;
    scbm_dw_mode weight_gradients;                     /* see scbm_graph_set_weight_gradients */
    /* Takes each prunable weight's gradient as it comes; it is not kept then, and its place in `gradients` is NULL. */
    scbm_status (*on_gradient)(void *user, const scbm_tensor *weight, const scbm_tensor *gradient);
    void *on_gradient_user;
} cbm_training_settings;

/* A prunable weight whose gradient is handed over. */
typedef struct cbm_gradient_watch {
    struct cbm_training_graph *training;
    const scbm_tensor *weight;
} cbm_gradient_watch;

/* The loss of a batch and its gradients. Which losses there are depends on the mode: both in joint mode, the
 * concepts' alone in independent and sequential mode, the label's alone in vanilla mode. */
typedef struct cbm_training_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *concept_targets, *label_targets;      /* inputs: I32 [texts, K], [texts, 1]; NULL: not in use */
    scbm_tensor *mixed_concept_targets, *mixed_label_targets; /* MixUp: those of the permuted texts */
    scbm_tensor *permutation, *beta, *rest;            /* I32 [texts], F32 [1] β and 1 − β */
    const cbm_teacher *teacher;
    scbm_tensor *taught_concepts, *taught_labels;      /* F32 [texts, C], [texts, Y]: what the teacher says */
    scbm_tensor *pooled, *concept_logits, *label_logits, *loss;
    scbm_tensor **parameters, **gradients;             /* those that the loss trains */
    int n_parameters;
    cbm_gradient_watch *watches;                       /* [n_parameters]; NULL: none */
    scbm_status (*on_gradient)(void *user, const scbm_tensor *weight, const scbm_tensor *gradient);
    void *on_gradient_user;
} cbm_training_graph;

scbm_status cbm_training_graph_create(cbm_training_graph *training, const cbm_network *network, scbm_context *context,
                                      const cbm_training_settings *settings);
void cbm_training_graph_clear(cbm_training_graph *training, const scbm_hooks *hooks);
/* Writes the inputs for rows row[0 … n) of the data; returns the number of tokens. `permutation` (of 0 … n − 1) and
 * beta are MixUp's, NULL without. */
int64_t cbm_training_fill(const cbm_training_graph *training, const cbm_network *network, const cbm_sequences *sequences,
                          const cbm_dataset *data, const int32_t *row, int64_t n, const int32_t *permutation, float beta);

/* Trains the label head alone, on values u [n, C] of n texts and their labels (below 0: ignored), from zeros to close
 * to the least loss. The result does not depend on the head's weights before. */
scbm_status cbm_fit_label_head(cbm_heads *heads, scbm_context *context, const float *values, const int32_t *labels,
                               int64_t n, scbm_tensor *class_weights);
/* The gold concepts of every text as values [n, C]: one-hot; where one is missing, its classes' frequencies. */
scbm_status cbm_gold_values(const cbm_heads *heads, const cbm_dataset *data, float *values, const scbm_hooks *hooks);

typedef struct cbm_validation {
    double loss;                                       /* the training loss, without dropout and MixUp */
    double label_accuracy, concept_accuracy, label_f1, concept_f1;
    double score;                                      /* see cbm_train */
} cbm_validation;

/* Measures a network by what a runner computed for every text of the data. */
scbm_status cbm_validate(cbm_validation *validation, const cbm_heads *heads, const cbm_dataset *data, const float *computed,
                         const cbm_training_settings *settings, const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Model files and checkpoints
 * ---------------------------------------------------------------------------------------- */

/* Of the values u over the training data, computed with the weights beside them: ū; each class's mean over the texts
 * with this gold class (rows longer than the concept's classes end in zeros; zeros without such texts); their number. */
typedef struct cbm_statistics {
    scbm_tensor mean, gold_means, gold_counts;         /* [C], [C, max R], I32 [C]; data are the statistics' own */
} cbm_statistics;

scbm_status cbm_statistics_create(cbm_statistics *statistics, const cbm_heads *heads, const scbm_hooks *hooks);
void cbm_statistics_clear(cbm_statistics *statistics, const scbm_hooks *hooks);
/* `logits` [n, C] are the network's for every text of the data. */
scbm_status cbm_statistics_compute(cbm_statistics *statistics, const cbm_heads *heads, const cbm_dataset *data,
                                   const float *logits, const scbm_hooks *hooks);

typedef struct cbm_fact {
    const char *key;
    enum { CBM_FACT_INT, CBM_FACT_REAL, CBM_FACT_TEXT } kind;
    int64_t integer;
    double real;
    const char *text;
} cbm_fact;

/* Writes a whole model: everything of the encoder's file, the network's tensors in its place, heads and statistics
 * (NULL in vanilla mode), and the facts. */
scbm_status cbm_write_model(const char *path, const cbm_model *encoder, const cbm_network *network,
                            const cbm_statistics *statistics, const cbm_fact *facts, int n_facts);

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
    const cbm_fact *facts;            /* what must be the same when the run goes on */
    int n_facts;
} cbm_checkpoint;

scbm_status cbm_checkpoint_write(const cbm_checkpoint *checkpoint, const char *path, const scbm_hooks *hooks);
/* The epoch of a checkpoint, before it is read; 0 where there is no such file. */
scbm_status cbm_checkpoint_epoch(const char *path, int64_t *epoch, const scbm_hooks *hooks);
/* Reads the state into the checkpoint's tensors, arrays (which must hold `max_steps`) and numbers. A fact that differs is an
 * error that names it. *found is 0 when there is no such file. */
scbm_status cbm_checkpoint_read(cbm_checkpoint *checkpoint, const char *path, int64_t max_steps, int *found,
                                const scbm_hooks *hooks);

#endif
