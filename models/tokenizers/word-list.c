/*
 * models/tokenizers/word-list.c - vocabularies that are made of texts: their characters and words for WordPiece, or whole
 * words
 */
#include "models/tokenizers/word-list.h"

#include "models/base/hash.h"
#include "models/base/text.h"

#include <stdlib.h>
#include <string.h>

static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
enum { N_SPECIAL = sizeof special / sizeof special[0] };
static const char *const special_words[] = {"[PAD]", "[UNK]", "[MASK]"};
enum { N_SPECIAL_WORDS = sizeof special_words / sizeof special_words[0] };

/* A word or character; its text lies in the counter's. */
typedef struct counted_word {
    size_t start, length;
    uint64_t count;
    int32_t number; /* in the order in which they came up */
} counted_word;

/* Words by their text: an open table of numbers + 1, twice as large as what is in it. */
typedef struct word_counter {
    counted_word *word;
    char *text;
    int32_t *place;
    size_t n, capacity, bytes, text_capacity, places;
    const scbm_hooks *hooks;
} word_counter;

/* ------------------------------------------------------------------------------------------
 * Counting
 * ---------------------------------------------------------------------------------------- */

static size_t find_place(const word_counter *c, const char *text, size_t length) {
    size_t at = (size_t)cbm_hash(CBM_HASH_START, text, length) & (c->places - 1);
    for (; c->place[at]; at = (at + 1) & (c->places - 1)) {
        const counted_word *word = &c->word[c->place[at] - 1];
        if (word->length == length && memcmp(c->text + word->start, text, length) == 0) break;
    }
    return at;
}

static scbm_status enlarge(word_counter *c) {
    size_t places = c->places ? 2 * c->places : 1024;
    int32_t *place = scbm_alloc_array(c->hooks, places, sizeof *place);
    if (!place) return SCBM_ERROR_MEMORY;
    scbm_release(c->hooks, c->place);
    c->place = place;
    c->places = places;
    for (size_t i = 0; i < c->n; i++)
        c->place[find_place(c, c->text + c->word[i].start, c->word[i].length)] = (int32_t)i + 1;
    return SCBM_OK;
}

static scbm_status count(word_counter *c, const char *text, size_t length) {
    scbm_status status = 2 * (c->n + 1) > c->places ? enlarge(c) : SCBM_OK;
    if (status) return status;
    size_t at = find_place(c, text, length);
    if (c->place[at]) {
        c->word[c->place[at] - 1].count++;
        return SCBM_OK;
    }
    if (c->n == INT32_MAX / 4) return scbm_fail(SCBM_ERROR_UNSUPPORTED, "the texts have more than %zu words", c->n);
    status = scbm_grow(c->hooks, (void **)&c->word, &c->capacity, c->n + 1, sizeof *c->word);
    if (!status) status = scbm_grow(c->hooks, (void **)&c->text, &c->text_capacity, c->bytes + length, 1);
    if (status) return status;
    memcpy(c->text + c->bytes, text, length);
    c->word[c->n] = (counted_word){c->bytes, length, 1, (int32_t)c->n};
    c->bytes += length;
    c->place[at] = (int32_t)++c->n;
    return SCBM_OK;
}

static void clear_counter(word_counter *c) {
    scbm_release(c->hooks, c->word);
    scbm_release(c->hooks, c->text);
    scbm_release(c->hooks, c->place);
}

typedef struct text_counter {
    word_counter words, characters;
} text_counter;

