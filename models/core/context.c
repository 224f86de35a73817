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

void *cbm_context_find_part(const cbm_context *ctx, cbm_free_part free) {
    for (int i = 0; i < CBM_CONTEXT_PARTS; i++)
        if (ctx->part[i].free == free) return ctx->part[i].state;
    return NULL;
}

scbm_status cbm_context_set_part(cbm_context *ctx, cbm_free_part free, void *state) {
    for (int i = 0; i < CBM_CONTEXT_PARTS; i++) {
        if (ctx->part[i].free && ctx->part[i].free != free) continue;
        ctx->part[i] = (cbm_context_part){state, free};
        return SCBM_OK;
    }
    return scbm_fail(SCBM_ERROR_MEMORY, "a context has room for %d parts", CBM_CONTEXT_PARTS);
}


scbm_status cbm_context_result(cbm_context *ctx, scbm_status status) {
    if (status) snprintf(ctx->error, sizeof ctx->error, "%s", scbm_last_error());
    return status;
}

const char *cbm_context_error(const cbm_context *ctx) {
    return ctx ? ctx->error : scbm_last_error();
}

static scbm_status check_context_options(const cbm_model *model, const cbm_context_options *options) {
    if (options->max_batch_tokens < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "max_batch_tokens is %d", options->max_batch_tokens);
    if (options->max_tokens < 0 || options->max_tokens > cbm_model_max_tokens(model))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "max_tokens is %d; the model reads at most %d", options->max_tokens,
                         cbm_model_max_tokens(model));
    return SCBM_OK;
}

scbm_status cbm_context_create(cbm_context **out, const cbm_model *model, const cbm_context_options *options) {
    const cbm_context_options none = {NULL, SCBM_PRECISION_F32, 0, 0};
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
    if (!status) status = scbm_context_check_precision(ctx->runtime, options->precision);
    if (status) {
        scbm_context_free(ctx->runtime);
        scbm_release(&model->hooks, ctx);
        return status;
    }
    cbm_runner_init(&ctx->runner, &model->network, ctx->runtime, options->precision,
                    options->max_batch_tokens ? options->max_batch_tokens : default_batch_tokens(model));
    ctx->runner.packs_from = options->precision == SCBM_PRECISION_F32 && !model->unpacked ? PACKING_PAYS : 0;
    ctx->backward_tokens = options->max_batch_tokens ? options->max_batch_tokens / 4 : 1024;
    *out = ctx;
    return SCBM_OK;
}

void cbm_context_free(cbm_context *ctx) {
    if (!ctx) return;
    const scbm_hooks *hooks = &ctx->model->hooks;
    for (int i = 0; i < CBM_CONTEXT_PARTS; i++)
        if (ctx->part[i].state) ctx->part[i].free(ctx, ctx->part[i].state);
    cbm_runner_clear(&ctx->runner);
    scbm_context_free(ctx->runtime);
    cbm_sequences_clear(&ctx->sequences, hooks);
    scbm_release(hooks, ctx->logits);
    scbm_release(hooks, ctx->numbers);
    scbm_release(hooks, ctx->concepts);
    scbm_release(hooks, ctx);
}
