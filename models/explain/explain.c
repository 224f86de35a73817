/*
 * models/explain/explain.c - what tokens, words and neurons did to each concept of a text
 *
 * The encoder's graph takes the word embeddings as an input [K, tokens, d], so that every concept has a stream of its own
 * even in a dense model, and the loss is the sum of the target classes' logits: one backward pass gives every concept's
 * gradient. The points between baseline and text at which integrated gradients look are texts of packed batches.
 */
#include "models/explain/explain.h"

#include <math.h>
#include <string.h>

#define SMALLEST_CAPACITY 64
#define MOST_TEXTS 64 /* of a run */
#define TOLERANCE 0.01

/* A graph that holds `tokens` tokens and `texts` texts; replaced when that is too few tokens. */
typedef struct explain_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    int64_t tokens, texts;
    scbm_tensor *embeddings, *wanted; /* inputs [K, tokens, d], [texts, C]: 1 for the target classes */
    scbm_tensor *logits, *gradient;   /* [texts, C]; of the embeddings */
    scbm_tensor *attention;           /* [K, heads, tokens, capacity] */
} explain_graph;

/* A prunable weight whose gradient is handed over, and where its neurons begin among all of a concept's. */
typedef struct watched_weight {
    struct cbm_explainer *explainer;
    const scbm_tensor *weight;
    int64_t first_neuron;
    const scbm_tensor *gradient; /* while the rows are summed */
} watched_weight;

struct cbm_explainer {
    cbm_context *ctx;
    cbm_subnetworks subnetworks;
    explain_graph attribution_graph, saliency_graph, attention_graph;
    watched_weight *watched; /* [n_matrices] */
    int64_t n_neurons;       /* rows of all matrices */
    float *row;              /* [workers, longest row]: a weight's row as f32 */
    int64_t longest_row;
    /* The text at hand: */
    int64_t n_tokens;
    int *target;                         /* [K] */
    float *embedding, *baseline;         /* [tokens, d] */
    double *gradient_input;              /* [K, tokens] */
    double *integral;                    /* [K, tokens]: sums over the steps so far */
    double *text_logit, *baseline_logit; /* [K] */
    double *saliency;                    /* [K, neurons] */
    int32_t *zeros;                      /* [texts of a run]: every text of a run is the text at hand */
    /* Results: */
    cbm_concept_explanation *concepts;
    cbm_token_attribution *tokens; /* [K, tokens] */
    cbm_word_attribution *words;   /* [K, tokens], of which n_words of each concept count */
    cbm_neuron_saliency *neurons;
    size_t embedding_capacity, baseline_capacity, gradient_capacity, integral_capacity, zeros_capacity, tokens_capacity,
        words_capacity, neurons_capacity;
};
typedef struct cbm_explainer cbm_explainer;

static const cbm_network *network_of(const cbm_explainer *x) {
    return &x->ctx->model->network;
}

static const scbm_hooks *hooks_of(const cbm_explainer *x) {
    return &x->ctx->model->hooks;
}

/* ------------------------------------------------------------------------------------------
 * Making and freeing
 * ---------------------------------------------------------------------------------------- */

static void free_explainer(cbm_context *ctx, void *state) {
    cbm_explainer *x = state;
    const scbm_hooks *hooks = &ctx->model->hooks;
    scbm_graph_free(x->attribution_graph.graph);
    scbm_graph_free(x->saliency_graph.graph);
    scbm_graph_free(x->attention_graph.graph);
    cbm_subnetworks_clear(&x->subnetworks, hooks);
    void *const memory[] = {x->watched,        x->row,      x->target,     x->embedding,      x->baseline,
                            x->gradient_input, x->integral, x->text_logit, x->baseline_logit, x->saliency,
                            x->zeros,          x->concepts, x->tokens,     x->words,          x->neurons};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    scbm_release(hooks, x);
}

/* NULL: the context has none yet. */
static cbm_explainer *explainer_of(const cbm_context *ctx) {
    return cbm_context_find_part(ctx, free_explainer);
}