static size_t character_bytes(const char *text) {
    unsigned char c = (unsigned char)*text;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static scbm_status count_word(void *user, const char *word, size_t length) {
    text_counter *t = user;
    size_t n = character_bytes(word);
    scbm_status status = n < length ? count(&t->words, word, length) : SCBM_OK;
    for (size_t at = 0; at < length && !status; at += n) {
        n = character_bytes(word + at);
        status = count(&t->characters, word + at, n);
    }
    return status;
}

/* What can be typed is in every vocabulary. */
static scbm_status count_ascii(text_counter *t, const cbm_wordpiece_options *options) {
    char c[2] = "!";
    scbm_status status = SCBM_OK;
    for (; *c <= '~' && !status; ++*c) status = cbm_wordpiece_words(options, c, 1, count_word, t, t->words.hooks);
    return status;
}

typedef scbm_status (*word_function)(void *user, const char *word, size_t length);

static scbm_status count_texts(text_counter *t, const cbm_wordpiece_options *options, const char *const *texts,
                               const size_t *lengths, size_t n, word_function handle) {
    scbm_status status = SCBM_OK;
    for (size_t i = 0; i < n && !status; i++) {
        size_t length = lengths ? lengths[i] : strlen(texts[i]), bad = cbm_find_bad_utf8(texts[i], length);
        if (bad < length) return scbm_fail(SCBM_ERROR_FORMAT, "text %zu is not UTF-8 at byte offset %zu", i + 1, bad);
        status = cbm_wordpiece_words(options, texts[i], length, handle, t, t->words.hooks);
        if (!status) status = scbm_cancelled(t->words.hooks);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The list
 * ---------------------------------------------------------------------------------------- */

static int compare_words(const void *a, const void *b) {
    const counted_word *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

/* Appends a piece; returns the end of its text. */
static char *add_piece(cbm_word_list *list, const char *mark, const char *text, size_t length, char *place) {
    list->piece[list->n++] = place;
    memcpy(place, mark, strlen(mark));
    memcpy(place + strlen(mark), text, length);
    place[strlen(mark) + length] = 0;
    return place + strlen(mark) + length + 1;
}

static scbm_status fill_list(cbm_word_list *list, const text_counter *t, size_t n_words, const scbm_hooks *hooks) {
    const word_counter *words = &t->words, *characters = &t->characters;
    size_t n = N_SPECIAL + 2 * characters->n + n_words;
    list->piece = scbm_alloc_array(hooks, n, sizeof *list->piece);
    list->text = scbm_alloc(hooks, 16 * n + 2 * characters->bytes +
                                       words->bytes); /* 16: a mark and a NUL, or a special token */
    if (!list->piece || !list->text) return SCBM_ERROR_MEMORY;
    char *place = list->text;
    for (int i = 0; i < N_SPECIAL; i++) place = add_piece(list, "", special[i], strlen(special[i]), place);
    for (int inside = 0; inside < 2; inside++)
        for (size_t i = 0; i < characters->n; i++)
            place = add_piece(list, inside ? "##" : "", characters->text + characters->word[i].start,
                              characters->word[i].length, place);
    for (size_t i = 0; i < n_words; i++)
        place = add_piece(list, "", words->text + words->word[i].start, words->word[i].length, place);
    return SCBM_OK;
}

scbm_status cbm_word_list_create(cbm_word_list *list, const cbm_wordpiece_options *options, const char *const *texts,
                                 const size_t *lengths, size_t n, int32_t most, const scbm_hooks *hooks) {
    text_counter t = {.words = {.hooks = hooks}, .characters = {.hooks = hooks}};
    memset(list, 0, sizeof *list);
    scbm_status status = count_ascii(&t, options);
    if (!status) status = count_texts(&t, options, texts, lengths, n, count_word);
    size_t taken = N_SPECIAL + 2 * t.characters.n, room = (size_t)most > taken ? (size_t)most - taken : 0;
    if (!status && (size_t)most < taken)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "a vocabulary of %d tokens is too small: the characters alone need %zu",
                           (int)most, taken);
    if (!status) {
        if (t.words.n) qsort(t.words.word, t.words.n, sizeof *t.words.word, compare_words);
        status = fill_list(list, &t, t.words.n < room ? t.words.n : room, hooks);
    }
    clear_counter(&t.words);
    clear_counter(&t.characters);
    if (status) cbm_word_list_clear(list, hooks);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Whole words
 * ---------------------------------------------------------------------------------------- */

static scbm_status count_whole_word(void *user, const char *word, size_t length) {
    text_counter *t = user;
    return count(&t->words, word, length);
}

static scbm_status fill_words(cbm_word_list *list, const word_counter *words, size_t n, const scbm_hooks *hooks) {
    list->piece = scbm_alloc_array(hooks, N_SPECIAL_WORDS + n, sizeof *list->piece);
    list->text = scbm_alloc(hooks, 8 * N_SPECIAL_WORDS + n + words->bytes); /* 8: a special token; 1: a NUL */
    if (!list->piece || !list->text) return SCBM_ERROR_MEMORY;
    char *place = list->text;
    for (int i = 0; i < N_SPECIAL_WORDS; i++)
        place = add_piece(list, "", special_words[i], strlen(special_words[i]), place);
    for (size_t i = 0; i < n; i++)
        place = add_piece(list, "", words->text + words->word[i].start, words->word[i].length, place);
    return SCBM_OK;
}

scbm_status cbm_whole_words_create(cbm_word_list *list, const cbm_wordpiece_options *options, const char *const *texts,
                                   const size_t *lengths, size_t n, int32_t most, const scbm_hooks *hooks) {
    text_counter t = {.words = {.hooks = hooks}};
    word_counter *words = &t.words;
    memset(list, 0, sizeof *list);
    scbm_status status = count_texts(&t, options, texts, lengths, n, count_whole_word);
    size_t room = most > N_SPECIAL_WORDS ? (size_t)(most - N_SPECIAL_WORDS) : 0;
    if (!status && !words->n)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "the texts have no words to make a vocabulary of");
    if (!status && !room)
        status = scbm_fail(SCBM_ERROR_ARGUMENT, "a vocabulary of %d tokens has no room for words", (int)most);
    if (!status) {
        qsort(words->word, words->n, sizeof *words->word, compare_words);
        status = fill_words(list, words, words->n < room ? words->n : room, hooks);
    }
    clear_counter(words);
    if (status) cbm_word_list_clear(list, hooks);
    return status;
}

void cbm_word_list_clear(cbm_word_list *list, const scbm_hooks *hooks) {
    scbm_release(hooks, (void *)list->piece);
    scbm_release(hooks, list->text);
    memset(list, 0, sizeof *list);
}
