/*
 * tests/test-encoder.c - encoders with random weights: what is in the file, and the vocabulary that texts make
 */
#include "models/cbm-train.h"
#include "models/core/context.h"
#include "models/tokenizers/word-list.h"
#include "tests/helpers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static char path[128];

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    snprintf(path, sizeof path, "%s", in_folder("encoder.gguf"));
    return 0;
}

static scbm_file *open_created(const cbm_random_encoder_options *options) {
    scbm_file *file;
    assert_ok(cbm_random_encoder_write(path, options));
    assert_ok(scbm_file_open(&file, path, NULL));
    return file;
}

/* ------------------------------------------------------------------------------------------
 * Weights
 * ---------------------------------------------------------------------------------------- */

static void check_vector(const scbm_tensor *tensor) {
    const float wanted = strstr(tensor->name, "weight") ? 1.0f : 0.0f, *data = tensor->data;
    for (int64_t i = 0; i < scbm_tensor_elements(tensor); i++) assert_true(data[i] == wanted);
}

/* Mean 0 and the deviation, to five standard errors; and not the numbers of the tensor before. */
static void check_matrix(const scbm_tensor *tensor, double deviation, float *first) {
    const float *data = tensor->data;
    double n = (double)scbm_tensor_elements(tensor), sum = 0, squares = 0;
    for (int64_t i = 0; i < (int64_t)n; i++) {
        sum += data[i];
        squares += (double)data[i] * data[i];
    }
    assert_near(sum / n, 0, 5 * deviation / sqrt(n));
    assert_near(sqrt(squares / n), deviation, 5 * deviation / sqrt(2 * n));
    assert_true(data[0] != *first);
    *first = data[0];
}

static void weights_are_drawn_as_bert_draws_them(void **state) {
    (void)state;
    static const double deviations[] = {0, 0.1};
    for (size_t d = 0; d < 2; d++) {
        const cbm_random_encoder_options options = {
            .hidden = 32, .blocks = 2, .heads = 2, .deviation = deviations[d], .seed = d};
        scbm_file *file = open_created(&options);
        float first = 0;
        int n_matrices = 0;
        assert_int_equal(scbm_file_n_tensors(file), 5 + 16 * 2);
        for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
            const scbm_tensor *tensor = scbm_file_tensor(file, i);
            assert_int_equal(tensor->type, SCBM_F32);
            if (tensor->n_dims == 1) check_vector(tensor);
            else check_matrix(tensor, d ? 0.1 : 0.02, &first), n_matrices++;
        }
        assert_int_equal(n_matrices, 3 + 6 * 2);
        scbm_file_close(file);
    }
}

static void sizes_are_those_asked_for(void **state) {
    (void)state;
    const cbm_random_encoder_options options = {
        .hidden = 24, .blocks = 3, .heads = 6, .feed_forward = 40, .max_tokens = 17, .name = "made up"};
    scbm_file *file = open_created(&options);
    int64_t value;
    assert_ok(scbm_file_get_int(file, "bert.block_count", &value));
    assert_int_equal(value, 3);
    assert_ok(scbm_file_get_int(file, "bert.attention.head_count", &value));
    assert_int_equal(value, 6);
    assert_int_equal(scbm_file_find_tensor(file, "blk.2.ffn_up.weight")->shape[0], 40);
    assert_int_equal(scbm_file_find_tensor(file, "blk.2.ffn_up.weight")->shape[1], 24);
    assert_int_equal(scbm_file_find_tensor(file, "position_embd.weight")->shape[0], 17);
    assert_string_equal(scbm_file_string_or(file, "general.name", ""), "made up");
    scbm_file_close(file);
    cbm_model *model;
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_int_equal(cbm_model_mode(model), CBM_ENCODER);
    assert_int_equal(cbm_model_hidden_size(model), 24);
    assert_int_equal(cbm_model_max_tokens(model), 17);
    cbm_model_free(model);
}

static void the_same_options_give_the_same_bytes(void **state) {
    (void)state;
    cbm_random_encoder_options zero = {0}, small = {.hidden = 8, .blocks = 1, .heads = 1, .seed = 5};
    assert_ok(cbm_random_encoder_write(path, NULL));
    assert_ok(cbm_random_encoder_write(in_folder("zero.gguf"), &zero)); /* {0} is NULL */
    assert_true(same_files(path, in_folder("zero.gguf")));
    assert_ok(cbm_random_encoder_write(path, &small));
    assert_ok(cbm_random_encoder_write(in_folder("small.gguf"), &small));
    assert_true(same_files(path, in_folder("small.gguf")));
    small.seed = 6;
    assert_ok(cbm_random_encoder_write(in_folder("small.gguf"), &small));
    assert_false(same_files(path, in_folder("small.gguf")));
}

