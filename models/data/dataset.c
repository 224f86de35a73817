/*
 * models/data/dataset.c - labelled texts: classes, rows, and comparing with a model's names
 *
 * Classes that are taken from the data are numbered as they come and put in order at the end.
 */
#include "models/data/dataset.h"
#include "models/data/reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNKNOWN "unknown"
#define MESSAGE_SIZE 400

/* ------------------------------------------------------------------------------------------
 * Classes
 * ---------------------------------------------------------------------------------------- */

int32_t cbm_classes_find(const cbm_classes *classes, const char *name) {
    for (size_t c = 0; c < classes->n; c++) {
        if (strcmp(classes->name[c], name) == 0) return (int32_t)c;
    }
    return -1;
}

scbm_status cbm_classes_add(cbm_classes *classes, const char *name, const scbm_hooks *hooks) {
    scbm_status status = scbm_grow(hooks, (void **)&classes->name, &classes->capacity, classes->n + 1,
                                   sizeof *classes->name);
    if (status) return status;
    classes->name[classes->n] = scbm_strdup(hooks, name);
    if (!classes->name[classes->n]) return SCBM_ERROR_MEMORY;
    classes->n++;
    return SCBM_OK;
}

void cbm_classes_clear(cbm_classes *classes, const scbm_hooks *hooks) {
    for (size_t c = 0; c < classes->n; c++) scbm_release(hooks, classes->name[c]);
    scbm_release(hooks, classes->name);
    memset(classes, 0, sizeof *classes);
}

static scbm_status copy_classes(cbm_classes *copy, const cbm_classes *classes, const scbm_hooks *hooks) {
    scbm_status status = SCBM_OK;
    for (size_t c = 0; c < classes->n && !status; c++) status = cbm_classes_add(copy, classes->name[c], hooks);
    return status;
}

typedef struct sorted_class {
    char *name;
    double value; /* of the number that it is; 0 where not all are numbers */
    int is_unknown;
    int32_t was;
} sorted_class;

static int compare_classes(const void *a, const void *b) {
    const sorted_class *x = a, *y = b;
    if (x->is_unknown != y->is_unknown) return x->is_unknown - y->is_unknown;
    if (x->value < y->value) return -1;
    if (x->value > y->value) return 1;
    return strcmp(x->name, y->name);
}

/* Puts the classes in order (numbers by value if all are numbers, else by bytes; unknown last), and numbers the n
 * values, `stride` apart, accordingly. */
