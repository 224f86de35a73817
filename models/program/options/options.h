/*
 * models/program/options/options.h - commands, their options, and how both are told about
 */
#ifndef CBM_PROGRAM_OPTIONS_H
#define CBM_PROGRAM_OPTIONS_H

#include "models/program/options/messages.h"

#include <cjson/cJSON.h>

/* ------------------------------------------------------------------------------------------
 * Commands
 * ---------------------------------------------------------------------------------------- */

typedef struct cli_command {
    const char *name;
    const char *summary;         /* one line */
    const char *usage;           /* what follows the name */
    const char *details;         /* paragraphs after the options; NULL: none */
    const char *const *examples; /* NULL-terminated: what follows the program's name */
    int (*run)(const struct cli_command *command, int argc, char **argv);
} cli_command;

/* Runs the command of a NULL-terminated table that argv[1] names, and returns the exit status. */
int cli_main(const cli_command *const *commands, int argc, char **argv);
/* Runs the one command that a program is, whose help and messages do not say its name then; --version, too. */
int cli_run_alone(const cli_command *command, int argc, char **argv);
/* Prints "sparsecbm 0.1.1". */
int cli_print_version(void);
/* " predict" behind the program's name, or "" where the program is one command. Returns `text`. */
const char *cli_name_to_type(const cli_command *command, char text[64]);

/* ------------------------------------------------------------------------------------------
 * Options: a command has a table of rows, some of which begin a group
 * ---------------------------------------------------------------------------------------- */

typedef enum cli_kind {
    CLI_FLAG,   /* int: 1 when given */
    CLI_INT,    /* int64_t */
    CLI_REAL,   /* double */
    CLI_TEXT,   /* const char * */
    CLI_LIST,   /* cli_list: may be repeated */
    CLI_CHOICE, /* int: the place of the value among `argument`, "mean|cls" */
    CLI_GROUP   /* no option: the heading of those below it */
} cli_kind;

/* What a command does with the file that an option names. */
typedef enum cli_use { CLI_NO_FILE, CLI_READS, CLI_WRITES } cli_use;

typedef struct cli_list {
    const char **item; /* the strings are the program's arguments */
    int n;
} cli_list;

typedef struct cli_option {
    cli_kind kind;
    const char *name;     /* without dashes; NULL ends a table */
    const char *argument; /* what --help calls the value, or a choice's values */
    void *value;
    const char *help;
    double least, most; /* bounds of numbers; a variable that starts below stands for an option that was not given */
    char letter;        /* 'o' for -o; 0: none */
    cli_use use;
    const char *group; /* the heading in --help under which it stands; NULL: that of the last CLI_GROUP, or "Options" */
    int *given;        /* becomes 1 when the command line, and 2 when a file gives it; NULL: nobody asks */
} cli_option;

#define CLI_OPTION(kind, name, argument, target, help, least, most, letter, use)                                       \
    { kind, name, argument, target, help, least, most, letter, use, NULL, NULL }
#define CLI_GROUP_OF(heading) CLI_OPTION(CLI_GROUP, heading, NULL, NULL, NULL, 0, 0, 0, CLI_NO_FILE)
#define CLI_FLAG_OPTION(name, target, help) CLI_OPTION(CLI_FLAG, name, NULL, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_INT_OPTION(name, argument, target, least, most, help)                                                      \
    CLI_OPTION(CLI_INT, name, argument, target, help, least, most, 0, CLI_NO_FILE)
#define CLI_REAL_OPTION(name, argument, target, least, most, help)                                                     \
    CLI_OPTION(CLI_REAL, name, argument, target, help, least, most, 0, CLI_NO_FILE)
#define CLI_TEXT_OPTION(name, argument, target, help)                                                                  \
    CLI_OPTION(CLI_TEXT, name, argument, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_LIST_OPTION(name, argument, target, help)                                                                  \
    CLI_OPTION(CLI_LIST, name, argument, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_CHOICE_OPTION(name, choices, target, help)                                                                 \
    CLI_OPTION(CLI_CHOICE, name, choices, target, help, 0, 0, 0, CLI_NO_FILE)
#define CLI_READ_OPTION(name, target, help) CLI_OPTION(CLI_TEXT, name, "FILE", target, help, 0, 0, 0, CLI_READS)
#define CLI_READ_LIST_OPTION(name, target, help) CLI_OPTION(CLI_LIST, name, "FILE", target, help, 0, 0, 0, CLI_READS)
#define CLI_WRITE_OPTION(name, target, help) CLI_OPTION(CLI_TEXT, name, "FILE", target, help, 0, 0, 0, CLI_WRITES)
#define CLI_OUTPUT_OPTION(target, help) CLI_OPTION(CLI_TEXT, "output", "FILE", target, help, 0, 0, 'o', CLI_WRITES)
#define CLI_END_OPTIONS CLI_OPTION(CLI_FLAG, NULL, NULL, NULL, NULL, 0, 0, 0, CLI_NO_FILE)

/* What every command has besides: --quiet and --help; and what the command of these options has, --force where it writes. */
extern const cli_option cli_common_options[];
const cli_option *cli_common_of(const cli_option *options);

/* Reads argv[0 … argc) (after the command's name) by the table; positional arguments come back in *rest, or are an error
 * where rest is NULL. Refuses files to write that cannot be written or that are read, too. CLI_GO_ON, or the status to
 * exit with (help was printed, or an error). Free rest->item and lists' items. */
int cli_parse(const cli_command *command, const cli_option *options, int argc, char **argv, cli_list *rest);
/* Whether the command line that was parsed last gave the option with this variable. */
int cli_given(const void *value);
/* Refuses options that were given and have no effect: `why` follows "--NAME has no effect ". The variables are a
 * NULL-terminated list. CLI_GO_ON where none was given. */
int cli_refuse(const cli_command *command, const cli_option *options, const char *why, const void *const *values);
/* Sets an option as an argument would; `source` is the file that the value stands in, NULL: the command line. */
int cli_set_option(const cli_command *command, const cli_option *option, const char *value, const char *source);
/* Refuses files to write that cannot be written or that are read, too. */
int cli_check_files(const cli_command *command, const cli_option *options);
/* The same check for a file that goes with the options' files; `what` names it in messages. */
int cli_check_output(const cli_command *command, const cli_option *options, const char *what, const char *path);
/* Reads options that were not given (by their `given`, and lists that are empty) from a JSON file: an object whose keys are
 * options' names. The values live in *values, which is to be deleted after the last use of the options. */
int cli_read_config(const cli_command *command, const cli_option *options, const char *path, cJSON **values);

/* ------------------------------------------------------------------------------------------
 * Help, from the tables
 * ---------------------------------------------------------------------------------------- */

/* What cli_parse calls for --help: prints the command's help, or what cli_help_of_all puts in its place. */
void cli_print_help(const cli_command *command, const cli_option *options);
typedef void (*cli_help_form)(const cli_command *command, const cli_option *options);
/* Asks every command for its help in another form. Returns an exit status. */
int cli_help_of_all(const cli_command *const *commands, cli_help_form form);

/* The whole manual page (`date`: "2026-01-31", for its head; may be ""), and the completion for bash. */
int cli_print_manual(const cli_command *const *commands, const char *date);
int cli_print_completion(const cli_command *const *commands);

/* For these forms. Whether an option is the first of its group; the group's heading; the help text with the default, which is
 * what the option's variable holds before options are read. */
int cli_begins_group(const cli_option *options, const cli_option *option);
const char *cli_group_of(const cli_option *options, const cli_option *option);
void cli_describe_option(const cli_option *option, char *text, size_t size);

#endif
