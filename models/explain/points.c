/*
 * models/explain/points.c - walks over points between baselines and texts: runs of several points, with the gradients of
 * the logits that each is about
 */
#include "models/explain/explain.h"

#include <string.h>

double cbm_explain_dot(const float *a, const float *b, const float *b0, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * ((double)b[i] - (b0 ? (double)b0[i] : 0.0));
    return sum;
}

int64_t cbm_explain_run_tokens(const cbm_explainer *x) {
    return x->ctx->backward_tokens / cbm_explainer_streams(x);
}

scbm_status cbm_explain_tell(cbm_explainer *x, int64_t n_points) {
    cbm_explain_progress *p = &x->progress;
    p->points_done += n_points;
    const int counts_texts = p->n_texts > 1;
    return scbm_progress(cbm_explainer_hooks(x), p->what, counts_texts ? p->texts_done : p->points_done,
                         counts_texts ? p->n_texts : p->n_points);
}

/* ------------------------------------------------------------------------------------------
 * What goes into a run
 * ---------------------------------------------------------------------------------------- */

/* The points of a run, and where each one's tokens begin among all `n_tokens`. */
typedef struct point_run {
    cbm_point point[CBM_GROUP_TEXTS];
    int32_t text[CBM_GROUP_TEXTS];
    int64_t first[CBM_GROUP_TEXTS];
    int64_t n, n_tokens;
} point_run;

/* A point's embeddings into every stream, as the run's tokens from `first` on. */
static void write_embeddings(const cbm_explainer *x, float *embeddings, const cbm_point *point, int64_t first,
                             int64_t n_tokens) {
    const cbm_group_text *text = &x->group.text[point->text];
    int64_t width = cbm_explainer_network(x)->backbone.embedding_width, n = text->n_tokens * width;
    const float *e = x->group.embedding + text->first_token * width,
                *e0 = x->group.baseline + text->first_token * width;
    float *to = embeddings + first * width, part = (float)point->place;
    for (int64_t i = 0; i < n; i++) to[i] = point->place == 1.0 ? e[i] : e0[i] + part * (e[i] - e0[i]);
    for (int s = 1; s < cbm_explainer_streams(x); s++)
        memcpy(embeddings + (s * n_tokens + first) * width, to, (size_t)n * sizeof *to);
}

/* What is wanted of a point's logits (row [C or Y]) and, in independent mode, of the concepts' softmaxes. */
static void write_wanted(const cbm_explainer *x, const cbm_point *point, float *wanted, float *wanted_values) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    const cbm_group_text *text = &x->group.text[point->text];
    size_t n = (size_t)cbm_n_logits(heads);
    int label = cbm_view_label(x, point->view);
    memset(wanted, 0, n * sizeof *wanted);
    if (wanted_values) memset(wanted_values, 0, n * sizeof *wanted_values);
    if (label < 0) {
        for (int k = 0; k < heads->n_concepts; k++) wanted[heads->groups[k] + text->target[k]] = 1.0f;
    } else if (heads->mode == CBM_VANILLA) {
        wanted[text->label[label]] = 1.0f;
    } else {
        const float *row = (const float *)heads->label_weight->data + (size_t)text->label[label] * n;
        memcpy(wanted_values ? wanted_values : wanted, row, n * sizeof *row);
    }
}

static void write_inputs(const cbm_explainer *x, const cbm_explain_graph *graph, const point_run *run) {
    int64_t width = cbm_n_logits(&cbm_explainer_network(x)->heads);
    cbm_fill_inputs(&cbm_explainer_network(x)->backbone, &graph->encoding, &x->ctx->sequences, run->text, run->n);
    for (int64_t i = 0; i < run->n; i++) {
        write_embeddings(x, graph->embeddings->data, &run->point[i], run->first[i], run->n_tokens);
        if (!graph->wanted) continue;
        float *wanted = (float *)graph->wanted->data + i * width;
        float *values = graph->wanted_values ? (float *)graph->wanted_values->data + i * width : NULL;
        write_wanted(x, &run->point[i], wanted, values);
    }
}

static void add_point(const cbm_explainer *x, point_run *run, const cbm_point *point) {
    run->point[run->n] = *point;
    run->text[run->n] = point->text;
    run->first[run->n++] = run->n_tokens;
    run->n_tokens += x->group.text[point->text].n_tokens;
}

scbm_status cbm_explain_run_text(cbm_explainer *x, cbm_explain_graph *graph, int text) {
    const cbm_point point = {text, 0, 1.0};
    point_run run = {.n = 0};
    add_point(x, &run, &point);
    write_inputs(x, graph, &run);
    return scbm_graph_run(graph->graph, run.n_tokens, run.n);
}

/* ------------------------------------------------------------------------------------------
 * What comes out of it
 * ---------------------------------------------------------------------------------------- */

