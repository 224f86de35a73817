/*
 * models/program/explain/text.c - an explanation of one text, and of many together, as people read it
 */
#include "models/program/explain/explain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MOST_PRINTED_LABELS 20

/* ------------------------------------------------------------------------------------------
 * Subnetworks
 * ---------------------------------------------------------------------------------------- */

static int concept_width(const cbm_model *model) {
    int width = cli_width("concept");
    for (int k = 0; k < cbm_model_n_concepts(model); k++) width = cli_wider(width, cbm_model_concept(model, k));
    return width;
}

static int column_width(const cbm_model *model, int k) {
    return cli_wider(7, cbm_model_concept(model, k));
}

/* The concepts' names as the heads of columns. */
static void print_columns(const cbm_model *model) {
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        printf("  ");
        cli_print_right(cbm_model_concept(model, k), 7);
    }
    putchar('\n');
}

void explain_print_subnetworks(const cbm_model *model, const cbm_subnetworks *s) {
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
        cli_print_name(cbm_model_concept(model, a), width);
        printf("  %5.1f %%  %5.1f %%                ", 100 * s->density[a], 100 * s->own[a]);
        for (int b = 0; b < n; b++) printf("  %*.2f", column_width(model, b), s->overlap[a * n + b]);
        putchar('\n');
    }
    puts("  overlap is intersection over union; its own: the share of its weights that no other concept keeps");
}

