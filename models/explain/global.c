/*
 * models/explain/global.c - what a whole data set says about a model: contributions, influential words, faithfulness
 */
#include "models/base/hash.h"
#include "models/base/sample.h"
#include "models/explain/explain.h"

#include <string.h>

#define DEFAULT_SAMPLE 200
#define DEFAULT_WORDS 10

/* A word and a class that its texts' concept reads, or the label that they are predicted. */
typedef struct word_entry {
    char *text;
    int32_t class_number; /* of the C, which the Y labels follow */
    int64_t count;
    double sum;
} word_entry;

/* The report with what it points to, and the words so far: an open-addressed table of places in `entry`, plus 1. */
typedef struct global_report {
    cbm_global_report report; /* the first member: what the caller has */
    cbm_context *ctx;
    const cbm_global_options *options;
    int *first_class, *n_words;
    int64_t *label_count, *class_count;
    double *contribution, *absolute, *importance;
    float *numbers; /* scratch: one text's prediction points here */
    cbm_concept_result *concepts;
    cbm_word_influence *words;
    cbm_ablation ablation;
    int method;               /* of attribution, that words are ranked by */
    const char *const *texts; /* the sample's */
    word_entry *entry;
    size_t n_entries, entry_capacity;
    size_t *table;
    size_t table_size; /* a power of 2 */
    char *word;        /* scratch: the word at hand */
    size_t word_capacity;
} global_report;

static const scbm_hooks *hooks_of(const global_report *r) {
    return &r->ctx->hooks;
}

void cbm_global_report_free(cbm_global_report *report) {
    global_report *r = (global_report *)report;
    if (!r) return;
    const scbm_hooks *hooks = hooks_of(r);
    for (size_t i = 0; i < r->n_entries; i++) scbm_release(hooks, r->entry[i].text);
    cbm_ablation_clear(&r->ablation, hooks);
    void *const memory[] = {r->first_class, r->n_words,    r->label_count, r->class_count, r->contribution,
                            r->absolute,    r->importance, r->numbers,     r->concepts,    r->words,
                            r->entry,       r->table,      r->word};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) scbm_release(hooks, memory[i]);
    scbm_release(hooks, r);
}

/* ------------------------------------------------------------------------------------------
 * Contributions, over all texts
 * ---------------------------------------------------------------------------------------- */

static void count_prediction(global_report *r, const cbm_prediction *p) {
    size_t n_labels = (size_t)r->report.n_labels;
    r->label_count[p->label_index]++;
    r->report.n_truncated += p->truncated != 0;
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *concept = &p->concepts[k];
        double contribution = (double)concept->contribution, absolute = contribution < 0 ? -contribution : contribution;
        size_t cell = (size_t)k * n_labels + (size_t)p->label_index;
        r->class_count[r->first_class[k] + concept->class_index]++;
        r->contribution[cell] += contribution;
        r->absolute[cell] += absolute;
        r->importance[k] += absolute;
    }
}

