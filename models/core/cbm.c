/*
 * models/core/cbm.c - loaded models, contexts, prediction, evaluation, quantization
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/core/cbm-internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------------------------------
 * Models
 * ---------------------------------------------------------------------------------------- */

const char *cbm_last_error(void) {
    return scbm_last_error();
}

const char *cbm_mode_name(cbm_mode mode) {
    static const char *const names[] = {"encoder", "vanilla", "independent", "sequential", "joint"};
    return (unsigned)mode < sizeof names / sizeof names[0] ? names[mode] : "unknown";
}

static scbm_status find_statistics(cbm_model *model) {
    const cbm_heads *heads = &model->network.heads;
    if (heads->mode == CBM_ENCODER || heads->mode == CBM_VANILLA) return SCBM_OK;
    scbm_file *file = model->file;
    int64_t n = heads->n_classes, most = heads->max_classes;
    scbm_status status = cbm_find_tensor(file, CBM_CONCEPT_MEAN, SCBM_F32, n, 0, &model->concept_mean);
    if (!status) status = cbm_find_tensor(file, CBM_GOLD_MEANS, SCBM_F32, n, most, &model->gold_means);
    if (!status) status = cbm_find_tensor(file, CBM_GOLD_COUNTS, SCBM_I32, n, 0, &model->gold_counts);
    return status;
}

static scbm_status read_model(cbm_model *model) {
    scbm_status status = cbm_backbone_read(&model->network.backbone, model->file, &model->hooks);
    if (!status) status = cbm_tokenizer_create(&model->tokenizer, model->file, &model->hooks);
    if (!status && cbm_tokenizer_size(model->tokenizer) > model->network.backbone.vocabulary)
        status = scbm_fail(SCBM_ERROR_FORMAT, "%s: the vocabulary has %d pieces, and token_embd.weight %lld rows",
                           scbm_file_path(model->file), (int)cbm_tokenizer_size(model->tokenizer),
                           (long long)model->network.backbone.vocabulary);
    if (!status) status = cbm_heads_read(&model->network.heads, model->file, model->network.backbone.hidden, &model->hooks);
    if (!status) status = cbm_masks_read(&model->network.backbone, model->file, model->network.heads.n_concepts);
    if (!status) status = find_statistics(model);
    return status;
}

static scbm_status load(cbm_model **out, const char *path, const void *data, size_t size,
                        const cbm_load_options *options) {
    const scbm_hooks *hooks = options ? options->hooks : NULL;
    *out = NULL;
    cbm_model *model = scbm_alloc(hooks, sizeof *model);
    if (!model) return SCBM_ERROR_MEMORY;
    if (hooks) model->hooks = *hooks;
    model->unpacked = options && options->unpacked;
    model->quiet = model->hooks;
    model->quiet.progress = NULL;
    scbm_status status = path ? scbm_file_open(&model->file, path, &model->hooks)
                              : scbm_file_open_memory(&model->file, data, size, "model in memory", &model->hooks);
    if (!status) status = read_model(model);
    if (status) cbm_model_free(model);
    else *out = model;
    return status;
}

scbm_status cbm_model_load(cbm_model **model, const char *path, const cbm_load_options *options) {
    *model = NULL;
    if (!path) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_model_load: the path is NULL");
    return load(model, path, NULL, 0, options);
}

scbm_status cbm_model_load_memory(cbm_model **model, const void *data, size_t size, const cbm_load_options *options) {
    *model = NULL;
    if (!data) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_model_load_memory: the data are NULL");
    return load(model, NULL, data, size, options);
}

void cbm_model_free(cbm_model *model) {
    if (!model) return;
    cbm_heads_clear(&model->network.heads, &model->hooks);
    cbm_masks_unpack(&model->network.backbone, &model->hooks);
    cbm_backbone_clear(&model->network.backbone, &model->hooks);
    cbm_tokenizer_free(model->tokenizer);
    scbm_file_close(model->file);
    scbm_hooks hooks = model->hooks;
    scbm_release(&hooks, model);
}

cbm_mode cbm_model_mode(const cbm_model *model) {
    return model->network.heads.mode;
}

int cbm_model_hidden_size(const cbm_model *model) {
    return (int)model->network.backbone.hidden;
}

int cbm_model_max_tokens(const cbm_model *model) {
    return model->network.backbone.max_tokens;
}

int cbm_model_n_concepts(const cbm_model *model) {
    return model->network.heads.n_concepts;
}

