/*
 * models/tokenizers/tokenizer.c - WordPiece with BERT's normalization
 *
 * Ids and byte ranges are those of Hugging Face's fast tokenizer (BertNormalizer, BertPreTokenizer, WordPiece).
 *
 * A model file says, in llama.cpp's keys:
 *     tokenizer.ggml.model             "bert"
 *     tokenizer.ggml.tokens            special pieces as they are; "▁word" (U+2581) for a piece at a word's start,
 *                                      "ing" for "##ing"; "##▁…", which would look like a start, stays "##▁…"
 *     tokenizer.ggml.token_type        1 normal, 2 unknown, 3 control (special), 4 added (found in texts like special
 *                                      ones), 5 unused; without this key those named by the next keys are special
 *     tokenizer.ggml.cls_token_id, …seperator_token_id (sic), …unknown_token_id, …mask_token_id, …padding_token_id
 *                                      without them: the pieces "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]"
 * and in keys of ours, whose defaults are what llama.cpp does:
 *     sparsecbm.tokenizer.lowercase            (true)
 *     sparsecbm.tokenizer.strip_accents        (as lowercase)
 *     sparsecbm.tokenizer.cjk_spacing          (true)   every ideograph is a word
 *     sparsecbm.tokenizer.clean_text           (true)   control characters are removed
 *     sparsecbm.tokenizer.max_word_characters  (100)    longer words are [UNK]
 *
 * Each character of a text goes through a chain of functions: clean, space, decompose, lower, add to a word.
 */
#include "models/tokenizers/tokenizer.h"

#include "models/base/text.h"
#include "models/tokenizers/trie.h"
#include "models/tokenizers/unicode.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#define FIRST_WORD "\xE2\x96\x81" /* U+2581: a piece at a word's start */
#define CONTINUED "##"
#define MARK_LENGTH 3     /* bytes of FIRST_WORD */
#define LONGEST_WORD 1000 /* characters; what max_word_characters may be */

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_ADDED, TYPE_UNUSED }; /* of tokenizer.ggml.token_type */
enum { PIECE_SPECIAL = 1, PIECE_CONTINUES = 2 };
enum { ROOT_WORD, ROOT_CONTINUATION, ROOT_SPECIAL, N_ROOTS };

/* ------------------------------------------------------------------------------------------
 * Reading the vocabulary
 * ---------------------------------------------------------------------------------------- */

struct cbm_tokenizer {
    scbm_hooks hooks;
    int32_t n;          /* pieces */
    const char **piece; /* [n], as Hugging Face writes them; within `text` */
    char *text;
    uint8_t *flags; /* [n] */
    cbm_trie trie;
    int32_t cls, separator, unknown, mask, padding;
    int lowercase, strip_accents, cjk_spacing, clean_text, max_word_characters;
    uint8_t special_start[256]; /* whether a special piece begins with this byte */
    uint8_t ascii_class[128];   /* a cbm_character_class; CBM_CONTROL: to be removed */
    char ascii_lower[128];
};

/* A vocabulary on its way from a file into a tokenizer. */
typedef struct vocabulary {
    cbm_tokenizer *tokenizer;
    const scbm_file *file;
    int64_t tokens_key, types_key;
    cbm_trie_entry *entry; /* at most two a piece */
    int32_t n_entries;
    uint8_t *type; /* [n] */
} vocabulary;

/* "[CLS]", "[unused7]": brackets are punctuation, so nothing inside a word can look so. */
static int is_bracketed(const char *text) {
    size_t n = strlen(text);
    return n > 2 && text[0] == '[' && text[n - 1] == ']';
}

