/*
 * models/program/train/settings.c - the library's table of training settings as options of `train`
 */
#include "models/program/train/train.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * The table of options
 * ---------------------------------------------------------------------------------------- */

static void add_option(train_command *t, const cli_option *option) {
    if (t->n_options + 1 < TRAIN_MAX_OPTIONS) t->table[t->n_options++] = *option;
    t->table[t->n_options] = (cli_option)CLI_END_OPTIONS;
}

void train_add_options(train_command *t, const char *group, const cli_option *options) {
    for (; options->name; options++) {
        cli_option option = *options;
        option.group = group;
        option.given = &t->given[t->n_options];
        add_option(t, &option);
    }
}

static int is_file(const cbm_train_setting *s) {
    return s->kind == CBM_SETTING_READS || s->kind == CBM_SETTING_WRITES;
}

/* "vanilla|independent|sequential|joint" */
static void list_choices(const cbm_train_setting *s, char *text, size_t size) {
    size_t n = 0;
    for (int i = (int)s->least; s->choice(i) && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", n ? "|" : "", s->choice(i));
}

/* The help of a setting, and after it that of its choices. */
static const char *help_of(const cbm_train_setting *s, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "%s", s->help);
    const char *between = ". ", *help;
    for (int i = (int)s->least; s->choice(i) && n < size; i++) {
        if (!s->choice_help || !(help = s->choice_help(i))) continue;
        n += (size_t)snprintf(text + n, size - n, "%s%s: %s", between, s->choice(i), help);
        between = "; ";
    }
    return text;
}

/* The option of a setting; its variable holds the default, for the help. */
static cli_option option_of(const cbm_train_setting *s, train_slot *slot) {
    cli_option option = CLI_OPTION(CLI_INT, s->option, s->argument, &slot->integer, s->help, s->least, s->most, 0,
                                   s->kind == CBM_SETTING_READS    ? CLI_READS
                                   : s->kind == CBM_SETTING_WRITES ? CLI_WRITES
                                                                   : CLI_NO_FILE);
    option.group = s->group;
    option.given = &slot->given;
    slot->integer = (int64_t)s->standard;
    slot->real = s->standard;
    if (s->kind == CBM_SETTING_REAL) {
        option.kind = CLI_REAL;
        option.value = &slot->real;
    } else if (s->kind == CBM_SETTING_FLAG) {
        option.kind = CLI_FLAG;
        option.value = &slot->number;
    } else if (s->kind == CBM_SETTING_CHOICE) {
        list_choices(s, slot->choices, sizeof slot->choices);
        slot->number = (int)(s->standard - s->least);
        option.kind = CLI_CHOICE;
        option.argument = slot->choices;
        option.help = help_of(s, slot->help, sizeof slot->help);
        option.value = &slot->number;
    } else if (s->kind == CBM_SETTING_TEXT || is_file(s)) {
        option.kind = CLI_TEXT;
        option.value = &slot->text;
    }
    return option;
}

static int has_group(const train_command *t, const char *group) {
    for (int i = 0; i < t->n_options; i++)
        if (strcmp(t->table[i].group, group) == 0) return 1;
    return 0;
}

void train_add_settings(train_command *t, const char *group) {
    const cbm_train_setting *s;
    for (int i = 0; (s = cbm_train_setting_at(i)) && i < TRAIN_MAX_SETTINGS; i++) {
        if (group ? strcmp(s->group, group) != 0 : has_group(t, s->group)) continue;
        const cli_option option = option_of(s, &t->slot[i]);
        add_option(t, &option);
    }
}

int train_is_given(const train_command *t, const char *key) {
    const cbm_train_setting *s;
    for (int i = 0; (s = cbm_train_setting_at(i)) && i < TRAIN_MAX_SETTINGS; i++)
        if (strcmp(s->key, key) == 0) return t->slot[i].given;
    return 0;
}

