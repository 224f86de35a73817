/*
 * models/program/cmd-explain.c - explain: why a text, or a whole data set, gets its labels
 */
#include "models/program/program.h"
#include "models/cbm-train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PRINTED_LABELS 20

static const char one_text[] = "--html holds one text; --global explains a whole data set";

typedef struct explain_command {
    cli_session in;
    int64_t steps, max_steps, n_neurons, n_words, sample, seed;
    int global, faithfulness, has_many; /* has_many: more than one text has come */
    const char *html_path, *png_path;
    cbm_explain_options options;
    cbm_dataset texts; /* of --global: texts alone */
} explain_command;

/* ------------------------------------------------------------------------------------------
 * Shared by one text and by many
 * ---------------------------------------------------------------------------------------- */

/* The number of characters of UTF-8 text: about the columns that it takes. */
static int width_of(const char *text, int length) {
    int n = 0;
    for (int i = 0; i < length; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

static int name_width(const char *name) {
    return width_of(name, (int)strlen(name));
}

static void print_padded(const char *text, int length, int width) {
    int rest = width - width_of(text, length);
    printf("%.*s%*s", length, text, rest > 0 ? rest : 0, "");
}

static void print_name(const char *name, int width) {
    print_padded(name, (int)strlen(name), width);
}

static int concept_width(const cbm_model *model) {
    int width = 7;
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        int n = name_width(cbm_model_concept(model, k));
        if (n > width) width = n;
    }
    return width;
}

/* The concepts' names as the heads of columns. */
static void print_columns(const cbm_model *model) {
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        const char *name = cbm_model_concept(model, k);
        printf("  %*s%s", 7 - name_width(name) > 0 ? 7 - name_width(name) : 0, "", name);
    }
    putchar('\n');
}

static int column_width(const cbm_model *model, int k) {
    int width = name_width(cbm_model_concept(model, k));
    return width > 7 ? width : 7;
}

static void print_subnetworks(const cbm_model *model, const cbm_subnetworks *s) {
    int width = concept_width(model), n = s->n_concepts;
    if (!s->is_sparse) {
        puts("subnetworks: none; this model is dense, and all concepts share one encoder");
        return;
    }
    printf("subnetworks of %lld weights: %.1f %% are kept by all concepts, %.1f %% by none\n", (long long)s->n_weights,
           100 * s->kept_by[n], 100 * s->kept_by[0]);
    printf("  %*s  %7s  %7s    overlap with", width, "", "density", "its own");
    print_columns(model);
    for (int a = 0; a < n; a++) {
        printf("  ");
        print_name(cbm_model_concept(model, a), width);
        printf("  %5.1f %%  %5.1f %%                ", 100 * s->density[a], 100 * s->own[a]);
        for (int b = 0; b < n; b++) printf("  %*.2f", column_width(model, b), s->overlap[a * n + b]);
        putchar('\n');
    }
    puts("  overlap is intersection over union; its own: the share of its weights that no other concept keeps");
}

static void add_overlaps(cJSON *object, const cbm_model *model, const cbm_subnetworks *s) {
    cJSON *overlaps = cJSON_AddArrayToObject(object, "overlaps");
    for (int a = 0; a < s->n_concepts; a++) {
        for (int b = a + 1; b < s->n_concepts; b++) {
            cJSON *pair = cJSON_CreateObject();
            cJSON_AddStringToObject(pair, "a", cbm_model_concept(model, a));
            cJSON_AddStringToObject(pair, "b", cbm_model_concept(model, b));
            cJSON_AddItemToObject(pair, "iou", cli_json_double(s->overlap[a * s->n_concepts + b]));
            cJSON_AddItemToArray(overlaps, pair);
        }
    }
}

/* The model's file name, which stands at the top of reports. */
static const char *title(const explain_command *x) {
    const char *slash = strrchr(x->in.model_path, '/');
    return slash ? slash + 1 : x->in.model_path;
}

