/*
 * reference.h - every op of the op table in double precision, and graphs of them
 *
 * Written from the formulas in sparsecbm.h in the plainest way, for the tests to compare with: ref_compute evaluates
 * one op, a `reference` evaluates the nodes of any graph. Nothing here uses the runtime's kernels; random numbers come
 * from scbm_philox, which has its own test.
 *
 * Where dropout draws its numbers (the scheme that every backend follows): a number decides "kept" when it is at least
 * p · 2^32, and comes from scbm_philox(seed, stream, counter)[word] with
 *   dropout     element i: counter = i / 64 * 16 + i % 16, stream = step << 32 | place << 16, word = i / 16 % 4
 *   attention   key j of the text, packed query t, stream s, head h: counter = (t / 4) << 32 | j,
 *               stream = step << 32 | (place << 16) + s * heads + h, word = t % 4
 */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "sparsecbm.h"

/* The pointer, which must not be NULL: without memory the program ends. */
void *checked(void *pointer);

/* An array of numbers of any type, as doubles. */
typedef struct ref_array {
    scbm_type type; /* of the tensor that it stands for */
    int n_dims;
    int64_t shape[SCBM_MAX_DIMS];
    int64_t n;
    double *value;  /* NULL: an absent source */
    double *scale;  /* of results: how large the summed numbers were, see ref_bound */
    double terms;   /* of results: how many numbers each value is a sum of */
} ref_array;

#define REF_RESULTS (SCBM_MAX_RESULTS + SCBM_MAX_SOURCES)

typedef struct ref_call {
    scbm_op op;
    float scalar[2];
    int64_t integer[4];
    int n_sources, n_results;
    ref_array source[SCBM_MAX_SOURCES];
    /* Shapes and space are the caller's. After the op's own results stand the sources that it updates, in their order. */
    ref_array result[REF_RESULTS];
    scbm_precision precision;           /* of the linear ops */
    int exact;                          /* casts and the bf16 precision round nothing: for finite differences */
    uint64_t seed, step;
} ref_call;

/* Space for a shape; `with_scale` for results. Ends the program when memory is out. */
ref_array ref_new(int n_dims, const int64_t *shape, int with_scale);
void ref_free(ref_array *array);

/* Reads `n` elements of any type, by decoders of its own. */
void ref_decode(double *to, scbm_type type, const void *from, int64_t n);
/* `value` as the nearest bf16 or f16 (ties to even), or as it is for other types. */
double ref_round(double value, scbm_type type);

/* The op's results. Every op of the table is here. */
void ref_compute(ref_call *call);

/* How far a good f32 kernel may be from element i: (8 + 2 √terms) units in the last place of its scale. */
double ref_bound(const ref_array *array, int64_t i);
/* ‖got − want‖ / ‖want‖, for gradients and results of whole graphs. */
double ref_distance(const float *got, const ref_array *want);

/* Evaluates a graph's nodes for a batch. */
typedef struct reference {
    const scbm_graph *graph;
    int64_t tokens, texts;
    scbm_precision precision;
    uint64_t seed, step;
    int exact;
    int n_arrays, n_nodes, capacity;
    const scbm_tensor **tensor;          /* whose values array[i] holds */
    ref_array *array;
    int (*index)[SCBM_MAX_SOURCES + SCBM_MAX_RESULTS]; /* of each node: its sources' and results' arrays, or -1 */
} reference;

/* Reads inputs and weights from their `data`: the graph is planned and filled. Zeroed settings may be changed after. */
void reference_create(reference *r, const scbm_graph *graph, int64_t tokens, int64_t texts);
void reference_free(reference *r);
/* The values of a tensor: of inputs and weights at once (they may be changed there), of results after a run. */
ref_array *reference_array(reference *r, const scbm_tensor *tensor);
/* Evaluates the first `n_nodes` nodes; negative: all. */
void reference_run(reference *r, int n_nodes);
/* d loss / d element of `tensor` by central differences; `loss` has one element. */
double reference_difference(reference *r, const scbm_tensor *loss, const scbm_tensor *tensor, int64_t element);

#endif /* REFERENCE_H */
