/*
 * convert/hf-weights.c - the tensors of a Hugging Face folder's BERT encoder, under the names of model files
 */
#include "convert/hf-weights.h"
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define MAX_FILES 1024
#define NAME_FORMAT "%.120s" /* of a name from a file */

typedef enum dimension { NONE, HIDDEN, FEED_FORWARD, VOCABULARY, POSITIONS, TYPES } dimension;

typedef struct weight_row {
    const char *hf;   /* the name that Hugging Face has, without "bert." and, in a block, "encoder.layer.<n>." */
    const char *name; /* the name in a model file; in a block after "blk.<n>." */
    dimension shape[2];
} weight_row;

static const weight_row outer_rows[] = {
    {"embeddings.word_embeddings.weight", "token_embd.weight", {VOCABULARY, HIDDEN}},
    {"embeddings.position_embeddings.weight", "position_embd.weight", {POSITIONS, HIDDEN}},
    {"embeddings.token_type_embeddings.weight", "token_types.weight", {TYPES, HIDDEN}},
    {"embeddings.LayerNorm.weight", "token_embd_norm.weight", {HIDDEN, NONE}},
    {"embeddings.LayerNorm.bias", "token_embd_norm.bias", {HIDDEN, NONE}},
};

static const weight_row block_rows[] = {
    {"attention.self.query.weight", "attn_q.weight", {HIDDEN, HIDDEN}},
    {"attention.self.query.bias", "attn_q.bias", {HIDDEN, NONE}},
    {"attention.self.key.weight", "attn_k.weight", {HIDDEN, HIDDEN}},
    {"attention.self.key.bias", "attn_k.bias", {HIDDEN, NONE}},
    {"attention.self.value.weight", "attn_v.weight", {HIDDEN, HIDDEN}},
    {"attention.self.value.bias", "attn_v.bias", {HIDDEN, NONE}},
    {"attention.output.dense.weight", "attn_output.weight", {HIDDEN, HIDDEN}},
    {"attention.output.dense.bias", "attn_output.bias", {HIDDEN, NONE}},
    {"attention.output.LayerNorm.weight", "attn_output_norm.weight", {HIDDEN, NONE}},
    {"attention.output.LayerNorm.bias", "attn_output_norm.bias", {HIDDEN, NONE}},
    {"intermediate.dense.weight", "ffn_up.weight", {FEED_FORWARD, HIDDEN}},
    {"intermediate.dense.bias", "ffn_up.bias", {FEED_FORWARD, NONE}},
    {"output.dense.weight", "ffn_down.weight", {HIDDEN, FEED_FORWARD}},
    {"output.dense.bias", "ffn_down.bias", {HIDDEN, NONE}},
    {"output.LayerNorm.weight", "layer_output_norm.weight", {HIDDEN, NONE}},
    {"output.LayerNorm.bias", "layer_output_norm.bias", {HIDDEN, NONE}},
};

/* What a checkpoint may have besides its encoder: the pooler, heads, and buffers that old versions saved. */
static const char *const unused_starts[] = {"pooler.", "cls.", "classifier.", "qa_outputs."};
static const char *const unused_names[] = {"embeddings.position_ids", "embeddings.token_type_ids"};

static const char block_start[] = "encoder.layer.";

static const char *without_prefix(const char *name) {
    return cbm_starts_with(name, "bert.") ? name + strlen("bert.") : name;
}

static int is_unused(const char *name) {
    for (int i = 0; i < COUNT_OF(unused_starts); i++)
        if (cbm_starts_with(name, unused_starts[i])) return 1;
    for (int i = 0; i < COUNT_OF(unused_names); i++)
        if (strcmp(name, unused_names[i]) == 0) return 1;
    return 0;
}

/* ------------------------------------------------------------------------------------------
 * Places: the encoder's tensors in order, those outside the blocks first
 * ---------------------------------------------------------------------------------------- */

static const weight_row *row_at(int place, int *block) {
    *block = place < COUNT_OF(outer_rows) ? -1 : (place - COUNT_OF(outer_rows)) / COUNT_OF(block_rows);
    return *block < 0 ? &outer_rows[place] : &block_rows[(place - COUNT_OF(outer_rows)) % COUNT_OF(block_rows)];
}

