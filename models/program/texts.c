/*
 * models/program/texts.c - where the texts of tokenize, embed and predict come from
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH_TEXTS 256

int cli_texts_check(const cli_command *command, cli_texts *texts, const char *column) {
    int given = (texts->argument.n > 0) + (texts->file != NULL) + (texts->data != NULL);
    if (given > 1)
        return cli_misuse(command, "give texts as arguments, by --file or by --data, not by several of them");
    if (texts->data && !texts->column) texts->column = column;
    if (texts->data && !texts->column)
        return cli_misuse(command, "--data needs --text COLUMN: which column holds the text?");
    if (!texts->data && texts->column) return cli_misuse(command, "--text names a column of --data, which is missing");
    if (!texts->data && texts->format) return cli_misuse(command, "--format is the format of --data, which is missing");
    if (given == 0) {
        if (isatty(STDIN_FILENO))
            return cli_misuse(command, "no text was given: write it as an argument, or use --file, --data or a pipe");
        texts->file = "-";
    }
    return CLI_GO_ON;
}

int64_t cli_texts_row(const cli_texts *texts, size_t i) {
    size_t at = (size_t)texts->first - 1 + i;
    return texts->row ? (int64_t)texts->row[at] : (int64_t)at + 1;
}

const char *cli_texts_id(const cli_texts *texts, size_t i) {
    return texts->id ? texts->id[(size_t)texts->first - 1 + i] : NULL;
}

/* Lines that were read and not yet handled. */
typedef struct line_batch {
    cli_texts *texts;
    cli_texts_function handle;
    void *user;
    const scbm_hooks *hooks;
    const char *source; /* "texts.txt, line" for messages */
    char *text[BATCH_TEXTS];
    size_t length[BATCH_TEXTS];
    size_t n;
    int wait_for_more; /* 1: a plain file; 0: ask standard input; -1: never */
} line_batch;

/* Puts the place before the last error. */
static scbm_status name_place(scbm_status status, const char *source, int64_t number) {
    if (status == SCBM_ERROR_CANCELLED || status == SCBM_ERROR_IO || status == SCBM_ERROR_MEMORY) return status;
    char message[512];
    snprintf(message, sizeof message, "%s", scbm_last_error());
    return scbm_fail(status, "%s %lld: %s", source, (long long)number, message);
}

/* A batch with a bad text in it goes on text by text, so that what comes before the bad one is answered and the
 * message can say which one it is. */
static scbm_status handle_batch(cli_texts *texts, const char *source, cli_texts_function handle, void *user,
                                const scbm_hooks *hooks, const char *const *text, const size_t *length, size_t n) {
    size_t done = 0;
    cli_progress *progress = hooks->user;
    progress->before = texts->first - 1;
    progress->batch = (int64_t)n;
    scbm_status status = handle(user, text, length, n, &done);
    texts->first += (int64_t)done;
    while (status != SCBM_OK && status != SCBM_ERROR_IO && status != SCBM_ERROR_CANCELLED && n > 1 && done < n) {
        size_t one = 0;
        status = handle(user, text + done, length + done, 1, &one);
        if (!one) break;
        done++;
        texts->first++;
        if (status == SCBM_OK && done < n) status = SCBM_ERROR_FORMAT; /* the bad one is still to come */
    }
    if (status == SCBM_OK) return SCBM_OK;
    return name_place(status, source, texts->row ? (int64_t)texts->row[texts->first - 1] : texts->first);
}

static scbm_status flush_lines(line_batch *batch) {
    scbm_status status = SCBM_OK;
    if (batch->n)
        status = handle_batch(batch->texts, batch->source, batch->handle, batch->user, batch->hooks,
                              (const char *const *)batch->text, batch->length, batch->n);
    for (size_t i = 0; i < batch->n; i++) scbm_release(batch->hooks, batch->text[i]);
    batch->n = 0;
    return status;
}

/* Whether the reader of lines will have another one without waiting. */
static int more_is_there(const line_batch *batch) {
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (batch->wait_for_more) return batch->wait_for_more > 0;
    return poll(&input, 1, 0) == 1;
}

/* How many lines a plain file has; 0 where it cannot be read. */
static int64_t count_lines(const char *path, const scbm_hooks *hooks) {
    scbm_bytes bytes;
    int64_t n = 0;
    if (scbm_bytes_open(&bytes, path, hooks) != SCBM_OK) return 0;
    for (size_t at = 0; at < bytes.size; n++) {
        const unsigned char *end = memchr(bytes.data + at, '\n', bytes.size - at);
        at = end ? (size_t)(end - bytes.data) + 1 : bytes.size;
    }
    scbm_bytes_close(&bytes, hooks);
    return n;
}

