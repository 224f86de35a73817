/*
 * convert/hf-weights.c - the tensors of a Hugging Face folder's encoder, under the names of model files
 */
#include "convert/hf-weights.h"
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define NAME_FORMAT "%.120s" /* of a name from a file */

/* ------------------------------------------------------------------------------------------
 * Names
 * ---------------------------------------------------------------------------------------- */

/* A name without what stands before the encoder's names, or else without what usually stands there. */
static const char *without_prefix(const hf_weights *weights, const char *name) {
    size_t length = weights->prefix_length;
    if (length && strncmp(name, weights->prefix, length) == 0) return name + length;
    for (const char *const *prefix = weights->architecture->hf_prefixes; *prefix; prefix++)
        if (cbm_starts_with(name, *prefix)) return name + strlen(*prefix);
    return name;
}

/* The number that text begins with; *rest is what follows its dot. -1: there is none. */
static int block_number(const char *text, const char **rest) {
    int number = 0, n = 0;
    for (; text[n] >= '0' && text[n] <= '9' && n < 6; n++) number = 10 * number + (text[n] - '0');
    if (!n || text[n] != '.' || (text[0] == '0' && n > 1)) return -1;
    *rest = text + n + 1;
    return number;
}

/* The block of a name without its prefix, and what follows; -1 outside the blocks, where all of it follows. */
static int split_name(const cbm_architecture *architecture, const char *name, const char **rest) {
    *rest = name;
    return cbm_starts_with(name, architecture->hf_block) ? block_number(name + strlen(architecture->hf_block), rest)
                                                         : -1;
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

static int is_listed(const char *const *list, const char *name) {
    for (; list && *list; list++) {
        int is_beginning = (*list)[strlen(*list) - 1] == '.';
        if (is_beginning ? cbm_starts_with(name, *list) : strcmp(name, *list) == 0) return 1;
    }
    return 0;
}

/* What the folder calls a parameter. */
static const char *hf_name(const hf_weight *weight, char *name, size_t size) {
    const hf_weights *weights = weight->weights;
    int n = snprintf(name, size, "%.*s", (int)weights->prefix_length, weights->prefix ? weights->prefix : "");
    if (n < 0 || (size_t)n >= size) return name;
    if (weight->block < 0) snprintf(name + n, size - (size_t)n, "%s", weight->row->hf);
    else
        snprintf(name + n, size - (size_t)n, "%s%d.%s", weights->architecture->hf_block, weight->block,
                 weight->row->hf);
    return name;
}

/* What config.json calls a field of the backbone. */
static const char *key_of(const cbm_architecture *architecture, size_t field) {
    int i = 0;
    while (i < architecture->n_keys - 1 && architecture->keys[i].field != field) i++;
    return architecture->keys[i].hf;
}

/* ------------------------------------------------------------------------------------------
 * What stands before the encoder's names
 * ---------------------------------------------------------------------------------------- */

/* Where the encoder's first parameter is, behind a prefix that ends with a dot, or none. */
typedef struct hf_start {
    const char *name; /* the whole one */
    size_t prefix;    /* bytes of it */
} hf_start;

static int is_start(const cbm_architecture *architecture, const char *name, hf_start *start) {
    const char *first = architecture->rows[0].hf;
    size_t n = strlen(name), m = strlen(first);
    *start = (hf_start){name, n - m};
    return n >= m && strcmp(name + n - m, first) == 0 && (n == m || name[n - m - 1] == '.');
}

/* Whether a prefix is the architecture's own, or none, perhaps behind what DataParallel, torch.compile and the like put
 * before it. */
static int is_usual(const cbm_architecture *architecture, const hf_start *start) {
    static const char *const wrappers[] = {"module.", "_orig_mod.", "model.", "0.auto_model."};
    const char *rest = start->name, *end = start->name + start->prefix;
    for (int i = 0; i < COUNT_OF(wrappers); i++) {
        size_t length = strlen(wrappers[i]);
        if ((size_t)(end - rest) < length || strncmp(rest, wrappers[i], length) != 0) continue;
        rest += length;
        i = -1; /* one may wrap another */
    }
    for (const char *const *prefix = architecture->hf_prefixes; *prefix; prefix++)
        if ((size_t)(end - rest) == strlen(*prefix) && cbm_starts_with(rest, *prefix)) return 1;
    return rest == end;
}

/* The only encoder, or the only one with a usual prefix. */
static scbm_status find_prefix(hf_weights *weights) {
    const cbm_architecture *architecture = weights->architecture;
    hf_start found = {NULL, 0}, other = {NULL, 0}, start;
    int found_usual = 0;
    for (int i = 0; i < weights->files.n; i++) {
        const tensor_file *file = weights->files.file[i];
        for (int64_t t = 0; t < cbm_tensor_file_n(file); t++) {
            if (!is_start(architecture, cbm_tensor_file_get(file, t)->name, &start)) continue;
            int usual = is_usual(architecture, &start);
            if (found.name && (usual < found_usual || strcmp(found.name, start.name) == 0)) continue;
            other = usual == found_usual ? found : (hf_start){NULL, 0};
            found = start;
            found_usual = usual;
        }
    }
    if (other.name)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                         "%.300s: there are two encoders in it, with tensors " NAME_FORMAT " and " NAME_FORMAT
                         "; save the one that is wanted by itself",
                         cbm_tensor_file_path(weights->files.file[0]), other.name, found.name);
    weights->prefix = found.name;
    weights->prefix_length = found.prefix;
    if (found.name && !found_usual)
        scbm_log(&weights->hooks, SCBM_LOG_INFO, "the encoder's tensors are those whose names begin with %.*s",
                 (int)found.prefix, found.name);
    return SCBM_OK;
}