/* ------------------------------------------------------------------------------------------
 * One text
 * ---------------------------------------------------------------------------------------- */

/* What a token is called: its part of the text, or what was added ("[CLS]"). */
static scbm_status add_token(cJSON *array, const char *text, const cbm_explanation *e, const cbm_explained_logit *logit,
                             int t, const scbm_hooks *hooks) {
    const cbm_explained_token *token = &e->tokens[t];
    size_t length = (size_t)(token->end - token->start);
    char *part = scbm_alloc(hooks, length + 1);
    if (!part) return SCBM_ERROR_MEMORY;
    memcpy(part, text + token->start, length);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "text", length ? part : token->piece);
    cJSON_AddItemToObject(object, "start", cli_json_int(token->start));
    cJSON_AddItemToObject(object, "end", cli_json_int(token->end));
    for (int m = 0; m < e->n_methods; m++)
        if (logit->tokens[m])
            cJSON_AddItemToObject(object, cbm_attribution_method_at(m)->name, cli_json_float(logit->tokens[m][t]));
    cJSON_AddItemToArray(array, object);
    scbm_release(hooks, part);
    return SCBM_OK;
}

static scbm_status print_explanation_json(const explain_command *x, const char *text, const cbm_explanation *e) {
    scbm_status status = SCBM_OK;
    cJSON *object = cli_json_prediction(e->prediction);
    cJSON *concept = cJSON_GetObjectItemCaseSensitive(object, "concepts");
    concept = concept ? concept->child : NULL;
    for (int k = 0; k < e->n_concepts && concept && !status; k++, concept = concept->next) {
        const cbm_concept_explanation *c = &e->concepts[k];
        cJSON_AddItemToObject(concept, "density", cli_json_double(c->density));
        cJSON *tokens = cJSON_AddArrayToObject(concept, "tokens");
        for (int t = 0; t < e->n_tokens && !status; t++)
            status = add_token(tokens, text, e, &c->logit, t, &x->in.hooks);
        cJSON_AddItemToObject(concept, "baseline_logit", cli_json_float(c->logit.baseline));
        cJSON_AddItemToObject(concept, "target_logit", cli_json_float(c->logit.value));
    }
    add_overlaps(object, x->in.model, e->subnetworks);
    if (!status) return cli_json_print(object);
    cJSON_Delete(object);
    return status;
}

/* The words' attributions that are shown: by the first method whose values add up, or else by the first. */
static const float *shown_values(const cbm_explained_logit *logit, int n_methods) {
    const float *first = NULL;
    for (int m = 0; m < n_methods; m++) {
        if (logit->words[m] && cbm_attribution_method_at(m)->adds_up) return logit->words[m];
        if (!first) first = logit->words[m];
    }
    return first;
}

/* Marks the n words with the largest |attribution|; the first of equal ones first. */
static void choose_words(const explain_command *x, const float *values, int n_words, uint8_t *chosen) {
    memset(chosen, 0, (size_t)n_words);
    for (int64_t n = 0; n < x->n_words; n++) {
        int best = -1;
        for (int i = 0; i < n_words; i++)
            if (!chosen[i] && (best < 0 || fabsf(values[i]) > fabsf(values[best]))) best = i;
        if (best < 0) return;
        chosen[best] = 1;
    }
}

/* The most important words, in the text's order. */
static void print_words(const explain_command *x, const char *text, const cbm_explanation *e,
                        const cbm_explained_logit *logit, uint8_t *chosen) {
    const float *values = shown_values(logit, e->n_methods);
    int width = 8;
    double largest = 0;
    if (!values) return;
    choose_words(x, values, e->n_words, chosen);
    for (int i = 0; i < e->n_words; i++) {
        const cbm_explained_word *word = &e->words[i];
        int n = width_of(text + word->start, word->end - word->start);
        if (!chosen[i]) continue;
        if (n > width) width = n;
        if (fabs((double)values[i]) > largest) largest = fabs((double)values[i]);
    }
    for (int i = 0; i < e->n_words; i++) {
        if (!chosen[i]) continue;
        printf("    ");
        print_padded(text + e->words[i].start, e->words[i].end - e->words[i].start, width);
        printf("  %+8.3f  ", (double)values[i]);
        cli_print_bar((double)values[i], largest);
    }
}

