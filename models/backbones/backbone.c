/*
 * models/backbones/backbone.c - reading encoders from model files, and their graphs
 *
 * Tensors and keys are named as llama.cpp names them; what it does not know stands under `sparsecbm.`.
 */
#include "models/backbones/backbone.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Architectures
 * ---------------------------------------------------------------------------------------- */

/* A dimension of a parameter: a size that a key gives, or one that the tensor itself decides. */
typedef enum dimension { NO_DIMENSION, HIDDEN, FEED_FORWARD, VOCABULARY, POSITIONS, TYPES } dimension;

typedef struct parameter_row {
    cbm_role role;
    const char *name;     /* in the file; "blk.<block>." stands before those in a block */
    dimension shape[2];   /* outermost first */
    unsigned flags;
} parameter_row;

struct cbm_architecture {
    const char *name;     /* general.architecture, and the first part of its keys */
    const parameter_row *rows;
    int n_rows;
    int first_position;
    void (*encode)(const cbm_backbone *backbone, scbm_graph *graph, const cbm_encode_options *options,
                   cbm_encoding *encoding);
};

#define OUTER_MATRIX (CBM_IS_MATRIX)
#define BLOCK_MATRIX (CBM_IN_BLOCK | CBM_IS_MATRIX | CBM_PRUNABLE | CBM_QUANTIZED)
#define BLOCK_VECTOR (CBM_IN_BLOCK)

/* BERT (Devlin et al., 2019): LayerNorm after each sum. Positions and token types stay F32 when quantized, as llama.cpp
 * has them: they are small. */
static const parameter_row bert_rows[] = {
    {CBM_TOKEN_EMBEDDING, "token_embd.weight", {VOCABULARY, HIDDEN}, OUTER_MATRIX | CBM_QUANTIZED},
    {CBM_POSITION_EMBEDDING, "position_embd.weight", {POSITIONS, HIDDEN}, OUTER_MATRIX},
    {CBM_TYPE_EMBEDDING, "token_types.weight", {TYPES, HIDDEN}, OUTER_MATRIX | CBM_OPTIONAL},
    {CBM_EMBEDDING_NORM, "token_embd_norm.weight", {HIDDEN, NO_DIMENSION}, 0},
    {CBM_EMBEDDING_NORM_BIAS, "token_embd_norm.bias", {HIDDEN, NO_DIMENSION}, 0},
    {CBM_QUERY, "attn_q.weight", {HIDDEN, HIDDEN}, BLOCK_MATRIX},
    {CBM_QUERY_BIAS, "attn_q.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_KEY, "attn_k.weight", {HIDDEN, HIDDEN}, BLOCK_MATRIX},
    {CBM_KEY_BIAS, "attn_k.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_VALUE, "attn_v.weight", {HIDDEN, HIDDEN}, BLOCK_MATRIX},
    {CBM_VALUE_BIAS, "attn_v.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_ATTENTION_OUTPUT, "attn_output.weight", {HIDDEN, HIDDEN}, BLOCK_MATRIX},
    {CBM_ATTENTION_OUTPUT_BIAS, "attn_output.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_ATTENTION_NORM, "attn_output_norm.weight", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_ATTENTION_NORM_BIAS, "attn_output_norm.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_FEED_UP, "ffn_up.weight", {FEED_FORWARD, HIDDEN}, BLOCK_MATRIX},
    {CBM_FEED_UP_BIAS, "ffn_up.bias", {FEED_FORWARD, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_FEED_DOWN, "ffn_down.weight", {HIDDEN, FEED_FORWARD}, BLOCK_MATRIX},
    {CBM_FEED_DOWN_BIAS, "ffn_down.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_FEED_NORM, "layer_output_norm.weight", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
    {CBM_FEED_NORM_BIAS, "layer_output_norm.bias", {HIDDEN, NO_DIMENSION}, BLOCK_VECTOR},
};

static void encode_bert(const cbm_backbone *backbone, scbm_graph *g, const cbm_encode_options *options,
                        cbm_encoding *encoding);

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

static const cbm_architecture architectures[] = {
    {"bert", bert_rows, COUNT_OF(bert_rows), 0, encode_bert},
};

static scbm_status find_architecture(const scbm_file *file, const cbm_architecture **found) {
    const char *name;
    scbm_status status = scbm_file_get_string(file, "general.architecture", &name);
    if (status) return status;
    for (int i = 0; i < COUNT_OF(architectures); i++) {
        if (strcmp(architectures[i].name, name) == 0) {
            *found = &architectures[i];
            return SCBM_OK;
        }
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: its architecture is '%s'; this version knows bert",
                     scbm_file_path(file), name);
}

/* ------------------------------------------------------------------------------------------
 * Keys
 * ---------------------------------------------------------------------------------------- */

#define MAX_BLOCKS 4096
#define MAX_SIZE (1 << 24)

/* The value of "<architecture>.<name>", which must lie in [1, most]. */
static scbm_status read_size(const cbm_backbone *backbone, const scbm_file *file, const char *name, int64_t most,
                             int64_t *value) {
    char key[SCBM_MAX_NAME];
    snprintf(key, sizeof key, "%s.%s", backbone->architecture->name, name);
    scbm_status status = scbm_file_get_int(file, key, value);
    if (status) return status;
    if (*value < 1 || *value > most)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %lld, and must lie between 1 and %lld", scbm_file_path(file), key,
                         (long long)*value, (long long)most);
    return SCBM_OK;
}

/* The value of `key`, which must lie in [least, below). */
static scbm_status read_real(const scbm_file *file, const char *key, double otherwise, double least, double below,
                             float *value) {
    double number = scbm_file_float_or(file, key, otherwise);
    if (!(number >= least && number < below))
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %g, and must be at least %g and below %g", scbm_file_path(file),
                         key, number, least, below);
    *value = (float)number;
    return SCBM_OK;
}

static scbm_status read_activation(cbm_backbone *backbone, const scbm_file *file) {
    static const struct { const char *name; scbm_activation activation; } known[] = {
        {"gelu", SCBM_GELU_ERF},         {"gelu_erf", SCBM_GELU_ERF},          {"gelu_tanh", SCBM_GELU_TANH},
        {"gelu_new", SCBM_GELU_TANH},    {"gelu_pytorch_tanh", SCBM_GELU_TANH}, {"gelu_fast", SCBM_GELU_TANH},
        {"relu", SCBM_RELU},             {"tanh", SCBM_TANH},                  {"sigmoid", SCBM_SIGMOID},
    };
    const char *name = scbm_file_string_or(file, "sparsecbm.activation", "gelu");
    for (int i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i].name, name) == 0) {
            backbone->activation = known[i].activation;
            return SCBM_OK;
        }
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: sparsecbm.activation is '%s', which this version does not know",
                     scbm_file_path(file), name);
}

