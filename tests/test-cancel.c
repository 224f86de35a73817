/*
 * tests/test-cancel.c - cancelling: whenever a hook says so, in every public function that can take long, the answer is
 * CANCELLED, nothing is leaked or left on the disk, and the context gives afterwards what it would have given
 *
 * Every call of the progress hook and every question of the cancel hook is tried, of functions that ask more than
 * MOST_TRIED times so many of them, spread over all. With the environment's EVERY=1 all of them (tests/long-cancel.sh).
 */
#define _XOPEN_SOURCE 700

#include "tests/small-encoder.h"

#include <dirent.h>
#include <unistd.h>

enum { N_TEXTS = 12, MOST_TRIED = 60 };

/* What the hooks count; the first member, so that they share `user`. */
typedef struct stopper {
    counting_allocator memory;
    int64_t calls, at; /* of the kind that is counted; at 0: never */
    int by_question;
} stopper;

static stopper stop;
static cbm_model *encoder, *model;
static cbm_dataset data, valid;
static const char *const *texts;
static char exported[128], checkpoint[256];

static int count_call(void) {
    return ++stop.calls == stop.at;
}

static int on_progress(void *user, const char *what, int64_t done, int64_t total) {
    (void)user;
    (void)what;
    assert_true(done >= 0 && (total < done || done <= total));
    return !stop.by_question && count_call();
}

static int on_question(void *user) {
    (void)user;
    return stop.by_question && count_call();
}

static scbm_hooks hooks;

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    hooks = allocator_hooks(&stop.memory);
    hooks.progress = on_progress;
    hooks.cancel = on_question;
    assert_ok(small_encoder(in_folder("encoder.gguf"), NULL));
    encoder = load(in_folder("encoder.gguf"));
    model = small_model(encoder, CBM_JOINT, 0.5, in_folder("model.gguf"));
    snprintf(exported, sizeof exported, "%s", in_folder("exported"));
    assert_ok(cbm_export(encoder, exported, NULL));
    assert_ok(small_data(&data, 0, N_TEXTS));
    assert_ok(small_data(&valid, 500, 8));
    texts = (const char *const *)data.text;
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_model_free(model);
    cbm_dataset_clear(&data);
    cbm_dataset_clear(&valid);
    return remove_folder(state);
}

/* ------------------------------------------------------------------------------------------
 * What a call gave
 * ---------------------------------------------------------------------------------------- */

static unsigned char kept[1 << 20], wanted[sizeof kept];
static size_t n_kept, n_wanted;

static void keep(const void *bytes, size_t size) {
    assert_true(n_kept + size <= sizeof kept);
    memcpy(kept + n_kept, bytes, size);
    n_kept += size;
}

static void keep_floats(const float *values, int n) {
    keep(values, (size_t)n * sizeof *values);
}

static void keep_file(const char *path) {
    size_t size;
    char *bytes = read_file(path, &size);
    keep(bytes, size);
    free(bytes);
}

/* ------------------------------------------------------------------------------------------
 * Functions of a context
 * ---------------------------------------------------------------------------------------- */

static scbm_status use_predict(cbm_context *ctx) {
    const cbm_prediction *p;
    scbm_status status = cbm_predict(ctx, texts[0], &p);
    if (!status) keep_floats(p->logits, p->n_labels);
    return status;
}

static scbm_status use_predict_batch(cbm_context *ctx) {
    const cbm_prediction *const *p;
    scbm_status status = cbm_predict_batch(ctx, texts, data.text_length, N_TEXTS, &p);
    for (int i = 0; i < N_TEXTS && !status; i++) keep_floats(p[i]->logits, p[i]->n_labels);
    return status;
}

static scbm_status use_embed(cbm_context *ctx) {
    static float vectors[N_TEXTS * 64];
    scbm_status status = cbm_embed_batch(ctx, texts, NULL, N_TEXTS, CBM_POOL_FILE, CBM_NORMALIZE_FILE, vectors, NULL);
    if (!status) keep_floats(vectors, N_TEXTS * cbm_model_hidden_size(model));
    return status;
}

static void keep_explanation(const cbm_explanation *e) {
    for (int k = 0; k < e->n_concepts; k++)
        for (int m = 0; m < e->n_methods; m++)
            if (e->concepts[k].logit.tokens[m]) keep_floats(e->concepts[k].logit.tokens[m], e->n_tokens);
}

static scbm_status use_explain(cbm_context *ctx) {
    const cbm_explain_options few = {.steps = 4, .max_steps = 8};
    const cbm_explanation *e;
    scbm_status status = cbm_explain(ctx, texts[0], &few, &e);
    if (!status) keep_explanation(e);
    return status;
}

