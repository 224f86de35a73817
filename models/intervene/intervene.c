/*
 * models/intervene/intervene.c - interventions: a concept's mask changed for one text, or its values edited
 */
#include "models/intervene/intervene.h"

#include <math.h>
#include <string.h>

#define DEFAULT_PORTION 0.05
#define DEFAULT_STEPS 10
#define SEARCH_PRECISION 1.1

int cbm_concept_reads(const cbm_heads *heads, const float *logits, int concept) {
    int first = heads->groups[concept];
    return cbm_largest(logits + first, heads->groups[concept + 1] - first);
}

/* ------------------------------------------------------------------------------------------
 * Masks
 * ---------------------------------------------------------------------------------------- */

/* A mask intervention under way. */
typedef struct mask_intervention {
    cbm_overlay *overlay;
    int concept, class_index;
    int64_t largest_kept; /* weights of a matrix: a portion below 1 of it moves nothing */
} mask_intervention;

/* Takes the concept's logits, out of those of all, for the text's. */
static void take_logits(cbm_overlay *o, const float *logits, int concept) {
    const cbm_heads *heads = cbm_overlay_heads(o);
    size_t first = (size_t)heads->groups[concept], n = (size_t)heads->groups[concept + 1] - first;
    float *computed = o->text.computed + first, *values = o->text.values + first;
    memcpy(computed, logits + first, n * sizeof(float));
    if (heads->mode == CBM_INDEPENDENT) cbm_softmax(computed, (int)n, values);
    else memcpy(values, computed, n * sizeof(float));
}

/* The concept's cross-entropy under the masks as they are, and its logits; whether it reads the class. */
static scbm_status run_forward(const mask_intervention *m, double *loss, int *reads_class) {
    cbm_overlay *o = m->overlay;
    scbm_status status = cbm_overlay_run(o, &o->forward, m->concept, m->class_index, loss);
    *reads_class = !status &&
                   cbm_concept_reads(cbm_overlay_heads(o), o->forward.logits->data, m->concept) == m->class_index;
    return status;
}

/* The same when a portion of the step is done. The masks are those before the step, before and after. */
static scbm_status try_portion(const mask_intervention *m, double portion, double *loss, int *is_enough) {
    scbm_status status = cbm_moves_apply(m->overlay, portion, 0);
    if (!status) status = run_forward(m, loss, is_enough);
    return status ? status : cbm_moves_apply(m->overlay, portion, 1);
}

/* Halves the way between a portion that is too little and one that is enough, until they are a tenth apart. */
static scbm_status narrow_portion(const mask_intervention *m, double too_little, double *enough) {
    while (*enough > too_little * SEARCH_PRECISION) {
        double loss, middle = sqrt(*enough * too_little);
        int is_enough;
        scbm_status status = try_portion(m, middle, &loss, &is_enough);
        if (status) return status;
        if (is_enough) *enough = middle;
        else too_little = middle;
    }
    return SCBM_OK;
}

/* How much of a step to do, from one weight of the largest matrix up to the step's portion, by doubling: what is enough
 * for the class, to a tenth; or, when the cross-entropy is larger again than the `loss` before the step, what made it
 * smallest; 0 where nothing does. A small step along a gradient says more than a large one. */
static scbm_status search_portion(const mask_intervention *m, double loss, double *portion) {
    const double most = m->overlay->portion;
    double too_little = 0.5 / (double)m->largest_kept, tried = 0, after = loss, least = loss;
    int is_enough = 0;
    *portion = 0;
    while (!is_enough && tried < most && !(*portion > 0 && after > loss)) {
        tried = 2 * too_little < most ? 2 * too_little : most;
        scbm_status status = try_portion(m, tried, &after, &is_enough);
        if (status) return status;
        if (is_enough || after < least) {
            *portion = tried;
            least = after;
        }
        if (!is_enough) too_little = tried;
    }
    return is_enough ? narrow_portion(m, too_little, portion) : SCBM_OK;
}

