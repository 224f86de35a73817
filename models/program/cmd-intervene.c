/*
 * models/program/cmd-intervene.c - set a concept of a text to a class, and see what becomes of the label
 */
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One --set, and how it went with the text at hand. */
typedef struct setting {
    char *concept; /* of the option, cut at its "=" */
    const char *class_name;
    int k;
    int succeeded, steps;
    int64_t moved_bits, total_bits;
} setting;

/* What a text read before the interventions; a prediction itself lives only until the context's next call. */
typedef struct reading {
    const char *class_name;
    float probability;
} reading;

typedef struct intervene_command {
    cli_session in;
    cli_list sets;
    cli_intervention intervention;
    cbm_intervene_options options;
    int method;
    setting *setting; /* [sets.n] */
    reading *before;  /* [1 + concepts]: label, concepts */
} intervene_command;

/* ------------------------------------------------------------------------------------------
 * Options
 * ---------------------------------------------------------------------------------------- */

static int parse_settings(intervene_command *s) {
    const cli_command *command = s->in.command;
    if (!s->sets.n) return cli_misuse(command, "--set CONCEPT=CLASS is required: what should the text say?");
    s->setting = calloc((size_t)s->sets.n, sizeof *s->setting);
    if (!s->setting) return cli_fail(command, "out of memory");
    for (int i = 0; i < s->sets.n; i++) {
        const char *equals = strchr(s->sets.item[i], '=');
        if (!equals || equals == s->sets.item[i])
            return cli_misuse(command, "--set wants CONCEPT=CLASS, got '%s'", s->sets.item[i]);
        s->setting[i].concept = scbm_strdup(&s->in.hooks, s->sets.item[i]);
        if (!s->setting[i].concept) return cli_fail(command, "out of memory");
        s->setting[i].concept[equals - s->sets.item[i]] = 0;
        s->setting[i].class_name = equals + 1;
    }
    return CLI_GO_ON;
}

/* A concept may have "=" in its name: where it ends is what the model knows. */
static void settle_name(const cbm_model *model, setting *set, const char *item) {
    for (int k = 0; k < cbm_model_n_concepts(model); k++) {
        const char *name = cbm_model_concept(model, k);
        size_t length = strlen(name);
        if (strncmp(item, name, length) != 0 || item[length] != '=' || length <= strlen(set->concept)) continue;
        memcpy(set->concept, name, length + 1); /* it has the item's room */
        set->class_name = item + length + 1;
    }
}

static int settle_names(intervene_command *s) {
    for (int i = 0; i < s->sets.n; i++) {
        settle_name(s->in.model, &s->setting[i], s->sets.item[i]);
        for (int j = 0; j < i; j++)
            if (strcmp(s->setting[j].concept, s->setting[i].concept) == 0)
                return cli_misuse(s->in.command, "--set: concept '%s' is set twice", s->setting[i].concept);
    }
    return CLI_GO_ON;
}

/* Whether the model has these concepts and classes, and can be intervened on so. */
static int check_model(intervene_command *s) {
    int result = cli_intervention_check(s->in.command, s->in.model, s->in.model_path, &s->options, "--method edit");
    if (result == CLI_GO_ON) result = settle_names(s);
    if (result != CLI_GO_ON) return result;
    scbm_status status = SCBM_OK;
    for (int i = 0; i < s->sets.n && status == SCBM_OK; i++) {
        int c;
        status = cbm_model_find_class(s->in.model, s->setting[i].concept, s->setting[i].class_name, &s->setting[i].k,
                                      &c);
    }
    if (status != SCBM_OK) return cli_fail_status(s->in.command, status);
    s->before = calloc(1 + (size_t)cbm_model_n_concepts(s->in.model), sizeof *s->before);
    return s->before ? CLI_GO_ON : cli_fail(s->in.command, "out of memory");
}

static int finish(intervene_command *s, int status) {
    for (int i = 0; i < s->sets.n && s->setting; i++) scbm_release(&s->in.hooks, s->setting[i].concept);
    free(s->setting);
    free(s->before);
    free((void *)s->sets.item);
    return cli_session_finish(&s->in, status);
}

/* ------------------------------------------------------------------------------------------
 * Results
 * ---------------------------------------------------------------------------------------- */

