/*
 * tests/test-metrics.c - accuracy, F1, confusion matrices and bootstrap intervals against values that were worked out
 * by hand and by scikit-learn 1.9.1
 */
#define _POSIX_C_SOURCE 200809L

#include "models/cbm-train.h"
#include "tests/helpers.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static void assert_scores(const cbm_scores *got, double accuracy, double macro_f1, double macro_f1_ovr) {
    assert_near(got->accuracy, accuracy, 1e-11);
    assert_near(got->macro_f1, macro_f1, 1e-11);
    assert_near(got->macro_f1_ovr, macro_f1_ovr, 1e-11);
}

static cbm_measures measure_one(const int32_t *gold, const int32_t *predicted, size_t n, int n_classes) {
    cbm_measures m, mean;
    assert_ok(cbm_measure(&m, &mean, gold, predicted, n, 1, &n_classes, 0, 0, NULL));
    assert_memory_equal(&m.value, &mean.value, sizeof m.value);
    assert_memory_equal(&m.value, &m.low, sizeof m.value);
    assert_memory_equal(&m.value, &m.high, sizeof m.value);
    return m;
}

/* Right: 5 of 7. F1 of class 0 is 2·1 / (2 + 2), of 1 and of 2 2·2 / 5. Of "not class 0" it is 2·4 / (5 + 5), of "not
 * class 1" and "not class 2" 2·4 / 9. Class 3 does not occur and counts nowhere, and neither does the last text. */
static void measures_equal_those_worked_by_hand(void **state) {
    static const int32_t gold[] = {0, 0, 1, 1, 2, 2, 2, -1}, predicted[] = {0, 1, 1, 1, 0, 2, 2, 3};
    (void)state;
    cbm_measures m = measure_one(gold, predicted, 8, 4);
    assert_int_equal(m.n, 7);
    assert_scores(&m.value, 5.0 / 7, (0.5 + 0.8 + 0.8) / 3,
                  ((0.5 + 0.8) / 2 + (0.8 + 8.0 / 9) / 2 + (0.8 + 8.0 / 9) / 2) / 3);
    assert_int_equal(m.majority_class, 2);
    assert_near(m.majority_share, 3.0 / 7, 1e-15);
}

/* A class that is only predicted has F1 0 and counts: F1 4/5 and 0; "not 0" is only predicted and has 0, "not 1" 4/5. */
static void a_class_that_is_only_predicted_counts(void **state) {
    static const int32_t gold[] = {0, 0, 0}, predicted[] = {0, 0, 1};
    (void)state;
    cbm_measures m = measure_one(gold, predicted, 3, 3);
    assert_scores(&m.value, 2.0 / 3, 0.4, ((0.8 + 0) / 2 + (0 + 0.8) / 2) / 2);
    assert_int_equal(m.majority_class, 0);
    assert_near(m.majority_share, 1, 0);
}

static void one_class_that_is_always_right_is_perfect(void **state) {
    static const int32_t classes[] = {1, 1, 1};
    (void)state;
    cbm_measures m = measure_one(classes, classes, 3, 2);
    assert_scores(&m.value, 1, 1, 1);
}

static void everything_wrong_is_zero(void **state) {
    static const int32_t gold[] = {0, 1}, predicted[] = {1, 0};
    (void)state;
    cbm_measures m = measure_one(gold, predicted, 2, 2);
    assert_scores(&m.value, 0, 0, 0);
    assert_int_equal(m.majority_class, 0); /* the first of two */
}

static void nothing_to_measure_is_zero(void **state) {
    static const int32_t gold[] = {-1, -1}, predicted[] = {0, 1};
    (void)state;
    cbm_measures m = measure_one(gold, predicted, 2, 2);
    assert_int_equal(m.n, 0);
    assert_scores(&m.value, 0, 0, 0);
    assert_int_equal(m.majority_class, -1);
    m = measure_one(gold, predicted, 0, 2);
    assert_int_equal(m.n, 0);
}

/* 500 texts with two columns, by formulas that scikit-learn's numbers were computed from as well. */
enum { ROWS = 500 };
static const int n_classes[] = {6, 3};

