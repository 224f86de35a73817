/*
 * models/explain/subnetworks.c - what the concepts keep of the weights, and what they share
 */
#include "models/explain/explain.h"

#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Counting
 * ---------------------------------------------------------------------------------------- */

/* The numbers under way: what the public structure points to, writable. */
typedef struct counting {
    const cbm_backbone *backbone;
    size_t n_concepts, n_blocks, n_matrices;
    cbm_matrix *matrices;
    int64_t *kept; /* [K, M] */
    double *density, *block_density, *overlap, *block_overlap, *kept_by, *block_kept_by, *own;
    int64_t *both, *either;  /* [B, K, K] */
    int64_t *shared, *alone; /* [B, K + 1], [K] */
    int64_t *block_weights;  /* [B] */
} counting;

static scbm_status take_memory(counting *c, const scbm_hooks *hooks) {
    size_t k = c->n_concepts, b = c->n_blocks, m = c->n_matrices;
    c->matrices = scbm_alloc_array(hooks, m, sizeof *c->matrices);
    c->kept = scbm_alloc_array(hooks, k * m, sizeof *c->kept);
    c->density = scbm_alloc_array(hooks, k, sizeof *c->density);
    c->block_density = scbm_alloc_array(hooks, k * b, sizeof *c->block_density);
    c->overlap = scbm_alloc_array(hooks, k * k, sizeof *c->overlap);
    c->block_overlap = scbm_alloc_array(hooks, b * k * k, sizeof *c->block_overlap);
    c->kept_by = scbm_alloc_array(hooks, k + 1, sizeof *c->kept_by);
    c->block_kept_by = scbm_alloc_array(hooks, b * (k + 1), sizeof *c->block_kept_by);
    c->own = scbm_alloc_array(hooks, k, sizeof *c->own);
    c->both = scbm_alloc_array(hooks, b * k * k, sizeof *c->both);
    c->either = scbm_alloc_array(hooks, b * k * k, sizeof *c->either);
    c->shared = scbm_alloc_array(hooks, b * (k + 1), sizeof *c->shared);
    c->alone = scbm_alloc_array(hooks, k, sizeof *c->alone);
    c->block_weights = scbm_alloc_array(hooks, b, sizeof *c->block_weights);
    int has_memory = c->matrices && c->kept && c->density && c->block_density && c->overlap && c->block_overlap &&
                     c->kept_by && c->block_kept_by && c->own && c->both && c->either && c->shared && c->alone &&
                     c->block_weights;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* A dense model's concepts all keep everything. */
static void count_dense(counting *c, size_t block, size_t matrix, int64_t n) {
    size_t k = c->n_concepts;
    for (size_t a = 0; a < k; a++) {
        c->kept[a * c->n_matrices + matrix] = n;
        for (size_t b = 0; b < k; b++) {
            c->both[(block * k + a) * k + b] += n;
            c->either[(block * k + a) * k + b] += n;
        }
    }
    c->shared[block * (k + 1) + k] += n;
    if (k == 1) c->alone[0] += n;
}

static void count_masks(counting *c, size_t block, size_t matrix, const scbm_tensor *masks) {
    size_t k = c->n_concepts;
    for (size_t a = 0; a < k; a++) {
        c->kept[a * c->n_matrices + matrix] = cbm_mask_kept(masks, (int)a);
        for (size_t b = a; b < k; b++) {
            int64_t both, either;
            size_t at = (block * k + a) * k + b, mirrored = (block * k + b) * k + a;
            cbm_mask_overlap(masks, (int)a, (int)b, &both, &either);
            c->both[at] += both;
            c->either[at] += either;
            c->both[mirrored] = c->both[at];
            c->either[mirrored] = c->either[at];
        }
    }
    cbm_mask_sharing(masks, c->shared + block * (k + 1), c->alone);
}

static scbm_status count_matrices(counting *c, const scbm_hooks *hooks) {
    size_t m = 0;
    for (const cbm_parameter *parameter = NULL; (parameter = cbm_next_prunable(c->backbone, parameter));) {
        const scbm_tensor *weight = parameter->tensor;
        size_t block = (size_t)parameter->block;
        c->matrices[m] = (cbm_matrix){weight->name, parameter->block, (int)weight->shape[0], (int)weight->shape[1]};
        c->block_weights[block] += scbm_tensor_elements(weight);
        if (parameter->masks) count_masks(c, block, m, parameter->masks);
        else count_dense(c, block, m, scbm_tensor_elements(weight));
        m++;
        scbm_status status = scbm_cancelled(hooks);
        if (status) return status;
    }
    return SCBM_OK;
}

static double share(int64_t part, int64_t whole) {
    return whole ? (double)part / (double)whole : 0.0;
}

/* Shares of one block's weights, or of all blocks' where `n_blocks` is all of them. */
static void set_shares(const counting *c, size_t first, size_t n_blocks, double *overlap, double *kept_by) {
    size_t k = c->n_concepts;
    int64_t n = 0, kept = 0;
    for (size_t block = first; block < first + n_blocks; block++) n += c->block_weights[block];
    for (size_t pair = 0; pair < k * k; pair++) {
        int64_t both = 0, either = 0;
        for (size_t block = first; block < first + n_blocks; block++) {
            both += c->both[block * k * k + pair];
            either += c->either[block * k * k + pair];
        }
        overlap[pair] = cbm_mask_iou(both, either);
    }
    for (size_t j = 1; j <= k; j++) {
        int64_t shared = 0;
        for (size_t block = first; block < first + n_blocks; block++) shared += c->shared[block * (k + 1) + j];
        kept_by[j] = share(shared, n);
        kept += shared;
    }
    kept_by[0] = share(n - kept, n);
}

static void set_densities(counting *c) {
    size_t k = c->n_concepts, n_blocks = c->n_blocks;
    for (size_t a = 0; a < k; a++) {
        int64_t kept = 0, n = 0;
        for (size_t block = 0; block < n_blocks; block++) {
            int64_t in_block = c->both[(block * k + a) * k + a];
            c->block_density[a * n_blocks + block] = share(in_block, c->block_weights[block]);
            kept += in_block;
            n += c->block_weights[block];
        }
        c->density[a] = share(kept, n);
        c->own[a] = share(c->alone[a], kept);
    }
}

scbm_status cbm_subnetworks_create(cbm_subnetworks *s, const cbm_model *model, const scbm_hooks *hooks) {
    const cbm_backbone *backbone = &model->network.backbone;
    counting c;
    memset(s, 0, sizeof *s);
    memset(&c, 0, sizeof c);
    s->n_concepts = model->network.heads.n_concepts;
    s->n_blocks = backbone->n_blocks;
    s->n_matrices = cbm_n_prunable(backbone);
    s->is_sparse = cbm_masks_streams(backbone) > 0;
    s->n_weights = cbm_masks_weights(backbone, -1);
    c.backbone = backbone;
    c.n_concepts = (size_t)s->n_concepts;
    c.n_blocks = (size_t)s->n_blocks;
    c.n_matrices = (size_t)s->n_matrices;
    scbm_status status = take_memory(&c, hooks);
    if (!status) status = count_matrices(&c, hooks);
    if (!status) {
        set_densities(&c);
        set_shares(&c, 0, c.n_blocks, c.overlap, c.kept_by);
        for (size_t block = 0; block < c.n_blocks; block++)
            set_shares(&c, block, 1, c.block_overlap + block * c.n_concepts * c.n_concepts,
                       c.block_kept_by + block * (c.n_concepts + 1));
    }
    scbm_release(hooks, c.both);
    scbm_release(hooks, c.either);
    scbm_release(hooks, c.shared);
    scbm_release(hooks, c.alone);
    scbm_release(hooks, c.block_weights);
    s->matrices = c.matrices;
    s->kept = c.kept;
    s->density = c.density;
    s->block_density = c.block_density;
    s->overlap = c.overlap;
    s->block_overlap = c.block_overlap;
    s->kept_by = c.kept_by;
    s->block_kept_by = c.block_kept_by;
    s->own = c.own;
    if (status) cbm_subnetworks_clear(s, hooks);
    return status;
}

void cbm_subnetworks_clear(cbm_subnetworks *s, const scbm_hooks *hooks) {
    scbm_release(hooks, (void *)s->matrices);
    scbm_release(hooks, (void *)s->kept);
    scbm_release(hooks, (void *)s->density);
    scbm_release(hooks, (void *)s->block_density);
    scbm_release(hooks, (void *)s->overlap);
    scbm_release(hooks, (void *)s->block_overlap);
    scbm_release(hooks, (void *)s->kept_by);
    scbm_release(hooks, (void *)s->block_kept_by);
    scbm_release(hooks, (void *)s->own);
    memset(s, 0, sizeof *s);
}

/* ------------------------------------------------------------------------------------------
 * Pictures of masks
 * ---------------------------------------------------------------------------------------- */

static const cbm_parameter *prunable(const cbm_backbone *backbone, int m) {
    const cbm_parameter *parameter = NULL;
    while ((parameter = cbm_next_prunable(backbone, parameter)) && m-- > 0) continue;
    return parameter;
}

static int keeps(const scbm_tensor *masks, int k, int64_t row, int64_t column) {
    if (k >= 0) return cbm_mask_get(cbm_mask_row(masks, k, row), column);
    for (int s = 0; s < (int)masks->shape[0]; s++)
        if (!cbm_mask_get(cbm_mask_row(masks, s, row), column)) return 0;
    return 1;
}

/* The kept weights in the rows and columns [first, end) under a cell, and how many there are. */
static float cell_density(const scbm_tensor *masks, int k, const int64_t row[2], const int64_t column[2]) {
    int64_t kept = 0;
    for (int64_t r = row[0]; r < row[1]; r++)
        for (int64_t c = column[0]; c < column[1]; c++) kept += keeps(masks, k, r, c);
    return (float)((double)kept / (double)((row[1] - row[0]) * (column[1] - column[0])));
}

scbm_status cbm_mask_map(const cbm_model *model, int m, int k, int rows, int columns, float *density) {
    const cbm_backbone *backbone = &model->network.backbone;
    const cbm_parameter *parameter = m >= 0 ? prunable(backbone, m) : NULL;
    if (!parameter)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no matrix %d among the %d with masks", m,
                         cbm_n_prunable(backbone));
    int64_t out = parameter->tensor->shape[0], in = parameter->tensor->shape[1];
    int n_concepts = model->network.heads.n_concepts;
    if (k < CBM_ALL_CONCEPTS || k >= n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "there is no concept %d among %d", k, n_concepts);
    if (rows < 1 || columns < 1 || rows > out || columns > in)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "a picture of %d x %d cells of %s, which is %lld x %lld", rows, columns,
                         parameter->tensor->name, (long long)out, (long long)in);
    for (int r = 0; r < rows; r++) {
        const int64_t row[2] = {r * out / rows, (r + 1) * out / rows};
        for (int c = 0; c < columns; c++) {
            const int64_t column[2] = {c * in / columns, (c + 1) * in / columns};
            density[(size_t)r * (size_t)columns + (size_t)c] = parameter->masks
                                                                   ? cell_density(parameter->masks, k, row, column)
                                                                   : 1.0f;
        }
    }
    return SCBM_OK;
}
