/*
 * models/report/canvas.c - rectangles and letters in a picture
 *
 * The font, stb_easy_font, is a header with everything in it; this is the only file that has it.
 */
#include "models/report/canvas.h"

#include <string.h>

#include <utf8proc.h>

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#include <stb/stb_easy_font.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

void cbm_canvas_fill(cbm_canvas *c, int x, int y, int width, int height, cbm_colour ink) {
    int right = x + width < c->width ? x + width : c->width, bottom = y + height < c->height ? y + height : c->height;
    for (int row = y < 0 ? 0 : y; row < bottom; row++)
        for (int column = x < 0 ? 0 : x; column < right; column++)
            memcpy(c->pixels + ((size_t)row * (size_t)c->width + (size_t)column) * 3, &ink, 3);
}

cbm_colour cbm_colour_mix(cbm_colour from, cbm_colour to, double share) {
    return (cbm_colour){(unsigned char)(from.r + share * (to.r - from.r) + 0.5),
                        (unsigned char)(from.g + share * (to.g - from.g) + 0.5),
                        (unsigned char)(from.b + share * (to.b - from.b) + 0.5)};
}

/* ------------------------------------------------------------------------------------------
 * Text: the font draws ASCII as rectangles
 * ---------------------------------------------------------------------------------------- */

enum { MOST_LETTERS = 120 };

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

int cbm_text_pixels(const char *text, int scale) {
    char ascii[MOST_LETTERS + 1];
    to_ascii(text, ascii);
    return stb_easy_font_width(ascii) * scale;
}

static void draw_ascii(cbm_canvas *c, int x, int y, char *ascii, int scale, cbm_colour ink) {
    enum { VERTEX = 16, RECTANGLE = 4 * VERTEX }; /* bytes; some rectangles are a letter */
    char vertices[RECTANGLE * 1024];
    int n = stb_easy_font_print(0, 0, ascii, NULL, vertices, (int)sizeof vertices);
    for (int i = 0; i < n; i++) {
        float corner[2][4]; /* the first, and the one across from it */
        memcpy(corner[0], vertices + RECTANGLE * i, VERTEX);
        memcpy(corner[1], vertices + RECTANGLE * i + 2 * VERTEX, VERTEX);
        cbm_canvas_fill(c, x + (int)corner[0][0] * scale, y + (int)corner[0][1] * scale,
                        (int)(corner[1][0] - corner[0][0]) * scale, (int)(corner[1][1] - corner[0][1]) * scale, ink);
    }
}

void cbm_canvas_text(cbm_canvas *c, int x, int y, int room, cbm_align align, const char *text, int scale,
                     cbm_colour ink) {
    char ascii[MOST_LETTERS + 3];
    to_ascii(text, ascii);
    for (size_t n = strlen(ascii); n > 1 && stb_easy_font_width(ascii) * scale > room; n--) strcpy(ascii + n - 1, "..");
    draw_ascii(c, x - (int)align * stb_easy_font_width(ascii) * scale / 2, y, ascii, scale, ink);
}
