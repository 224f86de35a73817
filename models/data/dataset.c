/*
 * models/data/dataset.c - data sets: which format, which files, from the first row to the last
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/data/reader.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define STANDARD_INPUT "-"

static const struct {
    cbm_data_format format;
    const char *suffix[2];
    scbm_status (*read)(cbm_data_reader *r, const char *data, size_t size);
} formats[] = {
    {CBM_DATA_CSV, {".csv", NULL}, cbm_data_read_csv},
    {CBM_DATA_TSV, {".tsv", ".tab"}, cbm_data_read_tsv},
    {CBM_DATA_JSONL, {".jsonl", ".ndjson"}, cbm_data_read_jsonl},
    {CBM_DATA_JSON, {".json", NULL}, cbm_data_read_json},
};

#define N_FORMATS (sizeof formats / sizeof formats[0])

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

static size_t find_format(const cbm_data_reader *r) {
    for (size_t f = 0; f < N_FORMATS; f++) {
        if (r->options.format != CBM_DATA_BY_NAME && r->options.format == formats[f].format) return f;
        for (int i = 0; r->options.format == CBM_DATA_BY_NAME && i < 2 && formats[f].suffix[i]; i++)
            if (cbm_has_suffix(r->path, formats[f].suffix[i])) return f;
    }
    return 0;
}

/* One file's content. */
static scbm_status read_content(cbm_data_reader *r, const char *data, size_t size) {
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) data += 3, size -= 3;
    const char *what = scbm_bytes_recognize(data, size, 0);
    if (what) return cbm_data_fail_file(r, "is not a table of texts but %s", what);
    return formats[find_format(r)].read(r, data, size);
}

/* Reads standard input to its end. */
static scbm_status read_input(cbm_data_reader *r, char **data, size_t *size) {
    size_t capacity = 0;
    for (;;) {
        scbm_status status = scbm_grow(r->hooks, (void **)data, &capacity, *size + CBM_DATA_CHUNK, 1);
        if (status) return status;
        ssize_t n = read(STDIN_FILENO, *data + *size, capacity - *size);
        if (n == 0) return SCBM_OK;
        if (n < 0 && errno != EINTR)
            return scbm_fail(SCBM_ERROR_IO, "%s: cannot be read: %s", r->path, strerror(errno));
        if (n > 0) *size += (size_t)n;
        status = cbm_data_report(r, *size, *size);
        if (status) return status;
    }
}

static scbm_status read_standard_input(cbm_data_reader *r) {
    char *data = NULL;
    size_t size = 0;
    const char *option = r->options.format_option;
    r->path = "standard input";
    if (r->options.format == CBM_DATA_BY_NAME)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "standard input has no name that says its format: it must be chosen%s%s%s", option ? " (" : "",
                         option ? option : "", option ? ")" : "");
    if (r->take && r->options.format == CBM_DATA_JSONL) return cbm_data_stream_jsonl(r);
    r->status = read_input(r, &data, &size);
    if (!r->status) read_content(r, data, size);
    scbm_release(r->hooks, data);
    return r->status;
}

static scbm_status read_file(cbm_data_reader *r, const char *path) {
    scbm_bytes bytes;
    if (strcmp(path, STANDARD_INPUT) == 0) return read_standard_input(r);
    r->path = path;
    r->status = scbm_bytes_open(&bytes, path, r->hooks);
    if (r->status) return r->status;
    read_content(r, (const char *)bytes.data, bytes.size);
    scbm_bytes_close(&bytes, r->hooks);
    return r->status;
}

/* ------------------------------------------------------------------------------------------
 * From the options to a data set
 * ---------------------------------------------------------------------------------------- */

static scbm_status check_options(const cbm_dataset_options *o) {
    int format = (int)o->format;
    if (format < CBM_DATA_BY_NAME || format > CBM_DATA_JSON)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no data format %d", format);
    if (o->n_concepts < 0 || (o->n_concepts && !o->concepts))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%d concepts of a data set are not named", o->n_concepts);
    if ((int)o->unseen < CBM_UNSEEN_ERROR || o->unseen > CBM_UNSEEN_UNKNOWN)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no way %d to read values that are not known", (int)o->unseen);
    for (int k = 0; k < o->n_concepts; k++)
        if (!o->concepts[k].name) return scbm_fail(SCBM_ERROR_ARGUMENT, "concept %d of a data set has no name", k);
    for (int i = 0; i < 8; i++)
        if (o->reserved[i])
            return scbm_fail(SCBM_ERROR_ARGUMENT, "the options of a data set are not zeroed: reserved fields are set");
    return SCBM_OK;
}

