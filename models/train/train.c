/*
 * models/train/train.c - training: set up, epochs of steps, validation, the best model, checkpoints
 *
 * All that is random is drawn by (seed, what for, epoch or step), so a run that goes on from a checkpoint needs no
 * state of a generator, and its order of texts can be told for any epoch. A checkpoint is written when an epoch's
 * model is; a run that is killed between the two does the epoch again, to the same bits.
 */
#include "models/base/hash.h"
#include "models/core/keys.h"
#include "models/prune/prune.h"
#include "models/train/check.h"
#include "models/train/checkpoint.h"
#include "models/train/label-head.h"
#include "models/train/statistics.h"
#include "models/train/validation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void cbm_train_defaults(cbm_train_options *options) {
    memset(options, 0, sizeof *options);
    options->mode = CBM_JOINT;
    options->epochs = 10;
    options->batch_size = 16;
    options->encoder_rate = 1e-4f;
    options->head_rate = 1e-3f;
    options->weight_decay = 0.01f;
    options->warmup = 0.06f;
    options->clip_norm = 1.0f;
    options->concept_weight = 5.0f;
    options->dropout = -1.0f;
    options->teacher_weight = 1.0f;
    options->temperature = 2.0f;
    options->prune.sparsity = 0.7;
    options->prune.initial_sparsity = 0.2;
    options->prune.start = 2;
    options->prune.end = 15;
    options->prune.fisher_block = 20;
    options->prune.damping = 0.1;
    options->prune.score_rate = 0.01f;
    options->seed = 42;
}

/* ------------------------------------------------------------------------------------------
 * Runs
 * ---------------------------------------------------------------------------------------- */

/* The streams of random numbers; dropout's have a step in their upper half, which stays below. */
enum { RANDOM_HEADS = 1, RANDOM_ORDER, RANDOM_MIXUP };
#define RANDOM_STREAM(what, number) (((uint64_t)0xffff0000u + (what)) << 32 | (uint32_t)(number))

enum { CONCEPT_WEIGHT, CONCEPT_BIAS, LABEL_WEIGHT, LABEL_BIAS, N_HEAD_TENSORS };

#define MAX_FACTS 64
#define RUN_BATCH_TOKENS 1024 /* of the passes without gradients */

typedef struct training_run {
    const cbm_model *encoder;
    const cbm_dataset *train, *valid;
    const cbm_train_options *options;
    scbm_hooks hooks;
    scbm_context *context;
    cbm_network network; /* the backbone and the head tensors are the run's own */
    scbm_tensor head_tensors[N_HEAD_TENSORS];
    void *label_head[2]; /* with refit_label: weight and bias that training goes on with */
    scbm_tensor label_weights, concept_weights;
    cbm_teacher teacher;
    cbm_sequences train_sequences, valid_sequences;
    cbm_training_settings settings;
    cbm_training_graph graph;
    scbm_adamw *optimizer;
    cbm_runner runner;
    float *computed; /* what the network says of the training or the validation texts */
    size_t computed_capacity;
    cbm_statistics statistics;
    int32_t *order, *permutation; /* [n], [batch] */
    double magnitude_overlap;     /* of the last pruning */
    int64_t steps_per_epoch, total_steps;
    scbm_tensor **parameters; /* all of the network's */
    int n_parameters;
    cbm_popup popup;         /* with learned scores, once there are masks */
    scbm_tensor **gradients; /* what the optimizer takes, in the order of its parameters */
    scbm_tensor **extra;     /* of the checkpoint: masks, scores and their moments */
    cbm_checkpoint state;
    cbm_fact facts[MAX_FACTS]; /* of the checkpoint */
    int n_facts;
    char *checkpoint_path;
    char data_hash[17], start_hash[17], teacher_hash[17];
} training_run;

static int has_concepts(const training_run *run) {
    return run->network.heads.mode != CBM_VANILLA;
}

/* ------------------------------------------------------------------------------------------
 * Options and data
 * ---------------------------------------------------------------------------------------- */

/* A real option must be finite and lie in [least, most]. */
static scbm_status check_real(const char *name, float value, double least, double most) {
    if ((double)value >= least && (double)value <= most) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %s is %g, and must lie between %g and %g", name, (double)value,
                     least, most);
}

static scbm_status check_reals(const cbm_train_options *o) {
    scbm_status status = check_real("encoder_rate", o->encoder_rate, 0, 1e6);
    if (!status) status = check_real("head_rate", o->head_rate, 0, 1e6);
    if (!status) status = check_real("weight_decay", o->weight_decay, 0, 1e6);
    if (!status) status = check_real("warmup", o->warmup, 0, 1);
    if (!status) status = check_real("clip_norm", o->clip_norm, 0, 1e30);
    if (!status) status = check_real("concept_weight", o->concept_weight, 0, 1e30);
    if (!status) status = check_real("dropout", o->dropout, -1e30, 0.999);
    if (!status) status = check_real("mixup", o->mixup, 0, 1e6);
    if (!status) status = check_real("teacher_weight", o->teacher_weight, 0, 1e6);
    if (!status) status = check_real("temperature", o->temperature, 1e-3, 1e6);
    return status;
}

static scbm_status check_options(const cbm_model *encoder, const cbm_train_options *o) {
    if (o->mode < CBM_VANILLA || o->mode > CBM_JOINT)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %d is no mode to train in", (int)o->mode);
    if (!o->output) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: there is no output file");
    if (o->epochs < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %d epochs", o->epochs);
    if (o->batch_size < 1) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: batches of %d texts", o->batch_size);
    if (o->patience < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: patience is %d", o->patience);
    if (o->max_tokens < 0 || o->max_tokens > cbm_model_max_tokens(encoder))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: texts of %d tokens; the encoder reads at most %d",
                         o->max_tokens, cbm_model_max_tokens(encoder));
    if (o->refit_label && o->mode != CBM_JOINT)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "training: refit_label is for joint mode; %s mode has no label head to refit",
                         cbm_mode_name(o->mode));
    if (o->teacher && o->mixup > 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: a teacher and MixUp do not go together");
    scbm_status status = cbm_prune_check(&o->prune, o->mode, o->epochs);
    return status ? status : check_reals(o);
}

static scbm_status check_data(const cbm_dataset *data, const cbm_dataset *train, const char *what, cbm_mode mode,
                              const char *const *concept_names) {
    if (!data || data->n == 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "there are no %s data", what);
    if (data->n > INT32_MAX)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the %s data have %zu texts: too many", what, data->n);
    if (!data->label || data->label_classes.n == 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the %s data have no labels", what);
    if (mode == CBM_VANILLA) return SCBM_OK;
    if (data->n_concepts < 1 || !concept_names)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the %s data have no concepts, which %s mode needs", what,
                         cbm_mode_name(mode));
    if (data->n_concepts != train->n_concepts)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the training data have %d concepts, and the %s data %d",
                         train->n_concepts, what, data->n_concepts);
    for (int k = 0; k < data->n_concepts; k++)
        if (data->concept_classes[k].n == 0)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "concept '%s' has no value in the %s data", concept_names[k], what);
    return SCBM_OK;
}

