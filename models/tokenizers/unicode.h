/*
 * models/tokenizers/unicode.h - classes of characters, lower case and decomposition, as Hugging Face sees them
 */
#ifndef CBM_UNICODE_H
#define CBM_UNICODE_H

#include <stdint.h>

#define CBM_MOST_DECOMPOSED 8 /* a canonical decomposition has four code points at most */

typedef enum cbm_character_class {
    CBM_LETTER, /* and whatever else is none of these */
    CBM_CONTROL,
    CBM_SPACE, /* also where it is a control character */
    CBM_PUNCTUATION,
    CBM_MARK
} cbm_character_class;

/* Of a table of characters, in ascending order. */
typedef struct cbm_code_range {
    int32_t first, last;
} cbm_code_range;

int cbm_in_ranges(const cbm_code_range *ranges, int n, int32_t c);
#define CBM_IN_RANGES(ranges, c) cbm_in_ranges(ranges, (int)(sizeof(ranges) / sizeof(ranges)[0]), c)

cbm_character_class cbm_class_of(int32_t c);
int cbm_is_white_space(int32_t c);
/* What regular expressions call \w: letters, marks, digits, connectors. */
int cbm_is_word_character(int32_t c);
/* What cleaning removes: the vertical tab, form feed and next line too, which are white space elsewhere. */
int cbm_is_removed(int32_t c);
/* CJK unified and compatibility ideographs, as far as BERT lists them. */
int cbm_is_ideograph(int32_t c);
int32_t cbm_lower_case(int32_t c);
/* \p{L} and \p{N} of the pattern of byte-level BPE, whatever the system's tables (letters.c). */
int cbm_is_letter(int32_t c);
int cbm_is_number(int32_t c);
int32_t cbm_combining_class(int32_t c);
/* The canonical decomposition; the number of its parts, at least one. */
int cbm_decompose(int32_t c, int32_t parts[CBM_MOST_DECOMPOSED]);

#endif