/* Whether `name` is `wanted`; checkpoints that came from TensorFlow have gamma and beta for LayerNorm's parameters. */
static int is_name(const char *name, const char *wanted) {
    static const char *const parts[][2] = {{"LayerNorm.weight", "LayerNorm.gamma"},
                                           {"LayerNorm.bias", "LayerNorm.beta"}};
    if (strcmp(name, wanted) == 0) return 1;
    for (int i = 0; i < COUNT_OF(parts); i++) {
        const char *at = strstr(wanted, parts[i][0]);
        if (at && strncmp(name, wanted, (size_t)(at - wanted)) == 0 && strcmp(name + (at - wanted), parts[i][1]) == 0)
            return 1;
    }
    return 0;
}

static int find_row(const weight_row *rows, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (is_name(name, rows[i].hf)) return i;
    return -1;
}

/* The number that text begins with; *rest is what follows its dot. -1: there is none. */
static int block_number(const char *text, const char **rest) {
    int number = 0, n = 0;
    for (; text[n] >= '0' && text[n] <= '9' && n < 6; n++) number = 10 * number + (text[n] - '0');
    if (!n || text[n] != '.' || (text[0] == '0' && n > 1)) return -1;
    *rest = text + n + 1;
    return number;
}

/* The place of a name without its prefix. -1: unknown; -2: in a block that the configuration does not have. */
static int find_place(const char *name, const hf_config *config) {
    int row = find_row(outer_rows, COUNT_OF(outer_rows), name);
    if (row >= 0) return row;
    const char *rest;
    int block = cbm_starts_with(name, block_start) ? block_number(name + strlen(block_start), &rest) : -1;
    if (block < 0) return -1;
    row = find_row(block_rows, COUNT_OF(block_rows), rest);
    if (row < 0) return -1;
    return block < config->blocks ? COUNT_OF(outer_rows) + block * COUNT_OF(block_rows) + row : -2;
}

/* ------------------------------------------------------------------------------------------
 * One tensor
 * ---------------------------------------------------------------------------------------- */

static scbm_status refuse(const safetensors *file, const safetensors_tensor *source, const char *why) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: tensor " NAME_FORMAT " %s", safetensors_path(file), source->name,
                     why);
}

static int64_t size_of(const hf_config *config, dimension which) {
    switch (which) {
    case HIDDEN: return config->hidden;
    case FEED_FORWARD: return config->feed_forward;
    case VOCABULARY: return config->vocabulary;
    case POSITIONS: return config->positions;
    case TYPES: return config->types;
    default: return 0;
    }
}

/* "[2, 3]" */
static const char *shape_text(const int64_t *shape, int n_dims, char *text, size_t size) {
    int n = snprintf(text, size, "[");
    for (int i = 0; i < n_dims && n < (int)size; i++)
        n += snprintf(text + n, size - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < (int)size) snprintf(text + n, size - (size_t)n, "]");
    return text;
}

static scbm_status check_shape(const safetensors *file, const safetensors_tensor *source, const int64_t *shape,
                               int n_dims) {
    char got[SAFETENSORS_MAX_DIMS * 20 + 8], wanted[64];
    if (source->n_dims == n_dims && memcmp(source->shape, shape, (size_t)n_dims * sizeof *shape) == 0) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tensor " NAME_FORMAT " is %s, and config.json says %s",
                     safetensors_path(file), source->name, shape_text(source->shape, source->n_dims, got, sizeof got),
                     shape_text(shape, n_dims, wanted, sizeof wanted));
}

static scbm_status read_type(const safetensors *file, const safetensors_tensor *source, scbm_type *type) {
    static const struct {
        const char *name;
        scbm_type type;
    } known[] = {{"F32", SCBM_F32}, {"F16", SCBM_F16}, {"BF16", SCBM_BF16}};
    for (int i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i].name, source->type) == 0) {
            *type = known[i].type;
            return SCBM_OK;
        }
    }
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: tensor " NAME_FORMAT " is %s; F32, F16 and BF16 can be converted",
                     safetensors_path(file), source->name, source->type);
}