static scbm_status read_sizes(cbm_backbone *backbone, const scbm_file *file) {
    int64_t blocks = 0, heads = 0, context = 0;
    scbm_status status = read_size(backbone, file, "block_count", MAX_BLOCKS, &blocks);
    if (!status) status = read_size(backbone, file, "embedding_length", MAX_SIZE, &backbone->hidden);
    if (!status) status = read_size(backbone, file, "feed_forward_length", MAX_SIZE, &backbone->feed_forward);
    if (!status) status = read_size(backbone, file, "attention.head_count", MAX_SIZE, &heads);
    if (!status) status = read_size(backbone, file, "context_length", MAX_SIZE, &context);
    if (status) return status;
    if (backbone->hidden % heads)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: a hidden size of %lld cannot be cut into %lld attention heads",
                         scbm_file_path(file), (long long)backbone->hidden, (long long)heads);
    int64_t max_tokens = scbm_file_int_or(file, "sparsecbm.max_tokens", context);
    if (max_tokens < 1 || max_tokens > context)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: sparsecbm.max_tokens is %lld, and must lie between 1 and %lld",
                         scbm_file_path(file), (long long)max_tokens, (long long)context);
    backbone->n_blocks = (int)blocks;
    backbone->n_heads = (int)heads;
    backbone->max_tokens = (int)max_tokens;
    backbone->first_position = backbone->architecture->first_position;
    return SCBM_OK;
}

static scbm_status read_settings(cbm_backbone *backbone, const scbm_file *file) {
    char key[SCBM_MAX_NAME];
    snprintf(key, sizeof key, "%s.attention.layer_norm_epsilon", backbone->architecture->name);
    scbm_status status = read_real(file, key, 1e-12, 0.0, 1.0, &backbone->epsilon);
    if (!status) status = read_real(file, "sparsecbm.hidden_dropout", 0.1, 0.0, 1.0, &backbone->hidden_dropout);
    if (!status) status = read_real(file, "sparsecbm.attention_dropout", 0.1, 0.0, 1.0, &backbone->attention_dropout);
    if (!status) status = read_activation(backbone, file);
    if (status) return status;
    snprintf(key, sizeof key, "%s.pooling_type", backbone->architecture->name);
    int64_t pooling = scbm_file_int_or(file, key, 1);
    if (pooling < 0 || pooling > 2)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: %s is %lld; 1 (mean) and 2 (first token) are known",
                         scbm_file_path(file), key, (long long)pooling);
    backbone->pooling = pooling == 2 ? 2 : 1;
    backbone->normalize = scbm_file_int_or(file, "sparsecbm.normalize", 0) != 0;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------- */

