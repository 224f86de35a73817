/*
 * models/train/run.c - a training run set up, and taken down
 */
#include "models/base/hash.h"
#include "models/base/tensor.h"
#include "models/train/run.h"

#include <stdio.h>
#include <string.h>

int cbm_run_has_concepts(const cbm_training_run *run) {
    return run->network.heads.mode != CBM_VANILLA;
}

static uint64_t hash_data(uint64_t hash, const cbm_dataset *data, const cbm_sequences *s, int n_concepts) {
    hash = cbm_hash(hash, s->first, (s->n + 1) * sizeof *s->first);
    hash = cbm_hash(hash, s->ids, s->first[s->n] * sizeof *s->ids);
    hash = cbm_hash(hash, data->label, data->n * sizeof *data->label);
    return cbm_hash(hash, data->concept_class, data->n * (size_t)n_concepts * sizeof *data->concept_class);
}

static scbm_status add_texts(cbm_training_run *run, const cbm_dataset *data, const char *what,
                             cbm_sequences *sequences) {
    scbm_status status = cbm_sequences_add_texts(sequences, run->encoder->tokenizer, (const char *const *)data->text,
                                                 data->text_length, data->n, run->network.backbone.max_tokens,
                                                 &run->hooks);
    cbm_tokens_clear(&sequences->tokens, &run->hooks);
    if (!status || status == SCBM_ERROR_MEMORY) return status;
    char message[400];
    snprintf(message, sizeof message, "%s", scbm_last_error());
    return scbm_fail(status, "the %s data: %s", what, message);
}

static scbm_status read_texts(cbm_training_run *run) {
    scbm_status status = add_texts(run, run->train, "training", &run->train_sequences);
    if (!status) status = add_texts(run, run->valid, "validation", &run->valid_sequences);
    if (status) return status;
    int n_concepts = run->network.heads.n_concepts;
    uint64_t hash = hash_data(CBM_HASH_START, run->train, &run->train_sequences, n_concepts);
    hash = hash_data(hash, run->valid, &run->valid_sequences, n_concepts);
    snprintf(run->data_hash, sizeof run->data_hash, "%016llx", (unsigned long long)hash);
    return SCBM_OK;
}

/* n / (classes · count): the mean over the texts is 1. A class that does not occur has weight 0. `count` is
 * scratch, [n_classes]. */
static void weigh_classes(float *weights, size_t *count, int n_classes, const int32_t *gold, size_t n, size_t stride) {
    size_t known = 0;
    memset(count, 0, (size_t)n_classes * sizeof *count);
    for (size_t i = 0; i < n; i++) {
        if (gold[i * stride] < 0) continue;
        count[gold[i * stride]]++;
        known++;
    }
    for (int c = 0; c < n_classes; c++)
        weights[c] = count[c] ? (float)((double)known / (n_classes * (double)count[c])) : 0.0f;
}

static scbm_status create_weights(cbm_training_run *run, scbm_tensor *tensor, const char *name, int64_t n) {
    return cbm_tensor_create(tensor, name, SCBM_F32, 1, &n, &run->hooks);
}

static scbm_status create_class_weights(cbm_training_run *run) {
    const cbm_heads *heads = &run->network.heads;
    const cbm_dataset *data = run->train;
    int most = heads->n_labels > heads->max_classes ? heads->n_labels : heads->max_classes;
    size_t *count = scbm_alloc_array(&run->hooks, (size_t)most, sizeof *count);
    scbm_status status = count ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) status = create_weights(run, &run->label_weights, "label class weights", heads->n_labels);
    if (!status) {
        weigh_classes(run->label_weights.data, count, heads->n_labels, data->label, data->n, 1);
        run->settings.label_weights = &run->label_weights;
    }
    if (!status && cbm_run_has_concepts(run))
        status = create_weights(run, &run->concept_weights, "concept class weights", heads->n_classes);
    for (int k = 0; k < heads->n_concepts && !status; k++)
        weigh_classes((float *)run->concept_weights.data + heads->groups[k], count,
                      heads->groups[k + 1] - heads->groups[k], data->concept_class + k, data->n,
                      (size_t)heads->n_concepts);
    if (!status && cbm_run_has_concepts(run)) run->settings.concept_weights = &run->concept_weights;
    scbm_release(&run->hooks, count);
    return status;
}

