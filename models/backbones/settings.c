/*
 * models/backbones/settings.c - what the keys of an encoder say: sizes, epsilon, activation, dropout, pooling
 */
#include "models/backbones/architecture.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ------------------------------------------------------------------------------------------
 * Activations
 * ---------------------------------------------------------------------------------------- */

/* Of several rows with one activation the first has the name that is written. */
static const struct activation_row {
    const char *name, *hf;
    scbm_activation activation;
} activations[] = {
    {"gelu", "gelu", SCBM_GELU_ERF},
    {"gelu_tanh", "gelu_new", SCBM_GELU_TANH},
    {"gelu_tanh", "gelu_pytorch_tanh", SCBM_GELU_TANH},
    {"gelu_tanh", "gelu_fast", SCBM_GELU_TANH},
    {"relu", "relu", SCBM_RELU},
    {"tanh", "tanh", SCBM_TANH},
    {"sigmoid", "sigmoid", SCBM_SIGMOID},
    {"gelu_erf", "gelu_python", SCBM_GELU_ERF},
};

int cbm_activation_parse(const char *name) {
    for (int i = 0; i < COUNT_OF(activations); i++)
        if (strcmp(activations[i].name, name) == 0 || strcmp(activations[i].hf, name) == 0)
            return (int)activations[i].activation;
    return -1;
}

static const struct activation_row *row_of(scbm_activation activation) {
    int i = 0;
    while (i < COUNT_OF(activations) - 1 && activations[i].activation != activation) i++;
    return &activations[i];
}

const char *cbm_activation_name(scbm_activation activation) {
    return row_of(activation)->name;
}

const char *cbm_activation_hf_name(scbm_activation activation) {
    return row_of(activation)->hf;
}

const char *cbm_activation_hf_names(char *text, size_t size) {
    size_t n = 0;
    for (int i = 0; i < COUNT_OF(activations) && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? ", " : "", activations[i].hf);
    return text;
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

double cbm_key_get(const cbm_backbone *backbone, const cbm_key *key) {
    const void *field = (const char *)backbone + key->field;
    switch (key->kind) {
    case CBM_KEY_SIZE: return (double)*(const int64_t *)field;
    case CBM_KEY_FRACTION: return *(const float *)field;
    case CBM_KEY_ACTIVATION: return *(const scbm_activation *)field;
    default: return *(const int *)field;
    }
}

void cbm_key_set(cbm_backbone *backbone, const cbm_key *key, double value) {
    void *field = (char *)backbone + key->field;
    switch (key->kind) {
    case CBM_KEY_SIZE: *(int64_t *)field = (int64_t)value; break;
    case CBM_KEY_FRACTION: *(float *)field = (float)value; break;
    case CBM_KEY_ACTIVATION: *(scbm_activation *)field = (scbm_activation)value; break;
    default: *(int *)field = (int)value;
    }
}

void cbm_settings_default(cbm_backbone *backbone, const cbm_architecture *architecture) {
    memset(backbone, 0, sizeof *backbone);
    backbone->architecture = architecture;
    backbone->pooling = 1;
    backbone->padding = -1;
    for (int i = 0; i < architecture->n_keys; i++)
        cbm_key_set(backbone, &architecture->keys[i], architecture->keys[i].otherwise);
}

static scbm_status cannot_cut(const cbm_backbone *backbone, const char *where) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a hidden size of %lld cannot be cut into %d attention heads", where,
                     (long long)backbone->hidden, backbone->n_heads);
}

/* What leaves a block is two states side by side, and what enters the second one as wide as what enters the first. */
static scbm_status settle_recurrent(cbm_backbone *backbone, const char *where) {
    backbone->feed_forward = backbone->head_size = backbone->hidden;
    if (backbone->hidden % 2)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: a hidden size of %lld cannot be cut into two directions", where,
                         (long long)backbone->hidden);
    if (backbone->n_blocks == 1 || backbone->embedding_width == backbone->hidden) return SCBM_OK;
    return scbm_fail(
        SCBM_ERROR_FORMAT,
        "%.300s: words of width %lld under %d blocks of %lld; several blocks want words as wide as they are", where,
        (long long)backbone->embedding_width, backbone->n_blocks, (long long)backbone->hidden);
}

