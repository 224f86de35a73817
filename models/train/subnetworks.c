/*
 * models/train/subnetworks.c - where training and pruning meet: when subnetworks begin, and when their masks change
 */
#include "models/train/run.h"

int cbm_run_prunes(const cbm_training_run *run) {
    return run->pruning.kind != NULL;
}

int cbm_run_competes(const cbm_training_run *run, int64_t epoch) {
    return !cbm_run_prunes(run) || epoch >= run->options->prune.end;
}

/* What the loss is derived by where the encoder stays as it is: the heads' tensors, and the matrices that have masks. */
static scbm_status list_learning(cbm_training_run *run, cbm_training_settings *settings) {
    int n = run->state.n_trained;
    if (!run->learning) run->learning = scbm_alloc_array(&run->hooks, (size_t)n, sizeof *run->learning);
    if (!run->learning) return SCBM_ERROR_MEMORY;
    settings->n_only = 0;
    settings->only = run->learning;
    for (int i = 0; i < n; i++) {
        scbm_tensor *tensor = run->trained[i];
        if (cbm_run_is_head(run, tensor) || cbm_prune_matrix(&run->pruning, tensor) >= 0)
            run->learning[settings->n_only++] = tensor;
    }
    return SCBM_OK;
}

/* The settings of the training graph once there are masks. */
static scbm_status settle(cbm_training_run *run, cbm_training_settings *settings) {
    if (cbm_prune_takes_gradients(&run->pruning)) {
        settings->weight_gradients = SCBM_DW_DENSE;
        settings->take_gradient = cbm_prune_take_gradient;
        settings->take_gradient_user = &run->pruning;
    }
    return cbm_prune_freezes(&run->pruning) ? list_learning(run, settings) : SCBM_OK;
}

static scbm_status give_gradients(void *user, const cbm_gradient_request *request) {
    const cbm_training_run *run = user;
    return cbm_gradients(&run->source, request);
}

static scbm_status measure_graphs(void *user, const cbm_gradient_request *request, size_t *training,
                                  size_t *gradients) {
    cbm_training_run *run = user;
    cbm_training_settings settings = run->settings;
    scbm_status status = settle(run, &settings);
    if (!status) status = cbm_training_graph_measure(&run->network, run->context, &settings, training);
    if (!status && request) status = cbm_gradients_measure(&run->source, request, gradients);
    return status;
}

scbm_status cbm_run_open_pruning(cbm_training_run *run) {
    run->source = (cbm_gradient_source){&run->network,         run->context, &run->settings,
                                        &run->train_sequences, run->train,   &run->hooks};
    run->pruning = (cbm_prune_run){.backbone = &run->network.backbone,
                                   .context = run->context,
                                   .options = &run->options->prune,
                                   .hooks = &run->hooks,
                                   .n_streams = run->network.heads.n_concepts,
                                   .n_texts = (int64_t)run->train->n,
                                   .batch_size = run->options->batch_size,
                                   .seed = (uint64_t)run->options->seed,
                                   .gradients = give_gradients,
                                   .graph_bytes = measure_graphs,
                                   .user = run,
                                   .available_memory = run->prune_memory};
    return cbm_prune_open(&run->pruning);
}

scbm_status cbm_run_prepare_pruning(cbm_training_run *run) {
    scbm_status status = cbm_run_open_pruning(run);
    return !status && cbm_run_prunes(run) ? cbm_prune_plan(&run->pruning) : status;
}

scbm_status cbm_run_begin_subnetworks(cbm_training_run *run, int64_t epoch) {
    int64_t steps = (epoch - run->options->prune.start) * run->steps_per_epoch;
    scbm_status status = cbm_prune_begin(&run->pruning, steps);
    if (!status) status = settle(run, &run->settings);
    if (status) return status;
    cbm_runner_clear(&run->runner);
    cbm_runner_init(&run->runner, &run->network, run->context, SCBM_PRECISION_F32, RUN_BATCH_TOKENS);
    return cbm_run_build_graph(run);
}

scbm_status cbm_run_prune(cbm_training_run *run) {
    cbm_prune_report report;
    int64_t epoch = run->state.epoch;
    run->magnitude_overlap = -1.0;
    if (!cbm_prune_is_due(&run->pruning, epoch)) return SCBM_OK;
    scbm_status status = SCBM_OK;
    if (!cbm_masks_streams(&run->network.backbone)) status = cbm_run_begin_subnetworks(run, epoch);
    if (!status) status = cbm_prune_after_epoch(&run->pruning, epoch, &report);
    if (!status) run->magnitude_overlap = report.magnitude_overlap;
    return status;
}
