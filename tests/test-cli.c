/*
 * tests/test-cli.c - the program as its users meet it: usage, errors, JSON, streams, signals
 *
 * Runs the program named by the environment's MAIN (default models/main) in a folder of its own.
 */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L

#include "models/cbm-train.h"
#include "tests/helpers.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char program[PATH_MAX];

static const char *const commands[] = {"demo",     "train",   "eval",   "predict",  "explain", "intervene", "embed",
                                       "tokenize", "convert", "export", "quantize", "inspect", "bench"};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

#define COLUMNS "--text review --label stars --concept food --concept service --concept noise --concept price"
#define TRAIN "train --encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv " COLUMNS
#define PRUNE_ONCE " --epochs 1 --prune magnitude --sparsity 0.6 --prune-start 1 --prune-end 1"

/* ------------------------------------------------------------------------------------------
 * Helpers
 * ---------------------------------------------------------------------------------------- */

typedef struct outcome {
    int status;
    char *out, *err; /* standard output and error, NUL-terminated */
} outcome;

/* Runs a shell command in which "$MAIN" is the program. */
static outcome shell(const char *command) {
    char line[8192];
    outcome result;
    snprintf(line, sizeof line, "{ %s\n} >out 2>err", command);
    int status = system(line);
    assert_true(WIFEXITED(status));
    result.status = WEXITSTATUS(status);
    result.out = read_file("out", NULL);
    result.err = read_file("err", NULL);
    return result;
}

static void forget(outcome *result) {
    free(result->out);
    free(result->err);
}

/* The shell command must succeed. */
static void do_shell(const char *command) {
    outcome result = shell(command);
    if (result.status != 0) fail_msg("status %d from: %s: %s%s", result.status, command, result.out, result.err);
    forget(&result);
}

/* The shell command must end with `status` and say `words`. */
static void expect_end(const char *command, int status, const char *words) {
    outcome result = shell(command);
    if (result.status != status)
        fail_msg("status %d, not %d, from: %s: %s", result.status, status, command, result.err);
    if (!strstr(result.err, words)) fail_msg("'%s' is not in the message of: %s: %s", words, command, result.err);
    forget(&result);
}

/* Runs the program with these arguments. */
static outcome run(const char *arguments) {
    char line[4096];
    snprintf(line, sizeof line, "\"$MAIN\" %s </dev/null", arguments);
    return shell(line);
}

/* The program must succeed; its standard output, to be freed. */
static char *output_of(const char *arguments) {
    outcome result = run(arguments);
    if (result.status != 0) fail_msg("status %d from: %s: %s", result.status, arguments, result.err);
    free(result.err);
    return result.out;
}

static int count_lines(const char *text) {
    int n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

/* The program must fail with `status`, say one line that contains `words`, and print no result. */
static void expect_error(const char *arguments, int status, const char *words) {
    outcome result = run(arguments);
    if (result.status != status)
        fail_msg("status %d, not %d, from: %s: %s", result.status, status, arguments, result.err);
    if (!strstr(result.err, words)) fail_msg("'%s' is not in the message of: %s: %s", words, arguments, result.err);
    if (count_lines(result.err) != 1) fail_msg("not one line from: %s: %s", arguments, result.err);
    if (result.out[0]) fail_msg("results from: %s: %s", arguments, result.out);
    forget(&result);
}

/* Line `index` of JSON lines. */
static cJSON *json_line(const char *text, int index) {
    for (; index > 0; index--) {
        text = strchr(text, '\n');
        assert_non_null(text);
        text++;
    }
    cJSON *object = cJSON_ParseWithOpts(text, NULL, 0);
    if (!object) fail_msg("not JSON: %.200s", text);
    return object;
}

/* The object's keys are exactly these, in this order. */
static void expect_keys(const cJSON *object, const char *keys) {
    char found[512] = "";
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        strcat(found, found[0] ? " " : "");
        strcat(found, item->string);
    }
    assert_string_equal(found, keys);
}

static double number(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItem(object, key);
    if (!cJSON_IsNumber(item)) fail_msg("%s is no number", key);
    return item->valuedouble;
}

static int set_up(void **state) {
    const char *name = getenv("MAIN");
    if (!realpath(name ? name : "models/main", program)) return -1;
    setenv("MAIN", program, 1);
    if (make_folder(state) || chdir(folder) != 0) return -1;
    char *text = output_of("demo --data-only --reviews 900 --dir demo");
    free(text);
    text = output_of(TRAIN PRUNE_ONCE " -o demo/reviews.gguf");
    free(text);
    text = output_of(TRAIN " --epochs 0 -o dense.gguf");
    free(text);
    return 0;
}

static int tear_down(void **state) {
    return chdir("/") != 0 || remove_folder(state) != 0;
}

/* ------------------------------------------------------------------------------------------
 * Usage and errors
 * ---------------------------------------------------------------------------------------- */

static void bad_usage_has_status_2(void **state) {
    (void)state;
    expect_error("predcit", 2, "did you mean 'predict'?");
    expect_error("--frobnicate", 2, "command is expected");
    expect_error("train --epochs x", 2, "sparsecbm train: --epochs wants a whole number, got 'x'");
    expect_error("train --epochs 1.5", 2, "--epochs wants a whole number, got '1.5'");
    expect_error("train --epochs=-1", 2, "--epochs wants a whole number from 0 to");
    expect_error("train --epochs 99999999999999999999", 2, "--epochs wants a whole number");
    expect_error("train --lambda nan", 2, "--lambda wants a number, got 'nan'");
    expect_error("train --mode jiont", 2, "--mode wants vanilla|independent|sequential|joint, got 'jiont'");
    expect_error("train --epoch 3", 2, "did you mean --epochs?");
    expect_error("train --zzz 3", 2, "--help");
    expect_error("train --epochs", 2, "--epochs wants a value");
    expect_error("train --json=yes", 2, "--json takes no value");
    expect_error("predict -x", 2, "no option -x");
    expect_error("predict text", 2, "--model FILE is required");
    expect_error("predict --model demo/reviews.gguf --file a --data b text", 2, "not by several");
    expect_error("predict --model demo/encoder.gguf --data demo/test.csv", 2, "--text COLUMN");
    expect_error("inspect", 2, "one model file");
    expect_error("inspect a b", 2, "one model file");
    expect_error("quantize demo/reviews.gguf -o q.gguf", 2, "--type");
    expect_error("quantize demo/reviews.gguf --type q8_0", 2, "-o FILE");
    expect_error("quantize demo/reviews.gguf --type q9 -o q.gguf", 2, "f32|f16|bf16|q8_0|q4_0");
    expect_error("bench", 2, "linear");
    expect_error("bench laten", 2, "did you mean latency");
    expect_error("train --encoder demo/encoder.gguf --data demo/train.csv -o x", 2, "--validation");
    expect_error("train --encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv -o x", 2, "--text");
    expect_error(TRAIN " --concept food=price -o x", 2, "given twice");
    expect_error(TRAIN " --mode vanilla -o x", 2, "vanilla has no concepts");
    expect_error(TRAIN " --prune obert --epochs 3 -o x", 2, "3 epochs end before the last pruning in epoch 15");
    expect_error(TRAIN " --prune obert --prune-end 1 -o x", 2, "from epoch 2 to 1");
    expect_error("intervene --model demo/reviews.gguf text", 2, "--set CONCEPT=CLASS is required");
    expect_error("intervene --model demo/reviews.gguf text --set food", 2, "--set wants CONCEPT=CLASS, got 'food'");
    expect_error("intervene --model demo/reviews.gguf text --set =Negative", 2, "--set wants CONCEPT=CLASS");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --set food=Positive", 2,
                 "'food' is set twice");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --portion 0", 2, "above 0 and up to 1");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --portion 1.01", 2, "from 0 to 1");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --steps 0", 2, "from 1 to");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --method edit --steps 2", 2,
                 "about masks");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --edit one-hot", 2,
                 "about edited values");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --portion 0.1", 2,
                 "has no effect without --intervene mask|edit");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --whole-steps", 2,
                 "has no effect without --intervene mask|edit");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --method edit --whole-steps", 2,
                 "are about masks");
    expect_error("intervene --model demo/reviews.gguf text --set food=Negative --select abs --whole-steps", 2,
                 "--whole-steps has no effect beside --select abs");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --resamples 0 --seed 1", 2,
                 "--seed has no effect with --resamples 0");
    expect_error("explain --model demo/reviews.gguf --sample 3 text", 2, "--sample has no effect without --global");
    expect_error("explain --model demo/reviews.gguf --global --seed 3 text", 2,
                 "--seed has no effect without --faithfulness");
    expect_error("explain --model demo/reviews.gguf --steps 0 --max-steps 64 text", 2,
                 "--max-steps has no effect with --steps 0");
    expect_error("explain --model demo/reviews.gguf --global --neurons 2 text", 2,
                 "--neurons has no effect with --global");
    expect_error("explain --model demo/reviews.gguf --json --neurons 2 text", 2,
                 "--neurons has no effect with --json, which has no neurons");
    expect_error("explain --model demo/reviews.gguf --json --words 2 text", 2,
                 "--words has no effect with --json, which has all words");
}

