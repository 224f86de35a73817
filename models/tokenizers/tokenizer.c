/*
 * models/tokenizers/tokenizer.c - what all kinds of tokenizers share: vocabulary, special tokens, what is put around a text
 *
 * A model file says, in llama.cpp's keys:
 *     tokenizer.ggml.model             the kind: "bert" is WordPiece
 *     tokenizer.ggml.tokens            as the kind marks them
 *     tokenizer.ggml.token_type        1 normal, 2 unknown, 3 control (special), 4 added (found in texts like special
 *                                      ones), 5 unused; without this key those named by the next keys are special
 *     tokenizer.ggml.cls_token_id, …seperator_token_id (sic), …unknown_token_id, …mask_token_id, …padding_token_id
 *                                      without the first two: bos_token_id and eos_token_id; without any: the piece
 *                                      that is usual for the kind, "[CLS]"; any may be missing
 *     tokenizer.ggml.add_bos_token, …add_sep_token or …add_eos_token
 *                                      whether the first and the last are put around a text; else as the kind does.
 *                                      WordPiece heeds none of them: llama.cpp does not, and its converter says false of
 *                                      the last to BERT's usual tokenizer.json
 * in keys of ours
 *     sparsecbm.tokenizer.add_first, .add_last  the same, of any kind
 * and in lists of ids, what Hugging Face's AddedToken says of a token (all no, where there is no list):
 *     sparsecbm.tokenizer.lstrip, .rstrip, .single_word, .normalized
 *     sparsecbm.tokenizer.beside_model  tokens that are no part of what words are made of
 * and of byte ranges (all false):
 *     sparsecbm.tokenizer.trim_offsets      the white space that a token takes is not in its range
 *     sparsecbm.tokenizer.trim_keeps_space  but one character of it at a text's beginning is
 */
#include "models/tokenizers/kind.h"

#include "models/base/text.h"
#include "models/tokenizers/unicode.h"

#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#define ADD_FIRST_KEY "sparsecbm.tokenizer.add_first"
#define ADD_LAST_KEY "sparsecbm.tokenizer.add_last"
#define LONGEST_PART ((size_t)1 << 16) /* bytes that are normalized at once, where the kind lets a text be cut */

#define TRIM_KEY "sparsecbm.tokenizer.trim_offsets"
#define KEEP_KEY "sparsecbm.tokenizer.trim_keeps_space"

static const cbm_tokenizer_kind *const kinds[] = {&cbm_wordpiece, &cbm_bpe, &cbm_unigram, &cbm_words};

/* A flag of pieces, and the key that lists those that have it. */
static const struct {
    const char *key;
    uint16_t flag;
} flag_lists[] = {
    {"sparsecbm.tokenizer.lstrip", CBM_PIECE_TAKES_LEFT},
    {"sparsecbm.tokenizer.rstrip", CBM_PIECE_TAKES_RIGHT},
    {"sparsecbm.tokenizer.single_word", CBM_PIECE_SINGLE_WORD},
    {"sparsecbm.tokenizer.normalized", CBM_PIECE_NORMALIZED},
    {"sparsecbm.tokenizer.beside_model", CBM_PIECE_BESIDE_MODEL},
};

static const char *const special_keys[CBM_SPECIAL_TOKENS][2] = {
    [CBM_TOKEN_UNKNOWN] = {"tokenizer.ggml.unknown_token_id", NULL},
    [CBM_TOKEN_FIRST] = {"tokenizer.ggml.cls_token_id", "tokenizer.ggml.bos_token_id"},
    [CBM_TOKEN_LAST] = {"tokenizer.ggml.seperator_token_id", "tokenizer.ggml.eos_token_id"},
    [CBM_TOKEN_PADDING] = {"tokenizer.ggml.padding_token_id", NULL},
    [CBM_TOKEN_MASK] = {"tokenizer.ggml.mask_token_id", NULL},
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* ------------------------------------------------------------------------------------------
 * Reading the keys
 * ---------------------------------------------------------------------------------------- */

static const cbm_tokenizer_kind *find_kind(const char *name) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    return NULL;
}

