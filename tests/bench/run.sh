#!/bin/sh
# The benchmark beside PyTorch, ONNX Runtime, OpenVINO and OpenBLAS: installs what it needs into build/, and
# prints one table. `make bench-peers`, or:
#
#     tests/bench/run.sh [--threads 2] [--rounds 3] [--only linear,encode,latency,train,start] [--texts FILE.csv]
#
# OpenBLAS comes from the system (libopenblas-dev); without it that column is left out.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p build/bench
sh tests/parity/setup_venv.sh build/venv-bench tests/bench/requirements.txt
if ! ${CC:-cc} -O2 -o build/bench/openblas tests/bench/openblas.c -lopenblas 2>build/bench/openblas.log; then
    rm -f build/bench/openblas
    echo "no OpenBLAS (install libopenblas-dev): its column is left out" >&2
fi
exec build/venv-bench/bin/python tests/bench/peers.py "$@"
