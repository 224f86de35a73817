/*
 * models/data/rows.c - cells become rows: texts, classes, and what is left out
 *
 * Classes that are taken from the data are numbered as they come and put in order at the end. Strings lie one behind the
 * other in large blocks.
 */
#include "models/data/reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_SIZE 400
#define SMALLEST_BLOCK ((size_t)1 << 12)
#define LARGEST_BLOCK ((size_t)1 << 20) /* but for a text that is longer */

/* ------------------------------------------------------------------------------------------
 * The store
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_data_block {
    struct cbm_data_block *next;
    size_t used, size;
    char bytes[];
} cbm_data_block;

/* A block with room for `size` bytes; blocks grow with the data set. */
static cbm_data_block *new_block(cbm_dataset_store *store, size_t size) {
    size_t usual = store->blocks ? 2 * store->blocks->size : SMALLEST_BLOCK;
    if (usual > LARGEST_BLOCK) usual = LARGEST_BLOCK;
    if (size < usual) size = usual;
    cbm_data_block *block = scbm_alloc(&store->hooks, sizeof *block + size);
    if (!block) return NULL;
    block->size = size;
    block->next = store->blocks;
    return store->blocks = block;
}

const char *cbm_store_text(cbm_dataset_store *store, const char *text, size_t length) {
    cbm_data_block *block = store->blocks;
    if (!block || block->size - block->used <= length) block = new_block(store, length + 1);
    if (!block) return NULL;
    char *copy = block->bytes + block->used;
    memcpy(copy, text, length);
    copy[length] = 0;
    block->used += length + 1;
    return copy;
}

void cbm_data_reader_free(cbm_data_reader *r) {
    const scbm_hooks *hooks = r->hooks;
    for (int w = 0; r->cells && w < r->n_wanted; w++) scbm_release(hooks, r->cells[w].text);
    scbm_release(hooks, r->cells);
    scbm_release(hooks, (void *)r->wanted);
    scbm_release(hooks, r);
}

void cbm_store_free(cbm_dataset_store *store) {
    const scbm_hooks hooks = store->hooks;
    cbm_dataset *data = &store->data;
    if (store->reader) cbm_data_reader_free(store->reader);
    for (cbm_data_block *block = store->blocks, *next; block; block = next) {
        next = block->next;
        scbm_release(&hooks, block);
    }
    for (int i = 0; store->table && i < store->n_tables; i++) cbm_class_table_clear(&store->table[i], &hooks);
    scbm_release(&hooks, store->table);
    scbm_release(&hooks, store->bad);
    scbm_release(&hooks, (void *)data->text);
    scbm_release(&hooks, data->text_length);
    scbm_release(&hooks, data->label);
    scbm_release(&hooks, data->concept_class);
    scbm_release(&hooks, data->row);
    scbm_release(&hooks, data->file);
    scbm_release(&hooks, (void *)data->id);
    scbm_release(&hooks, (void *)data->concept_name);
    scbm_release(&hooks, data->concept_classes);
    scbm_release(&hooks, store);
}

/* ------------------------------------------------------------------------------------------
 * Messages
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_data_fail_file(cbm_data_reader *r, const char *format, ...) {
    char message[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    r->is_row_bad = 0;
    return r->status = scbm_fail(SCBM_ERROR_FORMAT, "%.200s: %s", r->path, message);
}

scbm_status cbm_data_fail_cell(cbm_data_reader *r, const char *column, const char *format, ...) {
    char message[MESSAGE_SIZE], name[CBM_SHOWN_SIZE], place[CBM_SHOWN_SIZE + 16] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (column) snprintf(place, sizeof place, ", column '%s'", cbm_show_string(name, column));
    r->is_row_bad = 1;
    return r->status = scbm_fail(SCBM_ERROR_FORMAT, "%.200s, %s %zu%s: %s", r->path, r->row_word, r->row, place,
                                 message);
}

void cbm_list_name(cbm_name_list *list, const char *text) {
    char shown[CBM_SHOWN_SIZE];
    if (list->is_full) return;
    const char *name = cbm_show_string(shown, text);
    list->is_full = list->used + strlen(name) + 12 > sizeof list->text;
    list->used += (size_t)snprintf(list->text + list->used, sizeof list->text - list->used, "%s%s%s%s",
                                   list->used ? ", " : "", list->is_full ? "…" : "'", list->is_full ? "" : name,
                                   list->is_full ? "" : "'");
}

const char *cbm_data_advise(const cbm_data_reader *r, int w, char advice[CBM_ADVICE_SIZE]) {
    const cbm_dataset_options *o = &r->options;
    const char *option = w == CBM_CELL_TEXT    ? o->text_option
                         : w == CBM_CELL_LABEL ? o->label_option
                         : w == CBM_CELL_ID    ? o->id_option
                                               : o->concept_option;
    advice[0] = 0;
    if (option) snprintf(advice, CBM_ADVICE_SIZE, " (%s chooses another)", option);
    return advice;
}

scbm_status cbm_data_report(cbm_data_reader *r, size_t done, size_t total) {
    if (scbm_progress(r->hooks, "read", (int64_t)done, (int64_t)total) == SCBM_OK) return SCBM_OK;
    r->is_row_bad = 0;
    return r->status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled while %s was read", r->path);
}

int cbm_data_goes_on(const cbm_data_reader *r) {
    return !r->status && !r->is_full;
}

/* ------------------------------------------------------------------------------------------
 * Cells
 * ---------------------------------------------------------------------------------------- */

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
    c->is_missing = 0;
    return SCBM_OK;
}

