/*
 * convert/stored-tensor.h - a tensor as a checkpoint's file has it: where its numbers lie, and reading them
 */
#ifndef CONVERT_STORED_TENSOR_H
#define CONVERT_STORED_TENSOR_H

#include "sparsecbm.h"

#define STORED_MAX_DIMS 8

typedef struct stored_tensor {
    const char *name;
    const char *type; /* as safetensors files call it: "F32", … */
    int n_dims;
    int64_t shape[STORED_MAX_DIMS], stride[STORED_MAX_DIMS]; /* outermost first; in numbers, from 0 on */
    const unsigned char *data;                               /* the first number; any alignment */
    uint64_t begin, bytes;    /* in a safetensors file: of its data; bytes of all numbers, each once, in any file */
    int is_swapped;           /* the highest byte of a number comes first */
    const scbm_bytes *mapped; /* the file that the data lie in; NULL: memory of the caller */
} stored_tensor;

/* The bytes of a number of the type; 0: the type is not known. */
uint64_t cbm_stored_size(const char *type);
/* Sets the strides of a tensor whose numbers follow one another. */
void cbm_stored_set_strides(stored_tensor *tensor);

/* Whether a file may have a tensor of this name: UTF-8 and, since names end up in messages, no control characters. */
int cbm_stored_is_name(const char *name, size_t length);
/* Sorts tensors by their names (strcmp); returns a name that two of them have, or NULL. */
const char *cbm_stored_sort(stored_tensor *tensors, int64_t n);

/* The type that the numbers have when they are read: F32, F16 and BF16 stay, F64 becomes F32. 0: another type. */
int cbm_stored_read_type(const stored_tensor *tensor, scbm_type *type);

/* A part of a matrix, or of a vector, which is one of one column: rows first … first + rows, all columns. Of a transposed
 * one these are the columns, and they come out as rows. */
typedef struct stored_part {
    int64_t first, rows, columns;
    int is_transposed;
} stored_part;

/* Reads it, row after row. The memory of the file's pages that this took is given back. */
void cbm_stored_read(const stored_tensor *tensor, const stored_part *part, void *data);

#endif
