/*
 * models/program/bench/peak.c - the machine's peak: fused multiply-adds on registers alone
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/bench/bench.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define X86_PEAK 1
#endif

#ifdef X86_PEAK

enum { PEAK_ROUNDS = 2000000, PEAK_CHAINS = 12, PEAK_REPEATS = 20, MOST_THREADS = 64 };

__attribute__((target("avx2,fma"))) static float peak_avx2(void) {
    __m256 sum[PEAK_CHAINS], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
    for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm256_set1_ps((float)c);
    for (int i = 0; i < PEAK_ROUNDS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm256_fmadd_ps(sum[c], factor, term);
    }
    for (int c = 1; c < PEAK_CHAINS; c++) sum[0] = _mm256_add_ps(sum[0], sum[c]);
    return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) static float peak_avx512(void) {
    __m512 sum[PEAK_CHAINS], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
    for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < PEAK_ROUNDS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_fmadd_ps(sum[c], factor, term);
    }
    for (int c = 1; c < PEAK_CHAINS; c++) sum[0] = _mm512_add_ps(sum[0], sum[c]);
    return _mm512_cvtss_f32(sum[0]);
}

typedef struct peak_job {
    pthread_t thread;
    int wide;
    float sum; /* kept, so that the work cannot be left out */
} peak_job;

static void *peak_thread(void *job) {
    peak_job *mine = job;
    mine->sum = mine->wide ? peak_avx512() : peak_avx2();
    return NULL;
}

double bench_measure_peak(const bench_command *b) {
    int wide = strcmp(b->tier, "avx512") == 0;
    if (!wide && strcmp(b->tier, "avx2") != 0) return 0;
    double best = 0;
    for (int repeat = 0; repeat < PEAK_REPEATS; repeat++) {
        peak_job job[MOST_THREADS];
        int n = b->workers < MOST_THREADS ? b->workers : MOST_THREADS, started = 0;
        double begin = scbm_seconds();
        for (int i = 0; i < n; i++) job[i].wide = wide;
        while (started < n && pthread_create(&job[started].thread, NULL, peak_thread, &job[started]) == 0) started++;
        for (int i = 0; i < started; i++) pthread_join(job[i].thread, NULL);
        double rate = 2.0 * (wide ? 16 : 8) * PEAK_CHAINS * PEAK_ROUNDS * started / (scbm_seconds() - begin) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

#else

double bench_measure_peak(const bench_command *b) {
    (void)b;
    return 0;
}

#endif