/* What is made can be run: a vector of length 1 for a text, another one for another text. */
static void a_created_encoder_embeds(void **state) {
    (void)state;
    static const char *const texts[] = {"The soup was cold.", "A lovely evening!"};
    float vectors[2][16], squares = 0;
    const cbm_random_encoder_options options = {.hidden = 16, .blocks = 2, .heads = 2, .texts = texts, .n_texts = 2};
    cbm_model *model;
    cbm_context *context;
    assert_ok(cbm_random_encoder_write(path, &options));
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_ok(cbm_context_create(&context, model, NULL));
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_FILE, 1, vectors[0], NULL));
    for (int i = 0; i < 16; i++) squares += vectors[0][i] * vectors[0][i];
    assert_near(squares, 1, 1e-5);
    assert_memory_not_equal(vectors[0], vectors[1], sizeof vectors[0]);
    cbm_context_free(context);
    cbm_model_free(model);
}

/* ------------------------------------------------------------------------------------------
 * The vocabulary
 * ---------------------------------------------------------------------------------------- */

static int32_t find(const cbm_word_list *list, const char *piece) {
    for (int32_t i = 0; i < list->n; i++)
        if (strcmp(list->piece[i], piece) == 0) return i;
    return -1;
}

static void make_list(cbm_word_list *list, int cased, const char *const *texts, size_t n, int32_t most) {
    cbm_wordpiece_options options;
    cbm_wordpiece_defaults(&options);
    options.lowercase = !cased;
    assert_ok(cbm_word_list_create(list, &options, texts, NULL, n, most, NULL));
}

static void words_come_by_how_often_they_are_there(void **state) {
    (void)state;
    static const char *const texts[] = {"beta Alpha, alpha; gamma", "gamma ALPHA d\xC3\xA9j\xC3\xA0-vu",
                                        "\xE5\x9B\x9B\xE5\xB7\x9D x"};
    cbm_word_list list;
    make_list(&list, 0, texts, 3, 1000);
    assert_string_equal(list.piece[0], "[PAD]");
    assert_string_equal(list.piece[4], "[MASK]");
    /* 33 punctuation marks, 26 letters, 10 digits, and the two ideographs, each of which is a word, but no accents */
    enum { CHARACTERS = 32 + 26 + 10 + 2, WORDS = 5 + 2 * CHARACTERS };
    assert_int_equal(list.n, WORDS + 5);
    assert_string_equal(list.piece[WORDS], "alpha");
    assert_string_equal(list.piece[WORDS + 1], "gamma");
    assert_string_equal(list.piece[WORDS + 2], "beta");
    assert_string_equal(list.piece[WORDS + 3], "deja");
    assert_string_equal(list.piece[WORDS + 4], "vu");
    assert_true(find(&list, "\xE5\x9B\x9B") > 4 && find(&list, "##\xE5\x9B\x9B") > 4 && find(&list, "##!") > 4);
    assert_int_equal(find(&list, "A"), -1);
    for (int32_t i = 0; i < list.n; i++) assert_int_equal(find(&list, list.piece[i]), i); /* each once */
    cbm_word_list_clear(&list, NULL);

    make_list(&list, 1, texts, 1, 1000);
    assert_true(find(&list, "Alpha") > 0 && find(&list, "alpha") > 0 && find(&list, "A") > 0);
    cbm_word_list_clear(&list, NULL);

    make_list(&list, 0, texts, 3, WORDS + 2); /* the rarest are left out */
    assert_int_equal(list.n, WORDS + 2);
    assert_string_equal(list.piece[WORDS + 1], "gamma");
    cbm_word_list_clear(&list, NULL);
}

