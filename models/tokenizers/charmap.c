/*
 * models/tokenizers/charmap.c - SentencePiece's precompiled map from characters to their normal form
 */
#include "models/tokenizers/charmap.h"

#include "models/base/text.h"

#include <string.h>

enum { UNIT_BYTES = 4 };

static uint32_t number_at(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

int cbm_charmap_open(cbm_charmap *map, const uint8_t *bytes, size_t n) {
    memset(map, 0, sizeof *map);
    if (n < UNIT_BYTES) return 0;
    size_t size = number_at(bytes);
    if (size > n - UNIT_BYTES || size % UNIT_BYTES || size < UNIT_BYTES) return 0;
    map->units = bytes + UNIT_BYTES;
    map->n_units = size / UNIT_BYTES;
    map->text = (const char *)bytes + UNIT_BYTES + size;
    map->text_bytes = n - UNIT_BYTES - size;
    return cbm_find_bad_utf8(map->text, map->text_bytes) == map->text_bytes;
}

/* A unit is a label, which is the byte that leads to it or in a leaf a number, a flag that a leaf follows, and an offset. */
static size_t offset_of(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static int text_at(const cbm_charmap *map, size_t place, const char **replacement, size_t *length) {
    if (place >= map->text_bytes || ((uint8_t)map->text[place] & 0xC0) == 0x80) return 0;
    const char *end = memchr(map->text + place, 0, map->text_bytes - place);
    *replacement = map->text + place;
    *length = end ? (size_t)(end - *replacement) : map->text_bytes - place;
    return 1;
}

int cbm_charmap_find(const cbm_charmap *map, const char *text, size_t n, const char **replacement, size_t *length) {
    if (!map->n_units) return 0;
    size_t node = offset_of(number_at(map->units));
    for (size_t i = 0; i < n && text[i]; i++) {
        node ^= (uint8_t)text[i];
        if (node >= map->n_units) return 0;
        uint32_t unit = number_at(map->units + UNIT_BYTES * node);
        if ((unit & (1u << 31 | 0xFF)) != (uint8_t)text[i]) return 0;
        node ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue;
        if (node >= map->n_units) return 0;
        return text_at(map, number_at(map->units + UNIT_BYTES * node) & 0x7FFFFFFF, replacement, length);
    }
    return 0;
}
