/*
 * models/program/prediction.c - a prediction as a person reads it
 */
#include "models/program/program.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* "-----|     " or "     |+++  ": a contribution beside the largest one. */
void cli_print_bar(double value, double largest) {
    enum { HALF = 16 };
    char bar[2 * HALF + 2];
    int length = largest > 0 ? (int)(fabs(value) / largest * HALF + 0.5) : 0;
    memset(bar, ' ', sizeof bar - 1);
    bar[HALF] = '|';
    bar[sizeof bar - 1] = 0;
    if (value < 0) memset(bar + HALF - length, '-', (size_t)length);
    else memset(bar + HALF + 1, '+', (size_t)length);
    for (int end = 2 * HALF; end > HALF && bar[end] == ' '; end--) bar[end] = 0;
    printf("%s\n", bar);
}

void cli_print_prediction(const char *text, size_t length, const cbm_prediction *p) {
    int width = 5, class_width = (int)strlen(p->label);
    double largest = 0, sum = 0;
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        if ((int)strlen(c->name) > width) width = (int)strlen(c->name);
        if ((int)strlen(c->class_name) > class_width) class_width = (int)strlen(c->class_name);
        if (fabs((double)c->contribution) > largest) largest = fabs((double)c->contribution);
        sum += (double)c->contribution;
    }
    printf("%.*s\n", (int)(length > 100000 ? 100000 : length), text);
    printf("  %-*s  %-*s  %3.0f %%%s\n", width, "label", class_width, p->label, 100 * (double)p->probability,
           p->truncated ? "  (truncated: the model read only the beginning of this text)" : "");
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        printf("  %-*s  %-*s  %3.0f %%  %+8.3f  ", width, c->name, class_width, c->class_name,
               100 * (double)c->probability, (double)c->contribution);
        cli_print_bar((double)c->contribution, largest);
    }
    if (p->n_concepts)
        printf("  bias %+.3f, contributions %+.3f: together the logit %.3f of label %s\n", (double)p->bias, sum,
               (double)p->logits[p->label_index], p->label);
}
