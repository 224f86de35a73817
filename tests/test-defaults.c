/*
 * tests/test-defaults.c - zero is the default: for every options struct of the installed headers NULL and {0} give the same
 * bits, and a reserved field that is not zero is refused; and who allocates while another's encoder is trained
 */
#define _XOPEN_SOURCE 700

#include "tests/small-encoder.h"

#include <ctype.h>

typedef enum way { BY_NULL, BY_ZEROS, BY_RESERVED, N_WAYS } way;
#define OPTIONS(type, way)                                                                                             \
    ((way) == BY_NULL ? NULL : (way) == BY_ZEROS ? &(const type){0} : &(const type){.reserved = {[7] = 1}})

static cbm_model *encoder, *model;
static cbm_dataset data, valid;

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), NULL));
    encoder = load(in_folder("encoder.gguf"));
    model = small_model(encoder, CBM_JOINT, 0.5, in_folder("model.gguf"));
    assert_ok(cbm_export(encoder, in_folder("exported"), NULL));
    return small_data(&data, 0, 24) || small_data(&valid, 500, 10) ? -1 : 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_model_free(model);
    cbm_dataset_clear(&data);
    cbm_dataset_clear(&valid);
    return remove_folder(state);
}

/* ------------------------------------------------------------------------------------------
 * One use of each struct, which leaves what came out in a file
 * ---------------------------------------------------------------------------------------- */

static scbm_status keep_prediction(cbm_context *ctx, const char *path) {
    const cbm_prediction *p;
    scbm_status status = cbm_predict(ctx, data.text[0], &p);
    if (!status) write_file(path, p->logits, (size_t)p->n_labels * sizeof *p->logits);
    return status;
}

static scbm_status load_options(way w, const char *path) {
    cbm_model *loaded;
    scbm_status status = cbm_model_load(&loaded, in_folder("model.gguf"), OPTIONS(cbm_load_options, w));
    if (status) return status;
    cbm_context *ctx = context_for(loaded);
    status = keep_prediction(ctx, path);
    cbm_context_free(ctx);
    cbm_model_free(loaded);
    return status;
}

static scbm_status context_options(way w, const char *path) {
    cbm_context *ctx;
    scbm_status status = cbm_context_create(&ctx, model, OPTIONS(cbm_context_options, w));
    if (!status) status = keep_prediction(ctx, path);
    cbm_context_free(ctx);
    return status;
}

static scbm_status intervene_options(way w, const char *path) {
    cbm_context *ctx = context_for(model);
    const cbm_prediction *p;
    assert_ok(cbm_predict(ctx, data.text[0], &p));
    const char *class_name = cbm_model_concept_class(model, 1, !p->concepts[1].class_index);
    scbm_status status = cbm_intervene(ctx, "staff", class_name, OPTIONS(cbm_intervene_options, w), &p);
    if (!status) write_file(path, p->logits, (size_t)p->n_labels * sizeof *p->logits);
    cbm_context_free(ctx);
    return status;
}

static scbm_status explain_options(way w, const char *path) {
    cbm_context *ctx = context_for(model);
    const cbm_explanation *e;
    scbm_status status = cbm_explain(ctx, data.text[0], OPTIONS(cbm_explain_options, w), &e);
    if (!status) status = cbm_report_html(path, "model", model, data.text[0], data.text_length[0], e, NULL);
    cbm_context_free(ctx);
    return status;
}

static scbm_status global_options(way w, const char *path) {
    cbm_context *ctx = context_for(model);
    cbm_global_report *report;
    scbm_status status = cbm_global_report_create(&report, ctx, data.text, data.text_length, data.n,
                                                  OPTIONS(cbm_global_options, w));
    if (!status) status = cbm_report_global_html(path, "model", model, report, NULL);
    cbm_global_report_free(report);
    cbm_context_free(ctx);
    return status;
}