static scbm_status sort_classes(cbm_classes *classes, int32_t *values, size_t n, size_t stride,
                                const scbm_hooks *hooks) {
    sorted_class *order = scbm_alloc_array(hooks, classes->n, sizeof *order);
    int32_t *becomes = scbm_alloc_array(hooks, classes->n, sizeof *becomes);
    int are_numbers = 1;
    if (order && becomes) {
        for (size_t c = 0; c < classes->n; c++) {
            order[c] = (sorted_class){classes->name[c], 0.0, strcmp(classes->name[c], UNKNOWN) == 0, (int32_t)c};
            if (!order[c].is_unknown && scbm_parse_double(order[c].name, strlen(order[c].name), &order[c].value))
                are_numbers = 0;
        }
        for (size_t c = 0; c < classes->n && !are_numbers; c++) order[c].value = 0.0;
        qsort(order, classes->n, sizeof *order, compare_classes);
        for (size_t c = 0; c < classes->n; c++) {
            classes->name[c] = order[c].name;
            becomes[order[c].was] = (int32_t)c;
        }
        for (size_t i = 0; i < n; i++) {
            if (values[i * stride] >= 0) values[i * stride] = becomes[values[i * stride]];
        }
    }
    scbm_status status = order && becomes ? SCBM_OK : SCBM_ERROR_MEMORY;
    scbm_release(hooks, order);
    scbm_release(hooks, becomes);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Reading a row
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_data_fail_file(cbm_data_reader *r, const char *format, ...) {
    char message[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return r->status = scbm_fail(SCBM_ERROR_FORMAT, "%.200s: %s", r->path, message);
}

scbm_status cbm_data_fail_cell(cbm_data_reader *r, const char *column, const char *format, ...) {
    char message[MESSAGE_SIZE], name[CBM_SHOWN_SIZE], place[CBM_SHOWN_SIZE + 16] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (column) snprintf(place, sizeof place, ", column '%s'", cbm_show(name, column, strlen(column)));
    return r->status = scbm_fail(SCBM_ERROR_FORMAT, "%.200s, %s %zu%s: %s", r->path, r->row_word, r->row, place,
                                 message);
}

scbm_status cbm_data_report(cbm_data_reader *r, size_t done, size_t total) {
    if (!r->hooks || !r->hooks->progress || !r->hooks->progress(r->hooks->user, "read", (int64_t)done, (int64_t)total))
        return SCBM_OK;
    return r->status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled while %s was read", r->path);
}

void cbm_list_name(cbm_name_list *list, const char *text) {
    char shown[CBM_SHOWN_SIZE];
    if (list->is_full) return;
    const char *name = cbm_show(shown, text, strlen(text));
    list->is_full = list->used + strlen(name) + 12 > sizeof list->text;
    list->used += (size_t)snprintf(list->text + list->used, sizeof list->text - list->used, "%s%s%s%s",
                                   list->used ? ", " : "", list->is_full ? "…" : "'", list->is_full ? "" : name,
                                   list->is_full ? "" : "'");
}

scbm_status cbm_data_set_cell(cbm_data_reader *r, int w, const char *text, size_t length) {
    cbm_data_cell *c = &r->cells[w];
    if (memchr(text, 0, length)) return cbm_data_fail_cell(r, r->wanted[w], "there is a NUL byte");
    size_t bad = cbm_find_bad_utf8(text, length);
    if (bad < length)
        return cbm_data_fail_cell(r, r->wanted[w], "byte %zu (0x%02x) is not UTF-8", bad + 1,
                                  (unsigned)(unsigned char)text[bad]);
    scbm_status status = scbm_grow(r->hooks, (void **)&c->text, &c->capacity, length + 1, 1);
    if (status) return r->status = status;
    memcpy(c->text, text, length);
    c->text[length] = 0;
    c->length = length;
    return SCBM_OK;
}

/* The class that cell w names: among the known ones, or a new one. */
static scbm_status find_class(cbm_data_reader *r, int w, const char *name, const cbm_classes *known,
                              cbm_classes *classes, int32_t *number) {
    *number = cbm_classes_find(classes, name);
    if (*number >= 0) return SCBM_OK;
    if (known) {
        char shown[CBM_SHOWN_SIZE];
        cbm_name_list list = {"", 0, 0};
        for (size_t c = 0; c < known->n; c++) cbm_list_name(&list, known->name[c]);
        return cbm_data_fail_cell(r, r->wanted[w], "'%s'%s is not one of the known classes: %s",
                                  cbm_show(shown, r->cells[w].text, r->cells[w].length),
                                  strcmp(name, r->cells[w].text) == 0 ? "" : " (" UNKNOWN ")", list.text);
    }
    if (classes->n == CBM_MAX_CLASSES)
        return cbm_data_fail_cell(
            r, r->wanted[w], "there are more than %d different values: this column holds no classes", CBM_MAX_CLASSES);
    *number = (int32_t)classes->n;
    return r->status = cbm_classes_add(classes, name, r->hooks);
}

static int equal(const char *text, const char *other) {
    return other && strcmp(text, other) == 0;
}

static scbm_status read_label(cbm_data_reader *r, int32_t *label) {
    const cbm_data_cell *c = &r->cells[CBM_CELL_LABEL];
    *label = -1;
    if (!r->wanted[CBM_CELL_LABEL] || equal(c->text, r->options->ignore_label)) return SCBM_OK;
    if (c->length == 0)
        return cbm_data_fail_cell(r, r->wanted[CBM_CELL_LABEL],
                                  "the label is empty; such rows can be dropped or ignored");
    return find_class(r, CBM_CELL_LABEL, c->text, r->options->label_classes, &r->data->label_classes, label);
}

static int means_unknown(const cbm_dataset_options *options, const char *value) {
    static const char *const usual[] = {"", UNKNOWN, "no majority"};
    const char *const *unknown = options->unknown ? options->unknown : usual;
    int n = options->unknown ? options->n_unknown : (int)(sizeof usual / sizeof usual[0]);
    for (int i = 0; i < n; i++) {
        if (strcmp(value, unknown[i]) == 0) return 1;
    }
    return 0;
}

static scbm_status read_concept(cbm_data_reader *r, int k, int32_t *class_number) {
    int w = CBM_CELL_CONCEPTS + k;
    const char *value = r->cells[w].text;
    *class_number = -1;
    if (means_unknown(r->options, value)) {
        if (r->options->unknown_is_missing) return SCBM_OK;
        value = UNKNOWN;
    }
    if (!value[0])
        return cbm_data_fail_cell(r, r->wanted[w],
                                  "the concept is empty, which is not among the values that mean unknown");
    const cbm_classes *known = r->options->concept_classes ? &r->options->concept_classes[k] : NULL;
    return find_class(r, w, value, known, &r->data->concept_classes[k], class_number);
}

static scbm_status grow_rows(cbm_data_reader *r) {
    cbm_dataset *d = r->data;
    size_t n = d->n + 1, n_concepts = (size_t)d->n_concepts;
    if (n > INT32_MAX)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.200s: there are more than %d rows", r->path, INT32_MAX);
    scbm_status status = scbm_grow(r->hooks, (void **)&d->text, &d->text_capacity, n, sizeof *d->text);
    if (!status) status = scbm_grow(r->hooks, (void **)&d->text_length, &d->length_capacity, n, sizeof *d->text_length);
    if (!status) status = scbm_grow(r->hooks, (void **)&d->label, &d->label_capacity, n, sizeof *d->label);
    if (!status && n_concepts > SIZE_MAX / n) status = scbm_fail(SCBM_ERROR_MEMORY, "out of memory: %zu rows", n);
    if (!status)
        status = scbm_grow(r->hooks, (void **)&d->concept_class, &d->concept_capacity, n * n_concepts,
                           sizeof *d->concept_class);
    return status;
}

scbm_status cbm_data_add_row(cbm_data_reader *r) {
    cbm_dataset *d = r->data;
    d->n_read++;
    if (r->wanted[CBM_CELL_LABEL] && equal(r->cells[CBM_CELL_LABEL].text, r->options->drop_label)) return SCBM_OK;
    r->status = grow_rows(r);
    if (!r->status) read_label(r, &d->label[d->n]);
    for (int k = 0; k < d->n_concepts && !r->status; k++)
        read_concept(r, k, &d->concept_class[d->n * (size_t)d->n_concepts + (size_t)k]);
    if (r->status) return r->status;
    d->text[d->n] = scbm_strdup(r->hooks, r->cells[CBM_CELL_TEXT].text);
    if (!d->text[d->n]) return r->status = SCBM_ERROR_MEMORY;
    d->text_length[d->n] = r->cells[CBM_CELL_TEXT].length;
    d->n++;
    return SCBM_OK;
}

const char *cbm_data_advise(const cbm_data_reader *r, int w, char advice[CBM_ADVICE_SIZE]) {
    const cbm_dataset_options *o = r->options;
    const char *option = w == CBM_CELL_TEXT    ? o->text_option
                         : w == CBM_CELL_LABEL ? o->label_option
                                               : o->concept_option;
    advice[0] = 0;
    if (option) snprintf(advice, CBM_ADVICE_SIZE, " (%s chooses another)", option);
    return advice;
}

/* ------------------------------------------------------------------------------------------
 * Data sets
 * ---------------------------------------------------------------------------------------- */

/* One file's content, by the format that its name says. */
static scbm_status read_content(cbm_data_reader *r, const char *data, size_t size) {
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) data += 3, size -= 3;
    if (size >= 2 && (memcmp(data, "\xff\xfe", 2) == 0 || memcmp(data, "\xfe\xff", 2) == 0))
        return cbm_data_fail_file(r, "the file is UTF-16: UTF-8 is wanted");
    if (cbm_has_suffix(r->path, ".jsonl") || cbm_has_suffix(r->path, ".json") || cbm_has_suffix(r->path, ".ndjson"))
        return cbm_data_read_jsonl(r, data, size);
    return cbm_data_read_csv(r, data, size);
}

static scbm_status read_file(cbm_data_reader *r, const char *path) {
    scbm_bytes bytes;
    r->path = path;
    r->status = scbm_bytes_open(&bytes, path, r->hooks);
    if (r->status) return r->status;
    read_content(r, (const char *)bytes.data, bytes.size);
    scbm_bytes_close(&bytes, r->hooks);
    return r->status;
}

static scbm_status start_reading(cbm_data_reader *r) {
    const cbm_dataset_options *options = r->options;
    cbm_dataset *d = r->data;
    r->n_wanted = CBM_CELL_CONCEPTS + options->n_concepts;
    r->wanted = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->wanted);
    r->cells = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->cells);
    d->concept_classes = scbm_alloc_array(r->hooks, (size_t)options->n_concepts, sizeof *d->concept_classes);
    r->column = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->column);
    if (!r->wanted || !r->cells || !r->column || !d->concept_classes) return SCBM_ERROR_MEMORY;
    d->n_concepts = options->n_concepts;
    r->wanted[CBM_CELL_TEXT] = options->text;
    r->wanted[CBM_CELL_LABEL] = options->label;
    for (int k = 0; k < options->n_concepts; k++) r->wanted[CBM_CELL_CONCEPTS + k] = options->concepts[k].column;
    scbm_status status = SCBM_OK;
    if (options->label_classes) status = copy_classes(&d->label_classes, options->label_classes, r->hooks);
    for (int k = 0; k < options->n_concepts && options->concept_classes && !status; k++)
        status = copy_classes(&d->concept_classes[k], &options->concept_classes[k], r->hooks);
    return status;
}

