/*
 * models/core/network.c - heads, token sequences, and running a network over many texts
 */
#include "models/core/cbm-internal.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Heads
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_heads_create(cbm_heads *heads, cbm_mode mode, int n_concepts, int n_classes, int n_labels,
                             const scbm_hooks *hooks) {
    memset(heads, 0, sizeof *heads);
    heads->mode = mode;
    heads->n_concepts = n_concepts;
    heads->n_classes = n_classes;
    heads->n_labels = n_labels;
    heads->groups = scbm_alloc_array(hooks, (size_t)n_concepts + 1, sizeof *heads->groups);
    heads->concept_name = scbm_alloc_array(hooks, (size_t)n_concepts, sizeof *heads->concept_name);
    heads->class_name = scbm_alloc_array(hooks, (size_t)n_classes, sizeof *heads->class_name);
    heads->label_name = scbm_alloc_array(hooks, (size_t)n_labels, sizeof *heads->label_name);
    if (heads->groups && heads->concept_name && heads->class_name && heads->label_name) return SCBM_OK;
    cbm_heads_clear(heads, hooks);
    return SCBM_ERROR_MEMORY;
}

scbm_status cbm_heads_finish(cbm_heads *heads) {
    const int64_t n_bounds = heads->n_concepts + 1, two = 2;
    heads->max_classes = 0;
    for (int k = 0; k < heads->n_concepts; k++) {
        int n = heads->groups[k + 1] - heads->groups[k];
        if (n > heads->max_classes) heads->max_classes = n;
    }
    heads->label_groups[1] = heads->n_labels;
    scbm_status status = scbm_tensor_init(&heads->group_tensor, "groups", SCBM_I32, 1, &n_bounds);
    if (!status) status = scbm_tensor_init(&heads->label_group_tensor, "label groups", SCBM_I32, 1, &two);
    heads->group_tensor.data = heads->groups;
    heads->label_group_tensor.data = heads->label_groups;
    return status;
}

void cbm_heads_clear(cbm_heads *heads, const scbm_hooks *hooks) {
    scbm_release(hooks, heads->groups);
    scbm_release(hooks, (void *)heads->concept_name);
    scbm_release(hooks, (void *)heads->class_name);
    scbm_release(hooks, (void *)heads->label_name);
    memset(heads, 0, sizeof *heads);
}

static scbm_status read_mode(const scbm_file *file, cbm_mode *mode) {
    const char *name;
    *mode = CBM_ENCODER;
    if (scbm_file_find_key(file, CBM_KEY_MODE) < 0) return SCBM_OK;
    scbm_status status = scbm_file_get_string(file, CBM_KEY_MODE, &name);
    if (status) return status;
    int64_t version = scbm_file_int_or(file, CBM_KEY_VERSION, 0);
    if (version != CBM_FILE_VERSION)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: %s is %lld; this library reads version %d", scbm_file_path(file),
                         CBM_KEY_VERSION, (long long)version, CBM_FILE_VERSION);
    for (cbm_mode m = CBM_VANILLA; m <= CBM_JOINT; m++)
        if (strcmp(name, cbm_mode_name(m)) == 0) *mode = m;
    if (*mode == CBM_ENCODER)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is '%s', which is no mode", scbm_file_path(file), CBM_KEY_MODE, name);
    return SCBM_OK;
}

/* The length of an array of strings or integers; at most a million, so that sums stay small. */
static scbm_status read_length(const scbm_file *file, const char *key, scbm_value_type type, int *n) {
    int64_t index = scbm_file_find_key(file, key);
    if (index < 0) return scbm_fail(SCBM_ERROR_FORMAT, "%s: the key %s is missing", scbm_file_path(file), key);
    int64_t length = scbm_file_array_length(file, index);
    int is_string = scbm_file_array_type(file, index) == SCBM_VALUE_STRING;
    if (scbm_file_key_type(file, index) != SCBM_VALUE_ARRAY || is_string != (type == SCBM_VALUE_STRING) || length < 1 ||
        length > 1000000)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s must be an array of %s", scbm_file_path(file), key,
                         type == SCBM_VALUE_STRING ? "strings" : "integers");
    *n = (int)length;
    return SCBM_OK;
}

