/*
 * models/train/settings.c - the settings of a training run: one table of defaults, bounds, names and help
 *
 * A new setting is a field of cbm_train_options and a row here; a command line, configuration files, checkpoints and model
 * files have it then. A row that others need comes before them.
 */
#include "models/core/context.h"
#include "models/core/keys.h"
#include "models/prune/prune.h"
#include "models/train/graph.h"
#include "models/train/run.h"

#include <stdio.h>
#include <string.h>

static const char *mode_choice(int number) {
    return number <= CBM_JOINT ? cbm_mode_name((cbm_mode)number) : NULL;
}

static const char *loss_choice(int number) {
    static const char *const names[] = {"plain", "sigmoid"};
    return number < 2 ? names[number] : NULL;
}

static const char *pooling_choice(int number) {
    return cbm_pooling_name((cbm_pooling)number);
}

static const char *prune_choice(int number) {
    return number > 0 ? cbm_prune_method_name(number - 1) : "none";
}

static const char *prune_help(int number) {
    return cbm_prune_method_help(number - 1);
}

/* Integers have no gradients. */
static const char *precision_choice(int number) {
    return number < SCBM_PRECISION_INT8 ? scbm_precision_name((scbm_precision)number) : NULL;
}

#define AT(field) offsetof(cbm_train_options, field)
#define PLAIN NULL, NULL /* no choice, and so no help on any */
#define FLAG(field, standing) CBM_SETTING_FLAG, AT(field), 0, 0, 1, standing, PLAIN
#define INT(field, standard, least, most, standing) CBM_SETTING_INT, AT(field), standard, least, most, standing, PLAIN
#define REAL(field, standard, least, most, standing) CBM_SETTING_REAL, AT(field), standard, least, most, standing, PLAIN
#define CHOICE(field, standard, least, choice) CBM_SETTING_CHOICE, AT(field), standard, least, 99, FIXED, choice, NULL
#define NAME(field, choice, help) CBM_SETTING_CHOICE, AT(field), 0, 0, 99, FIXED | CBM_SETTING_NAME, choice, help
#define PATH(field, kind) kind, AT(field), 0, 0, 0, 0, PLAIN
enum { FIXED = CBM_SETTING_FIXED, HAS_ZERO = CBM_SETTING_HAS_ZERO, CHANGES = CBM_SETTING_FIXED | CBM_SETTING_CHANGES, DEPENDS = -1 };

