/*
 * convert/convert-hf.c - the program: a Hugging Face folder to a model file
 */
#define _POSIX_C_SOURCE 200809L

#include "convert/hf-config.h"
#include "convert/hf-model.h"
#include "models/program/path.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { GO_ON = -1, DONE = 0, FAILED = 1, USAGE = 2 };

typedef struct arguments {
    const char *program, *folder, *output;
    scbm_type type;
} arguments;

/* ------------------------------------------------------------------------------------------
 * Messages
 * ---------------------------------------------------------------------------------------- */

/* One line, whatever the message holds; returns `status`. */
static int say(int status, const char *format, ...) SCBM_PRINTF(2, 3);
static int say(int status, const char *format, ...) {
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    for (char *c = text; *c; c++) {
        if (*c == '\n' || *c == '\r') *c = ' ';
    }
    fprintf(stderr, "convert-hf: %s\n", text);
    return status;
}

static int finish_output(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return DONE;
    return say(FAILED, "standard output could not be written: %s", strerror(errno));
}

static int print_help(const char *program) {
    printf(
        "Converts a BERT encoder from a Hugging Face folder to a model file (GGUF).\n\n"
        "Usage: %s DIR -o FILE [--type TYPE]\n\n"
        "DIR holds config.json, model.safetensors (or model.safetensors.index.json and its files), and vocab.txt or\n"
        "tokenizer.json; sentence-transformers folders are known too.\n\n"
        "Options:\n"
        "  -o, --output FILE           the model file to write (required)\n"
        "  --type f32|f16|bf16|q8_0|q4_0\n"
        "                              what the matrices are stored as (default f32)\n"
        "  --version                   print the version\n"
        "  --help                      print this\n\n"
        "Example:\n"
        "  %s all-MiniLM-L6-v2 -o minilm.gguf --type f16\n",
        program, program);
    return finish_output();
}

static int print_version(void) {
    int version = scbm_version();
    printf("sparsecbm convert-hf %d.%d.%d\n", version / 10000, version / 100 % 100, version % 100);
    return finish_output();
}

/* ------------------------------------------------------------------------------------------
 * Arguments
 * ---------------------------------------------------------------------------------------- */

static int set_type(arguments *a, const char *name) {
    if (scbm_type_parse(name, &a->type) == SCBM_OK && scbm_type_of(a->type)->is_float) return GO_ON;
    return say(USAGE, "--type wants f32, f16, bf16, q8_0 or q4_0, got '%s'", name);
}

/* The value of option `name` if argv[*i] is it: behind "=", or the next argument. NULL: another option; "" and *i at
 * the end: the value is missing. */
static const char *option_value(const char *name, int argc, char **argv, int *i) {
    size_t length = strlen(name);
    if (strncmp(argv[*i], name, length) != 0) return NULL;
    const char *rest = argv[*i] + length;
    if (*rest == '=' && name[1] == '-') return rest + 1;
    if (*rest) return name[1] == '-' ? NULL : rest;
    return ++*i < argc ? argv[*i] : "";
}

static int read_option(arguments *a, int argc, char **argv, int *i) {
    const char *word = argv[*i], *value;
    if ((value = option_value("--type", argc, argv, i))) {
        return *i < argc ? set_type(a, value) : say(USAGE, "--type wants a value: f32, f16, bf16, q8_0 or q4_0");
    }
    value = option_value("--output", argc, argv, i);
    if (!value) value = option_value("-o", argc, argv, i);
    if (!value) return say(USAGE, "there is no option %s; see %s --help", word, a->program);
    if (!*value) return say(USAGE, "%s wants a value: the file to write", word);
    a->output = value;
    return GO_ON;
}

static int ends_in(const char *text, const char *ending) {
    size_t length = strlen(text), n = strlen(ending);
    return length >= n && strcmp(text + length - n, ending) == 0;
}

/* Before any work is done. A model file in the folder may be replaced: conversion does not read it. */
static int check_output(const arguments *a) {
    if (!ends_in(a->output, ".gguf") && cli_is_in_folder(a->output, a->folder))
        return say(USAGE, "-o %.300s is a file of DIR, %.300s, and writing it would destroy what is converted",
                   a->output, a->folder);
    int error = cli_write_error(a->output);
    return error ? say(FAILED, "%.300s: cannot be written: %s", a->output, strerror(error)) : GO_ON;
}

