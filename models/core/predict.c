/*
 * models/core/predict.c - predictions and embeddings
 */
#include "models/core/context.h"

#include <math.h>
#include <string.h>

/* The numbers of one text: label logits and probabilities, the concepts' logits, probabilities and values u. */
size_t cbm_prediction_numbers(const cbm_heads *heads) {
    return 2 * (size_t)heads->n_labels + 3 * (size_t)heads->n_classes;
}

/* The centred form: contribution_k = G_k · (u_k − ū_k), bias = g + Σ_k G_k · ū_k, for the predicted label. */
static void explain_label(const cbm_model *model, cbm_prediction *p, cbm_concept_result *concepts,
                          const float *values) {
    const cbm_heads *heads = &model->network.heads;
    const float *mean = model->concept_mean->data;
    const float *row = (const float *)heads->label_weight->data + (size_t)p->label_index * (size_t)heads->n_classes;
    double bias = (double)((const float *)heads->label_bias->data)[p->label_index];
    for (int k = 0; k < heads->n_concepts; k++) {
        double contribution = 0.0;
        for (int c = heads->groups[k]; c < heads->groups[k + 1]; c++) {
            contribution += (double)row[c] * ((double)values[c] - (double)mean[c]);
            bias += (double)row[c] * (double)mean[c];
        }
        concepts[k].contribution = (float)contribution;
    }
    p->bias = (float)bias;
}

static void fill_concepts(const cbm_heads *heads, const float *logits, float *probabilities, const float *values,
                          cbm_concept_result *results) {
    for (int k = 0; k < heads->n_concepts; k++) {
        int first = heads->groups[k], n = heads->groups[k + 1] - first;
        cbm_concept_result *result = &results[k];
        cbm_softmax(logits + first, n, probabilities + first);
        result->name = heads->concept_name[k];
        result->n_classes = n;
        result->logits = logits + first;
        result->probabilities = probabilities + first;
        result->values = values + first;
        result->class_index = cbm_largest(logits + first, n);
        result->class_name = heads->class_name[first + result->class_index];
        result->probability = result->probabilities[result->class_index];
    }
}

/* Fills a prediction from what the network computed; `numbers` and `concepts` are this text's place. */
void cbm_fill_prediction(const cbm_model *model, const float *computed, const float *given, float *numbers,
                         cbm_concept_result *concepts, cbm_prediction *p) {
    const cbm_heads *heads = &model->network.heads;
    size_t n_labels = (size_t)heads->n_labels, n_classes = (size_t)heads->n_classes;
    float *logits = numbers, *probabilities = logits + n_labels;
    float *concept_logits = probabilities + n_labels, *values = concept_logits + 2 * n_classes;
    if (heads->mode == CBM_VANILLA) {
        memcpy(logits, computed, n_labels * sizeof *logits);
    } else {
        memcpy(concept_logits, computed, n_classes * sizeof *concept_logits);
        fill_concepts(heads, concept_logits, concept_logits + n_classes, values, concepts);
        if (given) memcpy(values, given, n_classes * sizeof *values);
        else cbm_concept_values(heads, concept_logits, values);
        cbm_label_logits(heads, values, logits);
    }
    cbm_softmax(logits, heads->n_labels, probabilities);
    p->label_index = cbm_largest(logits, heads->n_labels);
    p->n_labels = heads->n_labels;
    p->label = heads->label_name[p->label_index];
    p->probability = probabilities[p->label_index];
    p->logits = logits;
    p->probabilities = probabilities;
    p->n_concepts = heads->n_concepts;
    p->concepts = heads->n_concepts ? concepts : NULL;
    if (heads->mode == CBM_VANILLA) p->bias = ((const float *)heads->label_bias->data)[p->label_index];
    else explain_label(model, p, concepts, values);
}

