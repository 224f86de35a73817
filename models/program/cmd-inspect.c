/*
 * models/program/cmd-inspect.c - inspect: what is in a model file
 */
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const value_names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                          "bool", "string", "array", "u64", "i64", "f64"};

/* The value of a key, or element i of an array, as JSON. */
static cJSON *element_json(const scbm_file *file, int64_t key, int64_t i) {
    int64_t integer;
    double real;
    const char *text;
    switch (scbm_file_array_type(file, key)) {
    case SCBM_VALUE_STRING:
        return scbm_file_string_at(file, key, i, &text) == SCBM_OK ? cJSON_CreateString(text) : cJSON_CreateNull();
    case SCBM_VALUE_F32:
        return scbm_file_float_at(file, key, i, &real) == SCBM_OK ? cli_json_float((float)real) : cJSON_CreateNull();
    case SCBM_VALUE_F64:
        return scbm_file_float_at(file, key, i, &real) == SCBM_OK ? cli_json_double(real) : cJSON_CreateNull();
    case SCBM_VALUE_BOOL:
        return scbm_file_int_at(file, key, i, &integer) == SCBM_OK ? cJSON_CreateBool(integer != 0)
                                                                   : cJSON_CreateNull();
    default:
        if (scbm_file_int_at(file, key, i, &integer) == SCBM_OK) return cli_json_int(integer);
        return cJSON_CreateString("?"); /* beyond 63 bits */
    }
}

/* A key's value; of an array at most `limit` elements (0: all). */
static cJSON *key_json(const scbm_file *file, int64_t key, int64_t limit) {
    if (scbm_file_key_type(file, key) != SCBM_VALUE_ARRAY) return element_json(file, key, 0);
    cJSON *array = cJSON_CreateArray();
    int64_t n = scbm_file_array_length(file, key);
    if (limit && n > limit) n = limit;
    for (int64_t i = 0; i < n; i++) cJSON_AddItemToArray(array, element_json(file, key, i));
    return array;
}

static void print_key(const scbm_file *file, int64_t key) {
    enum { SHOWN = 8, LONGEST = 160 };
    scbm_value_type type = scbm_file_key_type(file, key);
    int64_t n = scbm_file_array_length(file, key);
    cJSON *value = key_json(file, key, SHOWN);
    char *text = cJSON_PrintUnformatted(value);
    printf("  ");
    cli_print_name(scbm_file_key(file, key), 40);
    putchar(' ');
    if (!text) printf("?");
    else cli_print_text(text, strlen(text) < LONGEST ? strlen(text) : LONGEST);
    if (text && strlen(text) > LONGEST) printf("...");
    if (type == SCBM_VALUE_ARRAY)
        printf("%s  (%lld x %s)", n > SHOWN ? " ..." : "", (long long)n, value_names[scbm_file_array_type(file, key)]);
    putchar('\n');
    cJSON_free(text);
    cJSON_Delete(value);
}

static int starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* Name i of a list. */
static void print_listed(const char *name, int i) {
    if (i) printf(", ");
    cli_print_name(name, 0);
}

/* What a reader wants to know first, before all the keys. */
static void print_overview(const char *path, const cbm_model *model, const scbm_file *file, double elements,
                           double bytes) {
    char size[32], weights[32];
    cli_print_name(path, 0);
    printf(": %s, %s on a ", cli_megabytes((double)scbm_file_size(file), size),
           cbm_model_mode(model) == CBM_ENCODER ? "no labels" : cbm_mode_name(cbm_model_mode(model)));
    cli_print_name(scbm_file_string_or(file, "general.architecture", "?"), 0);
    printf(" encoder\n");
    printf("  %lld tensors, %.0f weights, %s; hidden size %d, texts of up to %d tokens\n",
           (long long)scbm_file_n_tensors(file), elements, cli_megabytes(bytes, weights), cbm_model_hidden_size(model),
           cbm_model_max_tokens(model));
    if (cbm_model_n_labels(model)) {
        printf("  label: ");
        for (int y = 0; y < cbm_model_n_labels(model); y++) print_listed(cbm_model_label(model, y), y);
        putchar('\n');
    }
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        printf("  concept ");
        cli_print_name(cbm_model_concept(model, k), 0);
        printf(": ");
        for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++)
            print_listed(cbm_model_concept_class(model, k, c), c);
        putchar('\n');
    }
}

static int name_width(const cbm_model *model) {
    int width = 6;
    for (int k = 0; k < cbm_model_n_concepts(model); k++) width = cli_wider(width, cbm_model_concept(model, k));
    return width;
}

static void print_names(const cbm_model *model, const char *corner, int width) {
    printf("  %-*s", width, corner);
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        printf("  ");
        cli_print_right(cbm_model_concept(model, k), width);
    }
    putchar('\n');
}

