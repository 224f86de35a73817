/*
 * models/data/metrics.c - accuracy, F1, confusion matrices, bootstrap intervals
 */
#include "models/base/hash.h"
#include "models/cbm-train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_SCORES 3 /* in a cbm_scores */

/* All that the scores of a column need: how often each class is gold, is predicted, and is both. */
typedef struct class_counts {
    int64_t gold, predicted, both;
} class_counts;

/* The F1 of a class: 2 both / (gold + predicted), 0 where it does not occur. */
static double f1(int64_t both, int64_t gold, int64_t predicted) {
    return gold + predicted > 0 ? 2.0 * (double)both / (double)(gold + predicted) : 0.0;
}

/* The two-class macro F1 of "is it this class"; a side that does not occur does not count. */
static double one_against_rest(const class_counts *c, int64_t n) {
    int64_t rest_gold = n - c->gold, rest_predicted = n - c->predicted;
    int64_t rest_both = n - c->gold - c->predicted + c->both;
    double inside = f1(c->both, c->gold, c->predicted);
    if (rest_gold + rest_predicted == 0) return inside;
    return 0.5 * (inside + f1(rest_both, rest_gold, rest_predicted));
}

static cbm_scores score(const class_counts *counts, int n_classes, int64_t n) {
    cbm_scores scores = {0.0, 0.0, 0.0};
    int64_t right = 0, n_present = 0;
    for (int c = 0; c < n_classes; c++) {
        if (counts[c].gold + counts[c].predicted == 0) continue;
        n_present++;
        right += counts[c].both;
        scores.macro_f1 += f1(counts[c].both, counts[c].gold, counts[c].predicted);
        scores.macro_f1_ovr += one_against_rest(&counts[c], n);
    }
    if (n == 0) return scores;
    scores.accuracy = (double)right / (double)n;
    scores.macro_f1 /= (double)n_present;
    scores.macro_f1_ovr /= (double)n_present;
    return scores;
}

static void count(class_counts *counts, int32_t gold, int32_t predicted, int64_t times) {
    counts[gold].gold += times;
    counts[predicted].predicted += times;
    if (gold == predicted) counts[gold].both += times;
}

void cbm_count_confusion(int64_t *confusion, int n_classes, const int32_t *gold, const int32_t *predicted, size_t n,
                         size_t stride) {
    memset(confusion, 0, (size_t)n_classes * (size_t)n_classes * sizeof *confusion);
    for (size_t i = 0; i < n; i++) {
        int32_t row = gold[i * stride], column = predicted[i * stride];
        if (row >= 0) confusion[(size_t)row * (size_t)n_classes + (size_t)column]++;
    }
}

void cbm_measure_classes(cbm_class_measures *classes, const int64_t *confusion, int n_classes) {
    size_t n = (size_t)n_classes;
    for (size_t c = 0; c < n; c++) {
        int64_t gold = 0, predicted = 0, both = confusion[c * n + c];
        for (size_t i = 0; i < n; i++) {
            gold += confusion[c * n + i];
            predicted += confusion[i * n + c];
        }
        classes[c] = (cbm_class_measures){.precision = predicted ? (double)both / (double)predicted : 0.0,
                                          .recall = gold ? (double)both / (double)gold : 0.0,
                                          .f1 = f1(both, gold, predicted),
                                          .support = gold,
                                          .n_predicted = predicted};
    }
}

double cbm_mean_absolute_error(const int64_t *confusion, int n_classes, const double *values) {
    int64_t counted = 0;
    double sum = 0.0;
    for (int g = 0; g < n_classes; g++) {
        for (int p = 0; p < n_classes; p++) {
            int64_t cells = confusion[(size_t)g * (size_t)n_classes + (size_t)p];
            counted += cells;
            sum += (double)cells * fabs(values[g] - values[p]);
        }
    }
    return counted ? sum / (double)counted : 0.0;
}

/* ------------------------------------------------------------------------------------------
 * Tables
 * ---------------------------------------------------------------------------------------- */

