/*
 * tests/test-file.c - model files: what is written is read back, whatever is damaged is an error, and a file is the
 * old one or the new one
 */
#define _XOPEN_SOURCE 700

#include "tests/helpers.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[128]; /* of the model file */

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    snprintf(path, sizeof path, "%s", in_folder("model.gguf"));
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Round trips
 * ---------------------------------------------------------------------------------------- */

static scbm_tensor tensor_of(const char *name, scbm_type type, int n_dims, int64_t a, int64_t b, const void *data) {
    scbm_tensor tensor;
    int64_t shape[2] = {a, b};
    assert_ok(scbm_tensor_init(&tensor, name, type, n_dims, shape));
    tensor.data = (void *)(uintptr_t)data;
    return tensor;
}

static void set_values(scbm_writer *w) {
    static const char *const words[] = {"eins", "", "\xc3\xbc\xe2\x96\x81", "four"};
    static const int64_t numbers[] = {-3, 0, 127};
    static const double reals[] = {0.5, -1e30, 3.25};
    scbm_writer_set_string(w, "general.architecture", "bert");
    scbm_writer_set_int(w, "u8", SCBM_VALUE_U8, 255);
    scbm_writer_set_int(w, "i8", SCBM_VALUE_I8, -128);
    scbm_writer_set_int(w, "u16", SCBM_VALUE_U16, 65535);
    scbm_writer_set_int(w, "i16", SCBM_VALUE_I16, -32768);
    scbm_writer_set_int(w, "u32", SCBM_VALUE_U32, 4294967295);
    scbm_writer_set_int(w, "i32", SCBM_VALUE_I32, -2147483647 - 1);
    scbm_writer_set_int(w, "u64", SCBM_VALUE_U64, INT64_MAX);
    scbm_writer_set_int(w, "i64", SCBM_VALUE_I64, INT64_MIN);
    scbm_writer_set_float(w, "f32", SCBM_VALUE_F32, 0.1);
    scbm_writer_set_float(w, "f64", SCBM_VALUE_F64, 0.1);
    scbm_writer_set_bool(w, "yes", 7);
    scbm_writer_set_bool(w, "no", 0);
    scbm_writer_set_string(w, "empty", "");
    scbm_writer_set_strings(w, "words", words, 4);
    scbm_writer_set_strings(w, "nothing", words, 0);
    scbm_writer_set_ints(w, "numbers", SCBM_VALUE_I8, numbers, 3);
    scbm_writer_set_floats(w, "reals", SCBM_VALUE_F32, reals, 3);
}

static void check_values(const scbm_file *f) {
    const char *text;
    int64_t integer;
    double real;
    assert_int_equal(scbm_file_int_or(f, "u8", 0), 255);
    assert_int_equal(scbm_file_int_or(f, "i8", 0), -128);
    assert_int_equal(scbm_file_int_or(f, "u16", 0), 65535);
    assert_int_equal(scbm_file_int_or(f, "i16", 0), -32768);
    assert_int_equal(scbm_file_int_or(f, "u32", 0), 4294967295);
    assert_int_equal(scbm_file_int_or(f, "i32", 0), -2147483647 - 1);
    assert_true(scbm_file_int_or(f, "u64", 0) == INT64_MAX);
    assert_true(scbm_file_int_or(f, "i64", 0) == INT64_MIN);
    assert_true(scbm_file_float_or(f, "f32", 0) == (double)0.1f);
    assert_true(scbm_file_float_or(f, "f64", 0) == 0.1);
    assert_int_equal(scbm_file_int_or(f, "yes", 5), 1);
    assert_int_equal(scbm_file_int_or(f, "no", 5), 0);
    assert_string_equal(scbm_file_string_or(f, "empty", "x"), "");
    assert_string_equal(scbm_file_string_or(f, "general.architecture", "x"), "bert");
    assert_ok(scbm_file_get_int(f, "i16", &integer));
    assert_ok(scbm_file_get_float(f, "u16", &real)); /* an integer is a number */
    assert_true(real == 65535);
    assert_ok(scbm_file_get_string(f, "empty", &text));

    int64_t words = scbm_file_find_key(f, "words");
    assert_int_equal(scbm_file_key_type(f, words), SCBM_VALUE_ARRAY);
    assert_int_equal(scbm_file_array_type(f, words), SCBM_VALUE_STRING);
    assert_int_equal(scbm_file_array_length(f, words), 4);
    assert_ok(scbm_file_string_at(f, words, 0, &text));
    assert_string_equal(text, "eins");
    assert_ok(scbm_file_string_at(f, words, 2, &text));
    assert_string_equal(text, "\xc3\xbc\xe2\x96\x81");
    assert_ok(scbm_file_string_at(f, words, 3, &text));
    assert_string_equal(text, "four");
    assert_int_equal(scbm_file_array_length(f, scbm_file_find_key(f, "nothing")), 0);
    int64_t numbers = scbm_file_find_key(f, "numbers");
    assert_ok(scbm_file_int_at(f, numbers, 0, &integer));
    assert_int_equal(integer, -3);
    assert_ok(scbm_file_float_at(f, scbm_file_find_key(f, "reals"), 2, &real));
    assert_true(real == 3.25);
    assert_int_equal(scbm_file_array_length(f, scbm_file_find_key(f, "u8")), 1);
    assert_ok(scbm_file_int_at(f, scbm_file_find_key(f, "u8"), 0, &integer));
    assert_int_equal(integer, 255);
}

/* Keys without the one that moves the data. */
static int64_t own_keys(const scbm_file *f) {
    return scbm_file_n_keys(f) - (scbm_file_find_key(f, "sparsecbm.padding") >= 0);
}

static void values_of_every_type_come_back(void **state) {
    (void)state;
    scbm_writer *w;
    scbm_file *f;
    assert_ok(scbm_writer_create(&w, NULL));
    set_values(w);
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    check_values(f);
    assert_string_equal(scbm_file_key(f, 0), "general.architecture");
    assert_int_equal(own_keys(f), 19);
    assert_int_equal(scbm_file_int_or(f, "general.alignment", 0), 32);
    assert_int_equal(scbm_file_n_tensors(f), 0);
    assert_string_equal(scbm_file_path(f), path);
    scbm_file_close(f);
}

static void what_is_not_there_is_an_error(void **state) {
    (void)state;
    scbm_writer *w;
    scbm_file *f;
    int64_t integer;
    double real;
    const char *text;
    assert_ok(scbm_writer_create(&w, NULL));
    set_values(w);
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    assert_error(scbm_file_get_int(f, "absent", &integer), SCBM_ERROR_FORMAT, "model.gguf: key absent is missing");
    assert_error(scbm_file_get_int(f, "words", &integer), SCBM_ERROR_FORMAT, "is an array");
    assert_error(scbm_file_get_int(f, "f32", &integer), SCBM_ERROR_FORMAT, "f32 is not an integer");
    assert_error(scbm_file_get_float(f, "empty", &real), SCBM_ERROR_FORMAT, "empty is not a number");
    assert_error(scbm_file_get_string(f, "u8", &text), SCBM_ERROR_FORMAT, "u8 is not a string");
    assert_int_equal(scbm_file_int_or(f, "words", -9), -9);
    assert_int_equal(scbm_file_int_or(f, "f64", -9), -9);
    assert_true(scbm_file_float_or(f, "empty", -9) == -9);
    assert_string_equal(scbm_file_string_or(f, "u8", "else"), "else");
    assert_int_equal(scbm_file_find_key(f, "absent"), -1);
    assert_null(scbm_file_key(f, -1));
    assert_null(scbm_file_key(f, scbm_file_n_keys(f)));
    int64_t words = scbm_file_find_key(f, "words");
    assert_error(scbm_file_string_at(f, words, 4, &text), SCBM_ERROR_ARGUMENT, "no element 4 of key words");
    assert_error(scbm_file_string_at(f, -1, 0, &text), SCBM_ERROR_ARGUMENT, "no element");
    assert_error(scbm_file_int_at(f, words, 0, &integer), SCBM_ERROR_FORMAT, "words is not of integers");
    assert_null(scbm_file_find_tensor(f, "absent"));
    assert_null(scbm_file_tensor(f, 0));
    scbm_file_close(f);
}

