/*
 * models/tokenizers/unique.c - equal tokens of a vocabulary, told apart
 *
 * Vocabularies have them: a line of vocab.txt that is there twice, an added token "new" beside "##new", which is written
 * "new". llama.cpp ends the process where a file has two equal tokens. Of equal pieces the last counts, as in
 * transformers; the others, which no text has, get a name of their own. The last of the added tokens before it, which
 * texts may have, is marked as a word's start instead, which reading takes away again.
 */
#include "models/tokenizers/kind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 40 }; /* of a name of its own, with its NUL */

typedef struct place {
    const char *text;
    int32_t id;
} place;

static int compare_places(const void *a, const void *b) {
    const place *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

static int is_taken(const cbm_unique *u, const char *text) {
    int32_t low = 0, high = u->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        int order = strcmp(text, ((const place *)u->places)[middle].text);
        if (order == 0) return 1;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return 0;
}

/* The last of equal tokens that stands for something. */
static int32_t keeper_of(const cbm_unique *u, int32_t first, int32_t end) {
    const place *places = u->places;
    for (int32_t i = end - 1; i >= first; i--)
        if (u->type[places[i].id] != CBM_TYPE_UNUSED) return i;
    return end - 1;
}

static int is_added(const cbm_unique *u, int32_t id) {
    return u->type[id] == CBM_TYPE_CONTROL || u->type[id] == CBM_TYPE_ADDED;
}

static void rename_token(cbm_unique *u, int32_t id, int marks) {
    char *name = u->names + u->used;
    const char *text = u->token[id];
    if (marks) {
        snprintf(name, strlen(text) + NAME_BYTES, "%s%s", CBM_WORD_START, text);
        if (is_taken(u, name)) return; /* equal it stays: texts must find it */
    } else {
        size_t length = (size_t)snprintf(name, NAME_BYTES, "[EQUAL%ld]", (long)id);
        while (is_taken(u, name) && length < NAME_BYTES - 1) {
            name[length++] = '_';
            name[length] = 0;
        }
        u->n_renamed += u->type[id] != CBM_TYPE_UNUSED;
        u->type[id] = CBM_TYPE_UNUSED;
    }
    u->token[id] = name;
    u->used += strlen(name) + 1;
}

/* Bytes that all names take at most. */
static size_t measure_names(const cbm_unique *u) {
    const place *places = u->places;
    size_t bytes = 1;
    for (int32_t i = 0; i + 1 < u->n; i++)
        if (strcmp(places[i].text, places[i + 1].text) == 0) bytes += 2 * (strlen(places[i].text) + NAME_BYTES);
    return bytes;
}

scbm_status cbm_unique_make(cbm_unique *u, const char **token, int64_t *type, int32_t n, const scbm_hooks *hooks) {
    *u = (cbm_unique){.token = token, .type = type, .n = n};
    place *places = u->places = scbm_alloc_array(hooks, (size_t)n, sizeof *places);
    if (!places) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < n; i++) places[i] = (place){token[i], i};
    if (n) qsort(places, (size_t)n, sizeof *places, compare_places);
    u->names = scbm_alloc(hooks, measure_names(u));
    if (!u->names) return SCBM_ERROR_MEMORY;
    for (int32_t first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && strcmp(places[first].text, places[end].text) == 0;) end++;
        int32_t keeper = end - first > 1 ? keeper_of(u, first, end) : first, n_added = 0;
        for (int32_t i = end - 1; i >= first; i--)
            if (i != keeper) rename_token(u, places[i].id, is_added(u, places[i].id) && !n_added++);
    }
    return SCBM_OK;
}

void cbm_unique_clear(cbm_unique *u, const scbm_hooks *hooks) {
    scbm_release(hooks, u->places);
    scbm_release(hooks, u->names);
    memset(u, 0, sizeof *u);
}
