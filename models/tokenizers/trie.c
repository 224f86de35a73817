/*
 * models/tokenizers/trie.c - pieces by their bytes
 *
 * Nodes are numbered breadth first, so that a node's children follow each other; label[i] is the byte that leads to
 * node i.
 */
#include "models/tokenizers/trie.h"

#include <stdlib.h>
#include <string.h>

/* The entries below a node, while the trie is built: they share its first `depth` bytes. */
typedef struct trie_range {
    int32_t first, last, depth;
} trie_range;

static int compare_entries(const void *a, const void *b) {
    const cbm_trie_entry *x = a, *y = b;
    if (x->root != y->root) return x->root - y->root;
    int difference = memcmp(x->text, y->text, (size_t)(x->length < y->length ? x->length : y->length));
    if (difference) return difference;
    return x->length != y->length ? (x->length < y->length ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

typedef struct trie_builder {
    cbm_trie *trie;
    trie_range *range; /* of each node */
    size_t range_capacity;
    const scbm_hooks *hooks;
} trie_builder;

static scbm_status add_node(trie_builder *b, uint8_t label, int32_t first, int32_t last, int32_t depth) {
    cbm_trie *t = b->trie;
    scbm_status status = scbm_grow(b->hooks, (void **)&t->node, &t->node_capacity, t->n + 1, sizeof *t->node);
    if (!status) status = scbm_grow(b->hooks, (void **)&t->label, &t->label_capacity, t->n + 1, sizeof *t->label);
    if (!status) status = scbm_grow(b->hooks, (void **)&b->range, &b->range_capacity, t->n + 1, sizeof *b->range);
    if (status) return status;
    t->node[t->n] = (cbm_trie_node){0, -1, 0};
    t->label[t->n] = label;
    b->range[t->n++] = (trie_range){first, last, depth};
    return SCBM_OK;
}

/* Gives node i its piece and its children. Of equal pieces the last counts, as in Hugging Face's vocabularies. */
static scbm_status open_node(trie_builder *b, const cbm_trie_entry *entry, size_t i) {
    trie_range range = b->range[i];
    int32_t at = range.first;
    b->trie->node[i].first_child = (int32_t)b->trie->n;
    for (; at < range.last && entry[at].length == range.depth; at++) b->trie->node[i].piece = entry[at].id;
    while (at < range.last) {
        char label = entry[at].text[range.depth];
        int32_t end = at + 1;
        while (end < range.last && entry[end].text[range.depth] == label) end++;
        scbm_status status = add_node(b, (uint8_t)label, at, end, range.depth + 1);
        if (status) return status;
        b->trie->node[i].n_children++;
        at = end;
    }
    return SCBM_OK;
}

scbm_status cbm_trie_build(cbm_trie *t, cbm_trie_entry *entry, int32_t n, int n_roots, const scbm_hooks *hooks) {
    trie_builder builder = {t, NULL, 0, hooks};
    scbm_status status = SCBM_OK;
    int32_t at = 0;
    if (n) qsort(entry, (size_t)n, sizeof *entry, compare_entries);
    for (int root = 0; !status && root < n_roots; root++) {
        int32_t first = at;
        while (at < n && entry[at].root == root) at++;
        status = add_node(&builder, 0, first, at, 0);
    }
    for (size_t i = 0; !status && i < t->n; i++) status = open_node(&builder, entry, i);
    scbm_release(hooks, builder.range);
    return status;
}

void cbm_trie_clear(cbm_trie *t, const scbm_hooks *hooks) {
    scbm_release(hooks, t->node);
    scbm_release(hooks, t->label);
}

int32_t cbm_trie_child(const cbm_trie *t, int32_t node, uint8_t byte) {
    const cbm_trie_node *parent = &t->node[node];
    const uint8_t *labels = t->label + parent->first_child;
    const uint8_t *label = parent->n_children ? memchr(labels, byte, (size_t)parent->n_children) : NULL;
    return label ? parent->first_child + (int32_t)(label - labels) : -1;
}

int32_t cbm_trie_longest(const cbm_trie *t, int root, const char *text, size_t length, size_t *matched) {
    int32_t piece = -1, node = root;
    for (size_t i = 0; i < length; i++) {
        node = cbm_trie_child(t, node, (uint8_t)text[i]);
        if (node < 0) break;
        if (t->node[node].piece < 0) continue;
        piece = t->node[node].piece;
        *matched = i + 1;
    }
    return piece;
}
