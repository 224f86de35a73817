/*
 * models/report/text.c - explanations of a text, and of a data set, as self-contained HTML
 */
#include "models/report/parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * One text: the top of the page
 * ---------------------------------------------------------------------------------------- */

typedef struct text_report {
    cbm_page page;
    const char *text;
    size_t length;
    const cbm_explanation *explanation;
    int has_integrated; /* gradient × input alone was asked for where it is 0 */
    double largest[2];  /* the largest |attribution| of a word: integrated gradients, gradient × input */
} text_report;

static void put_probability(cbm_page *page, const char *name, float probability, float logit, int is_best) {
    cbm_put(page, "<li%s title=\"logit %s\"><span>%s</span>", is_best ? " class=\"best\"" : "",
            cbm_page_signed(page, (double)logit, 3), name);
    cbm_page_bar(page, (double)probability, -1.0);
    cbm_put(page, "<span class=\"n\">%s</span></li>\n", cbm_page_percent(page, (double)probability));
}

/* Where the part of the text ends that the model has read. */
static size_t read_length(const text_report *r) {
    const cbm_explanation *x = r->explanation;
    if (!x->prediction.truncated || !x->n_words) return r->length;
    int end = x->concepts[0].words[x->n_words - 1].end;
    return end > 0 && (size_t)end < r->length ? (size_t)end : r->length;
}

static void put_whole_text(text_report *r) {
    size_t end = read_length(r);
    cbm_put(&r->page, "<blockquote dir=\"auto\" lang=\"\" tabindex=\"0\">");
    cbm_page_escape(&r->page, r->text, end);
    cbm_put(&r->page, "%s</blockquote>\n", end < r->length ? " \xE2\x80\xA6" : "");
    if (!r->explanation->prediction.truncated) return;
    cbm_put(&r->page,
            "<details class=\"warn\"><summary>The text goes on, but the model reads %d tokens</summary>"
            "\n<p class=\"note unread\" "
            "dir=\"auto\" lang=\"\">",
            r->explanation->prediction.n_tokens);
    cbm_page_escape(&r->page, r->text + end, r->length - end);
    cbm_put(&r->page, "</p></details>\n");
}

static int has_neurons(const cbm_explanation *x) {
    for (int k = 0; k < x->n_concepts; k++)
        if (x->concepts[k].n_neurons) return 1;
    return 0;
}

static void put_text_header(text_report *r, const char *title) {
    cbm_page *page = &r->page;
    const cbm_prediction *p = &r->explanation->prediction;
    cbm_put(page, "<header>\n<p class=\"kicker\">How ");
    cbm_page_escape(page, title, strlen(title));
    cbm_put(
        page,
        " reads a text</p>\n<h1>Predicted label: %s <span class=\"soft\">%s</span></h1>\n<div class=\"head\">\n<div>\n",
        page->label[p->label_index], cbm_page_percent(page, (double)p->probability));
    put_whole_text(r);
    cbm_put(page, "</div>\n<div>\n<h2>Labels</h2>\n<ul class=\"bars\">\n");
    for (int y = 0; y < p->n_labels; y++)
        put_probability(page, page->label[y], p->probabilities[y], p->logits[y], y == p->label_index);
    cbm_put(page,
            "</ul>\n</div>\n</div>\n<nav aria-label=\"Sections\"><a href=\"#concepts\">Concepts</a>%s"
            "<a href=\"#subnetworks\">Subnetworks</a>%s</nav>\n</header>\n<main>\n",
            r->explanation->n_words ? "<a href=\"#words\">Words</a>" : "",
            has_neurons(r->explanation) ? "<a href=\"#neurons\">Neurons</a>" : "");
}

/* ------------------------------------------------------------------------------------------
 * One text: contributions
 * ---------------------------------------------------------------------------------------- */

static int64_t to_thousandths(double value) {
    return fabs(value) < 1e12 ? (int64_t)floor(1000 * value + 0.5) : 0;
}

/* Thousandths of the bias (first) and each concept in the page's order, rounded so that they add up to the rounded
 * logit: those that are nearest to the next number give way. */
