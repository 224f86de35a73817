/*
 * models/train/memory/plan.c - what a run will need of memory, before it takes it
 *
 * What is there already is measured: the program, the data, the encoder's file and the copy of its weights. What is to come
 * is computed from the graphs themselves, laid out without memory for the largest batch that the run will have.
 */
#include "models/train/memory/memory.h"
#include "models/base/memory.h"
#include "models/core/masks.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define MEBIBYTE 1048576.0

static void add(cbm_memory_plan *plan, const char *what, size_t bytes) {
    if (!bytes || plan->n_parts == CBM_MEMORY_PARTS) return;
    plan->part[plan->n_parts++] = (cbm_memory_part){what, bytes};
    plan->bytes += bytes;
}

/* The greater of two. */
static void take_greater(cbm_memory_plan *plan, const cbm_memory_plan *other) {
    if (other->bytes > plan->bytes) *plan = *other;
}

/* ------------------------------------------------------------------------------------------
 * What is there
 * ---------------------------------------------------------------------------------------- */

static size_t data_bytes(const cbm_dataset *data, const cbm_sequences *sequences) {
    size_t bytes = data->n * (sizeof *data->text + sizeof *data->text_length + sizeof *data->label + sizeof *data->row);
    bytes += data->n * (size_t)data->n_concepts * sizeof *data->concept_class;
    for (size_t i = 0; i < data->n; i++) bytes += data->text_length[i] + 1;
    return bytes + sequences->ids_capacity * sizeof *sequences->ids +
           sequences->first_capacity * sizeof *sequences->first;
}

static size_t weight_bytes(const cbm_training_run *run, size_t *in_file) {
    const cbm_backbone *encoder = &run->encoder->network.backbone;
    size_t bytes = 0;
    *in_file = 0;
    for (int i = 0; i < encoder->n_parameters; i++)
        if (encoder->parameters[i].tensor) *in_file += scbm_tensor_bytes(encoder->parameters[i].tensor);
    for (int i = 0; i < run->n_parameters; i++) bytes += scbm_tensor_bytes(run->parameters[i]);
    return bytes;
}

/* The parts that all of the run has, and what the process may have. */
static void plan_start(const cbm_training_run *run, cbm_memory_plan *plan) {
    size_t in_file, available = scbm_available_memory(NULL), resident = cbm_resident_memory();
    size_t weights = weight_bytes(run, &in_file), data = data_bytes(run->train, &run->train_sequences);
    data += data_bytes(run->valid, &run->valid_sequences);
    size_t known = in_file + weights + data, taken = resident > in_file ? resident - in_file : 0;
    *plan = (cbm_memory_plan){.limit = SIZE_MAX};
    if (run->options->memory) plan->limit = run->options->memory;
    else if (available < SIZE_MAX - taken) plan->limit = available + taken;
    add(plan, "the program", resident > known ? resident - known : 0);
    add(plan, "data", data);
    add(plan, "the encoder's file", in_file);
    add(plan, "weights", weights);
}

/* ------------------------------------------------------------------------------------------
 * What is to come
 * ---------------------------------------------------------------------------------------- */

/* The parts of steps and of what is between them. */
typedef struct step_sizes {
    size_t gradients, sums, optimizer; /* of what is trained */
    size_t graph;                      /* of a batch, gradients too */
    size_t passes;                     /* graphs without gradients, and what they compute */
} step_sizes;

/* Graphs for the texts to validate on, and where there are concepts for those of the training too. */
static scbm_status measure_passes(cbm_training_run *run, size_t *bytes) {
    uint32_t buckets = 0;
    cbm_runner runner;
    cbm_runner_init(&runner, &run->network, run->context, SCBM_PRECISION_F32, RUN_BATCH_TOKENS);
    *bytes = run->train->n * (size_t)cbm_n_logits(&run->network.heads) * sizeof(float);
    scbm_status status = cbm_runner_measure(&runner, CBM_FORWARD_LOGITS, &run->valid_sequences, &buckets, bytes);
    if (!status && cbm_run_has_concepts(run))
        status = cbm_runner_measure(&runner, CBM_FORWARD_LOGITS, &run->train_sequences, &buckets, bytes);
    cbm_runner_clear(&runner);
    return status;
}

