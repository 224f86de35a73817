/*
 * models/program/session.c - what the commands that hand texts to a model begin and end with
 */
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_session_start(cli_session *s, const cli_command *command, const cli_option *options, int argc, char **argv) {
    s->command = command;
    int status = cli_parse(command, options, argc, argv, &s->texts.argument);
    if (status != CLI_GO_ON) return status;
    if (!s->model_path) return cli_misuse(command, "--model FILE is required");
    s->hooks = cli_hooks(&s->progress, command, s->threads);
    return CLI_GO_ON;
}

int cli_session_check_texts(cli_session *s) {
    const char *column = NULL;
    if (s->texts.data && !s->texts.column) {
        scbm_status status = scbm_file_open(&s->file, s->model_path, &s->hooks);
        if (status != SCBM_OK) return cli_fail_status(s->command, status);
        column = scbm_file_string_or(s->file, CBM_KEY_TEXT_COLUMN, NULL);
    }
    return cli_texts_check(s->command, &s->texts, column);
}

int cli_session_load(cli_session *s, int needs_labels) {
    cbm_load_options load = {.hooks = &s->hooks};
    cbm_context_options options;
    scbm_status status = cbm_model_load(&s->model, s->model_path, &load);
    if (status != SCBM_OK) return cli_fail_status(s->command, status);
    int longest = cbm_model_max_tokens(s->model);
    if (s->max_length > longest)
        return cli_fail(s->command, "--max-length %lld: %s reads %d tokens at most", (long long)s->max_length, s->model_path, longest);
    if (needs_labels && cbm_model_mode(s->model) == CBM_ENCODER)
        return cli_fail(s->command, "%s is an encoder without labels; train a model on it first (%s train --help)",
                        s->model_path, cli_program);
    memset(&options, 0, sizeof options);
    options.precision = (scbm_precision)s->precision;
    options.max_tokens = (int)s->max_length;
    status = cbm_context_create(&s->context, s->model, &options);
    return status == SCBM_OK ? CLI_GO_ON : cli_fail_status(s->command, status);
}

int cli_session_finish(cli_session *s, int status) {
    if (s->n_truncated > 0)
        fprintf(stderr, "sparsecbm %s: %lld of %lld texts were longer than the model reads and were cut\n", s->command->name,
                (long long)s->n_truncated, (long long)s->n_printed);
    cbm_context_free(s->context);
    cbm_model_free(s->model);
    scbm_file_close(s->file);
    free((void *)s->texts.argument.item);
    return status;
}
