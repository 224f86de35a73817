/*
 * tests/cuda/shim.cc - see cuda_runtime.h: fibers, barriers, streams, memory
 */
#include "tests/cuda/shim.h"

#include <cuda_runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <deque>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SHIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHIM_ASAN 1
#endif
#endif
#ifdef SHIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

shim_counts shim_count;
const char *shim_launched[SHIM_NAMES];
int64_t shim_fails_at;
int shim_launch_fails_at;
int shim_devices = 1, shim_driver_version = 13000, shim_capability = 90;

static void __attribute__((noreturn)) undefined(const char *kernel, const char *what) {
    fprintf(stderr, "CUDA shim: %s: %s\n", kernel, what);
    abort();
}

/* ------------------------------------------------------------------------------------------
 * Fibers. One that has run a thread to its end takes the next one, so that kernels without barriers need one fiber.
 * ---------------------------------------------------------------------------------------- */

#ifdef SHIM_ASAN
enum { STACK = 512 << 10 };
#else
enum { STACK = 128 << 10 };
#endif
enum { MAX_THREADS = 1024, WARPS = MAX_THREADS / 32, EXCHANGE = 64 };

struct fiber {
    unsigned char *stack;
    int thread; /* that it runs; -1: none */
#ifdef __x86_64__
    void *place;
#else
    ucontext_t place;
#endif
    void *fake;
};

/* Saves what a call keeps on this stack, and goes on with another. */
#ifdef __x86_64__
extern "C" void shim_switch(void **from, void *to);
asm(".text\n.globl shim_switch\n.type shim_switch, @function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size shim_switch, . - shim_switch\n");
static void *scheduler_place;
#else
static ucontext_t scheduler_place;
#endif

enum thread_state { NOT_BEGUN, READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

struct warp_state {
    unsigned arrived, wanted;
    int turn[32]; /* which of the two buffers a lane uses next */
    alignas(16) unsigned char brought[2][32][EXCHANGE];
};

static struct {
    const char *name;
    const std::function<void()> *body;
    int n_threads, n_live, n_at_barrier, next; /* `next` in the order of beginning */
    int order[MAX_THREADS];
    unsigned char state[MAX_THREADS];
    fiber *of[MAX_THREADS];
    warp_state warp[WARPS];
    unsigned char *shared;
    size_t shared_bytes;
    int running; /* the thread */
    uint64_t random;
    const void *main_stack;
    size_t main_stack_bytes;
} block;

static std::vector<fiber *> free_fibers;
static fiber *current_fiber;

static void to_scheduler(fiber *f) {
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(&f->fake, block.main_stack, block.main_stack_bytes);
#endif
#ifdef __x86_64__
    shim_switch(&f->place, scheduler_place);
#else
    swapcontext(&f->place, &scheduler_place);
#endif
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(f->fake, &block.main_stack, &block.main_stack_bytes);
#endif
}

static void to_fiber(fiber *f) {
    current_fiber = f;
#ifdef SHIM_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, f->stack, STACK);
#endif
#ifdef __x86_64__
    shim_switch(&scheduler_place, f->place);
#else
    swapcontext(&scheduler_place, &f->place);
#endif
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

static void set_thread(int t) {
    block.running = t;
    threadIdx.x = (unsigned)t % blockDim.x;
    threadIdx.y = (unsigned)t / blockDim.x % blockDim.y;
    threadIdx.z = (unsigned)t / (blockDim.x * blockDim.y);
}

static void run_thread(fiber *f, int t) {
    f->thread = t;
    block.of[t] = f;
    block.state[t] = READY;
    set_thread(t);
    (*block.body)();
    block.state[t] = DONE;
    block.n_live--;
}

static void fiber_main() {
    fiber *f = current_fiber;
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, &block.main_stack, &block.main_stack_bytes);
#endif
    for (;;) {
        while (block.next < block.n_threads) {
            int t = block.order[block.next++];
            run_thread(f, t);
        }
        f->thread = -1;
        free_fibers.push_back(f);
        to_scheduler(f);
    }
}

static fiber *new_fiber() {
    if (!free_fibers.empty()) {
        fiber *f = free_fibers.back();
        free_fibers.pop_back();
        return f;
    }
    fiber *f = new fiber();
    f->stack = (unsigned char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                     -1, 0);
    if (f->stack == MAP_FAILED) undefined(block.name, "no memory for a fiber");
#ifdef __x86_64__
    void **top = (void **)(f->stack + STACK - 64);
    *top = (void *)fiber_main; /* where the switch returns to, with the stack as a call leaves it */
    f->place = top - 6;
#else
    getcontext(&f->place);
    f->place.uc_stack.ss_sp = f->stack;
    f->place.uc_stack.ss_size = STACK;
    makecontext(&f->place, fiber_main, 0);
#endif
    return f;
}

/* ------------------------------------------------------------------------------------------
 * Barriers
 * ---------------------------------------------------------------------------------------- */

static void wait_here(int t) {
    to_scheduler(block.of[t]);
    set_thread(t);
}

void __syncthreads() {
    int t = block.running;
    block.state[t] = AT_BLOCK_BARRIER;
    block.n_at_barrier++;
    wait_here(t);
}

static void warp_barrier(unsigned mask) {
    int t = block.running;
    warp_state *w = &block.warp[t / 32];
    unsigned present = block.n_threads - t / 32 * 32 >= 32 ? 0xffffffffu : (1u << (block.n_threads % 32)) - 1;
    mask &= present;
    if (!(mask >> (t % 32) & 1)) undefined(block.name, "a thread is not in its own mask");
    if (w->arrived && w->wanted != mask) undefined(block.name, "threads of a warp meet with different masks");
    w->wanted = mask;
    w->arrived |= 1u << (t % 32);
    if (w->arrived != mask) {
        block.state[t] = AT_WARP_BARRIER;
        wait_here(t);
        return;
    }
    w->arrived = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && t / 32 * 32 + lane != t) block.state[t / 32 * 32 + lane] = READY;
}

