/*
 * convert/model-card.c - a Hugging Face folder's README.md: the licence and the source, which go with the model
 *
 * Of the front matter's YAML it reads `key: value`, `key: [a, b]` and `key:` with lines `- value`, which is how such
 * cards are written; what looks otherwise is passed over.
 */
#include "convert/model-card.h"
#include "convert/json-file.h"
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#define LONGEST_CARD ((size_t)64 << 10) /* bytes of the front matter that are looked at */
#define LONGEST_VALUE 300

/* The key in the card, and in a model file as llama.cpp names it. */
static const struct {
    const char *card, *file;
} fields[HF_CARD_FIELDS] = {
    [HF_CARD_LICENSE] = {"license", "general.license"},
    [HF_CARD_LICENSE_NAME] = {"license_name", "general.license.name"},
    [HF_CARD_LICENSE_LINK] = {"license_link", "general.license.link"},
    [HF_CARD_SOURCE] = {"source_url", "general.source.url"},
    [HF_CARD_REPOSITORY] = {"repo_url", "general.source.repo_url"},
};

/* A line, or a part of one. */
typedef struct span {
    const char *start;
    size_t length;
} span;

static span trim(span s) {
    while (s.length && strchr(" \t\r", s.start[0])) s.start++, s.length--;
    while (s.length && strchr(" \t\r", s.start[s.length - 1])) s.length--;
    return s;
}

/* Without a comment and quotes. */
static span plain(span s) {
    s = trim(s);
    char quote = s.length && (s.start[0] == '"' || s.start[0] == '\'') ? s.start[0] : 0;
    if (quote) {
        const char *end = memchr(s.start + 1, quote, s.length - 1);
        return end ? (span){s.start + 1, (size_t)(end - s.start - 1)} : (span){s.start, 0};
    }
    for (size_t i = 0; i + 1 < s.length; i++)
        if (s.start[i] == ' ' && s.start[i + 1] == '#') s.length = i;
    return trim(s);
}

/* Adds a value to those that the field has, with a comma before it. One that is no text for a line is left out. */
static scbm_status add_value(hf_card *card, int field, span value) {
    char *before = card->field[field];
    size_t used = before ? strlen(before) + 1 : 0;
    value = plain(value);
    if (!value.length || used + value.length > LONGEST_VALUE) return SCBM_OK;
    for (size_t i = 0; i < value.length; i++)
        if ((unsigned char)value.start[i] < 0x20 || value.start[i] == 0x7f) return SCBM_OK;
    if (cbm_find_bad_utf8(value.start, value.length) < value.length) return SCBM_OK;
    char *text = scbm_alloc(&card->hooks, used + value.length + 1);
    if (!text) return SCBM_ERROR_MEMORY;
    if (before) snprintf(text, used + 1, "%s,", before);
    memcpy(text + used, value.start, value.length);
    scbm_release(&card->hooks, before);
    card->field[field] = text;
    return SCBM_OK;
}

/* "a" or "[a, b]" */
static scbm_status add_values(hf_card *card, int field, span value) {
    value = trim(value);
    if (value.length < 2 || value.start[0] != '[' || value.start[value.length - 1] != ']')
        return add_value(card, field, value);
    scbm_status status = SCBM_OK;
    const char *at = value.start + 1, *end = value.start + value.length - 1;
    while (at < end && !status) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        size_t length = comma ? (size_t)(comma - at) : (size_t)(end - at);
        status = add_value(card, field, (span){at, length});
        at += length + 1;
    }
    return status;
}

/* The field that a line is about, and its value; -1: another one. */
static int field_of(span line, span *value) {
    for (int i = 0; i < HF_CARD_FIELDS; i++) {
        size_t n = strlen(fields[i].card);
        if (line.length <= n || memcmp(line.start, fields[i].card, n) != 0 || line.start[n] != ':') continue;
        *value = (span){line.start + n + 1, line.length - n - 1};
        return i;
    }
    return -1;
}

/* `field` is what lines that begin with a dash are values of; -1: of nothing that is wanted. */
static scbm_status read_line(hf_card *card, span line, int *field) {
    span value, inner = trim(line);
    if (inner.length >= 2 && inner.start[0] == '-' && inner.start[1] == ' ')
        return *field < 0 ? SCBM_OK : add_value(card, *field, (span){inner.start + 2, inner.length - 2});
    *field = field_of(line, &value);
    return *field < 0 ? SCBM_OK : add_values(card, *field, value);
}

