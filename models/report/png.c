/*
 * models/report/png.c - pixels as PNG
 *
 * stb_image_write is a header with everything in it; this is the only file that has it.
 */
#include "models/report/parts.h"

#include <setjmp.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Memory for stb_image_write
 *
 * It does not look whether its buffers could be enlarged, so an allocation that fails does not return to it: everything
 * that it holds is in a list, from which it is freed.
 * ---------------------------------------------------------------------------------------- */

typedef struct encoder_block {
    struct encoder_block *previous, *next;
    size_t size;
} encoder_block;

typedef struct encoder {
    const scbm_hooks *hooks;
    encoder_block list; /* the head of a ring */
    jmp_buf out_of_memory;
} encoder;

static _Thread_local encoder *current;

enum { BLOCK_HEADER = 32 }; /* what comes after it is aligned to 32 bytes */

static void *encoder_alloc(size_t size) {
    encoder_block *block = size < SIZE_MAX - BLOCK_HEADER ? scbm_alloc(current->hooks, size + BLOCK_HEADER) : NULL;
    if (!block) longjmp(current->out_of_memory, 1);
    *block = (encoder_block){&current->list, current->list.next, size};
    block->next->previous = block;
    current->list.next = block;
    return (char *)block + BLOCK_HEADER;
}

static void encoder_free(void *pointer) {
    if (!pointer) return;
    encoder_block *block = (encoder_block *)(void *)((char *)pointer - BLOCK_HEADER);
    block->previous->next = block->next;
    block->next->previous = block->previous;
    scbm_release(current->hooks, block);
}

static void *encoder_realloc(void *pointer, size_t size) {
    void *larger = encoder_alloc(size);
    if (!pointer) return larger;
    size_t old = ((encoder_block *)(void *)((char *)pointer - BLOCK_HEADER))->size;
    memcpy(larger, pointer, old < size ? old : size);
    encoder_free(pointer);
    return larger;
}

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBIW_MALLOC(size) encoder_alloc(size)
#define STBIW_REALLOC(pointer, size) encoder_realloc(pointer, size)
#define STBIW_FREE(pointer) encoder_free(pointer)
#define STBIW_ASSERT(condition) ((void)0)
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/* ------------------------------------------------------------------------------------------
 * Encoding
 * ---------------------------------------------------------------------------------------- */

typedef struct encoded {
    const scbm_hooks *hooks;
    unsigned char *bytes;
    size_t size, capacity;
    scbm_status status;
} encoded;

static void take_bytes(void *user, void *bytes, int size) {
    encoded *e = user;
    e->status = scbm_grow(e->hooks, (void **)&e->bytes, &e->capacity, e->size + (size_t)size, 1);
    if (e->status) return;
    memcpy(e->bytes + e->size, bytes, (size_t)size);
    e->size += (size_t)size;
}

/* A function of its own, so that none of its variables lives where setjmp returns to. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static int
write_png(encoded *result, const unsigned char *pixels, int width, int height, int components) {
    return stbi_write_png_to_func(take_bytes, result, width, height, components, pixels, width * components);
}

/* Runs stb_image_write with its memory set up; what it leaves behind is freed. */
static int encode(encoder *memory, encoded *result, const unsigned char *pixels, int width, int height,
                  int components) {
    volatile int done = 0;
    memory->list = (encoder_block){&memory->list, &memory->list, 0};
    current = memory;
    if (!setjmp(memory->out_of_memory)) done = write_png(result, pixels, width, height, components);
    while (memory->list.next != &memory->list) encoder_free((char *)memory->list.next + BLOCK_HEADER);
    current = NULL;
    return done;
}

scbm_status cbm_png_encode(const unsigned char *pixels, int width, int height, int components, const scbm_hooks *hooks,
                           unsigned char **png, size_t *size) {
    encoder memory;
    encoded result = {.hooks = hooks};
    memory.hooks = hooks;
    *png = NULL;
    *size = 0;
    if (width < 1 || height < 1 || (double)width * height * components > 1e9)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a picture of %d x %d points", width, height);
    if (!encode(&memory, &result, pixels, width, height, components) || result.status) {
        scbm_release(hooks, result.bytes);
        return SCBM_ERROR_MEMORY;
    }
    *png = result.bytes;
    *size = result.size;
    return SCBM_OK;
}
