/*
 * convert/hf-tokenizer.h - a Hugging Face folder's tokenizer, as the keys of a model file
 *
 * What all kinds share (added and special tokens, lengths) is in hf-tokenizer.c, what is put around a text in
 * hf-post-processor.c; a kind is a row of hf-tokenizer.c's table and a file: hf-wordpiece.c, hf-bpe.c, hf-unigram.c.
 */
#ifndef CONVERT_HF_TOKENIZER_H
#define CONVERT_HF_TOKENIZER_H

#include "convert/json-file.h"
#include "models/tokenizers/tokenizer.h"

/* How sure a special token's name is: a later one replaces an earlier one. */
typedef enum hf_rank { HF_BY_DEFAULT, HF_BY_MAP, HF_BY_CONFIG, HF_BY_TOKENIZER } hf_rank;

typedef struct hf_tokenizer {
    const struct hf_tokenizer_kind *kind; /* NULL until a vocabulary was read */
    char **piece;                         /* [n_rows] as Hugging Face writes them; NULL: there is none of this id */
    uint16_t *flags;                      /* [n_rows] CBM_PIECE_… */
    int64_t n_rows, n_tokens;             /* rows of the embeddings; pieces */
    char *special[CBM_SPECIAL_TOKENS];    /* NULL: none */
    hf_rank special_rank[CBM_SPECIAL_TOKENS];
    uint16_t special_flags[CBM_SPECIAL_TOKENS]; /* what files beside a vocabulary say of them */
    int64_t special_id[CBM_SPECIAL_TOKENS];     /* -1: none, by cbm_hf_tokenizer_finish */
    int64_t noted_id[CBM_SPECIAL_TOKENS];       /* what tokenizer.json's post-processor says; -1: nothing */
    int omits_first, omits_last;                /* nothing is put before a text, or behind it */
    int64_t max_tokens;                         /* of a text; 0: not said */
    int64_t truncation;                         /* what tokenizer.json truncates texts to; 0: it does not */
    int pads;                                   /* tokenizer.json pads texts */
    int has_json;                               /* there is a tokenizer.json */
    int says_case;                              /* a file says whether texts are lower-cased */
    int lowercase;                              /* texts are lower-cased */
    cbm_wordpiece_options wordpiece;
    int trims, trim_keeps_space; /* of byte ranges, see models/tokenizers/tokenizer.c */
    cbm_bpe_options bpe;
    char **merge; /* [bpe.n_merges] "a b" */
    size_t merge_capacity;
    cbm_unigram_options unigram; /* points to what follows */
    double *score;
    uint8_t *map;
    int64_t *map_values;
    const struct hf_layout *layout; /* of a SentencePiece model's numbers; NULL: there is none */
    int64_t extra_ids;              /* T5's */
    scbm_hooks hooks;
} hf_tokenizer;

typedef struct hf_tokenizer_kind {
    const char *type; /* of tokenizer.json's model: "WordPiece" */
    const char *name; /* in a model file: "bert" */
    int needs_ends;   /* a text has a first and a last token */
    /* Reads tokenizer.json's model, normalizer and pre_tokenizer. */
    scbm_status (*parse_json)(hf_tokenizer *tokenizer, const json_file *json, const cJSON *model);
    /* Reads what tokenizer_config.json says of the kind. */
    scbm_status (*parse_config)(hf_tokenizer *tokenizer, const json_file *json);
    void (*lowercase)(hf_tokenizer *tokenizer); /* texts are lower-cased and nothing else; NULL: it cannot */
    void (*set_keys)(const hf_tokenizer *tokenizer, cbm_tokenizer_keys *keys); /* the kind's own */
    /* The way back: tokenizer.json's model, which has its vocabulary, normalizer, pre_tokenizer and decoder. */
    void (*put_json)(const cbm_tokenizer_keys *keys, json_tree *json);
} hf_tokenizer_kind;

extern const hf_tokenizer_kind cbm_hf_wordpiece, cbm_hf_bpe, cbm_hf_unigram;

/* Reads tokenizer.json, or where there is none vocab.txt, or vocab.json and merges.txt, or SentencePiece's model, and the
 * files beside it. `n_rows` is how many tokens the encoder's embeddings have room for. On error *tokenizer is cleared. */
scbm_status cbm_hf_tokenizer_read(hf_tokenizer *tokenizer, const char *folder, int64_t n_rows, const scbm_hooks *hooks);
void cbm_hf_tokenizer_clear(hf_tokenizer *tokenizer);
/* Lower-cases texts where the tokenizer does not: sentence_bert_config.json's do_lower_case. */
scbm_status cbm_hf_tokenizer_lowercase(hf_tokenizer *tokenizer, const char *folder);
/* Sets the tokenizer's keys; n_types is how many token types there are. */
scbm_status cbm_hf_tokenizer_write(const hf_tokenizer *tokenizer, int64_t n_types, scbm_writer *writer);

