/*
 * convert/hf-config.c - what a Hugging Face folder says about its encoder
 */
#include "convert/hf-config.h"
#include "convert/json-file.h"
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static scbm_status unsupported(const json_file *json, const char *key, const char *value, const char *known) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: %s is %.80s; this version knows %s", json->path, key, value,
                     known);
}

/* ------------------------------------------------------------------------------------------
 * config.json
 * ---------------------------------------------------------------------------------------- */

/* The types that there are, for a message. */
static const char *known_types(char *text, size_t size) {
    const cbm_architecture *architecture;
    size_t n = 0;
    for (int i = 0; (architecture = cbm_architecture_at(i)) && n < size; i++)
        if (architecture->hf_type)
            n += (size_t)snprintf(text + n, size - n, "%s%s", i ? ", " : "", architecture->hf_type);
    return text;
}

static scbm_status find_by_type(const json_file *json, const char *type, const cbm_architecture **found) {
    char known[200];
    for (int i = 0; (*found = cbm_architecture_at(i)); i++)
        if ((*found)->hf_type && strcmp((*found)->hf_type, type) == 0) return SCBM_OK;
    return unsupported(json, "model_type", type, known_types(known, sizeof known));
}

/* The first architecture whose sizes config.json has all by their names there; NULL: there is none. */
static const cbm_architecture *find_by_keys(const json_file *json) {
    const cbm_architecture *architecture;
    for (int i = 0; (architecture = cbm_architecture_at(i)); i++) {
        int n_missing = !architecture->hf_type;
        for (int k = 0; k < architecture->n_keys; k++) {
            const cbm_key *key = &architecture->keys[k];
            int is_size = key->kind == CBM_KEY_COUNT || key->kind == CBM_KEY_SIZE;
            n_missing += is_size && key->hf && key->otherwise == 0 && !cbm_json_get(json->root, key->hf);
        }
        if (!n_missing) break;
    }
    return architecture;
}

/* Old checkpoints have no model_type; what they were made for tells it then, or else the names of their sizes. */
static scbm_status find_architecture(const json_file *json, const cbm_architecture **found) {
    const char *type;
    char known[200];
    scbm_status status = cbm_json_string_or(json, json->root, "model_type", NULL, &type);
    if (status) return status;
    if (type) return find_by_type(json, type, found);
    const cJSON *first = cJSON_GetArrayItem(cbm_json_get(json->root, "architectures"), 0);
    for (int i = 0; cJSON_IsString(first) && (*found = cbm_architecture_at(i)); i++)
        if ((*found)->hf_class && cbm_starts_with(first->valuestring, (*found)->hf_class)) return SCBM_OK;
    if (!cJSON_IsString(first) && (*found = find_by_keys(json))) {
        scbm_log(&json->hooks, SCBM_LOG_WARNING,
                 "%.300s: model_type is missing; the sizes have %s's names, and so it is read "
                 "as one (\"model_type\": \"%s\" says it)",
                 json->path, (*found)->title, (*found)->hf_type);
        return SCBM_OK;
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: model_type is missing; this version knows %s", json->path,
                     known_types(known, sizeof known));
}

/* Settings that change what is computed, and code that comes with a checkpoint: named and refused. */
static scbm_status check_variants(const json_file *json, const cbm_architecture *architecture) {
    static const char *const switches[] = {"is_decoder", "add_cross_attention"};
    static const char *const objects[] = {"pruned_heads", "quantization_config"};
    scbm_status status = SCBM_OK;
    for (const cbm_demand *demand = architecture->hf_demands; demand && demand->key && !status; demand++) {
        const cJSON *item = cbm_json_get(json->root, demand->key);
        const char *value = cJSON_IsTrue(item) ? "true" : "false";
        if (!cJSON_IsBool(item)) status = cbm_json_string_or(json, json->root, demand->key, demand->value, &value);
        if (!status && strcmp(value, demand->value) != 0) status = unsupported(json, demand->key, value, demand->value);
    }
    for (size_t i = 0; i < COUNT_OF(switches) && !status; i++) {
        int is_on;
        status = cbm_json_bool_or(json, json->root, switches[i], 0, &is_on);
        if (!status && is_on) status = unsupported(json, switches[i], "true", "encoders only");
    }
    for (size_t i = 0; i < COUNT_OF(objects) && !status; i++) {
        const cJSON *object;
        status = cbm_json_object_or_null(json, json->root, objects[i], &object);
        if (!status && object && object->child)
            status = unsupported(json, objects[i], "not empty", "whole, unquantized checkpoints");
    }
    if (!status && cbm_json_get(cbm_json_get(json->root, "auto_map"), "AutoModel"))
        status = scbm_fail(SCBM_ERROR_UNSUPPORTED,
                           "%.300s: auto_map is set (the checkpoint needs code of its own); this version knows plain "
                           "%s encoders",
                           json->path, architecture->title);
    return status;
}

