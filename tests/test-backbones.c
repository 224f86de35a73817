/*
 * tests/test-backbones.c - what rows and shared blocks can say: an architecture unlike BERT, made of them here, is
 * converted, read and computed as a plain loop over its weights has it
 *
 * Norms before attention and feed-forward layer and a last one, causal attention, heads of another size than their share
 * of the hidden size, word embeddings of another width with a projection, positions that begin at row 2, no token types,
 * fused Q, K and V stored [in, out], a gate fused with the matrix beside it, a bias that may be missing.
 */
#include "convert/export-weights.h"
#include "convert/hf-weights.h"
#include "convert/safetensors.h"
#include "models/backbones/architecture.h"
#include "models/backbones/blocks.h"
#include "models/core/sequences.h"
#include "tests/helpers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 2, HEADS = 2, HEAD = 4, A = HEADS * HEAD, D = 12, E = 6, F = 20, WORDS = 9, CONTEXT = 8, BEFORE = 2 };
#define EPSILON 1e-5f

/* ------------------------------------------------------------------------------------------
 * The architecture
 * ---------------------------------------------------------------------------------------- */

#define MATRIX (CBM_IN_BLOCK | CBM_IS_MATRIX | CBM_PRUNABLE | CBM_QUANTIZED)
#define NORM(role, name, hf, more)                                                                                     \
    {role, name ".weight", hf ".weight", {CBM_HIDDEN_SIZE}, .flags = more}, {                                          \
        role##_BIAS, name ".bias", hf ".bias", {CBM_HIDDEN_SIZE}, .flags = more                                        \
    }
#define FUSED(role, name, i)                                                                                           \
    {role,                                                                                                             \
     name ".weight",                                                                                                   \
     "attn.c_attn.weight",                                                                                             \
     {CBM_ATTENTION_SIZE, CBM_HIDDEN_SIZE},                                                                            \
     .flags = MATRIX,                                                                                                  \
     .is_transposed = 1,                                                                                               \
     .part = i,                                                                                                        \
     .parts = 3},                                                                                                      \
    {                                                                                                                  \
        role##_BIAS, name ".bias", "attn.c_attn.bias", {CBM_ATTENTION_SIZE}, .flags = CBM_IN_BLOCK, .part = i,         \
                                                                             .parts = 3                                \
    }

/* The row of positions is the last one outside the blocks, so that an architecture without them has all the others. */
static const cbm_row rows[] = {
    {CBM_POSITION_EMBEDDING,
     "position_embd.weight",
     "wpe.weight",
     {CBM_POSITIONS_SIZE, CBM_HIDDEN_SIZE},
     .flags = CBM_IS_MATRIX},
    {CBM_TOKEN_EMBEDDING,
     "token_embd.weight",
     "wte.weight",
     {CBM_VOCABULARY_SIZE, CBM_EMBEDDING_SIZE},
     .flags = CBM_IS_MATRIX},
    {CBM_EMBEDDING_PROJECTION,
     "embd_proj.weight",
     "project_in.weight",
     {CBM_HIDDEN_SIZE, CBM_EMBEDDING_SIZE},
     .flags = CBM_IS_MATRIX},
    NORM(CBM_FINAL_NORM, "output_norm", "ln_f", 0),
    NORM(CBM_ATTENTION_NORM, "attn_norm", "ln_1", CBM_IN_BLOCK),
    FUSED(CBM_QUERY, "attn_q", 0),
    FUSED(CBM_KEY, "attn_k", 1),
    FUSED(CBM_VALUE, "attn_v", 2),
    {CBM_ATTENTION_OUTPUT,
     "attn_output.weight",
     "attn.c_proj.weight",
     {CBM_HIDDEN_SIZE, CBM_ATTENTION_SIZE},
     .flags = MATRIX,
     .is_transposed = 1},
    NORM(CBM_FEED_NORM, "ffn_norm", "ln_2", CBM_IN_BLOCK),
    {CBM_FEED_GATE,
     "ffn_gate.weight",
     "mlp.gate_up.weight",
     {CBM_FEED_FORWARD_SIZE, CBM_HIDDEN_SIZE},
     .flags = MATRIX,
     .part = 0,
     .parts = 2},
    {CBM_FEED_UP,
     "ffn_up.weight",
     "mlp.gate_up.weight",
     {CBM_FEED_FORWARD_SIZE, CBM_HIDDEN_SIZE},
     .flags = MATRIX,
     .part = 1,
     .parts = 2},
    {CBM_FEED_DOWN, "ffn_down.weight", "mlp.down.weight", {CBM_HIDDEN_SIZE, CBM_FEED_FORWARD_SIZE}, .flags = MATRIX},
    {CBM_FEED_DOWN_BIAS,
     "ffn_down.bias",
     "mlp.down.bias",
     {CBM_HIDDEN_SIZE},
     .flags = CBM_IN_BLOCK | CBM_OPTIONAL | CBM_HF_OPTIONAL},
};
enum { ROWS = sizeof rows / sizeof rows[0] };

