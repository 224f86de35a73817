/*
 * models/explain/explain.c - explanations: texts in groups, through the methods of the table, to what the caller gets
 */
#include "models/explain/explain.h"
#include "models/explain/methods.h"

#include <string.h>

#define DEFAULT_STEPS 32
#define DEFAULT_MAX_STEPS 512
#define DEFAULT_NEURONS 5
#define MOST_STEPS (1 << 20)

/* ------------------------------------------------------------------------------------------
 * Making and freeing
 * ---------------------------------------------------------------------------------------- */

static void free_explainer(cbm_context *ctx, void *state) {
    cbm_explainer *x = state;
    const scbm_hooks *hooks = &ctx->hooks;
    const cbm_explain_group *g = &x->group;
    const cbm_explain_result *r = &x->result;
    void *const memory[] = {g->target,
                            g->label,
                            g->unit,
                            g->tokens,
                            g->words,
                            g->embedding,
                            g->baseline,
                            g->gradient,
                            r->concepts,
                            r->labels,
                            r->neurons,
                            r->token_value,
                            r->word_value,
                            (void *)r->token_place,
                            (void *)r->word_place,
                            x->rows.sums,
                            x->rows.saliency,
                            x->stream_sum};
    cbm_explain_free_graph(&x->attribution);
    cbm_explain_free_graph(&x->saliency);
    cbm_explain_free_graph(&x->attention);
    cbm_subnetworks_clear(&x->subnetworks, hooks);
    cbm_tokens_clear(&x->tokens, hooks);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    scbm_release(hooks, x);
}

cbm_explainer *cbm_explainer_of(const cbm_context *ctx) {
    return cbm_context_find_part(ctx, free_explainer);
}

scbm_status cbm_explainer_create(cbm_context *ctx) {
    const scbm_hooks *hooks = &ctx->hooks;
    if (cbm_explainer_of(ctx)) return SCBM_OK;
    cbm_explainer *x = scbm_alloc(hooks, sizeof *x);
    if (!x) return SCBM_ERROR_MEMORY;
    x->ctx = ctx;
    x->tokens.hooks = &ctx->hooks;
    x->has_subnetworks = cbm_explainer_concepts(x) > 0;
    scbm_status status = x->has_subnetworks ? cbm_subnetworks_create(&x->subnetworks, ctx->model, hooks) : SCBM_OK;
    for (int m = 0; m < x->subnetworks.n_matrices; m++) x->rows.n_neurons += x->subnetworks.matrices[m].rows;
    if (!status) status = cbm_context_set_part(ctx, free_explainer, x);
    if (status) free_explainer(ctx, x);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Options
 * ---------------------------------------------------------------------------------------- */

static scbm_status check_has_label(const cbm_model *model) {
    if (model->network.heads.mode != CBM_ENCODER) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is an encoder, which has no label and no concepts to explain",
                     scbm_file_path(model->file));
}

scbm_status cbm_check_concepts(const cbm_model *model) {
    if (model->network.heads.n_concepts) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is %s, which has no concepts to explain a prediction by",
                     scbm_file_path(model->file),
                     model->network.heads.mode == CBM_ENCODER ? "an encoder" : "a vanilla model");
}

static scbm_status check_numbers(const cbm_explain_options *options) {
    if (options->steps > MOST_STEPS || options->max_steps > MOST_STEPS)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "integrated gradients in %d to %d steps: at most %d are possible",
                         options->steps, options->max_steps, MOST_STEPS);
    if (options->n_labels < 0 || options->n_methods < 0 || (options->n_labels && !options->labels))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d labels and %d attribution methods to explain by", options->n_labels,
                         options->n_methods);
    return cbm_check_reserved(options->reserved, "cbm_explain_options");
}

