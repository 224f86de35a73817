/*
 * models/program/options.c - options and messages of the commands
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"
#include "models/program/path.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

const char *cli_program = "sparsecbm";

static int is_alone; /* the program is one command */

/* ------------------------------------------------------------------------------------------
 * Messages
 * ---------------------------------------------------------------------------------------- */

/* One line, whatever the message holds: an argument may contain line breaks. */
static void say(const cli_command *command, const char *format, va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c; c++) {
        if (*c == '\n' || *c == '\r') *c = ' ';
    }
    fflush(stdout);
    fprintf(stderr, "sparsecbm%s%s: %s\n", command ? " " : "", command ? command->name : "", text);
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

int cli_fail_status(const cli_command *command, scbm_status status) {
    if (status == SCBM_OK) return CLI_DONE;
    if (status == SCBM_ERROR_CANCELLED && cli_interrupted()) {
        cli_fail(command, "interrupted");
        return CLI_SIGNAL + cli_interrupted();
    }
    const char *message = scbm_last_error();
    return cli_fail(command, "%s", message[0] ? message : scbm_status_name(status));
}

void cli_say_wrote(const cli_command *command, const char *path) {
    fflush(stdout);
    fprintf(stderr, "sparsecbm %s: wrote %s\n", command->name, path);
}

scbm_status cli_flush(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_IO, "the results could not be written to standard output: %s", strerror(errno));
}

int cli_finish(const cli_command *command) {
    return cli_fail_status(command, cli_flush());
}

double cli_peak_megabytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (double)usage.ru_maxrss / 1048576; /* bytes there, kilobytes elsewhere */
#else
    return (double)usage.ru_maxrss / 1024;
#endif
}

/* ------------------------------------------------------------------------------------------
 * "Did you mean"
 * ---------------------------------------------------------------------------------------- */

#define LONGEST_NAME 48

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
 * Options
 * ---------------------------------------------------------------------------------------- */

/* The help text with the default, which is what the option's variable holds before options are read; a number below its
 * bound stands for none. */
static void describe(const cli_option *option, char *text, size_t size) {
    int n = snprintf(text, size, "%s", option->help);
    char *end = text + n;
    size_t room = size - (size_t)n;
    const char *choice = option->argument;
    switch (option->kind) {
    case CLI_INT:
        if ((double)*(int64_t *)option->value < option->least) break;
        snprintf(end, room, " (default %lld)", (long long)*(int64_t *)option->value);
        break;
    case CLI_REAL:
        if (*(double *)option->value < option->least) break;
        snprintf(end, room, " (default %g)", *(double *)option->value);
        break;
    case CLI_CHOICE:
        if (*(int *)option->value < 0) break;
        for (int i = *(int *)option->value; i > 0; i--) choice += strcspn(choice, "|") + 1;
        snprintf(end, room, " (default %.*s)", (int)strcspn(choice, "|"), choice);
        break;
    default: break;
    }
}

/* "  -o, --output FILE   " and the help text, wrapped. */
static void print_option(const cli_option *option) {
    enum { HELP_COLUMN = 30, LINE_END = 110 };
    char left[128], help[512];
    describe(option, help, sizeof help);
    int n = option->letter ? snprintf(left, sizeof left, "  -%c, ", option->letter) : snprintf(left, sizeof left, "  ");
    n += snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", option->name, option->argument ? " " : "",
                  option->argument ? option->argument : "");
    fputs(left, stdout);
    if (n >= HELP_COLUMN - 1) {
        putchar('\n');
        n = 0;
    }
    printf("%*s", HELP_COLUMN - n, "");
    int column = HELP_COLUMN;
    for (const char *word = help; *word;) {
        int length = (int)strcspn(word, " ");
        if (column + length > LINE_END) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        printf("%.*s", length, word);
        column += length;
        word += length;
        if (*word == ' ') {
            word++;
            if (column + 1 + (int)strcspn(word, " ") <= LINE_END) {
                putchar(' ');
                column++;
            } else {
                column = LINE_END;
            }
        }
    }
    putchar('\n');
}

/* What of "convert FOLDER" follows the program's name. */
static const char *after_program(const char *command_and_rest) {
    const char *rest = command_and_rest + strcspn(command_and_rest, " ");
    return !is_alone ? command_and_rest : *rest ? rest + 1 : rest;
}

static const char *space_and_name(const cli_command *command, char text[64]) {
    if (is_alone) text[0] = 0;
    else snprintf(text, 64, " %s", command->name);
    return text;
}

static int same_group(const cli_option *a, const cli_option *b) {
    return a->group == b->group || (a->group && b->group && strcmp(a->group, b->group) == 0);
}

