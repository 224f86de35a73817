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
 * Names: X_create and X_load make an object, and X_free frees it. Structs of the caller's are filled by other functions
 * (cbm_dataset_read, _begin, _split), and emptied by X_clear. X_write writes a file. Tables have
 * X_at, which is NULL past the last row, and X_find.
 *
 * Results are the library's: pointers into the context, good until the next call on it that computes anything
 * (predict, embed, explain, intervene, evaluate), whatever its outcome; names in them live as long as the model.
 * cbm_prediction_copy keeps one. Fields may be added at the end of results until 1.0 with a new minor version, which
 * has a soname of its own (libsparsecbm.so.0.MINOR).
 *
 * Errors: a call that fails returns a status and leaves one sentence, in cbm_last_error() of this thread; calls that
 * take a context leave the same sentence in cbm_context_error(ctx), where it stays until the context's next failure.
 *
 * The model (METHOD: SparseCBM, AAAI 2024): concept k's subnetwork encodes the text, pooling gives z_k,
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
    const scbm_hooks *hooks;       /* NULL: the default ones; copied. Contexts use them from their own threads, for
                                      what they share, and where they have no hooks of their own. in_use is not heeded */
    int unpacked;                  /* 1: holds the kept weights of subnetworks once, in less memory, and is slower */
    int copy;                      /* 1: reads the file into memory instead of mapping it: it may then be changed, cut or
                                      removed while the model is in use */
    uint64_t reserved[8];
} cbm_load_options;

/* Loads a model file: a bare encoder (mode CBM_ENCODER: embed and tokenize only) or a trained model. A model with
 * subnetworks, when it has read some 256 tokens, also holds the kept weights side by side, once for all contexts: for batches
 * 4 bytes each (together K (1 - sparsity) times the f32 weights), and for texts of up to 64 tokens one by one 5 to 6 bytes
 * each. Where memory does not suffice it goes on without.
 * The file is mapped (unless options->copy): it must not be changed while the model is in use, and a new version is renamed
 * over it, as this library's own writing does; models that are loaded keep the old one. A file whose size or time has changed
 * is an error of the next batch, SCBM_ERROR_IO; one that is cut off during a batch ends the process (SIGBUS). */
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
/* How a text's tokens become the vector that heads read and embeddings are: by the file's `sparsecbm.pooling`, which
 * training writes, or else by its architecture's key (`bert.pooling_type`: 1 mean, 2 first token, 3 last, 4 attention), or the mean;
 * models that versions 0.1.x trained pool by the mean. */
typedef enum cbm_pooling {
    CBM_POOL_FILE, /* as the model file says */
    CBM_POOL_MEAN,
    CBM_POOL_FIRST, /* the first token, [CLS] */
    CBM_POOL_LAST,
    CBM_POOL_ATTENTION /* of a BiLSTM alone: all tokens, by their products with the last state of each direction */
} cbm_pooling;
cbm_pooling cbm_model_pooling(const cbm_model *model);      /* never CBM_POOL_FILE */
const char *cbm_pooling_name(cbm_pooling pooling);          /* "file", "mean", "first", "last", "attention"; NULL: none of them */
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
    scbm_precision precision;      /* 0: f32; one that the backend has not is SCBM_ERROR_UNSUPPORTED. int8: for models without
                                      masks whose layers are q8_0 or q4_0 (see scbm_graph_set_precision) */
    int max_batch_tokens;          /* tokens of one run at most; 0: chosen for the model (512 or 1,024) */
    int max_tokens;                /* longest text, special tokens included; 0: the model's */
    const scbm_hooks *hooks;       /* progress, cancel, log, threads and memory of this context alone; NULL: the model's.
                                      in_use is not heeded: cbm_context_memory counts */
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
    const float *values;           /* [n_classes]: u_k, what the label head reads */
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

/* Whether vectors are scaled to length 1; a vector of zeros stays. FILE: as the model file says. */
typedef enum cbm_normalize { CBM_NORMALIZE_FILE, CBM_NORMALIZE_YES, CBM_NORMALIZE_NO } cbm_normalize;
/* Pooled vectors [n, d] of the shared encoder (all-ones mask) into `vectors`. `truncated` [n] may be NULL. Another number
 * than those of the enums is an error. */
