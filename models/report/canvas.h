/*
 * models/report/canvas.h - a picture that is drawn into
 */
#ifndef CBM_REPORT_CANVAS_H
#define CBM_REPORT_CANVAS_H

typedef struct cbm_colour {
    unsigned char r, g, b;
} cbm_colour;

typedef struct cbm_canvas {
    int width, height;
    unsigned char *pixels; /* [height, width, 3]: RGB */
} cbm_canvas;

/* Of a scale of 1; a letter is so high without what hangs below its line. */
#define CBM_LINE_HEIGHT 12
#define CBM_LETTER_HEIGHT 8

typedef enum cbm_align { CBM_LEFT, CBM_MIDDLE, CBM_RIGHT } cbm_align;

/* What lies outside of the canvas is left out. */
void cbm_canvas_fill(cbm_canvas *c, int x, int y, int width, int height, cbm_colour ink);
cbm_colour cbm_colour_mix(cbm_colour from, cbm_colour to, double share);
/* Text that begins at, has its middle at, or ends at x, with its top at y. What is more than `room` wide ends in two
 * points. Letters lose their accents, and what is not Latin becomes question marks: the font has ASCII alone. */
void cbm_canvas_text(cbm_canvas *c, int x, int y, int room, cbm_align align, const char *text, int scale,
                     cbm_colour ink);
int cbm_text_pixels(const char *text, int scale);

#endif
