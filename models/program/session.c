/*
 * models/program/session.c - what the commands that run a model begin and end with
 */
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_session_parse(cli_session *s, const cli_command *command, const cli_option *options, int argc, char **argv) {
    s->command = command;
    int status = cli_parse(command, options, argc, argv, &s->texts.argument);
    if (status != CLI_GO_ON) return status;
    s->hooks = cli_hooks(&s->progress, command, s->threads);
    return cli_open_device(command, s->device, &s->backend);
}

int cli_session_start(cli_session *s, const cli_command *command, const cli_option *options, int argc, char **argv) {
    int status = cli_session_parse(s, command, options, argc, argv);
    if (status != CLI_GO_ON) return status;
    return s->model_path ? CLI_GO_ON : cli_misuse(command, "--model FILE is required");
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

static scbm_status load_model(cli_session *s) {
    const cbm_load_options load = {.hooks = &s->hooks};
    return s->model ? SCBM_OK : cbm_model_load(&s->model, s->model_path, &load);
}

static scbm_status make_context(cli_session *s) {
    const cbm_context_options options = {
        .backend = s->backend, .precision = (scbm_precision)s->precision, .max_tokens = (int)s->max_length};
    return cbm_context_create(&s->context, s->model, &options);
}

int cli_session_load(cli_session *s, int needs_labels) {
    scbm_status status = load_model(s);
    if (status != SCBM_OK) return cli_fail_status(s->command, status);
    int longest = cbm_model_max_tokens(s->model);
    if (s->max_length > longest)
        return cli_fail(s->command, "--max-length %lld: %s reads %d tokens at most", (long long)s->max_length,
                        s->model_path, longest);
    if (needs_labels && cbm_model_mode(s->model) == CBM_ENCODER)
        return cli_fail(s->command, "%s is an encoder without labels; train a model on it first (%s train --help)",
                        s->model_path, cli_program);
    status = make_context(s);
    return status == SCBM_OK ? CLI_GO_ON : cli_fail_status(s->command, status);
}

scbm_status cli_session_open(cli_session *s) {
    scbm_status status = load_model(s);
    return status == SCBM_OK ? make_context(s) : status;
}

void cli_session_close(cli_session *s) {
    cbm_context_free(s->context);
    cbm_model_free(s->model);
    s->context = NULL;
    s->model = NULL;
}

int cli_session_finish(cli_session *s, int status) {
    if (s->n_truncated > 0)
        cli_note(s->command, "%lld of %lld texts were longer than the model reads and were cut",
                 (long long)s->n_truncated, (long long)s->n_printed);
    cli_session_close(s);
    scbm_backend_close(s->backend);
    scbm_file_close(s->file);
    free((void *)s->texts.argument.item);
    return status == CLI_DONE && s->texts.n_bad ? CLI_FAILED : status;
}

int cli_session_answer(cli_session *s, const cli_answers *answers, int needs_labels) {
    int status = cli_session_check_texts(s);
    if (status == CLI_GO_ON) status = cli_session_load(s, needs_labels);
    return status == CLI_GO_ON ? cli_texts_each(s->command, &s->texts, answers, &s->hooks) : status;
}

scbm_status cli_session_print_bad(cli_session *s, const char *reason) {
    if (s->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "row", cli_json_int(cli_texts_row(&s->texts, 0)));
        cJSON_AddStringToObject(object, "error", reason);
        scbm_status status = cli_json_print(object);
        return status == SCBM_OK ? cli_flush() : status;
    }
    if (s->n_printed || s->texts.n_bad) putchar('\n');
    printf("error: ");
    cli_print_text(reason, strlen(reason));
    putchar('\n');
    return cli_flush();
}
