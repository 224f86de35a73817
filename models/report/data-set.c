/*
 * models/report/data-set.c - the page that explains a model by a data set: its top, contributions, influential words
 */
#include "models/report/templates/data-set.html.h"
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * The top of the page
 * ---------------------------------------------------------------------------------------- */

static double share_of(int64_t part, size_t whole) {
    return whole ? (double)part / (double)whole : 0.0;
}

static void put_labels(cbm_page *page, const cbm_global_report *r) {
    cbm_page_begin(page, html_bars, NULL);
    for (int y = 0; y < r->n_labels; y++) {
        double share = share_of(r->label_count[y], r->n_texts);
        char hint[48];
        snprintf(hint, sizeof hint, "%lld texts", (long long)r->label_count[y]);
        cbm_page_bar(page,
                     &(cbm_bar_row){
                         .name = page->label[y], .hint = hint, .share = share, .value = cbm_page_percent(page, share)});
    }
    cbm_page_end(page, html_bars, NULL);
}

static void put_header(cbm_page *page, const cbm_global_report *r) {
    const char *truncated = r->n_truncated ? cbm_page_count(page, (int64_t)r->n_truncated) : NULL;
    cbm_page_begin(page, html_header, "title", page->title, "texts", cbm_page_count(page, (int64_t)r->n_texts), "many",
                   r->n_texts == 1 ? NULL : "", "truncated", truncated, "explained",
                   cbm_page_count(page, (int64_t)r->n_explained), NULL);
    put_labels(page, r);
    cbm_page_end(page, html_header, "concepts", r->n_concepts ? "" : NULL, "faithfulness", r->faithfulness ? "" : NULL,
                 "subnetworks", r->subnetworks ? "" : NULL, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Contributions
 * ---------------------------------------------------------------------------------------- */

#define DARKEST 0.5 /* how much of its colour the cell with the largest number has */

static double largest_of(const double *values, size_t n) {
    double largest = 0.0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(values[i]));
    return largest;
}

static const char *shade(cbm_page *page, double value, double largest) {
    return cbm_page_plain(page, largest > 0 ? DARKEST * fabs(value) / largest : 0.0);
}

/* A cell of the mean and one of the mean absolute contribution, of which the style shows one. */
static void put_contribution(cbm_page *page, const cbm_global_report *r, int k, int y, double largest) {
    double mean = r->contribution[k * r->n_labels + y], absolute = r->absolute_contribution[k * r->n_labels + y];
    if (!r->label_count[y]) {
        cbm_page_put(page, html_no_cell, NULL);
        return;
    }
    cbm_page_put(page, html_mean_cell, "colour", mean < 0 ? "neg" : "pos", "strength", shade(page, mean, largest),
                 "exact", cbm_page_exact(page, (float)mean), "value", cbm_page_signed(page, mean, 2), NULL);
    cbm_page_put(page, html_absolute_cell, "strength", shade(page, absolute, largest), "value",
                 cbm_page_number(page, absolute, 2), NULL);
}

static void put_contribution_table(cbm_page *page, const cbm_global_report *r) {
    double largest = largest_of(r->absolute_contribution, (size_t)r->n_concepts * (size_t)r->n_labels);
    cbm_page_begin(page, html_table, "title", "Contributions", "kind", "heat", NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_corner, NULL);
    for (int y = 0; y < r->n_labels; y++) cbm_page_put(page, html_column, "name", page->label[y], NULL);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int i = 0; i < r->n_concepts; i++) {
        int k = page->order[i];
        cbm_page_begin(page, html_row, "name", page->concept[k], NULL);
        for (int y = 0; y < r->n_labels; y++) put_contribution(page, r, k, y, largest);
        cbm_page_end(page, html_row, NULL);
    }
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
}

static void put_importance(cbm_page *page, const cbm_global_report *r) {
    double most = largest_of(r->importance, (size_t)r->n_concepts);
    cbm_page_begin(page, html_card, "title", "Importance", NULL);
    cbm_page_begin(page, html_bars, NULL);
    for (int i = 0; i < r->n_concepts; i++) {
        int k = page->order[i];
        cbm_page_bar(page, &(cbm_bar_row){.name = page->concept[k],
                                          .share = most > 0 ? r->importance[k] / most : 0.0,
                                          .value = cbm_page_number(page, r->importance[k], 3)});
    }
    cbm_page_end(page, html_bars, NULL);
    cbm_page_put(page, html_note, "note", "Mean |contribution| to the predicted label over all texts.", NULL);
    cbm_page_end(page, html_card, NULL);
}

