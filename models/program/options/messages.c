/*
 * models/program/options/messages.c - what a command says to people on standard error
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *cli_program = "sparsecbm";
int cli_quiet;

/* ------------------------------------------------------------------------------------------
 * Messages
 * ---------------------------------------------------------------------------------------- */

/* An argument, or a name in a file, may contain anything. */
static void say(const cli_command *command, const char *format, va_list arguments) {
    char text[1024], shown[4 * sizeof text + 1];
    vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c; c++) {
        if (*c == '\n' || *c == '\r') *c = ' ';
    }
    fflush(stdout);
    fprintf(stderr, "sparsecbm%s%s: %s\n", command ? " " : "", command ? command->name : "",
            cbm_text_show(shown, sizeof shown, text, strlen(text), 0));
}

int cli_fail(const cli_command *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
    return CLI_FAILED;
}

int cli_misuse(const cli_command *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
    return CLI_USAGE;
}

void cli_note(const cli_command *command, const char *format, ...) {
    va_list arguments;
    if (cli_quiet) return;
    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
}

void cli_warn(const cli_command *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(command, format, arguments);
    va_end(arguments);
}

void cli_say_wrote(const cli_command *command, const char *path) {
    cli_note(command, "wrote %s", path);
}

int cli_fail_status(const cli_command *command, scbm_status status) {
    if (status == SCBM_OK) return CLI_DONE;
    int number = cli_interrupted(); /* which may come back as a read or a write that was interrupted */
    if (number && (status == SCBM_ERROR_CANCELLED || status == SCBM_ERROR_IO)) {
        if (number != SIGPIPE) cli_fail(command, "interrupted"); /* nobody reads any more */
        return CLI_SIGNAL + number;
    }
    const char *message = scbm_last_error();
    return cli_fail(command, "%s", message[0] ? message : scbm_status_name(status));
}

scbm_status cli_flush(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_IO, "the results could not be written to standard output: %s", strerror(errno));
}

int cli_finish(const cli_command *command) {
    return cli_fail_status(command, cli_flush());
}

/* ------------------------------------------------------------------------------------------
 * "Did you mean"
 * ---------------------------------------------------------------------------------------- */

enum { LONGEST_NAME = 48 };

/* The number of letters to insert, delete or replace to turn a into b (Levenshtein). */
static size_t edits(const char *a, const char *b) {
    size_t row[LONGEST_NAME + 1];
    size_t n = strlen(b);
    if (n > LONGEST_NAME || strlen(a) > LONGEST_NAME) return LONGEST_NAME;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t replace = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            size_t best = row[j] < row[j + 1] ? row[j] + 1 : row[j + 1] + 1;
            row[j + 1] = replace < best ? replace : best;
        }
    }
    return row[n];
}

const char *cli_nearest(const char *word, const char *const *names) {
    const char *nearest = NULL;
    size_t fewest = strlen(word) < 5 ? 2 : 3; /* as many edits are no longer alike */
    for (; *names; names++) {
        size_t n = edits(word, *names);
        if (strlen(word) >= 3 && strncmp(word, *names, strlen(word)) == 0) n = 1;
        if (n < fewest) {
            fewest = n;
            nearest = *names;
        }
    }
    return nearest;
}

/* ------------------------------------------------------------------------------------------
 * Terminals
 * ---------------------------------------------------------------------------------------- */

int cli_is_terminal(FILE *stream) {
    const char *kind = getenv("TERM");
    return isatty(fileno(stream)) && kind && strcmp(kind, "dumb") != 0;
}

const char *cli_style_begin(FILE *stream, cli_style style) {
    static const char *const sequences[] = {
        [CLI_PLAIN] = "\033[0m", [CLI_BOLD] = "\033[1m", [CLI_BLUE] = "\033[34m", [CLI_ORANGE] = "\033[33m"};
    const char *no_colour = getenv("NO_COLOR");
    if (!cli_is_terminal(stream) || (no_colour && *no_colour)) return "";
    return sequences[style];
}
