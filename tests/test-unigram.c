/*
 * tests/test-unigram.c - Unigram tokenizers: the best way to write a word, unknown characters, the map, SentencePiece's
 * files, and damaged ones
 */
#include "convert/hf-unigram.h"
#include "models/tokenizers/charmap.h"
#include "models/tokenizers/tokenizer.h"
#include "tests/helpers.h"

#include <stdio.h>
#include <string.h>

#define MARK "\xE2\x96\x81"

static const char *const pieces[] = {"<unk>", "<s>",     "</s>", MARK,     MARK "a", "a", "b",
                                     "ab",    MARK "ab", "bab",  "<0xC3>", "<0xA4>", "x"};
static const double scores[] = {0, 0, 0, -2, -3, -2, -2, -3.5, -6, -4.25, -9, -9, -1};
enum {
    N = sizeof pieces / sizeof pieces[0],
    UNK = 0,
    FIRST = 1,
    LAST = 2,
    A_MARK = 3,
    A_WORD = 4,
    A = 5,
    B = 6,
    AB = 7,
    AB_WORD = 8,
    BYTE_C3 = 10
};

/* "A" to "x", and the two bytes of "ä" to nothing: a double array of 512 units. */
enum { UNITS = 512, MAP_BYTES = 4 + 4 * UNITS + 3 };

static void put_unit(uint8_t *map, size_t place, uint32_t unit) {
    for (int i = 0; i < 4; i++) map[4 + 4 * place + (size_t)i] = (uint8_t)(unit >> (8 * i));
}

/* The root's children lie from 256 on; each that ends has its leaf where its offset leads. */
static void make_map(uint8_t map[MAP_BYTES]) {
    memset(map, 0, MAP_BYTES);
    map[1] = (4 * UNITS) >> 8;
    put_unit(map, 0, 256u << 10);
    put_unit(map, 256 ^ 'A', 'A' | 1 << 8 | 8u << 10);
    put_unit(map, (256 ^ 'A') ^ 8, 1u << 31);
    put_unit(map, 256 ^ 0xC3, 0xC3 | 4u << 10);
    put_unit(map, ((256 ^ 0xC3) ^ 4) ^ 0xA4, 0xA4 | 1 << 8 | 16u << 10);
    put_unit(map, ((((256 ^ 0xC3) ^ 4) ^ 0xA4)) ^ 16, 1u << 31 | 2);
    map[MAP_BYTES - 3] = 'x';
}

/* A tokenizer that went through a file. */
static scbm_status create_with(cbm_tokenizer **tokenizer, const cbm_unigram_options *options, const scbm_hooks *hooks) {
    static const uint16_t flags[N] = {CBM_PIECE_SPECIAL, CBM_PIECE_SPECIAL, CBM_PIECE_SPECIAL};
    cbm_tokenizer_keys keys = {
        .kind = "t5", .n = N, .piece = pieces, .flags = flags, .n_types = 1, .unigram = *options};
    scbm_writer *writer;
    scbm_file *file;
    keys.special[CBM_TOKEN_UNKNOWN] = UNK;
    keys.special[CBM_TOKEN_FIRST] = FIRST;
    keys.special[CBM_TOKEN_LAST] = LAST;
    keys.special[CBM_TOKEN_PADDING] = keys.special[CBM_TOKEN_MASK] = -1;
    keys.unigram.score = options->score ? options->score : scores;
    assert_ok(scbm_writer_create(&writer, NULL));
    assert_ok(cbm_tokenizer_write_keys(writer, &keys, NULL));
    assert_ok(scbm_writer_write(writer, in_folder("tokenizer.gguf")));
    scbm_writer_free(writer);
    assert_ok(scbm_file_open(&file, in_folder("tokenizer.gguf"), NULL));
    scbm_status status = cbm_tokenizer_create(tokenizer, file, hooks);
    scbm_file_close(file);
    return status;
}

static scbm_status create(cbm_tokenizer **tokenizer, const cbm_unigram_options *options) {
    return create_with(tokenizer, options, NULL);
}

