/*
 * tests/test-export.c - a model's encoder as a Hugging Face folder: converted again it is the same file, and a folder is
 * there whole or not at all. That transformers opens it is tests/parity's to say.
 */
#define _XOPEN_SOURCE 700

#include "convert/safetensors.h"
#include "tests/small-sparse.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char encoder_path[128], sparse_path[128], target[128];

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    snprintf(encoder_path, sizeof encoder_path, "%s", in_folder("encoder.gguf"));
    snprintf(sparse_path, sizeof sparse_path, "%s", in_folder("sparse.gguf"));
    snprintf(target, sizeof target, "%s", in_folder("exported"));
    const cbm_random_encoder_options options = {
        .hidden = 24, .blocks = 1, .heads = 2, .max_tokens = 20, .name = "small"};
    assert_ok(cbm_random_encoder_write(encoder_path, &options));
    assert_ok(small_encoder(in_folder("small.gguf"), NULL));
    small_train(sparse_path, in_folder("small.gguf"), CBM_JOINT, "random", 0.6, 2, 40);
    return 0;
}

/* Removes the exported folder; how many files and folders are beside the models then. */
static int clean(void) {
    char line[256];
    int n = 0;
    snprintf(line, sizeof line, "rm -rf '%s'", target);
    assert_int_equal(system(line), 0);
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));) n += entry->d_name[0] != '.';
    closedir(entries);
    return n;
}

static scbm_status export_file(const char *path, const cbm_export_options *options) {
    cbm_model *model;
    assert_ok(cbm_model_load(&model, path, NULL));
    scbm_status status = cbm_export(model, target, options);
    cbm_model_free(model);
    return status;
}

static const char *in_target(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", target, name);
    return path;
}

