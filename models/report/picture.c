/*
 * models/report/picture.c - subnetworks as one PNG picture
 */
#include "models/report/canvas.h"
#include "models/report/parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const cbm_colour paper = {255, 255, 255}, black = {29, 31, 35}, grey = {90, 96, 107}, pale = {237, 234, 228},
                        teal = {15, 110, 103}, blank = {247, 245, 241};

/* ------------------------------------------------------------------------------------------
 * Layout, in points
 * ---------------------------------------------------------------------------------------- */

enum {
    TEXT = 2, /* scales of letters */
    TITLE = 3,
    TEXT_LINE = CBM_LINE_HEIGHT * TEXT,
    TITLE_LINE = CBM_LINE_HEIGHT * TITLE,
    HALF_LETTER = CBM_LETTER_HEIGHT * TEXT / 2,

    MARGIN = 40, /* around everything */
    GAP = 24,    /* between things */
    SMALL_GAP = 8,
    HEAD_GAP = 4, /* between a head and what it is the head of */
    WIDEST_TITLE = 2000,

    TILE = 330, /* a map is so wide, or a little less */
    /* Names at the left, and columns that have names above them. */
    NARROWEST_LABEL = 100,
    WIDEST_LABEL = 230,
    LABEL_GAP = 20,
    NARROWEST_COLUMN = 70,
    WIDEST_COLUMN = 130,
    COLUMN_GAP = 14,

    /* The key: a scale of shades, with words beside and below it. */
    KEY_HEIGHT = 160,
    KEY_TEXT = 500,
    KEY_ROOM = KEY_TEXT + 20,
    SCALE_LENGTH = 256,
    SCALE_THICKNESS = 20,
    SCALE_GAP = 6,
    SCALE_NUMBER = 200,
    SCALE_NAME = 240,
    SCALE_NAME_GAP = 16,

    /* Rows of the overlaps and of the bars. */
    ROW = 42,
    ROW_TEXT = 12, /* a row's text below its top */
    CELL_LINE = 2, /* paper between cells */
    NAME_RISE = 2, /* of names above columns */
    NAME_LINE = 4,
    BAR = 300,
    BAR_TOP = 6,
    BAR_HEIGHT = ROW - 14,
    BAR_NUMBER_GAP = 10,
    BAR_NUMBER = 100,
    BAR_NUMBER_ROOM = 80,
};

#define KEY_SHADE 0.25
#define DARKEST_OVERLAP 0.6

typedef struct drawing {
    cbm_canvas canvas;
    const cbm_maps *maps;
    const cbm_subnetworks *subnetworks;
    const cbm_model *model;
    int cell; /* points along a cell's side */
    int tile_width, tile_height;
    int label_room, column_width; /* of names at the left, and of the overlaps' columns */
    int key_y, maps_y, overlap_y; /* where the parts begin */
    int content_x, bars_x;        /* behind the names at the left; of the bars beside the overlaps */
} drawing;

static int has_overlap(const drawing *d) {
    return d->subnetworks->n_concepts > 1;
}

static int larger(int a, int b) {
    return a > b ? a : b;
}

/* The width of the longest concept's name, within limits. */
static int longest_name(const drawing *d, int least, int most) {
    int longest = least;
    for (int k = 0; k < d->subnetworks->n_concepts; k++)
        longest = larger(longest, cbm_text_pixels(cbm_model_concept(d->model, k), TEXT));
    return longest < most ? longest : most;
}

static int tile_x(const drawing *d, int stream) {
    return d->content_x + stream * (d->tile_width + GAP);
}

static int tile_y(const drawing *d, int block) {
    return d->maps_y + 2 * TEXT_LINE + HEAD_GAP + block * (d->tile_height + GAP);
}

static int column_x(const drawing *d, int b) {
    return d->content_x + b * d->column_width;
}

/* The first row of overlaps and of bars is below a title and the columns' names. */
static int row_y(const drawing *d, int a) {
    return d->overlap_y + 3 * TEXT_LINE + a * ROW;
}

