/*
 * models/tokenizers/bpe.c - byte-level BPE, of GPT-2, RoBERTa and OPT
 *
 * Ids and byte ranges are those of Hugging Face's fast tokenizers (ByteLevel, BPE). A text is cut into words by GPT-2's
 * pattern ('s, 't, …; letters, numbers or other characters, with a space before them; white space), and a word's bytes are
 * joined by the merges, the first in the file's list first. In the vocabulary a byte is a character that can be printed: a
 * space is Ġ.
 *
 * In a model file pieces and merges are as Hugging Face has them. llama.cpp's keys:
 *     tokenizer.ggml.merges            "a b", the most important first
 *     tokenizer.ggml.add_space_prefix  (false) a text that does not begin with a space gets one
 * and ours, whose defaults are what llama.cpp does or what does not concern it:
 *     sparsecbm.tokenizer.has_unknown  (false) bytes that the vocabulary lacks are unknown tokens, and else left out
 *     sparsecbm.tokenizer.fuse_unknown (false) several such bytes are one token
 */
#include "models/base/text.h"
#include "models/tokenizers/kind.h"
#include "models/tokenizers/merges.h"
#include "models/tokenizers/unicode.h"

#include <string.h>

#include <utf8proc.h>

#define MERGES_KEY "tokenizer.ggml.merges"
#define PREFIX_KEY "tokenizer.ggml.add_space_prefix"
#define UNKNOWN_KEY "sparsecbm.tokenizer.has_unknown"
#define FUSE_KEY "sparsecbm.tokenizer.fuse_unknown"

typedef struct bpe {
    cbm_bpe_options options;
    cbm_merges merges;
    const char **merge; /* [n_merges], within `merge_text` */
    char *merge_text;
    int32_t n_merges;
    int32_t byte_id[256]; /* the piece that is this byte; -1: there is none */
    const char **shown;   /* [pieces] as people should see them */
    char *shown_text;
} bpe;

/* ------------------------------------------------------------------------------------------
 * Bytes as characters
 * ---------------------------------------------------------------------------------------- */

/* The character that stands for a byte: itself where it can be printed, and else the next from U+0100 on. */
static int32_t character_of(int byte) {
    int32_t next = 0x100;
    for (int b = 0; b < 256; b++) {
        int is_printed = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        if (b == byte) return is_printed ? b : next;
        next += !is_printed;
    }
    return -1;
}

/* The other way; -1: it stands for none. */
static void set_bytes(int16_t byte_of[0x144]) {
    memset(byte_of, 0xFF, 0x144 * sizeof *byte_of);
    for (int b = 0; b < 256; b++) byte_of[character_of(b)] = (int16_t)b;
}

/* ------------------------------------------------------------------------------------------
 * The vocabulary
 * ---------------------------------------------------------------------------------------- */

static int is_whole(int flags) {
    return (flags & (CBM_PIECE_SPECIAL | CBM_PIECE_ADDED | CBM_PIECE_UNUSED)) != 0;
}

/* Text in which bytes that are no UTF-8 are U+FFFD; returns its end. */
static char *repair(const char *bytes, size_t n, char *text) {
    for (size_t at = 0; at < n;) {
        size_t good = cbm_find_bad_utf8(bytes + at, n - at);
        memcpy(text, bytes + at, good);
        text += good;
        at += good;
        if (at == n) break;
        memcpy(text, "\xEF\xBF\xBD", 3);
        text += 3;
        at++;
    }
    *text = 0;
    return text + 1;
}

/* The bytes that a piece stands for; those of other characters are their own. */
static size_t decode(const int16_t byte_of[0x144], const char *piece, char *bytes) {
    size_t n = 0, length = strlen(piece);
    for (size_t at = 0; at < length;) {
        int32_t c;
        size_t size = cbm_read_character(piece + at, length - at, &c);
        if (c < 0x144 && byte_of[c] >= 0) bytes[n++] = (char)byte_of[c];
        else memcpy(bytes + n, piece + at, size), n += size;
        at += size;
    }
    return n;
}

/* A piece that begins with a letter, a number or a part of a character goes on with the word before it. */
static int continues_word(const char *bytes, size_t n) {
    int32_t c;
    if (!n) return 0;
    if (cbm_find_bad_utf8(bytes, n) == 0) return 1;
    cbm_read_character(bytes, n, &c);
    return cbm_is_letter(c) || cbm_is_number(c);
}

/* What people see, and which pieces continue words. */
static scbm_status show_pieces(cbm_tokenizer *t, bpe *b, size_t bytes) {
    int16_t byte_of[0x144];
    char *text = b->shown_text = scbm_alloc(&t->hooks, 3 * bytes + (size_t)t->n + 1);
    char *decoded = scbm_alloc(&t->hooks, bytes + 1);
    b->shown = scbm_alloc_array(&t->hooks, (size_t)t->n, sizeof *b->shown);
    set_bytes(byte_of);
    for (int32_t i = 0; i < t->n && text && decoded && b->shown; i++) {
        b->shown[i] = t->piece[i];
        if (is_whole(t->flags[i])) continue;
        size_t n = decode(byte_of, t->piece[i], decoded), space = n > 1 && decoded[0] == ' ';
        if (continues_word(decoded, n)) t->flags[i] |= CBM_PIECE_CONTINUES;
        b->shown[i] = text;
        text = repair(decoded + space, n - space, text);
    }
    scbm_status status = text && decoded && b->shown ? SCBM_OK : SCBM_ERROR_MEMORY;
    scbm_release(&t->hooks, decoded);
    return status;
}