/* A number of at least 0 and below 1. */
static scbm_status read_fraction(const json_file *json, const char *key, double *value) {
    scbm_status status = cbm_json_real_or(json, json->root, key, *value, value);
    if (!status && !(*value >= 0 && (float)*value < 1))
        status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be at least 0 and below 1", json->path, key);
    return status;
}

static scbm_status read_size(const json_file *json, const char *key, double *value) {
    int64_t size;
    scbm_status status = *value != 0 ? cbm_json_int_or(json, json->root, key, 1, CBM_MAX_SIZE, (int64_t)*value, &size)
                                     : cbm_json_int(json, json->root, key, 1, CBM_MAX_SIZE, &size);
    if (!status) *value = (double)size;
    return status;
}

static scbm_status read_switch(const json_file *json, const char *key, double *value) {
    int is_on;
    scbm_status status = cbm_json_bool_or(json, json->root, key, *value != 0, &is_on);
    if (!status) *value = is_on;
    return status;
}

static const char gated[] = "gated-"; /* what T5 has before an activation's name */

static scbm_status read_gated(const json_file *json, const char *key, double *value) {
    const char *name;
    scbm_status status = cbm_json_string_or(json, json->root, key, *value != 0 ? gated : "", &name);
    if (!status) *value = cbm_starts_with(name, gated);
    return status;
}

static scbm_status read_token(const json_file *json, const char *key, double *value) {
    int64_t token;
    scbm_status status = cbm_json_int_or(json, json->root, key, 0, CBM_MAX_SIZE, (int64_t)*value, &token);
    if (!status) *value = (double)token;
    return status;
}

/* To transformers, "gated-gelu" is the gate with the other GELU. */
static scbm_status read_activation(const json_file *json, const char *key, double *value) {
    const char *name;
    char known[200];
    scbm_status status = cbm_json_string_or(json, json->root, key, cbm_activation_hf_name((scbm_activation)*value),
                                            &name);
    if (status) return status;
    if (strcmp(name, "gated-gelu") == 0) name = "gelu_new";
    if (cbm_starts_with(name, gated)) name += sizeof gated - 1;
    *value = cbm_activation_parse(name);
    return *value >= 0 ? SCBM_OK : unsupported(json, key, name, cbm_activation_hf_names(known, sizeof known));
}

static scbm_status read_key(const json_file *json, const cbm_key *key, cbm_backbone *settings) {
    double value = key->otherwise;
    scbm_status status = SCBM_OK;
    switch (key->kind) {
    case CBM_KEY_COUNT:
    case CBM_KEY_SIZE: status = read_size(json, key->hf, &value); break;
    case CBM_KEY_FRACTION: status = read_fraction(json, key->hf, &value); break;
    case CBM_KEY_SWITCH: status = read_switch(json, key->hf, &value); break;
    case CBM_KEY_ACTIVATION: status = read_activation(json, key->hf, &value); break;
    case CBM_KEY_GATED: status = read_gated(json, key->hf, &value); break;
    case CBM_KEY_TOKEN: status = read_token(json, key->hf, &value); break;
    case CBM_KEY_POOLING: break; /* sentence-transformers' files say it */
    }
    if (!status) cbm_key_set(settings, key, value);
    return status;
}

