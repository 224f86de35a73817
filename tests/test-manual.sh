#!/bin/sh
# The manual page and the completion, which come out of the commands' tables: that the page has every command and option and
# that man and mandoc have nothing to say of it; that bash completes commands, options, values and files.
set -u

main=${MAIN:-models/main}
passed=0 failed=0 skipped=0
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT

check() { # NAME COMMAND…
    name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "fail: $name"
    fi
}

page=$folder/sparsecbm.1
check "the page is written" sh -c "'$main' help --man 2026-01-31 >'$page'"
check "the page has its date" grep -q '^\.TH SPARSECBM 1 "2026-01-31" "sparsecbm ' "$page"
"$main" --help | sed -n 's/^  \([a-z]*\) .*/\1/p' >"$folder/commands"
check "there are commands" test "$(wc -l <"$folder/commands")" -gt 10
while read -r command; do
    check "$command is in the page" grep -q "^\.SS $command\$" "$page"
    check "$command's options stand in groups" sh -c "! '$main' $command --help | grep -q '^Options:'"
    for option in $("$main" "$command" --help | sed -n 's/^  \(-[a-z], \)\{0,1\}--\([a-z0-9-]*\).*/\2/p'); do
        check "$command --$option is in the page" grep -qF "\\-\\-$(echo "$option" | sed 's/-/\\-/g')" "$page"
    done
done <"$folder/commands"

if command -v man >/dev/null && man -l --warnings "$page" >/dev/null 2>"$folder/said" </dev/null; then
    check "man has no warnings" test ! -s "$folder/said"
else
    skipped=$((skipped + 1))
    echo "skipped: there is no man"
fi
if command -v mandoc >/dev/null; then
    mandoc -T lint "$page" >"$folder/said" 2>&1
    check "mandoc has nothing to say" test ! -s "$folder/said"
    head -5 "$folder/said"
else
    skipped=$((skipped + 1))
    echo "skipped: there is no mandoc"
fi

completes() { # WANTED WORD…: what the last of the words may become
    wanted=$1
    shift
    found=$(cd "$folder" && bash -c '. ./completion; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _sparsecbm
        echo "${COMPREPLY[@]}"' bash "$@" 2>&1)
    check "'$*' becomes '$found', not '$wanted'" test "$found" = "$wanted"
}
if command -v bash >/dev/null; then
    "$main" help --bash-completion >"$folder/completion"
    touch "$folder/a model.gguf"
    check "bash reads the completion" bash -n "$folder/completion"
    completes "predict" sparsecbm pr
    completes "train" sparsecbm help tr
    completes "--threads" sparsecbm predict --thr
    completes "--quiet" sparsecbm embed --qu
    completes "signed abs" sparsecbm eval --select ""
    completes "q8_0 q4_0" sparsecbm quantize x --type q
    completes "one-hot" sparsecbm intervene --edit = o
    completes "a model.gguf" sparsecbm predict --model a
    completes "a model.gguf" sparsecbm quantize f.gguf -o a
    completes "a model.gguf" sparsecbm inspect a
    completes "" sparsecbm eval --resamples 3
else
    skipped=$((skipped + 1))
    echo "skipped: there is no bash"
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
