/*
 * models/program/eval/print.c - measures as tables
 */
#include "models/program/eval/eval.h"

#include <stdio.h>

#define MOST_PRINTED_CLASSES 40

/* "66.2 %  (63.9-68.4)" */
static void print_score(const eval_command *e, double value, double low, double high) {
    char interval[32] = "";
    if (e->resamples) snprintf(interval, sizeof interval, "(%.1f-%.1f)", 100 * low, 100 * high);
    printf("  %5.1f %% %-*s", 100 * value, e->resamples ? 13 : 5, interval);
}

static void print_measures(const eval_command *e, const char *name, int width, const cbm_measures *m,
                           const char *majority) {
    printf("  ");
    cli_print_name(name, width);
    if (m->n) {
        print_score(e, m->value.accuracy, m->low.accuracy, m->high.accuracy);
        print_score(e, m->value.macro_f1, m->low.macro_f1, m->high.macro_f1);
        print_score(e, m->value.macro_f1_ovr, m->low.macro_f1_ovr, m->high.macro_f1_ovr);
        printf("  %5.1f %%%s", 100 * m->majority_share, majority[0] ? " " : "");
        cli_print_name(majority, 0);
        putchar('\n');
    } else {
        puts("  there are no true classes in these data");
    }
}

static void print_table(const eval_command *e, const eval_result *r) {
    int width = cli_width("all concepts"), column = e->resamples ? 22 : 14;
    for (int k = 0; k < e->columns.n_concepts; k++) width = cli_wider(width, cbm_model_concept(e->in.model, k));
    printf("  %*s  %-*s%-*s%-*s%s\n", width, "", column, "accuracy", column, "macro_f1", column, "macro_f1_ovr",
           "majority");
    print_measures(e, "label", width, &r->of_label,
                   r->of_label.n ? cbm_model_label(e->in.model, r->of_label.majority_class) : "");
    for (int k = 0; k < e->columns.n_concepts; k++) {
        int most = r->of_concept[k].majority_class;
        print_measures(e, cbm_model_concept(e->in.model, k), width, &r->of_concept[k],
                       most < 0 ? "" : cbm_model_concept_class(e->in.model, k, most));
    }
    if (e->columns.n_concepts) print_measures(e, "all concepts", width, &r->mean, "");
}

/* What the predictions of each label are worth. */
static scbm_status print_classes(const eval_command *e, const int64_t *confusion, int width) {
    double error;
    cbm_class_measures *classes = eval_classes(e, confusion, -1);
    if (!classes) return SCBM_ERROR_MEMORY;
    printf("\n  %*s  %9s  %9s  %9s  %9s\n", width, "", "precision", "recall", "f1", "texts");
    for (int y = 0; y < eval_n_classes(e, -1); y++) {
        printf("  ");
        cli_print_name(eval_class_name(e, -1, y), width);
        printf("  %7.1f %%  %7.1f %%  %7.1f %%  %9lld\n", 100 * classes[y].precision, 100 * classes[y].recall,
               100 * classes[y].f1, (long long)classes[y].support);
    }
    if (eval_absolute_error(e, confusion, -1, &error)) printf("  mean absolute error of the label: %.3f\n", error);
    scbm_release(&e->in.hooks, classes);
    return SCBM_OK;
}

static void print_confusion(const eval_command *e, const int64_t *confusion, int name_width, int width) {
    int n = eval_n_classes(e, -1);
    printf("\nlabel: each row is a true class, each column a predicted one\n  %*s", name_width, "");
    for (int y = 0; y < n; y++) {
        printf("  ");
        cli_print_right(eval_class_name(e, -1, y), width);
    }
    putchar('\n');
    for (int gold = 0; gold < n; gold++) {
        printf("  ");
        cli_print_name(eval_class_name(e, -1, gold), name_width);
        for (int y = 0; y < n; y++)
            printf("  %*lld", width, (long long)confusion[(size_t)gold * (size_t)n + (size_t)y]);
        putchar('\n');
    }
}

static scbm_status print_labels(const eval_command *e, const eval_result *r) {
    int n = eval_n_classes(e, -1), name_width = 4, width = 5;
    if (n > MOST_PRINTED_CLASSES) {
        printf("\nlabel has %d classes; --json gives their confusion matrix\n", n);
        return SCBM_OK;
    }
    int64_t *confusion = eval_confusion(e, r, -1);
    if (!confusion) return SCBM_ERROR_MEMORY;
    for (int y = 0; y < n; y++) {
        name_width = cli_wider(name_width, eval_class_name(e, -1, y));
        width = cli_wider(width, eval_class_name(e, -1, y));
    }
    scbm_status status = print_classes(e, confusion, name_width);
    if (status == SCBM_OK) print_confusion(e, confusion, name_width, width);
    scbm_release(&e->in.hooks, confusion);
    return status;
}

static void explain_columns(const eval_command *e) {
    printf("  %smajority: what always guessing the most frequent class gives\n",
           e->resamples ? "in brackets: 95 % intervals by bootstrap; " : "");
}

scbm_status eval_print(const eval_command *e, const eval_result *r) {
    printf("%zu texts", r->n);
    cli_columns_print_dropped(&e->columns, e->data.n_dropped);
    printf(", %.1f texts/s\n", (double)r->n / r->seconds);
    print_table(e, r);
    explain_columns(e);
    return print_labels(e, r);
}

scbm_status eval_print_interventions(const eval_command *e, const eval_result *before, const eval_result *after) {
    const cbm_oracle *o = e->oracle;
    printf("%zu texts", e->data.n);
    cli_columns_print_dropped(&e->columns, e->data.n_dropped);
    if (o->n < e->data.n) printf(", %zu of them taken evenly", o->n);
    printf("\n\nAs they are\n");
    print_table(e, before);
    printf("\nWith every misread concept set to its true class (%s)\n", e->intervene ? "edit" : "mask");
    print_table(e, after);
    explain_columns(e);
    printf(
        "\n  concepts: %lld of %lld that were wrong were brought to the true class\n  labels: %lld fixed, %lld broken\n",
        (long long)o->concepts_fixed, (long long)o->concepts_wrong, (long long)o->labels_fixed,
        (long long)o->labels_broken);
    if (!e->intervene) printf("  %lld steps, %lld mask bits moved\n", (long long)o->steps, (long long)o->moved_bits);
    printf("  %.1f s, %.1f ms for each wrong concept\n", o->seconds,
           o->concepts_wrong ? 1000 * (o->seconds - o->predict_seconds) / (double)o->concepts_wrong : 0.0);
    return SCBM_OK;
}