static scbm_status name_columns(cbm_data_reader *r) {
    const cbm_dataset_options *o = &r->options;
    r->n_wanted = CBM_CELL_CONCEPTS + o->n_concepts;
    r->wanted = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->wanted);
    r->cells = scbm_alloc_array(r->hooks, (size_t)r->n_wanted, sizeof *r->cells);
    r->data->concept_name = scbm_alloc_array(r->hooks, (size_t)o->n_concepts, sizeof *r->data->concept_name);
    if (!r->wanted || !r->cells || !r->data->concept_name) return SCBM_ERROR_MEMORY;
    r->wanted[CBM_CELL_TEXT] = o->text;
    r->wanted[CBM_CELL_LABEL] = o->label;
    r->wanted[CBM_CELL_ID] = o->id;
    for (int k = 0; k < o->n_concepts; k++) {
        const cbm_concept_column *concept = &o->concepts[k];
        r->wanted[CBM_CELL_CONCEPTS + k] = concept->column ? concept->column : concept->name;
        r->data->concept_name[k] = cbm_store_text(r->store, concept->name, strlen(concept->name));
        if (!r->data->concept_name[k]) return SCBM_ERROR_MEMORY;
    }
    return SCBM_OK;
}

static scbm_status add_known(cbm_data_reader *r, cbm_class_table *table, const cbm_classes *known) {
    scbm_status status = SCBM_OK;
    for (size_t c = 0; known && c < known->n && !status; c++) {
        const char *name = cbm_store_text(r->store, known->name[c], strlen(known->name[c]));
        status = name ? cbm_class_table_add(table, name, r->hooks) : SCBM_ERROR_MEMORY;
    }
    return status;
}

static scbm_status start_classes(cbm_data_reader *r) {
    const cbm_dataset_options *o = &r->options;
    cbm_dataset_store *store = r->store;
    size_t n_concepts = (size_t)o->n_concepts;
    store->table = scbm_alloc_array(r->hooks, n_concepts + 1, sizeof *store->table);
    r->data->concept_classes = scbm_alloc_array(r->hooks, n_concepts, sizeof *r->data->concept_classes);
    if (!store->table || !r->data->concept_classes) return SCBM_ERROR_MEMORY;
    store->n_tables = o->n_concepts + 1;
    r->data->n_concepts = o->n_concepts;
    scbm_status status = add_known(r, &store->table[0], o->label_classes);
    for (int k = 0; k < o->n_concepts && !status; k++)
        status = add_known(r, &store->table[1 + k], o->concept_classes ? &o->concept_classes[k] : NULL);
    return status;
}

scbm_status cbm_dataset_begin(cbm_dataset *data, const cbm_dataset_options *options, const scbm_hooks *hooks) {
    static const cbm_dataset_options nothing;
    memset(data, 0, sizeof *data);
    if (!options) options = &nothing;
    scbm_status status = check_options(options);
    if (status) return status;
    cbm_dataset_store *store = scbm_alloc(hooks, sizeof *store);
    if (!store) return SCBM_ERROR_MEMORY;
    if (hooks) store->hooks = *hooks;
    data->store = store;
    cbm_data_reader *r = store->reader = scbm_alloc(hooks, sizeof *r);
    if (r) {
        *r = (cbm_data_reader){.store = store, .data = &store->data, .options = *options, .hooks = &store->hooks};
        r->path = "the data set";
        r->row_word = "row";
    }
    status = r ? name_columns(r) : SCBM_ERROR_MEMORY;
    if (!status) status = start_classes(r);
    if (!status) status = cbm_data_start_values(r);
    if (status) cbm_dataset_clear(data);
    return status;
}

/* One column's classes: counted, and in order where they were found in the data. */
static scbm_status finish_classes(cbm_data_reader *r, int column, const cbm_classes *known, int32_t *values,
                                  size_t stride) {
    cbm_class_table *table = &r->store->table[column];
    scbm_status status = cbm_class_table_count(table, values, r->data->n, stride, r->hooks);
    if (status || known) return status;
    status = cbm_data_settle_twins(r, column, values, stride);
    return status ? status : cbm_class_table_sort(table, values, r->data->n, stride, r->hooks);
}

/* Why there is no row. */
static scbm_status fail_empty(cbm_data_reader *r) {
    const cbm_dataset *d = r->data;
    char shown[CBM_SHOWN_SIZE];
    if (d->n_read == 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "%.200s has no rows", r->path);
    if (d->n_bad)
        return cbm_data_fail_file(r, "no row is left: %zu of %zu are bad, the first because: %.250s", d->n_bad,
                                  d->n_read, r->store->bad[0].reason);
    if (d->n_unseen)
        return cbm_data_fail_file(r, "no row is left: %zu of %zu have values that the known classes lack", d->n_unseen,
                                  d->n_read);
    if (r->options.n_drop_labels > 1)
        return cbm_data_fail_file(r, "no row is left: the label of all %zu is one that is dropped", d->n_read);
    return cbm_data_fail_file(r, "no row is left: the label of all %zu is '%s'", d->n_read,
                              cbm_show_string(shown, r->options.drop_labels[0]));
}