typedef struct table {
    const int32_t *gold, *predicted; /* [n, K] */
    size_t n;
    int n_columns;
    const int *n_classes;
    class_counts **counts; /* [K], each [n_classes]; room of one sample */
    int64_t *n_cells;      /* [K]: of the sample */
    int32_t *pattern;      /* [n]: rows that are alike count alike, and have the same number here */
    size_t *alike;         /* [n_patterns]: one of the rows */
    int64_t *drawn;        /* [n_patterns]: how often a sample has such a row */
    size_t n_patterns;
    double *samples; /* [K + 1, N_SCORES, resamples]; the last are the means */
} table;

static scbm_status check_cells(const table *t) {
    for (int k = 0; k < t->n_columns; k++) {
        for (size_t i = 0; i < t->n; i++) {
            size_t cell = i * (size_t)t->n_columns + (size_t)k;
            if (t->gold[cell] < -1 || t->gold[cell] >= t->n_classes[k])
                return scbm_fail(SCBM_ERROR_ARGUMENT, "row %zu, column %d: gold class %d is not one of %d", i, k,
                                 t->gold[cell], t->n_classes[k]);
            if (t->gold[cell] >= 0 && (t->predicted[cell] < 0 || t->predicted[cell] >= t->n_classes[k]))
                return scbm_fail(SCBM_ERROR_ARGUMENT, "row %zu, column %d: predicted class %d is not one of %d", i, k,
                                 t->predicted[cell], t->n_classes[k]);
        }
    }
    return SCBM_OK;
}

static void reset_counts(table *t) {
    for (int k = 0; k < t->n_columns; k++) memset(t->counts[k], 0, (size_t)t->n_classes[k] * sizeof **t->counts);
    memset(t->n_cells, 0, (size_t)t->n_columns * sizeof *t->n_cells);
}

static void count_row(table *t, size_t row, int64_t times) {
    const int32_t *gold = t->gold + row * (size_t)t->n_columns, *predicted = t->predicted + row * (size_t)t->n_columns;
    for (int k = 0; k < t->n_columns; k++) {
        if (gold[k] < 0) continue;
        count(t->counts[k], gold[k], predicted[k], times);
        t->n_cells[k] += times;
    }
}

/* The scores of what was counted: of each column, and their mean after them. */
static void score_columns(const table *t, cbm_scores *scores) {
    cbm_scores mean = {0.0, 0.0, 0.0};
    int n_measured = 0;
    for (int k = 0; k < t->n_columns; k++) {
        scores[k] = score(t->counts[k], t->n_classes[k], t->n_cells[k]);
        if (t->n_cells[k] == 0) continue;
        n_measured++;
        mean.accuracy += scores[k].accuracy;
        mean.macro_f1 += scores[k].macro_f1;
        mean.macro_f1_ovr += scores[k].macro_f1_ovr;
    }
    if (n_measured) {
        mean.accuracy /= n_measured;
        mean.macro_f1 /= n_measured;
        mean.macro_f1_ovr /= n_measured;
    }
    scores[t->n_columns] = mean;
}

static void find_majority(const table *t, int k, cbm_measures *m) {
    m->majority_class = -1;
    for (int c = 0; c < t->n_classes[k]; c++) {
        if (t->counts[k][c].gold > (m->majority_class < 0 ? 0 : t->counts[k][m->majority_class].gold))
            m->majority_class = c;
    }
    m->majority_share = m->majority_class < 0 ? 0.0 : (double)t->counts[k][m->majority_class].gold / (double)m->n;
}

/* ------------------------------------------------------------------------------------------
 * Rows that are alike: a sample is counted by drawing numbers of patterns, which are few, and looking at each once
 * ---------------------------------------------------------------------------------------- */

static int are_alike(const table *t, size_t a, size_t b) {
    size_t n = (size_t)t->n_columns;
    for (size_t k = 0; k < n; k++) {
        int32_t gold = t->gold[a * n + k];
        if (gold != t->gold[b * n + k]) return 0;
        if (gold >= 0 && t->predicted[a * n + k] != t->predicted[b * n + k]) return 0;
    }
    return 1;
}