/* Words of the texts are one token, others are spelled, and nothing of their characters is unknown. */
static void texts_are_read_by_their_vocabulary(void **state) {
    (void)state;
    static const char *const texts[] = {"The waiter was lovely"};
    const cbm_random_encoder_options options = {.hidden = 8, .blocks = 1, .heads = 1, .texts = texts, .n_texts = 1};
    cbm_tokens tokens = {0};
    cbm_model *model;
    assert_ok(cbm_random_encoder_write(path, &options));
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_ok(cbm_tokenize(model->tokenizer, texts[0], strlen(texts[0]), 64, &tokens));
    assert_int_equal(tokens.n, 6);
    const char *spelled = "Ray was (odd) ~99\\";
    assert_ok(cbm_tokenize(model->tokenizer, spelled, strlen(spelled), 64, &tokens));
    assert_int_equal(tokens.n, 2 + 3 + 1 + 5 + 1 + 2 + 1);
    for (size_t i = 0; i < tokens.n; i++) assert_int_not_equal(tokens.ids[i], 1);
    assert_ok(cbm_tokenize(model->tokenizer, "\xE2\x82\xAC", 3, 64, &tokens)); /* a euro sign is in no text */
    assert_int_equal(tokens.ids[1], 1);
    cbm_tokens_clear(&tokens, NULL);
    cbm_model_free(model);
}

static void a_given_vocabulary_is_taken_as_it_is(void **state) {
    (void)state;
    static const char *const given[] = {"[CLS]", "the", "##s", "[SEP]", "[UNK]", "soup"};
    const cbm_random_encoder_options options = {.hidden = 8, .blocks = 1, .heads = 1, .tokens = given, .n_tokens = 6};
    const int32_t wanted[] = {0, 1, 5, 2, 4, 3};
    cbm_tokens tokens = {0};
    cbm_model *model;
    assert_ok(cbm_random_encoder_write(path, &options));
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_ok(cbm_tokenize(model->tokenizer, "The soups!", 10, 64, &tokens));
    assert_int_equal(tokens.n, 6);
    assert_memory_equal(tokens.ids, wanted, sizeof wanted);
    assert_int_equal(cbm_tokenizer_special(model->tokenizer, CBM_TOKEN_MASK), -1);
    cbm_tokens_clear(&tokens, NULL);
    cbm_model_free(model);
}

static void check_ids(const cbm_model *model, const char *text, const int32_t *wanted, size_t n) {
    cbm_tokens tokens = {0};
    assert_ok(cbm_tokenize(model->tokenizer, text, strlen(text), 64, &tokens));
    assert_int_equal(tokens.n, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(tokens.ids[i], wanted[i]);
    cbm_tokens_clear(&tokens, NULL);
}

/* A BiLSTM's words are those of the texts, whole, by how often they are there; others are [UNK], and nothing is put around. */
static void a_bilstm_reads_whole_words(void **state) {
    (void)state;
    static const char *const texts[] = {"A soup, a waiter; a D\xC3\xA9j\xC3\xA0-vu.", "soup"};
    static const char *const words[] = {"[PAD]", "[UNK]", "[MASK]", "a", "soup", ",", "waiter"};
    const cbm_random_encoder_options options = {.architecture = "bilstm", .hidden = 8, .texts = texts, .n_texts = 2};
    cbm_model *model;
    assert_ok(cbm_random_encoder_write(path, &options));
    assert_ok(cbm_model_load(&model, path, NULL));
    for (int32_t i = 0; i < 7; i++) assert_string_equal(cbm_token_piece(model->tokenizer, i), words[i]);
    assert_int_equal(cbm_tokenizer_size(model->tokenizer), 7 + 5); /* ; deja - vu . */
    check_ids(model, "A SOUP, soups d\xC3\xA9j\xC3\xA0 waiterx", (const int32_t[]){3, 4, 5, 1, 8, 1}, 6);
    check_ids(model, "", NULL, 0);
    check_ids(model, "[MASK] [CLS]", (const int32_t[]){2, 1, 1, 1}, 4);
    assert_int_equal(cbm_model_pooling(model), CBM_POOL_ATTENTION);
    assert_int_equal(cbm_model_hidden_size(model), 8);
    assert_int_equal(scbm_file_int_or(model->file, "sparsecbm.embedding_width", 0), 300);
    cbm_model_free(model);
}

/* Weights of a text's tokens by their products with the last state of each direction, here in double. */
static void attention_sums_a_text_up(void **state) {
    (void)state;
    static const char *const texts[] = {"the soup was cold and the waiter rude", "soup"};
    const cbm_random_encoder_options options = {.architecture = "bilstm", .hidden = 6, .texts = texts, .n_texts = 2};
    float mean[2][6], attended[2][6], first[2][6], last[2][6];
    cbm_model *model;
    cbm_context *context;
    assert_ok(cbm_random_encoder_write(path, &options));
    assert_ok(cbm_model_load(&model, path, NULL));
    assert_ok(cbm_context_create(&context, model, NULL));
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_FILE, CBM_NORMALIZE_NO, attended[0], NULL));
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_MEAN, CBM_NORMALIZE_NO, mean[0], NULL));
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_FIRST, CBM_NORMALIZE_NO, first[0], NULL));
    assert_ok(cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_LAST, CBM_NORMALIZE_NO, last[0], NULL));
    for (int j = 0; j < 6; j++) assert_near(attended[1][j], mean[1][j], 1e-6); /* one token has all the weight */
    assert_memory_not_equal(attended[0], mean[0], sizeof mean[0]);
    double with_query = 0, of_mean = 0; /* what is more like the query weighs more */
    for (int j = 0; j < 6; j++) {
        double query = j < 3 ? last[0][j] : first[0][j];
        with_query += query * attended[0][j];
        of_mean += query * mean[0][j];
    }
    assert_true(with_query > of_mean);
    cbm_context_free(context);
    cbm_model_free(model);
}