static void make_table(int32_t gold[2 * ROWS], int32_t predicted[2 * ROWS]) {
    for (int i = 0; i < ROWS; i++) {
        gold[2 * i] = (7 * i * i + 3 * i) % 11 % 5;
        predicted[2 * i] = i % 3 ? gold[2 * i] : (5 * i + 1) % 6;
        gold[2 * i + 1] = i % 10 == 9 ? -1 : (i * i + i) % 7 % 3;
        predicted[2 * i + 1] = i % 4 == 0 ? i / 4 % 3 : gold[2 * i + 1] < 0 ? 2 : gold[2 * i + 1];
    }
}

static void measures_equal_scikit_learn(void **state) {
    int32_t gold[2 * ROWS], predicted[2 * ROWS];
    cbm_measures each[2], mean;
    (void)state;
    make_table(gold, predicted);
    assert_ok(cbm_measure(each, &mean, gold, predicted, ROWS, 2, n_classes, 0, 0, NULL));
    assert_int_equal(each[0].n, 500);
    assert_int_equal(each[1].n, 450);
    assert_scores(&each[0].value, 0.746, 0.718255444895, 0.815075285337);
    assert_scores(&each[1].value, 0.813333333333, 0.567736185383, 0.730255869997);
    assert_scores(&mean.value, 0.779666666667, 0.642995815139, 0.772665577667);
    assert_int_equal(each[0].majority_class, 0);
    assert_near(each[0].majority_share, 0.364, 1e-15);
    assert_near(each[1].majority_share, 257.0 / 450, 1e-15);
    assert_near(mean.majority_share, (0.364 + 257.0 / 450) / 2, 1e-15);
}

static void confusion_matrices_equal_scikit_learn(void **state) {
    static const int64_t first[36] = {121, 31, 0, 0,  30, 0, 0, 153, 0, 0, 29, 0, 0, 0, 0, 0, 0, 0,
                                      0,   14, 0, 61, 16, 0, 0, 7,   0, 0, 38, 0, 0, 0, 0, 0, 0, 0};
    static const int64_t second[9] = {209, 24, 24, 0, 0, 0, 18, 18, 157};
    int32_t gold[2 * ROWS], predicted[2 * ROWS];
    int64_t confusion[36];
    (void)state;
    make_table(gold, predicted);
    memset(confusion, 255, sizeof confusion);
    cbm_count_confusion(confusion, 6, gold, predicted, ROWS, 2);
    assert_memory_equal(confusion, first, sizeof first);
    cbm_count_confusion(confusion, 3, gold + 1, predicted + 1, ROWS, 2);
    assert_memory_equal(confusion, second, sizeof second);
}

static void a_column_without_gold_is_left_out_of_the_mean(void **state) {
    static const int32_t gold[] = {0, -1, 1, -1, 1, -1, 0, -1}, predicted[] = {0, 0, 1, 0, 0, 0, 0, 0};
    static const int classes[] = {2, 2};
    cbm_measures each[2], mean;
    (void)state;
    assert_ok(cbm_measure(each, &mean, gold, predicted, 4, 2, classes, 100, 1, NULL));
    assert_int_equal(each[1].n, 0);
    assert_memory_equal(&mean.value, &each[0].value, sizeof mean.value);
    assert_memory_equal(&mean.low, &each[0].low, sizeof mean.low);
    assert_near(mean.value.accuracy, 0.75, 0);
    assert_ok(cbm_measure(NULL, &mean, NULL, NULL, 4, 0, NULL, 100, 1, NULL)); /* a model without concepts */
    assert_int_equal(mean.n, 0);
}

/* The bounds that NumPy found with 40,000 resamples of its own generator. With 4,000 a bound is uncertain by about
 * 0.0015; 1,000 of them, the usual number, stay within 0.006. */
static void intervals_are_those_of_another_bootstrap(void **state) {
    static const double low[3][3] = {{0.7080, 0.6760, 0.7877}, {0.7765, 0.5458, 0.7088}, {0.7543, 0.6196, 0.7557}};
    static const double high[3][3] = {{0.7840, 0.7579, 0.8410}, {0.8487, 0.5880, 0.7502}, {0.8043, 0.6649, 0.7886}};
    static const int resamples[] = {4000, 1000};
    int32_t gold[2 * ROWS], predicted[2 * ROWS];
    (void)state;
    make_table(gold, predicted);
    for (int i = 0; i < 2; i++) {
        cbm_measures all[3];
        double tolerance = i ? 0.006 : 0.004;
        assert_ok(cbm_measure(all, &all[2], gold, predicted, ROWS, 2, n_classes, resamples[i], 7, NULL));
        for (int k = 0; k < 3; k++) {
            assert_near(all[k].low.accuracy, low[k][0], tolerance);
            assert_near(all[k].low.macro_f1, low[k][1], tolerance);
            assert_near(all[k].low.macro_f1_ovr, low[k][2], tolerance);
            assert_near(all[k].high.accuracy, high[k][0], tolerance);
            assert_near(all[k].high.macro_f1, high[k][1], tolerance);
            assert_near(all[k].high.macro_f1_ovr, high[k][2], tolerance);
        }
    }
}