static scbm_status take_explanation(void *user, size_t i, const cbm_explanation *e) {
    (void)user;
    (void)i;
    keep_explanation(e);
    return SCBM_OK;
}

static scbm_status use_explain_batch(cbm_context *ctx) {
    const cbm_explain_options few = {.steps = 4, .max_steps = -1, .n_neurons = -1};
    return cbm_explain_batch(ctx, texts, NULL, 4, &few, take_explanation, NULL);
}

static scbm_status use_intervene(cbm_context *ctx) {
    const cbm_intervene_options few = {.steps = 2};
    const cbm_prediction *p;
    scbm_status status = cbm_predict(ctx, texts[0], &p);
    if (status) return status;
    const char *class_name = cbm_model_concept_class(model, 1, !p->concepts[1].class_index);
    status = cbm_intervene(ctx, "staff", class_name, &few, &p);
    if (!status) keep_floats(p->logits, p->n_labels);
    return status;
}

static scbm_status use_oracle(cbm_context *ctx) {
    const cbm_intervene_options few = {.steps = 1};
    const cbm_oracle *o;
    scbm_status status = cbm_intervene_oracle(ctx, &data, &few, 4, &o);
    if (!status) keep_floats(o->label_probability_after, 4 * o->n_labels);
    return status;
}

static scbm_status use_evaluate(cbm_context *ctx) {
    const cbm_evaluation *e;
    scbm_status status = cbm_evaluate(ctx, &data, &e);
    if (!status) keep_floats(e->label_probability, N_TEXTS * e->n_labels);
    return status;
}

static scbm_status use_faithfulness(cbm_context *ctx) {
    const cbm_explain_options few = {.steps = 4, .max_steps = -1};
    const cbm_faithfulness *f;
    scbm_status status = cbm_measure_faithfulness(ctx, texts, NULL, 3, &few, &f);
    for (int m = 0; !status && m < f->n_methods; m++)
        keep(f->methods[m].sufficiency, (size_t)f->n_shares * sizeof(double));
    return status;
}

static scbm_status use_global(cbm_context *ctx) {
    const cbm_global_options few = {.sample = 3, .explain = {.steps = 4, .max_steps = -1}};
    cbm_global_report *r;
    scbm_status status = cbm_global_report_create(&r, ctx, texts, NULL, N_TEXTS, &few);
    if (!status) keep(r->contribution, (size_t)(r->n_concepts * r->n_labels) * sizeof(double));
    cbm_global_report_free(r);
    return status;
}

