/*
 * models/train/logs.c - files about the steps of a run, written anew after every epoch
 */
#include "models/train/run.h"

static scbm_status write_step_log(cbm_training_run *run) {
    scbm_output_file *file;
    char loss[32], norm[32];
    if (!run->options->step_log) return SCBM_OK;
    scbm_status status = scbm_output_open(&file, run->options->step_log, &run->hooks);
    if (status) return status;
    scbm_output_print(file, "step,loss,norm\n");
    for (int64_t i = 0; i < run->state.step; i++)
        scbm_output_print(file, "%lld,%s,%s\n", (long long)i + 1, scbm_print_float(run->state.step_loss[i], loss),
                          scbm_print_float(run->state.step_norm[i], norm));
    return scbm_output_commit(file);
}

/* A line a step: the numbers (from 0) of the rows that it took. */
static scbm_status write_order_log(cbm_training_run *run) {
    scbm_output_file *file;
    if (!run->options->order_log) return SCBM_OK;
    scbm_status status = scbm_output_open(&file, run->options->order_log, &run->hooks);
    if (status) return status;
    for (int64_t step = 0; step < run->state.step; step++) {
        size_t first;
        int64_t batch = step % run->steps_per_epoch, n = cbm_run_batch(run, batch, &first);
        if (batch == 0) cbm_run_shuffle(run, step / run->steps_per_epoch + 1);
        for (int64_t i = 0; i < n; i++)
            scbm_output_print(file, i + 1 < n ? "%d " : "%d\n", (int)run->order[first + (size_t)i]);
    }
    return scbm_output_commit(file);
}

scbm_status cbm_run_write_logs(cbm_training_run *run) {
    scbm_status status = write_step_log(run);
    return status ? status : write_order_log(run);
}
