/*
 * convert/fasttext.c - words' vectors of fastText's files: what both kinds share, and the text
 */
#include "convert/fasttext-file.h"

#include "convert/bytes.h"
#include "models/base/hash.h"
#include "models/base/text.h"

#include <math.h>
#include <string.h>

#define MOST_NUMBERS (1 << 20) /* of a vector */
#define GIVE_BACK ((size_t)16 << 20)

/* ------------------------------------------------------------------------------------------
 * The words that are asked for: an open table of numbers + 1
 * ---------------------------------------------------------------------------------------- */

static size_t find_place(const fasttext_file *f, const char *word, size_t length) {
    size_t at = (size_t)cbm_hash(CBM_HASH_START, word, length) & (f->places - 1);
    for (; f->place[at]; at = (at + 1) & (f->places - 1)) {
        const char *known = f->words[f->place[at] - 1];
        if (strlen(known) == length && memcmp(known, word, length) == 0) break;
    }
    return at;
}

static scbm_status list_words(fasttext_file *f) {
    f->places = 16;
    while (f->places < 2 * (size_t)f->n) f->places *= 2;
    f->place = scbm_alloc_array(f->hooks, f->places, sizeof *f->place);
    if (!f->place) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < f->n; i++)
        if (f->words[i]) f->place[find_place(f, f->words[i], strlen(f->words[i]))] = i + 1;
    return SCBM_OK;
}

int32_t cbm_fasttext_wanted(const fasttext_file *f, const char *word, size_t length) {
    return f->place[find_place(f, word, length)] - 1;
}

scbm_status cbm_fasttext_allocate(fasttext_file *f, int64_t width) {
    fasttext_vectors *v = f->vectors;
    if (width < 1 || width > MOST_NUMBERS)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: vectors of %lld numbers; 1 to %d are read", f->name,
                         (long long)width, MOST_NUMBERS);
    v->width = width;
    v->value = scbm_alloc_array(f->hooks, (size_t)f->n * (size_t)width + 1, sizeof *v->value);
    v->is_there = scbm_alloc_array(f->hooks, (size_t)f->n + 1, sizeof *v->is_there);
    return v->value && v->is_there ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_fasttext_pass(fasttext_file *f, size_t at) {
    if (at - f->given_back < GIVE_BACK) return SCBM_OK;
    if (f->bytes) scbm_bytes_give_back(f->bytes, f->data + f->given_back, at - f->given_back);
    f->given_back = at;
    return scbm_progress(f->hooks, "megabytes of vectors", (int64_t)(at >> 20), (int64_t)(f->size >> 20));
}

/* ------------------------------------------------------------------------------------------
 * Text
 * ---------------------------------------------------------------------------------------- */

/* Where the line that begins at `at` ends. */
static size_t end_of_line(const fasttext_file *f, size_t at) {
    const void *end = memchr(f->data + at, '\n', f->size - at);
    return end ? (size_t)((const unsigned char *)end - f->data) : f->size;
}

/* The next word of a line; *at moves behind it. Spaces and tabs part words; 0: there is none. */
static size_t take_field(const char *line, size_t length, size_t *at, const char **field) {
    while (*at < length && (line[*at] == ' ' || line[*at] == '\t' || line[*at] == '\r')) ++*at;
    *field = line + *at;
    while (*at < length && line[*at] != ' ' && line[*at] != '\t' && line[*at] != '\r') ++*at;
    return (size_t)(line + *at - *field);
}

static int is_count(double value, double most) {
    return value >= 0 && value <= most && value == floor(value);
}

/* "2519370 300" */
static scbm_status read_sizes(fasttext_file *f, const char *line, size_t length, int64_t *n_lines, int64_t *width) {
    const char *field;
    size_t at = 0, n;
    double value[3];
    int n_fields = 0;
    for (; n_fields < 3 && (n = take_field(line, length, &at, &field)); n_fields++)
        if (scbm_parse_double(field, n, &value[n_fields]) != SCBM_OK) break;
    if (n_fields != 2 || n || !is_count(value[0], 1e12) || !is_count(value[1], MOST_NUMBERS))
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%.300s: neither one of fastText's .bin files, nor does its first line say how many words and "
                         "numbers there are, as a .vec file's does",
                         f->name);
    *n_lines = (int64_t)value[0];
    *width = (int64_t)value[1];
    return SCBM_OK;
}

