/*
 * convert/random.c - encoders with random weights, to be trained from scratch
 */
#include "convert/fasttext.h"
#include "models/backbones/architecture.h"
#include "models/base/text.h"
#include "models/cbm-train.h"
#include "models/core/context.h"
#include "models/tokenizers/word-list.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DEVIATION 0.02 /* BERT's initializer_range */
#define MOST_WORDS 30000
#define WORD_WIDTH 300 /* of a BiLSTM's words: fastText's */

/* A parameter, until its numbers are drawn. */
typedef struct random_tensor {
    scbm_tensor tensor;
    scbm_random random;
    double deviation;                /* of a matrix */
    float value;                     /* of a vector: 1 for a norm's weight, 0 for biases */
    const fasttext_vectors *vectors; /* that rows begin with; NULL: none */
    const struct creation *creation;
} random_tensor;

typedef struct creation {
    const cbm_random_encoder_options *options;
    const scbm_hooks *hooks;
    cbm_backbone settings;
    cbm_word_list words; /* where the vocabulary is made of texts */
    cbm_tokenizer_keys keys;
    uint16_t *flags;
    fasttext_vectors vectors;
    random_tensor *tensors;
    scbm_writer *writer;
} creation;

/* ------------------------------------------------------------------------------------------
 * The vocabulary
 * ---------------------------------------------------------------------------------------- */

static int32_t find_piece(const cbm_tokenizer_keys *keys, const char *piece) {
    for (int32_t i = 0; i < keys->n; i++)
        if (strcmp(keys->piece[i], piece) == 0) return i;
    return -1;
}

static scbm_status find_specials(creation *c) {
    static const char *const names[CBM_SPECIAL_TOKENS] = {[CBM_TOKEN_UNKNOWN] = "[UNK]",
                                                          [CBM_TOKEN_FIRST] = "[CLS]",
                                                          [CBM_TOKEN_LAST] = "[SEP]",
                                                          [CBM_TOKEN_PADDING] = "[PAD]",
                                                          [CBM_TOKEN_MASK] = "[MASK]"};
    const int is_recurrent = c->settings.architecture->is_recurrent;
    for (int i = 0; i < CBM_SPECIAL_TOKENS; i++) {
        const int has_ends = !is_recurrent || i == CBM_TOKEN_UNKNOWN;
        int32_t id = find_piece(&c->keys, names[i]);
        c->keys.special[i] = is_recurrent && (i == CBM_TOKEN_FIRST || i == CBM_TOKEN_LAST) ? -1 : id;
        if (id >= 0) c->flags[id] = CBM_PIECE_SPECIAL;
        else if (has_ends && i != CBM_TOKEN_PADDING && i != CBM_TOKEN_MASK)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "the vocabulary has no %s", names[i]);
    }
    return SCBM_OK;
}

static scbm_status check_pieces(const cbm_tokenizer_keys *keys) {
    for (int32_t i = 0; i < keys->n; i++) {
        size_t length = keys->piece[i] ? strlen(keys->piece[i]) : 0;
        if (!length || cbm_find_bad_utf8(keys->piece[i], length) < length)
            return scbm_fail(SCBM_ERROR_ARGUMENT, "token %d of the vocabulary is empty or not UTF-8", (int)i);
    }
    return SCBM_OK;
}

static scbm_status make_vocabulary(creation *c) {
    const cbm_random_encoder_options *o = c->options;
    cbm_tokenizer_keys *keys = &c->keys;
    scbm_status status = SCBM_OK;
    const int is_recurrent = c->settings.architecture->is_recurrent;
    keys->kind = is_recurrent ? "words" : "bert";
    keys->omits_first = keys->omits_last = is_recurrent;
    keys->n_types = c->settings.types;
    cbm_wordpiece_defaults(&keys->wordpiece);
    keys->wordpiece.lowercase = !o->cased;
    keys->piece = o->tokens;
    keys->n = o->n_tokens;
    if (!o->tokens) {
        int32_t most = o->max_vocabulary ? o->max_vocabulary : MOST_WORDS;
        status = (is_recurrent ? cbm_whole_words_create : cbm_word_list_create)(&c->words, &keys->wordpiece, o->texts,
                                                                                o->lengths, o->n_texts, most, c->hooks);
        keys->piece = c->words.piece;
        keys->n = c->words.n;
    }
    if (!status) status = check_pieces(keys);
    if (status) return status;
    c->flags = scbm_alloc_array(c->hooks, (size_t)keys->n + 1, sizeof *c->flags);
    keys->flags = c->flags;
    c->settings.vocabulary = keys->n;
    return c->flags ? find_specials(c) : SCBM_ERROR_MEMORY;
}

