#!/bin/sh
# Training that is killed at any moment leaves files that load, and goes on to the same bits; the whole demonstration
# gives the same bits again, with one thread or two, and a model far better than guessing.
set -u
passed=0 failed=0
main=${MAIN:-$(pwd)/models/main}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# check WHAT COMMAND...
check() {
    what=$1
    shift
    if "$@" >log 2>&1; then
        passed=$((passed + 1))
        echo "ok: $what"
    else
        failed=$((failed + 1))
        echo "fail: $what"
        tail -n 5 log
    fi
}

"$main" demo --data-only --reviews 900 --dir demo >/dev/null || exit 1
options="--encoder demo/encoder.gguf --data demo/train.csv --validation demo/dev.csv --text review --label stars
    --concept food --concept service --concept noise --concept price --epochs 6"
train() {
    "$main" train $options "$@"
}

# kill_and_resume DELAYS OPTIONS... - kills a run after each delay; a run that goes on ends as one that was not killed.
kill_and_resume() {
    delays=$1
    shift
    train "$@" --force -o whole.gguf >/dev/null 2>&1 || exit 1
    for delay in $delays; do
        rm -f killed.gguf killed.gguf.checkpoint
        "$main" train $options "$@" -o killed.gguf >/dev/null 2>&1 & # not the function: what is killed must be the program
        child=$!
        sleep "$delay"
        kill -9 "$child" 2>/dev/null
        wait "$child" 2>/dev/null
        [ ! -f killed.gguf ] || check "the model of a run $* that was killed after $delay s loads" "$main" predict --model killed.gguf text
        check "a run $* that was killed after $delay s goes on" train "$@" --resume -o killed.gguf
        check "and ends with the same bits" cmp whole.gguf killed.gguf
    done
}

kill_and_resume "0.1 0.4 0.7 1.1 1.6 2.2 2.9"
kill_and_resume "0.5 1.3 2.1 3.4 4.9" --prune obert --prune-start 2 --prune-end 4 --fisher-block 4
kill_and_resume "1.1 2.3 3.7" --prune popup --prune-start 2 --prune-end 4

check "the demonstration with one thread" "$main" demo --dir one --threads 1
check "the demonstration with two threads" "$main" demo --dir two --threads 2
check "both have the same bits" cmp one/reviews.gguf two/reviews.gguf
"$main" eval --model one/reviews.gguf --data one/test.csv --json >result || exit 1
cat result
# The most frequent label has 29 % of the held-out reviews, the concepts' most frequent classes 47 %; a label head on the
# true concepts gets 67 %.
check "its label accuracy is above 0.45" grep -qE '"label":\{"accuracy":0\.(4[5-9]|[5-9])' result
check "its concept accuracy is above 0.8" grep -qE '"concepts":\{"accuracy":0\.[89]' result
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
