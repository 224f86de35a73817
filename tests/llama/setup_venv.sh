#!/bin/sh
# Makes the virtual environment in which tests/llama/compare.py runs, and does nothing when it is up to date.
#
#     tests/llama/setup_venv.sh [VENV]
#
# llama-cpp-python has no wheel on PyPI. Its sources are unpacked and compiled in folders beside VENV (build/llama-venv)
# that stay, so a build that was stopped goes on where it stopped; of llama.cpp only the four libraries that Python loads
# are compiled, with -O1: nothing here is timed. Where there is ccache, llama.cpp's own build uses it. Nothing is compiled
# where LLAMA_CPP_LIB_PATH, which llama-cpp-python reads too, is a folder with these libraries of the same version.
set -eu
cd "$(dirname "$0")/../.."
venv=$(realpath -m "${1:-build/llama-venv}")
requirements=tests/llama/requirements.txt
stamp=$venv/requirements.installed
source=$venv-source

is_compiled=ON
[ -z "${LLAMA_CPP_LIB_PATH:-}" ] || is_compiled=OFF
wanted() { cat "$requirements" && echo "# compiled: $is_compiled"; }
if [ -f "$stamp" ] && wanted | cmp -s - "$stamp"; then
    exit 0
fi
echo "setting up $venv (once; to compile llama.cpp takes a quarter of an hour on two processors)"
[ -x "$venv/bin/python" ] || ${PYTHON:-python3} -m venv "$venv"
pip="$venv/bin/python -m pip"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
binding=$(grep '^llama-cpp-python==' "$requirements")
grep -v '^llama-cpp-python==' "$requirements" | $pip install -r /dev/stdin
if ! cmp -s "$requirements" "$source/requirements"; then
    rm -rf "$source"
    mkdir -p "$source/unpacked"
    $pip download --no-deps --no-build-isolation --no-binary :all: --dest "$source" "$binding"
    tar -xzf "$source"/*.tar.gz -C "$source/unpacked" --strip-components=1
    cp "$requirements" "$source/requirements"
fi
# Its own CMakeLists wants a library more, which takes as long to compile as the rest, and nothing here loads it.
sed -i 's/set(LLAMA_BUILD_COMMON ON /set(LLAMA_BUILD_COMMON OFF /' "$source/unpacked/CMakeLists.txt"
flags='-O1 -DNDEBUG'
[ $is_compiled = OFF ] || export SKBUILD_BUILD_TARGETS='llama;ggml;ggml-base;ggml-cpu'
PATH=$venv/bin:$PATH SKBUILD_BUILD_DIR=$source/build \
    SKBUILD_CMAKE_DEFINE="LLAMA_BUILD=$is_compiled;LLAVA_BUILD=OFF;GGML_NATIVE=ON;CMAKE_C_FLAGS_RELEASE=$flags;CMAKE_CXX_FLAGS_RELEASE=$flags" \
    $pip install --no-build-isolation --no-deps "$source/unpacked"
wanted >"$stamp"