/* Bytes that a name shares with the encoder's prefix, up to a dot: "module." of "module.score.weight". */
static size_t shared_prefix(const hf_weights *weights, const char *name) {
    size_t shared = 0;
    for (size_t i = 0; i < weights->prefix_length && name[i] == weights->prefix[i]; i++)
        if (name[i] == '.') shared = i + 1;
    return shared;
}

/* Counts a tensor that is left out with those that begin as it does, up to a dot; one of a module that is not left out
 * has its whole name. The last place takes all that find no other. */
static void note_unused(hf_weights *weights, const char *name, int is_whole) {
    char beginning[sizeof weights->unused[0].name];
    int i = 0, n = weights->n_beginnings;
    name += shared_prefix(weights, name);
    snprintf(beginning, sizeof beginning, "%.*s", (int)(is_whole ? strlen(name) : strcspn(name, ".")), name);
    weights->n_unused++;
    while (i < n && strcmp(weights->unused[i].name, beginning) != 0) i++;
    if (i == HF_MOST_UNUSED) i--, snprintf(weights->unused[i].name, sizeof beginning, "others");
    else if (i == n) snprintf(weights->unused[weights->n_beginnings++].name, sizeof beginning, "%s", beginning);
    weights->unused[i].n++;
}

const char *cbm_hf_weights_list_unused(const hf_weights *weights, char *text, size_t size) {
    char shown[CBM_SHOWN_SIZE];
    size_t used = 0;
    if (size) text[0] = 0;
    for (int i = 0; i < weights->n_beginnings && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s (%d)", i ? ", " : "",
                                 cbm_show_string(shown, weights->unused[i].name), weights->unused[i].n);
    return text;
}

/* ------------------------------------------------------------------------------------------
 * One tensor
 * ---------------------------------------------------------------------------------------- */

static scbm_status refuse(const tensor_file *file, const stored_tensor *source, const char *why) {
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%.300s: tensor " NAME_FORMAT " %s", cbm_tensor_file_path(file),
                     source->name, why);
}

/* "[2, 3]" */
static const char *shape_text(const int64_t *shape, int n_dims, char *text, size_t size) {
    int n = snprintf(text, size, "[");
    for (int i = 0; i < n_dims && n < (int)size; i++)
        n += snprintf(text + n, size - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < (int)size) snprintf(text + n, size - (size_t)n, "]");
    return text;
}

int cbm_hf_moves_padding(const cbm_backbone *settings, const cbm_row *row) {
    return settings->architecture->hf_counts_padding && row->shape[0] == CBM_POSITIONS_SIZE;
}

int cbm_hf_source_shape(const cbm_backbone *settings, const cbm_row *row, int64_t shape[2]) {
    int n_dims = cbm_row_shape(settings, row, shape);
    if (row->parts) shape[0] *= row->parts;
    if (cbm_hf_moves_padding(settings, row)) shape[0] += settings->padding;
    if (row->is_transposed) {
        int64_t rows = shape[0];
        shape[0] = shape[1];
        shape[1] = rows;
    }
    return n_dims;
}

