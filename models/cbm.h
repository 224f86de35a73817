/*
 * models/cbm.h - concept bottleneck models: load, predict, train, evaluate
 *
 * The second public header: what a program needs that wants predictions with their explanation.
 *
 *     cbm_model *model; cbm_context *ctx; cbm_prediction p;
 *     if (cbm_model_load(&model, "cebab.gguf", NULL))      return fail(cbm_last_error());
 *     if (cbm_context_create(&ctx, model, NULL))           return fail(cbm_last_error());
 *     if (cbm_predict(ctx, "Great food, rude staff.", &p)) return fail(cbm_context_error(ctx));
 *     printf("%s (%.2f)\n", p.label, p.probability);
 *
 * A loaded model is immutable and shared by threads; a context belongs to one thread at a time.
 * Results live in the context until its next call.
 *
 * The model (METHOD: SparseCBM, AAAI 2024): concept k's subnetwork encodes the text, mean pooling gives z_k,
 * a linear head the concept's logits c_k = P_k z_k + p_k, and one linear layer on all the concepts' values u
 * the label's logits y = G u + g; u is c in joint and sequential mode, softmax(c) in independent mode.
 */
#ifndef CBM_H
#define CBM_H

#include "sparsecbm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cbm_model cbm_model;
typedef struct cbm_context cbm_context;

/* The last failure on this thread, one sentence; and of this context. */
const char *cbm_last_error(void);
const char *cbm_context_error(const cbm_context *ctx);

/* ------------------------------------------------------------------------------------------
 * Models
 * ---------------------------------------------------------------------------------------- */

typedef enum cbm_mode { CBM_ENCODER, CBM_VANILLA, CBM_INDEPENDENT, CBM_SEQUENTIAL, CBM_JOINT } cbm_mode;

typedef struct cbm_load_options {
    const scbm_hooks *hooks;       /* NULL: the default ones; copied */
    int unpacked;                  /* 1: holds the kept weights of subnetworks once, in less memory, and is slower */
} cbm_load_options;

/* Loads a model file: a bare encoder (mode CBM_ENCODER: embed and tokenize only) or a trained model. A model with
 * subnetworks, when it has read some 256 tokens, also holds the kept weights side by side, once for all contexts: for batches
 * 4 bytes each (together K (1 - sparsity) times the f32 weights), and for texts of up to 64 tokens one by one 5 to 6 bytes
 * each. Where memory does not suffice it goes on without. */
scbm_status cbm_model_load(cbm_model **model, const char *path, const cbm_load_options *options);
/* From memory that outlives the model (a file embedded in a program). */
scbm_status cbm_model_load_memory(cbm_model **model, const void *data, size_t size, const cbm_load_options *options);
void cbm_model_free(cbm_model *model);

cbm_mode cbm_model_mode(const cbm_model *model);
const char *cbm_mode_name(cbm_mode mode);                   /* "joint", … */
int cbm_model_hidden_size(const cbm_model *model);          /* d */
int cbm_model_max_tokens(const cbm_model *model);
int cbm_model_n_concepts(const cbm_model *model);           /* K; 0 for encoders and vanilla models */
const char *cbm_model_concept(const cbm_model *model, int k);
int cbm_model_n_concept_classes(const cbm_model *model, int k);
const char *cbm_model_concept_class(const cbm_model *model, int k, int c);
/* The numbers of a concept and of one of its classes, by name; the error where there is no such one lists those that are. */
scbm_status cbm_model_find_class(const cbm_model *model, const char *concept, const char *class_name, int *k, int *c);
int cbm_model_n_labels(const cbm_model *model);
/* Whether each concept has a subnetwork of its own. `block` counts from 0, or is negative for all blocks together:
 * the share of the prunable weights that concept k keeps, and the intersection over union of two concepts' subnetworks
 * (both 1 in a dense model). */
int cbm_model_is_sparse(const cbm_model *model);
int cbm_model_n_blocks(const cbm_model *model);
double cbm_model_density(const cbm_model *model, int k, int block);
double cbm_model_overlap(const cbm_model *model, int a, int b, int block);
const char *cbm_model_label(const cbm_model *model, int y);

