/*
 * models/program/cmd-eval.c - how good a model's predictions are on labelled texts
 */
#include "models/program/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PRINTED_CLASSES 40

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
    int32_t *gold;  /* of the oracle's texts: [n] labels, then [n, n_concepts] */
    int *n_classes; /* [n_concepts] */
} eval_command;

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

/* The confusion matrix of concept k, or of the label where k is -1; the caller releases it. */
static int64_t *confusion_of(const eval_command *e, const eval_result *r, int k) {
    const int32_t *gold = k < 0 ? r->gold_label : r->gold_concepts + k;
    const int32_t *predicted = k < 0 ? r->label : r->concepts + k;
    int n = k < 0 ? cbm_model_n_labels(e->in.model) : e->n_classes[k];
    int64_t *confusion = scbm_alloc_array(&e->in.hooks, (size_t)n * (size_t)n, sizeof *confusion);
    if (confusion) cbm_count_confusion(confusion, n, gold, predicted, r->n, k < 0 ? 1 : (size_t)e->columns.n_concepts);
    return confusion;
}

/* ------------------------------------------------------------------------------------------
 * JSON
 * ---------------------------------------------------------------------------------------- */

static cJSON *json_interval(double low, double high) {
    cJSON *pair = cJSON_CreateArray();
    cJSON_AddItemToArray(pair, cli_json_double(low));
    cJSON_AddItemToArray(pair, cli_json_double(high));
    return pair;
}

static cJSON *json_scores(const cbm_measures *m) {
    cJSON *object = cJSON_CreateObject();
    const double none = m->n ? 0.0 : (double)NAN; /* null in JSON */
    cJSON_AddItemToObject(object, "accuracy", cli_json_double(m->value.accuracy + none));
    cJSON_AddItemToObject(object, "macro_f1", cli_json_double(m->value.macro_f1 + none));
    cJSON_AddItemToObject(object, "macro_f1_ovr", cli_json_double(m->value.macro_f1_ovr + none));
    return object;
}

static cJSON *json_confusion(const int64_t *confusion, int n) {
    cJSON *rows = cJSON_CreateArray();
    for (int gold = 0; gold < n; gold++) {
        cJSON *row = cJSON_CreateArray();
        for (int c = 0; c < n; c++)
            cJSON_AddItemToArray(row, cli_json_int(confusion[(size_t)gold * (size_t)n + (size_t)c]));
        cJSON_AddItemToArray(rows, row);
    }
    return rows;
}

static void add_majority_and_intervals(const eval_command *e, cJSON *object, const cbm_measures *m) {
    cJSON_AddItemToObject(object, "majority", m->n ? cli_json_double(m->majority_share) : cJSON_CreateNull());
    if (!e->resamples || !m->n) return;
    cJSON *intervals = cJSON_CreateObject();
    cJSON_AddItemToObject(intervals, "accuracy", json_interval(m->low.accuracy, m->high.accuracy));
    cJSON_AddItemToObject(intervals, "macro_f1", json_interval(m->low.macro_f1, m->high.macro_f1));
    cJSON_AddItemToObject(intervals, "macro_f1_ovr", json_interval(m->low.macro_f1_ovr, m->high.macro_f1_ovr));
    cJSON_AddItemToObject(object, "intervals", intervals);
}

/* Concept k's measures, or the label's where k is -1. NULL: out of memory. */
static cJSON *json_measures(const eval_command *e, const eval_result *r, int k) {
    const cbm_measures *m = k < 0 ? &r->of_label : &r->of_concept[k];
    int64_t *confusion = confusion_of(e, r, k);
    if (!confusion) return NULL;
    cJSON *object = json_scores(m);
    cJSON_AddItemToObject(object, "confusion",
                          json_confusion(confusion, k < 0 ? cbm_model_n_labels(e->in.model) : e->n_classes[k]));
    add_majority_and_intervals(e, object, m);
    scbm_release(&e->in.hooks, confusion);
    return object;
}

