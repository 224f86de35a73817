/*
 * tests/dump.c - what a model computes on the way to its loss, for the comparison with PyTorch
 *
 *     dump --model MODEL --data FILE --text COLUMN --label COLUMN --concept NAME=COLUMN ... --rows N -o OUT.gguf
 *
 * runs the training graph of a joint model on the first N rows, as one batch, without dropout and with λ = 5, and
 * writes a GGUF file of F32 tensors: hidden.0 (the embeddings), hidden.1 … (each block's output) [tokens, d], packed;
 * pooled [N, d]; concept_logits [N, C]; label_logits [N, Y]; loss [1]; and grad.NAME of every parameter NAME. In a
 * sparse model hidden states from the first block on, and pooled, are [K, …]. `--precision bf16`: its products are.
 *
 * `--gradients masked|dense`: grad.NAME of a prunable matrix is that of W ⊙ M_k, stream by stream: [K, out, in].
 *
 * `--prune METHOD --sparsity X`: prunes the model (one without masks starts from ones) and writes, for each prunable
 * weight NAME, masks.NAME, score.NAME [K, out, in], and of obert gradient.NAME [m, K, out, in], rows I32 [m, texts of a
 * minibatch] and report [2]: the overlap with magnitude's choice, and the number of groups.
 *
 * `--prune popup|popup-structured --sparsity X --steps N`: N steps of learned scores on the first rows, the weights
 * frozen: score.NAME and masks.NAME [N + 1, K, out, …], gradient.NAME [N, K, out, in] of the scores and
 * weight_gradient.NAME [N, out, in].
 *
 * `--intervene CONCEPT=CLASS --rule signed|whole|abs --portion X --steps N`: a mask intervention (whole: signed, with whole
 * steps) on the text of row N − 1 of `--rows N`: before and after [C + Y], the concepts' logits and the label's; masks.NAME
 * [1, out, row bytes] afterwards; counts I32 [4]: steps, whether it succeeded, bits that moved, and all bits; portion, of the
 * last step, a double's bits in I32 [2].
 */
#include "models/data/classes.h"
#include "models/intervene/intervene.h"
#include "models/prune/fisher.h"
#include "models/prune/popup.h"
#include "models/train/graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONCEPTS 64

typedef struct arguments {
    const char *model, *data, *text, *label, *output;
    const char *gradients, *precision, *prune, *intervene, *rule;
    cbm_concept_column concepts[MAX_CONCEPTS];
    int n_concepts;
    double rows, seed, sparsity, fisher_block, fisher_gradients, fisher_texts, fisher_memory, damping, damping_absolute;
    double steps, score_lr, portion;
} arguments;

/* A tensor that is written, under its name there. */
typedef struct dumped {
    scbm_tensor tensor;
    int is_owned; /* its data is the dump's own */
} dumped;

/* What a run holds; zero-initialized, cleared by clear(). */
typedef struct run {
    const arguments *arguments;
    cbm_model *model;
    cbm_network network; /* a copy with masks, where the masks change */
    scbm_context *context;
    cbm_dataset data;
    cbm_sequences sequences;
    cbm_training_graph training;
    cbm_training_settings settings; /* of the gradients that pruning asks for */
    cbm_prune_options prune_options;
    cbm_prune_run pruning;
    cbm_context *predictions;
    scbm_tensor **states; /* [blocks + 1] */
    dumped *dumped;
    size_t n_dumped, capacity;
    int64_t step; /* of the gradients that are being stored */
} run;

/* "name=column", or "name" for both; cuts the argument. */
static cbm_concept_column split_concept(char *argument) {
    char *column = strchr(argument, '=');
    if (column) *column++ = 0;
    return (cbm_concept_column){argument, column ? column : argument};
}

