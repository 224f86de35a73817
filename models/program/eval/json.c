/*
 * models/program/eval/json.c - measures as JSON
 */
#include "models/program/eval/eval.h"

#include <math.h>

static cJSON *json_interval(double low, double high) {
    cJSON *pair = cJSON_CreateArray();
    cJSON_AddItemToArray(pair, cli_json_double(low));
    cJSON_AddItemToArray(pair, cli_json_double(high));
    return pair;
}

static cJSON *json_scores(const cbm_measures *m) {
    cJSON *object = cJSON_CreateObject();
    const double none = m->n ? 0.0 : (double)NAN; /* null in JSON */
    cJSON_AddItemToObject(object, "accuracy", cli_json_double(m->value.accuracy + none));
    cJSON_AddItemToObject(object, "macro_f1", cli_json_double(m->value.macro_f1 + none));
    cJSON_AddItemToObject(object, "macro_f1_ovr", cli_json_double(m->value.macro_f1_ovr + none));
    return object;
}

static cJSON *json_confusion(const int64_t *confusion, int n) {
    cJSON *rows = cJSON_CreateArray();
    for (int gold = 0; gold < n; gold++) {
        cJSON *row = cJSON_CreateArray();
        for (int c = 0; c < n; c++)
            cJSON_AddItemToArray(row, cli_json_int(confusion[(size_t)gold * (size_t)n + (size_t)c]));
        cJSON_AddItemToArray(rows, row);
    }
    return rows;
}

static void add_majority_and_intervals(const eval_command *e, cJSON *object, const cbm_measures *m) {
    cJSON_AddItemToObject(object, "majority", m->n ? cli_json_double(m->majority_share) : cJSON_CreateNull());
    if (!e->resamples || !m->n) return;
    cJSON *intervals = cJSON_CreateObject();
    cJSON_AddItemToObject(intervals, "accuracy", json_interval(m->low.accuracy, m->high.accuracy));
    cJSON_AddItemToObject(intervals, "macro_f1", json_interval(m->low.macro_f1, m->high.macro_f1));
    cJSON_AddItemToObject(intervals, "macro_f1_ovr", json_interval(m->low.macro_f1_ovr, m->high.macro_f1_ovr));
    cJSON_AddItemToObject(object, "intervals", intervals);
}

/* [{name, precision, recall, f1, support}], in the order of the confusion's rows and columns. NULL: out of memory. */
static cJSON *json_classes(const eval_command *e, const int64_t *confusion, int k) {
    cbm_class_measures *classes = eval_classes(e, confusion, k);
    if (!classes) return NULL;
    cJSON *array = cJSON_CreateArray();
    for (int c = 0; c < eval_n_classes(e, k); c++) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "name", eval_class_name(e, k, c));
        cJSON_AddItemToObject(object, "precision", cli_json_double(classes[c].precision));
        cJSON_AddItemToObject(object, "recall", cli_json_double(classes[c].recall));
        cJSON_AddItemToObject(object, "f1", cli_json_double(classes[c].f1));
        cJSON_AddItemToObject(object, "support", cli_json_int(classes[c].support));
        cJSON_AddItemToArray(array, object);
    }
    scbm_release(&e->in.hooks, classes);
    return array;
}

/* Concept k's measures, or the label's where k is -1. NULL: out of memory. */
static cJSON *json_measures(const eval_command *e, const eval_result *r, int k) {
    const cbm_measures *m = k < 0 ? &r->of_label : &r->of_concept[k];
    int64_t *confusion = eval_confusion(e, r, k);
    cJSON *classes = confusion ? json_classes(e, confusion, k) : NULL, *object = NULL;
    double error;
    if (classes) {
        object = json_scores(m);
        if (m->n && eval_absolute_error(e, confusion, k, &error))
            cJSON_AddItemToObject(object, "mean_absolute_error", cli_json_double(error));
        cJSON_AddItemToObject(object, "classes", classes);
        cJSON_AddItemToObject(object, "confusion", json_confusion(confusion, eval_n_classes(e, k)));
        add_majority_and_intervals(e, object, m);
    }
    scbm_release(&e->in.hooks, confusion);
    return object;
}

/* NULL: out of memory. */
static cJSON *json_result(const eval_command *e, const eval_result *r) {
    cJSON *object = cJSON_CreateObject(), *concepts = json_scores(&r->mean), *each = cJSON_CreateObject();
    cJSON *label = json_measures(e, r, -1);
    int has_memory = label != NULL;
    for (int k = 0; k < e->columns.n_concepts && has_memory; k++) {
        cJSON *concept = json_measures(e, r, k);
        has_memory = concept != NULL;
        cJSON_AddItemToObject(each, cbm_model_concept(e->in.model, k), concept);
    }
    add_majority_and_intervals(e, concepts, &r->mean);
    cJSON_AddItemToObject(concepts, "each", each);
    cJSON_AddItemToObject(object, "label", label);
    cJSON_AddItemToObject(object, "concepts", concepts);
    cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)r->n));
    cJSON_AddItemToObject(object, "texts_per_s", cli_json_double((double)r->n / r->seconds));
    cJSON *left_out = cJSON_AddObjectToObject(object, "left_out");
    cJSON_AddItemToObject(left_out, "dropped", cli_json_int((int64_t)e->data.n_dropped));
    cJSON_AddItemToObject(left_out, "unseen", cli_json_int((int64_t)e->data.n_unseen));
    cJSON_AddItemToObject(left_out, "bad", cli_json_int((int64_t)e->data.n_bad));
    if (has_memory) return object;
    cJSON_Delete(object);
    return NULL;
}

scbm_status eval_print_json(const eval_command *e, const eval_result *r) {
    cJSON *object = json_result(e, r);
    return object ? cli_json_print(object) : SCBM_ERROR_MEMORY;
}

scbm_status eval_print_interventions_json(const eval_command *e, const eval_result *before, const eval_result *after) {
    const cbm_oracle *o = e->oracle;
    cJSON *object = cJSON_CreateObject(), *result[2] = {json_result(e, before), json_result(e, after)};
    int has_memory = result[0] && result[1];
    cJSON_AddItemToObject(object, "before", result[0]);
    cJSON_AddItemToObject(object, "after", result[1]);
    cJSON_AddStringToObject(object, "method", e->intervene ? "edit" : "mask");
    cJSON_AddItemToObject(object, "concepts_fixed", cli_json_int(o->concepts_fixed));
    cJSON_AddItemToObject(object, "concepts_wrong", cli_json_int(o->concepts_wrong));
    cJSON_AddItemToObject(object, "labels_fixed", cli_json_int(o->labels_fixed));
    cJSON_AddItemToObject(object, "labels_broken", cli_json_int(o->labels_broken));
    cJSON_AddItemToObject(object, "steps", cli_json_int(o->steps));
    cJSON_AddItemToObject(object, "moved_bits", cli_json_int(o->moved_bits));
    cJSON_AddItemToObject(object, "seconds", cli_json_double(o->seconds));
    if (has_memory) return cli_json_print(object);
    cJSON_Delete(object);
    return SCBM_ERROR_MEMORY;
}
