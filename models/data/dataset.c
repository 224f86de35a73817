/*
 * models/data/dataset.c - labelled texts from CSV and JSON Lines, and lines of text
 *
 * Both formats fill the wanted cells of one row, as text; add_row makes a text and classes of them. Classes that are
 * taken from the data are numbered as they come and put in order at the end.
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/data/dataset.h"

#include <cjson/cJSON.h>
#include <csv.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <utf8proc.h>

#define UNKNOWN "unknown"
#define MESSAGE_SIZE 400
#define ADVICE_SIZE 80
#define SHOWN_SIZE 160         /* of a name or value in a message */
#define CHUNK ((size_t)1 << 16)
#define JSON_LINES_A_REPORT 256

/* ------------------------------------------------------------------------------------------
 * Classes
 * ---------------------------------------------------------------------------------------- */

int32_t cbm_classes_find(const cbm_classes *classes, const char *name) {
    for (size_t c = 0; c < classes->n; c++) {
        if (strcmp(classes->name[c], name) == 0) return (int32_t)c;
    }
    return -1;
}

scbm_status cbm_classes_add(cbm_classes *classes, const char *name, const scbm_hooks *hooks) {
    scbm_status status = scbm_grow(hooks, (void **)&classes->name, &classes->capacity, classes->n + 1, sizeof *classes->name);
    if (status) return status;
    classes->name[classes->n] = scbm_strdup(hooks, name);
    if (!classes->name[classes->n]) return SCBM_ERROR_MEMORY;
    classes->n++;
    return SCBM_OK;
}

void cbm_classes_clear(cbm_classes *classes, const scbm_hooks *hooks) {
    for (size_t c = 0; c < classes->n; c++) scbm_release(hooks, classes->name[c]);
    scbm_release(hooks, classes->name);
    memset(classes, 0, sizeof *classes);
}

static scbm_status copy_classes(cbm_classes *copy, const cbm_classes *classes, const scbm_hooks *hooks) {
    scbm_status status = SCBM_OK;
    for (size_t c = 0; c < classes->n && !status; c++) status = cbm_classes_add(copy, classes->name[c], hooks);
    return status;
}

typedef struct sorted_class {
    char *name;
    double value;      /* of the number that it is; 0 where not all are numbers */
    int is_unknown;
    int32_t was;
} sorted_class;

static int compare_classes(const void *a, const void *b) {
    const sorted_class *x = a, *y = b;
    if (x->is_unknown != y->is_unknown) return x->is_unknown - y->is_unknown;
    if (x->value < y->value) return -1;
    if (x->value > y->value) return 1;
    return strcmp(x->name, y->name);
}

/* Puts the classes in order (numbers by value if all are numbers, else by bytes; unknown last), and numbers the n
 * values, `stride` apart, accordingly. */
static scbm_status sort_classes(cbm_classes *classes, int32_t *values, size_t n, size_t stride, const scbm_hooks *hooks) {
    sorted_class *order = scbm_alloc_array(hooks, classes->n, sizeof *order);
    int32_t *becomes = scbm_alloc_array(hooks, classes->n, sizeof *becomes);
    int are_numbers = 1;
    if (order && becomes) {
        for (size_t c = 0; c < classes->n; c++) {
            order[c] = (sorted_class){classes->name[c], 0.0, strcmp(classes->name[c], UNKNOWN) == 0, (int32_t)c};
            if (!order[c].is_unknown && scbm_parse_double(order[c].name, strlen(order[c].name), &order[c].value)) are_numbers = 0;
        }
        for (size_t c = 0; c < classes->n && !are_numbers; c++) order[c].value = 0.0;
        qsort(order, classes->n, sizeof *order, compare_classes);
        for (size_t c = 0; c < classes->n; c++) {
            classes->name[c] = order[c].name;
            becomes[order[c].was] = (int32_t)c;
        }
        for (size_t i = 0; i < n; i++) {
            if (values[i * stride] >= 0) values[i * stride] = becomes[values[i * stride]];
        }
    }
    scbm_status status = order && becomes ? SCBM_OK : SCBM_ERROR_MEMORY;
    scbm_release(hooks, order);
    scbm_release(hooks, becomes);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Text in messages and its encoding
 * ---------------------------------------------------------------------------------------- */

/* The place of the first byte that is not UTF-8; `length`: there is none. */
static size_t find_bad_utf8(const char *text, size_t length) {
    size_t i = 0;
    while (i < length) {
        utf8proc_int32_t code;
        if ((unsigned char)text[i] < 0x80) {
            i++;
            continue;
        }
        size_t rest = length - i;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, rest < 4 ? (utf8proc_ssize_t)rest : 4, &code);
        if (n <= 0) return i;
        i += (size_t)n;
    }
    return length;
}

