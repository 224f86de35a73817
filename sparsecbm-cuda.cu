/*
 * sparsecbm-cuda.cu - the CUDA backend: an NVIDIA GPU of compute capability 8.0 or later, through sparsecbm.h's backend interface
 *
 * Contents: the language (what kernels are written with), helpers on the device, the backend (errors, devices, memory, queues),
 * kernels by kind (each with its shapes, what it reads and writes, and so its floor), the tables.
 *
 * The same source compiles as C++ for the CPU against tests/cuda/cuda_runtime.h, where it is tested on machines without a GPU.
 * Nothing depends on the order of threads: sums run in a fixed order, and there are no atomics of floats.
 */
#include "sparsecbm.h"

#include <cuda_runtime.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
#error "a kernel's arguments of more than 4 KB want CUDA 12.1 or later"
#endif

/* ------------------------------------------------------------------------------------------
 * The language. A kernel is `static __global__ void NAME(…)`; its shared memory is one struct, SHARED(struct, name), whose size
 * is given when it is launched:
 *     LAUNCH(queue, kernel, blocks, threads, sizeof(struct), arguments…)
 * ---------------------------------------------------------------------------------------- */

#ifdef __CUDACC__
extern __shared__ __align__(16) unsigned char shared_bytes[];
#define SHARED(type, name) type &name = *(type *)shared_bytes
#define UNROLL _Pragma("unroll")
#define LARGE_PARAMETER(type, name) const __grid_constant__ type name /* read where it is, and not copied */
#define LAUNCH(queue, kernel, blocks, threads, shared, ...)                                                            \
    kernel<<<blocks, threads, shared, stream_of(queue)>>>(__VA_ARGS__)
#else
#define SHARED(type, name) type &name = *(type *)shim_shared()
#define UNROLL
#define LARGE_PARAMETER(type, name) const type &name
#define LAUNCH(queue, kernel, blocks, threads, shared, ...)                                                            \
    shim_launch_kernel(#kernel, kernel, blocks, threads, shared, stream_of(queue), __VA_ARGS__)
#endif

/* Weights that a block has read from the device's memory: tests count them on the hosted build. */
#ifdef __CUDACC__
#define COUNT_WEIGHTS(n) (void)(n)
#else
#define COUNT_WEIGHTS(n) shim_count_weights(n)
#endif

enum { WARP = 32, THREADS = 256, WARPS = THREADS / WARP }; /* of a block, where nothing else is said */
#define WHOLE_WARP 0xffffffffu

/* ------------------------------------------------------------------------------------------
 * Helpers on the device
 * ---------------------------------------------------------------------------------------- */

template <typename T> static __host__ __device__ inline T smaller(T a, T b) {
    return a < b ? a : b;
}

template <typename T> static __host__ __device__ inline T larger(T a, T b) {
    return a > b ? a : b;
}

static __host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* The element that a thread of a grid of one dimension stands for. */
static __device__ inline int64_t thread_index() {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ inline float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x0f800000) return __uint_as_float(sign | rest | 0x7f800000); /* infinite, or no number */
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest) * 0x1p112f));
}

/* To nearest even. */
static __device__ inline uint16_t float_to_half(float x) {
    uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) /* below the smallest normal one: the sum's last bit is the result's */
        return (uint16_t)(sign | (__float_as_uint(__fadd_rn(__uint_as_float(rest), 0.5f)) - 0x3f000000));
    return (uint16_t)(sign | ((rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13));
}

static __device__ inline float bf16_to_float(uint16_t b) {
    return __uint_as_float((uint32_t)b << 16);
}

/* To nearest even. */
static __device__ inline uint16_t float_to_bf16(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static __device__ inline uint16_t load_u16(const uint8_t *bytes) {
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

/* Element i of weights of any float type; rows of quantized ones are whole blocks of 32. */
static __device__ inline float weight_at(const void *data, int type, int64_t i) {
    const uint8_t *block;
    int at = (int)(i % 32);
    switch (type) {
    case SCBM_F16: return half_to_float(((const uint16_t *)data)[i]);
    case SCBM_BF16: return bf16_to_float(((const uint16_t *)data)[i]);
    case SCBM_Q8_0:
        block = (const uint8_t *)data + i / 32 * 34;
        return half_to_float(load_u16(block)) * (float)(int8_t)block[2 + at];
    case SCBM_Q4_0:
        block = (const uint8_t *)data + i / 32 * 18;
        return half_to_float(load_u16(block)) * (float)((at < 16 ? block[2 + at] & 15 : block[2 + at - 16] >> 4) - 8);
    default: return ((const float *)data)[i];
    }
}

/* Bit j of a row of a mask. */
static __device__ inline int mask_bit(const uint8_t *row, int64_t j) {
    return row[j >> 3] >> (j & 7) & 1;
}

/* The sum over a warp, in every lane the same bits. */
template <typename T> static __device__ inline T warp_sum(T x) {
    for (int by = WARP / 2; by; by /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, by);
    return x;
}

/* The largest of a warp's; a NaN where there is one. */
static __device__ inline float warp_max(float x) {
    for (int by = WARP / 2; by; by /= 2) {
        const float other = __shfl_xor_sync(WHOLE_WARP, x, by);
        if (other > x || other != other) x = other;
    }
    return x;
}

/* The sum over a block of whole warps, in every thread the same bits. `room`: a number a warp, shared. */
template <typename T> static __device__ inline T block_sum(T x, T *room) {
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    x = warp_sum(x);
    __syncthreads(); /* the room may be in use by the sum before */
    if (!lane) room[warp] = x;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < warps; i++) sum += room[i];
    return sum;
}

/* scbm_philox: counter words (counter, stream), key (seed). */
static __device__ inline void philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = (uint32_t)stream,
             c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t n0 = __umulhi(0xCD9E8D57u, c2) ^ c1 ^ k0, n2 = __umulhi(0xD2511F53u, c0) ^ c3 ^ k1;
        c1 = 0xCD9E8D57u * c2;
        c3 = 0xD2511F53u * c0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Divisions of 64 bits take a GPU ten times as long as those of 32. */
static __device__ inline int64_t quotient(int64_t a, int64_t b) {
    if (((uint64_t)a | (uint64_t)b) >> 32 == 0) return (int64_t)((uint32_t)a / (uint32_t)b);
    return a / b;
}

static __device__ inline int64_t modulo(int64_t a, int64_t b) {
    return a - quotient(a, b) * b;
}

/* What the threads before this one have in sum. `room`: a number a warp, shared. */
template <typename T> static __device__ T block_before(T value, T *room) {
    T through = value, before = 0;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int step = 1; step < WARP; step *= 2) {
        const T other = __shfl_up_sync(WHOLE_WARP, through, step);
        if (lane >= step) through += other;
    }
    __syncthreads(); /* the room may be in use by the sum before */
    if (lane == WARP - 1) room[warp] = through;
    __syncthreads();
    for (int i = 0; i < warp; i++) before += room[i];
    return before + through - value;
}

/* ---- Numbers: the CPU's functions and conversions ---- */

/* 2^n, -126 <= n <= 128 */
static __device__ inline float power_of_two(int n) {
    return __uint_as_float((uint32_t)(n + 127) << 23);
}

/* exp(x) = 2^n (1 + p), |x - n ln 2| <= ln 2 / 2; p. */
static __device__ inline float exp_reduced(float x, int *n) {
    const float f = rintf(x * 1.44269504f);
    float r = fmaf(-f, 0x1.62e4p-1f, x), q = 1.3814467e-3f;
    *n = (int)f;
    r = fmaf(-f, 1.42860677e-6f, r);
    q = fmaf(q, r, 8.36878084e-3f);
    q = fmaf(q, r, 4.16683927e-2f);
    q = fmaf(q, r, 1.66665196e-1f);
    q = fmaf(q, r, 4.9999994e-1f);
    return fmaf(r * r, q, r);
}

/* Within 1.5 units of the last place; what would be below 2^-126 is 0. */
static __device__ inline float exp_of(float x) {
    int n;
    if (x != x) return x;
    if (x < -87.3365402f) return 0.0f;
    const float p = exp_reduced(x < 89.0f ? x : 89.0f, &n) + 1.0f;
    const int half = n >> 1;
    return p * power_of_two(half) * power_of_two(n - half);
}

/* exp(x) - 1 for x <= 0. */
static __device__ inline float expm1_of(float x) {
    int n;
    const float p = exp_reduced(x < -80.0f ? -80.0f : x, &n), s = power_of_two(n);
    return fmaf(p, s, s - 1.0f);
}

/* log of positive normal numbers: x = 2^e m with m near 1, log m = 2 atanh((m - 1) / (m + 1)). */
static __device__ inline float log_of(float x) {
    const int bits = (int)__float_as_uint(x), e = (bits - 0x3f3504f3) >> 23;
    const float f = __uint_as_float((uint32_t)bits - ((uint32_t)e << 23)) - 1.0f, s = f / (f + 2.0f), z = s * s;
    float p = fmaf(z, 2.0f / 9, 2.0f / 7);
    p = fmaf(p, z, 2.0f / 5);
    p = fmaf(p, z, 2.0f / 3);
    p = fmaf(p * z, s, s + s);
    return fmaf((float)e, 0.693147181f, p);
}

/* The normal distribution function: for a = |x|, Phi(-a) = 2^(a p(a) - 1), not below 2^-126. */
static __device__ inline float phi_of(float x) {
    const float a = fabsf(x);
    float p = -2.83491272e-06f, h = 0.000153209927f;
    p = fmaf(p, a, 3.937769e-05f);
    p = fmaf(p, a, -0.00018618023f);
    p = fmaf(p, a, -0.000136936389f);
    p = fmaf(p, a, 0.00706342002f);
    p = fmaf(p, a, -0.0524961799f);
    p = fmaf(p, a, -0.45920822f);
    p = fmaf(p, a, -1.15110528f);
    p = fmaf(p, a, -1.0f);
    if (x != x) return x;
    if (!(p > -126.0f)) p = -126.0f;
    const float n = rintf(p), r = p - n;
    h = fmaf(h, r, 0.00133902754f);
    h = fmaf(h, r, 0.00961852726f);
    h = fmaf(h, r, 0.055503618f);
    h = fmaf(h, r, 0.240226477f);
    h = fmaf(h, r, 0.693147182f);
    h = fmaf(h, r, 1.0f) * power_of_two((int)n);
    return x < 0.0f ? h : 1.0f - h;
}

static __device__ inline float tanh_of(float x) {
    const float e = expm1_of(-2.0f * fabsf(x)), t = fabsf(e / (e + 2.0f));
    return x != x ? x : copysignf(t, x);
}

static __device__ inline float sigmoid_of(float x) {
    return 1.0f / (1.0f + exp_of(-x));
}

/* 2 sqrt(2 / pi) (x + 0.044715 x^3): gelu_tanh(x) = x sigmoid of this. */
static __device__ inline float gelu_argument(float x) {
    return x * fmaf(x * x, 0.0713548163f, 1.59576912f);
}

template <int KIND> static __device__ inline float activation_of(float x) {
    if (KIND == SCBM_GELU_ERF) return x * phi_of(x);
    if (KIND == SCBM_GELU_TANH) return x * sigmoid_of(gelu_argument(x));
    if (KIND == SCBM_RELU) return x > 0.0f || x != x ? x : 0.0f;
    if (KIND == SCBM_TANH) return tanh_of(x);
    if (KIND == SCBM_SIGMOID) return sigmoid_of(x);
    return x;
}

/* Of a layer's result, whose activation is known when it runs. */
static __device__ inline float activated(int activation, float x) {
    switch (activation) {
    case SCBM_GELU_ERF: return activation_of<SCBM_GELU_ERF>(x);
    case SCBM_GELU_TANH: return activation_of<SCBM_GELU_TANH>(x);
    case SCBM_RELU: return activation_of<SCBM_RELU>(x);
    case SCBM_TANH: return activation_of<SCBM_TANH>(x);
    case SCBM_SIGMOID: return activation_of<SCBM_SIGMOID>(x);
    default: return x;
    }
}

/* The logistic function's derivative, without the cancellation of s (1 - s). */
static __device__ inline float sigmoid_slope(float x) {
    const float e = exp_of(-fabsf(x)), r = 1.0f / (1.0f + e);
    return e * r * r;
}

/* dy times the activation's derivative at x. */
template <int KIND> static __device__ inline float activation_back(float dy, float x) {
    if (KIND == SCBM_GELU_ERF) return dy * fmaf(x, 0.398942280f * exp_of(-0.5f * (x * x)), phi_of(x));
    if (KIND == SCBM_GELU_TANH) {
        const float s = gelu_argument(x), u = fmaf(x * x, 3 * 0.0713548163f, 1.59576912f);
        return dy * fmaf(x * u, sigmoid_slope(s), sigmoid_of(s));
    }
    if (KIND == SCBM_RELU) return x > 0.0f ? dy : 0.0f;
    if (KIND == SCBM_TANH) return dy * (4.0f * sigmoid_slope(x + x));
    if (KIND == SCBM_SIGMOID) return dy * sigmoid_slope(x);
    return dy;
}

/* A number for each warp of a block of THREADS. */
typedef double double_room[WARPS];
typedef int64_t long_room[WARPS];
typedef uint64_t word_room[WARPS];

/* ------------------------------------------------------------------------------------------
 * Errors and devices
 * ---------------------------------------------------------------------------------------- */

enum { OLDEST_CAPABILITY = 80, MAX_DEVICES = 64 };

static int is_forked; /* from a process that used a device: the driver is of no use here */

static void after_fork(void) {
    is_forked = 1;
}

static scbm_status fail_forked(void) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                     "cuda: this process was forked from one that had used the GPU, which cannot be used here; open it "
                     "after the fork, or start a program of its own");
}

static scbm_status fail_cuda(cudaError_t error, const char *what) {
    if (error == cudaErrorMemoryAllocation)
        return scbm_fail(SCBM_ERROR_MEMORY, "cuda: out of device memory (%s)", what);
    return scbm_fail(SCBM_ERROR_NUMERIC, "cuda: %s failed: %s", what, cudaGetErrorString(error));
}

static int capability_of(int device) {
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return 0;
    if (cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) return 0;
    return 10 * major + minor;
}

/* Whether the driver can be used, and how many devices it knows. */
static scbm_status find_driver(int *n) {
    int driver = 0, runtime = 0;
    *n = 0;
    if (is_forked) return fail_forked();
    cudaError_t error = cudaDriverGetVersion(&driver);
    if (error != cudaSuccess || !driver)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "cuda: this machine has no NVIDIA driver (libcuda.so.1)");
    cudaRuntimeGetVersion(&runtime);
    error = cudaGetDeviceCount(n);
    if (error == cudaSuccess && *n > 0) return SCBM_OK;
    cudaGetLastError();
    *n = 0;
    if (error == cudaErrorInsufficientDriver)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "cuda: the NVIDIA driver serves CUDA %d.%d, and %d.%d is needed: install a newer driver",
                         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (error == cudaErrorNoDevice || error == cudaSuccess)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "cuda: there is a driver, but no GPU that this process may use");
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "cuda: the devices cannot be listed: %s", cudaGetErrorString(error));
}

/* ------------------------------------------------------------------------------------------
 * Memory. What was given back is kept for the next one that wants as much: cudaMalloc is slow, and cudaFree waits for
 * everything. When there is no more, what is kept goes back first.
 * ---------------------------------------------------------------------------------------- */

typedef struct memory_block {
    struct memory_block *next;
    void *memory;
    size_t bytes;
    int is_free;
} memory_block;

typedef struct cuda_backend {
    scbm_backend base;
    scbm_hooks hooks;
    int device;
    char name[SCBM_MAX_NAME];
    pthread_mutex_t lock; /* of the blocks */
    memory_block *blocks;
} cuda_backend;

static cuda_backend *backend_of(scbm_backend *backend) {
    return (cuda_backend *)backend;
}

/* Calls of the CUDA runtime are about the thread's device. */
static scbm_status use_device(const cuda_backend *b) {
    if (is_forked) return fail_forked();
    cudaError_t error = cudaSetDevice(b->device);
    return error == cudaSuccess ? SCBM_OK : fail_cuda(error, "choosing the device");
}

static size_t block_room(size_t bytes) {
    size_t step = bytes > 1 << 20 ? 2 << 20 : 512;
    return bytes ? (bytes + step - 1) / step * step : step;
}

/* The smallest free block that is large enough, and at most a fourth larger. */
static memory_block *find_block(const cuda_backend *b, size_t bytes) {
    memory_block *best = NULL;
    for (memory_block *m = b->blocks; m; m = m->next)
        if (m->is_free && m->bytes >= bytes && m->bytes - bytes <= bytes / 4 && (!best || m->bytes < best->bytes))
            best = m;
    return best;
}

static void release_blocks(cuda_backend *b, int all) {
    memory_block **place = &b->blocks;
    while (*place) {
        memory_block *m = *place;
        if (!all && !m->is_free) {
            place = &m->next;
            continue;
        }
        *place = m->next;
        if (!is_forked) cudaFree(m->memory);
        scbm_release(&b->hooks, m);
    }
}

static memory_block *new_block(cuda_backend *b, size_t bytes) {
    memory_block *m = (memory_block *)scbm_alloc(&b->hooks, sizeof *m);
    if (!m) return NULL;
    m->bytes = bytes;
    cudaError_t error = cudaMalloc(&m->memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        release_blocks(b, 0);
        error = cudaMalloc(&m->memory, bytes);
    }
    if (error != cudaSuccess) {
        cudaGetLastError();
        scbm_release(&b->hooks, m);
        return NULL;
    }
    m->next = b->blocks;
    b->blocks = m;
    return m;
}

static void *cuda_allocate(scbm_backend *backend, size_t bytes) {
    cuda_backend *b = backend_of(backend);
    size_t room = block_room(bytes);
    if (room < bytes || use_device(b)) return NULL;
    pthread_mutex_lock(&b->lock);
    memory_block *m = find_block(b, room);
    if (!m) m = new_block(b, room);
    if (m) m->is_free = 0;
    pthread_mutex_unlock(&b->lock);
    return m ? m->memory : NULL;
}

static void cuda_deallocate(scbm_backend *backend, void *memory) {
    cuda_backend *b = backend_of(backend);
    pthread_mutex_lock(&b->lock);
    for (memory_block *m = b->blocks; m; m = m->next)
        if (m->memory == memory) m->is_free = 1;
    pthread_mutex_unlock(&b->lock);
}

/* Page-locked, so that copies run at the bus's speed and beside the kernels. */
static void *cuda_stage(scbm_backend *backend, size_t bytes) {
    void *memory = NULL;
    if (use_device(backend_of(backend))) return NULL;
    if (cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocDefault) == cudaSuccess) return memory;
    cudaGetLastError();
    return NULL;
}

static void cuda_unstage(scbm_backend *backend, void *memory) {
    (void)backend;
    if (!is_forked) cudaFreeHost(memory);
}

/* ------------------------------------------------------------------------------------------
 * Queues: a CUDA stream each. What fails is kept until somebody waits.
 *
 * Nodes that do the same to many tensors are gathered in a batch and launched together, before anything else goes into the stream.
 * ---------------------------------------------------------------------------------------- */

enum { BATCH_BYTES = 31 << 10 }; /* of a kernel's parameters, which may have 32,764 */

typedef struct cuda_queue {
    scbm_queue base;
    cudaStream_t stream;
    scbm_status status; /* the first failure since the last wait */
    char error[160];
    void (*launch_batch)(scbm_queue *queue);        /* NULL: no batch waits */
    __align__(16) unsigned char batch[BATCH_BYTES]; /* what launch_batch launches */
} cuda_queue;

static void launch_batch(scbm_queue *queue);

/* The stream, to be given work by this thread: it takes launches where its device is the thread's. */
static cudaStream_t stream_of(scbm_queue *queue) {
    launch_batch(queue);
    cudaSetDevice(((cuda_backend *)queue->backend)->device);
    return ((cuda_queue *)queue)->stream;
}

static scbm_status cuda_queue_create(scbm_backend *backend, scbm_context *context, scbm_queue **queue) {
    scbm_status status = use_device(backend_of(backend));
    if (status) return status;
    cuda_queue *q = (cuda_queue *)scbm_alloc(scbm_context_hooks(context), sizeof *q);
    if (!q) return SCBM_ERROR_MEMORY;
    cudaError_t error = cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        cudaGetLastError();
        scbm_release(scbm_context_hooks(context), q);
        return fail_cuda(error, "creating a stream");
    }
    *queue = &q->base;
    return SCBM_OK;
}

static void cuda_queue_free(scbm_queue *queue) {
    if (!is_forked) cudaStreamDestroy(((cuda_queue *)queue)->stream);
    scbm_release(scbm_context_hooks(queue->context), queue);
}

static scbm_status keep_failure(scbm_queue *queue, cudaError_t error, const char *what) {
    cuda_queue *q = (cuda_queue *)queue;
    cudaGetLastError();
    if (!q->status) {
        q->status = fail_cuda(error, what);
        snprintf(q->error, sizeof q->error, "%s", scbm_last_error());
    }
    return fail_cuda(error, what);
}

static void launch_batch(scbm_queue *queue) {
    cuda_queue *q = (cuda_queue *)queue;
    void (*launch)(scbm_queue *) = q->launch_batch;
    q->launch_batch = NULL;
    if (!launch || is_forked) return;
    launch(queue);
    cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) keep_failure(queue, error, "a launch of several nodes");
}

/* The batch of nodes that `launch` launches, where the node before belongs to it; else NULL: begin_batch makes one. */
static void *waiting_batch(scbm_queue *queue, void (*launch)(scbm_queue *)) {
    cuda_queue *q = (cuda_queue *)queue;
    return q->launch_batch == launch ? q->batch : NULL;
}

static void *begin_batch(scbm_queue *queue, void (*launch)(scbm_queue *)) {
    cuda_queue *q = (cuda_queue *)queue;
    launch_batch(queue);
    q->launch_batch = launch;
    return q->batch;
}

/* After a launch: whether it was taken. What it does wrong is found by the next wait. */
static scbm_status launched(scbm_queue *queue, const scbm_kernel_call *call) {
    cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? SCBM_OK : keep_failure(queue, error, scbm_op_of(call->node->op)->name);
}

static scbm_status copy_bytes(scbm_queue *queue, void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    scbm_status status = use_device(backend_of(queue->backend));
    if (status || !bytes) return status;
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, stream_of(queue));
    return error == cudaSuccess ? SCBM_OK : keep_failure(queue, error, "a copy");
}

static scbm_status cuda_upload(scbm_queue *queue, void *device, const void *host, size_t bytes) {
    return copy_bytes(queue, device, host, bytes, cudaMemcpyHostToDevice);
}

static scbm_status cuda_download(scbm_queue *queue, void *host, const void *device, size_t bytes) {
    return copy_bytes(queue, host, device, bytes, cudaMemcpyDeviceToHost);
}

