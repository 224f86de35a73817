/*
 * models/backbones/architecture.h - what an architecture is: its parameters and its keys, one row each, and its graph
 *
 * The rows are the only list there is: the reader of model files, the converter of Hugging Face folders (both ways) and
 * whoever makes random encoders walk them. A further architecture is one file with rows, keys and a function that
 * builds the graph from the pieces in blocks.h, and one line in the table (backbone.c).
 */
#ifndef CBM_ARCHITECTURE_H
#define CBM_ARCHITECTURE_H

#include "models/backbones/backbone.h"

/* ------------------------------------------------------------------------------------------
 * Parameters
 * ---------------------------------------------------------------------------------------- */

/* A dimension of a parameter. */
typedef enum cbm_size {
    CBM_NO_SIZE,
    CBM_HIDDEN_SIZE,
    CBM_ATTENTION_SIZE, /* heads · head size */
    CBM_FEED_FORWARD_SIZE,
    CBM_EMBEDDING_SIZE, /* of a word's embedding, where it is not the hidden size */
    CBM_VOCABULARY_SIZE,
    CBM_POSITIONS_SIZE, /* the rows before the first position and one for each token of the longest text */
    CBM_TYPES_SIZE,
    CBM_OUTPUT_SIZE,
    CBM_HEADS_SIZE, /* one for each head */
    CBM_STATE_SIZE, /* of an LSTM in one direction: half of the hidden size */
    CBM_BUCKETS_SIZE
} cbm_size;

/* Whether a row is there, where an architecture has more than one form. */
typedef enum cbm_condition {
    CBM_ALWAYS,
    CBM_IF_PROJECTED, /* words' embeddings are not of the hidden size */
    CBM_IF_PRE_NORM,
    CBM_IF_GATED,
    CBM_IF_NOT_GATED
} cbm_condition;

typedef struct cbm_row {
    cbm_role role;
    const char *name; /* in a model file; in a block it stands behind "blk.<n>.", with an "enc." before that */
    const char
        *hf; /* in a Hugging Face folder, behind the architecture's prefix and, in a block, hf_block and "<n>." */
    cbm_size shape[2]; /* outermost first; [out, in] of a matrix, one dimension of a vector */
    unsigned flags;
    int times; /* the outermost dimension is so many times its size; 0: once */
    /* How the folder has it, where it is not as it is here. Several rows may name the same tensor there. */
    int is_transposed; /* [in, out] */
    int part, parts; /* of a fused tensor [parts · out, in] (then transposed, where it is) the rows of `part`, from 0 */
    const char *fused;  /* what plain encoders call the whole of the parts in model files, as llama.cpp does; NULL: they are apart */
    cbm_condition when; /* two rows of one role have conditions of which one holds */
} cbm_row;

/* ------------------------------------------------------------------------------------------
 * Keys
 * ---------------------------------------------------------------------------------------- */

typedef enum cbm_key_kind {
    CBM_KEY_COUNT,      /* int, from 1 on */
    CBM_KEY_SIZE,       /* int64_t, from 1 on */
    CBM_KEY_FRACTION,   /* float, at least 0 and below 1 */
    CBM_KEY_SWITCH,     /* int: 0 or 1 */
    CBM_KEY_ACTIVATION, /* scbm_activation, by its name; in config.json perhaps behind "gated-" */
    CBM_KEY_GATED,      /* int: whether config.json's name of the activation begins with "gated-" */
    CBM_KEY_TOKEN,      /* int: a token's number */
    CBM_KEY_POOLING     /* int, as cbm_backbone's */
} cbm_key_kind;

typedef struct cbm_key {
    const char *
        name; /* in a model file, behind "<architecture>." unless it begins with "sparsecbm."; NULL: the tensors tell */
    const char *hf; /* in config.json; NULL: it says nothing of it */
    cbm_key_kind kind;
    size_t field;     /* where cbm_backbone has it */
    double otherwise; /* where the key is missing; counts and sizes must be in a model file, and 0: in config.json, too.
                      -1 of a size: follows from others */
} cbm_key;

#define CBM_MAX_BLOCKS 4096
#define CBM_MAX_SIZE (1 << 24) /* of every count and size */

