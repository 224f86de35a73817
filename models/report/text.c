/*
 * models/report/text.c - the page that explains a text: its top, contributions, neurons
 */
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"
#include "models/report/templates/text.html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct text_report {
    cbm_page page;
    const char *text;
    size_t length;
    const cbm_explanation *explanation;
} text_report;

/* ------------------------------------------------------------------------------------------
 * The top of the page
 * ---------------------------------------------------------------------------------------- */

static void put_probability(cbm_page *page, const char *name, float probability, float logit, int is_best) {
    char hint[64];
    snprintf(hint, sizeof hint, "logit %s", cbm_page_signed(page, (double)logit, 3));
    cbm_page_bar(page, &(cbm_bar_row){.name = name,
                                      .hint = hint,
                                      .share = (double)probability,
                                      .value = cbm_page_percent(page, (double)probability),
                                      .is_best = is_best});
}

/* Where the part of the text ends that the model has read. */
static size_t read_length(const text_report *r) {
    const cbm_explanation *x = r->explanation;
    if (!x->prediction->truncated || !x->n_words) return r->length;
    int end = x->words[x->n_words - 1].end;
    return end > 0 && (size_t)end < r->length ? (size_t)end : r->length;
}

static void put_whole_text(text_report *r) {
    size_t end = read_length(r);
    cbm_page *page = &r->page;
    cbm_page_begin(page, html_whole_text, NULL);
    cbm_page_escape(page, r->text, end);
    cbm_page_end(page, html_whole_text, "goes-on", end < r->length ? "" : NULL, NULL);
    if (!r->explanation->prediction->truncated) return;
    cbm_page_begin(page, html_unread, "tokens", cbm_page_integer(page, r->explanation->prediction->n_tokens), NULL);
    cbm_page_escape(page, r->text + end, r->length - end);
    cbm_page_end(page, html_unread, NULL);
}

static int has_neurons(const cbm_explanation *x) {
    for (int k = 0; k < x->n_concepts; k++)
        if (x->concepts[k].n_neurons) return 1;
    return 0;
}

static void put_labels(cbm_page *page, const cbm_prediction *p) {
    cbm_page_begin(page, html_bars, NULL);
    for (int y = 0; y < p->n_labels; y++)
        put_probability(page, page->label[y], p->probabilities[y], p->logits[y], y == p->label_index);
    cbm_page_end(page, html_bars, NULL);
}

