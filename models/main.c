/*
 * models/main.c - the program: one command after the other's name
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

static const cli_command *const commands[] = {&cmd_demo,    &cmd_train,     &cmd_eval,  &cmd_predict,
                                              &cmd_explain, &cmd_intervene, &cmd_embed, &cmd_tokenize,
                                              &cmd_convert, &cmd_quantize, &cmd_inspect,  &cmd_bench};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const cli_command *find_command(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    }
    return NULL;
}

static void print_usage(FILE *to) {
    fprintf(to, "sparsecbm trains concept bottleneck models on texts and explains what they predict.\n\n"
                "Usage: %s COMMAND [options]\n\nCommands:\n", cli_program);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\n%s COMMAND --help tells a command's options, with an example; %s --version the version.\n"
                "The environment's SCBM_CPU=portable|avx2|avx512|amx chooses the kernels.\n", cli_program, cli_program);
}

static int unknown_command(const char *name) {
    const char *names[N_COMMANDS + 2];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
    names[N_COMMANDS] = "help";
    names[N_COMMANDS + 1] = NULL;
    const char *nearest = cli_nearest(name, names);
    if (nearest) return cli_misuse(NULL, "there is no command '%s'; did you mean '%s'?", name, nearest);
    return cli_misuse(NULL, "there is no command '%s'; see %s --help", name, cli_program);
}

int main(int argc, char **argv) {
    static char help_option[] = "--help";
    static char *only_help[] = {help_option};
    if (argc > 0 && argv[0][0]) cli_program = argv[0];
    if (argc < 2) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    int wants_help = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (wants_help && argc == 2)) {
        print_usage(stdout);
        return cli_finish(NULL);
    }
    if (strcmp(name, "--version") == 0) return cli_print_version();
    if (name[0] == '-') return cli_misuse(NULL, "a command is expected before '%s'; see %s --help", name, cli_program);
    if (wants_help) name = argv[2];
    const cli_command *command = find_command(name);
    if (!command) return unknown_command(name);
    return wants_help ? command->run(command, 1, only_help) : command->run(command, argc - 2, argv + 2);
}
