#!/bin/sh
# Plug-ins: the shadow device as a shared object that was built outside of the tree, with the installed header alone, predicts and
# trains under the program; where plug-ins are looked for; and what is said of those that cannot be used.
. tests/check.sh
unset SCBM_BACKEND_PATH
MAIN=${MAIN:-models/main}

# refuses WHAT WORDS COMMAND...: the command fails with one line that has the words.
refuses() {
    what=$1 words=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err"
    status=$?
    if [ $status -eq 1 ] && grep -qF -e "$words" "$work/err" && [ "$(wc -l <"$work/err")" -eq 1 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "fail: $what: status $status, wanted '$words'"
        cat "$work/err"
    fi
}

mkdir "$work/include" "$work/tests" "$work/plug-ins" "$work/other"
cp sparsecbm.h "$work/include/"
cp tests/shadow-device.c tests/shadow-device.h "$work/tests/"

# plugin NAME FOLDER FLAGS FILE: by the line that the guide has.
plugin() {
    (cd "$work" && ${CC:-cc} -std=c11 -Wall -Werror -shared -fPIC -DSCBM_PLUGIN -I include -I . $3 \
        -o "$2/libsparsecbm-$1.so" "$4")
}

# One with what goes wrong with plug-ins, by flags.
cat >"$work/poor.c" <<'END'
#include <sparsecbm.h>
#include <stdio.h>
#ifndef VERSION
#define VERSION SCBM_BACKEND_VERSION
#endif
#ifndef DEVICES
#define DEVICES 1
#endif

static int count(void) {
    return DEVICES;
}

static void describe(int device, char *text, size_t size) {
    if (device < 0) snprintf(text, size, "the drawer is empty");
    else snprintf(text, size, "poor number %d", device);
}

static scbm_status open_poor(scbm_backend **backend, const char *device, const scbm_backend_options *options) {
    scbm_log(options->hooks, SCBM_LOG_WARNING, "poor looks at device %s", device ? device : "none");
    *backend = NULL;
    return scbm_fail(SCBM_ERROR_UNSUPPORTED, "device %s of poor is asleep", device ? device : "0");
}

static const scbm_backend_entry entry = {VERSION, NAME, count, describe, open_poor};
#ifdef IS_NEWER
const scbm_host *scbm_plugin_host;
const scbm_backend_entry *scbm_backend_main(const scbm_host *host, uint32_t version) {
    (void)host;
    return version < 1000 ? NULL : &entry;
}
#else
SCBM_PLUGIN_MAIN(&entry)
#endif
END
echo "int answer(void); int answer(void) { return 42; }" >"$work/library.c"

check "the shadow device is built outside of the tree" plugin shadow plug-ins "" tests/shadow-device.c
check "small plug-ins are built" plugin poor plug-ins '-DNAME="poor"' poor.c
plugin none other '-DNAME="none" -DDEVICES=0' poor.c
plugin old other '-DNAME="old" -DVERSION=1' poor.c
plugin newer other '-DNAME="newer" -DIS_NEWER' poor.c
plugin names other '-DNAME="surprise"' poor.c
plugin library other '' library.c
echo "no library" >"$work/other/libsparsecbm-text.so"
: >"$work/other/libsparsecbm-empty.so"

sh tests/small-model.sh "$MAIN" "$work" >"$work/log" 2>&1 || { cat "$work/log"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
# predict [PATH]=DEVICE: with the plug-ins of a folder.
predict() {
    SCBM_BACKEND_PATH=$1 "$MAIN" predict --model "$work/small.gguf" --quiet --json --device "$2" "The soup was cold."
}
# predicts [PATH] DEVICE CPU: the same bits from both.
predicts() {
    predict "" "$3" >"$work/cpu.json" && predict "$1" "$2" >"$work/device.json" && cmp "$work/cpu.json" "$work/device.json"
}
check "a plug-in predicts" predicts "$work/plug-ins" shadow cpu
check "with a device" predicts "$work/plug-ins" shadow:portable cpu:portable
deep=$work/plug-ins
for part in 1 2 3 4 5; do deep=$deep/$(printf '%0240d' $part); done
mkdir -p "$deep" && cp "$work/plug-ins/libsparsecbm-shadow.so" "$deep/"
check "from a path of over 1023 bytes" predicts "$deep" shadow cpu
rm -r "$work/plug-ins/$(printf '%0240d' 1)"
check "in the second folder of the path" predicts "relative:/nowhere::$work/plug-ins" shadow cpu

train() {
    SCBM_BACKEND_PATH=$work/plug-ins "$MAIN" train --encoder "$work/encoder.gguf" --data "$work/train.csv" --text review \
        --label stars --concept food --concept service --limit 48 --validation-split 0.25 --epochs 1 --quiet --device "$1" -o "$work/$1.gguf"
}
check "a plug-in trains" train shadow
check "and what it has trained predicts" "$MAIN" predict --model "$work/shadow.gguf" "Good soup."

# Where they are looked for.
mkdir "$work/bin"
cp "$MAIN" "$work/bin/main" && cp "$work/plug-ins/libsparsecbm-shadow.so" "$work/bin/"
check "a plug-in beside the program is found" "$work/bin/main" predict --model "$work/small.gguf" --device shadow "Cold soup."
in_folder() {
    (cd "$work/plug-ins" && SCBM_BACKEND_PATH=$1 "$MAIN" predict --model "$work/small.gguf" --device shadow "Cold soup.")
}
for path in "" . :: ./; do
    refuses "one in the current folder is not found by '$path'" "there is no backend 'shadow'" in_folder "$path"
done
refuses "a name is no path" "there is no backend '../plug-ins/x'" predict "$work/other" ../plug-ins/x
refuses "the training library is no plug-in" "there is no backend 'train'" predict "$work/other" train

# What cannot be used.
refuses "a file that is missing" "libsparsecbm-missing.so" predict "$work/plug-ins" missing
refuses "text" "$work/other/libsparsecbm-text.so cannot be loaded" predict "$work/other" text
refuses "an empty file" "$work/other/libsparsecbm-empty.so cannot be loaded" predict "$work/other" empty
refuses "a library without the symbol" "no symbol scbm_backend_main" predict "$work/other" library
refuses "an older version" "$work/other/libsparsecbm-old.so was built for version 1" predict "$work/other" old
refuses "a newer version" "$work/other/libsparsecbm-newer.so refuses this library" predict "$work/other" newer
refuses "a backend of another name" "holds a backend of another name, 'surprise'" predict "$work/other" names
refuses "no device" "none has no device here: the drawer is empty" predict "$work/other" none

# By name a failure is one; "auto" takes the CPU, and the log says why.
says() {
    file=$1
    shift
    for words in "$@"; do grep -qF -e "$words" "$file" || return 1; done
}
SCBM_BACKEND_PATH=$work/plug-ins "$MAIN" predict --model "$work/small.gguf" --device poor:7 "Soup." 2>"$work/err"
check "one that does not open is an error by name" says "$work/err" "poor looks at device 7" "device 7 of poor is asleep"
rm "$work/plug-ins/libsparsecbm-shadow.so"
cp "$work/other/"*.so "$work/plug-ins/"
check "auto takes the CPU" predicts "$work/plug-ins" auto cpu
SCBM_BACKEND_PATH=$work/plug-ins "$MAIN" predict --model "$work/small.gguf" --device auto "Soup." >/dev/null 2>"$work/err"
check "and says why" says "$work/err" "warning: poor is not used: device 0 of poor is asleep" \
    "none has no device here: the drawer is empty" "warning: text is not used: " "warning: library is not used: " \
    "warning: old is not used: " "warning: newer is not used: " "warning: names is not used: "

SCBM_BACKEND_PATH=$work/plug-ins "$MAIN" inspect --devices >"$work/out" 2>"$work/err"
check "inspect lists the devices of plug-ins" says "$work/out" "cpu" "poor number 0"
check "and says what cannot be used" says "$work/err" "none has no device here: the drawer is empty" "old is not used: "

finish
