/*
 * models/data/metrics.h - how good predictions are: accuracy, F1, confusion matrices, bootstrap intervals
 *
 * A table of targets has n rows (texts) and K columns (the label alone, or all concepts). A gold class of -1 is
 * missing: such a cell counts nowhere.
 */
#ifndef CBM_METRICS_H
#define CBM_METRICS_H

#include "sparsecbm.h"

/* Each between 0 and 1; 0 where there is nothing to measure. */
typedef struct cbm_scores {
    double accuracy;
    double macro_f1; /* mean of the classes' F1, over the classes that occur in gold or prediction (scikit-learn's) */
    double
        macro_f1_ovr; /* over the same classes, the mean macro F1 of "is it this class or not" (the released code's) */
} cbm_scores;

typedef struct cbm_measures {
    int64_t n; /* cells with a gold class */
    cbm_scores value;
    cbm_scores low, high;   /* 95 % bootstrap interval; the value itself where none was asked for */
    int32_t majority_class; /* the most frequent gold class (the first of several); -1: there is none */
    double majority_share;
} cbm_measures;

/* Measures column k of gold and predicted [n, n_columns], whose classes are 0 … n_classes[k] − 1, into each[k], and into
 * *mean (may be NULL) the mean over the columns that have a gold class at all. `resamples` > 0 (1,000, say) adds intervals:
 * whole rows are drawn with replacement, and percentiles taken. The same seed gives the same intervals. A class
 * outside its column's is an error. */
scbm_status cbm_measure(cbm_measures *each, cbm_measures *mean, const int32_t *gold, const int32_t *predicted, size_t n,
                        int n_columns, const int *n_classes, int resamples, uint64_t seed, const scbm_hooks *hooks);

/* Counts into confusion [n_classes, n_classes]: gold classes are rows, predicted ones columns. gold and predicted have
 * n entries that are `stride` apart. */
void cbm_count_confusion(int64_t *confusion, int n_classes, const int32_t *gold, const int32_t *predicted, size_t n,
                         size_t stride);

#endif