static scbm_status check_shape(const cbm_backbone *settings, const tensor_file *file, const stored_tensor *source,
                               const cbm_row *row) {
    char got[STORED_MAX_DIMS * 20 + 8], wanted[64];
    int64_t shape[2];
    int n_dims = cbm_hf_source_shape(settings, row, shape);
    if (source->n_dims == n_dims && memcmp(source->shape, shape, (size_t)n_dims * sizeof *shape) == 0) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: tensor " NAME_FORMAT " is %s, and config.json says %s",
                     cbm_tensor_file_path(file), source->name,
                     shape_text(source->shape, source->n_dims, got, sizeof got),
                     shape_text(shape, n_dims, wanted, sizeof wanted));
}

static scbm_status read_type(const tensor_file *file, const stored_tensor *source, scbm_type *type) {
    if (cbm_stored_read_type(source, type)) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                     "%.300s: tensor " NAME_FORMAT " is %s; F32, F16, BF16 and F64 can be converted",
                     cbm_tensor_file_path(file), source->name, source->type);
}

static scbm_status place_tensor(hf_weight *weight, const cbm_backbone *settings, const tensor_file *file,
                                const stored_tensor *source) {
    int64_t shape[2];
    char name[SCBM_MAX_NAME];
    scbm_type type = SCBM_F32;
    if (weight->source) return refuse(file, source, "is there a second time, with another prefix or in another file");
    scbm_status status = check_shape(settings, file, source, weight->row);
    if (!status) status = read_type(file, source, &type);
    if (status) return status;
    int n_dims = cbm_row_shape(settings, weight->row, shape);
    cbm_row_name(weight->row, weight->block, name);
    weight->source = source;
    weight->padding = cbm_hf_moves_padding(settings, weight->row) ? settings->padding : -1;
    status = scbm_tensor_init(&weight->tensor, name, type, n_dims, shape);
    if (status || !weight->row->fused || weight->row->part) return status;
    cbm_row whole = *weight->row;
    whole.name = whole.fused;
    shape[0] *= whole.parts;
    cbm_row_name(&whole, weight->block, name);
    return scbm_tensor_init(&weight->fused, name, type, n_dims, shape);
}

/* ------------------------------------------------------------------------------------------
 * All tensors
 * ---------------------------------------------------------------------------------------- */

/* Whether a name is one of the encoder's modules: it begins as a row does, up to the first dot. */
static int is_inside(const hf_weights *weights, const char *name) {
    size_t length = strcspn(name, ".") + 1;
    for (int i = 0; i < weights->n; i++) {
        const hf_weight *weight = &weights->weight[i];
        const char *own = weight->block < 0 ? weight->row->hf : weights->architecture->hf_block;
        if (strncmp(own, name, length) == 0) return 1;
    }
    return 0;
}

/* A tensor that no row names: left out where it lies beside the encoder, an error where it is of it. */
static scbm_status place_unknown(hf_weights *weights, const cbm_backbone *settings, const tensor_file *file,
                                 const stored_tensor *source, int block, const char *rest) {
    const cbm_architecture *architecture = weights->architecture;
    const char *name = without_prefix(weights, source->name);
    int is_known = is_listed(block < 0 ? architecture->hf_unused : architecture->hf_unused_in_block, rest);
    if (is_known || (block < 0 && !is_inside(weights, name))) {
        note_unused(weights, name, block < 0 && is_inside(weights, name));
        return SCBM_OK;
    }
    char why[160];
    if (block >= settings->n_blocks)
        snprintf(why, sizeof why, "is in a block beyond config.json's %s",
                 key_of(architecture, offsetof(cbm_backbone, n_blocks)));
    else snprintf(why, sizeof why, "is not part of a %s encoder as this version knows it", architecture->title);
    return refuse(file, source, why);
}

/* Whether the folder's tensor, of this block or -1, is the weight's. What all blocks share may lie in one of them. */
static int is_weight(const hf_weights *weights, const hf_weight *weight, int block, const char *rest,
                     const char *name) {
    if (weight->block >= 0) return weight->block == block && is_name(rest, weight->row->hf);
    return is_name(name, weight->row->hf) &&
           (block < 0 || cbm_starts_with(weight->row->hf, weights->architecture->hf_block));
}

