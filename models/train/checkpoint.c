/*
 * models/train/checkpoint.c - the state of a training run in a file
 *
 * It holds no times and no paths: the same run writes the same bytes.
 */
#include "models/train/checkpoint.h"

#include "models/cbm-train.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHECKPOINT_VERSION 2
#define KEY(name) "sparsecbm.checkpoint." name
#define FACT_PREFIX KEY("fact.")

/* The two moments of a trained parameter under names of their own. */
static scbm_status moment_view(const cbm_checkpoint *c, int i, int second, scbm_tensor *view) {
    const scbm_tensor *parameter = c->trained[i];
    char name[SCBM_MAX_NAME + 2];
    snprintf(name, sizeof name, "%c.%s", second ? 'v' : 'm', parameter->name);
    scbm_status status = scbm_tensor_init(view, name, SCBM_F32, parameter->n_dims, parameter->shape);
    view->data = scbm_adamw_moment(c->optimizer, i, second)->data;
    return status;
}

/* What is logged of steps and epochs, as tensors. */
enum { N_LOGS = 3 };
static scbm_status log_view(const cbm_checkpoint *c, int i, scbm_tensor *view) {
    static const char *const names[N_LOGS] = {"steps.loss", "steps.norm", "epochs"};
    float *const data[N_LOGS] = {c->step_loss, c->step_norm, c->epochs};
    const int64_t shape[2] = {i < 2 ? c->step : c->epoch, CBM_EPOCH_MEASURES};
    scbm_status status = scbm_tensor_init(view, names[i], SCBM_F32, i < 2 ? 1 : 2, shape);
    view->data = data[i];
    return status;
}

static void set_numbers(scbm_writer *writer, const cbm_checkpoint *c) {
    scbm_writer_set_string(writer, "general.architecture", "sparsecbm-checkpoint");
    scbm_writer_set_int(writer, KEY("version"), SCBM_VALUE_U32, CHECKPOINT_VERSION);
    scbm_writer_set_int(writer, KEY("epoch"), SCBM_VALUE_I64, c->epoch);
    scbm_writer_set_int(writer, KEY("step"), SCBM_VALUE_I64, c->step);
    scbm_writer_set_int(writer, KEY("best_epoch"), SCBM_VALUE_I64, c->best_epoch);
    scbm_writer_set_int(writer, KEY("epochs_since_best"), SCBM_VALUE_I64, c->epochs_since_best);
    scbm_writer_set_float(writer, KEY("best_score"), SCBM_VALUE_F64, c->best_score);
    scbm_writer_set_string(writer, KEY("run"), c->run);
    for (int i = 0; i < c->n_facts; i++) cbm_set_fact(writer, FACT_PREFIX, &c->facts[i]);
}

scbm_status cbm_checkpoint_write(const cbm_checkpoint *c, const char *path, const scbm_hooks *hooks) {
    scbm_hooks whole = hooks ? *hooks : (scbm_hooks){0};
    whole.cancel = NULL; /* what has begun is finished: an epoch's work stands in it */
    scbm_writer *writer = NULL;
    scbm_tensor logs[N_LOGS];
    scbm_tensor *moments = scbm_alloc_array(hooks, 2 * (size_t)c->n_trained, sizeof *moments);
    scbm_status status = moments ? scbm_writer_create(&writer, &whole) : SCBM_ERROR_MEMORY;
    for (int i = 0; i < 2 * c->n_trained && !status; i++) status = moment_view(c, i / 2, i % 2, &moments[i]);
    for (int i = 0; i < N_LOGS && !status; i++) status = log_view(c, i, &logs[i]);
    if (!status) {
        set_numbers(writer, c);
        for (int i = 0; i < c->n_parameters; i++) scbm_writer_add_tensor(writer, c->parameters[i], SCBM_F32);
        for (int i = 0; i < 2 * c->n_trained; i++) scbm_writer_add_tensor(writer, &moments[i], SCBM_F32);
        for (int i = 0; i < c->n_extra; i++) scbm_writer_add_tensor(writer, c->extra[i], c->extra[i]->type);
        for (int i = 0; i < N_LOGS; i++) scbm_writer_add_tensor(writer, &logs[i], SCBM_F32);
        status = scbm_writer_write(writer, path);
    }
    scbm_writer_free(writer);
    scbm_release(hooks, moments);
    return status;
}

/* Of facts that are hashes, or that follow from others, what differs is said in words. */
static const char *difference_of(const char *key) {
    static const char *const words[][2] = {
        {"texts", "other training data"},
        {"data", "other training or validation data, or other columns of them"},
        {"teacher", "another teacher"},
        {"start", "other weights to start from"},
        {"version", "another version of the library"},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i][0], key) == 0) return words[i][1];
    return NULL;
}

