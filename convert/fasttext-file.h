/*
 * convert/fasttext-file.h - a fastText file while it is read: what text and binary share
 */
#ifndef CONVERT_FASTTEXT_FILE_H
#define CONVERT_FASTTEXT_FILE_H

#include "convert/fasttext.h"

#define FASTTEXT_MAGIC 793712314 /* the first number of a binary file */

typedef struct fasttext_file {
    const char *name;
    const unsigned char *data;
    size_t size;
    const scbm_bytes *bytes; /* that data are mapped by; NULL: plain memory */
    size_t given_back;       /* what stands before this was given back to the system */
    const char *const *words;
    int32_t n;
    int32_t *place; /* of the words, by their hash */
    size_t places;
    fasttext_vectors *vectors;
    const scbm_hooks *hooks;
} fasttext_file;

/* The number of a word that is asked for, or -1. */
int32_t cbm_fasttext_wanted(const fasttext_file *file, const char *word, size_t length);
/* Room for the vectors. */
scbm_status cbm_fasttext_allocate(fasttext_file *file, int64_t width);
/* What stands before `at` is not needed any more; asks whether to go on. */
scbm_status cbm_fasttext_pass(fasttext_file *file, size_t at);
/* The binary form. */
scbm_status cbm_fasttext_read_binary(fasttext_file *file);

#endif