static scbm_status create_explainer(cbm_context *ctx) {
    const scbm_hooks *hooks = &ctx->model->hooks;
    size_t n_concepts = (size_t)ctx->model->network.heads.n_concepts;
    if (explainer_of(ctx)) return SCBM_OK;
    cbm_explainer *x = scbm_alloc(hooks, sizeof *x);
    if (!x) return SCBM_ERROR_MEMORY;
    x->ctx = ctx;
    x->target = scbm_alloc_array(hooks, n_concepts, sizeof *x->target);
    x->text_logit = scbm_alloc_array(hooks, n_concepts, sizeof *x->text_logit);
    x->baseline_logit = scbm_alloc_array(hooks, n_concepts, sizeof *x->baseline_logit);
    x->concepts = scbm_alloc_array(hooks, n_concepts, sizeof *x->concepts);
    int has_memory = x->target && x->text_logit && x->baseline_logit && x->concepts;
    scbm_status status = has_memory ? cbm_subnetworks_create(&x->subnetworks, ctx->model) : SCBM_ERROR_MEMORY;
    for (int m = 0; m < x->subnetworks.n_matrices; m++) {
        x->n_neurons += x->subnetworks.matrices[m].rows;
        if (x->subnetworks.matrices[m].columns > x->longest_row) x->longest_row = x->subnetworks.matrices[m].columns;
    }
    if (!status) status = cbm_context_set_part(ctx, free_explainer, x);
    if (status) free_explainer(ctx, x);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Graphs
 * ---------------------------------------------------------------------------------------- */

static void free_graph(explain_graph *graph) {
    scbm_graph_free(graph->graph);
    memset(graph, 0, sizeof *graph);
}

/* The encoder from given embeddings, in f32: [K, tokens, d], one stream a concept. */
static scbm_status start_graph(cbm_explainer *x, explain_graph *made, scbm_tensor **attention) {
    const cbm_network *network = network_of(x);
    const int64_t shape[3] = {network->heads.n_concepts, 0, network->backbone.hidden};
    const scbm_extent extent[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    scbm_status status = scbm_graph_create(&made->graph, x->ctx->runtime);
    if (status) return status;
    scbm_graph *g = made->graph;
    scbm_graph_set_capacity(g, made->tokens, made->texts);
    made->embeddings = scbm_input(g, "embeddings", SCBM_F32, 3, shape, extent);
    const cbm_encode_options options = {.use_masks = 1, .embeddings = made->embeddings, .attention = attention};
    cbm_backbone_encode(&network->backbone, g, made->texts, &options, &made->encoding);
    return SCBM_OK;
}

/* The logits, and the sum of the wanted ones. */
static scbm_tensor *add_target_logits(cbm_explainer *x, explain_graph *made) {
    const cbm_heads *heads = &network_of(x)->heads;
    const int64_t shape[2] = {0, heads->n_classes};
    const scbm_extent extent[2] = {SCBM_TEXTS, SCBM_FIXED};
    scbm_graph *g = made->graph;
    scbm_tensor *pooled = scbm_segment_mean(g, made->encoding.hidden, made->encoding.offsets);
    made->logits = scbm_output(g, scbm_group_linear(g, pooled, heads->concept_weight, heads->concept_bias,
                                                    (scbm_tensor *)&heads->group_tensor));
    made->wanted = scbm_input(g, "wanted", SCBM_F32, 2, shape, extent);
    return scbm_sum(g, scbm_mul(g, made->logits, made->wanted));
}

static scbm_status build_attribution(cbm_explainer *x, explain_graph *made) {
    scbm_status status = start_graph(x, made, NULL);
    if (status) return status;
    scbm_tensor *loss = add_target_logits(x, made);
    status = scbm_graph_backward(made->graph, loss, &made->embeddings, 1);
    if (!status) status = scbm_graph_plan(made->graph);
    made->gradient = scbm_graph_gradient(made->graph, made->embeddings);
    return status;
}

static scbm_status sum_rows(void *user, const scbm_tensor *gradient);

static scbm_status build_saliency(cbm_explainer *x, explain_graph *made) {
    const cbm_backbone *backbone = &network_of(x)->backbone;
    size_t n = 0, most = (size_t)x->subnetworks.n_matrices;
    scbm_status status = start_graph(x, made, NULL);
    if (status) return status;
    scbm_tensor *loss = add_target_logits(x, made);
    scbm_tensor **weights = scbm_alloc_array(hooks_of(x), most, sizeof *weights);
    if (!weights) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < backbone->n_parameters; i++)
        if (cbm_is_prunable(&backbone->parameters[i])) weights[n++] = backbone->parameters[i].tensor;
    scbm_graph_set_weight_gradients(made->graph, SCBM_DW_MASKED);
    status = scbm_graph_backward(made->graph, loss, weights, (int)n);
    for (size_t i = 0; i < n && !status; i++)
        status = scbm_graph_watch(made->graph, scbm_graph_gradient(made->graph, weights[i]), sum_rows, &x->watched[i]);
    scbm_release(hooks_of(x), weights);
    return status ? status : scbm_graph_plan(made->graph);
}

static scbm_status build_attention(cbm_explainer *x, explain_graph *made) {
    scbm_status status = start_graph(x, made, &made->attention);
    return status ? status : scbm_graph_plan(made->graph);
}

/* A graph that holds so many tokens; each of the three has its own number of texts. */
static scbm_status prepare_graph(cbm_explainer *x, explain_graph *graph, int64_t tokens, int64_t texts,
                                 scbm_status (*build)(cbm_explainer *x, explain_graph *made)) {
    if (graph->graph && graph->tokens >= tokens) return SCBM_OK;
    free_graph(graph);
    for (graph->tokens = SMALLEST_CAPACITY; graph->tokens < tokens;) graph->tokens *= 2;
    graph->texts = texts;
    scbm_status status = build(x, graph);
    if (status) free_graph(graph);
    return status;
}

/* Writes `n` times the text at hand into the inputs, but for the embeddings. */
static void fill_graph(const cbm_explainer *x, const explain_graph *graph, int64_t n) {
    const cbm_heads *heads = &network_of(x)->heads;
    cbm_fill_inputs(&network_of(x)->backbone, &graph->encoding, &x->ctx->sequences, x->zeros, n);
    if (!graph->wanted) return;
    float *wanted = graph->wanted->data;
    memset(wanted, 0, (size_t)n * (size_t)heads->n_classes * sizeof *wanted);
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < heads->n_concepts; k++)
            wanted[i * heads->n_classes + heads->groups[k] + x->target[k]] = 1.0f;
}

