/*
 * models/train/facts.c - what checkpoints and model files say of the run that wrote them
 */
#include "models/train/run.h"

#include <math.h>

static void add_int(cbm_fact *facts, int *n, const char *key, int64_t value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_INT, value, 0.0, NULL};
}

static void add_real(cbm_fact *facts, int *n, const char *key, double value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_REAL, 0, value, NULL};
}

static void add_text(cbm_fact *facts, int *n, const char *key, const char *value) {
    facts[(*n)++] = (cbm_fact){key, CBM_FACT_TEXT, 0, 0.0, value};
}

static void add_pruning(const cbm_prune_options *o, cbm_fact *facts, int *n) {
    add_text(facts, n, "prune_method", cbm_prune_name(o->method));
    add_real(facts, n, "sparsity", o->sparsity);
    add_real(facts, n, "initial_sparsity", o->initial_sparsity);
    add_int(facts, n, "prune_start", o->start);
    add_int(facts, n, "prune_end", o->end);
    if (o->method == CBM_PRUNE_OBERT) {
        add_int(facts, n, "fisher_block", o->fisher_block);
        add_int(facts, n, "fisher_batches", o->fisher_batches);
        add_int(facts, n, "fisher_batch_size", o->fisher_batch_size);
        add_real(facts, n, "damping", o->damping);
        add_int(facts, n, "damping_absolute", o->damping_absolute != 0);
    } else if (o->method != CBM_PRUNE_MAGNITUDE && o->method != CBM_PRUNE_RANDOM) {
        add_int(facts, n, "freeze_weights", o->freeze_weights != 0);
        add_real(facts, n, "score_rate", (double)o->score_rate);
    }
}

/* What a run is asked to do. */
static void add_settings(const cbm_training_run *run, cbm_fact *facts, int *n) {
    const cbm_train_options *o = run->options;
    add_int(facts, n, "seed", (int64_t)o->seed);
    add_int(facts, n, "texts", (int64_t)run->train->n);
    add_int(facts, n, "epochs", o->epochs);
    add_int(facts, n, "batch_size", o->batch_size);
    add_real(facts, n, "encoder_rate", (double)o->encoder_rate);
    add_real(facts, n, "head_rate", (double)o->head_rate);
    add_real(facts, n, "weight_decay", (double)o->weight_decay);
    add_real(facts, n, "warmup", (double)o->warmup);
    add_real(facts, n, "clip_norm", (double)o->clip_norm);
    add_real(facts, n, "hidden_dropout", (double)run->settings.hidden_dropout);
    add_real(facts, n, "attention_dropout", (double)run->settings.attention_dropout);
    if (cbm_run_has_concepts(run)) {
        add_real(facts, n, "concept_weight", (double)o->concept_weight);
        add_text(facts, n, "concept_loss", o->concept_loss == CBM_LOSS_SIGMOID ? "sigmoid" : "plain");
    }
    add_int(facts, n, "class_weights", o->class_weights != 0);
    add_real(facts, n, "mixup", (double)o->mixup);
    if (o->teacher) {
        add_real(facts, n, "teacher_weight", (double)o->teacher_weight);
        add_real(facts, n, "temperature", (double)o->temperature);
    }
    add_int(facts, n, "patience", o->patience);
    add_int(facts, n, "max_tokens", run->network.backbone.max_tokens);
    if (o->refit_label) add_int(facts, n, "refit_label", 1);
    if (cbm_run_prunes(run)) add_pruning(&o->prune, facts, n);
}

void cbm_run_settle_facts(cbm_training_run *run) {
    add_text(run->facts, &run->n_facts, "mode", cbm_mode_name(run->options->mode));
    add_settings(run, run->facts, &run->n_facts);
    if (!run->options->refit_label) add_int(run->facts, &run->n_facts, "refit_label", 0);
    if (!cbm_run_prunes(run)) add_text(run->facts, &run->n_facts, "prune_method", cbm_prune_name(CBM_PRUNE_NONE));
    add_text(run->facts, &run->n_facts, "teacher", run->options->teacher ? run->teacher_hash : "none");
    add_text(run->facts, &run->n_facts, "data", run->data_hash);
    add_text(run->facts, &run->n_facts, "start", run->start_hash);
    add_text(run->facts, &run->n_facts, "device", scbm_context_device(run->context));
    add_int(run->facts, &run->n_facts, "version", scbm_version());
}

scbm_status cbm_run_write_model(cbm_training_run *run, const cbm_validation *v, double train_loss) {
    cbm_fact facts[MAX_FACTS + 16];
    int n = 0;
    add_settings(run, facts, &n);
    add_int(facts, &n, "epoch", run->state.epoch);
    if (run->state.epoch) {
        if (run->magnitude_overlap >= 0) add_real(facts, &n, "magnitude_overlap", run->magnitude_overlap);
        add_int(facts, &n, "validation_texts", (int64_t)run->valid->n);
        add_real(facts, &n, "loss", train_loss);
        add_real(facts, &n, "validation_loss", v->loss);
        add_real(facts, &n, "label_accuracy", v->label_accuracy);
        add_real(facts, &n, "label_f1", v->label_f1);
        if (cbm_run_has_concepts(run)) add_real(facts, &n, "concept_accuracy", v->concept_accuracy);
        if (cbm_run_has_concepts(run)) add_real(facts, &n, "concept_f1", v->concept_f1);
    }
    return cbm_write_model(run->options->output, run->encoder, &run->network,
                           cbm_run_has_concepts(run) ? &run->statistics : NULL, facts, n);
}
