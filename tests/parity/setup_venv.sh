#!/bin/sh
# Makes a Python virtual environment, and does nothing when it is up to date.
#
#     tests/parity/setup_venv.sh [VENV] [REQUIREMENTS]
#
# Default: build/venv from tests/parity/requirements.txt. torch is installed before the rest, in its build for
# processors alone: on Linux the one that PyPI has brings several gigabytes of CUDA. PyTorch's own index is asked when
# pip knows no such build; where it has none either (macOS), the plain one is for processors.
set -eu
cd "$(dirname "$0")/../.."
venv=${1:-build/venv}
requirements=${2:-tests/parity/requirements.txt}
stamp=$venv/requirements.installed

if [ -f "$stamp" ] && cmp -s "$requirements" "$stamp"; then
    exit 0
fi
echo "setting up $venv (once; a few minutes)"
[ -x "$venv/bin/python" ] || ${PYTHON:-python3} -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
torch=$(grep '^torch==' "$requirements" || true)
if [ -n "$torch" ]; then
    $pip "$torch+cpu" 2>/dev/null || $pip --extra-index-url https://download.pytorch.org/whl/cpu "$torch+cpu" ||
        $pip "$torch"
fi
$pip -r "$requirements"
cp "$requirements" "$stamp"