/* Tokens and logits of the texts, in the context. */
scbm_status cbm_compute_logits(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                               const char *progress) {
    const cbm_model *model = ctx->model;
    const scbm_hooks *hooks = &ctx->hooks;
    if (model->network.heads.mode == CBM_ENCODER)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is an encoder without labels: train a model on it first",
                         scbm_file_path(model->file));
    size_t width = (size_t)cbm_n_logits(&model->network.heads);
    ctx->n_runs++;
    ctx->n_computed = 0;
    cbm_sequences_reset(&ctx->sequences);
    scbm_status status = cbm_sequences_add_texts(&ctx->sequences, model->tokenizer, texts, lengths, n, ctx->max_tokens,
                                                 hooks);
    if (!status)
        status = scbm_grow(hooks, (void **)&ctx->logits, &ctx->logits_capacity, n * width, sizeof *ctx->logits);
    if (!status)
        status = cbm_runner_run(&ctx->runner, CBM_FORWARD_LOGITS, &ctx->sequences, ctx->logits, hooks, progress);
    if (!status) ctx->n_computed = n;
    return status;
}

/* Room for the predictions of `n` texts. */
static scbm_status make_room(cbm_context *ctx, size_t n) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->hooks;
    size_t numbers = cbm_prediction_numbers(heads), n_concepts = (size_t)heads->n_concepts;
    scbm_status status = scbm_grow(hooks, (void **)&ctx->numbers, &ctx->numbers_capacity, n * numbers,
                                   sizeof *ctx->numbers);
    if (!status)
        status = scbm_grow(hooks, (void **)&ctx->concepts, &ctx->concepts_capacity, n * n_concepts,
                           sizeof *ctx->concepts);
    if (!status)
        status = scbm_grow(hooks, (void **)&ctx->predictions, &ctx->predictions_capacity, n, sizeof *ctx->predictions);
    if (!status) status = scbm_grow(hooks, (void **)&ctx->listed, &ctx->listed_capacity, n, sizeof *ctx->listed);
    return status;
}

static scbm_status predict(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n) {
    const cbm_heads *heads = &ctx->model->network.heads;
    size_t width = (size_t)cbm_n_logits(heads), numbers = cbm_prediction_numbers(heads),
           n_concepts = (size_t)heads->n_concepts;
    scbm_status status = cbm_compute_logits(ctx, texts, lengths, n, "predict");
    if (!status) status = make_room(ctx, n);
    for (size_t i = 0; i < n && !status; i++) {
        cbm_concept_result *concepts = n_concepts ? ctx->concepts + i * n_concepts : NULL;
        cbm_prediction *prediction = &ctx->predictions[i];
        memset(prediction, 0, sizeof *prediction);
        cbm_fill_prediction(ctx->model, ctx->logits + i * width, NULL, ctx->numbers + i * numbers, concepts,
                            prediction);
        prediction->truncated = ctx->sequences.truncated[i];
        prediction->n_tokens = (int)cbm_sequence_length(&ctx->sequences, i);
        ctx->listed[i] = prediction;
    }
    return status;
}

scbm_status cbm_predict_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                              const cbm_prediction *const **predictions) {
    scbm_status status = predict(ctx, texts, lengths, n);
    *predictions = status ? NULL : ctx->listed;
    return cbm_context_result(ctx, status);
}

