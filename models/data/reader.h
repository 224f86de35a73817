/*
 * models/data/reader.h - a data set in the making: the row at hand, what is kept of it, and messages that name its place
 *
 * A format fills the wanted cells of one row, as text, and ends the row; cbm_data_end_row makes a text and classes of them,
 * or leaves a bad row out. A new format is one function here and one line in dataset.c's table.
 */
#ifndef CBM_DATA_READER_H
#define CBM_DATA_READER_H

#include "models/base/text.h"
#include "models/data/classes.h"

#define CBM_ADVICE_SIZE 80
#define CBM_DATA_CHUNK ((size_t)1 << 16) /* bytes that are read at a time, or parsed from one report to the next */

/* A cell of the row at hand, NUL-terminated. */
typedef struct cbm_data_cell {
    char *text;
    size_t length, capacity;
    int is_missing; /* nothing was given: no class */
    char *key;      /* of its spelling, once it was asked for */
    size_t key_capacity;
    int has_key;
} cbm_data_cell;

enum { CBM_CELL_TEXT, CBM_CELL_LABEL, CBM_CELL_ID, CBM_CELL_CONCEPTS }; /* what the wanted cells are */

/* Values that are no classes: rows with them are dropped, they are ignored, or mean unknown. */
typedef struct cbm_special_values {
    const char *const *value;
    int n;
    const char **key; /* [n], of their spellings */
} cbm_special_values;

typedef struct cbm_data_reader {
    struct cbm_dataset_store *store;
    cbm_dataset *data; /* the store's */
    cbm_dataset_options options;
    const scbm_hooks *hooks; /* the store's */
    const char *path;
    const char *row_word; /* "row", or "line" of JSON Lines */
    size_t row;           /* the one at hand, from 1 */
    int32_t file;
    scbm_status status; /* the first failure */
    int is_row_bad;     /* it concerns the row at hand alone */
    int is_full;        /* there are as many rows as are wanted */
    int n_wanted;
    const char **wanted;  /* their columns; NULL for a cell that is not wanted */
    cbm_data_cell *cells; /* [n_wanted] */
    cbm_special_values dropped, ignored, unknown;
    cbm_class_table *known_keys; /* [1 + n_concepts]: of the known classes' spellings */
    char *key;                   /* room for one */
    size_t key_capacity;
    int counts_unseen;          /* values that are not known are an error at the end, which counts them */
    int leaves_row;             /* the row at hand is left out for such a value */
    char unseen[400];           /* the first of these errors */
    int waits;                  /* for the next row, which has not been read yet */
    cbm_text_row_function take; /* takes rows that are not kept; NULL: they are */
    void *take_user;
} cbm_data_reader;

/* Fails with "FILE: message". */
scbm_status cbm_data_fail_file(cbm_data_reader *r, const char *format, ...) SCBM_PRINTF(2, 3);
/* Fails with "FILE, row 3, column 'x': message", and so does the row; column NULL: the row as a whole. */
scbm_status cbm_data_fail_cell(cbm_data_reader *r, const char *column, const char *format, ...) SCBM_PRINTF(3, 4);
/* Tells how far reading is; a hook may cancel. */
scbm_status cbm_data_report(cbm_data_reader *r, size_t done, size_t total);
/* Logs how many blank lines of the file are no rows; 0: nothing. */
void cbm_data_say_blank(const cbm_data_reader *r, size_t n);
/* Whether the next row is wanted. */
int cbm_data_goes_on(const cbm_data_reader *r);
scbm_status cbm_data_set_cell(cbm_data_reader *r, int w, const char *text, size_t length);
/* Takes over the row whose wanted cells are set; or, where something is wrong with it, leaves it out, if that is wanted. */
scbm_status cbm_data_end_row(cbm_data_reader *r);
/* " (--text COLUMN chooses another)", of a missing column; "": there is no option. */
const char *cbm_data_advise(const cbm_data_reader *r, int w, char advice[CBM_ADVICE_SIZE]);

/* ------------------------------------------------------------------------------------------
 * What values are (values.c)
 * ---------------------------------------------------------------------------------------- */

/* Keys of special values and of known classes. With merging, two of one key are an error. */
scbm_status cbm_data_start_values(cbm_data_reader *r);
void cbm_data_clear_values(cbm_data_reader *r);
/* Whether the row at hand has a label that is dropped. */
scbm_status cbm_data_is_dropped(cbm_data_reader *r, int *is_dropped);
/* The class that a cell of the row at hand names; -1: none. Sets leaves_row where the row is left out for it. */
scbm_status cbm_data_read_label(cbm_data_reader *r, int32_t *label);
scbm_status cbm_data_read_concept(cbm_data_reader *r, int k, int32_t *class_number);
/* Classes that were taken from the data and counted: finds those that are one class, and merges them if that is wanted. */
scbm_status cbm_data_settle_twins(cbm_data_reader *r, int column, int32_t *values, size_t stride);

/* "; there are 'a', 'b'": names that are added one by one, as far as there is room. */
typedef struct cbm_name_list {
    char text[200];
    size_t used;
    int is_full;
} cbm_name_list;

void cbm_list_name(cbm_name_list *list, const char *text);

/* The formats: one file's content. */
scbm_status cbm_data_read_csv(cbm_data_reader *r, const char *data, size_t size);
scbm_status cbm_data_read_tsv(cbm_data_reader *r, const char *data, size_t size);
scbm_status cbm_data_read_jsonl(cbm_data_reader *r, const char *data, size_t size);
scbm_status cbm_data_read_json(cbm_data_reader *r, const char *data, size_t size);
/* JSON Lines of standard input as they come. */
scbm_status cbm_data_stream_jsonl(cbm_data_reader *r);

/* ------------------------------------------------------------------------------------------
 * Where a data set lies (rows.c)
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_dataset_store {
    scbm_hooks hooks;
    cbm_dataset data;              /* as it is handed out, whatever becomes of that copy */
    struct cbm_data_block *blocks; /* the strings */
    cbm_class_table *table;        /* [1 + n_concepts]: of the label, and of the concepts */
    int n_tables;
    cbm_bad_row *bad;
    cbm_odd_value *odd;
    size_t odd_capacity;
    size_t text_capacity, length_capacity, label_capacity, concept_capacity, row_capacity, file_capacity, id_capacity,
        bad_capacity;
    cbm_data_reader *reader; /* until it is finished */
} cbm_dataset_store;

/* A copy of text[0 … length) that lasts as long as the store; NULL: out of memory. */
const char *cbm_store_text(cbm_dataset_store *store, const char *text, size_t length);
void cbm_store_free(cbm_dataset_store *store);
void cbm_data_reader_free(cbm_data_reader *r);

#endif
