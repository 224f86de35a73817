/*
 * models/report/faithfulness.c - the section on how faithful attributions are: curves and a table
 */
#include "models/report/chart.h"
#include "models/report/templates/faithfulness.html.h"
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"

#include <stdio.h>

enum { MOST_METHODS = 32, MOST_SHARES = 16 };

/* One of two numbers of each method, by the share of tokens. */
static int list_curves(const cbm_faithfulness *f, int is_sufficiency, cbm_curve *curve) {
    int n = f->n_methods < MOST_METHODS ? f->n_methods : MOST_METHODS;
    for (int i = 0; i < n; i++) {
        const cbm_method_faithfulness *m = &f->methods[i];
        curve[i] = (cbm_curve){m->title, is_sufficiency ? m->sufficiency : m->comprehensiveness, m->method};
    }
    return n;
}

static void put_chart(cbm_page *page, const cbm_faithfulness *f, int is_sufficiency, const char *title,
                      const char *hint) {
    char text[MOST_SHARES][8];
    const char *tick[MOST_SHARES];
    cbm_curve curve[MOST_METHODS];
    int n = f->n_shares < MOST_SHARES ? f->n_shares : MOST_SHARES;
    for (int i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "%s%%", cbm_page_number(page, 100 * f->share[i], 0));
        tick[i] = text[i];
    }
    cbm_page_chart(page, &(cbm_chart){.title = title,
                                      .hint = hint,
                                      .curve = curve,
                                      .n_curves = list_curves(f, is_sufficiency, curve),
                                      .n_points = n,
                                      .tick = tick,
                                      .from_zero = 1,
                                      .mark = -1});
}

/* ------------------------------------------------------------------------------------------
 * The table
 * ---------------------------------------------------------------------------------------- */

static void put_heads(cbm_page *page, const cbm_faithfulness *f) {
    for (int i = 0; i < f->n_shares; i++)
        cbm_page_put(page, html_share_column, "share", cbm_page_number(page, 100 * f->share[i], 0), NULL);
    cbm_page_put(page, html_column, "name", "mean", "number", "", NULL);
}

static void put_numbers(cbm_page *page, const double *values, int n, double mean) {
    for (int i = 0; i < n; i++) cbm_page_put(page, html_number, "value", cbm_page_number(page, values[i], 3), NULL);
    cbm_page_put(page, html_mean, "value", cbm_page_number(page, mean, 3), NULL);
}

static void put_table(cbm_page *page, const cbm_faithfulness *f) {
    cbm_page_begin(page, html_table, "title", "Faithfulness", NULL);
    cbm_page_begin(page, html_two_heads, "columns", cbm_page_integer(page, f->n_shares + 1), NULL);
    put_heads(page, f);
    put_heads(page, f);
    cbm_page_end(page, html_two_heads, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int m = 0; m < f->n_methods; m++) {
        const cbm_method_faithfulness *method = &f->methods[m];
        cbm_page_begin(page, html_row, "name", method->title, NULL);
        put_numbers(page, method->comprehensiveness, f->n_shares, method->mean_comprehensiveness);
        put_numbers(page, method->sufficiency, f->n_shares, method->mean_sufficiency);
        cbm_page_end(page, html_row, NULL);
    }
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The section
 * ---------------------------------------------------------------------------------------- */

void cbm_page_faithfulness(cbm_page *page, const cbm_faithfulness *f) {
    cbm_curve curve[MOST_METHODS];
    cbm_page_begin(page, html_faithfulness, "what", page->n_concepts ? "concept" : "label", "texts",
                   cbm_page_integer(page, (int64_t)f->n), NULL);
    cbm_page_legend(page, curve, list_curves(f, 0, curve));
    cbm_charts_begin(page);
    put_chart(
        page, f, 0, "Comprehensiveness",
        "How much probability the class loses without them, by the share of tokens taken away. Larger is better.");
    put_chart(page, f, 1, "Sufficiency",
              "How much probability it loses when only they stay, by the share of tokens kept. Smaller is better.");
    cbm_charts_end(page);
    put_table(page, f);
    cbm_page_end(page, html_faithfulness, NULL);
}
