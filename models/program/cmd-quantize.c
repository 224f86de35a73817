/*
 * models/program/cmd-quantize.c - quantize: stores a model's matrices in fewer bits
 */
#include "models/program/options/path.h"
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether the library says that the file is quantized already: it knows no options. */
static int asks_for_requantizing(const char *error) {
    static const char end[] = "ask for requantizing";
    const size_t n = strlen(error), length = sizeof end - 1;
    return n >= length && strcmp(error + n - length, end) == 0;
}

static int run_quantize(const cli_command *command, int argc, char **argv) {
    static const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};
    const char *output = NULL;
    int type = -1, requantize = 0;
    cli_list rest = {NULL, 0};
    const cli_option options[] = {
        CLI_GROUP_OF("Output"),
        CLI_CHOICE_OPTION("type", "f32|f16|bf16|q8_0|q4_0", &type,
                          "what the encoder's matrices are stored as (required)"),
        CLI_FLAG_OPTION("requantize", &requantize,
                        "go on where matrices are q8_0 or q4_0 already: what that took away does not come back"),
        CLI_OUTPUT_OPTION(&output, "the file to write (required); it may be the one that is read"),
        CLI_END_OPTIONS,
    };
    int result = cli_parse(command, options, argc, argv, &rest);
    const char *path = rest.n ? rest.item[0] : NULL;
    int n = rest.n;
    free((void *)rest.item);
    if (result != CLI_GO_ON) return result;
    if (n != 1)
        return cli_misuse(command, "one model file is expected, got %d; see %s quantize --help", n, cli_program);
    if (type < 0) return cli_misuse(command, "--type is required: f32, f16, bf16, q8_0 or q4_0");
    if (!output) return cli_misuse(command, "-o FILE is required: where to write");

    cli_progress progress;
    scbm_hooks hooks = cli_hooks(&progress, command, 0);
    const cbm_quantize_options quantize = {.requantize = requantize, .hooks = &hooks};
    int kept = 0;
    double bytes_before = cli_file_bytes(path); /* which may be the output's too */
    scbm_status status = cbm_quantize(path, output, types[type], &quantize, &kept);
    if (status == SCBM_ERROR_ARGUMENT && asks_for_requantizing(scbm_last_error()))
        return cli_fail(command, "%s (--requantize)", scbm_last_error());
    if (status != SCBM_OK) return cli_fail_status(command, status);
    char before[32], after[32];
    cli_print_name(output, 0);
    printf(": %s as %s, from %s\n", cli_megabytes(cli_file_bytes(output), after), scbm_type_of(types[type])->name,
           cli_megabytes(bytes_before, before));
    if (kept) printf("%d matrices have rows that are no multiple of 32 and stay f16\n", kept);
    return cli_finish(command);
}

static const char *const quantize_examples[] = {"quantize demo/reviews.gguf --type q8_0 -o demo/reviews-q8.gguf", NULL};
const cli_command cmd_quantize = {
    "quantize",  "store a model's matrices in fewer bits", "FILE --type TYPE -o FILE", NULL, quantize_examples,
    run_quantize};
