/*
 * convert/verify.c - whether a model file holds what the folder that it was converted from holds
 *
 * The converter's own reading of tensors is not used: every number is looked up by its place, decoded here, and stored
 * again as the file stores it. Then a fixed text runs through the file's encoder and through one of these numbers.
 */
#include "convert/verify.h"
#include "convert/hf-config.h"
#include "convert/hf-weights.h"
#include "models/core/sequences.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MOST_DIFFERENCE 1e-4 /* of hidden states, relative to their norm */
#define TEXT_TOKENS 24

typedef struct verification {
    const scbm_hooks *hooks;
    hf_config config;
    hf_weights weights;
    scbm_file *file;
    cbm_backbone written, reference; /* the file's; a copy in F32 whose numbers are the folder's */
    float *row;                      /* as the folder has it */
    unsigned char *stored;           /* as the file is to have it */
    size_t row_capacity, stored_capacity;
} verification;

/* ------------------------------------------------------------------------------------------
 * Numbers of the folder
 * ---------------------------------------------------------------------------------------- */

/* A number of binary16: sign, five bits of exponent, ten of fraction. */
static double decode_f16(unsigned bits) {
    int exponent = (int)(bits >> 10 & 31);
    double fraction = (bits & 1023) / 1024.0;
    double value = exponent ? ldexp(1 + fraction, exponent - 15) : ldexp(fraction, -14);
    return bits >> 15 ? -value : value;
}

static double decode(const stored_tensor *t, const unsigned char *at) {
    uint64_t bits = 0;
    int size = (int)cbm_stored_size(t->type);
    for (int i = 0; i < size; i++) bits |= (uint64_t)at[t->is_swapped ? size - 1 - i : i] << (8 * i);
    if (strcmp(t->type, "F16") == 0) return decode_f16((unsigned)bits);
    if (strcmp(t->type, "F64") == 0) {
        double wide;
        memcpy(&wide, &bits, sizeof wide);
        return wide;
    }
    uint32_t narrow = (uint32_t)(size == 2 ? bits << 16 : bits); /* BF16 is the upper half of F32 */
    float value;
    memcpy(&value, &narrow, sizeof value);
    return value;
}

/* Number [o, i] of a parameter, where the folder has it; of a vector it is i. */
static double number_at(const hf_weight *weight, int64_t o, int64_t i) {
    const stored_tensor *t = weight->source;
    const cbm_row *row = weight->row;
    int is_matrix = weight->tensor.n_dims > 1;
    if (weight->padding >= 0) o = o == weight->tensor.shape[0] - 1 ? weight->padding : weight->padding + 1 + o;
    int64_t place[2] = {row->part * weight->tensor.shape[0] + (is_matrix ? o : i), is_matrix ? i : 0}, at = 0;
    for (int d = 0; d < t->n_dims; d++) at += place[row->is_transposed ? 1 - d : d] * t->stride[d];
    return decode(t, t->data + at * (int64_t)cbm_stored_size(t->type));
}

/* ------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------- */

static scbm_status is_another(const verification *v, const char *name, const char *how) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tensor %.120s is not what %.300s has: %s", scbm_file_path(v->file),
                     name, v->config.folder, how);
}

static scbm_status check_row(verification *v, const hf_weight *weight, const scbm_tensor *tensor, int64_t o,
                             int64_t columns) {
    const scbm_type_info *info = scbm_type_of(tensor->type);
    size_t bytes = (size_t)(columns / info->block) * (size_t)info->block_bytes;
    char how[128];
    for (int64_t i = 0; i < columns; i++) v->row[i] = (float)number_at(weight, o, i);
    scbm_status status = scbm_convert(tensor->type, v->stored, SCBM_F32, v->row, columns);
    const unsigned char *written = (const unsigned char *)tensor->data + (size_t)o * bytes;
    if (status || memcmp(written, v->stored, bytes) == 0) return status;
    size_t at = 0;
    while (written[at] == v->stored[at]) at++;
    int64_t column = (int64_t)(at / (size_t)info->block_bytes) * info->block;
    snprintf(how, sizeof how, "row %lld differs, from column %lld on", (long long)o, (long long)column);
    return is_another(v, tensor->name, how);
}

