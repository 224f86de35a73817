#!/bin/sh
# tests/cuda/run.sh - everything that a machine with an NVIDIA GPU can say of the CUDA backend, in some ten minutes: run it in the
# repository's root. Each part has its own limit and prints its row as soon as it has it; one that fails or runs out of time
# does not keep the next from running. Results lie in build/cuda-run/ ($OUT where that is set). Needs nvcc and what 'make deps' installs;
# cuobjdump and compute-sanitizer are used where they are there.
set -u
cd "$(dirname "$0")/../.." || exit 1
out=${OUT:-build/cuda-run}
mkdir -p "$out"
main=models/main
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
    printf '%-14s %-18s %4d s  %s\n' "$name" "$word" "$(($(date +%s) - started))" "$(tail -n 1 "$out/$name.log")" | tee -a "$out/rows.txt"
}

build() {
    make -j"$(nproc)" all cuda build/tests/test-backend build/gpu/test-gradients >/dev/null && [ -r libsparsecbm-cuda.so ] && $main inspect --devices
}

# Random weights of two shapes, K subnetworks: many texts at once, one text, a step of training.
ours() {
    for shape in minilm bert-base; do
        for k in 1 4 10; do
            for precision in f32 bf16; do
                echo "$shape, K = $k, $precision"
                $main bench encoder latency train --shape $shape --subnetworks $k --sparsity 0.7 --device cuda --precision $precision --repeats 3 --texts 64 || return
            done
        done
    done
}

training() {
    sh tests/cuda/compare-training.sh $main cuda 1600
}

sanitizer() {
    check=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null) || {
        echo "compute-sanitizer is not on this machine"
        return 77
    }
    $main demo --data-only --reviews 40 --dir "$out/tiny" >/dev/null
    "$check" --error-exitcode 1 $main embed --model "$out/tiny/encoder.gguf" --device cuda "a small text"
}

# A part that is a function of this script.
case ${1:-} in
build | ours | training | sanitizer)
    "$1"
    exit
    ;;
esac

: >"$out/rows.txt"
part 120 build sh tests/cuda/run.sh build
part 60 conformance build/tests/test-backend cuda
part 30 gradients build/gpu/test-gradients
part 30 sass sh tests/cuda/sass.sh libsparsecbm-cuda.so
part 60 training sh tests/cuda/run.sh training
part 120 ours sh tests/cuda/run.sh ours
part 60 sanitizer sh tests/cuda/run.sh sanitizer
cat "$out/ours.log"
