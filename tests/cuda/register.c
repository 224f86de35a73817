/*
 * tests/cuda/register.c - linked with the hosted CUDA backend: "cuda" is known from the program's start
 */
#include "sparsecbm.h"

#include <stdlib.h>

extern const scbm_backend_entry scbm_cuda_entry;

__attribute__((constructor)) static void register_cuda(void) {
    if (scbm_backend_register(&scbm_cuda_entry)) abort();
}
