/*
 * convert/hf-config.h - what a Hugging Face folder says about its encoder: config.json, and a sentence-transformers
 * folder's modules.json, pooling, sentence_bert_config.json and config_sentence_transformers.json
 */
#ifndef CONVERT_HF_CONFIG_H
#define CONVERT_HF_CONFIG_H

#include "models/backbones/architecture.h"

enum { HF_POOLING_MEAN = 1, HF_POOLING_FIRST = 2, HF_POOLING_LAST = 3 }; /* as a backbone has it */

typedef struct hf_config {
    cbm_backbone settings; /* the architecture, and what its keys say; no parameters */
    int64_t max_tokens;    /* what sentence_bert_config.json says; 0: nothing */
    int lowercases;        /* sentence-transformers lower-cases the text before the tokenizer gets it */
    int normalize;
    char pooling_problem[400]; /* why the folder's pooling cannot be had: who converts must choose one; "": it can */
    char *name;                /* of the checkpoint; NULL: not said */
    char *folder;              /* where config.json is: the folder, or one in it that modules.json names */
    char *pooling_folder;      /* in the folder; NULL: no pooling is described */
    scbm_hooks hooks;
} hf_config;

/* Reads everything; on error *config is cleared. */
scbm_status cbm_hf_config_read(hf_config *config, const char *folder, const scbm_hooks *hooks);
void cbm_hf_config_clear(hf_config *config);

/* The parts, from memory; `name` stands for the path in messages. cbm_hf_config_parse comes before pooling and sentence. */
scbm_status cbm_hf_config_parse(hf_config *config, const void *data, size_t size, const char *name);
scbm_status cbm_hf_config_parse_pooling(hf_config *config, const void *data, size_t size, const char *name);
scbm_status cbm_hf_config_parse_sentence(hf_config *config, const void *data, size_t size, const char *name);
/* Names the prompts and what else changes embeddings and is not done here. */
scbm_status cbm_hf_config_parse_prompts(hf_config *config, const void *data, size_t size, const char *name);
/* Sets `normalize` and, as paths inside `root`, `folder` and `pooling_folder`. */
scbm_status cbm_hf_config_parse_modules(hf_config *config, const void *data, size_t size, const char *name,
                                        const char *root);

#endif
