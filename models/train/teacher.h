/*
 * models/train/teacher.h - distillation
 */
#ifndef CBM_TEACHER_H
#define CBM_TEACHER_H

#include "models/core/heads.h"
#include "models/core/sequences.h"
#include "models/cbm-train.h"

/* Distillation (Hinton et al., 2015): a teacher's probabilities at temperature τ, for every text of the training data.
 * The loss gets weight · τ² (CE of the label + λ CE of the concepts), of the student's logits over τ with these. */
typedef struct cbm_teacher {
    float *labels, *concepts;     /* [n, Y], [n, C] */
    float weight, temperature;
    uint64_t source;              /* a hash of the two */
} cbm_teacher;

/* Runs the model at `path` over the data, whose classes it must have. Free with cbm_teacher_clear. */
scbm_status cbm_teacher_create(cbm_teacher *teacher, const char *path, const cbm_heads *student, const cbm_dataset *data,
                               float weight, float temperature, const scbm_hooks *hooks);
/* What that takes of memory, in bytes, beside the data: the model's file, and the graphs for these sequences. */
scbm_status cbm_teacher_measure(const char *path, const cbm_heads *student, const cbm_dataset *data,
                                const cbm_sequences *sequences, const scbm_hooks *hooks, size_t *bytes);
void cbm_teacher_clear(cbm_teacher *teacher, const scbm_hooks *hooks);

#endif
