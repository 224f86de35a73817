/*
 * models/cbm-data.h - labelled texts, and how good predictions of them are
 *
 * A part of cbm-train.h, which includes it.
 */
#ifndef CBM_DATA_H
#define CBM_DATA_H

#include "models/cbm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------
 * Data sets: labelled texts from files, from a pipe, from memory, or row by row. Nothing is known of any particular one:
 * columns, concepts and classes come from the options and the data.
 * ---------------------------------------------------------------------------------------- */

#define CBM_MAX_CLASSES 4096 /* of a column, where they are taken from the data */
#define CBM_MAX_BAD_ROWS 20  /* that are listed */
#define CBM_MAX_ODD_VALUES 40 /* that are listed */

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

/* What becomes of a value that the known classes lack. */
typedef enum cbm_unseen {
    CBM_UNSEEN_ERROR,  /* the data cannot be read; the message counts the rows. With keep_going: such rows are bad ones */
    CBM_UNSEEN_SKIP,   /* such rows are left out and counted */
    CBM_UNSEEN_UNKNOWN /* it is read as "unknown", and where that is no class of the column, as missing */
} cbm_unseen;

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
    int keep_going;         /* rows with something wrong in them are left out, counted and listed; else the first is an error */
    /* Known classes, of a model or of the training data. NULL: the classes are taken from the data, CBM_MAX_CLASSES a column at
     * most, sorted (numbers by value where all are numbers, else by bytes), "unknown" last. */
    const cbm_classes *label_classes;
    const cbm_classes *concept_classes; /* [n_concepts] */
    cbm_unseen unseen;
    /* Values are one class that are equal as numbers (4, 4.0), or but for blanks around them, capital letters and how Unicode
     * composes a letter: among themselves (the class has the name of most rows), with the known classes, and with what is
     * dropped, ignored and unknown. 0: each is a class of its own, and they are listed. */
    int merge_classes;
    /* What chooses these in the program that asks, for messages: "--text COLUMN"; NULL: nothing is said. */
    const char *text_option, *label_option, *concept_option, *id_option, *format_option,
        *unseen_option, *merge_option;
    uint64_t reserved[8]; /* zeros */
} cbm_dataset_options;

/* A row that was left out. */
typedef struct cbm_bad_row {
    int32_t file;
    size_t row;
    const char *reason; /* one sentence, which names file and row too */
} cbm_bad_row;

typedef enum cbm_value_fate {
    CBM_VALUE_TWIN,   /* a class of its own beside `same_as`, which is the same written differently */
    CBM_VALUE_MERGED, /* read as `same_as` */
    CBM_VALUE_UNSEEN  /* not among the known classes */
} cbm_value_fate;

/* A value that is perhaps not what was meant. */
typedef struct cbm_odd_value {
    cbm_value_fate fate;
    int concept;         /* its number; -1: the label */
    const char *value;   /* as the data have it */
    const char *same_as; /* the class, or the value that is dropped, ignored or unknown; NULL: there is none */
    int64_t count;       /* rows */
    int64_t same_count;  /* rows of the class `same_as`, before they were merged; 0: not counted */
} cbm_odd_value;

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
    size_t n_read;                   /* rows that were looked at: n + n_dropped + n_unseen + n_bad */
    size_t n_dropped;                /* by their label */
    size_t n_bad;                    /* left out because something was wrong */
    const cbm_bad_row *bad;          /* the first of these */
    size_t n_listed;                 /* CBM_MAX_BAD_ROWS at most */
    size_t n_unseen;                 /* left out because of a value that the known classes lack (CBM_UNSEEN_SKIP) */
    const cbm_odd_value *odd;        /* by column, in no order */
    size_t n_odd;                    /* CBM_MAX_ODD_VALUES at most */
    size_t n_odd_more;               /* cells with further ones */
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

/* A row as it comes, of texts alone. */
typedef struct cbm_text_row {
    const char *text, *id; /* UTF-8, NUL-terminated; NULL of a bad row, or where no column of ids was wanted */
    size_t length, row;    /* of the text, in bytes; the row's number, as of a data set */
    int32_t file;
    int more;              /* another one, or the end, has been read already, and comes without waiting */
    const char *error;     /* why it cannot be read; NULL: it can */
} cbm_text_row;

/* Reads files row by row, and keeps none: calls `take` for each, with strings that last as long as the call. Of the options
 * labels and concepts must not be there. With keep_going bad rows are handed over, too; else the first ends reading. A return
 * other than SCBM_OK stops and is passed on. JSON Lines of standard input come as they are written; all else is read first. The
 * progress hook gets "read" with the bytes of each file. */
typedef scbm_status (*cbm_text_row_function)(void *user, const cbm_text_row *row);
scbm_status cbm_dataset_each(const cbm_dataset_options *options, cbm_text_row_function take, void *user,
                             const scbm_hooks *hooks);