/* ------------------------------------------------------------------------------------------
 * One text
 * ---------------------------------------------------------------------------------------- */

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
        int n = cbm_text_width(text + word->start, (size_t)(word->end - word->start));
        if (!chosen[i]) continue;
        if (n > width) width = n;
        if (fabs((double)values[i]) > largest) largest = fabs((double)values[i]);
    }
    for (int i = 0; i < e->n_words; i++) {
        if (!chosen[i]) continue;
        printf("    ");
        cli_print_padded(text + e->words[i].start, (size_t)(e->words[i].end - e->words[i].start), width);
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

/* A logit with its words. */
static void print_logit(const explain_command *x, const char *text, const cbm_explanation *e,
                        const cbm_explained_logit *logit, uint8_t *chosen) {
    print_words(x, text, e, logit, chosen);
    if (logit->steps && !logit->converged)
        printf("    integrated gradients have not converged in %d steps: they do not add up to the difference\n",
               logit->steps);
}

static void print_concept(const explain_command *x, const char *text, const cbm_explanation *e,
                          const cbm_concept_explanation *c, uint8_t *chosen) {
    printf("\n  ");
    cli_print_name(c->result->name, 0);
    printf(" reads ");
    cli_print_name(c->target_name, 0);
    printf(": logit %+.3f, with every word masked %+.3f", (double)c->logit.value, (double)c->logit.baseline);
    if (e->subnetworks->is_sparse) printf("; keeps %.1f %% of the weights", 100 * c->density);
    putchar('\n');
    print_logit(x, text, e, &c->logit, chosen);
    print_neurons(e, c);
}

static void print_label(const explain_command *x, const char *text, const cbm_explanation *e,
                        const cbm_label_explanation *label, uint8_t *chosen) {
    printf("\n  label ");
    cli_print_name(label->name, 0);
    printf(" (%.0f %%): logit %+.3f, with every word masked %+.3f\n",
           100 * (double)e->prediction->probabilities[label->label], (double)label->logit.value,
           (double)label->logit.baseline);
    print_logit(x, text, e, &label->logit, chosen);
}

/* What each concept adds to the label's logit, and to that of the runner-up: why not the other? */
static scbm_status print_comparison(const explain_command *x, const cbm_explanation *e) {
    const int label = e->labels[0].label, other = e->labels[1].label;
    const cbm_contributions *c;
    scbm_status status = cbm_contributions_of(x->in.context, e->prediction, &c);
    if (status) return status;
    const double *to = c->centred + label, *to_other = c->centred + other;
    int width = cli_width("bias");
    double largest = fabs(c->centred_bias[label] - c->centred_bias[other]);
    for (int k = 0; k < e->n_concepts; k++) {
        width = cli_wider(width, e->concepts[k].result->name);
        largest = fmax(largest, fabs(to[k * c->n_labels] - to_other[k * c->n_labels]));
    }
    printf("\n  why ");
    cli_print_name(e->labels[0].name, 0);
    printf(" and not ");
    cli_print_name(e->labels[1].name, 0);
    printf(": logits %+.3f and %+.3f; what adds to each, and the difference\n", c->logits[label], c->logits[other]);
    for (int k = 0; k <= e->n_concepts; k++) {
        double first = k < e->n_concepts ? to[k * c->n_labels] : c->centred_bias[label],
               second = k < e->n_concepts ? to_other[k * c->n_labels] : c->centred_bias[other];
        printf("    ");
        cli_print_name(k < e->n_concepts ? e->concepts[k].result->name : "bias", width);
        printf("  %+8.3f  %+8.3f  %+8.3f  ", first, second, first - second);
        cli_print_bar(first - second, largest);
    }
    return SCBM_OK;
}

scbm_status explain_print(const explain_command *x, const char *text, size_t length, const cbm_explanation *e) {
    uint8_t *chosen = scbm_alloc(&x->in.hooks, (size_t)e->n_words + 1);
    scbm_status status = SCBM_OK;
    if (!chosen) return SCBM_ERROR_MEMORY;
    if (x->in.n_printed) putchar('\n');
    cli_print_prediction(text, length, e->prediction);
    if (e->n_concepts && e->n_labels > 1) status = print_comparison(x, e);
    for (int k = 0; k < e->n_concepts; k++) print_concept(x, text, e, &e->concepts[k], chosen);
    for (int i = 0; i < e->n_labels; i++) print_label(x, text, e, &e->labels[i], chosen);
    scbm_release(&x->in.hooks, chosen);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Many texts
 * ---------------------------------------------------------------------------------------- */

static void print_contributions(const explain_command *x, const cbm_global_report *r) {
    const cbm_model *model = x->in.model;
    int width = 13;
    for (int y = 0; y < r->n_labels && y < MOST_PRINTED_LABELS; y++) {
        int n = cli_width(cbm_model_label(model, y));
        if (n > width) width = n;
    }
    printf("mean contribution of each concept to the logit of the label that is predicted\n  ");
    cli_print_name("label", width);
    printf("  %6s", "texts");
    print_columns(model);
    for (int y = 0; y < r->n_labels && y < MOST_PRINTED_LABELS; y++) {
        printf("  ");
        cli_print_name(cbm_model_label(model, y), width);
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
    cli_print_name("mean absolute", width);
    printf("  %6zu", r->n_texts);
    for (int k = 0; k < r->n_concepts; k++) printf("  %*.3f", column_width(model, k), r->importance[k]);
    putchar('\n');
}

static void print_word_list(const cbm_word_influence *words, int n) {
    for (int i = 0; i < n; i++) {
        printf("%s ", i ? "," : "");
        cli_print_name(words[i].text, 0);
        printf(" (%+.2f, %lld)", words[i].score, (long long)words[i].count);
    }
    puts(n ? "" : " none");
}

static void print_concept_words(const cbm_model *model, const cbm_global_report *r, int k) {
    for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++) {
        int at = r->first_class[k] + c;
        if (!r->class_count[at]) continue;
        printf("  ");
        cli_print_name(cbm_model_concept(model, k), 0);
        printf(" reads ");
        cli_print_name(cbm_model_concept_class(model, k, c), 0);
        printf(" in %lld texts:", (long long)r->class_count[at]);
        print_word_list(r->words + (size_t)at * (size_t)r->most_words, r->n_words[at]);
    }
}

static void print_label_words(const cbm_model *model, const cbm_global_report *r) {
    for (int y = 0; y < r->n_labels; y++) {
        if (!r->label_count[y]) continue;
        printf("  label ");
        cli_print_name(cbm_model_label(model, y), 0);
        printf(" in %lld texts:", (long long)r->label_count[y]);
        print_word_list(r->label_words + (size_t)y * (size_t)r->most_words, r->n_label_words[y]);
    }
}

static void print_influences(const explain_command *x, const cbm_global_report *r) {
    printf("most influential words in %zu texts, with score and occurrences; the score is the sum of a word's\n"
           "integrated gradients, divided by its occurrences plus two\n",
           r->n_explained);
    for (int k = 0; k < r->n_concepts; k++) print_concept_words(x->in.model, r, k);
    if (r->label_words) print_label_words(x->in.model, r);
}

static void print_drops(const char *name, const double *drops, int n, double mean) {
    printf("    %-20s", name);
    for (int s = 0; s < n; s++) printf("  %7.3f", drops[s]);
    printf("  %7.3f\n", mean);
}

static void print_faithfulness(const cbm_faithfulness *f, int n_concepts) {
    printf("\nfaithfulness: the drop of the %s's probability, over %zu texts%s\n    %-20s",
           n_concepts ? "read class" : "predicted label", f->n, n_concepts ? " and all concepts" : "",
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

scbm_status explain_print_global(const explain_command *x, const cbm_global_report *r) {
    if (r->n_concepts) {
        print_contributions(x, r);
        putchar('\n');
    }
    print_influences(x, r);
    if (r->subnetworks) {
        putchar('\n');
        explain_print_subnetworks(x->in.model, r->subnetworks);
    }
    if (r->faithfulness) print_faithfulness(r->faithfulness, r->n_concepts);
    return SCBM_OK;
}
