/*
 * convert/hf-post-processor.c - tokenizer.json's post_processor: what is put around a text, how byte ranges are trimmed
 */
#include "convert/hf-tokenizer.h"
#include "models/base/text.h"

#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

static scbm_status note_end(hf_tokenizer *t, cbm_special_token which, const char *text, int64_t id) {
    t->noted_id[which] = id;
    return cbm_hf_tokenizer_set_special(t, which, text, HF_BY_TOKENIZER);
}

/* {"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]} */
static scbm_status read_bert_processing(hf_tokenizer *t, const json_file *json, const cJSON *processor) {
    static const struct {
        cbm_special_token which;
        const char *key;
    } ends[] = {{CBM_TOKEN_FIRST, "cls"}, {CBM_TOKEN_LAST, "sep"}};
    t->omits_first = t->omits_last = 0;
    for (int i = 0; i < COUNT_OF(ends); i++) {
        const cJSON *pair = cbm_json_get(processor, ends[i].key), *text = cJSON_GetArrayItem(pair, 0);
        int64_t id;
        if (!cJSON_IsString(text) || !cbm_json_is_int(cJSON_GetArrayItem(pair, 1), 0, INT32_MAX, &id))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: post_processor.%s must be a token and its number", json->path,
                             ends[i].key);
        scbm_status status = note_end(t, ends[i].which, text->valuestring, id);
        if (status) return status;
    }
    return SCBM_OK;
}

/* {"SpecialToken": {"id": "[CLS]", "type_id": 0}}: the token's name, or NULL. */
static const char *template_item(const cJSON *item, const char *kind) {
    const cJSON *part = cbm_json_get(item, kind), *id = cbm_json_get(part, "id"), *type = cbm_json_get(part, "type_id");
    return cJSON_IsString(id) && (!type || (cJSON_IsNumber(type) && type->valuedouble == 0)) ? id->valuestring : NULL;
}

/* One token of the template: "special_tokens" has its number. */
static scbm_status read_template_end(hf_tokenizer *t, const json_file *json, const cJSON *processor,
                                     cbm_special_token which, const char *text) {
    char shown[CBM_SHOWN_SIZE];
    const cJSON *ids = cbm_json_get(cbm_json_get(cbm_json_get(processor, "special_tokens"), text), "ids");
    int64_t id;
    if (cJSON_GetArraySize(ids) != 1 || !cbm_json_is_int(cJSON_GetArrayItem(ids, 0), 0, INT32_MAX, &id))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: post_processor.special_tokens has no number for '%s'", json->path,
                         cbm_show_string(shown, text));
    return note_end(t, which, text, id);
}

/* {"type": "TemplateProcessing", "single": [[CLS], A, [SEP]], …, "special_tokens": {"[CLS]": {"ids": [101]}, …}}: the
 * text, with one token before it or none, and one behind it or none. */
static scbm_status read_template(hf_tokenizer *t, const json_file *json, const cJSON *processor) {
    const cJSON *single = cbm_json_get(processor, "single");
    const char *first = template_item(cJSON_GetArrayItem(single, 0), "SpecialToken");
    int at = first != NULL, n = cJSON_GetArraySize(single);
    const char *text = template_item(cJSON_GetArrayItem(single, at), "Sequence");
    const char *last = template_item(cJSON_GetArrayItem(single, at + 1), "SpecialToken");
    t->omits_first = !first;
    t->omits_last = !last;
    if (!text || strcmp(text, "A") != 0 || n != 1 + (first != NULL) + (last != NULL) ||
        (t->kind->needs_ends && (!first || !last)))
        return cbm_hf_refuse(json, "post_processor.single", "something else", "[CLS], the text, [SEP]");
    scbm_status status = first ? read_template_end(t, json, processor, CBM_TOKEN_FIRST, first) : SCBM_OK;
    return status || !last ? status : read_template_end(t, json, processor, CBM_TOKEN_LAST, last);
}

/* What byte-level BPE's own processor, and RoBERTa's, say of byte ranges. */
static scbm_status read_trimming(hf_tokenizer *t, const json_file *json, const cJSON *processor) {
    scbm_status status = cbm_json_bool_or(json, processor, "trim_offsets", 1, &t->trims);
    if (!status) status = cbm_json_bool_or(json, processor, "add_prefix_space", 1, &t->trim_keeps_space);
    return status;
}