static scbm_status parse(arguments *a, int argc, char **argv) {
    const struct {
        const char *name, **text;
        double *number;
    } options[] = {{"--model", &a->model, NULL},
                   {"--data", &a->data, NULL},
                   {"--text", &a->text, NULL},
                   {"--label", &a->label, NULL},
                   {"-o", &a->output, NULL},
                   {"--gradients", &a->gradients, NULL},
                   {"--precision", &a->precision, NULL},
                   {"--prune", &a->prune, NULL},
                   {"--intervene", &a->intervene, NULL},
                   {"--rule", &a->rule, NULL},
                   {"--rows", NULL, &a->rows},
                   {"--seed", NULL, &a->seed},
                   {"--sparsity", NULL, &a->sparsity},
                   {"--fisher-block", NULL, &a->fisher_block},
                   {"--fisher-gradients", NULL, &a->fisher_gradients},
                   {"--fisher-texts", NULL, &a->fisher_texts},
                   {"--fisher-memory", NULL, &a->fisher_memory},
                   {"--damping", NULL, &a->damping},
                   {"--damping-absolute", NULL, &a->damping_absolute},
                   {"--steps", NULL, &a->steps},
                   {"--score-lr", NULL, &a->score_lr},
                   {"--portion", NULL, &a->portion}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0, n = sizeof options / sizeof options[0];
        if (i + 1 == argc) return scbm_fail(SCBM_ERROR_ARGUMENT, "%s wants a value", argv[i]);
        while (k < n && strcmp(argv[i], options[k].name) != 0) k++;
        if (k < n && options[k].text) *options[k].text = argv[i + 1];
        else if (k < n) *options[k].number = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--concept") == 0 && a->n_concepts < MAX_CONCEPTS)
            a->concepts[a->n_concepts++] = split_concept(argv[i + 1]);
        else return scbm_fail(SCBM_ERROR_ARGUMENT, "%s is no option, or one concept too many", argv[i]);
    }
    if (!a->model || !a->data || !a->text || !a->label || !a->output || a->rows < 1)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "--model, --data, --text, --label, --rows and -o are required");
    return SCBM_OK;
}

/* The data set with the model's classes, and its texts as token ids. */
static scbm_status read_data(run *r, const arguments *a) {
    cbm_dataset_options options;
    memset(&options, 0, sizeof options);
    options.paths = &a->data;
    options.n_paths = 1;
    options.text = a->text;
    options.label = a->label;
    options.concepts = a->concepts;
    options.n_concepts = a->n_concepts;
    options.drop_labels = (const char *const[]){"no majority"};
    options.n_drop_labels = 1;
    scbm_status status = cbm_dataset_read(&r->data, &options, NULL);
    const cbm_names names = cbm_heads_names(&r->model->network.heads);
    if (!status) status = cbm_dataset_check_names(&r->data, &names, a->data);
    if (!status && r->data.n < (size_t)a->rows)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s has %zu rows, and %lld were asked for", a->data, r->data.n,
                           (long long)a->rows);
    if (status) return status;
    return cbm_sequences_add_texts(&r->sequences, r->model->tokenizer, (const char *const *)r->data.text,
                                   r->data.text_length, r->data.n, cbm_model_max_tokens(r->model), NULL);
}

/* ------------------------------------------------------------------------------------------
 * What is written
 * ---------------------------------------------------------------------------------------- */

/* Adds a tensor to those that are written. `data` NULL: zeros that are the dump's own. Returns it, or NULL. */
static scbm_tensor *add(run *r, const char *prefix, const char *name, scbm_type type, int n_dims, const int64_t *shape,
                        void *data) {
    char full[SCBM_MAX_NAME];
    if (snprintf(full, sizeof full, "%s%s", prefix, name) >= (int)sizeof full) {
        scbm_fail(SCBM_ERROR_ARGUMENT, "the name %s%s is too long", prefix, name);
        return NULL;
    }
    if (scbm_grow(NULL, (void **)&r->dumped, &r->capacity, r->n_dumped + 1, sizeof *r->dumped)) return NULL;
    dumped *place = &r->dumped[r->n_dumped];
    if (scbm_tensor_init(&place->tensor, full, type, n_dims, shape)) return NULL;
    place->is_owned = !data;
    place->tensor.data = data ? data : scbm_alloc(NULL, scbm_tensor_bytes(&place->tensor));
    if (!place->tensor.data) return NULL;
    r->n_dumped++;
    return &place->tensor;
}

