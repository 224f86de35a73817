/*
 * models/report/png.c - subnetworks as a PNG picture, and the encoding of PNG
 *
 * Both of the stb libraries are headers with everything in them; this is the only file that has them.
 */
#include "models/report/parts.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

/* ------------------------------------------------------------------------------------------
 * Memory for stb_image_write
 *
 * It does not look whether its buffers could be enlarged, so an allocation that fails does not return to it: everything
 * that it holds is in a list, from which it is freed.
 * ---------------------------------------------------------------------------------------- */

typedef struct encoder_block {
    struct encoder_block *previous, *next;
    size_t size;
} encoder_block;

typedef struct encoder {
    const scbm_hooks *hooks;
    encoder_block list; /* the head of a ring */
    jmp_buf out_of_memory;
} encoder;

static _Thread_local encoder *current;

enum { BLOCK_HEADER = 32 }; /* what comes after it is aligned to 32 bytes */

static void *encoder_alloc(size_t size) {
    encoder_block *block = size < SIZE_MAX - BLOCK_HEADER ? scbm_alloc(current->hooks, size + BLOCK_HEADER) : NULL;
    if (!block) longjmp(current->out_of_memory, 1);
    *block = (encoder_block){&current->list, current->list.next, size};
    block->next->previous = block;
    current->list.next = block;
    return (char *)block + BLOCK_HEADER;
}

static void encoder_free(void *pointer) {
    if (!pointer) return;
    encoder_block *block = (encoder_block *)(void *)((char *)pointer - BLOCK_HEADER);
    block->previous->next = block->next;
    block->next->previous = block->previous;
    scbm_release(current->hooks, block);
}

static void *encoder_realloc(void *pointer, size_t size) {
    void *larger = encoder_alloc(size);
    if (!pointer) return larger;
    size_t old = ((encoder_block *)(void *)((char *)pointer - BLOCK_HEADER))->size;
    memcpy(larger, pointer, old < size ? old : size);
    encoder_free(pointer);
    return larger;
}

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBIW_MALLOC(size) encoder_alloc(size)
#define STBIW_REALLOC(pointer, size) encoder_realloc(pointer, size)
#define STBIW_FREE(pointer) encoder_free(pointer)
#define STBIW_ASSERT(condition) ((void)0)
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#include <stb/stb_easy_font.h>
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/* ------------------------------------------------------------------------------------------
 * Encoding
 * ---------------------------------------------------------------------------------------- */

typedef struct encoded {
    const scbm_hooks *hooks;
    unsigned char *bytes;
    size_t size, capacity;
    scbm_status status;
} encoded;

static void take_bytes(void *user, void *bytes, int size) {
    encoded *e = user;
    e->status = scbm_grow(e->hooks, (void **)&e->bytes, &e->capacity, e->size + (size_t)size, 1);
    if (e->status) return;
    memcpy(e->bytes + e->size, bytes, (size_t)size);
    e->size += (size_t)size;
}

/* A function of its own, so that none of its variables lives where setjmp returns to. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static int
write_png(encoded *result, const unsigned char *pixels, int width, int height, int components) {
    return stbi_write_png_to_func(take_bytes, result, width, height, components, pixels, width * components);
}

/* Runs stb_image_write with its memory set up; what it leaves behind is freed. */
static int encode(encoder *memory, encoded *result, const unsigned char *pixels, int width, int height,
                  int components) {
    volatile int done = 0;
    memory->list = (encoder_block){&memory->list, &memory->list, 0};
    current = memory;
    if (!setjmp(memory->out_of_memory)) done = write_png(result, pixels, width, height, components);
    while (memory->list.next != &memory->list) encoder_free((char *)memory->list.next + BLOCK_HEADER);
    current = NULL;
    return done;
}

