/*
 * models/tokenizers/wordpiece.c - WordPiece with BERT's normalization, and whole words with the same one
 *
 * Ids and byte ranges are those of Hugging Face's fast tokenizer (BertNormalizer, BertPreTokenizer, WordPiece).
 *
 * In a model file's tokenizer.ggml.tokens special pieces are as they are; "▁word" (U+2581) is a piece at a word's start,
 * "ing" is "##ing", and "##▁…", which would look like a start, stays "##▁…". llama.cpp's keys, and their defaults:
 *     tokenizer.ggml.normalizer.lowercase      (true)
 *     tokenizer.ggml.normalizer.strip_accents  (as lowercase)
 * which files of 0.1 call sparsecbm.tokenizer.lowercase and .strip_accents; and keys of ours, whose defaults are what
 * llama.cpp does:
 *     sparsecbm.tokenizer.cjk_spacing          (true)   every ideograph is a word
 *     sparsecbm.tokenizer.clean_text           (true)   control characters are removed
 *     sparsecbm.tokenizer.max_word_characters  (100)    longer words are [UNK]
 *
 * To be normalized, each character goes through a chain of functions: clean, space, decompose, lower. Then white space
 * parts words, punctuation is a word of its own, and a word is cut into pieces from the left, each the longest there is.
 */
#include "models/base/text.h"
#include "models/tokenizers/kind.h"
#include "models/tokenizers/unicode.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#define LOWERCASE_KEY "tokenizer.ggml.normalizer.lowercase"
#define STRIP_ACCENTS_KEY "tokenizer.ggml.normalizer.strip_accents"
#define CONTINUED "##"
#define LONGEST_WORD 1000 /* characters; what max_word_characters may be */

enum { ROOT_WORD, ROOT_CONTINUATION, N_ROOTS };

typedef struct wordpiece {
    cbm_trie trie;
    cbm_wordpiece_options options;
    uint8_t ascii_class[128]; /* a cbm_character_class; CBM_CONTROL: to be removed */
    char ascii_lower[128];    /* with white space made spaces */
} wordpiece;

/* ------------------------------------------------------------------------------------------
 * The vocabulary
 * ---------------------------------------------------------------------------------------- */

/* The pieces that words are made of, while they are read. */
typedef struct piece_reader {
    cbm_tokenizer *tokenizer;
    const cbm_vocabulary *vocabulary;
    cbm_trie_entry *entry; /* one a piece at most */
    int32_t n_entries;
} piece_reader;

/* "[CLS]", "[unused7]": brackets are punctuation, so nothing inside a word can look so. */
static int is_bracketed(const char *text) {
    size_t n = strlen(text);
    return n > 2 && text[0] == '[' && text[n - 1] == ']';
}

/* The text of a token without the mark of a word's start. */
static const char *unmarked(const char *token) {
    return cbm_starts_with(token, CBM_WORD_START) ? token + strlen(CBM_WORD_START) : token;
}

/* Words are made of the piece at `text`, from their start or behind other pieces. */
static void add_entry(piece_reader *r, int32_t id, const char *text) {
    int flags = r->tokenizer->flags[id], root = ROOT_WORD;
    if (flags & (CBM_PIECE_UNUSED | CBM_PIECE_BESIDE_MODEL)) return;
    if (flags & CBM_PIECE_CONTINUES) {
        text += strlen(CONTINUED);
        root = ROOT_CONTINUATION;
    }
    size_t length = strlen(text);
    if (length) r->entry[r->n_entries++] = (cbm_trie_entry){text, (int32_t)length, id, root};
}

/* Sorts token `id` in, and writes the piece at `text`; returns the end of what was written. Added tokens are as Hugging
 * Face writes them, others marked. */
static char *add_piece(piece_reader *r, int32_t id, const char *token, char *text) {
    cbm_tokenizer *t = r->tokenizer;
    int is_added = t->flags[id] & (CBM_PIECE_SPECIAL | CBM_PIECE_ADDED), is_unused = t->flags[id] & CBM_PIECE_UNUSED;
    int is_whole = is_added || is_unused || cbm_starts_with(token, CBM_WORD_START) || is_bracketed(token);
    char *end = text;
    t->piece[id] = text;
    if (!is_whole) {
        token += cbm_starts_with(token, CONTINUED CBM_WORD_START) ? strlen(CONTINUED) : 0;
        memcpy(end, CONTINUED, strlen(CONTINUED));
        end += strlen(CONTINUED);
    } else if (!is_unused) {
        token = unmarked(token);
    }
    memcpy(end, token, strlen(token) + 1);
    int is_word = is_whole && !(is_added && cbm_starts_with(text, CONTINUED));
    if (!is_word && !(t->flags[id] & CBM_PIECE_BESIDE_MODEL)) t->flags[id] |= CBM_PIECE_CONTINUES;
    add_entry(r, id, text);
    return text + strlen(text) + 1;
}

