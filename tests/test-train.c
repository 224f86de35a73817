/*
 * tests/test-train.c - training: what each mode learns and writes, the same bits again, and going on after a stop
 */
#define _XOPEN_SOURCE 700

#include "tests/small-encoder.h"

#include "models/core/keys.h"
#include "models/prune/prune.h"

#include <sys/wait.h>
#include <unistd.h>

static cbm_model *encoder;
static cbm_dataset train_data, valid_data;

enum { N_TRAIN = 120, N_VALID = 60 };

static int set_up(void **state) {
    if (make_folder(state)) return -1;
    assert_ok(small_encoder(in_folder("encoder.gguf"), NULL));
    encoder = load(in_folder("encoder.gguf"));
    assert_ok(small_data(&train_data, 0, N_TRAIN));
    assert_ok(small_data(&valid_data, 1000, N_VALID));
    return 0;
}

static int tear_down(void **state) {
    cbm_model_free(encoder);
    cbm_dataset_clear(&train_data);
    cbm_dataset_clear(&valid_data);
    return remove_folder(state);
}

/* Settings that learn the small task in a second. */
static const char *output; /* where runs write */

static cbm_train_options options_for(cbm_mode mode, const char *path) {
    cbm_train_options o = {0};
    o.mode = mode;
    o.epochs = 3;
    o.batch_size = 16;
    o.learning_rate = 2e-3;
    o.head_learning_rate = 1e-2;
    output = path;
    o.hooks = &one_thread;
    return o;
}

static scbm_status train(const cbm_train_options *o) {
    return cbm_train(encoder, &train_data, &valid_data, small_concepts, output, o);
}

/* Predictions of every text; they live as long as the context. */
static cbm_prediction *predict_all(cbm_context *ctx, const cbm_dataset *data) {
    cbm_prediction *p = calloc(data->n, sizeof *p);
    assert_non_null(p);
    scbm_status status = predict_values(ctx, (const char *const *)data->text, data->text_length, data->n, p);
    if (status) fail_msg("%s", cbm_context_error(ctx));
    return p;
}

/* ------------------------------------------------------------------------------------------
 * Settings
 * ---------------------------------------------------------------------------------------- */

static void the_defaults_are_those_of_the_manual(void **state) {
    cbm_train_options o;
    (void)state;
    assert_ok(cbm_train_settle(NULL, encoder, &o));
    assert_int_equal(o.mode, CBM_JOINT);
    assert_int_equal(o.epochs, 10);
    assert_int_equal(o.batch_size, 16);
    assert_int_equal(o.max_length, SMALL_MAX_TOKENS);
    assert_int_equal(o.seed, 42);
    assert_true(o.learning_rate == 1e-4 && o.head_learning_rate == 1e-3 && o.weight_decay == 0.01 && o.warmup == 0.06);
    assert_true(o.concept_weight == 5 && o.max_grad_norm == 1 && o.teacher_weight == 1 && o.temperature == 2);
    assert_true(o.dropout < 0 && o.mixup == 0 && o.patience == 0 && !o.resume && !o.teacher && !o.init);
    assert_null(o.prune.method);
    assert_true(o.prune.sparsity == 0.7 && o.prune.initial_sparsity == 0.2 && o.prune.damping == 0.1);
    assert_true(o.prune.start == 2 && o.prune.end == 15 && o.prune.fisher_block == 20 && o.prune.fisher_gradients == 80);
    const cbm_train_options pruned = {.prune = {.method = "obert", .sparsity = 0.1, .end = 7}, .batch_size = 3};
    assert_ok(cbm_train_settle(&pruned, NULL, &o));
    assert_true(o.epochs == 12 && o.prune.initial_sparsity == 0.1 && o.prune.fisher_texts == 3 && o.max_length == 0);
}

/* All zeros, no options at all, and every default that is a number spelled out. */
static void zeros_are_the_defaults_to_the_bit(void **state) {
    (void)state;
    static const char *const names[] = {"zeros.gguf", "null.gguf", "spelled.gguf"};
    cbm_train_options zeros = {0}, spelled = {0};
    const cbm_train_setting *s;
    for (int i = 0; (s = cbm_train_setting_at(i)); i++)
        if (s->standard > 0) cbm_train_setting_set_number(s, &spelled, s->standard);
    assert_int_equal(spelled.batch_size, 16);
    const cbm_train_options *all[] = {&zeros, NULL, &spelled};
    for (int i = 0; i < 3; i++)
        assert_ok(cbm_train(encoder, &train_data, &valid_data, small_concepts, in_folder(names[i]), all[i]));
    for (int i = 1; i < 3; i++) assert_true(same_files(in_folder(names[0]), in_folder(names[i])));
    assert_true(same_files(in_folder("zeros.gguf.checkpoint"), in_folder("spelled.gguf.checkpoint")));
}

static void rows_of_settings_are_whole(void **state) {
    (void)state;
    const cbm_train_setting *s, *other;
    int n = 0;
    for (; (s = cbm_train_setting_at(n)); n++) {
        assert_ptr_equal(cbm_train_setting_find(s->key), s); /* no key twice */
        for (int i = 0; i < n; i++) {
            other = cbm_train_setting_at(i);
            if (strcmp(s->option, other->option) == 0 || s->offset == other->offset) fail_msg("%s twice", s->option);
        }
        assert_true(s->group && s->help && s->offset < sizeof(cbm_train_options));
        assert_null(strstr(s->help, "--")); /* nothing of a command line */
        assert_null(strchr(s->option, '_'));
        assert_null(strchr(s->key, '-'));
        if (s->kind == CBM_SETTING_CHOICE) assert_non_null(s->choice((int)s->least));
        if (s->standard > 0) assert_true(s->standard >= s->least && s->standard <= s->most);
        if (s->flags & CBM_SETTING_HAS_ZERO) assert_true(s->least == 0);
        for (const char *need = s->needs; need; need = strchr(need, ',') ? strchr(need, ',') + 1 : NULL) {
            char key[64];
            int is_not = need[0] == '!';
            snprintf(key, sizeof key, "%.*s", (int)strcspn(need + is_not, "=,"), need + is_not);
            other = cbm_train_setting_find(key);
            if (!other || other > s) fail_msg("%s needs %s, which does not stand before it", s->key, key);
        }
    }
    assert_null(cbm_train_setting_at(-1));
    assert_null(cbm_train_setting_find("nothing"));
    assert_true(n > 30);
}

static const char *unmet(const char *key, cbm_train_options o) {
    cbm_train_options settled;
    (void)cbm_train_settle(&o, NULL, &settled);
    return cbm_train_setting_unmet(cbm_train_setting_find(key), &settled);
}

static void settings_say_what_they_need(void **state) {
    (void)state;
    cbm_train_options o = {0};
    assert_null(unmet("learning_rate", o));
    assert_null(unmet("concept_weight", o));
    assert_string_equal(unmet("sparsity", o), "prune_method");
    assert_string_equal(unmet("damping", o), "prune_method=obert,!damping_absolute");
    assert_string_equal(unmet("temperature", o), "teacher");
    o.teacher = "teacher.gguf";
    assert_null(unmet("temperature", o));
    o.prune.method = "popup";
    assert_null(unmet("sparsity", o));
    assert_null(unmet("freeze_weights", o));
    assert_string_equal(unmet("fisher_block", o), "prune_method=obert");
    o.prune.method = "obert";
    assert_null(unmet("damping", o));
    assert_non_null(unmet("freeze_weights", o));
    o.prune.damping_absolute = 1e-7;
    assert_string_equal(unmet("damping", o), "!damping_absolute");
    o.mode = CBM_SEQUENTIAL;
    assert_string_equal(unmet("concept_weight", o), "mode=joint");
    assert_null(unmet("concept_loss", o));
    o.mode = CBM_VANILLA;
    assert_non_null(unmet("concept_loss", o));
    assert_non_null(unmet("sparsity", o)); /* what prune_method itself needs is not there */
}

static void settings_are_read_and_written_by_their_rows(void **state) {
    (void)state;
    cbm_train_options o = {0};
    const cbm_train_setting *mode = cbm_train_setting_find("mode"), *rate = cbm_train_setting_find("learning_rate"),
                            *memory = cbm_train_setting_find("fisher_memory"), *seed = cbm_train_setting_find("seed");
    cbm_train_setting_set_text(mode, &o, "sequential");
    assert_int_equal(o.mode, CBM_SEQUENTIAL);
    assert_string_equal(cbm_train_setting_text(mode, &o), "sequential");
    cbm_train_setting_set_number(rate, &o, 0);
    assert_true(o.learning_rate < 0); /* 0 is a value here */
    cbm_train_setting_set_number(rate, &o, 0.25);
    assert_true(o.learning_rate == 0.25 && cbm_train_setting_number(rate, &o) == 0.25);
    cbm_train_setting_set_number(memory, &o, 3);
    assert_true(o.prune.fisher_memory == 3 << 20 && cbm_train_setting_number(memory, &o) == 3);
    cbm_train_setting_set_number(seed, &o, 9e15);
    assert_true(o.seed == INT64_C(9000000000000000));
    cbm_train_setting_set_text(cbm_train_setting_find("teacher"), &o, "a.gguf");
    assert_string_equal(o.teacher, "a.gguf");
    cbm_train_options settled;
    assert_ok(cbm_train_settle(&(cbm_train_options){.seed = -1, .learning_rate = -1, .epochs = -1, .dropout = -1}, NULL, &settled));
    assert_true(settled.seed == 0 && settled.learning_rate == 0 && settled.epochs == 0 && settled.dropout == 0);
}

/* ------------------------------------------------------------------------------------------
 * What is learned
 * ---------------------------------------------------------------------------------------- */

/* The share of the validation texts whose label and concepts are right. */
static void accuracy_of(const char *path, double *label, double *concepts) {
    cbm_model *model = load(path);
    size_t right = 0, concept_right = 0;
    cbm_context *ctx = context_for(model);
    cbm_prediction *p = predict_all(ctx, &valid_data);
    for (size_t i = 0; i < valid_data.n; i++) {
        right += p[i].label_index == valid_data.label[i];
        for (int k = 0; k < p[i].n_concepts; k++)
            concept_right += p[i].concepts[k].class_index == valid_data.concept_class[i * SMALL_CONCEPTS + (size_t)k];
    }
    *label = (double)right / (double)valid_data.n;
    *concepts = (double)concept_right / (double)(valid_data.n * SMALL_CONCEPTS);
    free(p);
    cbm_context_free(ctx);
    cbm_model_free(model);
}

