/*
 * models/program/intervention.c - the options that say how to intervene
 */
#include "models/program/program.h"

#include <string.h>

int cli_intervention_options(const cli_command *command, const cli_intervention *given, int method,
                             cbm_intervene_options *options) {
    int edits = method == 1;
    if (edits && (given->select >= 0 || given->portion >= 0 || given->steps >= 0 || given->whole_steps))
        return cli_misuse(command,
                          "--select, --portion, --steps and --whole-steps are about masks, and the method is edit");
    if (!edits && given->edit >= 0) return cli_misuse(command, "--edit is about edited values, and the method is mask");
    if (given->whole_steps && given->select == 1)
        return cli_misuse(command,
                          "--whole-steps has no effect beside --select abs, whose steps are whole ones always");
    if (given->portion == 0) return cli_misuse(command, "--portion wants a number above 0 and up to 1, got 0");
    memset(options, 0, sizeof *options); /* 0 is the library's default */
    options->method = edits ? CBM_INTERVENE_EDIT : CBM_INTERVENE_MASK;
    options->rule = given->select == 1 ? CBM_SELECT_ABS : CBM_SELECT_SIGNED;
    options->portion = given->portion > 0 ? given->portion : 0;
    options->steps = given->steps > 0 ? (int)given->steps : 0;
    options->whole_steps = given->whole_steps;
    options->edit = given->edit == 1 ? CBM_EDIT_ONE_HOT : CBM_EDIT_GOLD_MEAN;
    return CLI_GO_ON;
}

int cli_intervention_check(const cli_command *command, const cbm_model *model, const char *path,
                           const cbm_intervene_options *options, const char *edit) {
    if (options->method == CBM_INTERVENE_MASK && !cbm_model_is_sparse(model))
        return cli_fail(command, "%.300s is a dense model, without subnetworks whose masks could change: use %s", path,
                        edit);
    scbm_status status = cbm_intervene_check(model, options);
    return status == SCBM_OK ? CLI_GO_ON : cli_fail_status(command, status);
}
