/*
 * convert/hf-files.c - the files of a Hugging Face folder that have its weights
 */
#include "convert/hf-files.h"

#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define MAX_FILES 1024
#define NAME_FORMAT "%.120s" /* of a name from a file */

/* ------------------------------------------------------------------------------------------
 * model.safetensors.index.json, pytorch_model.bin.index.json
 * ---------------------------------------------------------------------------------------- */

static int has_file(const hf_index *index, const char *name) {
    for (int i = 0; i < index->n_files; i++)
        if (strcmp(index->files[i], name) == 0) return 1;
    return 0;
}

static scbm_status list_files(hf_index *index, const scbm_hooks *hooks) {
    const cJSON *item;
    index->files = scbm_alloc_array(hooks, MAX_FILES, sizeof *index->files);
    if (!index->files) return SCBM_ERROR_MEMORY;
    cJSON_ArrayForEach(item, index->map) {
        const char *name = item->valuestring;
        if (!cJSON_IsString(item) || !name[0] || name[0] == '.' || strchr(name, '/'))
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: weight_map: tensor " NAME_FORMAT " must have the name of a file",
                             index->json.path, item->string);
        if (has_file(index, name)) continue;
        if (index->n_files == MAX_FILES)
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: weight_map names more than %d files", index->json.path,
                             MAX_FILES);
        index->files[index->n_files++] = name;
    }
    if (!index->n_files) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: weight_map is empty", index->json.path);
    return SCBM_OK;
}

scbm_status cbm_hf_index_parse(hf_index *index, const void *data, size_t size, const char *name,
                               const scbm_hooks *hooks) {
    memset(index, 0, sizeof *index);
    scbm_status status = cbm_json_parse(&index->json, data, size, name, 0, hooks);
    if (status) return status;
    status = cbm_json_object_or_null(&index->json, index->json.root, "weight_map", &index->map);
    if (!status && !index->map)
        status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: weight_map is missing", index->json.path);
    if (!status) status = list_files(index, hooks);
    if (status) cbm_hf_index_clear(index);
    return status;
}

void cbm_hf_index_clear(hf_index *index) {
    scbm_release(&index->json.hooks, (void *)index->files);
    cbm_json_close(&index->json);
    index->files = NULL;
    index->n_files = 0;
}

static int file_number(const hf_index *index, const char *name) {
    int i = 0;
    while (strcmp(index->files[i], name) != 0) i++;
    return i;
}

/* Every tensor is where the index says. */
static scbm_status check_index(const hf_index *index, const hf_files *files) {
    const cJSON *item;
    cJSON_ArrayForEach(item, index->map) {
        const tensor_file *file = files->file[file_number(index, item->valuestring)];
        if (!cbm_tensor_file_find(file, item->string))
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: tensor " NAME_FORMAT " is missing, which the index says is there",
                             cbm_tensor_file_path(file), item->string);
    }
    return SCBM_OK;
}

static scbm_status open_shards(hf_files *files, const char *folder, const hf_index *index) {
    scbm_status status = SCBM_OK;
    files->file = scbm_alloc_array(&files->hooks, (size_t)index->n_files, sizeof(tensor_file *));
    if (!files->file) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < index->n_files && !status; i++) {
        char *path = cbm_json_join(&files->hooks, folder, index->files[i]);
        status = path ? cbm_tensor_file_open(&files->file[i], path, &files->hooks) : SCBM_ERROR_MEMORY;
        if (!status) files->n++;
        scbm_release(&files->hooks, path);
    }
    return status ? status : check_index(index, files);
}