static void put_contributions(cbm_page *page, const cbm_global_report *r) {
    static const char *const choices[] = {"Mean", "Mean of absolute values"};
    cbm_page_begin(page, html_contributions, NULL);
    cbm_page_choices(page, choices, 2);
    cbm_page_begin(page, html_side, NULL);
    put_contribution_table(page, r);
    put_importance(page, r);
    cbm_page_end(page, html_side, NULL);
    cbm_page_end(page, html_contributions, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Words
 * ---------------------------------------------------------------------------------------- */

static void put_word(cbm_page *page, const cbm_word_influence *word, double largest) {
    char hint[128];
    snprintf(hint, sizeof hint, "mean %s over %lld occurrence%s", cbm_page_signed(page, word->mean, 3),
             (long long)word->count, word->count == 1 ? "" : "s");
    cbm_page_bar(page, &(cbm_bar_row){.text = word->text,
                                      .length = strlen(word->text),
                                      .hint = hint,
                                      .share = largest > 0 ? word->score / largest : 0.0,
                                      .value = cbm_page_signed(page, word->score, 2)});
}

/* A list of words: of a class that a concept reads, or of a label. */
typedef struct word_list {
    const cbm_word_influence *word;
    int n;
} word_list;

static word_list list_of(const cbm_word_influence *words, const int *n, int i, int most) {
    return (word_list){words + (size_t)i * (size_t)most, n[i]};
}

static double largest_score(const cbm_word_influence *words, const int *n, int first, int end, int most) {
    double largest = 0.0;
    for (int i = first; i < end; i++) {
        const word_list list = list_of(words, n, i, most);
        for (int w = 0; w < list.n; w++) largest = fmax(largest, list.word[w].score);
    }
    return largest;
}

static void put_list(cbm_page *page, const char *name, double share, word_list list, double largest) {
    cbm_page_put(page, html_class, "class", name, "share", cbm_page_percent(page, share), NULL);
    if (!list.n) {
        cbm_page_put(page, html_note, "note", "No word speaks for it.", NULL);
        return;
    }
    cbm_page_begin(page, html_bars, "even", "", NULL);
    for (int i = 0; i < list.n; i++) put_word(page, &list.word[i], largest);
    cbm_page_end(page, html_bars, NULL);
}

static void put_concept_words(cbm_page *page, const cbm_global_report *r, int k) {
    const int first = r->first_class[k], end = r->first_class[k + 1], most = r->most_words;
    const double largest = largest_score(r->words, r->n_words, first, end, most);
    cbm_page_begin(page, html_card, "title", page->concept[k], NULL);
    for (int c = first; c < end; c++)
        put_list(page, page->class_name[c], share_of(r->class_count[c], r->n_texts),
                 list_of(r->words, r->n_words, c, most), largest);
    cbm_page_end(page, html_card, NULL);
}

static void put_label_words(cbm_page *page, const cbm_global_report *r) {
    const double largest = largest_score(r->label_words, r->n_label_words, 0, r->n_labels, r->most_words);
    cbm_page_begin(page, html_card, "title", "Label", NULL);
    for (int y = 0; y < r->n_labels; y++)
        put_list(page, page->label[y], share_of(r->label_count[y], r->n_texts),
                 list_of(r->label_words, r->n_label_words, y, r->most_words), largest);
    cbm_page_end(page, html_card, NULL);
}

static void put_words(cbm_page *page, const cbm_global_report *r) {
    cbm_page_begin(page, html_words, "concepts", r->n_concepts ? "" : NULL, "labels", r->label_words ? "" : NULL,
                   "both", r->n_concepts && r->label_words ? "" : NULL, NULL);
    if (r->label_words) put_label_words(page, r);
    for (int i = 0; i < r->n_concepts; i++) put_concept_words(page, r, page->order[i]);
    cbm_page_end(page, html_words, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The whole page
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_report_global_html(const char *path, const char *title, const cbm_model *model,
                                   const cbm_global_report *report, const scbm_hooks *hooks) {
    cbm_page page;
    scbm_status status = cbm_page_open(&page, path, title, model, report->importance, hooks);
    if (status) return status;
    put_header(&page, report);
    cbm_page_begin(&page, html_main, NULL);
    if (report->n_concepts) put_contributions(&page, report);
    put_words(&page, report);
    if (report->faithfulness) cbm_page_faithfulness(&page, report->faithfulness);
    if (report->subnetworks) status = cbm_page_subnetworks(&page, report->subnetworks);
    cbm_page_end(&page, html_main, NULL);
    return cbm_page_close(&page, status);
}