static uint64_t hash_data(uint64_t hash, const cbm_dataset *data, const cbm_sequences *s, int n_concepts) {
    hash = cbm_hash(hash, s->first, (s->n + 1) * sizeof *s->first);
    hash = cbm_hash(hash, s->ids, s->first[s->n] * sizeof *s->ids);
    hash = cbm_hash(hash, data->label, data->n * sizeof *data->label);
    return cbm_hash(hash, data->concept_class, data->n * (size_t)n_concepts * sizeof *data->concept_class);
}

static scbm_status add_texts(training_run *run, const cbm_dataset *data, const char *what, cbm_sequences *sequences) {
    scbm_status status = cbm_sequences_add_texts(sequences, run->encoder->tokenizer, (const char *const *)data->text,
                                                 data->text_length, data->n, run->network.backbone.max_tokens,
                                                 &run->hooks);
    cbm_tokens_clear(&sequences->tokens, &run->encoder->hooks); /* which are the tokenizer's */
    if (!status || status == SCBM_ERROR_MEMORY) return status;
    char message[400];
    snprintf(message, sizeof message, "%s", scbm_last_error());
    return scbm_fail(status, "the %s data: %s", what, message);
}

static scbm_status read_texts(training_run *run) {
    scbm_status status = add_texts(run, run->train, "training", &run->train_sequences);
    if (!status) status = add_texts(run, run->valid, "validation", &run->valid_sequences);
    if (status) return status;
    int n_concepts = run->network.heads.n_concepts;
    uint64_t hash = hash_data(CBM_HASH_START, run->train, &run->train_sequences, n_concepts);
    hash = hash_data(hash, run->valid, &run->valid_sequences, n_concepts);
    snprintf(run->data_hash, sizeof run->data_hash, "%016llx", (unsigned long long)hash);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * The network
 * ---------------------------------------------------------------------------------------- */

static scbm_status create_heads(training_run *run, const char *const *concept_names) {
    const cbm_dataset *data = run->train;
    cbm_heads *heads = &run->network.heads;
    int n_concepts = run->options->mode == CBM_VANILLA ? 0 : data->n_concepts;
    size_t n_classes = 0;
    for (int k = 0; k < n_concepts; k++) n_classes += data->concept_classes[k].n;
    if (n_classes > 1000000 || data->label_classes.n > 1000000)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the training data have more than a million classes");
    scbm_status status = cbm_heads_create(heads, run->options->mode, n_concepts, (int)n_classes,
                                          (int)data->label_classes.n, &run->hooks);
    if (status) return status;
    for (int k = 0; k < n_concepts; k++) {
        const cbm_classes *classes = &data->concept_classes[k];
        heads->concept_name[k] = concept_names[k];
        heads->groups[k + 1] = heads->groups[k] + (int32_t)classes->n;
        for (size_t c = 0; c < classes->n; c++) heads->class_name[(size_t)heads->groups[k] + c] = classes->name[c];
    }
    for (int y = 0; y < heads->n_labels; y++) heads->label_name[y] = data->label_classes.name[y];
    return cbm_heads_finish(heads);
}

/* PyTorch's start for linear layers: uniform within 1/√inputs. */
static scbm_status create_head_tensor(training_run *run, int which, const char *name, int64_t rows, int64_t columns,
                                      int64_t inputs, scbm_tensor **made) {
    const int64_t shape[2] = {rows, columns};
    scbm_tensor *tensor = &run->head_tensors[which];
    scbm_status status = scbm_tensor_init(tensor, name, SCBM_F32, columns ? 2 : 1, shape);
    if (status) return status;
    int64_t n = scbm_tensor_elements(tensor);
    float *data = tensor->data = scbm_alloc_array(&run->hooks, (size_t)n, sizeof *data);
    if (!data) return SCBM_ERROR_MEMORY;
    scbm_random random = {run->options->seed, RANDOM_STREAM(RANDOM_HEADS, which), 0};
    double bound = 1.0 / sqrt((double)inputs);
    for (int64_t i = 0; i < n; i++) data[i] = (float)(bound * (2.0 * scbm_random_uniform(&random) - 1.0));
    *made = tensor;
    return SCBM_OK;
}

static scbm_status create_head_tensors(training_run *run) {
    cbm_heads *heads = &run->network.heads;
    int64_t d = run->network.backbone.hidden, n = heads->n_classes, inputs = has_concepts(run) ? n : d;
    scbm_status status = SCBM_OK;
    if (has_concepts(run)) {
        status = create_head_tensor(run, CONCEPT_WEIGHT, CBM_CONCEPT_WEIGHT, n, d, d, &heads->concept_weight);
        if (!status) status = create_head_tensor(run, CONCEPT_BIAS, CBM_CONCEPT_BIAS, n, 0, d, &heads->concept_bias);
    }
    if (!status)
        status = create_head_tensor(run, LABEL_WEIGHT, CBM_LABEL_WEIGHT, heads->n_labels, inputs, inputs,
                                    &heads->label_weight);
    if (!status)
        status = create_head_tensor(run, LABEL_BIAS, CBM_LABEL_BIAS, heads->n_labels, 0, inputs, &heads->label_bias);
    return status;
}

static int same_shape(const scbm_tensor *a, const scbm_tensor *b) {
    return a->n_dims == b->n_dims && memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof a->shape[0]) == 0;
}

/* Copies a tensor of the model to start from. */
static scbm_status start_tensor(scbm_tensor *into, const scbm_tensor *from, const char *path) {
    char shape[96], wanted[96];
    if (!into && !from) return SCBM_OK;
    if (!into || !from)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: tensor %s is not in both this model and the encoder", path,
                         (into ? into : from)->name);
    if (!same_shape(into, from))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: tensor %s is %s, and %s is needed", path, from->name,
                         scbm_shape_text(from, shape, sizeof shape), scbm_shape_text(into, wanted, sizeof wanted));
    return scbm_convert(SCBM_F32, into->data, from->type, from->data, scbm_tensor_elements(from));
}

