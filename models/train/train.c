/*
 * models/train/train.c - training: set up, epochs of steps, validation, the best model, checkpoints
 *
 * All that is random is drawn by (seed, what for, epoch or step), so a run that goes on from a checkpoint needs no
 * state of a generator, and its order of texts can be told for any epoch. A checkpoint is written when an epoch's
 * model is; a run that is killed between the two does the epoch again, to the same bits.
 */
#include "models/train/check.h"
#include "models/train/run.h"

static scbm_status train(cbm_training_run *run, const char *const *concept_names) {
    const cbm_train_options *o = run->options;
    scbm_status status = cbm_run_create(run, concept_names);
    if (status) return status;
    if (o->epochs == 0) return cbm_run_write_start(run);
    status = cbm_run_prepare_steps(run);
    if (!status && o->mode == CBM_INDEPENDENT) status = cbm_run_fit_gold_head(run);
    if (!status && o->resume) status = cbm_run_resume(run);
    return status ? status : cbm_run_epochs(run);
}

scbm_status cbm_train(const cbm_model *encoder, const cbm_dataset *train_data, const cbm_dataset *valid_data,
                      const char *const *concept_names, const char *output, const cbm_train_options *options) {
    cbm_train_options settled;
    if (!encoder || !output) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_train: the encoder or the output is NULL");
    scbm_status status = cbm_train_settle(options, encoder, &settled);
    if (!status) status = cbm_check_train_data(train_data, train_data, "training", settled.mode, concept_names);
    if (!status) status = cbm_check_train_data(valid_data, train_data, "validation", settled.mode, concept_names);
    if (status) return status;
    scbm_hooks hooks = settled.hooks ? *settled.hooks : encoder->hooks;
    cbm_training_run *run = scbm_alloc(&hooks, sizeof *run);
    if (!run) return SCBM_ERROR_MEMORY;
    run->encoder = encoder;
    run->train = train_data;
    run->valid = valid_data;
    run->output = output;
    run->options = &settled;
    run->hooks = hooks;
    status = train(run, concept_names);
    cbm_run_clear(run);
    scbm_release(&hooks, run);
    return status;
}
