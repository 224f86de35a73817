/*
 * models/core/runner.c - a network over many texts, in packed batches
 */
#include "models/core/masks.h"
#include "models/core/runner.h"

#include <string.h>

#define SMALLEST_BUCKET 64

void cbm_runner_init(cbm_runner *runner, const cbm_network *network, scbm_context *context, scbm_precision precision,
                     int64_t max_batch_tokens) {
    memset(runner, 0, sizeof *runner);
    runner->network = network;
    runner->context = context;
    runner->precision = precision;
    runner->max_batch_tokens = max_batch_tokens;
}

void cbm_runner_clear(cbm_runner *runner) {
    for (int what = 0; what < CBM_FORWARD_KINDS; what++)
        for (int i = 0; i < CBM_MAX_BUCKETS; i++) scbm_graph_free(runner->graphs[what][i].graph);
    if (runner->context) scbm_release(scbm_context_hooks(runner->context), runner->order);
    memset(runner, 0, sizeof *runner);
}

/* Capacities double from bucket to bucket up to the largest batch. */
static int64_t bucket_tokens(const cbm_runner *runner, int bucket) {
    int64_t largest = runner->max_batch_tokens, longest = runner->network->backbone.max_tokens;
    int64_t tokens = (int64_t)SMALLEST_BUCKET << bucket, most = largest > longest ? largest : longest;
    return tokens < most ? tokens : most;
}

/* Texts are seldom shorter than eight tokens; when they are, a batch has fewer tokens. */
static int64_t bucket_texts(int64_t tokens) {
    return tokens / 8 + 8;
}

/* The graph of a bucket, not planned yet; to be freed after a failure too. */
static scbm_status build_graph(const cbm_runner *runner, cbm_forward what, int bucket, cbm_forward_graph *made) {
    const cbm_network *network = runner->network;
    const cbm_encode_options options = {.use_masks = what == CBM_FORWARD_LOGITS};
    made->max_tokens = bucket_tokens(runner, bucket);
    made->max_texts = bucket_texts(made->max_tokens);
    scbm_status status = scbm_graph_create(&made->graph, runner->context);
    if (status) return status;
    scbm_graph *g = made->graph;
    scbm_graph_set_precision(g, runner->precision);
    scbm_graph_set_capacity(g, made->max_tokens, made->max_texts);
    cbm_backbone_encode(&network->backbone, g, made->max_texts, &options, &made->encoding);
    if (what == CBM_FORWARD_LOGITS)
        made->result = cbm_network_logits(g, network, cbm_network_pool(g, network, &made->encoding));
    else made->result = cbm_pool(g, &made->encoding, (cbm_pooling)what);
    scbm_graph_fetch(g, made->result);
    return SCBM_OK;
}

/* The smallest bucket that holds the batch. */
static int find_bucket(const cbm_runner *runner, int64_t tokens, int64_t texts) {
    int bucket = 0;
    while (bucket < CBM_MAX_BUCKETS - 1 &&
           (bucket_tokens(runner, bucket) < tokens || bucket_texts(bucket_tokens(runner, bucket)) < texts))
        bucket++;
    return bucket;
}

static scbm_status find_graph(cbm_runner *runner, cbm_forward what, int64_t tokens, int64_t texts,
                              cbm_forward_graph **found) {
    int bucket = find_bucket(runner, tokens, texts);
    cbm_forward_graph *graph = *found = &runner->graphs[what][bucket];
    if (graph->graph) return SCBM_OK;
    scbm_status status = build_graph(runner, what, bucket, graph);
    if (!status) status = scbm_graph_plan(graph->graph);
    if (status) {
        scbm_graph_free(graph->graph);
        memset(graph, 0, sizeof *graph);
    }
    return status;
}