/* A third of the texts has each label at most half, so 0.9 is far above guessing. */
static void every_mode_learns_and_reports_what_it_wrote(void **state) {
    (void)state;
    for (cbm_mode mode = CBM_VANILLA; mode <= CBM_JOINT; mode++) {
        const char *path = in_folder("learned.gguf");
        cbm_train_options o = options_for(mode, path);
        reports r = {.n = 0};
        double label, concepts;
        int best = -1;
        o.epochs = 16;
        o.on_epoch = keep_report;
        o.user = &r;
        assert_ok(train(&o));
        assert_int_equal(r.n, 16);
        for (int e = 0; e < r.n; e++) {
            assert_int_equal(r.report[e].epoch, e + 1);
            assert_int_equal(r.report[e].epochs, 16);
            int is_better = best < 0 || r.report[e].score > r.report[best].score;
            assert_int_equal(r.report[e].is_best, is_better);
            if (is_better) best = e;
        }
        assert_true(r.report[15].train_loss < 0.5 * r.report[0].train_loss);
        accuracy_of(path, &label, &concepts);
        if (label < 0.9) fail_msg("%s mode: label accuracy %g", cbm_mode_name(mode), label);
        assert_float_equal(label, r.report[best].label_accuracy, 1e-9);
        if (mode != CBM_VANILLA) {
            assert_true(concepts >= 0.9);
            assert_float_equal(concepts, r.report[best].concept_accuracy, 1e-9);
            assert_float_equal(r.report[best].score, (label + concepts) / 2, 1e-9);
        } else {
            assert_float_equal(r.report[best].score, label, 1e-9);
        }
        cbm_model *model = load(path);
        assert_int_equal(scbm_file_int_or(model->file, "sparsecbm.train.epoch", -1), best + 1);
        assert_int_equal(scbm_file_int_or(model->file, "sparsecbm.train.seed", -1), 42);
        assert_int_equal(scbm_file_int_or(model->file, "sparsecbm.train.texts", -1), N_TRAIN);
        assert_float_equal(scbm_file_float_or(model->file, "sparsecbm.train.label_accuracy", -1), label, 1e-6);
        cbm_model_free(model);
    }
}

static void a_model_file_holds_what_its_mode_needs(void **state) {
    (void)state;
    for (cbm_mode mode = CBM_VANILLA; mode <= CBM_JOINT; mode++) {
        const char *path = in_folder("parts.gguf");
        cbm_train_options o = options_for(mode, path);
        o.epochs = 1;
        assert_ok(train(&o));
        cbm_model *model = load(path);
        int is_vanilla = mode == CBM_VANILLA;
        assert_int_equal(cbm_model_mode(model), mode);
        assert_int_equal(cbm_model_n_concepts(model), is_vanilla ? 0 : SMALL_CONCEPTS);
        assert_int_equal(cbm_model_n_labels(model), SMALL_LABELS);
        assert_string_equal(cbm_model_label(model, 2), "high");
        const scbm_tensor *label = scbm_file_find_tensor(model->file, CBM_LABEL_WEIGHT);
        assert_int_equal(label->shape[1], is_vanilla ? 32 : SMALL_CLASSES);
        assert_int_equal(scbm_file_find_tensor(model->file, CBM_CONCEPT_WEIGHT) == NULL, is_vanilla);
        assert_int_equal(scbm_file_find_tensor(model->file, CBM_GOLD_MEANS) == NULL, is_vanilla);
        if (!is_vanilla) {
            assert_string_equal(cbm_model_concept(model, 1), "staff");
            assert_int_equal(cbm_model_n_concept_classes(model, 0), 3);
            assert_string_equal(cbm_model_concept_class(model, 1, 1), "rude");
        }
        cbm_model_free(model);
    }
}

/* u by hand: softmax of each concept's logits in independent mode, else the logits. */
static void values_of(cbm_mode mode, const cbm_prediction *p, double u[SMALL_CLASSES]) {
    int c = 0;
    for (int k = 0; k < p->n_concepts; k++) {
        double total = 0.0;
        for (int j = 0; j < p->concepts[k].n_classes; j++) total += exp((double)p->concepts[k].logits[j]);
        for (int j = 0; j < p->concepts[k].n_classes; j++, c++)
            u[c] = mode == CBM_INDEPENDENT ? exp((double)p->concepts[k].logits[j]) / total
                                           : (double)p->concepts[k].logits[j];
    }
}

static void the_label_reads_softmax_or_logits_by_mode(void **state) {
    (void)state;
    for (cbm_mode mode = CBM_INDEPENDENT; mode <= CBM_JOINT; mode++) {
        cbm_train_options o = options_for(mode, in_folder("reads.gguf"));
        assert_ok(train(&o));
        cbm_model *model = load(output);
        cbm_context *ctx = context_for(model);
        const float *weight = model->network.heads.label_weight->data, *bias = model->network.heads.label_bias->data;
        cbm_prediction *p = predict_all(ctx, &valid_data);
        for (size_t i = 0; i < valid_data.n; i++) {
            double u[SMALL_CLASSES];
            values_of(mode, &p[i], u);
            for (int y = 0; y < SMALL_LABELS; y++) {
                double logit = (double)bias[y];
                for (int c = 0; c < SMALL_CLASSES; c++) logit += (double)weight[y * SMALL_CLASSES + c] * u[c];
                assert_float_equal(p[i].logits[y], logit, 1e-4);
            }
        }
        free(p);
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
}

static void statistics_are_means_over_the_training_data(void **state) {
    (void)state;
    for (cbm_mode mode = CBM_INDEPENDENT; mode <= CBM_JOINT; mode++) {
        cbm_train_options o = options_for(mode, in_folder("statistics.gguf"));
        double mean[SMALL_CLASSES] = {0}, gold[SMALL_CLASSES][3] = {{0}};
        int count[SMALL_CLASSES] = {0};
        train_data.concept_class[0] = -1; /* a missing class counts in no gold mean */
        assert_ok(train(&o));
        cbm_model *model = load(output);
        cbm_context *ctx = context_for(model);
        cbm_prediction *p = predict_all(ctx, &train_data);
        for (size_t i = 0; i < N_TRAIN; i++) {
            double u[SMALL_CLASSES];
            values_of(mode, &p[i], u);
            for (int c = 0; c < SMALL_CLASSES; c++) mean[c] += u[c] / N_TRAIN;
            int32_t taste = train_data.concept_class[i * 2], staff = train_data.concept_class[i * 2 + 1];
            if (taste >= 0) {
                count[taste]++;
                for (int j = 0; j < 3; j++) gold[taste][j] += u[j];
            }
            count[3 + staff]++;
            for (int j = 0; j < 2; j++) gold[3 + staff][j] += u[3 + j];
        }
        for (int c = 0; c < SMALL_CLASSES; c++) {
            assert_float_equal(((const float *)model->concept_mean->data)[c], mean[c], 1e-4);
            assert_int_equal(((const int32_t *)model->gold_counts->data)[c], count[c]);
            for (int j = 0; j < 3; j++)
                assert_float_equal(((const float *)model->gold_means->data)[c * 3 + j], gold[c][j] / count[c], 1e-4);
        }
        free(p);
        cbm_context_free(ctx);
        cbm_model_free(model);
        train_data.concept_class[0] = 0;
        int32_t label;
        char text[512];
        small_text(text, sizeof text, 0, train_data.concept_class, &label);
    }
}

/* The largest entry of the logistic loss's gradient, at the model's label head, on values u [n, C]. */
static double head_gradient(const cbm_model *model, const double *u, const cbm_dataset *data) {
    const float *weight = model->network.heads.label_weight->data, *bias = model->network.heads.label_bias->data;
    double gradient[SMALL_LABELS][SMALL_CLASSES + 1] = {{0}}, largest = 0.0;
    for (size_t i = 0; i < data->n; i++) {
        double p[SMALL_LABELS], total = 0.0;
        for (int y = 0; y < SMALL_LABELS; y++) {
            double logit = (double)bias[y];
            for (int c = 0; c < SMALL_CLASSES; c++)
                logit += (double)weight[y * SMALL_CLASSES + c] * u[i * SMALL_CLASSES + (size_t)c];
            total += p[y] = exp(logit);
        }
        for (int y = 0; y < SMALL_LABELS; y++) {
            double error = (p[y] / total - (data->label[i] == y)) / (double)data->n;
            for (int c = 0; c < SMALL_CLASSES; c++) gradient[y][c] += error * u[i * SMALL_CLASSES + (size_t)c];
            gradient[y][SMALL_CLASSES] += error;
        }
    }
    for (int y = 0; y < SMALL_LABELS; y++)
        for (int c = 0; c <= SMALL_CLASSES; c++) largest = fmax(largest, fabs(gradient[y][c]));
    return largest;
}

/* Every seventh label is wrong, so that no head is without error and the best one is finite: there the gradient is 0. */
static void the_label_head_of_two_steps_is_the_best_one(void **state) {
    (void)state;
    int32_t labels[N_TRAIN];
    memcpy(labels, train_data.label, sizeof labels);
    for (size_t i = 0; i < N_TRAIN; i += 7) train_data.label[i] = (train_data.label[i] + 1) % SMALL_LABELS;
    for (cbm_mode mode = CBM_INDEPENDENT; mode <= CBM_SEQUENTIAL; mode++) {
        cbm_train_options o = options_for(mode, in_folder("head.gguf"));
        static double u[N_TRAIN * SMALL_CLASSES];
        assert_ok(train(&o));
        cbm_model *model = load(output);
        cbm_context *ctx = context_for(model);
        cbm_prediction *p = predict_all(ctx, &train_data);
        memset(u, 0, sizeof u);
        for (size_t i = 0; i < N_TRAIN; i++) {
            double *row = u + i * SMALL_CLASSES;
            if (mode == CBM_SEQUENTIAL) values_of(mode, &p[i], row);
            else row[train_data.concept_class[i * 2]] = row[3 + train_data.concept_class[i * 2 + 1]] = 1.0;
        }
        double gradient = head_gradient(model, u, &train_data);
        if (gradient > 2e-3) fail_msg("%s mode: the label head's gradient is %g", cbm_mode_name(mode), gradient);
        free(p);
        cbm_context_free(ctx);
        cbm_model_free(model);
    }
    memcpy(train_data.label, labels, sizeof labels);
}

/* ------------------------------------------------------------------------------------------
 * The loss, by hand: with rates of 0 the only step's loss is that of the model that was set up
 * ---------------------------------------------------------------------------------------- */

typedef struct loss_case {
    cbm_mode mode;
    cbm_concept_loss concept_loss;
    int class_weights, ignored; /* ignored: some labels and concepts are missing */
} loss_case;

typedef struct weighted_loss {
    double loss, weight;
} weighted_loss;

static void add_cross_entropy(weighted_loss *sum, const float *logits, int n, int32_t target, int sigmoid,
                              double weight) {
    double total = 0.0, score = 0.0;
    if (target < 0) return;
    for (int c = 0; c < n; c++) {
        double s = sigmoid ? 1.0 / (1.0 + exp(-(double)logits[c])) : (double)logits[c];
        total += exp(s);
        if (c == target) score = s;
    }
    sum->loss += weight * (log(total) - score);
    sum->weight += weight;
}

/* n / (classes · count), where class weights are asked for. */
static double class_weight(const loss_case *what, const int32_t *gold, size_t stride, int n_classes, int32_t target) {
    double known = 0.0, count = 0.0;
    for (size_t i = 0; i < train_data.n; i++) {
        known += gold[i * stride] >= 0;
        count += gold[i * stride] == target;
    }
    return what->class_weights && target >= 0 ? known / (n_classes * count) : 1.0;
}

static double loss_by_hand(const loss_case *what, const cbm_prediction *p, double lambda) {
    weighted_loss label = {0, 0}, concept = {0, 0};
    for (size_t i = 0; i < train_data.n; i++) {
        int32_t target = train_data.label[i];
        add_cross_entropy(&label, p[i].logits, SMALL_LABELS, target, 0,
                          class_weight(what, train_data.label, 1, SMALL_LABELS, target));
        for (int k = 0; k < p[i].n_concepts; k++) {
            int n = p[i].concepts[k].n_classes;
            target = train_data.concept_class[i * 2 + (size_t)k];
            add_cross_entropy(&concept, p[i].concepts[k].logits, n, target, what->concept_loss == CBM_LOSS_SIGMOID,
                              class_weight(what, train_data.concept_class + k, 2, n, target));
        }
    }
    if (what->mode == CBM_VANILLA) return label.loss / label.weight;
    if (what->mode != CBM_JOINT) return concept.loss / concept.weight;
    return label.loss / label.weight + lambda * concept.loss / concept.weight;
}

static void check_loss(const loss_case *what) {
    cbm_train_options o = options_for(what->mode, in_folder("loss.gguf"));
    reports r = {.n = 0};
    double logged;
    o.concept_loss = what->concept_loss;
    o.class_weights = what->class_weights;
    o.concept_weight = 3.5;
    o.epochs = -1;
    assert_ok(train(&o));
    cbm_model *model = load(output);
    cbm_context *ctx = context_for(model);
    cbm_prediction *p = predict_all(ctx, &train_data);
    double wanted = loss_by_hand(what, p, 3.5);
    free(p);
    cbm_context_free(ctx);
    cbm_model_free(model);
    o.epochs = 1;
    o.batch_size = 1000;
    o.learning_rate = o.head_learning_rate = o.dropout = -1;
    o.step_log = in_folder("loss.csv");
    o.on_epoch = keep_report;
    o.user = &r;
    assert_ok(cbm_train(encoder, &train_data, &train_data, small_concepts, output, &o));
    char *log = read_file(o.step_log, NULL);
    assert_int_equal(sscanf(log, "step,loss,norm\n1,%lf,", &logged), 1);
    free(log);
    assert_float_equal(logged, wanted, 1e-4 * wanted);
    assert_float_equal(r.report[0].train_loss, wanted, 1e-4 * wanted);
    assert_float_equal(r.report[0].valid_loss, wanted, 1e-4 * wanted);
}

static void the_loss_is_what_the_method_says(void **state) {
    (void)state;
    static const loss_case cases[] = {
        {CBM_VANILLA, CBM_LOSS_PLAIN, 0, 0},      {CBM_INDEPENDENT, CBM_LOSS_PLAIN, 0, 0},
        {CBM_SEQUENTIAL, CBM_LOSS_SIGMOID, 0, 0}, {CBM_JOINT, CBM_LOSS_PLAIN, 0, 0},
        {CBM_JOINT, CBM_LOSS_SIGMOID, 0, 0},      {CBM_JOINT, CBM_LOSS_PLAIN, 1, 0},
        {CBM_JOINT, CBM_LOSS_SIGMOID, 1, 1},      {CBM_JOINT, CBM_LOSS_PLAIN, 0, 1},
        {CBM_VANILLA, CBM_LOSS_PLAIN, 1, 1},
    };
    int32_t labels[N_TRAIN], concepts[N_TRAIN * 2];
    memcpy(labels, train_data.label, sizeof labels);
    memcpy(concepts, train_data.concept_class, sizeof concepts);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t row = 0; row < N_TRAIN && cases[i].ignored; row += 5) {
            train_data.label[row] = -1;
            train_data.concept_class[2 * row + row % 2] = -1;
        }
        check_loss(&cases[i]);
        memcpy(train_data.label, labels, sizeof labels);
        memcpy(train_data.concept_class, concepts, sizeof concepts);
    }
}

