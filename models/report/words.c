/*
 * models/report/words.c - the section on what each concept saw in the words of a text
 */
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"
#include "models/report/templates/words.html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct words {
    cbm_page *page;
    const char *text;
    size_t length;
    const cbm_explanation *explanation;
    int *shown, n_shown; /* the methods that were computed: choice i + 1 is shown[i] */
    double *largest;     /* [methods]: the largest |attribution| of a word */
} words;

/* The logits that are explained: the concepts' in the page's order, then the labels'. */
static int n_logits(const words *w) {
    return w->explanation->n_concepts + w->explanation->n_labels;
}

static const cbm_explained_logit *logit_at(const words *w, int i) {
    const cbm_explanation *x = w->explanation;
    return i < x->n_concepts ? &x->concepts[w->page->order[i]].logit : &x->labels[i - x->n_concepts].logit;
}

static void find_largest(words *w) {
    for (int i = 0; i < w->n_shown; i++)
        for (int k = 0; k < n_logits(w); k++)
            for (int j = 0; j < w->explanation->n_words; j++)
                w->largest[w->shown[i]] = fmax(w->largest[w->shown[i]],
                                               fabs((double)logit_at(w, k)->words[w->shown[i]][j]));
}

/* Those whose values add up come first. */
static void choose_methods(words *w) {
    for (int adds_up = 1; adds_up >= 0; adds_up--)
        for (int m = 0; m < w->explanation->n_methods; m++)
            if (cbm_attribution_method_at(m)->adds_up == adds_up && n_logits(w) && logit_at(w, 0)->words[m])
                w->shown[w->n_shown++] = m;
}

/* ------------------------------------------------------------------------------------------
 * Highlighted words
 * ---------------------------------------------------------------------------------------- */

/* From 0 (none) to CBM_HIGHLIGHTS: a power below 1 of the share of the largest, so that weaker words are seen too. */
#define POWER 0.7
static int strength(double value, double largest) {
    return largest > 0 ? (int)floor(CBM_HIGHLIGHTS * pow(fabs(value) / largest, POWER) + 0.5) : 0;
}

/* Adds to what is in `text`, after `between` where there is something. */
static void add(char *text, size_t size, const char *between, const char *more) {
    size_t length = strlen(text);
    snprintf(text + length, size - length, "%s%s", length ? between : "", more);
}

/* Word `j`; its classes say how strong it is by each method. */
static void put_word(words *w, const cbm_explained_logit *logit, int j) {
    enum { PART = 64, PARTS = 16 };
    const cbm_explained_word *word = &w->explanation->words[j];
    char classes[PART * PARTS] = "", hint[PART * PARTS] = "", part[PART];
    for (int i = 0; i < w->n_shown; i++) {
        double value = (double)logit->words[w->shown[i]][j];
        int level = strength(value, w->largest[w->shown[i]]);
        snprintf(part, sizeof part, "m%d%c%d", i + 1, value < 0 ? 'n' : 'p', level);
        if (level) add(classes, sizeof classes, " ", part);
        snprintf(part, sizeof part, "%s %s", cbm_attribution_method_at(w->shown[i])->title,
                 cbm_page_signed(w->page, value, 3));
        add(hint, sizeof hint, ", ", part);
    }
    cbm_page_begin(w->page, html_word, "classes", *classes ? classes : NULL, "hint", hint, NULL);
    cbm_page_escape(w->page, w->text + word->start, (size_t)(word->end - word->start));
    cbm_page_end(w->page, html_word, NULL);
}

/* Whether a word lies in the text, behind `at`. */
static int is_placed(const words *w, const cbm_explained_word *word, size_t at) {
    return word->start >= 0 && word->end >= word->start && (size_t)word->start >= at && (size_t)word->end <= w->length;
}

static void put_highlighted(words *w, const cbm_explained_logit *logit) {
    int is_truncated = w->explanation->prediction->truncated;
    size_t at = 0;
    cbm_page_begin(w->page, html_text, NULL);
    for (int j = 0; j < w->explanation->n_words; j++) {
        const cbm_explained_word *word = &w->explanation->words[j];
        if (!is_placed(w, word, at)) continue;
        cbm_page_escape(w->page, w->text + at, (size_t)word->start - at);
        put_word(w, logit, j);
        at = (size_t)word->end;
    }
    if (!is_truncated) cbm_page_escape(w->page, w->text + at, w->length - at);
    cbm_page_end(w->page, html_text, "goes-on", is_truncated ? "" : NULL, NULL);
}