static scbm_status place_tensor(hf_weights *weights, const hf_config *config, const safetensors *file,
                                const safetensors_tensor *source, int place) {
    int block;
    const weight_row *row = row_at(place, &block);
    int64_t shape[2] = {size_of(config, row->shape[0]), size_of(config, row->shape[1])};
    int n_dims = row->shape[1] == NONE ? 1 : 2;
    char name[SCBM_MAX_NAME];
    scbm_type type = SCBM_F32;
    if (weights->tensors[place].data)
        return refuse(file, source, "is there a second time, with another prefix or in another file");
    scbm_status status = check_shape(file, source, shape, n_dims);
    if (!status) status = read_type(file, source, &type);
    if (status) return status;
    if (block < 0) snprintf(name, sizeof name, "%s", row->name);
    else snprintf(name, sizeof name, "blk.%d.%s", block, row->name);
    status = scbm_tensor_init(&weights->tensors[place], name, type, n_dims, shape);
    weights->tensors[place].data = (void *)(uintptr_t)source->data; /* the writer only reads it */
    return status;
}

scbm_type hf_weights_type(const scbm_tensor *tensor, scbm_type type) {
    static const char *const kept[] = {"position_embd.weight", "token_types.weight"};
    for (int i = 0; i < COUNT_OF(kept); i++)
        if (strcmp(tensor->name, kept[i]) == 0) return SCBM_F32;
    return tensor->n_dims == 1 ? SCBM_F32 : type;
}

/* ------------------------------------------------------------------------------------------
 * All tensors
 * ---------------------------------------------------------------------------------------- */

static scbm_status place_all(hf_weights *weights, const hf_config *config, const safetensors *file) {
    scbm_status status = SCBM_OK;
    for (int64_t i = 0; i < safetensors_n_tensors(file) && !status; i++) {
        const safetensors_tensor *source = safetensors_get(file, i);
        const char *name = without_prefix(source->name);
        int place = find_place(name, config);
        if (place >= 0) status = place_tensor(weights, config, file, source, place);
        else if (place == -2) status = refuse(file, source, "is in a block beyond config.json's num_hidden_layers");
        else if (is_unused(name)) weights->n_unused++;
        else status = refuse(file, source, "is not part of a BERT encoder as this version knows it");
    }
    return status;
}

/* What Hugging Face calls the tensor at a place. */
static const char *hf_name(int place, char *name, size_t size) {
    int block;
    const weight_row *row = row_at(place, &block);
    if (block < 0) snprintf(name, size, "%s", row->hf);
    else snprintf(name, size, "%s%d.%s", block_start, block, row->hf);
    return name;
}

static scbm_status check_complete(const hf_weights *weights) {
    char name[SCBM_MAX_NAME];
    for (int i = 0; i < weights->n_tensors; i++)
        if (!weights->tensors[i].data)
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s%s: tensor %s is missing", safetensors_path(weights->files[0]),
                             weights->n_files > 1 ? " and its like" : "", hf_name(i, name, sizeof name));
    return SCBM_OK;
}

static scbm_status find_tensors(hf_weights *weights, const hf_config *config) {
    weights->n_tensors = COUNT_OF(outer_rows) + (int)config->blocks * COUNT_OF(block_rows);
    weights->tensors = scbm_alloc_array(&weights->hooks, (size_t)weights->n_tensors, sizeof *weights->tensors);
    if (!weights->tensors) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < weights->n_files && !status; i++) status = place_all(weights, config, weights->files[i]);
    return status ? status : check_complete(weights);
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

/* The bits of the least f32 number that is infinite after rounding to the type; of a quantized one to its scales' type. */
static uint32_t least_infinite(scbm_type type) {
    switch (type) {
    case SCBM_F32: return 0x7f800000;
    case SCBM_BF16: return 0x7f7f8000;
    default: return 0x477ff000; /* 65520 */
    }
}

/* Whether all n numbers, sign aside, are below `limit`; what is not a number lies above all. */
static int all_below_f32(const unsigned char *data, int64_t n, uint32_t limit) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, sizeof bits);
        bits &= 0x7fffffff;
        if (bits > most) most = bits;
    }
    return most < limit;
}

static int all_below_16(const unsigned char *data, int64_t n, uint32_t limit) {
    uint16_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        bits &= 0x7fff;
        if (bits > most) most = bits;
    }
    return most < limit;
}

