/*
 * models/base/text.h - UTF-8, prefixes and suffixes, and text as people see it
 *
 * cbm_text_show and cbm_text_width, which programs need too, are public: models/cbm.h.
 */
#ifndef CBM_TEXT_H
#define CBM_TEXT_H

#include "models/cbm.h"

#define CBM_SHOWN_SIZE 192 /* bytes for a name or value in a message … */
#define CBM_SHOWN_WIDTH 60 /* … that takes at most so many cells */

/* `text` for a message, on one line, a long one cut with "…". Returns `shown`. */
const char *cbm_show(char shown[CBM_SHOWN_SIZE], const char *text, size_t length);
const char *cbm_show_string(char shown[CBM_SHOWN_SIZE], const char *text); /* NUL-terminated */

/* The character at the start of a text of `length` bytes, at least one, and its bytes; 0 bytes: that is not UTF-8. */
size_t cbm_read_character(const char *text, size_t length, int32_t *c);
/* The place of the first byte that is not UTF-8; `length`: there is none. */
size_t cbm_find_bad_utf8(const char *text, size_t length);

/* Both are NUL-terminated. */
int cbm_starts_with(const char *text, const char *start);
int cbm_ends_with(const char *text, const char *end);
int cbm_has_suffix(const char *path, const char *suffix); /* of a file's name: ".CSV" is ".csv" */

#endif
