/*
 * models/report/page.c - a self-contained HTML page: its frame and style, escaping, numbers
 */
#include "models/report/templates/page.css.h"
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

/* ------------------------------------------------------------------------------------------
 * Style: page.css, and the highlights of words
 * ---------------------------------------------------------------------------------------- */

/* The line under a word says its sign as well: whole for positive, dashed for negative; the weakest words have none. */
static void put_highlight(cbm_page *page, int choice, int is_negative, int level) {
    cbm_page_put(page, html_highlight, "choice", cbm_page_integer(page, choice), "sign", is_negative ? "n" : "p",
                 "level", cbm_page_integer(page, level), "colour", is_negative ? "neg" : "pos", "strength",
                 cbm_page_plain(page, 0.07 * level), "line",
                 level < 2     ? NULL
                 : is_negative ? "dashed"
                               : "solid",
                 NULL);
}

static void put_style(cbm_page *page) {
    for (const char *const *line = css_page; *line; line++) scbm_output_write(page->out, *line, strlen(*line));
    for (int choice = 1; choice <= cbm_attribution_method_count(); choice++) {
        cbm_page_put(page, html_chosen, "choice", cbm_page_integer(page, choice), NULL);
        for (int is_negative = 0; is_negative < 2; is_negative++)
            for (int level = 1; level <= CBM_HIGHLIGHTS; level++) put_highlight(page, choice, is_negative, level);
    }
}

/* ------------------------------------------------------------------------------------------
 * Escaping
 * ---------------------------------------------------------------------------------------- */

/* What stands for a character, or NULL where it stands for itself. */
static const char *replacement(utf8proc_int32_t character) {
    switch (character) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    case '\t':
    case '\n': return NULL;
    case '\r': return "";
    default: break;
    }
    int is_control = character < 0x20 || (character >= 0x202A && character <= 0x202E) ||
                     (character >= 0x2066 && character <= 0x2069) || (character >= 0x7F && character < 0xA0) ||
                     (character & 0xFFFE) == 0xFFFE || (character >= 0xFDD0 && character <= 0xFDEF);
    return is_control ? "\xEF\xBF\xBD" : NULL;
}

/* Calls `take` with one piece after the other. */
static void escape(const char *text, size_t length, void (*take)(void *to, const char *piece, size_t size), void *to) {
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t character = -1;
        size_t left = length - i < 4 ? length - i : 4;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)left, &character);
        const char *instead = n > 0 ? replacement(character) : "\xEF\xBF\xBD";
        if (n < 1) n = 1;
        if (instead) take(to, instead, strlen(instead));
        else take(to, text + i, (size_t)n);
        i += (size_t)n;
    }
}

static void take_output(void *to, const char *piece, size_t size) {
    scbm_output_write(to, piece, size);
}

void cbm_page_escape(cbm_page *page, const char *text, size_t length) {
    escape(text, length, take_output, page->out);
}

typedef struct growing {
    char *text; /* NULL: only counted */
    size_t length;
} growing;

static void take_memory(void *to, const char *piece, size_t size) {
    growing *g = to;
    if (g->text) memcpy(g->text + g->length, piece, size);
    g->length += size;
}

/* An escaped copy, or NULL without memory. */
static char *escaped_copy(const char *text, const scbm_hooks *hooks) {
    growing counted = {NULL, 0}, copy = {NULL, 0};
    escape(text, strlen(text), take_memory, &counted);
    copy.text = scbm_alloc(hooks, counted.length + 1);
    if (copy.text) escape(text, strlen(text), take_memory, &copy);
    return copy.text;
}

/* ------------------------------------------------------------------------------------------
 * Numbers
 * ---------------------------------------------------------------------------------------- */

/* The digits with `decimals` (up to 6) behind the point, rounded half away from zero, and its sign before it. A value
 * that is rounded to zero has none. */
