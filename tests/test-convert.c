/*
 * tests/test-convert.c - Hugging Face folders to model files: every tensor and key arrives, and what is damaged, missing
 * or unknown is named
 */
#define _XOPEN_SOURCE 700

#include "convert/hf-config.h"
#include "convert/hf-tokenizer.h"
#include "convert/hf-weights.h"
#include "convert/safetensors.h"
#include "convert/model-card.h"
#include "convert/verify.h"
#include "models/cbm-train.h"
#include "models/tokenizers/tokenizer.h"
#include "tests/helpers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char checkpoint[128]; /* the folder to convert */
static char output[128];     /* the model file */

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    snprintf(checkpoint, sizeof checkpoint, "%s", in_folder("checkpoint"));
    snprintf(output, sizeof output, "%s", in_folder("model.gguf"));
    return 0;
}

static int start_anew(void **state) {
    (void)state;
    empty_folder();
    return mkdir(checkpoint, 0777);
}

static const char *in_checkpoint(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", checkpoint, name);
    return path;
}

static void write_text(const char *name, const char *text) {
    write_file(in_checkpoint(name), text, strlen(text));
}

/* The text with `what` replaced by `by`; to be freed. */
static char *replaced(const char *text, const char *what, const char *by) {
    const char *at = strstr(text, what);
    if (!at) fail_msg("'%s' is not in the text", what);
    char *result = malloc(strlen(text) + strlen(by) + 1);
    assert_non_null(result);
    sprintf(result, "%.*s%s%s", (int)(at - text), text, by, at + strlen(what));
    return result;
}

/* ------------------------------------------------------------------------------------------
 * Checkpoints
 * ---------------------------------------------------------------------------------------- */

enum { BLOCKS = 2, VOCABULARY = 16, POSITIONS = 24, TYPES = 2, MAX_PARTS = 64 };

/* How a checkpoint is written. */
typedef struct form {
    const char *type; /* of the weights: "F32", "F16", "BF16" */
    int hidden, feed_forward;
    const char *prefix; /* of all names; NULL: none */
    int gamma;          /* LayerNorm's parameters are gamma and beta */
    int extras;         /* pooler, heads and buffers are there too */
    int shards;         /* number of files; 0: one, without an index */
} form;

static const form plain = {"F32", 32, 64, NULL, 0, 0, 0};

/* A safetensors file that is being put together. */
typedef struct safe_file {
    char header[32768];
    size_t header_size;
    unsigned char *data;
    size_t size;
} safe_file;

typedef struct part {
    char hf[80], name[64]; /* as Hugging Face and as the model file have it */
    int64_t rows, columns; /* rows 0: a vector */
    int shard;
} part;

/* Weight i of tensor number `seed`: exact in every type. */
static float value_of(int seed, int64_t i) {
    return (float)((i * 7 + seed * 13) % 61 - 30) / 16;
}

/* The bits of a number that the type holds exactly, little-endian; returns their size. */
static size_t encode(const char *type, float value, unsigned char *bytes) {
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 31;
    if (strcmp(type, "BF16") == 0) bits >>= 16;
    if (strcmp(type, "F16") == 0)
        bits = value == 0 ? 0 : sign << 15 | ((bits >> 23 & 0xff) - 112) << 10 | (bits >> 13 & 0x3ff);
    size_t size = strcmp(type, "F32") == 0 ? 4 : 2;
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(bits >> (8 * i));
    return size;
}

static void put_header(safe_file *file, const char *name, const char *type, const char *shape, size_t begin,
                       size_t end) {
    file->header_size += (size_t)sprintf(file->header + file->header_size,
                                         "%c\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                                         file->header_size ? ',' : '{', name, type, shape, begin, end);
    assert_true(file->header_size < sizeof file->header - 400);
}

static void put_tensor(safe_file *file, const char *name, const char *type, int64_t rows, int64_t columns, int seed) {
    char shape[64];
    size_t begin = file->size;
    int64_t n = (rows ? rows : 1) * columns;
    if (rows) sprintf(shape, "[%lld,%lld]", (long long)rows, (long long)columns);
    else sprintf(shape, "[%lld]", (long long)columns);
    file->data = realloc(file->data, file->size + 4 * (size_t)n);
    assert_non_null(file->data);
    for (int64_t i = 0; i < n; i++) file->size += encode(type, value_of(seed, i), file->data + file->size);
    put_header(file, name, type, shape, begin, file->size);
}

/* The whole file, to be freed. */
static unsigned char *finish_safe_file(safe_file *file, size_t *size) {
    if (!file->header_size) file->header[file->header_size++] = '{';
    file->header[file->header_size++] = '}';
    while (file->header_size % 8) file->header[file->header_size++] = ' ';
    *size = 8 + file->header_size + file->size;
    unsigned char *bytes = malloc(*size);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(file->header_size >> (8 * i));
    memcpy(bytes + 8, file->header, file->header_size);
    if (file->size) memcpy(bytes + 8 + file->header_size, file->data, file->size);
    free(file->data);
    return bytes;
}

static void write_safe_file(safe_file *file, const char *name) {
    size_t size;
    unsigned char *bytes = finish_safe_file(file, &size);
    write_file(in_checkpoint(name), bytes, size);
    free(bytes);
}

static int add_part(part *parts, int n, const char *hf, const char *name, int64_t rows, int64_t columns) {
    assert_true(n < MAX_PARTS);
    snprintf(parts[n].hf, sizeof parts[n].hf, "%s", hf);
    snprintf(parts[n].name, sizeof parts[n].name, "%s", name);
    parts[n].rows = rows;
    parts[n].columns = columns;
    parts[n].shard = 0;
    return n + 1;
}

/* Weight and bias of a layer; rows 0: LayerNorm. */
static int add_layer(part *parts, int n, const form *f, const char *hf, const char *name, int64_t rows,
                     int64_t columns) {
    char full[80], ours[64];
    int gamma = f->gamma && !rows;
    snprintf(full, sizeof full, "%s.%s", hf, gamma ? "gamma" : "weight");
    snprintf(ours, sizeof ours, "%s.weight", name);
    n = add_part(parts, n, full, ours, rows, columns);
    snprintf(full, sizeof full, "%s.%s", hf, gamma ? "beta" : "bias");
    snprintf(ours, sizeof ours, "%s.bias", name);
    return add_part(parts, n, full, ours, 0, rows ? rows : columns);
}

/* All tensors of an encoder of this form. */
static int list_parts(const form *f, part *parts) {
    static const char *const layers[][2] = {{"attention.self.query", "attn_q"},
                                            {"attention.self.key", "attn_k"},
                                            {"attention.self.value", "attn_v"},
                                            {"attention.output.dense", "attn_output"},
                                            {"attention.output.LayerNorm", "attn_output_norm"},
                                            {"intermediate.dense", "ffn_up"},
                                            {"output.dense", "ffn_down"},
                                            {"output.LayerNorm", "layer_output_norm"}};
    int64_t d = f->hidden, m = f->feed_forward;
    const int64_t rows[] = {d, d, d, d, 0, m, d, 0}, columns[] = {d, d, d, d, d, d, m, d};
    int n = 0;
    n = add_part(parts, n, "embeddings.word_embeddings.weight", "token_embd.weight", VOCABULARY, d);
    n = add_part(parts, n, "embeddings.position_embeddings.weight", "position_embd.weight", POSITIONS, d);
    n = add_part(parts, n, "embeddings.token_type_embeddings.weight", "token_types.weight", TYPES, d);
    n = add_layer(parts, n, f, "embeddings.LayerNorm", "token_embd_norm", 0, d);
    for (int block = 0; block < BLOCKS; block++) {
        for (int i = 0; i < 8; i++) {
            char hf[80], name[64];
            snprintf(hf, sizeof hf, "encoder.layer.%d.%s", block, layers[i][0]);
            snprintf(name, sizeof name, "blk.%d.%s", block, layers[i][1]);
            n = add_layer(parts, n, f, hf, name, rows[i], columns[i]);
        }
    }
    assert_int_equal(n, 5 + 16 * BLOCKS);
    return n;
}

static void full_name(const form *f, const part *p, char name[96]) {
    snprintf(name, 96, "%s%.79s", f->prefix ? f->prefix : "", p->hf);
}

static void put_extras(safe_file *file) {
    put_tensor(file, "bert.pooler.dense.weight", "F32", 32, 32, 90);
    put_tensor(file, "pooler.dense.bias", "F32", 0, 32, 91);
    put_tensor(file, "cls.predictions.transform.LayerNorm.gamma", "F32", 0, 32, 92);
    put_tensor(file, "classifier.weight", "F16", 3, 32, 93);
    put_header(file, "embeddings.position_ids", "I64", "[1,24]", file->size, file->size + 192);
    file->data = realloc(file->data, file->size + 192);
    assert_non_null(file->data);
    memset(file->data + file->size, 7, 192);
    file->size += 192;
}

static void write_one_file(const form *f, const part *parts, int n, int shard, const char *name) {
    safe_file *file = calloc(1, sizeof *file);
    char hf[96];
    assert_non_null(file);
    for (int i = 0; i < n; i++) {
        full_name(f, &parts[i], hf);
        if (parts[i].shard == shard) put_tensor(file, hf, f->type, parts[i].rows, parts[i].columns, i);
    }
    if (f->extras && shard == 0) put_extras(file);
    write_safe_file(file, name);
    free(file);
}

static void write_weights(const form *f) {
    part parts[MAX_PARTS];
    char index[8192], name[64], hf[96];
    int n = list_parts(f, parts), length = sprintf(index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    if (!f->shards) {
        write_one_file(f, parts, n, 0, "model.safetensors");
        return;
    }
    for (int i = 0; i < n; i++) {
        parts[i].shard = i % f->shards;
        full_name(f, &parts[i], hf);
        length += sprintf(index + length, "%s\"%s\": \"part-%d.safetensors\"", i ? ", " : "", hf, parts[i].shard);
        assert_true((size_t)length < sizeof index - 256);
    }
    strcpy(index + length, "}}");
    write_text("model.safetensors.index.json", index);
    for (int shard = 0; shard < f->shards; shard++) {
        snprintf(name, sizeof name, "part-%d.safetensors", shard);
        write_one_file(f, parts, n, shard, name);
    }
}

static char *config_text(const form *f) {
    static char text[1024];
    snprintf(
        text, sizeof text,
        "{\"model_type\": \"bert\", \"architectures\": [\"BertModel\"], \"hidden_size\": %d, \"intermediate_size\": %d,\n"
        " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 16, \"max_position_embeddings\": 24,\n"
        " \"type_vocab_size\": 2, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 1e-7, \"hidden_dropout_prob\": 0.25,\n"
        " \"attention_probs_dropout_prob\": 0.5, \"position_embedding_type\": \"absolute\", \"torch_dtype\": \"float32\",\n"
        " \"_name_or_path\": \"someone/small-bert\", \"id2label\": {\"0\": \"no\"}}\n",
        f->hidden, f->feed_forward);
    return text;
}

#define MARK "\xE2\x96\x81"

/* Twelve tokens for sixteen rows of embeddings. */
static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwalk\n##ing\nthe\n##\n##" MARK "x\n,\n##ed\n";

/* What stands in a model file for them, as llama.cpp writes it. */
static const char *const written[VOCABULARY] = {"[PAD]",   "[UNK]",    "[CLS]",   "[SEP]",       "[MASK]", MARK "walk",
                                                "ing",     MARK "the", "",        "##" MARK "x", MARK ",", "ed",
                                                "[PAD12]", "[PAD13]",  "[PAD14]", "[PAD15]"};
static const int kinds[VOCABULARY] = {3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 5, 5, 5, 5};

static const char tokenizer_json[] =
    "{\"version\": \"1.0\", \"truncation\": {\"max_length\": 5}, \"padding\": null, \"added_tokens\": [\n"
    " {\"id\": 0, \"special\": true, \"content\": \"[PAD]\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false},\n"
    " {\"id\": 1, \"special\": true, \"content\": \"[UNK]\"}, {\"id\": 2, \"special\": true, \"content\": \"[CLS]\"},\n"
    " {\"id\": 3, \"special\": true, \"content\": \"[SEP]\"}, {\"id\": 4, \"special\": true, \"content\": \"[MASK]\"}],\n"
    " \"normalizer\": {\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, \"strip_accents\": null, \"lowercase\": true},\n"
    " \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"},\n"
    " \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"[CLS]\", \"type_id\": 0}},\n"
    "  {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"[SEP]\", \"type_id\": 0}}], \"special_tokens\":\n"
    "  {\"[CLS]\": {\"id\": \"[CLS]\", \"ids\": [2]}, \"[SEP]\": {\"id\": \"[SEP]\", \"ids\": [3]}}},\n"
    " \"decoder\": {\"type\": \"WordPiece\"}, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\",\n"
    "  \"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 100, \"vocab\": {\"[PAD]\": 0, \"[UNK]\": 1,\n"
    "  \"[CLS]\": 2, \"[SEP]\": 3, \"[MASK]\": 4, \"walk\": 5, \"##ing\": 6, \"the\": 7, \"##\": 8, \"##\\u2581x\": 9, \",\": 10,\n"
    "  \"##ed\": 11}}}\n";

static void write_checkpoint(const form *f) {
    write_text("config.json", config_text(f));
    write_text("vocab.txt", vocabulary);
    write_weights(f);
}

static scbm_status convert_to(const char *from, const char *to, scbm_type type, cbm_conversion *summary,
                              const scbm_hooks *hooks) {
    const cbm_convert_options options = {.type = type, .hooks = hooks};
    return cbm_convert(from, to, &options, summary);
}

static scbm_status convert(scbm_type type) {
    return convert_to(checkpoint, output, type, NULL, NULL);
}

/* Everything that is logged, line by line, while the folder is converted. */
static char logged[8192];

static void keep_log(void *user, scbm_log_level level, const char *message) {
    size_t used = strlen(logged);
    (void)user;
    snprintf(logged + used, sizeof logged - used, "%s%s\n", level == SCBM_LOG_WARNING ? "warning: " : "", message);
}

static const char *convert_and_listen(void) {
    const scbm_hooks hooks = {.log = keep_log};
    logged[0] = 0;
    assert_ok(convert_to(checkpoint, output, SCBM_F32, NULL, &hooks));
    return logged;
}

#define assert_logged(words)                                                                                           \
    do {                                                                                                               \
        const char *all = convert_and_listen();                                                                        \
        if (!strstr(all, words)) fail_msg("'%s' is not in what was logged: '%s'", words, all);                         \
    } while (0)
#define assert_nothing_logged() assert_string_equal(convert_and_listen(), "")

static scbm_file *open_output(void) {
    scbm_file *file;
    assert_ok(scbm_file_open(&file, output, NULL));
    return file;
}

/* ------------------------------------------------------------------------------------------
 * Weights
 * ---------------------------------------------------------------------------------------- */

/* Every tensor is there, as F32, with its values; and nothing else. */
static void check_tensors(const form *f) {
    part parts[MAX_PARTS];
    int n = list_parts(f, parts);
    scbm_file *file = open_output();
    assert_int_equal(scbm_file_n_tensors(file), n);
    for (int t = 0; t < n; t++) {
        const scbm_tensor *tensor = scbm_file_find_tensor(file, parts[t].name);
        if (!tensor) fail_msg("%s is missing", parts[t].name);
        const float *data = tensor->data;
        assert_int_equal(tensor->type, SCBM_F32);
        assert_int_equal(tensor->n_dims, parts[t].rows ? 2 : 1);
        assert_int_equal(tensor->shape[tensor->n_dims - 1], parts[t].columns);
        if (parts[t].rows) assert_int_equal(tensor->shape[0], parts[t].rows);
        for (int64_t i = 0; i < scbm_tensor_elements(tensor); i++)
            if (data[i] != value_of(t, i))
                fail_msg("%s[%d] is %g, not %g", parts[t].name, (int)i, (double)data[i], (double)value_of(t, i));
    }
    scbm_file_close(file);
}

static void test_every_weight_arrives(void **state) {
    (void)state;
    cbm_conversion summary;
    write_checkpoint(&plain);
    assert_ok(convert_to(checkpoint, output, SCBM_F32, &summary, NULL));
    check_tensors(&plain);
    assert_int_equal(summary.n_tensors, 37);
    /* (16 + 24 + 2 + 2) 32 outside the blocks; in each four of 32 × 32 + 32, 2 · 32 · 64 + 64 + 32, and two norms. */
    assert_int_equal(summary.n_weights, 44 * 32 + 2 * (4 * 1056 + 4192 + 128));
    assert_int_equal(summary.n_unused, 0);
    assert_int_equal(summary.tokens, 12);
}

static void test_types_of_weights(void **state) {
    (void)state;
    static const char *const types[] = {"F16", "BF16"};
    for (int i = 0; i < 2; i++) {
        form f = plain;
        f.type = types[i];
        write_checkpoint(&f);
        assert_ok(convert(SCBM_F32));
        check_tensors(&f);
    }
}

static void test_names(void **state) {
    (void)state;
    cbm_conversion summary;
    form f = plain;
    f.prefix = "bert.";
    f.gamma = f.extras = 1;
    write_checkpoint(&f);
    assert_ok(convert_to(checkpoint, output, SCBM_F32, &summary, NULL));
    check_tensors(&f);
    assert_int_equal(summary.n_unused, 5);
    assert_string_equal(summary.unused, "pooler (2), classifier (1), cls (1), embeddings.position_ids (1)");
}

/* What wraps a model in training stands before all its names. */
static void test_wrapped_models(void **state) {
    (void)state;
    static const char *const prefixes[] = {"module.",       "_orig_mod.",  "model.",   "module.bert.",
                                           "0.auto_model.", "my.encoder.", "encoder.", "_orig_mod.module.bert."};
    for (int i = 0; i < COUNT_OF(prefixes); i++) {
        form f = plain;
        f.prefix = prefixes[i];
        f.shards = i % 2 ? 2 : 0;
        start_anew(NULL);
        write_checkpoint(&f);
        assert_ok_for(convert(SCBM_F32), prefixes[i]);
        check_tensors(&f);
    }
}

/* Weights of an encoder with this prefix, and further tensors [3, 32] of these names (a NULL behind the last). */
static void write_weights_and(const char *prefix, const char *const *more) {
    part parts[MAX_PARTS];
    int n = list_parts(&plain, parts);
    safe_file *file = calloc(1, sizeof *file);
    assert_non_null(file);
    for (int i = 0; i < n; i++) {
        char name[128];
        snprintf(name, sizeof name, "%.40s%.80s", prefix, parts[i].hf);
        put_tensor(file, name, "F32", parts[i].rows, parts[i].columns, i);
    }
    for (; *more; more++) put_tensor(file, *more, "F32", 3, 32, 99);
    write_safe_file(file, "model.safetensors");
    free(file);
}

/* A head that this version does not know is no reason to refuse a complete encoder: it is left out, and named. */
static void test_heads_that_are_left_out(void **state) {
    (void)state;
    static const struct {
        const char *prefix, *more[4], *unused;
    } cases[] = {
        {"", {"score.weight", "my_head.0.weight", "my_head.2.weight", NULL}, "my_head (2), score (1)"},
        {"bert.", {"crf.transitions", "bert.pooler.dense.weight", NULL}, "pooler (1), crf (1)"},
        {"module.bert.", {"module.score.weight", "module.bert.pooler.x", NULL}, "pooler (1), score (1)"},
        {"query.", {"projection.weight", NULL}, "projection (1)"},
    };
    cbm_conversion summary;
    write_checkpoint(&plain);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        write_weights_and(cases[i].prefix, cases[i].more);
        assert_ok_for(convert_to(checkpoint, output, SCBM_F32, &summary, NULL), cases[i].prefix);
        check_tensors(&plain);
        assert_string_equal(summary.unused, cases[i].unused);
    }
    /* Of two encoders the one with BERT's own prefix is meant; of two that differ in nothing neither is taken. */
    write_weights_and("bert.", (const char *const[]){"teacher.embeddings.word_embeddings.weight", NULL});
    assert_ok(convert_to(checkpoint, output, SCBM_F32, &summary, NULL));
    assert_string_equal(summary.unused, "teacher (1)");
    write_weights_and("a.", (const char *const[]){"b.embeddings.word_embeddings.weight", NULL});
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED,
                 "two encoders in it, with tensors a.embeddings.word_embeddings.weight and b.embeddings");
    write_weights_and("a.", (const char *const[]){"a.embeddings.gate.weight", NULL});
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "a.embeddings.gate.weight is not part of a BERT encoder");
}

