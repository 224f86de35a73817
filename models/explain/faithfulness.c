/*
 * models/explain/faithfulness.c - whether attributions tell what the model goes by: the text without its most important tokens,
 * and these alone (DeYoung et al., ERASER, ACL 2020)
 */
#include "models/explain/explain.h"

#include <math.h>
#include <string.h>

static const double shares[CBM_FAITHFULNESS_SHARES] = {0.01, 0.05, 0.1, 0.2, 0.5};

const char *cbm_attribution_name(cbm_attribution_method method) {
    static const char *const names[] = {"gradient_input", "integrated_gradients", "attention", "random"};
    return (unsigned)method < CBM_ATTRIBUTION_METHODS ? names[method] : "unknown";
}

void cbm_ablation_clear(cbm_ablation *a, const scbm_hooks *hooks) {
    cbm_sequences_clear(&a->variants, hooks);
    scbm_release(hooks, a->logits);
    scbm_release(hooks, a->attention);
    scbm_release(hooks, a->score);
    scbm_release(hooks, a->order);
    scbm_release(hooks, a->place);
    scbm_release(hooks, a->chosen);
    memset(a, 0, sizeof *a);
}

/* How many of n tokens a share is: at least one. */
static int64_t count_of_share(int i, int64_t n) {
    int64_t count = (int64_t)floor(shares[i] * (double)n + 0.5);
    return count > 1 ? count : 1;
}

/* What a method says of each candidate token. */
static void set_scores(cbm_ablation *a, const cbm_explanation *e, int k, cbm_attribution_method method, int64_t n,
                       uint64_t seed, uint64_t number) {
    const cbm_token_attribution *tokens = e->concepts[k].tokens;
    scbm_random random = {seed, number * (uint64_t)e->n_concepts + (uint64_t)k, 0};
    for (int64_t i = 0; i < n; i++) {
        int32_t t = a->place[i];
        switch (method) {
        case CBM_ATTRIBUTE_GRADIENT_INPUT: a->score[i] = (double)tokens[t].gradient_input; break;
        case CBM_ATTRIBUTE_INTEGRATED_GRADIENTS: a->score[i] = (double)tokens[t].integrated_gradients; break;
        case CBM_ATTRIBUTE_ATTENTION: a->score[i] = (double)a->attention[k * e->n_tokens + t]; break;
        default: a->score[i] = scbm_random_uniform(&random); break;
        }
    }
}

/* The candidates by score, the largest first, the first of equal ones first: insertion, for there are few. */
static void sort_candidates(cbm_ablation *a, int64_t n) {
    for (int32_t i = 0; i < n; i++) {
        int64_t at = i;
        for (; at > 0 && a->score[i] > a->score[a->order[at - 1]]; at--) a->order[at] = a->order[at - 1];
        a->order[at] = i;
    }
}

/* Adds the text's tokens whose `chosen` is `keep`, with those that are no candidates (chosen is 2). */
static scbm_status add_variant(cbm_sequences *v, const cbm_sequences *text, const uint8_t *chosen, int keep,
                               const scbm_hooks *hooks) {
    size_t length = (size_t)cbm_sequence_length(text, 0), start = v->n ? v->first[v->n] : 0, end = start;
    scbm_status status = scbm_grow(hooks, (void **)&v->ids, &v->ids_capacity, start + length, sizeof *v->ids);
    if (!status) status = scbm_grow(hooks, (void **)&v->first, &v->first_capacity, v->n + 2, sizeof *v->first);
    if (status) return status;
    for (size_t t = 0; t < length; t++)
        if (chosen[t] == 2 || chosen[t] == keep) v->ids[end++] = text->ids[t];
    v->first[v->n++] = start;
    v->first[v->n] = end;
    return SCBM_OK;
}

/* Two variants for each share, but none for a share of as many tokens as the one before. */
static scbm_status add_variants(cbm_context *ctx, cbm_ablation *a, int64_t n) {
    int64_t done = 0;
    for (int64_t i = 0; i < n; i++) a->chosen[a->place[i]] = 0;
    for (int s = 0; s < CBM_FAITHFULNESS_SHARES; s++) {
        int64_t count = count_of_share(s, n);
        if (count == done) continue;
        for (; done < count; done++) a->chosen[a->place[a->order[done]]] = 1;
        scbm_status status = add_variant(&a->variants, &ctx->sequences, a->chosen, 0, &ctx->hooks);
        if (!status) status = add_variant(&a->variants, &ctx->sequences, a->chosen, 1, &ctx->hooks);
        if (status) return status;
    }
    return SCBM_OK;
}

/* Adds the drops of probability of concept k, method by method, from variant *next on. */
static void add_drops(cbm_ablation *a, const cbm_heads *heads, const cbm_concept_result *result, int k, int method,
                      int64_t n, size_t *next) {
    double drop[2] = {0.0, 0.0};
    int64_t done = 0;
    for (int s = 0; s < CBM_FAITHFULNESS_SHARES; s++) {
        int64_t count = count_of_share(s, n);
        for (int alone = 0; alone < 2 && count != done; alone++) {
            float *logits = a->logits + (*next)++ * (size_t)heads->n_classes + heads->groups[k];
            cbm_softmax(logits, result->n_classes, logits);
            drop[alone] = (double)result->probability - (double)logits[result->class_index];
        }
        done = count;
        a->comprehensiveness[method][s] += drop[0];
        a->sufficiency[method][s] += drop[1];
    }
}

