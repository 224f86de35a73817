/*
 * models/program/program.h - what the commands of models/main share: options, messages, progress, texts, JSON
 *
 * Results go to standard output, everything else to standard error. A command returns the program's exit
 * status: 0, 1 for bad input or a failure (one line says which), 2 for bad usage, 128 + the signal's number (130, 143)
 * when it was interrupted.
 */
#ifndef CBM_CLI_H
#define CBM_CLI_H

#include "models/cbm-train.h"

#include <cjson/cJSON.h>
#include <time.h>

enum { CLI_GO_ON = -1, CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_SIGNAL = 128 };

/* ------------------------------------------------------------------------------------------
 * Options
 * ---------------------------------------------------------------------------------------- */

typedef enum cli_kind {
    CLI_FLAG,     /* int: 1 when given */
    CLI_INT,      /* int64_t */
    CLI_REAL,     /* double */
    CLI_TEXT,     /* const char * */
    CLI_LIST,     /* cli_list: may be repeated */
    CLI_CHOICE    /* int: the place of the value among `argument`, "mean|cls" */
} cli_kind;

/* What a command does with the file that an option names. */
typedef enum cli_use { CLI_NO_FILE, CLI_READS, CLI_WRITES } cli_use;

typedef struct cli_list {
    const char **item;   /* the strings are the program's arguments */
    int n;
} cli_list;

typedef struct cli_option {
    cli_kind kind;
    const char *name;       /* without dashes; NULL ends a table */
    const char *argument;   /* what --help calls the value, or a choice's values */
    void *value;
    const char *help;
    double least, most;     /* bounds of numbers; a variable that starts below stands for an option that was not given */
    char letter;            /* 'o' for -o; 0: none */
    cli_use use;
    const char *group;      /* the heading in --help under which it stands; NULL: "Options" */
    int *given;             /* becomes 1 when the command line, and 2 when a file gives it; NULL: nobody asks */
} cli_option;

#define CLI_OPTION(kind, name, argument, target, help, least, most, letter, use)                                     \
    {kind, name, argument, target, help, least, most, letter, use, NULL, NULL}
#define CLI_FLAG_OPTION(name, target, help) CLI_OPTION(CLI_FLAG, name, NULL, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_INT_OPTION(name, argument, target, least, most, help)                                                    \
    CLI_OPTION(CLI_INT, name, argument, target, help, least, most, 0, CLI_NO_FILE)
#define CLI_REAL_OPTION(name, argument, target, least, most, help)                                                   \
    CLI_OPTION(CLI_REAL, name, argument, target, help, least, most, 0, CLI_NO_FILE)
