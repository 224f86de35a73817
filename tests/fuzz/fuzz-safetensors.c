/*
 * tests/fuzz/fuzz-safetensors.c - any bytes as a safetensors file: opening is an error or a file whose every byte of
 * data can be read, and an encoder that is found in it has the sizes that were asked for
 */
#include "convert/hf-weights.h"
#include "convert/safetensors.h"
#include "tests/fuzz/require.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned char sink;

static void read_tensors(const safetensors *file, const uint8_t *data, size_t size) {
    uint64_t total = 0;
    for (int64_t i = 0; i < safetensors_n_tensors(file); i++) {
        const safetensors_tensor *tensor = safetensors_get(file, i);
        require(safetensors_find(file, tensor->name) == tensor);
        require(tensor->n_dims >= 0 && tensor->n_dims <= SAFETENSORS_MAX_DIMS);
        require(tensor->data >= data && tensor->data <= data + size);
        require(tensor->bytes <= (uint64_t)(data + size - tensor->data));
        for (uint64_t b = 0; b < tensor->bytes; b++) sink = tensor->data[b];
        total += tensor->bytes;
    }
    require(total <= size);
    require(safetensors_get(file, safetensors_n_tensors(file)) == NULL && safetensors_get(file, -1) == NULL);
}

/* The smallest encoder that there is: names and shapes are matched with it. */
static void find_encoder(safetensors *file) {
    const hf_config config = {
        .hidden = 1, .feed_forward = 1, .blocks = 1, .heads = 1, .vocabulary = 1, .positions = 1, .types = 1};
    hf_weights weights;
    if (hf_weights_from_file(&weights, &config, file, NULL) != SCBM_OK) {
        check_refusal();
        return;
    }
    require(weights.n_tensors == 21);
    for (int i = 0; i < weights.n_tensors; i++) require(scbm_tensor_elements(&weights.tensors[i]) == 1);
    if (hf_weights_check(&weights, SCBM_F16) != SCBM_OK) check_refusal();
    hf_weights_clear(&weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    safetensors *file = NULL;
    if (safetensors_open_memory(&file, data, size, "input", NULL) != SCBM_OK) {
        check_refusal();
        require(file == NULL);
        return 0;
    }
    read_tensors(file, data, size);
    find_encoder(file);
    return 0;
}
