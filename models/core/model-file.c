/*
 * models/core/model-file.c - writing whole models. The file holds no times and no paths: the same run writes the same bytes
 */
#include "models/base/text.h"
#include "models/core/keys.h"
#include "models/core/model-file.h"

#include <stdio.h>
#include <string.h>

/* The encoder's keys, without those of a bottleneck that it may have had. */
static void copy_encoder_keys(scbm_writer *writer, const scbm_file *file) {
    static const char *const ours[] = {"sparsecbm.concept", "sparsecbm.label", "sparsecbm.columns.", CBM_KEY_TRAIN};
    scbm_writer_copy_keys(writer, file);
    for (int64_t i = 0; i < scbm_file_n_keys(file); i++)
        for (size_t j = 0; j < sizeof ours / sizeof ours[0]; j++)
            if (cbm_starts_with(scbm_file_key(file, i), ours[j])) scbm_writer_remove_key(writer, scbm_file_key(file, i));
}

static scbm_status set_our_keys(scbm_writer *writer, const cbm_network *network, const scbm_hooks *hooks) {
    const cbm_heads *heads = &network->heads;
    scbm_writer_set_int(writer, "general.file_type", SCBM_VALUE_U32, 0);
    scbm_writer_set_int(writer, "sparsecbm.max_tokens", SCBM_VALUE_U32, network->backbone.max_tokens);
    scbm_writer_remove_key(writer, CBM_KEY_FORMAT_1);
    scbm_writer_set_int(writer, CBM_KEY_FORMAT, SCBM_VALUE_U32, CBM_FILE_FORMAT);
    scbm_writer_set_string(writer, CBM_KEY_MODE, cbm_mode_name(heads->mode));
    scbm_writer_set_string(writer, CBM_KEY_POOLING, cbm_pooling_name(network->pooling));
    scbm_writer_set_strings(writer, CBM_KEY_LABELS, heads->label_name, heads->n_labels);
    if (heads->mode == CBM_VANILLA) return SCBM_OK;
    int64_t *groups = scbm_alloc_array(hooks, (size_t)heads->n_concepts + 1, sizeof *groups);
    if (!groups) return SCBM_ERROR_MEMORY;
    for (int k = 0; k <= heads->n_concepts; k++) groups[k] = heads->groups[k];
    scbm_writer_set_strings(writer, CBM_KEY_CONCEPTS, heads->concept_name, heads->n_concepts);
    scbm_writer_set_ints(writer, CBM_KEY_GROUPS, SCBM_VALUE_I32, groups, heads->n_concepts + 1);
    scbm_writer_set_strings(writer, CBM_KEY_CLASSES, heads->class_name, heads->n_classes);
    scbm_release(hooks, groups);
    return SCBM_OK;
}

void cbm_set_fact(scbm_writer *writer, const char *prefix, const cbm_fact *fact) {
    char key[128];
    snprintf(key, sizeof key, "%s%s", prefix, fact->key);
    if (fact->kind == CBM_FACT_INT) scbm_writer_set_int(writer, key, SCBM_VALUE_I64, fact->integer);
    else if (fact->kind == CBM_FACT_REAL) scbm_writer_set_float(writer, key, SCBM_VALUE_F32, fact->real);
    else scbm_writer_set_string(writer, key, fact->text);
}

/* The encoder's tensors in their order, those of the backbone as they are now. */
static void add_encoder_tensors(scbm_writer *writer, const cbm_model *encoder, const cbm_backbone *backbone) {
    for (int64_t i = 0; i < scbm_file_n_tensors(encoder->file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(encoder->file, i);
        const cbm_parameter *parameter = cbm_backbone_named(backbone, tensor->name);
        if (parameter) scbm_writer_add_tensor(writer, parameter->tensor, SCBM_F32);
        else if (!cbm_starts_with(tensor->name, "sparsecbm.") && !cbm_is_masks_name(tensor->name)) scbm_writer_add_tensor(writer, tensor, tensor->type);
    }
}

static void add_masks(scbm_writer *writer, const cbm_backbone *backbone) {
    for (int i = 0; i < backbone->n_parameters; i++)
        if (backbone->parameters[i].masks) scbm_writer_add_tensor(writer, backbone->parameters[i].masks, SCBM_I8);
}

static void add_head_tensors(scbm_writer *writer, const cbm_heads *heads, const cbm_statistics *statistics) {
    if (heads->concept_weight) {
        scbm_writer_add_tensor(writer, heads->concept_weight, SCBM_F32);
        scbm_writer_add_tensor(writer, heads->concept_bias, SCBM_F32);
    }
    scbm_writer_add_tensor(writer, heads->label_weight, SCBM_F32);
    scbm_writer_add_tensor(writer, heads->label_bias, SCBM_F32);
    if (!statistics) return;
    scbm_writer_add_tensor(writer, &statistics->mean, SCBM_F32);
    scbm_writer_add_tensor(writer, &statistics->gold_means, SCBM_F32);
    scbm_writer_add_tensor(writer, &statistics->gold_counts, SCBM_I32);
}

scbm_status cbm_write_model(const char *path, const cbm_model *encoder, const cbm_network *network,
                            const cbm_statistics *statistics, const cbm_fact *facts, int n_facts,
                            void (*note)(const void *user, scbm_writer *writer), const void *user,
                            const scbm_hooks *hooks) {
    scbm_writer *writer = NULL;
    scbm_hooks whole = hooks ? *hooks : (scbm_hooks){0};
    whole.cancel = NULL; /* what has begun is finished: an epoch's work stands in it */
    scbm_status status = scbm_writer_create(&writer, &whole);
    if (status) return status;
    copy_encoder_keys(writer, encoder->file);
    status = set_our_keys(writer, network, hooks);
    for (int i = 0; i < n_facts; i++) cbm_set_fact(writer, CBM_KEY_TRAIN, &facts[i]);
    if (note) note(user, writer);
    add_encoder_tensors(writer, encoder, &network->backbone);
    add_masks(writer, &network->backbone);
    add_head_tensors(writer, &network->heads, statistics);
    if (!status) status = scbm_writer_write(writer, path);
    scbm_writer_free(writer);
    return status;
}
