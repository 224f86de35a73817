/*
 * models/program/options/completion.c - the completion of arguments in bash, from the commands' tables
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

/* A pattern and what it completes to, of `case $command:$option`. */
static void put_option(const cli_command *command, const cli_option *option) {
    if (option->kind == CLI_FLAG || option->kind == CLI_GROUP) return;
    printf("        %s:--%s", command->name, option->name);
    if (option->letter) printf("|%s:-%c", command->name, option->letter);
    fputs(") ", stdout);
    if (option->use != CLI_NO_FILE) {
        puts("_sparsecbm_files ;;");
    } else if (option->kind == CLI_CHOICE) {
        fputs("_sparsecbm_words '", stdout);
        for (const char *c = option->argument; *c; c++) putchar(*c == '|' ? ' ' : *c);
        puts("' ;;");
    } else {
        puts(":;;");
    }
}

static void put_values(const cli_command *command, const cli_option *options) {
    for (; options->name; options++) put_option(command, options);
}

static void put_names(const cli_command *command, const cli_option *options) {
    printf("        %s) _sparsecbm_words '", command->name);
    const cli_option *common = cli_common_of(options);
    for (; options->name; options++)
        if (options->kind != CLI_GROUP) printf("--%s ", options->name);
    for (const cli_option *option = common; option->name; option++) printf("--%s ", option->name);
    puts("' ;;");
}

int cli_print_completion(const cli_command *const *commands) {
    puts(
        "# Completion of sparsecbm's arguments for bash, made by `sparsecbm help --bash-completion`.\n"
        "\n"
        "_sparsecbm_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$current\")); }\n"
        "_sparsecbm_files() { local IFS=$'\\n'; COMPREPLY=($(compgen -f -- \"$current\")); compopt -o filenames 2>/dev/null; }\n"
        "\n"
        "_sparsecbm() {\n"
        "    local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
        "    COMPREPLY=()\n"
        "    # --name=value is three words\n"
        "    if [ \"$current\" = = ]; then current=; fi\n"
        "    if [ \"$option\" = = ]; then option=${COMP_WORDS[COMP_CWORD-2]}; fi");
    fputs("    if [ \"$COMP_CWORD\" = 1 ]; then _sparsecbm_words 'help --help --version", stdout);
    for (const cli_command *const *command = commands; *command; command++) printf(" %s", (*command)->name);
    fputs("'; return; fi\n    if [ \"$command\" = help ]; then _sparsecbm_words '", stdout);
    for (const cli_command *const *command = commands; *command; command++) printf("%s ", (*command)->name);
    puts("'; return; fi\n    case $command:$option in");
    int status = cli_help_of_all(commands, put_values);
    if (status != CLI_DONE) return status;
    puts("        *) case $current in\n        -*) case $command in");
    status = cli_help_of_all(commands, put_names);
    if (status != CLI_DONE) return status;
    puts(
        "        esac ;;\n        *) _sparsecbm_files ;;\n        esac ;;\n    esac\n}\n\ncomplete -F _sparsecbm sparsecbm");
    return cli_finish(NULL);
}