static scbm_status read_strings(const scbm_file *file, const char *key, int n, const char **strings) {
    int64_t index = scbm_file_find_key(file, key);
    scbm_status status = SCBM_OK;
    for (int i = 0; i < n && !status; i++) status = scbm_file_string_at(file, index, i, &strings[i]);
    return status;
}

/* groups[0] = 0 < groups[1] < … < groups[K] = C */
static scbm_status read_groups(const scbm_file *file, cbm_heads *heads) {
    int64_t index = scbm_file_find_key(file, CBM_KEY_GROUPS);
    for (int k = 0; k <= heads->n_concepts; k++) {
        int64_t bound;
        scbm_status status = scbm_file_int_at(file, index, k, &bound);
        if (status) return status;
        int fits = k == 0 ? bound == 0 : bound > heads->groups[k - 1] && bound <= heads->n_classes;
        if (k == heads->n_concepts) fits = fits && bound == heads->n_classes;
        if (!fits)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s[%d] is %lld, which does not fit %d concepts with %d classes",
                             scbm_file_path(file), CBM_KEY_GROUPS, k, (long long)bound, heads->n_concepts,
                             heads->n_classes);
        heads->groups[k] = (int32_t)bound;
    }
    return SCBM_OK;
}

static scbm_status read_names(const scbm_file *file, cbm_mode mode, cbm_heads *heads, const scbm_hooks *hooks) {
    int n_concepts = 0, n_classes = 0, n_labels = 0, n_bounds = 1;
    scbm_status status = read_length(file, CBM_KEY_LABELS, SCBM_VALUE_STRING, &n_labels);
    if (mode != CBM_VANILLA) {
        if (!status) status = read_length(file, CBM_KEY_CONCEPTS, SCBM_VALUE_STRING, &n_concepts);
        if (!status) status = read_length(file, CBM_KEY_CLASSES, SCBM_VALUE_STRING, &n_classes);
        if (!status) status = read_length(file, CBM_KEY_GROUPS, SCBM_VALUE_I32, &n_bounds);
    }
    if (status) return status;
    if (n_bounds != n_concepts + 1)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s has %d entries for %d concepts", scbm_file_path(file),
                         CBM_KEY_GROUPS, n_bounds, n_concepts);
    status = cbm_heads_create(heads, mode, n_concepts, n_classes, n_labels, hooks);
    if (!status) status = read_strings(file, CBM_KEY_LABELS, n_labels, heads->label_name);
    if (mode != CBM_VANILLA) {
        if (!status) status = read_strings(file, CBM_KEY_CONCEPTS, n_concepts, heads->concept_name);
        if (!status) status = read_strings(file, CBM_KEY_CLASSES, n_classes, heads->class_name);
        if (!status) status = read_groups(file, heads);
    }
    return status ? status : cbm_heads_finish(heads);
}

scbm_status cbm_find_tensor(scbm_file *file, const char *name, scbm_type type, int64_t rows, int64_t columns,
                            scbm_tensor **found) {
    char shape[96];
    scbm_tensor *tensor = scbm_file_find_tensor(file, name);
    if (!tensor) return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is missing", scbm_file_path(file), name);
    int n_dims = columns ? 2 : 1;
    if (tensor->type != type || tensor->n_dims != n_dims || tensor->shape[0] != rows ||
        (columns && tensor->shape[1] != columns)) {
        scbm_tensor wanted;
        char wanted_shape[96];
        const int64_t sizes[2] = {rows, columns};
        scbm_status status = scbm_tensor_init(&wanted, name, type, n_dims, sizes);
        if (status) return status;
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s %s, and must be %s %s", scbm_file_path(file), name,
                         scbm_type_of(tensor->type)->name, scbm_shape_text(tensor, shape, sizeof shape),
                         scbm_type_of(type)->name, scbm_shape_text(&wanted, wanted_shape, sizeof wanted_shape));
    }
    *found = tensor;
    return SCBM_OK;
}

