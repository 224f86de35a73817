/*
 * convert/convert.c - a Hugging Face folder's encoder to a model file
 */
#include "convert/hf-config.h"
#include "convert/hf-tokenizer.h"
#include "convert/hf-weights.h"
#include "convert/json-file.h"
#include "convert/memory-plan.h"
#include "convert/model-card.h"
#include "convert/verify.h"
#include "models/cbm-train.h"
#include "models/core/context.h"

#include <string.h>

typedef struct conversion {
    const cbm_convert_options *options;
    const scbm_hooks *hooks;
    hf_config config;
    hf_weights weights;
    hf_tokenizer tokenizer;
    hf_card card;
    scbm_writer *writer;
} conversion;

/* Without them a text may be as long as one likes. */
static int has_positions(const cbm_architecture *architecture) {
    int i = 0;
    while (i < architecture->n_rows && architecture->rows[i].role != CBM_POSITION_EMBEDDING) i++;
    return i < architecture->n_rows;
}

/* sentence-transformers' own limit holds before the tokenizer's; the positions are the last limit. */
static scbm_status set_max_tokens(conversion *c) {
    cbm_backbone *settings = &c->config.settings;
    int64_t most = c->config.max_tokens ? c->config.max_tokens : c->tokenizer.max_tokens;
    if (c->options->max_tokens && !has_positions(settings->architecture)) settings->context = c->options->max_tokens;
    int64_t longest = cbm_longest_text(settings);
    if (c->config.max_tokens > longest)
        scbm_log(
            c->hooks, SCBM_LOG_WARNING,
            "%.300s: texts of %lld tokens are to be read (max_seq_length), and there are positions for %lld, which "
            "are read",
            c->config.folder, (long long)c->config.max_tokens, (long long)longest);
    if (!most || most > longest) most = longest;
    if (c->options->max_tokens) most = c->options->max_tokens;
    if (most < 2 || most > longest)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "%.300s: texts of %lld tokens were asked for, and it reads 2 to %lld",
                         c->config.folder, (long long)most, (long long)longest);
    settings->max_tokens = (int)most;
    return SCBM_OK;
}

/* What the caller says holds before what the folder says. */
static scbm_status settle(conversion *c) {
    cbm_backbone *settings = &c->config.settings;
    scbm_status status = cbm_pooling_check(settings, c->options->pooling);
    if (status) return status;
    if (c->config.pooling_problem[0] && !c->options->pooling)
        return scbm_fail(SCBM_ERROR_UNSUPPORTED, "%s (another one can be chosen)", c->config.pooling_problem);
    if (c->config.pooling_problem[0])
        scbm_log(c->hooks, SCBM_LOG_WARNING, "%s: %s is taken", c->config.pooling_problem,
                 cbm_pooling_name(c->options->pooling));
    if (c->options->pooling) settings->pooling = (int)c->options->pooling;
    settings->normalize = c->config.normalize;
    if (c->options->normalize) settings->normalize = c->options->normalize == CBM_NORMALIZE_YES;
    status = set_max_tokens(c);
    if (!status) cbm_hf_note_length(&c->tokenizer, settings->max_tokens, c->config.folder);
    return status;
}

static scbm_status read_folder(conversion *c, const char *folder) {
    scbm_status status = cbm_hf_config_read(&c->config, folder, c->hooks);
    if (!status) status = cbm_hf_weights_open(&c->weights, &c->config.settings, c->config.folder, c->hooks);
    if (!status)
        status = cbm_hf_tokenizer_read(&c->tokenizer, c->config.folder, c->config.settings.vocabulary, c->hooks);
    if (!status) status = cbm_hf_card_read(&c->card, folder, c->hooks);
    if (!status && c->config.name) status = cbm_hf_card_set_repository(&c->card, c->config.name);
    if (status) return status;
    if (c->config.lowercases) status = cbm_hf_tokenizer_lowercase(&c->tokenizer, c->config.folder);
    return status ? status : settle(c);
}

/* The checkpoint's published name, or the folder's. */
static scbm_status write_name(const conversion *c, const char *folder) {
    char *name = scbm_strdup(c->hooks, c->config.name ? c->config.name : folder);
    if (!name) return SCBM_ERROR_MEMORY;
    size_t length = strlen(name);
    while (length && name[length - 1] == '/') name[--length] = 0;
    const char *slash = c->config.name ? NULL : strrchr(name, '/'), *start = slash ? slash + 1 : name;
    if (*start && *start != '.' && cbm_json_is_utf8(start, strlen(start)))
        scbm_writer_set_string(c->writer, "general.name", start);
    scbm_release(c->hooks, name);
    return SCBM_OK;
}