enum { ROWS = 3, COLUMNS = 64 };

static void fill(float *values, int n) {
    for (int i = 0; i < n; i++) values[i] = (float)((i * 7919) % 256 - 128) / 64.0f;
}

/* Each type written as it is, and converted from F32 while writing. */
static void tensors_of_every_type_come_back(void **state) {
    (void)state;
    float values[ROWS * COLUMNS], read[ROWS * COLUMNS];
    unsigned char converted[SCBM_TYPE_COUNT][ROWS * COLUMNS * 8];
    scbm_tensor plain[SCBM_TYPE_COUNT], source[SCBM_TYPE_COUNT];
    scbm_writer *w;
    scbm_file *f;
    fill(values, ROWS * COLUMNS);
    assert_ok(scbm_writer_create(&w, NULL));
    for (int t = 0; t < SCBM_TYPE_COUNT; t++) {
        int is_float = scbm_type_of(t)->is_float;
        char name[32];
        for (int i = 0; i < (int)sizeof converted[t]; i++) converted[t][i] = (unsigned char)(i * 37);
        if (is_float) assert_ok(scbm_convert(t, converted[t], SCBM_F32, values, ROWS * COLUMNS));
        snprintf(name, sizeof name, "plain.%s", scbm_type_of(t)->name);
        plain[t] = tensor_of(name, t, 2, ROWS, COLUMNS, converted[t]);
        scbm_writer_add_tensor(w, &plain[t], t);
        if (!is_float) continue;
        snprintf(name, sizeof name, "converted.%s", scbm_type_of(t)->name);
        source[t] = tensor_of(name, SCBM_F32, 2, ROWS, COLUMNS, values);
        scbm_writer_add_tensor(w, &source[t], t);
    }
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    for (int64_t i = 0; i < scbm_file_n_tensors(f); i++) {
        scbm_tensor *tensor = scbm_file_tensor(f, i);
        assert_int_equal(tensor->n_dims, 2);
        assert_int_equal(tensor->shape[0], ROWS);
        assert_int_equal(tensor->shape[1], COLUMNS);
        assert_int_equal((uintptr_t)tensor->data % 32, 0);
        assert_non_null(strstr(tensor->name, scbm_type_of(tensor->type)->name));
        assert_memory_equal(tensor->data, converted[tensor->type], scbm_tensor_bytes(tensor));
        assert_ptr_equal(scbm_file_find_tensor(f, tensor->name), tensor);
        if (!scbm_type_of(tensor->type)->is_float) continue;
        assert_ok(scbm_convert(SCBM_F32, read, tensor->type, tensor->data, ROWS * COLUMNS));
        for (int j = 0; j < ROWS * COLUMNS; j++) assert_true(fabsf(read[j] - values[j]) < 0.3f);
    }
    scbm_file_close(f);
}

static void long_tensors_are_converted_in_pieces(void **state) {
    (void)state;
    enum { N = 3, M = 20032 };
    float *values = malloc(N * M * sizeof *values);
    unsigned char *wanted = malloc(N * M * 2), *misaligned = malloc(N * M * 4 + 1);
    scbm_writer *w;
    scbm_file *f;
    fill(values, N * M);
    memcpy(misaligned + 1, values, N * M * sizeof *values);
    assert_ok(scbm_convert(SCBM_Q8_0, wanted, SCBM_F32, values, N * M));
    scbm_tensor tensor = tensor_of("long", SCBM_F32, 2, N, M, misaligned + 1);
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_add_tensor(w, &tensor, SCBM_Q8_0);
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    assert_memory_equal(scbm_file_tensor(f, 0)->data, wanted, N * M / 32 * 34);
    scbm_file_close(f);
    free(values);
    free(wanted);
    free(misaligned);
}

/* Counts the tensors that were asked for and fills them with their own values; the third one fails where it shall. */
typedef struct producer {
    int asked, fails;
    const counting_allocator *memory;
} producer;

static scbm_status produce_values(void *user, const scbm_tensor *tensor, void *data) {
    producer *p = user;
    assert_true(p->memory->bytes < 2 * scbm_tensor_bytes(tensor));
    for (int64_t i = 0; i < scbm_tensor_elements(tensor); i++) assert_true(((float *)data)[i] == 0.0f);
    fill(data, (int)scbm_tensor_elements(tensor));
    ((float *)data)[0] = (float)++p->asked;
    return p->fails && p->asked == 3 ? scbm_fail(SCBM_ERROR_NUMERIC, "%s failed", tensor->name) : SCBM_OK;
}

/* Produced tensors are those that were there all along, in any type, and need the memory of one. */
static void produced_tensors_are_written(void **state) {
    (void)state;
    enum { N = 4, SIZE = 200 * 1000 };
    counting_allocator memory = {0};
    const scbm_hooks hooks = allocator_hooks(&memory);
    float *values = malloc(SIZE * sizeof *values), *wanted = malloc(SIZE * sizeof *values);
    scbm_tensor tensors[N];
    for (int fails = 0; fails <= 1; fails++) {
        producer p = {0, fails, &memory};
        scbm_writer *w;
        scbm_file *f;
        empty_folder();
        assert_ok(scbm_writer_create(&w, &hooks));
        for (int i = 0; i < N; i++) {
            char name[8] = {'t', (char)('0' + i), 0};
            tensors[i] = tensor_of(name, SCBM_F32, 2, 200, 1000, NULL);
            scbm_writer_add_tensor_from(w, &tensors[i], i % 2 ? SCBM_F16 : SCBM_F32, produce_values, &p);
        }
        if (fails) assert_error(scbm_writer_write(w, path), SCBM_ERROR_NUMERIC, "t2 failed");
        else assert_ok(scbm_writer_write(w, path));
        scbm_writer_free(w);
        assert_int_equal(memory.held, 0);
        assert_true(exists(path) == !fails);
        if (fails) break;
        assert_ok(scbm_file_open(&f, path, NULL));
        for (int i = 0; i < N; i++) {
            const scbm_tensor *tensor = scbm_file_tensor(f, i);
            fill(wanted, SIZE);
            wanted[0] = (float)(i + 1);
            assert_int_equal(tensor->type, i % 2 ? SCBM_F16 : SCBM_F32);
            assert_ok(scbm_convert(SCBM_F32, values, tensor->type, tensor->data, SIZE)); /* all are exact in F16 */
            assert_memory_equal(values, wanted, SIZE * sizeof *values);
        }
        scbm_file_close(f);
    }
    free(values);
    free(wanted);
}

static void odd_tensors(void **state) {
    (void)state;
    float values[90];
    int64_t four[4] = {2, 3, 5, 3};
    scbm_writer *w;
    scbm_file *f;
    scbm_tensor narrow, none, deep;
    fill(values, 90);
    narrow = tensor_of("narrow", SCBM_F32, 2, 3, 30, values);
    none = tensor_of("none", SCBM_F32, 1, 0, 0, NULL);
    assert_ok(scbm_tensor_init(&deep, "deep", SCBM_F32, 4, four));
    deep.data = values;
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_add_tensor(w, &narrow, SCBM_Q4_0); /* 30 is no multiple of 32 */
    scbm_writer_add_tensor(w, &deep, SCBM_F32);
    scbm_writer_add_tensor(w, &none, SCBM_F32);
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    assert_int_equal(scbm_file_find_tensor(f, "narrow")->type, SCBM_F16);
    assert_int_equal(scbm_file_find_tensor(f, "none")->shape[0], 0);
    assert_memory_equal(scbm_file_find_tensor(f, "deep")->shape, four, sizeof four);
    assert_memory_equal(scbm_file_find_tensor(f, "deep")->data, values, sizeof values);
    scbm_file_close(f);
}

