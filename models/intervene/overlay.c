/*
 * models/intervene/overlay.c - a backbone with masks of its own over the model's weights, and the text that it is for
 */
#include "models/base/tensor.h"
#include "models/intervene/intervene.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Making and freeing
 * ---------------------------------------------------------------------------------------- */

static void free_overlay(cbm_context *ctx, void *state) {
    cbm_overlay *o = state;
    const scbm_hooks *hooks = &ctx->hooks;
    cbm_overlay_free_graphs(o);
    cbm_tensor_release(&o->counts, hooks);
    for (int i = 0; i < o->n_matrices; i++) {
        cbm_tensor_release(&o->matrix[i].masks, hooks);
        cbm_tensor_release(&o->matrix[i].moves, hooks);
    }
    for (int i = 0; i < 2; i++) {
        scbm_release(hooks, o->place_numbers[i]);
        scbm_release(hooks, o->place_concepts[i]);
    }
    cbm_sequences_clear(&o->text.sequence, hooks);
    scbm_release(hooks, o->text.base);
    scbm_release(hooks, o->text.computed);
    scbm_release(hooks, o->text.values);
    scbm_release(hooks, o->former);
    scbm_release(hooks, o->matrix);
    scbm_release(hooks, o->backbone.parameters);
    scbm_release(hooks, o);
}

cbm_overlay *cbm_overlay_of(const cbm_context *ctx) {
    return cbm_context_find_part(ctx, free_overlay);
}

static scbm_status create_matrix(cbm_overlay *o, cbm_parameter *parameter, const cbm_parameter *of_model) {
    cbm_overlay_matrix *m = &o->matrix[o->n_matrices++];
    const int64_t shape[3] = {1, of_model->masks->shape[1], of_model->masks->shape[2]};
    m->parameter = of_model;
    parameter->masks = &m->masks;
    return cbm_tensor_create(&m->masks, of_model->masks->name, SCBM_I8, 3, shape, cbm_overlay_hooks(o));
}

/* Masks of its own for every matrix; none for a dense model. */
static scbm_status create_matrices(cbm_overlay *o) {
    const cbm_backbone *model = &o->ctx->model->network.backbone;
    const scbm_hooks *hooks = cbm_overlay_hooks(o);
    size_t n = (size_t)model->n_parameters;
    o->backbone = *model;
    o->backbone.owns_tensors = 0;
    o->backbone.parameters = scbm_alloc_array(hooks, n, sizeof *o->backbone.parameters);
    o->matrix = scbm_alloc_array(hooks, (size_t)cbm_n_prunable(model), sizeof *o->matrix);
    if (!o->backbone.parameters || !o->matrix) return SCBM_ERROR_MEMORY;
    memcpy(o->backbone.parameters, model->parameters, n * sizeof *model->parameters);
    if (!cbm_masks_streams(model)) return SCBM_OK;
    for (const cbm_parameter *p = NULL; (p = cbm_next_prunable(model, p));) {
        scbm_status status = create_matrix(o, &o->backbone.parameters[p - model->parameters], p);
        if (status) return status;
    }
    const int64_t n_matrices = o->n_matrices;
    return cbm_tensor_create(&o->counts, "moves", SCBM_I32, 1, &n_matrices, hooks);
}

