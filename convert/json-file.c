/*
 * convert/json-file.c - JSON files and their values, with errors that name file and key
 */
#define _POSIX_C_SOURCE 200809L

#include "convert/json-file.h"
#include "models/base/text.h"

#include <string.h>
#include <sys/stat.h>

#define MAX_FILE ((size_t)256 << 20)
#define MAX_EXACT 9007199254740992.0 /* 2^53: up to here a double tells all integers apart */

int cbm_json_file_exists(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0;
}

int cbm_json_is_file(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISREG(facts.st_mode);
}

char *cbm_json_join(const scbm_hooks *hooks, const char *folder, const char *name) {
    size_t length = strlen(folder), name_length = strlen(name);
    char *path = scbm_alloc(hooks, length + name_length + 2);
    if (!path) return NULL;
    memcpy(path, folder, length);
    if (length && folder[length - 1] != '/') path[length++] = '/';
    memcpy(path + length, name, name_length + 1);
    return path;
}

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

static size_t line_of(const char *text, const char *at) {
    size_t line = 1;
    for (; text < at; text++) line += *text == '\n';
    return line;
}

static int is_blank(const char *text, const char *end) {
    while (text < end && (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r')) text++;
    return text == end;
}

static scbm_status check_text(const json_file *json, const char *text, size_t size) {
    if (is_blank(text, text + size)) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the file is empty", json->path);
    if (size > MAX_FILE)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %zu bytes of JSON; %zu at most are read", json->path, size,
                         MAX_FILE);
    const char *what = scbm_bytes_recognize(text, size, 0);
    if (what) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: is not JSON but %s", json->path, what);
    if (!cbm_json_is_utf8(text, size))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: this is not JSON in UTF-8", json->path);
    return SCBM_OK;
}

static scbm_status parse_text(json_file *json, const char *text, size_t size, int is_array) {
    const char *end = text;
    scbm_status status = check_text(json, text, size);
    if (status) return status;
    json->root = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    if (!json->root || !is_blank(end, text + size))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: line %zu is not JSON", json->path, line_of(text, end));
    if (is_array ? !cJSON_IsArray(json->root) : !cJSON_IsObject(json->root))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a JSON %s is expected", json->path, is_array ? "array" : "object");
    return SCBM_OK;
}

scbm_status cbm_json_parse(json_file *json, const void *data, size_t size, const char *name, int is_array,
                           const scbm_hooks *hooks) {
    memset(json, 0, sizeof *json);
    if (hooks) json->hooks = *hooks;
    json->path = scbm_strdup(hooks, name);
    scbm_status status = json->path ? parse_text(json, data, size, is_array) : SCBM_ERROR_MEMORY;
    if (status) cbm_json_close(json);
    return status;
}

scbm_status cbm_json_open(json_file *json, const char *path, int is_array, const scbm_hooks *hooks) {
    scbm_bytes bytes;
    memset(json, 0, sizeof *json);
    scbm_status status = scbm_bytes_open(&bytes, path, hooks);
    if (status) return status;
    status = cbm_json_parse(json, bytes.data, bytes.size, path, is_array, hooks);
    scbm_bytes_close(&bytes, hooks);
    return status;
}

void cbm_json_close(json_file *json) {
    cJSON_Delete(json->root);
    scbm_release(&json->hooks, json->path);
    json->root = NULL;
    json->path = NULL;
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

const cJSON *cbm_json_get(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static scbm_status missing(const json_file *json, const char *key) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s is missing", json->path, key);
}

static scbm_status not_a(const json_file *json, const char *key, const char *what) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be %s", json->path, key, what);
}

int cbm_json_is_int(const cJSON *item, int64_t least, int64_t most, int64_t *value) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= -MAX_EXACT && item->valuedouble <= MAX_EXACT)) return 0;
    *value = (int64_t)item->valuedouble;
    return (double)*value == item->valuedouble && *value >= least && *value <= most;
}

scbm_status cbm_json_int(const json_file *json, const cJSON *object, const char *key, int64_t least, int64_t most,
                         int64_t *value) {
    const cJSON *item = cbm_json_get(object, key);
    if (!item) return missing(json, key);
    if (cbm_json_is_int(item, least, most, value)) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be a whole number from %lld to %lld", json->path, key,
                     (long long)least, (long long)most);
}

