/*
 * models/program/train/scratch.c - `train --encoder bilstm`: encoders that nobody has trained, made of the training data's
 * words. Each run has one of its own, by its seed, in a file beside its model that goes when the run is over; the same run makes
 * the same one, so --resume finds what it began with.
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/train/train.h"

#include <string.h>
#include <unistd.h>

#define KIND "bilstm"
#define NAME "BiLSTM over words of the training data"

int train_is_from_scratch(const train_command *t) {
    return t->encoder_path && strcmp(t->encoder_path, KIND) == 0;
}

int train_check_scratch(const train_command *t) {
    const void *const values[] = {&t->scratch.hidden, &t->scratch.blocks,  &t->scratch.width,
                                  &t->scratch.words,  &t->scratch.vectors, NULL};
    if (train_is_from_scratch(t)) return CLI_GO_ON;
    return cli_refuse(t->command, t->table, "without --encoder " KIND, values);
}

/* Whether a run that was killed left it there. */
static int is_own(const char *path) {
    scbm_file *file;
    const char *name;
    if (scbm_file_open(&file, path, NULL)) return 0;
    int is = scbm_file_get_string(file, "general.name", &name) == SCBM_OK && strcmp(name, NAME) == 0;
    scbm_file_close(file);
    return is;
}

int train_check_encoder(const train_command *t, const train_run *run) {
    if (!run->encoder || t->force || !train_exists(run->encoder) || is_own(run->encoder)) return CLI_GO_ON;
    return cli_fail(t->command,
                    "%.300s is there, and is not an encoder that an earlier run left: --force replaces it, and it goes when "
                    "the run is over",
                    run->encoder);
}

scbm_status train_make_encoder(train_command *t, const train_run *run, const cbm_dataset *train, cbm_model **encoder) {
    const cbm_load_options load = {.hooks = &t->hooks};
    cbm_train_options settled;
    scbm_status status = cbm_train_settle(&t->options, NULL, &settled);
    if (status != SCBM_OK) return status;
    const int64_t seed = t->seeds ? run->seed : settled.seed;
    const cbm_random_encoder_options options = {.architecture = KIND,
                                                .name = NAME,
                                                .hidden = (int)(2 * t->scratch.hidden),
                                                .blocks = (int)t->scratch.blocks,
                                                .embedding_width = (int)t->scratch.width,
                                                .max_vocabulary = (int)t->scratch.words,
                                                .vectors = t->scratch.vectors,
                                                .seed = (uint64_t)(seed > 0 ? seed : 0),
                                                .texts = train->text,
                                                .lengths = train->text_length,
                                                .n_texts = train->n,
                                                .hooks = &t->hooks};
    status = cbm_random_encoder_write(run->encoder, &options);
    cli_progress_clear(&t->progress);
    return status != SCBM_OK ? status : cbm_model_load(encoder, run->encoder, &load);
}

void train_drop_encoder(const train_run *run, cbm_model *encoder) {
    cbm_model_free(encoder);
    unlink(run->encoder);
}
