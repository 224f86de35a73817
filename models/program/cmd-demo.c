/*
 * models/program/cmd-demo.c - the embedded default: from nothing to an explained and a corrected prediction
 *
 * The demonstration runs the other commands and prints each as one would type it.
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"
#include "models/program/demo/demo.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TRAIN_REVIEWS = 8000, DEV_REVIEWS = 300, TEST_REVIEWS = 500, EPOCHS = 8, MOST_WORDS = 64, PATH_SIZE = 512 };

typedef struct demo_command {
    const cli_command *command;
    const char *directory;
    int64_t seed, reviews, epochs, threads;
    int data_only;
    char train[PATH_SIZE], dev[PATH_SIZE], test[PATH_SIZE], encoder[PATH_SIZE], model[PATH_SIZE], html[PATH_SIZE],
        png[PATH_SIZE];
} demo_command;

static void join(char path[PATH_SIZE], const char *directory, const char *name) {
    snprintf(path, PATH_SIZE, "%s/%s", directory, name);
}

static int make_paths(demo_command *d) {
    if (strlen(d->directory) > PATH_SIZE - 32) return cli_fail(d->command, "--dir: the name is too long");
    if (mkdir(d->directory, 0777) != 0 && errno != EEXIST)
        return cli_fail(d->command, "%s cannot be made: %s", d->directory, strerror(errno));
    join(d->train, d->directory, "train.csv");
    join(d->dev, d->directory, "dev.csv");
    join(d->test, d->directory, "test.csv");
    join(d->encoder, d->directory, "encoder.gguf");
    join(d->model, d->directory, "reviews.gguf");
    join(d->html, d->directory, "review.html");
    join(d->png, d->directory, "subnetworks.png");
    return CLI_GO_ON;
}

static int write_data(const demo_command *d) {
    static const demo_shape shape = {48, 2, 4, 96, 128};
    uint64_t seed = (uint64_t)d->seed;
    demo_review sample;
    const uint64_t n = (uint64_t)d->reviews;
    printf("1. Reviews from word lists and templates: %d to train on, %d to choose the best epoch by, %d held out.\n"
           "   Each has 1 to 5 stars and says something, or nothing, of food, service, noise and price; 6 %% of the\n"
           "   stars and 3 %% of the concepts are wrong on purpose. One of them:\n\n",
           (int)n, DEV_REVIEWS, TEST_REVIEWS);
    demo_make_review(&sample, seed, 0);
    printf("   \"%s\" (%s stars)\n\n", sample.text, sample.label);
    scbm_status status = demo_write_reviews(d->train, seed, 0, n, NULL);
    if (status == SCBM_OK) status = demo_write_reviews(d->dev, seed, n, DEV_REVIEWS, NULL);
    if (status == SCBM_OK) status = demo_write_reviews(d->test, seed, n + DEV_REVIEWS, TEST_REVIEWS, NULL);
    if (status != SCBM_OK) return cli_fail_status(d->command, status);
    printf("2. A small BERT-shaped encoder with random weights: %d layers, hidden size %d.\n\n", shape.layers,
           shape.hidden);
    status = demo_write_encoder(d->encoder, &shape, seed, n, NULL);
    return status == SCBM_OK ? cli_finish(d->command) : cli_fail_status(d->command, status);
}

static int needs_quotes(const char *word) {
    return word[strcspn(word, " '\"!$&();<>|*?")] != 0;
}

/* Shows a command as one would type it, and runs it. */
static int run_command(const cli_command *command, char **words, int n) {
    printf("   $ %s %s", cli_program, command->name);
    for (int i = 0; i < n; i++) {
        const char *quote = needs_quotes(words[i]) ? "\"" : "";
        printf(" %s", quote);
        cli_print_text(words[i], strlen(words[i]));
        printf("%s", quote);
    }
    puts("\n");
    int status = command->run(command, n, words);
    putchar('\n');
    return status;
}

/* Arguments of a command; main's argv is writable, so these are too. */
typedef struct argument_list {
    char text[MOST_WORDS][DEMO_REVIEW_SIZE];
    char *word[MOST_WORDS];
    int n;
} argument_list;

static void add_word(argument_list *list, const char *word) {
    if (list->n == MOST_WORDS) return;
    snprintf(list->text[list->n], sizeof list->text[0], "%s", word);
    list->word[list->n] = list->text[list->n];
    list->n++;
}