static scbm_status cuda_wait(scbm_queue *queue) {
    cuda_queue *q = (cuda_queue *)queue;
    scbm_status status = use_device(backend_of(queue->backend));
    if (status) return status;
    launch_batch(queue);
    cudaError_t error = cudaStreamSynchronize(q->stream);
    if (error != cudaSuccess) keep_failure(queue, error, "the GPU's work");
    status = q->status;
    q->status = SCBM_OK;
    return status ? scbm_fail(status, "%s", q->error) : SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Kernels: what all share. Each kind ends with its rows of the table.
 * ---------------------------------------------------------------------------------------- */

typedef struct kernel_row {
    scbm_op op;
    scbm_kernel kernel;
} kernel_row;

static int64_t elements_of(const scbm_view *view) {
    int64_t n = 1;
    for (int i = 0; i < view->n_dims; i++) n *= view->shape[i];
    return n;
}

static int64_t columns_of(const scbm_view *view) {
    return view->shape[view->n_dims - 1];
}

static int64_t rows_of(const scbm_view *view) {
    int64_t n = 1;
    for (int i = 0; i < view->n_dims - 1; i++) n *= view->shape[i];
    return n;
}

/* Blocks of a grid of one dimension with a thread for each of n elements. */
static dim3 blocks_for(int64_t n, int threads = THREADS) {
    return dim3((unsigned)ceil_div(n, threads));
}

/* Scratch is cut into pieces of 256 bytes; without a base the pieces are counted only. */
typedef struct pieces {
    unsigned char *base;
    size_t used;
} pieces;

static void *take_piece(pieces *p, int64_t count, size_t size) {
    unsigned char *piece = p->base ? p->base + p->used : NULL;
    p->used += ((size_t)count * size + 255) / 256 * 256;
    return piece;
}

/* Where elements of a smaller tensor b stand to those of a. */
typedef struct pattern {
    int n_dims, is_regular; /* i / repeat % count; else by b's stride in each dimension of a, or 0 */
    int64_t count, repeat, shape[SCBM_MAX_DIMS], stride[SCBM_MAX_DIMS];
} pattern;

static pattern pattern_of(const scbm_view *a, const scbm_view *b) {
    pattern p = {};
    int64_t stride = 1;
    int state = 0; /* of a's dimensions, walked inwards out: not yet in b, in b, past b */
    p.is_regular = 1;
    p.n_dims = a->n_dims;
    p.count = p.repeat = 1;
    for (int i = 1; i <= a->n_dims; i++) {
        int64_t n = a->shape[a->n_dims - i], own = i <= b->n_dims ? b->shape[b->n_dims - i] : 1;
        p.shape[a->n_dims - i] = n;
        if (n == 1) continue;
        if (own != 1) {
            p.stride[a->n_dims - i] = stride;
            stride *= own;
            if (state == 2) p.is_regular = 0;
            state = 1;
            p.count *= n;
        } else if (state == 0) {
            p.repeat *= n;
        } else {
            state = 2;
        }
    }
    return p;
}

static __device__ inline int64_t pattern_at(const pattern &p, int64_t i) {
    int64_t at = 0;
    if (p.is_regular) return modulo(p.repeat == 1 ? i : quotient(i, p.repeat), p.count);
    UNROLL for (int d = SCBM_MAX_DIMS - 1; d >= 0; d--) {
        if (d >= p.n_dims) continue;
        const int64_t outer = quotient(i, p.shape[d]);
        at += (i - outer * p.shape[d]) * p.stride[d];
        i = outer;
    }
    return at;
}

/* ------------------------------------------------------------------------------------------
 * Kernels: elementwise
 *
 * Memory-bound, all of them: the floor is the bytes of sources and results over the copy rate. A thread computes four elements,
 * a block's width apart, and loads them all before it stores one: y may be a source.
 * ---------------------------------------------------------------------------------------- */

enum { MAP_EACH = 4 };

template <class F> static __global__ void map_kernel(F f) {
    const int64_t first = (int64_t)blockIdx.x * (THREADS * MAP_EACH) + threadIdx.x;
    typename F::value value[MAP_EACH];
    for (int e = 0; e < MAP_EACH; e++) value[e] = first + e * THREADS < f.n ? f.at(first + e * THREADS) : 0;
    for (int e = 0; e < MAP_EACH; e++)
        if (first + e * THREADS < f.n) f.y[first + e * THREADS] = value[e];
}

template <class F> static scbm_status map_all(scbm_queue *queue, const scbm_kernel_call *call, const F &f) {
    if (f.n > 0) LAUNCH(queue, map_kernel<F>, blocks_for(f.n, THREADS * MAP_EACH), THREADS, 0, f);
    return launched(queue, call);
}

/* y = a + b or a b, b broadcast. */
template <int IS_ADD, int IS_SAME> struct map_binary {
    typedef float value;
    float *y;
    int64_t n;
    const float *a, *b;
    pattern p;
    __device__ float at(int64_t i) const {
        const float x = a[i], with = b[IS_SAME ? i : pattern_at(p, i)];
        return IS_ADD ? x + with : x * with;
    }
};

template <int IS_ADD, int IS_SAME> static scbm_status run_binary(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *b = &call->source[1];
    const map_binary<IS_ADD, IS_SAME> f = {(float *)call->result[0].data, elements_of(a), (const float *)a->data,
                                           (const float *)b->data, pattern_of(a, b)};
    return map_all(queue, call, f);
}

static scbm_status cuda_add(scbm_queue *queue, const scbm_kernel_call *call) {
    const int is_same = elements_of(&call->source[0]) == elements_of(&call->source[1]);
    return is_same ? run_binary<1, 1>(queue, call) : run_binary<1, 0>(queue, call);
}

static scbm_status cuda_mul(scbm_queue *queue, const scbm_kernel_call *call) {
    const int is_same = elements_of(&call->source[0]) == elements_of(&call->source[1]);
    return is_same ? run_binary<0, 1>(queue, call) : run_binary<0, 0>(queue, call);
}

struct map_scale {
    typedef float value;
    float *y;
    int64_t n;
    const float *a;
    float factor;
    __device__ float at(int64_t i) const {
        return a[i] * factor;
    }
};

static scbm_status cuda_scale(scbm_queue *queue, const scbm_kernel_call *call) {
    const map_scale f = {(float *)call->result[0].data, elements_of(&call->source[0]),
                         (const float *)call->source[0].data, call->node->scalar[0]};
    return map_all(queue, call, f);
}

/* y[i] = factor a[b's element of i]. */
struct map_broadcast {
    typedef float value;
    float *y;
    int64_t n;
    const float *a;
    double factor;
    pattern p;
    __device__ float at(int64_t i) const {
        return (float)(a[pattern_at(p, i)] * factor);
    }
};

/* With integer 1 the transpose of a mean: divided by how many elements each one becomes. */
static scbm_status cuda_broadcast(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *y = &call->result[0];
    const int64_t n = elements_of(a);
    const double factor = call->node->integer[0] && n ? (double)n / (double)larger<int64_t>(1, elements_of(y)) : 1.0;
    const map_broadcast f = {(float *)y->data, elements_of(y), (const float *)a->data, factor, pattern_of(y, a)};
    return map_all(queue, call, f);
}

/* Reads and writes the tensor's bytes once. */
static scbm_status cuda_copy(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0];
    const scbm_type_info *info = scbm_type_of(a->type);
    return copy_bytes(queue, call->result[0].data, a->data,
                      (size_t)(elements_of(a) / info->block) * (size_t)info->block_bytes, cudaMemcpyDeviceToDevice);
}

template <int FROM> struct map_to_float {
    typedef float value;
    float *y;
    int64_t n;
    const unsigned char *a;
    __device__ float at(int64_t i) const {
        return weight_at(a, FROM, i);
    }
};

template <int FROM, int TO> struct map_to_half {
    typedef uint16_t value;
    uint16_t *y;
    int64_t n;
    const unsigned char *a;
    __device__ uint16_t at(int64_t i) const {
        const float x = weight_at(a, FROM, i);
        return TO == SCBM_F16 ? float_to_half(x) : float_to_bf16(x);
    }
};

template <int FROM> static scbm_status cast_from(scbm_queue *queue, const scbm_kernel_call *call) {
    const unsigned char *a = (const unsigned char *)call->source[0].data;
    void *y = call->result[0].data;
    const int64_t n = elements_of(&call->source[0]);
    const map_to_float<FROM> to_float = {(float *)y, n, a};
    const map_to_half<FROM, SCBM_F16> to_half = {(uint16_t *)y, n, a};
    const map_to_half<FROM, SCBM_BF16> to_bfloat = {(uint16_t *)y, n, a};
    if (call->result[0].type == SCBM_F32) return map_all(queue, call, to_float);
    return call->result[0].type == SCBM_F16 ? map_all(queue, call, to_half) : map_all(queue, call, to_bfloat);
}

static scbm_status cuda_cast(scbm_queue *queue, const scbm_kernel_call *call) {
    if (call->source[0].type == call->result[0].type) return cuda_copy(queue, call);
    if (call->source[0].type == SCBM_F32) return cast_from<SCBM_F32>(queue, call);
    return call->source[0].type == SCBM_F16 ? cast_from<SCBM_F16>(queue, call) : cast_from<SCBM_BF16>(queue, call);
}

struct map_concat {
    typedef float value;
    float *y;
    int64_t n;
    const float *a, *b;
    int64_t of_a, of_b;
    __device__ float at(int64_t i) const {
        const int64_t row = quotient(i, of_a + of_b), column = i - row * (of_a + of_b);
        return column < of_a ? a[row * of_a + column] : b[row * of_b + column - of_a];
    }
};

static scbm_status cuda_concat(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *b = &call->source[1], *y = &call->result[0];
    const map_concat f = {(float *)y->data,       elements_of(y), (const float *)a->data,
                          (const float *)b->data, columns_of(a),  columns_of(b)};
    return map_all(queue, call, f);
}

/* Columns first … of rows of `from` numbers, as rows of `to`: a slice, or (first < 0) its transpose. */
struct map_slice {
    typedef float value;
    float *y;
    int64_t n;
    const float *a;
    int64_t from, to, first;
    __device__ float at(int64_t i) const {
        const int64_t row = quotient(i, to), column = i - row * to + first;
        return column >= 0 && column < from ? a[row * from + column] : 0.0f;
    }
};

static scbm_status cuda_slice(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *y = &call->result[0];
    const map_slice f = {(float *)y->data, elements_of(y), (const float *)a->data,
                         columns_of(a),    columns_of(y),  call->node->integer[0]};
    return map_all(queue, call, f);
}

static scbm_status cuda_slice_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *dy = &call->source[0], *y = &call->result[0];
    const map_slice f = {(float *)y->data, elements_of(y), (const float *)dy->data,
                         columns_of(dy),   columns_of(y),  -call->node->integer[0]};
    return map_all(queue, call, f);
}

template <int KIND> struct map_activate {
    typedef float value;
    float *y;
    int64_t n;
    const float *x;
    __device__ float at(int64_t i) const {
        return activation_of<KIND>(x[i]);
    }
};

template <int KIND> struct map_activate_back {
    typedef float value;
    float *y;
    int64_t n;
    const float *dy, *x;
    __device__ float at(int64_t i) const {
        return activation_back<KIND>(dy[i], x[i]);
    }
};

template <int KIND> static scbm_status run_activate(scbm_queue *queue, const scbm_kernel_call *call) {
    float *y = (float *)call->result[0].data;
    const float *a = (const float *)call->source[0].data, *b = (const float *)call->source[1].data;
    const int64_t n = elements_of(&call->source[0]);
    const map_activate<KIND> forward = {y, n, a};
    const map_activate_back<KIND> back = {y, n, a, b};
    return call->node->op == SCBM_OP_ACTIVATE ? map_all(queue, call, forward) : map_all(queue, call, back);
}

/* activate and activate_back */
static scbm_status cuda_activate(scbm_queue *queue, const scbm_kernel_call *call) {
    switch (call->node->integer[0]) {
    case SCBM_GELU_ERF: return run_activate<SCBM_GELU_ERF>(queue, call);
    case SCBM_GELU_TANH: return run_activate<SCBM_GELU_TANH>(queue, call);
    case SCBM_RELU: return run_activate<SCBM_RELU>(queue, call);
    case SCBM_TANH: return run_activate<SCBM_TANH>(queue, call);
    default: return run_activate<SCBM_SIGMOID>(queue, call);
    }
}

/* Groups of 64 elements: counter 16 g + l gives with its word w element 64 g + 16 w + l, which it drops below `limit`. A thread
 * has a counter, four elements. x, y [n]; 8 bytes an element; floor: bytes, on cards with few integer units the generator. */
static __global__ void dropout_kernel(float *y, const float *x, int64_t n, uint32_t limit, float scale, uint64_t seed,
                                      uint32_t place, uint32_t step) {
    const int64_t counter = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t first = counter / 16 * 64 + counter % 16;
    uint32_t word[4];
    if (first >= n) return;
    philox(seed, (uint64_t)step << 32 | place << 16, (uint64_t)counter, word);
    for (int w = 0; w < 4 && first + 16 * w < n; w++)
        y[first + 16 * w] = word[w] >= limit ? x[first + 16 * w] * scale : 0.0f;
}

/* Of attention's parts, x [S · heads, T, C]: word t % 4 of counter (t / 4, j) is key j's for query t. A thread has four queries. */
static __global__ void attention_dropout_kernel(float *y, const float *x, int64_t n, int64_t T, int64_t C,
                                                uint32_t limit, float scale, uint64_t seed, uint64_t stream) {
    const int64_t i = thread_index(), fours = ceil_div(T, 4), of = quotient(i, C), sh = quotient(of, fours);
    const int64_t j = i - of * C, t = 4 * (of - sh * fours);
    uint32_t word[4];
    if (i >= n) return;
    philox(seed, stream + (uint64_t)sh, (uint64_t)(t / 4) << 32 | (uint64_t)j, word);
    for (int w = 0; w < 4 && t + w < T; w++) {
        const int64_t at = (sh * T + t + w) * C + j;
        y[at] = word[w] >= limit ? x[at] * scale : 0.0f;
    }
}

static scbm_status cuda_dropout(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    float *y = (float *)call->result[0].data;
    const float *from = (const float *)x->data, p = call->node->scalar[0], scale = 1.0f / (1.0f - p);
    const uint32_t limit = (uint32_t)((double)p * 4294967296.0), place = (uint32_t)call->node->integer[0];
    const int64_t n = elements_of(x);
    if (!n) return SCBM_OK;
    if (call->node->integer[1]) {
        const int64_t T = x->shape[2], C = x->shape[3], threads = x->shape[0] * x->shape[1] * ceil_div(T, 4) * C;
        LAUNCH(queue, attention_dropout_kernel, blocks_for(threads), THREADS, 0, y, from, threads, T, C, limit, scale,
               call->seed, call->step << 32 | (uint64_t)place << 16);
        return launched(queue, call);
    }
    LAUNCH(queue, dropout_kernel, blocks_for(ceil_div(n, 64) * 16), THREADS, 0, y, from, n, limit, scale, call->seed,
           place, (uint32_t)call->step);
    return launched(queue, call);
}