static void test_shards(void **state) {
    (void)state;
    form f = plain;
    f.shards = 3;
    f.prefix = "bert.";
    write_checkpoint(&f);
    assert_ok(convert(SCBM_F32));
    check_tensors(&f);
    /* One file is taken before an index, as transformers has it. */
    write_text("model.safetensors.index.json", "damaged");
    f.shards = 0;
    write_weights(&f);
    assert_ok(convert(SCBM_F32));
    check_tensors(&f);
}

/* Converting to a type gives what converting to F32 and quantizing gives; odd rows stay F16. */
static void test_stored_types(void **state) {
    (void)state;
    static const scbm_type types[] = {SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};
    const char *wanted_path = in_folder("wanted.gguf"), *exact_path = in_folder("exact.gguf");
    for (int i = 0; i < 8; i++) {
        scbm_type type = types[i / 2];
        int kept = -1, n_as_type = 0, n_f16 = 0;
        cbm_conversion summary;
        form f = plain;
        if (i % 2) f.hidden = 36;
        write_checkpoint(&f);
        assert_ok(convert_to(checkpoint, exact_path, SCBM_F32, NULL, NULL));
        assert_ok(cbm_quantize(exact_path, wanted_path, type, NULL, &kept));
        assert_ok(convert_to(checkpoint, output, type, &summary, NULL));
        assert_int_equal(summary.n_kept_f16, kept);
        scbm_file *file = open_output(), *wanted;
        assert_ok(scbm_file_open(&wanted, wanted_path, NULL));
        assert_int_equal(scbm_file_n_tensors(file), scbm_file_n_tensors(wanted));
        for (int64_t t = 0; t < scbm_file_n_tensors(file); t++) {
            const scbm_tensor *got = scbm_file_tensor(file, t), *other = scbm_file_find_tensor(wanted, got->name);
            assert_non_null(other);
            assert_int_equal(got->type, other->type);
            assert_memory_equal(got->data, other->data, scbm_tensor_bytes(other));
            n_as_type += got->type == type;
            n_f16 += got->type == SCBM_F16;
        }
        /* Token embeddings and six matrices a block; of hidden size 36 only ffn_down has rows of 64. */
        int is_quantized = type == SCBM_Q8_0 || type == SCBM_Q4_0;
        assert_int_equal(n_as_type, i % 2 && is_quantized ? BLOCKS : 1 + 6 * BLOCKS);
        if (i % 2 && is_quantized) assert_int_equal(n_f16, 1 + 5 * BLOCKS);
        assert_int_equal(scbm_file_int_or(file, "general.file_type", -1),
                         scbm_file_int_or(wanted, "general.file_type", -2));
        scbm_file_close(wanted);
        scbm_file_close(file);
    }
}

/* ------------------------------------------------------------------------------------------
 * Keys
 * ---------------------------------------------------------------------------------------- */

static void assert_key_int(const scbm_file *file, const char *key, int64_t wanted) {
    int64_t value;
    if (scbm_file_get_int(file, key, &value)) fail_msg("%s", scbm_last_error());
    if (value != wanted) fail_msg("%s is %lld, not %lld", key, (long long)value, (long long)wanted);
}

static void assert_key_real(const scbm_file *file, const char *key, float wanted) {
    double value;
    if (scbm_file_get_float(file, key, &value)) fail_msg("%s", scbm_last_error());
    if ((float)value != wanted) fail_msg("%s is %g, not %g", key, value, (double)wanted);
}

static void assert_key_text(const scbm_file *file, const char *key, const char *wanted) {
    const char *value;
    if (scbm_file_get_string(file, key, &value)) fail_msg("%s", scbm_last_error());
    assert_string_equal(value, wanted);
}

static void test_keys(void **state) {
    (void)state;
    write_checkpoint(&plain);
    assert_ok(convert(SCBM_F32));
    scbm_file *file = open_output();
    assert_key_text(file, "general.architecture", "bert");
    assert_key_text(file, "general.name", "someone/small-bert");
    assert_key_int(file, "general.file_type", 0);
    assert_key_int(file, "bert.context_length", 24);
    assert_key_int(file, "bert.embedding_length", 32);
    assert_key_int(file, "bert.feed_forward_length", 64);
    assert_key_int(file, "bert.block_count", 2);
    assert_key_int(file, "bert.attention.head_count", 4);
    assert_key_real(file, "bert.attention.layer_norm_epsilon", 1e-7f);
    assert_key_int(file, "bert.attention.causal", 0);
    assert_key_int(file, "bert.pooling_type", 1);
    assert_key_text(file, "sparsecbm.activation", "gelu");
    assert_key_real(file, "sparsecbm.hidden_dropout", 0.25f);
    assert_key_real(file, "sparsecbm.attention_dropout", 0.5f);
    assert_key_int(file, "sparsecbm.max_tokens", 24);
    assert_key_int(file, "sparsecbm.normalize", 0);
    scbm_file_close(file);
}