/* The file's tensor, and the reference's of the same name, which gets the numbers as the file stores them. */
static scbm_status check_tensor(verification *v, const hf_weight *weight) {
    const scbm_tensor *tensor = scbm_file_find_tensor(v->file, weight->tensor.name), *wanted = &weight->tensor;
    const cbm_parameter *reference = cbm_backbone_named(&v->reference, wanted->name);
    int64_t rows = wanted->n_dims > 1 ? wanted->shape[0] : 1, columns = wanted->shape[wanted->n_dims - 1];
    if (!tensor || !reference) return is_another(v, wanted->name, "it is missing");
    if (tensor->n_dims != wanted->n_dims || !scbm_type_of(tensor->type)->is_float ||
        memcmp(tensor->shape, wanted->shape, (size_t)tensor->n_dims * sizeof *tensor->shape) != 0)
        return is_another(v, wanted->name, "its shape or type is another");
    scbm_status status = scbm_grow(v->hooks, (void **)&v->row, &v->row_capacity, (size_t)columns, sizeof *v->row);
    if (!status) status = scbm_grow(v->hooks, (void **)&v->stored, &v->stored_capacity, (size_t)columns * 4, 1);
    for (int64_t o = 0; o < rows && !status; o++) {
        float *numbers = (float *)reference->tensor->data + o * columns;
        status = check_row(v, weight, tensor, o, columns);
        if (!status) status = scbm_convert(SCBM_F32, numbers, tensor->type, v->stored, columns);
    }
    return status;
}

/* Every tensor of the encoder is in the file, with these numbers, and nothing else is. */
static scbm_status check_tensors(verification *v, cbm_verification *result) {
    const hf_weights *weights = &v->weights;
    for (int i = 0; i < weights->n; i++) {
        const hf_weight *weight = &weights->weight[i];
        if (!weight->source) continue;
        scbm_status status = check_tensor(v, weight);
        if (!status) status = scbm_progress(v->hooks, "tensors verified", i + 1, weights->n);
        if (status) return status;
        result->n_tensors++;
        result->n_weights += scbm_tensor_elements(&weight->tensor);
    }
    if (result->n_tensors == scbm_file_n_tensors(v->file)) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: it has %lld tensors, and the encoder of %.300s has %d",
                     scbm_file_path(v->file), (long long)scbm_file_n_tensors(v->file), v->config.folder,
                     result->n_tensors);
}

/* ------------------------------------------------------------------------------------------
 * Settings, and a text
 * ---------------------------------------------------------------------------------------- */

/* What config.json says, as the file says it. How it pools and normalizes may have been chosen otherwise. */
static scbm_status check_settings(const verification *v) {
    const cbm_architecture *architecture = v->config.settings.architecture;
    if (v->written.architecture != architecture)
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: its architecture is %s, and that of %.300s is %s",
                         scbm_file_path(v->file), v->written.architecture->name, v->config.folder, architecture->name);
    for (int i = 0; i < architecture->n_keys; i++) {
        const cbm_key *key = &architecture->keys[i];
        double written = cbm_key_get(&v->written, key), wanted = cbm_key_get(&v->config.settings, key);
        if (!key->hf || written == wanted) continue;
        return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: config.json's %s is %g, and the file has %g",
                         scbm_file_path(v->file), key->hf, wanted, written);
    }
    return SCBM_OK;
}

/* The text: tokens from all over the vocabulary. */
static scbm_status make_text(const verification *v, cbm_sequences *text, int *n_tokens) {
    const cbm_backbone *settings = &v->written;
    *n_tokens = settings->max_tokens < TEXT_TOKENS ? settings->max_tokens : TEXT_TOKENS;
    scbm_status status = scbm_grow(v->hooks, (void **)&text->ids, &text->ids_capacity, (size_t)*n_tokens,
                                   sizeof *text->ids);
    if (!status) status = scbm_grow(v->hooks, (void **)&text->first, &text->first_capacity, 2, sizeof *text->first);
    if (status) return status;
    for (int i = 0; i < *n_tokens; i++) text->ids[i] = (int32_t)((INT64_C(7919) * i + 5) % settings->vocabulary);
    text->first[1] = (size_t)*n_tokens;
    text->n = 1;
    return SCBM_OK;
}