/* llama.cpp can only copy files of GGUF's own alignment, and processors read whole lines of 64 bytes. */
static void data_begins_at_a_line_of_the_cache(void **state) {
    (void)state;
    static const float values[48] = {1, 2, 3};
    static const int64_t shape[] = {48};
    char text[80] = "";
    for (int n = 0; n < 70; n++) {
        scbm_writer *w;
        scbm_file *f;
        scbm_tensor tensor;
        text[n] = 'x';
        assert_ok(scbm_tensor_init(&tensor, "t", SCBM_F32, 1, shape));
        tensor.data = (void *)(uintptr_t)values;
        assert_ok(scbm_writer_create(&w, NULL));
        scbm_writer_set_string(w, "text", text);
        scbm_writer_add_tensor(w, &tensor, SCBM_F32);
        assert_ok(scbm_writer_write(w, path));
        assert_ok(scbm_writer_write(w, path)); /* the same again */
        scbm_writer_free(w);
        assert_ok(scbm_file_open(&f, path, NULL));
        const scbm_tensor *read = scbm_file_tensor(f, 0);
        assert_int_equal((uintptr_t)read->data % 64, 0);
        assert_memory_equal(read->data, values, sizeof values);
        assert_int_equal(scbm_file_int_or(f, "general.alignment", 0), 32);
        scbm_file_close(f);
    }
}

static void keys_are_replaced_removed_and_copied(void **state) {
    (void)state;
    scbm_writer *w;
    scbm_file *f, *again;
    assert_ok(scbm_writer_create(&w, NULL));
    set_values(w);
    scbm_writer_set_string(w, "u8", "now a string, and longer than it was");
    scbm_writer_set_int(w, "u8", SCBM_VALUE_U8, 255);
    scbm_writer_set_int(w, "general.alignment", SCBM_VALUE_U32, 8);
    scbm_writer_set_int(w, "extra", SCBM_VALUE_U8, 1);
    scbm_writer_remove_key(w, "extra");
    scbm_writer_remove_key(w, "absent");
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    check_values(f);
    assert_int_equal(own_keys(f), 19);

    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_set_string(w, "f64", "replaced by the copy");
    scbm_writer_set_string(w, "new", "stays");
    scbm_writer_copy_keys(w, f);
    scbm_writer_set_string(w, "general.architecture", "bert");
    assert_ok(scbm_writer_write(w, path)); /* over the file that is open and read from */
    scbm_writer_free(w);
    check_values(f);
    assert_ok(scbm_file_open(&again, path, NULL));
    check_values(again);
    assert_int_equal(own_keys(again), 20);
    assert_string_equal(scbm_file_string_or(again, "new", ""), "stays");
    scbm_file_close(again);
    scbm_file_close(f);
}

static void assert_writer_error(void (*set)(scbm_writer *), scbm_status wanted, const char *text) {
    scbm_writer *w;
    assert_ok(scbm_writer_create(&w, NULL));
    set(w);
    scbm_writer_set_string(w, "later", "calls do not matter");
    assert_error(scbm_writer_write(w, path), wanted, text);
    scbm_writer_free(w);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(empty_folder(), 0);
}

static scbm_tensor bad_tensor;
static float bad_data[4];

static void set_too_large(scbm_writer *w) {
    scbm_writer_set_int(w, "small", SCBM_VALUE_U8, 256);
}
static void set_negative(scbm_writer *w) {
    scbm_writer_set_int(w, "small", SCBM_VALUE_U64, -1);
}
static void set_wrong_int(scbm_writer *w) {
    scbm_writer_set_int(w, "k", SCBM_VALUE_F32, 1);
}
static void set_wrong_float(scbm_writer *w) {
    scbm_writer_set_float(w, "k", SCBM_VALUE_U32, 1);
}
static void set_null(scbm_writer *w) {
    scbm_writer_set_string(w, "k", NULL);
}
static void set_no_key(scbm_writer *w) {
    scbm_writer_set_string(w, "", "x");
}
static void set_line_break(scbm_writer *w) {
    scbm_writer_set_string(w, "a\nb", "x");
}
static void set_few(scbm_writer *w) {
    scbm_writer_set_strings(w, "k", NULL, -1);
}
static void add_none(scbm_writer *w) {
    scbm_writer_add_tensor(w, NULL, SCBM_F32);
}
static void add_nameless(scbm_writer *w) {
    bad_tensor = tensor_of("", SCBM_F32, 1, 4, 0, bad_data);
    scbm_writer_add_tensor(w, &bad_tensor, SCBM_F32);
}
static void add_integers(scbm_writer *w) {
    bad_tensor = tensor_of("ids", SCBM_I32, 1, 4, 0, bad_data);
    scbm_writer_add_tensor(w, &bad_tensor, SCBM_F16);
}
static void add_without_data(scbm_writer *w) {
    bad_tensor = tensor_of("hollow", SCBM_F32, 1, 4, 0, NULL);
    scbm_writer_add_tensor(w, &bad_tensor, SCBM_F32);
}
static void add_twice(scbm_writer *w) {
    bad_tensor = tensor_of("same", SCBM_F32, 1, 4, 0, bad_data);
    scbm_writer_add_tensor(w, &bad_tensor, SCBM_F32);
    scbm_writer_add_tensor(w, &bad_tensor, SCBM_F16);
}

static void what_cannot_be_written_is_refused(void **state) {
    (void)state;
    empty_folder();
    assert_writer_error(set_too_large, SCBM_ERROR_ARGUMENT, "key small: 256 does not fit");
    assert_writer_error(set_negative, SCBM_ERROR_ARGUMENT, "-1 does not fit");
    assert_writer_error(set_wrong_int, SCBM_ERROR_ARGUMENT, "holds no integers");
    assert_writer_error(set_wrong_float, SCBM_ERROR_ARGUMENT, "holds no real numbers");
    assert_writer_error(set_null, SCBM_ERROR_ARGUMENT, "a string is NULL");
    assert_writer_error(set_no_key, SCBM_ERROR_ARGUMENT, "the key '' is empty");
    assert_writer_error(set_line_break, SCBM_ERROR_ARGUMENT, "control characters");
    assert_writer_error(set_few, SCBM_ERROR_ARGUMENT, "-1 elements");
    assert_writer_error(add_none, SCBM_ERROR_ARGUMENT, "missing");
    assert_writer_error(add_nameless, SCBM_ERROR_ARGUMENT, "no name");
    assert_writer_error(add_integers, SCBM_ERROR_ARGUMENT, "tensor ids is i32 and cannot be written as f16");
    assert_writer_error(add_without_data, SCBM_ERROR_ARGUMENT, "hollow has no data");
    assert_writer_error(add_twice, SCBM_ERROR_ARGUMENT, "same is to be written twice");
}

/* ------------------------------------------------------------------------------------------
 * Damage
 * ---------------------------------------------------------------------------------------- */

/* Bytes of a file that is put together by hand, aligned as memory must be. */
typedef struct image {
    unsigned char *bytes;
    size_t size;
} image;

static image new_image(void) {
    image made = {calloc(1, 1 << 16), 0};
    return made;
}

static void put(image *made, const void *bytes, size_t size) {
    memcpy(made->bytes + made->size, bytes, size);
    made->size += size;
}

static void put_number(image *made, uint64_t value, int size) {
    for (int i = 0; i < size; i++) made->bytes[made->size++] = (unsigned char)(value >> (8 * i));
}

static void put_text(image *made, const char *text) {
    put_number(made, strlen(text), 8);
    put(made, text, strlen(text));
}

