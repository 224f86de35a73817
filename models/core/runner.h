/*
 * models/core/runner.h - a network over many texts, in packed batches
 */
#ifndef CBM_RUNNER_H
#define CBM_RUNNER_H

#include "models/core/network.h"
#include "models/core/sequences.h"

/* What a graph of a runner computes: the heads' logits, or the shared encoder's vectors, pooled in one way (cbm_pooling has
 * the same numbers). */
typedef enum cbm_forward {
    CBM_FORWARD_LOGITS = 0,
    CBM_FORWARD_MEAN = CBM_POOL_MEAN,
    CBM_FORWARD_FIRST = CBM_POOL_FIRST,
    CBM_FORWARD_LAST = CBM_POOL_LAST,
    CBM_FORWARD_ATTENTION = CBM_POOL_ATTENTION,
    CBM_FORWARD_KINDS
} cbm_forward;

#define CBM_MAX_BUCKETS 32

typedef struct cbm_forward_graph {
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *result; /* [texts, C or Y]; [1, texts, d] for the poolings */
    int64_t max_tokens, max_texts;
} cbm_forward_graph;

/* The tokens that a graph is made for when it must hold so many: 64, doubled as often as it takes. */
static inline int64_t cbm_graph_capacity(int64_t tokens) {
    int64_t capacity = 64;
    while (capacity < tokens) capacity *= 2;
    return capacity;
}

/* Graphs of one network by capacity, made when first needed. */
typedef struct cbm_runner {
    const cbm_network *network;
    scbm_context *context;
    scbm_precision precision;
    int64_t max_batch_tokens;
    /* Packs the network's masks for many tokens when it has read so many in batches of many, and for few likewise; 0: never. */
    int64_t packs_from, tokens_read[2];
    const scbm_file *file;        /* whose tensors are read, and which is looked at before each batch; NULL: none */
    const scbm_hooks *packs_with; /* whose memory the packed form is: the model's */
    cbm_forward_graph graphs[CBM_FORWARD_KINDS][CBM_MAX_BUCKETS];
    int32_t *order; /* the texts by length */
    size_t order_capacity;
} cbm_runner;

/* `context` is the caller's and outlives the runner; batches have at most max_batch_tokens tokens, or one text. */
void cbm_runner_init(cbm_runner *runner, const cbm_network *network, scbm_context *context, scbm_precision precision,
                     int64_t max_batch_tokens);
void cbm_runner_clear(cbm_runner *runner);
/* Adds to *bytes what the graphs take that a run over these sequences would make, without taking it. Bit i of *buckets: the
 * graph of capacity i is counted already. */
scbm_status cbm_runner_measure(cbm_runner *runner, cbm_forward what, const cbm_sequences *sequences, uint32_t *buckets,
                               size_t *bytes);
/* Computes every text: results [n, C or Y], or [n, d], in the texts' order. Progress is told to `hooks` as `what`
 * between batches. */
scbm_status cbm_runner_run(cbm_runner *runner, cbm_forward what, const cbm_sequences *sequences, float *results,
                           const scbm_hooks *hooks, const char *progress);

#endif
