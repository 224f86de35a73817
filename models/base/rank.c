/*
 * models/base/rank.c - the key of a rank, without sorting
 */
#include "models/base/rank.h"

#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)

/* The key of rank `rank` (from 0), and how many keys are smaller: digit by digit from the top. */
uint64_t cbm_key_of_rank(const uint64_t *keys, int64_t n, int64_t rank, int64_t *n_smaller) {
    uint64_t prefix = 0, known = 0;
    int64_t smaller = 0;
    for (int shift = 64; shift > 0;) {
        int64_t count[DIGITS] = {0};
        int bits = shift < DIGIT_BITS ? shift : DIGIT_BITS;
        shift -= bits;
        for (int64_t i = 0; i < n; i++)
            if ((keys[i] & known) == prefix) count[keys[i] >> shift & ((1u << bits) - 1)]++;
        uint64_t digit = 0;
        while (smaller + count[digit] <= rank) smaller += count[digit++];
        prefix |= digit << shift;
        known |= (uint64_t)((1u << bits) - 1) << shift;
    }
    *n_smaller = smaller;
    return prefix;
}
