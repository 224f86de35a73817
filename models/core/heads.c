/*
 * models/core/heads.c - heads: reading and checking them, and their arithmetic in double
 */
#include "models/core/heads.h"
#include "models/core/keys.h"

#include <string.h>

const char *cbm_mode_name(cbm_mode mode) {
    static const char *const names[] = {"encoder", "vanilla", "independent", "sequential", "joint"};
    return (unsigned)mode < sizeof names / sizeof names[0] ? names[mode] : "unknown";
}

scbm_status cbm_heads_create(cbm_heads *heads, cbm_mode mode, int n_concepts, int n_classes, int n_labels,
                             const scbm_hooks *hooks) {
    memset(heads, 0, sizeof *heads);
    heads->mode = mode;
    heads->n_concepts = n_concepts;
    heads->n_classes = n_classes;
    heads->n_labels = n_labels;
    heads->groups = scbm_alloc_array(hooks, (size_t)n_concepts + 1, sizeof *heads->groups);
    heads->concept_name = scbm_alloc_array(hooks, (size_t)n_concepts, sizeof *heads->concept_name);
    heads->class_name = scbm_alloc_array(hooks, (size_t)n_classes, sizeof *heads->class_name);
    heads->label_name = scbm_alloc_array(hooks, (size_t)n_labels, sizeof *heads->label_name);
    if (heads->groups && heads->concept_name && heads->class_name && heads->label_name) return SCBM_OK;
    cbm_heads_clear(heads, hooks);
    return SCBM_ERROR_MEMORY;
}

scbm_status cbm_heads_finish(cbm_heads *heads) {
    const int64_t n_bounds = heads->n_concepts + 1, two = 2;
    heads->max_classes = 0;
    for (int k = 0; k < heads->n_concepts; k++) {
        int n = heads->groups[k + 1] - heads->groups[k];
        if (n > heads->max_classes) heads->max_classes = n;
    }
    heads->label_groups[1] = heads->n_labels;
    scbm_status status = scbm_tensor_init(&heads->group_tensor, "groups", SCBM_I32, 1, &n_bounds);
    if (!status) status = scbm_tensor_init(&heads->label_group_tensor, "label groups", SCBM_I32, 1, &two);
    heads->group_tensor.data = heads->groups;
    heads->label_group_tensor.data = heads->label_groups;
    return status;
}

void cbm_heads_clear(cbm_heads *heads, const scbm_hooks *hooks) {
    scbm_tensor_forget(&heads->group_tensor);
    scbm_tensor_forget(&heads->label_group_tensor);
    scbm_release(hooks, heads->groups);
    scbm_release(hooks, (void *)heads->concept_name);
    scbm_release(hooks, (void *)heads->class_name);
    scbm_release(hooks, (void *)heads->label_name);
    memset(heads, 0, sizeof *heads);
}

static scbm_status read_mode(const scbm_file *file, cbm_mode *mode) {
    const char *name;
    *mode = CBM_ENCODER;
    if (scbm_file_find_key(file, CBM_KEY_MODE) < 0) return SCBM_OK;
    scbm_status status = scbm_file_get_string(file, CBM_KEY_MODE, &name);
    if (status) return status;
    int64_t version = scbm_file_int_or(file, CBM_KEY_FORMAT, scbm_file_int_or(file, CBM_KEY_FORMAT_1, 0));
    if (version < 1 || version > CBM_FILE_FORMAT)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: is a model of format %lld; this library (%s) reads formats 1 to %d",
                         scbm_file_path(file), (long long)version, SCBM_VERSION_TEXT, CBM_FILE_FORMAT);
    for (cbm_mode m = CBM_VANILLA; m <= CBM_JOINT; m++)
        if (strcmp(name, cbm_mode_name(m)) == 0) *mode = m;
    if (*mode == CBM_ENCODER)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is '%s', which is no mode", scbm_file_path(file), CBM_KEY_MODE, name);
    return SCBM_OK;
}