static const kernel_row elementwise_rows[] = {
    {SCBM_OP_ADD, {cuda_add, NULL, NULL}},
    {SCBM_OP_MUL, {cuda_mul, NULL, NULL}},
    {SCBM_OP_SCALE, {cuda_scale, NULL, NULL}},
    {SCBM_OP_BROADCAST, {cuda_broadcast, NULL, NULL}},
    {SCBM_OP_COPY, {cuda_copy, NULL, NULL}},
    {SCBM_OP_CAST, {cuda_cast, NULL, NULL}},
    {SCBM_OP_CONCAT, {cuda_concat, NULL, NULL}},
    {SCBM_OP_SLICE, {cuda_slice, NULL, NULL}},
    {SCBM_OP_SLICE_BACK, {cuda_slice_back, NULL, NULL}},
    {SCBM_OP_ACTIVATE, {cuda_activate, NULL, NULL}},
    {SCBM_OP_ACTIVATE_BACK, {cuda_activate, NULL, NULL}},
    {SCBM_OP_DROPOUT, {cuda_dropout, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: linear layers
 *
 * Three products of the weights W [N, K], the tokens' rows x [S, T, K] and their gradients dy [S, T, N], under masks M_s of the
 * streams or without (then the streams are more rows of one product). A block of 256 threads computes 64 x 64 results, 4 x 4 a
 * thread, from tiles of 32 steps of the sum in shared memory. With masks it does so for up to four streams at once: a tile of
 * weights is read once, and each thread ANDs the streams' bits onto it in registers. Sums run from the first step to the last in
 * one thread: a row's bits do not depend on the others.
 * ---------------------------------------------------------------------------------------- */

enum { TILE = 64, STEPS = 32, SIDE = 16, PER_THREAD = TILE / SIDE, PITCH = TILE + 1, MANY_STREAMS = 4 };

enum { MOST_LAYERS = 3 }; /* of one launch: queries, keys and values */

/* A layer that reads the same x as another one. */
typedef struct other_layer {
    float *y, *pre;
    const float *bias;
    const void *w;
    const uint8_t *masks;
} other_layer;

typedef struct linear_args {
    float *y, *pre; /* the results; `pre`: before the activation, or NULL */
    const float *dy, *bias;
    const void *x, *w;    /* x is F32 but for a product's */
    const uint8_t *masks; /* [S, N, mask_row], or NULL */
    int64_t S, T, K, N, x_streams, dy_streams, w_stream,
        mask_row;               /* w_stream: from one stream's weights to the next's, or 0 */
    int type, activation, mode; /* of the weights; scbm_activation; scbm_dw_mode */
    int layers;                 /* 0 where there are no others; their blocks lie behind one another along blockIdx.z */
    other_layer other[MOST_LAYERS - 1];
} linear_args;

/* The streams of a block. */
static __device__ inline int streams_here(const linear_args &a, int first, int most) {
    return (int)smaller<int64_t>(most, a.S - first);
}

/* Makes `a` those of the block's layer, and gives the block's place among that one's along z. */
static __device__ inline int choose_layer(linear_args &a) {
    if (!a.layers) return (int)blockIdx.z;
    const int each = (int)gridDim.z / a.layers, layer = (int)blockIdx.z / each;
    UNROLL for (int i = 0; i < MOST_LAYERS - 1; i++) {
        if (layer != i + 1) continue;
        a.y = a.other[i].y;
        a.pre = a.other[i].pre;
        a.bias = a.other[i].bias;
        a.w = a.other[i].w;
        a.masks = a.other[i].masks;
    }
    return (int)blockIdx.z - layer * each;
}

/* 32 bits of stream s's mask of row n, those of columns k … k + 31; rows are padded to whole words. */
static __device__ inline uint32_t mask_word(const linear_args &a, int64_t s, int64_t n, int64_t k) {
    return *(const uint32_t *)(a.masks + (s * a.N + n) * a.mask_row + k / 8);
}

/* Stream s of x and of dy, which may have one for all. */
static __device__ inline int64_t x_stream(const linear_args &a, int64_t s) {
    return a.x_streams == 1 ? 0 : s;
}

static __device__ inline int64_t dy_stream(const linear_args &a, int64_t s) {
    return a.dy_streams == 1 ? 0 : s;
}

/* Rows [first, first + 64) of 32 columns from `column` of a matrix [rows, columns] to tile[column][row], zeros outside. */
static __device__ inline void load_rows(float (*tile)[PITCH], const float *matrix, int64_t rows, int64_t columns,
                                        int64_t first, int64_t column) {
    int j = (int)threadIdx.x % STEPS;
    for (int i = (int)threadIdx.x / STEPS; i < TILE; i += THREADS / STEPS)
        tile[j][i] = first + i < rows && column + j < columns ? matrix[(first + i) * columns + column + j] : 0.0f;
}

/* 64 columns from `column` of rows [first, first + 32) of a matrix of any float type to tile[row][column]. */
static __device__ inline void load_columns(float (*tile)[PITCH], const void *matrix, int type, int64_t offset,
                                           int64_t rows, int64_t columns, int64_t first, int64_t column) {
    int j = (int)threadIdx.x % TILE;
    for (int i = (int)threadIdx.x / TILE; i < STEPS; i += THREADS / TILE)
        tile[i][j] = first + i < rows && column + j < columns
                         ? weight_at(matrix, type, offset + (first + i) * columns + column + j)
                         : 0.0f;
}

/* Of a tile with as many rows and columns left. */
static __device__ inline void count_weights(int64_t rows, int64_t columns) {
    if (!threadIdx.x) COUNT_WEIGHTS(smaller<int64_t>(rows, TILE) * smaller<int64_t>(columns, STEPS));
}

/* Rows of stream s's weights, of any type, as load_rows. */
static __device__ inline void load_weight_rows(float (*tile)[PITCH], const linear_args &a, int64_t s, int64_t first,
                                               int64_t column) {
    count_weights(a.N - first, a.K - column);
    int j = (int)threadIdx.x % STEPS;
    for (int i = (int)threadIdx.x / STEPS; i < TILE; i += THREADS / STEPS)
        tile[j][i] = first + i < a.N && column + j < a.K
                         ? weight_at(a.w, a.type, s * a.w_stream + (first + i) * a.K + column + j)
                         : 0.0f;
}

template <int STREAMS> struct linear_tiles { float w[STEPS][PITCH], x[STREAMS][STEPS][PITCH]; };

/* Bias, activation, and out. */
static __device__ inline void put_result(const linear_args &a, int64_t s, int64_t t, int64_t n, float sum) {
    if (t >= a.T || n >= a.N) return;
    int64_t at = (s * a.T + t) * a.N + n;
    if (a.bias) sum += a.bias[n];
    if (a.pre) a.pre[at] = sum;
    a.y[at] = activated(a.activation, sum);
}

/* y[s, t, n] = act(Σ_k x[s, t, k] W[n, k] M_s[n, k] + b[n]). Reads W once for each 64 tokens, x once for each 64 outputs, the
 * masks once for each 64 tokens; writes 4 S T N bytes; 2 S T N K operations. Block (n, t, streams). */
template <int STREAMS, int HAS_MASKS> static __global__ void linear_kernel(linear_args a) {
    SHARED(linear_tiles<STREAMS>, tile);
    int column = (int)threadIdx.x % SIDE, row = (int)threadIdx.x / SIDE;
    int first_stream = choose_layer(a) * STREAMS, n_streams = streams_here(a, first_stream, STREAMS);
    int64_t n0 = (int64_t)blockIdx.x * TILE, t0 = (int64_t)blockIdx.y * TILE;
    float sum[STREAMS][PER_THREAD][PER_THREAD] = {};
    for (int64_t k = 0; k < a.K; k += STEPS) {
        uint32_t bits[STREAMS][PER_THREAD] = {};
        load_weight_rows(tile.w, a, first_stream, n0, k);
        UNROLL for (int s = 0; s < STREAMS; s++) {
            if (s < n_streams && (!s || a.x_streams > 1))
                load_rows(tile.x[s], (const float *)a.x + x_stream(a, first_stream + s) * a.T * a.K, a.T, a.K, t0, k);
            for (int j = 0; HAS_MASKS && j < PER_THREAD; j++)
                if (s < n_streams && n0 + column + SIDE * j < a.N)
                    bits[s][j] = mask_word(a, first_stream + s, n0 + column + SIDE * j, k);
        }
        __syncthreads();
        for (int i = 0; i < STEPS; i++) {
            float w[PER_THREAD];
            for (int j = 0; j < PER_THREAD; j++) w[j] = tile.w[i][column + SIDE * j];
            UNROLL for (int s = 0; s < STREAMS; s++) {
                if (s >= n_streams) continue;
                const float *x = tile.x[HAS_MASKS && a.x_streams == 1 ? 0 : s][i];
                for (int j = 0; j < PER_THREAD; j++) {
                    float kept = !HAS_MASKS || bits[s][j] >> i & 1 ? w[j] : 0.0f;
                    for (int r = 0; r < PER_THREAD; r++) sum[s][r][j] += x[row + SIDE * r] * kept;
                }
            }
        }
        __syncthreads();
    }
    UNROLL for (int s = 0; s < STREAMS; s++) for (int r = 0; r < PER_THREAD && s < n_streams;
                                                  r++) for (int j = 0; j < PER_THREAD; j++)
        put_result(a, first_stream + s, t0 + row + SIDE * r, n0 + column + SIDE * j, sum[s][r][j]);
}

/* dx[s, t, k] = Σ_n dy[s, t, n] W[n, k] M_s[n, k]: the bytes and operations of linear_kernel, N and K changed. A thread has the
 * columns 4 c … 4 c + 3, whose bits lie in one byte. Block (k, t, streams). */
template <int STREAMS> struct linear_back_x_tiles { float w[STEPS][PITCH], dy[STREAMS][STEPS][PITCH]; };

template <int STREAMS, int HAS_MASKS> static __global__ void linear_back_x_kernel(linear_args a) {
    SHARED(linear_back_x_tiles<STREAMS>, tile);
    int column = (int)threadIdx.x % SIDE * PER_THREAD, row = (int)threadIdx.x / SIDE;
    int first_stream = (int)blockIdx.z * STREAMS, n_streams = streams_here(a, first_stream, STREAMS);
    int64_t k0 = (int64_t)blockIdx.x * TILE, t0 = (int64_t)blockIdx.y * TILE;
    float sum[STREAMS][PER_THREAD][PER_THREAD] = {};
    for (int64_t n = 0; n < a.N; n += STEPS) {
        load_columns(tile.w, a.w, a.type, first_stream * a.w_stream, a.N, a.K, n, k0);
        count_weights(a.K - k0, a.N - n);
        for (int s = 0; s < n_streams; s++)
            load_rows(tile.dy[s], a.dy + dy_stream(a, first_stream + s) * a.T * a.N, a.T, a.N, t0, n);
        __syncthreads();
        for (int i = 0; i < STEPS && n + i < a.N; i++) {
            float w[PER_THREAD];
            for (int j = 0; j < PER_THREAD; j++) w[j] = tile.w[i][column + j];
            UNROLL for (int s = 0; s < STREAMS; s++) {
                if (s >= n_streams) continue;
                uint32_t bits = 0;
                if (HAS_MASKS && k0 + column < a.K)
                    bits = (uint32_t)a.masks[((first_stream + s) * a.N + n + i) * a.mask_row + (k0 + column) / 8] >>
                           (column & 4);
                for (int j = 0; j < PER_THREAD; j++) {
                    float kept = !HAS_MASKS || bits >> j & 1 ? w[j] : 0.0f;
                    for (int r = 0; r < PER_THREAD; r++) sum[s][r][j] += tile.dy[s][i][row + SIDE * r] * kept;
                }
            }
        }
        __syncthreads();
    }
    UNROLL for (int s = 0; s < STREAMS; s++) for (int r = 0; r < PER_THREAD && s < n_streams;
                                                  r++) for (int j = 0; j < PER_THREAD;
                                                            j++) if (t0 + row + SIDE * r < a.T && k0 + column + j < a.K)
        a.y[((first_stream + s) * a.T + t0 + row + SIDE * r) * a.K + k0 + column + j] = sum[s][r][j];
}

struct linear_back_w_tiles {
    float dy[STEPS][PITCH], x[STEPS][PITCH];
};

/* dw = Σ_t dy[s, t, n] x[s, t, k]: summed over the streams under their masks ([N, K]), or each stream's, masked or not
 * ([S, N, K]). Reads dy once for each 64 columns of x and x once for each 64 of dy; 2 S T N K operations. Block (k, n, stream, or
 * one for all). */
static __global__ void linear_back_w_kernel(linear_args a) {
    SHARED(linear_back_w_tiles, tile);
    int column = (int)threadIdx.x % SIDE, row = (int)threadIdx.x / SIDE, is_summed = a.mode == SCBM_DW_SUMMED;
    int64_t k0 = (int64_t)blockIdx.x * TILE, n0 = (int64_t)blockIdx.y * TILE;
    int64_t first = is_summed ? 0 : (int64_t)blockIdx.z, end = is_summed ? a.S : first + 1;
    float total[PER_THREAD][PER_THREAD] = {};
    for (int64_t s = first; s < end; s++) {
        float sum[PER_THREAD][PER_THREAD] = {};
        for (int64_t t = 0; t < a.T; t += STEPS) {
            load_columns(tile.dy, a.dy, SCBM_F32, dy_stream(a, s) * a.T * a.N, a.T, a.N, t, n0);
            load_columns(tile.x, a.x, a.type, x_stream(a, s) * a.T * a.K, a.T, a.K, t, k0);
            __syncthreads();
            for (int i = 0; i < STEPS; i++)
                for (int r = 0; r < PER_THREAD; r++)
                    for (int j = 0; j < PER_THREAD; j++)
                        sum[r][j] += tile.dy[i][row + SIDE * r] * tile.x[i][column + SIDE * j];
            __syncthreads();
        }
        for (int r = 0; r < PER_THREAD; r++)
            for (int j = 0; j < PER_THREAD; j++) {
                int64_t n = n0 + row + SIDE * r, k = k0 + column + SIDE * j;
                if (n >= a.N || k >= a.K) continue;
                if (!a.masks || mask_bit(a.masks + (s * a.N + n) * a.mask_row, k)) total[r][j] += sum[r][j];
            }
    }
    for (int r = 0; r < PER_THREAD; r++)
        for (int j = 0; j < PER_THREAD; j++) {
            int64_t n = n0 + row + SIDE * r, k = k0 + column + SIDE * j;
            if (n < a.N && k < a.K) a.y[((is_summed ? 0 : first) * a.N + n) * a.K + k] = total[r][j];
        }
}

/* ---- The same three by matrix instructions, for BF16: operands rounded to bf16, sums in f32 ---- */

/* d += a bᵀ: of a [16, 16] row by row and b [8, 16]; lane l has of d rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next. */
static __device__ inline void multiply_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    shim_multiply_bf16(d, a, b);
#endif
}

enum { MMA_PITCH = STEPS + 8, MMA_COLUMNS = 4 }; /* a row of a tile; 8 outputs each, of a warp */

template <int STREAMS> struct linear_mma_tiles {
    __align__(16) uint16_t w[TILE][MMA_PITCH], x[STREAMS][TILE][MMA_PITCH];
};

/* Of both halves of a word those that two bits keep. */
static __device__ inline uint32_t keep_pair(uint32_t word, uint32_t bits) {
    return word & ((bits & 1 ? 0xffffu : 0u) | (bits & 2 ? 0xffff0000u : 0u));
}

static __device__ inline uint32_t pair_at(const uint16_t *two) {
    return *(const uint32_t *)two;
}

/* Rows [first, first + 64) of 32 columns of a matrix of any float type, as bf16. */
static __device__ inline void load_bf16(uint16_t (*tile)[MMA_PITCH], const void *matrix, int type, int64_t offset,
                                        int64_t rows, int64_t columns, int64_t first, int64_t column) {
    int j = (int)threadIdx.x % STEPS;
    for (int i = (int)threadIdx.x / STEPS; i < TILE; i += THREADS / STEPS)
        tile[i][j] = first + i < rows && column + j < columns
                         ? float_to_bf16(weight_at(matrix, type, offset + (first + i) * columns + column + j))
                         : 0;
}

/* Where a warp's results begin in a block's, and a lane's in each 16 x 8 of them. */
static __device__ inline int mma_row() {
    return (int)threadIdx.x / WARP % 4 * 16 + (int)threadIdx.x % WARP / 4;
}

static __device__ inline int mma_column() {
    return (int)threadIdx.x / WARP / 4 * 8 * MMA_COLUMNS;
}

static __device__ inline int mma_pair() {
    return (int)threadIdx.x % 4 * 2;
}

/* sum[s] += x wᵀ of the tiles, under the bits of the lane's columns of w; `is_one`: the streams have one x. */
template <int STREAMS, int HAS_MASKS>
static __device__ inline void multiply_tiles(float (&sum)[STREAMS][MMA_COLUMNS][4],
                                             const linear_mma_tiles<STREAMS> &tile,
                                             const uint32_t (&bits)[STREAMS][MMA_COLUMNS], int n_streams, int is_one) {
    const int row = mma_row(), column = mma_column() + (int)threadIdx.x % WARP / 4;
    UNROLL for (int i = mma_pair(); i < STEPS; i += 16) {
        uint32_t w[MMA_COLUMNS][2];
        UNROLL for (int j = 0; j < MMA_COLUMNS; j++) {
            w[j][0] = pair_at(&tile.w[column + 8 * j][i]);
            w[j][1] = pair_at(&tile.w[column + 8 * j][i + 8]);
        }
        UNROLL for (int s = 0; s < STREAMS; s++) {
            if (s >= n_streams) continue;
            const uint16_t(*x)[MMA_PITCH] = tile.x[HAS_MASKS && is_one ? 0 : s];
            const uint32_t rows[4] = {pair_at(&x[row][i]), pair_at(&x[row + 8][i]), pair_at(&x[row][i + 8]),
                                      pair_at(&x[row + 8][i + 8])};
            UNROLL for (int j = 0; j < MMA_COLUMNS; j++) {
                const uint32_t kept[2] = {HAS_MASKS ? keep_pair(w[j][0], bits[s][j] >> i) : w[j][0],
                                          HAS_MASKS ? keep_pair(w[j][1], bits[s][j] >> (i + 8)) : w[j][1]};
                multiply_bf16(sum[s][j], rows, kept);
            }
        }
    }
}

/* linear_kernel's results, bytes and operations; a warp has 16 tokens and 32 outputs. A pair of weights is read from shared memory
 * once, and the streams' bits are ANDed onto it in registers. Block (n, t, streams). */
template <int STREAMS, int HAS_MASKS> static __global__ void linear_mma_kernel(linear_args a) {
    SHARED(linear_mma_tiles<STREAMS>, tile);
    int first_stream = choose_layer(a) * STREAMS, n_streams = streams_here(a, first_stream, STREAMS);
    int64_t n0 = (int64_t)blockIdx.x * TILE, t0 = (int64_t)blockIdx.y * TILE;
    int row = mma_row(), column = mma_column(), pair = mma_pair(), group = (int)threadIdx.x % WARP / 4;
    float sum[STREAMS][MMA_COLUMNS][4] = {};
    for (int64_t k = 0; k < a.K; k += STEPS) {
        uint32_t bits[STREAMS][MMA_COLUMNS] = {};
        load_bf16(tile.w, a.w, a.type, first_stream * a.w_stream, a.N, a.K, n0, k);
        count_weights(a.N - n0, a.K - k);
        UNROLL for (int s = 0; s < STREAMS; s++) {
            if (s < n_streams && (!s || a.x_streams > 1))
                load_bf16(tile.x[s], a.x, SCBM_F32, x_stream(a, first_stream + s) * a.T * a.K, a.T, a.K, t0, k);
            UNROLL for (int j = 0; HAS_MASKS && j < MMA_COLUMNS; j++) {
                const int64_t n = n0 + column + group + 8 * j;
                if (s < n_streams && n < a.N) bits[s][j] = mask_word(a, first_stream + s, n, k);
            }
        }
        __syncthreads();
        multiply_tiles<STREAMS, HAS_MASKS>(sum, tile, bits, n_streams, a.x_streams == 1);
        __syncthreads();
    }
    UNROLL for (int s = 0; s < STREAMS; s++) UNROLL for (int j = 0; j < MMA_COLUMNS; j++)
        UNROLL for (int i = 0; i < 4; i++) if (s < n_streams)
            put_result(a, first_stream + s, t0 + row + i / 2 * 8, n0 + column + 8 * j + pair + i % 2, sum[s][j][i]);
}

/* 64 columns of rows [first, first + 32) of a matrix of any float type, as bf16: tile[column][row]. */
static __device__ inline void load_bf16_turned(uint16_t (*tile)[MMA_PITCH], const void *matrix, int type,
                                               int64_t offset, int64_t rows, int64_t columns, int64_t first,
                                               int64_t column) {
    const int j = (int)threadIdx.x % TILE;
    for (int i = (int)threadIdx.x / TILE * 2; i < STEPS; i += THREADS / TILE * 2) {
        const int64_t at = offset + (first + i) * columns + column + j;
        const int n = column + j < columns ? (int)smaller<int64_t>(2, rows - first - i) : 0;
        tile[j][i] = n > 0 ? float_to_bf16(weight_at(matrix, type, at)) : 0;
        tile[j][i + 1] = n > 1 ? float_to_bf16(weight_at(matrix, type, at + columns)) : 0;
    }
}

/* Bit c of lane r becomes bit r of lane c: in each step lanes and bits that differ in one digit change places. */
static __device__ inline uint32_t turned(uint32_t x) {
    const uint32_t lane = threadIdx.x % WARP;
    uint32_t low = 0x0000ffff;
    UNROLL for (int by = WARP / 2; by; by /= 2) {
        const uint32_t other = __shfl_xor_sync(WHOLE_WARP, x, by);
        x = lane & (uint32_t)by ? (x & ~low) | (other >> by & low) : (x & low) | (other << by & ~low);
        low ^= low << by / 2;
    }
    return x;
}

template <int STREAMS> struct linear_back_mma_tiles : linear_mma_tiles<STREAMS> {
    uint32_t bits[STREAMS][TILE]; /* of 32 rows of the masks, column by column */
};

/* Rows [n, n + 32) of the masks' columns [k, k + 64). */
template <int STREAMS>
static __device__ inline void load_bits_turned(linear_back_mma_tiles<STREAMS> &tile, const linear_args &a,
                                               int first_stream, int n_streams, int64_t n, int64_t k) {
    const int lane = (int)threadIdx.x % WARP;
    for (int part = (int)threadIdx.x / WARP; part < 2 * n_streams; part += WARPS) {
        const int64_t column = k + part % 2 * WARP;
        const int is_there = n + lane < a.N && column < a.K;
        const uint32_t word = turned(is_there ? mask_word(a, first_stream + part / 2, n + lane, column) : 0);
        tile.bits[part / 2][part % 2 * WARP + lane] = word;
    }
}

/* linear_back_x_kernel's results, bytes and operations, as linear_mma_kernel: the tiles of the weights and the masks' bits are turned
 * on their way into shared memory. Block (k, t, streams). */
template <int STREAMS, int HAS_MASKS> static __global__ void linear_back_x_mma_kernel(linear_args a) {
    SHARED(linear_back_mma_tiles<STREAMS>, tile);
    int first_stream = (int)blockIdx.z * STREAMS, n_streams = streams_here(a, first_stream, STREAMS);
    int64_t k0 = (int64_t)blockIdx.x * TILE, t0 = (int64_t)blockIdx.y * TILE;
    int row = mma_row(), column = mma_column(), pair = mma_pair(), group = (int)threadIdx.x % WARP / 4;
    float sum[STREAMS][MMA_COLUMNS][4] = {};
    for (int64_t n = 0; n < a.N; n += STEPS) {
        uint32_t bits[STREAMS][MMA_COLUMNS] = {};
        load_bf16_turned(tile.w, a.w, a.type, first_stream * a.w_stream, a.N, a.K, n, k0);
        count_weights(a.K - k0, a.N - n);
        for (int s = 0; s < n_streams; s++)
            load_bf16(tile.x[s], a.dy, SCBM_F32, dy_stream(a, first_stream + s) * a.T * a.N, a.T, a.N, t0, n);
        if (HAS_MASKS) load_bits_turned(tile, a, first_stream, n_streams, n, k0);
        __syncthreads();
        UNROLL for (int s = 0; s < STREAMS; s++)
            UNROLL for (int j = 0; HAS_MASKS && j < MMA_COLUMNS; j++) if (s < n_streams)
                bits[s][j] = tile.bits[s][column + group + 8 * j];
        multiply_tiles<STREAMS, HAS_MASKS>(sum, tile, bits, n_streams, 0);
        __syncthreads();
    }
    UNROLL for (int s = 0; s < STREAMS; s++) UNROLL for (int j = 0; j < MMA_COLUMNS; j++)
        UNROLL for (int i = 0; i < 4; i++) {
        const int64_t t = t0 + row + i / 2 * 8, k = k0 + column + 8 * j + pair + i % 2;
        if (s < n_streams && t < a.T && k < a.K) a.y[((first_stream + s) * a.T + t) * a.K + k] = sum[s][j][i];
    }
}

/* linear_back_w_kernel's results, bytes and operations: dyᵀ x of 64 outputs and 64 columns, by 32 tokens. */
static __global__ void linear_back_w_mma_kernel(linear_args a) {
    SHARED(linear_mma_tiles<1>, tile);
    int64_t k0 = (int64_t)blockIdx.x * TILE, n0 = (int64_t)blockIdx.y * TILE;
    int is_summed = a.mode == SCBM_DW_SUMMED, first = is_summed ? 0 : (int)blockIdx.z;
    int row = mma_row(), column = mma_column(), pair = mma_pair(), end = is_summed ? (int)a.S : first + 1;
    float total[MMA_COLUMNS][4] = {};
    for (int s = first; s < end; s++) {
        float sum[1][MMA_COLUMNS][4] = {};
        const uint32_t none[1][MMA_COLUMNS] = {};
        for (int64_t t = 0; t < a.T; t += STEPS) {
            load_bf16_turned(tile.x[0], a.dy, SCBM_F32, dy_stream(a, s) * a.T * a.N, a.T, a.N, t, n0);
            load_bf16_turned(tile.w, a.x, a.type, x_stream(a, s) * a.T * a.K, a.T, a.K, t, k0);
            __syncthreads();
            multiply_tiles<1, 0>(sum, tile, none, 1, 0);
            __syncthreads();
        }
        UNROLL for (int j = 0; j < MMA_COLUMNS; j++) UNROLL for (int i = 0; i < 4; i++) {
            const int64_t n = n0 + row + i / 2 * 8, k = k0 + column + 8 * j + pair + i % 2;
            if (n >= a.N || k >= a.K) continue;
            if (!a.masks || mask_bit(a.masks + (s * a.N + n) * a.mask_row, k)) total[j][i] += sum[0][j][i];
        }
    }
    UNROLL for (int j = 0; j < MMA_COLUMNS; j++) UNROLL for (int i = 0; i < 4; i++) {
        const int64_t n = n0 + row + i / 2 * 8, k = k0 + column + 8 * j + pair + i % 2;
        if (n < a.N && k < a.K) a.y[(first * a.N + n) * a.K + k] = total[j][i];
    }
}

/* `rows`: x, or dy. Without masks the streams are more rows of one product. */
static linear_args linear_args_of(const scbm_view *rows, const scbm_view *w, const scbm_view *masks) {
    linear_args a = {};
    a.w = w->data;
    a.type = w->type;
    a.N = w->shape[0];
    a.K = w->shape[1];
    a.S = a.x_streams = a.dy_streams = 1;
    a.T = rows_of(rows);
    if (masks && masks->data) {
        a.masks = (const uint8_t *)masks->data;
        a.mask_row = masks->shape[2];
        a.S = masks->shape[0];
        a.x_streams = a.dy_streams = rows->shape[0];
        a.T = rows->shape[1];
    }
    return a;
}

static const scbm_view *source_view(const scbm_kernel_call *call, int i) {
    return i < call->node->n_sources && call->node->source[i] ? &call->source[i] : NULL;
}

/* Launches a kernel for 1, 2 or 4 streams at once. */
#define LAUNCH_STREAMS(queue, kernel, tiles, columns, a)                                                               \
    do {                                                                                                               \
        int at_once = a.S > 2 ? MANY_STREAMS : (int)a.S;                                                               \
        dim3 blocks((unsigned)ceil_div(columns, TILE), (unsigned)ceil_div(a.T, TILE),                                  \
                    (unsigned)(ceil_div(a.S, at_once) * larger(1, a.layers)));                                         \
        if (!a.masks) LAUNCH(queue, (kernel<1, 0>), blocks, THREADS, sizeof(tiles<1>), a);                             \
        else if (at_once == 1) LAUNCH(queue, (kernel<1, 1>), blocks, THREADS, sizeof(tiles<1>), a);                    \
        else if (at_once == 2) LAUNCH(queue, (kernel<2, 1>), blocks, THREADS, sizeof(tiles<2>), a);                    \
        else LAUNCH(queue, (kernel<MANY_STREAMS, 1>), blocks, THREADS, sizeof(tiles<MANY_STREAMS>), a);                \
    } while (0)

typedef struct linear_batch {
    linear_args a;
    scbm_precision precision;
    int can_grow;
} linear_batch;

static void launch_linears(scbm_queue *queue) {
    const linear_batch b = *(const linear_batch *)((cuda_queue *)queue)->batch;
    linear_args a = b.a;
    if (b.precision == SCBM_PRECISION_BF16) LAUNCH_STREAMS(queue, linear_mma_kernel, linear_mma_tiles, a.N, a);
    else LAUNCH_STREAMS(queue, linear_kernel, linear_tiles, a.N, a);
}

static int is_apart(const linear_args &a, const float *y, const float *other) {
    const int64_t n = a.S * a.T * a.N;
    return !y || !other || y + n <= other || other + n <= y;
}

/* Whether b reads a's x in the same way, and neither writes what the other does. */
static int goes_with(const linear_args &a, const linear_args &b) {
    if (a.x != b.x || a.S != b.S || a.T != b.T || a.K != b.K || a.N != b.N || a.x_streams != b.x_streams) return 0;
    if (a.type != b.type || a.activation != b.activation || !a.masks != !b.masks || a.mask_row != b.mask_row) return 0;
    int is_free = is_apart(a, a.y, b.y) && is_apart(a, a.y, b.pre) && is_apart(a, a.pre, b.y) &&
                  is_apart(a, a.pre, b.pre);
    for (int i = 0; i + 1 < a.layers; i++)
        is_free &= is_apart(a, a.other[i].y, b.y) && is_apart(a, a.other[i].y, b.pre) &&
                   is_apart(a, a.other[i].pre, b.y) && is_apart(a, a.other[i].pre, b.pre);
    return is_free;
}

/* 1 if a tensor is the caller's own, and so no node's result. */
static int is_own(const scbm_view *view) {
    return !view || !view->data || !view->tensor->graph;
}

/* Layers that follow one another and read the same x are one launch, where all else that they read is the caller's: the memory
 * of a node's result may be that of the next layer's y. */
static scbm_status cuda_linear(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *w = &call->source[1], *bias = source_view(call, 2), *masks = source_view(call, 3);
    linear_args a = linear_args_of(&call->source[0], w, masks);
    if (!a.T || !a.N || !a.S) return SCBM_OK;
    a.x = call->source[0].data;
    a.bias = bias ? (const float *)bias->data : NULL;
    a.y = (float *)call->result[0].data;
    a.pre = call->node->n_results > 1 ? (float *)call->result[1].data : NULL;
    a.activation = (int)call->node->integer[0];
    const int is_free = is_own(w) && is_own(bias) && is_own(masks);
    linear_batch *b = (linear_batch *)waiting_batch(queue, launch_linears);
    if (b && b->can_grow && is_free && b->precision == call->precision && b->a.layers < MOST_LAYERS &&
        goes_with(b->a, a)) {
        b->a.layers = larger(1, b->a.layers);
        b->a.other[b->a.layers++ - 1] = {a.y, a.pre, a.bias, a.w, a.masks};
        return SCBM_OK;
    }
    b = (linear_batch *)begin_batch(queue, launch_linears);
    b->a = a;
    b->precision = call->precision;
    b->can_grow = is_free;
    return SCBM_OK;
}

static scbm_status cuda_linear_back_x(scbm_queue *queue, const scbm_kernel_call *call) {
    linear_args a = linear_args_of(&call->source[0], &call->source[1], source_view(call, 2));
    if (!a.T || !a.K || !a.S) return SCBM_OK;
    a.dy = (const float *)call->source[0].data;
    a.y = (float *)call->result[0].data;
    if (call->precision == SCBM_PRECISION_BF16)
        LAUNCH_STREAMS(queue, linear_back_x_mma_kernel, linear_back_mma_tiles, a.K, a);
    else LAUNCH_STREAMS(queue, linear_back_x_kernel, linear_back_x_tiles, a.K, a);
    return launched(queue, call);
}

static void launch_back_w(scbm_queue *queue, const linear_args &a, dim3 blocks, int is_bf16) {
    if (is_bf16) LAUNCH(queue, linear_back_w_mma_kernel, blocks, THREADS, sizeof(linear_mma_tiles<1>), a);
    else LAUNCH(queue, linear_back_w_kernel, blocks, THREADS, sizeof(linear_back_w_tiles), a);
}

static scbm_status cuda_linear_back_w(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *dy = &call->source[0], *x = &call->source[1], *w = &call->source[2], *masks = source_view(call, 3);
    linear_args a = {};
    a.mode = (int)call->node->integer[0];
    a.S = dy->n_dims == 3 ? dy->shape[0] : 1;
    a.x_streams = x->n_dims == 3 ? x->shape[0] : 1;
    a.dy_streams = a.S;
    a.T = dy->shape[dy->n_dims - 2];
    a.N = w->shape[0];
    a.K = w->shape[1];
    a.dy = (const float *)dy->data;
    a.x = x->data;
    a.y = (float *)call->result[0].data;
    if (masks && a.mode != SCBM_DW_DENSE) {
        a.masks = (const uint8_t *)masks->data;
        a.mask_row = masks->shape[2];
    }
    if (!a.N || !a.K || !a.S) return SCBM_OK;
    dim3 blocks((unsigned)ceil_div(a.K, TILE), (unsigned)ceil_div(a.N, TILE),
                a.mode == SCBM_DW_SUMMED ? 1 : (unsigned)a.S);
    launch_back_w(queue, a, blocks, call->precision == SCBM_PRECISION_BF16);
    return launched(queue, call);
}

/* ---- Their parts: products stream by stream, masks onto weights, sums under masks ---- */

static int64_t streams_of(const scbm_view *view) {
    return view->n_dims == 3 ? view->shape[0] : 1;
}

/* The linear kernels without masks, with weights of each stream: y is linear's, its gradient by x, or by w. */
static scbm_status cuda_product(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *b = &call->source[1], *y = &call->result[0];
    int64_t form = call->node->integer[0], rows = y->shape[y->n_dims - 2], columns = columns_of(y);
    linear_args l = {};
    if (!elements_of(y)) return SCBM_OK;
    l.y = (float *)y->data;
    l.S = streams_of(y);
    l.type = b->type;
    l.dy = (const float *)a->data;
    l.dy_streams = streams_of(a);
    l.x_streams = form == SCBM_PRODUCT_TN ? streams_of(b) : streams_of(a);
    l.x = form == SCBM_PRODUCT_TN ? b->data : a->data;
    l.w = b->data;
    if (streams_of(b) > 1) l.w_stream = elements_of(b) / streams_of(b);
    l.T = a->shape[a->n_dims - 2];
    l.N = form == SCBM_PRODUCT_NT ? columns : a->shape[a->n_dims - 1];
    l.K = columns_of(b);
    l.mode = SCBM_DW_DENSE;
    const int is_bf16 = call->node->integer[1] && call->precision == SCBM_PRECISION_BF16;
    dim3 blocks((unsigned)ceil_div(columns, TILE), (unsigned)ceil_div(rows, TILE), (unsigned)l.S);
    if (form == SCBM_PRODUCT_TN) launch_back_w(queue, l, blocks, is_bf16);
    else if (form == SCBM_PRODUCT_NT && is_bf16)
        LAUNCH(queue, (linear_mma_kernel<1, 0>), blocks, THREADS, sizeof(linear_mma_tiles<1>), l);
    else if (form == SCBM_PRODUCT_NT) LAUNCH(queue, (linear_kernel<1, 0>), blocks, THREADS, sizeof(linear_tiles<1>), l);
    else if (is_bf16)
        LAUNCH(queue, (linear_back_x_mma_kernel<1, 0>), blocks, THREADS, sizeof(linear_back_mma_tiles<1>), l);
    else LAUNCH(queue, (linear_back_x_kernel<1, 0>), blocks, THREADS, sizeof(linear_back_x_tiles<1>), l);
    return launched(queue, call);
}

/* y[s, n, k] = M_s ? w : 0: reads the weights once for each stream and the masks, writes 4 S N K bytes. a.S streams of masks. */
static __global__ void apply_masks_kernel(linear_args a) {
    int64_t i = thread_index(), k = i % a.K, row = i / a.K;
    if (row >= a.S * a.N) return;
    int64_t from = a.w_stream ? i : i % (a.N * a.K);
    a.y[i] = mask_bit(a.masks + row * a.mask_row, k) ? weight_at(a.w, a.type, from) : 0.0f;
}

/* y[n, k] = Σ_s M_s dw[s, n, k]: reads 4 S N K bytes and the masks, writes 4 N K. */
static __global__ void sum_masked_kernel(linear_args a) {
    int64_t i = thread_index(), k = i % a.K, n = i / a.K;
    if (n >= a.N) return;
    float sum = 0.0f;
    for (int64_t s = 0; s < a.S; s++)
        if (mask_bit(a.masks + (s * a.N + n) * a.mask_row, k)) sum += ((const float *)a.w)[(s * a.N + n) * a.K + k];
    a.y[i] = sum;
}

/* apply_masks and sum_masked, whose first source is a matrix, or one for each stream. */
static scbm_status cuda_masked_weights(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *w = &call->source[0], *masks = &call->source[1];
    linear_args a = {};
    a.y = (float *)call->result[0].data;
    a.w = w->data;
    a.type = w->type;
    a.masks = (const uint8_t *)masks->data;
    a.mask_row = masks->shape[2];
    a.S = masks->shape[0];
    a.N = masks->shape[1];
    a.K = columns_of(w);
    a.w_stream = w->n_dims == 3 ? a.N * a.K : 0;
    int64_t n = elements_of(&call->result[0]);
    if (!n) return SCBM_OK;
    if (call->node->op == SCBM_OP_APPLY_MASKS) LAUNCH(queue, apply_masks_kernel, blocks_for(n), THREADS, 0, a);
    else LAUNCH(queue, sum_masked_kernel, blocks_for(n), THREADS, 0, a);
    return launched(queue, call);
}

/* ---- Heads side by side: columns groups[k] … of C read stream k of z [S, N, d], or the only one. They are small. ---- */

typedef struct heads_args {
    float *y;
    const float *z, *w, *bias, *dy;
    const int32_t *groups;
    int64_t S, N, d, C;
} heads_args;

static __device__ inline int64_t group_of(const heads_args &a, int64_t c) {
    int64_t k = 0;
    while (c >= a.groups[k + 1]) k++;
    return k;
}

/* The row of z that text n's column c reads. */
static __device__ inline const float *head_row(const heads_args &a, int64_t c, int64_t n) {
    return a.z + ((a.S == 1 ? 0 : group_of(a, c)) * a.N + n) * a.d;
}

/* y[n, c] = z · w[c] + b[c], a warp each: reads 4 (S N d + C d), writes 4 N C bytes. */
static __global__ void group_linear_kernel(heads_args a) {
    int64_t i = thread_index() / WARP, n = i / a.C, c = i % a.C;
    if (n >= a.N) return;
    const float *z = head_row(a, c, n), *w = a.w + c * a.d;
    float sum = 0.0f;
    for (int64_t j = threadIdx.x % WARP; j < a.d; j += WARP) sum += z[j] * w[j];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) a.y[i] = sum + (a.bias ? a.bias[c] : 0.0f);
}

/* dz[s, n, j] = Σ_c dy[n, c] w[c, j] over the columns that read it: reads 4 (N C + C d), writes 4 S N d bytes. */
static __global__ void group_linear_back_z_kernel(heads_args a) {
    int64_t i = thread_index(), j = i % a.d, n = i / a.d % a.N, s = i / a.d / a.N;
    if (s >= a.S) return;
    int64_t first = a.S == 1 ? 0 : a.groups[s], end = a.S == 1 ? a.C : a.groups[s + 1];
    float sum = 0.0f;
    for (int64_t c = first; c < end; c++) sum += a.dy[n * a.C + c] * a.w[c * a.d + j];
    a.y[i] = sum;
}

/* dw[c, j] = Σ_n dy[n, c] z[n, j]: reads 4 (N C + S N d), writes 4 C d bytes. */
static __global__ void group_linear_back_w_kernel(heads_args a) {
    int64_t i = thread_index(), j = i % a.d, c = i / a.d;
    if (c >= a.C) return;
    const float *z = head_row(a, c, 0);
    float sum = 0.0f;
    for (int64_t n = 0; n < a.N; n++) sum += a.dy[n * a.C + c] * z[n * a.d + j];
    a.y[i] = sum;
}

static heads_args heads_args_of(const scbm_view *z, const scbm_view *w, const scbm_view *groups,
                                const scbm_view *result) {
    heads_args a = {};
    a.z = (const float *)z->data;
    a.w = (const float *)w->data;
    a.groups = (const int32_t *)groups->data;
    a.y = (float *)result->data;
    a.S = z->shape[0];
    a.N = z->shape[1];
    a.d = z->shape[2];
    a.C = w->shape[0];
    return a;
}

static scbm_status cuda_group_linear(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *bias = source_view(call, 3);
    heads_args a = heads_args_of(&call->source[0], &call->source[1], &call->source[2], &call->result[0]);
    a.bias = bias ? (const float *)bias->data : NULL;
    if (a.N && a.C) LAUNCH(queue, group_linear_kernel, blocks_for(a.N * a.C * WARP), THREADS, 0, a);
    return launched(queue, call);
}

static scbm_status cuda_group_linear_back_z(scbm_queue *queue, const scbm_kernel_call *call) {
    heads_args a = heads_args_of(&call->source[3], &call->source[1], &call->source[2], &call->result[0]);
    a.dy = (const float *)call->source[0].data;
    if (a.S && a.N && a.d) LAUNCH(queue, group_linear_back_z_kernel, blocks_for(a.S * a.N * a.d), THREADS, 0, a);
    return launched(queue, call);
}

static scbm_status cuda_group_linear_back_w(scbm_queue *queue, const scbm_kernel_call *call) {
    heads_args a = heads_args_of(&call->source[1], &call->source[3], &call->source[2], &call->result[0]);
    a.dy = (const float *)call->source[0].data;
    if (a.C && a.d) LAUNCH(queue, group_linear_back_w_kernel, blocks_for(a.C * a.d), THREADS, 0, a);
    return launched(queue, call);
}

static const kernel_row linear_rows[] = {
    {SCBM_OP_LINEAR, {cuda_linear, NULL, NULL}},
    {SCBM_OP_LINEAR_BACK_X, {cuda_linear_back_x, NULL, NULL}},
    {SCBM_OP_LINEAR_BACK_W, {cuda_linear_back_w, NULL, NULL}},
    {SCBM_OP_PRODUCT, {cuda_product, NULL, NULL}},
    {SCBM_OP_APPLY_MASKS, {cuda_masked_weights, NULL, NULL}},
    {SCBM_OP_SUM_MASKED, {cuda_masked_weights, NULL, NULL}},
    {SCBM_OP_GROUP_LINEAR, {cuda_group_linear, NULL, NULL}},
    {SCBM_OP_GROUP_LINEAR_BACK_Z, {cuda_group_linear_back_z, NULL, NULL}},
    {SCBM_OP_GROUP_LINEAR_BACK_W, {cuda_group_linear_back_w, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: attention
 *
 * Texts lie end to end; q, k, v are [S, T, H · D]. A block of eight warps has one stream, one head and up to 32 tokens as rows, a
 * warp some of them each; for each text among them it walks the text's other tokens by 32, which lie in shared memory, a lane
 * each. Nothing is T × T. Tokens are counted from their text's begin, so that a text's bits are the same alone.
 * Heads of more than 128 are left to the parts that the op decomposes into.
 * ---------------------------------------------------------------------------------------- */

enum { LARGEST_HEAD = 128 };

typedef struct attention_args {
    float *y, *lse, *dq, *dk, *dv, *dbias, *delta; /* delta [S, H, T]: dy · y of each row */
    const float *q, *k, *v, *dy, *bias;            /* bias [2 reach + 1, H], or NULL */
    const int32_t *offsets;
    int64_t S, T, H, D, reach, texts;
    float scale, dropped; /* 1 / (1 - p), 0: without dropout */
    uint32_t limit, place, step;
    uint64_t seed;
    int causal;
} attention_args;

/* The first text that ends after token t. */
static __device__ inline int64_t text_of(const int32_t *offsets, int64_t texts, int64_t t) {
    int64_t low = 0, high = texts;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (offsets[middle + 1] > t) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* What a probability is multiplied with: of query t (of all tokens) and key j (of its text), 0 or 1 / (1 - p), as the CPU's. */
static __device__ inline float attention_factor(const attention_args &a, int64_t sh, int64_t t, int64_t j) {
    uint32_t word[4];
    if (a.dropped == 0.0f) return 1.0f;
    philox(a.seed, (uint64_t)a.step << 32 | a.place << 16 | (uint32_t)sh, (uint64_t)(t / 4) << 32 | (uint32_t)j, word);
    uint32_t drawn = t & 2 ? (t & 1 ? word[3] : word[2]) : (t & 1 ? word[1] : word[0]);
    return drawn >= a.limit ? a.dropped : 0.0f;
}

/* The score of query i and key j of one text, given q · k. */
static __device__ inline float attention_score(const attention_args &a, int64_t h, int64_t i, int64_t j,
                                               float product) {
    return product * a.scale + (a.bias ? a.bias[(a.reach + j - i) * a.H + h] : 0.0f);
}

template <int PARTS> struct attention_tiles {
    static constexpr int ROWS = PARTS <= 2 ? 4 : 1, WIDTH = PARTS * WARP; /* of a warp; of a head, rounded up */
    float a[WARP][WIDTH + 1], b[WARP][WIDTH + 1];                         /* the text's other tokens */
    float row_a[WARPS * ROWS][WIDTH], row_b[WARPS * ROWS][WIDTH];
    float weight[2][WARPS][WARP]; /* of the other tokens, in each warp's row */
};

/* Tokens [first, end) of a head, `rows` at most, and zeros after them. */
template <int WIDTH, int PITCH_OF_ROWS>
static __device__ inline void load_tokens(float (*to)[PITCH_OF_ROWS], int rows, const attention_args &a,
                                          const float *from, int64_t sh, int64_t first, int64_t end) {
    from += sh / a.H * a.T * a.H * a.D + sh % a.H * a.D;
    for (int i = (int)threadIdx.x; i < rows * WIDTH; i += THREADS) {
        int64_t t = first + i / WIDTH, d = i % WIDTH;
        to[i / WIDTH][d] = t < end && d < a.D ? from[t * a.H * a.D + d] : 0.0f;
    }
}

template <int WIDTH> static __device__ inline float row_dot(const float *a, const float *b) {
    float sum = 0.0f;
    for (int d = 0; d < WIDTH; d++) sum += a[d] * b[d];
    return sum;
}

/* Where dimension d of token t stands in [S, T, H · D]. */
static __device__ inline int64_t token_at(const attention_args &a, int64_t sh, int64_t t, int64_t d) {
    return (sh / a.H * a.T + t) * a.H * a.D + sh % a.H * a.D + d;
}

/* A row in progress: Σ exp(score - max), a part in each lane, and Σ exp(score - max) v, PARTS dimensions in each. */
template <int PARTS> struct attention_row { float max, sum, y[PARTS]; };

/* Up to 32 keys more for query i of the text that begins at token t0. */
template <int PARTS>
static __device__ inline void attend(attention_row<PARTS> &row, attention_tiles<PARTS> &tile, const attention_args &a,
                                     int64_t sh, int64_t t0, int64_t i, int64_t j0, int64_t n, const float *q) {
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    float score = -INFINITY;
    if (j0 + lane < n) score = attention_score(a, sh % a.H, i, j0 + lane, row_dot<PARTS * WARP>(q, tile.a[lane]));
    float max = fmaxf(row.max, warp_max(score)), base = max == -INFINITY ? 0.0f : max;
    float p = expf(score - base), shrunk = expf(row.max - base);
    row.max = max;
    row.sum = row.sum * shrunk + p;
    __syncwarp();
    tile.weight[0][warp][lane] = p > 0.0f ? p * attention_factor(a, sh, t0 + i, j0 + lane) : p;
    __syncwarp();
    for (int d = 0; d < PARTS; d++) row.y[d] *= shrunk;
    for (int j = 0; j < WARP && j0 + j < n; j++)
        for (int d = 0; d < PARTS; d++) row.y[d] += tile.weight[0][warp][j] * tile.b[j][d * WARP + lane];
}

template <int PARTS>
static __device__ inline void put_attention(const attention_row<PARTS> &row, const attention_args &a, int64_t sh,
                                            int64_t t) {
    int lane = (int)threadIdx.x % WARP;
    float sum = warp_sum(row.sum), inverse = sum < 0x1p-126f ? 0.0f : 1.0f / sum;
    for (int d = 0; d < PARTS; d++)
        if (d * WARP + lane < a.D) a.y[token_at(a, sh, t, d * WARP + lane)] = row.y[d] * inverse;
    if (a.lse && !lane) a.lse[sh * a.T + t] = sum < 0x1p-126f ? -INFINITY : row.max + logf(sum);
}

/* Rows that are in no text. */
template <int PARTS>
static __device__ inline void zero_attention(const attention_args &a, int64_t sh, int64_t first, int64_t end) {
    attention_row<PARTS> none = {};
    none.sum = 1.0f / WARP;
    for (int64_t t = first + threadIdx.x / WARP; t < end; t += WARPS)
        if (t < a.offsets[0] || t >= a.offsets[a.texts]) put_attention(none, a, sh, t);
}

/* y = softmax(scale q kᵀ + bias) v, and the log of the sums [S, H, T]: reads q once, k and v of a text once for each 32 (heads
 * above 64: 8) of its tokens, writes y: 16 S T H D bytes at least; 4 S H D Σ len² operations. Block (tokens, stream and head). */
template <int PARTS> static __global__ void attention_kernel(attention_args a) {
    SHARED(attention_tiles<PARTS>, tile);
    constexpr int ROWS = attention_tiles<PARTS>::ROWS, WIDTH = PARTS * WARP;
    int64_t sh = blockIdx.y, first = (int64_t)blockIdx.x * WARPS * ROWS, end = smaller(first + WARPS * ROWS, a.T);
    int warp = (int)threadIdx.x / WARP;
    load_tokens<WIDTH>(tile.row_a, WARPS * ROWS, a, a.q, sh, first, end);
    zero_attention<PARTS>(a, sh, first, end);
    for (int64_t n = text_of(a.offsets, a.texts, first); n < a.texts && a.offsets[n] < end; n++) {
        int64_t t0 = a.offsets[n], len = a.offsets[n + 1] - t0, seen = a.causal ? smaller(len, end - t0) : len;
        attention_row<PARTS> row[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) row[r] = {-INFINITY, 0.0f, {}};
        for (int64_t j0 = 0; j0 < seen; j0 += WARP) {
            __syncthreads();
            load_tokens<WIDTH>(tile.a, WARP, a, a.k, sh, t0 + j0, t0 + len);
            load_tokens<WIDTH>(tile.b, WARP, a, a.v, sh, t0 + j0, t0 + len);
            __syncthreads();
            UNROLL for (int r = 0; r < ROWS; r++) {
                int64_t i = first + warp * ROWS + r - t0;
                if (i >= 0 && i < len && t0 + i < end)
                    attend(row[r], tile, a, sh, t0, i, j0, a.causal ? smaller(len, i + 1) : len,
                           tile.row_a[warp * ROWS + r]);
            }
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            int64_t i = first + warp * ROWS + r - t0;
            if (i >= 0 && i < len && t0 + i < end) put_attention(row[r], a, sh, t0 + i);
        }
    }
}

/* delta[s, h, t] = dy · y, a warp each: reads 8 S T H D, writes 4 S H T bytes. */
static __global__ void attention_delta_kernel(attention_args a) {
    int64_t i = thread_index() / WARP, t = i % a.T, sh = i / a.T;
    if (sh >= a.S * a.H) return;
    float sum = 0.0f;
    for (int64_t d = threadIdx.x % WARP; d < a.D; d += WARP)
        sum += a.dy[token_at(a, sh, t, d)] * a.y[token_at(a, sh, t, d)];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) a.delta[i] = sum;
}

/* Of query i and key j of the text at t0, with q · k and dy · v: the probability times the dropout's factor, and the score's
 * gradient without the scale. */
static __device__ inline float2 attention_gradient(const attention_args &a, int64_t sh, int64_t t0, int64_t i,
                                                   int64_t j, float qk, float dyv) {
    if (a.causal && j > i) return make_float2(0.0f, 0.0f);
    float p = expf(attention_score(a, sh % a.H, i, j, qk) - a.lse[sh * a.T + t0 + i]);
    float factor = attention_factor(a, sh, t0 + i, j);
    return make_float2(p * factor, p * (dyv * factor - a.delta[sh * a.T + t0 + i]));
}

/* The gradients of a row in progress: of q, or of k and v. */
template <int PARTS> struct attention_back_row { float a[PARTS], b[PARTS]; };

/* Up to 32 other tokens more for token i of a text of n. */
template <int PARTS, int IS_KEYS>
static __device__ inline void attend_back(attention_back_row<PARTS> &row, attention_tiles<PARTS> &tile,
                                          const attention_args &a, int64_t sh, int64_t t0, int64_t i, int64_t j0,
                                          int64_t n, int at) {
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int64_t j = j0 + lane;
    float2 g = make_float2(0.0f, 0.0f);
    if (j < n) {
        float qk = row_dot<PARTS * WARP>(tile.row_a[at], tile.a[lane]),
              dyv = row_dot<PARTS * WARP>(tile.row_b[at], tile.b[lane]);
        g = IS_KEYS ? attention_gradient(a, sh, t0, j, i, qk, dyv) : attention_gradient(a, sh, t0, i, j, qk, dyv);
    }
    __syncwarp();
    tile.weight[0][warp][lane] = g.x;
    tile.weight[1][warp][lane] = g.y * a.scale;
    __syncwarp();
    for (int l = 0; l < WARP && j0 + l < n; l++)
        for (int d = 0; d < PARTS; d++) {
            row.a[d] += tile.weight[1][warp][l] * tile.a[l][d * WARP + lane];
            if (IS_KEYS) row.b[d] += tile.weight[0][warp][l] * tile.b[l][d * WARP + lane];
        }
}

/* Tokens in no text get zeros. */
template <int PARTS, int IS_KEYS>
static __device__ inline void put_attention_back(const attention_back_row<PARTS> &row, const attention_args &a,
                                                 int64_t sh, int64_t t) {
    int lane = (int)threadIdx.x % WARP;
    for (int d = 0; d < PARTS; d++) {
        if (d * WARP + lane >= a.D) continue;
        (IS_KEYS ? a.dk : a.dq)[token_at(a, sh, t, d * WARP + lane)] = row.a[d];
        if (IS_KEYS) a.dv[token_at(a, sh, t, d * WARP + lane)] = row.b[d];
    }
}

/* With P the probabilities (of the kept logs), R the dropout's factors, dP = R (dy vᵀ) and dS = P (dP - delta) scale: dq = dS k for
 * rows of queries, dk = dSᵀ q and dv = (R P)ᵀ dy for rows of keys. Bytes as attention_kernel, with dy beside q; 6 (queries) and 8
 * (keys) S H D Σ len² operations. Block (tokens, stream and head). */
template <int PARTS, int IS_KEYS> static __global__ void attention_back_kernel(attention_args a) {
    SHARED(attention_tiles<PARTS>, tile);
    constexpr int ROWS = attention_tiles<PARTS>::ROWS, WIDTH = PARTS * WARP;
    int64_t sh = blockIdx.y, first = (int64_t)blockIdx.x * WARPS * ROWS, end = smaller(first + WARPS * ROWS, a.T);
    int warp = (int)threadIdx.x / WARP;
    load_tokens<WIDTH>(tile.row_a, WARPS * ROWS, a, IS_KEYS ? a.k : a.q, sh, first, end);
    load_tokens<WIDTH>(tile.row_b, WARPS * ROWS, a, IS_KEYS ? a.v : a.dy, sh, first, end);
    for (int64_t t = first + warp; t < end; t += WARPS)
        if (t < a.offsets[0] || t >= a.offsets[a.texts])
            put_attention_back<PARTS, IS_KEYS>(attention_back_row<PARTS>{}, a, sh, t);
    for (int64_t n = text_of(a.offsets, a.texts, first); n < a.texts && a.offsets[n] < end; n++) {
        int64_t t0 = a.offsets[n], len = a.offsets[n + 1] - t0;
        attention_back_row<PARTS> row[ROWS] = {};
        for (int64_t j0 = 0; j0 < len; j0 += WARP) {
            __syncthreads();
            load_tokens<WIDTH>(tile.a, WARP, a, IS_KEYS ? a.q : a.k, sh, t0 + j0, t0 + len);
            load_tokens<WIDTH>(tile.b, WARP, a, IS_KEYS ? a.dy : a.v, sh, t0 + j0, t0 + len);
            __syncthreads();
            UNROLL for (int r = 0; r < ROWS; r++) {
                int64_t i = first + warp * ROWS + r - t0;
                if (i >= 0 && i < len && t0 + i < end)
                    attend_back<PARTS, IS_KEYS>(row[r], tile, a, sh, t0, i, j0, len, warp * ROWS + r);
            }
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            int64_t i = first + warp * ROWS + r - t0;
            if (i >= 0 && i < len && t0 + i < end) put_attention_back<PARTS, IS_KEYS>(row[r], a, sh, t0 + i);
        }
    }
}

/* dbias[reach + j - i, h] = Σ dS / scale over all streams, texts and pairs of one distance, a warp each: reads q, k, v, dy of the
 * pairs anew, 16 S H D Σ len² bytes, most of them from the caches. */
static __global__ void attention_dbias_kernel(attention_args a) {
    int64_t at = thread_index() / WARP, h = at % a.H, distance = at / a.H - a.reach;
    if (distance > a.reach) return;
    float sum = 0.0f;
    for (int64_t s = 0; s < a.S; s++)
        for (int64_t n = 0; n < a.texts; n++) {
            int64_t t0 = a.offsets[n], len = a.offsets[n + 1] - t0, sh = s * a.H + h;
            int64_t end = smaller(len, len - distance);
            for (int64_t i = larger<int64_t>(0, -distance) + threadIdx.x % WARP; i < end; i += WARP) {
                const float *q = a.q + token_at(a, sh, t0 + i, 0), *k = a.k + token_at(a, sh, t0 + i + distance, 0);
                const float *dy = a.dy + token_at(a, sh, t0 + i, 0), *v = a.v + token_at(a, sh, t0 + i + distance, 0);
                float qk = 0.0f, dyv = 0.0f;
                for (int64_t d = 0; d < a.D; d++) {
                    qk += q[d] * k[d];
                    dyv += dy[d] * v[d];
                }
                sum += attention_gradient(a, sh, t0, i, i + distance, qk, dyv).y;
            }
        }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) a.dbias[at] = sum;
}

static attention_args attention_args_of(const scbm_kernel_call *call, const scbm_view *q, const scbm_view *offsets,
                                        const scbm_view *bias) {
    const scbm_node *node = call->node;
    attention_args a = {};
    a.offsets = (const int32_t *)offsets->data;
    a.texts = call->texts;
    a.S = q->shape[0];
    a.T = q->shape[1];
    a.H = node->integer[0];
    a.D = q->shape[2] / a.H;
    a.q = (const float *)q->data;
    a.scale = node->scalar[0];
    a.causal = node->integer[1] != 0;
    if (node->scalar[1] > 0.0f) a.dropped = 1.0f / (1.0f - node->scalar[1]);
    a.limit = (uint32_t)((double)node->scalar[1] * 4294967296.0);
    a.place = (uint32_t)node->integer[2];
    a.step = (uint32_t)call->step;
    a.seed = call->seed;
    if (!bias) return a;
    a.bias = (const float *)bias->data;
    a.reach = (bias->shape[1] - 1) / 2;
    return a;
}

static int attention_supports(scbm_backend *backend, const scbm_node *node, scbm_precision precision) {
    (void)backend, (void)precision;
    return node->source[0]->shape[2] / node->integer[0] <= LARGEST_HEAD;
}

template <int PARTS> static dim3 attention_blocks(const attention_args &a) {
    return dim3((unsigned)ceil_div(a.T, WARPS * attention_tiles<PARTS>::ROWS), (unsigned)(a.S * a.H));
}

template <int PARTS> static void launch_attention(scbm_queue *queue, const attention_args &a) {
    LAUNCH(queue, attention_kernel<PARTS>, attention_blocks<PARTS>(a), THREADS, sizeof(attention_tiles<PARTS>), a);
}

static scbm_status cuda_attention(scbm_queue *queue, const scbm_kernel_call *call) {
    attention_args a = attention_args_of(call, &call->source[0], &call->source[3], source_view(call, 4));
    if (!a.T) return SCBM_OK;
    a.k = (const float *)call->source[1].data;
    a.v = (const float *)call->source[2].data;
    a.y = (float *)call->result[0].data;
    a.lse = (float *)call->result[1].data;
    if (a.D <= 32) launch_attention<1>(queue, a);
    else if (a.D <= 64) launch_attention<2>(queue, a);
    else launch_attention<4>(queue, a);
    return launched(queue, call);
}

static size_t attention_back_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    return (size_t)elements_of(&call->source[5]) * sizeof(float);
}

template <int PARTS> static void launch_attention_back(scbm_queue *queue, const attention_args &a) {
    dim3 blocks = attention_blocks<PARTS>(a);
    size_t shared = sizeof(attention_tiles<PARTS>);
    LAUNCH(queue, (attention_back_kernel<PARTS, 0>), blocks, THREADS, shared, a);
    LAUNCH(queue, (attention_back_kernel<PARTS, 1>), blocks, THREADS, shared, a);
}

static scbm_status cuda_attention_back(scbm_queue *queue, const scbm_kernel_call *call) {
    attention_args a = attention_args_of(call, &call->source[2], &call->source[6], source_view(call, 7));
    a.dy = (const float *)call->source[0].data;
    a.y = (float *)call->source[1].data;
    a.k = (const float *)call->source[3].data;
    a.v = (const float *)call->source[4].data;
    a.lse = (float *)call->source[5].data;
    a.dq = (float *)call->result[0].data;
    a.dk = (float *)call->result[1].data;
    a.dv = (float *)call->result[2].data;
    a.delta = (float *)call->scratch;
    if (a.T) {
        LAUNCH(queue, attention_delta_kernel, blocks_for(a.S * a.H * a.T * WARP), THREADS, 0, a);
        if (a.D <= 32) launch_attention_back<1>(queue, a);
        else if (a.D <= 64) launch_attention_back<2>(queue, a);
        else launch_attention_back<4>(queue, a);
    }
    if (a.bias) {
        a.dbias = (float *)call->result[3].data;
        LAUNCH(queue, attention_dbias_kernel, blocks_for((2 * a.reach + 1) * a.H * WARP), THREADS, 0, a);
    }
    return launched(queue, call);
}

/* ---- The op's parts, in the plainest way: a thread each element. C is the longest text that fits. ---- */

typedef struct parts_args {
    float *y;
    const float *a, *b, *p;
    const int32_t *offsets;
    int64_t S, T, H, D, C, texts;
    float fill;
    int causal;
} parts_args;

/* Token t's text: its begin and its length; 0 where there is none. */
static __device__ inline int64_t text_around(const int32_t *offsets, int64_t texts, int64_t t, int64_t *begin) {
    int64_t n = text_of(offsets, texts, t);
    *begin = n < texts ? offsets[n] : 0;
    return n < texts && *begin <= t ? offsets[n + 1] - *begin : 0;
}

/* [S, H, T, C]: a_t · b_j, `fill` where t sees no j: writes 4 S H T C bytes, reads rows from the caches. */
static __global__ void attention_scores_kernel(parts_args a) {
    int64_t at = thread_index(), j = at % a.C, t = at / a.C % a.T, h = at / a.C / a.T % a.H, s = at / a.C / a.T / a.H,
            t0;
    if (s >= a.S) return;
    int64_t len = text_around(a.offsets, a.texts, t, &t0);
    float sum = a.fill;
    if (j < len && !(a.causal && j > t - t0)) {
        const float *x = a.a + ((s * a.T + t) * a.H + h) * a.D, *y = a.b + ((s * a.T + t0 + j) * a.H + h) * a.D;
        sum = 0.0f;
        for (int64_t d = 0; d < a.D; d++) sum += x[d] * y[d];
    }
    a.y[at] = sum;
}

/* [S, T, H · D]: Σ_j p[t, j] b_j; transposed, Σ_t p[t, j] b_t at token j. Reads 4 S H T C and writes 4 S T H D bytes. */
static __global__ void attention_mix_kernel(parts_args a, int is_transposed) {
    int64_t at = thread_index(), d = at % a.D, h = at / a.D % a.H, t = at / a.D / a.H % a.T, s = at / a.D / a.H / a.T,
            t0;
    if (s >= a.S) return;
    int64_t len = text_around(a.offsets, a.texts, t, &t0), i = t - t0;
    const float *p = a.p + ((s * a.H + h) * a.T + t0) * a.C, *b = a.b + ((s * a.T + t0) * a.H + h) * a.D + d;
    float sum = 0.0f;
    if (!is_transposed)
        for (int64_t j = 0, n = smaller(a.C, a.causal ? smaller(len, i + 1) : len); j < n; j++)
            sum += p[i * a.C + j] * b[j * a.H * a.D];
    else if (i < a.C)
        for (int64_t j = a.causal ? i : 0; j < len; j++) sum += p[j * a.C + i] * b[j * a.H * a.D];
    a.y[at] = sum;
}

/* [1, H, T, C]: the bias of each pair's distance, 0 past the text's end: writes 4 H T C bytes. p: [2 reach + 1, H]. */
static __global__ void attention_bias_kernel(parts_args a, int64_t reach) {
    int64_t at = thread_index(), j = at % a.C, t = at / a.C % a.T, h = at / a.C / a.T, t0;
    if (h >= a.H) return;
    int64_t len = text_around(a.offsets, a.texts, t, &t0);
    a.y[at] = j < len ? a.p[(reach + j - (t - t0)) * a.H + h] : 0.0f;
}

/* Its transpose: [2 reach + 1, H], sums over the pairs of one distance: reads 4 H T C bytes. p: dy. */
static __global__ void attention_bias_back_kernel(parts_args a, int64_t reach) {
    int64_t at = thread_index(), h = at % a.H, distance = at / a.H - reach;
    if (distance > reach) return;
    float sum = 0.0f;
    for (int64_t n = 0; n < a.texts; n++) {
        int64_t t0 = a.offsets[n], len = a.offsets[n + 1] - t0, end = smaller(len, smaller(len, a.C) - distance);
        for (int64_t i = larger<int64_t>(0, -distance); i < end; i++)
            sum += a.p[(h * a.T + t0 + i) * a.C + i + distance];
    }
    a.y[at] = sum;
}

/* x: [S, T, H · D]; p: the scores [S, H, T, C]. */
static parts_args parts_args_of(const scbm_kernel_call *call, const scbm_view *x, const scbm_view *p) {
    const scbm_view *offsets = &call->source[2];
    parts_args a = {};
    a.offsets = (const int32_t *)offsets->data;
    a.texts = call->texts;
    a.S = x->shape[0];
    a.T = x->shape[1];
    a.H = call->node->integer[0];
    a.D = x->shape[2] / a.H;
    a.C = p->shape[3];
    a.causal = call->node->integer[1] != 0;
    a.y = (float *)call->result[0].data;
    return a;
}

static scbm_status cuda_attention_scores(scbm_queue *queue, const scbm_kernel_call *call) {
    parts_args a = parts_args_of(call, &call->source[0], &call->result[0]);
    a.a = (const float *)call->source[0].data;
    a.b = (const float *)call->source[1].data;
    a.fill = call->node->scalar[0];
    if (a.S && a.T) LAUNCH(queue, attention_scores_kernel, blocks_for(a.S * a.H * a.T * a.C), THREADS, 0, a);
    return launched(queue, call);
}

static scbm_status cuda_attention_mix(scbm_queue *queue, const scbm_kernel_call *call) {
    parts_args a = parts_args_of(call, &call->source[1], &call->source[0]);
    a.p = (const float *)call->source[0].data;
    a.b = (const float *)call->source[1].data;
    if (a.S && a.T && a.D)
        LAUNCH(queue, attention_mix_kernel, blocks_for(a.S * a.T * a.H * a.D), THREADS, 0, a,
               call->node->op == SCBM_OP_ATTENTION_MIX_TRANSPOSED);
    return launched(queue, call);
}

static scbm_status cuda_attention_bias(scbm_queue *queue, const scbm_kernel_call *call) {
    int is_back = call->node->op == SCBM_OP_ATTENTION_BIAS_BACK;
    const scbm_view *bias = &call->source[is_back ? 2 : 0], *scores = is_back ? &call->source[0] : &call->result[0];
    const scbm_view *offsets = &call->source[1];
    int64_t reach = (bias->shape[1] - 1) / 2;
    parts_args a = {};
    a.offsets = (const int32_t *)offsets->data;
    a.texts = call->texts;
    a.H = bias->shape[2];
    a.T = scores->shape[2];
    a.C = scores->shape[3];
    a.p = (const float *)call->source[0].data;
    a.y = (float *)call->result[0].data;
    if (is_back) LAUNCH(queue, attention_bias_back_kernel, blocks_for(bias->shape[1] * a.H), THREADS, 0, a, reach);
    else if (a.T) LAUNCH(queue, attention_bias_kernel, blocks_for(a.H * a.T * a.C), THREADS, 0, a, reach);
    return launched(queue, call);
}

static const kernel_row attention_rows[] = {
    {SCBM_OP_ATTENTION, {cuda_attention, NULL, attention_supports}},
    {SCBM_OP_ATTENTION_BACK, {cuda_attention_back, attention_back_scratch, attention_supports}},
    {SCBM_OP_ATTENTION_SCORES, {cuda_attention_scores, NULL, NULL}},
    {SCBM_OP_ATTENTION_MIX, {cuda_attention_mix, NULL, NULL}},
    {SCBM_OP_ATTENTION_MIX_TRANSPOSED, {cuda_attention_mix, NULL, NULL}},
    {SCBM_OP_ATTENTION_BIAS, {cuda_attention_bias, NULL, NULL}},
    {SCBM_OP_ATTENTION_BIAS_BACK, {cuda_attention_bias, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: lookup, shapes, reductions
 *
 * A sum of many is cut into chunks, whose sums are added in a further launch, all in an order that follows from how many there
 * are. Floor: the bytes of what is summed.
 * ---------------------------------------------------------------------------------------- */

/* Dimensions that are walked together: offset of index i. */
typedef struct axes {
    int n;
    int64_t count, size[SCBM_MAX_DIMS], stride[SCBM_MAX_DIMS];
} axes;

static __device__ inline int64_t axes_at(const axes &a, int64_t i) {
    int64_t at = 0;
    for (int d = a.n - 1; d > 0; d--) {
        const int64_t outer = quotient(i, a.size[d]);
        at += (i - outer * a.size[d]) * a.stride[d];
        i = outer;
    }
    return a.n ? at + i * a.stride[0] : 0;
}

static void append_axis(axes *a, int64_t size, int64_t stride) {
    a->count *= size;
    if (a->n && a->stride[a->n - 1] == size * stride) {
        a->size[a->n - 1] *= size;
        a->stride[a->n - 1] = stride;
        return;
    }
    a->size[a->n] = size;
    a->stride[a->n++] = stride;
}

typedef struct sum_plan {
    axes kept, summed;
    int is_by_rows; /* neighbours in memory are summed; else they are different sums */
    int64_t chunk, n_chunks;
} sum_plan;

enum { SUM_CHUNKS = 64, SUM_LEAST = 64, SUM_LANES = THREADS / WARP };

typedef float column_room[SUM_LANES][WARP];

static sum_plan plan_sum(const scbm_view *a, const scbm_view *y) {
    sum_plan plan = {};
    const pattern p = pattern_of(a, y);
    int64_t stride = elements_of(a);
    plan.kept.count = plan.summed.count = 1;
    for (int d = 0; d < a->n_dims; d++) {
        const int64_t size = a->shape[d];
        stride = size ? stride / size : 0;
        if (size == 1) continue;
        append_axis(p.stride[d] ? &plan.kept : &plan.summed, size, stride);
        plan.is_by_rows = !p.stride[d];
    }
    const int64_t n_chunks = plan.is_by_rows ? 16 * SUM_CHUNKS : SUM_CHUNKS,
                  smallest = (plan.is_by_rows ? 16 : 1) * SUM_LEAST;
    plan.chunk = larger<int64_t>(smallest, ceil_div(plan.summed.count, n_chunks));
    plan.n_chunks = larger<int64_t>(1, ceil_div(plan.summed.count, plan.chunk));
    return plan;
}

/* A warp's sums are 32 columns, a block's warps take every eighth row of a chunk: part[chunk][column]. */
static __global__ void sum_columns_kernel(float *part, const float *a, sum_plan plan, double factor) {
    SHARED(column_room, sums);
    const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP;
    const int64_t column = (int64_t)blockIdx.x * WARP + lane, first = blockIdx.y * plan.chunk;
    const int64_t end = smaller(plan.summed.count, first + plan.chunk);
    float sum = 0.0f;
    if (column < plan.kept.count) {
        const float *from = a + axes_at(plan.kept, column);
        for (int64_t r = first + row; r < end; r += SUM_LANES) sum += from[axes_at(plan.summed, r)];
    }
    sums[row][lane] = sum;
    __syncthreads();
    if (row || column >= plan.kept.count) return;
    for (int r = 1; r < SUM_LANES; r++) sum += sums[r][lane];
    part[blockIdx.y * plan.kept.count + column] = (float)(sum * factor);
}

/* A warp sums a chunk of one element: part[element][chunk]. */
static __global__ void sum_rows_kernel(float *part, const float *a, sum_plan plan, double factor) {
    const int64_t warp = thread_index() / WARP, lane = threadIdx.x % WARP;
    const int64_t element = quotient(warp, plan.n_chunks), first = (warp - element * plan.n_chunks) * plan.chunk;
    if (element >= plan.kept.count) return;
    const int64_t end = smaller(plan.summed.count, first + plan.chunk);
    const float *from = a + axes_at(plan.kept, element);
    float sum = 0.0f;
    for (int64_t i = first + lane; i < end; i += WARP) sum += from[axes_at(plan.summed, i)];
    sum = warp_sum(sum);
    if (lane == 0) part[warp] = (float)(sum * factor);
}

/* y0[n0], y1[…]: the sums of part [rows, columns], whose first n0 columns are y0's. */
static __global__ void gather_columns_kernel(float *y0, float *y1, const float *part, int64_t rows, int64_t columns,
                                             int64_t n0, double factor) {
    SHARED(column_room, sums);
    const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP;
    const int64_t column = (int64_t)blockIdx.x * WARP + lane;
    float sum = 0.0f;
    for (int64_t r = row; r < rows && column < columns; r += SUM_LANES) sum += part[r * columns + column];
    sums[row][lane] = sum;
    __syncthreads();
    if (row || column >= columns) return;
    for (int r = 1; r < SUM_LANES; r++) sum += sums[r][lane];
    *(column < n0 ? y0 + column : y1 + column - n0) = (float)(sum * factor);
}

static size_t sum_to_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const sum_plan plan = plan_sum(&call->source[0], &call->result[0]);
    (void)queue;
    return (size_t)(plan.is_by_rows ? 16 : 1) * SUM_CHUNKS * (size_t)plan.kept.count * sizeof(float);
}

static void gather_rows(scbm_queue *queue, float *y, const float *part, const sum_plan &plan, double factor) {
    sum_plan last = {};
    last.is_by_rows = 1;
    last.kept.count = last.summed.count = last.n_chunks = 1;
    append_axis(&last.kept, plan.kept.count, plan.n_chunks);
    append_axis(&last.summed, plan.n_chunks, 1);
    last.chunk = plan.n_chunks;
    LAUNCH(queue, sum_rows_kernel, blocks_for(plan.kept.count * WARP), THREADS, 0, y, part, last, factor);
}

/* y = a summed over the dimensions in which y has 1 or none; with integer 1 the mean. */
static scbm_status cuda_sum_to(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *a = &call->source[0], *result = &call->result[0];
    const sum_plan plan = plan_sum(a, result);
    const int64_t m = plan.kept.count;
    const double factor = call->node->integer[0] ? (double)m / (double)elements_of(a) : 1.0;
    float *y = (float *)result->data, *part = plan.n_chunks > 1 ? (float *)call->scratch : y;
    const double own = plan.n_chunks > 1 ? 1.0 : factor;
    if (!m) return SCBM_OK;
    if (plan.is_by_rows) {
        LAUNCH(queue, sum_rows_kernel, blocks_for(m * plan.n_chunks * WARP), THREADS, 0, part, (const float *)a->data,
               plan, own);
        if (plan.n_chunks > 1) gather_rows(queue, y, part, plan, factor);
        return launched(queue, call);
    }
    const dim3 grid((unsigned)ceil_div(m, WARP), (unsigned)plan.n_chunks);
    LAUNCH(queue, sum_columns_kernel, grid, THREADS, sizeof(column_room), part, (const float *)a->data, plan, own);
    if (plan.n_chunks > 1)
        LAUNCH(queue, gather_columns_kernel, blocks_for(m, WARP), THREADS, sizeof(column_room), y, y, part,
               plan.n_chunks, m, m, factor);
    return launched(queue, call);
}

/* ------------------------------------------------------------------------------------------
 * Kernels: norms, softmax, dropout: rows of x [rows, d]. A warp has a row, which it reads once from memory and again from the first cache.
 * ---------------------------------------------------------------------------------------- */

enum { ROWS = THREADS / WARP }; /* of a block */

static __device__ inline int64_t row_of_warp() {
    return (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
}

enum norm_kind { LAYER_NORM, ADD_LAYER_NORM, RMS_NORM };

typedef struct norm_args {
    float *y, *mean, *rstd, *sum; /* sum: x + residual, kept where the backward rule wants it */
    const float *x, *residual, *gamma, *beta;
    int64_t rows, d;
    float epsilon;
    pattern p; /* of the residual under x */
} norm_args;

/* y = (x - mean) rstd gamma + beta. x, y [rows, d], the residual as much or a stream's share; 8 to 16 bytes an element. */
template <int KIND> static __global__ void norm_kernel(norm_args a) {
    const int64_t row = row_of_warp(), d = a.d, lane = threadIdx.x % WARP;
    if (row >= a.rows) return;
    const float *x = a.x + row * d, inverse = 1.0f / (float)d;
    float *y = a.y + row * d, mean = 0.0f, square = 0.0f;
    if (KIND == ADD_LAYER_NORM) {
        float *sum = a.sum ? a.sum + row * d : y;
        for (int64_t c = lane; c < d; c += WARP) sum[c] = x[c] + a.residual[pattern_at(a.p, row * d + c)];
        x = sum;
    }
    for (int64_t c = lane; c < d && KIND != RMS_NORM; c += WARP) mean += x[c];
    if (KIND != RMS_NORM) mean = warp_sum(mean) * inverse;
    for (int64_t c = lane; c < d; c += WARP) square = fmaf(x[c] - mean, x[c] - mean, square);
    const float rstd = 1.0f / sqrtf(warp_sum(square) * inverse + a.epsilon);
    if (lane == 0 && KIND != RMS_NORM) a.mean[row] = mean;
    if (lane == 0) a.rstd[row] = rstd;
    for (int64_t c = lane; c < d; c += WARP) {
        const float unit = (x[c] - mean) * rstd * a.gamma[c];
        y[c] = KIND == RMS_NORM ? unit : unit + a.beta[c];
    }
}

static scbm_status cuda_norm(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_op op = call->node->op;
    const int is_rms = op == SCBM_OP_RMS_NORM, is_sum = op == SCBM_OP_ADD_LAYER_NORM;
    const scbm_view *x = &call->source[0], *r = call->result;
    norm_args a = {};
    a.y = (float *)r[0].data;
    a.mean = is_rms ? NULL : (float *)r[1].data;
    a.rstd = (float *)r[is_rms ? 1 : 2].data;
    a.sum = call->node->n_results > 3 ? (float *)r[3].data : NULL;
    a.x = (const float *)x->data;
    a.residual = is_sum ? (const float *)call->source[1].data : NULL;
    a.gamma = (const float *)call->source[1 + is_sum].data;
    a.beta = is_rms ? NULL : (const float *)call->source[2 + is_sum].data;
    a.rows = rows_of(x);
    a.d = columns_of(x);
    a.epsilon = call->node->scalar[0];
    if (is_sum) a.p = pattern_of(x, &call->source[1]);
    if (!a.rows || !a.d) return SCBM_OK;
    const dim3 grid = blocks_for(a.rows, ROWS);
    if (is_rms) LAUNCH(queue, norm_kernel<RMS_NORM>, grid, THREADS, 0, a);
    else if (is_sum) LAUNCH(queue, norm_kernel<ADD_LAYER_NORM>, grid, THREADS, 0, a);
    else LAUNCH(queue, norm_kernel<LAYER_NORM>, grid, THREADS, 0, a);
    return launched(queue, call);
}

enum { NORM_BACK_ROWS = 32 }; /* of a block */

typedef struct norm_back_args {
    float *dx, *part; /* part [blocks, 2 d]: sums of dy unit and dy over a block's rows; of d alone without a mean */
    const float *dy, *x, *gamma, *mean, *rstd;
    int64_t rows, d;
} norm_back_args;

typedef struct norm_back_room {
    float mean[NORM_BACK_ROWS], product[NORM_BACK_ROWS]; /* of gamma dy, and of gamma dy unit, over a row */
} norm_back_room;

/* dx = rstd (g - mean g - unit mean (g unit)), g = gamma dy, and a block's part of dgamma and dbeta. dy, x, dx [rows, d]: 12
 * bytes an element, the second reading of the block's rows is from the caches. */
template <int IS_RMS> static __global__ void norm_back_kernel(norm_back_args a) {
    SHARED(norm_back_room, room);
    const int64_t d = a.d, first = (int64_t)blockIdx.x * NORM_BACK_ROWS;
    const int n = (int)smaller<int64_t>(NORM_BACK_ROWS, a.rows - first), lane = threadIdx.x % WARP;
    for (int r = threadIdx.x / WARP; r < n; r += ROWS) {
        const float *dy = a.dy + (first + r) * d, *x = a.x + (first + r) * d;
        const float mean = IS_RMS ? 0.0f : a.mean[first + r], rstd = a.rstd[first + r];
        float sum = 0.0f, product = 0.0f;
        for (int64_t c = lane; c < d; c += WARP) {
            const float g = dy[c] * a.gamma[c];
            sum += g;
            product = fmaf(g, (x[c] - mean) * rstd, product);
        }
        sum = warp_sum(sum);
        product = warp_sum(product);
        if (lane) continue;
        room.mean[r] = IS_RMS ? 0.0f : sum / (float)d;
        room.product[r] = product / (float)d;
    }
    __syncthreads();
    for (int64_t c = threadIdx.x; c < d; c += THREADS) {
        const float gamma = a.gamma[c];
        float of_gamma = 0.0f, of_beta = 0.0f;
        for (int r = 0; r < n; r++) {
            const int64_t at = (first + r) * d + c;
            const float mean = IS_RMS ? 0.0f : a.mean[first + r], rstd = a.rstd[first + r];
            const float dy = a.dy[at], unit = (a.x[at] - mean) * rstd;
            of_gamma = fmaf(dy, unit, of_gamma);
            of_beta += dy;
            a.dx[at] = rstd * (fmaf(-unit, room.product[r], dy * gamma) - room.mean[r]);
        }
        float *part = a.part + (int64_t)blockIdx.x * (IS_RMS ? 1 : 2) * d;
        part[c] = of_gamma;
        if (!IS_RMS) part[d + c] = of_beta;
    }
}

static size_t norm_back_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    return (size_t)ceil_div(rows_of(&call->source[1]), NORM_BACK_ROWS) * 2 * (size_t)columns_of(&call->source[1]) *
           sizeof(float);
}

static scbm_status cuda_norm_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const int is_rms = call->node->op == SCBM_OP_RMS_NORM_BACK;
    const scbm_view *s = call->source, *r = call->result;
    norm_back_args a = {};
    a.dx = (float *)r[0].data;
    a.part = (float *)call->scratch;
    a.dy = (const float *)s[0].data;
    a.x = (const float *)s[1].data;
    a.gamma = (const float *)s[2].data;
    a.mean = is_rms ? NULL : (const float *)s[3].data;
    a.rstd = (const float *)s[is_rms ? 3 : 4].data;
    a.rows = rows_of(&s[1]);
    a.d = columns_of(&s[1]);
    const int64_t blocks = ceil_div(a.rows, NORM_BACK_ROWS), columns = is_rms ? a.d : 2 * a.d;
    if (!a.d) return SCBM_OK;
    if (blocks && is_rms)
        LAUNCH(queue, norm_back_kernel<1>, dim3((unsigned)blocks), THREADS, sizeof(norm_back_room), a);
    if (blocks && !is_rms)
        LAUNCH(queue, norm_back_kernel<0>, dim3((unsigned)blocks), THREADS, sizeof(norm_back_room), a);
    LAUNCH(queue, gather_columns_kernel, blocks_for(columns, WARP), THREADS, sizeof(column_room), (float *)r[1].data,
           is_rms ? NULL : (float *)r[2].data, a.part, blocks, columns, a.d, 1.0);
    return launched(queue, call);
}

/* y = exp(x - max) / sum; y may be x. Rows of -infinity alone are 0. x, y [rows, n]: 8 bytes an element. */
static __global__ void softmax_kernel(float *y, const float *x, int64_t rows, int64_t n) {
    const int64_t row = row_of_warp(), lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x += row * n;
    y += row * n;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t c = lane; c < n; c += WARP)
        if (x[c] > top || x[c] != x[c]) top = x[c];
    top = warp_max(top);
    if (top == -INFINITY) top = 0.0f;
    for (int64_t c = lane; c < n; c += WARP) {
        const float e = exp_of(x[c] - top);
        y[c] = e;
        sum += e;
    }
    sum = warp_sum(sum);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int64_t c = lane; c < n; c += WARP) y[c] *= inverse;
}

static scbm_status cuda_softmax(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    if (elements_of(x))
        LAUNCH(queue, softmax_kernel, blocks_for(rows_of(x), ROWS), THREADS, 0, (float *)call->result[0].data,
               (const float *)x->data, rows_of(x), columns_of(x));
    return launched(queue, call);
}

/* dx = y (dy - sum of dy y over the row). dy, y, dx [rows, n]: 12 bytes an element. */
static __global__ void softmax_back_kernel(float *dx, const float *dy, const float *y, int64_t rows, int64_t n) {
    const int64_t row = row_of_warp(), lane = threadIdx.x % WARP;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int64_t c = row * n + lane; c < (row + 1) * n; c += WARP) sum = fmaf(y[c], dy[c], sum);
    sum = warp_sum(sum);
    for (int64_t c = row * n + lane; c < (row + 1) * n; c += WARP) dx[c] = y[c] * (dy[c] - sum);
}

