/*
 * models/base/spelling.h - whether two values of a data set are one class that is written in two ways
 */
#ifndef CBM_SPELLING_H
#define CBM_SPELLING_H

#include "sparsecbm.h"

/* The key of a value: values with the same key are equal as numbers ("4" and "4.0"), or but for blanks around them, for
 * capital letters and for how Unicode composes their letters. `text` is UTF-8; the key is NUL-terminated, in a buffer that
 * grows through `hooks` and is the caller's. */
scbm_status cbm_spelling_key(char **key, size_t *capacity, const char *text, size_t length, const scbm_hooks *hooks);

#endif
