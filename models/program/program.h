/*
 * models/program/program.h - what the commands of models/main share beside options: progress, texts, sessions, JSON
 *
 * Results go to standard output, everything else to standard error. A command returns the program's exit
 * status: 0, 1 for bad input or a failure (one line says which), 2 for bad usage, 128 + the signal's number (130, 143)
 * when it was interrupted.
 */
#ifndef CBM_CLI_H
#define CBM_CLI_H

#include "models/cbm-train.h"
#include "models/program/options/options.h"

#include <cjson/cJSON.h>

/* ------------------------------------------------------------------------------------------
 * Progress, interruption, and the library's hooks
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_progress {
    const char *command;
    char what[64];
    double started, shown;        /* seconds; of this `what`, and of the last line */
    int64_t first;                /* where `what` stood when it started */
    int64_t before, batch, whole; /* of all the texts, those before the batch at hand, and its own; whole 0: unknown */
    const char *main; /* work that has other work in it, which is not shown by itself meanwhile; NULL: there is none */
    int64_t main_left;
    int to_terminal, line_open;
    uint64_t said[64]; /* hashes of the last warnings: what several runs warn of is said once */
    int n_said;
} cli_progress;

/* Hooks that show progress and warnings, heed `threads`, and stop at a signal once cli_catch_signals was called. */
scbm_hooks cli_hooks(cli_progress *progress, const cli_command *command, int64_t threads);
/* Clears the bar before something else is printed. */
void cli_progress_clear(cli_progress *progress);
/* A first Ctrl-C (or SIGTERM, SIGHUP, a closed pipe) makes hooks cancel; a second Ctrl-C or SIGTERM ends the process at once. No
 * temporary file stays. */
void cli_catch_signals(void);
/* Where standard input, output or errors are closed: else the next file that is opened has their number, and a model is
 * read as texts, or has results written into it. */
void cli_hold_standard_files(void);
/* The signal that came; 0: none. */
int cli_interrupted(void);

/* ------------------------------------------------------------------------------------------
 * Texts: from arguments, a file, a pipe, or a column of a data file
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_texts {
    cli_list argument;
    const char *file, *data, *column;
    int format;            /* a cbm_data_format, of `data` */
    const char *id_column; /* of `data`; NULL: none */
    int keep_going;        /* a bad text is answered by what is wrong with it */
    int64_t first;         /* where the texts that are being handled start: 1 is the first one */
    int64_t n_bad;
    const size_t *row;     /* of each text that is being handled its number in `data`; NULL: as they are counted */
    const char *const *id; /* of each text that is being handled; NULL: none */
} cli_texts;

/* The number of text i of those that are being handled: of its row or line, or as arguments are counted; and its id, NULL
 * where there is none. */
int64_t cli_texts_row(const cli_texts *texts, size_t i);
const char *cli_texts_id(const cli_texts *texts, size_t i);

#define CLI_FORMATS "auto|csv|tsv|jsonl|json" /* as cbm_data_format counts them */
#define CLI_FORMAT_OPTION(target)                                                                                      \
    CLI_CHOICE_OPTION("format", CLI_FORMATS, target, "the format of --data; auto: by the file's name")

#define CLI_TEXTS_OPTIONS(texts)                                                                                       \
    CLI_GROUP_OF("Texts"),                                                                                             \
        CLI_READ_OPTION("file", &(texts).file, "read the texts from FILE, one a line; - is standard input"),           \
        CLI_READ_OPTION("data", &(texts).data,                                                                         \
                        "read the texts from a CSV, TSV, JSONL or JSON file; - is standard input"),                    \
        CLI_FORMAT_OPTION(&(texts).format),                                                                            \
        CLI_TEXT_OPTION("text", "COLUMN", &(texts).column, "the column of --data that holds the text"),                \
        CLI_FLAG_OPTION("keep-going", &(texts).keep_going,                                                             \
                        "answer a bad line or row by what is wrong with it, go on, and end with status 1")

/* Handles `n` texts, whose results are to be printed now; counts in *done, from 0, those that were printed. */
typedef scbm_status (*cli_texts_function)(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                          size_t *done);
/* Answers the one text that is being handled by what is wrong with it. */
typedef scbm_status (*cli_bad_text_function)(void *user, const char *reason);
typedef struct cli_answers {
    cli_texts_function handle;
    cli_bad_text_function bad;
    void *user;
} cli_answers;

/* CLI_GO_ON, or what to exit with: exactly one source must be given, or standard input be a pipe or file. `column` is
 * the default for --text; NULL: none. */
