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
    int truncated; /* the text had more tokens than fitted */
    size_t ids_capacity, start_capacity, end_capacity;
} cbm_tokens;

scbm_status cbm_tokenizer_create(cbm_tokenizer **tokenizer, const scbm_file *file, const scbm_hooks *hooks);
void cbm_tokenizer_free(cbm_tokenizer *tokenizer);

/* Tokenizes text[0 … length), UTF-8, to at most max_tokens tokens, special ones included. Bad UTF-8 is
 * SCBM_ERROR_FORMAT with the byte's position. */
scbm_status cbm_tokenize(const cbm_tokenizer *tokenizer, const char *text, size_t length, size_t max_tokens,
                         cbm_tokens *tokens);
void cbm_tokens_clear(cbm_tokens *tokens, const scbm_hooks *hooks);

/* The piece as Hugging Face writes it ("##ing"); NULL for an id outside the vocabulary. */
const char *cbm_token_piece(const cbm_tokenizer *tokenizer, int32_t id);
int32_t cbm_tokenizer_size(const cbm_tokenizer *tokenizer);
int cbm_token_is_special(const cbm_tokenizer *tokenizer, int32_t id);
int cbm_token_continues_word(const cbm_tokenizer *tokenizer, int32_t id); /* "##ing": glued to the piece before it */
int32_t cbm_tokenizer_unknown(const cbm_tokenizer *tokenizer);            /* what stands for words it cannot write */
int32_t cbm_tokenizer_mask(const cbm_tokenizer *tokenizer);               /* the mask token, -1: none */
int32_t cbm_tokenizer_padding(const cbm_tokenizer *tokenizer);            /* -1: none */

#endif