scbm_status cbm_png_encode(const unsigned char *pixels, int width, int height, int components, const scbm_hooks *hooks,
                           unsigned char **png, size_t *size) {
    encoder memory;
    encoded result = {.hooks = hooks};
    memory.hooks = hooks;
    *png = NULL;
    *size = 0;
    if (width < 1 || height < 1 || (double)width * height * components > 1e9)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a picture of %d x %d points", width, height);
    if (!encode(&memory, &result, pixels, width, height, components) || result.status) {
        scbm_release(hooks, result.bytes);
        return SCBM_ERROR_MEMORY;
    }
    *png = result.bytes;
    *size = result.size;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * A canvas
 * ---------------------------------------------------------------------------------------- */

typedef struct colour {
    unsigned char r, g, b;
} colour;

static const colour paper = {255, 255, 255}, black = {29, 31, 35}, grey = {90, 96, 107}, pale = {237, 234, 228},
                    teal = {15, 110, 103}, blank = {247, 245, 241};

typedef struct canvas {
    int width, height;
    unsigned char *pixels; /* RGB */
} canvas;

static void fill(canvas *c, int x, int y, int width, int height, colour ink) {
    int right = x + width < c->width ? x + width : c->width, bottom = y + height < c->height ? y + height : c->height;
    for (int row = y < 0 ? 0 : y; row < bottom; row++)
        for (int column = x < 0 ? 0 : x; column < right; column++)
            memcpy(c->pixels + ((size_t)row * (size_t)c->width + (size_t)column) * 3, &ink, 3);
}

static colour mix(colour from, colour to, double share) {
    return (colour){(unsigned char)(from.r + share * (to.r - from.r) + 0.5),
                    (unsigned char)(from.g + share * (to.g - from.g) + 0.5),
                    (unsigned char)(from.b + share * (to.b - from.b) + 0.5)};
}

/* ------------------------------------------------------------------------------------------
 * Text: the font draws ASCII as rectangles
 * ---------------------------------------------------------------------------------------- */

enum { MOST_LETTERS = 120, LINE_HEIGHT = 12 };

/* What the font can draw: letters lose their accents, other characters become question marks. */
static void to_ascii(const char *text, char ascii[MOST_LETTERS + 1]) {
    size_t length = strlen(text), n = 0;
    for (size_t i = 0; i < length && n < MOST_LETTERS;) {
        utf8proc_int32_t character = -1, parts[8];
        int boundary = 0;
        size_t left = length - i < 4 ? length - i : 4;
        utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)left,
                                                 &character);
        i += size > 0 ? (size_t)size : 1;
        utf8proc_ssize_t n_parts = size > 0 ? utf8proc_decompose_char(
                                                  character, parts, 8,
                                                  UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT | UTF8PROC_STRIPMARK, &boundary)
                                            : -1;
        if (n_parts < 0 || n_parts > 8) {
            n_parts = 1;
            parts[0] = '?';
        }
        for (utf8proc_ssize_t j = 0; j < n_parts && n < MOST_LETTERS; j++)
            ascii[n++] = (char)(parts[j] >= 32 && parts[j] < 127 ? parts[j] : '?');
    }
    ascii[n] = 0;
}

static int text_width(const char *text, int scale) {
    char ascii[MOST_LETTERS + 1];
    to_ascii(text, ascii);
    return stb_easy_font_width(ascii) * scale;
}

static void draw_ascii(canvas *c, int x, int y, char *ascii, int scale, colour ink) {
    char vertices[64 * 1024]; /* 64 bytes a rectangle, some of them a letter */
    int n = stb_easy_font_print(0, 0, ascii, NULL, vertices, (int)sizeof vertices);
    for (int i = 0; i < n; i++) {
        float corner[2][4];
        memcpy(corner[0], vertices + 64 * i, 16);
        memcpy(corner[1], vertices + 64 * i + 32, 16);
        fill(c, x + (int)corner[0][0] * scale, y + (int)corner[0][1] * scale,
             (int)(corner[1][0] - corner[0][0]) * scale, (int)(corner[1][1] - corner[0][1]) * scale, ink);
    }
}

