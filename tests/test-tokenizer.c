/*
 * tests/test-tokenizer.c - texts become the ids and byte ranges that Hugging Face's tokenizer gives
 *
 * The expected tokens of the tables were computed with Hugging Face's tokenizers 0.23.3 (WordPiece over the vocabulary
 * below, BertNormalizer, BertPreTokenizer, BertProcessing), its character offsets turned into bytes.
 */
#define _XOPEN_SOURCE 700

#include "models/tokenizers/tokenizer.h"
#include "tests/helpers.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* As in a vocab.txt: the id is the place. */
static const char *const pieces[] = {"[PAD]",
                                     "[UNK]",
                                     "[CLS]",
                                     "[SEP]",
                                     "[MASK]",
                                     "the",
                                     "food",
                                     "was",
                                     "un",
                                     "##able",
                                     "##aff",
                                     "##ing",
                                     "eat",
                                     "cafe",
                                     "caf\xc3\xa9",
                                     "caf",
                                     "##e",
                                     "##\xc3\xa9",
                                     "i",
                                     "##i",
                                     "##\xcc\x87",
                                     "a",
                                     "##a",
                                     "x",
                                     "##x",
                                     "##xx",
                                     "\xe5\xa5\xbd",
                                     "\xe5\x90\x83",
                                     ",",
                                     ".",
                                     "!",
                                     "?",
                                     "'",
                                     "-",
                                     "[",
                                     "]",
                                     "#",
                                     "$",
                                     "mask",
                                     "MASK",
                                     "The",
                                     "FOOD",
                                     "Caf\xc3\xa9",
                                     "\xc4\xb0",
                                     "\xc3\x9f",
                                     "##\xc3\x9f",
                                     "\xf0\x9f\x98\x80",
                                     "##\xf0\x9f\x98\x80",
                                     "\xed\x95\x9c",
                                     "##\xed\x95\x9c",
                                     "\xe1\x84\x92",
                                     "##\xe1\x85\xa1",
                                     "##\xe1\x86\xab",
                                     "\xcf\x83",
                                     "##\xcf\x83",
                                     "##\xcf\x82",
                                     "\xce\xbf",
                                     "##\xe3\x80\xae",
                                     "##\xe0\xa3\x94",
                                     "##\xcc\x81",
                                     "\xcc\x81",
                                     "\xef\xac\x81",
                                     "##\xcc\xa3",
                                     "\xe8\xb1\x88",
                                     "\xef\xbd\x81",
                                     "\xe2\x80\xa6",
                                     "\xc2\xbf",
                                     "PAD",
                                     "\x01",
                                     "##\x01"};
enum { N_PIECES = sizeof pieces / sizeof pieces[0], N_SPECIAL = 5 };
enum { PAD, UNK, CLS, SEP, MASK, THE, FOOD };
enum { NORMAL = 1, UNKNOWN, CONTROL, ADDED, UNUSED };

static char path[128]; /* of the model file */

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    snprintf(path, sizeof path, "%s", in_folder("model.gguf"));
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Vocabularies
 * ---------------------------------------------------------------------------------------- */

/* A piece as model files have it. */
static void mark_piece(char token[32], const char *piece, int64_t type) {
    if (type != NORMAL) strcpy(token, piece);
    else if (strncmp(piece, "##", 2) == 0) strcpy(token, piece + 2);
    else snprintf(token, 32, "\xe2\x96\x81%s", piece);
}

/* The vocabulary above, without the keys that may be missing. */
static scbm_writer *start_vocabulary(void) {
    static char text[N_PIECES][32];
    const char *tokens[N_PIECES];
    scbm_writer *w;
    for (int i = 0; i < N_PIECES; i++) {
        mark_piece(text[i], pieces[i], i < N_SPECIAL ? CONTROL : NORMAL);
        tokens[i] = text[i];
    }
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_set_string(w, "tokenizer.ggml.model", "bert");
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", tokens, N_PIECES);
    return w;
}

static void set_special_keys(scbm_writer *w) {
    int64_t types[N_PIECES];
    for (int i = 0; i < N_PIECES; i++) types[i] = i < N_SPECIAL ? CONTROL : NORMAL;
    scbm_writer_set_ints(w, "tokenizer.ggml.token_type", SCBM_VALUE_I32, types, N_PIECES);
    scbm_writer_set_int(w, "tokenizer.ggml.padding_token_id", SCBM_VALUE_U32, PAD);
    scbm_writer_set_int(w, "tokenizer.ggml.unknown_token_id", SCBM_VALUE_U32, UNK);
    scbm_writer_set_int(w, "tokenizer.ggml.cls_token_id", SCBM_VALUE_U32, CLS);
    scbm_writer_set_int(w, "tokenizer.ggml.seperator_token_id", SCBM_VALUE_U32, SEP);
    scbm_writer_set_int(w, "tokenizer.ggml.mask_token_id", SCBM_VALUE_U32, MASK);
}

/* Writes the file, frees the writer, and reads the file's tokenizer. */
static scbm_status read_back(scbm_writer *w, cbm_tokenizer **t, const scbm_hooks *hooks) {
    scbm_file *file;
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&file, path, NULL));
    scbm_status status = cbm_tokenizer_create(t, file, hooks);
    assert_true(status == SCBM_OK || *t == NULL);
    scbm_file_close(file);
    return status;
}

enum { BY_DEFAULT = -1 };

static cbm_tokenizer *tokenizer_with(int lowercase, int strip_accents, int cjk_spacing, int clean_text) {
    scbm_writer *w = start_vocabulary();
    cbm_tokenizer *t;
    set_special_keys(w);
    if (lowercase != BY_DEFAULT) scbm_writer_set_bool(w, "sparsecbm.tokenizer.lowercase", lowercase);
    if (strip_accents != BY_DEFAULT) scbm_writer_set_bool(w, "sparsecbm.tokenizer.strip_accents", strip_accents);
    if (cjk_spacing != BY_DEFAULT) scbm_writer_set_bool(w, "sparsecbm.tokenizer.cjk_spacing", cjk_spacing);
    if (clean_text != BY_DEFAULT) scbm_writer_set_bool(w, "sparsecbm.tokenizer.clean_text", clean_text);
    assert_ok(read_back(w, &t, NULL));
    return t;
}

static cbm_tokenizer *plain_tokenizer(void) {
    return tokenizer_with(BY_DEFAULT, BY_DEFAULT, BY_DEFAULT, BY_DEFAULT);
}