/* llama.cpp reads F32; what that does not hold stands in a key of ours, too, and decides. */
static void scores_are_f32_for_others(void **state) {
    (void)state;
    double fine[N];
    for (int wide = 0; wide < 2; wide++) {
        scbm_file *file;
        cbm_tokenizer *tokenizer;
        for (int i = 0; i < N; i++) fine[i] = scores[i] + (wide ? 1e-12 : 0.0);
        assert_ok(create(&tokenizer, &(cbm_unigram_options){.score = fine}));
        cbm_tokenizer_free(tokenizer);
        assert_ok(scbm_file_open(&file, in_folder("tokenizer.gguf"), NULL));
        double value;
        int64_t key = scbm_file_find_key(file, "tokenizer.ggml.scores");
        assert_ok(scbm_file_float_at(file, key, 3, &value));
        assert_true(value == (double)(float)fine[3]);
        key = scbm_file_find_key(file, "sparsecbm.tokenizer.scores");
        assert_int_equal(key >= 0, wide);
        if (wide) assert_ok(scbm_file_float_at(file, key, 3, &value));
        assert_true(value == fine[3]);
        scbm_file_close(file);
    }
}

static void expect(const cbm_tokenizer *tokenizer, const char *text, const char *wanted) {
    cbm_tokens tokens = {0};
    char got[512] = "";
    assert_ok(cbm_tokenize(tokenizer, text, strlen(text), 64, &tokens));
    for (size_t i = 1; i + 1 < tokens.n; i++)
        sprintf(got + strlen(got), "%s%s@%d-%d", i > 1 ? " " : "", cbm_token_piece(tokenizer, tokens.ids[i]),
                (int)tokens.start[i], (int)tokens.end[i]);
    assert_int_equal(tokens.ids[0], FIRST);
    assert_int_equal(tokens.ids[tokens.n - 1], LAST);
    cbm_tokens_clear(&tokens, NULL);
    assert_string_equal(got, wanted);
}

static void the_greatest_sum_of_scores(void **state) {
    (void)state;
    cbm_tokenizer *t;
    assert_ok(create(&t, &(cbm_unigram_options){.splits_words = 1, .splits_marks = 1}));
    expect(t, "", "");
    expect(t, " \t\xE3\x80\x80", "");
    expect(t, "a", MARK "a@0-1");
    expect(t, "ab", MARK "a@0-1 b@1-2");
    expect(t, "a  ab", MARK "a@0-1 " MARK "a@3-4 b@4-5");
    expect(t, "abab", MARK "a@0-1 bab@1-4");
    expect(t, "cc", MARK "@0-1 <unk>@0-2");
    expect(t, "acxd", MARK "a@0-1 <unk>@1-2 x@2-3 <unk>@3-4");
    expect(t, "a<s>a", MARK "a@0-1 <s>@1-4 " MARK "a@4-5");
    expect(t, "a" MARK "a", MARK "a@0-1 " MARK "a@1-5");
    assert_string_equal(cbm_token_text(t, A_WORD), "a");
    assert_string_equal(cbm_token_text(t, A_MARK), MARK);
    assert_true(cbm_token_continues_word(t, A) && !cbm_token_continues_word(t, A_WORD));
    cbm_tokenizer_free(t);
}

static void spaces_and_marks(void **state) {
    (void)state;
    cbm_tokenizer *t;
    assert_ok(create(&t, &(cbm_unigram_options){.splits_marks = 1}));
    expect(t, "a  a", MARK "a@0-1 " MARK "@1-2 " MARK "a@2-4");
    expect(t, " a", MARK "a@0-2");
    cbm_tokenizer_free(t);
    assert_ok(
        create(&t, &(cbm_unigram_options){.splits_marks = 1, .joins_spaces = 1, .strips_left = 1, .strips_right = 1}));
    expect(t, "  a  a  ", MARK "a@2-3 " MARK "a@4-6");
    cbm_tokenizer_free(t);
    assert_ok(create(&t, &(cbm_unigram_options){.splits_marks = 1, .prefix = CBM_PREFIX_NEVER}));
    expect(t, "a a", "a@0-1 " MARK "a@1-3");
    cbm_tokenizer_free(t);
    assert_ok(create(&t, &(cbm_unigram_options){.splits_words = 1, .splits_marks = 1, .prefix = CBM_PREFIX_FIRST}));
    expect(t, "a a", MARK "a@0-1 a@2-3");
    cbm_tokenizer_free(t);
}