/* Rewrites a model file with some keys changed. */
typedef void (*change_keys)(scbm_writer *writer);
static void rewrite(const char *from, const char *to, change_keys change, const char *without) {
    scbm_file *file;
    scbm_writer *writer;
    assert_ok(scbm_file_open(&file, from, NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    change(writer);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        if (!without || strcmp(tensor->name, without) != 0) scbm_writer_add_tensor(writer, tensor, tensor->type);
    }
    assert_ok(scbm_writer_write(writer, to));
    scbm_writer_free(writer);
    scbm_file_close(file);
}

/* ------------------------------------------------------------------------------------------
 * There and back
 * ---------------------------------------------------------------------------------------- */

static void change_nothing(scbm_writer *writer) {
    (void)writer;
}

static void change_everything(scbm_writer *writer) {
    static const int64_t mask = 4; /* [MASK] */
    scbm_writer_set_string(writer, "general.license", "mit");
    scbm_writer_set_string(writer, "general.license.link", "https://example.org/licence");
    scbm_writer_set_string(writer, "general.source.repo_url", "https://example.org/model");
    scbm_writer_set_int(writer, "bert.pooling_type", SCBM_VALUE_U32, 2);
    scbm_writer_set_bool(writer, "sparsecbm.normalize", 1);
    scbm_writer_set_string(writer, "sparsecbm.activation", "gelu_tanh");
    scbm_writer_set_float(writer, "sparsecbm.hidden_dropout", SCBM_VALUE_F32, 0.3);
    scbm_writer_set_float(writer, "bert.attention.layer_norm_epsilon", SCBM_VALUE_F32, 1e-5);
    scbm_writer_set_int(writer, "sparsecbm.max_tokens", SCBM_VALUE_U32, 11);
    scbm_writer_set_bool(writer, "tokenizer.ggml.normalizer.lowercase", 0);
    scbm_writer_set_bool(writer, "tokenizer.ggml.normalizer.strip_accents", 1);
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.cjk_spacing", 0);
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.clean_text", 0);
    scbm_writer_set_int(writer, "sparsecbm.tokenizer.max_word_characters", SCBM_VALUE_U32, 17);
    scbm_writer_set_ints(writer, "sparsecbm.tokenizer.single_word", SCBM_VALUE_I32, &mask, 1);
    scbm_writer_set_ints(writer, "sparsecbm.tokenizer.lstrip", SCBM_VALUE_I32, &mask, 1);
}

/* Every key of the one file is in the other, with the same value. */
static void assert_same_keys(const char *a, const char *b) {
    scbm_file *x, *y;
    assert_ok(scbm_file_open(&x, a, NULL));
    assert_ok(scbm_file_open(&y, b, NULL));
    for (int64_t i = 0; i < scbm_file_n_keys(x); i++) {
        const char *key = scbm_file_key(x, i), *p, *q;
        int64_t j = scbm_file_find_key(y, key), m, n;
        double f, g;
        if (j < 0) fail_msg("%s is missing", key);
        assert_int_equal(scbm_file_array_length(x, i), scbm_file_array_length(y, j));
        for (int64_t e = 0; e < scbm_file_array_length(x, i); e++) {
            if (!scbm_file_string_at(x, i, e, &p)) {
                assert_ok(scbm_file_string_at(y, j, e, &q));
                assert_string_equal(p, q);
            } else if (!scbm_file_int_at(x, i, e, &m)) {
                assert_ok(scbm_file_int_at(y, j, e, &n));
                if (m != n) fail_msg("%s: %d is %d", key, (int)m, (int)n);
            } else {
                assert_ok(scbm_file_float_at(x, i, e, &f));
                assert_ok(scbm_file_float_at(y, j, e, &g));
                assert_true(f == g);
            }
        }
    }
    scbm_file_close(x);
    scbm_file_close(y);
}

static void assert_same_tensors(const char *a, const char *b) {
    scbm_file *x, *y;
    assert_ok(scbm_file_open(&x, a, NULL));
    assert_ok(scbm_file_open(&y, b, NULL));
    assert_int_equal(scbm_file_n_tensors(x), scbm_file_n_tensors(y));
    for (int64_t i = 0; i < scbm_file_n_tensors(x); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(x, i), *other = scbm_file_find_tensor(y, tensor->name);
        assert_non_null(other);
        assert_memory_equal(tensor->shape, other->shape, sizeof tensor->shape);
        assert_memory_equal(tensor->data, other->data, scbm_tensor_bytes(tensor));
    }
    scbm_file_close(x);
    scbm_file_close(y);
}

static void an_encoder_comes_back(void **state) {
    (void)state;
    static const change_keys changes[] = {change_nothing, change_everything};
    for (size_t i = 0; i < 2; i++) {
        clean();
        rewrite(encoder_path, in_folder("changed.gguf"), changes[i], NULL);
        assert_ok(export_file(in_folder("changed.gguf"), NULL));
        assert_ok(cbm_convert(target, in_folder("again.gguf"), NULL, NULL));
        assert_same_keys(in_folder("changed.gguf"), in_folder("again.gguf"));
        assert_same_tensors(in_folder("changed.gguf"), in_folder("again.gguf"));
    }
    clean();
}

/* A model file may lack token types, which Hugging Face's class adds to every token: they are zeros. */
static void what_the_class_needs_is_zeros(void **state) {
    (void)state;
    safetensors *file;
    rewrite(encoder_path, in_folder("changed.gguf"), change_nothing, "token_types.weight");
    assert_ok(export_file(in_folder("changed.gguf"), NULL));
    assert_ok(cbm_safetensors_open(&file, in_target("model.safetensors"), NULL));
    const stored_tensor *tensor = cbm_safetensors_find(file, "embeddings.token_type_embeddings.weight");
    assert_non_null(tensor);
    assert_int_equal(tensor->shape[0], 2);
    for (uint64_t i = 0; i < tensor->bytes; i++) assert_int_equal(tensor->data[i], 0);
    cbm_safetensors_close(file);
    clean();
}

/* ------------------------------------------------------------------------------------------
 * Concepts
 * ---------------------------------------------------------------------------------------- */

static void check_concept(const cbm_model *model, int k) {
    const cbm_export_options options = {.concept = k < 0 ? NULL : cbm_model_concept(model, k)};
    safetensors *file;
    clean();
    assert_ok(cbm_export(model, target, &options));
    assert_ok(cbm_safetensors_open(&file, in_target("model.safetensors"), NULL));
    for (int block = 0; block < SMALL_LAYERS; block++) {
        char name[64];
        const cbm_parameter *parameter = cbm_backbone_find(&model->network.backbone, CBM_FEED_UP, block);
        const float *weight = parameter->tensor->data;
        int64_t in = parameter->tensor->shape[1], n_zeros = 0;
        snprintf(name, sizeof name, "encoder.layer.%d.intermediate.dense.weight", block);
        const unsigned char *exported = cbm_safetensors_find(file, name)->data;
        for (int64_t i = 0; i < scbm_tensor_elements(parameter->tensor); i++) {
            int kept = k < 0 || cbm_mask_get(cbm_mask_row(parameter->masks, k, i / in), i % in);
            float value;
            memcpy(&value, exported + i * (int64_t)sizeof value, sizeof value);
            assert_true(value == (kept ? weight[i] : 0.0f));
            n_zeros += !kept;
        }
        assert_true(k < 0 || n_zeros > 0);
    }
    cbm_safetensors_close(file);
}

static void a_concept_is_its_subnetwork(void **state) {
    (void)state;
    cbm_model *model;
    assert_ok(cbm_model_load(&model, sparse_path, NULL));
    for (int k = -1; k < SMALL_CONCEPTS; k++) check_concept(model, k);
    cbm_model_free(model);
    clean();
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

static void the_folder_must_be_free(void **state) {
    (void)state;
    clean();
    assert_int_equal(mkdir(target, 0777), 0);
    assert_ok(export_file(encoder_path, NULL)); /* it was empty */
    assert_error(export_file(encoder_path, NULL), SCBM_ERROR_IO, "exported: is there already");
    assert_true(exists(in_target("config.json")));
    int before = clean();
    write_file(target, "a file", 6);
    assert_error(export_file(encoder_path, NULL), SCBM_ERROR_IO, "exported: is there already");
    assert_int_equal(clean(), before);
    cbm_model *model;
    assert_ok(cbm_model_load(&model, encoder_path, NULL));
    assert_error(cbm_export(model, in_folder("no/where"), NULL), SCBM_ERROR_IO, "no/where: cannot be written");
    assert_error(cbm_export(model, "", NULL), SCBM_ERROR_ARGUMENT, "name of 0 bytes");
    assert_error(cbm_export(model, NULL, NULL), SCBM_ERROR_ARGUMENT, "NULL");
    snprintf(target, sizeof target, "%s/", in_folder("exported")); /* a dash behind is no other folder */
    assert_ok(cbm_export(model, target, NULL));
    snprintf(target, sizeof target, "%s", in_folder("exported"));
    assert_true(exists(in_target("model.safetensors")));
    assert_int_equal(clean(), before);
    cbm_model_free(model);
}

static void change_causal(scbm_writer *writer) {
    scbm_writer_set_bool(writer, "bert.attention.causal", 1);
}

static void what_cannot_be_exported_is_refused(void **state) {
    (void)state;
    int before = clean();
    cbm_export_options options = {.concept = "taste"};
    assert_error(export_file(encoder_path, &options), SCBM_ERROR_ARGUMENT, "its concepts have no subnetworks");
    options.concept = "price";
    assert_error(export_file(sparse_path, &options), SCBM_ERROR_ARGUMENT, "there is no concept 'price'");
    options = (cbm_export_options){.reserved = {1}};
    assert_error(export_file(encoder_path, &options), SCBM_ERROR_ARGUMENT, "cbm_export_options");
    rewrite(encoder_path, in_folder("changed.gguf"), change_causal, NULL);
    assert_error(export_file(in_folder("changed.gguf"), NULL), SCBM_ERROR_UNSUPPORTED, "a causal BERT encoder");
    assert_int_equal(clean(), before);
}

typedef struct stopper {
    counting_allocator memory;
    int n, stop;
} stopper;

static int stop_at(void *user, const char *what, int64_t done, int64_t total) {
    stopper *s = user;
    assert_string_equal(what, "tensors written");
    assert_true(done == s->n + 1 && done <= total);
    return ++s->n == s->stop;
}

static void a_stopped_export_leaves_nothing(void **state) {
    (void)state;
    int before = clean();
    for (int stop = 0, n = 0; stop <= n; stop++) {
        stopper s = {.stop = stop};
        scbm_hooks hooks = allocator_hooks(&s.memory);
        hooks.progress = stop_at;
        const cbm_export_options options = {.hooks = &hooks};
        scbm_status status = export_file(encoder_path, &options);
        assert_int_equal(s.memory.held, 0);
        if (stop) assert_error(status, SCBM_ERROR_CANCELLED, "cancelled");
        else assert_ok(status);
        if (!stop) assert_int_equal(n = s.n, 5 + 16);
        assert_true(exists(target) == !stop);
        assert_int_equal(clean(), before);
    }
}

static void every_failing_allocation_is_an_error(void **state) {
    (void)state;
    int before = clean();
    scbm_status status = SCBM_ERROR_MEMORY;
    for (int n = 1; status; n++) {
        counting_allocator memory = {.fails_at = n};
        const scbm_hooks hooks = allocator_hooks(&memory);
        const cbm_export_options options = {.hooks = &hooks};
        status = export_file(encoder_path, &options);
        if (status && status != SCBM_ERROR_MEMORY) fail_msg("allocation %d: %s", n, scbm_last_error());
        assert_int_equal(memory.held, 0);
        assert_true(exists(target) == !status);
        assert_int_equal(clean(), before);
        assert_true(n < 1000);
    }
}

/* Runs the program that the environment's MAIN names; its exit status, and what it said on both channels in *text. */
static int run_program(const char *arguments, char text[1024]) {
    char line[1024];
    const char *program = getenv("MAIN");
    snprintf(line, sizeof line, "cd '%s' && '%s%s' %s 2>&1", folder, program ? "" : getenv("PWD"),
             program ? program : "/models/main", arguments);
    FILE *stream = popen(line, "r");
    assert_non_null(stream);
    size_t n = fread(text, 1, 1023, stream);
    text[n] = 0;
    int status = pclose(stream);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void the_program_exports(void **state) {
    (void)state;
    static const struct {
        const char *arguments;
        int status;
        const char *message;
    } cases[] = {
        {"export encoder.gguf -o exported", 0, "wrote exported"},
        {"export encoder.gguf -o exported", 1, "exported: is there already"},
        {"convert exported -o again.gguf", 0, "1 blocks of hidden size 24 with 2 heads"},
        {"export sparse.gguf --concept staff -o exported/staff", 0, "wrote exported/staff"},
        {"export sparse.gguf --concept price -o exported/price", 1, "there is no concept 'price'"},
        {"export encoder.gguf --concept staff -o exported/staff2", 1, "no subnetworks"},
        {"export nothing.gguf -o exported/nothing", 1, "nothing.gguf"},
        {"export encoder.gguf", 2, "-o FOLDER is required"},
        {"export -o exported/x", 2, "one model file is expected, got 0"},
        {"export encoder.gguf sparse.gguf -o exported/x", 2, "one model file is expected, got 2"},
    };
    char text[1024];
    clean();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status = run_program(cases[i].arguments, text);
        if (status != cases[i].status || !strstr(text, cases[i].message))
            fail_msg("'%s': status %d, '%s'", cases[i].arguments, status, text);
    }
    assert_true(exists(in_target("staff/model.safetensors")));
    assert_false(exists(in_target("price")));
    clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_encoder_comes_back),
        cmocka_unit_test(what_the_class_needs_is_zeros),
        cmocka_unit_test(a_concept_is_its_subnetwork),
        cmocka_unit_test(the_folder_must_be_free),
        cmocka_unit_test(what_cannot_be_exported_is_refused),
        cmocka_unit_test(a_stopped_export_leaves_nothing),
        cmocka_unit_test(every_failing_allocation_is_an_error),
        cmocka_unit_test(the_program_exports),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
