/*
 * convert/hf-wordpiece.c - BERT's WordPiece in tokenizer.json, vocab.txt and tokenizer_config.json
 */
#include "convert/hf-tokenizer.h"
#include "models/base/text.h"

#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define MAX_WORD 1000

static scbm_status start(hf_tokenizer *t) {
    static const char *const usual[CBM_SPECIAL_TOKENS] = {
        [CBM_TOKEN_UNKNOWN] = "[UNK]", [CBM_TOKEN_FIRST] = "[CLS]", [CBM_TOKEN_LAST] = "[SEP]",
        [CBM_TOKEN_PADDING] = "[PAD]", [CBM_TOKEN_MASK] = "[MASK]",
    };
    t->kind = &cbm_hf_wordpiece;
    cbm_wordpiece_defaults(&t->wordpiece);
    t->lowercase = t->wordpiece.lowercase;
    return cbm_hf_tokenizer_set_usual(t, usual);
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json
 * ---------------------------------------------------------------------------------------- */

static scbm_status read_vocabulary(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const cJSON *vocab;
    scbm_status status = cbm_json_object_or_null(json, model, "vocab", &vocab);
    if (!status && !vocab) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.vocab is missing", json->path);
    return status ? status : cbm_hf_tokenizer_add_all(t, json, vocab, "model.vocab: ");
}

static scbm_status read_model(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const char *prefix, *unknown;
    int64_t longest = t->wordpiece.max_word_characters;
    scbm_status status = cbm_json_string_or(json, model, "continuing_subword_prefix", "##", &prefix);
    if (!status && strcmp(prefix, "##") != 0)
        status = cbm_hf_refuse(json, "model.continuing_subword_prefix", prefix, "##");
    if (!status) status = cbm_json_int_or(json, model, "max_input_chars_per_word", 1, MAX_WORD, longest, &longest);
    if (!status) status = cbm_json_string_or(json, model, "unk_token", "[UNK]", &unknown);
    if (!status) status = cbm_hf_tokenizer_set_special(t, CBM_TOKEN_UNKNOWN, unknown, HF_BY_TOKENIZER);
    t->wordpiece.max_word_characters = (int)longest;
    return status ? status : read_vocabulary(t, json, model);
}

static scbm_status read_normalizer(hf_tokenizer *t, const json_file *json) {
    const cJSON *normalizer = NULL;
    cbm_wordpiece_options *o = &t->wordpiece;
    scbm_status status = cbm_hf_get_part(json, "normalizer", "BertNormalizer", &normalizer);
    if (!status) status = cbm_json_bool_or(json, normalizer, "lowercase", 1, &o->lowercase);
    if (!status) status = cbm_json_bool_or(json, normalizer, "strip_accents", -1, &o->strip_accents);
    if (!status) status = cbm_json_bool_or(json, normalizer, "handle_chinese_chars", 1, &o->cjk_spacing);
    if (!status) status = cbm_json_bool_or(json, normalizer, "clean_text", 1, &o->clean_text);
    t->lowercase = o->lowercase;
    return status;
}

static scbm_status parse_json(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const cJSON *splitter;
    scbm_status status = start(t);
    if (!status) status = read_model(t, json, model);
    if (!status) status = read_normalizer(t, json);
    return status ? status : cbm_hf_get_part(json, "pre_tokenizer", "BertPreTokenizer", &splitter);
}

/* ------------------------------------------------------------------------------------------
 * vocab.txt
 * ---------------------------------------------------------------------------------------- */

static int is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

/* A token a line. An empty line has a number and no token; those at the end count for nothing. */
scbm_status cbm_hf_tokenizer_parse_vocab(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    const char *line = data, *end = line + size;
    scbm_status status = cbm_hf_check_text(data, size, name, "a vocabulary");
    if (!status) status = start(t);
    for (int64_t id = 0; line < end && !status; id++) {
        const char *line_end = memchr(line, '\n', (size_t)(end - line));
        if (!line_end) line_end = end;
        size_t length = (size_t)(line_end - line);
        while (length && is_blank(line[length - 1])) length--;
        if (length) status = cbm_hf_tokenizer_add(t, name, id, line, length, 0);
        line = line_end + (line_end < end);
    }
    if (status) return status;
    return t->n_tokens ? SCBM_OK : scbm_fail(SCBM_ERROR_FORMAT, "%.300s: there are no tokens in it", name);
}

/* ------------------------------------------------------------------------------------------
 * tokenizer_config.json
 * ---------------------------------------------------------------------------------------- */

/* MPNet's, where no file says them; the mask takes the space before it. */
static scbm_status set_mpnet_specials(hf_tokenizer *t) {
    static const char *const usual[CBM_SPECIAL_TOKENS] = {
        [CBM_TOKEN_UNKNOWN] = "[UNK]", [CBM_TOKEN_FIRST] = "<s>",   [CBM_TOKEN_LAST] = "</s>",
        [CBM_TOKEN_PADDING] = "<pad>", [CBM_TOKEN_MASK] = "<mask>",
    };
    t->special_flags[CBM_TOKEN_MASK] |= CBM_PIECE_TAKES_LEFT;
    return cbm_hf_tokenizer_set_usual(t, usual);
}

/* Without tokenizer.json the class says how the vocabulary is used. */
static scbm_status check_class(hf_tokenizer *t, const json_file *json) {
    static const char *const known[] = {"BertTokenizer",           "BertTokenizerFast", "DistilBertTokenizer",
                                        "DistilBertTokenizerFast", "ElectraTokenizer",  "ElectraTokenizerFast",
                                        "PreTrainedTokenizerFast", "TokenizersBackend", "MPNetTokenizer",
                                        "MPNetTokenizerFast"};
    const char *name;
    int splits;
    scbm_status status = cbm_json_string_or(json, json->root, "tokenizer_class", known[0], &name);
    if (!status) status = cbm_json_bool_or(json, json->root, "do_basic_tokenize", 1, &splits);
    if (status || t->has_json) return status;
    if (!splits) return cbm_hf_refuse(json, "do_basic_tokenize", "false", "true");
    for (int i = 0; i < COUNT_OF(known); i++)
        if (strcmp(known[i], name) == 0) return cbm_starts_with(name, "MPNet") ? set_mpnet_specials(t) : SCBM_OK;
    return cbm_hf_refuse(json, "tokenizer_class", name, "BertTokenizer, or any with a tokenizer.json of WordPiece");
}

static scbm_status parse_config(hf_tokenizer *t, const json_file *json) {
    scbm_status status = check_class(t, json);
    if (!status) status = cbm_hf_read_switch(t, json, "do_lower_case", &t->wordpiece.lowercase);
    if (cbm_json_get(json->root, "do_lower_case")) t->says_case = 1;
    if (!status) status = cbm_hf_read_switch(t, json, "strip_accents", &t->wordpiece.strip_accents);
    if (!status) status = cbm_hf_read_switch(t, json, "tokenize_chinese_chars", &t->wordpiece.cjk_spacing);
    t->lowercase = t->wordpiece.lowercase;
    return status;
}

/* Accents stay as the tokenizer has them: -1 would take them off, too. */
static void lowercase(hf_tokenizer *t) {
    if (t->wordpiece.strip_accents < 0) t->wordpiece.strip_accents = t->wordpiece.lowercase;
    t->wordpiece.lowercase = 1;
}

static void set_keys(const hf_tokenizer *t, cbm_tokenizer_keys *keys) {
    keys->wordpiece = t->wordpiece;
}

/* ------------------------------------------------------------------------------------------
 * The way back
 * ---------------------------------------------------------------------------------------- */

static void put_json(const cbm_tokenizer_keys *keys, json_tree *json) {
    const cbm_wordpiece_options *o = &keys->wordpiece;
    cJSON *part = cbm_hf_put_part(json, json->root, "normalizer", "BertNormalizer");
    cbm_json_put_bool(json, part, "clean_text", o->clean_text);
    cbm_json_put_bool(json, part, "handle_chinese_chars", o->cjk_spacing);
    cbm_json_put(json, part, "strip_accents",
                 o->strip_accents < 0 ? cJSON_CreateNull() : cJSON_CreateBool(o->strip_accents));
    cbm_json_put_bool(json, part, "lowercase", o->lowercase);
    cbm_hf_put_part(json, json->root, "pre_tokenizer", "BertPreTokenizer");
    part = cbm_hf_put_part(json, json->root, "decoder", "WordPiece");
    cbm_json_put_text(json, part, "prefix", "##");
    cbm_json_put_bool(json, part, "cleanup", 1);
    part = cbm_hf_put_part(json, json->root, "model", "WordPiece");
    cbm_json_put_text(json, part, "unk_token", keys->piece[keys->special[CBM_TOKEN_UNKNOWN]]);
    cbm_json_put_text(json, part, "continuing_subword_prefix", "##");
    cbm_json_put_int(json, part, "max_input_chars_per_word", o->max_word_characters);
    cbm_hf_put_vocabulary(keys, json, part);
}

const hf_tokenizer_kind cbm_hf_wordpiece = {"WordPiece",  "bert",    1,        parse_json,
                                            parse_config, lowercase, set_keys, put_json};