/* NULL: out of memory. */
static cJSON *json_result(const eval_command *e, const eval_result *r) {
    cJSON *object = cJSON_CreateObject(), *concepts = json_scores(&r->mean), *each = cJSON_CreateObject();
    cJSON *label = json_measures(e, r, -1);
    int has_memory = label != NULL;
    for (int k = 0; k < e->columns.n_concepts && has_memory; k++) {
        cJSON *concept = json_measures(e, r, k);
        has_memory = concept != NULL;
        cJSON_AddItemToObject(each, cbm_model_concept(e->in.model, k), concept);
    }
    add_majority_and_intervals(e, concepts, &r->mean);
    cJSON_AddItemToObject(concepts, "each", each);
    cJSON_AddItemToObject(object, "label", label);
    cJSON_AddItemToObject(object, "concepts", concepts);
    cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)r->n));
    cJSON_AddItemToObject(object, "texts_per_s", cli_json_double((double)r->n / r->seconds));
    if (has_memory) return object;
    cJSON_Delete(object);
    return NULL;
}

static scbm_status print_json(const eval_command *e, const eval_result *r) {
    cJSON *object = json_result(e, r);
    return object ? cli_json_print(object) : SCBM_ERROR_MEMORY;
}

static scbm_status print_interventions_json(const eval_command *e, const eval_result *before,
                                            const eval_result *after) {
    const cbm_oracle *o = e->oracle;
    cJSON *object = cJSON_CreateObject(), *result[2] = {json_result(e, before), json_result(e, after)};
    int has_memory = result[0] && result[1];
    cJSON_AddItemToObject(object, "before", result[0]);
    cJSON_AddItemToObject(object, "after", result[1]);
    cJSON_AddStringToObject(object, "method", e->intervene ? "edit" : "mask");
    cJSON_AddItemToObject(object, "concepts_fixed", cli_json_int(o->concepts_fixed));
    cJSON_AddItemToObject(object, "concepts_wrong", cli_json_int(o->concepts_wrong));
    cJSON_AddItemToObject(object, "labels_fixed", cli_json_int(o->labels_fixed));
    cJSON_AddItemToObject(object, "labels_broken", cli_json_int(o->labels_broken));
    cJSON_AddItemToObject(object, "steps", cli_json_int(o->steps));
    cJSON_AddItemToObject(object, "moved_bits", cli_json_int(o->moved_bits));
    cJSON_AddItemToObject(object, "seconds", cli_json_double(o->seconds));
    if (has_memory) return cli_json_print(object);
    cJSON_Delete(object);
    return SCBM_ERROR_MEMORY;
}

/* ------------------------------------------------------------------------------------------
 * Text
 * ---------------------------------------------------------------------------------------- */