/* A vocabulary of tokens as a model file has them, with these types. */
static cbm_tokenizer *tokenizer_of(const char *const *tokens, const int64_t *types, int n) {
    scbm_writer *w;
    cbm_tokenizer *t;
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_set_string(w, "tokenizer.ggml.model", "bert");
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", tokens, n);
    scbm_writer_set_ints(w, "tokenizer.ggml.token_type", SCBM_VALUE_I32, types, n);
    assert_ok(read_back(w, &t, NULL));
    return t;
}

/* ------------------------------------------------------------------------------------------
 * The tables
 * ---------------------------------------------------------------------------------------- */

typedef struct expected_tokens {
    const char *text, *tokens; /* id@start-end of every token between [CLS] and [SEP] */
} expected_tokens;

/* The tokens between the first and the last as the tables have them. */
static void print_tokens(const cbm_tokens *tokens, char *text, size_t size) {
    size_t n = 0;
    text[0] = 0;
    for (size_t i = 1; i + 1 < tokens->n; i++) {
        n += (size_t)snprintf(text + n, size - n, "%s%d@%d-%d", i > 1 ? " " : "", (int)tokens->ids[i],
                              (int)tokens->start[i], (int)tokens->end[i]);
        assert_true(n < size);
    }
}

static void check_text(const cbm_tokenizer *t, const char *text, size_t length, const char *wanted) {
    cbm_tokens tokens = {0};
    char got[4096];
    assert_ok(cbm_tokenize(t, text, length, 512, &tokens));
    print_tokens(&tokens, got, sizeof got);
    if (strcmp(got, wanted) != 0) fail_msg("'%s': got %s; wanted %s", text, got, wanted);
    assert_true(tokens.n >= 2);
    assert_false(tokens.truncated);
    for (int last = 0; last < 2; last++) {
        size_t i = last ? tokens.n - 1 : 0;
        assert_int_equal(tokens.ids[i], last ? SEP : CLS);
        assert_int_equal(tokens.start[i], 0);
        assert_int_equal(tokens.end[i], 0);
    }
    cbm_tokens_clear(&tokens, NULL);
}

static void check_table(cbm_tokenizer *t, const expected_tokens *table, size_t n) {
    for (size_t i = 0; i < n; i++) check_text(t, table[i].text, strlen(table[i].text), table[i].tokens);
    cbm_tokenizer_free(t);
}

#define CHECK_TABLE(t, table) check_table(t, table, sizeof(table) / sizeof(table)[0])

