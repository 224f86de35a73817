#!/bin/sh
# Which names the libraries show: only scbm_* and cbm_*; and the library never ends, or prints for, its host program.
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
ours='^(_?scbm_|_?cbm_|__asan|__odr_asan|__ubsan|__sanitizer|_init$|_fini$)'

check "names that libsparsecbm.so exports without the prefix" \
    "$(nm -D --defined-only "$out/libsparsecbm.so" | awk '$2 ~ /[TDBRVWG]/ { print $3 }' | grep -vE "$ours")"
check "names that libsparsecbm.a defines without the prefix" \
    "$(nm --defined-only "$out/libsparsecbm.a" 2>/dev/null | awk '$2 ~ /^[TDBRC]$/ { print $3 }' | grep -vE "$ours")"
if [ -z "${SANITIZE:-}" ]; then
    check "calls in libsparsecbm.a that end the program or print" \
        "$(nm -u "$out/libsparsecbm.a" 2>/dev/null | awk '{ print $2 }' |
           grep -xE 'abort|exit|_exit|_Exit|printf|__printf_chk|puts|putchar|perror|__assert_fail|stdout|stderr')"
    check "the exported functions of sparsecbm.h" \
        "$(for name in $(grep -ohE '\b(scbm)_[a-z0-9_]+\(' sparsecbm.h | tr -d '(' | sort -u); do
               grep -qE "^[a-z].*\b$name\(" sparsecbm.h || continue
               nm -D --defined-only "$out/libsparsecbm.so" | grep -qE " $name\$" || echo "$name is declared and not there"
           done)"
else
    skipped=$((skipped + 2))
    echo "skipped: calls and declarations, which are looked at in the plain build"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
