/*
 * models/train/resume.c - going on from a checkpoint
 */
#include "models/core/keys.h"
#include "models/train/run.h"

#include <stdio.h>
#include <string.h>

/* Whether the model that stands there is of this run: of the best epoch, or of the one after the checkpoint, which a run
 * that ended between the two wrote and will write again. */
static scbm_status check_model(const cbm_training_run *run) {
    const cbm_checkpoint *c = &run->state;
    scbm_file *file;
    scbm_status status = scbm_file_open(&file, run->output, &run->hooks);
    if (status) return status;
    int64_t epoch = scbm_file_int_or(file, CBM_KEY_TRAIN "epoch", 0);
    int is_ours = strcmp(scbm_file_string_or(file, CBM_KEY_TRAIN "run", ""), run->state.run) == 0 &&
                  (epoch == c->best_epoch || epoch == c->epoch + 1);
    scbm_file_close(file);
    if (is_ours) return SCBM_OK;
    return scbm_fail(
        SCBM_ERROR_ARGUMENT,
        "%.200s is not the model of the run that %.200s is of, and would be replaced: move it away, or start anew",
        run->output, run->checkpoint_path);
}

/* The best model is not in the checkpoint: it must stand where the run wrote it. */
static scbm_status check_best_model(const cbm_training_run *run) {
    FILE *file = fopen(run->output, "rb");
    if (file) {
        fclose(file);
        return check_model(run);
    }
    if (!run->state.best_epoch) return SCBM_OK;
    return scbm_fail(
        SCBM_ERROR_ARGUMENT,
        "%s, the best model so far, is missing, so %s cannot be gone on from: start anew, without resuming",
        run->output, run->checkpoint_path);
}

/* A checkpoint that cannot be read: what to do. */
static scbm_status refuse_checkpoint(const cbm_training_run *run, scbm_status status) {
    char message[600];
    if (status != SCBM_ERROR_FORMAT && status != SCBM_ERROR_UNSUPPORTED) return status;
    snprintf(message, sizeof message, "%s", scbm_last_error());
    return scbm_fail(status, "%s; delete %.200s to start anew", message, run->checkpoint_path);
}

static void say_where_it_goes_on(const cbm_training_run *run) {
    scbm_log(&run->hooks, SCBM_LOG_INFO,
             cbm_run_is_over(run) ? "%s is of a run that is over, after epoch %lld of %d"
                                  : "%s: going on after epoch %lld of %d",
             run->checkpoint_path, (long long)run->state.epoch, run->options->epochs);
}

/* Takes the checkpoint's state. */
static scbm_status read_checkpoint(cbm_training_run *run, int *found) {
    int64_t epoch;
    cbm_checkpoint *c = &run->state;
    scbm_status status = cbm_checkpoint_epoch(run->checkpoint_path, &epoch, &run->hooks);
    if (!status && cbm_run_prunes(run) && epoch >= run->options->prune.start)
        status = cbm_run_begin_subnetworks(run, epoch);
    if (!status) status = cbm_checkpoint_read(c, run->checkpoint_path, found, &run->hooks);
    if (status || !*found) return status;
    if (c->step != c->epoch * run->steps_per_epoch || (c->best_epoch < 1) == cbm_run_competes(run, c->epoch))
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: epoch %lld and step %lld do not fit this run", run->checkpoint_path,
                         (long long)c->epoch, (long long)c->step);
    return SCBM_OK;
}

scbm_status cbm_run_resume(cbm_training_run *run) {
    int found;
    run->state.goes_on_anyway = run->options->resume_anyway;
    scbm_status status = read_checkpoint(run, &found);
    if (status) return refuse_checkpoint(run, status);
    if (!found) {
        scbm_log(&run->hooks, SCBM_LOG_INFO, "no checkpoint at %s: starting from the beginning", run->checkpoint_path);
        return SCBM_OK;
    }
    cbm_run_read_reports(run);
    status = check_best_model(run);
    if (!status) say_where_it_goes_on(run);
    return status;
}