/* The numbers of a line from `at` on. */
static scbm_status read_numbers(const fasttext_file *f, int64_t line_number, const char *line, size_t length, size_t at,
                                float *vector) {
    const char *field;
    const int64_t width = f->vectors->width;
    int64_t n_numbers = 0;
    size_t n;
    for (; (n = take_field(line, length, &at, &field)) && n_numbers < width; n_numbers++) {
        double value;
        if (scbm_parse_double(field, n, &value) != SCBM_OK || !isfinite((float)value))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: line %lld: number %lld of its vector is none", f->name,
                             (long long)line_number, (long long)n_numbers + 1);
        vector[n_numbers] = (float)value;
    }
    if (n_numbers == width && !n) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: line %lld has %s than the %lld numbers of a vector", f->name,
                     (long long)line_number, n_numbers < width ? "fewer" : "more", (long long)width);
}

/* Of a word that stands there twice the first vector counts. */
static scbm_status read_line(fasttext_file *f, int64_t line_number, const char *line, size_t length) {
    const char *word;
    size_t at = 0, n = take_field(line, length, &at, &word);
    int32_t wanted = n ? cbm_fasttext_wanted(f, word, n) : -1;
    fasttext_vectors *v = f->vectors;
    if (wanted < 0 || v->is_there[wanted]) return SCBM_OK;
    v->is_there[wanted] = 1;
    v->n_there++;
    return read_numbers(f, line_number, line, length, at, v->value + wanted * v->width);
}

static scbm_status read_text(fasttext_file *f) {
    const char *text = (const char *)f->data;
    int64_t n_lines = 0, width = 0, n = 0;
    size_t end = end_of_line(f, 0);
    scbm_status status = read_sizes(f, text, end, &n_lines, &width);
    if (!status && (size_t)width > f->size)
        status = scbm_fail(SCBM_ERROR_FORMAT,
                           "%.300s: its first line says vectors of %lld numbers, for which it is too short", f->name,
                           (long long)width);
    if (!status) status = cbm_fasttext_allocate(f, width);
    for (size_t at = end + 1; at < f->size && !status; at = end + 1, n++) {
        end = end_of_line(f, at);
        status = read_line(f, n + 2, text + at, end - at);
        if (!status) status = cbm_fasttext_pass(f, at);
    }
    if (status || n == n_lines) return status;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: it has %lld lines of words, and its first line says %lld", f->name,
                     (long long)n, (long long)n_lines);
}

/* ------------------------------------------------------------------------------------------
 * Either kind
 * ---------------------------------------------------------------------------------------- */

static scbm_status read_file(fasttext_file *f) {
    scbm_status status = list_words(f);
    if (!status && f->size >= 4 && cbm_little_endian(f->data, 4) == FASTTEXT_MAGIC)
        status = cbm_fasttext_read_binary(f);
    else if (!status) status = read_text(f);
    scbm_release(f->hooks, f->place);
    return status;
}

scbm_status cbm_fasttext_read_memory(fasttext_vectors *vectors, const void *data, size_t size, const char *name,
                                     const char *const *words, int32_t n, const scbm_hooks *hooks) {
    fasttext_file f = {.name = name, .data = data, .size = size, .words = words, .n = n, .hooks = hooks};
    memset(vectors, 0, sizeof *vectors);
    vectors->n = n;
    f.vectors = vectors;
    return read_file(&f);
}

scbm_status cbm_fasttext_read(fasttext_vectors *vectors, const char *path, const char *const *words, int32_t n,
                              const scbm_hooks *hooks) {
    scbm_bytes bytes;
    memset(vectors, 0, sizeof *vectors);
    scbm_status status = scbm_bytes_open(&bytes, path, hooks);
    if (status) return status;
    vectors->n = n;
    fasttext_file f = {.name = path, .data = bytes.data, .size = bytes.size, .words = words, .n = n, .hooks = hooks};
    const char *known = scbm_bytes_recognize(bytes.data, bytes.size < 512 ? bytes.size : 512, 0);
    f.bytes = &bytes;
    f.vectors = vectors;
    status = known ? scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s", path, known) : read_file(&f);
    scbm_bytes_close(&bytes, hooks);
    return status;
}

void cbm_fasttext_clear(fasttext_vectors *vectors, const scbm_hooks *hooks) {
    scbm_release(hooks, vectors->value);
    scbm_release(hooks, vectors->is_there);
    memset(vectors, 0, sizeof *vectors);
}