static scbm_status take_room(cbm_context *ctx, cbm_ablation *a, size_t tokens) {
    const scbm_hooks *hooks = &ctx->hooks;
    size_t n_concepts = (size_t)ctx->model->network.heads.n_concepts;
    scbm_status status = scbm_grow(hooks, (void **)&a->attention, &a->attention_capacity, n_concepts * tokens,
                                   sizeof *a->attention);
    if (!status) status = scbm_grow(hooks, (void **)&a->score, &a->score_capacity, tokens, sizeof *a->score);
    if (!status) status = scbm_grow(hooks, (void **)&a->order, &a->order_capacity, tokens, sizeof *a->order);
    if (!status) status = scbm_grow(hooks, (void **)&a->place, &a->place_capacity, tokens, sizeof *a->place);
    if (!status) status = scbm_grow(hooks, (void **)&a->chosen, &a->chosen_capacity, tokens, sizeof *a->chosen);
    return status;
}

/* The places of the tokens that may be taken away; the others are marked. */
static int64_t list_candidates(cbm_ablation *a, const cbm_explanation *e) {
    int64_t n = 0;
    for (int32_t t = 0; t < e->n_tokens; t++) {
        a->chosen[t] = e->concepts[0].tokens[t].is_special ? 2 : 0;
        if (!a->chosen[t]) a->place[n++] = t;
    }
    return n;
}

scbm_status cbm_ablation_add(cbm_context *ctx, cbm_ablation *a, const cbm_explanation *e, uint64_t seed,
                             uint64_t number) {
    const cbm_heads *heads = &ctx->model->network.heads;
    const scbm_hooks *hooks = &ctx->hooks;
    scbm_status status = take_room(ctx, a, (size_t)e->n_tokens);
    int64_t n = status ? 0 : list_candidates(a, e);
    if (!n) return status;
    status = cbm_attention_received(ctx, a->attention);
    cbm_sequences_reset(&a->variants);
    for (int k = 0; k < e->n_concepts; k++) {
        for (int method = 0; method < CBM_ATTRIBUTION_METHODS && !status; method++) {
            set_scores(a, e, k, (cbm_attribution_method)method, n, seed, number);
            sort_candidates(a, n);
            status = add_variants(ctx, a, n);
        }
    }
    if (!status)
        status = scbm_grow(hooks, (void **)&a->logits, &a->logits_capacity, a->variants.n * (size_t)heads->n_classes,
                           sizeof *a->logits);
    if (!status) status = cbm_runner_run(&ctx->runner, CBM_FORWARD_LOGITS, &a->variants, a->logits, NULL, NULL);
    if (status) return status;
    size_t next = 0;
    for (int k = 0; k < e->n_concepts; k++)
        for (int method = 0; method < CBM_ATTRIBUTION_METHODS; method++)
            add_drops(a, heads, e->concepts[k].result, k, method, n, &next);
    a->n++;
    return SCBM_OK;
}

void cbm_ablation_finish(const cbm_ablation *a, int n_concepts, cbm_faithfulness *f) {
    double n = (double)a->n * n_concepts;
    memset(f, 0, sizeof *f);
    f->n = a->n;
    memcpy(f->share, shares, sizeof shares);
    for (int method = 0; method < CBM_ATTRIBUTION_METHODS && a->n; method++) {
        for (int s = 0; s < CBM_FAITHFULNESS_SHARES; s++) {
            f->comprehensiveness[method][s] = a->comprehensiveness[method][s] / n;
            f->sufficiency[method][s] = a->sufficiency[method][s] / n;
            f->mean_comprehensiveness[method] += f->comprehensiveness[method][s] / CBM_FAITHFULNESS_SHARES;
            f->mean_sufficiency[method] += f->sufficiency[method][s] / CBM_FAITHFULNESS_SHARES;
        }
    }
}

static scbm_status measure(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                           const cbm_explain_options *given, uint64_t seed, cbm_ablation *a) {
    const scbm_hooks *hooks = &ctx->hooks;
    cbm_explain_options options;
    cbm_explain_defaults(&options);
    if (given) options = *given;
    options.n_neurons = 0;
    options.target = NULL;
    scbm_status status = cbm_check_concepts(ctx->model);
    for (size_t i = 0; i < n && !status; i++) {
        cbm_explanation e;
        if (!texts[i]) return scbm_fail(SCBM_ERROR_ARGUMENT, "text %zu of %zu is NULL", i + 1, n);
        status = cbm_explain_as(ctx, texts[i], lengths ? lengths[i] : strlen(texts[i]), &options, "graph", &e);
        if (!status) status = cbm_ablation_add(ctx, a, &e, seed, i);
        if (!status && hooks->progress && hooks->progress(hooks->user, "faithfulness", (int64_t)i + 1, (int64_t)n))
            status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %zu of %zu texts", i + 1, n);
    }
    return status;
}

scbm_status cbm_measure_faithfulness(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                                     const cbm_explain_options *options, uint64_t seed,
                                     cbm_faithfulness *faithfulness) {
    cbm_ablation ablation;
    memset(&ablation, 0, sizeof ablation);
    memset(faithfulness, 0, sizeof *faithfulness);
    scbm_status status = measure(ctx, texts, lengths, n, options, seed, &ablation);
    if (!status) cbm_ablation_finish(&ablation, ctx->model->network.heads.n_concepts, faithfulness);
    cbm_ablation_clear(&ablation, &ctx->hooks);
    return cbm_context_result(ctx, status);
}