static void print_neurons(const cbm_explanation *e, const cbm_concept_explanation *c) {
    if (!c->n_neurons) return;
    printf("    neurons");
    for (int i = 0; i < c->n_neurons; i++)
        printf("%s %s row %d (%.1f %%)", i ? "," : ":", e->subnetworks->matrices[c->neurons[i].matrix].name,
               c->neurons[i].row, 100 * (double)c->neurons[i].share);
    putchar('\n');
}

static scbm_status print_explanation(const explain_command *x, const char *text, size_t length,
                                     const cbm_explanation *e) {
    uint8_t *chosen = scbm_alloc(&x->in.hooks, (size_t)e->n_words + 1);
    if (!chosen) return SCBM_ERROR_MEMORY;
    if (x->in.n_printed) putchar('\n');
    cli_print_prediction(text, length, e->prediction);
    for (int k = 0; k < e->n_concepts; k++) {
        const cbm_concept_explanation *c = &e->concepts[k];
        printf("\n  %s reads %s: logit %+.3f, with every word masked %+.3f", c->result->name, c->target_name,
               (double)c->logit.value, (double)c->logit.baseline);
        if (e->subnetworks->is_sparse) printf("; keeps %.1f %% of the weights", 100 * c->density);
        putchar('\n');
        print_words(x, text, e, &c->logit, chosen);
        if (c->logit.steps && !c->logit.converged)
            printf("    integrated gradients have not converged in %d steps: they do not add up to the difference\n",
                   c->logit.steps);
        print_neurons(e, c);
    }
    scbm_release(&x->in.hooks, chosen);
    return SCBM_OK;
}

static scbm_status explain_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    explain_command *x = user;
    scbm_status status = SCBM_OK;
    if (n > 1 || x->in.n_printed) x->has_many = 1;
    if (x->html_path && x->has_many) return scbm_fail(SCBM_ERROR_ARGUMENT, "%s", one_text);
    for (size_t i = 0; i < n && !status; i++) {
        const cbm_explanation *e;
        status = cbm_explain_text(x->in.context, texts[i], lengths[i], &x->options, &e);
        cli_progress_clear(&x->in.progress);
        if (!status && x->html_path)
            status = cbm_report_html(x->html_path, title(x), x->in.model, texts[i], lengths[i], e, &x->in.hooks);
        if (status) break;
        status = x->in.json ? print_explanation_json(x, texts[i], e) : print_explanation(x, texts[i], lengths[i], e);
        x->in.n_printed++;
        ++*done;
        x->in.n_truncated += e->prediction->truncated != 0;
    }
    return status ? status : cli_flush();
}

/* What is said of the model itself, once. */
static scbm_status finish_texts(explain_command *x) {
    const cbm_subnetworks *subnetworks;
    scbm_status status = cbm_describe_subnetworks(x->in.context, &subnetworks);
    if (!status && x->png_path) status = cbm_report_png(x->png_path, title(x), x->in.model, subnetworks, &x->in.hooks);
    if (status || x->in.json) return status;
    putchar('\n');
    print_subnetworks(x->in.model, subnetworks);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * A data set, as JSON
 * ---------------------------------------------------------------------------------------- */

static cJSON *json_words(const cbm_global_report *r, int c) {
    cJSON *words = cJSON_CreateArray();
    for (int i = 0; i < r->n_words[c]; i++) {
        const cbm_word_influence *word = &r->words[c * r->most_words + i];
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "text", word->text);
        cJSON_AddItemToObject(object, "count", cli_json_int(word->count));
        cJSON_AddItemToObject(object, "integrated_gradients", cli_json_double(word->mean));
        cJSON_AddItemToObject(object, "score", cli_json_double(word->score));
        cJSON_AddItemToArray(words, object);
    }
    return words;
}

