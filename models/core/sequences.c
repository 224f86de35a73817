/*
 * models/core/sequences.c - texts as token ids, end to end
 */
#include "models/core/sequences.h"

#include <limits.h>
#include <string.h>

scbm_status cbm_sequences_add(cbm_sequences *s, const cbm_tokenizer *tokenizer, const char *text, size_t length,
                              int max_tokens, const scbm_hooks *hooks) {
    s->tokens.hooks = hooks;
    scbm_status status = cbm_tokenize(tokenizer, text, length, (size_t)max_tokens, &s->tokens);
    if (!status) status = scbm_grow(hooks, (void **)&s->first, &s->first_capacity, s->n + 2, sizeof *s->first);
    if (!status) status = scbm_grow(hooks, (void **)&s->truncated, &s->truncated_capacity, s->n + 1, 1);
    if (status) return status;
    size_t start = s->n ? s->first[s->n] : 0, end = start + s->tokens.n;
    status = scbm_grow(hooks, (void **)&s->ids, &s->ids_capacity, end, sizeof *s->ids);
    if (status) return status;
    if (s->tokens.n) memcpy(s->ids + start, s->tokens.ids, s->tokens.n * sizeof *s->ids);
    s->truncated[s->n] = s->tokens.truncated != 0;
    s->first[s->n++] = start;
    s->first[s->n] = end;
    return SCBM_OK;
}

#define TEXTS_BETWEEN_QUESTIONS 64

static scbm_status add_text(cbm_sequences *s, const cbm_tokenizer *tokenizer, const char *const *texts,
                            const size_t *lengths, size_t i, size_t n, int max_tokens, const scbm_hooks *hooks) {
    if (!texts[i]) return scbm_fail(SCBM_ERROR_ARGUMENT, "text %zu of %zu is NULL", i + 1, n);
    scbm_status status = cbm_sequences_add(s, tokenizer, texts[i], lengths ? lengths[i] : strlen(texts[i]), max_tokens,
                                           hooks);
    if (status && status != SCBM_ERROR_MEMORY && n > 1)
        return scbm_fail(status, "text %zu of %zu: %s", i + 1, n, scbm_last_error());
    return status;
}

scbm_status cbm_sequences_add_texts(cbm_sequences *s, const cbm_tokenizer *tokenizer, const char *const *texts,
                                    const size_t *lengths, size_t n, int max_tokens, const scbm_hooks *hooks) {
    s->failed = -1;
    s->n_asked = n;
    if (n > INT32_MAX) return scbm_fail(SCBM_ERROR_ARGUMENT, "%zu texts in one call are too many", n);
    for (size_t i = 0; i < n; i++) {
        scbm_status status = i % TEXTS_BETWEEN_QUESTIONS ? SCBM_OK : scbm_cancelled(hooks);
        if (status) return status;
        status = add_text(s, tokenizer, texts, lengths, i, n, max_tokens, hooks);
        if (status) s->failed = (int64_t)i;
        if (status) return status;
    }
    return SCBM_OK;
}

void cbm_sequences_reset(cbm_sequences *s) {
    s->n = 0;
}

void cbm_sequences_clear(cbm_sequences *s, const scbm_hooks *hooks) {
    scbm_release(hooks, s->ids);
    scbm_release(hooks, s->first);
    scbm_release(hooks, s->truncated);
    cbm_tokens_clear(&s->tokens, hooks);
    memset(s, 0, sizeof *s);
}

int64_t cbm_sequence_length(const cbm_sequences *s, size_t i) {
    return (int64_t)(s->first[i + 1] - s->first[i]);
}

static void fill_buckets(const cbm_backbone *backbone, scbm_tensor *buckets) {
    int32_t *bucket = buckets->data;
    int64_t longest = (buckets->shape[0] + 1) / 2;
    for (int64_t distance = 1 - longest; distance < longest; distance++)
        bucket[longest - 1 + distance] = cbm_distance_bucket(backbone, distance);
}

int64_t cbm_fill_inputs(const cbm_backbone *backbone, const cbm_encoding *encoding, const cbm_sequences *sequences,
                        const int32_t *row, int64_t n) {
    int32_t *ids = encoding->ids ? encoding->ids->data : NULL, *offsets = encoding->offsets->data;
    int32_t *positions = encoding->positions ? encoding->positions->data : NULL;
    const int32_t last_position = (int32_t)(backbone->first_position + backbone->context - 1);
    int64_t tokens = 0;
    if (encoding->type) *(int32_t *)encoding->type->data = 0;
    if (encoding->buckets) fill_buckets(backbone, encoding->buckets);
    for (int64_t i = 0; i < n; i++) {
        int64_t length = cbm_sequence_length(sequences, (size_t)row[i]);
        const int32_t *source = sequences->ids + sequences->first[row[i]];
        int32_t position = backbone->first_position;
        offsets[i] = (int32_t)tokens;
        for (int64_t t = 0; t < length; t++, tokens++) {
            if (ids) ids[tokens] = source[t];
            if (!positions) continue;
            positions[tokens] = source[t] == backbone->padding ? last_position : position++;
        }
    }
    offsets[n] = (int32_t)tokens;
    return tokens;
}