static const expected_tokens uncased[] = {
    {"The food was uneatable!", "5@0-3 6@4-8 7@9-12 1@13-22 30@22-23"},
    {"unaffable", "8@0-2 10@2-5 9@5-9"},
    {"  the\tfood\r\nwas  ", "5@2-5 6@6-10 7@12-15"},
    {"Caf\xc3\xa9 CAF\xc3\x89 cafe\xcc\x81", "13@0-5 13@6-11 13@12-16"},
    {"\xe5\xa5\xbd\xe5\x90\x83\xe5\xa5\xbd", "26@0-3 27@3-6 26@6-9"},
    {"the\xe5\xa5\xbd"
     "food",
     "5@0-3 26@3-6 6@6-10"},
    {"x\xf0\x9f\x98\x80 \xf0\x9f\x98\x80\xf0\x9f\x98\x80", "23@0-1 47@1-5 46@6-10 47@10-14"},
    {"\xed\x95\x9c \xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "50@0-3 51@0-3 52@0-3 50@4-7 51@7-10 52@10-13"},
    {"\xc4\xb0 I\xcc\x87", "18@0-2 18@3-4"},
    {"\xce\x9f\xce\xa3 \xce\xbf\xcf\x83", "56@0-2 54@2-4 56@5-7 54@7-9"},
    {"a\xcc\x81\xcc\xa3\xe3\x80\xae a\xe3\x80\xae\xcc\x81 \xcc\x81"
     "a",
     "21@0-1 57@3-5 21@9-10 57@10-13 21@18-19"},
    {"a\xe2\x80\x8bx\xc2\xadx\xef\xbf\xbd"
     "a",
     "21@0-1 25@4-8 22@11-12"},
    {"a\xc2\xa0x\xe3\x80\x80x\xe2\x80\xa8"
     "a",
     "21@0-1 23@3-4 23@7-8 21@11-12"},
    {"a\vx\fx\xc2\x85"
     "a",
     "21@0-1 25@2-5 22@7-8"},
    {"don't [x] #a\xe2\x80\xa6\xc2\xbf", "1@0-3 32@3-4 1@4-5 34@6-7 23@7-8 35@8-9 36@10-11 21@11-12 65@12-15 66@15-17"},
    {"un-eat ##ing $", "8@0-2 33@2-3 12@3-6 36@7-8 36@8-9 1@9-12 37@13-14"},
    {"the [MASK] was [SEP][CLS]", "5@0-3 4@4-10 7@11-14 3@15-20 2@20-25"},
    {"a[MASK]x [mask] [MASK", "21@0-1 4@1-7 23@7-8 34@9-10 38@10-14 35@14-15 34@16-17 38@17-21"},
    {"[UNK] [PAD] zzz", "1@0-5 0@6-11 1@12-15"},
    {"xxxxxxx", "23@0-1 25@1-3 25@3-5 25@5-7"},
    {"\xef\xbd\x98 \xef\xbc\xa1 \xef\xbd\x81 \xef\xac\x81", "1@0-3 64@4-7 64@8-11 61@12-15"},
    {"\xef\xa4\x80", "63@0-3"},
    {"\xc3\x9f \xe1\xba\x9e", "44@0-2 44@3-6"},
    {"a\xcd\x84\xcc\xa3x", "21@0-1 24@5-6"},
    {"x\xe0\xa3\x94\xe3\x80\xae x\xcc\xb4\xe3\x80\xae", "23@0-1 57@1-4 58@4-7 23@8-9 57@11-14"},
    {"", ""},
    {" ", ""},
    {"\xcc\x81", ""},
    {"\xc3\xa9\xc3\xa9\xc3\xa9", "1@0-6"},
};

static void uncased_texts_are_tokenized_as_by_hugging_face(void **state) {
    (void)state;
    CHECK_TABLE(plain_tokenizer(), uncased);
    CHECK_TABLE(tokenizer_with(1, 1, 1, 1), uncased);
}

static void cased_vocabularies_keep_capitals_and_accents(void **state) {
    static const expected_tokens table[] = {
        {"The the FOOD food", "40@0-3 5@4-7 41@8-12 6@13-17"},
        {"Caf\xc3\xa9 caf\xc3\xa9 cafe\xcc\x81 CAF\xc3\x89", "42@0-5 14@6-11 13@12-16 59@16-18 1@19-24"},
        {"\xc4\xb0 \xc3\x9f x\xcc\x81", "43@0-2 44@3-5 23@6-7 59@7-9"},
        {"\xcc\x81 a\xcc\x81", "60@0-2 21@3-4 59@4-6"},
        {"MASK mask [MASK]", "39@0-4 38@5-9 4@10-16"},
        {"\xe5\xa5\xbdx\xed\x95\x9c", "26@0-3 23@3-4 49@4-7"},
    };
    (void)state;
    CHECK_TABLE(tokenizer_with(0, BY_DEFAULT, BY_DEFAULT, BY_DEFAULT), table);
}

static void accents_can_be_stripped_without_lower_casing(void **state) {
    static const expected_tokens table[] = {
        {"Caf\xc3\xa9 The FOOD \xc3\x8f", "1@0-5 40@6-9 41@10-14 1@15-17"},
        {"\xc4\xb0 I\xcc\x87 x\xcc\xa3\xe3\x80\xae", "1@0-2 1@3-4 23@7-8 57@10-13"},
    };
    (void)state;
    CHECK_TABLE(tokenizer_with(0, 1, BY_DEFAULT, BY_DEFAULT), table);
}

static void lower_casing_can_keep_accents(void **state) {
    static const expected_tokens table[] = {
        {"Caf\xc3\xa9 CAF\xc3\x89 \xc4\xb0\xc4\xb0", "14@0-5 14@6-11 18@12-14 20@12-14 19@14-16 20@14-16"},
        {"cafe\xcc\x81", "13@0-4 59@4-6"},
        {"\xce\x9f\xce\xa3", "56@0-2 54@2-4"},
    };
    (void)state;
    CHECK_TABLE(tokenizer_with(1, 0, BY_DEFAULT, BY_DEFAULT), table);
}

/* llama.cpp's keys hold before those that files of 0.1 have. */
static void options_have_the_names_of_llama_cpp(void **state) {
    static const expected_tokens table[] = {{"The the Caf\xc3\xa9", "40@0-3 5@4-7 1@8-13"}};
    scbm_writer *w = start_vocabulary();
    cbm_tokenizer *t;
    (void)state;
    set_special_keys(w);
    scbm_writer_remove_key(w, "tokenizer.ggml.cls_token_id");
    scbm_writer_set_int(w, "tokenizer.ggml.bos_token_id", SCBM_VALUE_U32, CLS);
    scbm_writer_set_bool(w, "tokenizer.ggml.normalizer.lowercase", 0);
    scbm_writer_set_bool(w, "tokenizer.ggml.normalizer.strip_accents", 1);
    scbm_writer_set_bool(w, "sparsecbm.tokenizer.lowercase", 1);
    scbm_writer_set_bool(w, "sparsecbm.tokenizer.strip_accents", 0);
    assert_ok(read_back(w, &t, NULL));
    CHECK_TABLE(t, table);
}

/* llama.cpp puts [CLS] and [SEP] around every text of a WordPiece model, and its converter writes these keys for BERT's
 * usual tokenizer.json, whatever they say. */
static void what_is_put_around_a_text_does_not_hang_on_llama_cpps_keys(void **state) {
    static const int32_t wanted[] = {CLS, THE, SEP};
    scbm_writer *w = start_vocabulary();
    cbm_tokens tokens = {0};
    cbm_tokenizer *t;
    (void)state;
    set_special_keys(w);
    scbm_writer_set_bool(w, "tokenizer.ggml.add_bos_token", 0);
    scbm_writer_set_bool(w, "tokenizer.ggml.add_eos_token", 1);
    scbm_writer_set_bool(w, "tokenizer.ggml.add_sep_token", 0);
    assert_ok(read_back(w, &t, NULL));
    assert_ok(cbm_tokenize(t, "the", 3, 16, &tokens));
    assert_int_equal(tokens.n, 3);
    assert_memory_equal(tokens.ids, wanted, sizeof wanted);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
}

static void cleaning_and_cjk_spacing_can_be_off(void **state) {
    static const expected_tokens table[] = {
        {"\xe5\xa5\xbd\xe5\x90\x83 a\xe5\xa5\xbd", "1@0-6 1@7-11"},
        {"a\x01x \x01", "21@0-1 69@1-2 24@2-3 68@4-5"},
        {"a\xc2\x85x\va", "21@0-1 23@3-4 21@5-6"},
        {"a\xe2\x80\x8bx \xef\xbf\xbd a", "1@0-5 1@6-9 21@10-11"},
    };
    (void)state;
    CHECK_TABLE(tokenizer_with(0, 0, 0, 0), table);
}

static void zero_bytes_are_removed_and_count(void **state) {
    cbm_tokenizer *t = plain_tokenizer();
    (void)state;
    check_text(t, "\0the\0 fo\0od\0", 12, "5@1-4 6@6-11");
    cbm_tokenizer_free(t);
}

/* ------------------------------------------------------------------------------------------
 * Length
 * ---------------------------------------------------------------------------------------- */

static void truncation_keeps_the_first_and_the_last_token(void **state) {
    static const char text[] = "the food unaffable the [MASK] unknowable !";
    static const int32_t whole[] = {CLS, THE, FOOD, 8, 10, 9, THE, MASK, UNK, 30, SEP};
    enum { N = sizeof whole / sizeof whole[0] };
    cbm_tokenizer *t = plain_tokenizer();
    cbm_tokens tokens = {0};
    (void)state;
    for (size_t most = 2; most < N + 3; most++) {
        size_t n = most < N ? most : N;
        assert_ok(cbm_tokenize(t, text, strlen(text), most, &tokens));
        assert_int_equal(tokens.n, n);
        assert_int_equal(tokens.truncated, most < N);
        assert_memory_equal(tokens.ids, whole, (n - 1) * sizeof *whole);
        assert_int_equal(tokens.ids[n - 1], SEP);
        assert_int_equal(tokens.end[n - 1], 0);
    }
    assert_error(cbm_tokenize(t, text, strlen(text), 1, &tokens), SCBM_ERROR_ARGUMENT, "at most 1 tokens are too few");
    assert_error(cbm_tokenize(t, text, strlen(text), 0, &tokens), SCBM_ERROR_ARGUMENT, "[CLS]");
    assert_int_equal(tokens.n, 0);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
}

/* A text of n times `unit`. */
static char *repeat(const char *unit, size_t n) {
    size_t length = strlen(unit);
    char *text = malloc(n * length + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) memcpy(text + i * length, unit, length);
    text[n * length] = 0;
    return text;
}

/* One character, not byte, more than the longest, and the word is [UNK]. */
static void check_longest_word(const cbm_tokenizer *t, const char *unit, int longest, int pieces_per_word) {
    cbm_tokens tokens = {0};
    for (int more = 0; more < 2; more++) {
        char *text = repeat(unit, (size_t)(longest + more));
        assert_ok(cbm_tokenize(t, text, strlen(text), 512, &tokens));
        assert_int_equal(tokens.n, 2 + (more ? 1 : pieces_per_word));
        assert_int_equal(tokens.ids[1] == UNK, more);
        assert_int_equal(tokens.start[1], 0);
        assert_int_equal(tokens.end[tokens.n - 2], strlen(text));
        free(text);
    }
    cbm_tokens_clear(&tokens, NULL);
}

static void words_longer_than_the_limit_are_unknown(void **state) {
    cbm_tokenizer *t = plain_tokenizer();
    (void)state;
    check_longest_word(t, "x", 100, 1 + 49 + 1);
    check_longest_word(t, "\xf0\x9f\x98\x80", 100, 100);
    cbm_tokenizer_free(t);
    scbm_writer *w = start_vocabulary();
    scbm_writer_set_int(w, "sparsecbm.tokenizer.max_word_characters", SCBM_VALUE_U32, 7);
    assert_ok(read_back(w, &t, NULL));
    check_longest_word(t, "x", 7, 4);
    cbm_tokenizer_free(t);
}

/* Anything quadratic would take hours here. */
static void long_texts_take_linear_time(void **state) {
    static const char *const units[] = {
        "x", "x ", "[", "[MASK", "!", " ", "\x01", "\xcc\x81", "\xcc\x81\xcc\xa3\xe3\x80\xae", "\xe5\xa5\xbd"};
    cbm_tokenizer *t = plain_tokenizer();
    cbm_tokens tokens = {0};
    (void)state;
    limit_processor_seconds(100);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t length = 1000000 / strlen(units[i]) * strlen(units[i]);
        char *text = repeat(units[i], length / strlen(units[i]));
        assert_ok(cbm_tokenize(t, text, length, SIZE_MAX, &tokens));
        assert_false(tokens.truncated);
        assert_true(tokens.n >= 2 && (size_t)tokens.end[tokens.n - 2] <= length);
        free(text);
    }
    limit_processor_seconds(0);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
}