/* The length of an array of strings or integers; at most a million, so that sums stay small. */
static scbm_status read_length(const scbm_file *file, const char *key, scbm_value_type type, int *n) {
    int64_t index = scbm_file_find_key(file, key);
    if (index < 0) return scbm_fail(SCBM_ERROR_FORMAT, "%s: the key %s is missing", scbm_file_path(file), key);
    int64_t length = scbm_file_array_length(file, index);
    int is_string = scbm_file_array_type(file, index) == SCBM_VALUE_STRING;
    if (scbm_file_key_type(file, index) != SCBM_VALUE_ARRAY || is_string != (type == SCBM_VALUE_STRING) || length < 1 ||
        length > 1000000)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s must be an array of %s", scbm_file_path(file), key,
                         type == SCBM_VALUE_STRING ? "strings" : "integers");
    *n = (int)length;
    return SCBM_OK;
}

static scbm_status read_strings(const scbm_file *file, const char *key, int n, const char **strings) {
    int64_t index = scbm_file_find_key(file, key);
    scbm_status status = SCBM_OK;
    for (int i = 0; i < n && !status; i++) status = scbm_file_string_at(file, index, i, &strings[i]);
    return status;
}

/* groups[0] = 0 < groups[1] < … < groups[K] = C */
static scbm_status read_groups(const scbm_file *file, cbm_heads *heads) {
    int64_t index = scbm_file_find_key(file, CBM_KEY_GROUPS);
    for (int k = 0; k <= heads->n_concepts; k++) {
        int64_t bound;
        scbm_status status = scbm_file_int_at(file, index, k, &bound);
        if (status) return status;
        int fits = k == 0 ? bound == 0 : bound > heads->groups[k - 1] && bound <= heads->n_classes;
        if (k == heads->n_concepts) fits = fits && bound == heads->n_classes;
        if (!fits)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s[%d] is %lld, which does not fit %d concepts with %d classes",
                             scbm_file_path(file), CBM_KEY_GROUPS, k, (long long)bound, heads->n_concepts,
                             heads->n_classes);
        heads->groups[k] = (int32_t)bound;
    }
    return SCBM_OK;
}

static scbm_status read_names(const scbm_file *file, cbm_mode mode, cbm_heads *heads, const scbm_hooks *hooks) {
    int n_concepts = 0, n_classes = 0, n_labels = 0, n_bounds = 1;
    scbm_status status = read_length(file, CBM_KEY_LABELS, SCBM_VALUE_STRING, &n_labels);
    if (mode != CBM_VANILLA) {
        if (!status) status = read_length(file, CBM_KEY_CONCEPTS, SCBM_VALUE_STRING, &n_concepts);
        if (!status) status = read_length(file, CBM_KEY_CLASSES, SCBM_VALUE_STRING, &n_classes);
        if (!status) status = read_length(file, CBM_KEY_GROUPS, SCBM_VALUE_I32, &n_bounds);
    }
    if (status) return status;
    if (n_bounds != n_concepts + 1)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s has %d entries for %d concepts", scbm_file_path(file),
                         CBM_KEY_GROUPS, n_bounds, n_concepts);
    status = cbm_heads_create(heads, mode, n_concepts, n_classes, n_labels, hooks);
    if (!status) status = read_strings(file, CBM_KEY_LABELS, n_labels, heads->label_name);
    if (mode != CBM_VANILLA) {
        if (!status) status = read_strings(file, CBM_KEY_CONCEPTS, n_concepts, heads->concept_name);
        if (!status) status = read_strings(file, CBM_KEY_CLASSES, n_classes, heads->class_name);
        if (!status) status = read_groups(file, heads);
    }
    return status ? status : cbm_heads_finish(heads);
}

