/*
 * convert/hf-unigram.h - Unigram tokenizers while their files are read
 */
#ifndef CONVERT_HF_UNIGRAM_H
#define CONVERT_HF_UNIGRAM_H

#include "convert/hf-tokenizer.h"

scbm_status cbm_hf_unigram_start(hf_tokenizer *tokenizer);
scbm_status cbm_hf_unigram_add(hf_tokenizer *tokenizer, const char *path, int64_t id, const char *piece, size_t length,
                               double score);
/* Takes a copy; none where n is 0. */
scbm_status cbm_hf_unigram_set_map(hf_tokenizer *tokenizer, const char *path, const uint8_t *bytes, size_t n);

/* SentencePiece's own model (hf-sentencepiece.c): nothing where the folder has none. */
scbm_status cbm_hf_sentencepiece_read(hf_tokenizer *tokenizer, const char *folder);
/* The same from memory. Before it the class of tokenizer_config.json, or where that is "" the model_type of config.json,
 * says which numbers the pieces have. */
scbm_status cbm_hf_tokenizer_set_layout(hf_tokenizer *tokenizer, const char *class, const char *type);
scbm_status cbm_hf_tokenizer_parse_sentencepiece(hf_tokenizer *tokenizer, const void *data, size_t size,
                                                 const char *name);

#endif
