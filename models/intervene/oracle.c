/*
 * models/intervene/oracle.c - the oracle: interventions on every concept of a data set that is misread
 */
#include "models/base/sample.h"
#include "models/cbm-train.h"
#include "models/data/classes.h"
#include "models/intervene/intervene.h"

#include <string.h>

static const cbm_intervene_options default_options; /* zeros */

/* A context's last oracle, and what it points to. */
typedef struct oracle_run {
    cbm_oracle shown;
    size_t *row;
    int32_t *label_before, *label_after, *concept_before, *concept_after;
    float *label_probability[2], *concept_probability[2]; /* before and after */
} oracle_run;

static void clear_oracle(oracle_run *r, const scbm_hooks *hooks) {
    void *const memory[] = {r->row,
                            r->label_before,
                            r->label_after,
                            r->concept_before,
                            r->concept_after,
                            r->label_probability[0],
                            r->label_probability[1],
                            r->concept_probability[0],
                            r->concept_probability[1]};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    memset(r, 0, sizeof *r);
}

static void free_oracle(cbm_context *ctx, void *state) {
    clear_oracle(state, &ctx->hooks);
    scbm_release(&ctx->hooks, state);
}

/* The context's, empty. */
static scbm_status find_oracle(cbm_context *ctx, oracle_run **found) {
    oracle_run *r = *found = cbm_context_find_part(ctx, free_oracle);
    if (r) clear_oracle(r, &ctx->hooks);
    if (r) return SCBM_OK;
    r = scbm_alloc(&ctx->hooks, sizeof *r);
    if (!r) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_context_set_part(ctx, free_oracle, r);
    if (status) scbm_release(&ctx->hooks, r);
    else *found = r;
    return status;
}

static scbm_status take_memory(oracle_run *r, size_t n, const cbm_heads *heads, const scbm_hooks *hooks) {
    size_t n_concepts = (size_t)heads->n_concepts, n_labels = (size_t)heads->n_labels;
    int has_memory = 1;
    r->row = scbm_alloc_array(hooks, n, sizeof *r->row);
    r->label_before = scbm_alloc_array(hooks, n, sizeof *r->label_before);
    r->label_after = scbm_alloc_array(hooks, n, sizeof *r->label_after);
    r->concept_before = scbm_alloc_array(hooks, n * n_concepts, sizeof *r->concept_before);
    r->concept_after = scbm_alloc_array(hooks, n * n_concepts, sizeof *r->concept_after);
    for (int after = 0; after < 2; after++) {
        r->label_probability[after] = scbm_alloc_array(hooks, n * n_labels, sizeof(float));
        r->concept_probability[after] = scbm_alloc_array(hooks, n * (size_t)heads->n_classes, sizeof(float));
        has_memory = has_memory && r->label_probability[after] && r->concept_probability[after];
    }
    has_memory = has_memory && r->row && r->label_before && r->label_after && r->concept_before && r->concept_after;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static scbm_status create_oracle(oracle_run *r, size_t n_texts, size_t most, const cbm_heads *heads,
                                 const scbm_hooks *hooks) {
    size_t n = cbm_sample_size(most, n_texts);
    scbm_status status = take_memory(r, n, heads, hooks);
    if (status) return status;
    for (size_t i = 0; i < n; i++) r->row[i] = cbm_sample_row(i, n, n_texts);
    r->shown = (cbm_oracle){.n = n,
                            .row = r->row,
                            .label_before = r->label_before,
                            .label_after = r->label_after,
                            .concept_before = r->concept_before,
                            .concept_after = r->concept_after,
                            .n_labels = heads->n_labels,
                            .n_concepts = heads->n_concepts,
                            .n_classes = heads->n_classes,
                            .first_class = heads->groups,
                            .label_probability_before = r->label_probability[0],
                            .label_probability_after = r->label_probability[1],
                            .concept_probability_before = r->concept_probability[0],
                            .concept_probability_after = r->concept_probability[1]};
    return SCBM_OK;
}

static void keep_probabilities(oracle_run *r, const cbm_heads *heads, size_t i, int after, const cbm_prediction *p) {
    size_t n_labels = (size_t)heads->n_labels, n_classes = (size_t)heads->n_classes;
    memcpy(r->label_probability[after] + i * n_labels, p->probabilities, n_labels * sizeof(float));
    for (int k = 0; k < heads->n_concepts; k++)
        memcpy(r->concept_probability[after] + i * n_classes + heads->groups[k], p->concepts[k].probabilities,
               (size_t)p->concepts[k].n_classes * sizeof(float));
}

/* Sets every concept of text `i` that is misread to its gold class. */
static scbm_status correct_text(cbm_overlay *o, const cbm_dataset *data, const cbm_intervene_options *options,
                                oracle_run *r, size_t i) {
    const cbm_heads *heads = cbm_overlay_heads(o);
    size_t n_concepts = (size_t)heads->n_concepts;
    const int32_t *gold = data->concept_class + r->row[i] * n_concepts;
    scbm_status status = cbm_overlay_load_text(o, i);
    if (status) return status;
    const cbm_prediction *last = cbm_overlay_predict(o, 0);
    r->label_before[i] = last->label_index;
    keep_probabilities(r, heads, i, 0, last);
    for (size_t k = 0; k < n_concepts; k++) {
        int32_t *before = &r->concept_before[i * n_concepts + k], *after = &r->concept_after[i * n_concepts + k];
        *before = *after = cbm_concept_reads(heads, o->text.computed, (int)k);
        if (gold[k] < 0 || gold[k] == *before) continue;
        r->shown.concepts_wrong++;
        status = cbm_intervene_text(o, (int)k, gold[k], options);
        if (status) return status;
        *after = cbm_concept_reads(heads, o->text.computed, (int)k);
        r->shown.concepts_fixed += *after == gold[k];
        r->shown.moved_bits += o->result.moved_bits;
        r->shown.steps += o->result.steps;
        last = o->result.after;
    }
    r->label_after[i] = last->label_index;
    keep_probabilities(r, heads, i, 1, last);
    int32_t label = data->label ? data->label[r->row[i]] : -1;
    if (label >= 0) {
        r->shown.labels_fixed += r->label_before[i] != label && r->label_after[i] == label;
        r->shown.labels_broken += r->label_before[i] == label && r->label_after[i] != label;
    }
    return SCBM_OK;
}

/* Texts of the oracle's rows through the model, into the context. */
static scbm_status predict_rows(cbm_context *ctx, const cbm_dataset *data, const oracle_run *r) {
    const scbm_hooks *hooks = &ctx->hooks;
    const char **texts = scbm_alloc_array(hooks, r->shown.n, sizeof *texts);
    size_t *lengths = scbm_alloc_array(hooks, r->shown.n, sizeof *lengths);
    scbm_status status = texts && lengths ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < r->shown.n && !status; i++) {
        texts[i] = data->text[r->row[i]];
        lengths[i] = data->text_length[r->row[i]];
    }
    if (!status) status = cbm_compute_logits(ctx, texts, lengths, r->shown.n, "predict");
    scbm_release(hooks, (void *)texts);
    scbm_release(hooks, lengths);
    return status;
}