/* Every command refuses a file that it would both read and write, before any work, and leaves it as it is. */
static void no_input_is_overwritten(void **state) {
    (void)state;
    do_shell("cp demo/reviews.gguf model.gguf; cp demo/test.csv data.csv; cp demo/encoder.gguf enc.gguf\n"
             "ln -sf model.gguf link.gguf; ln -f data.csv hard.csv; mkdir -p sub\n"
             "cat model.gguf data.csv enc.gguf | cksum >sums");
    expect_error("explain --model model.gguf --html model.gguf text", 2,
                 "--html and --model are the same file, model.gguf");
    expect_error("explain --model model.gguf --html ./sub/../model.gguf text", 2,
                 "--html and --model are the same file");
    expect_error("explain --model model.gguf --html link.gguf text", 2, "--html and --model are the same file");
    expect_error("explain --model model.gguf --png x.png --html x.png text", 2,
                 "--html and --png are the same file, x.png");
    expect_error("explain --model model.gguf --png x.png --html sub/../x.png text", 2,
                 "--html and --png are the same file");
    expect_error("explain --model model.gguf --data data.csv --global --png data.csv", 2,
                 "--png and --data are the same file");
    expect_error("eval --model model.gguf --data data.csv --csv hard.csv", 2,
                 "--csv and --data are the same file, hard.csv");
    expect_error("eval --model model.gguf --data data.csv --csv model.gguf", 2, "--csv and --model are the same file");
    expect_error("train --encoder enc.gguf --data data.csv --validation demo/dev.csv " COLUMNS " -o enc.gguf", 2,
                 "-o and --encoder are the same file, enc.gguf");
    expect_error("train --encoder enc.gguf --data demo/train.csv --data data.csv --validation demo/dev.csv " COLUMNS
                 " -o data.csv",
                 2, "-o and --data are the same file");
    expect_error(TRAIN " -o y.gguf --log-steps demo/dev.csv", 2, "--log-steps and --validation are the same file");
    expect_error(TRAIN " -o y.gguf --log-steps steps.csv --dump-order steps.csv", 2,
                 "--log-steps and --dump-order are the same file");
    expect_error(TRAIN " -o y.gguf --dump-order y.gguf.checkpoint", 2, "checkpoint and --dump-order are the same file");
    expect_error("bench latency --model model.gguf -o model.gguf", 2, "-o and --model are the same file");
    do_shell("cp data.csv grows.csv; \"$MAIN\" predict --model model.gguf --data grows.csv >>grows.csv\n"
             "test $? = 2 && cmp grows.csv data.csv && grep -q 'standard output and --data' err\n"
             "cat model.gguf data.csv enc.gguf | cksum | cmp - sums");
}

/* Devices are no files that could be destroyed. */
static void several_outputs_may_be_thrown_away(void **state) {
    (void)state;
    free(output_of("explain --model demo/reviews.gguf --steps 1 --html /dev/null --png /dev/null text"));
}

/* A file is replaced when all of it was read. */
static void quantizing_in_place_is_safe(void **state) {
    (void)state;
    do_shell(
        "cp demo/reviews.gguf place.gguf; \"$MAIN\" quantize demo/reviews.gguf --type q8_0 -o aside.gguf >said\n"
        "\"$MAIN\" quantize place.gguf --type q8_0 -o place.gguf | sed s/place/aside/ | cmp - said && cmp place.gguf aside.gguf");
}

/* What cannot be written is said before the work, which here would fail for another reason. */
static void outputs_are_checked_before_the_work(void **state) {
    (void)state;
    do_shell("mkdir -p taken");
    expect_error("explain --model nothing.gguf --png missing/x.png text", 1,
                 "missing/x.png (--png): cannot be written: No such file");
    expect_error("explain --model nothing.gguf --html taken text", 1,
                 "taken (--html): cannot be written: Is a directory");
    expect_error("explain --model nothing.gguf --html demo/test.csv/x.html text", 1, "(--html): cannot be written");
    expect_error("eval --model nothing.gguf --data demo/test.csv --csv missing/x.csv", 1, "missing/x.csv (--csv)");
    expect_error(TRAIN " --encoder nothing.gguf -o missing/x.gguf", 1, "missing/x.gguf (-o)");
    expect_error(TRAIN " --encoder nothing.gguf -o x.gguf --log-steps missing/x.csv", 1, "missing/x.csv (--log-steps)");
    expect_error("quantize nothing.gguf --type q8_0 -o missing/q.gguf", 1, "missing/q.gguf (-o)");
    expect_error("explain --model dense.gguf --png x.png --file nothing.txt", 1,
                 "--png draws the masks of subnetworks, and dense.gguf is dense");
    expect_error("explain --model nothing.gguf --html x.html one two", 2, "--html holds one text");
    expect_error("explain --model demo/reviews.gguf --html x.html --data demo/test.csv", 1, "--html holds one text");
    assert_int_not_equal(access("x.html", F_OK), 0);
}

static void written_files_are_told(void **state) {
    (void)state;
    outcome result = run("explain --model demo/reviews.gguf --steps 1 --html a.html --png a.png text");
    assert_string_equal(result.err, "sparsecbm explain: wrote a.html\nsparsecbm explain: wrote a.png\n");
    forget(&result);
    result = run("eval --model demo/reviews.gguf --data demo/test.csv --resamples 0 --csv told.csv");
    assert_string_equal(result.err, "sparsecbm eval: wrote told.csv\n");
    forget(&result);
}

static void no_command_prints_usage(void **state) {
    (void)state;
    outcome result = run("");
    assert_int_equal(result.status, 2);
    assert_non_null(strstr(result.err, "Commands:"));
    assert_string_equal(result.out, "");
    forget(&result);
}

static void bad_input_has_status_1(void **state) {
    (void)state;
    expect_error("predict --model nothing.gguf text", 1, "nothing.gguf");
    expect_error("predict --model demo/train.csv text", 1, "demo/train.csv");
    expect_error("predict --model demo/encoder.gguf text", 1, "encoder without labels");
    expect_error("inspect nothing.gguf", 1, "nothing.gguf");
    expect_error("quantize nothing.gguf --type q8_0 -o q.gguf", 1, "nothing.gguf");
    expect_error("quantize demo/reviews.gguf --type q8_0 -o missing/q.gguf", 1, "missing/q.gguf");
    expect_error("predict --model demo/reviews.gguf --file nothing.txt", 1, "nothing.txt");
    expect_error("predict --model demo/reviews.gguf --data nothing.csv", 1, "nothing.csv");
    expect_error("predict --model demo/reviews.gguf --data demo/test.csv --text missing", 1,
                 "no column 'missing' (--text COLUMN chooses another); there are 'review'");
    expect_error("embed --model demo/encoder.gguf --max-length 100000 text", 1, "--max-length");
    expect_error("eval --model demo/encoder.gguf --data demo/test.csv", 1, "encoder");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --label missing", 1,
                 "no column 'missing' (--label COLUMN chooses another); there are 'review', 'stars', 'food'");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --text missing", 1,
                 "(--text COLUMN chooses another)");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --concept food=missing", 1,
                 "(--concept NAME=COLUMN, with == for a = of the name, chooses another)");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --label price", 1, "demo/test.csv");
    expect_error("eval --model demo/reviews.gguf --data demo/test.csv --concept fod=food", 1, "no concept 'fod'");
    expect_error(TRAIN " --data nothing.csv -o x", 1, "nothing.csv");
    expect_error("intervene --model demo/reviews.gguf text --set fod=Negative", 1,
                 "no concept 'fod'; the model has food, service");
    expect_error("intervene --model demo/reviews.gguf text --set food=Bad", 1,
                 "no class 'Bad'; it has Negative, Positive, unknown");
    expect_error("intervene --model dense.gguf text --set food=Negative", 1,
                 "dense.gguf is a dense model, without subnetworks whose masks could change: use --method edit");
    expect_error("intervene --model demo/encoder.gguf text --set food=Negative", 1, "encoder without labels");
    expect_error("eval --model dense.gguf --data demo/test.csv --intervene mask", 1, "use --intervene edit");
    expect_error(TRAIN " --json --prune magnitude --sparsity 0.5 --initial-sparsity 0.6 -o x", 2,
                 "must lie between 0 and 0.5");
    expect_error(TRAIN " --concept smell -o x", 1, "smell");
}

static void a_missing_key_names_the_option(void **state) {
    (void)state;
    do_shell("echo '{\"words\": \"The soup was cold.\"}' >keys.jsonl");
    expect_error("predict --model demo/reviews.gguf --data keys.jsonl", 1,
                 "no key 'review' (--text COLUMN chooses another); there are 'words'");
}

static void truncated_and_empty_models_are_refused(void **state) {
    (void)state;
    do_shell("head -c 1000 demo/reviews.gguf >short.gguf; : >empty.gguf");
    expect_error("predict --model short.gguf text", 1, "short.gguf");
    expect_error("predict --model empty.gguf text", 1, "empty.gguf");
    expect_error("inspect short.gguf", 1, "short.gguf");
}