/* The size that a dimension must have; 0: any. */
static int64_t wanted_size(const cbm_backbone *backbone, dimension which) {
    switch (which) {
    case HIDDEN: return backbone->hidden;
    case FEED_FORWARD: return backbone->feed_forward;
    default: return 0;
    }
}

static scbm_status check_shape(const cbm_backbone *backbone, const scbm_file *file, const parameter_row *row,
                               const scbm_tensor *tensor) {
    char shape[96];
    int n_dims = row->shape[1] == NO_DIMENSION ? 1 : 2, fits = tensor->n_dims == n_dims;
    for (int i = 0; i < n_dims && fits; i++) {
        int64_t wanted = wanted_size(backbone, row->shape[i]);
        fits = wanted ? tensor->shape[i] == wanted : tensor->shape[i] >= 1;
    }
    if (!fits && n_dims == 1)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s, and its keys say [%lld]", scbm_file_path(file),
                         tensor->name, scbm_shape_text(tensor, shape, sizeof shape),
                         (long long)wanted_size(backbone, row->shape[0]));
    if (!fits) {
        char rows[32] = "any";
        int64_t wanted = wanted_size(backbone, row->shape[0]);
        if (wanted) snprintf(rows, sizeof rows, "%lld", (long long)wanted);
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s, and its keys say [%s, %lld]", scbm_file_path(file),
                         tensor->name, scbm_shape_text(tensor, shape, sizeof shape), rows,
                         (long long)wanted_size(backbone, row->shape[1]));
    }
    if (n_dims == 1 ? tensor->type != SCBM_F32 : !scbm_type_of(tensor->type)->is_float)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s; %s is wanted", scbm_file_path(file), tensor->name,
                         scbm_type_of(tensor->type)->name, n_dims == 1 ? "f32" : "a type of real numbers");
    if (row->shape[0] == POSITIONS && tensor->shape[0] < backbone->first_position + backbone->max_tokens)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s has %lld rows for texts of %d tokens", scbm_file_path(file),
                         tensor->name, (long long)tensor->shape[0], backbone->max_tokens);
    return SCBM_OK;
}

static scbm_status find_tensor(cbm_backbone *backbone, scbm_file *file, const parameter_row *row, int block) {
    char name[SCBM_MAX_NAME];
    if (block < 0) snprintf(name, sizeof name, "%s", row->name);
    else snprintf(name, sizeof name, "blk.%d.%s", block, row->name);
    scbm_tensor *tensor = scbm_file_find_tensor(file, name);
    if (!tensor && !(row->flags & CBM_OPTIONAL))
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is missing", scbm_file_path(file), name);
    scbm_status status = tensor ? check_shape(backbone, file, row, tensor) : SCBM_OK;
    if (status) return status;
    backbone->parameters[backbone->n_parameters++] = (cbm_parameter){tensor, NULL, row->role, block, row->flags};
    if (row->shape[0] == VOCABULARY) backbone->vocabulary = tensor->shape[0];
    return SCBM_OK;
}

static scbm_status find_tensors(cbm_backbone *backbone, scbm_file *file, const scbm_hooks *hooks) {
    const cbm_architecture *architecture = backbone->architecture;
    size_t most = (size_t)architecture->n_rows * (size_t)(backbone->n_blocks + 1);
    backbone->parameters = scbm_alloc_array(hooks, most, sizeof *backbone->parameters);
    if (!backbone->parameters) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    for (int block = -1; block < backbone->n_blocks && !status; block++)
        for (int i = 0; i < architecture->n_rows && !status; i++)
            if (!(architecture->rows[i].flags & CBM_IN_BLOCK) == (block < 0))
                status = find_tensor(backbone, file, &architecture->rows[i], block);
    return status;
}

scbm_status cbm_backbone_read(cbm_backbone *backbone, scbm_file *file, const scbm_hooks *hooks) {
    memset(backbone, 0, sizeof *backbone);
    scbm_status status = find_architecture(file, &backbone->architecture);
    if (!status) status = read_sizes(backbone, file);
    if (!status) status = read_settings(backbone, file);
    if (!status) status = find_tensors(backbone, file, hooks);
    if (status) cbm_backbone_clear(backbone, hooks);
    return status;
}