static int read_arguments(arguments *a, int argc, char **argv) {
    int only_rest = 0;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return print_help(a->program);
        if (strcmp(argv[i], "--version") == 0) return print_version();
    }
    for (int i = 1; i < argc; i++) {
        if (!only_rest && strcmp(argv[i], "--") == 0) {
            only_rest = 1;
        } else if (!only_rest && argv[i][0] == '-' && argv[i][1]) {
            int result = read_option(a, argc, argv, &i);
            if (result != GO_ON) return result;
        } else if (a->folder) {
            return say(USAGE, "'%s' is one argument too many; see %s --help", argv[i], a->program);
        } else {
            a->folder = argv[i];
        }
    }
    if (!a->folder) return say(USAGE, "a Hugging Face folder is expected; see %s --help", a->program);
    if (!a->output) return say(USAGE, "-o FILE is required: where to write");
    return check_output(a);
}

/* ------------------------------------------------------------------------------------------
 * Progress and report
 * ---------------------------------------------------------------------------------------- */

typedef struct progress {
    int to_terminal, line_open;
    double shown;
} progress;

static void clear_line(progress *p) {
    if (p->line_open) fputs("\r\033[K", stderr);
    p->line_open = 0;
}

/* On a terminal, and only when it takes a while. */
static int on_progress(void *user, const char *what, int64_t done, int64_t total) {
    progress *p = user;
    double now = scbm_seconds();
    if (!p->to_terminal || total <= 0 || now - p->shown < 0.2) return 0;
    fprintf(stderr, "\r%s: %lld of %lld\033[K", what, (long long)done, (long long)total);
    fflush(stderr);
    p->line_open = 1;
    p->shown = now;
    return 0;
}

static void on_log(void *user, scbm_log_level level, const char *message) {
    clear_line(user);
    say(DONE, "%s%s", level == SCBM_LOG_WARNING ? "warning: " : "", message);
}

static void print_summary(const arguments *a, const hf_summary *s) {
    struct stat facts;
    double bytes = stat(a->output, &facts) == 0 ? (double)facts.st_size : 0;
    printf("%s: %.1f MiB, %s\n", a->output, bytes / 1048576, scbm_type_of(a->type)->name);
    printf("  %lld blocks of hidden size %lld with %lld heads, %lld weights in %d tensors\n", (long long)s->blocks,
           (long long)s->hidden, (long long)s->heads, (long long)s->n_weights, s->n_tensors);
    printf("  %lld tokens, texts of up to %lld; pooling: %s%s\n", (long long)s->tokens, (long long)s->max_tokens,
           s->pooling == HF_POOLING_FIRST ? "first token" : "mean", s->normalize ? ", normalized" : "");
    if (s->n_unused) printf("  left out, not part of an encoder: %d tensors (pooler, heads)\n", s->n_unused);
    if (s->n_kept_f16) printf("  %d matrices have rows that are no multiple of 32 and stay f16\n", s->n_kept_f16);
}

int main(int argc, char **argv) {
    arguments a = {argc > 0 && argv[0][0] ? argv[0] : "convert-hf", NULL, NULL, SCBM_F32};
    if (argc < 2) {
        say(USAGE, "a Hugging Face folder and -o FILE are expected; see %s --help", a.program);
        return USAGE;
    }
    int result = read_arguments(&a, argc, argv);
    if (result != GO_ON) return result;

    progress p = {isatty(STDERR_FILENO), 0, scbm_seconds()};
    scbm_hooks hooks;
    hf_summary summary;
    memset(&hooks, 0, sizeof hooks);
    hooks.user = &p;
    hooks.log = on_log;
    hooks.progress = on_progress;
    scbm_status status = hf_convert(a.folder, a.output, a.type, &summary, &hooks);
    clear_line(&p);
    if (status) {
        const char *message = scbm_last_error();
        return say(FAILED, "%s", message[0] ? message : scbm_status_name(status));
    }
    print_summary(&a, &summary);
    return finish_output();
}
