/*
 * tests/fuzz/fuzz-jsonl.c - any bytes as JSON Lines: an error or a data set, which written again reads the same
 */
#include "tests/fuzz/check-dataset.h"

#include <cjson/cJSON.h>
#include <stdint.h>

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

/* One row as a line of JSON; the classes are strings now, whatever they were. */
static void check_row(const cbm_dataset *data, size_t i) {
    cbm_dataset again;
    cJSON *object = cJSON_CreateObject();
    const char *label = data->label[i] < 0 ? "" : data->label_classes.name[data->label[i]];
    cJSON_AddStringToObject(object, "t", data->text[i]);
    cJSON_AddStringToObject(object, "l", label);
    for (size_t k = 0; k < 2; k++)
        cJSON_AddStringToObject(object, concepts[k].column,
                                data->concept_classes[k].name[data->concept_class[2 * i + k]]);
    char *line = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    require(line != NULL);
    require(read_checked(&again, &options, "again.jsonl", line, strlen(line)));
    require(again.n == 1 && strcmp(again.text[0], data->text[i]) == 0);
    require(strcmp(again.label[0] < 0 ? "" : again.label_classes.name[0], label) == 0);
    for (size_t k = 0; k < 2; k++)
        require(strcmp(again.concept_classes[k].name[0],
                       data->concept_classes[k].name[data->concept_class[2 * i + k]]) == 0);
    cbm_dataset_clear(&again);
    cJSON_free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cbm_dataset set;
    if (read_checked(&set, &options, "input.jsonl", data, size)) {
        for (size_t i = 0; i < set.n && i < 20; i++) check_row(&set, i);
    }
    cbm_dataset_clear(&set);
    cbm_dataset_options lenient = options;
    lenient.keep_going = 1;
    lenient.limit = 3;
    for (int array = 0; array < 2; array++) {
        const char *name = array ? "input.json" : "input.jsonl";
        if (read_checked(&set, array ? &options : &lenient, name, data, size)) check_row(&set, 0);
        cbm_dataset_clear(&set);
    }
    return 0;
}