static scbm_status read_settings(const json_file *json, cbm_backbone *settings) {
    const cbm_architecture *architecture = NULL;
    scbm_status status = find_architecture(json, &architecture);
    if (!status) status = check_variants(json, architecture);
    if (status) return status;
    cbm_settings_default(settings, architecture);
    for (int i = 0; i < architecture->n_keys && !status; i++)
        if (architecture->keys[i].hf) status = read_key(json, &architecture->keys[i], settings);
    if (!status && architecture->hf_counts_padding) settings->context -= settings->padding;
    return status ? status : cbm_settings_settle(settings, json->path);
}

/* The name under which the checkpoint was published; a path says nothing to others. */
static scbm_status read_name(const json_file *json, hf_config *config) {
    const cJSON *name = cbm_json_get(json->root, "_name_or_path");
    if (!cJSON_IsString(name) || !name->valuestring[0] || strchr("./~", name->valuestring[0])) return SCBM_OK;
    config->name = scbm_strdup(&config->hooks, name->valuestring);
    return config->name ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_hf_config_parse(hf_config *config, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    status = read_settings(&json, &config->settings);
    if (!status) status = read_name(&json, config);
    cbm_json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * sentence-transformers
 * ---------------------------------------------------------------------------------------- */

/* A pooling that is not known here is no reason to refuse the encoder: whoever converts may choose another. */
static void note_problem(const json_file *json, hf_config *config, const char *problem) {
    snprintf(config->pooling_problem, sizeof config->pooling_problem,
             "%.200s: %s; this version knows one of mean, cls and lasttoken", json->path, problem);
}

static void set_pooling(const json_file *json, const char *mode, hf_config *config) {
    static const struct {
        const char *old, *name; /* pooling_mode_… and pooling_mode */
        int pooling, if_normalized;
    } known[] = {{"mean_tokens", "mean", HF_POOLING_MEAN, 0},
                 {"cls_token", "cls", HF_POOLING_FIRST, 0},
                 {"lasttoken", "lasttoken", HF_POOLING_LAST, 0},
                 {"mean_sqrt_len_tokens", "mean_sqrt_len_tokens", HF_POOLING_MEAN, 1}}; /* of the same direction */
    char problem[100];
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i].old, mode) != 0 && strcmp(known[i].name, mode) != 0) continue;
        config->settings.pooling = known[i].pooling;
        if (!known[i].if_normalized || config->normalize) return;
    }
    snprintf(problem, sizeof problem, "the pooling mode is %.60s", mode);
    note_problem(json, config, problem);
}

/* Newer folders name the mode, older ones have a switch for each; several modes would be concatenated. */
static scbm_status read_pooling(const json_file *json, hf_config *config) {
    static const char start[] = "pooling_mode_";
    const char *mode, *found = NULL;
    const cJSON *item;
    scbm_status status = cbm_json_string_or(json, json->root, "pooling_mode", NULL, &mode);
    if (status) return status;
    cJSON_ArrayForEach(item, json->root) {
        if (strncmp(item->string, start, sizeof start - 1) != 0 || !cJSON_IsTrue(item)) continue;
        if (found || mode) {
            note_problem(json, config, "several pooling modes");
            return SCBM_OK;
        }
        found = item->string + sizeof start - 1;
    }
    if (!found) found = mode;
    if (!found) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: no pooling_mode is set", json->path);
    set_pooling(json, found, config);
    return SCBM_OK;
}

/* What is said of prompts that are not put before texts. */
static scbm_status check_include_prompt(const json_file *json) {
    int includes;
    scbm_status status = cbm_json_bool_or(json, json->root, "include_prompt", 1, &includes);
    if (!status && !includes)
        scbm_log(&json->hooks, SCBM_LOG_WARNING,
                 "%.300s: include_prompt is false and not honoured: all tokens of a text count, a prompt's too",
                 json->path);
    return status;
}

