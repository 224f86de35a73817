/*
 * models/data/lines.c - lines of a text file or stream
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/data/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct line_reader {
    const char *name; /* in messages */
    int descriptor;
    char *buffer; /* what was read and not handed over yet, from `start` on */
    size_t start, used, capacity;
    size_t line_number;
    cbm_line_function line;
    cbm_bad_line_function bad; /* NULL: a bad line is an error */
    void *user;
    const scbm_hooks *hooks;
} line_reader;

/* The last error says what is wrong with the line. */
static scbm_status hand_over_bad(line_reader *r, size_t number) {
    char reason[512];
    if (!r->bad) return SCBM_ERROR_FORMAT;
    snprintf(reason, sizeof reason, "%s", scbm_last_error());
    return r->bad(r->user, reason, number);
}

static scbm_status check_line(const line_reader *r, const char *text, size_t length, size_t number) {
    if (memchr(text, 0, length))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.200s, line %zu: there is a NUL byte", r->name, number);
    size_t bad = cbm_find_bad_utf8(text, length);
    if (bad == length) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.200s, line %zu: byte %zu (0x%02x) is not UTF-8", r->name, number, bad + 1,
                     (unsigned)(unsigned char)text[bad]);
}

/* Hands over one line, without its line feed. The byte after it belongs to the buffer. */
static scbm_status hand_over(line_reader *r, char *text, size_t length, int more) {
    size_t number = ++r->line_number;
    if (number == 1 && length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, length -= 3;
    if (length && text[length - 1] == '\r') length--;
    if (check_line(r, text, length, number) != SCBM_OK) return hand_over_bad(r, number);
    text[length] = 0;
    return r->line(r->user, text, length, number, more);
}

/* Hands over the whole lines among the last n bytes that were read, and what was there before them. */
static scbm_status hand_over_lines(line_reader *r, size_t n) {
    char *end = memchr(r->buffer + r->used - n, '\n', n);
    while (end) {
        char *text = r->buffer + r->start;
        r->start = (size_t)(end - r->buffer) + 1;
        char *next = memchr(r->buffer + r->start, '\n', r->used - r->start);
        scbm_status status = hand_over(r, text, (size_t)(end - text), next != NULL);
        if (status) return status;
        end = next;
    }
    return SCBM_OK;
}

/* Room for more, with one byte to spare for a NUL. */
static scbm_status make_room(line_reader *r) {
    if (r->start) {
        memmove(r->buffer, r->buffer + r->start, r->used - r->start);
        r->used -= r->start;
        r->start = 0;
    }
    return scbm_grow(r->hooks, (void **)&r->buffer, &r->capacity, r->used + CBM_DATA_CHUNK + 1, 1);
}

static scbm_status read_lines(line_reader *r) {
    for (;;) {
        scbm_status status = make_room(r);
        if (status) return status;
        ssize_t n = read(r->descriptor, r->buffer + r->used, r->capacity - r->used - 1);
        if (n == 0) return r->used > r->start ? hand_over(r, r->buffer + r->start, r->used - r->start, 0) : SCBM_OK;
        if (n < 0 && errno != EINTR)
            return scbm_fail(SCBM_ERROR_IO, "%.200s: cannot be read: %s", r->name, strerror(errno));
        if (scbm_progress(r->hooks, "read", (int64_t)r->line_number, (int64_t)r->line_number))
            return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %zu lines", r->line_number);
        if (n < 0) continue;
        const char *what = r->used || r->line_number ? NULL : scbm_bytes_recognize(r->buffer, (size_t)n, 1);
        if (what) return scbm_fail(SCBM_ERROR_FORMAT, "%.200s: is not lines of text but %s", r->name, what);
        r->used += (size_t)n;
        status = hand_over_lines(r, (size_t)n);
        if (status) return status;
    }
}

scbm_status cbm_read_lines(const char *path, cbm_line_function line, cbm_bad_line_function bad, void *user,
                           const scbm_hooks *hooks) {
    line_reader r;
    memset(&r, 0, sizeof r);
    int is_stdin = strcmp(path, "-") == 0;
    r.name = is_stdin ? "standard input" : path;
    r.line = line;
    r.bad = bad;
    r.user = user;
    r.hooks = hooks;
    r.descriptor = STDIN_FILENO;
    if (!is_stdin) {
        do {
            r.descriptor = open(path, O_RDONLY | O_CLOEXEC);
            if (r.descriptor < 0 && errno == EINTR && scbm_cancelled(hooks)) return SCBM_ERROR_CANCELLED;
        } while (r.descriptor < 0 && errno == EINTR);
    }
    if (r.descriptor < 0) return scbm_fail(SCBM_ERROR_IO, "%.200s: cannot be opened: %s", path, strerror(errno));
    scbm_status status = read_lines(&r);
    if (!is_stdin) close(r.descriptor);
    scbm_release(hooks, r.buffer);
    return status;
}
