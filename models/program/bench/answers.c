/*
 * models/program/bench/answers.c - encoder: all texts at once; latency: one text after the other
 */
#include "models/program/bench/bench.h"

#include <stdio.h>

enum { LATENCY_TEXTS = 200, WARM_UP = 10, MOST_REPEATS = 100, MOST_TEXTS = 10000 };

static scbm_status print_encoder(const bench_command *b, double rate, int repeats) {
    if (b->in.json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "texts_per_s", cli_json_double(rate));
        cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)b->texts.n));
        return bench_print_json(b, "encoder", object, -1);
    }
    printf("encoder, %s: %.1f texts/s (%zu texts, median of %d)\n",
           scbm_precision_name((scbm_precision)b->in.precision), rate, b->texts.n, repeats);
    bench_print_machine(b, -1);
    return SCBM_OK;
}

static scbm_status run_encoder(bench_command *b) {
    double times[MOST_REPEATS];
    int n = (int)(b->repeats < MOST_REPEATS ? b->repeats : MOST_REPEATS);
    scbm_status status = bench_load(b);
    for (int i = 0; status == SCBM_OK && i < n; i++) {
        double begin = scbm_seconds();
        status = bench_answer(b, 0, b->texts.n);
        times[i] = scbm_seconds() - begin;
    }
    return status == SCBM_OK ? print_encoder(b, (double)b->texts.n / bench_quantile(times, n, 0.5), n) : status;
}

const bench_kind bench_encoder = {"encoder", "texts per second, all texts in one call", run_encoder, 0};

static scbm_status print_latency(const bench_command *b, double *times, int n) {
    double median = bench_quantile(times, n, 0.5), slow = bench_quantile(times, n, 0.9);
    if (b->in.json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "ms_median", cli_json_double(median));
        cJSON_AddItemToObject(object, "ms_p90", cli_json_double(slow));
        return bench_print_json(b, "latency", object, -1);
    }
    printf("latency, %s: %.2f ms a text (median of %d texts; nine of ten within %.2f ms)\n",
           scbm_precision_name((scbm_precision)b->in.precision), median, n, slow);
    bench_print_machine(b, -1);
    return SCBM_OK;
}

static scbm_status run_latency(bench_command *b) {
    static double times[MOST_TEXTS];
    scbm_status status = bench_load(b);
    if (status != SCBM_OK) return status;
    size_t wanted = b->n_texts ? (size_t)b->n_texts : LATENCY_TEXTS;
    int n = (int)(b->texts.n < wanted ? b->texts.n : wanted);
    for (int i = 0; status == SCBM_OK && i < WARM_UP; i++) status = bench_answer(b, (size_t)(i % n), 1);
    for (int i = 0; status == SCBM_OK && i < n; i++) {
        double begin = scbm_seconds();
        status = bench_answer(b, (size_t)i, 1);
        times[i] = 1e3 * (scbm_seconds() - begin);
    }
    return status == SCBM_OK ? print_latency(b, times, n) : status;
}

const bench_kind bench_latency = {"latency", "milliseconds for one text", run_latency, 0};
