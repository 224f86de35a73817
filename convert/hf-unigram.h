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

#endif
