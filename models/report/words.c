/*
 * models/report/words.c - the section on what each concept saw in the words of a text
 */
#include "models/report/page.html.h"
#include "models/report/parts.h"
#include "models/report/words.html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Ways to attribute, in the order in which a reader may choose between them. */
typedef struct method {
    const char *title, *name; /* of its button, and in a hint */
    int has_baseline; /* its values add up to the difference from a text without words, where they have converged */
} method;

enum { INTEGRATED_GRADIENTS, GRADIENT_INPUT, N_METHODS };

static const method methods[N_METHODS] = {
    [INTEGRATED_GRADIENTS] = {"Integrated gradients", "integrated gradients", 1},
    [GRADIENT_INPUT] = {"Gradient × input", "gradient × input", 0},
};

static double value_of(const cbm_word_attribution *word, int m) {
    return (double)(m == INTEGRATED_GRADIENTS ? word->integrated_gradients : word->gradient_input);
}

typedef struct words {
    cbm_page *page;
    const char *text;
    size_t length;
    const cbm_explanation *explanation;
    int shown[N_METHODS], n_shown; /* the methods that were computed: choice i + 1 is shown[i] */
    double largest[N_METHODS];     /* the largest |attribution| of a word */
} words;

static void find_largest(words *w) {
    const cbm_explanation *x = w->explanation;
    for (int m = 0; m < N_METHODS; m++)
        for (int k = 0; k < x->n_concepts; k++)
            for (int i = 0; i < x->n_words; i++)
                w->largest[m] = fmax(w->largest[m], fabs(value_of(&x->concepts[k].words[i], m)));
}

