/*
 * models/report/maps.c - masks as small pictures that fit side by side
 */
#include "models/report/parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CELLS 600000 /* of all pictures together */
#define UNIT 24           /* cells along the shortest side of a matrix, where the pictures are not too many */
#define SMALLEST_UNIT 6
#define CELL_SIDE 5  /* weights along a cell's side at least, where the matrix is not too small */
#define LINE_UNITS 4 /* a picture is as wide as so many of the smallest matrices */

/* ------------------------------------------------------------------------------------------
 * Layout
 * ---------------------------------------------------------------------------------------- */

static int shorter(const cbm_matrix *m) {
    return m->rows < m->columns ? m->rows : m->columns;
}

static int longer(const cbm_matrix *m) {
    return m->rows < m->columns ? m->columns : m->rows;
}

static int shortest_side(const cbm_subnetworks *s) {
    int side = shorter(&s->matrices[0]);
    for (int m = 1; m < s->n_matrices; m++)
        if (shorter(&s->matrices[m]) < side) side = shorter(&s->matrices[m]);
    return side;
}

/* Cells for a side of so many weights. */
static int cells(int side, int unit, int shortest) {
    double n = floor((double)side * unit / shortest + 0.5);
    int line = LINE_UNITS * unit + LINE_UNITS - 1; /* with the gaps, so that a long matrix fills the line */
    if (n < (double)unit * LINE_UNITS) return (int)n;
    return line <= side ? line : unit * LINE_UNITS;
}

/* Places the matrices line by line, as words are, with a cell between them. */
static void lay_out(cbm_maps *maps, int unit) {
    const cbm_subnetworks *s = maps->subnetworks;
    int line = LINE_UNITS * unit + LINE_UNITS - 1, shortest = shortest_side(s), x = 0, y = 0, tallest = 0;
    maps->width = maps->height = 0;
    for (int m = 0; m < s->n_matrices; m++) {
        const cbm_matrix *matrix = &s->matrices[m];
        cbm_map_place place = {0, 0, cells(longer(matrix), unit, shortest), cells(shorter(matrix), unit, shortest),
                               matrix->rows > matrix->columns};
        if (m == 0 || matrix->block != s->matrices[m - 1].block) {
            x = y = tallest = 0;
        } else if (x + place.width > line) {
            x = 0;
            y += tallest + 1;
            tallest = 0;
        }
        place.x = x;
        place.y = y;
        maps->place[m] = place;
        x += place.width + 1;
        if (place.height > tallest) tallest = place.height;
        if (x - 1 > maps->width) maps->width = x - 1;
        if (y + tallest > maps->height) maps->height = y + tallest;
    }
}

static double count_cells(const cbm_maps *maps) {
    return (double)maps->width * maps->height * maps->n_streams * maps->subnetworks->n_blocks;
}

/* ------------------------------------------------------------------------------------------
 * Densities
 * ---------------------------------------------------------------------------------------- */

const float *cbm_maps_picture(const cbm_maps *maps, int block, int stream) {
    size_t picture = (size_t)block * (size_t)maps->n_streams + (size_t)stream;
    return maps->density + picture * (size_t)maps->width * (size_t)maps->height;
}

/* Reads a matrix's map of one stream into its place. `scratch` holds the largest one. */
static scbm_status draw_matrix(cbm_maps *maps, const cbm_model *model, int m, int stream, float *scratch) {
    const cbm_map_place *place = &maps->place[m];
    int rows = place->turned ? place->width : place->height, columns = place->turned ? place->height : place->width;
    int k = stream < maps->subnetworks->n_concepts ? stream : CBM_ALL_CONCEPTS;
    float *picture = (float *)cbm_maps_picture(maps, maps->subnetworks->matrices[m].block, stream);
    scbm_status status = cbm_mask_map(model, m, k, rows, columns, scratch);
    for (int y = 0; y < place->height && !status; y++)
        for (int x = 0; x < place->width; x++)
            picture[(size_t)(place->y + y) * (size_t)maps->width + (size_t)(place->x + x)] =
                place->turned ? scratch[(size_t)x * (size_t)columns + (size_t)y]
                              : scratch[(size_t)y * (size_t)columns + (size_t)x];
    return status;
}