static int is_finite_as(const scbm_tensor *tensor, scbm_type type) {
    int64_t n = scbm_tensor_elements(tensor);
    uint32_t limit = least_infinite(type);
    switch (tensor->type) {
    case SCBM_F32: return all_below_f32(tensor->data, n, limit);
    case SCBM_BF16: return all_below_16(tensor->data, n, (limit >> 16) + ((limit & 0xffff) != 0));
    default: return all_below_16(tensor->data, n, 0x7c00);
    }
}

scbm_status hf_weights_check(const hf_weights *weights, scbm_type type) {
    const scbm_hooks *hooks = &weights->hooks;
    for (int i = 0; i < weights->n_tensors; i++) {
        const scbm_tensor *tensor = &weights->tensors[i];
        scbm_type stored = hf_weights_type(tensor, type);
        char name[SCBM_MAX_NAME];
        if (!is_finite_as(tensor, SCBM_F32))
            return scbm_fail(SCBM_ERROR_FORMAT, "tensor %s has values that are infinite or not numbers",
                             hf_name(i, name, sizeof name));
        if (!is_finite_as(tensor, stored))
            return scbm_fail(SCBM_ERROR_UNSUPPORTED, "tensor %s has values that are too large for %s; f32 holds them",
                             hf_name(i, name, sizeof name), scbm_type_of(type)->name);
        if (hooks->progress && hooks->progress(hooks->user, "tensors checked", i + 1, weights->n_tensors))
            return scbm_fail(SCBM_ERROR_CANCELLED, "the conversion was stopped");
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Shards
 * ---------------------------------------------------------------------------------------- */

static int has_file(const hf_index *index, const char *name) {
    for (int i = 0; i < index->n_files; i++)
        if (strcmp(index->files[i], name) == 0) return 1;
    return 0;
}

static scbm_status list_files(hf_index *index, const scbm_hooks *hooks) {
    const cJSON *item;
    index->files = scbm_alloc_array(hooks, MAX_FILES, sizeof *index->files);
    if (!index->files) return SCBM_ERROR_MEMORY;
    cJSON_ArrayForEach(item, index->map) {
        const char *name = item->valuestring;
        if (!cJSON_IsString(item) || !name[0] || name[0] == '.' || strchr(name, '/'))
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: weight_map: tensor " NAME_FORMAT " must have the name of a file",
                             index->json.path, item->string);
        if (has_file(index, name)) continue;
        if (index->n_files == MAX_FILES)
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: weight_map names more than %d files", index->json.path,
                             MAX_FILES);
        index->files[index->n_files++] = name;
    }
    if (!index->n_files) return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: weight_map is empty", index->json.path);
    return SCBM_OK;
}

scbm_status hf_index_parse(hf_index *index, const void *data, size_t size, const char *name, const scbm_hooks *hooks) {
    memset(index, 0, sizeof *index);
    scbm_status status = json_parse(&index->json, data, size, name, 0, hooks);
    if (status) return status;
    status = json_object_or_null(&index->json, index->json.root, "weight_map", &index->map);
    if (!status && !index->map)
        status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: weight_map is missing", index->json.path);
    if (!status) status = list_files(index, hooks);
    if (status) hf_index_clear(index);
    return status;
}

void hf_index_clear(hf_index *index) {
    scbm_release(&index->json.hooks, (void *)index->files);
    json_close(&index->json);
    index->files = NULL;
    index->n_files = 0;
}

static int file_number(const hf_index *index, const char *name) {
    int i = 0;
    while (strcmp(index->files[i], name) != 0) i++;
    return i;
}

/* Every tensor is where the index says. */
static scbm_status check_index(const hf_index *index, const hf_weights *weights) {
    const cJSON *item;
    cJSON_ArrayForEach(item, index->map) {
        const safetensors *file = weights->files[file_number(index, item->valuestring)];
        if (!safetensors_find(file, item->string))
            return scbm_fail(SCBM_ERROR_FORMAT,
                             "%.300s: tensor " NAME_FORMAT " is missing, which the index says is there",
                             safetensors_path(file), item->string);
    }
    return SCBM_OK;
}