static scbm_tensor *find(const run *r, const char *prefix, const char *name) {
    size_t length = strlen(prefix);
    for (size_t i = 0; i < r->n_dumped; i++)
        if (strncmp(r->dumped[i].tensor.name, prefix, length) == 0 &&
            strcmp(r->dumped[i].tensor.name + length, name) == 0)
            return &r->dumped[i].tensor;
    return NULL;
}

/* A tensor as it is, without the leading dimension of a single stream. */
static scbm_status add_result(run *r, const scbm_tensor *source, const char *prefix, const char *name) {
    int skip = source->n_dims == 3 && source->shape[0] == 1;
    return add(r, prefix, name, source->type, source->n_dims - skip, source->shape + skip, source->data)
               ? SCBM_OK
               : SCBM_ERROR_MEMORY;
}

/* Writes `source` into part `index` of a tensor whose first dimension counts parts. */
static scbm_status store(const run *r, const char *prefix, const char *name, int64_t index, const void *source) {
    scbm_tensor *tensor = find(r, prefix, name);
    if (!tensor) return SCBM_OK;
    size_t bytes = scbm_tensor_bytes(tensor) / (size_t)tensor->shape[0];
    memcpy((char *)tensor->data + (size_t)index * bytes, source, bytes);
    return SCBM_OK;
}

/* Adds PREFIX.NAME for every prunable weight: [n_parts, K, out, in], or without the parts (0), or without the K. */
static scbm_status add_for_weights(run *r, const char *prefix, int64_t n_parts, int n_streams) {
    const cbm_backbone *backbone = &r->network.backbone;
    for (int i = 0; i < backbone->n_parameters; i++) {
        const scbm_tensor *weight = backbone->parameters[i].tensor;
        if (!cbm_is_prunable(&backbone->parameters[i])) continue;
        const int64_t shape[4] = {n_parts, n_streams, weight->shape[0], weight->shape[1]};
        const int64_t summed[3] = {n_parts, weight->shape[0], weight->shape[1]};
        scbm_tensor *made = !n_streams ? add(r, prefix, weight->name, SCBM_F32, 3, summed, NULL)
                            : n_parts  ? add(r, prefix, weight->name, SCBM_F32, 4, shape, NULL)
                                       : add(r, prefix, weight->name, SCBM_F32, 3, shape + 1, NULL);
        if (!made) return SCBM_ERROR_MEMORY;
    }
    return SCBM_OK;
}