static void an_unknown_tier_is_refused(void **state) {
    (void)state;
    expect_end("SCBM_CPU=abacus \"$MAIN\" predict --model demo/reviews.gguf text", 1, "abacus");
    do_shell("SCBM_CPU=portable \"$MAIN\" predict --model demo/reviews.gguf text");
}

static void a_full_disk_is_noticed(void **state) {
    (void)state;
    if (access("/dev/full", W_OK) != 0) skip();
    expect_end("\"$MAIN\" predict --model demo/reviews.gguf text >/dev/full", 1, "standard output");
    expect_end("\"$MAIN\" inspect demo/reviews.gguf >/dev/full", 1, "");
}

static void a_closed_pipe_ends_quietly(void **state) {
    (void)state;
    outcome result = shell("for i in 1 2 3 4 5 6 7 8 9; do cat demo/test.csv; done >many.txt\n"
                           "\"$MAIN\" predict --model demo/reviews.gguf --file many.txt --json | head -n 1");
    assert_int_equal(count_lines(result.out), 1);
    assert_null(strstr(result.err, "rror"));
    forget(&result);
}

static void the_version_is_printed(void **state) {
    (void)state;
    char *text = output_of("--version");
    int major, minor, patch;
    assert_int_equal(sscanf(text, "sparsecbm %d.%d.%d", &major, &minor, &patch), 3);
    free(text);
}

/* ------------------------------------------------------------------------------------------
 * Help
 * ---------------------------------------------------------------------------------------- */

static void every_command_has_help(void **state) {
    (void)state;
    char *all = output_of("--help");
    for (int i = 0; i < N_COMMANDS; i++) {
        char arguments[64];
        assert_non_null(strstr(all, commands[i]));
        snprintf(arguments, sizeof arguments, "%s --help", commands[i]);
        char *text = output_of(arguments);
        assert_non_null(strstr(text, "Usage: "));
        assert_non_null(strstr(text, "Example:\n  "));
        snprintf(arguments, sizeof arguments, "help %s", commands[i]);
        char *same = output_of(arguments);
        assert_string_equal(text, same);
        free(same);
        free(text);
    }
    free(all);
}

static void the_examples_of_help_work(void **state) {
    (void)state;
    for (int i = 0; i < N_COMMANDS; i++) {
        char arguments[64];
        if (strcmp(commands[i], "demo") == 0) continue;    /* its example is `make demo`: test-long runs it */
        if (strcmp(commands[i], "convert") == 0) continue; /* its example needs a folder of the user's */
        snprintf(arguments, sizeof arguments, "%s --help", commands[i]);
        char *text = output_of(arguments);
        char *example = strstr(text, "Example:\n  ");
        assert_non_null(example);
        for (char *line = strtok(example + strlen("Example:\n"), "\n"); line; line = strtok(NULL, "\n")) {
            outcome result = shell(line);
            if (result.status != 0) fail_msg("status %d from the example: %s: %s", result.status, line, result.err);
            assert_true(result.out[0] != 0 || strcmp(commands[i], "export") == 0); /* that leaves a folder */
            forget(&result);
        }
        free(text);
    }
}

/* ------------------------------------------------------------------------------------------
 * Results
 * ---------------------------------------------------------------------------------------- */

static void tokenize_prints_ids_tokens_offsets(void **state) {
    (void)state;
    const char *text = "The soup, xq";
    char *lines = output_of("tokenize --model demo/encoder.gguf --json 'The soup, xq' ''");
    cJSON *object = json_line(lines, 0);
    expect_keys(object, "ids tokens offsets");
    const cJSON *ids = cJSON_GetObjectItem(object, "ids"), *tokens = cJSON_GetObjectItem(object, "tokens");
    const cJSON *offsets = cJSON_GetObjectItem(object, "offsets");
    int n = cJSON_GetArraySize(ids);
    assert_int_equal(n, 7); /* [CLS] the soup , x ##q [SEP] */
    assert_int_equal(cJSON_GetArraySize(tokens), n);
    assert_int_equal(cJSON_GetArraySize(offsets), n);
    assert_string_equal(cJSON_GetArrayItem(tokens, 0)->valuestring, "[CLS]");
    assert_string_equal(cJSON_GetArrayItem(tokens, 2)->valuestring, "soup");
    assert_string_equal(cJSON_GetArrayItem(tokens, 5)->valuestring, "##q");
    assert_string_equal(cJSON_GetArrayItem(tokens, 6)->valuestring, "[SEP]");
    const cJSON *range = cJSON_GetArrayItem(offsets, 2);
    int start = cJSON_GetArrayItem(range, 0)->valueint, end = cJSON_GetArrayItem(range, 1)->valueint;
    assert_int_equal(end - start, 4);
    assert_memory_equal(text + start, "soup", 4);
    cJSON_Delete(object);
    object = json_line(lines, 1);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(object, "ids")), 2);
    cJSON_Delete(object);
    free(lines);
    lines = output_of("tokenize --model demo/encoder.gguf 'The soup'");
    assert_non_null(strstr(lines, "soup"));
    free(lines);
}

static void embed_prints_vectors(void **state) {
    (void)state;
    char *lines = output_of(
        "embed --model demo/encoder.gguf --json --normalize yes 'The soup was cold.' 'Kind staff!'");
    assert_int_equal(count_lines(lines), 2);
    cJSON *object = json_line(lines, 0);
    expect_keys(object, "embedding");
    double norm = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(object, "embedding")) norm += item->valuedouble * item->valuedouble;
    assert_true(fabs(norm - 1) < 1e-5);
    cJSON_Delete(object);
    free(lines);
    char *mean = output_of("embed --model demo/encoder.gguf --pool mean 'The soup was cold.'");
    char *first = output_of("embed --model demo/encoder.gguf --pool first 'The soup was cold.'");
    assert_string_not_equal(mean, first);
    free(mean);
    free(first);
}

/* The head says the shape, and the numbers are those that are printed. */
static void embed_writes_numpy_files(void **state) {
    (void)state;
    free(output_of("embed --model demo/encoder.gguf -o vectors.npy 'The soup was cold.' 'Kind staff!' x"));
    char *printed = output_of("embed --model demo/encoder.gguf 'The soup was cold.' 'Kind staff!' x");
    size_t size;
    char *bytes = read_file("vectors.npy", &size);
    assert_memory_equal(bytes, "\x93NUMPY\1\0", 8);
    size_t head = 10 + (unsigned char)bytes[8] + 256 * (size_t)(unsigned char)bytes[9];
    assert_int_equal(head % 64, 0);
    assert_int_equal(bytes[head - 1], '\n');
    const char *text = bytes + 10;
    assert_memory_equal(text, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 48), }", 60);
    assert_int_equal(size, head + 3 * 48 * sizeof(float));
    const char *at = printed;
    for (int i = 0; i < 3 * 48; i++) {
        float value;
        memcpy(&value, bytes + head + (size_t)i * sizeof value, sizeof value);
        char *end;
        assert_true(value == strtof(at, &end));
        at = end;
    }
    free(bytes);
    free(printed);
    expect_error("embed --model demo/encoder.gguf --json -o vectors.npy x", 2, "--json has no effect beside -o");
}

static void check_prediction(const cJSON *object) {
    expect_keys(object, "label probability logits labels bias truncated concepts row");
    const cJSON *logits = cJSON_GetObjectItem(object, "logits"), *concepts = cJSON_GetObjectItem(object, "concepts");
    double largest = -1e30, sum = number(object, "bias"), total = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, logits) largest = fmax(largest, item->valuedouble);
    cJSON_ArrayForEach(item, logits) total += exp(item->valuedouble - largest);
    assert_true(fabs(number(object, "probability") - 1 / total) < 1e-5);
    assert_int_equal(cJSON_GetArraySize(logits), 5);
    assert_int_equal(cJSON_GetArraySize(concepts), 4);
    cJSON_ArrayForEach(item, concepts) {
        expect_keys(item, "name class probability logits classes contribution");
        assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(item, "classes")), 3);
        sum += number(item, "contribution");
        assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(item, "logits")), 3);
    }
    assert_true(fabs(sum - largest) <= 1e-5 * fmax(1, fabs(largest)));
}

static void predict_contributions_add_up(void **state) {
    (void)state;
    char *lines = output_of(
        "predict --model demo/reviews.gguf --json 'The soup was cold.' 'A kind waiter, and cheap!' ''");
    assert_int_equal(count_lines(lines), 3);
    for (int i = 0; i < 3; i++) {
        cJSON *object = json_line(lines, i);
        check_prediction(object);
        cJSON_Delete(object);
    }
    free(lines);
    lines = output_of("predict --model demo/reviews.gguf 'The soup was cold.'");
    assert_non_null(strstr(lines, "food"));
    assert_non_null(strstr(lines, "bias"));
    free(lines);
}