#define KEY(name, hf, kind, field, otherwise)                                                                          \
    { name, hf, kind, offsetof(cbm_backbone, field), otherwise }
static const cbm_key keys[] = {
    KEY(NULL, "vocab_size", CBM_KEY_SIZE, vocabulary, 0),
    KEY("context_length", "n_positions", CBM_KEY_SIZE, context, 0),
    KEY("embedding_length", "n_embd", CBM_KEY_SIZE, hidden, 0),
    KEY("sparsecbm.embedding_width", "word_embed_proj_dim", CBM_KEY_SIZE, embedding_width, 0),
    KEY("feed_forward_length", "n_inner", CBM_KEY_SIZE, feed_forward, 0),
    KEY("block_count", "n_layer", CBM_KEY_COUNT, n_blocks, 0),
    KEY("attention.head_count", "n_head", CBM_KEY_COUNT, n_heads, 0),
    KEY("attention.key_length", "d_kv", CBM_KEY_SIZE, head_size, 0),
    KEY("attention.layer_norm_epsilon", "layer_norm_epsilon", CBM_KEY_FRACTION, epsilon, 1e-5),
    KEY("attention.causal", NULL, CBM_KEY_SWITCH, causal, 1),
    KEY("sparsecbm.activation", "activation_function", CBM_KEY_ACTIVATION, activation, SCBM_GELU_TANH),
};

static void encode(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding) {
    const cbm_builder b = {backbone, graph, options, encoding};
    const cbm_block_form form = {.pre_norm = 1};
    scbm_tensor *x = cbm_linear(&b, CBM_EMBEDDING_PROJECTION, -1, cbm_word_embeddings(&b), SCBM_NONE);
    cbm_encode_blocks(&b, &form, cbm_add_embeddings(&b, x));
}

static const char *const prefixes[] = {"decoder.transformer.", "transformer.", NULL};
static const char *const unused[] = {"lm_head.", NULL};
static const char *const unused_in_block[] = {"attn.bias", "attn.masked.", NULL};

#define ARCHITECTURE(first_row)                                                                                        \
    {                                                                                                                  \
        .name = "other", .title = "other", .keys = keys, .n_keys = sizeof keys / sizeof keys[0],                       \
        .rows = rows + (first_row), .n_rows = ROWS - (first_row), .first_position = BEFORE, .encode = encode,          \
        .hf_type = "other", .hf_class = "Other", .hf_prefixes = prefixes, .hf_block = "h.", .hf_unused = unused,       \
        .hf_unused_in_block = unused_in_block                                                                          \
    }
static const cbm_architecture other = ARCHITECTURE(0), without_positions = ARCHITECTURE(1);