/* What each concept keeps, block by block, and how far two concepts keep the same. */
static void print_subnetworks(const cbm_model *model) {
    int n = cbm_model_n_concepts(model), n_blocks = cbm_model_n_blocks(model), width = name_width(model);
    printf("\nSubnetworks: how many of the prunable weights each concept keeps, in percent\n");
    print_names(model, "block", width);
    for (int block = 0; block <= n_blocks; block++) {
        int is_last = block == n_blocks;
        if (is_last) printf("  %-*s", width, "all");
        else printf("  %-*d", width, block);
        for (int k = 0; k < n; k++) printf("  %*.1f", width, 100 * cbm_model_density(model, k, is_last ? -1 : block));
        putchar('\n');
    }
    printf("\nOverlaps of the subnetworks: kept by both, of those kept by one or the other, in percent\n");
    print_names(model, "", width);
    for (int a = 0; a < n; a++) {
        printf("  ");
        cli_print_name(cbm_model_concept(model, a), width);
        for (int b = 0; b < n; b++) printf("  %*.1f", width, 100 * cbm_model_overlap(model, a, b, -1));
        putchar('\n');
    }
}

static cJSON *densities_json(const cbm_model *model, int block) {
    cJSON *object = cJSON_CreateObject();
    for (int k = 0; k < cbm_model_n_concepts(model); k++)
        cJSON_AddItemToObject(object, cbm_model_concept(model, k), cli_json_double(cbm_model_density(model, k, block)));
    return object;
}

static cJSON *subnetworks_json(const cbm_model *model) {
    cJSON *object = cJSON_CreateObject(), *blocks = cJSON_CreateArray(), *overlaps = cJSON_CreateArray();
    int n = cbm_model_n_concepts(model), n_blocks = cbm_model_n_blocks(model);
    for (int block = 0; block < n_blocks; block++) cJSON_AddItemToArray(blocks, densities_json(model, block));
    for (int a = 0; a < n; a++) {
        for (int b = a + 1; b < n; b++) {
            cJSON *pair = cJSON_CreateObject(), *ious = cJSON_CreateArray();
            for (int block = 0; block < n_blocks; block++)
                cJSON_AddItemToArray(ious, cli_json_double(cbm_model_overlap(model, a, b, block)));
            cJSON_AddStringToObject(pair, "a", cbm_model_concept(model, a));
            cJSON_AddStringToObject(pair, "b", cbm_model_concept(model, b));
            cJSON_AddItemToObject(pair, "iou", cli_json_double(cbm_model_overlap(model, a, b, -1)));
            cJSON_AddItemToObject(pair, "blocks", ious);
            cJSON_AddItemToArray(overlaps, pair);
        }
    }
    cJSON_AddItemToObject(object, "density", densities_json(model, -1));
    cJSON_AddItemToObject(object, "blocks", blocks);
    cJSON_AddItemToObject(object, "overlaps", overlaps);
    return object;
}

static void print_file(const char *path, const cbm_model *model, scbm_file *file, double elements, double bytes) {
    print_overview(path, model, file, elements, bytes);
    if (cbm_model_is_sparse(model)) print_subnetworks(model);
    for (int part = 0; part < 2; part++) {
        int titled = 0;
        for (int64_t i = 0; i < scbm_file_n_keys(file); i++) {
            if (starts_with(scbm_file_key(file, i), "sparsecbm.train.") != part) continue;
            if (!titled++) printf(part ? "\nTraining\n" : "\nKeys\n");
            print_key(file, i);
        }
    }
    printf("\nTensors\n");
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        char shape[96];
        printf("  %-36s %-5s %-16s %12zu bytes\n", tensor->name, scbm_type_of(tensor->type)->name,
               scbm_shape_text(tensor, shape, sizeof shape), scbm_tensor_bytes(tensor));
    }
}

