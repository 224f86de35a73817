/*
 * models/train/start.c - what a training run starts from: an encoder with new heads, or a trained model
 */
#include "models/base/tensor.h"
#include "models/base/hash.h"
#include "models/core/keys.h"
#include "models/data/classes.h"
#include "models/train/check.h"
#include "models/train/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static scbm_status create_heads(cbm_training_run *run, const char *const *concept_names) {
    const cbm_dataset *data = run->train;
    cbm_heads *heads = &run->network.heads;
    int n_concepts = run->options->mode == CBM_VANILLA ? 0 : data->n_concepts;
    size_t n_classes = 0;
    for (int k = 0; k < n_concepts; k++) n_classes += data->concept_classes[k].n;
    if (n_classes > 1000000 || data->label_classes.n > 1000000)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the training data have more than a million classes");
    scbm_status status = cbm_heads_create(heads, run->options->mode, n_concepts, (int)n_classes,
                                          (int)data->label_classes.n, &run->hooks);
    if (status) return status;
    for (int k = 0; k < n_concepts; k++) {
        const cbm_classes *classes = &data->concept_classes[k];
        heads->concept_name[k] = concept_names[k];
        heads->groups[k + 1] = heads->groups[k] + (int32_t)classes->n;
        for (size_t c = 0; c < classes->n; c++) heads->class_name[(size_t)heads->groups[k] + c] = classes->name[c];
    }
    for (int y = 0; y < heads->n_labels; y++) heads->label_name[y] = data->label_classes.name[y];
    return cbm_heads_finish(heads);
}

/* PyTorch's start for linear layers: uniform within 1/√inputs. */
static scbm_status create_head_tensor(cbm_training_run *run, int which, const char *name, int64_t rows, int64_t columns,
                                      int64_t inputs, scbm_tensor **made) {
    const int64_t shape[2] = {rows, columns};
    scbm_tensor *tensor = &run->head_tensors[which];
    scbm_status status = cbm_tensor_create(tensor, name, SCBM_F32, columns ? 2 : 1, shape, &run->hooks);
    if (status) return status;
    int64_t n = scbm_tensor_elements(tensor);
    float *data = tensor->data;
    scbm_random random = {(uint64_t)run->options->seed, RANDOM_STREAM(RANDOM_HEADS, which), 0};
    double bound = 1.0 / sqrt((double)inputs);
    for (int64_t i = 0; i < n; i++) data[i] = (float)(bound * (2.0 * scbm_random_uniform(&random) - 1.0));
    *made = tensor;
    return SCBM_OK;
}

static scbm_status create_head_tensors(cbm_training_run *run) {
    cbm_heads *heads = &run->network.heads;
    int64_t d = run->network.backbone.output, n = heads->n_classes, inputs = cbm_run_has_concepts(run) ? n : d;
    scbm_status status = SCBM_OK;
    if (cbm_run_has_concepts(run)) {
        status = create_head_tensor(run, CONCEPT_WEIGHT, CBM_CONCEPT_WEIGHT, n, d, d, &heads->concept_weight);
        if (!status) status = create_head_tensor(run, CONCEPT_BIAS, CBM_CONCEPT_BIAS, n, 0, d, &heads->concept_bias);
    }
    if (!status)
        status = create_head_tensor(run, LABEL_WEIGHT, CBM_LABEL_WEIGHT, heads->n_labels, inputs, inputs,
                                    &heads->label_weight);
    if (!status)
        status = create_head_tensor(run, LABEL_BIAS, CBM_LABEL_BIAS, heads->n_labels, 0, inputs, &heads->label_bias);
    return status;
}

static int same_shape(const scbm_tensor *a, const scbm_tensor *b) {
    return a->n_dims == b->n_dims && memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof a->shape[0]) == 0;
}

/* Copies a tensor of the model to start from. */
static scbm_status start_tensor(scbm_tensor *into, const scbm_tensor *from, const char *path) {
    char shape[96], wanted[96];
    if (!into && !from) return SCBM_OK;
    if (!into || !from)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: tensor %s is not in both this model and the encoder", path,
                         (into ? into : from)->name);
    if (!same_shape(into, from))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: tensor %s is %s, and %s is needed", path, from->name,
                         scbm_shape_text(from, shape, sizeof shape), scbm_shape_text(into, wanted, sizeof wanted));
    return scbm_convert(SCBM_F32, into->data, from->type, from->data, scbm_tensor_elements(from));
}

static scbm_status start_backbone(cbm_backbone *into, const cbm_backbone *from, const char *path) {
    scbm_status status = SCBM_OK;
    if (into->architecture != from->architecture || into->n_parameters != from->n_parameters)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: this model's encoder has another architecture or depth", path);
    for (int i = 0; i < into->n_parameters && !status; i++)
        status = start_tensor(into->parameters[i].tensor, from->parameters[i].tensor, path);
    return status;
}

