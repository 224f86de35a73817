/*
 * models/program/cmd-eval.c - how good a model's predictions are on labelled texts
 */
#include "models/program/eval/eval.h"

#include <string.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------------
 * Measuring
 * ---------------------------------------------------------------------------------------- */

/* Loads the model, which must be a trained one, and finds the data's columns. */
static int load_model(eval_command *e) {
    int result = cli_session_load(&e->in, 1);
    if (result != CLI_GO_ON) return result;
    scbm_status status = scbm_file_open(&e->in.file, e->in.model_path, &e->in.hooks);
    if (status != SCBM_OK) return cli_fail_status(e->in.command, status);
    return cli_columns_from_model(e->in.command, &e->columns, e->in.model, e->in.file);
}

/* Free result->of_concept. */
static scbm_status measure(const eval_command *e, eval_result *r) {
    int n_concepts = e->columns.n_concepts, n_labels = cbm_model_n_labels(e->in.model), resamples = (int)e->resamples;
    uint64_t seed = (uint64_t)e->seed;
    r->of_concept = scbm_alloc_array(&e->in.hooks, (size_t)n_concepts, sizeof *r->of_concept);
    if (!r->of_concept) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_measure(&r->of_label, NULL, r->gold_label, r->label, r->n, 1, &n_labels, resamples, seed,
                                     &e->in.hooks);
    if (status == SCBM_OK)
        status = cbm_measure(r->of_concept, &r->mean, r->gold_concepts, r->concepts, r->n, n_concepts, e->n_classes,
                             resamples, seed, &e->in.hooks);
    return status;
}

int eval_n_classes(const eval_command *e, int k) {
    return k < 0 ? cbm_model_n_labels(e->in.model) : cbm_model_n_concept_classes(e->in.model, k);
}

const char *eval_class_name(const eval_command *e, int k, int c) {
    return k < 0 ? cbm_model_label(e->in.model, c) : cbm_model_concept_class(e->in.model, k, c);
}

int64_t *eval_confusion(const eval_command *e, const eval_result *r, int k) {
    const int32_t *gold = k < 0 ? r->gold_label : r->gold_concepts + k;
    const int32_t *predicted = k < 0 ? r->label : r->concepts + k;
    int n = eval_n_classes(e, k);
    int64_t *confusion = scbm_alloc_array(&e->in.hooks, (size_t)n * (size_t)n, sizeof *confusion);
    if (confusion) cbm_count_confusion(confusion, n, gold, predicted, r->n, k < 0 ? 1 : (size_t)e->columns.n_concepts);
    return confusion;
}

cbm_class_measures *eval_classes(const eval_command *e, const int64_t *confusion, int k) {
    int n = eval_n_classes(e, k);
    cbm_class_measures *classes = scbm_alloc_array(&e->in.hooks, (size_t)n, sizeof *classes);
    if (classes) cbm_measure_classes(classes, confusion, n);
    return classes;
}

int eval_absolute_error(const eval_command *e, const int64_t *confusion, int k, double *error) {
    enum { MOST_NUMBERS = 256 };
    const char *names[MOST_NUMBERS];
    double values[MOST_NUMBERS];
    int n = eval_n_classes(e, k);
    if (n > MOST_NUMBERS) return 0;
    for (int c = 0; c < n; c++) names[c] = eval_class_name(e, k, c);
    if (!cbm_class_values(names, n, values)) return 0;
    *error = cbm_mean_absolute_error(confusion, n, values);
    return 1;
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

static int finish(eval_command *e, int status) {
    scbm_release(&e->in.hooks, e->gold);
    scbm_release(&e->in.hooks, e->n_classes);
    cbm_dataset_clear(&e->data);
    cli_columns_clear(&e->columns);
    free((void *)e->data_paths.item);
    return cli_session_finish(&e->in, status);
}

static scbm_status read_data(eval_command *e) {
    int n_concepts = cbm_model_n_concepts(e->in.model);
    e->n_classes = scbm_alloc_array(&e->in.hooks, (size_t)n_concepts, sizeof *e->n_classes);
    if (!e->n_classes) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < n_concepts; k++) e->n_classes[k] = cbm_model_n_concept_classes(e->in.model, k);
    return cli_columns_read(&e->columns, &e->data_paths, NULL, &e->data, &e->in.hooks);
}

