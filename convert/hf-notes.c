/*
 * convert/hf-notes.c - what a tokenizer's files say that is not used, each said once
 */
#include "convert/hf-tokenizer.h"
#include "models/base/text.h"

#include <string.h>

/* ASCII's tell a cased vocabulary of any language. */
static int has_capitals(const char *piece) {
    while (*piece && (*piece < 'A' || *piece > 'Z')) piece++;
    return *piece != 0;
}

/* "[unused7]" */
static int is_bracketed(const char *piece) {
    return piece[0] == '[' && piece[strlen(piece) - 1] == ']';
}

/* Tokens with capitals that are found in no text, since texts are lower-cased. */
void cbm_hf_note_case(const hf_tokenizer *t, const char *name) {
    char shown[CBM_SHOWN_SIZE];
    int64_t n = 0, first = -1;
    for (int64_t i = 0; i < t->n_rows && t->lowercase; i++) {
        int is_found = t->flags[i] & (CBM_PIECE_SPECIAL | CBM_PIECE_ADDED | CBM_PIECE_UNUSED);
        if (!t->piece[i] || is_found || is_bracketed(t->piece[i]) || !has_capitals(t->piece[i])) continue;
        if (first < 0) first = i;
        n++;
    }
    if (n)
        scbm_log(
            &t->hooks, SCBM_LOG_WARNING,
            "%.300s: texts are lower-cased%s, and so %lld of %lld tokens, which have capital letters ('%s', ...), are "
            "found in none; \"do_lower_case\": false in tokenizer_config.json keeps capitals",
            name, t->says_case ? "" : ", as transformers does where no file says otherwise", (long long)n,
            (long long)t->n_tokens, cbm_show_string(shown, t->piece[first]));
}

/* Keys of tokenizer_config.json that change ids. */
void cbm_hf_note_config(const hf_tokenizer *t, const json_file *config) {
    const cJSON *side = cbm_json_get(config->root, "truncation_side"),
                *never = cbm_json_get(config->root, "never_split");
    if (cJSON_IsString(side) && strcmp(side->valuestring, "right") != 0)
        scbm_log(&t->hooks, SCBM_LOG_WARNING, "%.300s: truncation_side is not honoured: long texts lose their end",
                 config->path);
    if (cJSON_GetArraySize(never) > 0)
        scbm_log(&t->hooks, SCBM_LOG_WARNING,
                 "%.300s: never_split is not honoured: its %d tokens are split as others are", config->path,
                 cJSON_GetArraySize(never));
    if (cJSON_IsTrue(cbm_json_get(config->root, "split_special_tokens")))
        scbm_log(&t->hooks, SCBM_LOG_WARNING,
                 "%.300s: split_special_tokens is not honoured: special tokens are found in texts", config->path);
}

/* The length that was settled on, where tokenizer.json has another. */
void cbm_hf_note_length(const hf_tokenizer *t, int64_t max_tokens, const char *name) {
    if (t->truncation && t->truncation != max_tokens)
        scbm_log(&t->hooks, SCBM_LOG_INFO,
                 "%.300s: tokenizer.json truncates texts to %lld tokens, which is not honoured: %lld are read%s", name,
                 (long long)t->truncation, (long long)max_tokens, t->pads ? ", and none is padded" : "");
    else if (t->pads)
        scbm_log(&t->hooks, SCBM_LOG_INFO, "%.300s: tokenizer.json pads texts, which is not needed here", name);
}
