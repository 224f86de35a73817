/*
 * models/program/config.c - options from a JSON file: one flat object whose keys are the options' names
 */
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_CONFIG 1000000

static char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = file ? malloc(LARGEST_CONFIG + 1) : NULL;
    size_t n = text ? fread(text, 1, LARGEST_CONFIG, file) : 0;
    int is_whole = text && feof(file);
    if (file) fclose(file);
    if (is_whole) text[n] = 0;
    if (is_whole && strlen(text) == n) return text;
    free(text);
    return NULL;
}

static int unknown_key(const cli_command *command, const cli_option *options, const char *path, const char *key) {
    const char *names[128];
    int n = 0;
    for (; options->name && n < 127; options++)
        if (options->given) names[n++] = options->name;
    names[n] = NULL;
    const char *nearest = cli_nearest(key, names);
    if (nearest) return cli_misuse(command, "%.200s: there is no '%s'; did you mean '%s'?", path, key, nearest);
    return cli_misuse(command, "%.200s: there is no '%s'; the keys are the options of %s %s --help, without dashes",
                      path, key, cli_program, command->name);
}

/* A number as an argument has it. */
static char *number_text(double value, char text[32]) {
    if (value < 1e15 && value > -1e15 && value == (double)(int64_t)value) snprintf(text, 32, "%lld", (long long)value);
    else scbm_print_double(value, text);
    return text;
}

static int set_value(const cli_command *command, const cli_option *option, const cJSON *value, const char *path) {
    char text[32];
    int is_number = option->kind == CLI_INT || option->kind == CLI_REAL;
    if (option->kind == CLI_FLAG && cJSON_IsBool(value))
        return cJSON_IsTrue(value) ? cli_set_option(command, option, NULL, path) : CLI_GO_ON;
    if (is_number && cJSON_IsNumber(value))
        return cli_set_option(command, option, number_text(value->valuedouble, text), path);
    if (option->kind != CLI_FLAG && !is_number && cJSON_IsString(value))
        return cli_set_option(command, option, value->valuestring, path);
    return cli_misuse(command, "%.200s: %s wants %s", path, option->name,
                      option->kind == CLI_FLAG   ? "true or false"
                      : is_number                ? "a number"
                      : option->kind == CLI_LIST ? "a text, or an array of texts"
                                                 : "a text");
}

static int set_key(const cli_command *command, const cli_option *options, const cJSON *item, const char *path) {
    const cli_option *option = options;
    int status = CLI_GO_ON;
    while (option->name && (!option->given || strcmp(option->name, item->string) != 0)) option++;
    if (!option->name) return unknown_key(command, options, path, item->string);
    if (*option->given == 2) return cli_misuse(command, "%.200s: '%s' is there twice", path, item->string);
    if (*option->given) return CLI_GO_ON;
    if (option->kind != CLI_LIST || !cJSON_IsArray(item)) return set_value(command, option, item, path);
    for (const cJSON *one = item->child; one && status == CLI_GO_ON; one = one->next)
        status = set_value(command, option, one, path);
    return status;
}

int cli_read_config(const cli_command *command, const cli_option *options, const char *path, cJSON **values) {
    char *text = read_text(path);
    int status = CLI_GO_ON;
    *values = NULL;
    if (!text) return cli_fail(command, "%.200s: cannot be read as a configuration", path);
    *values = cJSON_ParseWithOpts(text, NULL, 1);
    free(text);
    if (!cJSON_IsObject(*values)) return cli_fail(command, "%.200s: is not one JSON object", path);
    for (const cJSON *item = (*values)->child; item && status == CLI_GO_ON; item = item->next)
        status = set_key(command, options, item, path);
    return status;
}