/* An F32 tensor of our own with the same values. */
static scbm_status copy_tensor(scbm_tensor **copy, const scbm_tensor *tensor, const scbm_hooks *hooks) {
    *copy = scbm_alloc(hooks, sizeof **copy);
    if (!*copy) return SCBM_ERROR_MEMORY;
    scbm_status status = scbm_tensor_init(*copy, tensor->name, SCBM_F32, tensor->n_dims, tensor->shape);
    if (status) return status;
    (*copy)->data = scbm_alloc_array(hooks, (size_t)scbm_tensor_elements(tensor), sizeof(float));
    if (!(*copy)->data) return SCBM_ERROR_MEMORY;
    return scbm_convert(SCBM_F32, (*copy)->data, tensor->type, tensor->data, scbm_tensor_elements(tensor));
}

scbm_status cbm_backbone_copy(cbm_backbone *copy, const cbm_backbone *backbone, const scbm_hooks *hooks) {
    *copy = *backbone;
    copy->owns_tensors = 1;
    copy->parameters = scbm_alloc_array(hooks, (size_t)backbone->n_parameters, sizeof *copy->parameters);
    if (!copy->parameters) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < backbone->n_parameters && !status; i++) {
        copy->parameters[i] = backbone->parameters[i];
        copy->parameters[i].tensor = copy->parameters[i].masks = NULL;
        if (backbone->parameters[i].tensor)
            status = copy_tensor(&copy->parameters[i].tensor, backbone->parameters[i].tensor, hooks);
    }
    if (status) cbm_backbone_clear(copy, hooks);
    return status;
}

void cbm_backbone_clear(cbm_backbone *backbone, const scbm_hooks *hooks) {
    for (int i = 0; backbone->owns_tensors && backbone->parameters && i < backbone->n_parameters; i++) {
        scbm_tensor *tensor = backbone->parameters[i].tensor;
        scbm_tensor *masks = backbone->parameters[i].masks;
        if (tensor) scbm_release(hooks, tensor->data);
        if (masks) scbm_release(hooks, masks->data);
        scbm_release(hooks, tensor);
        scbm_release(hooks, masks);
    }
    scbm_release(hooks, backbone->parameters);
    memset(backbone, 0, sizeof *backbone);
}

cbm_parameter *cbm_backbone_find(const cbm_backbone *backbone, cbm_role role, int block) {
    for (int i = 0; i < backbone->n_parameters; i++) {
        cbm_parameter *parameter = &backbone->parameters[i];
        if (parameter->role == role && parameter->block == block) return parameter->tensor ? parameter : NULL;
    }
    return NULL;
}

