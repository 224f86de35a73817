/* helpers.c - what the test programs share; see helpers.h */
#define _XOPEN_SOURCE 700

#include "tests/helpers.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------------------------- */

void check_ok(scbm_status status, const char *what, const char *file, int line) {
    if (!status) return;
    print_error("%s%s%s: %s\n", what ? what : "", what ? ": " : "", scbm_status_name(status), scbm_last_error());
    _fail(file, line);
}

void check_error(scbm_status status, scbm_status wanted, const char *words, const char *file, int line) {
    const char *message = status ? scbm_last_error() : "";
    if (status == wanted && strstr(message, words) && !strchr(message, '\n')) return;
    print_error("got %s: '%s'; wanted %s: one line with '%s'\n", scbm_status_name(status), message,
                scbm_status_name(wanted), words);
    _fail(file, line);
}

void check_near(double value, double wanted, double tolerance, const char *file, int line) {
    if (fabs(value - wanted) <= tolerance) return;
    print_error("%.15g is not %.15g within %.3g\n", value, wanted, tolerance);
    _fail(file, line);
}

void limit_processor_seconds(int seconds) {
    const struct itimerval limit = {.it_value = {.tv_sec = seconds}};
    setitimer(ITIMER_PROF, &limit, NULL); /* its signal ends the program */
}

/* ------------------------------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------------------------- */

char folder[64];
static int n_removed;

int make_folder(void **state) {
    (void)state;
    const char *parent = getenv("TMPDIR");
    if (!parent || parent[0] != '/' || strlen(parent) > sizeof folder - sizeof "/scbm-test-XXXXXX") parent = "/tmp";
    snprintf(folder, sizeof folder, "%s/scbm-test-XXXXXX", parent);
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *facts, int type, struct FTW *place) {
    (void)facts, (void)type;
    if (place->level == 0) return 0;
    n_removed++;
    return remove(path);
}

int empty_folder(void) {
    n_removed = 0;
    if (nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS)) fail_msg("%s cannot be emptied", folder);
    return n_removed;
}

int remove_folder(void **state) {
    (void)state;
    empty_folder();
    return rmdir(folder);
}

const char *in_folder(const char *name) {
    static char paths[64][160];
    static int next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s is missing", path);
    fseek(file, 0, SEEK_END);
    size_t n = (size_t)ftell(file);
    rewind(file);
    char *bytes = calloc(1, n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, n, file), n);
    fclose(file);
    if (size) *size = n;
    return bytes;
}

void write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file) fail_msg("%s cannot be written", path);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

int same_files(const char *a, const char *b) {
    size_t n, m;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    int same = n == m && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

int exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* ------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------- */

typedef struct counted {
    size_t bytes, pad;
} counted;

/* What it gives is not zero. */
static void *counting_alloc(void *user, size_t bytes) {
    counting_allocator *a = user;
    a->n++;
    if (a->fails_at && (a->n == a->fails_at || (a->fails_on && a->n > a->fails_at))) return NULL;
    counted *block = malloc(sizeof *block + bytes);
    if (!block) return NULL;
    block->bytes = bytes;
    memset(block + 1, 0xa5, bytes);
    a->held++;
    a->bytes += bytes;
    return block + 1;
}

static void counting_free(void *user, void *pointer) {
    counting_allocator *a = user;
    if (!pointer) return;
    counted *block = (counted *)pointer - 1;
    a->held--;
    a->bytes -= block->bytes;
    free(block);
}

scbm_hooks allocator_hooks(counting_allocator *a) {
    return (scbm_hooks){.user = a, .alloc = counting_alloc, .free = counting_free, .n_workers = 1};
}

void needs_fork(void) {
    const char *backend = getenv("SCBM_TEST_BACKEND");
    if (backend && strcmp(backend, "cuda") == 0) skip();
}
