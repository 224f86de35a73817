/*
 * tests/op-tables.c - see op-tables.h
 */
#include "tests/op-tables.h"
#include "tests/helpers.h"
#include "tests/op-cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Support
 * ---------------------------------------------------------------------------------------- */

enum { BY_KERNEL, BY_PARTS, BY_HOST, NOT_AT_ALL, N_HOWS };

typedef struct support {
    scbm_backend *backend;
    scbm_context *context;
    int n[N_HOWS];
} support;

static int has_kernel(scbm_backend *backend, const scbm_node *node, scbm_precision precision) {
    const scbm_backend_functions *functions = backend->functions;
    const scbm_kernel *kernel = (int)node->op < functions->n_kernels ? &functions->kernels[node->op] : NULL;
    if (node->op == SCBM_OP_RESHAPE) return 1; /* is never run */
    return kernel && kernel->run && (!kernel->supports || kernel->supports(backend, node, precision));
}

static int how_is_run(const support *s, const op_case *c, const scbm_graph *graph) {
    for (int i = 0; i < scbm_graph_nodes(graph); i++) {
        const scbm_node *node = scbm_graph_node(graph, i);
        if (node->op == c->op && !memcmp(node->integer, c->integer, sizeof node->integer))
            return has_kernel(s->backend, node, c->precision) ? BY_KERNEL : BY_HOST;
    }
    return BY_PARTS;
}

static void look_at_case(void *user, op_case *c) {
    support *s = user;
    built_case built;
    int how = NOT_AT_ALL;
    if (!case_build(&built, c, s->context)) {
        if (built.node && built.node->n_results) scbm_output(built.graph, built.node->result[0]);
        if (!scbm_graph_plan(built.graph)) how = how_is_run(s, c, built.graph);
    }
    s->n[how]++;
    case_release(&built);
}

void print_support(scbm_backend *backend, scbm_context *context, const char *only) {
    printf("%-26s %7s %7s %7s %7s\n", scbm_context_device(context), "kernel", "parts", "host", "none");
    for (int op = 0; op < SCBM_OP_COUNT; op++) {
        support s = {backend, context, {0}};
        if (only && strcmp(only, scbm_op_of((scbm_op)op)->name)) continue;
        op_cases((scbm_op)op, 1, look_at_case, &s);
        printf("  %-24s", scbm_op_of((scbm_op)op)->name);
        for (int how = 0; how < N_HOWS; how++)
            if (s.n[how]) printf(" %7d", s.n[how]);
            else printf(" %7s", "-");
        printf("\n");
    }
}

/* ------------------------------------------------------------------------------------------
 * Time
 * ---------------------------------------------------------------------------------------- */

enum { RUNS = 11 };

typedef struct timing {
    scbm_context *context;
    double seconds;
    size_t bytes;
    char what[200];
} timing;

static int by_time(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static size_t bytes_of(const built_case *built, const op_case *c) {
    size_t bytes = 0;
    for (int i = 0; i < c->n_sources; i++) bytes += c->source[i].is_present ? c->source[i].bytes : 0;
    for (int r = 0; r < built->node->n_results; r++) bytes += batch_bytes(built->node->result[r], c->tokens, c->texts);
    return bytes;
}

/* Only a case that is larger than those before is run. */
static void time_case(void *user, op_case *c) {
    timing *t = user;
    built_case built;
    double seconds[RUNS];
    int is_good = !case_build(&built, c, t->context) && built.node && c->op != SCBM_OP_RESHAPE;
    size_t bytes = is_good ? bytes_of(&built, c) : 0;
    if (is_good && built.node->n_results) scbm_output(built.graph, built.node->result[0]);
    if (bytes > t->bytes && !scbm_graph_plan(built.graph)) {
        for (int i = 0; i < RUNS && is_good; i++) {
            case_fill(&built, c);
            if (!i) is_good = !scbm_graph_run(built.graph, c->tokens, c->texts); /* weights go there */
            double before = scbm_seconds();
            is_good = is_good && !scbm_graph_run(built.graph, c->tokens, c->texts);
            seconds[i] = scbm_seconds() - before;
        }
        qsort(seconds, RUNS, sizeof *seconds, by_time);
        if (is_good) {
            t->bytes = bytes;
            t->seconds = seconds[RUNS / 2];
            memcpy(t->what, c->what, sizeof t->what);
        }
    }
    case_release(&built);
}

void print_timings(scbm_context *context, const char *only) {
    printf("%-26s %10s %8s   %s\n", scbm_context_device(context), "time", "rate", "case");
    for (int op = 0; op < SCBM_OP_COUNT; op++) {
        timing t = {context, 0.0, 0, ""};
        if (only && strcmp(only, scbm_op_of((scbm_op)op)->name)) continue;
        op_cases((scbm_op)op, 0, time_case, &t);
        printf("  %-24s", scbm_op_of((scbm_op)op)->name);
        if (!t.bytes) printf(" %10s\n", "-");
        else printf(" %7.1f us %5.2f GB/s %s\n", 1e6 * t.seconds, (double)t.bytes / t.seconds / 1e9, t.what);
    }
}
