/*
 * models/program/columns.c - which columns of a data file hold the text, the label and the concepts
 */
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 200 }; /* bytes of a value in a message */

static const char *show(const char *text, char shown[SHOWN]) {
    return cbm_text_show(shown, SHOWN, text, strlen(text), 60);
}

static char *copy_text(const char *text, size_t length) {
    char *copy = malloc(length + 1);
    if (!copy) return NULL;
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

void cli_columns_clear(cli_columns *columns) {
    for (int i = 0; i < columns->n_given; i++) free((void *)columns->given[i].name);
    free(columns->given);
    for (int k = 0; k < columns->n_concepts; k++) {
        if (columns->concepts) free((void *)columns->concepts[k].name), free((void *)columns->concepts[k].column);
        if (columns->concept_classes) free((void *)columns->concept_classes[k].name);
    }
    free(columns->concepts);
    free(columns->concept_classes);
    free((void *)columns->label_classes.name);
    free((void *)columns->concept.item);
    free((void *)columns->unknown.item);
    free((void *)columns->drop_label.item);
    free((void *)columns->ignore_label.item);
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

static int set_concept(const cli_command *command, cli_columns *columns, int k, const char *name, const char *column) {
    columns->concepts[k].name = copy_text(name, strlen(name));
    columns->concepts[k].column = copy_text(column, strlen(column));
    if (columns->concepts[k].name && columns->concepts[k].column) return CLI_GO_ON;
    return cli_fail(command, "out of memory");
}

/* "name=column", or "name" for both; "==" of the name is "=". Writes the name, which is not longer than the item. */
static void split_concept(const char *item, char *name, const char **column) {
    const char *at = item;
    while (*at && (*at != '=' || at[1] == '=')) {
        *name++ = *at;
        at += *at == '=' ? 2 : 1;
    }
    *name = 0;
    *column = *at ? at + 1 : NULL;
}

/* The names and columns of the options' concepts. */
static int read_concepts(const cli_command *command, cli_columns *columns) {
    cli_list *items = &columns->concept;
    columns->given = calloc((size_t)items->n + 1, sizeof *columns->given);
    if (!columns->given) return cli_fail(command, "out of memory");
    for (int i = 0; i < items->n; i++) {
        char *name = copy_text(items->item[i], strlen(items->item[i]));
        const char *column;
        if (!name) return cli_fail(command, "out of memory");
        split_concept(items->item[i], name, &column);
        columns->given[columns->n_given++] = (cbm_concept_column){name, column ? column : name};
        if (!name[0] || (column && !column[0]))
            return cli_misuse(command, "--concept wants NAME=COLUMN, got '%s'", items->item[i]);
        for (int j = 0; j < i; j++)
            if (strcmp(columns->given[j].name, name) == 0)
                return cli_misuse(command, "--concept %s is given twice", name);
    }
    return CLI_GO_ON;
}

static int has_item(const cli_list *list, const char *item) {
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->item[i], item) == 0) return 1;
    return 0;
}

/* Adds one item; 0: out of memory. */
static int add_item(cli_list *list, const char *item) {
    const char **grown = realloc((void *)list->item, ((size_t)list->n + 1) * sizeof *grown);
    if (!grown) return 0;
    grown[list->n++] = item;
    list->item = grown;
    return 1;
}

/* What both ways of finding the columns share: a label that is ignored is not dropped. */
static int settle_labels(const cli_command *command, cli_columns *columns, int is_dropped_by_option) {
    cli_list *drop = &columns->drop_label;
    int n = 0;
    if (columns->no_drop_label && is_dropped_by_option)
        return cli_misuse(command, "--drop-label and --no-drop-label contradict each other");
    for (int i = 0; i < drop->n && !columns->no_drop_label; i++) {
        int is_ignored = has_item(&columns->ignore_label, drop->item[i]);
        if (is_ignored && is_dropped_by_option)
            return cli_misuse(command, "--drop-label and --ignore-label both name '%s'", drop->item[i]);
        if (!is_ignored) drop->item[n++] = drop->item[i];
    }
    drop->n = n;
    return CLI_GO_ON;
}

int cli_columns_from_options(const cli_command *command, cli_columns *columns) {
    int status = read_concepts(command, columns);
    if (status == CLI_GO_ON) status = make_room(command, columns, columns->n_given);
    for (int k = 0; status == CLI_GO_ON && k < columns->n_concepts; k++)
        status = set_concept(command, columns, k, columns->given[k].name, columns->given[k].column);
    if (status != CLI_GO_ON) return status;
    if (!columns->text) return cli_misuse(command, "--text COLUMN is required: which column holds the text?");
    if (!columns->label) return cli_misuse(command, "--label COLUMN is required: which column holds the label?");
    int is_dropped_by_option = columns->drop_label.n > 0;
    if (!is_dropped_by_option && !add_item(&columns->drop_label, "no majority"))
        return cli_fail(command, "out of memory");
    return settle_labels(command, columns, is_dropped_by_option);
}