static uint64_t hash_row(const table *t, size_t row) {
    uint64_t hash = CBM_HASH_START;
    size_t n = (size_t)t->n_columns;
    for (size_t k = 0; k < n; k++) {
        int32_t gold = t->gold[row * n + k], pair[2] = {gold, gold >= 0 ? t->predicted[row * n + k] : 0};
        hash = cbm_hash(hash, pair, sizeof pair);
    }
    return hash;
}

/* `slot` has a power of two of places, more than there are rows, all zero. */
static void number_patterns(table *t, int32_t *slot, size_t n_slots) {
    for (size_t i = 0; i < t->n; i++) {
        size_t at = (size_t)hash_row(t, i) & (n_slots - 1);
        while (slot[at] && !are_alike(t, t->alike[slot[at] - 1], i)) at = (at + 1) & (n_slots - 1);
        if (!slot[at]) {
            t->alike[t->n_patterns++] = i;
            slot[at] = (int32_t)t->n_patterns;
        }
        t->pattern[i] = slot[at] - 1;
    }
}

static scbm_status find_patterns(table *t, const scbm_hooks *hooks) {
    size_t n_slots = 16;
    while (n_slots < 2 * t->n) n_slots *= 2;
    int32_t *slot = scbm_alloc_array(hooks, n_slots, sizeof *slot);
    t->pattern = scbm_alloc_array(hooks, t->n, sizeof *t->pattern);
    t->alike = scbm_alloc_array(hooks, t->n, sizeof *t->alike);
    if (slot && t->pattern && t->alike) number_patterns(t, slot, n_slots);
    scbm_release(hooks, slot);
    if (!slot || !t->pattern || !t->alike) return SCBM_ERROR_MEMORY;
    t->drawn = scbm_alloc_array(hooks, t->n_patterns, sizeof *t->drawn);
    return t->drawn ? SCBM_OK : SCBM_ERROR_MEMORY;
}

/* ------------------------------------------------------------------------------------------
 * The bootstrap
 * ---------------------------------------------------------------------------------------- */

/* Rows for one resample are drawn four to a block of random bits. The product's high word is as good as uniform: its
 * bias is below n / 2^32. */
