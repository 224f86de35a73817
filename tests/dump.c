/*
 * tests/dump.c - what a model computes on the way to its loss, for the comparison with PyTorch
 *
 *     dump --model MODEL --data FILE --text COLUMN --label COLUMN --concept NAME=COLUMN ... --rows N -o OUT.gguf
 *
 * runs the training graph of a joint model on the first N rows, as one batch, without dropout and with λ = 5, and
 * writes a GGUF file of F32 tensors: hidden.0 (the embeddings), hidden.1 … (each block's output) [tokens, d], packed;
 * pooled [N, d]; concept_logits [N, C]; label_logits [N, Y]; loss [1]; and grad.NAME of every parameter NAME.
 */
#include "../models/cbm-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONCEPTS 64

typedef struct arguments {
    const char *model, *data, *text, *label, *output;
    cbm_concept_column concepts[MAX_CONCEPTS];
    int n_concepts;
    int64_t rows;
} arguments;

/* What a run holds; zero-initialized, cleared by clear(). */
typedef struct run {
    cbm_model *model;
    scbm_context *context;
    cbm_dataset data;
    cbm_sequences sequences;
    cbm_training_graph training;
    scbm_tensor **states; /* [blocks + 1] */
    scbm_tensor *dumped;  /* the tensors that are written, under their names there */
    int n_dumped;
} run;

/* "name=column", or "name" for both; cuts the argument. */
static cbm_concept_column split_concept(char *argument) {
    char *column = strchr(argument, '=');
    if (column) *column++ = 0;
    return (cbm_concept_column){argument, column ? column : argument};
}

static scbm_status parse(arguments *a, int argc, char **argv) {
    const struct {
        const char *name, **value;
    } options[] = {
        {"--model", &a->model}, {"--data", &a->data}, {"--text", &a->text}, {"--label", &a->label}, {"-o", &a->output}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0, n = sizeof options / sizeof options[0];
        if (i + 1 == argc) return scbm_fail(SCBM_ERROR_ARGUMENT, "%s wants a value", argv[i]);
        while (k < n && strcmp(argv[i], options[k].name) != 0) k++;
        if (k < n) *options[k].value = argv[i + 1];
        else if (strcmp(argv[i], "--rows") == 0) a->rows = atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--concept") == 0 && a->n_concepts < MAX_CONCEPTS)
            a->concepts[a->n_concepts++] = split_concept(argv[i + 1]);
        else return scbm_fail(SCBM_ERROR_ARGUMENT, "%s is no option, or one concept too many", argv[i]);
    }
    if (!a->model || !a->data || !a->text || !a->label || !a->output || a->rows < 1)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "--model, --data, --text, --label, --rows and -o are required");
    return SCBM_OK;
}

/* The data set with the model's classes, and its first rows as token ids. */
static scbm_status read_data(run *r, const arguments *a) {
    cbm_dataset_options options;
    memset(&options, 0, sizeof options);
    options.paths = &a->data;
    options.n_paths = 1;
    options.text = a->text;
    options.label = a->label;
    options.concepts = a->concepts;
    options.n_concepts = a->n_concepts;
    options.drop_label = "no majority";
    scbm_status status = cbm_dataset_read(&r->data, &options, NULL);
    if (!status) status = cbm_check_classes(&r->model->network.heads, &r->data, a->data);
    if (!status && r->data.n < (size_t)a->rows)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s has %zu rows, and %lld were asked for", a->data, r->data.n,
                           (long long)a->rows);
    if (status) return status;
    return cbm_sequences_add_texts(&r->sequences, r->model->tokenizer, (const char *const *)r->data.text,
                                   r->data.text_length, (size_t)a->rows, cbm_model_max_tokens(r->model), NULL);
}