/* "'bert' (WordPiece), 'gpt2' (BPE)" */
static const char *list_kinds(char text[200]) {
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < COUNT_OF(kinds) && used < 150; i++)
        used += (size_t)snprintf(text + used, 200 - used, "%s'%s' (%s)", i ? ", " : "", kinds[i]->name,
                                 kinds[i]->title);
    return text;
}

static scbm_status read_kind(cbm_tokenizer *t, const scbm_file *file) {
    char shown[CBM_SHOWN_SIZE], known[200];
    const char *name = scbm_file_string_or(file, "tokenizer.ggml.model", "");
    if (!*name)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: there is no tokenizer (tokenizer.ggml.model)", scbm_file_path(file));
    t->kind = find_kind(name);
    return t->kind ? SCBM_OK
                   : scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: tokenizer.ggml.model is '%s'; this version knows %s",
                               scbm_file_path(file), cbm_show_string(shown, name), list_kinds(known));
}

static scbm_status read_types(cbm_tokenizer *t, const scbm_file *file) {
    const char *path = scbm_file_path(file);
    int64_t key = scbm_file_find_key(file, "tokenizer.ggml.token_type");
    if (key >= 0 && scbm_file_array_length(file, key) != t->n)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tokenizer.ggml.token_type has %lld entries for %d tokens", path,
                         (long long)scbm_file_array_length(file, key), (int)t->n);
    for (int32_t i = 0; key >= 0 && i < t->n; i++) {
        int64_t type;
        scbm_status status = scbm_file_int_at(file, key, i, &type);
        if (status) return status;
        if (type < 0 || type > UINT8_MAX)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: token %d has type %lld", path, (int)i, (long long)type);
        if (type == CBM_TYPE_CONTROL || type == CBM_TYPE_UNKNOWN) t->flags[i] = CBM_PIECE_SPECIAL;
        else if (type == CBM_TYPE_ADDED) t->flags[i] = CBM_PIECE_ADDED;
        else if (type == CBM_TYPE_UNUSED) t->flags[i] = CBM_PIECE_UNUSED;
    }
    return SCBM_OK;
}

/* An id of a token, by the i-th value of a key. */
static scbm_status read_id(const cbm_tokenizer *t, const scbm_file *file, int64_t key, int64_t i, int64_t *id) {
    scbm_status status = scbm_file_int_at(file, key, i, id);
    if (!status && (*id < 0 || *id >= t->n))
        status = scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %lld, but there are %d tokens", scbm_file_path(file),
                           scbm_file_key(file, key), (long long)*id, (int)t->n);
    return status;
}

static scbm_status read_flags(cbm_tokenizer *t, const scbm_file *file) {
    for (size_t f = 0; f < COUNT_OF(flag_lists); f++) {
        int64_t key = scbm_file_find_key(file, flag_lists[f].key), id;
        for (int64_t i = 0; key >= 0 && i < scbm_file_array_length(file, key); i++) {
            scbm_status status = read_id(t, file, key, i, &id);
            if (status) return status;
            t->flags[id] |= flag_lists[f].flag;
        }
    }
    return SCBM_OK;
}

/* The last token with this text, with or without the mark of a word's start; -1: none. */
static scbm_status find_token(const cbm_tokenizer *t, const cbm_vocabulary *v, const char *text, int64_t *id) {
    *id = -1;
    for (int32_t i = t->n - 1; i >= 0 && *id < 0; i--) {
        const char *token;
        scbm_status status = scbm_file_string_at(v->file, v->tokens_key, i, &token);
        if (status) return status;
        size_t marked = cbm_starts_with(token, CBM_WORD_START) ? strlen(CBM_WORD_START) : 0;
        if (strcmp(token + marked, text) == 0) *id = i;
    }
    return SCBM_OK;
}

static scbm_status find_special(cbm_tokenizer *t, const cbm_vocabulary *v, cbm_special_token which) {
    int64_t key = -1, id = -1;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < 2 && key < 0; i++)
        if (special_keys[which][i]) key = scbm_file_find_key(v->file, special_keys[which][i]);
    if (key >= 0) status = read_id(t, v->file, key, 0, &id);
    else if (t->kind->usual[which]) status = find_token(t, v, t->kind->usual[which], &id);
    t->special[which] = (int32_t)id;
    if (!status && id >= 0) t->flags[id] |= CBM_PIECE_SPECIAL;
    return status;
}

