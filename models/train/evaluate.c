/*
 * models/train/evaluate.c - what a model says of every text of a data set
 */
#include "models/data/classes.h"
#include "models/cbm-train.h"
#include "models/core/context.h"

#include <string.h>

/* The context's last evaluation, and what it points to. */
typedef struct evaluation_part {
    cbm_evaluation result;
    int32_t *label, *concept_class;
    float *label_probability, *concept_probability;
    size_t label_capacity, concept_capacity, label_numbers, concept_numbers;
} evaluation_part;

static void free_evaluation(cbm_context *ctx, void *state) {
    evaluation_part *part = state;
    scbm_release(&ctx->hooks, part->label);
    scbm_release(&ctx->hooks, part->concept_class);
    scbm_release(&ctx->hooks, part->label_probability);
    scbm_release(&ctx->hooks, part->concept_probability);
    scbm_release(&ctx->hooks, part);
}

static scbm_status find_part(cbm_context *ctx, evaluation_part **found) {
    *found = cbm_context_find_part(ctx, free_evaluation);
    if (*found) return SCBM_OK;
    evaluation_part *part = scbm_alloc(&ctx->hooks, sizeof *part);
    if (!part) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_context_set_part(ctx, free_evaluation, part);
    if (status) scbm_release(&ctx->hooks, part);
    else *found = part;
    return status;
}

static scbm_status make_room(cbm_context *ctx, evaluation_part *part, size_t n) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->hooks;
    const size_t size = sizeof(float);
    scbm_status status = scbm_grow(hooks, (void **)&part->label, &part->label_capacity, n, sizeof *part->label);
    if (!status)
        status = scbm_grow(hooks, (void **)&part->concept_class, &part->concept_capacity, n * (size_t)heads->n_concepts,
                           sizeof *part->concept_class);
    if (!status)
        status = scbm_grow(hooks, (void **)&part->label_probability, &part->label_numbers, n * (size_t)heads->n_labels, size);
    if (!status)
        status = scbm_grow(hooks, (void **)&part->concept_probability, &part->concept_numbers,
                           n * (size_t)heads->n_classes, size);
    return status;
}

/* Notes what the network computed for text `i`; `place` and `concepts` are room for one prediction. */
static void note_text(const cbm_context *ctx, evaluation_part *part, size_t i, float *place, cbm_concept_result *concepts) {
    const cbm_heads *heads = &ctx->model->network.heads;
    size_t n_labels = (size_t)heads->n_labels, n_classes = (size_t)heads->n_classes, n_concepts = (size_t)heads->n_concepts;
    cbm_prediction p;
    cbm_fill_prediction(ctx->model, ctx->logits + i * (size_t)cbm_n_logits(heads), NULL, place, concepts, &p);
    part->label[i] = p.label_index;
    memcpy(part->label_probability + i * n_labels, p.probabilities, n_labels * sizeof(float));
    for (size_t k = 0; k < n_concepts; k++) {
        part->concept_class[i * n_concepts + k] = concepts[k].class_index;
        memcpy(part->concept_probability + i * n_classes + heads->groups[k], concepts[k].probabilities,
               (size_t)concepts[k].n_classes * sizeof(float));
    }
    part->result.n_truncated += ctx->sequences.truncated[i];
}

static scbm_status evaluate(cbm_context *ctx, const cbm_dataset *data, const cbm_evaluation **evaluation) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const cbm_names names = cbm_heads_names(heads);
    double start = scbm_seconds();
    evaluation_part *part;
    scbm_status status = cbm_dataset_check_names(data, &names, "the data");
    if (!status)
        status = cbm_compute_logits(ctx, (const char *const *)data->text, data->text_length, data->n, "evaluate");
    if (!status) status = find_part(ctx, &part);
    if (!status) status = make_room(ctx, part, data->n);
    if (status) return status;
    cbm_concept_result *concepts = scbm_alloc_array(&ctx->hooks, (size_t)heads->n_concepts, sizeof *concepts);
    float *place = scbm_alloc_array(&ctx->hooks, cbm_prediction_numbers(heads), sizeof *place);
    part->result = (cbm_evaluation){.n = data->n,
                                    .n_labels = heads->n_labels,
                                    .n_concepts = heads->n_concepts,
                                    .n_classes = heads->n_classes,
                                    .first_class = heads->groups,
                                    .label = part->label,
                                    .concept_class = part->concept_class,
                                    .label_probability = part->label_probability,
                                    .concept_probability = part->concept_probability};
    for (size_t i = 0; i < data->n && concepts && place; i++) note_text(ctx, part, i, place, concepts);
    if (!concepts || !place) status = SCBM_ERROR_MEMORY;
    scbm_release(&ctx->hooks, concepts);
    scbm_release(&ctx->hooks, place);
    part->result.seconds = scbm_seconds() - start;
    if (!status) *evaluation = &part->result;
    return status;
}

scbm_status cbm_evaluate(cbm_context *ctx, const cbm_dataset *data, const cbm_evaluation **evaluation) {
    *evaluation = NULL;
    return cbm_context_result(ctx, evaluate(ctx, data, evaluation));
}
