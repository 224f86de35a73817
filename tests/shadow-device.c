/*
 * tests/shadow-device.c - see shadow-device.h: the memory, the queue, the kernels, the tables
 */
#define _DEFAULT_SOURCE

#include "tests/shadow-device.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

shadow_counts shadow_count;
int64_t shadow_fails_at;
static int64_t pending;
static unsigned char lacks[SCBM_OP_COUNT];

/* ------------------------------------------------------------------------------------------
 * Memory: blocks of an arena that is closed as a whole. What is behind a block, up to the page's end, is watched.
 * ---------------------------------------------------------------------------------------- */

enum { PAGE = 4096, POISON = 0xff, RED_ZONE = 256 };
#define ARENA ((size_t)1 << 36) /* of addresses */

typedef struct block {
    struct block *next; /* at a higher address */
    unsigned char *pages;
    size_t bytes, room; /* asked for, and whole pages */
} block;

static unsigned char *arena;
static size_t arena_end; /* of what was ever used */
static block *blocks;
static int n_open; /* queues that work */
static atomic_flag lock = ATOMIC_FLAG_INIT;

static void take(void) {
    while (atomic_flag_test_and_set(&lock)) sched_yield();
}

static void leave(void) {
    atomic_flag_clear(&lock);
}

static void protect(int is_open) {
    if (arena_end) mprotect(arena, arena_end, is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* Opens the memory for a queue that works, and closes it when none does. */
static void enter_device(void) {
    take();
    if (n_open++ == 0) protect(1);
    leave();
}

static void leave_device(void) {
    take();
    if (--n_open == 0) protect(0);
    leave();
}

/* The first place between blocks that is large enough. */
static int place_block(block *b) {
    if (!arena) {
        arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED) arena = NULL;
    }
    if (!arena) return 0;
    unsigned char *at = arena;
    block **place = &blocks;
    for (; *place && (size_t)((*place)->pages - at) < b->room; place = &(*place)->next)
        at = (*place)->pages + (*place)->room;
    if (!*place && ARENA - (size_t)(at - arena) < b->room) return 0;
    b->pages = at;
    b->next = *place;
    *place = b;
    if ((size_t)(at - arena) + b->room > arena_end) arena_end = (size_t)(at - arena) + b->room;
    return 1;
}

static void *shadow_allocate(scbm_backend *backend, size_t bytes) {
    (void)backend;
    block *b = malloc(sizeof *b);
    if (!b) return NULL;
    b->bytes = bytes;
    b->room = (bytes + RED_ZONE + PAGE - 1) / PAGE * PAGE;
    take();
    int is_placed = place_block(b);
    if (is_placed) {
        protect(1);
        memset(b->pages, POISON, b->room);
        if (!n_open) protect(0);
        shadow_count.allocations++;
    }
    leave();
    if (is_placed) return b->pages;
    free(b);
    return NULL;
}

static void shadow_deallocate(scbm_backend *backend, void *memory) {
    (void)backend;
    take();
    block **place = &blocks;
    while (*place && (*place)->pages != memory) place = &(*place)->next;
    block *b = *place;
    if (!b) abort(); /* not the device's, or given back twice */
    *place = b->next;
    madvise(b->pages, b->room, MADV_DONTNEED);
    leave();
    free(b);
}

int64_t shadow_blocks(void) {
    int64_t n = 0;
    take();
    for (block *b = blocks; b; b = b->next) n++;
    leave();
    return n;
}

/* The bytes from `memory` to the end of its block, the zone behind it included; 0: it is no device memory of this size. */
static size_t room_behind(const void *memory, size_t bytes) {
    const unsigned char *at = memory;
    size_t room = 0;
    take();
    for (block *b = blocks; b && !room; b = b->next)
        if (at >= b->pages && at < b->pages + b->room && (size_t)(b->pages + b->bytes - at) >= bytes)
            room = (size_t)(b->pages + b->room - at);
    leave();
    return room;
}

/* ------------------------------------------------------------------------------------------
 * The queue
 * ---------------------------------------------------------------------------------------- */

typedef enum work_kind { UPLOAD, DOWNLOAD, KERNEL } work_kind;

typedef struct work {
    work_kind kind;
    void *to;
    const void *from;
    size_t bytes;
    scbm_kernel_call call;
} work;

typedef struct shadow_queue {
    scbm_queue public;
    scbm_queue *cpu; /* where the kernels run */
    work *list;
    size_t n, capacity;
} shadow_queue;

static scbm_status add_work(shadow_queue *q, const work *what) {
    if (q->n == q->capacity) {
        size_t capacity = 2 * q->capacity + 64;
        work *list = realloc(q->list, capacity * sizeof *list);
        if (!list) return scbm_fail(SCBM_ERROR_MEMORY, "shadow: out of memory for its queue");
        q->list = list;
        q->capacity = capacity;
    }
    q->list[q->n++] = *what;
    take();
    pending++;
    leave();
    return SCBM_OK;
}

int64_t shadow_pending(void) {
    return pending;
}

static scbm_status shadow_upload(scbm_queue *queue, void *device, const void *host, size_t bytes) {
    if (!room_behind(device, bytes))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "shadow: an upload to memory that is not the device's");
    shadow_count.uploads++;
    shadow_count.bytes_up += (int64_t)bytes;
    return add_work((shadow_queue *)queue, &(work){.kind = UPLOAD, .to = device, .from = host, .bytes = bytes});
}