static const char *format(cbm_page *page, double value, int decimals, const char *plus, const char *minus) {
    static const double power[] = {1, 10, 100, 1e3, 1e4, 1e5, 1e6};
    static const int64_t integer_power[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
    char *text = page->numbers[page->next_number++ % CBM_PAGE_NUMBERS];
    double scaled = floor(fabs(value) * power[decimals] + 0.5);
    if (!(scaled < 1e15)) { /* also what is no number */
        char digits[32];
        snprintf(text, CBM_PAGE_NUMBER_SIZE, "%s", scbm_print_double(value, digits));
        return text;
    }
    int64_t whole = (int64_t)scaled;
    const char *sign = whole == 0 ? "" : value < 0 ? minus : plus;
    if (decimals == 0) snprintf(text, CBM_PAGE_NUMBER_SIZE, "%s%lld", sign, (long long)whole);
    else
        snprintf(text, CBM_PAGE_NUMBER_SIZE, "%s%lld.%0*lld", sign, (long long)(whole / integer_power[decimals]),
                 decimals, (long long)(whole % integer_power[decimals]));
    return text;
}

const char *cbm_page_number(cbm_page *page, double value, int decimals) {
    return format(page, value, decimals, "", CBM_PAGE_MINUS);
}

const char *cbm_page_signed(cbm_page *page, double value, int decimals) {
    return format(page, value, decimals, "+", CBM_PAGE_MINUS);
}

const char *cbm_page_plain(cbm_page *page, double value) {
    return format(page, value, 2, "", "-");
}

const char *cbm_page_percent(cbm_page *page, double share) {
    char *text = (char *)format(page, 100.0 * share, share > 0 && share < 0.00995 ? 2 : 1, "", CBM_PAGE_MINUS);
    strcat(text, "%");
    return text;
}

const char *cbm_page_count(cbm_page *page, int64_t n) {
    char digits[32], *text = page->numbers[page->next_number++ % CBM_PAGE_NUMBERS];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}

const char *cbm_page_integer(cbm_page *page, int64_t n) {
    char *text = page->numbers[page->next_number++ % CBM_PAGE_NUMBERS];
    snprintf(text, CBM_PAGE_NUMBER_SIZE, "%lld", (long long)n);
    return text;
}

const char *cbm_page_exact(cbm_page *page, float value) {
    return scbm_print_float(value, page->numbers[page->next_number++ % CBM_PAGE_NUMBERS]);
}

/* ------------------------------------------------------------------------------------------
 * Parts that many sections have
 * ---------------------------------------------------------------------------------------- */

void cbm_page_bar(cbm_page *page, const cbm_bar_row *row) {
    const char *best = row->is_best ? "" : NULL, *outside = row->text ? "" : NULL;
    cbm_page_begin(page, html_bar_row, "best", best, "hint", row->hint, "outside", outside, NULL);
    if (row->text) cbm_page_escape(page, row->text, row->length);
    else scbm_output_write(page->out, row->name, strlen(row->name));
    cbm_page_end(page, html_bar_row, "share", cbm_page_plain(page, 100 * row->share), "mark", row->mark, "value",
                 row->value, NULL);
}

void cbm_page_columns(cbm_page *page, int of_numbers) {
    for (int i = 0; i < page->n_concepts; i++)
        cbm_page_put(page, html_column, "name", page->concept[page->order[i]], "number", of_numbers ? "" : NULL, NULL);
}

void cbm_page_choices(cbm_page *page, const char *const *title, int n) {
    for (int i = 0; i < n; i++)
        cbm_page_put(page, html_choice, "choice", cbm_page_integer(page, i + 1), "first", i ? NULL : "", "title",
                     title[i], NULL);
}

/* ------------------------------------------------------------------------------------------
 * Opening and closing
 * ---------------------------------------------------------------------------------------- */

static scbm_status take_names(cbm_page *page, const char *title) {
    const cbm_model *model = page->model;
    int n_classes = 0;
    page->first_class = scbm_alloc_array(page->hooks, (size_t)page->n_concepts + 1, sizeof *page->first_class);
    if (!page->first_class) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < page->n_concepts; k++) {
        n_classes += cbm_model_n_concept_classes(model, k);
        page->first_class[k + 1] = n_classes;
    }
    page->concept = scbm_alloc_array(page->hooks, (size_t)page->n_concepts, sizeof *page->concept);
    page->label = scbm_alloc_array(page->hooks, (size_t)page->n_labels, sizeof *page->label);
    page->class_name = scbm_alloc_array(page->hooks, (size_t)n_classes, sizeof *page->class_name);
    page->title = escaped_copy(title, page->hooks);
    if (!page->concept || !page->label || !page->class_name || !page->title) return SCBM_ERROR_MEMORY;
    for (int y = 0; y < page->n_labels; y++)
        if (!(page->label[y] = escaped_copy(cbm_model_label(model, y), page->hooks))) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < page->n_concepts; k++) {
        if (!(page->concept[k] = escaped_copy(cbm_model_concept(model, k), page->hooks))) return SCBM_ERROR_MEMORY;
        for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++) {
            char **place = &page->class_name[page->first_class[k] + c];
            if (!(*place = escaped_copy(cbm_model_concept_class(model, k, c), page->hooks))) return SCBM_ERROR_MEMORY;
        }
    }
    return SCBM_OK;
}