static void add_option(argument_list *list, const char *name, const char *value) {
    add_word(list, name);
    add_word(list, value);
}

static void add_number(argument_list *list, const char *name, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    add_option(list, name, text);
}

/* The masks are set once, after the middle: concepts must have been learned by then, and the weights that are left must have
 * time to make up for the others. */
static int train(const demo_command *d) {
    argument_list list;
    int64_t prune = (d->epochs * 4 + 3) / 7;
    list.n = 0;
    puts(
        "3. Training: encoder, concepts and label together, from scratch. On the way each concept gets a subnetwork of its\n"
        "   own: 70 % of the weights are masked for it, by what they count for the loss.");
    add_option(&list, "--encoder", d->encoder);
    add_option(&list, "--data", d->train);
    add_option(&list, "--validation", d->dev);
    add_option(&list, "--text", "review");
    add_option(&list, "--label", "stars");
    for (int k = 0; k < DEMO_CONCEPTS; k++) add_option(&list, "--concept", demo_concepts[k]);
    add_option(&list, "--mode", "joint");
    add_number(&list, "--epochs", d->epochs);
    add_option(&list, "--prune", "obert");
    add_option(&list, "--sparsity", "0.7");
    add_number(&list, "--prune-start", prune);
    add_number(&list, "--prune-end", prune);
    add_option(&list, "--fisher-block", "8");
    add_option(&list, "--batch-size", "32");
    add_option(&list, "--lr", "0.004");
    add_option(&list, "--head-lr", "0.005");
    add_option(&list, "--dropout", "0");
    add_number(&list, "--seed", d->seed);
    if (d->threads) add_number(&list, "--threads", d->threads);
    add_option(&list, "-o", d->model);
    add_word(&list, "--force");
    return run_command(&cmd_train, list.word, list.n);
}

static int evaluate(const demo_command *d) {
    argument_list list;
    list.n = 0;
    puts("4. The held-out reviews. \"majority\" is what always guessing the most frequent class would give.");
    add_option(&list, "--model", d->model);
    add_option(&list, "--data", d->test);
    if (d->threads) add_number(&list, "--threads", d->threads);
    return run_command(&cmd_eval, list.word, list.n);
}

/* The concepts that a prediction misreads; one of them in *k. */
static int count_mistakes(const cbm_prediction *p, const demo_review *review, int *k) {
    int n = 0;
    for (int i = 0; i < DEMO_CONCEPTS; i++) {
        if (strcmp(p->concepts[i].class_name, review->concept[i]) == 0) continue;
        *k = i;
        n++;
    }
    return n;
}

/* Held-out review i. */
static void held_out(const demo_command *d, uint64_t i, demo_review *review) {
    demo_make_review(review, (uint64_t)d->seed, (uint64_t)d->reviews + DEV_REVIEWS + i);
}

/* How much a review teaches: nothing where it does not say something good and something bad, of at least three concepts, or
 * says all of it plainly, so that single words give the answer away; more the surer the model reads label and concepts,
 * and first of all what it reads rightly. */
static double lesson(const demo_review *review, const cbm_prediction *p) {
    int bad = 0, good = 0, k;
    for (k = 0; k < DEMO_CONCEPTS; k++) {
        bad += strcmp(review->concept[k], "Negative") == 0;
        good += strcmp(review->concept[k], "Positive") == 0;
    }
    if (bad + good < 3 || !bad || !good || !review->is_true || !review->n_twisted) return 0;
    double sure = (double)p->probability;
    for (k = 0; k < p->n_concepts; k++) sure *= (double)p->concepts[k].probability;
    int mistakes = count_mistakes(p, review, &k) + (strcmp(p->label, review->label) != 0);
    return sure + DEMO_CONCEPTS + 1 - mistakes;
}

static scbm_status choose_review(const demo_command *d, cbm_context *context, demo_review *chosen) {
    double best = 0;
    held_out(d, 0, chosen); /* where there is no better one */
    for (uint64_t i = 0; i < TEST_REVIEWS; i++) {
        const cbm_prediction *p;
        demo_review review;
        held_out(d, i, &review);
        scbm_status status = cbm_predict(context, review.text, &p);
        if (status != SCBM_OK) return status;
        double worth = lesson(&review, p);
        if (worth <= best) continue;
        best = worth;
        *chosen = review;
    }
    return SCBM_OK;
}