scbm_status cbm_heads_read(cbm_heads *heads, scbm_file *file, int64_t hidden, const scbm_hooks *hooks) {
    cbm_mode mode;
    memset(heads, 0, sizeof *heads);
    scbm_status status = read_mode(file, &mode);
    if (status || mode == CBM_ENCODER) return status;
    status = read_names(file, mode, heads, hooks);
    int64_t n = heads->n_classes, inputs = mode == CBM_VANILLA ? hidden : n;
    if (mode != CBM_VANILLA) {
        if (!status) status = cbm_find_tensor(file, CBM_CONCEPT_WEIGHT, SCBM_F32, n, hidden, &heads->concept_weight);
        if (!status) status = cbm_find_tensor(file, CBM_CONCEPT_BIAS, SCBM_F32, n, 0, &heads->concept_bias);
    }
    if (!status) status = cbm_find_tensor(file, CBM_LABEL_WEIGHT, SCBM_F32, heads->n_labels, inputs, &heads->label_weight);
    if (!status) status = cbm_find_tensor(file, CBM_LABEL_BIAS, SCBM_F32, heads->n_labels, 0, &heads->label_bias);
    if (status) cbm_heads_clear(heads, hooks);
    return status;
}

int cbm_n_logits(const cbm_heads *heads) {
    return heads->mode == CBM_VANILLA ? heads->n_labels : heads->n_classes;
}

/* e^x for x ≤ 0: x = k ln 2 + r with |r| ≤ ln 2 / 2, and e^r by its Taylor series, whose rest is below 1e-16. Only
 * sums, products and a scaling by 2^k, so that every machine gets the same bits. */
static double exponential(double x) {
    if (!(x > -700.0)) return 0.0;
    double k = floor(x * 1.4426950408889634074 + 0.5);
    double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    double sum = 1.0;
    for (int i = 14; i > 0; i--) sum = 1.0 + sum * r / i;
    return ldexp(sum, (int)k);
}

void cbm_softmax(const float *logits, int n, float *probabilities) {
    double total = 0.0, largest = (double)logits[cbm_largest(logits, n)];
    for (int i = 0; i < n; i++) total += exponential((double)logits[i] - largest);
    for (int i = 0; i < n; i++) probabilities[i] = (float)(exponential((double)logits[i] - largest) / total);
}

int cbm_largest(const float *values, int n) {
    int largest = 0;
    for (int i = 1; i < n; i++)
        if (values[i] > values[largest]) largest = i;
    return largest;
}

void cbm_concept_values(const cbm_heads *heads, const float *logits, float *values) {
    if (heads->mode != CBM_INDEPENDENT) {
        memcpy(values, logits, (size_t)heads->n_classes * sizeof *values);
        return;
    }
    for (int k = 0; k < heads->n_concepts; k++) {
        int first = heads->groups[k];
        cbm_softmax(logits + first, heads->groups[k + 1] - first, values + first);
    }
}

void cbm_label_logits(const cbm_heads *heads, const float *values, float *logits) {
    const float *weight = heads->label_weight->data, *bias = heads->label_bias->data;
    for (int y = 0; y < heads->n_labels; y++) {
        const float *row = weight + (size_t)y * (size_t)heads->n_classes;
        double sum = (double)bias[y];
        for (int c = 0; c < heads->n_classes; c++) sum += (double)row[c] * (double)values[c];
        logits[y] = (float)sum;
    }
}

