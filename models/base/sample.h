/*
 * models/base/sample.h - a part of a collection, evenly spaced
 */
#ifndef CBM_SAMPLE_H
#define CBM_SAMPLE_H

#include <stddef.h>

/* Row i of `n` rows that are taken evenly out of `n_rows`; n is at most n_rows. */
static inline size_t cbm_sample_row(size_t i, size_t n, size_t n_rows) {
    return (size_t)((double)i * (double)n_rows / (double)n);
}

/* How many rows a sample of `most` has: all of them where most is 0, or more than there are. */
static inline size_t cbm_sample_size(size_t most, size_t n_rows) {
    return most && most < n_rows ? most : n_rows;
}

#endif