static scbm_status shadow_download(scbm_queue *queue, void *host, const void *device, size_t bytes) {
    if (!room_behind(device, bytes))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "shadow: a download of memory that is not the device's");
    shadow_count.downloads++;
    shadow_count.bytes_down += (int64_t)bytes;
    return add_work((shadow_queue *)queue, &(work){.kind = DOWNLOAD, .to = host, .from = device, .bytes = bytes});
}

/* ------------------------------------------------------------------------------------------
 * Kernels: the CPU's, watched
 * ---------------------------------------------------------------------------------------- */

static size_t view_bytes(const scbm_view *view) {
    const scbm_type_info *info = scbm_type_of(view->type);
    int64_t n = 1;
    for (int i = 0; i < view->n_dims; i++) n *= view->shape[i];
    return (size_t)(n / info->block) * (size_t)info->block_bytes;
}

static int overlap(const scbm_view *a, const scbm_view *b) {
    const unsigned char *x = a->data, *y = b->data;
    return x && y && x < y + view_bytes(b) && y < x + view_bytes(a);
}

/* What lies behind a result in its place: to the capacity's end, and the zone that the plan leaves. */
static size_t tail_bytes(const scbm_view *result) {
    size_t capacity = scbm_tensor_bytes(result->tensor);
    return capacity ? capacity - view_bytes(result) + RED_ZONE : 0; /* nothing has no place */
}

static int is_poison(const unsigned char *bytes, size_t n) {
    return !n || (bytes[0] == POISON && !memcmp(bytes, bytes + 1, n - 1));
}

static scbm_status broke(const scbm_kernel_call *call, const char *what) {
    return scbm_fail(SCBM_ERROR_ARGUMENT, "shadow: %s %s", scbm_op_of(call->node->op)->name, what);
}

/* Sources and results are the device's. Results are no numbers yet, but for one that stands in its source's place. */
static scbm_status begin_kernel(const scbm_kernel_call *call, unsigned char before[SCBM_MAX_RESULTS][RED_ZONE]) {
    for (int i = 0; i < call->node->n_sources; i++)
        if (call->node->source[i] && !room_behind(call->source[i].data, view_bytes(&call->source[i])))
            return broke(call, "reads memory that is not the device's");
    for (int r = 0; r < call->node->n_results; r++) {
        const scbm_view *result = &call->result[r];
        size_t bytes = view_bytes(result), tail = tail_bytes(result);
        if (room_behind(result->data, bytes) < bytes + tail)
            return broke(call, "writes memory that is not the device's");
        int is_in_place = 0;
        for (int i = 0; i < call->node->n_sources; i++) is_in_place |= overlap(result, &call->source[i]);
        if (!is_in_place) memset(result->data, POISON, bytes);
        memset((unsigned char *)result->data + bytes, POISON, tail);
    }
    for (int r = 0; r < call->node->n_results; r++)
        if (room_behind((unsigned char *)call->result[r].data - RED_ZONE, RED_ZONE))
            memcpy(before[r], (unsigned char *)call->result[r].data - RED_ZONE, RED_ZONE);
    return SCBM_OK;
}

