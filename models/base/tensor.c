/*
 * models/base/tensor.c - tensors with memory of their own
 */
#include "models/base/tensor.h"

scbm_status cbm_tensor_create(scbm_tensor *tensor, const char *name, scbm_type type, int n_dims, const int64_t *shape,
                              const scbm_hooks *hooks) {
    scbm_status status = scbm_tensor_init(tensor, name, type, n_dims, shape);
    if (status) return status;
    tensor->data = scbm_alloc(hooks, scbm_tensor_bytes(tensor));
    return tensor->data ? SCBM_OK : SCBM_ERROR_MEMORY;
}

void cbm_tensor_release(scbm_tensor *tensor, const scbm_hooks *hooks) {
    scbm_tensor_forget(tensor);
    scbm_release(hooks, tensor->data);
    tensor->data = NULL;
}