static scbm_status read_types(vocabulary *v) {
    const char *path = scbm_file_path(v->file);
    cbm_tokenizer *t = v->tokenizer;
    if (v->types_key >= 0 && scbm_file_array_length(v->file, v->types_key) != t->n)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tokenizer.ggml.token_type has %lld entries for %d tokens", path,
                         (long long)scbm_file_array_length(v->file, v->types_key), (int)t->n);
    for (int32_t i = 0; i < t->n; i++) {
        int64_t type = TYPE_NORMAL;
        scbm_status status = v->types_key < 0 ? SCBM_OK : scbm_file_int_at(v->file, v->types_key, i, &type);
        if (status) return status;
        if (type < 0 || type > UINT8_MAX)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: token %d has type %lld", path, (int)i, (long long)type);
        v->type[i] = (uint8_t)type;
        if (type == TYPE_CONTROL || type == TYPE_UNKNOWN) t->flags[i] = PIECE_SPECIAL;
    }
    return SCBM_OK;
}

/* The text of a token without the mark of a word's start. */
static const char *unmarked(const char *token) {
    return cbm_starts_with(token, FIRST_WORD) ? token + MARK_LENGTH : token;
}

/* The special token of this key, else the one with this text, which is special then; -1 where there is neither. */
static scbm_status find_special(const vocabulary *v, const char *key, const char *text, int32_t *id) {
    cbm_tokenizer *t = v->tokenizer;
    int64_t index = scbm_file_find_key(v->file, key), value = -1;
    *id = -1;
    if (index >= 0) {
        scbm_status status = scbm_file_get_int(v->file, key, &value);
        if (status) return status;
        if (value < 0 || value >= t->n)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %lld, but there are %d tokens", scbm_file_path(v->file), key,
                             (long long)value, (int)t->n);
    }
    for (int32_t i = 0; index < 0 && value < 0 && i < t->n; i++) {
        const char *token;
        scbm_status status = scbm_file_string_at(v->file, v->tokens_key, i, &token);
        if (status) return status;
        if (strcmp(unmarked(token), text) == 0) value = i;
    }
    *id = (int32_t)value;
    if (value >= 0) t->flags[value] |= PIECE_SPECIAL;
    return SCBM_OK;
}

static scbm_status find_specials(const vocabulary *v) {
    cbm_tokenizer *t = v->tokenizer;
    const struct {
        const char *key, *text;
        int32_t *id;
        int needed;
    } special[] = {
        {"tokenizer.ggml.cls_token_id", "[CLS]", &t->cls, 1},
        {"tokenizer.ggml.seperator_token_id", "[SEP]", &t->separator, 1},
        {"tokenizer.ggml.unknown_token_id", "[UNK]", &t->unknown, 1},
        {"tokenizer.ggml.mask_token_id", "[MASK]", &t->mask, 0},
        {"tokenizer.ggml.padding_token_id", "[PAD]", &t->padding, 0},
    };
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
        scbm_status status = find_special(v, special[i].key, special[i].text, special[i].id);
        if (status) return status;
        if (special[i].needed && *special[i].id < 0)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: the vocabulary has no %s, and there is no %s",
                             scbm_file_path(v->file), special[i].text, special[i].key);
    }
    return SCBM_OK;
}

static void add_entry(vocabulary *v, int root, const char *text, int32_t id) {
    size_t length = strlen(text);
    if (length) v->entry[v->n_entries++] = (cbm_trie_entry){text, (int32_t)length, id, root};
}

/* Sorts token `id` in, and writes the piece at `text`; returns the end of what was written. */
static char *add_piece(vocabulary *v, int32_t id, const char *token, char *text) {
    cbm_tokenizer *t = v->tokenizer;
    int special = (t->flags[id] & PIECE_SPECIAL) || v->type[id] == TYPE_ADDED;
    int whole = special || v->type[id] == TYPE_UNUSED || cbm_starts_with(token, FIRST_WORD) || is_bracketed(token);
    t->piece[id] = text;
    if (!whole) {
        token += cbm_starts_with(token, CONTINUED FIRST_WORD) ? strlen(CONTINUED) : 0;
        t->flags[id] |= PIECE_CONTINUES;
        memcpy(text, CONTINUED, strlen(CONTINUED));
        text += strlen(CONTINUED);
    } else if (v->type[id] != TYPE_UNUSED) {
        token = unmarked(token);
    }
    memcpy(text, token, strlen(token) + 1);
    if (v->type[id] != TYPE_UNUSED) add_entry(v, whole ? ROOT_WORD : ROOT_CONTINUATION, text, id);
    if (special && text[0]) {
        add_entry(v, ROOT_SPECIAL, text, id);
        t->special_start[(uint8_t)text[0]] = 1;
    }
    return text + strlen(text) + 1;
}