/* The merges' strings stay the tokenizer's, to be written again. */
static scbm_status read_merges(cbm_tokenizer *t, bpe *b, const scbm_file *file) {
    int64_t key = scbm_file_find_key(file, MERGES_KEY), n = key < 0 ? 0 : scbm_file_array_length(file, key);
    if (key < 0 || n > INT32_MAX / 2)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is missing, or too long", scbm_file_path(file), MERGES_KEY);
    b->n_merges = (int32_t)n;
    scbm_status status = cbm_copy_strings(file, key, b->n_merges, &b->merge, &b->merge_text, &t->hooks);
    return status ? status : cbm_merges_create(&b->merges, t, b->merge, b->n_merges, scbm_file_path(file));
}

static void find_bytes(bpe *b) {
    for (int byte = 0; byte < 256; byte++) {
        char text[5] = {0};
        utf8proc_encode_char(character_of(byte), (utf8proc_uint8_t *)text);
        b->byte_id[byte] = cbm_merges_piece(&b->merges, text, strlen(text));
    }
}

static scbm_status bpe_create(cbm_tokenizer *t, const cbm_vocabulary *v) {
    size_t bytes;
    bpe *b = t->model = scbm_alloc(&t->hooks, sizeof *b);
    if (!b) return SCBM_ERROR_MEMORY;
    b->options.add_prefix_space = scbm_file_int_or(v->file, PREFIX_KEY, 0) != 0;
    b->options.has_unknown = scbm_file_int_or(v->file, UNKNOWN_KEY, 0) != 0;
    b->options.fuse_unknown = scbm_file_int_or(v->file, FUSE_KEY, 0) != 0;
    if (b->options.has_unknown && t->special[CBM_TOKEN_UNKNOWN] < 0)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is set, and there is no tokenizer.ggml.unknown_token_id",
                         scbm_file_path(v->file), UNKNOWN_KEY);
    scbm_status status = cbm_measure_tokens(v, t->n, &bytes);
    if (!status) status = cbm_copy_strings(v->file, v->tokens_key, t->n, &t->piece, &t->text, &t->hooks);
    if (!status) status = read_merges(t, b, v->file);
    if (!status) status = show_pieces(t, b, bytes);
    if (!status) find_bytes(b);
    return status;
}

static void bpe_free(cbm_tokenizer *t) {
    bpe *b = t->model;
    cbm_merges_clear(&b->merges, &t->hooks);
    scbm_release(&t->hooks, (void *)b->merge);
    scbm_release(&t->hooks, b->merge_text);
    scbm_release(&t->hooks, (void *)b->shown);
    scbm_release(&t->hooks, b->shown_text);
    scbm_release(&t->hooks, b);
}

static const char *bpe_text(const cbm_tokenizer *t, int32_t id) {
    return ((const bpe *)t->model)->shown[id];
}

/* ------------------------------------------------------------------------------------------
 * Words
 * ---------------------------------------------------------------------------------------- */

/* The text as it is. */
static scbm_status bpe_normalize(const cbm_tokenizer *t, const char *text, size_t length, size_t offset,
                                 cbm_normal_text *normal) {
    scbm_status status = cbm_normal_reserve(normal, length, &t->hooks);
    for (size_t at = 0; at < length && !status;) {
        int32_t c;
        size_t n = cbm_read_character(text + at, length - at, &c);
        cbm_byte_range range = {(int32_t)(offset + at), (int32_t)(offset + at + n)};
        status = cbm_normal_add(normal, text + at, n, range, &t->hooks);
        at += n;
    }
    return status;
}

typedef enum word_class { LETTERS, NUMBERS, OTHERS, SPACES } word_class;

static word_class class_of(int32_t c) {
    return cbm_is_white_space(c) ? SPACES : cbm_is_letter(c) ? LETTERS : cbm_is_number(c) ? NUMBERS : OTHERS;
}

/* The end of the characters from `at` on that are of the first one's class; *last is where the last of them begins. */
static size_t end_of_run(const char *text, size_t at, size_t end, size_t *last) {
    int32_t c;
    size_t n = cbm_read_character(text + at, end - at, &c);
    word_class class = class_of(c);
    for (*last = at, at += n; at < end; at += n) {
        n = cbm_read_character(text + at, end - at, &c);
        if (class_of(c) != class) break;
        *last = at;
    }
    return at;
}