static void put_header(image *made, uint64_t n_tensors, uint64_t n_keys) {
    put(made, "GGUF", 4);
    put_number(made, 3, 4);
    put_number(made, n_tensors, 8);
    put_number(made, n_keys, 8);
}

static void put_key(image *made, const char *key, uint32_t type) {
    put_text(made, key);
    put_number(made, type, 4);
}

static void put_tensor(image *made, const char *name, int n_dims, const uint64_t *dims, uint32_t type,
                       uint64_t offset) {
    put_text(made, name);
    put_number(made, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims; i++) put_number(made, dims[i], 8);
    put_number(made, type, 4);
    put_number(made, offset, 8);
}

static void put_data(image *made, size_t size) {
    made->size = (made->size + 31) / 32 * 32 + size;
}

/* Opens the image, which must fail so; frees it. */
static void refuse(image *made, scbm_status wanted, const char *text) {
    scbm_file *f = (scbm_file *)made;
    assert_error(scbm_file_open_memory(&f, made->bytes, made->size, "m", NULL), wanted, text);
    assert_null(f);
    free(made->bytes);
}

/* A file of one tensor, of a type and at an offset, and of `size` bytes of data. */
static void refuse_tensor(const char *name, int n_dims, const uint64_t *dims, uint32_t type, uint64_t offset,
                          size_t size, scbm_status wanted, const char *text) {
    image m = new_image();
    put_header(&m, 1, 0), put_tensor(&m, name, n_dims, dims, type, offset), put_data(&m, size);
    refuse(&m, wanted, text);
}

/* As far as the value of its only key. */
static image image_of_key(const char *key, uint32_t type) {
    image m = new_image();
    put_header(&m, 0, 1), put_key(&m, key, type);
    return m;
}

static const uint64_t four_by_two[] = {4, 2};

static void damaged_headers(void **state) {
    (void)state;
    image m = new_image();
    refuse(&m, SCBM_ERROR_FORMAT, "m: is empty");
    m = new_image(), put(&m, "GG", 2);
    refuse(&m, SCBM_ERROR_FORMAT, "m: is not a GGUF model file");
    m = new_image(), put(&m, "PK\3\4 and so on, quite long enough", 30);
    refuse(&m, SCBM_ERROR_FORMAT, "m: is not a GGUF model file");
    m = new_image(), put(&m, "GGUF\3\0\0\0", 8);
    refuse(&m, SCBM_ERROR_FORMAT, "m: ends in its header");
    m = new_image(), put_header(&m, 0, 0), m.bytes[4] = 2;
    refuse(&m, SCBM_ERROR_UNSUPPORTED, "is of GGUF version 2; version 3 is supported");
    m = new_image(), put_header(&m, 0, 0), m.bytes[4] = 0, m.bytes[7] = 3;
    refuse(&m, SCBM_ERROR_UNSUPPORTED, "big-endian");
    m = new_image(), put_header(&m, 0, UINT64_MAX), put_number(&m, 0, 8);
    refuse(&m, SCBM_ERROR_FORMAT, "18446744073709551615 keys, which its 32 bytes cannot hold");
    m = new_image(), put_header(&m, (uint64_t)1 << 60, 0);
    refuse(&m, SCBM_ERROR_FORMAT, "tensors, which its 24 bytes cannot hold");
}

static void damaged_keys(void **state) {
    (void)state;
    image m;
    m = new_image(), put_header(&m, 0, 1), put_number(&m, UINT64_MAX, 8), put_number(&m, 0, 8);
    refuse(&m, SCBM_ERROR_FORMAT, "ends in the middle of key 1 of 1");
    m = image_of_key("", 0), put_number(&m, 0, 8);
    refuse(&m, SCBM_ERROR_FORMAT, "the name of key 1 is empty");
    m = image_of_key("a\033[2J", 0), put_number(&m, 0, 8);
    refuse(&m, SCBM_ERROR_FORMAT, "control characters");
    m = image_of_key("k", 13), put_number(&m, 0, 8);
    refuse(&m, SCBM_ERROR_FORMAT, "key k is of value type 13");
    m = image_of_key("k", 7), put_number(&m, 2, 1);
    refuse(&m, SCBM_ERROR_FORMAT, "key k is a boolean of value 2");
    m = image_of_key("k", 8), put_number(&m, 3, 8), put(&m, "a\0b", 3);
    refuse(&m, SCBM_ERROR_FORMAT, "string 0 of key k has a NUL in it");
    m = image_of_key("k", 8), put_number(&m, (uint64_t)1 << 63, 8), put(&m, "abc", 3);
    refuse(&m, SCBM_ERROR_FORMAT, "middle of key 1 of 1");
    m = image_of_key("k", 9), put_number(&m, 9, 4), put_number(&m, 0, 8);
    refuse(&m, SCBM_ERROR_UNSUPPORTED, "key k is an array of arrays");
    m = image_of_key("k", 9), put_number(&m, 10, 4), put_number(&m, (uint64_t)1 << 61, 8);
    refuse(&m, SCBM_ERROR_FORMAT, "middle of key 1 of 1");
    m = image_of_key("k", 9), put_number(&m, 8, 4), put_number(&m, 2, 8), put_text(&m, "12345678");
    refuse(&m, SCBM_ERROR_FORMAT, "middle of key 1 of 1");
    m = new_image(), put_header(&m, 0, 2), put_key(&m, "same", 0), put_number(&m, 0, 1), put_key(&m, "same", 0),
    put_number(&m, 0, 1);
    refuse(&m, SCBM_ERROR_FORMAT, "key same is there twice");
    m = image_of_key("general.alignment", 4), put_number(&m, 0, 4);
    refuse(&m, SCBM_ERROR_FORMAT, "general.alignment is 0");
    m = image_of_key("general.alignment", 4), put_number(&m, 12, 4);
    refuse(&m, SCBM_ERROR_FORMAT, "general.alignment is 12");
    m = image_of_key("general.alignment", 8), put_text(&m, "64");
    refuse(&m, SCBM_ERROR_FORMAT, "general.alignment is not an integer");
}

static void damaged_tensors(void **state) {
    (void)state;
    const uint64_t huge[] = {(uint64_t)1 << 40, (uint64_t)1 << 40}, negative[] = {UINT64_MAX, 1}, odd[] = {33, 1},
                   five[] = {1, 1, 1, 1, 1}, wrap[] = {(uint64_t)1 << 32, (uint64_t)1 << 31};
    char longest[97];
    memset(longest, 'n', 96), longest[96] = 0;
    refuse_tensor("t", 5, five, 0, 0, 64, SCBM_ERROR_FORMAT, "tensor t has 5 dimensions");
    refuse_tensor("t", 0, five, 0, 0, 64, SCBM_ERROR_FORMAT, "tensor t has 0 dimensions");
    refuse_tensor("", 1, five, 0, 0, 64, SCBM_ERROR_FORMAT, "the name of tensor 1 is empty");
    refuse_tensor(longest, 1, five, 0, 0, 64, SCBM_ERROR_FORMAT, "the name of tensor 1 has 96 bytes; 95 are possible");
    refuse_tensor("t", 2, four_by_two, 12, 0, 64, SCBM_ERROR_UNSUPPORTED,
                  "tensor t is of type Q4_K, which is not read; the same model in F32, F16, BF16");
    refuse_tensor("t", 2, four_by_two, 99, 0, 64, SCBM_ERROR_UNSUPPORTED,
                  "tensor t is of a type that is not known (number 99)");
    refuse_tensor("t", 2, huge, 0, 0, 64, SCBM_ERROR_FORMAT, "too large");
    refuse_tensor("t", 2, wrap, 0, 0, 64, SCBM_ERROR_FORMAT, "m: ");
    refuse_tensor("t", 2, negative, 0, 0, 64, SCBM_ERROR_FORMAT, "tensor t has a dimension of 18446744073709551615");
    refuse_tensor("t", 2, odd, 8, 0, 64, SCBM_ERROR_FORMAT, "rows of 33 elements are no whole number of q8_0 blocks");
    refuse_tensor("t", 2, four_by_two, 0, 8, 64, SCBM_ERROR_FORMAT,
                  "the data of tensor t starts at 8, no multiple of 32");
    refuse_tensor("t", 2, four_by_two, 0, 32, 32, SCBM_ERROR_FORMAT,
                  "the data of tensor t (32 bytes) reaches beyond the end");
    refuse_tensor("t", 2, four_by_two, 0, UINT64_MAX - 31, 32, SCBM_ERROR_FORMAT, "reaches beyond the end");
    image m = new_image();
    put_header(&m, 2, 0), put_tensor(&m, "t", 2, four_by_two, 0, 0), put_tensor(&m, "t", 1, four_by_two, 0, 32);
    put_data(&m, 64);
    refuse(&m, SCBM_ERROR_FORMAT, "tensor t is there twice");
}

