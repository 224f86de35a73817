/*
 * models/backbones/backbone.h - pretrained text encoders as graphs on the runtime
 *
 * A backbone is read from a model file by the rows of its architecture (architecture.h): which keys and tensors there
 * must be, of which shapes, and a function that builds the graph.
 */
#ifndef CBM_BACKBONE_H
#define CBM_BACKBONE_H

#include "sparsecbm.h"

/* What a parameter is for. A bias's role is the one after its weight's. */
typedef enum cbm_role {
    CBM_TOKEN_EMBEDDING,
    CBM_POSITION_EMBEDDING,
    CBM_TYPE_EMBEDDING,
    CBM_EMBEDDING_NORM,
    CBM_EMBEDDING_NORM_BIAS,
    CBM_QUERY,
    CBM_QUERY_BIAS,
    CBM_KEY,
    CBM_KEY_BIAS,
    CBM_VALUE,
    CBM_VALUE_BIAS,
    CBM_ATTENTION_OUTPUT,
    CBM_ATTENTION_OUTPUT_BIAS,
    CBM_ATTENTION_NORM,
    CBM_ATTENTION_NORM_BIAS,
    CBM_FEED_GATE,
    CBM_FEED_GATE_BIAS,
    CBM_FEED_UP,
    CBM_FEED_UP_BIAS,
    CBM_FEED_DOWN,
    CBM_FEED_DOWN_BIAS,
    CBM_FEED_NORM,
    CBM_FEED_NORM_BIAS,
    CBM_FINAL_NORM,
    CBM_FINAL_NORM_BIAS,
    CBM_EMBEDDING_PROJECTION,
    CBM_EMBEDDING_PROJECTION_BIAS,
    CBM_OUTPUT_PROJECTION,
    CBM_OUTPUT_PROJECTION_BIAS,
    CBM_DISTANCE_BIAS, /* what attention adds to scores, by buckets of distances */
    CBM_LSTM_INPUT,    /* of tokens to gates, from the first token to the last */
    CBM_LSTM_INPUT_BIAS,
    CBM_LSTM_STATE, /* of the state before to gates */
    CBM_LSTM_REVERSE_INPUT,
    CBM_LSTM_REVERSE_INPUT_BIAS,
    CBM_LSTM_REVERSE_STATE,
    CBM_ROLE_COUNT
} cbm_role;

/* What is true of a parameter; bits. */
enum {
    CBM_IN_BLOCK = 1,     /* there is one in each block */
    CBM_IS_MATRIX = 2,    /* weight decay applies */
    CBM_PRUNABLE = 4,     /* a linear layer inside a block: masks may cover it */
    CBM_QUANTIZED = 8,    /* takes the type that `quantize` asks for */
    CBM_OPTIONAL = 16,    /* may be missing in a model file: tensor is NULL then */
    CBM_HF_OPTIONAL = 32, /* may be missing in a Hugging Face folder, too */
    CBM_NOT_F16 = 64      /* its products may be beyond what f16 holds: F32 where F16 is asked for */
};

typedef struct cbm_parameter {
    scbm_tensor *tensor;
    scbm_tensor *masks; /* I8 [S, out, scbm_mask_row_bytes(in)], or NULL: all ones */
    cbm_role role;
    int block; /* -1: outside the blocks */
    unsigned flags;
} cbm_parameter;

typedef struct cbm_architecture cbm_architecture;

