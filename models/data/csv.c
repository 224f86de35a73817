/*
 * models/data/csv.c - labelled texts from CSV (RFC 4180), and the same with tabs
 *
 * The parser is given one line of the file after the other, so that it is known where a row began: a bad one that is left
 * out ends with the line that it began in.
 */
#include "models/data/reader.h"

#include <csv.h>
#include <stdio.h>
#include <string.h>

typedef struct csv_reading {
    cbm_data_reader *reader;
    struct csv_parser
        parser; /* its buffer, as long as the longest field, is malloc's: libcsv's hook has no user pointer */
    unsigned char delimiter;
    const char *data;
    size_t size;
    char **header;
    size_t n_columns, header_capacity;
    size_t *column;   /* [n_wanted]: where in the header */
    size_t field;     /* the number of fields of this row so far */
    size_t n_blank;   /* blank lines that are rows if another row follows */
    size_t n_passed;  /* blank lines that are none */
    int after_return; /* the last row ended in \r, of which a \n is part */
    int row_ended;    /* nothing was taken of the next one */
    int has_header;
} csv_reading;

/* libcsv drops spaces and tabs around a field unless it is told that there are none: to RFC 4180 they belong to it. */
static int no_character_is_space(unsigned char c) {
    (void)c;
    return 0;
}

