/*
 * sparsecbm.c - the runtime of sparsecbm.h, with the CPU backend
 *
 * Five parts: 1 basics (errors, hooks, tensors, conversion, contexts, backends, plug-ins, random numbers), 2 graphs (building, the
 * op table, automatic differentiation, lowering, planning, running), 3 model files, 4 the CPU's kernels, compiled once for each tier,
 * and 5 the CPU backend, which makes rows of the op table of them, with AdamW.
 *
 * MIT licence; see LICENSE.
 */
/* This file includes itself for the CPU kernels of each tier, and is that section alone then. */
#ifndef SCBM_KERNELS_TIER

#if !defined(_XOPEN_SOURCE) && !defined(_WIN32)
#define _XOPEN_SOURCE 700
#endif
#if !defined(_GNU_SOURCE) && defined(__linux__)
#define _GNU_SOURCE /* syscall, sched_getaffinity */
#endif

/* Floating-point contraction is explicit here (fused multiply-adds stand where they are meant), so that a
 * value has the same bits wherever in a vector or a loop's remainder it is computed. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "sparsecbm.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#ifndef __STDC_NO_ATOMICS__
#include <stdatomic.h>
#define K_ATOMIC _Atomic
#else
#define K_ATOMIC
#endif
#if defined(_OPENMP) && !defined(__STDC_NO_ATOMICS__)
#include <omp.h>
#define HAS_THREADS 1
#endif
#if (defined(__unix__) || defined(__APPLE__)) && !defined(__STDC_NO_ATOMICS__)
#include <pthread.h>
#include <signal.h>
#define HAS_POOL 1
#endif
/* -DSCBM_NO_PLUGINS: backends are what the program registers. */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(SCBM_NO_PLUGINS)
#include <dirent.h>
#include <dlfcn.h>
#define HAS_PLUGINS 1
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif
/* -DSCBM_PORTABLE_ONLY: no kernels for x86's extensions; it compiles in a fraction of the time (the fuzzers' build). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(SCBM_PORTABLE_ONLY)
#include <cpuid.h>
#include <immintrin.h>
#define K_X86 1
/* -DSCBM_NO_AMX: for an assembler that does not know matrix tiles (binutils before 2.36). */
#if defined(__linux__) && !defined(__ILP32__) && !defined(SCBM_NO_AMX) &&                                              \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define K_AMX 1
#endif
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
/* Dot products of bytes: where the whole program is compiled for them, or can ask the system. */
#if defined(__ARM_FEATURE_DOTPROD) || defined(__linux__)
#define K_DOTPROD "arch=armv8.2-a+dotprod"
#if !defined(__ARM_FEATURE_DOTPROD)
#include <sys/auxv.h>
#endif
#endif
#endif

#ifndef SCBM_SELF
#define SCBM_SELF "sparsecbm.c"
#endif

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ==========================================================================================
 * Part 1: basics
 * ======================================================================================== */

/* ------------------------------------------------------------------------------------------
 * Status and errors
 * ---------------------------------------------------------------------------------------- */

#define ERROR_SIZE 512
static _Thread_local char error_text[ERROR_SIZE];

int scbm_version(void) {
    return SCBM_VERSION;
}

const char *scbm_status_name(scbm_status status) {
    switch (status) {
    case SCBM_OK: return "ok";
    case SCBM_ERROR_ARGUMENT: return "bad argument";
    case SCBM_ERROR_SHAPE: return "shapes do not fit";
    case SCBM_ERROR_MEMORY: return "out of memory";
    case SCBM_ERROR_IO: return "input/output error";
    case SCBM_ERROR_FORMAT: return "damaged or wrong format";
    case SCBM_ERROR_UNSUPPORTED: return "not supported";
    case SCBM_ERROR_CANCELLED: return "cancelled";
    case SCBM_ERROR_NUMERIC: return "not finite";
    }
    return "unknown status";
}

double scbm_seconds(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &now);
#else
    timespec_get(&now, TIME_UTC);
#endif
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *scbm_last_error(void) {
    return error_text;
}

static void format_error(const char *format, va_list arguments) {
    char text[ERROR_SIZE]; /* the arguments may point into error_text */
    vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c; c++) /* what comes from a file may hold line breaks, or commands for a terminal */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    memcpy(error_text, text, sizeof text);
}

scbm_status scbm_fail(scbm_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    format_error(format, arguments);
    va_end(arguments);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Hooks: memory, logging, progress, threads
 * ---------------------------------------------------------------------------------------- */

#define ALIGNMENT ((size_t)64)

/* The allocator's own pointer stands just before the aligned block. */
/* What stands before a block: where it begins, and how large it is. */
typedef struct block_note {
    void *raw;
    size_t bytes;
} block_note;

void *scbm_alloc(const scbm_hooks *hooks, size_t bytes) {
    size_t extra = ALIGNMENT + sizeof(block_note);
    block_note note = {NULL, bytes};
    unsigned char *raw = NULL;
    if (hooks && !hooks->alloc != !hooks->free) {
        scbm_fail(SCBM_ERROR_ARGUMENT, "hooks: alloc and free must be set together");
        return NULL;
    }
    if (bytes <= SIZE_MAX - extra) {
        if (hooks && hooks->alloc) {
            raw = hooks->alloc(hooks->user, bytes + extra);
            if (raw) memset(raw, 0, bytes + extra);
        } else {
            raw = calloc(1, bytes + extra);
        }
    }
    if (!raw) {
        scbm_fail(SCBM_ERROR_MEMORY, "out of memory: %zu bytes were asked for", bytes);
        return NULL;
    }
    uintptr_t start = ((uintptr_t)raw + sizeof note + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1);
    void *aligned = (void *)start;
    note.raw = raw;
    memcpy((unsigned char *)aligned - sizeof note, &note, sizeof note);
    if (hooks && hooks->in_use) *hooks->in_use += bytes;
    return aligned;
}

void *scbm_alloc_array(const scbm_hooks *hooks, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) {
        scbm_fail(SCBM_ERROR_MEMORY, "out of memory: %zu elements of %zu bytes", count, size);
        return NULL;
    }
    return scbm_alloc(hooks, count * size);
}

void scbm_release(const scbm_hooks *hooks, void *pointer) {
    if (!pointer) return;
    block_note note;
    memcpy(&note, (unsigned char *)pointer - sizeof note, sizeof note);
    if (hooks && hooks->in_use) *hooks->in_use -= note.bytes;
    if (hooks && hooks->free) hooks->free(hooks->user, note.raw);
    else if (!(hooks && hooks->alloc)) free(note.raw);
}

char *scbm_strdup(const scbm_hooks *hooks, const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = scbm_alloc(hooks, size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

scbm_status scbm_grow(const scbm_hooks *hooks, void **pointer, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity) return SCBM_OK;
    size_t larger = *capacity < 8 ? 8 : *capacity;
    while (larger < needed) larger = larger > SIZE_MAX / 2 ? needed : larger * 2;
    void *grown = scbm_alloc_array(hooks, larger, size);
    if (!grown) return SCBM_ERROR_MEMORY;
    if (*pointer) memcpy(grown, *pointer, *capacity * size);
    scbm_release(hooks, *pointer);
    *pointer = grown;
    *capacity = larger;
    return SCBM_OK;
}

scbm_status scbm_cancelled(const scbm_hooks *hooks) {
    if (hooks && hooks->cancel && hooks->cancel(hooks->user)) return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled");
    return SCBM_OK;
}

scbm_status scbm_progress(const scbm_hooks *hooks, const char *what, int64_t done, int64_t total) {
    if (hooks && hooks->progress && hooks->progress(hooks->user, what, done, total))
        return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled: %s, %lld of %lld", what, (long long)done, (long long)total);
    return scbm_cancelled(hooks);
}

void scbm_log(const scbm_hooks *hooks, scbm_log_level level, const char *format, ...) {
    if (!hooks || !hooks->log) return;
    char text[ERROR_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    hooks->log(hooks->user, level, text);
}

/* ------------------------------------------------------------------------------------------
 * The machine: what it leaves this process
 * ---------------------------------------------------------------------------------------- */

enum { LONGEST_PATH = 4096 };

/* A tree of control groups: where it lies, and which controller names it in /proc/self/cgroup ("" in version 2, where one
 * tree has all). */
typedef struct group_tree {
    const char *mount, *controller;
    const char *limit, *soft_limit, *used, *cached; /* files of memory, and a key of memory.stat */
} group_tree;

/* What one group leaves; SIZE_MAX: it has no limit, or is not to be seen from here. */
typedef size_t (*group_leaves)(const group_tree *tree, const char *folder);

static size_t least_size(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The number after `key` at the beginning of a line, times `unit`; SIZE_MAX: there is none. An empty key: the first
 * line's. */
static size_t read_number(const char *path, const char *key, size_t unit) {
    FILE *file = fopen(path, "r");
    size_t found = SIZE_MAX, length = strlen(key);
    unsigned long long number;
    char line[160];
    while (file && found == SIZE_MAX && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0) continue;
        const char *text = line + length + strspn(line + length, " \t");
        if (*text >= '0' && *text <= '9' && sscanf(text, "%llu", &number) == 1 && number < SIZE_MAX / unit)
            found = (size_t)number * unit;
    }
    if (file) fclose(file);
    return found;
}

static size_t read_group_number(const char *folder, const char *name, const char *key) {
    char path[3 * LONGEST_PATH];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return SIZE_MAX;
    return read_number(path, key, 1);
}

/* Whether a list with commas has this name. */
static int has_name(const char *list, const char *name) {
    size_t length = strlen(name);
    for (;; list++) {
        size_t n = strcspn(list, ",");
        if (n == length && strncmp(list, name, n) == 0) return 1;
        list += n;
        if (!*list) return 0;
    }
}

/* The path of the process's group in a tree, of a line such as "4:cpu,memory:/path"; "" where none is told. */
static void find_group(const char *root, const group_tree *tree, char group[LONGEST_PATH]) {
    char path[LONGEST_PATH], line[LONGEST_PATH + 256];
    group[0] = 0;
    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= (int)sizeof path) return;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *place = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!place) continue;
        *place++ = 0;
        place[strcspn(place, "\n")] = 0;
        if (has_name(controllers + 1, tree->controller) && strlen(place) < LONGEST_PATH) strcpy(group, place);
    }
    if (file) fclose(file);
}

/* The least that the process's group and those above it leave. A container may not see the folders above its own, or see
 * its own as the topmost: what is not there does not count. */
static size_t groups_leave(const char *root, const group_tree *tree, group_leaves leaves) {
    char group[LONGEST_PATH], folder[2 * LONGEST_PATH];
    size_t left = SIZE_MAX;
    find_group(root, tree, group);
    if (strstr(group, "/..")) group[0] = 0; /* it lies outside of what is seen */
    for (;;) {
        char *end = strrchr(group, '/');
        if (snprintf(folder, sizeof folder, "%s%s%s", root, tree->mount, group) < (int)sizeof folder)
            left = least_size(left, leaves(tree, folder));
        if (!end) return left;
        *end = 0;
    }
}

static size_t leaves_memory(const group_tree *tree, const char *folder) {
    size_t limit = read_group_number(folder, tree->limit, "");
    if (tree->soft_limit) limit = least_size(limit, read_group_number(folder, tree->soft_limit, ""));
    if (limit == SIZE_MAX) return SIZE_MAX;
    size_t used = read_group_number(folder, tree->used, "");
    size_t cached = read_group_number(folder, "memory.stat", tree->cached);
    if (used == SIZE_MAX) used = 0;
    if (cached != SIZE_MAX) used = used > cached ? used - cached : 0;
    return limit > used ? limit - used : 0;
}

size_t scbm_available_memory(const char *root) {
    static const group_tree trees[] = {
        {"/sys/fs/cgroup", "", "memory.max", "memory.high", "memory.current", "inactive_file "},
        {"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", NULL, "memory.usage_in_bytes",
         "total_inactive_file "},
    };
    char path[LONGEST_PATH];
    size_t left = SIZE_MAX;
    if (!root) root = "";
    if (snprintf(path, sizeof path, "%s/proc/meminfo", root) < (int)sizeof path)
        left = read_number(path, "MemAvailable:", 1024);
    for (int i = 0; i < COUNT_OF(trees); i++) left = least_size(left, groups_leave(root, &trees[i], leaves_memory));
    return left;
}

/* Thousandths of a processor. Version 2 has quota and period ("max 100000") in one file, version 1 has two files, and -1 as
 * its quota where there is none. */
static size_t leaves_processors(const group_tree *tree, const char *folder) {
    unsigned long long quota = 0, period = 0;
    char path[3 * LONGEST_PATH], line[160];
    if (tree->controller[0]) {
        size_t of_group = read_group_number(folder, "cpu.cfs_quota_us", "");
        size_t of_time = read_group_number(folder, "cpu.cfs_period_us", "");
        if (of_group != SIZE_MAX && of_time != SIZE_MAX) quota = of_group, period = of_time;
    } else if (snprintf(path, sizeof path, "%s/cpu.max", folder) < (int)sizeof path) {
        FILE *file = fopen(path, "r");
        if (!file || !fgets(line, sizeof line, file) || sscanf(line, "%llu %llu", &quota, &period) != 2) quota = 0;
        if (file) fclose(file);
    }
    if (!quota || !period || quota > SIZE_MAX / 1000) return SIZE_MAX;
    return (size_t)(quota * 1000 / period);
}

double scbm_processor_quota(const char *root) {
    static const group_tree trees[] = {
        {"/sys/fs/cgroup", "", NULL, NULL, NULL, NULL},
        {"/sys/fs/cgroup/cpu", "cpu", NULL, NULL, NULL, NULL},
        {"/sys/fs/cgroup/cpu,cpuacct", "cpu", NULL, NULL, NULL, NULL},
    };
    size_t left = SIZE_MAX;
    for (int i = 0; i < COUNT_OF(trees); i++)
        left = least_size(left, groups_leave(root ? root : "", &trees[i], leaves_processors));
    return left == SIZE_MAX ? INFINITY : (double)left / 1000;
}

/* The processors that this thread may run on. */
static int count_processors(void) {
#if defined(__linux__)
    cpu_set_t sets[16]; /* of 1,024 processors each */
    if (sched_getaffinity(0, sizeof sets, sets) == 0) return CPU_COUNT_S(sizeof sets, sets);
#endif
#if defined(_SC_NPROCESSORS_ONLN)
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > INT_MAX ? INT_MAX : (int)n;
#else
    return 1;
#endif
}

/* By the quota, to the nearest whole number; it is read once. */
static int most_threads(void) {
    static K_ATOMIC int most;
    if (!most) {
        double quota = scbm_processor_quota(NULL);
        most = quota < 1 ? 1 : quota < 1e6 ? (int)(quota + 0.5) : INT_MAX;
    }
    return most;
}

int scbm_default_threads(void) {
    int n = count_processors();
#ifdef HAS_THREADS
    const char *asked = getenv("OMP_NUM_THREADS");
    n = omp_get_max_threads(); /* which knows the processors, too */
    if (asked && *asked) return n < 1 ? 1 : n;
#endif
    if (n > most_threads()) n = most_threads();
    return n < 1 ? 1 : n;
}

/* ------------------------------------------------------------------------------------------
 * Locks, which may be held while a device copies. (Without POSIX threads a process uses devices on one thread.)
 * ---------------------------------------------------------------------------------------- */

#ifdef HAS_POOL
typedef pthread_mutex_t copies_lock;
#define COPIES_LOCK_INIT PTHREAD_MUTEX_INITIALIZER

static void take_lock(copies_lock *lock) {
    pthread_mutex_lock(lock);
}

static void leave_lock(copies_lock *lock) {
    pthread_mutex_unlock(lock);
}
#else
typedef int copies_lock;
#define COPIES_LOCK_INIT 0

static void take_lock(copies_lock *lock) {
    (void)lock;
}

static void leave_lock(copies_lock *lock) {
    (void)lock;
}
#endif

/* ------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------- */

static const scbm_type_info type_table[SCBM_TYPE_COUNT] = {
    [SCBM_F32] = {"f32", 1, 4, 1},     [SCBM_F16] = {"f16", 1, 2, 1}, [SCBM_BF16] = {"bf16", 1, 2, 1},
    [SCBM_I32] = {"i32", 1, 4, 0},     [SCBM_I8] = {"i8", 1, 1, 0},   [SCBM_Q8_0] = {"q8_0", 32, 34, 1},
    [SCBM_Q4_0] = {"q4_0", 32, 18, 1}, [SCBM_F64] = {"f64", 1, 8, 0},
};

const scbm_type_info *scbm_type_of(scbm_type type) {
    return (unsigned)type < SCBM_TYPE_COUNT ? &type_table[type] : NULL;
}

scbm_status scbm_type_parse(const char *name, scbm_type *type) {
    for (int i = 0; i < SCBM_TYPE_COUNT; i++) {
        if (strcmp(name, type_table[i].name) == 0) {
            *type = (scbm_type)i;
            return SCBM_OK;
        }
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT, "unknown type '%s': f32, f16, bf16, q8_0 and q4_0 are known", name);
}

static const char *const precision_names[SCBM_PRECISION_COUNT] = {"f32", "tf32", "bf16", "int8"};

const char *scbm_precision_name(scbm_precision precision) {
    return (unsigned)precision < SCBM_PRECISION_COUNT ? precision_names[precision] : NULL;
}

scbm_status scbm_precision_parse(const char *name, scbm_precision *precision) {
    for (int i = 0; i < SCBM_PRECISION_COUNT; i++) {
        if (strcmp(name, precision_names[i]) == 0) {
            *precision = (scbm_precision)i;
            return SCBM_OK;
        }
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT, "unknown precision '%s': f32, tf32, bf16 and int8 are known", name);
}

static void set_name(scbm_tensor *tensor, const char *name) {
    snprintf(tensor->name, sizeof tensor->name, "%s", name ? name : "");
}

/* Whether elements and bytes of the shape stay within what an int64_t and a size_t hold. */
static int shape_fits(const scbm_type_info *type, int n_dims, const int64_t *shape) {
    int64_t elements = 1;
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0) return 0;
        if (shape[i] > 0 && elements > INT64_MAX / 64 / shape[i]) return 0;
        elements *= shape[i] > 0 ? shape[i] : 1;
    }
    return (uint64_t)elements / (uint64_t)type->block <= SIZE_MAX / 2 / (uint64_t)type->block_bytes;
}

static uint64_t next_id(void) {
    static K_ATOMIC uint64_t last;
    return ++last;
}

scbm_status scbm_tensor_init(scbm_tensor *tensor, const char *name, scbm_type type, int n_dims, const int64_t *shape) {
    memset(tensor, 0, sizeof *tensor);
    const scbm_type_info *info = scbm_type_of(type);
    if (!info) return scbm_fail(SCBM_ERROR_ARGUMENT, "tensor %s: unknown type %d", name ? name : "", (int)type);
    if (n_dims < 1 || n_dims > SCBM_MAX_DIMS)
        return scbm_fail(SCBM_ERROR_SHAPE, "tensor %s: %d dimensions, 1 to %d are possible", name ? name : "", n_dims,
                         SCBM_MAX_DIMS);
    if (!shape_fits(info, n_dims, shape))
        return scbm_fail(SCBM_ERROR_SHAPE, "tensor %s: its dimensions are negative or too large", name ? name : "");
    if (shape[n_dims - 1] % info->block)
        return scbm_fail(SCBM_ERROR_SHAPE, "tensor %s: rows of %lld elements are no whole number of %s blocks of %d",
                         name ? name : "", (long long)shape[n_dims - 1], info->name, info->block);
    tensor->type = type;
    tensor->n_dims = n_dims;
    memcpy(tensor->shape, shape, (size_t)n_dims * sizeof *shape);
    tensor->generation = 1;
    tensor->id = next_id();
    tensor->node = -1;
    set_name(tensor, name);
    return SCBM_OK;
}

static int64_t shape_elements(int n_dims, const int64_t *shape) {
    int64_t elements = 1;
    for (int i = 0; i < n_dims; i++) elements *= shape[i];
    return elements;
}

int64_t scbm_tensor_elements(const scbm_tensor *tensor) {
    return shape_elements(tensor->n_dims, tensor->shape);
}

size_t scbm_tensor_bytes(const scbm_tensor *tensor) {
    const scbm_type_info *info = &type_table[tensor->type];
    return (size_t)(scbm_tensor_elements(tensor) / info->block) * (size_t)info->block_bytes;
}

const char *scbm_shape_text(const scbm_tensor *tensor, char *text, size_t size) {
    size_t used = 0;
    if (size) text[0] = 0;
    for (int i = 0; i < tensor->n_dims && used < size; i++) {
        int n = snprintf(text + used, size - used, "%s%lld%s", i ? ", " : "[", (long long)tensor->shape[i],
                         i == tensor->n_dims - 1 ? "]" : "");
        used += n > 0 ? (size_t)n : 0;
    }
    return text;
}

/* ------------------------------------------------------------------------------------------
 * Conversion
 * ---------------------------------------------------------------------------------------- */

#define CONVERT_CHUNK 1024 /* elements that go through f32 at a time: whole blocks */

/* With the kernels of the CPU section; elements are aligned. */
static void convert_to_f32(float *to, scbm_type type, const void *from, int64_t n);
static void convert_from_f32(scbm_type type, void *to, const float *from, int64_t n);

/* The largest number whose block has a finite half-precision scale. */
static float largest_of(scbm_type type) {
    return type == SCBM_Q8_0 ? 65504.0f * 127.0f : type == SCBM_Q4_0 ? 65504.0f * 8.0f : INFINITY;
}

static scbm_status check_quantizable(scbm_type to, const float *values, int64_t n) {
    float largest = largest_of(to);
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(values[i]) <= largest))
            return scbm_fail(SCBM_ERROR_NUMERIC, "%g cannot be written as %s", (double)values[i], type_table[to].name);
    return SCBM_OK;
}

scbm_status scbm_convert(scbm_type to, void *destination, scbm_type from, const void *source, int64_t n) {
    const scbm_type_info *in = scbm_type_of(from), *out = scbm_type_of(to);
    float values[CONVERT_CHUNK];
    if (!in || !out) return scbm_fail(SCBM_ERROR_ARGUMENT, "conversion from type %d to %d", (int)from, (int)to);
    if (n < 0 || n % in->block || n % out->block)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%lld elements from %s to %s are no whole number of blocks", (long long)n,
                         in->name, out->name);
    if (from == to) {
        if (n) memmove(destination, source, (size_t)(n / in->block) * (size_t)in->block_bytes);
        return SCBM_OK;
    }
    if (!in->is_float || !out->is_float)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s cannot be converted to %s", in->name, out->name);
    for (int64_t i = 0; i < n; i += CONVERT_CHUNK) {
        int64_t count = n - i < CONVERT_CHUNK ? n - i : CONVERT_CHUNK;
        const unsigned char *here = (const unsigned char *)source + i / in->block * in->block_bytes;
        unsigned char *there = (unsigned char *)destination + i / out->block * out->block_bytes;
        const float *numbers = from == SCBM_F32 ? (const float *)(const void *)here : values;
        if (from != SCBM_F32) convert_to_f32(to == SCBM_F32 ? (float *)(void *)there : values, from, here, count);
        if (to == SCBM_F32) continue;
        scbm_status status = out->block > 1 ? check_quantizable(to, numbers, count) : SCBM_OK;
        if (status) return status;
        convert_from_f32(to, there, numbers, count);
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Contexts
 * ---------------------------------------------------------------------------------------- */

struct scbm_context {
    scbm_hooks hooks;
    scbm_backend *backend;
    int owns_backend;
    scbm_queue *queue;
    int n_workers;
    int n_threads; /* of them; fewer where the system makes no more */
    scbm_parallel_for parallel_for;
    void *parallel_user;
    struct crew *crew;       /* the threads that help at the moment, or NULL */
    int64_t n_loops;         /* that the default parallel loop has run */
    int asks;                /* a graph runs: long loops ask the cancel hook, too */
    double asked;            /* when it was asked last */
    K_ATOMIC int is_stopped; /* and it said so: what is left of the loops is passed over */
};

typedef struct crew_loop {
    scbm_context *context;
    int64_t n;
    scbm_task task;
    void *arg;
} crew_loop;

/* The task that this thread is in: of which context, and as which worker. A loop inside a task is run by that worker. */
typedef struct current_task {
    const scbm_context *context;
    int worker;
} current_task;

static _Thread_local current_task current;

/* Runs every task on this thread. */
static void run_in_order(const crew_loop *loop, int worker) {
    const current_task outer = current;
    current = (current_task){loop->context, worker};
    for (int64_t i = 0; i < loop->n; i++) loop->task(loop->arg, i, worker);
    current = outer;
}

/* Waits a little, awake. */
static inline void pause_a_little(void) {
#if defined(K_X86)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

enum { PAUSES_AWAKE = 1000 }; /* some 40 microseconds: more than there is between the loops of a run */

#ifdef HAS_POOL

/* Forks, and a pool of threads of our own. */

static K_ATOMIC int is_forked; /* this process is the child of one that had contexts; OpenMP's threads are not in it */

enum { MOST_WORKERS = 1024, BITS_OF_WORD = 64 };

/* A parallel loop that was given to the pool, on the stack of the thread that runs it, which is its worker 0. What is not
 * atomic is read and written under the pool's lock. */
typedef struct pool_loop {
    const scbm_context *context; /* NULL: none */
    scbm_task task;
    void *arg;
    int64_t n;
    int most_workers;
    _Atomic int64_t next;                       /* the first task that nobody has taken */
    atomic_int n_helpers;                       /* threads of the pool that are at it */
    uint64_t busy[MOST_WORKERS / BITS_OF_WORD]; /* their workers' numbers */
    pthread_cond_t is_left;                     /* the last of them has gone */
    struct pool_loop *following;
} pool_loop;

static struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work; /* a loop has come, or the end */
    pthread_t *threads;
    int n_threads, n_asleep;
    int n_wanted; /* workers, the calling thread included; 0: the default */
    int is_tried; /* there are as many threads as the system makes */
    int is_ending;
    pool_loop *first;   /* the loops that run, the oldest first */
    atomic_int n_loops; /* of them */
    atomic_uint round;  /* counts the loops that came */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};

static void before_fork(void) {
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&pool.lock);
}

/* The thread that forked is the only one here. The pool's threads are made anew when a loop wants them. */
static void after_fork_in_child(void) {
    const pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const pthread_cond_t work = PTHREAD_COND_INITIALIZER;
    is_forked = 1;
    free(pool.threads);
    pool.lock = lock;
    pool.work = work;
    pool.threads = NULL;
    pool.n_threads = pool.n_asleep = pool.is_tried = pool.is_ending = 0;
    pool.first = NULL;
    atomic_store(&pool.n_loops, 0);
}

static void ask_for_forks(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void watch_forks(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask_for_forks);
}

/* The lowest number that no helper of the loop has; 0: it takes no more. */
static int free_worker(const pool_loop *loop) {
    for (int worker = 1; worker < loop->most_workers; worker++)
        if (!(loop->busy[worker / BITS_OF_WORD] >> worker % BITS_OF_WORD & 1)) return worker;
    return 0;
}

/* The loop with the fewest helpers that has tasks to take and a number to give: several are helped in turn. */
static pool_loop *choose_loop(int *worker) {
    pool_loop *chosen = NULL;
    for (pool_loop *loop = pool.first; loop; loop = loop->following) {
        int number = atomic_load(&loop->next) < loop->n ? free_worker(loop) : 0;
        if (!number || (chosen && atomic_load(&loop->n_helpers) >= atomic_load(&chosen->n_helpers))) continue;
        chosen = loop;
        *worker = number;
    }
    return chosen;
}

#define SECONDS_AT_A_LOOP 0.001

/* Takes tasks while there are any; a helper looks after a while whether another loop has more need of it. */
static void take_tasks(pool_loop *loop, int worker, int is_helper) {
    const current_task outer = current;
    double begin = is_helper ? scbm_seconds() : 0;
    current = (current_task){loop->context, worker};
    for (int64_t i; (i = atomic_fetch_add(&loop->next, 1)) < loop->n;) {
        loop->task(loop->arg, i, worker);
        if (is_helper && atomic_load(&pool.n_loops) > 1 && scbm_seconds() - begin > SECONDS_AT_A_LOOP) break;
    }
    current = outer;
}

/* Of the pool's lock, which is held before and after. */
static void help_loop(pool_loop *loop, int worker) {
    uint64_t bit = (uint64_t)1 << worker % BITS_OF_WORD;
    loop->busy[worker / BITS_OF_WORD] |= bit;
    atomic_fetch_add(&loop->n_helpers, 1);
    pthread_mutex_unlock(&pool.lock);
    take_tasks(loop, worker, 1);
    pthread_mutex_lock(&pool.lock);
    loop->busy[worker / BITS_OF_WORD] &= ~bit;
    if (atomic_fetch_sub(&loop->n_helpers, 1) == 1) pthread_cond_signal(&loop->is_left);
}

/* Whether a loop comes within a few microseconds. The lock is not held meanwhile. */
static int another_loop_comes(void) {
    unsigned round = atomic_load(&pool.round);
    int came = 0;
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < PAUSES_AWAKE && !came; i++) {
        pause_a_little();
        came = atomic_load(&pool.round) != round;
    }
    pthread_mutex_lock(&pool.lock);
    return came || atomic_load(&pool.round) != round;
}

static void *be_of_the_pool(void *unused) {
    pthread_mutex_lock(&pool.lock);
    while (!pool.is_ending) {
        int worker = 0;
        pool_loop *loop = choose_loop(&worker);
        if (loop) {
            help_loop(loop, worker);
        } else if (!another_loop_comes() && !pool.is_ending) {
            pool.n_asleep++;
            pthread_cond_wait(&pool.work, &pool.lock);
            pool.n_asleep--;
        }
    }
    pthread_mutex_unlock(&pool.lock);
    return unused;
}

static int pool_size(void) {
    int n = pool.n_wanted ? pool.n_wanted : scbm_default_threads();
    return n > MOST_WORKERS ? MOST_WORKERS : n;
}

/* Makes the threads that are missing, with the lock held; signals are for the program's own threads. */
static void make_pool(void) {
    int n = pool_size() - 1;
    sigset_t all, before;
    if (pool.is_tried || pool.is_ending) return;
    pool.is_tried = 1;
    if (n <= pool.n_threads) return;
    pthread_t *threads = realloc(pool.threads, (size_t)n * sizeof *threads);
    if (!threads) return;
    pool.threads = threads;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.n_threads < n && pthread_create(&threads[pool.n_threads], NULL, be_of_the_pool, NULL) == 0)
        pool.n_threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Wakes as many as have something to do, with the lock held. */
static void wake_helpers(const pool_loop *loop) {
    int n = loop->most_workers - 1;
    if (loop->n - 1 < n) n = (int)(loop->n - 1);
    if (n >= pool.n_asleep) {
        if (pool.n_asleep) pthread_cond_broadcast(&pool.work);
        return;
    }
    for (int i = 0; i < n; i++) pthread_cond_signal(&pool.work);
}

static void open_loop(pool_loop *loop) {
    pool_loop **end = &pool.first;
    pthread_mutex_lock(&pool.lock);
    make_pool();
    while (*end) end = &(*end)->following;
    *end = loop;
    atomic_fetch_add(&pool.n_loops, 1);
    atomic_fetch_add(&pool.round, 1);
    wake_helpers(loop);
    pthread_mutex_unlock(&pool.lock);
}

/* Waits for the helpers, who are in their last tasks. */
static void close_loop(pool_loop *loop) {
    for (int i = 0; i < PAUSES_AWAKE && atomic_load(&loop->n_helpers); i++) pause_a_little();
    pthread_mutex_lock(&pool.lock);
    pool_loop **place = &pool.first;
    while (*place && *place != loop) place = &(*place)->following;
    if (*place) { /* it is not there where a task has forked */
        *place = loop->following;
        atomic_fetch_sub(&pool.n_loops, 1);
        while (atomic_load(&loop->n_helpers)) pthread_cond_wait(&loop->is_left, &pool.lock);
    }
    pthread_mutex_unlock(&pool.lock);
}

static void run_in_pool(const crew_loop *given, int most_workers) {
    if (given->n < 2 || most_workers < 2) {
        run_in_order(given, 0);
        return;
    }
    pool_loop loop = {.context = given->context, .task = given->task, .arg = given->arg, .n = given->n};
    loop.most_workers = most_workers < MOST_WORKERS ? most_workers : MOST_WORKERS;
    pthread_cond_init(&loop.is_left, NULL);
    watch_forks();
    open_loop(&loop);
    take_tasks(&loop, 0, 0);
    close_loop(&loop);
    pthread_cond_destroy(&loop.is_left);
}

int scbm_pool_workers(void) {
    pthread_mutex_lock(&pool.lock);
    int n = pool_size();
    pthread_mutex_unlock(&pool.lock);
    return n;
}

scbm_status scbm_pool_start(int n_workers) {
    if (n_workers < 0 || n_workers > MOST_WORKERS)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a pool of %d threads; at most %d are possible", n_workers, MOST_WORKERS);
    scbm_pool_stop();
    watch_forks();
    pthread_mutex_lock(&pool.lock);
    pool.n_wanted = n_workers;
    make_pool();
    int wanted = pool_size(), there = pool.n_threads + 1;
    pthread_mutex_unlock(&pool.lock);
    if (there >= wanted) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_MEMORY, "%d threads were asked for, and the system makes no more than %d", wanted,
                     there);
}

void scbm_pool_stop(void) {
    pthread_mutex_lock(&pool.lock);
    pthread_t *threads = pool.threads;
    int n = pool.n_threads;
    pool.threads = NULL;
    pool.n_threads = 0;
    if (n > 0) pool.is_ending = 1; /* and still where another thread ends it at this moment */
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    free(threads);
    pthread_mutex_lock(&pool.lock);
    if (n > 0) pool.is_ending = 0;
    pool.is_tried = 0;
    pthread_mutex_unlock(&pool.lock);
}

#else

static void run_in_pool(const crew_loop *given, int most_workers) {
    (void)most_workers;
    run_in_order(given, 0);
}

int scbm_pool_workers(void) {
    return 1;
}

scbm_status scbm_pool_start(int n_workers) {
    if (n_workers <= 1) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "this build of the library has no threads of its own");
}

void scbm_pool_stop(void) {
}

#endif

void scbm_pool(void *user, int64_t n, scbm_task task, void *arg) {
    (void)user;
    const crew_loop loop = {NULL, n, task, arg};
    run_in_pool(&loop, scbm_pool_workers());
}

/* The same for a context whose hook it is, which may have fewer workers. */
static void parallel_for_pool(void *user, int64_t n, scbm_task task, void *arg) {
    const crew_loop loop = {user, n, task, arg};
    if (current.context == loop.context) run_in_order(&loop, current.worker);
    else run_in_pool(&loop, loop.context->n_workers);
}

#ifdef HAS_THREADS

#ifdef HAS_POOL

/* libgomp ends the process when a thread cannot be made. So the threads are made once before it makes them, with stacks of the
 * same size, and counted. */
typedef struct trial {
    pthread_mutex_t lock;
    pthread_cond_t end;
    int is_over;
} trial;

typedef struct trial_thread {
    trial *of;
    pthread_t thread;
    long id; /* the system's */
} trial_thread;

static void *wait_for_end(void *arg) {
    trial_thread *t = arg;
#if defined(__linux__)
    t->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(&t->of->lock);
    while (!t->of->is_over) pthread_cond_wait(&t->of->end, &t->of->lock);
    pthread_mutex_unlock(&t->of->lock);
    return NULL;
}

/* The stack's bytes that OpenMP's environment asks for; 0: the system's own. Without a unit they are KiB. */
static size_t stack_bytes(void) {
    static const char units[] = "BKMG";
    const char *text = getenv("OMP_STACKSIZE");
    char *end;
    if (!text) text = getenv("GOMP_STACKSIZE");
    if (!text) return 0;
    unsigned long long number = strtoull(text, &end, 10);
    end += strspn(end, " ");
    char unit = *end >= 'a' && *end <= 'z' ? (char)(*end - 'a' + 'A') : *end;
    const char *at = unit ? strchr(units, unit) : &units[1];
    return at && number <= SIZE_MAX >> 30 ? (size_t)number << 10 * (at - units) : 0;
}

/* A thread that was joined counts until the system has put it away. */
static void wait_until_gone(const trial_thread *t) {
#if defined(__linux__)
    for (int i = 0; i < 10000 && syscall(SYS_tgkill, (long)getpid(), t->id, 0) == 0; i++) sched_yield();
#else
    (void)t;
#endif
}

/* Of n threads, this one included, those that can be made; half of them where the system makes no more, so that it has
 * something left. */
static int threads_that_can_be_made(int n, const scbm_hooks *hooks) {
    trial t = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    trial_thread *threads = scbm_alloc_array(hooks, (size_t)n, sizeof *threads);
    pthread_attr_t attributes;
    int made = 0;
    if (!threads) return 1;
    pthread_attr_init(&attributes);
    if (stack_bytes()) pthread_attr_setstacksize(&attributes, stack_bytes());
    for (; made < n - 1; made++) {
        threads[made].of = &t;
        if (pthread_create(&threads[made].thread, &attributes, wait_for_end, &threads[made])) break;
    }
    pthread_attr_destroy(&attributes);
    pthread_mutex_lock(&t.lock);
    t.is_over = 1;
    pthread_cond_broadcast(&t.end);
    pthread_mutex_unlock(&t.lock);
    for (int i = 0; i < made; i++) pthread_join(threads[i].thread, NULL);
    for (int i = 0; i < made; i++) wait_until_gone(&threads[i]);
    pthread_cond_destroy(&t.end);
    pthread_mutex_destroy(&t.lock);
    scbm_release(hooks, threads);
    return made == n - 1 ? n : made / 2 + 1;
}

#endif

/* The threads of a parallel region that begins now. OpenMP keeps those of this thread's last region. */
static int count_team(scbm_context *context) {
#ifdef HAS_POOL
    static _Thread_local int team = 1;
    if (is_forked) return 1;
    if (context->n_threads > team) {
        int n = threads_that_can_be_made(context->n_threads, &context->hooks);
        if (n < context->n_threads)
            scbm_log(&context->hooks, SCBM_LOG_WARNING,
                     "%d threads were asked for, and the system does not make them: %d", context->n_threads, n);
        context->n_threads = n;
    }
    team = context->n_threads;
#endif
    return context->n_threads;
}

/* The default parallel loop. One parallel region of OpenMP serves the many loops of a run: its threads take tasks from
 * counters, and a loop waits for the tasks that were begun, never for a thread that has not come, which on a busy
 * machine may be late by far more than a loop takes. Each thread begins with a share of its own, the same part of every
 * loop (of the streams, of the tokens), so that it finds in its caches what it has written; then it helps with the others'. */
enum { CREW_SHARES = 64 };

typedef struct crew_share {
    _Atomic int64_t left; /* tasks that nobody has taken */
    char apart[64 - sizeof(_Atomic int64_t)];
} crew_share;

typedef struct crew {
    crew_loop loop;
    int n_shares;
    char apart_1[64];
    crew_share share[CREW_SHARES];
    _Atomic int64_t unfinished;
    atomic_uint round; /* counts the loops */
    atomic_int is_over, n_asleep;
#ifdef HAS_POOL
    pthread_mutex_t lock;
    pthread_cond_t work;
#endif
} crew;

/* How long a thread has waited. */
typedef struct crew_wait {
    int times;
    double since;
} crew_wait;

#define SECONDS_AWAKE 0.001

/* Waits a little: at first awake, then letting others run. Returns whether it has waited for long. */
static int crew_pause(crew_wait *wait) {
    if (wait->times < PAUSES_AWAKE) {
        if (++wait->times == PAUSES_AWAKE) wait->since = scbm_seconds();
        pause_a_little();
        return 0;
    }
#if defined(__unix__) || defined(__APPLE__)
    sched_yield();
#endif
    return scbm_seconds() - wait->since > SECONDS_AWAKE;
}

#ifdef HAS_POOL
/* Sleeps until a loop begins after number `round`, or all is over. */
static void crew_sleep(crew *c, unsigned round) {
    pthread_mutex_lock(&c->lock);
    atomic_fetch_add(&c->n_asleep, 1);
    while (atomic_load(&c->round) == round && !atomic_load(&c->is_over)) pthread_cond_wait(&c->work, &c->lock);
    atomic_fetch_sub(&c->n_asleep, 1);
    pthread_mutex_unlock(&c->lock);
}

/* After round or is_over was changed. */
static void crew_wake(crew *c) {
    if (!atomic_load(&c->n_asleep)) return;
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
}

/* The first thread's rest while others are in long tasks. */
static void crew_nap(void) {
    nanosleep(&(struct timespec){0, 50000}, NULL);
}
#else
static void crew_sleep(crew *c, unsigned round) {
    (void)c, (void)round;
}

static void crew_wake(crew *c) {
    (void)c;
}

static void crew_nap(void) {
}
#endif

static int64_t crew_share_begin(const crew *c, int share) {
    int64_t rest = c->loop.n % c->n_shares;
    return c->loop.n / c->n_shares * share + (share < rest ? share : rest);
}

/* Takes tasks of a share while there are any; returns how many. The loop is read once a task is taken: it stays until that
 * task is finished. */
static int64_t crew_take(crew *c, int share, int worker) {
    _Atomic int64_t *tasks = &c->share[share].left;
    const current_task outer = current;
    int64_t n = 0, left = atomic_load_explicit(tasks, memory_order_acquire);
    while (left > 0) {
        if (!atomic_compare_exchange_weak_explicit(tasks, &left, left - 1, memory_order_acq_rel, memory_order_acquire))
            continue;
        current = (current_task){c->loop.context, worker};
        c->loop.task(c->loop.arg, crew_share_begin(c, share + 1) - left, worker);
        current = outer;
        atomic_fetch_sub_explicit(&c->unfinished, 1, memory_order_release);
        left = atomic_load_explicit(tasks, memory_order_acquire);
        n++;
    }
    return n;
}

/* Takes its own, then the others'. */
static int64_t crew_work(crew *c, int worker) {
    int64_t n = 0;
    for (int i = 0; i < c->n_shares; i++) n += crew_take(c, (worker + i) % c->n_shares, worker);
    return n;
}

static void crew_help(crew *c, int worker) {
    crew_wait wait = {0, 0};
    while (!atomic_load_explicit(&c->is_over, memory_order_acquire)) {
        unsigned round = atomic_load(&c->round);
        if (atomic_load_explicit(&c->unfinished, memory_order_acquire) > 0 && crew_work(c, worker)) wait.times = 0;
        else if (crew_pause(&wait)) crew_sleep(c, round);
    }
}

static void crew_run(crew *c, const crew_loop *loop) {
    crew_wait wait = {0, 0};
    c->loop = *loop;
    atomic_store_explicit(&c->unfinished, loop->n, memory_order_relaxed);
    for (int i = 0; i < c->n_shares; i++)
        atomic_store_explicit(&c->share[i].left, crew_share_begin(c, i + 1) - crew_share_begin(c, i),
                              memory_order_release);
    atomic_fetch_add(&c->round, 1);
    crew_wake(c);
    crew_work(c, 0);
    while (atomic_load_explicit(&c->unfinished, memory_order_acquire) > 0)
        if (crew_pause(&wait)) crew_nap();
}

static void crew_start(crew *c, int n) {
    memset(&c->loop, 0, sizeof c->loop);
    c->n_shares = n < CREW_SHARES ? n : CREW_SHARES;
    for (int i = 0; i < c->n_shares; i++) atomic_init(&c->share[i].left, 0);
    atomic_init(&c->unfinished, 0);
    atomic_init(&c->round, 0);
    atomic_init(&c->is_over, 0);
    atomic_init(&c->n_asleep, 0);
#ifdef HAS_POOL
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
#endif
}

static void crew_end(crew *c) {
#ifdef HAS_POOL
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
#else
    (void)c;
#endif
}

/* Runs `body` on this thread with the context's other threads at hand. */
static void with_crew(scbm_context *context, void (*body)(void *arg), void *arg) {
    int n = context->hooks.parallel_for || context->crew || context->n_workers == 1 ? 1 : count_team(context);
    if (n == 1) {
        body(arg);
        return;
    }
    crew c;
    crew_start(&c, n);
    context->crew = &c;
#pragma omp parallel num_threads(n)
    {
        int worker = omp_get_thread_num();
        if (worker) crew_help(&c, worker);
        else {
            body(arg);
            atomic_store(&c.is_over, 1);
            crew_wake(&c);
        }
    }
    context->crew = NULL;
    crew_end(&c);
}

static void crew_loop_body(void *arg) {
    const crew_loop *loop = arg;
    if (loop->context->crew) crew_run(loop->context->crew, loop);
    else run_in_order(loop, 0);
}

#else

static void with_crew(scbm_context *context, void (*body)(void *arg), void *arg) {
    (void)context;
    body(arg);
}

static void crew_loop_body(void *arg) {
    run_in_order(arg, 0);
}

#endif

/* `user` is the context. */
static void parallel_for_default(void *user, int64_t n, scbm_task task, void *arg) {
    crew_loop loop = {user, n, task, arg};
    if (current.context == loop.context) {
        run_in_order(&loop, current.worker);
        return;
    }
    loop.context->n_loops++;
    with_crew(loop.context, crew_loop_body, &loop);
}

static scbm_status create_residency(scbm_backend *backend);
static void leave_copies(scbm_context *context);

/* The context's place on its backend. */
static scbm_status create_queue(scbm_context *context) {
    scbm_backend *backend = context->backend;
    const scbm_backend_functions *functions = backend->functions;
    if (functions->version != SCBM_BACKEND_VERSION)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "a backend for version %u of the interface; this library has version %d",
                         (unsigned)functions->version, SCBM_BACKEND_VERSION);
    scbm_status status = functions->is_host ? SCBM_OK : create_residency(backend);
    if (!status) status = functions->queue_create(backend, context, &context->queue);
    if (status) return status;
    context->queue->backend = backend;
    context->queue->context = context;
    return SCBM_OK;
}

scbm_status scbm_context_create(scbm_context **out, const scbm_hooks *hooks, scbm_backend *backend) {
    *out = NULL;
    if (hooks && (!hooks->alloc != !hooks->free))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "hooks: alloc and free must be set together");
    if (hooks && hooks->n_workers < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "hooks: n_workers is %d", hooks->n_workers);
    if (hooks && hooks->parallel_for && hooks->parallel_for != scbm_pool && hooks->n_workers < 1)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "hooks: parallel_for needs n_workers of at least 1");
    scbm_context *context = scbm_alloc(hooks, sizeof *context);
    if (!context) return SCBM_ERROR_MEMORY;
    if (hooks) context->hooks = *hooks;
    context->backend = backend;
    if (!backend) {
        const scbm_backend_options options = {.hooks = hooks};
        scbm_status status = scbm_backend_open(&context->backend, NULL, &options);
        if (status) {
            scbm_release(hooks, context);
            return status;
        }
        context->owns_backend = 1;
    }
    int uses_pool = context->hooks.parallel_for == scbm_pool;
    context->n_workers = context->hooks.n_workers;
    if (!context->n_workers) context->n_workers = uses_pool ? scbm_pool_workers() : scbm_default_threads();
    context->n_threads = context->n_workers;
    context->parallel_for = uses_pool                     ? parallel_for_pool
                            : context->hooks.parallel_for ? context->hooks.parallel_for
                                                          : parallel_for_default;
    context->parallel_user = context->hooks.parallel_for && !uses_pool ? context->hooks.user : context;
#ifdef HAS_POOL
    watch_forks();
#endif
#ifndef HAS_THREADS
    if (!context->hooks.parallel_for) context->n_workers = 1;
#endif
    scbm_status status = create_queue(context);
    if (status) scbm_context_free(context);
    else *out = context;
    return status;
}

void scbm_context_free(scbm_context *context) {
    if (!context) return;
    if (context->queue) {
        leave_copies(context);
        context->backend->functions->queue_free(context->queue);
    }
    if (context->owns_backend) scbm_backend_close(context->backend);
    scbm_hooks hooks = context->hooks;
    scbm_release(&hooks, context);
}

const scbm_hooks *scbm_context_hooks(const scbm_context *context) {
    return &context->hooks;
}

/* A task of a loop that can be left. */
typedef struct asking_task {
    scbm_context *context;
    scbm_task task;
    void *arg;
} asking_task;

#define SECONDS_BETWEEN_QUESTIONS 0.1

static void ask_and_run(void *arg, int64_t index, int worker) {
    const asking_task *t = arg;
    scbm_context *context = t->context;
    if (context->is_stopped) return;
    if (worker == 0) { /* there is one thread of this number at a time */
        double now = scbm_seconds();
        if (now - context->asked > SECONDS_BETWEEN_QUESTIONS) {
            context->asked = now;
            if (context->hooks.cancel(context->hooks.user)) context->is_stopped = 1;
        }
    }
    t->task(t->arg, index, worker);
}

void scbm_parallel(scbm_context *context, int64_t n, scbm_task task, void *arg) {
    if (!context->asks) {
        context->parallel_for(context->parallel_user, n, task, arg);
        return;
    }
    asking_task asking = {context, task, arg};
    context->parallel_for(context->parallel_user, n, ask_and_run, &asking);
}

int scbm_context_workers(const scbm_context *context) {
    return context->n_workers;
}

int scbm_context_is_host(const scbm_context *context) {
    return context->backend->functions->is_host;
}

const char *scbm_context_device(const scbm_context *context) {
    return context->backend->functions->device(context->backend);
}

static int backend_has_precision(scbm_backend *backend, scbm_precision precision) {
    if (precision == SCBM_PRECISION_F32) return 1;
    return backend->functions->has_precision && backend->functions->has_precision(backend, precision);
}

scbm_status scbm_context_check_precision(const scbm_context *context, scbm_precision precision) {
    char names[64] = "";
    if (!scbm_precision_name(precision))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no precision %d", (int)precision);
    if (backend_has_precision(context->backend, precision)) return SCBM_OK;
    for (int i = 0; i < SCBM_PRECISION_COUNT; i++) {
        size_t used = strlen(names);
        if (backend_has_precision(context->backend, (scbm_precision)i))
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", precision_names[i]);
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s does not compute in %s precision; it has %s",
                     scbm_context_device(context), precision_names[precision], names);
}

/* ------------------------------------------------------------------------------------------
 * Backends by name
 * ---------------------------------------------------------------------------------------- */

enum { MAX_BACKENDS = 16 };

static const scbm_backend_entry cpu_entry;

/* Those that are registered, the CPU first; none is ever taken away. */
typedef struct backend_list {
    int n;
    const scbm_backend_entry *entry[MAX_BACKENDS];
} backend_list;

static backend_list registered = {1, {&cpu_entry}};
static copies_lock registered_lock = COPIES_LOCK_INIT;

static backend_list list_backends(void) {
    take_lock(&registered_lock);
    backend_list list = registered;
    leave_lock(&registered_lock);
    return list;
}

/* `length`: of the name before a colon. */
static const scbm_backend_entry *find_backend(const backend_list *list, const char *name, size_t length) {
    for (int i = 0; i < list->n; i++)
        if (strlen(list->entry[i]->name) == length && memcmp(list->entry[i]->name, name, length) == 0)
            return list->entry[i];
    return NULL;
}

/* How many of the characters may stand in a backend's name. */
static size_t name_span(const char *name) {
    return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
}

static scbm_status check_entry(const scbm_backend_entry *entry) {
    if (entry->version != SCBM_BACKEND_VERSION)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "a backend for version %u of the interface; this library has version %d",
                         (unsigned)entry->version, SCBM_BACKEND_VERSION);
    if (!entry->name || !*entry->name || entry->name[name_span(entry->name)] || !strcmp(entry->name, "auto") ||
        !strcmp(entry->name, "train"))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a backend cannot be called '%.40s'", entry->name ? entry->name : "");
    if (!entry->count || !entry->describe || !entry->open)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "backend %s lacks a function", entry->name);
    return SCBM_OK;
}

scbm_status scbm_backend_register(const scbm_backend_entry *entry) {
    scbm_status status = check_entry(entry);
    if (status) return status;
    take_lock(&registered_lock);
    if (find_backend(&registered, entry->name, strlen(entry->name)))
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "there is a backend %s already", entry->name);
    else if (registered.n == MAX_BACKENDS)
        status = scbm_fail(SCBM_ERROR_MEMORY, "backend %s: there is room for %d", entry->name, MAX_BACKENDS);
    else registered.entry[registered.n++] = entry;
    leave_lock(&registered_lock);
    return status;
}

static int count_devices(const scbm_backend_entry *entry) {
    int n = entry->count();
    return n > 0 ? n : 0;
}

/* Why a backend without a device has none. */
static scbm_status has_no_device(const scbm_backend_entry *entry) {
    char reason[SCBM_MAX_NAME] = "";
    entry->describe(-1, reason, sizeof reason);
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s has no device here%s%.*s", entry->name, *reason ? ": " : "",
                     (int)sizeof reason, reason);
}

/* ------------------------------------------------------------------------------------------
 * Plug-ins
 * ---------------------------------------------------------------------------------------- */

#ifdef HAS_PLUGINS

#define PLUGIN_PREFIX "libsparsecbm-"
#define PLUGIN_SUFFIX ".so"
#define PLUGIN_SYMBOL "scbm_backend_main"

enum { LONGEST_FILE = 4096, LONGEST_PLUGIN = 64 }; /* the system opens no file of a longer path */

/* One thread loads at a time. */
static copies_lock plugins_lock = COPIES_LOCK_INIT;

static const scbm_host plugin_host = {
    .version = SCBM_BACKEND_VERSION,
    .size = sizeof(scbm_host),
    .fail = scbm_fail,
    .last_error = scbm_last_error,
    .log = scbm_log,
    .alloc = scbm_alloc,
    .release = scbm_release,
    .cancelled = scbm_cancelled,
    .seconds = scbm_seconds,
    .op_of = scbm_op_of,
    .type_of = scbm_type_of,
    .precision_name = scbm_precision_name,
    .tensor_elements = scbm_tensor_elements,
    .tensor_bytes = scbm_tensor_bytes,
    .mask_row_bytes = scbm_mask_row_bytes,
    .convert = scbm_convert,
    .philox = scbm_philox,
    .context_hooks = scbm_context_hooks,
    .context_workers = scbm_context_workers,
    .parallel = scbm_parallel,
    .backend_open = scbm_backend_open,
    .backend_close = scbm_backend_close,
};

/* The entry of a plug-in that is open. */
static scbm_status register_plugin(void *library, const char *file, const char *name) {
    scbm_backend_main_function entry_of;
    *(void **)&entry_of = dlsym(library, PLUGIN_SYMBOL);
    if (!entry_of)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s is no plug-in: it has no symbol " PLUGIN_SYMBOL, file);
    const scbm_backend_entry *entry = entry_of(&plugin_host, SCBM_BACKEND_VERSION);
    if (!entry)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%s refuses this library, which has version %d of the interface: it was built for a later one",
                         file, SCBM_BACKEND_VERSION);
    if (entry->version != SCBM_BACKEND_VERSION)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%s was built for version %u of the interface; this library has version %d: build it with this "
            "library's sparsecbm.h",
            file, (unsigned)entry->version, SCBM_BACKEND_VERSION);
    if (!entry->name || strcmp(entry->name, name))
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s holds a backend of another name, '%.40s'", file,
                         entry->name ? entry->name : "");
    return scbm_backend_register(entry);
}

/* `file`: with a path, or without one for the loader to look for. */
static scbm_status load_plugin(const char *file, const char *name) {
    const backend_list list = list_backends();
    if (find_backend(&list, name, strlen(name))) return SCBM_OK; /* by another thread meanwhile */
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        size_t length = strlen(file);
        if (!why) why = "no reason is known";
        if (!strncmp(why, file, length) && !strncmp(why + length, ": ", 2)) why += length + 2;
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s cannot be loaded: %s", file, why);
    }
    scbm_status status = register_plugin(library, file, name);
    if (status) dlclose(library);
    return status;
}

/* The folders of SCBM_BACKEND_PATH, one a call, at *rest; 0: there are no more. */
static int next_folder(const char **rest, char folder[LONGEST_FILE]) {
    while (*rest && **rest) {
        size_t length = strcspn(*rest, ":");
        const char *begin = *rest;
        *rest += length + (begin[length] != 0);
        if (begin[0] != '/' || length >= LONGEST_FILE) continue;
        memcpy(folder, begin, length);
        folder[length] = 0;
        return 1;
    }
    return 0;
}

static const char *path_of_environment(void) {
#ifdef __GLIBC__
    return secure_getenv("SCBM_BACKEND_PATH");
#else
    return getuid() == geteuid() && getgid() == getegid() ? getenv("SCBM_BACKEND_PATH") : NULL;
#endif
}

/* The folder that the library was loaded from, or the program that it is linked into; "" where it is not known. A program is
 * known to the loader by the name that it was started with, which says nothing: then Linux is asked. */
static void folder_of_library(char folder[LONGEST_FILE]) {
    Dl_info info;
    *folder = 0;
    if (dladdr(&plugin_host, &info) && info.dli_fname && info.dli_fname[0] == '/') {
        snprintf(folder, LONGEST_FILE, "%s", info.dli_fname);
    } else {
        ssize_t length = readlink("/proc/self/exe", folder, LONGEST_FILE - 1);
        folder[length > 0 ? length : 0] = 0;
    }
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
}

/* Whether the folder has a file for the plug-in, with its path. */
static int has_plugin(const char *folder, const char *name, char file[LONGEST_FILE]) {
    int length = snprintf(file, LONGEST_FILE, "%s/" PLUGIN_PREFIX "%s" PLUGIN_SUFFIX, folder, name);
    return *folder && length < LONGEST_FILE && access(file, F_OK) == 0;
}

static void find_plugin(const char *name, char file[LONGEST_FILE]) {
    char folder[LONGEST_FILE];
    const char *rest = path_of_environment();
    while (next_folder(&rest, folder))
        if (has_plugin(folder, name, file)) return;
    folder_of_library(folder);
    if (!has_plugin(folder, name, file)) snprintf(file, LONGEST_FILE, PLUGIN_PREFIX "%s" PLUGIN_SUFFIX, name);
}

/* Loads the plug-in that a name (before its colon) means, and registers it. */
static scbm_status open_plugin(const char *name, size_t length) {
    char plain[LONGEST_PLUGIN], file[LONGEST_FILE];
    if (!length || length >= sizeof plain || name_span(name) < length)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "no plug-in is called so");
    memcpy(plain, name, length);
    plain[length] = 0;
    if (!strcmp(plain, "train")) return scbm_fail(SCBM_ERROR_UNSUPPORTED, "no plug-in is called so");
    find_plugin(plain, file);
    take_lock(&plugins_lock);
    scbm_status status = load_plugin(file, plain);
    leave_lock(&plugins_lock);
    return status;
}

/* The names of the plug-ins in a folder, each after a blank. */
static void list_plugins(const char *folder, char *names, size_t size) {
    const size_t before = strlen(PLUGIN_PREFIX), after = strlen(PLUGIN_SUFFIX);
    DIR *directory = *folder ? opendir(folder) : NULL;
    for (const struct dirent *file; directory && (file = readdir(directory)) != NULL;) {
        size_t length = strlen(file->d_name), used = strlen(names);
        if (length <= before + after || memcmp(file->d_name, PLUGIN_PREFIX, before) != 0) continue;
        if (strcmp(file->d_name + length - after, PLUGIN_SUFFIX) != 0) continue;
        int n = (int)(length - before - after);
        if (name_span(file->d_name + before) == (size_t)n && used + (size_t)n + 2 < size)
            snprintf(names + used, size - used, " %.*s", n, file->d_name + before);
    }
    if (directory) closedir(directory);
}

/* The first of the names, in the alphabet, that comes after `last`. */
static int next_name(const char *names, char last[LONGEST_PLUGIN]) {
    char best[LONGEST_PLUGIN] = "", name[LONGEST_PLUGIN];
    for (const char *at = names; *at;) {
        at += strspn(at, " ");
        size_t length = strcspn(at, " ");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        at += length;
        if (length && length < sizeof name && strcmp(name, last) > 0 && (!*best || strcmp(name, best) < 0))
            memcpy(best, name, sizeof best);
    }
    memcpy(last, best, sizeof best);
    return *best != 0;
}

static void load_plugins(const scbm_hooks *hooks) {
    char names[4096] = "", folder[LONGEST_FILE], name[LONGEST_PLUGIN] = "", file[LONGEST_FILE];
    const char *rest = path_of_environment();
    while (next_folder(&rest, folder)) list_plugins(folder, names, sizeof names);
    folder_of_library(folder);
    list_plugins(folder, names, sizeof names);
    while (next_name(names, name)) {
        const backend_list list = list_backends();
        if (find_backend(&list, name, strlen(name)) || !strcmp(name, "train")) continue;
        if (open_plugin(name, strlen(name)))
            scbm_log(hooks, SCBM_LOG_WARNING, "%s is not used: %s", name, error_text);
    }
    find_plugin("cuda", file); /* may be on the loader's path, which cannot be listed */
    const backend_list list = list_backends();
    if (*file != '/' && !find_backend(&list, "cuda", strlen("cuda")) && open_plugin("cuda", strlen("cuda")))
        scbm_log(hooks, SCBM_LOG_INFO, "cuda is not used: %s", error_text);
}

#else

static scbm_status open_plugin(const char *name, size_t length) {
    (void)name, (void)length;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "it loads no plug-ins");
}

static void load_plugins(const scbm_hooks *hooks) {
    (void)hooks;
}
#endif

void scbm_backend_find_plugins(const scbm_hooks *hooks) {
    load_plugins(hooks);
    const backend_list list = list_backends();
    for (int i = 1; i < list.n; i++)
        if (!count_devices(list.entry[i]) && has_no_device(list.entry[i]))
            scbm_log(hooks, SCBM_LOG_INFO, "%s", error_text);
}

static scbm_status open_entry(scbm_backend **out, const scbm_backend_entry *entry, const char *device,
                              const scbm_backend_options *options) {
    scbm_status status = entry->open(out, device, options);
    if (!status) (*out)->cpu_fallback = options->cpu_fallback != 0;
    return status;
}

/* The CPU comes last: it is always there. */
static scbm_status open_best(scbm_backend **backend, const scbm_backend_options *options) {
    scbm_backend_find_plugins(options->hooks);
    const backend_list list = list_backends();
    for (int i = 1; i < list.n; i++) {
        if (!count_devices(list.entry[i])) continue;
        if (open_entry(backend, list.entry[i], NULL, options) == SCBM_OK) return SCBM_OK;
        scbm_log(options->hooks, SCBM_LOG_WARNING, "%s is not used: %s", list.entry[i]->name, error_text);
    }
    return cpu_entry.open(backend, NULL, options);
}

/* What is neither registered nor a plug-in that can be used: error_text has why not. */
static scbm_status no_such_backend(const char *name, const backend_list *list) {
    char names[256] = "", why[sizeof error_text];
    snprintf(why, sizeof why, "%s", error_text);
    for (int i = 0; i < list->n; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", list->entry[i]->name);
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "there is no backend '%.40s' (%s); this build has: %s", name, why, names);
}

scbm_status scbm_backend_open(scbm_backend **out, const char *name, const scbm_backend_options *options) {
    const scbm_backend_options none = {0};
    *out = NULL;
    if (!name) name = cpu_entry.name;
    if (!options) options = &none;
    for (int i = 0; i < COUNT_OF(options->reserved); i++)
        if (options->reserved[i]) return scbm_fail(SCBM_ERROR_ARGUMENT, "a backend's options: reserved must be 0");
    if (!strcmp(name, "auto")) return open_best(out, options);
    const char *colon = strchr(name, ':');
    size_t length = colon ? (size_t)(colon - name) : strlen(name);
    backend_list list = list_backends();
    if (!find_backend(&list, name, length)) {
        if (open_plugin(name, length)) return no_such_backend(name, &list);
        list = list_backends();
    }
    const scbm_backend_entry *entry = find_backend(&list, name, length);
    return count_devices(entry) ? open_entry(out, entry, colon ? colon + 1 : NULL, options) : has_no_device(entry);
}

static void free_residency(scbm_backend *backend);

void scbm_backend_close(scbm_backend *backend) {
    if (!backend) return;
    free_residency(backend);
    backend->functions->free(backend);
}

int scbm_backend_count(void) {
    int n = 0;
    scbm_backend_find_plugins(NULL);
    const backend_list list = list_backends();
    for (int i = 0; i < list.n; i++) n += count_devices(list.entry[i]);
    return n;
}

scbm_status scbm_backend_describe(int index, scbm_backend_info *info) {
    memset(info, 0, sizeof *info);
    const backend_list list = list_backends();
    int n = 0;
    for (int i = 0; i < list.n; i++) {
        int count = count_devices(list.entry[i]), device = index - n;
        if (device >= 0 && device < count) {
            if (count == 1) snprintf(info->name, sizeof info->name, "%s", list.entry[i]->name);
            else snprintf(info->name, sizeof info->name, "%.80s:%d", list.entry[i]->name, device);
            list.entry[i]->describe(device, info->description, sizeof info->description);
            return SCBM_OK;
        }
        n += count;
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no device %d: this machine has %d", index, n);
}

/* ------------------------------------------------------------------------------------------
 * The caller's tensors on devices. A copy belongs to (backend, tensor), serves all graphs of all contexts, and is newer than
 * the host's data once a graph has updated it.
 * ---------------------------------------------------------------------------------------- */

typedef struct device_copy {
    struct device_copy *next;
    const scbm_tensor *tensor;
    uint64_t id, generation; /* of the tensor, and of what was copied */
    const void *data;        /* from where */
    void *memory;
    size_t bytes;
    int is_made;                 /* not: what is there is of no use */
    int is_newer;                /* updated since it was copied, by graphs of: */
    const scbm_context *context; /* NULL: it was freed */
} device_copy;

enum { COPY_BUCKETS = 256 };

struct scbm_residency {
    scbm_backend *backend;
    struct scbm_residency *next;
    copies_lock lock;
    device_copy *bucket[COPY_BUCKETS];
    size_t bytes;
    unsigned char is_told[SCBM_OP_COUNT]; /* that the op runs on the host */
};

/* All that there are, for tensors that go. */
static struct scbm_residency *residencies;
static copies_lock residencies_lock = COPIES_LOCK_INIT;

static scbm_status create_residency(scbm_backend *backend) {
    take_lock(&residencies_lock);
    if (!backend->copies) {
        backend->copies = scbm_alloc(NULL, sizeof *backend->copies);
        if (backend->copies) {
            *backend->copies = (struct scbm_residency){
                .backend = backend, .next = residencies, .lock = COPIES_LOCK_INIT};
            residencies = backend->copies;
        }
    }
    leave_lock(&residencies_lock);
    return backend->copies ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static void drop_copy(struct scbm_residency *r, device_copy **place) {
    device_copy *copy = *place;
    *place = copy->next;
    r->bytes -= copy->bytes;
    if (copy->memory) r->backend->functions->deallocate(r->backend, copy->memory);
    scbm_release(NULL, copy);
}

static void free_residency(scbm_backend *backend) {
    struct scbm_residency *r = backend->copies;
    if (!r) return;
    take_lock(&residencies_lock);
    struct scbm_residency **place = &residencies;
    while (*place != r) place = &(*place)->next;
    *place = r->next;
    leave_lock(&residencies_lock);
    for (int i = 0; i < COPY_BUCKETS; i++)
        while (r->bucket[i]) drop_copy(r, &r->bucket[i]);
    scbm_release(NULL, r);
    backend->copies = NULL;
}

size_t scbm_backend_copied(const scbm_backend *backend) {
    return backend->copies ? backend->copies->bytes : 0;
}

/* Where the tensor's copy hangs, or would. One whose tensor is another by now counts as none. */
static device_copy **find_copy(struct scbm_residency *r, const scbm_tensor *tensor) {
    device_copy **place = &r->bucket[((uintptr_t)tensor >> 4) * 0x9E3779B97F4A7C15u >> 56 & (COPY_BUCKETS - 1)];
    while (*place && (*place)->tensor != tensor) place = &(*place)->next;
    return place;
}

static int is_up_to_date(const device_copy *copy, const scbm_tensor *tensor) {
    return copy->is_made && copy->generation == tensor->generation && copy->data == tensor->data;
}

/* A copy with memory for the tensor. */
static device_copy *place_copy(struct scbm_residency *r, const scbm_tensor *tensor) {
    size_t bytes = scbm_tensor_bytes(tensor);
    device_copy **place = find_copy(r, tensor), *copy = *place;
    if (copy && (copy->id != tensor->id || copy->bytes != bytes)) drop_copy(r, place);
    else if (copy) return copy;
    copy = scbm_alloc(NULL, sizeof *copy);
    void *memory = copy ? r->backend->functions->allocate(r->backend, bytes + 1) : NULL;
    if (!memory) {
        scbm_release(NULL, copy);
        return NULL;
    }
    *copy = (device_copy){.next = *place, .tensor = tensor, .id = tensor->id, .memory = memory, .bytes = bytes};
    *place = copy;
    r->bytes += bytes;
    return copy;
}

/* Gives the tensor's place on the device; what the host has changed is on the way there, and *n_sent goes up. */
static scbm_status bring_tensor(scbm_context *context, const scbm_tensor *tensor, int is_updated, void **memory,
                                int *n_sent) {
    struct scbm_residency *r = context->backend->copies;
    device_copy *copy = place_copy(r, tensor);
    if (!copy)
        return scbm_fail(SCBM_ERROR_MEMORY, "%s: out of memory for %s, of %zu bytes", scbm_context_device(context),
                         tensor->name, scbm_tensor_bytes(tensor));
    *memory = copy->memory;
    if (is_up_to_date(copy, tensor)) {
        if (copy->is_newer && copy->context && copy->context != context)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s was updated by another context, which has to fetch it first",
                             tensor->name);
    } else {
        copy->is_made = copy->is_newer = 0;
        scbm_status status = context->backend->functions->upload(context->queue, copy->memory, tensor->data,
                                                                 copy->bytes);
        if (status) return status;
        copy->generation = tensor->generation;
        copy->data = tensor->data;
        ++*n_sent;
    }
    if (is_updated) {
        copy->is_newer = 1;
        copy->context = context;
    }
    return SCBM_OK;
}

/* What was sent is there. */
static void confirm_tensor(const scbm_context *context, const scbm_tensor *tensor) {
    device_copy *copy = *find_copy(context->backend->copies, tensor);
    if (copy) copy->is_made = 1;
}

void scbm_tensor_changed(scbm_tensor *tensor) {
    tensor->generation++;
}

scbm_status scbm_tensor_fetch(scbm_tensor *tensor, scbm_context *context) {
    struct scbm_residency *r = context->backend->copies;
    const scbm_backend_functions *functions = context->backend->functions;
    if (!r) return SCBM_OK;
    scbm_status status = SCBM_OK;
    take_lock(&r->lock);
    device_copy *copy = *find_copy(r, tensor);
    if (copy && copy->id == tensor->id && copy->is_newer && is_up_to_date(copy, tensor)) {
        if (copy->context && copy->context != context)
            status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s was updated by another context, which has to fetch it",
                               tensor->name);
        if (!status) status = functions->download(context->queue, tensor->data, copy->memory, copy->bytes);
        if (!status) status = functions->wait(context->queue);
        if (!status) {
            scbm_tensor_changed(tensor);
            copy->generation = tensor->generation;
            copy->is_newer = 0;
        }
    }
    leave_lock(&r->lock);
    return status;
}

void scbm_tensor_forget(scbm_tensor *tensor) {
    if (!tensor) return;
    take_lock(&residencies_lock);
    for (struct scbm_residency *r = residencies; r; r = r->next) {
        take_lock(&r->lock);
        device_copy **place = find_copy(r, tensor);
        if (*place) drop_copy(r, place);
        leave_lock(&r->lock);
    }
    leave_lock(&residencies_lock);
}

/* What graphs of the context have updated is anybody's to fetch: all that was queued is done. */
static void leave_copies(scbm_context *context) {
    struct scbm_residency *r = context->backend->copies;
    if (!r) return;
    take_lock(&r->lock);
    for (int i = 0; i < COPY_BUCKETS; i++)
        for (device_copy *copy = r->bucket[i]; copy; copy = copy->next)
            if (copy->context == context) copy->context = NULL;
    leave_lock(&r->lock);
}

/* ------------------------------------------------------------------------------------------
 * Random numbers
 * ---------------------------------------------------------------------------------------- */

/* Philox 4x32-10: counter words (counter low, counter high, stream low, stream high), key (seed low, seed high). */
void scbm_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0;
        c1 = (uint32_t)p1;
        c2 = n2;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static uint64_t random_u64(scbm_random *random) {
    uint32_t words[4];
    scbm_philox(random->seed, random->stream, random->counter++, words);
    return (uint64_t)words[1] << 32 | words[0];
}

double scbm_random_uniform(scbm_random *random) {
    return ((double)(random_u64(random) >> 11) + 0.5) * (1.0 / 9007199254740992.0);
}

/* ---- Numbers: sums, products and quotients alone, and a scaling by a power of 2, so that every machine gets the same
 * bits, whatever its libm ---- */

#define LN2_HIGH 6.93147180369123816490e-01 /* of 33 bits, so that its products with small integers are exact */
#define LN2_LOW 1.90821492927058770002e-10

/* x = k ln 2 + r with |r| ≤ ln 2 / 2, and e^r by its Taylor series, whose rest is below 1e-16. */
double scbm_exponential(double x) {
    if (!(x > -746.0)) return x != x ? x : 0.0;
    if (x > 710.0) return HUGE_VAL;
    double k = floor(x * 1.4426950408889634074 + 0.5);
    double r = (x - k * LN2_HIGH) - k * LN2_LOW;
    double sum = 1.0;
    for (int i = 14; i > 0; i--) sum = 1.0 + sum * r / i;
    return ldexp(sum, (int)k);
}

/* x = 2^k (1 + f) with 1 + f between the square roots of 1/2 and 2, and ln(1 + f) = 2 artanh(s), s = f / (2 + f), by the
 * series 2 s + s rest, rest = Σ 2 s^2j / (2j + 1); 2 s = f − s f, of which f is exact. */
double scbm_logarithm(double x) {
    int k;
    if (!(x > 0.0)) return x == 0.0 ? -HUGE_VAL : x != x ? x : NAN;
    if (x == HUGE_VAL) return x;
    double part = frexp(x, &k);
    if (part < 0.70710678118654752440) {
        part *= 2.0;
        k--;
    }
    double f = part - 1.0, s = f / (2.0 + f), square = s * s, rest = 0.0;
    for (int i = 23; i > 1; i -= 2) rest = (rest + 2.0 / i) * square;
    return k * LN2_HIGH + (f - (s * (f - rest) - k * LN2_LOW));
}

/* cos(x) for x from 0 to 2π: what is left of it after a whole number of quarters, by the Taylor series of cos or sin, whose
 * terms are 1 / 20! … 1 / 2! and 1 / 21! … 1 / 3!. */
static double cosine(double x) {
    static const double term[2][10] = {
        {1 / 2432902008176640000.0, 1 / 6402373705728000.0, 1 / 20922789888000.0, 1 / 87178291200.0, 1 / 479001600.0,
         1 / 3628800.0, 1 / 40320.0, 1 / 720.0, 1 / 24.0, 1 / 2.0},
        {1 / 51090942171709440000.0, 1 / 121645100408832000.0, 1 / 355687428096000.0, 1 / 1307674368000.0,
         1 / 6227020800.0, 1 / 39916800.0, 1 / 362880.0, 1 / 5040.0, 1 / 120.0, 1 / 6.0}};
    int quarter = (int)(x * 0.63661977236758134308 + 0.5), is_odd = quarter & 1;
    double r = (x - quarter * 1.57079632673412561417) - quarter * 6.07710050650619224932e-11;
    double square = r * r, sum = 0.0;
    for (int i = 0; i < 10; i++) sum = term[is_odd][i] - square * sum;
    sum = 1.0 - square * sum;
    if (is_odd) sum *= r;
    return quarter == 1 || quarter == 2 ? -sum : sum;
}

/* Box and Muller's transform; the second value of the pair is not kept, so that the state is a counter. */
double scbm_random_normal(scbm_random *random) {
    double u = scbm_random_uniform(random), v = scbm_random_uniform(random);
    return sqrt(-2.0 * scbm_logarithm(u)) * cosine(6.283185307179586477 * v);
}

uint64_t scbm_random_below(scbm_random *random, uint64_t n) {
    if (n < 2) return 0;
    uint64_t rest = UINT64_MAX % n, value; /* values above the last whole multiple of n are drawn again */
    do value = random_u64(random);
    while (rest != n - 1 && value > UINT64_MAX - rest - 1);
    return value % n;
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables" (2000), with their boost for a < 1. */
static double random_gamma(scbm_random *random, double a) {
    double boost = 1.0;
    if (a < 1.0) {
        boost = scbm_exponential(scbm_logarithm(scbm_random_uniform(random)) / a);
        a += 1.0;
    }
    double d = a - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
    for (;;) {
        double x = scbm_random_normal(random), v = 1.0 + c * x;
        if (v <= 0.0) continue;
        v = v * v * v;
        if (scbm_logarithm(scbm_random_uniform(random)) < 0.5 * x * x + d - d * v + d * scbm_logarithm(v))
            return boost * d * v;
    }
}

double scbm_random_beta(scbm_random *random, double a, double b) {
    double x = random_gamma(random, a), y = random_gamma(random, b);
    return x + y > 0.0 ? x / (x + y) : 0.5;
}

void scbm_random_shuffle(scbm_random *random, int32_t *items, int64_t n) {
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)scbm_random_below(random, (uint64_t)i + 1);
        int32_t item = items[i];
        items[i] = items[j];
        items[j] = item;
    }
}

/* ==========================================================================================
 * Part 2: graphs
 * ======================================================================================== */

/* ------------------------------------------------------------------------------------------
 * Graphs: building
 * ---------------------------------------------------------------------------------------- */

/* A tensor of a graph: the public struct first, so that a pointer to one is a pointer to the other. */
typedef struct graph_tensor {
    scbm_tensor public;
    int index;
    int is_input, is_output, is_fetched;
    int is_constant; /* an input that the graph itself fills with `fill` */
    float fill;
    const scbm_tensor *groups; /* an input that the graph itself fills: the masks that these groups stand for, */
    scbm_op groups_of;         /* for this op */
    struct graph_tensor *alias; /* the tensor whose memory this one is (reshape), or NULL */
    scbm_tensor *gradient;
    int needs_gradient;
    /* The plan: */
    int first_use, last_use;   /* node indexes; last_use INT_MAX: kept */
    scbm_watch_function watch; /* called when it is computed; it is dead then */
    void *watch_user;
    size_t offset; /* in the workspace; of aliases unused */
    void *device;  /* in the backend's memory */
} graph_tensor;

/* A tensor of the caller that the graph reads. */
typedef struct graph_external {
    scbm_tensor *tensor;
    scbm_tensor *gradient;
    int needs_gradient;
    int is_read, is_updated; /* by a node */
    void *device;            /* where it is in this run, on a backend that is no host */
} graph_external;

struct scbm_graph {
    scbm_context *context;
    const scbm_hooks *hooks;
    scbm_status status; /* the first error of building */
    char error[ERROR_SIZE];
    scbm_precision precision;
    scbm_dw_mode weight_gradients;
    int n_watched;
    int64_t max_tokens, max_texts;
    int64_t longest;    /* tokens of a text; 0: as many as the batch */
    int is_decomposed;  /* whatever can be replaced is */
    int is_placed_next; /* gradients are there, if there are to be any: what is replaced then may be, too */
    scbm_node **nodes;
    size_t n_nodes, node_capacity;
    struct graph_step *steps; /* [n_nodes] once it was laid out */
    graph_tensor **tensors;
    size_t n_tensors, tensor_capacity;
    graph_external *externals;
    size_t n_externals, external_capacity;
    int64_t n_dropouts; /* gives each its own stream of random numbers */
    int has_gradients;  /* scbm_graph_backward was called */
    int is_planned, is_running;
    size_t workspace_bytes, scratch_bytes;
    size_t input_bytes, constant_bytes; /* of the workspace: inputs come first, then constants */
    void *workspace, *scratch;
    scbm_backend *host; /* for nodes that run on the host, the device being none: its CPU, */
    void *host_memory;  /* and what stands there of one node's tensors, with the scratch behind them */
    size_t host_bytes;
    void *host_inputs, *host_results;         /* of a backend that is no host */
    int (*source_external)[SCBM_MAX_SOURCES]; /* there: which of the externals each node's sources are, or -1 */
    uint64_t seed, step;
    int64_t tokens, texts; /* of the last run */
    int64_t n_loops;       /* parallel loops of the last run; many before the first */
    double seconds[SCBM_OP_COUNT];
    struct scbm_adamw *optimizers; /* whose steps are among the nodes */
};

scbm_status scbm_graph_create(scbm_graph **out, scbm_context *context) {
    *out = scbm_alloc(&context->hooks, sizeof **out);
    if (!*out) return SCBM_ERROR_MEMORY;
    (*out)->context = context;
    (*out)->hooks = &context->hooks;
    return SCBM_OK;
}

static void leave_optimizers(scbm_graph *g);

/* Memory where the kernels work. */
static void *device_alloc(const scbm_graph *g, size_t bytes) {
    scbm_backend *backend = g->context->backend;
    return backend->functions->is_host ? scbm_alloc(g->hooks, bytes) : backend->functions->allocate(backend, bytes);
}

static void device_release(const scbm_graph *g, void *memory) {
    scbm_backend *backend = g->context->backend;
    if (backend->functions->is_host) scbm_release(g->hooks, memory);
    else if (memory) backend->functions->deallocate(backend, memory);
}

/* Host memory that is copied from and to. */
static void *stage_alloc(const scbm_graph *g, size_t bytes) {
    scbm_backend *backend = g->context->backend;
    return backend->functions->stage ? backend->functions->stage(backend, bytes) : scbm_alloc(g->hooks, bytes);
}

static void stage_release(const scbm_graph *g, void *memory) {
    scbm_backend *backend = g->context->backend;
    if (!backend->functions->unstage) scbm_release(g->hooks, memory);
    else if (memory) backend->functions->unstage(backend, memory);
}

/* What a plan has taken. */
static void release_memory(scbm_graph *g) {
    device_release(g, g->workspace);
    device_release(g, g->scratch);
    stage_release(g, g->host_inputs);
    stage_release(g, g->host_results);
    stage_release(g, g->host_memory);
    scbm_release(g->hooks, g->source_external);
    g->workspace = g->scratch = g->host_inputs = g->host_results = g->host_memory = NULL;
    g->source_external = NULL;
}

void scbm_graph_free(scbm_graph *g) {
    if (!g) return;
    leave_optimizers(g);
    for (size_t i = 0; i < g->n_nodes; i++) scbm_release(g->hooks, g->nodes[i]);
    for (size_t i = 0; i < g->n_tensors; i++) scbm_release(g->hooks, g->tensors[i]);
    release_memory(g);
    scbm_backend_close(g->host);
    scbm_release(g->hooks, g->nodes);
    scbm_release(g->hooks, g->steps);
    scbm_release(g->hooks, g->tensors);
    scbm_release(g->hooks, g->externals);
    scbm_release(g->hooks, g);
}

/* The error of building, as the last one of this thread. */
static scbm_status graph_status(const scbm_graph *g) {
    return g->status ? scbm_fail(g->status, "%s", g->error) : SCBM_OK;
}

/* Keeps the first error of building. Returns NULL, for functions that return what they built. */
static void *graph_fail(scbm_graph *g, scbm_status status, const char *format, ...) SCBM_PRINTF(3, 4);
static void *graph_fail(scbm_graph *g, scbm_status status, const char *format, ...) {
    if (g->status) return NULL;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(g->error, sizeof g->error, format, arguments);
    va_end(arguments);
    g->status = scbm_fail(status, "%s", g->error);
    return NULL;
}

/* What holds for the whole graph is said before anything is in it. */
static int is_begun(scbm_graph *g, const char *what) {
    if (!g->n_tensors && !g->n_nodes && !g->is_planned) return 0;
    graph_fail(g, SCBM_ERROR_ARGUMENT, "a graph's %s is set before its first input or op", what);
    return 1;
}

void scbm_graph_set_capacity(scbm_graph *g, int64_t tokens, int64_t texts) {
    if (is_begun(g, "capacity")) return;
    if (tokens < 0 || texts < 0 || tokens >= INT32_MAX || texts >= INT32_MAX) { /* offsets are I32 */
        graph_fail(g, SCBM_ERROR_ARGUMENT, "a graph's capacity is %lld tokens and %lld texts: 0 to %d are possible",
                   (long long)tokens, (long long)texts, INT32_MAX - 1);
        return;
    }
    g->max_tokens = tokens;
    g->max_texts = texts;
}

void scbm_graph_set_longest(scbm_graph *g, int64_t tokens) {
    if (g->has_gradients || g->is_planned)
        graph_fail(g, SCBM_ERROR_ARGUMENT, "a graph's longest text is set before backward and the plan");
    else if (tokens < 0)
        graph_fail(g, SCBM_ERROR_ARGUMENT, "a graph's longest text has %lld tokens", (long long)tokens);
    else g->longest = tokens;
}

void scbm_graph_set_precision(scbm_graph *g, scbm_precision precision) {
    if (g->status || is_begun(g, "precision")) return;
    scbm_status status = scbm_context_check_precision(g->context, precision);
    if (status) graph_fail(g, status, "%s", scbm_last_error());
    else g->precision = precision;
}

static void *graph_out_of_memory(scbm_graph *g) {
    return graph_fail(g, SCBM_ERROR_MEMORY, "out of memory while building a graph");
}

static graph_tensor *graph_tensor_of(const scbm_graph *g, const scbm_tensor *tensor) {
    return tensor->graph == g ? (graph_tensor *)(uintptr_t)tensor : NULL;
}

/* Dimensions with an extent take the graph's capacity. */
static scbm_tensor *new_tensor(scbm_graph *g, const char *name, scbm_type type, int n_dims, const int64_t *shape,
                               const uint8_t *extent) {
    int64_t capacity[SCBM_MAX_DIMS];
    for (int i = 0; i < n_dims && i < SCBM_MAX_DIMS; i++)
        capacity[i] = !extent || extent[i] == SCBM_FIXED ? shape[i]
                      : extent[i] == SCBM_TOKENS         ? g->max_tokens
                                                         : g->max_texts;
    scbm_tensor made;
    scbm_status status = scbm_tensor_init(&made, name, type, n_dims, capacity);
    if (status) return graph_fail(g, status, "%s", scbm_last_error());
    if (scbm_grow(g->hooks, (void **)&g->tensors, &g->tensor_capacity, g->n_tensors + 1, sizeof *g->tensors))
        return graph_out_of_memory(g);
    graph_tensor *tensor = scbm_alloc(g->hooks, sizeof *tensor);
    if (!tensor) return graph_out_of_memory(g);
    tensor->public = made;
    for (int i = 0; extent && i < SCBM_MAX_DIMS; i++) tensor->public.extent[i] = i < n_dims ? extent[i] : SCBM_FIXED;
    tensor->public.graph = g;
    tensor->index = (int)g->n_tensors;
    g->tensors[g->n_tensors++] = tensor;
    return &tensor->public;
}

scbm_tensor *scbm_input(scbm_graph *g, const char *name, scbm_type type, int n_dims, const int64_t *shape,
                        const scbm_extent *extent) {
    if (g->status) return NULL;
    if (g->is_planned) return graph_fail(g, SCBM_ERROR_ARGUMENT, "input %s: the graph is planned already", name);
    uint8_t extents[SCBM_MAX_DIMS] = {0};
    for (int i = 0; extent && i < n_dims && i < SCBM_MAX_DIMS; i++) extents[i] = (uint8_t)extent[i];
    scbm_tensor *tensor = new_tensor(g, name, type, n_dims, shape, extents);
    if (tensor) graph_tensor_of(g, tensor)->is_input = 1;
    return tensor;
}

/* A tensor of ours filled with one value, shaped like `like` (or [1] where that is NULL). */
static scbm_tensor *new_constant(scbm_graph *g, const scbm_tensor *like, float value) {
    const int64_t one = 1;
    scbm_tensor *tensor = like ? new_tensor(g, "constant", SCBM_F32, like->n_dims, like->shape, like->extent)
                               : new_tensor(g, "constant", SCBM_F32, 1, &one, NULL);
    if (!tensor) return NULL;
    graph_tensor *made = graph_tensor_of(g, tensor);
    made->is_input = made->is_constant = 1;
    made->fill = value;
    return tensor;
}

static graph_tensor *storage_of(graph_tensor *tensor) {
    while (tensor->alias) tensor = tensor->alias;
    return tensor;
}

scbm_tensor *scbm_output(scbm_graph *g, scbm_tensor *tensor) {
    if (!tensor || g->status) return NULL;
    if (g->is_planned)
        return graph_fail(g, SCBM_ERROR_ARGUMENT, "output %s: the graph is planned already", tensor->name);
    if (tensor->graph && tensor->graph != g)
        return graph_fail(g, SCBM_ERROR_ARGUMENT, "output %s: it belongs to another graph", tensor->name);
    graph_tensor *ours = graph_tensor_of(g, tensor);
    if (ours) ours->is_output = 1;
    return tensor;
}

scbm_tensor *scbm_graph_fetch(scbm_graph *g, scbm_tensor *tensor) {
    if (!scbm_output(g, tensor)) return NULL;
    graph_tensor *ours = graph_tensor_of(g, tensor);
    if (ours) ours->is_fetched = 1;
    return tensor;
}

static graph_external *find_external(const scbm_graph *g, const scbm_tensor *tensor) {
    for (size_t i = 0; i < g->n_externals; i++)
        if (g->externals[i].tensor == tensor) return &g->externals[i];
    return NULL;
}

static int register_external(scbm_graph *g, scbm_tensor *tensor) {
    if (find_external(g, tensor)) return 1;
    if (scbm_grow(g->hooks, (void **)&g->externals, &g->external_capacity, g->n_externals + 1, sizeof *g->externals)) {
        graph_out_of_memory(g);
        return 0;
    }
    g->externals[g->n_externals++].tensor = tensor;
    return 1;
}

/* ------------------------------------------------------------------------------------------
 * The op table: shape rules
 * ---------------------------------------------------------------------------------------- */

/* What an op reads as an index: source `source` holds ids, offsets of texts, groups or targets of one, below or up to
 * dimension `dim` of source `of` (or, where that is RESULT, of the first result). */
typedef enum index_kind { NO_INDEX, IDS, PERMUTATION, OFFSETS, GROUPS, TARGETS } index_kind;
enum { RESULT = -1 };

typedef struct op_index {
    index_kind kind;
    int source, of, dim;
    int bias; /* 1 + the source that is a table of distances inside texts, 0: none */
} op_index;

/* The ops that only the backward rule of a row with a decomposition asks for: where a device lacks one, and a gradient is
 * wanted, the decomposition takes the op's place. */
typedef struct backward_ops {
    int n;
    scbm_op op[3];
} backward_ops;

typedef struct op_row {
    scbm_op_info info;
    int (*shape)(scbm_graph *g, scbm_node *node); /* makes the results; 0 and the graph's error if sources do not fit */
    void (*backward)(scbm_graph *g, scbm_node *node, scbm_tensor *const *gradient); /* of the results; [0] is there */
    scbm_tensor *(*decompose)(scbm_graph *g, const scbm_node *node);
    backward_ops needs;
    op_index index;
    int is_late; /* replaced when gradients are there: its backward rows have decompositions of their own */
    int is_rare; /* not in every step: where a device lacks it, it runs on the host */
} op_row;

static const op_row op_table[SCBM_OP_COUNT];

static const char *node_name(const scbm_node *node) {
    return op_table[node->op].info.name;
}

/* "a shape rule does not hold": names the op, the rule and the sources' shapes. */
static int misfit(scbm_graph *g, const scbm_node *node, const char *rule) {
    char text[256] = "", shape[96];
    size_t used = 0;
    for (int i = 0; i < node->n_sources; i++) {
        if (!node->source[i]) continue;
        int n = snprintf(text + used, sizeof text - used, "%s%s %s%s", used ? ", " : "",
                         type_table[node->source[i]->type].name, scbm_shape_text(node->source[i], shape, sizeof shape),
                         "");
        if (n < 0 || (size_t)n >= sizeof text - used) break;
        used += (size_t)n;
    }
    graph_fail(g, SCBM_ERROR_SHAPE, "%s: %s; given were %s", node_name(node), rule, text);
    return 0;
}

static int same_dim(const scbm_tensor *a, int i, const scbm_tensor *b, int j) {
    return a->shape[i] == b->shape[j] && a->extent[i] == b->extent[j];
}

static int same_shape(const scbm_tensor *a, const scbm_tensor *b) {
    if (a->n_dims != b->n_dims) return 0;
    for (int i = 0; i < a->n_dims; i++)
        if (!same_dim(a, i, b, i)) return 0;
    return 1;
}

/* b's dimensions, aligned at the last, are a's or 1. */
static int broadcasts_to(const scbm_tensor *b, const scbm_tensor *a) {
    if (b->n_dims > a->n_dims) return 0;
    for (int i = 1; i <= b->n_dims; i++) {
        int is_one = b->shape[b->n_dims - i] == 1 && b->extent[b->n_dims - i] == SCBM_FIXED;
        if (!is_one && !same_dim(b, b->n_dims - i, a, a->n_dims - i)) return 0;
    }
    return 1;
}

static int last_of(const scbm_tensor *t) {
    return t->n_dims - 1;
}

static int is_f32(const scbm_tensor *t) {
    return t->type == SCBM_F32;
}

static int is_vector(const scbm_tensor *t, int64_t n) {
    return t->n_dims == 1 && t->shape[0] == n && t->extent[0] == SCBM_FIXED;
}

/* Any type's [rows, columns], neither of which is a batch's size. */
static int is_matrix(const scbm_tensor *t) {
    return t->n_dims == 2 && !t->extent[0] && !t->extent[1] && type_table[t->type].is_float;
}

/* I32 [texts + 1] */
static int is_offsets(const scbm_graph *g, const scbm_tensor *t) {
    return t->type == SCBM_I32 && t->n_dims == 1 && t->extent[0] == SCBM_FIXED && t->shape[0] == g->max_texts + 1;
}

static int is_groups(const scbm_tensor *t) {
    return t->type == SCBM_I32 && t->n_dims == 1 && t->extent[0] == SCBM_FIXED && t->shape[0] >= 2;
}

static int add_result(scbm_graph *g, scbm_node *node, scbm_type type, int n_dims, const int64_t *shape,
                      const uint8_t *extent) {
    scbm_tensor *result = new_tensor(g, node_name(node), type, n_dims, shape, extent);
    if (!result) return 0;
    node->result[node->n_results++] = result;
    return 1;
}

static int result_like(scbm_graph *g, scbm_node *node, const scbm_tensor *like) {
    return add_result(g, node, SCBM_F32, like->n_dims, like->shape, like->extent);
}

/* Like `like`, but `dim` is a fixed `n`. */
static int result_with(scbm_graph *g, scbm_node *node, const scbm_tensor *like, int dim, int64_t n) {
    int64_t shape[SCBM_MAX_DIMS];
    uint8_t extent[SCBM_MAX_DIMS];
    memcpy(shape, like->shape, sizeof shape);
    memcpy(extent, like->extent, sizeof extent);
    shape[dim] = n;
    extent[dim] = SCBM_FIXED;
    return add_result(g, node, SCBM_F32, like->n_dims, shape, extent);
}

static int shape_get_rows(scbm_graph *g, scbm_node *node) {
    scbm_tensor *table = node->source[0], *ids = node->source[1];
    if (!is_matrix(table) || ids->n_dims != 1 || ids->type != SCBM_I32)
        return misfit(g, node, "a table [V, d] of numbers and ids i32 [T] are wanted");
    int64_t shape[3] = {1, ids->shape[0], table->shape[1]};
    uint8_t extent[3] = {SCBM_FIXED, ids->extent[0], SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 3, shape, extent);
}

static int shape_get_rows_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *ids = node->source[1], *table = node->source[2];
    if (!is_f32(dy) || dy->n_dims != 3 || !is_matrix(table) || dy->shape[2] != table->shape[1] || ids->n_dims != 1 ||
        ids->type != SCBM_I32 || !same_dim(dy, 1, ids, 0) || dy->shape[0] != 1)
        return misfit(g, node, "dy [1, T, d], ids i32 [T] and the table [V, d] are wanted");
    return result_like(g, node, table);
}

static int shape_binary(scbm_graph *g, scbm_node *node) {
    if (!is_f32(node->source[0]) || !is_f32(node->source[1]) || !broadcasts_to(node->source[1], node->source[0]))
        return misfit(g, node, "two f32 tensors are wanted, the second of which broadcasts to the first");
    return result_like(g, node, node->source[0]);
}

static int shape_same_f32(scbm_graph *g, scbm_node *node) {
    for (int i = 0; i < node->n_sources; i++)
        if (!is_f32(node->source[i]) || !same_shape(node->source[i], node->source[0]))
            return misfit(g, node, "f32 tensors of one shape are wanted");
    return result_like(g, node, node->source[0]);
}

static int shape_sum_to(scbm_graph *g, scbm_node *node) {
    const int64_t one = 1;
    if (!is_f32(node->source[0])) return misfit(g, node, "f32 is wanted");
    if (!node->source[1]) return add_result(g, node, SCBM_F32, 1, &one, NULL);
    if (!broadcasts_to(node->source[1], node->source[0]))
        return misfit(g, node, "the second shape must broadcast to the first");
    return result_like(g, node, node->source[1]);
}

static int shape_broadcast(scbm_graph *g, scbm_node *node) {
    if (!is_f32(node->source[0]) || !broadcasts_to(node->source[0], node->source[1]))
        return misfit(g, node, "the first shape must broadcast to the second");
    return result_like(g, node, node->source[1]);
}

static int shape_copy(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0];
    return add_result(g, node, a->type, a->n_dims, a->shape, a->extent);
}

static int shape_cast(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0];
    if (a->type > SCBM_BF16 || node->integer[0] < 0 || node->integer[0] > SCBM_BF16)
        return misfit(g, node, "casts are between f32, f16 and bf16");
    return add_result(g, node, (scbm_type)node->integer[0], a->n_dims, a->shape, a->extent);
}

static int shape_concat(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0], *b = node->source[1];
    int fits = is_f32(a) && is_f32(b) && a->n_dims == b->n_dims && !a->extent[last_of(a)] && !b->extent[last_of(b)];
    for (int i = 0; fits && i < last_of(a); i++) fits = same_dim(a, i, b, i);
    if (!fits) return misfit(g, node, "two f32 tensors that differ in the last dimension alone are wanted");
    return result_with(g, node, a, last_of(a), a->shape[last_of(a)] + b->shape[last_of(b)]);
}

static int shape_slice(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0];
    int64_t first = node->integer[0], count = node->integer[1];
    if (!is_f32(a) || a->extent[last_of(a)] || first < 0 || count < 0 || first > a->shape[last_of(a)] - count)
        return misfit(g, node, "the slice must lie inside the last dimension of an f32 tensor");
    return result_with(g, node, a, last_of(a), count);
}

static int shape_slice_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *like = node->source[1];
    int64_t first = node->integer[0];
    int fits = is_f32(dy) && dy->n_dims == like->n_dims && first >= 0 && !dy->extent[last_of(dy)] &&
               !like->extent[last_of(like)] && first <= like->shape[last_of(like)] - dy->shape[last_of(dy)];
    for (int i = 0; fits && i < last_of(dy); i++) fits = same_dim(dy, i, like, i);
    if (!fits) return misfit(g, node, "dy and what was sliced are wanted");
    return result_like(g, node, like);
}

/* x [N, in] or [S, N, in]; w [out, in]; masks [S, out, row bytes]. */
static int masks_fit(const scbm_tensor *masks, const scbm_tensor *w) {
    return masks->type == SCBM_I8 && masks->n_dims == 3 && !masks->extent[0] && !masks->extent[1] &&
           !masks->extent[2] && masks->shape[1] == w->shape[0] && masks->shape[2] == scbm_mask_row_bytes(w->shape[1]);
}

int64_t scbm_mask_row_bytes(int64_t in) {
    return (in + 63) / 64 * 8;
}

static int is_activations(const scbm_tensor *x) {
    return is_f32(x) && (x->n_dims == 2 || (x->n_dims == 3 && !x->extent[0])) && !x->extent[last_of(x)];
}

static int64_t streams_of(const scbm_tensor *x) {
    return x->n_dims == 3 ? x->shape[0] : 1;
}

static int shape_linear(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0], *w = node->source[1], *b = node->source[2], *masks = node->source[3];
    if (!is_activations(x) || !is_matrix(w) || x->shape[last_of(x)] != w->shape[1])
        return misfit(g, node, "x f32 [S, T, in] and w [out, in] are wanted");
    if (b && (!is_f32(b) || !is_vector(b, w->shape[0]))) return misfit(g, node, "the bias must be f32 [out]");
    if (node->integer[0] < SCBM_NONE || node->integer[0] > SCBM_SIGMOID)
        return misfit(g, node, "the activation is unknown");
    if (!masks) return result_with(g, node, x, last_of(x), w->shape[0]);
    if (!masks_fit(masks, w) || x->n_dims != 3 || (x->shape[0] != 1 && x->shape[0] != masks->shape[0]))
        return misfit(g, node, "masks must be i8 [S, out, row bytes] under x [S or 1, T, in]");
    int64_t shape[3] = {masks->shape[0], x->shape[1], w->shape[0]};
    uint8_t extent[3] = {SCBM_FIXED, x->extent[1], SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 3, shape, extent);
}

static int shape_linear_back_x(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *w = node->source[1], *masks = node->source[2];
    if (!is_activations(dy) || !is_matrix(w) || dy->shape[last_of(dy)] != w->shape[0])
        return misfit(g, node, "dy f32 [S, T, out] and w [out, in] are wanted");
    if (masks && (!masks_fit(masks, w) || dy->n_dims != 3 || dy->shape[0] != masks->shape[0]))
        return misfit(g, node, "masks must be i8 [S, out, row bytes]");
    return result_with(g, node, dy, last_of(dy), w->shape[1]);
}

static int shape_linear_back_w(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *x = node->source[1], *w = node->source[2], *masks = node->source[3];
    int64_t mode = node->integer[0];
    if (!is_activations(dy) || !is_activations(x) || dy->n_dims != x->n_dims || !is_matrix(w) ||
        !same_dim(dy, last_of(dy) - 1, x, last_of(x) - 1) || dy->shape[last_of(dy)] != w->shape[0] ||
        x->shape[last_of(x)] != w->shape[1] || (streams_of(x) != 1 && streams_of(x) != streams_of(dy)))
        return misfit(g, node, "dy f32 [S, T, out], x f32 [S or 1, T, in] and w [out, in] are wanted");
    if (masks && (!masks_fit(masks, w) || masks->shape[0] != streams_of(dy)))
        return misfit(g, node, "masks must be i8 [S, out, row bytes]");
    if (mode < SCBM_DW_SUMMED || mode > SCBM_DW_DENSE) return misfit(g, node, "the mode is unknown");
    if (mode == SCBM_DW_SUMMED) return result_like(g, node, w);
    int64_t shape[3] = {streams_of(dy), w->shape[0], w->shape[1]};
    return add_result(g, node, SCBM_F32, 3, shape, NULL);
}

static int is_factor(const scbm_tensor *t) {
    return t->n_dims == 2 || (t->n_dims == 3 && !t->extent[0]);
}

static int product_fits(const scbm_tensor *a, const scbm_tensor *b, int form) {
    if (!is_f32(a) || !is_factor(a) || !is_factor(b) || (!is_f32(b) && !is_matrix(b))) return 0;
    int summed_a = form == SCBM_PRODUCT_TN ? a->n_dims - 2 : last_of(a);
    int summed_b = form == SCBM_PRODUCT_NT ? last_of(b) : b->n_dims - 2;
    return same_dim(a, summed_a, b, summed_b) &&
           (streams_of(a) == streams_of(b) || streams_of(a) == 1 || streams_of(b) == 1);
}

static int shape_product(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0], *b = node->source[1];
    int form = (int)node->integer[0];
    if (node->integer[0] < SCBM_PRODUCT_NT || node->integer[0] > SCBM_PRODUCT_TN)
        return misfit(g, node, "the form is unknown");
    if (!product_fits(a, b, form))
        return misfit(g, node,
                      "a f32 [S, ., .] and b f32 [S, ., .], or a matrix, with one summed dimension are wanted");
    int rows = form == SCBM_PRODUCT_TN ? last_of(a) : a->n_dims - 2;
    int columns = form == SCBM_PRODUCT_NT ? b->n_dims - 2 : last_of(b);
    int64_t streams = streams_of(a) == 1 ? streams_of(b) : streams_of(a); /* there may be none */
    int64_t shape[3] = {streams, a->shape[rows], b->shape[columns]};
    uint8_t extent[3] = {SCBM_FIXED, a->extent[rows], b->extent[columns]};
    int is_flat = a->n_dims == 2 && b->n_dims == 2;
    return add_result(g, node, SCBM_F32, is_flat ? 2 : 3, shape + is_flat, extent + is_flat);
}

static int shape_apply_masks(scbm_graph *g, scbm_node *node) {
    scbm_tensor *w = node->source[0], *masks = node->source[1];
    int by_stream = w->n_dims == 3;
    int fits = by_stream ? is_f32(w) && !w->extent[0] && !w->extent[1] && !w->extent[2] : is_matrix(w);
    if (!fits || masks->type != SCBM_I8 || masks->n_dims != 3 || masks->extent[0] || masks->extent[1] ||
        masks->extent[2] || (by_stream && masks->shape[0] != w->shape[0]) || masks->shape[1] != w->shape[by_stream] ||
        masks->shape[2] != scbm_mask_row_bytes(w->shape[1 + by_stream]))
        return misfit(g, node, "w [out, in], or f32 [S, out, in], and masks i8 [S, out, row bytes] are wanted");
    int64_t shape[3] = {masks->shape[0], w->shape[by_stream], w->shape[1 + by_stream]};
    return add_result(g, node, SCBM_F32, 3, shape, NULL);
}

static int shape_sum_masked(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dw = node->source[0], *masks = node->source[1];
    if (!is_f32(dw) || dw->n_dims != 3 || dw->extent[0] || dw->extent[1] || dw->extent[2] || masks->type != SCBM_I8 ||
        masks->n_dims != 3 || masks->extent[0] || masks->extent[1] || masks->extent[2] ||
        masks->shape[0] != dw->shape[0] || masks->shape[1] != dw->shape[1] ||
        masks->shape[2] != scbm_mask_row_bytes(dw->shape[2]))
        return misfit(g, node, "dw f32 [S, out, in] and masks i8 [S, out, row bytes] are wanted");
    return add_result(g, node, SCBM_F32, 2, dw->shape + 1, NULL);
}

/* z [S, N, d] with one stream, or one for each group; w [C, d]. */
static int heads_fit(const scbm_tensor *z, const scbm_tensor *w, const scbm_tensor *groups) {
    return is_f32(z) && z->n_dims == 3 && !z->extent[0] && !z->extent[2] && is_f32(w) && is_matrix(w) &&
           w->shape[1] == z->shape[2] && is_groups(groups) && (z->shape[0] == 1 || z->shape[0] == groups->shape[0] - 1);
}

static int shape_group_linear(scbm_graph *g, scbm_node *node) {
    scbm_tensor *z = node->source[0], *w = node->source[1], *groups = node->source[2], *b = node->source[3];
    if (!heads_fit(z, w, groups) || (b && (!is_f32(b) || !is_vector(b, w->shape[0]))))
        return misfit(g, node, "z f32 [1 or K, N, d], w f32 [C, d], groups i32 [K + 1] and a bias f32 [C] are wanted");
    int64_t shape[2] = {z->shape[1], w->shape[0]};
    uint8_t extent[2] = {z->extent[1], SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 2, shape, extent);
}

/* dy [N, C] of group_linear's result. */
static int head_gradient_fits(const scbm_tensor *dy, const scbm_tensor *z, const scbm_tensor *w) {
    return is_f32(dy) && dy->n_dims == 2 && !dy->extent[1] && dy->shape[1] == w->shape[0] && same_dim(dy, 0, z, 1);
}

static int shape_group_linear_back_z(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *w = node->source[1], *groups = node->source[2], *z = node->source[3];
    if (!heads_fit(z, w, groups) || !head_gradient_fits(dy, z, w))
        return misfit(g, node, "dy [N, C], w [C, d], groups i32 [K + 1] and z [1 or K, N, d] are wanted");
    return result_like(g, node, z);
}

static int shape_group_linear_back_w(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *z = node->source[1], *groups = node->source[2], *w = node->source[3];
    if (!heads_fit(z, w, groups) || !head_gradient_fits(dy, z, w))
        return misfit(g, node, "dy [N, C], z [1 or K, N, d], groups i32 [K + 1] and w [C, d] are wanted");
    return result_like(g, node, w);
}

static int norm_fits(const scbm_tensor *x, const scbm_tensor *gamma, const scbm_tensor *beta) {
    int64_t d = x->shape[last_of(x)];
    return is_f32(x) && !x->extent[last_of(x)] && is_f32(gamma) && is_vector(gamma, d) &&
           (!beta || (is_f32(beta) && is_vector(beta, d)));
}

static int norm_results(scbm_graph *g, scbm_node *node, const scbm_tensor *x) {
    return result_like(g, node, x) && result_with(g, node, x, last_of(x), 1) && result_with(g, node, x, last_of(x), 1);
}

static int shape_layer_norm(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0];
    if (!norm_fits(x, node->source[1], node->source[2]))
        return misfit(g, node, "x f32 [.., d], gamma and beta f32 [d] are wanted");
    return norm_results(g, node, x);
}

static int shape_add_layer_norm(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0];
    if (!is_f32(node->source[1]) || !broadcasts_to(node->source[1], x) ||
        !norm_fits(x, node->source[2], node->source[3]))
        return misfit(g, node, "x f32 [.., d], a residual that broadcasts to it, gamma and beta f32 [d] are wanted");
    return norm_results(g, node, x);
}

static scbm_tensor *source_of(const scbm_node *node, int i) {
    return i < node->n_sources ? node->source[i] : NULL;
}

/* One number for each row of x [.., d]: [.., 1]. */
static int is_row_statistic(const scbm_tensor *t, const scbm_tensor *x) {
    int fits = is_f32(t) && t->n_dims == x->n_dims && t->shape[last_of(t)] == 1 && !t->extent[last_of(t)];
    for (int i = 0; fits && i < last_of(x); i++) fits = same_dim(t, i, x, i);
    return fits;
}

static int shape_layer_norm_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *x = node->source[1], *gamma = node->source[2];
    if (!is_f32(dy) || !same_shape(dy, x) || !norm_fits(x, gamma, NULL) || !is_row_statistic(node->source[3], x) ||
        !is_row_statistic(node->source[4], x))
        return misfit(g, node, "dy, x, gamma, mean and rstd are wanted");
    return result_like(g, node, x) && result_like(g, node, gamma) && result_like(g, node, gamma);
}

static int shape_activate(scbm_graph *g, scbm_node *node) {
    if (node->integer[0] <= SCBM_NONE || node->integer[0] > SCBM_SIGMOID)
        return misfit(g, node, "the activation is unknown");
    return shape_same_f32(g, node);
}

/* The random numbers' stream has 16 bits for the place and 16 for attention's streams and heads. */
static int dropout_fits(float p, int64_t place) {
    return p >= 0.0f && p < 1.0f && place >= 0 && place <= UINT16_MAX;
}

static int shape_dropout(scbm_graph *g, scbm_node *node) {
    const scbm_tensor *x = node->source[0];
    if (!dropout_fits(node->scalar[0], node->integer[0]))
        return misfit(g, node, "the probability must be at least 0 and below 1, the place below 65536");
    if (node->integer[1] && (x->n_dims != 4 || x->shape[0] * x->shape[1] > UINT16_MAX))
        return misfit(g, node, "attention's dropout is of f32 [S, heads, T, C], S · heads below 65536");
    return shape_same_f32(g, node);
}

static int shape_softmax(scbm_graph *g, scbm_node *node) {
    if (node->source[0]->extent[last_of(node->source[0])]) return misfit(g, node, "the last dimension must be fixed");
    return shape_same_f32(g, node);
}

/* [S, T, heads · size] */
static int is_headed(const scbm_tensor *x, int64_t heads) {
    return is_f32(x) && x->n_dims == 3 && !x->extent[0] && !x->extent[2] && heads > 0 && x->shape[2] % heads == 0;
}

/* f32 [1, 2 C - 1, heads]: for the distances of the tokens of texts of at most C tokens. */
static int is_distance_bias(const scbm_tensor *bias, int64_t heads) {
    return is_f32(bias) && bias->n_dims == 3 && bias->shape[0] == 1 && bias->shape[1] % 2 == 1 &&
           bias->shape[2] == heads && !bias->extent[0] && !bias->extent[1] && !bias->extent[2];
}

/* RMS norm: y, and 1 / rms of each row. */
static int shape_rms_norm(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0];
    if (!norm_fits(x, node->source[1], NULL)) return misfit(g, node, "x f32 [.., d] and gamma f32 [d] are wanted");
    return result_like(g, node, x) && result_with(g, node, x, last_of(x), 1);
}

static int shape_rms_norm_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *x = node->source[1], *gamma = node->source[2];
    if (!is_f32(dy) || !same_shape(dy, x) || !norm_fits(x, gamma, NULL) || !is_row_statistic(node->source[3], x))
        return misfit(g, node, "dy, x, gamma and rstd are wanted");
    return result_like(g, node, x) && result_like(g, node, gamma);
}

static int shape_attention(scbm_graph *g, scbm_node *node) {
    scbm_tensor *q = node->source[0];
    int64_t heads = node->integer[0];
    if (!is_headed(q, heads) || !same_shape(q, node->source[1]) || !is_f32(node->source[1]) ||
        !same_shape(q, node->source[2]) || !is_f32(node->source[2]) || !is_offsets(g, node->source[3]))
        return misfit(g, node, "q, k, v f32 [S, T, heads · size] and offsets i32 [texts + 1] are wanted");
    if (source_of(node, 4) && !is_distance_bias(node->source[4], heads))
        return misfit(g, node, "the bias must be f32 [1, 2 C - 1, heads]");
    if (!dropout_fits(node->scalar[1], node->integer[2]) || q->shape[0] > UINT16_MAX / heads)
        return misfit(g, node, "dropout must be at least 0 and below 1, its place and S · heads below 65536");
    int64_t shape[3] = {q->shape[0], heads, q->shape[1]};
    uint8_t extent[3] = {SCBM_FIXED, SCBM_FIXED, q->extent[1]};
    return result_like(g, node, q) && add_result(g, node, SCBM_F32, 3, shape, extent);
}

static int shape_attention_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *lse = node->source[5];
    int fits = is_headed(dy, node->integer[0]) && is_f32(lse) && lse->n_dims == 3 && same_dim(lse, 0, dy, 0) &&
               lse->shape[1] == node->integer[0] && same_dim(lse, 2, dy, 1) && is_offsets(g, node->source[6]) &&
               dropout_fits(node->scalar[1], node->integer[2]) && dy->shape[0] <= UINT16_MAX / node->integer[0];
    for (int i = 1; i < 5 && fits; i++) fits = is_f32(node->source[i]) && same_shape(node->source[i], dy);
    scbm_tensor *bias = source_of(node, 7);
    if (!fits || (bias && !is_distance_bias(bias, node->integer[0])))
        return misfit(g, node, "dy, y, q, k, v of one shape, the log-sum-exp, offsets and maybe a bias are wanted");
    for (int i = 0; i < 3; i++)
        if (!result_like(g, node, dy)) return 0;
    return !bias || result_like(g, node, bias);
}

static int shape_attention_scores(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0];
    int64_t heads = node->integer[0], context = node->integer[2];
    if (!is_headed(a, heads) || !is_f32(node->source[1]) || !same_shape(a, node->source[1]) ||
        !is_offsets(g, node->source[2]) || context < 1)
        return misfit(g, node, "a, b f32 [S, T, heads · size] and offsets i32 [texts + 1] are wanted");
    int64_t shape[4] = {a->shape[0], heads, a->shape[1], context};
    uint8_t extent[4] = {SCBM_FIXED, SCBM_FIXED, a->extent[1], SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 4, shape, extent);
}

/* The biases as scores have them: [1, heads, T, C]. */
static int shape_attention_bias(scbm_graph *g, scbm_node *node) {
    scbm_tensor *bias = node->source[0];
    int64_t heads = bias->shape[bias->n_dims - 1], context = node->integer[0];
    if (!is_distance_bias(bias, heads) || !is_offsets(g, node->source[1]) || context < 1)
        return misfit(g, node, "a bias f32 [1, 2 C - 1, heads] and offsets i32 [texts + 1] are wanted");
    int64_t shape[4] = {1, heads, g->max_tokens, context};
    uint8_t extent[4] = {SCBM_FIXED, SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 4, shape, extent);
}

static int shape_attention_bias_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *bias = node->source[2];
    int64_t heads = bias->shape[bias->n_dims - 1];
    if (!is_f32(dy) || dy->n_dims != 4 || dy->shape[0] != 1 || dy->shape[1] != heads || dy->extent[2] != SCBM_TOKENS ||
        !is_offsets(g, node->source[1]) || !is_distance_bias(bias, heads))
        return misfit(g, node, "dy f32 [1, heads, T, C], offsets i32 [texts + 1] and the bias are wanted");
    return result_like(g, node, bias);
}

static int shape_attention_mix(scbm_graph *g, scbm_node *node) {
    scbm_tensor *p = node->source[0], *b = node->source[1];
    if (!is_f32(p) || p->n_dims != 4 || !is_headed(b, node->integer[0]) || p->shape[1] != node->integer[0] ||
        p->shape[0] != b->shape[0] || !same_dim(p, 2, b, 1) || !is_offsets(g, node->source[2]))
        return misfit(g, node, "p f32 [S, heads, T, C], b f32 [S, T, heads · size] and offsets are wanted");
    return result_like(g, node, b);
}

static int is_tokens(const scbm_tensor *x) {
    return is_f32(x) && x->n_dims == 3 && !x->extent[0] && x->extent[1] == SCBM_TOKENS && !x->extent[2];
}

static int shape_segment(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0];
    if (!is_tokens(x) || !is_offsets(g, node->source[1]))
        return misfit(g, node, "x f32 [S, tokens, d] and offsets i32 [texts + 1] are wanted");
    int64_t shape[3] = {x->shape[0], g->max_texts, x->shape[2]};
    const uint8_t extent[3] = {SCBM_FIXED, SCBM_TEXTS, SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 3, shape, extent);
}

static int shape_segment_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *x = node->source[2];
    if (!is_f32(dy) || dy->n_dims != 3 || dy->extent[1] != SCBM_TEXTS || !is_offsets(g, node->source[1]) ||
        !is_tokens(x) || x->shape[0] != dy->shape[0] || x->shape[2] != dy->shape[2])
        return misfit(g, node, "dy [S, texts, d], offsets and x [S, tokens, d] are wanted");
    return result_like(g, node, x);
}

/* w [4H, H] with masks of as many streams as y [S, T, H], or without. */
static int lstm_fits(const scbm_graph *g, const scbm_tensor *w, const scbm_tensor *offsets, const scbm_tensor *masks) {
    return is_matrix(w) && w->shape[0] == 4 * w->shape[1] && is_offsets(g, offsets) && (!masks || masks_fit(masks, w));
}

static int shape_lstm(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0], *w = node->source[1], *masks = node->source[3];
    if (!is_tokens(x) || !lstm_fits(g, w, node->source[2], masks) || x->shape[2] != w->shape[0] ||
        (masks && x->shape[0] != 1 && x->shape[0] != masks->shape[0]))
        return misfit(g, node, "x f32 [S or 1, tokens, 4H], w [4H, H], offsets and masks of w are wanted");
    const int64_t S = masks ? masks->shape[0] : x->shape[0], H = w->shape[1];
    const int64_t state[3] = {S, g->max_tokens, H}, gates[3] = {S, g->max_tokens, 4 * H};
    const uint8_t extent[3] = {SCBM_FIXED, SCBM_TOKENS, SCBM_FIXED};
    return add_result(g, node, SCBM_F32, 3, state, extent) && add_result(g, node, SCBM_F32, 3, gates, extent) &&
           add_result(g, node, SCBM_F32, 3, state, extent);
}

static int shape_lstm_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dy = node->source[0], *gates = node->source[2], *w = node->source[4], *masks = node->source[6];
    if (!is_tokens(dy) || !same_shape(node->source[1], dy) || !is_f32(node->source[1]) || !is_tokens(gates) ||
        !same_shape(node->source[3], dy) || !is_f32(node->source[3]) || !lstm_fits(g, w, node->source[5], masks) ||
        dy->shape[2] != w->shape[1] || gates->shape[0] != dy->shape[0] || gates->shape[2] != w->shape[0] ||
        (masks && masks->shape[0] != dy->shape[0]))
        return misfit(g, node,
                      "dy, y and cells f32 [S, tokens, H], gates [S, tokens, 4H], w [4H, H], offsets and masks "
                      "of w are wanted");
    return result_like(g, node, gates) && result_like(g, node, dy);
}

static int shape_mix_texts(scbm_graph *g, scbm_node *node) {
    scbm_tensor *x = node->source[0], *permutation = node->source[1], *beta = node->source[2];
    if (!is_f32(x) || x->n_dims != 3 || permutation->type != SCBM_I32 || permutation->n_dims != 1 ||
        !same_dim(permutation, 0, x, 1) || !is_f32(beta) || !is_vector(beta, 1))
        return misfit(g, node, "x f32 [S, N, d], a permutation i32 [N] and beta f32 [1] are wanted");
    return result_like(g, node, x);
}

static int targets_fit(const scbm_tensor *logits, const scbm_tensor *targets, const scbm_tensor *groups) {
    if (targets->n_dims != 2 || !same_dim(targets, 0, logits, 0) || targets->extent[1]) return 0;
    if (targets->type == SCBM_I32) return targets->shape[1] == groups->shape[0] - 1;
    return targets->type == SCBM_F32 && targets->shape[1] == logits->shape[1];
}

static int shape_cross_entropy(scbm_graph *g, scbm_node *node) {
    const int64_t one = 1;
    scbm_tensor *logits = node->source[0], *groups = node->source[2], *weights = node->source[3];
    if (!is_f32(logits) || logits->n_dims != 2 || logits->extent[1] || !is_groups(groups) ||
        !targets_fit(logits, node->source[1], groups) ||
        (weights && (!is_f32(weights) || !is_vector(weights, logits->shape[1]))))
        return misfit(g, node, "logits f32 [N, C], targets i32 [N, K] or f32 [N, C], groups i32 [K + 1] are wanted");
    return add_result(g, node, SCBM_F32, 1, &one, NULL) && result_like(g, node, logits) &&
           add_result(g, node, SCBM_F32, 1, &one, NULL);
}

static int shape_cross_entropy_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dloss = node->source[0], *p = node->source[1], *total = node->source[2], *weights = node->source[5];
    if (!is_f32(dloss) || !is_vector(dloss, 1) || !is_f32(p) || p->n_dims != 2 || p->extent[1] || !is_f32(total) ||
        !is_vector(total, 1) || !is_groups(node->source[4]) || !targets_fit(p, node->source[3], node->source[4]) ||
        (weights && (!is_f32(weights) || !is_vector(weights, p->shape[1]))))
        return misfit(g, node, "the loss's gradient, probabilities, total weight, targets and groups are wanted");
    return result_like(g, node, p);
}

/* A tensor of the caller's, whose shape is no batch's. */
static int is_fixed(const scbm_tensor *t) {
    for (int i = 0; i < t->n_dims; i++)
        if (t->extent[i]) return 0;
    return 1;
}

static int shape_accumulate(scbm_graph *g, scbm_node *node) {
    scbm_tensor *sum = node->source[0], *a = node->source[1], *keep = node->source[2];
    if (!is_f32(sum) || !is_f32(a) || !same_shape(sum, a) || !is_f32(keep) || !is_vector(keep, 1))
        return misfit(g, node, "a sum and what is added to it, f32 of one shape, and f32 [1] are wanted");
    return 1;
}

/* F32 [n, 2] */
static int is_pairs(const scbm_tensor *t) {
    return is_f32(t) && t->n_dims == 2 && is_fixed(t) && t->shape[1] == 2;
}

static int shape_square_sum(scbm_graph *g, scbm_node *node) {
    scbm_tensor *a = node->source[0], *norms = node->source[1];
    if (!is_f32(a) || !is_pairs(norms) || node->integer[0] < 0 || node->integer[0] >= norms->shape[0])
        return misfit(g, node, "f32 numbers, and norms f32 [n, 2] of which one is meant, are wanted");
    return 1;
}

static int shape_clip(scbm_graph *g, scbm_node *node) {
    const int64_t three = 3;
    scbm_tensor *norms = node->source[0], *stopped = node->source[1];
    if (!is_pairs(norms) || !is_f32(stopped) || !is_vector(stopped, 1))
        return misfit(g, node, "norms f32 [n, 2] and f32 [1] are wanted");
    return add_result(g, node, SCBM_F32, 1, &three, NULL);
}

/* What stands before the parameters' own numbers in what adamw reads. */
enum { ADAMW_RATE, ADAMW_CORRECTION1, ADAMW_CORRECTION2, ADAMW_BETA1, ADAMW_BETA2, ADAMW_EPSILON, ADAMW_OF_PARAMETERS };

static int shape_adamw(scbm_graph *g, scbm_node *node) {
    scbm_tensor *w = node->source[0], *numbers = node->source[4], *clip = node->source[5];
    int fits = is_f32(w) && is_fixed(w) && is_f32(numbers) && is_f32(clip) && is_vector(clip, 3);
    for (int i = 1; i < 4 && fits; i++) fits = is_f32(node->source[i]) && same_shape(node->source[i], w);
    int64_t last = ADAMW_OF_PARAMETERS + 2 * node->integer[0] + 1;
    if (!fits || numbers->n_dims != 1 || numbers->extent[0] || node->integer[0] < 0 || last >= numbers->shape[0])
        return misfit(g, node, "w, m, v and g, f32 of one shape, numbers f32 [6 + 2 n] and clip's f32 [3] are wanted");
    return 1;
}

/* F32 [S, out, in] */
static int is_by_stream(const scbm_tensor *t) {
    return is_f32(t) && t->n_dims == 3 && is_fixed(t);
}

static int is_of_weights(const scbm_tensor *t, const scbm_tensor *w) {
    return is_by_stream(t) && is_matrix(w) && t->shape[1] == w->shape[0] && t->shape[2] == w->shape[1];
}

/* Sums F64 [S, blocks, B (B + 1) / 2] of matrices [S, out, in]. */
static int are_fisher_sums(const scbm_tensor *sums, int64_t streams, int64_t weights, int64_t block) {
    return sums->type == SCBM_F64 && sums->n_dims == 3 && is_fixed(sums) && block >= 1 && block <= 4096 &&
           sums->shape[0] == streams && sums->shape[1] == (weights + block - 1) / block &&
           sums->shape[2] == block * (block + 1) / 2;
}

static int shape_fisher_add(scbm_graph *g, scbm_node *node) {
    scbm_tensor *sums = node->source[0], *dw = node->source[1];
    if (!is_by_stream(dw) || !are_fisher_sums(sums, dw->shape[0], dw->shape[1] * dw->shape[2], node->integer[0]))
        return misfit(g, node,
                      "sums f64 [S, blocks, B (B + 1) / 2] of blocks of B weights and dw f32 [S, out, in] are wanted");
    return 1;
}

static int shape_row_saliency(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dw = node->source[0];
    if (!is_of_weights(dw, node->source[1])) return misfit(g, node, "dw f32 [S, out, in] and w [out, in] are wanted");
    return add_result(g, node, SCBM_F32, 2, dw->shape, NULL);
}

static int shape_popup_back(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dw = node->source[0], *w = node->source[1], *masks = node->source[3];
    if (!is_of_weights(dw, w) || !is_f32(w) || !is_f32(node->source[2]) || !same_shape(node->source[2], dw) ||
        !masks_fit(masks, w) || masks->shape[0] != dw->shape[0])
        return misfit(g, node, "dw f32 [S, out, in], w f32 [out, in], scores like dw and their masks are wanted");
    return result_like(g, node, dw) && result_like(g, node, w);
}

static int are_numbers(const scbm_tensor *t, scbm_type type, int64_t n) {
    return t->type == type && is_vector(t, n);
}

static int shape_fisher_scores(scbm_graph *g, scbm_node *node) {
    scbm_tensor *sums = node->source[0], *w = node->source[1], *masks = node->source[2];
    if (!is_matrix(w) || !is_f32(w) || !masks_fit(masks, w) ||
        !are_fisher_sums(sums, masks->shape[0], w->shape[0] * w->shape[1], node->integer[0]) ||
        !are_numbers(node->source[3], SCBM_F64, 3))
        return misfit(g, node,
                      "sums f64 [S, blocks, B (B + 1) / 2], w f32 [out, in], masks and numbers f64 [3] are wanted");
    int64_t shape[3] = {masks->shape[0], w->shape[0], w->shape[1]};
    return add_result(g, node, SCBM_F64, 3, shape, NULL);
}

/* I8 [S, out, row bytes] over a matrix whose places are numbers of 32 bits. */
static int are_masks_of(const scbm_tensor *masks, int64_t out, int64_t in) {
    return masks->type == SCBM_I8 && masks->n_dims == 3 && is_fixed(masks) && masks->shape[1] == out &&
           masks->shape[2] == scbm_mask_row_bytes(in) && (out == 0 || 8 * masks->shape[2] <= INT32_MAX / out);
}

/* Scores for every weight of the masks; by rows they are floats. */
static int are_scores(const scbm_tensor *score, const scbm_tensor *masks, int64_t choice) {
    int first = score->n_dims == 3;
    if (!is_fixed(score) || score->n_dims < 2 || score->n_dims > 3 || choice < 0 || choice > 3) return 0;
    if (!are_masks_of(masks, score->shape[first], score->shape[first + 1])) return 0;
    if (first && score->shape[0] != masks->shape[0]) return 0;
    return is_f32(score) || (score->type == SCBM_F64 && first && !(choice & SCBM_KEEP_ROWS));
}

static int shape_keep_largest(scbm_graph *g, scbm_node *node) {
    if (!are_scores(node->source[0], node->source[1], node->integer[0]) || !are_numbers(node->source[2], SCBM_I32, 1))
        return misfit(g, node, "scores f64 or f32 [S, out, in], their masks and a number i32 [1] are wanted");
    return 1;
}

static int shape_agree(scbm_graph *g, scbm_node *node) {
    scbm_tensor *before = node->source[1], *after = node->source[2];
    if (!are_scores(node->source[0], before, 0) || after->type != SCBM_I8 || !same_shape(before, after) ||
        !are_numbers(node->source[3], SCBM_I32, 1))
        return misfit(g, node,
                      "scores f64 or f32 [S, out, in], masks before and after and a number i32 [1] are wanted");
    return add_result(g, node, SCBM_I32, 1, before->shape, NULL);
}

/* I32 [n, 2] of which one is meant, and as many counts. */
static int are_wanted(const scbm_tensor *wanted, const scbm_tensor *counts, int64_t which) {
    return wanted->type == SCBM_I32 && wanted->n_dims == 2 && is_fixed(wanted) && wanted->shape[1] == 2 && which >= 0 &&
           which < wanted->shape[0] && are_numbers(counts, SCBM_I32, wanted->shape[0]);
}

static int are_moves(const scbm_tensor *moves) {
    return moves->type == SCBM_I32 && moves->n_dims == 2 && is_fixed(moves) && moves->shape[0] == 2;
}

static int shape_mask_moves(scbm_graph *g, scbm_node *node) {
    scbm_tensor *dw = node->source[0], *w = node->source[1], *masks = node->source[2];
    if (!is_of_weights(dw, w) || dw->shape[0] != 1 || !are_masks_of(masks, w->shape[0], w->shape[1]) ||
        masks->shape[0] != 1 || !are_wanted(node->source[3], node->source[5], node->integer[0]) ||
        !are_moves(node->source[4]))
        return misfit(g, node,
                      "dw f32 [1, out, in], w, its mask, i32 [n, 2], moves i32 [2, q] and counts i32 [n] are wanted");
    return 1;
}

static int shape_flip_bits(scbm_graph *g, scbm_node *node) {
    scbm_tensor *masks = node->source[0];
    if (masks->type != SCBM_I8 || masks->n_dims != 3 || !is_fixed(masks) || masks->shape[0] != 1 ||
        !are_moves(node->source[1]) || !are_wanted(node->source[3], node->source[2], node->integer[0]))
        return misfit(g, node,
                      "a mask i8 [1, out, row bytes], moves i32 [2, q], counts i32 [n] and i32 [n, 2] are wanted");
    return 1;
}

/* ------------------------------------------------------------------------------------------
 * The op table: backward rules. Each builds the nodes of its sources' gradients.
 * ---------------------------------------------------------------------------------------- */

static scbm_node *add_node(scbm_graph *g, scbm_op op, const float *scalar, const int64_t *integer, int n_sources,
                           scbm_tensor *const *sources) {
    return scbm_graph_add(g, op, n_sources, sources, scalar, integer);
}

#define NODE(g, op, scalar, integer, ...)                                                                              \
    add_node(g, op, scalar, integer, (int)(sizeof((scbm_tensor *[]){__VA_ARGS__}) / sizeof(scbm_tensor *)),            \
             (scbm_tensor *[]){__VA_ARGS__})

static scbm_tensor *result_of(scbm_node *node) {
    return node ? node->result[0] : NULL;
}

static int needs_gradient(const scbm_graph *g, const scbm_tensor *tensor) {
    if (!tensor) return 0;
    const graph_tensor *ours = graph_tensor_of(g, tensor);
    if (ours) return ours->needs_gradient;
    const graph_external *external = find_external(g, tensor);
    return external && external->needs_gradient;
}

static scbm_tensor **gradient_slot(scbm_graph *g, const scbm_tensor *tensor) {
    graph_tensor *ours = graph_tensor_of(g, tensor);
    if (ours) return &ours->gradient;
    graph_external *external = find_external(g, tensor);
    return external ? &external->gradient : NULL;
}

/* Adds `gradient` to what the tensor's gradient is so far. */
static void add_gradient(scbm_graph *g, scbm_tensor *tensor, scbm_tensor *gradient) {
    if (!gradient || !needs_gradient(g, tensor)) return;
    scbm_tensor *so_far = *gradient_slot(g, tensor);
    scbm_tensor *sum = so_far ? scbm_add(g, so_far, gradient) : gradient;
    *gradient_slot(g, tensor) = sum; /* looked up anew: building may have moved the externals */
}

/* `gradient` summed down to the source's shape where the op broadcast it. */
static void add_broadcast_gradient(scbm_graph *g, scbm_tensor *source, scbm_tensor *gradient) {
    if (!gradient || !needs_gradient(g, source)) return;
    add_gradient(g, source, same_shape(source, gradient) ? gradient : scbm_sum_to(g, gradient, source));
}

static void backward_get_rows(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    if (!needs_gradient(g, node->source[0])) return;
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_GET_ROWS_BACK, NULL, NULL, dy[0], node->source[1], node->source[0])));
}

static void backward_add(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], dy[0]);
    add_broadcast_gradient(g, node->source[1], dy[0]);
}

static void backward_mul(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *a = node->source[0], *b = node->source[1];
    if (needs_gradient(g, a)) add_gradient(g, a, scbm_mul(g, dy[0], b));
    if (needs_gradient(g, b)) add_broadcast_gradient(g, b, scbm_mul(g, dy[0], a));
}

static void backward_scale(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], scbm_scale(g, dy[0], node->scalar[0]));
}

static void backward_sum_to(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_BROADCAST, NULL, node->integer, dy[0], node->source[0])));
}

static void backward_broadcast(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], result_of(NODE(g, SCBM_OP_SUM_TO, NULL, node->integer, dy[0], node->source[0])));
}

static void backward_reshape(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *a = node->source[0];
    scbm_extent extent[SCBM_MAX_DIMS];
    for (int i = 0; i < a->n_dims; i++) extent[i] = (scbm_extent)a->extent[i];
    add_gradient(g, a, scbm_reshape(g, dy[0], a->n_dims, a->shape, extent));
}

static void backward_copy(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], dy[0]);
}

static void backward_cast(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], dy[0]->type == SCBM_F32 ? dy[0] : scbm_cast(g, dy[0], SCBM_F32));
}

static void backward_concat(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    int64_t na = node->source[0]->shape[last_of(node->source[0])],
            nb = node->source[1]->shape[last_of(node->source[1])];
    if (needs_gradient(g, node->source[0])) add_gradient(g, node->source[0], scbm_slice(g, dy[0], 0, na));
    if (needs_gradient(g, node->source[1])) add_gradient(g, node->source[1], scbm_slice(g, dy[0], na, nb));
}

static void backward_slice(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_SLICE_BACK, NULL, node->integer, dy[0], node->source[0])));
}

static void backward_slice_back(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *a = node->source[0];
    add_gradient(g, a, scbm_slice(g, dy[0], node->integer[0], a->shape[last_of(a)]));
}

/* With an activation, the value before it is needed: it becomes the node's second result. */
static void backward_linear(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *x = node->source[0], *w = node->source[1], *b = node->source[2], *masks = node->source[3];
    scbm_tensor *dz = dy[0];
    if (node->integer[0] != SCBM_NONE) {
        if (node->n_results == 1) {
            if (!result_like(g, node, node->result[0])) return;
            node->result[1]->node = node->result[0]->node;
        }
        dz = result_of(NODE(g, SCBM_OP_ACTIVATE_BACK, NULL, node->integer, dy[0], node->result[1]));
    }
    if (!dz) return;
    if (needs_gradient(g, x))
        add_broadcast_gradient(g, x, result_of(NODE(g, SCBM_OP_LINEAR_BACK_X, NULL, NULL, dz, w, masks)));
    if (needs_gradient(g, w)) {
        /* stream by stream only where there are streams */
        const int64_t mode[4] = {x->n_dims == 3 ? g->weight_gradients : SCBM_DW_SUMMED, 0, 0, 0};
        add_gradient(g, w, result_of(NODE(g, SCBM_OP_LINEAR_BACK_W, NULL, mode, dz, x, w, masks)));
    }
    if (b) add_broadcast_gradient(g, b, dz);
}

static void backward_product(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *a = node->source[0], *b = node->source[1];
    scbm_product_form form = (scbm_product_form)node->integer[0];
    int in_precision = node->integer[1] != 0;
    if (needs_gradient(g, a))
        add_broadcast_gradient(g, a,
                               form == SCBM_PRODUCT_NT   ? scbm_product(g, dy[0], b, SCBM_PRODUCT_NN, in_precision)
                               : form == SCBM_PRODUCT_NN ? scbm_product(g, dy[0], b, SCBM_PRODUCT_NT, in_precision)
                                                         : scbm_product(g, b, dy[0], SCBM_PRODUCT_NT, in_precision));
    if (needs_gradient(g, b))
        add_broadcast_gradient(g, b,
                               form == SCBM_PRODUCT_NT   ? scbm_product(g, dy[0], a, SCBM_PRODUCT_TN, in_precision)
                               : form == SCBM_PRODUCT_NN ? scbm_product(g, a, dy[0], SCBM_PRODUCT_TN, in_precision)
                                                         : scbm_product(g, a, dy[0], SCBM_PRODUCT_NN, in_precision));
}

static void backward_apply_masks(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *w = node->source[0], *masks = node->source[1];
    if (!needs_gradient(g, w)) return;
    add_gradient(g, w, w->n_dims == 2 ? scbm_sum_masked(g, dy[0], masks) : scbm_apply_masks(g, dy[0], masks));
}

static void backward_sum_masked(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    if (needs_gradient(g, node->source[0]))
        add_gradient(g, node->source[0], scbm_apply_masks(g, dy[0], node->source[1]));
}

static void backward_group_linear(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *z = node->source[0], *w = node->source[1], *groups = node->source[2], *b = node->source[3];
    if (needs_gradient(g, z))
        add_gradient(g, z, result_of(NODE(g, SCBM_OP_GROUP_LINEAR_BACK_Z, NULL, NULL, dy[0], w, groups, z)));
    if (needs_gradient(g, w))
        add_gradient(g, w, result_of(NODE(g, SCBM_OP_GROUP_LINEAR_BACK_W, NULL, NULL, dy[0], z, groups, w)));
    if (b) add_broadcast_gradient(g, b, dy[0]);
}

static void backward_layer_norm(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_node *back = NODE(g, SCBM_OP_LAYER_NORM_BACK, NULL, NULL, dy[0], node->source[0], node->source[1],
                           node->result[1], node->result[2]);
    if (!back) return;
    add_gradient(g, node->source[0], back->result[0]);
    add_gradient(g, node->source[1], back->result[1]);
    add_gradient(g, node->source[2], back->result[2]);
}

/* The sum x + residual is needed: it becomes the node's fourth result. */
static void backward_add_layer_norm(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    if (node->n_results == 3) {
        if (!result_like(g, node, node->result[0])) return;
        node->result[3]->node = node->result[0]->node;
    }
    scbm_node *back = NODE(g, SCBM_OP_LAYER_NORM_BACK, NULL, NULL, dy[0], node->result[3], node->source[2],
                           node->result[1], node->result[2]);
    if (!back) return;
    add_gradient(g, node->source[0], back->result[0]);
    add_broadcast_gradient(g, node->source[1], back->result[0]);
    add_gradient(g, node->source[2], back->result[1]);
    add_gradient(g, node->source[3], back->result[2]);
}

static void backward_activate(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_ACTIVATE_BACK, NULL, node->integer, dy[0], node->source[0])));
}

static void backward_softmax(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], result_of(NODE(g, SCBM_OP_SOFTMAX_BACK, NULL, NULL, dy[0], node->result[0])));
}

/* The same zeros and factor: the op itself, at the same place. */
static void backward_dropout(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], result_of(NODE(g, SCBM_OP_DROPOUT, node->scalar, node->integer, dy[0])));
}

static void backward_attention(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_node *back = NODE(g, SCBM_OP_ATTENTION_BACK, node->scalar, node->integer, dy[0], node->result[0],
                           node->source[0], node->source[1], node->source[2], node->result[1], node->source[3],
                           source_of(node, 4));
    if (!back) return;
    for (int i = 0; i < 3; i++) add_gradient(g, node->source[i], back->result[i]);
    if (source_of(node, 4)) add_gradient(g, node->source[4], back->result[3]);
}

static void backward_attention_bias(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_ATTENTION_BIAS_BACK, NULL, NULL, dy[0], node->source[1], node->source[0])));
}

static void backward_rms_norm(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_node *back = NODE(g, SCBM_OP_RMS_NORM_BACK, NULL, NULL, dy[0], node->source[0], node->source[1],
                           node->result[1]);
    if (!back) return;
    add_gradient(g, node->source[0], back->result[0]);
    add_gradient(g, node->source[1], back->result[1]);
}

/* scores, mix and mix_transposed are closed under differentiation; integers: heads, causal, context. */
static scbm_tensor *attention_part(scbm_graph *g, scbm_op op, const scbm_node *like, int64_t context, scbm_tensor *a,
                                   scbm_tensor *b, scbm_tensor *offsets) {
    const int64_t integer[4] = {like->integer[0], like->integer[1], context, 0};
    const float scalar[2] = {0.0f, 0.0f};
    return result_of(NODE(g, op, scalar, integer, a, b, offsets));
}

static void backward_attention_scores(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *a = node->source[0], *b = node->source[1], *offsets = node->source[2];
    int64_t context = node->integer[2];
    if (needs_gradient(g, a))
        add_gradient(g, a, attention_part(g, SCBM_OP_ATTENTION_MIX, node, context, dy[0], b, offsets));
    if (needs_gradient(g, b))
        add_gradient(g, b, attention_part(g, SCBM_OP_ATTENTION_MIX_TRANSPOSED, node, context, dy[0], a, offsets));
}

static void backward_attention_mix(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *p = node->source[0], *b = node->source[1], *offsets = node->source[2];
    if (needs_gradient(g, p))
        add_gradient(g, p, attention_part(g, SCBM_OP_ATTENTION_SCORES, node, p->shape[3], dy[0], b, offsets));
    if (needs_gradient(g, b))
        add_gradient(g, b, attention_part(g, SCBM_OP_ATTENTION_MIX_TRANSPOSED, node, p->shape[3], p, dy[0], offsets));
}

static void backward_attention_mix_transposed(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *p = node->source[0], *a = node->source[1], *offsets = node->source[2];
    if (needs_gradient(g, p))
        add_gradient(g, p, attention_part(g, SCBM_OP_ATTENTION_SCORES, node, p->shape[3], a, dy[0], offsets));
    if (needs_gradient(g, a))
        add_gradient(g, a, attention_part(g, SCBM_OP_ATTENTION_MIX, node, p->shape[3], p, dy[0], offsets));
}

static void backward_segment_mean(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_SEGMENT_MEAN_BACK, NULL, NULL, dy[0], node->source[1], node->source[0])));
}

static void backward_segment_first(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_SEGMENT_FIRST_BACK, NULL, NULL, dy[0], node->source[1], node->source[0])));
}

static void backward_segment_last(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_SEGMENT_LAST_BACK, NULL, NULL, dy[0], node->source[1], node->source[0])));
}

static void backward_segment_first_back(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], scbm_segment_first(g, dy[0], node->source[1]));
}

static void backward_segment_last_back(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0], scbm_segment_last(g, dy[0], node->source[1]));
}

static void backward_lstm(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    scbm_tensor *x = node->source[0], *w = node->source[1], *offsets = node->source[2], *masks = source_of(node, 3);
    const int64_t mode[4] = {g->weight_gradients, 0, 0, 0};
    scbm_node *back = NODE(g, SCBM_OP_LSTM_BACK, NULL, node->integer, dy[0], node->result[0], node->result[1],
                           node->result[2], w, offsets, masks);
    if (!back) return;
    add_broadcast_gradient(g, x, back->result[0]);
    if (needs_gradient(g, w))
        add_gradient(
            g, w, result_of(NODE(g, SCBM_OP_LINEAR_BACK_W, NULL, mode, back->result[0], back->result[1], w, masks)));
}

static void backward_mix_texts(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_MIX_TEXTS_BACK, NULL, NULL, dy[0], node->source[1], node->source[2])));
}

static void backward_cross_entropy(scbm_graph *g, scbm_node *node, scbm_tensor *const *dy) {
    add_gradient(g, node->source[0],
                 result_of(NODE(g, SCBM_OP_CROSS_ENTROPY_BACK, NULL, NULL, dy[0], node->result[1], node->result[2],
                                node->source[1], node->source[2], node->source[3])));
}

/* ------------------------------------------------------------------------------------------
 * The op table: decompositions of the fused ops
 * ---------------------------------------------------------------------------------------- */

/* The weights that each stream has: one matrix, or one for each. */
static scbm_tensor *weights_by_stream(scbm_graph *g, scbm_tensor *w, scbm_tensor *masks) {
    return masks ? scbm_apply_masks(g, w, masks) : w;
}

/* First its activation, then, when gradients are there, the rest. */
static scbm_tensor *decompose_linear(scbm_graph *g, const scbm_node *node) {
    scbm_tensor *x = node->source[0], *w = node->source[1], *b = node->source[2], *masks = node->source[3];
    if (node->integer[0] != SCBM_NONE)
        return scbm_activate(g, scbm_linear(g, x, w, b, masks, SCBM_NONE), (scbm_activation)node->integer[0]);
    scbm_tensor *y = scbm_product(g, x, weights_by_stream(g, w, masks), SCBM_PRODUCT_NT, 1);
    return b ? scbm_add(g, y, b) : y;
}

static scbm_tensor *decompose_linear_back_x(scbm_graph *g, const scbm_node *node) {
    return scbm_product(g, node->source[0], weights_by_stream(g, node->source[1], node->source[2]), SCBM_PRODUCT_NN, 1);
}

static scbm_tensor *decompose_linear_back_w(scbm_graph *g, const scbm_node *node) {
    scbm_tensor *dw = scbm_product(g, node->source[0], node->source[1], SCBM_PRODUCT_TN, 1),
                *masks = source_of(node, 3);
    int is_flat = dw && dw->n_dims == 2;
    if (node->integer[0] == SCBM_DW_SUMMED && !is_flat)
        return masks ? scbm_sum_masked(g, dw, masks) : scbm_sum_to(g, dw, node->source[2]);
    if (is_flat && node->integer[0] != SCBM_DW_SUMMED) {
        const int64_t shape[3] = {1, dw->shape[0], dw->shape[1]};
        dw = scbm_reshape(g, dw, 3, shape, NULL);
    }
    return node->integer[0] == SCBM_DW_MASKED && masks ? scbm_apply_masks(g, dw, masks) : dw;
}

/* Heads over the streams of groups are a masked linear layer, whose masks keep each stream's own rows: I8 [K, C, row bytes]. The
 * graph itself fills them, from the groups of the run, which it checks then: also where there is one stream, and nobody reads
 * them. */
static scbm_tensor *group_masks(scbm_graph *g, const scbm_node *node, const scbm_tensor *w) {
    const scbm_tensor *groups = node->source[2];
    const int64_t shape[3] = {groups->shape[0] - 1, w->shape[0], scbm_mask_row_bytes(w->shape[1])};
    for (size_t i = 0; i < g->n_tensors; i++) {
        scbm_tensor *known = &g->tensors[i]->public;
        if (g->tensors[i]->groups == groups && !memcmp(known->shape, shape, sizeof shape)) return known;
    }
    scbm_tensor *made = g->status ? NULL : new_tensor(g, "groups as masks", SCBM_I8, 3, shape, NULL);
    if (!made) return NULL;
    graph_tensor_of(g, made)->is_input = 1;
    graph_tensor_of(g, made)->groups = groups;
    graph_tensor_of(g, made)->groups_of = node->op;
    return made;
}

static scbm_tensor *as_one_stream(scbm_graph *g, scbm_tensor *x) {
    const int64_t shape[3] = {1, x->shape[0], x->shape[1]};
    const scbm_extent extent[3] = {SCBM_FIXED, (scbm_extent)x->extent[0], (scbm_extent)x->extent[1]};
    return scbm_reshape(g, x, 3, shape, extent);
}

static scbm_tensor *without_streams(scbm_graph *g, scbm_tensor *x) {
    if (!x) return NULL;
    const scbm_extent extent[2] = {(scbm_extent)x->extent[1], (scbm_extent)x->extent[2]};
    return scbm_reshape(g, x, 2, x->shape + 1, extent);
}

static scbm_tensor *decompose_group_linear(scbm_graph *g, const scbm_node *node) {
    scbm_tensor *z = node->source[0], *w = node->source[1], *b = source_of(node, 3), *y;
    scbm_tensor *masks = group_masks(g, node, w);
    if (z->shape[0] > 1) {
        y = scbm_product(g, z, scbm_apply_masks(g, w, masks), SCBM_PRODUCT_NT, 0);
        y = scbm_sum_to(g, y, new_constant(g, node->result[0], 0.0f)); /* like that one */
    } else {
        y = without_streams(g, scbm_product(g, z, w, SCBM_PRODUCT_NT, 0));
    }
    return b ? scbm_add(g, y, b) : y;
}

static scbm_tensor *decompose_group_linear_back_z(scbm_graph *g, const scbm_node *node) {
    scbm_tensor *w = node->source[1], *z = node->source[3], *dy = as_one_stream(g, node->source[0]);
    scbm_tensor *masks = group_masks(g, node, w);
    if (z->shape[0] > 1) w = scbm_apply_masks(g, w, masks);
    return scbm_product(g, dy, w, SCBM_PRODUCT_NN, 0);
}

static scbm_tensor *decompose_group_linear_back_w(scbm_graph *g, const scbm_node *node) {
    scbm_tensor *z = node->source[1], *w = node->source[3];
    scbm_tensor *dw = scbm_product(g, as_one_stream(g, node->source[0]), z, SCBM_PRODUCT_TN, 0);
    scbm_tensor *masks = group_masks(g, node, w);
    return z->shape[0] > 1 ? scbm_sum_masked(g, dw, masks) : without_streams(g, dw);
}

static scbm_tensor *decompose_add_layer_norm(scbm_graph *g, const scbm_node *node) {
    scbm_tensor *sum = scbm_add(g, node->source[0], node->source[1]);
    return scbm_layer_norm(g, sum, node->source[2], node->source[3], node->scalar[0]);
}

/* Its dropout draws the fused op's numbers. */
static scbm_tensor *decompose_attention(scbm_graph *g, const scbm_node *node) {
    int64_t context = g->longest && g->longest < g->max_tokens ? g->longest : g->max_tokens;
    scbm_tensor *q = scbm_scale(g, node->source[0], node->scalar[0]);
    scbm_tensor *p = scbm_attention_scores(g, q, node->source[1], node->source[3], (int)node->integer[0], context,
                                           (int)node->integer[1], -INFINITY);
    if (source_of(node, 4)) p = scbm_add(g, p, scbm_attention_bias(g, node->source[4], node->source[3], context));
    p = scbm_softmax(g, p);
    if (node->scalar[1] > 0.0f) {
        const float scalar[2] = {node->scalar[1], 0.0f};
        const int64_t integer[4] = {node->integer[2], 1, 0, 0};
        p = result_of(NODE(g, SCBM_OP_DROPOUT, scalar, integer, p));
    }
    return scbm_attention_mix(g, p, node->source[2], node->source[3], (int)node->integer[0]);
}

/* ------------------------------------------------------------------------------------------
 * The op table itself. What `scalar` and `integer` hold:
 *   scale, layer_norm, add_layer_norm: scalar factor or epsilon    sum_to, broadcast: integer 1 = mean
 *   slice, slice_back: integers first, count                       cast: integer type
 *   linear, activate, activate_back: integer activation            linear_back_w: integer mode
 *   dropout: scalar p, integers place, of attention                attention_mix…: integers heads, causal
 *   attention, attention_back: scalars scale, p; integers heads, causal, dropout's place
 *   attention_scores: scalar fill; integers heads, causal, context   attention_bias: integer context
 *   rms_norm: scalar epsilon                                       clip: scalar largest norm
 *   square_sum, adamw: integer which parameter                     fisher_add, fisher_scores: integer block
 *   keep_largest: integer scbm_choice                              mask_moves, flip_bits: integer which matrix
 *   product: integers form, in the graph's precision
 *   lstm, lstm_back: integer reverse
 * ---------------------------------------------------------------------------------------- */

static const op_row op_table[SCBM_OP_COUNT] = {
    /* info: name, sources (at least, at most), results, has backward, has decomposition, in place, updates */
    [SCBM_OP_GET_ROWS] = {.info = {"get_rows", 2, 2, 1, 1, 0, 0, 0},
                          .shape = shape_get_rows,
                          .backward = backward_get_rows,
                          .index = {IDS, 1, 0, 0, 0}},
    [SCBM_OP_GET_ROWS_BACK] = {.info = {"get_rows_back", 3, 3, 1, 0, 0, 0, 0},
                               .shape = shape_get_rows_back,
                               .index = {IDS, 1, 2, 0, 0}},
    [SCBM_OP_ADD] = {.info = {"add", 2, 2, 1, 1, 0, 1, 0}, .shape = shape_binary, .backward = backward_add},
    [SCBM_OP_MUL] = {.info = {"mul", 2, 2, 1, 1, 0, 1, 0}, .shape = shape_binary, .backward = backward_mul},
    [SCBM_OP_SCALE] = {.info = {"scale", 1, 1, 1, 1, 0, 1, 0}, .shape = shape_same_f32, .backward = backward_scale},
    [SCBM_OP_SUM_TO] = {.info = {"sum_to", 1, 2, 1, 1, 0, 0, 0}, .shape = shape_sum_to, .backward = backward_sum_to},
    [SCBM_OP_BROADCAST] = {.info = {"broadcast", 2, 2, 1, 1, 0, 0, 0},
                           .shape = shape_broadcast,
                           .backward = backward_broadcast},
    [SCBM_OP_RESHAPE] = {.info = {"reshape", 1, 1, 1, 1, 0, 0, 0}, .backward = backward_reshape},
    [SCBM_OP_COPY] = {.info = {"copy", 1, 1, 1, 1, 0, 0, 0}, .shape = shape_copy, .backward = backward_copy},
    [SCBM_OP_CAST] = {.info = {"cast", 1, 1, 1, 1, 0, 0, 0}, .shape = shape_cast, .backward = backward_cast},
    [SCBM_OP_CONCAT] = {.info = {"concat", 2, 2, 1, 1, 0, 0, 0}, .shape = shape_concat, .backward = backward_concat},
    [SCBM_OP_SLICE] = {.info = {"slice", 1, 1, 1, 1, 0, 0, 0}, .shape = shape_slice, .backward = backward_slice},
    [SCBM_OP_SLICE_BACK] = {.info = {"slice_back", 2, 2, 1, 1, 0, 0, 0},
                            .shape = shape_slice_back,
                            .backward = backward_slice_back},
    [SCBM_OP_LINEAR] = {.info = {"linear", 2, 4, 1, 1, 1, 0, 0},
                        .shape = shape_linear,
                        .backward = backward_linear,
                        .decompose = decompose_linear,
                        .is_late = 1}, /* without an activation */
    [SCBM_OP_LINEAR_BACK_X] = {.info = {"linear_back_x", 2, 3, 1, 0, 1, 0, 0},
                               .shape = shape_linear_back_x,
                               .decompose = decompose_linear_back_x,
                               .is_late = 1},
    [SCBM_OP_LINEAR_BACK_W] = {.info = {"linear_back_w", 3, 4, 1, 0, 1, 0, 0},
                               .shape = shape_linear_back_w,
                               .decompose = decompose_linear_back_w,
                               .is_late = 1},
    [SCBM_OP_GROUP_LINEAR] = {.info = {"group_linear", 3, 4, 1, 1, 1, 0, 0},
                              .shape = shape_group_linear,
                              .backward = backward_group_linear,
                              .decompose = decompose_group_linear,
                              .index = {GROUPS, 2, 1, 0, 0},
                              .is_late = 1},
    [SCBM_OP_GROUP_LINEAR_BACK_Z] = {.info = {"group_linear_back_z", 4, 4, 1, 0, 1, 0, 0},
                                     .shape = shape_group_linear_back_z,
                                     .decompose = decompose_group_linear_back_z,
                                     .index = {GROUPS, 2, 1, 0, 0},
                                     .is_late = 1},
    [SCBM_OP_GROUP_LINEAR_BACK_W] = {.info = {"group_linear_back_w", 4, 4, 1, 0, 1, 0, 0},
                                     .shape = shape_group_linear_back_w,
                                     .decompose = decompose_group_linear_back_w,
                                     .index = {GROUPS, 2, 3, 0, 0},
                                     .is_late = 1},
    [SCBM_OP_PRODUCT] = {.info = {"product", 2, 2, 1, 1, 0, 0, 0},
                         .shape = shape_product,
                         .backward = backward_product},
    [SCBM_OP_APPLY_MASKS] = {.info = {"apply_masks", 2, 2, 1, 1, 0, 1, 0},
                             .shape = shape_apply_masks,
                             .backward = backward_apply_masks},
    [SCBM_OP_SUM_MASKED] = {.info = {"sum_masked", 2, 2, 1, 1, 0, 0, 0},
                            .shape = shape_sum_masked,
                            .backward = backward_sum_masked},
    [SCBM_OP_LAYER_NORM] = {.info = {"layer_norm", 3, 3, 3, 1, 0, 0, 0},
                            .shape = shape_layer_norm,
                            .backward = backward_layer_norm},
    [SCBM_OP_ADD_LAYER_NORM] = {.info = {"add_layer_norm", 4, 4, 3, 1, 1, 0, 0},
                                .shape = shape_add_layer_norm,
                                .backward = backward_add_layer_norm,
                                .decompose = decompose_add_layer_norm,
                                .needs = {1, {SCBM_OP_LAYER_NORM_BACK}}},
    [SCBM_OP_LAYER_NORM_BACK] = {.info = {"layer_norm_back", 5, 5, 3, 0, 0, 0, 0}, .shape = shape_layer_norm_back},
    [SCBM_OP_ACTIVATE] = {.info = {"activate", 1, 1, 1, 1, 0, 1, 0},
                          .shape = shape_activate,
                          .backward = backward_activate},
    [SCBM_OP_ACTIVATE_BACK] = {.info = {"activate_back", 2, 2, 1, 0, 0, 1, 0}, .shape = shape_activate},
    [SCBM_OP_SOFTMAX] = {.info = {"softmax", 1, 1, 1, 1, 0, 1, 0},
                         .shape = shape_softmax,
                         .backward = backward_softmax},
    [SCBM_OP_SOFTMAX_BACK] = {.info = {"softmax_back", 2, 2, 1, 0, 0, 0, 0}, .shape = shape_same_f32},
    [SCBM_OP_DROPOUT] = {.info = {"dropout", 1, 1, 1, 1, 0, 1, 0},
                         .shape = shape_dropout,
                         .backward = backward_dropout},
    [SCBM_OP_RMS_NORM] = {.info = {"rms_norm", 2, 2, 2, 1, 0, 0, 0},
                          .shape = shape_rms_norm,
                          .backward = backward_rms_norm},
    [SCBM_OP_RMS_NORM_BACK] = {.info = {"rms_norm_back", 4, 4, 2, 0, 0, 0, 0}, .shape = shape_rms_norm_back},
    [SCBM_OP_ATTENTION] = {.info = {"attention", 4, 5, 2, 1, 1, 0, 0},
                           .shape = shape_attention,
                           .backward = backward_attention,
                           .decompose = decompose_attention,
                           .needs = {2, {SCBM_OP_ATTENTION_BACK, SCBM_OP_ATTENTION_BIAS_BACK}},
                           .index = {OFFSETS, 3, 0, 1, 5}},
    [SCBM_OP_ATTENTION_BACK] = {.info = {"attention_back", 7, 8, 3, 0, 0, 0, 0},
                                .shape = shape_attention_back,
                                .index = {OFFSETS, 6, 2, 1, 8}},
    [SCBM_OP_ATTENTION_BIAS] = {.info = {"attention_bias", 2, 2, 1, 1, 0, 0, 0},
                                .shape = shape_attention_bias,
                                .backward = backward_attention_bias,
                                .index = {OFFSETS, 1, RESULT, 2, 1}},
    [SCBM_OP_ATTENTION_BIAS_BACK] = {.info = {"attention_bias_back", 3, 3, 1, 0, 0, 0, 0},
                                     .shape = shape_attention_bias_back,
                                     .index = {OFFSETS, 1, 0, 2, 3}},
    [SCBM_OP_ATTENTION_SCORES] = {.info = {"attention_scores", 3, 3, 1, 1, 0, 0, 0},
                                  .shape = shape_attention_scores,
                                  .backward = backward_attention_scores,
                                  .index = {OFFSETS, 2, 0, 1, 0}},
    [SCBM_OP_ATTENTION_MIX] = {.info = {"attention_mix", 3, 3, 1, 1, 0, 0, 0},
                               .shape = shape_attention_mix,
                               .backward = backward_attention_mix,
                               .index = {OFFSETS, 2, 1, 1, 0}},
    [SCBM_OP_ATTENTION_MIX_TRANSPOSED] = {.info = {"attention_mix_transposed", 3, 3, 1, 1, 0, 0, 0},
                                          .shape = shape_attention_mix,
                                          .backward = backward_attention_mix_transposed,
                                          .index = {OFFSETS, 2, 1, 1, 0}},
    [SCBM_OP_SEGMENT_MEAN] = {.info = {"segment_mean", 2, 2, 1, 1, 0, 0, 0},
                              .shape = shape_segment,
                              .backward = backward_segment_mean,
                              .index = {OFFSETS, 1, 0, 1, 0}},
    [SCBM_OP_SEGMENT_MEAN_BACK] = {.info = {"segment_mean_back", 3, 3, 1, 0, 0, 0, 0},
                                   .shape = shape_segment_back,
                                   .index = {OFFSETS, 1, 2, 1, 0}},
    [SCBM_OP_SEGMENT_FIRST] = {.info = {"segment_first", 2, 2, 1, 1, 0, 0, 0},
                               .shape = shape_segment,
                               .backward = backward_segment_first,
                               .index = {OFFSETS, 1, 0, 1, 0}},
    [SCBM_OP_SEGMENT_FIRST_BACK] = {.info = {"segment_first_back", 3, 3, 1, 1, 0, 0, 0},
                                    .shape = shape_segment_back,
                                    .backward = backward_segment_first_back,
                                    .index = {OFFSETS, 1, 2, 1, 0}},
    [SCBM_OP_SEGMENT_LAST] = {.info = {"segment_last", 2, 2, 1, 1, 0, 0, 0},
                              .shape = shape_segment,
                              .backward = backward_segment_last,
                              .index = {OFFSETS, 1, 0, 1, 0}},
    [SCBM_OP_SEGMENT_LAST_BACK] = {.info = {"segment_last_back", 3, 3, 1, 1, 0, 0, 0},
                                   .shape = shape_segment_back,
                                   .backward = backward_segment_last_back,
                                   .index = {OFFSETS, 1, 2, 1, 0}},
    [SCBM_OP_MIX_TEXTS] = {.info = {"mix_texts", 3, 3, 1, 1, 0, 0, 0},
                           .shape = shape_mix_texts,
                           .backward = backward_mix_texts,
                           .index = {PERMUTATION, 1, 0, 1, 0}},
    [SCBM_OP_MIX_TEXTS_BACK] = {.info = {"mix_texts_back", 3, 3, 1, 0, 0, 0, 0},
                                .shape = shape_mix_texts,
                                .index = {PERMUTATION, 1, 0, 1, 0}},
    [SCBM_OP_CROSS_ENTROPY] = {.info = {"cross_entropy", 3, 4, 3, 1, 0, 0, 0},
                               .shape = shape_cross_entropy,
                               .backward = backward_cross_entropy,
                               .index = {TARGETS, 1, 0, 1, 0}},
    [SCBM_OP_CROSS_ENTROPY_BACK] = {.info = {"cross_entropy_back", 5, 6, 1, 0, 0, 0, 0},
                                    .shape = shape_cross_entropy_back,
                                    .index = {TARGETS, 3, 1, 1, 0}},
    [SCBM_OP_ACCUMULATE] = {.info = {"accumulate", 3, 3, 0, 0, 0, 0, 1}, .shape = shape_accumulate},
    [SCBM_OP_SQUARE_SUM] = {.info = {"square_sum", 2, 2, 0, 0, 0, 0, 2}, .shape = shape_square_sum},
    [SCBM_OP_CLIP] = {.info = {"clip", 2, 2, 1, 0, 0, 0, 2}, .shape = shape_clip},
    [SCBM_OP_ADAMW] = {.info = {"adamw", 6, 6, 0, 0, 0, 0, 7}, .shape = shape_adamw},
    [SCBM_OP_FISHER_ADD] = {.info = {"fisher_add", 2, 2, 0, 0, 0, 0, 1}, .shape = shape_fisher_add, .is_rare = 1},
    [SCBM_OP_ROW_SALIENCY] = {.info = {"row_saliency", 2, 2, 1, 0, 0, 0, 0}, .shape = shape_row_saliency, .is_rare = 1},
    [SCBM_OP_POPUP_BACK] = {.info = {"popup_back", 4, 4, 2, 0, 0, 1, 0}, .shape = shape_popup_back, .is_rare = 1},
    [SCBM_OP_FISHER_SCORES] = {.info = {"fisher_scores", 4, 4, 1, 0, 0, 0, 0},
                               .shape = shape_fisher_scores,
                               .is_rare = 1},
    [SCBM_OP_KEEP_LARGEST] = {.info = {"keep_largest", 3, 3, 0, 0, 0, 0, 2}, .shape = shape_keep_largest, .is_rare = 1},
    [SCBM_OP_AGREE] = {.info = {"agree", 4, 4, 1, 0, 0, 0, 0}, .shape = shape_agree, .is_rare = 1},
    [SCBM_OP_MASK_MOVES] = {.info = {"mask_moves", 6, 6, 0, 0, 0, 0, 48}, .shape = shape_mask_moves, .is_rare = 1},
    [SCBM_OP_FLIP_BITS] = {.info = {"flip_bits", 4, 4, 0, 0, 0, 0, 1}, .shape = shape_flip_bits, .is_rare = 1},
    [SCBM_OP_LSTM] = {.info = {"lstm", 3, 4, 3, 1, 0, 0, 0},
                      .shape = shape_lstm,
                      .backward = backward_lstm,
                      .index = {OFFSETS, 2, 0, 1, 0}},
    [SCBM_OP_LSTM_BACK] = {.info = {"lstm_back", 6, 7, 2, 0, 0, 0, 0},
                           .shape = shape_lstm_back,
                           .index = {OFFSETS, 5, 0, 1, 0}},
};

const scbm_op_info *scbm_op_of(scbm_op op) {
    return (unsigned)op < SCBM_OP_COUNT ? &op_table[op].info : NULL;
}

/* ------------------------------------------------------------------------------------------
 * Graphs: adding nodes
 * ---------------------------------------------------------------------------------------- */

static int is_updated(const scbm_node *node, int source) {
    return op_table[node->op].info.updates >> source & 1;
}

/* What a node writes is the caller's, and none of the node's other sources. */
static int updates_are_sound(scbm_graph *g, const scbm_node *node) {
    for (int i = 0; i < node->n_sources; i++) {
        if (!node->source[i] || !is_updated(node, i)) continue;
        int named = 0;
        for (int j = 0; j < node->n_sources; j++) named += node->source[j] == node->source[i];
        if (!node->source[i]->graph && named == 1) continue;
        graph_fail(g, SCBM_ERROR_ARGUMENT, "%s: source %d (%s) is updated: a tensor of the caller's is wanted, once",
                   node_name(node), i, node->source[i]->name);
        return 0;
    }
    return 1;
}

static int sources_are_given(scbm_graph *g, const scbm_node *node) {
    const scbm_op_info *info = &op_table[node->op].info;
    if (node->n_sources < info->min_sources || node->n_sources > info->n_sources) {
        graph_fail(g, SCBM_ERROR_ARGUMENT, "%s: %d sources, %d to %d are wanted", info->name, node->n_sources,
                   info->min_sources, info->n_sources);
        return 0;
    }
    for (int i = 0; i < node->n_sources; i++) {
        const scbm_tensor *source = node->source[i];
        if (!source && i >= info->min_sources) continue;
        if (!source) {
            graph_fail(g, SCBM_ERROR_ARGUMENT, "%s: source %d is NULL", info->name, i);
            return 0;
        }
        if (source->graph && source->graph != g) {
            graph_fail(g, SCBM_ERROR_ARGUMENT, "%s: source %d (%s) belongs to another graph", info->name, i,
                       source->name);
            return 0;
        }
    }
    return updates_are_sound(g, node);
}

static scbm_node *new_node(scbm_graph *g, scbm_op op, int n_sources, scbm_tensor *const *sources, const float *scalar,
                           const int64_t *integer) {
    if (scbm_grow(g->hooks, (void **)&g->nodes, &g->node_capacity, g->n_nodes + 1, sizeof *g->nodes))
        return graph_out_of_memory(g);
    scbm_node *node = scbm_alloc(g->hooks, sizeof *node);
    if (!node) return graph_out_of_memory(g);
    node->op = op;
    node->n_sources = n_sources;
    for (int i = 0; i < n_sources && i < SCBM_MAX_SOURCES; i++) node->source[i] = sources[i];
    if (scalar) memcpy(node->scalar, scalar, sizeof node->scalar);
    if (integer) memcpy(node->integer, integer, sizeof node->integer);
    return node;
}

static scbm_node *append_node(scbm_graph *g, scbm_node *node) {
    for (int i = 0; i < node->n_sources; i++)
        if (node->source[i] && !node->source[i]->graph && !register_external(g, node->source[i])) {
            scbm_release(g->hooks, node);
            return NULL;
        }
    for (int i = 0; i < node->n_results; i++) node->result[i]->node = (int)g->n_nodes;
    g->nodes[g->n_nodes++] = node;
    return node;
}

scbm_node *scbm_graph_add(scbm_graph *g, scbm_op op, int n_sources, scbm_tensor *const *sources, const float scalar[2],
                          const int64_t integer[4]) {
    if (g->status) return NULL;
    if ((unsigned)op >= SCBM_OP_COUNT || !op_table[op].shape)
        return graph_fail(g, SCBM_ERROR_ARGUMENT, "op %d cannot be added by number", (int)op);
    if (g->is_planned)
        return graph_fail(g, SCBM_ERROR_ARGUMENT, "%s: the graph is planned already", op_table[op].info.name);
    scbm_node *node = new_node(g, op, n_sources, sources, scalar, integer);
    if (!node) return NULL;
    if (!sources_are_given(g, node) || !op_table[op].shape(g, node)) {
        scbm_release(g->hooks, node);
        return NULL;
    }
    return append_node(g, node);
}

int scbm_graph_nodes(const scbm_graph *g) {
    return (int)g->n_nodes;
}

const scbm_node *scbm_graph_node(const scbm_graph *g, int index) {
    return index >= 0 && (size_t)index < g->n_nodes ? g->nodes[index] : NULL;
}

scbm_tensor *scbm_get_rows(scbm_graph *g, scbm_tensor *table, scbm_tensor *ids) {
    return result_of(NODE(g, SCBM_OP_GET_ROWS, NULL, NULL, table, ids));
}

scbm_tensor *scbm_add(scbm_graph *g, scbm_tensor *a, scbm_tensor *b) {
    return result_of(NODE(g, SCBM_OP_ADD, NULL, NULL, a, b));
}

scbm_tensor *scbm_mul(scbm_graph *g, scbm_tensor *a, scbm_tensor *b) {
    return result_of(NODE(g, SCBM_OP_MUL, NULL, NULL, a, b));
}

scbm_tensor *scbm_scale(scbm_graph *g, scbm_tensor *a, float factor) {
    const float scalar[2] = {factor, 0.0f};
    return result_of(NODE(g, SCBM_OP_SCALE, scalar, NULL, a));
}

scbm_tensor *scbm_sum_to(scbm_graph *g, scbm_tensor *a, scbm_tensor *like) {
    if (!like) return graph_fail(g, SCBM_ERROR_ARGUMENT, "sum_to: the tensor to be like is NULL");
    return result_of(NODE(g, SCBM_OP_SUM_TO, NULL, NULL, a, like));
}

scbm_tensor *scbm_sum(scbm_graph *g, scbm_tensor *a) {
    return result_of(NODE(g, SCBM_OP_SUM_TO, NULL, NULL, a));
}

scbm_tensor *scbm_mean(scbm_graph *g, scbm_tensor *a) {
    const int64_t integer[4] = {1, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_SUM_TO, NULL, integer, a));
}

scbm_tensor *scbm_copy(scbm_graph *g, scbm_tensor *a) {
    return result_of(NODE(g, SCBM_OP_COPY, NULL, NULL, a));
}

scbm_tensor *scbm_cast(scbm_graph *g, scbm_tensor *a, scbm_type type) {
    const int64_t integer[4] = {type, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_CAST, NULL, integer, a));
}

scbm_tensor *scbm_concat(scbm_graph *g, scbm_tensor *a, scbm_tensor *b) {
    return result_of(NODE(g, SCBM_OP_CONCAT, NULL, NULL, a, b));
}

scbm_tensor *scbm_slice(scbm_graph *g, scbm_tensor *a, int64_t first, int64_t count) {
    const int64_t integer[4] = {first, count, 0, 0};
    return result_of(NODE(g, SCBM_OP_SLICE, NULL, integer, a));
}

/* The fixed dimensions' product and the extents of both shapes must agree. */
static int reshape_fits(const scbm_tensor *a, int n_dims, const int64_t *shape, const scbm_extent *extent) {
    int64_t fixed[2] = {1, 1};
    int counts[2][3] = {{0}, {0}};
    for (int i = 0; i < a->n_dims; i++) {
        if (a->extent[i]) counts[0][a->extent[i]]++;
        else fixed[0] *= a->shape[i];
    }
    for (int i = 0; i < n_dims; i++) {
        int e = extent ? (int)extent[i] : SCBM_FIXED;
        if (e < 0 || e > SCBM_TEXTS || (!e && shape[i] < 0)) return 0;
        if (e) counts[1][e]++;
        else if (shape[i] && fixed[1] > INT64_MAX / shape[i]) return 0;
        else fixed[1] *= shape[i];
    }
    return fixed[0] == fixed[1] && counts[0][1] == counts[1][1] && counts[0][2] == counts[1][2];
}

/* The one op without a kernel: the result is the source's memory under another shape. */
scbm_tensor *scbm_reshape(scbm_graph *g, scbm_tensor *a, int n_dims, const int64_t *shape, const scbm_extent *extent) {
    if (g->status) return NULL;
    if (!a || g->is_planned) return graph_fail(g, SCBM_ERROR_ARGUMENT, "reshape: no source, or a planned graph");
    if (n_dims < 1 || n_dims > SCBM_MAX_DIMS || !reshape_fits(a, n_dims, shape, extent))
        return graph_fail(g, SCBM_ERROR_SHAPE, "reshape: both shapes must hold the same elements");
    if (!graph_tensor_of(g, a)) {
        a = scbm_copy(g, a); /* memory of the caller is not ours to alias */
        if (!a) return NULL;
    }
    scbm_node *node = new_node(g, SCBM_OP_RESHAPE, 1, &a, NULL, NULL);
    if (!node) return NULL;
    uint8_t extents[SCBM_MAX_DIMS] = {0};
    for (int i = 0; extent && i < n_dims; i++) extents[i] = (uint8_t)extent[i];
    if (!add_result(g, node, a->type, n_dims, shape, extents)) {
        scbm_release(g->hooks, node);
        return NULL;
    }
    graph_tensor_of(g, node->result[0])->alias = graph_tensor_of(g, a);
    return result_of(append_node(g, node));
}

scbm_tensor *scbm_linear(scbm_graph *g, scbm_tensor *x, scbm_tensor *w, scbm_tensor *b, scbm_tensor *masks,
                         scbm_activation act) {
    const int64_t integer[4] = {act, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_LINEAR, NULL, integer, x, w, b, masks));
}

scbm_tensor *scbm_group_linear(scbm_graph *g, scbm_tensor *z, scbm_tensor *w, scbm_tensor *b, scbm_tensor *groups) {
    return result_of(NODE(g, SCBM_OP_GROUP_LINEAR, NULL, NULL, z, w, groups, b));
}

scbm_tensor *scbm_lstm(scbm_graph *g, scbm_tensor *x, scbm_tensor *w, scbm_tensor *masks, scbm_tensor *offsets,
                       int reverse) {
    const int64_t integer[4] = {reverse != 0, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_LSTM, NULL, integer, x, w, offsets, masks));
}

scbm_tensor *scbm_layer_norm(scbm_graph *g, scbm_tensor *x, scbm_tensor *gamma, scbm_tensor *beta, float epsilon) {
    const float scalar[2] = {epsilon, 0.0f};
    return result_of(NODE(g, SCBM_OP_LAYER_NORM, scalar, NULL, x, gamma, beta));
}

scbm_tensor *scbm_rms_norm(scbm_graph *g, scbm_tensor *x, scbm_tensor *gamma, float epsilon) {
    const float scalar[2] = {epsilon, 0.0f};
    return result_of(NODE(g, SCBM_OP_RMS_NORM, scalar, NULL, x, gamma));
}

scbm_tensor *scbm_add_layer_norm(scbm_graph *g, scbm_tensor *x, scbm_tensor *residual, scbm_tensor *gamma,
                                 scbm_tensor *beta, float epsilon) {
    const float scalar[2] = {epsilon, 0.0f};
    return result_of(NODE(g, SCBM_OP_ADD_LAYER_NORM, scalar, NULL, x, residual, gamma, beta));
}

scbm_tensor *scbm_activate(scbm_graph *g, scbm_tensor *x, scbm_activation act) {
    const int64_t integer[4] = {act, 0, 0, 0};
    if (act == SCBM_NONE) return x;
    return result_of(NODE(g, SCBM_OP_ACTIVATE, NULL, integer, x));
}

scbm_tensor *scbm_softmax(scbm_graph *g, scbm_tensor *x) {
    return result_of(NODE(g, SCBM_OP_SOFTMAX, NULL, NULL, x));
}

scbm_tensor *scbm_product(scbm_graph *g, scbm_tensor *a, scbm_tensor *b, scbm_product_form form, int in_precision) {
    const int64_t integer[4] = {form, in_precision != 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_PRODUCT, NULL, integer, a, b));
}

scbm_tensor *scbm_apply_masks(scbm_graph *g, scbm_tensor *w, scbm_tensor *masks) {
    return result_of(NODE(g, SCBM_OP_APPLY_MASKS, NULL, NULL, w, masks));
}

scbm_tensor *scbm_sum_masked(scbm_graph *g, scbm_tensor *dw, scbm_tensor *masks) {
    return result_of(NODE(g, SCBM_OP_SUM_MASKED, NULL, NULL, dw, masks));
}

scbm_tensor *scbm_dropout(scbm_graph *g, scbm_tensor *x, float p) {
    if (p == 0.0f) return x;
    const float scalar[2] = {p, 0.0f};
    const int64_t integer[4] = {++g->n_dropouts, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_DROPOUT, scalar, integer, x));
}

scbm_tensor *scbm_attention(scbm_graph *g, scbm_tensor *q, scbm_tensor *k, scbm_tensor *v, scbm_tensor *offsets,
                            int n_heads, float scale, int causal, float p) {
    const float scalar[2] = {scale, p};
    const int64_t integer[4] = {n_heads, causal != 0, p > 0.0f ? ++g->n_dropouts : 0, 0};
    return result_of(NODE(g, SCBM_OP_ATTENTION, scalar, integer, q, k, v, offsets));
}

scbm_tensor *scbm_attention_biased(scbm_graph *g, scbm_tensor *q, scbm_tensor *k, scbm_tensor *v, scbm_tensor *bias,
                                   scbm_tensor *offsets, int n_heads, float scale, int causal, float p) {
    const float scalar[2] = {scale, p};
    const int64_t integer[4] = {n_heads, causal != 0, p > 0.0f ? ++g->n_dropouts : 0, 0};
    return result_of(NODE(g, SCBM_OP_ATTENTION, scalar, integer, q, k, v, offsets, bias));
}

scbm_tensor *scbm_attention_bias(scbm_graph *g, scbm_tensor *bias, scbm_tensor *offsets, int64_t context) {
    const int64_t integer[4] = {context, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_ATTENTION_BIAS, NULL, integer, bias, offsets));
}

scbm_tensor *scbm_attention_scores(scbm_graph *g, scbm_tensor *a, scbm_tensor *b, scbm_tensor *offsets, int n_heads,
                                   int64_t context, int causal, float fill) {
    const float scalar[2] = {fill, 0.0f};
    const int64_t integer[4] = {n_heads, causal != 0, context, 0};
    return result_of(NODE(g, SCBM_OP_ATTENTION_SCORES, scalar, integer, a, b, offsets));
}

scbm_tensor *scbm_attention_mix(scbm_graph *g, scbm_tensor *p, scbm_tensor *b, scbm_tensor *offsets, int n_heads) {
    const int64_t integer[4] = {n_heads, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_ATTENTION_MIX, NULL, integer, p, b, offsets));
}

scbm_tensor *scbm_attention_mix_transposed(scbm_graph *g, scbm_tensor *p, scbm_tensor *a, scbm_tensor *offsets,
                                           int n_heads) {
    const int64_t integer[4] = {n_heads, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_ATTENTION_MIX_TRANSPOSED, NULL, integer, p, a, offsets));
}

scbm_tensor *scbm_segment_mean(scbm_graph *g, scbm_tensor *x, scbm_tensor *offsets) {
    return result_of(NODE(g, SCBM_OP_SEGMENT_MEAN, NULL, NULL, x, offsets));
}

scbm_tensor *scbm_segment_first(scbm_graph *g, scbm_tensor *x, scbm_tensor *offsets) {
    return result_of(NODE(g, SCBM_OP_SEGMENT_FIRST, NULL, NULL, x, offsets));
}

scbm_tensor *scbm_segment_last(scbm_graph *g, scbm_tensor *x, scbm_tensor *offsets) {
    return result_of(NODE(g, SCBM_OP_SEGMENT_LAST, NULL, NULL, x, offsets));
}

scbm_tensor *scbm_mix_texts(scbm_graph *g, scbm_tensor *x, scbm_tensor *permutation, scbm_tensor *beta) {
    return result_of(NODE(g, SCBM_OP_MIX_TEXTS, NULL, NULL, x, permutation, beta));
}

scbm_tensor *scbm_cross_entropy(scbm_graph *g, scbm_tensor *logits, scbm_tensor *targets, scbm_tensor *groups,
                                scbm_tensor *class_weights) {
    return result_of(NODE(g, SCBM_OP_CROSS_ENTROPY, NULL, NULL, logits, targets, groups, class_weights));
}

scbm_node *scbm_accumulate(scbm_graph *g, scbm_tensor *sum, scbm_tensor *a, scbm_tensor *keep) {
    return NODE(g, SCBM_OP_ACCUMULATE, NULL, NULL, sum, a, keep);
}

scbm_node *scbm_fisher_add(scbm_graph *g, scbm_tensor *sums, scbm_tensor *dw, int64_t block) {
    const int64_t integer[4] = {block, 0, 0, 0};
    return NODE(g, SCBM_OP_FISHER_ADD, NULL, integer, sums, dw);
}

scbm_tensor *scbm_fisher_scores(scbm_graph *g, scbm_tensor *sums, scbm_tensor *w, scbm_tensor *masks,
                                scbm_tensor *numbers, int64_t block) {
    const int64_t integer[4] = {block, 0, 0, 0};
    return result_of(NODE(g, SCBM_OP_FISHER_SCORES, NULL, integer, sums, w, masks, numbers));
}

scbm_node *scbm_keep_largest(scbm_graph *g, scbm_tensor *score, scbm_tensor *masks, scbm_tensor *zeros, int choice) {
    const int64_t integer[4] = {choice, 0, 0, 0};
    return NODE(g, SCBM_OP_KEEP_LARGEST, NULL, integer, score, masks, zeros);
}

scbm_tensor *scbm_agree(scbm_graph *g, scbm_tensor *score, scbm_tensor *before, scbm_tensor *after,
                        scbm_tensor *zeros) {
    return result_of(NODE(g, SCBM_OP_AGREE, NULL, NULL, score, before, after, zeros));
}

scbm_node *scbm_mask_moves(scbm_graph *g, scbm_tensor *dw, scbm_tensor *w, scbm_tensor *masks, scbm_tensor *wanted,
                           scbm_tensor *moves, scbm_tensor *counts, int64_t which) {
    const int64_t integer[4] = {which, 0, 0, 0};
    return NODE(g, SCBM_OP_MASK_MOVES, NULL, integer, dw, w, masks, wanted, moves, counts);
}

scbm_node *scbm_flip_bits(scbm_graph *g, scbm_tensor *masks, scbm_tensor *moves, scbm_tensor *counts,
                          scbm_tensor *wanted, int64_t which) {
    const int64_t integer[4] = {which, 0, 0, 0};
    return NODE(g, SCBM_OP_FLIP_BITS, NULL, integer, masks, moves, counts, wanted);
}

scbm_tensor *scbm_row_saliency(scbm_graph *g, scbm_tensor *dw, scbm_tensor *w) {
    return result_of(NODE(g, SCBM_OP_ROW_SALIENCY, NULL, NULL, dw, w));
}

scbm_node *scbm_popup_back(scbm_graph *g, scbm_tensor *dw, scbm_tensor *w, scbm_tensor *score, scbm_tensor *masks) {
    return NODE(g, SCBM_OP_POPUP_BACK, NULL, NULL, dw, w, score, masks);
}

/* ------------------------------------------------------------------------------------------
 * Graphs: automatic differentiation
 * ---------------------------------------------------------------------------------------- */

static scbm_status lower(scbm_graph *g, int (*is_wanted)(const scbm_graph *g, const scbm_node *node));
static int cannot_be_trained(const scbm_graph *g, const scbm_node *node);

static void mark_wanted(scbm_graph *g, scbm_tensor *const *wrt, int n) {
    for (int i = 0; i < n && !g->status; i++) {
        if (!wrt[i]) graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: tensor %d is NULL", i);
        else if (wrt[i]->graph && wrt[i]->graph != g)
            graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: %s belongs to another graph", wrt[i]->name);
        else if (wrt[i]->type != SCBM_F32 &&
                 (g->weight_gradients == SCBM_DW_SUMMED || wrt[i]->graph || !type_table[wrt[i]->type].is_float))
            graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: %s is %s, gradients are for f32 tensors", wrt[i]->name,
                       type_table[wrt[i]->type].name);
        else if (graph_tensor_of(g, wrt[i])) graph_tensor_of(g, wrt[i])->needs_gradient = 1;
        else if (register_external(g, wrt[i])) find_external(g, wrt[i])->needs_gradient = 1;
    }
}

/* What depends on a wanted tensor needs a gradient too. */
static void mark_dependents(scbm_graph *g) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        scbm_node *node = g->nodes[i];
        int needed = 0;
        for (int s = 0; s < node->n_sources && !needed; s++) needed = needs_gradient(g, node->source[s]);
        for (int r = 0; needed && r < node->n_results; r++) graph_tensor_of(g, node->result[r])->needs_gradient = 1;
    }
}

/* A backward rule would read what an earlier node has read, and find it changed. */
static void check_updates(scbm_graph *g) {
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int s = 0; s < g->nodes[i]->n_sources; s++) {
            if (!is_updated(g->nodes[i], s)) continue;
            for (size_t j = 0; j < i; j++)
                for (int o = 0; o < g->nodes[j]->n_sources; o++)
                    if (g->nodes[j]->source[o] == g->nodes[i]->source[s] && !is_updated(g->nodes[j], o))
                        graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: comes before %s, which updates %s",
                                   node_name(g->nodes[i]), g->nodes[i]->source[s]->name);
        }
}

/* Gradients flow through the first result; the others (saved statistics) have no users. */
static void backward_node(scbm_graph *g, scbm_node *node) {
    if (!node->n_results) return;
    scbm_tensor *dy = graph_tensor_of(g, node->result[0])->gradient;
    int needed = 0;
    for (int s = 0; s < node->n_sources && !needed; s++) needed = needs_gradient(g, node->source[s]);
    if (!dy || !needed) return;
    if (!op_table[node->op].backward) graph_fail(g, SCBM_ERROR_UNSUPPORTED, "%s has no backward rule", node_name(node));
    else op_table[node->op].backward(g, node, &dy);
}

scbm_status scbm_graph_backward(scbm_graph *g, scbm_tensor *loss, scbm_tensor *const *wrt, int n) {
    if (g->is_planned) graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: the graph is planned already");
    if (g->has_gradients) graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: was called for this graph already");
    if (!g->status && (!loss || !graph_tensor_of(g, loss) || scbm_tensor_elements(loss) != 1 || !is_f32(loss)))
        graph_fail(g, SCBM_ERROR_ARGUMENT, "backward: the loss must be one f32 element of this graph");
    check_updates(g);
    mark_wanted(g, wrt, n);
    if (g->status) return graph_status(g);
    mark_dependents(g);
    if (lower(g, cannot_be_trained)) return graph_status(g);
    g->has_gradients = 1;
    mark_dependents(g);
    size_t n_forward = g->n_nodes;
    scbm_tensor *one = new_constant(g, loss, 1.0f);
    if (!one) return graph_status(g);
    graph_tensor_of(g, loss)->gradient = one;
    for (size_t i = n_forward; i-- > 0 && !g->status;) backward_node(g, g->nodes[i]);
    for (int i = 0; i < n && !g->status; i++) {
        if (!*gradient_slot(g, wrt[i])) {
            scbm_tensor *zero = new_constant(g, wrt[i], 0.0f);
            *gradient_slot(g, wrt[i]) = zero;
        }
        scbm_output(g, *gradient_slot(g, wrt[i]));
    }
    return graph_status(g);
}

void scbm_graph_set_weight_gradients(scbm_graph *g, scbm_dw_mode mode) {
    if (g->has_gradients || g->is_planned)
        graph_fail(g, SCBM_ERROR_ARGUMENT, "weight gradients: they are there already; the mode is set before backward");
    else if ((unsigned)mode > SCBM_DW_DENSE)
        graph_fail(g, SCBM_ERROR_ARGUMENT, "weight gradients: there is no mode %d", (int)mode);
    else g->weight_gradients = mode;
}

void scbm_graph_discard(scbm_graph *g, scbm_tensor *tensor) {
    graph_tensor *t = tensor ? graph_tensor_of(g, tensor) : NULL;
    if (g->is_planned) graph_fail(g, SCBM_ERROR_ARGUMENT, "discard: the graph is planned already");
    if (t) t->is_output = 0;
}

scbm_status scbm_graph_watch(scbm_graph *g, scbm_tensor *tensor, scbm_watch_function function, void *user) {
    graph_tensor *t = tensor ? graph_tensor_of(g, tensor) : NULL;
    if (!g->status && (!t || t->is_input || t->alias || tensor->node < 0 || g->is_planned || !function))
        graph_fail(g, SCBM_ERROR_ARGUMENT,
                   "watch: a function is wanted, and what a node of an unplanned graph computes");
    if (g->status) return graph_status(g);
    t->is_output = t->is_fetched = 0;
    t->watch = function;
    t->watch_user = user;
    g->n_watched++;
    return SCBM_OK;
}

scbm_tensor *scbm_graph_gradient(scbm_graph *g, const scbm_tensor *tensor) {
    scbm_tensor **slot = tensor ? gradient_slot(g, tensor) : NULL;
    return slot ? *slot : NULL;
}

/* ------------------------------------------------------------------------------------------
 * Graphs: lowering. A node that the backend cannot run, or whose gradient it cannot, is replaced by its decomposition.
 * ---------------------------------------------------------------------------------------- */

static int has_kernel(const scbm_graph *g, scbm_op op) {
    const scbm_backend_functions *functions = g->context->backend->functions;
    return (int)op < functions->n_kernels && functions->kernels[op].run != NULL;
}

/* The backend's row for the node; NULL: it cannot run it. */
static const scbm_kernel *kernel_of(const scbm_graph *g, const scbm_node *node) {
    scbm_backend *backend = g->context->backend;
    if (!backend_has_precision(backend, g->precision) || !has_kernel(g, node->op)) return NULL;
    const scbm_kernel *kernel = &backend->functions->kernels[node->op];
    return kernel->supports && !kernel->supports(backend, node, g->precision) ? NULL : kernel;
}

static int is_decomposable(const scbm_graph *g, const scbm_node *node) {
    int has_activation = node->op == SCBM_OP_LINEAR && node->integer[0] != SCBM_NONE;
    if (!op_table[node->op].decompose) return 0;
    return !op_table[node->op].is_late || has_activation || g->is_placed_next;
}

static int any_node(const scbm_graph *g, const scbm_node *node) {
    (void)g, (void)node;
    return 1;
}

static int is_not_supported(const scbm_graph *g, const scbm_node *node) {
    return !kernel_of(g, node);
}

/* A gradient that goes through the node needs the rows of its backward rule, too. */
static int cannot_be_trained(const scbm_graph *g, const scbm_node *node) {
    const backward_ops *needed = &op_table[node->op].needs;
    if (is_not_supported(g, node)) return 1;
    if (!graph_tensor_of(g, node->result[0])->needs_gradient) return 0;
    for (int i = 0; i < needed->n; i++)
        if (!has_kernel(g, needed->op[i]) && (needed->op[i] != SCBM_OP_ATTENTION_BIAS_BACK || source_of(node, 4)))
            return 1;
    return 0;
}

/* Whoever holds the result of `node` holds what the last of `made`'s nodes computes. */
static void take_result(scbm_graph *g, scbm_node *node, scbm_tensor *made) {
    graph_tensor *result = graph_tensor_of(g, node->result[0]), *other = graph_tensor_of(g, made);
    g->nodes[made->node]->result[0] = node->result[0];
    node->result[0]->node = made->node;
    result->alias = other->alias;
    other->alias = NULL;
    made->node = -1;
}

/* Appends the node, or in its place the nodes of its decomposition. A node that is not appended is freed. */
static void append_lowered(scbm_graph *g, scbm_node *node, int is_wanted) {
    if (!g->status && is_wanted) {
        scbm_tensor *made = op_table[node->op].decompose(g, node);
        if (made) take_result(g, node, made);
    } else if (!g->status) {
        if (!scbm_grow(g->hooks, (void **)&g->nodes, &g->node_capacity, g->n_nodes + 1, sizeof *g->nodes)) {
            append_node(g, node);
            return;
        }
        graph_out_of_memory(g);
    }
    scbm_release(g->hooks, node);
}

/* Whether any node was replaced. */
static int lower_once(scbm_graph *g, int (*is_wanted)(const scbm_graph *g, const scbm_node *node)) {
    size_t n_old = g->n_nodes, first = 0;
    scbm_node **old = g->nodes;
    if (g->status) return 0;
    while (first < n_old && !(is_decomposable(g, old[first]) && is_wanted(g, old[first]))) first++;
    if (first == n_old) return 0;
    g->nodes = NULL;
    g->n_nodes = g->node_capacity = 0;
    for (size_t i = 0; i < n_old; i++) append_lowered(g, old[i], is_decomposable(g, old[i]) && is_wanted(g, old[i]));
    scbm_release(g->hooks, old);
    return 1;
}

/* Replaces nodes, and those that stand for them, until `is_wanted` leaves alone all that are left. */
static scbm_status lower(scbm_graph *g, int (*is_wanted)(const scbm_graph *g, const scbm_node *node)) {
    while (lower_once(g, is_wanted)) continue;
    return graph_status(g);
}

scbm_status scbm_graph_decompose(scbm_graph *g) {
    if (g->has_gradients || g->is_planned)
        graph_fail(g, SCBM_ERROR_ARGUMENT, "decompose: is called before backward, and before the graph is planned");
    g->is_decomposed = 1;
    return g->status ? graph_status(g) : lower(g, any_node);
}

/* ------------------------------------------------------------------------------------------
 * Graphs: the plan. Every intermediate gets a place in one workspace; a place is used again when
 * what stood there is dead. Inputs and outputs keep theirs.
 * ---------------------------------------------------------------------------------------- */

#define KEPT INT_MAX

/* A stretch of the workspace that is free at the moment. */
typedef struct free_block {
    size_t offset, size;
} free_block;

typedef struct plan_state {
    free_block *blocks;
    size_t n_blocks, capacity;
    size_t end; /* the workspace's size so far */
    int is_too_large;
} plan_state;

#define LARGEST_WORKSPACE (SIZE_MAX / 4)

/* A tensor's place in the workspace, with what the backend wants left behind it. */
static size_t storage_bytes(const graph_tensor *t) {
    const scbm_backend_functions *functions = t->public.graph->context->backend->functions;
    size_t bytes = scbm_tensor_bytes(&t->public), alignment = functions->alignment;
    if (!bytes) return 0;
    if (alignment < ALIGNMENT) alignment = ALIGNMENT;
    return (bytes + functions->padding + alignment - 1) & ~(alignment - 1);
}

/* Which node makes each tensor's memory first, and which reads it last; aliases count for their storage. */
static void find_lifetimes(scbm_graph *g) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        graph_tensor *t = g->tensors[i];
        t->first_use = t->is_input ? -1 : KEPT;
        t->last_use = t->is_input ? KEPT : -1;
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        for (int r = 0; r < g->nodes[i]->n_results; r++) {
            graph_tensor *t = storage_of(graph_tensor_of(g, g->nodes[i]->result[r]));
            if (t->first_use == KEPT) t->first_use = (int)i;
            if (t->last_use < (int)i) t->last_use = (int)i;
        }
        for (int s = 0; s < g->nodes[i]->n_sources; s++) {
            graph_tensor *t = g->nodes[i]->source[s] ? graph_tensor_of(g, g->nodes[i]->source[s]) : NULL;
            if (t && storage_of(t)->last_use < (int)i) storage_of(t)->last_use = (int)i;
        }
    }
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i]->is_output) storage_of(g->tensors[i])->last_use = KEPT;
}

/* The smallest free block that is large enough, else new space at the end. */
static size_t take_block(plan_state *plan, size_t size) {
    size_t best = plan->n_blocks;
    for (size_t i = 0; i < plan->n_blocks; i++)
        if (plan->blocks[i].size >= size && (best == plan->n_blocks || plan->blocks[i].size < plan->blocks[best].size))
            best = i;
    if (best < plan->n_blocks) {
        size_t offset = plan->blocks[best].offset;
        plan->blocks[best].offset += size;
        plan->blocks[best].size -= size;
        if (!plan->blocks[best].size) plan->blocks[best] = plan->blocks[--plan->n_blocks];
        return offset;
    }
    size_t offset = plan->end;
    for (size_t i = 0; i < plan->n_blocks; i++) { /* a free block at the end can grow */
        free_block *block = &plan->blocks[i];
        if (block->offset + block->size == plan->end) {
            offset = block->offset;
            *block = plan->blocks[--plan->n_blocks];
            break;
        }
    }
    if (size > LARGEST_WORKSPACE - offset) {
        plan->is_too_large = 1;
        return 0;
    }
    plan->end = offset + size;
    return offset;
}

static scbm_status give_block(scbm_graph *g, plan_state *plan, size_t offset, size_t size) {
    for (size_t i = 0; i < plan->n_blocks;) { /* merge with the neighbours */
        free_block block = plan->blocks[i];
        if (block.offset + block.size == offset || offset + size == block.offset) {
            offset = block.offset < offset ? block.offset : offset;
            size += block.size;
            plan->blocks[i] = plan->blocks[--plan->n_blocks];
            i = 0;
        } else {
            i++;
        }
    }
    scbm_status status = scbm_grow(g->hooks, (void **)&plan->blocks, &plan->capacity, plan->n_blocks + 1,
                                   sizeof *plan->blocks);
    if (!status) plan->blocks[plan->n_blocks++] = (free_block){offset, size};
    return status;
}

/* A source whose memory the first result may take: its last reader is this node, once, and sizes agree. */
static graph_tensor *in_place_source(scbm_graph *g, const scbm_node *node, int index) {
    unsigned allowed = op_table[node->op].info.in_place;
    for (int s = 0; s < node->n_sources; s++) {
        if (!(allowed >> s & 1) || !node->source[s] || !graph_tensor_of(g, node->source[s])) continue;
        graph_tensor *t = storage_of(graph_tensor_of(g, node->source[s]));
        int readers = 0;
        for (int o = 0; o < node->n_sources; o++) {
            graph_tensor *other = node->source[o] ? graph_tensor_of(g, node->source[o]) : NULL;
            readers += other && storage_of(other) == t;
        }
        if (t->last_use == index && readers == 1 && node->source[s]->type == node->result[0]->type &&
            same_shape(node->source[s], node->result[0]) &&
            scbm_tensor_bytes(&t->public) == scbm_tensor_bytes(node->result[0]))
            return t;
    }
    return NULL;
}

/* Whether node `i` has to stay behind node `before`: it reads what that one makes or writes, or writes what that one reads. */
static int depends_on(const scbm_graph *g, size_t i, size_t before) {
    const scbm_node *node = g->nodes[i], *other = g->nodes[before];
    for (int s = 0; s < node->n_sources; s++) {
        if (!node->source[s]) continue;
        const graph_tensor *t = graph_tensor_of(g, node->source[s]);
        for (int r = 0; r < other->n_results && t; r++)
            if (storage_of((graph_tensor *)(uintptr_t)t) == storage_of(graph_tensor_of(g, other->result[r]))) return 1;
        for (int o = 0; o < other->n_sources; o++)
            if (other->source[o] == node->source[s] && (is_updated(node, s) || is_updated(other, o))) return 1;
    }
    return 0;
}

/* Nodes that make little of much, or nothing: they are run as soon as they can be. */
static int moves_up(const scbm_node *node) {
    return node->op == SCBM_OP_ROW_SALIENCY || (op_table[node->op].info.updates && !node->n_results);
}

/* Such a node moves up to behind the last that it depends on, so that what it reads (the gradients of large matrices) need not
 * be kept. */
static void move_updates_up(scbm_graph *g) {
    if (g->n_watched) return; /* a watcher may write what they read */
    for (size_t i = 0; i < g->n_nodes; i++) {
        scbm_node *node = g->nodes[i];
        if (!moves_up(node)) continue;
        size_t to = i;
        while (to > 0 && !depends_on(g, i, to - 1)) to--;
        memmove(g->nodes + to + 1, g->nodes + to, (i - to) * sizeof *g->nodes);
        g->nodes[to] = node;
        for (size_t j = to; j <= i; j++)
            for (int r = 0; r < g->nodes[j]->n_results; r++) g->nodes[j]->result[r]->node = (int)j;
    }
}

static scbm_status place_node(scbm_graph *g, plan_state *plan, int index) {
    scbm_node *node = g->nodes[index];
    graph_tensor *taken = NULL;
    for (int r = 0; r < node->n_results; r++) {
        graph_tensor *t = graph_tensor_of(g, node->result[r]);
        if (t->alias || t->first_use != index) continue;
        if (r == 0 && (taken = in_place_source(g, node, index)) != NULL) t->offset = taken->offset;
        else if (storage_bytes(t)) t->offset = take_block(plan, storage_bytes(t));
    }
    /* Free what was read or made here for the last time. */
    graph_tensor *freed[SCBM_MAX_SOURCES + SCBM_MAX_RESULTS];
    int n_freed = 0;
    for (int i = 0; i < node->n_sources + node->n_results; i++) {
        const scbm_tensor *tensor = i < node->n_sources ? node->source[i] : node->result[i - node->n_sources];
        graph_tensor *t = tensor ? graph_tensor_of(g, tensor) : NULL;
        if (!t) continue;
        t = storage_of(t);
        int known = t == taken || t->last_use != index || !storage_bytes(t);
        for (int j = 0; j < n_freed && !known; j++) known = freed[j] == t;
        if (known) continue;
        freed[n_freed++] = t;
        scbm_status status = give_block(g, plan, t->offset, storage_bytes(t));
        if (status) return status;
    }
    return SCBM_OK;
}

/* Views of a call at the capacity (tokens < 0) or for a batch. */
static scbm_view view_of(const scbm_graph *g, const scbm_tensor *tensor, int64_t tokens, int64_t texts) {
    scbm_view view = {0};
    if (!tensor) return view;
    view.type = tensor->type;
    view.n_dims = tensor->n_dims;
    view.tensor = tensor;
    for (int i = 0; i < tensor->n_dims; i++)
        view.shape[i] = tokens < 0 || tensor->extent[i] == SCBM_FIXED ? tensor->shape[i]
                        : tensor->extent[i] == SCBM_TOKENS            ? tokens
                                                                      : texts;
    const graph_tensor *ours = graph_tensor_of(g, tensor);
    view.data = ours ? ours->device : g->context->backend->functions->is_host ? tensor->data : NULL;
    return view;
}

static void fill_call(const scbm_graph *g, const scbm_node *node, int64_t tokens, int64_t texts,
                      scbm_kernel_call *call) {
    memset(call, 0, sizeof *call);
    call->node = node;
    call->precision = g->precision;
    call->seed = g->seed;
    call->step = g->step;
    call->tokens = tokens < 0 ? g->max_tokens : tokens;
    call->texts = tokens < 0 ? g->max_texts : texts;
    for (int i = 0; i < node->n_sources; i++) call->source[i] = view_of(g, node->source[i], tokens, texts);
    for (int i = 0; i < node->n_results; i++) call->result[i] = view_of(g, node->result[i], tokens, texts);
}

/* The node after node i, if it is the only one that reads node i's result, and reads it as its first source. */
static const scbm_node *only_reader(const scbm_graph *g, size_t i) {
    const scbm_node *next = i + 1 < g->n_nodes ? g->nodes[i + 1] : NULL;
    const scbm_tensor *result = g->nodes[i]->result[0];
    const graph_tensor *t = result ? graph_tensor_of(g, result) : NULL;
    if (!next || next->op == SCBM_OP_RESHAPE || !t || t->alias || t->watch || t->last_use != (int)i + 1) return NULL;
    for (int s = 0; s < next->n_sources; s++)
        if ((next->source[s] == result) != (s == 0)) return NULL;
    return next;
}

/* What planning has found out about a node. */
struct graph_step {
    const scbm_kernel *kernel; /* the backend's; NULL: it has none, or there is nothing to run */
    const scbm_node *next;     /* on the CPU: the only reader of result[0] (see only_reader), or NULL */
    int is_on_host;            /* run by the CPU for a device that has no kernel for it */
};

typedef struct node_call { scbm_kernel_call call, next; } node_call;

static const scbm_backend_functions cpu_functions;
static void cpu_take_step(scbm_queue *queue, const scbm_node *node, const scbm_kernel_call *next);
static scbm_status cpu_run_nodes(scbm_graph *g);
static size_t cpu_scratch_of(scbm_backend *cpu, scbm_context *context, const scbm_kernel_call *call,
                             const scbm_kernel_call *next);
static scbm_status cpu_run_alone(scbm_backend *cpu, scbm_context *context, const scbm_kernel_call *call);

static int is_on_cpu(const scbm_graph *g) {
    return g->context->backend->functions == &cpu_functions;
}

/* The calls of node i and of what the CPU runs next with its result; that one, or NULL. */
static const scbm_kernel_call *fill_node_call(const scbm_graph *g, size_t i, int64_t tokens, int64_t texts,
                                              node_call *made) {
    const scbm_node *next = g->steps[i].next;
    fill_call(g, g->nodes[i], tokens, texts, &made->call);
    if (next) fill_call(g, next, tokens, texts, &made->next);
    return next ? &made->next : NULL;
}

/* The scratch that node i needs at the capacity. */
static size_t scratch_of_node(const scbm_graph *g, size_t i) {
    scbm_context *context = g->context;
    node_call made;
    const scbm_kernel_call *next = fill_node_call(g, i, -1, -1, &made);
    if (is_on_cpu(g)) return cpu_scratch_of(context->backend, context, &made.call, next);
    return g->steps[i].kernel->scratch ? g->steps[i].kernel->scratch(context->queue, &made.call) : 0;
}

/* What is read or kept must be an input or computed: a decomposed node leaves its first result alone. */
static scbm_status check_sources(const scbm_graph *g) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        const graph_tensor *t = g->tensors[i];
        if (!t->alias && t->first_use == KEPT && t->last_use >= 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s is read or an output, and no node of the graph computes it",
                             t->public.name);
    }
    return SCBM_OK;
}

static scbm_status not_supported(const scbm_graph *g, const scbm_node *node) {
    if (!has_kernel(g, node->op))
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s has no kernel for %s, and cannot do without",
                         scbm_context_device(g->context), node_name(node));
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s cannot run %s with these types in %s precision",
                     scbm_context_device(g->context), node_name(node), precision_names[g->precision]);
}

static size_t view_bytes(const scbm_view *view);

/* A node that the device lacks, and that has no decomposition, runs on the host's CPU where it is rare, or all such do. */
static int runs_on_host(const scbm_graph *g, const scbm_node *node) {
    const scbm_backend *backend = g->context->backend;
    const scbm_kernel *kernel = &cpu_functions.kernels[node->op];
    if (backend->functions->is_host) return 0;
    return kernel->run && !kernel->supports && (backend->cpu_fallback || op_table[node->op].is_rare);
}

static void release_steps(scbm_graph *g) {
    scbm_release(g->hooks, g->steps);
    g->steps = NULL;
}

/* What is asked of each node once, when all of them and their lifetimes are known. */
static scbm_status make_steps(scbm_graph *g) {
    release_steps(g);
    g->steps = scbm_alloc_array(g->hooks, g->n_nodes + 1, sizeof *g->steps);
    if (!g->steps) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i]->op == SCBM_OP_RESHAPE) continue;
        g->steps[i].kernel = kernel_of(g, g->nodes[i]);
        g->steps[i].is_on_host = !g->steps[i].kernel && runs_on_host(g, g->nodes[i]);
        if (is_on_cpu(g)) g->steps[i].next = only_reader(g, i);
    }
    return SCBM_OK;
}

/* Gives the views of a call places behind each other; returns what they take. */
static size_t place_on_host(scbm_kernel_call *call, unsigned char *memory) {
    size_t used = 0;
    for (int i = 0; i < SCBM_MAX_SOURCES + SCBM_MAX_RESULTS; i++) {
        scbm_view *view = i < SCBM_MAX_SOURCES ? &call->source[i] : &call->result[i - SCBM_MAX_SOURCES];
        if (!view->tensor) continue;
        view->data = memory ? memory + used : NULL;
        used += (view_bytes(view) + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    }
    return used;
}

/* The log is told once for each op and backend. */
static void tell_of_host(const scbm_graph *g, const scbm_node *node, size_t bytes) {
    struct scbm_residency *r = g->context->backend->copies;
    take_lock(&r->lock);
    int is_told = r->is_told[node->op];
    r->is_told[node->op] = 1;
    leave_lock(&r->lock);
    if (!is_told)
        scbm_log(g->hooks, SCBM_LOG_INFO, "%s has no %s: it runs on the CPU, and each time up to %zu bytes are copied",
                 scbm_context_device(g->context), node_name(node), bytes);
}

/* What the node needs on the host. */
static scbm_status plan_on_host(scbm_graph *g, const scbm_node *node) {
    const scbm_backend_options options = {.hooks = g->hooks};
    scbm_status status = g->host ? SCBM_OK : cpu_entry.open(&g->host, NULL, &options);
    if (status) return status;
    scbm_kernel_call call;
    fill_call(g, node, -1, -1, &call);
    size_t bytes = place_on_host(&call, NULL);
    tell_of_host(g, node, bytes);
    bytes += cpu_scratch_of(g->host, g->context, &call, NULL);
    if (bytes > g->host_bytes) g->host_bytes = bytes;
    return SCBM_OK;
}

static void place_inputs(scbm_graph *g, plan_state *plan, int are_constants) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        graph_tensor *t = g->tensors[i];
        if (t->is_input && t->is_constant == are_constants && storage_bytes(t))
            t->offset = take_block(plan, storage_bytes(t));
    }
}

/* Lays everything out without taking memory. */
static scbm_status lay_out(scbm_graph *g) {
    g->is_placed_next = 1;
    if (g->status || lower(g, g->is_decomposed ? any_node : is_not_supported)) return graph_status(g);
    plan_state plan = {0};
    move_updates_up(g);
    find_lifetimes(g);
    scbm_status status = check_sources(g);
    if (!status) status = make_steps(g);
    place_inputs(g, &plan, 0);
    g->input_bytes = plan.end;
    place_inputs(g, &plan, 1);
    g->constant_bytes = plan.end - g->input_bytes;
    size_t scratch = 0;
    for (size_t i = 0; i < g->n_nodes && !status; i++) {
        scbm_node *node = g->nodes[i];
        const scbm_kernel *kernel = g->steps[i].kernel;
        if (g->steps[i].is_on_host) status = plan_on_host(g, node);
        else if (!kernel && node->op != SCBM_OP_RESHAPE) status = not_supported(g, node);
        if (!status) status = place_node(g, &plan, (int)i);
        size_t bytes = status || !kernel ? 0 : scratch_of_node(g, i);
        if (bytes > scratch) scratch = bytes;
    }
    if (!status && (plan.is_too_large || scratch > LARGEST_WORKSPACE))
        status = scbm_fail(SCBM_ERROR_MEMORY, "out of memory: the graph's tensors take more than %zu bytes",
                           LARGEST_WORKSPACE);
    g->workspace_bytes = plan.end;
    g->scratch_bytes = scratch;
    scbm_release(g->hooks, plan.blocks);
    return status;
}

scbm_status scbm_graph_measure(scbm_graph *g, size_t *bytes) {
    *bytes = 0;
    scbm_status status = g->is_planned ? graph_status(g) : lay_out(g);
    if (!g->is_planned) release_steps(g);
    if (!status) *bytes = g->workspace_bytes + g->scratch_bytes + g->host_bytes;
    return status;
}

static void fill_constant(const graph_tensor *t, float *values) {
    int64_t n = scbm_tensor_elements(&t->public);
    for (int64_t i = 0; i < n; i++) values[i] = t->fill;
}

/* Points every tensor into the workspace. */
static void bind_tensors(scbm_graph *g) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        graph_tensor *t = g->tensors[i];
        t->device = (unsigned char *)g->workspace + storage_of(t)->offset;
        if (!g->context->backend->functions->is_host) continue;
        t->public.data = t->device;
        if (t->is_constant) fill_constant(t, t->device);
    }
}

/* What of a tensor comes from the host in every run. */
static int is_host_input(graph_tensor *t) {
    return storage_of(t)->is_input && !storage_of(t)->is_constant;
}

/* Host memory for the inputs, for what is fetched, and for one watched result at a time; the other tensors have none. */
static scbm_status take_host_memory(scbm_graph *g) {
    size_t watched = 0, end = 0;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i]->watch && storage_bytes(g->tensors[i]) > watched) watched = storage_bytes(g->tensors[i]);
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i]->is_fetched && !is_host_input(g->tensors[i])) end += storage_bytes(g->tensors[i]);
    g->host_inputs = stage_alloc(g, g->input_bytes + 1);
    g->host_memory = g->host_inputs ? stage_alloc(g, g->host_bytes + 1) : NULL;
    g->host_results = g->host_memory ? stage_alloc(g, watched + end + 1) : NULL;
    if (!g->host_results) return SCBM_ERROR_MEMORY;
    end = watched;
    for (size_t i = 0; i < g->n_tensors; i++) {
        graph_tensor *t = g->tensors[i];
        t->public.data = NULL;
        if (is_host_input(t)) {
            t->public.data = (unsigned char *)g->host_inputs + storage_of(t)->offset;
        } else if (t->watch) {
            t->public.data = g->host_results;
        } else if (t->is_fetched) {
            t->public.data = (unsigned char *)g->host_results + end;
            end += storage_bytes(t);
        }
    }
    return SCBM_OK;
}

/* Constants go to the device once. */
static scbm_status send_constants(scbm_graph *g) {
    const scbm_backend_functions *functions = g->context->backend->functions;
    if (!g->constant_bytes) return SCBM_OK;
    unsigned char *values = scbm_alloc(g->hooks, g->constant_bytes);
    if (!values) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i]->is_constant)
            fill_constant(g->tensors[i], (float *)(void *)(values + (g->tensors[i]->offset - g->input_bytes)));
    scbm_status status = functions->upload(g->context->queue, (unsigned char *)g->workspace + g->input_bytes, values,
                                           g->constant_bytes);
    if (!status) status = functions->wait(g->context->queue);
    scbm_release(g->hooks, values);
    return status;
}

/* Where each node's sources of the caller's are found among the externals, and which of those are written. */
static scbm_status find_externals(scbm_graph *g) {
    g->source_external = scbm_alloc_array(g->hooks, g->n_nodes + 1, sizeof *g->source_external);
    if (!g->source_external) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int s = 0; s < SCBM_MAX_SOURCES; s++) {
            const scbm_tensor *source = s < g->nodes[i]->n_sources ? g->nodes[i]->source[s] : NULL;
            graph_external *external = source && !source->graph ? find_external(g, source) : NULL;
            g->source_external[i][s] = external ? (int)(external - g->externals) : -1;
            if (!external) continue;
            external->is_read = 1;
            external->is_updated |= is_updated(g->nodes[i], s);
        }
    return SCBM_OK;
}

static scbm_status take_memory(scbm_graph *g) {
    g->workspace = device_alloc(g, g->workspace_bytes + 1); /* one spare byte: an empty graph has a workspace too */
    g->scratch = g->workspace ? device_alloc(g, g->scratch_bytes + 1) : NULL;
    if (!g->scratch) return SCBM_ERROR_MEMORY;
    bind_tensors(g);
    if (g->context->backend->functions->is_host) return SCBM_OK;
    scbm_status status = take_host_memory(g);
    if (!status) status = find_externals(g);
    return status ? status : send_constants(g);
}

scbm_status scbm_graph_plan(scbm_graph *g) {
    if (g->is_planned) return scbm_fail(SCBM_ERROR_ARGUMENT, "the graph is planned already");
    scbm_status status = lay_out(g);
    if (status) return status;
    status = take_memory(g);
    if (status) release_memory(g);
    if (status == SCBM_ERROR_MEMORY)
        return scbm_fail(status, "out of memory: the graph needs %zu bytes",
                         g->workspace_bytes + g->scratch_bytes + g->host_bytes);
    if (status) return status;
    g->n_loops = INT64_MAX;
    g->is_planned = 1;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Graphs: running
 * ---------------------------------------------------------------------------------------- */

void scbm_graph_set_random(scbm_graph *g, uint64_t seed, uint64_t step) {
    g->seed = seed;
    g->step = step;
}

void scbm_graph_shape(const scbm_graph *g, const scbm_tensor *tensor, int64_t shape[SCBM_MAX_DIMS]) {
    scbm_view view = view_of(g, tensor, g->tokens, g->texts);
    memcpy(shape, view.shape, sizeof view.shape);
}

const double *scbm_graph_op_seconds(const scbm_graph *g) {
    return g->seconds;
}

static size_t view_bytes(const scbm_view *view) {
    const scbm_type_info *info = &type_table[view->type];
    return (size_t)(shape_elements(view->n_dims, view->shape) / info->block) * (size_t)info->block_bytes;
}

/* ------------------------------------------------------------------------------------------
 * Graphs: what a run reads as an index, checked on the host before anything runs or is copied
 * ---------------------------------------------------------------------------------------- */

/* Every value is in [0, below). */
static scbm_status check_ids(const scbm_node *node, const char *what, const int32_t *values, int64_t n, int64_t below) {
    for (int64_t i = 0; i < n; i++)
        if (values[i] < 0 || values[i] >= below)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: %s %lld is %d, and must be at least 0 and below %lld",
                             node_name(node), what, (long long)i, (int)values[i], (long long)below);
    return SCBM_OK;
}

/* Bounds that ascend from at least 0 to at most `last`; `exact`: from 0 to `last`. */
static scbm_status check_bounds(const scbm_node *node, const char *what, const int32_t *bounds, int64_t n, int64_t last,
                                int exact) {
    for (int64_t i = 0; i <= n; i++) {
        int64_t least = i ? bounds[i - 1] : 0;
        if (bounds[i] < least || bounds[i] > last)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: %s %lld is %d, and must be at least %lld and at most %lld",
                             node_name(node), what, (long long)i, (int)bounds[i], (long long)least, (long long)last);
    }
    if (exact && (bounds[0] != 0 || bounds[n] != last))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: the %ss must run from 0 to %lld", node_name(node), what,
                         (long long)last);
    return SCBM_OK;
}

/* Classes within groups. */
static scbm_status check_targets(const scbm_node *node, const int32_t *labels, int64_t n_texts, const int32_t *groups,
                                 int64_t n_groups) {
    for (int64_t i = 0; i < n_texts * n_groups; i++) {
        int64_t k = i % n_groups, n = groups[k + 1] - groups[k];
        if (labels[i] >= n)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: the target of text %lld in group %lld is %d, of %lld classes",
                             node_name(node), (long long)(i / n_groups), (long long)k, (int)labels[i], (long long)n);
    }
    return SCBM_OK;
}

/* The tokens of the longest of the texts from … to − 1. */
static int64_t longest_text(const int32_t *offsets, int64_t from, int64_t to) {
    int64_t longest = 0;
    for (int64_t n = from; n < to; n++)
        if (offsets[n + 1] - offsets[n] > longest) longest = offsets[n + 1] - offsets[n];
    return longest;
}

/* A table of distances [1, 2 reach + 1, heads] is for texts of up to reach + 1 tokens. */
static scbm_status check_reach(const scbm_node *node, const scbm_tensor *bias, const int32_t *offsets,
                               int64_t n_texts) {
    int64_t most = (bias->shape[1] + 1) / 2, longest = longest_text(offsets, 0, n_texts);
    if (longest <= most) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_SHAPE, "%s: a text of %lld tokens, and the bias's distances are for %lld",
                     node_name(node), (long long)longest, (long long)most);
}

/* The input or the caller's tensor that holds what `tensor` is a copy of: indices are computed by no op. */
static const scbm_tensor *origin_of(const scbm_graph *g, const scbm_tensor *tensor) {
    while (tensor->graph && tensor->node >= 0) {
        const scbm_node *node = g->nodes[tensor->node];
        if (node->op != SCBM_OP_COPY && node->op != SCBM_OP_RESHAPE) break;
        tensor = node->source[0];
    }
    return tensor;
}

static scbm_status check_offsets(const scbm_graph *g, const scbm_node *node, const int32_t *offsets, int64_t tokens) {
    int bias = op_table[node->op].index.bias;
    scbm_status status = check_bounds(node, "offset", offsets, g->texts, tokens, 0);
    int64_t longest = status || !g->longest ? 0 : longest_text(offsets, 0, g->texts);
    if (longest > g->longest)
        return scbm_fail(SCBM_ERROR_SHAPE, "%s: a text of %lld tokens, and the graph's longest has %lld",
                         node_name(node), (long long)longest, (long long)g->longest);
    if (status || !bias || bias > node->n_sources || !node->source[bias - 1]) return status;
    return check_reach(node, node->source[bias - 1], offsets, g->texts);
}

static scbm_status check_node_indices(const scbm_graph *g, const scbm_node *node) {
    const op_index *c = &op_table[node->op].index;
    if (c->kind == NO_INDEX) return SCBM_OK;
    const scbm_view bound = view_of(g, c->of == RESULT ? node->result[0] : node->source[c->of], g->tokens, g->texts);
    const scbm_view view = view_of(g, node->source[c->source], g->tokens, g->texts);
    const scbm_tensor *origin = origin_of(g, node->source[c->source]);
    const int32_t *values = origin->data;
    if (view.type == SCBM_I32 && origin->graph && origin->node >= 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its indices are computed by %s, and are to be an input",
                         node_name(node), node_name(g->nodes[origin->node]));
    if (c->kind == IDS) return check_ids(node, "id", values, view.shape[0], bound.shape[c->dim]);
    if (c->kind == PERMUTATION) return check_ids(node, "permutation entry", values, view.shape[0], bound.shape[c->dim]);
    if (c->kind == OFFSETS) return check_offsets(g, node, values, bound.shape[c->dim]);
    const scbm_tensor *groups = node->source[c->source + (c->kind == TARGETS)];
    const int32_t *bounds = origin_of(g, groups)->data;
    scbm_status status = check_bounds(node, "group bound", bounds, groups->shape[0] - 1, bound.shape[c->dim], 1);
    if (status || c->kind == GROUPS || view.type != SCBM_I32) return status;
    return check_targets(node, values, view.shape[0], bounds, groups->shape[0] - 1);
}

static scbm_status check_indices(const scbm_graph *g) {
    scbm_status status = SCBM_OK;
    for (size_t i = 0; i < g->n_nodes && !status; i++) status = check_node_indices(g, g->nodes[i]);
    return status;
}

/* The masks that groups stand for: of stream k, all weights of the rows of group k. */
static scbm_status fill_group_masks(const scbm_graph *g, graph_tensor *t) {
    const scbm_node node = {.op = t->groups_of};
    const scbm_tensor *origin = origin_of(g, t->groups);
    int64_t streams = t->public.shape[0], rows = t->public.shape[1], bytes = t->public.shape[2];
    const int32_t *bounds = origin->data;
    if (origin->graph && origin->node >= 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its groups are computed by %s, and are to be an input",
                         node_name(&node), node_name(g->nodes[origin->node]));
    if (!bounds) return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: its groups have no data", node_name(&node));
    scbm_status status = check_bounds(&node, "group bound", bounds, streams, rows, 1);
    for (int64_t k = 0; k < streams && !status; k++) {
        unsigned char *to = (unsigned char *)t->public.data + k * rows * bytes;
        memset(to, 0, (size_t)(rows * bytes));
        memset(to + bounds[k] * bytes, 0xff, (size_t)((bounds[k + 1] - bounds[k]) * bytes));
    }
    return status;
}

static scbm_status fill_own_inputs(const scbm_graph *g) {
    scbm_status status = SCBM_OK;
    for (size_t i = 0; i < g->n_tensors && !status; i++)
        if (g->tensors[i]->groups) status = fill_group_masks(g, g->tensors[i]);
    return status;
}

/* Sees to it that what nodes read of the caller's is on the device. Copies that were made now are there before another
 * context can find them. */
static scbm_status bring_externals(scbm_graph *g) {
    struct scbm_residency *r = g->context->backend->copies;
    scbm_status status = SCBM_OK;
    int n_sent = 0;
    take_lock(&r->lock);
    for (size_t i = 0; i < g->n_externals && !status; i++) {
        graph_external *e = &g->externals[i];
        if (e->is_read) status = bring_tensor(g->context, e->tensor, e->is_updated, &e->device, &n_sent);
    }
    if (!status && n_sent) status = g->context->backend->functions->wait(g->context->queue);
    for (size_t i = 0; i < g->n_externals && !status && n_sent; i++)
        if (g->externals[i].is_read) confirm_tensor(g->context, g->externals[i].tensor);
    leave_lock(&r->lock);
    return status;
}

/* What nodes have updated is newer on the device, also where a watcher has fetched it in between. */
static void mark_updated(scbm_graph *g) {
    struct scbm_residency *r = g->context->backend->copies;
    take_lock(&r->lock);
    for (size_t i = 0; i < g->n_externals; i++) {
        device_copy *copy = g->externals[i].is_updated ? *find_copy(r, g->externals[i].tensor) : NULL;
        if (!copy || !copy->is_made) continue;
        copy->is_newer = 1;
        copy->context = g->context;
    }
    leave_lock(&r->lock);
}

/* All inputs go up in one piece. */
static scbm_status upload_sources(scbm_graph *g) {
    scbm_status status = bring_externals(g);
    if (status || !g->input_bytes) return status;
    return g->context->backend->functions->upload(g->context->queue, g->workspace, g->host_inputs, g->input_bytes);
}

static scbm_status download(const scbm_graph *g, const graph_tensor *t) {
    scbm_view view = view_of(g, &t->public, g->tokens, g->texts);
    size_t bytes = view_bytes(&view);
    if (!bytes) return SCBM_OK;
    return g->context->backend->functions->download(g->context->queue, t->public.data, t->device, bytes);
}

static scbm_status download_results(scbm_graph *g) {
    scbm_status status = SCBM_OK;
    for (size_t i = 0; i < g->n_tensors && !status; i++)
        if (g->tensors[i]->is_fetched && !is_host_input(g->tensors[i])) status = download(g, g->tensors[i]);
    return status;
}

/* Calls the watchers of what a node has just computed. */
static scbm_status call_watchers(scbm_graph *g, const scbm_node *node) {
    scbm_backend *backend = g->context->backend;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < node->n_results && !status; i++) {
        graph_tensor *t = graph_tensor_of(g, node->result[i]);
        if (!t->watch) continue;
        if (!backend->functions->is_host) {
            status = download(g, t);
            if (!status) status = backend->functions->wait(g->context->queue);
        }
        if (!status) status = t->watch(t->watch_user, &t->public);
        if (!status && !backend->functions->is_host)
            status = bring_externals(g); /* the watcher may have changed some */
    }
    return status;
}

/* All that nodes read of the caller's must have data. */
static scbm_status check_data(const scbm_graph *g) {
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int s = 0; s < g->nodes[i]->n_sources; s++) {
            const scbm_tensor *source = g->nodes[i]->source[s];
            if (source && !source->graph && !source->data)
                return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: tensor %s has no data", node_name(g->nodes[i]),
                                 source->name);
        }
    return SCBM_OK;
}

/* Runs a node's call of the device on the host: what it reads comes down, what it makes and updates goes up. */
static scbm_status run_on_host(scbm_graph *g, const scbm_kernel_call *call) {
    const scbm_backend_functions *functions = g->context->backend->functions;
    const scbm_node *node = call->node;
    scbm_queue *queue = g->context->queue;
    scbm_kernel_call own = *call;
    own.scratch = (unsigned char *)g->host_memory + place_on_host(&own, g->host_memory);
    if (!backend_has_precision(g->host, own.precision)) own.precision = SCBM_PRECISION_F32;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < node->n_sources && !status; i++)
        if (node->source[i] && view_bytes(&own.source[i]))
            status = functions->download(queue, own.source[i].data, call->source[i].data, view_bytes(&own.source[i]));
    if (!status) status = functions->wait(queue);
    if (!status) status = cpu_run_alone(g->host, g->context, &own);
    for (int i = 0; i < node->n_sources && !status; i++)
        if (is_updated(node, i) && view_bytes(&own.source[i]))
            status = functions->upload(queue, call->source[i].data, own.source[i].data, view_bytes(&own.source[i]));
    for (int i = 0; i < node->n_results && !status; i++)
        if (view_bytes(&own.result[i]))
            status = functions->upload(queue, call->result[i].data, own.result[i].data, view_bytes(&own.result[i]));
    return status ? status : functions->wait(queue); /* the memory is the next one's */
}

static scbm_status run_node(scbm_graph *g, size_t i) {
    const scbm_backend_functions *functions = g->context->backend->functions;
    const scbm_node *node = g->nodes[i];
    node_call made;
    const scbm_kernel_call *next = fill_node_call(g, i, g->tokens, g->texts, &made);
    made.call.scratch = g->scratch;
    for (int s = 0; s < node->n_sources && !functions->is_host; s++)
        if (g->source_external[i][s] >= 0) made.call.source[s].data = g->externals[g->source_external[i][s]].device;
    if (is_on_cpu(g)) cpu_take_step(g->context->queue, node, next);
    scbm_status status = g->steps[i].is_on_host ? run_on_host(g, &made.call)
                                                : g->steps[i].kernel->run(g->context->queue, &made.call);
    for (int s = 0; s < node->n_sources && functions->is_host; s++)
        if (is_updated(node, s) && node->source[s]) scbm_tensor_changed(node->source[s]);
    return status;
}

static scbm_status run_nodes(scbm_graph *g) {
    scbm_status status = SCBM_OK;
    double before = scbm_seconds();
    const scbm_node *previous = NULL;
    for (size_t i = 0; i < g->n_nodes && !status; i++) {
        if (g->nodes[i]->op == SCBM_OP_RESHAPE) continue;
        int goes_on = previous && op_table[previous->op].info.updates && op_table[g->nodes[i]->op].info.updates;
        if (!goes_on) status = scbm_progress(g->hooks, "graph", (int64_t)i, (int64_t)g->n_nodes);
        g->context->asks = g->context->hooks.cancel && !op_table[g->nodes[i]->op].info.updates;
        if (!status) status = run_node(g, i);
        previous = g->nodes[i];
        if (!status && g->n_watched) status = call_watchers(g, g->nodes[i]);
        if (!status && g->context->is_stopped) status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled");
        double after = scbm_seconds();
        g->seconds[g->nodes[i]->op] += after - before;
        before = after;
    }
    return status;
}

/* A run that has failed waits too: a device may still read the inputs, which the caller fills next. */
static scbm_status run_on_device(scbm_graph *g) {
    const scbm_backend_functions *functions = g->context->backend->functions;
    scbm_status status = upload_sources(g);
    if (!status) {
        status = run_nodes(g);
        mark_updated(g);
    }
    if (!status) status = download_results(g);
    if (!status) {
        status = functions->wait(g->context->queue);
        return !status && g->context->is_stopped ? scbm_fail(SCBM_ERROR_CANCELLED, "cancelled") : status;
    }
    char first[ERROR_SIZE];
    memcpy(first, error_text, sizeof first);
    return functions->wait(g->context->queue) ? scbm_fail(status, "%s", first) : status;
}

typedef struct graph_run {
    scbm_graph *graph;
    scbm_status status;
} graph_run;

static void graph_run_body(void *arg) {
    graph_run *run = arg;
    int is_host = run->graph->context->backend->functions->is_host;
    run->status = is_on_cpu(run->graph) ? cpu_run_nodes(run->graph)
                  : is_host             ? run_nodes(run->graph)
                                        : run_on_device(run->graph);
}

static scbm_status check_optimizers(const scbm_graph *g);
static void mark_step(scbm_graph *g, int was_done);

/* What keeps a graph from running, before anything is touched. */
static scbm_status check_run(const scbm_graph *g, int64_t tokens, int64_t texts) {
    if (!g->is_planned) return scbm_fail(SCBM_ERROR_ARGUMENT, "the graph was not planned");
    if (g->status) return graph_status(g);
    if (g->is_running)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the graph is running: it cannot be run inside its own run");
    if (tokens < 0 || texts < 0 || tokens > g->max_tokens || texts > g->max_texts)
        return scbm_fail(SCBM_ERROR_SHAPE, "a batch of %lld tokens and %lld texts: the graph holds %lld and %lld",
                         (long long)tokens, (long long)texts, (long long)g->max_tokens, (long long)g->max_texts);
    scbm_status status = check_optimizers(g);
    return status ? status : check_data(g);
}

scbm_status scbm_graph_run(scbm_graph *g, int64_t tokens, int64_t texts) {
    scbm_status status = check_run(g, tokens, texts);
    if (status) return status;
    g->tokens = tokens;
    g->texts = texts;
    status = check_indices(g);
    if (!status) status = fill_own_inputs(g);
    if (status) return status;
    g->is_running = 1;
    graph_run run = {g, SCBM_OK};
    int64_t before = g->context->n_loops;
    g->context->asks = g->context->hooks.cancel != NULL;
    g->context->asked = scbm_seconds();
    g->context->is_stopped = 0;
    if (g->n_loops > 1) with_crew(g->context, graph_run_body, &run);
    else graph_run_body(&run);
    g->n_loops = g->context->n_loops - before;
    g->context->asks = 0;
    g->is_running = 0;
    mark_step(g, run.status == SCBM_OK);
    return run.status;
}

/* ==========================================================================================
 * Part 3: model files
 * ======================================================================================== */

/* ------------------------------------------------------------------------------------------
 * Model files: numbers in text
 * ---------------------------------------------------------------------------------------- */

#define FILE_MAX_DIGITS 780 /* more significant digits than any double's rounding can depend on */

/* A decimal number as it was written: digits × 10^exponent. */
typedef struct file_decimal {
    char digits[FILE_MAX_DIGITS + 2];
    int n_digits;
    int negative;
    int64_t exponent;
} file_decimal;

static int file_is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* Adds a digit; those that cannot matter any more only leave a trace: a tie is still told from "a little more". */
static void file_add_digit(file_decimal *number, char digit, int after_point) {
    if (number->n_digits == 0 && digit == '0') {
        number->exponent -= after_point;
    } else if (number->n_digits < FILE_MAX_DIGITS) {
        number->digits[number->n_digits++] = digit;
        number->exponent -= after_point;
    } else {
        if (digit != '0') number->digits[FILE_MAX_DIGITS - 1] = '1';
        number->exponent += !after_point;
    }
}

/* Splits [+-]digits[.digits][e[+-]digits]; returns 0 when text is anything else. */
static int file_scan_decimal(const char *text, size_t length, file_decimal *number) {
    size_t i = 0;
    int n = 0, after_point = 0;
    memset(number, 0, sizeof *number);
    if (i < length && (text[i] == '+' || text[i] == '-')) number->negative = text[i++] == '-';
    for (; i < length; i++) {
        if (text[i] == '.' && !after_point) {
            after_point = 1;
        } else if (file_is_digit(text[i])) {
            file_add_digit(number, text[i], after_point);
            n = 1;
        } else {
            break;
        }
    }
    if (!n) return 0;
    if (i < length && (text[i] == 'e' || text[i] == 'E')) {
        int64_t exponent = 0;
        int negative = 0;
        if (++i < length && (text[i] == '+' || text[i] == '-')) negative = text[i++] == '-';
        if (i == length) return 0;
        for (; i < length && file_is_digit(text[i]); i++)
            if (exponent < 1000000000000) exponent = exponent * 10 + (text[i] - '0');
        number->exponent += negative ? -exponent : exponent;
    }
    return i == length;
}

static const double file_powers_of_ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* digits × 10^exponent, rounded once when digits ≤ 2^53 and |exponent| ≤ 22: both factors are exact then. */
static double file_scale_by_ten(uint64_t digits, int exponent) {
    return exponent < 0 ? (double)digits / file_powers_of_ten[-exponent]
                        : (double)digits * file_powers_of_ten[exponent];
}

/* The nearest double; infinite when there is none. strtod gets an integer with an exponent, in which no locale has
 * a decimal point of its own. */
static double file_decimal_value(const file_decimal *number) {
    char text[FILE_MAX_DIGITS + 32];
    if (number->n_digits == 0) return number->negative ? -0.0 : 0.0;
    double value;
    if (number->n_digits <= 15 && number->exponent >= -22 && number->exponent <= 22) {
        uint64_t digits = 0;
        for (int i = 0; i < number->n_digits; i++) digits = digits * 10 + (uint64_t)(number->digits[i] - '0');
        value = file_scale_by_ten(digits, (int)number->exponent);
    } else {
        int64_t exponent = number->exponent;
        if (exponent > 100000) exponent = 100000;
        if (exponent < -100000) exponent = -100000;
        snprintf(text, sizeof text, "%.*se%d", number->n_digits, number->digits, (int)exponent);
        value = strtod(text, NULL);
    }
    return number->negative ? -value : value;
}

scbm_status scbm_parse_double(const char *text, size_t length, double *value) {
    file_decimal number;
    int shown = length > 60 ? 60 : (int)length;
    if (!file_scan_decimal(text, length, &number))
        return scbm_fail(SCBM_ERROR_FORMAT, "'%.*s' is not a number", shown, text);
    double result = file_decimal_value(&number);
    if (isinf(result)) return scbm_fail(SCBM_ERROR_FORMAT, "the number '%.*s' is too large", shown, text);
    *value = result;
    return SCBM_OK;
}

/* Writes digits (n of them) × 10^(point − n), as 0.001, 12.5 or 1.5e-7. */
static const char *file_print_digits(int negative, const char *digits, int n, int point, char text[32]) {
    char *out = text;
    if (negative) *out++ = '-';
    if (point < -4 || point > 16) {
        *out++ = digits[0];
        if (n > 1) *out++ = '.';
        for (int i = 1; i < n; i++) *out++ = digits[i];
        snprintf(out, (size_t)(text + 32 - out), "e%d", point - 1);
        return text;
    }
    if (point <= 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = point; i < 0; i++) *out++ = '0';
    }
    for (int i = 0; i < n || i < point; i++) {
        if (i == point && point > 0) *out++ = '.';
        *out++ = i < n ? digits[i] : '0';
    }
    *out = 0;
    return text;
}

/* Whether digits × 10^exponent reads back as the value. */
static int file_reads_back(uint64_t digits, int exponent, double value, int is_float) {
    double read;
    if (digits <= ((uint64_t)1 << 53) && exponent >= -22 && exponent <= 22) {
        read = file_scale_by_ten(digits, exponent);
    } else {
        char text[48];
        snprintf(text, sizeof text, "%llue%d", (unsigned long long)digits, exponent);
        read = strtod(text, NULL);
    }
    return is_float ? (float)read == (float)value : read == value;
}

/* The value rounded to `precision` digits, and in *exponent what they are to be multiplied with. snprintf's decimal
 * point is the locale's, and skipped. */
static uint64_t file_first_digits(double value, int precision, int *exponent) {
    char text[64];
    uint64_t digits = 0;
    snprintf(text, sizeof text, "%.*e", precision - 1, value);
    const char *mark = strchr(text, 'e');
    for (const char *c = text; c < mark; c++)
        if (file_is_digit(*c)) digits = digits * 10 + (uint64_t)(*c - '0');
    *exponent = atoi(mark + 1) - (precision - 1);
    return digits;
}

/* The same for at most 9 digits of values of usual size, by arithmetic: embeddings are long. 0: not possible. */
static uint64_t file_first_digits_fast(double value, int precision, int *exponent) {
    if (precision > 9 || !(value >= 1e-12 && value < 1e15)) return 0;
    int power = 0, scale;
    while (file_powers_of_ten[power] <= value) power++;
    for (scale = precision - power;
         power == 0 && value * file_powers_of_ten[scale + 1] < file_powers_of_ten[precision];)
        scale++;
    double scaled = scale < 0 ? value / file_powers_of_ten[-scale] : value * file_powers_of_ten[scale];
    *exponent = -scale;
    return (uint64_t)(scaled + 0.5);
}

/* Tries more and more digits. As many as any number of the type has for certain (6 of a float, 15 of a double) are
 * right or too few, and zeros at their end are left out; only subnormal numbers have fewer. */
static const char *file_print_number(double value, int is_float, char text[32]) {
    double size = fabs(value), least_normal = is_float ? (double)FLT_MIN : DBL_MIN;
    int negative = signbit(value) != 0, exponent = 0, most = is_float ? 9 : 17;
    int precision = size < least_normal ? 1 : is_float ? FLT_DIG : DBL_DIG;
    if (isnan(value)) return strcpy(text, "nan");
    if (isinf(value)) return strcpy(text, negative ? "-inf" : "inf");
    if (value == 0) return strcpy(text, negative ? "-0" : "0");
    uint64_t digits = 0;
    for (; precision <= most; precision++) {
        digits = file_first_digits_fast(size, precision, &exponent);
        if (!digits) digits = file_first_digits(size, precision, &exponent);
        if (file_reads_back(digits, exponent, size, is_float)) break;
    }
    while (digits % 10 == 0) {
        digits /= 10;
        exponent++;
    }
    char written[24];
    int n = snprintf(written, sizeof written, "%llu", (unsigned long long)digits);
    return file_print_digits(negative, written, n, n + exponent, text);
}

const char *scbm_print_double(double value, char text[32]) {
    return file_print_number(value, 0, text);
}

const char *scbm_print_float(float value, char text[32]) {
    return file_print_number((double)value, 1, text);
}

/* ------------------------------------------------------------------------------------------
 * Model files: whole files in memory
 * ---------------------------------------------------------------------------------------- */

#if defined(__unix__) || defined(__APPLE__)
#define FILE_POSIX 1
#else
#define FILE_POSIX 0
#endif

/* A path in messages, cut so that the reason behind it still fits. */
#define FILE_PATH_FORMAT "%.300s"

static const unsigned char file_no_bytes[1];

static scbm_status file_cannot(const char *path, const char *what, int error) {
    return scbm_fail(SCBM_ERROR_IO, FILE_PATH_FORMAT ": cannot be %s: %s", path, what, strerror(error));
}

/* Reads until the end, whatever the file is: a pipe, a device. */
static scbm_status file_read_stream(scbm_bytes *bytes, FILE *stream, const char *path, const scbm_hooks *hooks) {
    void *buffer = NULL;
    size_t used = 0, capacity = 0;
    scbm_status status = SCBM_OK;
    for (;;) {
        if (used == capacity) status = scbm_grow(hooks, &buffer, &capacity, used + 65536, 1);
        if (status) break;
        size_t n = fread((unsigned char *)buffer + used, 1, capacity - used, stream);
        used += n;
        if (n) continue;
        if (ferror(stream)) status = file_cannot(path, "read", errno);
        break;
    }
    if (status) {
        scbm_release(hooks, buffer);
        return status;
    }
    bytes->data = buffer;
    bytes->size = used;
    bytes->handle = buffer;
    return SCBM_OK;
}

#if FILE_POSIX
/* Maps a regular file; returns 0 when it has to be read instead. */
static int file_map(scbm_bytes *bytes, int descriptor, const struct stat *facts) {
    if (!S_ISREG(facts->st_mode) || facts->st_size <= 0 || (uintmax_t)facts->st_size > SIZE_MAX / 2) return 0;
    void *data = mmap(NULL, (size_t)facts->st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) return 0;
    bytes->data = data;
    bytes->size = (size_t)facts->st_size;
    return 1;
}

/* A pipe without a writer may be waited for, until the cancel hook says otherwise. */
static scbm_status file_open_descriptor(const char *path, int *descriptor, struct stat *facts,
                                        const scbm_hooks *hooks) {
    for (;;) {
        *descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (*descriptor >= 0 || errno != EINTR) break;
        if (scbm_cancelled(hooks)) return SCBM_ERROR_CANCELLED;
    }
    if (*descriptor < 0) return file_cannot(path, "opened", errno);
    scbm_status status = SCBM_OK;
    if (fstat(*descriptor, facts)) status = file_cannot(path, "read", errno);
    else if (S_ISDIR(facts->st_mode))
        status = scbm_fail(SCBM_ERROR_IO, FILE_PATH_FORMAT ": is a folder, not a file", path);
    if (status) close(*descriptor);
    return status;
}

/* A file that is mapped, as it was then. The descriptor is of that file, whatever has its name since. */
typedef struct file_watch {
    int descriptor; /* -1: it is not mapped */
    struct stat facts;
} file_watch;

static scbm_status file_check(const file_watch *watch, const char *path) {
    struct stat now;
    if (watch->descriptor < 0) return SCBM_OK;
    if (fstat(watch->descriptor, &now)) return file_cannot(path, "read", errno);
    if (now.st_size == watch->facts.st_size && now.st_mtime == watch->facts.st_mtime
#if defined(__linux__)
        && now.st_mtim.tv_nsec == watch->facts.st_mtim.tv_nsec
#endif
    )
        return SCBM_OK;
    return scbm_fail(SCBM_ERROR_IO,
                     FILE_PATH_FORMAT ": was written to after it was opened; open it again, and give a new "
                                      "file its name by renaming, so that whoever reads the old one keeps it",
                     path);
}

static void file_watch_end(file_watch *watch) {
    if (watch->descriptor >= 0) close(watch->descriptor);
    watch->descriptor = -1;
}

/* `watch` NULL: nobody asks what becomes of the file. */
static scbm_status file_bytes_open(scbm_bytes *bytes, const char *path, const scbm_hooks *hooks, file_watch *watch) {
    struct stat facts;
    int descriptor;
    memset(bytes, 0, sizeof *bytes);
    bytes->data = file_no_bytes;
    scbm_status status = file_open_descriptor(path, &descriptor, &facts, hooks);
    if (status) return status;
    if (file_map(bytes, descriptor, &facts)) {
        if (watch) *watch = (file_watch){descriptor, facts};
        else close(descriptor); /* the mapping stays */
        return SCBM_OK;
    }
    FILE *stream = fdopen(descriptor, "rb");
    if (!stream) {
        status = file_cannot(path, "opened", errno);
        close(descriptor);
        return status;
    }
    status = file_read_stream(bytes, stream, path, hooks);
    fclose(stream);
    return status;
}

scbm_status scbm_bytes_open(scbm_bytes *bytes, const char *path, const scbm_hooks *hooks) {
    return file_bytes_open(bytes, path, hooks, NULL);
}

static void file_unmap(scbm_bytes *bytes) {
    munmap((void *)(uintptr_t)bytes->data, bytes->size);
}

void scbm_bytes_give_back(const scbm_bytes *bytes, const void *data, size_t n) {
#ifdef MADV_DONTNEED
    long page = sysconf(_SC_PAGESIZE);
    if (bytes->handle || !n || page < 1) return;
    uintptr_t begin = (uintptr_t)data / (uintptr_t)page * (uintptr_t)page;
    madvise((void *)begin, (uintptr_t)data + n - begin, MADV_DONTNEED);
#else
    (void)bytes;
    (void)data;
    (void)n;
#endif
}
#else
typedef struct file_watch {
    int descriptor;
} file_watch;

static scbm_status file_check(const file_watch *watch, const char *path) {
    (void)watch;
    (void)path;
    return SCBM_OK;
}

static void file_watch_end(file_watch *watch) {
    (void)watch;
}

static scbm_status file_bytes_open(scbm_bytes *bytes, const char *path, const scbm_hooks *hooks, file_watch *watch) {
    (void)watch;
    return scbm_bytes_open(bytes, path, hooks);
}

scbm_status scbm_bytes_open(scbm_bytes *bytes, const char *path, const scbm_hooks *hooks) {
    memset(bytes, 0, sizeof *bytes);
    bytes->data = file_no_bytes;
    FILE *stream = fopen(path, "rb");
    if (!stream) return file_cannot(path, "opened", errno);
    scbm_status status = file_read_stream(bytes, stream, path, hooks);
    fclose(stream);
    return status;
}

static void file_unmap(scbm_bytes *bytes) {
    (void)bytes;
}

void scbm_bytes_give_back(const scbm_bytes *bytes, const void *data, size_t n) {
    (void)bytes;
    (void)data;
    (void)n;
}
#endif

void scbm_bytes_close(scbm_bytes *bytes, const scbm_hooks *hooks) {
    if (!bytes) return;
    if (bytes->handle) scbm_release(hooks, bytes->handle);
    else if (bytes->size) file_unmap(bytes);
    memset(bytes, 0, sizeof *bytes);
    bytes->data = file_no_bytes;
}

/* ------------------------------------------------------------------------------------------
 * Model files: what a file is that is none of ours
 * ---------------------------------------------------------------------------------------- */

#define FILE_AS_TABLE "; save it as CSV, TSV or JSON Lines"
#define FILE_AS_WEIGHTS "; save the model as safetensors"
#define FILE_PACKED(by, how) "compressed with " by "; `" how "` unpacks it"
#define FILE_IS(magic) magic, sizeof magic - 1

/* What a file begins with. */
static const struct file_kind {
    const char *magic;
    size_t size;
    const char *what;
} file_kinds[] = {
    {FILE_IS("\x1f\x8b"), FILE_PACKED("gzip", "gunzip")},
    {FILE_IS("BZh"), FILE_PACKED("bzip2", "bunzip2")},
    {FILE_IS("\xfd" "7zXZ"), FILE_PACKED("xz", "unxz")},
    {FILE_IS("\x28\xb5\x2f\xfd"), FILE_PACKED("Zstandard", "unzstd")},
    {FILE_IS("\x04\x22\x4d\x18"), FILE_PACKED("LZ4", "unlz4")},
    {FILE_IS("7z\xbc\xaf\x27\x1c"), "a 7-Zip archive; `7z x` unpacks it"},
    {FILE_IS("Rar!\x1a\x07"), "a RAR archive; it has to be unpacked"},
    {FILE_IS("PAR1"), "a Parquet table" FILE_AS_TABLE},
    {FILE_IS("ARROW1"), "an Arrow table" FILE_AS_TABLE},
    {FILE_IS("FEA1"), "a Feather table" FILE_AS_TABLE},
    {FILE_IS("ORC"), "an ORC table" FILE_AS_TABLE},
    {FILE_IS("Obj\x01"), "an Avro file" FILE_AS_TABLE},
    {FILE_IS("SQLite format 3"), "an SQLite database" FILE_AS_TABLE},
    {FILE_IS("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an Excel or Word file of old" FILE_AS_TABLE},
    {FILE_IS("\x89HDF\r\n\x1a\n"), "an HDF5 file; save a model as safetensors, a table as CSV"},
    {FILE_IS("\x93NUMPY"), "a NumPy array; save a model as safetensors, a table as CSV"},
    {FILE_IS("\x80\x02"), "a Python pickle, as old PyTorch checkpoints are" FILE_AS_WEIGHTS},
    {FILE_IS("\x80\x03"), "a Python pickle; save a model as safetensors, a table as CSV"},
    {FILE_IS("\x80\x04"), "a Python pickle; save a model as safetensors, a table as CSV"},
    {FILE_IS("\x80\x05"), "a Python pickle; save a model as safetensors, a table as CSV"},
    {FILE_IS("GGUF"), "a GGUF model file"},
    {FILE_IS("lmgg"), "a GGML file, from before GGUF; convert the model anew"},
    {FILE_IS("tjgg"), "a GGML file, from before GGUF; convert the model anew"},
    {FILE_IS("fmgg"), "a GGML file, from before GGUF; convert the model anew"},
    {FILE_IS("\x89PNG"), "a picture"},
    {FILE_IS("\xff\xd8\xff"), "a picture"},
    {FILE_IS("\xff\xfe"), "UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"},
    {FILE_IS("\xfe\xff"), "UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"},
};

/* What stands in place of a large file until it is fetched. */
static const struct file_kind file_pointers[] = {
    {FILE_IS("version https://git-lfs"), "a Git LFS pointer, not the file itself; `git lfs pull` fetches it"},
    {FILE_IS("/annex/objects/"), "a git-annex pointer, not the file itself; `git annex get` fetches it"},
};

/* Text that is not what was asked for, in small letters. */
static const struct file_kind file_texts[] = {
    {FILE_IS("<!doctype html"), "a web page, perhaps one that a server sent in place of the file; download it anew"},
    {FILE_IS("<html"), "a web page, perhaps one that a server sent in place of the file; download it anew"},
    {FILE_IS("<?xml"), "XML, perhaps what a server sent in place of the file"},
    {FILE_IS("%pdf-"), "a PDF document; its text has to be taken out first"},
    {FILE_IS("{\\rtf"), "a text with formatting (RTF); save it as plain text in UTF-8"},
    {FILE_IS("entry not found"), "a server's answer, \"Entry not found\", not the file; download it anew"},
    {FILE_IS("repository not found"), "a server's answer, \"Repository not found\", not the file; download it anew"},
    {FILE_IS("invalid username or password"), "a server's answer about a password, not the file; download it anew"},
    {FILE_IS("access to model"), "a server's answer about access to the model, not the file; download it anew"},
};

/* Whether there is a control character that no text has near the beginning: "ORC" may be a word. */
static int file_is_binary(const unsigned char *data, size_t size) {
    for (size_t i = 0; i < size && i < 64; i++)
        if (data[i] < '\t' || (data[i] > '\r' && data[i] < ' ')) return 1;
    return size && data[0] >= 0x80;
}

/* The first of n kinds that the bytes begin with; `fold`: in small letters. */
static const char *file_find_kind(const struct file_kind *kinds, int n, const unsigned char *data, size_t size,
                                  int fold) {
    for (int i = 0; i < n; i++) {
        size_t j = 0;
        for (; j < kinds[i].size && j < size; j++) {
            unsigned char c = data[j];
            if (fold && c >= 'A' && c <= 'Z') c = (unsigned char)(c - 'A' + 'a');
            if (c != (unsigned char)kinds[i].magic[j]) break;
        }
        if (j == kinds[i].size) return kinds[i].what;
    }
    return NULL;
}

/* Whether the name of the first file in a zip archive has these words in it. */
static int file_zip_begins_with(const unsigned char *data, size_t size, const char *words) {
    enum { NAME_LENGTH = 26, NAME = 30 };
    size_t length = size < NAME ? 0 : (size_t)(data[NAME_LENGTH] | data[NAME_LENGTH + 1] << 8), n = strlen(words);
    if (length > size - NAME) length = size - NAME;
    for (size_t i = 0; size >= NAME && i + n <= length; i++)
        if (memcmp(data + NAME + i, words, n) == 0) return 1;
    return 0;
}

static const char *file_recognize_zip(const unsigned char *data, size_t size) {
    if (size < 4 || memcmp(data, "PK\x03\x04", 4)) return NULL;
    if (file_zip_begins_with(data, size, "data.pkl")) return "a PyTorch checkpoint (zip)" FILE_AS_WEIGHTS;
    if (file_zip_begins_with(data, size, ".npy"))
        return "NumPy arrays (.npz); save a model as safetensors, a table as CSV";
    if (file_zip_begins_with(data, size, "[Content_Types].xml") || file_zip_begins_with(data, size, "mimetype"))
        return "an Excel, Word or OpenDocument file" FILE_AS_TABLE;
    return "a zip archive; `unzip` unpacks it";
}

/* safetensors: the length of a header in JSON, and the header. */
static int file_is_safetensors(const unsigned char *data, size_t size) {
    return size > 10 && !data[4] && !data[5] && !data[6] && !data[7] && data[8] == '{' && data[9] == '"';
}

/* What no mark at the beginning tells: text in two bytes a character, zeros, Arrow's messages (a mark that other files may
 * have, and a length of few bytes), tar's mark in its first block. */
static const char *file_recognize_pattern(const unsigned char *data, size_t size) {
    enum { SAMPLE = 16, TAR = 257 };
    size_t zeros[2] = {0, 0};
    for (size_t i = 0; i < size && i < SAMPLE; i++) zeros[i & 1] += !data[i];
    if (size >= SAMPLE && zeros[0] + zeros[1] == SAMPLE)
        return "nothing but zeros at its beginning: an interrupted copy or download";
    if (size >= SAMPLE && zeros[0] + zeros[1] == SAMPLE / 2 && (!zeros[0] || !zeros[1]))
        return "UTF-16; save it as UTF-8 (iconv -f UTF-16LE -t UTF-8)";
    if (size >= 8 && !memcmp(data, "\xff\xff\xff\xff", 4) && !data[7]) return "an Arrow stream" FILE_AS_TABLE;
    return size >= TAR + 5 && !memcmp(data + TAR, "ustar", 5) ? "a tar archive; `tar xf` unpacks it" : NULL;
}

const char *scbm_bytes_recognize(const void *bytes, size_t size, int any_text) {
    const unsigned char *data = bytes;
    const char *found = file_find_kind(file_pointers, COUNT_OF(file_pointers), data, size, 0);
    if (!found) found = file_recognize_zip(data, size);
    if (!found && file_is_safetensors(data, size))
        found = "weights in safetensors; the folder that they are from has to be converted";
    if (!found && file_is_binary(data, size))
        found = file_find_kind(file_kinds, COUNT_OF(file_kinds), data, size, 0);
    if (!found) found = file_recognize_pattern(data, size);
    if (found || any_text) return found;
    if (size >= 3 && !memcmp(data, "\xef\xbb\xbf", 3)) data += 3, size -= 3;
    while (size && (*data == ' ' || (*data >= '\t' && *data <= '\r'))) data++, size--;
    return file_find_kind(file_texts, COUNT_OF(file_texts), data, size, 1);
}

/* ------------------------------------------------------------------------------------------
 * Model files: files that are replaced as a whole
 * ---------------------------------------------------------------------------------------- */

#define FILE_BUFFER ((size_t)1 << 18)

struct scbm_output_file {
    scbm_hooks hooks;
    char *path;      /* what is replaced: behind symbolic links, the file itself */
    char *temporary; /* NULL: a device or pipe, which is written to directly */
    struct noted_path *noted; /* that it is this process's; NULL: it is not noted */
    FILE *stream;
    unsigned char *buffer;
    size_t used;
    scbm_status status; /* the first failure */
    char message[ERROR_SIZE];
};

static void output_keep_error(scbm_output_file *output, scbm_status status) {
    if (output->status) return;
    output->status = status;
    snprintf(output->message, sizeof output->message, "%s", scbm_last_error());
}

static void output_free(scbm_output_file *output) {
    const scbm_hooks hooks = output->hooks;
    scbm_release(&hooks, output->buffer);
    scbm_release(&hooks, output->temporary);
    scbm_release(&hooks, output->path);
    scbm_release(&hooks, output);
}

#if FILE_POSIX
/* Temporary files are "<path>.<n>.tmp", each held with a lock of the system's, which ends with the process whatever ends it:
 * a file that can be locked is nobody's any more, and goes. (A process's number says nothing across containers.) */
enum { MOST_TEMPORARY = 100, LOOKED_AT = 8 };

/* Those of this process, for scbm_output_remove_temporary. What finds no place here is left to the next writer. */
enum { NOTED_PATHS = 32, NOTE_FREE = 0, NOTE_BEING_WRITTEN, NOTE_WRITTEN };

static struct noted_path {
    K_ATOMIC int state;
    pid_t process; /* a forked child does not remove its parent's */
    char path[4096];
} noted_paths[NOTED_PATHS];

static struct noted_path *output_note(const char *path) {
    for (int i = 0; i < NOTED_PATHS; i++) {
        struct noted_path *noted = &noted_paths[i];
        int expected = NOTE_FREE;
        if (strlen(path) >= sizeof noted->path) return NULL;
#ifndef __STDC_NO_ATOMICS__
        if (!atomic_compare_exchange_strong(&noted->state, &expected, NOTE_BEING_WRITTEN)) continue;
#else
        if (noted->state != expected) continue;
#endif
        strcpy(noted->path, path);
        noted->process = getpid();
        noted->state = NOTE_WRITTEN;
        return noted;
    }
    return NULL;
}

static void output_forget(scbm_output_file *output) {
    if (output->noted) output->noted->state = NOTE_FREE;
    output->noted = NULL;
}

void scbm_output_remove_temporary(void) {
    for (int i = 0; i < NOTED_PATHS; i++)
        if (noted_paths[i].state == NOTE_WRITTEN && noted_paths[i].process == getpid()) unlink(noted_paths[i].path);
}

static int output_has_name(int descriptor, const char *path) {
    struct stat opened, named;
    return fstat(descriptor, &opened) == 0 && lstat(path, &named) == 0 && S_ISREG(named.st_mode) &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* Removes what a process that is no more has left under this name. */
static void output_remove_dead(const char *path) {
    int descriptor = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0 && errno == EACCES) descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) return;
    if (output_has_name(descriptor, path) && flock(descriptor, LOCK_EX | LOCK_NB) == 0 &&
        output_has_name(descriptor, path))
        unlink(path);
    close(descriptor);
}

/* A new file of this name with a lock; where the system has no locks, without one. */
static int output_create(const char *path, mode_t mode) {
    for (int i = 0; i < MOST_TEMPORARY; i++) {
        int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode), failed;
        if (descriptor < 0 && errno == EINTR) continue;
        if (descriptor < 0) return -1;
        do failed = flock(descriptor, LOCK_EX);
        while (failed && errno == EINTR);
        if (output_has_name(descriptor, path)) return descriptor;
        close(descriptor); /* another writer took it for a dead one's before it had its lock */
    }
    errno = EAGAIN;
    return -1;
}

static FILE *output_open_temporary(scbm_output_file *output, mode_t mode) {
    size_t size = strlen(output->path) + 32;
    int descriptor = -1, n = 0;
    output->temporary = scbm_alloc(&output->hooks, 2 * size); /* and another name, to look at */
    if (!output->temporary) return NULL;
    for (; n < MOST_TEMPORARY && descriptor < 0; n++) {
        snprintf(output->temporary, size, "%s.%d.tmp", output->path, n);
        output_remove_dead(output->temporary);
        descriptor = output_create(output->temporary, mode);
        if (descriptor < 0 && errno != EEXIST) break;
    }
    FILE *stream = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (stream) {
        char *other = output->temporary + size;
        output->noted = output_note(output->temporary);
        for (; n < LOOKED_AT; n++) {
            snprintf(other, size, "%s.%d.tmp", output->path, n);
            output_remove_dead(other);
        }
        return stream;
    }
    file_cannot(output->path, "written", errno);
    if (descriptor >= 0) {
        unlink(output->temporary);
        close(descriptor);
    }
    return NULL;
}

/* The file that is really meant: symbolic links are followed, so that they stay. */
static char *output_resolve(const scbm_hooks *hooks, const char *path) {
    char *real = realpath(path, NULL), *copy = scbm_strdup(hooks, real ? real : path);
    free(real);
    return copy;
}

/* A file that exists keeps its permissions. A device or pipe cannot be replaced: it is written to. */
static scbm_status output_open_stream(scbm_output_file *output, const char *path) {
    struct stat facts;
    int exists = stat(path, &facts) == 0;
    if (exists && S_ISDIR(facts.st_mode))
        return scbm_fail(SCBM_ERROR_IO, FILE_PATH_FORMAT ": is a folder; a file name is needed", path);
    if (!exists && lstat(path, &facts) == 0 && S_ISLNK(facts.st_mode)) /* in a shared folder it may be anybody's */
        return scbm_fail(SCBM_ERROR_IO,
                         FILE_PATH_FORMAT ": is a symbolic link that leads to no file; remove it, or make the file",
                         path);
    int is_special = exists && !S_ISREG(facts.st_mode);
    output->path = is_special ? scbm_strdup(&output->hooks, path) : output_resolve(&output->hooks, path);
    if (!output->path) return SCBM_ERROR_MEMORY;
    if (is_special) {
        output->stream = fopen(path, "wb");
        return output->stream ? SCBM_OK : file_cannot(path, "written", errno);
    }
    output->stream = output_open_temporary(output, exists ? facts.st_mode & 0777 : 0666);
    if (!output->stream) return output->temporary ? SCBM_ERROR_IO : SCBM_ERROR_MEMORY;
    if (exists) (void)!fchmod(fileno(output->stream), facts.st_mode & 0777);
    return SCBM_OK;
}

/* Bytes reach the disk before the file gets its name. */
static int output_sync(FILE *stream) {
    int result;
    do {
        result = fsync(fileno(stream));
    } while (result && errno == EINTR);
    return result && (errno == EINVAL || errno == ENOTSUP || errno == EROFS) ? 0 : result; /* no such thing there */
}

/* The name too. What holds the name may not be able to say so, which is no failure. */
static void output_sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 1;
    if (slash == path) length = 1;
    if (length >= sizeof folder) return;
    memcpy(folder, slash ? path : ".", length);
    folder[length] = 0;
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    (void)!fsync(descriptor);
    close(descriptor);
}
#else
static scbm_status output_open_stream(scbm_output_file *output, const char *path) {
    size_t size = strlen(path) + 8;
    output->path = scbm_strdup(&output->hooks, path);
    output->temporary = scbm_alloc(&output->hooks, size);
    if (!output->path || !output->temporary) return SCBM_ERROR_MEMORY;
    snprintf(output->temporary, size, "%s.tmp", path);
    output->stream = fopen(output->temporary, "wb");
    return output->stream ? SCBM_OK : file_cannot(path, "written", errno);
}

static void output_forget(scbm_output_file *output) {
    (void)output;
}

void scbm_output_remove_temporary(void) {
}

static int output_sync(FILE *stream) {
    (void)stream;
    return 0;
}

static void output_sync_folder(const char *path) {
    (void)path;
}
#endif

scbm_status scbm_output_open(scbm_output_file **result, const char *path, const scbm_hooks *hooks) {
    *result = NULL;
    if (!path || !*path) return scbm_fail(SCBM_ERROR_ARGUMENT, "a file to write needs a name");
    scbm_output_file *output = scbm_alloc(hooks, sizeof *output);
    if (!output) return SCBM_ERROR_MEMORY;
    if (hooks) output->hooks = *hooks;
    scbm_status status = SCBM_OK;
    output->buffer = scbm_alloc(hooks, FILE_BUFFER);
    if (!output->buffer) status = SCBM_ERROR_MEMORY;
    if (!status) status = output_open_stream(output, path);
    if (status) {
        output_free(output);
        return status;
    }
    setvbuf(output->stream, NULL, _IONBF, 0); /* the buffer is ours */
    *result = output;
    return SCBM_OK;
}

static void output_put(scbm_output_file *output, const void *bytes, size_t size) {
    if (output->status || !size) return;
    errno = 0;
    if (fwrite(bytes, 1, size, output->stream) != size)
        output_keep_error(output, file_cannot(output->path, "written", errno ? errno : EIO));
}

static void output_flush(scbm_output_file *output) {
    output_put(output, output->buffer, output->used);
    output->used = 0;
}

void scbm_output_write(scbm_output_file *output, const void *bytes, size_t size) {
    if (output->status || !size) return;
    if (size > FILE_BUFFER - output->used) output_flush(output);
    if (size >= FILE_BUFFER) {
        output_put(output, bytes, size);
        return;
    }
    memcpy(output->buffer + output->used, bytes, size);
    output->used += size;
}

void scbm_output_print(scbm_output_file *output, const char *format, ...) {
    char text[512], *longer = NULL;
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int n = vsnprintf(text, sizeof text, format, arguments);
    if (n < 0) {
        output_keep_error(
            output, scbm_fail(SCBM_ERROR_ARGUMENT, FILE_PATH_FORMAT ": a text cannot be formatted", output->path));
    } else if ((size_t)n < sizeof text) {
        scbm_output_write(output, text, (size_t)n);
    } else if (!(longer = scbm_alloc(&output->hooks, (size_t)n + 1))) {
        output_keep_error(output, SCBM_ERROR_MEMORY);
    } else {
        vsnprintf(longer, (size_t)n + 1, format, again);
        scbm_output_write(output, longer, (size_t)n);
        scbm_release(&output->hooks, longer);
    }
    va_end(again);
    va_end(arguments);
}

/* Brings everything to the disk; the first failure is kept. */
static void output_finish(scbm_output_file *output) {
    output_flush(output);
    if (output->status) return;
    if (fflush(output->stream) || output_sync(output->stream))
        output_keep_error(output, file_cannot(output->path, "written", errno));
}

/* Closes the stream, and with it ends the lock. */
static void output_close(scbm_output_file *output) {
    if (fclose(output->stream) && !output->status)
        output_keep_error(output, file_cannot(output->path, "written", errno));
    output->stream = NULL;
}

/* Gives the finished file its name, while it is still held. */
static void output_rename(scbm_output_file *output) {
    if (!output->temporary) return;
    output_forget(output);
    if (!output->status) {
#if !FILE_POSIX
        output_close(output);
        remove(output->path); /* rename replaces nothing there */
#endif
        if (rename(output->temporary, output->path))
            output_keep_error(output, file_cannot(output->path, "replaced", errno));
    }
    if (output->status) remove(output->temporary);
    else output_sync_folder(output->path);
}

scbm_status scbm_output_commit(scbm_output_file *output) {
    output_finish(output);
    output_rename(output);
    if (output->stream) output_close(output);
    scbm_status status = output->status;
    if (status) scbm_fail(status, "%s", output->message);
    output_free(output);
    return status;
}

void scbm_output_abandon(scbm_output_file *output) {
    if (!output) return;
    output_forget(output);
#if !FILE_POSIX
    output_close(output); /* an open file cannot be removed there */
#endif
    if (output->temporary) remove(output->temporary);
    if (output->stream) output_close(output);
    output_free(output);
}

/* ------------------------------------------------------------------------------------------
 * Model files: GGUF's types, and reading little-endian numbers
 * ---------------------------------------------------------------------------------------- */

#define GGUF_VERSION 3
#define GGUF_ALIGNMENT 32 /* when general.alignment says nothing else */
#define GGUF_DATA_ALIGNMENT 64 /* where our files' data begins: lines of the cache */
#define GGUF_PADDING_KEY "sparsecbm.padding"
#define GGUF_MAX_KEY 65535
#define GGUF_ALIGNMENT_KEY "general.alignment"

/* Bytes of a value of each type; 0: not of fixed size. */
static const size_t gguf_value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
#define GGUF_VALUE_TYPES ((uint32_t)COUNT_OF(gguf_value_bytes))

/* GGUF's numbers of tensor types, ours and those that other programs write. */
static const struct gguf_type_name {
    uint32_t number;
    int type; /* -1: not known here */
    const char *name;
} gguf_types[] = {
    {0, SCBM_F32, "F32"},  {1, SCBM_F16, "F16"},  {2, SCBM_Q4_0, "Q4_0"},  {8, SCBM_Q8_0, "Q8_0"}, {24, SCBM_I8, "I8"},
    {28, SCBM_F64, "F64"}, {26, SCBM_I32, "I32"}, {30, SCBM_BF16, "BF16"}, {3, -1, "Q4_1"},        {6, -1, "Q5_0"},
    {7, -1, "Q5_1"},       {9, -1, "Q8_1"},       {10, -1, "Q2_K"},        {11, -1, "Q3_K"},       {12, -1, "Q4_K"},
    {13, -1, "Q5_K"},      {14, -1, "Q6_K"},      {15, -1, "Q8_K"},        {16, -1, "IQ2_XXS"},    {17, -1, "IQ2_XS"},
    {18, -1, "IQ3_XXS"},   {19, -1, "IQ1_S"},     {20, -1, "IQ4_NL"},      {21, -1, "IQ3_S"},      {22, -1, "IQ2_S"},
    {23, -1, "IQ4_XS"},    {25, -1, "I16"},       {27, -1, "I64"},         {29, -1, "IQ1_M"},      {34, -1, "TQ1_0"},
    {35, -1, "TQ2_0"},     {39, -1, "MXFP4"},
};

static const struct gguf_type_name *gguf_type_by_number(uint32_t number) {
    for (int i = 0; i < COUNT_OF(gguf_types); i++)
        if (gguf_types[i].number == number) return &gguf_types[i];
    return NULL;
}

static uint32_t gguf_number_of(scbm_type type) {
    for (int i = 0; i < COUNT_OF(gguf_types); i++)
        if (gguf_types[i].type == (int)type) return gguf_types[i].number;
    return 0;
}

static uint64_t gguf_read(const unsigned char *bytes, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* Tensors are used as they lie in the file. */
static scbm_status gguf_check_machine(void) {
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    if (first) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "GGUF files are little-endian, and this machine is not");
}

/* Names end up in messages and on terminals: no control characters. */
static int gguf_is_name(const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (bytes[i] < 0x20 || bytes[i] == 0x7f) return 0;
    return length > 0;
}

/* ------------------------------------------------------------------------------------------
 * Model files: reading
 * ---------------------------------------------------------------------------------------- */

/* A key and its value. Numbers are read where they lie in the file; strings are copied into one block, since GGUF's
 * have no NUL at their end. */
typedef struct file_entry {
    const char *key;
    scbm_value_type type;         /* ARRAY for arrays */
    scbm_value_type element;      /* of an array its elements', else the type */
    int64_t n;                    /* 1 for a plain value */
    const unsigned char *encoded; /* the value as GGUF has it, for scbm_writer_copy_keys */
    size_t encoded_bytes;
    const unsigned char *elements; /* the first element */
    size_t first_string;           /* of strings: where in file->strings they start */
} file_entry;

typedef struct file_name {
    const char *name;
    int64_t index;
} file_name;

struct scbm_file {
    scbm_hooks hooks;
    char *path;
    scbm_bytes bytes;
    void *copy; /* of misaligned memory */
    int is_mapped;
    file_watch watch;
    file_entry *entries;
    int64_t n_entries;
    char *text; /* keys and strings, each with a NUL */
    const char **strings;
    scbm_tensor *tensors;
    int64_t n_tensors;
    file_name *keys_by_name, *tensors_by_name;
};

/* What is left to read, and what that is for messages. */
typedef struct gguf_cursor {
    const scbm_file *file;
    const unsigned char *at, *end;
    const char *what; /* "key", "tensor" */
    uint64_t index, count;
} gguf_cursor;

/* While reading, keys are spans of the file. */
typedef struct gguf_span {
    const unsigned char *bytes;
    size_t length;
} gguf_span;

static size_t gguf_left(const gguf_cursor *cursor) {
    return (size_t)(cursor->end - cursor->at);
}

static scbm_status gguf_ends(const gguf_cursor *cursor) {
    return scbm_fail(
        SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": ends in the middle of %s %llu of %llu; the file is cut off or damaged",
        cursor->file->path, cursor->what, (unsigned long long)cursor->index + 1, (unsigned long long)cursor->count);
}

static scbm_status gguf_take(gguf_cursor *cursor, size_t size, uint64_t *value) {
    *value = 0;
    if (gguf_left(cursor) < size) return gguf_ends(cursor);
    *value = gguf_read(cursor->at, size);
    cursor->at += size;
    return SCBM_OK;
}

static scbm_status gguf_take_span(gguf_cursor *cursor, gguf_span *span) {
    uint64_t length;
    scbm_status status = gguf_take(cursor, 8, &length);
    if (status) return status;
    if (length > gguf_left(cursor)) return gguf_ends(cursor);
    span->bytes = cursor->at;
    span->length = (size_t)length;
    cursor->at += span->length;
    return SCBM_OK;
}

static scbm_status gguf_take_name(gguf_cursor *cursor, size_t most, gguf_span *name) {
    scbm_status status = gguf_take_span(cursor, name);
    if (status) return status;
    if (name->length > most)
        return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": the name of %s %llu has %zu bytes; %zu are possible",
                         cursor->file->path, cursor->what, (unsigned long long)cursor->index + 1, name->length, most);
    if (!gguf_is_name(name->bytes, name->length))
        return scbm_fail(SCBM_ERROR_FORMAT,
                         FILE_PATH_FORMAT ": the name of %s %llu is empty or has control characters in it",
                         cursor->file->path, cursor->what, (unsigned long long)cursor->index + 1);
    return SCBM_OK;
}

/* How much of a key is shown in a message. */
static int gguf_shown(const gguf_span *span) {
    return span->length > 80 ? 80 : (int)span->length;
}

/* Walks n strings; *n_strings and *text_bytes grow by what they need in memory. */
static scbm_status gguf_scan_strings(gguf_cursor *cursor, const gguf_span *key, uint64_t n, size_t *n_strings,
                                     size_t *text_bytes) {
    for (uint64_t i = 0; i < n; i++) {
        gguf_span span = {NULL, 0};
        scbm_status status = gguf_take_span(cursor, &span);
        if (status) return status;
        if (span.length && memchr(span.bytes, 0, span.length))
            return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": string %llu of key %.*s has a NUL in it",
                             cursor->file->path, (unsigned long long)i, gguf_shown(key), (const char *)key->bytes);
        *text_bytes += span.length + 1;
    }
    *n_strings += (size_t)n;
    return SCBM_OK;
}

static scbm_status gguf_check_booleans(const gguf_cursor *cursor, const gguf_span *key, const file_entry *entry) {
    for (int64_t i = 0; i < entry->n; i++)
        if (entry->elements[i] > 1)
            return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": key %.*s is a boolean of value %d",
                             cursor->file->path, gguf_shown(key), (const char *)key->bytes, entry->elements[i]);
    return SCBM_OK;
}

static scbm_status gguf_scan_elements(gguf_cursor *cursor, const gguf_span *key, file_entry *entry, uint64_t n,
                                      size_t *n_strings, size_t *text_bytes) {
    size_t size = gguf_value_bytes[entry->element];
    size_t least = size ? size : 8; /* a string's length */
    entry->elements = cursor->at;
    if (n > gguf_left(cursor) / least) return gguf_ends(cursor);
    entry->n = (int64_t)n;
    entry->first_string = *n_strings;
    if (!size) return gguf_scan_strings(cursor, key, n, n_strings, text_bytes);
    cursor->at += size * (size_t)n;
    return entry->element == SCBM_VALUE_BOOL ? gguf_check_booleans(cursor, key, entry) : SCBM_OK;
}

static scbm_status gguf_take_value_type(gguf_cursor *cursor, const gguf_span *key, scbm_value_type *type) {
    uint64_t number;
    scbm_status status = gguf_take(cursor, 4, &number);
    if (status) return status;
    if (number >= GGUF_VALUE_TYPES)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         FILE_PATH_FORMAT ": key %.*s is of value type %llu, which GGUF does not have",
                         cursor->file->path, gguf_shown(key), (const char *)key->bytes, (unsigned long long)number);
    *type = (scbm_value_type)number;
    return SCBM_OK;
}

/* One key and its value; entry->key still points at the key's length in the file. */
static scbm_status gguf_scan_entry(gguf_cursor *cursor, file_entry *entry, size_t *n_strings, size_t *text_bytes) {
    gguf_span key = {NULL, 0};
    uint64_t n = 1;
    entry->key = (const char *)cursor->at;
    scbm_status status = gguf_take_name(cursor, GGUF_MAX_KEY, &key);
    if (!status) status = gguf_take_value_type(cursor, &key, &entry->type);
    if (status) return status;
    *text_bytes += key.length + 1;
    entry->encoded = cursor->at;
    entry->element = entry->type;
    if (entry->type == SCBM_VALUE_ARRAY) {
        status = gguf_take_value_type(cursor, &key, &entry->element);
        if (!status) status = gguf_take(cursor, 8, &n);
        if (!status && entry->element == SCBM_VALUE_ARRAY)
            status = scbm_fail(SCBM_ERROR_UNSUPPORTED,
                               FILE_PATH_FORMAT ": key %.*s is an array of arrays, which is not supported",
                               cursor->file->path, gguf_shown(&key), (const char *)key.bytes);
    }
    if (!status) status = gguf_scan_elements(cursor, &key, entry, n, n_strings, text_bytes);
    entry->encoded_bytes = (size_t)(cursor->at - entry->encoded);
    return status;
}

/* Copies a string of the file behind *text. Its length was checked before. */
static const char *gguf_copy_string(const unsigned char **at, char **text) {
    size_t length = (size_t)gguf_read(*at, 8);
    char *copy = *text;
    memcpy(copy, *at + 8, length);
    copy[length] = 0;
    *at += 8 + length;
    *text += length + 1;
    return copy;
}

static scbm_status gguf_copy_text(scbm_file *file, size_t n_strings, size_t text_bytes) {
    file->text = scbm_alloc(&file->hooks, text_bytes ? text_bytes : 1);
    file->strings = scbm_alloc_array(&file->hooks, n_strings ? n_strings : 1, sizeof *file->strings);
    if (!file->text || !file->strings) return SCBM_ERROR_MEMORY;
    char *text = file->text;
    for (int64_t i = 0; i < file->n_entries; i++) {
        file_entry *entry = &file->entries[i];
        const unsigned char *at = (const unsigned char *)entry->key;
        entry->key = gguf_copy_string(&at, &text);
        if (entry->element != SCBM_VALUE_STRING) continue;
        at = entry->elements;
        for (int64_t j = 0; j < entry->n; j++)
            file->strings[entry->first_string + (size_t)j] = gguf_copy_string(&at, &text);
    }
    return SCBM_OK;
}

static int file_compare_names(const void *a, const void *b) {
    return strcmp(((const file_name *)a)->name, ((const file_name *)b)->name);
}

/* Sorts names for file_find_name. *twice: a name that is there twice, or NULL. */
static void file_sort_names(file_name *names, int64_t n, const char **twice) {
    *twice = NULL;
    if (n > 1) qsort(names, (size_t)n, sizeof *names, file_compare_names);
    for (int64_t i = 1; i < n && !*twice; i++)
        if (strcmp(names[i - 1].name, names[i].name) == 0) *twice = names[i].name;
}

static int64_t file_find_name(const file_name *names, int64_t n, const char *name) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(names[middle].name, name);
        if (order == 0) return names[middle].index;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return -1;
}

static scbm_status gguf_index_keys(scbm_file *file) {
    const char *twice;
    file->keys_by_name = scbm_alloc_array(&file->hooks, (size_t)file->n_entries + 1, sizeof *file->keys_by_name);
    if (!file->keys_by_name) return SCBM_ERROR_MEMORY;
    for (int64_t i = 0; i < file->n_entries; i++) file->keys_by_name[i] = (file_name){file->entries[i].key, i};
    file_sort_names(file->keys_by_name, file->n_entries, &twice);
    if (twice) return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": key %.80s is there twice", file->path, twice);
    return SCBM_OK;
}

static scbm_status gguf_read_keys(scbm_file *file, gguf_cursor *cursor, uint64_t count) {
    enum { LEAST = 8 + 1 + 4 + 1 }; /* a key of one letter, and its smallest value */
    if (count > gguf_left(cursor) / LEAST)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         FILE_PATH_FORMAT ": is said to have %llu keys, which its %zu bytes cannot hold", file->path,
                         (unsigned long long)count, file->bytes.size);
    file->entries = scbm_alloc_array(&file->hooks, (size_t)count + 1, sizeof *file->entries);
    if (!file->entries) return SCBM_ERROR_MEMORY;
    size_t n_strings = 0, text_bytes = 0;
    scbm_status status = SCBM_OK;
    cursor->what = "key";
    cursor->count = count;
    for (cursor->index = 0; cursor->index < count && !status; cursor->index++)
        status = gguf_scan_entry(cursor, &file->entries[cursor->index], &n_strings, &text_bytes);
    if (status) return status;
    file->n_entries = (int64_t)count;
    status = gguf_copy_text(file, n_strings, text_bytes);
    return status ? status : gguf_index_keys(file);
}

/* A tensor's type and dimensions; its data pointer is filled in later. */
static scbm_status gguf_read_shape(gguf_cursor *cursor, const char *name, scbm_tensor *tensor) {
    const char *path = cursor->file->path;
    uint64_t n_dims, size, number;
    int64_t shape[SCBM_MAX_DIMS];
    scbm_status status = gguf_take(cursor, 4, &n_dims);
    if (status) return status;
    if (n_dims < 1 || n_dims > SCBM_MAX_DIMS)
        return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": tensor %s has %llu dimensions; 1 to %d are possible",
                         path, name, (unsigned long long)n_dims, SCBM_MAX_DIMS);
    for (uint64_t i = 0; i < n_dims; i++) {
        status = gguf_take(cursor, 8, &size);
        if (status) return status;
        if (size > INT64_MAX)
            return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": tensor %s has a dimension of %llu", path, name,
                             (unsigned long long)size);
        shape[n_dims - 1 - i] = (int64_t)size;
    }
    status = gguf_take(cursor, 4, &number);
    if (status) return status;
    const struct gguf_type_name *type = gguf_type_by_number((uint32_t)number);
    if (!type)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         FILE_PATH_FORMAT ": tensor %s is of a type that is not known (number %llu)", path, name,
                         (unsigned long long)number);
    if (type->type < 0)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         FILE_PATH_FORMAT
                         ": tensor %s is of type %s, which is not read; the same model in F32, F16, BF16, Q8_0 or pure "
                         "Q4_0 is",
                         path, name, type->name);
    if (scbm_tensor_init(tensor, name, (scbm_type)type->type, (int)n_dims, shape))
        return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": %s", path, scbm_last_error());
    return SCBM_OK;
}

/* Until the data's place is known, the tensor's offset stands in `generation`. */
static scbm_status gguf_scan_tensor(gguf_cursor *cursor, uint64_t alignment, scbm_tensor *tensor) {
    gguf_span span = {NULL, 0};
    char name[SCBM_MAX_NAME];
    uint64_t offset = 0;
    scbm_status status = gguf_take_name(cursor, SCBM_MAX_NAME - 1, &span);
    if (status) return status;
    memcpy(name, span.bytes, span.length);
    name[span.length] = 0;
    status = gguf_read_shape(cursor, name, tensor);
    if (!status) status = gguf_take(cursor, 8, &offset);
    if (status) return status;
    if (offset % alignment)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         FILE_PATH_FORMAT ": the data of tensor %s starts at %llu, no multiple of %llu",
                         cursor->file->path, name, (unsigned long long)offset, (unsigned long long)alignment);
    tensor->generation = offset;
    return SCBM_OK;
}

static scbm_status gguf_place_tensors(scbm_file *file, size_t start) {
    size_t size = file->bytes.size > start ? file->bytes.size - start : 0;
    for (int64_t i = 0; i < file->n_tensors; i++) {
        scbm_tensor *tensor = &file->tensors[i];
        uint64_t offset = tensor->generation, bytes = scbm_tensor_bytes(tensor);
        if (offset > size || bytes > size - offset)
            return scbm_fail(
                SCBM_ERROR_FORMAT,
                FILE_PATH_FORMAT
                ": the data of tensor %s (%llu bytes) reaches beyond the end of the file; it is cut off or damaged",
                file->path, tensor->name, (unsigned long long)bytes);
        tensor->data = (void *)(uintptr_t)(start <= file->bytes.size ? file->bytes.data + start + offset
                                                                     : file->bytes.data);
        tensor->generation = 1;
    }
    return SCBM_OK;
}

static scbm_status gguf_index_tensors(scbm_file *file) {
    const char *twice;
    file->tensors_by_name = scbm_alloc_array(&file->hooks, (size_t)file->n_tensors + 1, sizeof *file->tensors_by_name);
    if (!file->tensors_by_name) return SCBM_ERROR_MEMORY;
    for (int64_t i = 0; i < file->n_tensors; i++) file->tensors_by_name[i] = (file_name){file->tensors[i].name, i};
    file_sort_names(file->tensors_by_name, file->n_tensors, &twice);
    if (twice) return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": tensor %s is there twice", file->path, twice);
    return SCBM_OK;
}

static scbm_status gguf_read_alignment(const scbm_file *file, uint64_t *alignment) {
    enum { MOST = 1 << 20 };
    int64_t value = GGUF_ALIGNMENT;
    if (scbm_file_find_key(file, GGUF_ALIGNMENT_KEY) >= 0) {
        scbm_status status = scbm_file_get_int(file, GGUF_ALIGNMENT_KEY, &value);
        if (status) return status;
    }
    if (value < 8 || value > MOST || value % 8)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         FILE_PATH_FORMAT ": " GGUF_ALIGNMENT_KEY " is %lld; a multiple of 8 is needed", file->path,
                         (long long)value);
    *alignment = (uint64_t)value;
    return SCBM_OK;
}

static scbm_status gguf_read_tensors(scbm_file *file, gguf_cursor *cursor, uint64_t count) {
    enum { LEAST = 8 + 1 + 4 + 8 + 4 + 8 }; /* a name of one letter and one dimension */
    uint64_t alignment = GGUF_ALIGNMENT;
    if (count > gguf_left(cursor) / LEAST)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         FILE_PATH_FORMAT ": is said to have %llu tensors, which its %zu bytes cannot hold", file->path,
                         (unsigned long long)count, file->bytes.size);
    scbm_status status = gguf_read_alignment(file, &alignment);
    if (status) return status;
    file->tensors = scbm_alloc_array(&file->hooks, (size_t)count + 1, sizeof *file->tensors);
    if (!file->tensors) return SCBM_ERROR_MEMORY;
    cursor->what = "tensor";
    cursor->count = count;
    for (cursor->index = 0; cursor->index < count && !status; cursor->index++)
        status = gguf_scan_tensor(cursor, alignment, &file->tensors[cursor->index]);
    if (status) return status;
    file->n_tensors = (int64_t)count;
    status = gguf_index_tensors(file);
    size_t used = (size_t)(cursor->at - file->bytes.data);
    return status ? status : gguf_place_tensors(file, used + (size_t)((alignment - used % alignment) % alignment));
}

static scbm_status gguf_read_file(scbm_file *file) {
    enum { HEADER = 4 + 4 + 8 + 8 };
    const unsigned char *data = file->bytes.data;
    size_t size = file->bytes.size;
    if (size == 0) return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": is empty", file->path);
    if (size < 4 || memcmp(data, "GGUF", 4)) {
        const char *what = scbm_bytes_recognize(data, size, 0);
        return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": is not a GGUF model file%s%s", file->path,
                         what ? " but " : "", what ? what : "");
    }
    if (size < HEADER)
        return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": ends in its header; the file is cut off", file->path);
    uint32_t version = (uint32_t)gguf_read(data + 4, 4);
    if (version == (uint32_t)GGUF_VERSION << 24)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         FILE_PATH_FORMAT ": is a big-endian GGUF file; convert it to little-endian", file->path);
    if (version != GGUF_VERSION)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, FILE_PATH_FORMAT ": is of GGUF version %lu; version %d is supported",
                         file->path, (unsigned long)version, GGUF_VERSION);
    gguf_cursor cursor = {file, data + HEADER, data + size, "", 0, 0};
    uint64_t n_tensors = gguf_read(data + 8, 8), n_keys = gguf_read(data + 16, 8);
    scbm_status status = gguf_check_machine();
    if (!status) status = gguf_read_keys(file, &cursor, n_keys);
    return status ? status : gguf_read_tensors(file, &cursor, n_tensors);
}

static scbm_status file_create(scbm_file **result, const char *path, const scbm_hooks *hooks) {
    *result = NULL;
    scbm_file *file = scbm_alloc(hooks, sizeof *file);
    if (!file) return SCBM_ERROR_MEMORY;
    if (hooks) file->hooks = *hooks;
    file->watch.descriptor = -1;
    file->path = scbm_strdup(hooks, path);
    if (!file->path) {
        scbm_release(hooks, file);
        return SCBM_ERROR_MEMORY;
    }
    *result = file;
    return SCBM_OK;
}

scbm_status scbm_file_open(scbm_file **result, const char *path, const scbm_hooks *hooks) {
    scbm_file *file;
    *result = NULL;
    if (!path || !*path) return scbm_fail(SCBM_ERROR_ARGUMENT, "a model file to open needs a name");
    scbm_status status = file_create(&file, path, hooks);
    if (status) return status;
    file->is_mapped = 1;
    status = file_bytes_open(&file->bytes, path, hooks, &file->watch);
    if (!status) status = gguf_read_file(file);
    if (status) scbm_file_close(file);
    else *result = file;
    return status;
}

scbm_status scbm_file_open_memory(scbm_file **result, const void *data, size_t size, const char *name,
                                  const scbm_hooks *hooks) {
    scbm_file *file;
    scbm_status status = file_create(&file, name ? name : "model in memory", hooks);
    *result = NULL;
    if (status) return status;
    if (size && (uintptr_t)data % 8) {
        file->copy = scbm_alloc(hooks, size);
        if (file->copy) memcpy(file->copy, data, size);
        else status = SCBM_ERROR_MEMORY;
    }
    file->bytes.data = file->copy ? file->copy : data;
    file->bytes.size = size;
    if (!status) status = gguf_read_file(file);
    if (status) scbm_file_close(file);
    else *result = file;
    return status;
}

void scbm_file_close(scbm_file *file) {
    if (!file) return;
    const scbm_hooks hooks = file->hooks;
    for (int64_t i = 0; file->tensors && i < file->n_tensors; i++) scbm_tensor_forget(&file->tensors[i]);
    if (file->is_mapped) scbm_bytes_close(&file->bytes, &hooks);
    file_watch_end(&file->watch);
    scbm_release(&hooks, file->copy);
    scbm_release(&hooks, file->entries);
    scbm_release(&hooks, file->text);
    scbm_release(&hooks, (void *)file->strings);
    scbm_release(&hooks, file->tensors);
    scbm_release(&hooks, file->keys_by_name);
    scbm_release(&hooks, file->tensors_by_name);
    scbm_release(&hooks, file->path);
    scbm_release(&hooks, file);
}

scbm_status scbm_file_check(const scbm_file *file) {
    return file_check(&file->watch, file->path);
}

const char *scbm_file_path(const scbm_file *file) {
    return file->path;
}

size_t scbm_file_size(const scbm_file *file) {
    return file->bytes.size;
}

/* ------------------------------------------------------------------------------------------
 * Model files: what was read
 * ---------------------------------------------------------------------------------------- */

int64_t scbm_file_n_keys(const scbm_file *file) {
    return file->n_entries;
}

/* NULL for an index outside. */
static const file_entry *file_entry_at(const scbm_file *file, int64_t index) {
    return index >= 0 && index < file->n_entries ? &file->entries[index] : NULL;
}

const char *scbm_file_key(const scbm_file *file, int64_t index) {
    const file_entry *entry = file_entry_at(file, index);
    return entry ? entry->key : NULL;
}

int64_t scbm_file_find_key(const scbm_file *file, const char *key) {
    return file_find_name(file->keys_by_name, file->n_entries, key);
}

scbm_value_type scbm_file_key_type(const scbm_file *file, int64_t index) {
    const file_entry *entry = file_entry_at(file, index);
    return entry ? entry->type : SCBM_VALUE_U8;
}

scbm_value_type scbm_file_array_type(const scbm_file *file, int64_t index) {
    const file_entry *entry = file_entry_at(file, index);
    return entry ? entry->element : SCBM_VALUE_U8;
}

int64_t scbm_file_array_length(const scbm_file *file, int64_t index) {
    const file_entry *entry = file_entry_at(file, index);
    return entry ? entry->n : 0;
}

/* Element i as an integer; 0 when it is none, or beyond an int64_t. */
static int file_entry_int(const file_entry *entry, int64_t i, int64_t *value) {
    size_t size = gguf_value_bytes[entry->element];
    uint64_t bits = size ? gguf_read(entry->elements + (size_t)i * size, size) : 0;
    switch (entry->element) {
    case SCBM_VALUE_I8: *value = (int8_t)bits; return 1;
    case SCBM_VALUE_I16: *value = (int16_t)bits; return 1;
    case SCBM_VALUE_I32: *value = (int32_t)bits; return 1;
    case SCBM_VALUE_U8:
    case SCBM_VALUE_U16:
    case SCBM_VALUE_U32:
    case SCBM_VALUE_BOOL:
    case SCBM_VALUE_I64: *value = (int64_t)bits; return 1;
    case SCBM_VALUE_U64: *value = (int64_t)bits; return bits <= INT64_MAX;
    default: return 0;
    }
}

/* Element i as a real number; integers count. 0 when it is none. */
static int file_entry_float(const file_entry *entry, int64_t i, double *value) {
    int64_t integer;
    float single;
    size_t size = gguf_value_bytes[entry->element];
    if (entry->element == SCBM_VALUE_F32) {
        uint32_t bits = (uint32_t)gguf_read(entry->elements + (size_t)i * size, size);
        memcpy(&single, &bits, sizeof single);
        *value = (double)single;
    } else if (entry->element == SCBM_VALUE_F64) {
        uint64_t bits = gguf_read(entry->elements + (size_t)i * size, size);
        memcpy(value, &bits, sizeof *value);
    } else if (file_entry_int(entry, i, &integer)) {
        *value = (double)integer;
    } else {
        return 0;
    }
    return 1;
}

static int file_entry_string(const scbm_file *file, const file_entry *entry, int64_t i, const char **value) {
    if (entry->element != SCBM_VALUE_STRING) return 0;
    *value = file->strings[entry->first_string + (size_t)i];
    return 1;
}

/* The plain value of a key, or NULL with the error recorded. */
static const file_entry *file_require(const scbm_file *file, const char *key) {
    int64_t index = scbm_file_find_key(file, key);
    if (index >= 0 && file->entries[index].type != SCBM_VALUE_ARRAY) return &file->entries[index];
    if (index < 0) scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": key %s is missing", file->path, key);
    else scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": key %s is an array; one value is needed", file->path, key);
    return NULL;
}

static scbm_status file_wrong_kind(const scbm_file *file, const char *key, const char *wanted) {
    return scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": key %.80s is not %s", file->path, key, wanted);
}

scbm_status scbm_file_get_int(const scbm_file *file, const char *key, int64_t *value) {
    const file_entry *entry = file_require(file, key);
    if (!entry) return SCBM_ERROR_FORMAT;
    return file_entry_int(entry, 0, value) ? SCBM_OK : file_wrong_kind(file, key, "an integer that fits 64 bits");
}

scbm_status scbm_file_get_float(const scbm_file *file, const char *key, double *value) {
    const file_entry *entry = file_require(file, key);
    if (!entry) return SCBM_ERROR_FORMAT;
    return file_entry_float(entry, 0, value) ? SCBM_OK : file_wrong_kind(file, key, "a number");
}

scbm_status scbm_file_get_string(const scbm_file *file, const char *key, const char **value) {
    const file_entry *entry = file_require(file, key);
    if (!entry) return SCBM_ERROR_FORMAT;
    return file_entry_string(file, entry, 0, value) ? SCBM_OK : file_wrong_kind(file, key, "a string");
}

/* The plain value of a key, or NULL. */
static const file_entry *file_plain(const scbm_file *file, const char *key) {
    const file_entry *entry = file_entry_at(file, scbm_file_find_key(file, key));
    return entry && entry->type != SCBM_VALUE_ARRAY ? entry : NULL;
}

int64_t scbm_file_int_or(const scbm_file *file, const char *key, int64_t otherwise) {
    const file_entry *entry = file_plain(file, key);
    int64_t value;
    return entry && file_entry_int(entry, 0, &value) ? value : otherwise;
}

double scbm_file_float_or(const scbm_file *file, const char *key, double otherwise) {
    const file_entry *entry = file_plain(file, key);
    double value;
    return entry && file_entry_float(entry, 0, &value) ? value : otherwise;
}

const char *scbm_file_string_or(const scbm_file *file, const char *key, const char *otherwise) {
    const file_entry *entry = file_plain(file, key);
    const char *value;
    return entry && file_entry_string(file, entry, 0, &value) ? value : otherwise;
}

static const file_entry *file_element(const scbm_file *file, int64_t key_index, int64_t i) {
    const file_entry *entry = file_entry_at(file, key_index);
    if (entry && i >= 0 && i < entry->n) return entry;
    scbm_fail(SCBM_ERROR_ARGUMENT, FILE_PATH_FORMAT ": there is no element %lld of key %.80s", file->path, (long long)i,
              entry ? entry->key : "(none)");
    return NULL;
}

scbm_status scbm_file_int_at(const scbm_file *file, int64_t key_index, int64_t i, int64_t *value) {
    const file_entry *entry = file_element(file, key_index, i);
    if (!entry) return SCBM_ERROR_ARGUMENT;
    return file_entry_int(entry, i, value) ? SCBM_OK
                                           : file_wrong_kind(file, entry->key, "of integers that fit 64 bits");
}

scbm_status scbm_file_float_at(const scbm_file *file, int64_t key_index, int64_t i, double *value) {
    const file_entry *entry = file_element(file, key_index, i);
    if (!entry) return SCBM_ERROR_ARGUMENT;
    return file_entry_float(entry, i, value) ? SCBM_OK : file_wrong_kind(file, entry->key, "of numbers");
}

scbm_status scbm_file_string_at(const scbm_file *file, int64_t key_index, int64_t i, const char **value) {
    const file_entry *entry = file_element(file, key_index, i);
    if (!entry) return SCBM_ERROR_ARGUMENT;
    return file_entry_string(file, entry, i, value) ? SCBM_OK : file_wrong_kind(file, entry->key, "of strings");
}

int64_t scbm_file_n_tensors(const scbm_file *file) {
    return file->n_tensors;
}

scbm_tensor *scbm_file_tensor(scbm_file *file, int64_t index) {
    return index >= 0 && index < file->n_tensors ? &file->tensors[index] : NULL;
}

scbm_tensor *scbm_file_find_tensor(scbm_file *file, const char *name) {
    return scbm_file_tensor(file, file_find_name(file->tensors_by_name, file->n_tensors, name));
}

/* Where a tensor's name ends in `end`, behind a dot or as a whole; NULL: it does not, or its rows are no n equal parts. */
static const char *file_fused_end(const scbm_tensor *tensor, const char *end, int n) {
    size_t length = strlen(tensor->name), of_end = strlen(end);
    if (length < of_end || tensor->shape[0] % n) return NULL;
    const char *at = tensor->name + length - of_end;
    return strcmp(at, end) == 0 && (at == tensor->name || at[-1] == '.') ? at : NULL;
}

/* The parts of a fused tensor, one after the other in its memory. */
static scbm_status file_split_tensor(const scbm_tensor *tensor, const char *end, const char *const *parts, int n,
                                     scbm_tensor *made) {
    const size_t bytes = scbm_tensor_bytes(tensor) / (size_t)n;
    int64_t shape[SCBM_MAX_DIMS];
    memcpy(shape, tensor->shape, sizeof shape);
    shape[0] /= n;
    for (int i = 0; i < n; i++) {
        char name[2 * SCBM_MAX_NAME];
        snprintf(name, sizeof name, "%.*s%s", (int)(end - tensor->name), tensor->name, parts[i]);
        if (strlen(name) >= SCBM_MAX_NAME)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "tensor %s: the name of its part %s is too long", tensor->name,
                             parts[i]);
        scbm_status status = scbm_tensor_init(&made[i], name, tensor->type, tensor->n_dims, shape);
        if (status) return status;
        made[i].data = (unsigned char *)tensor->data + (size_t)i * bytes;
    }
    return SCBM_OK;
}

scbm_status scbm_file_split_tensors(scbm_file *file, const char *end, const char *const *parts, int n) {
    int64_t n_fused = 0, n_tensors = 0;
    for (int64_t i = 0; i < file->n_tensors; i++) n_fused += file_fused_end(&file->tensors[i], end, n) != NULL;
    if (!n_fused) return SCBM_OK;
    const size_t most = (size_t)(file->n_tensors + n_fused * (n - 1));
    scbm_tensor *tensors = scbm_alloc_array(&file->hooks, most + 1, sizeof *tensors), *before = file->tensors;
    file_name *names = scbm_alloc_array(&file->hooks, most + 1, sizeof *names);
    scbm_status status = tensors && names ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int64_t i = 0; i < file->n_tensors && !status; i++) {
        const char *at = file_fused_end(&before[i], end, n);
        if (at) status = file_split_tensor(&before[i], at, parts, n, &tensors[n_tensors]);
        else tensors[n_tensors] = before[i];
        n_tensors += at ? n : 1;
    }
    const char *twice = NULL;
    for (int64_t i = 0; i < n_tensors && !status; i++) names[i] = (file_name){tensors[i].name, i};
    if (!status) file_sort_names(names, n_tensors, &twice);
    if (twice) status = scbm_fail(SCBM_ERROR_FORMAT, FILE_PATH_FORMAT ": tensor %s is there twice", file->path, twice);
    if (status) {
        scbm_release(&file->hooks, tensors);
        scbm_release(&file->hooks, names);
        return status;
    }
    scbm_release(&file->hooks, file->tensors);
    scbm_release(&file->hooks, file->tensors_by_name);
    file->tensors = tensors;
    file->tensors_by_name = names;
    file->n_tensors = n_tensors;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Model files: writing
 * ---------------------------------------------------------------------------------------- */

typedef struct writer_entry {
    char *key;
    uint32_t type;
    unsigned char *value; /* as GGUF has it */
    size_t bytes, capacity;
} writer_entry;

typedef struct writer_tensor {
    const scbm_tensor *tensor;
    scbm_type type;                /* as which it is written */
    scbm_produce_function produce; /* where the data come from; NULL: the tensor has them */
    void *user;
} writer_tensor;

struct scbm_writer {
    scbm_hooks hooks;
    writer_entry *entries;
    size_t n_entries, entries_capacity;
    writer_tensor *tensors;
    size_t n_tensors, tensors_capacity;
    scbm_status status; /* the first failure */
    char message[ERROR_SIZE];
};

scbm_status scbm_writer_create(scbm_writer **result, const scbm_hooks *hooks) {
    *result = NULL;
    scbm_writer *writer = scbm_alloc(hooks, sizeof *writer);
    if (!writer) return SCBM_ERROR_MEMORY;
    if (hooks) writer->hooks = *hooks;
    *result = writer;
    return SCBM_OK;
}

static void writer_clear_entry(scbm_writer *writer, writer_entry *entry) {
    scbm_release(&writer->hooks, entry->key);
    scbm_release(&writer->hooks, entry->value);
    memset(entry, 0, sizeof *entry);
}

void scbm_writer_free(scbm_writer *writer) {
    if (!writer) return;
    const scbm_hooks hooks = writer->hooks;
    for (size_t i = 0; i < writer->n_entries; i++) writer_clear_entry(writer, &writer->entries[i]);
    scbm_release(&hooks, writer->entries);
    scbm_release(&hooks, writer->tensors);
    scbm_release(&hooks, writer);
}

static void writer_keep_error(scbm_writer *writer, scbm_status status) {
    if (!status || writer->status) return;
    writer->status = status;
    snprintf(writer->message, sizeof writer->message, "%s", scbm_last_error());
}

static writer_entry *writer_find(scbm_writer *writer, const char *key, size_t n_entries) {
    for (size_t i = 0; i < n_entries; i++)
        if (strcmp(writer->entries[i].key, key) == 0) return &writer->entries[i];
    return NULL;
}

/* An empty entry for the key, in the place of one among the first n_known that it replaces. NULL after a failure. */
static writer_entry *writer_entry_for(scbm_writer *writer, const char *key, uint32_t type, size_t n_known) {
    if (writer->status) return NULL;
    size_t length = key ? strlen(key) : 0, printable = 0;
    while (printable < length && gguf_is_name((const unsigned char *)key + printable, 1)) printable++;
    if (length == 0 || length > GGUF_MAX_KEY || printable < length) {
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT,
                                            "the key '%.*s' is empty, too long or has control characters in it",
                                            printable > 80 ? 80 : (int)printable, key ? key : ""));
        return NULL;
    }
    writer_entry *entry = writer_find(writer, key, n_known);
    if (entry) {
        entry->type = type;
        entry->bytes = 0;
        return entry;
    }
    writer_keep_error(writer, scbm_grow(&writer->hooks, (void **)&writer->entries, &writer->entries_capacity,
                                        writer->n_entries + 1, sizeof *writer->entries));
    if (writer->status) return NULL;
    entry = &writer->entries[writer->n_entries];
    memset(entry, 0, sizeof *entry);
    entry->key = scbm_strdup(&writer->hooks, key);
    if (!entry->key) {
        writer_keep_error(writer, SCBM_ERROR_MEMORY);
        return NULL;
    }
    entry->type = type;
    writer->n_entries++;
    return entry;
}

static void writer_put(scbm_writer *writer, writer_entry *entry, const void *bytes, size_t size) {
    if (writer->status || !size) return;
    if (size > SIZE_MAX - entry->bytes)
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_MEMORY, "key %.80s is too long", entry->key));
    else
        writer_keep_error(writer,
                          scbm_grow(&writer->hooks, (void **)&entry->value, &entry->capacity, entry->bytes + size, 1));
    if (writer->status) return;
    memcpy(entry->value + entry->bytes, bytes, size);
    entry->bytes += size;
}

/* The low `size` bytes of a number, little-endian. */
static void gguf_encode(uint64_t value, size_t size, unsigned char *bytes) {
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(value >> (8 * i));
}

static void writer_put_number(scbm_writer *writer, writer_entry *entry, uint64_t value, size_t size) {
    unsigned char bytes[8];
    gguf_encode(value, size, bytes);
    writer_put(writer, entry, bytes, size);
}

static void writer_put_string(scbm_writer *writer, writer_entry *entry, const char *text) {
    if (!text) {
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT, "key %.80s: a string is NULL", entry->key));
        return;
    }
    size_t length = strlen(text);
    writer_put_number(writer, entry, length, 8);
    writer_put(writer, entry, text, length);
}

/* What an integer value type can hold; 0 when it is none. */
static int gguf_int_range(scbm_value_type type, int64_t *least, int64_t *most) {
    switch (type) {
    case SCBM_VALUE_U8: *least = 0, *most = UINT8_MAX; return 1;
    case SCBM_VALUE_I8: *least = INT8_MIN, *most = INT8_MAX; return 1;
    case SCBM_VALUE_U16: *least = 0, *most = UINT16_MAX; return 1;
    case SCBM_VALUE_I16: *least = INT16_MIN, *most = INT16_MAX; return 1;
    case SCBM_VALUE_U32: *least = 0, *most = UINT32_MAX; return 1;
    case SCBM_VALUE_I32: *least = INT32_MIN, *most = INT32_MAX; return 1;
    case SCBM_VALUE_BOOL: *least = 0, *most = 1; return 1;
    case SCBM_VALUE_U64: *least = 0, *most = INT64_MAX; return 1;
    case SCBM_VALUE_I64: *least = INT64_MIN, *most = INT64_MAX; return 1;
    default: return 0;
    }
}

static void writer_put_int(scbm_writer *writer, writer_entry *entry, scbm_value_type type, int64_t value) {
    int64_t least, most;
    if (!gguf_int_range(type, &least, &most))
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT, "key %.80s: value type %d holds no integers",
                                            entry->key, (int)type));
    else if (value < least || value > most)
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT,
                                            "key %.80s: %lld does not fit its type, which holds %lld to %lld",
                                            entry->key, (long long)value, (long long)least, (long long)most));
    else writer_put_number(writer, entry, (uint64_t)value, gguf_value_bytes[type]);
}

static void writer_put_float(scbm_writer *writer, writer_entry *entry, scbm_value_type type, double value) {
    float single = (float)value;
    uint32_t bits32;
    uint64_t bits64;
    memcpy(&bits32, &single, sizeof bits32);
    memcpy(&bits64, &value, sizeof bits64);
    if (type == SCBM_VALUE_F32) writer_put_number(writer, entry, bits32, 4);
    else if (type == SCBM_VALUE_F64) writer_put_number(writer, entry, bits64, 8);
    else
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT, "key %.80s: value type %d holds no real numbers",
                                            entry->key, (int)type));
}

static writer_entry *writer_array_for(scbm_writer *writer, const char *key, scbm_value_type type, int64_t n) {
    writer_entry *entry = writer_entry_for(writer, key, SCBM_VALUE_ARRAY, writer->n_entries);
    if (!entry) return NULL;
    if (n < 0) {
        writer_keep_error(writer,
                          scbm_fail(SCBM_ERROR_ARGUMENT, "key %.80s: an array of %lld elements", key, (long long)n));
        return NULL;
    }
    writer_put_number(writer, entry, (uint64_t)type, 4);
    writer_put_number(writer, entry, (uint64_t)n, 8);
    return writer->status ? NULL : entry;
}

void scbm_writer_set_int(scbm_writer *writer, const char *key, scbm_value_type type, int64_t value) {
    writer_entry *entry = writer_entry_for(writer, key, (uint32_t)type, writer->n_entries);
    if (entry) writer_put_int(writer, entry, type, value);
}

void scbm_writer_set_float(scbm_writer *writer, const char *key, scbm_value_type type, double value) {
    writer_entry *entry = writer_entry_for(writer, key, (uint32_t)type, writer->n_entries);
    if (entry) writer_put_float(writer, entry, type, value);
}

void scbm_writer_set_bool(scbm_writer *writer, const char *key, int value) {
    scbm_writer_set_int(writer, key, SCBM_VALUE_BOOL, value != 0);
}

void scbm_writer_set_string(scbm_writer *writer, const char *key, const char *value) {
    writer_entry *entry = writer_entry_for(writer, key, SCBM_VALUE_STRING, writer->n_entries);
    if (entry) writer_put_string(writer, entry, value);
}

void scbm_writer_set_file_type(scbm_writer *writer, scbm_type type) {
    const int64_t number = type == SCBM_F16    ? 1
                           : type == SCBM_Q4_0 ? 2
                           : type == SCBM_Q8_0 ? 7
                           : type == SCBM_BF16 ? 32
                                               : 0;
    scbm_writer_set_int(writer, "general.file_type", SCBM_VALUE_U32, number);
    if (scbm_type_of(type)->block > 1) scbm_writer_set_int(writer, "general.quantization_version", SCBM_VALUE_U32, 2);
}

void scbm_writer_set_strings(scbm_writer *writer, const char *key, const char *const *values, int64_t n) {
    writer_entry *entry = writer_array_for(writer, key, SCBM_VALUE_STRING, n);
    for (int64_t i = 0; entry && i < n && !writer->status; i++) writer_put_string(writer, entry, values[i]);
}

void scbm_writer_set_ints(scbm_writer *writer, const char *key, scbm_value_type type, const int64_t *values,
                          int64_t n) {
    writer_entry *entry = writer_array_for(writer, key, type, n);
    for (int64_t i = 0; entry && i < n && !writer->status; i++) writer_put_int(writer, entry, type, values[i]);
}

void scbm_writer_set_floats(scbm_writer *writer, const char *key, scbm_value_type type, const double *values,
                            int64_t n) {
    writer_entry *entry = writer_array_for(writer, key, type, n);
    for (int64_t i = 0; entry && i < n && !writer->status; i++) writer_put_float(writer, entry, type, values[i]);
}

/* A file's keys differ from each other: only those that the writer had before are searched. */
void scbm_writer_copy_keys(scbm_writer *writer, const scbm_file *file) {
    size_t n_known = writer->n_entries;
    for (int64_t i = 0; i < file->n_entries && !writer->status; i++) {
        const file_entry *source = &file->entries[i];
        writer_entry *entry = writer_entry_for(writer, source->key, (uint32_t)source->type, n_known);
        if (entry) writer_put(writer, entry, source->encoded, source->encoded_bytes);
    }
}

void scbm_writer_remove_key(scbm_writer *writer, const char *key) {
    writer_entry *entry = writer_find(writer, key, writer->n_entries);
    if (!entry) return;
    writer_clear_entry(writer, entry);
    size_t index = (size_t)(entry - writer->entries);
    writer->n_entries--;
    memmove(entry, entry + 1, (writer->n_entries - index) * sizeof *entry);
}

void scbm_writer_add_tensor(scbm_writer *writer, const scbm_tensor *tensor, scbm_type type) {
    scbm_writer_add_tensor_from(writer, tensor, type, NULL, NULL);
}

void scbm_writer_add_tensor_from(scbm_writer *writer, const scbm_tensor *tensor, scbm_type type,
                                 scbm_produce_function produce, void *user) {
    const scbm_type_info *from = tensor ? scbm_type_of(tensor->type) : NULL, *to = scbm_type_of(type);
    if (writer->status) return;
    if (!from || !to) {
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT,
                                            "a tensor to write is missing, or its type %d is unknown", (int)type));
        return;
    }
    if (!gguf_is_name((const unsigned char *)tensor->name, strlen(tensor->name)))
        writer_keep_error(writer,
                          scbm_fail(SCBM_ERROR_ARGUMENT, "a tensor to write has no name, or control characters in it"));
    else if (tensor->type != type && !(from->is_float && to->is_float))
        writer_keep_error(writer, scbm_fail(SCBM_ERROR_ARGUMENT, "tensor %s is %s and cannot be written as %s",
                                            tensor->name, from->name, to->name));
    else
        writer_keep_error(writer, scbm_grow(&writer->hooks, (void **)&writer->tensors, &writer->tensors_capacity,
                                            writer->n_tensors + 1, sizeof *writer->tensors));
    if (writer->status) return;
    if (tensor->shape[tensor->n_dims - 1] % to->block) type = SCBM_F16;
    writer->tensors[writer->n_tensors++] = (writer_tensor){tensor, type, produce, user};
}

static void output_number(scbm_output_file *output, uint64_t value, size_t size) {
    unsigned char bytes[8];
    gguf_encode(value, size, bytes);
    scbm_output_write(output, bytes, size);
}

static void output_string(scbm_output_file *output, const char *text) {
    size_t length = strlen(text);
    output_number(output, length, 8);
    scbm_output_write(output, text, length);
}

/* Zeros up to a multiple of the alignment. */
static size_t output_pad(scbm_output_file *output, size_t bytes) {
    static const unsigned char zeros[GGUF_ALIGNMENT];
    size_t padding = (GGUF_ALIGNMENT - bytes % GGUF_ALIGNMENT) % GGUF_ALIGNMENT;
    scbm_output_write(output, zeros, padding);
    return bytes + padding;
}

/* The bytes that a tensor takes in the file, without padding. */
static size_t writer_tensor_bytes(const writer_tensor *written) {
    const scbm_type_info *info = scbm_type_of(written->type);
    return (size_t)(scbm_tensor_elements(written->tensor) / info->block) * (size_t)info->block_bytes;
}

/* Bytes of everything before the data, without padding. */
static size_t writer_header_bytes(const scbm_writer *writer) {
    size_t size = 4 + 4 + 8 + 8;
    for (size_t i = 0; i < writer->n_entries; i++)
        size += 8 + strlen(writer->entries[i].key) + 4 + writer->entries[i].bytes;
    for (size_t i = 0; i < writer->n_tensors; i++) {
        const scbm_tensor *tensor = writer->tensors[i].tensor;
        size += 8 + strlen(tensor->name) + 4 + 8 * (size_t)tensor->n_dims + 4 + 8;
    }
    return size;
}

/* The alignment is GGUF's usual one: llama.cpp writes damaged files from those that have another (llama-quant.cpp pads
 * with 32 whatever the file says). A key of blanks moves the data to a line of the cache all the same; tensors, whose rows
 * are mostly whole lines, follow. */
static void writer_align_data(scbm_writer *writer) {
    char blanks[GGUF_DATA_ALIGNMENT + 1];
    scbm_writer_set_int(writer, GGUF_ALIGNMENT_KEY, SCBM_VALUE_U32, GGUF_ALIGNMENT);
    scbm_writer_remove_key(writer, GGUF_PADDING_KEY);
    size_t size = writer_header_bytes(writer), over = size % GGUF_DATA_ALIGNMENT;
    if (over == 0 || over > GGUF_DATA_ALIGNMENT - GGUF_ALIGNMENT) return;
    size += 8 + strlen(GGUF_PADDING_KEY) + 4 + 8;
    size_t n = (GGUF_DATA_ALIGNMENT - size % GGUF_DATA_ALIGNMENT) % GGUF_DATA_ALIGNMENT;
    memset(blanks, ' ', n);
    blanks[n] = 0;
    scbm_writer_set_string(writer, GGUF_PADDING_KEY, blanks);
}

/* Everything before the data. */
static void writer_write_header(const scbm_writer *writer, scbm_output_file *output) {
    uint64_t offset = 0;
    scbm_output_write(output, "GGUF", 4);
    output_number(output, GGUF_VERSION, 4);
    output_number(output, writer->n_tensors, 8);
    output_number(output, writer->n_entries, 8);
    for (size_t i = 0; i < writer->n_entries; i++) {
        const writer_entry *entry = &writer->entries[i];
        output_string(output, entry->key);
        output_number(output, entry->type, 4);
        scbm_output_write(output, entry->value, entry->bytes);
    }
    for (size_t i = 0; i < writer->n_tensors; i++) {
        const scbm_tensor *tensor = writer->tensors[i].tensor;
        output_string(output, tensor->name);
        output_number(output, (uint64_t)tensor->n_dims, 4);
        for (int d = tensor->n_dims - 1; d >= 0; d--) output_number(output, (uint64_t)tensor->shape[d], 8);
        output_number(output, gguf_number_of(writer->tensors[i].type), 4);
        output_number(output, offset, 8);
        offset += writer_tensor_bytes(&writer->tensors[i]) + GGUF_ALIGNMENT - 1;
        offset -= offset % GGUF_ALIGNMENT;
    }
}

#define WRITER_CHUNK 16384 /* elements converted at a time: whole blocks */

/* Converts and writes a tensor piece by piece. `scratch` has room for two pieces of the largest type; the source goes
 * through it, since it may lie anywhere. */
static scbm_status writer_write_converted(const writer_tensor *written, const unsigned char *source,
                                          scbm_output_file *output, unsigned char *scratch) {
    const scbm_type_info *from = scbm_type_of(written->tensor->type), *to = scbm_type_of(written->type);
    int64_t left = scbm_tensor_elements(written->tensor);
    while (left > 0 && !output->status) {
        int64_t n = left < WRITER_CHUNK ? left : WRITER_CHUNK;
        size_t bytes = (size_t)(n / from->block) * (size_t)from->block_bytes;
        memcpy(scratch, source, bytes);
        scbm_status status = scbm_convert(written->type, scratch + 4 * WRITER_CHUNK, written->tensor->type, scratch, n);
        if (status) return scbm_fail(status, "tensor %s: %s", written->tensor->name, scbm_last_error());
        scbm_output_write(output, scratch + 4 * WRITER_CHUNK, (size_t)(n / to->block) * (size_t)to->block_bytes);
        source += bytes;
        left -= n;
    }
    return SCBM_OK;
}

static scbm_status writer_write_tensor(const scbm_writer *writer, const writer_tensor *written,
                                       scbm_output_file *output, unsigned char *scratch) {
    const void *data = written->tensor->data;
    void *produced = NULL;
    scbm_status status = SCBM_OK;
    if (written->produce) {
        data = produced = scbm_alloc(&writer->hooks, scbm_tensor_bytes(written->tensor));
        status = produced ? written->produce(written->user, written->tensor, produced) : SCBM_ERROR_MEMORY;
    }
    if (!status && written->tensor->type == written->type)
        scbm_output_write(output, data, writer_tensor_bytes(written));
    else if (!status) status = writer_write_converted(written, data, output, scratch);
    scbm_release(&writer->hooks, produced);
    output_pad(output, writer_tensor_bytes(written));
    return status;
}

static scbm_status writer_write_data(const scbm_writer *writer, scbm_output_file *output) {
    unsigned char *scratch = scbm_alloc(&writer->hooks, 8 * WRITER_CHUNK);
    scbm_status status = scratch ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < writer->n_tensors && !status && !output->status; i++) {
        status = scbm_cancelled(&writer->hooks);
        if (!status) status = writer_write_tensor(writer, &writer->tensors[i], output, scratch);
    }
    scbm_release(&writer->hooks, scratch);
    return status;
}

/* What can only be seen when everything is there: names that are there twice, data that is missing. */
static scbm_status writer_check(const scbm_writer *writer) {
    if (writer->status) return scbm_fail(writer->status, "%s", writer->message);
    file_name *names = scbm_alloc_array(&writer->hooks, writer->n_tensors + 1, sizeof *names);
    if (!names) return SCBM_ERROR_MEMORY;
    const char *twice;
    for (size_t i = 0; i < writer->n_tensors; i++) names[i] = (file_name){writer->tensors[i].tensor->name, (int64_t)i};
    file_sort_names(names, (int64_t)writer->n_tensors, &twice);
    scbm_release(&writer->hooks, names);
    if (twice) return scbm_fail(SCBM_ERROR_ARGUMENT, "tensor %s is to be written twice", twice);
    for (size_t i = 0; i < writer->n_tensors; i++) {
        const writer_tensor *written = &writer->tensors[i];
        if (!written->produce && !written->tensor->data && scbm_tensor_elements(written->tensor))
            return scbm_fail(SCBM_ERROR_ARGUMENT, "tensor %s has no data to write", written->tensor->name);
    }
    return gguf_check_machine();
}

scbm_status scbm_writer_write(scbm_writer *writer, const char *path) {
    scbm_output_file *output;
    writer_align_data(writer);
    scbm_status status = writer_check(writer);
    if (!status) status = scbm_output_open(&output, path, &writer->hooks);
    if (status) return status;
    writer_write_header(writer, output);
    output_pad(output, writer_header_bytes(writer));
    status = writer_write_data(writer, output);
    if (!status) return scbm_output_commit(output);
    scbm_output_abandon(output);
    return status;
}

/* ==========================================================================================
 * Part 4: the CPU's kernels
 * ======================================================================================== */

/* ------------------------------------------------------------------------------------------
 * CPU kernels
 *
 * Everything that computes on the CPU. The part between "#ifdef SCBM_KERNELS_TIER" and its #endif is written once over
 * a vector width and compiled once per tier: this file includes itself (SCBM_SELF) with other macros each time.
 *
 * Determinism: the same inputs and tier give the same bits whatever the number of threads, and a row's result does not
 * depend on the rows beside it. Work is cut by shape only. Every element of a product is one chain of fused
 * multiply-adds in the order of the summed index, whichever tile computes it, so a tile may have any width, and a
 * product without the masked weights has the bits of the product with zeros in their place. (The gradient of masked
 * weights is summed in another order than that of all weights.) On matrix tiles, where f32 without masks and bf16 are
 * computed, an element's sum has an order of its own, the same in any batch.
 * (The portable tier multiplies and adds separately, the same everywhere.)
 *
 * Arrays are row-major and contiguous, f32 unless told. S streams, T tokens of all texts end to end. Kernels do not
 * allocate: ex->scratch holds at least the bytes that the op's _scratch function names (64-byte aligned), which depend
 * on shapes, the tier and ex->n_workers only and are enough for smaller T, R and n too. Arguments are trusted: the
 * caller has checked shapes, ids and offsets.
 *
 * The entry points:
 *
 *   k_linear           y[S,T,N] = act(x[S|1,T,K] (W[N,K] . M_s)^T + b[N]); pre: the same before act
 *   k_linear_dx        dx[S,T,K] = dy[S,T,N] (W . M_s)
 *   k_linear_dw        dw[N,K] = sum over s of M_s . (dy_s^T x_s), or dw[S,N,K] = M_s . (dy_s^T x_s), or no M_s
 *   k_attention        y[S,T,H*D], lse[S,H,T] from q, k, v[S,T,H*D], text by text
 *   k_attention_back   dq, dk, dv[S,T,H*D] from dy, y, lse, q, k, v
 *   k_layer_norm       y[R,C], sum[R,C] = x + residual, mean[R], rstd[R]
 *   k_layer_norm_back  dx[R,C], dgamma[C], dbeta[C]
 *   k_softmax          y[R,C];  k_softmax_back  dx[R,C] from dy, y
 *   k_act              y[n] = act(x[n]);  k_act_back  dx[n] = dy . act'(x)
 *   k_dropout          y[n] = keep ? x / (1 - p) : 0; the same call on dy is its backward
 *   k_binary           y[n] = a op b, b broadcast;  k_scale y = s x;  k_fill y = s
 *   k_get_rows         y[n_ids,C] = table[ids];  k_get_rows_back  dtable[rows,C] = sums of dy[n_ids,C]
 *   k_segment_mean     y[S,B,C] = mean over a text's tokens of x[S,T,C];  k_segment_mean_back  dx[S,T,C]
 *   k_lstm             y, cells[S,T,H], gates[S,T,4H] from x[S|1,T,4H], w[4H,H];  k_lstm_back  dx[S,T,4H], before[S,T,H]
 *   k_cross_entropy    loss over groups of columns of logits[R,C];  k_cross_entropy_back  dlogits[R,C]
 *   k_colsum           y[C] = column sums of x[R,C];  k_rowsum  y[R] = row sums
 *   k_reduce           sum or sum of squares, in f64
 *   k_adamw            one step for w, m, v[n] with gradient g[n]
 *   k_select           the kernel table for this machine, or a lower one by name
 * ---------------------------------------------------------------------------------------- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define K_IS_CHECKED
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define K_IS_CHECKED
#endif

#if defined(__GNUC__)
#define K_OP static __attribute__((unused))
#ifdef K_IS_CHECKED /* with a sanitizer's checks all in one function takes minutes to compile, and runs slower */
#define K_INLINE static inline __attribute__((unused))
#else
#define K_INLINE static inline __attribute__((always_inline, unused))
#endif
#else
#define K_OP static
#define K_INLINE static inline
#endif

/* ---- Types ---- */

struct k_table;
struct k_packed;

/* What an op runs on. `worker` of a task is below n_workers, and no two tasks run on one worker at a time. */
struct k_exec {
    scbm_parallel_for pfor;
    void *user;
    void *scratch;
    int n_workers;
    const struct k_table *k;
    struct k_packed *packed; /* what linear layers hand on to each other in the scratch; NULL: nothing is */
};

/* The x that a linear layer has packed in the scratch, and how. Layers that read the same x follow each other (Q, K and V),
 * and need it packed once. */
struct k_packed {
    const void *x;
    int64_t S, T, K, width, kc, gap, how;
    float *place;              /* where it is */
    int is_only;               /* the layer before computed x, and put it nowhere else */
    const struct k_kept *kept; /* then: what the layer that it is for will use */
    const struct k_lists *lists;
};

enum k_binary_op { K_ADD, K_MUL };
enum k_reduce_op { K_SUM, K_SUMSQ };

/* A weight matrix [N, K] of any type: row n starts at data + n * row_bytes (a multiple of the element's alignment; K is
 * a multiple of 32 for Q8_0 and Q4_0). With mask != NULL stream s uses W . M_s: bit j of byte b of row n is weight
 * 8b + j; rows are mask_row bytes apart (a multiple of 8), streams mask_stream bytes. */
struct k_weights {
    const void *data;
    int type;
    int64_t row_bytes;
    const uint8_t *mask;
    int64_t mask_row, mask_stream;
    const struct k_kept *kept;   /* of these masks, or NULL */
    const struct k_lists *lists; /* likewise */
};

/* The weights that the masks of a matrix keep, stream by stream: blocks of 64 columns, in them the rows. */
struct k_kept {
    int64_t S, rows, n_kb;
    uint64_t *words; /* [S][n_kb][rows]: the masks */
    int64_t *first;  /* [S][n_kb][rows / 16, rounded up]: where the values of 16 rows begin */
    float *values;
};

/* The same for few tokens: blocks of kc columns, in them groups of four rows, and of each group a list as long as its longest
 * row. An entry is the next kept weight of each row and its column in the block; behind a row's end zeros, and column kc. */
struct k_lists {
    int64_t S, rows, kc, n_kb;
    int64_t *first; /* [S][n_kb][rows / 4, rounded up] and the end: where lists begin */
    float *values;  /* [entries][4] */
    uint8_t *columns;
};

/* y[S,T,N] = act(x W^T + b); x has x_streams = S or 1 streams. pre (or NULL) receives x W^T + b. bf16: x and W are
 * rounded to bf16, sums stay f32. int8: see "Products of quantized blocks". */
struct k_linear_args {
    const struct k_linear_args *next; /* the only reader of y, which runs next: y may be left packed for it; or NULL */
    float *y, *pre;
    const float *x, *bias;
    struct k_weights w;
    int64_t S, T, K, N, x_streams;
    int act, bf16;
    int int8; /* in integers, if the weights are in blocks and have no masks */
};

/* dx[S,T,K] = dy[S,T,N] (W . M_s). bf16: as in k_linear_args. */
struct k_linear_dx_args {
    float *dx;
    const float *dy;
    struct k_weights w;
    int64_t S, T, K, N;
    int bf16;
};

/* dw[N,K] or dw[S,N,K] by mode; x has x_streams = S or 1 streams; mask as in k_weights, or NULL. bf16: dy and x are
 * rounded to bf16, sums stay f32. */
struct k_linear_dw_args {
    float *dw;
    const float *dy, *x;
    const uint8_t *mask;
    int64_t mask_row, mask_stream;
    int64_t S, T, K, N, x_streams;
    int mode, bf16;
};

/* Random numbers are Philox4x32-10 of (seed; op, step, element): an element's bit depends on nothing else. An element
 * is kept if its u32 >= p 2^32, and then divided by 1 - p. */
struct k_dropout_args {
    float p;
    uint64_t seed;
    uint32_t op, step;
};

/* Multi-head attention, text by text: offsets[n_texts + 1] cut the T tokens. q, k, v, y and their gradients are
 * [S, T, H * D]; lse is [S, H, T]. max_len is at least the longest text. Element of the dropout: query's packed index t
 * and key j of stream s, head h have counter (j, t / 4, op * 65536 + s * H + h, step), word t % 4. A bias is added to
 * scale q k^T; where there is one, max_len <= reach + 1. */
struct k_attention_args {
    float *y, *lse;
    const float *q, *k, *v;
    const float *bias; /* [2 reach + 1, H]: of head h, key j and query i of a text, row reach + j - i; or NULL */
    const int32_t *offsets;
    int64_t n_texts, max_len, S, T, H, D, reach;
    int64_t ld; /* H * D, set by the entry point */
    float scale;
    int causal, has_bias; /* also where there are no data yet */
    struct k_dropout_args dropout;
    float *dq, *dk, *dv, *dbias; /* backward only; dbias where there is a bias */
    const float *dy;
};

/* y = (x + residual - mean) rstd gamma + beta for each of R rows of C. residual (or NULL) has residual_rows rows, used
 * over and over; sum (or NULL) receives x + residual; mean and rstd may be NULL. */
struct k_layer_norm_args {
    float *y, *sum, *mean, *rstd;
    const float *x, *residual, *gamma, *beta;
    int64_t R, C, residual_rows;
    float eps;
    int is_rms; /* the mean is taken as 0 */
};

/* From dy and what the forward normalized (x: its sum, if it had a residual). dgamma and dbeta may be NULL together. */
struct k_layer_norm_back_args {
    float *dx, *dgamma, *dbeta;
    const float *dy, *x, *mean, *rstd, *gamma; /* mean NULL: of an RMS norm, which has no beta */
    int64_t R, C;
};

/* Cross-entropy of logits[R,C], whose columns groups[k] .. groups[k + 1] are softmaxes of their own. Hard targets:
 * labels[R,K] within the group, a negative one does not count; weight w = class_weight[label]. Soft targets: soft[R,C]
 * (labels is NULL), l = -sum w_c t_c log p_c; a group whose targets are all zero does not count, others weigh 1.
 * loss = sum w l / sum w, 0 if nothing counts; total = sum w; p[R,C]: the probabilities. class_weight may be NULL. */
struct k_cross_entropy_args {
    float *loss, *total, *p;
    const float *logits, *soft, *class_weight;
    const int32_t *labels, *groups;
    int64_t R, C, K;
    float *dlogits; /* backward, which reads p and total: dlogits = dloss . d loss / d logits */
    const float *dloss;
};

/* m = beta1 m + (1 - beta1) g', v = beta2 v + (1 - beta2) g'^2, g' = grad_scale g;
 * w -= lr (m / correction1 / (sqrt(v / correction2) + eps) + decay w). */
struct k_adamw_args {
    float *w, *m, *v;
    const float *g;
    int64_t n;
    float lr, beta1, beta2, eps, decay, correction1, correction2, grad_scale;
};

/* ---- Sizes that every tier shares ---- */

enum {
    K_MR_MAX = 12,    /* rows of a register tile, at most */
    K_PANEL_MAX = 32, /* lanes of a register tile, at most */
    K_KC = 384,       /* summed index is cut into blocks of at most this */
    K_KC_LD = 400,    /* row stride of a copied W tile: no power of two, so that rows do not share cache sets */
    K_TB = 256,       /* tokens of a task */
    K_BLOCK = 32,     /* numbers of a quantized block */
    K_STRIP = 32,     /* matrix tiles: rows of W that are computed at a time, and columns of a step */
    K_DX_COLS = 96,   /* columns of W that a dX task takes: a multiple of every tier's MR and of 32 */
    K_DX_KC = 256,    /* rows of W that it takes at a time */
    K_DW_COLS = 256,  /* columns of dW that a task computes */
    K_SP_VECTORS = 8, /* sparse products: vectors of tokens in a tile, at most */
    K_SP_X = 32768,   /* bytes of such a tile that stay in the first cache while the weights go by */
    K_SP_KC = 256,    /* the summed index is cut into blocks of at most this */
    K_SP_LIST = 192,  /* or this for few tokens, so that an offset and one more value fit in a byte */
    K_SP_FEW = 32,    /* tokens that are few, and of a tile then: two vectors of the widest tier */
    K_SP_ROWS = 128,  /* rows that a task prepares at a time: a multiple of 64 */
    K_SP_END = 16,    /* rows that it ends at a time: a multiple of 16 */
    K_SP_SUMS = 384,  /* rows whose sums it holds at a time, at most */
    K_SP_TILES = 2,   /* tiles of a task, at most */
    K_SP_X2 = 262144, /* floats of more than one tile that it takes: they stay in the second cache */
    K_SP_MANY = 48,   /* tokens from which it pays to compute the masked dW weight by weight */
    K_CHUNK = 8192,   /* elements of an elementwise task */
    K_LSTM_TEXTS = 4, /* texts whose steps an LSTM's task takes together */
    K_LSTM_ROWS = 16, /* rows of its weights that a task prepares */
    K_ATT_ROWS = 48,  /* query rows that the attention backward takes at a time */
    K_ATT_CHUNK = 96, /* query rows of an attention task */
    K_TASKS = 32,     /* aim for at least so many tasks */
    K_SERIAL = 32768  /* operations that one thread does alone */
};

/* The leaf kernels of one tier. */
struct k_table {
    const char *name;
    int bf16; /* has its own bf16 products */
    int lanes;
    int has_tiles; /* and matrix tiles: linear_bf16 and pack_x_bf16 are for them, and do f32 too, in parts */
    scbm_task pack_x, linear, linear_bf16, pack_x_bf16;
    scbm_task pack_blocks, linear_blocks;
    scbm_task pack_quads, linear_quads; /* NULL: it has none; else k_has_quads says whether the processor does */
    scbm_task linear_dx, pack_cols, linear_dw;
    scbm_task keep_weights, list_weights, pack_tiles, sparse_prepare, sparse, sparse_few, sparse_listed, sparse_dw;
    scbm_task attention, attention_back, attention_bias_gather;
    scbm_task layer_norm, layer_norm_back, layer_norm_gather;
    scbm_task softmax, softmax_back;
    scbm_task act, act_back, dropout, binary, scale;
    scbm_task get_rows, get_rows_back, segment_mean, segment_mean_back;
    scbm_task cross_entropy, cross_entropy_back;
    scbm_task lstm_weights, lstm, lstm_back;
    scbm_task colsum, colsum_gather, rowsum, reduce, adamw, to_f32, from_f32;
};

/* clang-format off */
K_INLINE int64_t k_min(int64_t a, int64_t b) { return a < b ? a : b; }
K_INLINE int64_t k_max(int64_t a, int64_t b) { return a > b ? a : b; }
K_INLINE int64_t k_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
K_INLINE int64_t k_round(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
/* floats, rounded so that what follows stays on a cache line */
K_INLINE size_t k_floats(int64_t n) { return (size_t)k_round(n, 16) * sizeof(float); }
/* clang-format on */

/* 64 bits of a mask plane, the first one lowest. */
K_INLINE uint64_t k_mask_word(const uint8_t *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
           (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

/* Of a word, the bits before column `end`. */
K_INLINE uint64_t k_first_bits(uint64_t word, int64_t end) {
    return end < 64 ? word & (((uint64_t)1 << end) - 1) : word;
}

K_INLINE int k_count_bits(uint64_t m) {
    m -= m >> 1 & 0x5555555555555555;
    m = (m & 0x3333333333333333) + (m >> 2 & 0x3333333333333333);
    m = (m + (m >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (int)(m * 0x0101010101010101 >> 56);
}

/* The number of the lowest bit that is set; there is one. */
K_INLINE size_t k_low_bit(uint64_t m) {
#ifdef __GNUC__
    return (unsigned)__builtin_ctzll(m);
#else
    size_t n = 0;
    for (; !(m & 1); m >>= 1) n++;
    return n;
#endif
}

#ifdef __GNUC__
#define K_PREFETCH(p) __builtin_prefetch((const void *)(p))
#define K_PREFETCH_FAR(p) __builtin_prefetch((const void *)(p), 0, 2)
#else
#define K_PREFETCH(p) (void)(p)
#define K_PREFETCH_FAR(p) (void)(p)
#endif

/* ---- Half precision and blocks, one value at a time ---- */

K_INLINE float k_bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

K_INLINE uint32_t k_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float k_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 1023;
    if (e == 0) return k_bits_f32(sign | k_f32_bits((float)m * 0x1p-24f));
    if (e == 31) return k_bits_f32(sign | 0x7f800000u | m << 13 | (m ? 0x400000u : 0));
    return k_bits_f32(sign | (e + 112) << 23 | m << 13);
}

/* Rounds to nearest even, as the hardware does. */
static uint16_t k_f32_to_f16(float f) {
    const uint32_t u = k_f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) /* subnormal: adding 0.5 leaves the rounded value in the low bits */
        return (uint16_t)(sign | ((k_f32_bits(k_bits_f32(a) + 0.5f)) - 0x3f000000));
    return (uint16_t)(sign | ((a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13));
}

K_INLINE float k_bf16_to_f32(uint16_t h) {
    return k_bits_f32((uint32_t)h << 16);
}

K_INLINE uint16_t k_f32_to_bf16(float f) {
    const uint32_t u = k_f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

K_INLINE uint16_t k_u16(const void *p) {
    uint16_t u;
    memcpy(&u, p, 2);
    return u;
}

static int64_t k_row_bytes(int type, int64_t cols) {
    switch (type) {
    case SCBM_F32: return cols * 4;
    case SCBM_Q8_0: return cols / 32 * 34;
    case SCBM_Q4_0: return cols / 32 * 18;
    default: return cols * 2;
    }
}

/* ---- What the tasks of an op share ---- */

struct k_linear_run {
    struct k_linear_args a;
    float *xp;         /* packed x: per stream, panels [K][lanes] end to end (tiles: as pack_parts) */
    int64_t xp_stream; /* floats */
    char *worker;      /* per-worker scratch */
    size_t worker_bytes;
    int64_t kc, n_kb; /* blocks of the summed index */
    int64_t nb, n_nb; /* rows of W in a task, number of such blocks */
    int64_t tb, n_tb; /* tokens in a task */
    int64_t kp;       /* summed length as packed (bf16: pairs) */
    float *out;       /* y as the next layer's packed x, or NULL; out_stream floats a stream */
    int64_t out_stream;
    int round; /* round x and W to bf16, products in f32 */
    int parts; /* on matrix tiles: how many bf16 stand for a number; else 0 */
    int per;   /* in quantized blocks: how many numbers a lane holds; else 0 */
};

struct k_dx_run {
    struct k_linear_dx_args a;
    float *dyp;
    int64_t dyp_stream;
    char *worker;
    size_t worker_bytes;
    int64_t kc, n_kb, n_cb, tb, n_tb;
};

struct k_pack_run { /* x[S,T,K] into panels */
    const float *x;
    float *xp;
    int64_t S, T, K, xp_stream, kc, n_kc, n_panels;
    int round, parts; /* as in k_linear_run */
    int is_in_panels; /* x is packed already, in f32 */
};

struct k_dw_run {
    struct k_linear_dw_args a;
    float *xp;
    int64_t xp_stream;
    char *worker;
    size_t worker_bytes;
    int64_t tc, n_tc, nb, n_nb, n_cb;
};

/* Activations for the sparse products: x[S,T,depth] with its tokens cut into tiles, each packed as [depth][lanes]. */
struct k_tiles {
    const float *x;
    float *packed;
    int64_t stream; /* floats of a packed stream */
    int64_t S, T, depth;
    int64_t n_vectors, n_tiles; /* tiles differ by one vector at most */
    int64_t kc, n_kb;           /* blocks of the depth: a multiple of 64 */
    int64_t gap;                /* rows of zeros at the end of a block */
    int round;                  /* to bf16 */
};

/* The first vector of a tile. */
K_INLINE int64_t k_tile_first(const struct k_tiles *x, int64_t tile) {
    return x->n_vectors / x->n_tiles * tile + k_min(tile, x->n_vectors % x->n_tiles);
}

struct k_keep_run {
    const struct k_weights *w;
    struct k_kept *kept; /* or: */
    struct k_lists *lists;
    int64_t columns;
};

struct k_sparse_run {
    const struct k_linear_args *y;     /* computes y of k_linear: its rows are those of W, its depth is K */
    const struct k_linear_dx_args *dx; /* or dx of k_linear_dx: its rows are the columns of W, its depth is N */
    const struct k_weights *w;
    struct k_tiles x;   /* or dy */
    struct k_tiles out; /* y as the next layer's packed x; or its `packed` is NULL */
    int few;
    int64_t S, rows;
    int64_t rows_task, n_rb;   /* rows of a task, number of such blocks */
    int64_t nb;                /* rows that it takes at a time */
    int64_t tiles, n_tb;       /* tiles of a task, number of such blocks */
    float *wt;                 /* W as it is read, where that is not W itself: [rows][depth up to 64] */
    uint8_t *mt;               /* the masks, transposed for dx: [S][rows][depth up to 64] */
    const struct k_kept *kept; /* or the weights that are kept */
    const struct k_lists *lists;
    char *worker;
    size_t worker_bytes;
};

struct k_sparse_dw_run {
    struct k_linear_dw_args a;
    struct k_tiles x, dy;
    int64_t nb, n_nb;      /* rows of a task, number of such blocks */
    int64_t kb_task, n_cb; /* blocks of columns of a task, number of such groups */
};

struct k_attention_run {
    struct k_attention_args a;
    int32_t *chunk_of; /* chunks of query rows before each text */
    int64_t n_chunks;
    float *part; /* [S, H, 2 T] of dbias: 2 len - 1 distances of each text, from twice its first token on */
    char *worker;
    size_t worker_bytes;
};

struct k_layer_norm_run {
    struct k_layer_norm_args a;
    int64_t block;
};

struct k_layer_norm_back_run {
    struct k_layer_norm_back_args a;
    float *part; /* [n_blocks][2][C] */
    int64_t block, n_blocks;
};

struct k_rows_run { /* y, x: [R, C]; a few rows a task */
    float *y, *part;
    const float *x, *y_in, *dy;
    int64_t R, C, block, n_blocks;
};

struct k_map_run { /* n elements, K_CHUNK a task */
    float *y;
    const float *a, *b;
    int64_t n, b_n, b_rep;
    int op;
    float s;
    struct k_dropout_args d;
    double *part;
};

struct k_gather_run {
    float *y;
    const float *dy;
    struct k_weights w;
    const int32_t *ids;
    int64_t n, C, rows, block;
};

struct k_segment_run {
    float *y;
    const float *x;
    const int32_t *offsets;
    int64_t B, S, T, C;
};

/* One direction of an LSTM. x has S streams or one; a stream of weights is masked, or all share one. */
struct k_lstm_args {
    const float *x, *dy;          /* forward; backward */
    float *y, *gates, *cells;     /* results of forward, read by backward */
    float *dx, *before;           /* results of backward */
    struct k_weights w;
    const int32_t *offsets;
    int64_t n_texts, S, x_S, T, H;
    int reverse;
};

/* The weights as backward reads them, [4H][ld], or as forward does, transposed: [H][ld]; ld is a multiple of 32. */
struct k_lstm_run {
    struct k_lstm_args a;
    float *w, *carry;             /* [streams of weights][rows][ld]; [workers] of what goes from step to step */
    int64_t ld, stream, carried;  /* floats of a stream of w, and of a worker's carry */
    int is_back;
};

struct k_convert_run {
    void *dst;
    const void *src;
    int type;
    int64_t R, C, src_row, dst_row;
};

struct k_cross_entropy_run {
    struct k_cross_entropy_args a;
    double *part; /* [R][2]: loss, weight */
    float factor;
};

/* ---- The tiers ---- */

#define K_CAT2(a, b) a##_##b
#define K_CAT(a, b) K_CAT2(a, b)
#define KT(name) K_CAT(k_##name, SCBM_TIER)
#define KFN K_INLINE SCBM_TARGET
#define KTASK static SCBM_TARGET

#define SCBM_KERNELS_TIER 1

#define SCBM_TIER portable
#define K_TIER_NAME "portable"
#if defined(__aarch64__) && defined(__ARM_NEON)
#define SCBM_MR 8 /* 32 vector registers */
#ifdef K_DOTPROD
#define SCBM_TARGET_QUADS __attribute__((target(K_DOTPROD)))
#endif
#else
#define SCBM_MR 4
#endif
#define SCBM_VL 4
#define SCBM_VMIN 4
#define SCBM_IN_PLACE 8 /* tokens up to which a linear layer reads W where it lies */
#define SCBM_TARGET
#include SCBM_SELF
#undef SCBM_TIER
#undef SCBM_VL
#undef SCBM_VMIN
#undef SCBM_IN_PLACE
#undef SCBM_MR
#undef SCBM_TARGET
#undef SCBM_TARGET_QUADS
#undef K_TIER_NAME

#ifdef K_X86
#define SCBM_TIER avx2
#define K_TIER_NAME "avx2"
#define SCBM_MR 6
#define SCBM_VL 8
#define SCBM_VMIN 8
#define SCBM_IN_PLACE 64
#define SCBM_TARGET __attribute__((target("avx2,fma,f16c,bmi")))
#include SCBM_SELF
#undef SCBM_TIER
#undef SCBM_VL
#undef SCBM_VMIN
#undef SCBM_IN_PLACE
#undef SCBM_MR
#undef SCBM_TARGET
#undef K_TIER_NAME

#define SCBM_TIER avx512
#define K_TIER_NAME "avx512"
#define SCBM_MR 12
#define SCBM_VL 16
#define SCBM_VMIN 8
#define SCBM_IN_PLACE 32
#define SCBM_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi")))
#define SCBM_TARGET_BF16 __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi")))
#define SCBM_TARGET_QUADS                                                                                              \
    __attribute__((target("avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi")))
#define SCBM_TARGET_VBMI2                                                                                              \
    __attribute__((target("avx512vbmi2,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi")))
#ifdef K_AMX
#define SCBM_TARGET_AMX                                                                                                \
    __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi")))
#endif
#include SCBM_SELF
#undef SCBM_TIER
#undef SCBM_VL
#undef SCBM_VMIN
#undef SCBM_IN_PLACE
#undef SCBM_MR
#undef SCBM_TARGET
#undef SCBM_TARGET_AMX
#undef SCBM_TARGET_BF16
#undef SCBM_TARGET_VBMI2
#undef SCBM_TARGET_QUADS
#undef K_TIER_NAME
#endif

#undef SCBM_KERNELS_TIER

#else /* SCBM_KERNELS_TIER */

/* ------------------------------------------------------------------------------------------
 * CPU kernels: those of one tier
 * ---------------------------------------------------------------------------------------- */

/* ---- Vectors of SCBM_VL lanes ---- */

#define VF KT(vf)
#define VI KT(vi)
#define VM KT(vm)
#define v_zero KT(zero)
#define v_set1 KT(set1)
#define v_load KT(load)
#define v_store KT(store)
#define v_load_n KT(load_n)
#define v_store_n KT(store_n)
#define v_add KT(add)
#define v_sub KT(sub)
#define v_mul KT(mul)
#define v_div KT(div)
#define v_fma KT(fma)
#define v_fnma KT(fnma)
#define v_max KT(max)
#define v_min KT(min)
#define v_sqrt KT(sqrt)
#define v_abs KT(abs)
#define v_lt KT(lt)
#define v_sel KT(sel)
#define v_keep KT(keep)
#define v_as_i KT(as_i)
#define v_as_f KT(as_f)
#define v_to_i KT(to_i)
#define v_to_f KT(to_f)
#define v_mask_at KT(mask_at)
#define v_i8 KT(i8)
#define v_u4 KT(u4)
#define v_f16 KT(f16)
#define v_put_f16 KT(put_f16)
#define v_sum KT(sum)
#define v_maxall KT(maxall)
#define vi_set1 KT(iset1)
#define vi_iota KT(iota)
#define vi_load KT(iload)
#define vi_store KT(istore)
#define vi_add KT(iadd)
#define vi_sub KT(isub)
#define vi_and KT(iand)
#define vi_or KT(ior)
#define vi_xor KT(ixor)
#define vi_shl KT(ishl)
#define vi_shr KT(ishr)
#define vi_sar KT(isar)
#define vi_geu KT(igeu)
#define vi_mulhilo KT(imulhilo)

/* clang-format off */
#if SCBM_VL == 16

typedef __m512 VF;
typedef __m512i VI;
typedef __mmask16 VM;

KFN VF v_zero(void) { return _mm512_setzero_ps(); }
KFN VF v_set1(float x) { return _mm512_set1_ps(x); }
KFN VF v_load(const float *p) { return _mm512_loadu_ps(p); }
KFN void v_store(float *p, VF a) { _mm512_storeu_ps(p, a); }
KFN VM KT(first)(int64_t n) { return (VM)(n >= 16 ? 0xffffu : (1u << n) - 1); }
KFN VF v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(KT(first)(n), p); }
KFN void v_store_n(float *p, VF a, int64_t n) { _mm512_mask_storeu_ps(p, KT(first)(n), a); }
KFN VF v_add(VF a, VF b) { return _mm512_add_ps(a, b); }
KFN VF v_sub(VF a, VF b) { return _mm512_sub_ps(a, b); }
KFN VF v_mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
KFN VF v_div(VF a, VF b) { return _mm512_div_ps(a, b); }
KFN VF v_fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
KFN VF v_fnma(VF a, VF b, VF c) { return _mm512_fnmadd_ps(a, b, c); }
KFN VF v_max(VF a, VF b) { return _mm512_max_ps(a, b); }
KFN VF v_min(VF a, VF b) { return _mm512_min_ps(a, b); }
KFN VF v_sqrt(VF a) { return _mm512_sqrt_ps(a); }
KFN VM v_lt(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
KFN VF v_sel(VM m, VF a, VF b) { return _mm512_mask_blend_ps(m, b, a); }
KFN VF v_keep(VM m, VF a) { return _mm512_maskz_mov_ps(m, a); }
KFN VI v_as_i(VF a) { return _mm512_castps_si512(a); }
KFN VF v_as_f(VI a) { return _mm512_castsi512_ps(a); }
KFN VI v_to_i(VF a) { return _mm512_cvtps_epi32(a); }
KFN VF v_to_f(VI a) { return _mm512_cvtepi32_ps(a); }
KFN VM v_mask_at(const uint8_t *m, int64_t col) { return (VM)k_u16(m + col / 8); }
KFN VF v_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
/* elements col .. col + 15 of a Q4_0 block, less 8 */
KFN VF v_u4(const uint8_t *p, int col) {
    __m512i q = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    q = col ? _mm512_srli_epi32(q, 4) : _mm512_and_si512(q, _mm512_set1_epi32(15));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(q, _mm512_set1_epi32(8)));
}
KFN VF v_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
KFN void v_put_f16(uint16_t *p, VF a) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KFN VI vi_set1(uint32_t x) { return _mm512_set1_epi32((int)x); }
KFN VI vi_iota(void) { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
KFN VI vi_load(const void *p) { return _mm512_loadu_si512(p); }
KFN void vi_store(void *p, VI a) { _mm512_storeu_si512(p, a); }
KFN VI vi_add(VI a, VI b) { return _mm512_add_epi32(a, b); }
KFN VI vi_sub(VI a, VI b) { return _mm512_sub_epi32(a, b); }
KFN VI vi_and(VI a, VI b) { return _mm512_and_si512(a, b); }
KFN VI vi_or(VI a, VI b) { return _mm512_or_si512(a, b); }
KFN VI vi_xor(VI a, VI b) { return _mm512_xor_si512(a, b); }
KFN VI vi_shl(VI a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
KFN VI vi_shr(VI a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
KFN VI vi_sar(VI a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); }
KFN VM vi_geu(VI a, VI b) { return _mm512_cmpge_epu32_mask(a, b); }
KFN VI vi_mulhilo(VI a, uint32_t m, VI *lo) {
    const VI mm = _mm512_set1_epi64((long long)m);
    const VI even = _mm512_mul_epu32(a, mm), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), mm);
    *lo = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    return _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

#elif SCBM_VL == 8

typedef __m256 VF;
typedef __m256i VI;
typedef __m256 VM;

static const int32_t KT(firsts)[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

KFN VF v_zero(void) { return _mm256_setzero_ps(); }
KFN VF v_set1(float x) { return _mm256_set1_ps(x); }
KFN VF v_load(const float *p) { return _mm256_loadu_ps(p); }
KFN void v_store(float *p, VF a) { _mm256_storeu_ps(p, a); }
KFN VI KT(first)(int64_t n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(KT(firsts) + 8 - (n > 8 ? 8 : n)));
}
KFN VF v_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, KT(first)(n)); }
KFN void v_store_n(float *p, VF a, int64_t n) { _mm256_maskstore_ps(p, KT(first)(n), a); }
KFN VF v_add(VF a, VF b) { return _mm256_add_ps(a, b); }
KFN VF v_sub(VF a, VF b) { return _mm256_sub_ps(a, b); }
KFN VF v_mul(VF a, VF b) { return _mm256_mul_ps(a, b); }
KFN VF v_div(VF a, VF b) { return _mm256_div_ps(a, b); }
KFN VF v_fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
KFN VF v_fnma(VF a, VF b, VF c) { return _mm256_fnmadd_ps(a, b, c); }
KFN VF v_max(VF a, VF b) { return _mm256_max_ps(a, b); }
KFN VF v_min(VF a, VF b) { return _mm256_min_ps(a, b); }
KFN VF v_sqrt(VF a) { return _mm256_sqrt_ps(a); }
KFN VM v_lt(VF a, VF b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
KFN VF v_sel(VM m, VF a, VF b) { return _mm256_blendv_ps(b, a, m); }
KFN VF v_keep(VM m, VF a) { return _mm256_and_ps(m, a); }
KFN VI v_as_i(VF a) { return _mm256_castps_si256(a); }
KFN VF v_as_f(VI a) { return _mm256_castsi256_ps(a); }
KFN VI v_to_i(VF a) { return _mm256_cvtps_epi32(a); }
KFN VF v_to_f(VI a) { return _mm256_cvtepi32_ps(a); }
KFN VM v_mask_at(const uint8_t *m, int64_t col) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(m[col / 8]), bit), bit));
}
KFN VF v_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
KFN VF v_u4(const uint8_t *p, int col) {
    __m256i q = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + (col & 8))));
    q = col >= 16 ? _mm256_srli_epi32(q, 4) : _mm256_and_si256(q, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(8)));
}
KFN VF v_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
KFN void v_put_f16(uint16_t *p, VF a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KFN VI vi_set1(uint32_t x) { return _mm256_set1_epi32((int)x); }
KFN VI vi_iota(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
KFN VI vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
KFN void vi_store(void *p, VI a) { _mm256_storeu_si256((__m256i *)p, a); }
KFN VI vi_add(VI a, VI b) { return _mm256_add_epi32(a, b); }
KFN VI vi_sub(VI a, VI b) { return _mm256_sub_epi32(a, b); }
KFN VI vi_and(VI a, VI b) { return _mm256_and_si256(a, b); }
KFN VI vi_or(VI a, VI b) { return _mm256_or_si256(a, b); }
KFN VI vi_xor(VI a, VI b) { return _mm256_xor_si256(a, b); }
KFN VI vi_shl(VI a, int n) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n)); }
KFN VI vi_shr(VI a, int n) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)); }
KFN VI vi_sar(VI a, int n) { return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n)); }
KFN VM vi_geu(VI a, VI b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a)); }
KFN VI vi_mulhilo(VI a, uint32_t m, VI *lo) {
    const VI mm = _mm256_set1_epi64x((long long)m);
    const VI even = _mm256_mul_epu32(a, mm), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), mm);
    *lo = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

#else /* four lanes: GCC and Clang vectors, or plain arrays with any other compiler */

#ifdef __GNUC__
typedef float VF __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
#define K_LANE(a, i) (a)[i]
#define K_LANES(T, expr) return (expr)
#else
typedef struct {
    float f[4];
} VF;
typedef struct {
    int32_t f[4];
} VI;
#define K_LANE(a, i) (a).f[i]
#endif
typedef VI VM;

#ifdef __GNUC__
#define K_OP2(T, name, op)                                                                                             \
    KFN T name(T a, T b) { return a op b; }
#else
#define K_OP2(T, name, op)                                                                                             \
    KFN T name(T a, T b) {                                                                                             \
        for (int i = 0; i < 4; i++) K_LANE(a, i) = K_LANE(a, i) op K_LANE(b, i);                                       \
        return a;                                                                                                      \
    }
#endif

KFN VF v_load(const float *p) {
    VF a;
    memcpy(&a, p, 16);
    return a;
}
KFN void v_store(float *p, VF a) { memcpy(p, &a, 16); }
KFN VI vi_load(const void *p) {
    VI a;
    memcpy(&a, p, 16);
    return a;
}
KFN void vi_store(void *p, VI a) { memcpy(p, &a, 16); }
KFN VI v_as_i(VF a) {
    VI b;
    memcpy(&b, &a, 16);
    return b;
}
KFN VF v_as_f(VI a) {
    VF b;
    memcpy(&b, &a, 16);
    return b;
}
KFN VF v_set1(float x) {
#ifdef __GNUC__
    return (VF){x, x, x, x};
#else
    return (VF){{x, x, x, x}};
#endif
}
KFN VF v_zero(void) { return v_set1(0.0f); }
KFN VI vi_set1(uint32_t x) {
    const int32_t s = (int32_t)x;
#ifdef __GNUC__
    return (VI){s, s, s, s};
#else
    return (VI){{s, s, s, s}};
#endif
}
KFN VI vi_iota(void) {
    const int32_t i[4] = {0, 1, 2, 3};
    return vi_load(i);
}
KFN VF v_load_n(const float *p, int64_t n) {
    float a[4] = {0, 0, 0, 0};
    if (n >= 4) return v_load(p);
    for (int64_t i = 0; i < n; i++) a[i] = p[i];
    return v_load(a);
}
KFN void v_store_n(float *p, VF a, int64_t n) {
    float b[4];
    if (n >= 4) {
        v_store(p, a);
        return;
    }
    v_store(b, a);
    for (int64_t i = 0; i < n; i++) p[i] = b[i];
}
K_OP2(VF, v_add, +)
K_OP2(VF, v_sub, -)
K_OP2(VF, v_mul, *)
K_OP2(VF, v_div, /)
K_OP2(VI, vi_and, &)
K_OP2(VI, vi_or, |)
K_OP2(VI, vi_xor, ^)
#undef K_OP2
KFN VF v_fma(VF a, VF b, VF c) {
#if defined(__aarch64__) && defined(__ARM_NEON)
    return (VF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return v_add(v_mul(a, b), c);
#endif
}
KFN VF v_fnma(VF a, VF b, VF c) {
#if defined(__aarch64__) && defined(__ARM_NEON)
    return (VF)vfmsq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return v_sub(c, v_mul(a, b));
#endif
}
KFN VM v_lt(VF a, VF b) {
#ifdef __GNUC__
    return (VM)(a < b);
#else
    VM m;
    for (int i = 0; i < 4; i++) K_LANE(m, i) = K_LANE(a, i) < K_LANE(b, i) ? -1 : 0;
    return m;
#endif
}
KFN VF v_sel(VM m, VF a, VF b) {
    const VI x = v_as_i(b);
    return v_as_f(vi_xor(x, vi_and(m, vi_xor(v_as_i(a), x))));
}
KFN VF v_max(VF a, VF b) { return v_sel(v_lt(b, a), a, b); }
KFN VF v_min(VF a, VF b) { return v_sel(v_lt(a, b), a, b); }
KFN VF v_keep(VM m, VF a) { return v_as_f(vi_and(m, v_as_i(a))); }
KFN VF v_sqrt(VF a) {
    for (int i = 0; i < 4; i++) K_LANE(a, i) = sqrtf(K_LANE(a, i));
    return a;
}
/* Lanes are unsigned here, so that nothing overflows. */
#define K_UOP(name, expr)                                                                                              \
    KFN VI name(VI a, VI b) {                                                                                          \
        for (int i = 0; i < 4; i++) {                                                                                  \
            const uint32_t x = (uint32_t)K_LANE(a, i), y = (uint32_t)K_LANE(b, i);                                     \
            K_LANE(a, i) = (int32_t)(expr);                                                                            \
        }                                                                                                              \
        return a;                                                                                                      \
    }
K_UOP(vi_add, x + y)
K_UOP(vi_sub, x - y)
K_UOP(vi_geu, x >= y ? 0xffffffffu : 0)
#undef K_UOP
KFN VI vi_shl(VI a, int n) {
    for (int i = 0; i < 4; i++) K_LANE(a, i) = (int32_t)((uint32_t)K_LANE(a, i) << n);
    return a;
}
KFN VI vi_shr(VI a, int n) {
    for (int i = 0; i < 4; i++) K_LANE(a, i) = (int32_t)((uint32_t)K_LANE(a, i) >> n);
    return a;
}
KFN VI vi_sar(VI a, int n) {
    for (int i = 0; i < 4; i++) K_LANE(a, i) = K_LANE(a, i) >> n;
    return a;
}
/* Rounds to nearest, |a| < 2^22: adding 1.5 * 2^23 leaves the integer in the low bits. */
KFN VI v_to_i(VF a) { return vi_sub(v_as_i(v_add(a, v_set1(12582912.0f))), vi_set1(0x4b400000)); }
KFN VF v_to_f(VI a) {
    VF b;
    for (int i = 0; i < 4; i++) K_LANE(b, i) = (float)K_LANE(a, i);
    return b;
}
KFN VM v_mask_at(const uint8_t *m, int64_t col) {
    const uint32_t bits = (uint32_t)m[col / 8] >> (col & 4);
    const int32_t lane[4] = {-(int32_t)(bits & 1), -(int32_t)(bits >> 1 & 1), -(int32_t)(bits >> 2 & 1),
                             -(int32_t)(bits >> 3 & 1)};
    return vi_load(lane);
}
KFN VF v_i8(const int8_t *p) {
    const float a[4] = {p[0], p[1], p[2], p[3]};
    return v_load(a);
}
KFN VF v_u4(const uint8_t *p, int col) {
    float a[4];
    for (int i = 0; i < 4; i++) a[i] = (float)((p[(col & 12) + i] >> (col >= 16 ? 4 : 0) & 15) - 8);
    return v_load(a);
}
KFN VF v_f16(const uint16_t *p) {
    float a[4];
    for (int i = 0; i < 4; i++) a[i] = k_f16_to_f32(p[i]);
    return v_load(a);
}
KFN void v_put_f16(uint16_t *p, VF a) {
    for (int i = 0; i < 4; i++) p[i] = k_f32_to_f16(K_LANE(a, i));
}
KFN VI vi_mulhilo(VI a, uint32_t m, VI *lo) {
    for (int i = 0; i < 4; i++) {
        const uint64_t p = (uint64_t)(uint32_t)K_LANE(a, i) * m;
        K_LANE(*lo, i) = (int32_t)(uint32_t)p;
        K_LANE(a, i) = (int32_t)(uint32_t)(p >> 32);
    }
    return a;
}
#undef K_LANE
#undef K_LANES

#endif /* vector width */
/* clang-format on */

KFN VF v_abs(VF a) {
    return v_as_f(vi_and(v_as_i(a), vi_set1(0x7fffffff)));
}

/* The sum and the greatest of the lanes, in a fixed tree: lanes half a vector apart, then a quarter, and so on. */
#if SCBM_VL == 16
#define K_TREE(name, op)                                                                                               \
    KFN float name(VF a) {                                                                                             \
        const __m256 b = _mm256_##op##_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));                    \
        K_TREE_END(op)                                                                                                 \
    }
#elif SCBM_VL == 8
#define K_TREE(name, op)                                                                                               \
    KFN float name(VF a) {                                                                                             \
        const __m256 b = a;                                                                                            \
        K_TREE_END(op)                                                                                                 \
    }
#endif
#if SCBM_VL >= 8
#define K_TREE_END(op)                                                                                                 \
    const __m128 c = _mm_##op##_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));                            \
    const __m128 d = _mm_##op##_ps(c, _mm_movehl_ps(c, c));                                                            \
    return _mm_cvtss_f32(_mm_##op##_ss(d, _mm_movehdup_ps(d)));
K_TREE(v_sum, add)
K_TREE(v_maxall, max)
#undef K_TREE
#undef K_TREE_END
#else
KFN float v_sum(VF a) {
    float l[SCBM_VL];
    v_store(l, a);
    for (int w = SCBM_VL / 2; w; w /= 2)
        for (int i = 0; i < w; i++) l[i] += l[i + w];
    return l[0];
}
KFN float v_maxall(VF a) {
    float l[SCBM_VL], m;
    v_store(l, a);
    m = l[0];
    for (int i = 1; i < SCBM_VL; i++)
        if (l[i] > m || l[i] != l[i]) m = l[i];
    return m;
}
#endif

/* ---- exp, log, erf, tanh ---- */

/* 2^n as a float, -126 <= n <= 128 (128 is infinity) */
KFN VF KT(pow2)(VI n) {
    return v_as_f(vi_shl(vi_add(n, vi_set1(127)), 23));
}

/* p 2^n, -252 <= n <= 256, rounded once. */
KFN VF KT(ldexp)(VF p, VI n) {
#if SCBM_VL == 16
    return _mm512_scalef_ps(p, v_to_f(n));
#else
    const VI half = vi_sar(n, 1);
    return v_mul(v_mul(p, KT(pow2)(half)), KT(pow2)(vi_sub(n, half)));
#endif
}

/* exp(x) = 2^n (1 + r + r^2 q(r)), |r| <= ln 2 / 2; returns r + r^2 q(r). */
KFN VF KT(exp_reduced)(VF x, VI *n) {
    VF r, q, f;
    *n = v_to_i(v_mul(x, v_set1(1.44269504f)));
    f = v_to_f(*n);
    r = v_fnma(f, v_set1(0x1.62e4p-1f), x);
    r = v_fnma(f, v_set1(1.42860677e-6f), r);
    q = v_set1(1.3814467e-3f);
    q = v_fma(q, r, v_set1(8.36878084e-3f));
    q = v_fma(q, r, v_set1(4.16683927e-2f));
    q = v_fma(q, r, v_set1(1.66665196e-1f));
    q = v_fma(q, r, v_set1(4.9999994e-1f));
    return v_fma(v_mul(r, r), q, r);
}

/* Within 1.5 ulp where it is at least 2^-126; NaN stays NaN, and large arguments give 0 and infinity. What would be below
 * 2^-126 is 0: attention has many such lanes, and some processors take long for a subnormal result. */
KFN VF KT(exp)(VF x) {
    const VF least = v_set1(-87.3365402f);
    const VM is_zero = v_lt(x, least);
    VI n;
    VF p;
    x = v_min(v_set1(89.0f), v_max(least, x));
    p = KT(exp_reduced)(x, &n);
    return v_sel(is_zero, v_zero(), KT(ldexp)(v_add(p, v_set1(1.0f)), n));
}

/* exp(x) - 1 for x <= 0. */
KFN VF KT(expm1)(VF x) {
    VI n;
    VF p, s;
    p = KT(exp_reduced)(v_max(v_set1(-80.0f), x), &n);
    s = KT(pow2)(n);
    return v_fma(p, s, v_sub(s, v_set1(1.0f)));
}

/* log of positive numbers: x = 2^e m with m near 1, log m = 2 atanh((m - 1) / (m + 1)). */
KFN VF KT(log)(VF x) {
    const VI sqrt_half = vi_set1(0x3f3504f3);
    VI i = v_as_i(x), e = vi_sar(vi_sub(i, sqrt_half), 23);
    VF m = v_as_f(vi_sub(i, vi_shl(e, 23))), f = v_sub(m, v_set1(1.0f));
    VF s = v_div(f, v_add(f, v_set1(2.0f))), z = v_mul(s, s), p;
    p = v_fma(z, v_set1(2.0f / 9), v_set1(2.0f / 7));
    p = v_fma(p, z, v_set1(2.0f / 5));
    p = v_fma(p, z, v_set1(2.0f / 3));
    p = v_fma(v_mul(p, z), s, v_add(s, s));
    return v_fma(v_to_f(e), v_set1(0.693147181f), p);
}

KFN float KT(log1)(float x) {
    float l[SCBM_VL];
    v_store(l, KT(log)(v_set1(x)));
    return l[0];
}

/* The normal distribution function, Phi(x) = erfc(-x / sqrt 2) / 2. For a = |x|, Phi(-a) = 2^(a p(a) - 1) with an absolute
 * error of 1e-8 and rounding; it does not go below 2^-126. */
KFN VF KT(phi)(VF x) {
    const VF a = v_abs(x);
    VF p = v_set1(-2.83491272e-06f), r, h;
    VI n;
    p = v_fma(p, a, v_set1(3.937769e-05f));
    p = v_fma(p, a, v_set1(-0.00018618023f));
    p = v_fma(p, a, v_set1(-0.000136936389f));
    p = v_fma(p, a, v_set1(0.00706342002f));
    p = v_fma(p, a, v_set1(-0.0524961799f));
    p = v_fma(p, a, v_set1(-0.45920822f));
    p = v_fma(p, a, v_set1(-1.15110528f));
    p = v_max(v_set1(-126.0f), v_fma(p, a, v_set1(-1.0f)));
    n = v_to_i(p);
    r = v_sub(p, v_to_f(n)); /* 2^r as in exp_reduced */
    h = v_set1(0.000153209927f);
    h = v_fma(h, r, v_set1(0.00133902754f));
    h = v_fma(h, r, v_set1(0.00961852726f));
    h = v_fma(h, r, v_set1(0.055503618f));
    h = v_fma(h, r, v_set1(0.240226477f));
    h = v_fma(h, r, v_set1(0.693147182f));
    h = v_fma(h, r, v_set1(1.0f));
    h = v_as_f(vi_add(v_as_i(h), vi_shl(n, 23)));
    return v_sel(v_lt(x, v_zero()), h, v_sub(v_set1(1.0f), h));
}

KFN VF KT(tanh)(VF x) {
    const VI sign = vi_set1(0x80000000u);
    const VF e = KT(expm1)(v_mul(v_set1(-2.0f), v_abs(x)));
    const VF t = v_div(e, v_add(e, v_set1(2.0f))); /* -tanh |x| */
    return v_as_f(vi_or(vi_and(v_as_i(t), vi_set1(0x7fffffff)), vi_and(v_as_i(x), sign)));
}

KFN VF KT(sigmoid)(VF x) {
    return v_div(v_set1(1.0f), v_add(v_set1(1.0f), KT(exp)(v_sub(v_zero(), x))));
}

/* 2 sqrt(2 / pi) (x + 0.044715 x^3): gelu_tanh(x) = x sigmoid of this. */
KFN VF KT(gelu_arg)(VF x) {
    return v_mul(x, v_fma(v_mul(x, x), v_set1(0.0713548163f), v_set1(1.59576912f)));
}

KFN VF KT(act1)(int act, VF x) {
    switch (act) {
    case SCBM_GELU_ERF: return v_mul(x, KT(phi)(x));
    case SCBM_GELU_TANH: return v_mul(x, KT(sigmoid)(KT(gelu_arg)(x)));
    case SCBM_RELU: return v_max(v_zero(), x);
    case SCBM_TANH: return KT(tanh)(x);
    case SCBM_SIGMOID: return KT(sigmoid)(x);
    default: return x;
    }
}

/* The logistic function's derivative, without the cancellation of s (1 - s). */
KFN VF KT(sigmoid_slope)(VF x) {
    const VF e = KT(exp)(v_sub(v_zero(), v_abs(x))), r = v_div(v_set1(1.0f), v_add(v_set1(1.0f), e));
    return v_mul(v_mul(e, r), r);
}

/* dy act'(x) */
KFN VF KT(act1_back)(int act, VF dy, VF x) {
    VF s, u;
    switch (act) {
    case SCBM_GELU_ERF:
        s = v_mul(v_set1(0.398942280f), KT(exp)(v_mul(v_set1(-0.5f), v_mul(x, x))));
        return v_mul(dy, v_fma(x, s, KT(phi)(x)));
    case SCBM_GELU_TANH:
        s = KT(gelu_arg)(x);
        u = v_fma(v_mul(x, x), v_set1(3 * 0.0713548163f), v_set1(1.59576912f)); /* gelu_arg' */
        return v_mul(dy, v_fma(v_mul(x, u), KT(sigmoid_slope)(s), KT(sigmoid)(s)));
    case SCBM_RELU: return v_keep(v_lt(v_zero(), x), dy);
    case SCBM_TANH: return v_mul(dy, v_mul(v_set1(4.0f), KT(sigmoid_slope)(v_add(x, x))));
    case SCBM_SIGMOID: return v_mul(dy, KT(sigmoid_slope)(x));
    default: return dy;
    }
}

/* f32 to bf16 and back, to nearest even */
KFN VF KT(round_bf16)(VF a) {
    const VI i = v_as_i(a), lsb = vi_and(vi_shr(i, 16), vi_set1(1));
    const VI r = vi_and(vi_add(i, vi_add(lsb, vi_set1(0x7fff))), vi_set1(0xffff0000u));
    const VI quiet = vi_and(vi_or(i, vi_set1(0x400000)), vi_set1(0xffff0000u));
    const VI big = vi_and(i, vi_set1(0x7fffffff));
    return v_sel(vi_geu(big, vi_set1(0x7f800001)), v_as_f(quiet), v_as_f(r));
}

/* ---- Philox4x32-10 ---- */

KFN void KT(philox)(VI c[4], uint64_t seed) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        VI lo0, lo1, hi0 = vi_mulhilo(c[0], 0xd2511f53u, &lo0), hi1 = vi_mulhilo(c[2], 0xcd9e8d57u, &lo1);
        c[0] = vi_xor(vi_xor(hi1, c[1]), vi_set1(k0));
        c[1] = lo1;
        c[2] = vi_xor(vi_xor(hi0, c[3]), vi_set1(k1));
        c[3] = lo0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* ---- Register tiles ----
 *
 * c[r][lane] (+)= sum over k of b[r * rs + k * cs] * v[k * ldv + lane]: mr rows of two vectors (mk2) or one (mk1). */

#define K_MK_DECL(r) VF c##r##0 = v_zero(), c##r##1 = c##r##0;
#define K_MK_LOAD(r)                                                                                                   \
    if (mr > r) {                                                                                                      \
        c##r##0 = v_load(c + (r)*ldc);                                                                                 \
        if (nv > 1) c##r##1 = v_load(c + (r)*ldc + SCBM_VL);                                                           \
    }
#define K_MK_STEP(r, base, i)                                                                                          \
    if (mr > r) {                                                                                                      \
        const VF s = v_set1(base[(i)*rs]);                                                                             \
        c##r##0 = v_fma(s, v0, c##r##0);                                                                               \
        if (nv > 1) c##r##1 = v_fma(s, v1, c##r##1);                                                                   \
    }
#define K_MK_STORE(r)                                                                                                  \
    if (mr > r) {                                                                                                      \
        v_store(c + (r)*ldc, c##r##0);                                                                                 \
        if (nv > 1) v_store(c + (r)*ldc + SCBM_VL, c##r##1);                                                           \
    }
#define K_ROWS(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

/* With a `next`, so many rows of b that are needed next, rs apart as well, go into the second cache meanwhile. */
KFN void KT(tile)(const int mr, const int nv, int64_t kc, const float *v, int64_t ldv, const float *b, int64_t rs,
                  int64_t cs, float *c, int64_t ldc, int acc, const float *next) {
    const float *b0 = b, *b1 = b + (mr > 3 ? 3 * rs : 0), *b2 = b + (mr > 6 ? 6 * rs : 0),
                *b3 = b + (mr > 9 ? 9 * rs : 0);
    K_ROWS(K_MK_DECL)
    if (acc) {
        K_ROWS(K_MK_LOAD)
    }
    for (int64_t k = 0; k < kc; k++) {
        const VF v0 = v_load(v), v1 = nv > 1 ? v_load(v + SCBM_VL) : v0;
        if (next && k % 16 == 0)
            for (int r = 0; r < mr; r++) K_PREFETCH_FAR((uintptr_t)next + (size_t)(r * rs + k) * 4);
        K_MK_STEP(0, b0, 0)
        K_MK_STEP(1, b0, 1)
        K_MK_STEP(2, b0, 2)
        K_MK_STEP(3, b1, 0)
        K_MK_STEP(4, b1, 1)
        K_MK_STEP(5, b1, 2)
        K_MK_STEP(6, b2, 0)
        K_MK_STEP(7, b2, 1)
        K_MK_STEP(8, b2, 2)
        K_MK_STEP(9, b3, 0)
        K_MK_STEP(10, b3, 1)
        K_MK_STEP(11, b3, 2)
        v += ldv;
        b0 += cs;
        b1 += cs;
        b2 += cs;
        b3 += cs;
    }
    K_ROWS(K_MK_STORE)
}

typedef void (*KT(mk))(int64_t kc, const float *v, int64_t ldv, const float *b, int64_t rs, int64_t cs, float *c,
                       int64_t ldc, int acc);

#define K_MK(mr, nv)                                                                                                   \
    KTASK void KT(mk_##mr##_##nv)(int64_t kc, const float *v, int64_t ldv, const float *b, int64_t rs, int64_t cs,     \
                                  float *c, int64_t ldc, int acc) {                                                    \
        KT(tile)(mr, nv, kc, v, ldv, b, rs, cs, c, ldc, acc, NULL);                                                    \
    }
/* clang-format off */
K_MK(1, 1) K_MK(2, 1) K_MK(3, 1) K_MK(4, 1) K_MK(5, 1) K_MK(6, 1)
K_MK(7, 1) K_MK(8, 1) K_MK(9, 1) K_MK(10, 1) K_MK(11, 1) K_MK(12, 1)
K_MK(1, 2) K_MK(2, 2) K_MK(3, 2) K_MK(4, 2)
#if SCBM_MR > 4
K_MK(5, 2) K_MK(6, 2)
#endif
#if SCBM_MR > 6
K_MK(7, 2) K_MK(8, 2)
#endif
#if SCBM_MR > 8
K_MK(9, 2) K_MK(10, 2) K_MK(11, 2) K_MK(12, 2)
#endif
/* clang-format on */
#undef K_MK

                    static const KT(mk)
                        KT(mk1)[12] = {KT(mk_1_1), KT(mk_2_1), KT(mk_3_1), KT(mk_4_1),  KT(mk_5_1),  KT(mk_6_1),
                                       KT(mk_7_1), KT(mk_8_1), KT(mk_9_1), KT(mk_10_1), KT(mk_11_1), KT(mk_12_1)};
static const KT(mk) KT(mk2)[SCBM_MR] = {KT(mk_1_2), KT(mk_2_2),  KT(mk_3_2),
                                        KT(mk_4_2),
#if SCBM_MR > 4
                                        KT(mk_5_2), KT(mk_6_2),
#endif
#if SCBM_MR > 6
                                        KT(mk_7_2), KT(mk_8_2),
#endif
#if SCBM_MR > 8
                                        KT(mk_9_2), KT(mk_10_2), KT(mk_11_2),
                                        KT(mk_12_2)
#endif
};

/* The whole tile of rows of W that are read where they lie. */
K_OP SCBM_TARGET void KT(mk_in_place)(int64_t kc, const float *v, const float *b, int64_t rs, float *c, int acc,
                                      const float *next) {
    KT(tile)(SCBM_MR, 2, kc, v, 2 * SCBM_VL, b, rs, 1, c, 2 * SCBM_VL, acc, next);
}

/* How wide the next panel is when `rest` lanes are left; a wider tier uses the narrower one's tiles for the tail. */
KFN int KT(lanes)(int64_t rest) {
    return rest > 2 * SCBM_VL - SCBM_VMIN ? 2 * SCBM_VL : rest > SCBM_VMIN ? SCBM_VL : SCBM_VMIN;
}

/* Lanes that `n` take in panels. */
KFN int64_t KT(padded)(int64_t n) {
    int64_t p = 0;
    while (p < n) p += KT(lanes)(n - p);
    return p;
}

KFN void KT(gemm)(int mr, int lanes, int64_t kc, const float *v, int64_t ldv, const float *b, int64_t rs, int64_t cs,
                  float *c, int64_t ldc, int acc) {
#if SCBM_VL == 16
    if (lanes == 8) k_mk1_avx2[mr - 1](kc, v, ldv, b, rs, cs, c, ldc, acc);
    else
#endif
        if (lanes == SCBM_VL)
        KT(mk1)[mr - 1](kc, v, ldv, b, rs, cs, c, ldc, acc);
    else KT(mk2)[mr - 1](kc, v, ldv, b, rs, cs, c, ldc, acc);
}

/* ---- Transposes ---- */

/* How tr reads: f32, rounded to bf16, or two bf16 a lane: neighbours, or numbers i and 16 + i of 32, as they are
 * when rounded, or one part of them. */
enum { KT(AS_IS), KT(ROUNDED), KT(PAIRS), KT(HALVES), KT(PART) };

#if SCBM_VL == 16
/* Lane i: the upper halves of a[i] and b[i]. */
KFN VI KT(halves)(VF a, VF b) {
    const VI upper = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(v_as_i(a), 16), v_as_i(b), upper, 0xf8); /* a | b & upper */
}

/* What a float is beyond its upper half: exactly. */
KFN VF KT(rest)(VF a) {
    return v_sub(a, v_as_f(_mm512_and_si512(v_as_i(a), _mm512_set1_epi32((int)0xffff0000))));
}
#endif

KFN VF KT(tr_load)(const int how, const float *p, int64_t n) {
    if (how == KT(ROUNDED)) return KT(round_bf16)(v_load_n(p, n));
#if SCBM_VL == 16
    if (how == KT(PAIRS)) {
        const __m512i even = _mm512_srli_epi32(v_as_i(KT(round_bf16)(v_load_n(p, n < 16 ? n : 16))), 16);
        const __m512i odd = _mm512_srli_epi32(v_as_i(KT(round_bf16)(v_load_n(p + 16, n < 16 ? 0 : n - 16))), 16);
        return v_as_f(
            _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(even)), _mm512_cvtepi32_epi16(odd), 1));
    }
    if (how >= KT(HALVES)) {
        VF a = v_load_n(p, n < 16 ? n : 16), b = v_load_n(p + 16, n < 16 ? 0 : n - 16);
        if (how == KT(HALVES)) return v_as_f(KT(halves)(KT(round_bf16)(a), KT(round_bf16)(b)));
        for (int i = KT(PART); i < how; i++) {
            a = KT(rest)(a);
            b = KT(rest)(b);
        }
        return v_as_f(KT(halves)(a, b));
    }
#endif
    return v_load_n(p, n);
}

/* dst[j][i] = src[i][j] for i < rows, j < cols, both at most SCBM_VL (with HALVES and PARTs 32 columns); each of dst's
 * `cols` rows gets `width` lanes, zeros where i >= rows. With PAIRS a lane is two columns; with HALVES and PARTs dst has
 * 16 rows, for columns i and 16 + i, zeros where these are not below cols. add (or NULL): a number for each row of src. */
KFN void KT(tr_add)(const int how, float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int cols,
                    int width, const float *add) {
    const int per = how == KT(PAIRS) ? 2 : 1, stored = how >= KT(HALVES) ? 16 : cols;
    VF r[SCBM_VL], t[SCBM_VL];
/* clang-format off */
#define K_TR_LOAD(i)                                                                            \
    r[i] = i < rows ? KT(tr_load)(how, src + i * lds, cols) : v_zero();                          \
    if (add && i < rows) r[i] = v_add(r[i], v_set1(add[i]));
#define K_TR_STORE(i, v)                                                                        \
    if (i * per < stored) {                                                                       \
        VF o = v;                                                                               \
        if (width == SCBM_VL) v_store(dst + i * ldd, o);                                        \
        else v_store_n(dst + i * ldd, o, width);                                                \
    }
#if SCBM_VL == 16
    K_TR_LOAD(0) K_TR_LOAD(1) K_TR_LOAD(2) K_TR_LOAD(3) K_TR_LOAD(4) K_TR_LOAD(5) K_TR_LOAD(6) K_TR_LOAD(7)
    K_TR_LOAD(8) K_TR_LOAD(9) K_TR_LOAD(10) K_TR_LOAD(11) K_TR_LOAD(12) K_TR_LOAD(13) K_TR_LOAD(14) K_TR_LOAD(15)
#define K_TR2(i)                                                                                 \
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);                                                   \
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
#define K_PD(x) _mm512_castps_pd(x)
#define K_TR4(i)                                                                                 \
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(K_PD(t[i]), K_PD(t[i + 2])));                     \
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(K_PD(t[i]), K_PD(t[i + 2])));                 \
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(K_PD(t[i + 1]), K_PD(t[i + 3])));             \
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(K_PD(t[i + 1]), K_PD(t[i + 3])));
    /* r[4g + c] holds, in each 128-bit part p, rows 4g .. 4g + 3 of column 4p + c */
#define K_TR8(c)                                                                                 \
    t[c] = _mm512_shuffle_f32x4(r[c], r[c + 4], 0x88);                                           \
    t[c + 4] = _mm512_shuffle_f32x4(r[c], r[c + 4], 0xdd);                                       \
    t[c + 8] = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0x88);                                  \
    t[c + 12] = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0xdd);
    K_TR2(0) K_TR2(2) K_TR2(4) K_TR2(6) K_TR2(8) K_TR2(10) K_TR2(12) K_TR2(14)
    K_TR4(0) K_TR4(4) K_TR4(8) K_TR4(12)
    K_TR8(0) K_TR8(1) K_TR8(2) K_TR8(3)
#define K_TR16(c)                                                                                \
    K_TR_STORE(c, _mm512_shuffle_f32x4(t[c], t[c + 8], 0x88))                                    \
    K_TR_STORE((c + 8), _mm512_shuffle_f32x4(t[c], t[c + 8], 0xdd))                              \
    K_TR_STORE((c + 4), _mm512_shuffle_f32x4(t[c + 4], t[c + 12], 0x88))                         \
    K_TR_STORE((c + 12), _mm512_shuffle_f32x4(t[c + 4], t[c + 12], 0xdd))
    K_TR16(0) K_TR16(1) K_TR16(2) K_TR16(3)
#undef K_TR2
#undef K_PD
#undef K_TR4
#undef K_TR8
#undef K_TR16
#elif SCBM_VL == 8
    K_TR_LOAD(0) K_TR_LOAD(1) K_TR_LOAD(2) K_TR_LOAD(3) K_TR_LOAD(4) K_TR_LOAD(5) K_TR_LOAD(6) K_TR_LOAD(7)
#define K_TR2(i)                                                                                 \
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);                                                   \
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
#define K_TR4(i)                                                                                 \
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);                                              \
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);                                          \
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);                                      \
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
#define K_TR8(c)                                                                                 \
    K_TR_STORE(c, _mm256_permute2f128_ps(r[c], r[c + 4], 0x20))                                  \
    K_TR_STORE((c + 4), _mm256_permute2f128_ps(r[c], r[c + 4], 0x31))
    K_TR2(0) K_TR2(2) K_TR2(4) K_TR2(6)
    K_TR4(0) K_TR4(4)
    K_TR8(0) K_TR8(1) K_TR8(2) K_TR8(3)
#undef K_TR2
#undef K_TR4
#undef K_TR8
#else
    float m[4][4];
    K_TR_LOAD(0) K_TR_LOAD(1) K_TR_LOAD(2) K_TR_LOAD(3)
    for (int i = 0; i < 4; i++) v_store(m[i], r[i]);
    for (int i = 0; i < 4; i++) {
        const float o[4] = {m[0][i], m[1][i], m[2][i], m[3][i]};
        t[i] = v_load(o);
    }
    K_TR_STORE(0, t[0]) K_TR_STORE(1, t[1]) K_TR_STORE(2, t[2]) K_TR_STORE(3, t[3])
#endif
/* clang-format on */
#undef K_TR_LOAD
#undef K_TR_STORE
}

KFN void KT(tr)(const int how, float *dst, int64_t ldd, const float *src, int64_t lds, int rows, int cols, int width) {
    KT(tr_add)(how, dst, ldd, src, lds, rows, cols, width, NULL);
}

/* One panel: `lanes` rows of src, `rows` of them real, kc columns, to xp[k][lanes]. */
KFN void KT(pack_panel)(const int how, float *xp, int lanes, const float *src, int64_t lds, int64_t rows, int64_t kc) {
    const int step = how == KT(PAIRS) ? 2 * SCBM_VL : SCBM_VL;
    for (int64_t k = 0; k < kc; k += step) {
        for (int l = 0; l < lanes; l += SCBM_VL) {
            const float *from = src + l * lds + k;
            const int n = (int)k_max(0, k_min(rows - l, SCBM_VL));
            /* Half of what was written last lies in another core's cache. */
            for (int i = 0; i < n; i++) K_PREFETCH((uintptr_t)from + (size_t)(i * lds + 4 * step) * 4);
            KT(tr)
            (how, xp + k / (step / SCBM_VL) * lanes + l, lanes, from, lds, n, (int)k_min(kc - k, step),
             (int)k_min(lanes - l, SCBM_VL));
        }
    }
}

/* A task packs 32 tokens of one stream, kc columns. */
KFN void KT(pack_x_body)(const int how, const struct k_pack_run *r, int64_t index) {
    const int64_t kb = index % r->n_kc, g = index / r->n_kc % r->n_panels, s = index / r->n_kc / r->n_panels;
    const int64_t k0 = kb * r->kc, kc = k_min(r->kc, r->K - k0), t1 = k_min(r->T, (g + 1) * K_PANEL_MAX);
    const int64_t kp = how == KT(PAIRS) ? (r->K + 1) / 2 : r->K, kp0 = how == KT(PAIRS) ? k0 / 2 : k0;
    int lanes;
    for (int64_t t = g * K_PANEL_MAX; t < t1; t += lanes) {
        lanes = how == KT(PAIRS) ? (r->T - t > 16 ? 32 : 16) : KT(lanes)(r->T - t);
        KT(pack_panel)
        (how, r->xp + s * r->xp_stream + t * kp + kp0 * lanes, lanes, r->x + (s * r->T + t) * r->K + k0, r->K, r->T - t,
         kc);
    }
}

KTASK void KT(pack_x)(void *arg, int64_t index, int worker) {
    const struct k_pack_run *r = arg;
    (void)worker;
    if (r->round) KT(pack_x_body)(KT(ROUNDED), r, index);
    else KT(pack_x_body)(KT(AS_IS), r, index);
}

/* ---- Weights of any type as f32 ---- */

/* Columns k0 .. k0 + kc of row n, k0 a multiple of 32, times the mask (or NULL); dst has room up to a multiple of 32
 * and gets zeros there. */
KFN void KT(weight_row)(float *dst, const struct k_weights *w, int64_t n, int64_t k0, int64_t kc, const uint8_t *mask,
                        int round) {
    const char *row = (const char *)w->data + n * w->row_bytes;
    int64_t k = 0;
#define K_EACH(value)                                                                                                  \
    for (; k < kc; k += SCBM_VL) {                                                                                     \
        VF a = value;                                                                                                  \
        if (mask) a = v_keep(v_mask_at(mask, k0 + k), a);                                                              \
        if (round) a = KT(round_bf16)(a);                                                                              \
        v_store(dst + k, a);                                                                                           \
    }
    switch (w->type) {
    case SCBM_F32: {
        const float *p = (const float *)(const void *)row + k0;
        K_EACH(v_load_n(p + k, kc - k))
        break;
    }
    case SCBM_F16:
    case SCBM_BF16: {
        const uint16_t *p = (const uint16_t *)(const void *)row + k0;
        for (; k < kc; k += SCBM_VL) {
            uint16_t h[SCBM_VL] = {0};
            VF a;
            memcpy(h, p + k, (size_t)(k_min(kc - k, SCBM_VL) * 2));
            if (w->type == SCBM_F16) a = v_f16(h);
            else {
                float f[SCBM_VL];
                for (int i = 0; i < SCBM_VL; i++) f[i] = k_bf16_to_f32(h[i]);
                a = v_load(f);
            }
            if (mask) a = v_keep(v_mask_at(mask, k0 + k), a);
            if (round) a = KT(round_bf16)(a);
            v_store(dst + k, a);
        }
        break;
    }
    case SCBM_Q8_0:
        for (int64_t b = k0 / 32; k < kc; b++) {
            const char *block = row + b * 34;
            const VF d = v_set1(k_f16_to_f32(k_u16(block)));
            for (int i = 0; i < 32; i += SCBM_VL, k += SCBM_VL) {
                VF a = v_mul(v_i8((const int8_t *)block + 2 + i), d);
                if (mask) a = v_keep(v_mask_at(mask, k0 + k), a);
                if (round) a = KT(round_bf16)(a);
                v_store(dst + k, a);
            }
        }
        break;
    default:
        for (int64_t b = k0 / 32; k < kc; b++) {
            const char *block = row + b * 18;
            const VF d = v_set1(k_f16_to_f32(k_u16(block)));
            for (int i = 0; i < 32; i += SCBM_VL, k += SCBM_VL) {
                VF a = v_mul(v_u4((const uint8_t *)block + 2, i), d);
                if (mask) a = v_keep(v_mask_at(mask, k0 + k), a);
                if (round) a = KT(round_bf16)(a);
                v_store(dst + k, a);
            }
        }
        break;
    }
#undef K_EACH
    for (; k < k_round(kc, 32); k += SCBM_VL) v_store(dst + k, v_zero());
}

/* A tile of rows of W as f32, ld apart, without the mask. */
KTASK void KT(weight_rows)(float *dst, int64_t ld, const struct k_weights *w, int64_t n0, int64_t rows, int64_t k0,
                           int64_t kc, int round) {
    for (int64_t i = 0; i < rows; i++) KT(weight_row)(dst + i * ld, w, n0 + i, k0, kc, NULL, round);
}

#ifdef SCBM_TARGET_BF16
/* ---- bf16 products: a lane holds two neighbours of the summed index ---- */

#define K_MKB_STEP(r, base, i)                                                                                         \
    if (mr > r) {                                                                                                      \
        const __m512i s = _mm512_set1_epi32((int)k_f32_bits(base[(i)*rs]));                                            \
        c##r##0 = _mm512_dpbf16_ps(c##r##0, (__m512bh)v0, (__m512bh)s);                                                \
        if (nv > 1) c##r##1 = _mm512_dpbf16_ps(c##r##1, (__m512bh)v1, (__m512bh)s);                                    \
    }

K_INLINE SCBM_TARGET_BF16 void KT(tile_pairs)(const int mr, const int nv, int64_t kc, const float *v, const float *b,
                                              int64_t rs, float *c, int acc) {
    const float *b0 = b, *b1 = b + (mr > 3 ? 3 * rs : 0), *b2 = b + (mr > 6 ? 6 * rs : 0),
                *b3 = b + (mr > 9 ? 9 * rs : 0);
    const int64_t ldc = nv * SCBM_VL;
    K_ROWS(K_MK_DECL)
    if (acc) {
        K_ROWS(K_MK_LOAD)
    }
    for (int64_t k = 0; k < kc; k++) {
        const VI v0 = vi_load(v), v1 = nv > 1 ? vi_load(v + SCBM_VL) : v0;
        K_MKB_STEP(0, b0, 0)
        K_MKB_STEP(1, b0, 1)
        K_MKB_STEP(2, b0, 2)
        K_MKB_STEP(3, b1, 0)
        K_MKB_STEP(4, b1, 1)
        K_MKB_STEP(5, b1, 2)
        K_MKB_STEP(6, b2, 0)
        K_MKB_STEP(7, b2, 1)
        K_MKB_STEP(8, b2, 2)
        K_MKB_STEP(9, b3, 0)
        K_MKB_STEP(10, b3, 1)
        K_MKB_STEP(11, b3, 2)
        v += ldc;
        b0++;
        b1++;
        b2++;
        b3++;
    }
    K_ROWS(K_MK_STORE)
}

typedef void (*KT(mkb))(int64_t kc, const float *v, const float *b, int64_t rs, float *c, int acc);

#define K_MKB(mr, nv)                                                                                                  \
    static SCBM_TARGET_BF16 void KT(mkb_##mr##_##nv)(int64_t kc, const float *v, const float *b, int64_t rs, float *c, \
                                                     int acc) {                                                        \
        KT(tile_pairs)(mr, nv, kc, v, b, rs, c, acc);                                                                  \
    }
/* clang-format off */
K_MKB(1, 1) K_MKB(2, 1) K_MKB(3, 1) K_MKB(4, 1) K_MKB(5, 1) K_MKB(6, 1)
K_MKB(7, 1) K_MKB(8, 1) K_MKB(9, 1) K_MKB(10, 1) K_MKB(11, 1) K_MKB(12, 1)
K_MKB(1, 2) K_MKB(2, 2) K_MKB(3, 2) K_MKB(4, 2) K_MKB(5, 2) K_MKB(6, 2)
K_MKB(7, 2) K_MKB(8, 2) K_MKB(9, 2) K_MKB(10, 2) K_MKB(11, 2) K_MKB(12, 2)
/* clang-format on */
#undef K_MKB
#undef K_MKB_STEP

            static const KT(mkb)
                KT(mkb_of)[2][12] = {{KT(mkb_1_1), KT(mkb_2_1), KT(mkb_3_1), KT(mkb_4_1), KT(mkb_5_1), KT(mkb_6_1),
                                      KT(mkb_7_1), KT(mkb_8_1), KT(mkb_9_1), KT(mkb_10_1), KT(mkb_11_1), KT(mkb_12_1)},
                                     {KT(mkb_1_2), KT(mkb_2_2), KT(mkb_3_2), KT(mkb_4_2), KT(mkb_5_2), KT(mkb_6_2),
                                      KT(mkb_7_2), KT(mkb_8_2), KT(mkb_9_2), KT(mkb_10_2), KT(mkb_11_2), KT(mkb_12_2)}};

KFN void KT(gemm_pairs)(int mr, int lanes, int64_t kc, const float *v, const float *w, int64_t rs, float *c, int acc) {
    KT(mkb_of)[lanes > SCBM_VL][mr - 1](kc, v, w, rs, c, acc);
}

/* A tile of rows of W as pairs of bf16, times the mask. */
KTASK void KT(weight_pairs)(float *dst, const struct k_weights *w, int64_t n0, int64_t rows, int64_t k0, int64_t kc,
                            int64_t s) {
    for (int64_t i = 0; i < rows; i++, dst += K_KC_LD) {
        const uint8_t *mask = w->mask ? w->mask + s * w->mask_stream + (n0 + i) * w->mask_row : NULL;
        if (w->type == SCBM_BF16) {
            const uint16_t *p = (const uint16_t *)(const void *)((const char *)w->data + (n0 + i) * w->row_bytes) + k0;
            for (int64_t k = 0; k < kc; k += 32) {
                uint32_t bits = kc - k >= 32 ? 0xffffffffu : (1u << (kc - k)) - 1;
                if (mask) {
                    uint32_t m;
                    memcpy(&m, mask + (k0 + k) / 8, 4);
                    bits &= m;
                }
                _mm512_storeu_si512(dst + k / 2, _mm512_maskz_loadu_epi16(bits, p + k));
            }
        } else {
            float row[K_KC];
            KT(weight_row)(row, w, n0 + i, k0, kc, mask, 0);
            for (int64_t k = 0; k < kc; k += 32) v_store(dst + k / 2, KT(tr_load)(KT(PAIRS), row + k, 32));
        }
    }
}
#else
KFN void KT(gemm_pairs)(int mr, int lanes, int64_t kc, const float *v, const float *w, int64_t rs, float *c, int acc) {
    (void)mr, (void)lanes, (void)kc, (void)v, (void)w, (void)rs, (void)c, (void)acc;
}
KFN void KT(weight_pairs)(float *dst, const struct k_weights *w, int64_t n0, int64_t rows, int64_t k0, int64_t kc,
                          int64_t s) {
    (void)dst, (void)w, (void)n0, (void)rows, (void)k0, (void)kc, (void)s;
}
#endif

/* ---- Products of quantized blocks ----
 *
 * W in blocks of 32 weights of a row, each int8 with a scale, times x, whose every token is quantized in the same blocks: its
 * scale is the greatest magnitude of the block / 127, its numbers x 127 / that, rounded to nearest, -127 .. 127. A block's 32
 * products are summed as integers, exactly; then y += scale of W . (scale of x . sum), block by block.
 *
 * A lane is a token, or a number of W for all of them, and holds two neighbours of the summed index as 16 bits (pairs), or
 * four as 8 bits where the processor has such a product (quads). Of two bytes with a sign AVX2 has no product that cannot
 * saturate, and one with the signs moved from one side to the other takes as many instructions as two of 16 bits. A packed
 * block of x is [32 / per][lanes] of them and [lanes] scales; of a row of W 32 / per, the scale and what sums begin with. */

KFN VI KT(larger)(VI a, VI b) {
#if SCBM_VL == 16
    return _mm512_max_epu32(a, b);
#elif SCBM_VL == 8
    return _mm256_max_epu32(a, b);
#else
    return v_as_i(v_sel(vi_geu(a, b), v_as_f(a), v_as_f(b)));
#endif
}

/* acc + the products of two pairs. */
KFN VI KT(add_pairs)(VI acc, VI a, VI b) {
#if SCBM_VL == 16
    acc = vi_add(acc, _mm512_madd_epi16(a, b));
    __asm__("" : "+v"(acc)); /* or GCC sums the products in another order, and has not the registers for it */
    return acc;
#elif SCBM_VL == 8
    acc = vi_add(acc, _mm256_madd_epi16(a, b));
    __asm__("" : "+x"(acc));
    return acc;
#elif defined(K_X86)
    return (VI)_mm_add_epi32((__m128i)acc, _mm_madd_epi16((__m128i)a, (__m128i)b));
#elif defined(__aarch64__) && defined(__ARM_NEON)
    const int16x8_t p = (int16x8_t)a, q = (int16x8_t)b;
    const int32x4_t low = vmull_s16(vget_low_s16(p), vget_low_s16(q)), high = vmull_high_s16(p, q);
    return (VI)vaddq_s32((int32x4_t)acc, vpaddq_s32(low, high));
#else
    int16_t p[8], q[8];
    int32_t sum[4];
    memcpy(p, &a, 16);
    memcpy(q, &b, 16);
    memcpy(sum, &acc, 16);
    for (int i = 0; i < 4; i++) sum[i] += p[2 * i] * q[2 * i] + p[2 * i + 1] * q[2 * i + 1];
    return vi_load(sum);
#endif
}

/* The float of a half-precision scale. */
KFN float KT(scale_of)(const void *p) {
#if SCBM_VL >= 8
    return _cvtsh_ss(k_u16(p));
#else
    return k_f16_to_f32(k_u16(p));
#endif
}

/* x[32][lanes] as a packed block. Smaller numbers than 2^-100 count as 0; one that is not finite gives a scale that is not. */
KFN void KT(quantize_block)(const int per, float *to, const float *x, int lanes) {
    for (int l = 0; l < lanes; l += SCBM_VL) {
        VI most = vi_set1(0);
        for (int k = 0; k < K_BLOCK; k++) most = KT(larger)(most, v_as_i(v_abs(v_load(x + k * lanes + l))));
        const VF size = v_as_f(most), limit = v_set1(127.0f);
        const VM is_none = v_lt(size, v_set1(0x1p-100f));
        const VF factor = v_sel(is_none, v_zero(), v_div(limit, size));
        v_store(to + K_BLOCK / per * lanes + l, v_sel(is_none, v_zero(), v_div(size, limit)));
        const VI field = vi_set1(per == 2 ? 0xffff : 0xff);
        for (int k = 0; k < K_BLOCK; k += per) {
            VI word = vi_set1(0);
            for (int i = 0; i < per; i++) {
                const VI q = v_to_i(v_mul(v_load(x + (k + i) * lanes + l), factor));
                word = vi_or(word, vi_shl(vi_and(q, field), i * 32 / per));
            }
#if SCBM_VL >= 8
            if (per == 4)
                word = vi_xor(word, vi_set1(0x80808080)); /* 128 is added: that product wants one without sign */
#endif
            vi_store(to + k / per * lanes + l, word);
        }
    }
}

/* A task packs 32 tokens of kc columns: of x[T][K], or of x in panels that the layer before has left. */
KFN void KT(pack_blocks_body)(const int per, const struct k_pack_run *r, int64_t index) {
    const int64_t kb = index % r->n_kc, g = index / r->n_kc;
    const int64_t k0 = kb * r->kc, k1 = k_min(r->K, k0 + r->kc), t1 = k_min(r->T, (g + 1) * K_PANEL_MAX);
    const int64_t block = K_BLOCK / per + 1, kp = r->K / K_BLOCK * block;
    float panel[K_BLOCK * K_PANEL_MAX];
    int lanes;
    for (int64_t t = g * K_PANEL_MAX; t < t1; t += lanes) {
        lanes = r->T - t > SCBM_VL ? 2 * SCBM_VL : SCBM_VL;
        for (int64_t k = k0; k < k1; k += K_BLOCK) {
            const float *from = r->is_in_panels ? r->x + t * r->K + k * lanes : panel;
            if (!r->is_in_panels)
                KT(pack_panel)(KT(AS_IS), panel, lanes, r->x + t * r->K + k, r->K, r->T - t, K_BLOCK);
            KT(quantize_block)(per, r->xp + t * kp + k / K_BLOCK * block * lanes, from, lanes);
        }
    }
}

/* A block's numbers in 16 bits. */
KFN void KT(widen_block)(void *to, const int8_t *q) {
#if SCBM_VL == 8
    for (int half = 0; half < 2; half++)
        _mm256_storeu_si256((__m256i *)to + half,
                            _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)q + half)));
#else
    int16_t *pairs = to;
    for (int j = 0; j < K_BLOCK; j++) pairs[j] = q[j];
#endif
}

/* Rows of W for a tile: [block][SCBM_MR][as above]; zeros where there are none. Sums of pairs begin with 0, unasked. */
KFN void KT(weight_blocks)(const int per, float *dst, const struct k_weights *w, int64_t n0, int64_t rows, int64_t k0,
                           int64_t kc) {
    const int64_t bytes = w->type == SCBM_Q8_0 ? 34 : 18, step = K_BLOCK / per + 2;
    if (rows < SCBM_MR) memset(dst, 0, (size_t)(kc / K_BLOCK * step * SCBM_MR * 4));
    for (int64_t i = 0; i < rows; i++) {
        const char *block = (const char *)w->data + (n0 + i) * w->row_bytes + k0 / K_BLOCK * bytes;
        float *to = dst + i * step;
        for (int64_t k = 0; k < kc; k += K_BLOCK, block += bytes, to += step * SCBM_MR) {
            int8_t expanded[K_BLOCK];
            const int8_t *q = (const int8_t *)block + 2;
            if (w->type == SCBM_Q4_0) {
                for (int j = 0; j < 16; j++) {
                    expanded[j] = (int8_t)(((uint8_t)block[2 + j] & 15) - 8);
                    expanded[16 + j] = (int8_t)(((uint8_t)block[2 + j] >> 4) - 8);
                }
                q = expanded;
            }
            to[K_BLOCK / per] = KT(scale_of)(block);
            if (per == 2) {
                KT(widen_block)(to, q);
                K_PREFETCH_FAR((uintptr_t)block + (size_t)(SCBM_MR * w->row_bytes)); /* the next tile's */
            } else {
                int32_t start = 0;
                memcpy(to, q, K_BLOCK);
#if SCBM_VL >= 8
                for (int j = 0; j < K_BLOCK; j++) start -= 128 * q[j];
#endif
                memcpy(to + K_BLOCK / per + 1, &start, 4);
            }
        }
    }
}

#ifdef __GNUC__
#define K_UNROLL(n) K_PRAGMA(GCC unroll n)
#define K_PRAGMA(what) _Pragma(#what)
#else
#define K_UNROLL(n)
#endif
#define K_MKQ_BEGIN(r)                                                                                                 \
    VI c##r##0 = vi_set1(per == 4 && SCBM_MR > r ? k_f32_bits(w[(r) * (steps + 2) + steps + 1]) : 0), c##r##1 = c##r##0;
#define K_MKQ_STEP(r, dot)                                                                                             \
    if (SCBM_MR > r) {                                                                                                 \
        const VI s = vi_set1(k_f32_bits(w[(r) * (steps + 2) + i]));                                                    \
        c##r##0 = dot(c##r##0, v0, s);                                                                                 \
        if (nv > 1) c##r##1 = dot(c##r##1, v1, s);                                                                     \
    }
#define K_MKQ_END(r)                                                                                                   \
    if (SCBM_MR > r) {                                                                                                 \
        const VF s = v_set1(w[(r) * (steps + 2) + steps]);                                                             \
        float *to = c + (r)*ldc;                                                                                       \
        v_store(to, v_fma(v_mul(v_to_f(c##r##0), d0), s, acc ? v_load(to) : v_zero()));                                \
        if (nv > 1)                                                                                                    \
            v_store(to + SCBM_VL, v_fma(v_mul(v_to_f(c##r##1), d1), s, acc ? v_load(to + SCBM_VL) : v_zero()));        \
    }
/* c[SCBM_MR][lanes] (+)= n blocks of so many rows of W times a panel of nv vectors. */
#define K_TILE_BLOCKS(name, target, n_per, dot)                                                                        \
    K_INLINE target void KT(name##_of)(const int nv, int64_t n, const float *x, const float *w, float *c, int acc) {   \
        const int per = n_per, steps = K_BLOCK / per;                                                                  \
        const int64_t ldc = nv * SCBM_VL;                                                                              \
        for (; n > 0; n--) {                                                                                           \
            K_ROWS(K_MKQ_BEGIN)                                                                                        \
            K_UNROLL(16)                                                                                               \
            for (int i = 0; i < steps; i++, x += ldc) {                                                                \
                const VI v0 = vi_load(x), v1 = nv > 1 ? vi_load(x + SCBM_VL) : v0;                                     \
                K_MKQ_STEP(0, dot)                                                                                     \
                K_MKQ_STEP(1, dot)                                                                                     \
                K_MKQ_STEP(2, dot)                                                                                     \
                K_MKQ_STEP(3, dot)                                                                                     \
                K_MKQ_STEP(4, dot)                                                                                     \
                K_MKQ_STEP(5, dot)                                                                                     \
                K_MKQ_STEP(6, dot)                                                                                     \
                K_MKQ_STEP(7, dot)                                                                                     \
                K_MKQ_STEP(8, dot)                                                                                     \
                K_MKQ_STEP(9, dot)                                                                                     \
                K_MKQ_STEP(10, dot)                                                                                    \
                K_MKQ_STEP(11, dot)                                                                                    \
            }                                                                                                          \
            const VF d0 = v_load(x), d1 = nv > 1 ? v_load(x + SCBM_VL) : d0;                                           \
            K_ROWS(K_MKQ_END)                                                                                          \
            acc = 1;                                                                                                   \
            x += ldc;                                                                                                  \
            w += SCBM_MR * (steps + 2);                                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static target void KT(name)(int nv, int64_t n, const float *x, const float *w, float *c, int acc) {                \
        if (nv > 1) KT(name##_of)(2, n, x, w, c, acc);                                                                 \
        else KT(name##_of)(1, n, x, w, c, acc);                                                                        \
    }

K_TILE_BLOCKS(tile_pairs_of_blocks, SCBM_TARGET, 2, KT(add_pairs))
#ifdef SCBM_TARGET_QUADS
#if SCBM_VL == 16
#define K_ADD_QUADS(acc, x, w) _mm512_dpbusd_epi32(acc, x, w)
#else
#define K_ADD_QUADS(acc, x, w) (VI) vdotq_s32((int32x4_t)(acc), (int8x16_t)(x), (int8x16_t)(w))
#endif
K_TILE_BLOCKS(tile_quads_of_blocks, SCBM_TARGET_QUADS, 4, K_ADD_QUADS)
#undef K_ADD_QUADS
#endif
#undef K_TILE_BLOCKS
#undef K_UNROLL
#undef K_PRAGMA
#undef K_MKQ_BEGIN
#undef K_MKQ_STEP
#undef K_MKQ_END

#ifdef SCBM_TARGET_AMX
/* ---- Products on matrix tiles ----
 *
 * y^T = W x^T, 32 rows of W times 32 tokens in four tiles of 16 x 16 sums; a step is 32 columns of W. The numbers are
 * bf16 (one part), or f32 in three parts: their upper 8 significant bits, the next 8 and the last 8, which sum up to the
 * number exactly. Of the nine products of parts the six largest are summed. The others are below 2^-21 |w x|, and 2^-24
 * on average, always with the sign of w x: an error like f32's own. But tiles take subnormal parts, products and sums for
 * zeros: numbers below 2^-103 and products below 2^-107 lose digits; and infinite numbers give NaN. In both operands
 * column i of a step is paired with column 16 + i. */

enum { KT(TILE) = 16 * 64, KT(PART_OF_W) = 2 * KT(TILE) };

#define K_TILE_LOAD(t, p, stride)                                                                                      \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((int64_t)(stride)) : "memory")
#define K_TILE_STORE(t, p, stride)                                                                                     \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((int64_t)(stride)) : "memory")
#define K_TILE_ZERO(t) __asm__ volatile("tilezero %tmm" #t)
#define K_TILE_PRODUCT(c, a, b) __asm__ volatile("tdpbf16ps %tmm" #b ", %tmm" #a ", %tmm" #c)

struct KT(tile_config) {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

K_INLINE SCBM_TARGET_AMX void KT(tiles_begin)(void) {
    struct KT(tile_config) config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

K_INLINE SCBM_TARGET_AMX void KT(tiles_end)(void) {
    __asm__ volatile("tilerelease");
}

/* A strip: 32 rows of stream s of W from n0 on, columns k0 .. k0 + kc, as [step][part][32 rows][32 columns] of bf16. */
struct KT(strip) {
    char *place;
    const struct k_weights *w;
    int64_t n0, rows, k0, kc, s; /* rows: those that there are */
};

/* 16 columns of a row as f32, where the bits of `keep` are set. */
KFN VF KT(weights_16)(const struct k_weights *w, const char *row, int64_t k, unsigned keep) {
    const __mmask16 m = (__mmask16)keep;
    if (w->type == SCBM_F32) return _mm512_maskz_loadu_ps(m, row + k * 4);
    if (w->type == SCBM_F16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, row + k * 2));
    return v_as_f(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, row + k * 2)), 16));
}

/* One step of a strip. */
KFN void KT(split_strip)(const int parts, const struct KT(strip) * strip, int64_t step) {
    const struct k_weights *w = strip->w;
    const int64_t k = strip->k0 + step * K_STRIP;
    const unsigned there = (unsigned)k_first_bits(0xffffffff, k_min(K_STRIP, strip->kc - step * K_STRIP));
    char *to = strip->place + step * parts * KT(PART_OF_W);
    const char *row = (const char *)w->data + strip->n0 * w->row_bytes;
    const uint8_t *mask = w->mask ? w->mask + strip->s * w->mask_stream + strip->n0 * w->mask_row + k / 8 : NULL;
    for (int64_t i = 0; i < strip->rows; i++, to += 64, row += w->row_bytes) {
        VF a, b;
        unsigned keep = there;
        if (mask) {
            uint32_t bits;
            memcpy(&bits, mask, 4);
            keep &= bits;
            mask += w->mask_row;
        }
        if (w->type <= SCBM_BF16) {
            a = KT(weights_16)(w, row, k, keep & 0xffff);
            b = KT(weights_16)(w, row, k + 16, keep >> 16);
        } else {
            float f[K_STRIP];
            KT(weight_rows)(f, K_STRIP, w, strip->n0 + i, 1, k, K_STRIP, 0);
            a = _mm512_maskz_loadu_ps((__mmask16)keep, f);
            b = _mm512_maskz_loadu_ps((__mmask16)(keep >> 16), f + 16);
        }
        if (parts == 1) {
            a = KT(round_bf16)(a);
            b = KT(round_bf16)(b);
        }
        for (int part = 0; part < parts; part++) {
            _mm512_store_si512(to + part * KT(PART_OF_W), KT(halves)(a, b));
            if (part == parts - 1) break;
            a = KT(rest)(a);
            b = KT(rest)(b);
        }
    }
    for (int64_t i = strip->rows; i < k_round(strip->rows, 16); i++, to += 64)
        for (int part = 0; part < parts; part++) _mm512_store_si512(to + part * KT(PART_OF_W), _mm512_setzero_si512());
}

KTASK void KT(strip_step)(int parts, const struct KT(strip) * strip, int64_t step) {
    if (parts == 1) KT(split_strip)(1, strip, step);
    else KT(split_strip)(3, strip, step);
}

/* c[16 nw][lanes] (+)= a strip times a panel of 16 nx lanes, nw and nx tiles; and prepares the strip `then` (or NULL)
 * meanwhile. */
K_INLINE SCBM_TARGET_AMX void KT(tile_products)(const int parts, const int nw, const int nx, int64_t steps,
                                                const char *w, const char *x, float *c, int acc,
                                                const struct KT(strip) * then) {
    const int64_t row = nx * 64, part_of_x = 16 * row, then_steps = then ? k_ceil(then->kc, K_STRIP) : 0;
#define K_EACH_SUM(what)                                                                                               \
    {                                                                                                                  \
        what(0, c, row);                                                                                               \
        if (nx > 1) what(1, c + 16, row);                                                                              \
        if (nw > 1) what(2, c + 16 * nx * 16, row);                                                                    \
        if (nw > 1 && nx > 1) what(3, c + 16 * nx * 16 + 16, row);                                                     \
    }
#define K_ZERO(t, p, stride) K_TILE_ZERO(t)
#define K_LOAD_W(part)                                                                                                 \
    {                                                                                                                  \
        K_TILE_LOAD(4, w + (part)*KT(PART_OF_W), 64);                                                                  \
        if (nw > 1) K_TILE_LOAD(5, w + (part)*KT(PART_OF_W) + KT(TILE), 64);                                           \
    }
#define K_LOAD_X(part)                                                                                                 \
    {                                                                                                                  \
        K_TILE_LOAD(6, x + (part)*part_of_x, row);                                                                     \
        if (nx > 1) K_TILE_LOAD(7, x + (part)*part_of_x + 64, row);                                                    \
    }
#define K_PRODUCTS                                                                                                     \
    {                                                                                                                  \
        K_TILE_PRODUCT(0, 4, 6);                                                                                       \
        if (nx > 1) K_TILE_PRODUCT(1, 4, 7);                                                                           \
        if (nw > 1) K_TILE_PRODUCT(2, 5, 6);                                                                           \
        if (nw > 1 && nx > 1) K_TILE_PRODUCT(3, 5, 7);                                                                 \
    }
    if (acc) K_EACH_SUM(K_TILE_LOAD)
    else K_EACH_SUM(K_ZERO)
    for (int64_t step = 0; step < steps; step++) {
        if (parts == 3) {
            K_LOAD_W(2)
            K_LOAD_X(0) K_PRODUCTS K_LOAD_W(1) K_PRODUCTS K_LOAD_X(1) K_PRODUCTS K_LOAD_W(0) K_PRODUCTS K_LOAD_X(2)
                K_PRODUCTS K_LOAD_X(0) K_PRODUCTS
        } else {
            K_LOAD_W(0) K_LOAD_X(0) K_PRODUCTS
        }
        w += parts * KT(PART_OF_W);
        x += parts * part_of_x;
        if (step < then_steps) KT(strip_step)(parts, then, step);
    }
    K_EACH_SUM(K_TILE_STORE)
    for (int64_t step = steps; step < then_steps; step++) KT(strip_step)(parts, then, step);
#undef K_EACH_SUM
#undef K_ZERO
#undef K_LOAD_W
#undef K_LOAD_X
#undef K_PRODUCTS
}

static SCBM_TARGET_AMX void KT(strip_times_panel)(int parts, int nw, int nx, int64_t steps, const char *w,
                                                  const char *x, float *c, int acc, const struct KT(strip) * then) {
#define K_CASE(p, n, m)                                                                                                \
    if (parts == p && nw == n && nx == m) {                                                                            \
        KT(tile_products)(p, n, m, steps, w, x, c, acc, then);                                                         \
        return;                                                                                                        \
    }
    K_CASE(3, 2, 2)
    K_CASE(3, 2, 1)
    K_CASE(3, 1, 2)
    K_CASE(3, 1, 1)
    K_CASE(1, 2, 2)
    K_CASE(1, 2, 1)
    K_CASE(1, 1, 2)
    K_CASE(1, 1, 1)
#undef K_CASE
}

/* Tokens of a panel. */
KFN int KT(panel)(int64_t n) {
    return n > 16 ? 32 : 16;
}

/* Packs x for them: per panel [step][part][16 pairs][lanes]. */
KTASK void KT(pack_parts)(void *arg, int64_t index, int worker) {
    const struct k_pack_run *r = arg;
    const int64_t kb = index % r->n_kc, t = index / r->n_kc % r->n_panels * K_PANEL_MAX,
                  s = index / r->n_kc / r->n_panels;
    const int64_t k0 = kb * r->kc, k1 = k_min(r->K, k0 + r->kc), kp = k_round(r->K, K_STRIP) / 2 * r->parts;
    const int lanes = KT(panel)(r->T - t);
    float *to = r->xp + s * r->xp_stream + t * kp + k0 / 2 * r->parts * lanes;
    (void)worker;
    for (int64_t k = k0; k < k1; k += K_STRIP)
        for (int part = 0; part < r->parts; part++, to += 16 * lanes)
            for (int l = 0; l < lanes; l += 16) {
                const float *from = r->x + (s * r->T + t + l) * r->K + k;
                const int rows = (int)k_max(0, k_min(r->T - t - l, 16)), cols = (int)k_min(k1 - k, K_STRIP);
                if (r->parts == 1) KT(tr)(KT(HALVES), to + l, lanes, from, r->K, rows, cols, 16);
                else if (part == 0) KT(tr)(KT(PART), to + l, lanes, from, r->K, rows, cols, 16);
                else if (part == 1) KT(tr)(KT(PART) + 1, to + l, lanes, from, r->K, rows, cols, 16);
                else KT(tr)(KT(PART) + 2, to + l, lanes, from, r->K, rows, cols, 16);
            }
}

/* The same for c[32][lanes], which are columns of the next layer's x: one step, in three parts. */
KFN void KT(feed_parts)(char *to, const float *c, int lanes) {
    for (int i = 0; i < 16; i++)
        for (int l = 0; l < lanes; l += 16) {
            VF a = v_load(c + i * lanes + l), b = v_load(c + (16 + i) * lanes + l);
            for (int part = 0; part < 3; part++) {
                _mm512_storeu_si512(to + ((part * 16 + i) * lanes + l) * 4, KT(halves)(a, b));
                a = KT(rest)(a);
                b = KT(rest)(b);
            }
        }
}
#undef K_TILE_LOAD
#undef K_TILE_STORE
#undef K_TILE_ZERO
#undef K_TILE_PRODUCT
#endif

/* ---- Linear ---- */

/* y[t][r] = c[r][t] + add[r] (or nothing is added): a tile's rows c[mr][lanes] of nt tokens as columns of y, ld apart. */
KFN void KT(put_tile)(float *y, int64_t ld, const float *c, int lanes, int mr, int64_t nt, const float *add) {
    for (int r = 0; r < mr; r += SCBM_VL) {
        const int n = (int)k_min(mr - r, SCBM_VL);
        for (int l = 0; l < nt; l += SCBM_VL) KT(tr_add)
        (KT(AS_IS), y + l * ld + r, ld, c + r * lanes + l, lanes, n, (int)k_min(nt - l, SCBM_VL), n,
         add ? add + r : NULL);
    }
}

/* Ends a tile: c[mr][lanes] holds x W^T for weights n0 .. and tokens t0 ..; nt tokens are real. `out`: where the tile goes
 * as it is, because the next layer wants it so, or NULL. */
KFN void KT(linear_end)(const struct k_linear_args *a, float *c, int lanes, int mr, int64_t s, int64_t n0, int64_t t0,
                        float *out) {
    const int64_t nt = k_min(a->T - t0, lanes), at = (s * a->T + t0) * a->N + n0;
    const float *bias = a->bias ? a->bias + n0 : NULL, *add = NULL;
    float *to = c;
#define K_EACH(kind)                                                                                                   \
    for (int r = 0; r < mr; r++) {                                                                                     \
        const VF b = v_set1(bias ? bias[r] : -0.0f); /* added to -0, a number keeps its bits */                        \
        for (int l = 0; l < lanes; l += SCBM_VL) {                                                                     \
            const VF v = v_add(v_load_n(c + r * lanes + l, lanes - l), b);                                             \
            v_store_n(to + r * lanes + l, KT(act1)(kind, v), lanes - l);                                               \
        }                                                                                                              \
    }
    if (a->pre) {
        K_EACH(SCBM_NONE)
        KT(put_tile)(a->pre + at, a->N, c, lanes, mr, nt, NULL);
        bias = NULL;
    }
    if (out) to = out;
    switch (a->act) {
    case SCBM_GELU_ERF: K_EACH(SCBM_GELU_ERF) break;
    case SCBM_GELU_TANH: K_EACH(SCBM_GELU_TANH) break;
    case SCBM_RELU: K_EACH(SCBM_RELU) break;
    case SCBM_TANH: K_EACH(SCBM_TANH) break;
    case SCBM_SIGMOID: K_EACH(SCBM_SIGMOID) break;
    default:
        if (out) {
            K_EACH(SCBM_NONE)
        } else add = bias;
    }
#undef K_EACH
    if (!out) KT(put_tile)(a->y + at, a->N, c, lanes, mr, nt, add);
}

/* The rows of W that a task reads in place after those that end before row n: in the same block of columns; in the next one;
 * or those of the next task, which mostly is the same worker's. NULL: there are none. w: what is read now, of columns k0 on. */
KFN const float *KT(next_rows)(const struct k_linear_run *r, const float *w, int64_t n, int64_t nb0, int64_t nb1,
                               int64_t k0) {
    const int64_t rs = r->a.w.row_bytes / 4, k = k0 + r->kc;
    const float *all = r->a.w.data;
    if (n + SCBM_MR <= nb1) return w + SCBM_MR * rs;
    if (n >= nb1 && k < r->a.K) return k + r->kc <= r->a.K ? all + nb0 * rs + k : NULL;
    return n + SCBM_MR <= r->a.N ? all + n * rs : NULL;
}

/* A task computes nb rows of W times tb tokens, for every stream: the rows are read from memory once, and the streams'
 * masked versions are made from what is in the cache by then. */
KFN void KT(linear_body)(const int native, const struct k_linear_run *r, int64_t index, int worker) {
    const struct k_linear_args *a = &r->a;
    const int64_t t0 = index / r->n_nb * r->tb, t1 = k_min(a->T, t0 + r->tb);
    const int64_t nb0 = index % r->n_nb * r->nb, nb1 = k_min(a->N, nb0 + r->nb);
    float *wt = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *cs = wt + K_MR_MAX * K_KC_LD;
    const int in_place = a->w.type == SCBM_F32 && !native && !r->round && t1 - t0 <= SCBM_IN_PLACE;
    for (int64_t s = 0; s < a->S; s++) {
        const float *xs = r->xp + (a->x_streams > 1 ? s : 0) * r->xp_stream;
        for (int64_t kb = 0; kb < r->n_kb; kb++) {
            const int64_t k0 = kb * r->kc, kc = k_min(r->kc, a->K - k0);
            float *c = cs;
            for (int64_t n0 = nb0; n0 < nb1; n0 += SCBM_MR) {
                const int mr = (int)k_min(nb1 - n0, SCBM_MR);
                const float *w = wt;
                int64_t rs = K_KC_LD;
                int lanes;
                if (in_place) {
                    rs = a->w.row_bytes / 4;
                    w = (const float *)a->w.data + n0 * rs + k0;
                } else if (native) {
                    KT(weight_pairs)(wt, &a->w, n0, mr, k0, kc, s);
                } else {
                    KT(weight_rows)(wt, K_KC_LD, &a->w, n0, mr, k0, kc, r->round);
                }
                for (int64_t t = t0; t < t1; t += lanes) {
                    if (native) {
                        lanes = a->T - t > SCBM_VL ? 2 * SCBM_VL : SCBM_VL;
                        KT(gemm_pairs)(mr, lanes, (kc + 1) / 2, xs + t * r->kp + k0 / 2 * lanes, w, rs, c, kb > 0);
                    } else {
                        const float *x = xs + t * a->K + k0 * (lanes = KT(lanes)(a->T - t));
                        if (SCBM_VL < 16 && in_place && t == t0 && mr == SCBM_MR && lanes == 2 * SCBM_VL)
                            KT(mk_in_place)(kc, x, w, rs, c, kb > 0, KT(next_rows)(r, w, n0 + mr, nb0, nb1, k0));
                        else KT(gemm)(mr, lanes, kc, x, lanes, w, rs, 1, c, lanes, kb > 0);
                    }
                    if (kb == r->n_kb - 1)
                        KT(linear_end)
                        (a, c, lanes, mr, s, n0, t, r->out ? r->out + s * r->out_stream + t * a->N + n0 * lanes : NULL);
                    if (r->n_kb > 1) c += mr * lanes;
                }
            }
        }
    }
}

KTASK void KT(linear)(void *arg, int64_t index, int worker) {
    KT(linear_body)(0, arg, index, worker);
}

#ifdef SCBM_TARGET_BF16
KTASK void KT(linear_bf16)(void *arg, int64_t index, int worker) {
    KT(linear_body)(1, arg, index, worker);
}

KTASK void KT(pack_x_bf16)(void *arg, int64_t index, int worker) {
    (void)worker;
    KT(pack_x_body)(KT(PAIRS), arg, index);
}
#endif

/* As linear_body, in quantized blocks; there are no masks. */
KFN void KT(linear_blocks_body)(const int per, const struct k_linear_run *r, int64_t index, int worker) {
    const struct k_linear_args *a = &r->a;
    const int64_t t0 = index / r->n_nb * r->tb, t1 = k_min(a->T, t0 + r->tb);
    const int64_t nb0 = index % r->n_nb * r->nb, nb1 = k_min(a->N, nb0 + r->nb);
    float *wt = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *cs = wt + K_MR_MAX * K_KC_LD;
    for (int64_t kb = 0; kb < r->n_kb; kb++) {
        const int64_t k0 = kb * r->kc, kc = k_min(r->kc, a->K - k0);
        float *c = cs;
        for (int64_t n0 = nb0; n0 < nb1; n0 += SCBM_MR) {
            const int mr = (int)k_min(nb1 - n0, SCBM_MR);
            int lanes;
            KT(weight_blocks)(per, wt, &a->w, n0, mr, k0, kc);
            for (int64_t t = t0; t < t1; t += lanes) {
                const float *x;
                lanes = a->T - t > SCBM_VL ? 2 * SCBM_VL : SCBM_VL;
                x = r->xp + t * r->kp + k0 / K_BLOCK * (K_BLOCK / per + 1) * lanes;
                if (per == 2) KT(tile_pairs_of_blocks)(lanes / SCBM_VL, kc / K_BLOCK, x, wt, c, kb > 0);
#ifdef SCBM_TARGET_QUADS
                else KT(tile_quads_of_blocks)(lanes / SCBM_VL, kc / K_BLOCK, x, wt, c, kb > 0);
#endif
                if (kb == r->n_kb - 1)
                    KT(linear_end)(a, c, lanes, mr, 0, n0, t, r->out ? r->out + t * a->N + n0 * lanes : NULL);
                if (r->n_kb > 1) c += SCBM_MR * lanes;
            }
        }
    }
}

KTASK void KT(pack_blocks)(void *arg, int64_t index, int worker) {
    (void)worker;
    KT(pack_blocks_body)(2, arg, index);
}

KTASK void KT(linear_blocks)(void *arg, int64_t index, int worker) {
    KT(linear_blocks_body)(2, arg, index, worker);
}

#ifdef SCBM_TARGET_QUADS
KTASK void KT(pack_quads)(void *arg, int64_t index, int worker) {
    (void)worker;
    KT(pack_blocks_body)(4, arg, index);
}

KTASK void KT(linear_quads)(void *arg, int64_t index, int worker) {
    KT(linear_blocks_body)(4, arg, index, worker);
}
#endif

#ifdef SCBM_TARGET_AMX
/* As linear_body, in strips: while one is multiplied, the next one is prepared. */
static SCBM_TARGET_AMX void KT(linear_tiles)(void *arg, int64_t index, int worker) {
    const struct k_linear_run *r = arg;
    const struct k_linear_args *a = &r->a;
    const int64_t t0 = index / r->n_nb * r->tb, t1 = k_min(a->T, t0 + r->tb);
    const int64_t nb0 = index % r->n_nb * r->nb, nb1 = k_min(a->N, nb0 + r->nb);
    const int64_t n_strips = k_ceil(nb1 - nb0, K_STRIP), n = a->S * r->n_kb * n_strips;
    const int64_t strip_bytes = K_STRIP * K_KC * 2 * r->parts;
    char *scratch = r->worker + (size_t)worker * r->worker_bytes;
    float *cs = (float *)(void *)(scratch + 2 * strip_bytes), *c = cs;
    struct KT(strip) strip, then = {0};
    KT(tiles_begin)();
    for (int64_t i = -1; i < n; i++) {
        const int64_t next = i + 1, kb = next / n_strips % r->n_kb;
        strip = then;
        then.place = scratch + next % 2 * strip_bytes;
        then.w = &a->w;
        then.s = next / n_strips / r->n_kb;
        then.k0 = kb * r->kc;
        then.kc = k_min(r->kc, a->K - then.k0);
        then.n0 = nb0 + next % n_strips * K_STRIP;
        then.rows = k_min(nb1 - then.n0, K_STRIP);
        if (i < 0) {
            for (int64_t step = 0; step < k_ceil(then.kc, K_STRIP); step++) KT(strip_step)(r->parts, &then, step);
            continue;
        }
        const int nw = strip.rows > 16 ? 2 : 1;
        const int is_last = strip.k0 + strip.kc == a->K;
        const float *xs = r->xp + (a->x_streams > 1 ? strip.s : 0) * r->xp_stream;
        if (i % n_strips == 0) c = cs;
        for (int64_t t = t0; t < t1; t += K_PANEL_MAX) {
            const int lanes = KT(panel)(a->T - t);
            KT(strip_times_panel)
            (r->parts, nw, lanes / 16, k_ceil(strip.kc, K_STRIP), strip.place,
             (const char *)(xs + t * r->kp + strip.k0 / 2 * r->parts * lanes), c, strip.k0 > 0,
             t == t0 && next < n ? &then : NULL);
            if (is_last) {
                for (int64_t m = 0; m < strip.rows; m += 16)
                    KT(linear_end)
                    (a, c + m * lanes, lanes, (int)k_min(strip.rows - m, 16), strip.s, strip.n0 + m, t,
                     r->out ? c + m * lanes : NULL);
                if (r->out) {
                    float *out = r->out + strip.s * r->out_stream + t * (a->N / 2 * 3) + strip.n0 / 2 * 3 * lanes;
                    KT(feed_parts)((char *)out, c, lanes);
                }
            }
            if (r->n_kb > 1) c += K_STRIP * lanes;
        }
    }
    KT(tiles_end)();
}
#endif

/* dx = dy W is the product with the weights' columns in the place of rows: a block of W [kc rows][96 columns] is
 * brought into the worker's scratch, and its tiles are read from there. */
KTASK void KT(linear_dx)(void *arg, int64_t index, int worker) {
    const struct k_dx_run *r = arg;
    const struct k_linear_dx_args *a = &r->a;
    const int64_t t0 = index / r->n_cb * r->tb, t1 = k_min(a->T, t0 + r->tb);
    const int64_t c0 = index % r->n_cb * K_DX_COLS, cols = k_min(K_DX_COLS, a->K - c0);
    float *wb = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *cs = wb + K_DX_KC * K_DX_COLS;
    for (int64_t s = 0; s < a->S; s++) {
        const float *ds = r->dyp + s * r->dyp_stream;
        for (int64_t kb = 0; kb < r->n_kb; kb++) {
            const int64_t n0 = kb * r->kc, kc = k_min(r->kc, a->N - n0);
            float *c = cs;
            KT(weight_rows)(wb, K_DX_COLS, &a->w, n0, kc, c0, cols, a->bf16);
            for (int64_t j = 0; j < cols; j += SCBM_MR) {
                const int mr = (int)k_min(cols - j, SCBM_MR);
                int lanes;
                for (int64_t t = t0; t < t1; t += lanes) {
                    lanes = KT(lanes)(a->T - t);
                    KT(gemm)(mr, lanes, kc, ds + t * a->N + n0 * lanes, lanes, wb + j, 1, K_DX_COLS, c, lanes, kb > 0);
                    if (kb == r->n_kb - 1) {
                        const int64_t nt = k_min(a->T - t, lanes);
                        KT(put_tile)(a->dx + (s * a->T + t) * a->K + c0 + j, a->K, c, lanes, mr, nt, NULL);
                    }
                    if (r->n_kb > 1) c += mr * lanes;
                }
            }
        }
    }
}

/* x[T][K] into panels of columns, xp[T][lanes] each; a task copies kc tokens of 256 columns. */
KTASK void KT(pack_cols)(void *arg, int64_t index, int worker) {
    const struct k_pack_run *r = arg;
    const int64_t kb = index % r->n_kc, g = index / r->n_kc % r->n_panels, s = index / r->n_kc / r->n_panels;
    const int64_t t0 = kb * r->kc, t1 = k_min(r->T, t0 + r->kc), k1 = k_min(r->K, (g + 1) * K_DW_COLS);
    int lanes;
    (void)worker;
    for (int64_t k = g * K_DW_COLS; k < k1; k += lanes) {
        float *xp = r->xp + s * r->xp_stream + k * r->T;
        const float *x = r->x + s * r->T * r->K + k;
        lanes = KT(lanes)(r->K - k);
        for (int64_t t = t0; t < t1; t++)
            for (int l = 0; l < lanes; l += SCBM_VL) {
                const VF v = v_load_n(x + t * r->K + l, k_max(0, r->K - k - l));
                v_store_n(xp + t * lanes + l, r->round ? KT(round_bf16)(v) : v, lanes - l);
            }
    }
}

/* Rows n0 .. n0 + mr, columns k .. k + lanes of dW from a tile c. */
KFN void KT(dw_store)(float *dw, const float *c, int lanes, int mr, int64_t ld, int64_t cols, const uint8_t *mask,
                      int64_t mask_row, int64_t k, int add) {
    for (int i = 0; i < mr; i++)
        for (int l = 0; l < lanes && l < cols; l += SCBM_VL) {
            VF v = v_load_n(c + i * lanes + l, lanes - l);
            float *p = dw + i * ld + l;
            if (mask) v = v_keep(v_mask_at(mask + i * mask_row, k + l), v);
            if (add) v = v_add(v_load_n(p, cols - l), v);
            v_store_n(p, v, cols - l);
        }
}

/* A task computes nb rows and 256 columns of dW, summing over the tokens in order. */
KTASK void KT(linear_dw)(void *arg, int64_t index, int worker) {
    const struct k_dw_run *r = arg;
    const struct k_linear_dw_args *a = &r->a;
    const int64_t c0 = index % r->n_cb * K_DW_COLS, c1 = k_min(a->K, c0 + K_DW_COLS);
    const int64_t nb0 = index / r->n_cb % r->n_nb * r->nb, nb1 = k_min(a->N, nb0 + r->nb);
    const int summed = a->mode == SCBM_DW_SUMMED, masked = a->mask && a->mode != SCBM_DW_DENSE;
    const int64_t s0 = summed ? 0 : index / r->n_cb / r->n_nb, s1 = summed ? a->S : s0 + 1;
    float *dyt = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *cs = dyt + K_MR_MAX * K_KC;
    for (int64_t s = s0; s < s1; s++) {
        const float *xs = r->xp + (a->x_streams > 1 ? s : 0) * r->xp_stream, *dy = a->dy + s * a->T * a->N;
        const int carry = summed && !masked && s > s0, last_s = !(summed && !masked) || s == s1 - 1;
        for (int64_t tb = 0; tb < r->n_tc; tb++) {
            const int64_t t0 = tb * r->tc, tc = k_min(r->tc, a->T - t0);
            float *c = cs;
            for (int64_t n0 = nb0; n0 < nb1; n0 += SCBM_MR) {
                const int mr = (int)k_min(nb1 - n0, SCBM_MR);
                int lanes;
                for (int64_t t = 0; t < tc; t++)
                    for (int i = 0; i < mr; i += SCBM_VL) {
                        const VF v = v_load_n(dy + (t0 + t) * a->N + n0 + i, mr - i);
                        v_store_n(dyt + t * mr + i, a->bf16 ? KT(round_bf16)(v) : v, mr - i);
                    }
                for (int64_t k = c0; k < c1; k += lanes) {
                    lanes = KT(lanes)(a->K - k);
                    KT(gemm)(mr, lanes, tc, xs + k * a->T + t0 * lanes, lanes, dyt, 1, mr, c, lanes, tb > 0 || carry);
                    if (tb == r->n_tc - 1 && last_s) {
                        const uint8_t *mask = masked ? a->mask + s * a->mask_stream + n0 * a->mask_row : NULL;
                        float *dw = a->dw + (summed ? 0 : s * a->N * a->K) + n0 * a->K + k;
                        KT(dw_store)
                        (dw, c, lanes, mr, a->K, a->K - k, mask, a->mask_row, k, summed && masked && s > s0);
                    }
                    c += mr * lanes;
                }
            }
        }
    }
}

/* ---- Sparse products ----
 *
 * A masked weight costs nothing. The lanes are tokens: a kept weight is broadcast and multiplied with its column of a
 * tile of tokens, up to eight vectors of them, whose sums stay in registers; a block of the tile, [kc][lanes], stays in
 * the first cache while the rows of weights go by. The bits of the mask planes are walked as they are: there is no
 * index to build or to keep, and a mask may change at any time. */
/* clang-format off */

/* The part of block kb of a tile, and where its tokens begin. */
KFN float *KT(tile_block)(const struct k_tiles *x, int64_t s, int64_t tile, int64_t kb, int64_t *t0, int *lanes) {
    const int64_t first = k_tile_first(x, tile), n = k_tile_first(x, tile + 1) - first;
    *t0 = first * SCBM_VL;
    *lanes = (int)n * SCBM_VL;
    return x->packed + (x->S > 1 ? s : 0) * x->stream + *t0 * (x->depth + x->gap * x->n_kb) +
           kb * (x->kc + x->gap) * *lanes;
}

/* A task packs a block of a tile. */
KTASK void KT(pack_tiles)(void *arg, int64_t index, int worker) {
    const struct k_tiles *x = arg;
    const int64_t kb = index % x->n_kb, tile = index / x->n_kb % x->n_tiles, s = index / x->n_kb / x->n_tiles;
    const int64_t k0 = kb * x->kc, kc = k_min(x->kc, x->depth - k0);
    int64_t t0;
    int lanes;
    float *packed = KT(tile_block)(x, s, tile, kb, &t0, &lanes);
    const float *src = x->x + (s * x->T + t0) * x->depth + k0;
    (void)worker;
#define K_PACK(how)                                                                                                    \
    for (int l = 0; l < lanes; l += SCBM_VL)                                                                           \
        for (int64_t k = 0; k < kc; k += SCBM_VL) {                                                                    \
            for (int i = 0; i < SCBM_VL; i++) /* as in pack_panel */                                                   \
                K_PREFETCH((uintptr_t)src + (size_t)((l + i) * x->depth + k + 4 * SCBM_VL) * 4);                       \
            KT(tr)(how, packed + k * lanes + l, lanes, src + l * x->depth + k, x->depth,                               \
                   (int)k_max(0, k_min(x->T - t0 - l, SCBM_VL)), (int)k_min(kc - k, SCBM_VL), SCBM_VL);              \
        }
    if (x->round) {
        K_PACK(KT(ROUNDED))
    } else {
        K_PACK(KT(AS_IS))
    }
#undef K_PACK
    for (int l = 0; l < x->gap * lanes; l += SCBM_VL) v_store(packed + kc * lanes + l, v_zero());
}

#define K_SP_EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define K_SP_LOAD(i) VF a##i = acc && i < nr * nv ? v_load(c + i * SCBM_VL) : v_zero();
#define K_SP_STORE(i) if (i < nr * nv) v_store(c + i * SCBM_VL, a##i);
#define K_SP_FMA(i) if (i < nr * nv && i / nv == row) a##i = v_fma(s, v_load(p + i % nv * SCBM_VL), a##i);
/* adds column k, times the weight of row r, to that row's sums */
#define K_SP_ADD(r, column, weight)                                                                                    \
    {                                                                                                                  \
        const int row = r;                                                                                             \
        const size_t k = column;                                                                                       \
        const VF s = v_set1(weight);                                                                                   \
        const float *p = x + k * (size_t)(nv * SCBM_VL);                                                               \
        K_SP_EACH(K_SP_FMA)                                                                                            \
    }
#define K_SP_STEP(r)                                                                                                   \
    {                                                                                                                  \
        K_SP_ADD(r, k_low_bit(m##r), w##r[k])                                                                          \
        m##r &= m##r - 1;                                                                                              \
    }
/* the same where the kept weights are side by side */
#define K_SP_KEPT(r)                                                                                                   \
    {                                                                                                                  \
        K_SP_ADD(r, k_low_bit(m##r), *w##r)                                                                            \
        w##r++;                                                                                                        \
        m##r &= m##r - 1;                                                                                              \
    }
/* walks the words m0 .. of nr rows */
#define K_SP_WALK(STEP)                                                                                                \
    if (nr == 4)                                                                                                       \
        while (m0 && m1 && m2 && m3) {                                                                                 \
            STEP(0) STEP(1) STEP(2) STEP(3)                                                                            \
        }                                                                                                              \
    if (nr == 2)                                                                                                       \
        while (m0 && m1) {                                                                                             \
            STEP(0) STEP(1)                                                                                            \
        }                                                                                                              \
    while (m0) STEP(0)                                                                                                 \
    while (nr > 1 && m1) STEP(1)                                                                                       \
    while (nr > 2 && m2) STEP(2)                                                                                       \
    while (nr > 3 && m3) STEP(3)
#define K_SP_WEIGHTS                                                                                                   \
    const float *w0 = w, *w1 = w + (nr > 1 ? ldw : 0), *w2 = w + (nr > 2 ? 2 * ldw : 0),                               \
                *w3 = w + (nr > 3 ? 3 * ldw : 0);
#define K_SP_WORD(r) uint64_t m##r = nr > r ? k_first_bits(k_mask_word(mask + r * mask_row), kc) : 0;

/* c[nr][nv vectors] (+)= nr rows of masked weights times x[kc][nv vectors]; nr nv is at most 8. */
KFN void KT(sparse_rows)(const int nr, const int nv, const float *w, int64_t ldw, const uint8_t *mask,
                         int64_t mask_row, int64_t kc, const float *x, float *c, int acc) {
    K_SP_WEIGHTS
    for (int r = 0; r < nr; r++)
        for (int64_t k = 0; k < kc; k += 16) K_PREFETCH((uintptr_t)w + (size_t)((4 + r) * ldw + k) * 4);
    K_SP_EACH(K_SP_LOAD)
    for (; kc > 0; kc -= 64, mask += 8, x += 64 * nv * SCBM_VL, w0 += 64, w1 += 64, w2 += 64, w3 += 64) {
        K_SP_WORD(0) K_SP_WORD(1) K_SP_WORD(2) K_SP_WORD(3)
        K_SP_WALK(K_SP_STEP)
    }
    K_SP_EACH(K_SP_STORE)
}

#define K_SP_BITS(r) uint64_t m##r = nr > r ? words[r] : 0;
#define K_SP_BEGIN(r, before) const float *w##r = w##before + (nr > r ? k_count_bits(m##before) : 0);

/* c[nr][nv vectors] (+)= the kept weights of nr rows and 64 columns times x[64][nv vectors]; returns what follows w. */
KFN const float *KT(kept_rows)(const int nr, const int nv, const uint64_t *words, const float *w, const float *x,
                               float *c, int acc) {
    K_SP_BITS(0) K_SP_BITS(1) K_SP_BITS(2) K_SP_BITS(3)
    const float *w0 = w;
    K_PREFETCH((uintptr_t)w + 1024);
    K_PREFETCH((uintptr_t)words + 512);
    K_SP_BEGIN(1, 0) K_SP_BEGIN(2, 1) K_SP_BEGIN(3, 2)
    K_SP_EACH(K_SP_LOAD)
    K_SP_WALK(K_SP_KEPT)
    K_SP_EACH(K_SP_STORE)
    return nr == 1 ? w0 : nr == 2 ? w1 : w3;
}

/* c[rows][lanes] (+)= kept weights times x[64][lanes]. Meanwhile `lines` cache lines a row of what is needed next, from `next`
 * to `end`, go into the second cache. */
typedef void (*KT(kept_product))(const uint64_t *words, const float *w, int64_t rows, const float *x, float *c, int acc,
                                 uintptr_t next, uintptr_t end, int64_t lines);

#define K_SP(nv, nr)                                                                                                   \
    KTASK void KT(kept_rows_##nv)(const uint64_t *words, const float *w, int64_t rows, const float *x, float *c,       \
                                  int acc, uintptr_t next, uintptr_t end, int64_t lines) {                             \
        int64_t i = 0;                                                                                                 \
        for (; i + nr <= rows; i += nr) {                                                                              \
            for (int64_t line = 0; line < nr * lines && next < end; line++, next += 64) K_PREFETCH_FAR(next);          \
            w = KT(kept_rows)(nr, nv, words + i, w, x, c + i * nv * SCBM_VL, acc);                                     \
        }                                                                                                              \
        for (; i < rows; i++) w = KT(kept_rows)(1, nv, words + i, w, x, c + i * nv * SCBM_VL, acc);                    \
    }
K_SP(1, 4) K_SP(2, 4) K_SP(3, 2) K_SP(4, 2) K_SP(5, 1) K_SP(6, 1) K_SP(7, 1) K_SP(8, 1)
#undef K_SP

static const KT(kept_product) KT(kept_products)[K_SP_VECTORS] = {
    KT(kept_rows_1), KT(kept_rows_2), KT(kept_rows_3), KT(kept_rows_4),
    KT(kept_rows_5), KT(kept_rows_6), KT(kept_rows_7), KT(kept_rows_8)};

/* A task puts the kept weights of 16 rows into their places. */
KTASK void KT(keep_weights)(void *arg, int64_t index, int worker) {
    const struct k_keep_run *r = arg;
    const struct k_kept *kept = r->kept;
    const int64_t n0 = index * 16, rows = k_min(16, kept->rows - n0), groups = k_ceil(kept->rows, 16);
    float block[16 * 64];
    (void)worker;
    for (int64_t kb = 0; kb < kept->n_kb; kb++) {
        KT(weight_rows)(block, 64, r->w, n0, rows, kb * 64, k_min(64, r->columns - kb * 64), 0);
        for (int64_t s = 0; s < kept->S; s++) {
            const uint64_t *words = kept->words + (s * kept->n_kb + kb) * kept->rows + n0;
            float *to = kept->values + kept->first[(s * kept->n_kb + kb) * groups + index];
            for (int64_t i = 0; i < rows; i++)
                for (uint64_t m = words[i]; m; m &= m - 1) *to++ = block[i * 64 + (int64_t)k_low_bit(m)];
        }
    }
}

/* c[rows][lanes] (+)= masked weights times x[kc][lanes] */
typedef void (*KT(sparse_product))(const float *w, int64_t ldw, const uint8_t *mask, int64_t mask_row, int64_t rows,
                                   int64_t kc, const float *x, float *c, int acc);

/* nr rows at a time, so that eight sums are on their way. */
#define K_SP(target, name, nv, nr)                                                                                     \
    static target void KT(name##_##nv)(const float *w, int64_t ldw, const uint8_t *mask, int64_t mask_row,             \
                                       int64_t rows, int64_t kc, const float *x, float *c, int acc) {                  \
        int64_t i = 0;                                                                                                 \
        for (; i + nr <= rows; i += nr)                                                                                \
            KT(name)(nr, nv, w + i * ldw, ldw, mask + i * mask_row, mask_row, kc, x, c + i * nv * SCBM_VL, acc);       \
        for (; i < rows; i++)                                                                                          \
            KT(name)(1, nv, w + i * ldw, ldw, mask + i * mask_row, mask_row, kc, x, c + i * nv * SCBM_VL, acc);        \
    }
K_SP(SCBM_TARGET, sparse_rows, 1, 4) K_SP(SCBM_TARGET, sparse_rows, 2, 4) K_SP(SCBM_TARGET, sparse_rows, 3, 2)
K_SP(SCBM_TARGET, sparse_rows, 4, 2) K_SP(SCBM_TARGET, sparse_rows, 5, 1) K_SP(SCBM_TARGET, sparse_rows, 6, 1)
K_SP(SCBM_TARGET, sparse_rows, 7, 1) K_SP(SCBM_TARGET, sparse_rows, 8, 1)

static const KT(sparse_product) KT(sparse_products)[K_SP_VECTORS] = {
    KT(sparse_rows_1), KT(sparse_rows_2), KT(sparse_rows_3), KT(sparse_rows_4),
    KT(sparse_rows_5), KT(sparse_rows_6), KT(sparse_rows_7), KT(sparse_rows_8)};

/* Columns n0 .. n0 + rows of W, rounded to bf16 or not, as rows of dst, kc columns of them from k0, ld apart; strip has room
 * for SCBM_VL rows of W. n0 is a multiple of 32. */
KFN void KT(transpose_weights)(float *dst, int64_t ld, const struct k_weights *w, int64_t n0, int64_t rows, int64_t k0,
                               int64_t kc, float *strip, int round) {
    for (int64_t k = 0; k < kc; k += SCBM_VL) {
        const int n = (int)k_min(kc - k, SCBM_VL);
        const float *src = strip;
        int64_t lds = K_SP_ROWS;
        if (w->type == SCBM_F32 && !round) {
            lds = w->row_bytes / 4;
            src = (const float *)w->data + (k0 + k) * lds + n0;
        } else {
            KT(weight_rows)(strip, lds, w, k0 + k, n, n0, rows, round);
        }
        for (int64_t i = 0; i < rows; i += SCBM_VL)
            KT(tr)(KT(AS_IS), dst + i * ld + k, ld, src + i, lds, n, (int)k_min(rows - i, SCBM_VL), SCBM_VL);
    }
}

/* The same for a mask plane: bit k of row i of dst, ld bytes apart, is bit n0 + i of row k0 + k. n0 is a multiple of
 * 64; dst's rows are filled up to 64 bits. */
KFN void KT(transpose_mask)(uint8_t *dst, int64_t ld, const uint8_t *mask, int64_t mask_row, int64_t n0, int64_t rows,
                            int64_t k0, int64_t kc) {
    for (int64_t k = 0; k < kc; k += 64)
        for (int64_t i = 0; i < rows; i += 64) {
            uint64_t b[64], keep = 0x00000000ffffffff;
            for (int j = 0; j < 64; j++)
                b[j] = k + j < kc ? k_mask_word(mask + (k0 + k + j) * mask_row + (n0 + i) / 8) : 0;
            for (int half = 32; half > 0; half >>= 1, keep ^= keep << half)
                for (int g = 0; g < 64; g += 2 * half)
                    for (int j = g; j < g + half; j++) {
                        const uint64_t t = (b[j] >> half ^ b[j + half]) & keep;
                        b[j] ^= t << half;
                        b[j + half] ^= t;
                    }
            for (int j = 0; j < 64 && i + j < rows; j++)
                for (int byte = 0; byte < 8; byte++) dst[(i + j) * ld + k / 8 + byte] = (uint8_t)(b[j] >> 8 * byte);
        }
}

/* The weights of rows n0 .. n0 + rows, kc columns from k0, as f32 rows ld apart. */
KFN void KT(copy_weights)(const struct k_sparse_run *r, float *dst, int64_t ld, int64_t n0, int64_t rows, int64_t k0,
                          int64_t kc, float *strip) {
    if (r->dx) KT(transpose_weights)(dst, ld, r->w, n0, rows, k0, kc, strip, r->x.round);
    else KT(weight_rows)(dst, ld, r->w, n0, rows, k0, kc, r->x.round);
}

/* A task copies K_SP_ROWS rows and K_SP_KC columns of the weights, and transposes the masks. */
KTASK void KT(sparse_prepare)(void *arg, int64_t index, int worker) {
    const struct k_sparse_run *r = arg;
    const int64_t n_kc = k_ceil(r->x.depth, K_SP_KC), k0 = index % n_kc * K_SP_KC, n0 = index / n_kc * K_SP_ROWS;
    const int64_t kc = k_min(K_SP_KC, r->x.depth - k0), rows = k_min(K_SP_ROWS, r->rows - n0);
    const int64_t ld = k_round(r->x.depth, 64);
    float *strip = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes);
    KT(copy_weights)(r, r->wt + n0 * ld + k0, ld, n0, rows, k0, kc, strip);
    for (int64_t s = 0; r->mt && s < r->S; s++)
        KT(transpose_mask)(r->mt + (s * r->rows + n0) * ld / 8 + k0 / 8, ld / 8, r->w->mask + s * r->w->mask_stream,
                           r->w->mask_row, n0, rows, k0, kc);
}

/* Where row k of the next layer's packed tile begins. With it come the zeros behind the last row of a block. */
KFN float *KT(out_row)(const struct k_tiles *x, int64_t s, int64_t tile, int64_t k, int64_t rows) {
    const int64_t kb = k / x->kc, end = k_min(x->depth, (kb + 1) * x->kc);
    int64_t t0;
    int lanes;
    float *block = KT(tile_block)(x, s, tile, kb, &t0, &lanes);
    if (k + rows == end)
        for (int64_t l = 0; l < x->gap * lanes; l += SCBM_VL) v_store(block + (end - kb * x->kc) * lanes + l, v_zero());
    return block + (k - kb * x->kc) * lanes;
}

/* Stores a tile's sums c[rows][lanes]. */
KFN void KT(sparse_end)(const struct k_sparse_run *r, float *c, int lanes, int64_t rows, int64_t s, int64_t n0,
                        int64_t tile, int64_t t0) {
    const int64_t nt = k_min(r->x.T - t0, lanes);
    for (int64_t i = 0; i < rows; i += SCBM_VL, c += SCBM_VL * lanes) {
        const int n = (int)k_min(rows - i, SCBM_VL);
        if (r->y)
            KT(linear_end)(r->y, c, lanes, n, s, n0 + i, t0,
                           r->out.packed ? KT(out_row)(&r->out, s, tile, n0 + i, n) : NULL);
        else
            KT(put_tile)(r->dx->dx + (s * r->x.T + t0) * r->rows + n0 + i, r->rows, c, lanes, n, nt, NULL);
    }
}

/* A task computes rows_task rows of a few tiles of one stream. */
KTASK void KT(sparse)(void *arg, int64_t index, int worker) {
    const struct k_sparse_run *r = arg;
    const struct k_tiles *x = &r->x;
    const int64_t s = index / r->n_tb / r->n_rb, first = index / r->n_tb % r->n_rb * r->rows_task;
    const int64_t tile0 = index % r->n_tb * r->tiles, tile1 = k_min(x->n_tiles, tile0 + r->tiles);
    const int64_t end = k_min(r->rows, first + r->rows_task), ld = k_round(x->depth, 64);
    const int64_t ldw = r->wt ? ld : r->w->row_bytes / 4, ldm = r->mt ? ld / 8 : r->w->mask_row;
    const float *w = r->wt ? r->wt : r->w->data;
    const uint8_t *mask = r->mt ? r->mt + s * r->rows * ldm : r->w->mask + s * r->w->mask_stream;
    const struct k_kept *kept = r->kept;
    const int64_t groups = k_ceil(r->rows, 16);
    float *sums = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes);
    for (int64_t n0 = first; n0 < end; n0 += r->nb) {
        const int64_t rows = k_min(r->nb, end - n0);
        for (int64_t kb = 0; kb < x->n_kb; kb++) {
            const int64_t k0 = kb * x->kc, kc = k_min(x->kc, x->depth - k0);
            float *c = sums;
            for (int64_t tile = tile0; tile < tile1; tile++) {
                int64_t t0, t_next;
                int lanes, lanes_next;
                const float *block = KT(tile_block)(x, s, tile, kb, &t0, &lanes);
                uintptr_t next = 0, next_end = 0;
                int64_t lines = 0;
                if (tile + 1 < tile1 || kb + 1 < x->n_kb) {
                    const int ends = tile + 1 == tile1;
                    next = (uintptr_t)KT(tile_block)(x, s, ends ? tile0 : tile + 1, kb + ends, &t_next, &lanes_next);
                    next_end = next + (size_t)(x->kc * lanes_next) * 4;
                    lines = k_ceil(x->kc * lanes_next, 16 * rows);
                }
                /* In the last block some rows are ended while their sums are in the first cache. */
                const int is_last = kb == x->n_kb - 1;
                const int64_t some = is_last ? K_SP_END : rows;
                for (int64_t n = n0; n < n0 + rows; n += some) {
                    const int64_t n_rows = k_min(some, n0 + rows - n);
                    float *at = c + (n - n0) * lanes;
                    if (kept) {
                        const int64_t b = s * x->n_kb + kb;
                        KT(kept_products)[lanes / SCBM_VL - 1](kept->words + b * kept->rows + n,
                                                               kept->values + kept->first[b * groups + n / 16], n_rows,
                                                               block, at, kb > 0,
                                                               next + (size_t)((n - n0) * lines) * 64, next_end, lines);
                    } else {
                        KT(sparse_products)[lanes / SCBM_VL - 1](w + n * ldw + k0, ldw, mask + n * ldm + k0 / 8, ldm,
                                                                 n_rows, kc, block, at, kb > 0);
                    }
                    if (is_last) KT(sparse_end)(r, at, lanes, n_rows, s, n, tile, t0);
                }
                c += r->nb * lanes;
            }
        }
    }
}

#ifdef SCBM_TARGET_VBMI2

/* For few tokens (one text) a word's loop is too short for its beginning and end, where the processor guesses wrong. So
 * the words of a block become a list of offsets, and the rows of a group, whose lists are filled up to the longest with
 * the offset kc, take one loop: x has a row of zeros there, and w a zero. */

/* The offsets of a mask's set bits among kc; returns how many. Writes 64 bytes more. */
K_INLINE SCBM_TARGET_VBMI2 int64_t KT(bit_list)(uint8_t *list, const uint8_t *mask, int64_t kc) {
    const __m512i quad = _mm512_setr_epi32(0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c, 0x13121110, 0x17161514,
                                           0x1b1a1918, 0x1f1e1d1c, 0x23222120, 0x27262524, 0x2b2a2928, 0x2f2e2d2c,
                                           0x33323130, 0x37363534, 0x3b3a3938, 0x3f3e3d3c);
    int64_t n = 0;
    for (int64_t k = 0; k < kc; k += 64) {
        const uint64_t m = k_first_bits(k_mask_word(mask + k / 8), kc - k);
        const __m512i offsets = _mm512_add_epi8(quad, _mm512_set1_epi8((char)k));
        _mm512_storeu_si512(list + n, _mm512_maskz_compress_epi8(m, offsets));
        n += (int64_t)_mm_popcnt_u64(m);
    }
    return n;
}

#define K_SP_LIST(r)                                                                                                   \
    if (nr > r) {                                                                                                      \
        const int64_t length = KT(bit_list)(list[r], mask + r * mask_row, kc);                                         \
        _mm512_storeu_si512(list[r] + length, fill);                                                                   \
        end[r] = length + 64;                                                                                          \
        n = k_max(n, length);                                                                                          \
    }
#define K_SP_FOUR(r)                                                                                                   \
    uint32_t q##r = 0;                                                                                                 \
    if (nr > r) memcpy(&q##r, list[r] + i, 4);
#define K_SP_ONE(r, j) if (nr > r) K_SP_ADD(r, q##r >> 8 * j & 255, w##r[k])
#define K_SP_ONES(j) K_SP_ONE(0, j) K_SP_ONE(1, j) K_SP_ONE(2, j) K_SP_ONE(3, j)

/* As sparse_rows; kc is below 256, w[kc] and x[kc] are zero. */
K_INLINE SCBM_TARGET_VBMI2 void KT(sparse_lists)(const int nr, const int nv, const float *w, int64_t ldw,
                                                 const uint8_t *mask, int64_t mask_row, int64_t kc, const float *x,
                                                 float *c, int acc) {
    const __m512i fill = _mm512_set1_epi8((char)kc);
    uint8_t list[4][K_SP_LIST + 128];
    int64_t n = 0, end[4];
    K_SP_WEIGHTS
    K_SP_LIST(0) K_SP_LIST(1) K_SP_LIST(2) K_SP_LIST(3)
    for (int r = 0; r < nr; r++)
        for (int64_t i = end[r]; i < n + 3; i += 64) _mm512_storeu_si512(list[r] + i, fill);
    K_SP_EACH(K_SP_LOAD)
    for (int64_t i = 0; i < n; i += 4) {
        K_SP_FOUR(0) K_SP_FOUR(1) K_SP_FOUR(2) K_SP_FOUR(3)
        K_SP_ONES(0) K_SP_ONES(1) K_SP_ONES(2) K_SP_ONES(3)
    }
    K_SP_EACH(K_SP_STORE)
}

K_SP(SCBM_TARGET_VBMI2, sparse_lists, 1, 4) K_SP(SCBM_TARGET_VBMI2, sparse_lists, 2, 4)

/* Asks for part of `parts` of a block of weights, rows n0 .. n0 + rows and kc columns from k0, before it is copied. */
KFN void KT(prefetch_weights)(const struct k_sparse_run *r, int64_t n0, int64_t rows, int64_t k0, int64_t kc,
                              int64_t part, int64_t parts) {
    const struct k_weights *w = r->w;
    const int64_t row0 = r->dx ? k0 : n0, n = r->dx ? kc : rows, col0 = r->dx ? n0 : k0, cols = r->dx ? rows : kc;
    for (int64_t i = row0 + n * part / parts; i < row0 + n * (part + 1) / parts; i++)
        for (int64_t b = k_row_bytes(w->type, col0); b < k_row_bytes(w->type, col0 + cols); b += 64)
            K_PREFETCH((uintptr_t)w->data + (size_t)(i * w->row_bytes + b));
}

/* A task computes nb rows for the few tokens of all streams. The weights come from memory once, as f32. */
static SCBM_TARGET_VBMI2 void KT(sparse_few)(void *arg, int64_t index, int worker) {
    const struct k_sparse_run *r = arg;
    const struct k_tiles *x = &r->x;
    const int64_t n0 = index * r->nb, rows = k_min(r->nb, r->rows - n0), ldw = K_SP_LIST + 16;
    const int64_t ldm = r->dx ? K_SP_LIST / 8 : r->w->mask_row, n_strips = k_ceil(rows, SCBM_VL);
    float *strip = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *w = strip + SCBM_VL * K_SP_ROWS;
    float *sums = w + K_SP_ROWS * ldw;
    uint8_t *mt = (uint8_t *)(sums + r->S * r->nb * 2 * SCBM_VL);
    for (int64_t kb = 0; kb < x->n_kb; kb++) {
        const int64_t k0 = kb * x->kc, kc = k_min(x->kc, x->depth - k0), next = k_min(x->kc, x->depth - k0 - kc);
        KT(copy_weights)(r, w, ldw, n0, rows, k0, kc, strip);
        for (int64_t i = 0; i < rows; i++) w[i * ldw + kc] = 0.0f;
        for (int64_t s = 0; s < r->S; s++) {
            const uint8_t *plane = r->w->mask + s * r->w->mask_stream, *mask = plane + n0 * ldm + k0 / 8;
            int64_t t0;
            int lanes;
            const float *block = KT(tile_block)(x, s, 0, kb, &t0, &lanes);
            float *c = sums + s * r->nb * lanes;
            if (r->dx) {
                KT(transpose_mask)(mt, ldm, plane, r->w->mask_row, n0, rows, k0, kc);
                mask = mt;
            }
            for (int64_t i = 0; i < n_strips; i++) {
                const int64_t at = i * SCBM_VL, n = k_min(rows - at, SCBM_VL);
                const KT(sparse_product) product = lanes > SCBM_VL ? KT(sparse_lists_2) : KT(sparse_lists_1);
                KT(prefetch_weights)(r, n0, rows, k0 + kc, next, s * n_strips + i, r->S * n_strips);
                product(w + at * ldw, ldw, mask + at * ldm, ldm, n, kc, block, c + at * lanes, kb > 0);
            }
            if (kb == x->n_kb - 1) KT(sparse_end)(r, c, lanes, rows, s, n0, 0, t0);
        }
    }
}

#undef K_SP_LIST
#undef K_SP_FOUR
#undef K_SP_ONE
#undef K_SP_ONES
#endif
#undef K_SP

#if SCBM_VL >= 8
/* c[4][nv vectors] (+)= a list of n entries times x[kc + 1][nv vectors]. */
KFN void KT(listed_rows)(const int nv, const float *w, const uint8_t *columns, int64_t n, const float *x, float *c, int acc) {
    const int nr = 4;
    K_SP_EACH(K_SP_LOAD)
    for (; n > 0; n--, w += 4, columns += 4) {
        uint32_t q;
        memcpy(&q, columns, 4);
        K_PREFETCH((uintptr_t)w + 2048);
        K_SP_ADD(0, q & 255, w[0]) K_SP_ADD(1, q >> 8 & 255, w[1])
        K_SP_ADD(2, q >> 16 & 255, w[2]) K_SP_ADD(3, q >> 24, w[3])
    }
    K_SP_EACH(K_SP_STORE)
}

/* c[2][nv vectors], two of the list's four rows: `begin` and the next. */
KFN void KT(listed_pair)(const int nv, const int begin, const float *w, const uint8_t *columns, int64_t n, const float *x,
                         float *c, int acc) {
    const int nr = 2;
    K_SP_EACH(K_SP_LOAD)
    for (w += begin, columns += begin; n > 0; n--, w += 4, columns += 4) {
        uint16_t q;
        memcpy(&q, columns, 2);
        if (!begin && !(n & 3)) K_PREFETCH((uintptr_t)w + 2048);
        K_SP_ADD(0, q & 255, w[0]) K_SP_ADD(1, q >> 8, w[1])
    }
    K_SP_EACH(K_SP_STORE)
}

/* A group of lists times a tile of so many lanes, K_SP_FEW at most. */
KFN void KT(listed_group)(int lanes, const float *w, const uint8_t *columns, int64_t n, const float *x, float *c, int acc) {
#define K_EACH(nv)                                                                                                     \
    KT(listed_pair)(nv, 0, w, columns, n, x, c, acc);                                                                  \
    KT(listed_pair)(nv, 2, w, columns, n, x, c + 2 * nv * SCBM_VL, acc);
    switch (lanes / SCBM_VL) {
    case 1: KT(listed_rows)(1, w, columns, n, x, c, acc); break;
    case 2: KT(listed_rows)(2, w, columns, n, x, c, acc); break;
#if SCBM_VL == 8
    case 3: K_EACH(3) break;
    default: K_EACH(4)
#endif
    }
#undef K_EACH
}

/* A task computes nb rows of one stream. */
KTASK void KT(sparse_listed)(void *arg, int64_t index, int worker) {
    const struct k_sparse_run *r = arg;
    const struct k_tiles *x = &r->x;
    const struct k_lists *lists = r->lists;
    const int64_t n_rb = k_ceil(r->rows, r->nb), s = index / n_rb, n0 = index % n_rb * r->nb;
    const int64_t rows = k_min(r->nb, r->rows - n0), groups = k_ceil(r->rows, 4);
    float *sums = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes);
    for (int64_t kb = 0; kb < x->n_kb; kb++) {
        float *c = sums;
        for (int64_t tile = 0; tile < x->n_tiles; tile++, c += r->nb * K_SP_FEW) {
            const int64_t *first = lists->first + (s * lists->n_kb + kb) * groups + n0 / 4;
            int64_t t0;
            int lanes;
            const float *block = KT(tile_block)(x, s, tile, kb, &t0, &lanes);
            for (int64_t i = 0; i < rows; i += 4, first++) {
                const float *w = lists->values + 4 * first[0];
                const uint8_t *columns = lists->columns + 4 * first[0];
                const int64_t n = first[1] - first[0];
                KT(listed_group)(lanes, w, columns, n, block, c + i * lanes, kb > 0);
            }
            if (kb == x->n_kb - 1) KT(sparse_end)(r, c, lanes, rows, s, n0, tile, t0);
        }
    }
}

/* A task makes the lists of 16 rows. */
KTASK void KT(list_weights)(void *arg, int64_t index, int worker) {
    const struct k_keep_run *r = arg;
    const struct k_lists *lists = r->lists;
    const int64_t n0 = index * 16, rows = k_min(16, lists->rows - n0), groups = k_ceil(lists->rows, 4);
    float block[16 * K_SP_LIST];
    (void)worker;
    for (int64_t kb = 0; kb < lists->n_kb; kb++) {
        const int64_t k0 = kb * lists->kc, kc = k_min(lists->kc, r->columns - k0);
        KT(weight_rows)(block, K_SP_LIST, r->w, n0, rows, k0, kc, 0);
        for (int64_t s = 0; s < lists->S; s++)
            for (int64_t i = 0; i < k_round(rows, 4); i++) {
                const int64_t *first = lists->first + (s * lists->n_kb + kb) * groups + (n0 + i) / 4;
                const uint8_t *mask = r->w->mask + s * r->w->mask_stream + (n0 + i) * r->w->mask_row + k0 / 8;
                int64_t to = 4 * first[0] + i % 4;
                for (int64_t k = 0; k < kc && i < rows; k += 64)
                    for (uint64_t m = k_first_bits(k_mask_word(mask + k / 8), kc - k); m; m &= m - 1, to += 4) {
                        const int64_t column = k + (int64_t)k_low_bit(m);
                        lists->values[to] = block[i * K_SP_LIST + column];
                        lists->columns[to] = (uint8_t)column;
                    }
                for (; to < 4 * first[1]; to += 4) {
                    lists->values[to] = 0.0f;
                    lists->columns[to] = (uint8_t)kc;
                }
            }
    }
}
#endif

/* The masked dW is computed weight by weight: dy[n] of a tile stays in registers, and each kept weight takes its dot
 * product with a column of x. Four at a time, because then the lanes are summed cheaply. */

/* The sums of the lanes of each of four vectors. */
KFN void KT(sum4)(float *sums, VF a, VF b, VF c, VF d) {
#if SCBM_VL == 16
    const __m512 ab = v_add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = v_add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 abcd = v_add(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif SCBM_VL == 8
    const __m256 ab = v_add(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = v_add(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256 abcd = v_add(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
#else
    sums[0] = v_sum(a), sums[1] = v_sum(b), sums[2] = v_sum(c), sums[3] = v_sum(d);
#endif
}

#define K_SP_DY(i) const VF d##i = i < nv ? v_load(dy + i * SCBM_VL) : v_zero();
#define K_SP_DOT(j, i) if (i < nv) b##j = v_fma(d##i, v_load(p##j + i * SCBM_VL), b##j);
/* the next kept weight; behind the last one a spare sum */
#define K_SP_NEXT(j)                                                                                                   \
    const uint64_t none##j = left == 0;                                                                                \
    const size_t at##j = k_low_bit(left | none##j);                                                                    \
    const float *p##j = block + at##j * (size_t)(nv * SCBM_VL);                                                        \
    VF b##j = v_mul(d0, v_load(p##j));                                                                                 \
    left &= left - 1;                                                                                                  \
    to[j] = none##j ? &spare : dw + k + at##j;                                                                         \
    K_SP_DOT(j, 1) K_SP_DOT(j, 2) K_SP_DOT(j, 3) K_SP_DOT(j, 4) K_SP_DOT(j, 5) K_SP_DOT(j, 6) K_SP_DOT(j, 7)

/* dw[rows][kc], rows ld apart, += dy[rows][nv vectors] x[kc][nv vectors]^T where the mask is set. */
KFN void KT(sampled_rows)(const int nv, float *dw, int64_t ld, const float *dy, const float *x, const uint8_t *mask,
                          int64_t mask_row, int64_t rows, int64_t kc) {
    for (; rows > 0; rows--, dw += ld, dy += nv * SCBM_VL, mask += mask_row) {
        K_SP_EACH(K_SP_DY)
        for (int64_t k = 0; k < kc; k += 64) {
            const float *block = x + k * nv * SCBM_VL;
            for (uint64_t left = k_first_bits(k_mask_word(mask + k / 8), kc - k); left;) {
                float sums[4], spare = 0.0f, *to[4];
                K_SP_NEXT(0) K_SP_NEXT(1) K_SP_NEXT(2) K_SP_NEXT(3)
                KT(sum4)(sums, b0, b1, b2, b3);
                for (int j = 0; j < 4; j++) *to[j] += sums[j];
            }
        }
    }
}

typedef void (*KT(sampled_product))(float *dw, int64_t ld, const float *dy, const float *x, const uint8_t *mask,
                                    int64_t mask_row, int64_t rows, int64_t kc);

#define K_SP(nv)                                                                                                       \
    KTASK void KT(sampled_rows_##nv)(float *dw, int64_t ld, const float *dy, const float *x, const uint8_t *mask,      \
                                     int64_t mask_row, int64_t rows, int64_t kc) {                                     \
        KT(sampled_rows)(nv, dw, ld, dy, x, mask, mask_row, rows, kc);                                                 \
    }
K_SP(1) K_SP(2) K_SP(3) K_SP(4) K_SP(5) K_SP(6) K_SP(7) K_SP(8)
#undef K_SP

static const KT(sampled_product) KT(sampled_products)[K_SP_VECTORS] = {
    KT(sampled_rows_1), KT(sampled_rows_2), KT(sampled_rows_3), KT(sampled_rows_4),
    KT(sampled_rows_5), KT(sampled_rows_6), KT(sampled_rows_7), KT(sampled_rows_8)};

/* A task computes nb rows and kb_task blocks of columns of dW, over all streams or of one. */
KTASK void KT(sparse_dw)(void *arg, int64_t index, int worker) {
    const struct k_sparse_dw_run *r = arg;
    const struct k_linear_dw_args *a = &r->a;
    const struct k_tiles *x = &r->x;
    const int64_t n0 = index / r->n_cb % r->n_nb * r->nb, rows = k_min(r->nb, a->N - n0);
    const int64_t kb0 = index % r->n_cb * r->kb_task, kb1 = k_min(x->n_kb, kb0 + r->kb_task);
    const int64_t first = kb0 * x->kc, columns = k_min(a->K, kb1 * x->kc) - first;
    const int summed = a->mode == SCBM_DW_SUMMED;
    const int64_t s0 = summed ? 0 : index / r->n_cb / r->n_nb, s1 = summed ? a->S : s0 + 1;
    float *dw = a->dw + ((summed ? 0 : s0) * a->N + n0) * a->K;
    (void)worker;
    for (int64_t i = 0; i < rows; i++) memset(dw + i * a->K + first, 0, (size_t)columns * sizeof *dw);
    for (int64_t s = s0; s < s1; s++)
        for (int64_t tile = 0; tile < x->n_tiles; tile++)
            for (int64_t kb = kb0; kb < kb1; kb++) {
                const uint8_t *mask = a->mask + s * a->mask_stream + n0 * a->mask_row + kb * x->kc / 8;
                int64_t t0;
                int lanes;
                const float *block = KT(tile_block)(x, s, tile, kb, &t0, &lanes);
                const float *dy = KT(tile_block)(&r->dy, s, tile, 0, &t0, &lanes) + n0 * lanes;
                KT(sampled_products)[lanes / SCBM_VL - 1](dw + kb * x->kc, a->K, dy, block, mask, a->mask_row, rows,
                                                          k_min(x->kc, a->K - kb * x->kc));
            }
}

#undef K_SP_EACH
#undef K_SP_LOAD
#undef K_SP_STORE
#undef K_SP_FMA
#undef K_SP_ADD
#undef K_SP_STEP
#undef K_SP_KEPT
#undef K_SP_WALK
#undef K_SP_BITS
#undef K_SP_BEGIN
#undef K_SP_WEIGHTS
#undef K_SP_WORD
#undef K_SP_DY
#undef K_SP_DOT
#undef K_SP_NEXT
/* clang-format on */

/* ---- Attention ---- */

/* Finds the text and the query chunk of a task. */
static void KT(attention_where)(const struct k_attention_run *r, int64_t chunk, int64_t *text, int64_t *first) {
    int64_t lo = 0, hi = r->a.n_texts;
    while (hi - lo > 1) { /* chunk_of[lo] <= chunk < chunk_of[hi] */
        const int64_t mid = (lo + hi) / 2;
        if (r->chunk_of[mid] <= chunk) lo = mid;
        else hi = mid;
    }
    *text = lo;
    *first = (chunk - r->chunk_of[lo]) * K_ATT_CHUNK;
}

/* Factors 0 or 1 / (1 - p) of four query tokens 4g .. 4g + 3 and n keys, ld apart. */
KTASK void KT(attention_drop)(float *drop, int64_t ld, int64_t n, const struct k_dropout_args *d, int64_t g,
                              int64_t sh) {
    const VI limit = vi_set1((uint32_t)((double)d->p * 4294967296.0));
    const VF scale = v_set1(1.0f / (1.0f - d->p));
    for (int64_t j = 0; j < n; j += SCBM_VL) {
        VI c[4];
        c[0] = vi_add(vi_iota(), vi_set1((uint32_t)j));
        c[1] = vi_set1((uint32_t)g);
        c[2] = vi_set1(d->op << 16 | (uint32_t)sh);
        c[3] = vi_set1(d->step);
        KT(philox)(c, d->seed);
        for (int w = 0; w < 4; w++) v_store(drop + w * ld + j, v_keep(vi_geu(c[w], limit), scale));
    }
}

/* The biases of one head by distance, those of a text of `len` tokens: of key j and query i at len - 1 + j - i. Vectors may
 * be read past the last one: NULL where there is no bias. */
KFN const float *KT(attention_distances)(float *scratch, const struct k_attention_args *a, int64_t h, int64_t len) {
    const float *first = a->bias ? a->bias + (a->reach - (len - 1)) * a->H + h : NULL;
    if (!first) return NULL;
    for (int64_t i = 0; i < 2 * len - 1; i++) scratch[i] = first[i * a->H];
    memset(scratch + 2 * len - 1, 0, 32 * sizeof(float));
    return scratch;
}

/* Scores of a tile of query rows: s[mr][ld] = scale q k^T over n keys, with the biases of their distances (or NULL),
 * -infinity in the lanes past them and, if causal, in the keys after the query. */
KTASK void KT(attention_scores)(float *s, int64_t ld, int mr, const struct k_attention_args *a, const float *q,
                                const float *kt, int64_t len, int64_t n, int64_t i0, const float *bias) {
    const VF scale = v_set1(a->scale);
    int lanes;
    for (int64_t j = 0; j < n; j += lanes) {
        lanes = KT(lanes)(len - j);
        KT(gemm)(mr, lanes, a->D, kt + j * a->D, lanes, q, a->ld, 1, s + j, ld, 0);
    }
    for (int i = 0; i < mr; i++) {
        float *row = s + i * ld;
        const int64_t m = a->causal ? k_min(n, i0 + i + 1) : n;
        for (int64_t j = 0; j < n; j += SCBM_VL) {
            const VM seen = v_lt(v_to_f(vi_iota()), v_set1((float)(m - j)));
            VF score = v_mul(v_load(row + j), scale);
            if (bias) score = v_add(score, v_load(bias + len - 1 - (i0 + i) + j));
            v_store(row + j, v_sel(seen, score, v_set1(-INFINITY)));
        }
    }
}

/* Softmax of a row of scores without its last division: p = exp(s - max); returns the sum. */
KFN float KT(attention_exp)(float *row, int64_t n, float *max) {
    VF m = v_set1(-INFINITY), sum = v_zero(), mv;
    for (int64_t j = 0; j < n; j += SCBM_VL) m = v_max(m, v_load(row + j));
    *max = v_maxall(m);
    if (*max == -INFINITY) *max = 0.0f;
    mv = v_set1(*max);
    for (int64_t j = 0; j < n; j += SCBM_VL) {
        const VF p = KT(exp)(v_sub(v_load(row + j), mv));
        sum = v_add(sum, p);
        v_store(row + j, p);
    }
    return v_sum(sum);
}

/* Of n rows, 16 at most: what their sums are divided by becomes what p is multiplied with, 0 where no key was seen; lse (or
 * NULL) receives max + log sum. */
KFN void KT(attention_sums)(float *sums, const float *max, int n, float *lse) {
    for (int j = 0; j < n; j += SCBM_VL) {
        const VF sum = v_load_n(sums + j, n - j);
        const VM none = v_lt(sum, v_set1(0x1p-126f)); /* not where it is no number */
        v_store_n(sums + j, v_sel(none, v_zero(), v_div(v_set1(1.0f), sum)), n - j);
        if (lse) {
            const VF log = v_add(KT(log)(sum), v_sub(sum, sum)); /* no number stays none */
            v_store_n(lse + j, v_sel(none, v_set1(-INFINITY), v_add(v_load_n(max + j, n - j), log)), n - j);
        }
    }
}

/* Rows [n][D], ld apart, as something that a tile can take whole vectors of: in place where D allows it. */
KFN const float *KT(attention_rows)(float *scratch, const float *x, int64_t ld, int64_t n, int64_t D, int64_t *ld_out) {
    const int64_t dp = KT(padded)(D);
    if (dp == D) {
        *ld_out = ld;
        return x;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < dp; d += SCBM_VL)
            v_store_n(scratch + i * dp + d, v_load_n(x + i * ld + d, k_max(0, D - d)), dp - d);
    *ld_out = dp;
    return scratch;
}

KFN void KT(pack_all)(float *xp, const float *x, int64_t ld, int64_t n, int64_t D) {
    int lanes;
    for (int64_t j = 0; j < n; j += lanes) {
        lanes = KT(lanes)(n - j);
        KT(pack_panel)(KT(AS_IS), xp + j * D, lanes, x + j * ld, ld, n - j, D);
    }
}

/* The next tile's rows, so that 25 rows are 9 + 8 + 8 and not 12 + 12 + 1. */
KFN int KT(tile_rows)(int64_t rest) {
    return (int)k_ceil(rest, k_ceil(rest, SCBM_MR));
}

/* A task: one stream and head, up to K_ATT_CHUNK query rows of one text. */
KTASK void KT(attention)(void *arg, int64_t index, int worker) {
    const struct k_attention_run *r = arg;
    const struct k_attention_args *a = &r->a;
    const int64_t h = index % a->H, s = index / a->H / r->n_chunks, sh = s * a->H + h, D = a->D;
    int64_t text, i0, len, t0, i1, ld_v, ld, group = -1;
    const int64_t P = k_round(a->max_len, 32), dp = KT(padded)(D);
    float *kt = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *vs = kt + P * D;
    float *sc = vs + P * k_round(D, 32), *out = sc + K_MR_MAX * P, *drop = out + K_MR_MAX * k_round(D, 32);
    const float *v, *bias;
    int mr;
    KT(attention_where)(r, index / a->H % r->n_chunks, &text, &i0);
    t0 = a->offsets[text];
    len = a->offsets[text + 1] - t0;
    i1 = k_min(len, i0 + K_ATT_CHUNK);
    ld = k_round(len, 32);
    KT(pack_all)(kt, a->k + (s * a->T + t0) * a->ld + h * D, a->ld, len, D);
    v = KT(attention_rows)(vs, a->v + (s * a->T + t0) * a->ld + h * D, a->ld, len, D, &ld_v);
    bias = KT(attention_distances)(drop + 4 * P, a, h, len);
    for (int64_t i = i0; i < i1; i += mr) {
        const float *q = a->q + (s * a->T + t0 + i) * a->ld + h * D;
        float sums[16], tops[16]; /* room for whole vectors */
        int64_t n;
        int lanes;
        mr = KT(tile_rows)(i1 - i);
        n = a->causal ? k_min(len, i + mr) : len;
        KT(attention_scores)(sc, ld, mr, a, q, kt, len, n, i, bias);
        for (int j = 0; j < mr; j++) {
            float *row = sc + j * ld;
            sums[j] = KT(attention_exp)(row, n, tops + j);
            if (a->dropout.p > 0.0f) {
                const int64_t t = t0 + i + j;
                if (t / 4 != group) KT(attention_drop)(drop, P, len, &a->dropout, group = t / 4, sh);
                for (int64_t l = 0; l < n; l += SCBM_VL)
                    v_store(row + l, v_mul(v_load(row + l), v_load(drop + (t & 3) * P + l)));
            }
        }
        KT(attention_sums)(sums, tops, mr, a->lse ? a->lse + sh * a->T + t0 + i : NULL);
        for (int64_t d = 0; d < D; d += lanes) {
            lanes = KT(lanes)(D - d);
            KT(gemm)(mr, lanes, n, v + d, ld_v, sc, ld, 1, out + d, dp, 0);
        }
        for (int j = 0; j < mr; j++) {
            float *y = a->y + (s * a->T + t0 + i + j) * a->ld + h * D;
            for (int64_t d = 0; d < D; d += SCBM_VL)
                v_store_n(y + d, v_mul(v_load_n(out + j * dp + d, dp - d), v_set1(sums[j])), D - d);
        }
    }
}

/* Copies accumulators [n][dp] to rows ld apart. */
KFN void KT(attention_put)(float *dst, int64_t ld, const float *src, int64_t dp, int64_t n, int64_t D) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < D; d += SCBM_VL) v_store_n(dst + i * ld + d, v_load_n(src + i * dp + d, dp - d), D - d);
}

/* A task: one stream, text and head. With P the probabilities (recomputed from lse), R the dropout's factors and
 * dP = R . (dy v^T): dS = P . (dP - sum(dy . y)) scale; dq = dS k, dk = dS^T q, dv = (R . P)^T dy. A bias's gradient is
 * dS / scale, summed over the pairs of one distance. */
KTASK void KT(attention_back)(void *arg, int64_t index, int worker) {
    const struct k_attention_run *r = arg;
    const struct k_attention_args *a = &r->a;
    const int64_t h = index % a->H, text = index / a->H % a->n_texts, s = index / a->H / a->n_texts, sh = s * a->H + h,
                  D = a->D;
    const int64_t t0 = a->offsets[text], len = a->offsets[text + 1] - t0, ld = k_round(len, 32);
    const int64_t P = k_round(a->max_len, 32), dp = KT(padded)(D), DP = k_round(D, 32), st = s * a->T + t0;
    float *kt = (float *)(void *)(r->worker + (size_t)worker * r->worker_bytes), *vt = kt + P * D;
    float *qs = vt + P * D, *ks = qs + P * DP, *dys = ks + P * DP, *dk = dys + P * DP, *dv = dk + P * DP;
    float *pr = dv + P * DP, *ds = pr + K_ATT_ROWS * P, *out = ds + K_ATT_ROWS * P, *drop = out + K_MR_MAX * DP;
    float *db = drop + 4 * P + 2 * P + 32;
    int64_t ld_q, ld_k, ld_dy, group = -1;
    const float *q, *k, *dy, *bias;
    int lanes;
    if (len == 0) return;
    bias = KT(attention_distances)(drop + 4 * P, a, h, len);
    if (bias) memset(db, 0, (size_t)(2 * len + 31) * sizeof(float));
    KT(pack_all)(kt, a->k + st * a->ld + h * D, a->ld, len, D);
    KT(pack_all)(vt, a->v + st * a->ld + h * D, a->ld, len, D);
    q = KT(attention_rows)(qs, a->q + st * a->ld + h * D, a->ld, len, D, &ld_q);
    k = KT(attention_rows)(ks, a->k + st * a->ld + h * D, a->ld, len, D, &ld_k);
    dy = KT(attention_rows)(dys, a->dy + st * a->ld + h * D, a->ld, len, D, &ld_dy);
    for (int64_t i0 = 0; i0 < len; i0 += K_ATT_ROWS) {
        const int64_t rows = k_min(K_ATT_ROWS, len - i0), n = a->causal ? i0 + rows : len;
        int mr;
        for (int64_t i = 0; i < rows; i += mr) {
            mr = KT(tile_rows)(rows - i);
            KT(attention_scores)
            (pr + i * ld, ld, mr, a, a->q + (st + i0 + i) * a->ld + h * D, kt, len, n, i0 + i, bias);
            for (int64_t j = 0; j < n; j += lanes) {
                lanes = KT(lanes)(len - j);
                KT(gemm)
                (mr, lanes, D, vt + j * D, lanes, a->dy + (st + i0 + i) * a->ld + h * D, a->ld, 1, ds + i * ld + j, ld,
                 0);
            }
        }
        for (int64_t i = 0; i < rows; i++) {
            const int64_t t = t0 + i0 + i;
            const float *yi = a->y + (st + i0 + i) * a->ld + h * D, *dyi = a->dy + (st + i0 + i) * a->ld + h * D;
            float *p = pr + i * ld, *g = ds + i * ld;
            float lse = a->lse[sh * a->T + t];
            VF sum = v_zero(), lv, delta;
            const VF scale = v_set1(a->scale);
            if (lse == -INFINITY) lse = 0.0f; /* no key at all: every p is 0 */
            lv = v_set1(lse);
            for (int64_t d = 0; d < D; d += SCBM_VL)
                sum = v_fma(v_load_n(yi + d, D - d), v_load_n(dyi + d, D - d), sum);
            delta = v_set1(v_sum(sum));
            if (a->dropout.p > 0.0f && t / 4 != group) KT(attention_drop)(drop, P, len, &a->dropout, group = t / 4, sh);
            if (bias) {
                float *to = db + len - 1 - (i0 + i);
                const float *f = a->dropout.p > 0.0f ? drop + (t & 3) * P : NULL;
                for (int64_t j = 0; j < n; j += SCBM_VL) {
                    const VF e = KT(exp)(v_sub(v_load(p + j), lv));
                    const VF dp_j = f ? v_mul(v_load(g + j), v_load(f + j)) : v_load(g + j);
                    v_store(to + j, v_fma(e, v_sub(dp_j, delta), v_load(to + j)));
                }
            }
            if (a->dropout.p > 0.0f) {
                const float *f = drop + (t & 3) * P;
                for (int64_t j = 0; j < n; j += SCBM_VL) {
                    const VF e = KT(exp)(v_sub(v_load(p + j), lv)), fj = v_load(f + j);
                    v_store(g + j, v_mul(v_mul(e, scale), v_sub(v_mul(v_load(g + j), fj), delta)));
                    v_store(p + j, v_mul(e, fj));
                }
            } else {
                for (int64_t j = 0; j < n; j += SCBM_VL) {
                    const VF e = KT(exp)(v_sub(v_load(p + j), lv));
                    v_store(g + j, v_mul(v_mul(e, scale), v_sub(v_load(g + j), delta)));
                    v_store(p + j, e);
                }
            }
        }
        for (int64_t i = 0; i < rows; i += mr) {
            mr = KT(tile_rows)(rows - i);
            for (int64_t d = 0; d < D; d += lanes) {
                lanes = KT(lanes)(D - d);
                KT(gemm)(mr, lanes, n, k + d, ld_k, ds + i * ld, ld, 1, out + d, dp, 0);
            }
            KT(attention_put)(a->dq + (st + i0 + i) * a->ld + h * D, a->ld, out, dp, mr, D);
        }
        for (int64_t j = 0; j < len; j += mr) {
            mr = KT(tile_rows)(len - j);
            if (j >= n) { /* causal: keys that no query has seen yet */
                if (i0 == 0) {
                    memset(dk + j * dp, 0, (size_t)(mr * dp) * sizeof(float));
                    memset(dv + j * dp, 0, (size_t)(mr * dp) * sizeof(float));
                }
                continue;
            }
            if (j + mr > n) /* the tile's last keys lie after these queries */
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t l = n; l < j + mr; l++) pr[i * ld + l] = ds[i * ld + l] = 0.0f;
            for (int64_t d = 0; d < D; d += lanes) {
                lanes = KT(lanes)(D - d);
                KT(gemm)(mr, lanes, rows, dy + i0 * ld_dy + d, ld_dy, pr + j, 1, ld, dv + j * dp + d, dp, i0 > 0);
                KT(gemm)(mr, lanes, rows, q + i0 * ld_q + d, ld_q, ds + j, 1, ld, dk + j * dp + d, dp, i0 > 0);
            }
        }
    }
    KT(attention_put)(a->dk + st * a->ld + h * D, a->ld, dk, dp, len, D);
    KT(attention_put)(a->dv + st * a->ld + h * D, a->ld, dv, dp, len, D);
    if (bias) memcpy(r->part + (sh * a->T + t0) * 2, db, (size_t)(2 * len - 1) * sizeof(float));
}

/* The gradients of one head's biases: the texts' parts, stream by stream. */
KTASK void KT(attention_bias_gather)(void *arg, int64_t h, int worker) {
    const struct k_attention_run *r = arg;
    const struct k_attention_args *a = &r->a;
    (void)worker;
    for (int64_t i = 0; i < 2 * a->reach + 1; i++) a->dbias[i * a->H + h] = 0.0f;
    for (int64_t s = 0; s < a->S; s++) {
        for (int64_t text = 0; text < a->n_texts; text++) {
            const int64_t t0 = a->offsets[text], len = a->offsets[text + 1] - t0;
            const float *part = r->part + ((s * a->H + h) * a->T + t0) * 2;
            float *first = a->dbias + (a->reach - (len - 1)) * a->H + h;
            for (int64_t i = 0; i < 2 * len - 1; i++) first[i * a->H] += part[i];
        }
    }
}

/* ---- Rows ---- */

/* The sum of f over a row, in two chains of vectors. */
#define K_ROW_SUM(result, C, expr)                                                                                     \
    do {                                                                                                               \
        VF s0_ = v_zero(), s1_ = s0_;                                                                                  \
        int64_t c = 0;                                                                                                 \
        for (; c + 2 * SCBM_VL <= (C); c += SCBM_VL) {                                                                 \
            s0_ = v_add(s0_, expr);                                                                                    \
            c += SCBM_VL;                                                                                              \
            s1_ = v_add(s1_, expr);                                                                                    \
        }                                                                                                              \
        for (; c < (C); c += SCBM_VL) s0_ = v_add(s0_, expr);                                                          \
        (result) = v_sum(v_add(s0_, s1_));                                                                             \
    } while (0)

KTASK void KT(layer_norm)(void *arg, int64_t index, int worker) {
    const struct k_layer_norm_run *run = arg;
    const struct k_layer_norm_args *a = &run->a;
    const int64_t C = a->C, r1 = k_min(a->R, (index + 1) * run->block);
    const float inv = 1.0f / (float)C;
    (void)worker;
    for (int64_t r = index * run->block; r < r1; r++) {
        const float *x = a->x + r * C;
        float *y = a->y + r * C, mean, var, rstd;
        VF m, k;
        if (a->residual) {
            const float *res = a->residual + r % a->residual_rows * C;
            float *sum = a->sum ? a->sum + r * C : y;
            for (int64_t c = 0; c < C; c += SCBM_VL)
                v_store_n(sum + c, v_add(v_load_n(x + c, C - c), v_load_n(res + c, C - c)), C - c);
            x = sum;
        }
        mean = 0.0f;
        if (!a->is_rms) K_ROW_SUM(mean, C, v_load_n(x + c, C - c));
        mean *= inv;
        m = v_set1(mean);
        {
            VF s = v_zero(), s1 = s;
            int64_t c = 0;
            for (; c + 2 * SCBM_VL <= C; c += 2 * SCBM_VL) {
                const VF d = v_sub(v_load(x + c), m), d1 = v_sub(v_load(x + c + SCBM_VL), m);
                s = v_fma(d, d, s);
                s1 = v_fma(d1, d1, s1);
            }
            for (; c < C; c += SCBM_VL) { /* the lanes past the row must add nothing */
                float d[SCBM_VL];
                v_store(d, v_sub(v_load_n(x + c, C - c), m));
                const VF e = v_load_n(d, C - c);
                s = v_fma(e, e, s);
            }
            var = v_sum(v_add(s, s1)) * inv;
        }
        rstd = 1.0f / sqrtf(var + a->eps);
        if (a->mean) a->mean[r] = mean;
        if (a->rstd) a->rstd[r] = rstd;
        k = v_set1(rstd);
        for (int64_t c = 0; c < C; c += SCBM_VL) {
            VF v = v_mul(v_sub(v_load_n(x + c, C - c), m), k);
            if (a->gamma) v = v_mul(v, v_load_n(a->gamma + c, C - c));
            if (a->beta) v = v_add(v, v_load_n(a->beta + c, C - c));
            v_store_n(y + c, v, C - c);
        }
    }
}

/* dx of a block of rows, and the block's part of dgamma and dbeta. */
KTASK void KT(layer_norm_back)(void *arg, int64_t index, int worker) {
    const struct k_layer_norm_back_run *run = arg;
    const struct k_layer_norm_back_args *a = &run->a;
    const int64_t C = a->C, r0 = index * run->block, r1 = k_min(a->R, r0 + run->block);
    float *dg = run->part + index * 2 * C, *db = dg + C;
    const float inv = 1.0f / (float)C;
    (void)worker;
    if (a->dgamma) memset(dg, 0, (size_t)(2 * C) * sizeof(float));
    for (int64_t r = r0; r < r1; r++) {
        const float *dy = a->dy + r * C, *x = a->x + r * C;
        float *dx = a->dx + r * C;
        const VF m = v_set1(a->mean ? a->mean[r] : 0.0f), k = v_set1(a->rstd[r]);
        VF s = v_zero(), sx = s, ms, msx;
        for (int64_t c = 0; c < C; c += SCBM_VL) {
            const VF d = v_load_n(dy + c, C - c), xh = v_mul(v_sub(v_load_n(x + c, C - c), m), k);
            const VF g = a->gamma ? v_mul(d, v_load_n(a->gamma + c, C - c)) : d;
            s = v_add(s, g);
            sx = v_fma(g, xh, sx); /* g is 0 past the row */
            if (a->dgamma) {
                v_store_n(dg + c, v_fma(d, xh, v_load_n(dg + c, C - c)), C - c);
                v_store_n(db + c, v_add(d, v_load_n(db + c, C - c)), C - c);
            }
        }
        ms = a->mean ? v_set1(v_sum(s) * inv) : v_zero();
        msx = v_set1(v_sum(sx) * inv);
        for (int64_t c = 0; c < C; c += SCBM_VL) {
            const VF d = v_load_n(dy + c, C - c), xh = v_mul(v_sub(v_load_n(x + c, C - c), m), k);
            const VF g = a->gamma ? v_mul(d, v_load_n(a->gamma + c, C - c)) : d;
            VF o = v_mul(k, v_sub(v_fnma(xh, msx, g), ms));
            v_store_n(dx + c, o, C - c);
        }
    }
}

/* y[C] (+)= sum over blocks of part[n_blocks][C], 512 columns a task. */
KTASK void KT(colsum_gather)(void *arg, int64_t index, int worker) {
    const struct k_rows_run *r = arg;
    const int64_t c1 = k_min(r->C, (index + 1) * 512);
    (void)worker;
    for (int64_t c = index * 512; c < c1; c += SCBM_VL) {
        VF s = v_zero();
        for (int64_t b = 0; b < r->n_blocks; b++) s = v_add(s, v_load_n(r->part + b * r->C + c, c1 - c));
        v_store_n(r->y + c, s, c1 - c);
    }
}

KTASK void KT(layer_norm_gather)(void *arg, int64_t index, int worker) {
    const struct k_layer_norm_back_run *run = arg;
    const struct k_layer_norm_back_args *a = &run->a;
    const int64_t C = a->C, c1 = k_min((a->dbeta ? 2 : 1) * C, (index + 1) * 512);
    (void)worker;
    for (int64_t c = index * 512; c < c1; c++) {
        float s = 0.0f, *y = c < C ? a->dgamma + c : a->dbeta + (c - C);
        for (int64_t b = 0; b < run->n_blocks; b++) s += run->part[b * 2 * C + c];
        *y = s;
    }
}

/* One block of rows, K_CHUNK columns of it. */
KTASK void KT(colsum)(void *arg, int64_t index, int worker) {
    const struct k_rows_run *r = arg;
    const int64_t C = r->C, n_chunks = k_ceil(C, K_CHUNK), block = index / n_chunks, c0 = index % n_chunks * K_CHUNK;
    const int64_t r0 = block * r->block, r1 = k_min(r->R, r0 + r->block), c1 = k_min(C, c0 + K_CHUNK);
    float *part = r->part + block * C;
    (void)worker;
    for (int64_t c = c0; c < c1; c += 4 * SCBM_VL) {
        VF s0 = v_zero(), s1 = s0, s2 = s0, s3 = s0;
        const int64_t n = c1 - c;
        for (int64_t i = r0; i < r1; i++) {
            const float *x = r->x + i * C + c;
            s0 = v_add(s0, v_load_n(x, n));
            if (n > SCBM_VL) s1 = v_add(s1, v_load_n(x + SCBM_VL, n - SCBM_VL));
            if (n > 2 * SCBM_VL) s2 = v_add(s2, v_load_n(x + 2 * SCBM_VL, n - 2 * SCBM_VL));
            if (n > 3 * SCBM_VL) s3 = v_add(s3, v_load_n(x + 3 * SCBM_VL, n - 3 * SCBM_VL));
        }
        v_store_n(part + c, s0, n);
        if (n > SCBM_VL) v_store_n(part + c + SCBM_VL, s1, n - SCBM_VL);
        if (n > 2 * SCBM_VL) v_store_n(part + c + 2 * SCBM_VL, s2, n - 2 * SCBM_VL);
        if (n > 3 * SCBM_VL) v_store_n(part + c + 3 * SCBM_VL, s3, n - 3 * SCBM_VL);
    }
}

KTASK void KT(rowsum)(void *arg, int64_t index, int worker) {
    const struct k_rows_run *r = arg;
    const int64_t i1 = k_min(r->R, (index + 1) * r->block);
    (void)worker;
    for (int64_t i = index * r->block; i < i1; i++) {
        const float *x = r->x + i * r->C;
        float s;
        K_ROW_SUM(s, r->C, v_load_n(x + c, r->C - c));
        r->y[i] = s;
    }
}

/* exp(x - max) into y (or nowhere) and the sum; the lanes past the row count for nothing. */
KFN float KT(row_exp)(float *y, const float *x, int64_t C, float *max) {
    VF m = v_set1(-INFINITY), s = v_zero();
    float top;
    int64_t c = 0;
    for (; c + SCBM_VL <= C; c += SCBM_VL) m = v_max(m, v_load(x + c));
    top = v_maxall(m);
    for (; c < C; c++)
        if (x[c] > top || x[c] != x[c]) top = x[c];
    if (top == -INFINITY) top = 0.0f; /* a row of nothing else: every exp is 0 */
    *max = top;
    m = v_set1(top);
    for (c = 0; c < C; c += SCBM_VL) {
        VF e = KT(exp)(v_sub(v_load_n(x + c, C - c), m));
        if (c + SCBM_VL > C) {
            float l[SCBM_VL];
            v_store(l, e);
            e = v_load_n(l, C - c);
        }
        s = v_add(s, e);
        if (y) v_store_n(y + c, e, C - c);
    }
    return v_sum(s);
}

KTASK void KT(softmax)(void *arg, int64_t index, int worker) {
    const struct k_rows_run *r = arg;
    const int64_t i1 = k_min(r->R, (index + 1) * r->block), C = r->C;
    (void)worker;
    for (int64_t i = index * r->block; i < i1; i++) {
        float *y = r->y + i * C, max;
        const float sum = KT(row_exp)(y, r->x + i * C, C, &max);
        const VF inv = v_set1(sum == 0.0f ? 0.0f : 1.0f / sum);
        for (int64_t c = 0; c < C; c += SCBM_VL) v_store_n(y + c, v_mul(v_load_n(y + c, C - c), inv), C - c);
    }
}

KTASK void KT(softmax_back)(void *arg, int64_t index, int worker) {
    const struct k_rows_run *r = arg;
    const int64_t i1 = k_min(r->R, (index + 1) * r->block), C = r->C;
    (void)worker;
    for (int64_t i = index * r->block; i < i1; i++) {
        const float *y = r->y_in + i * C, *dy = r->dy + i * C;
        float *dx = r->y + i * C;
        VF s = v_zero();
        for (int64_t c = 0; c < C; c += SCBM_VL) s = v_fma(v_load_n(y + c, C - c), v_load_n(dy + c, C - c), s);
        s = v_set1(v_sum(s));
        for (int64_t c = 0; c < C; c += SCBM_VL) {
            VF o = v_mul(v_load_n(y + c, C - c), v_sub(v_load_n(dy + c, C - c), s));
            v_store_n(dx + c, o, C - c);
        }
    }
}

/* ---- Element by element ---- */

#define K_CHUNK_OF(r)                                                                                                  \
    const int64_t i0 = index * K_CHUNK, n = k_min((r)->n - i0, K_CHUNK);                                               \
    float *y = (r)->y + i0;                                                                                            \
    (void)worker
#define K_MAP(expr)                                                                                                    \
    for (int64_t i = 0; i < n; i += SCBM_VL) v_store_n(y + i, expr, n - i)

KTASK void KT(act)(void *arg, int64_t index, int worker) {
    const struct k_map_run *r = arg;
    K_CHUNK_OF(r);
    const float *x = r->a + i0;
    switch (r->op) {
    case SCBM_GELU_ERF: K_MAP(KT(act1)(SCBM_GELU_ERF, v_load_n(x + i, n - i))); break;
    case SCBM_GELU_TANH: K_MAP(KT(act1)(SCBM_GELU_TANH, v_load_n(x + i, n - i))); break;
    case SCBM_RELU: K_MAP(KT(act1)(SCBM_RELU, v_load_n(x + i, n - i))); break;
    case SCBM_TANH: K_MAP(KT(act1)(SCBM_TANH, v_load_n(x + i, n - i))); break;
    case SCBM_SIGMOID: K_MAP(KT(act1)(SCBM_SIGMOID, v_load_n(x + i, n - i))); break;
    default: K_MAP(v_load_n(x + i, n - i)); break;
    }
}

KTASK void KT(act_back)(void *arg, int64_t index, int worker) {
    const struct k_map_run *r = arg;
    K_CHUNK_OF(r);
    const float *dy = r->a + i0, *x = r->b + i0;
#define K_EACH(kind)                                                                                                   \
    case kind:                                                                                                         \
        for (int64_t i = 0; i < n; i += SCBM_VL) {                                                                     \
            VF o = KT(act1_back)(kind, v_load_n(dy + i, n - i), v_load_n(x + i, n - i));                               \
            v_store_n(y + i, o, n - i);                                                                                \
        }                                                                                                              \
        break;
    switch (r->op) {
        K_EACH(SCBM_NONE)
        K_EACH(SCBM_GELU_ERF)
        K_EACH(SCBM_GELU_TANH)
        K_EACH(SCBM_RELU)
        K_EACH(SCBM_TANH)
        K_EACH(SCBM_SIGMOID)
    default: break;
    }
#undef K_EACH
}

/* Groups of 64 elements: counter 16 g + l gives with its word w element 64 g + 16 w + l. */
KTASK void KT(dropout)(void *arg, int64_t index, int worker) {
    const struct k_map_run *r = arg;
    const float *x = r->a + index * K_CHUNK;
    const VI limit = vi_set1((uint32_t)((double)r->d.p * 4294967296.0));
    const VF scale = v_set1(1.0f / (1.0f - r->d.p));
    K_CHUNK_OF(r);
    for (int64_t g = 0; g < n; g += 64) {
        const uint64_t base = (uint64_t)(i0 + g) / 4;
        for (int l = 0; l < 16; l += SCBM_VL) {
            VI c[4];
            c[0] = vi_add(vi_iota(), vi_set1((uint32_t)base + (uint32_t)l));
            c[1] = vi_set1((uint32_t)(base >> 32));
            c[2] = vi_set1(r->d.op << 16);
            c[3] = vi_set1(r->d.step);
            KT(philox)(c, r->d.seed);
            for (int w = 0; w < 4; w++) {
                const int64_t i = g + 16 * w + l;
                if (i < n) {
                    VF o = v_keep(vi_geu(c[w], limit), v_mul(v_load_n(x + i, n - i), scale));
                    v_store_n(y + i, o, n - i);
                }
            }
        }
    }
}

/* b's index for element i is (i / b_rep) % b_n: whole vectors where b runs along with a or stands still. */
KTASK void KT(binary)(void *arg, int64_t index, int worker) {
    const struct k_map_run *r = arg;
    K_CHUNK_OF(r);
    const float *a = r->a + i0;
    for (int64_t i = 0; i < n;) {
        const int64_t at = i0 + i, along = r->b_rep == 1;
        const int64_t bi = at / r->b_rep % r->b_n;
        const int64_t seg = k_min(n - i, along ? r->b_n - bi : r->b_rep - at % r->b_rep);
        const float *b = r->b + bi;
#define K_EACH(kind, f)                                                                                                \
    case kind:                                                                                                         \
        if (along)                                                                                                     \
            for (int64_t j = 0; j < seg; j += SCBM_VL)                                                                 \
                v_store_n(y + i + j, f(v_load_n(a + i + j, seg - j), v_load_n(b + j, seg - j)), seg - j);              \
        else                                                                                                           \
            for (int64_t j = 0; j < seg; j += SCBM_VL)                                                                 \
                v_store_n(y + i + j, f(v_load_n(a + i + j, seg - j), v_set1(*b)), seg - j);                            \
        break;
        switch (r->op) {
            K_EACH(K_ADD, v_add)
            K_EACH(K_MUL, v_mul)
        default: break;
        }
#undef K_EACH
        i += seg;
    }
}

/* y = s a, or s without a */
KTASK void KT(scale)(void *arg, int64_t index, int worker) {
    const struct k_map_run *r = arg;
    K_CHUNK_OF(r);
    const float *a = r->a ? r->a + i0 : NULL;
    const VF s = v_set1(r->s);
    if (a) K_MAP(v_mul(v_load_n(a + i, n - i), s));
    else K_MAP(s);
}

/* One chunk's sum in f64: lane by lane, then the lanes in order. */
KTASK void KT(reduce)(void *arg, int64_t index, int worker) {
    const struct k_map_run *r = arg;
    const int64_t i0 = index * K_CHUNK, n = k_min(r->n - i0, K_CHUNK);
    const float *a = r->a + i0;
    double sum[16] = {0}, total = 0;
    int64_t i = 0;
    (void)worker;
#if SCBM_VL == 16
    __m512d s0 = _mm512_setzero_pd(), s1 = s0;
    for (; i + 16 <= n; i += 16) {
        const __m512d a0 = _mm512_cvtps_pd(_mm256_loadu_ps(a + i)), a1 = _mm512_cvtps_pd(_mm256_loadu_ps(a + i + 8));
        if (r->op == K_SUM) {
            s0 = _mm512_add_pd(s0, a0);
            s1 = _mm512_add_pd(s1, a1);
        } else {
            s0 = _mm512_fmadd_pd(a0, a0, s0);
            s1 = _mm512_fmadd_pd(a1, a1, s1);
        }
    }
    _mm512_storeu_pd(sum, s0);
    _mm512_storeu_pd(sum + 8, s1);
#elif SCBM_VL == 8
    __m256d s[4];
    for (int j = 0; j < 4; j++) s[j] = _mm256_setzero_pd();
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 4; j++) {
            const __m256d aj = _mm256_cvtps_pd(_mm_loadu_ps(a + i + 4 * j));
            s[j] = r->op == K_SUM ? _mm256_add_pd(s[j], aj) : _mm256_fmadd_pd(aj, aj, s[j]);
        }
    for (int j = 0; j < 4; j++) _mm256_storeu_pd(sum + 4 * j, s[j]);
#endif
    for (; i < n; i++) {
        const double p = r->op == K_SUM ? (double)a[i] : (double)a[i] * (double)a[i];
        sum[i & 15] += p;
    }
    for (int j = 0; j < 16; j++) total += sum[j];
    r->part[index] = total;
}

KTASK void KT(adamw)(void *arg, int64_t index, int worker) {
    const struct k_adamw_args *a = arg;
    const int64_t i0 = index * K_CHUNK, n = k_min(a->n - i0, K_CHUNK);
    const VF b1 = v_set1(a->beta1), b2 = v_set1(a->beta2), c1 = v_set1(1.0f - a->beta1), c2 = v_set1(1.0f - a->beta2);
    const VF m_scale = v_set1(1.0f / a->correction1), v_scale = v_set1(1.0f / a->correction2);
    const VF gs = v_set1(a->grad_scale), eps = v_set1(a->eps), lr = v_set1(a->lr),
             keep = v_set1(1.0f - a->lr * a->decay);
    (void)worker;
    for (int64_t j = 0; j < n; j += SCBM_VL) {
        const int64_t i = i0 + j, k = n - j;
        const VF g = v_mul(v_load_n(a->g + i, k), gs);
        const VF m = v_fma(b1, v_load_n(a->m + i, k), v_mul(c1, g));
        const VF v = v_fma(b2, v_load_n(a->v + i, k), v_mul(c2, v_mul(g, g)));
        const VF step = v_div(v_mul(m, m_scale), v_add(v_sqrt(v_mul(v, v_scale)), eps));
        v_store_n(a->m + i, m, k);
        v_store_n(a->v + i, v, k);
        v_store_n(a->w + i, v_fnma(lr, step, v_mul(v_load_n(a->w + i, k), keep)), k);
    }
}

/* ---- Embeddings, pooling, loss ---- */

/* One row of a table of any type; the last lanes of a row go through a buffer. */
KFN void KT(table_row)(float *y, const struct k_weights *w, int64_t row, int64_t C) {
    float tail[32];
    const int64_t whole = C / 32 * 32;
    if (whole) KT(weight_row)(y, w, row, 0, whole, NULL, 0);
    if (whole < C) {
        KT(weight_row)(tail, w, row, whole, C - whole, NULL, 0);
        memcpy(y + whole, tail, (size_t)(C - whole) * sizeof(float));
    }
}

KTASK void KT(get_rows)(void *arg, int64_t index, int worker) {
    const struct k_gather_run *r = arg;
    const int64_t i1 = k_min(r->n, (index + 1) * r->block);
    (void)worker;
    for (int64_t i = index * r->block; i < i1; i++) KT(table_row)(r->y + i * r->C, &r->w, r->ids[i], r->C);
}

/* A task owns `block` rows of the table and adds to them what belongs there, in the order of the ids. */
KTASK void KT(get_rows_back)(void *arg, int64_t index, int worker) {
    const struct k_gather_run *r = arg;
    const int64_t r0 = index * r->block, r1 = k_min(r->rows, r0 + r->block), C = r->C;
    (void)worker;
    memset(r->y + r0 * C, 0, (size_t)((r1 - r0) * C) * sizeof(float));
    for (int64_t i = 0; i < r->n; i++) {
        const int64_t id = r->ids[i];
        if (id >= r0 && id < r1) {
            const float *dy = r->dy + i * C;
            float *y = r->y + id * C;
            for (int64_t c = 0; c < C; c += SCBM_VL)
                v_store_n(y + c, v_add(v_load_n(y + c, C - c), v_load_n(dy + c, C - c)), C - c);
        }
    }
}

KTASK void KT(segment_mean)(void *arg, int64_t index, int worker) {
    const struct k_segment_run *r = arg;
    const int64_t s = index / r->B, b = index % r->B, t0 = r->offsets[b], t1 = r->offsets[b + 1], C = r->C;
    const VF inv = v_set1(t1 > t0 ? 1.0f / (float)(t1 - t0) : 0.0f);
    (void)worker;
    for (int64_t c = 0; c < C; c += SCBM_VL) {
        VF sum = v_zero();
        for (int64_t t = t0; t < t1; t++) sum = v_add(sum, v_load_n(r->x + (s * r->T + t) * C + c, C - c));
        v_store_n(r->y + index * C + c, v_mul(sum, inv), C - c);
    }
}

KTASK void KT(segment_mean_back)(void *arg, int64_t index, int worker) {
    const struct k_segment_run *r = arg;
    const int64_t s = index / r->B, b = index % r->B, t0 = r->offsets[b], t1 = r->offsets[b + 1], C = r->C;
    const VF inv = v_set1(t1 > t0 ? 1.0f / (float)(t1 - t0) : 0.0f);
    (void)worker;
    for (int64_t t = t0; t < t1; t++)
        for (int64_t c = 0; c < C; c += SCBM_VL) {
            VF o = v_mul(v_load_n(r->x + index * C + c, C - c), inv);
            float *y = r->y + (s * r->T + t) * C + c;
            v_store_n(y, o, C - c);
        }
}

/* The probabilities of one group and its loss; *weight is what it counts. */
KFN float KT(group_loss)(const struct k_cross_entropy_args *a, int64_t r, int64_t k, float *weight) {
    const int64_t from = a->groups[k], n = a->groups[k + 1] - from, at = r * a->C + from;
    const float *x = a->logits + at, *cw = a->class_weight ? a->class_weight + from : NULL;
    float *p = a->p + at, max, lse, loss = 0.0f, mass = 0.0f;
    const float sum = KT(row_exp)(p, x, n, &max);
    const VF inv = v_set1(sum == 0.0f ? 0.0f : 1.0f / sum);
    for (int64_t c = 0; c < n; c += SCBM_VL) v_store_n(p + c, v_mul(v_load_n(p + c, n - c), inv), n - c);
    lse = max + (KT(log1)(sum) + (sum - sum)); /* no number stays none */
    *weight = 0.0f;
    if (a->labels) {
        const int32_t label = a->labels[r * a->K + k];
        if (label < 0) return 0.0f;
        *weight = cw ? cw[label] : 1.0f;
        return *weight * (lse - x[label]);
    }
    for (int64_t c = 0; c < n; c++) {
        const float t = a->soft[at + c];
        mass += t;
        if (t != 0.0f) loss += (cw ? cw[c] * t : t) * (lse - x[c]);
    }
    if (mass > 0.0f) *weight = 1.0f;
    return loss;
}

KTASK void KT(cross_entropy)(void *arg, int64_t index, int worker) {
    const struct k_cross_entropy_run *run = arg;
    const struct k_cross_entropy_args *a = &run->a;
    const int64_t r1 = k_min(a->R, (index + 1) * 64);
    (void)worker;
    for (int64_t r = index * 64; r < r1; r++) {
        double loss = 0.0, total = 0.0;
        for (int64_t k = 0; k < a->K; k++) {
            float weight;
            loss += (double)KT(group_loss)(a, r, k, &weight);
            total += (double)weight;
        }
        run->part[2 * r] = loss;
        run->part[2 * r + 1] = total;
    }
}

/* dlogits = factor (p sum(w t) - w t) in each group. */
KTASK void KT(cross_entropy_back)(void *arg, int64_t index, int worker) {
    const struct k_cross_entropy_run *run = arg;
    const struct k_cross_entropy_args *a = &run->a;
    const int64_t r1 = k_min(a->R, (index + 1) * 64);
    (void)worker;
    for (int64_t r = index * 64; r < r1; r++)
        for (int64_t k = 0; k < a->K; k++) {
            const int64_t from = a->groups[k], to = a->groups[k + 1];
            const int64_t label = a->labels ? from + a->labels[r * a->K + k] : -1;
            float mass = 0.0f;
            for (int pass = 0; pass < 2; pass++)
                for (int64_t c = from; c < to; c++) {
                    const float w = a->class_weight ? a->class_weight[c] : 1.0f;
                    const float t = w * (a->labels ? (float)(c == label) : a->soft[r * a->C + c]);
                    if (pass == 0) mass += t;
                    else a->dlogits[r * a->C + c] = run->factor * (a->p[r * a->C + c] * mass - t);
                }
        }
}

/* ---- LSTM ----
 * A task takes a few texts of a stream from step to step, because each step's product needs the one before. Sums of a product
 * are in the order of the summed index, whatever the other texts of a task are. */

/* Rows of the masked weights, transposed for forward. */
KTASK void KT(lstm_weights)(void *arg, int64_t index, int worker) {
    const struct k_lstm_run *r = arg;
    const int64_t H = r->a.H, blocks = k_ceil(4 * H, K_LSTM_ROWS), s = index / blocks;
    const int64_t n0 = index % blocks * K_LSTM_ROWS, n = k_min(K_LSTM_ROWS, 4 * H - n0);
    const uint8_t *mask = r->a.w.mask ? r->a.w.mask + s * r->a.w.mask_stream : NULL;
    float *w = r->w + s * r->stream, part[64];
    (void)worker;
    for (int64_t i = n0; i < n0 + n; i++)
        for (int64_t k = 0; k < H; k += 64) {
            const int64_t kc = k_min(64, H - k);
            KT(weight_row)(part, &r->a.w, i, k, kc, mask ? mask + i * r->a.w.mask_row : NULL, 0);
            if (r->is_back) memcpy(w + i * r->ld + k, part, (size_t)kc * sizeof *part);
            else
                for (int64_t j = 0; j < kc; j++) w[(k + j) * r->ld + i] = part[j];
        }
}

/* z[i][n] += h[i][k] w[k][n] for the `rows` texts of a step, at most K_LSTM_TEXTS. */
KFN void KT(lstm_product)(int rows, float *const *z, const float *const *h, const float *w, int64_t ld, int64_t K,
                          int64_t N) {
    for (int64_t n = 0; n < N; n += 2 * SCBM_VL) {
        const int64_t n1 = N - n, n2 = k_max(0, N - n - SCBM_VL);
        VF c[K_LSTM_TEXTS][2];
        for (int i = 0; i < rows; i++) {
            c[i][0] = v_load_n(z[i] + n, n1);
            c[i][1] = n2 ? v_load_n(z[i] + n + SCBM_VL, n2) : v_zero();
        }
        for (int64_t k = 0; k < K; k++) {
            const float *row = w + k * ld + n;
            const VF w0 = v_load(row), w1 = v_load(row + SCBM_VL);
            for (int i = 0; i < rows; i++) {
                const VF a = v_set1(h[i][k]);
                c[i][0] = v_fma(a, w0, c[i][0]);
                c[i][1] = v_fma(a, w1, c[i][1]);
            }
        }
        for (int i = 0; i < rows; i++) {
            v_store_n(z[i] + n, c[i][0], n1);
            if (n2) v_store_n(z[i] + n + SCBM_VL, c[i][1], n2);
        }
    }
}

/* The same for any number of texts, known where it is compiled. */
KTASK void KT(lstm_products)(int rows, float *const *z, const float *const *h, const float *w, int64_t ld, int64_t K,
                             int64_t N) {
    switch (rows) {
    case 1: KT(lstm_product)(1, z, h, w, ld, K, N); break;
    case 2: KT(lstm_product)(2, z, h, w, ld, K, N); break;
    case 3: KT(lstm_product)(3, z, h, w, ld, K, N); break;
    case 4: KT(lstm_product)(4, z, h, w, ld, K, N); break;
    default: break;
    }
}

/* Gates from what they get, in place, the cell and the state of one token; `cell_before` is NULL at a text's beginning. */
KFN void KT(lstm_cell)(float *gates, float *cell, float *y, const float *cell_before, int64_t H) {
    for (int64_t j = 0; j < H; j += SCBM_VL) {
        const int64_t n = H - j;
        const VF in = KT(sigmoid)(v_load_n(gates + j, n)), forget = KT(sigmoid)(v_load_n(gates + H + j, n));
        const VF new = KT(tanh)(v_load_n(gates + 2 * H + j, n)), out = KT(sigmoid)(v_load_n(gates + 3 * H + j, n));
        VF c = v_mul(in, new);
        if (cell_before) c = v_fma(forget, v_load_n(cell_before + j, n), c);
        v_store_n(gates + j, in, n);
        v_store_n(gates + H + j, forget, n);
        v_store_n(gates + 2 * H + j, new, n);
        v_store_n(gates + 3 * H + j, out, n);
        v_store_n(cell + j, c, n);
        v_store_n(y + j, v_mul(out, KT(tanh)(c)), n);
    }
}

/* Text `text`'s token of a step, counted in the direction of the LSTM; -1: it has none. */
K_INLINE int64_t KT(lstm_token)(const struct k_lstm_args *a, int64_t text, int64_t step) {
    const int64_t first = a->offsets[text], length = a->offsets[text + 1] - first;
    if (step < 0 || step >= length) return -1;
    return a->reverse ? first + length - 1 - step : first + step;
}

KTASK void KT(lstm)(void *arg, int64_t index, int worker) {
    const struct k_lstm_run *r = arg;
    const struct k_lstm_args *a = &r->a;
    const int64_t groups = k_ceil(a->n_texts, K_LSTM_TEXTS), s = index / groups, H = a->H;
    const int64_t from = index % groups * K_LSTM_TEXTS, to = k_min(a->n_texts, from + K_LSTM_TEXTS);
    const int64_t longest = longest_text(a->offsets, from, to);
    const float *x = a->x + (a->x_S > 1 ? s * a->T * 4 * H : 0), *w = r->w + (a->w.mask ? s * r->stream : 0);
    float *gates = a->gates + s * a->T * 4 * H, *cells = a->cells + s * a->T * H, *y = a->y + s * a->T * H;
    (void)worker;
    for (int64_t step = 0; step < longest; step++) {
        float *z[K_LSTM_TEXTS];
        const float *h[K_LSTM_TEXTS];
        int rows = 0;
        for (int64_t n = from; n < to; n++) {
            const int64_t t = KT(lstm_token)(a, n, step);
            if (t < 0) continue;
            memcpy(gates + t * 4 * H, x + t * 4 * H, (size_t)(4 * H) * sizeof *x);
            z[rows] = gates + t * 4 * H;
            h[rows++] = step ? y + KT(lstm_token)(a, n, step - 1) * H : NULL;
        }
        if (step) KT(lstm_products)(rows, z, h, w, r->ld, H, 4 * H);
        for (int64_t n = from; n < to; n++) {
            const int64_t t = KT(lstm_token)(a, n, step);
            if (t < 0) continue;
            const float *before = step ? cells + KT(lstm_token)(a, n, step - 1) * H : NULL;
            KT(lstm_cell)(gates + t * 4 * H, cells + t * H, y + t * H, before, H);
        }
    }
}

/* What the gates of one token should get, from the gradients of its state, dy and dh, and of its cell, *dc, which becomes that
 * of the cell before. */
KFN void KT(lstm_cell_back)(float *dz, float *dc, const float *dy, const float *dh, const float *gates,
                            const float *cell, const float *cell_before, int64_t H) {
    const VF one = v_set1(1.0f);
    for (int64_t j = 0; j < H; j += SCBM_VL) {
        const int64_t n = H - j;
        const VF in = v_load_n(gates + j, n), forget = v_load_n(gates + H + j, n);
        const VF new = v_load_n(gates + 2 * H + j, n), out = v_load_n(gates + 3 * H + j, n);
        const VF tanh_c = KT(tanh)(v_load_n(cell + j, n)),
                 before = cell_before ? v_load_n(cell_before + j, n) : v_zero();
        const VF d = v_add(v_load_n(dy + j, n), v_load_n(dh + j, n));
        const VF c = v_fma(v_mul(d, out), v_fnma(tanh_c, tanh_c, one), v_load_n(dc + j, n));
        v_store_n(dz + j, v_mul(v_mul(c, new), v_mul(in, v_sub(one, in))), n);
        v_store_n(dz + H + j, v_mul(v_mul(c, before), v_mul(forget, v_sub(one, forget))), n);
        v_store_n(dz + 2 * H + j, v_mul(v_mul(c, in), v_fnma(new, new, one)), n);
        v_store_n(dz + 3 * H + j, v_mul(v_mul(d, tanh_c), v_mul(out, v_sub(one, out))), n);
        v_store_n(dc + j, v_mul(c, forget), n);
    }
}

KTASK void KT(lstm_back)(void *arg, int64_t index, int worker) {
    const struct k_lstm_run *r = arg;
    const struct k_lstm_args *a = &r->a;
    const int64_t groups = k_ceil(a->n_texts, K_LSTM_TEXTS), s = index / groups, H = a->H;
    const int64_t from = index % groups * K_LSTM_TEXTS, to = k_min(a->n_texts, from + K_LSTM_TEXTS);
    const int64_t room = k_round(H, 32), state = s * a->T * H;
    const float *w = r->w + (a->w.mask ? s * r->stream : 0);
    float *carry = r->carry + worker * r->carried;
    memset(carry, 0, (size_t)r->carried * sizeof *carry);
    for (int64_t step = longest_text(a->offsets, from, to) - 1; step >= 0; step--) {
        float *z[K_LSTM_TEXTS];
        const float *d[K_LSTM_TEXTS];
        int rows = 0;
        for (int64_t n = from; n < to; n++) {
            const int64_t t = KT(lstm_token)(a, n, step), u = KT(lstm_token)(a, n, step - 1);
            if (t < 0) continue;
            float *dh = carry + (n - from) * 2 * room, *dx = a->dx + (s * a->T + t) * 4 * H;
            const float *cell_before = u < 0 ? NULL : a->cells + state + u * H;
            KT(lstm_cell_back)(dx, dh + room, a->dy + state + t * H, dh, a->gates + (s * a->T + t) * 4 * H,
                               a->cells + state + t * H, cell_before, H);
            if (u < 0) memset(a->before + state + t * H, 0, (size_t)H * sizeof(float));
            else memcpy(a->before + state + t * H, a->y + state + u * H, (size_t)H * sizeof(float));
            memset(dh, 0, (size_t)H * sizeof *dh);
            z[rows] = dh;
            d[rows++] = dx;
        }
        if (step) KT(lstm_products)(rows, z, d, w, r->ld, 4 * H, H);
    }
}

/* ---- Conversions ---- */

KTASK void KT(to_f32)(void *arg, int64_t index, int worker) {
    const struct k_convert_run *r = arg;
    struct k_weights w;
    (void)worker;
    memset(&w, 0, sizeof w);
    w.data = r->src;
    w.type = r->type;
    w.row_bytes = r->src_row;
    KT(table_row)((float *)(void *)((char *)r->dst + index * r->dst_row), &w, index, r->C);
}

KTASK void KT(from_f32)(void *arg, int64_t index, int worker) {
    const struct k_convert_run *r = arg;
    const float *x = (const float *)(const void *)((const char *)r->src + index * r->src_row);
    char *dst = (char *)r->dst + index * r->dst_row;
    (void)worker;
    switch (r->type) {
    case SCBM_F32: memcpy(dst, x, (size_t)r->C * sizeof(float)); break;
    case SCBM_F16: {
        int64_t i = 0;
        for (; i + SCBM_VL <= r->C; i += SCBM_VL) v_put_f16((uint16_t *)(void *)dst + i, v_load(x + i));
        for (; i < r->C; i++) ((uint16_t *)(void *)dst)[i] = k_f32_to_f16(x[i]);
        break;
    }
    case SCBM_BF16:
        for (int64_t i = 0; i < r->C; i++) ((uint16_t *)(void *)dst)[i] = k_f32_to_bf16(x[i]);
        break;
    case SCBM_Q8_0:
        for (int64_t b = 0; b < r->C / 32; b++, dst += 34, x += 32) {
            float amax = 0.0f, d, id;
            uint16_t h;
            for (int i = 0; i < 32; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
            d = amax / 127.0f;
            id = fabsf(d) >= 0x1p-126f ? 1.0f / d : 0.0f; /* of what has a finite inverse */
            h = k_f32_to_f16(d);
            memcpy(dst, &h, 2);
            for (int i = 0; i < 32; i++) dst[2 + i] = (char)(int8_t)roundf(x[i] * id);
        }
        break;
    default:
        for (int64_t b = 0; b < r->C / 32; b++, dst += 18, x += 32) {
            float amax = 0.0f, max = 0.0f, d, id;
            uint16_t h;
            for (int i = 0; i < 32; i++)
                if (amax < fabsf(x[i])) {
                    amax = fabsf(x[i]);
                    max = x[i];
                }
            d = max / -8.0f;
            id = fabsf(d) >= 0x1p-126f ? 1.0f / d : 0.0f; /* of what has a finite inverse */
            h = k_f32_to_f16(d);
            memcpy(dst, &h, 2);
            for (int i = 0; i < 16; i++) {
                const int lo = (int)(x[i] * id + 8.5f), hi = (int)(x[16 + i] * id + 8.5f);
                dst[2 + i] = (char)(uint8_t)((lo > 15 ? 15 : lo) | (hi > 15 ? 15 : hi) << 4);
            }
        }
        break;
    }
}

#ifdef SCBM_TARGET_VBMI2
#define K_SPARSE_FEW(name) KT(name)
#else
#define K_SPARSE_FEW(name) NULL
#endif
#if SCBM_VL >= 8
#define K_LISTS(name) KT(name)
#else
#define K_LISTS(name) NULL
#endif
#ifdef SCBM_TARGET_QUADS
#define K_QUADS(name) KT(name)
#else
#define K_QUADS(name) NULL
#endif
#define K_TABLE(name, bf16, has_tiles, linear_bf16, pack_bf16)                                                         \
    {                                                                                                                  \
        name, bf16, SCBM_VL, has_tiles, KT(pack_x), KT(linear), linear_bf16, pack_bf16, KT(pack_blocks),               \
            KT(linear_blocks), K_QUADS(pack_quads), K_QUADS(linear_quads), KT(linear_dx), KT(pack_cols),               \
            KT(linear_dw), KT(keep_weights), K_LISTS(list_weights), KT(pack_tiles), KT(sparse_prepare), KT(sparse),    \
            K_SPARSE_FEW(sparse_few), K_LISTS(sparse_listed), KT(sparse_dw), KT(attention), KT(attention_back),        \
            KT(attention_bias_gather), KT(layer_norm), KT(layer_norm_back), KT(layer_norm_gather), KT(softmax),        \
            KT(softmax_back), KT(act), KT(act_back), KT(dropout), KT(binary), KT(scale), KT(get_rows),                 \
            KT(get_rows_back), KT(segment_mean), KT(segment_mean_back), KT(cross_entropy), KT(cross_entropy_back),     \
            KT(lstm_weights), KT(lstm), KT(lstm_back), KT(colsum), KT(colsum_gather), KT(rowsum), KT(reduce),          \
            KT(adamw), KT(to_f32), KT(from_f32)                                                                        \
    }
static const struct k_table KT(table) = K_TABLE(K_TIER_NAME, 0, 0, NULL, NULL);
#ifdef SCBM_TARGET_BF16
static const struct k_table KT(table_bf16) = K_TABLE(K_TIER_NAME, 1, 0, KT(linear_bf16), KT(pack_x_bf16));
#endif
#ifdef SCBM_TARGET_AMX
static const struct k_table k_table_amx = K_TABLE("amx", 1, 1, KT(linear_tiles), KT(pack_parts));
#endif
#undef K_TABLE
#undef K_QUADS
#undef K_SPARSE_FEW
#undef K_LISTS

#endif /* SCBM_KERNELS_TIER */

#ifndef SCBM_KERNELS_TIER

/* ------------------------------------------------------------------------------------------
 * CPU kernels: the entry points
 * ---------------------------------------------------------------------------------------- */

/* Runs all tasks, which are `work` operations in sum: few are done at once, before other threads would be awake. */
K_INLINE void k_run(const struct k_exec *ex, int64_t n, int64_t work, scbm_task task, void *arg) {
    if (n > 1 && work > K_SERIAL) ex->pfor(ex->user, n, task, arg);
    else
        for (int64_t i = 0; i < n; i++) task(arg, i, 0);
}

static const struct k_table *const k_tables[] = {
#ifdef K_AMX
    &k_table_amx,
#endif
#ifdef K_X86
    &k_table_avx512,
    &k_table_avx2,
#endif
    &k_table_portable,
};

#ifdef K_AMX
/* CPUID's leaf 7: AMX-BF16 and AMX-TILE. */
static int k_has_tiles(void) {
    static K_ATOMIC int known; /* 0: not yet; else 1 more than the answer */
    unsigned a, b, c, d = 0;
    if (!known) known = 1 + (__get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 22 & 1 && d >> 24 & 1);
    return known - 1;
}
#endif

/* Linux gives a process matrix tiles when it asks for them (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), but not where a
 * thread has a signal stack that is too small for them; and no such stack can be made afterwards. */
static int k_get_tiles(void) {
#ifdef K_AMX
    const int before = errno;
    const int is_given = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    errno = before;
    return is_given;
#else
    return 0;
#endif
}

#ifdef K_X86
/* Conversion of half-precision numbers, for which __builtin_cpu_supports has no name everywhere. */
static int k_has_f16c(void) {
    static K_ATOMIC int known;
    unsigned a, b, c = 0, d;
    if (!known) known = 1 + (__get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C);
    return known - 1;
}
#endif

#ifdef K_DOTPROD
static int k_has_dotprod(void) {
#ifdef __ARM_FEATURE_DOTPROD
    return 1;
#else
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#endif
}
#endif

/* Whether this machine runs a tier: every extension that its kernels are compiled for. */
K_OP int k_supported(const char *name) {
#ifdef K_X86
    __builtin_cpu_init();
#ifdef K_AMX
    if (!strcmp(name, "amx")) return __builtin_cpu_supports("avx512bf16") && k_has_tiles() && k_supported("avx512");
#endif
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && k_supported("avx2");
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               k_has_f16c();
#endif
    for (size_t i = 0; i < sizeof k_tables / sizeof *k_tables; i++)
        if (!strcmp(name, k_tables[i]->name)) return 1;
    return 0;
}

/* The best table of this machine, or the one called `forced` (NULL: none) if the machine has it; otherwise NULL. Products
 * of a table with has_tiles need k_get_tiles first; its other kernels do not. */
K_OP const struct k_table *k_select(const char *forced) {
    for (size_t i = 0; i < sizeof k_tables / sizeof *k_tables; i++) {
        if (forced && strcmp(forced, k_tables[i]->name)) continue;
        if (!k_supported(k_tables[i]->name)) continue;
#ifdef K_X86
        if (k_tables[i] == &k_table_avx512 && __builtin_cpu_supports("avx512bf16")) return &k_table_bf16_avx512;
#endif
        return k_tables[i];
    }
    return NULL;
}

/* The best one, which is looked for once. */
static const struct k_table *k_best(void) {
    static const struct k_table *K_ATOMIC best;
    const struct k_table *table = best;
    if (!table) best = table = k_select(NULL);
    return table;
}

/* ---- Products ---- */

/* How x is packed; with 1 added, rounded to bf16 (K_PARTS: with their number added). */
enum { K_PANELS = 0, K_TILES = 2, K_PAIRS = 4, K_PARTS = 5, K_BLOCKS = 16, K_PANELS_FOR_BLOCKS };

/* A vector's worth of multiply-adds is one operation. */
static int64_t k_product_work(int64_t S, int64_t T, int64_t N, int64_t K) {
    return S * T * (N * K / 16 + N);
}

/* Where this x stands packed in the scratch; NULL: nowhere, but from now on at wanted->place. */
static float *k_find_packed(const struct k_exec *ex, const struct k_packed *wanted) {
    struct k_packed *there = ex->packed;
    if (there && there->x == wanted->x && there->S == wanted->S && there->T == wanted->T &&
        there->K == wanted->K && there->width == wanted->width && there->kc == wanted->kc &&
        there->gap == wanted->gap && there->how == wanted->how) {
        there->is_only = 0; /* that has been read now */
        return there->place;
    }
    if (there) *there = *wanted;
    return NULL;
}

/* Whether the layer before has left x packed and nowhere else. */
static int k_is_only_packed(const struct k_exec *ex, const void *x) {
    return ex->packed && ex->packed->is_only && ex->packed->x == x;
}

static void k_pack(const struct k_exec *ex, scbm_task task, const float *x, float *xp, int64_t S, int64_t T, int64_t K,
                   int64_t xp_stream, int round, int parts) {
    struct k_pack_run r = {x, xp, S, T, K, xp_stream, K_KC, k_ceil(K, K_KC), k_ceil(T, K_PANEL_MAX), round, parts, 0};
    k_run(ex, S * r.n_panels * r.n_kc, S * T * K, task, &r);
}

/* Cuts tokens into tiles of at most so many vectors, and the depth into blocks of at most `longest`. */
static void k_tiles_plan(struct k_tiles *x, int64_t lanes, int64_t vectors, int64_t longest, int64_t gap) {
    int64_t width;
    x->n_vectors = k_ceil(x->T, lanes);
    x->n_tiles = k_ceil(x->n_vectors, vectors);
    width = k_max(1, k_ceil(x->n_vectors, k_max(1, x->n_tiles))) * lanes;
    x->kc = k_max(64, k_min(longest, K_SP_X / (width * 4)) / 64 * 64);
    x->n_kb = k_max(1, k_ceil(x->depth, x->kc));
    x->kc = k_max(64, k_round(k_ceil(x->depth, x->n_kb), 64));
    x->n_kb = k_max(1, k_ceil(x->depth, x->kc));
    x->gap = gap;
    x->stream = x->n_vectors * lanes * (x->depth + gap * x->n_kb);
}

/* What a packed stream takes at most, on any tier and for T tokens or fewer. */
static int64_t k_tiles_stream(const struct k_tiles *x) {
    return k_round(x->T, 16) * (x->depth + k_ceil(x->depth, 64) + 1);
}

static void k_pack_tiles(const struct k_exec *ex, struct k_tiles *x) {
    k_run(ex, x->S * x->n_tiles * x->n_kb, x->S * x->T * x->depth, ex->k->pack_tiles, x);
}

static void k_sparse_y(struct k_sparse_run *r, const struct k_linear_args *a) {
    memset(r, 0, sizeof *r);
    r->y = a;
    r->w = &a->w;
    r->S = a->S;
    r->rows = a->N;
    r->x = (struct k_tiles){.x = a->x, .S = a->x_streams, .T = a->T, .depth = a->K, .round = a->bf16};
}

static void k_sparse_dx(struct k_sparse_run *r, const struct k_linear_dx_args *a) {
    memset(r, 0, sizeof *r);
    r->dx = a;
    r->w = &a->w;
    r->S = a->S;
    r->rows = a->K;
    r->x = (struct k_tiles){.x = a->dy, .S = a->S, .T = a->T, .depth = a->N, .round = a->bf16};
}

/* Whether W itself cannot be read. */
static int k_sparse_copies(const struct k_sparse_run *r) {
    if (r->kept) return 0;
    return r->dx || r->w->type != SCBM_F32 || r->x.round;
}

static int64_t k_sparse_worker(const struct k_sparse_run *r) {
    const int64_t sums = K_SP_SUMS * K_SP_TILES * K_SP_VECTORS * 16, strip = 16 * K_SP_ROWS;
    const int64_t few = strip + K_SP_ROWS * (K_SP_LIST + 16 + K_SP_LIST / 32) + r->S * K_SP_ROWS * K_SP_FEW;
    return k_max(k_max(sums, strip), few);
}

static size_t k_sparse_packed_bytes(const struct k_sparse_run *r) {
    return k_floats(r->x.S * k_tiles_stream(&r->x));
}

static size_t k_sparse_scratch(const struct k_exec *ex, const struct k_sparse_run *r) {
    const int64_t n = r->rows * k_round(r->x.depth, 64);
    size_t bytes = k_sparse_packed_bytes(r) + (size_t)ex->n_workers * k_floats(k_sparse_worker(r));
    if (k_sparse_copies(r)) bytes += k_floats(n);
    if (r->dx) bytes += k_floats(k_ceil(r->S * n, 32));
    return bytes;
}

/* Whether the processor makes lists of masks so fast that it can do so in every product. */
static int k_has_quick_lists(const struct k_table *k) {
#ifdef K_X86
    return k->sparse_few && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("popcnt");
#else
    (void)k;
    return 0;
#endif
}

/* Which kernel, and how it wants x packed. */
static void k_sparse_plan(const struct k_exec *ex, struct k_sparse_run *r, const struct k_kept *kept,
                          const struct k_lists *lists) {
    struct k_tiles *x = &r->x;
    const int is_plain = r->y && !x->round;
    if (is_plain && ex->k->sparse_listed && x->T <= SCBM_FEW_TOKENS) r->lists = lists;
    r->few = r->lists || (k_has_quick_lists(ex->k) && x->T <= K_SP_FEW && (r->S > 1 || k_sparse_copies(r)));
    if (is_plain && !r->few) r->kept = kept;
    if (r->few) k_tiles_plan(x, ex->k->lanes, K_SP_FEW / ex->k->lanes, K_SP_LIST, 1);
    else k_tiles_plan(x, ex->k->lanes, K_SP_VECTORS, r->kept ? 64 : K_SP_KC, 0);
}

static struct k_packed k_sparse_packed(const struct k_sparse_run *r, float *place) {
    const struct k_tiles *x = &r->x;
    return (struct k_packed){x->x,  x->S, x->T, x->depth, x->n_tiles, x->kc, x->gap, K_TILES + x->round,
                             place, 0,    NULL, NULL};
}

/* Gives the next layer its x packed, behind p, instead of storing y; returns what follows. */
static char *k_sparse_feed(const struct k_exec *ex, struct k_sparse_run *r, char *p) {
    struct k_sparse_run next;
    k_sparse_y(&next, r->y->next);
    k_sparse_plan(ex, &next, next.w->kept, next.w->lists);
    if (next.x.n_tiles != r->x.n_tiles) return p; /* one of them has lists: its tiles are others */
    r->out = next.x;
    r->out.packed = (float *)(void *)p;
    struct k_packed packed = k_sparse_packed(&next, r->out.packed);
    packed.is_only = 1;
    packed.kept = next.w->kept;
    packed.lists = next.w->lists;
    *ex->packed = packed;
    return p + k_floats(next.x.S * next.x.stream);
}

static void k_sparse(const struct k_exec *ex, struct k_sparse_run *r) {
    struct k_tiles *x = &r->x;
    const int64_t n = r->rows * k_round(x->depth, 64), work = k_product_work(r->S, x->T, r->rows, x->depth);
    char *p = ex->scratch;
    const struct k_packed *there = k_is_only_packed(ex, x->x) ? ex->packed : NULL;
    k_sparse_plan(ex, r, there ? there->kept : r->w->kept, there ? there->lists : r->w->lists);
    const struct k_packed packed = k_sparse_packed(r, (float *)(void *)p);
    x->packed = k_find_packed(ex, &packed);
    r->worker_bytes = k_floats(k_sparse_worker(r));
    if (!x->packed) {
        x->packed = packed.place;
        k_pack_tiles(ex, x);
    }
    p = (char *)x->packed + k_floats(x->S * x->stream);
    if (r->y && r->y->next) p = k_sparse_feed(ex, r, p);
    if (r->lists) {
        r->nb = k_min(K_SP_ROWS, k_round(k_ceil(r->rows * r->S, 16), 16));
        r->worker = p;
        k_run(ex, r->S * k_ceil(r->rows, k_max(1, r->nb)), work, ex->k->sparse_listed, r);
        return;
    }
    if (r->few) {
        r->nb = k_min(K_SP_ROWS, k_round(k_ceil(r->rows, 8), r->dx ? 64 : 16));
        r->worker = p;
        k_run(ex, x->n_tiles * k_ceil(r->rows, k_max(1, r->nb)), work, ex->k->sparse_few, r);
        return;
    }
    r->tiles = k_max(1, k_min(K_SP_TILES, x->n_tiles));
    if (r->tiles * K_SP_VECTORS * ex->k->lanes * x->depth > K_SP_X2) r->tiles = 1;
    r->n_tb = k_ceil(x->n_tiles, r->tiles);
    r->n_rb = k_max(1, k_min(k_ceil(K_TASKS / 2, k_max(1, r->S * r->n_tb)), k_ceil(r->rows, 32)));
    r->rows_task = k_max(1, k_round(k_ceil(r->rows, r->n_rb), 16));
    r->n_rb = k_ceil(r->rows, r->rows_task);
    r->nb = k_round(k_ceil(r->rows_task, k_ceil(r->rows_task, K_SP_SUMS)), 16);
    if (r->dx) {
        r->mt = (uint8_t *)p;
        p += k_floats(k_ceil(r->S * n, 32));
    }
    if (k_sparse_copies(r)) {
        r->wt = (float *)(void *)p;
        p += k_floats(n);
    }
    r->worker = p;
    if (r->wt) k_run(ex, k_ceil(r->rows, K_SP_ROWS) * k_ceil(x->depth, K_SP_KC), n, ex->k->sparse_prepare, r);
    k_run(ex, r->n_rb * r->S * r->n_tb, work, ex->k->sparse, r);
}

/* Whether the kept weights are few enough to be computed one by one, and their dot products long enough. They are counted
 * anew every time: a word of 64 weights is a dozen instructions, where their products take T for every kept one. */
static int k_sparse_dw_pays(const struct k_linear_dw_args *a) {
    int64_t kept = 0;
    if (!a->mask || a->mode == SCBM_DW_DENSE || a->T < K_SP_MANY) return 0;
    for (int64_t s = 0; s < a->S; s++)
        for (int64_t n = 0; n < a->N; n++)
            for (int64_t k = 0; k < a->K; k += 64)
                kept += k_count_bits(k_mask_word(a->mask + s * a->mask_stream + n * a->mask_row + k / 8));
    return kept * 8 <= a->S * a->N * a->K * 3;
}

static void k_sparse_dw_tiles(struct k_sparse_dw_run *r, const struct k_linear_dw_args *a) {
    r->a = *a;
    r->x = (struct k_tiles){.x = a->x, .S = a->x_streams, .T = a->T, .depth = a->K, .round = a->bf16};
    r->dy = (struct k_tiles){.x = a->dy, .S = a->S, .T = a->T, .depth = a->N, .round = a->bf16};
}

static size_t k_sparse_dw_scratch(const struct k_linear_dw_args *a) {
    struct k_sparse_dw_run r;
    k_sparse_dw_tiles(&r, a);
    return k_floats(r.x.S * k_tiles_stream(&r.x)) + k_floats(r.dy.S * k_tiles_stream(&r.dy));
}

static void k_sparse_dw(const struct k_exec *ex, const struct k_linear_dw_args *a) {
    struct k_sparse_dw_run r;
    const int64_t streams = a->mode == SCBM_DW_SUMMED ? 1 : a->S;
    k_sparse_dw_tiles(&r, a);
    k_tiles_plan(&r.x, ex->k->lanes, K_SP_VECTORS, K_SP_KC, 0);
    k_tiles_plan(&r.dy, ex->k->lanes, K_SP_VECTORS, K_SP_KC, 0);
    r.x.packed = ex->scratch;
    r.dy.packed = (float *)(void *)((char *)ex->scratch + k_floats(r.x.S * r.x.stream));
    k_pack_tiles(ex, &r.x);
    k_pack_tiles(ex, &r.dy);
    r.nb = k_max(1, k_min(K_SP_SUMS, a->N));
    r.n_nb = k_ceil(a->N, r.nb);
    r.kb_task = k_ceil(r.x.n_kb, k_max(1, k_ceil(K_TASKS / 2, k_max(1, streams * r.n_nb))));
    r.n_cb = k_ceil(r.x.n_kb, r.kb_task);
    k_run(ex, r.n_cb * r.n_nb * streams, k_product_work(a->S, a->T, a->N, a->K), ex->k->sparse_dw, &r);
}

/* ---- Products: linear ---- */

/* How a layer's products are computed: in panels (f32, or rounded to bf16), in pairs (bf16 of their own), on matrix
 * tiles, weight by weight, or in quantized blocks. */
enum k_linear_kind { K_BY_PANELS, K_BY_PAIRS, K_BY_TILES, K_BY_WEIGHT, K_BY_BLOCKS };

static enum k_linear_kind k_linear_kind(const struct k_exec *ex, const struct k_linear_args *a) {
    const int in_bf16 = a->bf16 && ex->k->bf16;
    if (a->w.mask && !in_bf16) return K_BY_WEIGHT;
    if (a->int8 && a->K && (a->w.type == SCBM_Q8_0 || a->w.type == SCBM_Q4_0)) return K_BY_BLOCKS;
    return ex->k->has_tiles ? K_BY_TILES : in_bf16 ? K_BY_PAIRS : K_BY_PANELS;
}

/* Whether the processor has products of four bytes. */
static int k_has_quads(const struct k_table *k) {
    if (!k->linear_quads) return 0;
#if defined(K_X86)
    return __builtin_cpu_supports("avx512vnni");
#elif defined(K_DOTPROD)
    return k_has_dotprod();
#else
    return 0;
#endif
}

static size_t k_linear_worker(const struct k_linear_run *r) {
    if (r->per) return k_floats(K_MR_MAX * K_KC_LD) + k_floats((r->nb + K_MR_MAX) * r->tb);
    if (r->parts) return k_floats(K_STRIP * K_KC * r->parts) + k_floats(r->nb * r->tb + K_STRIP * K_PANEL_MAX);
    return k_floats(K_MR_MAX * K_KC_LD) + k_floats(r->nb * r->tb + K_MR_MAX * K_PANEL_MAX);
}

static void k_linear_plan(const struct k_exec *ex, struct k_linear_run *r, enum k_linear_kind kind) {
    const struct k_linear_args *a = &r->a;
    const int64_t rows = kind == K_BY_TILES ? K_STRIP : K_MR_MAX, tiles = k_ceil(a->N, rows);
    int64_t per = k_max(1, k_min(8, 262144 / (rows * 4 * k_max(1, a->K))));
    r->parts = kind != K_BY_TILES ? 0 : a->bf16 ? 1 : 3;
    r->round = a->bf16 && kind == K_BY_PANELS;
    r->per = kind != K_BY_BLOCKS ? 0 : k_has_quads(ex->k) ? 4 : 2;
    r->kp = r->per               ? a->K / K_BLOCK * (K_BLOCK / r->per + 1)
            : kind == K_BY_TILES ? k_round(a->K, K_STRIP) / 2 * r->parts
            : kind == K_BY_PAIRS ? (a->K + 1) / 2
                                 : a->K;
    r->n_kb = k_max(1, k_ceil(a->K, K_KC));
    r->kc = k_round(k_ceil(a->K, r->n_kb), 32);
    r->n_kb = k_max(1, k_ceil(a->K, r->kc ? r->kc : 1));
    r->n_tb = k_max(1, k_ceil(a->T, K_TB));
    r->tb = k_round(k_ceil(a->T, r->n_tb), K_PANEL_MAX);
    while (per > 1 && r->n_tb * k_ceil(tiles, per) < K_TASKS) per--;
    r->nb = per * rows;
    r->n_nb = k_ceil(a->N, r->nb);
    r->n_tb = r->tb ? k_ceil(a->T, r->tb) : 0;
    r->xp_stream = k_round(a->T, K_PANEL_MAX) * (r->per ? a->K + r->kp : k_max(r->kp, k_round(a->K, 2)));
    r->worker_bytes = k_linear_worker(r);
}

/* Whether y can be left packed for a->next: in f32, where both layers compute in the same way. */
static int k_linear_feeds(const struct k_exec *ex, const struct k_linear_args *a) {
    if (!a->next || a->pre || a->bf16) return 0;
    const enum k_linear_kind kind = k_linear_kind(ex, a);
    return kind == k_linear_kind(ex, a->next) && !(kind == K_BY_TILES && a->N % K_STRIP);
}

/* The bytes of packed x, at most, behind which the layer's other scratch lies. */
static size_t k_linear_packed_bytes(const struct k_exec *ex, const struct k_linear_args *a) {
    const enum k_linear_kind kind = k_linear_kind(ex, a);
    if (kind == K_BY_WEIGHT) {
        struct k_sparse_run p;
        k_sparse_y(&p, a);
        return k_sparse_packed_bytes(&p);
    }
    struct k_linear_run r = {.a = *a};
    k_linear_plan(ex, &r, kind);
    return k_floats(a->x_streams * r.xp_stream);
}

K_OP size_t k_linear_scratch(const struct k_exec *ex, const struct k_linear_args *a) {
    const enum k_linear_kind kind = k_linear_kind(ex, a);
    if (k_linear_feeds(ex, a)) {
        struct k_linear_args alone = *a, next = *a->next;
        alone.next = next.next = NULL;
        const size_t bytes = k_linear_packed_bytes(ex, &next) + k_linear_scratch(ex, &alone);
        return k_max((int64_t)bytes, (int64_t)(k_linear_packed_bytes(ex, a) + k_linear_scratch(ex, &next)));
    }
    if (kind == K_BY_WEIGHT) {
        struct k_sparse_run p;
        k_sparse_y(&p, a);
        return k_sparse_scratch(ex, &p);
    }
    struct k_linear_run r = {.a = *a};
    k_linear_plan(ex, &r, kind);
    r.tb = k_min(K_TB, k_round(a->T, K_PANEL_MAX));
    return k_linear_packed_bytes(ex, a) + (size_t)ex->n_workers * k_linear_worker(&r);
}

/* What x is packed in takes the place of f32 panels [K][T], where the layer before may have left it, and behind that the
 * blocks. */
static void k_linear_blocks(const struct k_exec *ex, const struct k_linear_args *a) {
    struct k_linear_run r = {.a = *a};
    k_linear_plan(ex, &r, K_BY_BLOCKS);
    float *const panels = k_is_only_packed(ex, a->x) ? ex->packed->place : NULL;
    float *const place = panels ? panels : ex->scratch;
    struct k_packed packed = {a->x, 1, a->T, a->K, 0, 0, 0, K_BLOCKS, place + k_round(a->T, K_PANEL_MAX) * a->K,
                              0,    NULL, NULL};
    r.xp = k_find_packed(ex, &packed);
    if (!r.xp) {
        r.xp = packed.place;
        struct k_pack_run p = {.x = panels ? panels : a->x,
                               .xp = r.xp,
                               .T = a->T,
                               .K = a->K,
                               .kc = K_KC,
                               .n_kc = k_ceil(a->K, K_KC),
                               .n_panels = k_ceil(a->T, K_PANEL_MAX),
                               .is_in_panels = !!panels};
        k_run(ex, p.n_panels * p.n_kc, a->T * a->K, r.per == 4 ? ex->k->pack_quads : ex->k->pack_blocks, &p);
    }
    r.worker = (char *)(r.xp + k_round(k_round(a->T, K_PANEL_MAX) * r.kp, 16));
    if (a->next) {
        r.out = (float *)(void *)r.worker;
        struct k_linear_run next = {.a = *a->next};
        k_linear_plan(ex, &next, K_BY_BLOCKS);
        r.worker += k_floats(next.xp_stream);
        packed = (struct k_packed){a->y, 1, a->T, a->N, 0, 0, 0, K_PANELS_FOR_BLOCKS, r.out, 1, NULL, NULL};
        *ex->packed = packed;
    }
    k_run(ex, r.n_nb * r.n_tb, k_product_work(1, a->T, a->N, a->K),
          r.per == 4 ? ex->k->linear_quads : ex->k->linear_blocks, &r);
}

K_OP void k_linear(const struct k_exec *ex, const struct k_linear_args *args) {
    struct k_linear_args a = *args;
    const enum k_linear_kind kind = k_linear_kind(ex, &a);
    if (!ex->packed || !k_linear_feeds(ex, &a) || k_is_only_packed(ex, a.x))
        a.next = NULL; /* scratch has room for two packed x */
    if (kind == K_BY_WEIGHT) {
        struct k_sparse_run p;
        k_sparse_y(&p, &a);
        k_sparse(ex, &p);
        return;
    }
    if (kind == K_BY_BLOCKS) {
        k_linear_blocks(ex, &a);
        return;
    }
    const int in_bf16 = kind != K_BY_PANELS; /* pairs, or parts */
    struct k_linear_run r = {.a = a};
    k_linear_plan(ex, &r, kind);
    const int64_t how = kind == K_BY_TILES ? K_PARTS + r.parts : kind == K_BY_PAIRS ? K_PAIRS : K_PANELS + r.round;
    float *place = ex->scratch;
    struct k_packed packed = {a.x, a.x_streams, a.T, a.K, 0, 0, 0, how, place, 0, NULL, NULL};
    r.xp = k_find_packed(ex, &packed);
    if (!r.xp) {
        r.xp = place;
        k_pack(ex, in_bf16 ? ex->k->pack_x_bf16 : ex->k->pack_x, a.x, r.xp, a.x_streams, a.T, a.K, r.xp_stream, r.round,
               r.parts);
    }
    r.worker = (char *)r.xp + k_floats(a.x_streams * r.xp_stream);
    if (a.next) { /* as k_sparse_feed */
        struct k_linear_run next = {.a = *a.next};
        k_linear_plan(ex, &next, kind);
        r.out = (float *)(void *)r.worker;
        r.out_stream = next.xp_stream;
        r.worker += k_floats(a.S * r.out_stream);
        packed = (struct k_packed){a.y, a.S, a.T, a.N, 0, 0, 0, how, r.out, 1, NULL, NULL};
        *ex->packed = packed;
    }
    k_run(ex, r.n_nb * r.n_tb, k_product_work(a.S, a.T, a.N, a.K), in_bf16 ? ex->k->linear_bf16 : ex->k->linear, &r);
}

static size_t k_dx_worker(const struct k_dx_run *r) {
    return k_floats(K_DX_KC * K_DX_COLS) + k_floats(K_DX_COLS * r->tb + K_MR_MAX * K_PANEL_MAX);
}

static void k_dx_plan(struct k_dx_run *r) {
    const struct k_linear_dx_args *a = &r->a;
    r->kc = K_DX_KC;
    r->n_kb = k_max(1, k_ceil(a->N, r->kc));
    r->n_cb = k_ceil(a->K, K_DX_COLS);
    r->n_tb = k_max(1, k_ceil(a->T, K_TB));
    r->tb = k_round(k_ceil(a->T, r->n_tb), K_PANEL_MAX);
    r->n_tb = r->tb ? k_ceil(a->T, r->tb) : 0;
    r->dyp_stream = k_round(a->T, K_PANEL_MAX) * a->N;
    r->worker_bytes = k_dx_worker(r);
}

K_OP size_t k_linear_dx_scratch(const struct k_exec *ex, const struct k_linear_dx_args *a) {
    struct k_dx_run r;
    if (a->w.mask) {
        struct k_sparse_run p;
        k_sparse_dx(&p, a);
        return k_sparse_scratch(ex, &p);
    }
    r.a = *a;
    k_dx_plan(&r);
    r.tb = k_min(K_TB, k_round(a->T, K_PANEL_MAX));
    return k_floats(a->S * r.dyp_stream) + (size_t)ex->n_workers * k_dx_worker(&r);
}

K_OP void k_linear_dx(const struct k_exec *ex, const struct k_linear_dx_args *a) {
    struct k_dx_run r;
    if (a->w.mask) {
        struct k_sparse_run p;
        k_sparse_dx(&p, a);
        k_sparse(ex, &p);
        return;
    }
    r.a = *a;
    k_dx_plan(&r);
    r.dyp = ex->scratch;
    r.worker = (char *)ex->scratch + k_floats(a->S * r.dyp_stream);
    k_pack(ex, ex->k->pack_x, a->dy, r.dyp, a->S, a->T, a->N, r.dyp_stream, a->bf16, 0);
    k_run(ex, r.n_cb * r.n_tb, k_product_work(a->S, a->T, a->N, a->K), ex->k->linear_dx, &r);
}

static void k_dw_plan(struct k_dw_run *r) {
    const struct k_linear_dw_args *a = &r->a;
    int64_t per = 4;
    r->tc = K_KC;
    r->n_tc = k_max(1, k_ceil(a->T, r->tc));
    r->n_cb = k_ceil(a->K, K_DW_COLS);
    while (per > 1 && r->n_cb * k_ceil(a->N, per * K_MR_MAX) < K_TASKS) per--;
    r->nb = per * K_MR_MAX;
    r->n_nb = k_ceil(a->N, r->nb);
    r->xp_stream = a->T * k_round(a->K, K_PANEL_MAX);
    r->worker_bytes = k_floats(K_MR_MAX * K_KC) + k_floats(r->nb * K_DW_COLS);
}

K_OP size_t k_linear_dw_scratch(const struct k_exec *ex, const struct k_linear_dw_args *a) {
    struct k_dw_run r;
    size_t bytes, sparse;
    r.a = *a;
    k_dw_plan(&r);
    bytes = k_floats(a->x_streams * r.xp_stream) + (size_t)ex->n_workers * r.worker_bytes;
    sparse = k_sparse_dw_scratch(a);
    return a->mask && a->mode != SCBM_DW_DENSE && sparse > bytes ? sparse : bytes;
}

K_OP void k_linear_dw(const struct k_exec *ex, const struct k_linear_dw_args *a) {
    struct k_dw_run r;
    struct k_pack_run p;
    if (k_sparse_dw_pays(a)) {
        k_sparse_dw(ex, a);
        return;
    }
    r.a = *a;
    k_dw_plan(&r);
    r.xp = ex->scratch;
    r.worker = (char *)ex->scratch + k_floats(a->x_streams * r.xp_stream);
    p = (struct k_pack_run){a->x, r.xp, a->x_streams, a->T, a->K, r.xp_stream, 64, k_ceil(a->T, 64), r.n_cb, a->bf16,
                            0,    0};
    k_run(ex, p.S * p.n_panels * p.n_kc, p.S * a->T * a->K, ex->k->pack_cols, &p);
    k_run(ex, r.n_cb * r.n_nb * (a->mode == SCBM_DW_SUMMED ? 1 : a->S), k_product_work(a->S, a->T, a->N, a->K),
          ex->k->linear_dw, &r);
}

/* ---- Attention ---- */

/* Every token with its text's keys, in vectors, and what a token costs by itself. */
static int64_t k_attention_work(const struct k_attention_args *a) {
    return a->S * a->T * a->H * (a->max_len * a->D / 8 + a->D);
}

static size_t k_attention_worker(const struct k_attention_args *a) {
    const int64_t P = k_round(a->max_len, 32), DP = k_round(a->D, 32);
    return k_floats(P * a->D + P * DP + K_MR_MAX * (P + DP) + 4 * P + (a->has_bias ? 2 * P + 32 : 0));
}

K_OP size_t k_attention_scratch(const struct k_exec *ex, const struct k_attention_args *a) {
    return (size_t)k_round((a->n_texts + 1) * 4, 64) + (size_t)ex->n_workers * k_attention_worker(a);
}

K_OP void k_attention(const struct k_exec *ex, const struct k_attention_args *a) {
    struct k_attention_run r;
    int32_t n = 0;
    r.a = *a;
    r.a.ld = a->H * a->D;
    r.chunk_of = ex->scratch;
    for (int64_t i = 0; i < a->n_texts; i++) {
        r.chunk_of[i] = n;
        n += (int32_t)k_ceil(a->offsets[i + 1] - a->offsets[i], K_ATT_CHUNK);
    }
    if (n == 0) return;
    r.chunk_of[a->n_texts] = n;
    r.n_chunks = n;
    r.worker = (char *)ex->scratch + k_round((a->n_texts + 1) * 4, 64);
    r.worker_bytes = k_attention_worker(a);
    k_run(ex, n * a->S * a->H, k_attention_work(a), ex->k->attention, &r);
}

static size_t k_attention_back_worker(const struct k_attention_args *a) {
    const int64_t P = k_round(a->max_len, 32), DP = k_round(a->D, 32);
    return k_floats(2 * P * a->D + 5 * P * DP + 2 * K_ATT_ROWS * P + K_MR_MAX * DP + 4 * P) +
           (a->has_bias ? k_floats(2 * (2 * P + 32)) : 0);
}

static size_t k_attention_part(const struct k_attention_args *a) {
    return a->has_bias ? k_floats(2 * a->S * a->H * a->T) : 0;
}

K_OP size_t k_attention_back_scratch(const struct k_exec *ex, const struct k_attention_args *a) {
    return k_attention_part(a) + (size_t)ex->n_workers * k_attention_back_worker(a);
}

K_OP void k_attention_back(const struct k_exec *ex, const struct k_attention_args *a) {
    struct k_attention_run r;
    r.a = *a;
    r.a.ld = a->H * a->D;
    r.part = ex->scratch;
    r.worker = (char *)ex->scratch + k_attention_part(a);
    r.worker_bytes = k_attention_back_worker(a);
    k_run(ex, a->n_texts * a->S * a->H, k_attention_work(a), ex->k->attention_back, &r);
    if (a->has_bias) k_run(ex, a->H, a->S * a->T * a->H * 2, ex->k->attention_bias_gather, &r);
}

/* ---- Rows ---- */

/* Rows of a task, and of a block whose sums are one part: by the shape only. */
static int64_t k_rows_block(int64_t C) {
    return k_max(1, 4096 / k_max(1, C));
}
static int64_t k_sum_block(int64_t R) {
    return k_max(16, k_ceil(R, 64));
}
/* The most such blocks that R rows or fewer have. */
static int64_t k_sum_blocks(int64_t R) {
    return k_max(1, k_min(64, k_ceil(R, 16)));
}

K_OP void k_layer_norm(const struct k_exec *ex, const struct k_layer_norm_args *a) {
    struct k_layer_norm_run r;
    r.a = *a;
    r.block = k_rows_block(a->C);
    k_run(ex, k_ceil(a->R, r.block), a->R * a->C, ex->k->layer_norm, &r);
}

K_OP size_t k_layer_norm_back_scratch(const struct k_exec *ex, const struct k_layer_norm_back_args *a) {
    (void)ex;
    return k_floats(k_sum_blocks(a->R) * 2 * a->C);
}

K_OP void k_layer_norm_back(const struct k_exec *ex, const struct k_layer_norm_back_args *a) {
    struct k_layer_norm_back_run r;
    r.a = *a;
    r.part = ex->scratch;
    r.block = k_sum_block(a->R);
    r.n_blocks = k_ceil(a->R, r.block);
    k_run(ex, r.n_blocks, a->R * a->C, ex->k->layer_norm_back, &r);
    if (a->dgamma)
        k_run(ex, k_ceil((a->dbeta ? 2 : 1) * a->C, 512), 2 * r.n_blocks * a->C, ex->k->layer_norm_gather, &r);
}

K_OP void k_softmax(const struct k_exec *ex, float *y, const float *x, int64_t R, int64_t C) {
    struct k_rows_run r = {y, NULL, x, NULL, NULL, R, C, k_rows_block(C), 0};
    k_run(ex, k_ceil(R, r.block), R * C, ex->k->softmax, &r);
}

K_OP void k_softmax_back(const struct k_exec *ex, float *dx, const float *dy, const float *y, int64_t R, int64_t C) {
    struct k_rows_run r = {dx, NULL, NULL, y, dy, R, C, k_rows_block(C), 0};
    k_run(ex, k_ceil(R, r.block), R * C, ex->k->softmax_back, &r);
}

K_OP size_t k_colsum_scratch(const struct k_exec *ex, int64_t R, int64_t C) {
    (void)ex;
    return k_sum_blocks(R) > 1 ? k_floats(k_sum_blocks(R) * C) : 0;
}

/* y[C] = sum over rows of x[R,C]; the sum of one block of rows is y itself. */
K_OP void k_colsum(const struct k_exec *ex, float *y, const float *x, int64_t R, int64_t C) {
    struct k_rows_run r = {y, ex->scratch, x, NULL, NULL, R, C, k_sum_block(R), 0};
    r.n_blocks = k_ceil(R, r.block);
    if (r.n_blocks == 1) r.part = y;
    k_run(ex, r.n_blocks * k_ceil(C, K_CHUNK), R * C, ex->k->colsum, &r);
    if (r.n_blocks != 1) k_run(ex, k_ceil(C, 512), r.n_blocks * C, ex->k->colsum_gather, &r);
}

/* y[R] = sum over columns of x[R,C] */
K_OP void k_rowsum(const struct k_exec *ex, float *y, const float *x, int64_t R, int64_t C) {
    struct k_rows_run r = {y, NULL, x, NULL, NULL, R, C, k_rows_block(C), 0};
    k_run(ex, k_ceil(R, r.block), R * C, ex->k->rowsum, &r);
}

/* ---- Element by element: y may be an input ---- */

static void k_map(const struct k_exec *ex, scbm_task task, struct k_map_run *r) {
    k_run(ex, k_ceil(r->n, K_CHUNK), r->n, task, r);
}

K_OP void k_act(const struct k_exec *ex, float *y, const float *x, int act, int64_t n) {
    struct k_map_run r = {.y = y, .a = x, .n = n, .op = act};
    k_map(ex, ex->k->act, &r);
}

K_OP void k_act_back(const struct k_exec *ex, float *dx, const float *dy, const float *x, int act, int64_t n) {
    struct k_map_run r = {.y = dx, .a = dy, .b = x, .n = n, .op = act};
    k_map(ex, ex->k->act_back, &r);
}

/* Element i has counter ((i / 64) * 16 + i % 16 as 64 bits, op * 65536, step), word i / 16 % 4. */
K_OP void k_dropout(const struct k_exec *ex, float *y, const float *x, int64_t n, const struct k_dropout_args *d) {
    struct k_map_run r = {.y = y, .a = x, .n = n, .d = *d};
    k_map(ex, ex->k->dropout, &r);
}

/* y[i] = a[i] op b[i / b_rep % b_n], i < n: b_n = n, b_rep = 1 for equal shapes; b_n = C for a row b[C] on a[R,C];
 * b_n = R, b_rep = C for a column. */
K_OP void k_binary(const struct k_exec *ex, float *y, const float *a, const float *b, int op, int64_t n, int64_t b_n,
                   int64_t b_rep) {
    struct k_map_run r = {.y = y, .a = a, .b = b, .n = n, .op = op, .b_n = b_n, .b_rep = b_rep};
    k_map(ex, ex->k->binary, &r);
}

K_OP void k_scale(const struct k_exec *ex, float *y, const float *x, float s, int64_t n) {
    struct k_map_run r = {.y = y, .a = x, .n = n, .s = s};
    k_map(ex, ex->k->scale, &r);
}

K_OP void k_fill(const struct k_exec *ex, float *y, float s, int64_t n) {
    struct k_map_run r = {.y = y, .n = n, .s = s};
    k_map(ex, ex->k->scale, &r);
}

K_OP size_t k_reduce_scratch(const struct k_exec *ex, int64_t n) {
    (void)ex;
    return (size_t)k_round(k_ceil(n, K_CHUNK), 8) * sizeof(double);
}

/* sum a or sum a^2, in f64 */
K_OP double k_reduce(const struct k_exec *ex, int op, const float *a, int64_t n) {
    struct k_map_run r = {.a = a, .n = n, .op = op, .part = ex->scratch};
    double sum = 0;
    k_map(ex, ex->k->reduce, &r);
    for (int64_t i = 0; i < k_ceil(n, K_CHUNK); i++) sum += r.part[i];
    return sum;
}

K_OP void k_adamw(const struct k_exec *ex, const struct k_adamw_args *a) {
    struct k_adamw_args r = *a;
    k_run(ex, k_ceil(a->n, K_CHUNK), a->n, ex->k->adamw, &r);
}

/* ---- Embeddings, pooling, loss ---- */

/* y[n,C] = rows ids[n] of a table of any type (mask unused) */
K_OP void k_get_rows(const struct k_exec *ex, float *y, const struct k_weights *table, const int32_t *ids, int64_t n,
                     int64_t C) {
    struct k_gather_run r = {.y = y, .w = *table, .ids = ids, .n = n, .C = C, .block = k_rows_block(C)};
    k_run(ex, k_ceil(n, r.block), n * C, ex->k->get_rows, &r);
}

/* dtable[rows,C] = for each i: dy[i] into row ids[i]; dy is [n,C] */
K_OP void k_get_rows_back(const struct k_exec *ex, float *dtable, const float *dy, const int32_t *ids, int64_t n,
                          int64_t rows, int64_t C) {
    struct k_gather_run r = {.y = dtable, .dy = dy, .ids = ids, .n = n, .C = C, .rows = rows};
    r.block = k_max(1, k_ceil(rows, 64));
    k_run(ex, k_ceil(rows, r.block), (rows + n) * C, ex->k->get_rows_back, &r);
}

/* y[S,B,C]: means over the tokens of x[S,T,C] that offsets[B + 1] give to each text; 0 for an empty text */
K_OP void k_segment_mean(const struct k_exec *ex, float *y, const float *x, const int32_t *offsets, int64_t B,
                         int64_t S, int64_t T, int64_t C) {
    struct k_segment_run r = {y, x, offsets, B, S, T, C};
    k_run(ex, S * B, S * T * C, ex->k->segment_mean, &r);
}

/* dx[S,T,C] = dy[S,B,C] / length; tokens outside every text are left alone */
K_OP void k_segment_mean_back(const struct k_exec *ex, float *dx, const float *dy, const int32_t *offsets, int64_t B,
                              int64_t S, int64_t T, int64_t C) {
    struct k_segment_run r = {dx, dy, offsets, B, S, T, C};
    k_run(ex, S * B, S * T * C, ex->k->segment_mean_back, &r);
}

/* ---- LSTM ---- */

static void k_lstm_plan(const struct k_exec *ex, struct k_lstm_run *r) {
    const int64_t H = r->a.H, streams = r->a.w.mask ? r->a.S : 1;
    r->ld = k_round(r->is_back ? H : 4 * H, 32);
    r->stream = (r->is_back ? 4 * H : H) * r->ld;
    r->carried = K_LSTM_TEXTS * 2 * k_round(H, 32);
    r->w = ex->scratch;
    r->carry = r->w ? r->w + streams * r->stream : NULL;
}

K_OP size_t k_lstm_scratch(const struct k_exec *ex, const struct k_lstm_args *a, int is_back) {
    struct k_lstm_run r = {.a = *a, .is_back = is_back};
    k_lstm_plan(ex, &r);
    return k_floats((a->w.mask ? a->S : 1) * r.stream) + (is_back ? k_floats(ex->n_workers * r.carried) : 0);
}

K_OP void k_lstm(const struct k_exec *ex, const struct k_lstm_args *a, int is_back) {
    struct k_lstm_run r = {.a = *a, .is_back = is_back};
    const int64_t streams = a->w.mask ? a->S : 1, blocks = k_ceil(4 * a->H, K_LSTM_ROWS);
    k_lstm_plan(ex, &r);
    if (a->n_texts == 0) return;
    if (r.ld > (is_back ? a->H : 4 * a->H))
        memset(r.w, 0, (size_t)(streams * r.stream) * sizeof *r.w); /* what pads rows */
    k_run(ex, streams * blocks, streams * 4 * a->H * a->H, ex->k->lstm_weights, &r);
    k_run(ex, a->S * k_ceil(a->n_texts, K_LSTM_TEXTS), a->S * a->T * 4 * a->H * a->H,
          is_back ? ex->k->lstm_back : ex->k->lstm, &r);
}

K_OP size_t k_cross_entropy_scratch(const struct k_exec *ex, int64_t R) {
    (void)ex;
    return (size_t)k_round(2 * R, 8) * sizeof(double);
}

K_OP void k_cross_entropy(const struct k_exec *ex, const struct k_cross_entropy_args *a) {
    struct k_cross_entropy_run r;
    double loss = 0, total = 0;
    r.a = *a;
    r.part = ex->scratch;
    r.factor = 0.0f;
    k_run(ex, k_ceil(a->R, 64), a->R * a->C, ex->k->cross_entropy, &r);
    for (int64_t i = 0; i < a->R; i++) {
        loss += r.part[2 * i];
        total += r.part[2 * i + 1];
    }
    *a->loss = total > 0 ? (float)(loss / total) : 0.0f;
    *a->total = (float)total;
}

K_OP void k_cross_entropy_back(const struct k_exec *ex, const struct k_cross_entropy_args *a) {
    struct k_cross_entropy_run r;
    r.a = *a;
    r.part = NULL;
    r.factor = *a->total > 0.0f ? *a->dloss / *a->total : 0.0f;
    k_run(ex, k_ceil(a->R, 64), a->R * a->C, ex->k->cross_entropy_back, &r);
}

/* ==========================================================================================
 * Part 5: the CPU backend
 * ======================================================================================== */

/* ------------------------------------------------------------------------------------------
 * CPU backend: conversion
 * ---------------------------------------------------------------------------------------- */

static void convert_to_f32(float *to, scbm_type type, const void *from, int64_t n) {
    struct k_convert_run run = {to, from, type, 1, n, 0, 0};
    k_best()->to_f32(&run, 0, 0);
}

static void convert_from_f32(scbm_type type, void *to, const float *from, int64_t n) {
    struct k_convert_run run = {to, from, type, 1, n, 0, 0};
    k_best()->from_f32(&run, 0, 0);
}

/* ------------------------------------------------------------------------------------------
 * CPU backend: kept weights, side by side
 * ---------------------------------------------------------------------------------------- */

/* A packed form, and what it was made of. */
struct scbm_packed {
    struct k_kept kept;
    struct k_lists lists;
    const void *weights, *masks;
    uint64_t weights_generation, masks_generation;
};

/* The host program's threads may share the tensors, with or without OpenMP. (Without C11's atomics they must not pack while
 * others run.) */
#ifndef __STDC_NO_ATOMICS__
static _Atomic(scbm_packed *) *packed_place(scbm_tensor *masks, int few) {
    return (_Atomic(scbm_packed *) *)(void *)&masks->packed[few];
}

static scbm_packed *get_packed(scbm_tensor *masks, int few) {
    return atomic_load_explicit(packed_place(masks, few), memory_order_acquire);
}

/* Puts `packed` in the place of `before`; 0 if another stands there by now. */
static int replace_packed(scbm_tensor *masks, int few, scbm_packed *before, scbm_packed *packed) {
    return atomic_compare_exchange_strong_explicit(packed_place(masks, few), &before, packed, memory_order_acq_rel,
                                                   memory_order_relaxed);
}
#else
static scbm_packed *get_packed(scbm_tensor *masks, int few) {
    return masks->packed[few];
}

static int replace_packed(scbm_tensor *masks, int few, scbm_packed *before, scbm_packed *packed) {
    if (masks->packed[few] != before) return 0;
    masks->packed[few] = packed;
    return 1;
}
#endif

/* What linear layers of these tensors may use; NULL if there is nothing. */
static const scbm_packed *packed_weights(const scbm_tensor *w, scbm_tensor *masks, int few) {
    const scbm_packed *packed = masks ? get_packed(masks, few) : NULL;
    if (!packed || packed->weights != w->data || packed->masks != masks->data ||
        packed->weights_generation != w->generation || packed->masks_generation != masks->generation)
        return NULL;
    return packed;
}

static scbm_status check_packable(const scbm_tensor *w, const scbm_tensor *masks) {
    if (!w || !masks || !w->data || !masks->data)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "masks can be packed when they and their weights are there");
    if (w->n_dims != 2 || masks->n_dims != 3 || masks->type != SCBM_I8 || !type_table[w->type].is_float ||
        masks->shape[1] != w->shape[0] || masks->shape[2] != scbm_mask_row_bytes(w->shape[1]))
        return scbm_fail(SCBM_ERROR_SHAPE, "%s: these are no masks of %s", masks->name, w->name);
    return SCBM_OK;
}

/* The bits of a row among kc columns from k0. */
static int64_t count_row(const scbm_tensor *masks, int64_t columns, int64_t s, int64_t row, int64_t k0, int64_t kc) {
    const uint8_t *mask = (const uint8_t *)masks->data + (s * masks->shape[1] + row) * masks->shape[2];
    int64_t n = 0;
    for (int64_t k = k0; k < columns && k < k0 + kc; k += 64)
        n += k_count_bits(k_first_bits(k_mask_word(mask + k / 8), columns - k));
    return n;
}

/* Where the parts of a packed form begin in its memory (NULL: only how long it is), which is returned. */
static size_t place_kept(struct k_kept *kept, char *memory, int64_t n_values) {
    const int64_t words = kept->S * kept->n_kb * kept->rows, groups = kept->S * kept->n_kb * k_ceil(kept->rows, 16);
    const size_t at_first = (size_t)words * 8, at_values = at_first + (size_t)groups * 8;
    if (memory) {
        kept->words = (uint64_t *)(void *)memory;
        kept->first = (int64_t *)(void *)(memory + at_first);
        kept->values = (float *)(void *)(memory + at_values);
    }
    return at_values + (size_t)n_values * 4;
}

static size_t place_lists(struct k_lists *lists, char *memory, int64_t entries) {
    const size_t at_values = k_floats(2 * (lists->S * lists->n_kb * k_ceil(lists->rows, 4) + 1));
    if (memory) {
        lists->first = (int64_t *)(void *)memory;
        lists->values = (float *)(void *)(memory + at_values);
        lists->columns = (uint8_t *)(lists->values + 4 * entries);
    }
    return at_values + (size_t)entries * 20;
}

/* Fills what says where values begin, or counts them only. */
static int64_t index_kept(const struct k_kept *kept, const scbm_tensor *masks, int64_t columns) {
    int64_t n = 0, at = 0;
    for (int64_t s = 0; s < kept->S; s++)
        for (int64_t kb = 0; kb < kept->n_kb; kb++)
            for (int64_t row = 0; row < kept->rows; row++, at++) {
                const uint8_t *mask = (const uint8_t *)masks->data + (s * kept->rows + row) * masks->shape[2] + kb * 8;
                const uint64_t word = k_first_bits(k_mask_word(mask), columns - kb * 64);
                if (kept->words) kept->words[at] = word;
                if (kept->first && row % 16 == 0)
                    kept->first[(s * kept->n_kb + kb) * k_ceil(kept->rows, 16) + row / 16] = n;
                n += k_count_bits(word);
            }
    return n;
}

static int64_t index_lists(const struct k_lists *lists, const scbm_tensor *masks, int64_t columns) {
    int64_t n = 0, at = 0;
    for (int64_t s = 0; s < lists->S; s++)
        for (int64_t kb = 0; kb < lists->n_kb; kb++)
            for (int64_t row = 0; row < lists->rows; row += 4, at++) {
                int64_t longest = 0;
                for (int64_t i = row; i < k_min(row + 4, lists->rows); i++)
                    longest = k_max(longest, count_row(masks, columns, s, i, kb * lists->kc, lists->kc));
                if (lists->first) lists->first[at] = n;
                n += longest;
            }
    if (lists->first) lists->first[at] = n;
    return n;
}

/* How the forms are cut, and how many values (entries of lists) one of them has. */
static int64_t plan_packed(scbm_packed *packed, const scbm_tensor *w, const scbm_tensor *masks, int few) {
    struct k_tiles x = {.S = 1, .T = K_SP_FEW, .depth = w->shape[1]};
    k_tiles_plan(&x, 16, K_SP_FEW / 16, K_SP_LIST, 1); /* on every tier */
    packed->kept = (struct k_kept){.S = masks->shape[0], .rows = w->shape[0], .n_kb = masks->shape[2] / 8};
    packed->lists = (struct k_lists){.S = masks->shape[0], .rows = w->shape[0], .kc = x.kc, .n_kb = x.n_kb};
    packed->weights = w->data;
    packed->masks = masks->data;
    packed->weights_generation = w->generation;
    packed->masks_generation = masks->generation;
    return few ? index_lists(&packed->lists, masks, w->shape[1]) : index_kept(&packed->kept, masks, w->shape[1]);
}

/* Its bytes. With memory for the form behind `packed` itself (place) its parts are put there. */
static size_t place_packed(scbm_packed *packed, int few, int64_t n, int place) {
    const size_t head = k_floats((int64_t)sizeof *packed / 4);
    char *memory = place ? (char *)packed + head : NULL;
    return head + (few ? place_lists(&packed->lists, memory, n) : place_kept(&packed->kept, memory, n));
}

/* Where there is nothing to pack, or it would be in vain. */
static int is_never_packed(const scbm_tensor *w, int few) {
    return !w->shape[1] || (few && !k_best()->sparse_listed);
}

scbm_status scbm_masks_packed_bytes(const scbm_tensor *w, const scbm_tensor *masks, int few, size_t *bytes) {
    scbm_packed packed;
    *bytes = 0;
    scbm_status status = check_packable(w, masks);
    if (status || is_never_packed(w, few)) return status;
    *bytes = place_packed(&packed, few, plan_packed(&packed, w, masks, few), 0);
    return SCBM_OK;
}

scbm_status scbm_masks_pack(scbm_tensor *masks, const scbm_tensor *w, int few, const scbm_hooks *hooks) {
    scbm_packed plan;
    const struct k_table *k = k_best();
    scbm_status status = check_packable(w, masks);
    if (status || is_never_packed(w, few) || packed_weights(w, masks, few)) return status;
    scbm_packed *before = get_packed(masks, few);
    const int64_t n = plan_packed(&plan, w, masks, few);
    scbm_packed *packed = scbm_alloc(hooks, place_packed(&plan, few, n, 0));
    if (!packed) return SCBM_ERROR_MEMORY;
    *packed = plan;
    place_packed(packed, few, n, 1);
    if (few) index_lists(&packed->lists, masks, w->shape[1]);
    else index_kept(&packed->kept, masks, w->shape[1]);
    const struct k_weights weights = {w->data,
                                      w->type,
                                      k_row_bytes(w->type, w->shape[1]),
                                      masks->data,
                                      masks->shape[2],
                                      masks->shape[1] * masks->shape[2],
                                      NULL,
                                      NULL};
    struct k_keep_run run = {&weights, &packed->kept, &packed->lists, w->shape[1]};
    for (int64_t i = 0; i < k_ceil(w->shape[0], 16); i++) (few ? k->list_weights : k->keep_weights)(&run, i, 0);
    /* Another thread may have been sooner. */
    scbm_release(hooks, replace_packed(masks, few, before, packed) ? before : packed);
    return SCBM_OK;
}

void scbm_masks_unpack(scbm_tensor *masks, const scbm_hooks *hooks) {
    for (int few = 0; masks && few < 2; few++) {
        scbm_packed *packed = get_packed(masks, few);
        if (replace_packed(masks, few, packed, NULL)) scbm_release(hooks, packed);
    }
}

/* ------------------------------------------------------------------------------------------
 * CPU backend: its queue, where work is done as soon as it is given
 * ---------------------------------------------------------------------------------------- */

typedef struct cpu_backend {
    scbm_backend public;
    scbm_hooks hooks;
    const struct k_table *kernels;
    char device[32];
} cpu_backend;

static void parallel_of_context(void *user, int64_t n, scbm_task task, void *arg) {
    scbm_parallel(user, n, task, arg);
}

static struct k_exec exec_of(scbm_context *context, const struct k_table *kernels, void *scratch) {
    return (struct k_exec){parallel_of_context, context, scratch, context->n_workers, kernels, NULL};
}

typedef struct cpu_queue {
    scbm_queue public;
    struct k_packed packed; /* what the layer before has left in the scratch; its x is NULL: nothing */
    /* The only reader of the node's result[0], which is run next and reads it as source[0], or NULL. It may find the result
     * packed in the scratch, and nowhere else. */
    const scbm_kernel_call *next;
    int is_in_graph; /* a graph's nodes are run one by one with one scratch; else each call is alone */
} cpu_queue;

static struct k_exec exec_of_call(scbm_queue *queue, const scbm_kernel_call *call) {
    struct k_exec ex = exec_of(queue->context, ((const cpu_backend *)queue->backend)->kernels, call->scratch);
    cpu_queue *own = (cpu_queue *)queue;
    if (own->is_in_graph) ex.packed = &own->packed;
    return ex;
}

/* The call of the linear layer that reads this one's result and nothing else does, or NULL. */
static const scbm_kernel_call *next_linear(const scbm_queue *queue) {
    const scbm_kernel_call *next = ((const cpu_queue *)queue)->next;
    return next && next->node->op == SCBM_OP_LINEAR ? next : NULL;
}

static scbm_status cpu_queue_create(scbm_backend *backend, scbm_context *context, scbm_queue **queue) {
    cpu_queue *made = scbm_alloc(scbm_context_hooks(context), sizeof *made);
    (void)backend;
    if (!made) return SCBM_ERROR_MEMORY;
    *queue = &made->public;
    return SCBM_OK;
}

/* Before each node of a graph is run. Any other op may write to the scratch. */
static void cpu_take_step(scbm_queue *queue, const scbm_node *node, const scbm_kernel_call *next) {
    cpu_queue *own = (cpu_queue *)queue;
    own->next = next;
    if (node->op != SCBM_OP_LINEAR) own->packed.x = NULL;
}

/* A hook or a watcher may run another graph between two nodes of this one. */
static scbm_status cpu_run_nodes(scbm_graph *g) {
    cpu_queue *queue = (cpu_queue *)g->context->queue;
    const cpu_queue before = *queue;
    queue->packed = (struct k_packed){0};
    queue->is_in_graph = 1;
    scbm_status status = run_nodes(g);
    *queue = before;
    return status;
}

/* `next`: as in cpu_queue. */
static size_t cpu_scratch_of(scbm_backend *cpu, scbm_context *context, const scbm_kernel_call *call,
                             const scbm_kernel_call *next) {
    const scbm_kernel *kernel = &cpu_functions.kernels[call->node->op];
    cpu_queue queue = {.public = {cpu, context}, .next = next};
    return kernel->scratch ? kernel->scratch(&queue.public, call) : 0;
}

/* A call of another backend's graph. */
static scbm_status cpu_run_alone(scbm_backend *cpu, scbm_context *context, const scbm_kernel_call *call) {
    cpu_queue queue = {.public = {cpu, context}};
    return cpu_functions.kernels[call->node->op].run(&queue.public, call);
}

static void cpu_queue_free(scbm_queue *queue) {
    scbm_release(scbm_context_hooks(queue->context), queue);
}

/* ------------------------------------------------------------------------------------------
 * CPU backend: shapes of a call
 * ---------------------------------------------------------------------------------------- */

static int64_t view_elements(const scbm_view *view) {
    return shape_elements(view->n_dims, view->shape);
}

static int64_t view_columns(const scbm_view *view) {
    return view->shape[view->n_dims - 1];
}

static int64_t view_rows(const scbm_view *view) {
    return shape_elements(view->n_dims - 1, view->shape);
}

static int64_t view_streams(const scbm_view *view) {
    return view->n_dims == 3 ? view->shape[0] : 1;
}

/* How a smaller tensor b stands to a larger one a: for each dimension of a, b's stride or 0. Where it can be said so,
 * element i of a meets element i / repeat % count of b. */
typedef struct cpu_pattern {
    int64_t stride[SCBM_MAX_DIMS];
    int64_t count, repeat;
    int is_regular;
} cpu_pattern;

static cpu_pattern pattern_of(const scbm_view *a, const scbm_view *b) {
    cpu_pattern p = {{0}, 1, 1, 1};
    int64_t stride = 1;
    int state = 0; /* of a's dimensions, walked inwards out: not yet in b, in b, past b */
    for (int i = 1; i <= a->n_dims; i++) {
        int64_t n = a->shape[a->n_dims - i], own = i <= b->n_dims ? b->shape[b->n_dims - i] : 1;
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

/* Where row `row` of a begins in b. */
static int64_t pattern_offset(const cpu_pattern *p, const scbm_view *a, int64_t row) {
    int64_t offset = 0;
    for (int i = a->n_dims - 2; i >= 0; i--) {
        offset += row % a->shape[i] * p->stride[i];
        row /= a->shape[i];
    }
    return offset;
}

/* ------------------------------------------------------------------------------------------
 * CPU backend: the ops. Each has a kernel, and says how much scratch it wants at most for this
 * shape and all smaller batches.
 * ---------------------------------------------------------------------------------------- */

/* A loop over the rows of something, a block of rows a task. */
typedef struct cpu_loop {
    const scbm_kernel_call *call;
    const cpu_pattern *pattern;
    void (*row)(const struct cpu_loop *loop, int64_t row);
    int64_t rows, block;
    double scale;
} cpu_loop;

static void loop_task(void *arg, int64_t index, int worker) {
    const cpu_loop *loop = arg;
    int64_t end = k_min(loop->rows, (index + 1) * loop->block);
    (void)worker;
    for (int64_t row = index * loop->block; row < end; row++) loop->row(loop, row);
}

/* `work` is about how many operations a row costs. */
static void run_loop(const struct k_exec *ex, cpu_loop *loop, int64_t rows, int64_t work,
                     void (*row)(const cpu_loop *loop, int64_t row)) {
    loop->row = row;
    loop->rows = rows;
    loop->block = k_max(1, 16384 / k_max(1, work));
    k_run(ex, k_ceil(rows, loop->block), rows * work, loop_task, loop);
}

/* The bits of masks; before a graph is planned there may be none yet, and only that there are masks matters. */
static const uint8_t *mask_bits(const scbm_view *masks) {
    static const uint8_t none[8];
    return masks->data ? masks->data : none;
}

static struct k_weights weights_of(const scbm_view *w, const scbm_view *masks) {
    struct k_weights weights = {.data = w->data, .type = w->type, .row_bytes = k_row_bytes(w->type, w->shape[1])};
    if (masks && masks->tensor) {
        weights.mask = mask_bits(masks);
        weights.mask_row = masks->shape[2];
        weights.mask_stream = masks->shape[1] * masks->shape[2];
    }
    return weights;
}

static const float *floats_of(const scbm_view *view) {
    return view->data;
}

/* ---- Lookup ---- */

static scbm_status cpu_get_rows(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *table = &call->source[0], *ids = &call->source[1];
    struct k_weights w = weights_of(table, NULL);
    k_get_rows(ex, call->result[0].data, &w, ids->data, ids->shape[0], table->shape[1]);
    return SCBM_OK;
}

static scbm_status cpu_get_rows_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *ids = &call->source[1], *table = &call->source[2];
    k_get_rows_back(ex, call->result[0].data, call->source[0].data, ids->data, ids->shape[0], table->shape[0],
                    table->shape[1]);
    return SCBM_OK;
}

/* ---- Element by element, moving ---- */

static void broadcast_row(const cpu_loop *loop, int64_t row) {
    const scbm_view *y = &loop->call->result[0];
    int64_t n = view_columns(y), step = loop->pattern->stride[y->n_dims - 1];
    const float *from = floats_of(&loop->call->source[0]) + pattern_offset(loop->pattern, y, row);
    float *to = (float *)y->data + row * n;
    for (int64_t i = 0; i < n; i++) to[i] = (float)(from[i * step] * loop->scale);
}

/* With integer 1 the transpose of a mean: divided by how many elements each one becomes. */
static scbm_status cpu_broadcast(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *y = &call->result[0];
    cpu_pattern pattern = pattern_of(y, &call->source[0]);
    int64_t n = view_elements(&call->source[0]);
    cpu_loop loop = {.call = call, .pattern = &pattern, .scale = 1.0};
    if (call->node->integer[0] && n) loop.scale = (double)n / (double)k_max(1, view_elements(y));
    run_loop(ex, &loop, view_rows(y), view_columns(y), broadcast_row);
    return SCBM_OK;
}

static size_t binary_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    return pattern_of(&call->source[0], &call->source[1]).is_regular ? 0 : k_floats(view_elements(&call->source[0]));
}

/* b as large as a, in scratch, where no simpler pattern fits. */
static const float *broadcast_to_scratch(const struct k_exec *ex, const scbm_view *a, const scbm_view *b) {
    scbm_kernel_call call = {.source = {*b}, .result = {*a}};
    cpu_pattern pattern = pattern_of(a, b);
    cpu_loop loop = {.call = &call, .pattern = &pattern, .scale = 1.0};
    call.result[0].data = ex->scratch;
    run_loop(ex, &loop, view_rows(a), view_columns(a), broadcast_row);
    return ex->scratch;
}

static scbm_status cpu_binary(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *a = &call->source[0], *b = &call->source[1];
    cpu_pattern p = pattern_of(a, b);
    int64_t n = view_elements(a);
    const float *with = floats_of(b);
    if (!p.is_regular) {
        with = broadcast_to_scratch(ex, a, b);
        p.count = n;
        p.repeat = 1;
    }
    k_binary(ex, call->result[0].data, a->data, with, call->node->op == SCBM_OP_ADD ? K_ADD : K_MUL, n, p.count,
             p.repeat);
    return SCBM_OK;
}

static scbm_status cpu_scale(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    k_scale(ex, call->result[0].data, call->source[0].data, call->node->scalar[0], view_elements(&call->source[0]));
    return SCBM_OK;
}

static size_t sum_to_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    int64_t n = view_elements(&call->source[0]), columns = view_elements(&call->result[0]);
    return k_reduce_scratch(ex, n) + k_colsum_scratch(ex, columns ? n / columns : 0, columns);
}

/* One element of the result: the sum over the dimensions that b lacks. */
static void sum_to_element(const cpu_loop *loop, int64_t element) {
    const scbm_view *a = &loop->call->source[0];
    int64_t n = view_columns(a), rows = view_rows(a), step = loop->pattern->stride[a->n_dims - 1];
    double sum = 0.0;
    for (int64_t row = 0; row < rows; row++) {
        int64_t first = element - pattern_offset(loop->pattern, a, row);
        const float *from = floats_of(a) + row * n;
        if (step == 0 && first == 0)
            for (int64_t i = 0; i < n; i++) sum += (double)from[i];
        else if (step && first >= 0 && first < n) sum += (double)from[first];
    }
    ((float *)loop->call->result[0].data)[element] = (float)(sum * loop->scale);
}

static scbm_status cpu_sum_to(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *a = &call->source[0];
    float *y = call->result[0].data;
    int64_t n = view_elements(a), m = view_elements(&call->result[0]);
    cpu_pattern p = pattern_of(a, &call->result[0]);
    cpu_loop loop = {.call = call, .pattern = &p, .scale = 1.0};
    if (call->node->integer[0]) loop.scale = (double)m / (double)n;
    if (m == 1) {
        y[0] = (float)(k_reduce(ex, K_SUM, a->data, n) * loop.scale);
        return SCBM_OK;
    }
    if (!p.is_regular || p.count != m || (p.repeat > 1 && p.count * p.repeat != n)) {
        run_loop(ex, &loop, m, n, sum_to_element);
        return SCBM_OK;
    }
    if (p.repeat == 1) k_colsum(ex, y, a->data, m ? n / m : 0, m);
    else k_rowsum(ex, y, a->data, m, p.repeat);
    if (loop.scale != 1.0) k_scale(ex, y, y, (float)loop.scale, m);
    return SCBM_OK;
}

static scbm_status cpu_copy(scbm_queue *queue, const scbm_kernel_call *call) {
    size_t bytes = view_bytes(&call->source[0]);
    (void)queue;
    if (bytes) memcpy(call->result[0].data, call->source[0].data, bytes);
    return SCBM_OK;
}

static scbm_status cpu_cast(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    return scbm_convert(call->result[0].type, call->result[0].data, call->source[0].type, call->source[0].data,
                        view_elements(&call->source[0]));
}

static void concat_row(const cpu_loop *loop, int64_t row) {
    const scbm_view *a = &loop->call->source[0], *b = &loop->call->source[1];
    int64_t na = view_columns(a), nb = view_columns(b);
    float *to = (float *)loop->call->result[0].data + row * (na + nb);
    memcpy(to, floats_of(a) + row * na, (size_t)na * sizeof *to);
    memcpy(to + na, floats_of(b) + row * nb, (size_t)nb * sizeof *to);
}

static scbm_status cpu_concat(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, view_rows(&call->result[0]), view_columns(&call->result[0]), concat_row);
    return SCBM_OK;
}

static void slice_row(const cpu_loop *loop, int64_t row) {
    const scbm_view *a = &loop->call->source[0], *y = &loop->call->result[0];
    memcpy((float *)y->data + row * view_columns(y),
           floats_of(a) + row * view_columns(a) + loop->call->node->integer[0],
           (size_t)view_columns(y) * sizeof(float));
}

static scbm_status cpu_slice(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, view_rows(&call->result[0]), view_columns(&call->result[0]), slice_row);
    return SCBM_OK;
}

static void slice_back_row(const cpu_loop *loop, int64_t row) {
    const scbm_view *dy = &loop->call->source[0], *y = &loop->call->result[0];
    int64_t n = view_columns(y), count = view_columns(dy);
    float *to = (float *)y->data + row * n;
    memset(to, 0, (size_t)n * sizeof *to);
    memcpy(to + loop->call->node->integer[0], floats_of(dy) + row * count, (size_t)count * sizeof *to);
}

static scbm_status cpu_slice_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, view_rows(&call->result[0]), view_columns(&call->result[0]), slice_back_row);
    return SCBM_OK;
}

/* ---- Linear ---- */

/* Without masks the streams are more rows of one product. */
static struct k_linear_args linear_args(const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0], *w = &call->source[1], *y = &call->result[0];
    struct k_linear_args a = {0};
    int has_masks = call->node->n_sources > 3 && call->node->source[3];
    a.y = y->data;
    a.pre = call->node->n_results > 1 ? call->result[1].data : NULL;
    a.x = x->data;
    a.bias = call->source[2].data;
    a.w = weights_of(w, &call->source[3]);
    a.S = has_masks ? y->shape[0] : 1;
    a.x_streams = has_masks ? x->shape[0] : 1;
    a.T = has_masks ? y->shape[1] : view_rows(y);
    a.K = w->shape[1];
    a.N = w->shape[0];
    a.act = (int)call->node->integer[0];
    a.bf16 = call->precision == SCBM_PRECISION_BF16;
    a.int8 = call->precision == SCBM_PRECISION_INT8;
    if (a.w.mask && w->data == call->node->source[1]->data) { /* not another device's copy */
        const scbm_packed *many = packed_weights(call->node->source[1], call->node->source[3], 0);
        const scbm_packed *few = packed_weights(call->node->source[1], call->node->source[3], 1);
        a.w.kept = many ? &many->kept : NULL;
        a.w.lists = few ? &few->lists : NULL;
    }
    return a;
}

static size_t linear_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_linear_args a = linear_args(call), next;
    if (next_linear(queue)) {
        next = linear_args(next_linear(queue));
        a.next = &next;
    }
    return k_linear_scratch(ex, &a);
}

static scbm_status cpu_linear(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_linear_args a = linear_args(call), next;
    if (next_linear(queue)) {
        next = linear_args(next_linear(queue));
        a.next = &next;
    }
    k_linear(ex, &a);
    return SCBM_OK;
}

static struct k_linear_dx_args linear_dx_args(const scbm_kernel_call *call) {
    const scbm_view *dy = &call->source[0], *w = &call->source[1];
    struct k_linear_dx_args a = {0};
    int has_masks = call->node->n_sources > 2 && call->node->source[2];
    a.dx = call->result[0].data;
    a.dy = dy->data;
    a.w = weights_of(w, &call->source[2]);
    a.S = has_masks ? dy->shape[0] : 1;
    a.T = has_masks ? dy->shape[1] : view_rows(dy);
    a.K = w->shape[1];
    a.N = w->shape[0];
    a.bf16 = call->precision == SCBM_PRECISION_BF16;
    return a;
}

static size_t linear_dx_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_linear_dx_args a = linear_dx_args(call);
    return k_linear_dx_scratch(ex, &a);
}

static scbm_status cpu_linear_dx(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_linear_dx_args a = linear_dx_args(call);
    k_linear_dx(ex, &a);
    return SCBM_OK;
}

static struct k_linear_dw_args linear_dw_args(const scbm_kernel_call *call) {
    const scbm_view *dy = &call->source[0], *x = &call->source[1], *w = &call->source[2], *masks = &call->source[3];
    struct k_linear_dw_args a = {0};
    a.dw = call->result[0].data;
    a.dy = dy->data;
    a.x = x->data;
    a.S = view_streams(dy);
    a.x_streams = view_streams(x);
    a.T = dy->shape[dy->n_dims - 2];
    a.K = w->shape[1];
    a.N = w->shape[0];
    a.mode = (int)call->node->integer[0];
    a.bf16 = call->precision == SCBM_PRECISION_BF16;
    if (call->node->n_sources > 3 && call->node->source[3] && a.mode != SCBM_DW_DENSE) {
        a.mask = mask_bits(masks);
        a.mask_row = masks->shape[2];
        a.mask_stream = masks->shape[1] * masks->shape[2];
    } else if (a.mode == SCBM_DW_SUMMED && a.x_streams == a.S) {
        a.T *= a.S; /* the sum over the streams goes on over their tokens */
        a.S = a.x_streams = 1;
    }
    return a;
}

static size_t linear_dw_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_linear_dw_args a = linear_dw_args(call);
    return k_linear_dw_scratch(ex, &a);
}

static scbm_status cpu_linear_dw(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_linear_dw_args a = linear_dw_args(call);
    k_linear_dw(ex, &a);
    return SCBM_OK;
}

/* ---- Heads side by side. They are small: a text's dot products one by one. ---- */

/* The sum of products, in eight chains. */
static float dot_product(const float *a, const float *b, int64_t n) {
    float chain[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) chain[j] += a[i + j] * b[i + j];
    for (; i < n; i++) chain[i % 8] += a[i] * b[i];
    return ((chain[0] + chain[4]) + (chain[2] + chain[6])) + ((chain[1] + chain[5]) + (chain[3] + chain[7]));
}

static void add_scaled(float *to, const float *from, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

/* The row of z [S, N, d] that text n's head of group k reads. */
static int64_t head_row(const scbm_view *z, int64_t k, int64_t n) {
    return (z->shape[0] == 1 ? 0 : k) * z->shape[1] + n;
}

static void group_linear_row(const cpu_loop *loop, int64_t n) {
    const scbm_view *z = &loop->call->source[0], *w = &loop->call->source[1], *groups = &loop->call->source[2];
    const float *bias = loop->call->source[3].data;
    const int32_t *bound = groups->data;
    int64_t d = z->shape[2], columns = w->shape[0];
    float *y = (float *)loop->call->result[0].data + n * columns;
    for (int64_t k = 0; k + 1 < groups->shape[0]; k++)
        for (int64_t c = bound[k]; c < bound[k + 1]; c++)
            y[c] = dot_product(floats_of(z) + head_row(z, k, n) * d, floats_of(w) + c * d, d) + (bias ? bias[c] : 0.0f);
}

static scbm_status cpu_group_linear(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, call->result[0].shape[0], view_elements(&call->source[1]), group_linear_row);
    return SCBM_OK;
}

static void group_linear_back_z_row(const cpu_loop *loop, int64_t n) {
    const scbm_view *dy = &loop->call->source[0], *w = &loop->call->source[1], *groups = &loop->call->source[2];
    const scbm_view *z = &loop->call->result[0];
    const int32_t *bound = groups->data;
    int64_t d = w->shape[1], columns = w->shape[0];
    for (int64_t s = 0; s < z->shape[0]; s++)
        memset((float *)z->data + (s * z->shape[1] + n) * d, 0, (size_t)d * sizeof(float));
    for (int64_t k = 0; k + 1 < groups->shape[0]; k++)
        for (int64_t c = bound[k]; c < bound[k + 1]; c++)
            add_scaled((float *)z->data + head_row(z, k, n) * d, floats_of(w) + c * d, floats_of(dy)[n * columns + c],
                       d);
}

static scbm_status cpu_group_linear_back_z(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *z = &call->result[0];
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, z->shape[1], view_elements(&call->source[1]), group_linear_back_z_row);
    return SCBM_OK;
}

static void group_linear_back_w_row(const cpu_loop *loop, int64_t c) {
    const scbm_view *dy = &loop->call->source[0], *z = &loop->call->source[1], *groups = &loop->call->source[2];
    const int32_t *bound = groups->data;
    int64_t d = z->shape[2], columns = dy->shape[1], k = 0;
    float *to = (float *)loop->call->result[0].data + c * d;
    memset(to, 0, (size_t)d * sizeof *to);
    while (c >= bound[k + 1]) k++;
    for (int64_t n = 0; n < dy->shape[0]; n++)
        add_scaled(to, floats_of(z) + head_row(z, k, n) * d, floats_of(dy)[n * columns + c], d);
}

static scbm_status cpu_group_linear_back_w(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *z = &call->source[1];
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, call->result[0].shape[0], z->shape[1] * z->shape[2], group_linear_back_w_row);
    return SCBM_OK;
}

/* ---- Normalization, activation, softmax, dropout ---- */

/* An RMS norm is one without a mean and without beta. */
static scbm_status cpu_layer_norm(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *x = &call->source[0];
    struct k_layer_norm_args a = {0};
    a.is_rms = call->node->op == SCBM_OP_RMS_NORM;
    a.y = call->result[0].data;
    a.mean = a.is_rms ? NULL : call->result[1].data;
    a.rstd = call->result[a.is_rms ? 1 : 2].data;
    a.x = x->data;
    a.gamma = call->source[1].data;
    a.beta = a.is_rms ? NULL : call->source[2].data;
    a.R = view_rows(x);
    a.C = view_columns(x);
    a.eps = call->node->scalar[0];
    k_layer_norm(ex, &a);
    return SCBM_OK;
}

/* Whether the residual is whole rows that are used over and over. */
static int residual_repeats(const scbm_view *x, const scbm_view *residual, const cpu_pattern *p) {
    return p->is_regular && p->repeat == 1 && p->count == view_elements(residual) &&
           p->count % k_max(1, view_columns(x)) == 0;
}

static size_t add_layer_norm_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0];
    cpu_pattern p = pattern_of(x, &call->source[1]);
    (void)queue;
    return residual_repeats(x, &call->source[1], &p) ? 0 : k_floats(view_elements(x));
}

static scbm_status cpu_add_layer_norm(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *x = &call->source[0], *residual = &call->source[1];
    cpu_pattern p = pattern_of(x, residual);
    struct k_layer_norm_args a = {0};
    a.y = call->result[0].data;
    a.mean = call->result[1].data;
    a.rstd = call->result[2].data;
    a.sum = call->node->n_results > 3 ? call->result[3].data : NULL;
    a.x = x->data;
    a.gamma = call->source[2].data;
    a.beta = call->source[3].data;
    a.R = view_rows(x);
    a.C = view_columns(x);
    a.eps = call->node->scalar[0];
    if (residual_repeats(x, residual, &p)) {
        a.residual = residual->data;
        a.residual_rows = k_max(1, p.count / k_max(1, a.C));
    } else {
        a.residual = broadcast_to_scratch(ex, x, residual);
        a.residual_rows = k_max(1, a.R);
    }
    k_layer_norm(ex, &a);
    return SCBM_OK;
}

static struct k_layer_norm_back_args layer_norm_back_args(const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[1];
    const int is_rms = call->node->op == SCBM_OP_RMS_NORM_BACK;
    struct k_layer_norm_back_args a = {0};
    a.dx = call->result[0].data;
    a.dgamma = call->result[1].data;
    a.dbeta = is_rms ? NULL : call->result[2].data;
    a.dy = call->source[0].data;
    a.x = x->data;
    a.gamma = call->source[2].data;
    a.mean = is_rms ? NULL : call->source[3].data;
    a.rstd = call->source[is_rms ? 3 : 4].data;
    a.R = view_rows(x);
    a.C = view_columns(x);
    return a;
}

static size_t layer_norm_back_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_layer_norm_back_args a = layer_norm_back_args(call);
    return k_layer_norm_back_scratch(ex, &a);
}

static scbm_status cpu_layer_norm_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_layer_norm_back_args a = layer_norm_back_args(call);
    k_layer_norm_back(ex, &a);
    return SCBM_OK;
}

static scbm_status cpu_activate(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    k_act(ex, call->result[0].data, call->source[0].data, (int)call->node->integer[0], view_elements(&call->source[0]));
    return SCBM_OK;
}

static scbm_status cpu_activate_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    k_act_back(ex, call->result[0].data, call->source[0].data, call->source[1].data, (int)call->node->integer[0],
               view_elements(&call->source[0]));
    return SCBM_OK;
}

static scbm_status cpu_softmax(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *x = &call->source[0];
    k_softmax(ex, call->result[0].data, x->data, view_rows(x), view_columns(x));
    return SCBM_OK;
}

static scbm_status cpu_softmax_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *y = &call->source[1];
    k_softmax_back(ex, call->result[0].data, call->source[0].data, y->data, view_rows(y), view_columns(y));
    return SCBM_OK;
}

static struct k_dropout_args dropout_args(const scbm_kernel_call *call, float p, int64_t place) {
    return (struct k_dropout_args){p, call->seed, (uint32_t)place, (uint32_t)call->step};
}

/* The scores of one stream, head and packed query draw the numbers that attention itself would. */
static void attention_dropout_row(const cpu_loop *loop, int64_t row) {
    const scbm_kernel_call *call = loop->call;
    const scbm_view *x = &call->source[0];
    int64_t context = x->shape[3], t = row % x->shape[2], head = row / x->shape[2];
    const float *from = floats_of(x) + row * context;
    float *to = (float *)call->result[0].data + row * context, p = call->node->scalar[0], scale = 1.0f / (1.0f - p);
    uint32_t limit = (uint32_t)((double)p * 4294967296.0), words[4];
    uint64_t stream = call->step << 32 | (uint64_t)((call->node->integer[0] << 16) + head);
    for (int64_t j = 0; j < context; j++) {
        scbm_philox(call->seed, stream, (uint64_t)(t / 4) << 32 | (uint64_t)j, words);
        to[j] = words[t % 4] >= limit ? from[j] * scale : 0.0f;
    }
}

static scbm_status cpu_dropout(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    cpu_loop loop = {.call = call};
    if (call->node->integer[1]) {
        run_loop(ex, &loop, view_rows(&call->source[0]), 64 * call->source[0].shape[3], attention_dropout_row);
        return SCBM_OK;
    }
    struct k_dropout_args a = dropout_args(call, call->node->scalar[0], call->node->integer[0]);
    k_dropout(ex, call->result[0].data, call->source[0].data, view_elements(&call->source[0]), &a);
    return SCBM_OK;
}

/* ---- Attention ---- */

/* Zeros the tokens of x [S, T, row] that are in no text: those before the first and after the last. */
static void zero_outside(const scbm_kernel_call *call, const scbm_view *x, const int32_t *offsets) {
    int64_t row = x->shape[2], tokens = x->shape[1], first = offsets[0], end = offsets[call->texts];
    for (int64_t s = 0; s < x->shape[0]; s++) {
        float *stream = (float *)x->data + s * tokens * row;
        if (first) memset(stream, 0, (size_t)(first * row) * sizeof *stream);
        if (end < tokens) memset(stream + end * row, 0, (size_t)((tokens - end) * row) * sizeof *stream);
    }
}

/* What forward and backward share. Without data (when planning) a text may be as long as all tokens. */
static struct k_attention_args attention_args(const scbm_kernel_call *call, const scbm_view *q, const int32_t *offsets,
                                              int bias) {
    struct k_attention_args a = {0};
    if (bias < call->node->n_sources && call->node->source[bias]) {
        a.bias = call->source[bias].data;
        a.reach = (call->source[bias].shape[1] - 1) / 2;
        a.has_bias = 1;
    }
    a.offsets = offsets;
    a.n_texts = call->texts;
    a.S = q->shape[0];
    a.T = q->shape[1];
    a.H = call->node->integer[0];
    a.D = q->shape[2] / a.H;
    a.scale = call->node->scalar[0];
    a.causal = call->node->integer[1] != 0;
    a.dropout = dropout_args(call, call->node->scalar[1], call->node->integer[2]);
    a.max_len = offsets ? longest_text(offsets, 0, call->texts) : a.T;
    return a;
}

static size_t attention_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_attention_args a = attention_args(call, &call->source[0], NULL, 4);
    return k_attention_scratch(ex, &a);
}

static scbm_status cpu_attention(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *q = &call->source[0], *lse = &call->result[1];
    struct k_attention_args a = attention_args(call, q, call->source[3].data, 4);
    a.y = call->result[0].data;
    a.lse = lse->data;
    a.q = q->data;
    a.k = call->source[1].data;
    a.v = call->source[2].data;
    zero_outside(call, &call->result[0], a.offsets);
    for (int64_t i = 0; i < a.S * a.H; i++)
        for (int64_t t = 0; t < a.T; t++)
            if (t < a.offsets[0] || t >= a.offsets[a.n_texts]) a.lse[i * a.T + t] = 0.0f;
    k_attention(ex, &a);
    return SCBM_OK;
}

static size_t attention_back_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_attention_args a = attention_args(call, &call->source[2], NULL, 7);
    return k_attention_back_scratch(ex, &a);
}

static scbm_status cpu_attention_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *q = &call->source[2];
    struct k_attention_args a = attention_args(call, q, call->source[6].data, 7);
    a.dy = call->source[0].data;
    a.y = call->source[1].data;
    a.q = q->data;
    a.k = call->source[3].data;
    a.v = call->source[4].data;
    a.lse = call->source[5].data;
    a.dq = call->result[0].data;
    a.dk = call->result[1].data;
    a.dv = call->result[2].data;
    if (a.has_bias) a.dbias = call->result[3].data;
    for (int i = 0; i < 3; i++) zero_outside(call, &call->result[i], a.offsets);
    k_attention_back(ex, &a);
    return SCBM_OK;
}

/* The decomposition's parts, in the plainest way: a row is one stream, head and text. */
typedef struct attention_place {
    int64_t stream, head, first, length, size, row; /* size: of a head; row: heads · size */
    const float *p;                                 /* the scores of the text's first token */
    int64_t context;
} attention_place;

static attention_place place_of(const scbm_kernel_call *call, const scbm_view *p, const scbm_view *x, int64_t index) {
    const int32_t *offsets = call->source[2].data;
    attention_place at;
    int64_t heads = call->node->integer[0], text = index % call->texts;
    at.head = index / call->texts % heads;
    at.stream = index / call->texts / heads;
    at.first = offsets[text];
    at.length = offsets[text + 1] - at.first;
    at.row = x->shape[2];
    at.size = at.row / heads;
    at.context = p->shape[3];
    at.p = floats_of(p) + ((at.stream * heads + at.head) * x->shape[1] + at.first) * at.context;
    return at;
}

/* Where the text's token t begins in x [S, T, heads · size]. */
static int64_t place_offset(const attention_place *at, const scbm_view *x, int64_t t) {
    return (at->stream * x->shape[1] + at->first + t) * at->row + at->head * at->size;
}

static void attention_scores_row(const cpu_loop *loop, int64_t index) {
    const scbm_kernel_call *call = loop->call;
    const scbm_view *a = &call->source[0], *b = &call->source[1];
    attention_place at = place_of(call, &call->result[0], a, index);
    for (int64_t t = 0; t < at.length; t++) {
        int64_t n = k_min(at.context, call->node->integer[1] ? t + 1 : at.length);
        float *scores = (float *)call->result[0].data + (at.p - floats_of(&call->result[0])) + t * at.context;
        for (int64_t j = 0; j < n; j++)
            scores[j] = dot_product(floats_of(a) + place_offset(&at, a, t), floats_of(b) + place_offset(&at, b, j),
                                    at.size);
    }
}

static scbm_status cpu_attention_scores(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *a = &call->source[0];
    cpu_loop loop = {.call = call};
    k_fill(ex, call->result[0].data, call->node->scalar[0], view_elements(&call->result[0]));
    run_loop(ex, &loop, a->shape[0] * call->node->integer[0] * call->texts, 16384, attention_scores_row);
    return SCBM_OK;
}

/* Both mixes: Σ_j p[t, j] b_j at token t, and Σ_t p[t, j] a_t at token j. */
static void attention_mix_row(const cpu_loop *loop, int64_t index) {
    const scbm_kernel_call *call = loop->call;
    const scbm_view *x = &call->source[1];
    attention_place at = place_of(call, &call->source[0], x, index);
    float *y = call->result[0].data;
    int is_transposed = call->node->op == SCBM_OP_ATTENTION_MIX_TRANSPOSED;
    for (int64_t t = 0; t < at.length; t++) {
        int64_t n = k_min(at.context, call->node->integer[1] ? t + 1 : at.length);
        for (int64_t j = 0; j < n; j++)
            add_scaled(y + place_offset(&at, x, is_transposed ? j : t),
                       floats_of(x) + place_offset(&at, x, is_transposed ? t : j), at.p[t * at.context + j], at.size);
    }
}

static scbm_status cpu_attention_mix(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *x = &call->source[1];
    cpu_loop loop = {.call = call};
    k_fill(ex, call->result[0].data, 0.0f, view_elements(x));
    run_loop(ex, &loop, x->shape[0] * call->node->integer[0] * call->texts, 16384, attention_mix_row);
    return SCBM_OK;
}

/* One text of scores [1, heads, T, C] and the table of distances: copied to the scores, or the scores added to it. */
static void attention_bias_text(const scbm_kernel_call *call, const int32_t *offsets, int64_t text,
                                const scbm_view *bias, const scbm_view *scores, int is_back) {
    int64_t reach = (bias->shape[1] - 1) / 2, heads = bias->shape[2], context = scores->shape[3];
    int64_t first = offsets[text], length = offsets[text + 1] - first;
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t t = 0; t < length; t++) {
            float *row = (float *)scores->data + (h * scores->shape[2] + first + t) * context;
            float *at = (float *)(is_back ? call->result[0].data : bias->data) + (reach - t) * heads + h;
            for (int64_t j = 0; j < k_min(length, context); j++) {
                if (is_back) at[j * heads] += row[j];
                else row[j] = at[j * heads];
            }
        }
    }
}

static scbm_status cpu_attention_bias(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    int is_back = call->node->op == SCBM_OP_ATTENTION_BIAS_BACK;
    const scbm_view *bias = &call->source[is_back ? 2 : 0], *scores = is_back ? &call->source[0] : &call->result[0];
    const int32_t *offsets = call->source[1].data;
    k_fill(ex, call->result[0].data, 0.0f, view_elements(&call->result[0]));
    for (int64_t n = 0; n < call->texts; n++) attention_bias_text(call, offsets, n, bias, scores, is_back);
    return SCBM_OK;
}

/* ---- Texts ---- */

static scbm_status cpu_segment_mean(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *x = &call->source[0];
    k_segment_mean(ex, call->result[0].data, x->data, call->source[1].data, call->texts, x->shape[0], x->shape[1],
                   x->shape[2]);
    return SCBM_OK;
}

static scbm_status cpu_segment_mean_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *dx = &call->result[0];
    zero_outside(call, dx, call->source[1].data);
    k_segment_mean_back(ex, dx->data, call->source[0].data, call->source[1].data, call->texts, dx->shape[0],
                        dx->shape[1], dx->shape[2]);
    return SCBM_OK;
}

/* Copies each text's first or last token, one way or the other. */
static void copy_one_token(const scbm_kernel_call *call, const scbm_view *tokens, const scbm_view *texts, int is_last,
                           int is_back) {
    const int32_t *offsets = call->source[1].data;
    int64_t d = tokens->shape[2];
    for (int64_t s = 0; s < tokens->shape[0]; s++)
        for (int64_t n = 0; n < call->texts; n++) {
            int64_t place = is_last ? k_max(offsets[n], offsets[n + 1] - 1) : offsets[n];
            float *token = (float *)tokens->data + (s * tokens->shape[1] + place) * d;
            float *text = (float *)texts->data + (s * call->texts + n) * d;
            if (offsets[n] == offsets[n + 1]) {
                if (!is_back) memset(text, 0, (size_t)d * sizeof *text);
            } else {
                memcpy(is_back ? token : text, is_back ? text : token, (size_t)d * sizeof *text);
            }
        }
}

static scbm_status cpu_segment_token(scbm_queue *queue, const scbm_kernel_call *call) {
    (void)queue;
    copy_one_token(call, &call->source[0], &call->result[0], call->node->op == SCBM_OP_SEGMENT_LAST, 0);
    return SCBM_OK;
}

static scbm_status cpu_segment_token_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *dx = &call->result[0];
    k_fill(ex, dx->data, 0.0f, view_elements(dx));
    copy_one_token(call, dx, &call->source[0], call->node->op == SCBM_OP_SEGMENT_LAST_BACK, 1);
    return SCBM_OK;
}

static struct k_lstm_args lstm_args(const scbm_kernel_call *call) {
    const scbm_view *x = &call->source[0], *y = &call->result[0], *w = &call->source[1], *masks = &call->source[3];
    return (struct k_lstm_args){.x = x->data,
                                .y = y->data,
                                .gates = call->result[1].data,
                                .cells = call->result[2].data,
                                .w = weights_of(w, call->node->n_sources > 3 ? masks : NULL),
                                .offsets = call->source[2].data,
                                .n_texts = call->texts,
                                .S = y->shape[0],
                                .x_S = x->shape[0],
                                .T = y->shape[1],
                                .H = w->shape[1],
                                .reverse = (int)call->node->integer[0]};
}

static struct k_lstm_args lstm_back_args(const scbm_kernel_call *call) {
    const scbm_view *dy = &call->source[0], *w = &call->source[4], *masks = &call->source[6];
    return (struct k_lstm_args){.dy = dy->data,
                                .y = call->source[1].data,
                                .gates = call->source[2].data,
                                .cells = call->source[3].data,
                                .dx = call->result[0].data,
                                .before = call->result[1].data,
                                .w = weights_of(w, call->node->n_sources > 6 ? masks : NULL),
                                .offsets = call->source[5].data,
                                .n_texts = call->texts,
                                .S = dy->shape[0],
                                .x_S = dy->shape[0],
                                .T = dy->shape[1],
                                .H = w->shape[1],
                                .reverse = (int)call->node->integer[0]};
}

static size_t lstm_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call);
    const struct k_lstm_args a = lstm_args(call);
    return k_lstm_scratch(&exec, &a, 0);
}

static size_t lstm_back_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call);
    const struct k_lstm_args a = lstm_back_args(call);
    return k_lstm_scratch(&exec, &a, 1);
}

static scbm_status cpu_lstm(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call);
    const struct k_lstm_args a = lstm_args(call);
    for (int i = 0; i < 3; i++) zero_outside(call, &call->result[i], a.offsets);
    k_lstm(&exec, &a, 0);
    return SCBM_OK;
}

static scbm_status cpu_lstm_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call);
    const struct k_lstm_args a = lstm_back_args(call);
    for (int i = 0; i < 2; i++) zero_outside(call, &call->result[i], a.offsets);
    k_lstm(&exec, &a, 1);
    return SCBM_OK;
}

/* y_n = β x_n + (1 − β) x_π(n), or its transpose. */
static scbm_status cpu_mix_texts(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *x = &call->source[0];
    const int32_t *permutation = call->source[1].data;
    float beta = floats_of(&call->source[2])[0], rest = 1.0f - beta;
    int64_t n = x->shape[1], d = x->shape[2];
    int is_back = call->node->op == SCBM_OP_MIX_TEXTS_BACK;
    k_scale(ex, call->result[0].data, x->data, beta, view_elements(x));
    for (int64_t s = 0; s < x->shape[0]; s++)
        for (int64_t i = 0; i < n; i++) {
            int64_t own = (s * n + i) * d, other = (s * n + permutation[i]) * d;
            add_scaled((float *)call->result[0].data + (is_back ? other : own), floats_of(x) + (is_back ? own : other),
                       rest, d);
        }
    return SCBM_OK;
}

/* ---- The parts of linear layers, in the plainest way ---- */

static float rounded_to_bf16(float x) {
    return k_bf16_to_f32(k_f32_to_bf16(x));
}

/* Number r of a factor's rows as f32, in `room` where it is stored otherwise, or is to be rounded. */
static const float *factor_row(const scbm_view *x, int64_t stream, int64_t r, int is_rounded, float *room) {
    int first = x->n_dims == 3, by_stream = first && x->shape[0] > 1;
    int64_t rows = x->shape[first], n = x->shape[first + 1], at = (by_stream ? stream * rows : 0) + r;
    const char *row = (const char *)x->data + at * k_row_bytes(x->type, n);
    if (x->type == SCBM_F32 && !is_rounded) return (const float *)(const void *)row;
    scbm_convert(SCBM_F32, room, x->type, row, n);
    for (int64_t i = 0; i < n && is_rounded; i++) room[i] = rounded_to_bf16(room[i]);
    return room;
}

static int rounds_product(const scbm_kernel_call *call) {
    return call->precision == SCBM_PRECISION_BF16 && call->node->integer[1];
}

enum { PRODUCT_ROWS = 16 }; /* of a task */

typedef struct product_run {
    const scbm_kernel_call *call;
    float *room; /* two rows for each worker */
    int64_t blocks, row;
} product_run;

/* Rows of b of the product with b's transpose, against all of a. */
static void product_nt(const product_run *run, int64_t stream, int64_t first, int64_t end, float *const room[2]) {
    const scbm_view *a = &run->call->source[0], *b = &run->call->source[1], *y = &run->call->result[0];
    int64_t rows = y->shape[y->n_dims - 2], columns = y->shape[y->n_dims - 1], in = a->shape[a->n_dims - 1];
    int is_rounded = rounds_product(run->call);
    float *to = (float *)y->data + stream * rows * columns;
    for (int64_t o = first; o < end; o++) {
        const float *row = factor_row(b, stream, o, is_rounded, room[0]);
        for (int64_t t = 0; t < rows; t++)
            to[t * columns + o] = dot_product(factor_row(a, stream, t, is_rounded, room[1]), row, in);
    }
}

/* Rows of y as sums of b's rows. */
static void product_sums(const product_run *run, int64_t stream, int64_t first, int64_t end, float *const room[2]) {
    const scbm_view *a = &run->call->source[0], *b = &run->call->source[1], *y = &run->call->result[0];
    int64_t rows = y->shape[y->n_dims - 2], n = y->shape[y->n_dims - 1], terms = b->shape[b->n_dims - 2];
    int is_transposed = run->call->node->integer[0] == SCBM_PRODUCT_TN, is_rounded = rounds_product(run->call);
    float *to = (float *)y->data + stream * rows * n;
    if (n) memset(to + first * n, 0, (size_t)((end - first) * n) * sizeof *to);
    for (int64_t i = 0; i < terms; i++) {
        const float *row = factor_row(b, stream, i, is_rounded, room[0]);
        for (int64_t r = first; r < end; r++) {
            float factor = is_transposed ? factor_row(a, stream, i, 0, NULL)[r] : factor_row(a, stream, r, 0, NULL)[i];
            add_scaled(to + r * n, row, is_rounded ? rounded_to_bf16(factor) : factor, n);
        }
    }
}

/* The rows that tasks share out: of b where its transpose is read, else of y. */
static int64_t product_units(const scbm_kernel_call *call) {
    const scbm_view *y = &call->result[0];
    return y->shape[y->n_dims - (call->node->integer[0] == SCBM_PRODUCT_NT ? 1 : 2)];
}

static void product_task(void *arg, int64_t index, int worker) {
    const product_run *run = arg;
    int64_t stream = index / run->blocks, first = index % run->blocks * PRODUCT_ROWS;
    int64_t end = k_min(first + PRODUCT_ROWS, product_units(run->call));
    float *const room[2] = {run->room + 2 * worker * run->row, run->room + (2 * worker + 1) * run->row};
    if (run->call->node->integer[0] == SCBM_PRODUCT_NT) product_nt(run, stream, first, end, room);
    else product_sums(run, stream, first, end, room);
}

static int64_t product_row(const scbm_kernel_call *call) {
    const scbm_view *b = &call->source[1];
    return (int64_t)(k_floats(b->shape[b->n_dims - 1]) / sizeof(float));
}

static size_t product_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    return 2 * (size_t)ex->n_workers * (size_t)product_row(call) * sizeof(float);
}

static scbm_status cpu_product(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *a = &call->source[0], *y = &call->result[0];
    int64_t streams = y->n_dims == 3 ? y->shape[0] : 1;
    int64_t summed = a->shape[a->n_dims - (call->node->integer[0] == SCBM_PRODUCT_TN ? 2 : 1)];
    product_run run = {call, ex->scratch, k_ceil(product_units(call), PRODUCT_ROWS), product_row(call)};
    k_run(ex, streams * run.blocks, view_elements(y) * k_max(summed, 1), product_task, &run);
    return SCBM_OK;
}

static const uint8_t *bits_of_row(const scbm_view *masks, int64_t stream, int64_t row) {
    return mask_bits(masks) + (stream * masks->shape[1] + row) * masks->shape[2];
}

/* A row of one stream. */
static void apply_masks_row(const cpu_loop *loop, int64_t index) {
    const scbm_view *w = &loop->call->source[0], *masks = &loop->call->source[1], *y = &loop->call->result[0];
    int64_t out = y->shape[1], in = y->shape[2], row = w->n_dims == 3 ? index : index % out;
    const uint8_t *bits = bits_of_row(masks, index / out, index % out);
    float *to = (float *)y->data + index * in;
    const char *from = (const char *)w->data + row * k_row_bytes(w->type, in);
    if (from != (const char *)to) scbm_convert(SCBM_F32, to, w->type, from, in);
    for (int64_t j = 0; j < in; j++)
        if (!(bits[j / 8] >> (j % 8) & 1)) to[j] = 0.0f;
}

static scbm_status cpu_apply_masks(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *y = &call->result[0];
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, y->shape[0] * y->shape[1], 4 * y->shape[2], apply_masks_row);
    return SCBM_OK;
}

static void sum_masked_row(const cpu_loop *loop, int64_t row) {
    const scbm_view *dw = &loop->call->source[0], *masks = &loop->call->source[1];
    int64_t in = dw->shape[2];
    float *to = (float *)loop->call->result[0].data + row * in;
    if (in) memset(to, 0, (size_t)in * sizeof *to);
    for (int64_t s = 0; s < dw->shape[0]; s++) {
        const float *from = floats_of(dw) + (s * dw->shape[1] + row) * in;
        const uint8_t *bits = bits_of_row(masks, s, row);
        for (int64_t j = 0; j < in; j++)
            if (bits[j / 8] >> (j % 8) & 1) to[j] += from[j];
    }
}

static scbm_status cpu_sum_masked(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *dw = &call->source[0];
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, dw->shape[1], 4 * dw->shape[0] * dw->shape[2], sum_masked_row);
    return SCBM_OK;
}

/* ---- Loss ---- */

static struct k_cross_entropy_args cross_entropy_args(const scbm_kernel_call *call, const scbm_view *logits,
                                                      int first) {
    const scbm_view *targets = &call->source[first], *groups = &call->source[first + 1];
    struct k_cross_entropy_args a = {0};
    if (targets->type == SCBM_I32) a.labels = targets->data;
    else a.soft = targets->data;
    a.groups = groups->data;
    a.class_weight = call->source[first + 2].data;
    a.R = logits->shape[0];
    a.C = logits->shape[1];
    a.K = groups->shape[0] - 1;
    return a;
}

static size_t cross_entropy_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    return k_cross_entropy_scratch(ex, call->source[0].shape[0]);
}

static scbm_status cpu_cross_entropy(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_cross_entropy_args a = cross_entropy_args(call, &call->source[0], 1);
    a.logits = call->source[0].data;
    a.loss = call->result[0].data;
    a.p = call->result[1].data;
    a.total = call->result[2].data;
    k_cross_entropy(ex, &a);
    return SCBM_OK;
}

static scbm_status cpu_cross_entropy_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    struct k_cross_entropy_args a = cross_entropy_args(call, &call->source[1], 3);
    a.dloss = call->source[0].data;
    a.p = call->source[1].data;
    a.total = call->source[2].data;
    a.dlogits = call->result[0].data;
    k_cross_entropy_back(ex, &a);
    return SCBM_OK;
}

/* ---- Updates ---- */

static scbm_status cpu_accumulate(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    float *sum = call->source[0].data;
    int64_t n = view_elements(&call->source[0]);
    if (floats_of(&call->source[2])[0] == 0.0f) {
        if (n) memcpy(sum, call->source[1].data, (size_t)n * sizeof *sum);
    } else {
        k_binary(ex, sum, sum, call->source[1].data, K_ADD, n, n, 1);
    }
    return SCBM_OK;
}

/* Σ a² as a pair of f32. */
static void write_square_sum(const struct k_exec *ex, float pair[2], const float *a, int64_t n) {
    double sum = k_reduce(ex, K_SUMSQ, a, n);
    pair[0] = (float)sum;
    pair[1] = isfinite(pair[0]) ? (float)(sum - (double)pair[0]) : 0.0f;
}

static size_t square_sum_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    return k_reduce_scratch(ex, view_elements(&call->source[0]));
}

static scbm_status cpu_square_sum(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    float *norms = call->source[1].data;
    write_square_sum(ex, norms + 2 * call->node->integer[0], call->source[0].data, view_elements(&call->source[0]));
    return SCBM_OK;
}

/* √Σ of n pairs. */
static double norm_of_pairs(const float *pairs, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)pairs[2 * i] + (double)pairs[2 * i + 1];
    return sqrt(sum);
}

static float clipping_factor(double norm, float most) {
    return most > 0.0f && norm > (double)most ? (float)((double)most / norm) : 1.0f;
}

static scbm_status cpu_clip(scbm_queue *queue, const scbm_kernel_call *call) {
    double norm = norm_of_pairs(call->source[0].data, call->source[0].shape[0]);
    float *stopped = call->source[1].data, *y = call->result[0].data;
    (void)queue;
    if (!isfinite(norm)) *stopped = 1.0f;
    y[0] = (float)norm;
    y[1] = clipping_factor(norm, call->node->scalar[0]);
    y[2] = *stopped;
    return SCBM_OK;
}

static scbm_status cpu_adamw(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const float *numbers = call->source[4].data, *clip = call->source[5].data;
    const float *own = numbers + ADAMW_OF_PARAMETERS + 2 * call->node->integer[0];
    const struct k_adamw_args a = {.w = call->source[0].data,
                                   .m = call->source[1].data,
                                   .v = call->source[2].data,
                                   .g = call->source[3].data,
                                   .n = view_elements(&call->source[0]),
                                   .lr = own[0] * numbers[ADAMW_RATE],
                                   .beta1 = numbers[ADAMW_BETA1],
                                   .beta2 = numbers[ADAMW_BETA2],
                                   .eps = numbers[ADAMW_EPSILON],
                                   .decay = own[1],
                                   .correction1 = numbers[ADAMW_CORRECTION1],
                                   .correction2 = numbers[ADAMW_CORRECTION2],
                                   .grad_scale = clip[1]};
    if (clip[2] == 0.0f) k_adamw(ex, &a);
    return SCBM_OK;
}

/* ---- Pruning and explanations ---- */

enum { FISHER_BLOCKS = 1024 }; /* of a task */

/* Adds g gᵀ to one block. */
static void add_outer_product(double *sums, const float *gradient, int64_t size) {
    for (int64_t i = 0; i < size; i++, sums += i) {
        double g = (double)gradient[i];
        if (g == 0.0) continue;
        for (int64_t j = 0; j <= i; j++) sums[j] += g * (double)gradient[j];
    }
}

static void fisher_add_task(void *arg, int64_t index, int worker) {
    const scbm_kernel_call *call = arg;
    const scbm_view *sums = &call->source[0], *dw = &call->source[1];
    int64_t size = call->node->integer[0], n = dw->shape[1] * dw->shape[2], blocks = sums->shape[1];
    int64_t tasks = k_ceil(blocks, FISHER_BLOCKS), stream = index / tasks, first = index % tasks * FISHER_BLOCKS;
    const float *gradient = floats_of(dw) + stream * n;
    double *to = (double *)sums->data + stream * blocks * sums->shape[2];
    (void)worker;
    for (int64_t b = first; b < k_min(blocks, first + FISHER_BLOCKS); b++)
        add_outer_product(to + b * sums->shape[2], gradient + b * size, k_min(size, n - b * size));
}

static scbm_status cpu_fisher_add(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *sums = &call->source[0];
    scbm_kernel_call run = *call;
    k_run(ex, sums->shape[0] * k_ceil(sums->shape[1], FISHER_BLOCKS), view_elements(sums), fisher_add_task, &run);
    return SCBM_OK;
}

typedef struct saliency_run {
    const scbm_kernel_call *call;
    float *row; /* of w, for each worker */
} saliency_run;

static size_t row_saliency_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    return (size_t)ex->n_workers * k_floats(call->source[1].shape[1]);
}

static void row_saliency_task(void *arg, int64_t row, int worker) {
    const saliency_run *run = arg;
    const scbm_view *dw = &run->call->source[0], *w = &run->call->source[1];
    int64_t out = w->shape[0], in = w->shape[1];
    float *of_row = run->row + (size_t)worker * (k_floats(in) / sizeof(float));
    size_t bytes = (size_t)k_row_bytes(w->type, in);
    scbm_convert(SCBM_F32, of_row, w->type, (const char *)w->data + (size_t)row * bytes, in);
    for (int64_t s = 0; s < dw->shape[0]; s++) {
        const float *g = floats_of(dw) + (s * out + row) * in;
        double sum = 0.0;
        for (int64_t j = 0; j < in; j++) sum += fabs((double)of_row[j] * (double)g[j]);
        ((float *)run->call->result[0].data)[s * out + row] = (float)sum;
    }
}

static scbm_status cpu_row_saliency(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    saliency_run run = {call, ex->scratch};
    k_run(ex, call->source[1].shape[0], view_elements(&call->source[0]), row_saliency_task, &run);
    return SCBM_OK;
}

/* A row of all streams: the weights' gradient first, for the scores' may take the memory of dw. */
static void popup_back_row(const cpu_loop *loop, int64_t row) {
    const scbm_kernel_call *call = loop->call;
    const scbm_view *dense = &call->source[0], *masks = &call->source[3];
    int64_t out = dense->shape[1], in = dense->shape[2];
    const float *w = floats_of(&call->source[1]) + row * in;
    float *dw = (float *)call->result[1].data + row * in;
    if (in) memset(dw, 0, (size_t)in * sizeof *dw);
    for (int64_t s = 0; s < dense->shape[0]; s++) {
        const float *g = floats_of(dense) + (s * out + row) * in;
        const float *score = floats_of(&call->source[2]) + (s * out + row) * in;
        const uint8_t *bits = (const uint8_t *)masks->data + (s * out + row) * masks->shape[2];
        float *to = (float *)call->result[0].data + (s * out + row) * in;
        for (int64_t j = 0; j < in; j++)
            if (bits[j / 8] >> (j % 8) & 1) dw[j] += g[j];
        for (int64_t j = 0; j < in; j++) to[j] = g[j] * w[j] * (score[j] < 0.0f ? -1.0f : 1.0f);
    }
}

static scbm_status cpu_popup_back(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *dense = &call->source[0];
    cpu_loop loop = {.call = call};
    run_loop(ex, &loop, dense->shape[1], 4 * dense->shape[0] * dense->shape[2], popup_back_row);
    return SCBM_OK;
}

/* ---- Selecting by score ---- */

/* Doubles as unsigned keys of the same order (a NaN is the smallest), none of them 0. */
static uint64_t rank_key(double value) {
    uint64_t bits;
    if (!(value == value)) return 1;
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}

static double rank_value(uint64_t key) {
    uint64_t bits = key >> 63 ? key & ~(UINT64_C(1) << 63) : ~key;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

enum { RANK_BITS = 11, RANK_DIGITS = 1 << RANK_BITS };

/* The key of rank `rank` (from 0), and how many keys are smaller: digit by digit from the top. */
static uint64_t key_of_rank(const uint64_t *keys, int64_t n, int64_t rank, int64_t *n_smaller) {
    uint64_t prefix = 0, known = 0;
    int64_t smaller = 0;
    for (int shift = 64; shift > 0;) {
        int64_t count[RANK_DIGITS] = {0};
        int bits = shift < RANK_BITS ? shift : RANK_BITS;
        shift -= bits;
        for (int64_t i = 0; i < n; i++)
            if ((keys[i] & known) == prefix) count[keys[i] >> shift & ((1u << bits) - 1)]++;
        uint64_t digit = 0;
        while (smaller + count[digit] <= rank) smaller += count[digit++];
        prefix |= digit << shift;
        known |= (uint64_t)((1u << bits) - 1) << shift;
    }
    *n_smaller = smaller;
    return prefix;
}

/* The key up to which `zeros` of n go, and how many of those that have it. */
static uint64_t find_threshold(const uint64_t *keys, int64_t n, int64_t zeros, int64_t *ties) {
    int64_t n_smaller = 0;
    uint64_t threshold = zeros < n ? key_of_rank(keys, n, zeros - 1, &n_smaller) : UINT64_MAX;
    *ties = zeros - n_smaller;
    return threshold;
}

/* Whether a weight goes, walked in order: `ties` counts down those of the threshold's own key that go. */
static int goes(uint64_t key, uint64_t threshold, int64_t *ties) {
    return key < threshold || (key == threshold && (*ties)-- > 0);
}

static int mask_bit(const uint8_t *bits, int64_t j) {
    return bits[j / 8] >> (j % 8) & 1;
}

static void set_mask_bit(uint8_t *bits, int64_t j, int on) {
    if (on) bits[j / 8] |= (uint8_t)(1u << (j % 8));
    else bits[j / 8] &= (uint8_t) ~(1u << (j % 8));
}

static double score_at(const scbm_view *score, int64_t stream, int64_t at, int64_t n) {
    int64_t place = (score->n_dims == 3 ? stream * n : 0) + at;
    return score->type == SCBM_F64 ? ((const double *)score->data)[place] : fabs((double)floats_of(score)[place]);
}

/* The root of the sum of squares of a row's scores. */
static double row_score(const scbm_view *score, int64_t stream, int64_t row, int64_t in, int64_t n) {
    const float *of = floats_of(score) + (score->n_dims == 3 ? stream * n : 0) + row * in;
    double square = 0.0;
    for (int64_t j = 0; j < in; j++) square += (double)of[j] * (double)of[j];
    return sqrt(square);
}

typedef struct choice_run {
    const scbm_kernel_call *call;
    uint64_t *keys; /* a matrix's for each worker */
    size_t stride;
    int64_t out, in, row_bytes, zeros;
} choice_run;

static size_t choice_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *score = &call->source[0];
    int64_t n = score->shape[score->n_dims - 2] * score->shape[score->n_dims - 1];
    return (size_t)ex->n_workers * 2 * k_floats(n);
}

static choice_run choice_of(const struct k_exec *ex, const scbm_kernel_call *call, const scbm_view *zeros) {
    const scbm_view *score = &call->source[0], *masks = &call->source[1];
    choice_run run = {.call = call, .keys = ex->scratch, .out = masks->shape[1], .row_bytes = masks->shape[2]};
    run.in = score->shape[score->n_dims - 1];
    run.stride = 2 * k_floats(run.out * run.in) / sizeof *run.keys;
    run.zeros = ((const int32_t *)zeros->data)[0];
    return run;
}

static uint8_t *mask_row(const choice_run *run, const scbm_view *masks, int64_t stream, int64_t row) {
    return (uint8_t *)masks->data + (stream * run->out + row) * run->row_bytes;
}

/* The keys of a stream's weights: 0 for those that are off. */
static void write_keys(const choice_run *run, const scbm_view *masks, int64_t stream, uint64_t *keys) {
    for (int64_t row = 0; row < run->out; row++) {
        const uint8_t *bits = mask_row(run, masks, stream, row);
        for (int64_t j = 0; j < run->in; j++) {
            int64_t at = row * run->in + j;
            keys[at] = mask_bit(bits, j) ? rank_key(score_at(&run->call->source[0], stream, at, run->out * run->in))
                                         : 0;
        }
    }
}

static void keep_largest_rows(const choice_run *run, int64_t stream, uint64_t *keys) {
    int64_t ties, is_nested = run->call->node->integer[0] & SCBM_KEEP_NESTED;
    const scbm_view *masks = &run->call->source[1];
    for (int64_t row = 0; row < run->out; row++) {
        const uint8_t *bits = mask_row(run, masks, stream, row);
        int is_on = !is_nested;
        for (int64_t j = 0; j < run->in && !is_on; j++) is_on = mask_bit(bits, j);
        keys[row] = is_on ? rank_key(row_score(&run->call->source[0], stream, row, run->in, run->out * run->in)) : 0;
    }
    uint64_t threshold = find_threshold(keys, run->out, run->zeros, &ties);
    for (int64_t row = 0; row < run->out; row++)
        for (int64_t j = 0, off = goes(keys[row], threshold, &ties); j < run->in && off; j++)
            set_mask_bit(mask_row(run, masks, stream, row), j, 0);
}

static void keep_largest_task(void *arg, int64_t stream, int worker) {
    const choice_run *run = arg;
    const scbm_view *masks = &run->call->source[1];
    int64_t ties, choice = run->call->node->integer[0];
    uint64_t *keys = run->keys + (size_t)worker * run->stride;
    for (int64_t row = 0; row < run->out && !(choice & SCBM_KEEP_NESTED); row++) {
        uint8_t *bits = mask_row(run, masks, stream, row);
        memset(bits, 0, (size_t)run->row_bytes);
        memset(bits, 255, (size_t)(run->in / 8));
        if (run->in % 8) bits[run->in / 8] = (uint8_t)((1u << (run->in % 8)) - 1);
    }
    if (run->zeros <= 0) return;
    if (choice & SCBM_KEEP_ROWS) {
        keep_largest_rows(run, stream, keys);
        return;
    }
    write_keys(run, masks, stream, keys);
    uint64_t threshold = find_threshold(keys, run->out * run->in, run->zeros, &ties);
    for (int64_t row = 0; row < run->out; row++) {
        uint8_t *bits = mask_row(run, masks, stream, row);
        for (int64_t j = 0; j < run->in; j++)
            if (goes(keys[row * run->in + j], threshold, &ties)) set_mask_bit(bits, j, 0);
    }
}

static scbm_status cpu_keep_largest(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    choice_run run = choice_of(ex, call, &call->source[2]);
    int64_t streams = call->source[1].shape[0];
    if (run.out && run.in) k_run(ex, streams, streams * run.out * run.in * 8, keep_largest_task, &run);
    return SCBM_OK;
}

static void agree_task(void *arg, int64_t stream, int worker) {
    const choice_run *run = arg;
    const scbm_view *after = &run->call->source[2];
    int64_t n = run->out * run->in, ties = 0, agreeing = 0;
    uint64_t *keys = run->keys + (size_t)worker * run->stride, threshold = 0;
    write_keys(run, &run->call->source[1], stream, keys);
    if (run->zeros > 0) threshold = find_threshold(keys, n, run->zeros, &ties);
    for (int64_t row = 0; row < run->out; row++) {
        const uint8_t *bits = mask_row(run, after, stream, row);
        for (int64_t j = 0; j < run->in; j++) {
            int is_off = run->zeros > 0 && goes(keys[row * run->in + j], threshold, &ties);
            agreeing += !is_off && mask_bit(bits, j);
        }
    }
    ((int32_t *)run->call->result[0].data)[stream] = (int32_t)agreeing;
}

static scbm_status cpu_agree(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    choice_run run = choice_of(ex, call, &call->source[3]);
    int64_t streams = call->source[1].shape[0];
    k_run(ex, streams, streams * run.out * run.in * 8, agree_task, &run);
    return SCBM_OK;
}

/* ---- Fisher scores ---- */

/* Blocks are inverted FISHER_LANES at a time: number t of block b stands at t * FISHER_LANES + b, so that the loops over b are
 * vectors. */
enum { FISHER_LANES = 8 };

#define AT(i, j) (((i) * ((i) + 1) / 2 + (j)) * FISHER_LANES)

/* δI + sums / m of n blocks, `stride` numbers apart; the identity in the lanes that are left. */
static void load_blocks(const double *sums, int64_t stride, int n, int64_t size, double m, double damping, double *l) {
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j <= i; j++)
            for (int b = 0; b < FISHER_LANES; b++)
                l[AT(i, j) + b] = b < n ? sums[b * stride + AT(i, j) / FISHER_LANES] / m + (i == j ? damping : 0.0)
                                        : (double)(i == j);
}

/* a -= p q, of all lanes. */
static void subtract_products(double *restrict a, const double *restrict p, const double *restrict q) {
    for (int b = 0; b < FISHER_LANES; b++) a[b] -= p[b] * q[b];
}

/* L of A = L Lᵀ in A's place. */
static void factor_blocks(double *l, int64_t size, double damping) {
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j <= i; j++) {
            double sum[FISHER_LANES];
            memcpy(sum, l + AT(i, j), sizeof sum);
            for (int64_t k = 0; k < j; k++) subtract_products(sum, l + AT(i, k), l + AT(j, k));
            for (int b = 0; b < FISHER_LANES; b++)
                l[AT(i, j) + b] = i == j ? sqrt(sum[b] > 0.0 ? sum[b] : damping) : sum[b] / l[AT(j, j) + b];
        }
    }
}

/* L⁻¹. */
static void invert_factors(const double *l, int64_t size, double *inverse) {
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j < i; j++) {
            double sum[FISHER_LANES] = {0};
            for (int64_t k = j; k < i; k++) subtract_products(sum, l + AT(i, k), inverse + AT(k, j));
            for (int b = 0; b < FISHER_LANES; b++) inverse[AT(i, j) + b] = sum[b] / l[AT(i, i) + b];
        }
        for (int b = 0; b < FISHER_LANES; b++) inverse[AT(i, i) + b] = 1.0 / l[AT(i, i) + b];
    }
}

/* The diagonals of the inverses of n blocks, by L Lᵀ: [F⁻¹]_jj = Σ_i (L⁻¹)²_ij. `work` holds two triangles a lane. */
static void inverse_diagonals(const double *sums, int64_t stride, int n, int64_t size, double m, double damping,
                              double *work, double *diagonal) {
    double *l = work, *inverse = work + size * (size + 1) / 2 * FISHER_LANES;
    load_blocks(sums, stride, n, size, m, damping, l);
    factor_blocks(l, size, damping);
    invert_factors(l, size, inverse);
    for (int64_t j = 0; j < size; j++) {
        for (int b = 0; b < FISHER_LANES; b++) diagonal[j * FISHER_LANES + b] = 0.0;
        for (int64_t i = j; i < size; i++)
            for (int b = 0; b < FISHER_LANES; b++)
                diagonal[j * FISHER_LANES + b] += inverse[AT(i, j) + b] * inverse[AT(i, j) + b];
    }
}
#undef AT

typedef struct fisher_run {
    const scbm_kernel_call *call;
    double *damping;      /* [S] */
    double *work;         /* of each worker */
    int64_t work_numbers; /* two triangles and a diagonal */
    int64_t block, triangle, blocks, n, groups;
} fisher_run;

static int64_t fisher_work(int64_t block) {
    return k_round((block * (block + 1) + block) * FISHER_LANES, 8);
}

static size_t fisher_scores_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    int64_t streams = k_round(call->source[0].shape[0], 8);
    return (size_t)(streams + ex->n_workers * fisher_work(call->node->integer[0])) * sizeof(double);
}

/* δ of a stream's matrix: as it is, or that share of the mean square of its gradients. */
static void fisher_damping_task(void *arg, int64_t stream, int worker) {
    const fisher_run *run = arg;
    const scbm_view *masks = &run->call->source[2];
    const double *sums = (const double *)run->call->source[0].data + stream * run->blocks * run->triangle;
    const double *numbers = run->call->source[3].data;
    int64_t kept = 0, in = run->call->source[1].shape[1];
    double trace = 0.0;
    (void)worker;
    for (int64_t row = 0; row < masks->shape[1]; row++)
        for (int64_t j = 0; j < in; j++)
            kept += mask_bit((const uint8_t *)masks->data + (stream * masks->shape[1] + row) * masks->shape[2], j);
    for (int64_t b = 0; b < run->blocks; b++)
        for (int64_t i = 0, at = 0; i < run->block; at += ++i + 1) trace += sums[b * run->triangle + at];
    double mean = kept ? trace / numbers[0] / (double)kept : 0.0;
    run->damping[stream] = numbers[2] > 0 ? numbers[2] : mean > 0.0 ? numbers[1] * mean : 1e-12;
}

/* FISHER_LANES whole blocks, or the last, shorter one. */
static void fisher_scores_task(void *arg, int64_t index, int worker) {
    const fisher_run *run = arg;
    int64_t stream = index / run->groups, group = index % run->groups, n_whole = run->n / run->block;
    int64_t whole_groups = k_ceil(n_whole, FISHER_LANES), first = group * FISHER_LANES;
    int64_t size = run->block, n = k_min(n_whole - first, FISHER_LANES);
    if (group == whole_groups) {
        first = n_whole;
        size = run->n - n_whole * run->block;
        n = 1;
    }
    const float *w = run->call->source[1].data;
    const double *sums = (const double *)run->call->source[0].data + (stream * run->blocks + first) * run->triangle;
    double *work = run->work + worker * run->work_numbers, *diagonal = work + 2 * run->triangle * FISHER_LANES;
    double *score = (double *)run->call->result[0].data + stream * run->n;
    inverse_diagonals(sums, run->triangle, (int)n, size, ((const double *)run->call->source[3].data)[0],
                      run->damping[stream], work, diagonal);
    for (int64_t b = 0, start = first * run->block; b < n; b++, start += size)
        for (int64_t j = 0; j < size; j++)
            score[start + j] = (double)w[start + j] * (double)w[start + j] / (2.0 * diagonal[j * FISHER_LANES + b]);
}

static scbm_status cpu_fisher_scores(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *sums = &call->source[0];
    int64_t block = call->node->integer[0], n = view_elements(&call->source[1]), streams = sums->shape[0];
    fisher_run run = {
        .call = call, .damping = ex->scratch, .block = block, .triangle = block * (block + 1) / 2, .n = n};
    run.work = run.damping + k_round(streams, 8);
    run.work_numbers = fisher_work(block);
    run.blocks = sums->shape[1];
    run.groups = k_ceil(n / block, FISHER_LANES) + (n % block != 0);
    k_run(ex, streams, view_elements(sums), fisher_damping_task, &run);
    k_run(ex, streams * run.groups, view_elements(sums) * block, fisher_scores_task, &run);
    return SCBM_OK;
}

/* ---- Moves of an intervention ----
 *
 * Of a matrix's n weights q that are kept go and q zeros come. n is millions and q a few, so not every weight is ranked:
 *
 *   1. A sample of the weights (one of 61) says how large a score of rank q is: a bound for each way, with a margin.
 *   2. One pass over the matrix keeps the weights whose scores lie within the bounds: the candidates. It computes in f32
 *      and without branches, for the signs are as good as random; the bounds are a little widened, so that no weight is
 *      lost to rounding. Only the candidates' scores are then computed in double.
 *   3. The q smallest of each list of candidates are found by their rank, and sorted.
 *
 * Where the sample misled, and a bound left fewer than q candidates, the pass is done again without bounds: the result is
 * always that of ranking every weight. */

enum { SAMPLE_STRIDE = 61 };

typedef struct move_candidate {
    uint64_t key;
    int64_t place; /* of its bit */
} move_candidate;

typedef struct move_list {
    int32_t *place;
    uint64_t *key;
    int64_t n;
} move_list;

typedef struct moves_run {
    const float *gradient, *weight; /* [out, in] */
    const uint8_t *bits;
    int64_t out, in, row_bytes;
    int is_signed;
    int32_t *column;
    move_candidate *taken;
    move_list going, coming;
} moves_run;

typedef struct score_bounds {
    double going, coming;
} score_bounds;

/* What moving a weight costs, by G = g w; the smallest moves first. That a kept weight goes changes the cross-entropy by
 * −G, and that a zero comes by +G; the paper's rule turns the kept weights with the smallest |G| off, and the zeros with
 * the largest |G| on. */
static double move_score(const moves_run *m, int is_kept, double product) {
    double score = m->is_signed ? -product : fabs(product);
    return is_kept ? score : -score;
}

/* Adds a weight, if it may move at all. Without a branch: what is not added is written over by the next one, for which there
 * is one place more than weights. */
static void add_candidate(moves_run *m, int is_kept, int64_t place, int64_t at) {
    double score = move_score(m, is_kept, (double)m->gradient[at] * (double)m->weight[at]);
    move_list *list = is_kept ? &m->going : &m->coming;
    list->place[list->n] = (int32_t)place;
    list->key[list->n] = rank_key(score);
    list->n += !m->is_signed | (score < 0.0);
}

/* A bound on the score of rank q among all weights, from those of a sample: most likely not below it. */
static double bound_of_sample(const move_list *sample, int64_t q) {
    int64_t smaller, rank = q / SAMPLE_STRIDE * 3 / 2 + 16;
    return rank < sample->n ? rank_value(key_of_rank(sample->key, sample->n, rank, &smaller)) : HUGE_VAL;
}

static score_bounds sample_bounds(moves_run *m, int64_t q) {
    m->going.n = m->coming.n = 0;
    for (int64_t at = 0; at < m->out * m->in; at += SAMPLE_STRIDE)
        add_candidate(m, mask_bit(m->bits + at / m->in * m->row_bytes, at % m->in), at, at);
    return (score_bounds){bound_of_sample(&m->going, q), bound_of_sample(&m->coming, q)};
}

/* A little more than a bound, so that no score within it is passed over for its rounding. */
static float widen_bound(double bound) {
    return (float)(bound + fabs(bound) * 1e-6 + 1e-37);
}

/* The columns of a row whose scores, rounded to f32, do not exceed the bounds: at most `in` of them. What does not belong
 * there is written too, and written over, for which `column` has one place more. With is_signed known when this is
 * compiled, the loop has no branch. */
static inline int64_t list_columns(int is_signed, const float *gradient, const float *weight, const uint8_t *bits,
                                   int64_t in, float most_going, float most_coming, int32_t *column) {
    int64_t n = 0;
    for (int64_t j = 0; j < in; j++) {
        float product = gradient[j] * weight[j], score = is_signed ? -product : fabsf(product);
        int kept = mask_bit(bits, j);
        column[n] = (int32_t)j;
        n += (kept & !(score > most_going)) | (!kept & !(score < -most_coming)); /* a zero's score is −score */
    }
    return n;
}

/* Lists the weights that may go, and those that may come, in order of place, without those beyond the bounds. */
static void list_candidates(moves_run *m, score_bounds bounds) {
    const float most_going = widen_bound(bounds.going), most_coming = widen_bound(bounds.coming);
    m->going.n = m->coming.n = 0;
    for (int64_t row = 0; row < m->out; row++) {
        const float *gradient = m->gradient + row * m->in, *weight = m->weight + row * m->in;
        const uint8_t *bits = m->bits + row * m->row_bytes;
        int64_t n = m->is_signed ? list_columns(1, gradient, weight, bits, m->in, most_going, most_coming, m->column)
                                 : list_columns(0, gradient, weight, bits, m->in, most_going, most_coming, m->column);
        for (int64_t i = 0; i < n; i++)
            add_candidate(m, mask_bit(bits, m->column[i]), row * m->row_bytes * 8 + m->column[i],
                          row * m->in + m->column[i]);
    }
}

static int compare_candidates(const void *a, const void *b) {
    const move_candidate *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* The places of the n candidates of the smallest scores, in order; where scores are equal, those that stand first. */
static void take_moves(const move_list *list, int64_t n, move_candidate *taken, int32_t *place) {
    int64_t n_smaller = 0, n_taken = 0;
    if (n == 0) return;
    uint64_t threshold = key_of_rank(list->key, list->n, n - 1, &n_smaller);
    int64_t ties = n - n_smaller;
    for (int64_t i = 0; i < list->n; i++)
        if (goes(list->key[i], threshold, &ties)) taken[n_taken++] = (move_candidate){list->key[i], list->place[i]};
    qsort(taken, (size_t)n, sizeof *taken, compare_candidates);
    for (int64_t i = 0; i < n; i++) place[i] = (int32_t)taken[i].place;
}

/* Candidates of both ways, one more of each than weights; those that are taken; columns; and weights as f32. */
static size_t mask_moves_scratch(scbm_queue *queue, const scbm_kernel_call *call) {
    int64_t n = view_elements(&call->source[1]), in = call->source[1].shape[1], most = call->source[4].shape[1];
    (void)queue;
    return 6 * k_floats(n + 1) + 4 * k_floats(most) + k_floats(in + 1) +
           (call->source[1].type == SCBM_F32 ? 0 : k_floats(n));
}

static void place_candidates(moves_run *m, const scbm_view *w, int64_t most, unsigned char *scratch) {
    int64_t n = m->out * m->in;
    size_t one = k_floats(n + 1);
    m->going.key = (uint64_t *)(void *)scratch;
    m->coming.key = (uint64_t *)(void *)(scratch + 2 * one);
    m->going.place = (int32_t *)(void *)(scratch + 4 * one);
    m->coming.place = (int32_t *)(void *)(scratch + 5 * one);
    m->taken = (move_candidate *)(void *)(scratch + 6 * one);
    m->column = (int32_t *)(void *)(scratch + 6 * one + 4 * k_floats(most));
    m->weight = w->data;
    if (w->type == SCBM_F32) return;
    float *weight = (float *)(void *)(scratch + 6 * one + 4 * k_floats(most) + k_floats(m->in + 1));
    scbm_convert(SCBM_F32, weight, w->type, w->data, n);
    m->weight = weight;
}

static scbm_status cpu_mask_moves(scbm_queue *queue, const scbm_kernel_call *call) {
    const struct k_exec exec = exec_of_call(queue, call), *ex = &exec;
    const scbm_view *w = &call->source[1], *masks = &call->source[2], *moves = &call->source[4];
    int64_t which = call->node->integer[0], n = w->shape[0] * w->shape[1];
    const int32_t *wanted = (const int32_t *)call->source[3].data + 2 * which;
    int32_t *count = (int32_t *)call->source[5].data + which, *place = moves->data;
    int64_t q = k_min(k_min(wanted[0], moves->shape[1]), n);
    moves_run m = {.gradient = call->source[0].data, .bits = masks->data, .out = w->shape[0], .in = w->shape[1]};
    *count = 0;
    if (q <= 0) return SCBM_OK;
    m.row_bytes = masks->shape[2];
    m.is_signed = wanted[1] != 0;
    place_candidates(&m, w, moves->shape[1], ex->scratch);
    score_bounds bounds = sample_bounds(&m, q);
    list_candidates(&m, bounds);
    int is_bounded = isfinite(bounds.going) || isfinite(bounds.coming);
    if (is_bounded && k_min(m.going.n, m.coming.n) < q) list_candidates(&m, (score_bounds){HUGE_VAL, HUGE_VAL});
    q = k_min(q, k_min(m.going.n, m.coming.n));
    take_moves(&m.going, q, m.taken, place);
    take_moves(&m.coming, q, m.taken, place + moves->shape[1]);
    *count = (int32_t)q;
    return SCBM_OK;
}

static scbm_status cpu_flip_bits(scbm_queue *queue, const scbm_kernel_call *call) {
    const scbm_view *moves = &call->source[1];
    int64_t which = call->node->integer[0];
    const int32_t *wanted = (const int32_t *)call->source[3].data + 2 * which, *place = moves->data;
    int64_t n = k_min(k_min(wanted[0], ((const int32_t *)call->source[2].data)[which]), moves->shape[1]);
    int64_t bits = 8 * view_elements(&call->source[0]);
    int back = wanted[1] != 0;
    (void)queue;
    for (int64_t i = 0; i < n; i++) {
        int64_t out = place[i], in = place[moves->shape[1] + i];
        if (out < 0 || out >= bits || in < 0 || in >= bits) continue; /* what mask_moves has made is inside */
        set_mask_bit(call->source[0].data, out, back);
        set_mask_bit(call->source[0].data, in, !back);
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * CPU backend: the table
 * ---------------------------------------------------------------------------------------- */

static const scbm_kernel cpu_kernels[SCBM_OP_COUNT] = {
    [SCBM_OP_GET_ROWS] = {cpu_get_rows, NULL, NULL},
    [SCBM_OP_GET_ROWS_BACK] = {cpu_get_rows_back, NULL, NULL},
    [SCBM_OP_ADD] = {cpu_binary, binary_scratch, NULL},
    [SCBM_OP_MUL] = {cpu_binary, binary_scratch, NULL},
    [SCBM_OP_SCALE] = {cpu_scale, NULL, NULL},
    [SCBM_OP_SUM_TO] = {cpu_sum_to, sum_to_scratch, NULL},
    [SCBM_OP_BROADCAST] = {cpu_broadcast, NULL, NULL},
    [SCBM_OP_COPY] = {cpu_copy, NULL, NULL},
    [SCBM_OP_CAST] = {cpu_cast, NULL, NULL},
    [SCBM_OP_CONCAT] = {cpu_concat, NULL, NULL},
    [SCBM_OP_SLICE] = {cpu_slice, NULL, NULL},
    [SCBM_OP_SLICE_BACK] = {cpu_slice_back, NULL, NULL},
    [SCBM_OP_LINEAR] = {cpu_linear, linear_scratch, NULL},
    [SCBM_OP_LINEAR_BACK_X] = {cpu_linear_dx, linear_dx_scratch, NULL},
    [SCBM_OP_LINEAR_BACK_W] = {cpu_linear_dw, linear_dw_scratch, NULL},
    [SCBM_OP_GROUP_LINEAR] = {cpu_group_linear, NULL, NULL},
    [SCBM_OP_GROUP_LINEAR_BACK_Z] = {cpu_group_linear_back_z, NULL, NULL},
    [SCBM_OP_GROUP_LINEAR_BACK_W] = {cpu_group_linear_back_w, NULL, NULL},
    [SCBM_OP_LAYER_NORM] = {cpu_layer_norm, NULL, NULL},
    [SCBM_OP_ADD_LAYER_NORM] = {cpu_add_layer_norm, add_layer_norm_scratch, NULL},
    [SCBM_OP_LAYER_NORM_BACK] = {cpu_layer_norm_back, layer_norm_back_scratch, NULL},
    [SCBM_OP_ACTIVATE] = {cpu_activate, NULL, NULL},
    [SCBM_OP_ACTIVATE_BACK] = {cpu_activate_back, NULL, NULL},
    [SCBM_OP_SOFTMAX] = {cpu_softmax, NULL, NULL},
    [SCBM_OP_SOFTMAX_BACK] = {cpu_softmax_back, NULL, NULL},
    [SCBM_OP_DROPOUT] = {cpu_dropout, NULL, NULL},
    [SCBM_OP_PRODUCT] = {cpu_product, product_scratch, NULL},
    [SCBM_OP_APPLY_MASKS] = {cpu_apply_masks, NULL, NULL},
    [SCBM_OP_SUM_MASKED] = {cpu_sum_masked, NULL, NULL},
    [SCBM_OP_RMS_NORM] = {cpu_layer_norm, NULL, NULL},
    [SCBM_OP_RMS_NORM_BACK] = {cpu_layer_norm_back, layer_norm_back_scratch, NULL},
    [SCBM_OP_ATTENTION_BIAS] = {cpu_attention_bias, NULL, NULL},
    [SCBM_OP_ATTENTION_BIAS_BACK] = {cpu_attention_bias, NULL, NULL},
    [SCBM_OP_ATTENTION] = {cpu_attention, attention_scratch, NULL},
    [SCBM_OP_ATTENTION_BACK] = {cpu_attention_back, attention_back_scratch, NULL},
    [SCBM_OP_ATTENTION_SCORES] = {cpu_attention_scores, NULL, NULL},
    [SCBM_OP_ATTENTION_MIX] = {cpu_attention_mix, NULL, NULL},
    [SCBM_OP_ATTENTION_MIX_TRANSPOSED] = {cpu_attention_mix, NULL, NULL},
    [SCBM_OP_SEGMENT_MEAN] = {cpu_segment_mean, NULL, NULL},
    [SCBM_OP_SEGMENT_MEAN_BACK] = {cpu_segment_mean_back, NULL, NULL},
    [SCBM_OP_SEGMENT_FIRST] = {cpu_segment_token, NULL, NULL},
    [SCBM_OP_SEGMENT_FIRST_BACK] = {cpu_segment_token_back, NULL, NULL},
    [SCBM_OP_SEGMENT_LAST] = {cpu_segment_token, NULL, NULL},
    [SCBM_OP_SEGMENT_LAST_BACK] = {cpu_segment_token_back, NULL, NULL},
    [SCBM_OP_MIX_TEXTS] = {cpu_mix_texts, NULL, NULL},
    [SCBM_OP_MIX_TEXTS_BACK] = {cpu_mix_texts, NULL, NULL},
    [SCBM_OP_CROSS_ENTROPY] = {cpu_cross_entropy, cross_entropy_scratch, NULL},
    [SCBM_OP_CROSS_ENTROPY_BACK] = {cpu_cross_entropy_back, NULL, NULL},
    [SCBM_OP_ACCUMULATE] = {cpu_accumulate, NULL, NULL},
    [SCBM_OP_SQUARE_SUM] = {cpu_square_sum, square_sum_scratch, NULL},
    [SCBM_OP_CLIP] = {cpu_clip, NULL, NULL},
    [SCBM_OP_ADAMW] = {cpu_adamw, NULL, NULL},
    [SCBM_OP_FISHER_ADD] = {cpu_fisher_add, NULL, NULL},
    [SCBM_OP_ROW_SALIENCY] = {cpu_row_saliency, row_saliency_scratch, NULL},
    [SCBM_OP_POPUP_BACK] = {cpu_popup_back, NULL, NULL},
    [SCBM_OP_FISHER_SCORES] = {cpu_fisher_scores, fisher_scores_scratch, NULL},
    [SCBM_OP_KEEP_LARGEST] = {cpu_keep_largest, choice_scratch, NULL},
    [SCBM_OP_AGREE] = {cpu_agree, choice_scratch, NULL},
    [SCBM_OP_MASK_MOVES] = {cpu_mask_moves, mask_moves_scratch, NULL},
    [SCBM_OP_FLIP_BITS] = {cpu_flip_bits, NULL, NULL},
    [SCBM_OP_LSTM] = {cpu_lstm, lstm_scratch, NULL},
    [SCBM_OP_LSTM_BACK] = {cpu_lstm_back, lstm_back_scratch, NULL},
};

static void cpu_free(scbm_backend *backend) {
    const scbm_hooks hooks = ((const cpu_backend *)backend)->hooks;
    scbm_release(&hooks, backend);
}

static const char *cpu_device(scbm_backend *backend) {
    return ((const cpu_backend *)backend)->device;
}

static int cpu_has_precision(scbm_backend *backend, scbm_precision precision) {
    (void)backend;
    return precision != SCBM_PRECISION_TF32;
}

static const scbm_backend_functions cpu_functions = {
    .version = SCBM_BACKEND_VERSION,
    .name = "cpu",
    .is_host = 1,
    .n_kernels = SCBM_OP_COUNT,
    .kernels = cpu_kernels,
    .free = cpu_free,
    .device = cpu_device,
    .queue_create = cpu_queue_create,
    .queue_free = cpu_queue_free,
    .has_precision = cpu_has_precision,
};

scbm_status scbm_context_check_masked_precision(const scbm_context *context, scbm_precision precision) {
    scbm_status status = scbm_context_check_precision(context, precision);
    if (status || context->backend->functions != &cpu_functions) return status;
    if (precision == SCBM_PRECISION_INT8)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%s computes layers with masks in f32, which skips their zeros; integers would gain nothing there",
            scbm_context_device(context));
    if (precision == SCBM_PRECISION_BF16 && !((const cpu_backend *)context->backend)->kernels->bf16)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%s has no bf16 products: layers with masks would be slower than in f32, and less exact",
                         scbm_context_device(context));
    return SCBM_OK;
}

static int cpu_count(void) {
    return 1;
}

static void cpu_describe(int device, char *text, size_t size) {
    const char *forced = getenv("SCBM_CPU");
    const struct k_table *kernels = k_select(forced && *forced ? forced : NULL);
    (void)device;
    snprintf(text, size, "cpu (%s)", kernels ? kernels->name : forced);
}

/* The device of the name "cpu:avx2" is a tier. */
static scbm_status cpu_open(scbm_backend **out, const char *tier, const scbm_backend_options *options) {
    const char *source = "";
    *out = NULL;
    if (!tier) {
        tier = getenv("SCBM_CPU");
        if (tier && !*tier) tier = NULL;
        source = tier ? "SCBM_CPU: " : "";
    }
    int is_known = !tier || !strcmp(tier, "portable") || !strcmp(tier, "avx2") || !strcmp(tier, "avx512") ||
                   !strcmp(tier, "amx");
    if (!is_known)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%sunknown CPU tier '%.40s': portable, avx2, avx512 and amx are known",
                         source, tier);
    const struct k_table *kernels = k_select(tier);
    if (!kernels) return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%sthis machine has no %s", source, tier);
    if (kernels->has_tiles && !k_get_tiles()) {
        if (tier)
            return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                             "%sthe system gives this process no AMX tiles (has a thread a small signal stack?)",
                             source);
        kernels = k_select("avx512");
    }
    cpu_backend *backend = scbm_alloc(options->hooks, sizeof *backend);
    if (!backend) return SCBM_ERROR_MEMORY;
    if (options->hooks) backend->hooks = *options->hooks;
    backend->public.functions = &cpu_functions;
    backend->kernels = kernels;
    snprintf(backend->device, sizeof backend->device, "cpu (%s)", kernels->name);
    *out = &backend->public;
    return SCBM_OK;
}

static const scbm_backend_entry cpu_entry = {SCBM_BACKEND_VERSION, "cpu", cpu_count, cpu_describe, cpu_open};

/* ------------------------------------------------------------------------------------------
 * AdamW
 * ---------------------------------------------------------------------------------------- */

typedef struct adamw_parameter {
    scbm_tensor *tensor;
    scbm_tensor moment[2];
    float learning_rate, weight_decay;
} adamw_parameter;

struct scbm_adamw {
    scbm_context *context;
    scbm_adamw_options options;
    const struct k_table *kernels;
    adamw_parameter *parameters;
    int n;
    int64_t steps, n_elements;
    void *scratch; /* for the norm */
    /* As nodes of a graph: */
    scbm_graph *graph;
    scbm_adamw *next; /* of the graph's optimizers */
    scbm_tensor *numbers, *clip;
    scbm_tensor norms, stopped; /* F32 [n, 2], [1] */
    int is_begun, is_done;      /* the run's numbers are there; it has run, and nobody has looked at it */
};

/* Both moments, of zeros. */
static scbm_status adamw_add(scbm_adamw *optimizer, scbm_tensor *tensor, float learning_rate, float weight_decay) {
    const scbm_hooks *hooks = &optimizer->context->hooks;
    adamw_parameter *p = &optimizer->parameters[optimizer->n++];
    p->tensor = tensor;
    p->learning_rate = learning_rate;
    p->weight_decay = weight_decay;
    for (int i = 0; i < 2; i++) {
        scbm_status status = scbm_tensor_init(&p->moment[i], tensor->name, SCBM_F32, tensor->n_dims, tensor->shape);
        if (status) return status;
        p->moment[i].data = scbm_alloc(hooks, scbm_tensor_bytes(tensor));
        if (!p->moment[i].data) return SCBM_ERROR_MEMORY;
    }
    return SCBM_OK;
}

/* What clipping works with. */
static scbm_status adamw_add_norms(scbm_adamw *optimizer, int n) {
    const scbm_hooks *hooks = &optimizer->context->hooks;
    const int64_t pairs[2] = {n, 2}, one = 1;
    scbm_status status = scbm_tensor_init(&optimizer->norms, "norms", SCBM_F32, 2, pairs);
    if (!status) status = scbm_tensor_init(&optimizer->stopped, "stopped", SCBM_F32, 1, &one);
    if (status) return status;
    optimizer->norms.data = scbm_alloc_array(hooks, 2 * (size_t)n, sizeof(float));
    optimizer->stopped.data = scbm_alloc(hooks, sizeof(float));
    return optimizer->norms.data && optimizer->stopped.data ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* What a 0 in the options stands for, or a negative number: 0. */
static float adamw_value(float given, float standard) {
    return given == 0.0f ? standard : given < 0.0f ? 0.0f : given;
}

/* `settled`: the options with numbers for what was left at 0. */
static scbm_status adamw_settle(const scbm_adamw_options *options, scbm_adamw_options *settled) {
    memset(settled, 0, sizeof *settled);
    if (options) *settled = *options;
    for (int i = 0; i < 8; i++)
        if (settled->reserved[i])
            return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: a reserved field of its options is not zero");
    settled->beta1 = adamw_value(settled->beta1, 0.9f);
    settled->beta2 = adamw_value(settled->beta2, 0.999f);
    settled->epsilon = adamw_value(settled->epsilon, 1e-8f);
    if (settled->beta1 < 1.0f && settled->beta2 < 1.0f && settled->epsilon >= 0.0f && settled->clip_norm >= 0.0f)
        return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT,
                     "AdamW: betas are below 1, epsilon is a number, the clipping norm at least 0");
}

static scbm_status adamw_check(scbm_tensor *const *params, int n) {
    for (int i = 0; i < n; i++)
        if (!params[i] || params[i]->type != SCBM_F32 || !params[i]->data)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: parameter %d is no f32 tensor with data", i);
    return SCBM_OK;
}

scbm_status scbm_adamw_create(scbm_adamw **out, scbm_context *context, scbm_tensor *const *params, int n,
                              const float *learning_rate, const float *weight_decay,
                              const scbm_adamw_options *options) {
    *out = NULL;
    scbm_adamw_options settled;
    if (n < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: %d parameters", n);
    scbm_status status = adamw_settle(options, &settled);
    if (!status) status = adamw_check(params, n);
    if (status) return status;
    scbm_adamw *optimizer = scbm_alloc(&context->hooks, sizeof *optimizer);
    if (!optimizer) return SCBM_ERROR_MEMORY;
    int is_cpu = context->backend->functions == &cpu_functions;
    optimizer->context = context;
    optimizer->options = settled;
    optimizer->kernels = is_cpu ? ((const cpu_backend *)context->backend)->kernels : k_best();
    optimizer->parameters = scbm_alloc_array(&context->hooks, (size_t)n, sizeof *optimizer->parameters);
    int64_t largest = 0;
    status = optimizer->parameters ? adamw_add_norms(optimizer, n) : SCBM_ERROR_MEMORY;
    for (int i = 0; i < n && !status; i++) {
        status = adamw_add(optimizer, params[i], learning_rate[i], weight_decay[i]);
        largest = k_max(largest, scbm_tensor_elements(params[i]));
        optimizer->n_elements += scbm_tensor_elements(params[i]);
    }
    if (!status) optimizer->scratch = scbm_alloc(&context->hooks, k_reduce_scratch(NULL, largest));
    if (!status && !optimizer->scratch) status = SCBM_ERROR_MEMORY;
    if (status) scbm_adamw_free(optimizer);
    else *out = optimizer;
    return status;
}

static void adamw_leave_graph(scbm_adamw *optimizer) {
    scbm_adamw **place = optimizer->graph ? &optimizer->graph->optimizers : NULL;
    while (place && *place != optimizer) place = &(*place)->next;
    if (place) *place = optimizer->next;
    optimizer->graph = NULL;
    optimizer->next = NULL;
}

static void adamw_release(scbm_tensor *tensor, const scbm_hooks *hooks) {
    scbm_tensor_forget(tensor);
    scbm_release(hooks, tensor->data);
}

void scbm_adamw_free(scbm_adamw *optimizer) {
    if (!optimizer) return;
    const scbm_hooks *hooks = &optimizer->context->hooks;
    if (optimizer->graph) graph_fail(optimizer->graph, SCBM_ERROR_ARGUMENT, "the optimizer of this graph was freed");
    adamw_leave_graph(optimizer);
    adamw_release(&optimizer->norms, hooks);
    adamw_release(&optimizer->stopped, hooks);
    for (int i = 0; i < optimizer->n; i++)
        for (int j = 0; j < 2; j++) adamw_release(&optimizer->parameters[i].moment[j], hooks);
    scbm_release(hooks, optimizer->parameters);
    scbm_release(hooks, optimizer->scratch);
    scbm_release(hooks, optimizer);
}

/* base^n by repeated squaring: the same on every machine, which pow is not. */
static double power(double base, int64_t n) {
    double result = 1.0;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

static scbm_status adamw_not_finite(void) {
    return scbm_fail(SCBM_ERROR_NUMERIC, "a gradient is not finite");
}

/* The global norm, of pairs as the op has them. */
static scbm_status adamw_norm(const scbm_adamw *optimizer, const struct k_exec *ex, scbm_tensor *const *gradients,
                              double *norm) {
    float *norms = optimizer->norms.data;
    for (int i = 0; i < optimizer->n; i++) {
        const scbm_tensor *tensor = optimizer->parameters[i].tensor, *gradient = gradients[i];
        int64_t n = scbm_tensor_elements(tensor);
        norms[2 * i] = norms[2 * i + 1] = 0.0f;
        if (!gradient) continue;
        if (gradient->type != SCBM_F32 || !gradient->data || scbm_tensor_elements(gradient) != n)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: gradient %d is not of %s's shape, or has no data", i,
                             tensor->name);
        write_square_sum(ex, norms + 2 * i, gradient->data, n);
    }
    *norm = norm_of_pairs(norms, optimizer->n);
    return isfinite(*norm) ? SCBM_OK : adamw_not_finite();
}

typedef struct adamw_step {
    scbm_adamw *optimizer;
    scbm_tensor *const *gradients;
    float rate;
    double norm;
    scbm_status status;
} adamw_step;

static void adamw_update(const adamw_step *step, const struct k_exec *ex) {
    scbm_adamw *optimizer = step->optimizer;
    const scbm_adamw_options *o = &optimizer->options;
    struct k_adamw_args a = {.beta1 = o->beta1, .beta2 = o->beta2, .eps = o->epsilon};
    a.correction1 = (float)(1.0 - power((double)o->beta1, optimizer->steps));
    a.correction2 = (float)(1.0 - power((double)o->beta2, optimizer->steps));
    a.grad_scale = clipping_factor(step->norm, o->clip_norm);
    for (int i = 0; i < optimizer->n; i++) {
        adamw_parameter *p = &optimizer->parameters[i];
        if (!step->gradients[i]) continue;
        a.w = p->tensor->data;
        a.m = p->moment[0].data;
        a.v = p->moment[1].data;
        a.g = step->gradients[i]->data;
        a.n = scbm_tensor_elements(p->tensor);
        a.lr = p->learning_rate * step->rate;
        a.decay = p->weight_decay;
        k_adamw(ex, &a);
        scbm_tensor_changed(p->tensor);
        for (int j = 0; j < 2; j++) scbm_tensor_changed(&p->moment[j]);
    }
}

static void adamw_step_body(void *arg) {
    adamw_step *step = arg;
    scbm_adamw *optimizer = step->optimizer;
    struct k_exec ex = exec_of(optimizer->context, optimizer->kernels, optimizer->scratch);
    step->status = adamw_norm(optimizer, &ex, step->gradients, &step->norm);
    if (step->status) return;
    optimizer->steps++;
    adamw_update(step, &ex);
}

scbm_status scbm_adamw_step(scbm_adamw *optimizer, scbm_tensor *const *gradients, float rate, float *norm) {
    adamw_step step = {optimizer, gradients, rate, 0.0, SCBM_OK};
    for (int i = 0; i < optimizer->n && !step.status; i++) {
        adamw_parameter *p = &optimizer->parameters[i];
        step.status = scbm_tensor_fetch(p->tensor, optimizer->context);
        for (int j = 0; j < 2 && !step.status; j++) step.status = scbm_tensor_fetch(&p->moment[j], optimizer->context);
    }
    if (step.status) return step.status;
    if (optimizer->n_elements > K_SERIAL) with_crew(optimizer->context, adamw_step_body, &step);
    else adamw_step_body(&step);
    if (!step.status && norm) *norm = (float)step.norm;
    return step.status;
}

/* ---- The same as nodes of a graph ---- */

static void leave_optimizers(scbm_graph *g) {
    while (g->optimizers) adamw_leave_graph(g->optimizers);
}

static scbm_status check_optimizers(const scbm_graph *g) {
    for (const scbm_adamw *o = g->optimizers; o; o = o->next)
        if (!o->is_begun) return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: scbm_adamw_begin comes before each run");
    return SCBM_OK;
}

static void mark_step(scbm_graph *g, int was_done) {
    for (scbm_adamw *o = g->optimizers; o; o = o->next) {
        o->is_begun = 0;
        o->is_done = was_done;
    }
}

/* The nodes of all norms, of their clipping, and of the steps. Gradients are read here, and no outputs any more. */
static void adamw_add_nodes(scbm_adamw *optimizer, scbm_graph *g, scbm_tensor *const *gradients) {
    const float most[2] = {optimizer->options.clip_norm, 0.0f};
    for (int i = 0; i < optimizer->n; i++) {
        const int64_t which[4] = {i, 0, 0, 0};
        if (!gradients[i]) continue;
        graph_tensor *ours = graph_tensor_of(g, gradients[i]);
        if (ours) ours->is_output = ours->is_fetched = 0;
        NODE(g, SCBM_OP_SQUARE_SUM, NULL, which, gradients[i], &optimizer->norms);
    }
    optimizer->clip = result_of(NODE(g, SCBM_OP_CLIP, most, NULL, &optimizer->norms, &optimizer->stopped));
    scbm_graph_fetch(g, optimizer->clip);
    for (int i = 0; i < optimizer->n; i++) {
        const int64_t which[4] = {i, 0, 0, 0};
        adamw_parameter *p = &optimizer->parameters[i];
        if (gradients[i])
            NODE(g, SCBM_OP_ADAMW, NULL, which, p->tensor, &p->moment[0], &p->moment[1], gradients[i],
                 optimizer->numbers, optimizer->clip);
    }
}

static void adamw_clear(scbm_tensor *tensor) {
    memset(tensor->data, 0, scbm_tensor_bytes(tensor));
    scbm_tensor_changed(tensor);
}

scbm_status scbm_graph_adamw(scbm_graph *g, scbm_adamw *optimizer, scbm_tensor *const *gradients) {
    const int64_t n_numbers = ADAMW_OF_PARAMETERS + 2 * (int64_t)optimizer->n;
    if (optimizer->context != g->context)
        graph_fail(g, SCBM_ERROR_ARGUMENT, "AdamW: the optimizer is of another context than the graph");
    if (g->status) return graph_status(g);
    scbm_tensor **own = scbm_alloc_array(g->hooks, (size_t)optimizer->n, sizeof *own);
    if (!own) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < optimizer->n; i++)
        own[i] = gradients ? gradients[i] : scbm_graph_gradient(g, optimizer->parameters[i].tensor);
    adamw_leave_graph(optimizer);
    adamw_clear(&optimizer->norms);
    adamw_clear(&optimizer->stopped);
    optimizer->is_begun = optimizer->is_done = 0;
    optimizer->numbers = scbm_input(g, "adamw", SCBM_F32, 1, &n_numbers, NULL);
    if (optimizer->numbers) adamw_add_nodes(optimizer, g, own);
    scbm_release(g->hooks, own);
    if (g->status) return graph_status(g);
    optimizer->graph = g;
    optimizer->next = g->optimizers;
    g->optimizers = optimizer;
    return SCBM_OK;
}

scbm_status scbm_adamw_begin(scbm_adamw *optimizer, float rate) {
    const scbm_adamw_options *o = &optimizer->options;
    if (!optimizer->graph || !optimizer->graph->is_planned)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: a step begins with a graph that has its nodes and is planned");
    if (optimizer->is_done) return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: the step before has run, and was not ended");
    float *numbers = optimizer->numbers->data;
    numbers[ADAMW_RATE] = rate;
    numbers[ADAMW_CORRECTION1] = (float)(1.0 - power((double)o->beta1, optimizer->steps + 1));
    numbers[ADAMW_CORRECTION2] = (float)(1.0 - power((double)o->beta2, optimizer->steps + 1));
    numbers[ADAMW_BETA1] = o->beta1;
    numbers[ADAMW_BETA2] = o->beta2;
    numbers[ADAMW_EPSILON] = o->epsilon;
    for (int i = 0; i < optimizer->n; i++) {
        numbers[ADAMW_OF_PARAMETERS + 2 * i] = optimizer->parameters[i].learning_rate;
        numbers[ADAMW_OF_PARAMETERS + 2 * i + 1] = optimizer->parameters[i].weight_decay;
    }
    optimizer->is_begun = 1;
    return SCBM_OK;
}

scbm_status scbm_adamw_end(scbm_adamw *optimizer, float *norm) {
    if (!optimizer->graph || !optimizer->is_done)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "AdamW: a step ends after a run of its graph");
    const float *clip = optimizer->clip->data;
    optimizer->is_done = 0;
    if (norm) *norm = clip[0];
    if (clip[2] != 0.0f) {
        adamw_clear(&optimizer->stopped);
        return adamw_not_finite();
    }
    optimizer->steps++;
    return SCBM_OK;
}

void scbm_adamw_set_rate(scbm_adamw *optimizer, int i, float learning_rate) {
    if (i >= 0 && i < optimizer->n) optimizer->parameters[i].learning_rate = learning_rate;
}

scbm_tensor *scbm_adamw_moment(scbm_adamw *optimizer, int i, int second) {
    return i >= 0 && i < optimizer->n ? &optimizer->parameters[i].moment[second != 0] : NULL;
}

int64_t scbm_adamw_steps(const scbm_adamw *optimizer) {
    return optimizer->steps;
}

void scbm_adamw_set_steps(scbm_adamw *optimizer, int64_t steps) {
    optimizer->steps = steps;
}

float scbm_linear_schedule(int64_t step, int64_t warmup, int64_t total) {
    if (step < warmup) return (float)((double)step / (double)warmup);
    if (step >= total) return 0.0f;
    return (float)((double)(total - step) / (double)(total - warmup));
}

#endif /* !SCBM_KERNELS_TIER */
