/*
 * models/program/options/manual.c - the manual page, in man(7)'s macros, from the commands' tables
 */
#include "models/program/program.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * Text for troff
 * ---------------------------------------------------------------------------------------- */

/* The code point at `text`, and behind it; what is no UTF-8 is taken byte by byte. */
static const char *next_character(const char *text, unsigned *code) {
    const unsigned char *s = (const unsigned char *)text;
    int n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC0 ? 2 : 1;
    *code = n == 1 ? s[0] : s[0] & (0xFFu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            *code = s[0];
            return text + 1;
        }
        *code = *code << 6 | (s[i] & 0x3F);
    }
    return text + n;
}

/* Text in a line of words: minus signs stay what one can type, and nothing is a macro. */
static void put_text(const char *text, size_t length) {
    const char *end = text + length;
    if (length && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
    while (text < end) {
        unsigned code;
        text = next_character(text, &code);
        if (code == '\\') fputs("\\e", stdout);
        else if (code == '-') fputs("\\-", stdout);
        else if (code == '"') fputs("\\(dq", stdout);
        else if (code == '\'') fputs("\\(aq", stdout);
        else if (code == '`') fputs("\\(ga", stdout);
        else if (code == '^') fputs("\\(ha", stdout);
        else if (code == '~') fputs("\\(ti", stdout);
        else if (code < 0x80) putchar((int)code);
        else printf("\\[u%04X]", code);
    }
}

static void put(const char *text) {
    put_text(text, strlen(text));
}

enum { LINE = 70 };

/* Words, in lines of the source that are not too long; `between` is what ends a line: a line break, or one that troff does
 * not see. Columns are kept as they are after the beginning of a line. */
static void put_words(const char *text, size_t length, const char *between) {
    const char *end = text + length;
    size_t column = 0;
    while (text < end && *text == ' ') text++;
    while (text < end) {
        size_t n = strcspn(text, " ");
        if (n > (size_t)(end - text)) n = (size_t)(end - text);
        int is_new = column > 0 && column + n > LINE;
        if (is_new) fputs(between, stdout);
        else if (column) putchar(' ');
        column = is_new ? n : column + n + 1;
        put_text(text, n);
        text += n;
        while (text < end && *text == ' ') text++;
    }
    putchar('\n');
}

/* Lines of text, whose line breaks are the page's to choose, but for lines with columns. */
static void put_paragraph(const char *text) {
    const char *start = text;
    while (*text) {
        size_t length = strcspn(text, "\n");
        const char *columns = strstr(text, "   ");
        if (text > start && *text != ' ' && columns && columns < text + length) puts(".br");
        put_words(text, length, "\n");
        text += length + (text[length] == '\n');
    }
}

/* ------------------------------------------------------------------------------------------
 * A command
 * ---------------------------------------------------------------------------------------- */

enum { LONGEST_HELP = 1024 };

static void put_option(const cli_option *option) {
    char help[LONGEST_HELP];
    cli_describe_option(option, help, sizeof help);
    fputs(".TP\n\\fB", stdout);
    if (option->letter) printf("\\-%c\\fR, \\fB", option->letter);
    fputs("\\-\\-", stdout);
    put(option->name);
    fputs("\\fR", stdout);
    if (option->argument) {
        fputs(" \\fI", stdout);
        put(option->argument);
        fputs("\\fR", stdout);
    }
    putchar('\n');
    put_paragraph(help);
}

static void put_options(const cli_option *options) {
    for (const cli_option *first = options; first->name; first++) {
        const char *group = cli_group_of(options, first);
        if (!cli_begins_group(options, first)) continue;
        fputs(".PP\n\\fI", stdout);
        put(group);
        fputs("\\fR\n", stdout);
        for (const cli_option *option = first; option->name; option++)
            if (option->kind != CLI_GROUP && strcmp(cli_group_of(options, option), group) == 0) put_option(option);
    }
}

static void put_command(const cli_command *command, const cli_option *options) {
    fputs(".SS ", stdout);
    put(command->name);
    fputs("\n\\fBsparsecbm ", stdout);
    put(command->name);
    fputs("\\fR\n", stdout);
    put_paragraph(command->usage);
    fputs(".PP\n", stdout);
    put_paragraph(command->summary);
    put_options(options);
    if (cli_common_of(options) != cli_common_options)
        put_option(cli_common_of(options)); /* the first is what others lack */
    if (command->details) {
        puts(".PP");
        put_paragraph(command->details);
    }
    puts(".PP\nExample:\n.PP\n.nf\n.RS 4");
    for (int i = 0; command->examples[i]; i++) {
        fputs("sparsecbm \\\n", stdout);
        put_words(command->examples[i], strlen(command->examples[i]), " \\\n");
    }
    puts(".RE\n.fi");
}

/* ------------------------------------------------------------------------------------------
 * The page
 * ---------------------------------------------------------------------------------------- */

static const char synopsis[] = ".SH NAME\n"
                               "sparsecbm \\- train and explain concept bottleneck models of texts\n"
                               ".SH SYNOPSIS\n"
                               ".B sparsecbm\n"
                               ".I command\n"
                               ".RI [ option ...]\n";

static const char description[] =
    "sparsecbm trains text classifiers that say why: sparse concept bottleneck models.\n"
    "The model first reads a few named concepts from a text, each through a subnetwork of its own,\n"
    "and then predicts the label from these concepts and from nothing else.\n"
    "What each concept contributed adds up to the prediction,\n"
    "and a person who sees a concept misread can correct it.\n"
    "Results go to standard output, everything else to standard error.\n"
    "A file that is read is never written over, except by quantize, which may replace its own input.\n";

typedef struct item {
    const char *what, *means; /* what NULL ends a list */
} item;

static const item statuses[] = {
    {"0", "Success."},
    {"1", "Bad input, or a failure; one line says which."},
    {"2", "Bad usage."},
    {"129, 130, 141, 143", "Interrupted by SIGHUP, Ctrl-C, a closed pipe or SIGTERM: 128 and the signal's number."},
    {NULL, NULL},
};

static const item variables[] = {
    {"SCBM_CPU", "portable, avx2, avx512 or amx: the kernels are no newer a processor's than this one's."},
    {"OMP_NUM_THREADS", "The number of threads where --threads does not say it."},
    {"NO_COLOR", "Where it is set, nothing is coloured or bold."},
    {"TMPDIR", "Where bench makes its files; /tmp where it is not set."},
    {NULL, NULL},
};

static void put_item(const char *what, const char *means) {
    fputs(".TP\n\\fB", stdout);
    put(what);
    fputs("\\fR\n", stdout);
    put_paragraph(means);
}

static void put_items(const char *heading, const item *items) {
    printf(".SH %s\n", heading);
    for (; items->what; items++) put_item(items->what, items->means);
}

int cli_print_manual(const cli_command *const *commands, const char *date) {
    int version = scbm_version();
    printf(".TH SPARSECBM 1 \"%s\" \"sparsecbm %d.%d.%d\" \"User Commands\"\n", date, version / 10000,
           version / 100 % 100, version % 100);
    fputs(synopsis, stdout);
    puts(".SH DESCRIPTION");
    put_paragraph(description);
    puts(".SH COMMANDS");
    for (const cli_command *const *command = commands; *command; command++)
        put_item((*command)->name, (*command)->summary);
    puts(".PP\nEvery command has these options:");
    for (const cli_option *option = cli_common_options; option->name; option++) put_option(option);
    puts(".SH OPTIONS AND EXAMPLES");
    int status = cli_help_of_all(commands, put_command);
    if (status != CLI_DONE) return status;
    put_items("EXIT STATUS", statuses);
    put_items("ENVIRONMENT", variables);
    return cli_finish(NULL);
}
