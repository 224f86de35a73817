/*
 * convert/convert-hf.c - the command `convert` as a program of its own
 */
#include "models/program/program.h"

int main(int argc, char **argv) {
    cli_command command = cmd_convert;
    command.name = "convert-hf";
    return cli_run_alone(&command, argc, argv);
}