/* What surrounds the results is as it was, unless it is another result. */
static scbm_status end_kernel(const scbm_kernel_call *call, unsigned char before[SCBM_MAX_RESULTS][RED_ZONE]) {
    for (int r = 0; r < call->node->n_results; r++) {
        const scbm_view *result = &call->result[r];
        size_t bytes = view_bytes(result);
        if (!is_poison((unsigned char *)result->data + bytes, tail_bytes(result)))
            return broke(call, "has written behind its result");
        const unsigned char *zone = (const unsigned char *)result->data - RED_ZONE;
        if (room_behind(zone, RED_ZONE) && memcmp(before[r], zone, RED_ZONE))
            return broke(call, "has written before its result");
    }
    return SCBM_OK;
}

static scbm_status run_kernel(shadow_queue *q, scbm_kernel_call *call) {
    static _Thread_local unsigned char before[SCBM_MAX_RESULTS][RED_ZONE];
    const scbm_kernel *kernel = &q->cpu->backend->functions->kernels[call->node->op];
    size_t scratch = kernel->scratch ? kernel->scratch(q->cpu, call) : 0;
    scbm_status status = begin_kernel(call, before);
    if (status) return status;
    size_t room = room_behind(call->scratch, scratch);
    if (room < scratch + RED_ZONE) return broke(call, "has too little scratch");
    memset(call->scratch, POISON, scratch + RED_ZONE);
    status = kernel->run(q->cpu, call);
    if (status) return status;
    if (!is_poison((unsigned char *)call->scratch + scratch, RED_ZONE))
        return broke(call, "has written behind its scratch");
    return end_kernel(call, before);
}

static scbm_status do_work(shadow_queue *q, work *w) {
    if (w->kind == KERNEL) return run_kernel(q, &w->call);
    memcpy(w->to, w->from, w->bytes);
    return SCBM_OK;
}

/* After a failure the rest of the queue is dropped. */
static scbm_status shadow_wait(scbm_queue *queue) {
    shadow_queue *q = (shadow_queue *)queue;
    scbm_status status = SCBM_OK;
    shadow_count.waits++;
    enter_device();
    for (size_t i = 0; i < q->n && !status; i++) status = do_work(q, &q->list[i]);
    leave_device();
    take();
    pending -= (int64_t)q->n;
    leave();
    q->n = 0;
    return status;
}

static scbm_status shadow_run(scbm_queue *queue, const scbm_kernel_call *call) {
    if (++shadow_count.kernels == shadow_fails_at) return scbm_fail(SCBM_ERROR_NUMERIC, "the device is out of order");
    return add_work((shadow_queue *)queue, &(work){.kind = KERNEL, .call = *call});
}

static size_t shadow_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    scbm_queue *cpu = ((shadow_queue *)queue)->cpu;
    const scbm_kernel *kernel = &cpu->backend->functions->kernels[call->node->op];
    return kernel->scratch ? kernel->scratch(cpu, call) : 0;
}

/* ------------------------------------------------------------------------------------------
 * The tables
 * ---------------------------------------------------------------------------------------- */

typedef struct shadow_device {
    scbm_backend public;
    scbm_backend *cpu;
    char device[64];
} shadow_device;

static scbm_kernel kernels[SCBM_OP_COUNT];

