/*
 * models/report/training.c - the page on a training run: its top, curves, settings
 */
#include "models/report/training.h"
#include "models/report/chart.h"
#include "models/report/templates/page.html.h"
#include "models/report/templates/training.html.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Curves
 * ---------------------------------------------------------------------------------------- */

enum { MOST_TICKS = 8, MOST_CURVES = 2, MOST_STEP_POINTS = 240, TICK_SIZE = 24 };

static const struct {
    const char *title, *hint;
    const struct {
        const char *title;
        size_t offset; /* in cbm_epoch_report */
        int of_concepts;
    } curve[MOST_CURVES];
    int of_pruning;
} charts[] = {
    {"Loss",
     "The mean over the epoch&#39;s steps, and on the validation data.",
     {{"training", offsetof(cbm_epoch_report, train_loss), 0},
      {"validation", offsetof(cbm_epoch_report, valid_loss), 0}},
     0},
    {"Accuracy",
     "The share that is read rightly.",
     {{"label", offsetof(cbm_epoch_report, label_accuracy), 0},
      {"concepts", offsetof(cbm_epoch_report, concept_accuracy), 1}},
     0},
    {"Macro F1",
     "The mean of the classes&#39; F1.",
     {{"label", offsetof(cbm_epoch_report, label_f1), 0}, {"concepts", offsetof(cbm_epoch_report, concept_f1), 1}},
     0},
    {"Sparsity",
     "The share of zeros in each matrix of each subnetwork; and of what pruning kept, the share that magnitude would keep.",
     {{"zeros", offsetof(cbm_epoch_report, sparsity), 0},
      {"as by magnitude", offsetof(cbm_epoch_report, magnitude_overlap), 0}},
     1},
};
enum { N_CHARTS = sizeof charts / sizeof charts[0] };

/* A chart's memory: values and ticks of up to so many points. */
typedef struct points {
    double *value; /* [MOST_CURVES, n] */
    const char **tick;
    char (*text)[TICK_SIZE]; /* [MOST_TICKS + 1] */
    int n;
} points;