#define CLI_TEXT_OPTION(name, argument, target, help)                                                                \
    CLI_OPTION(CLI_TEXT, name, argument, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_LIST_OPTION(name, argument, target, help)                                                                \
    CLI_OPTION(CLI_LIST, name, argument, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_CHOICE_OPTION(name, choices, target, help)                                                               \
    CLI_OPTION(CLI_CHOICE, name, choices, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_READ_OPTION(name, target, help) CLI_OPTION(CLI_TEXT, name, "FILE", target, help, 0, 0, 0, CLI_READS)
#define CLI_READ_LIST_OPTION(name, target, help) CLI_OPTION(CLI_LIST, name, "FILE", target, help, 0, 0, 0, CLI_READS)
#define CLI_WRITE_OPTION(name, target, help) CLI_OPTION(CLI_TEXT, name, "FILE", target, help, 0, 0, 0, CLI_WRITES)
#define CLI_OUTPUT_OPTION(target, help) CLI_OPTION(CLI_TEXT, "output", "FILE", target, help, 0, 0, 'o', CLI_WRITES)
#define CLI_END_OPTIONS CLI_OPTION(CLI_FLAG, NULL, NULL, NULL, NULL, 0, 0, 0, CLI_NO_FILE)

typedef struct cli_command {
    const char *name;
    const char *summary;              /* one line */
    const char *usage;                /* what follows the name */
    const char *details;              /* paragraphs after the options; NULL: none */
    const char *const *examples;      /* NULL-terminated: what follows the program's name */
    int (*run)(const struct cli_command *command, int argc, char **argv);
} cli_command;

/* What the user called this program, for examples: "models/main". */
extern const char *cli_program;
/* Runs the one command that a program is, whose help and messages do not say its name then; --version, too. */
int cli_run_alone(const cli_command *command, int argc, char **argv);
/* Prints "sparsecbm 0.1.1". */
int cli_print_version(void);

/* Reads argv[0 … argc) (after the command's name) by the table; positional arguments come back in *rest, or are an error
 * where rest is NULL. Refuses files to write that cannot be written or that are read, too. CLI_GO_ON, or the status to
 * exit with (help was printed, or an error). Free rest->item and lists' items. */
int cli_parse(const cli_command *command, const cli_option *options, int argc, char **argv, cli_list *rest);
/* Sets an option as an argument would; `source` is the file that the value stands in, NULL: the command line. */
int cli_set_option(const cli_command *command, const cli_option *option, const char *value, const char *source);
/* Refuses files to write that cannot be written or that are read, too. */
int cli_check_files(const cli_command *command, const cli_option *options);
/* Reads options that were not given (by their `given`, and lists that are empty) from a JSON file: an object whose keys are
 * options' names. The values live in *values, which is to be deleted after the last use of the options. */
int cli_read_config(const cli_command *command, const cli_option *options, const char *path, cJSON **values);
/* The same check for a file that goes with the options' files; `what` names it in messages. */
int cli_check_output(const cli_command *command, const cli_option *options, const char *what, const char *path);
/* Keeps other runs that take the same lock from writing `output` until it is unlocked, or the process ends. */
typedef struct cli_lock {
    char *path;
    int descriptor;
} cli_lock;
int cli_lock_output(const cli_command *command, cli_lock *lock, const char *output); /* CLI_GO_ON, or it is locked */
void cli_unlock_output(cli_lock *lock); /* a lock that is all zeros is none */
/* Tells that a file was written. */
void cli_say_wrote(const cli_command *command, const char *path);

/* "sparsecbm NAME: message" on standard error. */
int cli_fail(const cli_command *command, const char *format, ...) SCBM_PRINTF(2, 3);   /* returns CLI_FAILED */
int cli_misuse(const cli_command *command, const char *format, ...) SCBM_PRINTF(2, 3); /* returns CLI_USAGE */
/* The library's last error, and CLI_FAILED (CLI_SIGNAL + the signal for a call that it cancelled). */
int cli_fail_status(const cli_command *command, scbm_status status);
/* Flushes standard output; a failure to write (a full disk) is an error. */
int cli_finish(const cli_command *command);
/* The same in the middle of a stream, as a status. */
scbm_status cli_flush(void);

/* Of `names` (NULL-terminated) the one most like `word`; NULL: none is close. */
const char *cli_nearest(const char *word, const char *const *names);

/* ------------------------------------------------------------------------------------------
 * Progress, interruption, and the library's hooks
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_progress {
    const char *command;
    char what[64];
    double started, shown;       /* seconds; of this `what`, and of the last line */
    int64_t first;               /* where `what` stood when it started */
    int to_terminal, line_open;
} cli_progress;

/* Hooks that show progress and warnings, heed `threads`, and stop at an interrupt once cli_catch_interrupt was called. */
scbm_hooks cli_hooks(cli_progress *progress, const cli_command *command, int64_t threads);
/* Clears the bar before something else is printed. */
void cli_progress_clear(cli_progress *progress);
/* A first Ctrl-C (or SIGTERM) makes progress hooks cancel; a second one kills. */
void cli_catch_interrupt(void);
/* The signal that came; 0: none. */
int cli_interrupted(void);

/* ------------------------------------------------------------------------------------------
 * Texts: from arguments, a file, a pipe, or a column of a data file
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_texts {
    cli_list argument;
    const char *file, *data, *column;
    int64_t first;               /* where the batch that is being handled starts: 1 is the first text */
} cli_texts;

#define CLI_TEXTS_OPTIONS(texts)                                                                                      \
    CLI_READ_OPTION("file", &(texts).file, "read the texts from FILE, one a line; - is standard input"),              \
    CLI_READ_OPTION("data", &(texts).data, "read the texts from a CSV or JSONL file (texts may have several lines)"), \
    CLI_TEXT_OPTION("text", "COLUMN", &(texts).column, "the column of --data that holds the text")

/* Handles `n` texts, whose results are to be printed now; counts in *done, from 0, those that were printed. */
typedef scbm_status (*cli_texts_function)(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done);

/* CLI_GO_ON, or what to exit with: exactly one source must be given, or standard input be a pipe or file. `column` is
 * the default for --text; NULL: none. */
int cli_texts_check(const cli_command *command, cli_texts *texts, const char *column);
/* Hands over all texts in batches; texts that arrive slowly come one by one. Returns an exit status and says errors. */
int cli_texts_each(const cli_command *command, cli_texts *texts, cli_texts_function handle, void *user,
                   const scbm_hooks *hooks);

/* ------------------------------------------------------------------------------------------
 * Commands that hand texts to a model. Zero the session, set defaults, then start, check_texts, load, finish.
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_session {
    const cli_command *command;
    const char *model_path;
    cli_texts texts;
    int64_t threads, max_length;
    int json, precision;
    cli_progress progress;
    scbm_hooks hooks;
    scbm_file *file;                 /* the model's, where a command looks into it; closed at the end */
    cbm_model *model;
    cbm_context *context;
    int64_t n_printed, n_truncated;  /* texts; those that were cut are told at the end */
} cli_session;

