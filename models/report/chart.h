/*
 * models/report/chart.h - curves over a common axis, as a picture in a page
 */
#ifndef CBM_REPORT_CHART_H
#define CBM_REPORT_CHART_H

#include "models/report/parts.h"

/* A curve is told from the others by its style's colour and dashes; no two of sixteen styles have the same. */
typedef struct cbm_curve {
    const char *title;   /* HTML */
    const double *value; /* [n_points]; what is not finite is left out */
    int style;
} cbm_curve;

typedef struct cbm_chart {
    const char *title, *hint; /* HTML */
    const cbm_curve *curve;   /* [n_curves], the most important first: it lies on top */
    int n_curves, n_points;
    const char *const *tick; /* [n_points], HTML: what stands below a point; NULL: nothing */
    int from_zero;           /* 1: the axis of the values has zero on it */
    int has_legend;          /* 1: of its own */
    int mark;                /* a point with a line through it; -1: none */
} cbm_chart;

/* Charts stand one after the other between begin and end. */
void cbm_charts_begin(cbm_page *page);
void cbm_charts_end(cbm_page *page);
void cbm_page_chart(cbm_page *page, const cbm_chart *chart);
void cbm_page_legend(cbm_page *page, const cbm_curve *curve, int n);

#endif