void __syncwarp(unsigned mask) {
    warp_barrier(mask);
}

int shim_lane() {
    return block.running % 32;
}

unsigned char *shim_shared() {
    return block.shared;
}

void shim_count_weights(int64_t n) {
    shim_count.weights += n;
}

/* Two buffers in turn: nobody comes to the exchange after the next one before all have read this one's. */
static int last_turn;

void shim_exchange(unsigned mask, const void *mine, size_t bytes) {
    int t = block.running;
    warp_state *w = &block.warp[t / 32];
    int turn = w->turn[t % 32] ^= 1;
    memcpy(w->brought[turn][t % 32], mine, bytes);
    warp_barrier(mask);
    last_turn = turn;
}

const void *shim_brought(int lane) {
    if (block.running / 32 * 32 + lane >= block.n_threads)
        undefined(block.name, "a shuffle reads a thread that is not there");
    return block.warp[block.running / 32].brought[last_turn][lane];
}

unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned votes = 0;
    shim_exchange(mask, &predicate, sizeof predicate);
    for (int lane = 0; lane < 32 && block.running / 32 * 32 + lane < block.n_threads; lane++) {
        int vote;
        memcpy(&vote, shim_brought(lane), sizeof vote);
        if (mask >> lane & 1 && vote) votes |= 1u << lane;
    }
    return votes;
}

/* Element `at` of a row of sixteen, of which the four lanes of a group have two and two. */
static float operand(int group, int which, int at) {
    uint32_t word;
    const unsigned char *brought = (const unsigned char *)shim_brought(group * 4 + at % 8 / 2);
    memcpy(&word, brought + 4 * which, sizeof word);
    return __uint_as_float(at % 2 ? word & 0xffff0000u : word << 16);
}

void shim_multiply_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    int lane = shim_lane();
    shim_exchange(0xffffffffu, mine, sizeof mine);
    if (!lane) shim_count.matrix_instructions++;
    float row[2][16], column[2][16];
    for (int k = 0; k < 16; k++)
        for (int i = 0; i < 2; i++) {
            row[i][k] = operand(lane / 4, i + k / 8 * 2, k);
            column[i][k] = operand(lane % 4 * 2 + i, 4 + k / 8, k);
        }
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 16; k++) d[i] += row[i / 2][k] * column[i % 2][k];
}

/* ------------------------------------------------------------------------------------------
 * Blocks and launches
 * ---------------------------------------------------------------------------------------- */

static unsigned random_below(unsigned n) {
    block.random = block.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((block.random >> 33) % n);
}

/* A step through all threads that has no factor in common with their number. */
static void shuffle_threads() {
    unsigned n = (unsigned)block.n_threads, at = random_below(n), step = 1 + 2 * random_below(n);
    for (unsigned a = n, b = step; b;) { /* Euclid */
        unsigned rest = a % b;
        a = b;
        b = rest;
        if (!b && a != 1) {
            step++;
            a = n;
            b = step;
        }
    }
    for (unsigned i = 0; i < n; i++, at = (at + step) % n) block.order[i] = (int)at;
}