static void test_activations(void **state) {
    (void)state;
    static const char *const names[][2] = {
        {"gelu_new", "gelu_tanh"}, {"gelu_pytorch_tanh", "gelu_tanh"}, {"gelu_fast", "gelu_tanh"}, {"relu", "relu"}};
    for (int i = 0; i < 4; i++) {
        char quoted[64];
        write_checkpoint(&plain);
        snprintf(quoted, sizeof quoted, "\"%s\"", names[i][0]);
        char *text = replaced(config_text(&plain), "\"gelu\"", quoted);
        write_text("config.json", text);
        free(text);
        assert_ok(convert(SCBM_F32));
        scbm_file *file = open_output();
        assert_key_text(file, "sparsecbm.activation", names[i][1]);
        scbm_file_close(file);
    }
}

/* The file loads as a model, and its tokenizer cuts as the vocabulary says. */
static void test_the_model_loads(void **state) {
    (void)state;
    static const char text[] = "Walking THE, zz walked";
    static const int32_t wanted[] = {2, 5, 6, 7, 10, 1, 5, 11, 3};
    cbm_model *model;
    cbm_context *context;
    cbm_tokenizer *tokenizer;
    cbm_tokens tokens = {0};
    float vector[32], sum = 0;
    const char *texts[] = {text};
    write_checkpoint(&plain);
    assert_ok(convert(SCBM_F32));
    assert_ok(cbm_model_load(&model, output, NULL));
    assert_int_equal(cbm_model_hidden_size(model), 32);
    assert_int_equal(cbm_model_max_tokens(model), 24);
    assert_ok(cbm_context_create(&context, model, NULL));
    assert_ok(cbm_embed_batch(context, texts, NULL, 1, CBM_POOL_FILE, 0, vector, NULL));
    for (int i = 0; i < 32; i++) sum += vector[i] * vector[i];
    assert_true(isfinite(sum) && sum > 0);
    cbm_context_free(context);
    cbm_model_free(model);

    scbm_file *file = open_output();
    assert_ok(cbm_tokenizer_create(&tokenizer, file, NULL));
    assert_ok(cbm_tokenize(tokenizer, text, sizeof text - 1, 24, &tokens));
    assert_int_equal(tokens.n, sizeof wanted / sizeof *wanted);
    assert_memory_equal(tokens.ids, wanted, sizeof wanted);
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(tokenizer);
    scbm_file_close(file);
}

/* ------------------------------------------------------------------------------------------
 * Tokenizers
 * ---------------------------------------------------------------------------------------- */

static void check_vocabulary(const scbm_file *file) {
    int64_t tokens = scbm_file_find_key(file, "tokenizer.ggml.tokens");
    int64_t types = scbm_file_find_key(file, "tokenizer.ggml.token_type");
    assert_true(tokens >= 0 && types >= 0);
    assert_int_equal(scbm_file_array_length(file, tokens), VOCABULARY);
    assert_int_equal(scbm_file_array_length(file, types), VOCABULARY);
    for (int i = 0; i < VOCABULARY; i++) {
        const char *text;
        int64_t kind;
        assert_ok(scbm_file_string_at(file, tokens, i, &text));
        assert_ok(scbm_file_int_at(file, types, i, &kind));
        assert_string_equal(text, written[i]);
        assert_int_equal(kind, kinds[i]);
    }
    assert_key_text(file, "tokenizer.ggml.model", "bert");
    assert_key_int(file, "tokenizer.ggml.token_type_count", 2);
    assert_key_int(file, "tokenizer.ggml.padding_token_id", 0);
    assert_key_int(file, "tokenizer.ggml.unknown_token_id", 1);
    assert_key_int(file, "tokenizer.ggml.cls_token_id", 2);
    assert_key_int(file, "tokenizer.ggml.bos_token_id", 2);
    assert_key_int(file, "tokenizer.ggml.seperator_token_id", 3);
    assert_key_int(file, "tokenizer.ggml.mask_token_id", 4);
}

static void check_switches(const scbm_file *file, int lowercase, int strip_accents, int cjk, int clean, int longest) {
    assert_key_int(file, "tokenizer.ggml.normalizer.lowercase", lowercase);
    assert_int_equal(scbm_file_int_or(file, "tokenizer.ggml.normalizer.strip_accents", -1), strip_accents);
    assert_key_int(file, "sparsecbm.tokenizer.cjk_spacing", cjk);
    assert_key_int(file, "sparsecbm.tokenizer.clean_text", clean);
    assert_key_int(file, "sparsecbm.tokenizer.max_word_characters", longest);
}

static void test_vocabulary_files(void **state) {
    (void)state;
    write_checkpoint(&plain);
    assert_ok(convert(SCBM_F32));
    scbm_file *file = open_output();
    check_vocabulary(file);
    check_switches(file, 1, -1, 1, 1, 100);
    scbm_file_close(file);

    /* Lines that end in CR LF and no line end after the last token are the same. */
    char text[256];
    size_t n = 0;
    for (const char *c = vocabulary; c[1]; c++) {
        if (*c == '\n') text[n++] = '\r';
        text[n++] = *c;
    }
    text[n] = 0;
    write_text("vocab.txt", text);
    assert_ok(convert(SCBM_F32));
    file = open_output();
    check_vocabulary(file);
    scbm_file_close(file);

    /* tokenizer.json goes before vocab.txt. */
    write_text("vocab.txt", "damaged\n");
    write_text("tokenizer.json", tokenizer_json);
    assert_ok(convert(SCBM_F32));
    file = open_output();
    check_vocabulary(file);
    check_switches(file, 1, -1, 1, 1, 100);
    scbm_file_close(file);
}

static void convert_with_tokenizer(const char *what, const char *by) {
    char *text = replaced(tokenizer_json, what, by);
    write_text("tokenizer.json", text);
    free(text);
    assert_ok(convert(SCBM_F32));
}

static void test_tokenizer_settings(void **state) {
    (void)state;
    scbm_file *file;
    write_checkpoint(&plain);
    convert_with_tokenizer(
        "\"clean_text\": true, \"handle_chinese_chars\": true, \"strip_accents\": null, \"lowercase\": true",
        "\"clean_text\": false, \"handle_chinese_chars\": false, \"strip_accents\": true, \"lowercase\": false");
    file = open_output();
    check_vocabulary(file);
    check_switches(file, 0, 1, 0, 0, 100);
    scbm_file_close(file);

    convert_with_tokenizer("\"max_input_chars_per_word\": 100", "\"max_input_chars_per_word\": 7");
    file = open_output();
    check_switches(file, 1, -1, 1, 1, 7);
    scbm_file_close(file);

    /* tokenizer_config.json overrules, as in transformers, and bounds the texts' length. */
    write_text("tokenizer.json", tokenizer_json);
    write_text("tokenizer_config.json",
               "{\"do_lower_case\": false, \"strip_accents\": false, \"tokenize_chinese_chars\": false,"
               " \"model_max_length\": 20, \"tokenizer_class\": \"BertTokenizer\"}");
    assert_ok(convert(SCBM_F32));
    file = open_output();
    check_switches(file, 0, 0, 0, 1, 100);
    assert_key_int(file, "sparsecbm.max_tokens", 20);
    assert_key_int(file, "bert.context_length", 24);
    scbm_file_close(file);

    /* The positions bound it too, and tokenizer.json says what is put around a text. */
    write_text("tokenizer_config.json",
               "{\"model_max_length\": 512, \"cls_token\": \"walk\", \"mask_token\": \"the\"}");
    assert_ok(convert(SCBM_F32));
    file = open_output();
    assert_key_int(file, "sparsecbm.max_tokens", 24);
    assert_key_int(file, "tokenizer.ggml.cls_token_id", 2);
    assert_key_int(file, "tokenizer.ggml.mask_token_id", 7);
    scbm_file_close(file);

    /* No limit is written as 10^30; and with vocab.txt alone it counts too. */
    remove(in_checkpoint("tokenizer.json"));
    write_text("tokenizer_config.json",
               "{\"do_lower_case\": false, \"model_max_length\": 1000000000000000019884624838656}");
    assert_ok(convert(SCBM_F32));
    file = open_output();
    check_vocabulary(file);
    check_switches(file, 0, -1, 1, 1, 100);
    assert_key_int(file, "sparsecbm.max_tokens", 24);
    scbm_file_close(file);
}

static void check_list(const scbm_file *file, const char *name, const char *wanted) {
    char key[64], found[64] = "";
    snprintf(key, sizeof key, "sparsecbm.tokenizer.%s", name);
    int64_t index = scbm_file_find_key(file, key), n = index < 0 ? 0 : scbm_file_array_length(file, index), id;
    for (int64_t i = 0; i < n; i++) {
        assert_ok(scbm_file_int_at(file, index, i, &id));
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%d", i ? " " : "", (int)id);
    }
    assert_string_equal(found, wanted);
}

/* What is said of added tokens; those that are not special are normalized where nothing is said. */
static void check_rules(void) {
    char *text = replaced(tokenizer_json, "\"single_word\": false, \"lstrip\": false, \"rstrip\": false",
                          "\"single_word\": true, \"lstrip\": true, \"rstrip\": true");
    char *more = replaced(text, "\"content\": \"[MASK]\"}",
                          "\"content\": \"[MASK]\"}, {\"id\": 13, \"content\": \"<a>\", \"normalized\": false},"
                          " {\"id\": 12, \"content\": \"<b>\", \"rstrip\": true}, {\"id\": 11, \"content\": \"##ed\"}");
    write_text("tokenizer.json", more);
    free(text);
    free(more);
    assert_ok(convert(SCBM_F32));
    scbm_file *file = open_output();
    check_list(file, "lstrip", "0");
    check_list(file, "rstrip", "0 12");
    check_list(file, "single_word", "0");
    check_list(file, "normalized", "11 12");
    check_list(file, "beside_model", "12 13");
    scbm_file_close(file);
}

/* The ids of a text by the converted file's tokenizer. */
static void check_ids(const char *text, const int32_t *ids, size_t n) {
    cbm_tokenizer *tokenizer;
    cbm_tokens tokens = {0};
    scbm_file *file = open_output();
    assert_ok(cbm_tokenizer_create(&tokenizer, file, NULL));
    assert_ok(cbm_tokenize(tokenizer, text, strlen(text), 24, &tokens));
    if (tokens.n != n || memcmp(tokens.ids, ids, n * sizeof *ids) != 0) {
        for (size_t i = 0; i < tokens.n; i++) print_message(" %d", (int)tokens.ids[i]);
        fail_msg("are the ids of '%s'", text);
    }
    cbm_tokens_clear(&tokens, NULL);
    cbm_tokenizer_free(tokenizer);
    scbm_file_close(file);
}

#define CHECK_IDS(text, ...)                                                                                           \
    check_ids(text, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* added_tokens.json beside vocab.txt, as transformers' fast tokenizer has it. */
static void test_added_tokens(void **state) {
    (void)state;
    write_checkpoint(&plain);
    write_text("added_tokens.json", "{\"NewTag\": 12, \"[X]\": 13, \"walk\": 5}");
    assert_ok(convert(SCBM_F32));
    CHECK_IDS("the newtag NEWTAG [x]walking", 2, 7, 12, 12, 13, 5, 1, 3); /* an added token is no part of a word */
    write_text("special_tokens_map.json", "{\"additional_special_tokens\": [\"[X]\"]}"); /* special: as it is written */
    assert_ok(convert(SCBM_F32));
    CHECK_IDS("NewTag [X] [x]", 2, 12, 13, 1, 1, 1, 3);
    write_text("special_tokens_map.json", "{}");
    write_text("added_tokens.json", "{\"a\": 16}");
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT,
                 "token 'a' has the number 16, and config.json's vocab_size is 16");
    write_text("added_tokens.json", "{\"a\": 5}");
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "tokens 'walk' and 'a' both have the number 5");
    write_text("added_tokens.json", "{\"a\": \"b\"}");
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "added_tokens.json: token 'a' has no number");
    /* tokenizer.json has them itself; what it has not is named. */
    write_text("tokenizer.json", tokenizer_json);
    write_text("added_tokens.json", "{\"walk\": 5, \"NewTag\": 12, \"other\": 13}");
    assert_logged("added_tokens.json: 2 tokens that tokenizer.json does not have are not used ('NewTag', ...)");
    write_text("added_tokens.json", "{\"walk\": 5}");
    write_text("tokenizer_config.json", "{\"additional_special_tokens\": [\"[UNK]\", \"<e>\"]}");
    assert_logged("1 additional_special_tokens that tokenizer.json does not have are not used ('<e>')");
    write_text("tokenizer_config.json", "{\"extra_special_tokens\": {\"image\": \"<i>\"}}");
    assert_logged("1 extra_special_tokens that tokenizer.json does not have are not used ('<i>')");
}