/* The same row by row: create, add rows, finish; before that *data has no rows. Of the options paths, format, text and
 * label say nothing here (labels are what is added), and their strings must stay until it is finished. Everything is
 * copied. `label` NULL: none, -1. concepts[n_concepts] are the values; one that is NULL is missing. A row that cannot be
 * added is an error (with keep_going it is left out), and the next one can be added after it. */
scbm_status cbm_dataset_begin(cbm_dataset *data, const cbm_dataset_options *options, const scbm_hooks *hooks);
scbm_status cbm_dataset_add(cbm_dataset *data, const char *text, size_t length, const char *label,
                            const char *const *concepts);
scbm_status cbm_dataset_finish(cbm_dataset *data); /* after an error *data is empty */

/* The numbers that class names are ("1" to "5" stars); 0: they are not all finite numbers. */
int cbm_class_values(const char *const *names, int n, double *values);

/* Lines of a text file or stream, one text a line: calls `line` for each as it comes, NUL-terminated. `more`: another one
 * has been read already, and comes without waiting. `text` is there until the function returns. A return other than
 * SCBM_OK stops and is passed on; say why with scbm_fail. Lines end in \n or \r\n, the last one perhaps in nothing; they
 * must be UTF-8 without NUL, and a byte order mark is skipped. One that is not is handed to `bad`, with a sentence that says
 * why; `bad` NULL: it is an error. path "-" is standard input. */
typedef scbm_status (*cbm_line_function)(void *user, const char *text, size_t length, size_t line_number, int more);
typedef scbm_status (*cbm_bad_line_function)(void *user, const char *reason, size_t line_number);
scbm_status cbm_read_lines(const char *path, cbm_line_function line, cbm_bad_line_function bad, void *user,
                           const scbm_hooks *hooks);

/* Two parts of a data set: rows to validate on, about `share` of each label's, at least one in all, drawn by the seed; and the
 * others to train on. The parts have texts and classes in common with the whole, which must outlive them; clear the split,
 * and not the parts. Two rows are the least. */
typedef struct cbm_split {
    cbm_dataset train, validation;
    scbm_hooks hooks;
} cbm_split;

scbm_status cbm_dataset_split(cbm_split *split, const cbm_dataset *data, double share, uint64_t seed,
                              const scbm_hooks *hooks);
void cbm_split_clear(cbm_split *split);

/* ------------------------------------------------------------------------------------------
 * Measures: how good predictions are
 *
 * A table of targets has n rows (texts) and K columns (the label alone, or all concepts). A gold class of -1 is
 * missing: such a cell counts nowhere.
 * ---------------------------------------------------------------------------------------- */

/* Each between 0 and 1; 0 where there is nothing to measure. */
typedef struct cbm_scores {
    double accuracy;
    double macro_f1; /* mean of the classes' F1, over the classes that occur in gold or prediction (scikit-learn's) */
    double macro_f1_ovr; /* over the same, the mean macro F1 of "is it this class or not" (the released code's) */
} cbm_scores;

typedef struct cbm_measures {
    int64_t n; /* cells with a gold class */
    cbm_scores value;
    cbm_scores low, high;   /* 95 % bootstrap interval; the value itself where none was asked for */
    int32_t majority_class; /* the most frequent gold class (the first of several); -1: there is none */
    double majority_share;
} cbm_measures;

/* Measures column k of gold and predicted [n, n_columns], whose classes are 0 … n_classes[k] − 1, into each[k], and into
 * *mean (may be NULL) the mean over the columns that have a gold class at all. `resamples` > 0 (1,000, say) adds intervals:
 * whole rows are drawn with replacement, and percentiles taken. The same seed gives the same intervals. A class
 * outside its column's is an error. The progress hook gets "bootstrap" with the resamples. */
scbm_status cbm_measure(cbm_measures *each, cbm_measures *mean, const int32_t *gold, const int32_t *predicted, size_t n,
                        int n_columns, const int *n_classes, int resamples, uint64_t seed, const scbm_hooks *hooks);

/* Counts into confusion [n_classes, n_classes]: gold classes are rows, predicted ones columns. gold and predicted have
 * n entries that are `stride` apart. */
void cbm_count_confusion(int64_t *confusion, int n_classes, const int32_t *gold, const int32_t *predicted, size_t n,
                         size_t stride);

/* What the predictions of one class are worth. */
typedef struct cbm_class_measures {
    double precision, recall, f1; /* between 0 and 1; 0 where there is nothing to measure */
    int64_t support;              /* cells whose gold class it is */
    int64_t n_predicted;
} cbm_class_measures;

/* Each class of a confusion matrix [n_classes, n_classes]. */
void cbm_measure_classes(cbm_class_measures *classes, const int64_t *confusion, int n_classes);
/* The mean of |gold − predicted| where classes stand for numbers ("1" to "5" stars; see cbm_class_values); 0 where nothing
 * was counted. */
double cbm_mean_absolute_error(const int64_t *confusion, int n_classes, const double *values);

#ifdef __cplusplus
}
#endif

#endif
