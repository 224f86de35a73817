/*
 * models/core/tokens.c - a text's tokens, for people
 */
#include "models/core/context.h"

#include <string.h>

typedef struct token_lists {
    cbm_tokens tokens;
    cbm_token_info *info;
    size_t capacity;
    cbm_token_list list;
} token_lists;

static void free_lists(cbm_context *ctx, void *state) {
    token_lists *lists = state;
    cbm_tokens_clear(&lists->tokens, &ctx->hooks);
    scbm_release(&ctx->hooks, lists->info);
    scbm_release(&ctx->hooks, lists);
}

static scbm_status find_lists(cbm_context *ctx, token_lists **found) {
    *found = cbm_context_find_part(ctx, free_lists);
    if (*found) return SCBM_OK;
    token_lists *lists = scbm_alloc(&ctx->hooks, sizeof *lists);
    if (!lists) return SCBM_ERROR_MEMORY;
    lists->tokens.hooks = &ctx->hooks;
    scbm_status status = cbm_context_set_part(ctx, free_lists, lists);
    if (status) scbm_release(&ctx->hooks, lists);
    else *found = lists;
    return status;
}

static scbm_status list_tokens(cbm_context *ctx, const char *text, size_t length, const cbm_token_list **list) {
    const cbm_tokenizer *tokenizer = ctx->model->tokenizer;
    token_lists *lists;
    if (!text) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_tokens_of: the text is NULL");
    scbm_status status = find_lists(ctx, &lists);
    if (!status) status = cbm_tokenize(tokenizer, text, length, (size_t)ctx->max_tokens, &lists->tokens);
    if (!status)
        status = scbm_grow(&ctx->hooks, (void **)&lists->info, &lists->capacity, lists->tokens.n, sizeof *lists->info);
    if (status) return status;
    const cbm_tokens *tokens = &lists->tokens;
    const int32_t unknown = cbm_tokenizer_special(tokenizer, CBM_TOKEN_UNKNOWN);
    for (size_t i = 0; i < tokens->n; i++)
        lists->info[i] = (cbm_token_info){.id = tokens->ids[i],
                                          .piece = cbm_token_piece(tokenizer, tokens->ids[i]),
                                          .text = cbm_token_text(tokenizer, tokens->ids[i]),
                                          .start = tokens->start[i],
                                          .end = tokens->end[i],
                                          .is_special = cbm_token_is_special(tokenizer, tokens->ids[i]) &&
                                                        tokens->ids[i] != unknown};
    lists->list = (cbm_token_list){.n = (int)tokens->n, .truncated = tokens->truncated, .tokens = lists->info};
    *list = &lists->list;
    return SCBM_OK;
}

scbm_status cbm_tokens_of(cbm_context *ctx, const char *text, size_t length, const cbm_token_list **list) {
    *list = NULL;
    return cbm_context_result(ctx, list_tokens(ctx, text, length, list));
}