/* The last block's output for the text, [tokens, hidden], to be released. */
static scbm_status encode(const verification *v, const cbm_backbone *backbone, scbm_context *context,
                          const cbm_sequences *text, int64_t n_tokens, float **hidden) {
    static const cbm_encode_options options;
    static const int32_t row;
    cbm_encoding encoding = {0};
    scbm_graph *graph = NULL;
    scbm_status status = scbm_graph_create(&graph, context);
    if (status) return status;
    scbm_graph_set_capacity(graph, n_tokens, 1);
    cbm_backbone_encode(backbone, graph, 1, &options, &encoding);
    scbm_graph_fetch(graph, encoding.hidden);
    status = scbm_graph_plan(graph);
    if (!status) cbm_fill_inputs(backbone, &encoding, text, &row, 1);
    if (!status) status = scbm_graph_run(graph, n_tokens, 1);
    size_t n = (size_t)(n_tokens * backbone->output);
    if (!status && !(*hidden = scbm_alloc_array(v->hooks, n, sizeof **hidden))) status = SCBM_ERROR_MEMORY;
    if (!status) memcpy(*hidden, encoding.hidden->data, n * sizeof **hidden);
    scbm_graph_free(graph);
    return status;
}

static scbm_status compare(const verification *v, const float *got, const float *wanted, int64_t n,
                           double *difference) {
    double squares = 0, differences = 0;
    for (int64_t i = 0; i < n; i++) {
        squares += (double)wanted[i] * wanted[i];
        differences += ((double)got[i] - wanted[i]) * ((double)got[i] - wanted[i]);
    }
    *difference = squares > 0 ? sqrt(differences / squares) : sqrt(differences);
    if (*difference <= MOST_DIFFERENCE) return SCBM_OK; /* not a number: none */
    return scbm_fail(SCBM_ERROR_FORMAT,
                     "%.300s: a text's hidden states differ by %.2g of their norm from those of the numbers in %.300s",
                     scbm_file_path(v->file), *difference, v->config.folder);
}

static scbm_status check_text(verification *v, cbm_verification *result) {
    cbm_sequences text = {0};
    scbm_context *context = NULL;
    float *got = NULL, *wanted = NULL;
    scbm_status status = make_text(v, &text, &result->n_tokens);
    if (!status) status = scbm_context_create(&context, v->hooks, NULL);
    if (!status) status = encode(v, &v->written, context, &text, result->n_tokens, &got);
    if (!status) status = encode(v, &v->reference, context, &text, result->n_tokens, &wanted);
    if (!status) status = compare(v, got, wanted, result->n_tokens * v->written.output, &result->difference);
    scbm_release(v->hooks, got);
    scbm_release(v->hooks, wanted);
    scbm_context_free(context);
    cbm_sequences_clear(&text, v->hooks);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * All of it
 * ---------------------------------------------------------------------------------------- */

static scbm_status verify(verification *v, const char *folder, const char *path, cbm_verification *result) {
    scbm_status status = cbm_hf_config_read(&v->config, folder, v->hooks);
    if (!status) status = cbm_hf_weights_open(&v->weights, &v->config.settings, v->config.folder, v->hooks);
    if (!status) status = scbm_file_open(&v->file, path, v->hooks);
    if (!status) status = cbm_backbone_read(&v->written, v->file, v->hooks);
    if (!status) status = check_settings(v);
    if (!status) status = cbm_backbone_copy(&v->reference, &v->written, v->hooks);
    if (!status) status = check_tensors(v, result);
    return status ? status : check_text(v, result);
}

scbm_status cbm_verify_conversion(const char *folder, const char *path, const scbm_hooks *hooks,
                                  cbm_verification *result) {
    cbm_verification unread;
    verification v = {.hooks = hooks};
    if (!result) result = &unread;
    memset(result, 0, sizeof *result);
    scbm_status status = verify(&v, folder, path, result);
    cbm_backbone_clear(&v.reference, hooks);
    cbm_backbone_clear(&v.written, hooks);
    scbm_file_close(v.file);
    scbm_release(hooks, v.row);
    scbm_release(hooks, v.stored);
    cbm_hf_weights_clear(&v.weights);
    cbm_hf_config_clear(&v.config);
    return status;
}