static scbm_status take_points(points *p, int n, const scbm_hooks *hooks) {
    p->n = n;
    p->value = scbm_alloc_array(hooks, (size_t)n * MOST_CURVES, sizeof *p->value);
    p->tick = scbm_alloc_array(hooks, (size_t)n, sizeof *p->tick);
    p->text = scbm_alloc_array(hooks, MOST_TICKS + 1, sizeof *p->text);
    return p->value && p->tick && p->text ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static void release_points(points *p, const scbm_hooks *hooks) {
    scbm_release(hooks, p->value);
    scbm_release(hooks, (void *)p->tick);
    scbm_release(hooks, p->text);
}

/* Up to MOST_TICKS points have their number below them, the first one always. */
static void number_points(points *p, int64_t first, double step) {
    int apart = (p->n + MOST_TICKS - 1) / MOST_TICKS;
    for (int i = 0, at = 0; i < p->n; i += apart, at++) {
        snprintf(p->text[at], TICK_SIZE, "%lld", (long long)(first + (int64_t)((double)i * step)));
        p->tick[i] = p->text[at];
    }
}

/* What has no magnitude to be held against is -1. */
static double measure_of(const cbm_epoch_report *report, size_t offset) {
    double value = *(const double *)((const char *)report + offset);
    return value < 0 ? NAN : value;
}

static int was_pruned(const cbm_train_history *h) {
    return h->n_epochs && h->epoch[h->n_epochs - 1].sparsity > 0;
}

static void put_epoch_chart(cbm_page *page, const cbm_train_history *h, points *p, int number) {
    cbm_curve curve[MOST_CURVES];
    int n = 0;
    if (charts[number].of_pruning && !was_pruned(h)) return;
    for (int i = 0; i < MOST_CURVES; i++) {
        if (charts[number].curve[i].of_concepts && !page->n_concepts) continue;
        double *value = p->value + (size_t)i * (size_t)p->n;
        for (int e = 0; e < p->n; e++) value[e] = measure_of(&h->epoch[e], charts[number].curve[i].offset);
        curve[n++] = (cbm_curve){charts[number].curve[i].title, value, i};
    }
    cbm_page_chart(page, &(cbm_chart){.title = charts[number].title,
                                      .hint = charts[number].hint,
                                      .curve = curve,
                                      .n_curves = n,
                                      .n_points = p->n,
                                      .tick = p->tick,
                                      .has_legend = 1,
                                      .mark = h->best_epoch - 1});
}

/* The mean of the steps that a point stands for. */
static void thin(double *value, int n, const float *steps, int64_t n_steps) {
    for (int i = 0; i < n; i++) {
        int64_t from = n_steps * i / n, to = n_steps * (i + 1) / n;
        double sum = 0.0;
        for (int64_t j = from; j < to; j++) sum += (double)steps[j];
        value[i] = to > from ? sum / (double)(to - from) : NAN;
    }
}

static scbm_status put_step_charts(cbm_page *page, const cbm_train_history *h) {
    static const char *const titles[] = {"Loss of the steps", "Norm of the gradient"};
    const float *const steps[] = {h->step_loss, h->step_norm};
    points p = {0};
    int n = h->n_steps < MOST_STEP_POINTS ? (int)h->n_steps : MOST_STEP_POINTS;
    if (n < 1) return SCBM_OK;
    scbm_status status = take_points(&p, n, page->hooks);
    if (!status) number_points(&p, 1, (double)h->n_steps / n);
    for (int i = 0; i < 2 && !status; i++) {
        thin(p.value, n, steps[i], h->n_steps);
        const cbm_curve curve = {titles[i], p.value, 0};
        cbm_page_chart(page, &(cbm_chart){.title = titles[i],
                                          .hint = i ? "Before clipping, by the step." : "By the step.",
                                          .curve = &curve,
                                          .n_curves = 1,
                                          .n_points = n,
                                          .tick = p.tick,
                                          .mark = -1});
    }
    release_points(&p, page->hooks);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Epochs in numbers
 * ---------------------------------------------------------------------------------------- */

/* Whether a curve is one of this run's. */
static int has_curve(const cbm_page *page, const cbm_train_history *h, int number, int i) {
    return (page->n_concepts || !charts[number].curve[i].of_concepts) && (!charts[number].of_pruning || was_pruned(h));
}

static void put_epoch(cbm_page *page, const cbm_train_history *h, const cbm_epoch_report *e) {
    char name[32];
    snprintf(name, sizeof name, "%d%s", e->epoch, e->epoch == h->best_epoch ? " \xE2\x9C\x93" : "");
    cbm_page_begin(page, html_row, "name", name, NULL);
    for (int c = 0; c < N_CHARTS; c++)
        for (int i = 0; i < MOST_CURVES; i++) {
            if (!has_curve(page, h, c, i)) continue;
            double value = measure_of(e, charts[c].curve[i].offset);
            const char *text = isnan(value) ? "\xE2\x80\x93"
                               : c          ? cbm_page_percent(page, value)
                                            : cbm_page_number(page, value, 4);
            cbm_page_put(page, html_number, "value", text, NULL);
        }
    cbm_page_end(page, html_row, NULL);
}

static void put_epochs(cbm_page *page, const cbm_train_history *h) {
    static const char title[] = "All numbers";
    cbm_page_begin(page, html_details, "summary", title, NULL);
    cbm_page_begin(page, html_table, "title", title, NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_column, "name", "Epoch", NULL);
    for (int c = 0; c < N_CHARTS; c++)
        for (int i = 0; i < MOST_CURVES; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s, %s", charts[c].title, charts[c].curve[i].title);
            if (has_curve(page, h, c, i)) cbm_page_put(page, html_column, "name", name, "number", "", NULL);
        }
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int e = 0; e < h->n_epochs; e++) put_epoch(page, h, &h->epoch[e]);
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
    cbm_page_end(page, html_details, NULL);
}

static scbm_status put_curves(cbm_page *page, const cbm_train_history *h) {
    points p = {0};
    cbm_page_begin(page, html_curves, NULL);
    cbm_charts_begin(page);
    scbm_status status = take_points(&p, h->n_epochs, page->hooks);
    if (!status) number_points(&p, 1, 1);
    for (int i = 0; i < N_CHARTS && h->n_epochs && !status; i++) put_epoch_chart(page, h, &p, i);
    release_points(&p, page->hooks);
    if (!status) status = put_step_charts(page, h);
    cbm_charts_end(page);
    if (!status) put_epochs(page, h);
    cbm_page_end(page, html_curves, NULL);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Settings, as the model's file has them
 * ---------------------------------------------------------------------------------------- */

/* Whether a value is another than the default, where that is one: a run settles the others. */
static int is_changed(const cbm_train_setting *s, const char *value) {
    double number;
    if (s->kind == CBM_SETTING_CHOICE) {
        const char *standard = s->choice((int)(s->flags & CBM_SETTING_NAME ? s->least : s->standard));
        return standard && strcmp(standard, "file") != 0 && strcmp(standard, value) != 0;
    }
    if (scbm_parse_double(value, strlen(value), &number)) return strcmp(value, "none") != 0;
    return s->standard >= 0 && (float)number != (float)s->standard;
}

static void put_setting(cbm_page *page, const cbm_train_setting *s, const char *value) {
    double number;
    const char *changed = is_changed(s, value) ? "" : NULL;
    if (!scbm_parse_double(value, strlen(value), &number) && number < s->least) return; /* not in use */
    cbm_page_begin(page, html_setting, "name", s->option, "help", s->help, "changed", changed, NULL);
    cbm_page_escape(page, value, strlen(value));
    cbm_page_end(page, html_setting, "changed", changed, NULL);
}

/* The settings of a group, of which the table's rows stand one behind the other. Returns the first row after them. */
static int put_group(cbm_page *page, int first) {
    const cbm_train_setting *s = cbm_train_setting_at(first);
    const char *group = s->group;
    char number[32];
    int is_open = 0, i = first;
    for (; (s = cbm_train_setting_at(i)) && strcmp(s->group, group) == 0; i++) {
        const char *value = cbm_train_setting_of(s, page->model, number);
        if (!value) continue;
        if (!is_open) {
            cbm_page_begin(page, html_card, "title", group, NULL);
            cbm_page_begin(page, html_setting_table, NULL);
            is_open = 1;
        }
        put_setting(page, s, value);
    }
    if (is_open) {
        cbm_page_end(page, html_setting_table, NULL);
        cbm_page_end(page, html_card, NULL);
    }
    return i;
}

static void put_settings(cbm_page *page) {
    cbm_page_begin(page, html_settings, NULL);
    for (int i = 0; cbm_train_setting_at(i);) i = put_group(page, i);
    cbm_page_end(page, html_settings, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The whole page
 * ---------------------------------------------------------------------------------------- */

static void put_header(cbm_page *page, const cbm_training_report *r) {
    const cbm_train_history *h = r->history;
    const char *best = h->best_epoch ? cbm_page_integer(page, h->best_epoch) : NULL;
    const char *texts = r->evaluation ? cbm_page_count(page, (int64_t)r->evaluation->n) : NULL;
    cbm_page_put(page, html_header, "title", page->title, "best", best, "none", best ? NULL : "", "epochs",
                 cbm_page_integer(page, h->n_epochs), "mode", cbm_mode_name(cbm_model_mode(page->model)), "steps",
                 cbm_page_count(page, h->n_steps), "texts", texts, NULL);
}

scbm_status cbm_report_training_html(const char *path, const char *title, const cbm_model *model,
                                     const cbm_training_report *report, const scbm_hooks *hooks) {
    const int n_concepts = cbm_model_n_concepts(model);
    cbm_page page;
    scbm_status status = cbm_check_training_report(path, model, report);
    if (status) return status;
    double *importance = scbm_alloc_array(hooks, (size_t)n_concepts + 1, sizeof *importance);
    if (!importance) return SCBM_ERROR_MEMORY;
    status = cbm_page_open(&page, path, title, model, importance, hooks);
    scbm_release(hooks, importance);
    if (status) return status;
    put_header(&page, report);
    cbm_page_begin(&page, html_main, NULL);
    status = put_curves(&page, report->history);
    if (!status && report->evaluation) status = cbm_page_measures(&page, report->validation, report->evaluation);
    if (!status) put_settings(&page);
    cbm_page_end(&page, html_main, NULL);
    return cbm_page_close(&page, status);
}