static scbm_status run_oracle(cbm_context *ctx, const cbm_dataset *data, const cbm_intervene_options *options,
                              size_t most, oracle_run *r) {
    const cbm_heads *heads = &ctx->model->network.heads;
    double start = scbm_seconds();
    const cbm_names names = cbm_heads_names(heads);
    scbm_status status = cbm_dataset_check_names(data, &names, "the data");
    if (!status) status = create_oracle(r, data->n, most, heads, &ctx->hooks);
    if (!status) status = cbm_overlay_create(ctx);
    if (!status) status = predict_rows(ctx, data, r);
    if (status) return status;
    cbm_overlay *o = cbm_overlay_of(ctx);
    r->shown.predict_seconds = scbm_seconds() - start;
    o->progress = (cbm_overlay_progress){1, 0, (int64_t)r->shown.n};
    for (size_t i = 0; i < r->shown.n && !status; i++) {
        status = correct_text(o, data, options, r, i);
        o->progress.done++;
        if (!status) status = cbm_overlay_tell(o);
    }
    cbm_intervene_reset(ctx);
    r->shown.seconds = scbm_seconds() - start;
    return status;
}

scbm_status cbm_intervene_oracle(cbm_context *ctx, const cbm_dataset *data, const cbm_intervene_options *options,
                                 size_t most, const cbm_oracle **oracle) {
    oracle_run *r = NULL;
    if (!options) options = &default_options;
    *oracle = NULL;
    scbm_status status = cbm_intervene_check(ctx->model, options);
    if (!status) status = find_oracle(ctx, &r);
    if (!status) status = run_oracle(ctx, data, options, most, r);
    ctx->n_computed = 0; /* its texts are many: there is none to intervene on */
    if (!status) *oracle = &r->shown;
    return cbm_context_result(ctx, status);
}
