/*
 * convert/hf-tokenizer.c - a Hugging Face folder's WordPiece tokenizer, as the keys of a model file
 */
#include "convert/hf-tokenizer.h"
#include "convert/json-file.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define TOKEN_FORMAT "%.80s"      /* of a token in a message */
#define WORD_START "\xE2\x96\x81" /* U+2581: how llama.cpp marks the start of a word */
#define MAX_WORD 1000

/* GGUF's kinds of tokens. */
enum { NO_TOKEN = 0, NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

/* Names in tokenizer_config.json, in a model file's keys (sic: seperator), and what is usual. */
static const struct special_name {
    const char *config, *key, *usual;
} special_names[HF_SPECIAL_COUNT] = {
    {"unk_token", "unknown", "[UNK]"}, {"cls_token", "cls", "[CLS]"},    {"sep_token", "seperator", "[SEP]"},
    {"pad_token", "padding", "[PAD]"}, {"mask_token", "mask", "[MASK]"},
};

static scbm_status set_special(hf_tokenizer *t, hf_special which, const char *text, hf_rank rank) {
    if (t->special[which] && rank < t->special_rank[which]) return SCBM_OK;
    scbm_release(&t->hooks, t->special[which]);
    t->special[which] = scbm_strdup(&t->hooks, text);
    t->special_rank[which] = rank;
    return t->special[which] ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status hf_tokenizer_init(hf_tokenizer *t, int64_t n_rows, const scbm_hooks *hooks) {
    memset(t, 0, sizeof *t);
    if (hooks) t->hooks = *hooks;
    t->n_rows = n_rows;
    t->lowercase = t->cjk_spacing = t->clean_text = 1;
    t->strip_accents = -1;
    t->max_word = 100;
    t->tokens = scbm_alloc_array(hooks, (size_t)n_rows, sizeof *t->tokens);
    scbm_status status = t->tokens ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int i = 0; i < HF_SPECIAL_COUNT && !status; i++) {
        t->special_id[i] = t->noted_id[i] = -1;
        status = set_special(t, (hf_special)i, special_names[i].usual, HF_BY_DEFAULT);
    }
    if (status) hf_tokenizer_clear(t);
    return status;
}

void hf_tokenizer_clear(hf_tokenizer *t) {
    const scbm_hooks hooks = t->hooks;
    for (int64_t i = 0; t->tokens && i < t->n_rows; i++) scbm_release(&hooks, t->tokens[i].text);
    scbm_release(&hooks, t->tokens);
    for (int i = 0; i < HF_SPECIAL_COUNT; i++) scbm_release(&hooks, t->special[i]);
    memset(t, 0, sizeof *t);
    t->hooks = hooks;
}

/* ------------------------------------------------------------------------------------------
 * Tokens
 * ---------------------------------------------------------------------------------------- */

/* Takes text[0 … length) as the token of `id`, which must be free. */
static scbm_status add_token(hf_tokenizer *t, const char *path, int64_t id, const char *text, size_t length, int kind) {
    if (id < 0 || id >= t->n_rows)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%.300s: token '%.*s' has the number %lld, and config.json's vocab_size is %lld", path,
                         length > 80 ? 80 : (int)length, text, (long long)id, (long long)t->n_rows);
    if (t->tokens[id].text)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tokens '" TOKEN_FORMAT "' and '%.*s' both have the number %lld",
                         path, t->tokens[id].text, length > 80 ? 80 : (int)length, text, (long long)id);
    char *copy = scbm_alloc(&t->hooks, length + 1);
    if (!copy) return SCBM_ERROR_MEMORY;
    memcpy(copy, text, length);
    t->tokens[id] = (hf_token){copy, kind};
    t->n_tokens++;
    return SCBM_OK;
}

/* The id of a token, -1: none. Where several have the text, Hugging Face takes the last. */
static int64_t find_token(const hf_tokenizer *t, const char *text) {
    for (int64_t i = t->n_rows - 1; i >= 0; i--)
        if (t->tokens[i].text && strcmp(t->tokens[i].text, text) == 0) return i;
    return -1;
}