/* `text` for a message, on one line: control characters and what is not UTF-8 as \xNN, a long one cut. */
static const char *show(char shown[SHOWN_SIZE], const char *text, size_t length) {
    size_t used = 0, i = 0;
    while (i < length) {
        utf8proc_int32_t code = -1;
        size_t rest = length - i;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, rest < 4 ? (utf8proc_ssize_t)rest : 4, &code);
        if (used + 8 > SHOWN_SIZE - 1 || i > 60) {
            used += (size_t)snprintf(shown + used, SHOWN_SIZE - used, "…");
            break;
        }
        if (n <= 0 || code < 32 || (code >= 127 && code < 160)) {
            used += (size_t)snprintf(shown + used, SHOWN_SIZE - used, "\\x%02x", (unsigned)(unsigned char)text[i]);
            i++;
        } else {
            memcpy(shown + used, text + i, (size_t)n);
            used += (size_t)n;
            i += (size_t)n;
        }
    }
    shown[used] = 0;
    return shown;
}

/* ------------------------------------------------------------------------------------------
 * Reading: what CSV and JSON Lines share
 * ---------------------------------------------------------------------------------------- */

/* A cell of the row at hand, NUL-terminated. */
typedef struct cell {
    char *text;
    size_t length, capacity;
} cell;

enum { TEXT, LABEL, FIRST_CONCEPT }; /* what the wanted cells are */

typedef struct reader {
    cbm_dataset *data;
    const cbm_dataset_options *options;
    const scbm_hooks *hooks;
    const char *path;
    const char *row_word;    /* "row", or "line" of JSON Lines */
    size_t row;              /* the one at hand, from 1 */
    scbm_status status;      /* the first failure */
    int n_wanted;
    const char **wanted;     /* their columns; the label's is NULL where none is read */
    cell *cells;             /* [n_wanted] */
    /* CSV */
    size_t *column;          /* [n_wanted]: where in the header */
    char **header;
    size_t n_columns, header_capacity;
    size_t field;            /* the number of fields of this row so far */
} reader;

