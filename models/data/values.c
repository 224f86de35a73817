/*
 * models/data/values.c - what values are: classes, special values, values that are not known, and one class written in
 * several ways
 */
#include "models/base/spelling.h"
#include "models/data/reader.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Spellings
 * ---------------------------------------------------------------------------------------- */

/* The key of a text's spelling, kept as long as the data set. */
static scbm_status keep_key(cbm_data_reader *r, const char *text, const char **key) {
    scbm_status status = cbm_spelling_key(&r->key, &r->key_capacity, text, strlen(text), r->hooks);
    if (!status) *key = cbm_store_text(r->store, r->key, strlen(r->key));
    return !status && !*key ? SCBM_ERROR_MEMORY : status;
}

/* That of a cell; NULL: r->status says why. */
static const char *key_of(cbm_data_reader *r, cbm_data_cell *c) {
    if (!c->has_key) r->status = cbm_spelling_key(&c->key, &c->key_capacity, c->text, c->length, r->hooks);
    c->has_key = !r->status;
    return c->has_key ? c->key : NULL;
}

static scbm_status start_special(cbm_data_reader *r, cbm_special_values *special, const char *const *values, int n) {
    scbm_status status = SCBM_OK;
    special->value = values;
    special->n = n;
    special->key = scbm_alloc_array(r->hooks, (size_t)n, sizeof *special->key);
    if (!special->key) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < n && !status; i++) status = keep_key(r, values[i], &special->key[i]);
    return status;
}

static scbm_status start_known(cbm_data_reader *r, cbm_class_table *keys, const cbm_classes *known) {
    char name[CBM_SHOWN_SIZE], other[CBM_SHOWN_SIZE];
    for (size_t c = 0; known && c < known->n; c++) {
        const char *key;
        scbm_status status = keep_key(r, known->name[c], &key);
        int32_t twin = status ? -1 : cbm_class_table_find(keys, key);
        if (twin >= 0 && r->options.merge_classes)
            return scbm_fail(SCBM_ERROR_ARGUMENT,
                             "the known classes '%s' and '%s' are one class that is written in two ways, so values "
                             "cannot be merged with them",
                             cbm_show_string(name, known->name[twin]), cbm_show_string(other, known->name[c]));
        if (!status) status = cbm_class_table_add(keys, key, r->hooks);
        if (status) return status;
    }
    return SCBM_OK;
}

scbm_status cbm_data_start_values(cbm_data_reader *r) {
    static const char *const usual[] = {"", CBM_UNKNOWN_CLASS, "no majority"};
    const cbm_dataset_options *o = &r->options;
    r->known_keys = scbm_alloc_array(r->hooks, (size_t)r->store->n_tables, sizeof *r->known_keys);
    if (!r->known_keys) return SCBM_ERROR_MEMORY;
    scbm_status status = start_special(r, &r->dropped, o->drop_labels, o->n_drop_labels);
    if (!status) status = start_special(r, &r->ignored, o->ignore_labels, o->n_ignore_labels);
    if (!status)
        status = o->unknown ? start_special(r, &r->unknown, o->unknown, o->n_unknown)
                            : start_special(r, &r->unknown, usual, (int)(sizeof usual / sizeof usual[0]));
    if (!status) status = start_known(r, &r->known_keys[0], o->label_classes);
    for (int k = 0; k < o->n_concepts && !status; k++)
        status = start_known(r, &r->known_keys[1 + k], o->concept_classes ? &o->concept_classes[k] : NULL);
    return status;
}

void cbm_data_clear_values(cbm_data_reader *r) {
    scbm_release(r->hooks, (void *)r->dropped.key);
    scbm_release(r->hooks, (void *)r->ignored.key);
    scbm_release(r->hooks, (void *)r->unknown.key);
    for (int i = 0; r->known_keys && i < r->store->n_tables; i++) cbm_class_table_clear(&r->known_keys[i], r->hooks);
    scbm_release(r->hooks, r->known_keys);
    scbm_release(r->hooks, r->key);
}

/* ------------------------------------------------------------------------------------------
 * Odd values
 * ---------------------------------------------------------------------------------------- */

static scbm_status add_odd(cbm_data_reader *r, cbm_odd_value odd) {
    cbm_dataset *d = r->data;
    cbm_dataset_store *s = r->store;
    if (d->n_odd == CBM_MAX_ODD_VALUES) {
        d->n_odd_more += (size_t)odd.count;
        return SCBM_OK;
    }
    scbm_status status = scbm_grow(r->hooks, (void **)&s->odd, &s->odd_capacity, d->n_odd + 1, sizeof *s->odd);
    if (status) return status;
    odd.value = cbm_store_text(s, odd.value, strlen(odd.value));
    if (odd.same_as) odd.same_as = cbm_store_text(s, odd.same_as, strlen(odd.same_as));
    if (!odd.value) return SCBM_ERROR_MEMORY;
    s->odd[d->n_odd++] = odd;
    return SCBM_OK;
}

