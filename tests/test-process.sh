#!/bin/sh
# tests/test-process.sh - what a system does to a process: signals at any moment, also to the first process of a container,
# disks that are full or read-only, pipes that close, too few threads. Nothing is lost, nothing is left behind, and the
# status says what happened.
#
# MOMENTS: how often each command is ended by each signal (tests/long-process.sh takes many).
set -u
passed=0 failed=0 skipped=0
moments=${MOMENTS:-1}
dir=$(mktemp -d) || exit 1
mounted=
clean_up() {
    [ -n "$mounted" ] && umount "$mounted" 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT
MAIN=${MAIN:-$PWD/models/main} CONVERT=${CONVERT:-$PWD/convert/convert-hf}
sh tests/small-model.sh "$MAIN" "$dir/small" 2>"$dir/err" || { cat "$dir/err"; exit 1; }
cd "$dir" || exit 1
model=small/small.gguf
"$MAIN" export small/encoder.gguf -o hf --quiet || exit 1
columns='--text review --label stars --concept food --concept service'

# Whether a signal is ignored by whoever runs this, and so by all that it starts: its number less 1.
ignores() {
    ignored=$(sed -n 's/^SigIgn:[[:space:]]*[0-9a-f]*\([0-9a-f]\{8\}\)$/\1/p' /proc/self/status 2>/dev/null)
    [ -n "$ignored" ] && [ $((0x$ignored >> $1 & 1)) = 1 ]
}
passes() { passed=$((passed + 1)); }
fails() {
    failed=$((failed + 1))
    echo "failed: $*"
}
skips() {
    skipped=$((skipped + 1))
    echo "skipped: $*"
}
# check WHAT TEST...: the test as test(1) takes it.
check() {
    what=$1
    shift
    if [ "$@" ]; then passes; else fails "$what: [ $* ]"; fi
}
left_behind() { find . -name '*.tmp' | tr '\n' ' '; }

# ------------------------------------------------------------------------------------------
# Commands that wait, and commands that work, as the first process of a container
# ------------------------------------------------------------------------------------------

# The process that unshare has started, once it has caught its signals.
child_of() {
    for i in $(seq 3000); do
        child=$(cat "/proc/$1/task/$1/children" 2>/dev/null | tr -d ' ')
        # SIGALRM, number 14, is caught last but one
        if [ -n "$child" ]; then
            caught=$(sed -n 's/^SigCgt:[[:space:]]*[0-9a-f]*\([0-9a-f]\{4\}\)$/\1/p' "/proc/$child/status" 2>/dev/null)
            [ -n "$caught" ] && [ $((0x$caught >> 13 & 1)) = 1 ] && return
        fi
        sleep 0.02
    done
}

# first_process SIGNAL NUMBER PROGRAM ARGUMENTS...: ends by it, within a minute on the busiest machine.
first_process() {
    signal=$1 number=$2
    shift 2
    mkfifo fifo 2>/dev/null
    unshare -fp "$@" <fifo >out 2>err &
    unshared=$!
    exec 3>fifo
    child_of "$unshared"
    kill -s "$signal" "$child"
    for i in $(seq 3000); do
        [ -d "/proc/$child" ] || break
        sleep 0.02
    done
    kill -s KILL "$child" 2>/dev/null
    wait "$unshared"
    status=$?
    exec 3>&-
    check "$signal to $(basename "$1") $2 as process 1" "$status" = $((128 + number))
}

if unshare -fp true 2>/dev/null && [ -r "/proc/$$/task/$$/children" ]; then
    for command in predict embed tokenize; do
        first_process TERM 15 "$MAIN" "$command" --model "$model"
        first_process INT 2 "$MAIN" "$command" --model "$model"
        if ignores 0; then skips "HUP is ignored here, as nohup does"; else first_process HUP 1 "$MAIN" "$command" --model "$model"; fi
    done
    first_process TERM 15 "$MAIN" bench train --model "$model"
    first_process INT 2 "$MAIN" bench linear
    first_process TERM 15 "$MAIN" train --encoder small/encoder.gguf --data small/train.csv --validation small/dev.csv \
        $columns --epochs 1000 -o first.gguf
    # A folder whose configuration is a pipe: convert-hf waits for it.
    cp -r hf waiting && rm waiting/config.json && mkfifo waiting/config.json
    first_process TERM 15 "$CONVERT" waiting -o x.gguf
    rm -rf waiting first.gguf*
else
    skips "no process namespaces here"
fi

# ------------------------------------------------------------------------------------------
# Ends at random moments
# ------------------------------------------------------------------------------------------

# A time in seconds up to $1, of the kernel's random numbers.
moment() { od -An -N2 -tu2 /dev/urandom | awk -v most="$1" '{ printf "%.4f", $1 / 65536 * most }'; }

# ends OUTPUT SECONDS PROGRAM ARGUMENTS...: the output is the old file or a whole new one, whenever a signal comes.
ends() {
    output=$1 longest=$2
    shift 2
    bad=
    "$@" >out 2>err || bad="$bad first: $(cat err)"
    cp "$output" whole
    for signal in HUP:1 TERM:15 INT:2 KILL:9; do
        [ $signal = HUP:1 ] && ignores 0 && continue
        for i in $(seq "$moments"); do
            cp old "$output"
            "$@" >out 2>err &
            pid=$!
            sleep "$(moment "$longest")"
            kill -s "${signal%:*}" "$pid" 2>/dev/null
            wait "$pid" 2>/dev/null
            status=$?
            if cmp -s "$output" whole; then what=whole; elif cmp -s "$output" old; then what=old; else what=damaged; fi
            case $signal:$status in
            *:0) [ $what = whole ] || bad="$bad $signal: status 0, $what" ;;
            *) [ "$status" = $((128 + ${signal#*:})) ] && [ $what != damaged ] || bad="$bad $signal: status $status, $what" ;;
            esac
            [ "$signal" = KILL:9 ] || [ -z "$(left_behind)" ] || bad="$bad $signal left $(left_behind)"
        done
    done
    "$@" >out 2>err || bad="$bad last: $(cat err)"
    cmp -s "$output" whole || bad="$bad the last output differs"
    [ -z "$(left_behind)" ] || bad="$bad left in the end: $(left_behind)"
    check "ends of $(basename "$1") $2" "$bad" = ""
}

echo old >old
ends quantized.gguf 0.05 "$MAIN" quantize "$model" --type q8_0 -o quantized.gguf --quiet
ends converted.gguf 0.05 "$CONVERT" hf -o converted.gguf --quiet
ends table.csv 0.5 "$MAIN" predict --model "$model" --data small/test.csv -o table.csv --quiet
ends page.html 0.3 "$MAIN" explain --model "$model" --html page.html --steps 64 --quiet "The soup was cold."
ends trained.gguf 1 "$MAIN" train --encoder small/encoder.gguf --data small/train.csv --validation small/dev.csv $columns \
    --epochs 1 --quiet --force -o trained.gguf

# Exporting writes a folder, which is there as a whole or not at all.
bad=
for signal in TERM KILL; do
    for i in $(seq "$moments"); do
        "$MAIN" export small/encoder.gguf -o folder --quiet >out 2>err &
        pid=$!
        sleep "$(moment 0.03)"
        kill -s $signal "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        [ ! -d folder ] || diff -r hf folder >/dev/null || bad="$bad a part of a folder after $signal"
        rm -rf folder
    done
done
"$MAIN" export small/encoder.gguf -o folder --quiet || bad="$bad the last one"
check "ends of export" "$bad$(left_behind)" = ""

# ------------------------------------------------------------------------------------------
# Full disks, read-only files and folders, closed pipes
# ------------------------------------------------------------------------------------------

# full WHAT OUTPUT PROGRAM ARGUMENTS...: status 1, the old file stays.
full() {
    what=$1 output=$2
    shift 2
    echo old >"$output" && cp "$output" before
    "$@" >out 2>err
    status=$?
    check "$what: status" $status = 1
    check "$what: the old file" "$(cmp "$output" before && find "$(dirname "$output")" -name '*.tmp')" = ""
    check "$what: one sentence" "$(wc -l <err) $(grep -c "cannot be written" err)" = "1 1"
}

limited() { (ulimit -f 32 && exec "$@"); }
full "quantize beyond a file's limit" small.q8 limited "$MAIN" quantize "$model" --type f32 -o small.q8
full "convert-hf beyond a file's limit" small.c limited "$CONVERT" hf -o small.c
full "explain beyond a file's limit" small.html limited "$MAIN" explain --model "$model" --html small.html text
mkdir disk
if mount -t tmpfs -o size=64k none disk 2>/dev/null; then
    mounted=$dir/disk
    full "quantize on a full disk" disk/x.gguf "$MAIN" quantize "$model" --type f32 -o disk/x.gguf
    full "convert on a full disk" disk/x.gguf "$MAIN" convert hf -o disk/x.gguf
    full "predict on a full disk" disk/x.csv "$MAIN" predict --model "$model" --data small/train.csv -o disk/x.csv --quiet
    rm -f disk/*
    "$MAIN" train --encoder small/encoder.gguf --data small/train.csv --validation small/dev.csv $columns --epochs 1 --quiet \
        -o disk/x.gguf >out 2>err
    check "train on a full disk" "$? $(grep -c 'cannot be written' err) $(ls disk)" = "1 1 "
    mount -o remount,ro disk
    "$MAIN" quantize nothing.gguf --type q8_0 -o disk/y.gguf 2>err
    check "a read-only disk is noticed before any work" "$? $(grep -c 'disk/y.gguf (-o): cannot be written' err)" = "1 1"
else
    skips "no disk can be mounted here"
fi
"$MAIN" predict --model "$model" text >/dev/full 2>err
check "results to a full disk" "$? $(wc -l <err)" = "1 1"

for command in "quantize nothing.gguf --type q8_0 -o locked" "convert nothing -o locked" \
    "predict --model nothing.gguf -o locked text" "explain --model nothing.gguf --html locked text" \
    "train --encoder nothing.gguf --data nothing.csv $columns -o locked"; do
    echo old >locked && chmod 444 locked
    "$MAIN" $command 2>err
    check "a read-only output: ${command%% *}" "$? $(grep -c 'locked (.*): is read-only; --force' err) $(cat locked)" = "1 1 old"
done
"$MAIN" quantize "$model" --type q8_0 -o locked --force --quiet >out 2>err
check "--force" "$? $(cat err)" = "0 "

{ "$MAIN" predict --model "$model" --data small/train.csv --json 2>err; echo $? >status; } | head -n 1 >out
check "a closed pipe" "$(cat status) $(wc -l <out) $(cat err)" = "141 1 "
mkfifo closed
head -n 1 closed >out &
"$MAIN" train --encoder small/encoder.gguf --data small/train.csv --validation small/dev.csv $columns --epochs 50 --json \
    --quiet -o piped.gguf >closed 2>err
check "train into a closed pipe" "$? $(left_behind)" = "141 "
"$MAIN" predict --model piped.gguf --quiet text >out 2>err
check "its model" $? = 0

# Who is started by nohup goes on.
mkfifo texts
(trap '' HUP && exec "$MAIN" predict --model "$model" --json) <texts >out 2>err &
pid=$!
exec 4>texts
echo "The soup was cold." >&4
for i in $(seq 600); do # once it has answered it is the program that gets the signal
    [ -s out ] && break
    sleep 0.1
done
kill -s HUP $pid
echo "The waiter was lovely." >&4
exec 4>&-
wait $pid
check "nohup" "$? $(wc -l <out)" = "0 2"

# Standard files that are closed: their numbers are not those of the next files that are opened.
"$MAIN" predict --model "$model" --json <&- >out 2>err
check "no standard input" "$? $(wc -c <out) $(grep -c '^sparsecbm predict: standard input: cannot be read' err)" = "1 0 1"
"$MAIN" predict --model "$model" --json text >&- 2>err
check "no standard output" "$? $(grep -c 'could not be written to standard output' err)" = "1 1"
"$MAIN" predict --model "$model" -o whole.csv text >out 2>err
"$MAIN" predict --model "$model" -o none.csv text <&- >&- 2>&-
check "a file that is written beside them" "$? $(cmp whole.csv none.csv)" = "0 "
"$MAIN" train --encoder small/encoder.gguf --data small/train.csv --validation small/dev.csv $columns --epochs 1 -o a.gguf >out 2>err
"$MAIN" train --encoder small/encoder.gguf --data small/train.csv --validation small/dev.csv $columns --epochs 1 -o b.gguf <&- >&- 2>&-
check "a model that is trained without them" "$(cmp a.gguf b.gguf)" = ""

# ------------------------------------------------------------------------------------------
# Threads that the system does not make
# ------------------------------------------------------------------------------------------

if [ -n "${SANITIZE:-}" ]; then
    skips "a sanitizer wants all addresses"
else
    "$MAIN" predict --model "$model" --data small/test.csv --json --threads 1 >one 2>err
    (ulimit -v 300000 && exec "$MAIN" predict --model "$model" --data small/test.csv --json --threads 200 >many 2>err)
    check "200 threads in 300 MB" "$?$(cmp one many)" = "0"
    if [ "${OPENMP:-1}" = 0 ]; then
        skips "without OpenMP no thread is asked for"
    else
        check "it is said" "$(grep -c 'warning: 200 threads were asked for' err)" = 1
    fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
