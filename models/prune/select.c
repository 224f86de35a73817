/*
 * models/prune/select.c - the exact choice of the weights that go
 */
#include "models/prune/select.h"
#include "models/base/rank.h"

void cbm_prune_keys(const scbm_tensor *masks, int stream, int64_t in, const double *score, uint64_t *keys) {
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        const uint8_t *bits = cbm_mask_row(masks, stream, row);
        for (int64_t j = 0; j < in; j++)
            keys[row * in + j] = cbm_mask_get(bits, j) ? cbm_rank_key(score[row * in + j]) : 0;
    }
}

/* Whether a weight goes, walked in order: `ties` counts down the weights of the threshold's own key that go. */
static int goes(uint64_t key, uint64_t threshold, int64_t *ties) {
    return key < threshold || (key == threshold && (*ties)-- > 0);
}

/* The key up to which weights go, and how many of those that have it. */
static uint64_t find_threshold(const uint64_t *keys, int64_t n, int64_t zeros, int64_t *ties) {
    int64_t n_smaller = 0;
    uint64_t threshold = zeros < n ? cbm_key_of_rank(keys, n, zeros - 1, &n_smaller) : UINT64_MAX;
    *ties = zeros - n_smaller;
    return threshold;
}

void cbm_prune_select(scbm_tensor *masks, int stream, int64_t in, const double *score, int64_t zeros, uint64_t *keys) {
    int64_t ties;
    if (zeros <= 0) return;
    cbm_prune_keys(masks, stream, in, score, keys);
    uint64_t threshold = find_threshold(keys, masks->shape[1] * in, zeros, &ties);
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        uint8_t *bits = cbm_mask_row(masks, stream, row);
        for (int64_t j = 0; j < in; j++)
            if (goes(keys[row * in + j], threshold, &ties)) cbm_mask_set(bits, j, 0);
    }
}

int64_t cbm_prune_agreeing(const scbm_tensor *masks, int stream, int64_t in, const uint64_t *keys, int64_t zeros) {
    int64_t n = masks->shape[1] * in, ties, agreeing = 0;
    if (zeros <= 0) return n;
    uint64_t threshold = find_threshold(keys, n, zeros, &ties);
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        const uint8_t *bits = cbm_mask_row(masks, stream, row);
        for (int64_t j = 0; j < in; j++)
            agreeing += !goes(keys[row * in + j], threshold, &ties) && cbm_mask_get(bits, j);
    }
    return agreeing;
}
