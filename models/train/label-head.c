/*
 * models/train/label-head.c - the label head on its own
 *
 * In independent and sequential mode the label head is trained when the concepts are: a multinomial logistic
 * regression on their values, which are few, so that every step takes all texts. The values that it is trained on
 * are gold concepts in the one mode and the frozen network's logits in the other.
 */
#include "models/train/label-head.h"

#include <math.h>
#include <string.h>

/* With values scaled to a mean square of 1, so many steps of AdamW at this rate, falling to 0, end within 1e-3 of the
 * least loss from a thousand texts on. Few texts can often be told apart without error; there it stops short of the
 * large weights that this takes. */
#define FIT_STEPS 600
#define FIT_RATE 0.2f
#define FIT_WEIGHT_DECAY 0.01f

typedef struct head_fit {
    scbm_graph *graph;
    scbm_tensor *values, *labels, *loss;
    scbm_tensor *parameters[2];
    scbm_adamw *optimizer;
} head_fit;

static scbm_status create_optimizer(head_fit *fit, scbm_context *context) {
    const float rates[2] = {FIT_RATE, FIT_RATE}, decays[2] = {FIT_WEIGHT_DECAY, 0.0f};
    return scbm_adamw_create(&fit->optimizer, context, fit->parameters, 2, rates, decays, NULL);
}

static scbm_status build_fit(head_fit *fit, cbm_heads *heads, scbm_context *context, int64_t n,
                             scbm_tensor *class_weights) {
    const int64_t values_shape[2] = {0, heads->n_classes}, labels_shape[2] = {0, 1};
    const scbm_extent extent[2] = {SCBM_TEXTS, SCBM_FIXED};
    scbm_status status = scbm_graph_create(&fit->graph, context);
    if (status) return status;
    scbm_graph *g = fit->graph;
    scbm_graph_set_capacity(g, 0, n);
    fit->parameters[0] = heads->label_weight;
    fit->parameters[1] = heads->label_bias;
    fit->values = scbm_input(g, "values", SCBM_F32, 2, values_shape, extent);
    fit->labels = scbm_input(g, "labels", SCBM_I32, 2, labels_shape, extent);
    scbm_tensor *logits = scbm_linear(g, fit->values, heads->label_weight, heads->label_bias, NULL, SCBM_NONE);
    fit->loss = scbm_output(g, scbm_cross_entropy(g, logits, fit->labels, &heads->label_group_tensor, class_weights));
    status = scbm_graph_backward(g, fit->loss, fit->parameters, 2);
    if (!status) status = create_optimizer(fit, context);
    if (!status) status = scbm_graph_adamw(g, fit->optimizer, NULL);
    return status ? status : scbm_graph_plan(g);
}

static scbm_status take_step(const head_fit *fit, int64_t step, int64_t n) {
    scbm_status status = scbm_adamw_begin(fit->optimizer, scbm_linear_schedule(step, 1, FIT_STEPS));
    if (!status) status = scbm_graph_run(fit->graph, 0, n);
    return status ? status : scbm_adamw_end(fit->optimizer, NULL);
}

/* The root of the values' mean square; 1 where that is no scale to divide by. */
static double scale_of(const float *values, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)values[i] * (double)values[i];
    double scale = n ? sqrt(sum / (double)n) : 1.0;
    return isfinite(scale) && scale > 1e-6 ? scale : 1.0;
}

static void clear_values(scbm_tensor *tensor) {
    memset(tensor->data, 0, scbm_tensor_bytes(tensor));
    scbm_tensor_changed(tensor);
}

scbm_status cbm_fit_label_head(cbm_heads *heads, scbm_context *context, const float *values, const int32_t *labels,
                               int64_t n, scbm_tensor *class_weights) {
    head_fit fit;
    memset(&fit, 0, sizeof fit);
    size_t n_values = (size_t)n * (size_t)heads->n_classes;
    double scale = scale_of(values, n_values);
    clear_values(heads->label_weight);
    clear_values(heads->label_bias);
    scbm_status status = build_fit(&fit, heads, context, n, class_weights);
    if (!status) {
        float *scaled = fit.values->data;
        for (size_t i = 0; i < n_values; i++) scaled[i] = (float)((double)values[i] / scale);
        memcpy(fit.labels->data, labels, (size_t)n * sizeof *labels);
    }
    for (int64_t step = 1; step <= FIT_STEPS && !status; step++) status = take_step(&fit, step, n);
    if (!status) status = scbm_tensor_fetch(heads->label_weight, context);
    if (!status) status = scbm_tensor_fetch(heads->label_bias, context);
    float *weight = heads->label_weight->data;
    int64_t n_weights = scbm_tensor_elements(heads->label_weight);
    for (int64_t i = 0; i < n_weights && !status; i++) weight[i] = (float)((double)weight[i] / scale);
    scbm_tensor_changed(heads->label_weight);
    scbm_graph_free(fit.graph);
    scbm_adamw_free(fit.optimizer);
    return status;
}

scbm_status cbm_gold_values(const cbm_heads *heads, const cbm_dataset *data, float *values, const scbm_hooks *hooks) {
    size_t n_concepts = (size_t)heads->n_concepts, n_classes = (size_t)heads->n_classes;
    double *share = scbm_alloc_array(hooks, n_classes, sizeof *share);
    if (!share) return SCBM_ERROR_MEMORY;
    for (size_t k = 0; k < n_concepts; k++) {
        size_t first = (size_t)heads->groups[k], end = (size_t)heads->groups[k + 1], known = 0;
        for (size_t i = 0; i < data->n; i++) {
            int32_t gold = data->concept_class[i * n_concepts + k];
            if (gold < 0) continue;
            share[first + (size_t)gold]++;
            known++;
        }
        for (size_t c = first; c < end; c++) share[c] = known ? share[c] / (double)known : 1.0 / (double)(end - first);
        for (size_t i = 0; i < data->n; i++) {
            int32_t gold = data->concept_class[i * n_concepts + k];
            for (size_t c = first; c < end; c++)
                values[i * n_classes + c] = gold < 0 ? (float)share[c] : c - first == (size_t)gold ? 1.0f : 0.0f;
        }
    }
    scbm_release(hooks, share);
    return SCBM_OK;
}
