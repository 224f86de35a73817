/*
 * models/program/device.c - which device a model runs on
 */
#include "models/program/program.h"

#include <stdio.h>

int cli_open_device(const cli_command *command, const char *name, scbm_backend **backend) {
    *backend = NULL;
    if (!name) return CLI_GO_ON;
    scbm_status status = scbm_backend_open(backend, name, NULL);
    if (status == SCBM_OK) return CLI_GO_ON;
    return cli_fail(command, "--device %s: %s", name, scbm_last_error());
}

static scbm_status print_device(const scbm_backend_info *info, int json) {
    if (!json) {
        cli_print_name(info->name, 8);
        putchar(' ');
        cli_print_name(info->description, 0);
        putchar('\n');
        return SCBM_OK;
    }
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "device", info->name);
    cJSON_AddStringToObject(object, "description", info->description);
    return cli_json_print(object);
}

scbm_status cli_print_devices(int json) {
    scbm_status status = SCBM_OK;
    for (int i = 0; i < scbm_backend_count() && status == SCBM_OK; i++) {
        scbm_backend_info info;
        status = scbm_backend_describe(i, &info);
        if (status == SCBM_OK) status = print_device(&info, json);
    }
    return status;
}