static void release_barrier() {
    if (block.n_at_barrier != block.n_live || block.n_live != block.n_threads)
        undefined(block.name, "a barrier that some threads do not reach");
    block.n_at_barrier = 0;
    memset(block.state, READY, (size_t)block.n_threads);
}

static void run_block() {
    block.n_live = block.n_threads;
    block.n_at_barrier = block.next = 0;
    memset(block.state, NOT_BEGUN, (size_t)block.n_threads);
    memset(block.shared, 0xff, block.shared_bytes);
    for (int w = 0; w < (block.n_threads + 31) / 32; w++) {
        block.warp[w].arrived = 0;
        memset(block.warp[w].turn, 0, sizeof block.warp[w].turn);
    }
    shuffle_threads();
    while (block.next < block.n_threads) to_fiber(new_fiber());
    while (block.n_live) {
        int has_run = 0;
        for (int i = 0; i < block.n_threads; i++) {
            int t = block.order[i];
            if (block.state[t] != READY) continue;
            has_run = 1;
            to_fiber(block.of[t]);
        }
        if (!has_run && !block.n_at_barrier)
            undefined(block.name, "threads of a warp wait for others that do not come");
        if (!has_run) release_barrier();
    }
}

struct kernel_launch {
    const char *name;
    dim3 grid, block;
    size_t shared;
    std::function<void()> body;
};

enum { MAX_SHARED = 227 << 10 };
alignas(16) static unsigned char shared_memory[MAX_SHARED];

static void run_launch(const kernel_launch &l) {
    block.name = l.name;
    block.body = &l.body;
    block.n_threads = (int)(l.block.x * l.block.y * l.block.z);
    block.shared = shared_memory + MAX_SHARED - (l.shared + 15) / 16 * 16;
    block.shared_bytes = l.shared;
#ifdef SHIM_ASAN
    ASAN_UNPOISON_MEMORY_REGION(shared_memory, MAX_SHARED);
    ASAN_POISON_MEMORY_REGION(shared_memory, (size_t)(block.shared - shared_memory));
#endif
    blockDim = l.block;
    gridDim = l.grid;
    unsigned n = l.grid.x * l.grid.y * l.grid.z, is_backwards = random_below(2);
    for (unsigned i = 0; i < n; i++) {
        unsigned b = is_backwards ? n - 1 - i : i;
        blockIdx.x = b % l.grid.x;
        blockIdx.y = b / l.grid.x % l.grid.y;
        blockIdx.z = b / (l.grid.x * l.grid.y);
        run_block();
    }
}

/* ------------------------------------------------------------------------------------------
 * Streams. One works at a time.
 * ---------------------------------------------------------------------------------------- */

struct shim_stream {
    int device;
    std::deque<std::function<void()>> work;
};

static thread_local int current_device;                    /* that this thread has chosen */
static pthread_mutex_t device = PTHREAD_MUTEX_INITIALIZER; /* which is held by the one who works */
static pthread_mutex_t lists = PTHREAD_MUTEX_INITIALIZER;
static std::vector<shim_stream *> streams;
static thread_local cudaError_t last_error;

static cudaError_t failed(cudaError_t error) {
    last_error = error;
    return error;
}

cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

static void add_work(cudaStream_t stream, std::function<void()> work) {
    pthread_mutex_lock(&lists);
    stream->work.push_back(std::move(work));
    pthread_mutex_unlock(&lists);
}

static void do_work(cudaStream_t stream) {
    pthread_mutex_lock(&device);
    while (!stream->work.empty()) {
        stream->work.front()();
        pthread_mutex_lock(&lists);
        stream->work.pop_front();
        pthread_mutex_unlock(&lists);
    }
    pthread_mutex_unlock(&device);
}

int64_t shim_pending(void) {
    int64_t n = 0;
    pthread_mutex_lock(&lists);
    for (shim_stream *s : streams) n += (int64_t)s->work.size();
    pthread_mutex_unlock(&lists);
    return n;
}