/* By insertion, so that equal ones keep their order. */
static scbm_status sort_concepts(cbm_page *page, const double *importance) {
    page->order = scbm_alloc_array(page->hooks, (size_t)page->n_concepts, sizeof *page->order);
    if (!page->order) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < page->n_concepts; k++) {
        int place = k;
        for (; place > 0 && importance[k] > importance[page->order[place - 1]]; place--)
            page->order[place] = page->order[place - 1];
        page->order[place] = k;
    }
    return SCBM_OK;
}

static void free_names(cbm_page *page) {
    for (int k = 0; page->concept && k < page->n_concepts; k++) scbm_release(page->hooks, page->concept[k]);
    for (int y = 0; page->label && y < page->n_labels; y++) scbm_release(page->hooks, page->label[y]);
    for (int c = 0; page->class_name && c < page->first_class[page->n_concepts]; c++)
        scbm_release(page->hooks, page->class_name[c]);
    scbm_release(page->hooks, page->title);
    scbm_release(page->hooks, page->concept);
    scbm_release(page->hooks, page->label);
    scbm_release(page->hooks, page->class_name);
    scbm_release(page->hooks, page->first_class);
    scbm_release(page->hooks, page->order);
}

scbm_status cbm_page_open(cbm_page *page, const char *path, const char *title, const cbm_model *model,
                          const double *importance, const scbm_hooks *hooks) {
    memset(page, 0, sizeof *page);
    page->hooks = hooks;
    page->model = model;
    page->n_concepts = cbm_model_n_concepts(model);
    page->n_labels = cbm_model_n_labels(model);
    scbm_status status = page->n_labels ? SCBM_OK
                                        : scbm_fail(SCBM_ERROR_UNSUPPORTED,
                                                    "%s: an encoder has no labels to make a page of", path);
    if (!status) status = take_names(page, title);
    if (!status) status = sort_concepts(page, importance);
    if (!status) status = scbm_output_open(&page->out, path, hooks);
    if (status) {
        free_names(page);
        return status;
    }
    cbm_page_begin(page, html_head, "title", page->title, NULL);
    put_style(page);
    cbm_page_end(page, html_head, NULL);
    cbm_page_begin(page, html_body, NULL);
    return SCBM_OK;
}

scbm_status cbm_page_close(cbm_page *page, scbm_status status) {
    free_names(page);
    if (status) {
        scbm_output_abandon(page->out);
        return status;
    }
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", SCBM_VERSION_MAJOR, SCBM_VERSION_MINOR, SCBM_VERSION_PATCH);
    cbm_page_end(page, html_body, "version", version, NULL);
    return scbm_output_commit(page->out);
}