/* A tensor of the folder to every row that names it. */
static scbm_status place(hf_weights *weights, const cbm_backbone *settings, const tensor_file *file,
                         const stored_tensor *source) {
    const char *rest, *name = without_prefix(weights, source->name);
    int block = split_name(weights->architecture, name, &rest), n_found = 0;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < weights->n && !status; i++) {
        hf_weight *weight = &weights->weight[i];
        if (!is_weight(weights, weight, block, rest, name) || !cbm_row_is_there(settings, weight->row)) continue;
        status = place_tensor(weight, settings, file, source);
        n_found++;
    }
    return status || n_found ? status : place_unknown(weights, settings, file, source, block, rest);
}

static scbm_status check_complete(const hf_weights *weights, const cbm_backbone *settings) {
    char name[SCBM_MAX_NAME];
    for (int i = 0; i < weights->n; i++) {
        const hf_weight *weight = &weights->weight[i];
        if (!weight->source && !(weight->row->flags & CBM_HF_OPTIONAL) && cbm_row_is_there(settings, weight->row))
            return scbm_fail(SCBM_ERROR_FORMAT, "%.300s%s: tensor %s is missing",
                             cbm_tensor_file_path(weights->files.file[0]), weights->files.n > 1 ? " and its like" : "",
                             hf_name(weight, name, sizeof name));
    }
    return SCBM_OK;
}

static scbm_status find_tensors(hf_weights *weights, const cbm_backbone *settings) {
    weights->architecture = settings->architecture;
    weights->n = cbm_n_places(settings);
    weights->weight = scbm_alloc_array(&weights->hooks, (size_t)weights->n, sizeof *weights->weight);
    if (!weights->weight) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < weights->n; i++) {
        weights->weight[i].row = cbm_row_at(settings, i, &weights->weight[i].block);
        weights->weight[i].weights = weights;
    }
    scbm_status status = find_prefix(weights);
    for (int i = 0; i < weights->files.n; i++) {
        const tensor_file *file = weights->files.file[i];
        for (int64_t t = 0; t < cbm_tensor_file_n(file) && !status; t++)
            status = place(weights, settings, file, cbm_tensor_file_get(file, t));
    }
    return status ? status : check_complete(weights, settings);
}

scbm_status cbm_hf_weights_open(hf_weights *weights, const cbm_backbone *settings, const char *folder,
                                const scbm_hooks *hooks) {
    memset(weights, 0, sizeof *weights);
    if (hooks) weights->hooks = *hooks;
    scbm_status status = cbm_hf_files_open(&weights->files, folder, hooks);
    if (!status) status = find_tensors(weights, settings);
    if (status) cbm_hf_weights_clear(weights);
    return status;
}

scbm_status cbm_hf_weights_from_file(hf_weights *weights, const cbm_backbone *settings, tensor_file *file,
                                     const scbm_hooks *hooks) {
    memset(weights, 0, sizeof *weights);
    if (hooks) weights->hooks = *hooks;
    scbm_status status = cbm_hf_files_from_one(&weights->files, file, hooks);
    if (!status) status = find_tensors(weights, settings);
    if (status) cbm_hf_weights_clear(weights);
    return status;
}

void cbm_hf_weights_clear(hf_weights *weights) {
    const scbm_hooks hooks = weights->hooks;
    cbm_hf_files_close(&weights->files);
    scbm_release(&hooks, weights->weight);
    memset(weights, 0, sizeof *weights);
    weights->hooks = hooks;
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

scbm_type cbm_hf_weights_type(const hf_weight *weight, scbm_type type) {
    if (type == SCBM_F16 && weight->row->flags & CBM_NOT_F16) return SCBM_F32;
    return weight->row->flags & CBM_QUANTIZED ? type : SCBM_F32;
}

/* The bits of the least f32 number that is infinite after rounding to the type; of a quantized one to its scales' type. */
static uint32_t least_infinite(scbm_type type) {
    switch (type) {
    case SCBM_F32: return 0x7f800000;
    case SCBM_BF16: return 0x7f7f8000;
    default: return 0x477ff000; /* 65520 */
    }
}

/* The bits of the greatest of n numbers, sign aside; what is not a number lies above all. */
static uint32_t greatest_f32(const unsigned char *data, int64_t n) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, sizeof bits);
        bits &= 0x7fffffff;
        if (bits > most) most = bits;
    }
    return most;
}