scbm_status cbm_json_int_or(const json_file *json, const cJSON *object, const char *key, int64_t least, int64_t most,
                            int64_t otherwise, int64_t *value) {
    *value = otherwise;
    return cbm_json_get(object, key) ? cbm_json_int(json, object, key, least, most, value) : SCBM_OK;
}

scbm_status cbm_json_real_or(const json_file *json, const cJSON *object, const char *key, double otherwise,
                             double *value) {
    const cJSON *item = cbm_json_get(object, key);
    *value = otherwise;
    if (!item) return SCBM_OK;
    if (!cJSON_IsNumber(item)) return not_a(json, key, "a number");
    *value = item->valuedouble;
    return SCBM_OK;
}

scbm_status cbm_json_bool_or(const json_file *json, const cJSON *object, const char *key, int otherwise, int *value) {
    const cJSON *item = cbm_json_get(object, key);
    *value = otherwise;
    if (!item) return SCBM_OK;
    if (!cJSON_IsBool(item)) return not_a(json, key, "true or false");
    *value = cJSON_IsTrue(item) != 0;
    return SCBM_OK;
}

scbm_status cbm_json_string(const json_file *json, const cJSON *object, const char *key, const char **value) {
    const cJSON *item = cbm_json_get(object, key);
    if (!item) return missing(json, key);
    if (!cJSON_IsString(item)) return not_a(json, key, "a string");
    *value = item->valuestring;
    return SCBM_OK;
}

scbm_status cbm_json_string_or(const json_file *json, const cJSON *object, const char *key, const char *otherwise,
                               const char **value) {
    *value = otherwise;
    return cbm_json_get(object, key) ? cbm_json_string(json, object, key, value) : SCBM_OK;
}

scbm_status cbm_json_object_or_null(const json_file *json, const cJSON *object, const char *key, const cJSON **value) {
    *value = cbm_json_get(object, key);
    return *value && !cJSON_IsObject(*value) ? not_a(json, key, "an object") : SCBM_OK;
}

scbm_status cbm_json_array_or_null(const json_file *json, const cJSON *object, const char *key, const cJSON **value) {
    *value = cbm_json_get(object, key);
    return *value && !cJSON_IsArray(*value) ? not_a(json, key, "an array") : SCBM_OK;
}

int cbm_json_is_utf8(const char *text, size_t length) {
    return cbm_find_bad_utf8(text, length) == length && !memchr(text, 0, length);
}

/* ------------------------------------------------------------------------------------------
 * Making files
 * ---------------------------------------------------------------------------------------- */

void cbm_json_start(json_tree *tree, int is_array) {
    tree->root = is_array ? cJSON_CreateArray() : cJSON_CreateObject();
    tree->failed = !tree->root;
}

cJSON *cbm_json_put(json_tree *tree, cJSON *into, const char *key, cJSON *item) {
    if (into && item && (key ? cJSON_AddItemToObject(into, key, item) : cJSON_AddItemToArray(into, item))) return item;
    cJSON_Delete(item);
    tree->failed = 1;
    return NULL;
}

void cbm_json_put_text(json_tree *tree, cJSON *into, const char *key, const char *text) {
    cbm_json_put(tree, into, key, cJSON_CreateString(text));
}

void cbm_json_put_int(json_tree *tree, cJSON *into, const char *key, int64_t value) {
    cbm_json_put(tree, into, key, cJSON_CreateNumber((double)value));
}

void cbm_json_put_bool(json_tree *tree, cJSON *into, const char *key, int value) {
    cbm_json_put(tree, into, key, cJSON_CreateBool(value));
}

void cbm_json_put_float(json_tree *tree, cJSON *into, const char *key, float value) {
    char text[32];
    cbm_json_put(tree, into, key, cJSON_CreateRaw(scbm_print_float(value, text)));
}

scbm_status cbm_json_write(json_tree *tree, const char *path, const scbm_hooks *hooks) {
    scbm_output_file *output;
    char *text = tree->failed ? NULL : cJSON_Print(tree->root);
    scbm_status status = text ? scbm_output_open(&output, path, hooks)
                              : scbm_fail(SCBM_ERROR_MEMORY, "%.300s: out of memory", path);
    if (!status) {
        scbm_output_write(output, text, strlen(text));
        scbm_output_write(output, "\n", 1);
        status = scbm_output_commit(output);
    }
    cJSON_free(text);
    cJSON_Delete(tree->root);
    tree->root = NULL;
    return status;
}
