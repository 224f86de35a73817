/*
 * models/program/print.c - names and texts on a terminal, and a prediction as a person reads it
 */
#include "models/program/program.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Names and texts: data, which may hold anything
 * ---------------------------------------------------------------------------------------- */

void cli_print_text(const char *text, size_t length) {
    enum { PART = 4096 };
    char shown[4 * PART + 1];
    while (length) {
        size_t n = length < PART ? length : PART;
        while (n < length && n > PART - 4 && ((unsigned char)text[n] & 0xC0) == 0x80) n--; /* whole characters */
        fputs(cbm_text_show(shown, sizeof shown, text, n, 0), stdout);
        text += n;
        length -= n;
    }
}

void cli_print_padded(const char *text, size_t length, int width) {
    int used = cbm_text_width(text, length);
    cli_print_text(text, length);
    printf("%*s", used < width ? width - used : 0, "");
}

void cli_print_name(const char *name, int width) {
    cli_print_padded(name, strlen(name), width);
}

void cli_print_right(const char *name, int width) {
    int used = cli_width(name);
    printf("%*s", used < width ? width - used : 0, "");
    cli_print_text(name, strlen(name));
}

int cli_width(const char *name) {
    return cbm_text_width(name, strlen(name));
}

int cli_wider(int width, const char *name) {
    int own = cli_width(name);
    return own > width ? own : width;
}

const char *cli_megabytes(double bytes, char text[32]) {
    if (bytes >= 1048576) snprintf(text, 32, "%.1f MiB", bytes / 1048576);
    else snprintf(text, 32, "%.1f KiB", bytes / 1024);
    return text;
}

/* ------------------------------------------------------------------------------------------
 * Predictions
 * ---------------------------------------------------------------------------------------- */

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
    printf("%s%s%s\n", cli_style_begin(stdout, value < 0 ? CLI_ORANGE : CLI_BLUE), bar,
           cli_style_begin(stdout, CLI_PLAIN));
}

static void print_concept(const cbm_concept_result *c, int width, int class_width, double largest) {
    printf("  ");
    cli_print_name(c->name, width);
    printf("  ");
    cli_print_name(c->class_name, class_width);
    printf("  %3.0f %%  %+8.3f  ", 100 * (double)c->probability, (double)c->contribution);
    cli_print_bar((double)c->contribution, largest);
}

void cli_print_prediction(const char *text, size_t length, const cbm_prediction *p) {
    int width = cli_width("label"), class_width = cli_width(p->label);
    double largest = 0, sum = 0;
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        width = cli_wider(width, c->name);
        class_width = cli_wider(class_width, c->class_name);
        largest = fmax(largest, fabs((double)c->contribution));
        sum += (double)c->contribution;
    }
    cli_print_text(text, length);
    printf("\n  ");
    cli_print_name("label", width);
    printf("  ");
    cli_print_name(p->label, class_width);
    printf("  %3.0f %%%s\n", 100 * (double)p->probability,
           p->truncated ? "  (truncated: the model read only the beginning of this text)" : "");
    for (int k = 0; k < p->n_concepts; k++) print_concept(&p->concepts[k], width, class_width, largest);
    if (!p->n_concepts) return;
    printf("  bias %+.3f, contributions %+.3f: together the logit %.3f of label ", (double)p->bias, sum,
           (double)p->logits[p->label_index]);
    cli_print_name(p->label, 0);
    putchar('\n');
}

/* ------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------- */

#define MEBIBYTE 1048576.0

void cli_print_memory(const cbm_memory_plan *plan) {
    printf("memory: %.1f MiB at most, while %s\n", (double)plan->bytes / MEBIBYTE, plan->when);
    for (int i = 0; i < plan->n_parts; i++)
        printf("  %-26s %10.1f MiB\n", plan->part[i].what, (double)plan->part[i].bytes / MEBIBYTE);
    if (plan->limit != SIZE_MAX) printf("  it may be %.1f MiB\n", (double)plan->limit / MEBIBYTE);
    if (plan->advice[0]) printf("  too much: %s\n", plan->advice);
}

void cli_json_memory(cJSON *object, const cbm_memory_plan *plan) {
    cJSON *memory = cJSON_AddObjectToObject(object, "memory"), *parts;
    cJSON_AddItemToObject(memory, "bytes", cli_json_int((int64_t)plan->bytes));
    cJSON_AddItemToObject(memory, "limit",
                          plan->limit == SIZE_MAX ? cJSON_CreateNull() : cli_json_int((int64_t)plan->limit));
    cJSON_AddStringToObject(memory, "when", plan->when);
    parts = cJSON_AddObjectToObject(memory, "parts");
    for (int i = 0; i < plan->n_parts; i++)
        cJSON_AddItemToObject(parts, plan->part[i].what, cli_json_int((int64_t)plan->part[i].bytes));
    cJSON_AddBoolToObject(memory, "fits", plan->bytes <= plan->limit);
    cJSON_AddStringToObject(memory, "advice", plan->advice);
}