scbm_status cbm_embed_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                            cbm_pooling pooling, cbm_normalize normalize, float *vectors, uint8_t *truncated);

typedef struct cbm_token_info {
    int32_t id;
    const char *piece;             /* as the vocabulary has it: "##ing"; the model's */
    const char *text;              /* as people should see it: "ing" */
    int start, end;                /* bytes in the text, end exclusive; 0, 0 for tokens that were added */
    int is_special;                /* [CLS], [SEP], …; not what stands for an unknown word */
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
    const float *values;       /* with CBM_EDIT_GIVEN: u_k, [n_values], one a class of the concept */
    int n_values;
    int edit_always;           /* 1: edits replace the values even where the concept reads the class already; 0: such a
                                  concept is left as it is, as by masks (given values always replace) */
    uint64_t reserved[8];      /* zeros */
} cbm_intervene_options;

/* One intervention. It belongs to the context and lives, with its predictions, until the context's next intervention. */
typedef struct cbm_intervention {
    const cbm_prediction *before, *after; /* of this intervention */
    size_t text;               /* of the context's last predictions */
    int concept, class_index;  /* what was wanted */
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
 * written: changed bits belong to the context, and the last prediction stays as it is. `options` NULL or {0}: masks,
 * signed, at most 0.05, 10 steps. That the concept could not be brought to the class is no error (see cbm_intervene_report);
 * a mask intervention on a dense model is one, and so is a gold mean of a class without training texts. Where an
 * intervention fails, or is cancelled, the text is what it was before. *after lives as a cbm_intervention does. The progress
 * hook gets "intervene" with the steps, after each run. */
scbm_status cbm_intervene(cbm_context *ctx, const char *concept, const char *class_name, const cbm_intervene_options *options,
                          const cbm_prediction **after);
/* The same, with its success and what it took. */
scbm_status cbm_intervene_report(cbm_context *ctx, const char *concept, const char *class_name,
                                 const cbm_intervene_options *options, const cbm_intervention **intervention);
/* The same by numbers, on text `text` of the context's last predictions, which may have been of many. Interventions are on
 * one text at a time: those on another text begin anew, and what was done to the former is forgotten. */
scbm_status cbm_intervene_on(cbm_context *ctx, size_t text, int concept, int class_index,
                             const cbm_intervene_options *options, const cbm_intervention **intervention);
/* Back to the prediction without interventions. */
void cbm_intervene_reset(cbm_context *ctx);

/* ------------------------------------------------------------------------------------------
 * Explanation: three levels that fit together
 *
 * Concepts: a prediction's contributions and bias add up to the label's logit. Subnetworks: which weights each concept
 * keeps, how far two concepts share them, and which neurons carry this text. Input: what each token and word did to
 * each concept, through its own subnetwork, and to labels.
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

/* A way to say what a token did to a logit. There is a table of them; a method's number is its place there. */
typedef struct cbm_attribution_method {
    const char *name;              /* "integrated_gradients" */
    const char *title;             /* "integrated gradients", UTF-8 */
    int adds_up;                   /* a text's values add up to the logit less that of the baseline */
    int is_baseline;               /* for comparison: an explanation has it only where it is asked for */
} cbm_attribution_method;

/* "gradient_input": Σ_d e_d ∂c/∂e_d, e the token's word embedding, before positions and LayerNorm.
 * "integrated_gradients": Σ_d (e_d − e'_d) · mean over the steps of ∂c/∂e_d on the way from e' to e, where e' is the
 *     embedding of the mask token, or else the padding token, or else zeros; 0 for special tokens, which stay as they are.
 * "attention" (baseline): the attention that the token gets in the last block, the mean over heads and attending tokens.
 * "random" (baseline). */
int cbm_attribution_method_count(void);
const cbm_attribution_method *cbm_attribution_method_at(int method);   /* NULL: there is none of this number */
int cbm_attribution_method_find(const char *name);                     /* −1: there is none of this name */

/* Labels by what the text is predicted to be: of the largest logit, and of the second largest. */
#define CBM_PREDICTED (-1)
#define CBM_RUNNER_UP (-2)

typedef struct cbm_explain_options {
    int steps;                     /* of integrated gradients to begin with; 0: 32; negative: they are left out */
    int max_steps;                 /* steps are doubled up to here until they converge; 0: 512; negative: never */
    int n_neurons;                 /* of each concept, the most salient ones; 0: 5; negative: none, which saves their gradients */
    const int *target;             /* [K]: the class of concept k that is explained, −1: the predicted one; NULL: all predicted */
    const int *labels;             /* [n_labels]: labels to whose logits words are attributed too: numbers, CBM_PREDICTED or
                                      CBM_RUNNER_UP. Each takes about as long as all concepts together */
    int n_labels;                  /* 0: none, and of a vanilla model the predicted one */
    const int *methods;            /* [n_methods]: numbers of attribution methods; NULL: all that are no baselines */
    int n_methods;
    uint64_t seed;                 /* of random attributions */
    uint64_t reserved[8];          /* zeros */
} cbm_explain_options;

typedef struct cbm_explained_token {
    int32_t id;
    const char *piece;             /* as the vocabulary has it: "##ing", "[CLS]" */
    int start, end;                /* bytes in the text; 0, 0 for tokens that were added */
    int is_special;                /* [CLS], [SEP], …; not what stands for an unknown word */
} cbm_explained_token;

typedef struct cbm_explained_word { /* the pieces of a word put together ("wait", "##ress"); special tokens are in none */
    int start, end;                /* bytes in the text */
    int first_token, n_tokens;
} cbm_explained_word;

/* A logit, and what tokens and words did to it. */
typedef struct cbm_explained_logit {
    float value;                   /* of the text … */
    float baseline;                /* … and of the baseline, in which every token but special ones is the mask token */
    int steps;                     /* of integrated gradients, midpoint rule; 0: none */
    int converged;                 /* |Σ_t integrated_gradients_t − Δ| ≤ 0.01 · max(|Δ|, 1), Δ = value − baseline */
    const float *const *tokens;    /* tokens[m][t]: by method m; tokens[m] is NULL where that was not computed */
    const float *const *words;     /* words[m][w]: sums over a word's tokens */
} cbm_explained_logit;

typedef struct cbm_neuron_saliency {
    int matrix, row;               /* of cbm_subnetworks.matrices */
    float saliency;                /* Σ over the row's kept weights of |w · ∂c/∂w| */
    float share;                   /* of the sum over all neurons */
} cbm_neuron_saliency;

/* One concept: the logit is that of `target` through this concept's subnetwork. */
typedef struct cbm_concept_explanation {
    const cbm_concept_result *result; /* the prediction's: class, probability, contribution */
    int target;                    /* the class that is explained */
    const char *target_name;
    double density;
    cbm_explained_logit logit;
    const cbm_neuron_saliency *neurons; /* [n_neurons], the most salient first */
    int n_neurons;
} cbm_concept_explanation;

/* One label: the logit is y = g + Σ_k G_k · u_k, so what a token did to it is a sum over the concepts' subnetworks,
 * ∂y/∂e = Σ_k Σ_c G_kc ∂u_kc/∂e, from one backward pass over all of them. Where attributions add up, they add up to the
 * label's logit less the baseline's. */
typedef struct cbm_label_explanation {
    int label;
    const char *name;
    cbm_explained_logit logit;
} cbm_label_explanation;

typedef struct cbm_explanation {
    const cbm_prediction *prediction; /* the bits of cbm_predict */
    int n_concepts, n_labels, n_tokens, n_words, n_methods;
    const cbm_explained_token *tokens;
    const cbm_explained_word *words;
    const cbm_concept_explanation *concepts; /* [n_concepts] */
    const cbm_label_explanation *labels;     /* [n_labels], as the options list them */
    const cbm_subnetworks *subnetworks;      /* NULL in a vanilla model */
} cbm_explanation;

/* Explains one text. `options` NULL or {0}: the defaults. Attributions are computed in f32 whatever the context's precision.
 * Integrated gradients that have not converged after max_steps say so and are no error. A bare encoder is
 * SCBM_ERROR_UNSUPPORTED; a target, label or method that there is not is an argument error. The explanation belongs to the
 * context and lives until its next explanation or prediction (interventions leave it alone). The progress hook gets
 * "explain" between runs. */
scbm_status cbm_explain(cbm_context *ctx, const char *text, const cbm_explain_options *options,
                        const cbm_explanation **explanation);
/* Of a text of `length` bytes. */
scbm_status cbm_explain_text(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                             const cbm_explanation **explanation);

/* Takes an explanation, which lives until the function returns, of text `i` of the call. It must not call the context; a
 * status other than SCBM_OK ends the call and comes back from it: say why with scbm_fail. */
typedef scbm_status (*cbm_explanation_function)(void *user, size_t i, const cbm_explanation *explanation);
/* Explains `n` texts (lengths NULL: NUL-terminated) with the bits of cbm_explain text by text, and hands them over in their
 * order: short texts share the runs, so it is sooner done. Memory does not grow with n. Afterwards the context holds no
 * text to intervene on. */
scbm_status cbm_explain_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                              const cbm_explain_options *options, cbm_explanation_function function, void *user);

