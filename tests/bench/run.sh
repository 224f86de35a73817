#!/bin/sh
# The benchmark beside PyTorch, ONNX Runtime, OpenVINO and OpenBLAS: installs what it needs into build/, and
# prints one report. `make bench-peers`, or, with the options that tests/bench/bench.py --help lists:
#
#     tests/bench/run.sh [--only linear,texts,…] [--resume] [--markdown FILE]
#
# OpenBLAS comes from the system (libopenblas-dev); without it that column is left out.
set -eu
cd "$(dirname "$0")/../.."
requirements=tests/bench/requirements.txt
stamp=build/venv/bench.installed
sh tests/parity/setup_venv.sh
if ! cmp -s "$requirements" "$stamp"; then
    build/venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$stamp"
fi
mkdir -p build/bench
if ! ${CC:-cc} -O2 -o build/bench/openblas tests/bench/openblas.c -lopenblas 2>build/bench/openblas.log; then
    rm -f build/bench/openblas
    echo "no OpenBLAS (install libopenblas-dev): its column is left out" >&2
fi
exec build/venv/bin/python tests/bench/bench.py "$@"