/* Predictions are filled in one at a time: of many texts only their tokens and logits are held at once. */
static scbm_status count_predictions(global_report *r, const char *const *texts, const size_t *lengths, size_t n) {
    cbm_context *ctx = r->ctx;
    size_t n_labels = (size_t)r->report.n_labels, width = (size_t)cbm_n_logits(&ctx->model->network.heads);
    scbm_status status = cbm_compute_logits(ctx, texts, lengths, n, "predict");
    for (size_t i = 0; i < n && !status; i++) {
        cbm_prediction prediction = {.truncated = ctx->sequences.truncated[i]};
        cbm_fill_prediction(ctx->model, ctx->logits + i * width, NULL, r->numbers, r->concepts, &prediction);
        count_prediction(r, &prediction);
    }
    for (size_t k = 0; k < (size_t)r->report.n_concepts && n; k++) {
        r->importance[k] /= (double)n;
        for (size_t y = 0; y < n_labels; y++) {
            double count = r->label_count[y] ? (double)r->label_count[y] : 1.0;
            r->contribution[k * n_labels + y] /= count;
            r->absolute[k * n_labels + y] /= count;
        }
    }
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Words, over a sample
 * ---------------------------------------------------------------------------------------- */

static uint64_t hash_word(const char *text, int32_t class_number) {
    return cbm_hash(cbm_hash(CBM_HASH_START, text, strlen(text)), &class_number, sizeof class_number);
}

/* The place of this word's entry in the table, or of the empty slot where it would be. */
static size_t find_slot(const global_report *r, const char *text, int32_t class_number) {
    uint64_t hash = hash_word(text, class_number);
    size_t slot = (size_t)(hash ^ hash >> 32) & (r->table_size - 1);
    for (; r->table[slot]; slot = (slot + 1) & (r->table_size - 1)) {
        const word_entry *entry = &r->entry[r->table[slot] - 1];
        if (entry->class_number == class_number && strcmp(entry->text, text) == 0) break;
    }
    return slot;
}

/* At most half of the table is full. */
static scbm_status grow_table(global_report *r) {
    if (2 * (r->n_entries + 1) <= r->table_size) return SCBM_OK;
    size_t size = r->table_size ? 2 * r->table_size : 1024;
    size_t *table = scbm_alloc_array(hooks_of(r), size, sizeof *table);
    if (!table) return SCBM_ERROR_MEMORY;
    scbm_release(hooks_of(r), r->table);
    r->table = table;
    r->table_size = size;
    for (size_t i = 0; i < r->n_entries; i++) table[find_slot(r, r->entry[i].text, r->entry[i].class_number)] = i + 1;
    return SCBM_OK;
}

static scbm_status count_word(global_report *r, int32_t class_number, double attribution) {
    scbm_status status = grow_table(r);
    if (status) return status;
    size_t slot = find_slot(r, r->word, class_number);
    if (!r->table[slot]) {
        status = scbm_grow(hooks_of(r), (void **)&r->entry, &r->entry_capacity, r->n_entries + 1, sizeof *r->entry);
        char *text = status ? NULL : scbm_strdup(hooks_of(r), r->word);
        if (!text) return SCBM_ERROR_MEMORY;
        r->entry[r->n_entries] = (word_entry){text, class_number, 0, 0.0};
        r->table[slot] = ++r->n_entries;
    }
    word_entry *entry = &r->entry[r->table[slot] - 1];
    entry->count++;
    entry->sum += attribution;
    return SCBM_OK;
}

/* The word as the tokenizer normalizes it: its pieces put together; what the vocabulary cannot write is as in the text. */
static scbm_status write_word(global_report *r, const char *text, const cbm_explained_token *tokens,
                              const cbm_explained_word *word) {
    const cbm_tokenizer *tokenizer = r->ctx->model->tokenizer;
    size_t length = 0;
    for (int t = word->first_token; t < word->first_token + word->n_tokens; t++) {
        int is_unknown = tokens[t].id == cbm_tokenizer_special(tokenizer, CBM_TOKEN_UNKNOWN);
        const char *part = is_unknown ? text + tokens[t].start : cbm_token_text(tokenizer, tokens[t].id);
        size_t n = is_unknown ? (size_t)(tokens[t].end - tokens[t].start) : strlen(part);
        scbm_status status = scbm_grow(hooks_of(r), (void **)&r->word, &r->word_capacity, length + n + 1, 1);
        if (status) return status;
        memcpy(r->word + length, part, n);
        length += n;
        r->word[length] = 0;
    }
    return SCBM_OK;
}

static scbm_status count_words(global_report *r, const char *text, const cbm_explanation *e) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < e->n_words && !status; i++) {
        status = write_word(r, text, e->tokens, &e->words[i]);
        for (int k = 0; k < e->n_concepts && !status; k++)
            status = count_word(r, r->first_class[k] + e->concepts[k].target,
                                (double)e->concepts[k].logit.words[r->method][i]);
        for (int j = 0; j < e->n_labels && !status; j++)
            status = count_word(r, r->report.n_classes + e->labels[j].label,
                                (double)e->labels[j].logit.words[r->method][i]);
    }
    return status;
}

static scbm_status count_text(void *user, size_t i, const cbm_explanation *e) {
    global_report *r = user;
    scbm_status status = count_words(r, r->texts[i], e);
    if (!status && r->options->faithfulness) status = cbm_ablation_add(r->ctx, &r->ablation, e);
    return status;
}