/* What the numbers mean, in words. */
static void say_in_words(const cbm_prediction *p) {
    double largest = 0;
    for (int k = 0; k < p->n_concepts; k++) largest = fmax(largest, fabs((double)p->concepts[k].contribution));
    printf("   In words: the model gives %s stars and is %.0f %% sure.\n", p->label, 100 * (double)p->probability);
    for (int k = 0; k < p->n_concepts; k++) {
        const cbm_concept_result *c = &p->concepts[k];
        double share = largest > 0 ? fabs((double)c->contribution) / largest : 0;
        const char *strength = share > 0.6 ? "speaks strongly" : share > 0.25 ? "speaks" : "barely speaks";
        if (strcmp(c->class_name, "unknown") == 0) printf("   It reads nothing about %s in the text", c->name);
        else printf("   It reads %s as %s", c->name, c->class_name);
        printf(" (%.0f %%), which %s %s %s stars.\n", 100 * (double)c->probability, strength,
               c->contribution < 0 ? "against" : "for", p->label);
    }
    printf("   Nothing else enters the label: contributions and bias are its logit, %.3f.\n\n",
           (double)p->logits[p->label_index]);
}

static int explain(const demo_command *d, cbm_context *context) {
    argument_list list;
    demo_review review;
    const cbm_prediction *p;
    list.n = 0;
    scbm_status status = choose_review(d, context, &review);
    if (status == SCBM_OK) status = cbm_predict(context, review.text, &p);
    if (status != SCBM_OK) return cli_fail_status(d->command, status);
    puts(
        "5. One of them, explained. The first bars show what each concept adds to the label's logit, or takes away; those below\n"
        "   what each word did to a concept, through the concept's own subnetwork.");
    add_option(&list, "--model", d->model);
    add_word(&list, review.text);
    add_option(&list, "--neurons", "0");
    add_option(&list, "--html", d->html);
    add_option(&list, "--png", d->png);
    if (d->threads) add_number(&list, "--threads", d->threads);
    int result = run_command(&cmd_explain, list.word, list.n);
    if (result == CLI_DONE) say_in_words(p);
    return result;
}

/* What one intervention on a review would do, and how good that is: 2 when concept and label become right, 1 when only the
 * concept does, 0 when neither. */
static scbm_status try_correction(cbm_context *context, const demo_review *review, int k, int *worth) {
    const cbm_intervention *result;
    scbm_status status = cbm_intervene_report(context, demo_concepts[k], review->concept[k], NULL, &result);
    if (status != SCBM_OK) return status;
    int label_was_right = strcmp(result->before->label, review->label) == 0;
    *worth = !result->succeeded ? 0 : !label_was_right && strcmp(result->after->label, review->label) == 0 ? 2 : 1;
    cbm_intervene_reset(context);
    return SCBM_OK;
}

/* A held-out review with a concept that the model misreads, if possible one whose correction corrects the label. */
static scbm_status choose_mistake(const demo_command *d, cbm_context *context, demo_review *chosen, int *concept) {
    int best = 0;
    for (uint64_t i = 0; i < TEST_REVIEWS && best < 2; i++) {
        demo_review review;
        const cbm_prediction *p;
        int wrong = -1, worth = 0;
        held_out(d, i, &review);
        if (!review.is_true) continue;
        scbm_status status = cbm_predict(context, review.text, &p);
        if (status == SCBM_OK && count_mistakes(p, &review, &wrong) == 1)
            status = try_correction(context, &review, wrong, &worth);
        if (status != SCBM_OK) return status;
        if (worth <= best) continue;
        best = worth;
        *chosen = review;
        *concept = wrong;
    }
    return SCBM_OK;
}

static int correct(const demo_command *d, cbm_context *context) {
    argument_list list;
    demo_review review;
    int k = -1;
    char target[64];
    list.n = 0;
    scbm_status status = choose_mistake(d, context, &review, &k);
    if (status != SCBM_OK) return cli_fail_status(d->command, status);
    if (k < 0) return CLI_DONE; /* no mistakes at all */
    printf(
        "6. Another one, in which the model misreads %s: it is %s. Whoever knows better says so; for this text %s's\n"
        "   subnetwork then exchanges weights until it reads that, and the label follows (the reviewer gave %s of 5 stars).\n",
        demo_concepts[k], review.concept[k], demo_concepts[k], review.label);
    snprintf(target, sizeof target, "%s=%s", demo_concepts[k], review.concept[k]);
    add_option(&list, "--model", d->model);
    add_word(&list, review.text);
    add_option(&list, "--set", target);
    if (d->threads) add_number(&list, "--threads", d->threads);
    return run_command(&cmd_intervene, list.word, list.n);
}