/* ------------------------------------------------------------------------------------------
 * What the words of a concept, or of a label, add up to
 * ---------------------------------------------------------------------------------------- */

static void put_sum(words *w, const cbm_explained_logit *logit, int choice) {
    cbm_page *page = w->page;
    int m = w->shown[choice - 1];
    double sum = 0.0, value = (double)logit->value, baseline = (double)logit->baseline;
    for (int j = 0; j < w->explanation->n_words; j++) sum += (double)logit->words[m][j];
    if (cbm_attribution_method_at(m)->adds_up)
        cbm_page_put(page, html_difference, "choice", cbm_page_integer(page, choice), "sum",
                     cbm_page_signed(page, sum, 3), "baseline", cbm_page_number(page, baseline, 3), "logit",
                     cbm_page_number(page, value, 3), "difference",
                     logit->converged ? NULL : cbm_page_signed(page, value - baseline, 3), "steps",
                     cbm_page_integer(page, logit->steps), NULL);
    else
        cbm_page_put(page, html_sum, "choice", cbm_page_integer(page, choice), "sum", cbm_page_signed(page, sum, 3),
                     "logit", cbm_page_number(page, value, 3), NULL);
}

static void put_logit(words *w, const cbm_explained_logit *logit) {
    put_highlighted(w, logit);
    cbm_page_begin(w->page, html_sums, NULL);
    for (int choice = 1; choice <= w->n_shown; choice++) put_sum(w, logit, choice);
    cbm_page_end(w->page, html_sums, NULL);
    cbm_page_end(w->page, html_concept, NULL);
}

static void put_concept(words *w, int k) {
    cbm_page *page = w->page;
    const cbm_concept_explanation *concept = &w->explanation->concepts[k];
    const cbm_concept_result *result = concept->result;
    char *const *class_name = page->class_name + page->first_class[k];
    int is_read = concept->target == result->class_index;
    cbm_page_begin(page, html_concept, "concept", page->concept[k], "target", class_name[concept->target],
                   "probability", is_read ? cbm_page_percent(page, (double)result->probability) : NULL, "reads",
                   is_read ? NULL : class_name[result->class_index], NULL);
    put_logit(w, &concept->logit);
}

/* The same for a label, whose words work through all concepts. */
static void put_label(words *w, const cbm_label_explanation *label) {
    cbm_page *page = w->page;
    const cbm_prediction *p = w->explanation->prediction;
    int is_predicted = label->label == p->label_index;
    cbm_page_begin(page, html_concept, "concept", "the label", "target", page->label[label->label], "probability",
                   cbm_page_percent(page, (double)p->probabilities[label->label]), "reads",
                   is_predicted ? NULL : page->label[p->label_index], NULL);
    put_logit(w, &label->logit);
}

/* ------------------------------------------------------------------------------------------
 * Legend and table
 * ---------------------------------------------------------------------------------------- */

/* Strengths of each sign with the numbers that they stand for. */
static void put_legend(words *w, int choice) {
    enum { SHOWN = 3 };
    static const int levels[SHOWN] = {8, 5, 2};
    cbm_page *page = w->page;
    double largest = w->largest[w->shown[choice - 1]];
    cbm_page_begin(page, html_legend, "choice", cbm_page_integer(page, choice), NULL);
    for (int i = 0; i < 2 * SHOWN; i++) {
        int is_negative = i < SHOWN, level = levels[is_negative ? i : 2 * SHOWN - 1 - i];
        double value = largest * pow((double)level / CBM_HIGHLIGHTS, 1 / POWER);
        cbm_page_put(page, html_legend_value, "choice", cbm_page_integer(page, choice), "sign", is_negative ? "n" : "p",
                     "level", cbm_page_integer(page, level), "value",
                     cbm_page_signed(page, is_negative ? -value : value, largest < 0.1 ? 4 : 2), NULL);
    }
    cbm_page_end(page, html_legend, NULL);
}

