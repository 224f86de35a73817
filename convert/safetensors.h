/*
 * convert/safetensors.h - reading and writing safetensors files
 *
 * The format: eight bytes that say how long the header is, the header (a JSON object: tensor name to type, shape and
 * byte range), then the tensors' bytes, which fill the rest of the file without gaps. Everything is checked when the
 * file is opened; data stays in the mapped file.
 */
#ifndef CONVERT_SAFETENSORS_H
#define CONVERT_SAFETENSORS_H

#include "convert/stored-tensor.h"

typedef struct safetensors safetensors;

scbm_status cbm_safetensors_open(safetensors **file, const char *path, const scbm_hooks *hooks);
/* From memory, which must outlive the file; `name` stands for the path in messages. */
scbm_status cbm_safetensors_open_memory(safetensors **file, const void *data, size_t size, const char *name,
                                        const scbm_hooks *hooks);
/* The same, where the memory belongs to `mapped` (or NULL). */
scbm_status cbm_safetensors_open_mapped(safetensors **file, const void *data, size_t size, const scbm_bytes *mapped,
                                        const char *name, const scbm_hooks *hooks);
void cbm_safetensors_close(safetensors *file);

const char *cbm_safetensors_path(const safetensors *file);
int64_t cbm_safetensors_n_tensors(const safetensors *file);
/* In the order of their names (strcmp). */
const stored_tensor *cbm_safetensors_get(const safetensors *file, int64_t index);
const stored_tensor *cbm_safetensors_find(const safetensors *file, const char *name); /* NULL: not there */

/* ------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------- */

/* An F32 tensor to write; its name has no characters that JSON escapes. */
typedef struct safetensors_entry {
    char name[SCBM_MAX_NAME + 64];
    int n_dims;
    int64_t shape[2];
} safetensors_entry;

/* Fills `data` with the elements of entries[i]. */
typedef scbm_status (*safetensors_produce)(void *user, int i, float *data);

/* Writes `n` tensors in their order, each asked for when its turn comes. */
scbm_status cbm_safetensors_write(const char *path, const safetensors_entry *entries, int n,
                                  safetensors_produce produce, void *user, const scbm_hooks *hooks);

#endif