static uint32_t greatest_16(const unsigned char *data, int64_t n) {
    uint16_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        bits &= 0x7fff;
        if (bits > most) most = bits;
    }
    return most;
}

/* The same of all of the folder's tensor, of which the weight may be a part. */
static scbm_status find_greatest(const hf_weight *weight, uint32_t *greatest) {
    enum { CHUNK = 1 << 18 }; /* numbers that are read at once, and a row at least */
    const stored_tensor *source = weight->source;
    const scbm_hooks *hooks = &weight->weights->hooks;
    int64_t rows = source->shape[0], columns = source->n_dims > 1 ? source->shape[1] : 1;
    int64_t at_once = columns < CHUNK ? CHUNK / columns : 1;
    int64_t size = scbm_type_of(weight->tensor.type)->block_bytes;
    unsigned char *data = scbm_alloc_array(hooks, (size_t)(at_once * columns), (size_t)size);
    *greatest = 0;
    if (!data) return SCBM_ERROR_MEMORY;
    for (int64_t i = 0; i < rows; i += at_once) {
        const stored_part part = {i, rows - i < at_once ? rows - i : at_once, columns, 0};
        cbm_stored_read(source, &part, data);
        uint32_t most = size == 4 ? greatest_f32(data, part.rows * columns) : greatest_16(data, part.rows * columns);
        if (most > *greatest) *greatest = most;
    }
    scbm_release(hooks, data);
    return SCBM_OK;
}

static int is_finite_as(const hf_weight *weight, uint32_t greatest, scbm_type type) {
    uint32_t limit = least_infinite(type);
    switch (weight->tensor.type) {
    case SCBM_F32: return greatest < limit;
    case SCBM_BF16: return greatest < (limit >> 16) + ((limit & 0xffff) != 0);
    default: return greatest < 0x7c00;
    }
}

static scbm_status tell(const hf_weight *weight, const char *what) {
    const hf_weights *weights = weight->weights;
    return scbm_progress(&weights->hooks, what, weight - weights->weight + 1, weights->n);
}

static scbm_status check_values(const hf_weight *weight, scbm_type type) {
    char name[SCBM_MAX_NAME];
    uint32_t greatest;
    scbm_status status = find_greatest(weight, &greatest);
    if (status) return status;
    if (!is_finite_as(weight, greatest, SCBM_F32))
        return scbm_fail(SCBM_ERROR_FORMAT, "tensor %s has values that are infinite or not numbers",
                         hf_name(weight, name, sizeof name));
    if (!is_finite_as(weight, greatest, cbm_hf_weights_type(weight, type)))
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "tensor %s has values that are too large for %s; f32 holds them",
                         hf_name(weight, name, sizeof name), scbm_type_of(type)->name);
    return SCBM_OK;
}

scbm_status cbm_hf_weights_check(const hf_weights *weights, scbm_type type) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < weights->n && !status; i++) {
        const hf_weight *weight = &weights->weight[i];
        if (weight->source && weight->row->part == 0) status = check_values(weight, type);
        if (!status) status = tell(weight, "tensors checked");
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

/* The rows of a fused tensor that are the weight's, turned where the folder has it otherwise; of positions the rows behind
 * the padding's, and that one last. */
static scbm_status produce(void *user, const scbm_tensor *tensor, void *data) {
    const hf_weight *weight = user;
    int64_t rows = tensor->shape[0], columns = tensor->n_dims > 1 ? tensor->shape[1] : 1;
    stored_part part = {weight->row->part * rows, rows, columns, weight->row->is_transposed};
    if (weight->padding >= 0) {
        size_t row = scbm_tensor_bytes(tensor) / (size_t)rows;
        stored_part padding = {weight->padding, 1, columns, 0};
        cbm_stored_read(weight->source, &padding, (char *)data + (size_t)(rows - 1) * row);
        part = (stored_part){weight->padding + 1, rows - 1, columns, 0};
    }
    cbm_stored_read(weight->source, &part, data);
    return tell(weight, "tensors written");
}

void cbm_hf_weights_add(const hf_weights *weights, scbm_type type, scbm_writer *writer) {
    for (int i = 0; i < weights->n; i++) {
        hf_weight *weight = &weights->weight[i];
        if (!weight->source || (weight->row->fused && weight->row->part)) continue;
        scbm_writer_add_tensor_from(writer, weight->row->fused ? &weight->fused : &weight->tensor, cbm_hf_weights_type(weight, type), produce, weight);
    }
}