/* An entry of "added_tokens" or "added_tokens_decoder": a token beside the vocabulary, or one of it that is special. */
static scbm_status add_added_token(hf_tokenizer *t, const json_file *json, const cJSON *entry, int64_t id) {
    static const char *const refused[] = {"single_word", "lstrip", "rstrip", "normalized"};
    const char *text;
    int is_special, is_set;
    scbm_status status = json_string(json, entry, "content", &text);
    if (!status) status = json_bool_or(json, entry, "special", 0, &is_special);
    if (status) return status;
    for (int i = 0; i < COUNT_OF(refused) && !status; i++) {
        status = json_bool_or(json, entry, refused[i], 0, &is_set);
        if (!status && is_set)
            status = scbm_fail(SCBM_ERROR_UNSUPPORTED,
                               "%.300s: added token '" TOKEN_FORMAT "' is %s, which this version cannot do", json->path,
                               text, refused[i]);
    }
    if (status) return status;
    int kind = is_special ? CONTROL : USER_DEFINED;
    if (id < 0 || id >= t->n_rows || !t->tokens[id].text) return add_token(t, json->path, id, text, strlen(text), kind);
    if (strcmp(t->tokens[id].text, text) != 0)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%.300s: added token '" TOKEN_FORMAT "' has the number of token '" TOKEN_FORMAT "', %lld",
                         json->path, text, t->tokens[id].text, (long long)id);
    t->tokens[id].kind = kind;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json
 * ---------------------------------------------------------------------------------------- */

static scbm_status refuse(const json_file *json, const char *what, const char *value, const char *known) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: %s is %.80s; this version knows %s", json->path, what, value,
                     known);
}

/* The object of `key`, which must be there with the given type. */
static scbm_status get_part(const json_file *json, const char *key, const char *type, const cJSON **part) {
    const char *found;
    scbm_status status = json_object_or_null(json, json->root, key, part);
    if (!status && !*part) status = refuse(json, key, "missing", type);
    if (!status) status = json_string(json, *part, "type", &found);
    if (!status && strcmp(found, type) != 0) status = refuse(json, key, found, type);
    return status;
}

static scbm_status read_vocabulary(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const cJSON *vocab, *item;
    int64_t id;
    scbm_status status = json_object_or_null(json, model, "vocab", &vocab);
    if (!status && !vocab) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.vocab is missing", json->path);
    if (status) return status;
    cJSON_ArrayForEach(item, vocab) {
        if (!json_is_int(item, 0, INT32_MAX, &id))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.vocab: token '" TOKEN_FORMAT "' has no number",
                             json->path, item->string);
        status = add_token(t, json->path, id, item->string, strlen(item->string), item->string[0] ? NORMAL : UNUSED);
        if (status) return status;
    }
    return SCBM_OK;
}

static scbm_status read_model(hf_tokenizer *t, const json_file *json) {
    const cJSON *model = NULL;
    const char *prefix, *unknown;
    scbm_status status = get_part(json, "model", "WordPiece", &model);
    if (!status) status = json_string_or(json, model, "continuing_subword_prefix", "##", &prefix);
    if (!status && strcmp(prefix, "##") != 0) status = refuse(json, "model.continuing_subword_prefix", prefix, "##");
    if (!status) status = json_int_or(json, model, "max_input_chars_per_word", 1, MAX_WORD, t->max_word, &t->max_word);
    if (!status) status = json_string_or(json, model, "unk_token", "[UNK]", &unknown);
    if (!status) status = set_special(t, HF_UNKNOWN, unknown, HF_BY_TOKENIZER);
    return status ? status : read_vocabulary(t, json, model);
}

static scbm_status read_normalizer(hf_tokenizer *t, const json_file *json) {
    const cJSON *normalizer = NULL;
    scbm_status status = get_part(json, "normalizer", "BertNormalizer", &normalizer);
    if (!status) status = json_bool_or(json, normalizer, "lowercase", 1, &t->lowercase);
    if (!status) status = json_bool_or(json, normalizer, "strip_accents", -1, &t->strip_accents);
    if (!status) status = json_bool_or(json, normalizer, "handle_chinese_chars", 1, &t->cjk_spacing);
    if (!status) status = json_bool_or(json, normalizer, "clean_text", 1, &t->clean_text);
    return status;
}

