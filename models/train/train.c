/*
 * models/train/train.c - training: set up, epochs of steps, validation, the best model, checkpoints
 *
 * All that is random is drawn by (seed, what for, epoch or step), so a run that goes on from a checkpoint needs no
 * state of a generator, and its order of texts can be told for any epoch. A checkpoint is written when an epoch's
 * model is; a run that is killed between the two does the epoch again, to the same bits.
 */
#include "models/train/check.h"
#include "models/train/run.h"

static void tell_history(const cbm_training_run *run) {
    const cbm_checkpoint *c = &run->state;
    const cbm_train_history history = {.n_epochs = (int)c->epoch,
                                       .best_epoch = (int)c->best_epoch,
                                       .epoch = run->reports,
                                       .n_steps = c->step,
                                       .step_loss = c->step_loss,
                                       .step_norm = c->step_norm};
    if (run->options->on_end) run->options->on_end(run->options->user, &history);
}

static scbm_status train(cbm_training_run *run, const char *const *concept_names) {
    const cbm_train_options *o = run->options;
    scbm_status status = cbm_run_create(run, concept_names);
    if (!status && o->on_data) o->on_data(o->user, run->train, run->valid);
    if (!status) cbm_say_single_classes(run->train, run->network.heads.n_concepts, concept_names, &run->hooks);
    if (status) return status;
    if (o->epochs == 0) return cbm_run_write_start(run);
    status = cbm_run_prepare_steps(run);
    if (!status && o->mode == CBM_INDEPENDENT) status = cbm_run_fit_gold_head(run);
    if (!status && o->resume) status = cbm_run_resume(run);
    if (!status) status = cbm_run_epochs(run);
    if (!status) tell_history(run);
    return status;
}

/* Sets a part of the training data aside where there are none to validate on. */
static scbm_status split_data(cbm_training_run *run) {
    const cbm_train_options *o = run->options;
    scbm_status status = cbm_dataset_split(&run->split, run->train, o->validation_split, (uint64_t)o->seed,
                                           &run->hooks);
    run->train = &run->split.train;
    run->valid = &run->split.validation;
    return status;
}

/* What training and planning have in common: the run is set up, and done by `act`, which may be handed what it asks for. */
typedef struct training_job {
    const char *const *concept_names;
    scbm_status (*act)(cbm_training_run *run, const struct training_job *job);
    cbm_memory_plan *plan;
} training_job;

static scbm_status act_train(cbm_training_run *run, const training_job *job) {
    return train(run, job->concept_names);
}

static scbm_status act_plan(cbm_training_run *run, const training_job *job) {
    scbm_status status = cbm_run_create(run, job->concept_names);
    return status ? status : cbm_run_plan_memory(run, job->plan);
}

static scbm_status do_job(const training_job *job, const cbm_model *encoder, const cbm_dataset *train_data,
                          const cbm_dataset *valid_data, const char *output, const cbm_train_options *options) {
    cbm_train_options settled;
    scbm_status status = cbm_train_settle(options, encoder, &settled);
    if (!status) status = cbm_check_train_data(train_data, train_data, "training", settled.mode, job->concept_names);
    if (!status && valid_data)
        status = cbm_check_train_data(valid_data, train_data, "validation", settled.mode, job->concept_names);
    if (status) return status;
    if (valid_data) settled.validation_split = 0;
    scbm_hooks hooks = settled.hooks ? *settled.hooks : encoder->hooks;
    cbm_training_run *run = scbm_alloc(&hooks, sizeof *run);
    if (!run) return SCBM_ERROR_MEMORY;
    run->encoder = encoder;
    run->train = train_data;
    run->valid = valid_data;
    run->output = output;
    run->options = &settled;
    run->hooks = hooks;
    status = valid_data ? SCBM_OK : split_data(run);
    if (!status) status = job->act(run, job);
    cbm_run_clear(run);
    scbm_release(&hooks, run);
    return status;
}

scbm_status cbm_train(const cbm_model *encoder, const cbm_dataset *train_data, const cbm_dataset *valid_data,
                      const char *const *concept_names, const char *output, const cbm_train_options *options) {
    const training_job job = {concept_names, act_train, NULL};
    if (!encoder || !output) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_train: the encoder or the output is NULL");
    return do_job(&job, encoder, train_data, valid_data, output, options);
}

scbm_status cbm_train_plan(const cbm_model *encoder, const cbm_dataset *train_data, const cbm_dataset *valid_data,
                           const char *const *concept_names, const char *output, const cbm_train_options *options,
                           cbm_memory_plan *plan) {
    const training_job job = {concept_names, act_plan, plan};
    if (!encoder || !plan) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_train_plan: the encoder or the plan is NULL");
    return do_job(&job, encoder, train_data, valid_data, output, options);
}