static void put_row(words *w, int j) {
    cbm_page *page = w->page;
    const cbm_explained_word *word = &w->explanation->words[j];
    cbm_page_begin(page, html_word_row, NULL);
    cbm_page_begin(page, html_word_name, NULL);
    cbm_page_escape(page, w->text + word->start, (size_t)(word->end - word->start));
    cbm_page_end(page, html_word_name, NULL);
    for (int k = 0; k < n_logits(w); k++) {
        cbm_page_begin(page, html_cell, NULL);
        for (int choice = 1; choice <= w->n_shown; choice++) {
            double value = (double)logit_at(w, k)->words[w->shown[choice - 1]][j];
            cbm_page_put(page, html_value, "choice", cbm_page_integer(page, choice), "value",
                         cbm_page_signed(page, value, 3), NULL);
        }
        cbm_page_end(page, html_cell, NULL);
    }
    cbm_page_end(page, html_word_row, NULL);
}

static void put_table(words *w) {
    static const char title[] = "All numbers";
    const cbm_explanation *x = w->explanation;
    cbm_page *page = w->page;
    cbm_page_begin(page, html_details, "summary", title, NULL);
    cbm_page_begin(page, html_table, "title", title, NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_column, "name", "Word", NULL);
    cbm_page_columns(page, 1);
    for (int i = 0; i < x->n_labels; i++)
        cbm_page_put(page, html_column, "name", page->label[x->labels[i].label], "number", "", NULL);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int j = 0; j < x->n_words; j++)
        if (is_placed(w, &x->words[j], 0)) put_row(w, j);
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
    cbm_page_end(page, html_details, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The section
 * ---------------------------------------------------------------------------------------- */

/* A method's title as that of a button. Returns `button`. */
#define BUTTON_SIZE 64
static const char *button_title(char button[BUTTON_SIZE], int method) {
    snprintf(button, BUTTON_SIZE, "%s", cbm_attribution_method_at(method)->title);
    if (button[0] >= 'a' && button[0] <= 'z') button[0] = (char)(button[0] - 'a' + 'A');
    return button;
}

static void put_section(words *w, const char **title, char (*button)[BUTTON_SIZE]) {
    cbm_page *page = w->page;
    int has_baseline = 0;
    for (int i = 0; i < w->n_shown; i++) {
        title[i] = button_title(button[i], w->shown[i]);
        has_baseline |= cbm_attribution_method_at(w->shown[i])->adds_up;
    }
    cbm_page_begin(page, html_words, "concepts", page->n_concepts ? "" : NULL, "label", page->n_concepts ? NULL : "",
                   "baseline", has_baseline ? "" : NULL, NULL);
    cbm_page_choices(page, title, w->n_shown);
    cbm_page_begin(page, html_chosen_from, NULL);
    for (int choice = 1; choice <= w->n_shown; choice++) put_legend(w, choice);
    for (int i = 0; i < page->n_concepts; i++) put_concept(w, page->order[i]);
    for (int i = 0; i < w->explanation->n_labels; i++) put_label(w, &w->explanation->labels[i]);
    put_table(w);
    cbm_page_end(page, html_chosen_from, NULL);
    cbm_page_end(page, html_words, NULL);
}

scbm_status cbm_page_words(cbm_page *page, const char *text, size_t length, const cbm_explanation *explanation) {
    const size_t n = (size_t)explanation->n_methods;
    words w = {.page = page, .text = text, .length = length, .explanation = explanation};
    w.shown = scbm_alloc_array(page->hooks, n, sizeof *w.shown);
    w.largest = scbm_alloc_array(page->hooks, n, sizeof *w.largest);
    const char **title = scbm_alloc_array(page->hooks, n, sizeof *title);
    char(*button)[BUTTON_SIZE] = scbm_alloc_array(page->hooks, n, sizeof *button);
    int has_memory = w.shown && w.largest && title && button;
    if (has_memory) {
        choose_methods(&w);
        find_largest(&w);
        put_section(&w, title, button);
    }
    scbm_release(page->hooks, w.shown);
    scbm_release(page->hooks, w.largest);
    scbm_release(page->hooks, (void *)title);
    scbm_release(page->hooks, button);
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}
