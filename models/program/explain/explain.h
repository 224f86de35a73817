/*
 * models/program/explain/explain.h - what the files of `explain` share
 */
#ifndef CLI_EXPLAIN_H
#define CLI_EXPLAIN_H

#include "models/cbm-train.h"
#include "models/program/program.h"

typedef struct explain_command {
    cli_session in;
    int64_t steps, max_steps, n_neurons, n_words, sample, seed;
    int global, faithfulness, labels, has_many; /* has_many: more than one text has come */
    const char *html_path, *png_path, *pages_path;
    cbm_report_entry *page; /* of --pages, [n_printed] */
    size_t page_capacity;
    cbm_explain_options options;
    cbm_dataset texts; /* of --global: texts alone */
} explain_command;

/* A text's page in the folder of --pages, its index, and what both need (pages.c). */
scbm_status explain_write_page(explain_command *command, const char *title, const char *text, size_t length,
                               const cbm_explanation *explanation);
scbm_status explain_write_index(explain_command *command, const char *title);
void explain_clear_pages(explain_command *command);

/* One text: what each concept saw in it, and with --labels what the label is made of (text.c, json.c). */
scbm_status explain_print(const explain_command *command, const char *text, size_t length,
                          const cbm_explanation *explanation);
scbm_status explain_print_json(const explain_command *command, const char *text, const cbm_explanation *explanation);
void explain_print_subnetworks(const cbm_model *model, const cbm_subnetworks *subnetworks);
/* The overlap of each pair of concepts, as a member of `object`. */
void explain_add_overlaps(cJSON *object, const cbm_model *model, const cbm_subnetworks *subnetworks);

/* Many texts together (global.c, json.c). */
scbm_status explain_print_global(const explain_command *command, const cbm_global_report *report);
scbm_status explain_print_global_json(const explain_command *command, const cbm_global_report *report);

#endif
