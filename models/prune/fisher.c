/*
 * models/prune/fisher.c - sums of g gᵀ in blocks, their inverses' diagonals, and the scores
 */
#include "models/prune/fisher.h"

#include <math.h>
#include <string.h>

#define MEBIBYTE 1048576.0
#define RANDOM_FISHER UINT64_C(0xffff0011)

/* ------------------------------------------------------------------------------------------
 * The minibatches
 * ---------------------------------------------------------------------------------------- */

int64_t cbm_fisher_gradients(const cbm_prune_options *o) {
    return o->fisher_gradients ? o->fisher_gradients : 4 * (int64_t)o->fisher_block;
}

int64_t cbm_fisher_batch(const cbm_prune_run *run) {
    int64_t n = run->options->fisher_texts ? run->options->fisher_texts : run->batch_size;
    return n < run->n_texts ? n : run->n_texts;
}

/* One shuffle of the data after the other, cut into batches. */
scbm_status cbm_fisher_draw(const cbm_prune_run *run, int64_t epoch, int32_t **rows, int64_t *n_batches,
                            int64_t *size) {
    int64_t n = run->n_texts, batch = cbm_fisher_batch(run), wanted = batch * cbm_fisher_gradients(run->options);
    *n_batches = cbm_fisher_gradients(run->options);
    *size = batch;
    int32_t *order = scbm_alloc_array(run->hooks, (size_t)n, sizeof *order);
    *rows = scbm_alloc_array(run->hooks, (size_t)wanted, sizeof **rows);
    if (!order || !*rows) {
        scbm_release(run->hooks, order);
        return SCBM_ERROR_MEMORY;
    }
    scbm_random random = {run->seed, RANDOM_FISHER << 32 | (uint64_t)epoch, 0};
    for (int64_t done = 0; done < wanted;) {
        int64_t take = n / batch * batch;
        for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
        scbm_random_shuffle(&random, order, n);
        if (take > wanted - done) take = wanted - done;
        memcpy(*rows + done, order, (size_t)take * sizeof *order);
        done += take;
    }
    scbm_release(run->hooks, order);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Sums and scores
 * ---------------------------------------------------------------------------------------- */

/* Blocks are inverted LANES at a time: number t of block b stands at t * LANES + b, so that the loops over b are
 * vectors. */
enum { LANES = 8 };

size_t cbm_fisher_bytes(const cbm_prune_options *o, const scbm_tensor *weight, int n_streams) {
    int64_t block = o->fisher_block, blocks = (scbm_tensor_elements(weight) + block - 1) / block;
    return (size_t)n_streams * (size_t)blocks * (size_t)(block * (block + 1) / 2) * sizeof(double);
}

size_t cbm_fisher_scratch(const cbm_prune_options *o) { /* two triangles and a diagonal a lane */
    size_t block = (size_t)o->fisher_block;
    return (block * (block + 1) + block) * LANES;
}

void cbm_fisher_clear(cbm_fisher *f) {
    for (int i = 0; i < f->n; i++) {
        scbm_tensor_forget(&f->matrix[i].sums);
        scbm_release(f->hooks, f->matrix[i].sums.data);
    }
    scbm_release(f->hooks, f->matrix);
    f->matrix = NULL;
    f->n = 0;
}

scbm_status cbm_fisher_create(cbm_fisher *f, scbm_context *context, const cbm_prune_options *options,
                              cbm_parameter **parameter, int n, int n_streams, const scbm_hooks *hooks) {
    int64_t block = options->fisher_block;
    size_t taken = 0;
    *f = (cbm_fisher){context, hooks, options, n_streams, block * (block + 1) / 2, NULL, 0};
    f->matrix = scbm_alloc_array(hooks, (size_t)n, sizeof *f->matrix);
    if (!f->matrix) return SCBM_ERROR_MEMORY;
    for (f->n = 0; f->n < n; f->n++) {
        cbm_fisher_matrix *m = &f->matrix[f->n];
        m->parameter = parameter[f->n];
        m->n = scbm_tensor_elements(m->parameter->tensor);
        m->n_blocks = (m->n + block - 1) / block;
        taken += cbm_fisher_bytes(options, m->parameter->tensor, n_streams);
        const int64_t shape[3] = {n_streams, m->n_blocks, f->triangle};
        scbm_status status = scbm_tensor_init(&m->sums, m->parameter->tensor->name, SCBM_F64, 3, shape);
        if (status) return status;
        m->sums.data = scbm_alloc_array(hooks, (size_t)scbm_tensor_elements(&m->sums), sizeof(double));
        if (!m->sums.data)
            return scbm_fail(
                SCBM_ERROR_MEMORY,
                "pruning: out of memory at %.1f MiB of Fisher matrices; a fisher_memory of %.0f MiB makes smaller "
                "groups of layers",
                (double)taken / MEBIBYTE, fmax(1.0, floor((double)taken / MEBIBYTE / 2)));
    }
    return SCBM_OK;
}

void cbm_fisher_add(cbm_fisher *f, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    for (int i = 0; i < f->n; i++)
        if (f->matrix[i].parameter->tensor == weight)
            scbm_fisher_add(graph, &f->matrix[i].sums, gradient, f->options->fisher_block);
}

#define AT(i, j) (((i) * ((i) + 1) / 2 + (j)) * LANES)

/* δI + sums / m of n blocks, `stride` numbers apart; the identity in the lanes that are left. */
static void load_blocks(const double *sums, int64_t stride, int n, int64_t size, double m, double damping, double *l) {
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j <= i; j++)
            for (int b = 0; b < LANES; b++)
                l[AT(i, j) + b] = b < n ? sums[b * stride + AT(i, j) / LANES] / m + (i == j ? damping : 0.0)
                                        : (double)(i == j);
}