/* Classes in order, and a data set with rows. */
static scbm_status finish_reading(cbm_data_reader *r) {
    const cbm_dataset_options *options = r->options;
    cbm_dataset *d = r->data;
    char shown[CBM_SHOWN_SIZE];
    scbm_status status = SCBM_OK;
    if (d->n == 0)
        return cbm_data_fail_file(r, "no row is left: the label of all %zu is '%s'", d->n_read,
                                  cbm_show(shown, options->drop_label, strlen(options->drop_label)));
    if (!options->label_classes) status = sort_classes(&d->label_classes, d->label, d->n, 1, r->hooks);
    for (int k = 0; k < d->n_concepts && !options->concept_classes && !status; k++)
        status = sort_classes(&d->concept_classes[k], d->concept_class + k, d->n, (size_t)d->n_concepts, r->hooks);
    return status;
}

static void stop_reading(cbm_data_reader *r) {
    for (int w = 0; w < r->n_wanted && r->cells; w++) scbm_release(r->hooks, r->cells[w].text);
    scbm_release(r->hooks, r->cells);
    scbm_release(r->hooks, r->wanted);
    scbm_release(r->hooks, r->column);
    scbm_release(r->hooks, r->header);
}

/* From the files of the options, or from the bytes of one file `name`. */
static scbm_status read_dataset(cbm_dataset *dataset, const cbm_dataset_options *options, const char *name,
                                const void *data, size_t size, const scbm_hooks *hooks) {
    cbm_data_reader r;
    memset(&r, 0, sizeof r);
    memset(dataset, 0, sizeof *dataset);
    dataset->hooks = hooks;
    r.data = dataset;
    r.options = options;
    r.hooks = hooks;
    r.path = name;
    if (!options->text || (!name && options->n_paths < 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a data set needs a file and the column of its texts");
    scbm_status status = start_reading(&r);
    if (name && !status) status = read_content(&r, data, size);
    for (int i = 0; !name && i < options->n_paths && !status; i++) status = read_file(&r, options->paths[i]);
    if (!status) status = finish_reading(&r);
    stop_reading(&r);
    if (status) cbm_dataset_clear(dataset);
    return status;
}

scbm_status cbm_dataset_read(cbm_dataset *dataset, const cbm_dataset_options *options, const scbm_hooks *hooks) {
    return read_dataset(dataset, options, NULL, NULL, 0, hooks);
}

scbm_status cbm_dataset_read_memory(cbm_dataset *dataset, const cbm_dataset_options *options, const char *name,
                                    const void *data, size_t size, const scbm_hooks *hooks) {
    return read_dataset(dataset, options, name, data, size, hooks);
}

void cbm_dataset_clear(cbm_dataset *dataset) {
    const scbm_hooks *hooks = dataset->hooks;
    for (size_t i = 0; i < dataset->n; i++) scbm_release(hooks, dataset->text[i]);
    scbm_release(hooks, dataset->text);
    scbm_release(hooks, dataset->text_length);
    scbm_release(hooks, dataset->label);
    scbm_release(hooks, dataset->concept_class);
    cbm_classes_clear(&dataset->label_classes, hooks);
    for (int k = 0; k < dataset->n_concepts; k++) cbm_classes_clear(&dataset->concept_classes[k], hooks);
    scbm_release(hooks, dataset->concept_classes);
    memset(dataset, 0, sizeof *dataset);
}

/* ------------------------------------------------------------------------------------------
 * Comparing with a model's names
 * ---------------------------------------------------------------------------------------- */

/* `wanted` names and the data's must be the same. */
static scbm_status check_names(const char *what, const char *name, const char *const *wanted, int n,
                               const cbm_classes *classes) {
    if (classes->n != (size_t)n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: %s has %zu classes, and the model %d", what, name, classes->n, n);
    for (int i = 0; i < n; i++)
        if (strcmp(wanted[i], classes->name[i]) != 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: class %d of %s is '%s', and the model's '%s'", what, i, name,
                             classes->name[i], wanted[i]);
    return SCBM_OK;
}

scbm_status cbm_dataset_check_names(const cbm_dataset *data, const cbm_names *names, const char *what) {
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