static scbm_status start_backbone(cbm_backbone *into, const cbm_backbone *from, const char *path) {
    scbm_status status = SCBM_OK;
    if (into->architecture != from->architecture || into->n_parameters != from->n_parameters)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: this model's encoder has another architecture or depth", path);
    for (int i = 0; i < into->n_parameters && !status; i++)
        status = start_tensor(into->parameters[i].tensor, from->parameters[i].tensor, path);
    return status;
}

static scbm_status start_heads(training_run *run, const cbm_heads *from, const char *path) {
    cbm_heads *into = &run->network.heads;
    if ((from->mode == CBM_VANILLA) != (into->mode == CBM_VANILLA))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: a model in %s mode is no start for one in %s mode", path,
                         cbm_mode_name(from->mode), cbm_mode_name(into->mode));
    scbm_status status = cbm_check_heads(from, into, run->train, path);
    if (!status) status = start_tensor(into->concept_weight, from->concept_weight, path);
    if (!status) status = start_tensor(into->concept_bias, from->concept_bias, path);
    if (!status) status = start_tensor(into->label_weight, from->label_weight, path);
    if (!status) status = start_tensor(into->label_bias, from->label_bias, path);
    return status;
}

/* Training starts from one dense encoder, whatever subnetworks the model that it comes from has. */
static void say_masks_stay(const training_run *run, const cbm_model *model, const char *path) {
    if (!cbm_model_is_sparse(model)) return;
    scbm_log(&run->hooks, SCBM_LOG_INFO,
             "%s has subnetworks: training starts from its dense weights, without the masks", path);
}

/* Takes the weights of options->init. */
static scbm_status start_from_model(training_run *run) {
    const char *path = run->options->init;
    const cbm_load_options load = {.hooks = &run->hooks};
    cbm_model *model;
    scbm_status status = cbm_model_load(&model, path, &load);
    if (status) return status;
    if (model->network.heads.mode == CBM_ENCODER)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s is an encoder without heads to start from", path);
    if (!status) say_masks_stay(run, model, path);
    if (!status) status = start_backbone(&run->network.backbone, &model->network.backbone, path);
    if (!status) status = start_heads(run, &model->network.heads, path);
    cbm_model_free(model);
    return status;
}

/* Lists the parameters, and takes the hash of what they start from. */
static scbm_status list_parameters(training_run *run) {
    const cbm_backbone *backbone = &run->network.backbone;
    uint64_t hash = CBM_HASH_START;
    run->parameters = scbm_alloc_array(&run->hooks, (size_t)backbone->n_parameters + N_HEAD_TENSORS,
                                       sizeof *run->parameters);
    if (!run->parameters) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < backbone->n_parameters; i++)
        if (backbone->parameters[i].tensor) run->parameters[run->n_parameters++] = backbone->parameters[i].tensor;
    for (int i = 0; i < N_HEAD_TENSORS; i++)
        if (run->head_tensors[i].data) run->parameters[run->n_parameters++] = &run->head_tensors[i];
    for (int i = 0; i < run->n_parameters; i++)
        hash = cbm_hash(hash, run->parameters[i]->data, scbm_tensor_bytes(run->parameters[i]));
    snprintf(run->start_hash, sizeof run->start_hash, "%016llx", (unsigned long long)hash);
    return SCBM_OK;
}

