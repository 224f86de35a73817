/*
 * models/program/cmd-embed.c - embed: texts to vectors
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

typedef struct embed_command {
    cli_session in;
    int normalize, pooling;
    float *vectors; /* room for one batch */
    uint8_t *truncated;
    size_t vector_capacity, truncated_capacity;
} embed_command;

static scbm_status print_vector(const embed_command *s, const float *vector, int n) {
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

static scbm_status embed_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    embed_command *s = user;
    int size = cbm_model_hidden_size(s->in.model);
    scbm_status status = scbm_grow(&s->in.hooks, (void **)&s->vectors, &s->vector_capacity, n * (size_t)size,
                                   sizeof *s->vectors);
    if (status == SCBM_OK)
        status = scbm_grow(&s->in.hooks, (void **)&s->truncated, &s->truncated_capacity, n, sizeof *s->truncated);
    if (status == SCBM_OK)
        status = cbm_embed_batch(s->in.context, texts, lengths, n, (cbm_pooling)s->pooling, (cbm_normalize)s->normalize,
                                 s->vectors, s->truncated);
    cli_progress_clear(&s->in.progress);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        status = print_vector(s, s->vectors + i * (size_t)size, size);
        s->in.n_printed++;
        ++*done;
        s->in.n_truncated += s->truncated[i] != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static int run_embed(const cli_command *command, int argc, char **argv) {
    embed_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        CLI_MODEL_OPTION(s.in),
        CLI_TEXTS_OPTIONS(s.in.texts),
        CLI_GROUP_OF("Vectors"),
        CLI_CHOICE_OPTION("pool", CLI_POOLINGS, &s.pooling,
                          "the tokens' mean, the first or the last token; file: as the model file says"),
        CLI_CHOICE_OPTION("normalize", "file|yes|no", &s.normalize,
                          "scale every vector to length 1; file: as the model file says"),
        CLI_RUN_OPTIONS(s.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = cli_session_answer(&s.in, embed_texts, &s, 0);
    scbm_release(&s.in.hooks, s.vectors);
    scbm_release(&s.in.hooks, s.truncated);
    return cli_session_finish(&s.in, status);
}

static const char *const embed_examples[] = {
    "embed --model demo/encoder.gguf --normalize yes \"The soup was cold.\" \"The staff was kind.\"", NULL};
const cli_command cmd_embed = {
    "embed",
    "turn texts into vectors: one line of numbers a text",
    "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data. With --json: {embedding}.",
    embed_examples,
    run_embed};