static scbm_status dataset_options(way w, const char *path) {
    cbm_dataset texts;
    scbm_status status = cbm_dataset_begin(&texts, OPTIONS(cbm_dataset_options, w), NULL);
    if (!status) status = cbm_dataset_add(&texts, "a text", 6, NULL, NULL);
    if (!status) status = cbm_dataset_finish(&texts);
    if (!status) write_file(path, texts.text[0], texts.text_length[0]);
    cbm_dataset_clear(&texts);
    return status;
}

static scbm_status train_options(way w, const char *path) {
    return cbm_train(encoder, &data, &valid, small_concepts, path, OPTIONS(cbm_train_options, w));
}

static scbm_status prune_options(way w, const char *path) {
    const cbm_train_options o = {.epochs = -1, .prune = {.reserved = {[0] = w == BY_RESERVED}}};
    return cbm_train(encoder, &data, &valid, small_concepts, path, &o);
}

static scbm_status quantize_options(way w, const char *path) {
    return cbm_quantize(in_folder("encoder.gguf"), path, SCBM_F16, OPTIONS(cbm_quantize_options, w), NULL);
}

static scbm_status convert_options(way w, const char *path) {
    return cbm_convert(in_folder("exported"), path, OPTIONS(cbm_convert_options, w), NULL);
}

static scbm_status export_options(way w, const char *path) {
    char to[128], weights[160];
    size_t size;
    snprintf(to, sizeof to, "%s.folder", path);
    scbm_status status = cbm_export(model, to, OPTIONS(cbm_export_options, w));
    if (status) return status;
    snprintf(weights, sizeof weights, "%s/model.safetensors", to);
    char *bytes = read_file(weights, &size);
    write_file(path, bytes, size);
    free(bytes);
    return SCBM_OK;
}

static scbm_status random_encoder_options(way w, const char *path) {
    return cbm_random_encoder_write(path, OPTIONS(cbm_random_encoder_options, w));
}

static scbm_status random_model_options(way w, const char *path) {
    return cbm_random_model_write(path, in_folder("encoder.gguf"), OPTIONS(cbm_random_model_options, w));
}

static scbm_status backend_options(way w, const char *path) {
    scbm_backend *backend;
    scbm_status status = scbm_backend_open(&backend, "cpu", OPTIONS(scbm_backend_options, w));
    if (status) return status;
    cbm_context *ctx;
    assert_ok(cbm_context_create(&ctx, model, &(const cbm_context_options){.backend = backend}));
    status = keep_prediction(ctx, path);
    cbm_context_free(ctx);
    scbm_backend_close(backend);
    return status;
}

static scbm_status adamw_options(way w, const char *path) {
    const int64_t shape[1] = {3};
    const float rate = 0.1f, decay = 0.2f;
    float values[3] = {1, 2, 3}, slopes[3] = {0.5f, -2, 0};
    scbm_tensor weight, gradient, *weights[] = {&weight}, *gradients[] = {&gradient};
    scbm_context *context;
    scbm_adamw *optimizer;
    assert_ok(scbm_tensor_init(&weight, "w", SCBM_F32, 1, shape));
    assert_ok(scbm_tensor_init(&gradient, "g", SCBM_F32, 1, shape));
    weight.data = values;
    gradient.data = slopes;
    assert_ok(scbm_context_create(&context, &one_thread, NULL));
    scbm_status status = scbm_adamw_create(&optimizer, context, weights, 1, &rate, &decay,
                                           OPTIONS(scbm_adamw_options, w));
    for (int step = 0; step < 3 && !status; step++) status = scbm_adamw_step(optimizer, gradients, 1.0f, NULL);
    if (!status) write_file(path, values, sizeof values);
    scbm_adamw_free(optimizer);
    scbm_context_free(context);
    return status;
}

