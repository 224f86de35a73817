/*
 * models/base/spelling.c - whether two values of a data set are one class that is written in two ways
 */
#include "models/base/spelling.h"

#include "models/base/text.h"

#include <stdint.h>
#include <string.h>

#include <utf8proc.h>

/* Numbers of so many digits differ if their texts do: above that two long identifiers could be one double. */
#define MOST_DIGITS 15

static int is_ascii(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] >= 0x80) return 0;
    return 1;
}

/* White space, and what takes no room: a blank nobody sees is one too. */
static int is_blank(int32_t c) {
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0x200B || c == 0x2028 || c == 0x2029 || c == 0xFEFF ||
           utf8proc_category(c) == UTF8PROC_CATEGORY_ZS;
}

/* Leaves out the blanks at both ends. */
static void trim(const char **text, size_t *length) {
    int32_t c;
    while (*length) {
        size_t n = cbm_read_character(*text, *length, &c);
        if (!n || !is_blank(c)) break;
        *text += n;
        *length -= n;
    }
    while (*length) {
        size_t start = *length - 1;
        while (start && ((unsigned char)(*text)[start] & 0xC0) == 0x80) start--;
        if (!cbm_read_character(*text + start, *length - start, &c) || !is_blank(c)) break;
        *length = start;
    }
}

/* Whether the text is a number that its double tells from all others. */
static int is_number(const char *text, size_t length, double *value) {
    size_t n_digits = 0;
    if (!length || !strchr("+-.0123456789", text[0])) return 0;
    for (size_t i = 0; i < length; i++) n_digits += text[i] >= '0' && text[i] <= '9';
    return n_digits <= MOST_DIGITS && scbm_parse_double(text, length, value) == SCBM_OK;
}

static scbm_status fold_ascii(char *key, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        key[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 'a' - 'A' : text[i]);
    key[length] = 0;
    return SCBM_OK;
}

/* Unicode's case folding, and composed letters. */
static scbm_status fold(char **key, size_t *capacity, const char *text, size_t length, const scbm_hooks *hooks) {
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD;
    const utf8proc_uint8_t *from = (const utf8proc_uint8_t *)text;
    for (;;) {
        utf8proc_int32_t *letters = (utf8proc_int32_t *)(void *)*key;
        utf8proc_ssize_t room = (utf8proc_ssize_t)(*capacity / sizeof *letters) - 1;
        utf8proc_ssize_t n = utf8proc_decompose(from, (utf8proc_ssize_t)length, letters, room, options);
        if (n >= 0 && n <= room) n = utf8proc_reencode(letters, n, options);
        else if (n >= 0) {
            scbm_status status = scbm_grow(hooks, (void **)key, capacity, ((size_t)n + 2) * sizeof *letters, 1);
            if (status) return status;
            continue;
        }
        return n >= 0 ? SCBM_OK : scbm_fail(SCBM_ERROR_FORMAT, "a value is not UTF-8");
    }
}

scbm_status cbm_spelling_key(char **key, size_t *capacity, const char *text, size_t length, const scbm_hooks *hooks) {
    double value;
    trim(&text, &length);
    scbm_status status = scbm_grow(hooks, (void **)key, capacity, 4 * (length + 8), 1);
    if (status) return status;
    if (!is_ascii(text, length)) return fold(key, capacity, text, length, hooks);
    if (!is_number(text, length, &value)) return fold_ascii(*key, text, length);
    scbm_print_double(value == 0.0 ? 0.0 : value, *key); /* of 4 · 8 bytes at least; −0 is 0 */
    return SCBM_OK;
}
