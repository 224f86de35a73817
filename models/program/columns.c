/*
 * models/program/columns.c - which columns of a data file hold the text, the label and the concepts
 */
#include "models/program/program.h"

#include <stdlib.h>
#include <string.h>

static char *copy_text(const char *text, size_t length) {
    char *copy = malloc(length + 1);
    if (!copy) return NULL;
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

void cli_columns_clear(cli_columns *columns) {
    for (int k = 0; k < columns->n_concepts; k++) {
        if (columns->concepts) free((void *)columns->concepts[k].name), free((void *)columns->concepts[k].column);
        if (columns->concept_classes) free((void *)columns->concept_classes[k].name);
    }
    free(columns->concepts);
    free(columns->concept_classes);
    free((void *)columns->label_classes.name);
    free((void *)columns->concept.item);
    free((void *)columns->unknown.item);
    memset(columns, 0, sizeof *columns);
}

/* Takes room for n concepts. */
static int make_room(const cli_command *command, cli_columns *columns, int n) {
    columns->n_concepts = n;
    columns->concepts = calloc((size_t)n + 1, sizeof *columns->concepts);
    columns->concept_classes = calloc((size_t)n + 1, sizeof *columns->concept_classes);
    if (columns->concepts && columns->concept_classes) return CLI_GO_ON;
    return cli_fail(command, "out of memory");
}

static int set_concept(const cli_command *command, cli_columns *columns, int k, const char *name, size_t name_length,
                       const char *column) {
    columns->concepts[k].name = copy_text(name, name_length);
    columns->concepts[k].column = copy_text(column, strlen(column));
    if (columns->concepts[k].name && columns->concepts[k].column) return CLI_GO_ON;
    return cli_fail(command, "out of memory");
}

/* "name=column", or "name" for both. */
static size_t split_concept(const char *item, const char **column) {
    size_t length = strcspn(item, "=");
    *column = item[length] ? item + length + 1 : item;
    return length;
}

/* What both ways of finding the columns share: a label that is ignored is not dropped. */
static int settle_labels(const cli_command *command, cli_columns *columns, int is_dropped_by_option) {
    if (columns->no_drop_label && is_dropped_by_option)
        return cli_misuse(command, "--drop-label and --no-drop-label contradict each other");
    int is_ignored = columns->ignore_label && columns->drop_label &&
                     strcmp(columns->ignore_label, columns->drop_label) == 0;
    if (columns->no_drop_label || is_ignored) columns->drop_label = NULL;
    return CLI_GO_ON;
}

int cli_columns_from_options(const cli_command *command, cli_columns *columns) {
    int status = make_room(command, columns, columns->concept.n);
    for (int k = 0; status == CLI_GO_ON && k < columns->n_concepts; k++) {
        const char *item = columns->concept.item[k], *column;
        size_t length = split_concept(item, &column);
        if (length == 0 || !column[0]) return cli_misuse(command, "--concept wants NAME=COLUMN, got '%s'", item);
        for (int j = 0; j < k; j++) {
            if (strlen(columns->concepts[j].name) == length && memcmp(columns->concepts[j].name, item, length) == 0)
                return cli_misuse(command, "--concept %.*s is given twice", (int)length, item);
        }
        status = set_concept(command, columns, k, item, length, column);
    }
    if (status != CLI_GO_ON) return status;
    if (!columns->text) return cli_misuse(command, "--text COLUMN is required: which column holds the text?");
    if (!columns->label) return cli_misuse(command, "--label COLUMN is required: which column holds the label?");
    int is_dropped_by_option = columns->drop_label != NULL;
    if (!is_dropped_by_option) columns->drop_label = "no majority";
    return settle_labels(command, columns, is_dropped_by_option);
}

/* The column that the options give to concept `name`; NULL: none. */
static const char *column_from_options(const cli_columns *columns, const char *name) {
    for (int i = 0; i < columns->concept.n; i++) {
        const char *column;
        size_t length = split_concept(columns->concept.item[i], &column);
        if (strlen(name) == length && memcmp(name, columns->concept.item[i], length) == 0) return column;
    }
    return NULL;
}

/* Every --concept must name a concept of the model. */
static int check_names(const cli_command *command, const cli_columns *columns, const cbm_model *model) {
    for (int i = 0; i < columns->concept.n; i++) {
        const char *column;
        size_t length = split_concept(columns->concept.item[i], &column);
        int k = 0;
        for (; k < cbm_model_n_concepts(model); k++) {
            const char *name = cbm_model_concept(model, k);
            if (strlen(name) == length && memcmp(name, columns->concept.item[i], length) == 0) break;
        }
        if (k == cbm_model_n_concepts(model))
            return cli_fail(command, "--concept %s: the model has no concept '%.*s'", columns->concept.item[i],
                            (int)length, columns->concept.item[i]);
    }
    return CLI_GO_ON;
}

/* What training noted of unknown values; the options' values come first. */
static int read_unknown(const cli_command *command, cli_columns *columns, const scbm_file *file) {
    int64_t key = scbm_file_find_key(file, CBM_KEY_UNKNOWN);
    if (scbm_file_int_or(file, CBM_KEY_UNKNOWN_IS_MISSING, 0)) columns->unknown_missing = 1;
    if (columns->unknown.n || key < 0) return CLI_GO_ON;
    int64_t n = scbm_file_array_length(file, key);
    columns->unknown.item = calloc((size_t)n + 1, sizeof *columns->unknown.item);
    if (!columns->unknown.item) return cli_fail(command, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        scbm_status status = scbm_file_string_at(file, key, i, &columns->unknown.item[i]);
        if (status != SCBM_OK) return cli_fail_status(command, status);
        columns->unknown.n++;
    }
    return CLI_GO_ON;
}

/* The names are the model's. */
static int take_classes(const cli_command *command, cli_columns *columns, const cbm_model *model) {
    for (int k = -1; k < columns->n_concepts; k++) {
        cbm_classes *classes = k < 0 ? &columns->label_classes : &columns->concept_classes[k];
        classes->n = (size_t)(k < 0 ? cbm_model_n_labels(model) : cbm_model_n_concept_classes(model, k));
        classes->name = calloc(classes->n + 1, sizeof *classes->name);
        if (!classes->name) return cli_fail(command, "out of memory");
        for (int c = 0; c < (int)classes->n; c++)
            classes->name[c] = k < 0 ? cbm_model_label(model, c) : cbm_model_concept_class(model, k, c);
    }
    return CLI_GO_ON;
}

int cli_columns_from_model(const cli_command *command, cli_columns *columns, const cbm_model *model,
                           const scbm_file *file) {
    int64_t noted = scbm_file_find_key(file, CBM_KEY_CONCEPT_COLUMNS);
    int status = check_names(command, columns, model);
    if (status == CLI_GO_ON) status = make_room(command, columns, cbm_model_n_concepts(model));
    for (int k = 0; status == CLI_GO_ON && k < columns->n_concepts; k++) {
        const char *name = cbm_model_concept(model, k), *column = column_from_options(columns, name);
        if (!column && noted >= 0 && k < scbm_file_array_length(file, noted) &&
            scbm_file_string_at(file, noted, k, &column) != SCBM_OK)
            column = NULL;
        if (!column)
            return cli_misuse(command,
                              "the model file does not say which column holds concept '%s': give --concept '%s=COLUMN'",
                              name, name);
        status = set_concept(command, columns, k, name, strlen(name), column);
    }
    if (status != CLI_GO_ON) return status;
    if (!columns->text) columns->text = scbm_file_string_or(file, CBM_KEY_TEXT_COLUMN, NULL);
    if (!columns->label) columns->label = scbm_file_string_or(file, CBM_KEY_LABEL_COLUMN, NULL);
    if (!columns->text)
        return cli_misuse(command, "the model file does not say which column holds the text: give --text COLUMN");
    if (!columns->label)
        return cli_misuse(command, "the model file does not say which column holds the label: give --label COLUMN");
    int is_dropped_by_option = columns->drop_label != NULL;
    if (!is_dropped_by_option) {
        if (!columns->ignore_label) columns->ignore_label = scbm_file_string_or(file, CBM_KEY_IGNORE_LABEL, NULL);
        columns->drop_label = scbm_file_string_or(file, CBM_KEY_DROP_LABEL, noted >= 0 ? NULL : "no majority");
    }
    status = settle_labels(command, columns, is_dropped_by_option);
    if (status == CLI_GO_ON) status = read_unknown(command, columns, file);
    return status == CLI_GO_ON ? take_classes(command, columns, model) : status;
}

cbm_dataset_options cli_columns_options(const cli_columns *columns, const cli_list *paths) {
    return (cbm_dataset_options){
        .paths = paths ? paths->item : NULL,
        .n_paths = paths ? paths->n : 0,
        .text = columns->text,
        .label = columns->label,
        .concepts = columns->concepts,
        .n_concepts = columns->n_concepts,
        .drop_labels = &columns->drop_label,
        .n_drop_labels = columns->drop_label != NULL,
        .ignore_labels = &columns->ignore_label,
        .n_ignore_labels = columns->ignore_label != NULL,
        .unknown = columns->unknown.n ? columns->unknown.item : NULL,
        .n_unknown = columns->unknown.n,
        .unknown_is_missing = columns->unknown_missing,
        .label_classes = columns->label_classes.n ? &columns->label_classes : NULL,
        .concept_classes = columns->label_classes.n ? columns->concept_classes : NULL,
        .format = (cbm_data_format)columns->format,
        .limit = (size_t)columns->limit,
        .keep_going = columns->keep_going,
        .text_option = "--text COLUMN",
        .format_option = "--format FORMAT",
        .label_option = "--label COLUMN",
        .concept_option = "--concept NAME=COLUMN",
    };
}

static void tell_bad_rows(const cbm_dataset *data, const scbm_hooks *hooks) {
    if (!data->n_bad) return;
    for (size_t i = 0; i < data->n_listed; i++) scbm_log(hooks, SCBM_LOG_WARNING, "left out: %s", data->bad[i].reason);
    scbm_log(hooks, SCBM_LOG_WARNING, "%zu of %zu rows are left out because something is wrong with them%s",
             data->n_bad, data->n_read, data->n_listed < data->n_bad ? "; the first are listed" : "");
}

scbm_status cli_columns_read(const cli_columns *columns, const cli_list *paths, const cbm_dataset *classes,
                             cbm_dataset *data, const scbm_hooks *hooks) {
    cbm_dataset_options options = cli_columns_options(columns, paths);
    if (classes) {
        options.label_classes = &classes->label_classes;
        options.concept_classes = classes->concept_classes;
    }
    scbm_status status = cbm_dataset_read(data, &options, hooks);
    if (status == SCBM_OK) tell_bad_rows(data, hooks);
    return status;
}