static scbm_status note_added(hf_tokenizer *t, hf_special which, const char *text, int64_t id) {
    t->noted_id[which] = id;
    return set_special(t, which, text, HF_BY_TOKENIZER);
}

/* {"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]} */
static scbm_status read_bert_processing(hf_tokenizer *t, const json_file *json, const cJSON *processor) {
    static const struct {
        hf_special which;
        const char *key;
    } ends[] = {{HF_CLS, "cls"}, {HF_SEP, "sep"}};
    for (int i = 0; i < COUNT_OF(ends); i++) {
        const cJSON *pair = json_get(processor, ends[i].key), *text = cJSON_GetArrayItem(pair, 0);
        int64_t id;
        if (!cJSON_IsString(text) || !json_is_int(cJSON_GetArrayItem(pair, 1), 0, INT32_MAX, &id))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: post_processor.%s must be a token and its number", json->path,
                             ends[i].key);
        scbm_status status = note_added(t, ends[i].which, text->valuestring, id);
        if (status) return status;
    }
    return SCBM_OK;
}

/* {"SpecialToken": {"id": "[CLS]", "type_id": 0}}: the token's name, or NULL. */
static const char *template_item(const cJSON *item, const char *kind) {
    const cJSON *part = json_get(item, kind), *id = json_get(part, "id"), *type = json_get(part, "type_id");
    return cJSON_IsString(id) && (!type || (cJSON_IsNumber(type) && type->valuedouble == 0)) ? id->valuestring : NULL;
}

/* {"type": "TemplateProcessing", "single": [[CLS], A, [SEP]], …, "special_tokens": {"[CLS]": {"ids": [101]}, …}} */
static scbm_status read_template(hf_tokenizer *t, const json_file *json, const cJSON *processor) {
    const cJSON *single = json_get(processor, "single"), *specials = json_get(processor, "special_tokens");
    const char *texts[] = {template_item(cJSON_GetArrayItem(single, 0), "SpecialToken"),
                           template_item(cJSON_GetArrayItem(single, 2), "SpecialToken")};
    const char *middle = template_item(cJSON_GetArrayItem(single, 1), "Sequence");
    if (cJSON_GetArraySize(single) != 3 || !texts[0] || !texts[1] || !middle || strcmp(middle, "A") != 0)
        return refuse(json, "post_processor.single", "something else", "[CLS], the text, [SEP]");
    for (int i = 0; i < 2; i++) {
        const cJSON *ids = json_get(json_get(specials, texts[i]), "ids");
        int64_t id;
        if (cJSON_GetArraySize(ids) != 1 || !json_is_int(cJSON_GetArrayItem(ids, 0), 0, INT32_MAX, &id))
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: post_processor.special_tokens has no number for '" TOKEN_FORMAT "'", json->path,
                             texts[i]);
        scbm_status status = note_added(t, i ? HF_SEP : HF_CLS, texts[i], id);
        if (status) return status;
    }
    return SCBM_OK;
}

static scbm_status read_post_processor(hf_tokenizer *t, const json_file *json) {
    static const char known[] = "TemplateProcessing and BertProcessing";
    const cJSON *processor;
    const char *type;
    scbm_status status = json_object_or_null(json, json->root, "post_processor", &processor);
    if (!status && !processor) status = refuse(json, "post_processor", "missing", known);
    if (!status) status = json_string(json, processor, "type", &type);
    if (status) return status;
    if (strcmp(type, "BertProcessing") == 0) return read_bert_processing(t, json, processor);
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(t, json, processor);
    return refuse(json, "post_processor", type, known);
}

static scbm_status read_added_tokens(hf_tokenizer *t, const json_file *json) {
    const cJSON *list, *entry;
    scbm_status status = json_array_or_null(json, json->root, "added_tokens", &list);
    if (status || !list) return status;
    cJSON_ArrayForEach(entry, list) {
        int64_t id;
        status = json_int(json, entry, "id", 0, INT32_MAX, &id);
        if (!status) status = add_added_token(t, json, entry, id);
        if (status) return status;
    }
    return SCBM_OK;
}