void train_take_settings(train_command *t) {
    const cbm_train_setting *s;
    for (int i = 0; (s = cbm_train_setting_at(i)) && i < TRAIN_MAX_SETTINGS; i++) {
        const train_slot *slot = &t->slot[i];
        if (!slot->given) continue;
        switch (s->kind) {
        case CBM_SETTING_FLAG: cbm_train_setting_set_number(s, &t->options, slot->number); break;
        case CBM_SETTING_CHOICE: cbm_train_setting_set_number(s, &t->options, slot->number + s->least); break;
        case CBM_SETTING_REAL: cbm_train_setting_set_number(s, &t->options, slot->real); break;
        case CBM_SETTING_TEXT:
        case CBM_SETTING_READS:
        case CBM_SETTING_WRITES: cbm_train_setting_set_text(s, &t->options, slot->text); break;
        default: cbm_train_setting_set_number(s, &t->options, (double)slot->integer);
        }
    }
}

/* ------------------------------------------------------------------------------------------
 * What has no effect
 * ---------------------------------------------------------------------------------------- */

/* "--prune popup or popup-structured", "--teacher FILE", of a need as the table has it. */
static void say_need(const char *need, char *text, size_t size) {
    char key[64];
    size_t length = strcspn(need, "=,");
    snprintf(key, sizeof key, "%.*s", (int)length, need);
    const cbm_train_setting *s = cbm_train_setting_find(key);
    size_t n = (size_t)snprintf(text, size, "--%s%s%s", s->option, s->argument ? " " : "",
                                s->argument ? s->argument : "");
    if (need[length] != '=') return;
    for (const char *name = need + length + 1; *name && *name != ',' && n < size;) {
        size_t one = strcspn(name, "|,");
        const char *between = name == need + length + 1 ? " " : name[one] == '|' ? ", " : " or ";
        n += (size_t)snprintf(text + n, size - n, "%s%.*s", between, (int)one, name);
        name += one + (name[one] == '|');
    }
}

static int refuse_setting(const train_command *t, const cbm_train_setting *s, const char *need) {
    char other[200];
    say_need(need + (need[0] == '!'), other, sizeof other);
    return cli_misuse(t->command, "--%s has no effect %s %s", s->option, need[0] == '!' ? "beside" : "without", other);
}

int train_check_settings(const train_command *t) {
    cbm_train_options settled;
    const cbm_train_setting *s;
    scbm_status status = cbm_train_settle(&t->options, NULL, &settled);
    for (int i = 0; (s = cbm_train_setting_at(i)) && i < TRAIN_MAX_SETTINGS; i++) {
        const char *need = t->slot[i].given == 1 ? cbm_train_setting_unmet(s, &settled) : NULL;
        if (need) return refuse_setting(t, s, need);
    }
    if (status == SCBM_OK) return CLI_GO_ON;
    train_translate_error(status);
    return cli_misuse(t->command, "%s", cbm_last_error());
}

/* ------------------------------------------------------------------------------------------
 * Configurations
 * ---------------------------------------------------------------------------------------- */

/* The setting's value as JSON; NULL where it has none, or is only of the moment. */
static cJSON *json_of(const cbm_train_setting *s, const cbm_train_options *settled) {
    const char *text = cbm_train_setting_text(s, settled);
    double number = cbm_train_setting_number(s, settled);
    if (text) return cJSON_CreateString(text);
    if (s->kind == CBM_SETTING_TEXT || is_file(s) || cbm_train_setting_unmet(s, settled)) return NULL;
    if (s->kind == CBM_SETTING_FLAG) return number != 0 && (s->flags & CBM_SETTING_FIXED) ? cJSON_CreateBool(1) : NULL;
    return number < s->least ? NULL : cli_json_double(number);
}

/* Whether an option changes nothing in what comes out. */
static int is_of_the_moment(const cli_option *option) {
    static const char *const names[] = {"force", "threads", "json", "plan"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(option->name, names[i]) == 0) return 1;
    return 0;
}