static void set_sizes(cbm_backbone *settings, const cbm_architecture *architecture) {
    cbm_settings_default(settings, architecture);
    settings->vocabulary = WORDS;
    settings->context = settings->max_tokens = CONTEXT;
    settings->hidden = D;
    settings->embedding_width = E;
    settings->feed_forward = F;
    settings->n_blocks = BLOCKS;
    settings->n_heads = HEADS;
    settings->head_size = HEAD;
    assert_ok(cbm_settings_settle(settings, "settings"));
}

/* ------------------------------------------------------------------------------------------
 * The folder's tensors
 * ---------------------------------------------------------------------------------------- */

typedef struct source {
    safetensors_entry entry;
    float *data;
} source;

enum { MOST_SOURCES = 40 };
static source sources[MOST_SOURCES];
static int n_sources;

static float value_at(int which, int64_t i) {
    return (float)sin((double)(17 * which) + 0.7 * (double)i) * 0.4f;
}

static void add_source(int block, const char *name, int64_t outer, int64_t inner) {
    source *s = &sources[n_sources];
    s->entry.n_dims = inner ? 2 : 1;
    s->entry.shape[0] = outer;
    s->entry.shape[1] = inner;
    if (block < 0) snprintf(s->entry.name, sizeof s->entry.name, "transformer.%s", name);
    else snprintf(s->entry.name, sizeof s->entry.name, "transformer.h.%d.%s", block, name);
    int64_t n = outer * (inner ? inner : 1);
    s->data = calloc((size_t)n, sizeof *s->data);
    assert_non_null(s->data);
    int is_norm = strstr(name, "ln_") && strstr(name, "weight");
    for (int64_t i = 0; i < n; i++) s->data[i] = value_at(n_sources, i) + (is_norm ? 1.0f : 0.0f);
    n_sources++;
}

static void make_sources(int with_bias) {
    n_sources = 0;
    add_source(-1, "wpe.weight", BEFORE + CONTEXT, D);
    add_source(-1, "wte.weight", WORDS, E);
    add_source(-1, "project_in.weight", D, E);
    add_source(-1, "ln_f.weight", D, 0);
    add_source(-1, "ln_f.bias", D, 0);
    add_source(-1, "lm_head.weight", 3, 3); /* not part of an encoder */
    for (int block = 0; block < BLOCKS; block++) {
        add_source(block, "ln_1.weight", D, 0);
        add_source(block, "ln_1.bias", D, 0);
        add_source(block, "attn.c_attn.weight", D, 3 * A);
        add_source(block, "attn.c_attn.bias", 3 * A, 0);
        add_source(block, "attn.bias", 2, 2); /* a buffer */
        add_source(block, "attn.c_proj.weight", A, D);
        add_source(block, "ln_2.weight", D, 0);
        add_source(block, "ln_2.bias", D, 0);
        add_source(block, "mlp.gate_up.weight", 2 * F, D);
        add_source(block, "mlp.down.weight", D, F);
        if (with_bias) add_source(block, "mlp.down.bias", D, 0);
    }
}

static const float *find(int block, const char *name) {
    char full[128];
    if (block < 0) snprintf(full, sizeof full, "transformer.%s", name);
    else snprintf(full, sizeof full, "transformer.h.%d.%s", block, name);
    for (int i = 0; i < n_sources; i++)
        if (strcmp(sources[i].entry.name, full) == 0) return sources[i].data;
    return NULL;
}

static scbm_status give(void *user, int i, float *data) {
    (void)user;
    int64_t n = sources[i].entry.shape[0] * (sources[i].entry.n_dims == 2 ? sources[i].entry.shape[1] : 1);
    memcpy(data, sources[i].data, (size_t)n * sizeof *data);
    return SCBM_OK;
}

static void write_sources(void) {
    safetensors_entry entries[MOST_SOURCES];
    for (int i = 0; i < n_sources; i++) entries[i] = sources[i].entry;
    assert_ok(cbm_safetensors_write(in_folder("model.safetensors"), entries, n_sources, give, NULL, NULL));
}