/* Each group under its heading, in the order of their first options. */
static void print_options(const cli_option *options) {
    for (const cli_option *first = options; first->name; first++) {
        const cli_option *before = options;
        while (before < first && !same_group(before, first)) before++;
        if (before < first) continue;
        printf("\n%s:\n", first->group ? first->group : "Options");
        for (const cli_option *option = first; option->name; option++)
            if (same_group(option, first)) print_option(option);
    }
}

static void print_help(const cli_command *command, const cli_option *options) {
    char name[64];
    printf("%s\n\nUsage: %s%s %s\n", command->summary, cli_program, space_and_name(command, name), command->usage);
    print_options(options);
    static const cli_option help = CLI_FLAG_OPTION("help", NULL, "print this");
    print_option(&help);
    if (command->details) printf("\n%s\n", command->details);
    puts("\nExample:");
    for (int i = 0; command->examples[i]; i++) printf("  %s %s\n", cli_program, after_program(command->examples[i]));
}

static int list_add(cli_list *list, const char *item) {
    const char **grown = realloc(list->item, ((size_t)list->n + 1) * sizeof *grown);
    if (!grown) return 0;
    grown[list->n++] = item;
    list->item = grown;
    return 1;
}

static int unknown_option(const cli_command *command, const cli_option *options, const char *name, size_t length) {
    char word[LONGEST_NAME + 1];
    const char *names[128];
    int n = 0;
    for (; options->name && n < 126; options++) names[n++] = options->name;
    names[n++] = "help";
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(length < LONGEST_NAME ? length : LONGEST_NAME), name);
    const char *nearest = cli_nearest(word, names);
    if (nearest) return cli_misuse(command, "there is no option --%s; did you mean --%s?", word, nearest);
    char text[64];
    return cli_misuse(command, "there is no option --%s; see %s%s --help", word, cli_program,
                      space_and_name(command, text));
}

/* `name` is what messages call the option. */
static int set_int(const cli_command *command, const cli_option *option, const char *name, const char *value) {
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno == EINVAL || *value == ' ')
        return cli_misuse(command, "%s wants a whole number, got '%s'", name, value);
    if (errno == ERANGE || (double)number < option->least || (double)number > option->most)
        return cli_misuse(command, "%s wants a whole number from %.0f to %.0f, got '%s'", name, option->least,
                          option->most, value);
    *(int64_t *)option->value = number;
    return CLI_GO_ON;
}

static int set_real(const cli_command *command, const cli_option *option, const char *name, const char *value) {
    double number;
    if (scbm_parse_double(value, strlen(value), &number) != SCBM_OK || !(number - number == 0))
        return cli_misuse(command, "%s wants a number, got '%s'", name, value);
    if (number < option->least || number > option->most)
        return cli_misuse(command, "%s wants a number from %g to %g, got '%s'", name, option->least, option->most,
                          value);
    *(double *)option->value = number;
    return CLI_GO_ON;
}

static int set_choice(const cli_command *command, const cli_option *option, const char *name, const char *value) {
    int index = 0;
    for (const char *choice = option->argument;; index++) {
        size_t length = strcspn(choice, "|");
        if (strlen(value) == length && memcmp(value, choice, length) == 0) {
            *(int *)option->value = index;
            return CLI_GO_ON;
        }
        if (!choice[length]) break;
        choice += length + 1;
    }
    return cli_misuse(command, "%s wants %s, got '%s'", name, option->argument, value);
}

int cli_set_option(const cli_command *command, const cli_option *option, const char *value, const char *source) {
    char name[300];
    if (source) snprintf(name, sizeof name, "%.200s: %s", source, option->name);
    else snprintf(name, sizeof name, "--%s", option->name);
    if (option->given) *option->given = source ? 2 : 1;
    switch (option->kind) {
    case CLI_FLAG: *(int *)option->value = 1; break;
    case CLI_INT: return set_int(command, option, name, value);
    case CLI_REAL: return set_real(command, option, name, value);
    case CLI_TEXT: *(const char **)option->value = value; break;
    case CLI_LIST:
        if (!list_add(option->value, value)) return cli_fail(command, "out of memory");
        break;
    case CLI_CHOICE: return set_choice(command, option, name, value);
    }
    return CLI_GO_ON;
}

/* The option that argument `word` names ("--name", "--name=value", "-o"); its value in *value, NULL when that is
 * the next argument. NULL: there is no such option. */