/* Runs the graph on the rows; its capacity is this batch, so that every tensor's shape is the batch's. */
static scbm_status compute(run *r, int64_t rows) {
    const cbm_network *network = &r->model->network;
    cbm_training_settings settings;
    memset(&settings, 0, sizeof settings);
    settings.concept_weight = 5.0f;
    settings.max_tokens = (int64_t)r->sequences.first[rows];
    settings.max_texts = rows;
    settings.states = r->states = scbm_alloc_array(NULL, (size_t)network->backbone.n_blocks + 1, sizeof *r->states);
    int32_t *row = scbm_alloc_array(NULL, (size_t)rows, sizeof *row);
    scbm_status status = r->states && row ? SCBM_OK : SCBM_ERROR_MEMORY;
    if (!status) status = scbm_context_create(&r->context, NULL, NULL);
    if (!status) status = cbm_training_graph_create(&r->training, network, r->context, &settings);
    if (!status) {
        for (int64_t i = 0; i < rows; i++) row[i] = (int32_t)i;
        int64_t tokens = cbm_training_fill(&r->training, network, &r->sequences, &r->data, row, rows, NULL, 0.0f);
        status = scbm_graph_run(r->training.graph, tokens, rows);
    }
    scbm_release(NULL, row);
    return status;
}

/* Adds a tensor to those that are written, without the leading dimension of a single stream. */
static scbm_status add(run *r, const scbm_tensor *source, const char *prefix, const char *name) {
    char full[SCBM_MAX_NAME];
    int skip = source->n_dims == 3 && source->shape[0] == 1;
    if (snprintf(full, sizeof full, "%s%s", prefix, name) >= (int)sizeof full)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "the name %s%s is too long", prefix, name);
    scbm_tensor *tensor = &r->dumped[r->n_dumped++];
    scbm_status status = scbm_tensor_init(tensor, full, source->type, source->n_dims - skip, source->shape + skip);
    tensor->data = source->data;
    return status;
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
    int n_results = (int)(sizeof results / sizeof results[0]), n_states = r->model->network.backbone.n_blocks + 1;
    scbm_status status = SCBM_OK;
    r->dumped = scbm_alloc_array(NULL, (size_t)(n_states + n_results + t->n_parameters), sizeof *r->dumped);
    if (!r->dumped) return SCBM_ERROR_MEMORY;
    for (int i = 0; i < n_states && !status; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        status = add(r, r->states[i], "hidden.", number);
    }
    for (int i = 0; i < n_results && !status; i++) status = add(r, results[i].tensor, "", results[i].name);
    for (int i = 0; i < t->n_parameters && !status; i++)
        status = add(r, t->gradients[i], "grad.", t->parameters[i]->name);
    return status;
}

static scbm_status write(const run *r, const char *path) {
    scbm_writer *writer = NULL;
    scbm_status status = scbm_writer_create(&writer, NULL);
    if (status) return status;
    scbm_writer_set_string(writer, "general.name", "dump");
    for (int i = 0; i < r->n_dumped; i++) scbm_writer_add_tensor(writer, &r->dumped[i], SCBM_F32);
    status = scbm_writer_write(writer, path);
    scbm_writer_free(writer);
    return status;
}

static void clear(run *r) {
    cbm_training_graph_clear(&r->training, NULL);
    scbm_context_free(r->context);
    cbm_sequences_clear(&r->sequences, NULL);
    cbm_dataset_clear(&r->data);
    cbm_model_free(r->model);
    scbm_release(NULL, r->states);
    scbm_release(NULL, r->dumped);
}

int main(int argc, char **argv) {
    arguments a;
    run r;
    memset(&a, 0, sizeof a);
    memset(&r, 0, sizeof r);
    scbm_status status = parse(&a, argc, argv);
    if (!status) status = cbm_model_load(&r.model, a.model, NULL);
    if (!status && cbm_model_mode(r.model) != CBM_JOINT)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "%s is no joint model", a.model);
    if (!status) status = read_data(&r, &a);
    if (!status) status = compute(&r, a.rows);
    if (!status) status = collect(&r);
    if (!status) status = write(&r, a.output);
    clear(&r);
    if (status) fprintf(stderr, "dump: %s\n", scbm_last_error());
    return status ? 1 : 0;
}
