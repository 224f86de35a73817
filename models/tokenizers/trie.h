/*
 * models/tokenizers/trie.h - pieces by their bytes, to find the longest that a text begins with
 */
#ifndef CBM_TRIE_H
#define CBM_TRIE_H

#include "sparsecbm.h"

typedef struct cbm_trie_node {
    int32_t first_child;
    int32_t piece; /* that ends here; -1: none */
    int16_t n_children;
} cbm_trie_node;

/* Several tries in one: nodes 0, 1, … are their roots. */
typedef struct cbm_trie {
    cbm_trie_node *node;
    uint8_t *label;
    size_t n, node_capacity, label_capacity;
} cbm_trie;

typedef struct cbm_trie_entry {
    const char *text;
    int32_t length, id;
    int root; /* the trie that it goes into */
} cbm_trie_entry;

/* Puts `entry` in order. The bytes of all entries and the roots must be fewer than 2^31. Of equal entries the last id
 * counts. */
scbm_status cbm_trie_build(cbm_trie *trie, cbm_trie_entry *entry, int32_t n, int n_roots, const scbm_hooks *hooks);
void cbm_trie_clear(cbm_trie *trie, const scbm_hooks *hooks);
/* The node that a byte leads to; -1: none. */
int32_t cbm_trie_child(const cbm_trie *trie, int32_t node, uint8_t byte);
/* The longest piece that text[0 … length) begins with; -1: none. Its bytes in *matched. */
int32_t cbm_trie_longest(const cbm_trie *trie, int root, const char *text, size_t length, size_t *matched);

#endif
