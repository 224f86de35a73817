/*
 * models/program/cmd-predict.c - predict: texts to labels, with what each concept contributed
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

typedef struct predict_command {
    cli_session in;
    int echo;
    const char *csv_path;
    cli_csv csv;
    int n_columns; /* of the table, but for the one that --keep-going adds: what is wrong with the text */
} predict_command;

/* ------------------------------------------------------------------------------------------
 * A table of all texts
 * ---------------------------------------------------------------------------------------- */

static scbm_status open_table(predict_command *p) {
    const cbm_model *model = p->in.model;
    cli_csv *csv = &p->csv;
    scbm_status status = scbm_output_open(&csv->file, p->csv_path, &p->in.hooks);
    if (status != SCBM_OK) return status;
    cli_csv_text(csv, "", "row");
    if (p->in.texts.id_column) cli_csv_text(csv, "", "id");
    if (p->echo) cli_csv_text(csv, "", "text");
    cli_csv_text(csv, "", "label");
    cli_csv_text(csv, "", "probability");
    for (int y = 0; y < cbm_model_n_labels(model); y++) cli_csv_class_head(csv, "label", cbm_model_label(model, y));
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        const char *name = cbm_model_concept(model, k);
        cli_csv_text(csv, "", name);
        for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++)
            cli_csv_class_head(csv, name, cbm_model_concept_class(model, k, c));
        cli_csv_text(csv, "contribution of ", name);
    }
    p->n_columns = csv->column;
    if (p->in.texts.keep_going) cli_csv_text(csv, "", "error");
    cli_csv_end_row(csv);
    return SCBM_OK;
}

static void write_row(predict_command *p, size_t i, const char *text, size_t length, const cbm_prediction *prediction) {
    cli_csv *csv = &p->csv;
    cli_csv_integer(csv, cli_texts_row(&p->in.texts, i));
    if (p->in.texts.id_column) cli_csv_text(csv, "", cli_texts_id(&p->in.texts, i));
    if (p->echo) cli_csv_field(csv, "", text, length);
    cli_csv_text(csv, "", prediction->label);
    cli_csv_float(csv, prediction->probability);
    for (int y = 0; y < prediction->n_labels; y++) cli_csv_float(csv, prediction->probabilities[y]);
    for (int k = 0; k < prediction->n_concepts; k++) {
        const cbm_concept_result *c = &prediction->concepts[k];
        cli_csv_text(csv, "", c->class_name);
        for (int j = 0; j < c->n_classes; j++) cli_csv_float(csv, c->probabilities[j]);
        cli_csv_float(csv, c->contribution);
    }
    if (p->in.texts.keep_going) cli_csv_text(csv, "", NULL);
    cli_csv_end_row(csv);
}

