/*
 * convert/fasttext-binary.c - fastText's .bin: settings, a dictionary, and a matrix with rows for words and for n-grams
 *
 * All numbers are little-endian. Magic and version, twelve settings of four bytes and one of eight; the dictionary's sizes, its
 * entries (a NUL-terminated word, how often it was seen, whether it is a label) and what quantizing has left of the n-grams; whether
 * the matrix is quantized; its sizes, and its f32 numbers. The matrix of outputs behind it is not read.
 */
#include "convert/bytes.h"
#include "convert/fasttext-file.h"

#include <math.h>
#include <string.h>

enum { SUPERVISED = 3, HEADER = 8 + 12 * 4 + 8, SIZES = 3 * 4 + 2 * 8, ENTRY = 8 + 1, MOST_CHARACTERS = 1000 };

typedef struct binary {
    fasttext_file *file;
    int version;
    int64_t width, model, n_buckets, least, most; /* characters of an n-gram */
    int64_t n_entries, n_words, n_pruned;
    int32_t *row; /* [n] of the words that are asked for; -1: they have none of their own */
    size_t at, matrix;
    int64_t n_rows;
} binary;

static scbm_status ends(const binary *b, const char *what) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the file ends inside %s", b->file->name, what);
}

static int64_t number_at(const binary *b, size_t at, size_t n) {
    uint64_t value = cbm_little_endian(b->file->data + at, n);
    return n == 4 ? (int64_t)(int32_t)(uint32_t)value : (int64_t)value;
}

static scbm_status wrong(const binary *b, const char *what, int64_t value) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s is %lld", b->file->name, what, (long long)value);
}

static scbm_status read_header(binary *b) {
    int64_t setting[12];
    if (b->file->size < HEADER + SIZES) return ends(b, "its settings");
    b->version = (int)number_at(b, 4, 4);
    if (b->version != 11 && b->version != 12)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: version %d of fastText's format; 11 and 12 are read",
                         b->file->name, b->version);
    for (int i = 0; i < 12; i++) setting[i] = number_at(b, 8 + 4 * (size_t)i, 4);
    b->width = setting[0];
    b->model = setting[7];
    b->n_buckets = setting[8];
    b->least = setting[9];
    b->most = b->version == 11 && b->model == SUPERVISED ? 0 : setting[10]; /* as fastText reads old classifiers */
    b->n_entries = number_at(b, HEADER, 4);
    b->n_words = number_at(b, HEADER + 4, 4);
    b->n_pruned = number_at(b, HEADER + 20, 8);
    b->at = HEADER + SIZES;
    if (b->width < 1) return wrong(b, "the width of a vector", b->width);
    if (b->n_buckets < 0) return wrong(b, "the number of buckets", b->n_buckets);
    if (b->least < 0) return wrong(b, "the length of the shortest n-gram", b->least);
    if (b->most < 0 || b->most > MOST_CHARACTERS) return wrong(b, "the length of the longest n-gram", b->most);
    if (b->n_words < 0 || b->n_words > b->n_entries) return wrong(b, "the number of words", b->n_words);
    return SCBM_OK;
}

/* Of a word that stands there twice the first one counts. */
static scbm_status read_entries(binary *b) {
    fasttext_file *f = b->file;
    scbm_status status = SCBM_OK;
    b->row = scbm_alloc_array(f->hooks, (size_t)f->n + 1, sizeof *b->row);
    if (!b->row) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < f->n; i++) b->row[i] = -1;
    for (int64_t i = 0; i < b->n_entries && !status; i++) {
        const unsigned char *word = f->data + b->at, *end = memchr(word, 0, f->size - b->at);
        if (!end || (size_t)(f->data + f->size - end) < 1 + ENTRY) return ends(b, "its dictionary");
        int32_t wanted = cbm_fasttext_wanted(f, (const char *)word, (size_t)(end - word));
        if (wanted >= 0 && b->row[wanted] < 0) b->row[wanted] = (int32_t)i;
        b->at = (size_t)(end - f->data) + 1 + ENTRY;
        status = cbm_fasttext_pass(f, b->at);
    }
    return status;
}

