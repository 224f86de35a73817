/*
 * models/cbm.h - concept bottleneck models: load, predict, embed, explain, intervene
 *
 * What a program needs that wants predictions with their explanation; cbm-train.h is for making models.
 *
 *     cbm_model *model; cbm_context *ctx; const cbm_prediction *p;
 *     if (cbm_model_load(&model, "cebab.gguf", NULL))      return fail(cbm_last_error());
 *     if (cbm_context_create(&ctx, model, NULL))           return fail(cbm_last_error());
 *     if (cbm_predict(ctx, "Great food, rude staff.", &p)) return fail(cbm_context_error(ctx));
 *     printf("%s (%.2f)\n", p->label, p->probability);
 *
 * A loaded model is immutable and shared by threads; a context belongs to one thread at a time. Contexts are freed
 * before their model. Options: a struct that is all zeros, or NULL, is the documented defaults; `reserved` must be zero.
 *
 * Results are the library's: pointers into the context, good until the next call on it that computes anything
 * (predict, embed, explain, intervene, evaluate), whatever its outcome; names in them live as long as the model.
 * cbm_prediction_copy keeps one. Fields may be added at the end of results until 1.0 with a new minor version, which
 * has a soname of its own (libsparsecbm.so.0.MINOR).
 *
 * Errors: a call that fails returns a status and leaves one sentence, in cbm_last_error() of this thread; calls that
 * take a context leave the same sentence in cbm_context_error(ctx), where it stays until the context's next failure.
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

/* The last failure on this thread, one sentence; and of this context (NULL: of this thread). */
const char *cbm_last_error(void);
const char *cbm_context_error(const cbm_context *ctx);
/* Where the context's last call was of many texts and failed because of one of them: its number, from 0; else -1. */
int64_t cbm_context_error_text(const cbm_context *ctx);

/* ------------------------------------------------------------------------------------------
 * Models
 * ---------------------------------------------------------------------------------------- */

typedef enum cbm_mode { CBM_ENCODER, CBM_VANILLA, CBM_INDEPENDENT, CBM_SEQUENTIAL, CBM_JOINT } cbm_mode;

typedef struct cbm_load_options {
    const scbm_hooks *hooks;       /* NULL: the default ones; copied */
    int unpacked;                  /* 1: holds the kept weights of subnetworks once, in less memory, and is slower */
    int copy;                      /* 1: reads the file into memory instead of mapping it: it may then be changed, cut or
                                      removed while the model is in use */
    uint64_t reserved[8];
} cbm_load_options;

/* Loads a model file: a bare encoder (mode CBM_ENCODER: embed and tokenize only) or a trained model. A model with
 * subnetworks, when it has read some 256 tokens, also holds the kept weights side by side, once for all contexts: for batches
 * 4 bytes each (together K (1 - sparsity) times the f32 weights), and for texts of up to 64 tokens one by one 5 to 6 bytes
 * each. Where memory does not suffice it goes on without. */
scbm_status cbm_model_load(cbm_model **model, const char *path, const cbm_load_options *options);
/* From memory that outlives the model (a file embedded in a program). */
scbm_status cbm_model_load_memory(cbm_model **model, const void *data, size_t size, const cbm_load_options *options);
void cbm_model_free(cbm_model *model);

/* The file that the model was read from, with all its keys (scbm_file_string_or and its like); the model's. */
const scbm_file *cbm_model_file(const cbm_model *model);
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
    scbm_precision precision;      /* 0: f32; one that the backend has not is SCBM_ERROR_UNSUPPORTED */
    int max_batch_tokens;          /* tokens of one run at most; 0: chosen for the model (512 or 1,024) */
    int max_tokens;                /* longest text, special tokens included; 0: the model's */
    const scbm_hooks *hooks;       /* progress, cancel, log, threads and memory of this context alone; NULL: the model's */
    uint64_t reserved[8];
} cbm_context_options;