/* ------------------------------------------------------------------------------------------
 * Prediction
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_context_options {
    scbm_backend *backend;         /* NULL: the CPU */
    scbm_type precision;           /* SCBM_F32 (0) or SCBM_BF16 */
    int max_batch_tokens;          /* tokens of one run at most; 0: chosen for the model (512 or 1,024) */
    int max_tokens;                /* longest text, special tokens included; 0: the model's */
} cbm_context_options;

scbm_status cbm_context_create(cbm_context **ctx, const cbm_model *model, const cbm_context_options *options);
void cbm_context_free(cbm_context *ctx);

typedef struct cbm_concept_result {
    const char *name;
    const char *class_name;        /* the class of the largest logit */
    int class_index, n_classes;
    float probability;             /* of that class */
    const float *logits;           /* [n_classes] */
    const float *probabilities;    /* [n_classes] */
    float contribution;            /* to the predicted label's logit: G_k · (u_k − ū_k) */
} cbm_concept_result;

typedef struct cbm_prediction {
    const char *label;
    int label_index, n_labels;
    float probability;
    const float *logits;           /* [n_labels] */
    const float *probabilities;    /* [n_labels] */
    float bias;                    /* of the predicted label, centred: g + Σ_k G_k ū_k; bias + Σ contributions = its logit */
    int truncated;                 /* the text was longer than the model reads */
    int n_tokens;
    int n_concepts;
    const cbm_concept_result *concepts;
} cbm_prediction;

/* One text, NUL-terminated UTF-8. */
scbm_status cbm_predict(cbm_context *ctx, const char *text, cbm_prediction *prediction);
/* `n` texts (lengths NULL: NUL-terminated), batched by length inside; predictions[n] in the texts' order. The bits are
 * those of cbm_predict text by text. */
scbm_status cbm_predict_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                              cbm_prediction *predictions);

typedef enum cbm_pooling { CBM_POOL_DEFAULT, CBM_POOL_MEAN, CBM_POOL_FIRST } cbm_pooling;
/* Pooled vectors [n, d] of the shared encoder (all-ones mask) into `vectors`; `normalize` scales each to length 1. `truncated` [n] may be NULL. */
scbm_status cbm_embed_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                            cbm_pooling pooling, int normalize, float *vectors, uint8_t *truncated);

/* ------------------------------------------------------------------------------------------
 * Interventions: a person says what a concept of this text should be
 * ---------------------------------------------------------------------------------------- */

typedef enum cbm_intervention_method {
    CBM_INTERVENE_MASK,   /* change the concept's subnetwork, for this text only (sparse models; SparseCBM's) */
    CBM_INTERVENE_EDIT    /* replace the concept's values before the label head (the classic concept bottleneck's) */
} cbm_intervention_method;

/* G = (∂CE/∂(W ⊙ M)) ⊙ W of the concept's cross-entropy with the wanted class, dense. In each matrix as many weights go as
 * come, at most q = min(round(portion · kept), zeros). */
typedef enum cbm_select_rule {
    CBM_SELECT_SIGNED,    /* kept weights with the largest positive G go, zeros with the most negative G come: the first-order
                             gain. Again at every step; a step does the smallest portion that brings the class, to a
                             tenth, or else the portion that lowers CE most, among doublings from one weight on */
    CBM_SELECT_ABS        /* the paper's: kept weights with the smallest |G| go, zeros with the largest |G| come */
} cbm_select_rule;

typedef enum cbm_edit_values {
    CBM_EDIT_GOLD_MEAN,   /* the mean of u_k over the training texts whose gold class it is */
    CBM_EDIT_ONE_HOT,     /* 1 for the class, 0 for the others (the released code's) */
    CBM_EDIT_GIVEN        /* the caller's */
} cbm_edit_values;

typedef struct cbm_intervene_options {
    cbm_intervention_method method;
    cbm_select_rule rule;
    double portion;            /* of a step at most, in (0, 1]; 0: 0.05 */
    int steps;                 /* at most; 0: 10, or 1 by the paper's rule */
    int whole_steps;           /* signed: each step is of the whole portion; one after which CE is larger is undone, and the
                                  portion halved */
    cbm_edit_values edit;
    const float *values;       /* with CBM_EDIT_GIVEN: u_k, [the concept's classes] */
} cbm_intervene_options;

typedef struct cbm_intervention {
    cbm_prediction before, after; /* of this intervention */
    int succeeded;             /* the concept reads the wanted class now */
    int steps;                 /* that stayed */
    double portion;            /* of the last step that stayed; 0: none */
    int64_t moved_bits;        /* bits of the concept's mask that differ from the model's now */
    int64_t total_bits;        /* that it has: the prunable weights; 0 in a dense model */
} cbm_intervention;

