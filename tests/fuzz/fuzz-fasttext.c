/*
 * tests/fuzz/fuzz-fasttext.c - any bytes as fastText's vectors, text or binary
 */
#include "convert/fasttext.h"
#include "tests/fuzz/require.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const words[] = {"the", NULL, "soup", "</s>", "na\xC3\xAFve", "a"};
    enum { N = sizeof words / sizeof words[0] };
    fasttext_vectors v;
    if (cbm_fasttext_read_memory(&v, data, size, "input", words, N, NULL) == SCBM_OK) {
        int n_there = 0;
        for (int i = 0; i < N; i++) {
            n_there += v.is_there[i];
            require(words[i] || !v.is_there[i]);
            for (int64_t j = 0; j < v.width; j++) require(isfinite(v.value[i * v.width + j]));
        }
        require(n_there == v.n_there && v.width > 0);
    } else check_refusal();
    cbm_fasttext_clear(&v, NULL);
    return 0;
}