/* Fails with "FILE: message". */
SCBM_PRINTF(2, 3) static scbm_status fail_file(reader *r, const char *format, ...) {
    char message[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return r->status = scbm_fail(SCBM_ERROR_FORMAT, "%.200s: %s", r->path, message);
}

/* Fails with "FILE, row 3, column 'x': message"; column NULL: the row as a whole. */
SCBM_PRINTF(3, 4) static scbm_status fail_cell(reader *r, const char *column, const char *format, ...) {
    char message[MESSAGE_SIZE], name[SHOWN_SIZE], place[SHOWN_SIZE + 16] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (column) snprintf(place, sizeof place, ", column '%s'", show(name, column, strlen(column)));
    return r->status =
               scbm_fail(SCBM_ERROR_FORMAT, "%.200s, %s %zu%s: %s", r->path, r->row_word, r->row, place, message);
}

/* Tells how far reading is; a hook may cancel. */
static scbm_status report(reader *r, size_t done, size_t total) {
    if (!r->hooks || !r->hooks->progress || !r->hooks->progress(r->hooks->user, "read", (int64_t)done, (int64_t)total))
        return SCBM_OK;
    return r->status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled while %s was read", r->path);
}

/* "; there are 'a', 'b'": names that are added one by one, as far as there is room. */
typedef struct name_list {
    char text[MESSAGE_SIZE - 200];
    size_t used;
    int is_full;
} name_list;

static void list_name(name_list *list, const char *text) {
    char shown[SHOWN_SIZE];
    if (list->is_full) return;
    const char *name = show(shown, text, strlen(text));
    list->is_full = list->used + strlen(name) + 12 > sizeof list->text;
    list->used += (size_t)snprintf(list->text + list->used, sizeof list->text - list->used, "%s%s%s%s", list->used ? ", " : "",
                                   list->is_full ? "…" : "'", list->is_full ? "" : name, list->is_full ? "" : "'");
}

static scbm_status set_cell(reader *r, int w, const char *text, size_t length) {
    cell *c = &r->cells[w];
    if (memchr(text, 0, length)) return fail_cell(r, r->wanted[w], "there is a NUL byte");
    size_t bad = find_bad_utf8(text, length);
    if (bad < length)
        return fail_cell(r, r->wanted[w], "byte %zu (0x%02x) is not UTF-8", bad + 1, (unsigned)(unsigned char)text[bad]);
    scbm_status status = scbm_grow(r->hooks, (void **)&c->text, &c->capacity, length + 1, 1);
    if (status) return r->status = status;
    memcpy(c->text, text, length);
    c->text[length] = 0;
    c->length = length;
    return SCBM_OK;
}

/* The class that cell w names: among the known ones, or a new one. */
static scbm_status find_class(reader *r, int w, const char *name, const cbm_classes *known, cbm_classes *classes,
                              int32_t *number) {
    *number = cbm_classes_find(classes, name);
    if (*number >= 0) return SCBM_OK;
    if (known) {
        char shown[SHOWN_SIZE];
        name_list list = {"", 0, 0};
        for (size_t c = 0; c < known->n; c++) list_name(&list, known->name[c]);
        return fail_cell(r, r->wanted[w], "'%s'%s is not one of the known classes: %s",
                         show(shown, r->cells[w].text, r->cells[w].length),
                         strcmp(name, r->cells[w].text) == 0 ? "" : " (" UNKNOWN ")", list.text);
    }
    if (classes->n == CBM_MAX_CLASSES)
        return fail_cell(r, r->wanted[w], "there are more than %d different values: this column holds no classes", CBM_MAX_CLASSES);
    *number = (int32_t)classes->n;
    return r->status = cbm_classes_add(classes, name, r->hooks);
}

static int equal(const char *text, const char *other) {
    return other && strcmp(text, other) == 0;
}

static scbm_status read_label(reader *r, int32_t *label) {
    const cell *c = &r->cells[LABEL];
    *label = -1;
    if (!r->wanted[LABEL] || equal(c->text, r->options->ignore_label)) return SCBM_OK;
    if (c->length == 0) return fail_cell(r, r->wanted[LABEL], "the label is empty; such rows can be dropped or ignored");
    return find_class(r, LABEL, c->text, r->options->label_classes, &r->data->label_classes, label);
}

static int means_unknown(const cbm_dataset_options *options, const char *value) {
    static const char *const usual[] = {"", UNKNOWN, "no majority"};
    const char *const *unknown = options->unknown ? options->unknown : usual;
    int n = options->unknown ? options->n_unknown : (int)(sizeof usual / sizeof usual[0]);
    for (int i = 0; i < n; i++) {
        if (strcmp(value, unknown[i]) == 0) return 1;
    }
    return 0;
}

static scbm_status read_concept(reader *r, int k, int32_t *class_number) {
    int w = FIRST_CONCEPT + k;
    const char *value = r->cells[w].text;
    *class_number = -1;
    if (means_unknown(r->options, value)) {
        if (r->options->unknown_is_missing) return SCBM_OK;
        value = UNKNOWN;
    }
    if (!value[0]) return fail_cell(r, r->wanted[w], "the concept is empty, which is not among the values that mean unknown");
    const cbm_classes *known = r->options->concept_classes ? &r->options->concept_classes[k] : NULL;
    return find_class(r, w, value, known, &r->data->concept_classes[k], class_number);
}

static scbm_status grow_rows(reader *r) {
    cbm_dataset *d = r->data;
    size_t n = d->n + 1, n_concepts = (size_t)d->n_concepts;
    if (n > INT32_MAX) return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.200s: there are more than %d rows", r->path, INT32_MAX);
    scbm_status status = scbm_grow(r->hooks, (void **)&d->text, &d->text_capacity, n, sizeof *d->text);
    if (!status) status = scbm_grow(r->hooks, (void **)&d->text_length, &d->length_capacity, n, sizeof *d->text_length);
    if (!status) status = scbm_grow(r->hooks, (void **)&d->label, &d->label_capacity, n, sizeof *d->label);
    if (!status && n_concepts > SIZE_MAX / n) status = scbm_fail(SCBM_ERROR_MEMORY, "out of memory: %zu rows", n);
    if (!status)
        status = scbm_grow(r->hooks, (void **)&d->concept_class, &d->concept_capacity, n * n_concepts, sizeof *d->concept_class);
    return status;
}

/* Takes over the row whose wanted cells are set. */
static scbm_status add_row(reader *r) {
    cbm_dataset *d = r->data;
    d->n_read++;
    if (r->wanted[LABEL] && equal(r->cells[LABEL].text, r->options->drop_label)) return SCBM_OK;
    r->status = grow_rows(r);
    if (!r->status) read_label(r, &d->label[d->n]);
    for (int k = 0; k < d->n_concepts && !r->status; k++)
        read_concept(r, k, &d->concept_class[d->n * (size_t)d->n_concepts + (size_t)k]);
    if (r->status) return r->status;
    d->text[d->n] = scbm_strdup(r->hooks, r->cells[TEXT].text);
    if (!d->text[d->n]) return r->status = SCBM_ERROR_MEMORY;
    d->text_length[d->n] = r->cells[TEXT].length;
    d->n++;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * CSV
 * ---------------------------------------------------------------------------------------- */

/* libcsv drops spaces and tabs around a field unless it is told that there are none: to RFC 4180 they belong to it. */
static int no_character_is_space(unsigned char c) {
    (void)c;
    return 0;
}

static void add_header(reader *r, const char *name, size_t length) {
    char shown[SHOWN_SIZE];
    if (memchr(name, 0, length)) {
        fail_file(r, "there is a NUL byte in the header: '%s'", show(shown, name, length));
        return;
    }
    r->status = scbm_grow(r->hooks, (void **)&r->header, &r->header_capacity, r->n_columns + 1, sizeof *r->header);
    if (r->status) return;
    char *copy = scbm_alloc(r->hooks, length + 1);
    if (!copy) {
        r->status = SCBM_ERROR_MEMORY;
        return;
    }
    memcpy(copy, name, length);
    r->header[r->n_columns++] = copy;
}

/* " (--text COLUMN chooses another)", of a missing column; "": there is no option. */
static const char *advise(const reader *r, int w, char advice[ADVICE_SIZE]) {
    const cbm_dataset_options *o = r->options;
    const char *option = w == TEXT ? o->text_option : w == LABEL ? o->label_option : o->concept_option;
    advice[0] = 0;
    if (option) snprintf(advice, ADVICE_SIZE, " (%s chooses another)", option);
    return advice;
}

/* Every wanted column must be there, once. */
static void check_header(reader *r) {
    char shown[SHOWN_SIZE], advice[ADVICE_SIZE];
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        int n_found = 0;
        if (!r->wanted[w]) continue;
        for (size_t c = 0; c < r->n_columns; c++) {
            if (strcmp(r->header[c], r->wanted[w]) != 0) continue;
            r->column[w] = c;
            n_found++;
        }
        const char *name = show(shown, r->wanted[w], strlen(r->wanted[w]));
        if (n_found > 1) fail_file(r, "there are %d columns '%s'", n_found, name);
        if (n_found > 0) continue;
        name_list list = {"", 0, 0};
        for (size_t c = 0; c < r->n_columns; c++) list_name(&list, r->header[c]);
        fail_file(r, "there is no column '%s'%s; there are %s", name, advise(r, w, advice), list.text);
    }
}

static void take_field(void *field, size_t length, void *user) {
    reader *r = user;
    const char *text = length ? field : "";
    if (r->status) return;
    size_t column = r->field++;
    if (r->row == 0) {
        add_header(r, text, length);
        return;
    }
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        if (r->wanted[w] && r->column[w] == column) set_cell(r, w, text, length);
    }
}

