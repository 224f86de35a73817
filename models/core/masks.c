/*
 * models/core/masks.c - bit planes: making, reading, counting
 */
#include "models/base/text.h"
#include "models/core/masks.h"

#include <stdio.h>
#include <string.h>

#define WEIGHT_END ".weight"
#define MASKS_END ".masks"

int cbm_is_prunable(const cbm_parameter *parameter) {
    return parameter->tensor && (parameter->flags & CBM_PRUNABLE);
}

cbm_parameter *cbm_next_prunable(const cbm_backbone *backbone, const cbm_parameter *previous) {
    for (int i = previous ? (int)(previous - backbone->parameters) + 1 : 0; i < backbone->n_parameters; i++)
        if (cbm_is_prunable(&backbone->parameters[i])) return &backbone->parameters[i];
    return NULL;
}

int cbm_n_prunable(const cbm_backbone *backbone) {
    int n = 0;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p));) n++;
    return n;
}

int cbm_masks_streams(const cbm_backbone *backbone) {
    for (int i = 0; i < backbone->n_parameters; i++)
        if (backbone->parameters[i].masks) return (int)backbone->parameters[i].masks->shape[0];
    return 0;
}

scbm_status cbm_masks_pack(const cbm_backbone *backbone, int few, const scbm_hooks *hooks) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < backbone->n_parameters && !status; i++) {
        const cbm_parameter *parameter = &backbone->parameters[i];
        if (parameter->masks) status = scbm_masks_pack(parameter->masks, parameter->tensor, few, hooks);
    }
    return status;
}

void cbm_masks_unpack(const cbm_backbone *backbone, const scbm_hooks *hooks) {
    for (int i = 0; i < backbone->n_parameters; i++) scbm_masks_unpack(backbone->parameters[i].masks, hooks);
}

int cbm_is_masks_name(const char *name) {
    return cbm_ends_with(name, MASKS_END);
}

void cbm_masks_name(char name[SCBM_MAX_NAME], const scbm_tensor *weight) {
    int length = (int)strlen(weight->name);
    if (cbm_ends_with(weight->name, WEIGHT_END)) length -= (int)strlen(WEIGHT_END);
    int most = SCBM_MAX_NAME - (int)sizeof MASKS_END;
    snprintf(name, SCBM_MAX_NAME, "%.*s%s", length < most ? length : most, weight->name, MASKS_END);
}

/* ------------------------------------------------------------------------------------------
 * One matrix
 * ---------------------------------------------------------------------------------------- */

static size_t row_bytes(const scbm_tensor *masks) {
    return (size_t)masks->shape[2];
}

static size_t stream_bytes(const scbm_tensor *masks) {
    return (size_t)masks->shape[1] * row_bytes(masks);
}

uint8_t *cbm_mask_row(const scbm_tensor *masks, int stream, int64_t row) {
    return (uint8_t *)masks->data + (size_t)stream * stream_bytes(masks) + (size_t)row * row_bytes(masks);
}

void cbm_mask_fill(scbm_tensor *masks, int stream, int64_t in) {
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        uint8_t *bits = cbm_mask_row(masks, stream, row);
        memset(bits, 0, row_bytes(masks));
        memset(bits, 0xff, (size_t)(in / 8));
        if (in % 8) bits[in / 8] = (uint8_t)((1u << (in % 8)) - 1);
    }
}

static int64_t count_bits(uint64_t word) {
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int64_t)(word * 0x0101010101010101u >> 56);
}

static uint64_t word_at(const uint8_t *bytes, size_t i) {
    uint64_t word;
    memcpy(&word, bytes + 8 * i, sizeof word);
    return word;
}

int64_t cbm_mask_kept(const scbm_tensor *masks, int stream) {
    const uint8_t *bits = cbm_mask_row(masks, stream, 0);
    int64_t kept = 0;
    for (size_t i = 0; i < stream_bytes(masks) / 8; i++) kept += count_bits(word_at(bits, i));
    return kept;
}

int64_t cbm_mask_difference(const scbm_tensor *a, int stream_a, const scbm_tensor *b, int stream_b) {
    const uint8_t *bits_a = cbm_mask_row(a, stream_a, 0), *bits_b = cbm_mask_row(b, stream_b, 0);
    int64_t n = 0;
    for (size_t i = 0, words = stream_bytes(a) / 8; i < words; i++) n += count_bits(word_at(bits_a, i) ^ word_at(bits_b, i));
    return n;
}

