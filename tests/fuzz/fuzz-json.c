/*
 * tests/fuzz/fuzz-json.c - any bytes as the text files of a Hugging Face folder: each is refused, or its values are
 * in range and can be written. The first byte chooses the file.
 */
#include "convert/hf-config.h"
#include "convert/hf-tokenizer.h"
#include "convert/hf-weights.h"
#include "convert/model-card.h"
#include "tests/fuzz/require.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 64 };

static int is_ok(scbm_status status) {
    if (status != SCBM_OK) check_refusal();
    return status == SCBM_OK;
}

/* A value that a row of keys gives is in its range. */
static void check_value(const cbm_backbone *settings, const cbm_key *key) {
    double value = cbm_key_get(settings, key);
    if (key->kind == CBM_KEY_COUNT || key->kind == CBM_KEY_SIZE) require(value >= 1 && value <= CBM_MAX_SIZE);
    if (key->kind == CBM_KEY_FRACTION) require(value >= 0 && value < 1);
    if (key->kind == CBM_KEY_ACTIVATION) require(value > SCBM_NONE && value <= SCBM_SIGMOID);
    if (key->kind == CBM_KEY_POOLING) require(value >= HF_POOLING_MEAN && value <= HF_POOLING_LAST);
}

static void try_config(const void *data, size_t size) {
    hf_config config;
    memset(&config, 0, sizeof config);
    if (is_ok(cbm_hf_config_parse(&config, data, size, "config.json"))) {
        const cbm_backbone *settings = &config.settings;
        for (int i = 0; i < settings->architecture->n_keys; i++)
            check_value(settings, &settings->architecture->keys[i]);
        require(settings->head_size > 0 && settings->embedding_width > 0 && settings->n_blocks <= CBM_MAX_BLOCKS);
        require(cbm_n_places(settings) > 0);
    }
    cbm_hf_config_clear(&config);
}

static void try_sentence_files(int which, const void *data, size_t size) {
    hf_config config;
    memset(&config, 0, sizeof config);
    config.settings.output = 32;
    if (which == 0) {
        if (is_ok(cbm_hf_config_parse_pooling(&config, data, size, "pooling")))
            require(config.settings.pooling > 0 || config.pooling_problem[0]);
    } else if (which == 1) {
        if (is_ok(cbm_hf_config_parse_sentence(&config, data, size, "sentence"))) require(config.max_tokens >= 0);
    } else if (which == 3) {
        is_ok(cbm_hf_config_parse_prompts(&config, data, size, "prompts"));
    } else if (is_ok(cbm_hf_config_parse_modules(&config, data, size, "modules.json", "root"))) {
        require(config.folder && strncmp(config.folder, "root", 4) == 0 && !strstr(config.folder, ".."));
    }
    cbm_hf_config_clear(&config);
}

/* Writes the keys of what could be read: every token, whether there is a text for it or not. */
static void use_tokenizer(hf_tokenizer *tokenizer) {
    scbm_writer *writer;
    if (!is_ok(cbm_hf_tokenizer_finish(tokenizer, "folder"))) return;
    require(tokenizer->omits_first || tokenizer->special_id[CBM_TOKEN_FIRST] >= 0);
    require(tokenizer->special_id[CBM_TOKEN_FIRST] < ROWS);
    if (!is_ok(scbm_writer_create(&writer, NULL))) return;
    require(cbm_hf_tokenizer_write(tokenizer, 2, writer) == SCBM_OK);
    scbm_writer_free(writer);
}

/* The other files are usual ones, so that what is read here meets a tokenizer. */
static void try_tokenizer(int which, const void *data, size_t size) {
    static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n##ing\n";
    hf_tokenizer tokenizer;
    if (cbm_hf_tokenizer_init(&tokenizer, ROWS, NULL) != SCBM_OK) return;
    scbm_status status = SCBM_OK;
    if (which == 0) status = cbm_hf_tokenizer_parse_json(&tokenizer, data, size, "tokenizer.json");
    else if (which == 1) status = cbm_hf_tokenizer_parse_vocab(&tokenizer, data, size, "vocab.txt");
    else status = cbm_hf_tokenizer_parse_vocab(&tokenizer, vocabulary, sizeof vocabulary - 1, "vocab.txt");
    if (which == 2) status = cbm_hf_tokenizer_parse_config(&tokenizer, data, size, "tokenizer_config.json");
    if (which == 3) status = cbm_hf_tokenizer_parse_map(&tokenizer, data, size, "special_tokens_map.json");
    if (which == 4) status = cbm_hf_tokenizer_parse_added(&tokenizer, data, size, "added_tokens.json");
    if (is_ok(status)) use_tokenizer(&tokenizer);
    cbm_hf_tokenizer_clear(&tokenizer);
}

/* The files of byte-level BPE without a tokenizer.json; the others are usual ones. */
static void try_bpe(int which, const void *data, size_t size) {
    static const char vocabulary[] = "{\"<s>\": 0, \"</s>\": 1, \"<unk>\": 2, \"a\": 3, \"b\": 4, \"ab\": 5}";
    static const char merges[] = "#version: 0.2\na b\n", type[] = "{\"model_type\": \"roberta\"}";
    hf_tokenizer t;
    if (cbm_hf_tokenizer_init(&t, ROWS, NULL) != SCBM_OK) return;
    scbm_status status = which == 0 ? cbm_hf_tokenizer_parse_vocab_json(&t, data, size, "vocab.json")
                                    : cbm_hf_tokenizer_parse_vocab_json(&t, vocabulary, sizeof vocabulary - 1, "vocab");
    if (!status && which == 1) status = cbm_hf_tokenizer_parse_merges(&t, data, size, "merges.txt");
    else if (!status) status = cbm_hf_tokenizer_parse_merges(&t, merges, sizeof merges - 1, "merges");
    if (!status) status = cbm_hf_tokenizer_parse_type(&t, type, sizeof type - 1, "config.json");
    if (!status && which == 2) status = cbm_hf_tokenizer_parse_config(&t, data, size, "tokenizer_config.json");
    if (is_ok(status)) use_tokenizer(&t);
    cbm_hf_tokenizer_clear(&t);
}

static void try_index(const void *data, size_t size) {
    hf_index index;
    if (!is_ok(cbm_hf_index_parse(&index, data, size, "index", NULL))) return;
    require(index.n_files > 0);
    for (int i = 0; i < index.n_files; i++) require(index.files[i][0] && !strchr(index.files[i], '/'));
    cbm_hf_index_clear(&index);
}

static void try_card(const void *data, size_t size) {
    hf_card card;
    require(cbm_hf_card_parse(&card, data, size, NULL) == SCBM_OK);
    for (int i = 0; i < HF_CARD_FIELDS; i++)
        require(!card.field[i] || (card.field[i][0] && strlen(card.field[i]) <= 300 && !strchr(card.field[i], '\n')));
    cbm_hf_card_clear(&card);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    int which = (data[0] - '0') & 15;
    data++, size--;
    switch (which) {
    case 0: try_config(data, size); break;
    case 1:
    case 2:
    case 3:
    case 4: try_tokenizer(which - 1, data, size); break;
    case 5: try_index(data, size); break;
    case 6:
    case 7:
    case 8: try_sentence_files(which - 6, data, size); break;
    case 9: try_card(data, size); break;
    case 11: try_tokenizer(4, data, size); break;
    case 10: try_sentence_files(3, data, size); break;
    case 12:
    case 13:
    case 14: try_bpe(which - 12, data, size); break;
    default: break;
    }
    return 0;
}
