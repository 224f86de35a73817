/*
 * models/program/csv.c - tables as CSV files, which the program can read again
 */
#include "models/program/program.h"

#include <string.h>

static void begin_field(cli_csv *csv) {
    if (csv->column++) scbm_output_write(csv->file, ",", 1);
}

void cli_csv_field(cli_csv *csv, const char *prefix, const char *text, size_t length) {
    const char *end = text + length;
    begin_field(csv);
    scbm_output_print(csv->file, "\"%s", prefix);
    for (const char *quote = memchr(text, '"', length); quote; quote = memchr(text, '"', (size_t)(end - text))) {
        scbm_output_write(csv->file, text, (size_t)(quote - text) + 1);
        scbm_output_write(csv->file, "\"", 1);
        text = quote + 1;
    }
    scbm_output_write(csv->file, text, (size_t)(end - text));
    scbm_output_write(csv->file, "\"", 1);
}

void cli_csv_text(cli_csv *csv, const char *prefix, const char *text) {
    cli_csv_field(csv, prefix, text ? text : "", text ? strlen(text) : 0);
}

void cli_csv_integer(cli_csv *csv, int64_t value) {
    begin_field(csv);
    scbm_output_print(csv->file, "%lld", (long long)value);
}

void cli_csv_float(cli_csv *csv, float value) {
    char text[32];
    begin_field(csv);
    scbm_output_print(csv->file, "%s", scbm_print_float(value, text));
}

void cli_csv_end_row(cli_csv *csv) {
    scbm_output_write(csv->file, "\n", 1);
    csv->column = 0;
}

/* What is quoted, without the quotes around it. */
static void write_quoted(cli_csv *csv, const char *text) {
    for (; *text; text++) {
        if (*text == '"') scbm_output_write(csv->file, "\"", 1);
        scbm_output_write(csv->file, text, 1);
    }
}

void cli_csv_class_head(cli_csv *csv, const char *of, const char *class_name) {
    begin_field(csv);
    scbm_output_write(csv->file, "\"", 1);
    write_quoted(csv, of);
    scbm_output_write(csv->file, ": ", 2);
    write_quoted(csv, class_name);
    scbm_output_write(csv->file, "\"", 1);
}
