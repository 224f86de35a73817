/*
 * models/train/logs.c - files about the steps and epochs of a run, written anew after every epoch
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
        int64_t index = step % run->steps_per_epoch, n = cbm_run_step_texts(run, index, &first);
        if (index == 0) cbm_run_shuffle(run, step / run->steps_per_epoch + 1);
        for (int64_t i = 0; i < n; i++)
            scbm_output_print(file, i + 1 < n ? "%d " : "%d\n", (int)run->order[first + (size_t)i]);
    }
    return scbm_output_commit(file);
}

/* ------------------------------------------------------------------------------------------
 * Epochs. In a checkpoint a report is a row of numbers: without times, so that the same run writes the same bytes.
 * ---------------------------------------------------------------------------------------- */

enum {
    N_MEASURES = CBM_EPOCH_MEASURES - 1,
    BEST = N_MEASURES
}; /* the last number of a row says whether it is the best */

static const struct {
    const char *name;
    size_t offset;
    int of_concepts;
} measures[N_MEASURES] = {
    {"train_loss", offsetof(cbm_epoch_report, train_loss), 0},
    {"validation_loss", offsetof(cbm_epoch_report, valid_loss), 0},
    {"label_accuracy", offsetof(cbm_epoch_report, label_accuracy), 0},
    {"label_f1", offsetof(cbm_epoch_report, label_f1), 0},
    {"concept_accuracy", offsetof(cbm_epoch_report, concept_accuracy), 1},
    {"concept_f1", offsetof(cbm_epoch_report, concept_f1), 1},
    {"sparsity", offsetof(cbm_epoch_report, sparsity), 0},
    {"magnitude_overlap", offsetof(cbm_epoch_report, magnitude_overlap), 0},
    {"score", offsetof(cbm_epoch_report, score), 0},
};

static double *measure_of(cbm_epoch_report *report, int i) {
    return (double *)((char *)report + measures[i].offset);
}

void cbm_run_keep_report(cbm_training_run *run, const cbm_epoch_report *report) {
    cbm_epoch_report *kept = &run->reports[report->epoch - 1];
    float *row = run->state.epochs + (size_t)(report->epoch - 1) * CBM_EPOCH_MEASURES;
    *kept = *report;
    for (int i = 0; i < N_MEASURES; i++) row[i] = (float)*measure_of(kept, i);
    row[BEST] = (float)kept->is_best;
}

void cbm_run_read_reports(cbm_training_run *run) {
    for (int64_t e = 0; e < run->state.epoch; e++) {
        const float *row = run->state.epochs + e * CBM_EPOCH_MEASURES;
        cbm_epoch_report *report = &run->reports[e];
        *report = (cbm_epoch_report){.epoch = (int)e + 1, .epochs = run->options->epochs, .is_best = row[BEST] != 0};
        for (int i = 0; i < N_MEASURES; i++) *measure_of(report, i) = (double)row[i];
    }
}

/* What an epoch does not have is an empty cell. */
static int is_there(const cbm_training_run *run, int i, float value) {
    return (cbm_run_has_concepts(run) || !measures[i].of_concepts) && value >= 0.0f;
}

static scbm_status write_epoch_log(cbm_training_run *run) {
    scbm_output_file *file;
    char number[32];
    if (!run->options->epoch_log) return SCBM_OK;
    scbm_status status = scbm_output_open(&file, run->options->epoch_log, &run->hooks);
    if (status) return status;
    scbm_output_print(file, "epoch");
    for (int i = 0; i < N_MEASURES; i++) scbm_output_print(file, ",%s", measures[i].name);
    scbm_output_print(file, ",best\n");
    for (int64_t e = 0; e < run->state.epoch; e++) {
        const float *row = run->state.epochs + e * CBM_EPOCH_MEASURES;
        scbm_output_print(file, "%lld", (long long)e + 1);
        for (int i = 0; i < N_MEASURES; i++)
            scbm_output_print(file, ",%s", is_there(run, i, row[i]) ? scbm_print_float(row[i], number) : "");
        scbm_output_print(file, ",%d\n", run->reports[e].is_best);
    }
    return scbm_output_commit(file);
}

scbm_status cbm_run_write_logs(cbm_training_run *run) {
    scbm_status status = write_step_log(run);
    if (!status) status = write_order_log(run);
    return status ? status : write_epoch_log(run);
}
