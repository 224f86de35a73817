/*
 * models/base/hash.h - FNV-1a: to tell data apart
 */
#ifndef CBM_HASH_H
#define CBM_HASH_H

#include "sparsecbm.h"

/* FNV-1a's step on eight bytes at a time, folded so that the upper bits count: to tell data apart. */
#define CBM_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t cbm_hash(uint64_t hash, const void *data, size_t size);

#endif
