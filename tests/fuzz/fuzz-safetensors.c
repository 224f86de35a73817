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
    for (int64_t i = 0; i < cbm_safetensors_n_tensors(file); i++) {
        const stored_tensor *tensor = cbm_safetensors_get(file, i);
        require(cbm_safetensors_find(file, tensor->name) == tensor);
        require(tensor->n_dims >= 0 && tensor->n_dims <= STORED_MAX_DIMS);
        require(tensor->data >= data && tensor->data <= data + size);
        require(tensor->bytes <= (uint64_t)(data + size - tensor->data));
        for (uint64_t b = 0; b < tensor->bytes; b++) sink = tensor->data[b];
        total += tensor->bytes;
    }
    require(total <= size);
    require(cbm_safetensors_get(file, cbm_safetensors_n_tensors(file)) == NULL &&
            cbm_safetensors_get(file, -1) == NULL);
}

/* Whether there is an encoder of the architecture whose sizes are all this one. */
static int set_sizes(cbm_backbone *settings, const cbm_architecture *architecture, int size) {
    cbm_settings_default(settings, architecture);
    for (int i = 0; i < architecture->n_keys; i++) {
        const cbm_key *key = &architecture->keys[i];
        if (key->kind == CBM_KEY_COUNT || key->kind == CBM_KEY_SIZE) cbm_key_set(settings, key, size);
    }
    return cbm_settings_settle(settings, "settings") == SCBM_OK;
}

/* The smallest encoder of an architecture: names and shapes are matched with it. */
static void find_encoder(const cbm_architecture *architecture, tensor_file *file) {
    cbm_backbone settings;
    hf_weights weights;
    int size = 1;
    while (size < 64 && !set_sizes(&settings, architecture, size)) size++;
    require(size < 64);
    if (cbm_hf_weights_from_file(&weights, &settings, file, NULL) != SCBM_OK) {
        check_refusal();
        return;
    }
    require(weights.n == cbm_n_places(&settings));
    for (int i = 0; i < weights.n; i++)
        require(!weights.weight[i].source || scbm_tensor_elements(&weights.weight[i].tensor) > 0);
    if (cbm_hf_weights_check(&weights, SCBM_F16) != SCBM_OK) check_refusal();
    cbm_hf_weights_clear(&weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const cbm_architecture *architecture;
    safetensors *file = NULL;
    if (cbm_safetensors_open_memory(&file, data, size, "input", NULL) != SCBM_OK) {
        check_refusal();
        require(file == NULL);
        return 0;
    }
    read_tensors(file, data, size);
    cbm_safetensors_close(file);
    for (int i = 0; (architecture = cbm_architecture_at(i)); i++) {
        tensor_file *same = NULL;
        if (!architecture->hf_type) continue; /* has no folder */
        require(cbm_tensor_file_open_memory(&same, data, size, "input", NULL) == SCBM_OK);
        find_encoder(architecture, same);
    }
    return 0;
}