static scbm_status measure_graph(cbm_training_run *run, size_t *bytes) {
    cbm_training_graph graph;
    scbm_status status = cbm_training_graph_build(&graph, &run->network, run->context, &run->settings);
    if (!status) status = cbm_run_list_trained(run, &graph);
    if (!status) status = scbm_graph_measure(graph.graph, bytes);
    cbm_training_graph_clear(&graph, &run->hooks);
    return status;
}

static scbm_status measure_steps(cbm_training_run *run, step_sizes *sizes) {
    scbm_status status = measure_graph(run, &sizes->graph);
    if (!status) status = measure_passes(run, &sizes->passes);
    for (int i = 0; i < run->state.n_trained; i++) sizes->gradients += scbm_tensor_bytes(run->trained[i]);
    sizes->optimizer = 2 * sizes->gradients;
    sizes->sums = run->options->accumulate > 1 ? sizes->gradients : 0;
    return status;
}

static void add_steps(cbm_memory_plan *plan, const step_sizes *sizes) {
    size_t gradients = sizes->gradients < sizes->graph ? sizes->gradients : sizes->graph;
    add(plan, "gradients", gradients);
    add(plan, "activations", sizes->graph - gradients);
    add(plan, "sums of gradients", sizes->sums);
    add(plan, "the optimizer", sizes->optimizer);
    add(plan, "passes without gradients", sizes->passes);
}

/* With masks there are other graphs; while new ones are chosen, scores and a second set of masks. */
static scbm_status plan_pruning(cbm_training_run *run, const cbm_memory_plan *start, step_sizes sizes,
                                cbm_memory_plan *plan) {
    cbm_prune_memory p;
    const cbm_prune_options *o = &run->options->prune;
    cbm_memory_plan steps = *start, pruning;
    if (start->limit != SIZE_MAX) {
        size_t taken = start->bytes + sizes.optimizer + sizes.sums + sizes.passes;
        run->prune_memory = start->limit > taken ? start->limit - taken : 1;
    }
    scbm_status status = cbm_run_open_pruning(run);
    if (status || !cbm_run_prunes(run)) return status;
    status = cbm_prune_measure(&run->pruning, &p);
    if (!status) status = cbm_masks_create(&run->network.backbone, run->network.heads.n_concepts, &run->hooks);
    if (!status) status = measure_passes(run, &sizes.passes);
    cbm_masks_remove(&run->network.backbone, &run->hooks);
    if (status) return status;
    sizes.graph = p.graph;
    steps.when = "training with masks";
    add_steps(&steps, &sizes);
    add(&steps, "masks", p.masks);
    pruning = steps;
    if (o->end == o->start) { /* the first pruning comes before the new graphs have been run */
        pruning = *start;
        add(&pruning, "the optimizer", sizes.optimizer);
        add(&pruning, "sums of gradients", sizes.sums);
        add(&pruning, "masks", p.masks);
    }
    pruning.when = "pruning";
    if (p.is_kept) add(&steps, p.what, p.of_method);
    add(&pruning, "new masks", p.masks);
    add(&pruning, p.what, p.of_method);
    add(&pruning, "scores", p.scores);
    add(&pruning, "gradients of pruning", p.gradients);
    if (run->options->epochs > o->start) take_greater(plan, &steps);
    take_greater(plan, &pruning);
    return SCBM_OK;
}

static scbm_status plan_teacher(cbm_training_run *run, const cbm_memory_plan *start, cbm_memory_plan *plan) {
    const char *path = run->options->teacher;
    cbm_memory_plan asking = *start;
    size_t bytes;
    if (!path) return SCBM_OK;
    scbm_status status = cbm_teacher_measure(path, &run->network.heads, run->train, &run->train_sequences, &run->hooks,
                                             &bytes);
    if (status) return status;
    asking.when = "asking the teacher";
    add(&asking, "the teacher", bytes);
    take_greater(plan, &asking);
    return SCBM_OK;
}

