/*
 * tests/test-llama.c - llama.cpp's ids and embeddings of an encoder of ours, kept in tests/llama/golden.txt, are ours; and
 * so they are of the file as llama.cpp's converter would have written it. tests/llama/compare.py asks llama.cpp itself.
 */
#include "models/cbm.h"
#include "models/tokenizers/tokenizer.h"
#include "tests/helpers.h"
#include "tests/llama/encoder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BOUND 2e-3 /* llama.cpp looks GELU up in a table of half numbers */
enum { HIDDEN = 64, MOST_IDS = 64, LINE = 4096 };

/* llama.cpp's answer to one text. */
typedef struct answer {
    char text[512];
    int32_t ids[MOST_IDS];
    size_t n;
    double embedding[HIDDEN];
} answer;

static void read_ids(answer *a, char *line) {
    a->n = 0;
    for (char *word = strtok(line, " "); word && a->n < MOST_IDS; word = strtok(NULL, " "))
        a->ids[a->n++] = (int32_t)strtol(word, NULL, 10);
}

static void read_embedding(answer *a, char *line) {
    int n = 0;
    for (char *word = strtok(line, " "); word && n < HIDDEN; word = strtok(NULL, " ")) a->embedding[n++] = atof(word);
    assert_int_equal(n, HIDDEN);
}

/* The answers of the tiny model; returns how many there are. */
static int read_golden(answer *answers, int most) {
    static char line[LINE];
    FILE *file = fopen("tests/llama/golden.txt", "r");
    int n = 0, is_tiny = 0;
    if (!file) fail_msg("tests/llama/golden.txt: it is read from the repository's root");
    while (fgets(line, sizeof line, file)) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        if (strncmp(line, "model ", 6) == 0) is_tiny = strcmp(line + 6, "tiny") == 0;
        if (!is_tiny) continue;
        if (strncmp(line, "text ", 5) == 0 && n < most)
            snprintf(answers[n++].text, sizeof answers->text, "%.511s", line + 5);
        else if (strncmp(line, "ids ", 4) == 0) read_ids(&answers[n - 1], line + 4);
        else if (strncmp(line, "embedding ", 10) == 0) read_embedding(&answers[n - 1], line + 10);
    }
    fclose(file);
    return n;
}

static void check_ids(const char *path, const answer *a) {
    scbm_file *file;
    cbm_tokenizer *tokenizer;
    cbm_tokens tokens = {0};
    assert_ok(scbm_file_open(&file, path, NULL));
    assert_ok(cbm_tokenizer_create(&tokenizer, file, NULL));
    assert_ok(cbm_tokenize(tokenizer, a->text, strlen(a->text), MOST_IDS, &tokens));
    if (tokens.n != a->n || memcmp(tokens.ids, a->ids, a->n * sizeof *a->ids) != 0)
        fail_msg("the ids of '%s' are not llama.cpp's", a->text);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(tokenizer);
    scbm_file_close(file);
}

static void check_embedding(cbm_context *ctx, const answer *a) {
    const char *text = a->text;
    float vector[HIDDEN];
    double square = 0, difference = 0;
    assert_ok(cbm_embed_batch(ctx, &text, NULL, 1, CBM_POOL_FILE, CBM_NORMALIZE_NO, vector, NULL));
    for (int i = 0; i < HIDDEN; i++) {
        double x = (double)vector[i] - a->embedding[i];
        difference += x * x;
        square += a->embedding[i] * a->embedding[i];
    }
    if (!(sqrt(difference / square) <= BOUND))
        fail_msg("'%s': the relative norm of the difference is %g", a->text, sqrt(difference / square));
}

