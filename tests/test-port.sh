#!/bin/sh
# The smallest port of the guide (tests/port/minimal.c), built outside of the tree: its rows agree with the reference, and with no
# other rows predict and `train --prune magnitude` run on it and have the CPU's results. The rows that it has are printed.
. tests/check.sh
MAIN=${MAIN:-models/main}

mkdir "$work/include"
cp sparsecbm.h "$work/include/"
cp tests/port/minimal.c "$work/"
build() {
    (cd "$work" && ${CC:-cc} -std=c11 -O2 -Wall -Wextra -Werror -shared -fPIC -DSCBM_PLUGIN -I include \
        -o libsparsecbm-minimal.so minimal.c -lm)
}
check "it is built with the installed header alone" build
check "and by make backend" env MAKEFLAGS= "${MAKE:-make}" BUILD="$work" CC="${CC:-cc}" OUT="$work/made" CFLAGS=-O1 \
    SHELL="/bin/sh" backend FROM=tests/port/minimal.c OUT="$work"
export SCBM_BACKEND_PATH="$work"

backend="${BUILD:-build}/tests/test-backend"
"$backend" --device minimal support >"$work/support" 2>&1 || cat "$work/support"
echo "rows: $(awk 'NR > 1 && $2 != "-" && $1 != "reshape" {printf "%s%s", (n++ ? ", " : ""), $1} END {print ";", n, "in all"}' \
    "$work/support")"
echo "by its parts: $(awk 'NR > 1 && $3 != "-" {printf "%s ", $1}' "$work/support")"
echo "on the host: $(awk 'NR > 1 && $4 != "-" {printf "%s ", $1}' "$work/support")"
check "it has 27 rows" awk 'NR > 1 && $2 != "-" && $1 != "reshape" {n++} END {exit n != 27}' "$work/support"
check "what it has agrees with the reference, by rows and by parts" "$backend" --device minimal
check "one op can be tested" "$backend" --device minimal -o softmax
check "and timed" "$backend" --device minimal -o product perf

sh tests/small-model.sh "$MAIN" "$work" >"$work/log" 2>&1 || { cat "$work/log"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
# numbers FILE: the logits of its texts, to four digits.
numbers() {
    grep -o '"logits":\[[^]]*\]' "$1" | tr -c '0-9.e-' '\n' | awk 'NF {printf "%.4f\n", $1 + 0}' | sed 's/^-0\.0000$/0.0000/'
}
predict() {
    "$MAIN" predict --model "$1" --device "$2" --quiet --json "The soup was cold." "Friendly staff, fair prices." >"$work/$2.json"
}
near() {
    numbers "$work/cpu.json" >"$work/cpu.numbers"
    numbers "$work/minimal.json" >"$work/minimal.numbers"
    [ -s "$work/cpu.numbers" ] && paste "$work/cpu.numbers" "$work/minimal.numbers" |
        awk '{d = $1 - $2; if (d > 0.0002 || d < -0.0002) exit 1}'
}
check "it predicts" predict "$work/small.gguf" minimal
predict "$work/small.gguf" cpu
check "what the CPU does" near

train() {
    "$MAIN" train --encoder "$work/encoder.gguf" --data "$work/train.csv" --validation-split 0.25 --text review --label stars \
        --concept food --concept service --limit 48 --epochs 2 --prune magnitude --sparsity 0.5 --prune-start 1 --prune-end 1 \
        --device "$1" --json -o "$work/$1.gguf" >"$work/$1.epochs" 2>"$work/$1.log"
}
check "it trains and prunes by magnitude" train minimal
check "and says what ran on the CPU" grep -q "minimal has no keep_largest: it runs on the CPU" "$work/minimal.log"
train cpu
check "half of the weights are zero" grep -q '"sparsity":0.5' "$work/minimal.epochs"
predict "$work/minimal.gguf" minimal
predict "$work/cpu.gguf" cpu
check "with the CPU's weights, dropout and masks" near

finish
