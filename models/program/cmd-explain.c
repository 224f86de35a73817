/*
 * models/program/cmd-explain.c - explain: why a text, or a whole data set, gets its labels
 */
#include "models/program/explain/explain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char one_text[] =
    "--html holds one text; --pages makes a page of each, --global explains a whole data set";

/* The model's file name, which stands at the top of reports. */
static const char *title(const explain_command *x) {
    const char *slash = strrchr(x->in.model_path, '/');
    return slash ? slash + 1 : x->in.model_path;
}

/* ------------------------------------------------------------------------------------------
 * Texts
 * ---------------------------------------------------------------------------------------- */

/* The texts of a call, and how many are done. */
typedef struct text_batch {
    explain_command *command;
    const char *const *text;
    const size_t *length;
    size_t *done;
} text_batch;

static scbm_status show_text(void *user, size_t i, const cbm_explanation *e) {
    const text_batch *b = user;
    explain_command *x = b->command;
    scbm_status status = SCBM_OK;
    cli_progress_clear(&x->in.progress);
    if (x->html_path)
        status = cbm_report_html(x->html_path, title(x), x->in.model, b->text[i], b->length[i], e, &x->in.hooks);
    if (!status && x->pages_path) status = explain_write_page(x, title(x), b->text[i], b->length[i], e);
    if (!status)
        status = x->in.json ? explain_print_json(x, b->text[i], e) : explain_print(x, b->text[i], b->length[i], e);
    if (status) return status;
    x->in.n_printed++;
    x->in.n_truncated += e->prediction->truncated != 0;
    ++*b->done;
    return SCBM_OK;
}

static scbm_status explain_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    explain_command *x = user;
    text_batch batch = {x, texts, lengths, done};
    if (n > 1 || x->in.n_printed) x->has_many = 1;
    if (x->html_path && x->has_many) return scbm_fail(SCBM_ERROR_ARGUMENT, "%s", one_text);
    scbm_status status = cbm_explain_batch(x->in.context, texts, lengths, n, &x->options, show_text, &batch);
    return status ? status : cli_flush();
}

/* Of a whole data set a bad text is left out. */
static scbm_status answer_bad(void *user, const char *reason) {
    explain_command *x = user;
    if (!x->global) return cli_session_print_bad(&x->in, reason);
    cli_warn(x->in.command, "left out: %s", reason);
    return SCBM_OK;
}

/* What is said of the model itself, once. */
static scbm_status finish_texts(explain_command *x) {
    const cbm_subnetworks *subnetworks;
    if (!cbm_model_n_concepts(x->in.model)) return SCBM_OK;
    scbm_status status = cbm_describe_subnetworks(x->in.context, &subnetworks);
    if (!status && x->png_path) status = cbm_report_png(x->png_path, title(x), x->in.model, subnetworks, &x->in.hooks);
    if (status || x->in.json) return status;
    putchar('\n');
    explain_print_subnetworks(x->in.model, subnetworks);
    return SCBM_OK;
}

/* ------------------------------------------------------------------------------------------
 * A data set
 * ---------------------------------------------------------------------------------------- */

static scbm_status keep_texts(void *user, const char *const *texts, const size_t *lengths, size_t n, size_t *done) {
    explain_command *x = user;
    scbm_status status = x->texts.store ? SCBM_OK : cbm_dataset_begin(&x->texts, NULL, &x->in.hooks);
    for (size_t i = 0; i < n && !status; i++) {
        status = cbm_dataset_add(&x->texts, texts[i], lengths[i], NULL, NULL);
        *done += !status;
    }
    return status;
}

static scbm_status write_global(explain_command *x, const cbm_global_report *r) {
    const cbm_model *model = x->in.model;
    scbm_status status = SCBM_OK;
    if (x->html_path) status = cbm_report_global_html(x->html_path, title(x), model, r, &x->in.hooks);
    if (!status && x->png_path) status = cbm_report_png(x->png_path, title(x), model, r->subnetworks, &x->in.hooks);
    if (!status) status = x->in.json ? explain_print_global_json(x, r) : explain_print_global(x, r);
    x->in.n_printed = (int64_t)r->n_texts;
    x->in.n_truncated = (int64_t)r->n_truncated;
    return status;
}

