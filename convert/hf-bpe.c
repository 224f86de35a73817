/*
 * convert/hf-bpe.c - byte-level BPE in tokenizer.json, vocab.json and merges.txt, and tokenizer_config.json
 */
#include "convert/hf-tokenizer.h"
#include "models/base/text.h"

#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Room for a merge of so many bytes, all zeros. */
static scbm_status new_merge(hf_tokenizer *t, size_t length, char **merge) {
    size_t n = (size_t)t->bpe.n_merges;
    scbm_status status = scbm_grow(&t->hooks, (void **)&t->merge, &t->merge_capacity, n + 1, sizeof *t->merge);
    if (status) return status;
    *merge = t->merge[n] = scbm_alloc(&t->hooks, length + 1);
    if (!*merge) return SCBM_ERROR_MEMORY;
    t->bpe.n_merges++;
    return SCBM_OK;
}

static scbm_status add_merge(hf_tokenizer *t, const char *text, size_t length) {
    char *merge;
    scbm_status status = new_merge(t, length, &merge);
    if (!status) memcpy(merge, text, length);
    return status;
}

/* ["a", "b"], as newer files have it. */
static scbm_status add_pair(hf_tokenizer *t, const char *a, const char *b) {
    size_t first = strlen(a), second = strlen(b);
    char *merge;
    scbm_status status = new_merge(t, first + 1 + second, &merge);
    if (status) return status;
    memcpy(merge, a, first);
    merge[first] = ' ';
    memcpy(merge + first + 1, b, second);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer.json
 * ---------------------------------------------------------------------------------------- */

static scbm_status read_merges(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const cJSON *list, *item;
    scbm_status status = cbm_json_array_or_null(json, model, "merges", &list);
    if (!status && !list) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.merges is missing", json->path);
    if (status) return status;
    cJSON_ArrayForEach(item, list) {
        const cJSON *a = cJSON_GetArrayItem(item, 0), *b = cJSON_GetArrayItem(item, 1);
        if (cJSON_IsString(item)) status = add_merge(t, item->valuestring, strlen(item->valuestring));
        else if (cJSON_IsString(a) && cJSON_IsString(b)) status = add_pair(t, a->valuestring, b->valuestring);
        else
            status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.merges: merge %d is not two pieces", json->path,
                               (int)t->bpe.n_merges + 1);
        if (status) return status;
    }
    return SCBM_OK;
}

/* What other BPEs do and this version does not: named and refused. */
static scbm_status check_variants(const json_file *json, const cJSON *model) {
    static const char *const texts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    static const char *const switches[] = {"byte_fallback", "ignore_merges"};
    scbm_status status = SCBM_OK;
    double dropout;
    for (int i = 0; i < COUNT_OF(texts) && !status; i++) {
        const char *text;
        status = cbm_json_string_or(json, model, texts[i], "", &text);
        if (!status && *text) status = cbm_hf_refuse(json, texts[i], text, "BPE without it");
    }
    for (int i = 0; i < COUNT_OF(switches) && !status; i++) {
        int is_on;
        status = cbm_json_bool_or(json, model, switches[i], 0, &is_on);
        if (!status && is_on) status = cbm_hf_refuse(json, switches[i], "true", "BPE without it");
    }
    if (!status) status = cbm_json_real_or(json, model, "dropout", 0, &dropout);
    if (!status && dropout != 0) status = cbm_hf_refuse(json, "model.dropout", "set", "BPE without it");
    return status;
}

static scbm_status read_model(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    const cJSON *vocab;
    const char *unknown;
    scbm_status status = check_variants(json, model);
    if (!status) status = cbm_json_object_or_null(json, model, "vocab", &vocab);
    if (!status && !vocab) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: model.vocab is missing", json->path);
    if (!status) status = cbm_json_string_or(json, model, "unk_token", NULL, &unknown);
    if (!status) status = cbm_json_bool_or(json, model, "fuse_unk", 0, &t->bpe.fuse_unknown);
    if (!status && unknown) {
        t->bpe.has_unknown = 1;
        status = cbm_hf_tokenizer_set_special(t, CBM_TOKEN_UNKNOWN, unknown, HF_BY_TOKENIZER);
    }
    if (!status) status = cbm_hf_tokenizer_add_all(t, json, vocab, "model.vocab: ");
    return status ? status : read_merges(t, json, model);
}