static scbm_status cuda_softmax_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *y = &call->source[1];
    if (elements_of(y))
        LAUNCH(queue, softmax_back_kernel, blocks_for(rows_of(y), ROWS), THREADS, 0, (float *)call->result[0].data,
               (const float *)call->source[0].data, (const float *)y->data, rows_of(y), columns_of(y));
    return launched(queue, call);
}

static const kernel_row row_rows[] = {
    {SCBM_OP_SUM_TO, {cuda_sum_to, sum_to_scratch, NULL}},
    {SCBM_OP_LAYER_NORM, {cuda_norm, NULL, NULL}},
    {SCBM_OP_ADD_LAYER_NORM, {cuda_norm, NULL, NULL}},
    {SCBM_OP_RMS_NORM, {cuda_norm, NULL, NULL}},
    {SCBM_OP_LAYER_NORM_BACK, {cuda_norm_back, norm_back_scratch, NULL}},
    {SCBM_OP_RMS_NORM_BACK, {cuda_norm_back, norm_back_scratch, NULL}},
    {SCBM_OP_SOFTMAX, {cuda_softmax, NULL, NULL}},
    {SCBM_OP_SOFTMAX_BACK, {cuda_softmax_back, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: texts (embeddings, pooling, mixing)
 * ---------------------------------------------------------------------------------------- */

/* y [T, d] = rows `ids` of a table of any type: a row's bytes and 4 d bytes for each token. */
template <int TYPE> struct map_rows {
    typedef float value;
    float *y;
    int64_t n;
    const void *table;
    const int32_t *ids;
    int64_t d;
    __device__ float at(int64_t i) const {
        const int64_t t = quotient(i, d);
        return weight_at(table, TYPE, ids[t] * d + i - t * d);
    }
};

template <int TYPE> static scbm_status get_rows_of(scbm_queue *queue, const scbm_kernel_call *call) {
    const map_rows<TYPE> f = {(float *)call->result[0].data, elements_of(&call->result[0]), call->source[0].data,
                              (const int32_t *)call->source[1].data, call->source[0].shape[1]};
    return map_all(queue, call, f);
}

static scbm_status cuda_get_rows(scbm_queue *queue, const scbm_kernel_call *call) {
    switch (call->source[0].type) {
    case SCBM_F16: return get_rows_of<SCBM_F16>(queue, call);
    case SCBM_BF16: return get_rows_of<SCBM_BF16>(queue, call);
    case SCBM_Q8_0: return get_rows_of<SCBM_Q8_0>(queue, call);
    case SCBM_Q4_0: return get_rows_of<SCBM_Q4_0>(queue, call);
    default: return get_rows_of<SCBM_F32>(queue, call);
    }
}

struct map_fill {
    typedef float value;
    float *y;
    int64_t n;
    float number;
    __device__ float at(int64_t) const {
        return number;
    }
};

/* For each token the next one of the same id, or T, and whether it is the first. A warp has a token; T²/32 steps at worst. */
static __global__ void link_ids_kernel(int32_t *next, int32_t *is_first, const int32_t *ids, int32_t n) {
    const int32_t t = (int32_t)row_of_warp(), lane = (int32_t)(threadIdx.x % WARP);
    if (t >= n) return;
    const int32_t id = ids[t];
    unsigned found = 0;
    int32_t at = t + 1;
    for (; at < n && !found; at += WARP)
        found = __ballot_sync(WHOLE_WARP, at + lane < n && ids[smaller(at + lane, n - 1)] == id);
    if (lane == 0) next[t] = found ? at - WARP + __ffs((int)found) - 1 : n;
    found = 0;
    for (at = 0; at < t && !found; at += WARP) found = __ballot_sync(WHOLE_WARP, at + lane < t && ids[at + lane] == id);
    if (lane == 0) is_first[t] = !found;
}

/* The rows of dy [T, d] of one id, in order, into its row of the table, by the block of its first token. */
static __global__ void sum_linked_kernel(float *table, const float *dy, const int32_t *ids, const int32_t *next,
                                         const int32_t *is_first, int64_t d, int32_t n) {
    const int32_t t = (int32_t)blockIdx.x;
    if (!is_first[t]) return;
    for (int64_t c = threadIdx.x; c < d; c += THREADS) {
        float sum = 0.0f;
        for (int32_t at = t; at < n; at = next[at]) sum += dy[at * d + c];
        table[ids[t] * d + c] = sum;
    }
}

static size_t get_rows_back_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    return 2 * (size_t)call->source[1].shape[0] * sizeof(int32_t);
}

/* The table's gradient [V, d]: zeros, and the sums of the tokens' rows. Floor: writing 4 V d bytes, reading 4 T d. */
static scbm_status cuda_get_rows_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const int32_t *ids = (const int32_t *)call->source[1].data, n = (int32_t)call->source[1].shape[0];
    const int64_t d = call->source[2].shape[1];
    int32_t *next = (int32_t *)call->scratch, *is_first = next + n;
    const map_fill zeros = {(float *)call->result[0].data, elements_of(&call->result[0]), 0.0f};
    map_all(queue, call, zeros);
    if (!n || !d) return launched(queue, call);
    LAUNCH(queue, link_ids_kernel, blocks_for(n, ROWS), THREADS, 0, next, is_first, ids, n);
    LAUNCH(queue, sum_linked_kernel, dim3((unsigned)n), THREADS, 0, zeros.y, (const float *)call->source[0].data, ids,
           next, is_first, d, n);
    return launched(queue, call);
}

enum segment_kind { SEGMENT_MEAN, SEGMENT_FIRST, SEGMENT_LAST };

static segment_kind segment_kind_of(scbm_op op) {
    if (op == SCBM_OP_SEGMENT_FIRST || op == SCBM_OP_SEGMENT_FIRST_BACK) return SEGMENT_FIRST;
    return op == SCBM_OP_SEGMENT_LAST || op == SCBM_OP_SEGMENT_LAST_BACK ? SEGMENT_LAST : SEGMENT_MEAN;
}

/* y [S, N, d] of x [S, T, d]: a text's mean, first or last token. A block has a text of a stream; an empty one gives zeros. */
static __global__ void segment_kernel(float *y, const float *x, const int32_t *offsets, int64_t texts, int64_t tokens,
                                      int64_t d, segment_kind kind) {
    const int64_t n = blockIdx.x % texts, s = blockIdx.x / texts;
    int64_t first = offsets[n], end = offsets[n + 1];
    const float share = end > first && kind == SEGMENT_MEAN ? 1.0f / (float)(end - first) : 1.0f;
    if (kind == SEGMENT_FIRST) end = smaller(end, first + 1);
    if (kind == SEGMENT_LAST) first = larger(first, end - 1);
    for (int64_t c = threadIdx.x; c < d; c += THREADS) {
        float sum = 0.0f;
        for (int64_t t = first; t < end; t++) sum += x[(s * tokens + t) * d + c];
        y[blockIdx.x * d + c] = sum * share;
    }
}

static scbm_status cuda_segment(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    const int64_t blocks = x->shape[0] * call->texts;
    if (blocks)
        LAUNCH(queue, segment_kernel, dim3((unsigned)blocks), THREADS, 0, (float *)call->result[0].data,
               (const float *)x->data, (const int32_t *)call->source[1].data, call->texts, x->shape[1], x->shape[2],
               segment_kind_of(call->node->op));
    return launched(queue, call);
}

/* dx [S, T, d] of dy [S, N, d]; tokens of no text get zeros. A block has a token of a stream: it looks for its text by halving. */
static __global__ void segment_back_kernel(float *dx, const float *dy, const int32_t *offsets, int64_t texts,
                                           int64_t tokens, int64_t d, segment_kind kind) {
    const int64_t t = blockIdx.x % tokens, s = blockIdx.x / tokens;
    int64_t low = 0, high = texts; /* the last text that begins at or before t is in [low - 1, high) */
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (offsets[middle] <= t) low = middle + 1;
        else high = middle;
    }
    const int64_t n = low - 1, first = n >= 0 ? offsets[n] : 0, end = n >= 0 ? offsets[n + 1] : 0;
    int is_read = n >= 0 && t < end;
    if (kind == SEGMENT_FIRST) is_read = is_read && t == first;
    if (kind == SEGMENT_LAST) is_read = is_read && t == end - 1;
    const float share = kind == SEGMENT_MEAN && is_read ? 1.0f / (float)(end - first) : 1.0f;
    for (int64_t c = threadIdx.x; c < d; c += THREADS)
        dx[blockIdx.x * d + c] = is_read ? dy[(s * texts + n) * d + c] * share : 0.0f;
}

