/*
 * models/report/subnetworks.c - the HTML section on what each concept keeps of the weights (its maps are in page-maps.c)
 */
#include "models/report/templates/page.html.h"
#include "models/report/parts.h"
#include "models/report/templates/subnetworks.html.h"

#include <stdio.h>

/* How much of its colour a cell has at most, in tables of densities and of overlaps and in the small pictures. */
#define DARKEST_DENSITY 0.5
#define DARKEST_OVERLAP 0.55
#define LIGHTEST_PAIR 0.04
#define DARKEST_PAIR 0.94

/* ------------------------------------------------------------------------------------------
 * Density, layer by layer
 * ---------------------------------------------------------------------------------------- */

static double mean_overlap(const double *overlap, int n) {
    double sum = 0.0;
    for (int a = 0; a < n; a++)
        for (int b = 0; b < a; b++) sum += overlap[a * n + b];
    return sum / (n * (n - 1) / 2.0);
}

static const double *block_overlap(const cbm_subnetworks *s, int block) {
    return s->block_overlap + (size_t)block * (size_t)s->n_concepts * (size_t)s->n_concepts;
}

static void put_number(cbm_page *page, const char *value) {
    cbm_page_put(page, html_number, "value", value, NULL);
}

/* A row of the table; block < 0: all of them. */
static void put_layer(cbm_page *page, const cbm_subnetworks *s, int block) {
    int n = s->n_concepts;
    const double *kept_by = block < 0 ? s->kept_by : s->block_kept_by + (size_t)block * (size_t)(n + 1);
    char name[48] = "<b>All layers</b>";
    if (block >= 0) snprintf(name, sizeof name, "Layer %d", block + 1);
    cbm_page_begin(page, html_row, "name", name, NULL);
    for (int i = 0; i < n; i++) {
        int k = page->order[i];
        double density = block < 0 ? s->density[k] : s->block_density[(size_t)k * (size_t)s->n_blocks + (size_t)block];
        cbm_page_put(page, html_density_cell, "strength", cbm_page_plain(page, DARKEST_DENSITY * density), "value",
                     cbm_page_percent(page, density), NULL);
    }
    if (n > 1) {
        put_number(page, cbm_page_percent(page, kept_by[n]));
        put_number(page, cbm_page_percent(page, kept_by[0]));
        put_number(page, cbm_page_number(page, mean_overlap(block < 0 ? s->overlap : block_overlap(s, block), n), 3));
    }
    cbm_page_end(page, html_row, NULL);
}

static void put_density(cbm_page *page, const cbm_subnetworks *s) {
    static const char *const more[] = {"kept by all", "kept by none", "mean overlap"};
    cbm_page_begin(page, html_density, NULL);
    cbm_page_begin(page, html_table, "title", "Kept weights", NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_column, "name", "Layer", NULL);
    cbm_page_columns(page, 1);
    for (int i = 0; i < 3 && s->n_concepts > 1; i++)
        cbm_page_put(page, html_column, "name", more[i], "number", "", NULL);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int block = 0; block < s->n_blocks; block++) put_layer(page, s, block);
    put_layer(page, s, -1);
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
    cbm_page_end(page, html_density, NULL);
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
    cbm_page_begin(page, html_row, "name", page->concept[a], NULL);
    for (int i = 0; i < s->n_concepts; i++) {
        int b = page->order[i];
        double overlap = s->overlap[a * s->n_concepts + b], share = largest > 0 ? overlap / largest : 0.0;
        if (a == b) cbm_page_put(page, html_overlap_self, NULL);
        else
            cbm_page_put(page, html_overlap_cell, "strength", cbm_page_plain(page, DARKEST_OVERLAP * share), "chance",
                         cbm_page_number(page, cbm_chance_overlap(s->density[a], s->density[b]), 3), "value",
                         cbm_page_number(page, overlap, 3), NULL);
    }
    cbm_page_end(page, html_row, NULL);
}

/* A square of the small picture of a layer, at row i and column j. */
static void put_pair(cbm_page *page, const double *overlap, int i, int j, double largest) {
    int a = page->order[i], b = page->order[j], n = page->n_concepts;
    double share = a == b || largest <= 0 ? 0.0 : overlap[a * n + b] / largest;
    double strength = LIGHTEST_PAIR + (DARKEST_PAIR - LIGHTEST_PAIR) * share;
    cbm_page_put(page, html_pair, "x", cbm_page_integer(page, j), "y", cbm_page_integer(page, i), "strength",
                 cbm_page_plain(page, strength), "a", page->concept[a], "b", page->concept[b], "value",
                 a == b ? NULL : cbm_page_number(page, overlap[a * n + b], 3), NULL);
}

