#!/bin/sh
# tests/cuda/sass.sh [LIBRARY] - of the machine code of libsparsecbm-cuda.so: matrix instructions are in every kernel that is to
# have them, and nothing of it lies in local memory. Needs cuobjdump (of the toolkit, or pip install nvidia-cuda-cuobjdump).
set -u
library=${1:-libsparsecbm-cuda.so}
dump=$(command -v cuobjdump || ls "${CUDA_HOME:-/usr/local/cuda}/bin/cuobjdump" 2>/dev/null)
if [ -z "$dump" ]; then
    echo "cuobjdump is not on this machine: the machine code was not read."
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
"$dump" -sass -arch sm_80 "$library" | awk '
    /Function :/ { name = $NF; seen[name] = 1 }
    /HMMA/ { matrix[name]++ }
    /LDL|STL/ { if (name ~ /linear_mma/) locals[name]++ }
    END {
        for (name in seen) {
            if (name !~ /linear_mma/) continue
            ok = matrix[name] > 0 && !locals[name]
            printf "%s %s: %d matrix instructions, %d of local memory\n", ok ? "ok" : "not ok", name, matrix[name], locals[name]
            if (ok) passed++; else failed++
        }
        printf "%d passed, %d failed, 0 skipped\n", passed, failed + !passed
        exit failed || !passed
    }'