/* Writes tokenizer.json, and tokenizer_config.json for texts of at most max_tokens tokens. */
scbm_status cbm_hf_tokenizer_export(const cbm_tokenizer_keys *keys, const char *path, const scbm_hooks *hooks);
scbm_status cbm_hf_tokenizer_export_config(const cbm_tokenizer_keys *keys, int64_t max_tokens, const char *path,
                                           const scbm_hooks *hooks);

/* The steps of cbm_hf_tokenizer_read, from memory; `name` stands for the path in messages. */
scbm_status cbm_hf_tokenizer_init(hf_tokenizer *tokenizer, int64_t n_rows, const scbm_hooks *hooks);
scbm_status cbm_hf_tokenizer_parse_json(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status cbm_hf_tokenizer_parse_vocab(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status cbm_hf_tokenizer_parse_map(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status cbm_hf_tokenizer_parse_config(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
/* added_tokens.json: tokens beside those of vocab.txt. */
scbm_status cbm_hf_tokenizer_parse_added(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
/* Finds the special tokens' ids. `name` is the folder. */
scbm_status cbm_hf_tokenizer_finish(hf_tokenizer *tokenizer, const char *name);

/* What the files say that is not used here is told to the log hook (hf-notes.c). */
void cbm_hf_note_case(const hf_tokenizer *tokenizer, const char *name);
void cbm_hf_note_config(const hf_tokenizer *tokenizer, const json_file *config);
void cbm_hf_note_length(const hf_tokenizer *tokenizer, int64_t max_tokens, const char *name);

/* vocab.json and merges.txt; config.json, whose model_type says what they are for. */
scbm_status cbm_hf_tokenizer_parse_vocab_json(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status cbm_hf_tokenizer_parse_merges(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);
scbm_status cbm_hf_tokenizer_parse_type(hf_tokenizer *tokenizer, const void *data, size_t size, const char *name);

/* For the kinds. */
/* Takes text[0 … length) as the token of `id`, which must be free. */
scbm_status cbm_hf_tokenizer_add(hf_tokenizer *tokenizer, const char *path, int64_t id, const char *text, size_t length,
                                 int flags);
/* Takes the keys of an object as tokens and its values as their ids; `key` stands before messages: "model.vocab: ". */
scbm_status cbm_hf_tokenizer_add_all(hf_tokenizer *tokenizer, const json_file *json, const cJSON *vocab,
                                     const char *key);
scbm_status cbm_hf_tokenizer_set_special(hf_tokenizer *tokenizer, cbm_special_token which, const char *text,
                                         hf_rank rank);
/* What special tokens are called where no file says it; NULL: nothing is said of this one. */
scbm_status cbm_hf_tokenizer_set_usual(hf_tokenizer *tokenizer, const char *const names[CBM_SPECIAL_TOKENS]);
/* The object of `key` in tokenizer.json, which must be there with the given type. */
scbm_status cbm_hf_get_part(const json_file *json, const char *key, const char *type, const cJSON **part);
/* Bytes that are no text in UTF-8, or are known as something else than what is wanted ("a vocabulary"), are an error. */
scbm_status cbm_hf_check_text(const void *data, size_t size, const char *name, const char *wanted);
scbm_status cbm_hf_refuse(const json_file *json, const char *what, const char *value, const char *known);
/* A switch of tokenizer_config.json, which holds before tokenizer.json, as in transformers. */
scbm_status cbm_hf_read_switch(const hf_tokenizer *tokenizer, const json_file *json, const char *key, int *value);

/* The way back. A part of tokenizer.json, an object with its type, under `key`, or with NULL in an array. */
cJSON *cbm_hf_put_part(json_tree *json, cJSON *into, const char *key, const char *type);
void cbm_hf_put_byte_level(json_tree *json, cJSON *into, const char *key, int add_prefix_space);
/* The model's "vocab", where that is an object. */
void cbm_hf_put_vocabulary(const cbm_tokenizer_keys *keys, json_tree *json, cJSON *model);

/* tokenizer.json's post_processor (hf-post-processor.c); the model was read before. */
scbm_status cbm_hf_read_post_processor(hf_tokenizer *tokenizer, const json_file *json);
void cbm_hf_put_post_processor(const cbm_tokenizer_keys *keys, json_tree *json);

#endif
