/*
 * tests/test-torch-file.c - files of torch.save: both forms, strides, shared storages, and what is refused
 */
#include "convert/pickle.h"
#include "convert/stored-tensor.h"
#include "convert/tensor-file.h"
#include "tests/helpers.h"
#include "tests/torch-files.h"

#include <string.h>

static const float numbers[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

static const made_tensor plain = {"a", "FloatStorage", "7", 12, 0, {3, 4}, {4, 1}};

static void make_zip(made_zip *zip, const made_file *pickle, const char *order, const void *data, size_t n) {
    memset(zip, 0, sizeof *zip);
    put_entry(zip, "archive/data.pkl", pickle->bytes, pickle->n, 0);
    if (order) put_entry(zip, "archive/byteorder", order, strlen(order), 0);
    put_entry(zip, "archive/data/7", data, n, 0);
    finish_zip(zip);
}

static scbm_status open_zip(tensor_file **file, const made_zip *zip) {
    return cbm_tensor_file_open_memory(file, zip->file.bytes, zip->file.n, "x.bin", NULL);
}

static scbm_status open_tensors(tensor_file **file, made_zip *zip, const made_tensor *tensors, int n) {
    made_file pickle = {.n = 0};
    put_tensors(&pickle, tensors, n);
    make_zip(zip, &pickle, NULL, numbers, sizeof numbers);
    return open_zip(file, zip);
}

/* All of a matrix, as it is or turned. */
static void check_numbers(const stored_tensor *tensor, int is_transposed, const float *wanted) {
    int64_t rows = tensor->shape[is_transposed], columns = tensor->shape[!is_transposed];
    const stored_part part = {0, rows, columns, is_transposed};
    float got[64];
    cbm_stored_read(tensor, &part, got);
    for (int64_t i = 0; i < rows * columns; i++) assert_true(got[i] == wanted[i]);
}

static void strides_and_shared_storages(void **state) {
    (void)state;
    const made_tensor tensors[] = {{"turned", "FloatStorage", "7", 12, 0, {4, 3}, {1, 4}},
                                   {"part", "FloatStorage", "7", 12, 5, {2, 2}, {4, 1}},
                                   {"same", "FloatStorage", "7", 12, 11, {2, 2}, {0, 0}},
                                   plain};
    static const float turned[] = {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}, part[] = {5, 6, 9, 10},
                       part_turned[] = {5, 9, 6, 10}, same[] = {11, 11, 11, 11};
    made_zip zip;
    tensor_file *file;
    assert_ok(open_tensors(&file, &zip, tensors, 4));
    assert_int_equal(cbm_tensor_file_n(file), 4);
    assert_string_equal(cbm_tensor_file_get(file, 0)->name, "a");
    assert_null(cbm_tensor_file_get(file, 4));
    check_numbers(cbm_tensor_file_find(file, "a"), 0, numbers);
    check_numbers(cbm_tensor_file_find(file, "a"), 1, turned);
    check_numbers(cbm_tensor_file_find(file, "turned"), 0, turned);
    check_numbers(cbm_tensor_file_find(file, "turned"), 1, numbers);
    check_numbers(cbm_tensor_file_find(file, "part"), 0, part);
    check_numbers(cbm_tensor_file_find(file, "part"), 1, part_turned);
    check_numbers(cbm_tensor_file_find(file, "same"), 0, same);
    cbm_tensor_file_close(file);
}

static void a_part_of_a_fused_matrix(void **state) {
    (void)state;
    static const float rows[] = {8, 9, 10, 11}, columns[] = {2, 6, 10, 3, 7, 11};
    made_zip zip;
    tensor_file *file;
    float got[6];
    assert_ok(open_tensors(&file, &zip, &plain, 1));
    cbm_stored_read(cbm_tensor_file_get(file, 0), &(stored_part){2, 1, 4, 0}, got);
    assert_memory_equal(got, rows, sizeof rows);
    cbm_stored_read(cbm_tensor_file_get(file, 0), &(stored_part){2, 2, 3, 1}, got);
    assert_memory_equal(got, columns, sizeof columns);
    cbm_tensor_file_close(file);
}

static void numbers_of_other_machines_and_types(void **state) {
    (void)state;
    const made_tensor wide = {"a", "DoubleStorage", "7", 2, 0, {1, 2}, {2, 1}};
    static const unsigned char big[] = {0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0};
    static const float wanted[] = {1.5f, -2};
    made_file pickle = {.n = 0};
    made_zip zip;
    tensor_file *file;
    put_tensors(&pickle, &wide, 1);
    make_zip(&zip, &pickle, "big", big, sizeof big);
    assert_ok(open_zip(&file, &zip));
    check_numbers(cbm_tensor_file_get(file, 0), 0, wanted);
    cbm_tensor_file_close(file);
    make_zip(&zip, &pickle, "middle", big, sizeof big);
    assert_error(open_zip(&file, &zip), SCBM_ERROR_FORMAT, "x.bin: its byteorder is neither little nor big");
}

/* The older form, of two storages that are listed in this order. */
static void make_old(made_file *f, const made_tensor *tensors, int n, const char *keys) {
    f->n = 0;
    put_old_start(f);
    put_tensors(f, tensors, n);
    put(f, "\x80\x02](", 4);
    for (; *keys; keys++) put_text(f, (char[]){*keys, 0});
    put_words(f, "e.");
}

static void the_older_form(void **state) {
    (void)state;
    const made_tensor tensors[] = {plain, {"b", "LongStorage", "3", 1, 0, {1, 1}, {1, 1}}};
    made_file f;
    tensor_file *file;
    make_old(&f, tensors, 2, "37");
    put_number(&f, 1, 8);
    put_number(&f, 77, 8);
    put_number(&f, 12, 8);
    put(&f, numbers, sizeof numbers);
    assert_ok(cbm_tensor_file_open_memory(&file, f.bytes, f.n, "x.bin", NULL));
    check_numbers(cbm_tensor_file_find(file, "a"), 0, numbers);
    assert_string_equal(cbm_tensor_file_find(file, "b")->type, "I64");
    cbm_tensor_file_close(file);
    assert_error(cbm_tensor_file_open_memory(&file, f.bytes, f.n - 1, "x.bin", NULL), SCBM_ERROR_FORMAT,
                 "x.bin: it is cut off within a storage's numbers");
    make_old(&f, tensors, 2, "3");
    put_number(&f, 1, 8);
    put_number(&f, 77, 8);
    assert_error(cbm_tensor_file_open_memory(&file, f.bytes, f.n, "x.bin", NULL), SCBM_ERROR_FORMAT,
                 "x.bin: the numbers of a storage are missing");
    make_old(&f, &plain, 1, "9");
    assert_error(cbm_tensor_file_open_memory(&file, f.bytes, f.n, "x.bin", NULL), SCBM_ERROR_FORMAT,
                 "x.bin: a storage of its list belongs to no tensor");
    memset(f.bytes + 257, 0, 16);
    memcpy(f.bytes + 257, "ustar", 5);
    assert_error(cbm_tensor_file_open_memory(&file, f.bytes, 512, "x.bin", NULL), SCBM_ERROR_UNSUPPORTED,
                 "x.bin: a tar file, as PyTorch before 0.1.10 wrote");
}

static void dictionaries_around_the_tensors(void **state) {
    (void)state;
    made_file pickle = {.n = 0};
    made_zip zip;
    tensor_file *file;
    put(&pickle, "\x80\x02}(", 4);
    put_text(&pickle, "epoch");
    put_words(&pickle, "K\x03");
    put_text(&pickle, "state_dict");
    put_global(&pickle, "collections", "OrderedDict");
    put_words(&pickle, ")R(");
    put_text(&pickle, "a");
    put_tensor(&pickle, &plain);
    put_words(&pickle, "u}");
    put_text(&pickle, "_metadata");
    put_words(&pickle, "Nsbu.");
    make_zip(&zip, &pickle, "little", numbers, sizeof numbers);
    assert_ok(open_zip(&file, &zip));
    check_numbers(cbm_tensor_file_find(file, "a"), 0, numbers);
    cbm_tensor_file_close(file);
}

static void expect_tensor_error(const made_tensor *tensors, int n, const char *words) {
    made_zip zip;
    tensor_file *file;
    assert_error(open_tensors(&file, &zip, tensors, n), SCBM_ERROR_FORMAT, words);
    assert_null(file);
}

static void tensors_that_do_not_fit(void **state) {
    (void)state;
    const made_tensor beyond = {"a", "FloatStorage", "7", 12, 1, {3, 4}, {4, 1}};
    const made_tensor huge = {"a", "FloatStorage", "7", 12, 0, {2000000000, 2000000000}, {2000000000, 2000000000}};
    const made_tensor wide = {"a", "DoubleStorage", "7", 12, 0, {3, 4}, {4, 1}};
    const made_tensor nowhere = {"a", "FloatStorage", "8", 12, 0, {3, 4}, {4, 1}};
    const made_tensor negative = {"a", "FloatStorage", "7", 12, 11, {2, 2}, {-1, 1}};
    const made_tensor control = {"a\nb", "FloatStorage", "7", 12, 0, {3, 4}, {4, 1}};
    const made_tensor twice[] = {plain, plain};
    expect_tensor_error(&beyond, 1, "x.bin: tensor a: it reaches beyond its storage");
    expect_tensor_error(&huge, 1, "x.bin: tensor a: it reaches beyond its storage");
    expect_tensor_error(&wide, 1, "x.bin: storage 7 has 48 bytes, and is to have 12 numbers of type F64");
    expect_tensor_error(&nowhere, 1, "x.bin: the zip file has no entry archive/data/8");
    expect_tensor_error(&negative, 1, "x.bin: tensor a: its storage, sizes or strides are missing or no numbers");
    expect_tensor_error(&control, 1, "x.bin: a tensor's name is no text, or has control characters in it");
    expect_tensor_error(twice, 2, "x.bin: tensor a: the name is there twice");
    expect_tensor_error(&plain, 0, "x.bin: it has no dictionary of tensors, by itself or under \"state_dict\"");
}

static void nothing_is_run(void **state) {
    (void)state;
    static const struct {
        const char *pickle, *words;
    } cases[] = {
        {"cos\nsystem\n(X\x06\0\0\0", "x.bin: its pickle asks for os.system, which describes no tensor"},
        {"cposix\nsystem\n", "posix.system"},
        {"c__builtin__\neval\n", "__builtin__.eval, which describes no tensor; nothing of it was run"},
        {"\x8c\x02os\x8c\x06system\x93", "asks for os.system,"},
        {"(X\x01", "a damaged pickle, at byte 2: it is cut off"},
        {"(ios\nsystem\n", "its pickle uses the opcode INST, with which torch.save writes no tensor"},
        {"P1\n", "the opcode PERSID"},
        {"\x82\x01", "the opcode EXT1"},
        {"\xff", "this is no pickle, or a damaged one: byte 0, 255, is no opcode"},
        {"h\x05", "it takes what is not in its memo"},
        {"Nr\xff\xff\xff\x7f", "its memo is larger than the file"},
        {"Ns", "its stack is empty"},
        {"(.", "its stack is empty"},
        {"N)R", "what it calls is no function"},
        {"N}b", "it sets attributes of a plain value"},
        {"(Nd", "a dictionary has a key without a value"},
        {"NNa", "what it appends to is no list"},
    };
    static const char *const known[] = {"collections OrderedDict", NULL};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pickle p;
        assert_true(cbm_pickle_read(&p, (const unsigned char *)cases[i].pickle, strlen(cases[i].pickle), "x.bin", known,
                                    NULL) != SCBM_OK);
        if (!strstr(scbm_last_error(), cases[i].words)) fail_msg("case %zu: %s", i, scbm_last_error());
    }
}