static scbm_status print_json(const intervene_command *s, cJSON *before, const cbm_prediction *after) {
    cJSON *object = cJSON_CreateObject(), *interventions = cJSON_CreateArray();
    int64_t steps = 0, moved = 0, total = 0;
    for (int i = 0; i < s->sets.n; i++) {
        const setting *set = &s->setting[i];
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "concept", set->concept);
        cJSON_AddStringToObject(one, "class", set->class_name);
        cJSON_AddBoolToObject(one, "succeeded", set->succeeded);
        cJSON_AddItemToObject(one, "steps", cli_json_int(set->steps));
        cJSON_AddItemToObject(one, "moved_bits", cli_json_int(set->moved_bits));
        cJSON_AddItemToArray(interventions, one);
        steps += set->steps;
        moved += set->moved_bits;
        total += set->total_bits;
    }
    cJSON_AddStringToObject(object, "method", s->method ? "edit" : "mask");
    cJSON_AddItemToObject(object, "steps", cli_json_int(steps));
    cJSON_AddItemToObject(object, "moved_bits", cli_json_int(moved));
    cJSON_AddItemToObject(object, "total_bits", cli_json_int(total));
    cJSON_AddItemToObject(object, "interventions", interventions);
    cJSON_AddItemToObject(object, "before", before);
    cJSON_AddItemToObject(object, "after", cli_json_prediction(s->in.model, after));
    return cli_json_print(object);
}

/* "  service  Positive   71 %  ->  Negative   88 %  set: 3 steps, ..." */
static void print_line(const char *name, int width, int class_width, const reading *before, const char *class_name,
                       float probability) {
    printf("  ");
    cli_print_name(name, width);
    printf("  ");
    cli_print_name(before->class_name, class_width);
    printf("  %3.0f %%", 100 * (double)before->probability);
    if (strcmp(before->class_name, class_name) == 0 && before->probability == probability) {
        printf("      (as it was)");
        return;
    }
    printf("  ->  ");
    cli_print_name(class_name, class_width);
    printf("  %3.0f %%", 100 * (double)probability);
}

static void print_outcome(const intervene_command *s, const setting *set) {
    printf(set->succeeded ? "  set to " : "  could not be set to ");
    cli_print_name(set->class_name, 0);
    if (s->method)
        printf(" by editing its values%s",
               set->succeeded || s->options.edit == CBM_EDIT_ONE_HOT ? "" : "; --edit one-hot can");
    else
        printf(": %d step%s, %lld of %lld mask bits moved", set->steps, set->steps == 1 ? "" : "s",
               (long long)set->moved_bits, (long long)set->total_bits);
}

static void print_text(const intervene_command *s, const char *text, size_t length, const cbm_prediction *after) {
    int width = cli_width("label"), class_width = cli_width(s->before[0].class_name);
    for (int k = 0; k <= after->n_concepts; k++) {
        const char *name = k ? after->concepts[k - 1].name : "",
                   *now = k ? after->concepts[k - 1].class_name : after->label;
        width = cli_wider(width, name);
        class_width = cli_wider(cli_wider(class_width, now), s->before[k].class_name);
    }
    if (s->in.n_printed) putchar('\n');
    cli_print_text(text, length);
    putchar('\n');
    print_line("label", width, class_width, &s->before[0], after->label, after->probability);
    puts(after->truncated ? "  (truncated: the model read only the beginning of this text)" : "");
    for (int k = 0; k < after->n_concepts; k++) {
        const cbm_concept_result *c = &after->concepts[k];
        print_line(c->name, width, class_width, &s->before[k + 1], c->class_name, c->probability);
        for (int i = 0; i < s->sets.n; i++)
            if (s->setting[i].k == k) print_outcome(s, &s->setting[i]);
        putchar('\n');
    }
}

/* ------------------------------------------------------------------------------------------
 * The command
 * ---------------------------------------------------------------------------------------- */

static void keep_reading(intervene_command *s, const cbm_prediction *p) {
    s->before[0] = (reading){p->label, p->probability};
    for (int k = 0; k < p->n_concepts; k++)
        s->before[k + 1] = (reading){p->concepts[k].class_name, p->concepts[k].probability};
}