static cJSON *json_concept(const explain_command *x, const cbm_global_report *r, int k) {
    const cbm_model *model = x->in.model;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", cbm_model_concept(model, k));
    cJSON_AddItemToObject(object, "density", cli_json_double(r->subnetworks->density[k]));
    cJSON_AddItemToObject(object, "own", cli_json_double(r->subnetworks->own[k]));
    cJSON_AddItemToObject(object, "mean_absolute_contribution", cli_json_double(r->importance[k]));
    cJSON *classes = cJSON_AddArrayToObject(object, "classes");
    for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++) {
        cJSON *class_object = cJSON_CreateObject();
        cJSON_AddStringToObject(class_object, "name", cbm_model_concept_class(model, k, c));
        cJSON_AddItemToObject(class_object, "texts", cli_json_int(r->class_count[r->first_class[k] + c]));
        cJSON_AddItemToObject(class_object, "words", json_words(r, r->first_class[k] + c));
        cJSON_AddItemToArray(classes, class_object);
    }
    return object;
}

static cJSON *json_label(const explain_command *x, const cbm_global_report *r, int y) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", cbm_model_label(x->in.model, y));
    cJSON_AddItemToObject(object, "texts", cli_json_int(r->label_count[y]));
    cJSON *contributions = cJSON_AddArrayToObject(object, "contributions");
    for (int k = 0; k < r->n_concepts; k++) {
        cJSON *concept = cJSON_CreateObject();
        cJSON_AddStringToObject(concept, "concept", cbm_model_concept(x->in.model, k));
        cJSON_AddItemToObject(concept, "mean", cli_json_double(r->contribution[k * r->n_labels + y]));
        cJSON_AddItemToObject(concept, "mean_absolute", cli_json_double(r->absolute_contribution[k * r->n_labels + y]));
        cJSON_AddItemToArray(contributions, concept);
    }
    return object;
}

static cJSON *json_numbers(const double *numbers, int n) {
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < n; i++) cJSON_AddItemToArray(array, cli_json_double(numbers[i]));
    return array;
}

static cJSON *json_faithfulness(const cbm_faithfulness *f) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)f->n));
    cJSON_AddItemToObject(object, "shares", json_numbers(f->share, f->n_shares));
    for (int m = 0; m < f->n_methods; m++) {
        const cbm_method_faithfulness *of = &f->methods[m];
        cJSON *method = cJSON_AddObjectToObject(object, of->name);
        cJSON_AddItemToObject(method, "comprehensiveness", json_numbers(of->comprehensiveness, f->n_shares));
        cJSON_AddItemToObject(method, "sufficiency", json_numbers(of->sufficiency, f->n_shares));
        cJSON_AddItemToObject(method, "mean_comprehensiveness", cli_json_double(of->mean_comprehensiveness));
        cJSON_AddItemToObject(method, "mean_sufficiency", cli_json_double(of->mean_sufficiency));
    }
    return object;
}

static scbm_status print_global_json(const explain_command *x, const cbm_global_report *r) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "texts", cli_json_int((int64_t)r->n_texts));
    cJSON_AddItemToObject(object, "texts_explained", cli_json_int((int64_t)r->n_explained));
    cJSON *labels = cJSON_AddArrayToObject(object, "labels"), *concepts = cJSON_AddArrayToObject(object, "concepts");
    for (int y = 0; y < r->n_labels; y++) cJSON_AddItemToArray(labels, json_label(x, r, y));
    for (int k = 0; k < r->n_concepts; k++) cJSON_AddItemToArray(concepts, json_concept(x, r, k));
    add_overlaps(object, x->in.model, r->subnetworks);
    cJSON_AddItemToObject(object, "kept_by", json_numbers(r->subnetworks->kept_by, r->n_concepts + 1));
    if (r->faithfulness) cJSON_AddItemToObject(object, "faithfulness", json_faithfulness(r->faithfulness));
    return cli_json_print(object);
}