/* The column that the options give to concept `name`; NULL: none. */
static const char *column_from_options(const cli_columns *columns, const char *name) {
    for (int i = 0; i < columns->n_given; i++)
        if (strcmp(columns->given[i].name, name) == 0) return columns->given[i].column;
    return NULL;
}

/* Every --concept must name a concept of the model. */
static int check_names(const cli_command *command, const cli_columns *columns, const cbm_model *model) {
    for (int i = 0; i < columns->n_given; i++) {
        int k = 0, n = cbm_model_n_concepts(model);
        while (k < n && strcmp(cbm_model_concept(model, k), columns->given[i].name) != 0) k++;
        if (k == n)
            return cli_fail(command, "--concept %s: the model has no concept '%s'", columns->concept.item[i],
                            columns->given[i].name);
    }
    return CLI_GO_ON;
}

/* What training noted under a key, a text or a list of them. */
static int read_noted(const cli_command *command, cli_list *list, const scbm_file *file, const char *name) {
    const char *one = scbm_file_string_or(file, name, NULL), *item;
    int64_t key = one ? -1 : scbm_file_find_key(file, name), n = key < 0 ? 0 : scbm_file_array_length(file, key);
    if (one && !add_item(list, one)) return cli_fail(command, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        scbm_status status = scbm_file_string_at(file, key, i, &item);
        if (status != SCBM_OK) return cli_fail_status(command, status);
        if (!add_item(list, item)) return cli_fail(command, "out of memory");
    }
    return CLI_GO_ON;
}

/* What training noted of labels and unknown values; what the options say of each comes first. */
static int read_values(const cli_command *command, cli_columns *columns, const scbm_file *file) {
    int is_dropped_by_option = columns->drop_label.n > 0, status = CLI_GO_ON;
    int is_noted = scbm_file_find_key(file, CBM_KEY_TEXT_COLUMN) >= 0;
    if (scbm_file_int_or(file, CBM_KEY_UNKNOWN_IS_MISSING, 0)) columns->unknown_missing = 1;
    if (scbm_file_int_or(file, CBM_KEY_MERGE_CLASSES, 0)) columns->merge_classes = 1;
    if (!columns->unknown.n) status = read_noted(command, &columns->unknown, file, CBM_KEY_UNKNOWN);
    if (status == CLI_GO_ON && !is_dropped_by_option && !columns->ignore_label.n)
        status = read_noted(command, &columns->ignore_label, file, CBM_KEY_IGNORE_LABEL);
    if (status == CLI_GO_ON && !is_dropped_by_option)
        status = read_noted(command, &columns->drop_label, file, CBM_KEY_DROP_LABEL);
    if (status == CLI_GO_ON && !columns->drop_label.n && !is_noted && !add_item(&columns->drop_label, "no majority"))
        return cli_fail(command, "out of memory");
    return status == CLI_GO_ON ? settle_labels(command, columns, is_dropped_by_option) : status;
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
    int status = read_concepts(command, columns);
    if (status == CLI_GO_ON) status = check_names(command, columns, model);
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
        status = set_concept(command, columns, k, name, column);
    }
    if (status != CLI_GO_ON) return status;
    if (!columns->text) columns->text = scbm_file_string_or(file, CBM_KEY_TEXT_COLUMN, NULL);
    if (!columns->label) columns->label = scbm_file_string_or(file, CBM_KEY_LABEL_COLUMN, NULL);
    if (!columns->text)
        return cli_misuse(command, "the model file does not say which column holds the text: give --text COLUMN");
    if (!columns->label)
        return cli_misuse(command, "the model file does not say which column holds the label: give --label COLUMN");
    status = read_values(command, columns, file);
    return status == CLI_GO_ON ? take_classes(command, columns, model) : status;
}

/* Whether a column is one behind a "=" of --concept. */
static int is_split(const cli_columns *columns) {
    for (int i = 0; i < columns->n_given; i++)
        if (columns->given[i].column != columns->given[i].name) return 1;
    return 0;
}