scbm_status cbm_dataset_finish(cbm_dataset *data) {
    cbm_dataset_store *store = data->store;
    cbm_data_reader *r = store ? store->reader : NULL;
    if (!r) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_dataset_finish: this data set was not begun, or is finished");
    cbm_dataset *d = r->data;
    size_t n_concepts = (size_t)d->n_concepts;
    scbm_status status = d->n ? finish_classes(r, 0, r->options.label_classes, d->label, 1) : fail_empty(r);
    for (size_t k = 0; k < n_concepts && !status; k++)
        status = finish_classes(r, (int)k + 1, r->options.concept_classes, d->concept_class + k, n_concepts);
    if (status) {
        cbm_dataset_clear(data);
        return status;
    }
    d->label_classes = store->table[0].classes;
    for (size_t k = 0; k < n_concepts; k++) d->concept_classes[k] = store->table[1 + k].classes;
    d->bad = store->bad;
    d->odd = store->odd;
    cbm_data_reader_free(r);
    store->reader = NULL;
    *data = *d;
    data->store = store;
    return SCBM_OK;
}

void cbm_dataset_clear(cbm_dataset *data) {
    if (data->store) cbm_store_free(data->store);
    memset(data, 0, sizeof *data);
}

/* ------------------------------------------------------------------------------------------
 * Row by row, and from files
 * ---------------------------------------------------------------------------------------- */

static void give_cell(cbm_data_reader *r, int w, const char *text) {
    if (text) cbm_data_set_cell(r, w, text, strlen(text));
    r->cells[w].is_missing = !text;
}

scbm_status cbm_dataset_add(cbm_dataset *data, const char *text, size_t length, const char *label,
                            const char *const *concepts) {
    cbm_data_reader *r = data->store ? data->store->reader : NULL;
    if (!r) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_dataset_add: this data set was not begun, or is finished");
    if (!text || (!concepts && data->store->n_tables > 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_dataset_add: a row needs a text and its concepts' values");
    if (r->is_full) return SCBM_OK;
    r->row++;
    r->status = SCBM_OK;
    r->wanted[CBM_CELL_TEXT] = "text";
    r->wanted[CBM_CELL_LABEL] = "label";
    r->wanted[CBM_CELL_ID] = NULL;
    cbm_data_set_cell(r, CBM_CELL_TEXT, text, length);
    if (!r->status) give_cell(r, CBM_CELL_LABEL, label);
    for (int k = 0; k < r->options.n_concepts && !r->status; k++) give_cell(r, CBM_CELL_CONCEPTS + k, concepts[k]);
    return cbm_data_end_row(r);
}

static scbm_status check_files(const cbm_dataset_options *o, const char *name) {
    if (!o || !o->text || (!name && (o->n_paths < 1 || !o->paths)))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a data set needs a file and the column of its texts");
    return SCBM_OK;
}

/* Values that are not known: the first one's place, and how many rows have such. */
static scbm_status fail_unseen(const cbm_data_reader *r) {
    const char *option = r->options.unseen_option;
    size_t n = r->data->n_unseen;
    return scbm_fail(SCBM_ERROR_FORMAT, "%s; %zu row%s such a value%s%s%s", r->unseen, n, n == 1 ? " has" : "s have",
                     option ? " (" : "", option ? option : "", option ? " chooses what becomes of it)" : "");
}

/* What was read becomes a data set, or, after an error, nothing. */
static scbm_status end_reading(cbm_dataset *data) {
    const cbm_data_reader *r = data->store->reader;
    scbm_status status = r->status;
    if (!status && r->unseen[0]) status = fail_unseen(r);
    if (!status) return cbm_dataset_finish(data);
    cbm_dataset_clear(data);
    return status;
}

scbm_status cbm_dataset_read(cbm_dataset *data, const cbm_dataset_options *options, const scbm_hooks *hooks) {
    memset(data, 0, sizeof *data);
    scbm_status status = check_files(options, NULL);
    if (!status) status = cbm_dataset_begin(data, options, hooks);
    if (status) return status;
    cbm_data_reader *r = data->store->reader;
    r->counts_unseen = !options->keep_going;
    for (; r->file < options->n_paths && cbm_data_goes_on(r); r->file++)
        r->status = read_file(r, options->paths[r->file]);
    return end_reading(data);
}

scbm_status cbm_dataset_each(const cbm_dataset_options *options, cbm_text_row_function take, void *user,
                             const scbm_hooks *hooks) {
    cbm_dataset none;
    scbm_status status = check_files(options, NULL);
    if (!status && (options->label || options->n_concepts))
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "rows are handed over without labels and concepts");
    if (!status) status = cbm_dataset_begin(&none, options, hooks);
    if (status) return status;
    cbm_data_reader *r = none.store->reader;
    r->take = take;
    r->take_user = user;
    for (; r->file < options->n_paths && cbm_data_goes_on(r); r->file++)
        r->status = read_file(r, options->paths[r->file]);
    status = r->status;
    cbm_dataset_clear(&none);
    return status;
}

scbm_status cbm_dataset_read_memory(cbm_dataset *data, const cbm_dataset_options *options, const char *name,
                                    const void *bytes, size_t size, const scbm_hooks *hooks) {
    memset(data, 0, sizeof *data);
    scbm_status status = check_files(options, name ? name : "");
    if (!status) status = cbm_dataset_begin(data, options, hooks);
    if (status) return status;
    cbm_data_reader *r = data->store->reader;
    r->counts_unseen = !options->keep_going;
    if (name) r->path = name;
    read_content(r, bytes, size);
    return end_reading(data);
}