/* An option of the program's own, if it was given and has an effect. */
static cJSON *json_of_option(const cli_option *option) {
    if (!*option->given || is_of_the_moment(option)) return NULL;
    const cli_list *list = option->value;
    const char *choice = option->argument;
    char name[32];
    cJSON *array;
    switch (option->kind) {
    case CLI_FLAG: return cJSON_CreateBool(*(int *)option->value);
    case CLI_INT: return cli_json_int(*(int64_t *)option->value);
    case CLI_REAL: return cli_json_double(*(double *)option->value);
    case CLI_TEXT: return cJSON_CreateString(*(const char **)option->value);
    case CLI_CHOICE:
        for (int i = *(int *)option->value; i > 0; i--) choice += strcspn(choice, "|") + 1;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(choice, "|"), choice);
        return cJSON_CreateString(name);
    case CLI_LIST:
        array = cJSON_CreateArray();
        for (int i = 0; i < list->n; i++) cJSON_AddItemToArray(array, cJSON_CreateString(list->item[i]));
        return array;
    default: return NULL;
    }
}

static cJSON *config_of(const train_command *t, const cbm_train_options *settled) {
    const cbm_train_setting *s;
    cJSON *object = cJSON_CreateObject();
    for (const cli_option *option = t->table; option->name; option++) {
        int is_own = option->given >= t->given && option->given < t->given + TRAIN_MAX_OPTIONS;
        cJSON *value = is_own ? json_of_option(option) : NULL;
        for (int i = 0; !is_own && (s = cbm_train_setting_at(i)); i++)
            if (s->option == option->name && !(t->seeds && strcmp(s->key, "seed") == 0)) value = json_of(s, settled);
        if (value) cJSON_AddItemToObject(object, option->name, value);
    }
    return object;
}

scbm_status train_save_config(const train_command *t, const cbm_model *encoder, const scbm_hooks *hooks) {
    cbm_train_options settled;
    scbm_output_file *file;
    scbm_status status = cbm_train_settle(&t->options, encoder, &settled);
    if (status != SCBM_OK) return status;
    if (t->validation.n) settled.validation_split = 0; /* not in use */
    cJSON *object = config_of(t, &settled);
    char *text = cJSON_Print(object);
    cJSON_Delete(object);
    if (!text) return scbm_fail(SCBM_ERROR_MEMORY, "out of memory");
    status = scbm_output_open(&file, t->save_config, hooks);
    if (status == SCBM_OK) {
        scbm_output_print(file, "%s\n", text);
        status = scbm_output_commit(file);
    }
    cJSON_free(text);
    return status;
}

/* ------------------------------------------------------------------------------------------
 * Messages
 * ---------------------------------------------------------------------------------------- */

/* Replaces `before` KEY `after` by `before` --OPTION `after`, where it stands. */
static int translate(char *text, size_t size, const char *before, const char *after) {
    const cbm_train_setting *s;
    for (int i = 0; (s = cbm_train_setting_at(i)); i++) {
        char words[128], rest[1024];
        snprintf(words, sizeof words, "%s%s%s", before, s->key, after);
        char *place = strstr(text, words);
        if (!place) continue;
        snprintf(rest, sizeof rest, "%s", place + strlen(before) + strlen(s->key));
        place += strlen(before);
        snprintf(place, size - (size_t)(place - text), "--%s%s", s->option, rest);
        return 1;
    }
    return 0;
}

/* Advice names settings as "a batch_size of 4 and an accumulate of 4". */
static int translate_advice(char *text, size_t size) {
    int n = 0;
    while (translate(text, size, "a ", " of ") || translate(text, size, "an ", " of ")) n++;
    return n;
}

const char *train_translate_advice(char *text, size_t size) {
    translate_advice(text, size);
    return text;
}

scbm_status train_translate_error(scbm_status status) {
    char text[1024];
    snprintf(text, sizeof text, "%s", cbm_last_error());
    if (status == SCBM_OK) return status;
    int n = translate(text, sizeof text, "another ", " (") || translate(text, sizeof text, "training: ", " is ");
    n += translate(text, sizeof text, "; ", " goes on all the same") + translate(text, sizeof text, "its model (", ")");
    n += translate_advice(text, sizeof text);
    return n ? scbm_fail(status, "%s", text) : status;
}