static scbm_status check_targets(const cbm_heads *heads, const cbm_explain_options *options) {
    for (int k = 0; options->target && k < heads->n_concepts; k++) {
        int n = heads->groups[k + 1] - heads->groups[k];
        if (options->target[k] < -1 || options->target[k] >= n)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no class %d; it has %d classes",
                             heads->concept_name[k], options->target[k], n);
    }
    for (int i = 0; i < options->n_labels; i++)
        if (options->labels[i] < CBM_RUNNER_UP || options->labels[i] >= heads->n_labels)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no label %d among %d", options->labels[i], heads->n_labels);
    return SCBM_OK;
}

/* Every method that the plan and the model allow, baselines too. */
static uint64_t possible_methods(const cbm_model *model, const cbm_explain_plan *plan) {
    const cbm_attribution_kind *kind;
    uint64_t methods = 0;
    for (int m = 0; (kind = cbm_attribution_kind_at(m)); m++) {
        int lacks_steps = (kind->needs & CBM_NEEDS_STEPS) && !plan->steps;
        int lacks_attention = (kind->needs & CBM_NEEDS_ATTENTION) && !model->network.backbone.n_heads;
        if (!lacks_steps && !lacks_attention) methods |= UINT64_C(1) << m;
    }
    return methods;
}

/* Those that were asked for, and must be possible then; or all that are and are no baselines. */
static scbm_status choose_methods(cbm_explain_plan *plan, const cbm_model *model, const cbm_explain_options *options) {
    const uint64_t possible = possible_methods(model, plan);
    plan->methods = 0;
    for (int i = 0; options->methods && i < options->n_methods; i++) {
        const cbm_attribution_kind *kind = cbm_attribution_kind_at(options->methods[i]);
        if (!kind)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no attribution method %d among %d", options->methods[i],
                             cbm_attribution_method_count());
        if (!(possible >> options->methods[i] & 1))
            return scbm_fail(SCBM_ERROR_ARGUMENT, "attributions by %s need %s", kind->shown.title,
                             kind->needs & CBM_NEEDS_STEPS ? "steps, and there are to be none"
                                                           : "attention, and the encoder has none");
        plan->methods |= UINT64_C(1) << options->methods[i];
    }
    for (int m = 0; !options->methods && m < cbm_attribution_method_count(); m++)
        if (!cbm_attribution_kind_at(m)->shown.is_baseline) plan->methods |= possible & UINT64_C(1) << m;
    return SCBM_OK;
}

/* 0: the default; negative: none. */
static int number_or(int given, int otherwise) {
    return given < 0 ? 0 : given ? given : otherwise;
}

scbm_status cbm_plan_explanation(cbm_explain_plan *plan, const cbm_model *model, const cbm_explain_options *options) {
    static const cbm_explain_options defaults; /* zeros */
    static const int predicted[1] = {CBM_PREDICTED};
    if (!options) options = &defaults;
    memset(plan, 0, sizeof *plan);
    scbm_status status = check_has_label(model);
    if (!status) status = check_numbers(options);
    if (!status) status = check_targets(&model->network.heads, options);
    if (status) return status;
    plan->steps = number_or(options->steps, DEFAULT_STEPS);
    plan->max_steps = number_or(options->max_steps, DEFAULT_MAX_STEPS);
    plan->n_neurons = model->network.heads.n_concepts ? number_or(options->n_neurons, DEFAULT_NEURONS) : 0;
    plan->target = options->target;
    plan->labels = options->labels;
    plan->n_labels = options->n_labels;
    if (!plan->n_labels && !model->network.heads.n_concepts) {
        plan->labels = predicted;
        plan->n_labels = 1;
    }
    plan->seed = options->seed;
    plan->what = "explain";
    return choose_methods(plan, model, options);
}

