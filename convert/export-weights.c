/*
 * convert/export-weights.c - an encoder's weights as a Hugging Face folder has them
 */
#include "convert/export-weights.h"
#include "convert/hf-weights.h"
#include "convert/safetensors.h"
#include "models/core/masks.h"

#include <stdio.h>
#include <string.h>

typedef struct exported {
    const cbm_backbone *backbone, *settings;
    int stream;
    safetensors_entry *entry;
    int *place; /* [n] of the first row of entry i; the other parts of a fused tensor have the same name */
    int n;
    const scbm_hooks *hooks;
} exported;

static void name_entry(const cbm_architecture *architecture, const cbm_row *row, int block, safetensors_entry *entry) {
    if (block < 0) snprintf(entry->name, sizeof entry->name, "%s", row->hf);
    else snprintf(entry->name, sizeof entry->name, "%s%d.%s", architecture->hf_block, block, row->hf);
}

static const cbm_parameter *parameter_of(const exported *e, const cbm_row *row, int block) {
    return cbm_backbone_find(e->backbone, row->role, block);
}

/* Whether the folder has this row's tensor, and no row before it made it. */
static int begins_entry(const exported *e, const cbm_row *row, int block) {
    return row->part == 0 && cbm_row_is_there(e->settings, row) &&
           (parameter_of(e, row, block) || !(row->flags & CBM_HF_OPTIONAL));
}

static void add_entry(exported *e, const cbm_row *row, int block, int place) {
    safetensors_entry *entry = &e->entry[e->n];
    name_entry(e->settings->architecture, row, block, entry);
    entry->n_dims = cbm_hf_source_shape(e->settings, row, entry->shape);
    e->place[e->n++] = place;
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

/* Row o of W, or of W ⊙ M. */
static scbm_status read_row(const exported *e, const cbm_parameter *parameter, int64_t o, int64_t in, float *row) {
    const scbm_tensor *tensor = parameter->tensor, *masks = e->stream < 0 ? NULL : parameter->masks;
    const scbm_type_info *type = scbm_type_of(tensor->type);
    const unsigned char *data = (const unsigned char *)tensor->data + o * in / type->block * type->block_bytes;
    scbm_status status = scbm_convert(SCBM_F32, row, tensor->type, data, in);
    if (status || !masks) return status;
    const uint8_t *bits = cbm_mask_row(masks, e->stream, o);
    for (int64_t i = 0; i < in; i++)
        if (!cbm_mask_get(bits, i)) row[i] = 0;
    return SCBM_OK;
}

/* A parameter's matrix or vector into its place of the folder's tensor. `row` is room for one of its rows. */
static scbm_status place_parameter(const exported *e, const cbm_row *row, const cbm_parameter *parameter, float *data,
                                   float *values) {
    int64_t shape[2];
    int n_dims = cbm_row_shape(e->settings, row, shape);
    int64_t rows = n_dims == 2 ? shape[0] : 1, in = shape[n_dims - 1], all = shape[0] * (row->parts ? row->parts : 1);
    int64_t first = row->part * shape[0];
    for (int64_t o = 0; o < rows; o++) {
        scbm_status status = read_row(e, parameter, o, in, values);
        if (status) return status;
        if (cbm_hf_moves_padding(e->settings, row))
            first = o == rows - 1 ? e->settings->padding - o : e->settings->padding + 1;
        if (n_dims == 1) memcpy(data + first, values, (size_t)in * sizeof *data);
        else if (!row->is_transposed) memcpy(data + (first + o) * in, values, (size_t)in * sizeof *data);
        else
            for (int64_t i = 0; i < in; i++) data[i * all + first + o] = values[i];
    }
    return SCBM_OK;
}

/* All parts of a tensor; what the backbone lacks is zeros. */
static scbm_status produce(void *user, int i, float *data) {
    const exported *e = user;
    int block, other;
    int64_t shape[2];
    const cbm_row *row = cbm_row_at(e->settings, e->place[i], &block);
    int n_dims = cbm_row_shape(e->settings, row, shape), n = cbm_n_places(e->settings);
    float *values = scbm_alloc_array(e->hooks, (size_t)shape[n_dims - 1], sizeof *values);
    scbm_status status = values ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int place = e->place[i]; place < n && !status; place++) {
        const cbm_row *part = cbm_row_at(e->settings, place, &other);
        if (other != block) break;
        const cbm_parameter *parameter = strcmp(part->hf, row->hf) == 0 ? parameter_of(e, part, block) : NULL;
        if (parameter) status = place_parameter(e, part, parameter, data, values);
    }
    scbm_release(e->hooks, values);
    if (!status) status = scbm_progress(e->hooks, "tensors written", i + 1, e->n);
    return status;
}

scbm_status cbm_hf_export_weights(const cbm_backbone *backbone, const cbm_backbone *settings, int stream,
                                  const char *path, const scbm_hooks *hooks) {
    exported e = {.backbone = backbone, .settings = settings, .stream = stream, .hooks = hooks};
    int n = cbm_n_places(settings), block;
    e.entry = scbm_alloc_array(hooks, (size_t)n, sizeof *e.entry);
    e.place = scbm_alloc_array(hooks, (size_t)n, sizeof *e.place);
    scbm_status status = e.entry && e.place ? SCBM_OK : SCBM_ERROR_MEMORY;
    for (int i = 0; i < n && !status; i++) {
        const cbm_row *row = cbm_row_at(settings, i, &block);
        if (begins_entry(&e, row, block)) add_entry(&e, row, block, i);
    }
    if (!status) status = cbm_safetensors_write(path, e.entry, e.n, produce, &e, hooks);
    scbm_release(hooks, e.entry);
    scbm_release(hooks, e.place);
    return status;
}