/* A list that is in itself, and pairs as Python 2 wrote them. */
static void odd_values(void **state) {
    (void)state;
    static const char *const known[] = {"collections OrderedDict", NULL};
    static const char cycle[] = "\x80\x02]q\0h\0a.rest", two[] = "ccollections\nOrderedDict\n(](](U\x01"
                                                                 "aK\x02"
                                                                 "e](U\x01"
                                                                 "bK\x03"
                                                                 "eetR.";
    pickle p;
    assert_ok(cbm_pickle_read(&p, (const unsigned char *)cycle, sizeof cycle - 1, "x", known, NULL));
    assert_int_equal(p.bytes, sizeof cycle - 1 - 4);
    assert_ptr_equal(cbm_pickle_item(&p, &p.value[p.root], 0), &p.value[p.root]);
    cbm_pickle_clear(&p);
    assert_ok(cbm_pickle_read(&p, (const unsigned char *)two, sizeof two - 1, "x", known, NULL));
    assert_int_equal(cbm_pickle_get(&p, &p.value[p.root], "b")->integer, 3);
    assert_null(cbm_pickle_get(&p, &p.value[p.root], "c"));
    cbm_pickle_clear(&p);
}

static void zip_files_that_are_refused(void **state) {
    (void)state;
    made_file pickle = {.n = 0};
    made_zip zip = {.n = 0};
    tensor_file *file;
    put_tensors(&pickle, &plain, 1);
    put_entry(&zip, "archive/data.pkl", pickle.bytes, pickle.n, 8);
    finish_zip(&zip);
    assert_error(open_zip(&file, &zip), SCBM_ERROR_UNSUPPORTED, "entry archive/data.pkl of the zip file is compressed");
    memset(&zip, 0, sizeof zip);
    put_entry(&zip, "other", "x", 1, 0);
    finish_zip(&zip);
    assert_error(open_zip(&file, &zip), SCBM_ERROR_FORMAT, "the zip file has no entry data.pkl");
    memset(&zip, 0, sizeof zip);
    put_entry(&zip, "archive/data.pkl", pickle.bytes, pickle.n, 0);
    put_entry(&zip, "archive/data.pkl", pickle.bytes, pickle.n, 0);
    finish_zip(&zip);
    assert_error(open_zip(&file, &zip), SCBM_ERROR_FORMAT, "two entries have the same name");
}