/* Checks every token; the bytes that the pieces' text needs come back in *bytes. */
static scbm_status measure_tokens(const vocabulary *v, size_t *bytes) {
    const char *path = scbm_file_path(v->file);
    *bytes = 0;
    for (int32_t i = 0; i < v->tokenizer->n; i++) {
        const char *token;
        scbm_status status = scbm_file_string_at(v->file, v->tokens_key, i, &token);
        if (status) return status;
        size_t length = strlen(token);
        if (cbm_find_bad_utf8(token, length) != length)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: token %d of the vocabulary is not UTF-8", path, (int)i);
        *bytes += length + strlen(CONTINUED) + 1;
        if (*bytes > INT32_MAX / 2 - N_ROOTS) /* special pieces are in two tries */
            return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: the vocabulary's tokens are longer than 1 GiB in all", path);
    }
    return SCBM_OK;
}

static scbm_status read_tokens(vocabulary *v) {
    cbm_tokenizer *t = v->tokenizer;
    size_t bytes;
    scbm_status status = measure_tokens(v, &bytes);
    if (status) return status;
    t->piece = scbm_alloc_array(&t->hooks, (size_t)t->n, sizeof *t->piece);
    t->text = scbm_alloc(&t->hooks, bytes);
    v->entry = scbm_alloc_array(&t->hooks, 2 * (size_t)t->n, sizeof *v->entry);
    if (!t->piece || !t->text || !v->entry) return SCBM_ERROR_MEMORY;
    char *text = t->text;
    for (int32_t i = 0; i < t->n; i++) {
        const char *token;
        status = scbm_file_string_at(v->file, v->tokens_key, i, &token);
        if (status) return status;
        text = add_piece(v, i, token, text);
    }
    return cbm_trie_build(&t->trie, v->entry, v->n_entries, N_ROOTS, &t->hooks);
}

static scbm_status read_vocabulary(vocabulary *v) {
    cbm_tokenizer *t = v->tokenizer;
    const char *path = scbm_file_path(v->file);
    const char *model = scbm_file_string_or(v->file, "tokenizer.ggml.model", "");
    if (!*model) return scbm_fail(SCBM_ERROR_FORMAT, "%s: there is no tokenizer (tokenizer.ggml.model)", path);
    if (strcmp(model, "bert") != 0)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%s: tokenizer.ggml.model is '%.40s'; only 'bert' (WordPiece) is supported", path, model);
    v->tokens_key = scbm_file_find_key(v->file, "tokenizer.ggml.tokens");
    v->types_key = scbm_file_find_key(v->file, "tokenizer.ggml.token_type");
    int64_t n = v->tokens_key < 0 ? 0 : scbm_file_array_length(v->file, v->tokens_key);
    if (n < 1 || n > INT32_MAX / 2)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tokenizer.ggml.tokens has %lld tokens", path, (long long)n);
    t->n = (int32_t)n;
    t->flags = scbm_alloc(&t->hooks, (size_t)n);
    v->type = scbm_alloc(&t->hooks, (size_t)n);
    if (!t->flags || !v->type) return SCBM_ERROR_MEMORY;
    scbm_status status = read_types(v);
    if (!status) status = find_specials(v);
    if (!status) status = read_tokens(v);
    return status;
}

