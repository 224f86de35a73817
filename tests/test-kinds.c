/*
 * tests/test-kinds.c - files that are not what they should be: every reader says in one sentence what they are and what to
 * do, and text that only looks so is read
 */
#define _XOPEN_SOURCE 700

#include "convert/hf-tokenizer.h"
#include "convert/safetensors.h"
#include "models/cbm-train.h"
#include "tests/helpers.h"

#include <string.h>
#include <sys/stat.h>

typedef struct content {
    const char *bytes;
    size_t size;
    const char *words; /* of the message */
} content;

#define C(bytes, words)                                                                                                \
    { bytes, sizeof bytes - 1, words }

static const content binaries[] = {
    C("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n",
      "a Git LFS pointer, not the file itself; `git lfs pull` fetches it"),
    C("/annex/objects/SHA256E-s5--0\n", "a git-annex pointer"),
    C("\x1f\x8b\x08\0\0\0\0\0\0\x03text", "compressed with gzip; `gunzip` unpacks it"),
    C("BZh91AY&SY\x01\x02\x03\x04", "compressed with bzip2; `bunzip2` unpacks it"),
    C("\xfd"
      "7zXZ\0\0\x04",
      "compressed with xz; `unxz` unpacks it"),
    C("\x28\xb5\x2f\xfd\x04\0\0\0", "compressed with Zstandard; `unzstd` unpacks it"),
    C("7z\xbc\xaf\x27\x1c\0\x04", "a 7-Zip archive"),
    C("PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\0\0\0data.csv",
      "a zip archive; `unzip` unpacks it"),
    C("PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x16\0\0\0pytorch_model/data.pkl",
      "a PyTorch checkpoint (zip); save the model as safetensors"),
    C("PK\x03\x04\x14\0\x06\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x13\0\0\0[Content_Types].xml",
      "an Excel, Word or OpenDocument file; save it as CSV"),
    C("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel or Word file of old"),
    C("PAR1\x15\x04\x15\0", "a Parquet table; save it as CSV, TSV or JSON Lines"),
    C("ARROW1\0\0", "an Arrow table"),
    C("\xff\xff\xff\xff\x10\0\0\0", "an Arrow stream"),
    C("SQLite format 3\0", "an SQLite database"),
    C("\x89HDF\r\n\x1a\n", "an HDF5 file"),
    C("\x93NUMPY\x01\0", "a NumPy array"),
    C("\x80\x02\x8a\nl\xfc", "a Python pickle, as old PyTorch checkpoints are; save the model as safetensors"),
    C("\x80\x04\x95\x01", "a Python pickle"),
    C("tjgg\x03\0\0\0", "a GGML file, from before GGUF"),
    C("\x89PNG\r\n\x1a\n", "a picture"),
    C("\xff\xfet\0e\0x\0t\0", "UTF-16; save it as UTF-8"),
    C("\xfe\xff\0t\0e\0x\0t", "UTF-16; save it as UTF-8"),
    C("t\0e\0x\0t\0,\0s\0t\0a\0r\0s\0", "UTF-16; save it as UTF-8"),
    C("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "nothing but zeros at its beginning"),
};

/* Text, which whoever reads lines of text takes as it is. */
static const content texts[] = {
    C("<!DOCTYPE html>\n<html>", "a web page"),
    C("\xef\xbb\xbf\n <HTML lang=en>", "a web page"),
    C("<?xml version=\"1.0\"?><Error>", "XML, perhaps what a server sent"),
    C("Entry not found", "a server's answer, \"Entry not found\""),
    C("%PDF-1.7\n", "a PDF document"),
};

/* A word is no format: these are texts, and columns of tables. */
static const content ordinary[] = {C("ORC, an old one\n", NULL),
                                   C("PAR1 of the file\n", NULL),
                                   C("BZh\n", NULL),
                                   C("GGUF\n", NULL),
                                   C("7z\n", NULL),
                                   C("", NULL),
                                   C("x", NULL)};

static const char *written(const content *c) {
    const char *path = in_folder("content.csv");
    write_file(path, c->bytes, c->size);
    return path;
}

static scbm_status take_line(void *user, const char *text, size_t length, size_t line_number, int more) {
    (void)text, (void)length, (void)line_number, (void)more;
    ++*(int *)user;
    return SCBM_OK;
}

static scbm_status read_lines(const char *path) {
    int n = 0;
    return cbm_read_lines(path, take_line, NULL, &n, NULL);
}

static scbm_status read_table(const char *path) {
    const cbm_dataset_options options = {.paths = &path, .n_paths = 1, .text = "text"};
    cbm_dataset data;
    scbm_status status = cbm_dataset_read(&data, &options, NULL);
    if (!status) cbm_dataset_clear(&data);
    return status;
}

static scbm_status open_model(const char *path) {
    cbm_model *model;
    scbm_status status = cbm_model_load(&model, path, NULL);
    if (!status) cbm_model_free(model);
    return status;
}

static scbm_status open_weights(const char *path) {
    safetensors *file;
    scbm_status status = cbm_safetensors_open(&file, path, NULL);
    if (!status) cbm_safetensors_close(file);
    return status;
}

static scbm_status read_vocabulary(const content *c) {
    hf_tokenizer tokenizer;
    assert_ok(cbm_hf_tokenizer_init(&tokenizer, 64, NULL));
    scbm_status status = cbm_hf_tokenizer_parse_vocab(&tokenizer, c->bytes, c->size, "vocab.txt");
    cbm_hf_tokenizer_clear(&tokenizer);
    return status;
}

static scbm_status read_merges(const content *c) {
    hf_tokenizer tokenizer;
    assert_ok(cbm_hf_tokenizer_init(&tokenizer, 64, NULL));
    scbm_status status = cbm_hf_tokenizer_parse_merges(&tokenizer, c->bytes, c->size, "merges.txt");
    cbm_hf_tokenizer_clear(&tokenizer);
    return status;
}

/* The folder's only vocabulary; sentencepiece.bpe.model of XLM-RoBERTa. */
static scbm_status read_sentencepiece(const content *c) {
    static const char class[] = "{\"tokenizer_class\": \"XLMRobertaTokenizer\"}";
    hf_tokenizer tokenizer;
    mkdir(in_folder("tokenizer"), 0777);
    write_file(in_folder("tokenizer/tokenizer_config.json"), class, sizeof class - 1);
    write_file(in_folder("tokenizer/sentencepiece.bpe.model"), c->bytes, c->size);
    scbm_status status = cbm_hf_tokenizer_read(&tokenizer, in_folder("tokenizer"), 64, NULL);
    if (!status) cbm_hf_tokenizer_clear(&tokenizer);
    return status;
}

/* config.json is the first file of a folder that is read. */
static scbm_status convert_folder(const content *c) {
    mkdir(in_folder("checkpoint"), 0777);
    write_file(in_folder("checkpoint/config.json"), c->bytes, c->size);
    return cbm_convert(in_folder("checkpoint"), in_folder("model.gguf"), NULL, NULL);
}

static void check_strict_readers(const content *c) {
    assert_error(read_table(written(c)), SCBM_ERROR_FORMAT, c->words);
    assert_error(open_model(written(c)), SCBM_ERROR_FORMAT, c->words);
    assert_error(open_weights(written(c)), SCBM_ERROR_FORMAT, c->words);
    assert_error(read_vocabulary(c), SCBM_ERROR_FORMAT, c->words);
    assert_error(read_merges(c), SCBM_ERROR_FORMAT, c->words);
    assert_error(read_sentencepiece(c), SCBM_ERROR_FORMAT, c->words);
    assert_error(convert_folder(c), SCBM_ERROR_FORMAT, c->words);
    assert_error(cbm_convert(written(c), in_folder("model.gguf"), NULL, NULL), SCBM_ERROR_IO, c->words);
}

static void every_reader_says_what_a_file_is(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(binaries); i++) {
        check_strict_readers(&binaries[i]);
        assert_error(read_lines(written(&binaries[i])), SCBM_ERROR_FORMAT, binaries[i].words);
    }
    for (int i = 0; i < COUNT_OF(texts); i++) check_strict_readers(&texts[i]);
}

