/*
 * models/explain/faithfulness.c - whether attributions tell what the model goes by: the text without its most important
 * tokens, and these alone (DeYoung et al., ERASER, ACL 2020)
 */
#include "models/explain/explain.h"

#include <math.h>
#include <string.h>

enum { N_SHARES = 5 };
static const double shares[N_SHARES] = {0.01, 0.05, 0.1, 0.2, 0.5};

void cbm_ablation_clear(cbm_ablation *a, const scbm_hooks *hooks) {
    void *const memory[] = {a->logits, a->order, a->place, a->chosen, a->comprehensiveness, a->sufficiency, a->methods};
    cbm_sequences_clear(&a->variants, hooks);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    memset(a, 0, sizeof *a);
}

/* What is read of a text and ablated: its concepts' classes, or of a vanilla model its label. */
static int count_readings(const cbm_model *model) {
    return model->network.heads.n_concepts ? model->network.heads.n_concepts : 1;
}

static const float *attribution_of(const cbm_explanation *e, int reading, int method) {
    return (e->n_concepts ? &e->concepts[reading].logit : &e->labels[0].logit)->tokens[method];
}

/* ------------------------------------------------------------------------------------------
 * The variants of a text
 * ---------------------------------------------------------------------------------------- */

/* How many of n tokens a share is: at least one. */
static int64_t count_of_share(int i, int64_t n) {
    int64_t count = (int64_t)floor(shares[i] * (double)n + 0.5);
    return count > 1 ? count : 1;
}

/* The candidates by attribution, the largest first, the first of equal ones first: insertion, for there are few. */
static void sort_candidates(cbm_ablation *a, int64_t n, const float *attribution) {
    for (int32_t i = 0; i < n; i++) {
        int64_t at = i;
        float value = attribution[a->place[i]];
        for (; at > 0 && value > attribution[a->place[a->order[at - 1]]]; at--) a->order[at] = a->order[at - 1];
        a->order[at] = i;
    }
}

/* Adds the text's tokens whose `chosen` is `keep`, with those that are no candidates (chosen is 2). */
static scbm_status add_variant(cbm_ablation *a, const cbm_explanation *e, int keep, const scbm_hooks *hooks) {
    cbm_sequences *v = &a->variants;
    size_t start = v->n ? v->first[v->n] : 0, end = start, most = start + (size_t)e->n_tokens;
    scbm_status status = scbm_grow(hooks, (void **)&v->ids, &v->ids_capacity, most, sizeof *v->ids);
    if (!status) status = scbm_grow(hooks, (void **)&v->first, &v->first_capacity, v->n + 2, sizeof *v->first);
    if (status) return status;
    for (int t = 0; t < e->n_tokens; t++)
        if (a->chosen[t] == 2 || a->chosen[t] == keep) v->ids[end++] = e->tokens[t].id;
    v->first[v->n++] = start;
    v->first[v->n] = end;
    return SCBM_OK;
}

/* Two variants for each share, but none for a share of as many tokens as the one before. */
static scbm_status add_variants(cbm_ablation *a, const cbm_explanation *e, int64_t n, const scbm_hooks *hooks) {
    int64_t done = 0;
    for (int64_t i = 0; i < n; i++) a->chosen[a->place[i]] = 0;
    for (int s = 0; s < N_SHARES; s++) {
        int64_t count = count_of_share(s, n);
        if (count == done) continue;
        for (; done < count; done++) a->chosen[a->place[a->order[done]]] = 1;
        scbm_status status = add_variant(a, e, 0, hooks);
        if (!status) status = add_variant(a, e, 1, hooks);
        if (status) return status;
    }
    return SCBM_OK;
}