static scbm_status read_options(cbm_tokenizer *t, const scbm_file *file) {
    int64_t longest = scbm_file_int_or(file, "sparsecbm.tokenizer.max_word_characters", 100);
    if (longest < 1 || longest > LONGEST_WORD)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: sparsecbm.tokenizer.max_word_characters is %lld, not 1 to %d",
                         scbm_file_path(file), (long long)longest, LONGEST_WORD);
    t->max_word_characters = (int)longest;
    t->lowercase = scbm_file_int_or(file, "sparsecbm.tokenizer.lowercase", 1) != 0;
    t->strip_accents = scbm_file_int_or(file, "sparsecbm.tokenizer.strip_accents", t->lowercase) != 0;
    t->cjk_spacing = scbm_file_int_or(file, "sparsecbm.tokenizer.cjk_spacing", 1) != 0;
    t->clean_text = scbm_file_int_or(file, "sparsecbm.tokenizer.clean_text", 1) != 0;
    for (int c = 0; c < 128; c++) {
        cbm_character_class class = cbm_class_of(c);
        if (t->clean_text && cbm_is_removed(c)) class = CBM_CONTROL;
        else if (class == CBM_CONTROL) class = CBM_LETTER;
        t->ascii_class[c] = (uint8_t) class;
        t->ascii_lower[c] = (char)(t->lowercase && c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c);
    }
    return SCBM_OK;
}

scbm_status cbm_tokenizer_create(cbm_tokenizer **tokenizer, const scbm_file *file, const scbm_hooks *hooks) {
    vocabulary v = {NULL, file, -1, -1, NULL, 0, NULL};
    *tokenizer = NULL;
    cbm_tokenizer *t = scbm_alloc(hooks, sizeof *t);
    if (!t) return SCBM_ERROR_MEMORY;
    if (hooks) t->hooks = *hooks;
    v.tokenizer = t;
    scbm_status status = read_options(t, file);
    if (!status) status = read_vocabulary(&v);
    scbm_release(hooks, v.entry);
    scbm_release(hooks, v.type);
    if (status) cbm_tokenizer_free(t);
    else *tokenizer = t;
    return status;
}

void cbm_tokenizer_free(cbm_tokenizer *t) {
    if (!t) return;
    scbm_hooks hooks = t->hooks;
    cbm_trie_clear(&t->trie, &hooks);
    scbm_release(&hooks, (void *)t->piece);
    scbm_release(&hooks, t->text);
    scbm_release(&hooks, t->flags);
    scbm_release(&hooks, t);
}

const char *cbm_token_piece(const cbm_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n ? t->piece[id] : NULL;
}

int32_t cbm_tokenizer_size(const cbm_tokenizer *t) {
    return t->n;
}

int cbm_token_is_special(const cbm_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n && (t->flags[id] & PIECE_SPECIAL) != 0;
}

int cbm_token_continues_word(const cbm_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n && (t->flags[id] & PIECE_CONTINUES) != 0;
}

int32_t cbm_tokenizer_unknown(const cbm_tokenizer *t) {
    return t->unknown;
}

int32_t cbm_tokenizer_mask(const cbm_tokenizer *t) {
    return t->mask;
}

int32_t cbm_tokenizer_padding(const cbm_tokenizer *t) {
    return t->padding;
}

/* ------------------------------------------------------------------------------------------
 * Tokenizing
 * ---------------------------------------------------------------------------------------- */

/* Where a character stood in the text. */
typedef struct byte_range {
    int32_t start, end;
} byte_range;

/* A word of normalized characters. Of one that is too long only the number of characters and the range are kept. */
typedef struct word {
    int n;
    int n_bytes;
    int32_t end;                    /* of its last character in the text */
    byte_range range[LONGEST_WORD]; /* of each character */
    int16_t first_byte[LONGEST_WORD];
    char bytes[4 * LONGEST_WORD];
} word;