scbm_status cbm_plan_measurement(cbm_explain_plan *plan, const cbm_model *model, const cbm_explain_options *options) {
    cbm_explain_options used = {0};
    if (options) used = *options;
    used.target = used.labels = used.methods = NULL;
    used.n_labels = used.n_methods = 0;
    used.n_neurons = -1;
    scbm_status status = cbm_plan_explanation(plan, model, &used);
    if (!status) plan->methods = possible_methods(model, plan);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The group at hand: its predictions, targets, and logits at both ends
 * ---------------------------------------------------------------------------------------- */

static int uses(const cbm_explainer *x, int method) {
    return (int)(x->plan.methods >> method & 1);
}

static int needs_gradient(const cbm_explainer *x) {
    const cbm_attribution_kind *kind;
    for (int m = 0; (kind = cbm_attribution_kind_at(m)); m++)
        if (uses(x, m) && (kind->needs & CBM_NEEDS_GRADIENT)) return 1;
    return 0;
}

/* Room for n elements and one more, so that an array of none has a place too. */
static scbm_status take_room(const cbm_explainer *x, void **place, size_t *capacity, size_t n, size_t size) {
    return scbm_grow(cbm_explainer_hooks(x), place, capacity, n + 1, size);
}

static scbm_status take_group_memory(cbm_explainer *x) {
    cbm_explain_group *g = &x->group;
    const size_t n = (size_t)g->n_texts, width = (size_t)cbm_explainer_network(x)->backbone.embedding_width,
                 n_units = (size_t)cbm_explainer_units(x), n_targets = n * (size_t)cbm_explainer_concepts(x),
                 n_labels = n * (size_t)x->plan.n_labels,
                 n_gradients = needs_gradient(x) ? n_units * (size_t)g->n_tokens * width : 0;
    scbm_status status = take_room(x, (void **)&g->target, &g->target_capacity, n_targets, sizeof *g->target);
    if (!status) status = take_room(x, (void **)&g->label, &g->label_capacity, n_labels, sizeof *g->label);
    if (!status) status = take_room(x, (void **)&g->unit, &g->unit_capacity, n * n_units, sizeof *g->unit);
    if (!status) status = take_room(x, (void **)&g->gradient, &g->gradient_capacity, n_gradients, sizeof *g->gradient);
    return status;
}

/* A label by its number, or by what the text is predicted to be. Of one label alone the runner-up is the same. */
static int find_label(const cbm_prediction *p, int label) {
    int second = p->n_labels == 1 ? 0 : p->label_index == 0;
    if (label >= 0) return label;
    if (label == CBM_PREDICTED) return p->label_index;
    for (int y = 0; y < p->n_labels; y++)
        if (y != p->label_index && p->logits[y] > p->logits[second]) second = y;
    return second;
}

/* What is explained of a text, and what is known of it without a gradient. */
static void start_text(cbm_explainer *x, int i) {
    const int n_concepts = cbm_explainer_concepts(x), n_labels = x->plan.n_labels, n_units = n_concepts + n_labels;
    cbm_explain_group *g = &x->group;
    cbm_group_text *text = &g->text[i];
    const cbm_prediction *p = g->prediction[i];
    int *target = g->target + i * n_concepts, *label = g->label + i * n_labels;
    text->target = target;
    text->label = label;
    text->unit = g->unit + i * n_units;
    memset(text->unit, 0, (size_t)n_units * sizeof *text->unit);
    for (int k = 0; k < n_concepts; k++) {
        target[k] = x->plan.target && x->plan.target[k] >= 0 ? x->plan.target[k] : p->concepts[k].class_index;
        text->unit[k].value = (double)p->concepts[k].logits[target[k]];
    }
    for (int j = 0; j < n_labels; j++) {
        label[j] = find_label(p, x->plan.labels[j]);
        text->unit[n_concepts + j].value = (double)p->logits[label[j]];
    }
    for (int u = 0; u < n_units; u++) {
        text->unit[u].baseline = text->unit[u].value;
        text->unit[u].converged = x->plan.steps > 0 && !text->n_tokens;
    }
}

/* Both ends of the way from baseline to text, of every text and view. */
typedef struct end_walk {
    cbm_explainer *x;
    int keeps_gradient;
    int text, view, end; /* the next point */
} end_walk;

static int next_end(void *state, cbm_point *point) {
    end_walk *w = state;
    if (w->end == 2) {
        w->end = 0;
        if (++w->view == cbm_explainer_views(w->x)) {
            w->view = 0;
            w->text++;
        }
    }
    if (w->text == w->x->group.n_texts) return 0;
    *point = (cbm_point){w->text, w->view, w->end++ ? 0.0 : 1.0};
    return 1;
}

static void take_end(void *state, const cbm_point *point, int unit, double logit, const float *gradient) {
    end_walk *w = state;
    cbm_explain_group *g = &w->x->group;
    const cbm_group_text *text = &g->text[point->text];
    const int64_t width = cbm_explainer_network(w->x)->backbone.embedding_width;
    const int64_t at = (unit * g->n_tokens + text->first_token) * width;
    if (point->place == 0.0) {
        text->unit[unit].baseline = logit;
        return;
    }
    text->unit[unit].value = logit;
    if (w->keeps_gradient) memcpy(g->gradient + at, gradient, (size_t)(text->n_tokens * width) * sizeof *gradient);
}

static scbm_status start_group(cbm_explainer *x, const char *const *texts, const size_t *lengths) {
    end_walk w = {.x = x, .keeps_gradient = needs_gradient(x)};
    const cbm_walk walk = {&w, next_end, take_end};
    scbm_status status = take_group_memory(x);
    if (!status) status = cbm_predict_batch(x->ctx, texts, lengths, (size_t)x->group.n_texts, &x->group.prediction);
    if (status) return status;
    for (int i = 0; i < x->group.n_texts; i++) start_text(x, i);
    return cbm_walk_points(x, &walk);
}

/* ------------------------------------------------------------------------------------------
 * Results of the group
 * ---------------------------------------------------------------------------------------- */

static scbm_status take_result_memory(cbm_explainer *x) {
    cbm_explain_result *r = &x->result;
    const size_t n = (size_t)x->group.n_texts, n_concepts = n * (size_t)cbm_explainer_concepts(x),
                 n_labels = n * (size_t)x->plan.n_labels, n_neurons = n_concepts * (size_t)x->plan.n_neurons,
                 n_rows = (size_t)cbm_explainer_units(x) * (size_t)cbm_attribution_method_count(),
                 n_tokens = n_rows * (size_t)x->group.n_tokens, n_words = n_rows * (size_t)x->group.n_words;
    const struct {
        void **place;
        size_t *capacity, n, size;
    } room[] = {{(void **)&r->concepts, &r->concepts_capacity, n_concepts, sizeof *r->concepts},
                {(void **)&r->labels, &r->labels_capacity, n_labels, sizeof *r->labels},
                {(void **)&r->neurons, &r->neurons_capacity, n_neurons, sizeof *r->neurons},
                {(void **)&r->token_value, &r->token_capacity, n_tokens, sizeof *r->token_value},
                {(void **)&r->word_value, &r->word_capacity, n_words, sizeof *r->word_value},
                {(void **)&r->token_place, &r->token_place_capacity, n * n_rows, sizeof *r->token_place},
                {(void **)&r->word_place, &r->word_place_capacity, n * n_rows, sizeof *r->word_place}};
    scbm_status status = SCBM_OK;
    for (size_t i = 0; i < sizeof room / sizeof room[0] && !status; i++)
        status = take_room(x, room[i].place, room[i].capacity, room[i].n, room[i].size);
    return status;
}

static float *token_values(const cbm_explainer *x, int method) {
    return x->result.token_value + (int64_t)method * cbm_explainer_units(x) * x->group.n_tokens;
}

static float *word_values(const cbm_explainer *x, int method) {
    return x->result.word_value + (int64_t)method * cbm_explainer_units(x) * x->group.n_words;
}

/* What the public structure says of unit `u` of text `i`. */
static cbm_explained_logit explained_logit(cbm_explainer *x, int i, int u) {
    const int n_methods = cbm_attribution_method_count();
    const cbm_group_text *text = &x->group.text[i];
    const cbm_unit_state *unit = &text->unit[u];
    const int64_t place = ((int64_t)i * cbm_explainer_units(x) + u) * n_methods;
    const float **tokens = x->result.token_place + place, **words = x->result.word_place + place;
    for (int m = 0; m < n_methods; m++) {
        tokens[m] = uses(x, m) ? token_values(x, m) + u * x->group.n_tokens + text->first_token : NULL;
        words[m] = uses(x, m) ? word_values(x, m) + u * x->group.n_words + text->first_word : NULL;
    }
    return (cbm_explained_logit){
        (float)unit->value, (float)unit->baseline, unit->steps, unit->converged, tokens, words};
}

static void finish_text(cbm_explainer *x, int i) {
    const cbm_heads *heads = &cbm_explainer_network(x)->heads;
    const cbm_group_text *text = &x->group.text[i];
    const int n_concepts = heads->n_concepts, n_labels = x->plan.n_labels;
    cbm_concept_explanation *concepts = x->result.concepts + i * n_concepts;
    cbm_label_explanation *labels = x->result.labels + i * n_labels;
    for (int k = 0; k < n_concepts; k++)
        concepts[k] = (cbm_concept_explanation){.result = &x->group.prediction[i]->concepts[k],
                                                .target = text->target[k],
                                                .target_name = heads->class_name[heads->groups[k] + text->target[k]],
                                                .density = x->subnetworks.density[k],
                                                .logit = explained_logit(x, i, k)};
    for (int j = 0; j < n_labels; j++)
        labels[j] = (cbm_label_explanation){text->label[j], heads->label_name[text->label[j]],
                                            explained_logit(x, i, n_concepts + j)};
    x->result.explanation[i] = (cbm_explanation){.prediction = x->group.prediction[i],
                                                 .n_concepts = n_concepts,
                                                 .n_labels = n_labels,
                                                 .n_tokens = (int)text->n_tokens,
                                                 .n_words = (int)text->n_words,
                                                 .n_methods = cbm_attribution_method_count(),
                                                 .tokens = x->group.tokens + text->first_token,
                                                 .words = x->group.words + text->first_word,
                                                 .concepts = n_concepts ? concepts : NULL,
                                                 .labels = n_labels ? labels : NULL,
                                                 .subnetworks = x->has_subnetworks ? &x->subnetworks : NULL};
}

static scbm_status attribute(cbm_explainer *x) {
    const size_t n = (size_t)cbm_explainer_units(x) * (size_t)x->group.n_tokens;
    scbm_status status = SCBM_OK;
    for (int m = 0; m < cbm_attribution_method_count() && n && !status; m++) {
        if (!uses(x, m)) continue;
        memset(token_values(x, m), 0, n * sizeof(float));
        status = cbm_attribution_kind_at(m)->compute(x, token_values(x, m));
        if (!status) cbm_sum_words(x, token_values(x, m), word_values(x, m));
    }
    return status;
}

static scbm_status explain_group(cbm_explainer *x, const char *const *texts, const size_t *lengths) {
    scbm_status status = start_group(x, texts, lengths);
    if (!status) status = take_result_memory(x);
    if (!status) status = attribute(x);
    for (int i = 0; i < x->group.n_texts && !status; i++) {
        finish_text(x, i);
        if (x->plan.n_neurons && x->group.text[i].n_tokens) status = cbm_find_neurons(x, i);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Calls
 * ---------------------------------------------------------------------------------------- */

/* The points that every text has, as far as they can be told beforehand. */
static int64_t points_of_text(const cbm_explainer *x) {
    const cbm_attribution_kind *kind;
    int64_t n = 2 * cbm_explainer_views(x) + (x->plan.n_neurons > 0);
    for (int m = 0; (kind = cbm_attribution_kind_at(m)); m++) {
        if (!uses(x, m)) continue;
        if (kind->needs & CBM_NEEDS_STEPS) n += (int64_t)cbm_explainer_views(x) * x->plan.steps;
        if (kind->needs & CBM_NEEDS_ATTENTION) n++;
    }
    return n;
}

static scbm_status explain_each(cbm_explainer *x, const char *const *texts, const size_t *lengths, size_t n,
                                cbm_explanation_function function, void *user) {
    scbm_status status = SCBM_OK;
    x->progress = (cbm_explain_progress){x->plan.what, 0, (int64_t)n, 0, points_of_text(x)};
    for (size_t done = 0, n_listed; done < n && !status; done += n_listed) {
        status = scbm_file_check(x->ctx->model->file);
        if (status) break;
        status = cbm_list_group(x, texts, lengths, done, n, &n_listed);
        if (!status) status = explain_group(x, texts + done, lengths ? lengths + done : NULL);
        for (size_t i = 0; !status && i < n_listed; i++) {
            status = function(user, done + i, &x->result.explanation[i]);
            x->progress.texts_done++;
            if (!status && n > 1) status = cbm_explain_tell(x, 0);
        }
    }
    return status;
}

scbm_status cbm_explain_each(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                             const cbm_explain_plan *plan, cbm_explanation_function function, void *user) {
    scbm_status status = scbm_file_check(ctx->model->file);
    if (!status) status = cbm_explainer_create(ctx);
    if (status) return status;
    cbm_explainer *x = cbm_explainer_of(ctx);
    x->plan = *plan;
    status = explain_each(x, texts, lengths, n, function, user);
    ctx->n_computed = 0; /* what an intervention would take for its text is one of many, or half explained */
    return status;
}

static scbm_status keep_explanation(void *user, size_t i, const cbm_explanation *explanation) {
    (void)i;
    *(const cbm_explanation **)user = explanation;
    return SCBM_OK;
}

static scbm_status explain_one(cbm_context *ctx, const char *text, const size_t *length,
                               const cbm_explain_options *options, const cbm_explanation **explanation) {
    cbm_explain_plan plan;
    *explanation = NULL;
    if (!text) return scbm_fail(SCBM_ERROR_ARGUMENT, "the text to explain is NULL");
    scbm_status status = cbm_plan_explanation(&plan, ctx->model, options);
    if (!status) status = cbm_explain_each(ctx, &text, length, 1, &plan, keep_explanation, (void *)explanation);
    if (status) *explanation = NULL;
    else ctx->n_computed = 1; /* an intervention may follow */
    return status;
}

scbm_status cbm_explain_text(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                             const cbm_explanation **explanation) {
    return cbm_context_result(ctx, explain_one(ctx, text, &length, options, explanation));
}

scbm_status cbm_explain(cbm_context *ctx, const char *text, const cbm_explain_options *options,
                        const cbm_explanation **explanation) {
    return cbm_context_result(ctx, explain_one(ctx, text, NULL, options, explanation));
}

scbm_status cbm_explain_batch(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                              const cbm_explain_options *options, cbm_explanation_function function, void *user) {
    cbm_explain_plan plan;
    scbm_status status = cbm_plan_explanation(&plan, ctx->model, options);
    if (!status && n && (!texts || !function))
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_explain_batch: the %s NULL", texts ? "function is" : "texts are");
    if (!status) status = cbm_explain_each(ctx, texts, lengths, n, &plan, function, user);
    return cbm_context_result(ctx, status);
}

scbm_status cbm_describe_subnetworks(cbm_context *ctx, const cbm_subnetworks **subnetworks) {
    *subnetworks = NULL;
    scbm_status status = cbm_check_concepts(ctx->model);
    if (!status) status = cbm_explainer_create(ctx);
    if (!status) *subnetworks = &cbm_explainer_of(ctx)->subnetworks;
    return cbm_context_result(ctx, status);
}