/* A unit's logit at point `i` of a run: the concept's target, or the label that its head computes. */
static double logit_of(const cbm_explainer *x, const cbm_group_text *text, int unit, const float *logits,
                       float *scratch) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    int label = unit - heads->n_concepts;
    if (label < 0) return (double)logits[heads->groups[unit] + text->target[unit]];
    if (heads->mode == CBM_VANILLA) return (double)logits[text->label[label]];
    float *labels = scratch + heads->n_classes;
    cbm_concept_values(heads, logits, scratch);
    cbm_label_logits(heads, scratch, labels);
    return (double)labels[text->label[label]];
}

/* A label's gradient is the sum over the streams, that all have the same embeddings. */
static const float *sum_streams(cbm_explainer *x, const float *gradient, int64_t stream_stride, int64_t n) {
    memcpy(x->stream_sum, gradient, (size_t)n * sizeof *gradient);
    for (int s = 1; s < cbm_explainer_streams(x); s++)
        for (int64_t i = 0; i < n; i++) x->stream_sum[i] += gradient[s * stream_stride + i];
    return x->stream_sum;
}

static void take_run(cbm_explainer *x, const cbm_walk *walk, const point_run *run, float *scratch) {
    const cbm_explain_graph *graph = &x->attribution;
    int64_t width = cbm_explainer_network(x)->backbone.embedding_width, stride = run->n_tokens * width;
    int n_logits = cbm_n_logits(&cbm_explainer_network(x)->heads), first_unit;
    for (int64_t i = 0; i < run->n; i++) {
        const cbm_point *point = &run->point[i];
        const cbm_group_text *text = &x->group.text[point->text];
        const float *logits = (const float *)graph->logits->data + i * n_logits;
        const float *gradient = (const float *)graph->gradient->data + run->first[i] * width;
        int is_label = cbm_view_label(x, point->view) >= 0;
        int end = cbm_view_units(x, point->view, &first_unit);
        for (int unit = first_unit; unit < end; unit++)
            walk->take(walk->state, point, unit, logit_of(x, text, unit, logits, scratch),
                       is_label ? sum_streams(x, gradient, stride, text->n_tokens * width) : gradient + unit * stride);
    }
}

/* ------------------------------------------------------------------------------------------
 * Walking
 * ---------------------------------------------------------------------------------------- */

static scbm_status build_attribution(cbm_explainer *x, cbm_explain_graph *made) {
    scbm_status status = cbm_explain_start_graph(x, made, NULL);
    if (status) return status;
    scbm_tensor *loss = cbm_explain_add_wanted(x, made);
    status = scbm_graph_backward(made->graph, loss, &made->embeddings, 1);
    made->gradient = scbm_graph_fetch(made->graph, scbm_graph_gradient(made->graph, made->embeddings));
    if (!status) status = scbm_graph_plan(made->graph);
    return status;
}

/* Room for the longest text, or for as many short ones as a run takes. */
static scbm_status prepare_walk(cbm_explainer *x) {
    const cbm_backbone *backbone = &cbm_explainer_network(x)->backbone;
    int64_t longest = 0, most = cbm_explain_run_tokens(x);
    for (int i = 0; i < x->group.n_texts; i++)
        if (x->group.text[i].n_tokens > longest) longest = x->group.text[i].n_tokens;
    scbm_status status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->stream_sum, &x->stream_sum_capacity,
                                   (size_t)(longest * backbone->embedding_width), sizeof *x->stream_sum);
    if (status) return status;
    return cbm_explain_prepare_graph(x, &x->attribution, longest > most ? longest : most, CBM_GROUP_TEXTS,
                                     build_attribution);
}

/* The next points, as many as go into a run; *next is the first that does not, and *is_left says whether there is one. */
static void gather_run(cbm_explainer *x, const cbm_walk *walk, point_run *run, cbm_point *next, int *is_left) {
    int64_t most = cbm_explain_run_tokens(x);
    run->n = run->n_tokens = 0;
    while (*is_left && run->n < CBM_GROUP_TEXTS) {
        int64_t n = x->group.text[next->text].n_tokens;
        if (run->n && run->n_tokens + n > most) break;
        if (n) add_point(x, run, next);
        *is_left = walk->next(walk->state, next);
    }
}

scbm_status cbm_walk_points(cbm_explainer *x, const cbm_walk *walk) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    cbm_point next;
    int is_left = walk->next(walk->state, &next);
    scbm_status status = prepare_walk(x);
    float *scratch = status ? NULL
                            : scbm_alloc_array(cbm_explainer_hooks(x), (size_t)(heads->n_classes + heads->n_labels),
                                               sizeof *scratch);
    if (!scratch) return status ? status : SCBM_ERROR_MEMORY;
    while (is_left && !status) {
        point_run run;
        gather_run(x, walk, &run, &next, &is_left);
        if (!run.n) continue;
        write_inputs(x, &x->attribution, &run);
        status = scbm_graph_run(x->attribution.graph, run.n_tokens, run.n);
        if (!status) take_run(x, walk, &run, scratch);
        if (!status) status = cbm_explain_tell(x, run.n);
    }
    scbm_release(cbm_explainer_hooks(x), scratch);
    return status;
}
