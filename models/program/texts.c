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
    return texts->row ? (int64_t)texts->row[i] : texts->first + (int64_t)i;
}

const char *cli_texts_id(const cli_texts *texts, size_t i) {
    return texts->id ? texts->id[i] : NULL;
}

/* ------------------------------------------------------------------------------------------
 * Batches
 * ---------------------------------------------------------------------------------------- */

/* Texts that were read and not yet handled. */
typedef struct text_batch {
    cli_texts *texts;
    const cli_answers *answers;
    const scbm_hooks *hooks;
    const char *source; /* "texts.txt, line" for messages */
    const char *text[BATCH_TEXTS], *id[BATCH_TEXTS];
    size_t length[BATCH_TEXTS], row[BATCH_TEXTS];
    size_t n;
    int is_data;       /* rows and ids are known */
    int wait_for_more; /* 1: a plain file; 0: ask standard input; -1: never */
} text_batch;

/* Puts the place before the last error. */
static scbm_status name_place(scbm_status status, const char *source, int64_t number) {
    char message[512];
    snprintf(message, sizeof message, "%s", scbm_last_error());
    return scbm_fail(status, "%s %lld: %s", source, (long long)number, message);
}

/* What is wrong with the machine or the wish rather than with a text. */
static int ends_all(scbm_status status) {
    return status == SCBM_ERROR_CANCELLED || status == SCBM_ERROR_IO || status == SCBM_ERROR_MEMORY;
}

/* The last error is what is wrong with the next text: it is answered by that. */
static scbm_status answer_bad(const text_batch *b) {
    char reason[512];
    snprintf(reason, sizeof reason, "%s", scbm_last_error());
    cli_progress_clear(b->hooks->user);
    scbm_status status = b->answers->bad(b->answers->user, reason);
    b->texts->n_bad++;
    b->texts->first++;
    return status;
}

/* The batch's texts from `at` on, as they are to be handled: their numbers and ids are those of this call. */
static scbm_status handle_some(const text_batch *b, size_t at, size_t n, size_t *done) {
    cli_texts *texts = b->texts;
    texts->row = b->is_data ? b->row + at : NULL;
    texts->id = b->is_data && texts->id_column ? b->id + at : NULL;
    *done = 0;
    scbm_status status = b->answers->handle(b->answers->user, b->text + at, b->length + at, n, done);
    texts->first += (int64_t)*done;
    return status;
}

/* A batch with a bad text in it goes on text by text, so that what comes before the bad one is answered and the
 * message can say which one it is. */
static scbm_status handle_batch(const text_batch *b) {
    cli_texts *texts = b->texts;
    cli_progress *progress = b->hooks->user;
    size_t at = 0, done, most = b->n;
    progress->before = texts->first - 1;
    progress->batch = (int64_t)b->n;
    while (at < b->n) {
        size_t n = b->n - at < most ? b->n - at : most;
        scbm_status status = handle_some(b, at, n, &done);
        at += done;
        if (status == SCBM_OK) continue;
        if (ends_all(status)) return status;
        most = 1;
        if (n > 1) continue;
        status = name_place(status, b->source, b->is_data ? (int64_t)b->row[at] : texts->first);
        if (!texts->keep_going) return status;
        status = answer_bad(b);
        if (status != SCBM_OK) return status;
        at++;
    }
    return SCBM_OK;
}

static scbm_status flush_batch(text_batch *b) {
    scbm_status status = b->n ? handle_batch(b) : SCBM_OK;
    for (size_t i = 0; i < b->n; i++) {
        scbm_release(b->hooks, (void *)b->text[i]);
        scbm_release(b->hooks, (void *)b->id[i]);
    }
    b->n = 0;
    b->texts->row = NULL;
    b->texts->id = NULL;
    return status;
}