static scbm_status add_masks(run *r, int64_t n_parts) {
    const cbm_backbone *backbone = &r->network.backbone;
    for (int i = 0; i < backbone->n_parameters; i++) {
        const scbm_tensor *masks = backbone->parameters[i].masks, *weight = backbone->parameters[i].tensor;
        if (!masks) continue;
        const int64_t shape[4] = {n_parts, masks->shape[0], masks->shape[1], masks->shape[2]};
        scbm_tensor *made = n_parts ? add(r, "masks.", weight->name, SCBM_I8, 4, shape, NULL)
                                    : add(r, "masks.", weight->name, SCBM_I8, 3, shape + 1, masks->data);
        if (!made) return SCBM_ERROR_MEMORY;
    }
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * Loss and gradients
 * ---------------------------------------------------------------------------------------- */

static int64_t count_tokens(const run *r, const int32_t *row, int64_t n) {
    int64_t tokens = 0;
    for (int64_t i = 0; i < n; i++) tokens += cbm_sequence_length(&r->sequences, (size_t)row[i]);
    return tokens;
}

static cbm_training_settings training_settings(int64_t max_tokens, int64_t max_texts) {
    cbm_training_settings settings;
    memset(&settings, 0, sizeof settings);
    settings.concept_weight = 5.0f;
    settings.max_tokens = max_tokens;
    settings.max_texts = max_texts;
    return settings;
}

static scbm_status run_batch(run *r, const cbm_network *network, const int32_t *row, int64_t n) {
    int64_t tokens = cbm_training_fill(&r->training, network, &r->sequences, &r->data, row, n, NULL, 0.0f);
    return scbm_graph_run(r->training.graph, tokens, n);
}

/* 0, 1, … */
static int32_t *first_rows(int64_t n) {
    int32_t *row = scbm_alloc_array(NULL, (size_t)n, sizeof *row);
    for (int64_t i = 0; row && i < n; i++) row[i] = (int32_t)i;
    return row;
}

static scbm_status gradient_mode(const char *name, scbm_dw_mode *mode) {
    static const char *const names[] = {"summed", "masked", "dense"};
    for (int i = 0; i < 3; i++) {
        *mode = (scbm_dw_mode)i;
        if (!name || strcmp(name, names[i]) == 0) return SCBM_OK;
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT, "gradients are summed, masked or dense, and not %s", name);
}

static scbm_status collect(run *r) {
    const cbm_training_graph *t = &r->training;
    const struct {
        const char *name;
        const scbm_tensor *tensor;
    } results[] = {{"pooled", t->pooled},
                   {"concept_logits", t->concept_logits},
                   {"label_logits", t->label_logits},
                   {"loss", t->loss}};
    scbm_status status = SCBM_OK;
    for (int i = 0; i <= r->model->network.backbone.n_blocks && !status; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        status = add_result(r, r->states[i], "hidden.", number);
    }
    for (size_t i = 0; i < sizeof results / sizeof results[0] && !status; i++)
        status = add_result(r, results[i].tensor, "", results[i].name);
    for (int i = 0; i < t->n_parameters && !status; i++)
        status = add_result(r, t->gradients[i], "grad.", t->parameters[i]->name);
    return status;
}

/* Runs the graph on the first rows; its capacity is this batch, so that every tensor's shape is the batch's. */
static scbm_status compute(run *r) {
    const cbm_network *network = &r->model->network;
    int64_t rows = (int64_t)r->arguments->rows;
    int32_t *row = first_rows(rows);
    r->states = scbm_alloc_array(NULL, (size_t)network->backbone.n_blocks + 1, sizeof *r->states);
    if (!row || !r->states) return SCBM_ERROR_MEMORY;
    cbm_training_settings settings = training_settings(count_tokens(r, row, rows), rows);
    settings.states = r->states;
    scbm_status status = gradient_mode(r->arguments->gradients, &settings.weight_gradients);
    if (!status && r->arguments->precision) status = scbm_precision_parse(r->arguments->precision, &settings.precision);
    if (!status) status = cbm_training_graph_create(&r->training, network, r->context, &settings);
    if (!status) status = run_batch(r, network, row, rows);
    scbm_release(NULL, row);
    return status ? status : collect(r);
}

/* ------------------------------------------------------------------------------------------
 * Pruning
 * ---------------------------------------------------------------------------------------- */

/* A network whose masks can change: the model's weights and masks, copied. */
static scbm_status copy_network(run *r) {
    const cbm_network *model = &r->model->network;
    r->network.heads = model->heads;
    r->network.pooling = model->pooling;
    scbm_status status = cbm_backbone_copy(&r->network.backbone, &model->backbone, NULL);
    if (!status) status = cbm_masks_create(&r->network.backbone, model->heads.n_concepts, NULL);
    for (int i = 0; i < model->backbone.n_parameters && !status; i++) {
        const scbm_tensor *masks = model->backbone.parameters[i].masks;
        if (masks) memcpy(r->network.backbone.parameters[i].masks->data, masks->data, scbm_tensor_bytes(masks));
    }
    return status;
}

static scbm_status prune_options(const arguments *a, cbm_mode mode, cbm_prune_options *options) {
    memset(options, 0, sizeof *options);
    options->sparsity = options->initial_sparsity = a->sparsity;
    options->start = options->end = 1;
    options->fisher_block = (int)a->fisher_block;
    options->fisher_gradients = (int)a->fisher_gradients;
    options->fisher_texts = (int)a->fisher_texts;
    options->fisher_memory = (size_t)a->fisher_memory;
    options->damping = a->damping;
    options->damping_absolute = a->damping_absolute;
    options->score_learning_rate = a->score_lr;
    options->method = a->prune;
    return cbm_prune_check(options, mode, 1);
}

static scbm_status store_gradient(void *user, const scbm_tensor *gradient) {
    run *r = user;
    return store(r, "gradient.", gradient->name, r->step, gradient->data);
}

/* Each gradient is stored as soon as it is computed. */
static scbm_tensor *watch_gradient(void *user, scbm_graph *graph, const scbm_tensor *weight, scbm_tensor *gradient) {
    snprintf(gradient->name, sizeof gradient->name, "%s", weight->name);
    scbm_graph_watch(graph, gradient, store_gradient, user);
    return NULL;
}

static void store_scores(void *user, const scbm_tensor *weight, int stream, const double *score) {
    scbm_tensor *tensor = find(user, "score.", weight->name);
    int64_t n = scbm_tensor_elements(weight);
    float *place = (float *)tensor->data + stream * n;
    for (int64_t i = 0; i < n; i++) place[i] = (float)score[i];
}

/* The gradients of the minibatches that pruning will draw, by a graph of our own. */
static scbm_status compute_minibatches(run *r) {
    int32_t *rows;
    int64_t shape[2];
    scbm_status status = cbm_fisher_draw(&r->pruning, 1, &rows, &shape[0], &shape[1]);
    if (status) return status;
    scbm_tensor *kept = add(r, "", "rows", SCBM_I32, 2, shape, NULL);
    status = kept ? add_for_weights(r, "gradient.", shape[0], r->network.heads.n_concepts) : SCBM_ERROR_MEMORY;
    cbm_training_settings settings = r->settings;
    settings.weight_gradients = SCBM_DW_MASKED;
    settings.take_gradient = watch_gradient;
    settings.take_gradient_user = r;
    if (!status) {
        memcpy(find(r, "", "rows")->data, rows, (size_t)(shape[0] * shape[1]) * sizeof *rows);
        status = cbm_training_graph_create(&r->training, &r->network, r->context, &settings);
    }
    for (r->step = 0; r->step < shape[0] && !status; r->step++)
        status = run_batch(r, &r->network, rows + r->step * shape[1], shape[1]);
    scbm_release(NULL, rows);
    return status;
}

static scbm_status give_gradients(void *user, const cbm_gradient_request *request) {
    run *r = user;
    const cbm_gradient_source source = {&r->network, r->context, &r->settings, &r->sequences, &r->data, NULL};
    return cbm_gradients(&source, request);
}

static scbm_status open_pruning(run *r) {
    int64_t longest = r->model->network.backbone.max_tokens;
    r->settings = training_settings((int64_t)r->data.n * longest, (int64_t)r->data.n);
    r->pruning = (cbm_prune_run){.backbone = &r->network.backbone,
                                 .context = r->context,
                                 .options = &r->prune_options,
                                 .n_streams = r->network.heads.n_concepts,
                                 .n_texts = (int64_t)r->data.n,
                                 .batch_size = (int64_t)r->data.n,
                                 .seed = (uint64_t)r->arguments->seed,
                                 .gradients = give_gradients,
                                 .user = r};
    return cbm_prune_open(&r->pruning);
}

static scbm_status prune(run *r) {
    const int64_t two = 2;
    cbm_prune_report report;
    scbm_tensor *numbers = add(r, "", "report", SCBM_F32, 1, &two, NULL);
    scbm_status status = numbers ? add_for_weights(r, "score.", 0, r->network.heads.n_concepts) : SCBM_ERROR_MEMORY;
    r->pruning.on_scores = store_scores;
    r->pruning.on_scores_user = r;
    if (!status && strcmp(r->prune_options.method, "obert") == 0) status = compute_minibatches(r);
    if (!status) status = cbm_prune_after_epoch(&r->pruning, 1, &report);
    if (status) return status;
    float *place = find(r, "", "report")->data;
    place[0] = (float)report.magnitude_overlap;
    place[1] = (float)report.n_groups;
    return add_masks(r, 0);
}

static scbm_status store_scores_and_masks(run *r, int64_t step) {
    const cbm_popup *popup = r->pruning.state;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < r->pruning.n && !status; i++) {
        const char *name = r->pruning.weight[i]->name;
        status = store(r, "score.", name, step, popup->score[i].data);
        if (!status) status = store(r, "masks.", name, step, r->pruning.matrix[i]->masks->data);
    }
    return status;
}

