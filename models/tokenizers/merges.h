/*
 * models/tokenizers/merges.h - pairs of pieces that are joined, by their rank
 */
#ifndef CBM_MERGES_H
#define CBM_MERGES_H

#include "models/tokenizers/kind.h"

/* Two pieces that become one; of several at hand the one of the least rank is first. */
typedef struct cbm_merge {
    int32_t left, right; /* left -1: an empty place */
    int32_t rank, joined;
} cbm_merge;

typedef struct cbm_merges {
    const char *const *piece;
    int32_t *piece_place;                 /* the vocabulary by text: an open table of numbers + 1 */
    cbm_merge *pair;                      /* by left and right */
    size_t n_piece_places, n_pair_places; /* powers of two */
} cbm_merges;

/* `merge` are "a b"; both and "ab" must be pieces that words are made of. `path` is for messages. On error *merges is to be
 * cleared, too. */
scbm_status cbm_merges_create(cbm_merges *merges, const cbm_tokenizer *tokenizer, const char *const *merge, int32_t n,
                              const char *path);
void cbm_merges_clear(cbm_merges *merges, const scbm_hooks *hooks);
/* A piece of the vocabulary that words are made of; -1: there is none. */
int32_t cbm_merges_piece(const cbm_merges *merges, const char *text, size_t length);

/* A piece of a word, in a list. */
typedef struct cbm_symbol {
    int32_t id, length;     /* bytes; 0: it was joined with the one before it */
    int32_t previous, next; /* -1: none */
} cbm_symbol;

/* A pair that may be joined. */
typedef struct cbm_candidate {
    int32_t rank, at, joined;
} cbm_candidate;

/* A word on its way; zero-initialize, reuse from word to word. */
typedef struct cbm_word {
    cbm_symbol *symbol;
    cbm_candidate *heap;
    size_t n, capacity, n_heap, heap_capacity;
} cbm_word;

/* One more symbol of one byte. */
scbm_status cbm_word_add(cbm_word *word, int32_t id, const scbm_hooks *hooks);
void cbm_word_clear(cbm_word *word, const scbm_hooks *hooks);
/* Joins until nothing can be joined; symbol 0 begins the list. */
scbm_status cbm_merges_join(const cbm_merges *merges, cbm_word *word, const scbm_hooks *hooks);

#endif