static const cli_option *find_option(const cli_option *options, const char *word, const char **value) {
    *value = NULL;
    if (word[1] != '-') {
        for (; options->name; options++) {
            if (options->letter && options->letter == word[1]) {
                if (word[2]) *value = word + 2;
                return options;
            }
        }
        return NULL;
    }
    size_t length = strcspn(word + 2, "=");
    if (word[2 + length] == '=') *value = word + 3 + length;
    for (; options->name; options++) {
        if (strlen(options->name) == length && memcmp(options->name, word + 2, length) == 0) return options;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Files to write: none may be a file that is read, or cannot be written, before any work is done
 * ---------------------------------------------------------------------------------------- */

/* File i that an option names; NULL: no more. */
static const char *file_of(const cli_option *option, int i) {
    if (option->use == CLI_NO_FILE) return NULL;
    const cli_list *list = option->value;
    if (option->kind == CLI_LIST) return i < list->n ? list->item[i] : NULL;
    return i == 0 ? *(const char **)option->value : NULL;
}

static const char *name_of(const cli_option *option, char text[64]) {
    if (option->letter) snprintf(text, 64, "-%c", option->letter);
    else snprintf(text, 64, "--%s", option->name);
    return text;
}

int cli_check_output(const cli_command *command, const cli_option *options, const char *what, const char *path) {
    char other[64];
    for (; options->name; options++) {
        const char *file;
        for (int i = 0; (file = file_of(options, i)); i++) {
            if (file == path || !cli_same_file(file, path)) continue; /* the same pointer: the option itself */
            return cli_misuse(command, "%s and %s are the same file, %.300s: writing one would destroy the other", what,
                              name_of(options, other), path);
        }
    }
    int error = cli_write_error(path);
    return error ? cli_fail(command, "%.300s (%s): cannot be written: %s", path, what, strerror(error)) : CLI_GO_ON;
}

/* What goes to standard output may not be appended to what is read. */
static int check_standard_output(const cli_command *command, const cli_option *option) {
    struct stat output, input;
    char name[64];
    const char *file;
    if (option->use != CLI_READS || fstat(STDOUT_FILENO, &output) != 0 || !S_ISREG(output.st_mode)) return CLI_GO_ON;
    for (int i = 0; (file = file_of(option, i)); i++) {
        if (stat(file, &input) == 0 && input.st_dev == output.st_dev && input.st_ino == output.st_ino)
            return cli_misuse(command, "standard output and %s are the same file, %.300s", name_of(option, name), file);
    }
    return CLI_GO_ON;
}

int cli_check_files(const cli_command *command, const cli_option *options) {
    int status = CLI_GO_ON;
    for (const cli_option *option = options; option->name && status == CLI_GO_ON; option++) {
        char name[64];
        const char *file = file_of(option, 0);
        if (option->use == CLI_WRITES && file) status = cli_check_output(command, options, name_of(option, name), file);
        else status = check_standard_output(command, option);
    }
    return status;
}

static int too_many(const cli_command *command, const char *word) {
    char name[64];
    return cli_misuse(command, "'%s' is one argument too many; see %s%s --help", word, cli_program,
                      space_and_name(command, name));
}

int cli_parse(const cli_command *command, const cli_option *options, int argc, char **argv, cli_list *rest) {
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) break;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(command, options);
            return cli_finish(command);
        }
    }
    int only_rest = 0;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!only_rest && strcmp(word, "--") == 0) {
            only_rest = 1;
            continue;
        }
        if (only_rest || word[0] != '-' || !word[1]) {
            if (!rest) return too_many(command, word);
            if (!list_add(rest, word)) return cli_fail(command, "out of memory");
            continue;
        }
        const char *value;
        const cli_option *option = find_option(options, word, &value);
        if (!option && word[1] != '-')
            return cli_misuse(command, "there is no option %s (put -- before a text that begins with a dash)", word);
        if (!option) return unknown_option(command, options, word + 2, strcspn(word + 2, "="));
        if (option->kind == CLI_FLAG && value) return cli_misuse(command, "--%s takes no value", option->name);
        if (option->kind != CLI_FLAG && !value) {
            if (++i == argc) return cli_misuse(command, "--%s wants a value: %s", option->name, option->argument);
            value = argv[i];
        }
        int status = cli_set_option(command, option, value, NULL);
        if (status != CLI_GO_ON) return status;
    }
    return cli_check_files(command, options);
}

int cli_print_version(void) {
    int version = scbm_version();
    printf("sparsecbm %d.%d.%d\n", version / 10000, version / 100 % 100, version % 100);
    return cli_finish(NULL);
}

int cli_run_alone(const cli_command *command, int argc, char **argv) {
    if (argc > 0 && argv[0][0]) cli_program = argv[0];
    is_alone = 1;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) return cli_print_version();
    return command->run(command, argc > 0 ? argc - 1 : 0, argc > 0 ? argv + 1 : argv);
}
