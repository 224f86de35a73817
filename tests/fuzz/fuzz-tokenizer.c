/*
 * tests/fuzz/fuzz-tokenizer.c - any bytes as a text
 *
 * The first byte chooses the tokenizer's options, the second the number of tokens, the rest is the text.
 */
#define _POSIX_C_SOURCE 200809L

#include "models/tokenizers/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utf8proc.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WORD "\xe2\x96\x81"
enum { N_OPTIONS = 4, N_TOKENIZERS = 1 << N_OPTIONS, CLS = 2, SEP = 3 };

static const char *const tokens[] = {
    "[PAD]",          "[UNK]",          "[CLS]",          "[SEP]",        "[MASK]",        WORD "the",          WORD "un",
    WORD "food",      "able",           "aff",            "ing",          WORD "a",        WORD "b",            "a",
    "b",              "ab",             "abab",           WORD "A",       "A",             WORD ".",            WORD "[",
    WORD "]",         WORD "\xc3\xa9",  "\xc3\xa9",       WORD "i",       "i",             "\xcc\x81",          "\xe3\x80\xae",
    "\xcc\x87",       WORD "\xe5\xa5\xbd", "\xe5\xa5\xbd", "\xe1\x85\xa1", WORD "\xe1\x84\x92", "\xf0\x9f\x98\x80", "\x01",
};

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz-tokenizer: %s\n", what);
    abort();
}

static void write_vocabulary(const char *path, int options) {
    static const char *const keys[N_OPTIONS] = {"sparsecbm.tokenizer.lowercase", "sparsecbm.tokenizer.strip_accents",
                                                "sparsecbm.tokenizer.cjk_spacing", "sparsecbm.tokenizer.clean_text"};
    scbm_writer *w;
    check(scbm_writer_create(&w, NULL) == SCBM_OK, scbm_last_error());
    scbm_writer_set_string(w, "tokenizer.ggml.model", "bert");
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", tokens, sizeof tokens / sizeof tokens[0]);
    scbm_writer_set_int(w, "sparsecbm.tokenizer.max_word_characters", SCBM_VALUE_U32, 12);
    for (int i = 0; i < N_OPTIONS; i++) scbm_writer_set_bool(w, keys[i], options >> i & 1);
    check(scbm_writer_write(w, path) == SCBM_OK, scbm_last_error());
    scbm_writer_free(w);
}

/* One for each combination of options, made when first used and kept. */
static const cbm_tokenizer *tokenizer_of(int options) {
    static cbm_tokenizer *made[N_TOKENIZERS];
    char path[] = "/tmp/scbm-fuzz-tokenizer-XXXXXX";
    scbm_file *file;
    if (made[options]) return made[options];
    int descriptor = mkstemp(path);
    check(descriptor >= 0, "no temporary file");
    close(descriptor);
    write_vocabulary(path, options);
    check(scbm_file_open(&file, path, NULL) == SCBM_OK, scbm_last_error());
    check(cbm_tokenizer_create(&made[options], file, NULL) == SCBM_OK, scbm_last_error());
    scbm_file_close(file);
    remove(path);
    return made[options];
}

/* The bytes before the first that is not UTF-8, and, in `boundary`, where characters begin. */
static size_t find_characters(const char *text, size_t length, uint8_t *boundary) {
    size_t at = 0;
    boundary[0] = 1;
    while (at < length) {
        int32_t code;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &code);
        if (n <= 0) break;
        at += (size_t)n;
        boundary[at] = 1;
    }
    return at;
}

static void check_tokens(const cbm_tokenizer *t, const cbm_tokens *found, size_t length, const uint8_t *boundary) {
    size_t last = found->n - 1;
    check(found->n >= 2 && found->ids[0] == CLS && found->ids[last] == SEP, "the first or the last token is missing");
    check(!found->end[0] && !found->end[last] && !found->start[0] && !found->start[last], "an added token has a range");
    for (size_t i = 1; i < last; i++) {
        check(cbm_token_piece(t, found->ids[i]) != NULL, "an id is not in the vocabulary");
        check(found->start[i] >= 0 && found->start[i] < found->end[i], "a range is empty");
        check((size_t)found->end[i] <= length, "a range ends outside the text");
        check(boundary[found->start[i]] && boundary[found->end[i]], "a range divides a character");
        check(i == 1 || (found->start[i] >= found->start[i - 1] && found->end[i] >= found->end[i - 1]),
              "ranges do not ascend");
    }
}

/* What was cut is the beginning of the whole. */
static void check_cut(const cbm_tokens *cut, const cbm_tokens *whole, size_t most) {
    size_t n = whole->n < most ? whole->n : most;
    check(cut->n == n && cut->truncated == (whole->n > most), "a wrong number of tokens is left");
    check(memcmp(cut->ids, whole->ids, (n - 1) * sizeof *cut->ids) == 0, "cutting has changed the ids");
    check(memcmp(cut->start, whole->start, (n - 1) * sizeof *cut->start) == 0, "cutting has changed a range");
    check(memcmp(cut->end, whole->end, (n - 1) * sizeof *cut->end) == 0, "cutting has changed a range");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static cbm_tokens whole, cut;
    if (size < 2) return 0;
    const cbm_tokenizer *t = tokenizer_of(data[0] % N_TOKENIZERS);
    size_t most = 2 + data[1] % 16u, length = size - 2;
    const char *text = (const char *)data + 2;
    uint8_t *boundary = calloc(length + 1, 1);
    check(boundary != NULL, "out of memory");
    size_t good = find_characters(text, length, boundary);
    scbm_status wanted = good == length ? SCBM_OK : SCBM_ERROR_FORMAT;
    check(cbm_tokenize(t, text, length, SIZE_MAX, &whole) == wanted, "a wrong status");
    check(cbm_tokenize(t, text, length, most, &cut) == wanted, "a wrong status for a cut text");
    if (wanted == SCBM_OK) {
        check_tokens(t, &whole, length, boundary);
        check_tokens(t, &cut, length, boundary);
        check_cut(&cut, &whole, most);
    } else {
        check(strstr(scbm_last_error(), "not UTF-8") != NULL, "an error without its reason");
    }
    free(boundary);
    return 0;
}
