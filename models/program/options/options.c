/*
 * models/program/options/options.c - reads a command's arguments by its table of options
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/options/path.h"
#include "models/program/program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GENERAL_OPTIONS                                                                                                \
    CLI_FLAG_OPTION("quiet", &cli_quiet, "print errors and warnings alone beside the results: no progress, no notes"), \
        CLI_FLAG_OPTION("help", NULL, "print this"), CLI_END_OPTIONS

static int is_forced;

const cli_option cli_common_options[] = {GENERAL_OPTIONS};

/* Of commands that write files. */
static const cli_option writing_options[] = {CLI_FLAG_OPTION("force", &is_forced, "replace files that are read-only"),
                                             GENERAL_OPTIONS};

const cli_option *cli_common_of(const cli_option *options) {
    int writes = 0;
    for (; options->name; options++) {
        if (strcmp(options->name, writing_options[0].name) == 0) return cli_common_options; /* it has its own */
        writes |= options->use == CLI_WRITES;
    }
    return writes ? writing_options : cli_common_options;
}

/* ------------------------------------------------------------------------------------------
 * What was given
 * ---------------------------------------------------------------------------------------- */

enum { MOST_GIVEN = 256 };

static struct {
    const void *value[MOST_GIVEN];
    int n;
} given;

int cli_given(const void *value) {
    for (int i = 0; i < given.n; i++)
        if (given.value[i] == value) return 1;
    return 0;
}

int cli_refuse(const cli_command *command, const cli_option *options, const char *why, const void *const *values) {
    for (; *values; values++) {
        const cli_option *option = options;
        if (!cli_given(*values)) continue;
        while (option->name && option->value != *values) option++;
        return cli_misuse(command, "--%s has no effect %s", option->name ? option->name : "?", why);
    }
    return CLI_GO_ON;
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

static int list_add(cli_list *list, const char *item) {
    const char **grown = realloc(list->item, ((size_t)list->n + 1) * sizeof *grown);
    if (!grown) return 0;
    grown[list->n++] = item;
    list->item = grown;
    return 1;
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
    if (!source && given.n < MOST_GIVEN) given.value[given.n++] = option->value;
    switch (option->kind) {
    case CLI_FLAG: *(int *)option->value = 1; break;
    case CLI_INT: return set_int(command, option, name, value);
    case CLI_REAL: return set_real(command, option, name, value);
    case CLI_TEXT: *(const char **)option->value = value; break;
    case CLI_LIST:
        if (!list_add(option->value, value)) return cli_fail(command, "out of memory");
        break;
    case CLI_CHOICE: return set_choice(command, option, name, value);
    case CLI_GROUP: break;
    }
    return CLI_GO_ON;
}

/* ------------------------------------------------------------------------------------------
 * Finding an option
 * ---------------------------------------------------------------------------------------- */

enum { LONGEST_NAME = 48, MOST_NAMES = 160 };

static int add_names(const char **names, int n, const cli_option *options) {
    for (; options->name && n + 1 < MOST_NAMES; options++)
        if (options->kind != CLI_GROUP) names[n++] = options->name;
    return n;
}

static int unknown_option(const cli_command *command, const cli_option *options, const char *name, size_t length) {
    char word[LONGEST_NAME + 1], typed[64];
    const char *names[MOST_NAMES];
    int n = add_names(names, add_names(names, 0, options), cli_common_of(options));
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(length < LONGEST_NAME ? length : LONGEST_NAME), name);
    const char *nearest = cli_nearest(word, names);
    if (nearest) return cli_misuse(command, "there is no option --%s; did you mean --%s?", word, nearest);
    return cli_misuse(command, "there is no option --%s; see %s%s --help", word, cli_program,
                      cli_name_to_type(command, typed));
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
        if (options->kind != CLI_GROUP && strlen(options->name) == length &&
            memcmp(options->name, word + 2, length) == 0)
            return options;
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

/* By --force, the command's own or the general one. */
static int may_replace(const cli_option *options) {
    while (options->name && strcmp(options->name, writing_options[0].name) != 0) options++;
    return options->name ? *(const int *)options->value : is_forced;
}

int cli_check_output(const cli_command *command, const cli_option *options, const char *what, const char *path) {
    char other[64];
    int refuses = !may_replace(options) && cli_is_read_only(path);
    for (; options->name; options++) {
        const char *file;
        for (int i = 0; (file = file_of(options, i)); i++) {
            if (file == path || !cli_same_file(file, path)) continue; /* the same pointer: the option itself */
            return cli_misuse(command, "%s and %s are the same file, %.300s: writing one would destroy the other", what,
                              name_of(options, other), path);
        }
    }
    if (cli_leads_nowhere(path))
        return cli_fail(command, "%.300s (%s): is a symbolic link that leads to no file; remove it, or make the file", path,
                        what);
    int error = cli_write_error(path);
    if (!error && refuses)
        return cli_fail(command, "%.300s (%s): is read-only; --force replaces it all the same", path, what);
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

/* ------------------------------------------------------------------------------------------
 * Arguments
 * ---------------------------------------------------------------------------------------- */

static int asks_for_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return 1;
    return 0;
}

/* An argument that is no option. */
static int take_word(const cli_command *command, const char *word, cli_list *rest) {
    char typed[64];
    if (!rest)
        return cli_misuse(command, "'%s' is one argument too many; see %s%s --help", word, cli_program,
                          cli_name_to_type(command, typed));
    return list_add(rest, word) ? CLI_GO_ON : cli_fail(command, "out of memory");
}

/* The option at argv[*i]; *i moves on to its value where that is an argument of its own. */
static int take_option(const cli_command *command, const cli_option *options, int argc, char **argv, int *i) {
    const char *word = argv[*i], *value;
    const cli_option *option = find_option(options, word, &value);
    if (!option) option = find_option(cli_common_of(options), word, &value);
    if (!option && word[1] != '-')
        return cli_misuse(command, "there is no option %s (put -- before a text that begins with a dash)", word);
    if (!option) return unknown_option(command, options, word + 2, strcspn(word + 2, "="));
    if (option->kind == CLI_FLAG && value) return cli_misuse(command, "--%s takes no value", option->name);
    if (option->kind != CLI_FLAG && !value) {
        if (++*i == argc) return cli_misuse(command, "--%s wants a value: %s", option->name, option->argument);
        value = argv[*i];
    }
    return cli_set_option(command, option, value, NULL);
}

int cli_parse(const cli_command *command, const cli_option *options, int argc, char **argv, cli_list *rest) {
    int only_words = 0, status = CLI_GO_ON;
    given.n = 0;
    if (asks_for_help(argc, argv)) {
        cli_print_help(command, options);
        return cli_finish(command);
    }
    for (int i = 0; i < argc && status == CLI_GO_ON; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) only_words = 1;
        else if (only_words || argv[i][0] != '-' || !argv[i][1]) status = take_word(command, argv[i], rest);
        else status = take_option(command, options, argc, argv, &i);
    }
    return status == CLI_GO_ON ? cli_check_files(command, options) : status;
}