/* A combining mark that waits for its neighbours, to be put in canonical order with them. */
typedef struct waiting_mark {
    int32_t code, class, arrival;
    int added; /* it came out of a composed character, after the first code point */
    byte_range range;
} waiting_mark;

typedef struct reading {
    const cbm_tokenizer *tokenizer;
    cbm_tokens *tokens;
    size_t limit; /* tokens before the final [SEP] */
    int full;     /* a token did not fit: nothing more is needed */
    scbm_status status;
    waiting_mark *marks;
    byte_range *mark_range; /* of the marks that were not added, as they came */
    size_t n_marks, n_ranges, mark_capacity, range_capacity;
    int n_kept; /* marks that stripping leaves */
    int out_of_order;
    word word;
} reading;

static void add_token(reading *r, int32_t id, byte_range range) {
    cbm_tokens *tokens = r->tokens;
    const scbm_hooks *hooks = &r->tokenizer->hooks;
    size_t n = tokens->n + 1;
    if (tokens->n >= r->limit) {
        tokens->truncated = 1;
        r->full = 1;
        return;
    }
    if (n > tokens->end_capacity) {
        const size_t size = sizeof(int32_t);
        r->status = scbm_grow(hooks, (void **)&tokens->ids, &tokens->ids_capacity, n, size);
        if (!r->status) r->status = scbm_grow(hooks, (void **)&tokens->start, &tokens->start_capacity, n, size);
        if (!r->status) r->status = scbm_grow(hooks, (void **)&tokens->end, &tokens->end_capacity, n, size);
        if (r->status) return;
    }
    tokens->ids[tokens->n] = id;
    tokens->start[tokens->n] = range.start;
    tokens->end[tokens->n++] = range.end;
}

/* Splits a word into pieces, each the longest that fits; the number of pieces, 0 where some part is in no piece.
 * last[i] is the character after piece i. */
static int split_word(const cbm_tokenizer *t, const word *w, int32_t *id, int *last) {
    int n = 0, character = 0;
    for (int at = 0; at < w->n_bytes;) {
        size_t matched = 0, left = (size_t)(w->n_bytes - at);
        id[n] = cbm_trie_longest(&t->trie, n ? ROOT_CONTINUATION : ROOT_WORD, w->bytes + at, left, &matched);
        if (id[n] < 0) return 0;
        at += (int)matched;
        while (character < w->n && w->first_byte[character] < at) character++;
        last[n++] = character;
    }
    return n;
}

static void end_word(reading *r) {
    word *w = &r->word;
    int32_t id[LONGEST_WORD];
    int last[LONGEST_WORD];
    if (!w->n || r->full || r->status) return;
    int n = w->n > r->tokenizer->max_word_characters ? 0 : split_word(r->tokenizer, w, id, last);
    if (n == 0) add_token(r, r->tokenizer->unknown, (byte_range){w->range[0].start, w->end});
    for (int i = 0, first = 0; i < n && !r->full && !r->status; first = last[i++])
        add_token(r, id[i], (byte_range){w->range[first].start, w->range[last[i] - 1].end});
    w->n = w->n_bytes = 0;
}

static void add_to_word(reading *r, int32_t c, byte_range range) {
    word *w = &r->word;
    w->end = range.end;
    if (w->n >= r->tokenizer->max_word_characters) {
        w->n = r->tokenizer->max_word_characters + 1;
        return;
    }
    w->range[w->n] = range;
    w->first_byte[w->n++] = (int16_t)w->n_bytes;
    if (c < 0x80) w->bytes[w->n_bytes++] = (char)c;
    else w->n_bytes += (int)utf8proc_encode_char(c, (utf8proc_uint8_t *)w->bytes + w->n_bytes);
}

/* The last step: white space parts words, punctuation is a word of its own. */
static void put_classed(reading *r, int32_t c, cbm_character_class class, byte_range range) {
    if (class == CBM_SPACE || class == CBM_PUNCTUATION) end_word(r);
    if (class == CBM_SPACE) return;
    add_to_word(r, c, range);
    if (class == CBM_PUNCTUATION) end_word(r);
}

