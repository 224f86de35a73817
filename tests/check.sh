# tests/check.sh - what scripts of tests begin with, by `. tests/check.sh`: a folder, $work, that goes with them, and checks that
# are counted
set -u
passed=0 failed=0 skipped=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# check WHAT COMMAND...: passes when the command does.
check() {
    what=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "fail: $what"
        tail -n 20 "$work/log"
    fi
}

# Ends the script by the line that tests/run.sh reads.
finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
    exit
}
