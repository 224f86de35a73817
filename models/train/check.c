/*
 * models/train/check.c - whether models and data fit each other
 */
#include "models/base/text.h"
#include "models/data/classes.h"
#include "models/train/check.h"

#include <stdio.h>
#include <string.h>

scbm_status cbm_check_heads(const cbm_heads *from, const cbm_heads *into, const cbm_dataset *data, const char *path) {
    cbm_names names = cbm_heads_names(from);
    if (into->mode == CBM_VANILLA) names.n_concepts = -1;
    scbm_status status = cbm_dataset_check_names(data, &names, path);
    for (int k = 0; k < into->n_concepts && !status; k++)
        if (strcmp(from->concept_name[k], into->concept_name[k]) != 0)
            status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its concept %d is '%s', and here it is '%s'", path, k + 1,
                               from->concept_name[k], into->concept_name[k]);
    return status;
}

/* The one class that n values have, `stride` apart; -1: there are several, or none, of which *is_none tells. */
static int32_t only_class(const int32_t *values, size_t n, size_t stride, int *is_none) {
    int32_t first = -1;
    *is_none = 0;
    for (size_t i = 0; i < n; i++) {
        if (values[i * stride] < 0) continue;
        if (first >= 0 && values[i * stride] != first) return -1;
        first = values[i * stride];
    }
    *is_none = first < 0;
    return first;
}

/* Of one class there is nothing to learn: whatever is trained says it of every text. */
static scbm_status check_label(const cbm_dataset *train) {
    char shown[CBM_SHOWN_SIZE];
    int is_none;
    int32_t first = only_class(train->label, train->n, 1, &is_none);
    if (first < 0) return SCBM_OK; /* with none the concepts alone are trained */
    return scbm_fail(SCBM_ERROR_ARGUMENT, "the training data have one label alone, '%s': there is nothing to learn",
                     cbm_show_string(shown, train->label_classes.name[first]));
}

static void say_column(const char *what, const cbm_classes *classes, const int32_t *values, size_t n, size_t stride,
                       const scbm_hooks *hooks) {
    char column[CBM_SHOWN_SIZE], name[CBM_SHOWN_SIZE];
    int is_none;
    int32_t only = only_class(values, n, stride, &is_none);
    cbm_show_string(column, what);
    if (is_none)
        scbm_log(hooks, SCBM_LOG_WARNING, "%s: no text that is trained on has a class, so there is nothing to learn",
                 column);
    if (only >= 0)
        scbm_log(
            hooks, SCBM_LOG_WARNING,
            "%s: every text that is trained on is '%s', so there is nothing to learn, and it counts as read without an "
            "error",
            column, cbm_show_string(name, classes->name[only]));
}

void cbm_say_single_classes(const cbm_dataset *train, int n_concepts, const char *const *concept_names,
                            const scbm_hooks *hooks) {
    say_column("label", &train->label_classes, train->label, train->n, 1, hooks);
    for (int k = 0; k < n_concepts; k++)
        say_column(concept_names[k], &train->concept_classes[k], train->concept_class + k, train->n,
                   (size_t)train->n_concepts, hooks);
}

scbm_status cbm_check_train_data(const cbm_dataset *data, const cbm_dataset *train, const char *what, cbm_mode mode,
                                 const char *const *concept_names) {
    char name[40];
    snprintf(name, sizeof name, "the %s data", what);
    if (!data || data->n == 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "there are no %s data", what);
    if (data->n > INT32_MAX)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the %s data have %zu texts: too many", what, data->n);
    if (!data->label || data->label_classes.n == 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the %s data have no labels", what);
    scbm_status status = data == train ? check_label(train) : SCBM_OK;
    if (status) return status;
    if (mode == CBM_VANILLA) return cbm_dataset_check_rows(data, name);
    if (data->n_concepts < 1 || !concept_names)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the %s data have no concepts, which %s mode needs", what,
                         cbm_mode_name(mode));
    if (data->n_concepts != train->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the training data have %d concepts, and the %s data %d",
                         train->n_concepts, what, data->n_concepts);
    for (int k = 0; k < data->n_concepts; k++)
        if (data->concept_classes[k].n == 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no value in the %s data", concept_names[k], what);
    return cbm_dataset_check_rows(data, name);
}
