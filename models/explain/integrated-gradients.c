/*
 * models/explain/integrated-gradients.c - integrated gradients over the word embeddings (Sundararajan et al., ICML 2017)
 *
 * Σ_d (e_d − e'_d) · mean over the midpoints of the steps of ∂c/∂e_d on the way from the baseline e' to e. The steps are
 * doubled until a unit's values add up to the difference of its logits.
 */
#include "models/explain/methods.h"

#include <math.h>
#include <string.h>

#define TOLERANCE 0.01

/* Every text and view of which a unit has not converged, at the midpoints of `n_steps` steps. */
typedef struct path_walk {
    cbm_explainer *x;
    double *integral; /* [units, tokens]: sums over the steps so far */
    int n_steps;
    int text, view, step; /* the next point */
} path_walk;

static int is_open(const path_walk *w, int text, int view) {
    const cbm_unit_state *unit = w->x->group.text[text].unit;
    int u, end = cbm_view_units(w->x, view, &u), n_open = 0;
    for (; u < end; u++) n_open += !unit[u].converged;
    return n_open > 0;
}

static int next_midpoint(void *state, cbm_point *point) {
    path_walk *w = state;
    for (; w->text < w->x->group.n_texts; w->text++, w->view = 0) {
        for (; w->view < cbm_explainer_views(w->x); w->view++, w->step = 0) {
            if (w->step == w->n_steps || !is_open(w, w->text, w->view)) continue;
            *point = (cbm_point){w->text, w->view, ((double)w->step++ + 0.5) / w->n_steps};
            return 1;
        }
    }
    return 0;
}

static void add_gradient(void *state, const cbm_point *point, int unit, double logit, const float *gradient) {
    path_walk *w = state;
    const cbm_explain_group *group = &w->x->group;
    const cbm_group_text *text = &group->text[point->text];
    const int64_t width = cbm_explainer_network(w->x)->backbone.embedding_width;
    (void)logit;
    for (int64_t t = 0; t < text->n_tokens; t++) {
        int64_t at = text->first_token + t;
        w->integral[unit * group->n_tokens + at] += cbm_explain_dot(gradient + t * width, group->embedding + at * width,
                                                                    group->baseline + at * width, width);
    }
}

/* Takes a unit's integrals over, if it has not converged before. */
static void take_integrals(const path_walk *w, const cbm_group_text *text, int u, float *value) {
    cbm_unit_state *unit = &text->unit[u];
    if (unit->converged) return;
    const int64_t first = u * w->x->group.n_tokens + text->first_token;
    double sum = 0.0, delta = unit->value - unit->baseline;
    for (int64_t t = first; t < first + text->n_tokens; t++) {
        value[t] = (float)(w->integral[t] / w->n_steps);
        sum += (double)value[t];
    }
    unit->steps = w->n_steps;
    unit->converged = fabs(sum - delta) <= TOLERANCE * fmax(fabs(delta), 1.0);
}

/* Starts a round; returns how many points it has. */
static int64_t start_round(path_walk *w) {
    int64_t n = 0;
    w->text = w->view = w->step = 0;
    for (int i = 0; i < w->x->group.n_texts; i++)
        for (int view = 0; view < cbm_explainer_views(w->x); view++) n += is_open(w, i, view) ? w->n_steps : 0;
    return n;
}

static scbm_status compute_integrated_gradients(cbm_explainer *x, float *value) {
    const size_t n = (size_t)cbm_explainer_units(x) * (size_t)x->group.n_tokens;
    path_walk w = {.x = x, .n_steps = x->plan.steps};
    const cbm_walk walk = {&w, next_midpoint, add_gradient};
    scbm_status status = SCBM_OK;
    w.integral = scbm_alloc_array(cbm_explainer_hooks(x), n, sizeof *w.integral);
    if (!w.integral) return SCBM_ERROR_MEMORY;
    for (int64_t n_points; !status && (n_points = start_round(&w)) > 0; w.n_steps *= 2) {
        memset(w.integral, 0, n * sizeof *w.integral);
        if (w.n_steps > x->plan.steps) x->progress.n_points += n_points;
        status = cbm_walk_points(x, &walk);
        for (int i = 0; i < x->group.n_texts && !status; i++)
            for (int u = 0; u < cbm_explainer_units(x); u++) take_integrals(&w, &x->group.text[i], u, value);
        if (w.n_steps > x->plan.max_steps / 2) break;
    }
    scbm_release(cbm_explainer_hooks(x), w.integral);
    return status;
}

const cbm_attribution_kind cbm_attribution_integrated_gradients = {
    .shown = {.name = "integrated_gradients", .title = "integrated gradients", .adds_up = 1},
    .needs = CBM_NEEDS_STEPS,
    .compute = compute_integrated_gradients,
};