static scbm_status create_network(training_run *run, const char *const *concept_names) {
    const cbm_train_options *o = run->options;
    scbm_status status = cbm_backbone_copy(&run->network.backbone, &run->encoder->network.backbone, &run->hooks);
    if (status) return status;
    if (o->max_tokens) run->network.backbone.max_tokens = o->max_tokens;
    status = create_heads(run, concept_names);
    const cbm_names names = cbm_heads_names(&run->network.heads);
    if (!status) status = cbm_dataset_check_names(run->valid, &names, "the validation data");
    if (!status) status = create_head_tensors(run);
    if (!status && o->init) status = start_from_model(run);
    else if (!status) say_masks_stay(run, run->encoder, scbm_file_path(run->encoder->file));
    if (!status) status = list_parameters(run);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The training graph and its optimizer
 * ---------------------------------------------------------------------------------------- */

/* n / (classes · count): the mean over the texts is 1. A class that does not occur has weight 0. */
static void weigh_classes(float *weights, int n_classes, const int32_t *gold, size_t n, size_t stride) {
    size_t known = 0;
    for (int c = 0; c < n_classes; c++) weights[c] = 0.0f;
    for (size_t i = 0; i < n; i++) {
        if (gold[i * stride] < 0) continue;
        weights[gold[i * stride]] += 1.0f;
        known++;
    }
    for (int c = 0; c < n_classes; c++)
        if (weights[c] > 0.0f) weights[c] = (float)((double)known / (n_classes * (double)weights[c]));
}

static scbm_status create_weights(training_run *run, scbm_tensor *tensor, const char *name, int64_t n) {
    scbm_status status = scbm_tensor_init(tensor, name, SCBM_F32, 1, &n);
    if (status) return status;
    tensor->data = scbm_alloc_array(&run->hooks, (size_t)n, sizeof(float));
    return tensor->data ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static scbm_status create_class_weights(training_run *run) {
    const cbm_heads *heads = &run->network.heads;
    const cbm_dataset *data = run->train;
    scbm_status status = create_weights(run, &run->label_weights, "label class weights", heads->n_labels);
    if (status) return status;
    weigh_classes(run->label_weights.data, heads->n_labels, data->label, data->n, 1);
    run->settings.label_weights = &run->label_weights;
    if (!has_concepts(run)) return SCBM_OK;
    status = create_weights(run, &run->concept_weights, "concept class weights", heads->n_classes);
    if (status) return status;
    for (int k = 0; k < heads->n_concepts; k++)
        weigh_classes((float *)run->concept_weights.data + heads->groups[k], heads->groups[k + 1] - heads->groups[k],
                      data->concept_class + k, data->n, (size_t)heads->n_concepts);
    run->settings.concept_weights = &run->concept_weights;
    return SCBM_OK;
}

/* The order of the texts in an epoch (from 1). */
static void shuffle_texts(training_run *run, int64_t epoch) {
    scbm_random random = {run->options->seed, RANDOM_STREAM(RANDOM_ORDER, epoch), 0};
    for (size_t i = 0; i < run->train->n; i++) run->order[i] = (int32_t)i;
    scbm_random_shuffle(&random, run->order, (int64_t)run->train->n);
}

/* Batch `index` (from 0) of an epoch: its place in the order, and how many texts it has. */
static int64_t batch_size(const training_run *run, int64_t index, size_t *first) {
    size_t most = (size_t)run->options->batch_size;
    *first = (size_t)index * most;
    size_t left = run->train->n - *first;
    return (int64_t)(left < most ? left : most);
}

static scbm_status create_teacher(training_run *run) {
    const cbm_train_options *o = run->options;
    scbm_status status = cbm_teacher_create(&run->teacher, o->teacher, &run->network.heads, run->train,
                                            o->teacher_weight, o->temperature, &run->hooks);
    if (status) return status;
    snprintf(run->teacher_hash, sizeof run->teacher_hash, "%016llx", (unsigned long long)run->teacher.source);
    run->settings.teacher = &run->teacher;
    return SCBM_OK;
}

static int prunes(const training_run *run) {
    return run->options->prune.method != CBM_PRUNE_NONE;
}

static int has_scores(const training_run *run) {
    cbm_prune_method method = run->options->prune.method;
    return method == CBM_PRUNE_POPUP || method == CBM_PRUNE_POPUP_STRUCTURED;
}

/* The most tokens that a batch of this run will have: the graph is planned for that once. */
static int64_t largest_batch(training_run *run) {
    int64_t largest = 0;
    for (int64_t epoch = 1; epoch <= run->options->epochs; epoch++) {
        shuffle_texts(run, epoch);
        for (int64_t b = 0; b < run->steps_per_epoch; b++) {
            size_t first;
            int64_t tokens = 0, n = batch_size(run, b, &first);
            for (int64_t i = 0; i < n; i++)
                tokens += cbm_sequence_length(&run->train_sequences, (size_t)run->order[first + (size_t)i]);
            if (tokens > largest) largest = tokens;
        }
    }
    return largest;
}

static scbm_status create_graph(training_run *run) {
    const cbm_train_options *o = run->options;
    const cbm_backbone *backbone = &run->network.backbone;
    cbm_training_settings *s = &run->settings;
    s->hidden_dropout = o->dropout < 0 ? backbone->hidden_dropout : o->dropout;
    s->attention_dropout = o->dropout < 0 ? backbone->attention_dropout : o->dropout;
    s->mixup = o->mixup > 0;
    s->max_tokens = largest_batch(run);
    s->max_texts = (size_t)o->batch_size < run->train->n ? o->batch_size : (int64_t)run->train->n;
    return cbm_training_graph_create(&run->graph, &run->network, run->context, s);
}

static int is_head(const training_run *run, const scbm_tensor *tensor) {
    for (int i = 0; i < N_HEAD_TENSORS; i++)
        if (tensor == &run->head_tensors[i]) return 1;
    return 0;
}

static scbm_status create_optimizer(training_run *run) {
    const cbm_train_options *o = run->options;
    const scbm_adamw_options options = {0.9f, 0.999f, 1e-8f, o->clip_norm};
    int n = run->graph.n_parameters;
    float *rates = scbm_alloc_array(&run->hooks, 2 * (size_t)n, sizeof *rates);
    if (!rates) return SCBM_ERROR_MEMORY;
    float *decays = rates + n;
    for (int i = 0; i < n; i++) {
        const scbm_tensor *parameter = run->graph.parameters[i];
        rates[i] = is_head(run, parameter) ? o->head_rate : o->encoder_rate;
        decays[i] = parameter->n_dims > 1 ? o->weight_decay : 0.0f;
    }
    scbm_status status = scbm_adamw_create(&run->optimizer, run->context, run->graph.parameters, n, rates, decays,
                                           &options);
    scbm_release(&run->hooks, rates);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Facts, checkpoints, logs
 * ---------------------------------------------------------------------------------------- */

static void add_int(cbm_fact *facts, int *n, const char *key, int64_t value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_INT, value, 0.0, NULL};
}

static void add_real(cbm_fact *facts, int *n, const char *key, double value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_REAL, 0, value, NULL};
}

static void add_text(cbm_fact *facts, int *n, const char *key, const char *value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_TEXT, 0, 0.0, value};
}

static void add_pruning(const cbm_prune_options *o, cbm_fact *facts, int *n) {
    add_text(facts, n, "prune_method", cbm_prune_name(o->method));
    add_real(facts, n, "sparsity", o->sparsity);
    add_real(facts, n, "initial_sparsity", o->initial_sparsity);
    add_int(facts, n, "prune_start", o->start);
    add_int(facts, n, "prune_end", o->end);
    if (o->method == CBM_PRUNE_OBERT) {
        add_int(facts, n, "fisher_block", o->fisher_block);
        add_int(facts, n, "fisher_batches", o->fisher_batches);
        add_int(facts, n, "fisher_batch_size", o->fisher_batch_size);
        add_real(facts, n, "damping", o->damping);
        add_int(facts, n, "damping_absolute", o->damping_absolute != 0);
    } else if (o->method != CBM_PRUNE_MAGNITUDE && o->method != CBM_PRUNE_RANDOM) {
        add_int(facts, n, "freeze_weights", o->freeze_weights != 0);
        add_real(facts, n, "score_rate", (double)o->score_rate);
    }
}

/* What a run is asked to do. */
static void add_settings(const training_run *run, cbm_fact *facts, int *n) {
    const cbm_train_options *o = run->options;
    add_int(facts, n, "seed", (int64_t)o->seed);
    add_int(facts, n, "texts", (int64_t)run->train->n);
    add_int(facts, n, "epochs", o->epochs);
    add_int(facts, n, "batch_size", o->batch_size);
    add_real(facts, n, "encoder_rate", (double)o->encoder_rate);
    add_real(facts, n, "head_rate", (double)o->head_rate);
    add_real(facts, n, "weight_decay", (double)o->weight_decay);
    add_real(facts, n, "warmup", (double)o->warmup);
    add_real(facts, n, "clip_norm", (double)o->clip_norm);
    add_real(facts, n, "hidden_dropout", (double)run->settings.hidden_dropout);
    add_real(facts, n, "attention_dropout", (double)run->settings.attention_dropout);
    if (has_concepts(run)) {
        add_real(facts, n, "concept_weight", (double)o->concept_weight);
        add_text(facts, n, "concept_loss", o->concept_loss == CBM_LOSS_SIGMOID ? "sigmoid" : "plain");
    }
    add_int(facts, n, "class_weights", o->class_weights != 0);
    add_real(facts, n, "mixup", (double)o->mixup);
    if (o->teacher) {
        add_real(facts, n, "teacher_weight", (double)o->teacher_weight);
        add_real(facts, n, "temperature", (double)o->temperature);
    }
    add_int(facts, n, "patience", o->patience);
    add_int(facts, n, "max_tokens", run->network.backbone.max_tokens);
    if (o->refit_label) add_int(facts, n, "refit_label", 1);
    if (prunes(run)) add_pruning(&o->prune, facts, n);
}