scbm_status hf_tokenizer_parse_json(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    const cJSON *splitter;
    scbm_status status = json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    t->has_json = 1;
    status = read_model(t, &json);
    if (!status) status = read_normalizer(t, &json);
    if (!status) status = get_part(&json, "pre_tokenizer", "BertPreTokenizer", &splitter);
    if (!status) status = read_post_processor(t, &json);
    if (!status) status = read_added_tokens(t, &json);
    json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * vocab.txt
 * ---------------------------------------------------------------------------------------- */

static int is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

/* A token a line. An empty line has a number and no token; those at the end count for nothing. */
scbm_status hf_tokenizer_parse_vocab(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    const char *line = data, *end = line + size;
    if (!json_is_utf8(data, size)) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: this is not text in UTF-8", name);
    for (int64_t id = 0; line < end; id++) {
        const char *line_end = memchr(line, '\n', (size_t)(end - line));
        if (!line_end) line_end = end;
        size_t length = (size_t)(line_end - line);
        while (length && is_blank(line[length - 1])) length--;
        scbm_status status = length ? add_token(t, name, id, line, length, NORMAL) : SCBM_OK;
        if (status) return status;
        line = line_end + (line_end < end);
    }
    return t->n_tokens ? SCBM_OK : scbm_fail(SCBM_ERROR_FORMAT, "%.300s: there are no tokens in it", name);
}

/* ------------------------------------------------------------------------------------------
 * tokenizer_config.json and special_tokens_map.json
 * ---------------------------------------------------------------------------------------- */

/* A special token is a string, or an object with a string. */
static const char *token_text(const cJSON *item) {
    const cJSON *content = json_get(item, "content");
    return cJSON_IsString(item) ? item->valuestring : cJSON_IsString(content) ? content->valuestring : NULL;
}

static scbm_status read_specials(hf_tokenizer *t, const json_file *json, hf_rank rank) {
    for (int i = 0; i < HF_SPECIAL_COUNT; i++) {
        const cJSON *item = json_get(json->root, special_names[i].config);
        if (!item) continue;
        if (!token_text(item))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be a token", json->path, special_names[i].config);
        scbm_status status = set_special(t, (hf_special)i, token_text(item), rank);
        if (status) return status;
    }
    return SCBM_OK;
}

/* Beside a vocab.txt further special tokens are named here; a tokenizer.json has them itself. */
static scbm_status read_more_specials(hf_tokenizer *t, const json_file *json) {
    const cJSON *list, *item;
    scbm_status status = json_array_or_null(json, json->root, "additional_special_tokens", &list);
    if (status || t->has_json || !list) return status;
    cJSON_ArrayForEach(item, list) {
        const char *text = token_text(item);
        int64_t id = text ? find_token(t, text) : -1;
        if (id < 0)
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: additional_special_tokens: '" TOKEN_FORMAT "' is not in the vocabulary",
                             json->path, text ? text : "?");
        t->tokens[id].kind = CONTROL;
    }
    return SCBM_OK;
}

static scbm_status read_decoder(hf_tokenizer *t, const json_file *json) {
    const cJSON *decoder, *entry;
    scbm_status status = json_object_or_null(json, json->root, "added_tokens_decoder", &decoder);
    if (status || t->has_json || !decoder) return status;
    cJSON_ArrayForEach(entry, decoder) {
        double id;
        if (scbm_parse_double(entry->string, strlen(entry->string), &id) || !(id >= 0 && id <= INT32_MAX) ||
            id != (double)(int64_t)id)
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: added_tokens_decoder: '" TOKEN_FORMAT "' is not a token's number", json->path,
                             entry->string);
        status = add_added_token(t, json, entry, (int64_t)id);
        if (status) return status;
    }
    return SCBM_OK;
}

/* What this file says holds before tokenizer.json, as in transformers. */
static scbm_status read_switch(const hf_tokenizer *t, const json_file *json, const char *key, int *value) {
    int before = *value;
    scbm_status status = json_bool_or(json, json->root, key, before, value);
    if (!status && t->has_json && before >= 0 && *value != before)
        scbm_log(&t->hooks, SCBM_LOG_WARNING,
                 "%.300s: %s is %s, and tokenizer.json says otherwise; transformers, too, goes by the former",
                 json->path, key, *value ? "true" : "false");
    return status;
}