int cli_texts_check(const cli_command *command, cli_texts *texts, const char *column);
/* Hands over all texts in batches; texts that arrive slowly come one by one. Returns an exit status and says errors. */
int cli_texts_each(const cli_command *command, cli_texts *texts, const cli_answers *answers, const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Devices: "cpu", "cuda", "cuda:1", "auto", and what else the runtime knows by name
 * ---------------------------------------------------------------------------------------- */

/* Opens the device that --device names; NULL: none, which stands for the CPU. CLI_GO_ON, or what to exit with after saying
 * why. */
int cli_open_device(const cli_command *command, const char *name, scbm_backend **backend);
/* The devices of this machine, one a line, or as JSON. */
scbm_status cli_print_devices(const cli_command *command, int json);

/* ------------------------------------------------------------------------------------------
 * Sessions: what commands that run a model have in common. Zero the session and set defaults; then start (or parse),
 * check_texts, load, finish.
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_session {
    const cli_command *command;
    const char *model_path, *device;
    cli_texts texts;
    int64_t threads, max_length;
    int json, precision;
    cli_progress progress;
    scbm_hooks hooks;
    scbm_backend *backend; /* NULL: the CPU */
    scbm_file *file;       /* the model's, where a command looks into it; closed at the end */
    cbm_model *model;
    cbm_context *context;
    int64_t n_printed, n_truncated; /* texts; those that were cut are told at the end */
} cli_session;

#define CLI_MODEL_OPTION(s)                                                                                            \
    CLI_GROUP_OF("Model"), CLI_READ_OPTION("model", &(s).model_path, "the model file (required)")
#define CLI_JSON_OPTION(s) CLI_GROUP_OF("Output"), CLI_FLAG_OPTION("json", &(s).json, "print one JSON object a line")
#define CLI_LENGTH_OPTION(s)                                                                                           \
    CLI_INT_OPTION("max-length", "N", &(s).max_length, 0, 1000000,                                                     \
                   "cut texts after N tokens, special ones included; 0: as many as the model reads")
#define CLI_DEVICE_OPTION(s)                                                                                           \
    CLI_TEXT_OPTION("device", "cpu|cuda|cuda:N|auto", &(s).device,                                                     \
                    "where the model runs (default cpu); auto is a GPU where there is one")
#define CLI_THREADS_OPTION(s)                                                                                          \
    CLI_INT_OPTION("threads", "N", &(s).threads, 0, 1024,                                                              \
                   "threads; 0: as many as the process may use. The results do not depend on it")
#define CLI_POOLINGS "file|mean|first|last|attention" /* as cbm_pooling counts them */
#define CLI_PRECISIONS "f32|tf32|bf16|int8"           /* as scbm_precision counts them */
/* Of the commands that run the model. */
#define CLI_RUN_OPTIONS(s)                                                                                             \
    CLI_GROUP_OF("Computing"), CLI_LENGTH_OPTION(s),                                                                   \
        CLI_CHOICE_OPTION("precision", CLI_PRECISIONS, &(s).precision, "what matrix products compute with"),           \
        CLI_DEVICE_OPTION(s), CLI_THREADS_OPTION(s), CLI_JSON_OPTION(s)

/* Each returns CLI_GO_ON or what to exit with, after saying why. */
int cli_session_parse(cli_session *session, const cli_command *command, const cli_option *options, int argc,
                      char **argv);
/* The same where a model is required. */
int cli_session_start(cli_session *session, const cli_command *command, const cli_option *options, int argc,
                      char **argv);
/* With the column that training read its texts from, for --data without --text. */
int cli_session_check_texts(cli_session *session);
/* The model and a context; a bare encoder is refused where labels are needed. */
int cli_session_load(cli_session *session, int needs_labels);
/* check_texts and load, and all texts to a function: what most commands do once they have started. */
int cli_session_answer(cli_session *session, const cli_answers *answers, int needs_labels);
/* {row, error}, or a line: what a bad text is answered by. */
scbm_status cli_session_print_bad(cli_session *session, const char *reason);
/* cli_session_load without a refusal, as a status; and what undoes it. */
scbm_status cli_session_open(cli_session *session);
void cli_session_close(cli_session *session);
/* Frees everything and returns `status`. */
int cli_session_finish(cli_session *session, int status);

/* ------------------------------------------------------------------------------------------
 * Printing: names and texts are data, whose control characters are escaped; columns are aligned by the terminal's cells
 * ---------------------------------------------------------------------------------------- */

