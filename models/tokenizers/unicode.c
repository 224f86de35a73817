/*
 * models/tokenizers/unicode.c - classes of characters, lower case and decomposition, as Hugging Face sees them
 *
 * Hugging Face's tables are older than most systems': character classes are Unicode 8's, decompositions Unicode 9's.
 * To it, what came later is a letter without a decomposition, so the ranges that hold later marks, punctuation and
 * format characters are listed here; its lower-casing is newer than utf8proc 2.8's. (tokenizers 0.23, Unicode 18)
 */
#include "models/tokenizers/unicode.h"

#include <utf8proc.h>

static const cbm_code_range later_letters[] = {
    {0x5C8, 0x5C9},     {0x61D, 0x61D},     {0x7FD, 0x7FD},     {0x890, 0x8E2},     {0x9FD, 0x9FE},
    {0xA76, 0xA76},     {0xAFA, 0xAFF},     {0xB53, 0xB55},     {0xC04, 0xC3C},     {0xC77, 0xC77},
    {0xC84, 0xC84},     {0xD00, 0xD00},     {0xD3B, 0xD3C},     {0xD81, 0xD81},     {0xEBA, 0xEBA},
    {0xECE, 0xECE},     {0x180F, 0x1886},   {0x1ABF, 0x1AF0},   {0x1B4E, 0x1B4F},   {0x1B7D, 0x1B7F},
    {0x1DF6, 0x1DFB},   {0x2E43, 0x2E63},   {0xA82C, 0xA82C},   {0xA8C5, 0xA8C5},   {0xA8FF, 0xA8FF},
    {0xA9BD, 0xA9BD},   {0x10D24, 0x10F89}, {0x11070, 0x11074}, {0x110C2, 0x110CD}, {0x111CF, 0x111CF},
    {0x1123E, 0x11241}, {0x1133B, 0x1133B}, {0x113BB, 0x1145E}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
    {0x1182F, 0x11FFF}, {0x12FF1, 0x1612F}, {0x16D6D, 0x16F4F}, {0x16FE2, 0x16FE4}, {0x1CF00, 0x1D128},
    {0x1D25B, 0x1D25C}, {0x1E000, 0x1E6F5}, {0x1E944, 0x1E95F},
};

/* Those of which the combining class or the decomposition came after Unicode 9. */
static const cbm_code_range later_compositions[] = {
    {0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1AF0},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x105C9, 0x105E4}, {0x10D24, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x11383, 0x113D0}, {0x1145E, 0x1145E}, {0x11839, 0x11A99}, {0x11D42, 0x1612F}, {0x16D68, 0x16FF1},
    {0x1D127, 0x1D128}, {0x1D250, 0x1D281}, {0x1E08F, 0x1E6F5},
};

static const struct {
    int32_t first, last, lower; /* `lower` belongs to `first`, the next to the next */
} later_capitals[] = {
    {0x1C89, 0x1C89, 0x1C8A},    {0xA7CB, 0xA7CB, 0x264},     {0xA7CC, 0xA7CC, 0xA7CD}, {0xA7CE, 0xA7CE, 0xA7CF},
    {0xA7D2, 0xA7D2, 0xA7D3},    {0xA7D4, 0xA7D4, 0xA7D5},    {0xA7DA, 0xA7DA, 0xA7DB}, {0xA7DC, 0xA7DC, 0x19B},
    {0x10D50, 0x10D65, 0x10D70}, {0x16EA0, 0x16EB8, 0x16EBB},
};

int cbm_in_ranges(const cbm_code_range *ranges, int n, int32_t c) {
    int low = 0, high = n;
    if (c < ranges[0].first) return 0;
    while (low < high) {
        int middle = (low + high) / 2;
        if (ranges[middle].last < c) low = middle + 1;
        else high = middle;
    }
    return low < n && ranges[low].first <= c;
}

int cbm_is_white_space(int32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Circled and squared letters are alphabetic symbols. */
static int is_letter_symbol(int32_t c) {
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

int cbm_is_word_character(int32_t c) {
    if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return 1;
    default: return c == 0x200C || c == 0x200D || is_letter_symbol(c);
    }
}

static int is_ascii_punctuation(int32_t c) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

cbm_character_class cbm_class_of(int32_t c) {
    if (c < 0x80) {
        if (cbm_is_white_space(c)) return CBM_SPACE;
        return c < 0x20 || c == 0x7F ? CBM_CONTROL : is_ascii_punctuation(c) ? CBM_PUNCTUATION : CBM_LETTER;
    }
    if (cbm_is_white_space(c)) return CBM_SPACE;
    if (CBM_IN_RANGES(later_letters, c)) return CBM_LETTER;
    if (c == 0x166D || c == 0x111C9) return CBM_PUNCTUATION; /* classes that have changed since Unicode 8 */
    if (c == 0x1734 || c == 0x1171E) return CBM_MARK;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO: return CBM_CONTROL;
    case UTF8PROC_CATEGORY_MN: return CBM_MARK;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return CBM_PUNCTUATION;
    default: return CBM_LETTER;
    }
}

int cbm_is_removed(int32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') return 0;
    return c == 0xFFFD || c == 0x0B || c == 0x0C || c == 0x85 || cbm_class_of(c) == CBM_CONTROL;
}

int cbm_is_ideograph(int32_t c) {
    return c >= 0x3400 && ((c >= 0x4E00 && c <= 0x9FFF) || c <= 0x4DBF || (c >= 0xF900 && c <= 0xFAFF) ||
                           (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B81F) ||
                           (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0x2F800 && c <= 0x2FA1F));
}

int32_t cbm_lower_case(int32_t c) {
    for (size_t i = 0; c >= later_capitals[0].first && i < sizeof later_capitals / sizeof later_capitals[0]; i++) {
        if (c >= later_capitals[i].first && c <= later_capitals[i].last)
            return later_capitals[i].lower + (c - later_capitals[i].first);
    }
    return utf8proc_tolower(c);
}

int32_t cbm_combining_class(int32_t c) {
    return CBM_IN_RANGES(later_compositions, c) ? 0 : utf8proc_get_property(c)->combining_class;
}

int cbm_decompose(int32_t c, int32_t parts[CBM_MOST_DECOMPOSED]) {
    int boundary = 0;
    utf8proc_ssize_t n = 0;
    if (!CBM_IN_RANGES(later_compositions, c))
        n = utf8proc_decompose_char(c, parts, CBM_MOST_DECOMPOSED, UTF8PROC_DECOMPOSE, &boundary);
    if (n >= 1 && n <= CBM_MOST_DECOMPOSED) return (int)n;
    parts[0] = c;
    return 1;
}
