/*
 * models/cmd-texts.c - tokenize, embed and predict: texts in, one result a text out
 */
#include "cli.h"
#include "tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the three commands have in common. */
typedef struct text_command {
    const cli_command *command;
    const char *model_path;
    cli_texts texts;
    int64_t threads, max_length;
    int json, precision, normalize, pooling;
    cli_progress progress;
    scbm_hooks hooks;
    scbm_file *file;
    cbm_tokenizer *tokenizer;
    cbm_tokens tokens;
    cbm_model *model;
    cbm_context *context;
    int64_t n_printed, n_truncated;
    float *vectors;                /* room for one batch */
    cbm_prediction *predictions;
    uint8_t *truncated;
    size_t vector_capacity, prediction_capacity, truncated_capacity;
} text_command;

#define MODEL_OPTION(s) CLI_TEXT_OPTION("model", "FILE", &(s).model_path, "the model file (required)")
#define JSON_OPTION(s) CLI_FLAG_OPTION("json", &(s).json, "print one JSON object a line")
#define THREADS_OPTION(s) CLI_INT_OPTION("threads", "N", &(s).threads, 0, 1024, "threads; 0: all cores")
#define LENGTH_OPTION(s)                                                                                              \
    CLI_INT_OPTION("max-length", "N", &(s).max_length, 0, 1000000,                                                    \
                   "cut texts after N tokens, special ones included; 0: as many as the model reads")
#define PRECISION_OPTION(s) CLI_CHOICE_OPTION("precision", "f32|bf16", &(s).precision, "what matrix products compute with")

/* Checks what every one of the commands needs. */
static int start(text_command *s, const cli_command *command, const cli_option *options, int argc, char **argv) {
    s->command = command;
    int status = cli_parse(command, options, argc, argv, &s->texts.argument);
    if (status != CLI_GO_ON) return status;
    if (!s->model_path) return cli_misuse(command, "--model FILE is required");
    s->hooks = cli_hooks(&s->progress, command, s->threads);
    return CLI_GO_ON;
}

/* Loads the model with a context and asks for its text column where --data came without --text. */
static int load_model(text_command *s) {
    cbm_load_options load = {&s->hooks};
    cbm_context_options options;
    scbm_status status = cbm_model_load(&s->model, s->model_path, &load);
    if (status != SCBM_OK) return cli_fail_status(s->command, status);
    int longest = cbm_model_max_tokens(s->model);
    if (s->max_length > longest)
        return cli_fail(s->command, "--max-length %lld: %s reads %d tokens at most", (long long)s->max_length, s->model_path, longest);
    memset(&options, 0, sizeof options);
    options.precision = s->precision ? SCBM_BF16 : SCBM_F32;
    options.max_tokens = (int)s->max_length;
    status = cbm_context_create(&s->context, s->model, &options);
    return status == SCBM_OK ? CLI_GO_ON : cli_fail_status(s->command, status);
}

/* The column that training read its texts from, for --data without --text. */
static int check_texts(text_command *s) {
    const char *column = NULL;
    if (s->texts.data && !s->texts.column) {
        scbm_status status = scbm_file_open(&s->file, s->model_path, &s->hooks);
        if (status != SCBM_OK) return cli_fail_status(s->command, status);
        column = scbm_file_string_or(s->file, CLI_KEY_TEXT, NULL);
    }
    return cli_texts_check(s->command, &s->texts, column);
}

