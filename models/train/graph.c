/*
 * models/train/graph.c - the loss of a batch and its gradients, as a graph
 */
#include "models/core/masks.h"
#include "models/train/graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Appends a tensor to those that the loss trains. */
static void add_parameter(cbm_training_graph *t, scbm_tensor *tensor) {
    if (tensor) t->parameters[t->n_parameters++] = tensor;
}

scbm_status cbm_frozen_part(const char *freeze, const cbm_backbone *backbone, int *frozen) {
    int n = 0, end = 0;
    *frozen = 0;
    if (!freeze) return SCBM_OK;
    *frozen = 1;
    if (strcmp(freeze, "embeddings") == 0) return SCBM_OK;
    if (freeze[0] < '0' || freeze[0] > '9' || sscanf(freeze, "%5d%n", &n, &end) != 1 || freeze[end] || n < 1)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "training: freeze is '%.64s', and must be embeddings or a number of blocks", freeze);
    if (backbone && n > backbone->n_blocks)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: freeze is %d, and the encoder has %d blocks", n,
                         backbone->n_blocks);
    *frozen = n + 1;
    return SCBM_OK;
}

int cbm_is_frozen(const cbm_parameter *parameter, int frozen) {
    if (parameter->block >= 0) return parameter->block < frozen - 1;
    return frozen > 0 && parameter->role != CBM_FINAL_NORM && parameter->role != CBM_FINAL_NORM_BIAS;
}

static scbm_status collect_parameters(cbm_training_graph *t, const cbm_network *network,
                                      const cbm_training_settings *settings, const scbm_hooks *hooks) {
    const cbm_heads *heads = &network->heads;
    size_t most = (size_t)network->backbone.n_parameters + 4;
    t->parameters = scbm_alloc_array(hooks, most, sizeof *t->parameters);
    t->gradients = scbm_alloc_array(hooks, most, sizeof *t->gradients);
    if (!t->parameters || !t->gradients) return SCBM_ERROR_MEMORY;
    if (settings->only) {
        for (int i = 0; i < settings->n_only; i++) add_parameter(t, settings->only[i]);
        return SCBM_OK;
    }
    for (int i = 0; i < network->backbone.n_parameters; i++) {
        const cbm_parameter *parameter = &network->backbone.parameters[i];
        if (parameter->tensor && !cbm_is_frozen(parameter, settings->frozen)) add_parameter(t, parameter->tensor);
    }
    add_parameter(t, heads->concept_weight);
    add_parameter(t, heads->concept_bias);
    if (heads->mode == CBM_JOINT || heads->mode == CBM_VANILLA) {
        add_parameter(t, heads->label_weight);
        add_parameter(t, heads->label_bias);
    }
    return SCBM_OK;
}

/* [texts, n]: classes (I32), one for each group, or probabilities (F32), one for each class. */
static scbm_tensor *targets_of(scbm_graph *g, const char *name, scbm_type type, int n) {
    const int64_t shape[2] = {0, n};
    const scbm_extent extent[2] = {SCBM_TEXTS, SCBM_FIXED};
    return scbm_input(g, name, type, 2, shape, extent);
}

/* CE(targets), or β CE(targets) + (1 − β) CE(mixed targets): one mean each, as the method has it. */
static scbm_tensor *mixed_loss(scbm_graph *g, const cbm_training_graph *t, scbm_tensor *logits, scbm_tensor *targets,
                               scbm_tensor *mixed, const scbm_tensor *groups, scbm_tensor *weights) {
    scbm_tensor *bounds = (scbm_tensor *)groups;
    scbm_tensor *loss = scbm_cross_entropy(g, logits, targets, bounds, weights);
    if (!mixed) return loss;
    scbm_tensor *other = scbm_cross_entropy(g, logits, mixed, bounds, weights);
    return scbm_add(g, scbm_mul(g, loss, t->beta), scbm_mul(g, other, t->rest));
}

static void add_mixup_inputs(scbm_graph *g, cbm_training_graph *t) {
    const int64_t one = 1, texts = 0;
    const scbm_extent extent = SCBM_TEXTS;
    t->permutation = scbm_input(g, "permutation", SCBM_I32, 1, &texts, &extent);
    t->beta = scbm_input(g, "beta", SCBM_F32, 1, &one, NULL);
    t->rest = scbm_input(g, "rest", SCBM_F32, 1, &one, NULL);
    t->pooled = scbm_mix_texts(g, t->pooled, t->permutation, t->beta);
}