static scbm_status read_vocabulary(cbm_tokenizer *t, cbm_vocabulary *v) {
    const scbm_file *file = v->file;
    v->tokens_key = scbm_file_find_key(file, "tokenizer.ggml.tokens");
    int64_t n = v->tokens_key < 0 ? 0 : scbm_file_array_length(file, v->tokens_key);
    if (n < 1 || n > INT32_MAX / 2)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tokenizer.ggml.tokens has %lld tokens", scbm_file_path(file),
                         (long long)n);
    t->n = (int32_t)n;
    t->flags = scbm_alloc_array(&t->hooks, (size_t)n, sizeof *t->flags);
    if (!t->flags) return SCBM_ERROR_MEMORY;
    scbm_status status = read_types(t, file);
    if (!status) status = read_flags(t, file);
    for (int i = 0; i < CBM_SPECIAL_TOKENS && !status; i++) status = find_special(t, v, (cbm_special_token)i);
    return status;
}

scbm_status cbm_measure_tokens(const cbm_vocabulary *v, int32_t n, size_t *bytes) {
    *bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        const char *token;
        scbm_status status = scbm_file_string_at(v->file, v->tokens_key, i, &token);
        if (status) return status;
        size_t length = strlen(token);
        if (cbm_find_bad_utf8(token, length) != length)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: token %d of the vocabulary is not UTF-8", scbm_file_path(v->file),
                             (int)i);
        *bytes += length + 1;
        if (*bytes > INT32_MAX / 2) /* a trie's nodes are counted in 31 bits */
            return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: the vocabulary's tokens are longer than 1 GiB in all",
                             scbm_file_path(v->file));
    }
    return SCBM_OK;
}

scbm_status cbm_copy_strings(const scbm_file *file, int64_t key, int32_t n, const char ***strings, char **text,
                             const scbm_hooks *hooks) {
    size_t bytes = 0;
    const char **string = *strings = scbm_alloc_array(hooks, (size_t)n + 1, sizeof *string);
    if (!string) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < n; i++) {
        scbm_status status = scbm_file_string_at(file, key, i, &string[i]);
        if (status) return status;
        bytes += strlen(string[i]) + 1;
    }
    char *place = *text = scbm_alloc(hooks, bytes + 1);
    if (!place) return SCBM_ERROR_MEMORY;
    for (int32_t i = 0; i < n; i++) {
        size_t size = strlen(string[i]) + 1;
        string[i] = memcpy(place, string[i], size);
        place += size;
    }
    return SCBM_OK;
}

/* The token that is put before a text, or behind it, if one is. */
static scbm_status read_end(const cbm_tokenizer *t, const scbm_file *file, cbm_special_token which, int adds,
                            int32_t *id) {
    *id = adds ? t->special[which] : -1;
    if (!adds || *id >= 0) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%s: the vocabulary has no %s, and there is no %s", scbm_file_path(file),
                     t->kind->usual[which] ? t->kind->usual[which] : "token to put around a text",
                     special_keys[which][0]);
}

static scbm_status read_template(cbm_tokenizer *t, const scbm_file *file) {
    int64_t first = t->kind->adds_first, last = t->kind->adds_last;
    if (!t->kind->has_fixed_ends) {
        first = scbm_file_int_or(file, "tokenizer.ggml.add_bos_token", first);
        last = scbm_file_int_or(file, "tokenizer.ggml.add_eos_token", last);
        last = scbm_file_int_or(file, "tokenizer.ggml.add_sep_token", last);
    }
    t->trims = scbm_file_int_or(file, TRIM_KEY, 0) != 0;
    t->trim_keeps_space = scbm_file_int_or(file, KEEP_KEY, 0) != 0;
    first = scbm_file_int_or(file, ADD_FIRST_KEY, first);
    last = scbm_file_int_or(file, ADD_LAST_KEY, last);
    scbm_status status = read_end(t, file, CBM_TOKEN_FIRST, first != 0, &t->first);
    return status ? status : read_end(t, file, CBM_TOKEN_LAST, last != 0, &t->last);
}

