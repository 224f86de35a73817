/*
 * models/intervene/moves.c - the bits that a step moves: how many are asked for, and their flips, as nodes of graphs
 */
#include "models/base/tensor.h"
#include "models/intervene/intervene.h"

#include <math.h>

static int64_t smaller_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The weights of a matrix that a portion is, of those that are kept. */
static int64_t portion_of(const cbm_overlay_matrix *m, double portion) {
    return (int64_t)floor(portion * (double)m->kept + 0.5);
}

/* What a step may move each way. */
static int64_t most_moves(const cbm_overlay_matrix *m, double portion) {
    return smaller_of(portion_of(m, portion), scbm_tensor_elements(m->parameter->tensor) - m->kept);
}

/* A quarter more than is wanted: another concept's masks keep about as many weights. */
static scbm_status reserve(cbm_overlay_matrix *m, int64_t wanted, const scbm_hooks *hooks) {
    const int64_t shape[2] = {2, smaller_of(wanted + wanted / 4 + 1, scbm_tensor_elements(m->parameter->tensor))};
    cbm_tensor_release(&m->moves, hooks);
    return cbm_tensor_create(&m->moves, m->parameter->tensor->name, SCBM_I32, 2, shape, hooks);
}

scbm_status cbm_moves_reserve(cbm_overlay *o) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < o->n_matrices && !status; i++) {
        cbm_overlay_matrix *m = &o->matrix[i];
        int64_t wanted = most_moves(m, o->portion);
        if (m->moves.data && m->moves.shape[1] >= wanted) continue;
        cbm_overlay_free_graphs(o);
        status = reserve(m, wanted, cbm_overlay_hooks(o));
    }
    return status;
}

void cbm_moves_add(cbm_overlay *o, int matrix, scbm_tensor *gradient) {
    cbm_overlay_matrix *m = &o->matrix[matrix];
    scbm_mask_moves(o->gradient.graph, gradient, m->parameter->tensor, &m->masks, o->wanted, &m->moves, &o->counts,
                    matrix);
}

void cbm_moves_want(cbm_overlay *o) {
    int32_t *wanted = o->wanted->data;
    for (int i = 0; i < o->n_matrices; i++) {
        wanted[2 * i] = (int32_t)most_moves(&o->matrix[i], o->portion);
        wanted[2 * i + 1] = o->options->rule == CBM_SELECT_SIGNED;
    }
}

scbm_status cbm_moves_count(cbm_overlay *o, int64_t *n) {
    scbm_status status = scbm_tensor_fetch(&o->counts, o->ctx->runtime);
    *n = 0;
    for (int i = 0; i < o->n_matrices && !status; i++) *n += ((const int32_t *)o->counts.data)[i];
    return status;
}

scbm_status cbm_moves_apply(cbm_overlay *o, double portion, int undo) {
    int32_t *flip = o->flip->data;
    for (int i = 0; i < o->n_matrices; i++) {
        flip[2 * i] = (int32_t)most_moves(&o->matrix[i], portion);
        flip[2 * i + 1] = undo;
    }
    return scbm_graph_run(o->flips, 0, 0);
}