static scbm_status refuse_class(cbm_data_reader *r, int w, const char *name, const cbm_classes *known) {
    char shown[CBM_SHOWN_SIZE];
    cbm_name_list list = {"", 0, 0};
    for (size_t c = 0; c < known->n; c++) cbm_list_name(&list, known->name[c]);
    return cbm_data_fail_cell(r, r->wanted[w], "'%s'%s is not one of the known classes: %s",
                              cbm_show(shown, r->cells[w].text, r->cells[w].length),
                              strcmp(name, r->cells[w].text) == 0 ? "" : " (" CBM_UNKNOWN_CLASS ")", list.text);
}

/* The class that cell w names: among the known ones, or a new one. A column that holds none is wrong as a whole. */
static scbm_status find_class(cbm_data_reader *r, int w, const char *name, const cbm_classes *known,
                              cbm_class_table *table, int32_t *number) {
    *number = cbm_class_table_find(table, name);
    if (*number >= 0) return SCBM_OK;
    if (known) return refuse_class(r, w, name, known);
    if (table->classes.n == CBM_MAX_CLASSES) {
        cbm_data_fail_cell(r, r->wanted[w], "there are more than %d different values: this column holds no classes",
                           CBM_MAX_CLASSES);
        r->is_row_bad = 0;
        return r->status;
    }
    const char *copy = cbm_store_text(r->store, name, strlen(name));
    *number = (int32_t)table->classes.n;
    return r->status = copy ? cbm_class_table_add(table, copy, r->hooks) : SCBM_ERROR_MEMORY;
}

static int is_among(const char *text, const char *const *values, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(text, values[i]) == 0) return 1;
    return 0;
}

static scbm_status read_label(cbm_data_reader *r, int32_t *label) {
    const cbm_data_cell *c = &r->cells[CBM_CELL_LABEL];
    const cbm_dataset_options *o = &r->options;
    *label = -1;
    if (!r->wanted[CBM_CELL_LABEL] || c->is_missing || is_among(c->text, o->ignore_labels, o->n_ignore_labels))
        return SCBM_OK;
    if (c->length == 0)
        return cbm_data_fail_cell(r, r->wanted[CBM_CELL_LABEL],
                                  "the label is empty; such rows can be dropped or ignored");
    return find_class(r, CBM_CELL_LABEL, c->text, o->label_classes, &r->store->table[0], label);
}

static int means_unknown(const cbm_dataset_options *options, const char *value) {
    static const char *const usual[] = {"", CBM_UNKNOWN_CLASS, "no majority"};
    if (options->unknown) return is_among(value, options->unknown, options->n_unknown);
    return is_among(value, usual, (int)(sizeof usual / sizeof usual[0]));
}

static scbm_status read_concept(cbm_data_reader *r, int k, int32_t *class_number) {
    int w = CBM_CELL_CONCEPTS + k;
    const char *value = r->cells[w].text;
    *class_number = -1;
    if (r->cells[w].is_missing) return SCBM_OK;
    if (means_unknown(&r->options, value)) {
        if (r->options.unknown_is_missing) return SCBM_OK;
        value = CBM_UNKNOWN_CLASS;
    }
    if (!value[0])
        return cbm_data_fail_cell(r, r->wanted[w],
                                  "the concept is empty, which is not among the values that mean unknown");
    const cbm_classes *known = r->options.concept_classes ? &r->options.concept_classes[k] : NULL;
    return find_class(r, w, value, known, &r->store->table[1 + k], class_number);
}