static void take_row(int terminator, void *user) {
    reader *r = user;
    (void)terminator;
    if (r->status) return;
    if (r->row == 0) check_header(r);
    else if (r->field != r->n_columns)
        fail_cell(r, NULL, "there are %zu fields, and %zu columns in the header", r->field, r->n_columns);
    else add_row(r);
    if (r->status) return;
    r->row++;
    r->field = 0;
}

/* libcsv stopped: where, and why. */
static scbm_status fail_csv(reader *r, struct csv_parser *parser, int at_end) {
    char message[160];
    if (r->status) return r->status;
    if (csv_error(parser) != CSV_EPARSE) return r->status = scbm_fail(SCBM_ERROR_MEMORY, "%.200s: out of memory", r->path);
    if (at_end) snprintf(message, sizeof message, "a field begins with a quote (\") and does not end");
    else snprintf(message, sizeof message, "a quote (\") in a field that has quotes must be doubled, and a field with a quote in it must have quotes");
    if (r->row == 0) return fail_file(r, "column %zu of the header: %s", r->field + 1, message);
    return fail_cell(r, r->field < r->n_columns ? r->header[r->field] : NULL, "%s", message);
}

static scbm_status parse_csv(reader *r, struct csv_parser *parser, const char *data, size_t size) {
    for (size_t done = 0; done < size && !r->status;) {
        size_t n = size - done < CHUNK ? size - done : CHUNK;
        if (csv_parse(parser, data + done, n, take_field, take_row, r) != n) return fail_csv(r, parser, 0);
        done += n;
        if (!r->status) report(r, done, size);
    }
    if (!r->status && csv_fini(parser, take_field, take_row, r) != 0) return fail_csv(r, parser, 1);
    return r->status;
}