/* Probabilities of all classes, rows, ids and texts; the same numbers in a table. */
static void predictions_can_be_read_alone(void **state) {
    (void)state;
    do_shell("printf 'key,words\\nk1,The soup was cold.\\nk2,\"A kind \"\"waiter\"\", and cheap!\"\\n' >keyed.csv");
    char *lines = output_of("predict --model demo/reviews.gguf --data keyed.csv --text words --id key --echo --json");
    cJSON *object = json_line(lines, 1);
    expect_keys(object, "label probability logits labels bias truncated concepts row id text");
    assert_true(number(object, "row") == 2);
    assert_string_equal(cJSON_GetObjectItem(object, "id")->valuestring, "k2");
    assert_string_equal(cJSON_GetObjectItem(object, "text")->valuestring, "A kind \"waiter\", and cheap!");
    double sum = 0, largest = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(object, "labels")) {
        expect_keys(item, "name probability logit");
        sum += number(item, "probability");
        largest = fmax(largest, number(item, "probability"));
    }
    assert_true(fabs(sum - 1) < 1e-5);
    assert_true(largest == number(object, "probability"));
    free(lines);
    free(output_of("predict --model demo/reviews.gguf --data keyed.csv --text words --id key --echo -o table.csv"));
    char *table = read_file("table.csv", NULL), row[200];
    assert_int_equal(count_lines(table), 3);
    assert_non_null(strstr(table, "\"row\",\"id\",\"text\",\"label\",\"probability\",\"label: 1\","));
    snprintf(row, sizeof row, "\n2,\"k2\",\"A kind \"\"waiter\"\", and cheap!\",\"%s\",",
             cJSON_GetObjectItem(object, "label")->valuestring);
    if (!strstr(table, row)) fail_msg("'%s' is not in: %s", row, table);
    free(table);
    cJSON_Delete(object);
    expect_error("predict --model demo/reviews.gguf --echo text", 2, "--echo has no effect without --json or -o");
    expect_error("predict --model demo/reviews.gguf --json --id key text", 2, "--id has no effect without --data");
    expect_error("predict --model demo/reviews.gguf --json -o table.csv text", 2, "--json has no effect beside -o");
    expect_error("predict --model demo/reviews.gguf --json --data keyed.csv --text words --id no", 1, "--id COLUMN");
}

static void devices_are_chosen_by_name(void **state) {
    (void)state;
    char *lines = output_of("inspect --devices --json");
    cJSON *object = json_line(lines, 0);
    assert_string_equal(cJSON_GetObjectItem(object, "device")->valuestring, "cpu");
    cJSON_Delete(object);
    free(lines);
    char *on_cpu = output_of("predict --model demo/reviews.gguf --json --device cpu text");
    char *by_default = output_of("predict --model demo/reviews.gguf --json text");
    assert_string_equal(on_cpu, by_default);
    free(on_cpu);
    free(by_default);
    expect_error(TRAIN PRUNE_ONCE " --device gpux -o device.gguf", 1, "--device gpux: there is no backend 'gpux'");
    expect_error("predict --model demo/reviews.gguf --device gpux text", 1,
                 "--device gpux: there is no backend 'gpux'");
    expect_error("inspect --devices demo/reviews.gguf", 2, "leave FILE out");
}

/* A wide name takes two cells a character; nothing of a text or a name reaches the terminal as a control character. */
static void names_are_escaped_and_aligned(void **state) {
    (void)state;
    free(output_of(
        "train --encoder demo/encoder.gguf --data demo/dev.csv --validation demo/dev.csv --text review --label "
        "stars --concept service --concept '\xE6\x96\x99\xE7\x90\x86=food' --epochs 0 -o wide.gguf"));
    char *text = output_of("predict --model wide.gguf \"$(printf 'a \\033[31mred')\" 'b\nc'");
    assert_non_null(strstr(text, "\n  \xE6\x96\x99\xE7\x90\x86     ")); /* 4 of 7 cells, and two between columns */
    assert_non_null(strstr(text, "a \\x1b[31mred\n"));
    assert_null(strchr(text, 27));
    free(text);
    text = output_of(
        "intervene --model wide.gguf --method edit --edit one-hot --set '\xE6\x96\x99\xE7\x90\x86=Positive' x");
    assert_non_null(strstr(text, "\n  \xE6\x96\x99\xE7\x90\x86     "));
    free(text);
}

static void quiet_leaves_results_and_errors(void **state) {
    (void)state;
    outcome result = run("explain --model demo/reviews.gguf --steps 1 --html quiet.html --quiet text");
    assert_int_equal(result.status, 0);
    assert_string_equal(result.err, "");
    assert_true(result.out[0] != 0);
    forget(&result);
    expect_error("predict --quiet --model nothing.gguf text", 1, "nothing.gguf");
}

static const cJSON *concept_of(const cJSON *prediction, const char *name) {
    const cJSON *concept;
    cJSON_ArrayForEach(
        concept,
        cJSON_GetObjectItem(prediction, "concepts")) if (strcmp(cJSON_GetObjectItem(concept, "name")->valuestring,
                                                                name) == 0) return concept;
    fail_msg("there is no concept %s", name);
    return NULL;
}

static void intervene_prints_what_was_and_what_is(void **state) {
    (void)state;
    char *file = read_file("demo/reviews.gguf", NULL);
    char *first = output_of("predict --model demo/reviews.gguf --json 'The soup was cold.'");
    char *lines = output_of(
        "intervene --model demo/reviews.gguf --json --set food=Positive --set price=Negative 'The soup was cold.' 'x'");
    assert_int_equal(count_lines(lines), 2);
    cJSON *object = json_line(lines, 0);
    expect_keys(object, "method steps moved_bits total_bits interventions before after");
    cJSON *before = cJSON_GetObjectItem(object, "before"), *after = cJSON_GetObjectItem(object, "after"),
          *predicted = json_line(first, 0);
    cJSON_DeleteItemFromObject(predicted, "row");
    assert_true(cJSON_Compare(before, predicted, 1));
    expect_keys(after, "label probability logits labels bias truncated concepts");
    assert_true(cJSON_Compare(concept_of(before, "noise"), concept_of(after, "noise"), 1) ||
                number(concept_of(before, "noise"), "probability") ==
                    number(concept_of(after, "noise"), "probability"));
    assert_string_equal(cJSON_GetObjectItem(concept_of(after, "food"), "class")->valuestring, "Positive");
    assert_string_equal(cJSON_GetObjectItem(concept_of(after, "price"), "class")->valuestring, "Negative");
    assert_true(number(object, "steps") >= 1 && number(object, "moved_bits") > 0);
    assert_true(number(object, "total_bits") == 2 * 2 * (4 * 48 * 48 + 2 * 48 * 96)); /* two concepts, two layers */
    cJSON_Delete(object);
    cJSON_Delete(predicted);
    free(lines);
    free(first);
    lines = output_of(
        "intervene --model demo/reviews.gguf --method edit --json --set food=Positive 'The soup was cold.'");
    object = json_line(lines, 0);
    assert_true(number(object, "steps") == 0 && number(object, "moved_bits") == 0);
    cJSON_Delete(object);
    free(lines);
    lines = output_of("intervene --model demo/reviews.gguf --set food=Positive 'The soup was cold.'");
    assert_non_null(strstr(lines, "mask bits moved"));
    free(lines);
    lines = output_of(
        "intervene --model dense.gguf --method edit --set food=Positive --set price=Negative --set noise=Positive 'The soup was cold.'");
    assert_non_null(strstr(lines, "could not be set to")); /* untrained: the means are all alike */
    assert_non_null(strstr(lines, "by editing its values; --edit one-hot can\n"));
    free(lines);
    lines = output_of("intervene --help");
    assert_non_null(strstr(lines, "not always enough"));
    free(lines);
    lines = output_of(
        "intervene --model dense.gguf --method edit --edit one-hot --set food=Positive 'The soup was cold.'");
    assert_non_null(strstr(lines, "set to Positive by editing its values"));
    free(lines);
    char *same = read_file("demo/reviews.gguf", NULL);
    assert_string_equal(file, same); /* as far as the first NUL; the tests of the library compare all */
    free(file);
    free(same);
}

static void long_texts_can_be_intervened_on(void **state) {
    (void)state;
    outcome result = shell("{ echo short; for i in $(seq 90); do printf 'soup '; done; echo; echo short; } >long.txt\n"
                           "\"$MAIN\" intervene --model demo/reviews.gguf --file long.txt --set food=Positive --json");
    assert_int_equal(result.status, 0);
    assert_int_equal(count_lines(result.out), 3);
    cJSON *first = json_line(result.out, 0), *last = json_line(result.out, 2); /* the same through larger graphs */
    assert_true(cJSON_Compare(first, last, 1));
    cJSON_Delete(first);
    cJSON_Delete(last);
    forget(&result);
}

