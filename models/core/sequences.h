/*
 * models/core/sequences.h - texts as token ids, end to end
 */
#ifndef CBM_SEQUENCES_H
#define CBM_SEQUENCES_H

#include "models/backbones/backbone.h"
#include "models/tokenizers/tokenizer.h"

/* The token ids of many texts, end to end. */
typedef struct cbm_sequences {
    size_t n;
    int32_t *ids;
    size_t *first;            /* [n + 1]: text i's ids are first[i] … first[i + 1] − 1 */
    uint8_t *truncated;       /* [n] */
    cbm_tokens tokens;        /* of the text that was added last */
    size_t ids_capacity, first_capacity, truncated_capacity;
    int64_t failed;           /* of the last cbm_sequences_add_texts: the text that could not be added; -1: none */
    size_t n_asked;           /* how many were to be added then */
} cbm_sequences;

scbm_status cbm_sequences_add(cbm_sequences *sequences, const cbm_tokenizer *tokenizer, const char *text, size_t length,
                              int max_tokens, const scbm_hooks *hooks);
/* Adds `n` texts; an error says which of them. `lengths` NULL: NUL-terminated. */
scbm_status cbm_sequences_add_texts(cbm_sequences *sequences, const cbm_tokenizer *tokenizer, const char *const *texts,
                                    const size_t *lengths, size_t n, int max_tokens, const scbm_hooks *hooks);
void cbm_sequences_reset(cbm_sequences *sequences);    /* empties, keeps the memory */
void cbm_sequences_clear(cbm_sequences *sequences, const scbm_hooks *hooks);
/* The number of tokens of text i. */
int64_t cbm_sequence_length(const cbm_sequences *sequences, size_t i);

/* Writes texts row[0 … n) into an encoder's inputs; returns the number of tokens. They must fit. */
int64_t cbm_fill_inputs(const cbm_backbone *backbone, const cbm_encoding *encoding, const cbm_sequences *sequences,
                        const int32_t *row, int64_t n);

#endif