/* One step by the rule. *portion: what of it stays, 0 where nothing more can be moved. By whole steps one after which the
 * cross-entropy is larger is undone, and *is_undone. */
static scbm_status step_masks(const mask_intervention *m, double *portion, int *is_undone, int *reads_class) {
    cbm_overlay *o = m->overlay;
    const int is_signed = o->options->rule == CBM_SELECT_SIGNED, searches = is_signed && !o->options->whole_steps;
    double loss, after;
    int64_t n_moves = 0;
    *is_undone = 0;
    *portion = 0;
    cbm_moves_want(o);
    scbm_status status = cbm_overlay_run(o, &o->gradient, m->concept, m->class_index, &loss);
    if (!status) status = cbm_moves_count(o, &n_moves);
    if (status || n_moves == 0) return status;
    *portion = o->portion;
    if (searches) status = search_portion(m, loss, portion);
    if (status || *portion == 0) return status;
    status = cbm_moves_apply(o, *portion, 0);
    if (!status) status = run_forward(m, &after, reads_class);
    *is_undone = !status && is_signed && !searches && after > loss;
    return *is_undone ? cbm_moves_apply(o, *portion, 1) : status;
}

/* Steps until the concept reads the class, or nothing more can be moved. */
static scbm_status take_steps(const mask_intervention *m, int steps) {
    cbm_overlay *o = m->overlay;
    int reads_class = 0;
    for (int step = 0; step < steps && !reads_class && o->portion * (double)m->largest_kept >= 1.0; step++) {
        double portion;
        int is_undone;
        if (!o->progress.counts_texts) o->progress.done = step;
        scbm_status status = step_masks(m, &portion, &is_undone, &reads_class);
        if (status || portion == 0) return status;
        if (is_undone) {
            o->portion /= 2;
            reads_class = 0;
            continue;
        }
        o->result.steps++;
        o->result.portion = portion;
        take_logits(o, o->forward.logits->data, m->concept);
    }
    return SCBM_OK;
}

static int64_t largest_kept(const cbm_overlay *o) {
    int64_t most = 0;
    for (int i = 0; i < o->n_matrices; i++)
        if (o->matrix[i].kept > most) most = o->matrix[i].kept;
    return most;
}

static scbm_status intervene_masks(cbm_overlay *o, int concept, int class_index) {
    const cbm_intervene_options *options = o->options;
    cbm_overlay_load_masks(o, concept);
    take_logits(o, o->text.base, concept);
    o->portion = options->portion > 0 ? options->portion : DEFAULT_PORTION;
    int steps = options->steps ? options->steps : options->rule == CBM_SELECT_ABS ? 1 : DEFAULT_STEPS;
    const mask_intervention m = {o, concept, class_index, largest_kept(o)};
    if (!o->progress.counts_texts) o->progress.total = steps;
    scbm_status status = cbm_overlay_prepare_graphs(o);
    if (!status && cbm_concept_reads(cbm_overlay_heads(o), o->text.computed, concept) != class_index)
        status = take_steps(&m, steps);
    return status ? status : cbm_overlay_count_moved(o, concept, &o->result.moved_bits);
}

/* ------------------------------------------------------------------------------------------
 * Edits
 * ---------------------------------------------------------------------------------------- */

static scbm_status gold_mean(const cbm_model *model, int concept, int class_index, float *values, int n) {
    const cbm_heads *heads = &model->network.heads;
    int row = heads->groups[concept] + class_index;
    if (((const int32_t *)model->gold_counts->data)[row] < 1)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "no training text has class '%s' of concept '%s', so its mean is unknown: use one-hot values",
                         heads->class_name[row], heads->concept_name[concept]);
    memcpy(values, (const float *)model->gold_means->data + (size_t)row * (size_t)heads->max_classes,
           (size_t)n * sizeof *values);
    return SCBM_OK;
}

