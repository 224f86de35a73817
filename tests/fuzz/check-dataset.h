/*
 * tests/fuzz/check-dataset.h - what must hold of a data set, whatever bytes it was read from
 */
#ifndef CHECK_DATASET_H
#define CHECK_DATASET_H

#include "models/data/classes.h"
#include "tests/fuzz/require.h"

static inline void check_classes(const cbm_classes *classes, const int32_t *values, size_t n, size_t stride) {
    require(classes->n <= CBM_MAX_CLASSES);
    for (size_t c = 0; c < classes->n; c++) {
        require(classes->name[c][0] != 0);
        for (size_t other = 0; other < c; other++) require(strcmp(classes->name[other], classes->name[c]) != 0);
        if (strcmp(classes->name[c], "unknown") == 0) require(c == classes->n - 1);
    }
    int64_t counted = 0, with_class = 0;
    for (size_t c = 0; c < classes->n; c++) counted += classes->count[c];
    for (size_t i = 0; i < n; i++) {
        require(values[i * stride] >= -1 && values[i * stride] < (int32_t)classes->n);
        with_class += values[i * stride] >= 0;
    }
    require(counted == with_class);
}

/* With merging, no two classes are one that is written in two ways, and the same bytes read the same by them: a value merges
 * with a known class as it does among others. */
static inline void check_merged(const cbm_dataset_options *options, const char *name, const void *bytes, size_t size) {
    cbm_dataset data, again;
    cbm_dataset_options merging = *options;
    merging.merge_classes = 1;
    if (cbm_dataset_read_memory(&data, &merging, name, bytes, size, NULL) != SCBM_OK) return;
    for (size_t i = 0; i < data.n_odd; i++) require(data.odd[i].fate == CBM_VALUE_MERGED && data.odd[i].count > 0);
    check_classes(&data.label_classes, data.label, data.n, 1);
    merging.label_classes = &data.label_classes;
    merging.concept_classes = data.concept_classes;
    require(cbm_dataset_read_memory(&again, &merging, name, bytes, size, NULL) == SCBM_OK);
    require(again.n == data.n && memcmp(again.label, data.label, data.n * sizeof *data.label) == 0);
    size_t n_cells = data.n * (size_t)data.n_concepts;
    require(!n_cells || memcmp(again.concept_class, data.concept_class, n_cells * sizeof *data.concept_class) == 0);
    cbm_dataset_clear(&again);
    cbm_dataset_clear(&data);
}

/* Reads the bytes, without knowing classes and then with what was found as the known ones: the same must come of it. A
 * refusal is one line that begins with the file's name. Returns whether the data set was read; the caller clears it. */
static inline int read_checked(cbm_dataset *data, const cbm_dataset_options *options, const char *name,
                               const void *bytes, size_t size) {
    static const cbm_dataset nothing;
    if (cbm_dataset_read_memory(data, options, name, bytes, size, NULL) != SCBM_OK) {
        const char *message = scbm_last_error();
        require(strncmp(message, name, strlen(name)) == 0 && !strchr(message, '\n'));
        require(memcmp(data, &nothing, sizeof nothing) == 0);
        return 0;
    }
    require(data->n > 0 && data->n_concepts == options->n_concepts);
    require(data->n_read == data->n + data->n_dropped + data->n_unseen + data->n_bad);
    require(data->n_listed == (data->n_bad < CBM_MAX_BAD_ROWS ? data->n_bad : CBM_MAX_BAD_ROWS));
    for (size_t i = 0; i < data->n_listed; i++) require(!strchr(data->bad[i].reason, '\n') && data->bad[i].row > 0);
    for (size_t i = 1; i < data->n; i++) require(data->row[i] > data->row[i - 1]);
    for (size_t i = 0; i < data->n; i++) require(strlen(data->text[i]) == data->text_length[i]);
    check_classes(&data->label_classes, data->label, data->n, 1);
    for (int k = 0; k < data->n_concepts; k++)
        check_classes(&data->concept_classes[k], data->concept_class + k, data->n, (size_t)data->n_concepts);

    cbm_dataset again;
    cbm_dataset_options known = *options;
    known.label_classes = &data->label_classes;
    known.concept_classes = data->concept_classes;
    require(cbm_dataset_read_memory(&again, &known, name, bytes, size, NULL) == SCBM_OK);
    require(again.n == data->n && memcmp(again.label, data->label, data->n * sizeof *data->label) == 0);
    size_t n_cells = data->n * (size_t)data->n_concepts; /* without concepts there is no array */
    require(!n_cells || memcmp(again.concept_class, data->concept_class, n_cells * sizeof *data->concept_class) == 0);
    cbm_dataset_clear(&again);
    check_merged(options, name, bytes, size);
    return 1;
}

#endif