/* ------------------------------------------------------------------------------------------
 * A data set, as text
 * ---------------------------------------------------------------------------------------- */

static void print_contributions(const explain_command *x, const cbm_global_report *r) {
    const cbm_model *model = x->in.model;
    int width = 13;
    for (int y = 0; y < r->n_labels && y < MOST_PRINTED_LABELS; y++) {
        int n = name_width(cbm_model_label(model, y));
        if (n > width) width = n;
    }
    printf("mean contribution of each concept to the logit of the label that is predicted\n  ");
    print_name("label", width);
    printf("  %6s", "texts");
    print_columns(model);
    for (int y = 0; y < r->n_labels && y < MOST_PRINTED_LABELS; y++) {
        printf("  ");
        print_name(cbm_model_label(model, y), width);
        printf("  %6lld", (long long)r->label_count[y]);
        for (int k = 0; k < r->n_concepts; k++) {
            if (r->label_count[y]) printf("  %+*.3f", column_width(model, k), r->contribution[k * r->n_labels + y]);
            else printf("  %*s", column_width(model, k), "-");
        }
        putchar('\n');
    }
    if (r->n_labels > MOST_PRINTED_LABELS)
        printf("  %d more labels; --json gives them all\n", r->n_labels - MOST_PRINTED_LABELS);
    printf("  ");
    print_name("mean absolute", width);
    printf("  %6zu", r->n_texts);
    for (int k = 0; k < r->n_concepts; k++) printf("  %*.3f", column_width(model, k), r->importance[k]);
    putchar('\n');
}

static void print_influences(const explain_command *x, const cbm_global_report *r) {
    const cbm_model *model = x->in.model;
    printf("most influential words in %zu texts, with score and occurrences; the score is the sum of a word's\n"
           "integrated gradients, divided by its occurrences plus two\n",
           r->n_explained);
    for (int k = 0; k < r->n_concepts; k++) {
        for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++) {
            int at = r->first_class[k] + c;
            if (!r->class_count[at]) continue;
            printf("  %s reads %s in %lld texts:", cbm_model_concept(model, k), cbm_model_concept_class(model, k, c),
                   (long long)r->class_count[at]);
            for (int i = 0; i < r->n_words[at]; i++) {
                const cbm_word_influence *word = &r->words[at * r->most_words + i];
                printf("%s %s (%+.2f, %lld)", i ? "," : "", word->text, word->score, (long long)word->count);
            }
            puts(r->n_words[at] ? "" : " none");
        }
    }
}

static void print_drops(const char *name, const double *drops, int n, double mean) {
    printf("    %-20s", name);
    for (int s = 0; s < n; s++) printf("  %7.3f", drops[s]);
    printf("  %7.3f\n", mean);
}

static void print_faithfulness(const cbm_faithfulness *f) {
    printf("\nfaithfulness: the drop of the read class's probability, over %zu texts and all concepts\n    %-20s", f->n,
           "share of the tokens");
    for (int s = 0; s < f->n_shares; s++) printf("  %5.0f %%", 100 * f->share[s]);
    printf("  %7s\n", "mean");
    puts("  comprehensiveness: without these tokens (larger is better)");
    for (int m = 0; m < f->n_methods; m++)
        print_drops(f->methods[m].name, f->methods[m].comprehensiveness, f->n_shares,
                    f->methods[m].mean_comprehensiveness);
    puts("  sufficiency: with these tokens alone (smaller is better)");
    for (int m = 0; m < f->n_methods; m++)
        print_drops(f->methods[m].name, f->methods[m].sufficiency, f->n_shares, f->methods[m].mean_sufficiency);
}