/* What must be the same for the bits to be the same. */
static void settle_facts(training_run *run) {
    add_text(run->facts, &run->n_facts, "mode", cbm_mode_name(run->options->mode));
    add_settings(run, run->facts, &run->n_facts);
    if (!run->options->refit_label) add_int(run->facts, &run->n_facts, "refit_label", 0);
    if (!prunes(run)) add_text(run->facts, &run->n_facts, "prune_method", cbm_prune_name(CBM_PRUNE_NONE));
    add_text(run->facts, &run->n_facts, "teacher", run->options->teacher ? run->teacher_hash : "none");
    add_text(run->facts, &run->n_facts, "data", run->data_hash);
    add_text(run->facts, &run->n_facts, "start", run->start_hash);
    add_text(run->facts, &run->n_facts, "device", scbm_context_device(run->context));
    add_int(run->facts, &run->n_facts, "version", scbm_version());
}

/* Where the optimizer finds its gradients: in the graph's tensors, or in popup's. */
static scbm_status list_gradients(training_run *run) {
    const cbm_training_graph *t = &run->graph;
    scbm_release(&run->hooks, run->gradients);
    run->gradients = scbm_alloc_array(&run->hooks, (size_t)t->n_parameters, sizeof *run->gradients);
    if (!run->gradients) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < t->n_parameters; i++)
        run->gradients[i] = t->gradients[i] ? t->gradients[i]
                                            : cbm_popup_weight_gradient(&run->popup, t->parameters[i]);
    return SCBM_OK;
}

/* Masks, and with learned scores these and their moments, belong to the checkpoint. */
static scbm_status list_extra(training_run *run) {
    const cbm_backbone *backbone = &run->network.backbone;
    cbm_checkpoint *c = &run->state;
    size_t most = (size_t)backbone->n_parameters + 3 * (size_t)run->popup.n;
    run->extra = scbm_alloc_array(&run->hooks, most, sizeof *run->extra);
    if (!run->extra) return SCBM_ERROR_MEMORY;
    c->extra = run->extra;
    for (int i = 0; i < backbone->n_parameters; i++)
        if (backbone->parameters[i].masks) c->extra[c->n_extra++] = backbone->parameters[i].masks;
    for (int i = 0; i < run->popup.n; i++) {
        c->extra[c->n_extra++] = run->popup.scores[i];
        for (int second = 0; second < 2; second++) {
            scbm_tensor *moment = scbm_adamw_moment(run->popup.optimizer, i, second);
            snprintf(moment->name, sizeof moment->name, "%c.%.*s", second ? 'v' : 'm', SCBM_MAX_NAME - 3,
                     run->popup.scores[i]->name);
            c->extra[c->n_extra++] = moment;
        }
    }
    return SCBM_OK;
}

static scbm_status begin_scores(training_run *run) {
    const cbm_prune_options *o = &run->options->prune;
    scbm_status status = cbm_popup_create(&run->popup, &run->network, run->context,
                                          o->method == CBM_PRUNE_POPUP_STRUCTURED, o->score_rate);
    run->settings.weight_gradients = SCBM_DW_DENSE;
    run->settings.on_gradient = cbm_popup_gradient;
    run->settings.on_gradient_user = &run->popup;
    for (int i = 0; o->freeze_weights && i < run->graph.n_parameters; i++)
        if (cbm_popup_weight_gradient(&run->popup, run->graph.parameters[i]))
            scbm_adamw_set_rate(run->optimizer, i, 0.0f);
    return status;
}

/* From here on each concept has a stream and masks of its own, all ones at first: graphs are made anew. */
static scbm_status begin_subnetworks(training_run *run) {
    scbm_status status = cbm_masks_create(&run->network.backbone, run->network.heads.n_concepts, &run->hooks);
    if (!status && has_scores(run)) status = begin_scores(run);
    if (status) return status;
    cbm_training_graph_clear(&run->graph, &run->hooks);
    cbm_runner_clear(&run->runner);
    cbm_runner_init(&run->runner, &run->network, run->context, SCBM_F32, RUN_BATCH_TOKENS);
    status = cbm_training_graph_create(&run->graph, &run->network, run->context, &run->settings);
    run->state.trained = run->graph.parameters;
    if (!status) status = list_gradients(run);
    if (!status) status = list_extra(run);
    return status;
}

static scbm_status create_state(training_run *run) {
    cbm_checkpoint *c = &run->state;
    size_t most = (size_t)run->total_steps;
    if ((uint64_t)run->total_steps > SIZE_MAX / sizeof(float))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %lld steps are too many", (long long)run->total_steps);
    c->step_loss = scbm_alloc_array(&run->hooks, most, sizeof *c->step_loss);
    c->step_norm = scbm_alloc_array(&run->hooks, most, sizeof *c->step_norm);
    if (!c->step_loss || !c->step_norm) return SCBM_ERROR_MEMORY;
    settle_facts(run);
    c->parameters = run->parameters;
    c->n_parameters = run->n_parameters;
    c->trained = run->graph.parameters;
    c->n_trained = run->graph.n_parameters;
    c->optimizer = run->optimizer;
    c->facts = run->facts;
    c->n_facts = run->n_facts;
    return list_gradients(run);
}

static scbm_status name_checkpoint(training_run *run) {
    size_t size = strlen(run->options->output) + sizeof ".checkpoint";
    run->checkpoint_path = scbm_alloc(&run->hooks, size);
    if (!run->checkpoint_path) return SCBM_ERROR_MEMORY;
    snprintf(run->checkpoint_path, size, "%s.checkpoint", run->options->output);
    return SCBM_OK;
}