#define CLI_MODEL_OPTION(s) CLI_READ_OPTION("model", &(s).model_path, "the model file (required)")
#define CLI_JSON_OPTION(s) CLI_FLAG_OPTION("json", &(s).json, "print one JSON object a line")
#define CLI_LENGTH_OPTION(s)                                                                                          \
    CLI_INT_OPTION("max-length", "N", &(s).max_length, 0, 1000000,                                                    \
                   "cut texts after N tokens, special ones included; 0: as many as the model reads")
/* Of the commands that run the model. */
#define CLI_PRECISIONS "f32|tf32|bf16|int8" /* as scbm_precision counts them */
#define CLI_RUN_OPTIONS(s)                                                                                            \
    CLI_LENGTH_OPTION(s),                                                                                             \
        CLI_CHOICE_OPTION("precision", CLI_PRECISIONS, &(s).precision, "what matrix products compute with"),          \
        CLI_INT_OPTION("threads", "N", &(s).threads, 0, 1024, "threads; 0: all cores"), CLI_JSON_OPTION(s)

/* Each returns CLI_GO_ON or what to exit with, after saying why. */
int cli_session_start(cli_session *session, const cli_command *command, const cli_option *options, int argc, char **argv);
/* With the column that training read its texts from, for --data without --text. */
int cli_session_check_texts(cli_session *session);
/* The model and a context; a bare encoder is refused where labels are needed. */
int cli_session_load(cli_session *session, int needs_labels);
/* Frees everything and returns `status`. */
int cli_session_finish(cli_session *session, int status);

/* The text, its label, and each concept with its contribution; "-----|     " or "     |+++" beside the largest one. */
void cli_print_prediction(const char *text, size_t length, const cbm_prediction *prediction);
void cli_print_bar(double value, double largest);

/* ------------------------------------------------------------------------------------------
 * How to intervene, for `intervene` and `eval --intervene`
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_intervention {
    int select, edit;   /* -1: not given */
    int whole_steps;
    double portion;
    int64_t steps;
} cli_intervention;

#define CLI_INTERVENTION_NOT_GIVEN {-1, -1, 0, -1.0, -1}

