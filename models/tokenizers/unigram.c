/*
 * models/tokenizers/unigram.c - SentencePiece's Unigram as `tokenizers` computes it: of all ways to write a word in
 * pieces, the one with the greatest sum of scores
 *
 * A model file says, beside what all kinds say, in llama.cpp's keys:
 *     tokenizer.ggml.scores                   of each token, F32
 *     tokenizer.ggml.precompiled_charsmap     see charmap.h; missing: texts stay as they are
 *     tokenizer.ggml.add_space_prefix         a text, or each word, begins with the mark (default 1)
 *     tokenizer.ggml.remove_extra_whitespaces white space only divides words (default 1); 0: each space is a mark
 * and in keys of ours:
 *     sparsecbm.tokenizer.scores              the same in F64, where F32 does not hold them
 *     sparsecbm.tokenizer.byte_fallback       what no piece writes is written byte by byte, <0x0A> (default 0)
 *     sparsecbm.tokenizer.prefix_first        only a text's first word begins with the mark (default 0)
 *     sparsecbm.tokenizer.strip_left, .strip_right  white space at the ends goes (default 0)
 *     sparsecbm.tokenizer.join_spaces         several spaces are one (1), or one mark (2; default 0)
 *     sparsecbm.tokenizer.split_marks         a piece begins at every mark (default 1)
 */
#include "models/tokenizers/charmap.h"
#include "models/tokenizers/kind.h"
#include "models/tokenizers/unicode.h"

#include "models/base/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#define MARK CBM_WORD_START
#define MARK_BYTES (sizeof(MARK) - 1)
#define UNKNOWN_PENALTY 10.0 /* below the least score of all */
#define MOST_CLUSTER_BYTES 5 /* of a grapheme cluster that the map is asked for as a whole */

static const char scores_key[] = "tokenizer.ggml.scores", wide_key[] = "sparsecbm.tokenizer.scores",
                  map_key[] = "tokenizer.ggml.precompiled_charsmap",
                  prefix_key[] = "tokenizer.ggml.add_space_prefix",
                  words_key[] = "tokenizer.ggml.remove_extra_whitespaces",
                  fallback_key[] = "sparsecbm.tokenizer.byte_fallback",
                  first_key[] = "sparsecbm.tokenizer.prefix_first", join_key[] = "sparsecbm.tokenizer.join_spaces",
                  left_key[] = "sparsecbm.tokenizer.strip_left", right_key[] = "sparsecbm.tokenizer.strip_right",
                  split_key[] = "sparsecbm.tokenizer.split_marks";

typedef struct unigram {
    cbm_unigram_options options;
    double *score;
    uint8_t *map_bytes;
    cbm_charmap map;
    cbm_trie trie;
    double unknown_score;
    int32_t byte[256]; /* the tokens of bytes; -1: none */
} unigram;

/* ------------------------------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------------------------- */

static int is_true(const scbm_file *file, const char *key, int otherwise) {
    return scbm_file_int_or(file, key, otherwise) != 0;
}

static void read_options(cbm_unigram_options *o, const scbm_file *file) {
    o->byte_fallback = is_true(file, fallback_key, 0);
    o->splits_words = is_true(file, words_key, 1);
    o->splits_marks = is_true(file, split_key, 1);
    o->joins_spaces = (int)scbm_file_int_or(file, join_key, 0);
    o->strips_left = is_true(file, left_key, 0);
    o->strips_right = is_true(file, right_key, 0);
    o->prefix = !is_true(file, prefix_key, 1) ? CBM_PREFIX_NEVER
                : is_true(file, first_key, 0) ? CBM_PREFIX_FIRST
                                              : CBM_PREFIX_ALWAYS;
}

static scbm_status read_map(cbm_tokenizer *t, unigram *u, const scbm_file *file) {
    int64_t key = scbm_file_find_key(file, map_key), n = key < 0 ? 0 : scbm_file_array_length(file, key), value;
    if (!n) return SCBM_OK;
    u->map_bytes = scbm_alloc(&t->hooks, (size_t)n);
    if (!u->map_bytes) return SCBM_ERROR_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        scbm_status status = scbm_file_int_at(file, key, i, &value);
        if (status) return status;
        u->map_bytes[i] = (uint8_t)value; /* signed in files of older versions of llama.cpp */
    }
    u->options.map = u->map_bytes;
    u->options.map_bytes = (size_t)n;
    if (cbm_charmap_open(&u->map, u->map_bytes, (size_t)n)) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is no map of characters", scbm_file_path(file), map_key);
}