/* The best model is not in the checkpoint: it must stand where the run wrote it. */
static scbm_status check_best_model(const training_run *run) {
    FILE *file = fopen(run->options->output, "rb");
    if (file) {
        fclose(file);
        return SCBM_OK;
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT,
                     "%s, the best model so far, is missing, so %s cannot be gone on from: start anew without --resume",
                     run->options->output, run->checkpoint_path);
}

/* Whether an epoch's model may be the best: with subnetworks, only at their final sparsity. */
static int competes(const training_run *run, int64_t epoch) {
    return !prunes(run) || epoch >= run->options->prune.end;
}

/* A checkpoint that cannot be read: what to do. */
static scbm_status refuse_checkpoint(const training_run *run, scbm_status status) {
    char message[600];
    if (status != SCBM_ERROR_FORMAT && status != SCBM_ERROR_UNSUPPORTED) return status;
    snprintf(message, sizeof message, "%s", scbm_last_error());
    return scbm_fail(status, "%s; delete %.200s to start anew", message, run->checkpoint_path);
}

static int is_over(const training_run *run) {
    const cbm_train_options *o = run->options;
    return run->state.epoch >= o->epochs || (o->patience && run->state.epochs_since_best >= o->patience);
}

static void say_where_it_goes_on(const training_run *run) {
    scbm_log(&run->hooks, SCBM_LOG_INFO,
             is_over(run) ? "%s is of a run that is over, after epoch %lld of %d"
                          : "%s: going on after epoch %lld of %d",
             run->checkpoint_path, (long long)run->state.epoch, run->options->epochs);
}

/* Takes the checkpoint's state. */
static scbm_status read_checkpoint(training_run *run, int *found) {
    int64_t epoch;
    cbm_checkpoint *c = &run->state;
    scbm_status status = cbm_checkpoint_epoch(run->checkpoint_path, &epoch, &run->hooks);
    if (!status && prunes(run) && epoch >= run->options->prune.start) status = begin_subnetworks(run);
    if (!status) status = cbm_checkpoint_read(c, run->checkpoint_path, run->total_steps, found, &run->hooks);
    if (status || !*found) return status;
    if (run->popup.optimizer)
        scbm_adamw_set_steps(run->popup.optimizer, (c->epoch - run->options->prune.start) * run->steps_per_epoch);
    if (c->epoch > run->options->epochs || c->step != c->epoch * run->steps_per_epoch ||
        (c->best_epoch < 1) == competes(run, c->epoch))
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: epoch %lld and step %lld do not fit this run", run->checkpoint_path,
                         (long long)c->epoch, (long long)c->step);
    return SCBM_OK;
}

static scbm_status resume(training_run *run) {
    int found;
    scbm_status status = read_checkpoint(run, &found);
    if (status) return refuse_checkpoint(run, status);
    if (!found) {
        scbm_log(&run->hooks, SCBM_LOG_INFO, "no checkpoint at %s: starting from the beginning", run->checkpoint_path);
        return SCBM_OK;
    }
    status = run->state.best_epoch ? check_best_model(run) : SCBM_OK;
    if (!status) say_where_it_goes_on(run);
    return status;
}