int cbm_model_n_labels(const cbm_model *model) {
    return model->network.heads.n_labels;
}

int cbm_model_is_sparse(const cbm_model *model) {
    return cbm_masks_streams(&model->network.backbone) > 0;
}

double cbm_model_density(const cbm_model *model, int k, int block) {
    return k >= 0 && k < cbm_model_n_concepts(model) ? cbm_masks_density(&model->network.backbone, k, block) : 0.0;
}

double cbm_model_overlap(const cbm_model *model, int a, int b, int block) {
    int n = cbm_model_n_concepts(model);
    if (a < 0 || b < 0 || a >= n || b >= n) return 0.0;
    return cbm_masks_overlap(&model->network.backbone, a, b, block);
}

int cbm_model_n_blocks(const cbm_model *model) {
    return model->network.backbone.n_blocks;
}

const char *cbm_model_concept(const cbm_model *model, int k) {
    const cbm_heads *heads = &model->network.heads;
    return k >= 0 && k < heads->n_concepts ? heads->concept_name[k] : NULL;
}

int cbm_model_n_concept_classes(const cbm_model *model, int k) {
    const cbm_heads *heads = &model->network.heads;
    return k >= 0 && k < heads->n_concepts ? heads->groups[k + 1] - heads->groups[k] : 0;
}

const char *cbm_model_concept_class(const cbm_model *model, int k, int c) {
    const cbm_heads *heads = &model->network.heads;
    return c >= 0 && c < cbm_model_n_concept_classes(model, k) ? heads->class_name[heads->groups[k] + c] : NULL;
}

static int find_name(const char *const *names, int n, const char *name) {
    for (int i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

/* Names in a row, for messages: as many as there is room for. */
static const char *list_names(const char *const *names, int n, char *text, size_t size) {
    static const char more[] = ", ...";
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < n; i++) {
        int fits = used + strlen(names[i]) + 2 + sizeof more <= size;
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", fits ? names[i] : more + 2);
        if (!fits) break;
    }
    return text;
}

scbm_status cbm_model_find_class(const cbm_model *model, const char *concept, const char *class_name, int *k, int *c) {
    const cbm_heads *heads = &model->network.heads;
    char names[200];
    *k = find_name(heads->concept_name, heads->n_concepts, concept);
    if (*k < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no concept '%s'; the model has %s", concept ? concept : "",
                         list_names(heads->concept_name, heads->n_concepts, names, sizeof names));
    int first = heads->groups[*k], n = heads->groups[*k + 1] - first;
    *c = find_name(heads->class_name + first, n, class_name);
    if (*c < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no class '%s'; it has %s", concept,
                         class_name ? class_name : "", list_names(heads->class_name + first, n, names, sizeof names));
    return SCBM_OK;
}

const char *cbm_model_label(const cbm_model *model, int y) {
    const cbm_heads *heads = &model->network.heads;
    return y >= 0 && y < heads->n_labels ? heads->label_name[y] : NULL;
}

/* ------------------------------------------------------------------------------------------
 * Contexts
 * ---------------------------------------------------------------------------------------- */

/* Tokens of a batch: few, so that its activations stay in the caches (with subnetworks they are K times as many), and
 * more for wide models, whose weights are read anew for every batch. Measured with MiniLM and BERT-base. */
static int64_t default_batch_tokens(const cbm_model *model) {
    const int wide = cbm_model_hidden_size(model) > 512;
    return cbm_masks_streams(&model->network.backbone) > 0 && !wide ? 512 : 1024;
}

/* Tokens that a context reads in short texts, or in larger batches, before the model's masks are packed for such ones. */
#define PACKING_PAYS 256

/* Keeps the message of a failure for cbm_context_error. */
scbm_status cbm_context_result(cbm_context *ctx, scbm_status status) {
    if (status) snprintf(ctx->error, sizeof ctx->error, "%s", scbm_last_error());
    return status;
}

const char *cbm_context_error(const cbm_context *ctx) {
    return ctx ? ctx->error : scbm_last_error();
}

static scbm_status check_context_options(const cbm_model *model, const cbm_context_options *options) {
    if (options->precision != SCBM_F32 && options->precision != SCBM_BF16)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the precision must be f32 or bf16");
    if (options->max_batch_tokens < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "max_batch_tokens is %d", options->max_batch_tokens);
    if (options->max_tokens < 0 || options->max_tokens > cbm_model_max_tokens(model))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "max_tokens is %d; the model reads at most %d", options->max_tokens,
                         cbm_model_max_tokens(model));
    return SCBM_OK;
}