static scbm_status add_text(text_batch *b, const char *text, size_t length) {
    char *copy = scbm_alloc(b->hooks, length + 1);
    if (!copy) return SCBM_ERROR_MEMORY;
    memcpy(copy, text, length);
    b->text[b->n] = copy;
    b->id[b->n] = NULL;
    b->length[b->n++] = length;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Lines
 * ---------------------------------------------------------------------------------------- */

/* Whether the reader of lines will have another one without waiting. */
static int more_is_there(const text_batch *b) {
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (b->wait_for_more) return b->wait_for_more > 0;
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
    text_batch *b = user;
    (void)line_number;
    scbm_status status = add_text(b, text, length);
    if (status != SCBM_OK || (b->n < BATCH_TEXTS && (more || more_is_there(b)))) return status;
    return flush_batch(b);
}

static scbm_status take_bad_line(void *user, const char *reason, size_t line_number) {
    text_batch *b = user;
    (void)line_number;
    scbm_status status = flush_batch(b);
    if (status != SCBM_OK) return status;
    scbm_fail(SCBM_ERROR_FORMAT, "%s", reason);
    return answer_bad(b);
}

static scbm_status each_line(text_batch *b, const char *path) {
    int is_stdin = strcmp(path, "-") == 0;
    struct stat facts;
    int known = is_stdin ? fstat(STDIN_FILENO, &facts) : stat(path, &facts);
    b->wait_for_more = known == 0 && S_ISREG(facts.st_mode) ? 1 : is_stdin ? 0 : -1;
    if (b->wait_for_more > 0 && !is_stdin) ((cli_progress *)b->hooks->user)->whole = count_lines(path, b->hooks);
    scbm_status status = cbm_read_lines(path, take_line, b->texts->keep_going ? take_bad_line : NULL, b, b->hooks);
    if (status == SCBM_OK) {
        status = flush_batch(b);
    } else if (b->n) { /* the reader met a bad line: answer those before it, and keep its message */
        char message[512];
        snprintf(message, sizeof message, "%s", scbm_last_error());
        if (flush_batch(b) == SCBM_OK) scbm_fail(status, "%s", message);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Rows of a data file, which are not kept: a file is read twice, to know first whether it can be and how many there are
 * ---------------------------------------------------------------------------------------- */

static scbm_status count_row(void *user, const cbm_text_row *row) {
    (void)row;
    ++*(int64_t *)user;
    return SCBM_OK;
}

static scbm_status take_row(void *user, const cbm_text_row *row) {
    text_batch *b = user;
    scbm_status status = SCBM_OK;
    if (row->error) {
        status = flush_batch(b);
        if (status != SCBM_OK) return status;
        scbm_fail(SCBM_ERROR_FORMAT, "%s", row->error);
        b->texts->row = &row->row;
        status = answer_bad(b);
        b->texts->row = NULL;
        return status;
    }
    b->row[b->n] = row->row;
    status = add_text(b, row->text, row->length);
    if (status == SCBM_OK && row->id) {
        b->id[b->n - 1] = scbm_strdup(b->hooks, row->id);
        if (!b->id[b->n - 1]) status = SCBM_ERROR_MEMORY;
    }
    int goes_on = b->n < BATCH_TEXTS && (row->more || more_is_there(b));
    return status == SCBM_OK && !goes_on ? flush_batch(b) : status;
}

static scbm_status each_row(text_batch *b) {
    const cli_texts *texts = b->texts;
    const cbm_dataset_options options = {.paths = &texts->data,
                                         .n_paths = 1,
                                         .format = (cbm_data_format)texts->format,
                                         .text = texts->column,
                                         .id = texts->id_column,
                                         .keep_going = texts->keep_going,
                                         .text_option = "--text COLUMN",
                                         .id_option = "--id COLUMN",
                                         .format_option = "--format FORMAT"};
    scbm_hooks hooks = *b->hooks;
    scbm_status status = SCBM_OK;
    b->is_data = 1;
    b->wait_for_more = strcmp(texts->data, "-") != 0;
    if (b->wait_for_more) {
        status = cbm_dataset_each(&options, count_row, &((cli_progress *)b->hooks->user)->whole, b->hooks);
        hooks.log = NULL; /* it has all been said */
        hooks.progress = NULL;
    }
    if (status == SCBM_OK) status = cbm_dataset_each(&options, take_row, b, &hooks);
    return status == SCBM_OK ? flush_batch(b) : status;
}

/* ------------------------------------------------------------------------------------------
 * All
 * ---------------------------------------------------------------------------------------- */

static scbm_status each_argument(text_batch *b, const cli_list *arguments) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < arguments->n && status == SCBM_OK; i++) {
        status = add_text(b, arguments->item[i], strlen(arguments->item[i]));
        if (status == SCBM_OK && b->n == BATCH_TEXTS) status = flush_batch(b);
    }
    return status == SCBM_OK ? flush_batch(b) : status;
}

static scbm_status each_text(text_batch *b) {
    cli_texts *texts = b->texts;
    char source[300];
    const char *path = texts->data ? texts->data : texts->file;
    snprintf(source, sizeof source, "%.280s, %s", !path || strcmp(path, "-") == 0 ? "standard input" : path,
             texts->data ? "row" : "line");
    b->source = path ? source : "text";
    if (texts->data) return each_row(b);
    return texts->file ? each_line(b, texts->file) : each_argument(b, &texts->argument);
}

int cli_texts_each(const cli_command *command, cli_texts *texts, const cli_answers *answers, const scbm_hooks *hooks) {
    text_batch *b = scbm_alloc(hooks, sizeof *b);
    if (!b) return cli_fail_status(command, SCBM_ERROR_MEMORY);
    *b = (text_batch){.texts = texts, .answers = answers, .hooks = hooks};
    texts->first = 1;
    scbm_status status = each_text(b);
    ((cli_progress *)hooks->user)->whole = 0;
    for (size_t i = 0; i < b->n; i++) { /* after a failure */
        scbm_release(hooks, (void *)b->text[i]);
        scbm_release(hooks, (void *)b->id[i]);
    }
    scbm_release(hooks, b);
    const char *path = texts->data ? texts->data : texts->file;
    if (status == SCBM_OK && path && texts->first == 1)
        cli_warn(command, "there are no texts in %s", strcmp(path, "-") == 0 ? "standard input" : path);
    if (texts->n_bad)
        cli_warn(command, "%lld of %lld texts have something wrong in them, and are answered by what that is",
                 (long long)texts->n_bad, (long long)texts->first - 1);
    return status == SCBM_OK ? cli_finish(command) : cli_fail_status(command, status);
}
