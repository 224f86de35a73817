/*
 * models/core/context.c - contexts: what one thread needs to run a model
 */
#include "models/core/context.h"

#include <stdio.h>

/* Tokens of a batch: few, so that its activations stay in the caches (with subnetworks they are K times as many), and
 * more for wide models, whose weights are read anew for every batch. Measured with MiniLM and BERT-base. */
static int64_t default_batch_tokens(const cbm_model *model) {
    const int wide = cbm_model_hidden_size(model) > 512;
    return cbm_masks_streams(&model->network.backbone) > 0 && !wide ? 512 : 1024;
}

/* Tokens that a context reads in short texts, or in larger batches, before the model's masks are packed for such ones. */
#define PACKING_PAYS 256

/* ------------------------------------------------------------------------------------------
 * Errors and parts
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_context_result(cbm_context *ctx, scbm_status status) {
    if (status) snprintf(ctx->error, sizeof ctx->error, "%s", scbm_last_error());
    ctx->error_text = status && ctx->sequences.n_asked > 1 ? ctx->sequences.failed : -1;
    ctx->sequences.failed = -1;
    return status;
}

const char *cbm_context_error(const cbm_context *ctx) {
    return ctx ? ctx->error : scbm_last_error();
}

int64_t cbm_context_error_text(const cbm_context *ctx) {
    return ctx->error_text;
}

void *cbm_context_find_part(const cbm_context *ctx, cbm_free_part free_part) {
    for (int i = 0; i < CBM_CONTEXT_PARTS; i++)
        if (ctx->part[i].free == free_part) return ctx->part[i].state;
    return NULL;
}

scbm_status cbm_context_set_part(cbm_context *ctx, cbm_free_part free_part, void *state) {
    for (int i = 0; i < CBM_CONTEXT_PARTS; i++) {
        if (ctx->part[i].free && ctx->part[i].free != free_part) continue;
        ctx->part[i] = (cbm_context_part){state, free_part};
        return SCBM_OK;
    }
    return scbm_fail(SCBM_ERROR_MEMORY, "a context has room for %d parts", CBM_CONTEXT_PARTS);
}

/* ------------------------------------------------------------------------------------------
 * Making and freeing
 * ---------------------------------------------------------------------------------------- */

static scbm_status check_context_options(const cbm_model *model, const cbm_context_options *options) {
    if (options->max_batch_tokens < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "max_batch_tokens is %d", options->max_batch_tokens);
    if (options->max_tokens < 0 || options->max_tokens > cbm_model_max_tokens(model))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "max_tokens is %d; the model reads at most %d", options->max_tokens,
                         cbm_model_max_tokens(model));
    return cbm_check_reserved(options->reserved, "cbm_context_options");
}

scbm_status cbm_check_reserved(const uint64_t reserved[8], const char *what) {
    for (int i = 0; i < 8; i++)
        if (reserved[i])
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: the reserved fields must be zero; this library is version %s",
                             what, SCBM_VERSION_TEXT);
    return SCBM_OK;
}

/* A precision that the device has, and that changes something for this model. */
static scbm_status check_precision(const scbm_context *runtime, const cbm_model *model, scbm_precision precision) {
    const cbm_backbone *backbone = &model->network.backbone;
    scbm_status status = cbm_masks_streams(backbone) > 0 ? scbm_context_check_masked_precision(runtime, precision)
                                                         : scbm_context_check_precision(runtime, precision);
    if (status || precision != SCBM_PRECISION_INT8) return status;
    for (int j = 0; j < backbone->n_parameters; j++) {
        const cbm_parameter *p = &backbone->parameters[j];
        if (cbm_is_prunable(p) && (p->tensor->type == SCBM_Q8_0 || p->tensor->type == SCBM_Q4_0)) return SCBM_OK;
    }
    return scbm_fail(
        SCBM_ERROR_UNSUPPORTED,
        "int8 computes with weights of q8_0 or q4_0, and this model's layers have none: quantize it first");
}

scbm_status cbm_context_create(cbm_context **out, const cbm_model *model, const cbm_context_options *options) {
    const cbm_context_options none = {.precision = SCBM_PRECISION_F32};
    if (!options) options = &none;
    *out = NULL;
    if (!model) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_context_create: the model is NULL");
    scbm_status status = check_context_options(model, options);
    if (status) return status;
    scbm_hooks hooks = options->hooks ? *options->hooks : model->hooks;
    hooks.in_use = NULL; /* what the context holds is counted by itself */
    cbm_context *ctx = scbm_alloc(&hooks, sizeof *ctx);
    if (!ctx) return SCBM_ERROR_MEMORY;
    ctx->model = model;
    ctx->hooks = hooks;
    ctx->hooks.in_use = &ctx->memory;
    ctx->quiet = ctx->hooks;
    ctx->quiet.progress = NULL;
    ctx->sequences.failed = ctx->error_text = -1;
    ctx->max_tokens = options->max_tokens ? options->max_tokens : cbm_model_max_tokens(model);
    status = scbm_context_create(&ctx->runtime, &ctx->quiet, options->backend);
    if (!status) status = check_precision(ctx->runtime, model, options->precision);
    if (status) {
        scbm_context_free(ctx->runtime);
        scbm_release(&hooks, ctx);
        return status;
    }
    cbm_runner_init(&ctx->runner, &model->network, ctx->runtime, options->precision,
                    options->max_batch_tokens ? options->max_batch_tokens : default_batch_tokens(model));
    ctx->runner.packs_from = options->precision == SCBM_PRECISION_F32 && !model->unpacked ? PACKING_PAYS : 0;
    ctx->runner.packs_with = &model->hooks;
    ctx->runner.file = model->file;
    ctx->backward_tokens = options->max_batch_tokens ? options->max_batch_tokens / 4 : 1024;
    *out = ctx;
    return SCBM_OK;
}

void cbm_context_free(cbm_context *ctx) {
    if (!ctx) return;
    for (int i = 0; i < CBM_CONTEXT_PARTS; i++)
        if (ctx->part[i].state) ctx->part[i].free(ctx, ctx->part[i].state);
    cbm_runner_clear(&ctx->runner);
    scbm_context_free(ctx->runtime);
    cbm_sequences_clear(&ctx->sequences, &ctx->hooks);
    void *const memory[] = {ctx->logits, ctx->numbers, ctx->concepts, ctx->predictions, (void *)ctx->listed};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(&ctx->hooks, memory[i]);
    scbm_hooks hooks = ctx->hooks;
    hooks.in_use = NULL;
    scbm_release(&hooks, ctx);
}

size_t cbm_context_memory(const cbm_context *ctx) {
    return sizeof *ctx + ctx->memory;
}
