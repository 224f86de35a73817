/*
 * convert/hf-tokenizer.c - a Hugging Face folder's tokenizer, as the keys of a model file: what all kinds share
 */
#include "convert/hf-unigram.h"
#include "models/base/text.h"
#include "models/cbm-train.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

static const hf_tokenizer_kind *const kinds[] = {&cbm_hf_wordpiece, &cbm_hf_bpe, &cbm_hf_unigram};

/* Names in tokenizer_config.json; the first that is there. */
static const char *const special_names[CBM_SPECIAL_TOKENS][2] = {
    [CBM_TOKEN_UNKNOWN] = {"unk_token", NULL},     [CBM_TOKEN_FIRST] = {"cls_token", "bos_token"},
    [CBM_TOKEN_LAST] = {"sep_token", "eos_token"}, [CBM_TOKEN_PADDING] = {"pad_token", NULL},
    [CBM_TOKEN_MASK] = {"mask_token", NULL},
};

scbm_status cbm_hf_tokenizer_set_special(hf_tokenizer *t, cbm_special_token which, const char *text, hf_rank rank) {
    if (t->special[which] && rank < t->special_rank[which]) return SCBM_OK;
    scbm_release(&t->hooks, t->special[which]);
    t->special[which] = scbm_strdup(&t->hooks, text);
    t->special_rank[which] = rank;
    return t->special[which] ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_hf_tokenizer_set_usual(hf_tokenizer *t, const char *const names[CBM_SPECIAL_TOKENS]) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < CBM_SPECIAL_TOKENS && !status; i++)
        if (names[i]) status = cbm_hf_tokenizer_set_special(t, (cbm_special_token)i, names[i], HF_BY_DEFAULT);
    return status;
}

scbm_status cbm_hf_tokenizer_init(hf_tokenizer *t, int64_t n_rows, const scbm_hooks *hooks) {
    memset(t, 0, sizeof *t);
    if (hooks) t->hooks = *hooks;
    t->n_rows = n_rows;
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) t->special_id[i] = t->noted_id[i] = -1;
    t->piece = scbm_alloc_array(hooks, (size_t)n_rows, sizeof *t->piece);
    t->flags = scbm_alloc_array(hooks, (size_t)n_rows, sizeof *t->flags);
    if (t->piece && t->flags) return SCBM_OK;
    cbm_hf_tokenizer_clear(t);
    return SCBM_ERROR_MEMORY;
}

void cbm_hf_tokenizer_clear(hf_tokenizer *t) {
    const scbm_hooks hooks = t->hooks;
    for (int64_t i = 0; t->piece && i < t->n_rows; i++) scbm_release(&hooks, t->piece[i]);
    for (int32_t i = 0; i < t->bpe.n_merges; i++) scbm_release(&hooks, t->merge[i]);
    scbm_release(&hooks, t->merge);
    scbm_release(&hooks, t->piece);
    scbm_release(&hooks, t->flags);
    scbm_release(&hooks, t->score);
    scbm_release(&hooks, t->map);
    scbm_release(&hooks, t->map_values);
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) scbm_release(&hooks, t->special[i]);
    memset(t, 0, sizeof *t);
    t->hooks = hooks;
}

