/*
 * convert/hf-unigram.c - SentencePiece's Unigram in tokenizer.json
 */
#include "convert/base64.h"
#include "convert/hf-unigram.h"
#include "models/base/text.h"
#include "models/tokenizers/charmap.h"

#include <string.h>

#define MARK "\xE2\x96\x81"
#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

static const char spaces_pattern[] = " {2,}";
static const char *const schemes[] = {
    [CBM_PREFIX_ALWAYS] = "always", [CBM_PREFIX_FIRST] = "first", [CBM_PREFIX_NEVER] = "never"};

/* ------------------------------------------------------------------------------------------
 * For all files
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_hf_unigram_start(hf_tokenizer *t) {
    t->kind = &cbm_hf_unigram;
    t->score = scbm_alloc_array(&t->hooks, (size_t)t->n_rows, sizeof *t->score);
    t->unigram.score = t->score;
    t->unigram.splits_marks = 1;
    if (!t->score) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_hf_tokenizer_set_special(t, CBM_TOKEN_PADDING, "<pad>", HF_BY_DEFAULT);
    return status ? status : cbm_hf_tokenizer_set_special(t, CBM_TOKEN_MASK, "<mask>", HF_BY_DEFAULT);
}

scbm_status cbm_hf_unigram_add(hf_tokenizer *t, const char *path, int64_t id, const char *piece, size_t length,
                               double score) {
    scbm_status status = cbm_hf_tokenizer_add(t, path, id, piece, length, length ? 0 : CBM_PIECE_UNUSED);
    if (!status) t->score[id] = score;
    return status;
}

scbm_status cbm_hf_unigram_set_map(hf_tokenizer *t, const char *path, const uint8_t *bytes, size_t n) {
    cbm_charmap map;
    if (!n) return SCBM_OK;
    if (!cbm_charmap_open(&map, bytes, n))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: its precompiled_charsmap is no map of characters", path);
    if (!t->map) t->map = scbm_alloc(&t->hooks, n);
    t->map_values = scbm_alloc_array(&t->hooks, n, sizeof *t->map_values);
    if (!t->map || !t->map_values) return SCBM_ERROR_MEMORY;
    if (bytes != t->map) memcpy(t->map, bytes, n);
    for (size_t i = 0; i < n; i++) t->map_values[i] = t->map[i];
    t->unigram.map = t->map;
    t->unigram.map_values = t->map_values;
    t->unigram.map_bytes = n;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json: the model
 * ---------------------------------------------------------------------------------------- */

static scbm_status read_vocabulary(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const cJSON *vocab, *entry;
    int64_t id = 0;
    scbm_status status = cbm_json_array_or_null(json, model, "vocab", &vocab);
    if (!status && !vocab) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.vocab is missing", json->path);
    if (status) return status;
    cJSON_ArrayForEach(entry, vocab) {
        const cJSON *piece = cJSON_GetArrayItem(entry, 0), *score = cJSON_GetArrayItem(entry, 1);
        if (!cJSON_IsString(piece) || !cJSON_IsNumber(score))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.vocab: entry %lld is no piece with a score", json->path,
                             (long long)id);
        status = cbm_hf_unigram_add(t, json->path, id++, piece->valuestring, strlen(piece->valuestring),
                                    score->valuedouble);
        if (status) return status;
    }
    return SCBM_OK;
}

static scbm_status read_model(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    int64_t unknown = 0;
    scbm_status status = read_vocabulary(t, json, model);
    if (!status) status = cbm_json_bool_or(json, model, "byte_fallback", 0, &t->unigram.byte_fallback);
    if (!status) status = cbm_json_int(json, model, "unk_id", 0, t->n_rows - 1, &unknown);
    if (!status && !t->piece[unknown])
        status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.unk_id is %lld, and there is no such token", json->path,
                           (long long)unknown);
    return status ? status : cbm_hf_tokenizer_set_special(t, CBM_TOKEN_UNKNOWN, t->piece[unknown], HF_BY_TOKENIZER);
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json: the normalizer
 * ---------------------------------------------------------------------------------------- */

static scbm_status read_map(hf_tokenizer *t, const json_file *json, const cJSON *part) {
    const char *text;
    scbm_status status = cbm_json_string_or(json, part, "precompiled_charsmap", "", &text);
    if (status || !*text) return status;
    if (t->map) return cbm_hf_refuse(json, "normalizer", "a second Precompiled", "one");
    t->map = scbm_alloc(&t->hooks, strlen(text) / 4 * 3 + 3);
    if (!t->map) return SCBM_ERROR_MEMORY;
    size_t n = cbm_base64_decode(text, strlen(text), t->map);
    if (n == SIZE_MAX) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: precompiled_charsmap is no base64", json->path);
    return cbm_hf_unigram_set_map(t, json->path, t->map, n);
}

