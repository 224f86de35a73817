/*
 * convert/hf-config.c - what a Hugging Face folder says about its encoder
 */
#include "convert/hf-config.h"
#include "convert/json-file.h"

#include <string.h>

#define MAX_SIZE (1 << 24)
#define MAX_BLOCKS 4096
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static scbm_status unsupported(const json_file *json, const char *key, const char *value, const char *known) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: %s is %.80s; this version knows %s", json->path, key, value,
                     known);
}

/* ------------------------------------------------------------------------------------------
 * config.json
 * ---------------------------------------------------------------------------------------- */

/* Old checkpoints have no model_type; what they were made for tells it then. */
static scbm_status check_model_type(const json_file *json) {
    const char *type;
    scbm_status status = json_string_or(json, json->root, "model_type", NULL, &type);
    if (status) return status;
    if (type) return strcmp(type, "bert") == 0 ? SCBM_OK : unsupported(json, "model_type", type, "bert");
    const cJSON *first = cJSON_GetArrayItem(json_get(json->root, "architectures"), 0);
    if (cJSON_IsString(first) && strncmp(first->valuestring, "Bert", 4) == 0) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: model_type is missing; this version knows bert", json->path);
}

/* Settings that change what is computed, and code that comes with a checkpoint: named and refused. */
static scbm_status check_variants(const json_file *json) {
    static const char *const switches[] = {"is_decoder", "add_cross_attention"};
    static const char *const objects[] = {"pruned_heads", "quantization_config"};
    const char *positions;
    scbm_status status = json_string_or(json, json->root, "position_embedding_type", "absolute", &positions);
    if (!status && strcmp(positions, "absolute") != 0)
        status = unsupported(json, "position_embedding_type", positions, "absolute");
    for (size_t i = 0; i < COUNT_OF(switches) && !status; i++) {
        int is_on;
        status = json_bool_or(json, json->root, switches[i], 0, &is_on);
        if (!status && is_on) status = unsupported(json, switches[i], "true", "encoders only");
    }
    for (size_t i = 0; i < COUNT_OF(objects) && !status; i++) {
        const cJSON *object;
        status = json_object_or_null(json, json->root, objects[i], &object);
        if (!status && object && object->child)
            status = unsupported(json, objects[i], "not empty", "whole, unquantized checkpoints");
    }
    if (!status && json_get(json_get(json->root, "auto_map"), "AutoModel"))
        status = unsupported(json, "auto_map", "set (the checkpoint needs code of its own)", "plain BERT encoders");
    return status;
}

static scbm_status read_activation(const json_file *json, hf_config *config) {
    static const char *const known[][2] = {{"gelu", "gelu"},
                                           {"gelu_new", "gelu_tanh"},
                                           {"gelu_fast", "gelu_tanh"},
                                           {"gelu_pytorch_tanh", "gelu_tanh"},
                                           {"relu", "relu"}};
    const char *name;
    scbm_status status = json_string_or(json, json->root, "hidden_act", "gelu", &name);
    if (status) return status;
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i][0], name) == 0) {
            config->activation = known[i][1];
            return SCBM_OK;
        }
    }
    return unsupported(json, "hidden_act", name, "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh and relu");
}

/* A number of at least 0 and below 1. */
static scbm_status read_fraction(const json_file *json, const char *key, double otherwise, double *value) {
    scbm_status status = json_real_or(json, json->root, key, otherwise, value);
    if (!status && !(*value >= 0 && *value < 1))
        status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %s must be at least 0 and below 1", json->path, key);
    return status;
}

static scbm_status read_sizes(const json_file *json, hf_config *config) {
    const cJSON *root = json->root;
    scbm_status status = json_int(json, root, "hidden_size", 1, MAX_SIZE, &config->hidden);
    if (!status) status = json_int(json, root, "num_hidden_layers", 1, MAX_BLOCKS, &config->blocks);
    if (!status) status = json_int(json, root, "num_attention_heads", 1, MAX_SIZE, &config->heads);
    if (!status) status = json_int(json, root, "intermediate_size", 1, MAX_SIZE, &config->feed_forward);
    if (!status) status = json_int(json, root, "vocab_size", 1, MAX_SIZE, &config->vocabulary);
    if (!status) status = json_int_or(json, root, "max_position_embeddings", 1, MAX_SIZE, 512, &config->positions);
    if (!status) status = json_int_or(json, root, "type_vocab_size", 1, MAX_SIZE, 2, &config->types);
    if (!status && config->hidden % config->heads)
        status = scbm_fail(SCBM_ERROR_FORMAT,
                           "%.300s: a hidden_size of %lld cannot be cut into %lld num_attention_heads", json->path,
                           (long long)config->hidden, (long long)config->heads);
    return status;
}

