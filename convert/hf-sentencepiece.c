/*
 * convert/hf-sentencepiece.c - SentencePiece's own model files: XLM-R's, CamemBERT's and T5's
 *
 * Such a file is a message of protocol buffers. It numbers its pieces, but the encoder's embeddings have other numbers,
 * which hang on the tokenizer's class: some tokens stand before the pieces, some of the pieces are left out, and some
 * tokens stand behind. The reference is what transformers' AutoTokenizer makes of a folder.
 */
#include "convert/bytes.h"
#include "convert/hf-unigram.h"
#include "models/base/text.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

struct hf_layout {
    const char *class, *fast_class; /* of tokenizer_config.json */
    const char *types[4];           /* of config.json, where the former says nothing */
    const char *before[6];
    int n_left_out; /* of the pieces, from the first on */
    const char *behind;
    int has_extra_ids;
    int64_t unknown;
    const char *first, *last; /* NULL: none */
    int mask_flags;
};

static const struct hf_layout layouts[] = {
    {"XLMRobertaTokenizer",
     "XLMRobertaTokenizerFast",
     {"xlm-roberta"},
     {"<s>", "<pad>", "</s>", "<unk>"},
     3,
     "<mask>",
     0,
     3,
     "<s>",
     "</s>",
     0},
    {"CamembertTokenizer",
     "CamembertTokenizerFast",
     {"camembert"},
     {"<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"},
     1,
     "<mask>",
     0,
     3,
     "<s>",
     "</s>",
     CBM_PIECE_TAKES_LEFT},
    {"T5Tokenizer", "T5TokenizerFast", {"t5", "mt5", "umt5"}, {NULL}, 0, NULL, 1, 2, NULL, "</s>", 0},
};

/* ------------------------------------------------------------------------------------------
 * Messages of protocol buffers
 * ---------------------------------------------------------------------------------------- */

enum { WIRE_NUMBER = 0, WIRE_8_BYTES = 1, WIRE_BYTES = 2, WIRE_4_BYTES = 5 };

typedef struct message {
    const unsigned char *data;
    size_t size, at;
    /* The field at hand. */
    uint64_t field, number;
    int wire;
    const unsigned char *bytes;
    size_t n;
} message;

static int read_number(message *m, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && m->at < m->size; shift += 7) {
        unsigned char byte = m->data[m->at++];
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return 1;
    }
    return 0;
}

/* Goes on to the next field: 1, at the end 0, in what is no message -1. */
static int next_field(message *m) {
    uint64_t key, n;
    if (m->at == m->size) return 0;
    if (!read_number(m, &key)) return -1;
    m->field = key >> 3;
    m->wire = (int)(key & 7);
    m->bytes = NULL;
    if (m->wire == WIRE_NUMBER) return read_number(m, &m->number) ? 1 : -1;
    if (m->wire == WIRE_BYTES) {
        if (!read_number(m, &n)) return -1;
    } else if (m->wire == WIRE_4_BYTES) n = 4;
    else if (m->wire == WIRE_8_BYTES) n = 8;
    else return -1;
    if (n > m->size - m->at) return -1;
    m->bytes = m->data + m->at;
    m->n = (size_t)n;
    m->at += m->n;
    return 1;
}

static int is_bytes(const message *m, uint64_t field) {
    return m->field == field && m->wire == WIRE_BYTES;
}

static scbm_status damaged(const char *path) {
    return scbm_fail(SCBM_ERROR_FORMAT, "%.300s: this is no model of SentencePiece, or a damaged one", path);
}

/* ------------------------------------------------------------------------------------------
 * The model
 * ---------------------------------------------------------------------------------------- */

/* Fields, by SentencePiece's sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_KIND = 3 };
enum { KIND_NORMAL = 1, KIND_CONTROL = 3, KIND_USER_DEFINED = 4, KIND_BYTE = 6 };
enum { TRAINER_TYPE = 3, TYPE_UNIGRAM = 1 };
enum { NORMALIZER_MAP = 2 };

/* Pieces that are found before the model splits a text, or that stand for bytes, are not in the layouts. */
static scbm_status check_kind(const char *path, uint64_t kind, int64_t number) {
    if (kind != KIND_USER_DEFINED && kind != KIND_BYTE) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                     "%.300s: piece %lld %s; this version reads such tokenizers from a tokenizer.json, which "
                     "save_pretrained of the fast tokenizer writes",
                     path, (long long)number,
                     kind == KIND_BYTE ? "stands for a byte" : "is a symbol that its user has defined");
}

/* A piece, `score` a float; one that the class leaves out is only counted. Control pieces are found in a text whole, as
 * the tokenizer's special tokens are. */
