/*
 * models/program/cmd-predict.c - predict: texts to labels, with what each concept contributed
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

static scbm_status predict_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    cli_session *s = user;
    const cbm_prediction *const *predictions;
    scbm_status status = cbm_predict_batch(s->context, texts, lengths, n, &predictions);
    cli_progress_clear(&s->progress);
    for (size_t i = 0; status == SCBM_OK && i < n; i++) {
        if (s->json) {
            status = cli_json_print(cli_json_prediction(predictions[i]));
        } else {
            if (s->n_printed) putchar('\n');
            cli_print_prediction(texts[i], lengths[i], predictions[i]);
        }
        s->n_printed++;
        ++*done;
        s->n_truncated += predictions[i]->truncated != 0;
    }
    return status == SCBM_OK ? cli_flush() : status;
}

static int run_predict(const cli_command *command, int argc, char **argv) {
    cli_session s;
    memset(&s, 0, sizeof s);
    const cli_option options[] = {
        CLI_MODEL_OPTION(s),
        CLI_TEXTS_OPTIONS(s.texts),
        CLI_RUN_OPTIONS(s),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s, command, options, argc, argv);
    if (status == CLI_GO_ON) status = cli_session_answer(&s, predict_texts, &s, 1);
    return cli_session_finish(&s, status);
}

static const char *const predict_examples[] = {
    "predict --model demo/reviews.gguf \"The soup was cold, but the waiter was lovely.\"", NULL};
const cli_command cmd_predict = {
    "predict",
    "predict a label and say what each concept contributed",
    "--model FILE [TEXT ...] [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data.\n"
    "Each concept is shown with its class, that class's probability, and its exact contribution to the predicted\n"
    "label's logit: the bias and the contributions add up to it. With --json: {label, probability, logits, bias,\n"
    "truncated, concepts: [{name, class, probability, logits, contribution}]}.",
    predict_examples,
    run_predict};