/* Σ −q log p over a softmax, q and p at temperature τ. */
static double taught_cross_entropy(const float *teacher, const float *student, int n, double temperature) {
    double q = 0.0, p = 0.0, sum = 0.0;
    for (int c = 0; c < n; c++) q += exp((double)teacher[c] / temperature), p += exp((double)student[c] / temperature);
    for (int c = 0; c < n; c++)
        sum -= exp((double)teacher[c] / temperature) / q * ((double)student[c] / temperature - log(p));
    return sum;
}

/* What a teacher adds: weight τ² (the label's mean + λ the concepts' mean). */
static double taught_loss(cbm_mode mode, const cbm_train_options *o, const cbm_prediction *teacher,
                          const cbm_prediction *student) {
    double label = 0.0, concept = 0.0, t = (double)o->temperature, scale = (double)o->teacher_weight * t * t;
    for (size_t i = 0; i < train_data.n; i++) {
        label += taught_cross_entropy(teacher[i].logits, student[i].logits, SMALL_LABELS, t) / N_TRAIN;
        for (int k = 0; k < student[i].n_concepts; k++)
            concept += taught_cross_entropy(teacher[i].concepts[k].logits, student[i].concepts[k].logits,
                                            student[i].concepts[k].n_classes, t) / (2 * N_TRAIN);
    }
    if (mode == CBM_VANILLA) return scale * label;
    return mode == CBM_JOINT ? scale * (label + (double)o->concept_weight * concept) : scale * concept;
}

static cbm_prediction *predict_with(const char *path, cbm_context **ctx, cbm_model **model) {
    *model = load(path);
    assert_ok(cbm_context_create(ctx, *model, NULL));
    return predict_all(*ctx, &train_data);
}

static void a_teacher_adds_its_cross_entropy(void **state) {
    (void)state;
    static const cbm_mode modes[] = {CBM_JOINT, CBM_SEQUENTIAL, CBM_VANILLA};
    char teacher_path[128];
    snprintf(teacher_path, sizeof teacher_path, "%s", in_folder("teacher.gguf"));
    cbm_train_options lesson = options_for(CBM_JOINT, teacher_path);
    lesson.seed = 7;
    lesson.epochs = 3;
    assert_ok(train(&lesson));
    for (int i = 0; i < 3; i++) {
        cbm_train_options o = options_for(modes[i], in_folder("taught.gguf"));
        cbm_context *ctx[2];
        cbm_model *model[2];
        reports r = {.n = 0};
        loss_case gold = {modes[i], CBM_LOSS_PLAIN, 0, 0};
        o.concept_weight = 3.5;
        o.teacher_weight = 0.7;
        o.temperature = 1.5;
        o.epochs = -1;
        assert_ok(train(&o));
        cbm_prediction *teacher = predict_with(teacher_path, &ctx[0], &model[0]);
        cbm_prediction *student = predict_with(output, &ctx[1], &model[1]);
        double plain = loss_by_hand(&gold, student, 3.5), taught = taught_loss(modes[i], &o, teacher, student);
        assert_true(taught > 0.1 * plain);
        o.epochs = 1;
        o.batch_size = 1000;
        o.learning_rate = o.head_learning_rate = o.dropout = -1;
        o.teacher = teacher_path;
        o.on_epoch = keep_report;
        o.user = &r;
        assert_ok(train(&o));
        assert_float_equal(r.report[0].train_loss, plain + taught, 1e-4 * (plain + taught));
        for (int j = 0; j < 2; j++) {
            free(j ? student : teacher);
            cbm_context_free(ctx[j]);
            cbm_model_free(model[j]);
        }
    }
}

static void students_come_near_their_teacher(void **state) {
    (void)state;
    char teacher_path[128];
    double distance[2] = {0, 0};
    snprintf(teacher_path, sizeof teacher_path, "%s", in_folder("teacher.gguf"));
    cbm_train_options lesson = options_for(CBM_JOINT, teacher_path);
    lesson.seed = 7;
    assert_ok(train(&lesson));
    for (int taught = 0; taught < 2; taught++) {
        cbm_train_options o = options_for(CBM_JOINT, in_folder("taught.gguf"));
        cbm_context *ctx[2];
        cbm_model *model[2];
        o.teacher = taught ? teacher_path : NULL;
        assert_ok(train(&o));
        cbm_prediction *teacher = predict_with(teacher_path, &ctx[0], &model[0]);
        cbm_prediction *student = predict_with(output, &ctx[1], &model[1]);
        for (size_t i = 0; i < train_data.n; i++)
            for (int y = 0; y < SMALL_LABELS; y++)
                distance[taught] += fabs((double)teacher[i].probabilities[y] - (double)student[i].probabilities[y]);
        for (int j = 0; j < 2; j++) {
            free(j ? student : teacher);
            cbm_context_free(ctx[j]);
            cbm_model_free(model[j]);
        }
    }
    assert_true(distance[1] < 0.8 * distance[0]);
}