/* ------------------------------------------------------------------------------------------
 * The text and its baseline
 * ---------------------------------------------------------------------------------------- */

/* A word embedding as f32: zeros for an id below 0. */
static scbm_status read_embedding(const scbm_tensor *table, int32_t id, float *place) {
    const scbm_type_info *type = scbm_type_of(table->type);
    size_t bytes = (size_t)(table->shape[1] / type->block) * (size_t)type->block_bytes;
    if (id >= 0)
        return scbm_convert(SCBM_F32, place, table->type, (const char *)table->data + (size_t)id * bytes,
                            table->shape[1]);
    memset(place, 0, (size_t)table->shape[1] * sizeof *place);
    return SCBM_OK;
}

/* Those that were added to the text or stand in it as such; not what stands for an unknown word. */
static int is_special(const cbm_tokenizer *tokenizer, int32_t id) {
    return cbm_token_is_special(tokenizer, id) && id != cbm_tokenizer_unknown(tokenizer);
}

static scbm_status read_embeddings(cbm_explainer *x) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    const scbm_tensor *table = cbm_backbone_find(&network_of(x)->backbone, CBM_TOKEN_EMBEDDING, -1)->tensor;
    size_t d = (size_t)table->shape[1], n = (size_t)x->n_tokens;
    int32_t neutral = cbm_tokenizer_mask(tokenizer) >= 0 ? cbm_tokenizer_mask(tokenizer)
                                                         : cbm_tokenizer_padding(tokenizer);
    scbm_status status = scbm_grow(hooks_of(x), (void **)&x->embedding, &x->embedding_capacity, n * d,
                                   sizeof *x->embedding);
    if (!status)
        status = scbm_grow(hooks_of(x), (void **)&x->baseline, &x->baseline_capacity, n * d, sizeof *x->baseline);
    for (size_t t = 0; t < n && !status; t++) {
        int32_t id = x->ctx->sequences.ids[t];
        status = read_embedding(table, id, x->embedding + t * d);
        if (!status) status = read_embedding(table, is_special(tokenizer, id) ? id : neutral, x->baseline + t * d);
    }
    return status;
}