/* ------------------------------------------------------------------------------------------
 * What is refused
 * ---------------------------------------------------------------------------------------- */

static void what_cannot_be_made_is_refused(void **state) {
    (void)state;
    static const char *const bad_text[] = {"fine", "\xC3("}, *const no_unknown[] = {"[CLS]", "[SEP]", "a"};
    static const char *const empty[] = {"[CLS]", "[SEP]", "[UNK]", ""};
    const struct {
        cbm_random_encoder_options options;
        scbm_status status;
        const char *message;
    } cases[] = {
        {{.architecture = "elman"}, SCBM_ERROR_UNSUPPORTED, "no architecture 'elman'"},
        {{.hidden = -1}, SCBM_ERROR_ARGUMENT, "-1 dimensions"},
        {{.hidden = 10, .heads = 3}, SCBM_ERROR_FORMAT, "a hidden size of 10 cannot be cut into 3 attention heads"},
        {{.heads = 300}, SCBM_ERROR_ARGUMENT, "300 heads"},
        {{.architecture = "bilstm", .hidden = 7, .texts = bad_text, .n_texts = 1}, SCBM_ERROR_FORMAT, "two directions"},
        {{.architecture = "bilstm", .blocks = 2, .embedding_width = 30, .texts = bad_text, .n_texts = 1},
         SCBM_ERROR_FORMAT,
         "words of width 30 under 2 blocks of 256"},
        {{.architecture = "bilstm"}, SCBM_ERROR_ARGUMENT, "no words"},
        {{.architecture = "bilstm", .max_vocabulary = 3, .texts = bad_text, .n_texts = 1},
         SCBM_ERROR_ARGUMENT,
         "no room for words"},
        {{.blocks = 5000}, SCBM_ERROR_ARGUMENT, "5000 blocks"},
        {{.max_tokens = 1}, SCBM_ERROR_ARGUMENT, "1 positions"},
        {{.feed_forward = -4}, SCBM_ERROR_ARGUMENT, "-4 neurons"},
        {{.deviation = -1}, SCBM_ERROR_ARGUMENT, "deviation of -1"},
        {{.deviation = NAN}, SCBM_ERROR_ARGUMENT, "deviation"},
        {{.n_tokens = -1}, SCBM_ERROR_ARGUMENT, "negative"},
        {{.n_texts = 1}, SCBM_ERROR_ARGUMENT, "list is NULL"},
        {{.max_vocabulary = 20}, SCBM_ERROR_ARGUMENT, "a vocabulary of 20 tokens is too small"},
        {{.texts = bad_text, .n_texts = 2}, SCBM_ERROR_FORMAT, "text 2 is not UTF-8 at byte offset 0"},
        {{.tokens = no_unknown, .n_tokens = 3}, SCBM_ERROR_ARGUMENT, "the vocabulary has no [UNK]"},
        {{.tokens = empty, .n_tokens = 4}, SCBM_ERROR_ARGUMENT, "token 3 of the vocabulary is empty"},
    };
    empty_folder();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_error(cbm_random_encoder_write(path, &cases[i].options), cases[i].status, cases[i].message);
    assert_error(cbm_random_encoder_write(NULL, NULL), SCBM_ERROR_ARGUMENT, "NULL");
    assert_false(exists(path));
    assert_error(cbm_random_encoder_write(in_folder("no/where.gguf"), NULL), SCBM_ERROR_IO, "no/where.gguf");
}