static scbm_status read_scores(cbm_tokenizer *t, unigram *u, const scbm_file *file) {
    int64_t wide = scbm_file_find_key(file, wide_key), key = wide >= 0 ? wide : scbm_file_find_key(file, scores_key);
    double least = INFINITY;
    if (key < 0 || scbm_file_array_length(file, key) != t->n)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s has %lld entries for %d tokens", scbm_file_path(file), scores_key,
                         key < 0 ? 0LL : (long long)scbm_file_array_length(file, key), (int)t->n);
    u->score = scbm_alloc_array(&t->hooks, (size_t)t->n, sizeof *u->score);
    if (!u->score) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < t->n; i++) {
        scbm_status status = scbm_file_float_at(file, key, i, &u->score[i]);
        if (status) return status;
        if (!(fabs(u->score[i]) <= 1e30))
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s: token %d has no score that is a number", scbm_file_path(file),
                             scores_key, (int)i);
        if (t->flags[i] & (CBM_PIECE_UNUSED | CBM_PIECE_BESIDE_MODEL)) continue;
        if (u->score[i] < least) least = u->score[i];
    }
    u->options.score = u->score;
    u->unknown_score = least - UNKNOWN_PENALTY;
    return SCBM_OK;
}

static scbm_status read_pieces(cbm_tokenizer *t, const cbm_vocabulary *v) {
    size_t bytes;
    scbm_status status = cbm_measure_tokens(v, t->n, &bytes);
    if (!status) status = cbm_copy_strings(v->file, v->tokens_key, t->n, &t->piece, &t->text, &t->hooks);
    for (int32_t i = 0; i < t->n && !status; i++)
        if (!(t->flags[i] & CBM_PIECE_SPECIAL) && !cbm_starts_with(t->piece[i], MARK))
            t->flags[i] |= CBM_PIECE_CONTINUES;
    return status;
}

/* The id of exactly this text; -1: none. */
static int32_t find_piece(const unigram *u, const char *text, size_t length) {
    size_t matched = 0;
    int32_t id = cbm_trie_longest(&u->trie, 0, text, length, &matched);
    return matched == length ? id : -1;
}

static scbm_status build_trie(cbm_tokenizer *t, unigram *u) {
    cbm_trie_entry *entry = scbm_alloc_array(&t->hooks, (size_t)t->n, sizeof *entry);
    int32_t n = 0;
    if (!entry) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < t->n; i++)
        if (t->piece[i][0] && !(t->flags[i] & (CBM_PIECE_UNUSED | CBM_PIECE_BESIDE_MODEL)))
            entry[n++] = (cbm_trie_entry){t->piece[i], (int32_t)strlen(t->piece[i]), i, 0};
    scbm_status status = cbm_trie_build(&u->trie, entry, n, 1, &t->hooks);
    scbm_release(&t->hooks, entry);
    if (status) return status;
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        u->byte[i] = find_piece(u, name, strlen(name));
    }
    return SCBM_OK;
}

static scbm_status unigram_create(cbm_tokenizer *t, const cbm_vocabulary *vocabulary) {
    unigram *u = t->model = scbm_alloc(&t->hooks, sizeof *u);
    if (!u) return SCBM_ERROR_MEMORY;
    if (t->special[CBM_TOKEN_UNKNOWN] < 0)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%s: the vocabulary has no <unk>, and there is no tokenizer.ggml.unknown_token_id",
                         scbm_file_path(vocabulary->file));
    read_options(&u->options, vocabulary->file);
    scbm_status status = read_map(t, u, vocabulary->file);
    if (!status) status = read_pieces(t, vocabulary);
    if (!status) status = read_scores(t, u, vocabulary->file);
    return status ? status : build_trie(t, u);
}

static void unigram_free(cbm_tokenizer *t) {
    unigram *u = t->model;
    cbm_trie_clear(&u->trie, &t->hooks);
    scbm_release(&t->hooks, u->score);
    scbm_release(&t->hooks, u->map_bytes);
    scbm_release(&t->hooks, u);
}

