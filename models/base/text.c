/*
 * models/base/text.c - UTF-8, prefixes and suffixes, and text as people see it
 *
 * A text is shown cluster by cluster: a letter with its marks, or an emoji that several characters make, takes the cells
 * of its widest character. What would act on the terminal instead of standing in it is shown as its bytes.
 */
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#define ELLIPSIS "…"
#define HIGH_BITS UINT64_C(0x8080808080808080)
#define EMOJI_SELECTOR 0xFE0F /* asks for the picture, two cells wide, of the character before it */

int cbm_starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

int cbm_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && memcmp(text + n - m, end, m) == 0;
}

static int lower(char c) {
    return c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c;
}

int cbm_has_suffix(const char *path, const char *suffix) {
    size_t n = strlen(path), m = strlen(suffix);
    for (size_t i = 0; i < m; i++)
        if (n < m || lower(path[n - m + i]) != lower(suffix[i])) return 0;
    return 1;
}

size_t cbm_read_character(const char *text, size_t length, int32_t *c) {
    if ((unsigned char)*text < 0x80) {
        *c = *text;
        return 1;
    }
    utf8proc_ssize_t most = length < 4 ? (utf8proc_ssize_t)length : 4;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text, most, c);
    return n > 0 ? (size_t)n : 0;
}

size_t cbm_find_bad_utf8(const char *text, size_t length) {
    int32_t c;
    for (size_t i = 0; i < length;) {
        uint64_t word; /* of eight characters, mostly ASCII */
        if (length - i >= sizeof word && (memcpy(&word, text + i, sizeof word), (word & HIGH_BITS) == 0)) {
            i += sizeof word;
            continue;
        }
        size_t n = cbm_read_character(text + i, length - i, &c);
        if (n == 0) return i;
        i += n;
    }
    return length;
}

/* Control characters, ends of lines and paragraphs, and what changes the direction of what follows. */
static int acts_on_terminal(int32_t c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x61C || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

/* Two of these letters are a flag. */
static int is_regional(int32_t c) {
    return c >= 0x1F1E6 && c <= 0x1F1FF;
}

/* What is shown in one piece: its bytes in the text, and the cells that it takes. */
typedef struct cluster {
    size_t length;
    int width;
    int is_escaped; /* shown as \n, \t, \r, or each byte as \xNN */
} cluster;

static const char *short_escape(char c) {
    return c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\r' ? "\\r" : NULL;
}

/* Of at least one byte. */
static cluster next_cluster(const char *text, size_t length) {
    int32_t c = -1, next, state = 0;
    size_t n = cbm_read_character(text, length, &c);
    if (n == 0) return (cluster){1, 4, 1};
    if (acts_on_terminal(c)) return (cluster){n, short_escape(*text) ? 2 : 4 * (int)n, 1};
    cluster found = {n, utf8proc_charwidth(c), 0};
    while (found.length < length) {
        if ((unsigned char)text[found.length] < 0x80) break; /* an ASCII character begins a cluster */
        n = cbm_read_character(text + found.length, length - found.length, &next);
        if (n == 0 || acts_on_terminal(next) || utf8proc_grapheme_break_stateful(c, next, &state)) break;
        int width = next == EMOJI_SELECTOR || is_regional(next) ? 2 : utf8proc_charwidth(next);
        if (width > found.width) found.width = width;
        found.length += n;
        c = next;
    }
    return found;
}

int cbm_text_width(const char *text, size_t length) {
    int64_t width = 0;
    for (size_t i = 0; i < length && width < INT32_MAX;) {
        cluster next = next_cluster(text + i, length - i);
        width += next.width;
        i += next.length;
    }
    return width < INT32_MAX ? (int)width : INT32_MAX;
}

/* Writes the cluster if it fits into `room` bytes; the bytes written, 0: it does not fit. */
static size_t put_cluster(char *shown, size_t room, const char *text, const cluster *c) {
    const char *escape = c->is_escaped ? short_escape(*text) : NULL;
    size_t size = escape ? 2 : c->is_escaped ? 4 * c->length : c->length;
    if (size > room) return 0;
    if (escape) memcpy(shown, escape, 2);
    else if (!c->is_escaped) memcpy(shown, text, size);
    for (size_t i = 0; c->is_escaped && !escape && i < c->length; i++) {
        const char *digits = "0123456789abcdef";
        unsigned byte = (unsigned char)text[i];
        shown[4 * i] = '\\';
        shown[4 * i + 1] = 'x';
        shown[4 * i + 2] = digits[byte >> 4];
        shown[4 * i + 3] = digits[byte & 15];
    }
    return size;
}

/* The text is written as far as it goes, and where it does not end there, cut where "…" still had room. */
const char *cbm_text_show(char *shown, size_t size, const char *text, size_t length, int max_width) {
    const size_t mark = strlen(ELLIPSIS);
    size_t used = 0, cut = 0, i = 0;
    int width = 0;
    if (size == 0) return shown;
    while (i < length) {
        cluster next = next_cluster(text + i, length - i);
        if (max_width > 0 && next.width > max_width - width) break;
        size_t n = put_cluster(shown + used, size - 1 - used, text + i, &next);
        if (n == 0) break;
        used += n;
        width += next.width;
        i += next.length;
        if (used + mark < size && (max_width <= 0 || width < max_width)) cut = used;
    }
    if (i < length && mark < size) {
        memcpy(shown + cut, ELLIPSIS, mark);
        used = cut + mark;
    }
    shown[used] = 0;
    return shown;
}

const char *cbm_show(char shown[CBM_SHOWN_SIZE], const char *text, size_t length) {
    return cbm_text_show(shown, CBM_SHOWN_SIZE, text, length, CBM_SHOWN_WIDTH);
}

const char *cbm_show_string(char shown[CBM_SHOWN_SIZE], const char *text) {
    return cbm_show(shown, text, strlen(text));
}