/* ---- What the label is made of ---- */

/* The label head y = G u + g: G [Y, C] row by row, g [Y], and ū [C], the mean of u over the training texts. In a vanilla
 * model G is [Y, d], on the pooled vector, and ū NULL. Concept k's columns begin at cbm_model_first_class(model, k). They
 * live as long as the model; an output may be NULL. A bare encoder is SCBM_ERROR_UNSUPPORTED. */
scbm_status cbm_model_label_head(const cbm_model *model, const float **weight, const float **bias, const float **mean);
int cbm_model_first_class(const cbm_model *model, int k);   /* of the C = Σ R_k classes; C for k = K */

/* What each concept adds to each label's logit, in two forms. Raw ones are not identified (a constant added to a concept's
 * logits leaves its probabilities as they are), so people are shown centred ones. Of both, bias and contributions add up
 * to the logit, in double. */
typedef struct cbm_contributions {
    int n_concepts, n_labels;      /* K, Y */
    const double *raw;             /* [K, Y]: G_yk · u_k */
    const double *raw_bias;        /* [Y]: g_y */
    const double *centred;         /* [K, Y]: G_yk · (u_k − ū_k) */
    const double *centred_bias;    /* [Y]: g_y + Σ_k G_yk · ū_k */
    const double *logits;          /* [Y] */
} cbm_contributions;

