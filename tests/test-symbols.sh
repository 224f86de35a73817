#!/bin/sh
# Which names the libraries show: those of their headers; and a library never ends, or prints for, its host program.
set -u
out=.
[ "${BUILD:-build}" = build ] || out=$BUILD
passed=0 failed=0 skipped=0

# check WHAT LIST: passes when the list is empty.
check() {
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "fail: $1:"
        echo "$2" | head -n 20
    fi
}

# Sanitizers add names of their own to what they instrument.
tools='^(__asan|__odr_asan|__ubsan|__sanitizer|_init$|_fini$)'
ours='^(_?scbm_|_?cbm_|__asan|__odr_asan|__ubsan|__sanitizer|_init$|_fini$)'
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

for library in libsparsecbm libsparsecbm-train; do
    headers="sparsecbm.h models/cbm.h"
    [ $library = libsparsecbm ] || headers="$headers models/cbm-data.h models/cbm-train.h"
    grep -ohE '^[a-z].*\b(scbm|cbm)_[a-z0-9_]+\(' $headers | grep -oE '(scbm|cbm)_[a-z0-9_]+\($' | tr -d '(' | sort -u >"$work/declared"
    nm -D --defined-only "$out/$library.so" | awk '$2 ~ /[TDBRVWG]/ { print $3 }' | grep -vE "$tools" | sort -u >"$work/exported"
    check "names that $library.so exports and its headers do not declare" "$(comm -13 "$work/declared" "$work/exported")"
    check "functions that $library.so's headers declare and it does not export" "$(comm -23 "$work/declared" "$work/exported")"
    # A stylesheet's variables, "--name:" and "var(--name", are none; nor is what instructions look like, read as letters.
    check "messages of $library.a that name an option of the program" \
        "$(strings -n 8 "$out/$library.a" | grep -E "(^|[ '(])--[a-z][a-z-]+([] ,.;=)'|]|$)" | grep -vE '^--[^ ]*:|var\(--')"
    check "names that $library.a defines without the prefix" \
        "$(nm --defined-only "$out/$library.a" 2>/dev/null | awk '$2 ~ /^[TDBRC]$/ { print $3 }' | grep -vE "$ours")"
done
if [ -z "${SANITIZE:-}" ]; then
    check "calls in the libraries that end the program or print" \
        "$(nm -u "$out/libsparsecbm-train.a" 2>/dev/null | awk '{ print $2 }' |
           grep -xE 'abort|exit|_exit|_Exit|printf|__printf_chk|puts|putchar|perror|__assert_fail|stdout|stderr')"
else
    skipped=$((skipped + 1))
    echo "skipped: calls, which are looked at in the plain build"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
