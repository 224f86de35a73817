/*
 * models/program/json.c - JSON lines on standard output
 *
 * cJSON prints a double with 15 or 17 digits; here a number is the shortest text that reads back the same.
 */
#include "models/program/program.h"

#include <stdio.h>

static int is_finite(double value) {
    return value - value == 0;
}

cJSON *cli_json_float(float value) {
    char text[32];
    return is_finite((double)value) ? cJSON_CreateRaw(scbm_print_float(value, text)) : cJSON_CreateNull();
}

cJSON *cli_json_double(double value) {
    char text[32];
    return is_finite(value) ? cJSON_CreateRaw(scbm_print_double(value, text)) : cJSON_CreateNull();
}

cJSON *cli_json_floats(const float *values, int n) {
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < n; i++) cJSON_AddItemToArray(array, cli_json_float(values[i]));
    return array;
}

cJSON *cli_json_int(int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return cJSON_CreateRaw(text);
}

cJSON *cli_json_ints(const int32_t *values, int64_t n) {
    cJSON *array = cJSON_CreateArray();
    for (int64_t i = 0; i < n; i++) cJSON_AddItemToArray(array, cli_json_int(values[i]));
    return array;
}

/* [{name, probability, logit}] of the classes of concept k, or of the label where k is -1. */
static cJSON *json_classes(const cbm_model *model, int k, const float *probabilities, const float *logits, int n) {
    cJSON *array = cJSON_CreateArray();
    for (int c = 0; c < n; c++) {
        const char *name = k < 0 ? cbm_model_label(model, c) : cbm_model_concept_class(model, k, c);
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "name", name);
        cJSON_AddItemToObject(object, "probability", cli_json_float(probabilities[c]));
        cJSON_AddItemToObject(object, "logit", cli_json_float(logits[c]));
        cJSON_AddItemToArray(array, object);
    }
    return array;
}

static cJSON *json_concept(const cbm_model *model, int k, const cbm_concept_result *c) {
    cJSON *concept = cJSON_CreateObject();
    cJSON_AddStringToObject(concept, "name", c->name);
    cJSON_AddStringToObject(concept, "class", c->class_name);
    cJSON_AddItemToObject(concept, "probability", cli_json_float(c->probability));
    cJSON_AddItemToObject(concept, "logits", cli_json_floats(c->logits, c->n_classes));
    cJSON_AddItemToObject(concept, "classes", json_classes(model, k, c->probabilities, c->logits, c->n_classes));
    cJSON_AddItemToObject(concept, "contribution", cli_json_float(c->contribution));
    return concept;
}

cJSON *cli_json_prediction(const cbm_model *model, const cbm_prediction *p) {
    cJSON *object = cJSON_CreateObject(), *concepts = cJSON_CreateArray();
    cJSON_AddStringToObject(object, "label", p->label);
    cJSON_AddItemToObject(object, "probability", cli_json_float(p->probability));
    cJSON_AddItemToObject(object, "logits", cli_json_floats(p->logits, p->n_labels));
    cJSON_AddItemToObject(object, "labels", json_classes(model, -1, p->probabilities, p->logits, p->n_labels));
    cJSON_AddItemToObject(object, "bias", cli_json_float(p->bias));
    cJSON_AddBoolToObject(object, "truncated", p->truncated != 0);
    for (int k = 0; k < p->n_concepts; k++) cJSON_AddItemToArray(concepts, json_concept(model, k, &p->concepts[k]));
    cJSON_AddItemToObject(object, "concepts", concepts);
    return object;
}

/* The character at the start of a text if it would act on a terminal: DEL, C1, and what changes the direction of what
 * follows (those below are escaped by cJSON); 0: it does not. In *size its bytes. */
static unsigned acting_character(const unsigned char *text, size_t *size) {
    *size = text[0] == 0x7F ? 1 : text[0] == 0xC2 || text[0] == 0xD8 ? 2 : 3;
    if (text[0] == 0x7F) return 0x7F;
    if (text[0] == 0xC2 && text[1] >= 0x80 && text[1] < 0xA0) return text[1];
    if (text[0] == 0xD8 && text[1] == 0x9C) return 0x61C;
    if (text[0] != 0xE2 || (text[1] != 0x80 && text[1] != 0x81)) return 0;
    unsigned c = 0x2000 + (text[1] & 0x3Fu) * 64 + (text[2] & 0x3Fu);
    int acts = c == 0x200E || c == 0x200F || (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
    return acts ? c : 0;
}

void cli_json_write(const char *text) {
    const char *written = text;
    for (size_t size = 1; *text; text += size) {
        unsigned c = acting_character((const unsigned char *)text, &size);
        if (!c) {
            size = 1;
            continue;
        }
        fwrite(written, 1, (size_t)(text - written), stdout);
        printf("\\u%04x", c);
        written = text + size;
    }
    fputs(written, stdout);
}

scbm_status cli_json_print(cJSON *object) {
    char *text = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    if (!text) return scbm_fail(SCBM_ERROR_MEMORY, "out of memory for a line of JSON");
    cli_json_write(text);
    putchar('\n');
    cJSON_free(text);
    return SCBM_OK;
}