/* Resamples of two texts, one right and one wrong, are right at 0, 1/2 or 1, with chances 1/4, 1/2, 1/4. */
static void intervals_reach_what_a_resample_can_be(void **state) {
    static const int32_t gold[] = {0, 0}, predicted[] = {0, 1};
    const int classes = 2;
    cbm_measures m;
    (void)state;
    assert_ok(cbm_measure(&m, NULL, gold, predicted, 2, 1, &classes, 1000, 3, NULL));
    assert_near(m.low.accuracy, 0, 0);
    assert_near(m.high.accuracy, 1, 0);
    assert_near(m.value.accuracy, 0.5, 0);
    assert_ok(cbm_measure(&m, NULL, gold, gold, 2, 1, &classes, 1, 3, NULL));
    assert_near(m.low.accuracy, 1, 0);
}

static void a_seed_gives_the_same_intervals(void **state) {
    int32_t gold[2 * ROWS], predicted[2 * ROWS];
    cbm_measures one[3], same[3], other[3];
    (void)state;
    make_table(gold, predicted);
    memset(one, 0, sizeof one);
    memset(same, 0, sizeof same);
    assert_ok(cbm_measure(one, &one[2], gold, predicted, ROWS, 2, n_classes, 200, 1, NULL));
    assert_ok(cbm_measure(same, &same[2], gold, predicted, ROWS, 2, n_classes, 200, 1, NULL));
    assert_ok(cbm_measure(other, &other[2], gold, predicted, ROWS, 2, n_classes, 200, 2, NULL));
    for (int k = 0; k < 3; k++) {
        assert_memory_equal(&one[k].low, &same[k].low, sizeof one[k].low);
        assert_memory_equal(&one[k].high, &same[k].high, sizeof one[k].high);
        assert_memory_equal(&one[k].value, &other[k].value, sizeof one[k].value);
    }
    assert_true(one[0].low.macro_f1 != other[0].low.macro_f1);
}

static void expect_bad_class(int32_t gold, int32_t predicted, const char *words) {
    const int32_t golds[] = {0, gold}, predictions[] = {0, predicted};
    const int classes = 2;
    cbm_measures m;
    assert_int_equal(cbm_measure(&m, NULL, golds, predictions, 2, 1, &classes, 10, 0, NULL), SCBM_ERROR_ARGUMENT);
    if (!strstr(scbm_last_error(), words)) fail_msg("got '%s'; wanted '%s'", scbm_last_error(), words);
}

static void a_class_out_of_range_is_an_error(void **state) {
    (void)state;
    expect_bad_class(2, 0, "row 1, column 0: gold class 2 is not one of 2");
    expect_bad_class(-2, 0, "gold class -2");
    expect_bad_class(0, 2, "row 1, column 0: predicted class 2 is not one of 2");
    expect_bad_class(0, -1, "predicted class -1");
}

static void running_out_of_memory_is_an_error(void **state) {
    int32_t gold[2 * ROWS], predicted[2 * ROWS];
    scbm_status status = SCBM_ERROR_MEMORY;
    int n = 0;
    (void)state;
    make_table(gold, predicted);
    for (; status && n < 100; n++) {
        counting_allocator memory = {.fails_at = n + 1, .fails_on = 1};
        const scbm_hooks hooks = allocator_hooks(&memory);
        cbm_measures each[2];
        status = cbm_measure(each, NULL, gold, predicted, ROWS, 2, n_classes, 10, 0, &hooks);
        if (status) assert_int_equal(status, SCBM_ERROR_MEMORY);
        assert_int_equal(memory.held, 0);
    }
    assert_int_equal(status, SCBM_OK);
    assert_true(n > 5);
}