/* The embeddings at a place between baseline (0) and text (1), into every stream; `at` is the place of the text's first
 * token in a batch of `n_tokens`. */
static void write_point(const cbm_explainer *x, float *embeddings, int64_t at, int64_t n_tokens, double place) {
    int64_t d = network_of(x)->backbone.hidden, n = x->n_tokens * d;
    float *first = embeddings + at * d, part = (float)place;
    for (int64_t i = 0; i < n; i++)
        first[i] = place == 1.0 ? x->embedding[i] : x->baseline[i] + part * (x->embedding[i] - x->baseline[i]);
    for (int k = 1; k < network_of(x)->heads.n_concepts; k++)
        memcpy(embeddings + (k * n_tokens + at) * d, first, (size_t)n * sizeof *first);
}

/* ------------------------------------------------------------------------------------------
 * Attributions
 * ---------------------------------------------------------------------------------------- */

/* The points of a round: in the first, the text itself and its baseline come before the midpoints. */
typedef struct round_of_points {
    int n_steps, with_ends;
} round_of_points;

static double point_place(const round_of_points *round, int64_t point) {
    if (round->with_ends && point < 2) return point == 0 ? 1.0 : 0.0;
    return ((double)(point - 2 * round->with_ends) + 0.5) / round->n_steps;
}

/* Σ_d a_d b_d or, with b0, Σ_d a_d (b_d − b0_d), in double and in order. */
static double dot(const float *a, const float *b, const float *b0, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * ((double)b[i] - (b0 ? (double)b0[i] : 0.0));
    return sum;
}

/* Adds what a run found at text `i` of its `n`: the logits of the ends, or the gradients along the way. */
static void collect_point(cbm_explainer *x, const round_of_points *round, int64_t point, int64_t i, int64_t n) {
    const cbm_heads *heads = &network_of(x)->heads;
    const explain_graph *graph = &x->attribution_graph;
    int64_t d = network_of(x)->backbone.hidden;
    int end = round->with_ends && point < 2 ? (int)point : -1;
    for (int k = 0; k < heads->n_concepts; k++) {
        double logit =
            (double)((const float *)graph->logits->data)[i * heads->n_classes + heads->groups[k] + x->target[k]];
        const float *gradient = (const float *)graph->gradient->data + ((k * n + i) * x->n_tokens) * d;
        if (end == 0) x->text_logit[k] = logit;
        if (end == 1) x->baseline_logit[k] = logit;
        for (int64_t t = 0; t < x->n_tokens && end != 1; t++) {
            const float *e = x->embedding + t * d, *base = x->baseline + t * d;
            if (end == 0) x->gradient_input[k * x->n_tokens + t] = dot(gradient + t * d, e, NULL, d);
            else x->integral[k * x->n_tokens + t] += dot(gradient + t * d, e, base, d);
        }
    }
}

static scbm_status tell_progress(const cbm_explainer *x, const char *what, int64_t done, int64_t total) {
    const scbm_hooks *hooks = hooks_of(x);
    if (hooks->progress && hooks->progress(hooks->user, what, done, total))
        return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %lld of %lld steps of integrated gradients",
                         (long long)done, (long long)total);
    return SCBM_OK;
}

/* The most texts of a run. */
static int64_t run_texts(const cbm_explainer *x) {
    int64_t tokens = x->ctx->backward_tokens / network_of(x)->heads.n_concepts, n = tokens / x->n_tokens;
    return n < 1 ? 1 : n < MOST_TEXTS ? n : MOST_TEXTS;
}

static scbm_status run_round(cbm_explainer *x, const round_of_points *round, const char *progress) {
    const explain_graph *graph = &x->attribution_graph;
    int64_t n_points = round->n_steps + 2 * round->with_ends, most = run_texts(x);
    scbm_status status = SCBM_OK;
    for (int64_t done = 0; done < n_points && !status;) {
        int64_t n = n_points - done < most ? n_points - done : most;
        fill_graph(x, graph, n);
        for (int64_t i = 0; i < n; i++)
            write_point(x, graph->embeddings->data, i * x->n_tokens, n * x->n_tokens, point_place(round, done + i));
        status = scbm_graph_run(graph->graph, n * x->n_tokens, n);
        for (int64_t i = 0; i < n && !status; i++) collect_point(x, round, done + i, i, n);
        done += n;
        if (!status) status = tell_progress(x, progress, done, n_points);
    }
    return status;
}