void cbm_mask_overlap(const scbm_tensor *masks, int a, int b, int64_t *both, int64_t *either) {
    const uint8_t *bits_a = cbm_mask_row(masks, a, 0), *bits_b = cbm_mask_row(masks, b, 0);
    *both = *either = 0;
    for (size_t i = 0; i < stream_bytes(masks) / 8; i++) {
        *both += count_bits(word_at(bits_a, i) & word_at(bits_b, i));
        *either += count_bits(word_at(bits_a, i) | word_at(bits_b, i));
    }
}

/* 64 weights at once: bit b of the number of streams that keep a weight is its bit in counter[b]. */
#define COUNTER_BITS 31

static int count_streams(const scbm_tensor *masks, size_t i, uint64_t counter[COUNTER_BITS]) {
    int n_bits = 0;
    for (int s = 0; s < (int)masks->shape[0]; s++) {
        uint64_t carry = word_at(cbm_mask_row(masks, s, 0), i);
        for (int b = 0; carry; b++) {
            if (b == n_bits) counter[n_bits++] = 0;
            uint64_t sum = counter[b] ^ carry;
            carry &= counter[b];
            counter[b] = sum;
        }
    }
    return n_bits;
}

/* The weights whose number is `n`. */
static uint64_t where_count_is(const uint64_t counter[COUNTER_BITS], int n_bits, int n) {
    uint64_t word = n >> n_bits ? 0 : ~(uint64_t)0;
    for (int b = 0; b < n_bits; b++) word &= n >> b & 1 ? counter[b] : ~counter[b];
    return word;
}

void cbm_mask_sharing(const scbm_tensor *masks, int64_t *shared, int64_t *own) {
    uint64_t counter[COUNTER_BITS];
    int n = (int)masks->shape[0];
    for (size_t i = 0; i < stream_bytes(masks) / 8; i++) {
        int n_bits = count_streams(masks, i, counter);
        for (int j = 1; j <= n; j++) shared[j] += count_bits(where_count_is(counter, n_bits, j));
        uint64_t once = where_count_is(counter, n_bits, 1);
        for (int s = 0; s < n && once; s++) own[s] += count_bits(once & word_at(cbm_mask_row(masks, s, 0), i));
    }
}

double cbm_mask_iou(int64_t both, int64_t either) {
    return either ? (double)both / (double)either : 1.0;
}

/* ------------------------------------------------------------------------------------------
 * Making and reading
 * ---------------------------------------------------------------------------------------- */

static scbm_status create_masks(cbm_parameter *parameter, int n, const scbm_hooks *hooks) {
    const scbm_tensor *weight = parameter->tensor;
    const int64_t shape[3] = {n, weight->shape[0], scbm_mask_row_bytes(weight->shape[1])};
    char name[SCBM_MAX_NAME];
    cbm_masks_name(name, weight);
    scbm_tensor *masks = scbm_alloc(hooks, sizeof *masks);
    if (!masks) return SCBM_ERROR_MEMORY;
    parameter->masks = masks;
    scbm_status status = scbm_tensor_init(masks, name, SCBM_I8, 3, shape);
    if (status) return status;
    masks->data = scbm_alloc_array(hooks, scbm_tensor_bytes(masks), 1);
    if (!masks->data) return SCBM_ERROR_MEMORY;
    for (int s = 0; s < n; s++) cbm_mask_fill(masks, s, weight->shape[1]);
    return SCBM_OK;
}

scbm_status cbm_masks_create(cbm_backbone *backbone, int n, const scbm_hooks *hooks) {
    if (!backbone->owns_tensors || n < 1) return scbm_fail(SCBM_ERROR_ARGUMENT, "%d masks for this backbone", n);
    scbm_status status = SCBM_OK;
    for (cbm_parameter *p = NULL; !status && (p = cbm_next_prunable(backbone, p));)
        if (!p->masks) status = create_masks(p, n, hooks);
    return status;
}