scbm_status cbm_context_create(cbm_context **ctx, const cbm_model *model, const cbm_context_options *options);
void cbm_context_free(cbm_context *ctx);
/* Bytes that the context holds now: texts, results, graphs, and what explanations and interventions have made. Weights
 * and what is derived from them belong to the model. */
size_t cbm_context_memory(const cbm_context *ctx);

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
scbm_status cbm_predict(cbm_context *ctx, const char *text, const cbm_prediction **prediction);
/* `n` texts (lengths NULL: NUL-terminated), batched by length inside; (*predictions)[0 … n) in the texts' order. The bits
 * are those of cbm_predict text by text. The progress hook gets "predict" with the texts. */
scbm_status cbm_predict_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                              const cbm_prediction *const **predictions);
/* A copy with everything that it points to, which outlives context and model. By malloc; free it with
 * cbm_prediction_free, which accepts NULL. */
scbm_status cbm_prediction_copy(cbm_prediction **copy, const cbm_prediction *prediction);
void cbm_prediction_free(cbm_prediction *copy);

typedef enum cbm_pooling { CBM_POOL_DEFAULT, CBM_POOL_MEAN, CBM_POOL_FIRST } cbm_pooling;
/* Whether embeddings are scaled to length 1. */
/* Whether vectors are scaled to length 1; a vector of zeros stays. FILE: as the model file says. */
typedef enum cbm_normalize { CBM_NORMALIZE_FILE, CBM_NORMALIZE_YES, CBM_NORMALIZE_NO } cbm_normalize;
/* Pooled vectors [n, d] of the shared encoder (all-ones mask) into `vectors`. `truncated` [n] may be NULL. */
scbm_status cbm_embed_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                            cbm_pooling pooling, cbm_normalize normalize, float *vectors, uint8_t *truncated);

typedef struct cbm_token_info {
    int32_t id;
    const char *piece;             /* as the vocabulary has it: "##ing"; the model's */
    const char *text;              /* as people should see it: "ing" */
    int start, end;                /* bytes in the text, end exclusive; 0, 0 for tokens that were added */
    int is_special;                /* [CLS], [SEP], … */
} cbm_token_info;

typedef struct cbm_token_list {
    int n;                         /* special tokens included */
    int truncated;                 /* the text had more than the context reads */
    const cbm_token_info *tokens;  /* [n] */
} cbm_token_list;

/* How the model reads a text of `length` bytes: its tokens, and so their number. Good until the next call of this
 * function; predictions stay as they are. */
scbm_status cbm_tokens_of(cbm_context *ctx, const char *text, size_t length, const cbm_token_list **list);

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
 * Quantization
 * ---------------------------------------------------------------------------------------- */

/* Writes the model file `from` again with its encoder's matrices as `type` (F32, F16, BF16, Q8_0, Q4_0). Matrices whose rows
 * are no multiple of 32 stay F16; how many comes back in *kept_f16 (may be NULL). */
scbm_status cbm_quantize(const char *from, const char *to, scbm_type type, int *kept_f16, const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Text for people: names of classes and concepts, and texts, are data, and may hold anything
 * ---------------------------------------------------------------------------------------- */

/* The cells of a terminal that text[0 … length) takes when it is shown by cbm_text_show: wide characters take two,
 * combining ones none, and an emoji that several characters make as many as one. */
int cbm_text_width(const char *text, size_t length);
/* Writes text[0 … length) for people to read, on one line, NUL-terminated, into `size` bytes, and returns `shown`: line
 * feeds, tabs and carriage returns as \n, \t, \r; other control characters (C0, DEL, C1), line separators, marks and
 * overrides of direction and what is not UTF-8 as \xNN, byte by byte. 4 · length + 1 bytes are always enough. What takes
 * more cells than max_width (0: any number may be taken) or more bytes than there are is cut, and ends in "…". */
const char *cbm_text_show(char *shown, size_t size, const char *text, size_t length, int max_width);

#ifdef __cplusplus
}
#endif

#endif