/* clang-format off */
static const cbm_train_setting settings[] = {
    {"mode", "mode", NULL, "Model", "what is learned from what", NULL, CHOICE(mode, CBM_JOINT, CBM_VANILLA, mode_choice)},
    {"max_length", "max-length", "N", "Model", "cut texts after N tokens; 0: as many as the encoder reads", NULL,
     INT(max_length, DEPENDS, 0, 1000000, FIXED)},
    {"pooling", "pool", NULL, "Model", "what the heads read of a text's tokens; file: as the encoder's file says", NULL,
     CHOICE(pooling, CBM_POOL_FILE, CBM_POOL_FILE, pooling_choice)},
    {"init", "init", "FILE", "Model", "a model with the same heads to go on from, instead of new heads", NULL,
     PATH(init, CBM_SETTING_READS)},

    {"validation_split", "validation-split", "X", "Data",
     "the share of the training data to validate on, of each label, where there are no validation data", NULL,
     REAL(validation_split, 0.1, 0.001, 0.9, FIXED)},

    {"epochs", "epochs", "N", "Optimization",
     "passes over the training data (default 10, or 5 after the last pruning); 0 only initializes", NULL,
     INT(epochs, DEPENDS, 0, 100000, CHANGES | HAS_ZERO)},
    {"batch_size", "batch-size", "N", "Optimization", "texts in a step", NULL, INT(batch_size, 16, 1, 65536, FIXED)},
    {"accumulate", "accumulate", "N", "Optimization",
     "batches of a step: the gradients of one batch N times the size, in the memory of one", NULL,
     INT(accumulate, 1, 1, 65536, FIXED)},
    {"precision", "precision", NULL, "Optimization",
     "what matrix products of the steps read their operands as; weights, sums, gradients and losses are f32", NULL,
     CHOICE(precision, SCBM_PRECISION_F32, SCBM_PRECISION_F32, precision_choice)},
    {"freeze", "freeze", "embeddings|N", "Optimization", "the embeddings, or they and the lowest N blocks, do not learn", NULL,
     CBM_SETTING_TEXT, AT(freeze), 0, 0, 0, FIXED, PLAIN},
    {"learning_rate", "lr", "X", "Optimization", "learning rate of the encoder", NULL,
     REAL(learning_rate, 1e-4, 0, 10, CHANGES | HAS_ZERO)},
    {"head_learning_rate", "head-lr", "X", "Optimization", "learning rate of the concept and label heads", NULL,
     REAL(head_learning_rate, 1e-3, 0, 10, CHANGES | HAS_ZERO)},
    {"weight_decay", "weight-decay", "X", "Optimization", "decoupled weight decay of the matrices", NULL,
     REAL(weight_decay, 0.01, 0, 10, CHANGES | HAS_ZERO)},
    {"warmup", "warmup", "X", "Optimization", "share of all steps in which the learning rate climbs", NULL,
     REAL(warmup, 0.06, 0, 1, CHANGES | HAS_ZERO)},
    {"max_grad_norm", "max-grad-norm", "X", "Optimization", "the gradient's largest norm; 0: any", NULL,
     REAL(max_grad_norm, 1, 0, 1e9, CHANGES | HAS_ZERO)},
    {"dropout", "dropout", "X", "Optimization", "dropout (default as the encoder's file says)", NULL,
     REAL(dropout, DEPENDS, 0, 0.99, HAS_ZERO)},
    {"patience", "patience", "N", "Optimization", "stop after N epochs without a better one; 0: never", NULL,
     INT(patience, 0, 0, 100000, CHANGES)},

    {"concept_weight", "lambda", "X", "Losses", "weight of the concepts' loss beside the label's", "mode=joint",
     REAL(concept_weight, 5, 0, 1e6, CHANGES | HAS_ZERO)},
    {"concept_loss", "concept-loss", NULL, "Losses", "cross-entropy on logits, or on their sigmoid as released",
     "mode=independent|sequential|joint", CHOICE(concept_loss, CBM_LOSS_PLAIN, CBM_LOSS_PLAIN, loss_choice)},
    {"class_weights", "class-weights", NULL, "Losses", "weigh classes by the inverse of their frequency", NULL,
     FLAG(class_weights, FIXED)},
    {"mixup", "mixup", "A", "Losses", "concept-level MixUp with Beta(A, A); 0: off", NULL, REAL(mixup, 0, 0, 100, FIXED)},
    {"refit_label", "refit-label", NULL, "Losses", "joint mode: fit the label head anew to the frozen concepts of each epoch",
     "mode=joint", FLAG(refit_label, FIXED)},

    {"prune_method", "prune", NULL, "Subnetworks", "find a sparse subnetwork for each concept, by this score",
     "mode=independent|sequential|joint", NAME(prune.method, prune_choice, prune_help)},
    {"sparsity", "sparsity", "X", "Subnetworks", "the share of zeros in each matrix of each subnetwork in the end",
     "prune_method", REAL(prune.sparsity, 0.7, 1e-6, 0.999999, FIXED)},
    {"initial_sparsity", "initial-sparsity", "X", "Subnetworks",
     "the share after the first pruning (default 0.2, or as in the end where that is less)", "prune_method",
     REAL(prune.initial_sparsity, DEPENDS, 0, 0.999999, FIXED | HAS_ZERO)},
    {"prune_start", "prune-start", "N", "Subnetworks", "the epoch (from 1) after which is pruned for the first time",
     "prune_method", INT(prune.start, 2, 1, 100000, FIXED)},
    {"prune_end", "prune-end", "N", "Subnetworks", "and for the last time", "prune_method",
     INT(prune.end, 15, 1, 100000, FIXED)},
    {"fisher_block", "fisher-block", "N", "Subnetworks", "obert: weights that are scored together", "prune_method=obert",
     INT(prune.fisher_block, 20, 1, 1024, FIXED)},
    {"fisher_gradients", "fisher-gradients", "M", "Subnetworks", "obert: gradients; 0: four times the block",
     "prune_method=obert", INT(prune.fisher_gradients, DEPENDS, 0, 1000000, FIXED)},
    {"fisher_texts", "fisher-texts", "N", "Subnetworks", "obert: texts of a gradient; 0: as in a step", "prune_method=obert",
     INT(prune.fisher_texts, DEPENDS, 0, 65536, FIXED)},
    {"damping_absolute", "damping-absolute", "X", "Subnetworks", "obert: the damping as it is (published: 1e-7)",
     "prune_method=obert", REAL(prune.damping_absolute, 0, 1e-30, 1e9, FIXED)},
    {"damping", "damping", "X", "Subnetworks", "obert: the damping, as a share of a matrix's mean squared gradient",
     "prune_method=obert,!damping_absolute", REAL(prune.damping, 0.1, 1e-30, 1e9, FIXED)},
    {"fisher_memory", "fisher-memory", "MIB", "Subnetworks",
     "obert: memory for Fisher matrices; layers are scored in groups that fit, to the same masks; 0: up to 4096",
     "prune_method=obert", CBM_SETTING_MEMORY, AT(prune.fisher_memory), 0, 0, 1e8, 0, PLAIN},

    {"score_learning_rate", "score-lr", "X", "Popup", "learning rate of the scores", "prune_method=popup|popup-structured",
     REAL(prune.score_learning_rate, 0.01, 0, 100, CHANGES | HAS_ZERO)},
    {"freeze_weights", "freeze-weights", NULL, "Popup",
     "from the first pruning on only scores and heads learn, the encoder stays as it is",
     "prune_method=popup|popup-structured", FLAG(prune.freeze_weights, FIXED)},

    {"teacher", "teacher", "FILE", "Teacher",
     "a trained model with the same classes, whose probabilities are learned too (distillation)", NULL,
     PATH(teacher, CBM_SETTING_READS)},
    {"teacher_weight", "teacher-weight", "X", "Teacher", "weight of that loss beside that of the gold classes", "teacher",
     REAL(teacher_weight, 1, 0, 1e6, CHANGES | HAS_ZERO)},
    {"temperature", "temperature", "X", "Teacher", "the teacher's probabilities and the logits are softened by it", "teacher",
     REAL(temperature, 2, 1e-3, 1e6, CHANGES)},

    {"step_log", "log-steps", "FILE", "Output", "write every step's loss and gradient norm (CSV)", NULL,
     PATH(step_log, CBM_SETTING_WRITES)},
    {"order_log", "dump-order", "FILE", "Output", "write which rows each step used", NULL,
     PATH(order_log, CBM_SETTING_WRITES)},

    {"epoch_log", "log-epochs", "FILE", "Output", "write every epoch's measures (CSV)", NULL,
     PATH(epoch_log, CBM_SETTING_WRITES)},

    {"memory", "memory", "MIB", "Run",
     "what the run may take; more is refused before it starts; 0: what the machine and its control group leave", NULL,
     CBM_SETTING_MEMORY, AT(memory), 0, 0, 1e8, 0, PLAIN},
    {"seed", "seed", "N", "Run", "seed of everything random", NULL, CBM_SETTING_LONG, AT(seed), 42, 0, 9e15,
     FIXED | HAS_ZERO, PLAIN},
    {"resume", "resume", NULL, "Run", "go on from the checkpoint of a run that was stopped, to the same bits", NULL,
     FLAG(resume, 0)},
    {"resume_anyway", "resume-anyway", NULL, "Run",
     "the same where the checkpoint is of another processor or version, or of other epochs or rates: to other bits", NULL,
     FLAG(resume_anyway, 0)},
};
/* clang-format on */
enum { N_SETTINGS = sizeof settings / sizeof settings[0] };
_Static_assert(N_SETTINGS + 16 <= MAX_FACTS, "a run's facts have room for every setting, and what else they say");

