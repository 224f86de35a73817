/*
 * models/program/options/help.c - what --help prints: a command's options in groups, its details and examples
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Of an option
 * ---------------------------------------------------------------------------------------- */

void cli_describe_option(const cli_option *option, char *text, size_t size) {
    const char *choice = option->argument;
    char standard[128] = "";
    switch (option->kind) {
    case CLI_INT:
        if ((double)*(int64_t *)option->value < option->least) break;
        snprintf(standard, sizeof standard, " (default %lld)", (long long)*(int64_t *)option->value);
        break;
    case CLI_REAL:
        if (*(double *)option->value < option->least) break;
        snprintf(standard, sizeof standard, " (default %g)", *(double *)option->value);
        break;
    case CLI_CHOICE:
        if (*(int *)option->value < 0) break;
        for (int i = *(int *)option->value; i > 0; i--) choice += strcspn(choice, "|") + 1;
        snprintf(standard, sizeof standard, " (default %.*s)", (int)strcspn(choice, "|"), choice);
        break;
    default: break;
    }
    snprintf(text, size, "%s%s", option->help, standard);
}

const char *cli_group_of(const cli_option *options, const cli_option *option) {
    if (option->group) return option->group;
    while (option > options && option[-1].kind != CLI_GROUP) option--;
    return option > options ? option[-1].name : "Options";
}

int cli_begins_group(const cli_option *options, const cli_option *option) {
    if (option->kind == CLI_GROUP) return 0;
    for (const cli_option *before = options; before < option; before++)
        if (before->kind != CLI_GROUP && strcmp(cli_group_of(options, before), cli_group_of(options, option)) == 0)
            return 0;
    return 1;
}

/* ------------------------------------------------------------------------------------------
 * On the terminal
 * ---------------------------------------------------------------------------------------- */

enum { HELP_COLUMN = 30, LINE_END = 110, LONGEST_HELP = 1024 };

/* Words from HELP_COLUMN on, where the line is already. */
static void print_wrapped(const char *text) {
    int column = HELP_COLUMN;
    for (const char *word = text; *word;) {
        int length = (int)strcspn(word, " ");
        if (column > HELP_COLUMN && column + 1 + length > LINE_END) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, word);
        column += length;
        word += length;
        word += *word == ' ';
    }
    putchar('\n');
}

/* "  -o, --output FILE   " and the help text. */
static void print_option(const cli_option *option) {
    char left[256], help[LONGEST_HELP];
    cli_describe_option(option, help, sizeof help);
    int n = option->letter ? snprintf(left, sizeof left, "  -%c, ", option->letter) : snprintf(left, sizeof left, "  ");
    n += snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", option->name, option->argument ? " " : "",
                  option->argument ? option->argument : "");
    fputs(left, stdout);
    if (n >= HELP_COLUMN - 1) {
        putchar('\n');
        n = 0;
    }
    printf("%*s", HELP_COLUMN - n, "");
    print_wrapped(help);
}

static void print_heading(const char *heading) {
    printf("\n%s%s:%s\n", cli_style_begin(stdout, CLI_BOLD), heading, cli_style_begin(stdout, CLI_PLAIN));
}

static void print_options(const cli_option *options) {
    for (const cli_option *first = options; first->name; first++) {
        if (!cli_begins_group(options, first)) continue;
        print_heading(cli_group_of(options, first));
        for (const cli_option *option = first; option->name; option++)
            if (option->kind != CLI_GROUP && strcmp(cli_group_of(options, option), cli_group_of(options, first)) == 0)
                print_option(option);
    }
    print_heading("General");
    for (const cli_option *option = cli_common_of(options); option->name; option++) print_option(option);
}

/* What of "convert FOLDER" follows the program's name. */
static const char *after_program(const cli_command *command, const char *example) {
    char name[64];
    if (*cli_name_to_type(command, name)) return example;
    const char *rest = example + strcspn(example, " ");
    return *rest ? rest + 1 : rest;
}

static void print_help(const cli_command *command, const cli_option *options) {
    char name[64];
    printf("%s\n\nUsage: %s%s %s\n", command->summary, cli_program, cli_name_to_type(command, name), command->usage);
    print_options(options);
    if (command->details) printf("\n%s\n", command->details);
    print_heading("Example");
    for (int i = 0; command->examples[i]; i++)
        printf("  %s %s\n", cli_program, after_program(command, command->examples[i]));
}

/* ------------------------------------------------------------------------------------------
 * The other forms that help may have
 * ---------------------------------------------------------------------------------------- */

static cli_help_form form = print_help;

void cli_print_help(const cli_command *command, const cli_option *options) {
    form(command, options);
}

int cli_help_of_all(const cli_command *const *commands, cli_help_form other) {
    static char option[] = "--help";
    static char *only_help[] = {option};
    int status = CLI_DONE;
    form = other;
    for (; *commands && status == CLI_DONE; commands++) status = (*commands)->run(*commands, 1, only_help);
    form = print_help;
    return status;
}