static void unknown_characters_byte_by_byte(void **state) {
    (void)state;
    cbm_tokenizer *t;
    assert_ok(create(&t, &(cbm_unigram_options){.splits_words = 1, .splits_marks = 1, .byte_fallback = 1}));
    expect(t, "a\xC3\xA4", MARK "a@0-1 <0xC3>@1-3 <0xA4>@1-3");
    expect(t, "a\xC3\xA5", MARK "a@0-1 <unk>@1-3");
    cbm_tokenizer_free(t);
}

static void the_map_of_characters(void **state) {
    (void)state;
    uint8_t map[MAP_BYTES];
    int64_t values[MAP_BYTES];
    cbm_charmap opened;
    const char *text;
    size_t length;
    cbm_tokenizer *t;
    make_map(map);
    for (int i = 0; i < MAP_BYTES; i++) values[i] = map[i];
    assert_true(cbm_charmap_open(&opened, map, MAP_BYTES));
    assert_true(cbm_charmap_find(&opened, "Ab", 2, &text, &length) && length == 1 && *text == 'x');
    assert_false(cbm_charmap_find(&opened, "b", 1, &text, &length) ||
                 cbm_charmap_find(&opened, "\xC3", 1, &text, &length));
    assert_ok(create(
        &t, &(cbm_unigram_options){
                .splits_words = 1, .splits_marks = 1, .map = map, .map_values = values, .map_bytes = MAP_BYTES}));
    expect(t, "bA", MARK "@0-1 b@0-1 x@1-2");
    expect(t,
           "b\xC3\xA4"
           "b",
           MARK "@0-1 b@0-1 b@3-4");
    expect(t, "A\xCC\x81", MARK "@0-1 x@0-1"); /* a cluster whose beginning is known is replaced whole */
    cbm_tokenizer_free(t);
    assert_error(create(&t, &(cbm_unigram_options){.map = map, .map_values = values, .map_bytes = 2000}),
                 SCBM_ERROR_FORMAT, "tokenizer.ggml.precompiled_charsmap is no map of characters");
    assert_false(cbm_charmap_open(&opened, map, 3));
    for (int i = 0; i < MAP_BYTES; i++) { /* no damage leads outside */
        uint8_t kept = map[i];
        map[i] = 0xFF;
        if (cbm_charmap_open(&opened, map, MAP_BYTES))
            for (int c = 1; c < 256; c++) cbm_charmap_find(&opened, (char[]){(char)c, (char)0xA4}, 2, &text, &length);
        map[i] = kept;
    }
}

static void scores_of_any_precision(void **state) {
    (void)state;
    double fine[N];
    cbm_tokenizer *t;
    memcpy(fine, scores, sizeof fine);
    fine[AB] = fine[A] + fine[B] + 1e-12; /* below what F32 tells apart */
    fine[A_WORD] = fine[AB_WORD] = -50;
    assert_ok(create(&t, &(cbm_unigram_options){.splits_words = 1, .splits_marks = 1, .score = fine}));
    expect(t, "ab", MARK "@0-1 ab@0-2");
    cbm_tokenizer_free(t);
    fine[AB] -= 2e-12;
    assert_ok(create(&t, &(cbm_unigram_options){.splits_words = 1, .splits_marks = 1, .score = fine}));
    expect(t, "ab", MARK "@0-1 a@0-1 b@1-2");
    cbm_tokenizer_free(t);
}

