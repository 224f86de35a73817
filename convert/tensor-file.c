/*
 * convert/tensor-file.c - a file of tensors in whatever form
 */
#include "convert/tensor-file.h"
#include "convert/safetensors.h"
#include "convert/torch-file.h"
#include "convert/zip.h"
#include "models/base/text.h"

#include <string.h>

struct tensor_file {
    scbm_hooks hooks;
    scbm_bytes bytes; /* empty when the memory is the caller's */
    safetensors *safe;
    torch_file *torch; /* one of the two */
};

/* A safetensors file begins with a length and a JSON object, one of torch.save as a zip file or with a pickle's first
 * opcode. Where neither is to be seen, the name tells which of them is damaged. */
static int is_torch(const unsigned char *data, size_t size, const char *name) {
    enum { PICKLE = 0x80, JSON_AT = 8 };
    if (cbm_zip_is(data, size)) return 1;
    if (size > JSON_AT && data[JSON_AT] == '{') return 0;
    return (size && data[0] == PICKLE) || cbm_has_suffix(name, ".bin") || cbm_has_suffix(name, ".pt") ||
           cbm_has_suffix(name, ".pth");
}

static scbm_status open_bytes(tensor_file *file, const void *data, size_t size, const char *name) {
    const scbm_bytes *mapped = file->bytes.size ? &file->bytes : NULL;
    return is_torch(data, size, name)
               ? cbm_torch_open_memory(&file->torch, data, size, mapped, name, &file->hooks)
               : cbm_safetensors_open_mapped(&file->safe, data, size, mapped, name, &file->hooks);
}

static scbm_status create(tensor_file **file, const scbm_hooks *hooks) {
    *file = scbm_alloc(hooks, sizeof **file);
    if (!*file) return SCBM_ERROR_MEMORY;
    if (hooks) (*file)->hooks = *hooks;
    return SCBM_OK;
}

static scbm_status finish(tensor_file **file, scbm_status status) {
    if (!status) return SCBM_OK;
    cbm_tensor_file_close(*file);
    *file = NULL;
    return status;
}

scbm_status cbm_tensor_file_open(tensor_file **file, const char *path, const scbm_hooks *hooks) {
    scbm_status status = create(file, hooks);
    if (!status) status = scbm_bytes_open(&(*file)->bytes, path, hooks);
    if (!status) status = open_bytes(*file, (*file)->bytes.data, (*file)->bytes.size, path);
    return finish(file, status);
}

scbm_status cbm_tensor_file_open_memory(tensor_file **file, const void *data, size_t size, const char *name,
                                        const scbm_hooks *hooks) {
    scbm_status status = create(file, hooks);
    if (!status) status = open_bytes(*file, data, size, name);
    return finish(file, status);
}

void cbm_tensor_file_close(tensor_file *file) {
    if (!file) return;
    const scbm_hooks hooks = file->hooks;
    cbm_safetensors_close(file->safe);
    cbm_torch_close(file->torch);
    if (file->bytes.data) scbm_bytes_close(&file->bytes, &hooks);
    scbm_release(&hooks, file);
}

const char *cbm_tensor_file_path(const tensor_file *file) {
    return file->safe ? cbm_safetensors_path(file->safe) : cbm_torch_path(file->torch);
}

int64_t cbm_tensor_file_n(const tensor_file *file) {
    return file->safe ? cbm_safetensors_n_tensors(file->safe) : cbm_torch_n_tensors(file->torch);
}

const stored_tensor *cbm_tensor_file_get(const tensor_file *file, int64_t index) {
    return file->safe ? cbm_safetensors_get(file->safe, index) : cbm_torch_get(file->torch, index);
}

const stored_tensor *cbm_tensor_file_find(const tensor_file *file, const char *name) {
    int64_t low = 0, high = cbm_tensor_file_n(file);
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const stored_tensor *tensor = cbm_tensor_file_get(file, middle);
        int order = strcmp(name, tensor->name);
        if (order == 0) return tensor;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}