/* Whether a run may go on all the same where the fact differs: the state does not depend on it, only what comes of it. */
static int may_change(const char *key) {
    static const char *const others[] = {"device", "version", "hidden_dropout", "attention_dropout"};
    const cbm_train_setting *setting = cbm_train_setting_find(key);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(others[i], key) == 0) return 1;
    return setting && (setting->flags & CBM_SETTING_CHANGES);
}

/* What can be done where the fact differs. With more epochs the model is a start for a run of its own, too. */
static const char *advice_of(const cbm_fact *fact) {
    if (strcmp(fact->key, "epochs") == 0)
        return "go on with as many, or train on from its model (init); resume_anyway goes on all the same, to other bits";
    if (may_change(fact->key))
        return "go on as it was made, or start anew, without resuming; resume_anyway goes on all the same, to other bits";
    return "go on with the same settings and data, or start anew, without resuming";
}

/* Says what differs. Another processor may compute other bits; it can take the way of a lesser one. */
static void say_difference(const scbm_file *file, const cbm_fact *fact, const char *before, const char *now, char *text,
                           size_t size) {
    const char *words = difference_of(fact->key), *path = scbm_file_path(file);
    int is_device = strcmp(fact->key, "device") == 0, is_tier = is_device && strncmp(before, "cpu (", 5) == 0;
    if (is_tier)
        snprintf(text, size,
                 "%.200s: was made on another kind of processor (%s, now %s); with the environment variable "
                 "SCBM_CPU=%.*s it goes on to the same bits, if this one can do that",
                 path, before, now, (int)strcspn(before + 5, ")"), before + 5);
    else if (is_device) snprintf(text, size, "%.200s: was made on another device (%s, now %s)", path, before, now);
    else if (words) snprintf(text, size, "%.200s: was made with %s", path, words);
    else snprintf(text, size, "%.200s: was made with another %s (%s, now %s)", path, fact->key, before, now);
}

static scbm_status settle_difference(const cbm_checkpoint *c, const scbm_file *file, const cbm_fact *fact,
                                     const char *before, const char *now, const scbm_hooks *hooks) {
    char text[480];
    say_difference(file, fact, before, now, text, sizeof text);
    if (!c->goes_on_anyway || !may_change(fact->key))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s; %s", text, advice_of(fact));
    scbm_log(hooks, SCBM_LOG_WARNING, "%s: the run goes on all the same, to other bits", text);
    return SCBM_OK;
}

static scbm_status check_fact(const cbm_checkpoint *c, const scbm_file *file, const cbm_fact *fact,
                              const scbm_hooks *hooks) {
    char key[128], before[32], now[32];
    snprintf(key, sizeof key, "%s%s", FACT_PREFIX, fact->key);
    if (fact->kind == CBM_FACT_TEXT) {
        const char *text = scbm_file_string_or(file, key, "none");
        return strcmp(text, fact->text) == 0 ? SCBM_OK : settle_difference(c, file, fact, text, fact->text, hooks);
    }
    if (fact->kind == CBM_FACT_INT) {
        int64_t stored = scbm_file_int_or(file, key, INT64_MIN);
        if (stored == fact->integer) return SCBM_OK;
        snprintf(before, sizeof before, "%lld", (long long)stored);
        snprintf(now, sizeof now, "%lld", (long long)fact->integer);
        return settle_difference(c, file, fact, stored == INT64_MIN ? "none" : before, now, hooks);
    }
    float stored = (float)scbm_file_float_or(file, key, (double)NAN);
    if (stored == (float)fact->real) return SCBM_OK;
    return settle_difference(c, file, fact, isnan(stored) ? "none" : scbm_print_float(stored, before),
                             scbm_print_float((float)fact->real, now), hooks);
}

static scbm_status check_version(const scbm_file *file) {
    int64_t version = scbm_file_int_or(file, KEY("version"), 0);
    if (version == CHECKPOINT_VERSION) return SCBM_OK;
    if (version > 0)
        return scbm_fail(
            SCBM_ERROR_UNSUPPORTED,
            "%s: is a checkpoint of another version of this library (its format is %lld, and %s goes on from "
            "format %d alone): the training has to start anew",
            scbm_file_path(file), (long long)version, SCBM_VERSION_TEXT, CHECKPOINT_VERSION);
    return scbm_fail(SCBM_ERROR_FORMAT, "%s: is no checkpoint", scbm_file_path(file));
}