static void free_sources(void) {
    for (int i = 0; i < n_sources; i++) free(sources[i].data);
}

/* The folder's weights as a model file, opened. */
static scbm_file *convert_sources(const cbm_architecture *architecture, int n_unused) {
    cbm_backbone settings;
    hf_weights weights;
    scbm_writer *writer;
    scbm_file *file;
    set_sizes(&settings, architecture);
    write_sources();
    assert_ok(cbm_hf_weights_open(&weights, &settings, folder, NULL));
    assert_ok(cbm_hf_weights_check(&weights, SCBM_F32));
    assert_int_equal(weights.n_unused, n_unused);
    assert_ok(scbm_writer_create(&writer, NULL));
    cbm_settings_write(&settings, writer);
    cbm_hf_weights_add(&weights, SCBM_F32, writer);
    assert_ok(scbm_writer_write(writer, in_folder("other.gguf")));
    scbm_writer_free(writer);
    cbm_hf_weights_clear(&weights);
    assert_ok(scbm_file_open(&file, in_folder("other.gguf"), NULL));
    return file;
}

/* ------------------------------------------------------------------------------------------
 * A plain loop over them
 * ---------------------------------------------------------------------------------------- */

/* y[o] = Σ_i w(o, i) x[i] + b[o]; `step` is how far two inputs of one output are apart in w, `next` two outputs. */
static void multiply(const float *w, int step, int next, const float *b, int in, int out, const double *x, double *y) {
    for (int o = 0; o < out; o++) {
        y[o] = b ? b[o] : 0;
        for (int i = 0; i < in; i++) y[o] += (double)w[o * next + i * step] * x[i];
    }
}

static void normalize(const double *x, const float *weight, const float *bias, double *y) {
    double mean = 0, variance = 0;
    for (int i = 0; i < D; i++) mean += x[i] / D;
    for (int i = 0; i < D; i++) variance += (x[i] - mean) * (x[i] - mean) / D;
    for (int i = 0; i < D; i++) y[i] = (x[i] - mean) / sqrt(variance + EPSILON) * weight[i] + bias[i];
}

static double gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* Token t attends to tokens 0 … t; `probability` gets head h's weights. */
static void attend(double (*qkv)[3 * A], int t, double *y, double (*probability)[CONTEXT]) {
    for (int h = 0; h < HEADS; h++) {
        double sum = 0;
        for (int j = 0; j <= t; j++) {
            double score = 0;
            for (int i = 0; i < HEAD; i++) score += qkv[t][h * HEAD + i] * qkv[j][A + h * HEAD + i];
            sum += probability[h][j] = exp(score / sqrt(HEAD));
        }
        for (int j = 0; j <= t; j++) probability[h][j] /= sum;
        for (int i = 0; i < HEAD; i++) {
            y[h * HEAD + i] = 0;
            for (int j = 0; j <= t; j++) y[h * HEAD + i] += probability[h][j] * qkv[j][2 * A + h * HEAD + i];
        }
    }
}

static void compute_block(int block, int n, double (*x)[D], double (*probability)[HEADS][CONTEXT]) {
    double qkv[CONTEXT][3 * A], y[D], mixed[A], both[2 * F];
    for (int t = 0; t < n; t++) {
        normalize(x[t], find(block, "ln_1.weight"), find(block, "ln_1.bias"), y);
        multiply(find(block, "attn.c_attn.weight"), 3 * A, 1, find(block, "attn.c_attn.bias"), D, 3 * A, y, qkv[t]);
    }
    for (int t = 0; t < n; t++) {
        attend(qkv, t, mixed, probability[t]);
        multiply(find(block, "attn.c_proj.weight"), D, 1, NULL, A, D, mixed, y);
        for (int i = 0; i < D; i++) x[t][i] += y[i];
        normalize(x[t], find(block, "ln_2.weight"), find(block, "ln_2.bias"), y);
        multiply(find(block, "mlp.gate_up.weight"), 1, D, NULL, D, 2 * F, y, both);
        for (int i = 0; i < F; i++) both[i] = gelu(both[i]) * both[F + i];
        multiply(find(block, "mlp.down.weight"), 1, F, find(block, "mlp.down.bias"), F, D, both, y);
        for (int i = 0; i < D; i++) x[t][i] += y[i];
    }
}

