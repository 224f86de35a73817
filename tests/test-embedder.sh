#!/bin/sh
# A program outside of the tree, which has the installed headers and pkg-config alone: it makes an encoder of random weights and
# a data set, trains, evaluates, explains, intervenes, and writes reports. Installed under a DESTDIR, as packagers do.
. tests/check.sh

if [ -n "${SANITIZE:-}" ] || ! command -v pkg-config >/dev/null; then
    echo "skipped: the program is compiled by the plain build, with pkg-config"
    skipped=1
    finish
fi
root=$work/root
check "make install with a DESTDIR" env MAKEFLAGS= "${MAKE:-make}" BUILD="${BUILD:-build}" CC="${CC:-cc}" \
    OPENMP="${OPENMP:-1}" install DESTDIR="$root" PREFIX=/usr
check "nothing is installed elsewhere" test "$(ls "$root")" = usr
export PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_PATH="$root/usr/lib/pkgconfig" LD_LIBRARY_PATH="$root/usr/lib"

cat >"$work/embedder.c" <<'END'
#include <cbm-train.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TRAIN = 60, N_TEST = 20 };
static const char *const foods[] = {"tasty", "bland"}, *const staffs[] = {"kind", "rude"};
static const char *const concepts[] = {"food", "staff"};

static void check(scbm_status status, const char *what) {
    if (!status) return;
    fprintf(stderr, "%s: %s (%s)\n", what, cbm_last_error(), scbm_status_name(status));
    exit(1);
}

/* "the soup was tasty and the waiter rude" is of label 1: how many of the two are good. */
static void make_data(cbm_dataset *data, int first, int n, const cbm_dataset *like) {
    static const cbm_concept_column columns[] = {{"food", NULL}, {"staff", NULL}};
    const cbm_dataset_options options = {.concepts = columns,
                                         .n_concepts = 2,
                                         .label_classes = like ? &like->label_classes : NULL,
                                         .concept_classes = like ? like->concept_classes : NULL};
    check(cbm_dataset_begin(data, &options, NULL), "begin");
    for (int i = first; i < first + n; i++) {
        int food = i % 2, staff = i / 2 % 2;
        char text[96], label[2] = {(char)('0' + !food + !staff), 0};
        const char *const values[] = {foods[food], staffs[staff]};
        snprintf(text, sizeof text, "the soup was %s and the waiter %s on day %d", foods[food], staffs[staff], i);
        check(cbm_dataset_add(data, text, strlen(text), label, values), "add");
    }
    check(cbm_dataset_finish(data), "finish");
}

static void write_page(void *user, const cbm_train_history *history) {
    const cbm_dataset *test = user;
    cbm_model *model;
    cbm_context *ctx;
    cbm_training_report report = {.history = history, .validation = test};
    check(cbm_model_load(&model, "model.gguf", NULL), "load");
    check(cbm_context_create(&ctx, model, NULL), "context");
    check(cbm_evaluate(ctx, test, &report.evaluation), "evaluate");
    check(cbm_report_training_html("training.html", "model.gguf", model, &report, NULL), "training.html");
    cbm_context_free(ctx);
    cbm_model_free(model);
}

static void train(const cbm_dataset *data, const cbm_dataset *test) {
    const cbm_random_encoder_options small = {.hidden = 32, .blocks = 1, .heads = 2, .max_tokens = 32,
                                              .texts = data->text, .n_texts = data->n};
    const cbm_train_options options = {.epochs = 30, .batch_size = 8, .learning_rate = 3e-3, .head_learning_rate = 3e-2,
                                       .prune = {.method = "magnitude", .sparsity = 0.5, .start = 1, .end = 2},
                                       .on_end = write_page, .user = (void *)test};
    cbm_model *encoder;
    check(cbm_random_encoder_write("encoder.gguf", &small), "encoder");
    check(cbm_model_load(&encoder, "encoder.gguf", NULL), "load");
    check(cbm_train(encoder, data, test, concepts, "model.gguf", &options), "train");
    cbm_model_free(encoder);
}

static void use(const cbm_model *model, cbm_context *ctx, const cbm_dataset *test) {
    const cbm_evaluation *evaluation;
    const cbm_explanation *explanation;
    const cbm_intervention *intervention;
    const cbm_prediction *prediction;
    cbm_global_report *report;
    cbm_measures measures;
    check(cbm_evaluate(ctx, test, &evaluation), "evaluate");
    check(cbm_measure(&measures, NULL, test->label, evaluation->label, test->n, 1, &evaluation->n_labels, 100, 1, NULL), "measure");
    printf("accuracy %.2f\n", measures.value.accuracy);
    const cbm_global_options few = {.sample = 5};
    check(cbm_global_report_create(&report, ctx, test->text, test->text_length, test->n, &few), "global");
    check(cbm_report_global_html("global.html", "model.gguf", model, report, NULL), "global.html");
    cbm_global_report_free(report);
    check(cbm_explain(ctx, test->text[0], NULL, &explanation), "explain");
    check(cbm_report_html("text.html", "model.gguf", model, test->text[0], test->text_length[0], explanation, NULL), "text.html");
    check(cbm_report_png("masks.png", "model.gguf", model, explanation->subnetworks, NULL), "masks.png");
    check(cbm_predict(ctx, test->text[0], &prediction), "predict");
    const char *wanted = cbm_model_concept_class(model, 1, !prediction->concepts[1].class_index);
    check(cbm_intervene_report(ctx, "staff", wanted, NULL, &intervention), "intervene");
    printf("%s: %s, label %s to %s\n", wanted, intervention->succeeded ? "it reads that" : "it does not", intervention->before->label,
           intervention->after->label);
}

int main(void) {
    cbm_dataset data, test;
    cbm_model *model;
    cbm_context *ctx;
    if (scbm_version() != SCBM_VERSION) return 2;
    make_data(&data, 0, N_TRAIN, NULL);
    make_data(&test, 1000, N_TEST, &data);
    train(&data, &test);
    check(cbm_model_load(&model, "model.gguf", NULL), "load");
    check(cbm_context_create(&ctx, model, NULL), "context");
    use(model, ctx, &test);
    cbm_context_free(ctx);
    cbm_model_free(model);
    check(cbm_convert("nowhere", "x.gguf", NULL, NULL) ? SCBM_OK : SCBM_ERROR_IO, "a folder that is not there");
    check(cbm_quantize("model.gguf", "small.gguf", SCBM_Q8_0, NULL, NULL), "quantize");
    cbm_dataset_clear(&data);
    cbm_dataset_clear(&test);
    return 0;
}
END
cd "$work" || exit 1
check "it compiles with pkg-config's flags alone" \
    sh -c "${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror embedder.c \$(pkg-config --cflags --libs sparsecbm-train) -o embedder"
check "it runs" sh -c "./embedder >said && grep -q '^accuracy 1.00' said && grep -q 'it reads that, label 2 to 1' said"
for page in training.html global.html text.html; do
    check "$page is whole" sh -c "tail -n 1 $page | grep -q '</html>'"
done
check "masks.png is a picture" sh -c "head -c 8 masks.png | tail -c 7 | grep -q PNG"
check "the program reads its model" sh -c "'$root/usr/bin/sparsecbm' inspect small.gguf | grep -q q8_0"
check "it links one of ours, and no library of the tree" sh -c "test \"\$(ldd embedder | grep -c sparsecbm)\" = 1"
finish