/* ------------------------------------------------------------------------------------------
 * Tokens
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_hf_tokenizer_add(hf_tokenizer *t, const char *path, int64_t id, const char *text, size_t length,
                                 int flags) {
    char shown[CBM_SHOWN_SIZE], other[CBM_SHOWN_SIZE];
    if (id < 0 || id >= t->n_rows)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%.300s: token '%s' has the number %lld, and config.json's vocab_size is %lld", path,
                         cbm_show(shown, text, length), (long long)id, (long long)t->n_rows);
    if (t->piece[id])
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tokens '%s' and '%s' both have the number %lld", path,
                         cbm_show_string(other, t->piece[id]), cbm_show(shown, text, length), (long long)id);
    t->piece[id] = scbm_alloc(&t->hooks, length + 1);
    if (!t->piece[id]) return SCBM_ERROR_MEMORY;
    memcpy(t->piece[id], text, length);
    t->flags[id] = (uint16_t)flags;
    t->n_tokens++;
    return SCBM_OK;
}

scbm_status cbm_hf_tokenizer_add_all(hf_tokenizer *t, const json_file *json, const cJSON *vocab, const char *key) {
    char shown[CBM_SHOWN_SIZE];
    const cJSON *item;
    int64_t id;
    cJSON_ArrayForEach(item, vocab) {
        if (!cbm_json_is_int(item, 0, INT32_MAX, &id))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %stoken '%s' has no number", json->path, key,
                             cbm_show_string(shown, item->string));
        scbm_status status = cbm_hf_tokenizer_add(t, json->path, id, item->string, strlen(item->string),
                                                  item->string[0] ? 0 : CBM_PIECE_UNUSED);
        if (status) return status;
    }
    return SCBM_OK;
}

/* The id of a token, -1: none. Where several have the text, Hugging Face takes the last. */
static int64_t find_token(const hf_tokenizer *t, const char *text) {
    for (int64_t i = t->n_rows - 1; i >= 0; i--)
        if (t->piece[i] && strcmp(t->piece[i], text) == 0) return i;
    return -1;
}

/* What an entry says of where its token is found. A token is normalized where nothing is said, unless it is special. */
static scbm_status read_rules(const json_file *json, const cJSON *entry, int *flags) {
    static const struct {
        const char *key;
        int flag;
    } rules[] = {{"lstrip", CBM_PIECE_TAKES_LEFT},
                 {"rstrip", CBM_PIECE_TAKES_RIGHT},
                 {"single_word", CBM_PIECE_SINGLE_WORD},
                 {"normalized", CBM_PIECE_NORMALIZED}};
    int is_special, is_set;
    scbm_status status = cbm_json_bool_or(json, entry, "special", 0, &is_special);
    *flags = is_special ? CBM_PIECE_SPECIAL : CBM_PIECE_ADDED;
    for (int i = 0; i < COUNT_OF(rules) && !status; i++) {
        int otherwise = rules[i].flag == CBM_PIECE_NORMALIZED && !is_special;
        status = cbm_json_bool_or(json, entry, rules[i].key, otherwise, &is_set);
        if (!status && is_set) *flags |= rules[i].flag;
    }
    return status;
}

/* An entry of "added_tokens" or "added_tokens_decoder": a token beside the vocabulary, or one of it that is special. */
static scbm_status add_added_token(hf_tokenizer *t, const json_file *json, const cJSON *entry, int64_t id) {
    char shown[CBM_SHOWN_SIZE], other[CBM_SHOWN_SIZE];
    const char *text;
    int flags = 0;
    scbm_status status = cbm_json_string(json, entry, "content", &text);
    if (!status) status = read_rules(json, entry, &flags);
    if (status) return status;
    if (id < 0 || id >= t->n_rows || !t->piece[id])
        return cbm_hf_tokenizer_add(t, json->path, id, text, strlen(text), flags | CBM_PIECE_BESIDE_MODEL);
    if (strcmp(t->piece[id], text) != 0)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: added token '%s' has the number of token '%s', %lld", json->path,
                         cbm_show_string(shown, text), cbm_show_string(other, t->piece[id]), (long long)id);
    t->flags[id] = (uint16_t)flags;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_hf_refuse(const json_file *json, const char *what, const char *value, const char *known) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: %s is %.80s; this version knows %s", json->path, what, value,
                     known);
}

scbm_status cbm_hf_check_text(const void *data, size_t size, const char *name, const char *wanted) {
    const char *what = scbm_bytes_recognize(data, size, 0);
    if (what) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: is not %s but %s", name, wanted, what);
    return cbm_json_is_utf8(data, size) ? SCBM_OK
                                        : scbm_fail(SCBM_ERROR_FORMAT, "%.300s: this is not text in UTF-8", name);
}