static scbm_status find_matrix(binary *b) {
    const fasttext_file *f = b->file;
    if (b->n_pruned > 0) {
        if ((uint64_t)b->n_pruned > (f->size - b->at) / 8) return ends(b, "its dictionary");
        b->at += 8 * (size_t)b->n_pruned;
    }
    if (f->size - b->at < 1 + 16) return ends(b, "its dictionary");
    if (f->data[b->at] || b->n_pruned > 0)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%.300s: a quantized model (.ftz); the .bin that it was made of is read", f->name);
    b->n_rows = number_at(b, b->at + 1, 8);
    const int64_t columns = number_at(b, b->at + 9, 8);
    b->matrix = b->at + 17;
    if (columns != b->width) return wrong(b, "the width of its matrix", columns);
    if (b->n_rows < b->n_words + (b->most > 0 ? b->n_buckets : 0))
        return wrong(b, "the number of rows of its matrix", b->n_rows);
    if ((uint64_t)b->n_rows > (f->size - b->matrix) / (4 * (uint64_t)b->width)) return ends(b, "its matrix");
    return cbm_fasttext_allocate(b->file, b->width);
}

/* ------------------------------------------------------------------------------------------
 * A word
 * ---------------------------------------------------------------------------------------- */

/* What a word's vector is the mean of. */
typedef struct word_sum {
    binary *binary;
    double *sum; /* [width] */
    int64_t n;
} word_sum;

static void add_row(word_sum *s, int64_t row) {
    const binary *b = s->binary;
    const unsigned char *at = b->file->data + b->matrix + (size_t)row * (size_t)b->width * 4;
    for (int64_t j = 0; j < b->width; j++, at += 4) {
        uint32_t bits = (uint32_t)cbm_little_endian(at, 4);
        float value;
        memcpy(&value, &bits, sizeof value);
        s->sum[j] += (double)value;
    }
    s->n++;
}

/* FNV-1a over bytes whose sign is extended, as fastText has it. */
static uint32_t hash_step(uint32_t hash, unsigned char byte) {
    uint32_t extended = byte | (byte & 0x80 ? UINT32_C(0xffffff00) : 0);
    return (hash ^ extended) * UINT32_C(16777619);
}

static int continues_character(unsigned char byte) {
    return (byte & 0xc0) == 0x80;
}

/* Byte i of the word between "<" and ">". */
static unsigned char marked_byte(const char *word, size_t length, size_t i) {
    return i == 0 ? '<' : i > length ? '>' : (unsigned char)word[i - 1];
}

/* The n-grams that begin at byte i; "<" and ">" alone are none. */
static void add_ngrams_at(word_sum *s, const char *word, size_t length, size_t i) {
    const binary *b = s->binary;
    uint32_t hash = UINT32_C(2166136261);
    size_t j = i, whole = length + 2;
    for (int64_t n = 1; j < whole && n <= b->most; n++) {
        do hash = hash_step(hash, marked_byte(word, length, j++));
        while (j < whole && continues_character(marked_byte(word, length, j)));
        if (n < b->least || (n == 1 && (i == 0 || j == whole))) continue;
        add_row(s, b->n_words + (int64_t)(hash % (uint32_t)b->n_buckets));
    }
}

static scbm_status read_word(binary *b, int32_t i, double *sum) {
    fasttext_vectors *v = b->file->vectors;
    const char *word = b->file->words[i];
    const size_t length = strlen(word);
    word_sum s = {b, sum, 0};
    memset(sum, 0, (size_t)b->width * sizeof *sum);
    if (b->row[i] >= 0 && b->row[i] < b->n_rows) add_row(&s, b->row[i]);
    int is_end = strcmp(word, "</s>") == 0;
    if (b->most > 0 && b->n_buckets > 0 && b->n_pruned != 0 && !is_end)
        for (size_t at = 0; at < length + 2; at++)
            if (!continues_character(marked_byte(word, length, at))) add_ngrams_at(&s, word, length, at);
    if (!s.n) return SCBM_OK;
    for (int64_t j = 0; j < b->width; j++) {
        float value = (float)(sum[j] / (double)s.n);
        if (!isfinite(value))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: number %lld of the vector of '%.60s' is not finite",
                             b->file->name, (long long)j + 1, word);
        v->value[i * v->width + j] = value;
    }
    v->is_there[i] = 1;
    v->n_there++;
    return SCBM_OK;
}

static scbm_status read_words(binary *b) {
    const fasttext_file *f = b->file;
    double *sum = scbm_alloc_array(f->hooks, (size_t)b->width, sizeof *sum);
    scbm_status status = sum ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < f->n && !status; i++) {
        if (f->words[i]) status = read_word(b, i, sum);
        if (!status) status = scbm_cancelled(f->hooks);
    }
    scbm_release(f->hooks, sum);
    return status;
}

scbm_status cbm_fasttext_read_binary(fasttext_file *file) {
    binary b = {.file = file};
    scbm_status status = read_header(&b);
    if (!status) status = read_entries(&b);
    if (!status) status = find_matrix(&b);
    if (!status) status = read_words(&b);
    scbm_release(file->hooks, b.row);
    return status;
}
