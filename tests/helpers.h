/*
 * tests/helpers.h - what the test programs share: cmocka, checks, a folder for what a program writes, files' bytes, and
 * an allocator that fails
 */
#ifndef TEST_HELPERS_H
#define TEST_HELPERS_H

#include "sparsecbm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ------------------------------------------------------------------------------------------
 * Checks; a failure has the place of the call
 * ---------------------------------------------------------------------------------------- */

#define assert_ok(status) check_ok(status, NULL, __FILE__, __LINE__)
#define assert_ok_for(status, what) check_ok(status, what, __FILE__, __LINE__) /* the message begins with `what` */

/* The call failed with the status `wanted`, and its message is one line that has these words. */
#define assert_error(status, wanted, words) check_error(status, wanted, words, __FILE__, __LINE__)

#define assert_near(value, wanted, tolerance) check_near(value, wanted, tolerance, __FILE__, __LINE__)

void check_ok(scbm_status status, const char *what, const char *file, int line);
void check_error(scbm_status status, scbm_status wanted, const char *words, const char *file, int line);
void check_near(double value, double wanted, double tolerance, const char *file, int line);

/* From now on the program may use so many seconds of processors, however busy the machine is; 0: as many as it wants. */
void limit_processor_seconds(int seconds);

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

extern char folder[64]; /* of the program that runs, with nobody else's files */

int make_folder(void **state); /* as cmocka wants its fixtures: 0, or -1 */
int remove_folder(void **state);
int empty_folder(void);                  /* returns how many files and folders it had */
const char *in_folder(const char *name); /* a path there; the last 64 stay */

/* The bytes with a zero behind them, for free(). `size` may be NULL. */
char *read_file(const char *path, size_t *size);
void write_file(const char *path, const void *bytes, size_t size);
int same_files(const char *a, const char *b);
int exists(const char *path);

/* ------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------- */

/* Counts the allocations, and what of them is held. Number `fails_at` (from 1; 0: none) gets nothing, and if `fails_on`
 * neither does any after it. */
typedef struct counting_allocator {
    long n, fails_at, held;
    int fails_on;
    size_t bytes; /* held */
} counting_allocator;

scbm_hooks allocator_hooks(counting_allocator *a); /* on one thread */

/* Skips the test where a forked process cannot compute: on a GPU that its parent has used. */
void needs_fork(void);

#endif /* TEST_HELPERS_H */