/* One text's last hidden states, and the last block's attention. */
static void compute(const int32_t *ids, int n, int has_positions, double (*x)[D],
                    double (*probability)[HEADS][CONTEXT]) {
    for (int t = 0; t < n; t++) {
        double word[E];
        for (int i = 0; i < E; i++) word[i] = find(-1, "wte.weight")[ids[t] * E + i];
        multiply(find(-1, "project_in.weight"), 1, E, NULL, E, D, word, x[t]);
        for (int i = 0; i < D && has_positions; i++) x[t][i] += find(-1, "wpe.weight")[(BEFORE + t) * D + i];
    }
    for (int block = 0; block < BLOCKS; block++) compute_block(block, n, x, probability);
    for (int t = 0; t < n; t++) {
        double y[D];
        normalize(x[t], find(-1, "ln_f.weight"), find(-1, "ln_f.bias"), y);
        memcpy(x[t], y, sizeof y);
    }
}

/* ------------------------------------------------------------------------------------------
 * The same as a graph
 * ---------------------------------------------------------------------------------------- */

static int32_t ids[] = {3, 1, 4, 1, 5, 2, 6, 0, 8, 7}; /* texts of 6, 1 and 3 tokens */
static size_t first[] = {0, 6, 7, 10};
enum { TEXTS = 3, TOKENS = 10, CAPACITY = 12 };

typedef struct computation {
    scbm_context *context;
    scbm_graph *graph;
    cbm_encoding encoding;
    scbm_tensor *attention, *states[BLOCKS + 1];
} computation;

static void run_graph(computation *c, const cbm_backbone *backbone) {
    const scbm_hooks hooks = {.n_workers = 1};
    const cbm_encode_options options = {.states = c->states, .attention = &c->attention};
    const cbm_sequences sequences = {.ids = ids, .first = first, .n = TEXTS};
    const int32_t row[TEXTS] = {0, 1, 2};
    assert_ok(scbm_context_create(&c->context, &hooks, NULL));
    assert_ok(scbm_graph_create(&c->graph, c->context));
    scbm_graph_set_capacity(c->graph, CAPACITY, TEXTS);
    cbm_backbone_encode(backbone, c->graph, TEXTS, &options, &c->encoding);
    assert_ok(scbm_graph_plan(c->graph));
    assert_int_equal(cbm_fill_inputs(backbone, &c->encoding, &sequences, row, TEXTS), TOKENS);
    assert_ok(scbm_graph_run(c->graph, TOKENS, TEXTS));
}

static void check_graph(const computation *c, int has_positions) {
    const float *hidden = c->encoding.hidden->data, *attention = c->attention->data;
    assert_ptr_equal(c->encoding.hidden, c->states[BLOCKS]);
    assert_int_equal(c->attention->shape[3], CAPACITY);
    for (int text = 0; text < TEXTS; text++) {
        double x[CONTEXT][D], probability[CONTEXT][HEADS][CONTEXT];
        int start = (int)first[text], n = (int)first[text + 1] - start;
        compute(ids + start, n, has_positions, x, probability);
        for (int t = 0; t < n; t++)
            for (int i = 0; i < D; i++) assert_near(hidden[(start + t) * D + i], x[t][i], 2e-5);
        for (int h = 0; h < HEADS; h++)
            for (int t = 0; t < n; t++)
                for (int j = 0; j < CAPACITY; j++)
                    assert_near(attention[(h * TOKENS + start + t) * CAPACITY + j], j <= t ? probability[t][h][j] : 0,
                                1e-5);
    }
}