static scbm_status read_pieces(piece_reader *r, wordpiece *w) {
    cbm_tokenizer *t = r->tokenizer;
    size_t bytes;
    scbm_status status = cbm_measure_tokens(r->vocabulary, t->n, &bytes);
    if (status) return status;
    t->piece = scbm_alloc_array(&t->hooks, (size_t)t->n, sizeof *t->piece);
    t->text = scbm_alloc(&t->hooks, bytes + (size_t)t->n * strlen(CONTINUED));
    r->entry = scbm_alloc_array(&t->hooks, (size_t)t->n, sizeof *r->entry);
    if (!t->piece || !t->text || !r->entry) return SCBM_ERROR_MEMORY;
    char *text = t->text;
    for (int32_t i = 0; i < t->n; i++) {
        const char *token;
        status = scbm_file_string_at(r->vocabulary->file, r->vocabulary->tokens_key, i, &token);
        if (status) return status;
        text = add_piece(r, i, token, text);
    }
    return cbm_trie_build(&w->trie, r->entry, r->n_entries, N_ROOTS, &t->hooks);
}

/* ------------------------------------------------------------------------------------------
 * The options
 * ---------------------------------------------------------------------------------------- */

void cbm_wordpiece_defaults(cbm_wordpiece_options *options) {
    *options = (cbm_wordpiece_options){1, 1, 1, -1, 100};
}

static void set_tables(wordpiece *w) {
    const cbm_wordpiece_options *o = &w->options;
    for (int c = 0; c < 128; c++) {
        cbm_character_class class = cbm_class_of(c);
        if (o->clean_text && cbm_is_removed(c)) class = CBM_CONTROL;
        else if (class == CBM_CONTROL) class = CBM_LETTER;
        w->ascii_class[c] = (uint8_t) class;
        w->ascii_lower[c] = (char)(o->lowercase && c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c);
        if (o->clean_text && class == CBM_SPACE) w->ascii_lower[c] = ' ';
    }
}

static scbm_status read_options(wordpiece *w, const scbm_file *file) {
    cbm_wordpiece_options *o = &w->options;
    int64_t longest = scbm_file_int_or(file, "sparsecbm.tokenizer.max_word_characters", 100);
    if (longest < 1 || longest > LONGEST_WORD)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: sparsecbm.tokenizer.max_word_characters is %lld, not 1 to %d",
                         scbm_file_path(file), (long long)longest, LONGEST_WORD);
    o->max_word_characters = (int)longest;
    int64_t lowercase = scbm_file_int_or(file, "sparsecbm.tokenizer.lowercase", 1);
    o->lowercase = scbm_file_int_or(file, LOWERCASE_KEY, lowercase) != 0;
    int64_t strips = scbm_file_int_or(file, "sparsecbm.tokenizer.strip_accents", o->lowercase);
    o->strip_accents = scbm_file_int_or(file, STRIP_ACCENTS_KEY, strips) != 0;
    o->cjk_spacing = scbm_file_int_or(file, "sparsecbm.tokenizer.cjk_spacing", 1) != 0;
    o->clean_text = scbm_file_int_or(file, "sparsecbm.tokenizer.clean_text", 1) != 0;
    set_tables(w);
    return SCBM_OK;
}

static scbm_status wordpiece_create(cbm_tokenizer *t, const cbm_vocabulary *vocabulary) {
    piece_reader reader = {t, vocabulary, NULL, 0};
    wordpiece *w = t->model = scbm_alloc(&t->hooks, sizeof *w);
    if (!w) return SCBM_ERROR_MEMORY;
    if (t->special[CBM_TOKEN_UNKNOWN] < 0)
        return scbm_fail(SCBM_ERROR_FORMAT,
                         "%s: the vocabulary has no [UNK], and there is no tokenizer.ggml.unknown_token_id",
                         scbm_file_path(vocabulary->file));
    scbm_status status = read_options(w, vocabulary->file);
    if (!status) status = read_pieces(&reader, w);
    scbm_release(&t->hooks, reader.entry);
    return status;
}

static void wordpiece_free(cbm_tokenizer *t) {
    wordpiece *w = t->model;
    cbm_trie_clear(&w->trie, &t->hooks);
    scbm_release(&t->hooks, w);
}

