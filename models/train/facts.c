/*
 * models/train/facts.c - what checkpoints and model files say of the run that wrote them
 */
#include "models/base/hash.h"
#include "models/train/run.h"

#include <stdio.h>
#include <string.h>

static void add_int(cbm_fact *facts, int *n, const char *key, int64_t value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_INT, value, 0.0, NULL};
}

static void add_real(cbm_fact *facts, int *n, const char *key, double value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_REAL, 0, value, NULL};
}

static void add_text(cbm_fact *facts, int *n, const char *key, const char *value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_TEXT, 0, 0.0, value};
}

static void add_setting(cbm_fact *facts, int *n, const cbm_train_setting *s, const cbm_train_options *settled) {
    const char *text = cbm_train_setting_text(s, settled);
    double number = cbm_train_setting_number(s, settled);
    if (text || s->kind == CBM_SETTING_TEXT) add_text(facts, n, s->key, text ? text : "none");
    else if (s->kind == CBM_SETTING_REAL) add_real(facts, n, s->key, number);
    else add_int(facts, n, s->key, (int64_t)number);
}

/* What a run is asked to do, and what it does it to. */
static void add_settings(const cbm_training_run *run, cbm_fact *facts, int *n) {
    const cbm_train_setting *setting;
    for (int i = 0; (setting = cbm_train_setting_at(i)); i++)
        if ((setting->flags & CBM_SETTING_FIXED) && !cbm_train_setting_unmet(setting, run->options))
            add_setting(facts, n, setting, run->options);
    add_real(facts, n, "hidden_dropout", (double)run->settings.hidden_dropout);
    add_real(facts, n, "attention_dropout", (double)run->settings.attention_dropout);
    add_int(facts, n, "texts", (int64_t)run->train->n);
}

/* What tells this run from others, wherever it runs. */
static void identify(cbm_training_run *run) {
    uint64_t hash = CBM_HASH_START;
    for (int i = 0; i < run->n_facts; i++) {
        const cbm_fact *fact = &run->facts[i];
        float real = (float)fact->real; /* as files have it */
        hash = cbm_hash(hash, fact->key, strlen(fact->key));
        hash = cbm_hash(hash, &fact->integer, sizeof fact->integer);
        hash = cbm_hash(hash, &real, sizeof real);
        if (fact->text) hash = cbm_hash(hash, fact->text, strlen(fact->text));
    }
    snprintf(run->state.run, sizeof run->state.run, "%016llx", (unsigned long long)hash);
}

void cbm_run_settle_facts(cbm_training_run *run) {
    add_settings(run, run->facts, &run->n_facts);
    add_text(run->facts, &run->n_facts, "teacher", run->options->teacher ? run->teacher_hash : "none");
    add_text(run->facts, &run->n_facts, "data", run->data_hash);
    add_text(run->facts, &run->n_facts, "start", run->start_hash);
    identify(run);
    add_text(run->facts, &run->n_facts, "device", scbm_context_device(run->context));
    add_int(run->facts, &run->n_facts, "version", scbm_version() / 100); /* patches compute the same */
}

/* One is a text, several are a list. */
static void note_labels(scbm_writer *writer, const char *key, const char *const *labels, int n) {
    if (n == 1) scbm_writer_set_string(writer, key, labels[0]);
    else if (n > 1) scbm_writer_set_strings(writer, key, labels, n);
}

static void note_columns(const void *user, scbm_writer *writer) {
    const cbm_training_run *run = user;
    const cbm_dataset_options *c = run->options->columns;
    if (!c) return;
    if (c->text) scbm_writer_set_string(writer, CBM_KEY_TEXT_COLUMN, c->text);
    if (c->label) scbm_writer_set_string(writer, CBM_KEY_LABEL_COLUMN, c->label);
    note_labels(writer, CBM_KEY_DROP_LABEL, c->drop_labels, c->n_drop_labels);
    note_labels(writer, CBM_KEY_IGNORE_LABEL, c->ignore_labels, c->n_ignore_labels);
    if (run->concept_columns)
        scbm_writer_set_strings(writer, CBM_KEY_CONCEPT_COLUMNS, run->concept_columns, c->n_concepts);
    if (c->unknown) scbm_writer_set_strings(writer, CBM_KEY_UNKNOWN, c->unknown, c->n_unknown);
    if (c->unknown_is_missing) scbm_writer_set_bool(writer, CBM_KEY_UNKNOWN_IS_MISSING, 1);
    if (c->merge_classes) scbm_writer_set_bool(writer, CBM_KEY_MERGE_CLASSES, 1);
}

/* What came out of the epoch. */
static void add_measures(const cbm_training_run *run, const cbm_validation *v, double train_loss, cbm_fact *facts,
                         int *n) {
    if (run->magnitude_overlap >= 0) add_real(facts, n, "magnitude_overlap", run->magnitude_overlap);
    add_int(facts, n, "validation_texts", (int64_t)run->valid->n);
    add_real(facts, n, "loss", train_loss);
    add_real(facts, n, "validation_loss", v->loss);
    add_real(facts, n, "label_accuracy", v->label_accuracy);
    add_real(facts, n, "label_f1", v->label_f1);
    if (!cbm_run_has_concepts(run)) return;
    add_real(facts, n, "concept_accuracy", v->concept_accuracy);
    add_real(facts, n, "concept_f1", v->concept_f1);
}

scbm_status cbm_run_write_model(cbm_training_run *run, const cbm_validation *v, double train_loss) {
    cbm_fact facts[MAX_FACTS + 16];
    int n = 0;
    add_settings(run, facts, &n);
    add_int(facts, &n, "epoch", run->state.epoch);
    if (run->state.epoch) {
        add_text(facts, &n, "run", run->state.run);
        add_measures(run, v, train_loss, facts, &n);
    }
    return cbm_write_model(run->output, run->encoder, &run->network,
                           cbm_run_has_concepts(run) ? &run->statistics : NULL, facts, n, note_columns, run,
                           &run->hooks);
}
