/*
 * convert/hf-weights.h - the tensors of a Hugging Face folder's BERT encoder, under the names of model files
 */
#ifndef CONVERT_HF_WEIGHTS_H
#define CONVERT_HF_WEIGHTS_H

#include "convert/hf-config.h"
#include "convert/json-file.h"
#include "convert/safetensors.h"

/* Which file has which tensor: model.safetensors.index.json. */
typedef struct hf_index {
    json_file json;
    const cJSON *map;   /* tensor name to file name */
    const char **files; /* each once */
    int n_files;
} hf_index;

scbm_status hf_index_parse(hf_index *index, const void *data, size_t size, const char *name, const scbm_hooks *hooks);
void hf_index_clear(hf_index *index);

typedef struct hf_weights {
    safetensors **files;
    int n_files;
    scbm_tensor *tensors; /* data lies in the files */
    int n_tensors;
    int n_unused; /* heads, poolers and the like, which an encoder does without */
    scbm_hooks hooks;
} hf_weights;

/* Opens the folder's file or files and finds every tensor of the encoder that `config` describes. A tensor that is
 * missing, unknown, of another shape or of a type other than F32, F16 and BF16 is an error that names it. */
scbm_status hf_weights_open(hf_weights *weights, const hf_config *config, const scbm_hooks *hooks);
/* The same with one file that is open already; it is closed with the weights, and on error. */
scbm_status hf_weights_from_file(hf_weights *weights, const hf_config *config, safetensors *file,
                                 const scbm_hooks *hooks);
void hf_weights_clear(hf_weights *weights);

/* Reads all values: one that is not finite, or would not be as the type that it is stored as, is an error. */
scbm_status hf_weights_check(const hf_weights *weights, scbm_type type);

/* What a tensor is stored as where the user asks for `type`: vectors, positions and token types stay F32. */
scbm_type hf_weights_type(const scbm_tensor *tensor, scbm_type type);

#endif