static const char *wordpiece_text(const cbm_tokenizer *t, int32_t id) {
    return t->piece[id] + (t->flags[id] & CBM_PIECE_CONTINUES ? strlen(CONTINUED) : 0);
}

/* Words get a mark instead of their continuations; a continuation that begins with the mark itself stays as it is. */
static size_t wordpiece_mark(const char *piece, int flags, char *token) {
    const char *mark = "";
    if (!(flags & (CBM_PIECE_SPECIAL | CBM_PIECE_ADDED))) {
        if (!cbm_starts_with(piece, CONTINUED)) mark = CBM_WORD_START;
        else if (!cbm_starts_with(piece, CONTINUED CBM_WORD_START)) piece += strlen(CONTINUED);
    }
    if (token) {
        memcpy(token, mark, strlen(mark));
        memcpy(token + strlen(mark), piece, strlen(piece) + 1);
    }
    return strlen(mark) + strlen(piece) + 1;
}

static void wordpiece_write(scbm_writer *writer, const cbm_tokenizer_keys *keys) {
    const cbm_wordpiece_options *o = &keys->wordpiece;
    scbm_writer_set_bool(writer, LOWERCASE_KEY, o->lowercase);
    if (o->strip_accents >= 0) scbm_writer_set_bool(writer, STRIP_ACCENTS_KEY, o->strip_accents);
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.cjk_spacing", o->cjk_spacing);
    scbm_writer_set_bool(writer, "sparsecbm.tokenizer.clean_text", o->clean_text);
    scbm_writer_set_int(writer, "sparsecbm.tokenizer.max_word_characters", SCBM_VALUE_U32, o->max_word_characters);
}

/* ------------------------------------------------------------------------------------------
 * Normalization
 * ---------------------------------------------------------------------------------------- */

/* A combining mark that waits for its neighbours, to be put in canonical order with them. */
typedef struct waiting_mark {
    int32_t code, class, arrival;
    int added; /* it came out of a composed character, after the first code point */
    cbm_byte_range range;
} waiting_mark;

typedef struct normalizer {
    const wordpiece *wordpiece;
    const scbm_hooks *hooks;
    cbm_normal_text *normal;
    scbm_status status;
    waiting_mark *marks;
    cbm_byte_range *mark_range; /* of the marks that were not added, as they came */
    size_t n_marks, n_ranges, mark_capacity, range_capacity;
    int n_kept; /* marks that stripping leaves */
    int out_of_order;
} normalizer;

static void put_character(normalizer *r, int32_t c, cbm_byte_range range) {
    char bytes[4];
    size_t n = (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)bytes);
    if (!r->status) r->status = cbm_normal_add(r->normal, bytes, n, range, r->hooks);
}

static void put_lower(normalizer *r, int32_t c, cbm_byte_range range) {
    if (!r->wordpiece->options.lowercase) {
        put_character(r, c, range);
    } else if (c == 0x130) { /* İ: the only character whose lower case is two */
        put_character(r, 'i', range);
        put_character(r, 0x307, range);
    } else {
        put_character(r, cbm_lower_case(c), range);
    }
}

static int compare_marks(const void *a, const void *b) {
    const waiting_mark *x = a, *y = b;
    return x->class != y->class ? x->class - y->class : (x->arrival > y->arrival) - (x->arrival < y->arrival);
}

/* After sorting, the i-th mark is said to stand where the i-th came from: Hugging Face aligns so. */
static void sort_marks(normalizer *r) {
    cbm_byte_range range = r->marks[0].range;
    size_t next = 0;
    qsort(r->marks, r->n_marks, sizeof *r->marks, compare_marks);
    for (size_t i = 0; i < r->n_marks; i++) {
        if (!r->marks[i].added) range = r->mark_range[next++];
        r->marks[i].range = range;
    }
}

/* Passes the waiting marks on, in canonical order and without the accents. */
static void flush_marks(normalizer *r) {
    size_t n = r->n_marks;
    if (!n) return;
    if (r->n_kept && r->out_of_order) sort_marks(r);
    for (size_t i = 0; i < n && r->n_kept; i++) {
        if (cbm_class_of(r->marks[i].code) != CBM_MARK) put_lower(r, r->marks[i].code, r->marks[i].range);
    }
    r->n_marks = r->n_ranges = 0;
    r->n_kept = r->out_of_order = 0;
}

