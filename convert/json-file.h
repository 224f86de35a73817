/*
 * convert/json-file.h - JSON files and their values, with errors that name file and key; and making such files
 */
#ifndef CONVERT_JSON_FILE_H
#define CONVERT_JSON_FILE_H

#include "sparsecbm.h"

#include <cjson/cJSON.h>

typedef struct json_file {
    cJSON *root;
    char *path; /* for messages */
    scbm_hooks hooks;
} json_file;

/* Whether there is a file (or a folder) of that name. */
int cbm_json_file_exists(const char *path);
int cbm_json_is_file(const char *path); /* and no folder */
/* "folder/name", to be released by scbm_release; NULL when out of memory. */
char *cbm_json_join(const scbm_hooks *hooks, const char *folder, const char *name);

/* Reads a file, or a text in memory that `name` stands for in messages. The root must be an object, or an array
 * where `is_array` is set. On error *json is closed. */
scbm_status cbm_json_open(json_file *json, const char *path, int is_array, const scbm_hooks *hooks);
scbm_status cbm_json_parse(json_file *json, const void *data, size_t size, const char *name, int is_array,
                           const scbm_hooks *hooks);
void cbm_json_close(json_file *json);

/* The value of an object's key; NULL when it is missing or null. */
const cJSON *cbm_json_get(const cJSON *object, const char *key);

/* The value of an object's key, checked. The _or forms give `otherwise` when the key is missing or null. */
scbm_status cbm_json_int(const json_file *json, const cJSON *object, const char *key, int64_t least, int64_t most,
                         int64_t *value);
scbm_status cbm_json_int_or(const json_file *json, const cJSON *object, const char *key, int64_t least, int64_t most,
                            int64_t otherwise, int64_t *value);
scbm_status cbm_json_real_or(const json_file *json, const cJSON *object, const char *key, double otherwise,
                             double *value);
scbm_status cbm_json_bool_or(const json_file *json, const cJSON *object, const char *key, int otherwise, int *value);
/* The string belongs to the file. */
scbm_status cbm_json_string(const json_file *json, const cJSON *object, const char *key, const char **value);
scbm_status cbm_json_string_or(const json_file *json, const cJSON *object, const char *key, const char *otherwise,
                               const char **value);
/* An object or array; NULL when it is missing or null. */
scbm_status cbm_json_object_or_null(const json_file *json, const cJSON *object, const char *key, const cJSON **value);
scbm_status cbm_json_array_or_null(const json_file *json, const cJSON *object, const char *key, const cJSON **value);

/* A number as an integer in [least, most]; 0: it is none. */
int cbm_json_is_int(const cJSON *item, int64_t least, int64_t most, int64_t *value);
/* Whether text[0 … length) is UTF-8 without NUL. */
int cbm_json_is_utf8(const char *text, size_t length);

/* ------------------------------------------------------------------------------------------
 * Making files
 * ---------------------------------------------------------------------------------------- */

/* A value while it is made. What there was no memory for is noted, and written by nobody. */
typedef struct json_tree {
    cJSON *root;
    int failed;
} json_tree;

/* Starts an object, or an array. */
void cbm_json_start(json_tree *tree, int is_array);
/* Puts `item` into an object under `key`, or with NULL into an array; returns it, or NULL. */
cJSON *cbm_json_put(json_tree *tree, cJSON *into, const char *key, cJSON *item);
void cbm_json_put_text(json_tree *tree, cJSON *into, const char *key, const char *text);
void cbm_json_put_int(json_tree *tree, cJSON *into, const char *key, int64_t value);
void cbm_json_put_bool(json_tree *tree, cJSON *into, const char *key, int value);
/* The shortest text that reads back as the same float. */
void cbm_json_put_float(json_tree *tree, cJSON *into, const char *key, float value);
/* Writes it to a file, and releases it in any case. */
scbm_status cbm_json_write(json_tree *tree, const char *path, const scbm_hooks *hooks);

#endif
