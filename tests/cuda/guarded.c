/*
 * tests/cuda/guarded.c - linked with the hosted CUDA backend in place of register.c: behind every result, up to its capacity's end
 * and 256 bytes further, lie bytes that no kernel may change. (What is read from there is no number.)
 */
#include "sparsecbm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RED_ZONE = 256, POISON = 0xff, LONGEST = 1 << 20 };

extern const scbm_backend_entry scbm_cuda_entry;

static scbm_backend_functions functions;
static const scbm_backend_functions *cuda;
static scbm_kernel kernels[SCBM_OP_COUNT];
static unsigned char poison[LONGEST];

typedef struct zone {
    struct zone *next;
    scbm_queue *queue;
    scbm_op op;
    size_t n;
    unsigned char bytes[];
} zone;

static zone *zones; /* that the next wait of their queues has to look at */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t view_bytes(const scbm_view *view) {
    const scbm_type_info *info = scbm_type_of(view->type);
    int64_t n = 1;
    for (int i = 0; i < view->n_dims; i++) n *= view->shape[i];
    return (size_t)(n / info->block) * (size_t)info->block_bytes;
}

static size_t tail_of(const scbm_view *result) {
    size_t capacity = scbm_tensor_bytes(result->tensor);
    size_t n = capacity ? capacity - view_bytes(result) + RED_ZONE : 0;
    return n < LONGEST ? n : LONGEST;
}

/* Brings what is behind a result back after the kernel. */
static scbm_status watch(scbm_queue *queue, const scbm_kernel_call *call, const scbm_view *result) {
    size_t n = tail_of(result);
    zone *z = malloc(sizeof *z + n);
    if (!z) return scbm_fail(SCBM_ERROR_MEMORY, "guarded: out of memory");
    z->queue = queue;
    z->op = call->node->op;
    z->n = n;
    pthread_mutex_lock(&lock);
    z->next = zones;
    zones = z;
    pthread_mutex_unlock(&lock);
    return cuda->download(queue, z->bytes, (const char *)result->data + view_bytes(result), n);
}

static scbm_status guarded_run(scbm_queue *queue, const scbm_kernel_call *call) {
    scbm_status status = SCBM_OK;
    for (int r = 0; r < call->node->n_results && !status; r++)
        status = cuda->upload(queue, (char *)call->result[r].data + view_bytes(&call->result[r]), poison,
                              tail_of(&call->result[r]));
    if (!status) status = cuda->kernels[call->node->op].run(queue, call);
    for (int r = 0; r < call->node->n_results && !status; r++) status = watch(queue, call, &call->result[r]);
    return status;
}

static scbm_status guarded_wait(scbm_queue *queue) {
    scbm_status status = cuda->wait(queue);
    pthread_mutex_lock(&lock);
    for (zone **place = &zones; *place;) {
        zone *z = *place;
        if (z->queue != queue) {
            place = &z->next;
            continue;
        }
        *place = z->next;
        if (!status && memcmp(z->bytes, poison, z->n))
            status = scbm_fail(SCBM_ERROR_ARGUMENT, "guarded: %s has written behind its result",
                               scbm_op_of(z->op)->name);
        free(z);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static scbm_status guarded_open(scbm_backend **backend, const char *device, const scbm_backend_options *options) {
    scbm_status status = scbm_cuda_entry.open(backend, device, options);
    if (status) return status;
    cuda = (*backend)->functions;
    functions = *cuda;
    for (int op = 0; op < SCBM_OP_COUNT; op++) {
        kernels[op] = cuda->kernels[op];
        if (kernels[op].run) kernels[op].run = guarded_run;
    }
    functions.kernels = kernels;
    functions.padding = RED_ZONE;
    functions.wait = guarded_wait;
    (*backend)->functions = &functions;
    return SCBM_OK;
}

static scbm_backend_entry entry;

__attribute__((constructor)) static void register_cuda(void) {
    memset(poison, POISON, sizeof poison);
    entry = scbm_cuda_entry;
    entry.open = guarded_open;
    if (scbm_backend_register(&entry)) abort();
}