static scbm_status explain_global(explain_command *x) {
    cbm_global_report *report = NULL;
    cbm_global_options options = {.sample = x->sample ? x->sample : -1,
                                  .n_words = (int)x->n_words,
                                  .faithfulness = x->faithfulness,
                                  .labels = x->labels,
                                  .explain = x->options};
    options.explain.seed = (uint64_t)x->seed;
    scbm_status status = cbm_global_report_create(&report, x->in.context, (const char *const *)x->texts.text,
                                                  x->texts.text_length, x->texts.n, &options);
    cli_progress_clear(&x->in.progress);
    if (!status) status = write_global(x, report);
    cbm_global_report_free(report);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

/* For the library 0 is the default, and a negative number is none. */
static int number_or_none(int64_t n) {
    return n ? (int)n : -1;
}

/* Options that the others leave without an effect. */
static int check_effects(const explain_command *x, const cli_option *options) {
    const int is_json = x->in.json && !x->html_path && !x->pages_path;
    const struct {
        int applies;
        const char *why;
        const void *value;
    } rows[] = {{!x->global, "without --global", &x->sample},
                {!x->faithfulness, "without --faithfulness", &x->seed},
                {!x->steps, "with --steps 0", &x->max_steps},
                {x->global, "with --global", &x->n_neurons},
                {!x->global && is_json, "with --json, which has no neurons", &x->n_neurons},
                {!x->global && x->in.json, "with --json, which has all words", &x->n_words}};
    int status = CLI_GO_ON;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && status == CLI_GO_ON; i++)
        if (rows[i].applies)
            status = cli_refuse(x->in.command, options, rows[i].why, (const void *const[]){rows[i].value, NULL});
    return status;
}

static int check_options(explain_command *x, const cli_option *options) {
    const cli_command *command = x->in.command;
    if (!x->global && x->faithfulness)
        return cli_misuse(command, "--faithfulness needs --global: it is measured on many texts");
    if (x->global && !x->steps)
        return cli_misuse(command, "--global ranks words by integrated gradients: --steps cannot be 0");
    if (x->global && !x->n_words) return cli_misuse(command, "--global wants at least one word: --words");
    if (x->global && x->pages_path) return cli_misuse(command, "--pages is about single texts, not about --global");
    if (!x->global && x->html_path && x->in.texts.argument.n > 1) return cli_misuse(command, "%s", one_text);
    if (!x->global && x->html_path && x->in.texts.keep_going)
        return cli_misuse(command, "--keep-going has no effect on the one text of --html");
    if (x->labels && !x->global) {
        static const int labels[] = {CBM_PREDICTED, CBM_RUNNER_UP};
        x->options.labels = labels;
        x->options.n_labels = 2;
    }
    x->options.steps = number_or_none(x->steps);
    x->options.max_steps = number_or_none(x->max_steps);
    x->options.n_neurons = number_or_none(x->n_neurons);
    return check_effects(x, options);
}

/* What the model does not allow is said before texts are read. */
static int check_model(const explain_command *x) {
    const cli_command *command = x->in.command;
    if (cbm_model_mode(x->in.model) == CBM_VANILLA && x->global && x->labels)
        return cli_misuse(command,
                          "--labels has no effect with --global on %s: the words of a vanilla model's labels are"
                          " always listed",
                          x->in.model_path);
    if (!cbm_model_n_concepts(x->in.model) && cli_given(&x->n_neurons))
        return cli_misuse(command, "--neurons has no effect on %s: a vanilla model has no subnetworks",
                          x->in.model_path);
    if (x->png_path && !cbm_model_is_sparse(x->in.model))
        return cli_fail(command,
                        "--png draws the masks of subnetworks, and %s is dense: leave --png out, or train with --prune",
                        x->in.model_path);
    return CLI_GO_ON;
}

static int explain(explain_command *x) {
    const cli_answers answers = {x->global ? keep_texts : explain_texts, answer_bad, x};
    int status = cli_texts_each(x->in.command, &x->in.texts, &answers, &x->in.hooks);
    if (status != CLI_DONE) return status;
    scbm_status explained = SCBM_OK;
    if (x->global && !x->texts.store) return cli_fail(x->in.command, "there are no texts to explain");
    if (x->global) explained = cbm_dataset_finish(&x->texts);
    if (x->global && !explained) explained = explain_global(x);
    else if (x->in.n_printed) explained = finish_texts(x);
    if (explained) return cli_fail_status(x->in.command, explained);
    if (x->pages_path && x->in.n_printed) explained = explain_write_index(x, title(x));
    if (explained) return cli_fail_status(x->in.command, explained);
    if (x->html_path && x->in.n_printed) cli_say_wrote(x->in.command, x->html_path);
    if (x->png_path && x->in.n_printed) cli_say_wrote(x->in.command, x->png_path);
    return cli_finish(x->in.command);
}