static void texts_come_from_anywhere(void **state) {
    (void)state;
    do_shell("printf 'The soup was cold.\\nA kind waiter, and cheap!\\r\\n\\nLoud' >texts.txt\n"
             "printf 'a,words\\n1,The soup was cold.\\n2,\"A kind waiter, and cheap!\"\\n3,\\n4,Loud\\n' >texts.csv");
    char *expected = output_of(
        "predict --model demo/reviews.gguf --json 'The soup was cold.' 'A kind waiter, and cheap!' '' Loud");
    static const char *const ways[] = {
        "\"$MAIN\" predict --model demo/reviews.gguf --json --file texts.txt",
        "\"$MAIN\" predict --model demo/reviews.gguf --json --file - <texts.txt",
        "cat texts.txt | \"$MAIN\" predict --json --model=demo/reviews.gguf",
        "\"$MAIN\" predict --model demo/reviews.gguf --json --data texts.csv --text words",
        "\"$MAIN\" predict --model demo/reviews.gguf --json --threads 1 -- 'The soup was cold.' 'A kind waiter, and cheap!' '' Loud",
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        outcome result = shell(ways[i]);
        if (result.status != 0) fail_msg("status %d from: %s: %s", result.status, ways[i], result.err);
        assert_string_equal(result.out, expected);
        forget(&result);
    }
    free(expected);
}

/* The same two texts as CSV, TSV, JSON Lines and an array, from files and from a pipe that names its format. */
static void data_comes_in_many_formats(void **state) {
    static const struct {
        const char *file, *format, *content;
    } forms[] = {
        {"two.csv", "csv", "words,x\n\"Nice food, bad room.\",1\nSlow.,2\n"},
        {"two.tsv", "tsv", "words\tx\nNice food, bad room.\t1\nSlow.\t2\n"},
        {"two.jsonl", "jsonl", "{\"words\": \"Nice food, bad room.\"}\n{\"words\": \"Slow.\"}\n"},
        {"two.json", "json", "[{\"words\": \"Nice food, bad room.\"},\n {\"words\": \"Slow.\"}]\n"},
    };
    char *wanted = output_of("tokenize --model demo/encoder.gguf --json \"Nice food, bad room.\" Slow.");
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char command[256];
        write_file(forms[i].file, forms[i].content, strlen(forms[i].content));
        snprintf(command, sizeof command, "tokenize --model demo/encoder.gguf --json --data %s --text words",
                 forms[i].file);
        char *found = output_of(command);
        assert_string_equal(found, wanted);
        free(found);
        snprintf(command, sizeof command,
                 "cat %s | \"$MAIN\" tokenize --model demo/encoder.gguf --json --data - --format %s --text words",
                 forms[i].file, forms[i].format);
        outcome piped = shell(command);
        assert_int_equal(piped.status, 0);
        assert_string_equal(piped.out, wanted);
        forget(&piped);
    }
    free(wanted);
    expect_error("tokenize --model demo/encoder.gguf --data - --text words", 1, "it must be chosen (--format FORMAT)");
    expect_error("tokenize --model demo/encoder.gguf --format csv x", 2,
                 "--format is the format of --data, which is missing");
}

static void bad_rows_can_be_left_out(void **state) {
    (void)state;
    do_shell("{ head -n 5 demo/test.csv; echo broken,1; sed -n 6,9p demo/test.csv; } >bad.csv");
    expect_error("eval --model demo/reviews.gguf --data bad.csv", 1, "bad.csv, row 5: there are 2 fields");
    outcome result = run("eval --model demo/reviews.gguf --data bad.csv --keep-going --resamples 0 --json");
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.err, "warning: left out: bad.csv, row 5: there are 2 fields"));
    assert_non_null(strstr(result.err, "1 of 9 rows are left out"));
    forget(&result);
    result = shell(
        "cat demo/test.csv | \"$MAIN\" eval --model demo/reviews.gguf --data - --format csv --limit 3 --resamples 0");
    assert_int_equal(result.status, 0);
    assert_int_equal(strncmp(result.out, "3 texts", 7), 0);
    forget(&result);
}

static void the_text_column_is_remembered(void **state) {
    (void)state;
    char *lines = output_of("predict --model demo/reviews.gguf --json --data demo/test.csv");
    assert_int_equal(count_lines(lines), 500);
    free(lines);
}

static void no_texts_are_told(void **state) {
    (void)state;
    static const char *const names[] = {"predict", "embed", "tokenize", "explain"};
    do_shell(": >nothing.txt");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char arguments[100], message[100];
        snprintf(arguments, sizeof arguments, "%s --model demo/reviews.gguf --file nothing.txt", names[i]);
        snprintf(message, sizeof message, "sparsecbm %s: there are no texts in nothing.txt\n", names[i]);
        outcome result = run(arguments);
        assert_int_equal(result.status, 0);
        assert_string_equal(result.err, message);
        assert_string_equal(result.out, "");
        forget(&result);
    }
    outcome result = run("predict --model demo/reviews.gguf");
    assert_non_null(strstr(result.err, "there are no texts in standard input"));
    forget(&result);
    expect_error("eval --model demo/reviews.gguf --data nothing.txt", 1, "the file is empty");
}

static void a_cut_text_says_so(void **state) {
    (void)state;
    outcome result = run(
        "predict --model demo/reviews.gguf --json --max-length 6 'The soup was cold and the waiter was rude.' 'Loud'");
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.err, "1 of 2 texts"));
    cJSON *first = json_line(result.out, 0), *second = json_line(result.out, 1);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(first, "truncated")));
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(second, "truncated")));
    cJSON_Delete(first);
    cJSON_Delete(second);
    forget(&result);
}

static void a_bad_line_is_named_after_the_good_ones(void **state) {
    (void)state;
    outcome result = shell(
        "printf 'good\\nalso good\\nbad \\377 bytes\\nnever read\\n' | \"$MAIN\" predict --model demo/reviews.gguf --json");
    assert_int_equal(result.status, 1);
    assert_int_equal(count_lines(result.out), 2);
    assert_int_equal(count_lines(result.err), 1);
    assert_non_null(strstr(result.err, "line 3"));
    forget(&result);
}

static void eval_prints_its_measures(void **state) {
    (void)state;
    char *lines = output_of("eval --model demo/reviews.gguf --data demo/test.csv --json");
    assert_int_equal(count_lines(lines), 1);
    cJSON *object = json_line(lines, 0), *label = cJSON_GetObjectItem(object, "label");
    const cJSON *concepts = cJSON_GetObjectItem(object, "concepts"), *each = cJSON_GetObjectItem(concepts, "each");
    assert_true(number(label, "accuracy") >= 0 && number(label, "accuracy") <= 1);
    assert_true(number(label, "macro_f1") <= number(label, "macro_f1_ovr"));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(label, "confusion")), 5);
    double accuracy = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, each) {
        accuracy += number(item, "accuracy") / 4;
        number(item, "macro_f1");
        number(item, "macro_f1_ovr");
    }
    assert_int_equal(cJSON_GetArraySize(each), 4);
    assert_true(fabs(accuracy - number(concepts, "accuracy")) < 1e-9);
    number(concepts, "macro_f1");
    number(concepts, "macro_f1_ovr");
    assert_true(number(object, "texts") > 150);
    assert_true(number(object, "texts_per_s") > 0);
    /* Gold classes are rows: together they are all texts. */
    double sum = 0;
    const cJSON *row, *cell;
    cJSON_ArrayForEach(row, cJSON_GetObjectItem(label, "confusion")) cJSON_ArrayForEach(cell, row)
        sum += cell->valuedouble;
    assert_true(sum == number(object, "texts"));
    cJSON_Delete(object);
    free(lines);
    lines = output_of(
        "eval --model demo/reviews.gguf --data demo/test.csv --text review --label stars --concept food=food");
    assert_non_null(strstr(lines, "majority"));
    free(lines);
}

/* The file of predictions is a CSV file that can be read again, with the text's column under its name. */
static void eval_writes_predictions(void **state) {
    static const char header[] = "\"review\",\"stars\",\"predicted stars\",\"stars: 1\",";
    (void)state;
    char *lines = output_of("eval --model demo/reviews.gguf --data demo/test.csv --json --csv predictions.csv");
    cJSON *object = json_line(lines, 0);
    char *csv = read_file("predictions.csv", NULL);
    assert_memory_equal(csv, header, sizeof header - 1);
    char *again = output_of(
        "eval --model demo/reviews.gguf --data predictions.csv --label 'predicted stars' --json --resamples 0");
    cJSON *read = json_line(again, 0);
    assert_true(number(read, "texts") == number(object, "texts"));
    assert_true(number(cJSON_GetObjectItem(read, "label"), "accuracy") == 1); /* they are what the model predicts */
    cJSON_Delete(object);
    cJSON_Delete(read);
    free(lines);
    free(csv);
    free(again);
}

/* The words of a data set have one scale on the terminal, in the page and, beside the plain mean, in JSON. */
static void influential_words_have_one_scale(void **state) {
    (void)state;
    char *text = output_of(
        "explain --model demo/reviews.gguf --data demo/dev.csv --global --sample 10 --words 1 --steps 4 --html words.html");
    char *lines = output_of(
        "explain --model demo/reviews.gguf --data demo/dev.csv --global --sample 10 --words 1 --steps 4 --json");
    char *page = read_file("words.html", NULL);
    cJSON *object = json_line(lines, 0);
    int n = 0;
    const cJSON *concept, *class_object;
    cJSON_ArrayForEach(concept, cJSON_GetObjectItem(object, "concepts"))
        cJSON_ArrayForEach(class_object, cJSON_GetObjectItem(concept, "classes")) {
        const cJSON *word = cJSON_GetArrayItem(cJSON_GetObjectItem(class_object, "words"), 0);
        char shown[200];
        if (!word) continue;
        double score = number(word, "score"), count = number(word, "count");
        assert_true(fabs(score * (count + 2) - number(word, "integrated_gradients") * count) < 1e-9);
        snprintf(shown, sizeof shown, "%s (%+.2f, %.0f)", cJSON_GetObjectItem(word, "text")->valuestring, score, count);
        if (!strstr(text, shown)) fail_msg("'%s' is not in: %s", shown, text);
        snprintf(shown, sizeof shown, "<span class=\"n\">+%.2f</span>", score);
        if (!strstr(page, shown)) fail_msg("'%s' is not in the page", shown);
        n++;
    }
    assert_true(n > 0);
    cJSON_Delete(object);
    free(text);
    free(lines);
    free(page);
}