static void clear_header(reader *r) {
    for (size_t c = 0; c < r->n_columns; c++) scbm_release(r->hooks, r->header[c]);
    r->n_columns = 0;
    r->field = 0;
}

static scbm_status read_csv(reader *r, const char *data, size_t size) {
    struct csv_parser parser; /* its buffer, as long as the longest field, is malloc's: libcsv's hook has no user pointer */
    r->row_word = "row";
    r->row = 0;
    if (csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI) != 0)
        return r->status = scbm_fail(SCBM_ERROR_MEMORY, "%.200s: out of memory", r->path);
    csv_set_space_func(&parser, no_character_is_space);
    csv_set_blk_size(&parser, size < CHUNK ? size + 1 : CHUNK);
    parse_csv(r, &parser, data, size);
    csv_free(&parser);
    if (!r->status && r->row == 0) fail_file(r, "the file is empty");
    else if (!r->status && r->row == 1) fail_file(r, "there are no rows after the header");
    clear_header(r);
    return r->status;
}

/* ------------------------------------------------------------------------------------------
 * JSON Lines
 * ---------------------------------------------------------------------------------------- */

static const char *json_kind(const cJSON *item) {
    if (cJSON_IsObject(item)) return "an object";
    if (cJSON_IsArray(item)) return "a list";
    if (cJSON_IsString(item)) return "a string";
    if (cJSON_IsNumber(item)) return "a number";
    return cJSON_IsBool(item) ? "true or false" : "null";
}

/* A class may be a number or a truth value, and stands for its text; null is the empty text. cJSON keeps numbers as
 * doubles, so that a long one could become another. */
static scbm_status set_json_cell(reader *r, int w, const cJSON *item) {
    char number[32];
    const char *text = NULL;
    if (cJSON_IsString(item)) text = item->valuestring;
    else if (w != TEXT && cJSON_IsBool(item)) text = cJSON_IsTrue(item) ? "true" : "false";
    else if (w != TEXT && cJSON_IsNull(item)) text = "";
    else if (w != TEXT && cJSON_IsNumber(item)) {
        if (!(item->valuedouble >= -9007199254740992.0 && item->valuedouble <= 9007199254740992.0))
            return fail_cell(r, r->wanted[w], "the number is too large to be kept exactly: write it as a string");
        text = scbm_print_double(item->valuedouble, number);
    }
    if (!text)
        return fail_cell(r, r->wanted[w], "there is %s where %s is wanted", json_kind(item),
                         w == TEXT ? "a string" : "a string, a number, true or false");
    return set_cell(r, w, text, strlen(text));
}

static scbm_status take_object(reader *r, const cJSON *object) {
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        const cJSON *item, *found = NULL;
        if (!r->wanted[w]) continue;
        cJSON_ArrayForEach(item, object) {
            if (strcmp(item->string, r->wanted[w]) != 0) continue;
            if (found) return fail_cell(r, r->wanted[w], "the key is there twice");
            found = item;
        }
        if (found) {
            set_json_cell(r, w, found);
            continue;
        }
        char shown[SHOWN_SIZE], advice[ADVICE_SIZE];
        name_list list = {"", 0, 0};
        cJSON_ArrayForEach(item, object) list_name(&list, item->string);
        return fail_cell(r, NULL, "there is no key '%s'%s; there %s %s",
                         show(shown, r->wanted[w], strlen(r->wanted[w])), advise(r, w, advice),
                         list.used ? "are" : "is", list.used ? list.text : "none");
    }
    return r->status ? r->status : add_row(r);
}

