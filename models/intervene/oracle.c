/*
 * models/intervene/oracle.c - the oracle: interventions on every concept of a data set that is misread
 */
#include "models/base/sample.h"
#include "models/cbm-train.h"
#include "models/data/classes.h"
#include "models/intervene/intervene.h"

#include <string.h>

static const cbm_intervene_options default_options; /* zeros */

void cbm_oracle_clear(cbm_context *ctx, cbm_oracle *oracle) {
    const scbm_hooks *hooks = &ctx->hooks;
    scbm_release(hooks, oracle->row);
    scbm_release(hooks, oracle->label_before);
    scbm_release(hooks, oracle->label_after);
    scbm_release(hooks, oracle->concept_before);
    scbm_release(hooks, oracle->concept_after);
    memset(oracle, 0, sizeof *oracle);
}

static scbm_status create_oracle(cbm_oracle *oracle, size_t n_texts, size_t most, size_t n_concepts,
                                 const scbm_hooks *hooks) {
    size_t n = cbm_sample_size(most, n_texts);
    memset(oracle, 0, sizeof *oracle);
    oracle->row = scbm_alloc_array(hooks, n, sizeof *oracle->row);
    oracle->label_before = scbm_alloc_array(hooks, n, sizeof *oracle->label_before);
    oracle->label_after = scbm_alloc_array(hooks, n, sizeof *oracle->label_after);
    oracle->concept_before = scbm_alloc_array(hooks, n * n_concepts, sizeof *oracle->concept_before);
    oracle->concept_after = scbm_alloc_array(hooks, n * n_concepts, sizeof *oracle->concept_after);
    if (!oracle->row || !oracle->label_before || !oracle->label_after || !oracle->concept_before ||
        !oracle->concept_after)
        return SCBM_ERROR_MEMORY;
    oracle->n = n;
    for (size_t i = 0; i < n; i++) oracle->row[i] = cbm_sample_row(i, n, n_texts);
    return SCBM_OK;
}

/* Sets every concept of text `i` that is misread to its gold class. */
static scbm_status correct_text(cbm_overlay *o, const cbm_dataset *data, const cbm_intervene_options *options,
                                cbm_oracle *oracle, size_t i) {
    const cbm_heads *heads = cbm_overlay_heads(o);
    size_t n_concepts = (size_t)heads->n_concepts;
    const int32_t *gold = data->concept_class + oracle->row[i] * n_concepts;
    cbm_intervention result;
    cbm_prediction now;
    scbm_status status = cbm_overlay_load_text(o, i);
    if (status) return status;
    cbm_overlay_predict(o, 0, &now);
    oracle->label_before[i] = oracle->label_after[i] = now.label_index;
    for (size_t k = 0; k < n_concepts && !status; k++) {
        int32_t *before = &oracle->concept_before[i * n_concepts + k],
                *after = &oracle->concept_after[i * n_concepts + k];
        *before = *after = cbm_concept_reads(heads, o->text.computed, (int)k);
        if (gold[k] < 0 || gold[k] == *before) continue;
        oracle->concepts_wrong++;
        status = cbm_intervene_text(o, (int)k, gold[k], options, &result);
        if (status) return status;
        *after = cbm_concept_reads(heads, o->text.computed, (int)k);
        oracle->concepts_fixed += *after == gold[k];
        oracle->moved_bits += result.moved_bits;
        oracle->steps += result.steps;
        oracle->label_after[i] = result.after.label_index;
    }
    int32_t label = data->label ? data->label[oracle->row[i]] : -1;
    if (label >= 0) {
        oracle->labels_fixed += oracle->label_before[i] != label && oracle->label_after[i] == label;
        oracle->labels_broken += oracle->label_before[i] == label && oracle->label_after[i] != label;
    }
    return SCBM_OK;
}

/* Texts of the oracle's rows through the model, into the context. */
static scbm_status predict_rows(cbm_context *ctx, const cbm_dataset *data, const cbm_oracle *oracle) {
    const scbm_hooks *hooks = &ctx->hooks;
    const char **texts = scbm_alloc_array(hooks, oracle->n, sizeof *texts);
    size_t *lengths = scbm_alloc_array(hooks, oracle->n, sizeof *lengths);
    scbm_status status = texts && lengths ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < oracle->n && !status; i++) {
        texts[i] = data->text[oracle->row[i]];
        lengths[i] = data->text_length[oracle->row[i]];
    }
    if (!status) status = cbm_compute_logits(ctx, texts, lengths, oracle->n, "predict");
    scbm_release(hooks, (void *)texts);
    scbm_release(hooks, lengths);
    return status;
}

static scbm_status run_oracle(cbm_context *ctx, const cbm_dataset *data, const cbm_intervene_options *options,
                              size_t most, cbm_oracle *oracle) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->hooks;
    double start = scbm_seconds();
    const cbm_names names = cbm_heads_names(heads);
    scbm_status status = cbm_dataset_check_names(data, &names, "the data");
    if (!status) status = create_oracle(oracle, data->n, most, (size_t)heads->n_concepts, hooks);
    if (!status) status = cbm_overlay_create(ctx);
    if (!status) status = predict_rows(ctx, data, oracle);
    oracle->predict_seconds = scbm_seconds() - start;
    for (size_t i = 0; i < oracle->n && !status; i++) {
        status = correct_text(cbm_overlay_of(ctx), data, options, oracle, i);
        if (!status && hooks->progress && hooks->progress(hooks->user, "intervene", (int64_t)i + 1, (int64_t)oracle->n))
            status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %zu of %zu texts", i + 1, oracle->n);
    }
    cbm_intervene_reset(ctx);
    oracle->seconds = scbm_seconds() - start;
    return status;
}

scbm_status cbm_intervene_oracle(cbm_context *ctx, const struct cbm_dataset *data, const cbm_intervene_options *options,
                                 size_t most, cbm_oracle *oracle) {
    if (!options) options = &default_options;
    memset(oracle, 0, sizeof *oracle);
    scbm_status status = cbm_intervene_check(ctx->model, options);
    if (!status) status = run_oracle(ctx, data, options, most, oracle);
    if (status) cbm_oracle_clear(ctx, oracle);
    return cbm_context_result(ctx, status);
}
