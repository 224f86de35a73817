/*
 * models/train/memory/advice.c - which settings make a run fit that takes too much memory
 */
#include "models/train/memory/memory.h"
#include "models/prune/fisher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEBIBYTE ((size_t)1 << 20)

/* A way to take less: lowers a setting by a step; 0 where it cannot be lower. */
typedef int (*lower_function)(const cbm_training_run *run, cbm_train_options *o);

/* The step stays what it was where the batch size is a power of two times what is left of it. */
static int lower_batch(const cbm_training_run *run, cbm_train_options *o) {
    if (o->batch_size < 2) return 0;
    o->accumulate *= 2;
    o->batch_size /= 2;
    (void)run;
    return 1;
}

static int lower_fisher_memory(const cbm_training_run *run, cbm_train_options *o) {
    size_t now = o->prune.fisher_memory ? o->prune.fisher_memory : CBM_FISHER_MEMORY;
    if (!o->prune.method || strcmp(o->prune.method, "obert") != 0 || now < 2 * MEBIBYTE) return 0;
    o->prune.fisher_memory = now / 2 / MEBIBYTE * MEBIBYTE;
    (void)run;
    return 1;
}

static int lower_fisher_block(const cbm_training_run *run, cbm_train_options *o) {
    if (!o->prune.method || strcmp(o->prune.method, "obert") != 0 || o->prune.fisher_block < 8) return 0;
    o->prune.fisher_block /= 2;
    (void)run;
    return 1;
}

/* Half of the blocks, then all of them; 24 at most. */
static int freeze_more(const cbm_training_run *run, cbm_train_options *o) {
    static const char *const numbers[] = {"1",  "2",  "3",  "4",  "5",  "6",  "7",  "8",  "9",  "10", "11", "12",
                                          "13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23", "24"};
    enum { MOST = sizeof numbers / sizeof *numbers };
    int64_t n = run->network.backbone.n_blocks, half = n > 1 ? n / 2 : 1;
    int64_t now = o->freeze && o->freeze[0] <= '9' ? strtoll(o->freeze, NULL, 10) : 0, wanted = now < half ? half : n;
    if (wanted > MOST) wanted = MOST;
    if (wanted <= now) return 0;
    o->freeze = numbers[wanted - 1];
    return 1;
}

static const lower_function ways[] = {lower_fisher_memory, lower_batch, freeze_more, lower_fisher_block};
enum { N_WAYS = sizeof ways / sizeof *ways };

/* "a batch_size of 4 and an accumulate of 4" */
static void say_changes(const cbm_train_options *before, const cbm_train_options *o, char *text, size_t size) {
    size_t n = 0;
    text[0] = 0;
    if (o->prune.fisher_memory != before->prune.fisher_memory)
        n += (size_t)snprintf(text + n, size - n, "a fisher_memory of %zu MiB", o->prune.fisher_memory / MEBIBYTE);
    if (o->batch_size != before->batch_size)
        n += (size_t)snprintf(text + n, size - n, "%sa batch_size of %d and an accumulate of %d", n ? " and " : "",
                              o->batch_size, o->accumulate);
    if (o->freeze != before->freeze)
        n += (size_t)snprintf(text + n, size - n, "%sa freeze of %s", n ? " and " : "", o->freeze);
    if (o->prune.fisher_block != before->prune.fisher_block)
        snprintf(text + n, size - n, "%sa fisher_block of %d", n ? " and " : "", o->prune.fisher_block);
}

/* Lowers one setting until it fits, or cannot be lower. */
static scbm_status lower_until_it_fits(cbm_training_run *run, lower_function lower, cbm_train_options *o,
                                       cbm_memory_plan *found) {
    scbm_status status = SCBM_OK;
    while (!status && found->bytes > found->limit && lower(run, o)) status = cbm_memory_measure(run, o, found);
    return status;
}

/* First one setting alone, then one after the other as well. */
scbm_status cbm_memory_advise(cbm_training_run *run, cbm_memory_plan *plan) {
    cbm_memory_plan found;
    cbm_train_options o;
    char changes[160];
    scbm_status status = SCBM_OK;
    for (int together = 0; together < 2 && !status; together++) {
        o = *run->options;
        found = *plan;
        for (int i = 0; i < N_WAYS && !status && found.bytes > found.limit; i++) {
            if (!together) o = *run->options, found = *plan;
            status = lower_until_it_fits(run, ways[i], &o, &found);
        }
        if (found.bytes <= found.limit) break;
    }
    if (status) return status;
    say_changes(run->options, &o, changes, sizeof changes);
    if (found.bytes <= found.limit)
        snprintf(plan->advice, sizeof plan->advice, "%s takes %.1f MiB", changes,
                 (double)found.bytes / (double)MEBIBYTE);
    else
        snprintf(plan->advice, sizeof plan->advice,
                 "no setting makes it fit: with %s it takes %.1f MiB, and only a smaller encoder takes less",
                 changes[0] ? changes : "the least", (double)found.bytes / (double)MEBIBYTE);
    return SCBM_OK;
}
