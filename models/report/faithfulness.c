/*
 * models/report/faithfulness.c - the section on how faithful attributions are: curves and a table
 */
#include "models/report/faithfulness.html.h"
#include "models/report/page.html.h"
#include "models/report/parts.h"

#include <math.h>

/* A method's line is told from the others by its colour (the style's .c0 to .c3) and its dashes; no two of sixteen have
 * the same. */
enum { N_COLOURS = 4, N_DASHES = 4 };

static const char *colour_of(cbm_page *page, int method) {
    return cbm_page_integer(page, method % N_COLOURS);
}

static const char *dashes_of(int method) {
    static const char *const dashes[N_DASHES] = {"none", "7 3", "2 3", "9 3 2 3"};
    return dashes[(method + method / N_COLOURS) % N_DASHES];
}

/* One of two numbers of each method, by the share of tokens. */
typedef struct curves {
    const cbm_faithfulness *faithfulness;
    int is_sufficiency;
} curves;

static const double *curve_of(const curves *c, int i) {
    const cbm_method_faithfulness *method = &c->faithfulness->methods[i];
    return c->is_sufficiency ? method->sufficiency : method->comprehensiveness;
}

/* ------------------------------------------------------------------------------------------
 * Charts
 * ---------------------------------------------------------------------------------------- */

/* A picture, the curves' area in it, and how far text stands from what it names. */
enum {
    PICTURE_WIDTH = 320,
    PICTURE_HEIGHT = 186,
    LEFT = 38,
    TOP = 12,
    WIDTH = 270,
    HEIGHT = 150,
    VALUE_GAP = 5,
    BASELINE = 4, /* a letter's baseline below its middle */
    SHARE_GAP = 18,
};

typedef struct scale {
    double low, high, step; /* of the values; the grid's lines are `step` apart */
} scale;

/* Steps of 1, 2 or 5 times a power of ten, some four of them. */
static double grid_step(double range) {
    double power = pow(10, floor(log10(range / 4))), steps = range / 4 / power;
    return power * (steps < 1.5 ? 1 : steps < 3.5 ? 2 : steps < 7.5 ? 5 : 10);
}

static scale find_scale(const curves *c) {
    scale s = {0.0, 0.0, 0.0};
    for (int m = 0; m < c->faithfulness->n_methods; m++)
        for (int i = 0; i < c->faithfulness->n_shares; i++) {
            s.low = fmin(s.low, curve_of(c, m)[i]);
            s.high = fmax(s.high, curve_of(c, m)[i]);
        }
    if (!(s.high > s.low)) s.high = s.low + 1;
    s.step = grid_step(s.high - s.low);
    s.low = floor(s.low / s.step) * s.step;
    s.high = ceil(s.high / s.step) * s.step;
    return s;
}

static double y_of(const scale *s, double value) {
    return TOP + (s->high - value) * HEIGHT / (s->high - s->low);
}

static double x_of(int share, int n_shares) {
    return LEFT + share * (double)WIDTH / (n_shares > 1 ? n_shares - 1 : 1);
}

static void put_grid(cbm_page *page, const scale *s, const cbm_faithfulness *f) {
    for (double v = s->low; v < s->high + s->step / 2; v += s->step)
        cbm_page_put(page, html_grid_line, "left", cbm_page_integer(page, LEFT), "right",
                     cbm_page_integer(page, LEFT + WIDTH), "y", cbm_page_plain(page, y_of(s, v)), "text-right",
                     cbm_page_integer(page, LEFT - VALUE_GAP), "text-y", cbm_page_plain(page, y_of(s, v) + BASELINE),
                     "value", cbm_page_number(page, v, s->step < 0.1 ? 2 : 1), NULL);
    for (int i = 0; i < f->n_shares; i++)
        cbm_page_put(page, html_share, "x", cbm_page_plain(page, x_of(i, f->n_shares)), "y",
                     cbm_page_integer(page, TOP + HEIGHT + SHARE_GAP), "share",
                     cbm_page_number(page, 100 * f->share[i], 0), NULL);
}

static void put_chart(cbm_page *page, const char *title, const char *hint, const curves *c) {
    const cbm_faithfulness *f = c->faithfulness;
    scale s = find_scale(c);
    cbm_page_begin(page, html_chart, "title", title, "width", cbm_page_integer(page, PICTURE_WIDTH), "height",
                   cbm_page_integer(page, PICTURE_HEIGHT), NULL);
    put_grid(page, &s, f);
    for (int m = f->n_methods - 1; m >= 0; m--) { /* the most important one lies on top */
        int method = f->methods[m].method;
        cbm_page_begin(page, html_curve, "method", colour_of(page, method), "dashes", dashes_of(method), NULL);
        for (int i = 0; i < f->n_shares; i++)
            cbm_page_put(page, html_point, "x", cbm_page_plain(page, x_of(i, f->n_shares)), "y",
                         cbm_page_plain(page, y_of(&s, curve_of(c, m)[i])), NULL);
        cbm_page_end(page, html_curve, NULL);
    }
    cbm_page_end(page, html_chart, "hint", hint, NULL);
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
    const curves comprehensiveness = {f, 0}, sufficiency = {f, 1};
    cbm_page_begin(page, html_faithfulness, "texts", cbm_page_integer(page, (int64_t)f->n), NULL);
    cbm_page_begin(page, html_legend, NULL);
    for (int m = 0; m < f->n_methods; m++)
        cbm_page_put(page, html_legend_line, "method", colour_of(page, f->methods[m].method), "dashes",
                     dashes_of(f->methods[m].method), "title", f->methods[m].title, NULL);
    cbm_page_end(page, html_legend, NULL);
    cbm_page_begin(page, html_curves, NULL);
    put_chart(page, "Comprehensiveness",
              "How much probability the class loses without them, by the share of tokens taken away. Larger is better.",
              &comprehensiveness);
    put_chart(page, "Sufficiency",
              "How much probability it loses when only they stay, by the share of tokens kept. Smaller is better.",
              &sufficiency);
    cbm_page_end(page, html_curves, NULL);
    put_table(page, f);
    cbm_page_end(page, html_faithfulness, NULL);
}