typedef struct cbm_backbone {
    const cbm_architecture *architecture;
    int n_blocks, n_heads;
    int64_t hidden, feed_forward, vocabulary;
    int64_t embedding_width; /* of a word's embedding: the hidden size, where nothing else is said */
    int64_t output;          /* of a token's last hidden state: the hidden size, where nothing else is said */
    int64_t head_size;       /* hidden / n_heads, where nothing else is said */
    int64_t context, types;  /* positions from the first on, see cbm_longest_text; token types */
    int max_tokens;          /* the longest text that it reads */
    int first_position;      /* of a text's first token */
    int padding; /* the token that takes the last position and counts for none; -1: there is no such token */
    int n_buckets, max_distance; /* of the biases of distances */
    int causal;                  /* a token attends to those before it alone */
    int pre_norm;        /* norms before attention and feed-forward layer, where an architecture has both ways */
    int gated;           /* the feed-forward layer, where an architecture has both ways */
    int unscaled;        /* scores of attention are not divided by √(head size) */
    int scales_by_block; /* but by the block's number, from 1, too */
    float epsilon;       /* of norms */
    scbm_activation activation;
    float hidden_dropout, attention_dropout; /* in training */
    int pooling;                             /* 1 mean, 2 first token, 3 last token, 4 attention */
    int normalize;                           /* embeddings are scaled to length 1 by default */
    cbm_parameter *parameters;               /* those outside the blocks, then block by block */
    int n_parameters;
    int owns_tensors; /* a copy: the tensors and their data are its own */
} cbm_backbone;

/* Reads keys and finds tensors, which stay the file's. Every shape is checked against the keys. *backbone is zeroed
 * first and cleared on error. */
scbm_status cbm_backbone_read(cbm_backbone *backbone, scbm_file *file, const scbm_hooks *hooks);
/* A copy whose tensors are F32 and its own, for training. Masks are not copied. */
scbm_status cbm_backbone_copy(cbm_backbone *copy, const cbm_backbone *backbone, const scbm_hooks *hooks);
void cbm_backbone_clear(cbm_backbone *backbone, const scbm_hooks *hooks);

/* How many tokens there are positions for. */
int64_t cbm_longest_text(const cbm_backbone *backbone);
/* The bucket of a distance: of key j and query i, j - i. As T5 has it (Raffel et al., 2020): half of the buckets for either
 * sign, each near distance in one of its own, far ones in logarithmic steps up to max_distance. */
int32_t cbm_distance_bucket(const cbm_backbone *backbone, int64_t distance);

/* NULL where the architecture or the file has none. */
cbm_parameter *cbm_backbone_find(const cbm_backbone *backbone, cbm_role role, int block);
/* The parameter that this tensor of a file is, or NULL. */
const cbm_parameter *cbm_backbone_named(const cbm_backbone *backbone, const char *name);

typedef struct cbm_encode_options {
    float hidden_dropout, attention_dropout; /* 0 for inference */
    int use_masks;                           /* 0: the shared encoder, whatever the masks */
    scbm_tensor **states;                    /* [n_blocks + 1]: filled with the embeddings and each block's output,
                                                which are kept as outputs; NULL: not wanted */
    scbm_tensor *embeddings; /* F32 [S, tokens, embedding_width]: stands for the tokens' word embeddings,
                                                stream by stream, and there is no input of ids; NULL: they are looked up */
    scbm_tensor **attention; /* filled with the last block's attention, F32 [S, heads, tokens, capacity of
                                                tokens], an output: how much a token attends to the j-th of its text;
                                                NULL where an architecture has no attention */
} cbm_encode_options;

/* The inputs of an encoder's graph and what it computes. */
typedef struct cbm_encoding {
    scbm_tensor *ids;       /* I32 [tokens]; NULL where the embeddings are given */
    scbm_tensor *positions; /* I32 [tokens]; NULL where the encoder has no position embeddings */
    scbm_tensor *type;      /* I32 [1]; NULL where the encoder has no token types */
    scbm_tensor *buckets;   /* I32 [2 · longest text - 1], of distances; NULL where no biases depend on them */
    scbm_tensor *offsets;   /* I32 [capacity of texts + 1] */
    scbm_tensor *hidden;    /* [S, tokens, output]: S is 1 without masks */
    scbm_tensor
        *summary; /* [S, tokens, output]: at a text's last token what its tokens are compared with where they are
                               summed up by attention, else zeros; NULL where an encoder is not pooled so */
} cbm_encoding;

/* Adds the encoder to a graph whose capacity is set. Errors stay in the graph. */
void cbm_backbone_encode(const cbm_backbone *backbone, scbm_graph *graph, int64_t capacity_texts,
                         const cbm_encode_options *options, cbm_encoding *encoding);

#endif
