/*
 * models/data/dataset.h - labelled texts from CSV (RFC 4180) and JSON Lines
 *
 * Nothing is known of any particular data set: columns, concepts and classes come from the options and the data.
 */
#ifndef CBM_DATASET_H
#define CBM_DATASET_H

#include "models/base/names.h"

#define CBM_MAX_CLASSES 4096

/* An ordered list of class names. */
typedef struct cbm_classes {
    char **name;
    size_t n, capacity;
} cbm_classes;

typedef struct cbm_concept_column {
    const char *name;   /* what the model calls the concept */
    const char *column; /* the data's column (CSV) or key (JSON) */
} cbm_concept_column;

typedef struct cbm_dataset_options {
    const char *const *paths; /* ".jsonl", ".ndjson" and ".json": JSON Lines; all others: CSV; concatenated */
    int n_paths;
    const char *text;  /* column of the text */
    const char *label; /* column of the label; NULL: no labels are read */
    const cbm_concept_column *concepts;
    int n_concepts;
    const char *drop_label;     /* rows with this label are left out; NULL: none */
    const char *ignore_label;   /* rows with this label have label -1; NULL: none */
    const char *const *unknown; /* concept values that mean "unknown"; NULL: "", "unknown", "no majority" */
    int n_unknown;
    int unknown_is_missing; /* such values become class -1 (ignored by loss and metrics) */
    /* Known classes, of a model or of the training data: a value outside them is an error. NULL: the
     * classes are taken from the data, CBM_MAX_CLASSES a column at most, sorted (numbers by value where
     * all are numbers, else by bytes), "unknown" last. */
    const cbm_classes *label_classes;
    const cbm_classes *concept_classes; /* [n_concepts] */
    /* What chooses these columns, for the message that one is missing: "--text COLUMN"; NULL: nothing is said. */
    const char *text_option, *label_option, *concept_option;
} cbm_dataset_options;

typedef struct cbm_dataset {
    size_t n;      /* rows kept */
    size_t n_read; /* rows in the files */
    char **text;   /* UTF-8, NUL-terminated */
    size_t *text_length;
    int32_t *label;         /* [n], -1: none */
    int32_t *concept_class; /* [n, n_concepts], -1: missing */
    int n_concepts;
    cbm_classes label_classes;
    cbm_classes *concept_classes; /* [n_concepts] */
    const scbm_hooks *hooks;
    size_t text_capacity, length_capacity, label_capacity, concept_capacity;
} cbm_dataset;

/* Reads everything; *dataset is zeroed first and freed on error. Errors name file, row (1 is the first
 * row after the header; of JSON Lines, the line) and column. No rows are an error, a file without any
 * too. hooks may be NULL and must outlive the data set. */
scbm_status cbm_dataset_read(cbm_dataset *dataset, const cbm_dataset_options *options, const scbm_hooks *hooks);
/* The same from one file's bytes; options->paths is not looked at. `name` stands in messages and says the format. */
scbm_status cbm_dataset_read_memory(cbm_dataset *dataset, const cbm_dataset_options *options, const char *name,
                                    const void *data, size_t size, const scbm_hooks *hooks);
void cbm_dataset_clear(cbm_dataset *dataset);

/* Checks that the data set's classes are the model's, by name and order; `what` names the data in messages. */
scbm_status cbm_dataset_check_names(const cbm_dataset *data, const cbm_names *names, const char *what);

/* The class's number, -1: not there. */
int32_t cbm_classes_find(const cbm_classes *classes, const char *name);
scbm_status cbm_classes_add(cbm_classes *classes, const char *name, const scbm_hooks *hooks);
void cbm_classes_clear(cbm_classes *classes, const scbm_hooks *hooks);

/* Lines of a text file or stream, one text a line, for `predict --file` and pipes: calls `line` for each as it
 * comes, NUL-terminated. A return other than SCBM_OK stops and is passed on. Lines end in \n or \r\n, the last one
 * perhaps in nothing; they must be UTF-8 without NUL, and a byte order mark is skipped. path "-" is standard input. */
typedef scbm_status (*cbm_line_function)(void *user, const char *text, size_t length, size_t line_number);
scbm_status cbm_read_lines(const char *path, cbm_line_function line, void *user, const scbm_hooks *hooks);

#endif