/* ------------------------------------------------------------------------------------------
 * Bad texts
 * ---------------------------------------------------------------------------------------- */

static void bad_utf8_is_an_error_with_its_place(void **state) {
    static const char *const bad[] = {
        "\x80",         "\xbf",         "\xc0\x80",         "\xc1\xbf",         "\xc3",
        "\xc3(",        "\xe2\x82",     "\xe2(\xa1",        "\xe0\x80\xaf",     "\xed\xa0\x80",
        "\xed\xbf\xbf", "\xf0\x9f\x98", "\xf0\x80\x80\xaf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xfe",         "\xff"};
    cbm_tokenizer *t = plain_tokenizer();
    cbm_tokens tokens = {0};
    char text[64];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (int before = 0; before < 2; before++) {
            int n = snprintf(text, sizeof text, "%s%s",
                             before ? "the f\xc3\xb6\xc3\xb6"
                                      "d "
                                    : "",
                             bad[i]);
            const char *place = before ? "at byte offset 11" : "at byte offset 0";
            assert_error(cbm_tokenize(t, text, (size_t)n, 512, &tokens), SCBM_ERROR_FORMAT, place);
            assert_error(cbm_tokenize(t, text, (size_t)n, 2, &tokens), SCBM_ERROR_FORMAT, place);
            assert_int_equal(tokens.n, 0);
        }
    }
    assert_ok(cbm_tokenize(t, "the", 3, 8, &tokens));
    assert_int_equal(tokens.n, 3);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
}

static void texts_of_more_bytes_than_offsets_count_are_refused(void **state) {
    cbm_tokenizer *t = plain_tokenizer();
    cbm_tokens tokens = {0};
    (void)state;
    if (SIZE_MAX > INT32_MAX)
        assert_error(cbm_tokenize(t, "", (size_t)INT32_MAX + 1, 8, &tokens), SCBM_ERROR_ARGUMENT, "too long");
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
}

/* ------------------------------------------------------------------------------------------
 * Vocabularies as they come
 * ---------------------------------------------------------------------------------------- */

static void pieces_are_shown_as_hugging_face_writes_them(void **state) {
    cbm_tokenizer *t = plain_tokenizer();
    (void)state;
    assert_int_equal(cbm_tokenizer_size(t), N_PIECES);
    for (int32_t i = 0; i < N_PIECES; i++) {
        assert_string_equal(cbm_token_piece(t, i), pieces[i]);
        assert_int_equal(cbm_token_is_special(t, i), i < N_SPECIAL);
        assert_int_equal(cbm_token_continues_word(t, i), strncmp(pieces[i], "##", 2) == 0);
    }
    for (int32_t i = -1; i <= N_PIECES; i += N_PIECES + 1) {
        assert_null(cbm_token_piece(t, i));
        assert_false(cbm_token_is_special(t, i));
        assert_false(cbm_token_continues_word(t, i));
    }
    assert_int_equal(cbm_tokenizer_special(t, CBM_TOKEN_MASK), MASK);
    assert_int_equal(cbm_tokenizer_special(t, CBM_TOKEN_PADDING), PAD);
    cbm_tokenizer_free(t);
}

static void special_tokens_are_found_without_types_and_ids(void **state) {
    scbm_writer *w = start_vocabulary();
    cbm_tokenizer *t;
    (void)state;
    assert_ok(read_back(w, &t, NULL));
    CHECK_TABLE(t, uncased);
}

static void a_vocabulary_may_lack_mask_and_padding(void **state) {
    static const char *const tokens[] = {"[CLS]", "[SEP]", "[UNK]", "\xe2\x96\x81the"};
    static const int64_t types[] = {CONTROL, CONTROL, CONTROL, NORMAL};
    cbm_tokenizer *t = tokenizer_of(tokens, types, 4);
    cbm_tokens found = {0};
    (void)state;
    assert_int_equal(cbm_tokenizer_special(t, CBM_TOKEN_MASK), -1);
    assert_int_equal(cbm_tokenizer_special(t, CBM_TOKEN_PADDING), -1);
    assert_ok(cbm_tokenize(t, "the the", 7, 8, &found));
    assert_int_equal(found.n, 4);
    assert_int_equal(found.ids[2], 3);
    cbm_tokens_clear(&found, NULL);
    cbm_tokenizer_free(t);
}

