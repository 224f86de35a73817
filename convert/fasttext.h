/*
 * convert/fasttext.h - words' vectors of fastText's files (Bojanowski et al., 2017)
 *
 * Text (.vec): a line with the numbers of words and of a vector's numbers, then a line for each word. Binary (.bin, versions 11
 * and 12): a dictionary and a matrix of f32, of which words and the n-grams inside them have rows; a word's vector is the mean of
 * its own row, where it has one, and those of its n-grams. A quantized model (.ftz) is refused.
 *
 * Of a file of several gigabytes only the words that are asked for are kept; pages of a text, and of a dictionary, go back to the
 * system when they have been read.
 */
#ifndef CONVERT_FASTTEXT_H
#define CONVERT_FASTTEXT_H

#include "sparsecbm.h"

typedef struct fasttext_vectors {
    int64_t width;
    float *value;      /* [n, width] */
    uint8_t *is_there; /* [n]: whether the file has a vector for the word; the others are zeros */
    int32_t n, n_there;
} fasttext_vectors;

/* The vectors of n words, NUL-terminated UTF-8, no two of them equal; NULL is a word that is not looked for. To be cleared in
 * any case. */
scbm_status cbm_fasttext_read(fasttext_vectors *vectors, const char *path, const char *const *words, int32_t n,
                              const scbm_hooks *hooks);
/* From memory; `name` stands for the path in messages. */
scbm_status cbm_fasttext_read_memory(fasttext_vectors *vectors, const void *data, size_t size, const char *name,
                                     const char *const *words, int32_t n, const scbm_hooks *hooks);
void cbm_fasttext_clear(fasttext_vectors *vectors, const scbm_hooks *hooks);

#endif
