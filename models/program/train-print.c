/*
 * models/program/train-print.c - what `train` prints: the data, and a line an epoch
 */
#include "models/program/train.h"

#include <stdio.h>
#include <stdlib.h>

static void print_json(const train_command *t, const cbm_epoch_report *r) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "epoch", cli_json_int(r->epoch));
    cJSON_AddItemToObject(object, "epochs", cli_json_int(r->epochs));
    cJSON_AddItemToObject(object, "seconds", cli_json_double(r->seconds));
    cJSON_AddItemToObject(object, "train_loss", cli_json_double(r->train_loss));
    cJSON_AddItemToObject(object, "valid_loss", cli_json_double(r->valid_loss));
    cJSON_AddItemToObject(object, "label_accuracy", cli_json_double(r->label_accuracy));
    cJSON_AddItemToObject(object, "label_f1", cli_json_double(r->label_f1));
    cJSON_AddItemToObject(object, "concept_accuracy", cli_json_double(r->concept_accuracy));
    cJSON_AddItemToObject(object, "concept_f1", cli_json_double(r->concept_f1));
    if (t->options.prune.method) {
        cJSON_AddItemToObject(object, "sparsity", cli_json_double(r->sparsity));
        cJSON_AddItemToObject(object, "magnitude_overlap",
                              r->magnitude_overlap < 0 ? cJSON_CreateNull() : cli_json_double(r->magnitude_overlap));
    }
    cJSON_AddItemToObject(object, "score", cli_json_double(r->score));
    cJSON_AddBoolToObject(object, "best", r->is_best != 0);
    cli_json_print(object);
}

static void print_line(const train_command *t, const cbm_epoch_report *r) {
    printf("epoch %2d/%d  %6.1f s  loss %.4f, validation %.4f  label %.1f %% (F1 %.1f)", r->epoch, r->epochs,
           r->seconds, r->train_loss, r->valid_loss, 100 * r->label_accuracy, 100 * r->label_f1);
    if (t->columns.n_concepts) printf("  concepts %.1f %% (F1 %.1f)", 100 * r->concept_accuracy, 100 * r->concept_f1);
    if (r->sparsity > 0) printf("  %.0f %% zeros", 100 * r->sparsity);
    printf("%s\n", r->is_best ? "  best so far" : "");
}

void train_print_epoch(void *user, const cbm_epoch_report *report) {
    train_command *t = user;
    cli_progress_clear(&t->progress);
    t->n_epochs++;
    if (t->json) print_json(t, report);
    else print_line(t, report);
    fflush(stdout);
}

/* How many of the classes there are: "Negative 120, Positive 98". */
static void print_classes(const char *what, const cbm_classes *classes, const int32_t *values, size_t n,
                          size_t stride) {
    size_t *count = calloc(classes->n + 1, sizeof *count);
    if (!count) return;
    for (size_t i = 0; i < n; i++)
        if (values[i * stride] >= 0) count[values[i * stride]]++;
    printf("  %-12s", what);
    for (size_t c = 0; c < classes->n; c++) printf("%s%s %zu", c ? ", " : " ", classes->name[c], count[c]);
    putchar('\n');
    free(count);
}

void train_print_data(const train_command *t, const cbm_dataset *train, const cbm_dataset *validation) {
    printf("training on %zu texts", train->n);
    if (train->n_read > train->n)
        printf(" (%zu more with label \"%s\" are left out)", train->n_read - train->n, t->columns.drop_label);
    printf(", validation on %zu\n", validation->n);
    print_classes("label", &train->label_classes, train->label, train->n, 1);
    for (int k = 0; k < t->columns.n_concepts; k++)
        print_classes(t->columns.concepts[k].name, &train->concept_classes[k], train->concept_class + k, train->n,
                      (size_t)t->columns.n_concepts);
    fflush(stdout);
}