scbm_status cbm_find_tensor(scbm_file *file, const char *name, scbm_type type, int64_t rows, int64_t columns,
                            scbm_tensor **found) {
    char shape[96];
    scbm_tensor *tensor = scbm_file_find_tensor(file, name);
    if (!tensor) return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is missing", scbm_file_path(file), name);
    int n_dims = columns ? 2 : 1;
    if (tensor->type != type || tensor->n_dims != n_dims || tensor->shape[0] != rows ||
        (columns && tensor->shape[1] != columns)) {
        scbm_tensor wanted;
        char wanted_shape[96];
        const int64_t sizes[2] = {rows, columns};
        scbm_status status = scbm_tensor_init(&wanted, name, type, n_dims, sizes);
        if (status) return status;
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s %s, and must be %s %s", scbm_file_path(file), name,
                         scbm_type_of(tensor->type)->name, scbm_shape_text(tensor, shape, sizeof shape),
                         scbm_type_of(type)->name, scbm_shape_text(&wanted, wanted_shape, sizeof wanted_shape));
    }
    *found = tensor;
    return SCBM_OK;
}

scbm_status cbm_heads_read(cbm_heads *heads, scbm_file *file, int64_t hidden, const scbm_hooks *hooks) {
    cbm_mode mode;
    memset(heads, 0, sizeof *heads);
    scbm_status status = read_mode(file, &mode);
    if (status || mode == CBM_ENCODER) return status;
    status = read_names(file, mode, heads, hooks);
    int64_t n = heads->n_classes, inputs = mode == CBM_VANILLA ? hidden : n;
    if (mode != CBM_VANILLA) {
        if (!status) status = cbm_find_tensor(file, CBM_CONCEPT_WEIGHT, SCBM_F32, n, hidden, &heads->concept_weight);
        if (!status) status = cbm_find_tensor(file, CBM_CONCEPT_BIAS, SCBM_F32, n, 0, &heads->concept_bias);
    }
    if (!status) status = cbm_find_tensor(file, CBM_LABEL_WEIGHT, SCBM_F32, heads->n_labels, inputs, &heads->label_weight);
    if (!status) status = cbm_find_tensor(file, CBM_LABEL_BIAS, SCBM_F32, heads->n_labels, 0, &heads->label_bias);
    if (status) cbm_heads_clear(heads, hooks);
    return status;
}

int cbm_n_logits(const cbm_heads *heads) {
    return heads->mode == CBM_VANILLA ? heads->n_labels : heads->n_classes;
}

void cbm_softmax(const float *logits, int n, float *probabilities) {
    double total = 0.0, largest = (double)logits[cbm_largest(logits, n)];
    for (int i = 0; i < n; i++) total += scbm_exponential((double)logits[i] - largest);
    for (int i = 0; i < n; i++) probabilities[i] = (float)(scbm_exponential((double)logits[i] - largest) / total);
}

int cbm_largest(const float *values, int n) {
    int largest = 0;
    for (int i = 1; i < n; i++)
        if (values[i] > values[largest]) largest = i;
    return largest;
}

void cbm_concept_values(const cbm_heads *heads, const float *logits, float *values) {
    if (heads->mode != CBM_INDEPENDENT) {
        memcpy(values, logits, (size_t)heads->n_classes * sizeof *values);
        return;
    }
    for (int k = 0; k < heads->n_concepts; k++) {
        int first = heads->groups[k];
        cbm_softmax(logits + first, heads->groups[k + 1] - first, values + first);
    }
}

void cbm_label_logits(const cbm_heads *heads, const float *values, float *logits) {
    const float *weight = heads->label_weight->data, *bias = heads->label_bias->data;
    for (int y = 0; y < heads->n_labels; y++) {
        const float *row = weight + (size_t)y * (size_t)heads->n_classes;
        double sum = (double)bias[y];
        for (int c = 0; c < heads->n_classes; c++) sum += (double)row[c] * (double)values[c];
        logits[y] = (float)sum;
    }
}

cbm_names cbm_heads_names(const cbm_heads *heads) {
    const cbm_names names = {.n_labels = heads->n_labels,
                             .n_concepts = heads->mode == CBM_VANILLA ? -1 : heads->n_concepts,
                             .label_name = heads->label_name,
                             .concept_name = heads->concept_name,
                             .class_name = heads->class_name,
                             .groups = heads->groups};
    return names;
}
