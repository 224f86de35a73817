/*
 * models/report/subnetworks.c - the HTML section on what each concept keeps of the weights
 */
#include "models/report/parts.h"

#include <stdio.h>
#include <string.h>

/* Ink of the maps: seen on white and on black, as the pictures' transparency is what a density sets. So many steps of
 * it are told apart, which makes smaller files than all 256 would. */
static const unsigned char ink[3] = {24, 140, 130};
enum { SHADES = 20 };

/* ------------------------------------------------------------------------------------------
 * Density, layer by layer
 * ---------------------------------------------------------------------------------------- */

static double mean_overlap(const double *overlap, int n) {
    double sum = 0.0;
    for (int a = 0; a < n; a++)
        for (int b = 0; b < a; b++) sum += overlap[a * n + b];
    return sum / (n * (n - 1) / 2.0);
}

/* A row of the table; block < 0: all of them. */
static void put_layer(cbm_page *page, const cbm_subnetworks *s, int block) {
    int n = s->n_concepts;
    const double *kept_by = block < 0 ? s->kept_by : s->block_kept_by + (size_t)block * (size_t)(n + 1);
    const double *overlap = block < 0 ? s->overlap : s->block_overlap + (size_t)block * (size_t)n * (size_t)n;
    if (block < 0) cbm_put(page, "<tr><th scope=\"row\"><b>All layers</b></th>");
    else cbm_put(page, "<tr><th scope=\"row\">Layer %d</th>", block + 1);
    for (int i = 0; i < n; i++) {
        int k = page->order[i];
        double density = block < 0 ? s->density[k] : s->block_density[(size_t)k * (size_t)s->n_blocks + (size_t)block];
        cbm_put(page, "<td class=\"n\" style=\"background:rgb(var(--seq)/%s)\">%s</td>",
                cbm_page_plain(page, 0.5 * density), cbm_page_percent(page, density));
    }
    if (n > 1)
        cbm_put(page, "<td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td>",
                cbm_page_percent(page, kept_by[n]), cbm_page_percent(page, kept_by[0]),
                cbm_page_number(page, mean_overlap(overlap, n), 3));
    cbm_put(page, "</tr>\n");
}

static void put_density(cbm_page *page, const cbm_subnetworks *s) {
    cbm_put(page, "<figure><h3>Kept weights, layer by layer</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
                  "aria-label=\"Kept weights\"><table>\n<thead><tr><th scope=\"col\">Layer</th>");
    for (int i = 0; i < s->n_concepts; i++)
        cbm_put(page, "<th scope=\"col\" class=\"n\">%s</th>", page->concept[page->order[i]]);
    if (s->n_concepts > 1)
        cbm_put(page, "<th scope=\"col\" class=\"n\">kept by all</th><th scope=\"col\" class=\"n\">kept by none</th>"
                      "<th scope=\"col\" class=\"n\">mean overlap</th>");
    cbm_put(page, "</tr></thead>\n<tbody>\n");
    for (int block = 0; block < s->n_blocks; block++) put_layer(page, s, block);
    put_layer(page, s, -1);
    cbm_put(page, "</tbody>\n</table></div></figure>\n");
}

/* ------------------------------------------------------------------------------------------
 * Overlap
 * ---------------------------------------------------------------------------------------- */

static double largest_overlap(const double *overlap, int n) {
    double largest = 0.0;
    for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++)
            if (a != b && overlap[a * n + b] > largest) largest = overlap[a * n + b];
    return largest;
}

static double mean_chance(const cbm_subnetworks *s) {
    double sum = 0.0;
    for (int a = 0; a < s->n_concepts; a++)
        for (int b = 0; b < a; b++) sum += cbm_chance_overlap(s->density[a], s->density[b]);
    return sum / (s->n_concepts * (s->n_concepts - 1) / 2.0);
}

static void put_overlap_row(cbm_page *page, const cbm_subnetworks *s, int a, double largest) {
    cbm_put(page, "<tr><th scope=\"row\">%s</th>", page->concept[a]);
    for (int i = 0; i < s->n_concepts; i++) {
        int b = page->order[i];
        double overlap = s->overlap[a * s->n_concepts + b];
        if (a == b) cbm_put(page, "<td class=\"self\">1</td>");
        else
            cbm_put(page, "<td style=\"background:rgb(var(--seq)/%s)\" title=\"by chance %s\">%s</td>",
                    cbm_page_plain(page, largest > 0 ? 0.55 * overlap / largest : 0.0),
                    cbm_page_number(page, cbm_chance_overlap(s->density[a], s->density[b]), 3),
                    cbm_page_number(page, overlap, 3));
    }
    cbm_put(page, "</tr>\n");
}