static scbm_status cuda_segment_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *dx = &call->result[0];
    const int64_t blocks = dx->shape[0] * dx->shape[1];
    if (blocks)
        LAUNCH(queue, segment_back_kernel, dim3((unsigned)blocks), THREADS, 0, (float *)dx->data,
               (const float *)call->source[0].data, (const int32_t *)call->source[1].data, call->texts, dx->shape[1],
               dx->shape[2], segment_kind_of(call->node->op));
    return launched(queue, call);
}

/* y_n = beta x_n + (1 - beta) x_p(n), or its transpose, for which each text looks for those that read it. x, y [S, N, d]. */
template <int IS_BACK> struct map_mix {
    typedef float value;
    float *y;
    int64_t n;
    const float *x, *beta;
    const int32_t *permutation;
    int64_t texts, d;
    __device__ float at(int64_t i) const {
        const int64_t row = quotient(i, d), c = i - row * d, text = modulo(row, texts), first = row - text;
        const float own = *beta, rest = 1.0f - own;
        float y = x[i] * own;
        if (!IS_BACK) y = fmaf(x[(first + permutation[text]) * d + c], rest, y);
        for (int64_t other = 0; IS_BACK && other < texts; other++)
            if (permutation[other] == text) y = fmaf(x[(first + other) * d + c], rest, y);
        return y;
    }
};

