/*
 * models/program/eval/table.c - every text with its true and predicted classes, as a CSV file
 */
#include "models/program/eval/eval.h"

#include <stdio.h>
#include <string.h>

#define AFTER "after interventions: "

/* Columns of the label (k -1) or a concept: the true class, the predicted one, the probabilities of all classes, and with
 * interventions the latter two after them. */
static scbm_status write_head(const eval_command *e, cli_csv *csv, int k) {
    const char *name = k < 0 ? e->columns.label : cbm_model_concept(e->in.model, k);
    size_t size = sizeof AFTER + strlen(name);
    char *after = scbm_alloc(&e->in.hooks, size);
    if (!after) return SCBM_ERROR_MEMORY;
    snprintf(after, size, "%s%s", AFTER, name);
    cli_csv_text(csv, "", name);
    cli_csv_text(csv, "predicted ", name);
    for (int c = 0; c < eval_n_classes(e, k); c++) cli_csv_class_head(csv, name, eval_class_name(e, k, c));
    if (e->oracle) cli_csv_text(csv, "", after);
    for (int c = 0; c < eval_n_classes(e, k) && e->oracle; c++)
        cli_csv_class_head(csv, after, eval_class_name(e, k, c));
    scbm_release(&e->in.hooks, after);
    return SCBM_OK;
}

/* A class's name; nothing for -1. */
static void write_class(const eval_command *e, cli_csv *csv, int k, int32_t c) {
    cli_csv_text(csv, "", c < 0 ? NULL : eval_class_name(e, k, c));
}

/* What the model says of all texts: the class of each, and the probabilities of all classes. */
typedef struct answers {
    const int32_t *label, *concept_class, *first_class;
    const float *label_probability, *concept_probability;
    int n_labels, n_concepts, n_classes;
} answers;

/* The evaluation's, or the oracle's before or after interventions. */
static answers answers_of(const eval_command *e, int after) {
    const cbm_evaluation *v = &e->evaluation;
    const cbm_oracle *o = e->oracle;
    if (!o)
        return (answers){v->label,    v->concept_class, v->first_class, v->label_probability, v->concept_probability,
                         v->n_labels, v->n_concepts,    v->n_classes};
    return (answers){after ? o->label_after : o->label_before,
                     after ? o->concept_after : o->concept_before,
                     o->first_class,
                     after ? o->label_probability_after : o->label_probability_before,
                     after ? o->concept_probability_after : o->concept_probability_before,
                     o->n_labels,
                     o->n_concepts,
                     o->n_classes};
}

static void write_answer(const eval_command *e, cli_csv *csv, const answers *a, size_t i, int k) {
    const float *probability = k < 0 ? a->label_probability + i * (size_t)a->n_labels
                                     : a->concept_probability + i * (size_t)a->n_classes + a->first_class[k];
    write_class(e, csv, k, k < 0 ? a->label[i] : a->concept_class[i * (size_t)a->n_concepts + (size_t)k]);
    for (int c = 0; c < eval_n_classes(e, k); c++) cli_csv_float(csv, probability[c]);
}

/* Text i of the evaluation, or of the oracle. */
static void write_cells(const eval_command *e, cli_csv *csv, size_t i, size_t row, int k) {
    const size_t n_concepts = (size_t)e->columns.n_concepts;
    write_class(e, csv, k, k < 0 ? e->data.label[row] : e->data.concept_class[row * n_concepts + (size_t)k]);
    for (int after = 0; after < (e->oracle ? 2 : 1); after++) {
        const answers a = answers_of(e, after);
        write_answer(e, csv, &a, i, k);
    }
}

scbm_status eval_write_table(const eval_command *e) {
    cli_csv csv = {.column = 0};
    size_t n = e->oracle ? e->oracle->n : e->data.n;
    scbm_status status = scbm_output_open(&csv.file, e->csv_path, &e->in.hooks);
    if (status != SCBM_OK) return status;
    cli_csv_text(&csv, "", e->columns.text);
    for (int k = -1; k < e->columns.n_concepts && !status; k++) status = write_head(e, &csv, k);
    cli_csv_end_row(&csv);
    for (size_t i = 0; i < n && !status; i++) {
        size_t row = e->oracle ? e->oracle->row[i] : i;
        cli_csv_field(&csv, "", e->data.text[row], e->data.text_length[row]);
        for (int k = -1; k < e->columns.n_concepts; k++) write_cells(e, &csv, i, row, k);
        cli_csv_end_row(&csv);
    }
    if (status) scbm_output_abandon(csv.file);
    else status = scbm_output_commit(csv.file);
    if (status == SCBM_OK) cli_say_wrote(e->in.command, e->csv_path);
    return status;
}