static scbm_status intervene(intervene_command *s, const char *text, size_t length) {
    const cbm_prediction *const *before;
    const cbm_intervention *result = NULL;
    cJSON *json = NULL;
    scbm_status status = cbm_predict_batch(s->in.context, &text, &length, 1, &before);
    if (status != SCBM_OK) return status;
    keep_reading(s, before[0]);
    if (s->in.json) json = cli_json_prediction(s->in.model, before[0]);
    for (int i = 0; i < s->sets.n && status == SCBM_OK; i++) {
        setting *set = &s->setting[i];
        status = cbm_intervene_report(s->in.context, set->concept, set->class_name, &s->options, &result);
        if (status != SCBM_OK) continue;
        set->succeeded = result->succeeded;
        set->steps = result->steps;
        set->moved_bits = result->moved_bits;
        set->total_bits = result->total_bits;
    }
    if (status != SCBM_OK) {
        cJSON_Delete(json);
        return status;
    }
    s->in.n_truncated += result->after->truncated != 0;
    if (s->in.json) return print_json(s, json, result->after);
    print_text(s, text, length, result->after);
    return SCBM_OK;
}

static scbm_status intervene_texts(void *user, const char *const *texts, const size_t *lengths, size_t n,
                                   size_t *done) {
    intervene_command *s = user;
    for (size_t i = 0; i < n; i++) {
        scbm_status status = intervene(s, texts[i], lengths[i]);
        if (status != SCBM_OK) return status;
        s->in.n_printed++;
        ++*done;
    }
    return cli_flush();
}

static scbm_status answer_bad(void *user, const char *reason) {
    intervene_command *s = user;
    return cli_session_print_bad(&s->in, reason);
}

static int run_intervene(const cli_command *command, int argc, char **argv) {
    intervene_command s;
    memset(&s, 0, sizeof s);
    s.intervention = (cli_intervention)CLI_INTERVENTION_NOT_GIVEN;
    const cli_option options[] = {
        CLI_MODEL_OPTION(s.in),
        CLI_TEXTS_OPTIONS(s.in.texts),
        CLI_GROUP_OF("Interventions"),
        CLI_LIST_OPTION("set", "CONCEPT=CLASS", &s.sets,
                        "what a concept should be (required); may be repeated for further concepts"),
        CLI_CHOICE_OPTION(
            "method", "mask|edit", &s.method,
            "change the concept's subnetwork for this text, or the values that the label is computed from"),
        CLI_INTERVENTION_OPTIONS(s.intervention),
        CLI_RUN_OPTIONS(s.in),
        CLI_END_OPTIONS,
    };
    int status = cli_session_start(&s.in, command, options, argc, argv);
    if (status == CLI_GO_ON) status = parse_settings(&s);
    if (status == CLI_GO_ON) status = cli_intervention_options(command, &s.intervention, s.method, &s.options);
    if (status == CLI_GO_ON) status = cli_session_check_texts(&s.in);
    if (status == CLI_GO_ON) status = cli_session_load(&s.in, 1);
    if (status == CLI_GO_ON) status = check_model(&s);
    const cli_answers answers = {intervene_texts, answer_bad, &s};
    if (status == CLI_GO_ON) status = cli_texts_each(command, &s.in.texts, &answers, &s.in.hooks);
    return finish(&s, status);
}

static const char *const intervene_examples[] = {
    "intervene --model demo/reviews.gguf \"The soup was cold, but the waiter was lovely.\" --set food=Positive", NULL};
const cli_command cmd_intervene = {
    "intervene",
    "set a concept of a text to a class, and see what becomes of the label",
    "--model FILE [TEXT ...] --set CONCEPT=CLASS ... [options]",
    "Texts are arguments, lines of --file or of a pipe, or a column of --data. By --method mask the concept's subnetwork\n"
    "changes, for this text alone, until the concept reads the class: weights that speak against it go, as many that speak\n"
    "for it come, and the sparsity stays. That it could not be brought there is an answer, not an error. The model file is\n"
    "never changed. A dense model has no subnetworks; --method edit replaces the concept's values: by the mean values of\n"
    "the training texts with that class (--edit mean), which is not always enough for the concept to read the class (after\n"
    "little training), or by 1 for the class and 0 for the others (--edit one-hot), which always is.\n"
    "With --json: {method, steps, moved_bits, total_bits, interventions: [{concept, class, succeeded, steps, moved_bits}],\n"
    "before, after}; before and after are as `predict` prints them, and the first numbers are sums over all --set.\n"
    "With --keep-going a bad text is answered by {row, error}.",
    intervene_examples,
    run_intervene};