/* In vocab.txt a piece can come twice, and Hugging Face's map keeps the last; a token of type 5 fills a gap and is no
 * piece; "[unused0]" is one, in old files without a mark; an added token is found in the raw text, longest first. */
static void odd_tokens_mean_what_they_mean_elsewhere(void **state) {
    static const struct {
        const char *token, *shown;
        int64_t type;
    } odd[] = {
        {"[PAD]", "[PAD]", CONTROL},
        {"[UNK]", "[UNK]", UNKNOWN},
        {"[CLS]", "[CLS]", CONTROL},
        {"[SEP]", "[SEP]", CONTROL},
        {"\xe2\x96\x81the", "the", NORMAL},
        {"\xe2\x96\x81the", "the", NORMAL},
        {"s", "##s", NORMAL},
        {"s", "##s", NORMAL},
        {"\xe2\x96\x81gap", "\xe2\x96\x81gap", UNUSED},
        {"[unused0]", "[unused0]", NORMAL},
        {"<Tag>", "<Tag>", ADDED},
        {"<Tag>s", "<Tag>s", ADDED},
        {"", "##", NORMAL},
        {"\xe2\x96\x81", "", NORMAL},
        {"##\xe2\x96\x81", "##\xe2\x96\x81", NORMAL},
        {"\xe2\x96\x81\xe2\x96\x81", "\xe2\x96\x81", NORMAL},
        {"\xe2\x96\x81[X]", "[X]", CONTROL},
    };
    enum { N = sizeof odd / sizeof odd[0] };
    const char *tokens[N];
    int64_t types[N];
    for (int i = 0; i < N; i++) {
        tokens[i] = odd[i].token;
        types[i] = odd[i].type;
    }
    cbm_tokenizer *t = tokenizer_of(tokens, types, N);
    (void)state;
    for (int32_t i = 0; i < N; i++) assert_string_equal(cbm_token_piece(t, i), odd[i].shown);
    check_text(t, "thes gap", 8, "5@0-3 7@3-4 1@5-8");
    check_text(t, "the<Tag>s<Tag>the <tag>", 23, "5@0-3 11@3-9 10@9-14 5@14-17 1@18-19 1@19-22 1@22-23");
    check_text(t, "\xe2\x96\x81\xe2\x96\x81 the\xe2\x96\x81 [X]", 17, "15@0-3 14@3-6 5@7-10 14@10-13 16@14-17");
    assert_true(cbm_token_is_special(t, 1));
    assert_true(cbm_token_is_special(t, 16));
    assert_false(cbm_token_is_special(t, 10));
    cbm_tokenizer_free(t);
}

/* ------------------------------------------------------------------------------------------
 * Added tokens
 * ---------------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    int flags;
} added[] = {
    {"<l>", CBM_PIECE_TAKES_LEFT},
    {"<r>", CBM_PIECE_TAKES_RIGHT},
    {"<lr>", CBM_PIECE_TAKES_LEFT | CBM_PIECE_TAKES_RIGHT},
    {"<w>", CBM_PIECE_SINGLE_WORD},
    {"eats", CBM_PIECE_SINGLE_WORD},
    {"Tag", CBM_PIECE_NORMALIZED},
    {"\xc3\x89t\xc3\xa9", CBM_PIECE_NORMALIZED | CBM_PIECE_TAKES_LEFT | CBM_PIECE_TAKES_RIGHT},
    {"foods", CBM_PIECE_NORMALIZED | CBM_PIECE_SINGLE_WORD},
    {"\xe5\xa5\xbdx", CBM_PIECE_NORMALIZED},
    {"<l>x", 0},
};
enum { N_ADDED = sizeof added / sizeof added[0] };

/* The vocabulary above and these tokens, written by the library. */
static cbm_tokenizer_keys keys_with_added(const char **piece, uint16_t *flags) {
    cbm_tokenizer_keys keys = {.kind = "bert", .n = N_PIECES + N_ADDED, .piece = piece, .flags = flags, .n_types = 2};
    for (int i = 0; i < N_PIECES; i++) {
        piece[i] = pieces[i];
        flags[i] = i < N_SPECIAL ? CBM_PIECE_SPECIAL : 0;
    }
    for (int i = 0; i < N_ADDED; i++) {
        piece[N_PIECES + i] = added[i].text;
        flags[N_PIECES + i] = (uint16_t)(CBM_PIECE_ADDED | CBM_PIECE_BESIDE_MODEL | added[i].flags);
    }
    keys.special[CBM_TOKEN_UNKNOWN] = UNK;
    keys.special[CBM_TOKEN_FIRST] = CLS;
    keys.special[CBM_TOKEN_LAST] = SEP;
    keys.special[CBM_TOKEN_PADDING] = PAD;
    keys.special[CBM_TOKEN_MASK] = -1;
    cbm_wordpiece_defaults(&keys.wordpiece);
    return keys;
}

static cbm_tokenizer *tokenizer_of_keys(const cbm_tokenizer_keys *keys) {
    scbm_writer *w;
    cbm_tokenizer *t;
    assert_ok(scbm_writer_create(&w, NULL));
    assert_ok(cbm_tokenizer_write_keys(w, keys, NULL));
    assert_ok(read_back(w, &t, NULL));
    return t;
}