/* What decides about ids and is not done, or done where nobody said so. */
static void test_tokenizer_files_that_are_not_used(void **state) {
    (void)state;
    write_checkpoint(&plain);
    assert_nothing_logged();
    char *cased = replaced(vocabulary, "walk\n", "Walk\n");
    write_text("vocab.txt", cased);
    free(cased);
    assert_logged("warning: ");
    assert_logged(
        "texts are lower-cased, as transformers does where no file says otherwise, and so 1 of 12 tokens, which have "
        "capital letters ('Walk', ...), are found in none");
    write_text("tokenizer_config.json", "{\"do_lower_case\": false}");
    assert_nothing_logged();
    CHECK_IDS("Walk walk", 2, 5, 1, 3);
    write_text("tokenizer_config.json", "{\"do_lower_case\": true}");
    assert_logged("texts are lower-cased, and so 1 of 12 tokens");
    write_text("vocab.txt", vocabulary);
    write_text("tokenizer_config.json", "{\"truncation_side\": \"left\"}");
    assert_logged("truncation_side is not honoured: long texts lose their end");
    write_text("tokenizer_config.json", "{\"never_split\": [\"a.b\"], \"truncation_side\": \"right\"}");
    assert_logged("never_split is not honoured: its 1 tokens");
    write_text("tokenizer_config.json", "{\"split_special_tokens\": true}");
    assert_logged("split_special_tokens is not honoured");
    remove(in_checkpoint("tokenizer_config.json"));
    write_text("tokenizer.json", tokenizer_json);
    assert_logged("tokenizer.json truncates texts to 5 tokens, which is not honoured: 24 are read");
}

/* Names of special tokens, tokens beside the vocabulary, and other post-processors. */
static void test_special_tokens(void **state) {
    (void)state;
    scbm_file *file;
    const char *text;
    write_checkpoint(&plain);
    write_text("vocab.txt", "<pad>\n<unk>\n<s>\n</s>\nwalk\n<x>\n");
    write_text("special_tokens_map.json",
               "{\"cls_token\": \"<s>\", \"sep_token\": {\"content\": \"</s>\", \"lstrip\": false},"
               " \"unk_token\": \"walk\", \"pad_token\": \"<pad>\"}");
    write_text("tokenizer_config.json",
               "{\"unk_token\": \"<unk>\", \"additional_special_tokens\": [\"<x>\"], \"added_tokens_decoder\":"
               " {\"8\": {\"content\": \"<new>\", \"special\": false, \"normalized\": false}}}");
    assert_ok(convert(SCBM_F32));
    file = open_output();
    assert_key_int(file, "tokenizer.ggml.unknown_token_id", 1);
    assert_key_int(file, "tokenizer.ggml.cls_token_id", 2);
    assert_key_int(file, "tokenizer.ggml.seperator_token_id", 3);
    assert_key_int(file, "tokenizer.ggml.padding_token_id", 0);
    assert_int_equal(scbm_file_find_key(file, "tokenizer.ggml.mask_token_id"), -1);
    static const int wanted[] = {3, 3, 3, 3, 1, 3, 5, 5, 4, 5};
    for (int i = 0; i < 10; i++) {
        int64_t kind;
        assert_ok(scbm_file_int_at(file, scbm_file_find_key(file, "tokenizer.ggml.token_type"), i, &kind));
        if (kind != wanted[i]) fail_msg("token %d is of kind %d, not %d", i, (int)kind, wanted[i]);
    }
    assert_ok(scbm_file_string_at(file, scbm_file_find_key(file, "tokenizer.ggml.tokens"), 8, &text));
    assert_string_equal(text, "<new>");
    check_list(file, "beside_model", "8");
    check_list(file, "normalized", "");
    scbm_file_close(file);

    check_rules();

    /* BertProcessing names the two tokens itself. */
    remove(in_checkpoint("special_tokens_map.json"));
    remove(in_checkpoint("tokenizer_config.json"));
    char *start = replaced(tokenizer_json, "TemplateProcessing\"",
                           "BertProcessing\", \"sep\": [\"the\", 7], \"cls\": [\"walk\", 5]");
    write_text("tokenizer.json", start);
    free(start);
    assert_ok(convert(SCBM_F32));
    file = open_output();
    assert_key_int(file, "tokenizer.ggml.cls_token_id", 5);
    assert_key_int(file, "tokenizer.ggml.seperator_token_id", 7);
    scbm_file_close(file);
}

/* ------------------------------------------------------------------------------------------
 * sentence-transformers
 * ---------------------------------------------------------------------------------------- */

#define POOLING(dimension, cls, mean, max)                                                                             \
    "{\"word_embedding_dimension\": " dimension ", \"pooling_mode_cls_token\": " cls                                   \
    ", \"pooling_mode_mean_tokens\": " mean ", \"pooling_mode_max_tokens\": " max "}"
#define MODULE(index, name, path, type)                                                                                \
    "{\"idx\": " #index ", \"name\": \"" name "\", \"path\": \"" path "\", \"type\": \"" type "\"}"
#define ST "sentence_transformers.models."

static void test_sentence_transformers(void **state) {
    (void)state;
    scbm_file *file;
    write_checkpoint(&plain);
    assert_int_equal(mkdir(in_checkpoint("1_Pooling"), 0777), 0);
    write_text("1_Pooling/config.json", POOLING("32", "true", "false", "false"));
    write_text("modules.json",
               "[" MODULE(0, "0", "", ST "Transformer") "," MODULE(1, "1", "1_Pooling", ST "Pooling") "," MODULE(
                   2, "2", "2_Normalize", ST "Normalize") "]");
    write_text("sentence_bert_config.json", "{\"max_seq_length\": 12, \"do_lower_case\": false}");
    write_text("tokenizer_config.json", "{\"model_max_length\": 20}");
    assert_ok(convert(SCBM_F32));
    check_tensors(&plain);
    file = open_output();
    assert_key_int(file, "bert.pooling_type", 2);
    assert_key_int(file, "sparsecbm.normalize", 1);
    assert_key_int(file, "sparsecbm.max_tokens", 12);
    scbm_file_close(file);

    /* Without modules.json the pooling counts; nothing is normalized. */
    remove(in_checkpoint("modules.json"));
    write_text("1_Pooling/config.json", "{\"embedding_dimension\": 32, \"pooling_mode\": \"mean\"}");
    assert_ok(convert(SCBM_F32));
    file = open_output();
    assert_key_int(file, "bert.pooling_type", 1);
    assert_key_int(file, "sparsecbm.normalize", 0);
    scbm_file_close(file);

    assert_error((write_text("1_Pooling/config.json", POOLING("32", "false", "false", "true")), convert(SCBM_F32)),
                 SCBM_ERROR_UNSUPPORTED, "max_tokens");
    assert_error((write_text("1_Pooling/config.json", POOLING("32", "true", "true", "false")), convert(SCBM_F32)),
                 SCBM_ERROR_UNSUPPORTED, "several pooling modes");
    assert_error((write_text("1_Pooling/config.json", POOLING("31", "false", "true", "false")), convert(SCBM_F32)),
                 SCBM_ERROR_FORMAT, "word_embedding_dimension is 31");
    assert_error((write_text("1_Pooling/config.json", POOLING("32", "false", "false", "false")), convert(SCBM_F32)),
                 SCBM_ERROR_FORMAT, "no pooling_mode is set");
    write_text("1_Pooling/config.json", POOLING("32", "false", "true", "false"));
    write_text("sentence_bert_config.json", "{\"do_lower_case\": true}");
    assert_ok(convert(SCBM_F32)); /* the tokenizer does it too */
    write_text("tokenizer_config.json", "{\"do_lower_case\": false}");
    assert_logged("texts are lower-cased for sentence-transformers' do_lower_case");
    file = open_output();
    check_switches(file, 1, 0, 1, 1, 100); /* the accents stay */
    scbm_file_close(file);
}

static void write_sentence_transformer(const char *more_modules, const char *pooling) {
    char text[1024];
    write_checkpoint(&plain);
    mkdir(in_checkpoint("1_Pooling"), 0777);
    write_text("1_Pooling/config.json", pooling);
    snprintf(text, sizeof text,
             "[" MODULE(0, "0", "", ST "Transformer") "," MODULE(1, "1", "1_Pooling", ST "Pooling") "%s]",
             more_modules);
    write_text("modules.json", text);
}

/* What changes embeddings and is not done here is named; the encoder is converted all the same. */
static void test_what_is_not_honoured_is_named(void **state) {
    (void)state;
    static const char normalize[] = "," MODULE(2, "2", "2_Normalize", ST "Normalize");
    static const char mean[] = POOLING("32", "false", "true", "false");
    write_sentence_transformer(normalize, mean);
    write_text("config_sentence_transformers.json",
               "{\"prompts\": {\"query\": \"\", \"document\": \"\"},"
               " \"default_prompt_name\": null, \"similarity_fn_name\": \"cosine\"}");
    write_text("sentence_bert_config.json", "{\"max_seq_length\": 12, \"do_lower_case\": false, \"model_args\": {}}");
    assert_nothing_logged(); /* all of this is honoured, or says nothing */
    write_sentence_transformer("," MODULE(2, "2", "2_Dense", ST "Dense") "," MODULE(3, "3", "3", ST "Normalize"), mean);
    assert_logged("modules.json: module 3, Dense, is not honoured: embeddings are the pooled vectors without it");
    write_sentence_transformer("," MODULE(2, "2", "2_Dropout", ST "Dropout"), mean);
    assert_nothing_logged();
    write_sentence_transformer(normalize, "{\"pooling_mode_mean_tokens\": true, \"include_prompt\": false}");
    assert_logged("1_Pooling/config.json: include_prompt is false and not honoured");
    write_sentence_transformer(normalize, mean);
    write_text("config_sentence_transformers.json",
               "{\"prompts\": {\"query\": \"query: \", \"s2s\": \"a\\u001bb\"}, \"truncate_dim\": 16}");
    assert_logged("prompts have to stand in the texts: query ('query: '), s2s ('a\\x1bb')");
    assert_logged("warning: ");
    assert_logged("truncate_dim is 16 and not honoured");
    write_text("config_sentence_transformers.json",
               "{\"prompts\": {\"query\": \"query: \"}, \"default_prompt_name\": \"query\"}");
    assert_logged("puts the prompt 'query: ' before every text; here it has to stand in the text");
    write_text("sentence_bert_config.json", "{\"max_seq_length\": 25}");
    assert_logged("texts of 25 tokens are to be read (max_seq_length), and there are positions for 24, which are read");
    write_text("sentence_bert_config.json", "{\"tokenizer_args\": {\"model_max_length\": 7}}");
    assert_logged("sentence_bert_config.json: tokenizer_args is not honoured");
    remove(in_checkpoint("sentence_bert_config.json"));
    write_text("sentence_distilbert_config.json", "{\"max_seq_length\": 9}"); /* of old */
    assert_ok(convert(SCBM_F32));
    scbm_file *file = open_output();
    assert_key_int(file, "sparsecbm.max_tokens", 9);
    scbm_file_close(file);
}

/* A mean that is scaled by the text's length is the mean where vectors are scaled anyway. */
static void test_pooling_that_is_not_known(void **state) {
    (void)state;
    static const char sqrt_len[] = "{\"pooling_mode_mean_sqrt_len_tokens\": true}";
    const cbm_convert_options chosen = {.pooling = CBM_POOL_FIRST};
    write_sentence_transformer("," MODULE(2, "2", "2_Normalize", ST "Normalize"), sqrt_len);
    assert_ok(convert(SCBM_F32));
    scbm_file *file = open_output();
    assert_key_int(file, "bert.pooling_type", 1);
    scbm_file_close(file);
    write_sentence_transformer("", sqrt_len);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED,
                 "the pooling mode is mean_sqrt_len_tokens; this version knows");
    write_sentence_transformer("", POOLING("32", "true", "true", "false"));
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "several pooling modes");
    write_sentence_transformer("", "{\"pooling_mode\": \"weightedmean\"}");
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "the pooling mode is weightedmean");
    assert_ok(cbm_convert(checkpoint, output, &chosen, NULL)); /* training needs none of it */
    file = open_output();
    assert_key_int(file, "bert.pooling_type", 2);
    scbm_file_close(file);
}