scbm_status cbm_hf_config_parse_pooling(hf_config *config, const void *data, size_t size, const char *name) {
    json_file json;
    int64_t width;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    status = cbm_json_int_or(&json, json.root, "word_embedding_dimension", 1, CBM_MAX_SIZE, config->settings.output,
                             &width);
    if (!status && width != config->settings.output)
        status = scbm_fail(SCBM_ERROR_FORMAT,
                           "%.300s: word_embedding_dimension is %lld, and config.json's hidden_size %lld", json.path,
                           (long long)width, (long long)config->settings.output);
    if (!status) status = read_pooling(&json, config);
    if (!status) status = check_include_prompt(&json);
    cbm_json_close(&json);
    return status;
}

scbm_status cbm_hf_config_parse_sentence(hf_config *config, const void *data, size_t size, const char *name) {
    static const char *const arguments[] = {"model_args", "tokenizer_args", "config_args"};
    json_file json;
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    status = cbm_json_int_or(&json, json.root, "max_seq_length", 1, INT32_MAX, 0, &config->max_tokens);
    if (!status) status = cbm_json_bool_or(&json, json.root, "do_lower_case", 0, &config->lowercases);
    for (size_t i = 0; i < COUNT_OF(arguments) && !status; i++) {
        const cJSON *object;
        status = cbm_json_object_or_null(&json, json.root, arguments[i], &object);
        if (!status && object && object->child)
            scbm_log(&json.hooks, SCBM_LOG_WARNING, "%.300s: %s is not honoured", json.path, arguments[i]);
    }
    cbm_json_close(&json);
    return status;
}

/* "query ('query: '), passage ('passage: ')": as many as there is room for. */
static const char *list_prompts(const cJSON *prompts, char *text, size_t size) {
    char shown[CBM_SHOWN_SIZE], name[CBM_SHOWN_SIZE];
    const cJSON *prompt;
    size_t used = 0;
    text[0] = 0;
    cJSON_ArrayForEach(prompt, prompts) {
        if (!cJSON_IsString(prompt) || !prompt->valuestring[0] || used >= size) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s ('%s')", used ? ", " : "",
                                 cbm_show_string(name, prompt->string), cbm_show_string(shown, prompt->valuestring));
    }
    return text;
}

scbm_status cbm_hf_config_parse_prompts(hf_config *config, const void *data, size_t size, const char *name) {
    json_file json;
    const cJSON *prompts = NULL;
    const char *usual = NULL;
    int64_t width = 0;
    char text[300], shown[CBM_SHOWN_SIZE];
    scbm_status status = cbm_json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    status = cbm_json_object_or_null(&json, json.root, "prompts", &prompts);
    if (!status) status = cbm_json_string_or(&json, json.root, "default_prompt_name", NULL, &usual);
    if (!status) status = cbm_json_int_or(&json, json.root, "truncate_dim", 1, CBM_MAX_SIZE, 0, &width);
    const cJSON *prompt = usual ? cbm_json_get(prompts, usual) : NULL;
    if (!status && cJSON_IsString(prompt) && prompt->valuestring[0])
        scbm_log(
            &json.hooks, SCBM_LOG_WARNING,
            "%.300s: sentence-transformers puts the prompt '%s' before every text; here it has to stand in the text",
            json.path, cbm_show_string(shown, prompt->valuestring));
    else if (!status && list_prompts(prompts, text, sizeof text)[0])
        scbm_log(&json.hooks, SCBM_LOG_INFO, "%.300s: prompts have to stand in the texts: %s", json.path, text);
    if (!status && width)
        scbm_log(&json.hooks, SCBM_LOG_WARNING, "%.300s: truncate_dim is %lld and not honoured: embeddings are whole",
                 json.path, (long long)width);
    cbm_json_close(&json);
    return status;
}

