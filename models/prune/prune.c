/*
 * models/prune/prune.c - magnitude, random and second-order scores, and the choice of zeros
 */
#include "models/prune/fisher.h"
#include "models/prune/prune.h"
#include "models/base/memory.h"
#include "models/base/rank.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Options and schedule
 * ---------------------------------------------------------------------------------------- */

const char *cbm_prune_name(cbm_prune_method method) {
    static const char *const names[] = {"none", "obert", "magnitude", "popup", "popup-structured", "random"};
    return (unsigned)method < sizeof names / sizeof names[0] ? names[method] : NULL;
}

static scbm_status check_fisher(const cbm_prune_options *o) {
    if (o->fisher_block < 1 || o->fisher_block > 1024)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: Fisher blocks of %d weights; 1 to 1,024 are possible",
                         o->fisher_block);
    if (o->fisher_gradients < 0 || o->fisher_texts < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: %d gradients of %d texts", o->fisher_gradients,
                         o->fisher_texts);
    if (!(o->damping > 0) || !isfinite(o->damping))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the damping is %g, and must be positive", o->damping);
    return SCBM_OK;
}

scbm_status cbm_prune_check(const cbm_prune_options *o, cbm_mode mode, int epochs) {
    if (o->method == CBM_PRUNE_NONE) return SCBM_OK;
    if (!cbm_prune_name(o->method))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: method %d is unknown", (int)o->method);
    if (mode == CBM_VANILLA)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: a vanilla model has no concepts, and so no subnetworks");
    if (!(o->sparsity > 0 && o->sparsity < 1))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the sparsity is %g, and must lie between 0 and 1", o->sparsity);
    if (!(o->initial_sparsity >= 0 && o->initial_sparsity <= o->sparsity))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the initial sparsity is %g, and must lie between 0 and %g",
                         o->initial_sparsity, o->sparsity);
    if (o->start < 1 || o->end < o->start)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: from epoch %d to %d; epochs count from 1", o->start, o->end);
    if (epochs < o->end)
        return scbm_fail(
            SCBM_ERROR_ARGUMENT,
            "pruning: %d epochs end before the last pruning in epoch %d; train for more epochs or end it sooner",
            epochs, o->end);
    if (!(o->score_learning_rate >= 0) || !isfinite(o->score_learning_rate))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the scores' learning rate is %g", o->score_learning_rate);
    return o->method == CBM_PRUNE_OBERT ? check_fisher(o) : SCBM_OK;
}

double cbm_prune_sparsity(const cbm_prune_options *o, int64_t epoch) {
    if (o->method == CBM_PRUNE_NONE || epoch < o->start) return 0.0;
    if (epoch >= o->end) return o->sparsity;
    double way = (double)(epoch - o->start) / (double)(o->end - o->start);
    return o->initial_sparsity + way * (o->sparsity - o->initial_sparsity);
}

int64_t cbm_prune_zeros(int64_t n, double sparsity) {
    int64_t zeros = (int64_t)floor(sparsity * (double)n + 0.5);
    return zeros < 0 ? 0 : zeros > n ? n : zeros;
}

/* ------------------------------------------------------------------------------------------
 * The choice of zeros
 * ---------------------------------------------------------------------------------------- */

/* Keys of a stream's weights: 0 for those that are off. */
static void fill_keys(const scbm_tensor *masks, int stream, int64_t in, const double *score, uint64_t *keys) {
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        const uint8_t *bits = cbm_mask_row(masks, stream, row);
        for (int64_t j = 0; j < in; j++)
            keys[row * in + j] = cbm_mask_get(bits, j) ? cbm_rank_key(score[row * in + j]) : 0;
    }
}

/* Whether a weight goes, walked in order: `ties` counts down the weights of the threshold's own key that go. */
static int goes(uint64_t key, uint64_t threshold, int64_t *ties) {
    return key < threshold || (key == threshold && (*ties)-- > 0);
}

void cbm_prune_select(scbm_tensor *masks, int stream, int64_t in, const double *score, int64_t zeros, uint64_t *keys) {
    int64_t n = masks->shape[1] * in, n_smaller = 0;
    if (zeros <= 0) return;
    fill_keys(masks, stream, in, score, keys);
    uint64_t threshold = zeros < n ? cbm_key_of_rank(keys, n, zeros - 1, &n_smaller) : UINT64_MAX;
    int64_t ties = zeros - n_smaller;
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        uint8_t *bits = cbm_mask_row(masks, stream, row);
        for (int64_t j = 0; j < in; j++)
            if (goes(keys[row * in + j], threshold, &ties)) cbm_mask_set(bits, j, 0);
    }
}

