/*
 * models/train/teacher.c - distillation: what a trained model says of the training texts, as targets beside the gold classes
 */
#include "models/core/context.h"
#include "models/core/masks.h"
#include "models/base/hash.h"
#include "models/train/check.h"
#include "models/train/teacher.h"

#include <math.h>
#include <string.h>

void cbm_teacher_clear(cbm_teacher *teacher, const scbm_hooks *hooks) {
    scbm_release(hooks, teacher->concepts);
    scbm_release(hooks, teacher->labels);
    memset(teacher, 0, sizeof *teacher);
}

/* The student reads the same classes, in the same order; of a vanilla one that goes for the label. */
static scbm_status check_heads(const cbm_heads *teacher, const cbm_heads *student, const cbm_dataset *data,
                               const char *path) {
    if (teacher->mode == CBM_ENCODER)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: an encoder without heads is no teacher", path);
    if (student->mode != CBM_VANILLA && teacher->mode == CBM_VANILLA)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: a model in vanilla mode has no concepts to teach", path);
    return cbm_check_heads(teacher, student, data, path);
}

/* softmax(logits / τ) */
static void soften(const float *logits, int n, float temperature, float *probabilities) {
    for (int c = 0; c < n; c++) probabilities[c] = logits[c] / temperature;
    cbm_softmax(probabilities, n, probabilities);
}

/* The targets of one text, from what the teacher's network computed. */
static void fill_row(cbm_teacher *t, const cbm_heads *heads, size_t row, const float *computed, float *values) {
    float *labels = t->labels + row * (size_t)heads->n_labels;
    if (heads->mode == CBM_VANILLA) {
        soften(computed, heads->n_labels, t->temperature, labels);
        return;
    }
    cbm_concept_values(heads, computed, values);
    cbm_label_logits(heads, values, labels);
    soften(labels, heads->n_labels, t->temperature, labels);
    for (int k = 0; k < heads->n_concepts; k++) {
        int first = heads->groups[k];
        soften(computed + first, heads->groups[k + 1] - first, t->temperature,
               t->concepts + row * (size_t)heads->n_classes + first);
    }
}

static scbm_status ask(cbm_teacher *t, const cbm_model *model, const cbm_dataset *data, const scbm_hooks *hooks) {
    const cbm_heads *heads = &model->network.heads;
    size_t n_classes = (size_t)heads->n_classes, n_logits = (size_t)cbm_n_logits(heads);
    cbm_context *ctx = NULL;
    float *values = scbm_alloc_array(hooks, n_classes + 1, sizeof *values);
    t->labels = scbm_alloc_array(hooks, data->n * (size_t)heads->n_labels, sizeof *t->labels);
    t->concepts = scbm_alloc_array(hooks, data->n * n_classes + 1, sizeof *t->concepts);
    scbm_status status = values && t->labels && t->concepts ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) status = cbm_context_create(&ctx, model, NULL);
    if (!status)
        status = cbm_compute_logits(ctx, (const char *const *)data->text, data->text_length, data->n, "teacher");
    for (size_t i = 0; i < data->n && !status; i++) fill_row(t, heads, i, ctx->logits + i * n_logits, values);
    if (!status)
        t->source = cbm_hash(cbm_hash(CBM_HASH_START, t->labels, data->n * (size_t)heads->n_labels * sizeof(float)),
                             t->concepts, data->n * n_classes * sizeof(float));
    cbm_context_free(ctx);
    scbm_release(hooks, values);
    return status;
}

scbm_status cbm_teacher_create(cbm_teacher *teacher, const char *path, const cbm_heads *student,
                               const cbm_dataset *data, float weight, float temperature, const scbm_hooks *hooks) {
    const cbm_load_options load = {.hooks = hooks};
    cbm_model *model;
    memset(teacher, 0, sizeof *teacher);
    teacher->weight = weight;
    teacher->temperature = temperature;
    scbm_status status = cbm_model_load(&model, path, &load);
    if (status) return status;
    status = check_heads(&model->network.heads, student, data, path);
    if (!status) status = ask(teacher, model, data, hooks);
    cbm_model_free(model);
    if (status) cbm_teacher_clear(teacher, hooks);
    return status;
}

/* What the masks take where they are packed. */
static scbm_status measure_packed(const cbm_model *model, size_t *bytes) {
    cbm_backbone *backbone = (cbm_backbone *)&model->network.backbone;
    scbm_status status = SCBM_OK;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p)) && p->masks && !status;) {
        size_t more;
        status = scbm_masks_packed_bytes(p->tensor, p->masks, 0, &more);
        if (!status) *bytes += more;
    }
    return status;
}

scbm_status cbm_teacher_measure(const char *path, const cbm_heads *student, const cbm_dataset *data,
                                const cbm_sequences *sequences, const scbm_hooks *hooks, size_t *bytes) {
    const cbm_load_options load = {.hooks = hooks};
    cbm_model *model;
    cbm_context *ctx = NULL;
    uint32_t buckets = 0;
    *bytes = 0;
    scbm_status status = cbm_model_load(&model, path, &load);
    if (status) return status;
    const cbm_heads *heads = &model->network.heads;
    status = check_heads(heads, student, data, path);
    if (!status) status = cbm_context_create(&ctx, model, NULL);
    if (!status) status = cbm_runner_measure(&ctx->runner, CBM_FORWARD_LOGITS, sequences, &buckets, bytes);
    if (!status) status = measure_packed(model, bytes);
    *bytes += scbm_file_size(model->file) + data->n * (size_t)(cbm_n_logits(heads)) * sizeof(float);
    cbm_context_free(ctx);
    cbm_model_free(model);
    return status;
}
