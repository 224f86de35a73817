/*
 * tests/torch-files.h - small files as torch.save writes them, made in memory: for tests, and seeds of fuzzers
 */
#ifndef TORCH_FILES_H
#define TORCH_FILES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct made_file {
    unsigned char bytes[16384];
    size_t n;
} made_file;

static inline void put(made_file *f, const void *bytes, size_t n) {
    if (n) memcpy(f->bytes + f->n, bytes, n);
    f->n += n;
}

static inline void put_number(made_file *f, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) f->bytes[f->n++] = (unsigned char)(i < 8 ? value >> (8 * i) : 0);
}

static inline void put_words(made_file *f, const char *text) {
    put(f, text, strlen(text));
}

/* Opcodes of pickles. */
static inline void put_text(made_file *f, const char *text) {
    put_words(f, "X");
    put_number(f, strlen(text), 4);
    put_words(f, text);
}

static inline void put_int(made_file *f, int64_t value) {
    put_words(f, "J");
    put_number(f, (uint64_t)value, 4);
}

static inline void put_global(made_file *f, const char *module, const char *name) {
    f->n += (size_t)sprintf((char *)f->bytes + f->n, "c%s\n%s\n", module, name);
}

static inline void put_ints(made_file *f, const int64_t *values, int n) {
    put_words(f, "(");
    for (int i = 0; i < n; i++) put_int(f, values[i]);
    put_words(f, "t");
}

/* A tensor of two dimensions, or of one where the second is 0. */
typedef struct made_tensor {
    const char *name, *storage, *key;
    int64_t numbers, offset, shape[2], stride[2];
} made_tensor;

static inline void put_tensor(made_file *f, const made_tensor *t) {
    put_global(f, "torch._utils", "_rebuild_tensor_v2");
    put_words(f, "((");
    put_text(f, "storage");
    put_global(f, "torch", t->storage);
    put_text(f, t->key);
    put_text(f, "cpu");
    put_int(f, t->numbers);
    put_words(f, "tQ");
    put_int(f, t->offset);
    put_ints(f, t->shape, t->shape[1] ? 2 : 1);
    put_ints(f, t->stride, t->shape[1] ? 2 : 1);
    put_words(f, "\x89");
    put_global(f, "collections", "OrderedDict");
    put_words(f, ")RtR");
}

/* A dictionary of tensors, a whole pickle. */
static inline void put_tensors(made_file *f, const made_tensor *tensors, int n) {
    put(f, "\x80\x02}q\x00(", 6);
    for (int i = 0; i < n; i++) {
        put_text(f, tensors[i].name);
        put_tensor(f, &tensors[i]);
    }
    put_words(f, "u.");
}

/* A zip file that is being put together. */
typedef struct made_zip {
    made_file file, list;
    int n;
} made_zip;

/* What stands before an entry of n bytes, or with `begin`, where that is, the entry's line in the list behind all. */
static inline void put_header(made_file *f, const char *name, uint64_t n, int method, const uint64_t *begin) {
    put_number(f, begin ? 0x02014b50 : 0x04034b50, 4);
    put_number(f, 0, begin ? 4 : 2); /* versions */
    put_number(f, 0, 2);
    put_number(f, (uint64_t)method, 2);
    put_number(f, 0, 8); /* time, checksum */
    put_number(f, n, 4);
    put_number(f, n, 4);
    put_number(f, strlen(name), 2);
    put_number(f, 0, 2);
    if (begin) put_number(f, 0, 10);
    if (begin) put_number(f, *begin, 4);
    put_words(f, name);
}

/* What stands behind a list of n entries, which begins there and has so many bytes. */
static inline void put_end(made_file *f, int n, uint64_t bytes, uint64_t begin) {
    put_number(f, 0x06054b50, 4);
    put_number(f, 0, 4);
    put_number(f, (uint64_t)n, 2);
    put_number(f, (uint64_t)n, 2);
    put_number(f, bytes, 4);
    put_number(f, begin, 4);
    put_number(f, 0, 2);
}

static inline void put_entry(made_zip *zip, const char *name, const void *data, size_t n, int method) {
    uint64_t begin = zip->file.n;
    put_header(&zip->file, name, n, method, NULL);
    put(&zip->file, data, n);
    put_header(&zip->list, name, n, method, &begin);
    zip->n++;
}

static inline void finish_zip(made_zip *zip) {
    size_t begin = zip->file.n;
    put(&zip->file, zip->list.bytes, zip->list.n);
    put_end(&zip->file, zip->n, zip->list.n, begin);
}

/* What the older form begins with: magic, protocol, facts of the system. */
static inline void put_old_start(made_file *f) {
    put(f, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    put(f, "\x80\x02M\xe9\x03.", 6);
    put(f, "\x80\x02}(", 4);
    put_text(f, "little_endian");
    put_words(f, "\x88u.");
}

#endif