static scbm_status read_piece(hf_tokenizer *t, const char *path, message piece, int64_t number, int64_t first) {
    const struct hf_layout *layout = t->layout;
    const unsigned char *text = NULL;
    size_t length = 0;
    uint64_t kind = KIND_NORMAL;
    float score = 0;
    int found;
    while ((found = next_field(&piece)) > 0) {
        if (is_bytes(&piece, PIECE_TEXT)) text = piece.bytes, length = piece.n;
        else if (piece.field == PIECE_KIND && piece.wire == WIRE_NUMBER) kind = piece.number;
        else if (piece.field == PIECE_SCORE && piece.wire == WIRE_4_BYTES) {
            uint32_t bits = (uint32_t)cbm_little_endian(piece.bytes, 4);
            memcpy(&score, &bits, sizeof score);
        }
    }
    if (found < 0 || (length && !cbm_json_is_utf8((const char *)text, length)) || !(score - score == 0))
        return damaged(path);
    if (number < layout->n_left_out) return SCBM_OK;
    const int64_t id = first + number - layout->n_left_out;
    scbm_status status = check_kind(path, kind, number);
    if (!status) status = cbm_hf_unigram_add(t, path, id, text ? (const char *)text : "", length, score);
    if (!status && kind == KIND_CONTROL) t->flags[id] |= CBM_PIECE_SPECIAL;
    return status;
}

static scbm_status read_trainer(const char *path, message trainer) {
    int found;
    uint64_t type = TYPE_UNIGRAM;
    while ((found = next_field(&trainer)) > 0)
        if (trainer.field == TRAINER_TYPE && trainer.wire == WIRE_NUMBER) type = trainer.number;
    if (found < 0) return damaged(path);
    if (type == TYPE_UNIGRAM) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED,
                     "%.300s: its model is of SentencePiece's type %llu (2 is BPE); this version knows 1, Unigram",
                     path, (unsigned long long)type);
}

static scbm_status read_normalizer(hf_tokenizer *t, const char *path, message normalizer) {
    int found;
    message map = {0};
    while ((found = next_field(&normalizer)) > 0)
        if (is_bytes(&normalizer, NORMALIZER_MAP)) map = normalizer;
    if (found < 0) return damaged(path);
    return cbm_hf_unigram_set_map(t, path, map.bytes, map.n);
}

static scbm_status read_model(hf_tokenizer *t, const char *path, message model, int64_t first, int64_t *n) {
    scbm_status status = SCBM_OK;
    int found = 0, has_map = 0;
    *n = 0;
    while (!status && (found = next_field(&model)) > 0) {
        message part = {.data = model.bytes, .size = model.n};
        if (is_bytes(&model, MODEL_PIECES)) status = read_piece(t, path, part, (*n)++, first);
        else if (is_bytes(&model, MODEL_TRAINER)) status = read_trainer(path, part);
        else if (is_bytes(&model, MODEL_NORMALIZER))
            status = has_map++ ? damaged(path) : read_normalizer(t, path, part);
    }
    if (!status && (found < 0 || *n <= t->layout->n_left_out)) status = damaged(path);
    *n -= t->layout->n_left_out;
    return status;
}

/* "<extra_id_99>" to "<extra_id_0>", in this order. */
static scbm_status add_extra_ids(hf_tokenizer *t, const char *path, int64_t first) {
    scbm_status status = SCBM_OK;
    for (int64_t i = t->extra_ids - 1; i >= 0 && !status; i--, first++) {
        char name[32];
        int length = snprintf(name, sizeof name, "<extra_id_%lld>", (long long)i);
        status = cbm_hf_unigram_add(t, path, first, name, (size_t)length, 0);
        if (!status) t->flags[first] |= CBM_PIECE_SPECIAL;
    }
    return status;
}

static scbm_status set_specials(hf_tokenizer *t) {
    const struct hf_layout *layout = t->layout;
    t->omits_first = !layout->first;
    t->unigram.splits_words = 1;
    t->special_flags[CBM_TOKEN_MASK] |= (uint16_t)layout->mask_flags;
    scbm_status status = cbm_hf_tokenizer_set_special(t, CBM_TOKEN_UNKNOWN, t->piece[layout->unknown], HF_BY_DEFAULT);
    if (!status && layout->first)
        status = cbm_hf_tokenizer_set_special(t, CBM_TOKEN_FIRST, layout->first, HF_BY_DEFAULT);
    return status ? status : cbm_hf_tokenizer_set_special(t, CBM_TOKEN_LAST, layout->last, HF_BY_DEFAULT);
}

