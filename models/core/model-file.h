/*
 * models/core/model-file.h - writing whole models
 */
#ifndef CBM_MODEL_FILE_H
#define CBM_MODEL_FILE_H

#include "models/core/context.h"

/* Of the values u over the training data, computed with the weights beside them: ū; each class's mean over the texts
 * with this gold class (rows longer than the concept's classes end in zeros; zeros without such texts); their number. */
typedef struct cbm_statistics {
    scbm_tensor mean, gold_means, gold_counts;         /* [C], [C, max R], I32 [C]; data are the statistics' own */
} cbm_statistics;

typedef struct cbm_fact {
    const char *key;
    enum { CBM_FACT_INT, CBM_FACT_REAL, CBM_FACT_TEXT } kind;
    int64_t integer;
    double real;
    const char *text;
} cbm_fact;

/* Writes a whole model: everything of the encoder's file, the network's tensors in its place, heads and statistics
 * (NULL in vanilla mode), the facts, and the keys that `note` (NULL: none) sets. Memory is by `hooks`, those of whoever
 * writes: the encoder may be in use elsewhere. */
scbm_status cbm_write_model(const char *path, const cbm_model *encoder, const cbm_network *network,
                            const cbm_statistics *statistics, const cbm_fact *facts, int n_facts,
                            void (*note)(const void *user, scbm_writer *writer), const void *user,
                            const scbm_hooks *hooks);
/* Sets the fact as the key prefix + its own. */
void cbm_set_fact(scbm_writer *writer, const char *prefix, const cbm_fact *fact);

#endif