/* Every file that is cut off, and every one with one byte changed, is refused or can be read as it says. */
static void any_damage_is_an_error_or_harmless(void **state) {
    (void)state;
    made_file pickle = {.n = 0}, changed;
    made_zip zip;
    tensor_file *file;
    float got[64];
    put_tensors(&pickle, &plain, 1);
    make_zip(&zip, &pickle, "little", numbers, sizeof numbers);
    for (size_t n = 0; n < zip.file.n; n++)
        assert_true(cbm_tensor_file_open_memory(&file, zip.file.bytes, n, "x.bin", NULL) != SCBM_OK);
    for (size_t i = 0; i < zip.file.n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            changed = zip.file;
            changed.bytes[i] ^= (unsigned char)(1 << bit);
            if (cbm_tensor_file_open_memory(&file, changed.bytes, changed.n, "x.bin", NULL)) continue;
            const stored_tensor *t = cbm_tensor_file_get(file, 0);
            scbm_type type;
            if (t->n_dims == 2 && t->shape[0] * t->shape[1] <= 64 && cbm_stored_read_type(t, &type))
                cbm_stored_read(t, &(stored_part){0, t->shape[0], t->shape[1], 0}, got);
            cbm_tensor_file_close(file);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strides_and_shared_storages),
        cmocka_unit_test(a_part_of_a_fused_matrix),
        cmocka_unit_test(numbers_of_other_machines_and_types),
        cmocka_unit_test(the_older_form),
        cmocka_unit_test(dictionaries_around_the_tensors),
        cmocka_unit_test(tensors_that_do_not_fit),
        cmocka_unit_test(nothing_is_run),
        cmocka_unit_test(odd_values),
        cmocka_unit_test(zip_files_that_are_refused),
        cmocka_unit_test(any_damage_is_an_error_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