template <int IS_BACK> static scbm_status run_mix(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    const map_mix<IS_BACK> f = {(float *)call->result[0].data,
                                elements_of(x),
                                (const float *)x->data,
                                (const float *)call->source[2].data,
                                (const int32_t *)call->source[1].data,
                                x->shape[1],
                                x->shape[2]};
    return map_all(queue, call, f);
}

static scbm_status cuda_mix_texts(scbm_queue *queue, const scbm_kernel_call *call) {
    return call->node->op == SCBM_OP_MIX_TEXTS ? run_mix<0>(queue, call) : run_mix<1>(queue, call);
}

static const kernel_row text_rows[] = {
    {SCBM_OP_GET_ROWS, {cuda_get_rows, NULL, NULL}},
    {SCBM_OP_GET_ROWS_BACK, {cuda_get_rows_back, get_rows_back_scratch, NULL}},
    {SCBM_OP_SEGMENT_MEAN, {cuda_segment, NULL, NULL}},
    {SCBM_OP_SEGMENT_FIRST, {cuda_segment, NULL, NULL}},
    {SCBM_OP_SEGMENT_LAST, {cuda_segment, NULL, NULL}},
    {SCBM_OP_SEGMENT_MEAN_BACK, {cuda_segment_back, NULL, NULL}},
    {SCBM_OP_SEGMENT_FIRST_BACK, {cuda_segment_back, NULL, NULL}},
    {SCBM_OP_SEGMENT_LAST_BACK, {cuda_segment_back, NULL, NULL}},
    {SCBM_OP_MIX_TEXTS, {cuda_mix_texts, NULL, NULL}},
    {SCBM_OP_MIX_TEXTS_BACK, {cuda_mix_texts, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: loss and updates. Sums over whole tensors are in f64, in an order that follows from their sizes.
 * ---------------------------------------------------------------------------------------- */

typedef struct loss_args {
    const float *logits, *soft, *weights; /* weights of classes, or NULL */
    const int32_t *labels, *groups;       /* labels [N, K], or soft [N, C] */
    float *p;
    int64_t texts, classes, n_groups;
} loss_args;

/* The probabilities of a text's group and its loss; *weight is what it counts. */
static __device__ float group_loss(const loss_args &a, int64_t text, int64_t group, float *weight) {
    const int64_t from = a.groups[group], n = a.groups[group + 1] - from, at = text * a.classes + from;
    const float *x = a.logits + at, *weights = a.weights ? a.weights + from : NULL;
    float *p = a.p + at, top = -INFINITY, sum = 0.0f, loss = 0.0f, mass = 0.0f;
    for (int64_t c = 0; c < n; c++)
        if (x[c] > top || x[c] != x[c]) top = x[c];
    if (top == -INFINITY) top = 0.0f;
    for (int64_t c = 0; c < n; c++) sum += p[c] = exp_of(x[c] - top);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int64_t c = 0; c < n; c++) p[c] *= inverse;
    const float lse = top + (log_of(sum) + (sum - sum)); /* no number stays none */
    *weight = 0.0f;
    if (a.labels) {
        const int32_t label = a.labels[text * a.n_groups + group];
        if (label < 0) return 0.0f;
        *weight = weights ? weights[label] : 1.0f;
        return *weight * (lse - x[label]);
    }
    for (int64_t c = 0; c < n; c++) {
        const float t = a.soft[at + c];
        mass += t;
        if (t != 0.0f) loss += (weights ? weights[c] * t : t) * (lse - x[c]);
    }
    if (mass > 0.0f) *weight = 1.0f;
    return loss;
}

/* The loss and what it counts, by one block: there are a few numbers for each text. A thread has a group of a text. */
static __global__ void loss_kernel(float *loss, float *total, loss_args a) {
    SHARED(double_room, room);
    double sum = 0.0, counted = 0.0;
    for (int64_t i = threadIdx.x; i < a.texts * a.n_groups; i += THREADS) {
        float weight;
        sum += (double)group_loss(a, i / a.n_groups, i % a.n_groups, &weight);
        counted += (double)weight;
    }
    sum = block_sum(sum, room);
    counted = block_sum(counted, room);
    if (threadIdx.x) return;
    *loss = counted > 0.0 ? (float)(sum / counted) : 0.0f;
    *total = (float)counted;
}

/* dlogits = factor (p sum(w t) - w t) in each group. */
static __global__ void loss_back_kernel(float *dlogits, const float *dloss, const float *total, loss_args a) {
    const int64_t i = thread_index();
    if (i >= a.texts * a.n_groups) return;
    const int64_t text = i / a.n_groups, group = i % a.n_groups, from = a.groups[group], to = a.groups[group + 1];
    const int64_t label = a.labels ? from + a.labels[i] : -1;
    const float factor = *total > 0.0f ? *dloss / *total : 0.0f;
    float mass = 0.0f;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t c = from; c < to; c++) {
            const int64_t at = text * a.classes + c;
            const float t = (a.weights ? a.weights[c] : 1.0f) * (a.labels ? (float)(c == label) : a.soft[at]);
            if (pass == 0) mass += t;
            else dlogits[at] = factor * (a.p[at] * mass - t);
        }
}

static loss_args loss_args_of(const scbm_kernel_call *call, const scbm_view *logits, int first) {
    const scbm_view *targets = &call->source[first], *groups = &call->source[first + 1];
    loss_args a = {};
    if (targets->type == SCBM_I32) a.labels = (const int32_t *)targets->data;
    else a.soft = (const float *)targets->data;
    a.groups = (const int32_t *)groups->data;
    a.weights = (const float *)call->source[first + 2].data;
    a.texts = logits->shape[0];
    a.classes = logits->shape[1];
    a.n_groups = groups->shape[0] - 1;
    return a;
}

static scbm_status cuda_loss(scbm_queue *queue, const scbm_kernel_call *call) {
    loss_args a = loss_args_of(call, &call->source[0], 1);
    a.logits = (const float *)call->source[0].data;
    a.p = (float *)call->result[1].data;
    LAUNCH(queue, loss_kernel, dim3(1), THREADS, sizeof(double_room), (float *)call->result[0].data,
           (float *)call->result[2].data, a);
    return launched(queue, call);
}

static scbm_status cuda_loss_back(scbm_queue *queue, const scbm_kernel_call *call) {
    loss_args a = loss_args_of(call, &call->source[1], 3);
    a.p = (float *)call->source[1].data;
    if (a.texts)
        LAUNCH(queue, loss_back_kernel, blocks_for(a.texts * a.n_groups), THREADS, 0, (float *)call->result[0].data,
               (const float *)call->source[0].data, (const float *)call->source[2].data, a);
    return launched(queue, call);
}

/* sum += a, or sum = a where keep is 0. 12 bytes an element. */
struct map_accumulate {
    typedef float value;
    float *y;
    int64_t n;
    const float *a, *keep;
    __device__ float at(int64_t i) const {
        return *keep == 0.0f ? a[i] : y[i] + a[i];
    }
};

static scbm_status cuda_accumulate(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *s = call->source;
    const map_accumulate f = {(float *)s[0].data, elements_of(&s[0]), (const float *)s[1].data,
                              (const float *)s[2].data};
    return map_all(queue, call, f);
}

enum { SQUARES_CHUNK = 64 * THREADS, SQUARES_CHUNKS = 1024, ALL_CHUNKS = 32 << 10, MOST_TENSORS = 640 };

typedef struct squares_row {
    const float *a;
    float *pair;
    int64_t n;
    int first, chunks; /* of all blocks, the tensor's */
} squares_row;

typedef struct squares_batch {
    double *part;
    int n, blocks;
    squares_row row[MOST_TENSORS];
} squares_batch;

static_assert(sizeof(squares_batch) <= BATCH_BYTES, "parameters of a kernel");

/* The last of n rows whose first block is not behind this one. */
template <class R> static __device__ inline int row_of_block(const R *row, int n, int block) {
    int low = 0, high = n;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (row[middle].first <= block) low = middle;
        else high = middle;
    }
    return low;
}

/* part[block] = the squares of a chunk of a tensor, 4 bytes an element, for all tensors of a batch. */
static __global__ void squares_kernel(LARGE_PARAMETER(squares_batch, b)) {
    SHARED(double_room, room);
    const squares_row &row = b.row[row_of_block(b.row, b.n, (int)blockIdx.x)];
    const int64_t chunk = larger<int64_t>(SQUARES_CHUNK, ceil_div(row.n, SQUARES_CHUNKS));
    const int64_t first = ((int)blockIdx.x - row.first) * chunk, end = smaller(row.n, first + chunk);
    double sum = 0.0;
    for (int64_t i = first + threadIdx.x; i < end; i += THREADS) sum += (double)row.a[i] * (double)row.a[i];
    sum = block_sum(sum, room);
    if (!threadIdx.x) b.part[blockIdx.x] = sum;
}

/* The pair of f32 whose sum is that of a tensor's parts. Block (tensor). */
static __global__ void squares_pair_kernel(LARGE_PARAMETER(squares_batch, b)) {
    SHARED(double_room, room);
    const squares_row &row = b.row[blockIdx.x];
    double sum = 0.0;
    for (int i = threadIdx.x; i < row.chunks; i += THREADS) sum += b.part[row.first + i];
    sum = block_sum(sum, room);
    if (threadIdx.x) return;
    row.pair[0] = (float)sum;
    row.pair[1] = isfinite(row.pair[0]) ? (float)(sum - (double)row.pair[0]) : 0.0f;
}

static size_t square_sum_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    (void)call;
    return ALL_CHUNKS * sizeof(double);
}

static void launch_squares(scbm_queue *queue) {
    const squares_batch b = *(const squares_batch *)((cuda_queue *)queue)->batch;
    if (b.blocks) LAUNCH(queue, squares_kernel, dim3((unsigned)b.blocks), THREADS, sizeof(double_room), b);
    LAUNCH(queue, squares_pair_kernel, dim3((unsigned)b.n), THREADS, sizeof(double_room), b);
}

/* Tensors whose nodes follow one another have two launches in all. */
static scbm_status cuda_square_sum(scbm_queue *queue, const scbm_kernel_call *call) {
    const int64_t n = elements_of(&call->source[0]),
                  chunk = larger<int64_t>(SQUARES_CHUNK, ceil_div(n, SQUARES_CHUNKS));
    const int chunks = (int)ceil_div(n, chunk);
    squares_batch *b = (squares_batch *)waiting_batch(queue, launch_squares);
    if (!b || b->n == MOST_TENSORS || b->blocks + chunks > ALL_CHUNKS) {
        b = (squares_batch *)begin_batch(queue, launch_squares);
        b->part = (double *)call->scratch;
        b->n = b->blocks = 0;
    }
    b->row[b->n++] = {(const float *)call->source[0].data, (float *)call->source[1].data + 2 * call->node->integer[0],
                      n, b->blocks, chunks};
    b->blocks += chunks;
    return SCBM_OK;
}

/* The norm of n pairs, the factor that clips it to `most`, and whether updates are stopped: by one block. */
static __global__ void clip_kernel(float *y, float *stopped, const float *pairs, int64_t n, float most) {
    SHARED(double_room, room);
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += (double)pairs[2 * i] + (double)pairs[2 * i + 1];
    const double norm = sqrt(block_sum(sum, room));
    if (threadIdx.x) return;
    if (!isfinite(norm)) *stopped = 1.0f;
    y[0] = (float)norm;
    y[1] = most > 0.0f && norm > (double)most ? (float)((double)most / norm) : 1.0f;
    y[2] = *stopped;
}

static scbm_status cuda_clip(scbm_queue *queue, const scbm_kernel_call *call) {
    LAUNCH(queue, clip_kernel, dim3(1), THREADS, sizeof(double_room), (float *)call->result[0].data,
           (float *)call->source[1].data, (const float *)call->source[0].data, call->source[0].shape[0],
           call->node->scalar[0]);
    return launched(queue, call);
}

typedef struct adamw_row {
    float *w, *m, *v;
    const float *g;
    int64_t n;
    int first, parameter; /* of all blocks */
} adamw_row;

typedef struct adamw_batch {
    const float *numbers, *clip; /* numbers: rate, corrections, betas, epsilon; of each parameter rate and decay */
    int n, blocks;
    adamw_row row[MOST_TENSORS];
} adamw_batch;

static_assert(sizeof(adamw_batch) <= BATCH_BYTES, "parameters of a kernel");

/* One step of all tensors of a batch: reads 16 bytes and writes 12 for each number. */
static __global__ void adamw_kernel(LARGE_PARAMETER(adamw_batch, b)) {
    const adamw_row &a = b.row[row_of_block(b.row, b.n, (int)blockIdx.x)];
    const float *numbers = b.numbers, *own = numbers + 6 + 2 * a.parameter;
    const float rate = own[0] * numbers[0], beta1 = numbers[3], beta2 = numbers[4], epsilon = numbers[5];
    const float scale1 = 1.0f / numbers[1], scale2 = 1.0f / numbers[2], keep = 1.0f - rate * own[1];
    const float scale = b.clip[1];
    if (b.clip[2] != 0.0f) return;
    const int64_t first = (int64_t)((int)blockIdx.x - a.first) * (THREADS * MAP_EACH) + threadIdx.x;
    for (int64_t i = first; i < a.n && i < first + THREADS * MAP_EACH; i += THREADS) {
        const float g = a.g[i] * scale, m = fmaf(beta1, a.m[i], (1.0f - beta1) * g);
        const float v = fmaf(beta2, a.v[i], (1.0f - beta2) * (g * g));
        const float step = m * scale1 / (sqrtf(v * scale2) + epsilon);
        a.m[i] = m;
        a.v[i] = v;
        a.w[i] = fmaf(-rate, step, a.w[i] * keep);
    }
}

static void launch_adamw(scbm_queue *queue) {
    const adamw_batch b = *(const adamw_batch *)((cuda_queue *)queue)->batch;
    if (b.blocks) LAUNCH(queue, adamw_kernel, dim3((unsigned)b.blocks), THREADS, 0, b);
}

/* Parameters whose nodes follow one another have one launch. */
static scbm_status cuda_adamw(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *s = call->source;
    const float *numbers = (const float *)s[4].data, *clip = (const float *)s[5].data;
    const int64_t n = elements_of(&s[0]), blocks = ceil_div(n, THREADS * MAP_EACH);
    adamw_batch *b = (adamw_batch *)waiting_batch(queue, launch_adamw);
    if (!b || b->n == MOST_TENSORS || b->numbers != numbers || b->clip != clip || b->blocks + blocks > INT32_MAX) {
        b = (adamw_batch *)begin_batch(queue, launch_adamw);
        b->numbers = numbers;
        b->clip = clip;
        b->n = b->blocks = 0;
    }
    b->row[b->n++] = {(float *)s[0].data, (float *)s[1].data,         (float *)s[2].data, (const float *)s[3].data, n,
                      b->blocks,          (int)call->node->integer[0]};
    b->blocks += (int)blocks;
    return SCBM_OK;
}

