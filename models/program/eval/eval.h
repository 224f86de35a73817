/*
 * models/program/eval/eval.h - the parts of `eval`: what was measured, and how it is told
 */
#ifndef CBM_PROGRAM_EVAL_H
#define CBM_PROGRAM_EVAL_H

#include "models/program/program.h"

/* What was predicted for texts with known classes, and how good that is. */
typedef struct eval_result {
    size_t n;
    const int32_t *gold_label, *gold_concepts, *label, *concepts; /* [n], [n, n_concepts] */
    double seconds;
    cbm_measures of_label, mean; /* mean: of the concepts */
    cbm_measures *of_concept;    /* [n_concepts] */
} eval_result;

typedef struct eval_command {
    cli_session in;
    const char *csv_path;
    cli_list data_paths;
    cli_columns columns;
    int64_t resamples, seed, intervene_texts;
    int intervene; /* -1 no, 0 mask, 1 edit */
    cli_intervention intervention;
    cbm_intervene_options intervene_options;
    cbm_dataset data;
    cbm_evaluation evaluation;
    const cbm_oracle *oracle; /* the context's */
    int32_t *gold;            /* of the oracle's texts: [n] labels, then [n, n_concepts] */
    int *n_classes;           /* [n_concepts] */
} eval_command;

/* The classes of concept k, or of the label where k is -1. */
int eval_n_classes(const eval_command *e, int k);
const char *eval_class_name(const eval_command *e, int k, int c);
/* Their confusion matrix, and what each class is worth; the caller releases them. NULL: out of memory. */
int64_t *eval_confusion(const eval_command *e, const eval_result *r, int k);
cbm_class_measures *eval_classes(const eval_command *e, const int64_t *confusion, int k);
/* The mean absolute error where the classes are numbers; 0: they are not. */
int eval_absolute_error(const eval_command *e, const int64_t *confusion, int k, double *error);

/* json.c, print.c: one JSON object, or tables; of an evaluation, and before and after interventions. */
scbm_status eval_print_json(const eval_command *e, const eval_result *r);
scbm_status eval_print_interventions_json(const eval_command *e, const eval_result *before, const eval_result *after);
scbm_status eval_print(const eval_command *e, const eval_result *r);
scbm_status eval_print_interventions(const eval_command *e, const eval_result *before, const eval_result *after);
/* table.c: every text's prediction as CSV; with the oracle those before and after. */
scbm_status eval_write_table(const eval_command *e);

#endif