scbm_status cbm_context_create(cbm_context **out, const cbm_model *model, const cbm_context_options *options) {
    const cbm_context_options none = {NULL, SCBM_F32, 0, 0};
    if (!options) options = &none;
    *out = NULL;
    if (!model) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_context_create: the model is NULL");
    scbm_status status = check_context_options(model, options);
    if (status) return status;
    cbm_context *ctx = scbm_alloc(&model->hooks, sizeof *ctx);
    if (!ctx) return SCBM_ERROR_MEMORY;
    ctx->model = model;
    ctx->max_tokens = options->max_tokens ? options->max_tokens : cbm_model_max_tokens(model);
    status = scbm_context_create(&ctx->runtime, &model->quiet, options->backend);
    if (status) {
        scbm_release(&model->hooks, ctx);
        return status;
    }
    cbm_runner_init(&ctx->runner, &model->network, ctx->runtime, options->precision,
                    options->max_batch_tokens ? options->max_batch_tokens : default_batch_tokens(model));
    ctx->runner.packs_from = options->precision == SCBM_F32 && !model->unpacked ? PACKING_PAYS : 0;
    ctx->backward_tokens = options->max_batch_tokens ? options->max_batch_tokens / 4 : 1024;
    *out = ctx;
    return SCBM_OK;
}

void cbm_context_free(cbm_context *ctx) {
    if (!ctx) return;
    const scbm_hooks *hooks = &ctx->model->hooks;
    cbm_overlay_free(ctx);
    cbm_explainer_free(ctx);
    cbm_runner_clear(&ctx->runner);
    scbm_context_free(ctx->runtime);
    cbm_sequences_clear(&ctx->sequences, hooks);
    scbm_release(hooks, ctx->logits);
    scbm_release(hooks, ctx->numbers);
    scbm_release(hooks, ctx->concepts);
    scbm_release(hooks, ctx);
}

/* ------------------------------------------------------------------------------------------
 * Prediction
 * ---------------------------------------------------------------------------------------- */

/* The numbers of one text: label logits and probabilities, the concepts' logits, probabilities and values u. */
size_t cbm_prediction_numbers(const cbm_heads *heads) {
    return 2 * (size_t)heads->n_labels + 3 * (size_t)heads->n_classes;
}

/* The centred form: contribution_k = G_k · (u_k − ū_k), bias = g + Σ_k G_k · ū_k, for the predicted label. */
static void explain_label(const cbm_model *model, cbm_prediction *p, cbm_concept_result *concepts, const float *values) {
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

static void fill_concepts(const cbm_heads *heads, const float *logits, float *probabilities, cbm_concept_result *results) {
    for (int k = 0; k < heads->n_concepts; k++) {
        int first = heads->groups[k], n = heads->groups[k + 1] - first;
        cbm_concept_result *result = &results[k];
        cbm_softmax(logits + first, n, probabilities + first);
        result->name = heads->concept_name[k];
        result->n_classes = n;
        result->logits = logits + first;
        result->probabilities = probabilities + first;
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
        fill_concepts(heads, concept_logits, concept_logits + n_classes, concepts);
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
    const scbm_hooks *hooks = &model->hooks;
    if (model->network.heads.mode == CBM_ENCODER)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is an encoder without labels: train a model on it first",
                         scbm_file_path(model->file));
    size_t width = (size_t)cbm_n_logits(&model->network.heads);
    ctx->n_runs++;
    ctx->n_computed = 0;
    cbm_sequences_reset(&ctx->sequences);
    scbm_status status =
        cbm_sequences_add_texts(&ctx->sequences, model->tokenizer, texts, lengths, n, ctx->max_tokens, hooks);
    if (!status)
        status = scbm_grow(hooks, (void **)&ctx->logits, &ctx->logits_capacity, n * width, sizeof *ctx->logits);
    if (!status)
        status = cbm_runner_run(&ctx->runner, CBM_FORWARD_LOGITS, &ctx->sequences, ctx->logits, hooks, progress);
    if (!status) ctx->n_computed = n;
    return status;
}

static scbm_status predict(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                           cbm_prediction *predictions) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->model->hooks;
    size_t width = (size_t)cbm_n_logits(heads), numbers = cbm_prediction_numbers(heads), n_concepts = (size_t)heads->n_concepts;
    scbm_status status = cbm_compute_logits(ctx, texts, lengths, n, "predict");
    if (!status)
        status = scbm_grow(hooks, (void **)&ctx->numbers, &ctx->numbers_capacity, n * numbers, sizeof *ctx->numbers);
    if (!status)
        status = scbm_grow(hooks, (void **)&ctx->concepts, &ctx->concepts_capacity, n * n_concepts, sizeof *ctx->concepts);
    if (status) return status;
    for (size_t i = 0; i < n; i++) {
        cbm_concept_result *concepts = n_concepts ? ctx->concepts + i * n_concepts : NULL;
        memset(&predictions[i], 0, sizeof predictions[i]);
        cbm_fill_prediction(ctx->model, ctx->logits + i * width, NULL, ctx->numbers + i * numbers, concepts, &predictions[i]);
        predictions[i].truncated = ctx->sequences.truncated[i];
        predictions[i].n_tokens = (int)cbm_sequence_length(&ctx->sequences, i);
    }
    return SCBM_OK;
}