static const scbm_tensor *weight_gradient(const run *r, int matrix) {
    for (int i = 0; i < r->training.n_parameters; i++)
        if (r->training.parameters[i] == r->pruning.weight[matrix]) return r->training.gradients[i];
    return NULL;
}

/* The training graph with the step of the scores, whose gradients are kept. */
static scbm_status build_popup(run *r, const cbm_training_settings *settings) {
    const cbm_popup *popup = r->pruning.state;
    scbm_status status = cbm_training_graph_build(&r->training, &r->network, r->context, settings);
    if (!status) status = cbm_prune_add_step(&r->pruning, r->training.graph, r->training.graph, NULL);
    for (int i = 0; i < r->pruning.n && !status; i++) {
        scbm_graph_fetch(r->training.graph, popup->gradients[i]);
        scbm_graph_fetch(r->training.graph, (scbm_tensor *)weight_gradient(r, i));
    }
    return status ? status : scbm_graph_plan(r->training.graph);
}

static scbm_status popup_step(run *r, const int32_t *row, int64_t step) {
    const cbm_popup *popup = r->pruning.state;
    scbm_status status = cbm_prune_begin_step(&r->pruning, 1, 1.0f);
    if (!status) status = run_batch(r, &r->network, row, (int64_t)r->arguments->rows);
    for (int i = 0; i < r->pruning.n && !status; i++) {
        const char *name = r->pruning.weight[i]->name;
        status = store(r, "gradient.", name, step, popup->gradients[i]->data);
        if (!status) status = store(r, "weight_gradient.", name, step, weight_gradient(r, i)->data);
    }
    if (!status) status = cbm_prune_after_step(&r->pruning);
    return status ? status : store_scores_and_masks(r, step + 1);
}