/* From the folder's Normalize module to the vectors of `embed`. */
static void test_embeddings_are_as_long_as_the_folder_says(void **state) {
    (void)state;
    static const char mean[] = POOLING("32", "false", "true", "false");
    for (int normalized = 0; normalized < 2; normalized++) {
        const char *text = "walking the walk";
        cbm_model *model;
        cbm_context *ctx;
        float vector[32];
        double square = 0;
        write_sentence_transformer(normalized ? "," MODULE(2, "2", "2_Normalize", ST "Normalize") : "", mean);
        assert_ok(convert(SCBM_F32));
        assert_ok(cbm_model_load(&model, output, NULL));
        assert_ok(cbm_context_create(&ctx, model, NULL));
        assert_ok(cbm_embed_batch(ctx, &text, NULL, 1, CBM_POOL_FILE, CBM_NORMALIZE_FILE, vector, NULL));
        for (int i = 0; i < 32; i++) square += (double)vector[i] * (double)vector[i];
        if (normalized) assert_near(square, 1, 1e-6);
        else assert_true(fabs(square - 1) > 0.01);
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
}

/* Older folders have the transformer in a folder of its own. */
static void test_transformer_in_a_folder(void **state) {
    (void)state;
    char outer[sizeof checkpoint];
    strcpy(outer, checkpoint);
    strcat(checkpoint, "/0_Transformer");
    assert_int_equal(mkdir(checkpoint, 0777), 0);
    write_checkpoint(&plain);
    strcpy(checkpoint, outer);
    write_text("modules.json", "[" MODULE(0, "0", "0_Transformer", ST "Transformer") "]");
    assert_ok(convert(SCBM_F32));
    check_tensors(&plain);
}

static void test_modules_that_are_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"[" MODULE(0, "0", "", ST "CLIPModel") "]", "module 1 is sentence_transformers.models.CLIPModel"},
        {"[" MODULE(0, "0", "", "custom.Transformer") "]", "module 1 is custom.Transformer"},
        {"[" MODULE(0, "0", "", ST "Transformer") "," MODULE(1, "1", "2_Dense", ST "Dense") "]", "Dense"},
        {"[" MODULE(0, "0", "../other", ST "Transformer") "]", "leads out of the folder"},
        {"[" MODULE(0, "0", "/etc", ST "Transformer") "]", "leads out of the folder"},
        {"[{\"idx\": 0}]", "type is missing"},
        {"[]", "no modules"},
        {"{}", "array"},
        {"[1]", "type is missing"},
    };
    write_checkpoint(&plain);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text("modules.json", cases[i][0]);
        scbm_status status = convert(SCBM_F32);
        assert_error(status, status == SCBM_ERROR_UNSUPPORTED ? status : SCBM_ERROR_FORMAT, cases[i][1]);
    }
}

/* ------------------------------------------------------------------------------------------
 * What is refused
 * ---------------------------------------------------------------------------------------- */

/* A change of a text, and the failure that it must bring. */
typedef struct refusal {
    const char *what, *by;
    scbm_status status;
    const char *message;
} refusal;

static void check_refusals(const char *name, const char *text, const refusal *refusals, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char *changed = replaced(text, refusals[i].what, refusals[i].by);
        write_text(name, changed);
        free(changed);
        scbm_status status = convert(SCBM_F32);
        if (status != refusals[i].status) print_message("%s for %s\n", refusals[i].by, refusals[i].what);
        assert_error(status, refusals[i].status, refusals[i].message);
        assert_non_null(strstr(scbm_last_error(), name));
        assert_false(exists(output));
    }
    write_text(name, text);
    assert_ok(convert(SCBM_F32)); /* the text itself is good */
}

#define CHECK_REFUSALS(name, text, refusals)                                                                           \
    check_refusals(name, text, refusals, sizeof(refusals) / sizeof(refusals)[0])

#define BAD SCBM_ERROR_FORMAT
#define UNKNOWN SCBM_ERROR_UNSUPPORTED

/* The names of the sizes tell what an old checkpoint is; what its tensors begin with is said, too. */
static void test_missing_model_type(void **state) {
    (void)state;
    write_checkpoint(&plain);
    assert_nothing_logged();
    char *text = replaced(config_text(&plain), "\"model_type\": \"bert\", \"architectures\": [\"BertModel\"],", "");
    write_text("config.json", text);
    free(text);
    assert_logged("warning: ");
    assert_logged("config.json: model_type is missing; the sizes have BERT's names");
    check_tensors(&plain);
    write_text("config.json", config_text(&plain));
    write_weights_and("student.", (const char *const[]){NULL});
    assert_logged("the encoder's tensors are those whose names begin with student.");
}

static void test_configurations_that_are_refused(void **state) {
    (void)state;
    static const refusal refusals[] = {
        {"\"bert\"", "\"electra\"", UNKNOWN, "model_type is electra; this version knows bert"},
        {"\"model_type\": \"bert\", \"architectures\": [\"BertModel\"],", "\"architectures\": [\"Other\"],", UNKNOWN,
         "model_type is missing"},
        {"\"bert\"", "7", BAD, "model_type must be a string"},
        {"\"absolute\"", "\"relative_key\"", UNKNOWN, "position_embedding_type is relative_key"},
        {"\"gelu\"", "\"swish\"", UNKNOWN, "hidden_act is swish"},
        {"\"torch_dtype\"", "\"is_decoder\": true, \"x\"", UNKNOWN, "is_decoder is true"},
        {"\"torch_dtype\"", "\"add_cross_attention\": true, \"x\"", UNKNOWN, "add_cross_attention is true"},
        {"\"torch_dtype\"", "\"pruned_heads\": {\"0\": [1]}, \"x\"", UNKNOWN, "pruned_heads is not empty"},
        {"\"torch_dtype\"", "\"quantization_config\": {\"bits\": 4}, \"x\"", UNKNOWN,
         "quantization_config is not empty"},
        {"\"torch_dtype\"", "\"auto_map\": {\"AutoModel\": \"modeling.X\"}, \"x\"", UNKNOWN, "auto_map"},
        {"\"hidden_size\": 32, ", "", BAD, "hidden_size is missing"},
        {"\"hidden_size\": 32", "\"hidden_size\": \"32\"", BAD, "hidden_size must be a whole number"},
        {"\"hidden_size\": 32", "\"hidden_size\": 0", BAD, "hidden_size must be a whole number from 1"},
        {"\"hidden_size\": 32", "\"hidden_size\": 32.5", BAD, "hidden_size must be a whole number"},
        {"\"hidden_size\": 32", "\"hidden_size\": 1e300", BAD, "hidden_size must be a whole number"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 5", BAD, "cannot be cut into 5"},
        {"\"layer_norm_eps\": 1e-7", "\"layer_norm_eps\": -1", BAD, "layer_norm_eps must be at least 0 and below 1"},
        {"\"hidden_dropout_prob\": 0.25", "\"hidden_dropout_prob\": 1", BAD, "hidden_dropout_prob must be at least 0"},
        {"{", "", BAD, "is not JSON"},
        {"{", "[", BAD, "is not JSON"},
        {"\"no\"}}", "\"no\"}} x", BAD, "is not JSON"},
        {"\"no\"", "\"\xff\"", BAD, "not JSON in UTF-8"},
    };
    write_checkpoint(&plain);
    CHECK_REFUSALS("config.json", config_text(&plain), refusals);
    write_text("config.json", " \n");
    assert_int_equal(remove(output), 0);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "config.json: the file is empty");
    write_text("config.json", "[]");
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "config.json: a JSON object is expected");
    write_file(in_checkpoint("config.json"), "{\"a\": \"b\0c\"}", 12);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "config.json: this is not JSON in UTF-8");
}

static void test_tokenizers_that_are_refused(void **state) {
    (void)state;
    static const refusal refusals[] = {
        {"\"model\": {\"type\": \"WordPiece\"", "\"model\": {\"type\": \"WordLevel\"", UNKNOWN,
         "model is WordLevel; this version knows WordPiece"},
        {"\"continuing_subword_prefix\": \"##\"", "\"continuing_subword_prefix\": \"@\"", UNKNOWN,
         "continuing_subword_prefix is @"},
        {"\"max_input_chars_per_word\": 100", "\"max_input_chars_per_word\": 0", BAD, "max_input_chars_per_word"},
        {"\"BertNormalizer\"", "\"NFC\"", UNKNOWN, "normalizer is NFC"},
        {"\"lowercase\": true", "\"lowercase\": \"yes\"", BAD, "lowercase must be true or false"},
        {"\"BertPreTokenizer\"", "\"Whitespace\"", UNKNOWN, "pre_tokenizer is Whitespace"},
        {"{\"type\": \"BertPreTokenizer\"}", "null", UNKNOWN, "pre_tokenizer is missing"},
        {"\"TemplateProcessing\"", "\"LatinProcessing\"", UNKNOWN, "post_processor is LatinProcessing"},
        {"\"TemplateProcessing\"", "\"BertProcessing\"", BAD, "post_processor.cls"},
        {"\"Sequence\": {\"id\": \"A\"", "\"Sequence\": {\"id\": \"B\"", UNKNOWN, "post_processor.single"},
        {"{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, ", "", UNKNOWN, "post_processor.single"},
        {"\"ids\": [2]", "\"ids\": [5]", BAD, "'[CLS]' has two numbers: 2 and 5"},
        {"\"ids\": [2]", "\"ids\": []", BAD, "no number for '[CLS]'"},
        {"\"content\": \"[MASK]\"", "\"content\": \"[mask]\"", BAD, "'[mask]' has the number of token '[MASK]', 4"},
        {"\"id\": 4", "\"id\": 16", BAD, "token '[MASK]' has the number 16, and config.json's vocab_size is 16"},
        {"\"##ed\": 11", "\"##ed\": 16", BAD, "token '##ed' has the number 16"},
        {"\"##ed\": 11", "\"##ed\": 10", BAD, "tokens ',' and '##ed' both have the number 10"},
        {"\"##ed\": 11", "\"##ed\": -1", BAD, "'##ed' has no number"},
        {"\"##ed\": 11", "\"##ed\": \"a\"", BAD, "'##ed' has no number"},
        {"\"vocab\": {", "\"words\": {", BAD, "model.vocab is missing"},
        {"\"vocab\": {", "\"vocab\": [], \"words\": {", BAD, "vocab must be an object"},
        {"\"added_tokens\": [", "\"added_tokens\": 1, \"others\": [", BAD, "added_tokens must be an array"},
    };
    write_checkpoint(&plain);
    CHECK_REFUSALS("tokenizer.json", tokenizer_json, refusals);
}

static void test_vocabularies_that_are_refused(void **state) {
    (void)state;
    static const refusal refusals[] = {
        {"[PAD]", "\xc3(", BAD, "not text in UTF-8"},
        {"##ed\n", "a\nb\nc\nd\ne\nf\n", BAD, "token 'f' has the number 16, and config.json's vocab_size is 16"},
        {vocabulary, "\n\n", BAD, "there are no tokens in it"},
        {vocabulary, "", BAD, "there are no tokens in it"},
    };
    static const char class_text[] = "{\"tokenizer_class\": \"BertTokenizer\", \"do_basic_tokenize\": true, \"x\": 1}";
    static const refusal class_refusals[] = {
        {"BertTokenizer", "BertJapaneseTokenizer", UNKNOWN, "tokenizer_class is BertJapaneseTokenizer"},
        {"true", "false", UNKNOWN, "do_basic_tokenize is false"},
        {"\"x\": 1", "\"additional_special_tokens\": [\"<x>\"]", BAD, "'<x>' is not in the vocabulary"},
        {"\"x\": 1", "\"added_tokens_decoder\": {\"a\": {\"content\": \"b\"}}", BAD, "'a' is not a token's number"},
        {"\"x\": 1", "\"added_tokens_decoder\": {\"99\": {\"content\": \"b\"}}", BAD, "'b' has the number 99"},
        {"\"x\": 1", "\"cls_token\": 3", BAD, "cls_token must be a token"},
    };
    write_checkpoint(&plain);
    CHECK_REFUSALS("vocab.txt", vocabulary, refusals);
    assert_int_equal(remove(output), 0);
    remove(in_checkpoint("vocab.txt"));
    write_text("merges.txt", "a b\n");
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "its tokenizer is BPE without a vocab.json (merges.txt)");
    remove(in_checkpoint("merges.txt"));
    write_text("vocab.txt", vocabulary);
    CHECK_REFUSALS("tokenizer_config.json", class_text, class_refusals);
    write_file(in_checkpoint("vocab.txt"), "[UNK]\n[CLS]\n[SEP]\na\0b\n", 22);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "not text in UTF-8");
    char *text = replaced(vocabulary, "[CLS]", "[cls]");
    write_text("vocab.txt", text);
    free(text);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "no '[CLS]', which is its cls_token");
}