scbm_status cbm_predict_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                              cbm_prediction *predictions) {
    return cbm_context_result(ctx, predict(ctx, texts, lengths, n, predictions));
}

scbm_status cbm_predict(cbm_context *ctx, const char *text, cbm_prediction *prediction) {
    return cbm_context_result(ctx, predict(ctx, &text, NULL, 1, prediction));
}

/* Scales a vector to length 1; one of zeros stays. The sum is in double and in order. */
static void normalize_vector(float *vector, int64_t n) {
    double square = 0.0;
    for (int64_t i = 0; i < n; i++) square += (double)vector[i] * (double)vector[i];
    double length = sqrt(square);
    for (int64_t i = 0; i < n && length > 0.0; i++) vector[i] = (float)((double)vector[i] / length);
}

scbm_status cbm_embed_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                            cbm_pooling pooling, int normalize, float *vectors, uint8_t *truncated) {
    const cbm_model *model = ctx->model;
    const cbm_backbone *backbone = &model->network.backbone;
    int first = pooling == CBM_POOL_FIRST || (pooling == CBM_POOL_DEFAULT && backbone->pooling == 2);
    ctx->n_runs++;
    ctx->n_computed = 0;
    cbm_sequences_reset(&ctx->sequences);
    scbm_status status =
        cbm_sequences_add_texts(&ctx->sequences, model->tokenizer, texts, lengths, n, ctx->max_tokens, &model->hooks);
    if (!status)
        status = cbm_runner_run(&ctx->runner, first ? CBM_FORWARD_FIRST : CBM_FORWARD_MEAN, &ctx->sequences, vectors,
                                &model->hooks, "embed");
    for (size_t i = 0; i < n && !status; i++) {
        if (normalize) normalize_vector(vectors + i * (size_t)backbone->hidden, backbone->hidden);
        if (truncated) truncated[i] = ctx->sequences.truncated[i];
    }
    return cbm_context_result(ctx, status);
}

/* ------------------------------------------------------------------------------------------
 * Evaluation
 * ---------------------------------------------------------------------------------------- */

