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
    for (int w = 0; r->cells && w < r->n_wanted; w++) {
        scbm_release(hooks, r->cells[w].text);
        scbm_release(hooks, r->cells[w].key);
    }
    cbm_data_clear_values(r);
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
    scbm_release(&hooks, store->odd);
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

void cbm_data_say_blank(const cbm_data_reader *r, size_t n) {
    if (n)
        scbm_log(r->hooks, SCBM_LOG_INFO, "%.200s: %zu blank line%s no row%s", r->path, n, n == 1 ? " is" : "s are",
                 n == 1 ? "" : "s");
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
    c->is_missing = c->has_key = 0;
    return SCBM_OK;
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
    size_t n_concepts = (size_t)d->n_concepts;
    int is_dropped = 0;
    r->leaves_row = 0;
    r->status = cbm_data_is_dropped(r, &is_dropped);
    d->n_dropped += (size_t)is_dropped;
    if (r->status || is_dropped) return;
    r->status = grow_rows(r);
    if (!r->status) cbm_data_read_label(r, &d->label[d->n]);
    for (int k = 0; k < d->n_concepts && !r->status; k++)
        cbm_data_read_concept(r, k, &d->concept_class[d->n * n_concepts + (size_t)k]);
    if (!r->status && r->leaves_row) {
        d->n_unseen++;
        return;
    }
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

/* Hands the row over in place of keeping it; a bad one with the last error, which is the reason. */
static void hand_over(cbm_data_reader *r, int is_bad) {
    char reason[MESSAGE_SIZE + 200];
    const cbm_data_cell *text = &r->cells[CBM_CELL_TEXT];
    cbm_text_row row = {.file = r->file, .row = r->row, .more = !r->waits};
    if (is_bad) {
        snprintf(reason, sizeof reason, "%s", scbm_last_error());
        row.error = reason;
    } else {
        row.text = text->text;
        row.length = text->length;
        row.id = r->wanted[CBM_CELL_ID] ? r->cells[CBM_CELL_ID].text : NULL;
    }
    r->status = r->take(r->take_user, &row);
    r->data->n += !is_bad;
    r->is_full = r->options.limit && r->data->n >= r->options.limit;
}

scbm_status cbm_data_end_row(cbm_data_reader *r) {
    if (!r->status && !r->take) take_row(r);
    int is_left_out = r->status && r->is_row_bad && r->options.keep_going;
    if (r->take && (!r->status || is_left_out)) hand_over(r, is_left_out);
    else if (is_left_out) leave_out(r);
    if (!r->status) r->data->n_read++;
    r->is_row_bad = 0;
    return r->status;
}