static scbm_status write_keys(const conversion *c, const char *folder) {
    const cbm_backbone *settings = &c->config.settings;
    scbm_writer_set_string(c->writer, "general.architecture", settings->architecture->name);
    scbm_status status = write_name(c, folder);
    cbm_hf_card_write(&c->card, c->writer);
    scbm_writer_set_file_type(c->writer, c->options->type);
    cbm_settings_write(settings, c->writer);
    return status ? status : cbm_hf_tokenizer_write(&c->tokenizer, settings->types, c->writer);
}

static void summarize(const conversion *c, cbm_conversion *summary) {
    const cbm_backbone *settings = &c->config.settings;
    summary->architecture = settings->architecture->name;
    summary->blocks = settings->n_blocks;
    summary->hidden = settings->hidden;
    summary->heads = settings->n_heads;
    summary->tokens = c->tokenizer.n_tokens;
    summary->max_tokens = settings->max_tokens;
    summary->pooling = (cbm_pooling)settings->pooling;
    summary->normalize = settings->normalize;
    summary->n_unused = c->weights.n_unused;
    cbm_hf_weights_list_unused(&c->weights, summary->unused, sizeof summary->unused);
    for (int i = 0; i < c->weights.n; i++) {
        const hf_weight *weight = &c->weights.weight[i];
        const scbm_tensor *tensor = &weight->tensor;
        int block = scbm_type_of(cbm_hf_weights_type(weight, c->options->type))->block;
        if (!weight->source) continue;
        summary->n_tensors++;
        summary->n_weights += scbm_tensor_elements(tensor);
        summary->n_kept_f16 += tensor->shape[tensor->n_dims - 1] % block != 0;
    }
}

static scbm_status convert(conversion *c, const char *folder, const char *path, cbm_conversion *summary) {
    scbm_status status = read_folder(c, folder);
    if (!status) status = cbm_plan_conversion(&c->weights, c->config.folder, c->options, &summary->memory);
    if (!status) status = cbm_hf_weights_check(&c->weights, c->options->type);
    if (!status) status = scbm_writer_create(&c->writer, c->hooks);
    if (!status) status = write_keys(c, folder);
    if (status) return status;
    cbm_hf_weights_add(&c->weights, c->options->type, c->writer);
    summarize(c, summary);
    return scbm_writer_write(c->writer, path);
}

static scbm_status verify(const conversion *c, const char *folder, const char *path, cbm_conversion *summary) {
    cbm_verification found;
    if (!c->options->verify) return SCBM_OK;
    scbm_status status = cbm_verify_conversion(folder, path, c->hooks, &found);
    summary->difference = found.difference;
    return status;
}

int cbm_encoder_kind_at(int index, const char **type, const char **title, const char **architecture,
                        const char **examples) {
    const cbm_architecture *a = cbm_architecture_at(index);
    if (!a) return 0;
    *type = a->hf_type;
    *title = a->title;
    *architecture = a->name;
    *examples = a->hf_examples;
    return 1;
}

scbm_status cbm_convert(const char *folder, const char *output, const cbm_convert_options *options,
                        cbm_conversion *summary) {
    static const cbm_convert_options defaults;
    cbm_conversion unread;
    conversion c = {.options = options ? options : &defaults};
    if (!folder || !output) return scbm_fail(SCBM_ERROR_ARGUMENT, "cbm_convert: folder or output is NULL");
    if (!scbm_type_of(c.options->type) || !scbm_type_of(c.options->type)->is_float)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "matrices are stored as f32, f16, bf16, q8_0 or q4_0");
    scbm_status status = cbm_check_reserved(c.options->reserved, "cbm_convert_options");
    if (status) return status;
    c.hooks = c.options->hooks;
    if (!summary) summary = &unread;
    memset(summary, 0, sizeof *summary);
    status = convert(&c, folder, output, summary);
    if (!status) status = verify(&c, folder, output, summary);
    scbm_writer_free(c.writer);
    cbm_hf_card_clear(&c.card);
    cbm_hf_tokenizer_clear(&c.tokenizer);
    cbm_hf_weights_clear(&c.weights);
    cbm_hf_config_clear(&c.config);
    return status;
}