/* ------------------------------------------------------------------------------------------
 * Architectures
 * ---------------------------------------------------------------------------------------- */

/* A key of config.json that must have this value where it is there; "true" and "false" stand for truth values. */
typedef struct cbm_demand {
    const char *key, *value;
} cbm_demand;

struct cbm_architecture {
    const char *name;  /* general.architecture, and the first part of its keys */
    const char *title; /* what people call it */
    const char
        *family;  /* sparsecbm.family, where several have one name; NULL: the one that files without that key are */
    int rms_norm; /* norms divide by the root of the mean square, and have no bias */
    int is_recurrent; /* blocks are LSTMs in both directions, tokens are whole words, and a text can be summed up by attention */
    const cbm_key *keys;
    int n_keys;
    const cbm_row *rows; /* those outside the blocks come first */
    int n_rows;
    int first_position; /* of a text's first token: rows of the position embeddings before it are not used */
    void (*encode)(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding);
    /* In a Hugging Face folder. Lists end with NULL. */
    int hf_counts_padding; /* its count of positions has the rows before the padding's, that row, and then the others */
    const char *hf_type;   /* config.json's model_type; NULL: transformers has no such encoder */
    const char *hf_examples;        /* checkpoints that people use; NULL: there are none, it is trained from scratch */
    const char *hf_class;           /* its class, which tells the type of old checkpoints without model_type */
    const char *const *hf_prefixes; /* that may stand before all names; the first is tried first */
    const char *hf_block;           /* "encoder.layer." */
    const char *const *hf_unused;   /* tensors that an encoder does without; one that ends with a dot is a beginning */
    const char *const *hf_unused_in_block; /* the same behind hf_block and the block's number; NULL: none */
    const cbm_demand *hf_demands;          /* ends with a NULL key; NULL: none */
};

/* The architectures, in the table's order; NULL behind the last one. */
const cbm_architecture *cbm_architecture_at(int index);
/* cbm_backbone_read for a given architecture, whatever the file calls its own. */
scbm_status cbm_backbone_read_as(cbm_backbone *backbone, const cbm_architecture *architecture, scbm_file *file,
                                 const scbm_hooks *hooks);
/* Row `place` of all of a backbone's parameters: those outside the blocks (*block is -1), then block by block. */
const cbm_row *cbm_row_at(const cbm_backbone *backbone, int place, int *block);
int cbm_n_places(const cbm_backbone *backbone);
/* The name in a model file. */
void cbm_row_name(const cbm_row *row, int block, char name[SCBM_MAX_NAME]);
/* The shape that the backbone's sizes give; 0 stands for one that is not known. Returns the number of dimensions. */
int cbm_row_shape(const cbm_backbone *backbone, const cbm_row *row, int64_t shape[2]);
/* Whether the settings have this row. */
int cbm_row_is_there(const cbm_backbone *backbone, const cbm_row *row);

/* ------------------------------------------------------------------------------------------
 * Settings: what the keys say. A backbone of which only they are known has no parameters.
 * ---------------------------------------------------------------------------------------- */

/* Every setting to its default, 0 where there is none. */
void cbm_settings_default(cbm_backbone *backbone, const cbm_architecture *architecture);
scbm_status cbm_settings_read(cbm_backbone *backbone, const scbm_file *file);
/* Derives what no key says and checks that sizes fit each other; `where` begins the message. */
scbm_status cbm_settings_settle(cbm_backbone *backbone, const char *where);
/* The architecture's keys, and sparsecbm.family; general.architecture is whoever writes the file's. */
void cbm_settings_write(const cbm_backbone *backbone, scbm_writer *writer);

/* A key's value, whatever its kind. */
double cbm_key_get(const cbm_backbone *backbone, const cbm_key *key);
void cbm_key_set(cbm_backbone *backbone, const cbm_key *key, double value);

/* Activations by name: as model files have it, and as config.json has it; -1: not known. */
int cbm_activation_parse(const char *name);
const char *cbm_activation_name(scbm_activation activation);
const char *cbm_activation_hf_name(scbm_activation activation);
/* All of config.json's names, for a message; returns `text`. */
const char *cbm_activation_hf_names(char *text, size_t size);

#endif