/* A file with a bit of everything, whose last byte counts. */
static unsigned char *small_file(size_t *size) {
    static float values[16 * 32];
    scbm_tensor a = tensor_of("a", SCBM_F32, 2, 16, 32, values), b = tensor_of("b", SCBM_F32, 2, 16, 32, values);
    scbm_writer *w;
    scbm_bytes bytes;
    fill(values, 16 * 32);
    assert_ok(scbm_writer_create(&w, NULL));
    set_values(w);
    scbm_writer_add_tensor(w, &b, SCBM_Q8_0);
    scbm_writer_add_tensor(w, &a, SCBM_F32);
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_bytes_open(&bytes, path, NULL));
    unsigned char *copy = malloc(bytes.size);
    memcpy(copy, bytes.data, bytes.size);
    *size = bytes.size;
    scbm_bytes_close(&bytes, NULL);
    return copy;
}

static void every_truncation_is_an_error(void **state) {
    (void)state;
    size_t size;
    unsigned char *whole = small_file(&size);
    scbm_file *f;
    for (size_t n = 0; n < size; n++) {
        unsigned char *cut = malloc(n + !n); /* of just this size, so that a sanitizer sees every byte beyond it */
        memcpy(cut, whole, n);
        scbm_status status = scbm_file_open_memory(&f, cut, n, "cut", NULL);
        if (status != SCBM_ERROR_FORMAT) fail_msg("%zu of %zu bytes: %s", n, size, scbm_status_name(status));
        assert_int_equal(strncmp(scbm_last_error(), "cut: ", 5), 0);
        free(cut);
    }
    for (size_t n = 0; n < size; n += 97) { /* from a file too */
        write_file(path, whole, n);
        assert_int_equal(scbm_file_open(&f, path, NULL), SCBM_ERROR_FORMAT);
    }
    assert_ok(scbm_file_open_memory(&f, whole, size, "whole", NULL));
    check_values(f);
    scbm_file_close(f);
    free(whole);
}

/* Reads everything that a file has. */
static uint64_t touch(scbm_file *f) {
    uint64_t sum = 0;
    for (int64_t k = 0; k < scbm_file_n_keys(f); k++) {
        for (int64_t i = 0; i < scbm_file_array_length(f, k); i++) {
            const char *text = "";
            int64_t integer = 0;
            double real = 0;
            if (scbm_file_string_at(f, k, i, &text) == SCBM_OK) sum += strlen(text);
            if (scbm_file_int_at(f, k, i, &integer) == SCBM_OK) sum += (uint64_t)integer;
            if (scbm_file_float_at(f, k, i, &real) == SCBM_OK) sum += real > 0;
        }
    }
    for (int64_t t = 0; t < scbm_file_n_tensors(f); t++) {
        const scbm_tensor *tensor = scbm_file_tensor(f, t);
        for (size_t i = 0; i < scbm_tensor_bytes(tensor); i++) sum += ((const unsigned char *)tensor->data)[i];
    }
    return sum;
}

static void every_flipped_bit_is_survived(void **state) {
    (void)state;
    size_t size;
    unsigned char *whole = small_file(&size);
    uint64_t sum = 0;
    size_t header = size - 16 * 32 * 4 - 16 * 34;
    for (size_t bit = 0; bit < header * 8; bit++) {
        scbm_file *f;
        whole[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (scbm_file_open_memory(&f, whole, size, "flipped", NULL) == SCBM_OK) {
            sum += touch(f);
            scbm_file_close(f);
        }
        whole[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(sum > 0);
    free(whole);
}

static void misaligned_memory_is_copied(void **state) {
    (void)state;
    size_t size;
    unsigned char *whole = small_file(&size), *room = malloc(size + 8);
    scbm_file *f;
    for (int shift = 0; shift < 8; shift++) {
        memcpy(room + shift, whole, size);
        assert_ok(scbm_file_open_memory(&f, room + shift, size, NULL, NULL));
        check_values(f);
        assert_int_equal((uintptr_t)scbm_file_tensor(f, 0)->data % 8, 0);
        assert_string_equal(scbm_file_path(f), "model in memory");
        assert_int_equal(scbm_file_size(f), size);
        scbm_file_close(f);
    }
    free(room);
    free(whole);
}

static void another_alignment_is_read(void **state) {
    (void)state;
    image m = new_image();
    scbm_file *f;
    put_header(&m, 1, 1), put_key(&m, "general.alignment", 4), put_number(&m, 8, 4);
    put_tensor(&m, "t", 2, four_by_two, 0, 8);
    m.size = (m.size + 7) / 8 * 8 + 8;
    float values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    put(&m, values, sizeof values);
    assert_ok(scbm_file_open_memory(&f, m.bytes, m.size, "m", NULL));
    assert_int_equal(scbm_file_tensor(f, 0)->shape[0], 2);
    assert_int_equal(scbm_file_tensor(f, 0)->shape[1], 4);
    assert_memory_equal(scbm_file_tensor(f, 0)->data, values, sizeof values);
    scbm_file_close(f);
    free(m.bytes);
}

static void large_vocabularies_are_read(void **state) {
    (void)state;
    enum { N = 250000 };
    char(*words)[16] = malloc(N * sizeof *words);
    const char **pointers = malloc(N * sizeof *pointers);
    const char *text;
    scbm_writer *w;
    scbm_file *f;
    for (int i = 0; i < N; i++) {
        snprintf(words[i], sizeof words[i], "word%d", i);
        pointers[i] = words[i];
    }
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_set_strings(w, "tokenizer.ggml.tokens", pointers, N);
    assert_ok(scbm_writer_write(w, path));
    scbm_writer_free(w);
    assert_ok(scbm_file_open(&f, path, NULL));
    for (int i = 0; i < N; i += 777) {
        assert_ok(scbm_file_string_at(f, 0, i, &text));
        assert_string_equal(text, words[i]);
    }
    scbm_file_close(f);
    free(words);
    free(pointers);
}

/* ------------------------------------------------------------------------------------------
 * Out of memory: the n-th allocation fails, for every n
 * ---------------------------------------------------------------------------------------- */

static scbm_status write_and_read(const scbm_hooks *hooks, const scbm_tensor *tensor) {
    scbm_writer *w;
    scbm_file *f;
    scbm_status status = scbm_writer_create(&w, hooks);
    if (status) return status;
    set_values(w);
    scbm_writer_add_tensor(w, tensor, SCBM_F16);
    status = scbm_writer_write(w, path);
    scbm_writer_free(w);
    if (!status) status = scbm_file_open(&f, path, hooks);
    if (!status) scbm_file_close(f);
    return status;
}

static void every_failing_allocation_is_an_error(void **state) {
    (void)state;
    static float values[64];
    scbm_status status = SCBM_ERROR_MEMORY;
    scbm_tensor tensor = tensor_of("t", SCBM_F32, 2, 2, 32, values);
    fill(values, 64);
    empty_folder();
    int n = 0;
    for (; status; n++) {
        counting_allocator memory = {.fails_at = n + 1, .fails_on = 1};
        const scbm_hooks hooks = allocator_hooks(&memory);
        status = write_and_read(&hooks, &tensor);
        if (status) assert_error(status, SCBM_ERROR_MEMORY, "out of memory");
        assert_int_equal(memory.held, 0);
        assert_true(empty_folder() <= 1);
    }
    assert_true(n > 20);
}

/* ------------------------------------------------------------------------------------------
 * Files that are replaced as a whole
 * ---------------------------------------------------------------------------------------- */

static void assert_holds(const char *text) {
    scbm_bytes bytes;
    assert_ok(scbm_bytes_open(&bytes, path, NULL));
    assert_int_equal(bytes.size, strlen(text));
    assert_memory_equal(bytes.data, text, bytes.size);
    scbm_bytes_close(&bytes, NULL);
}

static void a_file_is_the_old_one_or_the_new_one(void **state) {
    (void)state;
    scbm_output_file *output;
    empty_folder();
    write_file(path, "old", 3);
    assert_ok(scbm_output_open(&output, path, NULL));
    scbm_output_print(output, "%s %d\n", "number", 5);
    assert_holds("old");
    scbm_output_abandon(output);
    scbm_output_abandon(NULL);
    assert_holds("old");
    assert_ok(scbm_output_open(&output, path, NULL));
    scbm_output_write(output, "new ", 4);
    scbm_output_print(output, "%0600d", 7); /* longer than what is formatted on the stack */
    assert_holds("old");
    assert_ok(scbm_output_commit(output));
    struct stat facts;
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_size, 604);
    assert_int_equal(empty_folder(), 1);
}

static void permissions_and_links_stay(void **state) {
    (void)state;
    scbm_output_file *output;
    struct stat facts;
    const char *link = in_folder("link");
    empty_folder();
    write_file(path, "old", 3);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink("model.gguf", link), 0);
    assert_ok(scbm_output_open(&output, link, NULL));
    scbm_output_print(output, "new");
    assert_ok(scbm_output_commit(output));
    assert_holds("new");
    assert_int_equal(lstat(link, &facts), 0);
    assert_true(S_ISLNK(facts.st_mode));
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0640);
    assert_int_equal(empty_folder(), 2);
}