/* One tensor is written otherwise than the configuration says. */
static void write_changed_weights(int which, const char *hf, const char *type, int64_t rows, int64_t columns) {
    part parts[MAX_PARTS];
    int n = list_parts(&plain, parts);
    safe_file *file = calloc(1, sizeof *file);
    assert_non_null(file);
    for (int i = 0; i < n; i++)
        if (i != which) put_tensor(file, parts[i].hf, "F32", parts[i].rows, parts[i].columns, i);
    if (hf) put_tensor(file, hf, type, rows, columns, which);
    write_safe_file(file, "model.safetensors");
    free(file);
}

static void test_weights_that_are_refused(void **state) {
    (void)state;
    part parts[MAX_PARTS];
    list_parts(&plain, parts);
    write_checkpoint(&plain);

    write_changed_weights(5, NULL, NULL, 0, 0);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "tensor encoder.layer.0.attention.self.query.weight is missing");
    write_changed_weights(2, NULL, NULL, 0, 0);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "tensor embeddings.token_type_embeddings.weight is missing");
    write_changed_weights(-1, "encoder.layer.0.attention.self.rotary", "F32", 0, 8);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "tensor encoder.layer.0.attention.self.rotary is not part");
    write_changed_weights(-1, "encoder.adapters.weight", "F32", 0, 8);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "tensor encoder.adapters.weight is not part");
    write_changed_weights(-1, "encoder.layer.2.output.dense.bias", "F32", 0, 32);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "encoder.layer.2.output.dense.bias is in a block beyond");
    write_changed_weights(-1, "encoder.layer.01.output.dense.bias", "F32", 0, 32);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "encoder.layer.01.output.dense.bias is not part");
    write_changed_weights(5, parts[5].hf, "F32", 16, 64);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "is [16, 64], and config.json says [32, 32]");
    write_changed_weights(5, parts[5].hf, "F32", 0, 1024);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "is [1024], and config.json says [32, 32]");
    write_changed_weights(0, parts[0].hf, "F32", 17, 32);
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "is [17, 32], and config.json says [16, 32]");
    write_changed_weights(5, parts[5].hf, "I16", 32, 32);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED,
                 "query.weight is I16; F32, F16, BF16 and F64 can be converted");
    write_changed_weights(-1, "bert.encoder.layer.1.output.dense.bias", "F32", 0, 32);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "is there a second time");
    write_changed_weights(-1, "embeddings.LayerNorm.gamma", "F32", 0, 32);
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "is there a second time");
    assert_false(exists(output));
}

/* Writes the checkpoint's weights with one number, in the middle of the last block, given by its bits. */
static void write_weights_with(const char *type, uint32_t bits) {
    part parts[MAX_PARTS];
    int n = list_parts(&plain, parts);
    size_t size = strcmp(type, "F32") == 0 ? 4 : 2;
    safe_file *file = calloc(1, sizeof *file);
    assert_non_null(file);
    for (int t = 0; t < n; t++) {
        put_tensor(file, parts[t].hf, type, parts[t].rows, parts[t].columns, t);
        if (strcmp(parts[t].name, "blk.1.ffn_up.weight") != 0) continue;
        for (size_t i = 0; i < size; i++) file->data[file->size - size + i] = (unsigned char)(bits >> (8 * i));
    }
    write_safe_file(file, "model.safetensors");
    free(file);
}

/* A weight that is no number, or none in the type that was asked for. */
static void test_values_that_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from;
        uint32_t bits;
        scbm_type to;
        const char *message;
    } cases[] = {
        {"F32", 0x7f800000, SCBM_F32, "infinite or not numbers"},  /* infinity */
        {"F32", 0xffc00000, SCBM_Q8_0, "infinite or not numbers"}, /* not a number */
        {"F16", 0xfc00, SCBM_F32, "infinite or not numbers"},
        {"F16", 0x7bff, SCBM_F16, NULL}, /* 65504 */
        {"BF16", 0x7f80, SCBM_F32, "infinite or not numbers"},
        {"BF16", 0x7f7f, SCBM_BF16, NULL},
        {"BF16", 0x4780, SCBM_F16, "too large for f16"},    /* 65536 */
        {"BF16", 0x477f, SCBM_F16, NULL},                   /* 65280 */
        {"F32", 0x477ff000, SCBM_F16, "too large for f16"}, /* 65520, which rounds up */
        {"F32", 0xc77ff000, SCBM_F16, "too large for f16"},
        {"F32", 0x477fefff, SCBM_F16, NULL}, /* just below, which rounds down to 65504 */
        {"F32", 0x7f7f8000, SCBM_BF16, "too large for bf16"},
        {"F32", 0x7f7f7fff, SCBM_BF16, NULL},
        {"F32", 0x7f7fffff, SCBM_F32, NULL}, /* the largest of all */
    };
    write_checkpoint(&plain);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_weights_with(cases[i].from, cases[i].bits);
        scbm_status status = convert(cases[i].to);
        if (cases[i].message) {
            assert_error(status, status == SCBM_ERROR_UNSUPPORTED ? status : SCBM_ERROR_FORMAT, cases[i].message);
            assert_non_null(strstr(scbm_last_error(), "encoder.layer.1.intermediate.dense.weight"));
        } else {
            assert_ok(status);
        }
    }
}

static void test_indexes_that_are_refused(void **state) {
    (void)state;
    form f = plain;
    f.shards = 2;
    write_checkpoint(&f);
    static const char *const cases[][2] = {
        {"{}", "weight_map is missing"},
        {"{\"weight_map\": {}}", "weight_map is empty"},
        {"{\"weight_map\": []}", "weight_map must be an object"},
        {"{\"weight_map\": {\"a\": 1}}", "tensor a must have the name of a file"},
        {"{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "tensor a must have the name of a file"},
        {"{\"weight_map\": {\"a\": \"part-0.safetensors\"}}", "tensor a is missing"},
        {"{\"weight_map\": {\"embeddings.LayerNorm.bias\": \"part-0.safetensors\"}}", "is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text("model.safetensors.index.json", cases[i][0]);
        assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, cases[i][1]);
    }
    write_text("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"part-7.safetensors\"}}");
    assert_error(convert(SCBM_F32), SCBM_ERROR_IO, "part-7.safetensors");
}

/* peft's adapters belong to another model's weights. */
static void test_adapters(void **state) {
    (void)state;
    write_text("adapter_config.json", "{\"base_model_name_or_path\": \"someone/bert\"}");
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "this is an adapter for another model");
    write_checkpoint(&plain);
    assert_logged("adapter_config.json: the adapter is not used: the weights are the model's without it");
    check_tensors(&plain);
}

static void test_missing_files(void **state) {
    (void)state;
    assert_error(convert_to(in_folder("nothing"), output, SCBM_F32, NULL, NULL), SCBM_ERROR_IO,
                 "there is no such folder");
    assert_error(convert(SCBM_F32), SCBM_ERROR_IO, "it has no config.json");
    write_text("config.json", config_text(&plain));
    assert_error(convert(SCBM_F32), SCBM_ERROR_IO, "neither model.safetensors nor pytorch_model.bin");
    write_text("tf_model.h5", "HDF");
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "tf_model.h5; save them as safetensors");
    write_text("pytorch_model.bin", "PK");
    assert_error(convert(SCBM_F32), SCBM_ERROR_UNSUPPORTED, "pytorch_model.bin: its pickle uses the opcode PERSID");
    write_weights(&plain);
    assert_error(convert(SCBM_F32), SCBM_ERROR_IO, "neither tokenizer.json nor vocab.txt");
    write_text("vocab.txt", vocabulary);
    assert_ok(convert(SCBM_F32));
    write_text("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n");
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "Git LFS pointer");
    write_text("model.safetensors", "");
    assert_error(convert(SCBM_F32), SCBM_ERROR_FORMAT, "model.safetensors: 0 bytes are no safetensors file");
    assert_error(convert_to(checkpoint, output, SCBM_I32, NULL, NULL), SCBM_ERROR_ARGUMENT,
                 "f32, f16, bf16, q8_0 or q4_0");
    assert_error(convert_to(checkpoint, output, (scbm_type)99, NULL, NULL), SCBM_ERROR_ARGUMENT, "f32, f16");
}

/* ------------------------------------------------------------------------------------------
 * safetensors
 * ---------------------------------------------------------------------------------------- */

/* Opens a file of this header and as many bytes of data. */
static scbm_status open_header(const char *header, size_t data_bytes, safetensors **file, unsigned char **memory) {
    size_t length = strlen(header);
    unsigned char *bytes = calloc(1, 8 + length + data_bytes);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) bytes[8 + length + i] = (unsigned char)i;
    scbm_status status = cbm_safetensors_open_memory(file, bytes, 8 + length + data_bytes, "x.safetensors", NULL);
    *memory = bytes;
    return status;
}

static void test_safetensors_header(void **state) {
    (void)state;
    safetensors *file;
    unsigned char *memory;
    assert_ok(open_header(
        "{\"__metadata__\": {\"format\": \"pt\"}, \"b\": {\"dtype\": \"F16\", \"shape\": [2, 3], \"data_offsets\":"
        " [4, 16]}, \"a\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 4]}, \"none\": {\"dtype\":"
        " \"I64\", \"shape\": [0, 9], \"data_offsets\": [4, 4]}}   ",
        16, &file, &memory));
    assert_int_equal(cbm_safetensors_n_tensors(file), 3);
    const stored_tensor *a = cbm_safetensors_get(file, 0), *b = cbm_safetensors_find(file, "b"),
                        *none = cbm_safetensors_get(file, 2);
    assert_string_equal(a->name, "a");
    assert_string_equal(a->type, "F32");
    assert_int_equal(a->n_dims, 0);
    assert_int_equal(a->bytes, 4);
    assert_int_equal(a->data[3], 3);
    assert_ptr_equal(b, cbm_safetensors_get(file, 1));
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->data[0], 4);
    assert_int_equal(none->bytes, 0);
    assert_null(cbm_safetensors_find(file, "c"));
    assert_null(cbm_safetensors_get(file, 3));
    assert_null(cbm_safetensors_get(file, -1));
    cbm_safetensors_close(file);
    free(memory);
    assert_ok(open_header("{}", 0, &file, &memory));
    assert_int_equal(cbm_safetensors_n_tensors(file), 0);
    cbm_safetensors_close(file);
    free(memory);
    cbm_safetensors_close(NULL);
}

#define ENTRY(name, type, shape, offsets)                                                                              \
    "\"" name "\": {\"dtype\": \"" type "\", \"shape\": " shape ", \"data_offsets\": " offsets "}"

