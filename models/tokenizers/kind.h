/*
 * models/tokenizers/kind.h - what a kind of tokenizer (WordPiece, …) is to the part that all kinds share
 *
 * A new kind is one file with one row, and a line in tokenizer.c's table. What all share is done around it: the keys of
 * special tokens, added tokens, what is put before and after a text, and where a text is cut.
 */
#ifndef CBM_TOKENIZER_KIND_H
#define CBM_TOKENIZER_KIND_H

#include "models/tokenizers/tokenizer.h"
#include "models/tokenizers/trie.h"

#define CBM_WORD_START "\xE2\x96\x81" /* U+2581: how model files mark a piece at a word's start */

/* Bytes of a text. */
typedef struct cbm_byte_range {
    int32_t start, end;
} cbm_byte_range;

/* A stretch of text after normalization: for each byte, where the character that it belongs to stood in the text. */
typedef struct cbm_normal_text {
    char *bytes;
    cbm_byte_range *origin;
    size_t n, capacity; /* of both */
    size_t bytes_capacity;
} cbm_normal_text;

/* A text on its way into tokens. */
typedef struct cbm_encoding {
    const cbm_tokenizer *tokenizer;
    cbm_tokens *tokens;
    size_t limit; /* tokens before those that are put behind the text */
    int full;     /* a token did not fit: nothing more is needed */
    scbm_status status;
    cbm_normal_text normal; /* the part at hand */
} cbm_encoding;

/* tokenizer.ggml.token_type */
enum { CBM_TYPE_NORMAL = 1, CBM_TYPE_UNKNOWN, CBM_TYPE_CONTROL, CBM_TYPE_ADDED, CBM_TYPE_UNUSED };

/* The file's tokens, while a tokenizer is made of them. */
typedef struct cbm_vocabulary {
    const scbm_file *file;
    int64_t tokens_key;
} cbm_vocabulary;

typedef struct cbm_tokenizer_kind {
    const char *name;          /* tokenizer.ggml.model: "bert" */
    const char *title;         /* "WordPiece" */
    int adds_first, adds_last; /* what is put around a text where the file does not say */
    int has_fixed_ends;        /* llama.cpp puts both around every text, whatever its own keys say */
    int ends_at_spaces;        /* neither normalization nor a piece reaches across a space: long texts are cut there */
    const char *usual[CBM_SPECIAL_TOKENS]; /* special tokens that files without their key have; NULL: none */
    /* Sets the tokenizer's pieces, their text and the flag CBM_PIECE_CONTINUES, and its model. */
    scbm_status (*create)(cbm_tokenizer *tokenizer, const cbm_vocabulary *vocabulary);
    void (*free)(cbm_tokenizer *tokenizer);
    /* Appends text[0 … length), which is UTF-8 and begins at byte `offset` of the whole text. */
    scbm_status (*normalize)(const cbm_tokenizer *tokenizer, const char *text, size_t length, size_t offset,
                             cbm_normal_text *normal);
    /* Adds the tokens of encoding->normal.bytes[from … to). */
    void (*encode)(cbm_encoding *encoding, size_t from, size_t to);
    const char *(*text_of)(const cbm_tokenizer *tokenizer, int32_t id); /* see cbm_token_text */
    /* Writing: the file's token for a piece, NUL-terminated, into `token` (NULL: only counted); its bytes with the NUL.
     * NULL: it is the piece. */
    size_t (*mark)(const char *piece, int flags, char *token);
    void (*write)(scbm_writer *writer, const cbm_tokenizer_keys *keys); /* the kind's own keys */
    void (*get_keys)(const cbm_tokenizer *tokenizer, cbm_tokenizer_keys *keys);
} cbm_tokenizer_kind;

extern const cbm_tokenizer_kind cbm_wordpiece, cbm_bpe, cbm_unigram, cbm_words;

struct cbm_tokenizer {
    scbm_hooks hooks;
    const cbm_tokenizer_kind *kind;
    int32_t n;          /* pieces */
    const char **piece; /* [n], as Hugging Face writes them; within `text` */
    char *text;
    uint16_t *flags; /* [n] */
    int32_t special[CBM_SPECIAL_TOKENS];
    int32_t first, last;      /* put before and behind a text; -1: none */
    int trims;                /* the white space that a token takes is not in its byte range … */
    int trim_keeps_space;     /* … but one character of it at the beginning of a text, which may have been added */
    cbm_trie added;           /* tokens that are found in texts: in the text as it is, and in the normalized one */
    uint8_t added_start[256]; /* whether one of the former begins with this byte */
    int n_normalized;         /* of the latter */
    void *model;              /* the kind's */
};

/* Adds a token, unless it does not fit any more. */
void cbm_encoding_add(cbm_encoding *encoding, int32_t id, cbm_byte_range range);
/* Where the bytes from … to of the normalized text came from. */
cbm_byte_range cbm_normal_range(const cbm_normal_text *normal, size_t from, size_t to);
/* Room for n bytes more. */
scbm_status cbm_normal_reserve(cbm_normal_text *normal, size_t n, const scbm_hooks *hooks);
scbm_status cbm_normal_add(cbm_normal_text *normal, const char *bytes, size_t n, cbm_byte_range origin,
                           const scbm_hooks *hooks);
void cbm_normal_clear(cbm_normal_text *normal, const scbm_hooks *hooks);

/* Checks the file's tokens, which must be UTF-8 and take 1 GiB at most; their bytes with the NULs. */
scbm_status cbm_measure_tokens(const cbm_vocabulary *vocabulary, int32_t n, size_t *bytes);
/* Copies the n strings of an array one after the other into *text; both are to be released, after an error too. */
scbm_status cbm_copy_strings(const scbm_file *file, int64_t key, int32_t n, const char ***strings, char **text,
                             const scbm_hooks *hooks);

/* Tokens to be written that must differ from each other (unique.c): those that do not get other names. */
typedef struct cbm_unique {
    const char **token; /* [n], as the file is to have them */
    int64_t *type;      /* [n] CBM_TYPE_… */
    int32_t n;
    int32_t n_renamed; /* that no text has any more, since a later one is equal */
    void *places;
    char *names;
    size_t used;
} cbm_unique;

/* Changes `token` and `type`, which then point into *unique, too. It is to be cleared in any case. */
scbm_status cbm_unique_make(cbm_unique *unique, const char **token, int64_t *type, int32_t n, const scbm_hooks *hooks);
void cbm_unique_clear(cbm_unique *unique, const scbm_hooks *hooks);

/* The byte range of a token, the bytes from … to of `text`, which came from `origin` (NULL: from themselves), without the
 * spaces, or white space, around it. */
cbm_byte_range cbm_trimmed_range(const cbm_encoding *encoding, const char *text, const cbm_byte_range *origin,
                                 size_t from, size_t to, int only_spaces);

/* Added tokens (added.c). */
scbm_status cbm_added_create(cbm_tokenizer *tokenizer);
/* A token in a text, and what of the text is before it. */
typedef struct cbm_added_match {
    int32_t id;
    size_t start, end; /* of the token with the spaces that it takes */
} cbm_added_match;
enum { CBM_ADDED_RAW, CBM_ADDED_NORMALIZED };
/* The first added token in text[from … length); 0: there is none. */
int cbm_added_find(const cbm_tokenizer *tokenizer, int which, const char *text, size_t from, size_t length,
                   cbm_added_match *match);

#endif