/* At most `room` wide: what is longer ends in two points. align: 0 left, 1 middle, 2 right of x. */
static void draw_text(canvas *c, int x, int y, int room, int align, const char *text, int scale, colour ink) {
    char ascii[MOST_LETTERS + 3];
    to_ascii(text, ascii);
    for (size_t n = strlen(ascii); n > 1 && stb_easy_font_width(ascii) * scale > room; n--) strcpy(ascii + n - 1, "..");
    draw_ascii(c, x - align * stb_easy_font_width(ascii) * scale / 2, y, ascii, scale, ink);
}

/* ------------------------------------------------------------------------------------------
 * The picture
 * ---------------------------------------------------------------------------------------- */

enum { MARGIN = 40, GAP = 24, TILE = 330, TEXT = 2, TITLE = 3, ROW_HEIGHT = 42, BAR_ROOM = 300, KEY_HEIGHT = 160 };

typedef struct drawing {
    canvas canvas;
    const cbm_maps *maps;
    const cbm_subnetworks *subnetworks;
    const cbm_model *model;
    int cell; /* points along a cell's side */
    int tile_width, tile_height;
    int label_room, cell_width;   /* of names at the left, and of the overlaps' columns */
    int key_y, maps_y, overlap_y; /* where the parts begin */
} drawing;

static void percent(char text[32], double share) {
    long long tenths = (long long)floor(share * 1000 + 0.5);
    snprintf(text, 32, "%lld.%lld%%", tenths / 10, tenths % 10);
}

static const char *stream_name(const drawing *d, int stream) {
    return stream < d->subnetworks->n_concepts ? cbm_model_concept(d->model, stream) : "kept by all";
}

static int has_overlap(const drawing *d) {
    return d->subnetworks->n_concepts > 1;
}

/* The width of the longest concept's name, within limits. */
static int longest_name(const drawing *d, int least, int most) {
    for (int k = 0; k < d->subnetworks->n_concepts; k++) {
        int width = text_width(cbm_model_concept(d->model, k), TEXT);
        if (width > least) least = width;
    }
    return least < most ? least : most;
}

static void lay_out(drawing *d, const char *title) {
    int n = d->subnetworks->n_concepts, layers = d->subnetworks->n_blocks;
    d->label_room = longest_name(d, 100, 230) + 20;
    d->cell_width = longest_name(d, 70, 130) + 14;
    d->cell = d->maps->width < TILE ? TILE / d->maps->width : 1;
    d->tile_width = d->maps->width * d->cell;
    d->tile_height = d->maps->height * d->cell;
    d->key_y = MARGIN + LINE_HEIGHT * (TITLE + TEXT) + 2 * GAP;
    d->maps_y = d->key_y + (d->tile_height > KEY_HEIGHT ? d->tile_height : KEY_HEIGHT) + 2 * GAP;
    d->overlap_y = d->maps_y + 2 * LINE_HEIGHT * TEXT + layers * (d->tile_height + GAP) + GAP;
    int maps_width = d->label_room + d->maps->n_streams * (d->tile_width + GAP) - GAP;
    int overlap_width = d->label_room + n * d->cell_width + 3 * GAP + d->label_room + BAR_ROOM + 80;
    int key_width = d->label_room + d->tile_width + GAP + 520, width = key_width;
    if (width < maps_width) width = maps_width;
    if (has_overlap(d) && width < overlap_width) width = overlap_width;
    if (width < text_width(title, TITLE) && text_width(title, TITLE) < 2000) width = text_width(title, TITLE);
    d->canvas.width = width + 2 * MARGIN;
    d->canvas.height = (has_overlap(d) ? d->overlap_y + LINE_HEIGHT * TEXT * 3 + (n + 1) * ROW_HEIGHT : d->overlap_y) +
                       MARGIN;
}

static void draw_title(drawing *d, const char *title) {
    const cbm_subnetworks *s = d->subnetworks;
    char line[160];
    draw_text(&d->canvas, MARGIN, MARGIN, d->canvas.width - 2 * MARGIN, 0, title, TITLE, black);
    snprintf(line, sizeof line, "%d subnetworks, one for each concept, over %lld prunable weights in %d layers",
             s->n_concepts, (long long)s->n_weights, s->n_blocks);
    draw_text(&d->canvas, MARGIN, MARGIN + LINE_HEIGHT * TITLE + 8, d->canvas.width - 2 * MARGIN, 0, line, TEXT, grey);
}

