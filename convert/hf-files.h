/*
 * convert/hf-files.h - the files of a Hugging Face folder that have its weights: model.safetensors or
 * pytorch_model.bin, or the several that an index (….index.json) names
 */
#ifndef CONVERT_HF_FILES_H
#define CONVERT_HF_FILES_H

#include "convert/json-file.h"
#include "convert/tensor-file.h"

typedef struct hf_files {
    tensor_file **file;
    int n;
    scbm_hooks hooks;
} hf_files;

/* Opens the folder's file or files. On error *files is closed. */
scbm_status cbm_hf_files_open(hf_files *files, const char *folder, const scbm_hooks *hooks);
/* One file that is open already; it is closed with the others, and on error. */
scbm_status cbm_hf_files_from_one(hf_files *files, tensor_file *file, const scbm_hooks *hooks);
void cbm_hf_files_close(hf_files *files);

/* Which file has which tensor. */
typedef struct hf_index {
    json_file json;
    const cJSON *map;   /* tensor name to file name */
    const char **files; /* each once */
    int n_files;
} hf_index;

scbm_status cbm_hf_index_parse(hf_index *index, const void *data, size_t size, const char *name,
                               const scbm_hooks *hooks);
void cbm_hf_index_clear(hf_index *index);

#endif
