/*
 * models/program/cmd-embed.c - embed: texts to vectors
 */
#include "models/program/program.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct embed_command {
    cli_session in;
    int normalize, pooling;
    float *vectors; /* room for one batch */
    uint8_t *truncated;
    size_t vector_capacity, truncated_capacity;
    const char *npy_path;
    float *kept; /* of the file: [n_kept, hidden size] */
    size_t n_kept, kept_capacity;
} embed_command;

/* ------------------------------------------------------------------------------------------
 * NumPy's format, version 1.0 (numpy.lib.format): a head of 64 bytes or a multiple, and the numbers
 * ---------------------------------------------------------------------------------------- */

static scbm_status keep_vectors(embed_command *s, size_t n) {
    size_t size = (size_t)cbm_model_hidden_size(s->in.model), wanted = (s->n_kept + n) * size;
    scbm_status status = scbm_grow(&s->in.hooks, (void **)&s->kept, &s->kept_capacity, wanted, sizeof *s->kept);
    if (status != SCBM_OK) return status;
    memcpy(s->kept + s->n_kept * size, s->vectors, n * size * sizeof *s->vectors);
    s->n_kept += n;
    return SCBM_OK;
}

static int is_little_endian(void) {
    const uint16_t one = 1;
    return *(const unsigned char *)&one == 1;
}

static scbm_status write_npy(const embed_command *s) {
    enum { LINE = 64, PREFIX = 10 };
    char head[4 * LINE];
    size_t size = (size_t)cbm_model_hidden_size(s->in.model);
    scbm_output_file *file;
    scbm_status status = scbm_output_open(&file, s->npy_path, &s->in.hooks);
    if (status != SCBM_OK) return status;
    int used = snprintf(head, sizeof head, "{'descr': '%sf4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                        is_little_endian() ? "<" : ">", s->n_kept, size);
    int length = (PREFIX + used + 1 + LINE - 1) / LINE * LINE - PREFIX;
    const unsigned char prefix[PREFIX] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(length & 255), (unsigned char)(length >> 8)};
    scbm_output_write(file, prefix, sizeof prefix);
    scbm_output_print(file, "%-*s\n", length - 1, head);
    scbm_output_write(file, s->kept, s->n_kept * size * sizeof *s->kept);
    status = scbm_output_commit(file);
    if (status == SCBM_OK) cli_say_wrote(s->in.command, s->npy_path);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Texts
 * ---------------------------------------------------------------------------------------- */

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
    if (s->npy_path && status == SCBM_OK) status = keep_vectors(s, n);
    else cli_progress_clear(&s->in.progress);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        if (!s->npy_path) status = print_vector(s, s->vectors + i * (size_t)size, size);
        s->in.n_printed++;
        ++*done;
        s->in.n_truncated += s->truncated[i] != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

/* A vector of no numbers stands in the place of a bad text. */
static scbm_status answer_bad(void *user, const char *reason) {
    embed_command *s = user;
    int size = cbm_model_hidden_size(s->in.model);
    if (s->in.json) return cli_session_print_bad(&s->in, reason);
    cli_warn(s->in.command, "%s", reason);
    scbm_status status = scbm_grow(&s->in.hooks, (void **)&s->vectors, &s->vector_capacity, (size_t)size,
                                   sizeof *s->vectors);
    for (int i = 0; i < size && status == SCBM_OK; i++) s->vectors[i] = NAN;
    if (status == SCBM_OK) status = s->npy_path ? keep_vectors(s, 1) : print_vector(s, s->vectors, size);
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
        CLI_OUTPUT_OPTION(&s.npy_path, "write a NumPy file in place of printing: float32 [texts, hidden size]"),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s.in, command, options, argc, argv);
    if (status == CLI_GO_ON && s.npy_path)
        status = cli_refuse(command, options, "beside -o", (const void *const[]){&s.in.json, NULL});
    const cli_answers answers = {embed_texts, answer_bad, &s};
    if (status == CLI_GO_ON) status = cli_session_answer(&s.in, &answers, 0);
    if (status == CLI_DONE && s.npy_path) status = cli_fail_status(command, write_npy(&s));
    scbm_release(&s.in.hooks, s.kept);
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
    "Texts are arguments, lines of --file or of a pipe, or a column of --data. With --json: {embedding}.\n"
    "numpy.load reads what -o writes; its rows are the texts. With --keep-going a bad text is answered by a vector of nan,\n"
    "or {row, error}.",
    embed_examples,
    run_embed};