scbm_status cbm_tokenizer_create(cbm_tokenizer **tokenizer, const scbm_file *file, const scbm_hooks *hooks) {
    cbm_vocabulary vocabulary = {file, -1};
    *tokenizer = NULL;
    cbm_tokenizer *t = scbm_alloc(hooks, sizeof *t);
    if (!t) return SCBM_ERROR_MEMORY;
    if (hooks) t->hooks = *hooks;
    scbm_status status = read_kind(t, file);
    if (!status) status = read_vocabulary(t, &vocabulary);
    if (!status) status = read_template(t, file);
    if (!status) status = t->kind->create(t, &vocabulary);
    if (!status) status = cbm_added_create(t);
    if (status) cbm_tokenizer_free(t);
    else *tokenizer = t;
    return status;
}

void cbm_tokenizer_free(cbm_tokenizer *t) {
    if (!t) return;
    scbm_hooks hooks = t->hooks;
    if (t->model) t->kind->free(t);
    cbm_trie_clear(&t->added, &hooks);
    scbm_release(&hooks, (void *)t->piece);
    scbm_release(&hooks, t->text);
    scbm_release(&hooks, t->flags);
    scbm_release(&hooks, t);
}

/* ------------------------------------------------------------------------------------------
 * Facts
 * ---------------------------------------------------------------------------------------- */

static int has_flag(const cbm_tokenizer *t, int32_t id, int flag) {
    return id >= 0 && id < t->n && (t->flags[id] & flag) != 0;
}

int32_t cbm_tokenizer_size(const cbm_tokenizer *t) {
    return t->n;
}

int32_t cbm_tokenizer_special(const cbm_tokenizer *t, cbm_special_token which) {
    return t->special[which];
}

const char *cbm_token_piece(const cbm_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n ? t->piece[id] : NULL;
}

const char *cbm_token_text(const cbm_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n ? t->kind->text_of(t, id) : NULL;
}

int cbm_token_is_special(const cbm_tokenizer *t, int32_t id) {
    return has_flag(t, id, CBM_PIECE_SPECIAL);
}

int cbm_token_continues_word(const cbm_tokenizer *t, int32_t id) {
    return has_flag(t, id, CBM_PIECE_CONTINUES);
}

/* ------------------------------------------------------------------------------------------
 * Tokenizing
 * ---------------------------------------------------------------------------------------- */

void cbm_encoding_add(cbm_encoding *e, int32_t id, cbm_byte_range range) {
    cbm_tokens *tokens = e->tokens;
    const scbm_hooks *hooks = tokens->hooks ? tokens->hooks : &e->tokenizer->hooks;
    size_t n = tokens->n + 1;
    if (e->status) return;
    if (tokens->n >= e->limit) {
        tokens->truncated = 1;
        e->full = 1;
        return;
    }
    if (n > tokens->end_capacity) {
        const size_t size = sizeof(int32_t);
        e->status = scbm_grow(hooks, (void **)&tokens->ids, &tokens->ids_capacity, n, size);
        if (!e->status) e->status = scbm_grow(hooks, (void **)&tokens->start, &tokens->start_capacity, n, size);
        if (!e->status) e->status = scbm_grow(hooks, (void **)&tokens->end, &tokens->end_capacity, n, size);
        if (e->status) return;
    }
    tokens->ids[tokens->n] = id;
    tokens->start[tokens->n] = range.start;
    tokens->end[tokens->n++] = range.end;
}

scbm_status cbm_normal_reserve(cbm_normal_text *normal, size_t n, const scbm_hooks *hooks) {
    size_t end = normal->n + n;
    if (end <= normal->capacity) return SCBM_OK;
    scbm_status status = scbm_grow(hooks, (void **)&normal->bytes, &normal->bytes_capacity, end, 1);
    if (status) return status;
    return scbm_grow(hooks, (void **)&normal->origin, &normal->capacity, end, sizeof *normal->origin);
}

scbm_status cbm_normal_add(cbm_normal_text *normal, const char *bytes, size_t n, cbm_byte_range origin,
                           const scbm_hooks *hooks) {
    scbm_status status = cbm_normal_reserve(normal, n, hooks);
    for (size_t i = 0; i < n && !status; i++) {
        normal->bytes[normal->n] = bytes[i];
        normal->origin[normal->n++] = origin;
    }
    return status;
}

