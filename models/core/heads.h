/*
 * models/core/heads.h - the two linear heads: concepts from pooled vectors, the label from the concepts
 */
#ifndef CBM_HEADS_H
#define CBM_HEADS_H

#include "models/base/names.h"
#include "models/cbm.h"

/* K concepts of R_k classes each, C = Σ R_k; Y labels. u are the concepts' values, what the label head reads. */
typedef struct cbm_heads {
    cbm_mode mode;
    int n_concepts, n_classes, max_classes, n_labels;  /* K, C, the largest R_k, Y */
    int32_t *groups;              /* [K + 1]: concept k's classes are groups[k] … groups[k + 1] − 1 of the C */
    const char **concept_name;    /* [K]; the strings belong to the file or the data set */
    const char **class_name;      /* [C] */
    const char **label_name;      /* [Y] */
    scbm_tensor group_tensor;     /* groups as I32 [K + 1], and {0, Y}, for the graphs */
    scbm_tensor label_group_tensor;
    int32_t label_groups[2];
    scbm_tensor *concept_weight, *concept_bias; /* [C, d], [C]; NULL in vanilla mode */
    scbm_tensor *label_weight, *label_bias;     /* [Y, C] ([Y, d] in vanilla mode), [Y] */
} cbm_heads;

/* Takes memory for names and groups and sets the sizes; the caller fills both in, then calls cbm_heads_finish. */
scbm_status cbm_heads_create(cbm_heads *heads, cbm_mode mode, int n_concepts, int n_classes, int n_labels,
                             const scbm_hooks *hooks);
scbm_status cbm_heads_finish(cbm_heads *heads);
void cbm_heads_clear(cbm_heads *heads, const scbm_hooks *hooks);
/* Reads names and tensors of a model file (mode CBM_ENCODER where it has none), and checks them. */
scbm_status cbm_heads_read(cbm_heads *heads, scbm_file *file, int64_t hidden, const scbm_hooks *hooks);

/* The file's tensor of this name, which must have this type and shape ([rows] where columns is 0). */
scbm_status cbm_find_tensor(scbm_file *file, const char *name, scbm_type type, int64_t rows, int64_t columns,
                            scbm_tensor **found);

/* How many numbers the network computes for a text: C, or Y in vanilla mode. */
int cbm_n_logits(const cbm_heads *heads);
/* u of a text's concept logits [C]: the logits, or the softmax of each concept in independent mode. */
void cbm_concept_values(const cbm_heads *heads, const float *logits, float *values);
/* y = G u + g, in double and in order, so that it is the same wherever it is computed. */
void cbm_label_logits(const cbm_heads *heads, const float *values, float *logits);
/* In double, with an exponential that is the same on every machine. `probabilities` may be `logits`. */
void cbm_softmax(const float *logits, int n, float *probabilities);
int cbm_largest(const float *values, int n);   /* the first of the largest */
/* The names, for comparing with a data set's; without concepts in vanilla mode. */
cbm_names cbm_heads_names(const cbm_heads *heads);

#endif