/* Every layer's matrix, small: darker cells for larger overlaps, numbers where one points. */
static void put_layer_overlaps(cbm_page *page, const cbm_subnetworks *s) {
    int n = s->n_concepts;
    double largest = 0.0;
    for (int block = 0; block < s->n_blocks; block++) {
        double in_block = largest_overlap(block_overlap(s, block), n);
        if (in_block > largest) largest = in_block;
    }
    cbm_page_begin(page, html_details, "summary", "The same in each layer", NULL);
    cbm_page_begin(page, html_layers, NULL);
    for (int block = 0; block < s->n_blocks; block++) {
        const double *overlap = block_overlap(s, block);
        const char *layer = cbm_page_integer(page, block + 1);
        cbm_page_begin(page, html_layer_overlap, "n", cbm_page_integer(page, n), "layer", layer, "mean",
                       cbm_page_number(page, mean_overlap(overlap, n), 3), NULL);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) put_pair(page, overlap, i, j, largest);
        cbm_page_end(page, html_layer_overlap, "layer", cbm_page_integer(page, block + 1), "mean",
                     cbm_page_number(page, mean_overlap(overlap, n), 3), NULL);
    }
    cbm_page_end(page, html_layers, NULL);
    cbm_page_put(page, html_darkest, "value", cbm_page_number(page, largest, 3), NULL);
    cbm_page_end(page, html_details, NULL);
}

static void put_overlap(cbm_page *page, const cbm_subnetworks *s) {
    double largest = largest_overlap(s->overlap, s->n_concepts);
    cbm_page_begin(page, html_overlap, NULL);
    cbm_page_begin(page, html_table, "title", "Overlap", "kind", "heat", NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_corner, NULL);
    cbm_page_columns(page, 0);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int i = 0; i < s->n_concepts; i++) put_overlap_row(page, s, page->order[i], largest);
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
    cbm_page_end(page, html_overlap, "chance", cbm_page_number(page, mean_chance(s), 3), NULL);
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

static void put_kept_by(cbm_page *page, const cbm_subnetworks *s, const double *chance) {
    int n = s->n_concepts;
    cbm_page_begin(page, html_card, "title", "How many concepts keep a weight", NULL);
    cbm_page_begin(page, html_bars, NULL);
    for (int j = n; j >= 0; j--) {
        char name[32] = "none", hint[64];
        if (j) snprintf(name, sizeof name, j == n ? "all %d" : "%d", j);
        snprintf(hint, sizeof hint, "by chance %s", cbm_page_percent(page, chance[j]));
        cbm_page_bar(page, &(cbm_bar_row){.name = name,
                                          .hint = hint,
                                          .share = s->kept_by[j],
                                          .mark = cbm_page_plain(page, 100 * chance[j]),
                                          .value = cbm_page_percent(page, s->kept_by[j])});
    }
    cbm_page_end(page, html_bars, NULL);
    cbm_page_put(page, html_note, "note", "Share of the prunable weights. The line marks what chance would give.",
                 NULL);
    cbm_page_end(page, html_card, NULL);
}

static void put_own(cbm_page *page, const cbm_subnetworks *s) {
    cbm_page_begin(page, html_card, "title", "A concept&#39;s own", NULL);
    cbm_page_begin(page, html_bars, NULL);
    for (int i = 0; i < s->n_concepts; i++) {
        int k = page->order[i];
        cbm_page_bar(
            page,
            &(cbm_bar_row){.name = page->concept[k], .share = s->own[k], .value = cbm_page_percent(page, s->own[k])});
    }
    cbm_page_end(page, html_bars, NULL);
    cbm_page_put(page, html_note, "note", "Share of what the concept keeps that no other concept keeps.", NULL);
    cbm_page_end(page, html_card, NULL);
}

static scbm_status put_sharing(cbm_page *page, const cbm_subnetworks *s) {
    double *chance = scbm_alloc_array(page->hooks, (size_t)s->n_concepts + 1, sizeof *chance);
    if (!chance) return SCBM_ERROR_MEMORY;
    sharing_by_chance(s, chance);
    cbm_page_begin(page, html_two_cards, NULL);
    put_kept_by(page, s, chance);
    put_own(page, s);
    cbm_page_end(page, html_two_cards, NULL);
    scbm_release(page->hooks, chance);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The section
 * ---------------------------------------------------------------------------------------- */

static scbm_status put_sparse(cbm_page *page, const cbm_subnetworks *s) {
    scbm_status status = SCBM_OK;
    cbm_page_put(page, html_sparse, "weights", cbm_page_count(page, s->n_weights), NULL);
    put_density(page, s);
    if (s->n_concepts > 1) {
        put_overlap(page, s);
        status = put_sharing(page, s);
    }
    return status ? status : cbm_page_maps(page, s);
}

scbm_status cbm_page_subnetworks(cbm_page *page, const cbm_subnetworks *s) {
    scbm_status status = SCBM_OK;
    cbm_page_begin(page, html_subnetworks, NULL);
    if (s->is_sparse) status = put_sparse(page, s);
    else cbm_page_put(page, html_dense, NULL);
    cbm_page_end(page, html_subnetworks, NULL);
    return status;
}
