/*
 * models/data/jsonl.c - labelled texts from JSON: an object a line, or an array of objects
 */
#include "models/data/reader.h"

#include <cjson/cJSON.h>
#include <string.h>

#define ROWS_A_REPORT 256

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

static scbm_status fail_missing(cbm_data_reader *r, int w, const cJSON *object) {
    char shown[CBM_SHOWN_SIZE], advice[CBM_ADVICE_SIZE];
    const cJSON *item;
    cbm_name_list list = {"", 0, 0};
    cJSON_ArrayForEach(item, object) cbm_list_name(&list, item->string);
    return cbm_data_fail_cell(r, NULL, "there is no key '%s'%s; there %s %s", cbm_show_string(shown, r->wanted[w]),
                              cbm_data_advise(r, w, advice), list.used ? "are" : "is", list.used ? list.text : "none");
}

static void take_object(cbm_data_reader *r, const cJSON *object) {
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        const cJSON *item, *found = NULL;
        if (!r->wanted[w]) continue;
        cJSON_ArrayForEach(item, object) {
            if (strcmp(item->string, r->wanted[w]) != 0) continue;
            if (found) {
                cbm_data_fail_cell(r, r->wanted[w], "the key is there twice");
                return;
            }
            found = item;
        }
        if (found) set_json_cell(r, w, found);
        else fail_missing(r, w, object);
    }
}

/* cJSON would end a string at \u0000, or at a NUL, without a word. */
static int has_nul(const char *text, size_t length) {
    const char *end = text + length, *c = text;
    if (memchr(text, 0, length)) return 1;
    while ((c = memchr(c, '\\', (size_t)(end - c))) != NULL) {
        if (end - c >= 6 && memcmp(c, "\\u0000", 6) == 0) return 1;
        c += end - c > 1 ? 2 : 1;
    }
    return 0;
}

/* The row that `object` is, which stands in text[0 … length). */
static scbm_status take_value(cbm_data_reader *r, const cJSON *object, const char *text, size_t length,
                              const char *where) {
    if (has_nul(text, length)) cbm_data_fail_cell(r, NULL, "there is a NUL byte");
    else if (cJSON_IsObject(object)) take_object(r, object);
    else cbm_data_fail_cell(r, NULL, "there is %s where an object is wanted: %s", json_kind(object), where);
    return cbm_data_end_row(r);
}

static scbm_status end_file(cbm_data_reader *r, size_t n_rows, size_t size, const char *empty) {
    if (!r->status) cbm_data_report(r, size, size);
    if (!r->status && n_rows == 0) cbm_data_fail_file(r, "%s", size ? empty : "the file is empty");
    return r->status;
}

/* ------------------------------------------------------------------------------------------
 * Lines
 * ---------------------------------------------------------------------------------------- */

static scbm_status take_line(cbm_data_reader *r, const char *line, size_t length) {
    const char *end = line;
    cJSON *object = cJSON_ParseWithLengthOpts(line, length + 1, &end, 1);
    if (object || has_nul(line, length)) {
        take_value(r, object, line, length, "JSON Lines has one object a line");
    } else {
        cbm_data_fail_cell(r, NULL, "this is not JSON, from byte %zu of the line on", (size_t)(end - line) + 1);
        cbm_data_end_row(r);
    }
    cJSON_Delete(object);
    return r->status;
}

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Where what is no white space begins; `size`: nowhere. */
static size_t skip_space(const char *data, size_t at, size_t size) {
    while (at < size && is_space(data[at])) at++;
    return at;
}