static scbm_status read_splitter(hf_tokenizer *t, const json_file *json) {
    const cJSON *splitter, *normalizer;
    int uses_pattern;
    scbm_status status = cbm_json_object_or_null(json, json->root, "normalizer", &normalizer);
    if (!status && normalizer) {
        const cJSON *type = cbm_json_get(normalizer, "type");
        return cbm_hf_refuse(json, "normalizer", cJSON_IsString(type) ? type->valuestring : "?",
                             "byte-level BPE without one");
    }
    if (!status) status = cbm_hf_get_part(json, "pre_tokenizer", "ByteLevel", &splitter);
    if (!status) status = cbm_json_bool_or(json, splitter, "add_prefix_space", 1, &t->bpe.add_prefix_space);
    if (!status) status = cbm_json_bool_or(json, splitter, "use_regex", 1, &uses_pattern);
    if (!status && !uses_pattern) status = cbm_hf_refuse(json, "pre_tokenizer.use_regex", "false", "true");
    return status;
}

static scbm_status parse_json(hf_tokenizer *t, const json_file *json, const cJSON *model) {
    t->kind = &cbm_hf_bpe;
    scbm_status status = read_model(t, json, model);
    return status ? status : read_splitter(t, json);
}

/* ------------------------------------------------------------------------------------------
 * vocab.json and merges.txt
 * ---------------------------------------------------------------------------------------- */

/* RoBERTa's tokens around a text, or GPT-2's, which are none. */
static scbm_status set_usual(hf_tokenizer *t, int is_roberta) {
    static const char *const roberta[CBM_SPECIAL_TOKENS] = {
        [CBM_TOKEN_UNKNOWN] = "<unk>", [CBM_TOKEN_FIRST] = "<s>",   [CBM_TOKEN_LAST] = "</s>",
        [CBM_TOKEN_PADDING] = "<pad>", [CBM_TOKEN_MASK] = "<mask>",
    };
    static const char *const gpt2[CBM_SPECIAL_TOKENS] = {
        [CBM_TOKEN_UNKNOWN] = "<|endoftext|>", [CBM_TOKEN_FIRST] = "<|endoftext|>", [CBM_TOKEN_LAST] = "<|endoftext|>"};
    t->omits_first = t->omits_last = !is_roberta;
    t->trims = is_roberta;
    return cbm_hf_tokenizer_set_usual(t, is_roberta ? roberta : gpt2);
}

scbm_status cbm_hf_tokenizer_parse_vocab_json(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    t->kind = &cbm_hf_bpe;
    status = set_usual(t, 0);
    if (!status) status = cbm_hf_tokenizer_add_all(t, &json, json.root, "");
    if (!status && !t->n_tokens) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: there are no tokens in it", name);
    cbm_json_close(&json);
    return status;
}

/* A merge a line; the first line may be "#version: 0.2". */
scbm_status cbm_hf_tokenizer_parse_merges(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    static const char version[] = "#version";
    const char *line = data, *end = line + size;
    scbm_status status = cbm_hf_check_text(data, size, name, "a list of merges");
    while (line < end && !status) {
        const char *line_end = memchr(line, '\n', (size_t)(end - line));
        if (!line_end) line_end = end;
        size_t length = (size_t)(line_end - line);
        if (length && line[length - 1] == '\r') length--;
        int is_version = length >= sizeof version - 1 && strncmp(line, version, sizeof version - 1) == 0;
        if (length && !is_version) status = add_merge(t, line, length);
        line = line_end + (line_end < end);
    }
    if (!status && !t->merge) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: there are no merges in it", name);
    return status;
}

