/*
 * models/explain/explain.h - a context's explanations from the inside
 *
 * The encoder's graph takes the word embeddings as an input [S, tokens, width], so that every concept has a stream of its
 * own even in a dense model (S = K; 1 in a vanilla model). Its loss is a sum of wanted logits: one backward pass gives the
 * gradient of every concept's logit, each in its stream, or that of one label's logit, which is the sum over the streams.
 *
 * Words of these files: a *unit* is a logit that is explained, K concepts first, then the labels that were asked for. A
 * *view* is what one pass through a text gives: the units of view 0 are the concepts, each further label has a view of its
 * own. A *point* is a text of the group somewhere between its baseline and itself, in one view.
 */
#ifndef CBM_EXPLAIN_H
#define CBM_EXPLAIN_H

#include "models/core/context.h"

typedef struct cbm_explainer cbm_explainer;

#define CBM_GROUP_TEXTS 64 /* of a group, and of a run */
#define CBM_MOST_METHODS 64

/* ------------------------------------------------------------------------------------------
 * The parts of an explainer
 * ---------------------------------------------------------------------------------------- */

/* Options with their defaults in place. */
typedef struct cbm_explain_plan {
    int steps, max_steps; /* 0: no integrated gradients */
    int n_neurons;        /* 0: none */
    const int *target;    /* [K], or NULL */
    const int *labels;    /* [n_labels] */
    int n_labels;
    uint64_t methods; /* bit m: method m is computed */
    uint64_t seed;
    const char *what;       /* for the progress hook */
    const uint64_t *number; /* [n]: by which texts draw random numbers; NULL: their places in the call */
} cbm_explain_plan;

/* What the progress hook is told: texts of a call with several, points of a call with one. */
typedef struct cbm_explain_progress {
    const char *what;
    int64_t texts_done, n_texts, points_done, n_points;
} cbm_explain_progress;

/* A graph that holds `tokens` tokens and `texts` texts; replaced when that is too few tokens. */
typedef struct cbm_explain_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    int64_t tokens, texts;
    scbm_tensor *embeddings;    /* input [S, tokens, width] */
    scbm_tensor *wanted;        /* input [texts, C]: 1 for the target classes, or a label's row of G; of a vanilla model
                                   [texts, Y] */
    scbm_tensor *wanted_values; /* input [texts, C], in independent mode: a label's row of G, of the softmaxes */
    scbm_tensor *logits;        /* [texts, C or Y] */
    scbm_tensor *gradient;      /* of the embeddings */
    scbm_tensor *attention;     /* [S, heads, tokens, capacity] */
} cbm_explain_graph;

/* One unit of one text. */
typedef struct cbm_unit_state {
    double value, baseline; /* its logit, at the text and at its baseline */
    int steps, converged;
} cbm_unit_state;

/* One text of the group at hand; it is text `i` of the context's sequences when it is the group's text i. */
typedef struct cbm_group_text {
    uint64_t number;                                    /* by which it draws random numbers */
    int64_t first_token, n_tokens, first_word, n_words; /* of the group's */
    const int *target;                                  /* [K] */
    const int *label;                                   /* [n_labels] */
    cbm_unit_state *unit;                               /* [units] */
} cbm_group_text;

/* Texts that are explained together: few enough that they fill the runs, and memory stays bounded. */
typedef struct cbm_explain_group {
    int n_texts;
    int64_t n_tokens, n_words;
    cbm_group_text text[CBM_GROUP_TEXTS];
    const cbm_prediction *const *prediction; /* [texts]: the context's */
    int *target, *label;                     /* what the texts' point into: [texts, K], [texts, n_labels] */
    cbm_unit_state *unit;                    /* [texts, units] */
    cbm_explained_token *tokens;             /* [tokens] */
    cbm_explained_word *words;               /* [words] */
    float *embedding, *baseline;             /* [tokens, width] */
    float *gradient;                         /* [units, tokens, width]: at the texts themselves */
    size_t target_capacity, label_capacity, unit_capacity, tokens_capacity, words_capacity, embedding_capacity,
        baseline_capacity, gradient_capacity;
} cbm_explain_group;

/* Neurons: the rows of all matrices. */
typedef struct cbm_neuron_rows {
    int64_t n_neurons;
    scbm_tensor **sums; /* [n_matrices]: of the graph, F32 [K, out] */
    double *saliency;   /* [K, neurons] */
} cbm_neuron_rows;