/* Without tokenizer.json the class says how the vocabulary is used. */
static scbm_status check_class(const hf_tokenizer *t, const json_file *json) {
    static const char *const known[] = {"BertTokenizer",           "BertTokenizerFast", "DistilBertTokenizer",
                                        "DistilBertTokenizerFast", "ElectraTokenizer",  "ElectraTokenizerFast",
                                        "PreTrainedTokenizerFast", "TokenizersBackend"};
    const char *name;
    int splits;
    scbm_status status = json_string_or(json, json->root, "tokenizer_class", known[0], &name);
    if (!status) status = json_bool_or(json, json->root, "do_basic_tokenize", 1, &splits);
    if (status || t->has_json) return status;
    if (!splits) return refuse(json, "do_basic_tokenize", "false", "true");
    for (int i = 0; i < COUNT_OF(known); i++)
        if (strcmp(known[i], name) == 0) return SCBM_OK;
    return refuse(json, "tokenizer_class", name, "BertTokenizer, or any with a tokenizer.json of WordPiece");
}

/* Where no limit is known the file has 10^30. */
static scbm_status read_max_tokens(hf_tokenizer *t, const json_file *json) {
    double length;
    scbm_status status = json_real_or(json, json->root, "model_max_length", 0, &length);
    if (!status) t->max_tokens = length >= 1 && length <= INT32_MAX ? (int64_t)length : 0;
    return status;
}

scbm_status hf_tokenizer_parse_config(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    status = check_class(t, &json);
    if (!status) status = read_switch(t, &json, "do_lower_case", &t->lowercase);
    if (!status) status = read_switch(t, &json, "strip_accents", &t->strip_accents);
    if (!status) status = read_switch(t, &json, "tokenize_chinese_chars", &t->cjk_spacing);
    if (!status) status = read_max_tokens(t, &json);
    if (!status) status = read_specials(t, &json, HF_BY_CONFIG);
    if (!status) status = read_decoder(t, &json);
    if (!status) status = read_more_specials(t, &json);
    json_close(&json);
    return status;
}

scbm_status hf_tokenizer_parse_map(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    status = read_specials(t, &json, HF_BY_MAP);
    if (!status) status = read_more_specials(t, &json);
    json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

scbm_status hf_tokenizer_finish(hf_tokenizer *t, const char *name) {
    for (int i = 0; i < HF_SPECIAL_COUNT; i++) {
        int is_needed = i == HF_UNKNOWN || i == HF_CLS || i == HF_SEP;
        int64_t id = t->special_id[i] = find_token(t, t->special[i]);
        if (id < 0 && is_needed)
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the vocabulary has no '" TOKEN_FORMAT "', which is its %s",
                             name, t->special[i], special_names[i].config);
        if (t->noted_id[i] >= 0 && id != t->noted_id[i])
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: tokenizer.json: '" TOKEN_FORMAT "' has two numbers: %lld and %lld", name,
                             t->special[i], (long long)id, (long long)t->noted_id[i]);
        if (id >= 0) t->tokens[id].kind = CONTROL;
    }
    return SCBM_OK;
}

typedef scbm_status (*parse_function)(hf_tokenizer *t, const void *data, size_t size, const char *name);

static scbm_status read_if_there(hf_tokenizer *t, const char *folder, const char *name, parse_function parse) {
    scbm_bytes bytes;
    char *path = json_join(&t->hooks, folder, name);
    if (!path) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    if (json_file_exists(path)) {
        status = scbm_bytes_open(&bytes, path, &t->hooks);
        if (!status) {
            status = parse(t, bytes.data, bytes.size, path);
            scbm_bytes_close(&bytes, &t->hooks);
        }
    }
    scbm_release(&t->hooks, path);
    return status;
}