static void choose_methods(words *w) {
    int has_steps = 0;
    for (int k = 0; k < w->explanation->n_concepts; k++) has_steps |= w->explanation->concepts[k].steps > 0;
    for (int m = 0; m < N_METHODS; m++)
        if (m != INTEGRATED_GRADIENTS || has_steps) w->shown[w->n_shown++] = m;
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

/* Its classes say how strong it is by each method. */
static void put_word(words *w, const cbm_word_attribution *word) {
    enum { PART = 64 };
    char classes[PART * N_METHODS] = "", hint[PART * N_METHODS] = "", part[PART];
    for (int i = 0; i < w->n_shown; i++) {
        int m = w->shown[i], level = strength(value_of(word, m), w->largest[m]);
        snprintf(part, sizeof part, "m%d%c%d", i + 1, value_of(word, m) < 0 ? 'n' : 'p', level);
        if (level) add(classes, sizeof classes, " ", part);
        snprintf(part, sizeof part, "%s %s", methods[m].name, cbm_page_signed(w->page, value_of(word, m), 3));
        add(hint, sizeof hint, ", ", part);
    }
    cbm_page_begin(w->page, html_word, "classes", *classes ? classes : NULL, "hint", hint, NULL);
    cbm_page_escape(w->page, w->text + word->start, (size_t)(word->end - word->start));
    cbm_page_end(w->page, html_word, NULL);
}

/* Whether a word lies in the text, behind `at`. */
static int is_placed(const words *w, const cbm_word_attribution *word, size_t at) {
    return word->start >= 0 && word->end >= word->start && (size_t)word->start >= at && (size_t)word->end <= w->length;
}

static void put_highlighted(words *w, const cbm_concept_explanation *concept) {
    int is_truncated = w->explanation->prediction.truncated;
    size_t at = 0;
    cbm_page_begin(w->page, html_text, NULL);
    for (int i = 0; i < w->explanation->n_words; i++) {
        const cbm_word_attribution *word = &concept->words[i];
        if (!is_placed(w, word, at)) continue;
        cbm_page_escape(w->page, w->text + at, (size_t)word->start - at);
        put_word(w, word);
        at = (size_t)word->end;
    }
    if (!is_truncated) cbm_page_escape(w->page, w->text + at, w->length - at);
    cbm_page_end(w->page, html_text, "goes-on", is_truncated ? "" : NULL, NULL);
}

/* ------------------------------------------------------------------------------------------
 * What the words of a concept add up to
 * ---------------------------------------------------------------------------------------- */

static void put_sum(words *w, const cbm_concept_explanation *concept, int choice) {
    cbm_page *page = w->page;
    int m = w->shown[choice - 1];
    double sum = 0.0, target = (double)concept->target_logit, baseline = (double)concept->baseline_logit;
    for (int i = 0; i < w->explanation->n_words; i++) sum += value_of(&concept->words[i], m);
    if (methods[m].has_baseline)
        cbm_page_put(page, html_difference, "choice", cbm_page_integer(page, choice), "sum",
                     cbm_page_signed(page, sum, 3), "baseline", cbm_page_number(page, baseline, 3), "logit",
                     cbm_page_number(page, target, 3), "difference",
                     concept->converged ? NULL : cbm_page_signed(page, target - baseline, 3), "steps",
                     cbm_page_integer(page, concept->steps), NULL);
    else
        cbm_page_put(page, html_sum, "choice", cbm_page_integer(page, choice), "sum", cbm_page_signed(page, sum, 3),
                     "logit", cbm_page_number(page, target, 3), NULL);
}

static void put_concept(words *w, int k) {
    cbm_page *page = w->page;
    const cbm_concept_explanation *concept = &w->explanation->concepts[k];
    const cbm_concept_result *result = &w->explanation->prediction.concepts[k];
    char *const *class_name = page->class_name + page->first_class[k];
    int is_read = concept->target == result->class_index;
    cbm_page_begin(page, html_concept, "concept", page->concept[k], "target", class_name[concept->target],
                   "probability", is_read ? cbm_page_percent(page, (double)result->probability) : NULL, "reads",
                   is_read ? NULL : class_name[result->class_index], NULL);
    put_highlighted(w, concept);
    cbm_page_begin(page, html_sums, NULL);
    for (int choice = 1; choice <= w->n_shown; choice++) put_sum(w, concept, choice);
    cbm_page_end(page, html_sums, NULL);
    cbm_page_end(page, html_concept, NULL);
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

static void put_row(words *w, int i) {
    cbm_page *page = w->page;
    const cbm_explanation *x = w->explanation;
    const cbm_word_attribution *word = &x->concepts[0].words[i];
    cbm_page_begin(page, html_word_row, NULL);
    cbm_page_begin(page, html_word_name, NULL);
    cbm_page_escape(page, w->text + word->start, (size_t)(word->end - word->start));
    cbm_page_end(page, html_word_name, NULL);
    for (int j = 0; j < page->n_concepts; j++) {
        cbm_page_begin(page, html_cell, NULL);
        for (int choice = 1; choice <= w->n_shown; choice++) {
            double value = value_of(&x->concepts[page->order[j]].words[i], w->shown[choice - 1]);
            cbm_page_put(page, html_value, "choice", cbm_page_integer(page, choice), "value",
                         cbm_page_signed(page, value, 3), NULL);
        }
        cbm_page_end(page, html_cell, NULL);
    }
    cbm_page_end(page, html_word_row, NULL);
}

static void put_table(words *w) {
    static const char title[] = "All numbers";
    cbm_page *page = w->page;
    cbm_page_begin(page, html_details, "summary", title, NULL);
    cbm_page_begin(page, html_table, "title", title, NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_column, "name", "Word", NULL);
    cbm_page_columns(page, 1);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int i = 0; i < w->explanation->n_words; i++)
        if (is_placed(w, &w->explanation->concepts[0].words[i], 0)) put_row(w, i);
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
    cbm_page_end(page, html_details, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The section
 * ---------------------------------------------------------------------------------------- */

void cbm_page_words(cbm_page *page, const char *text, size_t length, const cbm_explanation *explanation) {
    words w = {.page = page, .text = text, .length = length, .explanation = explanation};
    const char *title[N_METHODS];
    int has_baseline = 0;
    choose_methods(&w);
    find_largest(&w);
    for (int i = 0; i < w.n_shown; i++) {
        title[i] = methods[w.shown[i]].title;
        has_baseline |= methods[w.shown[i]].has_baseline;
    }
    cbm_page_begin(page, html_words, "baseline", has_baseline ? "" : NULL, NULL);
    cbm_page_choices(page, title, w.n_shown);
    cbm_page_begin(page, html_chosen_from, NULL);
    for (int choice = 1; choice <= w.n_shown; choice++) put_legend(&w, choice);
    for (int i = 0; i < page->n_concepts; i++) put_concept(&w, page->order[i]);
    put_table(&w);
    cbm_page_end(page, html_chosen_from, NULL);
    cbm_page_end(page, html_words, NULL);
}