static scbm_status use_subnetworks(cbm_context *ctx) {
    const cbm_subnetworks *s;
    scbm_status status = cbm_describe_subnetworks(ctx, &s);
    if (!status) keep(s->overlap, (size_t)(s->n_concepts * s->n_concepts) * sizeof(double));
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Functions with hooks of their own. What they write is "out"; the context is one without hooks that are counted.
 * ---------------------------------------------------------------------------------------- */

static const char *out(void) {
    return in_folder("out");
}

static scbm_status kept_output(scbm_status status) {
    if (!status) keep_file(out());
    return status;
}

static scbm_status use_bootstrap(cbm_context *ctx) {
    cbm_measures measures;
    const int n_classes = SMALL_LABELS;
    (void)ctx;
    scbm_status status = cbm_measure(&measures, NULL, data.label, data.label, N_TEXTS, 1, &n_classes, 20, 1, &hooks);
    if (!status) keep(&measures.low, sizeof measures.low);
    return status;
}

static scbm_status train_by(const char *method) {
    const cbm_train_options o = {
        .epochs = 2, .prune = {.method = method, .start = 1, .end = 1, .fisher_block = 4}, .hooks = &hooks};
    scbm_status status = cbm_train(encoder, &data, &valid, small_concepts, out(), &o);
    snprintf(checkpoint, sizeof checkpoint, "%s.checkpoint", out());
    unlink(checkpoint);
    return kept_output(status);
}

static scbm_status use_train(cbm_context *ctx) {
    (void)ctx;
    return train_by(NULL);
}

static scbm_status use_train_obert(cbm_context *ctx) {
    (void)ctx;
    return train_by("obert");
}

static scbm_status use_train_popup(cbm_context *ctx) {
    (void)ctx;
    return train_by("popup");
}

static scbm_status use_quantize(cbm_context *ctx) {
    const cbm_quantize_options o = {.hooks = &hooks};
    (void)ctx;
    return kept_output(cbm_quantize(in_folder("model.gguf"), out(), SCBM_Q8_0, &o, NULL));
}

static scbm_status use_convert(cbm_context *ctx) {
    const cbm_convert_options o = {.hooks = &hooks};
    (void)ctx;
    return kept_output(cbm_convert(exported, out(), &o, NULL));
}

static scbm_status use_export(cbm_context *ctx) {
    const cbm_export_options o = {.concept = "taste", .hooks = &hooks};
    char weights[160], line[160];
    (void)ctx;
    scbm_status status = cbm_export(model, out(), &o);
    snprintf(weights, sizeof weights, "%s/model.safetensors", out());
    if (!status) keep_file(weights);
    snprintf(line, sizeof line, "rm -rf '%s'", out());
    if (!status) assert_int_equal(system(line), 0);
    return status;
}

static scbm_status use_random_encoder(cbm_context *ctx) {
    const cbm_random_encoder_options o = {
        .hidden = 8, .blocks = 1, .heads = 1, .texts = texts, .n_texts = N_TEXTS, .hooks = &hooks};
    (void)ctx;
    return kept_output(cbm_random_encoder_write(out(), &o));
}

static scbm_status use_random_model(cbm_context *ctx) {
    const cbm_random_model_options o = {.hooks = &hooks};
    (void)ctx;
    return kept_output(cbm_random_model_write(out(), in_folder("encoder.gguf"), &o));
}

static const char table[] = "text,label\ntasty,high\nbland,low\nkind,high\nrude,low\n";
static const cbm_dataset_options table_options = {.text = "text", .label = "label"};

static scbm_status keep_rows(scbm_status status, cbm_dataset *rows) {
    if (!status) keep(rows->label, rows->n * sizeof *rows->label);
    cbm_dataset_clear(rows);
    return status;
}

static scbm_status use_read_memory(cbm_context *ctx) {
    cbm_dataset rows;
    (void)ctx;
    return keep_rows(cbm_dataset_read_memory(&rows, &table_options, "t.csv", table, sizeof table - 1, &hooks), &rows);
}

static scbm_status use_read(cbm_context *ctx) {
    const char *const paths[] = {in_folder("t.csv")};
    cbm_dataset_options o = table_options;
    cbm_dataset rows;
    (void)ctx;
    write_file(paths[0], table, sizeof table - 1);
    o.paths = paths;
    o.n_paths = 1;
    scbm_status status = keep_rows(cbm_dataset_read(&rows, &o, &hooks), &rows);
    unlink(in_folder("t.csv"));
    return status;
}

static scbm_status use_html(cbm_context *ctx) {
    const cbm_explain_options few = {.steps = -1};
    const cbm_explanation *e;
    assert_ok(cbm_explain(ctx, texts[0], &few, &e));
    return kept_output(cbm_report_html(out(), "model", model, texts[0], data.text_length[0], e, &hooks));
}

static scbm_status use_global_html(cbm_context *ctx) {
    const cbm_global_options few = {.sample = 3, .explain = {.steps = 4, .max_steps = -1}};
    cbm_global_report *r;
    assert_ok(cbm_global_report_create(&r, ctx, texts, NULL, N_TEXTS, &few));
    scbm_status status = kept_output(cbm_report_global_html(out(), "model", model, r, &hooks));
    cbm_global_report_free(r);
    return status;
}

static scbm_status use_png(cbm_context *ctx) {
    const cbm_subnetworks *s;
    assert_ok(cbm_describe_subnetworks(ctx, &s));
    return kept_output(cbm_report_png(out(), "model", model, s, &hooks));
}

/* ------------------------------------------------------------------------------------------
 * Every call, at every moment
 * ---------------------------------------------------------------------------------------- */

enum { PROGRESS = 1, QUESTIONS = 2, BOTH = 3 };

static const struct {
    const char *name;
    scbm_status (*use)(cbm_context *ctx);
    int of_context; /* the context has the hooks */
    int asks;       /* which hooks are called at least once */
} calls[] = {
    {"cbm_predict", use_predict, 1, QUESTIONS},
    {"cbm_predict_batch", use_predict_batch, 1, QUESTIONS},
    {"cbm_embed_batch", use_embed, 1, QUESTIONS},
    {"cbm_explain", use_explain, 1, BOTH},
    {"cbm_explain_batch", use_explain_batch, 1, BOTH},
    {"cbm_intervene", use_intervene, 1, BOTH},
    {"cbm_intervene_oracle", use_oracle, 1, BOTH},
    {"cbm_evaluate", use_evaluate, 1, QUESTIONS},
    {"cbm_measure_faithfulness", use_faithfulness, 1, BOTH},
    {"cbm_global_report_create", use_global, 1, BOTH},
    {"cbm_describe_subnetworks", use_subnetworks, 1, QUESTIONS},
    {"cbm_measure", use_bootstrap, 0, BOTH},
    {"cbm_train", use_train, 0, BOTH},
    {"cbm_train, obert", use_train_obert, 0, BOTH},
    {"cbm_train, popup", use_train_popup, 0, BOTH},
    {"cbm_quantize", use_quantize, 0, QUESTIONS},
    {"cbm_convert", use_convert, 0, BOTH},
    {"cbm_export", use_export, 0, BOTH},
    {"cbm_random_encoder_write", use_random_encoder, 0, BOTH},
    {"cbm_random_model_write", use_random_model, 0, QUESTIONS},
    {"cbm_dataset_read_memory", use_read_memory, 0, BOTH},
    {"cbm_dataset_read", use_read, 0, BOTH},
    {"cbm_report_html", use_html, 0, QUESTIONS},
    {"cbm_report_global_html", use_global_html, 0, QUESTIONS},
    {"cbm_report_png", use_png, 0, QUESTIONS},
};

/* How many files and folders the tests' folder has: a file that was written halfway would be one more. */
static int count_files(void) {
    int n = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));) n++;
    closedir(entries);
    return n;
}

