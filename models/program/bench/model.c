/*
 * models/program/bench/model.c - what a file with subnetworks takes
 */
#include "models/program/bench/bench.h"

#include <stdio.h>
#include <string.h>

/* The masks of "blk.0.attn_q.weight" are the tensor "blk.0.attn_q.masks"; NULL where the file has none of them. */
static const scbm_tensor *masks_of(scbm_file *file, const scbm_tensor *weight) {
    static const char of_weight[] = ".weight";
    char name[SCBM_MAX_NAME];
    size_t length = strlen(weight->name), end = sizeof of_weight - 1;
    if (length <= end || strcmp(weight->name + length - end, of_weight) != 0) return NULL;
    snprintf(name, sizeof name, "%.*s.masks", (int)(length - end), weight->name);
    return scbm_file_find_tensor(file, name);
}

static scbm_status run(bench_command *b) {
    const double megabyte = 1048576;
    scbm_file *file = NULL;
    double weights = 0, masks = 0, all = 0;
    scbm_status status = bench_find_model(b);
    if (status == SCBM_OK) status = scbm_file_open(&file, b->in.model_path, &b->in.hooks);
    if (status != SCBM_OK) return status;
    for (int64_t i = 0; i < scbm_file_n_tensors(file); i++) {
        const scbm_tensor *tensor = scbm_file_tensor(file, i), *own_masks = masks_of(file, tensor);
        all += (double)scbm_tensor_bytes(tensor);
        if (!own_masks) continue;
        weights += (double)scbm_tensor_bytes(tensor);
        masks += (double)scbm_tensor_bytes(own_masks);
    }
    scbm_file_close(file);
    if (b->in.json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "tensor_mb", cli_json_double(all / megabyte));
        cJSON_AddItemToObject(object, "masked_weights_mb", cli_json_double(weights / megabyte));
        cJSON_AddItemToObject(object, "masks_mb", cli_json_double(masks / megabyte));
        return bench_print_json(b, "model", object, -1);
    }
    printf("model: tensors of %.1f MiB, among them masks of %.1f MiB over weights of %.1f MiB\n", all / megabyte,
           masks / megabyte, weights / megabyte);
    return SCBM_OK;
}

const bench_kind bench_model = {
    "model", "sizes of the weights and the masks; with -o, keeps the model that --subnetworks makes", run, 0};