static scbm_status read_numbers(cbm_checkpoint *c, const scbm_file *file) {
    scbm_status status = scbm_file_get_int(file, KEY("epoch"), &c->epoch);
    if (!status) status = scbm_file_get_int(file, KEY("step"), &c->step);
    if (!status) status = scbm_file_get_int(file, KEY("best_epoch"), &c->best_epoch);
    if (!status) status = scbm_file_get_int(file, KEY("epochs_since_best"), &c->epochs_since_best);
    if (!status) status = scbm_file_get_float(file, KEY("best_score"), &c->best_score);
    if (!status && c->goes_on_anyway && c->epoch > c->max_epochs)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%s: is of a run that has done %lld epochs: %lld are too few to go on with",
                         scbm_file_path(file), (long long)c->epoch, (long long)c->max_epochs);
    if (!status && (c->step < 1 || c->step > c->max_steps || c->epoch < 1 || c->epoch > c->max_epochs ||
                    c->best_epoch < 0 || c->best_epoch > c->epoch || c->epochs_since_best < 0))
        status = scbm_fail(SCBM_ERROR_FORMAT, "%s: epoch %lld and step %lld do not fit this run", scbm_file_path(file),
                           (long long)c->epoch, (long long)c->step);
    return status;
}

/* Copies the tensor of `into`'s name. */
static scbm_status read_values(scbm_file *file, const scbm_tensor *into) {
    scbm_tensor *tensor;
    scbm_status status = cbm_find_tensor(file, into->name, SCBM_F32, into->shape[0],
                                         into->n_dims > 1 ? into->shape[1] : 0, &tensor);
    if (!status) memcpy(into->data, tensor->data, scbm_tensor_bytes(tensor));
    return status;
}

/* The same for a tensor of any type and number of dimensions. */
static scbm_status read_extra(scbm_file *file, scbm_tensor *into) {
    const scbm_tensor *tensor = scbm_file_find_tensor(file, into->name);
    if (!tensor || tensor->type != into->type || tensor->n_dims != into->n_dims ||
        memcmp(tensor->shape, into->shape, (size_t)into->n_dims * sizeof into->shape[0]) != 0)
        return scbm_fail(SCBM_ERROR_FORMAT, "%s: tensor %s is missing or of another shape", scbm_file_path(file),
                         into->name);
    memcpy(into->data, tensor->data, scbm_tensor_bytes(into));
    scbm_tensor_changed(into);
    return SCBM_OK;
}

static scbm_status read_tensors(cbm_checkpoint *c, scbm_file *file) {
    scbm_tensor view;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < c->n_parameters && !status; i++) {
        status = read_values(file, c->parameters[i]);
        scbm_tensor_changed(c->parameters[i]);
    }
    for (int i = 0; i < 2 * c->n_trained && !status; i++) {
        status = moment_view(c, i / 2, i % 2, &view);
        if (!status) status = read_values(file, &view);
    }
    for (int i = 0; i < c->n_extra && !status; i++) status = read_extra(file, c->extra[i]);
    for (int i = 0; i < N_LOGS && !status; i++) {
        status = log_view(c, i, &view);
        if (!status) status = read_values(file, &view);
    }
    if (!status) scbm_adamw_set_steps(c->optimizer, c->step);
    return status;
}

static int file_exists(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file) fclose(file);
    return file || errno != ENOENT;
}

scbm_status cbm_checkpoint_epoch(const char *path, int64_t *epoch, const scbm_hooks *hooks) {
    scbm_file *file = NULL;
    *epoch = 0;
    if (!file_exists(path)) return SCBM_OK;
    scbm_status status = scbm_file_open(&file, path, hooks);
    if (status) return status;
    status = check_version(file);
    if (!status) status = scbm_file_get_int(file, KEY("epoch"), epoch);
    scbm_file_close(file);
    return status;
}

scbm_status cbm_checkpoint_read(cbm_checkpoint *c, const char *path, int *found, const scbm_hooks *hooks) {
    scbm_file *file = NULL;
    *found = file_exists(path);
    if (!*found) return SCBM_OK;
    scbm_status status = scbm_file_open(&file, path, hooks);
    if (status) return status;
    status = check_version(file);
    for (int i = 0; i < c->n_facts && !status; i++) status = check_fact(c, file, &c->facts[i], hooks);
    if (!status) status = read_numbers(c, file);
    if (!status) snprintf(c->run, sizeof c->run, "%s", scbm_file_string_or(file, KEY("run"), c->run));
    if (!status) status = read_tensors(c, file);
    scbm_file_close(file);
    return status;
}