static scbm_status write_step_log(training_run *run) {
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
static scbm_status write_order_log(training_run *run) {
    scbm_output_file *file;
    if (!run->options->order_log) return SCBM_OK;
    scbm_status status = scbm_output_open(&file, run->options->order_log, &run->hooks);
    if (status) return status;
    for (int64_t step = 0; step < run->state.step; step++) {
        size_t first;
        int64_t batch = step % run->steps_per_epoch, n = batch_size(run, batch, &first);
        if (batch == 0) shuffle_texts(run, step / run->steps_per_epoch + 1);
        for (int64_t i = 0; i < n; i++)
            scbm_output_print(file, i + 1 < n ? "%d " : "%d\n", (int)run->order[first + (size_t)i]);
    }
    return scbm_output_commit(file);
}

static scbm_status write_model(training_run *run, const cbm_validation *v, double train_loss) {
    cbm_fact facts[MAX_FACTS + 16];
    int n = 0;
    add_settings(run, facts, &n);
    add_int(facts, &n, "epoch", run->state.epoch);
    if (run->state.epoch) {
        if (run->magnitude_overlap >= 0) add_real(facts, &n, "magnitude_overlap", run->magnitude_overlap);
        add_int(facts, &n, "validation_texts", (int64_t)run->valid->n);
        add_real(facts, &n, "loss", train_loss);
        add_real(facts, &n, "validation_loss", v->loss);
        add_real(facts, &n, "label_accuracy", v->label_accuracy);
        add_real(facts, &n, "label_f1", v->label_f1);
        if (has_concepts(run)) add_real(facts, &n, "concept_accuracy", v->concept_accuracy);
        if (has_concepts(run)) add_real(facts, &n, "concept_f1", v->concept_f1);
    }
    return cbm_write_model(run->options->output, run->encoder, &run->network,
                           has_concepts(run) ? &run->statistics : NULL, facts, n);
}

/* ------------------------------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------------------------- */

/* One β and one permutation for the batch, by the number of the step. */
static float draw_mixup(training_run *run, int64_t step, int64_t n) {
    scbm_random random = {run->options->seed, RANDOM_STREAM(RANDOM_MIXUP, step), 0};
    for (int64_t i = 0; i < n; i++) run->permutation[i] = (int32_t)i;
    scbm_random_shuffle(&random, run->permutation, n);
    return (float)scbm_random_beta(&random, (double)run->options->mixup, (double)run->options->mixup);
}

static scbm_status numeric_failure(const training_run *run, const char *what, int64_t step) {
    return scbm_fail(SCBM_ERROR_NUMERIC,
                     "training: the %s is not finite in step %lld of %lld; smaller learning rates may help", what,
                     (long long)step, (long long)run->total_steps);
}

/* Learned scores move with every step, and the masks with them. */
static scbm_status step_scores(training_run *run, float rate) {
    scbm_status status = cbm_popup_step(&run->popup, rate);
    return status ? status : cbm_popup_masks(&run->popup, cbm_prune_sparsity(&run->options->prune, run->state.epoch));
}

/* Step `step` (from 1): batch `index` of its epoch, whose order stands in run->order. */
static scbm_status train_step(training_run *run, int64_t index, int64_t step) {
    cbm_training_graph *t = &run->graph;
    cbm_checkpoint *c = &run->state;
    size_t first;
    float beta = 1.0f, norm = 0.0f;
    int64_t n = batch_size(run, index, &first),
            warmup = (int64_t)floor((double)run->options->warmup * (double)run->total_steps + 0.5);
    if (run->settings.mixup) beta = draw_mixup(run, step, n);
    int64_t tokens = cbm_training_fill(t, &run->network, &run->train_sequences, run->train, run->order + first, n,
                                       run->permutation, beta);
    scbm_graph_set_random(t->graph, run->options->seed, (uint64_t)step);
    scbm_status status = scbm_graph_run(t->graph, tokens, n);
    if (status) return status;
    float loss = *(const float *)t->loss->data;
    if (!isfinite(loss)) return numeric_failure(run, "loss", step);
    float rate = scbm_linear_schedule(step, warmup > 1 ? warmup : 1, run->total_steps);
    status = scbm_adamw_step(run->optimizer, run->gradients, rate, &norm);
    if (!status && run->popup.optimizer) status = step_scores(run, rate);
    if (status == SCBM_ERROR_NUMERIC) return numeric_failure(run, "gradient", step);
    if (status) return status;
    c->step_loss[step - 1] = loss;
    c->step_norm[step - 1] = norm;
    return SCBM_OK;
}

/* One pass over the training data, after state.epoch of them. */
static scbm_status train_epoch(training_run *run, double *mean_loss) {
    const scbm_hooks *hooks = &run->hooks;
    cbm_checkpoint *c = &run->state;
    double sum = 0.0;
    shuffle_texts(run, c->epoch + 1);
    for (int64_t b = 0; b < run->steps_per_epoch; b++) {
        int64_t step = c->epoch * run->steps_per_epoch + b + 1;
        scbm_status status = train_step(run, b, step);
        if (status) return status;
        sum += (double)c->step_loss[step - 1];
        if (hooks->progress && hooks->progress(hooks->user, "train", step, run->total_steps))
            return scbm_fail(SCBM_ERROR_CANCELLED, "cancelled after step %lld of %lld", (long long)step,
                             (long long)run->total_steps);
    }
    c->epoch++;
    c->step = c->epoch * run->steps_per_epoch;
    *mean_loss = sum / (double)run->steps_per_epoch;
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Between epochs
 * ---------------------------------------------------------------------------------------- */

/* What the network says of all these texts, into run->computed [n, C or Y]. */
static scbm_status compute(training_run *run, const cbm_sequences *sequences, const char *progress) {
    size_t n = sequences->n * (size_t)cbm_n_logits(&run->network.heads);
    scbm_status status = scbm_grow(&run->hooks, (void **)&run->computed, &run->computed_capacity, n,
                                   sizeof *run->computed);
    if (!status)
        status = cbm_runner_run(&run->runner, CBM_FORWARD_LOGITS, sequences, run->computed, &run->hooks, progress);
    return status;
}

/* Statistics of the values over the training data, and in sequential mode the label head that reads them. */
static scbm_status read_training_data(training_run *run, int fits_head) {
    cbm_heads *heads = &run->network.heads;
    scbm_status status = compute(run, &run->train_sequences, "statistics");
    if (!status) status = cbm_statistics_compute(&run->statistics, heads, run->train, run->computed, &run->hooks);
    if (!status && fits_head)
        status = cbm_fit_label_head(heads, run->context, run->computed, run->train->label, (int64_t)run->train->n,
                                    run->settings.label_weights);
    return status;
}

/* In independent mode the label head does not depend on the network. */
static scbm_status fit_gold_head(training_run *run) {
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

static scbm_status validate(training_run *run, cbm_validation *v) {
    scbm_status status = compute(run, &run->valid_sequences, "validate");
    if (!status) status = cbm_validate(v, &run->network.heads, run->valid, run->computed, &run->settings, &run->hooks);
    return status;
}

/* Sets the masks anew after an epoch, if it is one of those. */
static scbm_status prune(training_run *run) {
    const cbm_prune_options *o = &run->options->prune;
    const cbm_prune_job job = {.network = &run->network,
                               .context = run->context,
                               .data = run->train,
                               .sequences = &run->train_sequences,
                               .settings = &run->settings,
                               .options = o,
                               .batch_size = run->options->batch_size,
                               .seed = run->options->seed,
                               .hooks = &run->hooks};
    cbm_prune_report report;
    int64_t epoch = run->state.epoch;
    run->magnitude_overlap = -1.0;
    if (!prunes(run) || epoch < o->start || (epoch > o->end && !has_scores(run))) return SCBM_OK;
    scbm_status status = cbm_masks_streams(&run->network.backbone) ? SCBM_OK : begin_subnetworks(run);
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

static void report_epoch(const training_run *run, const cbm_validation *v, double train_loss, double seconds,
                         int is_best) {
    cbm_epoch_report report;
    if (!run->options->on_epoch) return;
    memset(&report, 0, sizeof report);
    report.epoch = (int)run->state.epoch;
    report.epochs = run->options->epochs;
    report.seconds = seconds;
    report.train_loss = train_loss;
    report.valid_loss = v->loss;
    report.label_accuracy = v->label_accuracy;
    report.concept_accuracy = v->concept_accuracy;
    report.label_f1 = v->label_f1;
    report.concept_f1 = v->concept_f1;
    report.sparsity = cbm_prune_sparsity(&run->options->prune, run->state.epoch);
    report.magnitude_overlap = run->magnitude_overlap;
    report.score = v->score;
    report.is_best = is_best;
    run->options->on_epoch(run->options->user, &report);
}

/* Refitting the label head is for the model that is judged and written; training goes on with the head that it has. */
static void restore_label_head(training_run *run) {
    scbm_tensor *head[2] = {run->network.heads.label_weight, run->network.heads.label_bias};
    for (int i = 0; i < 2; i++) {
        size_t bytes = scbm_tensor_bytes(head[i]);
        memcpy(head[i]->data, run->label_head[i], bytes);
    }
}

static scbm_status set_label_head_aside(training_run *run) {
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
static scbm_status finish_epoch(training_run *run, double train_loss, double seconds) {
    cbm_checkpoint *c = &run->state;
    cbm_validation v;
    int fits_head = run->options->mode == CBM_SEQUENTIAL || run->options->refit_label;
    scbm_status status = run->options->refit_label ? set_label_head_aside(run) : SCBM_OK;
    if (!status && fits_head) status = read_training_data(run, 1);
    if (!status) status = validate(run, &v);
    if (status) return status;
    int may_be_best = competes(run, c->epoch), is_best = may_be_best && (c->best_epoch == 0 || v.score > c->best_score);
    c->epochs_since_best = is_best || !may_be_best ? 0 : c->epochs_since_best + 1;
    if (is_best) {
        c->best_epoch = c->epoch;
        c->best_score = v.score;
        if (has_concepts(run) && !fits_head) status = read_training_data(run, 0);
        if (!status) status = write_model(run, &v, train_loss);
    }
    if (run->options->refit_label) restore_label_head(run);
    if (!status) status = write_step_log(run);
    if (!status) status = write_order_log(run);
    if (!status) status = cbm_checkpoint_write(c, run->checkpoint_path, &run->hooks);
    if (!status) report_epoch(run, &v, train_loss, seconds, is_best);
    return status;
}

static scbm_status train_epochs(training_run *run) {
    scbm_status status = SCBM_OK;
    while (!status && !is_over(run)) {
        double loss = 0.0, start = scbm_seconds();
        status = train_epoch(run, &loss);
        if (!status) status = prune(run);
        if (!status) status = finish_epoch(run, loss, scbm_seconds() - start);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Training
 * ---------------------------------------------------------------------------------------- */

static void settle_settings(training_run *run) {
    const cbm_train_options *o = run->options;
    run->settings.concept_weight = o->concept_weight;
    run->settings.concept_loss = o->concept_loss;
    run->settings.precision = SCBM_F32;
    run->steps_per_epoch = ((int64_t)run->train->n + o->batch_size - 1) / o->batch_size;
    run->total_steps = run->steps_per_epoch * o->epochs;
}

static scbm_status create_arrays(training_run *run) {
    size_t batch = (size_t)run->options->batch_size, n = run->train->n;
    run->order = scbm_alloc_array(&run->hooks, n, sizeof *run->order);
    run->permutation = scbm_alloc_array(&run->hooks, batch < n ? batch : n, sizeof *run->permutation);
    if (!run->order || !run->permutation) return SCBM_ERROR_MEMORY;
    return has_concepts(run) ? cbm_statistics_create(&run->statistics, &run->network.heads, &run->hooks) : SCBM_OK;
}

/* No epochs: the file of a model that was only set up. */
static scbm_status write_start(training_run *run) {
    scbm_status status = has_concepts(run) ? read_training_data(run, 0) : SCBM_OK;
    return status ? status : write_model(run, NULL, 0.0);
}

/* What pruning will take is said, or refused, before the first epoch. */
static scbm_status plan_pruning(training_run *run) {
    const cbm_prune_job job = {.network = &run->network,
                               .context = run->context,
                               .data = run->train,
                               .sequences = &run->train_sequences,
                               .settings = &run->settings,
                               .options = &run->options->prune,
                               .batch_size = run->options->batch_size,
                               .seed = run->options->seed,
                               .hooks = &run->hooks};
    return cbm_prune_plan(&job, run->network.heads.n_concepts);
}

static scbm_status train(training_run *run, const char *const *concept_names) {
    const cbm_train_options *o = run->options;
    settle_settings(run);
    scbm_status status = scbm_context_create(&run->context, &run->hooks, o->backend);
    if (!status) status = create_network(run, concept_names);
    if (!status) status = read_texts(run);
    if (!status) status = create_arrays(run);
    if (!status && o->class_weights) status = create_class_weights(run);
    if (!status && o->teacher && o->epochs) status = create_teacher(run);
    if (status) return status;
    cbm_runner_init(&run->runner, &run->network, run->context, SCBM_F32, RUN_BATCH_TOKENS);
    if (o->epochs == 0) return write_start(run);
    status = create_graph(run);
    if (!status) status = create_optimizer(run);
    if (!status) status = create_state(run);
    if (!status) status = name_checkpoint(run);
    if (!status && prunes(run)) status = plan_pruning(run);
    if (!status && o->mode == CBM_INDEPENDENT) status = fit_gold_head(run);
    if (!status && o->resume) status = resume(run);
    return status ? status : train_epochs(run);
}

static void clear_run(training_run *run) {
    const scbm_hooks *hooks = &run->hooks;
    cbm_runner_clear(&run->runner);
    scbm_adamw_free(run->optimizer);
    cbm_popup_clear(&run->popup);
    cbm_training_graph_clear(&run->graph, hooks);
    cbm_teacher_clear(&run->teacher, hooks);
    cbm_statistics_clear(&run->statistics, hooks);
    cbm_sequences_clear(&run->train_sequences, hooks);
    cbm_sequences_clear(&run->valid_sequences, hooks);
    cbm_heads_clear(&run->network.heads, hooks);
    cbm_backbone_clear(&run->network.backbone, hooks);
    for (int i = 0; i < N_HEAD_TENSORS; i++) scbm_release(hooks, run->head_tensors[i].data);
    scbm_release(hooks, run->label_weights.data);
    scbm_release(hooks, run->concept_weights.data);
    scbm_release(hooks, run->computed);
    scbm_release(hooks, run->order);
    scbm_release(hooks, run->permutation);
    scbm_release(hooks, run->parameters);
    scbm_release(hooks, run->gradients);
    scbm_release(hooks, run->extra);
    for (int i = 0; i < 2; i++) scbm_release(hooks, run->label_head[i]);
    scbm_release(hooks, run->state.step_loss);
    scbm_release(hooks, run->state.step_norm);
    scbm_release(hooks, run->checkpoint_path);
    scbm_context_free(run->context);
}

scbm_status cbm_train(const cbm_model *encoder, const struct cbm_dataset *train_data,
                      const struct cbm_dataset *valid_data, const char *const *concept_names,
                      const cbm_train_options *options) {
    if (!encoder || !options) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_train: the encoder or the options are NULL");
    scbm_status status = check_options(encoder, options);
    if (!status) status = check_data(train_data, train_data, "training", options->mode, concept_names);
    if (!status) status = check_data(valid_data, train_data, "validation", options->mode, concept_names);
    if (status) return status;
    scbm_hooks hooks = options->hooks ? *options->hooks : encoder->hooks;
    training_run *run = scbm_alloc(&hooks, sizeof *run);
    if (!run) return SCBM_ERROR_MEMORY;
    run->encoder = encoder;
    run->train = train_data;
    run->valid = valid_data;
    run->options = options;
    run->hooks = hooks;
    status = train(run, concept_names);
    clear_run(run);
    scbm_release(&hooks, run);
    return status;
}
