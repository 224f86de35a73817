/*
 * models/explain/explain.h - what explain.c, subnetworks.c, faithfulness.c and global.c share
 */
#ifndef CBM_EXPLAIN_H
#define CBM_EXPLAIN_H

#include "models/core/context.h"

/* Counts a model's subnetworks; free with cbm_subnetworks_clear. */
scbm_status cbm_subnetworks_create(cbm_subnetworks *subnetworks, const cbm_model *model);
void cbm_subnetworks_clear(cbm_subnetworks *subnetworks, const scbm_hooks *hooks);

/* As cbm_explain_text, with a name for the progress hook; the context's error text is not set. */
scbm_status cbm_explain_as(cbm_context *ctx, const char *text, size_t length, const cbm_explain_options *options,
                           const char *progress, cbm_explanation *explanation);
/* How much attention each token of the context's last text gets in the last block, through each concept's subnetwork: the
 * mean over heads and attending tokens. received [K, n_tokens]; a concept's sum is 1. */
scbm_status cbm_attention_received(cbm_context *ctx, float *received);
/* Faithfulness under way: zero-initialize, add texts, take the means, clear. */
typedef struct cbm_ablation {
    cbm_sequences variants;       /* of one text: without the chosen tokens, and they alone */
    float *logits;                /* [variants, C] */
    float *attention;             /* [K, tokens] */
    double *score;                /* [tokens] */
    int32_t *order, *place;       /* [candidates] by score; the candidates' places in the text */
    uint8_t *chosen;              /* [tokens] */
    size_t logits_capacity, attention_capacity, score_capacity, order_capacity, place_capacity, chosen_capacity;
    size_t n;                     /* texts that counted */
    double comprehensiveness[CBM_ATTRIBUTION_METHODS][CBM_FAITHFULNESS_SHARES]; /* sums over texts and concepts */
    double sufficiency[CBM_ATTRIBUTION_METHODS][CBM_FAITHFULNESS_SHARES];
} cbm_ablation;

/* `explanation` is the context's latest, `number` the text's, by which random scores are drawn. */
scbm_status cbm_ablation_add(cbm_context *ctx, cbm_ablation *ablation, const cbm_explanation *explanation, uint64_t seed,
                             uint64_t number);
void cbm_ablation_finish(const cbm_ablation *ablation, int n_concepts, cbm_faithfulness *faithfulness);
void cbm_ablation_clear(cbm_ablation *ablation, const scbm_hooks *hooks);
/* An error unless the model has concepts. */
scbm_status cbm_check_concepts(const cbm_model *model);
scbm_status cbm_check_explain_options(const cbm_model *model, const cbm_explain_options *options);

/* A data set's part: text i of `n` taken evenly out of `n_texts`. */
static inline size_t cbm_sample_row(size_t i, size_t n, size_t n_texts) {
    return (size_t)((double)i * (double)n_texts / (double)n);
}

#endif