static const char *unigram_text(const cbm_tokenizer *t, int32_t id) {
    const char *piece = t->piece[id];
    return cbm_starts_with(piece, MARK) && piece[MARK_BYTES] ? piece + MARK_BYTES : piece;
}

/* ------------------------------------------------------------------------------------------
 * Normalization: the map, and which byte came from where
 * ---------------------------------------------------------------------------------------- */

/* A character of the normalized text, and how many more there are (1) or fewer (below 0) than in the text from here on. */
typedef struct changed_character {
    int32_t code, change;
} changed_character;

typedef struct mapper {
    const cbm_charmap *map;
    const scbm_hooks *hooks;
    changed_character *character;
    size_t n, capacity;
    int is_changed;
    scbm_status status;
} mapper;

static void put_changed(mapper *m, int32_t code, int32_t change) {
    if (!m->status)
        m->status = scbm_grow(m->hooks, (void **)&m->character, &m->capacity, m->n + 1, sizeof *m->character);
    if (!m->status) m->character[m->n++] = (changed_character){code, change};
}

/* The character that text[0 … n), which is UTF-8, begins with; its bytes. */
static size_t next_character(const char *text, size_t n, int32_t *code) {
    size_t bytes = cbm_read_character(text, n, code);
    return bytes ? bytes : 1;
}

/* The replacement of n_old characters. Where it has more, its last ones are the new ones; where it has fewer, the last
 * character before them, whatever it is, stands for those that are gone. */
static void put_replacement(mapper *m, const char *text, size_t length, int32_t n_old) {
    int32_t n_new = 0, code;
    m->is_changed = 1;
    for (size_t at = 0; at < length && !m->status; n_new++) {
        at += next_character(text + at, length - at, &code);
        put_changed(m, code, 0);
    }
    if (m->status) return;
    for (int32_t i = 0; i < n_new - n_old; i++) m->character[m->n - 1 - (size_t)i].change = 1;
    if (n_new < n_old && m->n) m->character[m->n - 1].change += n_new - n_old;
}

/* A grapheme cluster: a short one is looked up as a whole. */
static void map_cluster(mapper *m, const char *text, size_t length, int32_t n_characters) {
    const char *replacement;
    size_t n;
    int32_t code;
    if (length <= MOST_CLUSTER_BYTES && cbm_charmap_find(m->map, text, length, &replacement, &n)) {
        put_replacement(m, replacement, n, n_characters);
        return;
    }
    for (size_t at = 0, bytes; at < length && !m->status; at += bytes) {
        bytes = next_character(text + at, length - at, &code);
        if (cbm_charmap_find(m->map, text + at, bytes, &replacement, &n)) put_replacement(m, replacement, n, 1);
        else put_changed(m, code, 0);
    }
}

static void map_text(mapper *m, const char *text, size_t length) {
    int32_t code, last = 0, n_characters = 0;
    utf8proc_int32_t state = 0;
    size_t start = 0;
    for (size_t at = 0, bytes; at < length && !m->status; at += bytes, last = code, n_characters++) {
        bytes = next_character(text + at, length - at, &code);
        if (!at || !utf8proc_grapheme_break_stateful(last, code, &state)) continue;
        map_cluster(m, text + start, at - start, n_characters);
        start = at;
        n_characters = 0;
    }
    if (length > start) map_cluster(m, text + start, length - start, n_characters);
}

/* Walks over the text beside its normal form. */
typedef struct text_walk {
    const char *text;
    size_t length, at, before; /* a character begins at `at`, and the one before it at `before` */
} text_walk;

static size_t walk(text_walk *w) {
    int32_t code;
    size_t bytes = w->at < w->length ? next_character(w->text + w->at, w->length - w->at, &code) : 0;
    if (bytes) w->before = w->at;
    w->at += bytes;
    return bytes;
}