/* Each class by name, in the confusion's order; stars are numbers, so how far off they are is told too. */
static void eval_measures_classes(void **state) {
    (void)state;
    char *lines = output_of("eval --model demo/reviews.gguf --data demo/test.csv --json --resamples 0");
    cJSON *object = json_line(lines, 0), *label = cJSON_GetObjectItem(object, "label");
    expect_keys(label, "accuracy macro_f1 macro_f1_ovr mean_absolute_error classes confusion majority");
    const cJSON *classes = cJSON_GetObjectItem(label, "classes"), *confusion = cJSON_GetObjectItem(label, "confusion");
    double error = 0, texts = 0;
    for (int gold = 0; gold < 5; gold++) {
        const cJSON *one = cJSON_GetArrayItem(classes, gold), *row = cJSON_GetArrayItem(confusion, gold);
        char name[2] = {(char)('1' + gold), 0};
        double support = 0, right = cJSON_GetArrayItem(row, gold)->valuedouble, predicted = 0;
        expect_keys(one, "name precision recall f1 support");
        assert_string_equal(cJSON_GetObjectItem(one, "name")->valuestring, name);
        for (int c = 0; c < 5; c++) {
            double n = cJSON_GetArrayItem(row, c)->valuedouble;
            support += n;
            error += n * abs(c - gold);
            predicted += cJSON_GetArrayItem(cJSON_GetArrayItem(confusion, c), gold)->valuedouble;
        }
        texts += support;
        assert_true(number(one, "support") == support);
        assert_true(fabs(number(one, "recall") - (support > 0 ? right / support : 0)) < 1e-12);
        assert_true(fabs(number(one, "precision") - (predicted > 0 ? right / predicted : 0)) < 1e-12);
    }
    assert_true(fabs(number(label, "mean_absolute_error") - error / texts) < 1e-12);
    const cJSON *food = cJSON_GetObjectItem(cJSON_GetObjectItem(cJSON_GetObjectItem(object, "concepts"), "each"),
                                            "food");
    assert_null(cJSON_GetObjectItem(food, "mean_absolute_error"));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(food, "classes")), 3);
    cJSON_Delete(object);
    free(lines);
    free(output_of(
        "eval --model demo/reviews.gguf --data demo/test.csv --intervene mask --intervene-texts 4 --resamples 0 "
        "--csv after.csv"));
    char *table = read_file("after.csv", NULL);
    assert_int_equal(count_lines(table), 5);
    assert_non_null(strstr(table, "\"predicted stars\",\"stars: 1\","));
    assert_non_null(strstr(table, "\"after interventions: stars\",\"after interventions: stars: 1\","));
    assert_non_null(strstr(table, "\"after interventions: food: Negative\","));
    free(table);
}

static void eval_measures_interventions(void **state) {
    (void)state;
    static const char *const ways[] = {"mask --portion 0.1 --steps 3", "mask --select abs", "edit"};
    for (int i = 0; i < 3; i++) {
        char command[200];
        snprintf(
            command, sizeof command,
            "eval --model demo/reviews.gguf --data demo/test.csv --intervene-texts 12 --resamples 0 --json --intervene %s",
            ways[i]);
        char *lines = output_of(command);
        cJSON *object = json_line(lines, 0), *before = cJSON_GetObjectItem(object, "before"),
              *after = cJSON_GetObjectItem(object, "after");
        expect_keys(
            object,
            "before after method concepts_fixed concepts_wrong labels_fixed labels_broken steps moved_bits seconds");
        expect_keys(before, "label concepts texts texts_per_s left_out");
        expect_keys(after, "label concepts texts texts_per_s left_out");
        assert_true(number(after, "texts") == 12);
        assert_string_equal(cJSON_GetObjectItem(object, "method")->valuestring, i < 2 ? "mask" : "edit");
        double wrong = number(object, "concepts_wrong"), fixed = number(object, "concepts_fixed");
        assert_true(wrong > 0 && fixed <= wrong && (number(object, "moved_bits") > 0) == (i < 2));
        /* Of 48 concepts. */
        assert_true(fabs(48 * number(cJSON_GetObjectItem(before, "concepts"), "accuracy") - (48 - wrong)) < 1e-6);
        assert_true(fabs(48 * number(cJSON_GetObjectItem(after, "concepts"), "accuracy") - (48 - wrong + fixed)) <
                    1e-6);
        double labels = number(object, "labels_fixed") - number(object, "labels_broken");
        assert_true(fabs(12 * (number(cJSON_GetObjectItem(after, "label"), "accuracy") -
                               number(cJSON_GetObjectItem(before, "label"), "accuracy")) -
                         labels) < 1e-6);
        cJSON_Delete(object);
        free(lines);
    }
    char *text = output_of("eval --model demo/reviews.gguf --data demo/test.csv --intervene-texts 12 --intervene mask");
    assert_non_null(strstr(text, "With every misread concept set to its true class (mask)"));
    assert_non_null(strstr(text, "mask bits moved"));
    free(text);
}

static void train_prints_an_epoch_a_line(void **state) {
    (void)state;
    char *lines = output_of(TRAIN " --epochs 2 --json --log-steps steps.csv --dump-order order.txt -o two.gguf");
    assert_int_equal(count_lines(lines), 2);
    cJSON *object = json_line(lines, 1);
    expect_keys(
        object,
        "epoch epochs seconds train_loss valid_loss label_accuracy label_f1 concept_accuracy concept_f1 score best");
    assert_true(number(object, "epoch") == 2);
    cJSON_Delete(object);
    free(lines);
    char *steps = read_file("steps.csv", NULL), *order = read_file("order.txt", NULL);
    assert_true(count_lines(steps) > 20);
    assert_true(count_lines(order) > 20);
    free(steps);
    free(order);
}

static void other_modes_train(void **state) {
    (void)state;
    static const char *const ways[] = {
        "train --encoder demo/encoder.gguf --data demo/dev.csv --validation demo/dev.csv --text review --label stars --mode vanilla --epochs 1 --force -o mode.gguf",
        "train --encoder demo/encoder.gguf --data demo/dev.csv --validation demo/dev.csv " COLUMNS
        " --mode independent --epochs 1 --force -o mode.gguf",
        "train --encoder demo/encoder.gguf --data demo/dev.csv --validation demo/dev.csv " COLUMNS
        " --mode sequential --epochs 1 --mixup 0.4 --force -o mode.gguf",
        "train --encoder demo/encoder.gguf --data demo/dev.csv --validation demo/dev.csv " COLUMNS
        " --teacher demo/reviews.gguf --teacher-weight 0.5 --temperature 3 --epochs 1 --force -o mode.gguf",
        "train --encoder demo/encoder.gguf --data demo/dev.csv --validation demo/dev.csv " COLUMNS
        " --concept-loss sigmoid --class-weights --unknown-missing --unknown unknown --ignore-label 'no majority' --epochs 1 --force -o mode.gguf",
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        free(output_of(ways[i]));
        char *lines = output_of("predict --model mode.gguf --json 'The soup was cold.'");
        cJSON *object = json_line(lines, 0);
        expect_keys(object, "label probability logits labels bias truncated concepts row");
        cJSON_Delete(object);
        free(lines);
        free(output_of("eval --model mode.gguf --data demo/test.csv"));
        free(output_of("inspect mode.gguf"));
    }
}

static void inspect_lists_keys_and_tensors(void **state) {
    (void)state;
    char *lines = output_of("inspect demo/reviews.gguf --json");
    cJSON *object = json_line(lines, 0);
    assert_string_equal(cJSON_GetObjectItem(object, "mode")->valuestring, "joint");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(object, "labels")), 5);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(object, "concepts")), 4);
    assert_true(cJSON_GetArraySize(cJSON_GetObjectItem(object, "tensors")) > 37);
    assert_non_null(cJSON_GetObjectItem(cJSON_GetObjectItem(object, "keys"), "general.architecture"));
    cJSON_Delete(object);
    free(lines);
    lines = output_of("inspect demo/reviews.gguf");
    assert_non_null(strstr(lines, "blk.1.ffn_down.weight"));
    assert_non_null(strstr(lines, "Subnetworks"));
    free(lines);
}