static int content_width(const drawing *d, const char *title) {
    int title_width = cbm_text_pixels(title, TITLE);
    int width = d->label_room + d->tile_width + GAP + KEY_ROOM;
    width = larger(width, tile_x(d, d->maps->n_streams) - GAP - MARGIN);
    if (has_overlap(d)) width = larger(width, d->bars_x - MARGIN + d->label_room + BAR + BAR_NUMBER_ROOM);
    return title_width < WIDEST_TITLE ? larger(width, title_width) : width;
}

static void lay_out(drawing *d, const char *title) {
    int n = d->subnetworks->n_concepts, layers = d->subnetworks->n_blocks;
    d->label_room = longest_name(d, NARROWEST_LABEL, WIDEST_LABEL) + LABEL_GAP;
    d->column_width = longest_name(d, NARROWEST_COLUMN, WIDEST_COLUMN) + COLUMN_GAP;
    d->cell = d->maps->width < TILE ? TILE / d->maps->width : 1;
    d->tile_width = d->maps->width * d->cell;
    d->tile_height = d->maps->height * d->cell;
    d->content_x = MARGIN + d->label_room;
    d->bars_x = column_x(d, n) + 3 * GAP;
    d->key_y = MARGIN + TITLE_LINE + TEXT_LINE + 2 * GAP;
    d->maps_y = d->key_y + larger(d->tile_height, KEY_HEIGHT) + 2 * GAP;
    d->overlap_y = d->maps_y + 2 * TEXT_LINE + layers * (d->tile_height + GAP) + GAP;
    d->canvas.width = content_width(d, title) + 2 * MARGIN;
    d->canvas.height = (has_overlap(d) ? row_y(d, n + 1) : d->overlap_y) + MARGIN;
}

/* ------------------------------------------------------------------------------------------
 * Title and key
 * ---------------------------------------------------------------------------------------- */

/* At most `room` wide, from x on. */
static void put_text(drawing *d, int x, int y, int room, const char *text, cbm_colour ink) {
    cbm_canvas_text(&d->canvas, x, y, room, CBM_LEFT, text, TEXT, ink);
}

static void percent(char text[32], double share) {
    long long tenths = (long long)floor(share * 1000 + 0.5);
    snprintf(text, 32, "%lld.%lld%%", tenths / 10, tenths % 10);
}

static void draw_title(drawing *d, const char *title) {
    const cbm_subnetworks *s = d->subnetworks;
    int room = d->canvas.width - 2 * MARGIN;
    char line[160];
    cbm_canvas_text(&d->canvas, MARGIN, MARGIN, room, CBM_LEFT, title, TITLE, black);
    snprintf(line, sizeof line, "%d subnetworks, one for each concept, over %lld prunable weights in %d layers",
             s->n_concepts, (long long)s->n_weights, s->n_blocks);
    put_text(d, MARGIN, MARGIN + TITLE_LINE + SMALL_GAP, room, line, grey);
}

/* The shades with the numbers that they begin and end with, for the concepts and for what all keep. */
static int draw_scale(drawing *d, int x, int y) {
    for (int i = 0; i < SCALE_LENGTH; i++)
        cbm_canvas_fill(&d->canvas, x + i, y, 1, SCALE_THICKNESS,
                        cbm_colour_mix(pale, teal, i / (double)(SCALE_LENGTH - 1)));
    y += SCALE_THICKNESS + SCALE_GAP;
    for (int i = 0; i < 1 + has_overlap(d); i++, y += TEXT_LINE) {
        char text[32];
        percent(text, (double)d->maps->low[i]);
        put_text(d, x, y, SCALE_NUMBER, text, black);
        percent(text, (double)d->maps->high[i]);
        cbm_canvas_text(&d->canvas, x + SCALE_LENGTH, y, SCALE_NUMBER, CBM_RIGHT, text, TEXT, black);
        put_text(d, x + SCALE_LENGTH + SCALE_NAME_GAP, y, SCALE_NAME, i ? "kept by all" : "the concepts", grey);
    }
    return y;
}