const cbm_parameter *cbm_backbone_named(const cbm_backbone *backbone, const char *name) {
    for (int i = 0; i < backbone->n_parameters; i++) {
        const cbm_parameter *parameter = &backbone->parameters[i];
        if (parameter->tensor && strcmp(parameter->tensor->name, name) == 0) return parameter;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Graphs
 * ---------------------------------------------------------------------------------------- */

static scbm_tensor *tensor_of(const cbm_backbone *backbone, cbm_role role, int block) {
    cbm_parameter *parameter = cbm_backbone_find(backbone, role, block);
    return parameter ? parameter->tensor : NULL;
}

/* x through a linear layer of a block: its bias is the role after its weight's. */
static scbm_tensor *block_linear(const cbm_backbone *backbone, scbm_graph *g, const cbm_encode_options *options,
                                 cbm_role role, int block, scbm_tensor *x, scbm_activation activation) {
    cbm_parameter *weight = cbm_backbone_find(backbone, role, block);
    scbm_tensor *bias = tensor_of(backbone, (cbm_role)(role + 1), block);
    return scbm_linear(g, x, weight ? weight->tensor : NULL, bias, weight && options->use_masks ? weight->masks : NULL,
                       activation);
}

/* layer_norm(x + residual) by a block's LayerNorm: its bias is the role after its weight's. */
static scbm_tensor *block_norm(const cbm_backbone *backbone, scbm_graph *g, cbm_role role, int block, scbm_tensor *x,
                               scbm_tensor *residual) {
    return scbm_add_layer_norm(g, x, residual, tensor_of(backbone, role, block),
                               tensor_of(backbone, (cbm_role)(role + 1), block), backbone->epsilon);
}

static scbm_tensor *bert_embeddings(const cbm_backbone *backbone, scbm_graph *g, const cbm_encode_options *options,
                                    cbm_encoding *encoding) {
    scbm_tensor *types = tensor_of(backbone, CBM_TYPE_EMBEDDING, -1);
    scbm_tensor *x = options->embeddings;
    if (!x) x = scbm_get_rows(g, tensor_of(backbone, CBM_TOKEN_EMBEDDING, -1), encoding->ids);
    if (types) {
        const int64_t one = 1;
        encoding->type = scbm_input(g, "type", SCBM_I32, 1, &one, NULL);
        x = scbm_add(g, x, scbm_get_rows(g, types, encoding->type)); /* one row for all tokens: broadcast */
    }
    scbm_tensor *positions = scbm_get_rows(g, tensor_of(backbone, CBM_POSITION_EMBEDDING, -1), encoding->positions);
    x = block_norm(backbone, g, CBM_EMBEDDING_NORM, -1, x, positions);
    return scbm_dropout(g, x, options->hidden_dropout);
}

/* How much each token attends to each token of its text, head by head. */
static scbm_tensor *attention_weights(const cbm_backbone *backbone, scbm_graph *g, scbm_tensor *q, scbm_tensor *k,
                                      float scale, const cbm_encoding *encoding) {
    scbm_tensor *scores = scbm_attention_scores(g, scbm_scale(g, q, scale), k, encoding->offsets, backbone->n_heads,
                                                encoding->positions ? encoding->positions->shape[0] : 1, 0, -INFINITY);
    return scbm_output(g, scbm_softmax(g, scores));
}

/* x [S or 1, T, d] through attention and feed-forward layer: [S, T, d] */
static scbm_tensor *bert_block(const cbm_backbone *backbone, scbm_graph *g, const cbm_encode_options *options, int block,
                               scbm_tensor *x, const cbm_encoding *encoding) {
    float scale = (float)(1.0 / sqrt((double)backbone->hidden / backbone->n_heads));
    scbm_tensor *q = block_linear(backbone, g, options, CBM_QUERY, block, x, SCBM_NONE);
    scbm_tensor *k = block_linear(backbone, g, options, CBM_KEY, block, x, SCBM_NONE);
    scbm_tensor *v = block_linear(backbone, g, options, CBM_VALUE, block, x, SCBM_NONE);
    if (options->attention && block == backbone->n_blocks - 1)
        *options->attention = attention_weights(backbone, g, q, k, scale, encoding);
    scbm_tensor *y =
        scbm_attention(g, q, k, v, encoding->offsets, backbone->n_heads, scale, 0, options->attention_dropout);
    y = block_linear(backbone, g, options, CBM_ATTENTION_OUTPUT, block, y, SCBM_NONE);
    x = block_norm(backbone, g, CBM_ATTENTION_NORM, block, scbm_dropout(g, y, options->hidden_dropout), x);
    y = block_linear(backbone, g, options, CBM_FEED_UP, block, x, backbone->activation);
    y = block_linear(backbone, g, options, CBM_FEED_DOWN, block, y, SCBM_NONE);
    return block_norm(backbone, g, CBM_FEED_NORM, block, scbm_dropout(g, y, options->hidden_dropout), x);
}

static void encode_bert(const cbm_backbone *backbone, scbm_graph *g, const cbm_encode_options *options,
                        cbm_encoding *encoding) {
    scbm_tensor *x = bert_embeddings(backbone, g, options, encoding);
    if (options->states) options->states[0] = scbm_output(g, x);
    for (int block = 0; block < backbone->n_blocks; block++) {
        x = bert_block(backbone, g, options, block, x, encoding);
        if (options->states) options->states[block + 1] = scbm_output(g, x);
    }
    encoding->hidden = x;
}

void cbm_backbone_encode(const cbm_backbone *backbone, scbm_graph *g, int64_t capacity_texts,
                         const cbm_encode_options *options, cbm_encoding *encoding) {
    const int64_t tokens = 0, ends = capacity_texts + 1;
    const scbm_extent extent = SCBM_TOKENS;
    memset(encoding, 0, sizeof *encoding);
    if (!options->embeddings) encoding->ids = scbm_input(g, "ids", SCBM_I32, 1, &tokens, &extent);
    encoding->positions = scbm_input(g, "positions", SCBM_I32, 1, &tokens, &extent);
    encoding->offsets = scbm_input(g, "offsets", SCBM_I32, 1, &ends, NULL);
    backbone->architecture->encode(backbone, g, options, encoding);
}
