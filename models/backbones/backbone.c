/*
 * models/backbones/backbone.c - the table of architectures; reading encoders from model files, copying and finding
 */
#include "models/backbones/architecture.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Architectures
 * ---------------------------------------------------------------------------------------- */

#define ARCHITECTURES(ROW)                                                                                             \
    ROW(bert)                                                                                                          \
    ROW(roberta) ROW(xlm_roberta) ROW(camembert) ROW(distilbert) ROW(mpnet) ROW(gpt2) ROW(opt) ROW(t5) ROW(bilstm)

#define DECLARE(name) extern const cbm_architecture cbm_##name;
#define ADDRESS(name) &cbm_##name,

ARCHITECTURES(DECLARE)
static const cbm_architecture *const architectures[] = {ARCHITECTURES(ADDRESS)};

#define N_ARCHITECTURES ((int)(sizeof architectures / sizeof architectures[0]))

const cbm_architecture *cbm_architecture_at(int index) {
    return index >= 0 && index < N_ARCHITECTURES ? architectures[index] : NULL;
}

static scbm_status unknown_architecture(const scbm_file *file, const char *name) {
    char known[200];
    int n = 0;
    for (int i = 0; i < N_ARCHITECTURES && n < (int)sizeof known; i++)
        if (!architectures[i]->family)
            n += snprintf(known + n, sizeof known - (size_t)n, "%s%s", i ? ", " : "", architectures[i]->name);
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: its architecture is '%s'; this version knows %s",
                     scbm_file_path(file), name, known);
}

static scbm_status find_architecture(const scbm_file *file, const cbm_architecture **found) {
    const char *name;
    scbm_status status = scbm_file_get_string(file, "general.architecture", &name);
    if (status) return status;
    const char *family = scbm_file_string_or(file, "sparsecbm.family", "");
    int is_known = 0;
    *found = NULL;
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        const cbm_architecture *architecture = architectures[i];
        if (strcmp(architecture->name, name) != 0) continue;
        is_known = 1;
        if (strcmp(architecture->family ? architecture->family : "", family) == 0) *found = architecture;
    }
    if (*found) return SCBM_OK;
    return is_known ? scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s: this version does not know the family '%s' of '%s'",
                                scbm_file_path(file), family, name)
                    : unknown_architecture(file, name);
}

/* ------------------------------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------------------------- */

static int n_outer_rows(const cbm_architecture *architecture) {
    int n = 0;
    while (n < architecture->n_rows && !(architecture->rows[n].flags & CBM_IN_BLOCK)) n++;
    return n;
}

int cbm_n_places(const cbm_backbone *backbone) {
    int n_outer = n_outer_rows(backbone->architecture);
    return n_outer + backbone->n_blocks * (backbone->architecture->n_rows - n_outer);
}

const cbm_row *cbm_row_at(const cbm_backbone *backbone, int place, int *block) {
    const cbm_architecture *architecture = backbone->architecture;
    int n_outer = n_outer_rows(architecture), n_inner = architecture->n_rows - n_outer;
    *block = place < n_outer ? -1 : (place - n_outer) / n_inner;
    return &architecture->rows[place < n_outer ? place : n_outer + (place - n_outer) % n_inner];
}

void cbm_row_name(const cbm_row *row, int block, char name[SCBM_MAX_NAME]) {
    static const char encoder[] = "enc.";
    size_t before = strncmp(row->name, encoder, sizeof encoder - 1) == 0 ? sizeof encoder - 1 : 0;
    if (block < 0) snprintf(name, SCBM_MAX_NAME, "%s", row->name);
    else snprintf(name, SCBM_MAX_NAME, "%.*sblk.%d.%s", (int)before, row->name, block, row->name + before);
}

int cbm_row_is_there(const cbm_backbone *backbone, const cbm_row *row) {
    switch (row->when) {
    case CBM_IF_PROJECTED: return backbone->embedding_width != backbone->hidden;
    case CBM_IF_PRE_NORM: return backbone->pre_norm;
    case CBM_IF_GATED: return backbone->gated;
    case CBM_IF_NOT_GATED: return !backbone->gated;
    case CBM_ALWAYS: break;
    }
    return 1;
}

static int64_t size_of(const cbm_backbone *backbone, cbm_size which) {
    switch (which) {
    case CBM_HIDDEN_SIZE: return backbone->hidden;
    case CBM_ATTENTION_SIZE: return backbone->n_heads * backbone->head_size;
    case CBM_FEED_FORWARD_SIZE: return backbone->feed_forward;
    case CBM_EMBEDDING_SIZE: return backbone->embedding_width;
    case CBM_VOCABULARY_SIZE: return backbone->vocabulary;
    case CBM_POSITIONS_SIZE: return backbone->first_position + backbone->context;
    case CBM_TYPES_SIZE: return backbone->types;
    case CBM_OUTPUT_SIZE: return backbone->output;
    case CBM_HEADS_SIZE: return backbone->n_heads;
    case CBM_STATE_SIZE: return backbone->hidden / 2;
    case CBM_BUCKETS_SIZE: return backbone->n_buckets;
    case CBM_NO_SIZE: break;
    }
    return 0;
}

