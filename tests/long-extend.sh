#!/bin/sh
# A further kind takes one file and one row: a prune method, an attribution, a tokenizer and a command, and a setting as a
# field and a row, are put into a scratch copy of the sources, which is built and used.
set -u
passed=0 failed=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cp -r sparsecbm.h sparsecbm.c Makefile models convert "$work" && cd "$work" || exit 1

# check WHAT COMMAND...
check() {
    what=$1
    shift
    if "$@" >log 2>&1; then
        passed=$((passed + 1))
        echo "ok: $what"
    else
        failed=$((failed + 1))
        echo "fail: $what"
        tail -n 5 log
    fi
}

# ---- A prune method: the weights with the smallest squares go first ----

cat >models/prune/squares.c <<'C'
#include "models/prune/method.h"

static scbm_tensor *score_squares(cbm_prune_run *run, scbm_graph *graph, int matrix) {
    return scbm_mul(graph, run->weight[matrix], run->weight[matrix]);
}

const cbm_prune_kind cbm_prune_squares = {.name = "squares", .help = "w²", .score = score_squares};
C
sed -i 's/^\(#define CBM_PRUNE_METHODS(row).*\)$/\1 row(squares)/' models/prune/method.h

# ---- An attribution: how far a word's embedding lies from the baseline's ----

cat >models/explain/distance.c <<'C'
/*
 * models/explain/distance.c - the length of e - e', which knows nothing of the model
 */
#include "models/explain/methods.h"

#include <math.h>

static scbm_status compute_distance(cbm_explainer *x, float *value) {
    const int64_t n_tokens = x->group.n_tokens, width = cbm_explainer_network(x)->backbone.embedding_width;
    for (int64_t t = 0; t < n_tokens; t++) {
        double sum = 0.0;
        for (int64_t d = t * width; d < (t + 1) * width; d++)
            sum += pow((double)x->group.embedding[d] - (double)x->group.baseline[d], 2);
        for (int u = 0; u < cbm_explainer_units(x); u++) value[u * n_tokens + t] = (float)sqrt(sum);
    }
    return SCBM_OK;
}

const cbm_attribution_kind cbm_attribution_distance = {
    .shown = {.name = "distance", .title = "distance of the embeddings"},
    .compute = compute_distance,
};
C
sed -i 's/^\(#define CBM_ATTRIBUTION_KINDS(row).*\)$/\1 row(distance)/' models/explain/methods.h

# ---- A tokenizer: every character is an unknown token; all else is WordPiece's ----

cat >models/tokenizers/characters.c <<'C'
#include "models/tokenizers/kind.h"

static scbm_status create(cbm_tokenizer *t, const cbm_vocabulary *vocabulary) {
    return cbm_wordpiece.create(t, vocabulary);
}

static void clear(cbm_tokenizer *t) {
    cbm_wordpiece.free(t);
}

static scbm_status normalize(const cbm_tokenizer *t, const char *text, size_t length, size_t offset, cbm_normal_text *n) {
    return cbm_wordpiece.normalize(t, text, length, offset, n);
}

static void encode(cbm_encoding *e, size_t from, size_t to) {
    for (; from < to && !e->full; from++)
        if (e->normal.bytes[from] != ' ')
            cbm_encoding_add(e, e->tokenizer->special[CBM_TOKEN_UNKNOWN], cbm_normal_range(&e->normal, from, from + 1));
}

static const char *text_of(const cbm_tokenizer *t, int32_t id) {
    return cbm_wordpiece.text_of(t, id);
}

const cbm_tokenizer_kind cbm_characters = {.name = "char",
                                           .title = "characters",
                                           .adds_first = 1,
                                           .adds_last = 1,
                                           .usual = {[CBM_TOKEN_UNKNOWN] = "[UNK]",
                                                     [CBM_TOKEN_FIRST] = "[CLS]",
                                                     [CBM_TOKEN_LAST] = "[SEP]",
                                                     [CBM_TOKEN_PADDING] = "[PAD]",
                                                     [CBM_TOKEN_MASK] = "[MASK]"},
                                           .create = create,
                                           .free = clear,
                                           .normalize = normalize,
                                           .encode = encode,
                                           .text_of = text_of};
C
sed -i 's/^extern const cbm_tokenizer_kind cbm_wordpiece/&, cbm_characters/' models/tokenizers/kind.h
sed -i 's/^\(static const cbm_tokenizer_kind \*const kinds\[\] = {.*\)};/\1, \&cbm_characters};/' models/tokenizers/tokenizer.c

# ---- A command: the number of a model's concepts ----

cat >models/program/cmd-count.c <<'C'
#include "models/program/program.h"

#include <stdio.h>

static int run_count(const cli_command *command, int argc, char **argv) {
    const char *path = NULL;
    cbm_model *model = NULL;
    const cli_option options[] = {CLI_READ_OPTION("model", &path, "the model file (required)"), CLI_END_OPTIONS};
    int result = cli_parse(command, options, argc, argv, NULL);
    if (result != CLI_GO_ON) return result;
    scbm_status status = cbm_model_load(&model, path, NULL);
    if (status != SCBM_OK) return cli_fail_status(command, status);
    printf("%d concepts\n", cbm_model_n_concepts(model));
    cbm_model_free(model);
    return cli_finish(command);
}

static const char *const examples[] = {"count --model demo/model.gguf", NULL};
const cli_command cmd_count = {"count", "count a model's concepts", "--model FILE", NULL, examples, run_count};
C
sed -i 's/^\(    ROW(inspect) .*\)\\$/\1 ROW(count) \\/' models/main.c

# ---- A setting: a number that is only noted ----

sed -i 's/^    void (\*on_epoch)(void \*user.*/    int answer;                    \/* 0: 7 *\/\n&/' models/cbm-train.h
sed -i 's/^    {"resume", "resume".*/    {"answer", "answer", "N", "Run", "noted", NULL, INT(answer, 7, 1, 100, FIXED)},\n&/' \
    models/train/settings.c

# ---- Built and used ----

check "it builds without a warning" make -s BUILD=build WERROR=1 CFLAGS='-O1 -DSCBM_PORTABLE_ONLY' all
main=models/main
"$main" demo --data-only --reviews 900 --dir demo >/dev/null || exit 1
train="$main train --encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv --text review --label stars
    --concept food --concept service --concept noise --concept price --epochs 1 --prune-start 1 --prune-end 1"

"$main" train --help >help
check "help has the prune method" grep -q 'squares' help
check "help has the setting" grep -q -e '--answer N' help
"$main" --help >commands
check "help has the command" grep -q 'count a model' commands
check "it prunes by the method" $train --prune squares --sparsity 0.5 --answer 42 -o squares.gguf
"$main" inspect squares.gguf >facts
check "the model says how it was pruned" grep -q 'prune_method.*squares' facts
check "and the setting" grep -q 'answer.*42' facts
$train --prune sigend -o x.gguf >error 2>&1
check "an unknown method is refused with the known ones" grep -q 'squares' error
"$main" count --model squares.gguf >counted
check "the command runs" grep -qx '4 concepts' counted
"$main" explain --model squares.gguf --json 'The soup was cold.' >explained
check "explanations have the attribution" grep -q '"distance":' explained
LC_ALL=C sed 's/\(tokenizer\.ggml\.model............\)bert/\1char/' demo/encoder.gguf >characters.gguf
"$main" tokenize --model characters.gguf --json 'ab c' >tokens
check "texts are cut by the tokenizer" grep -q '"\[CLS\]","\[UNK\]","\[UNK\]","\[UNK\]","\[SEP\]"' tokens

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
