/*
 * tests/test-fasttext.c - fastText's files: whose vectors are found, what they are, and what is refused. tests/parity compares
 * with fastText itself
 */
#include "convert/fasttext.h"
#include "models/core/context.h"
#include "models/cbm-train.h"
#include "tests/helpers.h"

#include <stdio.h>
#include <string.h>

static const char *const words[] = {"the", "soup", NULL, "</s>", "na\xC3\xAFve"};
enum { N = sizeof words / sizeof words[0] };

static fasttext_vectors v;

static void read_memory(const void *data, size_t size) {
    assert_ok(cbm_fasttext_read_memory(&v, data, size, "some.vec", words, N, NULL));
}

static void refuse(const void *data, size_t size, scbm_status status, const char *message) {
    assert_error(cbm_fasttext_read_memory(&v, data, size, "some.vec", words, N, NULL), status, message);
    cbm_fasttext_clear(&v, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Text
 * ---------------------------------------------------------------------------------------- */

static void lines_are_vectors(void **state) {
    (void)state;
    static const char text[] = "5 2\nunasked 9 9\nsoup 1.5 -2e-3 \r\nsoup 7 7\nna\xC3\xAFve\t.25 0\nThe 3 3\n";
    read_memory(text, sizeof text - 1);
    assert_int_equal(v.width, 2);
    assert_int_equal(v.n_there, 2);
    static const uint8_t there[N] = {0, 1, 0, 0, 1};
    assert_memory_equal(v.is_there, there, N);
    static const float wanted[2 * N] = {[2] = 1.5f, [3] = -2e-3f, [8] = 0.25f}; /* the first of two counts */
    assert_memory_equal(v.value, wanted, sizeof wanted);
    cbm_fasttext_clear(&v, NULL);
}

static void what_is_no_text_of_vectors_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "neither"},
        {"the 1 2\n", "neither one of fastText's .bin files"},
        {"2 2 2\nthe 1 2\n", "neither"},
        {"1 0\nthe\n", "vectors of 0 numbers"},
        {"1 900000\nthe 1\n", "for which it is too short"},
        {"2 2\nthe 1 2\n", "has 1 lines of words, and its first line says 2"},
        {"1 2\nthe 1\n", "line 2 has fewer than the 2 numbers"},
        {"1 2\nthe 1 2 3\n", "line 2 has more than the 2 numbers"},
        {"1 2\nthe 1 nan\n", "line 2: number 2 of its vector is none"},
        {"1 2\nthe 1 1e39\n", "line 2: number 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i].text, strlen(cases[i].text), SCBM_ERROR_FORMAT, cases[i].message);
}

/* ------------------------------------------------------------------------------------------
 * Binary
 * ---------------------------------------------------------------------------------------- */

/* A file of width 1 with the words "</s>", "soup" and "xx", whose row r is the number r + 1. */
typedef struct made_file {
    unsigned char bytes[1024];
    size_t n;
    int version, model, buckets, least, most, quantized;
    int64_t n_pruned;
} made_file;

static void put(made_file *f, uint64_t value, size_t n) {
    for (size_t i = 0; i < n; i++) f->bytes[f->n++] = (unsigned char)(value >> (8 * i));
}

static void put_word(made_file *f, const char *word) {
    for (size_t i = 0; i <= strlen(word); i++) put(f, (unsigned char)word[i], 1);
    put(f, 5, 8); /* times */
    put(f, 0, 1);
}

static void make_file(made_file *f) {
    const int settings[12] = {1, 5, 5, 1, 5, 1, 2, f->model, f->buckets, f->least, f->most, 100};
    f->n = 0;
    put(f, 793712314, 4);
    put(f, (uint64_t)f->version, 4);
    for (int i = 0; i < 12; i++) put(f, (uint64_t)settings[i], 4);
    put(f, 0, 8);
    put(f, 3, 4);
    put(f, 3, 4);
    put(f, 0, 4);
    put(f, 1000, 8);
    put(f, (uint64_t)f->n_pruned, 8);
    put_word(f, "</s>");
    put_word(f, "soup");
    put_word(f, "xx");
    for (int64_t i = 0; i < f->n_pruned; i++) put(f, 0, 8);
    put(f, (uint64_t)f->quantized, 1);
    int n = 3 + (f->most ? f->buckets : 0);
    put(f, (uint64_t)n, 8);
    put(f, 1, 8);
    for (int i = 0; i < n; i++) {
        float value = (float)(i + 1);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        put(f, bits, 4);
    }
}

/* The row of an n-gram, by FNV-1a over signed bytes. */
static float ngram_row(const char *ngram, int buckets) {
    uint32_t hash = 2166136261u;
    for (const char *c = ngram; *c; c++) hash = (hash ^ (uint32_t)(int32_t)(signed char)*c) * 16777619u;
    return (float)(3 + (int)(hash % (uint32_t)buckets) + 1);
}

/* n-grams of two characters between < and >, over characters of more than one byte, too. */
static void a_word_is_the_mean_of_its_row_and_its_ngrams(void **state) {
    (void)state;
    static const char *const soup[] = {"<s", "so", "ou", "up", "p>"};
    static const char *const naive[] = {"<n", "na", "a\xC3\xAF", "\xC3\xAFv", "ve", "e>"};
    made_file f = {.version = 12, .model = 2, .buckets = 11, .least = 2, .most = 2, .n_pruned = -1};
    float sum = 2;
    make_file(&f);
    read_memory(f.bytes, f.n);
    for (int i = 0; i < 5; i++) sum += ngram_row(soup[i], 11);
    assert_near(v.value[1], sum / 6, 1e-6);
    sum = 0;
    for (int i = 0; i < 6; i++) sum += ngram_row(naive[i], 11);
    assert_near(v.value[4], sum / 6, 1e-6);
    assert_true(v.value[3] == 1); /* the end of a text is its own row alone */
    assert_int_equal(v.n_there, 4);
    cbm_fasttext_clear(&v, NULL);
}

static void single_characters_but_the_marks_are_ngrams(void **state) {
    (void)state;
    made_file f = {.version = 12, .model = 1, .buckets = 5, .least = 1, .most = 1, .n_pruned = -1};
    make_file(&f);
    read_memory(f.bytes, f.n);
    assert_near(v.value[0], (ngram_row("t", 5) + ngram_row("h", 5) + ngram_row("e", 5)) / 3, 1e-6);
    cbm_fasttext_clear(&v, NULL);
}

/* Old classifiers, models without n-grams, and those whose n-grams were all pruned: words alone. */
static void words_without_ngrams_have_their_rows(void **state) {
    (void)state;
    const made_file files[] = {
        {.version = 11, .model = 3, .buckets = 11, .least = 2, .most = 3, .n_pruned = -1},
        {.version = 12, .model = 2, .buckets = 0, .least = 0, .most = 0, .n_pruned = -1},
        {.version = 12, .model = 2, .buckets = 11, .least = 2, .most = 3, .n_pruned = 0},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        made_file f = files[i];
        make_file(&f);
        read_memory(f.bytes, f.n);
        assert_int_equal(v.n_there, 2);
        assert_true(v.value[1] == 2 && v.value[3] == 1 && !v.is_there[0]);
        cbm_fasttext_clear(&v, NULL);
    }
}

static void what_is_no_binary_of_vectors_is_refused(void **state) {
    (void)state;
    const made_file good = {.version = 12, .model = 2, .buckets = 11, .least = 2, .most = 3, .n_pruned = -1};
    made_file f = good;
    make_file(&f);
    for (size_t n = 4; n < f.n; n++) { /* every file that was cut off */
        assert_int_equal(cbm_fasttext_read_memory(&v, f.bytes, n, "some.bin", words, N, NULL), SCBM_ERROR_FORMAT);
        cbm_fasttext_clear(&v, NULL);
    }
    f.version = 13;
    make_file(&f);
    refuse(f.bytes, f.n, SCBM_ERROR_UNSUPPORTED, "version 13 of fastText's format; 11 and 12 are read");
    f = good;
    f.quantized = 1;
    make_file(&f);
    refuse(f.bytes, f.n, SCBM_ERROR_UNSUPPORTED, "a quantized model (.ftz)");
    f = good;
    f.most = -2;
    make_file(&f);
    refuse(f.bytes, f.n, SCBM_ERROR_FORMAT, "the longest n-gram is -2");
}

/* ------------------------------------------------------------------------------------------
 * What begins with them
 * ---------------------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void a_bilstm_begins_with_vectors(void **state) {
    (void)state;
    static const char *const texts[] = {"The soup was cold"};
    cbm_random_encoder_options options = {.architecture = "bilstm", .hidden = 4, .texts = texts, .n_texts = 1};
    cbm_model *model;
    char path[128];
    snprintf(path, sizeof path, "%s", in_folder("encoder.gguf"));
    write_text(in_folder("words.vec"), "2 3\nsoup 0.1 0.2 0.3\nthe -0.1 0 0.5\n");
    options.vectors = in_folder("words.vec");
    assert_ok(cbm_random_encoder_write(path, &options));
    assert_ok(cbm_model_load(&model, path, NULL));
    const scbm_tensor *table = cbm_backbone_find(&model->network.backbone, CBM_TOKEN_EMBEDDING, -1)->tensor;
    static const float wanted[] = {-0.1f, 0, 0.5f, 0.1f, 0.2f, 0.3f};
    assert_int_equal(table->shape[1], 3);
    assert_memory_equal((const float *)table->data + 9, wanted, sizeof wanted); /* behind [PAD], [UNK] and [MASK] */
    for (int i = 15; i < 21; i++) assert_true(((const float *)table->data)[i] != 0);
    cbm_model_free(model);
    options.embedding_width = 4;
    assert_error(cbm_random_encoder_write(path, &options), SCBM_ERROR_ARGUMENT,
                 "vectors have 3 numbers; 4 were asked for");
    options.embedding_width = 0;
    options.architecture = "bert";
    assert_error(cbm_random_encoder_write(path, &options), SCBM_ERROR_ARGUMENT,
                 "whole words, which BERT does not read");
    options.architecture = "bilstm";
    options.vectors = in_folder("nowhere.vec");
    assert_error(cbm_random_encoder_write(path, &options), SCBM_ERROR_IO, "nowhere.vec");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_vectors),
        cmocka_unit_test(what_is_no_text_of_vectors_is_refused),
        cmocka_unit_test(a_word_is_the_mean_of_its_row_and_its_ngrams),
        cmocka_unit_test(single_characters_but_the_marks_are_ngrams),
        cmocka_unit_test(words_without_ngrams_have_their_rows),
        cmocka_unit_test(what_is_no_binary_of_vectors_is_refused),
        cmocka_unit_test(a_bilstm_begins_with_vectors),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