/* A matrix in the key, with its title, or the last word of that, in its middle. */
static void draw_place(drawing *d, const cbm_map_place *place, const char *name) {
    int x = d->content_x + place->x * d->cell, y = d->key_y + place->y * d->cell;
    int width = place->width * d->cell, height = place->height * d->cell;
    char title[CBM_MATRIX_TITLE];
    cbm_matrix_title(name, title);
    const char *last = cbm_text_pixels(title, TEXT) > width ? strrchr(title, ' ') : NULL,
               *shown = last ? last + 1 : title;
    cbm_canvas_fill(&d->canvas, x, y, width, height, cbm_colour_mix(pale, teal, KEY_SHADE));
    cbm_canvas_text(&d->canvas, x + width / 2, y + height / 2 - HALF_LETTER, width, CBM_MIDDLE, shown,
                    cbm_text_pixels(shown, TEXT) > width ? 1 : TEXT, black);
}

/* Where each matrix of a layer lies, and what shades mean. */
static void draw_key(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    int x = d->content_x + d->tile_width + 2 * GAP, y = d->key_y, has_turned = 0;
    put_text(d, MARGIN, y, d->label_room, "key", grey);
    for (int m = 0; m < s->n_matrices && s->matrices[m].block == s->matrices[0].block; m++) {
        draw_place(d, &d->maps->place[m], s->matrices[m].name);
        has_turned |= d->maps->place[m].turned;
    }
    put_text(d, x, y, KEY_TEXT, "share of weights kept", black);
    y = draw_scale(d, x, y + TEXT_LINE + HEAD_GAP) + SMALL_GAP;
    put_text(d, x, y, KEY_TEXT, "rows are outputs, columns inputs", grey);
    if (has_turned) put_text(d, x, y + TEXT_LINE, KEY_TEXT, "(feed-forward up on its side)", grey);
}

/* ------------------------------------------------------------------------------------------
 * Maps
 * ---------------------------------------------------------------------------------------- */

static const char *stream_name(const drawing *d, int stream) {
    return stream < d->subnetworks->n_concepts ? cbm_model_concept(d->model, stream) : "kept by all";
}

static void draw_tile(drawing *d, int block, int stream) {
    const float *density = cbm_maps_picture(d->maps, block, stream);
    int x = tile_x(d, stream), y = tile_y(d, block);
    for (int row = 0; row < d->maps->height; row++)
        for (int column = 0; column < d->maps->width; column++) {
            float here = density[row * d->maps->width + column];
            if (here < 0) continue;
            cbm_canvas_fill(&d->canvas, x + column * d->cell, y + row * d->cell, d->cell, d->cell,
                            cbm_colour_mix(pale, teal, (double)cbm_maps_shade(d->maps, stream, here)));
        }
}

static void draw_maps(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    char text[32];
    for (int stream = 0; stream < d->maps->n_streams; stream++) {
        put_text(d, tile_x(d, stream), d->maps_y, d->tile_width, stream_name(d, stream), black);
        percent(text, stream < s->n_concepts ? s->density[stream] : s->kept_by[s->n_concepts]);
        put_text(d, tile_x(d, stream), d->maps_y + TEXT_LINE, d->tile_width, text, grey);
        for (int block = 0; block < s->n_blocks; block++) draw_tile(d, block, stream);
    }
    for (int block = 0; block < s->n_blocks; block++) {
        snprintf(text, sizeof text, "layer %d", block + 1);
        put_text(d, MARGIN, tile_y(d, block), d->label_room, text, black);
    }
}

/* ------------------------------------------------------------------------------------------
 * Overlaps and sharing
 * ---------------------------------------------------------------------------------------- */

static double largest_overlap(const cbm_subnetworks *s) {
    double largest = 0.0;
    for (int a = 0; a < s->n_concepts; a++)
        for (int b = 0; b < s->n_concepts; b++)
            if (a != b) largest = fmax(largest, s->overlap[a * s->n_concepts + b]);
    return largest;
}

static void draw_pair(drawing *d, int a, int b, double largest) {
    double overlap = d->subnetworks->overlap[a * d->subnetworks->n_concepts + b];
    double share = largest > 0 ? overlap / largest : 0.0;
    int x = column_x(d, b), y = row_y(d, a);
    long long thousandths = (long long)floor(overlap * 1000 + 0.5);
    char text[32] = "1";
    if (a != b) snprintf(text, sizeof text, "%lld.%03lld", thousandths / 1000, thousandths % 1000);
    cbm_canvas_fill(&d->canvas, x, y, d->column_width - CELL_LINE, ROW - CELL_LINE,
                    a == b ? blank : cbm_colour_mix(pale, teal, DARKEST_OVERLAP * share));
    cbm_canvas_text(&d->canvas, x + d->column_width / 2, y + ROW_TEXT, d->column_width, CBM_MIDDLE, text, TEXT,
                    a == b ? grey : black);
}