static scbm_status evaluate(eval_command *e) {
    eval_result r;
    memset(&r, 0, sizeof r);
    scbm_status status = read_data(e);
    const cbm_evaluation *evaluation;
    if (status == SCBM_OK) status = cbm_evaluate(e->in.context, &e->data, &evaluation);
    if (status == SCBM_OK) e->evaluation = *evaluation;
    r.n = e->data.n;
    r.gold_label = e->data.label;
    r.gold_concepts = e->data.concept_class;
    r.label = e->evaluation.label;
    r.concepts = e->evaluation.concept_class;
    r.seconds = e->evaluation.seconds;
    if (status == SCBM_OK) status = measure(e, &r);
    cli_progress_clear(&e->in.progress);
    if (status == SCBM_OK && e->csv_path) status = eval_write_table(e);
    if (status == SCBM_OK) status = e->in.json ? eval_print_json(e, &r) : eval_print(e, &r);
    scbm_release(&e->in.hooks, r.of_concept);
    e->in.n_printed = (int64_t)e->evaluation.n;
    e->in.n_truncated = (int64_t)e->evaluation.n_truncated;
    return status;
}

/* The true classes of the oracle's texts. */
static scbm_status gather_gold(eval_command *e) {
    const cbm_oracle *o = e->oracle;
    size_t n_concepts = (size_t)e->columns.n_concepts;
    e->gold = scbm_alloc_array(&e->in.hooks, o->n * (1 + n_concepts), sizeof *e->gold);
    if (!e->gold) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < o->n; i++) {
        e->gold[i] = e->data.label[o->row[i]];
        memcpy(e->gold + o->n + i * n_concepts, e->data.concept_class + o->row[i] * n_concepts,
               n_concepts * sizeof *e->gold);
    }
    return SCBM_OK;
}

static scbm_status evaluate_interventions(eval_command *e) {
    eval_result before, after;
    memset(&before, 0, sizeof before);
    scbm_status status = read_data(e);
    if (status == SCBM_OK)
        status = cbm_intervene_oracle(e->in.context, &e->data, &e->intervene_options, (size_t)e->intervene_texts,
                                      &e->oracle);
    if (status == SCBM_OK) status = gather_gold(e);
    if (status != SCBM_OK) return status;
    const cbm_oracle *o = e->oracle;
    before.n = o->n;
    before.gold_label = e->gold;
    before.gold_concepts = e->gold + o->n;
    after = before;
    before.label = o->label_before;
    before.concepts = o->concept_before;
    before.seconds = o->predict_seconds;
    after.label = o->label_after;
    after.concepts = o->concept_after;
    after.seconds = o->seconds;
    status = measure(e, &before);
    if (status == SCBM_OK) status = measure(e, &after);
    cli_progress_clear(&e->in.progress);
    if (status == SCBM_OK && e->csv_path) status = eval_write_table(e);
    if (status == SCBM_OK)
        status = e->in.json ? eval_print_interventions_json(e, &before, &after)
                            : eval_print_interventions(e, &before, &after);
    scbm_release(&e->in.hooks, before.of_concept);
    scbm_release(&e->in.hooks, after.of_concept);
    return status;
}

static int check_usage(eval_command *e, const cli_option *options) {
    const cli_command *command = e->in.command;
    const cli_intervention *i = &e->intervention;
    if (e->in.texts.argument.n)
        return cli_misuse(command, "'%s' is one argument too many; see %s eval --help", e->in.texts.argument.item[0],
                          cli_program);
    if (!e->data_paths.n) return cli_misuse(command, "--data FILE is required: what to evaluate on");
    if (!e->resamples) {
        int status = cli_refuse(command, options, "with --resamples 0", (const void *const[]){&e->seed, NULL});
        if (status != CLI_GO_ON) return status;
    }
    if (e->intervene >= 0) return cli_intervention_options(command, i, e->intervene, &e->intervene_options);
    return cli_refuse(command, options, "without --intervene mask|edit",
                      (const void *const[]){&e->intervene_texts, &i->select, &i->edit, &i->portion, &i->steps,
                                            &i->whole_steps, NULL});
}

