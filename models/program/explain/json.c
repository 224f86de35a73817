/*
 * models/program/explain/json.c - an explanation of one text, and of many together, as JSON
 */
#include "models/program/explain/explain.h"

#include <string.h>

void explain_add_overlaps(cJSON *object, const cbm_model *model, const cbm_subnetworks *s) {
    cJSON *overlaps = cJSON_AddArrayToObject(object, "overlaps");
    for (int a = 0; a < s->n_concepts; a++) {
        for (int b = a + 1; b < s->n_concepts; b++) {
            cJSON *pair = cJSON_CreateObject();
            cJSON_AddStringToObject(pair, "a", cbm_model_concept(model, a));
            cJSON_AddStringToObject(pair, "b", cbm_model_concept(model, b));
            cJSON_AddItemToObject(pair, "iou", cli_json_double(s->overlap[a * s->n_concepts + b]));
            cJSON_AddItemToArray(overlaps, pair);
        }
    }
}

/* ------------------------------------------------------------------------------------------
 * One text
 * ---------------------------------------------------------------------------------------- */

/* What a token is called: its part of the text, or what was added ("[CLS]"). */
static scbm_status add_token(cJSON *array, const char *text, const cbm_explanation *e, const cbm_explained_logit *logit,
                             int t, const scbm_hooks *hooks) {
    const cbm_explained_token *token = &e->tokens[t];
    size_t length = (size_t)(token->end - token->start);
    char *part = scbm_alloc(hooks, length + 1);
    if (!part) return SCBM_ERROR_MEMORY;
    memcpy(part, text + token->start, length);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "text", length ? part : token->piece);
    cJSON_AddItemToObject(object, "start", cli_json_int(token->start));
    cJSON_AddItemToObject(object, "end", cli_json_int(token->end));
    for (int m = 0; m < e->n_methods; m++)
        if (logit->tokens[m])
            cJSON_AddItemToObject(object, cbm_attribution_method_at(m)->name, cli_json_float(logit->tokens[m][t]));
    cJSON_AddItemToArray(array, object);
    scbm_release(hooks, part);
    return SCBM_OK;
}

/* What the values of the method that should add up to the difference of the two logits are off by. */
static double find_difference(const cbm_explanation *e, const cbm_explained_logit *logit) {
    double sum = 0.0;
    for (int m = 0; m < e->n_methods; m++) {
        if (!logit->tokens[m] || !cbm_attribution_method_at(m)->adds_up) continue;
        for (int t = 0; t < e->n_tokens; t++) sum += (double)logit->tokens[m][t];
        break;
    }
    return sum - ((double)logit->value - (double)logit->baseline);
}

static scbm_status add_logit(cJSON *object, const explain_command *x, const char *text, const cbm_explanation *e,
                             const cbm_explained_logit *logit) {
    scbm_status status = SCBM_OK;
    cJSON *tokens = cJSON_AddArrayToObject(object, "tokens");
    for (int t = 0; t < e->n_tokens && !status; t++) status = add_token(tokens, text, e, logit, t, &x->in.hooks);
    cJSON_AddItemToObject(object, "baseline_logit", cli_json_float(logit->baseline));
    cJSON_AddItemToObject(object, "target_logit", cli_json_float(logit->value));
    if (!logit->steps) return status;
    cJSON_AddItemToObject(object, "steps", cli_json_int(logit->steps));
    cJSON_AddBoolToObject(object, "converged", logit->converged);
    cJSON_AddItemToObject(object, "difference", cli_json_double(find_difference(e, logit)));
    return status;
}

/* What each concept adds to the logit of a label (NULL: there are no concepts). */
static void add_contributions(cJSON *label, const cbm_model *model, const cbm_contributions *c, int y) {
    if (!c) return;
    cJSON_AddItemToObject(label, "bias", cli_json_double(c->centred_bias[y]));
    cJSON *contributions = cJSON_AddArrayToObject(label, "contributions");
    for (int k = 0; k < c->n_concepts; k++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "concept", cbm_model_concept(model, k));
        cJSON_AddItemToObject(one, "contribution", cli_json_double(c->centred[k * c->n_labels + y]));
        cJSON_AddItemToArray(contributions, one);
    }
}

/* To all labels what concepts did; to those whose words were looked at also what the words did. */
static scbm_status add_to_labels(cJSON *object, const explain_command *x, const char *text, const cbm_explanation *e) {
    const cbm_contributions *contributions = NULL;
    cJSON *label = cJSON_GetObjectItemCaseSensitive(object, "labels");
    scbm_status status = SCBM_OK;
    label = label ? label->child : NULL;
    if (e->n_concepts) status = cbm_contributions_of(x->in.context, e->prediction, &contributions);
    for (int y = 0; y < e->prediction->n_labels && label && !status; y++, label = label->next) {
        add_contributions(label, x->in.model, contributions, y);
        for (int i = 0; i < e->n_labels && !status; i++)
            if (e->labels[i].label == y) status = add_logit(label, x, text, e, &e->labels[i].logit);
    }
    return status;
}

