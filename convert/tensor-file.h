/*
 * convert/tensor-file.h - a file of tensors in whatever form: safetensors, or of torch.save
 */
#ifndef CONVERT_TENSOR_FILE_H
#define CONVERT_TENSOR_FILE_H

#include "convert/stored-tensor.h"

typedef struct tensor_file tensor_file;

/* The bytes tell the form. */
scbm_status cbm_tensor_file_open(tensor_file **file, const char *path, const scbm_hooks *hooks);
/* From memory, which must outlive the file; `name` stands for the path in messages. */
scbm_status cbm_tensor_file_open_memory(tensor_file **file, const void *data, size_t size, const char *name,
                                        const scbm_hooks *hooks);
void cbm_tensor_file_close(tensor_file *file);

const char *cbm_tensor_file_path(const tensor_file *file);
int64_t cbm_tensor_file_n(const tensor_file *file);
/* In the order of their names (strcmp). */
const stored_tensor *cbm_tensor_file_get(const tensor_file *file, int64_t index);
const stored_tensor *cbm_tensor_file_find(const tensor_file *file, const char *name); /* NULL: not there */

#endif
