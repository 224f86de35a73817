/*
 * convert/export.c - a model's encoder to a Hugging Face folder
 *
 * The folder is written under another name beside the wanted one, and renamed when everything is in it.
 */
#define _POSIX_C_SOURCE 200809L

#include "convert/export-weights.h"
#include "convert/hf-config.h"
#include "convert/hf-tokenizer.h"
#include "convert/model-card.h"
#include "models/base/text.h"
#include "models/cbm-train.h"
#include "models/core/context.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONGEST_PATH 4096

/* All that may be in the folder, and its folders. */
static const char *const files[] = {"config.json",           "model.safetensors", "tokenizer.json",
                                    "tokenizer_config.json", "modules.json",      "sentence_bert_config.json",
                                    "1_Pooling/config.json", "README.md"};
static const char *const folders[] = {"1_Pooling", "2_Normalize"};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef struct exporting {
    const cbm_model *model;
    const scbm_hooks *hooks;
    int stream;            /* the concept's; -1: all weights */
    cbm_backbone settings; /* the model's, with every size that config.json wants; no parameters of its own */
    char wanted[LONGEST_PATH], folder[LONGEST_PATH + 32]; /* what it will be called, and is while it is written */
    int lock;                                             /* the folder's, which ends with the process; -1: none */
    char path[LONGEST_PATH + 32 + 96];
} exporting;

/* A path in the folder, until the next one is asked for. */
static const char *path_of(exporting *e, const char *name) {
    snprintf(e->path, sizeof e->path, "%s/%s", e->folder, name);
    return e->path;
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

static int is_empty(const char *folder) {
    int n = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (entries) closedir(entries);
    return entries && n == 0;
}

static scbm_status cannot(const char *path, const char *what) {
    return scbm_fail(SCBM_ERROR_IO, "%.300s: cannot be %s: %s", path, what, strerror(errno));
}

/* A folder that is locked, so that other runs see that somebody writes it; -1: somebody does, or it is not there. */
static int lock_folder(const char *folder) {
    struct stat opened, named;
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) return -1;
    int failed = flock(descriptor, LOCK_EX | LOCK_NB) != 0, error = errno;
    if (!failed && fstat(descriptor, &opened) == 0 && stat(folder, &named) == 0 && opened.st_ino == named.st_ino &&
        opened.st_dev == named.st_dev)
        return descriptor;
    close(descriptor);
    errno = failed ? error : EWOULDBLOCK;
    return -1;
}

static void remove_folder(exporting *e) {
    if (!e->folder[0]) return;
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char temporary[64];
        unlink(path_of(e, files[i]));
        for (int n = 0; n < 8; n++) { /* of a process that was killed while it wrote */
            snprintf(temporary, sizeof temporary, "%s.%d.tmp", files[i], n);
            unlink(path_of(e, temporary));
        }
    }
    for (size_t i = 0; i < COUNT_OF(folders); i++) rmdir(path_of(e, folders[i]));
    rmdir(e->folder);
}

/* What an export that was killed has left under this name. */
static void remove_dead_folder(exporting *e) {
    int descriptor = lock_folder(e->folder);
    if (descriptor < 0) return;
    remove_folder(e);
    close(descriptor);
}

/* An empty folder may be there already. */
static scbm_status start_folder(exporting *e, const char *folder) {
    struct stat facts;
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    if (!length || length >= LONGEST_PATH)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a folder's name of %zu bytes", length);
    snprintf(e->wanted, sizeof e->wanted, "%.*s", (int)length, folder);
    if (lstat(e->wanted, &facts) == 0 && !(S_ISDIR(facts.st_mode) && is_empty(e->wanted)))
        return scbm_fail(SCBM_ERROR_IO, "%.300s: is there already, and not an empty folder; nothing is written into it",
                         e->wanted);
    for (int i = 0; i < 100; i++) {
        snprintf(e->folder, sizeof e->folder, "%s.%d.tmp", e->wanted, i);
        remove_dead_folder(e);
        if (mkdir(e->folder, 0777) == 0 && (e->lock = lock_folder(e->folder)) >= 0) return SCBM_OK;
        if (errno != EEXIST && errno != EWOULDBLOCK) break;
    }
    e->folder[0] = 0;
    return cannot(e->wanted, "written");
}

static scbm_status make_folder(exporting *e, const char *name) {
    const char *path = path_of(e, name);
    return mkdir(path, 0777) == 0 ? SCBM_OK : cannot(path, "made");
}

/* ------------------------------------------------------------------------------------------
 * config.json
 * ---------------------------------------------------------------------------------------- */