/* cJSON would end a string at \u0000 without a word. */
static int has_escaped_nul(const char *line) {
    for (const char *c = strchr(line, '\\'); c; c = strchr(c, '\\')) {
        if (strncmp(c, "\\u0000", 6) == 0) return 1;
        c += c[1] ? 2 : 1;
    }
    return 0;
}

static scbm_status take_json_line(reader *r, const char *line, size_t length) {
    const char *end = line;
    if (memchr(line, 0, length) || has_escaped_nul(line)) return fail_cell(r, NULL, "there is a NUL byte");
    cJSON *object = cJSON_ParseWithOpts(line, &end, 1);
    if (!object) return fail_cell(r, NULL, "this is not JSON, from byte %zu of the line on", (size_t)(end - line) + 1);
    if (cJSON_IsObject(object)) take_object(r, object);
    else fail_cell(r, NULL, "there is %s where an object is wanted: JSON Lines has one object a line", json_kind(object));
    cJSON_Delete(object);
    return r->status;
}

static int is_blank(const char *line, size_t length) {
    size_t i = 0;
    while (i < length && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r')) i++;
    return i == length;
}

static scbm_status read_jsonl(reader *r, const char *data, size_t size) {
    cell line = {NULL, 0, 0}; /* a copy, NUL-terminated for cJSON */
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
        if (take_json_line(r, line.text, line.length) == SCBM_OK && n_rows % JSON_LINES_A_REPORT == 0) report(r, done, size);
    }
    scbm_release(r->hooks, line.text);
    if (!r->status) report(r, size, size);
    if (!r->status && n_rows == 0) fail_file(r, size ? "there are only blank lines" : "the file is empty");
    return r->status;
}

/* ------------------------------------------------------------------------------------------
 * Data sets
 * ---------------------------------------------------------------------------------------- */

static int ends_in(const char *path, const char *ending) {
    size_t length = strlen(path), n = strlen(ending);
    return length >= n && strcasecmp(path + length - n, ending) == 0;
}

/* One file's content, by the format that its name says. */
static scbm_status read_content(reader *r, const char *data, size_t size) {
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) data += 3, size -= 3;
    if (size >= 2 && (memcmp(data, "\xff\xfe", 2) == 0 || memcmp(data, "\xfe\xff", 2) == 0))
        return fail_file(r, "the file is UTF-16: UTF-8 is wanted");
    if (ends_in(r->path, ".jsonl") || ends_in(r->path, ".json") || ends_in(r->path, ".ndjson")) return read_jsonl(r, data, size);
    return read_csv(r, data, size);
}

static scbm_status read_file(reader *r, const char *path) {
    scbm_bytes bytes;
    r->path = path;
    r->status = scbm_bytes_open(&bytes, path, r->hooks);
    if (r->status) return r->status;
    read_content(r, (const char *)bytes.data, bytes.size);
    scbm_bytes_close(&bytes, r->hooks);
    return r->status;
}

static scbm_status start_reading(reader *r) {
    const cbm_dataset_options *options = r->options;
    cbm_dataset *d = r->data;
    r->n_wanted = FIRST_CONCEPT + options->n_concepts;
    r->wanted = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->wanted);
    r->cells = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->cells);
    d->concept_classes = scbm_alloc_array(r->hooks, (size_t)options->n_concepts, sizeof *d->concept_classes);
    r->column = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->column);
    if (!r->wanted || !r->cells || !r->column || !d->concept_classes) return SCBM_ERROR_MEMORY;
    d->n_concepts = options->n_concepts;
    r->wanted[TEXT] = options->text;
    r->wanted[LABEL] = options->label;
    for (int k = 0; k < options->n_concepts; k++) r->wanted[FIRST_CONCEPT + k] = options->concepts[k].column;
    scbm_status status = SCBM_OK;
    if (options->label_classes) status = copy_classes(&d->label_classes, options->label_classes, r->hooks);
    for (int k = 0; k < options->n_concepts && options->concept_classes && !status; k++)
        status = copy_classes(&d->concept_classes[k], &options->concept_classes[k], r->hooks);
    return status;
}