static void put_lower(reading *r, int32_t c, byte_range range) {
    if (!r->tokenizer->lowercase) {
        put_classed(r, c, cbm_class_of(c), range);
    } else if (c == 0x130) { /* İ: the only character whose lower case is two */
        put_classed(r, 'i', CBM_LETTER, range);
        put_classed(r, 0x307, CBM_LETTER, range);
    } else {
        c = cbm_lower_case(c);
        put_classed(r, c, cbm_class_of(c), range);
    }
}

static int compare_marks(const void *a, const void *b) {
    const waiting_mark *x = a, *y = b;
    return x->class != y->class ? x->class - y->class : (x->arrival > y->arrival) - (x->arrival < y->arrival);
}

/* After sorting, the i-th mark is said to stand where the i-th came from: Hugging Face aligns so. */
static void sort_marks(reading *r) {
    byte_range range = r->marks[0].range;
    size_t next = 0;
    qsort(r->marks, r->n_marks, sizeof *r->marks, compare_marks);
    for (size_t i = 0; i < r->n_marks; i++) {
        if (!r->marks[i].added) range = r->mark_range[next++];
        r->marks[i].range = range;
    }
}

/* Passes the waiting marks on, in canonical order and without the accents. */
static void flush_marks(reading *r) {
    size_t n = r->n_marks;
    if (!n) return;
    if (r->n_kept && r->out_of_order) sort_marks(r);
    for (size_t i = 0; i < n && r->n_kept; i++) {
        if (cbm_class_of(r->marks[i].code) != CBM_MARK) put_lower(r, r->marks[i].code, r->marks[i].range);
    }
    r->n_marks = r->n_ranges = 0;
    r->n_kept = r->out_of_order = 0;
}

static void add_mark(reading *r, int32_t c, int32_t class, int added, byte_range range) {
    const scbm_hooks *hooks = &r->tokenizer->hooks;
    size_t n = r->n_marks;
    r->status = scbm_grow(hooks, (void **)&r->marks, &r->mark_capacity, n + 1, sizeof *r->marks);
    if (!r->status) /* not more of these than marks */
        r->status = scbm_grow(hooks, (void **)&r->mark_range, &r->range_capacity, n + 1, sizeof *r->mark_range);
    if (r->status) return;
    if (n && r->marks[n - 1].class > class) r->out_of_order = 1;
    r->marks[n] = (waiting_mark){c, class, (int32_t)n, added, range};
    r->n_marks++;
    if (!added) r->mark_range[r->n_ranges++] = range;
    if (cbm_class_of(c) != CBM_MARK) r->n_kept = 1;
}

static void put_decomposed(reading *r, int32_t c, int added, byte_range range) {
    int32_t class = cbm_combining_class(c);
    if (class) {
        add_mark(r, c, class, added, range);
        return;
    }
    flush_marks(r);
    if (cbm_class_of(c) != CBM_MARK) put_lower(r, c, range);
}

/* Canonical decomposition, with the marks taken off. */
static void put_stripped(reading *r, int32_t c, byte_range range) {
    int32_t part[CBM_MOST_DECOMPOSED];
    if (!r->tokenizer->strip_accents) {
        put_lower(r, c, range);
        return;
    }
    int n = cbm_decompose(c, part);
    for (int i = 0; i < n && !r->status; i++) put_decomposed(r, part[i], i > 0, range);
}

static void put_spaced(reading *r, int32_t c, byte_range range) {
    int apart = r->tokenizer->cjk_spacing && cbm_is_ideograph(c);
    if (apart) put_stripped(r, ' ', range);
    put_stripped(r, c, range);
    if (apart) put_stripped(r, ' ', range);
}