/* Whether such interventions (NULL: the default ones) are possible on this model; those below ask by themselves. */
scbm_status cbm_intervene_check(const cbm_model *model, const cbm_intervene_options *options);
/* Intervenes on the text of the context's last prediction (or explanation), which must have been of one text alone. Earlier
 * interventions on its other concepts stay; the same concept starts from the model's mask again. The model is never
 * written: changed bits belong to the context. `options` NULL: masks, signed, at most 0.05, 10 steps. That the concept
 * could not be brought to the class is no error (see `succeeded`); a mask intervention on a dense model is one, and so is a
 * gold mean of a class without training texts. */
scbm_status cbm_intervene(cbm_context *ctx, const char *concept, const char *class_name, const cbm_intervene_options *options,
                          cbm_prediction *after);
scbm_status cbm_intervene_report(cbm_context *ctx, const char *concept, const char *class_name,
                                 const cbm_intervene_options *options, cbm_intervention *result);
/* Back to the prediction without interventions. */
void cbm_intervene_reset(cbm_context *ctx);

/* The oracle: every concept of the data set's texts that the model misreads is set to its gold class. */
typedef struct cbm_oracle {
    size_t n;                                 /* texts */
    size_t *row;                              /* [n]: of the data set */
    int32_t *label_before, *label_after;      /* [n] */
    int32_t *concept_before, *concept_after;  /* [n, K] */
    int64_t concepts_wrong, concepts_fixed;
    int64_t labels_fixed, labels_broken;      /* wrong → right, right → wrong */
    int64_t moved_bits, steps;
    double predict_seconds, seconds;          /* before the first intervention, and in all */
} cbm_oracle;

/* `most` texts, evenly spaced over the data set; 0: all. Free with cbm_oracle_clear. */
struct cbm_dataset; /* models/dataset.h */
scbm_status cbm_intervene_oracle(cbm_context *ctx, const struct cbm_dataset *data, const cbm_intervene_options *options,
                                 size_t most, cbm_oracle *oracle);
void cbm_oracle_clear(cbm_context *ctx, cbm_oracle *oracle);

/* ------------------------------------------------------------------------------------------
 * Explanation: three levels that fit together
 *
 * Concepts: a prediction's contributions and bias add up to the label's logit. Subnetworks: which weights each concept
 * keeps, how far two concepts share them, and which neurons carry this text. Input: what each token and word did to
 * each concept, through its own subnetwork.
 * ---------------------------------------------------------------------------------------- */

/* A matrix that masks may cover. A neuron is one of its rows. */
typedef struct cbm_matrix {
    const char *name;              /* "blk.0.attn_q.weight" */
    int block;                     /* from 0 */
    int rows, columns;             /* out, in */
} cbm_matrix;

/* The K subnetworks as they are, whatever the text. In a dense model every concept keeps every weight. */
typedef struct cbm_subnetworks {
    int n_concepts, n_blocks, n_matrices;   /* K, B, M */
    int is_sparse;
    int64_t n_weights;             /* prunable ones */
    const cbm_matrix *matrices;    /* [M], block by block */
    const int64_t *kept;           /* [K, M]: weights that concept k keeps of matrix m, of rows · columns */
    const double *density;         /* [K]: the share of all prunable weights that concept k keeps */
    const double *block_density;   /* [K, B] */
    const double *overlap;         /* [K, K]: intersection over union of two subnetworks; 1 on the diagonal */
    const double *block_overlap;   /* [B, K, K] */
    const double *kept_by;         /* [K + 1]: the share of weights that exactly j concepts keep; they add up to 1. kept_by[K]
                                      is shared by all, kept_by[0] unused */
    const double *block_kept_by;   /* [B, K + 1] */
    const double *own;             /* [K]: the share of concept k's kept weights that no other concept keeps; in [0, 1] */
} cbm_subnetworks;

/* Counted once and kept until the context is freed. A model without concepts is an error. */
scbm_status cbm_describe_subnetworks(cbm_context *ctx, const cbm_subnetworks **subnetworks);

