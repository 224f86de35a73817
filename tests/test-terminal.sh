#!/bin/sh
# What data, names and paths do to a terminal, which is nothing: control characters (C0, DEL, C1) and changes of direction are
# escaped by every command, in JSON too. And --keep-going: a bad line or row is answered in its place, all others as well.
set -u
passed=0 failed=0 skipped=0
main=${MAIN:-$(pwd)/models/main}
here=$(pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
sh "$here/tests/small-model.sh" "$main" "$work" || exit 1
cd "$work" || exit 1

ok() {
    passed=$((passed + 1))
}
fail() {
    failed=$((failed + 1))
    echo "fail: $1"
    head -n 5 out err
}
# run STATUS ARGUMENTS...: the program ends so; its output is in `out` and `err`.
run() {
    wanted=$1
    shift
    "$main" "$@" </dev/null >out 2>err
    status=$?
    if [ "$status" -eq "$wanted" ]; then ok; else fail "$*: status $status, wanted $wanted"; fi
}
# says FILE WORDS: they are in it.
says() {
    if grep -qF -- "$2" "$1"; then ok; else fail "\"$2\" is not in $1"; fi
}

# --- escapes ---
escape=$(printf '\033[31m') delete=$(printf '\177') c1=$(printf '\302\233') turn=$(printf '\342\200\256') mark=$(printf '\342\200\217')
bad=$(printf '[\001-\010\013-\037\177]|\302[\200-\237]|\342\200[\216\217\250-\256]|\342\201[\246-\251]')
# clean ARGUMENTS...: the program succeeds, and nothing that acts on a terminal is in what it prints.
clean() {
    run 0 "$@"
    if LC_ALL=C grep -qE -- "$bad" out err; then fail "$1 prints what acts on a terminal: $*"; else ok; fi
}
name="fo${escape}od$turn"
awk -F, -v name="$name" 'NR == 1 { sub(/food/, name) } { print }' train.csv |
    sed "s/,Positive/,Posi${c1}tive$delete/;s/,\\([45]\\),/,\\1$escape$mark,/" >odd.csv
model="mo${escape}del$c1.gguf"
columns="--text review --label stars --concept service"
# shellcheck disable=SC2086
clean train --encoder encoder.gguf --data odd.csv --validation odd.csv $columns --concept "$name" --drop-label "1$escape" --drop-label 2 \
    --epochs 1 -o "$model"
text="a${escape}b$delete c${c1}d e${turn}f g$mark"
for json in "" --json; do
    clean predict --model "$model" $json "$text" other
    clean explain --model "$model" $json --steps 4 "$text"
    clean explain --model "$model" $json --steps 4 --max-steps 4 --global --data odd.csv --sample 5
    clean eval --model "$model" $json --data odd.csv --resamples 0
    clean eval --model "$model" $json --data odd.csv --resamples 0 --intervene edit --intervene-texts 5
    clean intervene --model "$model" $json --method edit --set "$name=Posi${c1}tive$delete" "$text"
    clean tokenize --model "$model" $json "$text"
    clean inspect $json "$model"
done
clean quantize "$model" --type q8_0 -o "q$model"
clean predict --model "$model" -o "$model.csv" "$text"
clean explain --model "$model" --steps 4 --html "$model.html" "$text"
page=$(printf '[\001-\010\013-\037\177]|\302[\200-\237]|\342\200[\252-\256]|\342\201[\246-\251]')
if LC_ALL=C grep -qE -- "$page" "$model.html"; then fail "a page holds what acts on its reader"; else ok; fi
run 1 predict --model "no$model" x
run 1 eval --model "$model" --data "no$model"
run 2 predict --model "$model" "--no$escape"
for file in out err; do if LC_ALL=C grep -qE -- "$bad" $file; then fail "an error acts on the terminal"; else ok; fi; done
"$main" predict --model "$model" --json --echo "$text" >out 2>err
says out 'c\u009bd'
says out 'b\u007f'
says out 'e\u202ef'
says out 'a\u001b[31mb'

# --- bad lines, in their places ---
printf 'good\nbad \377\n\nnu\000l\nlast' >lines.txt
run 1 predict --model small.gguf --json --file lines.txt
if [ "$(wc -l <out)" -eq 1 ]; then ok; else fail "without --keep-going the first bad line ends it"; fi
run 1 predict --model small.gguf --json --file lines.txt --keep-going
if [ "$(wc -l <out)" -eq 5 ]; then ok; else fail "a line, a result"; fi
if [ "$(sed -n 2p out)" = '{"row":2,"error":"lines.txt, line 2: byte 5 (0xff) is not UTF-8"}' ]; then ok; else fail "the second says why"; fi
if [ "$(sed -n 4p out)" = '{"row":4,"error":"lines.txt, line 4: there is a NUL byte"}' ]; then ok; else fail "the fourth too"; fi
sed -n 5p out >five
says five '"row":5}'
says err "2 of 5 texts have something wrong in them"
"$main" predict --model small.gguf --json --keep-going <lines.txt >again 2>err
if sed 's/lines.txt/standard input/' out | cmp -s - again; then ok; else fail "a pipe is answered as a file is"; fi
run 1 predict --model small.gguf --file lines.txt --keep-going
says out "error: lines.txt, line 2: byte 5"
run 1 predict --model small.gguf --file lines.txt --keep-going -o lines.csv
if [ "$(wc -l <lines.csv)" -eq 6 ] && head -n 1 lines.csv | grep -q ',"error"$'; then ok; else fail "a table has a row for each"; fi
if sed -n 3p lines.csv | grep -q '^2,.*"lines.txt, line 2: byte 5 (0xff) is not UTF-8"$'; then ok; else fail "and says why"; fi
if [ "$(awk -F, '{ print NF }' lines.csv | sort -u | wc -l)" -le 2 ]; then ok; else fail "with all columns"; fi
run 1 embed --model small.gguf --file lines.txt --keep-going
if [ "$(wc -l <out)" -eq 5 ] && sed -n 2p out | grep -q '^nan nan .* nan$'; then ok; else fail "a vector of nan stands for a bad line"; fi
run 1 embed --model small.gguf --file lines.txt --keep-going --json
says out '{"row":2,"error":"lines.txt, line 2:'
run 1 embed --model small.gguf --file lines.txt --keep-going -o lines.npy
if grep -qa "'shape': (5, 48)" lines.npy; then ok; else fail "a NumPy file has a row for each"; fi
run 1 tokenize --model small.gguf --file lines.txt --keep-going --json
if [ "$(wc -l <out)" -eq 5 ]; then ok; else fail "tokenize answers each"; fi
run 1 explain --model small.gguf --file lines.txt --keep-going --json --steps 2
if [ "$(wc -l <out)" -eq 5 ]; then ok; else fail "explain answers each"; fi
run 1 explain --model small.gguf --file lines.txt --keep-going --global --json --steps 2 --max-steps 2
says out '"texts":3,'
says err "left out: lines.txt, line 4"
run 1 intervene --model small.gguf --file lines.txt --keep-going --json --method edit --set food=Positive
if [ "$(wc -l <out)" -eq 5 ]; then ok; else fail "intervene answers each"; fi
run 1 predict --model small.gguf --json --keep-going good "$(printf 'b\377d')" last
if [ "$(wc -l <out)" -eq 3 ] && sed -n 2p out | grep -q '"row":2,"error"'; then ok; else fail "arguments too"; fi

# --- bad rows ---
cat >rows.jsonl <<'END'
{"review": "good", "id": 7}
{"review": "\ud800", "id": 8}
{"review": NaN}
{"id": 9}

{"review": "last", "id": 10}
END
run 1 predict --model small.gguf --data rows.jsonl --json --id id
if [ ! -s out ]; then ok; else fail "a file is checked first"; fi
run 1 predict --model small.gguf --data rows.jsonl --json --id id --keep-going
if [ "$(grep -o '"row":[0-9]*' out | tr '\n' ' ')" = '"row":1 "row":2 "row":3 "row":4 "row":6 ' ]; then ok; else fail "rows in their order"; fi
says out '"row":6,"id":"10"}'
says out "there is no key 'review'"
says err "3 of 5 texts have something wrong"
"$main" predict --model small.gguf --data - --format jsonl --json --id id --keep-going <rows.jsonl >again 2>err
if sed 's/rows.jsonl/standard input/' out | cmp -s - again; then ok; else fail "the same from a pipe"; fi
printf 'review,stars\na,1\nb\n"c",2\n"d"x,3\ne,4\n' >rows.csv
run 1 embed --model small.gguf --data rows.csv --text review --keep-going
if [ "$(wc -l <out)" -eq 5 ] && [ "$(grep -c '^nan' out)" -eq 2 ]; then ok; else fail "rows of a table"; fi
printf 'review\na\n\nb\n' >one.csv
run 0 embed --model small.gguf --data one.csv --text review
if [ "$(wc -l <out)" -eq 3 ]; then ok; else fail "an empty cell of the only column is a row"; fi
run 2 explain --model small.gguf --html x.html --keep-going x

# a pipe that goes on is answered at once
mkfifo pipe
"$main" predict --model small.gguf --json --keep-going <pipe >out 2>err &
child=$!
exec 9>pipe
printf 'a\n\377\n' >&9
tries=0
while [ "$(wc -l <out)" -lt 2 ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
if [ "$(wc -l <out)" -eq 2 ]; then ok; else fail "a bad line of a pipe is answered when it comes"; fi
printf 'b\n' >&9
exec 9>&-
wait $child
if [ $? -eq 1 ] && [ "$(wc -l <out)" -eq 3 ]; then ok; else fail "and what follows it is"; fi

"$main" predict --model small.gguf --json --keep-going --data - --format jsonl <pipe >out 2>err &
child=$!
exec 9>pipe
printf '{"review": "a"}\n{"review": "\377"}\n{"review": 3}\n' >&9
tries=0
while [ "$(wc -l <out)" -lt 3 ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
if [ "$(wc -l <out)" -eq 3 ]; then ok; else fail "JSON Lines of a pipe are answered when they come"; fi
printf '\n{"review": "b"}' >&9
exec 9>&-
wait $child
if [ $? -eq 1 ] && [ "$(grep -o '"row":[0-9]*' out | tr '\n' ' ')" = '"row":1 "row":2 "row":3 "row":5 ' ]; then ok; else fail "to the last"; fi

# --- explain says how sure its sums are ---
run 0 explain --model small.gguf --json --steps 4 --max-steps 4 good
if [ "$(grep -o '"steps":4,"converged":[a-z]*,"difference":-\{0,1\}[0-9.e-]*' out | wc -l)" -eq 4 ]; then ok; else fail "steps, converged, difference of each concept"; fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
