/*
 * convert/hf-model.h - a Hugging Face folder's BERT encoder to a model file
 */
#ifndef CONVERT_HF_MODEL_H
#define CONVERT_HF_MODEL_H

#include "sparsecbm.h"

/* What was converted, for a report. */
typedef struct hf_summary {
    int64_t blocks, hidden, heads, tokens, max_tokens;
    int64_t n_weights;
    int n_tensors;
    int n_unused;   /* tensors that an encoder does without: pooler, heads */
    int n_kept_f16; /* matrices whose rows are no multiple of 32, where a quantized type was asked for */
    int pooling;    /* HF_POOLING_MEAN or HF_POOLING_FIRST */
    int normalize;
} hf_summary;

/* Reads the checkpoint in `folder` and writes it to `path`, its matrices as `type` (F32, F16, BF16, Q8_0, Q4_0).
 * `summary` may be NULL. Weights stay in the mapped files and are converted piece by piece. */
scbm_status hf_convert(const char *folder, const char *path, scbm_type type, hf_summary *summary,
                       const scbm_hooks *hooks);

#endif