static scbm_status start_parser(csv_reading *c) {
    if (csv_init(&c->parser, CSV_STRICT | CSV_STRICT_FINI | CSV_REPALL_NL) != 0)
        return scbm_fail(SCBM_ERROR_MEMORY, "%.200s: out of memory", c->reader->path);
    csv_set_space_func(&c->parser, no_character_is_space);
    csv_set_delim(&c->parser, c->delimiter);
    csv_set_blk_size(&c->parser, c->size < CBM_DATA_CHUNK ? c->size + 1 : CBM_DATA_CHUNK);
    c->field = 0;
    c->after_return = 0;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The header
 * ---------------------------------------------------------------------------------------- */

static void add_header(csv_reading *c, const char *name, size_t length) {
    cbm_data_reader *r = c->reader;
    char shown[CBM_SHOWN_SIZE];
    if (memchr(name, 0, length)) {
        cbm_data_fail_file(r, "there is a NUL byte in the header: '%s'", cbm_show(shown, name, length));
        return;
    }
    r->status = scbm_grow(r->hooks, (void **)&c->header, &c->header_capacity, c->n_columns + 1, sizeof *c->header);
    if (r->status) return;
    char *copy = scbm_alloc(r->hooks, length + 1);
    if (!copy) {
        r->status = SCBM_ERROR_MEMORY;
        return;
    }
    memcpy(copy, name, length);
    c->header[c->n_columns++] = copy;
}

/* Every wanted column must be there, once. */
static void check_header(csv_reading *c) {
    cbm_data_reader *r = c->reader;
    char shown[CBM_SHOWN_SIZE], advice[CBM_ADVICE_SIZE];
    c->has_header = 1;
    for (int w = 0; w < r->n_wanted && !r->status; w++) {
        int n_found = 0;
        if (!r->wanted[w]) continue;
        for (size_t i = 0; i < c->n_columns; i++) {
            if (strcmp(c->header[i], r->wanted[w]) != 0) continue;
            c->column[w] = i;
            n_found++;
        }
        const char *name = cbm_show_string(shown, r->wanted[w]);
        if (n_found > 1) cbm_data_fail_file(r, "there are %d columns '%s'", n_found, name);
        if (n_found > 0) continue;
        cbm_name_list list = {"", 0, 0};
        for (size_t i = 0; i < c->n_columns; i++) cbm_list_name(&list, c->header[i]);
        cbm_data_fail_file(r, "there is no column '%s'%s; there are %s", name, cbm_data_advise(r, w, advice),
                           list.text);
    }
}

static void clear_header(csv_reading *c) {
    for (size_t i = 0; i < c->n_columns; i++) scbm_release(c->reader->hooks, c->header[i]);
    scbm_release(c->reader->hooks, c->header);
    scbm_release(c->reader->hooks, c->column);
}

/* ------------------------------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------------------------- */

static void set_cells(csv_reading *c, size_t column, const char *text, size_t length) {
    cbm_data_reader *r = c->reader;
    for (int w = 0; w < r->n_wanted && !r->status; w++)
        if (r->wanted[w] && c->column[w] == column) cbm_data_set_cell(r, w, text, length);
}

/* In a file of one column a blank line is a row whose cell is empty, once it is known that it does not end the file. */
static void take_blank_lines(csv_reading *c) {
    cbm_data_reader *r = c->reader;
    for (; c->n_blank && cbm_data_goes_on(r); c->n_blank--) {
        r->row++;
        set_cells(c, 0, "", 0);
        cbm_data_end_row(r);
    }
    c->n_blank = 0;
}

static void take_field(void *field, size_t length, void *user) {
    csv_reading *c = user;
    cbm_data_reader *r = c->reader;
    const char *text = length ? field : "";
    c->after_return = c->row_ended = 0;
    if (!cbm_data_goes_on(r)) return;
    size_t column = c->field++;
    if (!c->has_header) {
        add_header(c, text, length);
        return;
    }
    if (column == 0) {
        take_blank_lines(c);
        if (!cbm_data_goes_on(r)) return;
        r->row++;
    }
    set_cells(c, column, text, length);
}

/* The row whose fields were taken. */
static void end_row(csv_reading *c) {
    cbm_data_reader *r = c->reader;
    if (!c->has_header) {
        check_header(c);
    } else if (!r->is_full) {
        if (!r->status && c->field != c->n_columns)
            cbm_data_fail_cell(r, NULL, "there are %zu fields, and %zu columns in the header", c->field, c->n_columns);
        cbm_data_end_row(r);
    }
    c->field = 0;
}

static void take_row(int terminator, void *user) {
    csv_reading *c = user;
    int is_rest = terminator == '\n' && c->after_return; /* of \r\n */
    c->after_return = terminator == '\r';
    c->row_ended = 1;
    if (c->field) end_row(c);
    else if (!is_rest && c->has_header && c->n_columns == 1) c->n_blank++;
    else if (!is_rest && c->has_header) c->n_passed++;
}

/* Why libcsv stopped. */
static scbm_status fail_csv(csv_reading *c, int at_end) {
    static const char doubled[] =
        "a quote (\") in a field that has quotes must be doubled, and a field with a quote in it must have quotes";
    cbm_data_reader *r = c->reader;
    const char *message = at_end ? "a field begins with a quote (\") and does not end" : doubled;
    if (csv_error(&c->parser) != CSV_EPARSE)
        return r->status = scbm_fail(SCBM_ERROR_MEMORY, "%.200s: out of memory", r->path);
    if (!c->has_header) return cbm_data_fail_file(r, "column %zu of the header: %s", c->field + 1, message);
    if (r->status) return r->status; /* an earlier field of the row */
    if (c->field == 0) {
        take_blank_lines(c);
        r->row++;
    }
    return cbm_data_fail_cell(r, c->field < c->n_columns ? c->header[c->field] : NULL, "%s", message);
}

/* libcsv stopped in a row: it is left out, if that is wanted, and reading can go on with another parser. */
static void leave_row(csv_reading *c, int at_end) {
    cbm_data_reader *r = c->reader;
    if (!cbm_data_goes_on(r) && !r->is_row_bad) return;
    fail_csv(c, at_end);
    cbm_data_end_row(r);
    csv_free(&c->parser);
    scbm_status status = start_parser(c);
    if (!r->status) r->status = status;
}

static size_t line_end(const csv_reading *c, size_t start) {
    const char *end = memchr(c->data + start, '\n', c->size - start);
    return end ? (size_t)(end - c->data) + 1 : c->size;
}

/* Parses the line, and after the last one what is left; whether that went well. */
static int parse_line(csv_reading *c, size_t start, size_t end) {
    c->row_ended = 0;
    if (csv_parse(&c->parser, c->data + start, end - start, take_field, take_row, c) != end - start) {
        leave_row(c, 0);
        return 0;
    }
    if (end < c->size || csv_fini(&c->parser, take_field, take_row, c) == 0) return 1;
    leave_row(c, 1);
    return 0;
}

static void parse_lines(csv_reading *c) {
    cbm_data_reader *r = c->reader;
    size_t after = 0, reported = 0; /* where the line behind the row's first one begins */
    int in_row = 0;
    for (size_t start = 0; start < c->size && (cbm_data_goes_on(r) || r->is_row_bad);) {
        size_t end = line_end(c, start);
        if (!in_row) after = end;
        int went_well = parse_line(c, start, end);
        start = went_well ? end : after;
        in_row = went_well && !c->row_ended;
        if (start < reported + CBM_DATA_CHUNK || !cbm_data_goes_on(r)) continue;
        cbm_data_report(r, start, c->size);
        reported = start;
    }
}

static scbm_status read_separated(cbm_data_reader *r, const char *data, size_t size, unsigned char delimiter) {
    csv_reading c = {.reader = r, .delimiter = delimiter, .data = data, .size = size};
    r->row_word = "row";
    r->row = 0;
    c.column = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *c.column);
    if (!c.column) return r->status = SCBM_ERROR_MEMORY;
    r->status = start_parser(&c);
    if (!r->status) {
        parse_lines(&c);
        csv_free(&c.parser);
    }
    if (!r->status) cbm_data_report(r, size, size);
    if (!r->status && !r->is_full) cbm_data_say_blank(r, c.n_blank + c.n_passed);
    if (!r->status && !c.has_header) cbm_data_fail_file(r, "the file is empty");
    else if (!r->status && r->row == 0) cbm_data_fail_file(r, "there are no rows after the header");
    clear_header(&c);
    return r->status;
}

scbm_status cbm_data_read_csv(cbm_data_reader *r, const char *data, size_t size) {
    return read_separated(r, data, size, CSV_COMMA);
}

scbm_status cbm_data_read_tsv(cbm_data_reader *r, const char *data, size_t size) {
    return read_separated(r, data, size, CSV_TAB);
}
