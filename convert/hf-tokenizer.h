/*
 * convert/hf-tokenizer.h - a Hugging Face folder's WordPiece tokenizer, as the keys of a model file
 */
#ifndef CONVERT_HF_TOKENIZER_H
#define CONVERT_HF_TOKENIZER_H

#include "sparsecbm.h"

typedef enum hf_special { HF_UNKNOWN, HF_CLS, HF_SEP, HF_PADDING, HF_MASK, HF_SPECIAL_COUNT } hf_special;

/* How sure a special token's name is: a later one replaces an earlier one. */
typedef enum hf_rank { HF_BY_DEFAULT, HF_BY_MAP, HF_BY_CONFIG, HF_BY_TOKENIZER } hf_rank;

typedef struct hf_token {
    char *text; /* as Hugging Face writes it ("##ing"); NULL: there is none of this id */
    int kind;   /* as tokenizer.ggml.token_type has it */
} hf_token;

typedef struct hf_tokenizer {
    hf_token *tokens; /* one for each row of the embeddings */
    int64_t n_rows, n_tokens;
    char *special[HF_SPECIAL_COUNT];
    hf_rank special_rank[HF_SPECIAL_COUNT];
    int64_t special_id[HF_SPECIAL_COUNT]; /* -1: none, by hf_tokenizer_finish */
    int64_t noted_id[HF_SPECIAL_COUNT];   /* what tokenizer.json's post-processor says; -1: nothing */
    int lowercase, cjk_spacing, clean_text;
    int strip_accents;  /* -1: as lowercase */
    int64_t max_word;   /* longer words, in characters, are unknown */
    int64_t max_tokens; /* of a text; 0: not said */
    int has_json;       /* there is a tokenizer.json */
    scbm_hooks hooks;
} hf_tokenizer;

/* Reads tokenizer.json, or where there is none vocab.txt, and the files beside it. `n_rows` is how many tokens the
 * encoder's embeddings have room for. On error *tokenizer is cleared. */
scbm_status hf_tokenizer_read(hf_tokenizer *tokenizer, const char *folder, int64_t n_rows, const scbm_hooks *hooks);
void hf_tokenizer_clear(hf_tokenizer *tokenizer);
/* Sets the tokenizer's keys; n_types is how many token types there are. */
scbm_status hf_tokenizer_write(const hf_tokenizer *tokenizer, int64_t n_types, scbm_writer *writer);

/* The steps of hf_tokenizer_read, from memory; `name` stands for the path in messages. */
scbm_status hf_tokenizer_init(hf_tokenizer *tokenizer, int64_t n_rows, const scbm_hooks *hooks);
scbm_status hf_tokenizer_parse_json(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status hf_tokenizer_parse_vocab(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status hf_tokenizer_parse_map(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status hf_tokenizer_parse_config(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
/* Finds the special tokens' ids. `name` is the folder. */
scbm_status hf_tokenizer_finish(hf_tokenizer *tokenizer, const char *name);

#endif
