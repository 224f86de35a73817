#!/bin/sh
# The README's embedding example, as a stranger would use it: installed under a prefix, compiled by
# pkg-config's flags as C and as C++, and run.
. tests/check.sh
here=$(pwd)

if [ -n "${SANITIZE:-}" ] || ! command -v pkg-config >/dev/null; then
    echo "skipped: the example is compiled by the plain build, with pkg-config"
    skipped=1
    finish
fi
check "make install" env MAKEFLAGS= "${MAKE:-make}" BUILD="${BUILD:-build}" CC="${CC:-cc}" OPENMP="${OPENMP:-1}" install PREFIX="$work/prefix"
for file in lib/libsparsecbm.a lib/libsparsecbm.so lib/libsparsecbm-train.a lib/libsparsecbm-train.so include/sparsecbm.h include/cbm.h \
    include/cbm-data.h include/cbm-train.h lib/pkgconfig/sparsecbm.pc lib/pkgconfig/sparsecbm-train.pc bin/sparsecbm \
    bin/sparsecbm-convert-hf; do
    check "$file is installed" test -f "$work/prefix/$file"
done
export PKG_CONFIG_PATH="$work/prefix/lib/pkgconfig"

# example NAME: the C block after the line <!-- NAME example -->.
example() {
    awk -v mark="<!-- $1 example -->" '$0 == mark { found = 1 } found && /^```$/ { exit } copy { print } found && /^```c$/ { copy = 1 }' README.md
}
example embedding >"$work/app.c"
example training >"$work/learn.c"
check "README.md has an embedding example" test -s "$work/app.c"
check "README.md has a training example" test -s "$work/learn.c"
cp "$work/app.c" "$work/app.cc"

cd "$work" || exit 1
check "a model to predict with" sh -c "\"$here/tests/small-model.sh\" \"$work/prefix/bin/sparsecbm\" \"$work\" && cp small.gguf model.gguf"
check "the example compiles as C" sh -c "${CC:-cc} -Wall -Wextra app.c \$(pkg-config --cflags --libs sparsecbm) -o app"
check "the example runs" sh -c "./app model.gguf 'The soup was cold, but the waiter was lovely.' > output && grep -q food output && cat output"
check "the example reports a missing model" sh -c "! ./app nothing.gguf text 2>message && grep -q nothing.gguf message"
check "it links statically" sh -c "${CC:-cc} app.c -I prefix/include prefix/lib/libsparsecbm.a \
    \$(pkg-config --static --libs-only-l --libs-only-other sparsecbm | tr ' ' '\n' | grep -vE '^-lsparsecbm|^-Wl' | tr '\n' ' ') -o app-static && ./app-static model.gguf hello"
check "the training example compiles" sh -c "${CC:-cc} -Wall -Wextra learn.c \$(pkg-config --cflags --libs sparsecbm-train) -o learn"
check "the training example trains and measures" sh -c "./learn encoder.gguf train.csv dev.csv mine.gguf | grep -q 'label accuracy 0'"
check "its model predicts" sh -c "./app mine.gguf 'The soup was cold, but the waiter was lovely.' | grep -q food"
if command -v g++ >/dev/null || command -v c++ >/dev/null; then
    cxx=$(command -v g++ || command -v c++)
    check "the example compiles as C++" sh -c "$cxx -Wall -Wextra app.cc \$(pkg-config --cflags --libs sparsecbm) -o app-cc && ./app-cc model.gguf hello"
else
    skipped=$((skipped + 1))
    echo "skipped: C++, because no C++ compiler is installed"
fi
cd "$here" || exit 1
check "make uninstall" env MAKEFLAGS= "${MAKE:-make}" uninstall PREFIX="$work/prefix"
check "nothing is left" sh -c "test -z \"\$(find '$work/prefix' -type f -o -type l)\""
finish