/* Only {"pattern": {"Regex": " {2,}"}, "content": " " or the mark}. */
static scbm_status read_replace(hf_tokenizer *t, const json_file *json, const cJSON *part) {
    const cJSON *pattern = cbm_json_get(part, "pattern");
    const char *regex, *content;
    scbm_status status = cbm_json_string_or(json, pattern, "Regex", "", &regex);
    if (!status) status = cbm_json_string(json, part, "content", &content);
    if (status) return status;
    if (strcmp(regex, spaces_pattern) != 0) return cbm_hf_refuse(json, "Replace.pattern", regex, spaces_pattern);
    if (strcmp(content, " ") != 0 && strcmp(content, MARK) != 0)
        return cbm_hf_refuse(json, "Replace.content", content, "a space or " MARK);
    t->unigram.joins_spaces = *content == ' ' ? 1 : 2;
    return SCBM_OK;
}

static scbm_status read_strip(hf_tokenizer *t, const json_file *json, const cJSON *part) {
    scbm_status status = cbm_json_bool_or(json, part, "strip_left", 0, &t->unigram.strips_left);
    return status ? status : cbm_json_bool_or(json, part, "strip_right", 0, &t->unigram.strips_right);
}

/* The steps, in the only order in which they are computed here. */
static const struct {
    const char *type;
    scbm_status (*read)(hf_tokenizer *t, const json_file *json, const cJSON *part);
} steps[] = {{"Precompiled", read_map}, {"Strip", read_strip}, {"Replace", read_replace}};

static scbm_status read_step(hf_tokenizer *t, const json_file *json, const cJSON *part, int *at) {
    static const char known[] = "Precompiled, then Strip, then Replace";
    const char *type;
    scbm_status status = cbm_json_string(json, part, "type", &type);
    if (status) return status;
    for (; *at < COUNT_OF(steps); ++*at)
        if (strcmp(steps[*at].type, type) == 0) return steps[(*at)++].read(t, json, part);
    return cbm_hf_refuse(json, "normalizer", type, known);
}

