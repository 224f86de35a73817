/*
 * models/data/dataset.h - labelled texts: from files, from a pipe, from memory, or row by row
 *
 * Nothing is known of any particular data set: columns, concepts and classes come from the options and the data.
 */
#ifndef CBM_DATASET_H
#define CBM_DATASET_H

#include "sparsecbm.h"

#define CBM_MAX_CLASSES 4096 /* of a column, where they are taken from the data */
#define CBM_MAX_BAD_ROWS 20  /* that are listed */

/* An ordered list of classes. */
typedef struct cbm_classes {
    const char **name; /* [n] */
    size_t n;
    int64_t *count; /* [n]: the rows of a data set that have the class; not looked at in classes that are given */
} cbm_classes;

typedef struct cbm_concept_column {
    const char *name;   /* what the model calls the concept */
    const char *column; /* the data's column (CSV) or key (JSON); NULL: it has that name */
} cbm_concept_column;

typedef enum cbm_data_format {
    CBM_DATA_BY_NAME, /* ".tsv" and ".tab", ".jsonl" and ".ndjson", ".json"; all other names: CSV */
    CBM_DATA_CSV,     /* RFC 4180; in a file of one column a blank line is an empty cell, but not at the end */
    CBM_DATA_TSV,     /* the same with tabs for commas */
    CBM_DATA_JSONL,   /* an object a line */
    CBM_DATA_JSON     /* an array of objects; or, where it begins with no "[", as JSONL */
} cbm_data_format;

/* All zeros but `text` and the paths: texts alone, of every row. */
typedef struct cbm_dataset_options {
    const char *const *paths; /* read one after the other; "-" is standard input */
    int n_paths;
    cbm_data_format format; /* of all of them; standard input has no name to go by */
    const char *text;       /* column of the text */
    const char *label;      /* column of the label; NULL: no labels are read */
    const char *id;         /* column of what a row is called elsewhere; NULL: none */
    const cbm_concept_column *concepts;
    int n_concepts;
    const char *const *drop_labels; /* rows with one of these labels are left out; "" is the empty label */
    int n_drop_labels;
    const char *const *ignore_labels; /* rows with one of these have label -1 */
    int n_ignore_labels;
    const char *const *unknown; /* concept values that mean "unknown"; NULL: "", "unknown", "no majority" */
    int n_unknown;
    int unknown_is_missing; /* such values become class -1 (ignored by loss and measures) */
    size_t limit;           /* at most so many rows are kept, and what follows them is not read; 0: all */
    int keep_going;         /* rows with something wrong in them are left out, counted and listed; else the
                                            first is an error */
    /* Known classes, of a model or of the training data: a value outside them is an error. NULL: the
     * classes are taken from the data, CBM_MAX_CLASSES a column at most, sorted (numbers by value where
     * all are numbers, else by bytes), "unknown" last. */
    const cbm_classes *label_classes;
    const cbm_classes *concept_classes; /* [n_concepts] */
    /* What chooses these in the program that asks, for messages: "--text COLUMN"; NULL: nothing is said. */
    const char *text_option, *label_option, *concept_option, *id_option, *format_option;
    uint64_t reserved[8]; /* zeros */
} cbm_dataset_options;

/* A row that was left out. */
typedef struct cbm_bad_row {
    int32_t file;
    size_t row;
    const char *reason; /* one sentence, which names file and row too */
} cbm_bad_row;

/* Rows in the order of the files. The arrays may also be the caller's own, with `store` NULL: a data set is whatever these
 * fields say, and nothing is copied from them. The last four arrays may then be NULL. */
typedef struct cbm_dataset {
    size_t n;               /* rows */
    const char **text;      /* [n], UTF-8, NUL-terminated */
    size_t *text_length;    /* [n], in bytes */
    int32_t *label;         /* [n]: the class's number; -1: none */
    int32_t *concept_class; /* [n, n_concepts]; -1: missing */
    int n_concepts;
    cbm_classes label_classes;       /* none, without labels */
    cbm_classes *concept_classes;    /* [n_concepts] */
    const char **concept_name;       /* [n_concepts] */
    size_t *row;                     /* [n]: the row's number in its file, from 1; of JSON Lines the line's */
    int32_t *file;                   /* [n]: the place of its file among the options' paths */
    const char **id;                 /* [n]; NULL where no column of ids was wanted */
    size_t n_read;                   /* rows that were looked at: n + n_dropped + n_bad */
    size_t n_dropped;                /* by their label */
    size_t n_bad;                    /* left out because something was wrong */
    const cbm_bad_row *bad;          /* the first of these */
    size_t n_listed;                 /* CBM_MAX_BAD_ROWS at most */
    struct cbm_dataset_store *store; /* where all this lies; NULL: the caller's memory */
    uint64_t reserved[8];
} cbm_dataset;

/* Reads files. *data is zeroed first and empty after an error. Errors name file, row (1 is the first row after the header;
 * of JSON Lines, the line) and column; no rows are one, too. The progress hook gets "read" with the bytes of each file. */
scbm_status cbm_dataset_read(cbm_dataset *data, const cbm_dataset_options *options, const scbm_hooks *hooks);
/* The same from one file's bytes; the options' paths are not looked at. `name` stands in messages, and says the format
 * where the options do not. */
scbm_status cbm_dataset_read_memory(cbm_dataset *data, const cbm_dataset_options *options, const char *name,
                                    const void *bytes, size_t size, const scbm_hooks *hooks);
void cbm_dataset_clear(cbm_dataset *data);

/* The same row by row: create, add rows, finish; before that *data has no rows. Of the options paths, format, text and
 * label say nothing here (labels are what is added), and their strings must stay until it is finished. Everything is
 * copied. `label` NULL: none, -1. concepts[n_concepts] are the values; one that is NULL is missing. A row that cannot be
 * added is an error, and the next one can be added after it. */
scbm_status cbm_dataset_create(cbm_dataset *data, const cbm_dataset_options *options, const scbm_hooks *hooks);
scbm_status cbm_dataset_add(cbm_dataset *data, const char *text, size_t length, const char *label,
                            const char *const *concepts);
scbm_status cbm_dataset_finish(cbm_dataset *data); /* after an error *data is empty */

/* The numbers that class names are ("1" to "5" stars); 0: they are not all finite numbers. */
int cbm_class_values(const char *const *names, int n, double *values);

/* Lines of a text file or stream, one text a line: calls `line` for each as it comes, NUL-terminated. `more`: another one
 * has been read already, and comes without waiting. A return other than SCBM_OK stops and is passed on. Lines end in \n or
 * \r\n, the last one perhaps in nothing; they must be UTF-8 without NUL, and a byte order mark is skipped. path "-" is
 * standard input. */
typedef scbm_status (*cbm_line_function)(void *user, const char *text, size_t length, size_t line_number, int more);
scbm_status cbm_read_lines(const char *path, cbm_line_function line, void *user, const scbm_hooks *hooks);

#endif