static void draw_sample(table *t, uint64_t seed, uint64_t sample) {
    uint32_t bits[4];
    reset_counts(t);
    memset(t->drawn, 0, t->n_patterns * sizeof *t->drawn);
    for (size_t i = 0; i < t->n; i++) {
        if (i % 4 == 0) scbm_philox(seed, sample, i / 4, bits);
        t->drawn[t->pattern[(size_t)((uint64_t)bits[i % 4] * t->n >> 32)]]++;
    }
    for (size_t p = 0; p < t->n_patterns; p++)
        if (t->drawn[p]) count_row(t, t->alike[p], t->drawn[p]);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, by linear interpolation. */
static double percentile(const double *sorted, int n, double share) {
    double place = share * (n - 1);
    int below = (int)place;
    if (below >= n - 1) return sorted[n - 1];
    return sorted[below] + (place - below) * (sorted[below + 1] - sorted[below]);
}

static void find_intervals(table *t, int column, int resamples, cbm_measures *m) {
    double bounds[2][N_SCORES];
    for (int s = 0; s < N_SCORES; s++) {
        double *values = t->samples + ((size_t)column * N_SCORES + (size_t)s) * (size_t)resamples;
        qsort(values, (size_t)resamples, sizeof *values, compare_doubles);
        bounds[0][s] = percentile(values, resamples, 0.025);
        bounds[1][s] = percentile(values, resamples, 0.975);
    }
    m->low = (cbm_scores){bounds[0][0], bounds[0][1], bounds[0][2]};
    m->high = (cbm_scores){bounds[1][0], bounds[1][1], bounds[1][2]};
}

static scbm_status bootstrap(table *t, int resamples, uint64_t seed, cbm_scores *scores, const scbm_hooks *hooks) {
    scbm_status status = find_patterns(t, hooks);
    for (int b = 0; b < resamples && !status; b++) {
        draw_sample(t, seed, (uint64_t)b);
        score_columns(t, scores);
        for (int k = 0; k <= t->n_columns; k++) {
            double *place = t->samples + (size_t)k * N_SCORES * (size_t)resamples + b;
            place[0] = scores[k].accuracy;
            place[resamples] = scores[k].macro_f1;
            place[2 * (size_t)resamples] = scores[k].macro_f1_ovr;
        }
        status = scbm_progress(hooks, "bootstrap", b + 1, resamples);
    }
    return status;
}

/* Without intervals. */
static void measure_table(table *t, cbm_measures *each, cbm_measures *mean, cbm_scores *scores) {
    reset_counts(t);
    for (size_t i = 0; i < t->n; i++) count_row(t, i, 1);
    score_columns(t, scores);
    memset(mean, 0, sizeof *mean);
    mean->value = mean->low = mean->high = scores[t->n_columns];
    mean->majority_class = -1;
    int n_measured = 0;
    for (int k = 0; k < t->n_columns; k++) {
        each[k].n = t->n_cells[k];
        each[k].value = each[k].low = each[k].high = scores[k];
        find_majority(t, k, &each[k]);
        mean->n += each[k].n;
        mean->majority_share += each[k].majority_share;
        n_measured += each[k].n > 0;
    }
    if (n_measured) mean->majority_share /= n_measured;
}

static scbm_status add_intervals(table *t, cbm_measures *each, cbm_measures *mean, int resamples, uint64_t seed,
                                 cbm_scores *scores, const scbm_hooks *hooks) {
    scbm_status status = bootstrap(t, resamples, seed, scores, hooks);
    for (int k = 0; k < t->n_columns && !status; k++) find_intervals(t, k, resamples, &each[k]);
    if (!status) find_intervals(t, t->n_columns, resamples, mean);
    return status;
}

static void release_table(table *t, const scbm_hooks *hooks) {
    for (int k = 0; t->counts && k < t->n_columns; k++) scbm_release(hooks, t->counts[k]);
    scbm_release(hooks, t->counts);
    scbm_release(hooks, t->n_cells);
    scbm_release(hooks, t->samples);
    scbm_release(hooks, t->pattern);
    scbm_release(hooks, t->alike);
    scbm_release(hooks, t->drawn);
}

static scbm_status make_table(table *t, int resamples, const scbm_hooks *hooks) {
    size_t n_columns = (size_t)t->n_columns;
    t->counts = scbm_alloc_array(hooks, n_columns, sizeof *t->counts);
    t->n_cells = scbm_alloc_array(hooks, n_columns, sizeof *t->n_cells);
    if (!t->counts || !t->n_cells) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < t->n_columns; k++) {
        t->counts[k] = scbm_alloc_array(hooks, (size_t)t->n_classes[k], sizeof **t->counts);
        if (!t->counts[k]) return SCBM_ERROR_MEMORY;
    }
    if (resamples <= 0) return SCBM_OK;
    t->samples = scbm_alloc_array(hooks, (n_columns + 1) * N_SCORES, (size_t)resamples * sizeof *t->samples);
    return t->samples ? SCBM_OK : SCBM_ERROR_MEMORY;
}

scbm_status cbm_measure(cbm_measures *each, cbm_measures *mean, const int32_t *gold, const int32_t *predicted, size_t n,
                        int n_columns, const int *n_classes, int resamples, uint64_t seed, const scbm_hooks *hooks) {
    table t = {.gold = gold, .predicted = predicted, .n = n, .n_columns = n_columns, .n_classes = n_classes};
    cbm_measures unwanted;
    if (n_columns < 0 || (uint64_t)n > INT32_MAX)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_measure: %zu rows of %d columns", n, n_columns);
    scbm_status status = check_cells(&t);
    if (status) return status;
    cbm_scores *scores = scbm_alloc_array(hooks, (size_t)n_columns + 1, sizeof *scores);
    status = scores ? make_table(&t, resamples, hooks) : SCBM_ERROR_MEMORY;
    if (!mean) mean = &unwanted;
    if (!status) measure_table(&t, each, mean, scores);
    if (!status && resamples > 0 && n > 0) status = add_intervals(&t, each, mean, resamples, seed, scores, hooks);
    release_table(&t, hooks);
    scbm_release(hooks, scores);
    return status;
}