static void inspect_shows_subnetworks(void **state) {
    (void)state;
    char *lines = output_of("inspect demo/reviews.gguf --json");
    cJSON *object = json_line(lines, 0), *subnetworks = cJSON_GetObjectItem(object, "subnetworks");
    expect_keys(subnetworks, "density blocks overlaps");
    expect_keys(cJSON_GetObjectItem(subnetworks, "density"), "food service noise price");
    assert_true(fabs(number(cJSON_GetObjectItem(subnetworks, "density"), "noise") - 0.4) < 1e-4);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(subnetworks, "blocks")), 2);
    assert_true(fabs(number(cJSON_GetArrayItem(cJSON_GetObjectItem(subnetworks, "blocks"), 1), "food") - 0.4) < 1e-4);
    const cJSON *overlaps = cJSON_GetObjectItem(subnetworks, "overlaps"), *pair = cJSON_GetArrayItem(overlaps, 5);
    assert_int_equal(cJSON_GetArraySize(overlaps), 6);
    expect_keys(pair, "a b iou blocks");
    assert_string_equal(cJSON_GetObjectItem(pair, "a")->valuestring, "noise");
    assert_string_equal(cJSON_GetObjectItem(pair, "b")->valuestring, "price");
    assert_true(number(pair, "iou") == 1); /* magnitude gives all concepts the same */
    cJSON_Delete(object);
    free(lines);
    lines = output_of("inspect dense.gguf --json");
    object = json_line(lines, 0);
    assert_null(cJSON_GetObjectItem(object, "subnetworks"));
    cJSON_Delete(object);
    free(lines);
}

static void quantized_models_predict(void **state) {
    (void)state;
    static const char *const types[] = {"f16", "bf16", "q8_0", "q4_0", "f32"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char arguments[128];
        snprintf(arguments, sizeof arguments, "quantize demo/reviews.gguf --type %s -o q.gguf", types[i]);
        free(output_of(arguments));
        char *lines = output_of("predict --model q.gguf --json 'The soup was cold.'");
        cJSON *object = json_line(lines, 0);
        check_prediction(object);
        cJSON_Delete(object);
        free(lines);
    }
    free(output_of("quantize demo/reviews.gguf --type q4_0 -o q4.gguf"));
    expect_error("quantize q4.gguf --type q8_0 -o q.gguf", 1, "are q4_0 already");
    expect_error("quantize q4.gguf --type q8_0 -o q.gguf", 1, "or ask for requantizing (--requantize)");
    free(output_of("quantize q4.gguf --type q8_0 -o q.gguf --requantize"));
}

/* ------------------------------------------------------------------------------------------
 * Processes
 * ---------------------------------------------------------------------------------------- */

typedef struct process {
    pid_t id;
    int to, from; /* its standard input and output */
} process;

/* Starts a shell command that becomes the program. */
static process start(const char *arguments) {
    char line[2048];
    int in[2], out[2];
    process p;
    snprintf(line, sizeof line, "exec \"$MAIN\" %s 2>err", arguments);
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    p.id = fork();
    assert_true(p.id >= 0);
    if (p.id == 0) {
        const int ends[] = {in[0], in[1], out[0], out[1]};
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        for (int i = 0; i < 4; i++) /* where the tests have no standard input, a pipe has its number */
            if (ends[i] > STDERR_FILENO) close(ends[i]);
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    p.to = in[1];
    p.from = out[0];
    return p;
}

/* A line of the process's output within a minute. */
static void read_line(const process *p, char *line, size_t size) {
    size_t n = 0;
    struct pollfd ready = {p->from, POLLIN, 0};
    while (n + 1 < size) {
        if (poll(&ready, 1, 60000) != 1) fail_msg("no answer within a minute");
        if (read(p->from, line + n, 1) != 1) fail_msg("the output ended");
        if (line[n++] == '\n') break;
    }
    line[n] = 0;
}

static int wait_for(process *p) {
    int status;
    close(p->to);
    close(p->from);
    assert_true(waitpid(p->id, &status, 0) == p->id);
    return status;
}

static void a_pipe_is_answered_line_by_line(void **state) {
    (void)state;
    char line[4096];
    process p = start("predict --model demo/reviews.gguf --json");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(p.to, "The soup was cold.\n", 19), 19);
        read_line(&p, line, sizeof line); /* while the pipe stays open */
        cJSON *object = json_line(line, 0);
        check_prediction(object);
        cJSON_Delete(object);
    }
    assert_int_equal(wait_for(&p), 0);
}

/* Ends a training run by a signal, after its first epoch or before; its messages, to be freed. */
static char *interrupt(const char *options, int after_epoch, int number) {
    char line[4096], arguments[1024];
    snprintf(arguments, sizeof arguments, TRAIN " --epochs 1000 --json %s", options);
    process p = start(arguments);
    if (after_epoch) read_line(&p, line, sizeof line);
    for (int wait = 0; !after_epoch && access("begun.gguf.lock", F_OK) != 0; wait++) {
        if (wait > 60000) fail_msg("training has not begun within a minute");
        usleep(1000);
    }
    kill(p.id, number);
    int status = wait_for(&p);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + number);
    return read_file("err", NULL);
}

/* Before the first epoch is over there is nothing to resume, unless this run was resumed itself. */
static void an_interrupt_promises_what_is_there(void **state) {
    (void)state;
    char *message = interrupt("-o begun.gguf", 0, SIGTERM);
    assert_non_null(strstr(message, "the first epoch was not over, so there is nothing to resume"));
    assert_null(strstr(message, "the same command with --resume"));
    free(message);
    message = interrupt("-o begun.gguf", 1, SIGTERM);
    assert_non_null(strstr(message, "the same command with --resume goes on"));
    free(message);
    message = interrupt("-o begun.gguf --resume", 0, SIGINT);
    assert_non_null(strstr(message, "the same command with --resume goes on"));
    free(message);
}

/* The text of standard error from a command that succeeds, to be freed. */
static char *messages_of(const char *arguments) {
    outcome result = run(arguments);
    if (result.status != 0) fail_msg("status %d from: %s: %s", result.status, arguments, result.err);
    free(result.out);
    return result.err;
}

static void a_resumed_run_says_where_it_starts(void **state) {
    (void)state;
    char *message = messages_of(TRAIN " --epochs 2 --resume -o again.gguf");
    assert_non_null(strstr(message, "no checkpoint at again.gguf.checkpoint: starting from the beginning\n"));
    free(message);
    message = messages_of(TRAIN " --epochs 2 --resume -o again.gguf");
    assert_non_null(strstr(message, "again.gguf.checkpoint is of a run that is over, after epoch 2 of 2\n"));
    free(message);
    message = interrupt("-o halfway.gguf", 1, SIGINT);
    free(message);
    message = interrupt("-o halfway.gguf --resume", 1, SIGINT);
    assert_non_null(strstr(message, "halfway.gguf.checkpoint: going on after epoch "));
    assert_non_null(strstr(message, " of 1000\n"));
    free(message);
}

