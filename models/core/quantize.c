/*
 * models/core/quantize.c - the same model in fewer bits
 */
#include "models/core/context.h"

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

/* Matrices that are quantized already, and not as `type`: how many, and one of their types. */
static int count_quantized(const cbm_model *model, scbm_type type, scbm_type *found) {
    const cbm_backbone *backbone = &model->network.backbone;
    int n = 0;
    for (int i = 0; i < backbone->n_parameters; i++) {
        const scbm_tensor *tensor = backbone->parameters[i].tensor;
        if (!tensor || tensor->type == type || scbm_type_of(tensor->type)->block == 1) continue;
        *found = tensor->type;
        n++;
    }
    return n;
}

static scbm_status check_source(const cbm_model *model, scbm_type type, int requantize) {
    scbm_type found = SCBM_F32;
    int n = count_quantized(model, type, &found);
    if (!n || requantize) return SCBM_OK;
    return scbm_fail(
        SCBM_ERROR_ARGUMENT,
        "%s: %d of its matrices are %s already, and what that took away does not come back: quantize the file "
        "that it was made of, or ask for requantizing",
        scbm_file_path(model->file), n, scbm_type_of(found)->name);
}

scbm_status cbm_quantize(const char *from, const char *to, scbm_type type, const cbm_quantize_options *options,
                         int *kept_f16) {
    static const cbm_quantize_options defaults;
    if (!options) options = &defaults;
    const scbm_hooks *hooks = options->hooks;
    const cbm_load_options load = {.hooks = hooks};
    cbm_model *model = NULL;
    scbm_writer *writer = NULL;
    int kept = 0;
    if (!scbm_type_of(type) || !scbm_type_of(type)->is_float)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a model cannot be quantized to this type: f32, f16, bf16, q8_0 or q4_0");
    scbm_status status = cbm_check_reserved(options->reserved, "cbm_quantize_options");
    if (!status) status = cbm_model_load(&model, from, &load);
    if (!status) status = check_source(model, type, options->requantize);
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