/* A module's folder, which must lie inside `root`. */
static scbm_status module_folder(const json_file *json, const cJSON *module, const char *root, const scbm_hooks *hooks,
                                 char **folder) {
    const char *path;
    scbm_status status = cbm_json_string_or(json, module, "path", "", &path);
    if (status) return status;
    if (path[0] == '/' || strstr(path, ".."))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the path %.80s leads out of the folder", json->path, path);
    scbm_release(hooks, *folder);
    *folder = path[0] ? cbm_json_join(hooks, root, path) : scbm_strdup(hooks, root);
    return *folder ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* A module behind the pooling changes embeddings and not the encoder, which is converted without it. */
static void note_module(const json_file *json, int index, const char *kind) {
    char shown[CBM_SHOWN_SIZE];
    if (strcmp(kind, "Dropout") == 0) return; /* of training */
    scbm_log(&json->hooks, SCBM_LOG_WARNING,
             "%.300s: module %d, %s, is not honoured: embeddings are the pooled vectors without it", json->path,
             index + 1, cbm_show_string(shown, kind));
}

/* Modules in their order: Transformer, Pooling, Normalize and others. */
static scbm_status read_module(const json_file *json, const cJSON *module, int index, const char *root,
                               hf_config *config) {
    static const char package[] = "sentence_transformers.";
    const char *type;
    scbm_status status = cbm_json_string(json, module, "type", &type);
    if (status) return status;
    const char *dot = strrchr(type, '.'), *kind = dot ? dot + 1 : type;
    int is_known = strncmp(type, package, sizeof package - 1) == 0;
    if (is_known && index == 0 && strcmp(kind, "Transformer") == 0)
        return module_folder(json, module, root, &config->hooks, &config->folder);
    if (is_known && index == 1 && strcmp(kind, "Pooling") == 0)
        return module_folder(json, module, root, &config->hooks, &config->pooling_folder);
    if (index < 2)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%.300s: module %d is %.80s; this version knows Transformer, Pooling and Normalize, in this order",
            json->path, index + 1, type);
    if (is_known && strcmp(kind, "Normalize") == 0) config->normalize = 1;
    else note_module(json, index, kind);
    return SCBM_OK;
}

scbm_status cbm_hf_config_parse_modules(hf_config *config, const void *data, size_t size, const char *name,
                                        const char *root) {
    json_file json;
    int index = 0;
    const cJSON *module;
    scbm_status status = cbm_json_parse(&json, data, size, name, 1, &config->hooks);
    if (status) return status;
    cJSON_ArrayForEach(module, json.root) {
        if (!status) status = read_module(&json, module, index++, root, config);
    }
    if (!status && !index) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: there are no modules in it", json.path);
    cbm_json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

typedef scbm_status (*parse_function)(hf_config *config, const void *data, size_t size, const char *name);

static scbm_status read_file(hf_config *config, const char *folder, const char *name, int is_needed,
                             parse_function parse) {
    scbm_bytes bytes;
    char *path = cbm_json_join(&config->hooks, folder, name);
    if (!path) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    if (is_needed || cbm_json_file_exists(path)) {
        status = scbm_bytes_open(&bytes, path, &config->hooks);
        if (!status) {
            status = parse(config, bytes.data, bytes.size, path);
            scbm_bytes_close(&bytes, &config->hooks);
        }
    }
    scbm_release(&config->hooks, path);
    return status;
}

static scbm_status parse_modules_here(hf_config *config, const void *data, size_t size, const char *name) {
    char *root = scbm_strdup(&config->hooks, config->folder);
    if (!root) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_hf_config_parse_modules(config, data, size, name, root);
    scbm_release(&config->hooks, root);
    return status;
}

/* Without modules.json a pooling folder of the usual name counts too. */
static scbm_status find_pooling(hf_config *config, const char *folder) {
    static const char usual[] = "1_Pooling";
    char *path = config->pooling_folder ? NULL : cbm_json_join(&config->hooks, folder, usual);
    if (!path) return config->pooling_folder ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (cbm_json_file_exists(path)) config->pooling_folder = path;
    else scbm_release(&config->hooks, path);
    return SCBM_OK;
}

/* A file in place of the folder: what it is. */
static scbm_status refuse_file(const hf_config *config, const char *path) {
    scbm_bytes bytes;
    scbm_status status = scbm_bytes_open(&bytes, path, &config->hooks);
    if (status) return status;
    const char *what = scbm_bytes_recognize(bytes.data, bytes.size, 0);
    status = scbm_fail(SCBM_ERROR_IO, "%.300s: a folder with a Hugging Face checkpoint is expected; this is a file%s%s",
                       path, what ? ": " : "", what ? what : "");
    scbm_bytes_close(&bytes, &config->hooks);
    return status;
}

/* A folder without config.json. */
static scbm_status refuse_folder(const hf_config *config, const char *folder) {
    char *path = cbm_json_join(&config->hooks, folder, "adapter_config.json");
    if (!path) return SCBM_ERROR_MEMORY;
    int is_adapter = cbm_json_file_exists(path);
    scbm_release(&config->hooks, path);
    if (is_adapter)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%.300s: this is an adapter for another model (adapter_config.json names it); merge the two first, "
            "with peft's merge_and_unload, and save the whole",
            folder);
    return scbm_fail(SCBM_ERROR_IO,
                     "%.300s: a folder with a Hugging Face checkpoint is expected; it has no config.json", folder);
}