scbm_status cbm_data_read_jsonl(cbm_data_reader *r, const char *data, size_t size) {
    cbm_data_cell line = {.text = NULL}; /* a copy, NUL-terminated for cJSON */
    size_t n_rows = 0, done = 0, n_blank = 0;
    r->row_word = "line";
    for (r->row = 1; done < size && cbm_data_goes_on(r); r->row++) {
        const char *start = data + done, *end = memchr(start, '\n', size - done);
        line.length = end ? (size_t)(end - start) : size - done;
        done += line.length + (end != NULL);
        if (skip_space(start, 0, line.length) == line.length) {
            n_blank++;
            continue;
        }
        r->status = scbm_grow(r->hooks, (void **)&line.text, &line.capacity, line.length + 1, 1);
        if (r->status) break;
        memcpy(line.text, start, line.length);
        line.text[line.length] = 0;
        if (take_line(r, line.text, line.length) == SCBM_OK && ++n_rows % ROWS_A_REPORT == 0)
            cbm_data_report(r, done, size);
    }
    scbm_release(r->hooks, line.text);
    if (!r->status && n_rows) cbm_data_say_blank(r, n_blank);
    return end_file(r, n_rows, size, "there are only blank lines");
}

/* A stream's reader has looked at the line's bytes. */
static scbm_status take_stream_line(void *user, const char *text, size_t length, size_t number, int more) {
    cbm_data_reader *r = user;
    r->row = number;
    r->waits = !more;
    if (skip_space(text, 0, length) < length) take_line(r, text, length);
    return r->is_full && !r->status ? SCBM_ERROR_CANCELLED : r->status; /* or it would wait for what nobody wants */
}

static scbm_status take_bad_stream_line(void *user, const char *reason, size_t number) {
    cbm_data_reader *r = user;
    r->row = number;
    r->waits = 1;
    r->is_row_bad = 1;
    r->status = scbm_fail(SCBM_ERROR_FORMAT, "%s", reason);
    return cbm_data_end_row(r);
}

scbm_status cbm_data_stream_jsonl(cbm_data_reader *r) {
    r->row_word = "line";
    scbm_status status = cbm_read_lines("-", take_stream_line, take_bad_stream_line, r, r->hooks);
    if (!r->status && !r->is_full) r->status = status;
    return r->status;
}

/* ------------------------------------------------------------------------------------------
 * An array. What is wrong with its form is wrong with the file: nobody knows where the next row begins.
 * ---------------------------------------------------------------------------------------- */

static scbm_status fail_array(cbm_data_reader *r, size_t at, const char *what) {
    return cbm_data_fail_file(r, "%s after row %zu, at byte %zu of the file", what, r->row, at + 1);
}

/* The value at `at`; returns where it ends. */
static size_t take_element(cbm_data_reader *r, const char *data, size_t at, size_t size) {
    const char *end = data + at;
    r->row++;
    cJSON *object = cJSON_ParseWithLengthOpts(data + at, size - at, &end, 0);
    size_t length = (size_t)(end - (data + at));
    if (object) {
        take_value(r, object, data + at, length, "the array holds one object a row");
    } else {
        r->row--;
        fail_array(r, at + length, "this is not JSON");
    }
    cJSON_Delete(object);
    return at + length;
}

/* data[at] is the bracket. */
static scbm_status read_array(cbm_data_reader *r, const char *data, size_t at, size_t size) {
    int is_open = 1;
    r->row_word = "row";
    r->row = 0;
    at = skip_space(data, at + 1, size);
    if (at < size && data[at] == ']') is_open = 0, at++;
    while (is_open && cbm_data_goes_on(r)) {
        at = skip_space(data, take_element(r, data, at, size), size);
        if (!cbm_data_goes_on(r)) break;
        if (at == size || (data[at] != ',' && data[at] != ']')) {
            fail_array(r, at, at == size ? "the array does not end" : "there is neither , nor ]");
        } else {
            is_open = data[at] == ',';
            at = skip_space(data, at + 1, size);
        }
        if (!r->status && r->row % ROWS_A_REPORT == 0) cbm_data_report(r, at, size);
    }
    at = skip_space(data, at, size);
    if (cbm_data_goes_on(r) && at < size) fail_array(r, at, "there is something more");
    return end_file(r, r->row, size, "the array is empty");
}

scbm_status cbm_data_read_json(cbm_data_reader *r, const char *data, size_t size) {
    size_t at = skip_space(data, 0, size);
    return at < size && data[at] == '[' ? read_array(r, data, at, size) : cbm_data_read_jsonl(r, data, size);
}