scbm_status cbm_hf_get_part(const json_file *json, const char *key, const char *type, const cJSON **part) {
    const char *found;
    scbm_status status = cbm_json_object_or_null(json, json->root, key, part);
    if (!status && !*part) status = cbm_hf_refuse(json, key, "missing", type);
    if (!status) status = cbm_json_string(json, *part, "type", &found);
    if (!status && strcmp(found, type) != 0) status = cbm_hf_refuse(json, key, found, type);
    return status;
}

const char *cbm_convert_tokenizer_at(int index) {
    return index >= 0 && index < COUNT_OF(kinds) ? kinds[index]->type : NULL;
}

/* "WordPiece, BPE" */
static const char *list_kinds(char text[100]) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < COUNT_OF(kinds) && used < 80; i++)
        used += (size_t)snprintf(text + used, 100 - used, "%s%s", i ? ", " : "", kinds[i]->type);
    return text;
}

static scbm_status read_model(hf_tokenizer *t, const json_file *json) {
    const cJSON *model = NULL;
    const char *type;
    char known[100];
    scbm_status status = cbm_json_object_or_null(json, json->root, "model", &model);
    if (!status && !model) status = cbm_hf_refuse(json, "model", "missing", list_kinds(known));
    if (!status) status = cbm_json_string(json, model, "type", &type);
    if (status) return status;
    for (int i = 0; i < COUNT_OF(kinds); i++)
        if (strcmp(kinds[i]->type, type) == 0) return kinds[i]->parse_json(t, json, model);
    return cbm_hf_refuse(json, "model", type, list_kinds(known));
}

static scbm_status read_added_tokens(hf_tokenizer *t, const json_file *json) {
    const cJSON *list, *entry;
    scbm_status status = cbm_json_array_or_null(json, json->root, "added_tokens", &list);
    if (status || !list) return status;
    cJSON_ArrayForEach(entry, list) {
        int64_t id;
        status = cbm_json_int(json, entry, "id", 0, INT32_MAX, &id);
        if (!status) status = add_added_token(t, json, entry, id);
        if (status) return status;
    }
    return SCBM_OK;
}

scbm_status cbm_hf_tokenizer_parse_json(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    t->has_json = t->says_case = 1;
    const cJSON *truncation = cbm_json_get(json.root, "truncation");
    if (!cbm_json_is_int(cbm_json_get(truncation, "max_length"), 1, INT32_MAX, &t->truncation)) t->truncation = 0;
    t->pads = cJSON_IsObject(cbm_json_get(json.root, "padding"));
    status = read_model(t, &json);
    if (!status) status = cbm_hf_read_post_processor(t, &json);
    if (!status) status = read_added_tokens(t, &json);
    cbm_json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer_config.json and special_tokens_map.json
 * ---------------------------------------------------------------------------------------- */

/* A special token is a string, or an object with a string. */
static const char *token_text(const cJSON *item) {
    const cJSON *content = cbm_json_get(item, "content");
    return cJSON_IsString(item) ? item->valuestring : cJSON_IsString(content) ? content->valuestring : NULL;
}

static scbm_status read_specials(hf_tokenizer *t, const json_file *json, hf_rank rank) {
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) {
        const char *name = special_names[i][0];
        const cJSON *item = cbm_json_get(json->root, name);
        if (!item && special_names[i][1] && !t->kind->needs_ends)
            item = cbm_json_get(json->root, name = special_names[i][1]);
        if (!item) continue;
        if (!token_text(item)) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be a token", json->path, name);
        scbm_status status = cbm_hf_tokenizer_set_special(t, (cbm_special_token)i, token_text(item), rank);
        if (!status && cJSON_IsTrue(cbm_json_get(item, "lstrip"))) t->special_flags[i] |= CBM_PIECE_TAKES_LEFT;
        if (!status && cJSON_IsTrue(cbm_json_get(item, "rstrip"))) t->special_flags[i] |= CBM_PIECE_TAKES_RIGHT;
        if (status) return status;
    }
    return SCBM_OK;
}