static void check_file(const char *path) {
    static answer answers[32];
    cbm_model *model;
    cbm_context *ctx;
    int n = read_golden(answers, COUNT_OF(answers));
    assert_in_range(n, 10, COUNT_OF(answers));
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_ok(cbm_context_create(&ctx, model, NULL));
    for (int i = 0; i < n; i++) {
        check_ids(path, &answers[i]);
        check_embedding(ctx, &answers[i]);
    }
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* The keys that llama.cpp's converter writes and no others. */
static void write_as_llama(const char *from, const char *to) {
    scbm_file *file;
    scbm_writer *w;
    assert_ok(scbm_file_open(&file, from, NULL));
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_copy_keys(w, file);
    for (int64_t i = 0; i < scbm_file_n_keys(file); i++)
        if (strncmp(scbm_file_key(file, i), "sparsecbm.", 10) == 0) scbm_writer_remove_key(w, scbm_file_key(file, i));
    scbm_writer_set_bool(w, "tokenizer.ggml.add_bos_token", 1);
    scbm_writer_set_bool(w, "tokenizer.ggml.add_sep_token", 0); /* which it says of BERT's usual tokenizer.json */
    scbm_writer_set_bool(w, "tokenizer.ggml.add_eos_token", 1);
    scbm_writer_set_string(w, "tokenizer.ggml.pre", "default");
    for (int64_t i = scbm_file_n_tensors(file) - 1; i >= 0; i--) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        scbm_writer_add_tensor(w, tensor, tensor->type);
    }
    assert_ok(scbm_writer_write(w, to));
    scbm_writer_free(w);
    scbm_file_close(file);
}

/* A file with one type of tokens, as a matrix of one row or, as llama.cpp writes such a matrix, as a vector. */
static void write_with_type(const char *from, const char *to, int n_dims) {
    static float values[HIDDEN];
    scbm_tensor type;
    scbm_file *file;
    scbm_writer *w;
    for (int i = 0; i < HIDDEN; i++) values[i] = (float)(i % 7) - 3.0f;
    assert_ok(scbm_tensor_init(&type, "token_types.weight", SCBM_F32, n_dims,
                               n_dims == 1 ? (int64_t[]){HIDDEN} : (int64_t[]){1, HIDDEN}));
    type.data = values;
    assert_ok(scbm_file_open(&file, from, NULL));
    assert_ok(scbm_writer_create(&w, NULL));
    scbm_writer_copy_keys(w, file);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        if (strcmp(tensor->name, type.name) != 0) scbm_writer_add_tensor(w, tensor, tensor->type);
    }
    scbm_writer_add_tensor(w, &type, type.type);
    assert_ok(scbm_writer_write(w, to));
    scbm_writer_free(w);
    scbm_file_close(file);
}

static void embed_text(const char *path, float *vector) {
    const char *text = "the soup was cold";
    cbm_model *model;
    cbm_context *ctx;
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_ok(cbm_context_create(&ctx, model, NULL));
    assert_int_equal(cbm_model_hidden_size(model), HIDDEN);
    assert_ok(cbm_embed_batch(ctx, &text, NULL, 1, CBM_POOL_FILE, CBM_NORMALIZE_NO, vector, NULL));
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* RoBERTa has one type of tokens, and so has what llama.cpp has rewritten of it. */
static void a_matrix_of_one_row_may_be_a_vector(void **state) {
    (void)state;
    const cbm_random_encoder_options options = {
        .architecture = "roberta", .hidden = HIDDEN, .blocks = 1, .heads = 2, .deviation = 0.2};
    float vector[HIDDEN], again[HIDDEN], without[HIDDEN];
    assert_ok(cbm_random_encoder_write(in_folder("roberta.gguf"), &options));
    write_with_type(in_folder("roberta.gguf"), in_folder("matrix.gguf"), 2);
    write_with_type(in_folder("roberta.gguf"), in_folder("vector.gguf"), 1);
    embed_text(in_folder("roberta.gguf"), without);
    embed_text(in_folder("matrix.gguf"), vector);
    embed_text(in_folder("vector.gguf"), again);
    assert_memory_equal(vector, again, sizeof vector);
    assert_memory_not_equal(vector, without, sizeof vector);
}

static void our_file_gives_what_llama_cpp_makes_of_it(void **state) {
    (void)state;
    assert_ok(create_llama_encoder(in_folder("tiny.gguf")));
    check_file(in_folder("tiny.gguf"));
}

static void a_file_of_llama_cpp_gives_the_same(void **state) {
    (void)state;
    assert_ok(create_llama_encoder(in_folder("tiny.gguf")));
    write_as_llama(in_folder("tiny.gguf"), in_folder("llama.gguf"));
    check_file(in_folder("llama.gguf"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(our_file_gives_what_llama_cpp_makes_of_it),
        cmocka_unit_test(a_file_of_llama_cpp_gives_the_same),
        cmocka_unit_test(a_matrix_of_one_row_may_be_a_vector),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