/* The first step. */
static void put_character(reading *r, int32_t c, byte_range range) {
    if (r->tokenizer->clean_text) {
        if (cbm_is_removed(c)) return;
        if (cbm_is_white_space(c)) c = ' ';
    }
    put_spaced(r, c, range);
}

/* All the steps for an ASCII character, which has no decomposition. */
static void put_ascii(reading *r, int32_t c, byte_range range) {
    cbm_character_class class = (cbm_character_class)r->tokenizer->ascii_class[c];
    if (class == CBM_CONTROL) return;
    flush_marks(r);
    put_classed(r, r->tokenizer->ascii_lower[c], class, range);
}

/* A special token in the text: what is before and behind it is normalized by itself. */
static size_t put_special(reading *r, const char *text, size_t at, size_t length) {
    size_t matched = 0;
    int32_t id = cbm_trie_longest(&r->tokenizer->trie, ROOT_SPECIAL, text + at, length - at, &matched);
    if (id < 0) return 0;
    flush_marks(r);
    end_word(r);
    if (!r->full && !r->status) add_token(r, id, (byte_range){(int32_t)at, (int32_t)(at + matched)});
    return matched;
}

static scbm_status fail_utf8(size_t at) {
    return scbm_fail(SCBM_ERROR_FORMAT, "the text is not UTF-8 at byte offset %zu", at);
}

static scbm_status read_text(reading *r, const char *text, size_t length) {
    const cbm_tokenizer *t = r->tokenizer;
    size_t at = 0;
    while (at < length && !r->full && !r->status) {
        int32_t c = (uint8_t)text[at];
        size_t n = t->special_start[c] ? put_special(r, text, at, length) : 0;
        if (n == 0 && c < 0x80) {
            n = 1;
            put_ascii(r, c, (byte_range){(int32_t)at, (int32_t)at + 1});
        } else if (n == 0) {
            utf8proc_ssize_t read = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                     (utf8proc_ssize_t)(length - at), &c);
            if (read <= 0) return fail_utf8(at);
            n = (size_t)read;
            put_character(r, c, (byte_range){(int32_t)at, (int32_t)(at + n)});
        }
        at += n;
    }
    if (!r->full && !r->status) flush_marks(r);
    end_word(r);
    if (r->status) return r->status;
    at += cbm_find_bad_utf8(text + at, length - at); /* of what was cut off */
    return at < length ? fail_utf8(at) : SCBM_OK;
}

scbm_status cbm_tokenize(const cbm_tokenizer *t, const char *text, size_t length, size_t max_tokens,
                         cbm_tokens *tokens) {
    const byte_range nowhere = {0, 0};
    reading r;
    tokens->n = 0;
    tokens->truncated = 0;
    if (max_tokens < 2)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "at most %zu tokens are too few: the first and the last are %s and %s",
                         max_tokens, t->piece[t->cls], t->piece[t->separator]);
    if (length > INT32_MAX) return scbm_fail(SCBM_ERROR_ARGUMENT, "a text of %zu bytes is too long", length);
    memset(&r, 0, offsetof(reading, word));
    r.word.n = r.word.n_bytes = 0;
    r.tokenizer = t;
    r.tokens = tokens;
    r.limit = max_tokens - 1;
    add_token(&r, t->cls, nowhere);
    scbm_status status = r.status ? r.status : read_text(&r, text, length);
    if (!status) {
        r.limit = max_tokens;
        add_token(&r, t->separator, nowhere);
        status = r.status;
    }
    scbm_release(&t->hooks, r.marks);
    scbm_release(&t->hooks, r.mark_range);
    if (status) tokens->n = 0;
    return status;
}

void cbm_tokens_clear(cbm_tokens *tokens, const scbm_hooks *hooks) {
    scbm_release(hooks, tokens->ids);
    scbm_release(hooks, tokens->start);
    scbm_release(hooks, tokens->end);
    memset(tokens, 0, sizeof *tokens);
}
