/*
 * convert/memory-plan.c - what a conversion needs of memory, before a tensor is read
 */
#include "convert/memory-plan.h"
#include "models/base/memory.h"

#include <stdint.h>
#include <stdio.h>

#define MEBIBYTE 1048576.0
#define PAGES_READ ((size_t)1 << 20) /* of the folder's files, before they are given back; and what is read of them */

typedef struct weight_sizes {
    size_t largest;               /* as it is read */
    size_t source, written, copy; /* of all: in the folder, in the model file, as F32 */
} weight_sizes;

static weight_sizes measure(const hf_weights *weights, scbm_type type) {
    weight_sizes sizes = {0};
    for (int i = 0; i < weights->n; i++) {
        const hf_weight *weight = &weights->weight[i];
        size_t bytes = scbm_tensor_bytes(weight->row->fused && !weight->row->part ? &weight->fused : &weight->tensor),
               n = (size_t)scbm_tensor_elements(&weight->tensor);
        if (!weight->source) continue;
        const scbm_type_info *info = scbm_type_of(cbm_hf_weights_type(weight, type));
        if (bytes > sizes.largest) sizes.largest = bytes;
        sizes.source += n * (size_t)cbm_stored_size(weight->source->type);
        sizes.written += n / (size_t)info->block * (size_t)info->block_bytes;
        sizes.copy += n * sizeof(float);
    }
    return sizes;
}

static void add(cbm_memory_plan *plan, const char *what, size_t bytes) {
    plan->part[plan->n_parts++] = (cbm_memory_part){what, bytes};
    plan->bytes += bytes;
}

static void take_greater(cbm_memory_plan *plan, const cbm_memory_plan *other) {
    if (other->bytes > plan->bytes) *plan = *other;
}

scbm_status cbm_plan_conversion(const hf_weights *weights, const char *folder, const cbm_convert_options *options,
                                cbm_memory_plan *plan) {
    const weight_sizes sizes = measure(weights, options->type);
    size_t resident = cbm_resident_memory(), available = scbm_available_memory(NULL);
    cbm_memory_plan start = {.limit = SIZE_MAX}, writing, verifying;
    if (options->memory) start.limit = options->memory;
    else if (available < SIZE_MAX - resident) start.limit = available + resident;
    *plan = start;
    plan->when = "reading the folder";
    add(plan, "the program and the folder's settings", cbm_peak_memory());
    add(&start, "the program and the folder's settings", resident);
    writing = verifying = start;
    writing.when = "writing tensors";
    add(&writing, "the largest tensor", sizes.largest);
    add(&writing, "what is read at once", PAGES_READ);
    take_greater(plan, &writing);
    size_t without = plan->bytes;
    verifying.when = "verifying";
    add(&verifying, "the folder's weights", sizes.source);
    add(&verifying, "the file's", sizes.written);
    add(&verifying, "a copy as f32", sizes.copy);
    if (options->verify) take_greater(plan, &verifying);
    if (plan->bytes <= plan->limit) return SCBM_OK;
    if (without <= plan->limit)
        snprintf(plan->advice, sizeof plan->advice, "without verifying it takes %.1f MiB", (double)without / MEBIBYTE);
    else
        snprintf(plan->advice, sizeof plan->advice, "%.1f MiB are the least",
                 (double)without / MEBIBYTE);
    return scbm_fail(SCBM_ERROR_MEMORY, "%.300s: converting takes %.1f MiB of memory while %s, and may take %.1f: %s",
                     folder, (double)plan->bytes / MEBIBYTE, plan->when, (double)plan->limit / MEBIBYTE, plan->advice);
}
