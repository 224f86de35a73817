/*
 * models/prune/fisher.c - sums of g gᵀ in blocks, their inverses' diagonals, and the scores
 */
#include "models/base/tensor.h"
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

/* Blocks that a worker inverts at a time. */
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
    scbm_tensor_forget(&f->numbers);
    for (int i = 0; i < f->n; i++) cbm_tensor_release(&f->matrix[i].sums, f->hooks);
    scbm_release(f->hooks, f->matrix);
    f->matrix = NULL;
    f->n = 0;
}

static scbm_status init_numbers(cbm_fisher *f) {
    const int64_t three = 3;
    f->number[0] = (double)cbm_fisher_gradients(f->options);
    f->number[1] = f->options->damping;
    f->number[2] = f->options->damping_absolute;
    scbm_status status = scbm_tensor_init(&f->numbers, "damping", SCBM_F64, 1, &three);
    f->numbers.data = f->number;
    return status;
}

scbm_status cbm_fisher_create(cbm_fisher *f, const cbm_prune_options *options, cbm_parameter **parameter, int n,
                              int n_streams, const scbm_hooks *hooks) {
    const int64_t block = options->fisher_block;
    size_t taken = 0;
    *f = (cbm_fisher){.hooks = hooks, .options = options};
    scbm_status status = init_numbers(f);
    if (status) return status;
    f->matrix = scbm_alloc_array(hooks, (size_t)n, sizeof *f->matrix);
    if (!f->matrix) return SCBM_ERROR_MEMORY;
    for (f->n = 0; f->n < n; f->n++) {
        cbm_fisher_matrix *m = &f->matrix[f->n];
        const scbm_tensor *weight = parameter[f->n]->tensor;
        const int64_t shape[3] = {n_streams, (scbm_tensor_elements(weight) + block - 1) / block,
                                  block * (block + 1) / 2};
        m->parameter = parameter[f->n];
        taken += cbm_fisher_bytes(options, weight, n_streams);
        status = cbm_tensor_create(&m->sums, weight->name, SCBM_F64, 3, shape, hooks);
        if (status == SCBM_ERROR_MEMORY)
            return scbm_fail(
                SCBM_ERROR_MEMORY,
                "pruning: out of memory at %.1f MiB of Fisher matrices; a fisher_memory of %.0f MiB makes smaller "
                "groups of layers",
                (double)taken / MEBIBYTE, fmax(1.0, floor((double)taken / MEBIBYTE / 2)));
        if (status) return status;
    }
    return SCBM_OK;
}

void cbm_fisher_add(cbm_fisher *f, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    for (int i = 0; i < f->n; i++)
        if (f->matrix[i].parameter->tensor == weight)
            scbm_fisher_add(graph, &f->matrix[i].sums, gradient, f->options->fisher_block);
}

scbm_tensor *cbm_fisher_scores(cbm_fisher *f, scbm_graph *graph, int matrix) {
    const cbm_parameter *p = f->matrix[matrix].parameter;
    return scbm_fisher_scores(graph, &f->matrix[matrix].sums, p->tensor, p->masks, &f->numbers,
                              f->options->fisher_block);
}