static void teachers_must_fit(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("taught.gguf"));
    char path[128];
    snprintf(path, sizeof path, "%s", in_folder("vanilla.gguf"));
    cbm_train_options vanilla = options_for(CBM_VANILLA, path);
    vanilla.epochs = -1;
    assert_ok(train(&vanilla));
    o.teacher = path;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "vanilla mode has no concepts to teach");
    o.mixup = 0.4;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "MixUp");
    o.mixup = 0, o.temperature = 1e-4;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "temperature");
    o.temperature = 1, o.teacher = in_folder("no-teacher.gguf");
    assert_error(train(&o), SCBM_ERROR_IO, "no-teacher.gguf");
}

/* Of a teacher with concepts, on data that have none. */
static void vanilla_students_learn_labels_alone(void **state) {
    (void)state;
    char teacher[128];
    snprintf(teacher, sizeof teacher, "%s", in_folder("teacher.gguf"));
    cbm_train_options lesson = options_for(CBM_JOINT, teacher);
    cbm_dataset bare = train_data, bare_valid = valid_data;
    lesson.epochs = 1;
    assert_ok(train(&lesson));
    cbm_train_options o = options_for(CBM_VANILLA, in_folder("taught.gguf"));
    bare.n_concepts = bare_valid.n_concepts = 0;
    o.teacher = teacher;
    assert_ok(cbm_train(encoder, &bare, &bare_valid, NULL, output, &o));
}

/* ------------------------------------------------------------------------------------------
 * The same bits
 * ---------------------------------------------------------------------------------------- */

static void the_same_seed_gives_the_same_bits(void **state) {
    (void)state;
    const scbm_hooks two_threads = {.n_workers = 2};
    cbm_train_options o = options_for(CBM_JOINT, in_folder("first.gguf"));
    o.mixup = 0.4;
    assert_ok(train(&o));
    output = in_folder("again.gguf");
    o.hooks = &two_threads;
    assert_ok(train(&o));
    assert_true(same_files(in_folder("first.gguf"), output));
    o.hooks = &one_thread;
    o.mixup = 0.0;
    assert_ok(train(&o));
    assert_false(same_files(in_folder("first.gguf"), output));
    output = in_folder("plain.gguf");
    o.seed = 43;
    assert_ok(train(&o));
    assert_false(same_files(in_folder("again.gguf"), output));
}

typedef struct stopper {
    int64_t stop_at; /* this step */
    int is_killed;   /* the process ends there, as kill -9 would have it */
    int64_t steps, total;
} stopper;

static int stop_there(void *user, const char *what, int64_t done, int64_t total) {
    stopper *s = user;
    assert_string_not_equal(what, "graph"); /* progress is the training's, not that of each of its graphs */
    if (strcmp(what, "train") != 0) return 0;
    s->steps = done;
    s->total = total;
    if (done != s->stop_at) return 0;
    if (s->is_killed) _exit(3);
    return 1;
}

static void run_in_a_process_that_dies(cbm_train_options o, int64_t at) {
    stopper s = {at, 1, 0, 0};
    scbm_hooks hooks = {.user = &s, .progress = stop_there, .n_workers = 1};
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        o.hooks = &hooks;
        cbm_train(encoder, &train_data, &valid_data, small_concepts, output, &o);
        _exit(4); /* it should not come so far */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
}

static void forget(const char *name) {
    char path[200];
    snprintf(path, sizeof path, "%s.checkpoint", in_folder(name));
    remove(in_folder(name));
    remove(path);
}

/* 8 steps an epoch, 4 epochs: dies in the first and in the third epoch. */
static void a_killed_run_goes_on_to_the_same_bits(void **state) {
    (void)state;
    needs_fork();
    static const char *const names[] = {"joint", "mixup", "sequential", "independent", "vanilla", "pruned", "patient", "accumulated", "frozen"};
    for (int way = 0; way < 9; way++) {
        cbm_train_options o = options_for(way == 2   ? CBM_SEQUENTIAL
                                          : way == 3 ? CBM_INDEPENDENT
                                          : way == 4 ? CBM_VANILLA
                                                     : CBM_JOINT,
                                          in_folder("whole.gguf"));
        o.epochs = 4;
        o.mixup = way == 1 ? 0.4 : 0;
        o.patience = way == 6 ? 2 : 0;
        o.batch_size = way == 7 ? 8 : 16;
        o.accumulate = way == 7 ? 2 : 1;
        o.freeze = way == 8 ? "1" : NULL;
        o.prune.method = way == 5 ? "magnitude" : NULL;
        o.prune.start = 1;
        o.prune.end = 3;
        o.step_log = in_folder("whole.csv");
        o.order_log = in_folder("whole.txt");
        o.epoch_log = in_folder("whole-epochs.csv");
        assert_ok(train(&o));
        output = in_folder("resumed.gguf");
        o.step_log = in_folder("resumed.csv");
        o.order_log = in_folder("resumed.txt");
        o.epoch_log = in_folder("resumed-epochs.csv");
        o.resume = 1;
        for (int64_t at = 5; at <= 21; at += 16) {
            forget("resumed.gguf");
            run_in_a_process_that_dies(o, at);
            assert_int_equal(exists(in_folder("resumed.gguf.checkpoint")), at > 8);
            assert_ok(train(&o));
            if (!same_files(in_folder("whole.gguf"), output))
                fail_msg("%s, killed in step %d: another model", names[way], (int)at);
            assert_true(same_files(in_folder("whole.gguf.checkpoint"), in_folder("resumed.gguf.checkpoint")));
            assert_true(same_files(in_folder("whole.csv"), o.step_log));
            assert_true(same_files(in_folder("whole.txt"), o.order_log));
            assert_true(same_files(in_folder("whole-epochs.csv"), o.epoch_log));
        }
        reports r = {.n = 0};
        o.on_epoch = keep_report;
        o.user = &r;
        assert_ok(train(&o)); /* nothing is left to do */
        assert_int_equal(r.n, 0);
        assert_true(same_files(in_folder("whole.gguf"), output));
    }
}

typedef struct canceller {
    long asked, at; /* from 1; 0: never */
} canceller;

static int cancel_there(void *user) {
    canceller *c = user;
    return ++c->asked == c->at;
}

/* At whatever moment: nothing is left behind but whole files, and the next run is as if there had been none. */
static void a_run_can_be_cancelled_anywhere(void **state) {
    (void)state;
    canceller c = {0, 0};
    scbm_hooks hooks = {.user = &c, .cancel = cancel_there, .n_workers = 1};
    cbm_train_options o = options_for(CBM_SEQUENTIAL, in_folder("whole.gguf"));
    o.epochs = 1;
    o.hooks = &hooks;
    assert_ok(train(&o));
    assert_true(c.asked > 50);
    output = in_folder("cancelled.gguf");
    for (long at = 1, n = c.asked; at <= n; at += 1 + n / 40) {
        forget("cancelled.gguf");
        c = (canceller){0, at};
        assert_error(train(&o), SCBM_ERROR_CANCELLED, "cancelled");
        assert_int_equal(c.asked, at);
    }
    c.at = 0;
    assert_ok(train(&o));
    assert_true(same_files(in_folder("whole.gguf"), output));
}

typedef struct kept_history {
    reports r;
    int n_ends, best_epoch;
    int64_t n_steps;
    double last_norm;
} kept_history;

static void keep_history(void *user, const cbm_train_history *history) {
    kept_history *kept = user;
    kept->n_ends++;
    kept->best_epoch = history->best_epoch;
    kept->n_steps = history->n_steps;
    kept->last_norm = (double)history->step_norm[history->n_steps - 1];
    kept->r.n = history->n_epochs;
    memcpy(kept->r.report, history->epoch, (size_t)history->n_epochs * sizeof *history->epoch);
}

static void same_history(const kept_history *a, const kept_history *b) {
    assert_true(a->n_ends == 1 && b->n_ends == 1 && a->r.n == b->r.n && a->n_steps == b->n_steps);
    assert_true(a->best_epoch == b->best_epoch && a->last_norm == b->last_norm);
    for (int e = 0; e < a->r.n; e++) {
        const cbm_epoch_report *x = &a->r.report[e], *y = &b->r.report[e];
        assert_true(x->epoch == y->epoch && x->is_best == y->is_best);
        assert_float_equal(x->train_loss, y->train_loss, 1e-6); /* a checkpoint has floats */
        assert_float_equal(x->concept_f1, y->concept_f1, 1e-6);
        assert_float_equal(x->score, y->score, 1e-6);
    }
}

/* Of a run that goes on, and of one that was over, too. */
static void a_run_tells_its_whole_history(void **state) {
    (void)state;
    needs_fork();
    kept_history whole = {0}, resumed = {0}, over = {0};
    cbm_train_options o = options_for(CBM_JOINT, in_folder("whole.gguf"));
    char line[2000], header[400];
    o.on_end = keep_history;
    o.user = &whole;
    o.epochs = 4;
    o.epoch_log = in_folder("epochs.csv");
    assert_ok(train(&o));
    assert_true(whole.r.n == 4 && whole.n_steps == 32 && whole.r.report[whole.best_epoch - 1].is_best);
    snprintf(header, sizeof header, "epoch,train_loss,validation_loss,label_accuracy,label_f1,concept_accuracy,concept_f1,"
                                    "sparsity,magnitude_overlap,score,best\n");
    FILE *file = fopen(o.epoch_log, "r");
    assert_true(file && fgets(line, sizeof line, file));
    assert_string_equal(line, header);
    for (int e = 0; e < 4; e++) {
        double loss, rest;
        int epoch, best, end = 0;
        assert_non_null(fgets(line, sizeof line, file));
        assert_true(sscanf(line, "%d,%lf,%lf,%lf,%lf,%lf,%lf,0,,%lf,%d\n%n", &epoch, &loss, &rest, &rest, &rest, &rest, &rest, &rest, &best, &end) == 9 && end);
        assert_true(epoch == e + 1 && best == whole.r.report[e].is_best);
        assert_float_equal(loss, whole.r.report[e].train_loss, 1e-6);
    }
    fclose(file);
    output = in_folder("resumed.gguf");
    forget("resumed.gguf");
    o.on_end = NULL;
    run_in_a_process_that_dies(o, 21);
    o.on_end = keep_history;
    o.user = &resumed;
    o.resume = 1;
    assert_ok(train(&o));
    same_history(&whole, &resumed);
    o.user = &over;
    assert_ok(train(&o));
    same_history(&whole, &over);
}

