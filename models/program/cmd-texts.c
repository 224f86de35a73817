/*
 * models/program/cmd-texts.c - tokenize, embed and predict: texts in, one result a text out
 */
#include "models/program/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the three commands have in common. */
typedef struct text_command {
    cli_session in;
    int normalize, pooling;
    float *vectors;                /* room for one batch */
    uint8_t *truncated;
    size_t vector_capacity, truncated_capacity;
} text_command;

static int finish(text_command *s, int status) {
    scbm_release(&s->in.hooks, s->vectors);
    scbm_release(&s->in.hooks, s->truncated);
    return cli_session_finish(&s->in, status);
}

/* What the model says of the texts, once the session has started. */
static int answer(text_command *s, cli_texts_function handle, int needs_labels) {
    int status = cli_session_check_texts(&s->in);
    if (status == CLI_GO_ON) status = cli_session_load(&s->in, needs_labels);
    if (status == CLI_GO_ON) status = cli_texts_each(s->in.command, &s->in.texts, handle, s, &s->in.hooks);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * tokenize
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_tokens_json(const cbm_token_list *list) {
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

static void print_tokens(const text_command *s, const cbm_token_list *list, const char *text) {
    if (s->in.n_printed) putchar('\n');
    printf("%7s  %-20s  %-9s  %s\n", "id", "piece", "bytes", "text");
    for (int i = 0; i < list->n; i++) {
        const cbm_token_info *token = &list->tokens[i];
        char range[32];
        snprintf(range, sizeof range, "%d-%d", token->start, token->end);
        printf("%7d  %-20s  %-9s  %.*s\n", token->id, token->piece, range, token->end - token->start, text + token->start);
    }
}

static scbm_status tokenize_texts(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                  size_t *done) {
    text_command *s = user;
    for (size_t i = 0; i < n; i++) {
        const cbm_token_list *list;
        scbm_status status = cbm_tokens_of(s->in.context, texts[i], lengths[i], &list);
        if (status == SCBM_OK && s->in.json) status = print_tokens_json(list);
        else if (status == SCBM_OK) print_tokens(s, list, texts[i]);
        if (status != SCBM_OK) return status;
        s->in.n_printed++;
        ++*done;
        s->in.n_truncated += list->truncated != 0;
    }
    return cli_flush();
}

static int run_tokenize(const cli_command *command, int argc, char **argv) {
    text_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {CLI_MODEL_OPTION(s.in), CLI_TEXTS_OPTIONS(s.in.texts), CLI_LENGTH_OPTION(s.in),
                                  CLI_JSON_OPTION(s.in), CLI_END_OPTIONS};
    int status = cli_session_start(&s.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = answer(&s, tokenize_texts, 0);
    return finish(&s, status);
}

static const char *const tokenize_examples[] = {"tokenize --model demo/encoder.gguf \"The soup was unforgettable.\"", NULL};
const cli_command cmd_tokenize = {
    "tokenize", "split texts into the model's tokens: ids, pieces and byte ranges",
    "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data.\n"
    "With --json: {ids, tokens, offsets}; offsets are [start, end) in bytes, [0,0] for special tokens.",
    tokenize_examples, run_tokenize};

/* ------------------------------------------------------------------------------------------
 * embed
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_vector(const text_command *s, const float *vector, int n) {
    if (s->in.json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "embedding", cli_json_floats(vector, n));
        return cli_json_print(object);
    }
    for (int i = 0; i < n; i++) {
        char text[32];
        if (i) putchar(' ');
        fputs(scbm_print_float(vector[i], text), stdout);
    }
    putchar('\n');
    return SCBM_OK;
}

static scbm_status embed_texts(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                  size_t *done) {
    text_command *s = user;
    int size = cbm_model_hidden_size(s->in.model);
    scbm_status status = scbm_grow(&s->in.hooks, (void **)&s->vectors, &s->vector_capacity, n * (size_t)size, sizeof *s->vectors);
    if (status == SCBM_OK)
        status = scbm_grow(&s->in.hooks, (void **)&s->truncated, &s->truncated_capacity, n, sizeof *s->truncated);
    if (status == SCBM_OK)
        status = cbm_embed_batch(s->in.context, texts, lengths, n, (cbm_pooling)s->pooling, (cbm_normalize)s->normalize, s->vectors, s->truncated);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        status = print_vector(s, s->vectors + i * (size_t)size, size);
        s->in.n_printed++;
        ++*done;
        s->in.n_truncated += s->truncated[i] != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static int run_embed(const cli_command *command, int argc, char **argv) {
    text_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        CLI_MODEL_OPTION(s.in),
        CLI_TEXTS_OPTIONS(s.in.texts),
        CLI_CHOICE_OPTION("pooling", "default|mean|cls", &s.pooling, "mean over the tokens, or the first token; default: as the model file says"),
        CLI_CHOICE_OPTION("normalize", "file|yes|no", &s.normalize, "scale every vector to length 1; file: as the model file says"),
        CLI_RUN_OPTIONS(s.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = answer(&s, embed_texts, 0);
    return finish(&s, status);
}

static const char *const embed_examples[] = {
    "embed --model demo/encoder.gguf --normalize yes \"The soup was cold.\" \"The staff was kind.\"", NULL};
const cli_command cmd_embed = {
    "embed", "turn texts into vectors: one line of numbers a text", "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data. With --json: {embedding}.", embed_examples,
    run_embed};

/* ------------------------------------------------------------------------------------------
 * predict
 * ---------------------------------------------------------------------------------------- */

static scbm_status predict_texts(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                  size_t *done) {
    text_command *s = user;
    const cbm_prediction *const *predictions;
    scbm_status status = cbm_predict_batch(s->in.context, texts, lengths, n, &predictions);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        if (s->in.json) {
            status = cli_json_print(cli_json_prediction(predictions[i]));
        } else {
            if (s->in.n_printed) putchar('\n');
            cli_print_prediction(texts[i], lengths[i], predictions[i]);
        }
        s->in.n_printed++;
        ++*done;
        s->in.n_truncated += predictions[i]->truncated != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static int run_predict(const cli_command *command, int argc, char **argv) {
    text_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        CLI_MODEL_OPTION(s.in),
        CLI_TEXTS_OPTIONS(s.in.texts),
        CLI_RUN_OPTIONS(s.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = answer(&s, predict_texts, 1);
    return finish(&s, status);
}

static const char *const predict_examples[] = {
    "predict --model demo/reviews.gguf \"The soup was cold, but the waiter was lovely.\"", NULL};
const cli_command cmd_predict = {
    "predict", "predict a label and say what each concept contributed", "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data.\n"
    "Each concept is shown with its class, that class's probability, and its exact contribution to the predicted\n"
    "label's logit: the bias and the contributions add up to it. With --json: {label, probability, logits, bias,\n"
    "truncated, concepts: [{name, class, probability, logits, contribution}]}.",
    predict_examples, run_predict};
