/*
 * models/report/report.h - reports: what a whole data set says about a model, and explanations as HTML and pictures
 */
#ifndef CBM_REPORT_H
#define CBM_REPORT_H

#include "models/cbm.h"

/* ------------------------------------------------------------------------------------------
 * A global explanation: contributions over all texts, and words over a sample of them
 * ---------------------------------------------------------------------------------------- */

typedef struct cbm_global_options {
    int64_t sample;              /* texts whose words are attributed, evenly spaced over the data; 0: 200; negative: all */
    int n_words;                 /* of each class at most; 0: 10 */
    int faithfulness;            /* 1: measure it on the sample too */
    cbm_explain_options explain; /* steps of integrated gradients, and the seed of faithfulness's random baseline, which
                                    draws by a text's row; the rest is not looked at */
    uint64_t reserved[8];        /* zeros */
} cbm_global_options;

/* A word's integrated gradients towards a class, over its occurrences in texts whose concept reads this class. Words are
 * compared as the tokenizer normalizes them. */
typedef struct cbm_word_influence {
    const char *text; /* "unforgettable": the pieces put together */
    int64_t count;    /* occurrences */
    double mean;      /* of their attributions */
    double score;     /* sum / (count + 2): what words are ranked by, so that one occurrence is weak evidence */
} cbm_word_influence;

typedef struct cbm_global_report {
    const cbm_subnetworks *subnetworks; /* the context's */
    size_t n_texts, n_explained, n_truncated;
    int n_concepts, n_labels, n_classes; /* K, Y, C = Σ R_k; concept k's classes start at first_class[k] */
    const int *first_class;              /* [K + 1] */
    const int64_t *label_count;          /* [Y]: texts that are predicted this label */
    const int64_t *class_count;          /* [C]: texts whose concept reads this class */
    /* Over the texts that are predicted label y: the mean of concept k's contribution to the logit of y, and of its
     * absolute value; 0 without such texts. */
    const double *contribution;          /* [K, Y] */
    const double *absolute_contribution; /* [K, Y] */
    const double *importance;            /* [K]: the mean |contribution| over all texts */
    const cbm_word_influence *words;     /* [C, most_words]: the most influential first, with positive scores only */
    const int *n_words;                  /* [C]: how many there are */
    int most_words;
    const cbm_faithfulness *faithfulness; /* NULL: not measured */
} cbm_global_report;

/* `lengths` NULL: NUL-terminated texts; `options` NULL: the defaults. The report refers to the context's subnetworks;
 * free it before the context. The progress hook gets "predict" and "explain". */
scbm_status cbm_global_report_create(cbm_global_report **report, cbm_context *ctx, const char *const *texts,
                                     const size_t *lengths, size_t n, const cbm_global_options *options);
void cbm_global_report_free(cbm_global_report *report);

/* ------------------------------------------------------------------------------------------
 * Files: written whole or not at all (scbm_output_open)
 * ---------------------------------------------------------------------------------------- */

/* One self-contained HTML file that explains a text. `title` stands at its top (the model's file name, say). The mask maps
 * are the model's. */
scbm_status cbm_report_html(const char *path, const char *title, const cbm_model *model, const char *text,
                            size_t length, const cbm_explanation *explanation, const scbm_hooks *hooks);
/* The same for a data set. */
scbm_status cbm_report_global_html(const char *path, const char *title, const cbm_model *model,
                                   const cbm_global_report *report, const scbm_hooks *hooks);
/* Mask maps of every matrix and concept, and the overlaps, as a PNG picture with labels. A dense model is
 * SCBM_ERROR_UNSUPPORTED. */
scbm_status cbm_report_png(const char *path, const char *title, const cbm_model *model,
                           const cbm_subnetworks *subnetworks, const scbm_hooks *hooks);

#endif