/* What a list names is special. A token of added_tokens.json is not looked for in the normalized text then. */
static void mark_special(hf_tokenizer *t, int64_t id) {
    if ((t->flags[id] & CBM_PIECE_ADDED) && !t->has_json) t->flags[id] &= (uint16_t)~CBM_PIECE_NORMALIZED;
    t->flags[id] |= CBM_PIECE_SPECIAL;
}

/* Tokens that tokenizer.json, which holds, does not have. */
static void note_missing(const hf_tokenizer *t, const json_file *json, const char *key, int n, const char *first) {
    char shown[CBM_SHOWN_SIZE];
    if (n)
        scbm_log(&t->hooks, SCBM_LOG_WARNING, "%.300s: %d %s that tokenizer.json does not have are not used ('%s'%s)",
                 json->path, n, key, cbm_show_string(shown, first), n > 1 ? ", ..." : "");
}

/* Beside a vocab.txt further special tokens are named here; a tokenizer.json has them itself. Newer versions of
 * transformers call them extra_special_tokens, and may name each. */
static scbm_status read_special_list(hf_tokenizer *t, const json_file *json, const char *key) {
    const cJSON *list = cbm_json_get(json->root, key), *item;
    const char *missing = NULL;
    int n_missing = 0;
    if (list && !cJSON_IsArray(list) && !cJSON_IsObject(list))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be an array", json->path, key);
    cJSON_ArrayForEach(item, list) {
        char shown[CBM_SHOWN_SIZE];
        const char *text = token_text(item);
        int64_t id = text ? find_token(t, text) : -1;
        if (id < 0 && text && t->has_json) {
            if (!n_missing++) missing = text;
            continue;
        }
        if (t->has_json) continue;
        if (id < 0)
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s: '%s' is not in the vocabulary", json->path, key,
                             cbm_show_string(shown, text ? text : "?"));
        mark_special(t, id);
    }
    note_missing(t, json, key, n_missing, missing);
    return SCBM_OK;
}

static scbm_status read_more_specials(hf_tokenizer *t, const json_file *json) {
    scbm_status status = read_special_list(t, json, "additional_special_tokens");
    return status ? status : read_special_list(t, json, "extra_special_tokens");
}

static scbm_status read_decoder(hf_tokenizer *t, const json_file *json) {
    const cJSON *decoder, *entry;
    scbm_status status = cbm_json_object_or_null(json, json->root, "added_tokens_decoder", &decoder);
    if (status || t->has_json || !decoder) return status;
    cJSON_ArrayForEach(entry, decoder) {
        char shown[CBM_SHOWN_SIZE];
        double id;
        if (scbm_parse_double(entry->string, strlen(entry->string), &id) || !(id >= 0 && id <= INT32_MAX) ||
            id != (double)(int64_t)id)
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: added_tokens_decoder: '%s' is not a token's number",
                             json->path, cbm_show_string(shown, entry->string));
        status = add_added_token(t, json, entry, (int64_t)id);
        if (status) return status;
    }
    return SCBM_OK;
}

scbm_status cbm_hf_read_switch(const hf_tokenizer *t, const json_file *json, const char *key, int *value) {
    int before = *value;
    scbm_status status = cbm_json_bool_or(json, json->root, key, before, value);
    if (!status && t->has_json && before >= 0 && *value != before)
        scbm_log(&t->hooks, SCBM_LOG_WARNING,
                 "%.300s: %s is %s, and tokenizer.json says otherwise; transformers, too, goes by the former",
                 json->path, key, *value ? "true" : "false");
    return status;
}

/* Where no limit is known the file has 10^30. */
static scbm_status read_max_tokens(hf_tokenizer *t, const json_file *json) {
    double length;
    scbm_status status = cbm_json_real_or(json, json->root, "model_max_length", 0, &length);
    if (!status) t->max_tokens = length >= 1 && length <= INT32_MAX ? (int64_t)length : 0;
    return status;
}