/* An unknown character costs what `tokenizers` 0.23.3 takes: ten less than the least score, whatever its sign. */
static void scores_above_zero(void **state) {
    (void)state;
    double high[N];
    cbm_tokenizer *t;
    for (int i = 0; i < N; i++) high[i] = 12;
    high[BYTE_C3] = 20;
    assert_ok(create(&t, &(cbm_unigram_options){.prefix = CBM_PREFIX_NEVER, .score = high}));
    expect(t, "<0xC3>", "<unk>@0-2 x@2-3 <unk>@3-6");
    cbm_tokenizer_free(t);
    high[BYTE_C3] = 23;
    assert_ok(create(&t, &(cbm_unigram_options){.prefix = CBM_PREFIX_NEVER, .score = high}));
    expect(t, "<0xC3>", "<0xC3>@0-6");
    cbm_tokenizer_free(t);
}

/* Every allocation fails once. */
static void running_out_of_memory_is_an_error_and_leaks_nothing(void **state) {
    (void)state;
    uint8_t map[MAP_BYTES];
    int64_t values[MAP_BYTES];
    const cbm_unigram_options options = {
        .splits_marks = 1, .joins_spaces = 2, .map = map, .map_values = values, .map_bytes = MAP_BYTES};
    int failures = 0, done = 0;
    make_map(map);
    for (int i = 0; i < MAP_BYTES; i++) values[i] = map[i];
    for (long at = 1; !done; at++) {
        counting_allocator memory = {.fails_at = at};
        const scbm_hooks hooks = allocator_hooks(&memory);
        cbm_tokenizer *t;
        cbm_tokens tokens = {0};
        scbm_status status = create_with(&t, &options, &hooks);
        if (!status) status = cbm_tokenize(t, "abA  bab c", 10, 512, &tokens);
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

/* ------------------------------------------------------------------------------------------
 * SentencePiece's files
 * ---------------------------------------------------------------------------------------- */

typedef struct made_model {
    unsigned char bytes[512];
    size_t n;
} made_model;

static void put_piece_of(made_model *m, const char *text, float score, int kind) {
    size_t length = strlen(text);
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    m->bytes[m->n++] = 1 << 3 | 2;
    m->bytes[m->n++] = (unsigned char)(length + 7 + 2);
    m->bytes[m->n++] = 1 << 3 | 2;
    m->bytes[m->n++] = (unsigned char)length;
    memcpy(m->bytes + m->n, text, length);
    m->n += length;
    m->bytes[m->n++] = 2 << 3 | 5;
    for (int i = 0; i < 4; i++) m->bytes[m->n++] = (unsigned char)(bits >> (8 * i));
    m->bytes[m->n++] = 3 << 3; /* its kind, and a field that nobody knows */
    m->bytes[m->n++] = (unsigned char)kind;
    m->bytes[m->n++] = 9 << 3;
    m->bytes[m->n++] = 1;
}

static void put_piece(made_model *m, const char *text, float score) {
    put_piece_of(m, text, score, 1);
}

/* TrainerSpec.model_type and an empty NormalizerSpec. */
static void put_specs(made_model *m, int type) {
    const unsigned char bytes[] = {2 << 3 | 2, 2, 3 << 3, (unsigned char)type, 3 << 3 | 2, 0};
    memcpy(m->bytes + m->n, bytes, sizeof bytes);
    m->n += sizeof bytes;
}

static scbm_status parse(hf_tokenizer *t, const made_model *m, const char *class, const char *type) {
    assert_ok(cbm_hf_tokenizer_init(t, 20, NULL));
    scbm_status status = cbm_hf_tokenizer_set_layout(t, class, type);
    t->extra_ids = 2;
    return status ? status : cbm_hf_tokenizer_parse_sentencepiece(t, m->bytes, m->n, "x.model");
}

static void expect_pieces(const made_model *m, const char *class, const char *type, const char *wanted) {
    char got[256] = "";
    hf_tokenizer t;
    assert_ok(parse(&t, m, class, type));
    assert_ok(cbm_hf_tokenizer_finish(&t, "x"));
    for (int64_t i = 0; i < t.n_tokens; i++)
        sprintf(got + strlen(got), "%s%s:%g", i ? " " : "", t.piece[i], t.score[i]);
    cbm_hf_tokenizer_clear(&t);
    assert_string_equal(got, wanted);
}

static void numbers_of_sentencepiece_files(void **state) {
    (void)state;
    made_model m = {.n = 0}, t5 = {.n = 0};
    put_piece(&m, "<unk>", 0);
    put_piece(&m, "<s>", 0);
    put_piece(&m, "</s>", 0);
    put_piece(&m, MARK "a", -1.5f);
    put_specs(&m, 1);
    put_piece_of(&t5, "<pad>", 0, 3);
    put_piece_of(&t5, "</s>", 0, 3);
    put_piece(&t5, "<unk>", 0);
    put_piece(&t5, "a", -1);
    static const char xlm[] = "<s>:0 <pad>:0 </s>:0 <unk>:0 " MARK "a:-1.5 <mask>:0";
    expect_pieces(&m, "XLMRobertaTokenizer", "", xlm);
    expect_pieces(&m, "XLMRobertaTokenizerFast", "t5", xlm);
    expect_pieces(&m, "", "xlm-roberta", xlm);
    expect_pieces(&m, "", "camembert",
                  "<s>NOTUSED:0 <pad>:0 </s>NOTUSED:0 <unk>:0 <unk>NOTUSED:-100 <s>:0 </s>:0 " MARK "a:-1.5 <mask>:0");
    expect_pieces(&t5, "T5Tokenizer", "", "<pad>:0 </s>:0 <unk>:0 a:-1 <extra_id_1>:0 <extra_id_0>:0");
}

static void sentencepiece_files_that_are_refused(void **state) {
    (void)state;
    made_model m = {.n = 0};
    hf_tokenizer t;
    put_piece(&m, "<pad>", 0);
    put_piece(&m, "</s>", 0);
    put_piece(&m, "<unk>", 0);
    put_specs(&m, 2);
    assert_error(parse(&t, &m, "LlamaTokenizer", "t5"), SCBM_ERROR_UNSUPPORTED,
                 "which is 'LlamaTokenizer'; this version");
    cbm_hf_tokenizer_clear(&t);
    assert_error(parse(&t, &m, "T5Tokenizer", ""), SCBM_ERROR_UNSUPPORTED,
                 "x.model: its model is of SentencePiece's type 2");
    cbm_hf_tokenizer_clear(&t);
    m.n = 0;
    put_piece(&m, "<unk>", 0);
    assert_error(parse(&t, &m, "XLMRobertaTokenizer", ""), SCBM_ERROR_FORMAT,
                 "x.model: this is no model of SentencePiece");
    cbm_hf_tokenizer_clear(&t);
    static const char *const reasons[] = {[4] = "x.model: piece 3 is a symbol that its user has defined; this version",
                                          [6] = "x.model: piece 3 stands for a byte; this version"};
    for (int kind = 4; kind <= 6; kind += 2) {
        m.n = 0;
        for (int i = 0; i < 3; i++) put_piece_of(&m, "<s>", 0, 3); /* left out */
        put_piece_of(&m, "abc", 0, kind);
        put_specs(&m, 1);
        assert_error(parse(&t, &m, "XLMRobertaTokenizer", ""), SCBM_ERROR_UNSUPPORTED, reasons[kind]);
        cbm_hf_tokenizer_clear(&t);
    }
    m.n = 0;
    for (int i = 0; i < 5; i++) put_piece(&m, "abc", -1);
    put_specs(&m, 1);
    size_t whole = m.n;
    for (m.n = 0; m.n < whole; m.n++) { /* cut off anywhere: refused, or fewer pieces */
        parse(&t, &m, "T5Tokenizer", "");
        cbm_hf_tokenizer_clear(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_f32_for_others),
        cmocka_unit_test(the_greatest_sum_of_scores),
        cmocka_unit_test(spaces_and_marks),
        cmocka_unit_test(unknown_characters_byte_by_byte),
        cmocka_unit_test(the_map_of_characters),
        cmocka_unit_test(scores_of_any_precision),
        cmocka_unit_test(scores_above_zero),
        cmocka_unit_test(running_out_of_memory_is_an_error_and_leaks_nothing),
        cmocka_unit_test(numbers_of_sentencepiece_files),
        cmocka_unit_test(sentencepiece_files_that_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
