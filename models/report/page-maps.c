/*
 * models/report/page-maps.c - maps of the masks as pictures in a page
 */
#include "models/report/templates/page-maps.html.h"
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"

#include <stdio.h>
#include <string.h>

/* Ink of the maps: seen on white and on black, as the pictures' transparency is what a density sets. So many steps of
 * it are told apart, which makes smaller files than all 256 would. */
static const unsigned char ink[3] = {24, 140, 130};
enum { SHADES = 20, FAINTEST = 10, DARKEST = 255, COMPONENTS = 4 };

/* ------------------------------------------------------------------------------------------
 * Pictures
 * ---------------------------------------------------------------------------------------- */

static void put_base64(cbm_page *page, const unsigned char *bytes, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        unsigned b[3] = {bytes[i], i + 1 < size ? bytes[i + 1] : 0u, i + 2 < size ? bytes[i + 2] : 0u};
        char text[4] = {digits[b[0] >> 2], digits[(b[0] & 3) << 4 | b[1] >> 4],
                        i + 1 < size ? digits[(b[1] & 15) << 2 | b[2] >> 6] : '=',
                        i + 2 < size ? digits[b[2] & 63] : '='};
        scbm_output_write(page->out, text, 4);
    }
}

/* The bytes of a block's picture as a PNG; `pixels` holds one. */
static scbm_status put_picture(cbm_page *page, const cbm_maps *maps, int block, int stream, unsigned char *pixels) {
    const float *density = cbm_maps_picture(maps, block, stream);
    size_t n = (size_t)maps->width * (size_t)maps->height, size;
    unsigned char *png;
    for (size_t i = 0; i < n; i++) {
        int shade = (int)(cbm_maps_shade(maps, stream, density[i]) * (SHADES - 1) + 0.5f);
        int alpha = density[i] < 0 ? 0 : FAINTEST + (DARKEST - FAINTEST) * shade / (SHADES - 1);
        memcpy(pixels + COMPONENTS * i, ink, sizeof ink);
        pixels[COMPONENTS * i + 3] = (unsigned char)alpha;
    }
    scbm_status status = cbm_png_encode(pixels, maps->width, maps->height, COMPONENTS, page->hooks, &png, &size);
    if (status) return status;
    put_base64(page, png, size);
    scbm_release(page->hooks, png);
    return SCBM_OK;
}