/* The shades with the numbers that they begin and end with, for the concepts and for what all keep. */
static int draw_scale(drawing *d, int x, int y) {
    enum { LENGTH = 256, THICKNESS = 20 };
    for (int i = 0; i < LENGTH; i++) fill(&d->canvas, x + i, y, 1, THICKNESS, mix(pale, teal, i / 255.0));
    y += THICKNESS + 6;
    for (int i = 0; i < 1 + has_overlap(d); i++, y += LINE_HEIGHT * TEXT) {
        char text[32];
        percent(text, (double)d->maps->low[i]);
        draw_text(&d->canvas, x, y, 200, 0, text, TEXT, black);
        percent(text, (double)d->maps->high[i]);
        draw_text(&d->canvas, x + LENGTH, y, 200, 2, text, TEXT, black);
        draw_text(&d->canvas, x + LENGTH + 16, y, 240, 0, i ? "kept by all" : "the concepts", TEXT, grey);
    }
    return y;
}

/* Where each matrix of a layer lies, and what shades mean. */
static void draw_key(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    int x = MARGIN + d->label_room, y = d->key_y, has_turned = 0;
    draw_text(&d->canvas, MARGIN, y, d->label_room, 0, "key", TEXT, grey);
    for (int m = 0; m < s->n_matrices && s->matrices[m].block == s->matrices[0].block; m++) {
        const cbm_map_place *place = &d->maps->place[m];
        char title[64], *last;
        int width = place->width * d->cell, height = place->height * d->cell;
        cbm_matrix_title(s->matrices[m].name, title);
        last = text_width(title, TEXT) > width ? strrchr(title, ' ') : NULL;
        fill(&d->canvas, x + place->x * d->cell, y + place->y * d->cell, width, height, mix(pale, teal, 0.25));
        draw_text(&d->canvas, x + place->x * d->cell + width / 2, y + place->y * d->cell + height / 2 - 8, width, 1,
                  last ? last + 1 : title, text_width(last ? last + 1 : title, TEXT) > width ? 1 : TEXT, black);
        has_turned |= place->turned;
    }
    x += d->tile_width + 2 * GAP;
    draw_text(&d->canvas, x, y, 500, 0, "share of weights kept", TEXT, black);
    y = draw_scale(d, x, y + LINE_HEIGHT * TEXT + 4) + 8;
    draw_text(&d->canvas, x, y, 500, 0, "rows are outputs, columns inputs", TEXT, grey);
    if (has_turned)
        draw_text(&d->canvas, x, y + LINE_HEIGHT * TEXT, 500, 0, "(feed-forward up on its side)", TEXT, grey);
}

static void draw_tile(drawing *d, int block, int stream, int x, int y) {
    const float *density = cbm_maps_picture(d->maps, block, stream);
    for (int row = 0; row < d->maps->height; row++)
        for (int column = 0; column < d->maps->width; column++) {
            float here = density[row * d->maps->width + column];
            if (here < 0) continue;
            fill(&d->canvas, x + column * d->cell, y + row * d->cell, d->cell, d->cell,
                 mix(pale, teal, (double)cbm_maps_shade(d->maps, stream, here)));
        }
}

static void draw_maps(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    char text[32];
    for (int stream = 0; stream < d->maps->n_streams; stream++) {
        int x = MARGIN + d->label_room + stream * (d->tile_width + GAP), y = d->maps_y;
        draw_text(&d->canvas, x, y, d->tile_width, 0, stream_name(d, stream), TEXT, black);
        percent(text, stream < s->n_concepts ? s->density[stream] : s->kept_by[s->n_concepts]);
        draw_text(&d->canvas, x, y + LINE_HEIGHT * TEXT, d->tile_width, 0, text, TEXT, grey);
        for (int block = 0; block < s->n_blocks; block++)
            draw_tile(d, block, stream, x, y + 2 * LINE_HEIGHT * TEXT + 4 + block * (d->tile_height + GAP));
    }
    for (int block = 0; block < s->n_blocks; block++) {
        snprintf(text, sizeof text, "layer %d", block + 1);
        draw_text(&d->canvas, MARGIN, d->maps_y + 2 * LINE_HEIGHT * TEXT + 4 + block * (d->tile_height + GAP),
                  d->label_room, 0, text, TEXT, black);
    }
}