static void added_tokens_are_found_as_by_hugging_face(void **state) {
    static const expected_tokens
        table[] =
            {
                {"the <l> food <r> was  <lr>  x", "5@0-3 70@3-7 6@8-12 71@13-17 7@17-20 72@20-28 23@28-29"},
                {"<l><l> <l>", "70@0-3 70@3-6 70@6-10"},
                {"  <r>  <r>x", "71@2-7 71@7-10 23@10-11"},
                {"<lr> <lr>\xe3\x80\x80<lr>\x09", "72@0-5 72@5-12 72@12-17"},
                {"x<w>x <w> .<w>, <w>1",
                 "23@0-1 1@1-2 1@2-3 1@3-4 23@4-5 73@6-9 29@10-11 73@11-14 28@14-15 1@16-17 1@17-18 1@18-19 1@19-20"},
                {"_<w> \xc3\xa9<w>x <w>\xc3\xa9",
                 "1@0-1 1@1-2 1@2-3 1@3-4 1@5-7 1@7-8 1@8-9 1@9-10 23@10-11 1@12-13 1@13-14 1@14-15 1@15-17"},
                {"eats eatsx xeats eats! eats", "74@0-4 1@5-10 1@11-16 74@17-21 30@21-22 74@23-27"},
                {"TAG tag Tagx xTag tAg", "75@0-3 75@4-7 75@8-11 23@11-12 23@13-14 75@14-17 75@18-21"},
                {"\xc3\xa9t\xc3\xa9  \xc3\x89T\xc3\x89 x ETE x", "76@0-7 76@7-13 23@13-14 76@14-19 23@19-20"},
                {"x ete\xc2\xa0\xc3\xa9t\xc3\xa9", "23@0-1 76@1-7 76@7-12"},
                {"foods FOODS foodsx thefoods foods.", "77@0-5 77@6-11 1@12-18 1@19-27 77@28-33 29@33-34"},
                {"\xe5\xa5\xbdx \xe5\xa5\xbd x \xe5\xa5\xbdxx a\xe5\xa5\xbdX",
                 "78@0-4 26@5-8 23@9-10 78@11-15 23@15-16 21@17-18 78@18-22"},
                {"<l>x <l> x <l>y", "79@0-4 70@4-8 23@9-10 70@10-14 1@14-15"},
                {"the<l>\xe2\x80\x83<r>\xe2\x80\x83"
                 "food",
                 "5@0-3 70@3-6 71@9-15 6@15-19"},
                {"tag<l>tag", "75@0-3 70@3-6 75@6-9"},
                {"  ete", "76@0-5"},
                {"ete  ", "76@0-5"},
                {"<w>foods<w>", "1@0-1 1@1-2 1@2-3 77@3-8 1@8-9 1@9-10 1@10-11"},
                {"(<w>)\xe2\x92\xb6<w>", "1@0-1 73@1-4 1@4-5 1@5-8 1@8-9 1@9-10 1@10-11"},
                {"\xe2\x80\x8d<w>", "1@3-4 1@4-5 1@5-6"},
                {"foods<l>foods", "77@0-5 70@5-8 77@8-13"},
                {"\xc4\xb0tag t\xc3\xa0g", "18@0-2 75@2-5 75@6-10"},
                {"tag\xcc\x81 x", "75@0-3 23@6-7"},
                {"\xe9\xa3\x9ftag", "1@0-3 75@3-6"},
            },
        cased[] = {
            {"TAG tag Tagx xTag tAg", "1@0-3 1@4-7 75@8-11 23@11-12 23@13-14 75@14-17 1@18-21"},
            {"\xc3\xa9t\xc3\xa9  \xc3\x89T\xc3\x89 x ETE x", "1@0-5 1@7-12 23@13-14 1@15-18 23@19-20"},
            {"x ete\xc2\xa0\xc3\xa9t\xc3\xa9", "23@0-1 1@2-5 1@7-12"},
            {"foods FOODS foodsx thefoods foods.", "77@0-5 1@6-11 1@12-18 1@19-27 77@28-33 29@33-34"},
            {"\xe5\xa5\xbdx \xe5\xa5\xbd x \xe5\xa5\xbdxx a\xe5\xa5\xbdX",
             "78@0-4 26@5-8 23@9-10 78@11-15 23@15-16 21@17-18 26@18-21 1@21-22"},
            {"tag<l>tag", "1@0-3 70@3-6 1@6-9"},
            {"  ete", "1@2-5"},
            {"ete  ", "1@0-3"},
            {"\xc4\xb0tag t\xc3\xa0g", "1@0-5 1@6-10"},
            {"tag\xcc\x81 x", "1@0-5 23@6-7"},
            {"\xe9\xa3\x9ftag", "1@0-3 1@3-6"},
        };
    const char *piece[N_PIECES + N_ADDED];
    uint16_t flags[N_PIECES + N_ADDED];
    cbm_tokenizer_keys keys = keys_with_added(piece, flags);
    (void)state;
    CHECK_TABLE(tokenizer_of_keys(&keys), table);
    keys.wordpiece.lowercase = 0;
    CHECK_TABLE(tokenizer_of_keys(&keys), cased);
}

static void what_is_written_is_read(void **state) {
    const char *piece[N_PIECES + N_ADDED];
    uint16_t flags[N_PIECES + N_ADDED];
    cbm_tokenizer_keys keys = keys_with_added(piece, flags);
    cbm_tokenizer *t;
    (void)state;
    piece[THE] = NULL;
    t = tokenizer_of_keys(&keys);
    assert_int_equal(cbm_tokenizer_size(t), keys.n);
    for (int32_t i = 0; i < keys.n; i++) {
        int continues = piece[i] && strncmp(piece[i], "##", 2) == 0;
        assert_string_equal(cbm_token_piece(t, i), i == THE ? "[PAD5]" : piece[i]);
        assert_string_equal(cbm_token_text(t, i), i == THE ? "[PAD5]" : piece[i] + (continues ? 2 : 0));
        assert_int_equal(cbm_token_is_special(t, i), i < N_SPECIAL);
        assert_int_equal(cbm_token_continues_word(t, i), continues);
    }
    assert_null(cbm_token_text(t, -1));
    assert_null(cbm_token_text(t, keys.n));
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++)
        if (keys.special[i] >= 0) assert_int_equal(cbm_tokenizer_special(t, (cbm_special_token)i), keys.special[i]);
    assert_int_equal(cbm_tokenizer_special(t, CBM_TOKEN_MASK), MASK); /* found by its text */
    check_text(t, "[PAD5] the", 10, "34@0-1 1@1-5 35@5-6 1@7-10");
    cbm_tokenizer_free(t);
    keys.kind = "letters";
    scbm_writer *w;
    assert_ok(scbm_writer_create(&w, NULL));
    assert_error(cbm_tokenizer_write_keys(w, &keys, NULL), SCBM_ERROR_ARGUMENT, "'letters'");
    scbm_writer_free(w);
}

/* llama.cpp opens no file that says that there are no token types, as DistilBERT has none. */
static void files_say_one_token_type_at_least(void **state) {
    const char *piece[N_PIECES + N_ADDED];
    uint16_t flags[N_PIECES + N_ADDED];
    cbm_tokenizer_keys keys = keys_with_added(piece, flags);
    scbm_file *file;
    (void)state;
    keys.n_types = 0;
    cbm_tokenizer_free(tokenizer_of_keys(&keys));
    assert_ok(scbm_file_open(&file, path, NULL));
    assert_int_equal(scbm_file_int_or(file, "tokenizer.ggml.token_type_count", 0), 1);
    scbm_file_close(file);
}