/* Bytes of "'s" and its like at the beginning of a text; 0: there is none. */
static size_t contraction(const char *text, size_t n) {
    static const char *const ends[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t length = strlen(ends[i]);
        if (n > length && text[0] == '\'' && strncmp(text + 1, ends[i], length) == 0) return length + 1;
    }
    return 0;
}

/* The end of the word that begins at `at`. White space leaves its last character to what follows it. */
static size_t word_end(const char *text, size_t at, size_t end) {
    int32_t c;
    size_t last, n = contraction(text + at, end - at);
    if (n) return at + n;
    cbm_read_character(text + at, end - at, &c);
    if (c == ' ' && at + 1 < end) {
        cbm_read_character(text + at + 1, end - at - 1, &c);
        if (class_of(c) != SPACES) return end_of_run(text, at + 1, end, &last);
        c = ' ';
    }
    size_t stop = end_of_run(text, at, end, &last);
    return class_of(c) == SPACES && stop < end && last > at ? last : stop;
}

static void add_token(cbm_encoding *e, int32_t id, size_t from, size_t to) {
    cbm_encoding_add(e, id, cbm_trimmed_range(e, e->normal.bytes, e->normal.origin, from, to, 1));
}

/* Bytes as pieces, and those joined. Bytes that are left out make the others' places smaller, as in Hugging Face. */
static void encode_word(cbm_encoding *e, cbm_word *word, size_t from, size_t to) {
    const cbm_tokenizer *t = e->tokenizer;
    const bpe *b = t->model;
    int was_unknown = 0;
    word->n = 0;
    for (size_t at = from; at < to && !e->status; at++) {
        int32_t id = b->byte_id[(uint8_t)e->normal.bytes[at]];
        int is_unknown = id < 0;
        if (is_unknown && !b->options.has_unknown) continue;
        if (is_unknown && was_unknown && b->options.fuse_unknown) word->symbol[word->n - 1].length++;
        else e->status = cbm_word_add(word, is_unknown ? t->special[CBM_TOKEN_UNKNOWN] : id, &t->hooks);
        was_unknown = is_unknown;
    }
    if (!e->status) e->status = cbm_merges_join(&b->merges, word, &t->hooks);
    for (int32_t i = word->n ? 0 : -1; i >= 0 && !e->full && !e->status; i = word->symbol[i].next) {
        add_token(e, word->symbol[i].id, from, from + (size_t)word->symbol[i].length);
        from += (size_t)word->symbol[i].length;
    }
}

static void encode_words(cbm_encoding *e, size_t from, size_t to) {
    cbm_word word = {0};
    while (from < to && !e->full && !e->status) {
        size_t end = word_end(e->normal.bytes, from, to);
        encode_word(e, &word, from, end);
        from = end;
    }
    cbm_word_clear(&word, &e->tokenizer->hooks);
}

/* The same with a space before them, which came from where the first character did. */
static void encode_prefixed(cbm_encoding *e, size_t from, size_t to) {
    const scbm_hooks *hooks = &e->tokenizer->hooks;
    cbm_normal_text whole = e->normal, part = {0};
    e->status = cbm_normal_add(&part, " ", 1, whole.origin[from], hooks);
    for (size_t at = from; at < to && !e->status; at++)
        e->status = cbm_normal_add(&part, whole.bytes + at, 1, whole.origin[at], hooks);
    e->normal = part;
    if (!e->status) encode_words(e, 0, part.n);
    cbm_normal_clear(&e->normal, hooks);
    e->normal = whole;
}

static void bpe_encode(cbm_encoding *e, size_t from, size_t to) {
    const bpe *b = e->tokenizer->model;
    if (b->options.add_prefix_space && from < to && e->normal.bytes[from] != ' ') encode_prefixed(e, from, to);
    else encode_words(e, from, to);
}

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

static void bpe_write(scbm_writer *writer, const cbm_tokenizer_keys *keys) {
    const cbm_bpe_options *o = &keys->bpe;
    scbm_writer_set_string(writer, "tokenizer.ggml.pre", "gpt-2");
    scbm_writer_set_strings(writer, MERGES_KEY, o->merges, o->n_merges);
    scbm_writer_set_bool(writer, PREFIX_KEY, o->add_prefix_space);
    if (o->has_unknown) scbm_writer_set_bool(writer, UNKNOWN_KEY, 1);
    if (o->fuse_unknown) scbm_writer_set_bool(writer, FUSE_KEY, 1);
}

static void bpe_get_keys(const cbm_tokenizer *t, cbm_tokenizer_keys *keys) {
    const bpe *b = t->model;
    keys->bpe = b->options;
    keys->bpe.merges = b->merge;
    keys->bpe.n_merges = b->n_merges;
}

const cbm_tokenizer_kind cbm_bpe = {
    .name = "gpt2",
    .title = "byte-level BPE",
    .create = bpe_create,
    .free = bpe_free,
    .normalize = bpe_normalize,
    .encode = bpe_encode,
    .text_of = bpe_text,
    .write = bpe_write,
    .get_keys = bpe_get_keys,
};