/* ------------------------------------------------------------------------------------------
 * Batches that are added up, and parts that do not learn
 * ---------------------------------------------------------------------------------------- */

/* The loss and norm of the first two steps. */
static void first_steps(const char *path, double loss[2], double norm[2]) {
    char *log = read_file(path, NULL);
    assert_int_equal(sscanf(log, "step,loss,norm\n1,%lf,%lf\n2,%lf,%lf", &loss[0], &norm[0], &loss[1], &norm[1]), 4);
    free(log);
}

/* 120 texts: batches of 16 in steps of three (48, 48, 24) are batches of 48, whatever is missing or weighted. */
static void accumulated_batches_are_one_large_one(void **state) {
    (void)state;
    static const char *const ways[] = {"joint", "weighted", "vanilla", "sequential", "taught", "popup"};
    int32_t labels[N_TRAIN], concepts[N_TRAIN * 2];
    char teacher[128];
    snprintf(teacher, sizeof teacher, "%s", in_folder("teacher.gguf"));
    cbm_train_options lesson = options_for(CBM_JOINT, teacher);
    lesson.seed = 7;
    lesson.epochs = 1;
    assert_ok(train(&lesson));
    memcpy(labels, train_data.label, sizeof labels);
    memcpy(concepts, train_data.concept_class, sizeof concepts);
    for (size_t row = 0; row < N_TRAIN; row += 3) {
        if (row < 60) train_data.label[row] = -1;
        train_data.concept_class[2 * row + row % 2] = -1;
    }
    for (int way = 0; way < 6; way++) {
        double loss[2][2], norm[2][2];
        for (int small = 0; small < 2; small++) {
            cbm_train_options o = options_for(way == 2 ? CBM_VANILLA : way == 3 ? CBM_SEQUENTIAL : CBM_JOINT, in_folder("sum.gguf"));
            o.epochs = 2;
            o.dropout = -1;
            o.class_weights = way == 1;
            o.teacher = way == 4 ? teacher : NULL;
            o.prune.method = way == 5 ? "popup" : NULL;
            o.prune.start = o.prune.end = 1;
            o.prune.score_learning_rate = 0.1;
            o.batch_size = small ? 16 : 48;
            o.accumulate = small ? 3 : 1;
            o.step_log = in_folder(small ? "small.csv" : "large.csv");
            o.order_log = in_folder(small ? "small.txt" : "large.txt");
            output = in_folder(small ? "small.gguf" : "large.gguf");
            assert_ok(train(&o));
            first_steps(o.step_log, loss[small], norm[small]);
        }
        for (int step = 0; step < 2; step++) {
            if (fabs(loss[1][step] - loss[0][step]) > 1e-4 * loss[0][step] || fabs(norm[1][step] - norm[0][step]) > 1e-3 * norm[0][step])
                fail_msg("%s, step %d: loss %g and norm %g, in one batch %g and %g", ways[way], step + 1, loss[1][step],
                         norm[1][step], loss[0][step], norm[0][step]);
        }
        assert_true(same_files(in_folder("small.txt"), in_folder("large.txt"))); /* the rows of each step */
        cbm_model *small = load(in_folder("small.gguf")), *large = load(in_folder("large.gguf"));
        const float *a = small->network.heads.label_weight->data, *b = large->network.heads.label_weight->data;
        for (int i = 0; i < SMALL_LABELS * SMALL_CLASSES; i++) assert_float_equal(a[i], b[i], 2e-2);
        cbm_model_free(small);
        cbm_model_free(large);
    }
    memcpy(train_data.label, labels, sizeof labels);
    memcpy(train_data.concept_class, concepts, sizeof concepts);
}

static int same_in(const cbm_model *model, const char *name) {
    const scbm_tensor *a = scbm_file_find_tensor(encoder->file, name), *b = scbm_file_find_tensor(model->file, name);
    assert_true(a && b);
    return memcmp(a->data, b->data, scbm_tensor_bytes(a)) == 0;
}

static void frozen_parts_do_not_learn(void **state) {
    (void)state;
    static const char *const ways[] = {"embeddings", "1", "2"};
    for (int way = 0; way < 3; way++) {
        cbm_train_options o = options_for(CBM_JOINT, in_folder("cold.gguf"));
        char path[200];
        scbm_file *checkpoint;
        o.freeze = ways[way];
        o.epochs = 2;
        assert_ok(train(&o));
        cbm_model *model = load(output);
        assert_true(same_in(model, "token_embd.weight") && same_in(model, "token_embd_norm.bias"));
        assert_int_equal(same_in(model, "blk.0.attn_q.weight"), way >= 1);
        assert_int_equal(same_in(model, "blk.1.ffn_down.bias"), way == 2);
        assert_string_equal(scbm_file_string_or(model->file, "sparsecbm.train.freeze", ""), ways[way]);
        cbm_model_free(model);
        snprintf(path, sizeof path, "%s.checkpoint", output);
        assert_ok(scbm_file_open(&checkpoint, path, NULL));
        assert_null(scbm_file_find_tensor(checkpoint, "token_embd.weight"));
        assert_null(scbm_file_find_tensor(checkpoint, "m.token_embd.weight"));
        assert_int_equal(scbm_file_find_tensor(checkpoint, "v.blk.0.attn_q.weight") == NULL, way >= 1);
        assert_int_equal(scbm_file_find_tensor(checkpoint, "blk.1.attn_q.weight") == NULL, way == 2);
        scbm_file_close(checkpoint);
    }
    cbm_train_options o = options_for(CBM_JOINT, in_folder("cold.gguf"));
    o.resume = 1;
    o.epochs = 2;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "another freeze (2, now none)");
    o.freeze = "3";
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "freeze is 3, and the encoder has 2 blocks");
    o.freeze = "0";
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "freeze is '0', and must be embeddings or a number of blocks");
}

/* ------------------------------------------------------------------------------------------
 * Validation data from the training data
 * ---------------------------------------------------------------------------------------- */

static void a_split_takes_of_each_label(void **state) {
    (void)state;
    cbm_split split, again, other;
    assert_ok(cbm_dataset_split(&split, &train_data, 0.25, 7, &one_thread));
    assert_int_equal(split.validation.n, N_TRAIN / 4);
    assert_int_equal(split.train.n, N_TRAIN - N_TRAIN / 4);
    int counts[2][SMALL_LABELS] = {{0}};
    for (size_t i = 0; i < N_TRAIN; i++) counts[0][train_data.label[i]]++;
    for (size_t i = 0; i < split.validation.n; i++) counts[1][split.validation.label[i]]++;
    for (int y = 0; y < SMALL_LABELS; y++) assert_true(abs(4 * counts[1][y] - counts[0][y]) <= 4);
    size_t in_train = 0, in_validation = 0; /* each row is in one of the parts, in the order of the whole */
    for (size_t i = 0; i < N_TRAIN; i++) {
        int is_train = in_train < split.train.n && split.train.text[in_train] == train_data.text[i];
        const cbm_dataset *part = is_train ? &split.train : &split.validation;
        size_t row = is_train ? in_train++ : in_validation++;
        assert_ptr_equal(part->text[row], train_data.text[i]);
        assert_int_equal(part->text_length[row], train_data.text_length[i]);
        assert_int_equal(part->label[row], train_data.label[i]);
        for (int k = 0; k < 2; k++)
            assert_int_equal(part->concept_class[row * 2 + (size_t)k], train_data.concept_class[i * 2 + (size_t)k]);
    }
    assert_true(in_validation == split.validation.n);
    assert_ok(cbm_dataset_split(&again, &train_data, 0.25, 7, &one_thread));
    assert_ok(cbm_dataset_split(&other, &train_data, 0.25, 8, &one_thread));
    size_t bytes = split.validation.n * sizeof *split.validation.text;
    assert_memory_equal(split.validation.text, again.validation.text, bytes);
    assert_int_not_equal(memcmp(split.validation.text, other.validation.text, bytes), 0);
    cbm_split_clear(&split);
    cbm_split_clear(&again);
    cbm_split_clear(&other);
    cbm_dataset two = train_data;
    two.n = 2;
    for (int way = 0; way < 2; way++) {
        assert_ok(cbm_dataset_split(&split, &two, way ? 0.001 : 0.999, 7, &one_thread));
        assert_true(split.train.n == 1 && split.validation.n == 1);
        cbm_split_clear(&split);
    }
    two.n = 1;
    assert_error(cbm_dataset_split(&split, &two, 0.5, 7, NULL), SCBM_ERROR_ARGUMENT, "of 1 labelled texts");
    assert_error(cbm_dataset_split(&split, &train_data, 1, 7, NULL), SCBM_ERROR_ARGUMENT, "the share 1");
}

static void keep_sizes(void *user, const cbm_dataset *train_part, const cbm_dataset *validation) {
    size_t *sizes = user;
    sizes[0] = train_part->n;
    sizes[1] = validation->n;
}

/* The seed draws the part; a run on the same parts from elsewhere gives the same model, but for what it says of them. */
static void without_validation_data_a_part_is_set_aside(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("split.gguf"));
    size_t sizes[2];
    cbm_split split;
    o.epochs = 2;
    o.on_data = keep_sizes;
    o.user = sizes;
    assert_ok(cbm_train(encoder, &train_data, NULL, small_concepts, output, &o));
    assert_true(sizes[0] == N_TRAIN * 9 / 10 && sizes[1] == N_TRAIN / 10);
    cbm_model *model = load(output);
    assert_float_equal(scbm_file_float_or(model->file, "sparsecbm.train.validation_split", -1), 0.1, 1e-6);
    assert_ok(cbm_dataset_split(&split, &train_data, 0.1, 42, NULL));
    output = in_folder("parts.gguf");
    assert_ok(cbm_train(encoder, &split.train, &split.validation, small_concepts, output, &o));
    cbm_model *parts = load(output);
    for (int64_t i = 0; i < scbm_file_n_tensors(parts->file); i++) {
        const scbm_tensor *a = scbm_file_tensor(model->file, i), *b = scbm_file_tensor(parts->file, i);
        assert_memory_equal(a->data, b->data, scbm_tensor_bytes(b));
    }
    assert_float_equal(scbm_file_float_or(parts->file, "sparsecbm.train.validation_split", -1), 0, 0);
    cbm_model_free(model);
    cbm_model_free(parts);
    cbm_split_clear(&split);
    o.resume = 1;
    output = in_folder("split.gguf");
    assert_ok(cbm_train(encoder, &train_data, NULL, small_concepts, output, &o));
    o.validation_split = 0.2;
    assert_error(cbm_train(encoder, &train_data, NULL, small_concepts, output, &o), SCBM_ERROR_ARGUMENT,
                 "another validation_split (0.1, now 0.2)");
}

