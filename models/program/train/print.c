/*
 * models/program/train/print.c - what `train` prints: the data, and a line an epoch
 */
#include "models/program/train/train.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_json(const train_command *t, const cbm_epoch_report *r) {
    cJSON *object = cJSON_CreateObject();
    if (t->seeds) cJSON_AddItemToObject(object, "seed", cli_json_int(t->current->seed));
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

/* ------------------------------------------------------------------------------------------
 * The data, before the first epoch
 * ---------------------------------------------------------------------------------------- */

enum { FEW_TEXTS = 5, NAME_SIZE = 200 };

static const char *shown(const char *name, char text[NAME_SIZE]) {
    return cbm_text_show(text, NAME_SIZE, name, strlen(name), 40);
}

/* "Negative 120, Positive 98" */
static void print_classes(const char *what, const cbm_classes *classes, const size_t *count) {
    char name[NAME_SIZE];
    int width = cbm_text_width(what, strlen(what));
    printf("  %s%*s", what, width < 12 ? 12 - width : 0, "");
    for (size_t c = 0; c < classes->n; c++) printf("%s%s %zu", c ? ", " : " ", shown(classes->name[c], name), count[c]);
    putchar('\n');
}

/* Of a class with few texts little can be learned; the library warns of a column with one class. */
static void warn_of_classes(const train_command *t, const char *what, const cbm_classes *classes, const size_t *count) {
    char name[NAME_SIZE], few[400] = "";
    size_t n_classes = 0, used = 0;
    for (size_t c = 0; c < classes->n; c++) {
        n_classes += count[c] > 0;
        if (count[c] && count[c] < FEW_TEXTS && used < sizeof few)
            used += (size_t)snprintf(few + used, sizeof few - used, "%s'%s' (%zu)", used ? ", " : "",
                                     shown(classes->name[c], name), count[c]);
    }
    if (few[0] && n_classes > 1)
        scbm_log(&t->hooks, SCBM_LOG_WARNING, "%s: there are only a few texts of %s", what, few);
}

static void describe_classes(const train_command *t, const char *what, const cbm_classes *classes,
                             const int32_t *values, size_t n, size_t stride) {
    size_t *count = calloc(classes->n + 1, sizeof *count);
    if (!count) return;
    for (size_t i = 0; i < n; i++)
        if (values[i * stride] >= 0) count[values[i * stride]]++;
    if (!t->json) print_classes(what, classes, count);
    fflush(stdout);
    warn_of_classes(t, what, classes, count);
    free(count);
}

void train_print_data(void *user, const cbm_dataset *train, const cbm_dataset *validation) {
    train_command *t = user;
    size_t n_concepts = (size_t)t->columns.n_concepts;
    if (t->current != t->run && t->validation.n) return; /* the same for every seed */
    cli_progress_clear(&t->progress);
    if (!t->json) {
        printf("training on %zu texts", train->n);
        if (!t->limit) cli_columns_print_dropped(&t->columns, t->n_left_out);
        printf(", validation on %zu\n", validation->n);
    }
    describe_classes(t, "label", &train->label_classes, train->label, train->n, 1);
    for (size_t k = 0; k < n_concepts; k++) {
        char name[NAME_SIZE];
        describe_classes(t, shown(t->columns.concepts[k].name, name), &train->concept_classes[k],
                         train->concept_class + k, train->n, n_concepts);
    }
}

void train_print_memory(void *user, const cbm_memory_plan *plan) {
    train_command *t = user;
    cli_progress_clear(&t->progress);
    if (!t->json && t->current == t->run)
        printf("memory: %.1f MiB at most, while %s\n", (double)plan->bytes / 1048576, plan->when);
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------------
 * Several seeds
 * ---------------------------------------------------------------------------------------- */

static const struct {
    const char *key, *title;
    size_t offset;
    int of_concepts;
} seed_measures[] = {
    {"label_accuracy", "label", offsetof(cbm_epoch_report, label_accuracy), 0},
    {"label_f1", "label F1", offsetof(cbm_epoch_report, label_f1), 0},
    {"concept_accuracy", "concepts", offsetof(cbm_epoch_report, concept_accuracy), 1},
    {"concept_f1", "concepts F1", offsetof(cbm_epoch_report, concept_f1), 1},
    {"score", "score", offsetof(cbm_epoch_report, score), 0},
};
enum { N_SEED_MEASURES = sizeof seed_measures / sizeof seed_measures[0] };

/* Over the runs that have a best epoch; the deviation is that of a sample. Returns how many there are. */
static int find_deviation(const train_command *t, size_t offset, double *mean, double *deviation) {
    double sum = 0.0, squares = 0.0;
    int n = 0;
    for (int i = 0; i < t->n_runs; i++) {
        if (!t->run[i].best.epoch) continue;
        sum += *(const double *)((const char *)&t->run[i].best + offset);
        n++;
    }
    *mean = n ? sum / n : 0.0;
    for (int i = 0; i < t->n_runs; i++) {
        double away = *(const double *)((const char *)&t->run[i].best + offset) - *mean;
        if (t->run[i].best.epoch) squares += away * away;
    }
    *deviation = n > 1 ? sqrt(squares / (n - 1)) : 0.0;
    return n;
}

static void print_seeds_json(const train_command *t) {
    cJSON *object = cJSON_CreateObject(), *seeds = cJSON_AddArrayToObject(object, "seeds");
    for (int i = 0; i < t->n_runs; i++) cJSON_AddItemToArray(seeds, cli_json_int(t->run[i].seed));
    for (int m = 0; m < N_SEED_MEASURES; m++) {
        double mean, deviation;
        if ((seed_measures[m].of_concepts && !t->columns.n_concepts) ||
            !find_deviation(t, seed_measures[m].offset, &mean, &deviation))
            continue;
        cJSON *measure = cJSON_AddObjectToObject(object, seed_measures[m].key);
        cJSON_AddItemToObject(measure, "mean", cli_json_double(mean));
        cJSON_AddItemToObject(measure, "deviation", cli_json_double(deviation));
    }
    cli_json_print(object);
}

void train_print_seeds(const train_command *t) {
    double mean, deviation;
    if (t->json) {
        print_seeds_json(t);
        return;
    }
    int n = find_deviation(t, seed_measures[0].offset, &mean, &deviation);
    if (!n) return;
    printf("\n%d seeds, best epoch of each on the validation data, mean ± deviation:", n);
    for (int m = 0; m < N_SEED_MEASURES; m++) {
        if (seed_measures[m].of_concepts && !t->columns.n_concepts) continue;
        find_deviation(t, seed_measures[m].offset, &mean, &deviation);
        printf("%s %s %.1f ± %.1f %%", m ? "," : "", seed_measures[m].title, 100 * mean, 100 * deviation);
    }
    putchar('\n');
}