static scbm_status open_shards(hf_weights *weights, const char *folder, const hf_index *index) {
    scbm_status status = SCBM_OK;
    weights->files = scbm_alloc_array(&weights->hooks, (size_t)index->n_files, sizeof(safetensors *));
    if (!weights->files) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < index->n_files && !status; i++) {
        char *path = json_join(&weights->hooks, folder, index->files[i]);
        status = path ? safetensors_open(&weights->files[i], path, &weights->hooks) : SCBM_ERROR_MEMORY;
        if (!status) weights->n_files++;
        scbm_release(&weights->hooks, path);
    }
    return status ? status : check_index(index, weights);
}

static scbm_status open_index(hf_weights *weights, const char *folder, const char *path) {
    scbm_bytes bytes;
    hf_index index;
    scbm_status status = scbm_bytes_open(&bytes, path, &weights->hooks);
    if (status) return status;
    status = hf_index_parse(&index, bytes.data, bytes.size, path, &weights->hooks);
    scbm_bytes_close(&bytes, &weights->hooks);
    if (status) return status;
    status = open_shards(weights, folder, &index);
    hf_index_clear(&index);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Opening
 * ---------------------------------------------------------------------------------------- */

static scbm_status open_one(hf_weights *weights, const char *path) {
    weights->files = scbm_alloc_array(&weights->hooks, 1, sizeof(safetensors *));
    if (!weights->files) return SCBM_ERROR_MEMORY;
    scbm_status status = safetensors_open(&weights->files[0], path, &weights->hooks);
    if (!status) weights->n_files = 1;
    return status;
}

static scbm_status no_weights(const hf_weights *weights, const char *folder) {
    static const char *const others[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5",
                                         "flax_model.msgpack"};
    for (int i = 0; i < COUNT_OF(others); i++) {
        char *path = json_join(&weights->hooks, folder, others[i]);
        int exists = path && json_file_exists(path);
        scbm_release(&weights->hooks, path);
        if (exists)
            return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                             "%.300s: the weights are in %s; save them as safetensors first (with transformers: "
                             "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER))",
                             folder, others[i]);
    }
    return scbm_fail(SCBM_ERROR_IO, "%.300s: it has neither model.safetensors nor model.safetensors.index.json",
                     folder);
}

static scbm_status open_files(hf_weights *weights, const char *folder) {
    char *one = json_join(&weights->hooks, folder, "model.safetensors");
    char *several = json_join(&weights->hooks, folder, "model.safetensors.index.json");
    scbm_status status = SCBM_ERROR_MEMORY;
    if (one && several) {
        if (json_file_exists(one)) status = open_one(weights, one);
        else if (json_file_exists(several)) status = open_index(weights, folder, several);
        else status = no_weights(weights, folder);
    }
    scbm_release(&weights->hooks, one);
    scbm_release(&weights->hooks, several);
    return status;
}

scbm_status hf_weights_open(hf_weights *weights, const hf_config *config, const scbm_hooks *hooks) {
    memset(weights, 0, sizeof *weights);
    if (hooks) weights->hooks = *hooks;
    scbm_status status = open_files(weights, config->folder);
    if (!status) status = find_tensors(weights, config);
    if (status) hf_weights_clear(weights);
    return status;
}

scbm_status hf_weights_from_file(hf_weights *weights, const hf_config *config, safetensors *file,
                                 const scbm_hooks *hooks) {
    memset(weights, 0, sizeof *weights);
    if (hooks) weights->hooks = *hooks;
    weights->files = scbm_alloc_array(hooks, 1, sizeof(safetensors *));
    if (!weights->files) {
        safetensors_close(file);
        return SCBM_ERROR_MEMORY;
    }
    weights->files[weights->n_files++] = file;
    scbm_status status = find_tensors(weights, config);
    if (status) hf_weights_clear(weights);
    return status;
}

void hf_weights_clear(hf_weights *weights) {
    const scbm_hooks hooks = weights->hooks;
    for (int i = 0; i < weights->n_files; i++) safetensors_close(weights->files[i]);
    scbm_release(&hooks, (void *)weights->files);
    scbm_release(&hooks, weights->tensors);
    memset(weights, 0, sizeof *weights);
    weights->hooks = hooks;
}