/* "Why not 5 stars?": of a prediction of this context's model, of an intervention's too. The result lives until the next
 * call for this context. A model without concepts is SCBM_ERROR_UNSUPPORTED. */
scbm_status cbm_contributions_of(cbm_context *ctx, const cbm_prediction *prediction,
                                 const cbm_contributions **contributions);

/* ---- How faithful attributions are (DeYoung et al., ERASER, ACL 2020) ----
 *
 * Of each text and concept the tokens (special ones aside) with the largest attribution are taken, at least one of them,
 * and p is the probability of the class that the concept reads in the whole text: comprehensiveness is p(text) − p(text
 * without them), sufficiency p(text) − p(they alone), means over texts and concepts. Of a vanilla model p is the
 * probability of the predicted label. Good attributions have a large comprehensiveness and a small sufficiency. */

typedef struct cbm_method_faithfulness {
    int method;
    const char *name, *title;
    const double *comprehensiveness, *sufficiency;          /* [n_shares] */
    double mean_comprehensiveness, mean_sufficiency;        /* over the shares */
} cbm_method_faithfulness;

typedef struct cbm_faithfulness {
    size_t n;                      /* texts that counted: those with a token to take away */
    int n_methods, n_shares;
    const double *share;           /* [n_shares] of the tokens: 0.01, 0.05, 0.1, 0.2, 0.5 */
    const cbm_method_faithfulness *methods; /* every one that the model allows, baselines too */
} cbm_faithfulness;

