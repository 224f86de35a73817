/*
 * models/report/measures.c - the section on what predictions of a data set are worth: each class's measures, and confusion
 */
#include "models/report/templates/page.html.h"
#include "models/report/training.h"
#include "models/report/templates/training.html.h"

enum { MOST_CLASSES = 30 }; /* that a matrix is shown of */
#define DARKEST 0.5         /* how much of its colour a cell with the whole row has */

/* The label, or a concept: a column of classes, gold and predicted. */
typedef struct column {
    const char *name;        /* HTML */
    char *const *class_name; /* [n_classes], HTML */
    int n_classes;
    const int32_t *gold, *predicted; /* of every text, `stride` apart */
    size_t n, stride;
    const cbm_scores *scores;
} column;

/* Classes, and each with its precision, recall, F1 and number of texts. */
static void put_classes(cbm_page *page, const column *c, const cbm_class_measures *each) {
    static const char *const names[] = {"precision", "recall", "F1", "texts"};
    cbm_page_begin(page, html_table, "title", "Measures", NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_column, "name", "Class", NULL);
    for (int i = 0; i < 4; i++) cbm_page_put(page, html_column, "name", names[i], "number", "", NULL);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int i = 0; i < c->n_classes; i++) {
        cbm_page_begin(page, html_row, "name", c->class_name[i], NULL);
        const double shares[] = {each[i].precision, each[i].recall, each[i].f1};
        for (int j = 0; j < 3; j++) cbm_page_put(page, html_number, "value", cbm_page_percent(page, shares[j]), NULL);
        cbm_page_put(page, html_number, "value", cbm_page_count(page, each[i].support), NULL);
        cbm_page_end(page, html_row, NULL);
    }
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
}

/* A cell is the darker, the more of the row's texts it has; those that are right have another colour. */
static void put_cell(cbm_page *page, int64_t count, int64_t support, int is_right) {
    const char *strength = count ? cbm_page_plain(page, DARKEST * (double)count / (double)support) : NULL;
    cbm_page_put(page, html_cell, "right", is_right ? "" : NULL, "strength", strength, "colour",
                 is_right ? "seq" : "neg", "value", cbm_page_count(page, count), NULL);
}

static void put_confusion(cbm_page *page, const column *c, const int64_t *confusion, const cbm_class_measures *each) {
    cbm_page_begin(page, html_table, "title", "Confusion", "kind", "heat", NULL);
    cbm_page_begin(page, html_table_head, NULL);
    cbm_page_put(page, html_corner, NULL);
    for (int i = 0; i < c->n_classes; i++) cbm_page_put(page, html_column, "name", c->class_name[i], NULL);
    cbm_page_end(page, html_table_head, NULL);
    cbm_page_begin(page, html_table_body, NULL);
    for (int gold = 0; gold < c->n_classes; gold++) {
        cbm_page_begin(page, html_row, "name", c->class_name[gold], NULL);
        for (int i = 0; i < c->n_classes; i++)
            put_cell(page, confusion[(size_t)gold * (size_t)c->n_classes + (size_t)i], each[gold].support, i == gold);
        cbm_page_end(page, html_row, NULL);
    }
    cbm_page_end(page, html_table_body, NULL);
    cbm_page_end(page, html_table, NULL);
}

static scbm_status put_column(cbm_page *page, const column *c) {
    if (c->n_classes > MOST_CLASSES) {
        cbm_page_begin(page, html_column_of, "name", c->name, NULL);
        cbm_page_put(page, html_many_classes, "classes", cbm_page_count(page, c->n_classes), NULL);
        cbm_page_end(page, html_column_of, NULL);
        return SCBM_OK;
    }
    size_t n = (size_t)c->n_classes;
    int64_t *confusion = scbm_alloc_array(page->hooks, n * n, sizeof *confusion);
    cbm_class_measures *each = scbm_alloc_array(page->hooks, n, sizeof *each);
    scbm_status status = confusion && each ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) {
        cbm_count_confusion(confusion, c->n_classes, c->gold, c->predicted, c->n, c->stride);
        cbm_measure_classes(each, confusion, c->n_classes);
        cbm_page_begin(page, html_column_of, "name", c->name, "accuracy", cbm_page_percent(page, c->scores->accuracy),
                       "f1", cbm_page_percent(page, c->scores->macro_f1), NULL);
        put_classes(page, c, each);
        put_confusion(page, c, confusion, each);
        cbm_page_end(page, html_column_of, NULL);
    }
    scbm_release(page->hooks, confusion);
    scbm_release(page->hooks, each);
    return status;
}

/* Measures the label into each[0], and the concepts behind it. A class that is none of its column's is an error. */
static scbm_status measure(const cbm_page *page, const cbm_dataset *data, const cbm_evaluation *e, cbm_measures *each) {
    const int n = page->n_concepts;
    int *n_classes = scbm_alloc_array(page->hooks, (size_t)n + 1, sizeof *n_classes);
    if (!n_classes) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < n; k++) n_classes[k] = page->first_class[k + 1] - page->first_class[k];
    scbm_status status = cbm_measure(&each[0], NULL, data->label, e->label, data->n, 1, &page->n_labels, 0, 0,
                                     page->hooks);
    if (!status && n)
        status = cbm_measure(&each[1], NULL, data->concept_class, e->concept_class, data->n, n, n_classes, 0, 0,
                             page->hooks);
    scbm_release(page->hooks, n_classes);
    return status;
}

static scbm_status put_columns(cbm_page *page, const cbm_dataset *data, const cbm_evaluation *e,
                               const cbm_measures *each) {
    const size_t n_concepts = (size_t)page->n_concepts;
    const column label = {"Label", page->label, page->n_labels, data->label, e->label, data->n, 1, &each[0].value};
    scbm_status status = put_column(page, &label);
    for (size_t k = 0; k < n_concepts && !status; k++) {
        const int first = page->first_class[k];
        const column concept = {.name = page->concept[k],
                                .class_name = page->class_name + first,
                                .n_classes = page->first_class[k + 1] - first,
                                .gold = data->concept_class + k,
                                .predicted = e->concept_class + k,
                                .n = data->n,
                                .stride = n_concepts,
                                .scores = &each[1 + k].value};
        status = put_column(page, &concept);
    }
    return status;
}

scbm_status cbm_page_measures(cbm_page *page, const cbm_dataset *data, const cbm_evaluation *e) {
    cbm_measures *each = scbm_alloc_array(page->hooks, (size_t)page->n_concepts + 1, sizeof *each);
    scbm_status status = each ? measure(page, data, e, each) : SCBM_ERROR_MEMORY;
    cbm_page_begin(page, html_measures, NULL);
    if (!status) status = put_columns(page, data, e, each);
    cbm_page_end(page, html_measures, NULL);
    scbm_release(page->hooks, each);
    return status;
}

scbm_status cbm_check_training_report(const char *path, const cbm_model *model, const cbm_training_report *r) {
    if (!r || !r->history)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there is no history of the training to make a page of", path);
    const cbm_evaluation *e = r->evaluation;
    if (!e) return SCBM_OK;
    if (!r->validation || r->validation->n != e->n || (e->n && !r->validation->label))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: an evaluation of %zu texts without the %s", path, e->n,
                         r->validation && r->validation->n == e->n ? "labels" : "data set that was evaluated");
    if (e->n_labels != cbm_model_n_labels(model) || e->n_concepts != cbm_model_n_concepts(model) ||
        (e->n_concepts && (r->validation->n_concepts != e->n_concepts || (e->n && !r->validation->concept_class))))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: the evaluation is of another model's labels and concepts", path);
    return SCBM_OK;
}
