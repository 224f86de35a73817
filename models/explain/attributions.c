/*
 * models/explain/attributions.c - gradient × input and integrated gradients
 */
#include "models/explain/explain.h"

#include <math.h>
#include <string.h>

#define TOLERANCE 0.01

static scbm_status build_attribution(cbm_explainer *x, cbm_explain_graph *made) {
    scbm_status status = cbm_explain_start_graph(x, made, NULL);
    if (status) return status;
    scbm_tensor *loss = cbm_explain_add_target_logits(x, made);
    status = scbm_graph_backward(made->graph, loss, &made->embeddings, 1);
    if (!status) status = scbm_graph_plan(made->graph);
    made->gradient = scbm_graph_gradient(made->graph, made->embeddings);
    return status;
}

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
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    const cbm_explain_graph *graph = &x->attribution;
    int64_t d = cbm_explainer_network(x)->backbone.hidden;
    int end = round->with_ends && point < 2 ? (int)point : -1;
    for (int k = 0; k < heads->n_concepts; k++) {
        double logit =
            (double)((const float *)graph->logits->data)[i * heads->n_classes + heads->groups[k] + x->text.target[k]];
        const float *gradient = (const float *)graph->gradient->data + ((k * n + i) * x->text.n_tokens) * d;
        if (end == 0) x->text.text_logit[k] = logit;
        if (end == 1) x->text.baseline_logit[k] = logit;
        for (int64_t t = 0; t < x->text.n_tokens && end != 1; t++) {
            const float *e = x->text.embedding + t * d, *base = x->text.baseline + t * d;
            if (end == 0) x->text.gradient_input[k * x->text.n_tokens + t] = dot(gradient + t * d, e, NULL, d);
            else x->text.integral[k * x->text.n_tokens + t] += dot(gradient + t * d, e, base, d);
        }
    }
}

static scbm_status tell_progress(const cbm_explainer *x, const char *what, int64_t done, int64_t total) {
    const scbm_hooks *hooks = cbm_explainer_hooks(x);
    if (hooks->progress && hooks->progress(hooks->user, what, done, total))
        return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %lld of %lld steps of integrated gradients",
                         (long long)done, (long long)total);
    return SCBM_OK;
}

/* The most texts of a run. */
static int64_t run_texts(const cbm_explainer *x) {
    int64_t tokens = x->ctx->backward_tokens / cbm_explainer_network(x)->heads.n_concepts,
            n = tokens / x->text.n_tokens;
    return n < 1 ? 1 : n < CBM_EXPLAIN_MOST_TEXTS ? n : CBM_EXPLAIN_MOST_TEXTS;
}

static scbm_status run_round(cbm_explainer *x, const round_of_points *round, const char *progress) {
    const cbm_explain_graph *graph = &x->attribution;
    int64_t n_points = round->n_steps + 2 * round->with_ends, most = run_texts(x);
    scbm_status status = SCBM_OK;
    for (int64_t done = 0; done < n_points && !status;) {
        int64_t n = n_points - done < most ? n_points - done : most;
        cbm_explain_fill_graph(x, graph, n);
        for (int64_t i = 0; i < n; i++)
            cbm_explain_write_point(x, graph->embeddings->data, i * x->text.n_tokens, n * x->text.n_tokens,
                                    point_place(round, done + i));
        status = scbm_graph_run(graph->graph, n * x->text.n_tokens, n);
        for (int64_t i = 0; i < n && !status; i++) collect_point(x, round, done + i, i, n);
        done += n;
        if (!status) status = tell_progress(x, progress, done, n_points);
    }
    return status;
}

/* Takes the round's integrals over for the concepts that have not converged before. Returns how many still have not. */
static int take_integrals(cbm_explainer *x, int n_steps) {
    int n_left = 0;
    for (int k = 0; k < cbm_explainer_network(x)->heads.n_concepts; k++) {
        cbm_concept_explanation *concept = &x->result.concepts[k];
        if (concept->converged) continue;
        double sum = 0.0, delta = x->text.text_logit[k] - x->text.baseline_logit[k];
        cbm_token_attribution *token = x->result.tokens + k * x->text.n_tokens;
        for (int64_t t = 0; t < x->text.n_tokens; t++) {
            token[t].integrated_gradients = (float)(x->text.integral[k * x->text.n_tokens + t] / n_steps);
            sum += (double)token[t].integrated_gradients;
        }
        concept->steps = n_steps;
        concept->converged = fabs(sum - delta) <= TOLERANCE * fmax(fabs(delta), 1.0);
        n_left += !concept->converged;
    }
    return n_left;
}

scbm_status cbm_attribute(cbm_explainer *x, const cbm_explain_options *options, const char *progress) {
    int64_t n_concepts = cbm_explainer_network(x)->heads.n_concepts;
    size_t n = (size_t)(n_concepts * x->text.n_tokens);
    round_of_points round = {options->steps, 1};
    scbm_status status = cbm_explain_prepare_graph(x, &x->attribution, run_texts(x) * x->text.n_tokens,
                                                   CBM_EXPLAIN_MOST_TEXTS, build_attribution);
    if (!status)
        status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->text.gradient_input, &x->text.gradient_capacity, n,
                           sizeof *x->text.gradient_input);
    if (!status)
        status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->text.integral, &x->text.integral_capacity, n,
                           sizeof *x->text.integral);
    for (int n_left = 1; n_left && !status;) {
        memset(x->text.integral, 0, n * sizeof *x->text.integral);
        status = run_round(x, &round, progress);
        if (status || !options->steps) break;
        n_left = take_integrals(x, round.n_steps);
        if (round.n_steps > options->max_steps / 2) break;
        round = (round_of_points){2 * round.n_steps, 0};
    }
    return status;
}