/* ------------------------------------------------------------------------------------------
 * Token sequences
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_sequences_add(cbm_sequences *s, const cbm_tokenizer *tokenizer, const char *text, size_t length,
                              int max_tokens, const scbm_hooks *hooks) {
    scbm_status status = cbm_tokenize(tokenizer, text, length, (size_t)max_tokens, &s->tokens);
    if (!status) status = scbm_grow(hooks, (void **)&s->first, &s->first_capacity, s->n + 2, sizeof *s->first);
    if (!status) status = scbm_grow(hooks, (void **)&s->truncated, &s->truncated_capacity, s->n + 1, 1);
    if (status) return status;
    size_t start = s->n ? s->first[s->n] : 0, end = start + s->tokens.n;
    status = scbm_grow(hooks, (void **)&s->ids, &s->ids_capacity, end, sizeof *s->ids);
    if (status) return status;
    if (s->tokens.n) memcpy(s->ids + start, s->tokens.ids, s->tokens.n * sizeof *s->ids);
    s->truncated[s->n] = s->tokens.truncated != 0;
    s->first[s->n++] = start;
    s->first[s->n] = end;
    return SCBM_OK;
}

scbm_status cbm_sequences_add_texts(cbm_sequences *s, const cbm_tokenizer *tokenizer, const char *const *texts,
                                    const size_t *lengths, size_t n, int max_tokens, const scbm_hooks *hooks) {
    if (n > INT32_MAX) return scbm_fail(SCBM_ERROR_ARGUMENT, "%zu texts in one call are too many", n);
    for (size_t i = 0; i < n; i++) {
        if (!texts[i]) return scbm_fail(SCBM_ERROR_ARGUMENT, "text %zu of %zu is NULL", i + 1, n);
        size_t length = lengths ? lengths[i] : strlen(texts[i]);
        scbm_status status = cbm_sequences_add(s, tokenizer, texts[i], length, max_tokens, hooks);
        if (status && status != SCBM_ERROR_MEMORY && n > 1)
            return scbm_fail(status, "text %zu of %zu: %s", i + 1, n, scbm_last_error());
        if (status) return status;
    }
    return SCBM_OK;
}

void cbm_sequences_reset(cbm_sequences *s) {
    s->n = 0;
}

void cbm_sequences_clear(cbm_sequences *s, const scbm_hooks *hooks) {
    scbm_release(hooks, s->ids);
    scbm_release(hooks, s->first);
    scbm_release(hooks, s->truncated);
    cbm_tokens_clear(&s->tokens, hooks);
    memset(s, 0, sizeof *s);
}

int64_t cbm_sequence_length(const cbm_sequences *s, size_t i) {
    return (int64_t)(s->first[i + 1] - s->first[i]);
}

int64_t cbm_fill_inputs(const cbm_backbone *backbone, const cbm_encoding *encoding, const cbm_sequences *sequences,
                        const int32_t *row, int64_t n) {
    int32_t *ids = encoding->ids ? encoding->ids->data : NULL, *positions = encoding->positions->data, *offsets = encoding->offsets->data;
    int64_t tokens = 0;
    if (encoding->type) *(int32_t *)encoding->type->data = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t length = cbm_sequence_length(sequences, (size_t)row[i]);
        const int32_t *source = sequences->ids + sequences->first[row[i]];
        offsets[i] = (int32_t)tokens;
        for (int64_t t = 0; t < length; t++) {
            if (ids) ids[tokens] = source[t];
            positions[tokens++] = (int32_t)t + backbone->first_position;
        }
    }
    offsets[n] = (int32_t)tokens;
    return tokens;
}

/* ------------------------------------------------------------------------------------------
 * Runners
 * ---------------------------------------------------------------------------------------- */

#define SMALLEST_BUCKET 64