scbm_status explain_print_json(const explain_command *x, const char *text, const cbm_explanation *e) {
    scbm_status status = SCBM_OK;
    cJSON *object = cli_json_prediction(x->in.model, e->prediction);
    cJSON *concept = cJSON_GetObjectItemCaseSensitive(object, "concepts");
    concept = concept ? concept->child : NULL;
    for (int k = 0; k < e->n_concepts && concept && !status; k++, concept = concept->next) {
        const cbm_concept_explanation *c = &e->concepts[k];
        cJSON_AddItemToObject(concept, "density", cli_json_double(c->density));
        status = add_logit(concept, x, text, e, &c->logit);
    }
    if (!status) status = add_to_labels(object, x, text, e);
    if (e->subnetworks) explain_add_overlaps(object, x->in.model, e->subnetworks);
    if (!status) return cli_json_print(object);
    cJSON_Delete(object);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Many texts
 * ---------------------------------------------------------------------------------------- */

static cJSON *json_words(const cbm_word_influence *influences, int n) {
    cJSON *words = cJSON_CreateArray();
    for (int i = 0; i < n; i++) {
        const cbm_word_influence *word = &influences[i];
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "text", word->text);
        cJSON_AddItemToObject(object, "count", cli_json_int(word->count));
        cJSON_AddItemToObject(object, "integrated_gradients", cli_json_double(word->mean));
        cJSON_AddItemToObject(object, "score", cli_json_double(word->score));
        cJSON_AddItemToArray(words, object);
    }
    return words;
}

static cJSON *json_concept(const explain_command *x, const cbm_global_report *r, int k) {
    const cbm_model *model = x->in.model;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", cbm_model_concept(model, k));
    cJSON_AddItemToObject(object, "density", cli_json_double(r->subnetworks->density[k]));
    cJSON_AddItemToObject(object, "own", cli_json_double(r->subnetworks->own[k]));
    cJSON_AddItemToObject(object, "mean_absolute_contribution", cli_json_double(r->importance[k]));
    cJSON *classes = cJSON_AddArrayToObject(object, "classes");
    for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++) {
        const int at = r->first_class[k] + c;
        cJSON *class_object = cJSON_CreateObject();
        cJSON_AddStringToObject(class_object, "name", cbm_model_concept_class(model, k, c));
        cJSON_AddItemToObject(class_object, "texts", cli_json_int(r->class_count[at]));
        cJSON_AddItemToObject(class_object, "words",
                              json_words(r->words + (size_t)at * (size_t)r->most_words, r->n_words[at]));
        cJSON_AddItemToArray(classes, class_object);
    }
    return object;
}

static cJSON *json_label(const explain_command *x, const cbm_global_report *r, int y) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", cbm_model_label(x->in.model, y));
    cJSON_AddItemToObject(object, "texts", cli_json_int(r->label_count[y]));
    cJSON *contributions = r->n_concepts ? cJSON_AddArrayToObject(object, "contributions") : NULL;
    if (r->label_words)
        cJSON_AddItemToObject(object, "words",
                              json_words(r->label_words + (size_t)y * (size_t)r->most_words, r->n_label_words[y]));
    for (int k = 0; k < r->n_concepts; k++) {
        cJSON *concept = cJSON_CreateObject();
        cJSON_AddStringToObject(concept, "concept", cbm_model_concept(x->in.model, k));
        cJSON_AddItemToObject(concept, "mean", cli_json_double(r->contribution[k * r->n_labels + y]));
        cJSON_AddItemToObject(concept, "mean_absolute", cli_json_double(r->absolute_contribution[k * r->n_labels + y]));
        cJSON_AddItemToArray(contributions, concept);
    }
    return object;
}

static cJSON *json_numbers(const double *numbers, int n) {
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < n; i++) cJSON_AddItemToArray(array, cli_json_double(numbers[i]));
    return array;
}

static cJSON *json_faithfulness(const cbm_faithfulness *f) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)f->n));
    cJSON_AddItemToObject(object, "shares", json_numbers(f->share, f->n_shares));
    for (int m = 0; m < f->n_methods; m++) {
        const cbm_method_faithfulness *of = &f->methods[m];
        cJSON *method = cJSON_AddObjectToObject(object, of->name);
        cJSON_AddItemToObject(method, "comprehensiveness", json_numbers(of->comprehensiveness, f->n_shares));
        cJSON_AddItemToObject(method, "sufficiency", json_numbers(of->sufficiency, f->n_shares));
        cJSON_AddItemToObject(method, "mean_comprehensiveness", cli_json_double(of->mean_comprehensiveness));
        cJSON_AddItemToObject(method, "mean_sufficiency", cli_json_double(of->mean_sufficiency));
    }
    return object;
}

scbm_status explain_print_global_json(const explain_command *x, const cbm_global_report *r) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)r->n_texts));
    cJSON_AddItemToObject(object, "texts_explained", cli_json_int((int64_t)r->n_explained));
    cJSON *labels = cJSON_AddArrayToObject(object, "labels"), *concepts = cJSON_AddArrayToObject(object, "concepts");
    for (int y = 0; y < r->n_labels; y++) cJSON_AddItemToArray(labels, json_label(x, r, y));
    for (int k = 0; k < r->n_concepts; k++) cJSON_AddItemToArray(concepts, json_concept(x, r, k));
    if (r->subnetworks) {
        explain_add_overlaps(object, x->in.model, r->subnetworks);
        cJSON_AddItemToObject(object, "kept_by", json_numbers(r->subnetworks->kept_by, r->n_concepts + 1));
    }
    if (r->faithfulness) cJSON_AddItemToObject(object, "faithfulness", json_faithfulness(r->faithfulness));
    return cli_json_print(object);
}