scbm_status cbm_hf_tokenizer_parse_sentencepiece(hf_tokenizer *t, const void *data, size_t size, const char *name) {
    const message model = {.data = data, .size = size};
    const struct hf_layout *layout = t->layout;
    int64_t first = 0, n = 0;
    scbm_status status = cbm_hf_unigram_start(t);
    for (; !status && layout->before[first]; first++)
        status = cbm_hf_unigram_add(t, name, first, layout->before[first], strlen(layout->before[first]),
                                    strcmp(layout->before[first], "<unk>NOTUSED") == 0 ? -100 : 0);
    if (!status) status = read_model(t, name, model, first, &n);
    if (!status && layout->behind)
        status = cbm_hf_unigram_add(t, name, first + n, layout->behind, strlen(layout->behind), 0);
    if (!status && layout->has_extra_ids) status = add_extra_ids(t, name, first + n);
    if (!status && (layout->unknown >= t->n_rows || !t->piece[layout->unknown])) status = damaged(name);
    return status ? status : set_specials(t);
}

/* ------------------------------------------------------------------------------------------
 * The folder
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_hf_tokenizer_set_layout(hf_tokenizer *t, const char *class, const char *type) {
    t->extra_ids = 100;
    for (int i = 0; i < COUNT_OF(layouts); i++) {
        const struct hf_layout *layout = &layouts[i];
        int is_it = *class && (strcmp(class, layout->class) == 0 || strcmp(class, layout->fast_class) == 0);
        for (int j = 0; !*class && j < COUNT_OF(layout->types) && layout->types[j]; j++)
            is_it |= strcmp(type, layout->types[j]) == 0;
        if (is_it) t->layout = layout;
    }
    if (t->layout) return SCBM_OK;
    return scbm_fail(
        SCBM_ERROR_UNSUPPORTED,
        "the numbers of SentencePiece's tokens hang on the tokenizer's class, which is '%.60s'; this version "
        "knows XLMRobertaTokenizer, CamembertTokenizer and T5Tokenizer without a tokenizer.json",
        *class ? class : type);
}

/* A text of a file in the folder; "" where either is missing. It belongs to *json, which is to be closed. */
static scbm_status read_text(const hf_tokenizer *t, const char *folder, const char *file, const char *key,
                             json_file *json, const char **text) {
    char *path = cbm_json_join(&t->hooks, folder, file);
    scbm_status status = path ? SCBM_OK : SCBM_ERROR_MEMORY;
    *text = "";
    if (!status && cbm_json_file_exists(path)) {
        status = cbm_json_open(json, path, 0, &t->hooks);
        if (!status) status = cbm_json_string_or(json, json->root, key, "", text);
    }
    scbm_release(&t->hooks, path);
    return status;
}

static scbm_status find_layout(hf_tokenizer *t, const char *folder) {
    json_file tokenizer = {0}, config = {0};
    const char *class = "", *type = "";
    scbm_status status = read_text(t, folder, "tokenizer_config.json", "tokenizer_class", &tokenizer, &class);
    if (!status) status = read_text(t, folder, "config.json", "model_type", &config, &type);
    if (!status) status = cbm_hf_tokenizer_set_layout(t, class, type);
    if (!status && tokenizer.root)
        status = cbm_json_int_or(&tokenizer, tokenizer.root, "extra_ids", 0, t->n_rows, t->extra_ids, &t->extra_ids);
    cbm_json_close(&tokenizer);
    cbm_json_close(&config);
    return status;
}

static scbm_status read_file(hf_tokenizer *t, const char *folder, const char *path) {
    scbm_bytes bytes;
    scbm_status status = find_layout(t, folder);
    if (!status) status = scbm_bytes_open(&bytes, path, &t->hooks);
    if (status) return status;
    const char *what = scbm_bytes_recognize(bytes.data, bytes.size, 0);
    if (what) status = scbm_fail(SCBM_ERROR_FORMAT, "%.300s: is not a SentencePiece model but %s", path, what);
    else status = cbm_hf_tokenizer_parse_sentencepiece(t, bytes.data, bytes.size, path);
    scbm_bytes_close(&bytes, &t->hooks);
    return status;
}

scbm_status cbm_hf_sentencepiece_read(hf_tokenizer *t, const char *folder) {
    static const char *const names[] = {"sentencepiece.bpe.model", "spiece.model", "tokenizer.model"};
    for (int i = 0; i < COUNT_OF(names); i++) {
        char *path = cbm_json_join(&t->hooks, folder, names[i]);
        if (!path) return SCBM_ERROR_MEMORY;
        int is_there = cbm_json_file_exists(path);
        scbm_status status = is_there ? read_file(t, folder, path) : SCBM_OK;
        scbm_release(&t->hooks, path);
        if (is_there) return status;
    }
    return SCBM_OK;
}
