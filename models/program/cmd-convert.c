/*
 * models/program/cmd-convert.c - convert and export: a Hugging Face folder's encoder to a model file, and back
 */
#include "models/cbm-train.h"
#include "models/program/options/path.h"
#include "models/program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------
 * convert
 * ---------------------------------------------------------------------------------------- */

static const scbm_type types[] = {SCBM_F32, SCBM_F16, SCBM_BF16, SCBM_Q8_0, SCBM_Q4_0};

typedef struct convert_command {
    const cli_command *command;
    const char *folder, *output;
    int type, pooling, normalize, json, verify;
    int64_t max_tokens, memory;
} convert_command;

static void print_conversion(const convert_command *c, const cbm_conversion *s) {
    cli_print_name(c->output, 0);
    printf(": %.1f MiB, %s\n", cli_file_bytes(c->output) / 1048576, scbm_type_of(types[c->type])->name);
    printf("  %lld blocks of hidden size %lld with %lld heads, %lld weights in %d tensors\n", (long long)s->blocks,
           (long long)s->hidden, (long long)s->heads, (long long)s->n_weights, s->n_tensors);
    printf("  %lld tokens, texts of up to %lld; pooling: %s%s\n", (long long)s->tokens, (long long)s->max_tokens,
           cbm_pooling_name(s->pooling), s->normalize ? ", normalized" : "");
    if (s->n_unused) {
        printf("  left out, not part of an encoder: %d tensors: ", s->n_unused);
        cli_print_name(s->unused, 0);
        putchar('\n');
    }
    if (s->n_kept_f16) printf("  %d matrices have rows that are no multiple of 32 and stay f16\n", s->n_kept_f16);
    printf("  memory: %.1f MiB at most, while %s\n", (double)s->memory.bytes / 1048576, s->memory.when);
    if (c->verify)
        printf("  verified: all weights are the folder's; hidden states of a text differ by %.1e\n", s->difference);
}

static scbm_status print_conversion_json(const convert_command *c, const cbm_conversion *s) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "file", c->output);
    cJSON_AddItemToObject(object, "file_bytes", cli_json_double(cli_file_bytes(c->output)));
    cJSON_AddStringToObject(object, "type", scbm_type_of(types[c->type])->name);
    cJSON_AddStringToObject(object, "architecture", s->architecture);
    cJSON_AddItemToObject(object, "blocks", cli_json_int(s->blocks));
    cJSON_AddItemToObject(object, "hidden_size", cli_json_int(s->hidden));
    cJSON_AddItemToObject(object, "heads", cli_json_int(s->heads));
    cJSON_AddItemToObject(object, "weights", cli_json_int(s->n_weights));
    cJSON_AddItemToObject(object, "tensors", cli_json_int(s->n_tensors));
    cJSON_AddItemToObject(object, "tensors_left_out", cli_json_int(s->n_unused));
    cJSON_AddStringToObject(object, "left_out", s->unused);
    cJSON_AddItemToObject(object, "matrices_kept_f16", cli_json_int(s->n_kept_f16));
    cJSON_AddItemToObject(object, "tokens", cli_json_int(s->tokens));
    cJSON_AddItemToObject(object, "max_tokens", cli_json_int(s->max_tokens));
    cJSON_AddStringToObject(object, "pooling", cbm_pooling_name(s->pooling));
    cJSON_AddBoolToObject(object, "normalize", s->normalize);
    cJSON_AddBoolToObject(object, "verified", c->verify);
    cli_json_memory(object, &s->memory);
    if (c->verify) cJSON_AddItemToObject(object, "hidden_difference", cli_json_double(s->difference));
    return cli_json_print(object);
}

/* A model file in the folder may be replaced: conversion does not read it. */
static int check_output(const convert_command *c) {
    size_t length = strlen(c->output);
    int is_model = length >= 5 && strcmp(c->output + length - 5, ".gguf") == 0;
    if (is_model || !cli_is_in_folder(c->output, c->folder)) return CLI_GO_ON;
    return cli_misuse(c->command,
                      "-o %.300s is a file of FOLDER, %.300s, and writing it would destroy what is converted",
                      c->output, c->folder);
}

static int convert(const convert_command *c) {
    cli_progress progress;
    scbm_hooks hooks = cli_hooks(&progress, c->command, 0);
    cbm_conversion conversion;
    const cbm_convert_options options = {.type = types[c->type],
                                         .max_tokens = (int)c->max_tokens,
                                         .pooling = (cbm_pooling)c->pooling,
                                         .normalize = (cbm_normalize)c->normalize,
                                         .verify = c->verify,
                                         .memory = (size_t)c->memory << 20,
                                         .hooks = &hooks};
    scbm_status status = cbm_convert(c->folder, c->output, &options, &conversion);
    cli_progress_clear(&progress);
    if (status != SCBM_OK) return cli_fail_status(c->command, status);
    if (c->json) return cli_fail_status(c->command, print_conversion_json(c, &conversion));
    print_conversion(c, &conversion);
    return cli_finish(c->command);
}

/* A line for each encoder that can be converted, and one for the tokenizers. */
static int list_kinds(const cli_command *command) {
    const char *type, *title, *architecture, *examples, *tokenizer;
    printf("%-12s %-12s %-10s %s\n", "model_type", "encoder", "file", "such as");
    for (int i = 0; cbm_encoder_kind_at(i, &type, &title, &architecture, &examples); i++)
        printf("%-12s %-12s %-10s %s%s\n", type ? type : "-", title, architecture, examples ? "" : "train --encoder ",
               examples ? examples : architecture);
    printf("\ntokenizers:");
    for (int i = 0; (tokenizer = cbm_convert_tokenizer_at(i)); i++) printf("%s %s", i ? "," : "", tokenizer);
    putchar('\n');
    return cli_finish(command);
}