/* The loss of a batch as its part of the step's, the mean over all batches. */
static scbm_tensor *part_of_step(scbm_graph *g, scbm_tensor *loss, scbm_tensor *share) {
    return share ? scbm_mul(g, loss, share) : loss;
}

static void add_shares(scbm_graph *g, cbm_training_graph *t) {
    const int64_t one = 1;
    t->label_share = scbm_input(g, "label share", SCBM_F32, 1, &one, NULL);
    t->concept_share = scbm_input(g, "concept share", SCBM_F32, 1, &one, NULL);
    t->text_share = scbm_input(g, "text share", SCBM_F32, 1, &one, NULL);
}

/* What the loss gets of a teacher: τ² CE(logits / τ, targets), times the weight. */
static scbm_tensor *add_teacher_loss(scbm_graph *g, const cbm_training_graph *t, scbm_tensor *loss, scbm_tensor *logits,
                                     scbm_tensor *targets, const scbm_tensor *groups) {
    float temperature = t->teacher->temperature;
    scbm_tensor *taught = scbm_cross_entropy(g, scbm_scale(g, logits, 1.0f / temperature), targets,
                                             (scbm_tensor *)groups, NULL);
    taught = part_of_step(g, taught, t->text_share);
    return scbm_add(g, loss, scbm_scale(g, taught, t->teacher->weight * temperature * temperature));
}

/* Concept logits and their loss. */
static scbm_tensor *add_concept_loss(scbm_graph *g, cbm_training_graph *t, const cbm_network *network,
                                     const cbm_training_settings *settings) {
    const cbm_heads *heads = &network->heads;
    t->concept_targets = targets_of(g, "concept targets", SCBM_I32, heads->n_concepts);
    if (settings->mixup) t->mixed_concept_targets = targets_of(g, "mixed concept targets", SCBM_I32, heads->n_concepts);
    t->concept_logits = cbm_network_logits(g, network, t->pooled);
    scbm_output(g, t->concept_logits);
    scbm_tensor *scores = t->concept_logits;
    if (settings->concept_loss == CBM_LOSS_SIGMOID) scores = scbm_activate(g, scores, SCBM_SIGMOID);
    scbm_tensor *loss = mixed_loss(g, t, scores, t->concept_targets, t->mixed_concept_targets, &heads->group_tensor,
                                   settings->concept_weights);
    loss = part_of_step(g, loss, t->concept_share);
    if (!t->teacher) return loss;
    t->taught_concepts = targets_of(g, "taught concepts", SCBM_F32, heads->n_classes);
    return add_teacher_loss(g, t, loss, t->concept_logits, t->taught_concepts, &heads->group_tensor);
}

/* Label logits, from the concept logits or (vanilla) from the pooled text, and their loss. */
static scbm_tensor *add_label_loss(scbm_graph *g, cbm_training_graph *t, const cbm_network *network,
                                   const cbm_training_settings *settings) {
    const cbm_heads *heads = &network->heads;
    t->label_targets = targets_of(g, "label targets", SCBM_I32, 1);
    if (settings->mixup) t->mixed_label_targets = targets_of(g, "mixed label targets", SCBM_I32, 1);
    if (heads->mode == CBM_VANILLA) t->label_logits = cbm_network_logits(g, network, t->pooled);
    else t->label_logits = scbm_linear(g, t->concept_logits, heads->label_weight, heads->label_bias, NULL, SCBM_NONE);
    scbm_output(g, t->label_logits);
    scbm_tensor *loss = mixed_loss(g, t, t->label_logits, t->label_targets, t->mixed_label_targets,
                                   &heads->label_group_tensor, settings->label_weights);
    loss = part_of_step(g, loss, t->label_share);
    if (!t->teacher) return loss;
    t->taught_labels = targets_of(g, "taught labels", SCBM_F32, heads->n_labels);
    return add_teacher_loss(g, t, loss, t->label_logits, t->taught_labels, &heads->label_group_tensor);
}

