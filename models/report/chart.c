/*
 * models/report/chart.c - curves over a common axis, as a picture in a page
 */
#include "models/report/chart.h"
#include "models/report/templates/chart.html.h"

#include <math.h>

enum { N_COLOURS = 4, N_DASHES = 4 }; /* the page's style has .c0 to .c3 */

static const char *colour_of(cbm_page *page, int style) {
    return cbm_page_integer(page, style % N_COLOURS);
}

static const char *dashes_of(int style) {
    static const char *const dashes[N_DASHES] = {"none", "7 3", "2 3", "9 3 2 3"};
    return dashes[(style + style / N_COLOURS) % N_DASHES];
}

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
    TICK_GAP = 18,
};

typedef struct scale {
    double low, high, step; /* of the values; the grid's lines are `step` apart */
} scale;

/* Steps of 1, 2 or 5 times a power of ten, some four of them. */
static double grid_step(double range) {
    double power = pow(10, floor(log10(range / 4))), steps = range / 4 / power;
    return power * (steps < 1.5 ? 1 : steps < 3.5 ? 2 : steps < 7.5 ? 5 : 10);
}

static scale find_scale(const cbm_chart *c) {
    scale s = {c->from_zero ? 0.0 : HUGE_VAL, c->from_zero ? 0.0 : -HUGE_VAL, 0.0};
    for (int i = 0; i < c->n_curves; i++)
        for (int j = 0; j < c->n_points; j++) {
            if (!isfinite(c->curve[i].value[j])) continue;
            s.low = fmin(s.low, c->curve[i].value[j]);
            s.high = fmax(s.high, c->curve[i].value[j]);
        }
    if (!isfinite(s.low)) s.low = 0.0;
    if (!(s.high - s.low > 1e-9 * fmax(fabs(s.high), fabs(s.low)))) s.high = s.low + fmax(1.0, fabs(s.low));
    s.step = grid_step(s.high - s.low);
    s.low = floor(s.low / s.step) * s.step;
    s.high = ceil(s.high / s.step) * s.step;
    return s;
}

static double y_of(const scale *s, double value) {
    return TOP + (s->high - value) * HEIGHT / (s->high - s->low);
}

static double x_of(const cbm_chart *c, int point) {
    return LEFT + point * (double)WIDTH / (c->n_points > 1 ? c->n_points - 1 : 1);
}

/* Decimals that tell one line of the grid from the next. */
static int decimals_of(const scale *s) {
    return s->step >= 1 ? 0 : s->step >= 0.1 ? 1 : s->step >= 0.01 ? 2 : s->step >= 0.001 ? 3 : 5;
}

static void put_grid(cbm_page *page, const cbm_chart *c, const scale *s) {
    for (double v = s->low; v < s->high + s->step / 2; v += s->step)
        cbm_page_put(page, html_grid_line, "left", cbm_page_integer(page, LEFT), "right",
                     cbm_page_integer(page, LEFT + WIDTH), "y", cbm_page_plain(page, y_of(s, v)), "text-right",
                     cbm_page_integer(page, LEFT - VALUE_GAP), "text-y", cbm_page_plain(page, y_of(s, v) + BASELINE),
                     "value", cbm_page_number(page, v, decimals_of(s)), NULL);
    for (int i = 0; i < c->n_points; i++)
        if (c->tick[i])
            cbm_page_put(page, html_tick, "x", cbm_page_plain(page, x_of(c, i)), "y",
                         cbm_page_integer(page, TOP + HEIGHT + TICK_GAP), "name", c->tick[i], NULL);
    if (c->mark >= 0)
        cbm_page_put(page, html_mark, "x", cbm_page_plain(page, x_of(c, c->mark)), "top", cbm_page_integer(page, TOP),
                     "bottom", cbm_page_integer(page, TOP + HEIGHT), NULL);
}

static void put_curve(cbm_page *page, const cbm_chart *c, const scale *s, const cbm_curve *curve) {
    cbm_page_begin(page, html_curve, "colour", colour_of(page, curve->style), "dashes", dashes_of(curve->style), NULL);
    for (int i = 0; i < c->n_points; i++)
        if (isfinite(curve->value[i]))
            cbm_page_put(page, html_point, "x", cbm_page_plain(page, x_of(c, i)), "y",
                         cbm_page_plain(page, y_of(s, curve->value[i])), NULL);
    cbm_page_end(page, html_curve, NULL);
}

void cbm_page_legend(cbm_page *page, const cbm_curve *curve, int n) {
    cbm_page_begin(page, html_legend, NULL);
    for (int i = 0; i < n; i++)
        cbm_page_put(page, html_legend_line, "colour", colour_of(page, curve[i].style), "dashes",
                     dashes_of(curve[i].style), "title", curve[i].title, NULL);
    cbm_page_end(page, html_legend, NULL);
}

void cbm_page_chart(cbm_page *page, const cbm_chart *c) {
    scale s = find_scale(c);
    cbm_page_begin(page, html_chart, "title", c->title, NULL);
    if (c->has_legend) cbm_page_legend(page, c->curve, c->n_curves);
    cbm_page_begin(page, html_picture, "title", c->title, "width", cbm_page_integer(page, PICTURE_WIDTH), "height",
                   cbm_page_integer(page, PICTURE_HEIGHT), NULL);
    put_grid(page, c, &s);
    for (int i = c->n_curves - 1; i >= 0; i--) put_curve(page, c, &s, &c->curve[i]);
    cbm_page_end(page, html_picture, NULL);
    cbm_page_end(page, html_chart, "hint", c->hint, NULL);
}

void cbm_charts_begin(cbm_page *page) {
    cbm_page_begin(page, html_curves, NULL);
}

void cbm_charts_end(cbm_page *page) {
    cbm_page_end(page, html_curves, NULL);
}
