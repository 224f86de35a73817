/*
 * models/explain/words.c - tokens, and the words that they are pieces of
 */
#include "models/explain/explain.h"

/* Places for every concept's tokens, without attributions yet. */
scbm_status cbm_list_tokens(cbm_explainer *x) {
    const cbm_tokenizer *tokenizer = x->ctx->model->tokenizer;
    const cbm_tokens *from = &x->ctx->sequences.tokens;
    int n_concepts = cbm_explainer_network(x)->heads.n_concepts;
    size_t n = (size_t)x->text.n_tokens * (size_t)n_concepts;
    scbm_status status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->result.tokens, &x->result.tokens_capacity, n,
                                   sizeof *x->result.tokens);
    if (!status)
        status = scbm_grow(cbm_explainer_hooks(x), (void **)&x->result.words, &x->result.words_capacity, n,
                           sizeof *x->result.words);
    if (status) return status;
    for (int k = 0; k < n_concepts; k++)
        for (int64_t t = 0; t < x->text.n_tokens; t++)
            x->result.tokens[k * x->text.n_tokens + t] = (cbm_token_attribution){
                cbm_token_piece(tokenizer, from->ids[t]),      from->start[t], from->end[t],
                cbm_is_special_token(tokenizer, from->ids[t]), 0.0f,           0.0f};
    return SCBM_OK;
}

/* Puts a concept's pieces together; returns the number of words. */
int cbm_join_words(const cbm_explainer *x, const cbm_token_attribution *tokens, cbm_word_attribution *words) {
    const cbm_tokens *from = &x->ctx->sequences.tokens;
    int n = 0, follows = 0;
    for (int t = 0; t < (int)x->text.n_tokens; t++) {
        if (tokens[t].is_special) {
            follows = 0;
            continue;
        }
        if (!follows || !cbm_token_continues_word(x->ctx->model->tokenizer, from->ids[t]))
            words[n++] = (cbm_word_attribution){tokens[t].start, tokens[t].end, t, 0, 0.0f, 0.0f};
        cbm_word_attribution *word = &words[n - 1];
        word->end = tokens[t].end;
        word->n_tokens++;
        word->gradient_input += tokens[t].gradient_input;
        word->integrated_gradients += tokens[t].integrated_gradients;
        follows = 1;
    }
    return n;
}