cbm_byte_range cbm_normal_range(const cbm_normal_text *normal, size_t from, size_t to) {
    return (cbm_byte_range){normal->origin[from].start, normal->origin[to - 1].end};
}

void cbm_normal_clear(cbm_normal_text *normal, const scbm_hooks *hooks) {
    scbm_release(hooks, normal->bytes);
    scbm_release(hooks, normal->origin);
    memset(normal, 0, sizeof *normal);
}

/* How many characters text[from … to) begins with, or ends with, that are spaces or white space; *bytes of them. */
static int count_spaces(const char *text, size_t from, size_t to, int at_end, int only_spaces, size_t *bytes) {
    int n = 0;
    for (*bytes = 0; from + *bytes < to; n++) {
        size_t at = at_end ? to - *bytes - 1 : from + *bytes, size = 1;
        while (at_end && at > from && ((uint8_t)text[at] & 0xC0) == 0x80) at--, size++;
        int32_t c = (uint8_t)text[at];
        if (c >= 0x80 && !only_spaces)
            size = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(to - at), &c);
        if (only_spaces ? c != ' ' : !cbm_is_white_space(c)) break;
        *bytes += size;
    }
    return n;
}

/* As Hugging Face trims it: the beginning first, and one character at a text's beginning stays where it may be added. */
cbm_byte_range cbm_trimmed_range(const cbm_encoding *e, const char *text, const cbm_byte_range *origin, size_t from,
                                 size_t to, int only_spaces) {
    const cbm_tokenizer *t = e->tokenizer;
    cbm_byte_range range = {(int32_t)from, (int32_t)to};
    size_t bytes;
    if (origin) range = (cbm_byte_range){origin[from].start, origin[to - 1].end};
    if (!t->trims) return range;
    int is_first = e->tokens->n == (size_t)(t->first >= 0) || range.start == 0;
    int n = count_spaces(text, from, to, 0, only_spaces, &bytes);
    if (n && !(is_first && t->trim_keeps_space && n == 1)) {
        int32_t start = origin ? origin[from + bytes - 1].end : (int32_t)(from + bytes);
        range.start = start < range.end ? start : range.end;
    }
    if (count_spaces(text, from, to, 1, only_spaces, &bytes)) {
        int32_t end = origin ? origin[to - bytes].start : (int32_t)(to - bytes);
        range.end = end > range.start ? end : range.start;
    }
    return range;
}

static int goes_on(const cbm_encoding *e) {
    return !e->full && !e->status;
}

/* Where a part that begins at `start` is cut: behind a space, or at `end`. */
static size_t cut_part(const cbm_tokenizer *t, const char *text, size_t start, size_t end) {
    if (!t->kind->ends_at_spaces || t->n_normalized || end - start <= LONGEST_PART) return end;
    for (size_t at = start + LONGEST_PART; at < end; at++)
        if (text[at] == ' ') return at + 1;
    return end;
}

/* The normalized text at hand, which may have added tokens in it. */
static void encode_normal(cbm_encoding *e) {
    const cbm_tokenizer *t = e->tokenizer;
    cbm_added_match match;
    size_t at = 0, n = e->normal.n;
    while (at < n && goes_on(e) && t->n_normalized &&
           cbm_added_find(t, CBM_ADDED_NORMALIZED, e->normal.bytes, at, n, &match)) {
        if (match.start > at) t->kind->encode(e, at, match.start);
        if (goes_on(e))
            cbm_encoding_add(e, match.id,
                             cbm_trimmed_range(e, e->normal.bytes, e->normal.origin, match.start, match.end, 0));
        at = match.end;
    }
    if (at < n && goes_on(e)) t->kind->encode(e, at, n);
}

/* What is between added tokens is normalized by itself. */
static void encode_part(cbm_encoding *e, const char *text, size_t start, size_t end) {
    const cbm_tokenizer *t = e->tokenizer;
    while (start < end && goes_on(e)) {
        size_t stop = cut_part(t, text, start, end);
        e->normal.n = 0;
        e->status = t->kind->normalize(t, text + start, stop - start, start, &e->normal);
        if (!e->status) encode_normal(e);
        start = stop;
    }
}