/* Every layer's matrix, small: darker cells for larger overlaps, numbers where one points. */
static void put_layer_overlaps(cbm_page *page, const cbm_subnetworks *s) {
    int n = s->n_concepts;
    double largest = largest_overlap(s->block_overlap, n);
    for (int block = 1; block < s->n_blocks; block++) {
        double in_block = largest_overlap(s->block_overlap + (size_t)block * (size_t)n * (size_t)n, n);
        if (in_block > largest) largest = in_block;
    }
    cbm_put(page, "<details><summary>The same in each layer</summary>\n<div class=\"small\">\n");
    for (int block = 0; block < s->n_blocks; block++) {
        const double *overlap = s->block_overlap + (size_t)block * (size_t)n * (size_t)n;
        cbm_put(page, "<figure><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Overlaps in layer %d: mean %s\">\n",
                n, n, block + 1, cbm_page_number(page, mean_overlap(overlap, n), 3));
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                int a = page->order[i], b = page->order[j];
                double share = a == b || largest <= 0 ? 0.0 : overlap[a * n + b] / largest;
                cbm_put(page, "<rect x=\"%d\" y=\"%d\" width=\"1\" height=\"1\" style=\"fill:rgb(var(--seq)/%s)\">", j,
                        i, cbm_page_plain(page, 0.04 + 0.9 * share));
                if (a != b)
                    cbm_put(page, "<title>%s, %s: %s</title>", page->concept[a], page -> concept[b],
                            cbm_page_number(page, overlap[a * n + b], 3));
                cbm_put(page, "</rect>\n");
            }
        cbm_put(page, "</svg><figcaption>Layer %d: mean %s</figcaption></figure>\n", block + 1,
                cbm_page_number(page, mean_overlap(overlap, n), 3));
    }
    cbm_put(page,
            "</div><p class=\"note\">Rows and columns as in the table above; the darkest cell is %s.</p></details>\n",
            cbm_page_number(page, largest, 3));
}

static void put_overlap(cbm_page *page, const cbm_subnetworks *s) {
    double largest = largest_overlap(s->overlap, s->n_concepts);
    cbm_put(page, "<figure><h3>Overlap of each pair</h3>\n<div class=\"scroll\" tabindex=\"0\" "
                  "role=\"region\" aria-label=\"Overlap\">"
                  "<table class=\"heat\">\n<thead><tr><td></td>");
    for (int i = 0; i < s->n_concepts; i++) cbm_put(page, "<th scope=\"col\">%s</th>", page->concept[page->order[i]]);
    cbm_put(page, "</tr></thead>\n<tbody>\n");
    for (int i = 0; i < s->n_concepts; i++) put_overlap_row(page, s, page->order[i], largest);
    cbm_put(page,
            "</tbody>\n</table></div>\n<figcaption>Intersection over union: of the weights that at least one of "
            "two concepts keeps, "
            "the share that both keep. Masks of the same densities drawn by chance would overlap by %s.</figcaption>"
            "</figure>\n",
            cbm_page_number(page, mean_chance(s), 3));
    if (s->n_blocks > 1) put_layer_overlaps(page, s);
}

/* ------------------------------------------------------------------------------------------
 * Shared and own
 * ---------------------------------------------------------------------------------------- */

/* How many of n masks keep a weight where they know nothing of each other: chance [n + 1]. */
static void sharing_by_chance(const cbm_subnetworks *s, double *chance) {
    chance[0] = 1.0;
    for (int k = 0; k < s->n_concepts; k++) {
        double density = s->density[k];
        chance[k + 1] = chance[k] * density;
        for (int j = k; j > 0; j--) chance[j] = chance[j] * (1 - density) + chance[j - 1] * density;
        chance[0] *= 1 - density;
    }
}

