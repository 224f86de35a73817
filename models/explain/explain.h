/*
 * models/explain/explain.h - a context's explanations from the inside
 *
 * The encoder's graph takes the word embeddings as an input [K, tokens, d], so that every concept has a stream of its own
 * even in a dense model, and the loss is the sum of the target classes' logits: one backward pass gives every concept's
 * gradient. The points between baseline and text at which integrated gradients look are texts of packed batches.
 */
#ifndef CBM_EXPLAIN_H
#define CBM_EXPLAIN_H

#include "models/core/context.h"

typedef struct cbm_explainer cbm_explainer;

/* ------------------------------------------------------------------------------------------
 * The parts of an explainer
 * ---------------------------------------------------------------------------------------- */

#define CBM_EXPLAIN_MOST_TEXTS 64 /* of a run */

/* A graph that holds `tokens` tokens and `texts` texts; replaced when that is too few tokens. */
typedef struct cbm_explain_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    int64_t tokens, texts;
    scbm_tensor *embeddings, *wanted; /* inputs [K, tokens, d], [texts, C]: 1 for the target classes */
    scbm_tensor *logits, *gradient;   /* [texts, C]; of the embeddings */
    scbm_tensor *attention;           /* [K, heads, tokens, capacity] */
} cbm_explain_graph;

/* The text at hand. */
typedef struct cbm_explained_text {
    int64_t n_tokens;
    int *target;                         /* [K] */
    float *embedding, *baseline;         /* [tokens, d] */
    double *text_logit, *baseline_logit; /* [K] */
    double *gradient_input;              /* [K, tokens] */
    double *integral;                    /* [K, tokens]: sums over the steps so far */
    size_t embedding_capacity, baseline_capacity, gradient_capacity, integral_capacity;
} cbm_explained_text;

/* A prunable weight whose gradient is handed over, and where its neurons begin among all of a concept's. */
typedef struct cbm_watched_weight {
    cbm_explainer *explainer;
    const scbm_tensor *weight;
    int64_t first_neuron;
    const scbm_tensor *gradient; /* while the rows are summed */
} cbm_watched_weight;

/* Neurons: the rows of all matrices. */
typedef struct cbm_neuron_rows {
    int64_t n_neurons, longest_row;
    cbm_watched_weight *watched; /* [n_matrices] */
    float *row;                  /* [workers, longest row]: a weight's row as f32 */
    double *saliency;            /* [K, neurons] */
} cbm_neuron_rows;

/* What the caller gets. */
typedef struct cbm_explain_result {
    cbm_concept_explanation *concepts;
    cbm_token_attribution *tokens; /* [K, tokens] */
    cbm_word_attribution *words;   /* [K, tokens], of which n_words of each concept count */
    cbm_neuron_saliency *neurons;
    size_t tokens_capacity, words_capacity, neurons_capacity;
} cbm_explain_result;

struct cbm_explainer {
    cbm_context *ctx;
    cbm_subnetworks subnetworks;
    cbm_explain_graph attribution, saliency, attention;
    cbm_neuron_rows rows;
    cbm_explained_text text;
    cbm_explain_result result;
    int32_t zeros[CBM_EXPLAIN_MOST_TEXTS]; /* every text of a run is the text at hand, the context's first */
};

static inline const cbm_network *cbm_explainer_network(const cbm_explainer *x) {
    return &x->ctx->model->network;
}

static inline const scbm_hooks *cbm_explainer_hooks(const cbm_explainer *x) {
    return &x->ctx->hooks;
}

/* Makes the context's explainer, if it has none yet. */
scbm_status cbm_explainer_create(cbm_context *ctx);
cbm_explainer *cbm_explainer_of(const cbm_context *ctx);

/* ------------------------------------------------------------------------------------------
 * Graphs (graphs.c)
 * ---------------------------------------------------------------------------------------- */

/* The encoder from given embeddings, in f32: [K, tokens, d], one stream a concept. */
scbm_status cbm_explain_start_graph(cbm_explainer *x, cbm_explain_graph *made, scbm_tensor **attention);
/* Adds the logits; returns the sum of the wanted ones. */
scbm_tensor *cbm_explain_add_target_logits(cbm_explainer *x, cbm_explain_graph *made);
/* A graph that holds so many tokens; `texts` is the same whenever the graph is. */
scbm_status cbm_explain_prepare_graph(cbm_explainer *x, cbm_explain_graph *graph, int64_t tokens, int64_t texts,
                                      scbm_status (*build)(cbm_explainer *x, cbm_explain_graph *made));