static void a_cancelled_run_leaves_its_last_epoch(void **state) {
    (void)state;
    stopper s = {12, 0, 0, 0};
    scbm_hooks hooks = {.user = &s, .progress = stop_there, .n_workers = 1};
    cbm_train_options o = options_for(CBM_JOINT, in_folder("whole.gguf"));
    assert_ok(train(&o));
    forget("stopped.gguf");
    output = in_folder("stopped.gguf");
    o.hooks = &hooks;
    assert_error(train(&o), SCBM_ERROR_CANCELLED, "cancelled after step 12 of 24");
    assert_int_equal(s.total, 24);
    cbm_model_free(load(output));
    s.stop_at = -1;
    o.resume = 1;
    assert_ok(train(&o));
    assert_int_equal(s.steps, 24);
    assert_true(same_files(in_folder("whole.gguf"), output));
    forget("early.gguf");
    output = in_folder("early.gguf");
    s.stop_at = 3;
    assert_error(train(&o), SCBM_ERROR_CANCELLED, "cancelled");
    assert_false(exists(output));
    assert_false(exists(in_folder("early.gguf.checkpoint")));
}

static void going_on_with_other_settings_is_refused(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("same.gguf"));
    o.epochs = 2;
    assert_ok(train(&o));
    o.resume = 1;
    cbm_train_options other = o;
    other.seed = 7;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another seed (");
    other = o;
    other.epochs = 3;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another epochs (2, now 3)");
    other = o;
    other.head_learning_rate = 0.5;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "another head_learning_rate (");
    other = o;
    other.mode = CBM_SEQUENTIAL;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "mode");
    other = o;
    other.precision = SCBM_PRECISION_BF16;
    assert_error(train(&other), SCBM_ERROR_ARGUMENT, "precision (f32, now bf16)");
    train_data.label[3] = (train_data.label[3] + 1) % SMALL_LABELS;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "other training or validation data");
    train_data.label[3] = (train_data.label[3] + 2) % SMALL_LABELS;
    assert_ok(train(&o));
    remove(output);
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "best model so far, is missing");
}

/* The best model is not in the checkpoint, so one that another run wrote there would be taken for it. */
static void going_on_beside_another_model_is_refused(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("ours.gguf"));
    size_t n;
    o.epochs = 2;
    assert_ok(train(&o));
    char *ours = read_file(output, &n);
    o.seed = 7;
    assert_ok(cbm_train(encoder, &train_data, &valid_data, small_concepts, in_folder("theirs.gguf"), &o));
    char *theirs = read_file(in_folder("theirs.gguf"), NULL);
    o.seed = 0;
    o.resume = 1;
    write_file(output, theirs, n);
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "ours.gguf is not the model of the run that");
    write_file(output, ours, n);
    assert_ok(train(&o));
    write_file(output, ours, n / 2);
    assert_error(train(&o), SCBM_ERROR_FORMAT, "ours.gguf");
    free(ours);
    free(theirs);
}

static void rewrite_fact(const char *path, const char *key, const char *text, int number) {
    scbm_file *file;
    scbm_writer *writer;
    assert_ok(scbm_file_open(&file, path, NULL));
    assert_ok(scbm_writer_create(&writer, NULL));
    scbm_writer_copy_keys(writer, file);
    if (text) scbm_writer_set_string(writer, key, text);
    else scbm_writer_set_int(writer, key, SCBM_VALUE_I64, number);
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++)
        scbm_writer_add_tensor(writer, scbm_file_tensor(file, i), scbm_file_tensor(file, i)->type);
    assert_ok(scbm_writer_write(writer, path));
    scbm_writer_free(writer);
    scbm_file_close(file);
}

static void other_processors_and_versions_say_what_would_work(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("moved.gguf"));
    char path[256];
    o.epochs = 1;
    assert_ok(train(&o));
    o.resume = 1;
    snprintf(path, sizeof path, "%s.checkpoint", output);
    rewrite_fact(path, "sparsecbm.checkpoint.fact.device", "cpu (abacus)", 0);
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "with the environment variable SCBM_CPU=abacus it goes on");
    rewrite_fact(path, "sparsecbm.checkpoint.fact.device", "Some GPU", 0);
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "was made on another device (Some GPU, now ");
    o.resume = 0;
    assert_ok(train(&o));
    o.resume = 1;
    rewrite_fact(path, "sparsecbm.checkpoint.fact.version", NULL, SCBM_VERSION / 100 + 1);
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "another version of the library");
    rewrite_fact(path, "sparsecbm.checkpoint.fact.version", NULL, SCBM_VERSION / 100); /* whatever the patch */
    assert_ok(train(&o));
}

static void columns_are_noted_with_every_model(void **state) {
    (void)state;
    static const cbm_concept_column concepts[] = {{"taste", "the taste"}, {"staff", "the staff"}};
    static const char *const unknown[] = {"nix", ""};
    const cbm_dataset_options columns = {.text = "words", .label = "stars", .concepts = concepts, .n_concepts = 2,
                                         .drop_labels = unknown + 1, .n_drop_labels = 1, .unknown = unknown, .n_unknown = 1, .unknown_is_missing = 1};
    cbm_train_options o = options_for(CBM_JOINT, in_folder("columns.gguf"));
    stopper s = {.stop_at = 9}; /* the first step of the second epoch */
    scbm_hooks hooks = {.user = &s, .progress = stop_there, .n_workers = 1};
    const char *text;
    o.columns = &columns;
    o.hooks = &hooks;
    assert_error(train(&o), SCBM_ERROR_CANCELLED, "cancelled after step 9");
    cbm_model *model = load(output);
    assert_string_equal(scbm_file_string_or(model->file, CBM_KEY_TEXT_COLUMN, "-"), "words");
    assert_string_equal(scbm_file_string_or(model->file, CBM_KEY_LABEL_COLUMN, "-"), "stars");
    assert_string_equal(scbm_file_string_or(model->file, CBM_KEY_DROP_LABEL, "-"), "");
    assert_string_equal(scbm_file_string_or(model->file, CBM_KEY_IGNORE_LABEL, "-"), "-");
    assert_ok(scbm_file_string_at(model->file, scbm_file_find_key(model->file, CBM_KEY_CONCEPT_COLUMNS), 1, &text));
    assert_string_equal(text, "the staff");
    assert_true(scbm_file_find_key(model->file, CBM_KEY_UNKNOWN) >= 0);
    cbm_model_free(model);
    const cbm_dataset_options one = {.text = "words", .label = "stars", .concepts = concepts, .n_concepts = 1};
    o.columns = &one;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "columns name 1 concepts, and the data have 2");
}

static void a_damaged_checkpoint_is_refused(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("damaged.gguf"));
    char path[256];
    o.epochs = 1;
    assert_ok(train(&o));
    o.resume = 1;
    snprintf(path, sizeof path, "%s.checkpoint", output);
    size_t n;
    char *whole = read_file(path, &n);
    for (size_t size = 0; size < n; size += 1 + n / 7) {
        write_file(path, whole, size);
        assert_error(train(&o), SCBM_ERROR_FORMAT, path);
        assert_non_null(strstr(scbm_last_error(), "; delete "));
    }
    free(whole);
    assert_ok(small_encoder(path, NULL)); /* a model file that is no checkpoint */
    assert_error(train(&o), SCBM_ERROR_FORMAT, "no checkpoint");
}

/* ------------------------------------------------------------------------------------------
 * Order, early stop, start
 * ---------------------------------------------------------------------------------------- */

static void every_epoch_takes_every_row_once(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("order.gguf"));
    o.batch_size = 50; /* 50, 50, 20 */
    o.order_log = in_folder("order.txt");
    o.step_log = in_folder("order.csv");
    assert_ok(train(&o));
    char *order = read_file(o.order_log, NULL), *steps = read_file(o.step_log, NULL);
    int rows[3][N_TRAIN];
    const char *place = order;
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[N_TRAIN] = {0};
        for (int i = 0; i < N_TRAIN; i++) {
            char *end;
            long row = strtol(place, &end, 10);
            assert_true(end > place && row >= 0 && row < N_TRAIN && !seen[row]++);
            int ends_batch = i % 50 == 49 || i == N_TRAIN - 1;
            assert_int_equal(*end, ends_batch ? '\n' : ' ');
            rows[epoch][i] = (int)row;
            place = end + 1;
        }
    }
    assert_int_equal(*place, 0);
    assert_memory_not_equal(rows[0], rows[1], sizeof rows[0]);
    assert_memory_not_equal(rows[1], rows[2], sizeof rows[0]);
    place = strchr(steps, '\n') + 1;
    for (int step = 1; step <= 9; step++) {
        int number, length;
        double loss, norm;
        assert_int_equal(sscanf(place, "%d,%lf,%lf\n%n", &number, &loss, &norm, &length), 3);
        assert_int_equal(number, step);
        assert_true(loss > 0 && norm > 0);
        place += length;
    }
    assert_int_equal(*place, 0);
    free(order);
    free(steps);
}

/* With rates of 0 no epoch is better than the first. */
static void patience_ends_a_run(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("patience.gguf"));
    reports r = {.n = 0};
    o.learning_rate = o.head_learning_rate = -1;
    o.epochs = 10;
    o.patience = 3;
    o.on_epoch = keep_report;
    o.user = &r;
    assert_ok(train(&o));
    assert_int_equal(r.n, 4);
    assert_true(r.report[0].is_best && !r.report[3].is_best);
}

