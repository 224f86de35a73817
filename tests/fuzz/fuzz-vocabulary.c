/*
 * tests/fuzz/fuzz-vocabulary.c - any bytes as a model file's tokenizer keys: refused in one line, or a tokenizer that holds
 * what it promises
 *
 * The first four bytes say what is put around a text and the ids of the unknown, first and last token (255: no key); each
 * line after them is a token: its type and the lists that it is in, then its text.
 */
#define _POSIX_C_SOURCE 200809L

#include "models/tokenizers/tokenizer.h"
#include "tests/fuzz/require.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_TOKENS = 64, N_LISTS = 5 };

typedef struct vocabulary {
    char text[4096];
    const char *token[MOST_TOKENS];
    int64_t type[MOST_TOKENS], list[N_LISTS][MOST_TOKENS], n_listed[N_LISTS], n;
} vocabulary;

static void read_tokens(vocabulary *v, const uint8_t *data, size_t size) {
    if (size >= sizeof v->text) size = sizeof v->text - 1;
    memcpy(v->text, data, size);
    v->text[size] = 0;
    for (char *line = v->text; *line && v->n < MOST_TOKENS;) {
        size_t length = strcspn(line, "\n");
        char *end = line + length, *next = end + (*end != 0);
        *end = 0;
        int facts = (unsigned char)*line;
        v->type[v->n] = facts & 7;
        for (int i = 0; i < N_LISTS; i++)
            if (facts >> (3 + i) & 1) v->list[i][v->n_listed[i]++] = v->n;
        v->token[v->n++] = length ? line + 1 : line;
        line = next;
    }
}

/* Every token that is long enough is joined of its first two bytes, or its first, and the rest: some are whole pieces. */
static void write_merges(const vocabulary *v, scbm_writer *w) {
    static char text[MOST_TOKENS][4100];
    const char *merge[MOST_TOKENS];
    int64_t n = 0;
    for (int64_t i = 0; i < v->n; i++) {
        int first = (unsigned char)v->token[i][0] >= 0xC0 ? 2 : 1;
        if (strlen(v->token[i]) <= (size_t)first) continue;
        snprintf(text[n], sizeof text[n], "%.*s %s", first, v->token[i], v->token[i] + first);
        merge[n] = text[n];
        n++;
    }
    scbm_writer_set_strings(w, "tokenizer.ggml.merges", merge, n);
}

static void write_keys(const vocabulary *v, const uint8_t *head, const char *path) {
    static const char *const lists[N_LISTS] = {"sparsecbm.tokenizer.lstrip", "sparsecbm.tokenizer.rstrip",
                                               "sparsecbm.tokenizer.single_word", "sparsecbm.tokenizer.normalized",
                                               "sparsecbm.tokenizer.beside_model"};
    static const char *const specials[] = {"tokenizer.ggml.unknown_token_id", "tokenizer.ggml.cls_token_id",
                                           "tokenizer.ggml.seperator_token_id"};
    scbm_writer *w;
    require(scbm_writer_create(&w, NULL) == SCBM_OK);
    scbm_writer_set_string(w, "tokenizer.ggml.model", head[0] & 32 ? "gpt2" : "bert");
    if (head[0] & 32) write_merges(v, w);
    if (head[0] & 64) scbm_writer_set_bool(w, "tokenizer.ggml.add_space_prefix", 1);
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", v->token, v->n);
    scbm_writer_set_ints(w, "tokenizer.ggml.token_type", SCBM_VALUE_I32, v->type, v->n);
    scbm_writer_set_bool(w, "tokenizer.ggml.normalizer.lowercase", head[0] & 1);
    if (head[0] & 2) scbm_writer_set_bool(w, "tokenizer.ggml.add_bos_token", head[0] >> 2 & 1);
    if (head[0] & 8) scbm_writer_set_bool(w, "tokenizer.ggml.add_sep_token", head[0] >> 4 & 1);
    for (int i = 0; i < 3; i++)
        if (head[1 + i] != 255) scbm_writer_set_int(w, specials[i], SCBM_VALUE_U32, head[1 + i]);
    for (int i = 0; i < N_LISTS; i++)
        if (v->n_listed[i]) scbm_writer_set_ints(w, lists[i], SCBM_VALUE_I32, v->list[i], v->n_listed[i]);
    require(scbm_writer_write(w, path) == SCBM_OK);
    scbm_writer_free(w);
}

static void check_tokens(const cbm_tokenizer *t, const char *text, size_t length) {
    cbm_tokens tokens = {0};
    scbm_status status = cbm_tokenize(t, text, length, SIZE_MAX, &tokens);
    require(status == SCBM_OK || status == SCBM_ERROR_FORMAT); /* not UTF-8 */
    int32_t start = 0, end = 0;
    for (size_t i = 0; i < tokens.n; i++) {
        require(tokens.ids[i] >= 0 && tokens.ids[i] < cbm_tokenizer_size(t));
        if (tokens.end[i] == 0) continue;
        require(tokens.start[i] < tokens.end[i] && (size_t)tokens.end[i] <= length);
        require(tokens.start[i] >= start && tokens.end[i] >= end);
        start = tokens.start[i];
        end = tokens.end[i];
    }
    cbm_tokens_clear(&tokens, NULL);
}

/* Texts that are likely to meet the vocabulary: its own pieces, one after the other, and with spaces between them. */
static void use(const cbm_tokenizer *t) {
    char text[8192] = "";
    for (int spaces = 0; spaces < 2; spaces++) {
        size_t length = 0;
        for (int32_t i = 0; i < cbm_tokenizer_size(t); i++) {
            const char *piece = cbm_token_piece(t, i);
            require(piece && cbm_token_text(t, i) && strlen(cbm_token_text(t, i)) <= 3 * strlen(piece));
            if (length + strlen(piece) + 2 < sizeof text)
                length += (size_t)snprintf(text + length, sizeof text - length, "%s%s", piece, spaces ? " " : "");
        }
        check_tokens(t, text, length);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[64];
    vocabulary *v = calloc(1, sizeof *v);
    scbm_file *file;
    cbm_tokenizer *t;
    require(v != NULL);
    if (!path[0]) { /* in memory where there is such a folder: what is written to a disk waits for it, every time */
        const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(path, sizeof path, "%s/scbm-fuzz-vocabulary-%ld", folder, (long)getpid());
    }
    if (size > 4) {
        read_tokens(v, data + 4, size - 4);
        write_keys(v, data, path);
        require(scbm_file_open(&file, path, NULL) == SCBM_OK);
        if (cbm_tokenizer_create(&t, file, NULL) == SCBM_OK) use(t);
        else check_refusal();
        cbm_tokenizer_free(t);
        scbm_file_close(file);
        remove(path);
    }
    free(v);
    return 0;
}