static scbm_status put_sharing(cbm_page *page, const cbm_subnetworks *s) {
    int n = s->n_concepts;
    double *chance = scbm_alloc_array(page->hooks, (size_t)n + 1, sizeof *chance);
    if (!chance) return SCBM_ERROR_MEMORY;
    sharing_by_chance(s, chance);
    cbm_put(page, "<div class=\"cards two\">\n<div class=\"card\"><h3>How many concepts keep a weight</h3>"
                  "\n<ul class=\"bars\">\n");
    for (int j = n; j >= 0; j--) {
        cbm_put(page, "<li title=\"by chance %s\">", cbm_page_percent(page, chance[j]));
        if (j == n) cbm_put(page, "<span>all %d</span>", n);
        else if (j == 0) cbm_put(page, "<span>none</span>");
        else cbm_put(page, "<span>%d</span>", j);
        cbm_page_bar(page, s->kept_by[j], chance[j]);
        cbm_put(page, "<span class=\"n\">%s</span></li>\n", cbm_page_percent(page, s->kept_by[j]));
    }
    cbm_put(page,
            "</ul>\n<p class=\"note\">Share of the prunable weights. The line marks what chance would give.</p></div>\n"
            "<div class=\"card\"><h3>A concept&#39;s own</h3>\n<ul class=\"bars\">\n");
    for (int i = 0; i < n; i++) {
        int k = page->order[i];
        cbm_put(page, "<li><span>%s</span>", page->concept[k]);
        cbm_page_bar(page, s->own[k], -1.0);
        cbm_put(page, "<span class=\"n\">%s</span></li>\n", cbm_page_percent(page, s->own[k]));
    }
    cbm_put(
        page,
        "</ul>\n<p class=\"note\">Share of what the concept keeps that no other concept keeps.</p></div>\n</div>\n");
    scbm_release(page->hooks, chance);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Maps
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

/* An <img> of a block's picture; `pixels` holds one. */
static scbm_status put_picture(cbm_page *page, const cbm_maps *maps, int block, int stream, unsigned char *pixels) {
    const float *density = cbm_maps_picture(maps, block, stream);
    size_t n = (size_t)maps->width * (size_t)maps->height, size;
    unsigned char *png;
    for (size_t i = 0; i < n; i++) {
        int shade = (int)(cbm_maps_shade(maps, stream, density[i]) * (SHADES - 1) + 0.5f);
        memcpy(pixels + 4 * i, ink, 3);
        pixels[4 * i + 3] = (unsigned char)(density[i] < 0 ? 0 : 10 + 245 * shade / (SHADES - 1));
    }
    scbm_status status = cbm_png_encode(pixels, maps->width, maps->height, 4, page->hooks, &png, &size);
    if (status) return status;
    cbm_put(page, "<img width=\"%d\" height=\"%d\" src=\"data:image/png;base64,", maps->width, maps->height);
    put_base64(page, png, size);
    scbm_release(page->hooks, png);
    return SCBM_OK;
}

static scbm_status put_map_cell(cbm_page *page, const cbm_maps *maps, int block, int stream, unsigned char *pixels) {
    const cbm_subnetworks *s = maps->subnetworks;
    int is_shared = stream == s->n_concepts;
    double share = is_shared ? s->block_kept_by[(size_t)block * (size_t)(s->n_concepts + 1) + (size_t)s->n_concepts]
                             : s->block_density[(size_t)stream * (size_t)s->n_blocks + (size_t)block];
    cbm_put(page, "<td>");
    scbm_status status = put_picture(page, maps, block, stream, pixels);
    cbm_put(page, "\" alt=\"Layer %d, %s: %s kept\"><span>%s</span></td>", block + 1,
            is_shared ? "all" : page->concept[stream], cbm_page_percent(page, share), cbm_page_percent(page, share));
    return status;
}

/* Which matrix lies where in every picture. */
static void put_layout(cbm_page *page, const cbm_maps *maps) {
    const cbm_subnetworks *s = maps->subnetworks;
    double scale = 99.0 / maps->width;
    int has_turned = 0;
    cbm_put(
        page,
        "<div class=\"layout\"><svg viewBox=\"-.5 -.5 100 %s\" role=\"img\" aria-label=\"Where each matrix lies in a "
        "picture\">\n",
        cbm_page_plain(page, maps->height * scale + 1));
    for (int m = 0; m < s->n_matrices && s->matrices[m].block == s->matrices[0].block; m++) {
        const cbm_map_place *place = &maps->place[m];
        char title[64], *last;
        int is_narrow = place->width * scale < 40;
        cbm_matrix_title(s->matrices[m].name, title);
        last = is_narrow ? strrchr(title, ' ') : NULL;
        has_turned |= place->turned;
        cbm_put(page,
                "<rect x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\"/><text x=\"%s\" y=\"%s\" text-anchor=\"middle\">",
                cbm_page_plain(page, place->x * scale), cbm_page_plain(page, place->y * scale),
                cbm_page_plain(page, place->width * scale), cbm_page_plain(page, place->height * scale),
                cbm_page_plain(page, (place->x + place->width / 2.0) * scale),
                cbm_page_plain(page, (place->y + place->height / 2.0) * scale + 2));
        cbm_page_escape(page, last ? last + 1 : title, strlen(last ? last + 1 : title));
        cbm_put(page, "</text>\n");
    }
    cbm_put(
        page,
        "</svg>\n<p class=\"note\">Each picture is one layer of one subnetwork. A matrix has an output neuron "
        "in each row "
        "and an input in each column%s. A point is the share of the weights under it that are kept: "
        "<span class=\"nowrap\">%s<svg class=\"ramp\" viewBox=\"0 0 100 10\" "
        "preserveAspectRatio=\"none\" aria-hidden=\"true\">",
        has_turned
            ? "; one that is taller than wide lies on its side, so that the feed-forward neurons stand above each other"
            : "",
        cbm_page_percent(page, (double)maps->low[0]));
    for (int i = 0; i < 10; i++)
        cbm_put(page, "<rect x=\"%d\" width=\"10\" height=\"10\" style=\"fill:rgb(%d %d %d/%s);stroke:none\"/>", 10 * i,
                ink[0], ink[1], ink[2], cbm_page_plain(page, 0.04 + 0.96 * i / 9));
    cbm_put(page, "</svg>%s</span>", cbm_page_percent(page, (double)maps->high[0]));
    if (maps->n_streams > s->n_concepts)
        cbm_put(page, " for the concepts, <span class=\"nowrap\">%s to %s</span> for what all keep",
                cbm_page_percent(page, (double)maps->low[1]), cbm_page_percent(page, (double)maps->high[1]));
    cbm_put(page, ".</p></div>\n");
}

static scbm_status put_maps(cbm_page *page, const cbm_subnetworks *s) {
    cbm_maps maps;
    scbm_status status = cbm_maps_create(&maps, page->model, s, page->hooks);
    if (status) return status;
    unsigned char *pixels = scbm_alloc_array(page->hooks, (size_t)maps.width * (size_t)maps.height, 4);
    if (!pixels) status = SCBM_ERROR_MEMORY;
    cbm_put(page, "<figure><h3>Maps of the masks</h3>\n");
    put_layout(page, &maps);
    cbm_put(
        page,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Maps of the masks\"><table class=\"maps\" "
        "style=\"--n:%d\">\n<thead><tr><td></td>",
        maps.n_streams);
    for (int i = 0; i < s->n_concepts; i++) cbm_put(page, "<th scope=\"col\">%s</th>", page->concept[page->order[i]]);
    if (maps.n_streams > s->n_concepts) cbm_put(page, "<th scope=\"col\">kept by all</th>");
    cbm_put(page, "</tr></thead>\n<tbody>\n");
    for (int block = 0; block < s->n_blocks && !status; block++) {
        cbm_put(page, "<tr><th scope=\"row\">Layer %d</th>", block + 1);
        for (int i = 0; i < maps.n_streams && !status; i++)
            status = put_map_cell(page, &maps, block, i < s->n_concepts ? page->order[i] : i, pixels);
        cbm_put(page, "</tr>\n");
    }
    cbm_put(page, "</tbody>\n</table></div></figure>\n");
    scbm_release(page->hooks, pixels);
    cbm_maps_clear(&maps, page->hooks);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The section
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_page_subnetworks(cbm_page *page, const cbm_subnetworks *s) {
    cbm_put(page, "<section id=\"subnetworks\">\n<h2>Subnetworks</h2>\n");
    if (!s->is_sparse) {
        cbm_put(
            page,
            "<p>This model is dense: one encoder with all its weights serves every concept, so there are no masks to "
            "compare. Training with pruning gives each concept a subnetwork of its own.</p>\n</section>\n");
        return SCBM_OK;
    }
    cbm_put(page,
            "<p>All concepts read the text with the same weights, but each through a mask of its own that keeps some "
            "of the "
            "%s prunable ones and leaves out the rest.</p>\n",
            cbm_page_count(page, s->n_weights));
    put_density(page, s);
    scbm_status status = SCBM_OK;
    if (s->n_concepts > 1) {
        put_overlap(page, s);
        status = put_sharing(page, s);
    }
    if (!status) status = put_maps(page, s);
    cbm_put(page, "</section>\n");
    return status;
}