/* scikit-learn's precision_recall_fscore_support of gold 0 0 0 1 1 2, predicted 0 0 1 1 2 0; class 3 does not occur. */
static void classes_have_precision_recall_and_f1(void **state) {
    static const int64_t confusion[] = {2, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    static const double wanted[][3] = {{2.0 / 3, 2.0 / 3, 2.0 / 3}, {0.5, 0.5, 0.5}, {0, 0, 0}, {0, 0, 0}};
    static const int64_t support[] = {3, 2, 1, 0}, n_predicted[] = {3, 2, 1, 0};
    cbm_class_measures classes[4];
    (void)state;
    cbm_measure_classes(classes, confusion, 4);
    for (int c = 0; c < 4; c++) {
        assert_near(classes[c].precision, wanted[c][0], 1e-15);
        assert_near(classes[c].recall, wanted[c][1], 1e-15);
        assert_near(classes[c].f1, wanted[c][2], 1e-15);
        assert_int_equal(classes[c].support, support[c]);
        assert_int_equal(classes[c].n_predicted, n_predicted[c]);
    }
}

static void numbers_have_a_mean_absolute_error(void **state) {
    static const int64_t confusion[] = {2, 1, 0, 0, 1, 1, 1, 0, 0}, none[9] = {0};
    static const double stars[] = {1, 2.5, 5};
    (void)state;
    assert_near(cbm_mean_absolute_error(confusion, 3, stars), (1.5 + 2.5 + 4) / 6, 1e-15);
    assert_near(cbm_mean_absolute_error(none, 3, stars), 0, 0);
}

static int cancel_later(void *user, const char *what, int64_t done, int64_t total) {
    assert_string_equal(what, "bootstrap");
    assert_int_equal(total, 1000);
    return done >= *(const int *)user;
}

static void the_bootstrap_can_be_cancelled(void **state) {
    static const int32_t gold[] = {0, 0}, predicted[] = {0, 1};
    const int classes = 2, stops[] = {1, 7, 1000};
    cbm_measures m;
    (void)state;
    for (int i = 0; i < 3; i++) {
        const scbm_hooks hooks = {.user = (void *)&stops[i], .progress = cancel_later};
        assert_int_equal(cbm_measure(&m, NULL, gold, predicted, 2, 1, &classes, 1000, 3, &hooks), SCBM_ERROR_CANCELLED);
    }
}

/* A million rows, forty times, in a second; the intervals are about what the binomial distribution says. */
static void many_rows_are_resampled_quickly(void **state) {
    enum { MANY = 1000000 };
    int32_t *gold = malloc(MANY * sizeof *gold), *predicted = malloc(MANY * sizeof *predicted);
    const int classes = 5;
    cbm_measures m;
    (void)state;
    assert_true(gold && predicted);
    for (int i = 0; i < MANY; i++) {
        gold[i] = i % 5;
        predicted[i] = i % 4 ? i % 5 : (i + 1) % 5;
    }
    limit_processor_seconds(60);
    assert_ok(cbm_measure(&m, NULL, gold, predicted, MANY, 1, &classes, 40, 1, NULL));
    limit_processor_seconds(0);
    assert_near(m.value.accuracy, 0.75, 0);
    assert_near(m.high.accuracy - m.low.accuracy, 2 * 1.96 * 4.33e-4, 8e-4);
    free(gold);
    free(predicted);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_equal_those_worked_by_hand),
        cmocka_unit_test(a_class_that_is_only_predicted_counts),
        cmocka_unit_test(one_class_that_is_always_right_is_perfect),
        cmocka_unit_test(everything_wrong_is_zero),
        cmocka_unit_test(nothing_to_measure_is_zero),
        cmocka_unit_test(measures_equal_scikit_learn),
        cmocka_unit_test(confusion_matrices_equal_scikit_learn),
        cmocka_unit_test(a_column_without_gold_is_left_out_of_the_mean),
        cmocka_unit_test(intervals_are_those_of_another_bootstrap),
        cmocka_unit_test(intervals_reach_what_a_resample_can_be),
        cmocka_unit_test(a_seed_gives_the_same_intervals),
        cmocka_unit_test(a_class_out_of_range_is_an_error),
        cmocka_unit_test(running_out_of_memory_is_an_error),
        cmocka_unit_test(classes_have_precision_recall_and_f1),
        cmocka_unit_test(numbers_have_a_mean_absolute_error),
        cmocka_unit_test(the_bootstrap_can_be_cancelled),
        cmocka_unit_test(many_rows_are_resampled_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