/* ------------------------------------------------------------------------------------------
 * Texts
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_json(const predict_command *p, size_t i, const char *text, const cbm_prediction *prediction) {
    const char *id = cli_texts_id(&p->in.texts, i);
    cJSON *object = cli_json_prediction(p->in.model, prediction);
    cJSON_AddItemToObject(object, "row", cli_json_int(cli_texts_row(&p->in.texts, i)));
    if (id) cJSON_AddStringToObject(object, "id", id);
    if (p->echo) cJSON_AddStringToObject(object, "text", text);
    return cli_json_print(object);
}

static scbm_status predict_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    predict_command *p = user;
    const cbm_prediction *const *predictions;
    scbm_status status = SCBM_OK;
    if (p->csv_path && !p->csv.file) status = open_table(p);
    if (status == SCBM_OK) status = cbm_predict_batch(p->in.context, texts, lengths, n, &predictions);
    if (status == SCBM_OK && !p->csv_path) cli_progress_clear(&p->in.progress);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        if (p->csv_path) {
            write_row(p, i, texts[i], lengths[i], predictions[i]);
        } else if (p->in.json) {
            status = print_json(p, i, texts[i], predictions[i]);
        } else {
            if (p->in.n_printed || p->in.texts.n_bad) putchar('\n');
            cli_print_prediction(texts[i], lengths[i], predictions[i]);
        }
        p->in.n_printed++;
        ++*done;
        p->in.n_truncated += predictions[i]->truncated != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static scbm_status answer_bad(void *user, const char *reason) {
    predict_command *p = user;
    cli_csv *csv = &p->csv;
    if (!p->csv_path) return cli_session_print_bad(&p->in, reason);
    scbm_status status = csv->file ? SCBM_OK : open_table(p);
    if (status != SCBM_OK) return status;
    cli_csv_integer(csv, cli_texts_row(&p->in.texts, 0));
    while (csv->column < p->n_columns) cli_csv_text(csv, "", NULL);
    cli_csv_text(csv, "", reason);
    cli_csv_end_row(csv);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

static int check_usage(const predict_command *p, const cli_option *options) {
    const void *const echo[] = {&p->echo, NULL}, *const id[] = {&p->in.texts.id_column, NULL},
                      *const json[] = {&p->in.json, NULL};
    int status = CLI_GO_ON;
    if (!p->in.json && !p->csv_path) status = cli_refuse(p->in.command, options, "without --json or -o", echo);
    if (status == CLI_GO_ON && !p->in.json && !p->csv_path)
        status = cli_refuse(p->in.command, options, "without --json or -o", id);
    if (status == CLI_GO_ON && !p->in.texts.data) status = cli_refuse(p->in.command, options, "without --data", id);
    if (status == CLI_GO_ON && p->csv_path) status = cli_refuse(p->in.command, options, "beside -o", json);
    return status;
}

/* Puts the table in its place, or removes what there is of it where the command failed. */
static int close_table(predict_command *p, int status) {
    if (!p->csv.file) return status;
    if (status != CLI_DONE) {
        scbm_output_abandon(p->csv.file);
        return status;
    }
    status = cli_fail_status(p->in.command, scbm_output_commit(p->csv.file));
    if (status == CLI_DONE) cli_say_wrote(p->in.command, p->csv_path);
    return status;
}

static int run_predict(const cli_command *command, int argc, char **argv) {
    predict_command p;
    memset(&p, 0, sizeof p);
    const cli_option options[] = {
        CLI_MODEL_OPTION(p.in),
        CLI_TEXTS_OPTIONS(p.in.texts),
        CLI_TEXT_OPTION("id", "COLUMN", &p.in.texts.id_column, "a column of --data that is put beside the results"),
        CLI_RUN_OPTIONS(p.in),
        CLI_FLAG_OPTION("echo", &p.echo, "put the text beside the results of --json or -o"),
        CLI_OUTPUT_OPTION(&p.csv_path, "write a CSV file in place of printing: a row a text, with all probabilities"),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&p.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_usage(&p, options);
    const cli_answers answers = {predict_texts, answer_bad, &p};
    if (status == CLI_GO_ON) status = cli_session_answer(&p.in, &answers, 1);
    return cli_session_finish(&p.in, close_table(&p, status));
}

static const char *const predict_examples[] = {
    "predict --model demo/reviews.gguf \"The soup was cold, but the waiter was lovely.\"",
    "predict --model demo/reviews.gguf --data demo/test.csv --echo --json", NULL};
const cli_command cmd_predict = {
    "predict",
    "predict a label and say what each concept contributed",
    "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data.\n"
    "Each concept is shown with its class, that class's probability, and its exact contribution to the predicted\n"
    "label's logit: the bias and the contributions add up to it. With --json: {label, probability, logits,\n"
    "labels: [{name, probability, logit}], bias, truncated, concepts: [{name, class, probability, logits,\n"
    "classes: [{name, probability, logit}], contribution}], row, id, text}; id with --id, text with --echo.\n"
    "row is the text's row of --data, its line of --file or of a pipe, or its place among the arguments.\n"
    "With --keep-going a bad text is answered by {row, error}, or in a table by a row whose last column, error, says why.",
    predict_examples,
    run_predict};
