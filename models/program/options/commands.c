/*
 * models/program/options/commands.c - which command is meant: `sparsecbm COMMAND …`, help, version
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

enum { MOST_COMMANDS = 64 };

static const cli_command *find_command(const cli_command *const *commands, const char *name) {
    for (; *commands; commands++)
        if (strcmp((*commands)->name, name) == 0) return *commands;
    return NULL;
}

static void print_usage(const cli_command *const *commands, FILE *to) {
    fprintf(to,
            "sparsecbm trains concept bottleneck models on texts and explains what they predict.\n\n"
            "Usage: %s COMMAND [options]\n\nCommands:\n",
            cli_program);
    for (; *commands; commands++) fprintf(to, "  %-10s %s\n", (*commands)->name, (*commands)->summary);
    fprintf(to,
            "\n%s COMMAND --help tells a command's options, with an example; %s --version the version.\n"
            "The environment's SCBM_CPU=portable|avx2|avx512|amx chooses the kernels, NO_COLOR turns colours off.\n",
            cli_program, cli_program);
}

static int unknown_command(const cli_command *const *commands, const char *name) {
    const char *names[MOST_COMMANDS + 2];
    int n = 0;
    for (; commands[n] && n < MOST_COMMANDS; n++) names[n] = commands[n]->name;
    names[n++] = "help";
    names[n] = NULL;
    const char *nearest = cli_nearest(name, names);
    if (nearest) return cli_misuse(NULL, "there is no command '%s'; did you mean '%s'?", name, nearest);
    return cli_misuse(NULL, "there is no command '%s'; see %s --help", name, cli_program);
}

static int help(const cli_command *const *commands, const char *topic) {
    static char option[] = "--help";
    static char *only_help[] = {option};
    const cli_command *command = find_command(commands, topic);
    return command ? command->run(command, 1, only_help) : unknown_command(commands, topic);
}

int cli_main(const cli_command *const *commands, int argc, char **argv) {
    if (argc > 0 && argv[0][0]) cli_program = argv[0];
    cli_hold_standard_files();
    cli_catch_signals();
    if (argc < 2) {
        print_usage(commands, stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    int wants_help = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (wants_help && argc == 2)) {
        print_usage(commands, stdout);
        return cli_finish(NULL);
    }
    if (wants_help && strcmp(argv[2], "--man") == 0) return cli_print_manual(commands, argc > 3 ? argv[3] : "");
    if (wants_help && strcmp(argv[2], "--bash-completion") == 0) return cli_print_completion(commands);
    if (wants_help) return help(commands, argv[2]);
    if (strcmp(name, "--version") == 0) return cli_print_version();
    if (name[0] == '-') return cli_misuse(NULL, "a command is expected before '%s'; see %s --help", name, cli_program);
    const cli_command *command = find_command(commands, name);
    return command ? command->run(command, argc - 2, argv + 2) : unknown_command(commands, name);
}

/* ------------------------------------------------------------------------------------------
 * A program that is one command
 * ---------------------------------------------------------------------------------------- */

static int is_alone;

int cli_run_alone(const cli_command *command, int argc, char **argv) {
    if (argc > 0 && argv[0][0]) cli_program = argv[0];
    is_alone = 1;
    cli_hold_standard_files();
    cli_catch_signals();
    if (argc == 2 && strcmp(argv[1], "--version") == 0) return cli_print_version();
    return command->run(command, argc > 0 ? argc - 1 : 0, argc > 0 ? argv + 1 : argv);
}

const char *cli_name_to_type(const cli_command *command, char text[64]) {
    if (is_alone) text[0] = 0;
    else snprintf(text, 64, " %s", command->name);
    return text;
}

int cli_print_version(void) {
    int version = scbm_version();
    printf("sparsecbm %d.%d.%d\n", version / 10000, version / 100 % 100, version % 100);
    return cli_finish(NULL);
}