static void test_safetensors_damage(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *message;
    } cases[] = {
        {"{" ENTRY("a", "F32", "[2]", "[0, 8]") "}", 7, "behind the end of the file"},
        {"{" ENTRY("a", "F32", "[2]", "[0, 8]") "}", 9, "1 bytes follow the last tensor"},
        {"{" ENTRY("a", "F32", "[3]", "[0, 8]") "}", 8, "its shape needs 12 bytes, and it has 8"},
        {"{" ENTRY("a", "F32", "[2]", "[0, 4]") "," ENTRY("b", "F32", "[1]", "[4, 8]") "}", 8,
         "its shape needs 8 bytes"},
        {"{" ENTRY("a", "F32", "[2]", "[0, 8]") "," ENTRY("b", "F32", "[1]", "[4, 8]") "}", 8,
         "tensor b: its data overlaps"},
        {"{" ENTRY("a", "F32", "[1]", "[0, 4]") "," ENTRY("b", "F32", "[1]", "[0, 4]") "}", 4, "its data overlaps"},
        {"{" ENTRY("a", "F32", "[1]", "[0, 4]") "," ENTRY("b", "F32", "[1]", "[8, 12]") "}", 12,
         "tensor b: there is a gap"},
        {"{" ENTRY("a", "F32", "[1]", "[0, 4]") "," ENTRY("a", "F32", "[1]", "[4, 8]") "}", 8,
         "tensor a: the name is there twice"},
        {"{" ENTRY("a", "F32", "[1]", "[4, 0]") "}", 4, "not two ascending numbers"},
        {"{" ENTRY("a", "F32", "[1]", "[-4, 0]") "}", 4, "not two ascending numbers"},
        {"{" ENTRY("a", "F32", "[1]", "[0, 4, 8]") "}", 4, "not two ascending numbers"},
        {"{" ENTRY("a", "F32", "[1]", "[0, 18446744073709551616]") "}", 4, "not two ascending numbers"},
        {"{" ENTRY("a", "F32", "[4611686018427387904]", "[0, 0]") "}", 0, "something else in it than sizes"},
        {"{" ENTRY("a", "F32", "[2147483648, 2147483648]", "[0, 0]") "}", 0, "larger than any file"},
        {"{" ENTRY("a", "F32", "[-1]", "[0, 4]") "}", 4, "something else in it than sizes"},
        {"{" ENTRY("a", "F32", "[1.5]", "[0, 6]") "}", 6, "something else in it than sizes"},
        {"{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0, 4]") "}", 4, "too many dimensions"},
        {"{" ENTRY("a", "F32", "1", "[0, 4]") "}", 4, "its shape is missing"},
        {"{" ENTRY("a", "Q9", "[1]", "[0, 4]") "}", 4, "its type Q9 is not known"},
        {"{\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}}", 4, "its dtype is missing"},
        {"{\"a\": 1}", 0, "its dtype is missing"},
        {"{" ENTRY("a\\nb", "F32", "[1]", "[0, 4]") "}", 4, "control characters"},
        {"{" ENTRY("", "F32", "[1]", "[0, 4]") "}", 4, "is empty or has control characters"},
        {"[]", 0, "a JSON object is expected"},
        {"{x}", 0, "is not JSON"},
        {"{", 0, "cut off, or no safetensors file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        safetensors *file;
        unsigned char *memory;
        scbm_status status = open_header(cases[i].header, cases[i].data_bytes, &file, &memory);
        assert_error(status, status == SCBM_ERROR_UNSUPPORTED ? status : SCBM_ERROR_FORMAT, cases[i].message);
        assert_null(file);
        free(memory);
    }
}

static void test_safetensors_header_size(void **state) {
    (void)state;
    static const unsigned char huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'};
    static const unsigned char longer[16] = {9, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    safetensors *file;
    assert_error(cbm_safetensors_open_memory(&file, huge, sizeof huge, "x", NULL), SCBM_ERROR_FORMAT,
                 "a header of 18446744073709551615 bytes in a file of 16");
    assert_error(cbm_safetensors_open_memory(&file, longer, sizeof longer, "x", NULL), SCBM_ERROR_FORMAT,
                 "a header of 9 bytes in a file of 16");
    assert_error(cbm_safetensors_open_memory(&file, longer, 7, "x", NULL), SCBM_ERROR_FORMAT,
                 "7 bytes are no safetensors file");
    size_t size = 8 + ((size_t)16 << 20) + 1;
    unsigned char *bytes = calloc(1, size);
    assert_non_null(bytes);
    bytes[0] = 1;
    bytes[3] = 1; /* 2^24 + 1 */
    assert_error(cbm_safetensors_open_memory(&file, bytes, size, "x", NULL), SCBM_ERROR_FORMAT,
                 "16777216 at most are read");
    free(bytes);
}

/* No part of a file opens, and a flipped bit is an error or a file whose tensors lie inside it. */
static void test_every_cut_and_every_bit(void **state) {
    (void)state;
    safe_file *parts = calloc(1, sizeof *parts);
    size_t size;
    safetensors *file;
    assert_non_null(parts);
    put_tensor(parts, "embeddings.LayerNorm.weight", "F32", 0, 3, 1);
    put_tensor(parts, "cls.weight", "BF16", 2, 3, 2);
    unsigned char *bytes = finish_safe_file(parts, &size);
    free(parts);
    assert_ok(cbm_safetensors_open_memory(&file, bytes, size, "x", NULL));
    cbm_safetensors_close(file);
    for (size_t n = 0; n < size; n++) {
        unsigned char *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, bytes, n);
        scbm_status status = cbm_safetensors_open_memory(&file, cut, n, "x", NULL);
        assert_error(status, SCBM_ERROR_FORMAT, "x: ");
        free(cut);
    }
    for (size_t bit = 0; bit < 8 * size; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        if (cbm_safetensors_open_memory(&file, bytes, size, "x", NULL) == SCBM_OK) {
            for (int64_t i = 0; i < cbm_safetensors_n_tensors(file); i++) {
                const stored_tensor *tensor = cbm_safetensors_get(file, i);
                assert_true(tensor->data >= bytes + 8 && tensor->bytes <= (uint64_t)(bytes + size - tensor->data));
            }
            cbm_safetensors_close(file);
        }
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    free(bytes);
}

/* ------------------------------------------------------------------------------------------
 * Memory, cancelling, the program
 * ---------------------------------------------------------------------------------------- */

typedef struct meter {
    counting_allocator memory;
    int stop, n; /* which call cancels, from 1; calls */
    char what[64];
    int64_t done, total;
} meter;

static int meter_progress(void *user, const char *what, int64_t done, int64_t total) {
    meter *m = user;
    assert_true(done <= total && (strcmp(what, m->what) != 0 ? done == 1 : done == m->done + 1));
    snprintf(m->what, sizeof m->what, "%s", what);
    m->done = done;
    m->total = total;
    return ++m->n == m->stop;
}

static void test_out_of_memory(void **state) {
    (void)state;
    form f = plain;
    f.shards = 2;
    write_checkpoint(&f);
    write_text("tokenizer.json", tokenizer_json);
    write_text("README.md", "---\nlicense: [mit, bsd]\n---\n");
    write_text("modules.json", "[" MODULE(0, "0", "", ST "Transformer") "]");
    scbm_status status = SCBM_ERROR_MEMORY;
    int n = 0;
    for (; status; n++) {
        counting_allocator memory = {.fails_at = n + 1};
        const scbm_hooks hooks = allocator_hooks(&memory);
        status = convert_to(checkpoint, output, SCBM_Q8_0, NULL, &hooks);
        if (status && status != SCBM_ERROR_MEMORY) fail_msg("allocation %d: %s", n, scbm_last_error());
        assert_int_equal(memory.held, 0);
        assert_true(exists(output) == !status);
        assert_true(n < 2000);
    }
    assert_true(n > 50);
}

static void test_progress_and_cancelling(void **state) {
    (void)state;
    meter m = {.n = 0};
    write_checkpoint(&plain);
    for (int stop = 0, n = 0; stop <= n; stop++) {
        m = (meter){.stop = stop};
        scbm_hooks hooks = allocator_hooks(&m.memory);
        hooks.progress = meter_progress;
        scbm_status status = convert_to(checkpoint, output, SCBM_F32, NULL, &hooks);
        assert_int_equal(m.memory.held, 0);
        assert_true(exists(output) == !stop);
        if (stop) {
            assert_error(status, SCBM_ERROR_CANCELLED, "cancelled");
            continue;
        }
        assert_ok(status);
        assert_int_equal(n = m.n, 2 * 37); /* each tensor is checked, then written */
        assert_true(m.done == m.total);
        assert_string_equal(m.what, "tensors written");
        assert_int_equal(remove(output), 0);
    }
}

static int cancel_at(void *user) {
    meter *m = user;
    return ++m->n == m->stop;
}

/* Whenever the cancel hook is asked and says so, it is over, and nothing is left. */
static void test_cancel_hook(void **state) {
    (void)state;
    write_checkpoint(&plain);
    for (int stop = 0, n = 0; stop <= n; stop++) {
        meter m = {.stop = stop};
        scbm_hooks hooks = allocator_hooks(&m.memory);
        hooks.cancel = cancel_at;
        scbm_status status = convert_to(checkpoint, output, SCBM_F32, NULL, &hooks);
        if (stop) assert_error(status, SCBM_ERROR_CANCELLED, "cancelled");
        else assert_ok(status);
        if (!stop) assert_true((n = m.n) >= 2 * 37);
        assert_int_equal(m.memory.held, 0);
        assert_true(exists(output) == !stop);
        if (!stop) assert_int_equal(remove(output), 0);
    }
}

/* What the caller says holds before what the folder says. */
static void test_options(void **state) {
    (void)state;
    write_checkpoint(&plain);
    cbm_conversion facts;
    cbm_convert_options options = {.max_tokens = 7, .pooling = CBM_POOL_FIRST, .normalize = CBM_NORMALIZE_YES};
    assert_ok(cbm_convert(checkpoint, output, &options, &facts));
    assert_int_equal(facts.max_tokens, 7);
    assert_int_equal(facts.pooling, CBM_POOL_FIRST);
    assert_true(facts.normalize);
    assert_string_equal(facts.architecture, "bert");
    scbm_file *file = open_output();
    assert_key_int(file, "sparsecbm.max_tokens", 7);
    assert_key_int(file, "bert.context_length", 24);
    assert_key_int(file, "bert.pooling_type", 2);
    assert_key_int(file, "sparsecbm.normalize", 1);
    scbm_file_close(file);
    write_text("modules.json",
               "[" MODULE(0, "0", "", ST "Transformer") ", " MODULE(1, "1", "1_Pooling", ST "Pooling") ", " MODULE(
                   2, "2", "2_Normalize", ST "Normalize") "]");
    assert_int_equal(mkdir(in_checkpoint("1_Pooling"), 0777), 0);
    write_text("1_Pooling/config.json", "{\"pooling_mode_cls_token\": true}");
    assert_ok(cbm_convert(checkpoint, output, NULL, &facts)); /* NULL: as the folder says */
    assert_int_equal(facts.pooling, CBM_POOL_FIRST);
    assert_true(facts.normalize && facts.max_tokens == 24);
    options = (cbm_convert_options){.pooling = CBM_POOL_MEAN, .normalize = CBM_NORMALIZE_NO};
    assert_ok(cbm_convert(checkpoint, output, &options, &facts));
    assert_int_equal(facts.pooling, CBM_POOL_MEAN);
    assert_false(facts.normalize);
    options = (cbm_convert_options){.max_tokens = 25};
    assert_error(cbm_convert(checkpoint, output, &options, NULL), SCBM_ERROR_ARGUMENT, "texts of 25 tokens");
    options = (cbm_convert_options){.max_tokens = -1};
    assert_error(cbm_convert(checkpoint, output, &options, NULL), SCBM_ERROR_ARGUMENT, "texts of -1 tokens");
    assert_error(cbm_convert(NULL, output, NULL, NULL), SCBM_ERROR_ARGUMENT, "NULL");
}

/* What README.md and config.json say of licence and source stands in the model file. */
static void test_licence_and_source(void **state) {
    (void)state;
    scbm_file *file;
    write_checkpoint(&plain);
    write_text("README.md", "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- license: no\n---\n\nlicense: mit\n");
    assert_ok(convert(SCBM_F32));
    file = open_output();
    assert_key_text(file, "general.license", "apache-2.0");
    assert_key_text(file, "general.source.repo_url", "https://huggingface.co/someone/small-bert");
    assert_int_equal(scbm_file_find_key(file, "general.license.name"), -1);
    scbm_file_close(file);
    char *text = replaced(config_text(&plain), "someone/small-bert", "models/on/a/disk");
    write_text("config.json", text);
    free(text);
    write_text("README.md", "# A model\n---\nlicense: mit\n---\n"); /* no front matter */
    assert_ok(convert(SCBM_F32));
    file = open_output();
    assert_int_equal(scbm_file_find_key(file, "general.license"), -1);
    assert_int_equal(scbm_file_find_key(file, "general.source.repo_url"), -1);
    scbm_file_close(file);
}

static void test_front_matter(void **state) {
    (void)state;
    static const struct {
        const char *text, *license, *link;
    } cases[] = {
        {"---\nlicense: mit\n---\n", "mit", NULL},
        {"---\r\nlicense:   'mit' \r\n---\r\n", "mit", NULL},
        {"---\nlicense: \"a # b\" # why\nlicense_link: LICENSE # see there\n---", "a # b", "LICENSE"},
        {"---\nlicense:\n- mit\n  - \"apache-2.0\"\nlicense_link:\n---\n", "mit,apache-2.0", NULL},
        {"---\nlicense: [mit, 'gpl-3.0']\n", "mit,gpl-3.0", NULL},
        {"---\nlicense: [\nlicense_link: ]\n", "[", "]"},
        {"---\nlicense_name: x\nlicenses: y\n license: z\n", NULL, NULL},
        {"---\nlicense: a\x01"
         "b\nlicense_link: \xC3(\n",
         NULL, NULL},
        {"---\nlicense: 'open\n", NULL, NULL},
        {"license: mit\n", NULL, NULL},
        {"---\n---\nlicense: mit\n", NULL, NULL},
        {"", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hf_card card;
        assert_ok(cbm_hf_card_parse(&card, cases[i].text, strlen(cases[i].text), NULL));
        const char *license = card.field[HF_CARD_LICENSE], *link = card.field[HF_CARD_LICENSE_LINK];
        if (!license != !cases[i].license || (license && strcmp(license, cases[i].license) != 0))
            fail_msg("%d: %s", (int)i, license ? license : "none");
        if (!link != !cases[i].link || (link && strcmp(link, cases[i].link) != 0))
            fail_msg("%d: %s", (int)i, link ? link : "none");
        cbm_hf_card_clear(&card);
    }
}

/* {0} is NULL, to the byte. */
static void test_zero_options(void **state) {
    (void)state;
    const cbm_convert_options options = {0};
    write_checkpoint(&plain);
    assert_ok(cbm_convert(checkpoint, output, NULL, NULL));
    assert_ok(cbm_convert(checkpoint, in_folder("other.gguf"), &options, NULL));
    assert_true(same_files(output, in_folder("other.gguf")));
}

/* ------------------------------------------------------------------------------------------
 * Verifying
 * ---------------------------------------------------------------------------------------- */

/* The written file in memory, to be damaged. */
typedef struct written_file {
    char *bytes;
    size_t size;
    scbm_file *file;
} written_file;

static unsigned char *open_written(written_file *w, const char *name, const scbm_tensor **tensor) {
    w->bytes = read_file(output, &w->size);
    assert_ok(scbm_file_open_memory(&w->file, w->bytes, w->size, output, NULL));
    *tensor = scbm_file_find_tensor(w->file, name);
    assert_non_null(*tensor);
    unsigned char *data = (*tensor)->data;
    if (!((char *)data >= w->bytes && (char *)data < w->bytes + w->size)) fail_msg("the file was copied");
    return data;
}

static void close_written(written_file *w, scbm_status wanted, const char *words) {
    scbm_file_close(w->file);
    write_file(output, w->bytes, w->size);
    free(w->bytes);
    if (!wanted) assert_ok(cbm_verify_conversion(checkpoint, output, NULL, NULL));
    else assert_error(cbm_verify_conversion(checkpoint, output, NULL, NULL), wanted, words);
}

static void verify_after(scbm_type type) {
    cbm_verification result;
    assert_ok(convert(type));
    assert_ok(cbm_verify_conversion(checkpoint, output, NULL, &result));
    assert_int_equal(result.n_tensors, 5 + 16 * BLOCKS);
    assert_true(result.n_weights > 1000 && result.n_tokens > 10 && result.difference <= 1e-4);
}

/* A square matrix turned round: its shape tells nobody. */
static void turn_square(const char *name) {
    written_file w;
    const scbm_tensor *tensor;
    float *data = (float *)(void *)open_written(&w, name, &tensor);
    int64_t n = tensor->shape[0];
    assert_int_equal(n, tensor->shape[1]);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) {
            float other = data[i * n + j];
            data[i * n + j] = data[j * n + i];
            data[j * n + i] = other;
        }
    close_written(&w, SCBM_ERROR_FORMAT, "tensor blk.0.attn_k.weight is not what");
}

static void swap_tensors(const char *name, const char *other) {
    written_file w;
    const scbm_tensor *tensor;
    unsigned char *data = open_written(&w, name, &tensor), *second = scbm_file_find_tensor(w.file, other)->data;
    for (size_t i = 0; i < scbm_tensor_bytes(tensor); i++) {
        unsigned char byte = data[i];
        data[i] = second[i];
        second[i] = byte;
    }
    close_written(&w, SCBM_ERROR_FORMAT, "is not what");
}

static void flip_bit(const char *name, size_t byte, int bit, const char *words) {
    written_file w;
    const scbm_tensor *tensor;
    open_written(&w, name, &tensor)[byte] ^= (unsigned char)(1 << bit);
    close_written(&w, SCBM_ERROR_FORMAT, words);
    write_file(output, "", 0);
}

static void test_verifying(void **state) {
    (void)state;
    static const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};
    static const char *const sources[] = {"F32", "F16", "BF16"};
    form checked = plain;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        checked.type = sources[i];
        write_checkpoint(&checked);
        for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
            verify_after(types[t]);
            flip_bit("blk.1.ffn_up.weight", 70, 0, "tensor blk.1.ffn_up.weight is not what");
        }
    }
    write_checkpoint(&plain);
    verify_after(SCBM_F32);
    flip_bit("blk.0.attn_output_norm.bias", 0, 7, "tensor blk.0.attn_output_norm.bias is not what");
    verify_after(SCBM_F32);
    turn_square("blk.0.attn_k.weight");
    verify_after(SCBM_F32);
    swap_tensors("blk.0.attn_q.weight", "blk.1.attn_q.weight");
    verify_after(SCBM_F32);
    swap_tensors("blk.0.attn_q.bias", "blk.0.attn_v.bias");
    assert_ok(convert(SCBM_F32));
    char *text = replaced(config_text(&plain), "1e-7", "1e-5");
    write_text("config.json", text);
    free(text);
    assert_error(cbm_verify_conversion(checkpoint, output, NULL, NULL), SCBM_ERROR_FORMAT,
                 "config.json's layer_norm_eps is 1e-05, and the file has 1e-07");
}