scbm_status cbm_predict(cbm_context *ctx, const char *text, const cbm_prediction **prediction) {
    const cbm_prediction *const *predictions;
    scbm_status status = cbm_predict_batch(ctx, &text, NULL, 1, &predictions);
    *prediction = status ? NULL : predictions[0];
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Keeping a prediction: one block with everything that it points to
 * ---------------------------------------------------------------------------------------- */

/* Where the next piece of a copy goes; with `block` NULL its size is only counted. */
typedef struct copy_place {
    unsigned char *block;
    size_t used;
} copy_place;

static void *put(copy_place *place, const void *data, size_t size) {
    void *at = place->block ? place->block + place->used : NULL;
    if (at && size) memcpy(at, data, size);
    place->used += (size + 15) & ~(size_t)15;
    return at;
}

static const char *put_text(copy_place *place, const char *text) {
    return text ? put(place, text, strlen(text) + 1) : NULL;
}

static const float *put_floats(copy_place *place, const float *values, int n) {
    return put(place, values, (size_t)n * sizeof *values);
}

static void copy_prediction(copy_place *place, const cbm_prediction *p) {
    cbm_prediction *copy = put(place, p, sizeof *p);
    cbm_concept_result *concepts = put(place, p->concepts, (size_t)p->n_concepts * sizeof *p->concepts);
    cbm_prediction filled = *p;
    filled.label = put_text(place, p->label);
    filled.logits = put_floats(place, p->logits, p->n_labels);
    filled.probabilities = put_floats(place, p->probabilities, p->n_labels);
    filled.concepts = p->n_concepts ? concepts : NULL;
    for (int k = 0; k < p->n_concepts; k++) {
        cbm_concept_result concept = p->concepts[k];
        concept.name = put_text(place, concept.name);
        concept.class_name = put_text(place, concept.class_name);
        concept.logits = put_floats(place, concept.logits, concept.n_classes);
        concept.probabilities = put_floats(place, concept.probabilities, concept.n_classes);
        concept.values = put_floats(place, concept.values, concept.n_classes);
        if (concepts) concepts[k] = concept;
    }
    if (copy) *copy = filled;
}

scbm_status cbm_prediction_copy(cbm_prediction **copy, const cbm_prediction *prediction) {
    copy_place place = {NULL, 0};
    *copy = NULL;
    if (!prediction) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_prediction_copy: the prediction is NULL");
    copy_prediction(&place, prediction);
    place.block = scbm_alloc(NULL, place.used);
    if (!place.block) return SCBM_ERROR_MEMORY;
    place.used = 0;
    copy_prediction(&place, prediction);
    *copy = (cbm_prediction *)(void *)place.block;
    return SCBM_OK;
}

void cbm_prediction_free(cbm_prediction *copy) {
    scbm_release(NULL, copy);
}

/* ------------------------------------------------------------------------------------------
 * Embeddings
 * ---------------------------------------------------------------------------------------- */

/* Scales a vector to length 1; one of zeros stays. The sum is in double and in order. */
static void normalize_vector(float *vector, int64_t n) {
    double square = 0.0;
    for (int64_t i = 0; i < n; i++) square += (double)vector[i] * (double)vector[i];
    double length = sqrt(square);
    for (int64_t i = 0; i < n && length > 0.0; i++) vector[i] = (float)((double)vector[i] / length);
}

scbm_status cbm_embed_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                            cbm_pooling pooling, cbm_normalize normalize, float *vectors, uint8_t *truncated) {
    const cbm_model *model = ctx->model;
    const cbm_backbone *backbone = &model->network.backbone;
    if (pooling == CBM_POOL_FILE) pooling = model->network.pooling;
    scbm_status status = cbm_pooling_check(backbone, pooling);
    if (status) return cbm_context_result(ctx, status);
    if (normalize > CBM_NORMALIZE_NO || normalize < CBM_NORMALIZE_FILE)
        return cbm_context_result(ctx, scbm_fail(SCBM_ERROR_ARGUMENT, "%d is no way to normalize", (int)normalize));
    int scales = normalize == CBM_NORMALIZE_FILE ? backbone->normalize : normalize == CBM_NORMALIZE_YES;
    ctx->n_runs++;
    ctx->n_computed = 0;
    cbm_sequences_reset(&ctx->sequences);
    status = cbm_sequences_add_texts(&ctx->sequences, model->tokenizer, texts, lengths, n, ctx->max_tokens,
                                     &ctx->hooks);
    if (!status)
        status = cbm_runner_run(&ctx->runner, (cbm_forward)pooling, &ctx->sequences, vectors, &ctx->hooks, "embed");
    for (size_t i = 0; i < n && !status; i++) {
        if (scales) normalize_vector(vectors + i * (size_t)backbone->output, backbone->output);
        if (truncated) truncated[i] = ctx->sequences.truncated[i];
    }
    return cbm_context_result(ctx, status);
}