void cbm_run_shuffle(cbm_training_run *run, int64_t epoch) {
    scbm_random random = {(uint64_t)run->options->seed, RANDOM_STREAM(RANDOM_ORDER, epoch), 0};
    for (size_t i = 0; i < run->train->n; i++) run->order[i] = (int32_t)i;
    scbm_random_shuffle(&random, run->order, (int64_t)run->train->n);
}

/* Batch `index` (from 0) of an epoch: its place in the order, and how many texts it has. */
static int64_t texts_of(const cbm_training_run *run, int64_t index, size_t most, size_t *first) {
    *first = (size_t)index * most;
    size_t left = run->train->n - *first;
    return (int64_t)(left < most ? left : most);
}

int64_t cbm_run_batch(const cbm_training_run *run, int64_t index, size_t *first) {
    return texts_of(run, index, (size_t)run->options->batch_size, first);
}

int64_t cbm_run_step_texts(const cbm_training_run *run, int64_t index, size_t *first) {
    return texts_of(run, index, (size_t)run->options->batch_size * (size_t)run->options->accumulate, first);
}

static scbm_status create_teacher(cbm_training_run *run) {
    const cbm_train_options *o = run->options;
    if (!o->teacher) return SCBM_OK;
    scbm_status status = cbm_teacher_create(&run->teacher, o->teacher, &run->network.heads, run->train,
                                            (float)o->teacher_weight, (float)o->temperature, &run->hooks);
    snprintf(run->teacher_hash, sizeof run->teacher_hash, "%016llx", (unsigned long long)run->teacher.source);
    return status;
}

/* The most tokens that a batch of this run will have: the graph is planned for that once, and not for the longest texts all in
 * one batch, which never come together and would take more memory. Every epoch's order is drawn beforehand for it: a tenth of a
 * microsecond a row and epoch, where training on the row takes thousands of times as long. */
static scbm_status find_largest_batch(cbm_training_run *run, int64_t *most) {
    int64_t largest = 0;
    for (int64_t epoch = 1; epoch <= run->options->epochs; epoch++) {
        scbm_status status = scbm_cancelled(&run->hooks);
        if (status) return status;
        cbm_run_shuffle(run, epoch);
        for (int64_t b = 0; b < run->batches_per_epoch; b++) {
            size_t first;
            int64_t tokens = 0, n = cbm_run_batch(run, b, &first);
            for (int64_t i = 0; i < n; i++)
                tokens += cbm_sequence_length(&run->train_sequences, (size_t)run->order[first + (size_t)i]);
            if (tokens > largest) largest = tokens;
        }
    }
    *most = largest;
    return SCBM_OK;
}

static void settle_steps(cbm_training_run *run) {
    const cbm_train_options *o = run->options;
    run->settings.concept_weight = (float)o->concept_weight;
    run->settings.concept_loss = o->concept_loss;
    run->settings.precision = o->precision;
    run->batches_per_epoch = ((int64_t)run->train->n + o->batch_size - 1) / o->batch_size;
    run->steps_per_epoch = (run->batches_per_epoch + o->accumulate - 1) / o->accumulate;
    run->total_steps = run->steps_per_epoch * o->epochs;
}

scbm_status cbm_run_settle(cbm_training_run *run) {
    const cbm_train_options *o = run->options;
    const cbm_backbone *backbone = &run->network.backbone;
    cbm_training_settings *s = &run->settings;
    settle_steps(run);
    s->hidden_dropout = o->dropout < 0 ? backbone->hidden_dropout : (float)o->dropout;
    s->attention_dropout = o->dropout < 0 ? backbone->attention_dropout : (float)o->dropout;
    s->mixup = o->mixup > 0;
    s->has_shares = o->accumulate > 1;
    s->teacher = o->teacher ? &run->teacher : NULL;
    scbm_status status = cbm_frozen_part(o->freeze, backbone, &s->frozen);
    if (!status) status = find_largest_batch(run, &s->max_tokens);
    if (status) return status;
    s->max_texts = (size_t)o->batch_size < run->train->n ? o->batch_size : (int64_t)run->train->n;
    return SCBM_OK;
}

int cbm_run_is_head(const cbm_training_run *run, const scbm_tensor *tensor) {
    for (int i = 0; i < N_HEAD_TENSORS; i++)
        if (tensor == &run->head_tensors[i]) return 1;
    return 0;
}