static scbm_status check_folder(const hf_config *config, const char *folder) {
    char *path = cbm_json_join(&config->hooks, folder, "config.json");
    char *modules = cbm_json_join(&config->hooks, folder, "modules.json");
    scbm_status status = path && modules ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status && !cbm_json_file_exists(folder))
        status = scbm_fail(SCBM_ERROR_IO, "%.300s: there is no such folder", folder);
    else if (!status && cbm_json_is_file(folder)) status = refuse_file(config, folder);
    else if (!status && !cbm_json_file_exists(path) && !cbm_json_file_exists(modules))
        status = refuse_folder(config, folder);
    scbm_release(&config->hooks, path);
    scbm_release(&config->hooks, modules);
    return status;
}

/* It is called after the model's kind in folders of old. */
static scbm_status read_sentence_config(hf_config *config) {
    static const char *const names[] = {"sentence_bert_config.json",       "sentence_roberta_config.json",
                                        "sentence_distilbert_config.json", "sentence_camembert_config.json",
                                        "sentence_albert_config.json",     "sentence_xlm-roberta_config.json",
                                        "sentence_xlnet_config.json"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char *path = cbm_json_join(&config->hooks, config->folder, names[i]);
        if (!path) return SCBM_ERROR_MEMORY;
        int is_there = cbm_json_file_exists(path);
        scbm_release(&config->hooks, path);
        if (is_there) return read_file(config, config->folder, names[i], 1, cbm_hf_config_parse_sentence);
    }
    return SCBM_OK;
}

scbm_status cbm_hf_config_read(hf_config *config, const char *folder, const scbm_hooks *hooks) {
    memset(config, 0, sizeof *config);
    if (hooks) config->hooks = *hooks;
    config->folder = scbm_strdup(hooks, folder);
    scbm_status status = config->folder ? check_folder(config, folder) : SCBM_ERROR_MEMORY;
    if (!status) status = read_file(config, folder, "modules.json", 0, parse_modules_here);
    if (!status) status = read_file(config, config->folder, "config.json", 1, cbm_hf_config_parse);
    if (!status) status = read_sentence_config(config);
    if (!status)
        status = read_file(config, folder, "config_sentence_transformers.json", 0, cbm_hf_config_parse_prompts);
    if (!status) status = find_pooling(config, folder);
    if (!status && config->pooling_folder)
        status = read_file(config, config->pooling_folder, "config.json", 1, cbm_hf_config_parse_pooling);
    if (status) cbm_hf_config_clear(config);
    return status;
}

void cbm_hf_config_clear(hf_config *config) {
    const scbm_hooks hooks = config->hooks;
    scbm_release(&hooks, config->name);
    scbm_release(&hooks, config->folder);
    scbm_release(&hooks, config->pooling_folder);
    memset(config, 0, sizeof *config);
    config->hooks = hooks;
}
