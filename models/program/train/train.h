/*
 * models/program/train/train.h - the parts of `train`: its options from the library's table of settings, its runs, and what
 * it prints
 */
#ifndef CBM_PROGRAM_TRAIN_H
#define CBM_PROGRAM_TRAIN_H

#include "models/program/program.h"

enum { TRAIN_MAX_OPTIONS = 120, TRAIN_MAX_SETTINGS = 80, TRAIN_MAX_SEEDS = 100 };

/* Where an option of a setting is parsed to. */
typedef struct train_slot {
    int64_t integer;
    double real;
    const char *text;
    int number; /* of a flag or a choice */
    int given;
    char choices[200];
    char help[800]; /* of a choice, with words about each */
} train_slot;

/* One run. With several seeds each has files of its own, with the seed in their names. */
typedef struct train_run {
    int64_t seed;
    char *output, *checkpoint, *steps, *order, *epochs, *page; /* steps, order and page may be NULL */
    char *encoder;                                             /* NULL where a file was given */
    cli_lock lock;
    cbm_epoch_report best; /* epoch 0: there is none */
} train_run;

/* What of an encoder without training can be chosen; 0: as the library has it. */
typedef struct train_scratch {
    int64_t hidden, blocks, width, words; /* states of a direction, layers, numbers of a word, words */
    const char *vectors;
} train_scratch;

typedef struct train_command {
    const cli_command *command;
    cli_option table[TRAIN_MAX_OPTIONS];
    int n_options, given[TRAIN_MAX_OPTIONS];
    train_slot slot[TRAIN_MAX_SETTINGS];
    const char *encoder_path, *output, *config, *save_config, *seeds, *device, *html;
    scbm_backend *backend; /* NULL: the CPU */
    cli_list data, validation;
    cli_columns columns;
    cbm_train_options options;
    train_scratch scratch;
    int64_t threads, limit;
    int json, force, plan;
    cJSON *config_values;
    train_run run[TRAIN_MAX_SEEDS];
    int n_runs;
    cli_progress progress;
    scbm_hooks hooks;
    /* Of the run at hand: */
    train_run *current;
    int n_epochs;                 /* that it has done itself */
    size_t n_left_out;            /* rows of the training data, for their label */
    const cbm_dataset *validated; /* on what */
    scbm_status page_status;
} train_command;

/* settings.c. Adds the program's own options under a heading, and those of the library's settings under it; with NULL all
 * that are not there yet. */
void train_add_options(train_command *t, const char *group, const cli_option *options);
void train_add_settings(train_command *t, const char *group);
/* Whether a setting was given, by its key. */
int train_is_given(const train_command *t, const char *key);
/* Moves what was given to t->options. */
void train_take_settings(train_command *t);
/* Refuses settings that are out of bounds or do not go together, and those of the command line that have no effect. */
int train_check_settings(const train_command *t);
/* Writes a configuration with all that has an effect in this run. */
scbm_status train_save_config(const train_command *t, const cbm_model *encoder, const scbm_hooks *hooks);
/* The library's last error, with options in place of settings' keys; returns `status`. */
scbm_status train_translate_error(scbm_status status);
/* The same in a text that advises settings; returns `text`. */
const char *train_translate_advice(char *text, size_t size);

/* runs.c. The runs of the seeds: their files, secured against other runs and against loss, … */
int train_plan_runs(train_command *t);
/* One run without files, whose memory alone is wanted. */
int train_plan_memory(train_command *t);
/* … and the work: reads the encoder and the data, and trains. */
scbm_status train_do_runs(train_command *t);
void train_clear_runs(train_command *t);
int train_exists(const char *path);

/* scratch.c. Whether the encoder is to be made of the training data; refuses options that have no effect then, or else; makes a
 * run's encoder and opens it, and removes it. */
int train_is_from_scratch(const train_command *t);
int train_check_scratch(const train_command *t);
int train_check_encoder(const train_command *t, const train_run *run); /* its file replaces nobody's without --force */
scbm_status train_make_encoder(train_command *t, const train_run *run, const cbm_dataset *train, cbm_model **encoder);
void train_drop_encoder(const train_run *run, cbm_model *encoder);

/* print.c */
void train_print_data(void *t, const cbm_dataset *train, const cbm_dataset *validation);
void train_print_memory(void *t, const cbm_memory_plan *plan);
void train_print_epoch(void *t, const cbm_epoch_report *report);
/* page.c. The page of the run at hand, of the model that it has written. */
scbm_status train_write_page(train_command *t, const cbm_train_history *history);

/* Mean and deviation over the runs of several seeds. */
void train_print_seeds(const train_command *t);

#endif