static void encode_text(cbm_encoding *e, const char *text, size_t length) {
    cbm_added_match match;
    size_t at = 0;
    while (at < length && goes_on(e) && cbm_added_find(e->tokenizer, CBM_ADDED_RAW, text, at, length, &match)) {
        encode_part(e, text, at, match.start);
        if (goes_on(e)) cbm_encoding_add(e, match.id, cbm_trimmed_range(e, text, NULL, match.start, match.end, 0));
        at = match.end;
    }
    encode_part(e, text, at, length);
}

/* Room for a token of the text is not needed. */
static scbm_status check_room(const cbm_tokenizer *t, size_t max_tokens) {
    size_t ends = (size_t)(t->first >= 0) + (size_t)(t->last >= 0);
    if (max_tokens >= ends && max_tokens > 0) return SCBM_OK;
    if (ends == 2)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "at most %zu tokens are too few: the first and the last are %s and %s",
                         max_tokens, t->piece[t->first], t->piece[t->last]);
    return scbm_fail(SCBM_ERROR_ARGUMENT, "at most %zu tokens are too few", max_tokens);
}

scbm_status cbm_tokenize(const cbm_tokenizer *t, const char *text, size_t length, size_t max_tokens,
                         cbm_tokens *tokens) {
    const cbm_byte_range nowhere = {0, 0};
    cbm_encoding e = {t, tokens, max_tokens - (t->last >= 0), 0, SCBM_OK, {0}};
    tokens->n = 0;
    tokens->truncated = 0;
    scbm_status status = check_room(t, max_tokens);
    if (status) return status;
    if (length > INT32_MAX) return scbm_fail(SCBM_ERROR_ARGUMENT, "a text of %zu bytes is too long", length);
    size_t bad = cbm_find_bad_utf8(text, length);
    if (bad < length) return scbm_fail(SCBM_ERROR_FORMAT, "the text is not UTF-8 at byte offset %zu", bad);
    if (t->first >= 0) cbm_encoding_add(&e, t->first, nowhere);
    if (!e.status) encode_text(&e, text, length);
    e.limit = max_tokens;
    if (t->last >= 0) cbm_encoding_add(&e, t->last, nowhere);
    cbm_normal_clear(&e.normal, &t->hooks);
    if (e.status) tokens->n = 0;
    return e.status;
}

void cbm_tokens_clear(cbm_tokens *tokens, const scbm_hooks *hooks) {
    scbm_release(hooks, tokens->ids);
    scbm_release(hooks, tokens->start);
    scbm_release(hooks, tokens->end);
    memset(tokens, 0, sizeof *tokens);
}

/* ------------------------------------------------------------------------------------------
 * Writing the keys
 * ---------------------------------------------------------------------------------------- */

static int64_t type_of(int flags) {
    return flags & CBM_PIECE_UNUSED    ? CBM_TYPE_UNUSED
           : flags & CBM_PIECE_SPECIAL ? CBM_TYPE_CONTROL
           : flags & CBM_PIECE_ADDED   ? CBM_TYPE_ADDED
                                       : CBM_TYPE_NORMAL;
}

/* The file's tokens one after the other, each with its NUL, into `text` (NULL: only counted); their bytes. */
static size_t mark_tokens(const cbm_tokenizer_kind *kind, const cbm_tokenizer_keys *keys, char *text,
                          const char **token, int64_t *type) {
    size_t size = 0;
    for (int32_t i = 0; i < keys->n; i++) {
        char filler[32];
        int flags = keys->piece[i] ? keys->flags[i] : CBM_PIECE_UNUSED;
        char *place = text ? text + size : NULL;
        if (kind->mark && !(flags & CBM_PIECE_UNUSED)) {
            size += kind->mark(keys->piece[i], flags, place);
        } else {
            const char *whole = flags & CBM_PIECE_UNUSED ? filler : keys->piece[i];
            if (whole == filler) snprintf(filler, sizeof filler, "[PAD%d]", (int)i);
            if (place) memcpy(place, whole, strlen(whole) + 1);
            size += strlen(whole) + 1;
        }
        if (!text) continue;
        token[i] = place;
        type[i] = type_of(flags);
    }
    return size;
}

