/*
 * models/report/faithfulness.c - the section on how faithful attributions are: curves and a table
 */
#include "models/report/faithfulness.html.h"
#include "models/report/page.html.h"
#include "models/report/parts.h"

#include <math.h>

/* How each method is shown: its line is told from the others by colour (the style's) and by dashes. */
static const struct {
    const char *title, *dashes;
} methods[CBM_ATTRIBUTION_METHODS] = {
    [CBM_ATTRIBUTE_GRADIENT_INPUT] = {"gradient × input", "none"},
    [CBM_ATTRIBUTE_INTEGRATED_GRADIENTS] = {"integrated gradients", "7 3"},
    [CBM_ATTRIBUTE_ATTENTION] = {"attention", "2 3"},
    [CBM_ATTRIBUTE_RANDOM] = {"random", "9 3 2 3"},
};

typedef const double (*curves)[CBM_FAITHFULNESS_SHARES]; /* [CBM_ATTRIBUTION_METHODS] */

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

static scale find_scale(curves values) {
    scale s = {0.0, 0.0, 0.0};
    for (int m = 0; m < CBM_ATTRIBUTION_METHODS; m++)
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++) {
            s.low = fmin(s.low, values[m][i]);
            s.high = fmax(s.high, values[m][i]);
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

static double x_of(int share) {
    return LEFT + share * (double)WIDTH / (CBM_FAITHFULNESS_SHARES - 1);
}

static void put_grid(cbm_page *page, const scale *s, const double *share) {
    for (double v = s->low; v < s->high + s->step / 2; v += s->step)
        cbm_page_put(page, html_grid_line, "left", cbm_page_integer(page, LEFT), "right",
                     cbm_page_integer(page, LEFT + WIDTH), "y", cbm_page_plain(page, y_of(s, v)), "text-right",
                     cbm_page_integer(page, LEFT - VALUE_GAP), "text-y", cbm_page_plain(page, y_of(s, v) + BASELINE),
                     "value", cbm_page_number(page, v, s->step < 0.1 ? 2 : 1), NULL);
    for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
        cbm_page_put(page, html_share, "x", cbm_page_plain(page, x_of(i)), "y",
                     cbm_page_integer(page, TOP + HEIGHT + SHARE_GAP), "share",
                     cbm_page_number(page, 100 * share[i], 0), NULL);
}

static void put_chart(cbm_page *page, const char *title, const char *hint, const double *share, curves values) {
    scale s = find_scale(values);
    cbm_page_begin(page, html_chart, "title", title, "width", cbm_page_integer(page, PICTURE_WIDTH), "height",
                   cbm_page_integer(page, PICTURE_HEIGHT), NULL);
    put_grid(page, &s, share);
    for (int m = CBM_ATTRIBUTION_METHODS - 1; m >= 0; m--) { /* the most important one lies on top */
        cbm_page_begin(page, html_curve, "method", cbm_page_integer(page, m), "dashes", methods[m].dashes, NULL);
        for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
            cbm_page_put(page, html_point, "x", cbm_page_plain(page, x_of(i)), "y",
                         cbm_page_plain(page, y_of(&s, values[m][i])), NULL);
        cbm_page_end(page, html_curve, NULL);
    }
    cbm_page_end(page, html_chart, "hint", hint, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The table
 * ---------------------------------------------------------------------------------------- */

static void put_heads(cbm_page *page, const double *share) {
    for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
        cbm_page_put(page, html_share_column, "share", cbm_page_number(page, 100 * share[i], 0), NULL);
    cbm_page_put(page, html_column, "name", "mean", "number", "", NULL);
}

static void put_numbers(cbm_page *page, const double *values, double mean) {
    for (int i = 0; i < CBM_FAITHFULNESS_SHARES; i++)
        cbm_page_put(page, html_number, "value", cbm_page_number(page, values[i], 3), NULL);
    cbm_page_put(page, html_mean, "value", cbm_page_number(page, mean, 3), NULL);
}

static void put_table(cbm_page *page, const cbm_faithfulness *f) {
    cbm_page_begin(page, html_table, "title", "Faithfulness", NULL);
    cbm_page_begin(page, html_two_heads, "columns", cbm_page_integer(page, CBM_FAITHFULNESS_SHARES + 1), NULL);
    put_heads(page, f->share);
    put_heads(page, f->share);
    cbm_page_end(page, html_two_heads, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int m = 0; m < CBM_ATTRIBUTION_METHODS; m++) {
        cbm_page_begin(page, html_row, "name", methods[m].title, NULL);
        put_numbers(page, f->comprehensiveness[m], f->mean_comprehensiveness[m]);
        put_numbers(page, f->sufficiency[m], f->mean_sufficiency[m]);
        cbm_page_end(page, html_row, NULL);
    }
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The section
 * ---------------------------------------------------------------------------------------- */

void cbm_page_faithfulness(cbm_page *page, const cbm_faithfulness *f) {
    cbm_page_begin(page, html_faithfulness, "texts", cbm_page_integer(page, (int64_t)f->n), NULL);
    cbm_page_begin(page, html_legend, NULL);
    for (int m = 0; m < CBM_ATTRIBUTION_METHODS; m++)
        cbm_page_put(page, html_legend_line, "method", cbm_page_integer(page, m), "dashes", methods[m].dashes, "title",
                     methods[m].title, NULL);
    cbm_page_end(page, html_legend, NULL);
    cbm_page_begin(page, html_curves, NULL);
    put_chart(page, "Comprehensiveness",
              "How much probability the class loses without them, by the share of tokens taken away. Larger is better.",
              f->share, f->comprehensiveness);
    put_chart(page, "Sufficiency",
              "How much probability it loses when only they stay, by the share of tokens kept. Smaller is better.",
              f->share, f->sufficiency);
    cbm_page_end(page, html_curves, NULL);
    put_table(page, f);
    cbm_page_end(page, html_faithfulness, NULL);
}
