/*
 * models/report/parts.h - what the HTML and PNG reports share
 */
#ifndef CBM_REPORT_PARTS_H
#define CBM_REPORT_PARTS_H

#include "models/cbm-train.h"

#if defined(__GNUC__)
#define CBM_ENDS_WITH_NULL __attribute__((sentinel))
#else
#define CBM_ENDS_WITH_NULL
#endif

/* ------------------------------------------------------------------------------------------
 * Maps: one picture of each block and concept, in which every matrix of the block has its place
 * ---------------------------------------------------------------------------------------- */

/* Where a matrix lies in its block's picture, in cells. One that is taller than wide lies on its side. */
typedef struct cbm_map_place {
    int x, y, width, height;
    int turned;
} cbm_map_place;

typedef struct cbm_maps {
    const cbm_subnetworks *subnetworks;
    int width, height;     /* cells of a picture */
    int n_streams;         /* the concepts, then what all share where there are several */
    cbm_map_place *place;  /* [n_matrices] */
    float *density;        /* [blocks, streams, height, width]; below 0 where no matrix is */
    float low[2], high[2]; /* what the scales begin and end at, the concepts' and that of what all share: nearly all
                                 cells lie between */
} cbm_maps;

/* Looks at every mask of a sparse model. */
scbm_status cbm_maps_create(cbm_maps *maps, const cbm_model *model, const cbm_subnetworks *subnetworks,
                            const scbm_hooks *hooks);
void cbm_maps_clear(cbm_maps *maps, const scbm_hooks *hooks);
/* The picture [height, width] of a block and stream. */
const float *cbm_maps_picture(const cbm_maps *maps, int block, int stream);
/* Where a density stands on its stream's scale, in [0, 1]. */
float cbm_maps_shade(const cbm_maps *maps, int stream, float density);

#define CBM_MATRIX_TITLE 64
/* "query" of "blk.0.attn_q.weight"; an unknown name without its block. Returns `title`. */
const char *cbm_matrix_title(const char *name, char title[CBM_MATRIX_TITLE]);
/* The intersection over union of two subnetworks of these densities that know nothing of each other. */
double cbm_chance_overlap(double a, double b);

/* ------------------------------------------------------------------------------------------
 * PNG
 * ---------------------------------------------------------------------------------------- */

/* Encodes pixels [height, width, components] of 8 bits (1 grey, 3 RGB, 4 RGBA). Release *png with scbm_release. */
scbm_status cbm_png_encode(const unsigned char *pixels, int width, int height, int components, const scbm_hooks *hooks,
                           unsigned char **png, size_t *size);

/* ------------------------------------------------------------------------------------------
 * HTML pages
 *
 * What a page is made of stands in .html files: fragments with places, {{name}}, that are filled with HTML (page.html says
 * how). Text from outside goes through cbm_page_escape, at the {{content}} of a fragment.
 * ---------------------------------------------------------------------------------------- */

#define CBM_HIGHLIGHTS 8 /* strengths of a highlighted word, from 1 on */
#define CBM_PAGE_MINUS "\xE2\x88\x92"
#define CBM_PAGE_NUMBERS 32
#define CBM_PAGE_NUMBER_SIZE 40

typedef struct cbm_page {
    scbm_output_file *out;
    const scbm_hooks *hooks;
    const cbm_model *model;
    int n_concepts, n_labels;
    int *order; /* [K]: how the concepts are listed */
    /* Names with everything that HTML would read as its own escaped: */
    char *title;
    char **concept, **label;                              /* [K], [Y] */
    char **class_name;                                    /* [C] */
    int *first_class;                                     /* [K + 1] */
    char numbers[CBM_PAGE_NUMBERS][CBM_PAGE_NUMBER_SIZE]; /* the last ones that were formatted */
    int next_number;
} cbm_page;

/* Opens the file and writes everything before the body's content. `importance` [K] sorts the concepts, the largest
 * first. */
scbm_status cbm_page_open(cbm_page *page, const char *path, const char *title, const cbm_model *model,
                          const double *importance, const scbm_hooks *hooks);
/* Ends the page. The file is put in place, or removed where `status` is a failure. */
scbm_status cbm_page_close(cbm_page *page, scbm_status status);

/* Writes a fragment of an .html file: all of it, what stands before {{content}}, what stands behind it. Names of places and
 * the HTML for each, escaped, are pairs that end with NULL; a place may be left out where its HTML is NULL. */
void cbm_page_put(cbm_page *page, const char *fragment, ...) CBM_ENDS_WITH_NULL;
void cbm_page_begin(cbm_page *page, const char *fragment, ...) CBM_ENDS_WITH_NULL;
void cbm_page_end(cbm_page *page, const char *fragment, ...) CBM_ENDS_WITH_NULL;
/* Text from outside. What is no UTF-8, and control characters, become U+FFFD. */
void cbm_page_escape(cbm_page *page, const char *text, size_t length);

/* Numbers in text, whatever the locale; each is good until CBM_PAGE_NUMBERS more were formatted. */
const char *cbm_page_number(cbm_page *page, double value, int decimals); /* "−0.25" */
const char *cbm_page_signed(cbm_page *page, double value, int decimals); /* "+0.25" */
const char *cbm_page_percent(cbm_page *page, double share);              /* "12.3%" of 0.123; below 1%: "0.12%" */
const char *cbm_page_count(cbm_page *page, int64_t n);                   /* "10,616,832"; n from 0 */
const char *cbm_page_integer(cbm_page *page, int64_t n);                 /* "10616832" */
const char *cbm_page_exact(cbm_page *page, float value);                 /* that reads back as the same float */
const char *cbm_page_plain(cbm_page *page, double value);                /* for CSS and SVG: "-12.35" */

/* A row of html_bars: a name, a bar of share · 100 %, and a number. */
typedef struct cbm_bar_row {
    const char *name; /* HTML, … */
    const char *text; /* … or text from outside, of `length` bytes */
    size_t length;
    const char *hint; /* shown where one points at the row; NULL: none */
    double share;
    const char *mark; /* where a line stands across the bar, in percent; NULL: none */
    const char *value;
    int is_best;
} cbm_bar_row;
void cbm_page_bar(cbm_page *page, const cbm_bar_row *row);
/* The heads of columns: the concepts in the page's order. */
void cbm_page_columns(cbm_page *page, int of_numbers);
/* Buttons that choose between numbers: `title` [n], of which the first is chosen. */
void cbm_page_choices(cbm_page *page, const char *const *title, int n);

/* The sections: on the concepts' subnetworks, … */
scbm_status cbm_page_subnetworks(cbm_page *page, const cbm_subnetworks *subnetworks);
/* (with maps of a sparse model's masks) … */
scbm_status cbm_page_maps(cbm_page *page, const cbm_subnetworks *subnetworks);
/* … on what each concept saw in the words of a text, … */
scbm_status cbm_page_words(cbm_page *page, const char *text, size_t length, const cbm_explanation *explanation);
/* … and on how faithful attributions are. */
void cbm_page_faithfulness(cbm_page *page, const cbm_faithfulness *faithfulness);

#endif