/* llama.cpp ends the process where a file has two equal tokens. */
static void equal_tokens_are_told_apart_in_files(void **state) {
    static const char *const piece[] = {"[PAD]",    "[UNK]", "[CLS]", "[SEP]", "x",  "##new", "x",
                                        "new",      "the",   "x",     NULL,    "##", "##",    "[PAD10]",
                                        "[EQUAL4]", "##e",   "<t>",   "<t>",   "<t>"};
    static const uint16_t flags[COUNT_OF(piece)] = {[0] = CBM_PIECE_SPECIAL,
                                                    [1] = CBM_PIECE_SPECIAL,
                                                    [2] = CBM_PIECE_SPECIAL,
                                                    [3] = CBM_PIECE_SPECIAL,
                                                    [7] = CBM_PIECE_ADDED | CBM_PIECE_BESIDE_MODEL,
                                                    [13] = CBM_PIECE_SPECIAL,
                                                    [16] = CBM_PIECE_SPECIAL,
                                                    [17] = CBM_PIECE_SPECIAL,
                                                    [18] = CBM_PIECE_SPECIAL};
    static const expected_tokens table[] = {{"x the new xnew [PAD10]", "9@0-1 8@2-5 7@6-9 9@10-11 7@11-14 13@15-22"},
                                            {"[EQUAL4] thee", "1@0-1 1@1-7 1@7-8 8@9-12 15@12-13"},
                                            {"<t>", "18@0-3"}};
    cbm_tokenizer_keys keys = {.kind = "bert",
                               .n = COUNT_OF(piece),
                               .piece = piece,
                               .flags = flags,
                               .special = {1, 2, 3, 0, -1},
                               .n_types = 1};
    scbm_file *file;
    (void)state;
    cbm_wordpiece_defaults(&keys.wordpiece);
    CHECK_TABLE(tokenizer_of_keys(&keys), table);
    assert_ok(scbm_file_open(&file, path, NULL));
    int64_t key = scbm_file_find_key(file, "tokenizer.ggml.tokens");
    for (int i = 0; i < COUNT_OF(piece); i++) {
        for (int j = 0; j < i; j++) {
            const char *a, *b;
            assert_ok(scbm_file_string_at(file, key, i, &a));
            assert_ok(scbm_file_string_at(file, key, j, &b));
            if (strcmp(a, b) == 0) fail_msg("tokens %d and %d are '%s'", i, j, a);
        }
    }
    scbm_file_close(file);
}

/* "the x" with what the file says of the first and the last token. */
static void check_ends(int omits_first, int omits_last, const int32_t *ids, size_t n) {
    const char *piece[N_PIECES + N_ADDED];
    uint16_t flags[N_PIECES + N_ADDED];
    cbm_tokenizer_keys keys = keys_with_added(piece, flags);
    cbm_tokens tokens = {0};
    size_t ends = (size_t)!omits_first + (size_t)!omits_last;
    keys.omits_first = omits_first;
    keys.omits_last = omits_last;
    cbm_tokenizer *t = tokenizer_of_keys(&keys);
    assert_ok(cbm_tokenize(t, "the x", 5, 16, &tokens));
    assert_int_equal(tokens.n, n);
    assert_memory_equal(tokens.ids, ids, n * sizeof *ids);
    assert_ok(cbm_tokenize(t, "the x", 5, ends + 1, &tokens));
    assert_int_equal(tokens.n, ends + 1);
    assert_true(tokens.truncated);
    assert_int_equal(tokens.ids[ends], omits_last ? THE : SEP);
    assert_ok(cbm_tokenize(t, " ", 1, 16, &tokens));
    assert_int_equal(tokens.n, ends);
    assert_error(cbm_tokenize(t, "the x", 5, ends ? ends - 1 : 0, &tokens), SCBM_ERROR_ARGUMENT, "are too few");
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
}

static void nothing_need_be_put_around_a_text(void **state) {
    static const int32_t ids[] = {CLS, THE, 23, SEP};
    (void)state;
    check_ends(0, 0, ids, 4);
    check_ends(1, 0, ids + 1, 3);
    check_ends(0, 1, ids, 3);
    check_ends(1, 1, ids + 1, 2);
}

/* ------------------------------------------------------------------------------------------
 * Bad vocabularies
 * ---------------------------------------------------------------------------------------- */

static void refuse(scbm_writer *w, scbm_status wanted, const char *text) {
    cbm_tokenizer *t;
    assert_error(read_back(w, &t, NULL), wanted, text);
    assert_non_null(strstr(scbm_last_error(), path));
}

static void files_without_a_wordpiece_vocabulary_are_refused(void **state) {
    scbm_writer *w;
    (void)state;
    assert_ok(scbm_writer_create(&w, NULL));
    refuse(w, SCBM_ERROR_FORMAT, "there is no tokenizer");
    w = start_vocabulary();
    scbm_writer_set_string(w, "tokenizer.ggml.model", "rwkv");
    refuse(w, SCBM_ERROR_UNSUPPORTED, "tokenizer.ggml.model is 'rwkv'; this version knows 'bert' (WordPiece)");
    w = start_vocabulary();
    scbm_writer_remove_key(w, "tokenizer.ggml.tokens");
    refuse(w, SCBM_ERROR_FORMAT, "tokenizer.ggml.tokens has 0 tokens");
    w = start_vocabulary();
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", NULL, 0);
    refuse(w, SCBM_ERROR_FORMAT, "tokenizer.ggml.tokens has 0 tokens");
}

