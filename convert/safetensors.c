/*
 * convert/safetensors.c - reading and writing safetensors files
 */
#include "convert/safetensors.h"
#include "convert/bytes.h"
#include "convert/json-file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define MAX_HEADER ((uint64_t)16 << 20) /* an encoder's is below 1 MiB */
#define MAX_OFFSET INT64_C(9007199254740992)

struct safetensors {
    scbm_hooks hooks;
    char *path;
    scbm_bytes bytes;          /* empty when the memory is the caller's */
    const scbm_bytes *mapped;  /* what the tensors lie in; NULL: no file */
    const unsigned char *data; /* the tensors' */
    uint64_t data_bytes;
    json_file header;
    stored_tensor *tensors;
    int64_t n;
};

/* A name from the file in a message: cut, so that the reason still fits. */
#define NAME_FORMAT "%.120s"

static scbm_status damaged(const safetensors *file, const char *name, const char *why) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tensor " NAME_FORMAT ": %s", file->path, name, why);
}

/* The type's bytes times the dimensions; 0 and a message when they do not fit. */
static scbm_status read_shape(const safetensors *file, const cJSON *entry, stored_tensor *tensor, uint64_t *bytes) {
    const cJSON *shape = cbm_json_get(entry, "shape"), *item;
    *bytes = cbm_stored_size(tensor->type);
    if (!*bytes)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: tensor " NAME_FORMAT ": its type %.40s is not known",
                         file->path, tensor->name, tensor->type);
    if (!cJSON_IsArray(shape)) return damaged(file, tensor->name, "its shape is missing");
    int is_empty = 0;
    cJSON_ArrayForEach(item, shape) {
        int64_t size;
        if (!cbm_json_is_int(item, 0, MAX_OFFSET, &size))
            return damaged(file, tensor->name, "its shape has something else in it than sizes");
        if (tensor->n_dims == STORED_MAX_DIMS) return damaged(file, tensor->name, "it has too many dimensions");
        tensor->shape[tensor->n_dims++] = size;
        is_empty |= size == 0;
        if (size && *bytes > (uint64_t)MAX_OFFSET / (uint64_t)size)
            return damaged(file, tensor->name, "its shape is larger than any file");
        if (size) *bytes *= (uint64_t)size;
    }
    if (is_empty) *bytes = 0;
    cbm_stored_set_strides(tensor);
    tensor->mapped = file->mapped;
    return SCBM_OK;
}

static scbm_status read_offsets(const safetensors *file, const cJSON *entry, stored_tensor *tensor) {
    const cJSON *offsets = cbm_json_get(entry, "data_offsets");
    int64_t begin, end;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !cbm_json_is_int(cJSON_GetArrayItem(offsets, 0), 0, MAX_OFFSET, &begin) ||
        !cbm_json_is_int(cJSON_GetArrayItem(offsets, 1), 0, MAX_OFFSET, &end) || begin > end)
        return damaged(file, tensor->name, "its data_offsets are not two ascending numbers");
    if ((uint64_t)end > file->data_bytes)
        return damaged(file, tensor->name, "its data lies behind the end of the file, which is cut off or damaged");
    tensor->data = file->data + begin;
    tensor->begin = (uint64_t)begin;
    tensor->bytes = (uint64_t)(end - begin);
    return SCBM_OK;
}

static scbm_status read_tensor(const safetensors *file, const cJSON *entry, stored_tensor *tensor) {
    const cJSON *type = cbm_json_get(entry, "dtype");
    uint64_t bytes = 0;
    if (!cbm_stored_is_name(entry->string, strlen(entry->string)))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a tensor's name is empty or has control characters in it",
                         file->path);
    tensor->name = entry->string;
    if (!cJSON_IsObject(entry) || !cJSON_IsString(type)) return damaged(file, tensor->name, "its dtype is missing");
    tensor->type = type->valuestring;
    scbm_status status = read_shape(file, entry, tensor, &bytes);
    if (!status) status = read_offsets(file, entry, tensor);
    if (!status && bytes != tensor->bytes)
        status = scbm_fail(SCBM_ERROR_FORMAT,
                           "%.300s: tensor " NAME_FORMAT ": its shape needs %llu bytes, and it has %llu", file->path,
                           tensor->name, (unsigned long long)bytes, (unsigned long long)tensor->bytes);
    return status;
}

