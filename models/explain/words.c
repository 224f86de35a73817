/*
 * models/explain/words.c - the texts of a group: their tokens, the words that these are pieces of, and their embeddings
 */
#include "models/explain/explain.h"

#include <string.h>

/* Those that were added to the text or stand in it as such; not what stands for an unknown word. */
static int is_special(const cbm_tokenizer *tokenizer, int32_t id) {
    return cbm_token_is_special(tokenizer, id) && id != cbm_tokenizer_special(tokenizer, CBM_TOKEN_UNKNOWN);
}

/* ------------------------------------------------------------------------------------------
 * Tokens and words
 * ---------------------------------------------------------------------------------------- */

/* The words of a text whose tokens are listed. */
static void list_words(cbm_explainer *x, cbm_group_text *text) {
    const cbm_explained_token *tokens = x->group.tokens + text->first_token;
    cbm_explained_word *words = x->group.words + text->first_word;
    int follows = 0;
    text->n_words = 0;
    for (int t = 0; t < (int)text->n_tokens; t++) {
        int continues = follows && cbm_token_continues_word(x->ctx->model->tokenizer, tokens[t].id);
        follows = !tokens[t].is_special;
        if (!follows) continue;
        if (!continues) words[text->n_words++] = (cbm_explained_word){tokens[t].start, tokens[t].end, t, 0};
        cbm_explained_word *word = &words[text->n_words - 1];
        word->end = tokens[t].end;
        word->n_tokens++;
    }
}

/* The tokens in x->tokens become the group's next text. */
static scbm_status add_text(cbm_explainer *x) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    const scbm_hooks *hooks = cbm_explainer_hooks(x);
    const cbm_tokens *from = &x->tokens;
    cbm_explain_group *group = &x->group;
    size_t n = (size_t)group->n_tokens + from->n + 1; /* there are no more words than tokens; one, for an empty text */
    scbm_status status = scbm_grow(hooks, (void **)&group->tokens, &group->tokens_capacity, n, sizeof *group->tokens);
    if (!status) status = scbm_grow(hooks, (void **)&group->words, &group->words_capacity, n, sizeof *group->words);
    if (status) return status;
    cbm_group_text *text = &group->text[group->n_texts++];
    text->first_token = group->n_tokens;
    text->n_tokens = (int64_t)from->n;
    text->first_word = group->n_words;
    for (size_t t = 0; t < from->n; t++)
        group->tokens[group->n_tokens++] = (cbm_explained_token){from->ids[t], cbm_token_piece(tokenizer, from->ids[t]),
                                                                 from->start[t], from->end[t],
                                                                 is_special(tokenizer, from->ids[t])};
    list_words(x, text);
    group->n_words += text->n_words;
    return SCBM_OK;
}

static scbm_status tokenize(cbm_explainer *x, const char *text, size_t length, size_t i, size_t n) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    scbm_status status = text ? cbm_tokenize(tokenizer, text, length, (size_t)x->ctx->max_tokens, &x->tokens)
                              : scbm_fail(SCBM_ERROR_ARGUMENT, "the text is NULL");
    if (status) x->ctx->sequences.failed = (int64_t)i;
    if (!status || status == SCBM_ERROR_MEMORY || n == 1) return status;
    return scbm_fail(status, "text %zu of %zu: %s", i + 1, n, scbm_last_error());
}

void cbm_sum_words(const cbm_explainer *x, const float *value, float *word_value) {
    const cbm_explain_group *group = &x->group;
    for (int u = 0; u < cbm_explainer_units(x); u++) {
        for (int i = 0; i < group->n_texts; i++) {
            const cbm_group_text *text = &group->text[i];
            const float *of_token = value + u * group->n_tokens + text->first_token;
            float *of_word = word_value + u * group->n_words + text->first_word;
            for (int64_t w = 0; w < text->n_words; w++) {
                const cbm_explained_word *word = &group->words[text->first_word + w];
                of_word[w] = 0.0f;
                for (int t = 0; t < word->n_tokens; t++) of_word[w] += of_token[word->first_token + t];
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------
 * Embeddings
 * ---------------------------------------------------------------------------------------- */

/* A word embedding as f32: zeros for an id below 0. */
static scbm_status read_embedding(const scbm_tensor *table, int32_t id, float *place) {
    const scbm_type_info *type = scbm_type_of(table->type);
    size_t bytes = (size_t)(table->shape[1] / type->block) * (size_t)type->block_bytes;
    if (id >= 0)
        return scbm_convert(SCBM_F32, place, table->type, (const char *)table->data + (size_t)id * bytes,
                            table->shape[1]);
    memset(place, 0, (size_t)table->shape[1] * sizeof *place);
    return SCBM_OK;
}

/* Of all the group's tokens, and of its baselines': words become the mask token, or else the padding token, or else
 * zeros. */
static scbm_status read_embeddings(cbm_explainer *x) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    const scbm_tensor *table = cbm_backbone_find(&cbm_explainer_network(x)->backbone, CBM_TOKEN_EMBEDDING, -1)->tensor;
    const scbm_hooks *hooks = cbm_explainer_hooks(x);
    cbm_explain_group *group = &x->group;
    size_t width = (size_t)table->shape[1], n = (size_t)group->n_tokens;
    int32_t neutral = cbm_tokenizer_special(tokenizer, CBM_TOKEN_MASK);
    if (neutral < 0) neutral = cbm_tokenizer_special(tokenizer, CBM_TOKEN_PADDING);
    scbm_status status = scbm_grow(hooks, (void **)&group->embedding, &group->embedding_capacity, n * width,
                                   sizeof *group->embedding);
    if (!status)
        status = scbm_grow(hooks, (void **)&group->baseline, &group->baseline_capacity, n * width,
                           sizeof *group->baseline);
    for (size_t t = 0; t < n && !status; t++) {
        const cbm_explained_token *token = &group->tokens[t];
        status = read_embedding(table, token->id, group->embedding + t * width);
        if (!status)
            status = read_embedding(table, token->is_special ? token->id : neutral, group->baseline + t * width);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The group
 * ---------------------------------------------------------------------------------------- */

scbm_status cbm_list_group(cbm_explainer *x, const char *const *texts, const size_t *lengths, size_t first, size_t n,
                           size_t *n_listed) {
    int64_t most = cbm_explain_run_tokens(x);
    if (most > x->ctx->runner.max_batch_tokens) most = x->ctx->runner.max_batch_tokens;
    x->group.n_texts = 0;
    x->group.n_tokens = x->group.n_words = 0;
    for (size_t i = first; i < n && x->group.n_texts < CBM_GROUP_TEXTS; i++) {
        scbm_status status = tokenize(x, texts[i], lengths || !texts[i] ? (lengths ? lengths[i] : 0) : strlen(texts[i]),
                                      i, n);
        if (status) return status;
        if (x->group.n_texts && x->group.n_tokens + (int64_t)x->tokens.n > most) break;
        status = add_text(x);
        if (status) return status;
        x->group.text[x->group.n_texts - 1].number = x->plan.number ? x->plan.number[i] : i;
    }
    *n_listed = (size_t)x->group.n_texts;
    return read_embeddings(x);
}