scbm_status cbm_settings_settle(cbm_backbone *backbone, const char *where) {
    backbone->first_position = backbone->architecture->first_position;
    if (backbone->architecture->is_recurrent) backbone->n_heads = 1;
    if (backbone->n_blocks > CBM_MAX_BLOCKS)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: it has %d blocks; %d at most are read", where, backbone->n_blocks,
                         CBM_MAX_BLOCKS);
    if (backbone->embedding_width < 1) backbone->embedding_width = backbone->hidden;
    if (backbone->output < 1) backbone->output = backbone->hidden;
    if (backbone->architecture->is_recurrent) return settle_recurrent(backbone, where);
    if (backbone->feed_forward < 1) backbone->feed_forward = 4 * backbone->hidden;
    if (cbm_longest_text(backbone) < 1)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: it has no positions but the padding's", where);
    if (backbone->n_buckets &&
        (backbone->n_buckets < 4 || backbone->n_buckets % 4 || backbone->max_distance <= backbone->n_buckets / 4))
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: %d buckets for distances up to %d", where, backbone->n_buckets,
                         backbone->max_distance);
    if (backbone->head_size < 1 && backbone->hidden % backbone->n_heads) return cannot_cut(backbone, where);
    if (backbone->head_size < 1) backbone->head_size = backbone->hidden / backbone->n_heads;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * In model files
 * ---------------------------------------------------------------------------------------- */

static const char *name_of(const cbm_architecture *architecture, const char *name, char text[SCBM_MAX_NAME]) {
    static const char ours[] = "sparsecbm.";
    if (strncmp(name, ours, sizeof ours - 1) == 0) snprintf(text, SCBM_MAX_NAME, "%s", name);
    else snprintf(text, SCBM_MAX_NAME, "%s.%s", architecture->name, name);
    return text;
}

/* The value of `name`, which must lie in [1, most]. */
static scbm_status read_size(const scbm_file *file, const char *name, int64_t most, double *value) {
    int64_t number;
    scbm_status status = scbm_file_get_int(file, name, &number);
    if (status) return status;
    if (number < 1 || number > most)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %lld, and must lie between 1 and %lld", scbm_file_path(file),
                         name, (long long)number, (long long)most);
    *value = (double)number;
    return SCBM_OK;
}

static scbm_status read_fraction(const scbm_file *file, const char *name, double *value) {
    *value = scbm_file_float_or(file, name, *value);
    if (*value >= 0 && (float)*value < 1) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %g, and must be at least 0 and below 1", scbm_file_path(file), name,
                     *value);
}

static scbm_status read_activation(const scbm_file *file, const char *name, double *value) {
    const char *text = scbm_file_string_or(file, name, cbm_activation_name((scbm_activation)*value));
    int activation = cbm_activation_parse(text);
    *value = activation;
    if (activation >= 0) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: %s is '%s', which this version does not know", scbm_file_path(file),
                     name, text);
}

static scbm_status read_pooling(const cbm_architecture *architecture, const scbm_file *file, const char *name,
                                double *value) {
    int64_t pooling = scbm_file_int_or(file, name, (int64_t)*value);
    if (pooling < 0 || pooling > (architecture->is_recurrent ? 4 : 3))
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: %s is %lld; 1 (mean), 2 (first token)%s are known",
                         scbm_file_path(file), name, (long long)pooling,
                         architecture->is_recurrent ? ", 3 (last token) and 4 (attention)" : " and 3 (last token)");
    *value = pooling ? (double)pooling : 1; /* 0: it says nothing */
    return SCBM_OK;
}