/* The texts of a sample, whose random numbers are drawn by their rows. */
typedef struct text_sample {
    const char **text;
    size_t *length;
    uint64_t *row;
    size_t n;
} text_sample;

static void clear_sample(text_sample *sample, const scbm_hooks *hooks) {
    scbm_release(hooks, (void *)sample->text);
    scbm_release(hooks, sample->length);
    scbm_release(hooks, sample->row);
}

static scbm_status take_sample(text_sample *sample, const char *const *texts, const size_t *lengths, size_t n_texts,
                               size_t most, const scbm_hooks *hooks) {
    size_t n = sample->n = cbm_sample_size(most, n_texts);
    sample->text = scbm_alloc_array(hooks, n, sizeof *sample->text);
    sample->length = scbm_alloc_array(hooks, n, sizeof *sample->length);
    sample->row = scbm_alloc_array(hooks, n, sizeof *sample->row);
    if (!sample->text || !sample->length || !sample->row) return SCBM_ERROR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        size_t row = cbm_sample_row(i, n, n_texts);
        sample->row[i] = row;
        sample->text[i] = texts[row];
        sample->length[i] = lengths ? lengths[row] : strlen(texts[row]);
    }
    return SCBM_OK;
}

static scbm_status explain_sample(global_report *r, cbm_explain_plan *plan, const char *const *texts,
                                  const size_t *lengths, size_t n_texts) {
    const scbm_hooks *hooks = hooks_of(r);
    const uint64_t measured = plan->methods;
    text_sample sample = {0};
    const int64_t given = r->options->sample;
    const size_t most = given < 0 ? 0 : given ? (size_t)given : DEFAULT_SAMPLE;
    scbm_status status = take_sample(&sample, texts, lengths, n_texts, most, hooks);
    if (!r->options->faithfulness) plan->methods = UINT64_C(1) << r->method;
    plan->number = sample.row;
    r->texts = sample.text;
    if (!status && r->options->faithfulness) status = cbm_ablation_create(&r->ablation, hooks);
    if (!status) status = cbm_explain_each(r->ctx, sample.text, sample.length, sample.n, plan, count_text, r);
    r->report.n_explained = sample.n;
    if (!status && r->options->faithfulness)
        r->report.faithfulness = cbm_ablation_finish(&r->ablation, r->ctx->model, measured);
    clear_sample(&sample, hooks);
    r->texts = NULL;
    return status;
}

/* Puts an entry among the best of its class so far. */
static void rank_word(global_report *r, const word_entry *entry) {
    int most = r->report.most_words, *n = &r->n_words[entry->class_number];
    cbm_word_influence *best = r->words + (size_t)entry->class_number * (size_t)most;
    cbm_word_influence word = {entry->text, entry->count, entry->sum / (double)entry->count,
                               entry->sum / (double)(entry->count + 2)};
    int place = *n;
    if (!(word.score > 0.0)) return;
    while (place > 0 && (word.score > best[place - 1].score ||
                         (word.score == best[place - 1].score && strcmp(word.text, best[place - 1].text) < 0)))
        place--;
    if (place == most) return;
    if (*n < most) ++*n;
    memmove(best + place + 1, best + place, (size_t)(*n - 1 - place) * sizeof *best);
    best[place] = word;
}

/* ------------------------------------------------------------------------------------------
 * The report
 * ---------------------------------------------------------------------------------------- */

static scbm_status take_memory(global_report *r) {
    const scbm_hooks *hooks = hooks_of(r);
    size_t n_concepts = (size_t)r->report.n_concepts, n_labels = (size_t)r->report.n_labels;
    size_t n_classes = (size_t)r->report.n_classes, cells = n_concepts * n_labels;
    size_t n_lists = n_classes + n_labels; /* of words */
    r->first_class = scbm_alloc_array(hooks, n_concepts + 1, sizeof *r->first_class);
    r->n_words = scbm_alloc_array(hooks, n_lists, sizeof *r->n_words);
    r->label_count = scbm_alloc_array(hooks, n_labels, sizeof *r->label_count);
    r->class_count = scbm_alloc_array(hooks, n_classes, sizeof *r->class_count);
    r->contribution = scbm_alloc_array(hooks, cells, sizeof *r->contribution);
    r->absolute = scbm_alloc_array(hooks, cells, sizeof *r->absolute);
    r->importance = scbm_alloc_array(hooks, n_concepts, sizeof *r->importance);
    r->numbers = scbm_alloc_array(hooks, cbm_prediction_numbers(&r->ctx->model->network.heads), sizeof *r->numbers);
    r->concepts = scbm_alloc_array(hooks, n_concepts, sizeof *r->concepts);
    r->words = scbm_alloc_array(hooks, n_lists * (size_t)r->report.most_words, sizeof *r->words);
    int has_memory = r->first_class && r->n_words && r->label_count && r->class_count && r->contribution &&
                     r->absolute && r->importance && r->numbers && r->concepts && r->words;
    return has_memory ? SCBM_OK : SCBM_ERROR_MEMORY;
}