static void round_to_sum(const text_report *r, int64_t *thousandths, double *rest) {
    const cbm_prediction *p = &r->explanation->prediction;
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
    const cbm_prediction *p = &r->explanation->prediction;
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

/* A bar from one running sum to the next; `link` joins it to the bar above. */
static void put_step(cbm_page *page, const double range[2], double from, double to, const char *kind, int link) {
    double scale = 100 / (range[1] - range[0]), left = (fmin(from, to) - range[0]) * scale,
           width = fabs(to - from) * scale;
    cbm_put(page, "<td class=\"chart\" aria-hidden=\"true\"><i class=\"zero\" style=\"left:%s%%\"></i>",
            cbm_page_plain(page, -range[0] * scale));
    if (link)
        cbm_put(page, "<i class=\"link\" style=\"left:%s%%\"></i>",
                cbm_page_plain(page, ((link > 0 ? from : to) - range[0]) * scale));
    cbm_put(page, "<i class=\"step %s\" style=\"left:%s%%;width:%s%%\"></i></td>", kind, cbm_page_plain(page, left),
            cbm_page_plain(page, width));
}

static void put_waterfall(text_report *r, const int64_t *thousandths) {
    cbm_page *page = &r->page;
    const cbm_prediction *p = &r->explanation->prediction;
    double range[2], at = (double)p->bias;
    int64_t sum = thousandths[0];
    find_range(r, range);
    cbm_put(page, "<table class=\"fall\">\n<thead><tr><th scope=\"col\">Concept</th><td></td><th "
                  "scope=\"col\" class=\"n\">contribution"
                  "</th><th scope=\"col\" class=\"n run\">sum so far</th></tr></thead>\n<tbody>\n"
                  "<tr><th scope=\"row\">Bias<small>every concept as usual</small></th>");
    put_step(page, range, 0.0, at, "base", 0);
    cbm_put(page, "<td class=\"n\"><data value=\"%s\">%s</data></td><td class=\"n run\">%s</td></tr>\n",
            cbm_page_exact(page, p->bias), cbm_page_signed(page, (double)thousandths[0] / 1000, 3),
            cbm_page_number(page, (double)sum / 1000, 3));
    for (int i = 0; i < page->n_concepts; i++) {
        int k = page->order[i];
        const cbm_concept_result *c = &p->concepts[k];
        double to = at + (double)c->contribution;
        sum += thousandths[i + 1];
        cbm_put(page, "<tr><th scope=\"row\">%s<small>%s, %s</small></th>", page->concept[k],
                page -> class_name[page->first_class[k] + c->class_index],
                cbm_page_percent(page, (double)c->probability));
        put_step(page, range, at, to, c->contribution < 0 ? "down" : "up", 1);
        cbm_put(page, "<td class=\"n\"><data value=\"%s\">%s</data></td><td class=\"n run\">%s</td></tr>\n",
                cbm_page_exact(page, c->contribution), cbm_page_signed(page, (double)thousandths[i + 1] / 1000, 3),
                cbm_page_number(page, (double)sum / 1000, 3));
        at = to;
    }
    cbm_put(page, "</tbody>\n<tfoot><tr><th scope=\"row\">Logit of %s</th>", page->label[p->label_index]);
    put_step(page, range, 0.0, at, "total", -1);
    cbm_put(page, "<td class=\"n\"><data value=\"%s\">%s</data></td><td class=\"run\"></td></tr></tfoot>\n</table>\n",
            cbm_page_exact(page, p->logits[p->label_index]), cbm_page_number(page, (double)sum / 1000, 3));
}

/* "−0.012 + 1.203 − 0.4 = 0.791": the same in a line. */
static void put_sum(text_report *r, const int64_t *thousandths) {
    cbm_page *page = &r->page;
    int64_t sum = thousandths[0];
    cbm_put(page, "<p class=\"sum note\"><span>%s</span>", cbm_page_number(page, (double)thousandths[0] / 1000, 3));
    for (int i = 1; i <= page->n_concepts; i++) {
        sum += thousandths[i];
        cbm_put(page, " <span>%s %s</span>", thousandths[i] < 0 ? "\xE2\x88\x92" : "+",
                cbm_page_number(page, fabs((double)thousandths[i]) / 1000, 3));
    }
    cbm_put(page, " <span>= %s</span></p>\n", cbm_page_number(page, (double)sum / 1000, 3));
}

static void put_concept_classes(text_report *r) {
    cbm_page *page = &r->page;
    cbm_put(page, "<figure><h3>What each concept reads</h3>\n<div class=\"cards\">\n");
    for (int i = 0; i < page->n_concepts; i++) {
        int k = page->order[i];
        const cbm_concept_result *c = &r->explanation->prediction.concepts[k];
        cbm_put(page, "<div class=\"card\"><h3>%s</h3>\n<ul class=\"bars\">\n", page->concept[k]);
        for (int j = 0; j < c->n_classes; j++)
            put_probability(page, page->class_name[page->first_class[k] + j], c->probabilities[j], c->logits[j],
                            j == c->class_index);
        cbm_put(page, "</ul></div>\n");
    }
    cbm_put(page, "</div></figure>\n");
}

static scbm_status put_concepts(text_report *r) {
    size_t n = (size_t)r->page.n_concepts + 1;
    int64_t *thousandths = scbm_alloc_array(r->page.hooks, n, sizeof *thousandths);
    double *rest = scbm_alloc_array(r->page.hooks, n, sizeof *rest);
    if (thousandths && rest) {
        round_to_sum(r, thousandths, rest);
        cbm_put(&r->page,
                "<section id=\"concepts\">\n<h2>Why the label is %s</h2>\n<p>The label is read from "
                "the concepts alone. Each one moves its "
                "logit up <span class=\"key up\"></span> or down <span class=\"key down\"></span> from where it would "
                "stand if "
                "every concept were as in the mean training text.</p>\n",
                r->page.label[r->explanation->prediction.label_index]);
        put_waterfall(r, thousandths);
        put_sum(r, thousandths);
        put_concept_classes(r);
        cbm_put(&r->page, "</section>\n");
    }
    scbm_status status = thousandths && rest ? SCBM_OK : SCBM_ERROR_MEMORY;
    scbm_release(r->page.hooks, thousandths);
    scbm_release(r->page.hooks, rest);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * One text: words
 * ---------------------------------------------------------------------------------------- */

static double attribution(const cbm_word_attribution *word, int method) {
    return (double)(method ? word->gradient_input : word->integrated_gradients);
}

static void find_largest(text_report *r) {
    const cbm_explanation *x = r->explanation;
    for (int k = 0; k < x->n_concepts; k++) {
        r->has_integrated |= x->concepts[k].steps > 0;
        for (int i = 0; i < x->n_words; i++)
            for (int method = 0; method < 2; method++)
                r->largest[method] = fmax(r->largest[method], fabs(attribution(&x->concepts[k].words[i], method)));
    }
}

/* From 0 (none) to 8: a power below 1 of the share of the largest, so that weaker words are seen too. */
#define POWER 0.7
static int strength(double value, double largest) {
    return largest > 0 ? (int)floor(8 * pow(fabs(value) / largest, POWER) + 0.5) : 0;
}

/* Its classes say how strong it is by each method. Without integrated gradients the other stands in their place. */
static void put_word(text_report *r, const cbm_word_attribution *word) {
    cbm_page *page = &r->page;
    char classes[16] = "";
    for (int method = 0; method < 2; method++) {
        double value = attribution(word, r->has_integrated ? method : 1);
        int level = strength(value, r->largest[r->has_integrated ? method : 1]);
        char letter = "pnud"[2 * method + (value < 0)];
        if (level)
            snprintf(classes + strlen(classes), sizeof classes - strlen(classes), "%s%c%d", *classes ? " " : "", letter,
                     level);
    }
    cbm_put(page, *classes ? "<span class=\"%s\" title=\"" : "<span%s title=\"", classes);
    if (r->has_integrated) cbm_put(page, "integrated gradients %s, ", cbm_page_signed(page, attribution(word, 0), 3));
    cbm_put(page, "gradient \xC3\x97 input %s\">", cbm_page_signed(page, attribution(word, 1), 3));
    cbm_page_escape(page, r->text + word->start, (size_t)(word->end - word->start));
    cbm_put(page, "</span>");
}

/* Whether a word lies in the text, behind `at`. */
static int is_placed(const text_report *r, const cbm_word_attribution *word, size_t at) {
    return word->start >= 0 && word->end >= word->start && (size_t)word->start >= at && (size_t)word->end <= r->length;
}

static void put_highlighted(text_report *r, const cbm_concept_explanation *concept) {
    size_t at = 0;
    cbm_put(&r->page, "<p class=\"text\" dir=\"auto\" lang=\"\">");
    for (int i = 0; i < r->explanation->n_words; i++) {
        const cbm_word_attribution *word = &concept->words[i];
        if (!is_placed(r, word, at)) continue;
        cbm_page_escape(&r->page, r->text + at, (size_t)word->start - at);
        put_word(r, word);
        at = (size_t)word->end;
    }
    if (r->explanation->prediction.truncated) cbm_put(&r->page, " \xE2\x80\xA6");
    else cbm_page_escape(&r->page, r->text + at, r->length - at);
    cbm_put(&r->page, "</p>\n");
}

static void put_attribution_sums(text_report *r, const cbm_concept_explanation *concept) {
    cbm_page *page = &r->page;
    double sum[2] = {0.0, 0.0}, delta = (double)concept->target_logit - (double)concept->baseline_logit;
    for (int i = 0; i < r->explanation->n_words; i++)
        for (int method = 0; method < 2; method++) sum[method] += attribution(&concept->words[i], method);
    if (r->has_integrated) {
        cbm_put(page, "<p class=\"note of-1%s\">The words add up to %s: the logit is %s without them and %s with them.",
                concept->converged ? "" : " warn", cbm_page_signed(page, sum[0], 3),
                cbm_page_number(page, (double)concept->baseline_logit, 3),
                cbm_page_number(page, (double)concept->target_logit, 3));
        if (!concept->converged)
            cbm_put(page, " These differ by %s: %d steps were not enough for the attributions to converge.",
                    cbm_page_signed(page, delta, 3), concept->steps);
        cbm_put(page, "</p>\n");
    }
    cbm_put(page, "<p class=\"note%s\">The words add up to %s; the logit is %s.</p>\n",
            r->has_integrated ? " of-2" : "", cbm_page_signed(page, sum[1], 3),
            cbm_page_number(page, (double)concept->target_logit, 3));
}

static void put_concept_words(text_report *r, int k) {
    cbm_page *page = &r->page;
    const cbm_concept_explanation *concept = &r->explanation->concepts[k];
    const cbm_concept_result *result = &r->explanation->prediction.concepts[k];
    const char *target = page->class_name[page->first_class[k] + concept->target];
    cbm_put(page, "<article><header><h3>%s</h3><p class=\"note\">for <b>%s</b>", page->concept[k], target);
    if (concept->target == result->class_index)
        cbm_put(page, ", %s", cbm_page_percent(page, (double)result->probability));
    else cbm_put(page, "; it reads %s", page->class_name[page->first_class[k] + result->class_index]);
    cbm_put(page, "</p></header>\n");
    put_highlighted(r, concept);
    cbm_put(page, "<div>\n");
    put_attribution_sums(r, concept);
    cbm_put(page, "</div></article>\n");
}

/* Three strengths of each sign with the numbers that they stand for. */
static void put_legend(text_report *r, int method) {
    cbm_page *page = &r->page;
    static const int levels[3] = {8, 5, 2};
    int place = r->has_integrated ? method : 0;
    cbm_put(page, "<p class=\"legend%s\"><span>against</span>", !r->has_integrated ? "" : method ? " of-2" : " of-1");
    for (int i = 0; i < 6; i++) {
        int level = levels[i < 3 ? i : 5 - i];
        double value = r->largest[method] * pow(level / 8.0, 1 / POWER);
        cbm_put(page, "<span class=\"%c%d\">%s</span>", "npdu"[2 * place + (i >= 3)], level,
                cbm_page_signed(page, i < 3 ? -value : value, r->largest[method] < 0.1 ? 4 : 2));
    }
    cbm_put(page, "<span>for the class</span></p>\n");
}

static void put_word_table(text_report *r) {
    cbm_page *page = &r->page;
    const cbm_explanation *x = r->explanation;
    cbm_put(page, "<details><summary>All numbers</summary>\n<div class=\"scroll\" tabindex=\"0\" "
                  "role=\"region\" aria-label=\"All "
                  "numbers\"><table>\n<thead><tr><th scope=\"col\">Word</th>");
    for (int i = 0; i < page->n_concepts; i++)
        cbm_put(page, "<th scope=\"col\" class=\"n\">%s</th>", page->concept[page->order[i]]);
    cbm_put(page, "</tr></thead>\n<tbody>\n");
    for (int w = 0; w < x->n_words; w++) {
        const cbm_word_attribution *word = &x->concepts[0].words[w];
        if (!is_placed(r, word, 0)) continue;
        cbm_put(page, "<tr><th scope=\"row\" dir=\"auto\" lang=\"\">");
        cbm_page_escape(page, r->text + word->start, (size_t)(word->end - word->start));
        cbm_put(page, "</th>");
        for (int i = 0; i < page->n_concepts; i++) {
            const cbm_word_attribution *of_concept = &x->concepts[page->order[i]].words[w];
            cbm_put(page, "<td class=\"n\">");
            if (r->has_integrated)
                cbm_put(page, "<span class=\"of-1\">%s</span>", cbm_page_signed(page, attribution(of_concept, 0), 3));
            cbm_put(page, "<span%s>%s</span></td>", r->has_integrated ? " class=\"of-2\"" : "",
                    cbm_page_signed(page, attribution(of_concept, 1), 3));
        }
        cbm_put(page, "</tr>\n");
    }
    cbm_put(page, "</tbody>\n</table></div></details>\n");
}

static void put_choice(cbm_page *page, const char *first, const char *second) {
    cbm_put(page, "<input class=\"by\" type=\"radio\" name=\"by\" id=\"by-1\" checked><label for=\"by-1\">%s</label>\n",
            first);
    if (second)
        cbm_put(page, "<input class=\"by\" type=\"radio\" name=\"by\" id=\"by-2\"><label for=\"by-2\">%s</label>\n",
                second);
}

static void put_words(text_report *r) {
    cbm_page *page = &r->page;
    if (!r->explanation->n_words) return;
    cbm_put(page,
            "<section id=\"words\" class=\"words toggled\">\n<h2>What each concept saw in the text</h2>\n<p>"
            "How far each word moves "
            "the logit of the class that a concept reads, through the concept&#39;s own subnetwork%s.</p>\n",
            r->has_integrated ? ", compared with a text whose words are masked" : "");
    put_choice(page, r->has_integrated ? "Integrated gradients" : "Gradient \xC3\x97 input",
               r->has_integrated ? "Gradient \xC3\x97 input" : NULL);
    cbm_put(page, "<div>\n");
    for (int method = r->has_integrated ? 0 : 1; method < 2; method++) put_legend(r, method);
    for (int i = 0; i < page->n_concepts; i++) put_concept_words(r, page->order[i]);
    put_word_table(r);
    cbm_put(page, "</div>\n</section>\n");
}

/* ------------------------------------------------------------------------------------------
 * One text: neurons
 * ---------------------------------------------------------------------------------------- */

static void put_neurons(text_report *r) {
    cbm_page *page = &r->page;
    const cbm_explanation *x = r->explanation;
    double largest = 0.0;
    if (!has_neurons(x)) return;
    for (int k = 0; k < x->n_concepts; k++)
        for (int i = 0; i < x->concepts[k].n_neurons; i++)
            largest = fmax(largest, (double)x->concepts[k].neurons[i].share);
    cbm_put(page,
            "<section id=\"neurons\">\n<h2>Neurons that carry this text</h2>\n<p>Of each concept the neurons with the "
            "largest saliency, "
            "the sum of |weight \xC3\x97 gradient| over their kept weights, as a share of all neurons&#39;.</p>"
            "\n<div class=\"cards two\">\n");
    for (int i = 0; i < page->n_concepts; i++) {
        const cbm_concept_explanation *concept = &x->concepts[page->order[i]];
        cbm_put(page, "<div class=\"card\"><h3>%s</h3>\n<ul class=\"bars\">\n", page->concept[page->order[i]]);
        for (int j = 0; j < concept->n_neurons; j++) {
            const cbm_neuron_saliency *neuron = &concept->neurons[j];
            const cbm_matrix *matrix = &x->subnetworks->matrices[neuron->matrix];
            char title[64];
            cbm_put(page, "<li title=\"saliency %s\"><span>layer %d, ", cbm_page_exact(page, neuron->saliency),
                    matrix->block + 1);
            cbm_matrix_title(matrix->name, title);
            cbm_page_escape(page, title, strlen(title));
            cbm_put(page, " %d</span>", neuron->row);
            cbm_page_bar(page, largest > 0 ? (double)neuron->share / largest : 0.0, -1.0);
            cbm_put(page, "<span class=\"n\">%s</span></li>\n", cbm_page_percent(page, (double)neuron->share));
        }
        cbm_put(page, "</ul></div>\n");
    }
    cbm_put(page, "</div>\n</section>\n");
}

/* ------------------------------------------------------------------------------------------
 * One text: the whole page
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_report_html(const char *path, const char *title, const cbm_model *model, const char *text,
                            size_t length, const cbm_explanation *explanation, const scbm_hooks *hooks) {
    int n = explanation->n_concepts;
    text_report r = {.text = text, .length = length, .explanation = explanation};
    double *importance = scbm_alloc_array(hooks, (size_t)(n > 0 ? n : 1), sizeof *importance);
    if (!importance) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < n; k++) importance[k] = fabs((double)explanation->prediction.concepts[k].contribution);
    scbm_status status = cbm_page_open(&r.page, path, title, model, importance, hooks);
    scbm_release(hooks, importance);
    if (status) return status;
    find_largest(&r);
    put_text_header(&r, title);
    status = put_concepts(&r);
    if (!status) {
        put_words(&r);
        status = cbm_page_subnetworks(&r.page, explanation->subnetworks);
    }
    if (!status) put_neurons(&r);
    cbm_put(&r.page, "</main>\n");
    return cbm_page_close(&r.page, status);
}

/* ------------------------------------------------------------------------------------------
 * A data set: the top of the page
 * ---------------------------------------------------------------------------------------- */

static double share_of(int64_t part, size_t whole) {
    return whole ? (double)part / (double)whole : 0.0;
}

static void put_global_header(cbm_page *page, const char *title, const cbm_global_report *r) {
    cbm_put(page, "<header>\n<p class=\"kicker\">How a model reads a data set</p>\n<h1>");
    cbm_page_escape(page, title, strlen(title));
    cbm_put(page, "</h1>\n<div class=\"head\">\n<div>\n<p class=\"lead\">%s text%s",
            cbm_page_count(page, (int64_t)r->n_texts), r->n_texts == 1 ? "" : "s");
    if (r->n_truncated)
        cbm_put(page, ", %s of them longer than the model reads", cbm_page_count(page, (int64_t)r->n_truncated));
    cbm_put(
        page,
        ". Influential words are from %s of them.</p>\n</div>\n<div>\n<h2>Predicted labels</h2>\n<ul class=\"bars\">\n",
        cbm_page_count(page, (int64_t)r->n_explained));
    for (int y = 0; y < r->n_labels; y++) {
        cbm_put(page, "<li title=\"%lld texts\"><span>%s</span>", (long long)r->label_count[y], page->label[y]);
        cbm_page_bar(page, share_of(r->label_count[y], r->n_texts), -1.0);
        cbm_put(page, "<span class=\"n\">%s</span></li>\n",
                cbm_page_percent(page, share_of(r->label_count[y], r->n_texts)));
    }
    cbm_put(page,
            "</ul>\n</div>\n</div>\n<nav aria-label=\"Sections\"><a href=\"#concepts\">Contributions</a><a "
            "href=\"#words\">Words</a>"
            "%s<a href=\"#subnetworks\">Subnetworks</a></nav>\n</header>\n<main>\n",
            r->faithfulness ? "<a href=\"#faithfulness\">Faithfulness</a>" : "");
}

/* ------------------------------------------------------------------------------------------
 * A data set: contributions
 * ---------------------------------------------------------------------------------------- */

static double largest_of(const double *values, size_t n) {
    double largest = 0.0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(values[i]));
    return largest;
}

/* A cell of the mean and one of the mean absolute contribution, of which the style shows one. */
static void put_contribution(cbm_page *page, const cbm_global_report *r, int k, int y, double largest) {
    double mean = r->contribution[k * r->n_labels + y], absolute = r->absolute_contribution[k * r->n_labels + y];
    if (!r->label_count[y]) {
        cbm_put(page, "<td class=\"self\">\xE2\x80\x93</td>");
        return;
    }
    cbm_put(page, "<td class=\"of-1\" style=\"background:rgb(var(--%s)/%s)\"><data value=\"%s\">%s</data></td>",
            mean < 0 ? "neg" : "pos", cbm_page_plain(page, largest > 0 ? 0.5 * fabs(mean) / largest : 0.0),
            cbm_page_exact(page, (float)mean), cbm_page_signed(page, mean, 2));
    cbm_put(page, "<td class=\"of-2\" style=\"background:rgb(var(--seq)/%s)\">%s</td>",
            cbm_page_plain(page, largest > 0 ? 0.5 * absolute / largest : 0.0), cbm_page_number(page, absolute, 2));
}

static void put_contributions(cbm_page *page, const cbm_global_report *r) {
    double largest = largest_of(r->absolute_contribution, (size_t)r->n_concepts * (size_t)r->n_labels);
    double most = largest_of(r->importance, (size_t)r->n_concepts);
    cbm_put(page, "<section id=\"concepts\" class=\"toggled\">\n<h2>What the labels are read from</h2>\n<p>"
                  "How far each concept moves a label&#39;s "
                  "logit, mean over the texts that are predicted this label.</p>\n");
    put_choice(page, "Mean", "Mean of absolute values");
    cbm_put(
        page,
        "<div class=\"side\"><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Contributions\"><table "
        "class=\"heat\">\n<thead><tr><td></td>");
    for (int y = 0; y < r->n_labels; y++) cbm_put(page, "<th scope=\"col\">%s</th>", page->label[y]);
    cbm_put(page, "</tr></thead>\n<tbody>\n");
    for (int i = 0; i < r->n_concepts; i++) {
        int k = page->order[i];
        cbm_put(page, "<tr><th scope=\"row\">%s</th>", page->concept[k]);
        for (int y = 0; y < r->n_labels; y++) put_contribution(page, r, k, y, largest);
        cbm_put(page, "</tr>\n");
    }
    cbm_put(page, "</tbody>\n</table></div>\n<div class=\"card\"><h3>Importance</h3>\n<ul class=\"bars\">\n");
    for (int i = 0; i < r->n_concepts; i++) {
        int k = page->order[i];
        cbm_put(page, "<li><span>%s</span>", page->concept[k]);
        cbm_page_bar(page, most > 0 ? r->importance[k] / most : 0.0, -1.0);
        cbm_put(page, "<span class=\"n\">%s</span></li>\n", cbm_page_number(page, r->importance[k], 3));
    }
    cbm_put(page, "</ul>\n<p class=\"note\">Mean |contribution| to the predicted label over all texts.</p></div></div>"
                  "\n</section>\n");
}

/* ------------------------------------------------------------------------------------------
 * A data set: words
 * ---------------------------------------------------------------------------------------- */

static void put_class_words(cbm_page *page, const cbm_global_report *r, int class_number, double largest) {
    const cbm_word_influence *words = r->words + (size_t)class_number * (size_t)r->most_words;
    cbm_put(page, "<h4>%s <span class=\"soft\">%s</span></h4>\n", page->class_name[class_number],
            cbm_page_percent(page, share_of(r->class_count[class_number], r->n_texts)));
    if (!r->n_words[class_number]) {
        cbm_put(page, "<p class=\"note\">No word speaks for it.</p>\n");
        return;
    }
    cbm_put(page, "<ul class=\"bars even\">\n");
    for (int i = 0; i < r->n_words[class_number]; i++) {
        cbm_put(page, "<li title=\"mean %s over %lld occurrence%s\"><span dir=\"auto\" lang=\"\">",
                cbm_page_signed(page, words[i].mean, 3), (long long)words[i].count, words[i].count == 1 ? "" : "s");
        cbm_page_escape(page, words[i].text, strlen(words[i].text));
        cbm_put(page, "</span>");
        cbm_page_bar(page, largest > 0 ? words[i].score / largest : 0.0, -1.0);
        cbm_put(page, "<span class=\"n\">%s</span></li>\n", cbm_page_signed(page, words[i].score, 2));
    }
    cbm_put(page, "</ul>\n");
}

static void put_influential_words(cbm_page *page, const cbm_global_report *r) {
    cbm_put(page,
            "<section id=\"words\">\n<h2>Influential words</h2>\n<p>Integrated gradients of a word towards the class "
            "that a concept reads: "
            "their sum divided by the number of occurrences plus two, so that words seen once do "
            "not come first. Beside a class stands the share of texts that it is read in.</p>\n"
            "<div class=\"cards\">\n");
    for (int i = 0; i < r->n_concepts; i++) {
        int k = page->order[i];
        double largest = 0.0;
        for (int c = r->first_class[k]; c < r->first_class[k + 1]; c++)
            for (int w = 0; w < r->n_words[c]; w++)
                largest = fmax(largest, r->words[(size_t)c * (size_t)r->most_words + (size_t)w].score);
        cbm_put(page, "<div class=\"card\"><h3>%s</h3>\n", page->concept[k]);
        for (int c = r->first_class[k]; c < r->first_class[k + 1]; c++) put_class_words(page, r, c, largest);
        cbm_put(page, "</div>\n");
    }
    cbm_put(page, "</div>\n</section>\n");
}

/* ------------------------------------------------------------------------------------------
 * A data set: faithfulness
 * ---------------------------------------------------------------------------------------- */

enum { LEFT = 38, TOP = 12, WIDTH = 270, HEIGHT = 150 }; /* of a chart's area in its picture */

static const char *const dashes[CBM_ATTRIBUTION_METHODS] = {"none", "7 3", "2 3", "9 3 2 3"};

static const char *method_title(int method) {
    static const char *const titles[CBM_ATTRIBUTION_METHODS] = {"gradient \xC3\x97 input", "integrated gradients",
                                                                "attention", "random"};
    return titles[method];
}

/* Steps of 1, 2 or 5 times a power of ten, some four of them. */
static double grid_step(double range) {
    double power = pow(10, floor(log10(range / 4))), steps = range / 4 / power;
    return power * (steps < 1.5 ? 1 : steps < 3.5 ? 2 : steps < 7.5 ? 5 : 10);
}

static void put_chart(cbm_page *page, const char *title, const char *hint, const double *share,
                      const double (*values)[CBM_FAITHFULNESS_SHARES]) {
    double low = 0.0, high = 0.0;
    for (int m = 0; m < CBM_ATTRIBUTION_METHODS; m++)
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++) {
            low = fmin(low, values[m][i]);
            high = fmax(high, values[m][i]);
        }
    if (!(high > low)) high = low + 1;
    double step = grid_step(high - low), across = (double)WIDTH / (CBM_FAITHFULNESS_SHARES - 1);
    low = floor(low / step) * step;
    high = ceil(high / step) * step;
    double scale = HEIGHT / (high - low);
    cbm_put(page,
            "<figure><h3>%s</h3><svg viewBox=\"0 0 320 186\" role=\"img\" aria-label=\"%s; the numbers are in the "
            "table below\">\n",
            title, title);
    for (double v = low; v < high + step / 2; v += step)
        cbm_put(page,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%s\" y2=\"%s\"/><text x=\"%d\" y=\"%s\" "
                "text-anchor=\"end\">%s</text>\n",
                LEFT, LEFT + WIDTH, cbm_page_plain(page, TOP + (high - v) * scale),
                cbm_page_plain(page, TOP + (high - v) * scale), LEFT - 5,
                cbm_page_plain(page, TOP + (high - v) * scale + 4), cbm_page_number(page, v, step < 0.1 ? 2 : 1));
    for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
        cbm_put(page, "<text x=\"%s\" y=\"%d\" text-anchor=\"middle\">%s%%</text>\n",
                cbm_page_plain(page, LEFT + i * across), TOP + HEIGHT + 18, cbm_page_number(page, 100 * share[i], 0));
    for (int m = CBM_ATTRIBUTION_METHODS - 1; m >= 0; m--) {
        cbm_put(page, "<polyline class=\"c%d\" stroke-dasharray=\"%s\" points=\"", m, dashes[m]);
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
            cbm_put(page, "%s%s,%s", i ? " " : "", cbm_page_plain(page, LEFT + i * across),
                    cbm_page_plain(page, TOP + (high - values[m][i]) * scale));
        cbm_put(page, "\"/>\n");
    }
    cbm_put(page, "</svg><figcaption>%s</figcaption></figure>\n", hint);
}

