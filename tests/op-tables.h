/*
 * tests/op-tables.h - what a backend has of the op table, and how long it takes, as tables for a porter
 */
#ifndef OP_TABLES_H
#define OP_TABLES_H

#include "sparsecbm.h"

/* One op a line, of `only` alone where that is not NULL: of the op's test cases, how many a kernel of the backend's runs, how many its
 * other rows in the op's place, how many the host, and how many cannot be run. */
void print_support(scbm_backend *backend, scbm_context *context, const char *only);
/* One op a line: the largest of its test cases, the median time of a run, and the bytes that its tensors have in that time. */
void print_timings(scbm_context *context, const char *only);

#endif /* OP_TABLES_H */