/* Vectors for the words, whose width is theirs. */
static scbm_status read_vectors(creation *c) {
    const cbm_random_encoder_options *o = c->options;
    const cbm_tokenizer_keys *keys = &c->keys;
    if (!o->vectors) return SCBM_OK;
    if (!c->settings.architecture->is_recurrent)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%.300s: vectors are for whole words, which %s does not read", o->vectors,
                         c->settings.architecture->title);
    const char **words = scbm_alloc_array(c->hooks, (size_t)keys->n, sizeof *words);
    if (!words) return SCBM_ERROR_MEMORY;
    int32_t n_words = 0;
    for (int32_t i = 0; i < keys->n; i++) {
        words[i] = c->flags[i] & CBM_PIECE_SPECIAL ? NULL : keys->piece[i];
        n_words += words[i] != NULL;
    }
    scbm_status status = cbm_fasttext_read(&c->vectors, o->vectors, words, keys->n, c->hooks);
    scbm_release(c->hooks, (void *)words);
    if (status) return status;
    if (o->embedding_width && o->embedding_width != c->vectors.width)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%.300s: its vectors have %lld numbers; %d were asked for", o->vectors,
                         (long long)c->vectors.width, o->embedding_width);
    scbm_log(c->hooks, SCBM_LOG_INFO,
             "%.300s: it has vectors for %d of the %d words; the others begin as random numbers", o->vectors,
             (int)c->vectors.n_there, (int)n_words);
    c->settings.embedding_width = c->vectors.width;
    return cbm_settings_settle(&c->settings, "the encoder");
}

/* The root of the mean square of the vectors' numbers; 0: there are none. */
static double size_of_vectors(const fasttext_vectors *vectors) {
    const int64_t n = vectors->n * vectors->width;
    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) squares += (double)vectors->value[i] * (double)vectors->value[i];
    return vectors->n_there ? sqrt(squares / ((double)vectors->n_there * (double)vectors->width)) : 0.0;
}

/* ------------------------------------------------------------------------------------------
 * Settings and weights
 * ---------------------------------------------------------------------------------------- */

static const cbm_architecture *find_architecture(const char *name) {
    const cbm_architecture *architecture;
    for (int i = 0; (architecture = cbm_architecture_at(i)); i++)
        if (!name || strcmp(architecture->family ? architecture->family : architecture->name, name) == 0)
            return architecture;
    return NULL;
}

static scbm_status check_size(const char *what, int value, int least, int most) {
    if (value >= least && value <= most) return SCBM_OK;
    return scbm_fail(SCBM_ERROR_ARGUMENT, "an encoder with %d %s was asked for; %d to %d are possible", value, what,
                     least, most);
}

static scbm_status make_settings(creation *c) {
    const cbm_random_encoder_options *o = c->options;
    cbm_backbone *s = &c->settings;
    const cbm_architecture *architecture = find_architecture(o->architecture);
    char shown[CBM_SHOWN_SIZE];
    if (!architecture)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "there is no architecture '%s'",
                         cbm_show_string(shown, o->architecture));
    int hidden = o->hidden ? o->hidden : 256, feed_forward = o->feed_forward ? o->feed_forward : 4 * hidden;
    cbm_settings_default(s, architecture);
    s->n_blocks = o->blocks ? o->blocks : architecture->is_recurrent ? 1 : 4;
    int width = o->embedding_width ? o->embedding_width : s->n_blocks > 1 ? hidden : WORD_WIDTH;
    s->n_heads = o->heads ? o->heads : 4;
    s->max_tokens = o->max_tokens ? o->max_tokens : 512;
    scbm_status status = check_size("dimensions", hidden, 1, 1 << 20);
    if (!status) status = check_size("neurons in a feed-forward layer", feed_forward, 1, 1 << 20);
    if (!status) status = check_size("blocks", s->n_blocks, 1, CBM_MAX_BLOCKS);
    if (!status) status = check_size("heads", s->n_heads, 1, hidden);
    if (!status) status = check_size("positions", s->max_tokens, 2, 1 << 20);
    if (!status) status = check_size("dimensions of a word", width, 1, 1 << 20);
    if (status) return status;
    s->hidden = hidden;
    s->feed_forward = feed_forward;
    if (architecture->is_recurrent) s->embedding_width = width;
    s->context = s->max_tokens + (s->padding >= 0);
    return cbm_settings_settle(s, "the encoder");
}