/* Takes the round's integrals over for the concepts that have not converged before. Returns how many still have not. */
static int take_integrals(cbm_explainer *x, int n_steps) {
    int n_left = 0;
    for (int k = 0; k < network_of(x)->heads.n_concepts; k++) {
        cbm_concept_explanation *concept = &x->concepts[k];
        if (concept->converged) continue;
        double sum = 0.0, delta = x->text_logit[k] - x->baseline_logit[k];
        cbm_token_attribution *token = x->tokens + k * x->n_tokens;
        for (int64_t t = 0; t < x->n_tokens; t++) {
            token[t].integrated_gradients = (float)(x->integral[k * x->n_tokens + t] / n_steps);
            sum += (double)token[t].integrated_gradients;
        }
        concept->steps = n_steps;
        concept->converged = fabs(sum - delta) <= TOLERANCE * fmax(fabs(delta), 1.0);
        n_left += !concept->converged;
    }
    return n_left;
}

static scbm_status attribute(cbm_explainer *x, const cbm_explain_options *options, const char *progress) {
    int64_t n_concepts = network_of(x)->heads.n_concepts;
    size_t n = (size_t)(n_concepts * x->n_tokens);
    round_of_points round = {options->steps, 1};
    scbm_status status = prepare_graph(x, &x->attribution_graph, run_texts(x) * x->n_tokens, MOST_TEXTS,
                                       build_attribution);
    if (!status)
        status = scbm_grow(hooks_of(x), (void **)&x->gradient_input, &x->gradient_capacity, n,
                           sizeof *x->gradient_input);
    if (!status) status = scbm_grow(hooks_of(x), (void **)&x->integral, &x->integral_capacity, n, sizeof *x->integral);
    if (!status) status = scbm_grow(hooks_of(x), (void **)&x->zeros, &x->zeros_capacity, MOST_TEXTS, sizeof *x->zeros);
    for (int n_left = 1; n_left && !status;) {
        memset(x->integral, 0, n * sizeof *x->integral);
        status = run_round(x, &round, progress);
        if (status || !options->steps) break;
        n_left = take_integrals(x, round.n_steps);
        if (round.n_steps > options->max_steps / 2) break;
        round = (round_of_points){2 * round.n_steps, 0};
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Neurons
 * ---------------------------------------------------------------------------------------- */

/* Σ_j |w_j · g_j| of a row, for every concept; the gradient is zero where the mask is. */
static void sum_row(void *user, int64_t row, int worker) {
    watched_weight *watched = user;
    cbm_explainer *x = watched->explainer;
    const scbm_tensor *weight = watched->weight, *gradient = watched->gradient;
    const scbm_type_info *type = scbm_type_of(weight->type);
    int64_t out = weight->shape[0], in = weight->shape[1];
    size_t bytes = (size_t)(in / type->block) * (size_t)type->block_bytes;
    float *w = x->row + worker * x->longest_row;
    scbm_convert(SCBM_F32, w, weight->type, (const char *)weight->data + (size_t)row * bytes, in);
    for (int64_t k = 0; k < gradient->shape[0]; k++) {
        const float *g = (const float *)gradient->data + (k * out + row) * in;
        double sum = 0.0;
        for (int64_t j = 0; j < in; j++) sum += fabs((double)w[j] * (double)g[j]);
        x->saliency[k * x->n_neurons + watched->first_neuron + row] = sum;
    }
}

static scbm_status sum_rows(void *user, const scbm_tensor *gradient) {
    watched_weight *watched = user;
    watched->gradient = gradient;
    scbm_parallel(watched->explainer->ctx->runtime, watched->weight->shape[0], sum_row, watched);
    return SCBM_OK;
}

static scbm_status prepare_saliency(cbm_explainer *x) {
    const cbm_backbone *backbone = &network_of(x)->backbone;
    const scbm_hooks *hooks = hooks_of(x);
    size_t n_concepts = (size_t)network_of(x)->heads.n_concepts,
           workers = (size_t)scbm_context_workers(x->ctx->runtime);
    if (x->watched && x->row && x->saliency) return SCBM_OK;
    if (!x->watched) x->watched = scbm_alloc_array(hooks, (size_t)x->subnetworks.n_matrices, sizeof *x->watched);
    if (!x->row) x->row = scbm_alloc_array(hooks, workers * (size_t)x->longest_row, sizeof *x->row);
    if (!x->saliency) x->saliency = scbm_alloc_array(hooks, n_concepts * (size_t)x->n_neurons, sizeof *x->saliency);
    if (!x->watched || !x->row || !x->saliency) return SCBM_ERROR_MEMORY;
    int64_t first = 0;
    watched_weight *watched = x->watched;
    for (int i = 0; i < backbone->n_parameters; i++) {
        if (!cbm_is_prunable(&backbone->parameters[i])) continue;
        *watched++ = (watched_weight){x, backbone->parameters[i].tensor, first, NULL};
        first += backbone->parameters[i].tensor->shape[0];
    }
    return SCBM_OK;
}

/* The matrix and row of a neuron. */
static cbm_neuron_saliency find_neuron(const cbm_subnetworks *s, int64_t neuron, double saliency, double total) {
    int m = 0;
    while (neuron >= s->matrices[m].rows) neuron -= s->matrices[m++].rows;
    return (cbm_neuron_saliency){m, (int)neuron, (float)saliency, total > 0 ? (float)(saliency / total) : 0.0f};
}

/* The `n` largest, the first of equal ones first: each is put where it belongs among those found so far. */
static void choose_neurons(const cbm_explainer *x, const double *saliency, int n, int64_t *best) {
    int found = 0;
    for (int64_t i = 0; i < x->n_neurons; i++) {
        int place = found;
        while (place > 0 && saliency[i] > saliency[best[place - 1]]) place--;
        if (place == n) continue;
        if (found < n) found++;
        memmove(best + place + 1, best + place, (size_t)(found - 1 - place) * sizeof *best);
        best[place] = i;
    }
}

static scbm_status find_neurons(cbm_explainer *x, const cbm_explain_options *options) {
    int n_concepts = network_of(x)->heads.n_concepts;
    int n = options->n_neurons < x->n_neurons ? options->n_neurons : (int)x->n_neurons;
    scbm_status status = prepare_saliency(x);
    if (!status) status = prepare_graph(x, &x->saliency_graph, x->n_tokens, 1, build_saliency);
    if (!status)
        status = scbm_grow(hooks_of(x), (void **)&x->neurons, &x->neurons_capacity, (size_t)n * (size_t)n_concepts,
                           sizeof *x->neurons);
    if (status) return status;
    fill_graph(x, &x->saliency_graph, 1);
    write_point(x, x->saliency_graph.embeddings->data, 0, x->n_tokens, 1.0);
    status = scbm_graph_run(x->saliency_graph.graph, x->n_tokens, 1);
    int64_t *best = status ? NULL : scbm_alloc_array(hooks_of(x), (size_t)n, sizeof *best);
    if (!best) return status ? status : SCBM_ERROR_MEMORY;
    for (int k = 0; k < n_concepts; k++) {
        const double *saliency = x->saliency + k * x->n_neurons;
        double total = 0.0;
        for (int64_t i = 0; i < x->n_neurons; i++) total += saliency[i];
        choose_neurons(x, saliency, n, best);
        for (int i = 0; i < n; i++)
            x->neurons[k * n + i] = find_neuron(&x->subnetworks, best[i], saliency[best[i]], total);
        x->concepts[k].neurons = x->neurons + k * n;
        x->concepts[k].n_neurons = n;
    }
    scbm_release(hooks_of(x), best);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Attention, as a baseline for attributions
 * ---------------------------------------------------------------------------------------- */

static scbm_status find_attention(cbm_explainer *x, float *received) {
    int64_t n = x->n_tokens, n_heads = network_of(x)->backbone.n_heads;
    scbm_status status = prepare_graph(x, &x->attention_graph, n, 1, build_attention);
    if (!status) status = scbm_grow(hooks_of(x), (void **)&x->zeros, &x->zeros_capacity, 1, sizeof *x->zeros);
    if (!status) status = read_embeddings(x);
    if (status) return status;
    fill_graph(x, &x->attention_graph, 1);
    write_point(x, x->attention_graph.embeddings->data, 0, n, 1.0);
    status = scbm_graph_run(x->attention_graph.graph, n, 1);
    for (int64_t k = 0; k < network_of(x)->heads.n_concepts && !status; k++) {
        for (int64_t j = 0; j < n; j++) {
            const float *weight = (const float *)x->attention_graph.attention->data +
                                  k * n_heads * n * x->attention_graph.tokens + j;
            double sum = 0.0;
            for (int64_t i = 0; i < n_heads * n; i++) sum += (double)weight[i * x->attention_graph.tokens];
            received[k * n + j] = (float)(sum / (double)(n_heads * n));
        }
    }
    return status;
}

scbm_status cbm_attention_received(cbm_context *ctx, float *received) {
    scbm_status status = create_explainer(ctx);
    if (status) return status;
    cbm_explainer *x = explainer_of(ctx);
    x->n_tokens = cbm_sequence_length(&ctx->sequences, 0);
    return x->n_tokens ? find_attention(x, received) : SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Tokens and words
 * ---------------------------------------------------------------------------------------- */

/* Places for every concept's tokens, without attributions yet. */
static scbm_status list_tokens(cbm_explainer *x) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    const cbm_tokens *from = &x->ctx->sequences.tokens;
    int n_concepts = network_of(x)->heads.n_concepts;
    size_t n = (size_t)x->n_tokens * (size_t)n_concepts;
    scbm_status status = scbm_grow(hooks_of(x), (void **)&x->tokens, &x->tokens_capacity, n, sizeof *x->tokens);
    if (!status) status = scbm_grow(hooks_of(x), (void **)&x->words, &x->words_capacity, n, sizeof *x->words);
    if (status) return status;
    for (int k = 0; k < n_concepts; k++)
        for (int64_t t = 0; t < x->n_tokens; t++)
            x->tokens[k * x->n_tokens + t] = (cbm_token_attribution){
                cbm_token_piece(tokenizer, from->ids[t]), from->start[t], from->end[t],
                is_special(tokenizer, from->ids[t]),      0.0f,           0.0f};
    return SCBM_OK;
}

/* Puts a concept's pieces together; returns the number of words. */
static int join_words(const cbm_explainer *x, const cbm_token_attribution *tokens, cbm_word_attribution *words) {
    const cbm_tokens *from = &x->ctx->sequences.tokens;
    int n = 0, follows = 0;
    for (int t = 0; t < (int)x->n_tokens; t++) {
        if (tokens[t].is_special) {
            follows = 0;
            continue;
        }
        if (!follows || !cbm_token_continues_word(x->ctx->model->tokenizer, from->ids[t]))
            words[n++] = (cbm_word_attribution){tokens[t].start, tokens[t].end, t, 0, 0.0f, 0.0f};
        cbm_word_attribution *word = &words[n - 1];
        word->end = tokens[t].end;
        word->n_tokens++;
        word->gradient_input += tokens[t].gradient_input;
        word->integrated_gradients += tokens[t].integrated_gradients;
        follows = 1;
    }
    return n;
}

/* ------------------------------------------------------------------------------------------
 * The whole explanation
 * ---------------------------------------------------------------------------------------- */

void cbm_explain_defaults(cbm_explain_options *options) {
    *options = (cbm_explain_options){32, 512, 5, NULL};
}

scbm_status cbm_check_concepts(const cbm_model *model) {
    cbm_mode mode = model->network.heads.mode;
    if (mode != CBM_ENCODER && mode != CBM_VANILLA) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is %s, which has no concepts to explain a prediction by",
                     scbm_file_path(model->file), mode == CBM_ENCODER ? "an encoder" : "a vanilla model");
}

scbm_status cbm_check_explain_options(const cbm_model *model, const cbm_explain_options *options) {
    const cbm_heads *heads = &model->network.heads;
    if (options->steps < 0 || options->steps > 1 << 20 || options->max_steps > 1 << 20)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "integrated gradients in %d to %d steps: at most %d are possible",
                         options->steps, options->max_steps, 1 << 20);
    if (options->n_neurons < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "%d neurons", options->n_neurons);
    for (int k = 0; options->target && k < heads->n_concepts; k++) {
        int n = heads->groups[k + 1] - heads->groups[k];
        if (options->target[k] < -1 || options->target[k] >= n)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no class %d; it has %d classes",
                             heads->concept_name[k], options->target[k], n);
    }
    return SCBM_OK;
}