static void run_and_check(const cbm_architecture *architecture, int with_bias) {
    cbm_backbone backbone;
    computation c = {0};
    make_sources(with_bias);
    if (architecture == &without_positions) memcpy(sources[0].entry.name, "lm_head.x", 10); /* nobody asks for it */
    scbm_file *file = convert_sources(architecture, architecture == &other ? 1 + BLOCKS : 2 + BLOCKS);
    assert_ok(cbm_backbone_read_as(&backbone, architecture, file, NULL));
    assert_int_equal(backbone.embedding_width, E);
    assert_int_equal(backbone.head_size, HEAD);
    assert_int_equal(backbone.vocabulary, WORDS);
    assert_int_equal(backbone.types, 0);
    assert_true(backbone.causal);
    assert_true(!cbm_backbone_find(&backbone, CBM_FEED_DOWN_BIAS, 0) == !with_bias);
    run_graph(&c, &backbone);
    assert_null(c.encoding.type);
    assert_true(!c.encoding.positions == (architecture == &without_positions));
    check_graph(&c, architecture == &other);
    scbm_graph_free(c.graph);
    scbm_context_free(c.context);
    cbm_backbone_clear(&backbone, NULL);
    scbm_file_close(file);
    free_sources();
}

static void an_architecture_unlike_bert(void **state) {
    (void)state;
    run_and_check(&other, 0);
    run_and_check(&other, 1); /* with the bias that may be missing */
}

static void an_architecture_without_positions(void **state) {
    (void)state;
    run_and_check(&without_positions, 0);
}

/* ------------------------------------------------------------------------------------------
 * The way back
 * ---------------------------------------------------------------------------------------- */

/* What an encoder does without is not there again. */
static int is_left_out(const char *name) {
    return strstr(name, "lm_head") != NULL || strstr(name, ".attn.bias") != NULL;
}

static void check_exported(const safetensors *file) {
    int n = 0;
    for (int i = 0; i < n_sources; i++) {
        const safetensors_entry *entry = &sources[i].entry;
        const stored_tensor *tensor = cbm_safetensors_find(file, entry->name + strlen("transformer."));
        assert_true((tensor == NULL) == is_left_out(entry->name));
        if (!tensor) continue;
        n++;
        assert_int_equal(tensor->n_dims, entry->n_dims);
        assert_memory_equal(tensor->shape, entry->shape, (size_t)entry->n_dims * sizeof *entry->shape);
        assert_memory_equal(tensor->data, sources[i].data, tensor->bytes);
    }
    assert_int_equal(cbm_safetensors_n_tensors(file), n);
}

static void weights_go_back_as_they_came(void **state) {
    (void)state;
    for (int with_bias = 0; with_bias < 2; with_bias++) {
        cbm_backbone backbone, settings;
        safetensors *exported;
        make_sources(with_bias);
        scbm_file *file = convert_sources(&other, 1 + BLOCKS);
        assert_ok(cbm_backbone_read_as(&backbone, &other, file, NULL));
        set_sizes(&settings, &other);
        assert_ok(cbm_hf_export_weights(&backbone, &settings, -1, in_folder("exported"), NULL));
        assert_ok(cbm_safetensors_open(&exported, in_folder("exported"), NULL));
        check_exported(exported);
        cbm_safetensors_close(exported);
        cbm_backbone_clear(&backbone, NULL);
        scbm_file_close(file);
        free_sources();
    }
}

/* ------------------------------------------------------------------------------------------
 * What does not fit
 * ---------------------------------------------------------------------------------------- */

/* The folder's weights with one entry's name or shape changed. */
static void assert_refused(const char *name, const char *new_name, int64_t outer, int64_t inner, scbm_status status,
                           const char *words) {
    cbm_backbone settings;
    hf_weights weights;
    make_sources(0);
    for (int i = 0; i < n_sources; i++) {
        safetensors_entry *entry = &sources[i].entry;
        if (strcmp(entry->name, name) != 0) continue;
        if (new_name) snprintf(entry->name, sizeof entry->name, "%s", new_name);
        if (outer) entry->shape[0] = outer;
        if (inner) entry->shape[1] = inner;
    }
    write_sources();
    set_sizes(&settings, &other);
    assert_error(cbm_hf_weights_open(&weights, &settings, folder, NULL), status, words);
    assert_null(weights.weight);
    free_sources();
}