static scbm_status open_index(hf_files *files, const char *folder, const char *path) {
    scbm_bytes bytes;
    hf_index index;
    scbm_status status = scbm_bytes_open(&bytes, path, &files->hooks);
    if (status) return status;
    status = cbm_hf_index_parse(&index, bytes.data, bytes.size, path, &files->hooks);
    scbm_bytes_close(&bytes, &files->hooks);
    if (status) return status;
    status = open_shards(files, folder, &index);
    cbm_hf_index_clear(&index);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Opening
 * ---------------------------------------------------------------------------------------- */

static scbm_status open_one(hf_files *files, const char *path) {
    files->file = scbm_alloc_array(&files->hooks, 1, sizeof(tensor_file *));
    if (!files->file) return SCBM_ERROR_MEMORY;
    scbm_status status = cbm_tensor_file_open(&files->file[0], path, &files->hooks);
    if (!status) files->n = 1;
    return status;
}

/* Files that hold weights, in the order in which transformers looks for them. */
static const struct weights_file {
    const char *name;
    enum { ONE_FILE, INDEX, OTHER_FORM } kind;
} weights_files[] = {
    {"model.safetensors", ONE_FILE}, {"model.safetensors.index.json", INDEX},
    {"pytorch_model.bin", ONE_FILE}, {"pytorch_model.bin.index.json", INDEX},
    {"tf_model.h5", OTHER_FORM},     {"flax_model.msgpack", OTHER_FORM},
};

static scbm_status open_weights(hf_files *files, const char *folder, const struct weights_file *found,
                                const char *path) {
    if (found->kind == ONE_FILE) return open_one(files, path);
    if (found->kind == INDEX) return open_index(files, folder, path);
    return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                     "%.300s: the weights are in %s; save them as safetensors first (with transformers: "
                     "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER))",
                     folder, found->name);
}

/* peft's weights beside those of a model, which transformers would add to them. */
static scbm_status note_adapter(const hf_files *files, const char *folder) {
    char *path = cbm_json_join(&files->hooks, folder, "adapter_config.json");
    if (!path) return SCBM_ERROR_MEMORY;
    if (cbm_json_file_exists(path))
        scbm_log(
            &files->hooks, SCBM_LOG_WARNING,
            "%.300s: the adapter is not used: the weights are the model's without it (peft's merge_and_unload adds it to "
            "them)",
            path);
    scbm_release(&files->hooks, path);
    return SCBM_OK;
}

static scbm_status open_files(hf_files *files, const char *folder) {
    for (int i = 0; i < COUNT_OF(weights_files); i++) {
        char *path = cbm_json_join(&files->hooks, folder, weights_files[i].name);
        if (!path) return SCBM_ERROR_MEMORY;
        int exists = cbm_json_file_exists(path);
        scbm_status status = exists ? open_weights(files, folder, &weights_files[i], path) : SCBM_OK;
        scbm_release(&files->hooks, path);
        if (exists) return status ? status : note_adapter(files, folder);
    }
    return scbm_fail(
        SCBM_ERROR_IO,
        "%.300s: it has no weights: neither model.safetensors nor pytorch_model.bin, nor the index of either", folder);
}

scbm_status cbm_hf_files_open(hf_files *files, const char *folder, const scbm_hooks *hooks) {
    memset(files, 0, sizeof *files);
    if (hooks) files->hooks = *hooks;
    scbm_status status = open_files(files, folder);
    if (status) cbm_hf_files_close(files);
    return status;
}

scbm_status cbm_hf_files_from_one(hf_files *files, tensor_file *file, const scbm_hooks *hooks) {
    memset(files, 0, sizeof *files);
    if (hooks) files->hooks = *hooks;
    files->file = scbm_alloc_array(hooks, 1, sizeof *files->file);
    if (!files->file) {
        cbm_tensor_file_close(file);
        return SCBM_ERROR_MEMORY;
    }
    files->file[files->n++] = file;
    return SCBM_OK;
}

void cbm_hf_files_close(hf_files *files) {
    for (int i = 0; i < files->n; i++) cbm_tensor_file_close(files->file[i]);
    scbm_release(&files->hooks, (void *)files->file);
    files->file = NULL;
    files->n = 0;
}