cbm_dataset_options cli_columns_options(const cli_columns *columns, const cli_list *paths) {
    return (cbm_dataset_options){
        .paths = paths ? paths->item : NULL,
        .n_paths = paths ? paths->n : 0,
        .text = columns->text,
        .label = columns->label,
        .concepts = columns->concepts,
        .n_concepts = columns->n_concepts,
        .drop_labels = columns->drop_label.item,
        .n_drop_labels = columns->drop_label.n,
        .ignore_labels = columns->ignore_label.item,
        .n_ignore_labels = columns->ignore_label.n,
        .unknown = columns->unknown.n ? columns->unknown.item : NULL,
        .n_unknown = columns->unknown.n,
        .unknown_is_missing = columns->unknown_missing,
        .label_classes = columns->label_classes.n ? &columns->label_classes : NULL,
        .concept_classes = columns->label_classes.n ? columns->concept_classes : NULL,
        .format = (cbm_data_format)columns->format,
        .limit = (size_t)columns->limit,
        .keep_going = columns->keep_going,
        .unseen = (cbm_unseen)columns->unseen,
        .merge_classes = columns->merge_classes,
        .text_option = "--text COLUMN",
        .format_option = "--format FORMAT",
        .label_option = "--label COLUMN",
        .concept_option = is_split(columns) ? "--concept NAME=COLUMN, with == for a = of the name,"
                                            : "--concept NAME=COLUMN",
        .unseen_option = "--unseen error|skip|unknown",
        .merge_option = "--merge-classes",
    };
}

static void tell_bad_rows(const cbm_dataset *data, const scbm_hooks *hooks) {
    if (!data->n_bad) return;
    for (size_t i = 0; i < data->n_listed; i++) scbm_log(hooks, SCBM_LOG_WARNING, "left out: %s", data->bad[i].reason);
    scbm_log(hooks, SCBM_LOG_WARNING, "%zu of %zu rows are left out because something is wrong with them%s",
             data->n_bad, data->n_read, data->n_listed < data->n_bad ? "; the first are listed" : "");
}

static void tell_value(const cbm_odd_value *odd, const char *column, const scbm_hooks *hooks) {
    char shown[SHOWN], same[SHOWN];
    long long n = (long long)odd->count, n_same = (long long)odd->same_count;
    const char *value = show(odd->value, shown), *same_as = odd->same_as ? show(odd->same_as, same) : NULL;
    char rows[40] = "";
    if (n_same) snprintf(rows, sizeof rows, " (%lld row%s)", n_same, n_same == 1 ? "" : "s");
    if (odd->fate == CBM_VALUE_MERGED)
        scbm_log(hooks, SCBM_LOG_INFO, "%s: '%s' (%lld row%s) is read as '%s'%s", column, value, n, n == 1 ? "" : "s",
                 same_as, rows);
    else if (odd->fate == CBM_VALUE_TWIN)
        scbm_log(hooks, SCBM_LOG_WARNING,
                 "%s: '%s' (%lld row%s) is a class of its own beside '%s'%s, which is the same written differently: "
                 "--merge-classes makes them one",
                 column, value, n, n == 1 ? "" : "s", same_as, rows);
    else
        scbm_log(hooks, SCBM_LOG_WARNING, "%s: '%s' (%lld row%s) is not among the classes of training%s%s%s", column,
                 value, n, n == 1 ? "" : "s", same_as ? ": it is '" : "", same_as ? same_as : "",
                 same_as ? "' written differently, and --merge-classes makes them one" : "");
}

/* Values that are perhaps not what was meant, and rows that were left out for them. */
static void tell_odd_values(const cli_columns *columns, const cbm_dataset *data, const scbm_hooks *hooks) {
    for (size_t i = 0; i < data->n_odd; i++) {
        char name[SHOWN];
        int k = data->odd[i].concept;
        tell_value(&data->odd[i], k < 0 ? "label" : show(columns->concepts[k].name, name), hooks);
    }
    if (data->n_odd_more)
        scbm_log(hooks, SCBM_LOG_WARNING, "%zu more cells have such values, which are not listed", data->n_odd_more);
    if (data->n_unseen)
        scbm_log(hooks, SCBM_LOG_WARNING, "%zu of %zu rows are left out because of values that training never saw",
                 data->n_unseen, data->n_read);
}

void cli_columns_print_dropped(const cli_columns *columns, size_t n) {
    char shown[SHOWN];
    if (!n || !columns->drop_label.n) return;
    printf(" (%zu more with label ", n);
    for (int i = 0; i < columns->drop_label.n; i++)
        printf("%s\"%s\"", i ? " or " : "", show(columns->drop_label.item[i], shown));
    printf(" are left out)");
}

scbm_status cli_columns_read(const cli_columns *columns, const cli_list *paths, const cbm_dataset *classes,
                             cbm_dataset *data, const scbm_hooks *hooks) {
    cbm_dataset_options options = cli_columns_options(columns, paths);
    if (classes) {
        options.label_classes = &classes->label_classes;
        options.concept_classes = classes->concept_classes;
    }
    scbm_status status = cbm_dataset_read(data, &options, hooks);
    if (status == SCBM_OK) tell_odd_values(columns, data, hooks);
    if (status == SCBM_OK) tell_bad_rows(data, hooks);
    return status;
}
