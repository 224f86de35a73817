/*
 * models/base/hash.c - FNV-1a on eight bytes at a time
 */
#include "models/base/hash.h"

#include <string.h>

uint64_t cbm_hash(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    while (size) {
        uint64_t word = 0;
        size_t n = size < sizeof word ? size : sizeof word;
        memcpy(&word, bytes, n);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 32;
        bytes += n;
        size -= n;
    }
    return hash;
}
