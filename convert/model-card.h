/*
 * convert/model-card.h - a Hugging Face folder's README.md: the licence and the source, which go with the model
 */
#ifndef CONVERT_MODEL_CARD_H
#define CONVERT_MODEL_CARD_H

#include "sparsecbm.h"

enum {
    HF_CARD_LICENSE,
    HF_CARD_LICENSE_NAME,
    HF_CARD_LICENSE_LINK,
    HF_CARD_SOURCE,
    HF_CARD_REPOSITORY,
    HF_CARD_FIELDS
};

/* What its YAML front matter says; NULL: nothing. */
typedef struct hf_card {
    char *field[HF_CARD_FIELDS];
    scbm_hooks hooks;
} hf_card;

/* A folder without README.md, or with one that cannot be read, has a card that says nothing. The other errors are those
 * of memory. */
scbm_status cbm_hf_card_read(hf_card *card, const char *folder, const scbm_hooks *hooks);
scbm_status cbm_hf_card_parse(hf_card *card, const void *data, size_t size, const scbm_hooks *hooks);
void cbm_hf_card_clear(hf_card *card);
/* The repository, where the card says none, of a model that is published under `name` ("someone/model"). */
scbm_status cbm_hf_card_set_repository(hf_card *card, const char *name);
/* general.license, general.license.name, …link, general.source.url, …repo_url */
void cbm_hf_card_write(const hf_card *card, scbm_writer *writer);
/* The way back: a README.md that says what a model file says. */
scbm_status cbm_hf_card_export(const scbm_file *file, const char *path, const scbm_hooks *hooks);

#endif
