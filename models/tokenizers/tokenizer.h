/*
 * models/tokenizers/tokenizer.h - texts to token ids, with each token's byte range in the text
 *
 * A tokenizer is read from a model file's `tokenizer.ggml.*` keys and is immutable: threads share it.
 */
#ifndef CBM_TOKENIZER_H
#define CBM_TOKENIZER_H

#include "sparsecbm.h"

typedef struct cbm_tokenizer cbm_tokenizer;

/* The tokens of one text; zero-initialize, reuse from text to text, free with cbm_tokens_clear. */
typedef struct cbm_tokens {
    int32_t *ids;
    int32_t *start, *end; /* byte range in the text; 0, 0 for tokens that were added ([CLS], [SEP]) */
    size_t n;
    int truncated;           /* the text had more tokens than fitted */
    const scbm_hooks *hooks; /* whose memory this is; NULL: the tokenizer's */
    size_t ids_capacity, start_capacity, end_capacity;
} cbm_tokens;

scbm_status cbm_tokenizer_create(cbm_tokenizer **tokenizer, const scbm_file *file, const scbm_hooks *hooks);
void cbm_tokenizer_free(cbm_tokenizer *tokenizer);

/* Tokenizes text[0 … length), UTF-8, to at most max_tokens tokens, special ones included. Bad UTF-8 is
 * SCBM_ERROR_FORMAT with the byte's position. There are no tokens where nothing is put around a text and nothing is in
 * it. */
scbm_status cbm_tokenize(const cbm_tokenizer *tokenizer, const char *text, size_t length, size_t max_tokens,
                         cbm_tokens *tokens);
void cbm_tokens_clear(cbm_tokens *tokens, const scbm_hooks *hooks);

/* What tokens are, whatever the kind; each of them may be missing. */
typedef enum cbm_special_token {
    CBM_TOKEN_UNKNOWN, /* stands for words that the vocabulary cannot write */
    CBM_TOKEN_FIRST,   /* [CLS], <s>: put before a text */
    CBM_TOKEN_LAST,    /* [SEP], </s>: put behind it */
    CBM_TOKEN_PADDING,
    CBM_TOKEN_MASK,
    CBM_SPECIAL_TOKENS
} cbm_special_token;

int32_t cbm_tokenizer_size(const cbm_tokenizer *tokenizer);
/* The token's id; -1: there is none. */
int32_t cbm_tokenizer_special(const cbm_tokenizer *tokenizer, cbm_special_token which);
/* Of an id outside the vocabulary the strings are NULL, and nothing holds. */
const char *cbm_token_piece(const cbm_tokenizer *tokenizer, int32_t id); /* as Hugging Face writes it: "##ing" */
const char *cbm_token_text(const cbm_tokenizer *tokenizer, int32_t id);  /* as people should see it: "ing" */
int cbm_token_is_special(const cbm_tokenizer *tokenizer, int32_t id);
int cbm_token_continues_word(const cbm_tokenizer *tokenizer, int32_t id); /* "##ing": glued to the piece before it */

/* ------------------------------------------------------------------------------------------
 * Writing a model file's keys: the other side of cbm_tokenizer_create
 * ---------------------------------------------------------------------------------------- */

/* What is known of a piece. Those that are special or added are found in texts, by Hugging Face's rules (AddedToken). */
enum {
    CBM_PIECE_SPECIAL = 1,
    CBM_PIECE_ADDED = 2,
    CBM_PIECE_UNUSED = 4,        /* a gap in the numbering */
    CBM_PIECE_CONTINUES = 8,     /* glued to the piece before it; reading finds out */
    CBM_PIECE_TAKES_LEFT = 16,   /* lstrip: with the white space before it */
    CBM_PIECE_TAKES_RIGHT = 32,  /* rstrip: with the white space behind it */
    CBM_PIECE_SINGLE_WORD = 64,  /* not beside a letter or digit */
    CBM_PIECE_NORMALIZED = 128,  /* found in the normalized text */
    CBM_PIECE_BESIDE_MODEL = 256 /* only found as an added token; words are not made of it */
};

typedef struct cbm_wordpiece_options {
    int lowercase, cjk_spacing, clean_text; /* see wordpiece.c */
    int strip_accents;                      /* -1: as lowercase */
    int max_word_characters;
} cbm_wordpiece_options;

typedef struct cbm_bpe_options {
    int add_prefix_space, has_unknown, fuse_unknown; /* see bpe.c */
    const char *const *merges;
    int32_t n_merges;
} cbm_bpe_options;

typedef enum cbm_prefix { CBM_PREFIX_ALWAYS, CBM_PREFIX_FIRST, CBM_PREFIX_NEVER } cbm_prefix;

typedef struct cbm_unigram_options { /* see unigram.c */
    const double *score;             /* [n] of the pieces */
    const uint8_t *map;              /* SentencePiece's precompiled map; NULL: none */
    const int64_t *map_values;       /* the same, for writing a model file */
    size_t map_bytes;
    int strips_left, strips_right; /* white space at the ends goes */
    int joins_spaces;              /* several spaces are one (1), or one mark (2) */
    int splits_words;              /* white space divides words and goes */
    int splits_marks;              /* a piece begins at every mark */
    cbm_prefix prefix;             /* which words begin with a mark */
    int byte_fallback;
} cbm_unigram_options;

typedef struct cbm_tokenizer_keys {
    const char *kind; /* "bert" is WordPiece, "gpt2" byte-level BPE, "t5" Unigram, "words" whole words */
    int32_t n;
    const char *const *piece;            /* [n], as Hugging Face writes them; NULL: a gap */
    const uint16_t *flags;               /* [n] */
    int32_t special[CBM_SPECIAL_TOKENS]; /* ids; -1: none */
    int omits_first, omits_last;         /* nothing is put before a text, or behind it */
    int trims, trim_keeps_space;         /* byte ranges have no white space, see tokenizer.c */
    int64_t n_types;                     /* token types of the encoder's embeddings */
    cbm_wordpiece_options wordpiece;
    cbm_bpe_options bpe;
    cbm_unigram_options unigram;
} cbm_tokenizer_keys;

/* 1, 1, 1, -1, 100 */
void cbm_wordpiece_defaults(cbm_wordpiece_options *options);
scbm_status cbm_tokenizer_write_keys(scbm_writer *writer, const cbm_tokenizer_keys *keys, const scbm_hooks *hooks);
/* The keys of a tokenizer, but for n_types; what they point to is the tokenizer's. Gaps have the flag CBM_PIECE_UNUSED. */
void cbm_tokenizer_get_keys(const cbm_tokenizer *tokenizer, cbm_tokenizer_keys *keys);

/* Hands over the words of text[0 … length), UTF-8, as they are when WordPiece cuts them into pieces. A status other than
 * SCBM_OK ends it and comes back. */
scbm_status cbm_wordpiece_words(const cbm_wordpiece_options *options, const char *text, size_t length,
                                scbm_status (*handle)(void *user, const char *word, size_t length), void *user,
                                const scbm_hooks *hooks);

#endif
