/*
 * models/data/classes.c - classes by name: finding, counting, putting in order, comparing with a model's
 */
#include "models/data/classes.h"

#include "models/base/hash.h"
#include "models/base/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * A table
 * ---------------------------------------------------------------------------------------- */

/* The place of a name among the slots, or the free one where it belongs. The number of slots is a power of two. */
static size_t find_slot(const cbm_class_table *t, const char *name) {
    size_t mask = t->n_slots - 1, at = (size_t)cbm_hash(CBM_HASH_START, name, strlen(name)) & mask;
    while (t->slot[at] && strcmp(t->classes.name[t->slot[at] - 1], name) != 0) at = (at + 1) & mask;
    return at;
}

int32_t cbm_class_table_find(const cbm_class_table *t, const char *name) {
    return t->n_slots ? t->slot[find_slot(t, name)] - 1 : -1;
}

static scbm_status grow_slots(cbm_class_table *t, const scbm_hooks *hooks) {
    size_t n = t->n_slots ? 2 * t->n_slots : 16;
    int32_t *slot = scbm_alloc_array(hooks, n, sizeof *slot);
    if (!slot) return SCBM_ERROR_MEMORY;
    scbm_release(hooks, t->slot);
    t->slot = slot;
    t->n_slots = n;
    for (size_t c = 0; c < t->classes.n; c++) slot[find_slot(t, t->classes.name[c])] = (int32_t)c + 1;
    return SCBM_OK;
}

scbm_status cbm_class_table_add(cbm_class_table *t, const char *name, const scbm_hooks *hooks) {
    cbm_classes *classes = &t->classes;
    scbm_status status = scbm_grow(hooks, (void **)&classes->name, &t->name_capacity, classes->n + 1,
                                   sizeof *classes->name);
    if (!status && 2 * (classes->n + 1) > t->n_slots) status = grow_slots(t, hooks);
    if (status) return status;
    size_t at = find_slot(t, name);
    classes->name[classes->n++] = name;
    if (!t->slot[at]) t->slot[at] = (int32_t)classes->n;
    return SCBM_OK;
}

void cbm_class_table_clear(cbm_class_table *t, const scbm_hooks *hooks) {
    scbm_release(hooks, (void *)t->classes.name);
    scbm_release(hooks, t->classes.count);
    scbm_release(hooks, t->slot);
    memset(t, 0, sizeof *t);
}

scbm_status cbm_class_table_count(cbm_class_table *t, const int32_t *values, size_t n, size_t stride,
                                  const scbm_hooks *hooks) {
    int64_t *count = t->classes.count = scbm_alloc_array(hooks, t->classes.n, sizeof *count);
    if (!count) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < n; i++)
        if (values[i * stride] >= 0) count[values[i * stride]]++;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Order
 * ---------------------------------------------------------------------------------------- */

typedef struct sorted_class {
    const char *name;
    double value; /* of the number that it is; 0 where not all are numbers */
    int is_unknown;
    int64_t count;
    int32_t was;
} sorted_class;

static int compare_classes(const void *a, const void *b) {
    const sorted_class *x = a, *y = b;
    if (x->is_unknown != y->is_unknown) return x->is_unknown - y->is_unknown;
    if (x->value < y->value) return -1;
    if (x->value > y->value) return 1;
    return strcmp(x->name, y->name);
}

/* The classes that have rows, in order; how many there are. */
static size_t order_classes(const cbm_classes *classes, sorted_class *order) {
    int are_numbers = 1;
    size_t n = 0;
    for (size_t c = 0; c < classes->n; c++) {
        const char *name = classes->name[c];
        if (!classes->count[c]) continue;
        sorted_class *made = &order[n++];
        *made = (sorted_class){name, 0.0, strcmp(name, CBM_UNKNOWN_CLASS) == 0, classes->count[c], (int32_t)c};
        if (!made->is_unknown && scbm_parse_double(name, strlen(name), &made->value)) are_numbers = 0;
    }
    for (size_t c = 0; c < n && !are_numbers; c++) order[c].value = 0.0;
    if (n) qsort(order, n, sizeof *order, compare_classes);
    return n;
}

