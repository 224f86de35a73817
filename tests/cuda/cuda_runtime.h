/*
 * tests/cuda/cuda_runtime.h - stands in for CUDA's header of this name, so that sparsecbm-cuda.cu compiles as C++ for the CPU
 *
 * A device that is not there (shim.cc): a block's threads are fibers, which run in shuffled order, one after another up to the
 * next barrier, shuffle or vote; shared memory starts as NaN in every block; what is put into a CUDA stream is done when
 * somebody waits for it, and no sooner. Device memory starts as NaN, too. What a real device would leave undefined (a barrier
 * that some threads never reach, a launch that no device takes) ends the program with a sentence.
 */
#ifndef SHIM_CUDA_RUNTIME_H
#define SHIM_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>

/* ---- The language ---- */

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {
    }
};
struct alignas(8) float2 {
    float x, y;
};
static inline float2 make_float2(float x, float y) {
    return {x, y};
}

/* Of the thread that runs. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* Shared memory of the block, of the size that the launch gave. */
unsigned char *shim_shared();

/* ---- Barriers, shuffles, votes. Every thread of the mask (of the block) must arrive at the same one. ---- */

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
/* What thread `lane` of the warp has brought to this exchange; `bytes` of at most 64. */
void shim_exchange(unsigned mask, const void *mine, size_t bytes);
const void *shim_brought(int lane);
int shim_lane();

template <typename T> static inline T shim_shuffle(unsigned mask, T value, int from, bool is_inside) {
    shim_exchange(mask, &value, sizeof value);
    if (!is_inside) return value;
    T other;
    memcpy(&other, shim_brought(from), sizeof other);
    return other;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane) {
    return shim_shuffle(mask, value, lane & 31, true);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return shim_shuffle(mask, value, shim_lane() ^ bits, true);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    return shim_shuffle(mask, value, shim_lane() - (int)by, shim_lane() >= (int)by);
}
unsigned __ballot_sync(unsigned mask, int predicate);

/* So many weights are read from the device's memory. */
void shim_count_weights(int64_t n);

/* The warp's matrix instruction m16n8k16 of bf16, in plain words; every lane must arrive. */
void shim_multiply_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);

/* ---- Intrinsics ---- */

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
template <typename To, typename From> static inline To shim_bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from, "of one size");
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) {
    return shim_bits<unsigned>(x);
}
static inline float __uint_as_float(unsigned x) {
    return shim_bits<float>(x);
}
static inline long long __double_as_longlong(double x) {
    return shim_bits<long long>(x);
}
/* Products and sums that are never contracted into one rounding. */
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
/* One fiber runs at a time: plain is atomic. Integers alone; sums of floats depend on the order. */
template <typename T> static inline T atomicAdd(T *at, T value) {
    static_assert(std::is_integral<T>::value, "no float atomics");
    T old = *at;
    *at = (T)(old + value);
    return old;
}
template <typename T> static inline T atomicOr(T *at, T value) {
    T old = *at;
    *at = old | value;
    return old;
}
template <typename T> static inline T atomicAnd(T *at, T value) {
    T old = *at;
    *at = old & value;
    return old;
}

/* ---- Errors, devices, memory, streams: what sparsecbm-cuda.cu uses of the runtime ---- */

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400
} cudaError_t;

typedef enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
} cudaDeviceAttr;

typedef enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
} cudaMemcpyKind;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

typedef struct shim_stream *cudaStream_t;
enum { cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0 };

const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);

/* ---- Launches: the arguments are copied when the kernel is launched, the rest is done when somebody waits ---- */

void shim_launch(const char *name, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                 std::function<void()> body);

template <typename... P, typename... A>
static inline void shim_launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                                      cudaStream_t stream, A... arguments) {
    std::tuple<typename std::decay<P>::type...> copy(arguments...);
    shim_launch(name, grid, block, shared, stream, [kernel, copy] { std::apply(kernel, copy); });
}

#endif /* SHIM_CUDA_RUNTIME_H */