/* The number of characters of UTF-8 text: about the columns that it takes. */
static int width_of(const char *text) {
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_padded(const char *text, int width) {
    printf("%s%*s", text, width - width_of(text) > 0 ? width - width_of(text) : 0, "");
}

/* "66.2 %  (63.9-68.4)" */
static void print_score(const eval_command *e, double value, double low, double high) {
    char interval[32] = "";
    if (e->resamples) snprintf(interval, sizeof interval, "(%.1f-%.1f)", 100 * low, 100 * high);
    printf("  %5.1f %% %-*s", 100 * value, e->resamples ? 13 : 5, interval);
}

static void print_measures(const eval_command *e, const char *name, int width, const cbm_measures *m,
                           const char *majority) {
    printf("  ");
    print_padded(name, width);
    if (m->n) {
        print_score(e, m->value.accuracy, m->low.accuracy, m->high.accuracy);
        print_score(e, m->value.macro_f1, m->low.macro_f1, m->high.macro_f1);
        print_score(e, m->value.macro_f1_ovr, m->low.macro_f1_ovr, m->high.macro_f1_ovr);
        printf("  %5.1f %%%s%s\n", 100 * m->majority_share, majority[0] ? " " : "", majority);
    } else {
        puts("  there are no true classes in these data");
    }
}

static void print_table(const eval_command *e, const eval_result *r) {
    int width = width_of("all concepts"), column = e->resamples ? 22 : 14;
    for (int k = 0; k < e->columns.n_concepts; k++) {
        int n = width_of(cbm_model_concept(e->in.model, k));
        if (n > width) width = n;
    }
    printf("  %*s  %-*s%-*s%-*s%s\n", width, "", column, "accuracy", column, "macro_f1", column, "macro_f1_ovr",
           "majority");
    print_measures(e, "label", width, &r->of_label,
                   r->of_label.n ? cbm_model_label(e->in.model, r->of_label.majority_class) : "");
    for (int k = 0; k < e->columns.n_concepts; k++) {
        int most = r->of_concept[k].majority_class;
        print_measures(e, cbm_model_concept(e->in.model, k), width, &r->of_concept[k],
                       most < 0 ? "" : cbm_model_concept_class(e->in.model, k, most));
    }
    if (e->columns.n_concepts) print_measures(e, "all concepts", width, &r->mean, "");
}

static scbm_status print_confusion(const eval_command *e, const eval_result *r) {
    int n = cbm_model_n_labels(e->in.model), name_width = 4, width = 5;
    if (n > MOST_PRINTED_CLASSES) {
        printf("\nlabel has %d classes; --json gives their confusion matrix\n", n);
        return SCBM_OK;
    }
    int64_t *confusion = confusion_of(e, r, -1);
    if (!confusion) return SCBM_ERROR_MEMORY;
    for (int y = 0; y < n; y++) {
        int length = width_of(cbm_model_label(e->in.model, y));
        if (length > name_width) name_width = length;
        if (length > width) width = length;
    }
    printf("\nlabel: each row is a true class, each column a predicted one\n  %*s", name_width, "");
    for (int y = 0; y < n; y++) {
        printf("  %*s", width - width_of(cbm_model_label(e->in.model, y)), "");
        fputs(cbm_model_label(e->in.model, y), stdout);
    }
    putchar('\n');
    for (int gold = 0; gold < n; gold++) {
        printf("  ");
        print_padded(cbm_model_label(e->in.model, gold), name_width);
        for (int y = 0; y < n; y++)
            printf("  %*lld", width, (long long)confusion[(size_t)gold * (size_t)n + (size_t)y]);
        putchar('\n');
    }
    scbm_release(&e->in.hooks, confusion);
    return SCBM_OK;
}

static void print_left_out(const eval_command *e) {
    if (e->data.n_dropped)
        printf(" (%zu more with label \"%s\" are left out)", e->data.n_dropped, e->columns.drop_label);
}

static void explain_columns(const eval_command *e) {
    printf("  %smajority: what always guessing the most frequent class gives\n",
           e->resamples ? "in brackets: 95 % intervals by bootstrap; " : "");
}

static scbm_status print_text(const eval_command *e, const eval_result *r) {
    printf("%zu texts", r->n);
    print_left_out(e);
    printf(", %.1f texts/s\n", (double)r->n / r->seconds);
    print_table(e, r);
    explain_columns(e);
    return print_confusion(e, r);
}

static scbm_status print_interventions(const eval_command *e, const eval_result *before, const eval_result *after) {
    const cbm_oracle *o = e->oracle;
    printf("%zu texts", e->data.n);
    print_left_out(e);
    if (o->n < e->data.n) printf(", %zu of them taken evenly", o->n);
    printf("\n\nAs they are\n");
    print_table(e, before);
    printf("\nWith every misread concept set to its true class (%s)\n", e->intervene ? "edit" : "mask");
    print_table(e, after);
    explain_columns(e);
    printf(
        "\n  concepts: %lld of %lld that were wrong were brought to the true class\n  labels: %lld fixed, %lld broken\n",
        (long long)o->concepts_fixed, (long long)o->concepts_wrong, (long long)o->labels_fixed,
        (long long)o->labels_broken);
    if (!e->intervene) printf("  %lld steps, %lld mask bits moved\n", (long long)o->steps, (long long)o->moved_bits);
    printf("  %.1f s, %.1f ms for each wrong concept\n", o->seconds,
           o->concepts_wrong ? 1000 * (o->seconds - o->predict_seconds) / (double)o->concepts_wrong : 0.0);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Every text's prediction as CSV
 * ---------------------------------------------------------------------------------------- */

/* A field in quotes; those inside are doubled. */
static void write_field(scbm_output_file *output, const char *prefix, const char *text, const char *separator) {
    scbm_output_print(output, "\"%s", prefix);
    for (const char *quote = strchr(text, '"'); quote; quote = strchr(text, '"')) {
        scbm_output_write(output, text, (size_t)(quote - text) + 1);
        scbm_output_write(output, "\"", 1);
        text = quote + 1;
    }
    scbm_output_print(output, "%s\"%s", text, separator);
}

static scbm_status write_predictions(const eval_command *e) {
    scbm_output_file *output;
    scbm_status status = scbm_output_open(&output, e->csv_path, &e->in.hooks);
    if (status != SCBM_OK) return status;
    int n_concepts = e->columns.n_concepts;
    write_field(output, "", e->columns.text, ",");
    write_field(output, "", e->columns.label, ",");
    write_field(output, "predicted ", e->columns.label, n_concepts ? "," : "\n");
    for (int k = 0; k < n_concepts; k++) {
        write_field(output, "", cbm_model_concept(e->in.model, k), ",");
        write_field(output, "predicted ", cbm_model_concept(e->in.model, k), k + 1 < n_concepts ? "," : "\n");
    }
    for (size_t i = 0; i < e->data.n; i++) {
        const char *gold = cbm_model_label(e->in.model, e->data.label[i]); /* NULL for -1 */
        write_field(output, "", e->data.text[i], ",");
        write_field(output, "", gold ? gold : "", ",");
        write_field(output, "", cbm_model_label(e->in.model, e->evaluation.label[i]), n_concepts ? "," : "\n");
        for (int k = 0; k < n_concepts; k++) {
            size_t cell = i * (size_t)n_concepts + (size_t)k;
            gold = cbm_model_concept_class(e->in.model, k, e->data.concept_class[cell]);
            write_field(output, "", gold ? gold : "", ",");
            write_field(output, "", cbm_model_concept_class(e->in.model, k, e->evaluation.concept_class[cell]),
                        k + 1 < n_concepts ? "," : "\n");
        }
    }
    return scbm_output_commit(output);
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
    if (status == SCBM_OK && e->csv_path) status = write_predictions(e);
    if (status == SCBM_OK && e->csv_path) cli_say_wrote(e->in.command, e->csv_path);
    if (status == SCBM_OK) status = e->in.json ? print_json(e, &r) : print_text(e, &r);
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
    if (status == SCBM_OK)
        status = e->in.json ? print_interventions_json(e, &before, &after) : print_interventions(e, &before, &after);
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
    if (e->intervene >= 0 && e->csv_path) return cli_misuse(command, "--csv is for an evaluation without --intervene");
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
        CLI_WRITE_OPTION("csv", &e.csv_path, "write every text with its true and predicted classes"),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&e.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_usage(&e, options);
    if (status == CLI_GO_ON) status = load_model(&e);
    if (status == CLI_GO_ON && e.intervene >= 0)
        status = cli_intervention_check(command, e.in.model, e.in.model_path, &e.intervene_options, "--intervene edit");
    if (status != CLI_GO_ON) return finish(&e, status);
    cli_catch_interrupt();
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
    "With --json: {label: {accuracy, macro_f1, macro_f1_ovr, confusion, majority, intervals}, concepts: {accuracy, macro_f1,\n"
    "macro_f1_ovr, majority, intervals, each: {NAME: as label}}, texts, texts_per_s}; rows of confusion are the true classes.\n"
    "With --intervene: {before, after, method, concepts_fixed, concepts_wrong, labels_fixed, labels_broken, steps, moved_bits,\n"
    "seconds}; before and after are as above.",
    eval_examples,
    run_eval};