static scbm_status draw(void *user, const scbm_tensor *tensor, void *data) {
    const random_tensor *t = user;
    const creation *c = t->creation;
    scbm_random random = t->random;
    int64_t n = scbm_tensor_elements(tensor), columns = tensor->shape[tensor->n_dims - 1];
    float *value = data;
    scbm_status status = SCBM_OK;
    for (int64_t i = 0; i < n && !status; i++) {
        value[i] = tensor->n_dims == 1 ? t->value : (float)(t->deviation * scbm_random_normal(&random));
        if (t->vectors && t->vectors->is_there[i / columns]) value[i] = t->vectors->value[i];
        if (i % columns == 0) status = scbm_cancelled(c->hooks);
    }
    if (status) return status;
    return scbm_progress(c->hooks, "tensors written", t - c->tensors + 1, cbm_n_places(&c->settings));
}

/* Of an LSTM as in PyTorch: words are standard normal, matrices have the variance of numbers between ± 1 / √H. */
static double deviation_of(const creation *c, const cbm_row *row) {
    const double given = row->role == CBM_TOKEN_EMBEDDING ? size_of_vectors(&c->vectors) : 0.0;
    if (given > 0) return given; /* words without a vector are like those with one */
    if (c->options->deviation > 0) return c->options->deviation;
    if (!c->settings.architecture->is_recurrent) return DEVIATION;
    return row->role == CBM_TOKEN_EMBEDDING ? 1.0 : 1.0 / sqrt(1.5 * (double)c->settings.hidden);
}

static scbm_status add_tensors(creation *c) {
    int n = cbm_n_places(&c->settings);
    c->tensors = scbm_alloc_array(c->hooks, (size_t)n, sizeof *c->tensors);
    if (!c->tensors) return SCBM_ERROR_MEMORY;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < n && !status; i++) {
        random_tensor *t = &c->tensors[i];
        int block;
        int64_t shape[2];
        char name[SCBM_MAX_NAME];
        const cbm_row *row = cbm_row_at(&c->settings, i, &block);
        if (!cbm_row_is_there(&c->settings, row)) continue;
        cbm_row_name(row, block, name);
        status = scbm_tensor_init(&t->tensor, name, SCBM_F32, cbm_row_shape(&c->settings, row, shape), shape);
        t->creation = c;
        t->random = (scbm_random){c->options->seed, (uint64_t)i, 0};
        t->deviation = deviation_of(c, row);
        if (c->vectors.n_there && row->role == CBM_TOKEN_EMBEDDING) t->vectors = &c->vectors;
        t->value = cbm_ends_with(row->name, ".weight") ? 1.0f : 0.0f;
        if (!status) scbm_writer_add_tensor_from(c->writer, &t->tensor, SCBM_F32, draw, t);
    }
    return status;
}

static scbm_status create(creation *c, const char *path) {
    const char *name = c->options->name ? c->options->name : "random weights";
    scbm_status status = make_settings(c);
    if (!status) status = make_vocabulary(c);
    if (!status) status = read_vectors(c);
    if (!status) status = scbm_writer_create(&c->writer, c->hooks);
    if (status) return status;
    scbm_writer_set_string(c->writer, "general.architecture", c->settings.architecture->name);
    scbm_writer_set_string(c->writer, "general.name", name);
    scbm_writer_set_file_type(c->writer, SCBM_F32);
    cbm_settings_write(&c->settings, c->writer);
    status = cbm_tokenizer_write_keys(c->writer, &c->keys, c->hooks);
    if (!status) status = add_tensors(c);
    return status ? status : scbm_writer_write(c->writer, path);
}

/* What is no size and would be one. */
static scbm_status check_options(const cbm_random_encoder_options *o) {
    scbm_status status = cbm_check_reserved(o->reserved, "cbm_random_encoder_options");
    if (status) return status;
    if (o->n_tokens < 0 || o->max_vocabulary < 0 || (o->n_texts && !o->texts) || (o->n_tokens && !o->tokens))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_random_encoder_write: a number is negative, or its list is NULL");
    if (o->deviation < 0 || !(o->deviation < 1e6))
        return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_random_encoder_write: a deviation of %g", o->deviation);
    return SCBM_OK;
}

scbm_status cbm_random_encoder_write(const char *path, const cbm_random_encoder_options *options) {
    static const cbm_random_encoder_options defaults;
    creation c = {.options = options ? options : &defaults};
    if (!path) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_random_encoder_write: the path is NULL");
    scbm_status status = check_options(c.options);
    if (status) return status;
    c.hooks = c.options->hooks;
    status = create(&c, path);
    scbm_writer_free(c.writer);
    scbm_release(c.hooks, c.tensors);
    scbm_release(c.hooks, c.flags);
    cbm_word_list_clear(&c.words, c.hooks);
    cbm_fasttext_clear(&c.vectors, c.hooks);
    return status;
}
