/*
 * tests/fuzz/fuzz-csv.c - any bytes as CSV: an error or a data set, which written again as CSV reads the same
 */
#define _POSIX_C_SOURCE 200809L

#include "tests/fuzz/check-dataset.h"

#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const cbm_concept_column concepts[] = {{"concept", "c"}, {"other", "d"}};
static const char *const dropped[] = {"x"}, *const ignored[] = {""};
static const cbm_dataset_options options = {.text = "t",
                                            .label = "l",
                                            .concepts = concepts,
                                            .n_concepts = 2,
                                            .drop_labels = dropped,
                                            .n_drop_labels = 1,
                                            .ignore_labels = ignored,
                                            .n_ignore_labels = 1};

static void write_field(FILE *stream, const char *text, const char *end) {
    fputc('"', stream);
    for (; *text; text++) {
        if (*text == '"') fputc('"', stream);
        fputc(*text, stream);
    }
    fprintf(stream, "\"%s", end);
}

static void check_round_trip(const cbm_dataset *data) {
    char *bytes = NULL;
    size_t size = 0;
    cbm_dataset again;
    FILE *stream = open_memstream(&bytes, &size);
    require(stream != NULL);
    fputs("d,c,l,t\r\n", stream);
    for (size_t i = 0; i < data->n; i++) {
        for (int k = 1; k >= 0; k--)
            write_field(stream, data->concept_classes[k].name[data->concept_class[2 * i + (size_t)k]], ",");
        write_field(stream, data->label[i] < 0 ? "" : data->label_classes.name[data->label[i]], ",");
        write_field(stream, data->text[i], "\n");
    }
    fclose(stream);
    require(read_checked(&again, &options, "again.csv", bytes, size));
    require(again.n == data->n);
    for (size_t i = 0; i < data->n; i++) require(strcmp(data->text[i], again.text[i]) == 0);
    require(memcmp(again.label, data->label, data->n * sizeof *data->label) == 0);
    require(memcmp(again.concept_class, data->concept_class, 2 * data->n * sizeof *data->concept_class) == 0);
    cbm_dataset_clear(&again);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cbm_dataset_options missing = options;
    cbm_dataset set;
    if (read_checked(&set, &options, "input.csv", data, size)) check_round_trip(&set);
    cbm_dataset_clear(&set);
    missing.unknown_is_missing = 1;
    missing.n_drop_labels = 0;
    read_checked(&set, &missing, "input.csv", data, size);
    cbm_dataset_clear(&set);
    read_checked(&set, &options, "input.tsv", data, size);
    cbm_dataset_clear(&set);
    missing = options;
    missing.keep_going = 1;
    if (read_checked(&set, &missing, "input.csv", data, size)) check_round_trip(&set);
    cbm_dataset_clear(&set);
    const cbm_dataset_options texts = {.text = "t", .id = "t", .keep_going = 1};
    read_checked(&set, &texts, "input.csv", data, size);
    cbm_dataset_clear(&set);
    return 0;
}