static scbm_status call(int i, cbm_context *ctx, int64_t at) {
    stop.calls = 0;
    stop.at = at;
    n_kept = 0;
    unlink(out());
    scbm_status status = calls[i].use(ctx);
    stop.at = 0;
    return status;
}

static void must_give_what_it_gave(int i, cbm_context *ctx, int64_t at) {
    assert_ok_for(call(i, ctx, 0), calls[i].name);
    if (n_kept != n_wanted || memcmp(kept, wanted, n_kept) != 0)
        fail_msg("%s: another result after it was cancelled at %lld", calls[i].name, (long long)at);
}

/* One kind of hook. */
static void check_call(int i, cbm_context *ctx, int by_question) {
    stop.by_question = by_question;
    assert_ok_for(call(i, ctx, 0), calls[i].name);
    const int64_t n = stop.calls, step = n > MOST_TRIED && !getenv("EVERY") ? n / MOST_TRIED : 1;
    memcpy(wanted, kept, n_wanted = n_kept);
    if (!n && (calls[i].asks & (by_question ? QUESTIONS : PROGRESS)))
        fail_msg("%s never %s", calls[i].name, by_question ? "asks whether to go on" : "tells its progress");
    unlink(out());
    const int files = count_files();
    const long held = stop.memory.held;
    for (int64_t at = 1; at <= n; at += step) {
        scbm_status status = call(i, ctx, at);
        if (!status && stop.calls < at) continue; /* how often it asks depends on the time a bit */
        if (status != SCBM_ERROR_CANCELLED)
            fail_msg("%s, cancelled at %lld of %lld: %s (%s)", calls[i].name, (long long)at, (long long)n,
                     scbm_status_name(status), cbm_last_error());
        unlink(out()); /* a run's model of the last whole epoch */
        if (count_files() != files)
            fail_msg("%s, cancelled at %lld of %lld, leaves a file", calls[i].name, (long long)at, (long long)n);
        if (!calls[i].of_context && stop.memory.held != held)
            fail_msg("%s, cancelled at %lld of %lld, leaks", calls[i].name, (long long)at, (long long)n);
        if (calls[i].of_context && at % 7 == 1) must_give_what_it_gave(i, ctx, at);
    }
    must_give_what_it_gave(i, ctx, n);
}

static void check_kind(int first, int last, int by_question) {
    for (int i = first; i < last; i++) {
        const cbm_context_options options = {.hooks = &hooks};
        cbm_context *ctx;
        assert_ok(cbm_context_create(&ctx, model, calls[i].of_context ? &options : NULL));
        check_call(i, ctx, by_question);
        cbm_context_free(ctx);
        if (stop.memory.held) fail_msg("%s: its context leaks", calls[i].name);
    }
}

static int first_without_context(void) {
    int i = 0;
    while (calls[i].of_context) i++;
    return i;
}

static void contexts_can_be_cancelled_at_every_progress(void **state) {
    (void)state;
    check_kind(0, first_without_context(), 0);
}

static void contexts_can_be_cancelled_at_every_question(void **state) {
    (void)state;
    check_kind(0, first_without_context(), 1);
}

static void other_functions_can_be_cancelled_at_every_progress(void **state) {
    (void)state;
    check_kind(first_without_context(), COUNT_OF(calls), 0);
}

static void other_functions_can_be_cancelled_at_every_question(void **state) {
    (void)state;
    check_kind(first_without_context(), COUNT_OF(calls), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_can_be_cancelled_at_every_progress),
        cmocka_unit_test(contexts_can_be_cancelled_at_every_question),
        cmocka_unit_test(other_functions_can_be_cancelled_at_every_progress),
        cmocka_unit_test(other_functions_can_be_cancelled_at_every_question),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