static void add_losses(scbm_graph *g, cbm_training_graph *t, const cbm_network *network,
                       const cbm_training_settings *settings) {
    const cbm_mode mode = network->heads.mode;
    scbm_tensor *label, *concept = NULL;
    if (mode != CBM_VANILLA) concept = add_concept_loss(g, t, network, settings);
    if (mode == CBM_VANILLA) {
        t->loss = add_label_loss(g, t, network, settings);
    } else if (mode == CBM_JOINT) {
        label = add_label_loss(g, t, network, settings);
        t->loss = scbm_add(g, label, scbm_scale(g, concept, settings->concept_weight));
    } else {
        t->loss = concept;
    }
    scbm_graph_fetch(g, t->loss);
}

/* Lists the gradients. Those of prunable weights may be taken by nodes, and what the weight is trained by is another then. */
static void list_gradients(cbm_training_graph *t, const cbm_network *network, const cbm_training_settings *settings) {
    scbm_graph *g = t->graph;
    for (int i = 0; i < t->n_parameters; i++) {
        const cbm_parameter *parameter = cbm_backbone_named(&network->backbone, t->parameters[i]->name);
        int is_taken = settings->take_gradient && parameter && parameter->tensor == t->parameters[i] &&
                       cbm_is_prunable(parameter);
        t->gradients[i] = scbm_graph_gradient(g, t->parameters[i]);
        if (!is_taken || !t->gradients[i]) continue;
        scbm_graph_discard(g, t->gradients[i]);
        t->gradients[i] = settings->take_gradient(settings->take_gradient_user, g, t->parameters[i], t->gradients[i]);
    }
}

static scbm_status build(cbm_training_graph *t, const cbm_network *network, const cbm_training_settings *settings) {
    scbm_graph *g = t->graph;
    const cbm_encode_options options = {.hidden_dropout = settings->hidden_dropout,
                                        .attention_dropout = settings->attention_dropout,
                                        .use_masks = 1,
                                        .states = settings->states};
    scbm_graph_set_precision(g, settings->precision);
    scbm_graph_set_capacity(g, settings->max_tokens, settings->max_texts);
    cbm_backbone_encode(&network->backbone, g, settings->max_texts, &options, &t->encoding);
    t->pooled = cbm_network_pool(g, network, &t->encoding);
    if (settings->states) scbm_output(g, t->pooled);
    if (settings->mixup) add_mixup_inputs(g, t);
    if (settings->has_shares) add_shares(g, t);
    add_losses(g, t, network, settings);
    scbm_graph_set_weight_gradients(g, settings->weight_gradients);
    scbm_status status = scbm_graph_backward(g, t->loss, t->parameters, t->n_parameters);
    if (!status) list_gradients(t, network, settings);
    return status;
}

scbm_status cbm_training_graph_build(cbm_training_graph *t, const cbm_network *network, scbm_context *context,
                                     const cbm_training_settings *settings) {
    memset(t, 0, sizeof *t);
    t->teacher = settings->teacher;
    scbm_status status = collect_parameters(t, network, settings, scbm_context_hooks(context));
    if (!status) status = scbm_graph_create(&t->graph, context);
    return status ? status : build(t, network, settings);
}

scbm_status cbm_training_graph_create(cbm_training_graph *t, const cbm_network *network, scbm_context *context,
                                      const cbm_training_settings *settings) {
    scbm_status status = cbm_training_graph_build(t, network, context, settings);
    for (int i = 0; i < t->n_parameters && !status; i++) scbm_graph_fetch(t->graph, t->gradients[i]);
    if (!status) status = scbm_graph_plan(t->graph);
    if (status) cbm_training_graph_clear(t, scbm_context_hooks(context));
    return status;
}

scbm_status cbm_training_graph_measure(const cbm_network *network, scbm_context *context,
                                       const cbm_training_settings *settings, size_t *bytes) {
    cbm_training_graph graph;
    scbm_status status = cbm_training_graph_build(&graph, network, context, settings);
    if (!status) status = scbm_graph_measure(graph.graph, bytes);
    cbm_training_graph_clear(&graph, scbm_context_hooks(context));
    return status;
}

void cbm_training_graph_clear(cbm_training_graph *t, const scbm_hooks *hooks) {
    scbm_graph_free(t->graph);
    scbm_release(hooks, t->parameters);
    scbm_release(hooks, t->gradients);
    memset(t, 0, sizeof *t);
}

