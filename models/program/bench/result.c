/*
 * models/program/bench/result.c - medians, and what every benchmark prints
 */
#include "models/program/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(double *values, int n, double share) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    int index = (int)(share * (n - 1) + 0.5);
    return values[index];
}

/* Peak resident memory of this process so far, in megabytes (2^20 bytes). */
static double peak_megabytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (double)usage.ru_maxrss / 1048576; /* bytes there, kilobytes elsewhere */
#else
    return (double)usage.ru_maxrss / 1024;
#endif
}

scbm_status bench_print_json(const bench_command *b, const char *what, cJSON *object, double peak_mb) {
    cJSON_AddStringToObject(object, "bench", what);
    if (b->subnetworks) cJSON_AddItemToObject(object, "subnetworks", cli_json_int(b->subnetworks));
    if (b->subnetworks) cJSON_AddItemToObject(object, "sparsity", cli_json_double(b->sparsity));
    cJSON_AddStringToObject(object, "tier", b->tier);
    cJSON_AddItemToObject(object, "threads", cli_json_int(b->workers));
    cJSON_AddItemToObject(object, "peak_mb", cli_json_double(peak_mb < 0 ? peak_megabytes() : peak_mb));
    return cli_json_print(object);
}

void bench_print_machine(const bench_command *b, double peak_mb) {
    printf("  %s, %d threads, peak memory %.0f MiB\n", b->tier, b->workers, peak_mb < 0 ? peak_megabytes() : peak_mb);
}