static void links_to_no_file_are_refused(void **state) {
    (void)state;
    static const char *const targets[] = {"model.gguf", "missing/model.gguf", "link"}; /* the last to itself */
    const char *link = in_folder("link");
    scbm_output_file *output;
    struct stat facts;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        empty_folder();
        assert_int_equal(symlink(targets[i], link), 0);
        assert_error(scbm_output_open(&output, link, NULL), SCBM_ERROR_IO, "link: is a symbolic link that leads to no file");
        assert_int_equal(lstat(link, &facts), 0);
        assert_true(S_ISLNK(facts.st_mode));
        assert_int_equal(empty_folder(), 1);
    }
}

static void places_that_cannot_be_written(void **state) {
    (void)state;
    scbm_output_file *output;
    assert_error(scbm_output_open(&output, folder, NULL), SCBM_ERROR_IO, "is a folder");
    assert_error(scbm_output_open(&output, in_folder("absent/file"), NULL), SCBM_ERROR_IO,
                 "absent/file: cannot be written: No such file");
    assert_error(scbm_output_open(&output, "", NULL), SCBM_ERROR_ARGUMENT, "needs a name");
    assert_null(output);
}

static void a_full_disk_is_an_error(void **state) {
    (void)state;
    scbm_output_file *output;
    struct stat facts;
    if (stat("/dev/full", &facts)) skip();
    assert_ok(scbm_output_open(&output, "/dev/full", NULL));
    scbm_output_print(output, "lost");
    assert_error(scbm_output_commit(output), SCBM_ERROR_IO, "/dev/full: cannot be written: No space left on device");
    assert_int_equal(stat("/dev/full", &facts), 0);
    assert_true(S_ISCHR(facts.st_mode)); /* and not replaced */

    static float values[64];
    scbm_tensor tensor = tensor_of("t", SCBM_F32, 2, 2, 32, values);
    scbm_writer *w;
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_add_tensor(w, &tensor, SCBM_Q4_0);
    assert_error(scbm_writer_write(w, "/dev/full"), SCBM_ERROR_IO, "No space left");
    scbm_writer_free(w);
}

/* The disk fills up after every possible number of bytes: the old file stays, and nothing else. */
static void a_disk_that_fills_up_leaves_the_old_file(void **state) {
    (void)state;
    static float values[256 * 1024]; /* more than a buffer */
    scbm_tensor tensor = tensor_of("t", SCBM_F32, 2, 256, 1024, values);
    struct rlimit before, limit;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    empty_folder();
    write_file(path, "old", 3);
    getrlimit(RLIMIT_FSIZE, &before);
    for (rlim_t most = 0; most < sizeof values; most += 100001) {
        scbm_writer *w;
        assert_ok(scbm_writer_create(&w, NULL));
        set_values(w);
        scbm_writer_add_tensor(w, &tensor, SCBM_F32);
        limit = before;
        limit.rlim_cur = most;
        setrlimit(RLIMIT_FSIZE, &limit);
        scbm_status status = scbm_writer_write(w, path);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_error(status, SCBM_ERROR_IO, "model.gguf: cannot be written: File too large");
        scbm_writer_free(w);
        assert_holds("old");
    }
    signal(SIGXFSZ, handler);
    assert_int_equal(empty_folder(), 1);
}

static char beside_text[8][160];

/* The name of temporary file n of the model. */
static const char *temporary(int n) {
    snprintf(beside_text[n % 8], sizeof beside_text[0], "%s.%d.tmp", path, n);
    return beside_text[n % 8];
}

static void write_text(const char *text) {
    scbm_output_file *output;
    assert_ok(scbm_output_open(&output, path, NULL));
    scbm_output_write(output, text, strlen(text));
    assert_ok(scbm_output_commit(output));
    assert_holds(text);
}

static void what_a_dead_process_left_is_removed(void **state) {
    (void)state;
    empty_folder();
    for (int n = 0; n < 5; n += n ? 2 : 1) write_file(temporary(n), "half of a fi", 12);
    assert_int_equal(chmod(temporary(3), 0400), 0);
    write_file(in_folder("model.gguf.notes.tmp"), "someone's", 9);
    write_text("whole");
    assert_true(exists(in_folder("model.gguf.notes.tmp")));
    assert_int_equal(empty_folder(), 2);
}

/* Whoever holds a temporary file has its lock; what is no file of ours is no matter of ours. */
static void what_others_write_stays(void **state) {
    (void)state;
    scbm_output_file *first, *second;
    empty_folder();
    int held = open(temporary(0), O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(held, LOCK_EX), 0);
    write_file(in_folder("precious"), "precious", 8);
    assert_int_equal(symlink(in_folder("precious"), temporary(1)), 0);
    assert_int_equal(mkdir(temporary(2), 0700), 0);
    assert_int_equal(mkfifo(temporary(3), 0600), 0);
    write_text("one");
    assert_true(exists(temporary(0)) && exists(temporary(1)) && exists(temporary(2)) && exists(temporary(3)));
    assert_int_equal(unlink(temporary(1)), 0);
    assert_ok(scbm_output_open(&first, path, NULL)); /* two at once */
    assert_ok(scbm_output_open(&second, path, NULL));
    scbm_output_write(first, "first", 5);
    scbm_output_write(second, "second", 6);
    assert_ok(scbm_output_commit(second));
    assert_holds("second");
    assert_ok(scbm_output_commit(first));
    assert_holds("first");
    close(held);
    write_text("last");
    assert_false(exists(temporary(0)) || exists(temporary(1)));
    assert_int_equal(unlink(temporary(3)), 0);
    assert_int_equal(rmdir(temporary(2)), 0);
    assert_int_equal(empty_folder(), 2);
}