static scbm_status start_heads(cbm_training_run *run, const cbm_heads *from, const char *path) {
    cbm_heads *into = &run->network.heads;
    if ((from->mode == CBM_VANILLA) != (into->mode == CBM_VANILLA))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: a model in %s mode is no start for one in %s mode", path,
                         cbm_mode_name(from->mode), cbm_mode_name(into->mode));
    scbm_status status = cbm_check_heads(from, into, run->train, path);
    if (!status) status = start_tensor(into->concept_weight, from->concept_weight, path);
    if (!status) status = start_tensor(into->concept_bias, from->concept_bias, path);
    if (!status) status = start_tensor(into->label_weight, from->label_weight, path);
    if (!status) status = start_tensor(into->label_bias, from->label_bias, path);
    return status;
}

/* Training starts from one dense encoder, whatever subnetworks the model that it comes from has. */
static void say_masks_stay(const cbm_training_run *run, const cbm_model *model, const char *path) {
    if (!cbm_model_is_sparse(model)) return;
    scbm_log(&run->hooks, SCBM_LOG_INFO,
             "%s has subnetworks: training starts from its dense weights, without the masks", path);
}

/* What a quantized file rounded away is not there to be trained on. */
static void say_weights_are_rounded(const cbm_training_run *run, const cbm_model *model, const char *path) {
    const cbm_backbone *backbone = &model->network.backbone;
    const char *type = NULL;
    int n = 0;
    for (int i = 0; i < backbone->n_parameters; i++) {
        const scbm_tensor *tensor = backbone->parameters[i].tensor;
        if (!tensor || scbm_type_of(tensor->type)->block == 1) continue;
        type = scbm_type_of(tensor->type)->name;
        n++;
    }
    if (n)
        scbm_log(
            &run->hooks, SCBM_LOG_WARNING,
            "%s: %d of its matrices are %s: training starts from rounded weights, and is better off with the same encoder "
            "in f32, f16 or bf16",
            path, n, type);
}

/* Takes the weights of options->init. */
static scbm_status start_from_model(cbm_training_run *run) {
    const char *path = run->options->init;
    const cbm_load_options load = {.hooks = &run->hooks};
    cbm_model *model;
    scbm_status status = cbm_model_load(&model, path, &load);
    if (status) return status;
    if (model->network.heads.mode == CBM_ENCODER)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s is an encoder without heads to start from", path);
    else if (model->network.pooling != run->network.pooling)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its heads read the %s of a text's tokens, and this run's the %s",
                           path, cbm_pooling_name(model->network.pooling), cbm_pooling_name(run->network.pooling));
    if (!status) say_masks_stay(run, model, path);
    if (!status) say_weights_are_rounded(run, model, path);
    if (!status) status = start_backbone(&run->network.backbone, &model->network.backbone, path);
    if (!status) status = start_heads(run, &model->network.heads, path);
    cbm_model_free(model);
    return status;
}

/* Lists the parameters, and takes the hash of what they start from. */
static scbm_status list_parameters(cbm_training_run *run) {
    const cbm_backbone *backbone = &run->network.backbone;
    uint64_t hash = CBM_HASH_START;
    run->parameters = scbm_alloc_array(&run->hooks, (size_t)backbone->n_parameters + N_HEAD_TENSORS,
                                       sizeof *run->parameters);
    if (!run->parameters) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < backbone->n_parameters; i++)
        if (backbone->parameters[i].tensor) run->parameters[run->n_parameters++] = backbone->parameters[i].tensor;
    for (int i = 0; i < N_HEAD_TENSORS; i++)
        if (run->head_tensors[i].data) run->parameters[run->n_parameters++] = &run->head_tensors[i];
    for (int i = 0; i < run->n_parameters; i++)
        hash = cbm_hash(hash, run->parameters[i]->data, scbm_tensor_bytes(run->parameters[i]));
    snprintf(run->start_hash, sizeof run->start_hash, "%016llx", (unsigned long long)hash);
    return SCBM_OK;
}

scbm_status cbm_run_create_network(cbm_training_run *run, const char *const *concept_names) {
    const cbm_train_options *o = run->options;
    scbm_status status = cbm_backbone_copy(&run->network.backbone, &run->encoder->network.backbone, &run->hooks);
    if (status) return status;
    run->network.backbone.max_tokens = o->max_length;
    run->network.pooling = o->pooling;
    status = cbm_pooling_check(&run->network.backbone, o->pooling);
    if (!status) status = create_heads(run, concept_names);
    const cbm_names names = cbm_heads_names(&run->network.heads);
    if (!status) status = cbm_dataset_check_names(run->valid, &names, "the validation data");
    if (!status) status = create_head_tensors(run);
    if (!status && o->init) status = start_from_model(run);
    else if (!status) {
        say_masks_stay(run, run->encoder, scbm_file_path(run->encoder->file));
        say_weights_are_rounded(run, run->encoder, scbm_file_path(run->encoder->file));
    }
    if (!status) status = list_parameters(run);
    return status;
}
