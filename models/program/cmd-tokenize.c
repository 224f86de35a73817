/*
 * models/program/cmd-tokenize.c - tokenize: texts to the model's tokens
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

static scbm_status print_json(const cbm_token_list *list) {
    cJSON *object = cJSON_CreateObject();
    cJSON *ids = cJSON_CreateArray(), *pieces = cJSON_CreateArray(), *offsets = cJSON_CreateArray();
    for (int i = 0; i < list->n; i++) {
        const cbm_token_info *token = &list->tokens[i];
        int32_t range[2] = {token->start, token->end};
        cJSON_AddItemToArray(ids, cli_json_int(token->id));
        cJSON_AddItemToArray(pieces, cJSON_CreateString(token->piece));
        cJSON_AddItemToArray(offsets, cli_json_ints(range, 2));
    }
    cJSON_AddItemToObject(object, "ids", ids);
    cJSON_AddItemToObject(object, "tokens", pieces);
    cJSON_AddItemToObject(object, "offsets", offsets);
    return cli_json_print(object);
}

static void print_tokens(const cli_session *s, const cbm_token_list *list, const char *text) {
    enum { PIECE = 20 };
    if (s->n_printed || s->texts.n_bad) putchar('\n');
    printf("%7s  %-*s  %-9s  %s\n", "id", PIECE, "piece", "bytes", "text");
    for (int i = 0; i < list->n; i++) {
        const cbm_token_info *token = &list->tokens[i];
        char range[32];
        snprintf(range, sizeof range, "%d-%d", token->start, token->end);
        printf("%7d  ", token->id);
        cli_print_padded(token->piece, strlen(token->piece), PIECE);
        printf("  %-9s  ", range);
        cli_print_text(text + token->start, (size_t)(token->end - token->start));
        putchar('\n');
    }
}

static scbm_status tokenize_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    cli_session *s = user;
    for (size_t i = 0; i < n; i++) {
        const cbm_token_list *list;
        scbm_status status = cbm_tokens_of(s->context, texts[i], lengths[i], &list);
        if (status == SCBM_OK && s->json) status = print_json(list);
        else if (status == SCBM_OK) print_tokens(s, list, texts[i]);
        if (status != SCBM_OK) return status;
        s->n_printed++;
        ++*done;
        s->n_truncated += list->truncated != 0;
    }
    return cli_flush();
}

static scbm_status answer_bad(void *user, const char *reason) {
    return cli_session_print_bad(user, reason);
}

static int run_tokenize(const cli_command *command, int argc, char **argv) {
    cli_session s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        CLI_MODEL_OPTION(s), CLI_TEXTS_OPTIONS(s.texts), CLI_LENGTH_OPTION(s), CLI_JSON_OPTION(s), CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s, command, options, argc, argv);
    const cli_answers answers = {tokenize_texts, answer_bad, &s};
    if (status == CLI_GO_ON) status = cli_session_answer(&s, &answers, 0);
    return cli_session_finish(&s, status);
}

static const char *const tokenize_examples[] = {"tokenize --model demo/encoder.gguf \"The soup was unforgettable.\"",
                                                NULL};
const cli_command cmd_tokenize = {
    "tokenize",
    "split texts into the model's tokens: ids, pieces and byte ranges",
    "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data.\n"
    "With --json: {ids, tokens, offsets}; offsets are [start, end) in bytes, [0,0] for special tokens.\n"
    "With --keep-going a bad text is answered by {row, error}.",
    tokenize_examples,
    run_tokenize};
