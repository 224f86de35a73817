/*
 * models/tokenizers/charmap.h - SentencePiece's precompiled map from characters to their normal form
 *
 * Four bytes say how long the first part is: a double array (little-endian units of four bytes), in which the bytes of a
 * text lead from unit to unit. A number at the end of a way is a place in the second part, where the replacement stands
 * with a NUL behind it.
 */
#ifndef CBM_CHARMAP_H
#define CBM_CHARMAP_H

#include "sparsecbm.h"

typedef struct cbm_charmap {
    const uint8_t *units; /* four bytes each */
    size_t n_units;
    const char *text;
    size_t text_bytes;
} cbm_charmap;

/* The map points into `bytes`. 0: they are no such map. */
int cbm_charmap_open(cbm_charmap *map, const uint8_t *bytes, size_t n);
/* The replacement of the shortest beginning of text[0 … n) that the map knows, which `tokenizers` takes for the whole of
 * it. 0: it knows none. */
int cbm_charmap_find(const cbm_charmap *map, const char *text, size_t n, const char **replacement, size_t *length);

#endif