static scbm_status draw_matrices(cbm_maps *maps, const cbm_model *model, const scbm_hooks *hooks) {
    size_t picture = (size_t)maps->width * (size_t)maps->height, n = (size_t)count_cells(maps);
    scbm_status status = SCBM_OK;
    maps->density = scbm_alloc_array(hooks, n, sizeof *maps->density);
    float *scratch = scbm_alloc_array(hooks, picture, sizeof *scratch);
    if (!maps->density || !scratch) status = SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < n && !status; i++) maps->density[i] = -1.0f;
    for (int m = 0; m < maps->subnetworks->n_matrices && !status; m++)
        for (int stream = 0; stream < maps->n_streams && !status; stream++) {
            status = draw_matrix(maps, model, m, stream, scratch);
            if (!status) status = scbm_cancelled(hooks);
        }
    scbm_release(hooks, scratch);
    return status;
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The densities of streams first … end - 1 at 1 % and 99 %, so that a few odd cells do not make the others alike. */
static void find_scale(const cbm_maps *maps, int first, int end, float *sorted, float *low, float *high) {
    size_t picture = (size_t)maps->width * (size_t)maps->height, n = 0;
    for (int block = 0; block < maps->subnetworks->n_blocks; block++)
        for (int stream = first; stream < end; stream++) {
            const float *density = cbm_maps_picture(maps, block, stream);
            for (size_t i = 0; i < picture; i++)
                if (density[i] >= 0) sorted[n++] = density[i];
        }
    *low = 0.0f;
    *high = 1.0f;
    if (!n) return;
    qsort(sorted, n, sizeof *sorted, compare_floats);
    float from = sorted[n / 100], to = sorted[n - 1 - n / 100];
    if (to > from) {
        *low = from;
        *high = to;
    }
}

static scbm_status find_scales(cbm_maps *maps, const scbm_hooks *hooks) {
    int n = maps->subnetworks->n_concepts;
    float *sorted = scbm_alloc_array(hooks, (size_t)count_cells(maps), sizeof *sorted);
    if (!sorted) return SCBM_ERROR_MEMORY;
    find_scale(maps, 0, n, sorted, &maps->low[0], &maps->high[0]);
    find_scale(maps, n, maps->n_streams, sorted, &maps->low[1], &maps->high[1]);
    scbm_release(hooks, sorted);
    return SCBM_OK;
}

scbm_status cbm_maps_create(cbm_maps *maps, const cbm_model *model, const cbm_subnetworks *subnetworks,
                            const scbm_hooks *hooks) {
    memset(maps, 0, sizeof *maps);
    maps->subnetworks = subnetworks;
    maps->n_streams = subnetworks->n_concepts + (subnetworks->n_concepts > 1);
    if (!subnetworks->n_matrices) return scbm_fail(SCBM_ERROR_UNSUPPORTED, "the model has no matrices with masks");
    maps->place = scbm_alloc_array(hooks, (size_t)subnetworks->n_matrices, sizeof *maps->place);
    if (!maps->place) return SCBM_ERROR_MEMORY;
    int side = shortest_side(subnetworks), unit = side / CELL_SIDE;
    if (unit > UNIT) unit = UNIT;
    if (unit < SMALLEST_UNIT) unit = side < SMALLEST_UNIT ? side : SMALLEST_UNIT;
    lay_out(maps, unit);
    while (unit > SMALLEST_UNIT && count_cells(maps) > MOST_CELLS) lay_out(maps, --unit);
    scbm_status status = draw_matrices(maps, model, hooks);
    if (!status) status = find_scales(maps, hooks);
    if (status) cbm_maps_clear(maps, hooks);
    return status;
}

void cbm_maps_clear(cbm_maps *maps, const scbm_hooks *hooks) {
    scbm_release(hooks, maps->place);
    scbm_release(hooks, maps->density);
    memset(maps, 0, sizeof *maps);
}

float cbm_maps_shade(const cbm_maps *maps, int stream, float density) {
    int scale = stream >= maps->subnetworks->n_concepts;
    float shade = (density - maps->low[scale]) / (maps->high[scale] - maps->low[scale]);
    return shade < 0.0f ? 0.0f : shade > 1.0f ? 1.0f : shade;
}

/* ------------------------------------------------------------------------------------------
 * Names and numbers
 * ---------------------------------------------------------------------------------------- */

const char *cbm_matrix_title(const char *name, char title[CBM_MATRIX_TITLE]) {
    static const char *const known[][2] = {{"lstm_input", "input"},
                                           {"lstm_state", "state"},
                                           {"lstm_reverse_input", "reverse input"},
                                           {"lstm_reverse_state", "reverse state"},
                                           {"attn_q", "query"},
                                           {"attn_k", "key"},
                                           {"attn_v", "value"},
                                           {"attn_output", "attention output"},
                                           {"ffn_up", "feed-forward up"},
                                           {"ffn_down", "feed-forward down"}};
    const char *end = strrchr(name, '.');
    if (strncmp(name, "blk.", 4) == 0 && strchr(name + 4, '.')) name = strchr(name + 4, '.') + 1;
    snprintf(title, CBM_MATRIX_TITLE, "%.*s", end && end > name ? (int)(end - name) : (int)strlen(name), name);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(title, known[i][0]) == 0) snprintf(title, CBM_MATRIX_TITLE, "%s", known[i][1]);
    return title;
}

double cbm_chance_overlap(double a, double b) {
    double either = a + b - a * b;
    return either > 0 ? a * b / either : 1.0;
}