static void a_random_model_has_the_masks_that_were_asked_for(void **state) {
    (void)state;
    const cbm_random_encoder_options small = {.hidden = 32, .blocks = 2, .heads = 2, .max_tokens = 16};
    const cbm_random_model_options options = {.n_concepts = 3, .sparsity = 0.6, .seed = 7}, dense = {.sparsity = -1},
                                   none = {.n_concepts = -1}, defaults = {0};
    const char *model_path = in_folder("model.gguf");
    cbm_model *model;
    assert_ok(cbm_random_encoder_write(path, &small));
    assert_ok(cbm_random_model_write(model_path, path, &options));
    assert_ok(cbm_model_load(&model, model_path, NULL));
    assert_int_equal(cbm_model_n_concepts(model), 3);
    assert_true(cbm_model_is_sparse(model));
    for (int k = 0; k < 3; k++) assert_true(fabs(cbm_model_density(model, k, -1) - 0.4) < 0.02);
    assert_true(fabs(cbm_model_overlap(model, 0, 1, -1) - 0.16 / 0.64) < 0.02);
    cbm_model_free(model);
    assert_ok(cbm_random_model_write(model_path, path, &dense));
    assert_ok(cbm_model_load(&model, model_path, NULL));
    assert_int_equal(cbm_model_n_concepts(model), 4);
    assert_false(cbm_model_is_sparse(model));
    cbm_model_free(model);
    assert_ok(cbm_random_model_write(model_path, path, &defaults));
    assert_ok(cbm_random_model_write(in_folder("null.gguf"), path, NULL));
    assert_true(same_files(in_folder("model.gguf"), in_folder("null.gguf")));
    assert_error(cbm_random_model_write(in_folder("x.gguf"), path, &none), SCBM_ERROR_ARGUMENT, "1 to 64");
}

static void every_failing_allocation_is_an_error(void **state) {
    (void)state;
    static const char *const texts[] = {"The waiter was lovely, the soup was not"};
    scbm_status status = SCBM_ERROR_MEMORY;
    empty_folder();
    for (int n = 1; status; n++) {
        counting_allocator memory = {.fails_at = n};
        const scbm_hooks hooks = allocator_hooks(&memory);
        const cbm_random_encoder_options options = {
            .hidden = 8, .blocks = 1, .heads = 1, .texts = texts, .n_texts = 1, .hooks = &hooks};
        status = cbm_random_encoder_write(path, &options);
        if (status && status != SCBM_ERROR_MEMORY) fail_msg("allocation %d: %s", n, scbm_last_error());
        assert_int_equal(memory.held, 0);
        assert_true(exists(path) == !status);
        assert_true(n < 2000);
    }
}

typedef struct stopper {
    counting_allocator memory;
    int n, stop;
} stopper;

static int stop_at(void *user) {
    stopper *s = user;
    return ++s->n == s->stop;
}

static void a_cancelled_encoder_leaves_nothing(void **state) {
    (void)state;
    static const char *const texts[] = {"The waiter was lovely", "the soup was not"};
    empty_folder();
    for (int stop = 0, n = 0; stop <= n; stop += 1 + stop / 20) {
        stopper s = {.stop = stop};
        scbm_hooks hooks = allocator_hooks(&s.memory);
        hooks.cancel = stop_at;
        const cbm_random_encoder_options options = {
            .hidden = 8, .blocks = 1, .heads = 1, .max_tokens = 4, .texts = texts, .n_texts = 2, .hooks = &hooks};
        scbm_status status = cbm_random_encoder_write(path, &options);
        if (stop) assert_error(status, SCBM_ERROR_CANCELLED, "cancelled");
        else assert_ok(status);
        if (!stop) n = s.n;
        assert_int_equal(s.memory.held, 0);
        assert_int_equal(empty_folder(), !stop);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_drawn_as_bert_draws_them),
        cmocka_unit_test(sizes_are_those_asked_for),
        cmocka_unit_test(the_same_options_give_the_same_bytes),
        cmocka_unit_test(a_created_encoder_embeds),
        cmocka_unit_test(words_come_by_how_often_they_are_there),
        cmocka_unit_test(texts_are_read_by_their_vocabulary),
        cmocka_unit_test(a_given_vocabulary_is_taken_as_it_is),
        cmocka_unit_test(a_bilstm_reads_whole_words),
        cmocka_unit_test(attention_sums_a_text_up),
        cmocka_unit_test(what_cannot_be_made_is_refused),
        cmocka_unit_test(every_failing_allocation_is_an_error),
        cmocka_unit_test(a_random_model_has_the_masks_that_were_asked_for),
        cmocka_unit_test(a_cancelled_encoder_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
