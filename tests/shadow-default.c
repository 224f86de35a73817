/*
 * tests/shadow-default.c - linked with --wrap=scbm_context_create: contexts whose backend was left to the default are made on a
 * shadow device, so that a test program written for the CPU tries one
 */
#include "tests/shadow-device.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

scbm_status __real_scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend);
scbm_status __wrap_scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend);

static scbm_backend *shadow;

/* Whoever's tensors went has said so. */
static void close_shadow(void) {
    size_t copied = scbm_backend_copied(shadow);
    scbm_backend_close(shadow);
    if (!copied && !shadow_blocks()) return;
    fprintf(stderr, "shadow: %zu bytes of tensors were not forgotten, %lld blocks are still held\n", copied,
            (long long)shadow_blocks());
    _Exit(1);
}

static scbm_backend *default_backend(void) {
    static atomic_flag lock = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&lock)) continue;
    if (!shadow && !shadow_register() && !scbm_backend_open(&shadow, "shadow", NULL)) atexit(close_shadow);
    atomic_flag_clear(&lock);
    return shadow;
}

scbm_status __wrap_scbm_context_create(scbm_context **context, const scbm_hooks *hooks, scbm_backend *backend) {
    return __real_scbm_context_create(context, hooks, backend ? backend : default_backend());
}
