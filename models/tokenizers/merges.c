/*
 * models/tokenizers/merges.c - pairs of pieces that are joined, by their rank
 */
#include "models/tokenizers/merges.h"

#include "models/base/hash.h"
#include "models/base/text.h"

#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Tables
 * ---------------------------------------------------------------------------------------- */

static size_t places_for(size_t n) {
    size_t places = 16;
    while (places < 2 * n + 2) places *= 2;
    return places;
}

static size_t piece_place(const cbm_merges *m, const char *text, size_t length) {
    size_t at = (size_t)cbm_hash(CBM_HASH_START, text, length) & (m->n_piece_places - 1);
    for (; m->piece_place[at]; at = (at + 1) & (m->n_piece_places - 1)) {
        const char *piece = m->piece[m->piece_place[at] - 1];
        if (strncmp(piece, text, length) == 0 && !piece[length]) break;
    }
    return at;
}

static cbm_merge *pair_place(const cbm_merges *m, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)((key ^ key >> 29) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (m->n_pair_places - 1);
    while (m->pair[at].left >= 0 && (m->pair[at].left != left || m->pair[at].right != right))
        at = (at + 1) & (m->n_pair_places - 1);
    return &m->pair[at];
}

int32_t cbm_merges_piece(const cbm_merges *m, const char *text, size_t length) {
    return m->piece_place[piece_place(m, text, length)] - 1;
}

/* Of equal pieces the last counts, as in Hugging Face's vocabularies. */
static void list_pieces(cbm_merges *m, const cbm_tokenizer *t) {
    for (int32_t i = 0; i < t->n; i++)
        if (!(t->flags[i] & (CBM_PIECE_UNUSED | CBM_PIECE_BESIDE_MODEL)) && t->piece[i][0])
            m->piece_place[piece_place(m, t->piece[i], strlen(t->piece[i]))] = i + 1;
}

/* "a b": of equal pairs the last counts. */
static scbm_status add_merge(cbm_merges *m, const char *merge, int32_t rank, char *joined, const char *path) {
    char shown[CBM_SHOWN_SIZE];
    const char *space = strchr(merge, ' ');
    size_t length = strlen(merge), first = space ? (size_t)(space - merge) : 0;
    if (!space || !first || first + 1 == length || strchr(space + 1, ' '))
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: merge %d ('%s') is not two pieces", path, (int)rank + 1,
                         cbm_show_string(shown, merge));
    memcpy(joined, merge, first);
    memcpy(joined + first, space + 1, length - first);
    int32_t left = cbm_merges_piece(m, merge, first), right = cbm_merges_piece(m, space + 1, length - first - 1);
    int32_t both = cbm_merges_piece(m, joined, length - 1);
    if (left < 0 || right < 0 || both < 0)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: merge %d ('%s'): the vocabulary has not both, or not what they make",
                         path, (int)rank + 1, cbm_show_string(shown, merge));
    *pair_place(m, left, right) = (cbm_merge){left, right, rank, both};
    return SCBM_OK;
}

scbm_status cbm_merges_create(cbm_merges *m, const cbm_tokenizer *t, const char *const *merge, int32_t n,
                              const char *path) {
    size_t longest = 0;
    m->piece = t->piece;
    m->n_piece_places = places_for((size_t)t->n);
    m->n_pair_places = places_for((size_t)n);
    m->piece_place = scbm_alloc_array(&t->hooks, m->n_piece_places, sizeof *m->piece_place);
    m->pair = scbm_alloc_array(&t->hooks, m->n_pair_places, sizeof *m->pair);
    if (!m->piece_place || !m->pair) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < m->n_pair_places; i++) m->pair[i].left = -1;
    list_pieces(m, t);
    for (int32_t i = 0; i < n; i++) longest = strlen(merge[i]) > longest ? strlen(merge[i]) : longest;
    char *joined = scbm_alloc(&t->hooks, longest + 1);
    scbm_status status = joined ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < n && !status; i++) status = add_merge(m, merge[i], i, joined, path);
    scbm_release(&t->hooks, joined);
    return status;
}