scbm_status cbm_hf_tokenizer_parse_config(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    status = t->kind->parse_config(t, &json);
    if (!status) status = read_max_tokens(t, &json);
    if (!status) status = read_specials(t, &json, HF_BY_CONFIG);
    if (!status) status = read_decoder(t, &json);
    if (!status) status = read_more_specials(t, &json);
    if (!status) cbm_hf_note_config(t, &json);
    cbm_json_close(&json);
    return status;
}

/* {"<tag>": 30522, …}: beside vocab.txt, tokens that are found in the normalized text, as transformers' fast tokenizer has
 * them. */
scbm_status cbm_hf_tokenizer_parse_added(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    const cJSON *entry;
    const char *missing = NULL;
    int n_missing = 0;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    cJSON_ArrayForEach(entry, json.root) {
        char shown[CBM_SHOWN_SIZE];
        int64_t id;
        if (status) break;
        if (!cbm_json_is_int(entry, 0, INT32_MAX, &id))
            status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: token '%s' has no number", json.path,
                               cbm_show_string(shown, entry->string));
        else if (t->has_json) {
            if (find_token(t, entry->string) < 0 && !n_missing++) missing = entry->string;
        } else if (id < t->n_rows && t->piece[id] && strcmp(t->piece[id], entry->string) == 0)
            t->flags[id] |= CBM_PIECE_ADDED | CBM_PIECE_NORMALIZED;
        else
            status = cbm_hf_tokenizer_add(t, json.path, id, entry->string, strlen(entry->string),
                                          CBM_PIECE_ADDED | CBM_PIECE_NORMALIZED | CBM_PIECE_BESIDE_MODEL);
    }
    if (!status) note_missing(t, &json, "tokens", n_missing, missing);
    cbm_json_close(&json);
    return status;
}

scbm_status cbm_hf_tokenizer_parse_map(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    status = read_specials(t, &json, HF_BY_MAP);
    if (!status) status = read_more_specials(t, &json);
    cbm_json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

/* Whether the vocabulary must have this token. */
static int is_needed(const hf_tokenizer *t, int which) {
    if (which == CBM_TOKEN_FIRST) return !t->omits_first;
    if (which == CBM_TOKEN_LAST) return !t->omits_last;
    return which == CBM_TOKEN_UNKNOWN && t->special[which] && (t->kind->needs_ends || t->bpe.has_unknown);
}

scbm_status cbm_hf_tokenizer_finish(hf_tokenizer *t, const char *name) {
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) {
        char shown[CBM_SHOWN_SIZE];
        const char *text = t->special[i] ? t->special[i] : "";
        int64_t id = t->special_id[i] = t->special[i] ? find_token(t, text) : -1;
        if (id < 0 && is_needed(t, i))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the vocabulary has no '%s', which is its %s", name,
                             cbm_show_string(shown, text), special_names[i][0]);
        if (t->noted_id[i] >= 0 && id != t->noted_id[i])
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tokenizer.json: '%s' has two numbers: %lld and %lld", name,
                             cbm_show_string(shown, text), (long long)id, (long long)t->noted_id[i]);
        if (id >= 0) mark_special(t, id);
        if (id >= 0 && !t->has_json) t->flags[id] |= t->special_flags[i];
    }
    return SCBM_OK;
}

typedef scbm_status (*parse_function)(hf_tokenizer *t, const void *data, size_t size, const char *name);

static scbm_status read_if_there(hf_tokenizer *t, const char *folder, const char *name, parse_function parse) {
    scbm_bytes bytes;
    char *path = cbm_json_join(&t->hooks, folder, name);
    if (!path) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    if (cbm_json_file_exists(path)) {
        status = scbm_bytes_open(&bytes, path, &t->hooks);
        if (!status) {
            status = parse(t, bytes.data, bytes.size, path);
            scbm_bytes_close(&bytes, &t->hooks);
        }
    }
    scbm_release(&t->hooks, path);
    return status;
}