/* The sizes that the tensors tell. What a model file lacks and the folder needs has its default. */
static scbm_status find_settings(exporting *e) {
    const cbm_backbone *backbone = &e->model->network.backbone;
    const cbm_architecture *architecture = backbone->architecture;
    const cbm_parameter *positions = cbm_backbone_find(backbone, CBM_POSITION_EMBEDDING, -1);
    cbm_backbone *settings = &e->settings;
    *settings = *backbone;
    settings->pooling = (int)cbm_model_pooling(e->model);
    settings->parameters = NULL;
    settings->n_parameters = 0;
    if (positions) settings->context = positions->tensor->shape[0] - settings->first_position;
    for (int i = 0; i < architecture->n_keys; i++)
        if (cbm_key_get(settings, &architecture->keys[i]) == 0 && architecture->keys[i].kind == CBM_KEY_SIZE)
            cbm_key_set(settings, &architecture->keys[i], architecture->keys[i].otherwise);
    if (settings->causal)
        for (int i = 0; i < architecture->n_keys; i++)
            if (architecture->keys[i].field == offsetof(cbm_backbone, causal) && !architecture->keys[i].otherwise)
                return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: a causal %s encoder; Hugging Face's class is not causal",
                                 scbm_file_path(e->model->file), architecture->title);
    return SCBM_OK;
}

/* T5's name of a gated layer's activation, in place of the plain one. */
static void put_gated(const cbm_backbone *settings, const char *key, json_tree *json) {
    char text[40];
    const char *name = settings->activation == SCBM_GELU_TANH ? "gelu" : cbm_activation_hf_name(settings->activation);
    snprintf(text, sizeof text, "gated-%s", name);
    cJSON_DeleteItemFromObject(json->root, key);
    cbm_json_put_text(json, json->root, key, text);
}

static void put_key(const cbm_backbone *settings, const cbm_key *key, json_tree *json) {
    double value = cbm_key_get(settings, key);
    if (key->field == offsetof(cbm_backbone, context) && settings->architecture->hf_counts_padding)
        value += settings->padding;
    if (cbm_json_get(json->root, key->hf) && key->kind != CBM_KEY_GATED) return; /* two fields may be one key there */
    switch (key->kind) {
    case CBM_KEY_COUNT:
    case CBM_KEY_SIZE: cbm_json_put_int(json, json->root, key->hf, (int64_t)value); break;
    case CBM_KEY_FRACTION: cbm_json_put_float(json, json->root, key->hf, (float)value); break;
    case CBM_KEY_SWITCH: cbm_json_put_bool(json, json->root, key->hf, value != 0); break;
    case CBM_KEY_ACTIVATION:
        cbm_json_put_text(json, json->root, key->hf, cbm_activation_hf_name((scbm_activation)value));
        break;
    case CBM_KEY_GATED:
        if (value != 0) put_gated(settings, key->hf, json);
        break;
    case CBM_KEY_TOKEN: cbm_json_put_int(json, json->root, key->hf, (int64_t)value); break;
    case CBM_KEY_POOLING: break; /* a sentence-transformers file says it */
    }
}

static scbm_status write_config(exporting *e) {
    const cbm_architecture *architecture = e->settings.architecture;
    const char *name = scbm_file_string_or(e->model->file, "general.name", NULL);
    char class_name[64];
    json_tree json;
    cbm_json_start(&json, 0);
    if (name) cbm_json_put_text(&json, json.root, "_name_or_path", name);
    cbm_json_put_text(&json, json.root, "model_type", architecture->hf_type);
    snprintf(class_name, sizeof class_name, "%sModel", architecture->hf_class);
    cbm_json_put_text(&json, cbm_json_put(&json, json.root, "architectures", cJSON_CreateArray()), NULL, class_name);
    cbm_json_put_text(&json, json.root, "torch_dtype", "float32");
    for (int i = 0; i < architecture->n_keys; i++)
        if (architecture->keys[i].hf) put_key(&e->settings, &architecture->keys[i], &json);
    for (const cbm_demand *demand = architecture->hf_demands; demand && demand->key; demand++)
        if (strcmp(demand->value, "true") == 0 || strcmp(demand->value, "false") == 0)
            cbm_json_put_bool(&json, json.root, demand->key, demand->value[0] == 't');
        else cbm_json_put_text(&json, json.root, demand->key, demand->value);
    int32_t padding = cbm_tokenizer_special(e->model->tokenizer, CBM_TOKEN_PADDING);
    if (padding >= 0 && !cbm_json_get(json.root, "pad_token_id"))
        cbm_json_put_int(&json, json.root, "pad_token_id", padding);
    return cbm_json_write(&json, path_of(e, "config.json"), e->hooks);
}

/* ------------------------------------------------------------------------------------------
 * sentence-transformers: pooling, normalization, the longest text
 * ---------------------------------------------------------------------------------------- */

static void put_module(json_tree *json, int index, const char *kind, const char *path) {
    char text[80];
    cJSON *module = cbm_json_put(json, json->root, NULL, cJSON_CreateObject());
    cbm_json_put_int(json, module, "idx", index);
    snprintf(text, sizeof text, "%d", index);
    cbm_json_put_text(json, module, "name", text);
    cbm_json_put_text(json, module, "path", path);
    snprintf(text, sizeof text, "sentence_transformers.models.%s", kind);
    cbm_json_put_text(json, module, "type", text);
}