void cbm_explain_free_graph(cbm_explain_graph *graph);
/* Writes `n` times the text at hand into the inputs, but for the embeddings. */
void cbm_explain_fill_graph(const cbm_explainer *x, const cbm_explain_graph *graph, int64_t n);

/* The context's first text becomes the text at hand: its embeddings, and its baseline's. */
scbm_status cbm_explain_read_text(cbm_explainer *x);
/* The embeddings at a place between baseline (0) and text (1), into every stream; `at` is the place of the text's first
 * token in a batch of `n_tokens`. */
void cbm_explain_write_point(const cbm_explainer *x, float *embeddings, int64_t at, int64_t n_tokens, double place);

/* ------------------------------------------------------------------------------------------
 * Levels of an explanation
 * ---------------------------------------------------------------------------------------- */

/* gradient × input and integrated gradients of every concept (attributions.c). */
scbm_status cbm_attribute(cbm_explainer *x, const cbm_explain_options *options, const char *progress);

/* Those that were added to the text or stand in it as such; not what stands for an unknown word. */
int cbm_is_special_token(const cbm_tokenizer *tokenizer, int32_t id);
/* Places for every concept's tokens, without attributions yet. */
scbm_status cbm_list_tokens(cbm_explainer *x);
/* Puts a concept's pieces together; returns the number of words. */
int cbm_join_words(const cbm_explainer *x, const cbm_token_attribution *tokens, cbm_word_attribution *words);

/* The most salient neurons of every concept (neurons.c). */
scbm_status cbm_find_neurons(cbm_explainer *x, const cbm_explain_options *options);

/* How much attention each token of the context's last text gets in the last block, through each concept's subnetwork: the
 * mean over heads and attending tokens. received [K, n_tokens]; a concept's sum is 1 (attention.c). */
scbm_status cbm_attention_received(cbm_context *ctx, float *received);

/* Counts a model's subnetworks; free with cbm_subnetworks_clear. */
scbm_status cbm_subnetworks_create(cbm_subnetworks *subnetworks, const cbm_model *model);
void cbm_subnetworks_clear(cbm_subnetworks *subnetworks, const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Whole explanations (explain.c)
 * ---------------------------------------------------------------------------------------- */

/* An error unless the model has concepts. */
scbm_status cbm_check_concepts(const cbm_model *model);
scbm_status cbm_check_explain_options(const cbm_model *model, const cbm_explain_options *options);
/* As cbm_explain_text, with a name for the progress hook; the context's error text is not set. */
scbm_status cbm_explain_as(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                           const char *progress, cbm_explanation *explanation);

/* Faithfulness under way: zero-initialize, add texts, take the means, clear. */
typedef struct cbm_ablation {
    cbm_sequences variants; /* of one text: without the chosen tokens, and they alone */
    float *logits;          /* [variants, C] */
    float *attention;       /* [K, tokens] */
    double *score;          /* [tokens] */
    int32_t *order, *place; /* [candidates] by score; the candidates' places in the text */
    uint8_t *chosen;        /* [tokens] */
    size_t logits_capacity, attention_capacity, score_capacity, order_capacity, place_capacity, chosen_capacity;
    size_t n;                                                                   /* texts that counted */
    double comprehensiveness[CBM_ATTRIBUTION_METHODS][CBM_FAITHFULNESS_SHARES]; /* sums over texts and concepts */
    double sufficiency[CBM_ATTRIBUTION_METHODS][CBM_FAITHFULNESS_SHARES];
} cbm_ablation;

/* `explanation` is the context's latest, `number` the text's, by which random scores are drawn. */
scbm_status cbm_ablation_add(cbm_context *ctx, cbm_ablation *ablation, const cbm_explanation *explanation,
                             uint64_t seed, uint64_t number);
void cbm_ablation_finish(const cbm_ablation *ablation, int n_concepts, cbm_faithfulness *faithfulness);
void cbm_ablation_clear(cbm_ablation *ablation, const scbm_hooks *hooks);

#endif
