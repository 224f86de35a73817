/*
 * convert/hf-weights.h - the tensors of a Hugging Face folder's encoder, under the names of model files
 */
#ifndef CONVERT_HF_WEIGHTS_H
#define CONVERT_HF_WEIGHTS_H

#include "convert/hf-files.h"
#include "models/backbones/architecture.h"

/* A parameter of the encoder, by its row. */
typedef struct hf_weight {
    scbm_tensor tensor;          /* name and shape as the model file has them, the folder's type; no data */
    scbm_tensor fused;           /* with its other parts, where the model file has them as one; of the first part */
    const stored_tensor *source; /* NULL: the folder has none, and the row says that it may do without */
    const cbm_row *row;
    int block;
    int padding; /* of positions that the model file has in another order: the padding's row in the folder; -1: as it is */
    const struct hf_weights *weights;
} hf_weight;

/* Tensors of one beginning that an encoder does without: "pooler", "cls". */
typedef struct hf_unused {
    char name[48];
    int n;
} hf_unused;

#define HF_MOST_UNUSED 16

typedef struct hf_weights {
    hf_files files;
    const cbm_architecture *architecture;
    hf_weight *weight; /* one for each place of the backbone */
    int n;
    const char *prefix; /* before the encoder's names, the first prefix_length bytes; it belongs to the files */
    size_t prefix_length;
    int n_unused;                     /* tensors that an encoder does without: heads, poolers and the like */
    hf_unused unused[HF_MOST_UNUSED]; /* which, by their beginnings */
    int n_beginnings;                 /* of `unused`; the last stands for all further ones */
    scbm_hooks hooks;
} hf_weights;

/* Whether the folder's rows of positions are some that nobody uses, the padding's, and then the others; a model file has
 * the padding's last, and not the first ones. */
int cbm_hf_moves_padding(const cbm_backbone *settings, const cbm_row *row);
/* The shape of the folder's tensor that has a row's parameter; returns its dimensions. */
int cbm_hf_source_shape(const cbm_backbone *settings, const cbm_row *row, int64_t shape[2]);

/* Opens the folder's file or files and finds every tensor of the encoder that `settings` describe, whatever stands before
 * all its names: what wraps a model in training leaves "module." or "_orig_mod." there. Tensors beside the encoder are
 * left out and counted. One of the encoder that is missing, unknown, of another shape or of a type other than F32, F16,
 * BF16 and F64 is an error that names it, and so are two encoders. */
scbm_status cbm_hf_weights_open(hf_weights *weights, const cbm_backbone *settings, const char *folder,
                                const scbm_hooks *hooks);
/* The same with one file that is open already; it is closed with the weights, and on error. */
scbm_status cbm_hf_weights_from_file(hf_weights *weights, const cbm_backbone *settings, tensor_file *file,
                                     const scbm_hooks *hooks);
void cbm_hf_weights_clear(hf_weights *weights);
/* What is left out, for people: "cls (5), pooler (2)". Returns `text`. */
const char *cbm_hf_weights_list_unused(const hf_weights *weights, char *text, size_t size);

/* Reads all values: one that is not finite, or would not be as the type that it is stored as, is an error. */
scbm_status cbm_hf_weights_check(const hf_weights *weights, scbm_type type);
/* What a parameter is stored as where the user asks for `type`: F32 unless its row says that it is quantized. */
scbm_type cbm_hf_weights_type(const hf_weight *weight, scbm_type type);
/* Adds them all to a model file. The weights must stay until it is written: one after the other is read then, turned
 * where the folder has it otherwise, and told to the progress hook. */
void cbm_hf_weights_add(const hf_weights *weights, scbm_type type, scbm_writer *writer);

#endif