/* What the caller gets of a group. */
typedef struct cbm_explain_result {
    cbm_explanation explanation[CBM_GROUP_TEXTS];
    cbm_concept_explanation *concepts;       /* [texts, K] */
    cbm_label_explanation *labels;           /* [texts, n_labels] */
    cbm_neuron_saliency *neurons;            /* [texts, K, n_neurons] */
    float *token_value, *word_value;         /* [methods, units, tokens], [methods, units, words] */
    const float **token_place, **word_place; /* [texts, units, methods]: where a text's values begin */
    size_t concepts_capacity, labels_capacity, neurons_capacity, token_capacity, word_capacity, token_place_capacity,
        word_place_capacity;
} cbm_explain_result;

struct cbm_explainer {
    cbm_context *ctx;
    int has_subnetworks; /* a vanilla model has none */
    cbm_subnetworks subnetworks;
    cbm_tokens tokens; /* scratch: of the text that is being listed */
    cbm_explain_graph attribution, saliency, attention;
    float *stream_sum; /* scratch [tokens of the longest text, width] */
    size_t stream_sum_capacity;
    cbm_neuron_rows rows;
    cbm_explain_plan plan; /* of the call at hand, as what follows */
    cbm_explain_progress progress;
    cbm_explain_group group;
    cbm_explain_result result;
};

static inline const cbm_network *cbm_explainer_network(const cbm_explainer *x) {
    return &x->ctx->model->network;
}

static inline const scbm_hooks *cbm_explainer_hooks(const cbm_explainer *x) {
    return &x->ctx->hooks;
}

static inline int cbm_explainer_concepts(const cbm_explainer *x) {
    return x->ctx->model->network.heads.n_concepts;
}

static inline int cbm_explainer_streams(const cbm_explainer *x) {
    return cbm_explainer_concepts(x) ? cbm_explainer_concepts(x) : 1;
}

static inline int cbm_explainer_units(const cbm_explainer *x) {
    return cbm_explainer_concepts(x) + x->plan.n_labels;
}

static inline int cbm_explainer_views(const cbm_explainer *x) {
    return (cbm_explainer_concepts(x) > 0) + x->plan.n_labels;
}

/* The units of a view, from *first up to the one before the result. */
static inline int cbm_view_units(const cbm_explainer *x, int view, int *first) {
    int n_concepts = cbm_explainer_concepts(x);
    *first = view == 0 ? 0 : n_concepts + view - (n_concepts > 0);
    return view == 0 && n_concepts ? n_concepts : *first + 1;
}

/* The label that a view of one is about: its place among the labels; −1 for the concepts' view. */
static inline int cbm_view_label(const cbm_explainer *x, int view) {
    return view - (cbm_explainer_concepts(x) > 0);
}

/* Makes the context's explainer, if it has none yet. */
scbm_status cbm_explainer_create(cbm_context *ctx);
/* NULL: the context has none yet. */
cbm_explainer *cbm_explainer_of(const cbm_context *ctx);

/* ------------------------------------------------------------------------------------------
 * Graphs and points (graphs.c, points.c)
 * ---------------------------------------------------------------------------------------- */

/* The encoder from given embeddings, in f32: [S, tokens, width]. */
scbm_status cbm_explain_start_graph(cbm_explainer *x, cbm_explain_graph *made, scbm_tensor **attention);
/* Adds the logits; returns the sum of the wanted ones. */
scbm_tensor *cbm_explain_add_wanted(cbm_explainer *x, cbm_explain_graph *made);
/* A graph that holds so many tokens; `texts` is the same whenever the graph is. */
scbm_status cbm_explain_prepare_graph(cbm_explainer *x, cbm_explain_graph *graph, int64_t tokens, int64_t texts,
                                      scbm_status (*build)(cbm_explainer *x, cbm_explain_graph *made));
void cbm_explain_free_graph(cbm_explain_graph *graph);
/* One of the group's texts alone, as it is, in view 0. */
scbm_status cbm_explain_run_text(cbm_explainer *x, cbm_explain_graph *graph, int text);

typedef struct cbm_point {
    int text, view;
    double place; /* 0: the baseline; 1: the text */
} cbm_point;