static int run_explain(const cli_command *command, int argc, char **argv) {
    explain_command x;
    memset(&x, 0, sizeof x);
    x.steps = 32;
    x.max_steps = 512;
    x.n_neurons = 3;
    x.n_words = 6;
    x.sample = 200;
    x.seed = 42;
    const cli_option options[] = {
        CLI_MODEL_OPTION(x.in),
        CLI_TEXTS_OPTIONS(x.in.texts),
        CLI_GROUP_OF("Explanation"),
        CLI_FLAG_OPTION("global", &x.global, "explain all texts together: contributions, influential words, overlaps"),
        CLI_FLAG_OPTION(
            "labels", &x.labels,
            "also explain the label and the runner-up: what concepts and words add to each (why not the other?); with"
            " --global the words of each label"),
        CLI_WRITE_OPTION("html", &x.html_path,
                         "write a report of the one text, or with --global of all, as one HTML file"),
        CLI_TEXT_OPTION("pages", "DIR", &x.pages_path,
                        "write a report of each text, and an index.html, into this folder"),
        CLI_WRITE_OPTION("png", &x.png_path, "write the subnetworks' mask maps and overlaps as a picture"),
        CLI_INT_OPTION("words", "N", &x.n_words, 0, 1000,
                       "words that are shown for each concept, or with --global each class"),
        CLI_INT_OPTION("neurons", "N", &x.n_neurons, 0, 1000, "most salient neurons that are shown for each concept"),
        CLI_INT_OPTION("steps", "N", &x.steps, 0, 65536, "steps of integrated gradients; 0: gradient x input alone"),
        CLI_INT_OPTION("max-steps", "N", &x.max_steps, 0, 65536,
                       "the steps are doubled up to N until they add up to 1 %"),
        CLI_INT_OPTION("sample", "N", &x.sample, 0, 1000000000, "texts of --global whose words are attributed; 0: all"),
        CLI_FLAG_OPTION("faithfulness", &x.faithfulness,
                        "with --global: measure comprehensiveness and sufficiency of attributions on the sample"),
        CLI_INT_OPTION("seed", "N", &x.seed, 0, 9e15, "seed of faithfulness's random baseline"),
        CLI_RUN_OPTIONS(x.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&x.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = check_options(&x, options);
    if (status == CLI_GO_ON) status = cli_session_check_texts(&x.in);
    if (status == CLI_GO_ON) status = cli_session_load(&x.in, 1);
    if (status == CLI_GO_ON) status = check_model(&x);
    if (status == CLI_GO_ON) status = explain(&x);
    cbm_dataset_clear(&x.texts);
    explain_clear_pages(&x);
    return cli_session_finish(&x.in, status);
}

static const char *const explain_examples[] = {
    "explain --model demo/reviews.gguf \"The soup was cold, but the waiter was lovely.\"",
    "explain --model demo/reviews.gguf --data demo/test.csv --global --sample 50 --html reviews.html", NULL};
const cli_command cmd_explain = {
    "explain",
    "explain a prediction by its concepts, subnetworks and words",
    "--model FILE [TEXT ...] [options]",
    "Three levels fit together. The concepts' contributions and the bias add up to the label's logit. Each concept reads\n"
    "the text through a subnetwork of its own. The words' attributions (integrated gradients towards the class that the\n"
    "concept reads, from the text with every word masked) add up to the difference between the two logits.\n"
    "--labels attributes words to labels too, through all concepts; of a vanilla model that is all there is, and --global\n"
    "lists the words of each label.\n"
    "With --json: predict's object, with for each concept classes: [{name, logit, probability}], density, tokens: [{text,\n"
    "start, end, gradient_input, integrated_gradients}], baseline_logit, target_logit, steps, converged and difference (of\n"
    "what integrated gradients add up to, less what the two logits differ by); labels: [{name, logit, probability, bias,\n"
    "contributions: [{concept, contribution}], and where words were attributed to them tokens, baseline_logit, target_logit,\n"
    "steps, converged, difference}], and overlaps: [{a, b, iou}]; start and end are bytes.\n"
    "With --global --json: {texts, texts_explained, labels: [{name, texts, contributions: [{concept, mean,\n"
    "mean_absolute}], words (with --labels, and of a vanilla model)}], concepts: [{name, density, own, mean_absolute_contribution, classes: [{name, texts, words: [{text,\n"
    "count, integrated_gradients (the mean), score}]}]}], overlaps, kept_by: [shares of the weights that 0, 1, ...\n"
    "concepts keep],\n"
    "faithfulness: {texts, shares, METHOD: {comprehensiveness, sufficiency, mean_comprehensiveness, mean_sufficiency}}}.",
    explain_examples,
    run_explain};
