/*
 * tests/cuda/shim.h - what the CUDA device that is not there was asked to do, and how it is made to fail
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Since the counts were last set to zero. */
typedef struct shim_counts {
    int64_t launches, synchronizations; /* a cudaFree waits, too */
    int64_t bytes_up, bytes_down;       /* over the bus */
    int64_t allocations;                /* of device memory, page-locked memory and CUDA streams */
    int64_t matrix_instructions;        /* of a warp: 2 · 16 · 8 · 16 operations */
    int64_t weights;                    /* of dense and masked products that were read from the device's memory */
} shim_counts;

enum { SHIM_NAMES = 4096 };

extern shim_counts shim_count;
extern const char
    *shim_launched[SHIM_NAMES];  /* the kernels of launches, by their number in shim_count modulo SHIM_NAMES */
extern int64_t shim_fails_at;    /* the allocation of this number (of shim_count) fails, and all after it; 0: none */
extern int shim_launch_fails_at; /* the launch of this number is refused; 0: none */
extern int shim_devices;         /* how many there are: 1 */
extern int shim_driver_version;  /* 13000; 0: there is no driver */
extern int shim_capability;      /* 90: 9.0 */
int64_t shim_blocks(void);       /* of device and page-locked memory that are held now */
int64_t shim_pending(void);      /* pieces of work that wait */

#ifdef __cplusplus
}
#endif

#endif /* SHIM_H */