static scbm_status refuse_files(const hf_tokenizer *t, const char *folder) {
    char known[100], *path = cbm_json_join(&t->hooks, folder, "merges.txt");
    if (!path) return SCBM_ERROR_MEMORY;
    int has_merges = cbm_json_file_exists(path);
    scbm_release(&t->hooks, path);
    if (has_merges)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%.300s: its tokenizer is BPE without a vocab.json (merges.txt), and there is no "
                         "tokenizer.json; this version knows %s",
                         folder, list_kinds(known));
    return scbm_fail(SCBM_ERROR_IO,
                     "%.300s: it has neither tokenizer.json nor vocab.txt, nor vocab.json, nor a SentencePiece model",
                     folder);
}

/* What belongs to a vocab.json. */
static scbm_status read_merges(hf_tokenizer *t, const char *folder) {
    scbm_status status = read_if_there(t, folder, "merges.txt", cbm_hf_tokenizer_parse_merges);
    if (!status && !t->merge)
        status = scbm_fail(SCBM_ERROR_IO, "%.300s: there is a vocab.json, and no merges.txt beside it", folder);
    return status ? status : read_if_there(t, folder, "config.json", cbm_hf_tokenizer_parse_type);
}

scbm_status cbm_hf_tokenizer_read(hf_tokenizer *t, const char *folder, int64_t n_rows, const scbm_hooks *hooks) {
    scbm_status status = cbm_hf_tokenizer_init(t, n_rows, hooks);
    if (status) return status;
    status = read_if_there(t, folder, "tokenizer.json", cbm_hf_tokenizer_parse_json);
    if (!status && !t->has_json) status = read_if_there(t, folder, "vocab.txt", cbm_hf_tokenizer_parse_vocab);
    if (!status && !t->n_tokens) status = read_if_there(t, folder, "vocab.json", cbm_hf_tokenizer_parse_vocab_json);
    if (!status && t->kind == &cbm_hf_bpe && !t->has_json) status = read_merges(t, folder);
    if (!status && !t->n_tokens) status = cbm_hf_sentencepiece_read(t, folder);
    if (!status && !t->n_tokens) status = refuse_files(t, folder);
    if (!status) status = read_if_there(t, folder, "added_tokens.json", cbm_hf_tokenizer_parse_added);
    if (!status) status = read_if_there(t, folder, "special_tokens_map.json", cbm_hf_tokenizer_parse_map);
    if (!status) status = read_if_there(t, folder, "tokenizer_config.json", cbm_hf_tokenizer_parse_config);
    if (!status) status = cbm_hf_tokenizer_finish(t, folder);
    if (!status) cbm_hf_note_case(t, folder);
    if (status) cbm_hf_tokenizer_clear(t);
    return status;
}

scbm_status cbm_hf_tokenizer_lowercase(hf_tokenizer *t, const char *folder) {
    if (t->lowercase) return SCBM_OK;
    if (!t->kind->lowercase)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%.300s: do_lower_case is true, and a tokenizer of kind %s cannot lower-case here", folder,
                         t->kind->type);
    t->kind->lowercase(t);
    t->lowercase = 1;
    scbm_log(&t->hooks, SCBM_LOG_INFO, "%.300s: texts are lower-cased for sentence-transformers' do_lower_case",
             folder);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_hf_tokenizer_write(const hf_tokenizer *t, int64_t n_types, scbm_writer *writer) {
    cbm_tokenizer_keys keys = {.kind = t->kind->name,
                               .n = (int32_t)t->n_rows,
                               .piece = (const char *const *)t->piece,
                               .flags = t->flags,
                               .omits_first = t->omits_first,
                               .omits_last = t->omits_last,
                               .trims = t->trims,
                               .trim_keeps_space = t->trim_keeps_space,
                               .n_types = n_types};
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) keys.special[i] = (int32_t)t->special_id[i];
    t->kind->set_keys(t, &keys);
    return cbm_tokenizer_write_keys(writer, &keys, &t->hooks);
}

/* ------------------------------------------------------------------------------------------
 * The way back
 * ---------------------------------------------------------------------------------------- */