static scbm_status read_token(const scbm_file *file, const char *name, double *value) {
    int64_t token = scbm_file_int_or(file, name, (int64_t)*value);
    if (token < -1 || token > CBM_MAX_SIZE)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: %s is %lld, which is no token", scbm_file_path(file), name,
                         (long long)token);
    *value = (double)token;
    return SCBM_OK;
}

static scbm_status read_key(cbm_backbone *backbone, const cbm_key *key, const scbm_file *file) {
    char name[SCBM_MAX_NAME];
    double value = key->otherwise;
    scbm_status status = SCBM_OK;
    name_of(backbone->architecture, key->name, name);
    switch (key->kind) {
    case CBM_KEY_COUNT:
    case CBM_KEY_SIZE: status = read_size(file, name, CBM_MAX_SIZE, &value); break;
    case CBM_KEY_FRACTION: status = read_fraction(file, name, &value); break;
    case CBM_KEY_GATED:
    case CBM_KEY_SWITCH: value = scbm_file_int_or(file, name, (int64_t)value) != 0; break;
    case CBM_KEY_TOKEN: status = read_token(file, name, &value); break;
    case CBM_KEY_ACTIVATION: status = read_activation(file, name, &value); break;
    case CBM_KEY_POOLING: status = read_pooling(backbone->architecture, file, name, &value); break;
    }
    if (!status) cbm_key_set(backbone, key, value);
    return status;
}

/* How long texts may be is less than there are positions for where the file says so. */
static scbm_status read_max_tokens(cbm_backbone *backbone, const scbm_file *file) {
    int64_t longest = cbm_longest_text(backbone);
    int64_t max_tokens = scbm_file_int_or(file, "sparsecbm.max_tokens", longest);
    if (max_tokens < 1 || max_tokens > longest)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: sparsecbm.max_tokens is %lld, and must lie between 1 and %lld",
                         scbm_file_path(file), (long long)max_tokens, (long long)longest);
    backbone->max_tokens = (int)max_tokens;
    return SCBM_OK;
}

scbm_status cbm_settings_read(cbm_backbone *backbone, const scbm_file *file) {
    const cbm_architecture *architecture = backbone->architecture;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < architecture->n_keys && !status; i++)
        if (architecture->keys[i].name) status = read_key(backbone, &architecture->keys[i], file);
    if (!status) status = cbm_settings_settle(backbone, scbm_file_path(file));
    if (!status) status = read_max_tokens(backbone, file);
    backbone->normalize = scbm_file_int_or(file, "sparsecbm.normalize", 0) != 0;
    return status;
}

static void write_key(const cbm_backbone *backbone, const cbm_key *key, scbm_writer *writer) {
    char name[SCBM_MAX_NAME];
    double value = cbm_key_get(backbone, key);
    name_of(backbone->architecture, key->name, name);
    switch (key->kind) {
    case CBM_KEY_FRACTION: scbm_writer_set_float(writer, name, SCBM_VALUE_F32, value); break;
    case CBM_KEY_GATED:
    case CBM_KEY_SWITCH: scbm_writer_set_bool(writer, name, value != 0); break;
    case CBM_KEY_TOKEN: scbm_writer_set_int(writer, name, SCBM_VALUE_I32, (int64_t)value); break;
    case CBM_KEY_ACTIVATION: scbm_writer_set_string(writer, name, cbm_activation_name((scbm_activation)value)); break;
    default: scbm_writer_set_int(writer, name, SCBM_VALUE_U32, (int64_t)value);
    }
}

void cbm_settings_write(const cbm_backbone *backbone, scbm_writer *writer) {
    const cbm_architecture *architecture = backbone->architecture;
    if (architecture->family) scbm_writer_set_string(writer, "sparsecbm.family", architecture->family);
    for (int i = 0; i < architecture->n_keys; i++)
        if (architecture->keys[i].name) write_key(backbone, &architecture->keys[i], writer);
    scbm_writer_set_int(writer, "sparsecbm.max_tokens", SCBM_VALUE_U32, backbone->max_tokens);
    scbm_writer_set_bool(writer, "sparsecbm.normalize", backbone->normalize);
}
