/*
 * tests/fuzz/fuzz-charmap.c - any bytes as SentencePiece's map of characters: what it finds lies in it
 */
#include "models/tokenizers/charmap.h"
#include "tests/fuzz/require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { TEXT = 8 };
    cbm_charmap map;
    if (size < TEXT || !cbm_charmap_open(&map, data + TEXT, size - TEXT)) return 0;
    for (int c = 0; c < 256 + TEXT; c++) {
        char text[TEXT];
        const char *found = NULL;
        size_t length = 0;
        memcpy(text, data, TEXT);
        if (c < 256) text[0] = (char)c;
        size_t from = c < 256 ? 0 : (size_t)(c - 256);
        if (!cbm_charmap_find(&map, text + from, TEXT - from, &found, &length)) continue;
        require((const uint8_t *)found >= data + TEXT && (const uint8_t *)found + length <= data + size);
        require(memchr(found, 0, length) == NULL);
    }
    return 0;
}