cJSON *cbm_hf_put_part(json_tree *json, cJSON *into, const char *key, const char *type) {
    cJSON *part = cbm_json_put(json, into, key, cJSON_CreateObject());
    cbm_json_put_text(json, part, "type", type);
    return part;
}

void cbm_hf_put_byte_level(json_tree *json, cJSON *into, const char *key, int add_prefix_space) {
    cJSON *part = cbm_hf_put_part(json, into, key, "ByteLevel");
    cbm_json_put_bool(json, part, "add_prefix_space", add_prefix_space);
    cbm_json_put_bool(json, part, "trim_offsets", 1);
    cbm_json_put_bool(json, part, "use_regex", 1);
}

void cbm_hf_put_vocabulary(const cbm_tokenizer_keys *keys, json_tree *json, cJSON *model) {
    cJSON *vocab = cbm_json_put(json, model, "vocab", cJSON_CreateObject());
    for (int32_t i = 0; i < keys->n; i++)
        if (!(keys->flags[i] & (CBM_PIECE_UNUSED | CBM_PIECE_BESIDE_MODEL)))
            cbm_json_put_int(json, vocab, keys->piece[i], i);
}

static void put_added_tokens(const cbm_tokenizer_keys *keys, json_tree *json) {
    static const struct {
        const char *key;
        int flag;
    } switches[] = {{"single_word", CBM_PIECE_SINGLE_WORD},
                    {"lstrip", CBM_PIECE_TAKES_LEFT},
                    {"rstrip", CBM_PIECE_TAKES_RIGHT},
                    {"normalized", CBM_PIECE_NORMALIZED},
                    {"special", CBM_PIECE_SPECIAL}};
    cJSON *list = cbm_json_put(json, json->root, "added_tokens", cJSON_CreateArray());
    for (int32_t i = 0; i < keys->n; i++) {
        if (!(keys->flags[i] & (CBM_PIECE_SPECIAL | CBM_PIECE_ADDED))) continue;
        cJSON *entry = cbm_json_put(json, list, NULL, cJSON_CreateObject());
        cbm_json_put_int(json, entry, "id", i);
        cbm_json_put_text(json, entry, "content", keys->piece[i]);
        for (size_t s = 0; s < sizeof switches / sizeof switches[0]; s++)
            cbm_json_put_bool(json, entry, switches[s].key, (keys->flags[i] & switches[s].flag) != 0);
    }
}

scbm_status cbm_hf_tokenizer_export_config(const cbm_tokenizer_keys *keys, int64_t max_tokens, const char *path,
                                           const scbm_hooks *hooks) {
    json_tree json;
    cbm_json_start(&json, 0);
    cbm_json_put_text(&json, json.root, "tokenizer_class", "PreTrainedTokenizerFast");
    cbm_json_put_int(&json, json.root, "model_max_length", max_tokens);
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++)
        if (keys->special[i] >= 0)
            cbm_json_put_text(&json, json.root, special_names[i][0], keys->piece[keys->special[i]]);
    return cbm_json_write(&json, path, hooks);
}

scbm_status cbm_hf_tokenizer_export(const cbm_tokenizer_keys *keys, const char *path, const scbm_hooks *hooks) {
    json_tree json;
    int k = 0;
    while (k < COUNT_OF(kinds) && strcmp(kinds[k]->name, keys->kind) != 0) k++;
    if (k == COUNT_OF(kinds))
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "a tokenizer of kind '%s' cannot be exported", keys->kind);
    cbm_json_start(&json, 0);
    cbm_json_put_text(&json, json.root, "version", "1.0");
    cbm_json_put(&json, json.root, "truncation", cJSON_CreateNull());
    cbm_json_put(&json, json.root, "padding", cJSON_CreateNull());
    put_added_tokens(keys, &json);
    kinds[k]->put_json(keys, &json);
    cbm_hf_put_post_processor(keys, &json);
    return cbm_json_write(&json, path, hooks);
}
