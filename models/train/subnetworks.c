/*
 * models/train/subnetworks.c - where training and pruning meet: when subnetworks begin, and when their masks change
 */
#include "models/train/run.h"

int cbm_run_prunes(const cbm_training_run *run) {
    return run->options->prune.method != CBM_PRUNE_NONE;
}

static int has_scores(const cbm_training_run *run) {
    cbm_prune_method method = run->options->prune.method;
    return method == CBM_PRUNE_POPUP || method == CBM_PRUNE_POPUP_STRUCTURED;
}

int cbm_run_competes(const cbm_training_run *run, int64_t epoch) {
    return !cbm_run_prunes(run) || epoch >= run->options->prune.end;
}

static scbm_status begin_scores(cbm_training_run *run) {
    const cbm_prune_options *o = &run->options->prune;
    scbm_status status = cbm_popup_create(&run->popup, &run->network, run->context,
                                          o->method == CBM_PRUNE_POPUP_STRUCTURED, (float)o->score_learning_rate);
    run->settings.weight_gradients = SCBM_DW_DENSE;
    run->settings.on_gradient = cbm_popup_gradient;
    run->settings.on_gradient_user = &run->popup;
    for (int i = 0; o->freeze_weights && i < run->graph.n_parameters; i++)
        if (cbm_popup_weight_gradient(&run->popup, run->graph.parameters[i]))
            scbm_adamw_set_rate(run->optimizer, i, 0.0f);
    return status;
}

scbm_status cbm_run_begin_subnetworks(cbm_training_run *run) {
    scbm_status status = cbm_masks_create(&run->network.backbone, run->network.heads.n_concepts, &run->hooks);
    if (!status && has_scores(run)) status = begin_scores(run);
    if (status) return status;
    cbm_runner_clear(&run->runner);
    cbm_runner_init(&run->runner, &run->network, run->context, SCBM_PRECISION_F32, RUN_BATCH_TOKENS);
    return cbm_run_build_graph(run);
}

static cbm_prune_job job_of(cbm_training_run *run) {
    return (cbm_prune_job){.network = &run->network,
                           .context = run->context,
                           .data = run->train,
                           .sequences = &run->train_sequences,
                           .settings = &run->settings,
                           .options = &run->options->prune,
                           .batch_size = run->options->batch_size,
                           .seed = (uint64_t)run->options->seed,
                           .hooks = &run->hooks};
}

scbm_status cbm_run_prune(cbm_training_run *run) {
    const cbm_prune_options *o = &run->options->prune;
    const cbm_prune_job job = job_of(run);
    cbm_prune_report report;
    int64_t epoch = run->state.epoch;
    run->magnitude_overlap = -1.0;
    if (!cbm_run_prunes(run) || epoch < o->start || (epoch > o->end && !has_scores(run))) return SCBM_OK;
    scbm_status status = cbm_masks_streams(&run->network.backbone) ? SCBM_OK : cbm_run_begin_subnetworks(run);
    if (status) return status;
    if (has_scores(run)) return cbm_popup_masks(&run->popup, cbm_prune_sparsity(o, epoch));
    status = cbm_prune_epoch(&job, epoch, &report);
    if (status) return status;
    run->magnitude_overlap = report.magnitude_overlap;
    scbm_log(&run->hooks, SCBM_LOG_INFO,
             "epoch %lld: pruned to %.1f %% zeros; magnitude would have kept %.1f %% of what %s kept", (long long)epoch,
             100.0 * report.sparsity, 100.0 * report.magnitude_overlap, cbm_prune_name(o->method));
    return SCBM_OK;
}

scbm_status cbm_run_plan_pruning(cbm_training_run *run) {
    const cbm_prune_job job = job_of(run);
    return cbm_prune_plan(&job, run->network.heads.n_concepts);
}

scbm_status cbm_run_step_scores(cbm_training_run *run, float rate) {
    scbm_status status = cbm_popup_step(&run->popup, rate);
    return status ? status : cbm_popup_masks(&run->popup, cbm_prune_sparsity(&run->options->prune, run->state.epoch));
}