static void add_mark(normalizer *r, int32_t c, int32_t class, int added, cbm_byte_range range) {
    size_t n = r->n_marks;
    r->status = scbm_grow(r->hooks, (void **)&r->marks, &r->mark_capacity, n + 1, sizeof *r->marks);
    if (!r->status) /* not more of these than marks */
        r->status = scbm_grow(r->hooks, (void **)&r->mark_range, &r->range_capacity, n + 1, sizeof *r->mark_range);
    if (r->status) return;
    if (n && r->marks[n - 1].class > class) r->out_of_order = 1;
    r->marks[n] = (waiting_mark){c, class, (int32_t)n, added, range};
    r->n_marks++;
    if (!added) r->mark_range[r->n_ranges++] = range;
    if (cbm_class_of(c) != CBM_MARK) r->n_kept = 1;
}

static void put_decomposed(normalizer *r, int32_t c, int added, cbm_byte_range range) {
    int32_t class = cbm_combining_class(c);
    if (class) {
        add_mark(r, c, class, added, range);
        return;
    }
    flush_marks(r);
    if (cbm_class_of(c) != CBM_MARK) put_lower(r, c, range);
}

/* Canonical decomposition, with the marks taken off. */
static void put_stripped(normalizer *r, int32_t c, cbm_byte_range range) {
    int32_t part[CBM_MOST_DECOMPOSED];
    if (!r->wordpiece->options.strip_accents) {
        put_lower(r, c, range);
        return;
    }
    int n = cbm_decompose(c, part);
    for (int i = 0; i < n && !r->status; i++) put_decomposed(r, part[i], i > 0, range);
}

static void put_spaced(normalizer *r, int32_t c, cbm_byte_range range) {
    int apart = r->wordpiece->options.cjk_spacing && cbm_is_ideograph(c);
    if (apart) put_stripped(r, ' ', range);
    put_stripped(r, c, range);
    if (apart) put_stripped(r, ' ', range);
}

static void put_cleaned(normalizer *r, int32_t c, cbm_byte_range range) {
    if (r->wordpiece->options.clean_text) {
        if (cbm_is_removed(c)) return;
        if (cbm_is_white_space(c)) c = ' ';
    }
    put_spaced(r, c, range);
}

/* All the steps for an ASCII character, which has no decomposition. */
static void put_ascii(normalizer *r, int32_t c, cbm_byte_range range) {
    const wordpiece *w = r->wordpiece;
    cbm_normal_text *normal = r->normal;
    char lower = w->ascii_lower[c];
    if (w->ascii_class[c] == CBM_CONTROL) return;
    if (r->n_marks) flush_marks(r);
    if (normal->n == normal->capacity) r->status = cbm_normal_reserve(normal, 1, r->hooks);
    if (r->status) return;
    normal->bytes[normal->n] = lower;
    normal->origin[normal->n++] = range;
}

static scbm_status wordpiece_normalize(const cbm_tokenizer *t, const char *text, size_t length, size_t offset,
                                       cbm_normal_text *normal) {
    normalizer r = {.wordpiece = t->model, .hooks = &t->hooks, .normal = normal};
    r.status = cbm_normal_reserve(normal, length, &t->hooks);
    for (size_t at = 0; at < length && !r.status;) {
        int32_t c = (uint8_t)text[at];
        size_t n = 1, start = offset + at;
        if (c >= 0x80)
            n = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &c);
        cbm_byte_range range = {(int32_t)start, (int32_t)(start + n)};
        if (c < 0x80) put_ascii(&r, c, range);
        else put_cleaned(&r, c, range);
        at += n;
    }
    if (!r.status) flush_marks(&r);
    scbm_release(&t->hooks, r.marks);
    scbm_release(&t->hooks, r.mark_range);
    return r.status;
}

/* ------------------------------------------------------------------------------------------
 * Words
 * ---------------------------------------------------------------------------------------- */

/* Splits a word into pieces, each the longest that fits; the number of pieces, 0 where some part is in no piece. */
static int split_word(const wordpiece *w, const char *word, size_t length, int32_t *id, size_t *end) {
    int n = 0;
    for (size_t at = 0; at < length; n++) {
        size_t matched = 0;
        id[n] = cbm_trie_longest(&w->trie, n ? ROOT_CONTINUATION : ROOT_WORD, word + at, length - at, &matched);
        if (id[n] < 0) return 0;
        end[n] = at += matched;
    }
    return n;
}

static void encode_word(cbm_encoding *e, size_t from, size_t to, int n_characters) {
    const cbm_tokenizer *t = e->tokenizer;
    const wordpiece *w = t->model;
    int32_t id[LONGEST_WORD];
    size_t end[LONGEST_WORD];
    if (from == to || e->full || e->status) return;
    int n = n_characters > w->options.max_word_characters ? 0
                                                          : split_word(w, e->normal.bytes + from, to - from, id, end);
    if (n == 0) cbm_encoding_add(e, t->special[CBM_TOKEN_UNKNOWN], cbm_normal_range(&e->normal, from, to));
    for (int i = 0; i < n && !e->full; i++)
        cbm_encoding_add(e, id[i], cbm_normal_range(&e->normal, from + (i ? end[i - 1] : 0), from + end[i]));
}