static scbm_status print_global(const explain_command *x, const cbm_global_report *r) {
    print_contributions(x, r);
    putchar('\n');
    print_influences(x, r);
    putchar('\n');
    print_subnetworks(x->in.model, r->subnetworks);
    if (r->faithfulness) print_faithfulness(r->faithfulness);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * A data set
 * ---------------------------------------------------------------------------------------- */

static scbm_status keep_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    explain_command *x = user;
    scbm_status status = x->texts.store ? SCBM_OK : cbm_dataset_create(&x->texts, NULL, &x->in.hooks);
    for (size_t i = 0; i < n && !status; i++) {
        status = cbm_dataset_add(&x->texts, texts[i], lengths[i], NULL, NULL);
        *done += !status;
    }
    return status;
}

static scbm_status write_global(explain_command *x, const cbm_global_report *r) {
    const cbm_model *model = x->in.model;
    scbm_status status = SCBM_OK;
    if (x->html_path) status = cbm_report_global_html(x->html_path, title(x), model, r, &x->in.hooks);
    if (!status && x->png_path) status = cbm_report_png(x->png_path, title(x), model, r->subnetworks, &x->in.hooks);
    if (!status) status = x->in.json ? print_global_json(x, r) : print_global(x, r);
    x->in.n_printed = (int64_t)r->n_texts;
    x->in.n_truncated = (int64_t)r->n_truncated;
    return status;
}

