/*
 * models/core/model.c - loaded models
 */
#include "models/core/context.h"
#include "models/core/keys.h"

#include <stdio.h>
#include <string.h>

const char *cbm_last_error(void) {
    return scbm_last_error();
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
    if (!status) status = cbm_heads_read(&model->network.heads, model->file, model->network.backbone.output, &model->hooks);
    if (!status) status = cbm_pooling_read(&model->network, model->file);
    if (!status) status = cbm_masks_read(&model->network.backbone, model->file, model->network.heads.n_concepts);
    if (!status) status = find_statistics(model);
    return status;
}

/* The file's bytes in memory of the model's own. */
static scbm_status copy_file(cbm_model *model, const char *path) {
    scbm_bytes bytes;
    scbm_status status = scbm_bytes_open(&bytes, path, &model->hooks);
    if (status) return status;
    model->copy = scbm_alloc(&model->hooks, bytes.size);
    if (model->copy && bytes.size) memcpy(model->copy, bytes.data, bytes.size);
    status = model->copy ? scbm_file_open_memory(&model->file, model->copy, bytes.size, path, &model->hooks)
                         : SCBM_ERROR_MEMORY;
    scbm_bytes_close(&bytes, &model->hooks);
    return status;
}

static scbm_status open_file(cbm_model *model, const char *path, const void *data, size_t size, int copy) {
    if (path && copy) return copy_file(model, path);
    if (path) return scbm_file_open(&model->file, path, &model->hooks);
    return scbm_file_open_memory(&model->file, data, size, "model in memory", &model->hooks);
}

static scbm_status load(cbm_model **out, const char *path, const void *data, size_t size,
                        const cbm_load_options *options) {
    const cbm_load_options none = {.hooks = NULL};
    *out = NULL;
    if (!options) options = &none;
    scbm_status status = cbm_check_reserved(options->reserved, "cbm_load_options");
    if (status) return status;
    scbm_hooks hooks = options->hooks ? *options->hooks : (scbm_hooks){.user = NULL};
    hooks.in_use = NULL; /* contexts on several threads use these hooks, and the count has no atomics */
    cbm_model *model = scbm_alloc(&hooks, sizeof *model);
    if (!model) return SCBM_ERROR_MEMORY;
    model->hooks = hooks;
    model->unpacked = options->unpacked;
    status = open_file(model, path, data, size, options->copy);
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
    scbm_release(&model->hooks, model->copy);
    scbm_hooks hooks = model->hooks;
    scbm_release(&hooks, model);
}

const scbm_file *cbm_model_file(const cbm_model *model) {
    return model->file;
}

cbm_mode cbm_model_mode(const cbm_model *model) {
    return model->network.heads.mode;
}

int cbm_model_hidden_size(const cbm_model *model) {
    return (int)model->network.backbone.output;
}

cbm_pooling cbm_model_pooling(const cbm_model *model) {
    return model->network.pooling;
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