/* What is known without a gradient. */
static void start_concepts(cbm_explainer *x, const cbm_explain_options *options, const cbm_prediction *prediction) {
    const cbm_heads *heads = &network_of(x)->heads;
    for (int k = 0; k < heads->n_concepts; k++) {
        cbm_concept_explanation *concept = &x->concepts[k];
        const cbm_concept_result *result = &prediction->concepts[k];
        memset(concept, 0, sizeof *concept);
        x->target[k] = options->target && options->target[k] >= 0 ? options->target[k] : result->class_index;
        concept->result = result;
        concept->target = x->target[k];
        concept->target_name = heads->class_name[heads->groups[k] + x->target[k]];
        concept->density = x->subnetworks.density[k];
        concept->converged = options->steps > 0 && !x->n_tokens;
        x->text_logit[k] = x->baseline_logit[k] = (double)result->logits[x->target[k]];
    }
}

static void finish_concepts(cbm_explainer *x, cbm_explanation *explanation) {
    for (int k = 0; k < explanation->n_concepts; k++) {
        cbm_concept_explanation *concept = &x->concepts[k];
        cbm_token_attribution *tokens = x->tokens + k * x->n_tokens;
        for (int64_t t = 0; t < x->n_tokens; t++)
            tokens[t].gradient_input = (float)x->gradient_input[k * x->n_tokens + t];
        concept->target_logit = (float)x->text_logit[k];
        concept->baseline_logit = (float)x->baseline_logit[k];
        concept->tokens = tokens;
        concept->words = x->words + k * x->n_tokens;
        explanation->n_words = join_words(x, tokens, x->words + k * x->n_tokens);
    }
}

