/*
 * models/train/loop.c - epochs of steps, and what is measured and written between them
 */
#include "models/train/label-head.h"
#include "models/train/run.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------------------------- */

/* One β and one permutation for the batch, by its number. */
static float draw_mixup(cbm_training_run *run, int64_t number, int64_t n) {
    scbm_random random = {(uint64_t)run->options->seed, RANDOM_STREAM(RANDOM_MIXUP, number), 0};
    for (int64_t i = 0; i < n; i++) run->permutation[i] = (int32_t)i;
    scbm_random_shuffle(&random, run->permutation, n);
    double a = (double)(float)run->options->mixup;
    return (float)scbm_random_beta(&random, a, a);
}

static scbm_status numeric_failure(const cbm_training_run *run, const char *what, int64_t step) {
    return scbm_fail(SCBM_ERROR_NUMERIC,
                     "training: the %s is not finite in step %lld of %lld; smaller learning rates may help", what,
                     (long long)step, (long long)run->total_steps);
}

/* Runs a batch; `number` (from 1, over all epochs) is what its random numbers are drawn by. */
static scbm_status run_batch(cbm_training_run *run, size_t first, int64_t n, int64_t number, int64_t step,
                             float *loss) {
    cbm_training_graph *t = &run->graph;
    float beta = run->settings.mixup ? draw_mixup(run, number, n) : 1.0f;
    int64_t tokens = cbm_training_fill(t, &run->network, &run->train_sequences, run->train, run->order + first, n,
                                       run->permutation, beta);
    scbm_graph_set_random(t->graph, (uint64_t)run->options->seed, (uint64_t)number);
    scbm_status status = scbm_graph_run(t->graph, tokens, n);
    if (status) return status;
    *loss = *(const float *)t->loss->data;
    return isfinite(*loss) ? SCBM_OK : numeric_failure(run, "loss", step);
}

/* What the losses of some texts are divided by: the weights of the classes that are known. */
typedef struct loss_weights {
    double label, concept, texts;
} loss_weights;

static double weight_of(const scbm_tensor *weights, int at, int32_t target) {
    if (target < 0) return 0.0;
    return weights ? (double)((const float *)weights->data)[at + target] : 1.0;
}

static loss_weights weigh(const cbm_training_run *run, size_t first, int64_t n) {
    const cbm_heads *heads = &run->network.heads;
    size_t n_concepts = (size_t)heads->n_concepts;
    loss_weights sum = {0.0, 0.0, (double)n};
    for (int64_t i = 0; i < n; i++) {
        size_t row = (size_t)run->order[first + (size_t)i];
        sum.label += weight_of(run->settings.label_weights, 0, run->train->label[row]);
        for (size_t k = 0; k < n_concepts; k++)
        sum.concept += weight_of(run->settings.concept_weights, heads->groups[k],
                                 run->train->concept_class[row * n_concepts + k]);
    }
    return sum;
}

static void set_share(scbm_tensor *share, double part, double whole) {
    if (share) *(float *)share->data = whole > 0.0 ? (float)(part / whole) : 0.0f;
}

/* The batches of a step, whose losses and gradients are parts of the step's. */
static scbm_status run_batches(cbm_training_run *run, int64_t index, int64_t step, float *loss) {
    int64_t n_batches = run->options->accumulate, batch = index * n_batches;
    size_t first;
    int64_t n = cbm_run_step_texts(run, index, &first);
    const loss_weights whole = weigh(run, first, n);
    double sum = 0.0;
    for (int64_t i = 0; i < n_batches && batch + i < run->batches_per_epoch; i++) {
        n = cbm_run_batch(run, batch + i, &first);
        const loss_weights part = weigh(run, first, n);
        set_share(run->graph.label_share, part.label, whole.label);
        set_share(run->graph.concept_share, part.concept, whole.concept);
        set_share(run->graph.text_share, part.texts, whole.texts);
        *(float *)run->keep->data = i > 0 ? 1.0f : 0.0f;
        int64_t number = run->state.epoch * run->batches_per_epoch + batch + i + 1;
        scbm_status status = run_batch(run, first, n, number, step, loss);
        if (status) return status;
        sum += (double)*loss;
    }
    *loss = (float)sum;
    return scbm_graph_run(run->step, 0, 0);
}