static void draw_overlap(drawing *d) {
    double largest = largest_overlap(d->subnetworks);
    put_text(d, MARGIN, d->overlap_y, d->canvas.width, "overlap (intersection over union)", black);
    for (int a = 0; a < d->subnetworks->n_concepts; a++) {
        const char *name = cbm_model_concept(d->model, a);
        cbm_canvas_text(&d->canvas, column_x(d, a) + d->column_width / 2, row_y(d, 0) - TEXT_LINE - NAME_RISE,
                        d->column_width - NAME_LINE, CBM_MIDDLE, name, TEXT, black);
        put_text(d, MARGIN, row_y(d, a) + ROW_TEXT, d->label_room - SMALL_GAP, name, black);
        for (int b = 0; b < d->subnetworks->n_concepts; b++) draw_pair(d, a, b, largest);
    }
}

/* How many concepts keep a weight. */
static void draw_sharing(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    int n = s->n_concepts, bar_x = d->bars_x + d->label_room;
    put_text(d, d->bars_x, d->overlap_y, d->canvas.width, "kept by so many concepts", black);
    for (int j = n; j >= 0; j--) {
        int y = row_y(d, n - j);
        char text[32] = "none";
        if (j) snprintf(text, sizeof text, j == n ? "all %d" : "%d", j);
        put_text(d, d->bars_x, y + ROW_TEXT, d->label_room, text, black);
        cbm_canvas_fill(&d->canvas, bar_x, y + BAR_TOP, BAR, BAR_HEIGHT, pale);
        cbm_canvas_fill(&d->canvas, bar_x, y + BAR_TOP, (int)(BAR * s->kept_by[j] + 0.5), BAR_HEIGHT, teal);
        percent(text, s->kept_by[j]);
        put_text(d, bar_x + BAR + BAR_NUMBER_GAP, y + ROW_TEXT, BAR_NUMBER, text, black);
    }
}

/* ------------------------------------------------------------------------------------------
 * The picture
 * ---------------------------------------------------------------------------------------- */

static scbm_status draw(drawing *d, const char *title, const scbm_hooks *hooks) {
    lay_out(d, title);
    cbm_canvas *c = &d->canvas;
    c->pixels = scbm_alloc_array(hooks, (size_t)c->width * (size_t)c->height, 3);
    if (!c->pixels) return SCBM_ERROR_MEMORY;
    cbm_canvas_fill(c, 0, 0, c->width, c->height, paper);
    draw_title(d, title);
    draw_key(d);
    draw_maps(d);
    if (has_overlap(d)) {
        draw_overlap(d);
        draw_sharing(d);
    }
    return SCBM_OK;
}

static scbm_status write_bytes(const char *path, const unsigned char *bytes, size_t size, const scbm_hooks *hooks) {
    scbm_output_file *out;
    scbm_status status = scbm_output_open(&out, path, hooks);
    if (status) return status;
    scbm_output_write(out, bytes, size);
    return scbm_output_commit(out);
}

scbm_status cbm_report_png(const char *path, const char *title, const cbm_model *model,
                           const cbm_subnetworks *subnetworks, const scbm_hooks *hooks) {
    cbm_maps maps;
    unsigned char *png = NULL;
    size_t size;
    if (!subnetworks->is_sparse)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%s: a dense model has no masks to draw; train with pruning for subnetworks", path);
    scbm_status status = cbm_maps_create(&maps, model, subnetworks, hooks);
    if (status) return status;
    drawing d = {.maps = &maps, .subnetworks = subnetworks, .model = model};
    status = draw(&d, title, hooks);
    if (!status) status = cbm_png_encode(d.canvas.pixels, d.canvas.width, d.canvas.height, 3, hooks, &png, &size);
    if (!status) status = write_bytes(path, png, size, hooks);
    scbm_release(hooks, png);
    scbm_release(hooks, d.canvas.pixels);
    cbm_maps_clear(&maps, hooks);
    return status;
}