void cbm_runner_init(cbm_runner *runner, const cbm_network *network, scbm_context *context, scbm_type precision,
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

static scbm_status build_graph(cbm_runner *runner, cbm_forward what, cbm_forward_graph *made) {
    const cbm_network *network = runner->network;
    const cbm_heads *heads = &network->heads;
    const cbm_encode_options options = {.use_masks = what == CBM_FORWARD_LOGITS};
    scbm_graph *g = made->graph;
    scbm_graph_set_precision(g, runner->precision);
    scbm_graph_set_capacity(g, made->max_tokens, made->max_texts);
    cbm_backbone_encode(&network->backbone, g, made->max_texts, &options, &made->encoding);
    scbm_tensor *hidden = made->encoding.hidden, *offsets = made->encoding.offsets;
    if (what == CBM_FORWARD_FIRST) made->result = scbm_segment_first(g, hidden, offsets);
    else made->result = scbm_segment_mean(g, hidden, offsets);
    if (what == CBM_FORWARD_LOGITS && heads->mode == CBM_VANILLA)
        made->result = scbm_group_linear(g, made->result, heads->label_weight, heads->label_bias,
                                         (scbm_tensor *)&heads->label_group_tensor);
    else if (what == CBM_FORWARD_LOGITS)
        made->result = scbm_group_linear(g, made->result, heads->concept_weight, heads->concept_bias,
                                         (scbm_tensor *)&heads->group_tensor);
    scbm_output(g, made->result);
    return scbm_graph_plan(g);
}

/* The smallest graph that holds the batch. */
static scbm_status find_graph(cbm_runner *runner, cbm_forward what, int64_t tokens, int64_t texts,
                              cbm_forward_graph **found) {
    int bucket = 0;
    while (bucket < CBM_MAX_BUCKETS - 1 &&
           (bucket_tokens(runner, bucket) < tokens || bucket_texts(bucket_tokens(runner, bucket)) < texts))
        bucket++;
    cbm_forward_graph *graph = *found = &runner->graphs[what][bucket];
    if (graph->graph) return SCBM_OK;
    graph->max_tokens = bucket_tokens(runner, bucket);
    graph->max_texts = bucket_texts(graph->max_tokens);
    scbm_status status = scbm_graph_create(&graph->graph, runner->context);
    if (!status) status = build_graph(runner, what, graph);
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

/* A batch of so many tokens is about to run. */
static void pack_masks(cbm_runner *runner, int64_t tokens) {
    const int few = tokens <= SCBM_FEW_TOKENS;
    if (!runner->packs_from) return;
    if (runner->tokens_read[few] < runner->packs_from) runner->tokens_read[few] += tokens;
    if (runner->tokens_read[few] < runner->packs_from) return;
    if (cbm_masks_pack(&runner->network->backbone, few, scbm_context_hooks(runner->context)))
        runner->packs_from = 0; /* there is no memory for it: it is not tried again */
}

scbm_status cbm_runner_run(cbm_runner *runner, cbm_forward what, const cbm_sequences *sequences, float *results,
                           const scbm_hooks *hooks, const char *progress) {
    scbm_status status = sort_by_length(runner, sequences);
    size_t width = what == CBM_FORWARD_LOGITS ? (size_t)cbm_n_logits(&runner->network->heads)
                                              : (size_t)runner->network->backbone.hidden;
    for (size_t done = 0; done < sequences->n && !status;) {
        cbm_forward_graph *graph;
        int64_t tokens, n = next_batch(runner, sequences, done, &tokens);
        const int32_t *row = runner->order + done;
        status = find_graph(runner, what, tokens, n, &graph);
        if (status) return status;
        pack_masks(runner, tokens);
        cbm_fill_inputs(&runner->network->backbone, &graph->encoding, sequences, row, n);
        status = scbm_graph_run(graph->graph, tokens, n);
        if (status) return status;
        for (int64_t i = 0; i < n; i++)
            memcpy(results + (size_t)row[i] * width, (const float *)graph->result->data + (size_t)i * width,
                   width * sizeof(float));
        done += (size_t)n;
        if (done < sequences->n && hooks && hooks->progress &&
            hooks->progress(hooks->user, progress, (int64_t)done, (int64_t)sequences->n))
            return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after %zu of %zu texts", done, sequences->n);
    }
    return status;
}