/* Step `step` (from 1): number `index` of its epoch, whose order stands in run->order. */
static scbm_status train_step(cbm_training_run *run, int64_t index, int64_t step) {
    cbm_checkpoint *c = &run->state;
    size_t first;
    float loss = 0.0f, norm = 0.0f;
    int64_t warmup = (int64_t)floor((double)(float)run->options->warmup * (double)run->total_steps + 0.5);
    int64_t n = cbm_run_step_texts(run, index, &first);
    float rate = scbm_linear_schedule(step, warmup > 1 ? warmup : 1, run->total_steps);
    scbm_status status = scbm_adamw_begin(run->optimizer, rate);
    if (!status) status = cbm_prune_begin_step(&run->pruning, c->epoch, rate);
    if (status) return status;
    status = run->options->accumulate == 1 ? run_batch(run, first, n, step, step, &loss)
                                           : run_batches(run, index, step, &loss);
    if (status) return status;
    status = scbm_adamw_end(run->optimizer, &norm);
    if (!status) status = cbm_prune_after_step(&run->pruning);
    if (status == SCBM_ERROR_NUMERIC) return numeric_failure(run, "gradient", step);
    if (status) return status;
    c->step_loss[step - 1] = loss;
    c->step_norm[step - 1] = norm;
    return SCBM_OK;
}

/* What the steps have changed, for all that reads it on the host between epochs. */
static scbm_status fetch_trained(const cbm_training_run *run) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < run->state.n_trained && !status; i++) {
        status = scbm_tensor_fetch(run->trained[i], run->context);
        for (int second = 0; second < 2 && !status; second++)
            status = scbm_tensor_fetch(scbm_adamw_moment(run->optimizer, i, second), run->context);
    }
    for (int i = 0; i < run->state.n_extra && !status; i++) status = scbm_tensor_fetch(run->extra[i], run->context);
    return status;
}

/* One pass over the training data, after state.epoch of them. */
static scbm_status train_epoch(cbm_training_run *run, double *mean_loss) {
    cbm_checkpoint *c = &run->state;
    double sum = 0.0;
    cbm_run_shuffle(run, c->epoch + 1);
    for (int64_t b = 0; b < run->steps_per_epoch; b++) {
        int64_t step = c->epoch * run->steps_per_epoch + b + 1;
        scbm_status status = train_step(run, b, step);
        if (status) return status;
        sum += (double)c->step_loss[step - 1];
        if (scbm_progress(&run->hooks, "train", step, run->total_steps))
            return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after step %lld of %lld", (long long)step,
                             (long long)run->total_steps);
    }
    c->epoch++;
    c->step = c->epoch * run->steps_per_epoch;
    *mean_loss = sum / (double)run->steps_per_epoch;
    return fetch_trained(run);
}

/* ------------------------------------------------------------------------------------------
 * Between epochs
 * ---------------------------------------------------------------------------------------- */

/* What the network says of all these texts, into run->computed [n, C or Y]. */
static scbm_status compute(cbm_training_run *run, const cbm_sequences *sequences, const char *progress) {
    size_t n = sequences->n * (size_t)cbm_n_logits(&run->network.heads);
    scbm_status status = scbm_grow(&run->hooks, (void **)&run->computed, &run->computed_capacity, n,
                                   sizeof *run->computed);
    if (!status)
        status = cbm_runner_run(&run->runner, CBM_FORWARD_LOGITS, sequences, run->computed, &run->hooks, progress);
    return status;
}

/* Statistics of the values over the training data, and in sequential mode the label head that reads them. */
static scbm_status read_training_data(cbm_training_run *run, int fits_head) {
    cbm_heads *heads = &run->network.heads;
    scbm_status status = compute(run, &run->train_sequences, "statistics");
    if (!status) status = cbm_statistics_compute(&run->statistics, heads, run->train, run->computed, &run->hooks);
    if (!status && fits_head)
        status = cbm_fit_label_head(heads, run->context, run->computed, run->train->label, (int64_t)run->train->n,
                                    run->settings.label_weights);
    return status;
}

scbm_status cbm_run_fit_gold_head(cbm_training_run *run) {
    cbm_heads *heads = &run->network.heads;
    size_t n = run->train->n * (size_t)heads->n_classes;
    scbm_status status = scbm_grow(&run->hooks, (void **)&run->computed, &run->computed_capacity, n,
                                   sizeof *run->computed);
    if (!status) status = cbm_gold_values(heads, run->train, run->computed, &run->hooks);
    if (!status)
        status = cbm_fit_label_head(heads, run->context, run->computed, run->train->label, (int64_t)run->train->n,
                                    run->settings.label_weights);
    return status;
}