static void draw_overlap(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    int n = s->n_concepts, x = MARGIN + d->label_room, y = d->overlap_y + 2 * LINE_HEIGHT * TEXT, height = ROW_HEIGHT;
    double largest = 0.0;
    draw_text(&d->canvas, MARGIN, d->overlap_y, d->canvas.width, 0, "overlap (intersection over union)", TEXT, black);
    for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++)
            if (a != b && s->overlap[a * n + b] > largest) largest = s->overlap[a * n + b];
    for (int a = 0; a < n; a++) {
        draw_text(&d->canvas, x + a * d->cell_width + d->cell_width / 2, y - 2, d->cell_width - 4, 1,
                  cbm_model_concept(d->model, a), TEXT, black);
        draw_text(&d->canvas, MARGIN, y + LINE_HEIGHT * TEXT + a * height + 12, d->label_room - 8, 0,
                  cbm_model_concept(d->model, a), TEXT, black);
        for (int b = 0; b < n; b++) {
            int left = x + b * d->cell_width, top = y + LINE_HEIGHT * TEXT + a * height;
            double share = a == b || largest <= 0 ? 0.0 : s->overlap[a * n + b] / largest;
            char text[32];
            long long thousandths = (long long)floor(s->overlap[a * n + b] * 1000 + 0.5);
            snprintf(text, sizeof text, "%lld.%03lld", thousandths / 1000, thousandths % 1000);
            fill(&d->canvas, left, top, d->cell_width - 2, height - 2, a == b ? blank : mix(pale, teal, 0.6 * share));
            draw_text(&d->canvas, left + d->cell_width / 2, top + 12, d->cell_width, 1, a == b ? "1" : text, TEXT,
                      a == b ? grey : black);
        }
    }
}

/* How many concepts keep a weight. */
static void draw_sharing(drawing *d) {
    const cbm_subnetworks *s = d->subnetworks;
    int n = s->n_concepts, x = MARGIN + d->label_room + n * d->cell_width + 3 * GAP, y = d->overlap_y;
    draw_text(&d->canvas, x, y, d->canvas.width, 0, "kept by so many concepts", TEXT, black);
    y += 3 * LINE_HEIGHT * TEXT;
    for (int j = n; j >= 0; j--, y += ROW_HEIGHT) {
        char text[32];
        if (j == n) snprintf(text, sizeof text, "all %d", n);
        else if (j) snprintf(text, sizeof text, "%d", j);
        else snprintf(text, sizeof text, "none");
        draw_text(&d->canvas, x, y + 12, d->label_room, 0, text, TEXT, black);
        fill(&d->canvas, x + d->label_room, y + 6, BAR_ROOM, ROW_HEIGHT - 14, pale);
        fill(&d->canvas, x + d->label_room, y + 6, (int)(BAR_ROOM * s->kept_by[j] + 0.5), ROW_HEIGHT - 14, teal);
        percent(text, s->kept_by[j]);
        draw_text(&d->canvas, x + d->label_room + BAR_ROOM + 10, y + 12, 100, 0, text, TEXT, black);
    }
}

static scbm_status draw(drawing *d, const char *title, const scbm_hooks *hooks) {
    lay_out(d, title);
    canvas *c = &d->canvas;
    c->pixels = scbm_alloc_array(hooks, (size_t)c->width * (size_t)c->height, 3);
    if (!c->pixels) return SCBM_ERROR_MEMORY;
    fill(c, 0, 0, c->width, c->height, paper);
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