static int run_convert(const cli_command *command, int argc, char **argv) {
    convert_command c = {.command = command};
    int lists = 0;
    cli_list rest = {NULL, 0};
    const cli_option options[] = {
        CLI_GROUP_OF("Output"),
        CLI_OUTPUT_OPTION(&c.output, "the model file to write (required)"),
        CLI_CHOICE_OPTION("type", "f32|f16|bf16|q8_0|q4_0", &c.type, "what the matrices are stored as"),
        CLI_FLAG_OPTION("verify", &c.verify,
                        "read the file again: its weights, and a text's hidden states, must be those of FOLDER"),
        CLI_INT_OPTION("memory", "MIB", &c.memory, 0, 100000000,
                       "what the conversion may take; more is refused before it starts; 0: what the machine leaves"),
        CLI_FLAG_OPTION("json", &c.json, "print one JSON object that says what was converted"),
        CLI_FLAG_OPTION("list", &lists, "print which encoders and tokenizers can be converted, and nothing else"),
        CLI_GROUP_OF("Encoder"),
        CLI_INT_OPTION("max-length", "N", &c.max_tokens, 0, 1000000,
                       "the longest text, in tokens, special ones included; 0: as the folder says"),
        CLI_CHOICE_OPTION("pool", CLI_POOLINGS, &c.pooling,
                          "how a text's vector is made of its tokens'; file: as the folder says, or the mean"),
        CLI_CHOICE_OPTION("normalize", "file|yes|no", &c.normalize, "whether embeddings are scaled to length 1"),
        CLI_END_OPTIONS,
    };
    int result = cli_parse(command, options, argc, argv, &rest), n = rest.n;
    c.folder = n ? rest.item[0] : NULL;
    free((void *)rest.item);
    if (result != CLI_GO_ON) return result;
    if (lists && !n && !c.output) return list_kinds(command);
    if (lists) return cli_misuse(command, "--list converts nothing: it goes without FOLDER and -o");
    if (n != 1) return cli_misuse(command, "one Hugging Face folder is expected, got %d; --help tells more", n);
    if (!c.output) return cli_misuse(command, "-o FILE is required: where to write");
    result = check_output(&c);
    return result == CLI_GO_ON ? convert(&c) : result;
}

static const char *const convert_examples[] = {"convert all-MiniLM-L6-v2 -o minilm.gguf --type f16", NULL};
const cli_command cmd_convert = {
    "convert",
    "make a model file of a Hugging Face folder's encoder",
    "FOLDER -o FILE [options]",
    "FOLDER holds config.json, model.safetensors or pytorch_model.bin (or an index, ….index.json, and its files), and\n"
    "tokenizer.json or an older tokenizer's files; sentence-transformers' folders are known too. --list says which encoders.",
    convert_examples,
    run_convert};

/* ------------------------------------------------------------------------------------------
 * export
 * ---------------------------------------------------------------------------------------- */

static int export_encoder(const cli_command *command, const char *path, const char *folder, const char *concept) {
    cli_progress progress;
    cbm_model *model = NULL;
    scbm_hooks hooks = cli_hooks(&progress, command, 0);
    const cbm_load_options load = {.hooks = &hooks};
    const cbm_export_options options = {.concept = concept, .hooks = &hooks};
    scbm_status status = cbm_model_load(&model, path, &load);
    if (status == SCBM_OK) status = cbm_export(model, folder, &options);
    cli_progress_clear(&progress);
    int result = status == SCBM_OK ? CLI_DONE : cli_fail_status(command, status);
    cbm_model_free(model);
    if (result == CLI_DONE) cli_say_wrote(command, folder);
    return result;
}

static int run_export(const cli_command *command, int argc, char **argv) {
    const char *folder = NULL, *concept = NULL;
    cli_list rest = {NULL, 0};
    const cli_option options[] = {
        CLI_GROUP_OF("Output"),
        {.kind = CLI_TEXT,
         .name = "output",
         .argument = "FOLDER",
         .value = &folder,
         .help = "the folder to write (required); it may be there if it is empty",
         .letter = 'o'},
        CLI_GROUP_OF("Encoder"),
        CLI_TEXT_OPTION("concept", "NAME", &concept,
                        "only the weights of this concept's subnetwork: what it does not keep is zero"),
        CLI_END_OPTIONS,
    };
    int result = cli_parse(command, options, argc, argv, &rest), n = rest.n;
    const char *path = n ? rest.item[0] : NULL;
    free((void *)rest.item);
    if (result != CLI_GO_ON) return result;
    if (n != 1) return cli_misuse(command, "one model file is expected, got %d; see %s export --help", n, cli_program);
    if (!folder) return cli_misuse(command, "-o FOLDER is required: where to write");
    return export_encoder(command, path, folder, concept);
}

static const char *const export_examples[] = {"export demo/encoder.gguf -o demo/encoder", NULL};
const cli_command cmd_export = {
    "export",
    "make a Hugging Face folder of a model's encoder",
    "FILE -o FOLDER [--concept NAME]",
    "transformers and sentence-transformers open the folder: AutoModel.from_pretrained(\"FOLDER\"). Concepts and label are\n"
    "left out; matrices that are stored in fewer bits are written as f32.",
    export_examples,
    run_export};
