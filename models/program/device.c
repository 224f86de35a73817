/*
 * models/program/device.c - which device a model runs on
 */
#include "models/program/program.h"

#include <stdio.h>

/* Where the backend that is open says something, for as long as it lives. */
static cli_progress says;

int cli_open_device(const cli_command *command, const char *name, scbm_backend **backend) {
    *backend = NULL;
    if (!name) return CLI_GO_ON;
    const scbm_hooks hooks = cli_hooks(&says, command, 0);
    const scbm_backend_options options = {.hooks = &hooks};
    scbm_status status = scbm_backend_open(backend, name, &options);
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

scbm_status cli_print_devices(const cli_command *command, int json) {
    scbm_status status = SCBM_OK;
    const scbm_hooks hooks = cli_hooks(&says, command, 0);
    scbm_backend_find_plugins(&hooks);
    int n = scbm_backend_count();
    for (int i = 0; i < n && status == SCBM_OK; i++) {
        scbm_backend_info info;
        status = scbm_backend_describe(i, &info);
        if (status == SCBM_OK) status = print_device(&info, json);
    }
    return status;
}
