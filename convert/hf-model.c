/*
 * convert/hf-model.c - a Hugging Face folder's BERT encoder to a model file
 */
#include "convert/hf-model.h"
#include "convert/hf-config.h"
#include "convert/hf-tokenizer.h"
#include "convert/hf-weights.h"
#include "convert/json-file.h"

#include <string.h>

typedef struct conversion {
    hf_config config;
    hf_weights weights;
    hf_tokenizer tokenizer;
    scbm_writer *writer;
    int64_t max_tokens;
} conversion;

/* sentence-transformers' own limit holds before the tokenizer's; the positions are the last limit. */
static int64_t find_max_tokens(const conversion *c) {
    int64_t most = c->config.max_tokens ? c->config.max_tokens : c->tokenizer.max_tokens;
    return most && most < c->config.positions ? most : c->config.positions;
}

static scbm_status read_folder(conversion *c, const char *folder, const scbm_hooks *hooks) {
    scbm_status status = hf_config_read(&c->config, folder, hooks);
    if (!status) status = hf_weights_open(&c->weights, &c->config, hooks);
    if (!status) status = hf_tokenizer_read(&c->tokenizer, c->config.folder, c->config.vocabulary, hooks);
    if (status) return status;
    if (c->config.lowercases && !c->tokenizer.lowercase)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%.300s: sentence_bert_config.json's do_lower_case is true and the tokenizer's false; this version "
            "lower-cases in the tokenizer only",
            c->config.folder);
    c->max_tokens = find_max_tokens(c);
    return SCBM_OK;
}

/* The checkpoint's published name, or the folder's. */
static scbm_status write_name(const conversion *c, const char *folder) {
    char *name = scbm_strdup(&c->config.hooks, c->config.name ? c->config.name : folder);
    if (!name) return SCBM_ERROR_MEMORY;
    size_t length = strlen(name);
    while (length && name[length - 1] == '/') name[--length] = 0;
    const char *slash = c->config.name ? NULL : strrchr(name, '/'), *start = slash ? slash + 1 : name;
    if (*start && *start != '.' && json_is_utf8(start, strlen(start)))
        scbm_writer_set_string(c->writer, "general.name", start);
    scbm_release(&c->config.hooks, name);
    return SCBM_OK;
}

static void write_shape(const conversion *c) {
    const hf_config *config = &c->config;
    scbm_writer *w = c->writer;
    scbm_writer_set_int(w, "bert.context_length", SCBM_VALUE_U32, config->positions);
    scbm_writer_set_int(w, "bert.embedding_length", SCBM_VALUE_U32, config->hidden);
    scbm_writer_set_int(w, "bert.feed_forward_length", SCBM_VALUE_U32, config->feed_forward);
    scbm_writer_set_int(w, "bert.block_count", SCBM_VALUE_U32, config->blocks);
    scbm_writer_set_int(w, "bert.attention.head_count", SCBM_VALUE_U32, config->heads);
    scbm_writer_set_float(w, "bert.attention.layer_norm_epsilon", SCBM_VALUE_F32, config->epsilon);
    scbm_writer_set_bool(w, "bert.attention.causal", 0);
    scbm_writer_set_int(w, "bert.pooling_type", SCBM_VALUE_U32, config->pooling);
    scbm_writer_set_string(w, "sparsecbm.activation", config->activation);
    scbm_writer_set_float(w, "sparsecbm.hidden_dropout", SCBM_VALUE_F32, config->hidden_dropout);
    scbm_writer_set_float(w, "sparsecbm.attention_dropout", SCBM_VALUE_F32, config->attention_dropout);
    scbm_writer_set_int(w, "sparsecbm.max_tokens", SCBM_VALUE_U32, c->max_tokens);
    scbm_writer_set_bool(w, "sparsecbm.normalize", config->normalize);
}

static scbm_status write_keys(conversion *c, const char *folder, scbm_type type) {
    scbm_writer_set_string(c->writer, "general.architecture", "bert");
    scbm_status status = write_name(c, folder);
    scbm_writer_set_file_type(c->writer, type);
    write_shape(c);
    return status ? status : hf_tokenizer_write(&c->tokenizer, c->config.types, c->writer);
}

static void add_tensors(const conversion *c, scbm_type type, hf_summary *summary) {
    for (int i = 0; i < c->weights.n_tensors; i++) {
        const scbm_tensor *tensor = &c->weights.tensors[i];
        scbm_type stored = hf_weights_type(tensor, type);
        scbm_writer_add_tensor(c->writer, tensor, stored);
        summary->n_weights += scbm_tensor_elements(tensor);
        summary->n_kept_f16 += tensor->shape[tensor->n_dims - 1] % scbm_type_of(stored)->block != 0;
    }
}

static void summarize(const conversion *c, hf_summary *summary) {
    summary->blocks = c->config.blocks;
    summary->hidden = c->config.hidden;
    summary->heads = c->config.heads;
    summary->tokens = c->tokenizer.n_tokens;
    summary->max_tokens = c->max_tokens;
    summary->n_tensors = c->weights.n_tensors;
    summary->n_unused = c->weights.n_unused;
    summary->pooling = c->config.pooling;
    summary->normalize = c->config.normalize;
}

static scbm_status convert(conversion *c, const char *folder, const char *path, scbm_type type, hf_summary *summary,
                           const scbm_hooks *hooks) {
    scbm_status status = read_folder(c, folder, hooks);
    if (!status) status = hf_weights_check(&c->weights, type);
    if (!status) status = scbm_writer_create(&c->writer, hooks);
    if (!status) status = write_keys(c, folder, type);
    if (status) return status;
    add_tensors(c, type, summary);
    summarize(c, summary);
    return scbm_writer_write(c->writer, path);
}

scbm_status hf_convert(const char *folder, const char *path, scbm_type type, hf_summary *summary,
                       const scbm_hooks *hooks) {
    conversion c;
    hf_summary unread;
    if (!scbm_type_of(type) || !scbm_type_of(type)->is_float)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "matrices are stored as f32, f16, bf16, q8_0 or q4_0");
    if (!summary) summary = &unread;
    memset(&c, 0, sizeof c);
    memset(summary, 0, sizeof *summary);
    scbm_status status = convert(&c, folder, path, type, summary, hooks);
    scbm_writer_free(c.writer);
    hf_tokenizer_clear(&c.tokenizer);
    hf_weights_clear(&c.weights);
    hf_config_clear(&c.config);
    return status;
}