/* The texts' numbers by length, short ones first, in their order where lengths are equal: a counting sort. */
static scbm_status sort_by_length(cbm_runner *runner, const cbm_sequences *sequences) {
    const scbm_hooks *hooks = scbm_context_hooks(runner->context);
    scbm_status status = scbm_grow(hooks, (void **)&runner->order, &runner->order_capacity, sequences->n,
                                   sizeof *runner->order);
    if (status) return status;
    size_t longest = 0;
    for (size_t i = 0; i < sequences->n; i++) {
        size_t length = (size_t)cbm_sequence_length(sequences, i);
        if (length > longest) longest = length;
    }
    int32_t *place = scbm_alloc_array(hooks, longest + 2, sizeof *place);
    if (!place) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < sequences->n; i++) place[cbm_sequence_length(sequences, i) + 1]++;
    for (size_t length = 1; length <= longest; length++) place[length] += place[length - 1];
    for (size_t i = 0; i < sequences->n; i++)
        runner->order[place[cbm_sequence_length(sequences, i)]++] = (int32_t)i;
    scbm_release(hooks, place);
    return SCBM_OK;
}

/* How many texts from `start` on make the next batch: at least one. */
static int64_t next_batch(const cbm_runner *runner, const cbm_sequences *sequences, size_t start, int64_t *tokens) {
    int64_t n = 0, most_texts = bucket_texts(runner->max_batch_tokens);
    *tokens = 0;
    for (size_t i = start; i < sequences->n && n < most_texts; i++, n++) {
        int64_t length = cbm_sequence_length(sequences, (size_t)runner->order[i]);
        if (n && *tokens + length > runner->max_batch_tokens) break;
        *tokens += length;
    }
    return n;
}

scbm_status cbm_runner_measure(cbm_runner *runner, cbm_forward what, const cbm_sequences *sequences, uint32_t *buckets,
                               size_t *bytes) {
    scbm_status status = sort_by_length(runner, sequences);
    for (size_t done = 0; done < sequences->n && !status;) {
        cbm_forward_graph graph = {0};
        size_t more = 0;
        int64_t tokens, n = next_batch(runner, sequences, done, &tokens);
        int bucket = find_bucket(runner, tokens, n);
        done += (size_t)n;
        if (*buckets >> bucket & 1) continue;
        *buckets |= UINT32_C(1) << bucket;
        status = build_graph(runner, what, bucket, &graph);
        if (!status) status = scbm_graph_measure(graph.graph, &more);
        scbm_graph_free(graph.graph);
        *bytes += more;
    }
    return status;
}

/* A batch of so many tokens is about to run. */
static void pack_masks(cbm_runner *runner, int64_t tokens) {
    const int few = tokens <= SCBM_FEW_TOKENS;
    if (!runner->packs_from || !scbm_context_is_host(runner->context)) return;
    if (runner->tokens_read[few] < runner->packs_from) runner->tokens_read[few] += tokens;
    if (runner->tokens_read[few] < runner->packs_from) return;
    if (cbm_masks_pack(&runner->network->backbone, few, runner->packs_with))
        runner->packs_from = 0; /* there is no memory for it: it is not tried again */
}

scbm_status cbm_runner_run(cbm_runner *runner, cbm_forward what, const cbm_sequences *sequences, float *results,
                           const scbm_hooks *hooks, const char *progress) {
    scbm_status status = sort_by_length(runner, sequences);
    size_t width = what == CBM_FORWARD_LOGITS ? (size_t)cbm_n_logits(&runner->network->heads)
                                              : (size_t)runner->network->backbone.output;
    for (size_t done = 0; done < sequences->n && !status;) {
        cbm_forward_graph *graph;
        int64_t tokens, n = next_batch(runner, sequences, done, &tokens);
        const int32_t *row = runner->order + done;
        if (runner->file) status = scbm_file_check(runner->file);
        if (!status) status = find_graph(runner, what, tokens, n, &graph);
        if (status) return status;
        pack_masks(runner, tokens);
        cbm_fill_inputs(&runner->network->backbone, &graph->encoding, sequences, row, n);
        status = scbm_graph_run(graph->graph, tokens, n);
        if (status) return status;
        for (int64_t i = 0; i < n; i++)
            memcpy(results + (size_t)row[i] * width, (const float *)graph->result->data + (size_t)i * width,
                   width * sizeof(float));
        done += (size_t)n;
        if (done < sequences->n) status = scbm_progress(hooks, progress, (int64_t)done, (int64_t)sequences->n);
    }
    return status;
}
