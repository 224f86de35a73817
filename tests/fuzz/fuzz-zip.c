/*
 * tests/fuzz/fuzz-zip.c - any bytes as a zip file, and as one of torch.save
 */
#include "convert/tensor-file.h"
#include "convert/zip.h"
#include "tests/fuzz/read-tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zip_file zip;
    if (cbm_zip_open(&zip, data, size, "input", NULL) == SCBM_OK) {
        for (int64_t i = 0; i < zip.n; i++) {
            const zip_entry *entry = &zip.entry[i];
            require(cbm_zip_find(&zip, entry->name, entry->name_length) == entry);
            require(!entry->data || (entry->data >= data && entry->size <= (uint64_t)(data + size - entry->data)));
        }
        cbm_zip_close(&zip);
    } else check_refusal();
    read_tensors(data, size, "input.bin");
    return 0;
}