static void put_faithfulness_table(cbm_page *page, const cbm_faithfulness *f) {
    cbm_put(page,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Faithfulness\"><table>\n<thead><tr><td>"
            "</td><th scope=\"colgroup\" "
            "colspan=\"%d\">Comprehensiveness</th><th scope=\"colgroup\" colspan=\"%d\">Sufficiency</th></tr>\n<tr>"
            "<th scope=\"col\">Method</th>",
            CBM_FAITHFULNESS_SHARES + 1, CBM_FAITHFULNESS_SHARES + 1);
    for (int part = 0; part < 2; part++) {
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
            cbm_put(page, "<th scope=\"col\" class=\"n\">%s%%</th>", cbm_page_number(page, 100 * f->share[i], 0));
        cbm_put(page, "<th scope=\"col\" class=\"n\">mean</th>");
    }
    cbm_put(page, "</tr></thead>\n<tbody>\n");
    for (int m = 0; m < CBM_ATTRIBUTION_METHODS; m++) {
        cbm_put(page, "<tr><th scope=\"row\">%s</th>", method_title(m));
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
            cbm_put(page, "<td class=\"n\">%s</td>", cbm_page_number(page, f->comprehensiveness[m][i], 3));
        cbm_put(page, "<td class=\"n\"><b>%s</b></td>", cbm_page_number(page, f->mean_comprehensiveness[m], 3));
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
            cbm_put(page, "<td class=\"n\">%s</td>", cbm_page_number(page, f->sufficiency[m][i], 3));
        cbm_put(page, "<td class=\"n\"><b>%s</b></td></tr>\n", cbm_page_number(page, f->mean_sufficiency[m], 3));
    }
    cbm_put(page, "</tbody>\n</table></div>\n");
}

