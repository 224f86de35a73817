/*
 * models/report/training.h - the parts of the page on a training run
 */
#ifndef CBM_REPORT_TRAINING_H
#define CBM_REPORT_TRAINING_H

#include "models/report/parts.h"

/* measures.c. An error names what is missing, or does not fit the model. */
scbm_status cbm_check_training_report(const char *path, const cbm_model *model, const cbm_training_report *report);
/* The section on what each class's predictions are worth, with the confusion of label and concepts. */
scbm_status cbm_page_measures(cbm_page *page, const cbm_dataset *data, const cbm_evaluation *evaluation);

#endif