#define MIB 1048576.0
#define EPOCHS 10
#define EPOCHS_AFTER_PRUNING 5
#define INITIAL_SPARSITY 0.2

const cbm_train_setting *cbm_train_setting_at(int i) {
    return i >= 0 && i < N_SETTINGS ? &settings[i] : NULL;
}

const cbm_train_setting *cbm_train_setting_find(const char *key) {
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(settings[i].key, key) == 0) return &settings[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------- */

static int is_text(const cbm_train_setting *s) {
    return s->kind == CBM_SETTING_TEXT || s->kind == CBM_SETTING_READS || s->kind == CBM_SETTING_WRITES;
}

/* The number of a choice; -1: there is no such name. */
static int number_of(const cbm_train_setting *s, const char *name) {
    int i = (int)s->least;
    while (s->choice(i) && strcmp(s->choice(i), name) != 0) i++;
    return s->choice(i) ? i : -1;
}

double cbm_train_setting_number(const cbm_train_setting *s, const cbm_train_options *options) {
    const void *field = (const char *)options + s->offset;
    const char *name = s->flags & CBM_SETTING_NAME ? *(const char *const *)field : NULL;
    if (s->flags & CBM_SETTING_NAME) return name ? number_of(s, name) : s->least;
    switch (s->kind) {
    case CBM_SETTING_LONG: return (double)*(const int64_t *)field;
    case CBM_SETTING_REAL: return *(const double *)field;
    case CBM_SETTING_MEMORY: return (double)*(const size_t *)field / MIB;
    default: return is_text(s) ? 0.0 : *(const int *)field;
    }
}

static void set_number(const cbm_train_setting *s, cbm_train_options *options, double value) {
    void *field = (char *)options + s->offset;
    if (s->flags & CBM_SETTING_NAME) {
        *(const char **)field = value > s->least ? s->choice((int)value) : NULL;
        return;
    }
    switch (s->kind) {
    case CBM_SETTING_LONG: *(int64_t *)field = (int64_t)value; break;
    case CBM_SETTING_REAL: *(double *)field = value; break;
    case CBM_SETTING_MEMORY: *(size_t *)field = (size_t)(value * MIB); break;
    default:
        if (!is_text(s)) *(int *)field = (int)value;
    }
}

void cbm_train_setting_set_number(const cbm_train_setting *s, cbm_train_options *options, double value) {
    set_number(s, options, value == 0 && (s->flags & CBM_SETTING_HAS_ZERO) ? -1 : value);
}

const char *cbm_train_setting_text(const cbm_train_setting *s, const cbm_train_options *options) {
    if (is_text(s)) return *(const char *const *)((const char *)options + s->offset);
    int number = (int)cbm_train_setting_number(s, options);
    return s->kind == CBM_SETTING_CHOICE && number >= s->least ? s->choice(number) : NULL;
}

void cbm_train_setting_set_text(const cbm_train_setting *s, cbm_train_options *options, const char *value) {
    if (is_text(s)) *(const char **)((char *)options + s->offset) = value;
    if (s->kind == CBM_SETTING_CHOICE && number_of(s, value) >= 0) set_number(s, options, number_of(s, value));
}

const char *cbm_train_setting_of(const cbm_train_setting *s, const cbm_model *model, char text[32]) {
    char key[128];
    const scbm_file *file = cbm_model_file(model);
    snprintf(key, sizeof key, "%s%s", CBM_KEY_TRAIN, s->key);
    int64_t i = scbm_file_find_key(file, key);
    if (i < 0 || !(s->flags & CBM_SETTING_FIXED)) return NULL;
    switch (scbm_file_key_type(file, i)) {
    case SCBM_VALUE_STRING: return scbm_file_string_or(file, key, NULL);
    case SCBM_VALUE_F32: return scbm_print_float((float)scbm_file_float_or(file, key, 0), text);
    case SCBM_VALUE_I64: snprintf(text, 32, "%lld", (long long)scbm_file_int_or(file, key, 0)); return text;
    default: return NULL;
    }
}

/* ------------------------------------------------------------------------------------------
 * What needs what
 * ---------------------------------------------------------------------------------------- */

static int is_off(const cbm_train_setting *s, const cbm_train_options *settled) {
    return is_text(s) ? !cbm_train_setting_text(s, settled) : cbm_train_setting_number(s, settled) == 0;
}

/* Whether `word` is one of the names in names[0 … length), "popup|popup-structured". */
static int is_among(const char *word, const char *names, size_t length) {
    for (const char *end = names + length; names < end;) {
        size_t n = strcspn(names, "|,");
        if (strlen(word) == n && memcmp(word, names, n) == 0) return 1;
        names += n + 1;
    }
    return 0;
}

/* One of the needs: "teacher", "!damping_absolute" or "mode=joint". */
static int is_met(const char *need, size_t length, const cbm_train_options *settled) {
    int wants_off = need[0] == '!';
    size_t key_length = strcspn(need + wants_off, "=,");
    char key[64];
    snprintf(key, sizeof key, "%.*s", (int)key_length, need + wants_off);
    const cbm_train_setting *other = cbm_train_setting_find(key);
    if (!other || cbm_train_setting_unmet(other, settled)) return wants_off;
    if (key_length + (size_t)wants_off == length) return is_off(other, settled) == wants_off;
    const char *text = cbm_train_setting_text(other, settled);
    return text && is_among(text, need + key_length + 1, length - key_length - 1);
}

const char *cbm_train_setting_unmet(const cbm_train_setting *s, const cbm_train_options *settled) {
    for (const char *need = s->needs; need && *need;) {
        size_t length = strcspn(need, ",");
        if (!is_met(need, length, settled)) return need;
        need += length + (need[length] == ',');
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------
 * Settling: defaults and bounds
 * ---------------------------------------------------------------------------------------- */

static scbm_status refuse_name(const cbm_train_setting *s, const cbm_train_options *o) {
    char names[256] = "";
    for (int i = (int)s->least; s->choice(i); i++) {
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", s->choice(i));
    }
    return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %s is '%.64s', and must be one of %s", s->key,
                     *(const char *const *)((const char *)o + s->offset), names);
}

static scbm_status check_number(const cbm_train_setting *s, const cbm_train_options *o) {
    double value = cbm_train_setting_number(s, o);
    if ((s->flags & CBM_SETTING_NAME) && value < s->least) return refuse_name(s, o);
    if (s->kind == CBM_SETTING_CHOICE && !cbm_train_setting_text(s, o))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %s is %d, which stands for nothing", s->key, (int)value);
    if (value >= s->least && value <= s->most) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT, "training: %s is %g, and must lie between %g and %g", s->key, value, s->least,
                     s->most);
}

/* What a 0 or a negative number in the options stands for, or the number itself. */
static scbm_status settle_number(const cbm_train_setting *s, cbm_train_options *o) {
    double value = cbm_train_setting_number(s, o);
    if (value == 0) set_number(s, o, s->standard);
    else if (value < 0 && (s->flags & CBM_SETTING_HAS_ZERO)) set_number(s, o, 0);
    else return check_number(s, o);
    return SCBM_OK;
}

/* The defaults that depend on other settings. */
static void settle_dependent(cbm_train_options *o, const cbm_model *encoder) {
    cbm_prune_options *p = &o->prune;
    if (p->initial_sparsity < 0) p->initial_sparsity = p->sparsity < INITIAL_SPARSITY ? p->sparsity : INITIAL_SPARSITY;
    if (p->fisher_gradients < 0) p->fisher_gradients = 4 * p->fisher_block;
    if (p->fisher_texts < 0) p->fisher_texts = o->batch_size;
    if (o->epochs < 0) o->epochs = p->method ? p->end + EPOCHS_AFTER_PRUNING : EPOCHS;
    if (o->pooling == CBM_POOL_FILE && encoder) o->pooling = cbm_model_pooling(encoder);
    if (o->max_length < 0) o->max_length = encoder ? cbm_model_max_tokens(encoder) : 0;
}

/* What the table cannot say: settings that do not go together. */
static scbm_status check_together(const cbm_train_options *o, const cbm_model *encoder) {
    if (encoder && o->max_length > cbm_model_max_tokens(encoder))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: max_length is %d; the encoder reads at most %d tokens",
                         o->max_length, cbm_model_max_tokens(encoder));
    int frozen;
    scbm_status status = cbm_frozen_part(o->freeze, encoder ? &encoder->network.backbone : NULL, &frozen);
    if (status) return status;
    if (o->refit_label && o->mode != CBM_JOINT)
        return scbm_fail(SCBM_ERROR_ARGUMENT,
                         "training: refit_label is for joint mode; %s mode has no label head to refit",
                         cbm_mode_name(o->mode));
    if (o->teacher && o->mixup > 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "training: a teacher and MixUp do not go together");
    return cbm_prune_check(&o->prune, o->mode, o->epochs);
}

scbm_status cbm_train_settle(const cbm_train_options *options, const cbm_model *encoder, cbm_train_options *settled) {
    memset(settled, 0, sizeof *settled);
    if (options) *settled = *options;
    if (settled->resume_anyway) settled->resume = 1;
    scbm_status status = cbm_check_reserved(settled->reserved, "cbm_train_options");
    if (!status) status = cbm_check_reserved(settled->prune.reserved, "cbm_prune_options");
    for (int i = 0; i < N_SETTINGS && !status; i++)
        if (!is_text(&settings[i])) status = settle_number(&settings[i], settled);
    if (status) return status;
    settle_dependent(settled, encoder);
    return check_together(settled, encoder);
}