static int finish(text_command *s, int status) {
    if (s->n_truncated > 0)
        fprintf(stderr, "sparsecbm %s: %lld of %lld texts were longer than the model reads and were cut\n", s->command->name,
                (long long)s->n_truncated, (long long)s->n_printed);
    scbm_release(&s->hooks, s->vectors);
    scbm_release(&s->hooks, s->predictions);
    scbm_release(&s->hooks, s->truncated);
    cbm_context_free(s->context);
    cbm_model_free(s->model);
    cbm_tokens_clear(&s->tokens, &s->hooks);
    cbm_tokenizer_free(s->tokenizer);
    scbm_file_close(s->file);
    free((void *)s->texts.argument.item);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * tokenize
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_tokens_json(const text_command *s) {
    const cbm_tokens *tokens = &s->tokens;
    cJSON *object = cJSON_CreateObject();
    cJSON *pieces = cJSON_CreateArray(), *offsets = cJSON_CreateArray();
    for (size_t i = 0; i < tokens->n; i++) {
        int32_t range[2] = {tokens->start[i], tokens->end[i]};
        cJSON_AddItemToArray(pieces, cJSON_CreateString(cbm_token_piece(s->tokenizer, tokens->ids[i])));
        cJSON_AddItemToArray(offsets, cli_json_ints(range, 2));
    }
    cJSON_AddItemToObject(object, "ids", cli_json_ints(tokens->ids, (int64_t)tokens->n));
    cJSON_AddItemToObject(object, "tokens", pieces);
    cJSON_AddItemToObject(object, "offsets", offsets);
    return cli_json_print(object);
}

static void print_tokens(const text_command *s, const char *text) {
    const cbm_tokens *tokens = &s->tokens;
    if (s->n_printed) putchar('\n');
    printf("%7s  %-20s  %-9s  %s\n", "id", "piece", "bytes", "text");
    for (size_t i = 0; i < tokens->n; i++) {
        char range[32];
        snprintf(range, sizeof range, "%d-%d", tokens->start[i], tokens->end[i]);
        printf("%7d  %-20s  %-9s  %.*s\n", tokens->ids[i], cbm_token_piece(s->tokenizer, tokens->ids[i]), range,
               tokens->end[i] - tokens->start[i], text + tokens->start[i]);
    }
}

static scbm_status tokenize_texts(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                  size_t *done) {
    text_command *s = user;
    for (size_t i = 0; i < n; i++) {
        scbm_status status = cbm_tokenize(s->tokenizer, texts[i], lengths[i], (size_t)s->max_length, &s->tokens);
        if (status == SCBM_OK && s->json) status = print_tokens_json(s);
        else if (status == SCBM_OK) print_tokens(s, texts[i]);
        if (status != SCBM_OK) return status;
        s->n_printed++;
        ++*done;
        s->n_truncated += s->tokens.truncated != 0;
    }
    return cli_flush();
}

/* The longest text that the file's model reads. */
static int64_t file_max_tokens(const scbm_file *file) {
    char key[128];
    snprintf(key, sizeof key, "%.64s.context_length", scbm_file_string_or(file, "general.architecture", "bert"));
    int64_t longest = scbm_file_int_or(file, "sparsecbm.max_tokens", scbm_file_int_or(file, key, 512));
    return longest > 0 ? longest : 512;
}

static int run_tokenize(const cli_command *command, int argc, char **argv) {
    text_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {MODEL_OPTION(s), CLI_TEXTS_OPTIONS(s.texts), LENGTH_OPTION(s), JSON_OPTION(s), CLI_END_OPTIONS};
    int status = start(&s, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_texts(&s);
    if (status != CLI_GO_ON) return finish(&s, status);
    scbm_status opened = s.file ? SCBM_OK : scbm_file_open(&s.file, s.model_path, &s.hooks);
    if (opened == SCBM_OK) opened = cbm_tokenizer_create(&s.tokenizer, s.file, &s.hooks);
    if (opened != SCBM_OK) return finish(&s, cli_fail_status(command, opened));
    if (s.max_length == 0) s.max_length = file_max_tokens(s.file);
    return finish(&s, cli_texts_each(command, &s.texts, tokenize_texts, &s, &s.hooks));
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
    if (s->json) {
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
    int size = cbm_model_hidden_size(s->model);
    scbm_status status = scbm_grow(&s->hooks, (void **)&s->vectors, &s->vector_capacity, n * (size_t)size, sizeof *s->vectors);
    if (status == SCBM_OK)
        status = scbm_grow(&s->hooks, (void **)&s->truncated, &s->truncated_capacity, n, sizeof *s->truncated);
    if (status == SCBM_OK)
        status = cbm_embed_batch(s->context, texts, lengths, n, (cbm_pooling)s->pooling, s->normalize, s->vectors, s->truncated);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        status = print_vector(s, s->vectors + i * (size_t)size, size);
        s->n_printed++;
        ++*done;
        s->n_truncated += s->truncated[i] != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static int run_embed(const cli_command *command, int argc, char **argv) {
    text_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        MODEL_OPTION(s),
        CLI_TEXTS_OPTIONS(s.texts),
        CLI_CHOICE_OPTION("pooling", "default|mean|cls", &s.pooling, "mean over the tokens, or the first token; default: as the model file says"),
        CLI_FLAG_OPTION("normalize", &s.normalize, "scale every vector to length 1"),
        LENGTH_OPTION(s),
        PRECISION_OPTION(s),
        THREADS_OPTION(s),
        JSON_OPTION(s),
        CLI_END_OPTIONS,
    };
    int status = start(&s, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_texts(&s);
    if (status == CLI_GO_ON) status = load_model(&s);
    if (status == CLI_GO_ON) status = cli_texts_each(command, &s.texts, embed_texts, &s, &s.hooks);
    return finish(&s, status);
}

static const char *const embed_examples[] = {
    "embed --model demo/encoder.gguf --normalize \"The soup was cold.\" \"The staff was kind.\"", NULL};
const cli_command cmd_embed = {
    "embed", "turn texts into vectors: one line of numbers a text", "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data. With --json: {embedding}.", embed_examples,
    run_embed};

/* ------------------------------------------------------------------------------------------
 * predict
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_prediction_json(const cbm_prediction *p) {
    cJSON *object = cJSON_CreateObject(), *concepts = cJSON_CreateArray();
    cJSON_AddStringToObject(object, "label", p->label);
    cJSON_AddItemToObject(object, "probability", cli_json_float(p->probability));
    cJSON_AddItemToObject(object, "logits", cli_json_floats(p->logits, p->n_labels));
    cJSON_AddItemToObject(object, "bias", cli_json_float(p->bias));
    cJSON_AddBoolToObject(object, "truncated", p->truncated != 0);
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        cJSON *concept = cJSON_CreateObject();
        cJSON_AddStringToObject(concept, "name", c->name);
        cJSON_AddStringToObject(concept, "class", c->class_name);
        cJSON_AddItemToObject(concept, "probability", cli_json_float(c->probability));
        cJSON_AddItemToObject(concept, "logits", cli_json_floats(c->logits, c->n_classes));
        cJSON_AddItemToObject(concept, "contribution", cli_json_float(c->contribution));
        cJSON_AddItemToArray(concepts, concept);
    }
    cJSON_AddItemToObject(object, "concepts", concepts);
    return cli_json_print(object);
}

/* "-----|     " or "     |+++  ": a contribution beside the largest one. */
static void print_bar(double value, double largest) {
    enum { HALF = 16 };
    char bar[2 * HALF + 2];
    int length = largest > 0 ? (int)(fabs(value) / largest * HALF + 0.5) : 0;
    memset(bar, ' ', sizeof bar - 1);
    bar[HALF] = '|';
    bar[sizeof bar - 1] = 0;
    if (value < 0) memset(bar + HALF - length, '-', (size_t)length);
    else memset(bar + HALF + 1, '+', (size_t)length);
    for (int end = 2 * HALF; end > HALF && bar[end] == ' '; end--) bar[end] = 0;
    printf("%s\n", bar);
}

static void print_prediction(const text_command *s, const char *text, size_t length, const cbm_prediction *p) {
    int width = 5, class_width = (int)strlen(p->label);
    double largest = 0, sum = 0;
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        if ((int)strlen(c->name) > width) width = (int)strlen(c->name);
        if ((int)strlen(c->class_name) > class_width) class_width = (int)strlen(c->class_name);
        if (fabs((double)c->contribution) > largest) largest = fabs((double)c->contribution);
        sum += (double)c->contribution;
    }
    if (s->n_printed) putchar('\n');
    printf("%.*s\n", (int)(length > 100000 ? 100000 : length), text);
    printf("  %-*s  %-*s  %3.0f %%%s\n", width, "label", class_width, p->label, 100 * (double)p->probability,
           p->truncated ? "  (truncated: the model read only the beginning of this text)" : "");
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        printf("  %-*s  %-*s  %3.0f %%  %+8.3f  ", width, c->name, class_width, c->class_name, 100 * (double)c->probability,
               (double)c->contribution);
        print_bar((double)c->contribution, largest);
    }
    if (p->n_concepts)
        printf("  bias %+.3f, contributions %+.3f: together the logit %.3f of label %s\n", (double)p->bias, sum,
               (double)p->logits[p->label_index], p->label);
}

static scbm_status predict_texts(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                  size_t *done) {
    text_command *s = user;
    scbm_status status =
        scbm_grow(&s->hooks, (void **)&s->predictions, &s->prediction_capacity, n, sizeof *s->predictions);
    if (status == SCBM_OK) status = cbm_predict_batch(s->context, texts, lengths, n, s->predictions);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        if (s->json) status = print_prediction_json(&s->predictions[i]);
        else print_prediction(s, texts[i], lengths[i], &s->predictions[i]);
        s->n_printed++;
        ++*done;
        s->n_truncated += s->predictions[i].truncated != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static int run_predict(const cli_command *command, int argc, char **argv) {
    text_command s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        MODEL_OPTION(s),    CLI_TEXTS_OPTIONS(s.texts), LENGTH_OPTION(s), PRECISION_OPTION(s),
        THREADS_OPTION(s),  JSON_OPTION(s),             CLI_END_OPTIONS,
    };
    int status = start(&s, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_texts(&s);
    if (status == CLI_GO_ON) status = load_model(&s);
    if (status == CLI_GO_ON && cbm_model_mode(s.model) == CBM_ENCODER)
        status = cli_fail(command, "%s is an encoder without labels; train a model on it first (%s train --help)",
                          s.model_path, cli_program);
    if (status == CLI_GO_ON) status = cli_texts_each(command, &s.texts, predict_texts, &s, &s.hooks);
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