scbm_status cbm_class_table_sort(cbm_class_table *t, int32_t *values, size_t n, size_t stride,
                                 const scbm_hooks *hooks) {
    cbm_classes *classes = &t->classes;
    sorted_class *order = scbm_alloc_array(hooks, classes->n, sizeof *order);
    int32_t *becomes = scbm_alloc_array(hooks, classes->n, sizeof *becomes);
    scbm_status status = order && becomes ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) {
        classes->n = order_classes(classes, order);
        for (size_t c = 0; c < classes->n; c++) {
            classes->name[c] = order[c].name;
            classes->count[c] = order[c].count;
            becomes[order[c].was] = (int32_t)c;
        }
        for (size_t i = 0; i < n; i++)
            if (values[i * stride] >= 0) values[i * stride] = becomes[values[i * stride]];
    }
    scbm_release(hooks, order);
    scbm_release(hooks, becomes);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Classes that are there
 * ---------------------------------------------------------------------------------------- */

int cbm_class_values(const char *const *names, int n, double *values) {
    for (int c = 0; c < n; c++)
        if (scbm_parse_double(names[c], strlen(names[c]), &values[c]) || !isfinite(values[c])) return 0;
    return 1;
}

/* `wanted` names and the data's must be the same. */
static scbm_status check_names(const char *what, const char *name, const char *const *wanted, int n,
                               const cbm_classes *classes) {
    char shown[CBM_SHOWN_SIZE], here[CBM_SHOWN_SIZE], there[CBM_SHOWN_SIZE];
    cbm_show_string(shown, name);
    if (classes->n != (size_t)n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: %s has %zu classes, and the model %d", what, shown, classes->n, n);
    for (int i = 0; i < n; i++)
        if (strcmp(wanted[i], classes->name[i]) != 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: class %d of %s is '%s', and the model's '%s'", what, i, shown,
                             cbm_show_string(here, classes->name[i]), cbm_show_string(there, wanted[i]));
    return SCBM_OK;
}

static int is_class(int32_t number, const cbm_classes *classes) {
    return number >= -1 && (number < 0 || (size_t)number < classes->n);
}

scbm_status cbm_dataset_check_rows(const cbm_dataset *data, const char *what) {
    size_t n_concepts = (size_t)data->n_concepts;
    if (data->n && (!data->text || !data->text_length))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there are %zu rows without texts", what, data->n);
    if (data->n_concepts < 0 || (n_concepts && data->n && (!data->concept_class || !data->concept_classes)))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there are %d concepts without classes", what, data->n_concepts);
    for (size_t i = 0; i < data->n; i++) {
        if (!data->text[i]) return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: the text of row %zu is NULL", what, i);
        if (data->label && !is_class(data->label[i], &data->label_classes))
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: row %zu has label %d, and there are %zu", what, i,
                             (int)data->label[i], data->label_classes.n);
        for (size_t k = 0; k < n_concepts; k++)
            if (!is_class(data->concept_class[i * n_concepts + k], &data->concept_classes[k]))
                return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: row %zu has class %d of concept %zu, which has %zu", what, i,
                                 (int)data->concept_class[i * n_concepts + k], k, data->concept_classes[k].n);
    }
    return SCBM_OK;
}

static scbm_status check_class_names(const cbm_dataset *data, const cbm_names *names, const char *what) {
    scbm_status status = SCBM_OK;
    if (data->label_classes.n)
        status = check_names(what, "the label", names->label_name, names->n_labels, &data->label_classes);
    if (status || names->n_concepts < 0) return status;
    if (data->n_concepts != names->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there are %d concepts, and the model has %d", what, data->n_concepts,
                         names->n_concepts);
    for (int k = 0; k < names->n_concepts && !status; k++)
        status = check_names(what, names->concept_name[k], names->class_name + names->groups[k],
                             names->groups[k + 1] - names->groups[k], &data->concept_classes[k]);
    return status;
}

scbm_status cbm_dataset_check_names(const cbm_dataset *data, const cbm_names *names, const char *what) {
    scbm_status status = check_class_names(data, names, what);
    return status ? status : cbm_dataset_check_rows(data, what);
}