/* Of the weights that stream keeps, the number that the choice by `score` would keep too, had it started from the masks
 * in `keys` (filled by fill_keys with that score). */
static int64_t count_agreeing(const scbm_tensor *masks, int stream, int64_t in, const uint64_t *keys, int64_t zeros) {
    int64_t n = masks->shape[1] * in, n_smaller = 0, agreeing = 0;
    if (zeros <= 0) return n;
    uint64_t threshold = zeros < n ? cbm_key_of_rank(keys, n, zeros - 1, &n_smaller) : UINT64_MAX;
    int64_t ties = zeros - n_smaller;
    for (int64_t row = 0; row < masks->shape[1]; row++) {
        const uint8_t *bits = cbm_mask_row(masks, stream, row);
        for (int64_t j = 0; j < in; j++)
            agreeing += !goes(keys[row * in + j], threshold, &ties) && cbm_mask_get(bits, j);
    }
    return agreeing;
}

/* ------------------------------------------------------------------------------------------
 * Setting the masks
 * ---------------------------------------------------------------------------------------- */

/* One task for each matrix of a group and concept; each worker has arrays of its own. */
typedef struct mask_run {
    const cbm_prune_job *job;
    cbm_fisher *fisher;        /* NULL: magnitude or random */
    cbm_parameter **parameter; /* of the group */
    int n, n_streams;
    int first;       /* the group's first matrix among all, for random scores */
    int64_t largest; /* weights of the largest matrix */
    double sparsity, n_gradients;
    int64_t epoch;
    double **score; /* [workers] */
    uint64_t **keys;
    int64_t *agreeing, *kept; /* [matrices, K] */
} mask_run;

static size_t scores_size(const mask_run *r) {
    return (size_t)r->largest + (r->job->options->method == CBM_PRUNE_OBERT ? cbm_fisher_scratch(r->job->options) : 0);
}

static void score_magnitude(const scbm_tensor *weight, double *score) {
    const float *w = weight->data;
    for (int64_t i = 0; i < scbm_tensor_elements(weight); i++) score[i] = fabs((double)w[i]);
}

#define RANDOM_PRUNE UINT64_C(0xffff0010)

static void score_random(const mask_run *r, int matrix, int stream, int64_t n, double *score) {
    uint64_t place = (uint64_t)(r->first + matrix) * 4096 + (uint64_t)stream;
    scbm_random random = {r->job->seed, RANDOM_PRUNE << 32 | (uint64_t)r->epoch, place << 32};
    for (int64_t i = 0; i < n; i++) score[i] = scbm_random_uniform(&random);
}

static void mask_task(void *arg, int64_t index, int worker) {
    const mask_run *r = arg;
    int matrix = (int)(index / r->n_streams), stream = (int)(index % r->n_streams);
    cbm_parameter *parameter = r->parameter[matrix];
    scbm_tensor *masks = parameter->masks;
    int64_t in = parameter->tensor->shape[1], n = scbm_tensor_elements(parameter->tensor);
    int64_t zeros = cbm_prune_zeros(n, r->sparsity);
    double *score = r->score[worker];
    uint64_t *keys = r->keys[worker], *before = keys + r->largest;
    score_magnitude(parameter->tensor, score);
    fill_keys(masks, stream, in, score, before);
    if (r->fisher) cbm_fisher_scores(r->fisher, &r->fisher->matrix[matrix], stream, r->n_gradients, score, score + n);
    else if (r->job->options->method == CBM_PRUNE_RANDOM) score_random(r, matrix, stream, n, score);
    if (r->job->on_scores) r->job->on_scores(r->job->on_scores_user, parameter->tensor, stream, score);
    cbm_prune_select(masks, stream, in, score, zeros, keys);
    r->agreeing[index] = count_agreeing(masks, stream, in, before, zeros);
    r->kept[index] = n - zeros;
}

static void clear_arrays(mask_run *r) {
    const scbm_hooks *hooks = r->job->hooks;
    int workers = scbm_context_workers(r->job->context);
    for (int i = 0; i < workers; i++) {
        if (r->score) scbm_release(hooks, r->score[i]);
        if (r->keys) scbm_release(hooks, r->keys[i]);
    }
    scbm_release(hooks, r->score);
    scbm_release(hooks, r->keys);
    scbm_release(hooks, r->agreeing);
    scbm_release(hooks, r->kept);
}