static scbm_status validate(cbm_training_run *run, cbm_validation *v) {
    scbm_status status = compute(run, &run->valid_sequences, "validate");
    if (!status) status = cbm_validate(v, &run->network.heads, run->valid, run->computed, &run->settings, &run->hooks);
    return status;
}

static cbm_epoch_report report_of(const cbm_training_run *run, const cbm_validation *v, double train_loss,
                                  double seconds, int is_best) {
    return (cbm_epoch_report){.epoch = (int)run->state.epoch,
                              .epochs = run->options->epochs,
                              .seconds = seconds,
                              .train_loss = train_loss,
                              .valid_loss = v->loss,
                              .label_accuracy = v->label_accuracy,
                              .concept_accuracy = v->concept_accuracy,
                              .label_f1 = v->label_f1,
                              .concept_f1 = v->concept_f1,
                              .sparsity = cbm_prune_sparsity(&run->options->prune, run->state.epoch),
                              .magnitude_overlap = run->magnitude_overlap,
                              .score = v->score,
                              .is_best = is_best};
}

/* Refitting the label head is for the model that is judged and written; training goes on with the head that it has. */
static void restore_label_head(cbm_training_run *run) {
    scbm_tensor *head[2] = {run->network.heads.label_weight, run->network.heads.label_bias};
    for (int i = 0; i < 2; i++) {
        size_t bytes = scbm_tensor_bytes(head[i]);
        memcpy(head[i]->data, run->label_head[i], bytes);
        scbm_tensor_changed(head[i]);
    }
}

static scbm_status set_label_head_aside(cbm_training_run *run) {
    scbm_tensor *head[2] = {run->network.heads.label_weight, run->network.heads.label_bias};
    for (int i = 0; i < 2; i++) {
        size_t bytes = scbm_tensor_bytes(head[i]);
        if (!run->label_head[i]) run->label_head[i] = scbm_alloc_array(&run->hooks, bytes, 1);
        if (!run->label_head[i]) return SCBM_ERROR_MEMORY;
        memcpy(run->label_head[i], head[i]->data, bytes);
    }
    return SCBM_OK;
}

/* Judges the network after an epoch, and writes what belongs to it: the model first, the checkpoint last. */
static scbm_status finish_epoch(cbm_training_run *run, double train_loss, double seconds) {
    cbm_checkpoint *c = &run->state;
    cbm_validation v;
    int fits_head = run->options->mode == CBM_SEQUENTIAL || run->options->refit_label;
    scbm_status status = run->options->refit_label ? set_label_head_aside(run) : SCBM_OK;
    if (!status && fits_head) status = read_training_data(run, 1);
    if (!status) status = validate(run, &v);
    if (status) return status;
    int may_be_best = cbm_run_competes(run, c->epoch),
        is_best = may_be_best && (c->best_epoch == 0 || v.score > c->best_score);
    c->epochs_since_best = is_best || !may_be_best ? 0 : c->epochs_since_best + 1;
    if (is_best) {
        c->best_epoch = c->epoch;
        c->best_score = v.score;
        if (cbm_run_has_concepts(run) && !fits_head) status = read_training_data(run, 0);
        if (!status) status = cbm_run_write_model(run, &v, train_loss);
    }
    if (run->options->refit_label) restore_label_head(run);
    if (status) return status;
    const cbm_epoch_report report = report_of(run, &v, train_loss, seconds, is_best);
    cbm_run_keep_report(run, &report);
    status = cbm_run_write_logs(run);
    if (!status) status = cbm_checkpoint_write(c, run->checkpoint_path, &run->hooks);
    if (!status && run->options->on_epoch) run->options->on_epoch(run->options->user, &report);
    return status;
}

int cbm_run_is_over(const cbm_training_run *run) {
    const cbm_train_options *o = run->options;
    return run->state.epoch >= o->epochs || (o->patience && run->state.epochs_since_best >= o->patience);
}

scbm_status cbm_run_epochs(cbm_training_run *run) {
    scbm_status status = SCBM_OK;
    while (!status && !cbm_run_is_over(run)) {
        double loss = 0.0, start = scbm_seconds();
        status = train_epoch(run, &loss);
        if (!status) status = cbm_run_prune(run);
        if (!status) status = finish_epoch(run, loss, scbm_seconds() - start);
    }
    return status;
}

scbm_status cbm_run_write_start(cbm_training_run *run) {
    scbm_status status = cbm_run_has_concepts(run) ? read_training_data(run, 0) : SCBM_OK;
    return status ? status : cbm_run_write_model(run, NULL, 0.0);
}