static const kernel_row update_rows[] = {
    {SCBM_OP_CROSS_ENTROPY, {cuda_loss, NULL, NULL}},
    {SCBM_OP_CROSS_ENTROPY_BACK, {cuda_loss_back, NULL, NULL}},
    {SCBM_OP_ACCUMULATE, {cuda_accumulate, NULL, NULL}},
    {SCBM_OP_SQUARE_SUM, {cuda_square_sum, square_sum_scratch, NULL}},
    {SCBM_OP_CLIP, {cuda_clip, NULL, NULL}},
    {SCBM_OP_ADAMW, {cuda_adamw, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: pruning and explanations
 * ---------------------------------------------------------------------------------------- */

/* Row and column of element `at` of a lower triangle that is stored row by row. */
static __device__ inline int triangle_row(int at) {
    int row = (int)((sqrtf(8.0f * (float)at + 1.0f) - 1.0f) * 0.5f);
    while (row * (row + 1) / 2 > at) row--;
    while ((row + 1) * (row + 2) / 2 <= at) row++;
    return row;
}

/* sums [S, blocks, B (B + 1) / 2] += g g^T: 16 bytes of a sum, and a block's gradients from the cache. */
struct map_fisher_add {
    typedef double value;
    double *y;
    int64_t n;
    const float *g;
    int64_t triangle, blocks, block, weights;
    __device__ double at(int64_t i) const {
        const int64_t of = quotient(i, triangle), s = quotient(of, blocks), b = of - s * blocks;
        const int at = (int)(i - of * triangle), row = triangle_row(at), column = at - row * (row + 1) / 2;
        if (b * block + row >= weights) return y[i];
        const float *own = g + s * weights + b * block;
        return own[row] == 0.0f ? y[i] : y[i] + (double)own[row] * (double)own[column];
    }
};

static scbm_status cuda_fisher_add(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *sums = &call->source[0], *dw = &call->source[1];
    const map_fisher_add f = {(double *)sums->data, elements_of(sums),      (const float *)dw->data,    sums->shape[2],
                              sums->shape[1],       call->node->integer[0], dw->shape[1] * dw->shape[2]};
    return map_all(queue, call, f);
}

enum { TRACE_CHUNK = 32 * THREADS };

typedef struct fisher_args {
    double *score, *damping, *trace,
        *work; /* damping [S]; trace, kept [S, chunks]; work: two triangles a block of threads */
    int64_t *kept;
    const double *sums, *numbers;
    const float *w;
    const uint8_t *masks;
    int64_t streams, weights, in, row_bytes, blocks, block, triangle, chunks;
    int is_shared, workers; /* the triangles are in shared memory; blocks of threads that each stream has */
} fisher_args;

/* A chunk's share of a stream's trace of the sums and of the weights that are kept. */
static __global__ void fisher_trace_kernel(fisher_args a) {
    SHARED(double_room, room);
    const int64_t s = blockIdx.y, first = (int64_t)blockIdx.x * TRACE_CHUNK;
    double trace = 0.0, kept = 0.0;
    for (int64_t i = first + threadIdx.x; i < smaller(a.weights, first + TRACE_CHUNK); i += THREADS) {
        const int64_t b = quotient(i, a.block), j = i - b * a.block, row = quotient(i, a.in);
        trace += a.sums[(s * a.blocks + b) * a.triangle + j * (j + 1) / 2 + j];
        kept += mask_bit(a.masks + (s * (a.weights / a.in) + row) * a.row_bytes, i - row * a.in);
    }
    trace = block_sum(trace, room);
    kept = block_sum(kept, room);
    if (threadIdx.x) return;
    a.trace[s * a.chunks + blockIdx.x] = trace;
    a.kept[s * a.chunks + blockIdx.x] = (int64_t)kept;
}

/* A stream's delta: as it is, or that share of the mean square of its gradients. */
static __global__ void fisher_damping_kernel(fisher_args a) {
    SHARED(double_room, room);
    const int64_t s = blockIdx.x;
    double trace = 0.0, kept = 0.0;
    for (int64_t c = threadIdx.x; c < a.chunks; c += THREADS) {
        trace += a.trace[s * a.chunks + c];
        kept += (double)a.kept[s * a.chunks + c];
    }
    trace = block_sum(trace, room);
    kept = block_sum(kept, room);
    const double mean = kept > 0.0 ? trace / a.numbers[0] / kept : 0.0;
    if (threadIdx.x == 0) a.damping[s] = a.numbers[2] > 0.0 ? a.numbers[2] : mean > 0.0 ? a.numbers[1] * mean : 1e-12;
}

static __device__ inline int64_t triangle_at(int64_t i, int64_t j) {
    return i * (i + 1) / 2 + j;
}

/* L of A = L L^T in A's place, column by column: each element as the CPU has it. */
static __device__ void factor_triangle(double *l, int64_t size, double damping) {
    for (int64_t j = 0; j < size; j++) {
        for (int64_t i = j + threadIdx.x; i < size; i += blockDim.x) {
            double sum = l[triangle_at(i, j)];
            for (int64_t k = 0; k < j; k++)
                sum = __dadd_rn(sum, -__dmul_rn(l[triangle_at(i, k)], l[triangle_at(j, k)]));
            l[triangle_at(i, j)] = i == j ? sqrt(sum > 0.0 ? sum : damping) : sum;
        }
        __syncthreads();
        for (int64_t i = j + 1 + threadIdx.x; i < size; i += blockDim.x) l[triangle_at(i, j)] /= l[triangle_at(j, j)];
        __syncthreads();
    }
}

/* Column j of L^-1, and its square sum: [F^-1]_jj. */
static __device__ double invert_column(const double *l, double *inverse, int64_t size, int64_t j) {
    double diagonal = 0.0;
    for (int64_t i = j; i < size; i++) {
        double sum = 0.0;
        for (int64_t k = j; k < i; k++)
            sum = __dadd_rn(sum, -__dmul_rn(l[triangle_at(i, k)], inverse[triangle_at(k, j)]));
        const double own = i == j ? 1.0 / l[triangle_at(i, i)] : sum / l[triangle_at(i, i)];
        inverse[triangle_at(i, j)] = own;
        diagonal = __dadd_rn(diagonal, __dmul_rn(own, own));
    }
    return diagonal;
}

/* w^2 / (2 [F^-1]_jj) of one block of weights after another: B^3 / 3 multiplications in f64 a block of B weights, its triangle is
 * read once. By a triangle of shared memory for the factor and one for its inverse where they fit, else in scratch. */
static __global__ void fisher_scores_kernel(fisher_args a) {
    SHARED(double, shared);
    const int64_t s = blockIdx.y;
    double *l = a.is_shared ? &shared : a.work + 2 * a.triangle * (s * a.workers + blockIdx.x),
           *inverse = l + a.triangle;
    for (int64_t b = blockIdx.x; b < a.blocks; b += gridDim.x) {
        const double *sums = a.sums + (s * a.blocks + b) * a.triangle;
        const int64_t size = smaller(a.block, a.weights - b * a.block);
        const float *w = a.w + b * a.block;
        for (int64_t at = threadIdx.x; at < triangle_at(size, 0); at += blockDim.x) l[at] = sums[at] / a.numbers[0];
        __syncthreads();
        for (int64_t i = threadIdx.x; i < size; i += blockDim.x) l[triangle_at(i, i)] += a.damping[s];
        __syncthreads();
        factor_triangle(l, size, a.damping[s]);
        for (int64_t j = threadIdx.x; j < size; j += blockDim.x)
            a.score[s * a.weights + b * a.block + j] = __dmul_rn((double)w[j], (double)w[j]) /
                                                       (2.0 * invert_column(l, inverse, size, j));
        __syncthreads();
    }
}

enum { FISHER_THREADS = 64, FISHER_SHARED = 48 << 10, FISHER_WORK = 256 << 20 };

static size_t place_fisher(fisher_args *a, const scbm_kernel_call *call) {
    const scbm_view *sums = &call->source[0], *w = &call->source[1];
    pieces p = {(unsigned char *)call->scratch, 0};
    a->streams = sums->shape[0];
    a->blocks = sums->shape[1];
    a->triangle = sums->shape[2];
    a->block = call->node->integer[0];
    a->in = w->shape[1];
    a->weights = w->shape[0] * a->in;
    a->row_bytes = call->source[2].shape[2];
    a->chunks = ceil_div(a->weights, TRACE_CHUNK);
    const int64_t bytes = 2 * a->triangle * (int64_t)sizeof(double);
    a->is_shared = bytes <= FISHER_SHARED;
    const int64_t room = a->is_shared ? 65535
                                      : larger<int64_t>(1, FISHER_WORK / bytes / larger<int64_t>(1, a->streams));
    a->workers = (int)smaller(smaller<int64_t>(a->blocks, 65535), room);
    a->damping = (double *)take_piece(&p, a->streams, sizeof(double));
    a->trace = (double *)take_piece(&p, a->streams * a->chunks, sizeof(double));
    a->kept = (int64_t *)take_piece(&p, a->streams * a->chunks, sizeof(int64_t));
    a->work = (double *)take_piece(&p, a->is_shared ? 0 : a->streams * a->workers, (size_t)bytes);
    return p.used;
}

static size_t fisher_scores_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    fisher_args a = {};
    (void)queue;
    return place_fisher(&a, call);
}

static scbm_status cuda_fisher_scores(scbm_queue *queue, const scbm_kernel_call *call) {
    fisher_args a = {};
    place_fisher(&a, call);
    a.score = (double *)call->result[0].data;
    a.sums = (const double *)call->source[0].data;
    a.w = (const float *)call->source[1].data;
    a.masks = (const uint8_t *)call->source[2].data;
    a.numbers = (const double *)call->source[3].data;
    if (!a.streams || !a.weights) return SCBM_OK;
    LAUNCH(queue, fisher_trace_kernel, dim3((unsigned)a.chunks, (unsigned)a.streams), THREADS, sizeof(double_room), a);
    LAUNCH(queue, fisher_damping_kernel, dim3((unsigned)a.streams), THREADS, sizeof(double_room), a);
    LAUNCH(queue, fisher_scores_kernel, dim3((unsigned)a.workers, (unsigned)a.streams), FISHER_THREADS,
           a.is_shared ? 2 * (size_t)a.triangle * sizeof(double) : sizeof(double), a);
    return launched(queue, call);
}

/* y [S, out] = the sum of |w dw| over a row, in f64. A warp has a row of a stream; dw [S, out, in] is read once. */
static __global__ void row_saliency_kernel(float *y, const float *dw, const void *w, int type, int64_t rows,
                                           int64_t out, int64_t in) {
    const int64_t row = row_of_warp(), lane = threadIdx.x % WARP, own = modulo(row, out);
    double sum = 0.0;
    if (row >= rows) return;
    for (int64_t c = lane; c < in; c += WARP)
        sum += fabs((double)weight_at(w, type, own * in + c) * (double)dw[row * in + c]);
    sum = warp_sum(sum);
    if (lane == 0) y[row] = (float)sum;
}

static scbm_status cuda_row_saliency(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *dw = &call->source[0], *w = &call->source[1];
    if (rows_of(dw))
        LAUNCH(queue, row_saliency_kernel, blocks_for(rows_of(dw), ROWS), THREADS, 0, (float *)call->result[0].data,
               (const float *)dw->data, w->data, (int)w->type, rows_of(dw), w->shape[0], w->shape[1]);
    return launched(queue, call);
}

/* The scores' gradient dw w sign(score) in dw's or other memory, and the weights' sum of M dw. A thread has a weight of all
 * streams: dw and the scores are read once, 12 bytes a weight and stream. */
static __global__ void popup_back_kernel(float *dscore, float *dw, const float *dense, const float *w,
                                         const float *score, const uint8_t *masks, int64_t streams, int64_t out,
                                         int64_t in, int64_t row_bytes) {
    const int64_t i = thread_index(), n = out * in;
    if (i >= n) return;
    const int64_t row = quotient(i, in), column = i - row * in;
    const float own = w[i];
    float sum = 0.0f;
    for (int64_t s = 0; s < streams; s++) {
        const float g = dense[s * n + i];
        if (mask_bit(masks + (s * out + row) * row_bytes, column)) sum += g;
        dscore[s * n + i] = g * own * (score[s * n + i] < 0.0f ? -1.0f : 1.0f);
    }
    dw[i] = sum;
}

static scbm_status cuda_popup_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *s = call->source;
    const int64_t n = s[0].shape[1] * s[0].shape[2];
    if (n)
        LAUNCH(queue, popup_back_kernel, blocks_for(n), THREADS, 0, (float *)call->result[0].data,
               (float *)call->result[1].data, (const float *)s[0].data, (const float *)s[1].data,
               (const float *)s[2].data, (const uint8_t *)s[3].data, s[0].shape[0], s[0].shape[1], s[0].shape[2],
               s[3].shape[2]);
    return launched(queue, call);
}

static const kernel_row prune_rows[] = {
    {SCBM_OP_FISHER_ADD, {cuda_fisher_add, NULL, NULL}},
    {SCBM_OP_FISHER_SCORES, {cuda_fisher_scores, fisher_scores_scratch, NULL}},
    {SCBM_OP_ROW_SALIENCY, {cuda_row_saliency, NULL, NULL}},
    {SCBM_OP_POPUP_BACK, {cuda_popup_back, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: selecting by score
 *
 * Of each list (a stream's weights, its rows; what goes and what comes) the `wanted` places of the smallest keys, and among
 * equal keys the first ones. A key is 64 bits, or 32 of f32 scores, and is found from the top, eight bits a pass: how many
 * keys that begin like the one looked for have each next digit, by chunks, then which digit the rank lies in. The last pass but
 * one counts, chunk by chunk, what is smaller and what is equal, so that each place knows how many equals stand before it.
 * A place is a bit of the masks: rows are padded to 64. Floor: the keys' sources, read ten times (six for f32).
 * ---------------------------------------------------------------------------------------- */

#define NO_KEY UINT64_MAX /* of a place that is not in the list */

enum { RANK_DIGITS = 256, RANK_CHUNK = 64 * THREADS, RANK_PLACES = 8, RANK_TILE = RANK_PLACES * THREADS };

typedef uint32_t digit_room[RANK_DIGITS];

typedef struct rank_state {
    uint64_t prefix, known;
    int64_t wanted, smaller, n; /* n: how many are in the list */
} rank_state;

typedef struct rank_work {
    rank_state *state; /* [lists] */
    uint32_t *count;   /* [lists, chunks, digits] */
    uint64_t *below;   /* [lists, tiles]: smaller and equal keys of a tile, later of those before it */
    int64_t lists, places, chunks, tiles;
} rank_work;

static void place_rank(rank_work *work, pieces *p, int64_t lists, int64_t places) {
    work->lists = lists;
    work->places = places;
    work->chunks = ceil_div(places, RANK_CHUNK);
    work->tiles = ceil_div(places, RANK_TILE);
    work->state = (rank_state *)take_piece(p, lists, sizeof(rank_state));
    work->count = (uint32_t *)take_piece(p, lists * work->chunks * RANK_DIGITS, sizeof(uint32_t));
    work->below = (uint64_t *)take_piece(p, lists * work->tiles, sizeof(uint64_t));
}

/* Doubles as unsigned keys of the same order (a NaN is the smallest), none of them 0. */
static __device__ inline uint64_t rank_key(double value) {
    const uint64_t bits = (uint64_t)__double_as_longlong(value);
    if (value != value) return 1;
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

template <class K> static __global__ void rank_count_kernel(K keys, rank_work work, int shift) {
    SHARED(digit_room, count);
    const int64_t list = blockIdx.y, first = (int64_t)blockIdx.x * RANK_CHUNK;
    const uint64_t known = shift == K::BITS - 8 ? 0 : work.state[list].known,
                   prefix = known ? work.state[list].prefix : 0;
    for (int d = threadIdx.x; d < RANK_DIGITS; d += THREADS) count[d] = 0;
    __syncthreads();
    for (int64_t i = first + threadIdx.x; i < smaller(work.places, first + RANK_CHUNK); i += THREADS) {
        const uint64_t key = keys.key(list, i);
        if (key != NO_KEY && (key & known) == prefix) atomicAdd(&count[key >> shift & 255], 1u);
    }
    __syncthreads();
    uint32_t *to = work.count + (list * work.chunks + blockIdx.x) * RANK_DIGITS;
    for (int d = threadIdx.x; d < RANK_DIGITS; d += THREADS) to[d] = count[d];
}

/* How many of a list have a thread's digit. */
static __device__ inline int64_t count_digit(const rank_work &work, int64_t list) {
    int64_t count = 0;
    for (int64_t c = 0; c < work.chunks; c++) count += work.count[(list * work.chunks + c) * RANK_DIGITS + threadIdx.x];
    return count;
}

/* Which digit the rank lies in. The first pass begins with how many are in the lists, and how many of them are wanted. */
template <class K> static __global__ void rank_digit_kernel(K keys, rank_work work, int shift) {
    SHARED(long_room, room);
    const int64_t list = blockIdx.x, own = count_digit(work, list), before = block_before(own, room);
    rank_state state = work.state[list];
    if (shift == K::BITS - 8) {
        int64_t n[2] = {block_sum(own, room), INT64_MAX};
        if (K::IS_PAIR) n[1] = block_sum(count_digit(work, 1 - list), room);
        state.prefix = state.known = 0;
        state.smaller = 0;
        state.n = n[0];
        state.wanted = keys.wanted(smaller(n[0], n[1]));
    }
    const int64_t rank = smaller(state.wanted, state.n) - 1;
    const int is_it = rank >= state.smaller + before && rank < state.smaller + before + own;
    __syncthreads(); /* all have read the state */
    if (is_it || (state.wanted <= 0 && threadIdx.x == 0)) {
        state.prefix |= (uint64_t)threadIdx.x << shift;
        state.known |= (uint64_t)255 << shift;
        state.smaller += before;
        work.state[list] = state;
    }
}

/* Keys of the places of a thread: 0 smaller than the threshold, 1 equal, 2 larger. */
static __device__ inline int side_of(uint64_t key, const rank_state &state) {
    if (key == NO_KEY || state.wanted <= 0) return 2;
    return key < state.prefix ? 0 : key == state.prefix ? 1 : 2;
}

template <class K> static __global__ void rank_below_kernel(K keys, rank_work work) {
    SHARED(word_room, room);
    const int64_t list = blockIdx.y, first = (int64_t)blockIdx.x * RANK_TILE + threadIdx.x * RANK_PLACES;
    const rank_state state = work.state[list];
    uint64_t count = 0;
    for (int64_t i = first; i < smaller(work.places, first + RANK_PLACES); i++) {
        const int side = side_of(keys.key(list, i), state);
        count += side == 0 ? (uint64_t)1 << 32 : side == 1 ? 1 : 0;
    }
    count = block_sum(count, room);
    if (threadIdx.x == 0) work.below[list * work.tiles + blockIdx.x] = count;
}

/* Of each tile, what is in the tiles before it. */
static __global__ void rank_before_kernel(rank_work work) {
    SHARED(word_room, room);
    uint64_t *below = work.below + blockIdx.x * work.tiles, sum = 0;
    for (int64_t first = 0; first < work.tiles; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const uint64_t own = i < work.tiles ? below[i] : 0, before = block_before(own, room);
        if (i < work.tiles) below[i] = sum + before;
        sum += block_sum(own, room);
    }
}

/* Hands each thread's places to keys.take, with which of them are chosen, and how many are before. */
template <class K> static __global__ void rank_take_kernel(K keys, rank_work work) {
    SHARED(word_room, room);
    const int64_t list = blockIdx.y, first = (int64_t)blockIdx.x * RANK_TILE + threadIdx.x * RANK_PLACES;
    const rank_state state = work.state[list];
    uint64_t count = 0, key[RANK_PLACES];
    unsigned chosen = 0;
    for (int e = 0; e < RANK_PLACES; e++) {
        key[e] = first + e < work.places ? keys.key(list, first + e) : NO_KEY;
        const int side = side_of(key[e], state);
        count += side == 0 ? (uint64_t)1 << 32 : side == 1 ? 1 : 0;
    }
    uint64_t before = work.below[list * work.tiles + blockIdx.x] + block_before(count, room);
    const int64_t ties = state.wanted - state.smaller;
    int64_t equal = (int64_t)(before & 0xffffffffu), taken = (int64_t)(before >> 32) + smaller(equal, ties);
    for (int e = 0; e < RANK_PLACES; e++) {
        const int side = side_of(key[e], state);
        if (side == 0 || (side == 1 && equal < ties)) chosen |= 1u << e;
        equal += side == 1;
    }
    keys.take(list, first, chosen, taken, key);
}

template <class K> static void rank_all(scbm_queue *queue, const K &keys, const rank_work &work) {
    const dim3 chunks((unsigned)work.chunks, (unsigned)work.lists), tiles((unsigned)work.tiles, (unsigned)work.lists);
    for (int shift = K::BITS - 8; shift >= 0; shift -= 8) {
        LAUNCH(queue, rank_count_kernel<K>, chunks, THREADS, sizeof(digit_room), keys, work, shift);
        LAUNCH(queue, rank_digit_kernel<K>, dim3((unsigned)work.lists), THREADS, sizeof(long_room), keys, work, shift);
    }
    LAUNCH(queue, rank_below_kernel<K>, tiles, THREADS, sizeof(word_room), keys, work);
    LAUNCH(queue, rank_before_kernel, dim3((unsigned)work.lists), THREADS, sizeof(word_room), work);
    LAUNCH(queue, rank_take_kernel<K>, tiles, THREADS, sizeof(word_room), keys, work);
}

/* Masks [S, out, row bytes] and the scores of their weights. */
typedef struct choice {
    uint8_t *masks;
    const uint8_t *after; /* of agree: the masks that are compared with */
    const void *score;
    const int32_t *zeros;
    int64_t out, in, row_bytes, stride; /* stride: of the scores' streams */
    int32_t *agreeing;                  /* [S, tiles x THREADS] */
    int is_nested;
} choice;

static __device__ inline uint8_t valid_bits(int64_t in, int64_t column) {
    return in - column >= 8 ? 255 : in > column ? (uint8_t)((1u << (in - column)) - 1) : 0;
}

/* A stream's weights: 0 for those that are off. SCORES is F32, whose absolute values count, or F64. */
template <int SCORES, int IS_AGREE> struct weight_keys {
    enum { BITS = SCORES == SCBM_F64 ? 64 : 32, IS_PAIR = 0 };
    choice c;
    __device__ int64_t wanted(int64_t) const {
        return *c.zeros;
    }
    __device__ uint64_t key(int64_t list, int64_t place) const {
        const int64_t row = quotient(place, c.row_bytes * 8), column = place - row * c.row_bytes * 8;
        if (column >= c.in) return NO_KEY;
        if (c.is_nested && !mask_bit(c.masks + (list * c.out + row) * c.row_bytes, column)) return 0;
        const int64_t at = list * c.stride + row * c.in + column;
        if (SCORES == SCBM_F64) return rank_key(((const double *)c.score)[at]);
        const float x = fabsf(((const float *)c.score)[at]);
        return x != x ? 1 : (uint64_t)__float_as_uint(x) + 2;
    }
    __device__ void take(int64_t list, int64_t first, unsigned chosen, int64_t, const uint64_t *) const {
        const int64_t byte = first / 8, row = quotient(byte, c.row_bytes), column = (byte - row * c.row_bytes) * 8;
        const int64_t at = list * c.out * c.row_bytes + byte;
        if (IS_AGREE) {
            const int64_t place = (list * gridDim.x + blockIdx.x) * THREADS + threadIdx.x;
            c.agreeing[place] = row < c.out ? __popc(c.after[at] & valid_bits(c.in, column) & ~chosen) : 0;
        } else if (row < c.out) {
            c.masks[at] = (uint8_t)((c.is_nested ? c.masks[at] : valid_bits(c.in, column)) & ~chosen);
        }
    }
};

/* A stream's rows, by the norms of their scores; take marks those that go. */
struct row_keys {
    enum { BITS = 64, IS_PAIR = 0 };
    const uint64_t *keys;
    uint8_t *goes;
    const int32_t *zeros;
    int64_t out;
    __device__ int64_t wanted(int64_t) const {
        return *zeros;
    }
    __device__ uint64_t key(int64_t list, int64_t place) const {
        return keys[list * out + place];
    }
    __device__ void take(int64_t list, int64_t first, unsigned chosen, int64_t, const uint64_t *) const {
        for (int64_t e = 0; e < RANK_PLACES && first + e < out; e++) goes[list * out + first + e] = chosen >> e & 1;
    }
};

/* The keys of rows: the root of the sum of squares in the row's order, 0 for a nested choice where all is off. A thread has a
 * row: rows are few, and the order is the CPU's. */
static __global__ void row_key_kernel(uint64_t *keys, choice c, int64_t rows) {
    const int64_t row = thread_index(), s = row / c.out, own = row - s * c.out;
    if (row >= rows) return;
    const float *score = (const float *)c.score + s * c.stride + own * c.in;
    const uint8_t *bits = c.masks + row * c.row_bytes;
    int is_on = !c.is_nested;
    double square = 0.0;
    for (int64_t j = 0; j < c.in && !is_on; j++) is_on = mask_bit(bits, j);
    for (int64_t j = 0; j < c.in && is_on; j++)
        square = __dadd_rn(square, __dmul_rn((double)score[j], (double)score[j]));
    keys[row] = is_on ? rank_key(sqrt(square)) : 0;
}

/* The masks' bytes, without the rows that go. */
static __global__ void drop_rows_kernel(choice c, const uint8_t *goes, int64_t bytes) {
    const int64_t at = thread_index();
    if (at >= bytes) return;
    const int64_t row = quotient(at, c.row_bytes), column = (at - row * c.row_bytes) * 8;
    const uint8_t valid = valid_bits(c.in, column), byte = c.is_nested ? c.masks[at] : valid;
    c.masks[at] = goes[row] ? (uint8_t)(byte & ~valid) : byte;
}

static choice choice_of(const scbm_kernel_call *call) {
    const scbm_view *score = &call->source[0], *masks = &call->source[1];
    const int is_agree = call->node->op == SCBM_OP_AGREE;
    choice c = {};
    c.masks = (uint8_t *)masks->data;
    c.after = is_agree ? (const uint8_t *)call->source[2].data : NULL;
    c.score = score->data;
    c.zeros = (const int32_t *)call->source[is_agree ? 3 : 2].data;
    c.out = masks->shape[1];
    c.in = columns_of(score);
    c.row_bytes = masks->shape[2];
    c.stride = score->n_dims == 3 ? c.out * c.in : 0;
    c.is_nested = is_agree || (call->node->integer[0] & SCBM_KEEP_NESTED);
    return c;
}

typedef struct row_room {
    uint64_t *keys;
    uint8_t *goes;
} row_room;

static int is_by_rows(const scbm_kernel_call *call) {
    return call->node->op == SCBM_OP_KEEP_LARGEST && (call->node->integer[0] & SCBM_KEEP_ROWS);
}

/* Where the parts of scratch are: of rows, their keys and marks; of agree a number for each thread. */
static size_t place_choice(const scbm_kernel_call *call, choice *c, rank_work *work, row_room *rows) {
    const scbm_view *masks = &call->source[1];
    const int64_t streams = masks->shape[0];
    pieces p = {(unsigned char *)call->scratch, 0};
    *c = choice_of(call);
    place_rank(work, &p, streams, is_by_rows(call) ? c->out : c->out * c->row_bytes * 8);
    rows->keys = (uint64_t *)take_piece(&p, is_by_rows(call) ? streams * c->out : 0, sizeof(uint64_t));
    rows->goes = (uint8_t *)take_piece(&p, is_by_rows(call) ? streams * c->out : 0, 1);
    c->agreeing = (int32_t *)take_piece(
        &p, c->after || call->node->op == SCBM_OP_AGREE ? streams * work->tiles * THREADS : 0, sizeof(int32_t));
    return p.used;
}

static size_t choice_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    choice c;
    rank_work work;
    row_room rows;
    (void)queue;
    return place_choice(call, &c, &work, &rows);
}

static void keep_rows(scbm_queue *queue, const choice &c, const rank_work &work, const row_room &rows) {
    const int64_t n = work.lists * c.out;
    const row_keys keys = {rows.keys, rows.goes, c.zeros, c.out};
    LAUNCH(queue, row_key_kernel, blocks_for(n), THREADS, 0, rows.keys, c, n);
    rank_all(queue, keys, work);
    LAUNCH(queue, drop_rows_kernel, blocks_for(n * c.row_bytes), THREADS, 0, c, rows.goes, n * c.row_bytes);
}

template <int SCORES, int IS_AGREE>
static void choose_weights(scbm_queue *queue, const choice &c, const rank_work &work) {
    const weight_keys<SCORES, IS_AGREE> keys = {c};
    rank_all(queue, keys, work);
}

static scbm_status cuda_keep_largest(scbm_queue *queue, const scbm_kernel_call *call) {
    choice c;
    rank_work work;
    row_room rows;
    place_choice(call, &c, &work, &rows);
    if (!work.lists || !c.out || !c.in) return SCBM_OK;
    if (is_by_rows(call)) keep_rows(queue, c, work, rows);
    else if (call->source[0].type == SCBM_F64) choose_weights<SCBM_F64, 0>(queue, c, work);
    else choose_weights<SCBM_F32, 0>(queue, c, work);
    return launched(queue, call);
}

static __global__ void agree_kernel(int32_t *y, const int32_t *agreeing, int64_t n) {
    SHARED(long_room, room);
    int64_t sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += agreeing[blockIdx.x * n + i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) y[blockIdx.x] = (int32_t)sum;
}

static scbm_status cuda_agree(scbm_queue *queue, const scbm_kernel_call *call) {
    choice c;
    rank_work work;
    row_room rows;
    place_choice(call, &c, &work, &rows);
    if (!work.lists) return SCBM_OK;
    if (work.tiles && call->source[0].type == SCBM_F64) choose_weights<SCBM_F64, 1>(queue, c, work);
    if (work.tiles && call->source[0].type != SCBM_F64) choose_weights<SCBM_F32, 1>(queue, c, work);
    LAUNCH(queue, agree_kernel, dim3((unsigned)work.lists), THREADS, sizeof(long_room), (int32_t *)call->result[0].data,
           c.agreeing, work.tiles * THREADS);
    return launched(queue, call);
}

/* ---- Moves of an intervention: two lists, of what goes and what comes; the q smallest of each, in order ---- */

typedef struct move {
    uint64_t key;
    int64_t place;
} move;

/* list 0: kept weights, list 1: zeros. By the signed rule only negative scores are in a list. */
struct move_keys {
    enum { BITS = 64, IS_PAIR = 1 };
    const float *dw;
    const void *w;
    const uint8_t *masks;
    const int32_t *rule; /* q, and whether the rule is signed */
    int type;
    int64_t in, row_bits, capacity;
    move *taken; /* [2, capacity] */
    __device__ int64_t wanted(int64_t n) const {
        return smaller(smaller<int64_t>(rule[0], capacity), n);
    }
    __device__ uint64_t key(int64_t list, int64_t place) const {
        const int64_t row = quotient(place, row_bits), column = place - row * row_bits;
        if (column >= in || mask_bit(masks + row * (row_bits / 8), column) == (int)list) return NO_KEY;
        const int64_t at = row * in + column;
        const double product = (double)dw[at] * (double)weight_at(w, type, at);
        const double own = rule[1] ? -product : fabs(product), score = list ? -own : own;
        return rule[1] && !(score < 0.0) ? NO_KEY : rank_key(score);
    }
    __device__ void take(int64_t list, int64_t first, unsigned chosen, int64_t taken_before,
                         const uint64_t *key) const {
        for (int e = 0; e < RANK_PLACES; e++)
            if (chosen >> e & 1) taken[list * capacity + taken_before++] = {key[e], first + e};
    }
};

enum { SORT_TILE = 4 * THREADS };

typedef move move_tile[SORT_TILE];

static __device__ inline int is_before(const move &a, const move &b) {
    return a.key != b.key ? a.key < b.key : a.place < b.place;
}

static __device__ inline int64_t moves_of(const rank_state *state, int64_t list) {
    return larger<int64_t>(0, state[list].wanted);
}

/* Tiles of the taken, each in order: a move's place is how many are before it. */
static __global__ void sort_tile_kernel(move *sorted, const move *taken, const rank_state *state, int64_t capacity) {
    SHARED(move_tile, tile);
    const int64_t list = blockIdx.y, first = (int64_t)blockIdx.x * SORT_TILE;
    const int n = (int)smaller<int64_t>(SORT_TILE, moves_of(state, list) - first);
    for (int i = threadIdx.x; i < n; i += THREADS) tile[i] = taken[list * capacity + first + i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += THREADS) {
        int before = 0;
        for (int j = 0; j < n; j++) before += is_before(tile[j], tile[i]);
        sorted[list * capacity + first + before] = tile[i];
    }
}

/* Neighbouring runs of `width` become one: a move's place is its own in its run and how many of the other are before it. */
static __global__ void merge_kernel(move *merged, const move *runs, const rank_state *state, int64_t capacity,
                                    int64_t width) {
    const int64_t list = blockIdx.y, i = thread_index(), n = moves_of(state, list);
    if (i >= n) return;
    const move *list_runs = runs + list * capacity, own = list_runs[i];
    const int64_t run = i / width, start = run / 2 * 2 * width, other = smaller(n, (run ^ 1) * width);
    int64_t low = other, high = smaller(n, other + width);
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (is_before(list_runs[middle], own)) low = middle + 1;
        else high = middle;
    }
    merged[list * capacity + start + i - run * width + low - other] = own;
}

static __global__ void finish_moves_kernel(int32_t *moves, int32_t *count, const move *sorted, const rank_state *state,
                                           int64_t capacity) {
    const int64_t list = blockIdx.y, i = thread_index();
    if (i < moves_of(state, list)) moves[list * capacity + i] = (int32_t)sorted[list * capacity + i].place;
    if (i == 0 && list == 0) *count = (int32_t)moves_of(state, 0);
}

static size_t place_moves(const scbm_kernel_call *call, rank_work *work, move *buffer[2]) {
    const scbm_view *masks = &call->source[2], *moves = &call->source[4];
    pieces p = {(unsigned char *)call->scratch, 0};
    place_rank(work, &p, 2, masks->shape[1] * masks->shape[2] * 8);
    for (int i = 0; i < 2; i++) buffer[i] = (move *)take_piece(&p, 2 * moves->shape[1], sizeof(move));
    return p.used;
}

static size_t mask_moves_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    rank_work work;
    move *buffer[2];
    (void)queue;
    return place_moves(call, &work, buffer);
}

static scbm_status cuda_mask_moves(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *s = call->source;
    const int64_t which = call->node->integer[0], capacity = s[4].shape[1];
    rank_work work;
    move *buffer[2];
    place_moves(call, &work, buffer);
    int32_t *count = (int32_t *)s[5].data + which;
    if (!capacity || !work.places) {
        cudaMemsetAsync(count, 0, sizeof *count, stream_of(queue));
        return launched(queue, call);
    }
    const move_keys keys = {(const float *)s[0].data,
                            s[1].data,
                            (const uint8_t *)s[2].data,
                            (const int32_t *)s[3].data + 2 * which,
                            s[1].type,
                            s[1].shape[1],
                            s[2].shape[2] * 8,
                            capacity,
                            buffer[0]};
    const dim3 tiles((unsigned)ceil_div(capacity, SORT_TILE), 2), threads((unsigned)ceil_div(capacity, THREADS), 2);
    rank_all(queue, keys, work);
    LAUNCH(queue, sort_tile_kernel, tiles, THREADS, sizeof(move_tile), buffer[1], buffer[0], work.state, capacity);
    int sorted = 1;
    for (int64_t width = SORT_TILE; width < capacity; width *= 2, sorted = !sorted)
        LAUNCH(queue, merge_kernel, threads, THREADS, 0, buffer[!sorted], buffer[sorted], work.state, capacity, width);
    LAUNCH(queue, finish_moves_kernel, threads, THREADS, 0, (int32_t *)s[4].data, count, buffer[sorted], work.state,
           capacity);
    return launched(queue, call);
}

/* The first moves in masks, or back: single bits, each of which is moved once, by atomic instructions on words. */
static __global__ void flip_bits_kernel(uint32_t *masks, const int32_t *moves, const int32_t *count,
                                        const int32_t *wanted, int64_t capacity, int64_t bits) {
    const int64_t i = thread_index();
    if (i >= smaller(smaller(wanted[0], *count), (int32_t)capacity)) return;
    const int32_t out = moves[i], in = moves[capacity + i];
    if (out < 0 || out >= bits || in < 0 || in >= bits) return;
    const int32_t off = wanted[1] ? in : out, on = wanted[1] ? out : in;
    atomicAnd(&masks[off / 32], ~(1u << (off % 32)));
    atomicOr(&masks[on / 32], 1u << (on % 32));
}

static scbm_status cuda_flip_bits(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *s = call->source;
    const int64_t which = call->node->integer[0], capacity = s[1].shape[1];
    if (capacity)
        LAUNCH(queue, flip_bits_kernel, blocks_for(capacity), THREADS, 0, (uint32_t *)s[0].data,
               (const int32_t *)s[1].data, (const int32_t *)s[2].data + which, (const int32_t *)s[3].data + 2 * which,
               capacity, 8 * elements_of(&s[0]));
    return launched(queue, call);
}

static const kernel_row choice_rows[] = {
    {SCBM_OP_KEEP_LARGEST, {cuda_keep_largest, choice_scratch, NULL}},
    {SCBM_OP_AGREE, {cuda_agree, choice_scratch, NULL}},
    {SCBM_OP_MASK_MOVES, {cuda_mask_moves, mask_moves_scratch, NULL}},
    {SCBM_OP_FLIP_BITS, {cuda_flip_bits, NULL, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * Kernels: an LSTM's recurrence
 *
 * A block takes a few texts of a stream from step to step, because each step's product needs the one before. The weights are
 * masked, brought to f32 and laid out as the products walk them once a call; each step then reads them from the second cache:
 * the floor is 16 H² bytes over that cache's rate, once a step for the texts of a block. Sums are in the order of the index.
 * ---------------------------------------------------------------------------------------- */

enum { LSTM_TEXTS = 4, LSTM_THREADS = 512 };

typedef struct lstm_args {
    float *y, *gates, *cells, *dx, *before,
        *carry;              /* carry: [S, groups, 2, LSTM_TEXTS, H], gradients of state and cell */
    const float *x, *dy, *w; /* w: [S or 1, H, 4H], backward [S or 1, 4H, H] */
    const int32_t *offsets;
    int64_t texts, S, x_S, T, H, groups, stride; /* stride: of w's streams */
    int is_reversed;
} lstm_args;

/* The masked weights, transposed for forward. */
template <int IS_BACK> struct map_lstm_weights {
    typedef float value;
    float *y;
    int64_t n;
    const void *w;
    const uint8_t *masks;
    int type;
    int64_t H, row_bytes;
    __device__ float at(int64_t i) const {
        const int64_t s = quotient(i, 4 * H * H), own = i - s * 4 * H * H, first = quotient(own, IS_BACK ? H : 4 * H);
        const int64_t second = own - first * (IS_BACK ? H : 4 * H), row = IS_BACK ? first : second,
                      k = IS_BACK ? second : first;
        if (masks && !mask_bit(masks + (s * 4 * H + row) * row_bytes, k)) return 0.0f;
        return weight_at(w, type, row * H + k);
    }
};

/* Text n's token of a step, counted in the direction of the LSTM; -1: it has none. */
static __device__ inline int64_t lstm_token(const lstm_args &a, int64_t n, int64_t step) {
    if (n >= a.texts) return -1;
    const int64_t first = a.offsets[n], length = a.offsets[n + 1] - first;
    if (step < 0 || step >= length) return -1;
    return a.is_reversed ? first + length - 1 - step : first + step;
}

static __device__ inline int64_t lstm_longest(const lstm_args &a, int64_t from) {
    int64_t longest = 0;
    for (int64_t n = from; n < smaller(a.texts, from + LSTM_TEXTS); n++)
        longest = larger<int64_t>(longest, a.offsets[n + 1] - a.offsets[n]);
    return longest;
}

/* Rows of tokens that are in no text, which no other thread writes. */
static __global__ void zero_outside_kernel(float *a, float *b, float *c, const int32_t *offsets, int64_t texts,
                                           int64_t T, int64_t of_a, int64_t of_b, int64_t of_c) {
    const int64_t t = blockIdx.x % T;
    if (t >= offsets[0] && t < offsets[texts]) return;
    for (int64_t j = threadIdx.x; j < of_a; j += THREADS) a[blockIdx.x * of_a + j] = 0.0f;
    for (int64_t j = threadIdx.x; j < of_b; j += THREADS) b[blockIdx.x * of_b + j] = 0.0f;
    for (int64_t j = threadIdx.x; j < of_c; j += THREADS) c[blockIdx.x * of_c + j] = 0.0f;
}

static __global__ void __launch_bounds__(LSTM_THREADS) lstm_kernel(lstm_args a) {
    const int64_t s = blockIdx.x / a.groups, from = blockIdx.x % a.groups * LSTM_TEXTS, H = a.H;
    const int64_t longest = lstm_longest(a, from);
    const float *x = a.x + (a.x_S > 1 ? s * a.T * 4 * H : 0), *w = a.w + s * a.stride;
    float *gates = a.gates + s * a.T * 4 * H, *cells = a.cells + s * a.T * H, *y = a.y + s * a.T * H;
    for (int64_t step = 0; step < longest; step++) {
        int64_t t[LSTM_TEXTS], before[LSTM_TEXTS];
        for (int g = 0; g < LSTM_TEXTS; g++) {
            t[g] = lstm_token(a, from + g, step);
            before[g] = t[g] < 0 ? -1 : lstm_token(a, from + g, step - 1);
        }
        for (int64_t row = threadIdx.x; row < 4 * H; row += LSTM_THREADS) {
            float z[LSTM_TEXTS];
            for (int g = 0; g < LSTM_TEXTS; g++) z[g] = t[g] < 0 ? 0.0f : x[t[g] * 4 * H + row];
            for (int64_t k = 0; k < H && step; k++) {
                const float weight = w[k * 4 * H + row];
                for (int g = 0; g < LSTM_TEXTS; g++)
                    if (before[g] >= 0) z[g] = fmaf(y[before[g] * H + k], weight, z[g]);
            }
            for (int g = 0; g < LSTM_TEXTS; g++)
                if (t[g] >= 0) gates[t[g] * 4 * H + row] = z[g];
        }
        __syncthreads();
        for (int64_t i = threadIdx.x; i < LSTM_TEXTS * H; i += LSTM_THREADS) {
            const int64_t g = i / H, j = i - g * H, own = lstm_token(a, from + g, step);
            if (own < 0) continue;
            float *gate = gates + own * 4 * H + j;
            const float in = sigmoid_of(gate[0]), forget = sigmoid_of(gate[H]), value = tanh_of(gate[2 * H]);
            const float out = sigmoid_of(gate[3 * H]);
            const int64_t earlier = lstm_token(a, from + g, step - 1);
            const float cell = earlier < 0 ? in * value : fmaf(forget, cells[earlier * H + j], in * value);
            gate[0] = in;
            gate[H] = forget;
            gate[2 * H] = value;
            gate[3 * H] = out;
            cells[own * H + j] = cell;
            y[own * H + j] = out * tanh_of(cell);
        }
        __syncthreads();
    }
}

/* What the gates of a token should get, from the gradients of its state, dy and *dh, and of its cell, *dc, which becomes that of
 * the cell before. */
static __device__ inline void lstm_cell_back(const lstm_args &a, int64_t token, int64_t earlier, int64_t j, float dh,
                                             float *dc) {
    const int64_t H = a.H;
    const float *gate = a.gates + token * 4 * H + j;
    const float in = gate[0], forget = gate[H], value = gate[2 * H], out = gate[3 * H];
    const float tanh_c = tanh_of(a.cells[token * H + j]), before = earlier < 0 ? 0.0f : a.cells[earlier * H + j];
    const float d = a.dy[token * H + j] + dh, c = fmaf(d * out, fmaf(-tanh_c, tanh_c, 1.0f), *dc);
    float *dz = a.dx + token * 4 * H + j;
    dz[0] = c * value * (in * (1.0f - in));
    dz[H] = c * before * (forget * (1.0f - forget));
    dz[2 * H] = c * in * fmaf(-value, value, 1.0f);
    dz[3 * H] = d * tanh_c * (out * (1.0f - out));
    *dc = c * forget;
    a.before[token * H + j] = earlier < 0 ? 0.0f : a.y[earlier * H + j];
}

static __global__ void __launch_bounds__(LSTM_THREADS) lstm_back_kernel(lstm_args a) {
    const int64_t s = blockIdx.x / a.groups, from = blockIdx.x % a.groups * LSTM_TEXTS, H = a.H, first = s * a.T;
    const float *w = a.w + s * a.stride;
    float *dh = a.carry + blockIdx.x * 2 * LSTM_TEXTS * H, *dc = dh + LSTM_TEXTS * H;
    for (int64_t i = threadIdx.x; i < 2 * LSTM_TEXTS * H; i += LSTM_THREADS) dh[i] = 0.0f;
    __syncthreads();
    for (int64_t step = lstm_longest(a, from) - 1; step >= 0; step--) {
        for (int64_t i = threadIdx.x; i < LSTM_TEXTS * H; i += LSTM_THREADS) {
            const int64_t g = i / H, token = lstm_token(a, from + g, step), earlier = lstm_token(a, from + g, step - 1);
            if (token < 0) continue;
            lstm_cell_back(a, first + token, earlier < 0 ? -1 : first + earlier, i - g * H, dh[i], &dc[i]);
        }
        __syncthreads();
        for (int64_t k = threadIdx.x; k < H && step; k += LSTM_THREADS) {
            float sum[LSTM_TEXTS] = {0.0f};
            int64_t t[LSTM_TEXTS];
            for (int g = 0; g < LSTM_TEXTS; g++) t[g] = lstm_token(a, from + g, step);
            for (int64_t row = 0; row < 4 * H; row++) {
                const float weight = w[row * H + k];
                for (int g = 0; g < LSTM_TEXTS; g++)
                    if (t[g] >= 0) sum[g] = fmaf(a.dx[(first + t[g]) * 4 * H + row], weight, sum[g]);
            }
            for (int g = 0; g < LSTM_TEXTS; g++) dh[g * H + k] = sum[g];
        }
        __syncthreads();
    }
}

/* Shapes, and where the weights and what is carried are in scratch. */
static size_t place_lstm(lstm_args *a, const scbm_kernel_call *call) {
    const int is_back = call->node->op == SCBM_OP_LSTM_BACK, masks = is_back ? 6 : 3;
    const scbm_view *y = is_back ? &call->source[0] : &call->result[0], *w = &call->source[is_back ? 4 : 1];
    pieces p = {(unsigned char *)call->scratch, 0};
    a->S = y->shape[0];
    a->T = y->shape[1];
    a->H = w->shape[1];
    a->x_S = call->source[0].shape[0];
    a->offsets = (const int32_t *)call->source[is_back ? 5 : 2].data;
    a->texts = call->texts;
    a->is_reversed = (int)call->node->integer[0];
    a->groups = ceil_div(call->source[is_back ? 5 : 2].shape[0] - 1, LSTM_TEXTS);
    a->stride = call->source[masks].tensor ? 4 * a->H * a->H : 0;
    a->w = (float *)take_piece(&p, (a->stride ? a->S : 1) * 4 * a->H * a->H, sizeof(float));
    a->carry = (float *)take_piece(&p, is_back ? a->S * a->groups * 2 * LSTM_TEXTS * a->H : 0, sizeof(float));
    return p.used;
}

static size_t lstm_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    lstm_args a = {};
    (void)queue;
    return place_lstm(&a, call);
}

template <int IS_BACK>
static void write_lstm_weights(scbm_queue *queue, const scbm_kernel_call *call, const lstm_args &a) {
    const scbm_view *w = &call->source[IS_BACK ? 4 : 1], *masks = &call->source[IS_BACK ? 6 : 3];
    const map_lstm_weights<IS_BACK> f = {(float *)a.w,
                                         (a.stride ? a.S : 1) * 4 * a.H * a.H,
                                         w->data,
                                         a.stride ? (const uint8_t *)masks->data : NULL,
                                         w->type,
                                         a.H,
                                         a.stride ? masks->shape[2] : 0};
    map_all(queue, call, f);
}

static scbm_status cuda_lstm(scbm_queue *queue, const scbm_kernel_call *call) {
    lstm_args a = {};
    place_lstm(&a, call);
    a.x = (const float *)call->source[0].data;
    a.y = (float *)call->result[0].data;
    a.gates = (float *)call->result[1].data;
    a.cells = (float *)call->result[2].data;
    if (!a.S || !a.T || !a.H) return SCBM_OK;
    LAUNCH(queue, zero_outside_kernel, dim3((unsigned)(a.S * a.T)), THREADS, 0, a.y, a.gates, a.cells, a.offsets,
           a.texts, a.T, a.H, 4 * a.H, a.H);
    write_lstm_weights<0>(queue, call, a);
    if (a.texts) LAUNCH(queue, lstm_kernel, dim3((unsigned)(a.S * a.groups)), LSTM_THREADS, 0, a);
    return launched(queue, call);
}

static scbm_status cuda_lstm_back(scbm_queue *queue, const scbm_kernel_call *call) {
    lstm_args a = {};
    place_lstm(&a, call);
    a.dy = (const float *)call->source[0].data;
    a.y = (float *)call->source[1].data;
    a.gates = (float *)call->source[2].data;
    a.cells = (float *)call->source[3].data;
    a.dx = (float *)call->result[0].data;
    a.before = (float *)call->result[1].data;
    if (!a.S || !a.T || !a.H) return SCBM_OK;
    LAUNCH(queue, zero_outside_kernel, dim3((unsigned)(a.S * a.T)), THREADS, 0, a.dx, a.before, (float *)NULL,
           a.offsets, a.texts, a.T, 4 * a.H, a.H, (int64_t)0);
    write_lstm_weights<1>(queue, call, a);
    if (a.texts) LAUNCH(queue, lstm_back_kernel, dim3((unsigned)(a.S * a.groups)), LSTM_THREADS, 0, a);
    return launched(queue, call);
}

static const kernel_row lstm_rows[] = {
    {SCBM_OP_LSTM, {cuda_lstm, lstm_scratch, NULL}},
    {SCBM_OP_LSTM_BACK, {cuda_lstm_back, lstm_scratch, NULL}},
};

/* ------------------------------------------------------------------------------------------
 * The tables
 * ---------------------------------------------------------------------------------------- */

static scbm_kernel kernels[SCBM_OP_COUNT];

#define ADD_ROWS(rows) add_rows(rows, (int)(sizeof rows / sizeof rows[0]))

static void add_rows(const kernel_row *rows, int n) {
    for (int i = 0; i < n; i++) kernels[rows[i].op] = rows[i].kernel;
}

static void fill_kernels(void) {
    ADD_ROWS(elementwise_rows);
    ADD_ROWS(row_rows);
    ADD_ROWS(text_rows);
    ADD_ROWS(update_rows);
    ADD_ROWS(prune_rows);
    ADD_ROWS(choice_rows);
    ADD_ROWS(lstm_rows);
    ADD_ROWS(linear_rows);
    ADD_ROWS(attention_rows);
}

static const char *cuda_device_name(scbm_backend *backend) {
    return backend_of(backend)->name;
}

static void cuda_free(scbm_backend *backend) {
    cuda_backend *b = backend_of(backend);
    scbm_hooks hooks = b->hooks;
    if (!is_forked) cudaSetDevice(b->device);
    release_blocks(b, 1);
    pthread_mutex_destroy(&b->lock);
    scbm_release(&hooks, b);
}

static int cuda_has_precision(scbm_backend *backend, scbm_precision precision) {
    (void)backend;
    return precision == SCBM_PRECISION_F32 || precision == SCBM_PRECISION_BF16;
}

static scbm_backend_functions make_functions(void) {
    scbm_backend_functions f = {};
    f.version = SCBM_BACKEND_VERSION;
    f.name = "cuda";
    f.n_kernels = SCBM_OP_COUNT;
    f.kernels = kernels;
    f.alignment = 256;
    f.free = cuda_free;
    f.device = cuda_device_name;
    f.queue_create = cuda_queue_create;
    f.queue_free = cuda_queue_free;
    f.allocate = cuda_allocate;
    f.deallocate = cuda_deallocate;
    f.upload = cuda_upload;
    f.download = cuda_download;
    f.wait = cuda_wait;
    f.has_precision = cuda_has_precision;
    f.stage = cuda_stage;
    f.unstage = cuda_unstage;
    return f;
}

static const scbm_backend_functions functions = make_functions();

static int cuda_count(void) {
    int n;
    return find_driver(&n) ? 0 : smaller<int>(n, MAX_DEVICES);
}

/* Without a driver or a device: why. */
static void cuda_describe(int device, char *text, size_t size) {
    cudaDeviceProp p;
    int n;
    if (find_driver(&n)) {
        snprintf(text, size, "%s", scbm_last_error() + strlen("cuda: "));
        return;
    }
    if (cudaGetDeviceProperties(&p, device) != cudaSuccess) {
        cudaGetLastError();
        snprintf(text, size, "a GPU that cannot be read");
        return;
    }
    snprintf(text, size, "%.48s, %d.%d, %.1f GB%s", p.name, p.major, p.minor, (double)p.totalGlobalMem * 1e-9,
             10 * p.major + p.minor < OLDEST_CAPABILITY ? " (too old: 8.0 is needed)" : "");
}

/* The number in "cuda:1"; none is 0. */
static scbm_status parse_device(const char *text, int n, int *device) {
    char *end;
    long number = text ? strtol(text, &end, 10) : 0;
    *device = (int)number;
    if (text && (*end || !*text || text[0] < '0' || text[0] > '9'))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "cuda: '%.40s' is no number of a device: \"cuda:0\"", text);
    if (number >= n)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "cuda: there is no device %ld, this machine has %d, counted from 0",
                         number, n);
    return SCBM_OK;
}

/* Makes the driver's context on the device, which is where a card that is in use by others says so. */
static scbm_status try_device(int device) {
    size_t available, total;
    int capability = capability_of(device);
    if (capability < OLDEST_CAPABILITY)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "cuda: device %d has compute capability %d.%d, and 8.0 is the least",
                         device, capability / 10, capability % 10);
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaMemGetInfo(&available, &total);
    if (error == cudaSuccess) return SCBM_OK;
    cudaGetLastError();
    return scbm_fail(error == cudaErrorMemoryAllocation ? SCBM_ERROR_MEMORY : SCBM_ERROR_UNSUPPORTED,
                     "cuda: device %d cannot be used: %s", device, cudaGetErrorString(error));
}

static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare_process(void) {
    fill_kernels();
    pthread_atfork(NULL, NULL, after_fork);
}

static scbm_status cuda_open(scbm_backend **backend, const char *device, const scbm_backend_options *options) {
    int n, number;
    *backend = NULL;
    scbm_status status = find_driver(&n);
    if (!status) status = parse_device(device, n, &number);
    if (!status) status = try_device(number);
    if (status) return status;
    pthread_once(&prepared, prepare_process);
    cuda_backend *b = (cuda_backend *)scbm_alloc(options->hooks, sizeof *b);
    if (!b) return SCBM_ERROR_MEMORY;
    if (options->hooks) b->hooks = *options->hooks;
    b->device = number;
    snprintf(b->name, sizeof b->name, "cuda:%d ", number);
    cuda_describe(number, b->name + strlen(b->name), sizeof b->name - strlen(b->name));
    pthread_mutex_init(&b->lock, NULL);
    b->base.functions = &functions;
    *backend = &b->base;
    return SCBM_OK;
}

extern "C" const scbm_backend_entry scbm_cuda_entry = {SCBM_BACKEND_VERSION, "cuda", cuda_count, cuda_describe,
                                                       cuda_open};

#ifdef SCBM_PLUGIN
SCBM_PLUGIN_MAIN(&scbm_cuda_entry)
#endif