static void tensors_that_do_not_fit(void **state) {
    (void)state;
    const char *fused = "transformer.h.1.attn.c_attn.weight", *bias = "transformer.h.1.attn.c_attn.bias";
    assert_refused(fused, NULL, 3 * A, D, SCBM_ERROR_FORMAT, "is [24, 12], and config.json says [12, 24]");
    assert_refused(bias, NULL, A, 0, SCBM_ERROR_FORMAT, "is [8], and config.json says [24]");
    assert_refused("transformer.wpe.weight", NULL, CONTEXT, 0, SCBM_ERROR_FORMAT,
                   "is [8, 12], and config.json says [10, 12]");
    assert_refused("transformer.project_in.weight", NULL, E, D, SCBM_ERROR_FORMAT,
                   "is [6, 12], and config.json says [12, 6]");
    assert_refused(bias, "transformer.h.2.attn.c_attn.bias", 0, 0, SCBM_ERROR_UNSUPPORTED,
                   "beyond config.json's n_layer");
    assert_refused(bias, "transformer.h.1.attn.masked_bias", 0, 0, SCBM_ERROR_UNSUPPORTED,
                   "is not part of a other encoder");
    assert_refused(bias, "transformer.h.1.attn.masked.bias", 0, 0, SCBM_ERROR_FORMAT,
                   "tensor transformer.h.1.attn.c_attn.bias is missing");
    assert_refused(bias, "transformer.h.0.attn.c_attn.bias.", 0, 0, SCBM_ERROR_UNSUPPORTED, "is not part of");
    assert_refused(bias, "decoder.transformer.h.0.attn.c_attn.bias", 0, 0, SCBM_ERROR_UNSUPPORTED, "a second time");
}

static void files_that_do_not_fit(void **state) {
    (void)state;
    cbm_backbone backbone;
    make_sources(0);
    scbm_file *file = convert_sources(&other, 1 + BLOCKS);
    assert_ok(cbm_backbone_read_as(&backbone, &other, file, NULL));
    cbm_backbone_clear(&backbone, NULL);
    assert_error(cbm_backbone_read_as(&backbone, cbm_architecture_at(0), file, NULL), SCBM_ERROR_FORMAT,
                 "bert.context_length");
    assert_error(cbm_backbone_read(&backbone, file, NULL), SCBM_ERROR_FORMAT, "general.architecture");
    scbm_file_close(file);
    free_sources();
}

/* ------------------------------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------------------------- */

static void a_row_may_have_several_times_a_size(void **state) {
    (void)state;
    const cbm_row row = {CBM_FEED_UP, "cell.weight", "cell", {CBM_FEED_FORWARD_SIZE, CBM_EMBEDDING_SIZE}, .times = 4};
    cbm_backbone settings;
    int64_t shape[2];
    set_sizes(&settings, &other);
    assert_int_equal(cbm_row_shape(&settings, &row, shape), 2);
    assert_int_equal(shape[0], 4 * F);
    assert_int_equal(shape[1], E);
}

static void places_are_rows_block_by_block(void **state) {
    (void)state;
    cbm_backbone settings;
    char name[SCBM_MAX_NAME];
    int block;
    set_sizes(&settings, &other);
    assert_int_equal(cbm_n_places(&settings), 5 + BLOCKS * (ROWS - 5));
    for (int i = 0; i < cbm_n_places(&settings); i++) {
        const cbm_row *row = cbm_row_at(&settings, i, &block);
        assert_ptr_equal(row, &rows[i < 5 ? i : 5 + (i - 5) % (ROWS - 5)]);
        assert_int_equal(block, i < 5 ? -1 : (i - 5) / (ROWS - 5));
    }
    cbm_row_name(&rows[0], -1, name);
    assert_string_equal(name, "position_embd.weight");
    cbm_row_name(&rows[5], 11, name);
    assert_string_equal(name, "blk.11.attn_norm.weight");
}

