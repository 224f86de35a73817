/*
 * convert/torch-file.h - the tensors of a file of torch.save: pytorch_model.bin
 *
 * Both forms are read: the zip file of PyTorch 1.6 and later, and the five pickles with the numbers behind them of
 * earlier ones. The tensors are those of a dictionary of tensors, or of the one that lies under "state_dict" or "model", and
 * then the log hook hears what is left out.
 */
#ifndef CONVERT_TORCH_FILE_H
#define CONVERT_TORCH_FILE_H

#include "convert/stored-tensor.h"

typedef struct torch_file torch_file;

/* The memory must outlive the file; `mapped`, which may be NULL, is what it belongs to. `name` stands for the path in
 * messages. */
scbm_status cbm_torch_open_memory(torch_file **file, const void *data, size_t size, const scbm_bytes *mapped,
                                  const char *name, const scbm_hooks *hooks);
void cbm_torch_close(torch_file *file);

const char *cbm_torch_path(const torch_file *file);
int64_t cbm_torch_n_tensors(const torch_file *file);
/* In the order of their names (strcmp). Several may share their numbers. */
const stored_tensor *cbm_torch_get(const torch_file *file, int64_t index);

#endif
