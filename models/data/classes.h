/*
 * models/data/classes.h - classes while a data set is read, and comparing them with a model's
 */
#ifndef CBM_CLASSES_H
#define CBM_CLASSES_H

#include "models/base/names.h"
#include "models/cbm-train.h"

#define CBM_UNKNOWN_CLASS "unknown"

/* Classes by their names. */
typedef struct cbm_class_table {
    cbm_classes classes;
    size_t name_capacity;
    int32_t *slot; /* [n_slots], by the name's hash: a class's number + 1; 0: free */
    size_t n_slots;
} cbm_class_table;

/* The class's number, -1: not there. */
int32_t cbm_class_table_find(const cbm_class_table *table, const char *name);
/* Adds a class that is not there yet; `name` stays the caller's. */
scbm_status cbm_class_table_add(cbm_class_table *table, const char *name, const scbm_hooks *hooks);
void cbm_class_table_clear(cbm_class_table *table, const scbm_hooks *hooks);

/* Counts the n values, `stride` apart. */
scbm_status cbm_class_table_count(cbm_class_table *table, const int32_t *values, size_t n, size_t stride,
                                  const scbm_hooks *hooks);
/* Puts counted classes in order (numbers by value if all are numbers, else by bytes; "unknown" last), leaves out those
 * without a row, and numbers the values accordingly. The table is not searched after that. */
scbm_status cbm_class_table_sort(cbm_class_table *table, int32_t *values, size_t n, size_t stride,
                                 const scbm_hooks *hooks);

/* Checks that every row has a text and every class number is one of its column's (a data set may be the caller's own
 * arrays); `what` names the data in messages. */
scbm_status cbm_dataset_check_rows(const cbm_dataset *data, const char *what);
/* The same, and that the data set's classes are the model's, by name and order. */
scbm_status cbm_dataset_check_names(const cbm_dataset *data, const cbm_names *names, const char *what);

#endif
