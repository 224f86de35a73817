/*
 * models/train/evaluate.c - what a model says of every text of a data set
 */
#include "models/data/classes.h"
#include "models/cbm-train.h"
#include "models/core/context.h"

#include <string.h>

void cbm_evaluation_clear(cbm_context *ctx, cbm_evaluation *evaluation) {
    scbm_release(&ctx->hooks, evaluation->label);
    scbm_release(&ctx->hooks, evaluation->concept_class);
    memset(evaluation, 0, sizeof *evaluation);
}

static scbm_status evaluate(cbm_context *ctx, const cbm_dataset *data, cbm_evaluation *e) {
    const cbm_heads *heads = &ctx->model->network.heads;
    double start = scbm_seconds();
    const cbm_names names = cbm_heads_names(heads);
    scbm_status status = cbm_dataset_check_names(data, &names, "the data");
    if (!status)
        status = cbm_compute_logits(ctx, (const char *const *)data->text, data->text_length, data->n, "evaluate");
    if (status) return status;
    size_t n_concepts = (size_t)heads->n_concepts, width = (size_t)cbm_n_logits(heads);
    size_t numbers = cbm_prediction_numbers(heads);
    cbm_concept_result *concepts = scbm_alloc_array(&ctx->hooks, n_concepts, sizeof *concepts);
    float *place = scbm_alloc_array(&ctx->hooks, numbers, sizeof *place);
    e->label = scbm_alloc_array(&ctx->hooks, data->n, sizeof *e->label);
    e->concept_class = scbm_alloc_array(&ctx->hooks, data->n * n_concepts, sizeof *e->concept_class);
    int has_memory = concepts && place && e->label && e->concept_class;
    for (size_t i = 0; i < data->n && has_memory; i++) {
        cbm_prediction p;
        cbm_fill_prediction(ctx->model, ctx->logits + i * width, NULL, place, concepts, &p);
        e->label[i] = p.label_index;
        for (size_t k = 0; k < n_concepts; k++) e->concept_class[i * n_concepts + k] = concepts[k].class_index;
        e->n_truncated += ctx->sequences.truncated[i];
    }
    scbm_release(&ctx->hooks, concepts);
    scbm_release(&ctx->hooks, place);
    e->n = data->n;
    e->seconds = scbm_seconds() - start;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_evaluate(cbm_context *ctx, const cbm_dataset *data, cbm_evaluation *evaluation) {
    memset(evaluation, 0, sizeof *evaluation);
    scbm_status status = evaluate(ctx, data, evaluation);
    if (status) cbm_evaluation_clear(ctx, evaluation);
    return cbm_context_result(ctx, status);
}
