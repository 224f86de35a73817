/*
 * tests/test-bpe.c - byte-level BPE: words, merges, byte ranges, what people see; damaged vocabularies; memory
 *
 * Ids and ranges of many texts are compared with Hugging Face's in tests/parity; here stands what no comparison shows.
 */
#include "models/tokenizers/merges.h"
#include "models/tokenizers/unicode.h"
#include "tests/helpers.h"

#include <stdio.h>
#include <string.h>

/* Bytes of "the cat's ñ", some words that they make, and one token beside them. */
static const char *const pieces[] = {"<s>", "t",   "h",       "e",  "\u0120",    "c",      "a",      "'",  "s",
                                     "th",  "the", "\u0120c", "at", "\u0120cat", "\u00c3", "\u00b1", "'s", "<mask>"};
static const char *const merges[] = {"t h", "th e", "\u0120 c", "a t", "\u0120c at", "' s"};
enum { N = sizeof pieces / sizeof pieces[0], MERGES = sizeof merges / sizeof merges[0] };

static cbm_tokenizer_keys keys_of(uint16_t flags[N], int trims) {
    cbm_tokenizer_keys keys = {.kind = "gpt2", .n = N, .piece = pieces, .flags = flags, .trims = trims};
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) keys.special[i] = -1;
    keys.special[CBM_TOKEN_FIRST] = 0;
    keys.omits_last = 1;
    keys.bpe.merges = merges;
    keys.bpe.n_merges = MERGES;
    memset(flags, 0, N * sizeof *flags);
    flags[0] = CBM_PIECE_SPECIAL;
    flags[N - 1] = CBM_PIECE_SPECIAL | CBM_PIECE_TAKES_LEFT | CBM_PIECE_BESIDE_MODEL;
    return keys;
}

static scbm_status make(const cbm_tokenizer_keys *keys, cbm_tokenizer **t, const scbm_hooks *hooks) {
    scbm_writer *writer;
    scbm_file *file;
    assert_ok(scbm_writer_create(&writer, NULL));
    assert_ok(cbm_tokenizer_write_keys(writer, keys, NULL));
    assert_ok(scbm_writer_write(writer, in_folder("bpe.gguf")));
    scbm_writer_free(writer);
    assert_ok(scbm_file_open(&file, in_folder("bpe.gguf"), NULL));
    scbm_status status = cbm_tokenizer_create(t, file, hooks);
    scbm_file_close(file);
    return status;
}

typedef struct wanted {
    int id, start, end;
} wanted;

static void check(const cbm_tokenizer *t, const char *text, const wanted *list, size_t n) {
    cbm_tokens tokens = {0};
    assert_ok(cbm_tokenize(t, text, strlen(text), 100, &tokens));
    assert_int_equal(tokens.n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(tokens.ids[i], list[i].id);
        assert_int_equal(tokens.start[i], list[i].start);
        assert_int_equal(tokens.end[i], list[i].end);
    }
    cbm_tokens_clear(&tokens, NULL);
}

#define CHECK(t, text, ...)                                                                                            \
    check(t, text, (const wanted[]){__VA_ARGS__}, sizeof((const wanted[]){__VA_ARGS__}) / sizeof(wanted))

static void words_merges_and_ranges(void **state) {
    (void)state;
    uint16_t flags[N];
    cbm_tokenizer *t;
    cbm_tokenizer_keys keys = keys_of(flags, 0);
    assert_ok(make(&keys, &t, NULL));
    CHECK(t, "", {0, 0, 0});
    CHECK(t, "the cat's \u00f1", {0, 0, 0}, {10, 0, 3}, {13, 3, 7}, {16, 7, 9}, {4, 9, 10}, {14, 10, 12}, {15, 10, 12});
    /* A byte that is in no piece is left out, and others of its word take its place: as in Hugging Face. */
    CHECK(t, "x the", {0, 0, 0}, {4, 1, 2}, {10, 2, 5});
    CHECK(t, "xthe", {0, 0, 0}, {10, 0, 3});
    CHECK(t, "the <mask>", {0, 0, 0}, {10, 0, 3}, {17, 3, 10});
    cbm_tokenizer_free(t);
}

static void ranges_without_spaces(void **state) {
    (void)state;
    uint16_t flags[N];
    cbm_tokenizer *t;
    cbm_tokenizer_keys keys = keys_of(flags, 1);
    assert_ok(make(&keys, &t, NULL));
    CHECK(t, "the cat ", {0, 0, 0}, {10, 0, 3}, {13, 4, 7}, {4, 8, 8});
    CHECK(t, "the \u00a0<mask>", {0, 0, 0}, {10, 0, 3}, {17, 6, 12});
    cbm_tokenizer_free(t);
    keys.bpe.add_prefix_space = keys.trim_keeps_space = 1;
    assert_ok(make(&keys, &t, NULL));
    CHECK(t, "cat", {0, 0, 0}, {13, 0, 3});
    cbm_tokenizer_free(t);
}