/* A checkpoint is as large as what it has: weights, moments, masks. */
static void plan_resuming(const cbm_training_run *run, const cbm_memory_plan *start, const step_sizes *sizes,
                          cbm_memory_plan *plan) {
    cbm_memory_plan reading = *start;
    scbm_file *file;
    if (!run->options->resume || !run->output) return;
    char path[4096];
    if (snprintf(path, sizeof path, "%s.checkpoint", run->output) >= (int)sizeof path) return;
    if (scbm_file_open(&file, path, &run->hooks)) return; /* where it goes on that says what is wrong */
    reading.when = "reading the checkpoint";
    add(&reading, "the checkpoint", scbm_file_size(file));
    add(&reading, "the optimizer", sizes->optimizer);
    scbm_file_close(file);
    take_greater(plan, &reading);
}

/* A run that has been measured is as it was. */
static void forget(cbm_training_run *run) {
    cbm_prune_close(&run->pruning);
    memset(&run->pruning, 0, sizeof run->pruning);
    scbm_release(&run->hooks, run->trained);
    scbm_release(&run->hooks, run->gradients);
    scbm_release(&run->hooks, run->learning);
    run->trained = run->gradients = run->learning = NULL;
    run->state.trained = NULL;
    run->state.n_trained = 0;
}

scbm_status cbm_memory_measure(cbm_training_run *run, const cbm_train_options *options, cbm_memory_plan *plan) {
    const cbm_train_options *before = run->options;
    cbm_memory_plan start;
    step_sizes sizes = {0};
    run->options = options;
    plan_start(run, &start);
    run->teacher.temperature = (float)options->temperature;
    scbm_status status = cbm_run_settle(run);
    if (!status) status = measure_steps(run, &sizes);
    *plan = start;
    plan->when = "training";
    add_steps(plan, &sizes);
    if (!status) status = plan_teacher(run, &start, plan);
    if (!status) plan_resuming(run, &start, &sizes, plan);
    if (!status) status = plan_pruning(run, &start, sizes, plan);
    forget(run);
    run->options = before;
    return status;
}

scbm_status cbm_run_plan_memory(cbm_training_run *run, cbm_memory_plan *plan) {
    scbm_status status = cbm_memory_measure(run, run->options, plan);
    size_t prune_memory = run->prune_memory;
    if (!status && plan->bytes > plan->limit) status = cbm_memory_advise(run, plan);
    run->prune_memory = prune_memory;
    return status;
}

/* "440.1 for weights, 812.0 for activations", in MiB, the largest first. */
static void list_parts(const cbm_memory_plan *plan, char *text, size_t size) {
    unsigned said = 0;
    size_t n = 0;
    text[0] = 0;
    for (int i = 0; i < plan->n_parts && n < size; i++) {
        int largest = -1;
        for (int j = 0; j < plan->n_parts; j++)
            if (!(said >> j & 1) && (largest < 0 || plan->part[j].bytes > plan->part[largest].bytes)) largest = j;
        said |= 1u << largest;
        n += (size_t)snprintf(text + n, size - n, "%s%.1f for %s", i ? ", " : "",
                              (double)plan->part[largest].bytes / MEBIBYTE, plan->part[largest].what);
    }
}

scbm_status cbm_run_check_memory(cbm_training_run *run) {
    cbm_memory_plan plan;
    char parts[512];
    scbm_status status = cbm_run_plan_memory(run, &plan);
    if (status) return status;
    double total = (double)plan.bytes / MEBIBYTE, limit = (double)plan.limit / MEBIBYTE;
    list_parts(&plan, parts, sizeof parts);
    if (plan.bytes > plan.limit)
        return scbm_fail(SCBM_ERROR_MEMORY, "training takes %.1f MiB of memory while %s, and may take %.1f: %s (%s)",
                         total, plan.when, limit, plan.advice, parts);
    if (run->options->on_memory) run->options->on_memory(run->options->user, &plan);
    return SCBM_OK;
}
