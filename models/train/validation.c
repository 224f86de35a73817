/*
 * models/train/validation.c - how good a network is between two epochs: losses and scores on validation data
 */
#include "models/train/validation.h"

#include <string.h>

/* A weighted mean as it grows. */
typedef struct loss_sum {
    double loss, weight;
} loss_sum;

static double score_of(float logit, cbm_concept_loss kind) {
    return kind == CBM_LOSS_SIGMOID ? 1.0 / (1.0 + scbm_exponential(-(double)logit)) : (double)logit;
}

/* Adds w · CE(target) of n logits; a target below 0 is ignored. `weights` is the classes' or NULL. */
static void add_loss(loss_sum *sum, const float *logits, int n, int32_t target, const float *weights,
                     cbm_concept_loss kind) {
    if (target < 0) return;
    double largest = score_of(logits[cbm_largest(logits, n)], kind), total = 0.0;
    double weight = weights ? (double)weights[target] : 1.0;
    for (int c = 0; c < n; c++) total += scbm_exponential(score_of(logits[c], kind) - largest);
    sum->loss += weight * (scbm_logarithm(total) + largest - score_of(logits[target], kind));
    sum->weight += weight;
}

static double mean_of(const loss_sum *sum) {
    return sum->weight > 0.0 ? sum->loss / sum->weight : 0.0;
}

/* What the network says of every text. */
typedef struct answers {
    int32_t *label, *concept_class; /* [n], [n, K] */
    int *n_classes;                 /* [K] */
    cbm_measures *each;             /* [K] */
    float *values, *label_logits;   /* [C], [Y]: of one text */
} answers;

static scbm_status create_answers(answers *a, const cbm_heads *heads, size_t n, const scbm_hooks *hooks) {
    size_t n_concepts = (size_t)heads->n_concepts;
    memset(a, 0, sizeof *a);
    a->label = scbm_alloc_array(hooks, n, sizeof *a->label);
    a->concept_class = scbm_alloc_array(hooks, n * n_concepts, sizeof *a->concept_class);
    a->n_classes = scbm_alloc_array(hooks, n_concepts, sizeof *a->n_classes);
    a->each = scbm_alloc_array(hooks, n_concepts, sizeof *a->each);
    a->values = scbm_alloc_array(hooks, (size_t)heads->n_classes, sizeof *a->values);
    a->label_logits = scbm_alloc_array(hooks, (size_t)heads->n_labels, sizeof *a->label_logits);
    int has_memory = a->label && a->concept_class && a->n_classes && a->each && a->values && a->label_logits;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static void clear_answers(answers *a, const scbm_hooks *hooks) {
    scbm_release(hooks, a->label);
    scbm_release(hooks, a->concept_class);
    scbm_release(hooks, a->n_classes);
    scbm_release(hooks, a->each);
    scbm_release(hooks, a->values);
    scbm_release(hooks, a->label_logits);
}

static const float *weights_of(const scbm_tensor *tensor) {
    return tensor ? tensor->data : NULL;
}

/* Concepts and label of text i, from what the network computed for it, and their losses. */
static void answer(answers *a, const cbm_heads *heads, const cbm_dataset *data, size_t i, const float *computed,
                   const cbm_training_settings *settings, loss_sum *label, loss_sum *concept) {
    size_t n_concepts = (size_t)heads->n_concepts;
    const float *label_logits = computed, *weights = weights_of(settings->concept_weights);
    for (size_t k = 0; k < n_concepts; k++) {
        int first = heads->groups[k], n = heads->groups[k + 1] - first;
        a->concept_class[i * n_concepts + k] = cbm_largest(computed + first, n);
        add_loss(concept, computed + first, n, data->concept_class[i * n_concepts + k],
                 weights ? weights + first : NULL, settings->concept_loss);
    }
    if (heads->mode != CBM_VANILLA) {
        cbm_concept_values(heads, computed, a->values);
        cbm_label_logits(heads, a->values, a->label_logits);
        label_logits = a->label_logits;
    }
    a->label[i] = cbm_largest(label_logits, heads->n_labels);
    add_loss(label, label_logits, heads->n_labels, data->label[i], weights_of(settings->label_weights), CBM_LOSS_PLAIN);
}

/* Label and concepts count alike; what has no gold class at all does not count. */
static void settle_score(cbm_validation *v, const cbm_measures *label, const cbm_measures *concepts) {
    v->label_accuracy = label->value.accuracy;
    v->label_f1 = label->value.macro_f1;
    v->concept_accuracy = concepts->value.accuracy;
    v->concept_f1 = concepts->value.macro_f1;
    int parts = (label->n > 0) + (concepts->n > 0);
    v->score = parts ? (v->label_accuracy + v->concept_accuracy) / parts : 0.0;
}

static scbm_status measure(cbm_validation *v, answers *a, const cbm_heads *heads, const cbm_dataset *data,
                           const scbm_hooks *hooks) {
    cbm_measures label, concepts;
    memset(&concepts, 0, sizeof concepts);
    for (int k = 0; k < heads->n_concepts; k++) a->n_classes[k] = heads->groups[k + 1] - heads->groups[k];
    scbm_status status = cbm_measure(&label, NULL, data->label, a->label, data->n, 1, &heads->n_labels, 0, 0, hooks);
    if (!status && heads->n_concepts)
        status = cbm_measure(a->each, &concepts, data->concept_class, a->concept_class, data->n, heads->n_concepts,
                             a->n_classes, 0, 0, hooks);
    if (!status) settle_score(v, &label, &concepts);
    return status;
}

scbm_status cbm_validate(cbm_validation *v, const cbm_heads *heads, const cbm_dataset *data, const float *computed,
                         const cbm_training_settings *settings, const scbm_hooks *hooks) {
    answers a;
    loss_sum label = {0.0, 0.0}, concept = {0.0, 0.0};
    size_t width = (size_t)cbm_n_logits(heads);
    memset(v, 0, sizeof *v);
    scbm_status status = create_answers(&a, heads, data->n, hooks);
    for (size_t i = 0; i < data->n && !status; i++)
        answer(&a, heads, data, i, computed + i * width, settings, &label, &concept);
    if (!status) status = measure(v, &a, heads, data, hooks);
    if (heads->mode == CBM_VANILLA) v->loss = mean_of(&label);
    else if (heads->mode == CBM_JOINT) v->loss = mean_of(&label) + (double)settings->concept_weight * mean_of(&concept);
    else v->loss = mean_of(&concept);
    clear_answers(&a, hooks);
    return status;
}