static int by_place(const void *a, const void *b) {
    const stored_tensor *first = a, *second = b;
    if (first->begin != second->begin) return first->begin < second->begin ? -1 : 1;
    if (first->bytes != second->bytes) return first->bytes < second->bytes ? -1 : 1;
    return strcmp(first->name, second->name);
}

/* The tensors lie one after the other and fill the data: none shares bytes with another, nothing is hidden between. */
static scbm_status check_places(safetensors *file) {
    uint64_t end = 0;
    qsort(file->tensors, (size_t)file->n, sizeof *file->tensors, by_place);
    for (int64_t i = 0; i < file->n; i++) {
        if (file->tensors[i].begin < end) return damaged(file, file->tensors[i].name, "its data overlaps another's");
        if (file->tensors[i].begin > end) return damaged(file, file->tensors[i].name, "there is a gap before its data");
        end += file->tensors[i].bytes;
    }
    if (end != file->data_bytes)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %llu bytes follow the last tensor", file->path,
                         (unsigned long long)(file->data_bytes - end));
    return SCBM_OK;
}

static scbm_status read_tensors(safetensors *file) {
    const cJSON *entry;
    size_t most = (size_t)cJSON_GetArraySize(file->header.root) + 1;
    file->tensors = scbm_alloc_array(&file->hooks, most, sizeof *file->tensors);
    if (!file->tensors) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    cJSON_ArrayForEach(entry, file->header.root) {
        if (strcmp(entry->string, "__metadata__") == 0) continue;
        status = read_tensor(file, entry, &file->tensors[file->n++]);
        if (status) return status;
    }
    status = check_places(file);
    const char *twice = status ? NULL : cbm_stored_sort(file->tensors, file->n);
    return twice ? damaged(file, twice, "the name is there twice") : status;
}

static scbm_status read_header(safetensors *file, const unsigned char *data, size_t size) {
    uint64_t length = size < LENGTH_BYTES ? 0 : cbm_little_endian(data, LENGTH_BYTES);
    int begins = size > LENGTH_BYTES && length <= size && data[LENGTH_BYTES] == '{';
    const char *what = begins ? NULL : scbm_bytes_recognize(data, size, 0);
    if (what) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: is not a safetensors file but %s", file->path, what);
    if (size < LENGTH_BYTES)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %zu bytes are no safetensors file", file->path, size);
    if (length > size - LENGTH_BYTES || length < 2)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%.300s: a header of %llu bytes in a file of %zu: it is cut off, or no safetensors file",
                         file->path, (unsigned long long)length, size);
    if (length > MAX_HEADER)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a header of %llu bytes; %llu at most are read", file->path,
                         (unsigned long long)length, (unsigned long long)MAX_HEADER);
    scbm_status status = cbm_json_parse(&file->header, data + LENGTH_BYTES, (size_t)length, file->path, 0,
                                        &file->hooks);
    if (status) return status;
    file->data = data + LENGTH_BYTES + length;
    file->data_bytes = size - LENGTH_BYTES - length;
    return read_tensors(file);
}

