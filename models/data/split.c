/*
 * models/data/split.c - a part of the training data set aside to validate on
 */
#include "models/cbm-train.h"
#include "models/data/classes.h"

#include <math.h>
#include <string.h>

/* The stream of random numbers; those of training lie beside it. */
#define SPLIT_STREAM ((uint64_t)0xffff0004u << 32)

/* A data set of n rows that `from` has texts and classes for. */
static scbm_status create_part(cbm_dataset *part, const cbm_dataset *from, size_t n, const scbm_hooks *hooks) {
    size_t n_concepts = (size_t)from->n_concepts;
    *part = (cbm_dataset){.n_concepts = from->n_concepts,
                          .label_classes = from->label_classes,
                          .concept_classes = from->concept_classes,
                          .concept_name = from->concept_name};
    part->text = scbm_alloc_array(hooks, n, sizeof *part->text);
    part->text_length = scbm_alloc_array(hooks, n, sizeof *part->text_length);
    part->label = scbm_alloc_array(hooks, n, sizeof *part->label);
    part->concept_class = scbm_alloc_array(hooks, n * n_concepts, sizeof *part->concept_class);
    int has_memory = part->text && part->text_length && part->label && part->concept_class;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static void add_row(cbm_dataset *part, const cbm_dataset *from, size_t row) {
    size_t n_concepts = (size_t)from->n_concepts, n = part->n++;
    part->text[n] = from->text[row];
    part->text_length[n] = from->text_length[row];
    part->label[n] = from->label ? from->label[row] : -1;
    if (n_concepts)
        memcpy(part->concept_class + n * n_concepts, from->concept_class + row * n_concepts,
               n_concepts * sizeof *part->concept_class);
    part->n_read = part->n;
}

/* How many rows of each label (from -1 on) there are to be: so many that of all labels up to any the share is right to a
 * row. */
static void settle_counts(size_t *wanted, const cbm_dataset *data, double share) {
    size_t before = 0, seen = 0;
    for (size_t i = 0; i < data->n; i++) wanted[data->label[i] + 1]++;
    for (size_t c = 0; c <= data->label_classes.n; c++) {
        seen += wanted[c];
        size_t so_far = (size_t)floor(share * (double)seen + 0.5);
        wanted[c] = so_far - before;
        before = so_far;
    }
}

/* Marks as many of each label as are wanted, in the order of the rows; returns how many there are. */
static size_t mark(uint8_t *is_validation, const cbm_dataset *data, const int32_t *order, size_t *wanted) {
    size_t n = 0;
    for (size_t i = 0; i < data->n; i++) {
        size_t row = (size_t)order[i], *left = &wanted[data->label[row] + 1];
        if (!*left) continue;
        is_validation[row] = 1;
        (*left)--;
        n++;
    }
    return n;
}

static scbm_status split_rows(cbm_split *split, const cbm_dataset *data, const int32_t *order, size_t *wanted,
                              uint8_t *is_validation) {
    size_t n = mark(is_validation, data, order, wanted);
    if (n == 0) is_validation[order[0]] = 1, n = 1;
    if (n == data->n) is_validation[order[0]] = 0, n--;
    scbm_status status = create_part(&split->validation, data, n, &split->hooks);
    if (!status) status = create_part(&split->train, data, data->n - n, &split->hooks);
    for (size_t row = 0; row < data->n && !status; row++)
        add_row(is_validation[row] ? &split->validation : &split->train, data, row);
    return status;
}

scbm_status cbm_dataset_split(cbm_split *split, const cbm_dataset *data, double share, uint64_t seed,
                              const scbm_hooks *hooks) {
    memset(split, 0, sizeof *split);
    if (hooks) split->hooks = *hooks;
    if (data->n < 2 || !data->label || !(share > 0 && share < 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "a part to validate on: of %zu labelled texts the share %g cannot be taken",
                         data->label ? data->n : 0, share);
    scbm_status checked = cbm_dataset_check_rows(data, "a part to validate on");
    if (checked) return checked;
    scbm_random random = {seed, SPLIT_STREAM, 0};
    int32_t *order = scbm_alloc_array(&split->hooks, data->n, sizeof *order);
    uint8_t *is_validation = scbm_alloc_array(&split->hooks, data->n, sizeof *is_validation);
    size_t *wanted = scbm_alloc_array(&split->hooks, data->label_classes.n + 1, sizeof *wanted);
    scbm_status status = order && is_validation && wanted ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) {
        for (size_t i = 0; i < data->n; i++) order[i] = (int32_t)i;
        scbm_random_shuffle(&random, order, (int64_t)data->n);
        settle_counts(wanted, data, share);
        status = split_rows(split, data, order, wanted, is_validation);
    }
    scbm_release(&split->hooks, wanted);
    scbm_release(&split->hooks, order);
    scbm_release(&split->hooks, is_validation);
    if (status) cbm_split_clear(split);
    return status;
}

static void clear_part(cbm_dataset *part, const scbm_hooks *hooks) {
    scbm_release(hooks, (void *)part->text);
    scbm_release(hooks, part->text_length);
    scbm_release(hooks, part->label);
    scbm_release(hooks, part->concept_class);
}

void cbm_split_clear(cbm_split *split) {
    clear_part(&split->train, &split->hooks);
    clear_part(&split->validation, &split->hooks);
    memset(split, 0, sizeof *split);
}