static scbm_status list_variants(cbm_ablation *a, const cbm_explanation *e, int n_readings, int64_t n,
                                 const scbm_hooks *hooks) {
    scbm_status status = SCBM_OK;
    cbm_sequences_reset(&a->variants);
    for (int k = 0; k < n_readings; k++) {
        for (int m = 0; m < e->n_methods && !status; m++) {
            const float *attribution = attribution_of(e, k, m);
            if (!attribution) continue;
            sort_candidates(a, n, attribution);
            status = add_variants(a, e, n, hooks);
        }
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * What the model reads in them
 * ---------------------------------------------------------------------------------------- */

/* The class that is read in the whole text, and where its logits stand among those of a text. */
typedef struct text_reading {
    int first, n_classes, class_index;
    double probability;
} text_reading;

static text_reading reading_of(const cbm_heads *heads, const cbm_prediction *p, int k) {
    if (!heads->n_concepts) return (text_reading){0, p->n_labels, p->label_index, (double)p->probability};
    const cbm_concept_result *concept = &p->concepts[k];
    return (text_reading){heads->groups[k], concept->n_classes, concept->class_index, (double)concept->probability};
}

/* Adds a method's drops of probability, from variant *next on, of `width` logits each. */
static void add_drops(cbm_ablation *a, const text_reading *reading, size_t width, int method, int64_t n, size_t *next) {
    double drop[2] = {0.0, 0.0};
    int64_t done = 0;
    for (int s = 0; s < N_SHARES; s++) {
        int64_t count = count_of_share(s, n);
        for (int alone = 0; alone < 2 && count != done; alone++) {
            float *logits = a->logits + (*next)++ * width + reading->first;
            cbm_softmax(logits, reading->n_classes, logits);
            drop[alone] = reading->probability - (double)logits[reading->class_index];
        }
        done = count;
        a->comprehensiveness[method * N_SHARES + s] += drop[0];
        a->sufficiency[method * N_SHARES + s] += drop[1];
    }
}

static scbm_status take_room(cbm_ablation *a, size_t tokens, const scbm_hooks *hooks) {
    const size_t n_methods = (size_t)cbm_attribution_method_count();
    if (!a->comprehensiveness)
        a->comprehensiveness = scbm_alloc_array(hooks, n_methods * N_SHARES, sizeof *a->comprehensiveness);
    if (!a->sufficiency) a->sufficiency = scbm_alloc_array(hooks, n_methods * N_SHARES, sizeof *a->sufficiency);
    if (!a->methods) a->methods = scbm_alloc_array(hooks, n_methods, sizeof *a->methods);
    scbm_status status = a->comprehensiveness && a->sufficiency && a->methods ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) status = scbm_grow(hooks, (void **)&a->order, &a->order_capacity, tokens, sizeof *a->order);
    if (!status) status = scbm_grow(hooks, (void **)&a->place, &a->place_capacity, tokens, sizeof *a->place);
    if (!status) status = scbm_grow(hooks, (void **)&a->chosen, &a->chosen_capacity, tokens, sizeof *a->chosen);
    return status;
}

/* The places of the tokens that may be taken away; the others are marked. */
static int64_t list_candidates(cbm_ablation *a, const cbm_explanation *e) {
    int64_t n = 0;
    for (int32_t t = 0; t < e->n_tokens; t++) {
        a->chosen[t] = e->tokens[t].is_special ? 2 : 0;
        if (!a->chosen[t]) a->place[n++] = t;
    }
    return n;
}

scbm_status cbm_ablation_create(cbm_ablation *a, const scbm_hooks *hooks) {
    memset(a, 0, sizeof *a);
    scbm_status status = take_room(a, 1, hooks);
    if (status) cbm_ablation_clear(a, hooks);
    return status;
}

scbm_status cbm_ablation_add(cbm_context *ctx, cbm_ablation *a, const cbm_explanation *e) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->hooks;
    const size_t width = (size_t)cbm_n_logits(heads);
    const int n_readings = count_readings(ctx->model);
    scbm_status status = take_room(a, (size_t)e->n_tokens, hooks);
    int64_t n = status ? 0 : list_candidates(a, e);
    if (!n) return status;
    status = list_variants(a, e, n_readings, n, hooks);
    if (!status)
        status = scbm_grow(hooks, (void **)&a->logits, &a->logits_capacity, a->variants.n * width, sizeof *a->logits);
    if (!status) status = cbm_runner_run(&ctx->runner, CBM_FORWARD_LOGITS, &a->variants, a->logits, NULL, NULL);
    if (status) return status;
    size_t next = 0;
    for (int k = 0; k < n_readings; k++) {
        const text_reading reading = reading_of(heads, e->prediction, k);
        for (int m = 0; m < e->n_methods; m++)
            if (attribution_of(e, k, m)) add_drops(a, &reading, width, m, n, &next);
    }
    a->n++;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Means
 * ---------------------------------------------------------------------------------------- */

/* Sums become means; returns the mean over the shares. */
static double take_means(double *values, double n) {
    double mean = 0.0;
    for (int s = 0; s < N_SHARES; s++) {
        if (n > 0) values[s] /= n;
        mean += values[s] / N_SHARES;
    }
    return mean;
}

const cbm_faithfulness *cbm_ablation_finish(cbm_ablation *a, const cbm_model *model, uint64_t methods) {
    const double n = (double)a->n * count_readings(model);
    cbm_faithfulness *f = &a->result;
    *f = (cbm_faithfulness){a->n, 0, N_SHARES, shares, a->methods};
    for (int m = 0; m < cbm_attribution_method_count(); m++) {
        const cbm_attribution_method *shown = cbm_attribution_method_at(m);
        double *comprehensiveness = a->comprehensiveness + m * N_SHARES, *sufficiency = a->sufficiency + m * N_SHARES;
        if (!(methods >> m & 1)) continue;
        double mean_comprehensiveness = take_means(comprehensiveness, n), mean_sufficiency = take_means(sufficiency, n);
        a->methods[f->n_methods++] = (cbm_method_faithfulness){
            m, shown->name, shown->title, comprehensiveness, sufficiency, mean_comprehensiveness, mean_sufficiency};
    }
    return f;
}

/* ------------------------------------------------------------------------------------------
 * The public function
 * ---------------------------------------------------------------------------------------- */

/* What a context keeps of its last measurement. */
static void free_ablation(cbm_context *ctx, void *state) {
    cbm_ablation_clear(state, &ctx->hooks);
    scbm_release(&ctx->hooks, state);
}

static scbm_status find_ablation(cbm_context *ctx, cbm_ablation **ablation) {
    const scbm_hooks *hooks = &ctx->hooks;
    *ablation = cbm_context_find_part(ctx, free_ablation);
    if (*ablation) cbm_ablation_clear(*ablation, hooks);
    if (*ablation) return cbm_ablation_create(*ablation, hooks);
    *ablation = scbm_alloc(hooks, sizeof **ablation);
    if (!*ablation) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_context_set_part(ctx, free_ablation, *ablation);
    if (status) scbm_release(hooks, *ablation);
    return status ? status : cbm_ablation_create(*ablation, hooks);
}

typedef struct measurement {
    cbm_context *ctx;
    cbm_ablation *ablation;
} measurement;

static scbm_status add_text(void *user, size_t i, const cbm_explanation *explanation) {
    const measurement *m = user;
    (void)i;
    return cbm_ablation_add(m->ctx, m->ablation, explanation);
}

static scbm_status measure(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                           const cbm_explain_options *options, const cbm_faithfulness **faithfulness) {
    cbm_explain_plan plan;
    measurement m = {.ctx = ctx};
    scbm_status status = cbm_plan_measurement(&plan, ctx->model, options);
    if (!status) status = find_ablation(ctx, &m.ablation);
    plan.what = "faithfulness";
    if (!status) status = cbm_explain_each(ctx, texts, lengths, n, &plan, add_text, &m);
    if (!status) *faithfulness = cbm_ablation_finish(m.ablation, ctx->model, plan.methods);
    return status;
}

scbm_status cbm_measure_faithfulness(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                                     const cbm_explain_options *options, const cbm_faithfulness **faithfulness) {
    *faithfulness = NULL;
    return cbm_context_result(ctx, measure(ctx, texts, lengths, n, options, faithfulness));
}
