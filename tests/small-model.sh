#!/bin/sh
# tests/small-model.sh MAIN DIR - writes into DIR the demonstration's data, its encoder, and small.gguf, a model trained
# for one epoch: enough for tests of the program.
set -e
"$1" demo --data-only --reviews 900 --dir "$2" >/dev/null
"$1" train --encoder "$2/encoder.gguf" --data "$2/train.csv" --validation "$2/dev.csv" --text review --label stars \
    --concept food --concept service --concept noise --concept price --epochs 1 -o "$2/small.gguf" >/dev/null
