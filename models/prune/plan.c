/*
 * models/prune/plan.c - what pruning will take of memory, said or refused before it begins
 */
#include "models/prune/choose.h"

#include <stdint.h>
#include <stdio.h>

#define MEBIBYTE 1048576.0

size_t cbm_prune_available(const cbm_prune_run *run) {
    return run->available_memory ? run->available_memory : scbm_available_memory(NULL);
}

/* The graphs of training and of the gradients that the method asks for, with masks that are there for this alone. */
static scbm_status measure_graphs(cbm_prune_run *run, size_t *training, size_t *gradients) {
    cbm_gradient_request request = {0};
    int32_t *rows = NULL;
    int has_masks = cbm_masks_streams(run->backbone) > 0;
    *training = *gradients = 0;
    if (!run->graph_bytes) return SCBM_OK;
    scbm_status status = cbm_masks_create(run->backbone, run->n_streams, run->hooks);
    if (!status && run->kind->request) status = run->kind->request(run, &request, &rows);
    if (!status) status = run->graph_bytes(run->user, rows ? &request : NULL, training, gradients);
    if (!has_masks) cbm_masks_remove(run->backbone, run->hooks);
    scbm_release(run->hooks, rows);
    return status;
}

scbm_status cbm_prune_measure(cbm_prune_run *run, cbm_prune_memory *memory) {
    cbm_prune_needs needs = {.room = SIZE_MAX};
    *memory = (cbm_prune_memory){.scores = cbm_prune_score_bytes(run), .masks = cbm_prune_mask_bytes(run)};
    if (run->kind->needs) run->kind->needs(run, &needs);
    memory->of_method = needs.bytes;
    memory->what = needs.what;
    memory->is_kept = run->kind->begin != NULL;
    return measure_graphs(run, &memory->graph, &memory->gradients);
}

/* "40.0 for Fisher matrices, 2.1 for scores, …", in MiB. */
static void list_parts(char *text, size_t size, const cbm_prune_needs *needs, double scores, double masks,
                       double graphs) {
    size_t n = 0;
    text[0] = '\0';
    if (needs->bytes) n = (size_t)snprintf(text, size, "%.1f for %s, ", (double)needs->bytes / MEBIBYTE, needs->what);
    snprintf(text + n, size - n, "%.1f for scores, %.1f for masks, %.1f for graphs", scores / MEBIBYTE,
             masks / MEBIBYTE, graphs / MEBIBYTE);
}

scbm_status cbm_prune_plan(cbm_prune_run *run) {
    size_t available = cbm_prune_available(run), graphs, gradients;
    size_t scores = cbm_prune_score_bytes(run), masks = 2 * cbm_prune_mask_bytes(run); /* and those that are to be */
    cbm_prune_needs needs = {.room = SIZE_MAX};
    char parts[256];
    scbm_status status = measure_graphs(run, &graphs, &gradients);
    if (status) return status;
    graphs += gradients;
    size_t rest = scores + masks + graphs;
    if (available != SIZE_MAX) needs.room = available > rest ? available - rest : 0;
    if (run->kind->needs) run->kind->needs(run, &needs);
    list_parts(parts, sizeof parts, &needs, (double)scores, (double)masks, (double)graphs);
    double total = (double)(needs.bytes + rest) / MEBIBYTE;
    if (rest > available || needs.bytes > needs.room)
        return scbm_fail(SCBM_ERROR_MEMORY, "pruning takes %.1f MiB (%s), and %.1f MiB are free%s%s", total, parts,
                         (double)available / MEBIBYTE, needs.advice[0] ? ": " : "", needs.advice);
    scbm_log(run->hooks, SCBM_LOG_INFO, "pruning will take %.1f MiB: %s%s%s", total, parts,
             needs.details[0] ? "; " : "", needs.details);
    return SCBM_OK;
}
