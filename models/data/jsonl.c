/*
 * models/data/jsonl.c - labelled texts from JSON Lines
 */
#include "models/data/reader.h"

#include <cjson/cJSON.h>
#include <string.h>

#define JSON_LINES_A_REPORT 256

static const char *json_kind(const cJSON *item) {
    if (cJSON_IsObject(item)) return "an object";
    if (cJSON_IsArray(item)) return "a list";
    if (cJSON_IsString(item)) return "a string";
    if (cJSON_IsNumber(item)) return "a number";
    return cJSON_IsBool(item) ? "true or false" : "null";
}

/* A class may be a number or a truth value, and stands for its text; null is the empty text. cJSON keeps numbers as
 * doubles, so that a long one could become another. */
static scbm_status set_json_cell(cbm_data_reader *r, int w, const cJSON *item) {
    char number[32];
    const char *text = NULL;
    if (cJSON_IsString(item)) text = item->valuestring;
    else if (w != CBM_CELL_TEXT && cJSON_IsBool(item)) text = cJSON_IsTrue(item) ? "true" : "false";
    else if (w != CBM_CELL_TEXT && cJSON_IsNull(item)) text = "";
    else if (w != CBM_CELL_TEXT && cJSON_IsNumber(item)) {
        if (!(item->valuedouble >= -9007199254740992.0 && item->valuedouble <= 9007199254740992.0))
            return cbm_data_fail_cell(r, r->wanted[w],
                                      "the number is too large to be kept exactly: write it as a string");
        text = scbm_print_double(item->valuedouble, number);
    }
    if (!text)
        return cbm_data_fail_cell(r, r->wanted[w], "there is %s where %s is wanted", json_kind(item),
                                  w == CBM_CELL_TEXT ? "a string" : "a string, a number, true or false");
    return cbm_data_set_cell(r, w, text, strlen(text));
}

static scbm_status take_object(cbm_data_reader *r, const cJSON *object) {
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        const cJSON *item, *found = NULL;
        if (!r->wanted[w]) continue;
        cJSON_ArrayForEach(item, object) {
            if (strcmp(item->string, r->wanted[w]) != 0) continue;
            if (found) return cbm_data_fail_cell(r, r->wanted[w], "the key is there twice");
            found = item;
        }
        if (found) {
            set_json_cell(r, w, found);
            continue;
        }
        char shown[CBM_SHOWN_SIZE], advice[CBM_ADVICE_SIZE];
        cbm_name_list list = {"", 0, 0};
        cJSON_ArrayForEach(item, object) cbm_list_name(&list, item->string);
        return cbm_data_fail_cell(r, NULL, "there is no key '%s'%s; there %s %s",
                                  cbm_show(shown, r->wanted[w], strlen(r->wanted[w])), cbm_data_advise(r, w, advice),
                                  list.used ? "are" : "is", list.used ? list.text : "none");
    }
    return r->status ? r->status : cbm_data_add_row(r);
}

/* cJSON would end a string at \u0000 without a word. */
static int has_escaped_nul(const char *line) {
    for (const char *c = strchr(line, '\\'); c; c = strchr(c, '\\')) {
        if (strncmp(c, "\\u0000", 6) == 0) return 1;
        c += c[1] ? 2 : 1;
    }
    return 0;
}

static scbm_status take_json_line(cbm_data_reader *r, const char *line, size_t length) {
    const char *end = line;
    if (memchr(line, 0, length) || has_escaped_nul(line)) return cbm_data_fail_cell(r, NULL, "there is a NUL byte");
    cJSON *object = cJSON_ParseWithOpts(line, &end, 1);
    if (!object)
        return cbm_data_fail_cell(r, NULL, "this is not JSON, from byte %zu of the line on", (size_t)(end - line) + 1);
    if (cJSON_IsObject(object)) take_object(r, object);
    else
        cbm_data_fail_cell(r, NULL, "there is %s where an object is wanted: JSON Lines has one object a line",
                           json_kind(object));
    cJSON_Delete(object);
    return r->status;
}

static int is_blank(const char *line, size_t length) {
    size_t i = 0;
    while (i < length && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r')) i++;
    return i == length;
}

scbm_status cbm_data_read_jsonl(cbm_data_reader *r, const char *data, size_t size) {
    cbm_data_cell line = {NULL, 0, 0}; /* a copy, NUL-terminated for cJSON */
    size_t n_rows = 0, done = 0;
    r->row_word = "line";
    for (r->row = 1; done < size && !r->status; r->row++) {
        const char *start = data + done, *end = memchr(start, '\n', size - done);
        line.length = end ? (size_t)(end - start) : size - done;
        done += line.length + (end != NULL);
        if (is_blank(start, line.length)) continue;
        r->status = scbm_grow(r->hooks, (void **)&line.text, &line.capacity, line.length + 1, 1);
        if (r->status) break;
        memcpy(line.text, start, line.length);
        line.text[line.length] = 0;
        n_rows++;
        if (take_json_line(r, line.text, line.length) == SCBM_OK && n_rows % JSON_LINES_A_REPORT == 0)
            cbm_data_report(r, done, size);
    }
    scbm_release(r->hooks, line.text);
    if (!r->status) cbm_data_report(r, size, size);
    if (!r->status && n_rows == 0) cbm_data_fail_file(r, size ? "there are only blank lines" : "the file is empty");
    return r->status;
}