/* ------------------------------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------------------------- */

static scbm_status grow_rows(cbm_data_reader *r) {
    cbm_dataset *d = r->data;
    cbm_dataset_store *s = r->store;
    const scbm_hooks *hooks = r->hooks;
    size_t n = d->n + 1, n_concepts = (size_t)d->n_concepts;
    if (n > INT32_MAX)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.200s: there are more than %d rows", r->path, INT32_MAX);
    if (n_concepts > SIZE_MAX / n) return scbm_fail(SCBM_ERROR_MEMORY, "out of memory: %zu rows", n);
    scbm_status status = scbm_grow(hooks, (void **)&d->text, &s->text_capacity, n, sizeof *d->text);
    if (!status) status = scbm_grow(hooks, (void **)&d->text_length, &s->length_capacity, n, sizeof *d->text_length);
    if (!status) status = scbm_grow(hooks, (void **)&d->label, &s->label_capacity, n, sizeof *d->label);
    if (!status) status = scbm_grow(hooks, (void **)&d->row, &s->row_capacity, n, sizeof *d->row);
    if (!status) status = scbm_grow(hooks, (void **)&d->file, &s->file_capacity, n, sizeof *d->file);
    if (!status && r->wanted[CBM_CELL_ID])
        status = scbm_grow(hooks, (void **)&d->id, &s->id_capacity, n, sizeof *d->id);
    if (!status)
        status = scbm_grow(hooks, (void **)&d->concept_class, &s->concept_capacity, n * n_concepts,
                           sizeof *d->concept_class);
    return status;
}

/* Copies of the row's strings. */
static scbm_status keep_strings(cbm_data_reader *r) {
    cbm_dataset *d = r->data;
    const cbm_data_cell *text = &r->cells[CBM_CELL_TEXT], *id = &r->cells[CBM_CELL_ID];
    d->text[d->n] = cbm_store_text(r->store, text->text, text->length);
    d->text_length[d->n] = text->length;
    if (d->text[d->n] && r->wanted[CBM_CELL_ID]) {
        d->id[d->n] = cbm_store_text(r->store, id->text, id->length);
        if (!d->id[d->n]) return SCBM_ERROR_MEMORY;
    }
    return d->text[d->n] ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static void take_row(cbm_data_reader *r) {
    cbm_dataset *d = r->data;
    const cbm_data_cell *label = &r->cells[CBM_CELL_LABEL];
    size_t n_concepts = (size_t)d->n_concepts;
    if (r->wanted[CBM_CELL_LABEL] && !label->is_missing &&
        is_among(label->text, r->options.drop_labels, r->options.n_drop_labels)) {
        d->n_dropped++;
        return;
    }
    r->status = grow_rows(r);
    if (!r->status) read_label(r, &d->label[d->n]);
    for (int k = 0; k < d->n_concepts && !r->status; k++)
        read_concept(r, k, &d->concept_class[d->n * n_concepts + (size_t)k]);
    if (!r->status) r->status = keep_strings(r);
    if (r->status) return;
    d->row[d->n] = r->row;
    d->file[d->n++] = r->file;
    r->is_full = r->options.limit && d->n >= r->options.limit;
}

/* The last error is the reason. */
static void leave_out(cbm_data_reader *r) {
    cbm_dataset *d = r->data;
    d->n_bad++;
    r->status = SCBM_OK;
    if (d->n_listed >= CBM_MAX_BAD_ROWS) return;
    const char *reason = scbm_last_error();
    r->status = scbm_grow(r->hooks, (void **)&r->store->bad, &r->store->bad_capacity, d->n_listed + 1, sizeof *d->bad);
    if (r->status) return;
    reason = cbm_store_text(r->store, reason, strlen(reason));
    if (!reason) r->status = SCBM_ERROR_MEMORY;
    else r->store->bad[d->n_listed++] = (cbm_bad_row){r->file, r->row, reason};
}

scbm_status cbm_data_end_row(cbm_data_reader *r) {
    if (!r->status) take_row(r);
    if (r->status && r->is_row_bad && r->options.keep_going) leave_out(r);
    if (!r->status) r->data->n_read++;
    r->is_row_bad = 0;
    return r->status;
}
