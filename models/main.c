/*
 * models/main.c - the program's commands: each is a file of models/program/ and a row here
 */
#include "models/program/options/options.h"

#define COMMANDS(ROW)                                                                                                  \
    ROW(demo)                                                                                                          \
    ROW(train)                                                                                                         \
    ROW(eval)                                                                                                          \
    ROW(predict)                                                                                                       \
    ROW(explain)                                                                                                       \
    ROW(intervene)                                                                                                     \
    ROW(embed)                                                                                                         \
    ROW(tokenize)                                                                                                      \
    ROW(convert)                                                                                                       \
    ROW(export)                                                                                                        \
    ROW(quantize)                                                                                                      \
    ROW(inspect)                                                                                                       \
    ROW(bench)

#define DECLARE(name) extern const cli_command cmd_##name;
#define ADDRESS(name) &cmd_##name,

COMMANDS(DECLARE)

int main(int argc, char **argv) {
    static const cli_command *const commands[] = {COMMANDS(ADDRESS) NULL};
    return cli_main(commands, argc, argv);
}