#define CLI_INTERVENTION_OPTIONS(i)                                                                                   \
    CLI_CHOICE_OPTION("select", "signed|abs", &(i).select,                                                            \
                      "mask: which weights move, by the sign of their first-order gain (default), or by |G|, the paper's rule"), \
    CLI_REAL_OPTION("portion", "X", &(i).portion, 0, 1,                                                               \
                    "mask: the share of a matrix's kept weights that one step may exchange at most (default 0.05)"),  \
    CLI_INT_OPTION("steps", "N", &(i).steps, 1, 100000, "mask: at most so many steps (default 10; 1 with --select abs)"), \
    CLI_FLAG_OPTION("whole-steps", &(i).whole_steps,                                                                  \
                    "mask: steps of the whole portion, not only of as much as the class takes (--select abs always does)"), \
    CLI_CHOICE_OPTION("edit", "mean|one-hot", &(i).edit,                                                              \
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
/* {label, probability, logits, bias, truncated, concepts: [{name, class, probability, logits, contribution}]} */
cJSON *cli_json_prediction(const cbm_prediction *prediction);
/* Prints the object on a line of its own and deletes it. */
scbm_status cli_json_print(cJSON *object);

/* ------------------------------------------------------------------------------------------
 * Labelled data: which columns hold what. Training notes them in the model file, so that `eval` knows them.
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_columns {
    const char *text, *label, *drop_label, *ignore_label;
    int no_drop_label;
    cli_list concept;               /* "name=column", or "name" for a column of that name */
    cli_list unknown;
    int unknown_missing;
    cbm_concept_column *concepts;   /* [n_concepts], by cli_columns_from_options or _from_model */
    int n_concepts;
    cbm_classes label_classes, *concept_classes;   /* of the model, by _from_model; else empty */
} cli_columns;

#define CLI_COLUMNS_OPTIONS(c)                                                                                          \
    CLI_TEXT_OPTION("text", "COLUMN", &(c).text, "the column of the text"),                                             \
    CLI_TEXT_OPTION("label", "COLUMN", &(c).label, "the column of the label"),                                          \
    CLI_LIST_OPTION("concept", "NAME=COLUMN", &(c).concept, "a concept and its column; repeated for each concept"),     \
    CLI_TEXT_OPTION("drop-label", "LABEL", &(c).drop_label,                                                             \
                    "rows with this label are left out, \"\": those without one (default \"no majority\")"),                            \
    CLI_FLAG_OPTION("no-drop-label", &(c).no_drop_label, "no rows are left out for their label"),                       \
    CLI_TEXT_OPTION("ignore-label", "LABEL", &(c).ignore_label, "rows with this label count for the concepts alone"),   \
    CLI_LIST_OPTION("unknown", "VALUE", &(c).unknown,                                                                   \
                    "a concept value that means \"unknown\"; may be repeated (default \"\", \"unknown\", \"no majority\")"), \
    CLI_FLAG_OPTION("unknown-missing", &(c).unknown_missing, "such values are missing and count nowhere, instead of being a class")

/* The columns that the options name; the text and the label are required. An exit status, or CLI_GO_ON. */
int cli_columns_from_options(const cli_command *command, cli_columns *columns);
/* The options, and for what they leave open what training noted in `file`; concepts and classes are the model's. */
int cli_columns_from_model(const cli_command *command, cli_columns *columns, const cbm_model *model, const scbm_file *file);
/* As the library takes them; `paths` NULL: none. */
cbm_dataset_options cli_columns_options(const cli_columns *columns, const cli_list *paths);
/* Reads data files by the columns; `classes` (NULL: the columns') are the known classes. */
scbm_status cli_columns_read(const cli_columns *columns, const cli_list *paths, const cbm_dataset *classes,
                             cbm_dataset *data, const scbm_hooks *hooks);
void cli_columns_clear(cli_columns *columns);

/* Peak resident memory of this process so far, in megabytes (2^20 bytes). */
double cli_peak_megabytes(void);

/* The commands. */
extern const cli_command cmd_train, cmd_eval, cmd_predict, cmd_explain, cmd_intervene, cmd_embed, cmd_tokenize, cmd_convert,
    cmd_quantize, cmd_inspect, cmd_bench, cmd_demo;

#endif
