/*
 * models/core/context.h - loaded models and their contexts from the inside
 */
#ifndef CBM_CONTEXT_H
#define CBM_CONTEXT_H

#include "models/core/masks.h"
#include "models/core/runner.h"

struct cbm_model {
    scbm_hooks hooks;
    int unpacked;                     /* masks are not packed */
    scbm_file *file;
    void *copy;                       /* its bytes, where they were read into memory; NULL: it is mapped */
    cbm_tokenizer *tokenizer;
    cbm_network network;
    scbm_tensor *concept_mean;        /* ū [C]; NULL in vanilla mode */
    scbm_tensor *gold_means;          /* [C, max R] */
    scbm_tensor *gold_counts;         /* I32 [C] */
};

/* Frees what a room keeps with a context. */
typedef void (*cbm_free_part)(cbm_context *ctx, void *state);

typedef struct cbm_context_part {
    void *state;
    cbm_free_part free;
} cbm_context_part;

#define CBM_CONTEXT_PARTS 8

/* A context; what interventions and explanations need is made when first asked for, and freed with it. */
struct cbm_context {
    const cbm_model *model;
    scbm_hooks hooks;               /* the caller's, or the model's, and `memory`: what everything of a context uses */
    scbm_hooks quiet;               /* the same without progress, for the runtime */
    size_t memory;                  /* bytes that are held through them */
    scbm_context *runtime;
    cbm_runner runner;
    int max_tokens;
    int64_t backward_tokens;        /* of a run with a backward pass, over all streams: it keeps everything of them */
    char error[512];
    int64_t error_text;             /* the number of the text that the last failure was about; -1: none */
    cbm_sequences sequences;
    uint64_t n_runs;                /* counts what was computed into `sequences` and `logits` */
    size_t n_computed;              /* texts whose logits stand there; 0 after a failure, or when embedding */
    float *logits;                  /* [texts, C or Y], as computed */
    float *numbers;                 /* what predictions point to */
    cbm_concept_result *concepts;   /* [texts, K] */
    cbm_prediction *predictions;    /* [texts] */
    const cbm_prediction **listed;  /* [texts]: pointers to them */
    size_t logits_capacity, numbers_capacity, concepts_capacity, predictions_capacity, listed_capacity;
    cbm_context_part part[CBM_CONTEXT_PARTS];
};

/* What another room keeps with a context, under the function that frees it. NULL: nothing yet. */
void *cbm_context_find_part(const cbm_context *ctx, cbm_free_part free);
/* Keeps `state` until the context is freed; NULL takes it away again. There is room for CBM_CONTEXT_PARTS of them. */
scbm_status cbm_context_set_part(cbm_context *ctx, cbm_free_part free, void *state);

/* An error unless all are zero; `what` names the struct. */
scbm_status cbm_check_reserved(const uint64_t reserved[8], const char *what);
/* Keeps the message of a failure for cbm_context_error; returns the status. */
scbm_status cbm_context_result(cbm_context *ctx, scbm_status status);
/* Tokens and logits [n, C or Y] of the texts, in the context. */
scbm_status cbm_compute_logits(cbm_context *ctx, const char *const *texts, const size_t *lengths, size_t n,
                               const char *progress);
/* The numbers of one text's prediction, and fills it from what the network computed (C concept logits, or Y in vanilla
 * mode). `values` (NULL: those of the logits) are the u that the label head reads; `numbers` and `concepts` are the
 * place that the prediction then points to. */
size_t cbm_prediction_numbers(const cbm_heads *heads);
void cbm_fill_prediction(const cbm_model *model, const float *computed, const float *values, float *numbers,
                         cbm_concept_result *concepts, cbm_prediction *prediction);

#endif
