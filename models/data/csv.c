/*
 * models/data/csv.c - labelled texts from CSV (RFC 4180)
 */
#include "models/data/reader.h"

#include <csv.h>
#include <stdio.h>
#include <string.h>

/* libcsv drops spaces and tabs around a field unless it is told that there are none: to RFC 4180 they belong to it. */
static int no_character_is_space(unsigned char c) {
    (void)c;
    return 0;
}

static void add_header(cbm_data_reader *r, const char *name, size_t length) {
    char shown[CBM_SHOWN_SIZE];
    if (memchr(name, 0, length)) {
        cbm_data_fail_file(r, "there is a NUL byte in the header: '%s'", cbm_show(shown, name, length));
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

/* Every wanted column must be there, once. */
static void check_header(cbm_data_reader *r) {
    char shown[CBM_SHOWN_SIZE], advice[CBM_ADVICE_SIZE];
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        int n_found = 0;
        if (!r->wanted[w]) continue;
        for (size_t c = 0; c < r->n_columns; c++) {
            if (strcmp(r->header[c], r->wanted[w]) != 0) continue;
            r->column[w] = c;
            n_found++;
        }
        const char *name = cbm_show(shown, r->wanted[w], strlen(r->wanted[w]));
        if (n_found > 1) cbm_data_fail_file(r, "there are %d columns '%s'", n_found, name);
        if (n_found > 0) continue;
        cbm_name_list list = {"", 0, 0};
        for (size_t c = 0; c < r->n_columns; c++) cbm_list_name(&list, r->header[c]);
        cbm_data_fail_file(r, "there is no column '%s'%s; there are %s", name, cbm_data_advise(r, w, advice),
                           list.text);
    }
}

static void take_field(void *field, size_t length, void *user) {
    cbm_data_reader *r = user;
    const char *text = length ? field : "";
    if (r->status) return;
    size_t column = r->field++;
    if (r->row == 0) {
        add_header(r, text, length);
        return;
    }
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        if (r->wanted[w] && r->column[w] == column) cbm_data_set_cell(r, w, text, length);
    }
}

static void take_row(int terminator, void *user) {
    cbm_data_reader *r = user;
    (void)terminator;
    if (r->status) return;
    if (r->row == 0) check_header(r);
    else if (r->field != r->n_columns)
        cbm_data_fail_cell(r, NULL, "there are %zu fields, and %zu columns in the header", r->field, r->n_columns);
    else cbm_data_add_row(r);
    if (r->status) return;
    r->row++;
    r->field = 0;
}

/* libcsv stopped: where, and why. */
static scbm_status fail_csv(cbm_data_reader *r, struct csv_parser *parser, int at_end) {
    char message[160];
    if (r->status) return r->status;
    if (csv_error(parser) != CSV_EPARSE)
        return r->status = scbm_fail(SCBM_ERROR_MEMORY, "%.200s: out of memory", r->path);
    if (at_end) snprintf(message, sizeof message, "a field begins with a quote (\") and does not end");
    else
        snprintf(
            message, sizeof message,
            "a quote (\") in a field that has quotes must be doubled, and a field with a quote in it must have quotes");
    if (r->row == 0) return cbm_data_fail_file(r, "column %zu of the header: %s", r->field + 1, message);
    return cbm_data_fail_cell(r, r->field < r->n_columns ? r->header[r->field] : NULL, "%s", message);
}

static scbm_status parse_csv(cbm_data_reader *r, struct csv_parser *parser, const char *data, size_t size) {
    for (size_t done = 0; done < size && !r->status;) {
        size_t n = size - done < CBM_DATA_CHUNK ? size - done : CBM_DATA_CHUNK;
        if (csv_parse(parser, data + done, n, take_field, take_row, r) != n) return fail_csv(r, parser, 0);
        done += n;
        if (!r->status) cbm_data_report(r, done, size);
    }
    if (!r->status && csv_fini(parser, take_field, take_row, r) != 0) return fail_csv(r, parser, 1);
    return r->status;
}

static void clear_header(cbm_data_reader *r) {
    for (size_t c = 0; c < r->n_columns; c++) scbm_release(r->hooks, r->header[c]);
    r->n_columns = 0;
    r->field = 0;
}

scbm_status cbm_data_read_csv(cbm_data_reader *r, const char *data, size_t size) {
    struct csv_parser
        parser; /* its buffer, as long as the longest field, is malloc's: libcsv's hook has no user pointer */
    r->row_word = "row";
    r->row = 0;
    if (csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI) != 0)
        return r->status = scbm_fail(SCBM_ERROR_MEMORY, "%.200s: out of memory", r->path);
    csv_set_space_func(&parser, no_character_is_space);
    csv_set_blk_size(&parser, size < CBM_DATA_CHUNK ? size + 1 : CBM_DATA_CHUNK);
    parse_csv(r, &parser, data, size);
    csv_free(&parser);
    if (!r->status && r->row == 0) cbm_data_fail_file(r, "the file is empty");
    else if (!r->status && r->row == 1) cbm_data_fail_file(r, "there are no rows after the header");
    clear_header(r);
    return r->status;
}
