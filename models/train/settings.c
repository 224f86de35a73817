/*
 * models/train/settings.c - the settings of a training run: defaults and bounds
 */
#include "models/prune/prune.h"
#include "models/train/check.h"

#include <string.h>

void cbm_train_defaults(cbm_train_options *options) {
    memset(options, 0, sizeof *options);
    options->mode = CBM_JOINT;
    options->epochs = 10;
    options->batch_size = 16;
    options->encoder_rate = 1e-4f;
    options->head_rate = 1e-3f;
    options->weight_decay = 0.01f;
    options->warmup = 0.06f;
    options->clip_norm = 1.0f;
    options->concept_weight = 5.0f;
    options->dropout = -1.0f;
    options->teacher_weight = 1.0f;
    options->temperature = 2.0f;
    options->prune.sparsity = 0.7;
    options->prune.initial_sparsity = 0.2;
    options->prune.start = 2;
    options->prune.end = 15;
    options->prune.fisher_block = 20;
    options->prune.damping = 0.1;
    options->prune.score_rate = 0.01f;
    options->seed = 42;
}

/* A real option must be finite and lie in [least, most]. */
static scbm_status check_real(const char *name, float value, double least, double most) {
    if ((double)value >= least && (double)value <= most) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %s is %g, and must lie between %g and %g", name, (double)value,
                     least, most);
}

static scbm_status check_reals(const cbm_train_options *o) {
    scbm_status status = check_real("encoder_rate", o->encoder_rate, 0, 1e6);
    if (!status) status = check_real("head_rate", o->head_rate, 0, 1e6);
    if (!status) status = check_real("weight_decay", o->weight_decay, 0, 1e6);
    if (!status) status = check_real("warmup", o->warmup, 0, 1);
    if (!status) status = check_real("clip_norm", o->clip_norm, 0, 1e30);
    if (!status) status = check_real("concept_weight", o->concept_weight, 0, 1e30);
    if (!status) status = check_real("dropout", o->dropout, -1e30, 0.999);
    if (!status) status = check_real("mixup", o->mixup, 0, 1e6);
    if (!status) status = check_real("teacher_weight", o->teacher_weight, 0, 1e6);
    if (!status) status = check_real("temperature", o->temperature, 1e-3, 1e6);
    return status;
}

scbm_status cbm_check_train_options(const cbm_model *encoder, const cbm_train_options *o) {
    if (o->mode < CBM_VANILLA || o->mode > CBM_JOINT)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %d is no mode to train in", (int)o->mode);
    if (!o->output) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: there is no output file");
    if (o->epochs < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %d epochs", o->epochs);
    if (o->batch_size < 1) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: batches of %d texts", o->batch_size);
    if (o->patience < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "training: patience is %d", o->patience);
    if (o->max_tokens < 0 || o->max_tokens > cbm_model_max_tokens(encoder))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: texts of %d tokens; the encoder reads at most %d",
                         o->max_tokens, cbm_model_max_tokens(encoder));
    if (o->refit_label && o->mode != CBM_JOINT)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "training: refit_label is for joint mode; %s mode has no label head to refit",
                         cbm_mode_name(o->mode));
    if (o->teacher && o->mixup > 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: a teacher and MixUp do not go together");
    scbm_status status = cbm_prune_check(&o->prune, o->mode, o->epochs);
    return status ? status : check_reals(o);
}