/* What the handler of a signal does. */
static void temporary_files_can_be_removed_at_once(void **state) {
    (void)state;
    scbm_output_file *output[40];
    char name[32];
    empty_folder();
    for (int i = 0; i < COUNT_OF(output); i++) {
        snprintf(name, sizeof name, "f%d", i);
        assert_ok(scbm_output_open(&output[i], in_folder(name), NULL));
    }
    pid_t child = fork();
    if (child == 0) {
        scbm_output_remove_temporary(); /* they are not the child's */
        _exit(0);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_true(exists(in_folder("f0.0.tmp")) && exists(in_folder("f39.0.tmp")));
    scbm_output_remove_temporary();
    assert_false(exists(in_folder("f0.0.tmp")));
    assert_error(scbm_output_commit(output[0]), SCBM_ERROR_IO, "f0: cannot be replaced");
    for (int i = 1; i < COUNT_OF(output); i++) scbm_output_abandon(output[i]);
    assert_int_equal(empty_folder(), 0);
}

static int asks_once(void *user) {
    return ++*(int *)user > 1;
}

static void writing_can_be_cancelled(void **state) {
    (void)state;
    float values[4] = {1, 2, 3, 4};
    int asked = 0;
    scbm_tensor a = tensor_of("a", SCBM_F32, 2, 1, 4, values), b = tensor_of("b", SCBM_F32, 2, 1, 4, values);
    const scbm_hooks hooks = {.user = &asked, .cancel = asks_once};
    scbm_writer *w;
    empty_folder();
    write_file(path, "old", 3);
    assert_ok(scbm_writer_create(&w, &hooks));
    scbm_writer_add_tensor(w, &a, SCBM_F32);
    scbm_writer_add_tensor(w, &b, SCBM_F32);
    assert_error(scbm_writer_write(w, path), SCBM_ERROR_CANCELLED, "cancelled");
    scbm_writer_free(w);
    assert_holds("old");
    assert_int_equal(empty_folder(), 1);
}

/* A fused matrix becomes its parts, which lie in its memory; one whose rows are no three equal parts stays as it is. */
static void fused_tensors_are_split(void **state) {
    (void)state;
    static const char *const parts[] = {"q.weight", "k.weight", "v.weight"};
    float values[24], odd[8] = {0};
    fill(values, 24);
    scbm_tensor fused = tensor_of("blk.0.qkv.weight", SCBM_F32, 2, 6, 4, values),
                other = tensor_of("blk.1.qkv.weight", SCBM_F32, 2, 2, 4, odd),
                similar = tensor_of("blk.0.xqkv.weight", SCBM_F32, 2, 6, 4, values),
                taken = tensor_of("blk.0.k.weight", SCBM_F32, 2, 2, 4, odd);
    for (int clashes = 0; clashes < 2; clashes++) {
        scbm_writer *w;
        scbm_file *f;
        empty_folder();
        assert_ok(scbm_writer_create(&w, NULL));
        scbm_writer_add_tensor(w, &other, SCBM_F32);
        scbm_writer_add_tensor(w, &fused, SCBM_F32);
        scbm_writer_add_tensor(w, &similar, SCBM_F32);
        if (clashes) scbm_writer_add_tensor(w, &taken, SCBM_F32);
        assert_ok(scbm_writer_write(w, path));
        scbm_writer_free(w);
        assert_ok(scbm_file_open(&f, path, NULL));
        if (clashes) {
            assert_error(scbm_file_split_tensors(f, "qkv.weight", parts, 3), SCBM_ERROR_FORMAT, "blk.0.k.weight is there twice");
            assert_int_equal(scbm_file_n_tensors(f), 4);
            assert_non_null(scbm_file_find_tensor(f, "blk.0.qkv.weight"));
        } else {
            assert_ok(scbm_file_split_tensors(f, "qkv.weight", parts, 3));
            assert_ok(scbm_file_split_tensors(f, "qkv.weight", parts, 3)); /* and no second time */
            assert_int_equal(scbm_file_n_tensors(f), 5);
            assert_null(scbm_file_find_tensor(f, "blk.0.qkv.weight"));
            assert_non_null(scbm_file_find_tensor(f, "blk.1.qkv.weight"));
            assert_non_null(scbm_file_find_tensor(f, "blk.0.xqkv.weight"));
            const scbm_tensor *k = scbm_file_find_tensor(f, "blk.0.k.weight"), *v = scbm_file_find_tensor(f, "blk.0.v.weight");
            assert_true(k && k->n_dims == 2 && k->shape[0] == 2 && k->shape[1] == 4);
            assert_memory_equal(k->data, values + 8, 8 * sizeof *values);
            assert_memory_equal(v->data, values + 16, 8 * sizeof *values);
        }
        scbm_file_close(f);
    }
}

static void files_that_cannot_be_read(void **state) {
    (void)state;
    scbm_file *f;
    scbm_bytes bytes;
    assert_error(scbm_file_open(&f, in_folder("absent"), NULL), SCBM_ERROR_IO,
                 "absent: cannot be opened: No such file");
    assert_null(f);
    assert_error(scbm_file_open(&f, folder, NULL), SCBM_ERROR_IO, "is a folder");
    assert_error(scbm_file_open(&f, "", NULL), SCBM_ERROR_ARGUMENT, "needs a name");
    write_file(path, "", 0);
    assert_error(scbm_file_open(&f, path, NULL), SCBM_ERROR_FORMAT, "is empty");
    assert_ok(scbm_bytes_open(&bytes, path, NULL));
    assert_int_equal(bytes.size, 0);
    assert_non_null(bytes.data);
    scbm_bytes_close(&bytes, NULL);
    scbm_file_close(NULL);
}

/* What cannot be mapped is read: /proc says that its files have no bytes. */
static void files_without_a_size_are_read(void **state) {
    (void)state;
    scbm_bytes bytes;
    if (access("/proc/self/maps", R_OK)) skip();
    assert_ok(scbm_bytes_open(&bytes, "/proc/self/maps", NULL));
    assert_true(bytes.size > 100);
    assert_non_null(bytes.handle);
    scbm_bytes_close(&bytes, NULL);
}

/* ------------------------------------------------------------------------------------------
 * Numbers in text
 * ---------------------------------------------------------------------------------------- */

static double parse(const char *text) {
    double value = NAN;
    assert_ok(scbm_parse_double(text, strlen(text), &value));
    return value;
}

static void numbers_are_parsed(void **state) {
    (void)state;
    static const char *const good[] = {"0",
                                       "1",
                                       "-1",
                                       "+1",
                                       "1.",
                                       ".5",
                                       "1e3",
                                       "1E-3",
                                       "1e+3",
                                       "123456789012345678901234567890",
                                       "0.1",
                                       "1e22",
                                       "1e23",
                                       "9007199254740993",
                                       "2.2250738585072011e-308",
                                       "4.9e-324",
                                       "2.4703282292062328e-324",
                                       "1.7976931348623157e308",
                                       "1.7976931348623158e308",
                                       "0.000000000000000000000000000000000000000000001",
                                       "1e-400",
                                       "0e999999999999999999999",
                                       "100000000000000000000000e-23",
                                       "3.141592653589793238462643383279502884197",
                                       "6.631236846766476e-316",
                                       "17976931348623157e292",
                                       "0.50000000000000000000000000000000000000000001"};
    static const char *const bad[] = {"",    " 1",   "1 ",  "-",   "+",     ".",   "e5",    "1e",    "1e+",
                                      "1,5", "0x10", "nan", "inf", "1.2.3", "--1", "1e5.5", "1_000", "infinity"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double value = parse(good[i]);
        if (value != strtod(good[i], NULL)) fail_msg("%s gave %.17g", good[i], value);
    }
    assert_true(signbit(parse("-0")));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double value = 42;
        assert_error(scbm_parse_double(bad[i], strlen(bad[i]), &value), SCBM_ERROR_FORMAT, "is not a number");
        assert_true(value == 42);
    }
    double value;
    assert_error(scbm_parse_double("1e309", 5, &value), SCBM_ERROR_FORMAT, "'1e309' is too large");
    assert_error(scbm_parse_double("-1e99999999999", 14, &value), SCBM_ERROR_FORMAT, "too large");
    assert_ok(scbm_parse_double("12345", 3, &value)); /* the length counts, not the NUL */
    assert_true(value == 123);
    /* Exactly between two doubles, and a little above: the 800th digit decides. */
    char tie[1200] = "9007199254740993.";
    memset(tie + 17, '0', 1000);
    assert_true(parse(tie) == 9007199254740992.0);
    tie[1016] = '1';
    assert_true(parse(tie) == 9007199254740994.0);
}

