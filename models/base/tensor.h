/*
 * models/base/tensor.h - tensors with memory of their own
 */
#ifndef CBM_BASE_TENSOR_H
#define CBM_BASE_TENSOR_H

#include "sparsecbm.h"

/* As scbm_tensor_init, with memory of zeros; released with cbm_tensor_release, after a failure too. */
scbm_status cbm_tensor_create(scbm_tensor *tensor, const char *name, scbm_type type, int n_dims, const int64_t *shape,
                              const scbm_hooks *hooks);
/* Devices forget the tensor before its memory goes. Of one that is all zeros there is nothing to release. */
void cbm_tensor_release(scbm_tensor *tensor, const scbm_hooks *hooks);

#endif