void cli_print_text(const char *text, size_t length);
void cli_print_padded(const char *text, size_t length, int width); /* spaces behind it */
void cli_print_name(const char *name, int width);                  /* the same of a string */
void cli_print_right(const char *name, int width);                 /* spaces before it */
/* The cells that a name takes; the larger of that and `width`. */
int cli_width(const char *name);
int cli_wider(int width, const char *name);
/* "12.3 MiB", or "4.5 KiB" below one; returns `text`. */
const char *cli_megabytes(double bytes, char text[32]);

/* The text, its label, and each concept with its contribution. */
void cli_print_prediction(const char *text, size_t length, const cbm_prediction *prediction);
/* "-----|     " or "     |+++": a value beside the largest one, and the end of the line. */
void cli_print_bar(double value, double largest);

/* ------------------------------------------------------------------------------------------
 * How to intervene, for `intervene` and `eval --intervene`
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_intervention {
    int select, edit; /* -1: not given */
    int whole_steps;
    double portion;
    int64_t steps;
} cli_intervention;

#define CLI_INTERVENTION_NOT_GIVEN                                                                                     \
    { -1, -1, 0, -1.0, -1 }

#define CLI_INTERVENTION_OPTIONS(i)                                                                                    \
    CLI_CHOICE_OPTION(                                                                                                 \
        "select", "signed|abs", &(i).select,                                                                           \
        "mask: which weights move, by the sign of their first-order gain (default), or by |G|, the paper's rule"),     \
        CLI_REAL_OPTION(                                                                                               \
            "portion", "X", &(i).portion, 0, 1,                                                                        \
            "mask: the share of a matrix's kept weights that one step may exchange at most (default 0.05)"),           \
        CLI_INT_OPTION("steps", "N", &(i).steps, 1, 100000,                                                            \
                       "mask: at most so many steps (default 10; 1 with --select abs)"),                               \
        CLI_FLAG_OPTION(                                                                                               \
            "whole-steps", &(i).whole_steps,                                                                           \
            "mask: steps of the whole portion, not only of as much as the class takes (--select abs always does)"),    \
        CLI_CHOICE_OPTION(                                                                                             \
            "edit", "mean|one-hot", &(i).edit,                                                                         \
            "edit: the mean values of training texts of that class (default; not always enough for the concept to read it), or 1 for the class and 0 for the others")

/* What these options say for a method (0: mask, 1: edit); one that is of the other method is bad usage. */
int cli_intervention_options(const cli_command *command, const cli_intervention *given, int method,
                             cbm_intervene_options *options);
/* Whether the model of file `path` can be intervened on so; `edit` is the option that chooses the other method. */
int cli_intervention_check(const cli_command *command, const cbm_model *model, const char *path,
                           const cbm_intervene_options *options, const char *edit);

/* ------------------------------------------------------------------------------------------
 * JSON: numbers print so that they read back the same; what is not finite is null
 * ---------------------------------------------------------------------------------------- */

cJSON *cli_json_float(float value);
cJSON *cli_json_double(double value);
cJSON *cli_json_floats(const float *values, int n);
cJSON *cli_json_int(int64_t value);
cJSON *cli_json_ints(const int32_t *values, int64_t n);
/* {label, probability, logits, labels: [{name, probability, logit}], bias, truncated,
 *  concepts: [{name, class, probability, logits, classes: [{name, probability, logit}], contribution}]} */
cJSON *cli_json_prediction(const cbm_model *model, const cbm_prediction *prediction);
/* JSON to standard output, with what would act on a terminal written as \uXXXX. */
void cli_json_write(const char *text);
/* Prints the object on a line of its own and deletes it. */
scbm_status cli_json_print(cJSON *object);
/* A plan of memory, for people or as the object "memory" of another. */
void cli_print_memory(const cbm_memory_plan *plan);
void cli_json_memory(cJSON *object, const cbm_memory_plan *plan);

/* ------------------------------------------------------------------------------------------
 * CSV: fields one after the other, then the end of the row
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_csv {
    scbm_output_file *file;
    int column;
} cli_csv;

void cli_csv_field(cli_csv *csv, const char *prefix, const char *text, size_t length); /* in quotes */
void cli_csv_text(cli_csv *csv, const char *prefix, const char *text);                 /* NULL: empty */
void cli_csv_integer(cli_csv *csv, int64_t value);
void cli_csv_float(cli_csv *csv, float value);
/* "food: Positive": the head of a column of a class's probability. */
void cli_csv_class_head(cli_csv *csv, const char *of, const char *class_name);
void cli_csv_end_row(cli_csv *csv);

