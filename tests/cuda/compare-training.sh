#!/bin/sh
# tests/cuda/compare-training.sh MAIN DEVICE [REVIEWS] - the same small training and pruning on the CPU and on DEVICE: losses of
# all steps within 1e-4, and what the two models say of a text (predicted, intervened, explained)
# in the same words, with numbers within 1e-3.
set -eu
main=$1 device=$2 reviews=${3:-160}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$main" demo --data-only --reviews "$reviews" --dir "$dir" >/dev/null

# run DEVICE NAME: trains there and asks the model; NAME.steps and NAME.said
run() {
    "$main" train --encoder "$dir/encoder.gguf" --data "$dir/train.csv" --validation "$dir/dev.csv" --text review \
        --label stars --concept food --concept service --concept noise --concept price --epochs 3 --prune obert \
        --prune-start 1 --prune-end 2 --sparsity 0.5 --log-steps "$dir/$2.steps" --device "$1" --quiet -o "$dir/$2.gguf" >/dev/null
    text='Great food and rude staff, it was loud but cheap.'
    {
        "$main" predict --model "$dir/$2.gguf" --device "$1" --json "$text"
        "$main" intervene --model "$dir/$2.gguf" --device "$1" --json --set service=Positive "$text"
        "$main" explain --model "$dir/$2.gguf" --device "$1" --json --steps 8 --max-steps 8 "$text"
    } >"$dir/$2.said"
}
run cpu first
run "$device" second

# Numbers of two files in turn; what stands between them must be the same.
compare() {
    awk -v most="$3" -v name="$4" '
        function numbers(line, list,    n) {
            n = 0
            while (match(line, /-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?/)) {
                list[++n] = substr(line, RSTART, RLENGTH) + 0
                line = substr(line, RSTART + RLENGTH)
            }
            return n
        }
        function words(line) {
            gsub(/-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?/, "#", line)
            return line
        }
        FNR == NR { first[FNR] = $0; n_lines = FNR; next }
        {
            n = numbers(first[FNR], a)
            if (words($0) != words(first[FNR])) { print name ": line " FNR " says something else: " $0; bad = 1; exit 1 }
            if (numbers($0, b) != n) { print name ": line " FNR " has other numbers"; bad = 1; exit 1 }
            for (i = 1; i <= n; i++) {
                off = a[i] - b[i]; if (off < 0) off = -off
                size = a[i] < 0 ? -a[i] : a[i]; if (size < 1) size = 1
                if (off / size > worst) worst = off / size
                count++
            }
        }
        END {
            if (bad) exit 1
            if (FNR != n_lines || !count) { print name ": not as many lines"; exit 1 }
            printf "%s: %d numbers, at most %.2g apart (%g is the bound)\n", name, count, worst, most
            exit worst > most
        }' "$1" "$2"
}
compare "$dir/first.steps" "$dir/second.steps" 1e-4 "losses and norms"
compare "$dir/first.said" "$dir/second.said" 1e-3 "predictions and explanations"
