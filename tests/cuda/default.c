/*
 * tests/cuda/default.c - linked with --wrap=scbm_context_create: contexts whose backend was left to the default are made on the
 * CUDA backend: the hosted one where it is linked, else the plug-in's
 */
#include "sparsecbm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

scbm_status __real_scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend);
scbm_status __wrap_scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend);

int64_t shim_blocks(void) __attribute__((weak)); /* of the hosted one alone */

static scbm_backend *cuda;

/* Whoever's tensors went has said so, and the backend gives back all memory. */
static void close_cuda(void) {
    size_t copied = scbm_backend_copied(cuda);
    scbm_backend_close(cuda);
    long long blocks = shim_blocks ? (long long)shim_blocks() : 0;
    if (!copied && !blocks) return;
    fprintf(stderr, "cuda: %zu bytes of tensors were not forgotten, %lld blocks are still held\n", copied, blocks);
    _Exit(1);
}

static void open_cuda(void) {
    if (scbm_backend_open(&cuda, "cuda", NULL)) {
        fprintf(stderr, "%s\n", scbm_last_error());
        _Exit(1);
    }
    atexit(close_cuda);
}

scbm_status __wrap_scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_cuda);
    return __real_scbm_context_create(context, hooks, backend ? backend : cuda);
}
