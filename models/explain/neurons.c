/*
 * models/explain/neurons.c - which neurons carry a text: saliency summed over the rows of the matrices
 */
#include "models/explain/explain.h"

#include <math.h>
#include <string.h>

static scbm_status build_saliency(cbm_explainer *x, cbm_explain_graph *made) {
    const cbm_backbone *backbone = &cbm_explainer_network(x)->backbone;
    int n = 0;
    scbm_status status = cbm_explain_start_graph(x, made, NULL);
    if (status) return status;
    scbm_tensor *loss = cbm_explain_add_wanted(x, made);
    scbm_tensor **weights = scbm_alloc_array(cbm_explainer_hooks(x), (size_t)x->subnetworks.n_matrices,
                                             sizeof *weights);
    if (!weights) return SCBM_ERROR_MEMORY;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p));) weights[n++] = p->tensor;
    scbm_graph_set_weight_gradients(made->graph, SCBM_DW_MASKED);
    status = scbm_graph_backward(made->graph, loss, weights, n);
    for (int i = 0; i < n && !status; i++) {
        scbm_tensor *gradient = scbm_graph_gradient(made->graph, weights[i]);
        scbm_graph_discard(made->graph, gradient);
        x->rows.sums[i] = scbm_graph_fetch(made->graph, scbm_row_saliency(made->graph, gradient, weights[i]));
    }
    scbm_release(cbm_explainer_hooks(x), weights);
    return status ? status : scbm_graph_plan(made->graph);
}

static scbm_status prepare_saliency(cbm_explainer *x) {
    const scbm_hooks *hooks = cbm_explainer_hooks(x);
    size_t n_concepts = (size_t)cbm_explainer_concepts(x);
    if (!x->rows.sums) x->rows.sums = scbm_alloc_array(hooks, (size_t)x->subnetworks.n_matrices, sizeof *x->rows.sums);
    if (!x->rows.saliency)
        x->rows.saliency = scbm_alloc_array(hooks, n_concepts * (size_t)x->rows.n_neurons, sizeof *x->rows.saliency);
    return x->rows.sums && x->rows.saliency ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* The rows of all matrices, one matrix behind the other. */
static void read_sums(cbm_explainer *x) {
    double *to = x->rows.saliency;
    for (int k = 0; k < cbm_explainer_concepts(x); k++)
        for (int m = 0; m < x->subnetworks.n_matrices; m++) {
            int64_t out = x->rows.sums[m]->shape[1];
            const float *from = (const float *)x->rows.sums[m]->data + k * out;
            for (int64_t row = 0; row < out; row++) *to++ = (double)from[row];
        }
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
    for (int64_t i = 0; i < x->rows.n_neurons; i++) {
        int place = found;
        while (place > 0 && saliency[i] > saliency[best[place - 1]]) place--;
        if (place == n) continue;
        if (found < n) found++;
        memmove(best + place + 1, best + place, (size_t)(found - 1 - place) * sizeof *best);
        best[place] = i;
    }
}

/* The `n` most salient neurons of concept k. */
static void list_neurons(const cbm_explainer *x, int k, int n, int64_t *best, cbm_neuron_saliency *neurons) {
    const double *saliency = x->rows.saliency + k * x->rows.n_neurons;
    double total = 0.0;
    for (int64_t i = 0; i < x->rows.n_neurons; i++) total += saliency[i];
    choose_neurons(x, saliency, n, best);
    for (int i = 0; i < n; i++) neurons[i] = find_neuron(&x->subnetworks, best[i], saliency[best[i]], total);
}

scbm_status cbm_find_neurons(cbm_explainer *x, int text) {
    const int n_concepts = cbm_explainer_concepts(x);
    const int n = x->plan.n_neurons < x->rows.n_neurons ? x->plan.n_neurons : (int)x->rows.n_neurons;
    cbm_concept_explanation *concepts = x->result.concepts + text * n_concepts;
    scbm_status status = prepare_saliency(x);
    if (!status) status = cbm_explain_prepare_graph(x, &x->saliency, x->group.text[text].n_tokens, 1, build_saliency);
    if (!status) status = cbm_explain_run_text(x, &x->saliency, text);
    if (!status) read_sums(x);
    int64_t *best = status ? NULL : scbm_alloc_array(cbm_explainer_hooks(x), (size_t)n, sizeof *best);
    if (!best) return status ? status : SCBM_ERROR_MEMORY;
    for (int k = 0; k < n_concepts; k++) {
        cbm_neuron_saliency *neurons = x->result.neurons + ((int64_t)text * n_concepts + k) * n;
        list_neurons(x, k, n, best, neurons);
        concepts[k].neurons = neurons;
        concepts[k].n_neurons = n;
    }
    scbm_release(cbm_explainer_hooks(x), best);
    return cbm_explain_tell(x, 1);
}
