/*
 * tests/fuzz/read-tensors.h - every number of a file of tensors can be read, or the file is refused
 */
#ifndef READ_TENSORS_H
#define READ_TENSORS_H

#include "convert/tensor-file.h"
#include "tests/fuzz/require.h"

#include <stdint.h>

static inline void read_tensor(const stored_tensor *tensor) {
    enum { MOST = 1 << 16 };
    static unsigned char numbers[4 * MOST];
    scbm_type type;
    require(tensor->n_dims >= 0 && tensor->n_dims <= STORED_MAX_DIMS && cbm_stored_size(tensor->type) > 0);
    if (tensor->n_dims < 1 || tensor->n_dims > 2 || !cbm_stored_read_type(tensor, &type)) return;
    int64_t rows = tensor->shape[0], columns = tensor->n_dims > 1 ? tensor->shape[1] : 1;
    if (rows > MOST || columns > MOST || rows * columns > MOST) return;
    cbm_stored_read(tensor, &(stored_part){0, rows, columns, 0}, numbers);
    if (tensor->n_dims > 1) cbm_stored_read(tensor, &(stored_part){0, columns, rows, 1}, numbers);
}

static inline void read_tensors(const uint8_t *data, size_t size, const char *name) {
    tensor_file *file = NULL;
    if (cbm_tensor_file_open_memory(&file, data, size, name, NULL) != SCBM_OK) {
        check_refusal();
        require(file == NULL);
        return;
    }
    for (int64_t i = 0; i < cbm_tensor_file_n(file); i++) {
        const stored_tensor *tensor = cbm_tensor_file_get(file, i);
        require(cbm_tensor_file_find(file, tensor->name) == tensor);
        read_tensor(tensor);
    }
    cbm_tensor_file_close(file);
}

#endif