#define CBM_ALL_CONCEPTS (-1)
/* A picture of matrix `m`'s mask: density[row · columns + column], `rows` × `columns` cells in the caller's buffer, each the
 * share of the weights under it that concept k keeps (CBM_ALL_CONCEPTS: that all concepts keep), in [0, 1]. The picture may
 * be smaller than the matrix and not larger. */
scbm_status cbm_mask_map(const cbm_model *model, int m, int k, int rows, int columns, float *density);

typedef struct cbm_explain_options {
    int steps;                     /* of integrated gradients to begin with; 0: none, gradient × input alone */
    int max_steps;                 /* they are doubled up to here until they converge */
    int n_neurons;                 /* of each concept, the most salient ones; 0: none, which saves their gradients */
    const int *target;             /* [K]: the class of concept k that is explained, −1: the predicted one; NULL: all predicted */
} cbm_explain_options;

/* 32, 512, 5, NULL */
void cbm_explain_defaults(cbm_explain_options *options);

typedef struct cbm_token_attribution {
    const char *piece;                /* as the vocabulary has it: "##ing", "[CLS]" */
    int start, end;                   /* bytes in the text; 0, 0 for tokens that were added */
    int is_special;                   /* [CLS], [SEP], … : stays as it is in the baseline */
    float gradient_input;             /* Σ_d e_d ∂c/∂e_d; e is the token's word embedding, before positions and LayerNorm */
    float integrated_gradients;       /* Σ_d (e_d − e'_d) · mean over the steps of ∂c/∂e_d on the way from e' to e; 0 for
                                         special tokens, and without steps */
} cbm_token_attribution;

typedef struct cbm_word_attribution { /* the sum of the pieces of a word ("wait", "##ress"); special tokens are in none */
    int start, end;                   /* bytes in the text */
    int first_token, n_tokens;
    float gradient_input, integrated_gradients;
} cbm_word_attribution;

typedef struct cbm_neuron_saliency {
    int matrix, row;                  /* of cbm_subnetworks.matrices */
    float saliency;                   /* Σ over the row's kept weights of |w · ∂c/∂w| */
    float share;                      /* of the sum over all neurons */
} cbm_neuron_saliency;

/* One concept: c is the logit of `target` through this concept's subnetwork. */
typedef struct cbm_concept_explanation {
    const cbm_concept_result *result; /* the prediction's: class, probability, contribution */
    int target;                       /* the class that is explained */
    const char *target_name;
    double density;
    float target_logit;               /* c of the text … */
    float baseline_logit;             /* … and of the baseline: every token but special ones is the mask token (or else the
                                         padding token, or else zeros) */
    int steps;                        /* of integrated gradients, midpoint rule */
    int converged;                    /* |Σ_t integrated_gradients_t − Δ| ≤ 0.01 · max(|Δ|, 1), Δ = target − baseline logit */
    const cbm_token_attribution *tokens; /* [n_tokens] */
    const cbm_word_attribution *words;   /* [n_words] */
    const cbm_neuron_saliency *neurons;  /* [n_neurons], the most salient first */
    int n_neurons;
} cbm_concept_explanation;

typedef struct cbm_explanation {
    cbm_prediction prediction;        /* the bits of cbm_predict */
    int n_concepts, n_tokens, n_words;
    const cbm_concept_explanation *concepts;
    const cbm_subnetworks *subnetworks;
} cbm_explanation;

/* Explains one text. `options` NULL: the defaults. Attributions are computed in f32 whatever the context's precision. A
 * concept whose integrated gradients have not converged after max_steps says so and is no error. A model without concepts
 * (vanilla, or a bare encoder) is SCBM_ERROR_UNSUPPORTED, a target that the concept has no class for an argument error. */
scbm_status cbm_explain(cbm_context *ctx, const char *text, const cbm_explain_options *options, cbm_explanation *explanation);
/* Of a text of `length` bytes. */
scbm_status cbm_explain_text(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                             cbm_explanation *explanation);

/* How faithful attributions are (DeYoung et al., ERASER, ACL 2020). Of each text and concept the tokens (special ones aside)
 * with the largest attribution are taken, at least one of them, and p is the probability of the class that the concept
 * reads in the whole text: comprehensiveness is p(text) − p(text without them), sufficiency p(text) − p(they alone), means
 * over texts and concepts. Good attributions have a large comprehensiveness and a small sufficiency. */