/* ------------------------------------------------------------------------------------------
 * Labelled data: which columns hold what. Training notes them in the model file, so that `eval` knows them.
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_columns {
    const char *text, *label;
    cli_list drop_label, ignore_label;
    int no_drop_label;
    cli_list concept; /* "name=column", or "name" for a column of that name; "==" is a "=" of the name */
    cli_list unknown;
    int unknown_missing, format, keep_going, unseen, merge_classes; /* a cbm_data_format, a cbm_unseen */
    int64_t limit;
    cbm_concept_column *given; /* [n_given]: what --concept says */
    int n_given;
    cbm_concept_column *concepts; /* [n_concepts], by cli_columns_from_options or _from_model */
    int n_concepts;
    cbm_classes label_classes, *concept_classes; /* of the model, by _from_model; else empty */
} cli_columns;

#define CLI_COLUMNS_OPTIONS(c)                                                                                         \
    CLI_TEXT_OPTION("text", "COLUMN", &(c).text, "the column of the text"),                                            \
        CLI_TEXT_OPTION("label", "COLUMN", &(c).label, "the column of the label"),                                     \
        CLI_LIST_OPTION("concept", "NAME=COLUMN", &(c).concept,                                                        \
                        "a concept and its column; repeated for each concept. A = in NAME is written =="),             \
        CLI_LIST_OPTION("drop-label", "LABEL", &(c).drop_label,                                                        \
                        "rows with this label are left out, \"\": those without one; may be repeated (default "        \
                        "\"no majority\")"),                                                                           \
        CLI_FLAG_OPTION("no-drop-label", &(c).no_drop_label, "no rows are left out for their label"),                  \
        CLI_LIST_OPTION("ignore-label", "LABEL", &(c).ignore_label,                                                    \
                        "rows with this label, \"\": those without one, count for the concepts alone; may be "         \
                        "repeated"),                                                                                   \
        CLI_LIST_OPTION(                                                                                               \
            "unknown", "VALUE", &(c).unknown,                                                                          \
            "a concept value that means \"unknown\"; may be repeated (default \"\", \"unknown\", \"no majority\")"),   \
        CLI_FLAG_OPTION("unknown-missing", &(c).unknown_missing,                                                       \
                        "such values are missing and count nowhere, instead of being a class"),                        \
        CLI_FLAG_OPTION("merge-classes", &(c).merge_classes,                                                           \
                        "values are one class that are equal as numbers (4, 4.0), or but for blanks around them or "   \
                        "capital letters"),                                                                            \
        CLI_CHOICE_OPTION("unseen", "error|skip|unknown", &(c).unseen,                                                 \
                          "what becomes of values that training never saw: an error, their rows are left out, or "     \
                          "they are unknown"),                                                                         \
        CLI_FORMAT_OPTION(&(c).format),                                                                                \
        CLI_FLAG_OPTION("keep-going", &(c).keep_going,                                                                 \
                        "leave out rows with something wrong in them, and say how many and which")

/* The columns that the options name; the text and the label are required. An exit status, or CLI_GO_ON. */
int cli_columns_from_options(const cli_command *command, cli_columns *columns);
/* The options, and for what they leave open what training noted in `file`; concepts and classes are the model's. */
int cli_columns_from_model(const cli_command *command, cli_columns *columns, const cbm_model *model,
                           const scbm_file *file);
/* "(12 more with label "no majority" are left out)", of rows that are dropped. */
void cli_columns_print_dropped(const cli_columns *columns, size_t n);
/* As the library takes them; `paths` NULL: none. */
cbm_dataset_options cli_columns_options(const cli_columns *columns, const cli_list *paths);
/* Reads data files by the columns; `classes` (NULL: the columns') are the known classes. Rows that were left out because
 * something is wrong with them are told as warnings. */
scbm_status cli_columns_read(const cli_columns *columns, const cli_list *paths, const cbm_dataset *classes,
                             cbm_dataset *data, const scbm_hooks *hooks);
void cli_columns_clear(cli_columns *columns);

/* ------------------------------------------------------------------------------------------
 * Locks
 * ---------------------------------------------------------------------------------------- */

/* Keeps other runs that take the same lock from writing `output` until it is unlocked, or the process ends. */
typedef struct cli_lock {
    char *path;
    int descriptor;
} cli_lock;
int cli_lock_output(const cli_command *command, cli_lock *lock, const char *output); /* CLI_GO_ON, or it is locked */
void cli_unlock_output(cli_lock *lock); /* a lock that is all zeros is none */

/* ------------------------------------------------------------------------------------------
 * Commands that others run
 * ---------------------------------------------------------------------------------------- */

extern const cli_command cmd_train, cmd_eval, cmd_explain, cmd_intervene, cmd_convert;

#endif
