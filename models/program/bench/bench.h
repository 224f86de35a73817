/*
 * models/program/bench/bench.h - benchmarks: each is a file of this folder, and a row in cmd-bench.c
 *
 * Every figure is the median of repeats. With --subnetworks or --sparsity it is measured on a model of which each concept
 * has a subnetwork of its own, with random masks.
 */
#ifndef CBM_PROGRAM_BENCH_H
#define CBM_PROGRAM_BENCH_H

#include "models/program/program.h"

enum { BENCH_PATH = 1024, BENCH_TRAIN_BATCH = 16 };

/* Files that benchmarks make in a folder of their own. */
typedef enum bench_file {
    BENCH_ENCODER,
    BENCH_MODEL,
    BENCH_TRAINED,
    BENCH_CHECKPOINT,
    BENCH_DATA,
    BENCH_FILES
} bench_file;

typedef struct bench_command {
    cli_session in; /* its model_path is the user's, or of what was made */
    const char *data, *output;
    cli_columns columns;
    int64_t repeats, n_texts, subnetworks;
    double sparsity; /* below 0: not given */
    int shape;
    char folder[BENCH_PATH]; /* of what is made; removed at the end */
    char path[BENCH_FILES][BENCH_PATH + 32];
    char tier[64];
    int workers;
    cbm_dataset texts; /* of what was loaded */
    float *vectors;
} bench_command;

typedef struct bench_kind {
    const char *name, *summary; /* lines of the summary are told one below the other */
    scbm_status (*run)(bench_command *b);
    int is_of_training; /* it is measured alone, and its data have labels */
} bench_kind;

/* made.c: models and texts, the user's or made here. Each says so once where it makes something. */
scbm_status bench_make_folder(bench_command *b);
void bench_remove_folder(const bench_command *b);
scbm_status bench_find_encoder(bench_command *b);
scbm_status bench_find_model(bench_command *b); /* an encoder, or with subnetworks a model on it */
/* Texts and, where `labels`, what they are labelled with. */
scbm_status bench_find_data(bench_command *b, int labels, cbm_dataset *data);
/* Loads the model, with a context, and texts, once for all benchmarks; every text was answered once then. */
scbm_status bench_load(bench_command *b);
void bench_unload(bench_command *b);
/* Texts first … first + n - 1: predicted, or by an encoder embedded. */
scbm_status bench_answer(bench_command *b, size_t first, size_t n);

/* result.c: what is printed. The value below which `share` of the n values lie; sorts them. */
double bench_quantile(double *values, int n, double share);
/* Adds what every result has, and prints it. `peak_mb` (2^20 bytes) below 0: this process's. */
scbm_status bench_print_json(const bench_command *b, const char *what, cJSON *object, double peak_mb);
void bench_print_machine(const bench_command *b, double peak_mb);

/* peak.c: GFLOP/s that as many threads as are used reach without touching memory; 0 where that is not known. */
double bench_measure_peak(const bench_command *b);

#endif
