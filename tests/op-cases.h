/*
 * op-cases.h - for every op of the op table, the inputs to test it with
 *
 * The conformance test runs the large ones on every backend, the gradient test differentiates the small ones.
 * A case is data alone; case_build makes a one-op graph of it in any context.
 */
#ifndef OP_CASES_H
#define OP_CASES_H

#include "tests/reference.h"

/* A number of dimensions, and the dimensions. */
#define DIMS(...)                                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                                           \
        __VA_ARGS__                                                                                                    \
    }

typedef struct case_source {
    int is_present;
    int is_weight;              /* a tensor of the caller; else an input of the graph */
    int is_offsets;             /* where texts begin */
    int is_differentiable;      /* the op has a gradient for it */
    scbm_tensor tensor;         /* type, shape and extents; `data` has the batch's size and belongs to the case */
    size_t bytes;               /* of data */
} case_source;

typedef struct op_case {
    scbm_op op;
    char what[200];             /* for messages */
    int n_sources;
    case_source source[SCBM_MAX_SOURCES];
    float scalar[2];
    int64_t integer[4];
    int n_dims;                 /* of a reshape's result */
    int64_t shape[SCBM_MAX_DIMS];
    scbm_extent extent[SCBM_MAX_DIMS];
    scbm_precision precision;
    int64_t tokens, texts, max_tokens, max_texts;
    const int *lengths;         /* of the texts */
    int depends_on_batch;       /* a text's result is another one in another batch (dropout, permutations) */
    int from_copies;            /* the op reads copies of the sources, in whose memory it may work */
    uint64_t seed, step;
    scbm_random random;
} op_case;

/* Calls `visit` for every case of the op, small shapes alone if `small`; returns how many there were. The case ends
 * with the visit. */
typedef void (*case_visit)(void *user, op_case *c);
int op_cases(scbm_op op, int small, case_visit visit, void *user);

/* A case as a graph of one op (its first result is built->node->result[0]). */
typedef struct built_case {
    scbm_graph *graph;
    scbm_tensor weight[SCBM_MAX_SOURCES];
    scbm_tensor *source[SCBM_MAX_SOURCES];
    void *updated[SCBM_MAX_SOURCES]; /* memory of their own for the sources that the op updates */
    const scbm_node *node;
} built_case;

/* The node is NULL if the op could not be built; scbm_graph_plan has the reason. */
scbm_status case_build(built_case *built, const op_case *c, scbm_context *context);
/* Whether the op updates source i. */
int case_updates(const op_case *c, int i);
/* After planning, and before each run: the inputs' data, that of sources that are updated, and the random seed. */
void case_fill(built_case *built, const op_case *c);
void case_release(built_case *built);

/* The case with text n alone, as a new one; free with case_clear. */
void case_of_text(op_case *alone, const op_case *c, int64_t n);
void case_clear(op_case *c);

/* The sizes of `tensor` in a batch; returns the number of elements. */
int64_t batch_shape(const scbm_tensor *tensor, int64_t tokens, int64_t texts, int64_t shape[SCBM_MAX_DIMS]);
size_t batch_bytes(const scbm_tensor *tensor, int64_t tokens, int64_t texts);
/* Copies the rows of text n of a batch out of `data`, whose tensor has a dimension of tokens or texts; returns the
 * number of bytes, 0 if it has none. `to` may be NULL. */
size_t copy_text(void *to, const void *data, const scbm_tensor *tensor, const op_case *c, int64_t n);

#endif /* OP_CASES_H */