/* `lengths` NULL: NUL-terminated texts. `options` give the steps of integrated gradients and the seed of the random baseline;
 * its methods, targets, labels and neurons are not looked at. The result belongs to the context and lives until the next
 * call; afterwards the context holds no text to intervene on. */
scbm_status cbm_measure_faithfulness(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                                     const cbm_explain_options *options, const cbm_faithfulness **faithfulness);

/* ---- Many texts together: contributions over all of them, and words over a sample ---- */

typedef struct cbm_global_options {
    int64_t sample;              /* texts whose words are attributed, evenly spaced over the data; 0: 200; negative: all */
    int n_words;                 /* of each class at most; 0: 10 */
    int faithfulness;            /* 1: measure it on the sample too */
    int labels;                  /* 1: words towards the predicted label too, which takes as long again; of a vanilla model
                                    they are all there is, and are always attributed */
    cbm_explain_options explain; /* steps of integrated gradients, and the seed of faithfulness's random baseline, which
                                    draws by a text's row; the rest is not looked at */
    uint64_t reserved[8];        /* zeros */
} cbm_global_options;

/* A word's integrated gradients towards a class, over its occurrences in texts whose concept reads this class; or towards a
 * label, in texts that are predicted it. Words are compared as the tokenizer normalizes them. */
typedef struct cbm_word_influence {
    const char *text; /* "unforgettable": the pieces put together */
    int64_t count;    /* occurrences */
    double mean;      /* of their attributions */
    double score;     /* sum / (count + 2): what words are ranked by, so that one occurrence is weak evidence */
} cbm_word_influence;

typedef struct cbm_global_report {
    const cbm_subnetworks *subnetworks; /* the context's; NULL in a vanilla model */
    size_t n_texts, n_explained, n_truncated;
    int n_concepts, n_labels, n_classes; /* K, Y, C = Σ R_k; concept k's classes start at first_class[k] */
    const int *first_class;              /* [K + 1] */
    const int64_t *label_count;          /* [Y]: texts that are predicted this label */
    const int64_t *class_count;          /* [C]: texts whose concept reads this class */
    /* Over the texts that are predicted label y: the mean of concept k's contribution to the logit of y, and of its
     * absolute value; 0 without such texts. */
    const double *contribution;          /* [K, Y] */
    const double *absolute_contribution; /* [K, Y] */
    const double *importance;            /* [K]: the mean |contribution| over all texts */
    const cbm_word_influence *words;     /* [C, most_words]: the most influential first, with positive scores only */
    const int *n_words;                  /* [C]: how many there are */
    const cbm_word_influence *label_words; /* [Y, most_words]; NULL: not attributed */
    const int *n_label_words;              /* [Y] */
    int most_words;
    const cbm_faithfulness *faithfulness; /* NULL: not measured */
} cbm_global_report;

/* `lengths` NULL: NUL-terminated texts; `options` NULL: the defaults. The report refers to the context's subnetworks;
 * free it before the context, which afterwards holds no text to intervene on. The progress hook gets "predict" and
 * "explain". */
scbm_status cbm_global_report_create(cbm_global_report **report, cbm_context *ctx, const char *const *texts,
                                     const size_t *lengths, size_t n, const cbm_global_options *options);
void cbm_global_report_free(cbm_global_report *report);

/* ------------------------------------------------------------------------------------------
 * Quantization
 * ---------------------------------------------------------------------------------------- */

/* All zeros (or NULL): the defaults. */
typedef struct cbm_quantize_options {
    int requantize;                /* 1: matrices that are Q8_0 or Q4_0 may become another type; what the first rounding took
                                      away does not come back, and the second takes more */
    const scbm_hooks *hooks;       /* NULL: the default ones */
    uint64_t reserved[8];
} cbm_quantize_options;

/* Writes the model file `from` again with its encoder's matrices as `type` (F32, F16, BF16, Q8_0, Q4_0). Matrices whose rows
 * are no multiple of 32 stay F16; how many comes back in *kept_f16 (may be NULL). */
scbm_status cbm_quantize(const char *from, const char *to, scbm_type type, const cbm_quantize_options *options, int *kept_f16);

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