static scbm_status write_modules(exporting *e) {
    json_tree json;
    cbm_json_start(&json, 1);
    put_module(&json, 0, "Transformer", "");
    put_module(&json, 1, "Pooling", folders[0]);
    if (e->settings.normalize) put_module(&json, 2, "Normalize", folders[1]);
    scbm_status status = cbm_json_write(&json, path_of(e, "modules.json"), e->hooks);
    if (!status && e->settings.normalize) status = make_folder(e, folders[1]);
    return status ? status : make_folder(e, folders[0]);
}

static scbm_status write_sentence_files(exporting *e) {
    json_tree json;
    scbm_status status = write_modules(e);
    if (status) return status;
    cbm_json_start(&json, 0);
    cbm_json_put_int(&json, json.root, "word_embedding_dimension", e->settings.output);
    cbm_json_put_bool(&json, json.root, "pooling_mode_cls_token", e->settings.pooling == HF_POOLING_FIRST);
    cbm_json_put_bool(&json, json.root, "pooling_mode_mean_tokens", e->settings.pooling == HF_POOLING_MEAN);
    cbm_json_put_bool(&json, json.root, "pooling_mode_lasttoken", e->settings.pooling == HF_POOLING_LAST);
    status = cbm_json_write(&json, path_of(e, "1_Pooling/config.json"), e->hooks);
    if (status) return status;
    cbm_json_start(&json, 0);
    cbm_json_put_int(&json, json.root, "max_seq_length", e->settings.max_tokens);
    cbm_json_put_bool(&json, json.root, "do_lower_case", 0); /* the tokenizer does it */
    return cbm_json_write(&json, path_of(e, "sentence_bert_config.json"), e->hooks);
}

/* ------------------------------------------------------------------------------------------
 * The rest
 * ---------------------------------------------------------------------------------------- */

static scbm_status write_tokenizer(exporting *e) {
    cbm_tokenizer_keys keys;
    cbm_tokenizer_get_keys(e->model->tokenizer, &keys);
    scbm_status status = cbm_hf_tokenizer_export(&keys, path_of(e, "tokenizer.json"), e->hooks);
    if (status) return status;
    return cbm_hf_tokenizer_export_config(&keys, e->settings.max_tokens, path_of(e, "tokenizer_config.json"), e->hooks);
}

static scbm_status find_concept(exporting *e, const char *concept) {
    const cbm_model *model = e->model;
    char shown[CBM_SHOWN_SIZE];
    e->stream = -1;
    if (!concept) return SCBM_OK;
    if (!cbm_model_is_sparse(model))
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "%s: its concepts have no subnetworks; without one the encoder is exported",
                         scbm_file_path(model->file));
    for (int k = 0; k < cbm_model_n_concepts(model); k++)
        if (strcmp(cbm_model_concept(model, k), concept) == 0) e->stream = k;
    if (e->stream >= 0) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: there is no concept '%s'", scbm_file_path(model->file),
                     cbm_show_string(shown, concept));
}

static scbm_status write_folder(exporting *e) {
    const cbm_backbone *backbone = &e->model->network.backbone;
    scbm_status status = write_config(e);
    if (!status) status = write_tokenizer(e);
    if (!status) status = write_sentence_files(e);
    if (!status) status = cbm_hf_card_export(e->model->file, path_of(e, "README.md"), e->hooks);
    if (!status)
        status = cbm_hf_export_weights(backbone, &e->settings, e->stream, path_of(e, "model.safetensors"), e->hooks);
    if (!status && rename(e->folder, e->wanted) != 0) status = cannot(e->wanted, "written");
    return status;
}

scbm_status cbm_export(const cbm_model *model, const char *folder, const cbm_export_options *options) {
    static const cbm_export_options defaults;
    if (!options) options = &defaults;
    if (!model || !folder) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_export: the model or the folder is NULL");
    exporting *e = scbm_alloc(options->hooks, sizeof *e);
    if (!e) return SCBM_ERROR_MEMORY;
    e->model = model;
    e->hooks = options->hooks;
    scbm_status status = cbm_check_reserved(options->reserved, "cbm_export_options");
    const cbm_architecture *architecture = model->network.backbone.architecture;
    if (!status && !architecture->hf_type)
        status = scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: transformers has no %s, so there is no such folder to write",
                           scbm_file_path(model->file), architecture->title);
    if (!status) status = find_concept(e, options->concept);
    if (!status) status = find_settings(e);
    if (!status) status = start_folder(e, folder);
    if (!status) {
        status = write_folder(e);
        if (status) remove_folder(e);
        close(e->lock);
    }
    scbm_release(options->hooks, e);
    return status;
}