scbm_status cbm_overlay_create(cbm_context *ctx) {
    const scbm_hooks *hooks = &ctx->hooks;
    const cbm_heads *heads = &ctx->model->network.heads;
    size_t n_classes = (size_t)heads->n_classes;
    if (cbm_overlay_of(ctx)) return SCBM_OK;
    cbm_overlay *o = scbm_alloc(hooks, sizeof *o);
    if (!o) return SCBM_ERROR_MEMORY;
    o->ctx = ctx;
    o->text.base = scbm_alloc_array(hooks, n_classes, sizeof *o->text.base);
    o->text.computed = scbm_alloc_array(hooks, n_classes, sizeof *o->text.computed);
    o->text.values = scbm_alloc_array(hooks, n_classes, sizeof *o->text.values);
    o->former = scbm_alloc_array(hooks, 2 * (size_t)heads->max_classes, sizeof *o->former);
    int has_memory = o->text.base && o->text.computed && o->text.values && o->former;
    for (int i = 0; i < 2; i++) {
        o->place_numbers[i] = scbm_alloc_array(hooks, cbm_prediction_numbers(heads), sizeof(float));
        o->place_concepts[i] = scbm_alloc_array(hooks, (size_t)heads->n_concepts, sizeof **o->place_concepts);
        has_memory = has_memory && o->place_numbers[i] && o->place_concepts[i];
    }
    scbm_status status = has_memory ? create_matrices(o) : SCBM_ERROR_MEMORY;
    if (!status) status = cbm_context_set_part(ctx, free_overlay, o);
    if (status) free_overlay(ctx, o);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Masks
 * ---------------------------------------------------------------------------------------- */

void cbm_overlay_load_masks(cbm_overlay *o, int concept) {
    for (int i = 0; i < o->n_matrices; i++) {
        cbm_overlay_matrix *m = &o->matrix[i];
        memcpy(m->masks.data, cbm_mask_row(m->parameter->masks, concept, 0), scbm_tensor_bytes(&m->masks));
        scbm_tensor_changed(&m->masks);
        m->kept = cbm_mask_kept(&m->masks, 0);
    }
}

scbm_status cbm_overlay_count_moved(cbm_overlay *o, int concept, int64_t *moved) {
    scbm_status status = SCBM_OK;
    *moved = 0;
    for (int i = 0; i < o->n_matrices && !status; i++) {
        cbm_overlay_matrix *m = &o->matrix[i];
        status = scbm_tensor_fetch(&m->masks, o->ctx->runtime);
        if (!status) *moved += cbm_mask_difference(&m->masks, 0, m->parameter->masks, concept);
    }
    return status;
}

const scbm_tensor *cbm_overlay_masks(const cbm_context *ctx, const scbm_tensor *weight) {
    const cbm_overlay *o = cbm_overlay_of(ctx);
    for (int i = 0; o && i < o->n_matrices; i++)
        if (o->matrix[i].parameter->tensor == weight) return &o->matrix[i].masks;
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Graphs
 * ---------------------------------------------------------------------------------------- */

/* I32 [matrices, 2] */
static scbm_tensor *add_numbers(const cbm_overlay *o, scbm_graph *g, const char *name) {
    const int64_t shape[2] = {o->n_matrices, 2};
    return scbm_input(g, name, SCBM_I32, 2, shape, NULL);
}

/* The gradient of every matrix with masks, of which the moves are kept. */
static scbm_status add_gradients(cbm_overlay *o, cbm_overlay_graph *made) {
    scbm_graph *g = made->graph;
    scbm_tensor **weights = scbm_alloc_array(cbm_overlay_hooks(o), (size_t)o->n_matrices, sizeof *weights);
    if (!weights) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < o->n_matrices; i++) weights[i] = o->matrix[i].parameter->tensor;
    scbm_graph_set_weight_gradients(g, SCBM_DW_DENSE);
    scbm_status status = scbm_graph_backward(g, made->loss, weights, o->n_matrices);
    o->wanted = add_numbers(o, g, "moves");
    for (int i = 0; i < o->n_matrices && !status; i++) {
        scbm_tensor *gradient = scbm_graph_gradient(g, weights[i]);
        scbm_graph_discard(g, gradient);
        cbm_moves_add(o, i, gradient);
    }
    scbm_release(cbm_overlay_hooks(o), weights);
    return status;
}

static scbm_status build_flips(cbm_overlay *o) {
    scbm_status status = scbm_graph_create(&o->flips, o->ctx->runtime);
    if (status) return status;
    o->flip = add_numbers(o, o->flips, "flips");
    for (int i = 0; i < o->n_matrices; i++)
        scbm_flip_bits(o->flips, &o->matrix[i].masks, &o->matrix[i].moves, &o->counts, o->flip, i);
    return scbm_graph_plan(o->flips);
}

static scbm_status build_graph(cbm_overlay *o, cbm_overlay_graph *made, int with_gradients) {
    const cbm_network *network = &o->ctx->model->network; /* but for the masks */
    const cbm_heads *heads = &network->heads;
    const cbm_encode_options options = {.use_masks = 1};
    const int64_t shape[2] = {1, heads->n_concepts};
    scbm_status status = scbm_graph_create(&made->graph, o->ctx->runtime);
    if (status) return status;
    scbm_graph *g = made->graph;
    scbm_graph_set_precision(g, o->ctx->runner.precision);
    scbm_graph_set_capacity(g, o->capacity, 1);
    cbm_backbone_encode(&o->backbone, g, 1, &options, &made->encoding);
    made->logits = cbm_network_logits(g, network, cbm_network_pool(g, network, &made->encoding));
    made->targets = scbm_input(g, "targets", SCBM_I32, 2, shape, (const scbm_extent[2]){SCBM_TEXTS, SCBM_FIXED});
    made->loss = scbm_cross_entropy(g, made->logits, made->targets, (scbm_tensor *)&heads->group_tensor, NULL);
    scbm_graph_fetch(g, made->logits);
    scbm_graph_fetch(g, made->loss);
    if (with_gradients) status = add_gradients(o, made);
    return status ? status : scbm_graph_plan(g);
}

static void free_graph(cbm_overlay_graph *graph) {
    scbm_graph_free(graph->graph);
    memset(graph, 0, sizeof *graph);
}

void cbm_overlay_free_graphs(cbm_overlay *o) {
    free_graph(&o->forward);
    free_graph(&o->gradient);
    scbm_graph_free(o->flips);
    o->flips = NULL;
}

scbm_status cbm_overlay_prepare_graphs(cbm_overlay *o) {
    int64_t tokens = cbm_sequence_length(&o->text.sequence, 0);
    scbm_status status = cbm_moves_reserve(o);
    if (status || (o->capacity >= tokens && o->flips)) return status;
    cbm_overlay_free_graphs(o);
    o->capacity = cbm_graph_capacity(tokens);
    status = build_graph(o, &o->forward, 0);
    if (!status) status = build_graph(o, &o->gradient, 1);
    if (!status) status = build_flips(o);
    if (status) cbm_overlay_free_graphs(o);
    return status;
}

scbm_status cbm_overlay_tell(cbm_overlay *o) {
    return scbm_progress(cbm_overlay_hooks(o), "intervene", o->progress.done, o->progress.total);
}

scbm_status cbm_overlay_run(cbm_overlay *o, cbm_overlay_graph *graph, int concept, int class_index, double *loss) {
    const int32_t row = 0;
    const cbm_heads *heads = cbm_overlay_heads(o);
    int32_t *targets = graph->targets->data;
    for (int k = 0; k < heads->n_concepts; k++) targets[k] = k == concept ? class_index : -1;
    int64_t tokens = cbm_fill_inputs(&o->backbone, &graph->encoding, &o->text.sequence, &row, 1);
    scbm_status status = scbm_graph_run(graph->graph, tokens, 1);
    if (status) return status;
    *loss = (double)*(const float *)graph->loss->data;
    if (!isfinite(*loss))
        return scbm_fail(SCBM_ERROR_NUMERIC, "the cross-entropy of concept '%s' is not finite",
                         heads->concept_name[concept]);
    return cbm_overlay_tell(o);
}

/* ------------------------------------------------------------------------------------------
 * The text
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_overlay_load_text(cbm_overlay *o, size_t i) {
    const cbm_sequences *from = &o->ctx->sequences;
    const cbm_heads *heads = cbm_overlay_heads(o);
    const scbm_hooks *hooks = cbm_overlay_hooks(o);
    cbm_sequences *to = &o->text.sequence;
    size_t n = (size_t)cbm_sequence_length(from, i), n_classes = (size_t)heads->n_classes;
    o->text.run = 0; /* until all of it is there */
    const float *logits = o->ctx->logits + i * n_classes;
    scbm_status status = scbm_grow(hooks, (void **)&to->ids, &to->ids_capacity, n, sizeof *to->ids);
    if (!status) status = scbm_grow(hooks, (void **)&to->first, &to->first_capacity, 2, sizeof *to->first);
    if (!status) status = scbm_grow(hooks, (void **)&to->truncated, &to->truncated_capacity, 1, 1);
    if (status) return status;
    if (n) memcpy(to->ids, from->ids + from->first[i], n * sizeof *to->ids);
    to->n = 1;
    to->first[0] = 0;
    to->first[1] = n;
    to->truncated[0] = from->truncated[i];
    o->text.run = o->ctx->n_runs;
    o->text.number = i;
    memcpy(o->text.base, logits, n_classes * sizeof *logits);
    memcpy(o->text.computed, logits, n_classes * sizeof *logits);
    cbm_concept_values(heads, logits, o->text.values);
    return SCBM_OK;
}

const cbm_prediction *cbm_overlay_predict(cbm_overlay *o, int place) {
    cbm_prediction *p = &o->predictions[place];
    memset(p, 0, sizeof *p);
    cbm_fill_prediction(o->ctx->model, o->text.computed, o->text.values, o->place_numbers[place],
                        o->place_concepts[place], p);
    p->truncated = o->text.sequence.truncated[0];
    p->n_tokens = (int)cbm_sequence_length(&o->text.sequence, 0);
    return p;
}