static scbm_status create_arrays(mask_run *r, int n_matrices) {
    const scbm_hooks *hooks = r->job->hooks;
    int workers = scbm_context_workers(r->job->context);
    size_t counts = (size_t)n_matrices * (size_t)r->n_streams;
    r->score = scbm_alloc_array(hooks, (size_t)workers, sizeof *r->score);
    r->keys = scbm_alloc_array(hooks, (size_t)workers, sizeof *r->keys);
    r->agreeing = scbm_alloc_array(hooks, counts, sizeof *r->agreeing);
    r->kept = scbm_alloc_array(hooks, counts, sizeof *r->kept);
    if (!r->score || !r->keys || !r->agreeing || !r->kept) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < workers; i++) {
        r->score[i] = scbm_alloc_array(hooks, scores_size(r), sizeof **r->score);
        r->keys[i] = scbm_alloc_array(hooks, 2 * (size_t)r->largest, sizeof **r->keys);
        if (!r->score[i] || !r->keys[i]) return SCBM_ERROR_MEMORY;
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Gradients
 * ---------------------------------------------------------------------------------------- */

#define RANDOM_FISHER UINT64_C(0xffff0011)

static int64_t gradient_batch(const cbm_prune_job *job) {
    int64_t n = job->options->fisher_texts ? job->options->fisher_texts : job->batch_size;
    return n < (int64_t)job->data->n ? n : (int64_t)job->data->n;
}

static int64_t gradient_count(const cbm_prune_options *o) {
    return o->fisher_gradients ? o->fisher_gradients : 4 * (int64_t)o->fisher_block;
}

/* One shuffle of the data after the other, cut into batches. */
scbm_status cbm_prune_draw(const cbm_prune_job *job, int64_t epoch, int32_t **rows, int64_t *n_batches, int64_t *size) {
    int64_t n = (int64_t)job->data->n, batch = gradient_batch(job), wanted = batch * gradient_count(job->options);
    *n_batches = gradient_count(job->options);
    *size = batch;
    int32_t *order = scbm_alloc_array(job->hooks, (size_t)n, sizeof *order);
    *rows = scbm_alloc_array(job->hooks, (size_t)wanted, sizeof **rows);
    if (!order || !*rows) {
        scbm_release(job->hooks, order);
        return SCBM_ERROR_MEMORY;
    }
    scbm_random random = {job->seed, RANDOM_FISHER << 32 | (uint64_t)epoch, 0};
    for (int64_t done = 0; done < wanted;) {
        int64_t take = n / batch * batch;
        for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
        scbm_random_shuffle(&random, order, n);
        if (take > wanted - done) take = wanted - done;
        memcpy(*rows + done, order, (size_t)take * sizeof *order);
        done += take;
    }
    scbm_release(job->hooks, order);
    return SCBM_OK;
}

static int64_t largest_batch(const cbm_prune_job *job, const int32_t *rows) {
    int64_t batch = gradient_batch(job), largest = 0;
    for (int64_t i = 0; i < gradient_count(job->options); i++) {
        int64_t tokens = 0;
        for (int64_t j = 0; j < batch; j++) tokens += cbm_sequence_length(job->sequences, (size_t)rows[i * batch + j]);
        if (tokens > largest) largest = tokens;
    }
    return largest;
}

/* Runs every minibatch forward and backward; the gradients of the group's weights go to the Fisher matrices. */
static scbm_status collect_gradients(const cbm_prune_job *job, cbm_fisher *f, const int32_t *rows,
                                     scbm_tensor *const *weights, int64_t done, int64_t total) {
    cbm_training_settings settings = *job->settings;
    cbm_training_graph graph;
    int64_t batch = gradient_batch(job), n = gradient_count(job->options);
    settings.hidden_dropout = settings.attention_dropout = 0.0f;
    settings.mixup = 0;
    settings.teacher = NULL;
    settings.states = NULL;
    settings.max_tokens = largest_batch(job, rows);
    settings.max_texts = batch;
    settings.weight_gradients = SCBM_DW_MASKED;
    settings.only = weights;
    settings.n_only = f->n;
    settings.on_gradient = cbm_fisher_add;
    settings.on_gradient_user = f;
    scbm_status status = cbm_training_graph_create(&graph, job->network, job->context, &settings);
    if (status) return status;
    for (int64_t i = 0; i < n && !status; i++) {
        int64_t tokens = cbm_training_fill(&graph, job->network, job->sequences, job->data, rows + i * batch, batch,
                                           NULL, 1.0f);
        status = scbm_graph_run(graph.graph, tokens, batch);
        if (!status && !isfinite(*(const float *)graph.loss->data))
            status = scbm_fail(SCBM_ERROR_NUMERIC, "pruning: the loss of a batch is not finite");
        if (!status && job->hooks && job->hooks->progress &&
            job->hooks->progress(job->hooks->user, "prune", done + i + 1, total))
            status = scbm_fail(SCBM_ERROR_CANCELLED, "cancelled while pruning");
    }
    cbm_training_graph_clear(&graph, job->hooks);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Groups of matrices, so that their Fisher matrices fit into memory
 * ---------------------------------------------------------------------------------------- */

#define DEFAULT_FISHER_MEMORY ((size_t)4 << 30)
#define MEBIBYTE 1048576.0

static size_t available_memory(const cbm_prune_job *job) {
    return job->available_memory ? job->available_memory : cbm_memory_available(NULL);
}

/* What a group's Fisher matrices may take. */
static size_t memory_limit(const cbm_prune_job *job) {
    size_t quarter = available_memory(job) / 4;
    if (job->options->fisher_memory) return job->options->fisher_memory;
    return quarter < DEFAULT_FISHER_MEMORY ? quarter : DEFAULT_FISHER_MEMORY;
}

/* How many of the parameters from `first` on make the next group, and what it takes: at least one. */
static int next_group(const cbm_prune_options *o, size_t limit, cbm_parameter **parameter, int first, int n,
                      int n_streams, size_t *bytes) {
    int end = first;
    *bytes = 0;
    while (end < n) {
        size_t more = cbm_fisher_bytes(o, parameter[end]->tensor, n_streams);
        if (end > first && *bytes + more > limit) break;
        *bytes += more;
        end++;
    }
    return end - first;
}

static int collect_parameters(const cbm_backbone *backbone, cbm_parameter **parameter) {
    int n = 0;
    for (int i = 0; i < backbone->n_parameters; i++) {
        if (!cbm_is_prunable(&backbone->parameters[i])) continue;
        if (parameter) parameter[n] = &backbone->parameters[i];
        n++;
    }
    return n;
}

/* Whether every matrix keeps something in the end. */
static scbm_status check_sparsity(const cbm_prune_options *o, cbm_parameter *const *parameter, int n) {
    for (int i = 0; i < n; i++) {
        const scbm_tensor *weight = parameter[i]->tensor;
        int by_rows = o->method == CBM_PRUNE_POPUP_STRUCTURED;
        int64_t units = by_rows ? weight->shape[0] : scbm_tensor_elements(weight);
        if (cbm_prune_zeros(units, o->sparsity) == units)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: a sparsity of %g leaves nothing of %s, which has %lld %s",
                             o->sparsity, weight->name, (long long)units, by_rows ? "rows" : "weights");
    }
    return SCBM_OK;
}

typedef struct fisher_plan {
    int n_groups;
    size_t largest, single, scratch; /* bytes: the largest group's, the largest matrix's, the scores' of all threads */
} fisher_plan;

static fisher_plan plan_groups(const cbm_prune_job *job, cbm_parameter **parameter, int n, int n_streams) {
    fisher_plan plan = {0, 0, 0, 0};
    size_t limit = memory_limit(job);
    for (int first = 0; first < n; plan.n_groups++) {
        size_t bytes;
        first += next_group(job->options, limit, parameter, first, n, n_streams, &bytes);
        if (bytes > plan.largest) plan.largest = bytes;
    }
    for (int i = 0; i < n; i++) {
        size_t bytes = cbm_fisher_bytes(job->options, parameter[i]->tensor, n_streams);
        size_t scores = (size_t)scbm_tensor_elements(parameter[i]->tensor) * (sizeof(double) + 2 * sizeof(uint64_t));
        if (bytes > plan.single) plan.single = bytes;
        if (scores > plan.scratch) plan.scratch = scores;
    }
    plan.scratch += cbm_fisher_scratch(job->options) * sizeof(double);
    plan.scratch *= (size_t)scbm_context_workers(job->context);
    return plan;
}

static scbm_status refuse_plan(const fisher_plan *plan, size_t available, int block) {
    double free_mib = (double)available / MEBIBYTE, scratch_mib = (double)plan->scratch / MEBIBYTE;
    if (plan->single + plan->scratch > available)
        return scbm_fail(SCBM_ERROR_MEMORY,
                         "pruning: one layer's Fisher matrices take %.1f MiB and the scores %.1f MiB, and %.1f MiB are "
                         "free; a --fisher-block smaller than %d takes less",
                         (double)plan->single / MEBIBYTE, scratch_mib, free_mib, block);
    return scbm_fail(
        SCBM_ERROR_MEMORY,
        "pruning: a group of layers' Fisher matrices take %.1f MiB and the scores %.1f MiB, and %.1f MiB are "
        "free; --fisher-memory %.0f makes groups that fit",
        (double)plan->largest / MEBIBYTE, scratch_mib, free_mib,
        fmax(1.0, floor((double)(available - plan->scratch) / MEBIBYTE)));
}

scbm_status cbm_prune_plan(const cbm_prune_job *job, int n_streams) {
    const cbm_prune_options *o = job->options;
    int n = collect_parameters(&job->network->backbone, NULL);
    cbm_parameter **parameter = scbm_alloc_array(job->hooks, (size_t)n, sizeof *parameter);
    if (!parameter) return SCBM_ERROR_MEMORY;
    collect_parameters(&job->network->backbone, parameter);
    scbm_status status = check_sparsity(o, parameter, n);
    if (!status && o->method == CBM_PRUNE_OBERT) {
        fisher_plan plan = plan_groups(job, parameter, n, n_streams);
        size_t available = available_memory(job);
        if (plan.largest + plan.scratch > available) status = refuse_plan(&plan, available, o->fisher_block);
        else
            scbm_log(
                job->hooks, SCBM_LOG_INFO,
                "pruning will take %.1f MiB for Fisher matrices and %.1f MiB for scores: %d matrices in %d group%s, "
                "%lld gradients of %lld texts for each group",
                (double)plan.largest / MEBIBYTE, (double)plan.scratch / MEBIBYTE, n, plan.n_groups,
                plan.n_groups == 1 ? "" : "s", (long long)gradient_count(o), (long long)gradient_batch(job));
    }
    scbm_release(job->hooks, parameter);
    return status;
}

/* The masks of all groups change at the end, so that every group's gradients are those of the same network: a group's
 * new masks wait in `after`. */
typedef struct mask_copy {
    scbm_tensor *masks;
    uint8_t *before, *after;
} mask_copy;

static scbm_status copy_masks(mask_copy *copy, scbm_tensor *masks, const scbm_hooks *hooks) {
    size_t bytes = scbm_tensor_bytes(masks);
    copy->masks = masks;
    copy->before = scbm_alloc_array(hooks, bytes, 1);
    copy->after = scbm_alloc_array(hooks, bytes, 1);
    if (!copy->before || !copy->after) return SCBM_ERROR_MEMORY;
    memcpy(copy->before, masks->data, bytes);
    return SCBM_OK;
}

static scbm_status prune_group(mask_run *r, int first, int n, const int32_t *rows, int64_t done, int64_t total,
                               mask_copy *copies) {
    const cbm_prune_job *job = r->job;
    cbm_fisher f = {.hooks = job->hooks};
    scbm_tensor **weights = scbm_alloc_array(job->hooks, (size_t)n, sizeof *weights);
    scbm_status status = SCBM_ERROR_MEMORY;
    if (weights) status = cbm_fisher_create(&f, job->context, job->options, r->parameter, n, r->n_streams, job->hooks);
    for (int i = 0; i < n && !status; i++) weights[i] = r->parameter[i]->tensor;
    if (!status) status = collect_gradients(job, &f, rows, weights, done, total);
    if (!status) {
        r->fisher = &f;
        r->first = first;
        r->n = n;
        scbm_parallel(job->context, (int64_t)n * r->n_streams, mask_task, r);
    }
    for (int i = 0; i < n && !status; i++) { /* set aside; the next group's gradients are of the old masks */
        scbm_tensor *masks = copies[i].masks;
        memcpy(copies[i].after, masks->data, scbm_tensor_bytes(masks));
        memcpy(masks->data, copies[i].before, scbm_tensor_bytes(masks));
        masks->generation++;
    }
    cbm_fisher_clear(&f);
    scbm_release(job->hooks, weights);
    return status;
}

static void sum_report(const mask_run *r, int64_t n, int64_t sums[2]) {
    for (int64_t i = 0; i < n; i++) {
        sums[0] += r->agreeing[i];
        sums[1] += r->kept[i];
    }
}

static scbm_status prune_second_order(mask_run *r, cbm_parameter **parameter, int n, cbm_prune_report *report) {
    const cbm_prune_job *job = r->job;
    int32_t *rows = NULL;
    int64_t sums[2] = {0, 0}, done = 0, total = 0, n_batches, batch;
    mask_copy *copies = scbm_alloc_array(job->hooks, (size_t)n, sizeof *copies);
    scbm_status status = copies ? cbm_prune_draw(job, r->epoch, &rows, &n_batches, &batch) : SCBM_ERROR_MEMORY;
    size_t limit = memory_limit(job);
    r->n_gradients = (double)gradient_count(job->options);
    if (!status) status = create_arrays(r, n);
    for (int i = 0; i < n && !status; i++) status = copy_masks(&copies[i], parameter[i]->masks, job->hooks);
    for (int first = 0; first < n; total += gradient_count(job->options)) {
        size_t bytes;
        first += next_group(job->options, limit, parameter, first, n, r->n_streams, &bytes);
    }
    for (int first = 0; first < n && !status;) {
        size_t bytes;
        int count = next_group(job->options, limit, parameter, first, n, r->n_streams, &bytes);
        r->parameter = parameter + first;
        status = prune_group(r, first, count, rows, done, total, copies + first);
        if (!status) sum_report(r, (int64_t)count * r->n_streams, sums);
        report->n_groups++;
        if (bytes > report->bytes) report->bytes = bytes;
        done += gradient_count(job->options);
        first += count;
    }
    for (int i = 0; i < n && copies; i++) {
        if (!status) {
            memcpy(copies[i].masks->data, copies[i].after, scbm_tensor_bytes(copies[i].masks));
            copies[i].masks->generation++;
        }
        scbm_release(job->hooks, copies[i].before);
        scbm_release(job->hooks, copies[i].after);
    }
    report->magnitude_overlap = sums[1] ? (double)sums[0] / (double)sums[1] : 1.0;
    scbm_release(job->hooks, copies);
    scbm_release(job->hooks, rows);
    return status;
}

static scbm_status prune_first_order(mask_run *r, cbm_parameter **parameter, int n, cbm_prune_report *report) {
    int64_t sums[2] = {0, 0};
    scbm_status status = create_arrays(r, n);
    if (status) return status;
    r->parameter = parameter;
    r->n = n;
    scbm_parallel(r->job->context, (int64_t)n * r->n_streams, mask_task, r);
    for (int i = 0; i < n; i++) parameter[i]->masks->generation++;
    sum_report(r, (int64_t)n * r->n_streams, sums);
    report->magnitude_overlap = sums[1] ? (double)sums[0] / (double)sums[1] : 1.0;
    return SCBM_OK;
}

scbm_status cbm_prune_epoch(const cbm_prune_job *job, int64_t epoch, cbm_prune_report *report) {
    const cbm_backbone *backbone = &job->network->backbone;
    int n = collect_parameters(backbone, NULL);
    memset(report, 0, sizeof *report);
    mask_run run = {.job = job, .n_streams = cbm_masks_streams(backbone), .epoch = epoch};
    if (!n || !run.n_streams) return scbm_fail(SCBM_ERROR_ARGUMENT, "pruning: the network has no masks");
    run.sparsity = report->sparsity = cbm_prune_sparsity(job->options, epoch);
    cbm_parameter **parameter = scbm_alloc_array(job->hooks, (size_t)n, sizeof *parameter);
    if (!parameter) return SCBM_ERROR_MEMORY;
    collect_parameters(backbone, parameter);
    for (int i = 0; i < n; i++) {
        int64_t weights = scbm_tensor_elements(parameter[i]->tensor);
        if (weights > run.largest) run.largest = weights;
    }
    scbm_status status = job->options->method == CBM_PRUNE_OBERT ? prune_second_order(&run, parameter, n, report)
                                                                 : prune_first_order(&run, parameter, n, report);
    clear_arrays(&run);
    scbm_release(job->hooks, parameter);
    return status;
}