static int run_eval(const cli_command *command, int argc, char **argv) {
    eval_command e;
    memset(&e, 0, sizeof e);
    e.resamples = 1000;
    e.seed = 42;
    e.intervene = -1;
    e.intervention = (cli_intervention)CLI_INTERVENTION_NOT_GIVEN;
    const cli_option options[] = {
        CLI_MODEL_OPTION(e.in),
        CLI_GROUP_OF("Data"),
        CLI_READ_LIST_OPTION("data", &e.data_paths,
                             "labelled texts, CSV or JSONL (required); repeated files are put together"),
        CLI_COLUMNS_OPTIONS(e.columns),
        CLI_INT_OPTION("limit", "N", &e.columns.limit, 0, 2147483647, "read the first N rows alone; 0: all"),
        CLI_GROUP_OF("Measuring"),
        CLI_INT_OPTION("resamples", "N", &e.resamples, 0, 100000, "draws of the 95 % bootstrap intervals; 0: none"),
        CLI_INT_OPTION("seed", "N", &e.seed, 0, 9e15, "seed of the bootstrap"),
        CLI_GROUP_OF("Interventions"),
        CLI_CHOICE_OPTION("intervene", "mask|edit", &e.intervene,
                          "set every misread concept to its true class, and measure before and after"),
        CLI_INTERVENTION_OPTIONS(e.intervention),
        CLI_INT_OPTION("intervene-texts", "N", &e.intervene_texts, 0, 1000000000,
                       "take N texts, evenly spaced; 0: all"),
        CLI_RUN_OPTIONS(e.in),
        CLI_WRITE_OPTION(
            "csv", &e.csv_path,
            "write every text with its true and predicted classes, and all probabilities; with --intervene "
            "before and after"),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&e.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_usage(&e, options);
    if (status == CLI_GO_ON) status = load_model(&e);
    if (status == CLI_GO_ON && e.intervene >= 0)
        status = cli_intervention_check(command, e.in.model, e.in.model_path, &e.intervene_options, "--intervene edit");
    if (status != CLI_GO_ON) return finish(&e, status);
    scbm_status evaluated = e.intervene < 0 ? evaluate(&e) : evaluate_interventions(&e);
    if (evaluated != SCBM_OK) return finish(&e, cli_fail_status(command, evaluated));
    return finish(&e, cli_finish(command));
}

static const char *const eval_examples[] = {"eval --model demo/reviews.gguf --data demo/test.csv", NULL};
const cli_command cmd_eval = {
    "eval",
    "measure accuracy and F1 on labelled texts",
    "--model FILE --data FILE [options]",
    "The model file remembers the columns that it was trained on. macro_f1 is the mean of the classes' F1; macro_f1_ovr, of\n"
    "the SparseCBM authors' code, the mean over the classes of the macro F1 of each class against the rest.\n"
    "With --json: {label: {accuracy, macro_f1, macro_f1_ovr, mean_absolute_error (of labels that are numbers), classes: [{name,\n"
    "precision, recall, f1, support}], confusion, majority, intervals}, concepts: {accuracy, macro_f1, macro_f1_ovr,\n"
    "majority, intervals, each: {NAME: as label}}, texts, texts_per_s, left_out: {dropped (by their label), unseen, bad}}; rows of\n"
    "confusion are the true classes, in the order of classes.\n"
    "With --intervene: {before, after, method, concepts_fixed, concepts_wrong, labels_fixed, labels_broken, steps, moved_bits,\n"
    "seconds}; before and after are as above.",
    eval_examples,
    run_eval};
