/*
 * models/program/options/messages.h - exit statuses, and what a command says to people on standard error
 */
#ifndef CBM_PROGRAM_MESSAGES_H
#define CBM_PROGRAM_MESSAGES_H

#include "models/cbm.h"

#include <stdio.h>

/* CLI_SIGNAL + the signal's number: the command was interrupted. */
enum { CLI_GO_ON = -1, CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_SIGNAL = 128 };

struct cli_command;

/* What the user called this program, for examples: "models/main". */
extern const char *cli_program;
/* --quiet: errors and warnings alone. */
extern int cli_quiet;

/* "sparsecbm NAME: message" on standard error, on one line, with control characters escaped. */
int cli_fail(const struct cli_command *command, const char *format, ...) SCBM_PRINTF(2, 3);   /* returns CLI_FAILED */
int cli_misuse(const struct cli_command *command, const char *format, ...) SCBM_PRINTF(2, 3); /* returns CLI_USAGE */
/* The same of what is no error, with --quiet too; and what --quiet hides. */
void cli_warn(const struct cli_command *command, const char *format, ...) SCBM_PRINTF(2, 3);
void cli_note(const struct cli_command *command, const char *format, ...) SCBM_PRINTF(2, 3);
void cli_say_wrote(const struct cli_command *command, const char *path);
/* The library's last error, and CLI_FAILED (CLI_SIGNAL + the signal for a call that it cancelled). */
int cli_fail_status(const struct cli_command *command, scbm_status status);
/* Flushes standard output; a failure to write (a full disk) is an error. */
int cli_finish(const struct cli_command *command);
/* The same in the middle of a stream, as a status. */
scbm_status cli_flush(void);

/* Of `names` (NULL-terminated) the one most like `word`; NULL: none is close. */
const char *cli_nearest(const char *word, const char *const *names);

/* Begins a style on a stream, and CLI_PLAIN ends it: an escape sequence, or "" where the stream is no terminal or the
 * environment's NO_COLOR is set. */
typedef enum cli_style { CLI_PLAIN, CLI_BOLD, CLI_BLUE, CLI_ORANGE } cli_style;
const char *cli_style_begin(FILE *stream, cli_style style);
/* Whether lines of the stream can be written over: it is a terminal, and not a dumb one. */
int cli_is_terminal(FILE *stream);

#endif