scbm_status hf_tokenizer_read(hf_tokenizer *t, const char *folder, int64_t n_rows, const scbm_hooks *hooks) {
    scbm_status status = hf_tokenizer_init(t, n_rows, hooks);
    if (status) return status;
    status = read_if_there(t, folder, "tokenizer.json", hf_tokenizer_parse_json);
    if (!status && !t->has_json) status = read_if_there(t, folder, "vocab.txt", hf_tokenizer_parse_vocab);
    if (!status && !t->n_tokens)
        status = scbm_fail(SCBM_ERROR_IO, "%.300s: it has neither tokenizer.json nor vocab.txt", folder);
    if (!status) status = read_if_there(t, folder, "special_tokens_map.json", hf_tokenizer_parse_map);
    if (!status) status = read_if_there(t, folder, "tokenizer_config.json", hf_tokenizer_parse_config);
    if (!status) status = hf_tokenizer_finish(t, folder);
    if (status) hf_tokenizer_clear(t);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

/* What stands before a token in the file, and how much of its own text is left out. Words get a mark instead of
 * their continuations; a continuation that begins with the mark itself stays as it is. */
static const char *mark_of(const hf_token *token, size_t *skipped) {
    *skipped = 0;
    if (token->kind != NORMAL) return "";
    if (strncmp(token->text, "##", 2) != 0) return WORD_START;
    *skipped = strncmp(token->text + 2, WORD_START, strlen(WORD_START)) == 0 ? 0 : 2;
    return "";
}

/* The file's strings one after the other, each with its NUL, into `text` (NULL: only count); returns their size. */
static size_t write_texts(const hf_tokenizer *t, char *text, const char **starts, int64_t *kinds) {
    size_t size = 0;
    for (int64_t i = 0; i < t->n_rows; i++) {
        char filler[32];
        size_t skipped = 0;
        const hf_token *token = &t->tokens[i];
        int is_token = token->text && token->kind != UNUSED;
        const char *mark = is_token ? mark_of(token, &skipped) : "";
        snprintf(filler, sizeof filler, "[PAD%lld]", (long long)i);
        const char *rest = is_token ? token->text + skipped : filler;
        if (text) {
            starts[i] = text + size;
            kinds[i] = is_token ? token->kind : UNUSED;
            memcpy(text + size, mark, strlen(mark));
            memcpy(text + size + strlen(mark), rest, strlen(rest) + 1);
        }
        size += strlen(mark) + strlen(rest) + 1;
    }
    return size;
}

static void write_settings(const hf_tokenizer *t, int64_t n_types, scbm_writer *writer) {
    char key[64];
    scbm_writer_set_int(writer, "tokenizer.ggml.token_type_count", SCBM_VALUE_U32, n_types);
    for (int i = 0; i < HF_SPECIAL_COUNT; i++) {
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", special_names[i].key);
        if (t->special_id[i] >= 0) scbm_writer_set_int(writer, key, SCBM_VALUE_U32, t->special_id[i]);
    }
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.lowercase", t->lowercase);
    if (t->strip_accents >= 0) scbm_writer_set_bool(writer, "sparsecbm.tokenizer.strip_accents", t->strip_accents);
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.cjk_spacing", t->cjk_spacing);
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.clean_text", t->clean_text);
    scbm_writer_set_int(writer, "sparsecbm.tokenizer.max_word_characters", SCBM_VALUE_U32, t->max_word);
}

scbm_status hf_tokenizer_write(const hf_tokenizer *t, int64_t n_types, scbm_writer *writer) {
    char *text = scbm_alloc(&t->hooks, write_texts(t, NULL, NULL, NULL));
    const char **starts = scbm_alloc_array(&t->hooks, (size_t)t->n_rows, sizeof *starts);
    int64_t *kinds = scbm_alloc_array(&t->hooks, (size_t)t->n_rows, sizeof *kinds);
    scbm_status status = text && starts && kinds ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) {
        write_texts(t, text, starts, kinds);
        scbm_writer_set_string(writer, "tokenizer.ggml.model", "bert");
        scbm_writer_set_strings(writer, "tokenizer.ggml.tokens", starts, t->n_rows);
        scbm_writer_set_ints(writer, "tokenizer.ggml.token_type", SCBM_VALUE_I32, kinds, t->n_rows);
        write_settings(t, n_types, writer);
    }
    scbm_release(&t->hooks, text);
    scbm_release(&t->hooks, (void *)starts);
    scbm_release(&t->hooks, kinds);
    return status;
}