static void what_differs_from_a_checkpoint_is_named(void **state) {
    (void)state;
    free(output_of(TRAIN " --epochs 1 -o other.gguf"));
    static const char *const cases[][2] = {
        {" --epochs 2",
         "another --epochs (1, now 2); go on with as many, or train on from its model (--init); --resume-anyway goes on "
         "all the same, to other bits"},
        {" --epochs 1 --batch-size 8",
         "another --batch-size (16, now 8); go on with the same settings and data, or start anew, without resuming"},
        {" --epochs 1 --lambda 0.5",
         "another --lambda (5, now 0.5); go on as it was made, or start anew, without resuming; --resume-anyway goes on "
         "all the same"},
        {" --epochs 1 --max-length 20", "another --max-length (128, now 20)"},
        {" --epochs 1 --dropout 0.3", "another hidden_dropout ("},
        {" --epochs 1 --seed 8999999999999999", "another --seed (42, now 8999999999999999)"},
        {" --epochs 1 --prune magnitude --prune-start 1 --prune-end 1", "another --prune (none, now magnitude)"},
        {" --epochs 1 --data demo/dev.csv", "other training data"},
        {" --epochs 1 --validation demo/test.csv", "other training or validation data, or other columns of them"},
        {" --epochs 1 --teacher demo/reviews.gguf --teacher-weight 0.5", "another --teacher-weight (none, now 0.5)"},
        {" --epochs 1 --init demo/reviews.gguf", "other weights to start from"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char arguments[512];
        snprintf(arguments, sizeof arguments, TRAIN "%s --resume --json -o other.gguf", cases[i][0]);
        outcome result = run(arguments);
        assert_int_equal(result.status, 1);
        if (!strstr(result.err, cases[i][1])) fail_msg("'%s' is not in: %s", cases[i][1], result.err);
        forget(&result);
    }
    do_shell("head -c 5000 other.gguf.checkpoint >cut && mv cut other.gguf.checkpoint");
    expect_error(TRAIN " --epochs 1 --resume --json -o other.gguf", 1, "delete other.gguf.checkpoint to start anew");
}

/* A second run with the same output is refused while the first lasts, also when an earlier one was killed. */
static void two_runs_do_not_share_an_output(void **state) {
    (void)state;
    char line[4096], holder[64];
    for (int round = 0; round < 2; round++) {
        process p = start(TRAIN " --epochs 1000 --json --force -o shared.gguf");
        read_line(&p, line, sizeof line);
        snprintf(holder, sizeof holder, "process %ld is writing shared.gguf", (long)p.id);
        expect_error(TRAIN " --epochs 1 --json --force -o shared.gguf", 1, holder);
        kill(p.id, round ? SIGINT : SIGKILL);
        wait_for(&p);
        assert_int_equal(access("shared.gguf.lock", F_OK) == 0, round == 0);
    }
    free(output_of(TRAIN " --epochs 1 --json --force -o shared.gguf"));
    assert_int_not_equal(access("shared.gguf.lock", F_OK), 0);
}

static void training_on_a_sparse_model_says_what_becomes_of_the_masks(void **state) {
    (void)state;
    static const char *const ways[] = {"--encoder demo/reviews.gguf",
                                       "--encoder demo/encoder.gguf --init demo/reviews.gguf"};
    for (int i = 0; i < 2; i++) {
        char arguments[512];
        snprintf(arguments, sizeof arguments,
                 "train --data demo/train.csv --validation demo/dev.csv " COLUMNS
                 " --epochs 0 --force -o dense-again.gguf %s",
                 ways[i]);
        char *message = messages_of(arguments);
        assert_string_equal(
            message,
            "sparsecbm train: demo/reviews.gguf has subnetworks: training starts from its dense weights, without the masks\n");
        free(message);
        char *lines = output_of("inspect dense-again.gguf");
        assert_null(strstr(lines, "Subnetworks"));
        free(lines);
    }
    char *message = messages_of(TRAIN " --epochs 0 --force -o dense-again.gguf");
    assert_string_equal(message, "");
    free(message);
}

static void an_interrupt_ends_training_cleanly(void **state) {
    (void)state;
    char line[4096];
    process p = start(TRAIN " --epochs 1000 --json -o stopped.gguf");
    read_line(&p, line, sizeof line);
    kill(p.id, SIGINT);
    int status = wait_for(&p);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    char *message = read_file("err", NULL);
    assert_non_null(strstr(message, "interrupted"));
    assert_non_null(strstr(message, "--resume"));
    free(message);
    free(output_of("predict --model stopped.gguf text"));
}

/* The seconds of processors that a process has used so far; 0 where the system does not say. */
static double processor_seconds(pid_t id) {
    char path[64], text[1024] = "";
    unsigned long user = 0, system_time = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)id);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    const char *fields = strrchr(text, ')'); /* behind its name */
    if (!fields || sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system_time) != 2)
        return 0;
    return (double)(user + system_time) / (double)sysconf(_SC_CLK_TCK);
}

static double ended_seconds(void) {
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &usage), 0);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* A second after the signal it is over. On a machine that is busy with other things: after a second of its own work, and five
 * in all, or as many times more as others wait beside it. The exit status. */
static int must_end_soon(const char *arguments, int number, int milliseconds) {
    double load[1] = {0}, before = ended_seconds();
    process p = start(arguments);
    usleep((useconds_t)milliseconds * 1000);
    double begin = scbm_seconds(), used = processor_seconds(p.id);
    kill(p.id, number);
    int status = wait_for(&p);
    double took = scbm_seconds() - begin, worked = ended_seconds() - before - used;
    if (getloadavg(load, 1) != 1) load[0] = 0;
    if (took > 1 && (load[0] < 1.5 || worked > 1 || took > fmax(5, 5 * load[0])))
        fail_msg("%.2f s after the signal, of which it worked %.2f s: %s", took, worked, arguments);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void long_work_ends_within_a_second_of_a_signal(void **state) {
    (void)state;
    static const char *const ways[] = {
        "eval --threads 1 --model demo/reviews.gguf --data demo/test.csv --resamples 100000",
        "explain --threads 1 --model demo/reviews.gguf --data demo/test.csv --global --sample 0 --steps 64 --faithfulness",
        "predict --threads 1 --model demo/reviews.gguf --data demo/train.csv --json",
        TRAIN " --threads 1 --epochs 1000 -o soon.gguf",
        TRAIN " --threads 1 --epochs 1000 --prune obert --prune-start 1 --prune-end 900 -o sooner.gguf",
    };
    for (int i = 0; i < COUNT_OF(ways); i++) {
        int number = i % 2 ? SIGTERM : SIGINT, ended = must_end_soon(ways[i], number, 300 + 400 * (i > 2));
        if (ended != 128 + number && ended != 128 + SIGPIPE) fail_msg("status %d from: %s", ended, ways[i]);
    }
}

/* An encoder of some 40 MB, which takes a while. A signal that comes when the file is whole is too late. */
static void converting_ends_within_a_second_of_a_signal(void **state) {
    (void)state;
    const cbm_random_encoder_options large = {.hidden = 384, .blocks = 6, .heads = 6};
    assert_ok(cbm_random_encoder_write("large.gguf", &large));
    free(output_of("export large.gguf -o large"));
    int ended = 0;
    for (int milliseconds = 64; milliseconds && (ended == 0 || exists("converted.gguf")); milliseconds /= 2) {
        unlink("converted.gguf");
        ended = must_end_soon("convert large -o converted.gguf --type q4_0", SIGTERM, milliseconds);
    }
    assert_int_equal(ended, 143);
    assert_int_equal(exists("converted.gguf"), 0);
    do_shell("rm -rf large large.gguf; ! ls -a | grep -q converted");
}

static void threads_do_not_change_training(void **state) {
    (void)state;
    free(output_of(TRAIN PRUNE_ONCE " --threads 1 -o one.gguf"));
    free(output_of(TRAIN PRUNE_ONCE " --threads 2 --force -o two.gguf"));
    outcome result = shell("cmp one.gguf two.gguf && cmp one.gguf demo/reviews.gguf");
    assert_string_equal(result.out, "");
    assert_int_equal(result.status, 0);
    forget(&result);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_usage_has_status_2),
        cmocka_unit_test(no_input_is_overwritten),
        cmocka_unit_test(several_outputs_may_be_thrown_away),
        cmocka_unit_test(quantizing_in_place_is_safe),
        cmocka_unit_test(outputs_are_checked_before_the_work),
        cmocka_unit_test(written_files_are_told),
        cmocka_unit_test(no_command_prints_usage),
        cmocka_unit_test(bad_input_has_status_1),
        cmocka_unit_test(a_missing_key_names_the_option),
        cmocka_unit_test(truncated_and_empty_models_are_refused),
        cmocka_unit_test(an_unknown_tier_is_refused),
        cmocka_unit_test(a_full_disk_is_noticed),
        cmocka_unit_test(a_closed_pipe_ends_quietly),
        cmocka_unit_test(the_version_is_printed),
        cmocka_unit_test(every_command_has_help),
        cmocka_unit_test(the_examples_of_help_work),
        cmocka_unit_test(tokenize_prints_ids_tokens_offsets),
        cmocka_unit_test(embed_prints_vectors),
        cmocka_unit_test(embed_writes_numpy_files),
        cmocka_unit_test(predict_contributions_add_up),
        cmocka_unit_test(predictions_can_be_read_alone),
        cmocka_unit_test(devices_are_chosen_by_name),
        cmocka_unit_test(names_are_escaped_and_aligned),
        cmocka_unit_test(quiet_leaves_results_and_errors),
        cmocka_unit_test(intervene_prints_what_was_and_what_is),
        cmocka_unit_test(long_texts_can_be_intervened_on),
        cmocka_unit_test(texts_come_from_anywhere),
        cmocka_unit_test(data_comes_in_many_formats),
        cmocka_unit_test(bad_rows_can_be_left_out),
        cmocka_unit_test(the_text_column_is_remembered),
        cmocka_unit_test(no_texts_are_told),
        cmocka_unit_test(a_cut_text_says_so),
        cmocka_unit_test(a_bad_line_is_named_after_the_good_ones),
        cmocka_unit_test(eval_prints_its_measures),
        cmocka_unit_test(influential_words_have_one_scale),
        cmocka_unit_test(eval_measures_classes),
        cmocka_unit_test(eval_measures_interventions),
        cmocka_unit_test(eval_writes_predictions),
        cmocka_unit_test(train_prints_an_epoch_a_line),
        cmocka_unit_test(other_modes_train),
        cmocka_unit_test(inspect_lists_keys_and_tensors),
        cmocka_unit_test(inspect_shows_subnetworks),
        cmocka_unit_test(quantized_models_predict),
        cmocka_unit_test(a_pipe_is_answered_line_by_line),
        cmocka_unit_test(an_interrupt_ends_training_cleanly),
        cmocka_unit_test(an_interrupt_promises_what_is_there),
        cmocka_unit_test(a_resumed_run_says_where_it_starts),
        cmocka_unit_test(what_differs_from_a_checkpoint_is_named),
        cmocka_unit_test(two_runs_do_not_share_an_output),
        cmocka_unit_test(training_on_a_sparse_model_says_what_becomes_of_the_masks),
        cmocka_unit_test(long_work_ends_within_a_second_of_a_signal),
        cmocka_unit_test(converting_ends_within_a_second_of_a_signal),
        cmocka_unit_test(threads_do_not_change_training),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