static scbm_status learn_scores(run *r) {
    int64_t steps = (int64_t)r->arguments->steps, rows = (int64_t)r->arguments->rows;
    int n_streams = r->network.heads.n_concepts;
    cbm_prune_report report;
    int32_t *row = first_rows(rows);
    if (!row) return SCBM_ERROR_MEMORY;
    cbm_training_settings settings = training_settings(count_tokens(r, row, rows), rows);
    settings.weight_gradients = SCBM_DW_DENSE;
    settings.take_gradient = cbm_prune_take_gradient;
    settings.take_gradient_user = &r->pruning;
    scbm_status status = add_for_weights(r, "score.", steps + 1, n_streams);
    if (!status) status = add_for_weights(r, "gradient.", steps, n_streams);
    if (!status) status = add_for_weights(r, "weight_gradient.", steps, 0);
    if (!status) status = add_masks(r, steps + 1);
    if (!status) status = cbm_prune_begin(&r->pruning, 0);
    if (!status) status = cbm_prune_after_epoch(&r->pruning, 1, &report);
    if (!status) status = store_scores_and_masks(r, 0);
    if (!status) status = build_popup(r, &settings);
    for (int64_t step = 0; step < steps && !status; step++) status = popup_step(r, row, step);
    scbm_release(NULL, row);
    return status;
}