/* Row i of the targets is text row[order[i]]'s (order NULL: row[i]'s) of `all`, numbers of 4 bytes like them. */
static void fill_targets(scbm_tensor *targets, const void *all, const int32_t *row, int64_t n, const int32_t *order) {
    if (!targets) return;
    size_t bytes = 4 * (size_t)targets->shape[1];
    for (int64_t i = 0; i < n; i++) {
        size_t text = (size_t)row[order ? order[i] : i];
        memcpy((char *)targets->data + (size_t)i * bytes, (const char *)all + text * bytes, bytes);
    }
}

int64_t cbm_training_fill(const cbm_training_graph *t, const cbm_network *network, const cbm_sequences *sequences,
                          const cbm_dataset *data, const int32_t *row, int64_t n, const int32_t *permutation,
                          float beta) {
    fill_targets(t->label_targets, data->label, row, n, NULL);
    fill_targets(t->concept_targets, data->concept_class, row, n, NULL);
    if (t->teacher) {
        fill_targets(t->taught_labels, t->teacher->labels, row, n, NULL);
        fill_targets(t->taught_concepts, t->teacher->concepts, row, n, NULL);
    }
    if (t->permutation && permutation) {
        memcpy(t->permutation->data, permutation, (size_t)n * sizeof *permutation);
        *(float *)t->beta->data = beta;
        *(float *)t->rest->data = 1.0f - beta;
        fill_targets(t->mixed_label_targets, data->label, row, n, permutation);
        fill_targets(t->mixed_concept_targets, data->concept_class, row, n, permutation);
    }
    return cbm_fill_inputs(&network->backbone, &t->encoding, sequences, row, n);
}

/* ------------------------------------------------------------------------------------------
 * Gradients, as pruning asks for them
 * ---------------------------------------------------------------------------------------- */

/* The tokens of the longest minibatch. */
static int64_t most_tokens(const cbm_gradient_source *source, const cbm_gradient_request *r) {
    int64_t most = 0;
    for (int64_t i = 0; i < r->n_batches; i++) {
        int64_t tokens = 0;
        for (int64_t j = 0; j < r->batch; j++)
            tokens += cbm_sequence_length(source->sequences, (size_t)r->rows[i * r->batch + j]);
        if (tokens > most) most = tokens;
    }
    return most;
}

/* For those who ask only what the gradients take. */
static scbm_tensor *pass_over(void *user, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    (void)user, (void)graph, (void)weight, (void)gradient;
    return NULL;
}

static cbm_training_settings settings_for(const cbm_gradient_source *source, const cbm_gradient_request *r) {
    cbm_training_settings settings = *source->settings;
    settings.hidden_dropout = settings.attention_dropout = 0.0f;
    settings.mixup = 0;
    settings.has_shares = 0;
    settings.teacher = NULL;
    settings.states = NULL;
    settings.max_tokens = most_tokens(source, r);
    settings.max_texts = r->batch;
    settings.weight_gradients = SCBM_DW_MASKED;
    settings.only = r->weights;
    settings.n_only = r->n;
    settings.take_gradient = r->take_gradient ? r->take_gradient : pass_over;
    settings.take_gradient_user = r->user;
    return settings;
}

scbm_status cbm_gradients(const cbm_gradient_source *source, const cbm_gradient_request *r) {
    const cbm_training_settings settings = settings_for(source, r);
    cbm_training_graph graph;
    scbm_status status = cbm_training_graph_create(&graph, source->network, source->context, &settings);
    if (status) return status;
    for (int64_t i = 0; i < r->n_batches && !status; i++) {
        int64_t tokens = cbm_training_fill(&graph, source->network, source->sequences, source->data,
                                           r->rows + i * r->batch, r->batch, NULL, 1.0f);
        status = scbm_graph_run(graph.graph, tokens, r->batch);
        if (!status && !isfinite(*(const float *)graph.loss->data))
            status = scbm_fail(SCBM_ERROR_NUMERIC, "pruning: the loss of a batch is not finite");
        if (!status && r->on_batch) status = r->on_batch(r->user, i + 1);
    }
    cbm_training_graph_clear(&graph, source->hooks);
    return status;
}

scbm_status cbm_gradients_measure(const cbm_gradient_source *source, const cbm_gradient_request *r, size_t *bytes) {
    const cbm_training_settings settings = settings_for(source, r);
    return cbm_training_graph_measure(source->network, source->context, &settings, bytes);
}