static scbm_status put_map(cbm_page *page, const cbm_maps *maps, int block, int stream, unsigned char *pixels) {
    const cbm_subnetworks *s = maps->subnetworks;
    int is_shared = stream == s->n_concepts;
    double share = is_shared ? s->block_kept_by[(size_t)block * (size_t)(s->n_concepts + 1) + (size_t)s->n_concepts]
                             : s->block_density[(size_t)stream * (size_t)s->n_blocks + (size_t)block];
    cbm_page_begin(page, html_map, "width", cbm_page_integer(page, maps->width), "height",
                   cbm_page_integer(page, maps->height), NULL);
    scbm_status status = put_picture(page, maps, block, stream, pixels);
    cbm_page_end(page, html_map, "layer", cbm_page_integer(page, block + 1), "of",
                 is_shared ? "all" : page->concept[stream], "share", cbm_page_percent(page, share), NULL);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Which matrix lies where in every picture
 * ---------------------------------------------------------------------------------------- */

/* Units of the drawing, which is as wide as the picture is in cells; a narrow matrix has one word of its title. */
#define DRAWING_WIDTH 100.0
#define LINE_WIDTH 1.0
#define NARROW 40.0
#define BASELINE 2.0 /* a letter's baseline below its middle */

static void put_place(cbm_page *page, const cbm_map_place *place, const char *name, double scale) {
    char title[CBM_MATRIX_TITLE];
    double width = place->width * scale, height = place->height * scale, x = place->x * scale, y = place->y * scale;
    cbm_matrix_title(name, title);
    const char *last = width < NARROW ? strrchr(title, ' ') : NULL, *shown = last ? last + 1 : title;
    cbm_page_begin(page, html_place, "x", cbm_page_plain(page, x), "y", cbm_page_plain(page, y), "width",
                   cbm_page_plain(page, width), "height", cbm_page_plain(page, height), "middle",
                   cbm_page_plain(page, x + width / 2), "baseline", cbm_page_plain(page, y + height / 2 + BASELINE),
                   NULL);
    cbm_page_escape(page, shown, strlen(shown));
    cbm_page_end(page, html_place, NULL);
}

static void put_layout_note(cbm_page *page, const cbm_maps *maps, int has_turned) {
    enum { STEPS = 10 };
    int has_shared = maps->n_streams > maps->subnetworks->n_concepts;
    char rgb[16];
    snprintf(rgb, sizeof rgb, "%d %d %d", ink[0], ink[1], ink[2]);
    cbm_page_begin(page, html_layout_note, "turned", has_turned ? "" : NULL, "low",
                   cbm_page_percent(page, (double)maps->low[0]), NULL);
    for (int i = 0; i < STEPS; i++) {
        double strength = (FAINTEST + (DARKEST - FAINTEST) * (double)i / (STEPS - 1)) / DARKEST;
        cbm_page_put(page, html_ramp_step, "x", cbm_page_integer(page, STEPS * i), "ink", rgb, "strength",
                     cbm_page_plain(page, strength), NULL);
    }
    cbm_page_end(page, html_layout_note, "high", cbm_page_percent(page, (double)maps->high[0]), "shared-low",
                 has_shared ? cbm_page_percent(page, (double)maps->low[1]) : NULL, "shared-high",
                 cbm_page_percent(page, (double)maps->high[1]), NULL);
}

static void put_layout(cbm_page *page, const cbm_maps *maps) {
    const cbm_subnetworks *s = maps->subnetworks;
    double scale = (DRAWING_WIDTH - LINE_WIDTH) / maps->width;
    int has_turned = 0;
    cbm_page_begin(page, html_layout, NULL);
    cbm_page_begin(page, html_places, "width", cbm_page_plain(page, DRAWING_WIDTH), "height",
                   cbm_page_plain(page, maps->height * scale + LINE_WIDTH), NULL);
    for (int m = 0; m < s->n_matrices && s->matrices[m].block == s->matrices[0].block; m++) {
        put_place(page, &maps->place[m], s->matrices[m].name, scale);
        has_turned |= maps->place[m].turned;
    }
    cbm_page_end(page, html_places, NULL);
    put_layout_note(page, maps, has_turned);
    cbm_page_end(page, html_layout, NULL);
}

/* ------------------------------------------------------------------------------------------
 * The figure
 * ---------------------------------------------------------------------------------------- */

static scbm_status put_layer(cbm_page *page, const cbm_maps *maps, int block, unsigned char *pixels) {
    scbm_status status = SCBM_OK;
    char name[48];
    snprintf(name, sizeof name, "Layer %d", block + 1);
    cbm_page_begin(page, html_row, "name", name, NULL);
    for (int i = 0; i < maps->n_streams && !status; i++)
        status = put_map(page, maps, block, i < maps->subnetworks->n_concepts ? page->order[i] : i, pixels);
    cbm_page_end(page, html_row, NULL);
    return status;
}

scbm_status cbm_page_maps(cbm_page *page, const cbm_subnetworks *s) {
    static const char title[] = "Maps of the masks";
    cbm_maps maps;
    scbm_status status = cbm_maps_create(&maps, page->model, s, page->hooks);
    if (status) return status;
    unsigned char *pixels = scbm_alloc_array(page->hooks, (size_t)maps.width * (size_t)maps.height, COMPONENTS);
    if (!pixels) status = SCBM_ERROR_MEMORY;
    cbm_page_begin(page, html_maps, "title", title, NULL);
    put_layout(page, &maps);
    cbm_page_begin(page, html_table, "title", title, "kind", "maps", "columns", cbm_page_integer(page, maps.n_streams),
                   NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_corner, NULL);
    cbm_page_columns(page, 0);
    if (maps.n_streams > s->n_concepts) cbm_page_put(page, html_column, "name", "kept by all", NULL);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int block = 0; block < s->n_blocks && !status; block++) status = put_layer(page, &maps, block, pixels);
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
    cbm_page_end(page, html_maps, NULL);
    scbm_release(page->hooks, pixels);
    cbm_maps_clear(&maps, page->hooks);
    return status;
}
