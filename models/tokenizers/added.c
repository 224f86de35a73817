/*
 * models/tokenizers/added.c - special and added tokens in a text, as Hugging Face finds them
 *
 * The longest token at the first place that has one. What is said of a token (AddedToken) may take white space beside it
 * with it, or refuse a match beside a letter; tokens that are `normalized` are looked for in the normalized text, and
 * after the others.
 */
#include "models/tokenizers/kind.h"
#include "models/tokenizers/unicode.h"

#include <string.h>

#include <utf8proc.h>

static int is_added(const cbm_tokenizer *t, int32_t id) {
    return (t->flags[id] & (CBM_PIECE_SPECIAL | CBM_PIECE_ADDED)) && t->piece[id][0];
}

static int is_normalized(const cbm_tokenizer *t, int32_t id) {
    return is_added(t, id) && (t->flags[id] & CBM_PIECE_NORMALIZED);
}

static scbm_status normalize_pieces(cbm_tokenizer *t, cbm_normal_text *normal, size_t *end) {
    scbm_status status = SCBM_OK;
    for (int32_t i = 0, k = 0; i < t->n && !status; i++) {
        if (!is_normalized(t, i)) continue;
        status = t->kind->normalize(t, t->piece[i], strlen(t->piece[i]), 0, normal);
        end[k++] = normal->n;
    }
    return status;
}

static scbm_status build_tries(cbm_tokenizer *t, const cbm_normal_text *normal, const size_t *end,
                               cbm_trie_entry *entry) {
    int32_t n = 0;
    size_t start = 0;
    for (int32_t i = 0, k = 0; i < t->n; i++) {
        if (!is_added(t, i)) continue;
        if (is_normalized(t, i)) {
            int32_t length = (int32_t)(end[k] - start);
            if (length) entry[n++] = (cbm_trie_entry){normal->bytes + start, length, i, CBM_ADDED_NORMALIZED};
            start = end[k++];
        } else {
            entry[n++] = (cbm_trie_entry){t->piece[i], (int32_t)strlen(t->piece[i]), i, CBM_ADDED_RAW};
            t->added_start[(uint8_t)t->piece[i][0]] = 1;
        }
    }
    return cbm_trie_build(&t->added, entry, n, 2, &t->hooks);
}

scbm_status cbm_added_create(cbm_tokenizer *t) {
    cbm_normal_text normal = {0};
    size_t n_added = 0, n_normalized = 0;
    for (int32_t i = 0; i < t->n; i++) {
        n_added += (size_t)is_added(t, i);
        n_normalized += (size_t)is_normalized(t, i);
    }
    t->n_normalized = n_normalized > 0;
    size_t *end = scbm_alloc_array(&t->hooks, n_normalized, sizeof *end);
    cbm_trie_entry *entry = scbm_alloc_array(&t->hooks, n_added, sizeof *entry);
    scbm_status status = end && entry ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) status = normalize_pieces(t, &normal, end);
    if (!status && normal.n > INT32_MAX / 2)
        status = scbm_fail(SCBM_ERROR_UNSUPPORTED, "the added tokens are longer than 1 GiB in all");
    if (!status) status = build_tries(t, &normal, end, entry);
    cbm_normal_clear(&normal, &t->hooks);
    scbm_release(&t->hooks, end);
    scbm_release(&t->hooks, entry);
    return status;
}

/* The character that begins at `at`, which is in the text. */
static int32_t character_at(const char *text, size_t at, size_t length) {
    int32_t c = -1;
    utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &c);
    return c;
}

/* Where the character before `at` begins. */
static size_t step_back(const char *text, size_t at) {
    do at--;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80);
    return at;
}

static int stands_alone(const char *text, size_t start, size_t end, size_t length) {
    if (start > 0 && cbm_is_word_character(character_at(text, step_back(text, start), length))) return 0;
    return end == length || !cbm_is_word_character(character_at(text, end, length));
}

static size_t take_left(const char *text, size_t from, size_t start, size_t length) {
    while (start > from) {
        size_t before = step_back(text, start);
        if (before < from || !cbm_is_white_space(character_at(text, before, length))) break;
        start = before;
    }
    return start;
}

static size_t take_right(const char *text, size_t end, size_t length) {
    while (end < length) {
        int32_t c = character_at(text, end, length);
        if (!cbm_is_white_space(c)) break;
        end += (size_t)(c < 0x80 ? 1 : c < 0x800 ? 2 : 3); /* no white space is longer */
    }
    return end;
}

int cbm_added_find(const cbm_tokenizer *t, int which, const char *text, size_t from, size_t length,
                   cbm_added_match *match) {
    for (size_t at = from; at < length;) {
        size_t n = 0;
        int32_t id = -1;
        if (which != CBM_ADDED_RAW || t->added_start[(uint8_t)text[at]])
            id = cbm_trie_longest(&t->added, which, text + at, length - at, &n);
        if (id < 0) {
            at++;
        } else if ((t->flags[id] & CBM_PIECE_SINGLE_WORD) && !stands_alone(text, at, at + n, length)) {
            at += n;
        } else {
            int takes_left = t->flags[id] & CBM_PIECE_TAKES_LEFT, takes_right = t->flags[id] & CBM_PIECE_TAKES_RIGHT;
            match->id = id;
            match->start = takes_left ? take_left(text, from, at, length) : at;
            match->end = takes_right ? take_right(text, at + n, length) : at + n;
            return 1;
        }
    }
    return 0;
}