/* Classes in order, and a data set with rows. */
static scbm_status finish_reading(reader *r) {
    const cbm_dataset_options *options = r->options;
    cbm_dataset *d = r->data;
    char shown[SHOWN_SIZE];
    scbm_status status = SCBM_OK;
    if (d->n == 0)
        return fail_file(r, "no row is left: the label of all %zu is '%s'", d->n_read,
                         show(shown, options->drop_label, strlen(options->drop_label)));
    if (!options->label_classes) status = sort_classes(&d->label_classes, d->label, d->n, 1, r->hooks);
    for (int k = 0; k < d->n_concepts && !options->concept_classes && !status; k++)
        status = sort_classes(&d->concept_classes[k], d->concept_class + k, d->n, (size_t)d->n_concepts, r->hooks);
    return status;
}

static void stop_reading(reader *r) {
    for (int w = 0; w < r->n_wanted && r->cells; w++) scbm_release(r->hooks, r->cells[w].text);
    scbm_release(r->hooks, r->cells);
    scbm_release(r->hooks, r->wanted);
    scbm_release(r->hooks, r->column);
    scbm_release(r->hooks, r->header);
}

/* From the files of the options, or from the bytes of one file `name`. */
static scbm_status read_dataset(cbm_dataset *dataset, const cbm_dataset_options *options, const char *name, const void *data,
                                size_t size, const scbm_hooks *hooks) {
    reader r;
    memset(&r, 0, sizeof r);
    memset(dataset, 0, sizeof *dataset);
    dataset->hooks = hooks;
    r.data = dataset;
    r.options = options;
    r.hooks = hooks;
    r.path = name;
    if (!options->text || (!name && options->n_paths < 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a data set needs a file and the column of its texts");
    scbm_status status = start_reading(&r);
    if (name && !status) status = read_content(&r, data, size);
    for (int i = 0; !name && i < options->n_paths && !status; i++) status = read_file(&r, options->paths[i]);
    if (!status) status = finish_reading(&r);
    stop_reading(&r);
    if (status) cbm_dataset_clear(dataset);
    return status;
}

scbm_status cbm_dataset_read(cbm_dataset *dataset, const cbm_dataset_options *options, const scbm_hooks *hooks) {
    return read_dataset(dataset, options, NULL, NULL, 0, hooks);
}

scbm_status cbm_dataset_read_memory(cbm_dataset *dataset, const cbm_dataset_options *options, const char *name,
                                    const void *data, size_t size, const scbm_hooks *hooks) {
    return read_dataset(dataset, options, name, data, size, hooks);
}

void cbm_dataset_clear(cbm_dataset *dataset) {
    const scbm_hooks *hooks = dataset->hooks;
    for (size_t i = 0; i < dataset->n; i++) scbm_release(hooks, dataset->text[i]);
    scbm_release(hooks, dataset->text);
    scbm_release(hooks, dataset->text_length);
    scbm_release(hooks, dataset->label);
    scbm_release(hooks, dataset->concept_class);
    cbm_classes_clear(&dataset->label_classes, hooks);
    for (int k = 0; k < dataset->n_concepts; k++) cbm_classes_clear(&dataset->concept_classes[k], hooks);
    scbm_release(hooks, dataset->concept_classes);
    memset(dataset, 0, sizeof *dataset);
}

/* ------------------------------------------------------------------------------------------
 * Lines
 * ---------------------------------------------------------------------------------------- */

typedef struct line_reader {
    const char *name;            /* in messages */
    int descriptor;
    char *buffer;                /* what was read and not handed over yet, from `start` on */
    size_t start, used, capacity;
    size_t line_number;
    cbm_line_function line;
    void *user;
    const scbm_hooks *hooks;
} line_reader;

/* Hands over one line, without its line feed. The byte after it belongs to the buffer. */
static scbm_status hand_over(line_reader *r, char *text, size_t length) {
    size_t number = ++r->line_number;
    if (number == 1 && length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, length -= 3;
    if (length && text[length - 1] == '\r') length--;
    if (memchr(text, 0, length)) return scbm_fail(SCBM_ERROR_FORMAT, "%.200s, line %zu: there is a NUL byte", r->name, number);
    size_t bad = find_bad_utf8(text, length);
    if (bad < length)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.200s, line %zu: byte %zu (0x%02x) is not UTF-8", r->name, number, bad + 1,
                         (unsigned)(unsigned char)text[bad]);
    text[length] = 0;
    return r->line(r->user, text, length, number);
}

/* Hands over the whole lines among the last n bytes that were read, and what was there before them. */
static scbm_status hand_over_lines(line_reader *r, size_t n) {
    size_t looked_at = r->used - n;
    for (;;) {
        char *end = memchr(r->buffer + looked_at, '\n', r->used - looked_at);
        if (!end) return SCBM_OK;
        char *text = r->buffer + r->start;
        looked_at = r->start = (size_t)(end - r->buffer) + 1;
        scbm_status status = hand_over(r, text, (size_t)(end - text));
        if (status) return status;
    }
}

/* Room for more, with one byte to spare for a NUL. */
static scbm_status make_room(line_reader *r) {
    if (r->start) {
        memmove(r->buffer, r->buffer + r->start, r->used - r->start);
        r->used -= r->start;
        r->start = 0;
    }
    return scbm_grow(r->hooks, (void **)&r->buffer, &r->capacity, r->used + CHUNK + 1, 1);
}

static scbm_status read_lines(line_reader *r) {
    for (;;) {
        scbm_status status = make_room(r);
        if (status) return status;
        ssize_t n = read(r->descriptor, r->buffer + r->used, r->capacity - r->used - 1);
        if (n == 0) return r->used > r->start ? hand_over(r, r->buffer + r->start, r->used - r->start) : SCBM_OK;
        if (n < 0 && errno != EINTR)
            return scbm_fail(SCBM_ERROR_IO, "%.200s: cannot be read: %s", r->name, strerror(errno));
        if (r->hooks && r->hooks->progress && r->hooks->progress(r->hooks->user, "read", (int64_t)r->line_number, (int64_t)r->line_number))
            return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %zu lines", r->line_number);
        if (n < 0) continue;
        r->used += (size_t)n;
        status = hand_over_lines(r, (size_t)n);
        if (status) return status;
    }
}

scbm_status cbm_read_lines(const char *path, cbm_line_function line, void *user, const scbm_hooks *hooks) {
    line_reader r;
    memset(&r, 0, sizeof r);
    int is_stdin = strcmp(path, "-") == 0;
    r.name = is_stdin ? "standard input" : path;
    r.line = line;
    r.user = user;
    r.hooks = hooks;
    r.descriptor = STDIN_FILENO;
    if (!is_stdin) {
        do r.descriptor = open(path, O_RDONLY | O_CLOEXEC);
        while (r.descriptor < 0 && errno == EINTR);
    }
    if (r.descriptor < 0) return scbm_fail(SCBM_ERROR_IO, "%.200s: cannot be opened: %s", path, strerror(errno));
    scbm_status status = read_lines(&r);
    if (!is_stdin) close(r.descriptor);
    scbm_release(hooks, r.buffer);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Comparing with a model's names
 * ---------------------------------------------------------------------------------------- */

/* `wanted` names and the data's must be the same. */
static scbm_status check_names(const char *what, const char *name, const char *const *wanted, int n,
                               const cbm_classes *classes) {
    if (classes->n != (size_t)n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: %s has %zu classes, and the model %d", what, name, classes->n, n);
    for (int i = 0; i < n; i++)
        if (strcmp(wanted[i], classes->name[i]) != 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: class %d of %s is '%s', and the model's '%s'", what, i, name,
                             classes->name[i], wanted[i]);
    return SCBM_OK;
}

scbm_status cbm_dataset_check_names(const cbm_dataset *data, const cbm_names *names, const char *what) {
    scbm_status status = SCBM_OK;
    if (data->label_classes.n) status = check_names(what, "the label", names->label_name, names->n_labels, &data->label_classes);
    if (status || names->n_concepts < 0) return status;
    if (data->n_concepts != names->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there are %d concepts, and the model has %d", what, data->n_concepts,
                         names->n_concepts);
    for (int k = 0; k < names->n_concepts && !status; k++)
        status = check_names(what, names->concept_name[k], names->class_name + names->groups[k],
                             names->groups[k + 1] - names->groups[k], &data->concept_classes[k]);
    return status;
}