/* Hugging Face's rule: a new character comes from where the one before it came from. */
static scbm_status put_normal(const mapper *m, const char *text, size_t length, size_t offset,
                              cbm_normal_text *normal) {
    text_walk w = {text, length, 0, 0};
    for (size_t i = 0; i < m->n; i++) {
        const changed_character *c = &m->character[i];
        char bytes[4];
        size_t from = c->change > 0 ? w.before : w.at;
        if (c->change <= 0) walk(&w);
        cbm_byte_range range = {(int32_t)(offset + from), (int32_t)(offset + w.at)};
        for (int32_t gone = c->change; gone < 0; gone++) walk(&w);
        size_t n = (size_t)utf8proc_encode_char(c->code, (utf8proc_uint8_t *)bytes);
        scbm_status status = cbm_normal_add(normal, bytes, n, range, m->hooks);
        if (status) return status;
    }
    return SCBM_OK;
}

static scbm_status put_unchanged(const char *text, size_t length, size_t offset, cbm_normal_text *normal,
                                 const scbm_hooks *hooks) {
    text_walk w = {text, length, 0, 0};
    scbm_status status = SCBM_OK;
    while (!status && walk(&w)) {
        cbm_byte_range range = {(int32_t)(offset + w.before), (int32_t)(offset + w.at)};
        status = cbm_normal_add(normal, text + w.before, w.at - w.before, range, hooks);
    }
    return status;
}

/* Takes white space off the ends of what was appended. */
static void strip_ends(cbm_normal_text *normal, size_t from, const cbm_unigram_options *o) {
    size_t first = from, end = from;
    for (size_t at = from, bytes; at < normal->n; at += bytes) {
        int32_t code;
        bytes = next_character(normal->bytes + at, normal->n - at, &code);
        if (!cbm_is_white_space(code)) end = at + bytes;
        else if (first == at && o->strips_left) first = end = at + bytes;
    }
    if (o->strips_right) normal->n = end;
    size_t n = normal->n - first;
    memmove(normal->bytes + from, normal->bytes + first, n);
    memmove(normal->origin + from, normal->origin + first, n * sizeof *normal->origin);
    normal->n = from + n;
}

/* Several spaces become one character, which comes from the last of them. */
static scbm_status join_spaces(cbm_normal_text *normal, size_t from, int with_mark, const scbm_hooks *hooks) {
    cbm_normal_text joined = {0};
    scbm_status status = SCBM_OK;
    for (size_t i = from, run; i < normal->n && !status; i += run) {
        for (run = 1; normal->bytes[i] == ' ' && i + run < normal->n && normal->bytes[i + run] == ' ';) run++;
        const char *bytes = run > 1 && with_mark ? MARK : normal->bytes + i;
        status = cbm_normal_add(&joined, bytes, bytes == normal->bytes + i ? 1 : MARK_BYTES,
                                normal->origin[i + run - 1], hooks);
    }
    normal->n = from;
    for (size_t i = 0; i < joined.n && !status; i++)
        status = cbm_normal_add(normal, joined.bytes + i, 1, joined.origin[i], hooks);
    cbm_normal_clear(&joined, hooks);
    return status;
}