static scbm_status fill_report(global_report *r, cbm_explain_plan *plan, const char *const *texts,
                               const size_t *lengths, size_t n) {
    const cbm_heads *heads = &r->ctx->model->network.heads;
    cbm_global_report *report = &r->report;
    report->n_texts = n;
    report->n_concepts = heads->n_concepts;
    report->n_labels = heads->n_labels;
    report->n_classes = heads->n_classes;
    report->most_words = r->options->n_words ? r->options->n_words : DEFAULT_WORDS;
    scbm_status status = heads->n_concepts ? cbm_describe_subnetworks(r->ctx, &report->subnetworks) : SCBM_OK;
    if (!status) status = take_memory(r);
    if (status) return status;
    for (int k = 0; k <= heads->n_concepts; k++) r->first_class[k] = heads->groups[k];
    status = count_predictions(r, texts, lengths, n);
    if (!status) status = explain_sample(r, plan, texts, lengths, n);
    for (size_t i = 0; i < r->n_entries && !status; i++) rank_word(r, &r->entry[i]);
    report->first_class = r->first_class;
    report->n_words = r->n_words;
    report->label_count = r->label_count;
    report->class_count = r->class_count;
    report->contribution = r->contribution;
    report->absolute_contribution = r->absolute;
    report->importance = r->importance;
    report->words = r->words;
    if (plan->n_labels) {
        report->label_words = r->words + (size_t)report->n_classes * (size_t)report->most_words;
        report->n_label_words = r->n_words + report->n_classes;
    }
    return status;
}

static scbm_status check_options(const cbm_global_options *options) {
    if (options->n_words < 0) return scbm_fail(SCBM_ERROR_ARGUMENT, "%d words of a class", options->n_words);
    if (options->explain.steps < 0)
        return scbm_fail(SCBM_ERROR_ARGUMENT, "words are ranked by integrated gradients, which need steps");
    return cbm_check_reserved(options->reserved, "cbm_global_options");
}

static scbm_status create_report(cbm_global_report **report, cbm_context *ctx, const char *const *texts,
                                 const size_t *lengths, size_t n, const cbm_global_options *options) {
    static const int predicted[1] = {CBM_PREDICTED};
    cbm_explain_plan plan;
    scbm_status status = n ? SCBM_OK : scbm_fail(SCBM_ERROR_ARGUMENT, "there are no texts to explain");
    if (!status) status = check_options(options);
    if (!status) status = cbm_plan_measurement(&plan, ctx->model, &options->explain);
    if (status) return status;
    if (options->labels) {
        plan.labels = predicted;
        plan.n_labels = 1;
    }
    global_report *r = scbm_alloc(&ctx->hooks, sizeof *r);
    if (!r) return SCBM_ERROR_MEMORY;
    r->ctx = ctx;
    r->options = options;
    r->method = cbm_attribution_method_find("integrated_gradients");
    status = fill_report(r, &plan, texts, lengths, n);
    r->options = NULL;
    if (status) cbm_global_report_free(&r->report);
    else *report = &r->report;
    return status;
}

scbm_status cbm_global_report_create(cbm_global_report **report, cbm_context *ctx, const char *const *texts,
                                     const size_t *lengths, size_t n, const cbm_global_options *options) {
    static const cbm_global_options defaults; /* zeros */
    *report = NULL;
    scbm_status status = create_report(report, ctx, texts, lengths, n, options ? options : &defaults);
    ctx->n_computed = 0; /* its texts are many: there is none to intervene on */
    return cbm_context_result(ctx, status);
}
