/*
 * models/program/train/page.c - the page that `train --html` writes when a run is over
 */
#include "models/program/train/train.h"

#include <string.h>

scbm_status train_write_page(train_command *t, const cbm_train_history *history) {
    const train_run *run = t->current;
    const cbm_load_options load = {.hooks = &t->hooks};
    const cbm_context_options options = {.backend = t->backend, .hooks = &t->hooks};
    const char *slash = strrchr(run->output, '/');
    cbm_model *model = NULL;
    cbm_context *context = NULL;
    cbm_training_report report = {.history = history, .validation = t->validated};
    scbm_status status = cbm_model_load(&model, run->output, &load);
    if (!status) status = cbm_context_create(&context, model, &options);
    if (!status) status = cbm_evaluate(context, t->validated, &report.evaluation);
    if (!status)
        status = cbm_report_training_html(run->page, slash ? slash + 1 : run->output, model, &report, &t->hooks);
    cbm_context_free(context);
    cbm_model_free(model);
    return status;
}