/* `wanted` names and the data's must be the same. */
static scbm_status check_names(const char *what, const char *name, const char *const *wanted, int n,
                               const cbm_classes *classes) {
    if (classes->n != (size_t)n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: %s has %zu classes, and the model %d", what, name, classes->n, n);
    for (int i = 0; i < n; i++)
        if (strcmp(wanted[i], classes->name[i]) != 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: class %d of %s is '%s', and the model's '%s'", what, i, name,
                             classes->name[i], wanted[i]);
    return SCBM_OK;
}

scbm_status cbm_check_classes(const cbm_heads *heads, const cbm_dataset *data, const char *what) {
    scbm_status status = SCBM_OK;
    if (data->label_classes.n) status = check_names(what, "the label", heads->label_name, heads->n_labels, &data->label_classes);
    if (status || heads->mode == CBM_VANILLA) return status;
    if (data->n_concepts != heads->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there are %d concepts, and the model has %d", what, data->n_concepts,
                         heads->n_concepts);
    for (int k = 0; k < heads->n_concepts && !status; k++)
        status = check_names(what, heads->concept_name[k], heads->class_name + heads->groups[k],
                             heads->groups[k + 1] - heads->groups[k], &data->concept_classes[k]);
    return status;
}

scbm_status cbm_check_heads(const cbm_heads *from, const cbm_heads *into, const cbm_dataset *data, const char *path) {
    cbm_heads taken = *from;
    if (into->mode == CBM_VANILLA) taken.mode = CBM_VANILLA;
    scbm_status status = cbm_check_classes(&taken, data, path);
    for (int k = 0; k < into->n_concepts && !status; k++)
        if (strcmp(from->concept_name[k], into->concept_name[k]) != 0)
            status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its concept %d is '%s', and here it is '%s'", path, k + 1,
                               from->concept_name[k], into->concept_name[k]);
    return status;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void cbm_evaluation_clear(cbm_context *ctx, cbm_evaluation *evaluation) {
    scbm_release(&ctx->model->hooks, evaluation->label);
    scbm_release(&ctx->model->hooks, evaluation->concept_class);
    memset(evaluation, 0, sizeof *evaluation);
}

static scbm_status evaluate(cbm_context *ctx, const cbm_dataset *data, cbm_evaluation *e) {
    const cbm_heads *heads = &ctx->model->network.heads;
    double start = seconds_now();
    scbm_status status = cbm_check_classes(heads, data, "the data");
    if (!status)
        status = cbm_compute_logits(ctx, (const char *const *)data->text, data->text_length, data->n, "evaluate");
    if (status) return status;
    size_t n_concepts = (size_t)heads->n_concepts, width = (size_t)cbm_n_logits(heads);
    size_t numbers = cbm_prediction_numbers(heads);
    cbm_concept_result *concepts = scbm_alloc_array(&ctx->model->hooks, n_concepts, sizeof *concepts);
    float *place = scbm_alloc_array(&ctx->model->hooks, numbers, sizeof *place);
    e->label = scbm_alloc_array(&ctx->model->hooks, data->n, sizeof *e->label);
    e->concept_class = scbm_alloc_array(&ctx->model->hooks, data->n * n_concepts, sizeof *e->concept_class);
    int has_memory = concepts && place && e->label && e->concept_class;
    for (size_t i = 0; i < data->n && has_memory; i++) {
        cbm_prediction p;
        cbm_fill_prediction(ctx->model, ctx->logits + i * width, NULL, place, concepts, &p);
        e->label[i] = p.label_index;
        for (size_t k = 0; k < n_concepts; k++) e->concept_class[i * n_concepts + k] = concepts[k].class_index;
        e->n_truncated += ctx->sequences.truncated[i];
    }
    scbm_release(&ctx->model->hooks, concepts);
    scbm_release(&ctx->model->hooks, place);
    e->n = data->n;
    e->seconds = seconds_now() - start;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_evaluate(cbm_context *ctx, const cbm_dataset *data, cbm_evaluation *evaluation) {
    memset(evaluation, 0, sizeof *evaluation);
    scbm_status status = evaluate(ctx, data, evaluation);
    if (status) cbm_evaluation_clear(ctx, evaluation);
    return cbm_context_result(ctx, status);
}

/* ------------------------------------------------------------------------------------------
 * Quantization
 * ---------------------------------------------------------------------------------------- */

static void add_quantized(scbm_writer *writer, const cbm_model *model, scbm_type type, int *kept_f16) {
    int block = scbm_type_of(type)->block;
    for (int64_t i = 0; i < scbm_file_n_tensors(model->file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(model->file, i);
        const cbm_parameter *parameter = cbm_backbone_named(&model->network.backbone, tensor->name);
        int converts = parameter && (parameter->flags & CBM_QUANTIZED);
        int fits = tensor->shape[tensor->n_dims - 1] % block == 0;
        if (converts && !fits) ++*kept_f16;
        scbm_writer_add_tensor(writer, tensor, !converts ? tensor->type : fits ? type : SCBM_F16);
    }
    scbm_writer_set_file_type(writer, type);
}

scbm_status cbm_quantize(const char *from, const char *to, scbm_type type, int *kept_f16, const scbm_hooks *hooks) {
    const cbm_load_options options = {.hooks = hooks};
    cbm_model *model = NULL;
    scbm_writer *writer = NULL;
    int kept = 0;
    if (!scbm_type_of(type) || !scbm_type_of(type)->is_float)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a model cannot be quantized to this type: f32, f16, bf16, q8_0 or q4_0");
    scbm_status status = cbm_model_load(&model, from, &options);
    if (!status) status = scbm_writer_create(&writer, hooks);
    if (!status) {
        scbm_writer_copy_keys(writer, model->file);
        add_quantized(writer, model, type, &kept);
        status = scbm_writer_write(writer, to);
    }
    if (!status && kept_f16) *kept_f16 = kept;
    scbm_writer_free(writer);
    cbm_model_free(model);
    return status;
}