static scbm_status read_processor(hf_tokenizer *t, const json_file *json, const cJSON *processor, int depth) {
    static const char known[] =
        "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and a Sequence of them";
    const char *type;
    scbm_status status = cbm_json_string(json, processor, "type", &type);
    if (status) return status;
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(t, json, processor);
    if (strcmp(type, "BertProcessing") == 0) return read_bert_processing(t, json, processor);
    if (strcmp(type, "ByteLevel") == 0) return read_trimming(t, json, processor);
    if (strcmp(type, "RobertaProcessing") == 0) {
        status = read_trimming(t, json, processor);
        return status ? status : read_bert_processing(t, json, processor);
    }
    if (strcmp(type, "Sequence") != 0 || depth) return cbm_hf_refuse(json, "post_processor", type, known);
    const cJSON *part;
    cJSON_ArrayForEach(part, cbm_json_get(processor, "processors")) {
        if (!status) status = read_processor(t, json, part, depth + 1);
    }
    return status;
}

scbm_status cbm_hf_read_post_processor(hf_tokenizer *t, const json_file *json) {
    const cJSON *processor;
    scbm_status status = cbm_json_object_or_null(json, json->root, "post_processor", &processor);
    if (!t->kind->needs_ends) t->omits_first = t->omits_last = 1;
    if (status || (!processor && !t->kind->needs_ends)) return status;
    if (!processor)
        return cbm_hf_refuse(json, "post_processor", "missing",
                             "TemplateProcessing, BertProcessing and RobertaProcessing");
    return read_processor(t, json, processor, 0);
}

/* ------------------------------------------------------------------------------------------
 * The way back
 * ---------------------------------------------------------------------------------------- */

/* {"SpecialToken": {"id": "[CLS]", "type_id": 0}} */
static void put_template_item(json_tree *json, cJSON *list, const char *kind, const char *id, int type) {
    cJSON *item = cbm_json_put(json, cbm_json_put(json, list, NULL, cJSON_CreateObject()), kind, cJSON_CreateObject());
    cbm_json_put_text(json, item, "id", id);
    cbm_json_put_int(json, item, "type_id", type);
}

/* One text between its ends, or two, of which the second has no first token. */
static void put_template(const cbm_tokenizer_keys *keys, json_tree *json, cJSON *processor, int texts) {
    const int32_t first = keys->omits_first ? -1 : keys->special[CBM_TOKEN_FIRST];
    const int32_t last = keys->omits_last ? -1 : keys->special[CBM_TOKEN_LAST];
    cJSON *list = cbm_json_put(json, processor, texts == 1 ? "single" : "pair", cJSON_CreateArray());
    if (first >= 0) put_template_item(json, list, "SpecialToken", keys->piece[first], 0);
    for (int i = 0; i < texts; i++) {
        put_template_item(json, list, "Sequence", i ? "B" : "A", i);
        if (last >= 0) put_template_item(json, list, "SpecialToken", keys->piece[last], i);
    }
}

static void put_template_token(const cbm_tokenizer_keys *keys, json_tree *json, cJSON *tokens, int32_t id) {
    if (id < 0 || cbm_json_get(tokens, keys->piece[id])) return;
    cJSON *token = cbm_json_put(json, tokens, keys->piece[id], cJSON_CreateObject());
    cbm_json_put_text(json, token, "id", keys->piece[id]);
    cbm_json_put_int(json, cbm_json_put(json, token, "ids", cJSON_CreateArray()), NULL, id);
    cbm_json_put_text(json, cbm_json_put(json, token, "tokens", cJSON_CreateArray()), NULL, keys->piece[id]);
}

/* Where byte ranges are trimmed that comes before what is put around a text. */
static cJSON *put_trimming(const cbm_tokenizer_keys *keys, json_tree *json, cJSON *processor) {
    if (!keys->trims) return processor;
    cbm_json_put_text(json, processor, "type", "Sequence");
    cJSON *list = cbm_json_put(json, processor, "processors", cJSON_CreateArray());
    cbm_hf_put_byte_level(json, list, NULL, keys->trim_keeps_space);
    return cbm_json_put(json, list, NULL, cJSON_CreateObject());
}

void cbm_hf_put_post_processor(const cbm_tokenizer_keys *keys, json_tree *json) {
    cJSON *processor = cbm_json_put(json, json->root, "post_processor", cJSON_CreateObject());
    processor = put_trimming(keys, json, processor);
    cbm_json_put_text(json, processor, "type", "TemplateProcessing");
    put_template(keys, json, processor, 1);
    put_template(keys, json, processor, 2);
    cJSON *tokens = cbm_json_put(json, processor, "special_tokens", cJSON_CreateObject());
    if (!keys->omits_first) put_template_token(keys, json, tokens, keys->special[CBM_TOKEN_FIRST]);
    if (!keys->omits_last) put_template_token(keys, json, tokens, keys->special[CBM_TOKEN_LAST]);
}
