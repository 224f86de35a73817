/*
 * models/program/train.h - the parts of `train`: its options from the library's table of settings, and what it prints
 */
#ifndef CBM_PROGRAM_TRAIN_H
#define CBM_PROGRAM_TRAIN_H

#include "models/program/program.h"

enum { TRAIN_MAX_OPTIONS = 120, TRAIN_MAX_SETTINGS = 80 };

/* Where an option of a setting is parsed to. */
typedef struct train_slot {
    int64_t integer;
    double real;
    const char *text;
    int number; /* of a flag or a choice */
    int given;
    char choices[200];
} train_slot;

typedef struct train_command {
    const cli_command *command;
    cli_option table[TRAIN_MAX_OPTIONS];
    int n_options, given[TRAIN_MAX_OPTIONS];
    train_slot slot[TRAIN_MAX_SETTINGS];
    const char *encoder_path, *output, *config, *save_config;
    cli_list data, validation;
    cli_columns columns;
    cbm_train_options options;
    int64_t threads;
    int json, force;
    cJSON *config_values;
    char *checkpoint_path;
    cli_lock lock;
    int n_epochs; /* that are done, in this run */
    cli_progress progress;
} train_command;

/* train-settings.c. Adds the program's own options under a heading, and those of the library's settings under it; with NULL
 * all that are not there yet. */
void train_add_options(train_command *t, const char *group, const cli_option *options);
void train_add_settings(train_command *t, const char *group);
/* Moves what was given to t->options. */
void train_take_settings(train_command *t);
/* Refuses settings that are out of bounds or do not go together, and those of the command line that have no effect. */
int train_check_settings(const train_command *t);
/* Writes a configuration with all that has an effect in this run. */
scbm_status train_save_config(const train_command *t, const cbm_model *encoder, const scbm_hooks *hooks);
/* The library's last error, with options in place of settings' keys; returns `status`. */
scbm_status train_translate_error(scbm_status status);

/* train-print.c */
void train_print_data(const train_command *t, const cbm_dataset *train, const cbm_dataset *validation);
void train_print_epoch(void *t, const cbm_epoch_report *report);

#endif