static scbm_status create_optimizer(cbm_training_run *run) {
    const cbm_train_options *o = run->options;
    const scbm_adamw_options options = {.clip_norm = (float)o->max_grad_norm};
    int n = run->graph.n_parameters;
    if (run->optimizer) return SCBM_OK;
    float *rates = scbm_alloc_array(&run->hooks, 2 * (size_t)n, sizeof *rates);
    if (!rates) return SCBM_ERROR_MEMORY;
    float *decays = rates + n;
    for (int i = 0; i < n; i++) {
        const scbm_tensor *parameter = run->graph.parameters[i];
        rates[i] = (float)(cbm_run_is_head(run, parameter) ? o->head_learning_rate : o->learning_rate);
        decays[i] = parameter->n_dims > 1 ? (float)o->weight_decay : 0.0f;
    }
    scbm_status status = scbm_adamw_create(&run->optimizer, run->context, run->graph.parameters, n, rates, decays,
                                           &options);
    scbm_release(&run->hooks, rates);
    return status;
}

scbm_status cbm_run_list_trained(cbm_training_run *run, const cbm_training_graph *t) {
    size_t n = (size_t)t->n_parameters;
    if (run->trained) return SCBM_OK;
    run->trained = scbm_alloc_array(&run->hooks, n, sizeof *run->trained);
    run->gradients = scbm_alloc_array(&run->hooks, n, sizeof *run->gradients);
    if (!run->trained || !run->gradients) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < t->n_parameters; i++) run->trained[i] = t->parameters[i];
    run->state.trained = run->trained;
    run->state.n_trained = t->n_parameters;
    return SCBM_OK;
}

/* A parameter's gradient; NULL: it has none, and stays as it is. */
static scbm_tensor *gradient_of(const cbm_training_run *run, const scbm_tensor *parameter) {
    const cbm_training_graph *t = &run->graph;
    for (int i = 0; i < t->n_parameters; i++)
        if (t->parameters[i] == parameter) return t->gradients[i];
    return NULL;
}

static scbm_status list_extra(cbm_training_run *run) {
    cbm_checkpoint *c = &run->state;
    int n = cbm_prune_state(&run->pruning, NULL);
    scbm_release(&run->hooks, run->extra);
    c->n_extra = 0;
    c->extra = run->extra = scbm_alloc_array(&run->hooks, (size_t)n + 1, sizeof *run->extra);
    if (!run->extra) return SCBM_ERROR_MEMORY;
    c->n_extra = cbm_prune_state(&run->pruning, run->extra);
    return SCBM_OK;
}

/* Sums of the gradients of a step's batches. */
static scbm_status create_sums(cbm_training_run *run) {
    size_t n = (size_t)run->state.n_trained;
    if (run->sums) return SCBM_OK;
    run->accumulated = scbm_alloc_array(&run->hooks, n, sizeof *run->accumulated);
    run->sums = scbm_alloc_array(&run->hooks, n, sizeof *run->sums);
    if (!run->accumulated || !run->sums) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const scbm_tensor *trained = run->trained[i];
        scbm_status status = cbm_tensor_create(&run->accumulated[i], trained->name, SCBM_F32, trained->n_dims,
                                               trained->shape, &run->hooks);
        if (status) return status;
    }
    return SCBM_OK;
}

/* A batch adds its gradients to the sums, and a graph of its own makes the step of them. */
static scbm_status add_sums(cbm_training_run *run) {
    const int64_t one = 1;
    scbm_graph *g = run->graph.graph;
    scbm_status status = create_sums(run);
    if (status) return status;
    run->keep = scbm_input(g, "keep", SCBM_F32, 1, &one, NULL);
    for (int i = 0; i < run->state.n_trained; i++) {
        run->sums[i] = run->gradients[i] ? &run->accumulated[i] : NULL;
        if (run->sums[i]) scbm_accumulate(g, run->sums[i], run->gradients[i], run->keep);
    }
    status = scbm_graph_create(&run->step, run->context);
    if (!status) status = scbm_graph_adamw(run->step, run->optimizer, run->sums);
    if (!status) status = cbm_prune_add_step(&run->pruning, g, run->step, run->keep);
    return status ? status : scbm_graph_plan(run->step);
}

