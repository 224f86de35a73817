/*
 * models/tokenizers/word-list.h - vocabularies that are made of texts: their characters and words for WordPiece, or whole words
 */
#ifndef CBM_WORD_LIST_H
#define CBM_WORD_LIST_H

#include "models/tokenizers/tokenizer.h"

typedef struct cbm_word_list {
    const char **piece; /* [n], as Hugging Face writes them: special tokens first, then characters, then words */
    int32_t n;
    char *text; /* of the pieces */
} cbm_word_list;

/* At most `most` pieces: [PAD], [UNK], [CLS], [SEP], [MASK]; every printable ASCII character and every character of the
 * texts, alone and inside a word, so that any text of them can be written; and of the words the most frequent ones, the
 * earlier first where two are as frequent. The characters alone must fit. `lengths` NULL: NUL-terminated. */
scbm_status cbm_word_list_create(cbm_word_list *list, const cbm_wordpiece_options *options, const char *const *texts,
                                 const size_t *lengths, size_t n, int32_t most, const scbm_hooks *hooks);
/* [PAD], [UNK], [MASK], and the words alone. */
scbm_status cbm_whole_words_create(cbm_word_list *list, const cbm_wordpiece_options *options, const char *const *texts,
                                   const size_t *lengths, size_t n, int32_t most, const scbm_hooks *hooks);
void cbm_word_list_clear(cbm_word_list *list, const scbm_hooks *hooks);

#endif
