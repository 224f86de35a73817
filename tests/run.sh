#!/bin/sh
# tests/run.sh TEST... - runs test programs and scripts, some at a time, and adds up their results.
#
# A test counts its cases itself, by a last line "N passed, N failed, N skipped", or speaks TAP (as cmocka does). A
# program tests' fuzzers are replayed with (…/replay-NAME) gets the inputs kept in tests/fuzz/corpus/NAME and is one case.
# A test that ends with another status than 0 and counts no failure is one failure. The last line is the total.
# RUN: what programs are run with (an emulator). TEST_JOBS: how many run at a time; as many as there are processors, and
# no more than four, where it is not said.
#
# Tests begin alike wherever they are started from: nothing to read, and no signal that is ignored (nohup, and what a shell
# starts in the background, ignore some; a shell cannot undo that by itself).
set -u
if [ -z "${SIGNALS_ARE_DEFAULT:-}" ] && env --default-signal true 2>/dev/null; then
    SIGNALS_ARE_DEFAULT=1 exec env --default-signal sh "$0" "$@"
fi
exec </dev/null
RUN=${RUN:-}
export CMOCKA_MESSAGE_OUTPUT=TAP
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # a waiting thread must not take the core of another test
logs=${BUILD:-build}/logs
mkdir -p "$logs"

# Runs one test, its output into $log; sets $status.
run_one() {
    case $1 in
    *.sh) sh "$1" >"$log" 2>&1 ;;
    */replay-*)
        corpus=tests/fuzz/corpus/${name#replay-}
        if [ ! -d "$corpus" ]; then
            echo "$corpus: there is no such folder" >"$log"
            return 1
        fi
        if find "$corpus" -type f | sort | xargs "$1" >"$log" 2>&1; then
            echo "1 passed, 0 failed, 0 skipped" >>"$log"
        else
            return 1
        fi
        ;;
    */*) $RUN "$1" >"$log" 2>&1 ;;
    *) $RUN "./$1" >"$log" 2>&1 ;;
    esac
}

# Runs one test and says how it ended; its counts are left in a file.
report_one() {
    test=$1
    name=$(basename "$test" .sh)
    log=$logs/$name.log
    started=$(date +%s)
    run_one "$test"
    status=$?
    totals=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
    if [ -n "$totals" ]; then
        p=$(echo "$totals" | cut -d' ' -f1) f=$(echo "$totals" | cut -d' ' -f3) s=$(echo "$totals" | cut -d' ' -f5)
    else
        s=$(grep -cE '^(not )?ok .*# SKIP' "$log")
        p=$(grep -E '^ok ' "$log" | grep -vc '# SKIP')
        f=$(grep -E '^not ok ' "$log" | grep -vc '# SKIP')
    fi
    [ "$status" -ne 0 ] && [ "$f" -eq 0 ] && f=1
    [ $((p + f + s)) -eq 0 ] && f=1 # a test without cases tests nothing
    mark=✓
    [ "$f" -gt 0 ] && mark=✗
    {
        echo "$mark $name: $p passed, $f failed, $s skipped ($(($(date +%s) - started)) s)"
        if [ "$f" -gt 0 ]; then
            echo "  status $status; the end of $log:"
            grep -E '^(not ok|# )|rror|ail' "$log" | grep -v '# SKIP' | tail -n 30 | sed 's/^/    /'
            tail -n 15 "$log" | sed 's/^/    /'
        fi
        [ "$s" -gt 0 ] && grep -E '# SKIP|^skipped:' "$log" | sed 's/^/    /'
    } >"$log.report"
    cat "$log.report" # at once, so that tests which end together do not mix their lines
    rm -f "$log.report"
    echo "$p $f $s" >"$log.counts"
}

if [ "${1:-}" = --one ]; then
    report_one "$2"
    exit 0
fi
jobs=${TEST_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}
[ "$jobs" -le 4 ] || [ -n "${TEST_JOBS:-}" ] || jobs=4
for test in "$@"; do rm -f "$logs/$(basename "$test" .sh).log.counts"; done
printf '%s\0' "$@" | xargs -0 -P "$jobs" -n 1 sh "$0" --one
passed=0 failed=0 skipped=0
for test in "$@"; do
    counts=$logs/$(basename "$test" .sh).log.counts
    read -r p f s 2>/dev/null <"$counts" || p=0 f=1 s=0 # it was killed with what ran it
    rm -f "$counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