static void pieces_are_shown_as_text(void **state) {
    (void)state;
    uint16_t flags[N];
    cbm_tokenizer *t;
    cbm_tokenizer_keys keys = keys_of(flags, 0), again;
    assert_ok(make(&keys, &t, NULL));
    assert_string_equal(cbm_token_text(t, 13), "cat");
    assert_string_equal(cbm_token_piece(t, 13), "\u0120cat");
    assert_string_equal(cbm_token_text(t, 4), " ");
    assert_string_equal(cbm_token_text(t, 14), "\ufffd"); /* half a character */
    assert_string_equal(cbm_token_text(t, 17), "<mask>");
    assert_true(cbm_token_continues_word(t, 12) && cbm_token_continues_word(t, 15));
    assert_false(cbm_token_continues_word(t, 13) || cbm_token_continues_word(t, 16) || cbm_token_continues_word(t, 0));
    cbm_tokenizer_get_keys(t, &again);
    assert_int_equal(again.bpe.n_merges, MERGES);
    for (int i = 0; i < MERGES; i++) assert_string_equal(again.bpe.merges[i], merges[i]);
    cbm_tokenizer_free(t);
}

static void damaged_merges_are_refused(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"th", "is not two pieces"},
                                         {" th", "is not two pieces"},
                                         {"t h e", "is not two pieces"},
                                         {"t x", "the vocabulary has not both"},
                                         {"t e", "the vocabulary has not both"},
                                         {"", "is not two pieces"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint16_t flags[N];
        cbm_tokenizer *t;
        cbm_tokenizer_keys keys = keys_of(flags, 0);
        keys.bpe.merges = &bad[i][0];
        keys.bpe.n_merges = 1;
        assert_error(make(&keys, &t, NULL), SCBM_ERROR_FORMAT, bad[i][1]);
        assert_null(t);
    }
}

/* A word of so many bytes takes no time that grows with their square. */
static void long_words(void **state) {
    (void)state;
    enum { LENGTH = 400000 };
    uint16_t flags[N];
    cbm_tokenizer *t;
    cbm_tokens tokens = {0};
    cbm_tokenizer_keys keys = keys_of(flags, 0);
    char *text = malloc(LENGTH);
    assert_non_null(text);
    for (int i = 0; i < LENGTH; i++) text[i] = "the"[i % 3];
    assert_ok(make(&keys, &t, NULL));
    assert_ok(cbm_tokenize(t, text, LENGTH - 1, LENGTH, &tokens));
    assert_int_equal(tokens.n, 1 + (LENGTH - 1) / 3);
    assert_int_equal(tokens.end[tokens.n - 1], LENGTH - 1);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(t);
    free(text);
}

/* Every allocation fails once. */
static void running_out_of_memory_is_an_error_and_leaks_nothing(void **state) {
    (void)state;
    static const char text[] = "the cat's <mask> the cat";
    int failures = 0, done = 0;
    for (long at = 1; !done; at++) {
        uint16_t flags[N];
        counting_allocator memory = {.fails_at = at};
        const scbm_hooks hooks = allocator_hooks(&memory);
        cbm_tokenizer *t;
        cbm_tokens tokens = {0};
        cbm_tokenizer_keys keys = keys_of(flags, 1);
        keys.bpe.add_prefix_space = 1;
        scbm_status status = make(&keys, &t, &hooks);
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
}

static void letters_and_numbers(void **state) {
    (void)state;
    static const int32_t letters[] = {'a', 'Z', 0xAA, 0xE9, 0x3B1, 0x4E2D, 0xAC00, 0x1F00, 0x10400, 0x20000};
    static const int32_t numbers[] = {'0', 0xB2, 0xBD, 0x663, 0x2160, 0x3007, 0x1D7CE};
    static const int32_t neither[] = {' ', '_', 0x300, 0x2019, 0x1F600, 0xE000, 0x10FFFF, 0x24B6};
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) assert_true(cbm_is_letter(letters[i]));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        assert_true(cbm_is_number(numbers[i]) && !cbm_is_letter(numbers[i]));
    for (size_t i = 0; i < sizeof neither / sizeof neither[0]; i++)
        assert_false(cbm_is_letter(neither[i]) || cbm_is_number(neither[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_merges_and_ranges),
        cmocka_unit_test(ranges_without_spaces),
        cmocka_unit_test(pieces_are_shown_as_text),
        cmocka_unit_test(damaged_merges_are_refused),
        cmocka_unit_test(long_words),
        cmocka_unit_test(running_out_of_memory_is_an_error_and_leaks_nothing),
        cmocka_unit_test(letters_and_numbers),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
