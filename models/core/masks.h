/*
 * models/core/masks.h - the subnetworks of a model: one bit for each prunable weight and concept
 *
 * A matrix [out, in] has its K masks as bit planes, I8 [K, out, scbm_mask_row_bytes(in)]: bit j of byte b of a row is
 * weight 8b + j, the bits past the row's end are zero. Either every prunable matrix of a backbone has masks, or none
 * has (a dense model). In a model file the masks of blk.N.X.weight are blk.N.X.masks.
 */
#ifndef CBM_MASKS_H
#define CBM_MASKS_H

#include "models/backbones/backbone.h"

/* Whether masks may cover this parameter, and are there to be had: it is a linear layer inside a block. */
int cbm_is_prunable(const cbm_parameter *parameter);
/* The prunable parameters, block by block: the first one after NULL, NULL after the last.
 *     for (cbm_parameter *p = NULL; (p = cbm_next_prunable(backbone, p));) … */
cbm_parameter *cbm_next_prunable(const cbm_backbone *backbone, const cbm_parameter *previous);
int cbm_n_prunable(const cbm_backbone *backbone);
/* K; 0 for a dense backbone. */
int cbm_masks_streams(const cbm_backbone *backbone);

/* Gives every prunable matrix of a backbone that owns its tensors `n` masks of ones; cbm_backbone_clear frees them. */
scbm_status cbm_masks_create(cbm_backbone *backbone, int n, const scbm_hooks *hooks);
/* Makes a backbone that owns its tensors dense again. */
void cbm_masks_remove(cbm_backbone *backbone, const scbm_hooks *hooks);
/* Finds the masks of a backbone in the file that it was read from. A file without any is a dense model; one with
 * some masks missing, of other shapes, for another number of concepts or with bits past a row's end is an error. */
scbm_status cbm_masks_read(cbm_backbone *backbone, scbm_file *file, int n_concepts);
/* Packs the masks of every prunable matrix (scbm_masks_pack); several threads may. Where memory does not suffice for all of
 * them, some are left as they are, which is only slower, and it is SCBM_ERROR_MEMORY. */
scbm_status cbm_masks_pack(const cbm_backbone *backbone, int few, const scbm_hooks *hooks);
void cbm_masks_unpack(const cbm_backbone *backbone, const scbm_hooks *hooks);
/* "blk.0.attn_q.masks" of "blk.0.attn_q.weight". */
void cbm_masks_name(char name[SCBM_MAX_NAME], const scbm_tensor *weight);
int cbm_is_masks_name(const char *name);

/* ---- One matrix: `masks` as above, `in` the number of its columns ---- */

/* Sets every bit of one stream. Whoever changes masks says so when all is done (scbm_tensor_changed): streams may be changed by
 * several threads at once. */
void cbm_mask_fill(scbm_tensor *masks, int stream, int64_t in);
/* The bits of a row; not for writing where the tensor is a file's. */
uint8_t *cbm_mask_row(const scbm_tensor *masks, int stream, int64_t row);
static inline int cbm_mask_get(const uint8_t *row, int64_t column) {
    return row[column >> 3] >> (column & 7) & 1;
}
static inline void cbm_mask_set(uint8_t *row, int64_t column, int bit) {
    uint8_t mask = (uint8_t)(1u << (column & 7));
    row[column >> 3] = (uint8_t)(bit ? row[column >> 3] | mask : row[column >> 3] & ~mask);
}
/* How many weights a stream keeps. */
int64_t cbm_mask_kept(const scbm_tensor *masks, int stream);
/* How many weights one of two masks of the same matrix keeps and the other does not. */
int64_t cbm_mask_difference(const scbm_tensor *a, int stream_a, const scbm_tensor *b, int stream_b);
/* How many weights both of two streams keep, and how many at least one of them. */
void cbm_mask_overlap(const scbm_tensor *masks, int a, int b, int64_t *both, int64_t *either);
/* Counts how the streams share the weights: adds to shared[j] those that exactly j of the K streams keep (j from 1 to K),
 * and to own[k] those that stream k alone keeps. */
void cbm_mask_sharing(const scbm_tensor *masks, int64_t *shared, int64_t *own);
/* Their intersection over union; 1 where both are empty. */
double cbm_mask_iou(int64_t both, int64_t either);

/* ---- The whole backbone ---- */

/* The share of a concept's prunable weights that it keeps: 1 without masks. block < 0: all blocks. */
double cbm_masks_density(const cbm_backbone *backbone, int stream, int block);
/* The intersection over union of two concepts' subnetworks: 1 without masks. block < 0: all blocks. */
double cbm_masks_overlap(const cbm_backbone *backbone, int a, int b, int block);
/* The number of prunable weights; block < 0: of all blocks. */
int64_t cbm_masks_weights(const cbm_backbone *backbone, int block);

#endif
