/*
 * tests/fuzz/fuzz-pickle.c - any bytes as a pickle, and as a file of torch.save in its older form
 */
#include "convert/pickle.h"
#include "convert/tensor-file.h"
#include "tests/fuzz/read-tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const known[] = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage",
                                    NULL};

/* Every value's texts lie in the pickle, and every item is a value. */
static void check_values(const pickle *p, const uint8_t *data, size_t size) {
    require(p->root >= 0 && (size_t)p->root < p->n && p->bytes <= size && p->n <= size);
    for (size_t i = 0; i < p->n; i++) {
        const pickle_value *value = &p->value[i];
        if (value->kind == PICKLE_TEXT || value->kind == PICKLE_BIG_INT)
            require((const uint8_t *)value->text >= data && value->length <= size &&
                    (const uint8_t *)value->text + value->length <= data + size);
        for (size_t j = 0; j < value->n; j++) require(value->items[j] >= 0 && (size_t)value->items[j] < p->n);
        require(value->kind != PICKLE_DICT || value->n % 2 == 0);
        require(value->kind != PICKLE_CALL || value->n == 2);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pickle p;
    if (cbm_pickle_read(&p, data, size, "input", known, NULL) == SCBM_OK) {
        check_values(&p, data, size);
        cbm_pickle_get(&p, &p.value[p.root], "a");
        cbm_pickle_clear(&p);
    } else check_refusal();
    read_tensors(data, size, "input.bin");
    return 0;
}
