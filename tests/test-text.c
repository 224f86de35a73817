/*
 * tests/test-text.c - UTF-8, widths in cells, and text with control characters escaped
 *
 * Widths are those that Python's wcwidth 0.7.0 gives, whose wcswidth knows emoji of several characters.
 */
#include "helpers.h"
#include "models/base/text.h"

#include <string.h>

static void widths_are_cells_of_a_terminal(void **state) {
    static const struct {
        const char *text;
        int width;
    } cases[] = {
        {"", 0},
        {"food", 4},
        {"Küche", 5},
        {"Ku\xCC\x88"
         "che",
         5}, /* u and a combining diaeresis */
        {"日本語", 6},
        {"한국어", 6},
        {"ｗｉｄｅ", 8},
        {"🍜", 2},
        {"👩‍🍳", 2}, /* woman, zero-width joiner, pan */
        {"👍🏽", 2},    /* thumb with a skin tone */
        {"❤️", 2},      /* a heart that the selector makes an emoji */
        {"🇩🇪", 2},
        {"a\xE2\x80\x8B"
         "b",
         2}, /* zero-width space */
        {"a\nb", 4},
        {"\x1b[31m", 8},
        {"\xff", 4},
        {"\xE2\x80\xAE"
         "abc",
         15}, /* right-to-left override */
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int width = cbm_text_width(cases[i].text, strlen(cases[i].text));
        if (width != cases[i].width) fail_msg("case %zu has width %d, not %d", i, width, cases[i].width);
    }
}

static void what_acts_on_a_terminal_is_escaped(void **state) {
    static const char *const cases[][2] = {
        {"plain 日本 👩‍🍳 e\xCC\x81", "plain 日本 👩‍🍳 e\xCC\x81"},
        {"two\r\nlines\tand", "two\\r\\nlines\\tand"},
        {"\x1b[31mred\x7f", "\\x1b[31mred\\x7f"},
        {"\xC2\x9B"
         "31m",
         "\\xc2\\x9b31m"}, /* C1's CSI */
        {"\xE2\x80\xAE"
         "evil",
         "\\xe2\\x80\\xaeevil"},
        {"\xE2\x81\xA6x\xE2\x81\xA9", "\\xe2\\x81\\xa6x\\xe2\\x81\\xa9"},
        {"a\xE2\x80\xA8"
         "b",
         "a\\xe2\\x80\\xa8b"}, /* line separator */
        {"e\xCC\x81\xE2\x80\x8F", "e\xCC\x81\\xe2\\x80\\x8f"},
        {"bad \xff\xC3 end", "bad \\xff\\xc3 end"},
        {"cut \xE6\x97", "cut \\xe6\\x97"},
    };
    char shown[256];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t length = strlen(cases[i][0]);
        assert_string_equal(cbm_text_show(shown, 4 * length + 1, cases[i][0], length, 0), cases[i][1]);
        assert_int_equal(cbm_text_width(cases[i][1], strlen(cases[i][1])), cbm_text_width(cases[i][0], length));
    }
    assert_string_equal(cbm_text_show(shown, sizeof shown, "a\0b", 3, 0), "a\\x00b");
}

static void long_texts_are_cut_where_a_cluster_ends(void **state) {
    static const struct {
        const char *text;
        size_t size;
        int width;
        const char *shown;
    } cases[] = {
        {"abcdef", 64, 6, "abcdef"},
        {"abcdef", 64, 5, "abcd…"},
        {"abcdef", 7, 0, "abcdef"},
        {"abcdef", 6, 0, "ab…"},
        {"abcdef", 4, 0, "…"},
        {"abcdef", 3, 0, "ab"},
        {"abcdef", 1, 0, ""},
        {"日本語", 64, 5, "日本…"},
        {"日本語", 64, 4, "日…"},
        {"👩‍🍳👩‍🍳", 64, 3, "👩‍🍳…"},
        {"👩‍🍳👩‍🍳", 64, 2, "…"},
        {"a\x1b"
         "b",
         64, 4, "a…"},
        {"e\xCC\x81\xCC\x82", 64, 1, "e\xCC\x81\xCC\x82"},
    };
    char shown[64];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        memset(shown, '#', sizeof shown);
        cbm_text_show(shown, cases[i].size, cases[i].text, strlen(cases[i].text), cases[i].width);
        assert_string_equal(shown, cases[i].shown);
        if (cases[i].size < sizeof shown) assert_int_equal(shown[cases[i].size], '#');
    }
}

static void bad_utf8_is_found(void **state) {
    static const struct {
        const char *text;
        size_t length, bad;
    } cases[] = {
        {"", 0, 0},      {"abc", 3, 3},      {"日本", 6, 6},         {"日\xE6\x9C", 5, 3},
        {"a\xff", 2, 1}, {"\xC0\x80", 2, 0}, {"\xED\xA0\x80", 3, 0}, {"\xF4\x90\x80\x80", 4, 0},
        {"a\0b", 3, 3},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        assert_int_equal(cbm_find_bad_utf8(cases[i].text, cases[i].length), cases[i].bad);
}

static void prefixes_and_suffixes(void **state) {
    (void)state;
    assert_true(cbm_starts_with("bert.x", "bert."));
    assert_false(cbm_starts_with("bert", "bert."));
    assert_true(cbm_ends_with("x.weight", ".weight"));
    assert_false(cbm_ends_with("weight", ".weight"));
    assert_true(cbm_has_suffix("a/B.JSONL", ".jsonl"));
    assert_false(cbm_has_suffix("jsonl", ".jsonl"));
    assert_true(cbm_has_suffix("", ""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_are_cells_of_a_terminal),
        cmocka_unit_test(what_acts_on_a_terminal_is_escaped),
        cmocka_unit_test(long_texts_are_cut_where_a_cluster_ends),
        cmocka_unit_test(bad_utf8_is_found),
        cmocka_unit_test(prefixes_and_suffixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