static void wordpiece_get_keys(const cbm_tokenizer *t, cbm_tokenizer_keys *keys) {
    const wordpiece *w = t->model;
    keys->wordpiece = w->options;
    if (w->options.strip_accents == w->options.lowercase) keys->wordpiece.strip_accents = -1;
}

/* The first word of bytes[from … to), without the white space before it, and the number of its characters; where there
 * is none its end is where it begins. Punctuation is a word of its own. */
static int next_word(const wordpiece *w, const char *bytes, size_t from, size_t to, size_t *word, size_t *end) {
    int n_characters = 0;
    *word = *end = from;
    for (size_t at = from, n; at < to; at += n) {
        int32_t c = (uint8_t)bytes[at];
        n = 1;
        if (c >= 0x80)
            n = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)bytes + at, (utf8proc_ssize_t)(to - at), &c);
        cbm_character_class class = c < 0x80 ? (cbm_character_class)w->ascii_class[c] : cbm_class_of(c);
        if (class == CBM_SPACE && n_characters) break;
        if (class == CBM_SPACE) {
            *word = *end = at + n;
            continue;
        }
        if (class == CBM_PUNCTUATION && n_characters) break;
        *end = at + n;
        n_characters++;
        if (class == CBM_PUNCTUATION) break;
    }
    return n_characters;
}

static void wordpiece_encode(cbm_encoding *e, size_t from, size_t to) {
    size_t word, end;
    while (!e->full && !e->status) {
        int n_characters = next_word(e->tokenizer->model, e->normal.bytes, from, to, &word, &end);
        if (!n_characters) return;
        encode_word(e, word, end, n_characters);
        from = end;
    }
}

scbm_status cbm_wordpiece_words(const cbm_wordpiece_options *options, const char *text, size_t length,
                                scbm_status (*handle)(void *user, const char *word, size_t length), void *user,
                                const scbm_hooks *hooks) {
    wordpiece w = {.options = *options};
    cbm_tokenizer t = {.model = &w};
    cbm_normal_text normal = {0};
    size_t word, end = 0;
    if (hooks) t.hooks = *hooks;
    if (w.options.strip_accents < 0) w.options.strip_accents = w.options.lowercase;
    set_tables(&w);
    scbm_status status = wordpiece_normalize(&t, text, length, 0, &normal);
    while (!status && next_word(&w, normal.bytes, end, normal.n, &word, &end))
        status = handle(user, normal.bytes + word, end - word);
    cbm_normal_clear(&normal, &t.hooks);
    return status;
}

const cbm_tokenizer_kind cbm_wordpiece = {
    .name = "bert",
    .title = "WordPiece",
    .adds_first = 1,
    .adds_last = 1,
    .has_fixed_ends = 1,
    .ends_at_spaces = 1,
    .usual = {[CBM_TOKEN_UNKNOWN] = "[UNK]",
              [CBM_TOKEN_FIRST] = "[CLS]",
              [CBM_TOKEN_LAST] = "[SEP]",
              [CBM_TOKEN_PADDING] = "[PAD]",
              [CBM_TOKEN_MASK] = "[MASK]"},
    .create = wordpiece_create,
    .free = wordpiece_free,
    .normalize = wordpiece_normalize,
    .encode = wordpiece_encode,
    .text_of = wordpiece_text,
    .mark = wordpiece_mark,
    .write = wordpiece_write,
    .get_keys = wordpiece_get_keys,
};

/* The words themselves: a vocabulary without pieces that go on, of which a word that is not in it is [UNK], and nothing
 * around a text. */
const cbm_tokenizer_kind cbm_words = {
    .name = "words",
    .title = "whole words",
    .ends_at_spaces = 1,
    .usual = {[CBM_TOKEN_UNKNOWN] = "[UNK]", [CBM_TOKEN_PADDING] = "[PAD]", [CBM_TOKEN_MASK] = "[MASK]"},
    .create = wordpiece_create,
    .free = wordpiece_free,
    .normalize = wordpiece_normalize,
    .encode = wordpiece_encode,
    .text_of = wordpiece_text,
    .mark = wordpiece_mark,
    .write = wordpiece_write,
    .get_keys = wordpiece_get_keys,
};