/* Counts the value of cell w in this row. */
static scbm_status note_odd(cbm_data_reader *r, int w, cbm_value_fate fate, const char *value, const char *same_as) {
    int concept = w - CBM_CELL_CONCEPTS;
    if (w == CBM_CELL_LABEL) concept = -1;
    for (size_t i = 0; i < r->data->n_odd; i++) {
        cbm_odd_value *odd = &r->store->odd[i];
        if (odd->concept != concept || odd->fate != fate || strcmp(odd->value, value) != 0) continue;
        odd->count++;
        return SCBM_OK;
    }
    return r->status = add_odd(r, (cbm_odd_value){fate, concept, value, same_as, 1, 0});
}

/* ------------------------------------------------------------------------------------------
 * Classes
 * ---------------------------------------------------------------------------------------- */

static int column_of(int w) {
    return w == CBM_CELL_LABEL ? 0 : 1 + w - CBM_CELL_CONCEPTS;
}

/* The known class that is cell w's value written differently; NULL: none. */
static const char *twin_of(cbm_data_reader *r, int w, const cbm_classes *known, int32_t *number) {
    const char *key = key_of(r, &r->cells[w]);
    *number = key ? cbm_class_table_find(&r->known_keys[column_of(w)], key) : -1;
    return *number >= 0 ? known->name[*number] : NULL;
}

static scbm_status refuse_class(cbm_data_reader *r, int w, const char *name, const cbm_classes *known,
                                const char *twin) {
    const char *option = r->options.merge_option;
    char shown[CBM_SHOWN_SIZE], same[CBM_SHOWN_SIZE], hint[CBM_SHOWN_SIZE + 100] = "";
    cbm_name_list list = {"", 0, 0};
    for (size_t c = 0; c < known->n && !list.is_full; c++) cbm_list_name(&list, known->name[c]);
    if (twin)
        snprintf(hint, sizeof hint, "; it is '%s' written differently%s%s%s", cbm_show_string(same, twin),
                 option ? " (" : "", option ? option : "", option ? " makes them one)" : "");
    return cbm_data_fail_cell(r, r->wanted[w], "'%s'%s is not one of the known classes: %s%s",
                              cbm_show(shown, r->cells[w].text, r->cells[w].length),
                              strcmp(name, r->cells[w].text) == 0 ? "" : " (" CBM_UNKNOWN_CLASS ")", list.text, hint);
}

/* A value that the known classes lack: it is unknown, its row is left out, or it is an error, now or when all are counted. */
static scbm_status settle_unseen(cbm_data_reader *r, int w, const char *name, const cbm_classes *known,
                                 int32_t *number) {
    const cbm_dataset_options *o = &r->options;
    int is_error = o->unseen == CBM_UNSEEN_ERROR;
    int32_t at;
    const char *twin = strcmp(name, r->cells[w].text) == 0 ? twin_of(r, w, known, &at) : NULL;
    if (r->status || note_odd(r, w, CBM_VALUE_UNSEEN, r->cells[w].text, twin)) return r->status;
    if (is_error && !r->unseen[0]) refuse_class(r, w, name, known, twin);
    if (is_error && !r->counts_unseen) return r->status;
    if (is_error && r->status) {
        snprintf(r->unseen, sizeof r->unseen, "%s", scbm_last_error());
        r->status = SCBM_OK;
        r->is_row_bad = 0;
    }
    r->leaves_row |= o->unseen != CBM_UNSEEN_UNKNOWN;
    if (o->unseen == CBM_UNSEEN_UNKNOWN && !o->unknown_is_missing)
        *number = cbm_class_table_find(&r->store->table[column_of(w)], CBM_UNKNOWN_CLASS);
    return SCBM_OK;
}

/* The class that cell w names, which is its text, or "unknown" in its place: among the known ones, or a new one. A column
 * that holds none is wrong as a whole. */
