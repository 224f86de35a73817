/*
 * models/program/eval/table.c - every text with its true and predicted classes, as a CSV file
 */
#include "models/program/eval/eval.h"

/* Columns of the label (k -1) or a concept: the true class, the predicted one, and then the probabilities of all classes, or
 * the class after interventions. */
static void write_head(const eval_command *e, cli_csv *csv, int k) {
    const char *name = k < 0 ? e->columns.label : cbm_model_concept(e->in.model, k);
    cli_csv_text(csv, "", name);
    cli_csv_text(csv, "predicted ", name);
    if (e->oracle) cli_csv_text(csv, "after interventions: ", name);
    for (int c = 0; c < eval_n_classes(e, k) && !e->oracle; c++)
        cli_csv_class_head(csv, name, eval_class_name(e, k, c));
}

/* A class's name; nothing for -1. */
static void write_class(const eval_command *e, cli_csv *csv, int k, int32_t c) {
    cli_csv_text(csv, "", c < 0 ? NULL : eval_class_name(e, k, c));
}

/* Text i of the evaluation, or of the oracle. */
static void write_cells(const eval_command *e, cli_csv *csv, size_t i, size_t row, int k) {
    const size_t n_concepts = (size_t)e->columns.n_concepts, cell = k < 0 ? i : i * n_concepts + (size_t)k;
    const cbm_oracle *o = e->oracle;
    write_class(e, csv, k, k < 0 ? e->data.label[row] : e->data.concept_class[row * n_concepts + (size_t)k]);
    if (o) {
        write_class(e, csv, k, (k < 0 ? o->label_before : o->concept_before)[cell]);
        write_class(e, csv, k, (k < 0 ? o->label_after : o->concept_after)[cell]);
        return;
    }
    const cbm_evaluation *v = &e->evaluation;
    const float *probability = k < 0 ? v->label_probability + i * (size_t)v->n_labels
                                     : v->concept_probability + i * (size_t)v->n_classes + v->first_class[k];
    write_class(e, csv, k, (k < 0 ? v->label : v->concept_class)[cell]);
    for (int c = 0; c < eval_n_classes(e, k); c++) cli_csv_float(csv, probability[c]);
}

scbm_status eval_write_table(const eval_command *e) {
    cli_csv csv = {.column = 0};
    size_t n = e->oracle ? e->oracle->n : e->data.n;
    scbm_status status = scbm_output_open(&csv.file, e->csv_path, &e->in.hooks);
    if (status != SCBM_OK) return status;
    cli_csv_text(&csv, "", e->columns.text);
    for (int k = -1; k < e->columns.n_concepts; k++) write_head(e, &csv, k);
    cli_csv_end_row(&csv);
    for (size_t i = 0; i < n; i++) {
        size_t row = e->oracle ? e->oracle->row[i] : i;
        cli_csv_field(&csv, "", e->data.text[row], e->data.text_length[row]);
        for (int k = -1; k < e->columns.n_concepts; k++) write_cells(e, &csv, i, row, k);
        cli_csv_end_row(&csv);
    }
    status = scbm_output_commit(csv.file);
    if (status == SCBM_OK) cli_say_wrote(e->in.command, e->csv_path);
    return status;
}