typedef enum cbm_attribution_method {
    CBM_ATTRIBUTE_GRADIENT_INPUT,
    CBM_ATTRIBUTE_INTEGRATED_GRADIENTS,
    CBM_ATTRIBUTE_ATTENTION,          /* baseline: the mean attention that the token gets in the last block */
    CBM_ATTRIBUTE_RANDOM,             /* baseline */
    CBM_ATTRIBUTION_METHODS
} cbm_attribution_method;

const char *cbm_attribution_name(cbm_attribution_method method);   /* "integrated_gradients", … */

#define CBM_FAITHFULNESS_SHARES 5
typedef struct cbm_faithfulness {
    size_t n;                                                      /* texts that counted: those with a token to take away */
    double share[CBM_FAITHFULNESS_SHARES];                         /* of the tokens: 0.01, 0.05, 0.1, 0.2, 0.5 */
    double comprehensiveness[CBM_ATTRIBUTION_METHODS][CBM_FAITHFULNESS_SHARES];
    double sufficiency[CBM_ATTRIBUTION_METHODS][CBM_FAITHFULNESS_SHARES];
    double mean_comprehensiveness[CBM_ATTRIBUTION_METHODS];        /* over the shares */
    double mean_sufficiency[CBM_ATTRIBUTION_METHODS];
} cbm_faithfulness;

/* `lengths` NULL: NUL-terminated texts. `options` give the steps of integrated gradients (NULL: the defaults); `seed` is
 * the random baseline's. */
scbm_status cbm_measure_faithfulness(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                                     const cbm_explain_options *options, uint64_t seed, cbm_faithfulness *faithfulness);

/* ------------------------------------------------------------------------------------------
 * Training
 * ---------------------------------------------------------------------------------------- */

struct cbm_dataset; /* models/dataset.h */

typedef enum cbm_concept_loss { CBM_LOSS_PLAIN, CBM_LOSS_SIGMOID } cbm_concept_loss;

typedef struct cbm_epoch_report {
    int epoch, epochs;
    double seconds;                /* of training, without validation */
    double train_loss, valid_loss;
    double label_accuracy, concept_accuracy, label_f1, concept_f1;   /* on the validation data */
    double sparsity;               /* of each matrix of each concept, after this epoch */
    double magnitude_overlap;      /* of what pruning kept after this epoch, the share that magnitude would keep; -1: no pruning */
    double score;                  /* what the best epoch is chosen by */
    int is_best;
} cbm_epoch_report;

typedef enum cbm_prune_method {
    CBM_PRUNE_NONE,              /* a dense model: one encoder for all concepts */
    CBM_PRUNE_OBERT,             /* second order: w² / (2 [F⁻¹]_jj) (Kurtic et al., EMNLP 2022) */
    CBM_PRUNE_MAGNITUDE,         /* |w| */
    CBM_PRUNE_POPUP,             /* learned scores (Ramanujan et al., CVPR 2020) */
    CBM_PRUNE_POPUP_STRUCTURED,  /* the same, whole output rows */
    CBM_PRUNE_RANDOM             /* for comparison */
} cbm_prune_method;

/* How the concepts' subnetworks are found. At the end of each epoch in [start, end] every matrix of every concept is pruned
 * to a sparsity that climbs linearly from initial_sparsity to sparsity; training goes on with the masks in between. Only
 * epochs from `end` on compete for the best. */
typedef struct cbm_prune_options {
    cbm_prune_method method;
    double sparsity;               /* the share of zeros in the end: exactly floor(s n + 1/2) of a matrix's n weights */
    double initial_sparsity;
    int start, end;                /* epochs count from 1 */
    int fisher_block;              /* B: consecutive weights that are scored together */
    int fisher_batches;            /* m: gradients; 0: 4 B */
    int fisher_batch_size;         /* texts of one gradient; 0: the training's batch size */
    double damping;                /* δ, as a share of the matrix's mean squared gradient */
    int damping_absolute;          /* … or as it is */
    size_t fisher_memory;          /* bytes for Fisher matrices: layers are scored in groups that fit; 0: up to 4 GiB */
    int freeze_weights;            /* popup: only the scores learn, from `start` on */
    float score_rate;              /* popup: AdamW's learning rate of the scores */
} cbm_prune_options;