int cbm_row_shape(const cbm_backbone *backbone, const cbm_row *row, int64_t shape[2]) {
    for (int i = 0; i < 2; i++) shape[i] = size_of(backbone, row->shape[i]);
    if (row->times) shape[0] *= row->times;
    return row->shape[1] == CBM_NO_SIZE ? 1 : 2;
}

/* ------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------- */

static scbm_status wrong_shape(const scbm_file *file, const scbm_tensor *tensor, const int64_t *wanted, int n_dims) {
    char shape[96], rows[32] = "any";
    if (n_dims == 1)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s, and its keys say [%lld]", scbm_file_path(file),
                         tensor->name, scbm_shape_text(tensor, shape, sizeof shape), (long long)wanted[0]);
    if (wanted[0]) snprintf(rows, sizeof rows, "%lld", (long long)wanted[0]);
    return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s, and its keys say [%s, %lld]", scbm_file_path(file),
                     tensor->name, scbm_shape_text(tensor, shape, sizeof shape), rows, (long long)wanted[1]);
}

/* How many words, positions and types there are the tensors themselves decide. */
static int is_open(cbm_size size) {
    return size == CBM_VOCABULARY_SIZE || size == CBM_POSITIONS_SIZE || size == CBM_TYPES_SIZE;
}

static scbm_status check_tensor(const cbm_backbone *backbone, const scbm_file *file, const cbm_row *row,
                                const scbm_tensor *tensor) {
    int64_t wanted[2];
    int n_dims = cbm_row_shape(backbone, row, wanted), fits = tensor->n_dims == n_dims;
    int is_whole = row->shape[0] == CBM_POSITIONS_SIZE && backbone->padding >= 0; /* its last row has a meaning */
    if (is_open(row->shape[0]) && !is_whole) wanted[0] = 0;
    for (int i = 0; i < n_dims && fits; i++) fits = wanted[i] ? tensor->shape[i] == wanted[i] : tensor->shape[i] >= 1;
    if (!fits) return wrong_shape(file, tensor, wanted, n_dims);
    if (n_dims == 1 ? tensor->type != SCBM_F32 : !scbm_type_of(tensor->type)->is_float)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s; %s is wanted", scbm_file_path(file), tensor->name,
                         scbm_type_of(tensor->type)->name, n_dims == 1 ? "f32" : "a type of real numbers");
    if (row->shape[0] == CBM_POSITIONS_SIZE && tensor->shape[0] < backbone->first_position + backbone->max_tokens)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s has %lld rows for texts of %d tokens", scbm_file_path(file),
                         tensor->name, (long long)tensor->shape[0], backbone->max_tokens);
    return SCBM_OK;
}

/* A matrix of one row whose outer dimension the file leaves out, as llama.cpp's do (RoBERTa's token types), has it. */
static void restore_rows(const cbm_row *row, scbm_tensor *tensor) {
    if (row->shape[1] == CBM_NO_SIZE || tensor->n_dims != 1) return;
    tensor->n_dims = 2;
    tensor->shape[1] = tensor->shape[0];
    tensor->shape[0] = 1;
}

static scbm_status find_tensor(cbm_backbone *backbone, scbm_file *file, const cbm_row *row, int block) {
    char name[SCBM_MAX_NAME];
    cbm_row_name(row, block, name);
    scbm_tensor *tensor = scbm_file_find_tensor(file, name);
    if (!cbm_row_is_there(backbone, row)) tensor = NULL;
    else if (!tensor && !(row->flags & CBM_OPTIONAL))
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is missing", scbm_file_path(file), name);
    if (tensor) restore_rows(row, tensor);
    scbm_status status = tensor ? check_tensor(backbone, file, row, tensor) : SCBM_OK;
    if (status) return status;
    backbone->parameters[backbone->n_parameters++] = (cbm_parameter){tensor, NULL, row->role, block, row->flags};
    if (tensor && row->shape[0] == CBM_VOCABULARY_SIZE) backbone->vocabulary = tensor->shape[0];
    if (tensor && row->shape[0] == CBM_TYPES_SIZE) backbone->types = tensor->shape[0];
    return SCBM_OK;
}