/* What a checkpoint of this type takes for its tokenizer. */
scbm_status cbm_hf_tokenizer_parse_type(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    json_file json;
    const char *type;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &t->hooks);
    if (status) return status;
    status = cbm_json_string_or(&json, json.root, "model_type", "", &type);
    if (!status && strcmp(type, "roberta") == 0) status = set_usual(t, 1);
    cbm_json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * tokenizer_config.json
 * ---------------------------------------------------------------------------------------- */

static scbm_status read_class(hf_tokenizer *t, const json_file *json) {
    static const char *const known[] = {"GPT2Tokenizer", "RobertaTokenizer"};
    const char *name;
    int adds_first, adds_last;
    scbm_status status = cbm_json_string_or(json, json->root, "tokenizer_class", NULL, &name);
    for (int i = 0; i < COUNT_OF(known) && !status && name; i++) {
        if (!cbm_starts_with(name, known[i])) continue;
        status = set_usual(t, i == 1);
        name = NULL;
    }
    if (!status && name)
        return cbm_hf_refuse(json, "tokenizer_class", name,
                             "GPT2Tokenizer, RobertaTokenizer, or any with a tokenizer.json");
    if (!status) status = cbm_json_bool_or(json, json->root, "add_bos_token", !t->omits_first, &adds_first);
    if (!status) status = cbm_json_bool_or(json, json->root, "add_eos_token", !t->omits_last, &adds_last);
    if (status) return status;
    t->omits_first = !adds_first;
    t->omits_last = !adds_last;
    return SCBM_OK;
}

static scbm_status parse_config(hf_tokenizer *t, const json_file *json) {
    scbm_status status = t->has_json ? SCBM_OK : read_class(t, json);
    if (!status) status = cbm_hf_read_switch(t, json, "add_prefix_space", &t->bpe.add_prefix_space);
    if (!status && !t->has_json) {
        status = cbm_json_bool_or(json, json->root, "trim_offsets", t->trims, &t->trims);
        t->trim_keeps_space = t->bpe.add_prefix_space;
    }
    return status;
}

static void set_keys(const hf_tokenizer *t, cbm_tokenizer_keys *keys) {
    keys->bpe = t->bpe;
    keys->bpe.merges = (const char *const *)t->merge;
}

/* ------------------------------------------------------------------------------------------
 * The way back
 * ---------------------------------------------------------------------------------------- */

static void put_json(const cbm_tokenizer_keys *keys, json_tree *json) {
    const cbm_bpe_options *o = &keys->bpe;
    cbm_json_put(json, json->root, "normalizer", cJSON_CreateNull());
    cbm_hf_put_byte_level(json, json->root, "pre_tokenizer", o->add_prefix_space);
    cbm_hf_put_byte_level(json, json->root, "decoder", 1);
    cJSON *model = cbm_hf_put_part(json, json->root, "model", "BPE");
    cbm_json_put(json, model, "dropout", cJSON_CreateNull());
    int32_t unknown = o->has_unknown ? keys->special[CBM_TOKEN_UNKNOWN] : -1;
    if (unknown >= 0) cbm_json_put_text(json, model, "unk_token", keys->piece[unknown]);
    else cbm_json_put(json, model, "unk_token", cJSON_CreateNull());
    cbm_json_put_text(json, model, "continuing_subword_prefix", "");
    cbm_json_put_text(json, model, "end_of_word_suffix", "");
    cbm_json_put_bool(json, model, "fuse_unk", o->fuse_unknown);
    cbm_json_put_bool(json, model, "byte_fallback", 0);
    cbm_hf_put_vocabulary(keys, json, model);
    cJSON *merges = cbm_json_put(json, model, "merges", cJSON_CreateArray());
    for (int32_t i = 0; i < o->n_merges; i++) cbm_json_put_text(json, merges, NULL, o->merges[i]);
}

const hf_tokenizer_kind cbm_hf_bpe = {
    .type = "BPE",
    .name = "gpt2",
    .parse_json = parse_json,
    .parse_config = parse_config,
    .set_keys = set_keys,
    .put_json = put_json,
};