static scbm_status find_class(cbm_data_reader *r, int w, const char *name, const cbm_classes *known, int32_t *number) {
    cbm_class_table *table = &r->store->table[column_of(w)];
    *number = cbm_class_table_find(table, name);
    if (*number >= 0) return SCBM_OK;
    if (known) {
        int is_text = strcmp(name, r->cells[w].text) == 0;
        const char *twin = r->options.merge_classes && is_text ? twin_of(r, w, known, number) : NULL;
        if (twin) return note_odd(r, w, CBM_VALUE_MERGED, name, twin);
        return r->status ? r->status : settle_unseen(r, w, name, known, number);
    }
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

/* Whether cell w's value is a special one; or, with merging, is one written differently, which is counted. A value that is a
 * class already is none, and needs no key: that is nearly all of them. */
static int is_special(cbm_data_reader *r, int w, const cbm_special_values *special) {
    cbm_data_cell *c = &r->cells[w];
    for (int i = 0; i < special->n; i++)
        if (strcmp(c->text, special->value[i]) == 0) return 1;
    if (!special->n || !r->options.merge_classes) return 0;
    if (cbm_class_table_find(&r->store->table[column_of(w)], c->text) >= 0) return 0;
    const char *key = key_of(r, c);
    for (int i = 0; key && i < special->n; i++)
        if (strcmp(key, special->key[i]) == 0) return !note_odd(r, w, CBM_VALUE_MERGED, c->text, special->value[i]);
    return 0;
}

/* Whether there is nothing in the cell; with merging, blanks are nothing. */
static int is_empty(cbm_data_reader *r, cbm_data_cell *c) {
    unsigned char first = (unsigned char)c->text[0];
    if (!first) return 1;
    if (!r->options.merge_classes || (first > ' ' && first < 0x80)) return 0;
    const char *key = key_of(r, c);
    return key && !key[0];
}

scbm_status cbm_data_is_dropped(cbm_data_reader *r, int *is_dropped) {
    int has_label = r->wanted[CBM_CELL_LABEL] && !r->cells[CBM_CELL_LABEL].is_missing;
    *is_dropped = has_label && is_special(r, CBM_CELL_LABEL, &r->dropped);
    return r->status;
}

scbm_status cbm_data_read_label(cbm_data_reader *r, int32_t *label) {
    cbm_data_cell *c = &r->cells[CBM_CELL_LABEL];
    *label = -1;
    if (!r->wanted[CBM_CELL_LABEL] || c->is_missing || is_special(r, CBM_CELL_LABEL, &r->ignored)) return r->status;
    if (!r->status && is_empty(r, c))
        return cbm_data_fail_cell(r, r->wanted[CBM_CELL_LABEL],
                                  "the label is empty; such rows can be dropped or ignored");
    return r->status ? r->status : find_class(r, CBM_CELL_LABEL, c->text, r->options.label_classes, label);
}

scbm_status cbm_data_read_concept(cbm_data_reader *r, int k, int32_t *class_number) {
    int w = CBM_CELL_CONCEPTS + k;
    const char *value = r->cells[w].text;
    *class_number = -1;
    if (r->cells[w].is_missing) return SCBM_OK;
    int is_unknown = is_special(r, w, &r->unknown);
    if (r->status || (is_unknown && r->options.unknown_is_missing)) return r->status;
    if (is_unknown) value = CBM_UNKNOWN_CLASS;
    if (!is_unknown && is_empty(r, &r->cells[w]))
        return cbm_data_fail_cell(r, r->wanted[w],
                                  "the concept is empty, which is not among the values that mean unknown");
    const cbm_classes *known = r->options.concept_classes ? &r->options.concept_classes[k] : NULL;
    return find_class(r, w, value, known, class_number);
}

/* ------------------------------------------------------------------------------------------
 * Twins among classes that the data brought
 * ---------------------------------------------------------------------------------------- */

/* Whether class a, rather than b, gives its name to both. */
static int is_main(const cbm_classes *classes, int32_t a, int32_t b) {
    int is_a = strcmp(classes->name[a], CBM_UNKNOWN_CLASS) == 0,
        is_b = strcmp(classes->name[b], CBM_UNKNOWN_CLASS) == 0;
    if (is_a != is_b) return is_a;
    if (classes->count[a] != classes->count[b]) return classes->count[a] > classes->count[b];
    return strcmp(classes->name[a], classes->name[b]) < 0;
}

/* The main class of each class's spelling; main_of[c] is c where it stands alone. */
static scbm_status group_classes(cbm_data_reader *r, const cbm_classes *classes, const char **key, int32_t *main_of) {
    cbm_class_table keys;
    memset(&keys, 0, sizeof keys);
    int32_t *best = scbm_alloc_array(r->hooks, classes->n, sizeof *best); /* by the number of the key */
    scbm_status status = best ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (size_t c = 0; c < classes->n && !status; c++) {
        status = keep_key(r, classes->name[c], &key[c]);
        if (status || !classes->count[c]) continue;
        int32_t at = cbm_class_table_find(&keys, key[c]);
        if (at < 0) {
            best[keys.classes.n] = (int32_t)c;
            status = cbm_class_table_add(&keys, key[c], r->hooks);
        } else if (is_main(classes, (int32_t)c, best[at])) {
            best[at] = (int32_t)c;
        }
    }
    for (size_t c = 0; c < classes->n && !status; c++)
        main_of[c] = classes->count[c] ? best[cbm_class_table_find(&keys, key[c])] : (int32_t)c;
    cbm_class_table_clear(&keys, r->hooks);
    scbm_release(r->hooks, best);
    return status;
}

/* A class that is a special value written differently. */
static scbm_status list_special(cbm_data_reader *r, int column, const cbm_classes *classes, const char *const *key,
                                const cbm_special_values *special) {
    scbm_status status = SCBM_OK;
    for (size_t c = 0; c < classes->n && !status; c++)
        for (int i = 0; i < special->n && classes->count[c] && !status; i++)
            if (strcmp(key[c], special->key[i]) == 0 && strcmp(classes->name[c], special->value[i]) != 0 &&
                strcmp(classes->name[c], CBM_UNKNOWN_CLASS) != 0)
                status = add_odd(r, (cbm_odd_value){CBM_VALUE_TWIN, column - 1, classes->name[c], special->value[i],
                                                    classes->count[c], 0});
    return status;
}

/* A class of blanks alone, where an empty value would be an error. */
static scbm_status list_blank(cbm_data_reader *r, int column, const cbm_classes *classes, const char *const *key) {
    size_t n_odd = r->data->n_odd;
    scbm_status status = SCBM_OK;
    for (size_t c = 0; c < classes->n && !status; c++) {
        int is_listed = 0;
        if (key[c][0] || !classes->count[c]) continue;
        for (size_t i = 0; i < n_odd && !is_listed; i++) {
            const cbm_odd_value *odd = &r->store->odd[i];
            is_listed = odd->concept == column - 1 && strcmp(odd->value, classes->name[c]) == 0;
        }
        if (!is_listed)
            status = add_odd(r,
                             (cbm_odd_value){CBM_VALUE_TWIN, column - 1, classes->name[c], "", classes->count[c], 0});
    }
    return status;
}

static scbm_status list_twins(cbm_data_reader *r, int column, const cbm_classes *classes, const int32_t *main_of) {
    cbm_value_fate fate = r->options.merge_classes ? CBM_VALUE_MERGED : CBM_VALUE_TWIN;
    scbm_status status = SCBM_OK;
    for (size_t c = 0; c < classes->n && !status; c++)
        if (main_of[c] != (int32_t)c)
            status = add_odd(r, (cbm_odd_value){fate, column - 1, classes->name[c], classes->name[main_of[c]],
                                                classes->count[c], classes->count[main_of[c]]});
    return status;
}

static void merge(cbm_classes *classes, const int32_t *main_of, int32_t *values, size_t n, size_t stride) {
    for (size_t i = 0; i < n; i++)
        if (values[i * stride] >= 0) values[i * stride] = main_of[values[i * stride]];
    for (size_t c = 0; c < classes->n; c++) {
        if (main_of[c] == (int32_t)c) continue;
        classes->count[main_of[c]] += classes->count[c];
        classes->count[c] = 0; /* and so it is left out when they are sorted */
    }
}

scbm_status cbm_data_settle_twins(cbm_data_reader *r, int column, int32_t *values, size_t stride) {
    cbm_classes *classes = &r->store->table[column].classes;
    const char **key = scbm_alloc_array(r->hooks, classes->n, sizeof *key);
    int32_t *main_of = scbm_alloc_array(r->hooks, classes->n, sizeof *main_of);
    scbm_status status = key && main_of ? group_classes(r, classes, key, main_of) : SCBM_ERROR_MEMORY;
    if (!status) status = list_twins(r, column, classes, main_of);
    if (!status && column == 0) status = list_special(r, column, classes, key, &r->dropped);
    if (!status && column == 0) status = list_special(r, column, classes, key, &r->ignored);
    if (!status && column > 0) status = list_special(r, column, classes, key, &r->unknown);
    if (!status) status = list_blank(r, column, classes, key);
    if (!status && r->options.merge_classes) merge(classes, main_of, values, r->data->n, stride);
    scbm_release(r->hooks, main_of);
    scbm_release(r->hooks, (void *)key);
    return status;
}