static int shadow_supports(scbm_backend *backend, const scbm_node *node, scbm_precision precision) {
    const scbm_backend_functions *cpu = ((shadow_device *)backend)->cpu->functions;
    const scbm_kernel *kernel = &cpu->kernels[node->op];
    if (!kernel->run) return 0;
    return !kernel->supports || kernel->supports(((shadow_device *)backend)->cpu, node, precision);
}

void shadow_set_lacking(scbm_op op, int is_lacking) {
    lacks[op] = is_lacking != 0;
    kernels[op].run = lacks[op] ? NULL : shadow_run;
}

static int shadow_has_precision(scbm_backend *backend, scbm_precision precision) {
    scbm_backend *cpu = ((shadow_device *)backend)->cpu;
    return cpu->functions->has_precision(cpu, precision);
}

static const char *shadow_name(scbm_backend *backend) {
    return ((shadow_device *)backend)->device;
}

static void shadow_free(scbm_backend *backend) {
    scbm_backend_close(((shadow_device *)backend)->cpu);
    free(backend);
}

static scbm_status shadow_queue_create(scbm_backend *backend, scbm_context *context, scbm_queue **queue) {
    scbm_backend *cpu = ((shadow_device *)backend)->cpu;
    shadow_queue *q = calloc(1, sizeof *q);
    if (!q) return scbm_fail(SCBM_ERROR_MEMORY, "shadow: out of memory for a queue");
    scbm_status status = cpu->functions->queue_create(cpu, context, &q->cpu);
    if (status) {
        free(q);
        return status;
    }
    q->cpu->backend = cpu;
    q->cpu->context = context;
    *queue = &q->public;
    return SCBM_OK;
}

static void shadow_queue_free(scbm_queue *queue) {
    shadow_queue *q = (shadow_queue *)queue;
    if (q->n) abort(); /* somebody has left without waiting */
    q->cpu->backend->functions->queue_free(q->cpu);
    free(q->list);
    free(q);
}

static const scbm_backend_functions functions = {
    .version = SCBM_BACKEND_VERSION,
    .name = "shadow",
    .n_kernels = SCBM_OP_COUNT,
    .kernels = kernels,
    .padding = RED_ZONE,
    .free = shadow_free,
    .device = shadow_name,
    .queue_create = shadow_queue_create,
    .queue_free = shadow_queue_free,
    .allocate = shadow_allocate,
    .deallocate = shadow_deallocate,
    .upload = shadow_upload,
    .download = shadow_download,
    .wait = shadow_wait,
    .has_precision = shadow_has_precision,
};

static int shadow_devices(void) {
    return 1;
}

static void shadow_describe(int device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "shadow (tests)");
}

static scbm_status shadow_open(scbm_backend **backend, const char *tier, const scbm_backend_options *options) {
    char cpu[32] = "cpu";
    *backend = NULL;
    shadow_device *d = calloc(1, sizeof *d);
    if (!d) return scbm_fail(SCBM_ERROR_MEMORY, "shadow: out of memory");
    if (tier) snprintf(cpu, sizeof cpu, "cpu:%.20s", tier);
    scbm_status status = scbm_backend_open(&d->cpu, cpu, options);
    if (status) {
        free(d);
        return status;
    }
    for (int op = 0; op < SCBM_OP_COUNT; op++)
        kernels[op] = (scbm_kernel){lacks[op] ? NULL : shadow_run, shadow_scratch, shadow_supports};
    snprintf(d->device, sizeof d->device, "shadow of %s", d->cpu->functions->device(d->cpu));
    d->public.functions = &functions;
    *backend = &d->public;
    return SCBM_OK;
}

static const scbm_backend_entry entry = {SCBM_BACKEND_VERSION, "shadow", shadow_devices, shadow_describe, shadow_open};

#ifdef SCBM_PLUGIN
SCBM_PLUGIN_MAIN(&entry)
#else
scbm_status shadow_register(void) {
    static int is_registered;
    if (is_registered) return SCBM_OK;
    is_registered = 1;
    return scbm_backend_register(&entry);
}
#endif