static scbm_status read_normalizer(hf_tokenizer *t, const json_file *json) {
    const cJSON *normalizer, *list, *part;
    const char *type = "";
    int at = 0;
    scbm_status status = cbm_json_object_or_null(json, json->root, "normalizer", &normalizer);
    if (status || !normalizer) return status;
    status = cbm_json_string(json, normalizer, "type", &type);
    if (status || strcmp(type, "Sequence") != 0) return status ? status : read_step(t, json, normalizer, &at);
    status = cbm_json_array_or_null(json, normalizer, "normalizers", &list);
    cJSON_ArrayForEach(part, list) {
        if (!status) status = read_step(t, json, part, &at);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json: what divides words
 * ---------------------------------------------------------------------------------------- */

/* Older files have add_prefix_space in place of prepend_scheme. */
static scbm_status read_metaspace(hf_tokenizer *t, const json_file *json, const cJSON *part) {
    const char *mark, *scheme;
    int adds_prefix, i = 0;
    scbm_status status = cbm_json_string_or(json, part, "replacement", MARK, &mark);
    if (!status) status = cbm_json_bool_or(json, part, "add_prefix_space", 1, &adds_prefix);
    if (!status) status = cbm_json_string_or(json, part, "prepend_scheme", adds_prefix ? "always" : "never", &scheme);
    if (!status) status = cbm_json_bool_or(json, part, "split", 1, &t->unigram.splits_marks);
    if (status) return status;
    if (strcmp(mark, MARK) != 0) return cbm_hf_refuse(json, "Metaspace.replacement", mark, MARK);
    while (i < COUNT_OF(schemes) && strcmp(schemes[i], scheme) != 0) i++;
    if (i == COUNT_OF(schemes)) return cbm_hf_refuse(json, "prepend_scheme", scheme, "always, first and never");
    t->unigram.prefix = (cbm_prefix)i;
    return SCBM_OK;
}

static scbm_status read_splitter(hf_tokenizer *t, const json_file *json) {
    static const char known[] = "Metaspace, or WhitespaceSplit and then Metaspace";
    const cJSON *splitter, *list = NULL;
    const char *type = "missing", *first = "";
    scbm_status status = cbm_json_object_or_null(json, json->root, "pre_tokenizer", &splitter);
    if (!status && splitter) status = cbm_json_string(json, splitter, "type", &type);
    if (status) return status;
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(t, json, splitter);
    if (strcmp(type, "Sequence") != 0) return cbm_hf_refuse(json, "pre_tokenizer", type, known);
    status = cbm_json_array_or_null(json, splitter, "pretokenizers", &list);
    int n = cJSON_GetArraySize(list), at = 0;
    if (!status && n) status = cbm_json_string(json, cJSON_GetArrayItem(list, 0), "type", &first);
    if (!status && strcmp(first, "WhitespaceSplit") == 0) t->unigram.splits_words = ++at;
    if (!status && at < n) status = cbm_json_string(json, cJSON_GetArrayItem(list, at), "type", &type);
    if (status) return status;
    if (n != at + 1 || strcmp(type, "Metaspace") != 0)
        return cbm_hf_refuse(json, "pre_tokenizer", "another sequence", known);
    return read_metaspace(t, json, cJSON_GetArrayItem(list, at));
}

static scbm_status parse_json(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    scbm_status status = cbm_hf_unigram_start(t);
    if (!status) status = read_model(t, json, model);
    if (!status) status = read_normalizer(t, json);
    return status ? status : read_splitter(t, json);
}

/* Everything is said by tokenizer.json, or by the class. */
static scbm_status parse_config(hf_tokenizer *t, const json_file *json) {
    (void)t;
    (void)json;
    return SCBM_OK;
}

static void set_keys(const hf_tokenizer *t, cbm_tokenizer_keys *keys) {
    keys->unigram = t->unigram;
}

/* ------------------------------------------------------------------------------------------
 * The way back
 * ---------------------------------------------------------------------------------------- */

static void put_map(json_tree *json, cJSON *list, const cbm_unigram_options *o) {
    char *text = cJSON_malloc(o->map_bytes / 3 * 4 + 5);
    if (!text) {
        json->failed = 1;
        return;
    }
    cbm_base64_encode(o->map, o->map_bytes, text);
    cbm_json_put_text(json, cbm_hf_put_part(json, list, NULL, "Precompiled"), "precompiled_charsmap", text);
    cJSON_free(text);
}

static void put_normalizer(json_tree *json, const cbm_unigram_options *o) {
    if (!o->map_bytes && !o->strips_left && !o->strips_right && !o->joins_spaces) {
        cbm_json_put(json, json->root, "normalizer", cJSON_CreateNull());
        return;
    }
    cJSON *part = cbm_hf_put_part(json, json->root, "normalizer", "Sequence");
    cJSON *list = cbm_json_put(json, part, "normalizers", cJSON_CreateArray());
    if (o->map_bytes) put_map(json, list, o);
    if (o->strips_left || o->strips_right) {
        part = cbm_hf_put_part(json, list, NULL, "Strip");
        cbm_json_put_bool(json, part, "strip_left", o->strips_left);
        cbm_json_put_bool(json, part, "strip_right", o->strips_right);
    }
    if (!o->joins_spaces) return;
    part = cbm_hf_put_part(json, list, NULL, "Replace");
    cbm_json_put_text(json, cbm_json_put(json, part, "pattern", cJSON_CreateObject()), "Regex", spaces_pattern);
    cbm_json_put_text(json, part, "content", o->joins_spaces > 1 ? MARK : " ");
}

static void put_metaspace(json_tree *json, cJSON *into, const char *key, const cbm_unigram_options *o) {
    cJSON *part = cbm_hf_put_part(json, into, key, "Metaspace");
    cbm_json_put_text(json, part, "replacement", MARK);
    cbm_json_put_text(json, part, "prepend_scheme", schemes[o->prefix]);
    cbm_json_put_bool(json, part, "split", o->splits_marks);
}

static void put_splitter(json_tree *json, const cbm_unigram_options *o) {
    if (!o->splits_words) {
        put_metaspace(json, json->root, "pre_tokenizer", o);
        return;
    }
    cJSON *part = cbm_hf_put_part(json, json->root, "pre_tokenizer", "Sequence");
    cJSON *list = cbm_json_put(json, part, "pretokenizers", cJSON_CreateArray());
    cbm_hf_put_part(json, list, NULL, "WhitespaceSplit");
    put_metaspace(json, list, NULL, o);
}

static int is_piece(const cbm_tokenizer_keys *keys, int32_t id) {
    return keys->piece[id] && !(keys->flags[id] & (CBM_PIECE_UNUSED | CBM_PIECE_BESIDE_MODEL));
}

/* Added tokens get the numbers behind the last piece. */
static void put_json(const cbm_tokenizer_keys *keys, json_tree *json) {
    const cbm_unigram_options *o = &keys->unigram;
    put_normalizer(json, o);
    put_splitter(json, o);
    put_metaspace(json, json->root, "decoder", o);
    cJSON *part = cbm_hf_put_part(json, json->root, "model", "Unigram");
    cbm_json_put_int(json, part, "unk_id", keys->special[CBM_TOKEN_UNKNOWN]);
    cJSON *vocab = cbm_json_put(json, part, "vocab", cJSON_CreateArray());
    int32_t n = keys->n;
    while (n > 0 && !is_piece(keys, n - 1)) n--;
    for (int32_t i = 0; i < n; i++) {
        int has_piece = is_piece(keys, i);
        cJSON *entry = cbm_json_put(json, vocab, NULL, cJSON_CreateArray());
        cbm_json_put(json, entry, NULL, cJSON_CreateString(has_piece ? keys->piece[i] : ""));
        cbm_json_put(json, entry, NULL, cJSON_CreateNumber(has_piece ? o->score[i] : 0));
    }
    cbm_json_put_bool(json, part, "byte_fallback", o->byte_fallback);
}

const hf_tokenizer_kind cbm_hf_unigram = {.type = "Unigram",
                                          .name = "t5",
                                          .parse_json = parse_json,
                                          .parse_config = parse_config,
                                          .set_keys = set_keys,
                                          .put_json = put_json};
