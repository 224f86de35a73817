/*
 * models/base/rank.h - selecting by score: doubles as unsigned keys of the same order
 */
#ifndef CBM_RANK_H
#define CBM_RANK_H

#include <stdint.h>
#include <string.h>

/* Ranks: unsigned numbers in the order of the doubles (a NaN is the smallest), none of them 0; and of `n` such keys the
 * one of rank `rank` (from 0), with how many are smaller. */
static inline uint64_t cbm_rank_key(double value) {
    uint64_t bits;
    if (!(value == value)) return 1;
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}
static inline double cbm_rank_value(uint64_t key) { /* the double of a key */
    uint64_t bits = key >> 63 ? key & ~(UINT64_C(1) << 63) : ~key;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
uint64_t cbm_key_of_rank(const uint64_t *keys, int64_t n, int64_t rank, int64_t *n_smaller);

#endif