static void put_header(text_report *r) {
    cbm_page *page = &r->page;
    const cbm_prediction *p = r->explanation->prediction;
    cbm_page_begin(page, html_header, "title", page->title, "label", page->label[p->label_index], "probability",
                   cbm_page_percent(page, (double)p->probability), NULL);
    cbm_page_begin(page, html_text_column, NULL);
    put_whole_text(r);
    cbm_page_end(page, html_text_column, NULL);
    cbm_page_begin(page, html_labels_column, NULL);
    put_labels(page, p);
    cbm_page_end(page, html_labels_column, NULL);
    cbm_page_end(page, html_header, "concepts", page->n_concepts ? "" : NULL, "words",
                 r->explanation->n_words ? "" : NULL, "neurons", has_neurons(r->explanation) ? "" : NULL, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Contributions
 * ---------------------------------------------------------------------------------------- */

static int64_t to_thousandths(double value) {
    return fabs(value) < 1e12 ? (int64_t)floor(1000 * value + 0.5) : 0;
}

/* Thousandths of the bias (first) and each concept in the page's order, rounded so that they add up to the rounded
 * logit: those that are nearest to the next number give way. */
static void round_to_sum(const text_report *r, int64_t *thousandths, double *rest) {
    const cbm_prediction *p = r->explanation->prediction;
    int64_t sum = 0, wanted = to_thousandths((double)p->logits[p->label_index]);
    int n = r->page.n_concepts;
    for (int i = 0; i <= n; i++) {
        double exact = (double)(i ? p->concepts[r->page.order[i - 1]].contribution : p->bias);
        thousandths[i] = to_thousandths(exact);
        rest[i] = 1000 * exact - (double)thousandths[i];
        sum += thousandths[i];
    }
    for (int64_t left = wanted - sum, turns = 0; left && turns <= n; turns++) {
        int step = left > 0 ? 1 : -1, best = 0;
        for (int i = 1; i <= n; i++)
            if (step * rest[i] > step * rest[best]) best = i;
        thousandths[best] += step;
        rest[best] -= step;
        left -= step;
    }
}

/* The range of the running sum, zero included, and a little room. */
static void find_range(const text_report *r, double range[2]) {
    const cbm_prediction *p = r->explanation->prediction;
    double at = (double)p->bias;
    range[0] = fmin(0.0, at);
    range[1] = fmax(0.0, at);
    for (int i = 0; i < r->page.n_concepts; i++) {
        at += (double)p->concepts[r->page.order[i]].contribution;
        range[0] = fmin(range[0], at);
        range[1] = fmax(range[1], at);
    }
    double room = 0.02 * (range[1] - range[0]);
    if (!(room > 0)) room = 1.0;
    range[0] -= room;
    range[1] += room;
}

/* Where a thin line joins a bar to the one above it. */
typedef enum join { NO_JOIN, JOIN_AT_FROM, JOIN_AT_TO } join;

/* A bar from one running sum to the next. */
static void put_step(cbm_page *page, const double range[2], double from, double to, const char *kind, join join) {
    double scale = 100 / (range[1] - range[0]), left = (fmin(from, to) - range[0]) * scale;
    const char *joined = NULL;
    if (join != NO_JOIN) joined = cbm_page_plain(page, ((join == JOIN_AT_FROM ? from : to) - range[0]) * scale);
    cbm_page_put(page, html_step, "zero", cbm_page_plain(page, -range[0] * scale), "link", joined, "kind", kind, "left",
                 cbm_page_plain(page, left), "width", cbm_page_plain(page, fabs(to - from) * scale), NULL);
}

/* A row of the waterfall; `thousandths` is its value as it is shown, `sum` what is reached with it. */
typedef struct addend {
    const char *name, *class_name, *probability, *kind; /* probability: NULL for the bias, which is none */
    float exact;
    int64_t thousandths, sum;
    double from, to;
} addend;

static void put_addend(cbm_page *page, const double range[2], const addend *a, join join) {
    cbm_page_begin(page, html_addend, "name", a->name, "class", a->class_name, "probability", a->probability, NULL);
    put_step(page, range, a->from, a->to, a->kind, join);
    cbm_page_end(page, html_addend, "exact", cbm_page_exact(page, a->exact), "value",
                 cbm_page_signed(page, (double)a->thousandths / 1000, 3), "sum",
                 cbm_page_number(page, (double)a->sum / 1000, 3), NULL);
}

static void put_waterfall(text_report *r, const int64_t *thousandths) {
    cbm_page *page = &r->page;
    const cbm_prediction *p = r->explanation->prediction;
    double range[2], at = (double)p->bias;
    int64_t sum = thousandths[0];
    find_range(r, range);
    cbm_page_begin(page, html_waterfall, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    put_addend(page, range,
               &(addend){.name = "Bias",
                         .class_name = "every concept as usual",
                         .kind = "base",
                         .exact = p->bias,
                         .thousandths = sum,
                         .sum = sum,
                         .to = at},
               NO_JOIN);
    for (int i = 0; i < page->n_concepts; i++) {
        int k = page->order[i];
        const cbm_concept_result *c = &p->concepts[k];
        double to = at + (double)c->contribution;
        sum += thousandths[i + 1];
        put_addend(page, range,
                   &(addend){.name = page->concept[k],
                             .class_name = page->class_name[page->first_class[k] + c->class_index],
                             .probability = cbm_page_percent(page, (double)c->probability),
                             .kind = c->contribution < 0 ? "down" : "up",
                             .exact = c->contribution,
                             .thousandths = thousandths[i + 1],
                             .sum = sum,
                             .from = at,
                             .to = to},
                   JOIN_AT_FROM);
        at = to;
    }
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_begin(page, html_logit, "label", page->label[p->label_index], NULL);
    put_step(page, range, 0.0, at, "total", JOIN_AT_TO);
    cbm_page_end(page, html_logit, "exact", cbm_page_exact(page, p->logits[p->label_index]), "value",
                 cbm_page_number(page, (double)sum / 1000, 3), NULL);
    cbm_page_end(page, html_waterfall, NULL);
}

/* "−0.012 + 1.203 − 0.4 = 0.791": the same in a line. */
static void put_sum(text_report *r, const int64_t *thousandths) {
    cbm_page *page = &r->page;
    int64_t sum = thousandths[0];
    cbm_page_begin(page, html_sum, "bias", cbm_page_number(page, (double)sum / 1000, 3), NULL);
    for (int i = 1; i <= page->n_concepts; i++) {
        sum += thousandths[i];
        cbm_page_put(page, html_sum_term, "sign", thousandths[i] < 0 ? CBM_PAGE_MINUS : "+", "value",
                     cbm_page_number(page, fabs((double)thousandths[i]) / 1000, 3), NULL);
    }
    cbm_page_end(page, html_sum, "logit", cbm_page_number(page, (double)sum / 1000, 3), NULL);
}

static void put_readings(text_report *r) {
    cbm_page *page = &r->page;
    cbm_page_begin(page, html_readings, NULL);
    for (int i = 0; i < page->n_concepts; i++) {
        int k = page->order[i];
        const cbm_concept_result *c = &r->explanation->prediction->concepts[k];
        cbm_page_begin(page, html_card, "title", page->concept[k], NULL);
        cbm_page_begin(page, html_bars, NULL);
        for (int j = 0; j < c->n_classes; j++)
            put_probability(page, page->class_name[page->first_class[k] + j], c->probabilities[j], c->logits[j],
                            j == c->class_index);
        cbm_page_end(page, html_bars, NULL);
        cbm_page_end(page, html_card, NULL);
    }
    cbm_page_end(page, html_readings, NULL);
}

static scbm_status put_concepts(text_report *r) {
    size_t n = (size_t)r->page.n_concepts + 1;
    int64_t *thousandths = scbm_alloc_array(r->page.hooks, n, sizeof *thousandths);
    double *rest = scbm_alloc_array(r->page.hooks, n, sizeof *rest);
    if (thousandths && rest) {
        round_to_sum(r, thousandths, rest);
        cbm_page_begin(&r->page, html_concepts, "label", r->page.label[r->explanation->prediction->label_index], NULL);
        put_waterfall(r, thousandths);
        put_sum(r, thousandths);
        put_readings(r);
        cbm_page_end(&r->page, html_concepts, NULL);
    }
    scbm_status status = thousandths && rest ? SCBM_OK : SCBM_ERROR_MEMORY;
    scbm_release(r->page.hooks, thousandths);
    scbm_release(r->page.hooks, rest);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Neurons
 * ---------------------------------------------------------------------------------------- */

static void put_neuron(cbm_page *page, const cbm_explanation *x, const cbm_neuron_saliency *neuron, double largest) {
    const cbm_matrix *matrix = &x->subnetworks->matrices[neuron->matrix];
    char title[CBM_MATRIX_TITLE], name[CBM_MATRIX_TITLE + 48], hint[64];
    int length = snprintf(name, sizeof name, "layer %d, %s %d", matrix->block + 1,
                          cbm_matrix_title(matrix->name, title), neuron->row);
    snprintf(hint, sizeof hint, "saliency %s", cbm_page_exact(page, neuron->saliency));
    cbm_page_bar(page, &(cbm_bar_row){.text = name,
                                      .length = (size_t)length,
                                      .hint = hint,
                                      .share = largest > 0 ? (double)neuron->share / largest : 0.0,
                                      .value = cbm_page_percent(page, (double)neuron->share)});
}

static void put_neurons(text_report *r) {
    cbm_page *page = &r->page;
    const cbm_explanation *x = r->explanation;
    double largest = 0.0;
    if (!has_neurons(x)) return;
    for (int k = 0; k < x->n_concepts; k++)
        for (int i = 0; i < x->concepts[k].n_neurons; i++)
            largest = fmax(largest, (double)x->concepts[k].neurons[i].share);
    cbm_page_begin(page, html_neurons, NULL);
    for (int i = 0; i < page->n_concepts; i++) {
        const cbm_concept_explanation *concept = &x->concepts[page->order[i]];
        cbm_page_begin(page, html_card, "title", page->concept[page->order[i]], NULL);
        cbm_page_begin(page, html_bars, NULL);
        for (int j = 0; j < concept->n_neurons; j++) put_neuron(page, x, &concept->neurons[j], largest);
        cbm_page_end(page, html_bars, NULL);
        cbm_page_end(page, html_card, NULL);
    }
    cbm_page_end(page, html_neurons, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The whole page
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_report_html(const char *path, const char *title, const cbm_model *model, const char *text,
                            size_t length, const cbm_explanation *explanation, const scbm_hooks *hooks) {
    int n = explanation->n_concepts;
    text_report r = {.text = text, .length = length, .explanation = explanation};
    double *importance = scbm_alloc_array(hooks, (size_t)(n > 0 ? n : 1), sizeof *importance);
    if (!importance) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < n; k++) importance[k] = fabs((double)explanation->prediction->concepts[k].contribution);
    scbm_status status = cbm_page_open(&r.page, path, title, model, importance, hooks);
    scbm_release(hooks, importance);
    if (status) return status;
    put_header(&r);
    cbm_page_begin(&r.page, html_main, NULL);
    if (n) status = put_concepts(&r);
    if (!status && explanation->n_words) status = cbm_page_words(&r.page, text, length, explanation);
    if (!status && explanation->subnetworks) status = cbm_page_subnetworks(&r.page, explanation->subnetworks);
    if (!status) put_neurons(&r);
    cbm_page_end(&r.page, html_main, NULL);
    return cbm_page_close(&r.page, status);
}