static scbm_status find_tensors(cbm_backbone *backbone, scbm_file *file, const scbm_hooks *hooks) {
    int n = cbm_n_places(backbone);
    backbone->parameters = scbm_alloc_array(hooks, (size_t)n, sizeof *backbone->parameters);
    if (!backbone->parameters) return SCBM_ERROR_MEMORY;
    backbone->vocabulary = backbone->types = 0;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < n && !status; i++) {
        int block;
        const cbm_row *row = cbm_row_at(backbone, i, &block);
        status = find_tensor(backbone, file, row, block);
    }
    return status;
}

/* A file may have several parameters as one tensor: its rows are theirs. */
static scbm_status split_fused(const cbm_architecture *architecture, scbm_file *file) {
    enum { MOST = 4 };
    scbm_status status = SCBM_OK;
    for (int i = 0; i < architecture->n_rows && !status; i++) {
        const cbm_row *row = &architecture->rows[i];
        const char *parts[MOST] = {NULL};
        if (!row->fused || row->part > 0 || row->parts > MOST) continue;
        for (int j = i; j < architecture->n_rows; j++) {
            const cbm_row *other = &architecture->rows[j];
            if (other->fused && strcmp(other->fused, row->fused) == 0) parts[other->part] = other->name;
        }
        status = scbm_file_split_tensors(file, row->fused, parts, row->parts);
    }
    return status;
}

scbm_status cbm_backbone_read_as(cbm_backbone *backbone, const cbm_architecture *architecture, scbm_file *file,
                                 const scbm_hooks *hooks) {
    cbm_settings_default(backbone, architecture);
    scbm_status status = cbm_settings_read(backbone, file);
    if (!status) status = split_fused(architecture, file);
    if (!status) status = find_tensors(backbone, file, hooks);
    if (status) cbm_backbone_clear(backbone, hooks);
    return status;
}

scbm_status cbm_backbone_read(cbm_backbone *backbone, scbm_file *file, const scbm_hooks *hooks) {
    const cbm_architecture *architecture;
    memset(backbone, 0, sizeof *backbone);
    scbm_status status = find_architecture(file, &architecture);
    return status ? status : cbm_backbone_read_as(backbone, architecture, file, hooks);
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
        scbm_tensor_forget(tensor);
        scbm_tensor_forget(masks);
        if (tensor) scbm_release(hooks, tensor->data);
        scbm_masks_unpack(masks, hooks);
        if (masks) scbm_release(hooks, masks->data);
        scbm_release(hooks, tensor);
        scbm_release(hooks, masks);
    }
    scbm_release(hooks, backbone->parameters);
    memset(backbone, 0, sizeof *backbone);
}

int64_t cbm_longest_text(const cbm_backbone *backbone) {
    return backbone->context - (backbone->padding >= 0);
}

/* In single precision, as PyTorch computes it. */
int32_t cbm_distance_bucket(const cbm_backbone *backbone, int64_t distance) {
    int64_t half = backbone->n_buckets / 2, near = half / 2, far = distance < 0 ? -distance : distance;
    if (far >= near) {
        float steps = (float)scbm_logarithm((double)((float)far / (float)near)) /
                      (float)scbm_logarithm((double)backbone->max_distance / (double)near);
        int64_t bucket = near + (int64_t)(steps * (float)(half - near));
        far = bucket < half ? bucket : half - 1;
    }
    return (int32_t)(far + (distance > 0 ? half : 0));
}

cbm_parameter *cbm_backbone_find(const cbm_backbone *backbone, cbm_role role, int block) {
    for (int i = 0; i < backbone->n_parameters; i++) {
        cbm_parameter *parameter = &backbone->parameters[i];
        if (parameter->tensor && parameter->role == role && parameter->block == block) return parameter;
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

void cbm_backbone_encode(const cbm_backbone *backbone, scbm_graph *g, int64_t capacity_texts,
                         const cbm_encode_options *options, cbm_encoding *encoding) {
    const int64_t tokens = 0, ends = capacity_texts + 1;
    const scbm_extent extent = SCBM_TOKENS;
    memset(encoding, 0, sizeof *encoding);
    if (options->attention) *options->attention = NULL;
    scbm_graph_set_longest(g, backbone->max_tokens);
    if (!options->embeddings) encoding->ids = scbm_input(g, "ids", SCBM_I32, 1, &tokens, &extent);
    if (cbm_backbone_find(backbone, CBM_POSITION_EMBEDDING, -1))
        encoding->positions = scbm_input(g, "positions", SCBM_I32, 1, &tokens, &extent);
    if (cbm_backbone_find(backbone, CBM_DISTANCE_BIAS, -1)) {
        const int64_t distances = 2 * backbone->max_tokens - 1;
        encoding->buckets = scbm_input(g, "buckets", SCBM_I32, 1, &distances, NULL);
    }
    encoding->offsets = scbm_input(g, "offsets", SCBM_I32, 1, &ends, NULL);
    backbone->architecture->encode(backbone, g, options, encoding);
}