static scbm_status find_subnetworks(run *r) {
    scbm_status status = prune_options(r->arguments, cbm_model_mode(r->model), &r->prune_options);
    if (!status) status = copy_network(r);
    if (!status) status = open_pruning(r);
    if (!status) status = cbm_prune_takes_gradients(&r->pruning) ? learn_scores(r) : prune(r);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Interventions
 * ---------------------------------------------------------------------------------------- */

static scbm_status add_prediction(run *r, const char *name, const cbm_prediction *p) {
    const int64_t n = r->model->network.heads.n_classes + p->n_labels;
    scbm_tensor *tensor = add(r, "", name, SCBM_F32, 1, &n, NULL);
    if (!tensor) return SCBM_ERROR_MEMORY;
    float *place = tensor->data;
    for (int k = 0; k < p->n_concepts; k++) {
        size_t size = (size_t)p->concepts[k].n_classes;
        memcpy(place, p->concepts[k].logits, size * sizeof *place);
        place += size;
    }
    memcpy(place, p->logits, (size_t)p->n_labels * sizeof *place);
    return SCBM_OK;
}

static scbm_status add_intervention(run *r, const cbm_intervention *result) {
    const cbm_backbone *backbone = &r->model->network.backbone;
    const int64_t two = 2, four = 4;
    scbm_status status = add_prediction(r, "before", result->before);
    if (!status) status = add_prediction(r, "after", result->after);
    scbm_tensor *counts = status ? NULL : add(r, "", "counts", SCBM_I32, 1, &four, NULL);
    if (!counts) return SCBM_ERROR_MEMORY;
    const int32_t values[4] = {result->steps, result->succeeded, (int32_t)result->moved_bits,
                               (int32_t)result->total_bits};
    memcpy(counts->data, values, sizeof values);
    scbm_tensor *portion = add(r, "", "portion", SCBM_I32, 1, &two, NULL);
    if (!portion) return SCBM_ERROR_MEMORY;
    memcpy(portion->data, &result->portion, sizeof result->portion);
    for (int i = 0; i < backbone->n_parameters && !status; i++) {
        const scbm_tensor *weight = backbone->parameters[i].tensor;
        const scbm_tensor *masks = cbm_overlay_masks(r->predictions, weight);
        if (masks && !add(r, "masks.", weight->name, SCBM_I8, 3, masks->shape, masks->data)) status = SCBM_ERROR_MEMORY;
    }
    return status;
}

static scbm_status intervene(run *r) {
    const arguments *a = r->arguments;
    const cbm_intervene_options options = {.rule = a->rule && strcmp(a->rule, "abs") == 0 ? CBM_SELECT_ABS
                                                                                          : CBM_SELECT_SIGNED,
                                           .portion = a->portion,
                                           .steps = (int)a->steps,
                                           .whole_steps = a->rule && strcmp(a->rule, "whole") == 0};
    char wanted[128];
    const cbm_prediction *prediction;
    const cbm_intervention *result;
    snprintf(wanted, sizeof wanted, "%s", a->intervene);
    cbm_concept_column target = split_concept(wanted);
    scbm_status status = cbm_context_create(&r->predictions, r->model, NULL);
    if (!status) status = cbm_predict(r->predictions, r->data.text[(size_t)a->rows - 1], &prediction);
    if (!status) status = cbm_intervene_report(r->predictions, target.name, target.column, &options, &result);
    return status ? status : add_intervention(r, result);
}

/* ------------------------------------------------------------------------------------------
 * The program
 * ---------------------------------------------------------------------------------------- */

static scbm_status write(const run *r, const char *path) {
    scbm_writer *writer = NULL;
    scbm_status status = scbm_writer_create(&writer, NULL);
    if (status) return status;
    scbm_writer_set_string(writer, "general.name", "dump");
    for (size_t i = 0; i < r->n_dumped; i++)
        scbm_writer_add_tensor(writer, &r->dumped[i].tensor, r->dumped[i].tensor.type);
    status = scbm_writer_write(writer, path);
    scbm_writer_free(writer);
    return status;
}

static void clear(run *r) {
    cbm_context_free(r->predictions);
    cbm_training_graph_clear(&r->training, NULL);
    cbm_prune_close(&r->pruning);
    cbm_backbone_clear(&r->network.backbone, NULL);
    scbm_context_free(r->context);
    cbm_sequences_clear(&r->sequences, NULL);
    cbm_dataset_clear(&r->data);
    cbm_model_free(r->model);
    scbm_release(NULL, r->states);
    for (size_t i = 0; i < r->n_dumped; i++)
        if (r->dumped[i].is_owned) scbm_release(NULL, r->dumped[i].tensor.data);
    scbm_release(NULL, r->dumped);
}

int main(int argc, char **argv) {
    arguments a;
    run r;
    memset(&a, 0, sizeof a);
    memset(&r, 0, sizeof r);
    r.arguments = &a;
    scbm_status status = parse(&a, argc, argv);
    if (!status) status = cbm_model_load(&r.model, a.model, NULL);
    if (!status && !a.prune && cbm_model_mode(r.model) != CBM_JOINT)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s is no joint model", a.model);
    if (!status) status = read_data(&r, &a);
    if (!status) status = scbm_context_create(&r.context, NULL, NULL);
    if (!status) status = a.prune ? find_subnetworks(&r) : a.intervene ? intervene(&r) : compute(&r);
    if (!status) status = write(&r, a.output);
    clear(&r);
    if (status) fprintf(stderr, "dump: %s\n", scbm_last_error());
    return status ? 1 : 0;
}