static int explain_and_correct(const demo_command *d) {
    cbm_model *model = NULL;
    cbm_context *context = NULL;
    scbm_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.n_workers = (int)d->threads;
    const cbm_load_options load = {.hooks = &hooks};
    scbm_status status = cbm_model_load(&model, d->model, &load);
    if (status == SCBM_OK) status = cbm_context_create(&context, model, NULL);
    int result = status == SCBM_OK ? explain(d, context) : cli_fail_status(d->command, status);
    if (result == CLI_DONE) result = correct(d, context);
    cbm_context_free(context);
    cbm_model_free(model);
    return result;
}

static void print_next_steps(const demo_command *d, double seconds) {
    printf("Done in %.0f seconds. Next, with data of your own:\n\n"
           "   A pretrained encoder makes all the difference. Take any BERT-shaped checkpoint of Hugging Face\n"
           "   (a folder with config.json, model.safetensors and vocab.txt, such as all-MiniLM-L6-v2):\n"
           "   $ convert/convert-hf FOLDER -o encoder.gguf\n\n"
           "   Then train on your CSV or JSONL file: a column of texts, one of labels, and one for each concept:\n"
           "   $ %s train --encoder encoder.gguf --data train.csv --validation dev.csv --text TEXT --label LABEL \\\n"
           "       --concept food=FOOD_COLUMN --concept service=SERVICE_COLUMN --prune obert -o model.gguf\n\n"
           "   Everything that was written here is in %s/: look at review.html and subnetworks.png.\n"
           "   %s COMMAND --help says what a command can do.\n",
           seconds, cli_program, d->directory, cli_program);
}

static int run_demo(const cli_command *command, int argc, char **argv) {
    demo_command d;
    memset(&d, 0, sizeof d);
    d.command = command;
    d.directory = "demo";
    d.seed = 42;
    d.reviews = TRAIN_REVIEWS;
    d.epochs = EPOCHS;
    const cli_option options[] = {
        CLI_GROUP_OF("Output"),
        CLI_TEXT_OPTION("dir", "DIR", &d.directory, "where everything is written (default demo)"),
        CLI_FLAG_OPTION("data-only", &d.data_only, "write the reviews and the encoder, and stop"),
        CLI_GROUP_OF("Data and training"),
        CLI_INT_OPTION("reviews", "N", &d.reviews, 100, 1000000, "reviews to train on"),
        CLI_INT_OPTION("epochs", "N", &d.epochs, 1, 1000, "passes over them"),
        CLI_INT_OPTION("seed", "N", &d.seed, 0, 9e15, "seed of the reviews and of everything random"),
        CLI_THREADS_OPTION(d),
        CLI_END_OPTIONS,
    };
    int status = cli_parse(command, options, argc, argv, NULL);
    double started = scbm_seconds();
    if (status == CLI_GO_ON) status = make_paths(&d);
    if (status != CLI_GO_ON) return status;
    const void *const unused[] = {&d.epochs, &d.threads, NULL};
    status = d.data_only ? cli_refuse(command, options, "with --data-only", unused) : CLI_GO_ON;
    if (status != CLI_GO_ON) return status;
    status = write_data(&d);
    if (status == CLI_DONE && d.data_only) return status;
    if (status == CLI_DONE) status = train(&d);
    if (status == CLI_DONE) status = evaluate(&d);
    if (status == CLI_DONE) status = explain_and_correct(&d);
    if (status != CLI_DONE) return status;
    print_next_steps(&d, scbm_seconds() - started);
    return cli_finish(command);
}

static const char *const demo_examples[] = {"demo --dir demo", NULL};
const cli_command cmd_demo = {
    "demo",        "train a small sparse model on generated reviews, evaluate it, explain a prediction and correct one",
    "[options]",   "Needs no data and no network; takes under two minutes on two cores.",
    demo_examples, run_demo};