typedef struct cbm_train_options {
    cbm_mode mode;
    int epochs;                    /* 0: initialize only */
    int batch_size;                /* texts in a step */
    float encoder_rate, head_rate; /* learning rates */
    float weight_decay;            /* on matrices */
    float warmup;                  /* share of all steps */
    float clip_norm;
    float concept_weight;          /* λ */
    float dropout;                 /* < 0: as the encoder's file says */
    cbm_concept_loss concept_loss;
    int class_weights;             /* weigh classes by inverse frequency */
    float mixup;                   /* Beta(a, a) of C3M's concept-level MixUp; 0: off */
    const char *teacher;           /* a trained model whose probabilities are targets too (distillation); NULL: none */
    float teacher_weight;          /* of that loss beside the gold classes' */
    float temperature;             /* τ, of the teacher's probabilities and the logits that are compared with them */
    int patience;                  /* stop after so many epochs without a better one; 0: never */
    int max_tokens;                /* 0: the model's; the trained model reads as many */
    cbm_prune_options prune;
    int refit_label;               /* joint mode: the label head is fitted anew to each epoch's frozen concept logits */
    uint64_t seed;
    int resume;                    /* go on from the checkpoint beside `output`, if there is one */
    const char *output;            /* the best epoch's model; the checkpoint is output + ".checkpoint" */
    const char *init;              /* a model with the same heads to start from; NULL: the encoder with new heads */
    const char *step_log;          /* CSV file: step,loss,norm; NULL: none */
    const char *order_log;         /* text file: the rows of each step; NULL: none */
    void (*on_epoch)(void *user, const cbm_epoch_report *report);
    void *user;
    const scbm_hooks *hooks;       /* NULL: the encoder's */
    scbm_backend *backend;         /* NULL: the CPU */
} cbm_train_options;

/* Settings that give a good model: joint, 10 epochs, batch 16, 1e-4 and 1e-3, λ 5, … */
void cbm_train_defaults(cbm_train_options *options);
/* Trains on `train`, chooses by `valid`, writes options->output (atomically, after every epoch that is the best so far)
 * and a checkpoint after every epoch. `encoder` is read, not changed; it may be a trained model, whose heads are left out.
 * `concept_names` has a name for each concept of the data sets (NULL in vanilla mode).
 *
 * An epoch's score is the mean of label accuracy and concept accuracy on the validation data (the one alone where the
 * other has no gold class); the first of the epochs with the largest score is the best. In independent and sequential
 * mode the steps train the concepts, and the label head is fitted beside them, to the least loss: in independent mode
 * on the gold concepts (a missing one counts as its classes' frequencies), in sequential mode on the concept logits of
 * every epoch's network. MixUp and the teacher concern the steps alone (and not the gradients of pruning).
 * With a teacher the loss gets teacher_weight · τ² (CE of the label + λ CE of the concepts), each of the logits over τ
 * with the teacher's probabilities at temperature τ (Hinton et al., 2015); the teacher may be any model with the same
 * concepts and classes.  Class weights are n / (classes · the class's count).
 *
 * The progress hook gets "train" with the steps; when it cancels, model and checkpoint of the last whole epoch stay. A
 * loss or gradient that is not finite is SCBM_ERROR_NUMERIC. A run that goes on must have the same settings, data,
 * encoder and device; its model and logs are those of a run that was never stopped. */
scbm_status cbm_train(const cbm_model *encoder, const struct cbm_dataset *train, const struct cbm_dataset *valid,
                      const char *const *concept_names, const cbm_train_options *options);

/* ------------------------------------------------------------------------------------------
 * Evaluation and quantization
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_evaluation {
    size_t n;                                /* texts */
    double seconds;
    int32_t *label, *concept_class;          /* predictions: [n], [n, K] */
    size_t n_truncated;
} cbm_evaluation;

/* Predicts every text of the data set. Free with cbm_evaluation_clear. Measures are models/metrics.h's. */
scbm_status cbm_evaluate(cbm_context *ctx, const struct cbm_dataset *data, cbm_evaluation *evaluation);
void cbm_evaluation_clear(cbm_context *ctx, cbm_evaluation *evaluation);

/* Writes the model file `from` again with its encoder's matrices as `type` (F32, F16, BF16, Q8_0, Q4_0). Matrices whose rows
 * are no multiple of 32 stay F16; how many comes back in *kept_f16 (may be NULL). */
scbm_status cbm_quantize(const char *from, const char *to, scbm_type type, int *kept_f16, const scbm_hooks *hooks);

#ifdef __cplusplus
}
#endif

#endif