/* Runs the program that the environment's CONVERT names; its exit status, and what it said in *text. */
static int run_program(const char *arguments, int errors, char text[1024]) {
    char line[1024];
    const char *program = getenv("CONVERT");
    snprintf(line, sizeof line, "cd '%s' && '%s%s' %s %s", folder, program ? "" : getenv("PWD"),
             program ? program : "/convert/convert-hf", arguments, errors ? "2>&1 >/dev/null" : "2>/dev/null");
    FILE *stream = popen(line, "r");
    assert_non_null(stream);
    size_t n = fread(text, 1, 1023, stream);
    text[n] = 0;
    int status = pclose(stream);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_the_program(void **state) {
    (void)state;
    char text[1024];
    write_checkpoint(&plain);
    assert_int_equal(run_program("checkpoint -o model.gguf", 0, text), 0);
    assert_non_null(strstr(text, "model.gguf"));
    assert_non_null(strstr(text, "2 blocks of hidden size 32 with 4 heads"));
    check_tensors(&plain);
    assert_int_equal(run_program("checkpoint --output=model.gguf --type q8_0", 0, text), 0);
    scbm_file *file = open_output();
    assert_int_equal(scbm_file_find_tensor(file, "token_embd.weight")->type, SCBM_Q8_0);
    scbm_file_close(file);
    assert_int_equal(run_program("--help", 0, text), 0);
    assert_non_null(strstr(text, "--type f32|f16|bf16|q8_0|q4_0"));
    assert_null(strstr(text, "convert-hf convert")); /* the program is the command */
    assert_int_equal(run_program("checkpoint -o model.gguf --verify", 0, text), 0);
    assert_non_null(strstr(text, "verified: all weights are the folder's; hidden states of a text differ by "));
    assert_int_equal(run_program("checkpoint -o model.gguf --json", 0, text), 0);
    assert_non_null(strstr(text, "\"blocks\":2,\"hidden_size\":32,\"heads\":4"));
    assert_int_equal(run_program("--version", 0, text), 0);
    static const struct {
        const char *arguments;
        int status;
        const char *message;
    } cases[] = {
        {"", 2, "one Hugging Face folder is expected, got 0"},
        {"checkpoint", 2, "-o FILE is required"},
        {"checkpoint -o", 2, "--output wants a value"},
        {"-o x.gguf", 2, "one Hugging Face folder is expected, got 0"},
        {"checkpoint other -o x.gguf", 2, "one Hugging Face folder is expected, got 2"},
        {"checkpoint -o x.gguf --type q5_0", 2, "--type wants f32|f16|bf16|q8_0|q4_0, got 'q5_0'"},
        {"checkpoint -o x.gguf --type", 2, "--type wants a value"},
        {"checkpoint -o x.gguf --typ f16", 2, "there is no option --typ; did you mean --type?"},
        {"checkpoint -o x.gguf --max-length 25", 1, "texts of 25 tokens were asked for, and it reads 2 to 24"},
        {"nothing -o x.gguf", 1, "nothing: there is no such folder"},
        {"checkpoint -o nothing/x.gguf", 1, "nothing/x.gguf (-o): cannot be written"},
        {"nothing -o missing/x.gguf", 1, "missing/x.gguf (-o): cannot be written"}, /* before the work */
        {"checkpoint -o checkpoint/vocab.txt", 2, "-o checkpoint/vocab.txt is a file of FOLDER"},
        {"checkpoint -o ./checkpoint/model.safetensors", 2, "is a file of FOLDER"},
        {"checkpoint/vocab.txt -o x.gguf", 1, "a folder with a Hugging Face checkpoint is expected; this is a file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status = run_program(cases[i].arguments, 1, text);
        if (status != cases[i].status || !strstr(text, cases[i].message))
            fail_msg("'%s': status %d, '%s'", cases[i].arguments, status, text);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
    }
}

#define TEST(name) cmocka_unit_test_setup(name, start_anew)

/* The README's table is the list of what can be converted. */
static void test_what_can_be_converted(void **state) {
    (void)state;
    const char *type, *title, *architecture, *examples;
    char row[400], *readme = read_file("README.md", NULL);
    int n = 0;
    for (; cbm_encoder_kind_at(n, &type, &title, &architecture, &examples); n++) {
        if (type) snprintf(row, sizeof row, "| `%s` | %s | `%s` | %s |", type, title, architecture, examples);
        else snprintf(row, sizeof row, "| – | %s | `%s` | `train --encoder %s` |", title, architecture, architecture);
        if (!strstr(readme, row)) fail_msg("README.md lacks the row %s", row);
    }
    assert_int_equal(cbm_encoder_kind_at(-1, &type, &title, &architecture, &examples), 0);
    assert_true(n >= 9);
    for (n = 0; cbm_convert_tokenizer_at(n); n++) assert_true(strlen(cbm_convert_tokenizer_at(n)) > 1);
    assert_true(n >= 2);
    free(readme);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_every_weight_arrives),
        TEST(test_types_of_weights),
        TEST(test_names),
        TEST(test_wrapped_models),
        TEST(test_heads_that_are_left_out),
        TEST(test_missing_model_type),
        TEST(test_shards),
        TEST(test_stored_types),
        TEST(test_keys),
        TEST(test_activations),
        TEST(test_the_model_loads),
        TEST(test_vocabulary_files),
        TEST(test_tokenizer_settings),
        TEST(test_added_tokens),
        TEST(test_tokenizer_files_that_are_not_used),
        TEST(test_special_tokens),
        TEST(test_sentence_transformers),
        TEST(test_what_is_not_honoured_is_named),
        TEST(test_pooling_that_is_not_known),
        TEST(test_embeddings_are_as_long_as_the_folder_says),
        TEST(test_transformer_in_a_folder),
        TEST(test_modules_that_are_refused),
        TEST(test_configurations_that_are_refused),
        TEST(test_tokenizers_that_are_refused),
        TEST(test_vocabularies_that_are_refused),
        TEST(test_weights_that_are_refused),
        TEST(test_values_that_are_refused),
        TEST(test_indexes_that_are_refused),
        TEST(test_adapters),
        TEST(test_missing_files),
        TEST(test_safetensors_header),
        TEST(test_safetensors_damage),
        TEST(test_safetensors_header_size),
        TEST(test_every_cut_and_every_bit),
        TEST(test_out_of_memory),
        TEST(test_progress_and_cancelling),
        TEST(test_cancel_hook),
        TEST(test_options),
        TEST(test_zero_options),
        TEST(test_licence_and_source),
        TEST(test_front_matter),
        TEST(test_verifying),
        TEST(test_what_can_be_converted),
        TEST(test_the_program),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
