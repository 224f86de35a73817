#!/bin/sh
# tests/cuda/sass.sh [FILE] - what the CUDA backend's kernels were compiled to, in the library or object FILE (libsparsecbm-cuda.so):
# the masked products have matrix instructions (HMMA) for one, two and four streams, their gradients too, and no kernel reads or writes local memory
# (LDL, STL: registers that did not suffice). No GPU is needed. cuobjdump and nvdisasm are the toolkit's ($CUDA_HOME, $PATH), or
# come from PyPI (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm) into build/sass/. Status 77: they cannot be had.
set -u
cd "$(dirname "$0")/../.." || exit 1
file=${1:-libsparsecbm-cuda.so}
tools=build/sass
PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH
[ -r "$file" ] || { echo "sass.sh: there is no $file; 'make cuda' builds it"; exit 1; }

have() {
    command -v cuobjdump >/dev/null && command -v nvdisasm >/dev/null
}

fetch() {
    mkdir -p "$tools" && python3 -m pip download -q --no-deps -d "$tools" nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm &&
        for wheel in "$tools"/*.whl; do python3 -m zipfile -e "$wheel" "$tools" || return 1; done &&
        chmod +x "$tools"/nvidia/*/bin/*
}

if ! have; then
    ls "$tools"/nvidia/*/bin/cuobjdump >/dev/null 2>&1 || fetch >"${TMPDIR:-/tmp}/sass.$$" 2>&1
    rm -f "${TMPDIR:-/tmp}/sass.$$"
    for folder in "$PWD/$tools"/nvidia/*/bin; do PATH=$folder:$PATH; done
    have || { echo "sass.sh: cuobjdump and nvdisasm are not here"; exit 77; }
fi

dump=$(mktemp)
trap 'rm -f "$dump"' EXIT
cuobjdump --dump-sass "$file" >"$dump" || { echo "sass.sh: $file cannot be read"; exit 1; }
awk '
    /^arch = /      { arch = $3 }
    /Function :/    { name = $3; kernels[arch]++ }
    /[ \t]HMMA/     { if (!((arch, name) in matrix)) with[arch]++; matrix[arch, name]++; sum[arch]++ }
    /[ \t](LDL|STL)/ { local[arch]++; if (!((arch, name) in seen)) { seen[arch, name] = 1; list = list "\n  " arch " " name } }
    /[ \t]HMMA/ && name ~ /linear_back_x_mma_kernel/ { back_x[arch]++ }
    /[ \t]HMMA/ && name ~ /linear_back_w_mma_kernel/ { back_w[arch]++ }
    /[ \t]HMMA/ && name ~ /linear_mma_kernel/ { masked[arch, name ~ /ILi4ELi1E/ ? 4 : name ~ /ILi2ELi1E/ ? 2 : name ~ /ILi1ELi1E/ ? 1 : 0]++ }
    END {
        for (a in kernels) {
            n++
            printf "%s: %d kernels, %d HMMA in %d of them (masked products of 1, 2, 4 streams: %d, %d, %d; gradients by x %d, by w %d), %d LDL and STL\n",
                a, kernels[a], sum[a], with[a], masked[a, 1], masked[a, 2], masked[a, 4], back_x[a], back_w[a], local[a]
            if (!masked[a, 1] || !masked[a, 2] || !masked[a, 4] || !back_x[a] || !back_w[a] || local[a]) bad = 1
        }
        if (list) print "local memory:" list
        exit !n || bad
    }' "$dump"