/* The caller's values for a concept's u. */
static scbm_status take_given(const cbm_overlay *o, int concept, float *values, int n) {
    const cbm_intervene_options *options = o->options;
    const char *name = cbm_overlay_heads(o)->concept_name[concept];
    if (!options->values || options->n_values != n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d values are given for concept '%s', which has %d classes",
                         options->values ? options->n_values : 0, name, n);
    for (int c = 0; c < n; c++)
        if (!isfinite(options->values[c]))
            return scbm_fail(SCBM_ERROR_ARGUMENT, "value %d that is given for concept '%s' is not finite", c, name);
    memcpy(values, options->values, (size_t)n * sizeof *values);
    return SCBM_OK;
}

/* Replaces u_k. The concept's logits become those that say the same. */
static scbm_status intervene_edit(cbm_overlay *o, int concept, int class_index) {
    const cbm_heads *heads = cbm_overlay_heads(o);
    const cbm_edit_values edit = o->options->edit;
    int first = heads->groups[concept], n = heads->groups[concept + 1] - first;
    float *values = o->text.values + first, *logits = o->text.computed + first;
    scbm_status status = SCBM_OK;
    take_logits(o, o->text.base, concept);
    if (edit != CBM_EDIT_GIVEN && !o->options->edit_always &&
        cbm_concept_reads(heads, o->text.base, concept) == class_index)
        return SCBM_OK;
    if (edit == CBM_EDIT_GIVEN) status = take_given(o, concept, values, n);
    else if (edit == CBM_EDIT_GOLD_MEAN) status = gold_mean(o->ctx->model, concept, class_index, values, n);
    else
        for (int c = 0; c < n; c++) values[c] = c == class_index ? 1.0f : 0.0f;
    for (int c = 0; c < n && !status; c++) {
        int is_probability = heads->mode == CBM_INDEPENDENT;
        logits[c] = is_probability ? (float)scbm_logarithm((double)fmaxf(values[c], 1e-30f)) : values[c];
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * An intervention on the overlay's text
 * ---------------------------------------------------------------------------------------- */

/* The concept's logits and values are kept, or put back. */
static void keep_concept(cbm_overlay *o, int concept, int put_back) {
    const cbm_heads *heads = cbm_overlay_heads(o);
    const size_t first = (size_t)heads->groups[concept], n = (size_t)heads->groups[concept + 1] - first;
    float *const now[2] = {o->text.computed + first, o->text.values + first};
    for (int i = 0; i < 2; i++) {
        float *former = o->former + i * heads->max_classes;
        memcpy(put_back ? now[i] : former, put_back ? former : now[i], n * sizeof(float));
    }
}

scbm_status cbm_intervene_text(cbm_overlay *o, int concept, int class_index, const cbm_intervene_options *options) {
    o->options = options;
    o->result = (cbm_intervention){.text = o->text.number,
                                   .concept = concept,
                                   .class_index = class_index,
                                   .total_bits = o->n_matrices ? cbm_masks_weights(&o->backbone, -1) : 0};
    o->result.before = cbm_overlay_predict(o, 0);
    keep_concept(o, concept, 0);
    scbm_status status = options->method == CBM_INTERVENE_MASK ? intervene_masks(o, concept, class_index)
                                                               : intervene_edit(o, concept, class_index);
    if (status) {
        keep_concept(o, concept, 1);
        return status;
    }
    o->result.after = cbm_overlay_predict(o, 1);
    o->result.succeeded = cbm_concept_reads(cbm_overlay_heads(o), o->text.computed, concept) == class_index;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The public functions
 * ---------------------------------------------------------------------------------------- */

static const cbm_intervene_options default_options; /* zeros */

scbm_status cbm_intervene_check(const cbm_model *model, const cbm_intervene_options *options) {
    cbm_mode mode = model->network.heads.mode;
    if (!options) options = &default_options;
    if (mode == CBM_ENCODER || mode == CBM_VANILLA)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "a model in %s mode has no concepts to intervene on",
                         cbm_mode_name(mode));
    if (!(options->portion >= 0 && options->portion <= 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the portion of weights to move is %g, and must lie in (0, 1]",
                         options->portion);
    if (options->steps < 0 || options->steps > 100000)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d steps of intervention", options->steps);
    if ((unsigned)options->method > CBM_INTERVENE_EDIT || (unsigned)options->rule > CBM_SELECT_ABS ||
        (unsigned)options->edit > CBM_EDIT_GIVEN)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "intervention: the method, rule or kind of edit is unknown");
    if (options->method == CBM_INTERVENE_MASK && !cbm_model_is_sparse(model))
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "a dense model has no subnetworks whose masks could change: edit the concept's values instead");
    return cbm_check_reserved(options->reserved, "cbm_intervene_options");
}

static scbm_status check_class(const cbm_heads *heads, int concept, int class_index) {
    if (concept < 0 || concept >= heads->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no concept %d among %d", concept, heads->n_concepts);
    int n = heads->groups[concept + 1] - heads->groups[concept];
    if (class_index < 0 || class_index >= n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no class %d; it has %d classes",
                         heads->concept_name[concept], class_index, n);
    return SCBM_OK;
}

/* On a text of the context's last predictions; the options have been checked. */
static scbm_status intervene(cbm_context *ctx, size_t text, int concept, int class_index,
                             const cbm_intervene_options *options, const cbm_intervention **intervention) {
    scbm_status status = check_class(&ctx->model->network.heads, concept, class_index);
    if (!status) status = cbm_overlay_create(ctx);
    if (status) return status;
    cbm_overlay *o = cbm_overlay_of(ctx);
    if (o->text.run != ctx->n_runs || o->text.number != text) status = cbm_overlay_load_text(o, text);
    o->progress = (cbm_overlay_progress){0, 0, 1};
    if (!status) status = cbm_intervene_text(o, concept, class_index, options);
    if (!status) *intervention = &o->result;
    return status;
}

scbm_status cbm_intervene_on(cbm_context *ctx, size_t text, int concept, int class_index,
                             const cbm_intervene_options *options, const cbm_intervention **intervention) {
    if (!options) options = &default_options;
    *intervention = NULL;
    scbm_status status = scbm_file_check(ctx->model->file);
    if (!status) status = cbm_intervene_check(ctx->model, options);
    if (!status && text >= ctx->n_computed)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "there is no text %zu among the %zu of the context's last prediction",
                           text, ctx->n_computed);
    if (!status) status = intervene(ctx, text, concept, class_index, options, intervention);
    return cbm_context_result(ctx, status);
}

scbm_status cbm_intervene_report(cbm_context *ctx, const char *concept, const char *class_name,
                                 const cbm_intervene_options *options, const cbm_intervention **intervention) {
    int k = 0, c = 0;
    if (!options) options = &default_options;
    *intervention = NULL;
    scbm_status status = scbm_file_check(ctx->model->file);
    if (!status) status = cbm_intervene_check(ctx->model, options);
    if (!status) status = cbm_model_find_class(ctx->model, concept, class_name, &k, &c);
    if (!status && ctx->n_computed != 1)
        status = scbm_fail(SCBM_ERROR_ARGUMENT,
                           "an intervention is on the text of the last cbm_predict, and there is none");
    if (!status) status = intervene(ctx, 0, k, c, options, intervention);
    return cbm_context_result(ctx, status);
}

scbm_status cbm_intervene(cbm_context *ctx, const char *concept, const char *class_name,
                          const cbm_intervene_options *options, const cbm_prediction **after) {
    const cbm_intervention *intervention;
    scbm_status status = cbm_intervene_report(ctx, concept, class_name, options, &intervention);
    *after = status ? NULL : intervention->after;
    return status;
}

void cbm_intervene_reset(cbm_context *ctx) {
    cbm_overlay *o = cbm_overlay_of(ctx);
    if (o) o->text.run = 0;
}