static scbm_status print_file_json(const char *path, const cbm_model *model, scbm_file *file, double elements,
                                   double bytes) {
    cJSON *object = cJSON_CreateObject(), *keys = cJSON_CreateObject(), *tensors = cJSON_CreateArray();
    cJSON *labels = cJSON_CreateArray(), *concepts = cJSON_CreateArray();
    for (int y = 0; y < cbm_model_n_labels(model); y++)
        cJSON_AddItemToArray(labels, cJSON_CreateString(cbm_model_label(model, y)));
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        cJSON *concept = cJSON_CreateObject(), *classes = cJSON_CreateArray();
        for (int c = 0; c < cbm_model_n_concept_classes(model, k); c++)
            cJSON_AddItemToArray(classes, cJSON_CreateString(cbm_model_concept_class(model, k, c)));
        cJSON_AddStringToObject(concept, "name", cbm_model_concept(model, k));
        cJSON_AddItemToObject(concept, "classes", classes);
        cJSON_AddItemToArray(concepts, concept);
    }
    for (int64_t i = 0; i < scbm_file_n_keys(file); i++)
        cJSON_AddItemToObject(keys, scbm_file_key(file, i), key_json(file, i, 64));
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        cJSON *row = cJSON_CreateObject(), *shape = cJSON_CreateArray();
        for (int d = 0; d < tensor->n_dims; d++) cJSON_AddItemToArray(shape, cli_json_int(tensor->shape[d]));
        cJSON_AddStringToObject(row, "name", tensor->name);
        cJSON_AddStringToObject(row, "type", scbm_type_of(tensor->type)->name);
        cJSON_AddItemToObject(row, "shape", shape);
        cJSON_AddItemToObject(row, "bytes", cli_json_int((int64_t)scbm_tensor_bytes(tensor)));
        cJSON_AddItemToArray(tensors, row);
    }
    cJSON_AddStringToObject(object, "file", path);
    cJSON_AddStringToObject(object, "architecture", scbm_file_string_or(file, "general.architecture", ""));
    cJSON_AddStringToObject(object, "mode", cbm_mode_name(cbm_model_mode(model)));
    cJSON_AddItemToObject(object, "file_bytes", cli_json_int((int64_t)scbm_file_size(file)));
    cJSON_AddItemToObject(object, "tensor_bytes", cli_json_double(bytes));
    cJSON_AddItemToObject(object, "weights", cli_json_double(elements));
    cJSON_AddItemToObject(object, "hidden_size", cli_json_int(cbm_model_hidden_size(model)));
    cJSON_AddItemToObject(object, "max_tokens", cli_json_int(cbm_model_max_tokens(model)));
    cJSON_AddItemToObject(object, "labels", labels);
    cJSON_AddItemToObject(object, "concepts", concepts);
    if (cbm_model_is_sparse(model)) cJSON_AddItemToObject(object, "subnetworks", subnetworks_json(model));
    cJSON_AddItemToObject(object, "keys", keys);
    cJSON_AddItemToObject(object, "tensors", tensors);
    return cli_json_print(object);
}

/* Weights and bytes of all tensors; masks are no weights. */
static void count(scbm_file *file, double *weights, double *bytes) {
    *weights = *bytes = 0;
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i);
        if (scbm_type_of(tensor->type)->is_float) *weights += (double)scbm_tensor_elements(tensor);
        *bytes += (double)scbm_tensor_bytes(tensor);
    }
}

static scbm_status inspect(const char *path, int json) {
    scbm_file *file = NULL;
    cbm_model *model = NULL;
    double weights, bytes;
    scbm_status status = scbm_file_open(&file, path, NULL);
    if (status == SCBM_OK) status = cbm_model_load(&model, path, NULL);
    if (status == SCBM_OK) {
        count(file, &weights, &bytes);
        if (json) status = print_file_json(path, model, file, weights, bytes);
        else print_file(path, model, file, weights, bytes);
    }
    cbm_model_free(model);
    scbm_file_close(file);
    return status;
}

static int run_inspect(const cli_command *command, int argc, char **argv) {
    int json = 0, devices = 0;
    cli_list rest = {NULL, 0};
    const cli_option options[] = {
        CLI_GROUP_OF("Output"),
        CLI_FLAG_OPTION("json", &json,
                        "print one JSON object (arrays of more than 64 values are cut), or one a device"),
        CLI_FLAG_OPTION("devices", &devices, "list the devices that --device may name, in place of a file"),
        CLI_END_OPTIONS,
    };
    int result = cli_parse(command, options, argc, argv, &rest);
    const char *path = rest.n ? rest.item[0] : NULL;
    int n = rest.n;
    free((void *)rest.item);
    if (result != CLI_GO_ON) return result;
    if (devices && n) return cli_misuse(command, "--devices lists devices: leave FILE out");
    if (!devices && n != 1)
        return cli_misuse(command, "one model file is expected, got %d; see %s inspect --help", n, cli_program);
    scbm_status status = devices ? cli_print_devices(command, json) : inspect(path, json);
    return status == SCBM_OK ? cli_finish(command) : cli_fail_status(command, status);
}

static const char *const inspect_examples[] = {"inspect demo/encoder.gguf", "inspect --devices", NULL};
const cli_command cmd_inspect = {
    "inspect",
    "show what is in a model file: keys, tensors, classes, subnetworks, training facts",
    "FILE [--json]",
    "Rows that quantization could not cut into blocks of 32 show as f16 among quantized tensors. Of a sparse model it shows\n"
    "what each concept's subnetwork keeps of each block, and how far two subnetworks overlap; with --json, under\n"
    "subnetworks: {density: {CONCEPT: share}, blocks: [as density], overlaps: [{a, b, iou, blocks: [iou]}]}.\n"
    "With --devices --json, a device is {device, description}.",
    inspect_examples,
    run_inspect};
