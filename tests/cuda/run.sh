#!/bin/sh
# tests/cuda/run.sh - everything that a machine with an NVIDIA GPU can say of the CUDA backend, in a quarter of an hour: run it in the
# repository's root; names of parts as arguments run these alone. Each part has its own limit and prints its row as soon as it
# has it; one that fails or runs out of time does not keep the next from running. Results lie in build/cuda-run/ ($OUT where that
# is set). Needs nvcc and what 'make deps' installs; cuobjdump, compute-sanitizer and PyTorch (of build/venv, or python3's) are
# used where they are there: what lacks is a sentence in its part's row.
set -u
cd "$(dirname "$0")/../.." || exit 1
out=${OUT:-build/cuda-run}
mkdir -p "$out"
build=${BUILD:-build}
main=${MAIN:-models/main}
python=$(ls build/venv/bin/python 2>/dev/null || command -v python3 || echo python3)
SCBM_BACKEND_PATH=$PWD
export SCBM_BACKEND_PATH

# part SECONDS NAME COMMAND…: its row is the last line that it printed.
part() {
    limit=$1 name=$2
    shift 2
    started=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    case $status in
    0) word=passed ;;
    124) word="ran out of $limit s" ;;
    77) word=skipped ;;
    *) word="failed ($status)" ;;
    esac
    printf '%-14s %-18s %4d s  %s\n' "$name" "$word" "$(($(date +%s) - started))" "$(grep -v '^ *$' "$out/$name.log" | tail -n 1)" | tee -a "$out/rows.txt"
}

# The lines of a part that measures, whether it came to its end or not.
measured() {
    part "$@"
    sed 's/^/    /' "$out/$2.log"
}

build() {
    make -j"$(nproc)" BUILD="$build" all cuda "$build/tests/test-backend" "$build/gpu/test-gradients" >/dev/null || return
    [ -r libsparsecbm-cuda.so ] || {
        echo "there is no nvcc: libsparsecbm-cuda.so was not built"
        return 1
    }
    $main inspect --devices
}

device() {
    [ -r libsparsecbm-cuda.so ] || {
        echo "there is no libsparsecbm-cuda.so: 'make cuda' builds it"
        return 77
    }
    $main inspect --devices 2>/dev/null | grep -q '^cuda' || {
        echo "no GPU that the CUDA backend can use: 'inspect --devices' says why"
        return 77
    }
}

# A program of tests that needs a GPU.
tests() {
    device || return
    [ -x "$1" ] || {
        echo "$1 was not built"
        return 1
    }
    "$@"
}

# The first texts of tests/cuda/lengths.txt, as rows of words that are a token each; two more are at a text's ends.
texts() {
    tr ' ' '\n' <tests/cuda/lengths.txt | awk -v n="$1" '
        BEGIN { print "text" }
        NR <= n { row = "the"; for (i = 3; i < $1; i++) row = row " the"; print row }'
}

# Random weights of two shapes, K subnetworks: batches of 1, 8, 32 and 256 texts, a step of training.
ours() {
    on=${1:-cuda} # cpu: to try the commands
    [ "$on" = cpu ] || device || return
    failed=0
    for n in 1 8 32 256; do texts $n >"$out/texts-$n.csv"; done
    for precision in bf16 f32; do
        for shape in minilm bert-base; do
            for k in 4 1 10; do
                model=$out/$shape-$k.gguf
                [ -r "$model" ] ||
                    $main bench model --shape $shape --subnetworks $k --sparsity 0.7 -o "$model" >/dev/null || failed=1
                for n in 1 8 32 256; do
                    echo "$shape, K = $k, $precision, a batch of $n texts:"
                    $main bench encoder --model "$model" --data "$out/texts-$n.csv" --text text --device "$on" \
                        --precision $precision --repeats 5 || failed=1
                done
            done
            echo "$shape, $precision, steps of training:"
            $main bench train --shape $shape --device "$on" --precision $precision --repeats 3 --texts 64 || failed=1
        done
    done
    return $failed
}

training() {
    device || return
    sh tests/cuda/compare-training.sh $main cuda 1600
}

sanitizer() {
    device || return
    check=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null) || {
        echo "compute-sanitizer is not on this machine"
        return 77
    }
    $main demo --data-only --reviews 100 --dir "$out/tiny" >/dev/null
    "$check" --error-exitcode 1 $main embed --model "$out/tiny/encoder.gguf" --device cuda "a small text"
}

# A part that is a function of this script.
if [ "${1:-}" = --do ]; then
    shift
    "$@"
    exit
fi

parts="build conformance gradients sass rates floors ours training pytorch sanitizer"
for name in "$@"; do
    case " $parts " in
    *" $name "*) ;;
    *)
        echo "run.sh: there is no part '$name'; there are: $parts" >&2
        exit 2
        ;;
    esac
done

# Runs a part if it was asked for; without arguments all are.
asked=" $* "
run_part() {
    how=$1 limit=$2 name=$3
    shift 3
    case $asked in
    "  " | *" $name "*) $how "$limit" "$name" "$@" ;;
    esac
}

run="sh tests/cuda/run.sh --do"
: >"$out/rows.txt"
run_part part "${BUILD_LIMIT:-240}" build $run build
run_part part 60 conformance $run tests "$build/tests/test-backend" cuda
run_part part 30 gradients $run tests "$build/gpu/test-gradients"
run_part part 30 sass sh tests/cuda/sass.sh libsparsecbm-cuda.so
run_part part 60 rates "$python" tests/cuda/peer.py rates
run_part measured 60 floors "$python" tests/cuda/peer.py floors
run_part measured 120 ours $run ours
run_part part 60 training $run training
run_part measured 150 pytorch "$python" tests/cuda/peer.py pytorch
run_part part 60 sanitizer $run sanitizer