void cbm_merges_clear(cbm_merges *m, const scbm_hooks *hooks) {
    scbm_release(hooks, m->piece_place);
    scbm_release(hooks, m->pair);
    memset(m, 0, sizeof *m);
}

/* ------------------------------------------------------------------------------------------
 * A word
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_word_add(cbm_word *word, int32_t id, const scbm_hooks *hooks) {
    scbm_status status = scbm_grow(hooks, (void **)&word->symbol, &word->capacity, word->n + 1, sizeof *word->symbol);
    if (status) return status;
    int32_t n = (int32_t)word->n++;
    word->symbol[n] = (cbm_symbol){id, 1, n - 1, -1};
    if (n) word->symbol[n - 1].next = n;
    return SCBM_OK;
}

void cbm_word_clear(cbm_word *word, const scbm_hooks *hooks) {
    scbm_release(hooks, word->symbol);
    scbm_release(hooks, word->heap);
    memset(word, 0, sizeof *word);
}

static int is_before(const cbm_candidate *a, const cbm_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static scbm_status push(cbm_word *word, cbm_candidate candidate, const scbm_hooks *hooks) {
    scbm_status status = scbm_grow(hooks, (void **)&word->heap, &word->heap_capacity, word->n_heap + 1,
                                   sizeof *word->heap);
    if (status) return status;
    size_t i = word->n_heap++;
    for (; i && is_before(&candidate, &word->heap[(i - 1) / 2]); i = (i - 1) / 2)
        word->heap[i] = word->heap[(i - 1) / 2];
    word->heap[i] = candidate;
    return SCBM_OK;
}

static cbm_candidate pop(cbm_word *word) {
    cbm_candidate top = word->heap[0], last = word->heap[--word->n_heap];
    size_t i = 0, n = word->n_heap;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_before(&word->heap[child + 1], &word->heap[child])) child++;
        if (!is_before(&word->heap[child], &last)) break;
        word->heap[i] = word->heap[child];
    }
    if (n) word->heap[i] = last;
    return top;
}

/* The pair that begins at a symbol becomes a candidate, if it can be joined. */
static scbm_status consider(const cbm_merges *m, cbm_word *word, int32_t at, const scbm_hooks *hooks) {
    int32_t next = at < 0 ? -1 : word->symbol[at].next;
    if (next < 0) return SCBM_OK;
    const cbm_merge *merge = pair_place(m, word->symbol[at].id, word->symbol[next].id);
    if (merge->left < 0) return SCBM_OK;
    return push(word, (cbm_candidate){merge->rank, at, merge->joined}, hooks);
}

/* Whether what a candidate joins is still there: its symbols may have been joined with others meanwhile. */
static int still_holds(const cbm_merges *m, const cbm_word *word, const cbm_candidate *candidate) {
    const cbm_symbol *symbol = &word->symbol[candidate->at];
    if (!symbol->length || symbol->next < 0) return 0;
    const cbm_merge *merge = pair_place(m, symbol->id, word->symbol[symbol->next].id);
    return merge->left >= 0 && merge->joined == candidate->joined;
}

scbm_status cbm_merges_join(const cbm_merges *m, cbm_word *word, const scbm_hooks *hooks) {
    scbm_status status = SCBM_OK;
    word->n_heap = 0;
    for (int32_t i = 0; i + 1 < (int32_t)word->n && !status; i++) status = consider(m, word, i, hooks);
    while (word->n_heap && !status) {
        const cbm_candidate top = pop(word);
        if (!still_holds(m, word, &top)) continue;
        cbm_symbol *left = &word->symbol[top.at], *right = &word->symbol[left->next];
        left->id = top.joined;
        left->length += right->length;
        right->length = 0;
        left->next = right->next;
        if (left->next >= 0) word->symbol[left->next].previous = top.at;
        status = consider(m, word, left->previous, hooks);
        if (!status) status = consider(m, word, top.at, hooks);
    }
    return status;
}