static scbm_status unigram_normalize(const cbm_tokenizer *t, const char *text, size_t length, size_t offset,
                                     cbm_normal_text *normal) {
    const unigram *u = t->model;
    mapper m = {.map = &u->map, .hooks = &t->hooks};
    size_t from = normal->n;
    if (u->map.n_units) map_text(&m, text, length);
    scbm_status status = m.status;
    if (!status && m.is_changed) status = put_normal(&m, text, length, offset, normal);
    else if (!status) status = put_unchanged(text, length, offset, normal, &t->hooks);
    scbm_release(&t->hooks, m.character);
    if (status) return status;
    strip_ends(normal, from, &u->options);
    return u->options.joins_spaces ? join_spaces(normal, from, u->options.joins_spaces > 1, &t->hooks) : SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Words to pieces
 * ---------------------------------------------------------------------------------------- */

/* The best way to write a word up to a place. */
typedef struct best_way {
    double score;
    int32_t id, start; /* of its last piece; start -1: there is no way */
} best_way;

typedef struct writer {
    cbm_encoding *encoding;
    const unigram *unigram;
    const scbm_hooks *hooks;
    cbm_normal_text word; /* with marks */
    best_way *best;       /* [bytes of a part + 1] */
    int32_t *end;         /* where pieces end, the last first */
    size_t best_capacity, end_capacity;
} writer;

static void offer(best_way *way, double score, int32_t id, size_t start) {
    if (way->start < 0 || score > way->score) *way = (best_way){score, id, (int32_t)start};
}

/* Every piece that begins at a place; where none is a single character, that is unknown. */
static void offer_pieces(writer *w, const char *text, size_t length, size_t at) {
    const unigram *u = w->unigram;
    const double score = w->best[at].score;
    int32_t node = 0, code;
    size_t character = next_character(text + at, length - at, &code);
    int has_character = 0;
    for (size_t end = at; end < length;) {
        node = cbm_trie_child(&u->trie, node, (uint8_t)text[end++]);
        if (node < 0) break;
        int32_t id = u->trie.node[node].piece;
        if (id < 0) continue;
        offer(&w->best[end], score + u->score[id], id, at);
        has_character |= end - at == character;
    }
    if (!has_character)
        offer(&w->best[at + character], score + u->unknown_score, w->encoding->tokenizer->special[CBM_TOKEN_UNKNOWN],
              at);
}

/* Bytes from … to of the word: a piece, or what no piece writes. */
static void add_piece(writer *w, int32_t id, size_t from, size_t to, int is_unknown) {
    const unigram *u = w->unigram;
    const char *text = w->word.bytes + from;
    int has_bytes = is_unknown && u->options.byte_fallback;
    cbm_byte_range range = cbm_normal_range(&w->word, from, to);
    int32_t known = is_unknown ? find_piece(u, text, to - from) : id;
    if (known >= 0) id = known, has_bytes = 0;
    for (size_t i = 0; i < to - from && has_bytes; i++) has_bytes = u->byte[(uint8_t)text[i]] >= 0;
    if (!has_bytes) cbm_encoding_add(w->encoding, id, range);
    for (size_t i = 0; i < to - from && has_bytes; i++) cbm_encoding_add(w->encoding, u->byte[(uint8_t)text[i]], range);
}

/* The part of the word at hand in pieces; unknown ones beside each other are one. */
static void write_part(writer *w, size_t from, size_t to) {
    const int32_t unknown = w->encoding->tokenizer->special[CBM_TOKEN_UNKNOWN];
    size_t length = to - from, n = 0;
    scbm_status *status = &w->encoding->status;
    *status = scbm_grow(w->hooks, (void **)&w->best, &w->best_capacity, length + 1, sizeof *w->best);
    if (!*status) *status = scbm_grow(w->hooks, (void **)&w->end, &w->end_capacity, length + 1, sizeof *w->end);
    if (*status) return;
    for (size_t i = 0; i <= length; i++) w->best[i] = (best_way){0, -1, -1};
    for (size_t at = 0; at < length;) {
        int32_t code;
        offer_pieces(w, w->word.bytes + from, length, at);
        at += next_character(w->word.bytes + from + at, length - at, &code);
    }
    for (size_t at = length; at > 0; at = (size_t)w->best[at].start) w->end[n++] = (int32_t)at;
    for (size_t start = 0; n > 0 && !w->encoding->full && !*status;) {
        int32_t id = w->best[w->end[--n]].id;
        size_t end = (size_t)w->end[n];
        while (id == unknown && n > 0 && w->best[w->end[n - 1]].id == unknown) end = (size_t)w->end[--n];
        add_piece(w, id, from + start, from + end, id == unknown);
        start = end;
    }
}

static int has_mark(const cbm_normal_text *word, size_t at) {
    return word->n - at >= MARK_BYTES && memcmp(word->bytes + at, MARK, MARK_BYTES) == 0;
}

/* A word's own bytes with marks: one before it, and one for each space. */
static scbm_status mark_word(writer *w, size_t from, size_t to) {
    const cbm_normal_text *normal = &w->encoding->normal;
    const cbm_unigram_options *o = &w->unigram->options;
    scbm_status status = SCBM_OK;
    int is_first = normal->origin[from].start == 0;
    int begins = normal->bytes[from] == ' ' ||
                 (to - from >= MARK_BYTES && memcmp(normal->bytes + from, MARK, MARK_BYTES) == 0);
    w->word.n = 0;
    if (!begins && (o->prefix == CBM_PREFIX_ALWAYS || (o->prefix == CBM_PREFIX_FIRST && is_first)))
        status = cbm_normal_add(&w->word, MARK, MARK_BYTES, normal->origin[from], w->hooks);
    for (size_t i = from; i < to && !status; i++) {
        int is_space = normal->bytes[i] == ' ';
        status = cbm_normal_add(&w->word, is_space ? MARK : normal->bytes + i, is_space ? MARK_BYTES : 1,
                                normal->origin[i], w->hooks);
    }
    return status;
}

static void write_word(writer *w, size_t from, size_t to) {
    w->encoding->status = mark_word(w, from, to);
    for (size_t start = 0; start < w->word.n && !w->encoding->status && !w->encoding->full;) {
        size_t end = start + 1;
        while (end < w->word.n && !(w->unigram->options.splits_marks && has_mark(&w->word, end))) end++;
        write_part(w, start, end);
        start = end;
    }
}

/* The first word of bytes[from … to), without the white space around it; where there is none its end is where it begins. */
static void next_word(const char *bytes, size_t from, size_t to, size_t *word, size_t *end) {
    *word = *end = from;
    for (size_t at = from, n; at < to; at += n) {
        int32_t c;
        n = next_character(bytes + at, to - at, &c);
        if (!cbm_is_white_space(c)) *end = at + n;
        else if (*end > *word) return;
        else *word = *end = at + n;
    }
}

static void unigram_encode(cbm_encoding *e, size_t from, size_t to) {
    const cbm_tokenizer *t = e->tokenizer;
    writer w = {.encoding = e, .unigram = t->model, .hooks = &t->hooks};
    size_t word = from, end = to;
    while (from < to && !e->full && !e->status) {
        if (w.unigram->options.splits_words) next_word(e->normal.bytes, from, to, &word, &end);
        if (word == end) break;
        write_word(&w, word, end);
        from = end;
    }
    cbm_normal_clear(&w.word, w.hooks);
    scbm_release(w.hooks, w.best);
    scbm_release(w.hooks, w.end);
}

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

static int fits_f32(const double *score, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (score[i] != (double)(float)score[i]) return 0;
    return 1;
}

static void unigram_write(scbm_writer *writer, const cbm_tokenizer_keys *keys) {
    const cbm_unigram_options *o = &keys->unigram;
    scbm_writer_set_floats(writer, scores_key, SCBM_VALUE_F32, o->score, keys->n);
    if (!fits_f32(o->score, keys->n)) scbm_writer_set_floats(writer, wide_key, SCBM_VALUE_F64, o->score, keys->n);
    if (o->map_bytes) scbm_writer_set_ints(writer, map_key, SCBM_VALUE_U8, o->map_values, (int64_t)o->map_bytes);
    scbm_writer_set_bool(writer, prefix_key, o->prefix != CBM_PREFIX_NEVER);
    scbm_writer_set_bool(writer, words_key, o->splits_words);
    scbm_writer_set_bool(writer, first_key, o->prefix == CBM_PREFIX_FIRST);
    scbm_writer_set_bool(writer, fallback_key, o->byte_fallback);
    scbm_writer_set_int(writer, join_key, SCBM_VALUE_U8, o->joins_spaces);
    scbm_writer_set_bool(writer, left_key, o->strips_left);
    scbm_writer_set_bool(writer, right_key, o->strips_right);
    scbm_writer_set_bool(writer, split_key, o->splits_marks);
}

static void unigram_get_keys(const cbm_tokenizer *t, cbm_tokenizer_keys *keys) {
    keys->unigram = ((const unigram *)t->model)->options;
}

const cbm_tokenizer_kind cbm_unigram = {
    .name = "t5",
    .title = "Unigram",
    .adds_first = 1,
    .adds_last = 1,
    .usual = {[CBM_TOKEN_UNKNOWN] = "<unk>",
              [CBM_TOKEN_FIRST] = "<s>",
              [CBM_TOKEN_LAST] = "</s>",
              [CBM_TOKEN_PADDING] = "<pad>",
              [CBM_TOKEN_MASK] = "<mask>"},
    .create = unigram_create,
    .free = unigram_free,
    .normalize = unigram_normalize,
    .encode = unigram_encode,
    .text_of = unigram_text,
    .write = unigram_write,
    .get_keys = unigram_get_keys,
};