/* `ids` has room for all of them. */
static void write_flags(scbm_writer *writer, const cbm_tokenizer_keys *keys, int64_t *ids) {
    for (size_t f = 0; f < COUNT_OF(flag_lists); f++) {
        int64_t n = 0;
        for (int32_t i = 0; i < keys->n; i++)
            if (keys->flags[i] & flag_lists[f].flag) ids[n++] = i;
        if (n) scbm_writer_set_ints(writer, flag_lists[f].key, SCBM_VALUE_I32, ids, n);
    }
}

static void write_specials(scbm_writer *writer, const cbm_tokenizer_kind *kind, const cbm_tokenizer_keys *keys) {
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++)
        for (int j = 0; j < 2 && keys->special[i] >= 0 && special_keys[i][j]; j++)
            scbm_writer_set_int(writer, special_keys[i][j], SCBM_VALUE_U32, keys->special[i]);
    if (keys->omits_first) scbm_writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 0);
    if (keys->omits_last) scbm_writer_set_bool(writer, "tokenizer.ggml.add_sep_token", 0);
    if (keys->omits_first) scbm_writer_set_bool(writer, ADD_FIRST_KEY, 0);
    if (keys->omits_last) scbm_writer_set_bool(writer, ADD_LAST_KEY, 0);
    if (!keys->omits_first && !kind->adds_first) scbm_writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 1);
    if (!keys->omits_last && !kind->adds_last) scbm_writer_set_bool(writer, "tokenizer.ggml.add_eos_token", 1);
}

scbm_status cbm_tokenizer_write_keys(scbm_writer *writer, const cbm_tokenizer_keys *keys, const scbm_hooks *hooks) {
    const cbm_tokenizer_kind *kind = find_kind(keys->kind);
    cbm_unique unique = {0};
    if (!kind) return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no kind of tokenizers called '%s'", keys->kind);
    char *text = scbm_alloc(hooks, mark_tokens(kind, keys, NULL, NULL, NULL));
    const char **token = scbm_alloc_array(hooks, (size_t)keys->n, sizeof *token);
    int64_t *number = scbm_alloc_array(hooks, (size_t)keys->n, sizeof *number);
    scbm_status status = text && token && number ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) {
        mark_tokens(kind, keys, text, token, number);
        status = cbm_unique_make(&unique, token, number, keys->n, hooks);
    }
    if (!status) {
        if (unique.n_renamed)
            scbm_log(hooks, SCBM_LOG_INFO,
                     "%d tokens of the vocabulary are equal to later ones, which count; no text has the former",
                     (int)unique.n_renamed);
        scbm_writer_set_string(writer, "tokenizer.ggml.model", kind->name);
        scbm_writer_set_strings(writer, "tokenizer.ggml.tokens", token, keys->n);
        scbm_writer_set_ints(writer, "tokenizer.ggml.token_type", SCBM_VALUE_I32, number, keys->n);
        /* To llama.cpp no encoder has none. */
        scbm_writer_set_int(writer, "tokenizer.ggml.token_type_count", SCBM_VALUE_U32,
                            keys->n_types ? keys->n_types : 1);
        write_specials(writer, kind, keys);
        write_flags(writer, keys, number);
        if (keys->trims) scbm_writer_set_bool(writer, TRIM_KEY, 1);
        if (keys->trims && keys->trim_keeps_space) scbm_writer_set_bool(writer, KEEP_KEY, 1);
        kind->write(writer, keys);
    }
    cbm_unique_clear(&unique, hooks);
    scbm_release(hooks, text);
    scbm_release(hooks, (void *)token);
    scbm_release(hooks, number);
    return status;
}

void cbm_tokenizer_get_keys(const cbm_tokenizer *t, cbm_tokenizer_keys *keys) {
    *keys = (cbm_tokenizer_keys){.kind = t->kind->name, .n = t->n, .piece = t->piece, .flags = t->flags};
    memcpy(keys->special, t->special, sizeof keys->special);
    keys->omits_first = t->first < 0;
    keys->omits_last = t->last < 0;
    keys->trims = t->trims;
    keys->trim_keeps_space = t->trim_keeps_space;
    t->kind->get_keys(t, keys);
}