/* A walk: `next` gives point after point, and 0 at the end; `take` gets, for every unit of a point's view, its logit there
 * and the logit's gradient by the text's embeddings [tokens of the text, width]. */
typedef struct cbm_walk {
    void *state;
    int (*next)(void *state, cbm_point *point);
    void (*take)(void *state, const cbm_point *point, int unit, double logit, const float *gradient);
} cbm_walk;

/* Runs the points in as few runs as hold them; texts without tokens are passed over. The progress hook is asked after each
 * run. */
scbm_status cbm_walk_points(cbm_explainer *x, const cbm_walk *walk);
/* Tells that so many points have been run. */
scbm_status cbm_explain_tell(cbm_explainer *x, int64_t n_points);
/* The most tokens of a run's points together, in one stream. */
int64_t cbm_explain_run_tokens(const cbm_explainer *x);

/* Σ_d a_d b_d or, with b0, Σ_d a_d (b_d − b0_d), in double and in order. */
double cbm_explain_dot(const float *a, const float *b, const float *b0, int64_t n);

/* ------------------------------------------------------------------------------------------
 * Levels of an explanation
 * ---------------------------------------------------------------------------------------- */

/* The next texts of a call become the group at hand: as many as fit, one at least, with their tokens and words
 * (words.c). *n of them. */
scbm_status cbm_list_group(cbm_explainer *x, const char *const *texts, const size_t *lengths, size_t first, size_t n,
                           size_t *n_listed);
/* Adds the pieces' values to words: value [units, tokens] to word_value [units, words]. */
void cbm_sum_words(const cbm_explainer *x, const float *value, float *word_value);

/* The most salient neurons of every concept of a text (neurons.c). */
scbm_status cbm_find_neurons(cbm_explainer *x, int text);

/* Counts a model's subnetworks; free with cbm_subnetworks_clear, with the same hooks. */
scbm_status cbm_subnetworks_create(cbm_subnetworks *subnetworks, const cbm_model *model, const scbm_hooks *hooks);
void cbm_subnetworks_clear(cbm_subnetworks *subnetworks, const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Whole explanations (explain.c)
 * ---------------------------------------------------------------------------------------- */

/* An error unless the model has concepts. */
scbm_status cbm_check_concepts(const cbm_model *model);
/* Checks options (NULL: the defaults) and puts the defaults in place. */
scbm_status cbm_plan_explanation(cbm_explain_plan *plan, const cbm_model *model, const cbm_explain_options *options);
/* Explains text by text; the context's error text is not set, and it holds no text afterwards. */
scbm_status cbm_explain_each(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                             const cbm_explain_plan *plan, cbm_explanation_function function, void *user);

/* The same for a sample whose words are looked at: the predicted classes, no labels (of a vanilla model the predicted one),
 * no neurons; with every method that the model and the steps allow, baselines too. */
scbm_status cbm_plan_measurement(cbm_explain_plan *plan, const cbm_model *model, const cbm_explain_options *options);

/* Faithfulness under way: create, add texts, take the means, clear. */
typedef struct cbm_ablation {
    cbm_sequences variants; /* of one text: without the chosen tokens, and they alone */
    float *logits;          /* [variants, C or Y] */
    int32_t *order, *place; /* [candidates] by attribution; the candidates' places in the text */
    uint8_t *chosen;        /* [tokens] */
    size_t logits_capacity, order_capacity, place_capacity, chosen_capacity;
    size_t n;                                /* texts that counted */
    double *comprehensiveness, *sufficiency; /* [methods, shares]: sums over texts and concepts (of a vanilla model over
                                                texts, of the label), then their means */
    cbm_method_faithfulness *methods;
    cbm_faithfulness result;
} cbm_ablation;

/* *ablation is zeroed first, and cleared on error. */
scbm_status cbm_ablation_create(cbm_ablation *ablation, const scbm_hooks *hooks);
/* Adds a text; every explanation of an ablation has the same methods. */
scbm_status cbm_ablation_add(cbm_context *ctx, cbm_ablation *ablation, const cbm_explanation *explanation);
/* Takes the means of these methods; the result is the ablation's. */
const cbm_faithfulness *cbm_ablation_finish(cbm_ablation *ablation, const cbm_model *model, uint64_t methods);
void cbm_ablation_clear(cbm_ablation *ablation, const scbm_hooks *hooks);

#endif