static void check_row(const cbm_architecture *architecture, int i) {
    const cbm_row *row = &architecture->rows[i];
    int is_bias = strstr(row->name, ".bias") != NULL;
    assert_true(i == 0 || (row->flags & CBM_IN_BLOCK) >= (architecture->rows[i - 1].flags & CBM_IN_BLOCK));
    assert_true(row->part >= 0 && (row->parts ? row->part < row->parts : row->part == 0));
    assert_true(row->shape[0] != CBM_NO_SIZE && !(row->flags & CBM_IS_MATRIX) == (row->shape[1] == CBM_NO_SIZE));
    assert_true(!row->is_transposed || row->shape[1] != CBM_NO_SIZE);
    assert_true(!(row->flags & CBM_PRUNABLE) || row->flags & CBM_IN_BLOCK);
    for (int j = 0; j < i; j++) {
        const cbm_row *before = &architecture->rows[j];
        int is_other_form = before->when && row->when && before->when != row->when; /* one of them is there */
        assert_true(before->role != row->role || is_other_form);
        assert_true(strcmp(before->name, row->name) != 0 || is_other_form);
        assert_true(!row->hf || strcmp(before->hf, row->hf) != 0 || before->part != row->part);
        int is_weight = strncmp(before->name, row->name, strlen(row->name) - 4) == 0;
        if (is_bias && is_weight) assert_int_equal(row->role, before->role + 1);
    }
}

/* What everybody who walks the rows of an architecture relies on. */
static void the_table_is_in_order(void **state) {
    (void)state;
    const cbm_architecture *architecture;
    int n = 0;
    for (; (architecture = cbm_architecture_at(n)); n++) {
        for (int i = 0; i < architecture->n_rows; i++) check_row(architecture, i);
        for (int i = 0; i < architecture->n_keys; i++) {
            const cbm_key *key = &architecture->keys[i];
            assert_true(key->field < sizeof(cbm_backbone) && (key->name || key->hf || !architecture->hf_type));
            for (int j = 0; j < i; j++) assert_int_not_equal(key->field, architecture->keys[j].field);
        }
        if (architecture->hf_type)
            assert_true(architecture->hf_class && architecture->hf_prefixes && architecture->hf_block);
    }
    assert_true(n > 0);
    assert_null(cbm_architecture_at(n));
    assert_null(cbm_architecture_at(-1));
    for (int i = 0; i < ROWS; i++) check_row(&other, i);
}

static void activations_have_their_names(void **state) {
    (void)state;
    static const char *const known[] = {"gelu", "gelu_tanh", "relu", "tanh", "sigmoid"};
    char text[12];
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int activation = cbm_activation_parse(known[i]);
        assert_true(activation >= 0);
        assert_string_equal(cbm_activation_name((scbm_activation)activation), known[i]);
        assert_int_equal(cbm_activation_parse(cbm_activation_hf_name((scbm_activation)activation)), activation);
    }
    assert_int_equal(cbm_activation_parse("swish"), -1);
    assert_string_equal(cbm_activation_hf_names(text, sizeof text), "gelu, gelu_"); /* cut where there is no room */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_architecture_unlike_bert),    cmocka_unit_test(an_architecture_without_positions),
        cmocka_unit_test(weights_go_back_as_they_came),   cmocka_unit_test(tensors_that_do_not_fit),
        cmocka_unit_test(files_that_do_not_fit),          cmocka_unit_test(a_row_may_have_several_times_a_size),
        cmocka_unit_test(places_are_rows_block_by_block), cmocka_unit_test(the_table_is_in_order),
        cmocka_unit_test(activations_have_their_names),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