static scbm_status create(safetensors **file, const char *path, const scbm_hooks *hooks) {
    *file = scbm_alloc(hooks, sizeof **file);
    if (!*file) return SCBM_ERROR_MEMORY;
    if (hooks) (*file)->hooks = *hooks;
    (*file)->path = scbm_strdup(hooks, path);
    return (*file)->path ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static scbm_status finish(safetensors **file, scbm_status status) {
    if (!status) return SCBM_OK;
    cbm_safetensors_close(*file);
    *file = NULL;
    return status;
}

scbm_status cbm_safetensors_open(safetensors **file, const char *path, const scbm_hooks *hooks) {
    scbm_status status = create(file, path, hooks);
    if (!status) status = scbm_bytes_open(&(*file)->bytes, path, hooks);
    if (!status) (*file)->mapped = &(*file)->bytes;
    if (!status) status = read_header(*file, (*file)->bytes.data, (*file)->bytes.size);
    return finish(file, status);
}

scbm_status cbm_safetensors_open_memory(safetensors **file, const void *data, size_t size, const char *name,
                                        const scbm_hooks *hooks) {
    return cbm_safetensors_open_mapped(file, data, size, NULL, name, hooks);
}

scbm_status cbm_safetensors_open_mapped(safetensors **file, const void *data, size_t size, const scbm_bytes *mapped,
                                        const char *name, const scbm_hooks *hooks) {
    scbm_status status = create(file, name, hooks);
    if (!status) (*file)->mapped = mapped;
    if (!status) status = read_header(*file, data, size);
    return finish(file, status);
}

void cbm_safetensors_close(safetensors *file) {
    if (!file) return;
    const scbm_hooks hooks = file->hooks;
    cbm_json_close(&file->header);
    if (file->bytes.data) scbm_bytes_close(&file->bytes, &hooks);
    scbm_release(&hooks, file->tensors);
    scbm_release(&hooks, file->path);
    scbm_release(&hooks, file);
}

const char *cbm_safetensors_path(const safetensors *file) {
    return file->path;
}

int64_t cbm_safetensors_n_tensors(const safetensors *file) {
    return file->n;
}

const stored_tensor *cbm_safetensors_get(const safetensors *file, int64_t index) {
    return index >= 0 && index < file->n ? &file->tensors[index] : NULL;
}

const stored_tensor *cbm_safetensors_find(const safetensors *file, const char *name) {
    int64_t low = 0, high = file->n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(name, file->tensors[middle].name);
        if (order == 0) return &file->tensors[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

static int64_t entry_elements(const safetensors_entry *entry) {
    int64_t n = 1;
    for (int d = 0; d < entry->n_dims; d++) n *= entry->shape[d];
    return n;
}

/* "name": {"dtype": …} of an entry whose data begin at `begin`; returns the length. */
static size_t print_entry(const safetensors_entry *entry, uint64_t begin, char *text, size_t size) {
    char shape[64];
    if (entry->n_dims == 1) snprintf(shape, sizeof shape, "%lld", (long long)entry->shape[0]);
    else snprintf(shape, sizeof shape, "%lld,%lld", (long long)entry->shape[0], (long long)entry->shape[1]);
    return (size_t)snprintf(text, size, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                            entry->name, shape, (unsigned long long)begin,
                            (unsigned long long)(begin + 4 * (uint64_t)entry_elements(entry)));
}

/* The header, into `output` unless it is NULL; returns its length without what is filled up. transformers wants to know
 * that the tensors are PyTorch's. */
static size_t write_header(const safetensors_entry *entries, int n, scbm_output_file *output) {
    static const char start[] = "{\"__metadata__\":{\"format\":\"pt\"}";
    char text[sizeof entries->name + 160];
    size_t length = sizeof start - 1;
    uint64_t begin = 0;
    if (output) scbm_output_write(output, start, length);
    for (int i = 0; i < n; i++) {
        size_t written = print_entry(&entries[i], begin, text, sizeof text);
        if (output) scbm_output_write(output, text, written);
        begin += 4 * (uint64_t)entry_elements(&entries[i]);
        length += written;
    }
    if (output) scbm_output_write(output, "}", 1);
    return length + 1;
}

static void write_start(const safetensors_entry *entries, int n, scbm_output_file *output) {
    size_t length = write_header(entries, n, NULL), filled = (length + LENGTH_BYTES - 1) / LENGTH_BYTES * LENGTH_BYTES;
    unsigned char bytes[LENGTH_BYTES];
    for (int i = 0; i < LENGTH_BYTES; i++) bytes[i] = (unsigned char)((uint64_t)filled >> (8 * i));
    scbm_output_write(output, bytes, sizeof bytes);
    write_header(entries, n, output);
    scbm_output_write(output, "        ", filled - length);
}

scbm_status cbm_safetensors_write(const char *path, const safetensors_entry *entries, int n,
                                  safetensors_produce produce, void *user, const scbm_hooks *hooks) {
    scbm_output_file *output;
    scbm_status status = scbm_output_open(&output, path, hooks);
    if (status) return status;
    write_start(entries, n, output);
    for (int i = 0; i < n && !status; i++) {
        size_t count = (size_t)entry_elements(&entries[i]);
        float *data = scbm_alloc_array(hooks, count, sizeof *data);
        status = data ? produce(user, i, data) : SCBM_ERROR_MEMORY;
        if (!status) scbm_output_write(output, data, count * sizeof *data);
        scbm_release(hooks, data);
    }
    if (!status) return scbm_output_commit(output);
    scbm_output_abandon(output);
    return status;
}
