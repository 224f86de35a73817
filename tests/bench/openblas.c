/*
 * Speed of OpenBLAS on the linear layers of bench.py: y[t, out] = x[t, in] · W[out, in]ᵀ, f32.
 *
 *     OPENBLAS_NUM_THREADS=2 openblas TOKENS:IN:OUT...
 *
 * prints one JSON object a shape: {tokens, in, out, gflops, version}, the median of repeats of a quarter of a second in
 * all.
 */
#define _POSIX_C_SOURCE 200809L
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static float *values(size_t n) {
    float *v = malloc(n * sizeof *v);
    if (!v) {
        fprintf(stderr, "openblas: out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) v[i] = (float)(rand() % 2001 - 1000) / 1000;
    return v;
}

int main(int argc, char **argv) {
    enum { MOST = 20000 };
    static double times[MOST];
    for (int i = 1; i < argc; i++) {
        int t, in, out, n = 0;
        if (sscanf(argv[i], "%d:%d:%d", &t, &in, &out) != 3 || t < 1 || in < 1 || out < 1) {
            fprintf(stderr, "openblas: '%s' is not TOKENS:IN:OUT\n", argv[i]);
            return 2;
        }
        float *x = values((size_t)t * (size_t)in), *w = values((size_t)out * (size_t)in);
        float *y = values((size_t)t * (size_t)out);
        double start = seconds();
        while (n < MOST && (n < 5 || seconds() - start < 0.25)) {
            double begin = seconds();
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t, out, in, 1, x, in, w, in, 0, y, out);
            times[n++] = seconds() - begin;
        }
        qsort(times, (size_t)n, sizeof *times, compare);
        printf("{\"tokens\": %d, \"in\": %d, \"out\": %d, \"gflops\": %.2f, \"version\": \"%s\"}\n", t, in, out,
               2e-9 * t * in * out / times[n / 2], openblas_get_config());
        free(x);
        free(w);
        free(y);
    }
    return 0;
}
