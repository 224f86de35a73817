/*
 * convert/bytes.h - numbers and names as binary files have them
 */
#ifndef CONVERT_BYTES_H
#define CONVERT_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The number of n bytes, 8 at most, the lowest first; any alignment. */
static inline uint64_t cbm_little_endian(const unsigned char *bytes, size_t n) {
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* The order of two names that are not NUL-terminated: below, at or above 0. */
static inline int cbm_compare_names(const char *a, size_t a_length, const char *b, size_t b_length) {
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

#endif