/* a -= p q, of all lanes. */
static void subtract_products(double *restrict a, const double *restrict p, const double *restrict q) {
    for (int b = 0; b < LANES; b++) a[b] -= p[b] * q[b];
}

/* L of A = L Lᵀ in A's place. */
static void factor_blocks(double *l, int64_t size, double damping) {
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j <= i; j++) {
            double sum[LANES];
            memcpy(sum, l + AT(i, j), sizeof sum);
            for (int64_t k = 0; k < j; k++) subtract_products(sum, l + AT(i, k), l + AT(j, k));
            for (int b = 0; b < LANES; b++)
                l[AT(i, j) + b] = i == j ? sqrt(sum[b] > 0.0 ? sum[b] : damping) : sum[b] / l[AT(j, j) + b];
        }
    }
}

/* L⁻¹. */
static void invert_factors(const double *l, int64_t size, double *inverse) {
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j < i; j++) {
            double sum[LANES] = {0};
            for (int64_t k = j; k < i; k++) subtract_products(sum, l + AT(i, k), inverse + AT(k, j));
            for (int b = 0; b < LANES; b++) inverse[AT(i, j) + b] = sum[b] / l[AT(i, i) + b];
        }
        for (int b = 0; b < LANES; b++) inverse[AT(i, i) + b] = 1.0 / l[AT(i, i) + b];
    }
}

/* The diagonals of the inverses of n blocks, by L Lᵀ: [F⁻¹]_jj = Σ_i (L⁻¹)²_ij. `work` holds two triangles a lane. */
static void inverse_diagonals(const double *sums, int64_t stride, int n, int64_t size, double m, double damping,
                              double *work, double *diagonal) {
    double *l = work, *inverse = work + size * (size + 1) / 2 * LANES;
    load_blocks(sums, stride, n, size, m, damping, l);
    factor_blocks(l, size, damping);
    invert_factors(l, size, inverse);
    for (int64_t j = 0; j < size; j++) {
        for (int b = 0; b < LANES; b++) diagonal[j * LANES + b] = 0.0;
        for (int64_t i = j; i < size; i++)
            for (int b = 0; b < LANES; b++) diagonal[j * LANES + b] += inverse[AT(i, j) + b] * inverse[AT(i, j) + b];
    }
}
#undef AT

/* δ of a stream's matrix: as it is, or that share of the mean square of its gradients. */
static double damping_of(const cbm_fisher *f, const cbm_fisher_matrix *m, int stream, double n_gradients) {
    const cbm_prune_options *o = f->options;
    if (o->damping_absolute > 0) return o->damping_absolute;
    const double *sums = (const double *)m->sums.data + stream * m->n_blocks * f->triangle;
    int64_t kept = cbm_mask_kept(m->parameter->masks, stream);
    double trace = 0.0;
    for (int64_t b = 0; b < m->n_blocks; b++)
        for (int64_t i = 0, at = 0; i < f->options->fisher_block; at += ++i + 1) trace += sums[b * f->triangle + at];
    double mean = kept ? trace / n_gradients / (double)kept : 0.0;
    return mean > 0.0 ? o->damping * mean : 1e-12;
}

void cbm_fisher_scores(const cbm_fisher *f, const cbm_fisher_matrix *m, int stream, double n_gradients, double *score,
                       double *scratch) {
    const float *w = m->parameter->tensor->data;
    const double *sums = (const double *)m->sums.data + stream * m->n_blocks * f->triangle;
    double damping = damping_of(f, m, stream, n_gradients);
    double *diagonal = scratch + 2 * f->triangle * LANES;
    int64_t block = f->options->fisher_block, n_whole = m->n / block; /* the last block may be shorter */
    for (int64_t first = 0; first < m->n_blocks;) {
        int64_t start = first * block, size = first < n_whole ? block : m->n - start;
        int64_t left = first < n_whole ? n_whole - first : 1;
        int n = (int)(left < LANES ? left : LANES);
        inverse_diagonals(sums + first * f->triangle, f->triangle, n, size, n_gradients, damping, scratch, diagonal);
        for (int b = 0; b < n; b++, start += size)
            for (int64_t j = 0; j < size; j++)
                score[start + j] = (double)w[start + j] * (double)w[start + j] / (2.0 * diagonal[j * LANES + b]);
        first += n;
    }
}