static void numbers_are_printed(void **state) {
    (void)state;
    char text[32];
    assert_string_equal(scbm_print_double(0.1, text), "0.1");
    assert_string_equal(scbm_print_double(0.1 + 0.2, text), "0.30000000000000004");
    assert_string_equal(scbm_print_double(-1.5, text), "-1.5");
    assert_string_equal(scbm_print_double(100, text), "100");
    assert_string_equal(scbm_print_double(12.5, text), "12.5");
    assert_string_equal(scbm_print_double(1e16, text), "1e16");
    assert_string_equal(scbm_print_double(1234567890123456, text), "1234567890123456");
    assert_string_equal(scbm_print_double(0.0001, text), "0.0001");
    assert_string_equal(scbm_print_double(0.00001, text), "0.00001");
    assert_string_equal(scbm_print_double(0.000001, text), "1e-6");
    assert_string_equal(scbm_print_double(1.25e-10, text), "1.25e-10");
    assert_string_equal(scbm_print_double(5e-324, text), "5e-324");
    assert_string_equal(scbm_print_double(DBL_MAX, text), "1.7976931348623157e308");
    assert_string_equal(scbm_print_double(0, text), "0");
    assert_string_equal(scbm_print_double(-0.0, text), "-0");
    assert_string_equal(scbm_print_double(NAN, text), "nan");
    assert_string_equal(scbm_print_double(-INFINITY, text), "-inf");
    assert_string_equal(scbm_print_float(0.1f, text), "0.1");
    assert_string_equal(scbm_print_float(16777216.0f, text), "16777216");
    assert_string_equal(scbm_print_float(3.4028235e38f, text), "3.4028235e38");
    assert_string_equal(scbm_print_float(1e-45f, text), "1e-45");
    assert_string_equal(scbm_print_float(0.3f, text), "0.3");
    assert_string_equal(scbm_print_float(1.0f / 3.0f, text), "0.33333334");
}

static uint64_t noise(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state ^ (*state >> 29);
}

/* Doubles and floats of random bits come back, and no text with fewer digits would do. */
static void printed_numbers_read_back(void **state) {
    (void)state;
    uint64_t seed = 1;
    char text[32], shorter[64];
    for (int i = 0; i < 200000; i++) {
        uint64_t bits = noise(&seed);
        uint32_t half = (uint32_t)(bits >> 17);
        double value;
        float single;
        if (i % 4 == 0) bits = (bits >> 12) | (uint64_t)(1013 + i % 30) << 52; /* of usual size */
        if (i % 4 == 1) half = (half >> 9) | (uint32_t)(117 + i % 30) << 23;
        memcpy(&value, &bits, sizeof value);
        memcpy(&single, &half, sizeof single);
        if (isfinite(value) && parse(scbm_print_double(value, text)) != value) fail_msg("%.17g as %s", value, text);
        if (isfinite(single) && (float)parse(scbm_print_float(single, text)) != single)
            fail_msg("%.9g as %s", (double)single, text);
        if (!isfinite(single) || single == 0 || i % 8) continue;
        int digits = 0, zeros = 0; /* of the text; zeros at the end only place the point */
        for (const char *c = text; *c && *c != 'e'; c++) {
            if (*c < '0' || *c > '9') continue;
            zeros = *c == '0' ? zeros + 1 : 0;
            digits += digits || *c != '0';
        }
        digits -= zeros;
        int precision = 1;
        for (; precision < 9; precision++) {
            snprintf(shorter, sizeof shorter, "%.*e", precision - 1, (double)single);
            if (strtof(shorter, NULL) == single) break;
        }
        if (digits > precision) fail_msg("%s, but %s is enough", text, shorter);
    }
}

static void the_locale_does_not_matter(void **state) {
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8",  "de_DE",      "fr_FR.UTF-8",
                                        "fr_FR.utf8",  "da_DK.UTF-8", "ru_RU.UTF-8"};
    const char *found = NULL;
    char text[64];
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++) found = setlocale(LC_NUMERIC, names[i]);
    if (!found) skip();
    snprintf(text, sizeof text, "%.1f", 1.5);
    if (strcmp(text, "1,5") != 0) {
        setlocale(LC_NUMERIC, "C");
        skip();
    }
    assert_true(parse("1.5") == 1.5);
    assert_true(parse("1.2345678901234567e-300") == 1.2345678901234567e-300);
    assert_string_equal(scbm_print_double(0.1 + 0.2, text), "0.30000000000000004");
    assert_string_equal(scbm_print_double(1.5e300, text), "1.5e300");
    assert_string_equal(scbm_print_float(1.0f / 3.0f, text), "0.33333334");
    assert_string_equal(scbm_print_float(1.17549435e-38f, text), "1.1754944e-38");
    numbers_are_printed(state);
    double value;
    assert_error(scbm_parse_double("1,5", 3, &value), SCBM_ERROR_FORMAT, "not a number");
    setlocale(LC_NUMERIC, "C");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_every_type_come_back),
        cmocka_unit_test(what_is_not_there_is_an_error),
        cmocka_unit_test(tensors_of_every_type_come_back),
        cmocka_unit_test(long_tensors_are_converted_in_pieces),
        cmocka_unit_test(produced_tensors_are_written),
        cmocka_unit_test(odd_tensors),
        cmocka_unit_test(data_begins_at_a_line_of_the_cache),
        cmocka_unit_test(keys_are_replaced_removed_and_copied),
        cmocka_unit_test(what_cannot_be_written_is_refused),
        cmocka_unit_test(damaged_headers),
        cmocka_unit_test(damaged_keys),
        cmocka_unit_test(damaged_tensors),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(misaligned_memory_is_copied),
        cmocka_unit_test(another_alignment_is_read),
        cmocka_unit_test(large_vocabularies_are_read),
        cmocka_unit_test(every_failing_allocation_is_an_error),
        cmocka_unit_test(a_file_is_the_old_one_or_the_new_one),
        cmocka_unit_test(permissions_and_links_stay),
        cmocka_unit_test(links_to_no_file_are_refused),
        cmocka_unit_test(places_that_cannot_be_written),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(a_disk_that_fills_up_leaves_the_old_file),
        cmocka_unit_test(what_a_dead_process_left_is_removed),
        cmocka_unit_test(what_others_write_stays),
        cmocka_unit_test(temporary_files_can_be_removed_at_once),
        cmocka_unit_test(writing_can_be_cancelled),
        cmocka_unit_test(fused_tensors_are_split),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(files_without_a_size_are_read),
        cmocka_unit_test(numbers_are_parsed),
        cmocka_unit_test(numbers_are_printed),
        cmocka_unit_test(printed_numbers_read_back),
        cmocka_unit_test(the_locale_does_not_matter),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