static scbm_status take_line(void *user, const char *text, size_t length, size_t line_number, int more) {
    line_batch *batch = user;
    (void)line_number;
    char *copy = scbm_alloc(batch->hooks, length + 1);
    if (!copy) return SCBM_ERROR_MEMORY;
    memcpy(copy, text, length);
    batch->text[batch->n] = copy;
    batch->length[batch->n++] = length;
    if (batch->n < BATCH_TEXTS && (more || more_is_there(batch))) return SCBM_OK;
    return flush_lines(batch);
}

static scbm_status each_line(cli_texts *texts, cli_texts_function handle, void *user, const scbm_hooks *hooks) {
    int is_stdin = strcmp(texts->file, "-") == 0;
    struct stat facts;
    char source[300];
    snprintf(source, sizeof source, "%.280s, line", is_stdin ? "standard input" : texts->file);
    line_batch *batch = scbm_alloc(hooks, sizeof *batch);
    if (!batch) return SCBM_ERROR_MEMORY;
    batch->texts = texts;
    batch->handle = handle;
    batch->user = user;
    batch->hooks = hooks;
    batch->source = source;
    int known = is_stdin ? fstat(STDIN_FILENO, &facts) : stat(texts->file, &facts);
    batch->wait_for_more = known == 0 && S_ISREG(facts.st_mode) ? 1 : is_stdin ? 0 : -1;
    if (batch->wait_for_more > 0 && !is_stdin) ((cli_progress *)hooks->user)->whole = count_lines(texts->file, hooks);
    scbm_status status = cbm_read_lines(texts->file, take_line, NULL, batch, hooks);
    if (status == SCBM_OK) {
        status = flush_lines(batch);
    } else if (batch->n) { /* the reader met a bad line: answer those before it, and keep its message */
        char message[512];
        snprintf(message, sizeof message, "%s", scbm_last_error());
        if (flush_lines(batch) == SCBM_OK) scbm_fail(status, "%s", message);
    }
    scbm_release(hooks, batch);
    return status;
}

static scbm_status each_row(cli_texts *texts, cli_texts_function handle, void *user, const scbm_hooks *hooks) {
    char source[300];
    cbm_dataset data;
    const cbm_dataset_options options = {.paths = &texts->data,
                                         .n_paths = 1,
                                         .format = (cbm_data_format)texts->format,
                                         .text = texts->column,
                                         .id = texts->id_column,
                                         .text_option = "--text COLUMN",
                                         .id_option = "--id COLUMN",
                                         .format_option = "--format FORMAT"};
    scbm_status status = cbm_dataset_read(&data, &options, hooks);
    if (status != SCBM_OK) return status;
    snprintf(source, sizeof source, "%.280s, row", strcmp(texts->data, "-") == 0 ? "standard input" : texts->data);
    texts->row = data.row;
    texts->id = data.id;
    ((cli_progress *)hooks->user)->whole = (int64_t)data.n;
    for (size_t i = 0; status == SCBM_OK && i < data.n; i += BATCH_TEXTS) {
        size_t n = data.n - i < BATCH_TEXTS ? data.n - i : BATCH_TEXTS;
        status = handle_batch(texts, source, handle, user, hooks, (const char *const *)data.text + i,
                              data.text_length + i, n);
    }
    texts->row = NULL;
    texts->id = NULL;
    cbm_dataset_clear(&data);
    return status;
}

static scbm_status each_argument(cli_texts *texts, cli_texts_function handle, void *user, const scbm_hooks *hooks) {
    size_t n = (size_t)texts->argument.n;
    size_t *length = scbm_alloc_array(hooks, n, sizeof *length);
    if (!length) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < n; i++) length[i] = strlen(texts->argument.item[i]);
    scbm_status status = handle_batch(texts, "text", handle, user, hooks, texts->argument.item, length, n);
    scbm_release(hooks, length);
    return status;
}

int cli_texts_each(const cli_command *command, cli_texts *texts, cli_texts_function handle, void *user,
                   const scbm_hooks *hooks) {
    scbm_status status;
    texts->first = 1;
    if (texts->data) status = each_row(texts, handle, user, hooks);
    else if (texts->file) status = each_line(texts, handle, user, hooks);
    else status = each_argument(texts, handle, user, hooks);
    ((cli_progress *)hooks->user)->whole = 0;
    if (status == SCBM_OK && texts->file && texts->first == 1)
        fprintf(stderr, "sparsecbm %s: there are no texts in %s\n", command->name,
                strcmp(texts->file, "-") == 0 ? "standard input" : texts->file);
    return status == SCBM_OK ? cli_finish(command) : cli_fail_status(command, status);
}