/* The ratio of two models' weights must be `wanted`. */
static void check_ratio(const cbm_model *before, const cbm_model *after, const char *name, double wanted) {
    const scbm_tensor *a = scbm_file_find_tensor(before->file, name), *b = scbm_file_find_tensor(after->file, name);
    assert_true(a && b);
    for (int64_t i = 0; i < scbm_tensor_elements(a); i++) {
        double x = (double)((const float *)a->data)[i], y = (double)((const float *)b->data)[i];
        assert_float_equal(y, wanted * x, 1e-6 * fmax(fabs(x), 1e-3));
    }
}

/* Without a target there is no gradient: each step multiplies matrices by 1 − rate · decay, and leaves vectors alone. The
 * rate climbs over the first tenth of the 24 steps, 2, and falls to 0. */
static void weight_decay_takes_matrices_alone(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("undecayed.gguf"));
    int32_t labels[N_TRAIN], concepts[N_TRAIN * 2];
    double encoder_ratio = 1.0, head_ratio = 1.0;
    memcpy(labels, train_data.label, sizeof labels);
    memcpy(concepts, train_data.concept_class, sizeof concepts);
    memset(train_data.label, 0xff, sizeof labels);
    memset(train_data.concept_class, 0xff, sizeof concepts);
    o.epochs = -1;
    assert_ok(train(&o));
    cbm_model *before = load(output);
    output = in_folder("decayed.gguf");
    o.epochs = 3;
    o.warmup = 0.1;
    o.weight_decay = 0.5;
    o.learning_rate = 0.02;
    o.head_learning_rate = 0.1;
    assert_ok(train(&o));
    scbm_file *checkpoint; /* of the last epoch, which need not be the best */
    char path[256];
    snprintf(path, sizeof path, "%s.checkpoint", output);
    assert_ok(scbm_file_open(&checkpoint, path, NULL));
    cbm_model after = {.file = checkpoint};
    for (int step = 1; step <= 24; step++) {
        double rate = step < 2 ? 0.5 * step : (24.0 - step) / 22.0;
        encoder_ratio *= 1.0 - 0.02 * rate * 0.5;
        head_ratio *= 1.0 - 0.1 * rate * 0.5;
    }
    check_ratio(before, &after, "token_embd.weight", encoder_ratio);
    check_ratio(before, &after, "blk.1.ffn_down.weight", encoder_ratio);
    check_ratio(before, &after, CBM_CONCEPT_WEIGHT, head_ratio);
    check_ratio(before, &after, CBM_LABEL_WEIGHT, head_ratio);
    check_ratio(before, &after, "blk.1.ffn_down.bias", 1.0);
    check_ratio(before, &after, "blk.0.attn_output_norm.weight", 1.0);
    check_ratio(before, &after, CBM_CONCEPT_BIAS, 1.0);
    scbm_file_close(checkpoint);
    cbm_model_free(before);
    memcpy(train_data.label, labels, sizeof labels);
    memcpy(train_data.concept_class, concepts, sizeof concepts);
}

static const float *tensor_data(const cbm_model *model, const char *name) {
    const scbm_tensor *tensor = scbm_file_find_tensor(model->file, name);
    if (!tensor) fail_msg("%s is missing", name);
    return tensor->data;
}

/* The first weights of these tensors are the same in both models. */
static int same_weights(const cbm_model *a, const cbm_model *b, const char *name) {
    return memcmp(tensor_data(a, name), tensor_data(b, name), 5 * sizeof(float)) == 0;
}

static void no_epochs_only_set_up(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("start.gguf"));
    reports r = {.n = 0};
    o.epochs = -1;
    o.on_epoch = keep_report;
    o.user = &r;
    forget("start.gguf");
    assert_ok(train(&o));
    assert_int_equal(r.n, 0);
    assert_false(exists(in_folder("start.gguf.checkpoint")));
    cbm_model *start = load(output);
    assert_int_equal(cbm_model_mode(start), CBM_JOINT);
    assert_true(same_weights(start, encoder, "blk.1.attn_q.weight"));
    const float *head = tensor_data(start, CBM_CONCEPT_WEIGHT); /* uniform within 1/√32 */
    double largest = 0;
    for (int i = 0; i < SMALL_CLASSES * 32; i++) largest = fmax(largest, fabs((double)head[i]));
    assert_true(largest <= 1 / sqrt(32.0) && largest > 0.9 / sqrt(32.0));
    cbm_model_free(start);
}

static void a_run_starts_from_the_model_that_it_is_given(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("before.gguf"));
    assert_ok(train(&o));
    cbm_model *before = load(output);
    o.init = in_folder("before.gguf");
    output = in_folder("after.gguf");
    o.epochs = 1;
    o.learning_rate = o.head_learning_rate = -1;
    assert_ok(train(&o));
    cbm_model *after = load(output);
    assert_true(same_weights(before, after, "blk.1.attn_q.weight"));
    assert_true(same_weights(before, after, CBM_CONCEPT_WEIGHT));
    assert_true(same_weights(before, after, CBM_LABEL_WEIGHT));
    assert_false(same_weights(before, encoder, "blk.1.attn_q.weight"));
    cbm_model_free(after);
    cbm_model_free(before);
    o.init = in_folder("encoder.gguf");
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "without heads");
    o.init = in_folder("nothing.gguf");
    assert_error(train(&o), SCBM_ERROR_IO, "nothing.gguf");
    o.init = in_folder("before.gguf");
    o.mode = CBM_VANILLA;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "no start");
    static const char *const other_names[] = {"taste", "noise"};
    o.mode = CBM_JOINT;
    assert_error(cbm_train(encoder, &train_data, &valid_data, other_names, output, &o), SCBM_ERROR_ARGUMENT, "'noise'");
}

static void a_trained_model_is_an_encoder_too(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("teacher.gguf"));
    assert_ok(train(&o));
    cbm_model *teacher = load(output);
    o.mode = CBM_VANILLA;
    output = in_folder("student.gguf");
    o.epochs = -1;
    assert_ok(cbm_train(teacher, &train_data, &valid_data, NULL, output, &o));
    cbm_model *student = load(output);
    assert_true(same_weights(teacher, student, "blk.0.ffn_up.weight"));
    assert_int_equal(cbm_model_mode(student), CBM_VANILLA);
    assert_null(scbm_file_find_tensor(student->file, CBM_CONCEPT_WEIGHT));
    assert_int_equal(scbm_file_find_key(student->file, CBM_KEY_CONCEPTS), -1);
    cbm_model_free(student);
    cbm_model_free(teacher);
}

/* The warnings, one behind the other. */
static void keep_warning(void *user, scbm_log_level level, const char *message) {
    char *said = user;
    if (level == SCBM_LOG_WARNING) snprintf(said + strlen(said), 600 - strlen(said), "%s\n", message);
}

static int cannot_mask_in_bf16(void) {
    scbm_context *context;
    assert_ok(scbm_context_create(&context, &one_thread, NULL));
    const scbm_status status = scbm_context_check_masked_precision(context, SCBM_PRECISION_BF16);
    scbm_context_free(context);
    return status != SCBM_OK;
}

static void quantized_encoders_train(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("from-q8.gguf"));
    const cbm_quantize_options quantize = {.hooks = &one_thread};
    assert_ok(cbm_quantize(in_folder("encoder.gguf"), in_folder("q8.gguf"), SCBM_Q8_0, &quantize, NULL));
    cbm_model *small = load(in_folder("q8.gguf"));
    assert_int_equal(scbm_file_find_tensor(small->file, "blk.0.ffn_up.weight")->type, SCBM_Q8_0);
    scbm_hooks hooks = one_thread;
    char said[600] = "";
    hooks.log = keep_warning;
    hooks.user = said;
    o.epochs = 1;
    o.hooks = &hooks;
    assert_ok(cbm_train(small, &train_data, &valid_data, small_concepts, output, &o));
    assert_non_null(strstr(said, "q8.gguf: "));
    assert_non_null(strstr(said, " of its matrices are q8_0: training starts from rounded weights"));
    cbm_model *model = load(output);
    assert_int_equal(scbm_file_find_tensor(model->file, "blk.0.ffn_up.weight")->type, SCBM_F32);
    said[0] = 0;
    o.init = in_folder("from-q8.gguf"); /* whose weights are F32 */
    assert_ok(cbm_train(model, &train_data, &valid_data, small_concepts, in_folder("again.gguf"), &o));
    assert_null(strstr(said, "rounded"));
    cbm_model_free(model);
    cbm_model_free(small);
}

/* Rounded products move losses and gradients by rounding's share, with every way to prune; the file's weights are F32. */
static void every_way_to_prune_trains_in_bf16(void **state) {
    (void)state;
    static const char *const methods[] = {NULL, "magnitude", "random", "obert", "popup", "popup-structured"};
    scbm_hooks hooks = one_thread;
    char said[600];
    hooks.log = keep_warning;
    hooks.user = said;
    for (int way = 0; way < 6; way++) {
        double loss[2][2], norm[2][2];
        for (int rounds = 0; rounds < 2; rounds++) {
            cbm_train_options o = options_for(CBM_JOINT, in_folder(rounds ? "bf16.gguf" : "f32.gguf"));
            o.prune = (cbm_prune_options){
                .method = methods[way], .sparsity = 0.5, .start = 1, .end = 2, .fisher_block = 8, .fisher_gradients = 8};
            o.precision = rounds ? SCBM_PRECISION_BF16 : SCBM_PRECISION_F32;
            o.dropout = -1;
            o.step_log = in_folder("steps.csv");
            o.hooks = &hooks;
            said[0] = 0;
            assert_ok(train(&o));
            assert_true(!strstr(said, "computes in f32") == !(rounds && cannot_mask_in_bf16()));
            first_steps(o.step_log, loss[rounds], norm[rounds]);
        }
        for (int step = 0; step < 2; step++) {
            const double off[2] = {fabs(loss[1][step] / loss[0][step] - 1), fabs(norm[1][step] / norm[0][step] - 1)};
            if (!(off[0] <= 2e-2 && off[1] <= 2e-2 && off[0] + off[1] > 1e-7))
                fail_msg("%s: step %d is %g and %g from f32's", methods[way] ? methods[way] : "dense", step + 1, off[0], off[1]);
        }
        cbm_model *model = load(in_folder("bf16.gguf"));
        assert_int_equal(scbm_file_find_tensor(model->file, "blk.0.ffn_up.weight")->type, SCBM_F32);
        assert_string_equal(scbm_file_string_or(model->file, CBM_KEY_TRAIN "precision", ""), "bf16");
        assert_int_equal(cbm_model_is_sparse(model), way > 0);
        cbm_model_free(model);
    }
}