static scbm_status explain_global(explain_command *x) {
    cbm_global_report *report = NULL;
    cbm_global_options options = {.sample = x->sample ? x->sample : -1,
                                  .n_words = (int)x->n_words,
                                  .faithfulness = x->faithfulness,
                                  .explain = x->options};
    options.explain.seed = (uint64_t)x->seed;
    cli_catch_interrupt();
    scbm_status status = cbm_global_report_create(&report, x->in.context, (const char *const *)x->texts.text,
                                                  x->texts.text_length, x->texts.n, &options);
    cli_progress_clear(&x->in.progress);
    if (!status) status = write_global(x, report);
    cbm_global_report_free(report);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

/* For the library 0 is the default, and a negative number is none. */
static int number_or_none(int64_t n) {
    return n ? (int)n : -1;
}

static int check_options(explain_command *x) {
    const cli_command *command = x->in.command;
    if (!x->global && x->faithfulness)
        return cli_misuse(command, "--faithfulness needs --global: it is measured on many texts");
    if (x->global && !x->steps)
        return cli_misuse(command, "--global ranks words by integrated gradients: --steps cannot be 0");
    if (x->global && !x->n_words) return cli_misuse(command, "--global wants at least one word: --words");
    if (!x->global && x->html_path && x->in.texts.argument.n > 1) return cli_misuse(command, "%s", one_text);
    x->options.steps = number_or_none(x->steps);
    x->options.max_steps = number_or_none(x->max_steps);
    x->options.n_neurons = number_or_none(x->n_neurons);
    return CLI_GO_ON;
}

/* What the model does not allow is said before texts are read. */
static int check_model(const explain_command *x) {
    const cli_command *command = x->in.command;
    if (cbm_model_mode(x->in.model) == CBM_VANILLA)
        return cli_fail(command, "%s is a vanilla model, which has no concepts to explain a prediction by",
                        x->in.model_path);
    if (x->png_path && !cbm_model_is_sparse(x->in.model))
        return cli_fail(command,
                        "--png draws the masks of subnetworks, and %s is dense: leave --png out, or train with --prune",
                        x->in.model_path);
    return CLI_GO_ON;
}

static int explain(explain_command *x) {
    int status = cli_texts_each(x->in.command, &x->in.texts, x->global ? keep_texts : explain_texts, x, &x->in.hooks);
    if (status != CLI_DONE) return status;
    scbm_status explained = SCBM_OK;
    if (x->global && !x->texts.store) return cli_fail(x->in.command, "there are no texts to explain");
    if (x->global) explained = cbm_dataset_finish(&x->texts);
    if (x->global && !explained) explained = explain_global(x);
    else if (x->in.n_printed) explained = finish_texts(x);
    if (explained) return cli_fail_status(x->in.command, explained);
    if (x->html_path && x->in.n_printed) cli_say_wrote(x->in.command, x->html_path);
    if (x->png_path && x->in.n_printed) cli_say_wrote(x->in.command, x->png_path);
    return cli_finish(x->in.command);
}

static int run_explain(const cli_command *command, int argc, char **argv) {
    explain_command x;
    memset(&x, 0, sizeof x);
    x.steps = 32;
    x.max_steps = 512;
    x.n_neurons = 3;
    x.n_words = 6;
    x.sample = 200;
    x.seed = 42;
    const cli_option options[] = {
        CLI_MODEL_OPTION(x.in),
        CLI_TEXTS_OPTIONS(x.in.texts),
        CLI_GROUP_OF("Explanation"),
        CLI_FLAG_OPTION("global", &x.global, "explain all texts together: contributions, influential words, overlaps"),
        CLI_WRITE_OPTION("html", &x.html_path,
                         "write a report of the one text, or with --global of all, as one HTML file"),
        CLI_WRITE_OPTION("png", &x.png_path, "write the subnetworks' mask maps and overlaps as a picture"),
        CLI_INT_OPTION("words", "N", &x.n_words, 0, 1000,
                       "words that are shown for each concept, or with --global each class"),
        CLI_INT_OPTION("neurons", "N", &x.n_neurons, 0, 1000, "most salient neurons that are shown for each concept"),
        CLI_INT_OPTION("steps", "N", &x.steps, 0, 65536, "steps of integrated gradients; 0: gradient x input alone"),
        CLI_INT_OPTION("max-steps", "N", &x.max_steps, 0, 65536,
                       "the steps are doubled up to N until they add up to 1 %"),
        CLI_INT_OPTION("sample", "N", &x.sample, 0, 1000000000, "texts of --global whose words are attributed; 0: all"),
        CLI_FLAG_OPTION("faithfulness", &x.faithfulness,
                        "with --global: measure comprehensiveness and sufficiency of attributions on the sample"),
        CLI_INT_OPTION("seed", "N", &x.seed, 0, 9e15, "seed of faithfulness's random baseline"),
        CLI_RUN_OPTIONS(x.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&x.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_options(&x);
    if (status == CLI_GO_ON) status = cli_session_check_texts(&x.in);
    if (status == CLI_GO_ON) status = cli_session_load(&x.in, 1);
    if (status == CLI_GO_ON) status = check_model(&x);
    if (status == CLI_GO_ON) status = explain(&x);
    cbm_dataset_clear(&x.texts);
    return cli_session_finish(&x.in, status);
}

static const char *const explain_examples[] = {
    "explain --model demo/reviews.gguf \"The soup was cold, but the waiter was lovely.\"",
    "explain --model demo/reviews.gguf --data demo/test.csv --global --sample 50 --html reviews.html", NULL};
const cli_command cmd_explain = {
    "explain",
    "explain a prediction by its concepts, subnetworks and words",
    "--model FILE [TEXT ...] [options]",
    "Three levels fit together. The concepts' contributions and the bias add up to the label's logit. Each concept reads\n"
    "the text through a subnetwork of its own. The words' attributions (integrated gradients towards the class that the\n"
    "concept reads, from the text with every word masked) add up to the difference between the two logits.\n"
    "With --json: predict's object, with for each concept density, tokens: [{text, start, end, gradient_input,\n"
    "integrated_gradients}], baseline_logit and target_logit, and overlaps: [{a, b, iou}]; start and end are bytes.\n"
    "With --global --json: {texts, texts_explained, labels: [{name, texts, contributions: [{concept, mean,\n"
    "mean_absolute}]}], concepts: [{name, density, own, mean_absolute_contribution, classes: [{name, texts, words: [{text,\n"
    "count, integrated_gradients (the mean), score}]}]}], overlaps, kept_by: [shares of the weights that 0, 1, ...\n"
    "concepts keep],\n"
    "faithfulness: {texts, shares, METHOD: {comprehensiveness, sufficiency, mean_comprehensiveness, mean_sufficiency}}}.",
    explain_examples,
    run_explain};
