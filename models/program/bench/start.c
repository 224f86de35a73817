/*
 * models/program/bench/start.c - from starting a process to its first result
 */
#define _DEFAULT_SOURCE /* wait4 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/bench/bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_REPEATS = 100 };

/* Becomes this program with `predict` or `embed`, which writes to `to`. */
static void become(const bench_command *b, const char *command, int to) {
    static const char text[] = "The soup was cold, but the waiter was lovely.";
    const char *const programs[] = {"/proc/self/exe", cli_program};
    char threads[32];
    snprintf(threads, sizeof threads, "%lld", (long long)b->in.threads);
    dup2(to, STDOUT_FILENO);
    for (int i = 0; i < 2; i++)
        execlp(programs[i], cli_program, command, "--model", b->in.model_path, "--threads", threads, "--json", text,
               (char *)NULL);
    _exit(127);
}

/* Runs the command on one text in a process of its own; how long until it wrote something, and its peak memory. */
static scbm_status time_start(const bench_command *b, const char *command, double *milliseconds, double *peak_mb) {
    int ends[2], result = 0;
    char bytes[256];
    struct rusage usage;
    if (pipe(ends) != 0) return scbm_fail(SCBM_ERROR_IO, "a pipe cannot be made: %s", strerror(errno));
    double begin = scbm_seconds();
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        become(b, command, ends[1]);
    }
    close(ends[1]);
    ssize_t got = child > 0 ? read(ends[0], bytes, 1) : -1;
    *milliseconds = 1e3 * (scbm_seconds() - begin);
    while (got > 0) got = read(ends[0], bytes, sizeof bytes);
    close(ends[0]);
    if (child < 0 || wait4(child, &result, 0, &usage) < 0)
        return scbm_fail(SCBM_ERROR_IO, "a process cannot be started: %s", strerror(errno));
    if (!WIFEXITED(result) || WEXITSTATUS(result) != 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the process that was to be timed failed");
    *peak_mb = (double)usage.ru_maxrss / 1024;
    return SCBM_OK;
}

/* The command that answers a text with the model. */
static scbm_status find_command(bench_command *b, const char **command) {
    const cbm_load_options load = {.hooks = &b->in.hooks};
    cbm_model *model = NULL;
    scbm_status status = bench_find_model(b);
    if (status == SCBM_OK) status = cbm_model_load(&model, b->in.model_path, &load);
    if (status == SCBM_OK) *command = cbm_model_mode(model) == CBM_ENCODER ? "embed" : "predict";
    cbm_model_free(model);
    return status;
}

static scbm_status print_start(const bench_command *b, const char *command, double *times, int n, double peak_mb) {
    double median = bench_quantile(times, n, 0.5);
    if (b->in.json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "ms_median", cli_json_double(median));
        cJSON_AddItemToObject(object, "ms_p90", cli_json_double(bench_quantile(times, n, 0.9)));
        return bench_print_json(b, "start", object, peak_mb);
    }
    printf("start: %.1f ms from starting the process to the first result of %s (median of %d)\n", median, command, n);
    bench_print_machine(b, peak_mb);
    return SCBM_OK;
}

static scbm_status run(bench_command *b) {
    double times[MOST_REPEATS], peak_mb = 0;
    int n = (int)(b->repeats < MOST_REPEATS ? b->repeats : MOST_REPEATS);
    const char *command = NULL;
    bench_unload(b); /* what this process holds when it starts the other one counts as that one's */
    scbm_status status = find_command(b, &command);
    for (int i = 0; status == SCBM_OK && i < n; i++) status = time_start(b, command, &times[i], &peak_mb);
    return status == SCBM_OK ? print_start(b, command, times, n, peak_mb) : status;
}

const bench_kind bench_start = {"start", "milliseconds from starting the program to its first result", run, 0};