static void texts_are_not_taken_for_files(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(texts); i++) {
        assert_null(scbm_bytes_recognize(texts[i].bytes, texts[i].size, 1));
        assert_ok(read_lines(written(&texts[i])));
    }
    for (int i = 0; i < COUNT_OF(ordinary); i++) {
        assert_null(scbm_bytes_recognize(ordinary[i].bytes, ordinary[i].size, 0));
        assert_ok(read_lines(written(&ordinary[i])));
    }
}

/* Our own formats, where another one is wanted. */
static void our_files_in_the_wrong_place(void **state) {
    static const content weights = C("\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\"",
                                     "weights in safetensors; the folder");
    static const content model = C("GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a GGUF model file");
    (void)state;
    assert_error(read_table(written(&weights)), SCBM_ERROR_FORMAT, weights.words);
    assert_error(open_model(written(&weights)), SCBM_ERROR_FORMAT, weights.words);
    assert_error(read_table(written(&model)), SCBM_ERROR_FORMAT, model.words);
    assert_error(open_weights(written(&model)), SCBM_ERROR_FORMAT, model.words);
    assert_error(cbm_convert(written(&model), in_folder("x.gguf"), NULL, NULL), SCBM_ERROR_IO,
                 "a folder with a Hugging Face checkpoint is expected; this is a file: a GGUF model file");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reader_says_what_a_file_is),
        cmocka_unit_test(texts_are_not_taken_for_files),
        cmocka_unit_test(our_files_in_the_wrong_place),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