static scbm_status explain_tokens(cbm_explainer *x, const cbm_explain_options *options, const char *progress) {
    if (!x->n_tokens) return SCBM_OK;
    scbm_status status = list_tokens(x);
    if (!status) status = read_embeddings(x);
    if (!status) status = attribute(x, options, progress);
    if (!status && options->n_neurons) status = find_neurons(x, options);
    return status;
}

scbm_status cbm_explain_as(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                           const char *progress, cbm_explanation *explanation) {
    cbm_explain_options defaults;
    cbm_explain_defaults(&defaults);
    if (!options) options = &defaults;
    memset(explanation, 0, sizeof *explanation);
    scbm_status status = cbm_check_concepts(ctx->model);
    if (!status) status = cbm_check_explain_options(ctx->model, options);
    if (!status) status = create_explainer(ctx);
    if (!status) status = cbm_predict_batch(ctx, &text, &length, 1, &explanation->prediction);
    if (status) return status;
    cbm_explainer *x = explainer_of(ctx);
    x->n_tokens = cbm_sequence_length(&ctx->sequences, 0);
    start_concepts(x, options, &explanation->prediction);
    status = explain_tokens(x, options, progress);
    if (status) return status;
    explanation->n_concepts = network_of(x)->heads.n_concepts;
    explanation->n_tokens = (int)x->n_tokens;
    explanation->concepts = x->concepts;
    explanation->subnetworks = &x->subnetworks;
    finish_concepts(x, explanation);
    return SCBM_OK;
}

scbm_status cbm_explain_text(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                             cbm_explanation *explanation) {
    return cbm_context_result(ctx, cbm_explain_as(ctx, text, length, options, "explain", explanation));
}

scbm_status cbm_explain(cbm_context *ctx, const char *text, const cbm_explain_options *options,
                        cbm_explanation *explanation) {
    if (!text) {
        memset(explanation, 0, sizeof *explanation);
        return cbm_context_result(ctx, scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_explain: the text is NULL"));
    }
    return cbm_explain_text(ctx, text, strlen(text), options, explanation);
}

scbm_status cbm_describe_subnetworks(cbm_context *ctx, const cbm_subnetworks **subnetworks) {
    *subnetworks = NULL;
    scbm_status status = cbm_check_concepts(ctx->model);
    if (!status) status = create_explainer(ctx);
    if (!status) *subnetworks = &explainer_of(ctx)->subnetworks;
    return cbm_context_result(ctx, status);
}