scbm_status cbm_hf_card_parse(hf_card *card, const void *data, size_t size, const scbm_hooks *hooks) {
    const char *at = data, *end = at + (size < LONGEST_CARD ? size : LONGEST_CARD);
    int n = 0, field = -1;
    scbm_status status = SCBM_OK;
    memset(card, 0, sizeof *card);
    if (hooks) card->hooks = *hooks;
    while (at < end && !status) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        span line = {at, (size_t)((line_end ? line_end : end) - at)}, whole = trim(line);
        int is_fence = whole.length == 3 && memcmp(whole.start, "---", 3) == 0;
        if (is_fence == (n > 0)) break; /* there is no front matter, or it is over */
        if (!is_fence) status = read_line(card, line, &field);
        n++;
        at = line_end ? line_end + 1 : end;
    }
    if (status) cbm_hf_card_clear(card);
    return status;
}

scbm_status cbm_hf_card_read(hf_card *card, const char *folder, const scbm_hooks *hooks) {
    scbm_bytes bytes;
    memset(card, 0, sizeof *card);
    if (hooks) card->hooks = *hooks;
    char *path = cbm_json_join(hooks, folder, "README.md");
    if (!path) return SCBM_ERROR_MEMORY;
    scbm_status status = scbm_bytes_open(&bytes, path, hooks);
    if (!status) {
        status = cbm_hf_card_parse(card, bytes.data, bytes.size, hooks);
        scbm_bytes_close(&bytes, hooks);
    }
    scbm_release(hooks, path);
    return status == SCBM_ERROR_MEMORY ? status : SCBM_OK;
}

void cbm_hf_card_clear(hf_card *card) {
    for (int i = 0; i < HF_CARD_FIELDS; i++) {
        scbm_release(&card->hooks, card->field[i]);
        card->field[i] = NULL;
    }
}

/* "someone/model": what a repository may be called, and no path. */
static int is_repository(const char *name) {
    int n_slashes = 0;
    for (const char *c = name; *c; c++) {
        int is_letter = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9');
        if (*c == '/') n_slashes++;
        else if (!is_letter && !strchr("-_.", *c)) return 0;
    }
    size_t length = strlen(name);
    return n_slashes == 1 && length < 200 && !strchr("./", name[0]) && name[length - 1] != '/';
}

scbm_status cbm_hf_card_set_repository(hf_card *card, const char *name) {
    char url[256];
    if (card->field[HF_CARD_REPOSITORY] || !is_repository(name)) return SCBM_OK;
    snprintf(url, sizeof url, "https://huggingface.co/%s", name);
    return add_value(card, HF_CARD_REPOSITORY, (span){url, strlen(url)});
}

void cbm_hf_card_write(const hf_card *card, scbm_writer *writer) {
    for (int i = 0; i < HF_CARD_FIELDS; i++)
        if (card->field[i]) scbm_writer_set_string(writer, fields[i].file, card->field[i]);
}

/* In double quotes, without what would end them. */
static void print_value(scbm_output_file *output, const char *key, const char *value) {
    scbm_output_print(output, "%s: \"", key);
    for (; *value; value++)
        if ((unsigned char)*value >= 0x20 && *value != '"' && *value != '\\' && *value != 0x7f)
            scbm_output_write(output, value, 1);
    scbm_output_print(output, "\"\n");
}

scbm_status cbm_hf_card_export(const scbm_file *file, const char *path, const scbm_hooks *hooks) {
    scbm_output_file *output;
    scbm_status status = scbm_output_open(&output, path, hooks);
    if (status) return status;
    scbm_output_print(output, "---\n");
    for (int i = 0; i < HF_CARD_FIELDS; i++) {
        const char *value = scbm_file_string_or(file, fields[i].file, NULL);
        if (value) print_value(output, fields[i].card, value);
    }
    scbm_output_print(output, "library_name: transformers\n---\n\nAn encoder that sparsecbm has exported.\n");
    return scbm_output_commit(output);
}