/* The name under which the checkpoint was published; a path says nothing to others. */
static scbm_status read_name(const json_file *json, hf_config *config) {
    const cJSON *name = json_get(json->root, "_name_or_path");
    if (!cJSON_IsString(name) || !name->valuestring[0] || strchr("./~", name->valuestring[0])) return SCBM_OK;
    config->name = scbm_strdup(&config->hooks, name->valuestring);
    return config->name ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status hf_config_parse(hf_config *config, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    config->pooling = config->pooling ? config->pooling : HF_POOLING_MEAN;
    status = check_model_type(&json);
    if (!status) status = check_variants(&json);
    if (!status) status = read_sizes(&json, config);
    if (!status) status = read_activation(&json, config);
    if (!status) status = read_fraction(&json, "layer_norm_eps", 1e-12, &config->epsilon);
    if (!status) status = read_fraction(&json, "hidden_dropout_prob", 0.1, &config->hidden_dropout);
    if (!status) status = read_fraction(&json, "attention_probs_dropout_prob", 0.1, &config->attention_dropout);
    if (!status) status = read_name(&json, config);
    json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * sentence-transformers
 * ---------------------------------------------------------------------------------------- */

/* Newer folders name the mode, older ones have a switch for each; several modes would be concatenated. */
static scbm_status read_pooling(const json_file *json, hf_config *config) {
    static const char start[] = "pooling_mode_";
    const char *mode, *found = NULL;
    const cJSON *item;
    scbm_status status = json_string_or(json, json->root, "pooling_mode", NULL, &mode);
    if (status) return status;
    cJSON_ArrayForEach(item, json->root) {
        if (strncmp(item->string, start, sizeof start - 1) != 0 || !cJSON_IsTrue(item)) continue;
        if (found || mode)
            return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                             "%.300s: several pooling modes; this version knows one: mean or cls", json->path);
        found = item->string + sizeof start - 1;
    }
    if (!found) found = mode;
    if (!found) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: no pooling_mode is set", json->path);
    if (strcmp(found, "mean_tokens") == 0 || strcmp(found, "mean") == 0) config->pooling = HF_POOLING_MEAN;
    else if (strcmp(found, "cls_token") == 0 || strcmp(found, "cls") == 0) config->pooling = HF_POOLING_FIRST;
    else return unsupported(json, "the pooling mode", found, "mean_tokens and cls_token");
    return SCBM_OK;
}

scbm_status hf_config_parse_pooling(hf_config *config, const void *data, size_t size, const char *name) {
    json_file json;
    int64_t width;
    scbm_status status = json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    status = json_int_or(&json, json.root, "word_embedding_dimension", 1, MAX_SIZE, config->hidden, &width);
    if (!status && width != config->hidden)
        status = scbm_fail(SCBM_ERROR_FORMAT,
                           "%.300s: word_embedding_dimension is %lld, and config.json's hidden_size %lld", json.path,
                           (long long)width, (long long)config->hidden);
    if (!status) status = read_pooling(&json, config);
    json_close(&json);
    return status;
}

scbm_status hf_config_parse_sentence(hf_config *config, const void *data, size_t size, const char *name) {
    json_file json;
    scbm_status status = json_parse(&json, data, size, name, 0, &config->hooks);
    if (status) return status;
    status = json_int_or(&json, json.root, "max_seq_length", 1, INT32_MAX, 0, &config->max_tokens);
    if (!status) status = json_bool_or(&json, json.root, "do_lower_case", 0, &config->lowercases);
    json_close(&json);
    return status;
}

/* A module's folder, which must lie inside `root`. */
static scbm_status module_folder(const json_file *json, const cJSON *module, const char *root, const scbm_hooks *hooks,
                                 char **folder) {
    const char *path;
    scbm_status status = json_string_or(json, module, "path", "", &path);
    if (status) return status;
    if (path[0] == '/' || strstr(path, ".."))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: the path %.80s leads out of the folder", json->path, path);
    scbm_release(hooks, *folder);
    *folder = path[0] ? json_join(hooks, root, path) : scbm_strdup(hooks, root);
    return *folder ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* Modules in their order: Transformer, Pooling, Normalize. */
static scbm_status read_module(const json_file *json, const cJSON *module, int index, const char *root,
                               hf_config *config) {
    static const char package[] = "sentence_transformers.";
    const char *type;
    scbm_status status = json_string(json, module, "type", &type);
    if (status) return status;
    const char *dot = strrchr(type, '.'), *kind = dot ? dot + 1 : type;
    int is_known = strncmp(type, package, sizeof package - 1) == 0;
    if (is_known && index == 0 && strcmp(kind, "Transformer") == 0)
        return module_folder(json, module, root, &config->hooks, &config->folder);
    if (is_known && index == 1 && strcmp(kind, "Pooling") == 0)
        return module_folder(json, module, root, &config->hooks, &config->pooling_folder);
    if (!is_known || index < 2 || strcmp(kind, "Normalize") != 0)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%.300s: module %d is %.80s; this version knows Transformer, Pooling and Normalize, in this order",
            json->path, index + 1, type);
    config->normalize = 1;
    return SCBM_OK;
}

scbm_status hf_config_parse_modules(hf_config *config, const void *data, size_t size, const char *name,
                                    const char *root) {
    json_file json;
    int index = 0;
    const cJSON *module;
    scbm_status status = json_parse(&json, data, size, name, 1, &config->hooks);
    if (status) return status;
    cJSON_ArrayForEach(module, json.root) {
        if (!status) status = read_module(&json, module, index++, root, config);
    }
    if (!status && !index) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: there are no modules in it", json.path);
    json_close(&json);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

typedef scbm_status (*parse_function)(hf_config *config, const void *data, size_t size, const char *name);

static scbm_status read_file(hf_config *config, const char *folder, const char *name, int is_needed,
                             parse_function parse) {
    scbm_bytes bytes;
    char *path = json_join(&config->hooks, folder, name);
    if (!path) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    if (is_needed || json_file_exists(path)) {
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
    scbm_status status = hf_config_parse_modules(config, data, size, name, root);
    scbm_release(&config->hooks, root);
    return status;
}

/* Without modules.json a pooling folder of the usual name counts too. */
static scbm_status find_pooling(hf_config *config, const char *folder) {
    static const char usual[] = "1_Pooling";
    char *path = config->pooling_folder ? NULL : json_join(&config->hooks, folder, usual);
    if (!path) return config->pooling_folder ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (json_file_exists(path)) config->pooling_folder = path;
    else scbm_release(&config->hooks, path);
    return SCBM_OK;
}

static scbm_status check_folder(const hf_config *config, const char *folder) {
    char *path = json_join(&config->hooks, folder, "config.json");
    char *modules = json_join(&config->hooks, folder, "modules.json");
    scbm_status status = path && modules ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status && !json_file_exists(folder))
        status = scbm_fail(SCBM_ERROR_IO, "%.300s: there is no such folder", folder);
    else if (!status && !json_file_exists(path) && !json_file_exists(modules))
        status = scbm_fail(SCBM_ERROR_IO,
                           "%.300s: a folder with a Hugging Face checkpoint is expected; it has no config.json",
                           folder);
    scbm_release(&config->hooks, path);
    scbm_release(&config->hooks, modules);
    return status;
}

scbm_status hf_config_read(hf_config *config, const char *folder, const scbm_hooks *hooks) {
    memset(config, 0, sizeof *config);
    if (hooks) config->hooks = *hooks;
    config->folder = scbm_strdup(hooks, folder);
    scbm_status status = config->folder ? check_folder(config, folder) : SCBM_ERROR_MEMORY;
    if (!status) status = read_file(config, folder, "modules.json", 0, parse_modules_here);
    if (!status) status = read_file(config, config->folder, "config.json", 1, hf_config_parse);
    if (!status) status = read_file(config, config->folder, "sentence_bert_config.json", 0, hf_config_parse_sentence);
    if (!status) status = find_pooling(config, folder);
    if (!status && config->pooling_folder)
        status = read_file(config, config->pooling_folder, "config.json", 1, hf_config_parse_pooling);
    if (status) hf_config_clear(config);
    return status;
}

void hf_config_clear(hf_config *config) {
    const scbm_hooks hooks = config->hooks;
    scbm_release(&hooks, config->name);
    scbm_release(&hooks, config->folder);
    scbm_release(&hooks, config->pooling_folder);
    memset(config, 0, sizeof *config);
    config->hooks = hooks;
}