static void put_faithfulness(cbm_page *page, const cbm_faithfulness *f) {
    cbm_put(page,
            "<section id=\"faithfulness\">\n<h2>Are the attributions faithful?</h2>\n<p>The words that a method calls "
            "most important are taken "
            "away, or kept alone, and the concept is read again. Measured on %llu texts.</p>\n<p class=\"legend\">",
            (unsigned long long)f->n);
    for (int m = 0; m < CBM_ATTRIBUTION_METHODS; m++)
        cbm_put(page,
                "<span><svg width=\"34\" height=\"8\" aria-hidden=\"true\"><line x1=\"0\" x2=\"34\" y1=\"4\" "
                "y2=\"4\" class=\"c%d\" "
                "stroke-width=\"2\" stroke-dasharray=\"%s\"/></svg> %s</span>",
                m, dashes[m], method_title(m));
    cbm_put(page, "</p>\n<div class=\"curves\">\n");
    put_chart(page, "Comprehensiveness",
              "How much probability the class loses without them, by the share of tokens taken away. Larger is better.",
              f->share, f->comprehensiveness);
    put_chart(page, "Sufficiency",
              "How much probability it loses when only they stay, by the share of tokens kept. Smaller is better.",
              f->share, f->sufficiency);
    cbm_put(page, "</div>\n");
    put_faithfulness_table(page, f);
    cbm_put(page, "</section>\n");
}

/* ------------------------------------------------------------------------------------------
 * A data set: the whole page
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_report_global_html(const char *path, const char *title, const cbm_model *model,
                                   const cbm_global_report *report, const scbm_hooks *hooks) {
    cbm_page page;
    scbm_status status = cbm_page_open(&page, path, title, model, report->importance, hooks);
    if (status) return status;
    put_global_header(&page, title, report);
    put_contributions(&page, report);
    put_influential_words(&page, report);
    if (report->faithfulness) put_faithfulness(&page, report->faithfulness);
    status = cbm_page_subnetworks(&page, report->subnetworks);
    cbm_put(&page, "</main>\n");
    return cbm_page_close(&page, status);
}