static const struct {
    const char *name;
    scbm_status (*use)(way w, const char *path);
} structs[] = {
    {"cbm_load_options", load_options},
    {"cbm_context_options", context_options},
    {"cbm_intervene_options", intervene_options},
    {"cbm_explain_options", explain_options},
    {"cbm_global_options", global_options},
    {"cbm_dataset_options", dataset_options},
    {"cbm_train_options", train_options},
    {"cbm_prune_options", prune_options},
    {"cbm_quantize_options", quantize_options},
    {"cbm_convert_options", convert_options},
    {"cbm_export_options", export_options},
    {"cbm_random_encoder_options", random_encoder_options},
    {"cbm_random_model_options", random_model_options},
    {"scbm_backend_options", backend_options},
    {"scbm_adamw_options", adamw_options},
};

static void zeros_and_null_give_the_same_bits(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(structs); i++) {
        assert_ok_for(structs[i].use(BY_NULL, in_folder("null")), structs[i].name);
        assert_ok_for(structs[i].use(BY_ZEROS, in_folder("zeros")), structs[i].name);
        if (!same_files(in_folder("null"), in_folder("zeros"))) fail_msg("%s: {0} is not NULL", structs[i].name);
    }
}

static void what_is_reserved_is_zero(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(structs); i++)
        assert_error(structs[i].use(BY_RESERVED, in_folder("reserved")), SCBM_ERROR_ARGUMENT, "reserved");
}

/* A struct that a header defines and the table above has not is a failure here. */
static void the_table_has_every_options_struct(void **state) {
    static const char *const headers[] = {"sparsecbm.h", "models/cbm.h", "models/cbm-data.h", "models/cbm-train.h"};
    (void)state;
    for (int h = 0; h < COUNT_OF(headers); h++) {
        if (!exists(headers[h])) skip(); /* not run from the root */
        char *text = read_file(headers[h], NULL), name[64];
        for (const char *at = text; (at = strstr(at, "_options;")); at++) {
            const char *start = at;
            while (start > text && (isalnum((unsigned char)start[-1]) || start[-1] == '_')) start--;
            if (start < text + 2 || memcmp(start - 2, "} ", 2) != 0) continue;
            snprintf(name, sizeof name, "%.*s_options", (int)(at - start), start);
            int i = 0;
            while (i < COUNT_OF(structs) && strcmp(structs[i].name, name) != 0) i++;
            if (i == COUNT_OF(structs)) fail_msg("%s of %s has no row in the table", name, headers[h]);
        }
        free(text);
    }
}

/* ------------------------------------------------------------------------------------------
 * Hooks
 * ---------------------------------------------------------------------------------------- */

typedef struct watch {
    const counting_allocator *allocator;
    long at_start; /* allocations when the texts have been read */
} watch;

static void begin_watch(void *user, const cbm_dataset *train, const cbm_dataset *validation) {
    watch *w = user;
    assert_true(train->n == data.n && validation->n == valid.n);
    w->at_start = w->allocator->n;
}

/* Another thread may use the encoder meanwhile, with its hooks. */
static void steps_and_files_of_training_call_none_of_the_encoders_hooks(void **state) {
    (void)state;
    counting_allocator of_encoder = {0};
    const scbm_hooks hooks = allocator_hooks(&of_encoder);
    cbm_model *watched = load_with(in_folder("model.gguf"), &hooks);
    watch w = {&of_encoder, 0};
    const cbm_train_options o = {.epochs = 2,
                                 .hooks = &one_thread,
                                 .prune = {.method = "magnitude", .start = 1, .end = 1},
                                 .on_data = begin_watch,
                                 .user = &w};
    assert_ok(cbm_train(watched, &data, &valid, small_concepts, in_folder("trained.gguf"), &o));
    assert_int_equal(of_encoder.n, w.at_start);
    cbm_model_free(watched);
    assert_int_equal(of_encoder.held, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeros_and_null_give_the_same_bits),
        cmocka_unit_test(what_is_reserved_is_zero),
        cmocka_unit_test(the_table_has_every_options_struct),
        cmocka_unit_test(steps_and_files_of_training_call_none_of_the_encoders_hooks),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