/* A batch is a step. */
static scbm_status add_step(cbm_training_run *run) {
    scbm_graph *g = run->graph.graph;
    scbm_status status = scbm_graph_adamw(g, run->optimizer, run->gradients);
    return status ? status : cbm_prune_add_step(&run->pruning, g, g, NULL);
}

scbm_status cbm_run_build_graph(cbm_training_run *run) {
    cbm_training_graph_clear(&run->graph, &run->hooks);
    scbm_graph_free(run->step);
    run->step = NULL;
    scbm_status status = cbm_training_graph_build(&run->graph, &run->network, run->context, &run->settings);
    if (!status) status = cbm_run_list_trained(run, &run->graph);
    for (int i = 0; i < run->state.n_trained && !status; i++) run->gradients[i] = gradient_of(run, run->trained[i]);
    if (!status) status = create_optimizer(run);
    if (!status) status = run->options->accumulate > 1 ? add_sums(run) : add_step(run);
    if (!status) status = scbm_graph_plan(run->graph.graph);
    return status ? status : list_extra(run);
}

/* What a run that goes on has from its start is in no checkpoint. */
static scbm_status list_kept(cbm_training_run *run) {
    cbm_checkpoint *c = &run->state;
    c->parameters = run->kept = scbm_alloc_array(&run->hooks, (size_t)run->n_parameters, sizeof *run->kept);
    if (!run->kept) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < run->n_parameters; i++) {
        const cbm_parameter *parameter = cbm_backbone_named(&run->network.backbone, run->parameters[i]->name);
        if (!parameter || !cbm_is_frozen(parameter, run->settings.frozen))
            run->kept[c->n_parameters++] = run->parameters[i];
    }
    return SCBM_OK;
}

static scbm_status create_state(cbm_training_run *run) {
    cbm_checkpoint *c = &run->state;
    size_t most = (size_t)run->total_steps;
    if ((uint64_t)run->total_steps > SIZE_MAX / sizeof(float))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %lld steps are too many", (long long)run->total_steps);
    c->step_loss = scbm_alloc_array(&run->hooks, most, sizeof *c->step_loss);
    c->step_norm = scbm_alloc_array(&run->hooks, most, sizeof *c->step_norm);
    c->epochs = scbm_alloc_array(&run->hooks, (size_t)run->options->epochs, CBM_EPOCH_MEASURES * sizeof *c->epochs);
    run->reports = scbm_alloc_array(&run->hooks, (size_t)run->options->epochs, sizeof *run->reports);
    if (!c->step_loss || !c->step_norm || !c->epochs || !run->reports) return SCBM_ERROR_MEMORY;
    c->max_steps = run->total_steps;
    c->max_epochs = run->options->epochs;
    cbm_run_settle_facts(run);
    c->optimizer = run->optimizer;
    c->facts = run->facts;
    c->n_facts = run->n_facts;
    return list_kept(run);
}

static scbm_status name_checkpoint(cbm_training_run *run) {
    size_t size = strlen(run->output) + sizeof ".checkpoint";
    run->checkpoint_path = scbm_alloc(&run->hooks, size);
    if (!run->checkpoint_path) return SCBM_ERROR_MEMORY;
    snprintf(run->checkpoint_path, size, "%s.checkpoint", run->output);
    return SCBM_OK;
}

static scbm_status list_columns(cbm_training_run *run) {
    const cbm_dataset_options *c = run->options->columns;
    if (!c || !cbm_run_has_concepts(run)) return SCBM_OK;
    if (c->n_concepts != run->train->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: columns name %d concepts, and the data have %d", c->n_concepts,
                         run->train->n_concepts);
    run->concept_columns = scbm_alloc_array(&run->hooks, (size_t)c->n_concepts, sizeof *run->concept_columns);
    if (!run->concept_columns) return SCBM_ERROR_MEMORY;
    for (int k = 0; k < c->n_concepts; k++)
        run->concept_columns[k] = c->concepts[k].column ? c->concepts[k].column : c->concepts[k].name;
    return SCBM_OK;
}

