/*
 * tests/fuzz/fuzz-gguf.c - any bytes as a model file: opening is an error or a file whose every part can be read, and
 * a model that loads can be used
 *
 * To predict, explain and intervene takes twenty times as long as to read and load. With FUZZ_USE_EVERY=N in the environment
 * one of N models that load, the first to begin with, is used too.
 */
#include "models/cbm.h"
#include "tests/fuzz/require.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_elements(const scbm_file *file, int64_t key) {
    int64_t n = scbm_file_array_length(file, key), integer;
    double real;
    const char *text;
    size_t length = 0;
    for (int64_t i = 0; i < n; i++) {
        int is_string = scbm_file_string_at(file, key, i, &text) == SCBM_OK;
        if (is_string) length += strlen(text);
        require(is_string == (scbm_file_array_type(file, key) == SCBM_VALUE_STRING));
        int is_int = scbm_file_int_at(file, key, i, &integer) == SCBM_OK;
        int is_real = scbm_file_float_at(file, key, i, &real) == SCBM_OK;
        require(is_string ? !is_int && !is_real : is_real || !is_int);
    }
    require(length <= scbm_file_size(file));
    require(scbm_file_int_at(file, key, n, &integer) != SCBM_OK &&
            scbm_file_int_at(file, key, -1, &integer) != SCBM_OK);
}

static void read_keys(const scbm_file *file) {
    for (int64_t i = 0; i < scbm_file_n_keys(file); i++) {
        const char *key = scbm_file_key(file, i), *text;
        int64_t integer;
        double real;
        require(scbm_file_find_key(file, key) == i);
        require((scbm_file_get_int(file, key, &integer) == SCBM_OK) ==
                (scbm_file_int_or(file, key, -1) == scbm_file_int_or(file, key, -2)));
        require(scbm_file_get_float(file, key, &real) == SCBM_OK || scbm_file_float_or(file, key, 0.5) == 0.5);
        require((scbm_file_get_string(file, key, &text) == SCBM_OK) == (scbm_file_string_or(file, key, NULL) != NULL));
        read_elements(file, i);
    }
    require(scbm_file_key(file, scbm_file_n_keys(file)) == NULL && scbm_file_find_key(file, "") == -1);
}

/* Every element is read, by conversion to F32 where the type has one. */
static void read_tensors(scbm_file *file) {
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        char shape[96];
        float block[32];
        const scbm_type_info *type = scbm_type_of(tensor->type);
        const unsigned char *bytes = tensor->data;
        int64_t n_blocks = scbm_tensor_elements(tensor) / type->block;
        require(scbm_file_find_tensor(file, tensor->name) == tensor);
        require(scbm_shape_text(tensor, shape, sizeof shape)[0] == '[');
        require(scbm_tensor_bytes(tensor) == (size_t)n_blocks * (size_t)type->block_bytes);
        require(scbm_tensor_bytes(tensor) <= scbm_file_size(file));
        for (int64_t b = 0; b < n_blocks; b++, bytes += type->block_bytes) {
            if (type->is_float) require(scbm_convert(SCBM_F32, block, tensor->type, bytes, type->block) == SCBM_OK);
            else memcpy(block, bytes, (size_t)type->block_bytes);
        }
    }
    require(scbm_file_tensor(file, scbm_file_n_tensors(file)) == NULL && scbm_file_find_tensor(file, "") == NULL);
}

/* Sets a concept of the last text to its last class, by its subnetwork or by its values. */
static void intervene(cbm_context *context, const cbm_model *model) {
    const cbm_intervene_options options = {.method = cbm_model_is_sparse(model) ? CBM_INTERVENE_MASK : CBM_INTERVENE_EDIT,
                                           .portion = 0.5};
    const cbm_intervention *result;
    int n = cbm_model_n_concept_classes(model, 0);
    if (cbm_intervene_report(context, cbm_model_concept(model, 0), cbm_model_concept_class(model, 0, n - 1), &options, &result)) {
        check_refusal();
        return;
    }
    require(result->moved_bits >= 0 && result->moved_bits <= result->total_bits && result->steps <= 10);
    double density = cbm_model_density(model, 0, -1), overlap = cbm_model_overlap(model, 0, cbm_model_n_concepts(model) - 1, 0);
    require(density >= 0 && density <= 1 && overlap >= 0 && overlap <= 1);
}

/* Explains a text by its words, whatever the model's mode. */
static void explain(cbm_context *context, const cbm_model *model) {
    const int labels[] = {-1};
    const cbm_explain_options options = {.steps = 1, .max_steps = -1, .labels = labels, .n_labels = 1};
    const cbm_explanation *explanation;
    if (cbm_explain(context, "good food", &options, &explanation)) check_refusal();
    else require(explanation->n_concepts == cbm_model_n_concepts(model) && explanation->n_labels == 1);
}

static int is_used(void) {
    static long every, n_loaded;
    const char *text = getenv("FUZZ_USE_EVERY");
    if (!every) every = text && atol(text) > 0 ? atol(text) : 1;
    return n_loaded++ % every == 0;
}

/* Predicts where there is a label, else embeds; the weights may be anything, so that the result may be too. */
static void use_model(const cbm_model *model) {
    const cbm_context_options options = {.max_batch_tokens = 64};
    const char *const texts[] = {"good food", "x"};
    cbm_context *context = NULL;
    const cbm_prediction *const *predictions, *prediction;
    if (cbm_context_create(&context, model, &options) != SCBM_OK) {
        check_refusal();
        return;
    }
    if (cbm_model_mode(model) != CBM_ENCODER) {
        if (cbm_predict_batch(context, texts, NULL, 2, &predictions) == SCBM_OK)
            require(strcmp(predictions[1]->label, cbm_model_label(model, predictions[1]->label_index)) == 0);
        else check_refusal();
    }
    if (cbm_model_mode(model) != CBM_ENCODER) explain(context, model);
    if (cbm_model_n_concepts(model) > 0 && cbm_predict(context, texts[0], &prediction) == SCBM_OK) intervene(context, model);
    float *vectors = malloc(2 * sizeof(float) * (size_t)cbm_model_hidden_size(model));
    if (vectors && cbm_embed_batch(context, texts, NULL, 2, CBM_POOL_FILE, 1, vectors, NULL) != SCBM_OK)
        check_refusal();
    free(vectors);
    cbm_context_free(context);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const scbm_hooks hooks = {.n_workers = 1};
    const cbm_load_options options = {.hooks = &hooks};
    scbm_file *file = NULL;
    cbm_model *model = NULL;
    if (scbm_file_open_memory(&file, data, size, "input", &hooks) != SCBM_OK) {
        check_refusal();
        require(file == NULL);
        return 0;
    }
    read_keys(file);
    read_tensors(file);
    scbm_file_close(file);
    if (cbm_model_load_memory(&model, data, size, &options) != SCBM_OK) check_refusal();
    else if (is_used()) use_model(model);
    cbm_model_free(model);
    return 0;
}
