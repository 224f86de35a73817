/*
 * convert/verify.h - whether a model file holds what the folder that it was converted from holds
 */
#ifndef CONVERT_VERIFY_H
#define CONVERT_VERIFY_H

#include "sparsecbm.h"

typedef struct cbm_verification {
    int n_tensors;
    int64_t n_weights;
    int n_tokens;      /* of the text that ran through both */
    double difference; /* of its hidden states, relative to their norm */
} cbm_verification;

/* Every number of every tensor is looked up in the folder, not as cbm_convert reads it, and stored again as the file stores
 * it: one bit that differs is an error that names tensor and row, and so is a tensor too many or another setting. Then a
 * fixed text runs through the file's encoder and one of the folder's numbers in F32: hidden states differ by 1e-4 of their
 * norm at most. `result` may be NULL. The progress hook gets "tensors verified". */
scbm_status cbm_verify_conversion(const char *folder, const char *path, const scbm_hooks *hooks,
                                  cbm_verification *result);

#endif
