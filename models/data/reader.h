/*
 * models/data/reader.h - what the readers of CSV and JSON Lines share: the row at hand, and messages that name its place
 *
 * A format fills the wanted cells of one row, as text; cbm_data_add_row makes a text and classes of them.
 */
#ifndef CBM_DATA_READER_H
#define CBM_DATA_READER_H

#include "models/base/text.h"
#include "models/data/dataset.h"

#define CBM_ADVICE_SIZE 80
#define CBM_DATA_CHUNK ((size_t)1 << 16) /* bytes that are read at a time */

/* A cell of the row at hand, NUL-terminated. */
typedef struct cbm_data_cell {
    char *text;
    size_t length, capacity;
} cbm_data_cell;

enum { CBM_CELL_TEXT, CBM_CELL_LABEL, CBM_CELL_CONCEPTS }; /* what the wanted cells are */

typedef struct cbm_data_reader {
    cbm_dataset *data;
    const cbm_dataset_options *options;
    const scbm_hooks *hooks;
    const char *path;
    const char *row_word; /* "row", or "line" of JSON Lines */
    size_t row;           /* the one at hand, from 1 */
    scbm_status status;   /* the first failure */
    int n_wanted;
    const char **wanted;  /* their columns; the label's is NULL where none is read */
    cbm_data_cell *cells; /* [n_wanted] */
    /* CSV */
    size_t *column; /* [n_wanted]: where in the header */
    char **header;
    size_t n_columns, header_capacity;
    size_t field; /* the number of fields of this row so far */
} cbm_data_reader;

/* Fails with "FILE: message". */
scbm_status cbm_data_fail_file(cbm_data_reader *r, const char *format, ...) SCBM_PRINTF(2, 3);
/* Fails with "FILE, row 3, column 'x': message"; column NULL: the row as a whole. */
scbm_status cbm_data_fail_cell(cbm_data_reader *r, const char *column, const char *format, ...) SCBM_PRINTF(3, 4);
/* Tells how far reading is; a hook may cancel. */
scbm_status cbm_data_report(cbm_data_reader *r, size_t done, size_t total);
scbm_status cbm_data_set_cell(cbm_data_reader *r, int w, const char *text, size_t length);
/* Takes over the row whose wanted cells are set. */
scbm_status cbm_data_add_row(cbm_data_reader *r);
/* " (--text COLUMN chooses another)", of a missing column; "": there is no option. */
const char *cbm_data_advise(const cbm_data_reader *r, int w, char advice[CBM_ADVICE_SIZE]);

/* "; there are 'a', 'b'": names that are added one by one, as far as there is room. */
typedef struct cbm_name_list {
    char text[200];
    size_t used;
    int is_full;
} cbm_name_list;

void cbm_list_name(cbm_name_list *list, const char *text);

/* The formats: one file's content. */
scbm_status cbm_data_read_csv(cbm_data_reader *r, const char *data, size_t size);
scbm_status cbm_data_read_jsonl(cbm_data_reader *r, const char *data, size_t size);

#endif