static void damaged_vocabularies_are_refused(void **state) {
    static const int64_t numbers[N_PIECES] = {CONTROL, CONTROL, CONTROL, CONTROL, -1};
    static const char *const kinds[] = {"bert", "gpt2", "t5"};
    static const char *const bad_bytes[] = {"[UNK]", "[CLS]", "[SEP]", "\xe2\x96\x81\xff"};
    static const char *const no_cls[] = {"[UNK]", "[SEP]", "\xe2\x96\x81the"};
    scbm_writer *w = start_vocabulary();
    (void)state;
    scbm_writer_set_ints(w, "tokenizer.ggml.tokens", SCBM_VALUE_I32, numbers, N_PIECES);
    refuse(w, SCBM_ERROR_FORMAT, "tokenizer.ggml.tokens");
    w = start_vocabulary();
    scbm_writer_set_ints(w, "tokenizer.ggml.token_type", SCBM_VALUE_I32, numbers, N_PIECES - 1);
    refuse(w, SCBM_ERROR_FORMAT, "tokenizer.ggml.token_type has");
    w = start_vocabulary();
    scbm_writer_set_ints(w, "tokenizer.ggml.token_type", SCBM_VALUE_I32, numbers, N_PIECES);
    refuse(w, SCBM_ERROR_FORMAT, "token 4 has type -1");
    w = start_vocabulary();
    scbm_writer_set_int(w, "tokenizer.ggml.cls_token_id", SCBM_VALUE_U32, N_PIECES);
    refuse(w, SCBM_ERROR_FORMAT, "tokenizer.ggml.cls_token_id is");
    w = start_vocabulary();
    scbm_writer_set_string(w, "tokenizer.ggml.mask_token_id", "[MASK]");
    refuse(w, SCBM_ERROR_FORMAT, "tokenizer.ggml.mask_token_id");
    w = start_vocabulary();
    scbm_writer_set_ints(w, "sparsecbm.tokenizer.lstrip", SCBM_VALUE_I32, (int64_t[]){THE, N_PIECES}, 2);
    refuse(w, SCBM_ERROR_FORMAT, "sparsecbm.tokenizer.lstrip is 70, but there are 70 tokens");
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        w = start_vocabulary();
        scbm_writer_set_string(w, "tokenizer.ggml.model", kinds[i]);
        scbm_writer_set_int(w, "tokenizer.ggml.unknown_token_id", SCBM_VALUE_U32, 0);
        scbm_writer_set_int(w, "tokenizer.ggml.cls_token_id", SCBM_VALUE_U32, 1);
        scbm_writer_set_int(w, "tokenizer.ggml.seperator_token_id", SCBM_VALUE_U32, 2);
        scbm_writer_set_strings(w, "tokenizer.ggml.tokens", bad_bytes, 4);
        refuse(w, SCBM_ERROR_FORMAT, "token 3 of the vocabulary is not UTF-8");
    }
    w = start_vocabulary();
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", no_cls, 3);
    refuse(w, SCBM_ERROR_FORMAT, "the vocabulary has no [CLS]");
}

static void word_limits_that_make_no_sense_are_refused(void **state) {
    static const int64_t limits[] = {0, 1001, UINT32_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        scbm_writer *w = start_vocabulary();
        scbm_writer_set_int(w, "sparsecbm.tokenizer.max_word_characters", SCBM_VALUE_U32, limits[i]);
        refuse(w, SCBM_ERROR_UNSUPPORTED, "max_word_characters is");
    }
}

/* ------------------------------------------------------------------------------------------
 * Memory and threads
 * ---------------------------------------------------------------------------------------- */

/* Every allocation fails once. */
static void running_out_of_memory_is_an_error_and_leaks_nothing(void **state) {
    static const char text[] = "the food a\xcc\x81\xcc\xa3\xe3\x80\xae a a a a a a a a a a a a";
    scbm_file *file;
    int failures = 0, done = 0;
    (void)state;
    cbm_tokenizer_free(plain_tokenizer());
    assert_ok(scbm_file_open(&file, path, NULL));
    for (long at = 1; !done; at++) {
        counting_allocator memory = {.fails_at = at};
        const scbm_hooks hooks = allocator_hooks(&memory);
        cbm_tokenizer *t;
        cbm_tokens tokens = {0};
        scbm_status status = cbm_tokenizer_create(&t, file, &hooks);
        if (!status) status = cbm_tokenize(t, text, strlen(text), 512, &tokens);
        done = status == SCBM_OK;
        if (!done) assert_int_equal(status, SCBM_ERROR_MEMORY);
        if (!done) assert_int_equal(tokens.n, 0);
        failures += !done;
        cbm_tokens_clear(&tokens, &hooks);
        cbm_tokenizer_free(t);
        assert_int_equal(memory.held, 0);
    }
    assert_true(failures > 12);
    scbm_file_close(file);
}

static void *tokenize_table(void *argument) {
    const cbm_tokenizer *t = argument;
    cbm_tokens tokens = {0};
    char got[4096];
    size_t wrong = 0;
    for (size_t i = 0; i < 100 * (sizeof uncased / sizeof uncased[0]); i++) {
        const expected_tokens *expected = &uncased[i % (sizeof uncased / sizeof uncased[0])];
        if (cbm_tokenize(t, expected->text, strlen(expected->text), 512, &tokens)) return argument;
        print_tokens(&tokens, got, sizeof got);
        wrong += strcmp(got, expected->tokens) != 0;
    }
    cbm_tokens_clear(&tokens, NULL);
    return wrong ? argument : NULL;
}

static void threads_share_a_tokenizer(void **state) {
    cbm_tokenizer *t = plain_tokenizer();
    pthread_t thread[4];
    (void)state;
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, tokenize_table, t), 0);
    for (int i = 0; i < 4; i++) {
        void *failed = t;
        assert_int_equal(pthread_join(thread[i], &failed), 0);
        assert_null(failed);
    }
    cbm_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uncased_texts_are_tokenized_as_by_hugging_face),
        cmocka_unit_test(cased_vocabularies_keep_capitals_and_accents),
        cmocka_unit_test(accents_can_be_stripped_without_lower_casing),
        cmocka_unit_test(lower_casing_can_keep_accents),
        cmocka_unit_test(options_have_the_names_of_llama_cpp),
        cmocka_unit_test(what_is_put_around_a_text_does_not_hang_on_llama_cpps_keys),
        cmocka_unit_test(cleaning_and_cjk_spacing_can_be_off),
        cmocka_unit_test(zero_bytes_are_removed_and_count),
        cmocka_unit_test(truncation_keeps_the_first_and_the_last_token),
        cmocka_unit_test(words_longer_than_the_limit_are_unknown),
        cmocka_unit_test(long_texts_take_linear_time),
        cmocka_unit_test(bad_utf8_is_an_error_with_its_place),
        cmocka_unit_test(texts_of_more_bytes_than_offsets_count_are_refused),
        cmocka_unit_test(pieces_are_shown_as_hugging_face_writes_them),
        cmocka_unit_test(special_tokens_are_found_without_types_and_ids),
        cmocka_unit_test(a_vocabulary_may_lack_mask_and_padding),
        cmocka_unit_test(odd_tokens_mean_what_they_mean_elsewhere),
        cmocka_unit_test(added_tokens_are_found_as_by_hugging_face),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(files_say_one_token_type_at_least),
        cmocka_unit_test(equal_tokens_are_told_apart_in_files),
        cmocka_unit_test(nothing_need_be_put_around_a_text),
        cmocka_unit_test(files_without_a_wordpiece_vocabulary_are_refused),
        cmocka_unit_test(damaged_vocabularies_are_refused),
        cmocka_unit_test(word_limits_that_make_no_sense_are_refused),
        cmocka_unit_test(running_out_of_memory_is_an_error_and_leaks_nothing),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, set_up, remove_folder);
}