void shim_launch(const char *name, dim3 grid, dim3 threads, size_t shared, cudaStream_t stream,
                 std::function<void()> body) {
    unsigned n = threads.x * threads.y * threads.z;
    pthread_mutex_lock(&lists);
    int64_t number = ++shim_count.launches;
    shim_launched[number % SHIM_NAMES] = name;
    pthread_mutex_unlock(&lists);
    if (stream->device != current_device) {
        failed(cudaErrorInvalidResourceHandle);
        return;
    }
    if (number == shim_launch_fails_at || !n || n > MAX_THREADS || shared > 48 << 10 || !grid.x || !grid.y || !grid.z ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || threads.z > 64) {
        failed(cudaErrorInvalidValue);
        return;
    }
    add_work(stream, [=] { run_launch({name, grid, threads, shared, body}); });
}

/* Once for all streams that were given work before: it is left undone where nobody waits. */
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    pthread_mutex_lock(&lists);
    shim_count.synchronizations++;
    pthread_mutex_unlock(&lists);
    do_work(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    do_work(stream);
    pthread_mutex_lock(&lists);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + (long)i);
    pthread_mutex_unlock(&lists);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    pthread_mutex_lock(&lists);
    if (kind == cudaMemcpyHostToDevice) shim_count.bytes_up += (int64_t)bytes;
    if (kind == cudaMemcpyDeviceToHost) shim_count.bytes_down += (int64_t)bytes;
    pthread_mutex_unlock(&lists);
    add_work(stream, [=] { memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    add_work(stream, [=] { memset(memory, value, bytes); });
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------- */

static std::unordered_map<void *, int> held;

/* Whether an allocation may succeed, which it is counted as. */
static bool may_allocate() {
    int64_t number = ++shim_count.allocations;
    return !shim_fails_at || number < shim_fails_at;
}

static cudaError_t allocate(void **memory, size_t bytes) {
    *memory = NULL;
    pthread_mutex_lock(&lists);
    if (may_allocate() && !posix_memalign(memory, 256, bytes ? bytes : 1)) held[*memory] = 1;
    else *memory = NULL;
    pthread_mutex_unlock(&lists);
    if (*memory) memset(*memory, 0xff, bytes);
    return *memory ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

static cudaError_t release(void *memory) {
    if (!memory) return cudaSuccess;
    pthread_mutex_lock(&lists);
    bool is_held = held.erase(memory) != 0;
    pthread_mutex_unlock(&lists);
    if (!is_held) return failed(cudaErrorInvalidValue);
    free(memory);
    return cudaSuccess;
}

int64_t shim_blocks(void) {
    pthread_mutex_lock(&lists);
    int64_t n = (int64_t)held.size();
    pthread_mutex_unlock(&lists);
    return n;
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    return allocate(memory, bytes);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
    return allocate(memory, bytes);
}

/* Waits for the whole device, as the real one does. */
cudaError_t cudaFree(void *memory) {
    pthread_mutex_lock(&lists);
    shim_count.synchronizations++;
    std::vector<shim_stream *> all = streams;
    pthread_mutex_unlock(&lists);
    for (shim_stream *s : all) do_work(s);
    return release(memory);
}

cudaError_t cudaFreeHost(void *memory) {
    return release(memory);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    pthread_mutex_lock(&lists);
    *stream = may_allocate() ? new shim_stream() : NULL;
    if (*stream) {
        (*stream)->device = current_device;
        streams.push_back(*stream);
    }
    pthread_mutex_unlock(&lists);
    return *stream ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

/* ------------------------------------------------------------------------------------------
 * The device
 * ---------------------------------------------------------------------------------------- */

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    default: return "invalid argument";
    }
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = shim_driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (shim_driver_version < 13000) return failed(cudaErrorInsufficientDriver);
    if (!shim_devices) return failed(cudaErrorNoDevice);
    *count = shim_devices;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device_number) {
    if (device_number < 0 || device_number >= shim_devices) return failed(cudaErrorInvalidDevice);
    current_device = device_number;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device_number) {
    if (device_number < 0 || device_number >= shim_devices) return failed(cudaErrorInvalidDevice);
    *value = attribute == cudaDevAttrComputeCapabilityMajor   ? shim_capability / 10
             : attribute == cudaDevAttrComputeCapabilityMinor ? shim_capability % 10
                                                              : 4;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device_number) {
    if (device_number < 0 || device_number >= shim_devices) return failed(cudaErrorInvalidDevice);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "no GPU, hosted on the CPU");
    properties->totalGlobalMem = (size_t)4 << 30;
    properties->major = shim_capability / 10;
    properties->minor = shim_capability % 10;
    properties->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = (size_t)4 << 30;
    return cudaSuccess;
}
