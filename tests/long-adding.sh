#!/bin/sh
# Adding a kind takes one file and one row: it is done to a scratch copy of the sources, which is built and used.
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

# ---- A prune method: the weights that are most below zero go first ----

cat >models/prune/signed.c <<'C'
/*
 * models/prune/signed.c - pruning by w itself
 */
#include "models/prune/method.h"

static void score_signed(const cbm_prune_run *run, int matrix, int stream, double *score, double *scratch) {
    const float *w = run->weight[matrix]->data;
    (void)stream, (void)scratch;
    for (int64_t i = 0; i < scbm_tensor_elements(run->weight[matrix]); i++) score[i] = (double)w[i];
}

const cbm_prune_kind cbm_prune_signed = {.name = "signed", .help = "weights below zero go", .score = score_signed};
C
sed -i 's/^\(#define CBM_PRUNE_METHODS(row).*\)$/\1 row(signed)/' models/prune/method.h

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

# ---- Built and used ----

check "it builds without a warning" make -s BUILD=build WERROR=1 CFLAGS='-O1 -DSCBM_PORTABLE_ONLY' all
main=models/main
"$main" demo --data-only --dir demo >/dev/null || exit 1
options="--encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv --text review --label stars
    --concept food --concept service --concept noise --concept price --epochs 1"

"$main" train --help >help
check "the help has the prune method" grep -q 'random|signed' help
check "it prunes" "$main" train $options --prune signed --sparsity 0.5 --prune-start 1 --prune-end 1 -o signed.gguf
"$main" inspect --model signed.gguf >facts
check "the model says how it was pruned" grep -q 'prune_method.*signed' facts
"$main" train $options --prune sigend --prune-start 1 --prune-end 1 -o x.gguf >error 2>&1
check "an unknown method is refused with the known ones" grep -q 'signed' error

"$main" explain --model signed.gguf --json 'The soup was cold.' >explained
check "explanations have the attribution" grep -q '"distance":' explained
"$main" explain --model signed.gguf --data demo/test.csv --global --sample 3 --steps 2 --faithfulness >global
check "and so has faithfulness" grep -q '^    distance ' global

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