static scbm_status create_arrays(cbm_training_run *run) {
    size_t batch = (size_t)run->options->batch_size, n = run->train->n;
    run->order = scbm_alloc_array(&run->hooks, n, sizeof *run->order);
    run->permutation = scbm_alloc_array(&run->hooks, batch < n ? batch : n, sizeof *run->permutation);
    if (!run->order || !run->permutation) return SCBM_ERROR_MEMORY;
    return cbm_run_has_concepts(run) ? cbm_statistics_create(&run->statistics, &run->network.heads, &run->hooks)
                                     : SCBM_OK;
}

/* One that the device has. Where it has no bf16 products of its own, which is where layers with masks are refused in it,
 * nothing is gained but the numbers. */
static scbm_status check_precision(const cbm_training_run *run) {
    const scbm_precision precision = run->options->precision;
    scbm_status status = scbm_context_check_precision(run->context, precision);
    if (!status && scbm_context_check_masked_precision(run->context, precision))
        scbm_log(&run->hooks, SCBM_LOG_WARNING,
                 "%s has no bf16 products: a step rounds their operands to bf16 and computes in f32, in about f32's time",
                 scbm_context_device(run->context));
    return status;
}

scbm_status cbm_run_create(cbm_training_run *run, const char *const *concept_names) {
    const cbm_train_options *o = run->options;
    settle_steps(run);
    scbm_hooks quiet = run->hooks; /* progress is the training's, not that of each graph */
    quiet.progress = NULL;
    scbm_status status = scbm_context_create(&run->context, &quiet, o->backend);
    if (!status) status = check_precision(run);
    if (!status) status = cbm_run_create_network(run, concept_names);
    if (!status) status = read_texts(run);
    if (!status) status = create_arrays(run);
    if (!status) status = list_columns(run);
    if (!status && o->class_weights) status = create_class_weights(run);
    if (!status) cbm_runner_init(&run->runner, &run->network, run->context, SCBM_PRECISION_F32, RUN_BATCH_TOKENS);
    return status;
}

scbm_status cbm_run_prepare_steps(cbm_training_run *run) {
    scbm_status status = cbm_run_check_memory(run);
    if (!status) status = create_teacher(run);
    if (!status) status = cbm_run_settle(run);
    if (!status) status = cbm_run_build_graph(run);
    if (!status) status = cbm_run_prepare_pruning(run);
    if (!status) status = create_state(run);
    return status ? status : name_checkpoint(run);
}

void cbm_run_clear(cbm_training_run *run) {
    const scbm_hooks *hooks = &run->hooks;
    cbm_runner_clear(&run->runner);
    cbm_training_graph_clear(&run->graph, hooks);
    scbm_graph_free(run->step);
    scbm_adamw_free(run->optimizer);
    cbm_prune_close(&run->pruning);
    cbm_teacher_clear(&run->teacher, hooks);
    cbm_statistics_clear(&run->statistics, hooks);
    cbm_sequences_clear(&run->train_sequences, hooks);
    cbm_sequences_clear(&run->valid_sequences, hooks);
    cbm_heads_clear(&run->network.heads, hooks);
    cbm_backbone_clear(&run->network.backbone, hooks);
    for (int i = 0; i < N_HEAD_TENSORS; i++) cbm_tensor_release(&run->head_tensors[i], hooks);
    cbm_tensor_release(&run->label_weights, hooks);
    cbm_tensor_release(&run->concept_weights, hooks);
    scbm_release(hooks, run->computed);
    scbm_release(hooks, run->order);
    scbm_release(hooks, run->permutation);
    scbm_release(hooks, run->parameters);
    scbm_release(hooks, run->kept);
    for (int i = 0; i < run->state.n_trained && run->accumulated; i++) cbm_tensor_release(&run->accumulated[i], hooks);
    scbm_release(hooks, run->accumulated);
    scbm_release(hooks, run->sums);
    scbm_release(hooks, run->trained);
    scbm_release(hooks, run->gradients);
    scbm_release(hooks, run->learning);
    scbm_release(hooks, run->extra);
    for (int i = 0; i < 2; i++) scbm_release(hooks, run->label_head[i]);
    scbm_release(hooks, run->state.step_loss);
    scbm_release(hooks, run->state.step_norm);
    scbm_release(hooks, run->state.epochs);
    scbm_release(hooks, run->reports);
    scbm_release(hooks, run->checkpoint_path);
    scbm_release(hooks, (void *)run->concept_columns);
    cbm_split_clear(&run->split);
    scbm_context_free(run->context);
}