static void other_precisions_train_or_say_why_not(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("tf32.gguf"));
    o.epochs = 1;
    o.precision = SCBM_PRECISION_INT8;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "precision is 3");
    scbm_context *context;
    assert_ok(scbm_context_create(&context, &one_thread, NULL));
    const scbm_status status = scbm_context_check_precision(context, SCBM_PRECISION_TF32);
    scbm_context_free(context);
    o.precision = SCBM_PRECISION_TF32;
    if (status) assert_error(train(&o), status, "does not compute in tf32");
    else assert_ok(train(&o));
}

/* ------------------------------------------------------------------------------------------
 * Unusual data, errors
 * ---------------------------------------------------------------------------------------- */

static void unusual_data_train(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("unusual.gguf"));
    cbm_dataset one = train_data, part = valid_data;
    o.epochs = 2;
    one.n = 2; /* two texts in batches of 16; validation lacks classes */
    part.n = 2;
    int32_t second = train_data.label[1];
    train_data.label[1] = (train_data.label[0] + 1) % SMALL_LABELS;
    for (cbm_mode mode = CBM_VANILLA; mode <= CBM_JOINT; mode++) {
        o.mode = mode;
        assert_ok(cbm_train(encoder, &one, &part, small_concepts, output, &o));
        cbm_model_free(load(output));
    }
    train_data.label[1] = second;
    one.n = 1;
    o.mode = CBM_JOINT;
    assert_int_equal(cbm_train(encoder, &one, &part, small_concepts, output, &o), SCBM_ERROR_ARGUMENT);
    assert_non_null(strstr(cbm_last_error(), "one label alone"));
    int32_t label = train_data.label[0], concepts[2] = {train_data.concept_class[0], train_data.concept_class[1]};
    train_data.label[0] = train_data.concept_class[0] = train_data.concept_class[1] = -1;
    o.batch_size = 1; /* so one batch has nothing to learn from */
    part = train_data;
    part.n = 3;
    for (cbm_mode mode = CBM_VANILLA; mode <= CBM_JOINT; mode++) {
        o.mode = mode;
        assert_ok(cbm_train(encoder, &part, &valid_data, small_concepts, output, &o));
    }
    train_data.label[0] = label;
    memcpy(train_data.concept_class, concepts, sizeof concepts);
}

static void long_texts_are_cut_and_the_model_knows_it(void **state) {
    (void)state;
    cbm_train_options o = options_for(CBM_JOINT, in_folder("cut.gguf"));
    cbm_prediction p;
    o.epochs = 1;
    o.max_length = 5;
    assert_ok(train(&o));
    cbm_model *model = load(output);
    assert_int_equal(cbm_model_max_tokens(model), 5);
    cbm_context *ctx = context_for(model);
    assert_ok(predict_value(ctx, "the soup was tasty and it was kind", &p));
    assert_int_equal(p.n_tokens, 5);
    assert_true(p.truncated);
    cbm_context_free(ctx);
    cbm_model_free(model);
    o.max_length = SMALL_MAX_TOKENS + 1;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "at most 24");
}

static void a_loss_that_is_no_number_is_an_error(void **state) {
    (void)state;
    const small_options broken = {.quiet_not_a_number = 1};
    cbm_train_options o = options_for(CBM_JOINT, in_folder("numeric.gguf"));
    forget("numeric.gguf");
    assert_ok(small_encoder(in_folder("broken.gguf"), &broken));
    cbm_model *model = load(in_folder("broken.gguf"));
    assert_error(cbm_train(model, &train_data, &valid_data, small_concepts, output, &o), SCBM_ERROR_NUMERIC, "step 1 of 24");
    assert_false(exists(output));
    cbm_model_free(model);
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    const cbm_train_options good = options_for(CBM_JOINT, in_folder("refused.gguf"));
    cbm_train_options o = good;
    output = NULL;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "output");
    output = in_folder("refused.gguf");
    o = good, o.mode = CBM_JOINT + 1;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "mode is 5, which stands for nothing");
    o = good, o.batch_size = -3;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "batch_size is -3, and must lie between 1 and 65536");
    o = good, o.epochs = 1000000;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "epochs is 1e+06");
    o = good, o.dropout = 1.0;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "dropout");
    o = good, o.learning_rate = NAN;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "learning_rate");
    o = good, o.mixup = -1.0;
    assert_error(train(&o), SCBM_ERROR_ARGUMENT, "mixup");
    o = good, output = in_folder("missing/model.gguf");
    assert_error(train(&o), SCBM_ERROR_IO, "missing/model.gguf");
    o = good;
    cbm_dataset none = train_data;
    none.n = 0;
    assert_error(cbm_train(encoder, &none, &valid_data, small_concepts, output, &o), SCBM_ERROR_ARGUMENT, "no training data");
    assert_error(cbm_train(encoder, &train_data, &none, small_concepts, output, &o), SCBM_ERROR_ARGUMENT, "no validation data");
    none = train_data;
    none.label_classes.n = 0;
    assert_error(cbm_train(encoder, &none, &valid_data, small_concepts, output, &o), SCBM_ERROR_ARGUMENT, "no labels");
    none = valid_data;
    none.label_classes.n = 2;
    assert_error(cbm_train(encoder, &train_data, &none, small_concepts, output, &o), SCBM_ERROR_ARGUMENT,
                 "the validation data");
    none = train_data;
    none.n_concepts = 0;
    assert_error(cbm_train(encoder, &none, &valid_data, small_concepts, output, &o), SCBM_ERROR_ARGUMENT, "no concepts");
    assert_error(cbm_train(NULL, &train_data, &valid_data, small_concepts, output, &o), SCBM_ERROR_ARGUMENT, "NULL");
}

/* Whatever allocation fails, training ends with an error and gives everything back. */
static void check_allocations(cbm_train_options o) {
    cbm_dataset few = train_data, some = valid_data;
    few.n = 4;
    some.n = 4;
    counting_allocator count = {0};
    scbm_hooks hooks = allocator_hooks(&count);
    o.hooks = &hooks;
    assert_ok(cbm_train(encoder, &few, &some, small_concepts, output, &o));
    assert_int_equal(count.held, 0);
    assert_true(count.n > 500);
    long total = count.n, step = 1 + total / 150;
    for (long at = 1; at <= total; at += at < 20 ? 1 : step) {
        count = (counting_allocator){.fails_at = at};
        assert_error(cbm_train(encoder, &few, &some, small_concepts, output, &o), SCBM_ERROR_MEMORY, "memory");
        if (count.held) fail_msg("allocation %ld of %ld failed, and %ld were not given back", at, total, count.held);
    }
}

static void no_memory_is_an_error_anywhere(void **state) {
    (void)state;
    char teacher[128];
    snprintf(teacher, sizeof teacher, "%s", in_folder("teacher.gguf"));
    cbm_train_options o = options_for(CBM_JOINT, teacher);
    o.epochs = 1;
    assert_ok(train(&o));
    output = in_folder("memory.gguf");
    o.teacher = teacher;
    check_allocations(o);
    o.mode = CBM_SEQUENTIAL;
    o.teacher = NULL;
    o.mixup = 0.4;
    o.class_weights = 1;
    check_allocations(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_defaults_are_those_of_the_manual),
        cmocka_unit_test(zeros_are_the_defaults_to_the_bit),
        cmocka_unit_test(rows_of_settings_are_whole),
        cmocka_unit_test(settings_say_what_they_need),
        cmocka_unit_test(settings_are_read_and_written_by_their_rows),
        cmocka_unit_test(every_mode_learns_and_reports_what_it_wrote),
        cmocka_unit_test(a_model_file_holds_what_its_mode_needs),
        cmocka_unit_test(the_label_reads_softmax_or_logits_by_mode),
        cmocka_unit_test(statistics_are_means_over_the_training_data),
        cmocka_unit_test(the_label_head_of_two_steps_is_the_best_one),
        cmocka_unit_test(the_loss_is_what_the_method_says),
        cmocka_unit_test(a_teacher_adds_its_cross_entropy),
        cmocka_unit_test(students_come_near_their_teacher),
        cmocka_unit_test(teachers_must_fit),
        cmocka_unit_test(vanilla_students_learn_labels_alone),
        cmocka_unit_test(the_same_seed_gives_the_same_bits),
        cmocka_unit_test(a_killed_run_goes_on_to_the_same_bits),
        cmocka_unit_test(a_run_can_be_cancelled_anywhere),
        cmocka_unit_test(a_run_tells_its_whole_history),
        cmocka_unit_test(accumulated_batches_are_one_large_one),
        cmocka_unit_test(frozen_parts_do_not_learn),
        cmocka_unit_test(a_split_takes_of_each_label),
        cmocka_unit_test(without_validation_data_a_part_is_set_aside),
        cmocka_unit_test(a_cancelled_run_leaves_its_last_epoch),
        cmocka_unit_test(going_on_with_other_settings_is_refused),
        cmocka_unit_test(going_on_beside_another_model_is_refused),
        cmocka_unit_test(other_processors_and_versions_say_what_would_work),
        cmocka_unit_test(columns_are_noted_with_every_model),
        cmocka_unit_test(a_damaged_checkpoint_is_refused),
        cmocka_unit_test(every_epoch_takes_every_row_once),
        cmocka_unit_test(patience_ends_a_run),
        cmocka_unit_test(weight_decay_takes_matrices_alone),
        cmocka_unit_test(no_epochs_only_set_up),
        cmocka_unit_test(a_run_starts_from_the_model_that_it_is_given),
        cmocka_unit_test(a_trained_model_is_an_encoder_too),
        cmocka_unit_test(quantized_encoders_train),
        cmocka_unit_test(every_way_to_prune_trains_in_bf16),
        cmocka_unit_test(other_precisions_train_or_say_why_not),
        cmocka_unit_test(unusual_data_train),
        cmocka_unit_test(long_texts_are_cut_and_the_model_knows_it),
        cmocka_unit_test(a_loss_that_is_no_number_is_an_error),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(no_memory_is_an_error_anywhere),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