void cbm_masks_remove(cbm_backbone *backbone, const scbm_hooks *hooks) {
    for (int i = 0; backbone->owns_tensors && i < backbone->n_parameters; i++) {
        scbm_tensor *masks = backbone->parameters[i].masks;
        scbm_tensor_forget(masks);
        scbm_masks_unpack(masks, hooks);
        if (masks) scbm_release(hooks, masks->data);
        scbm_release(hooks, masks);
        backbone->parameters[i].masks = NULL;
    }
}

/* Bits past a row's end would count as weights that are not there. */
static scbm_status check_padding(const scbm_file *file, const scbm_tensor *masks, int64_t in) {
    for (int s = 0; s < (int)masks->shape[0]; s++) {
        for (int64_t row = 0; row < masks->shape[1]; row++) {
            const uint8_t *bits = cbm_mask_row(masks, s, row);
            size_t first = (size_t)(in / 8);
            int extra = in % 8 ? bits[first++] >> (in % 8) : 0;
            while (first < row_bytes(masks)) extra |= bits[first++];
            if (extra)
                return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s has bits past the end of row %lld of mask %d",
                                 scbm_file_path(file), masks->name, (long long)row, s);
        }
    }
    return SCBM_OK;
}

static scbm_status check_masks(const scbm_file *file, const scbm_tensor *masks, const scbm_tensor *weight,
                               int n_concepts) {
    char shape[96];
    int64_t bytes = scbm_mask_row_bytes(weight->shape[1]);
    if (masks->type != SCBM_I8 || masks->n_dims != 3 || masks->shape[0] != n_concepts ||
        masks->shape[1] != weight->shape[0] || masks->shape[2] != bytes)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is %s %s, and must be i8 [%d, %lld, %lld]",
                         scbm_file_path(file), masks->name, scbm_type_of(masks->type)->name,
                         scbm_shape_text(masks, shape, sizeof shape), n_concepts, (long long)weight->shape[0],
                         (long long)bytes);
    return check_padding(file, masks, weight->shape[1]);
}

scbm_status cbm_masks_read(cbm_backbone *backbone, scbm_file *file, int n_concepts) {
    const char *found = NULL, *missing = NULL;
    for (cbm_parameter *parameter = NULL; (parameter = cbm_next_prunable(backbone, parameter));) {
        char name[SCBM_MAX_NAME];
        cbm_masks_name(name, parameter->tensor);
        scbm_tensor *masks = scbm_file_find_tensor(file, name);
        if (!masks) {
            missing = parameter->tensor->name;
            continue;
        }
        found = masks->name;
        if (n_concepts < 1)
            return scbm_fail(SCBM_ERROR_FORMAT, "%s: there are masks such as %s, and no concepts that they are for",
                             scbm_file_path(file), found);
        scbm_status status = check_masks(file, masks, parameter->tensor, n_concepts);
        if (status) return status;
        parameter->masks = masks;
    }
    if (found && missing)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: there are masks such as %s, and %s has none", scbm_file_path(file),
                         found, missing);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The whole backbone
 * ---------------------------------------------------------------------------------------- */

static int is_of_block(const cbm_parameter *parameter, int block) {
    return block < 0 || parameter->block == block;
}

int64_t cbm_masks_weights(const cbm_backbone *backbone, int block) {
    int64_t n = 0;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p));)
        if (is_of_block(p, block)) n += scbm_tensor_elements(p->tensor);
    return n;
}

double cbm_masks_density(const cbm_backbone *backbone, int stream, int block) {
    int64_t kept = 0, n = cbm_masks_weights(backbone, block);
    if (!cbm_masks_streams(backbone) || !n) return 1.0;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p));)
        if (is_of_block(p, block)) kept += cbm_mask_kept(p->masks, stream);
    return (double)kept / (double)n;
}

double cbm_masks_overlap(const cbm_backbone *backbone, int a, int b, int block) {
    int64_t both = 0, either = 0;
    if (!cbm_masks_streams(backbone)) return 1.0;
    for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p));) {
        int64_t in_both, in_either;
        if (!is_of_block(p, block)) continue;
        cbm_mask_overlap(p->masks, a, b, &in_both, &in_either);
        both += in_both;
        either += in_either;
    }
    return cbm_mask_iou(both, either);
}
