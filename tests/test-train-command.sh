#!/bin/sh
# `sparsecbm train` as its users have it: options from the table of settings, configuration files, what has no effect,
# what is not overwritten, and the files that stand beside a model.
set -u
passed=0 failed=0 skipped=0
main=${MAIN:-$(pwd)/models/main}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

ok() {
    passed=$((passed + 1))
}
fail() {
    failed=$((failed + 1))
    echo "fail: $1"
    tail -n 5 log
}
# check WHAT COMMAND...: passes when the command does.
check() {
    what=$1
    shift
    if "$@" >log 2>&1; then ok; else fail "$what"; fi
}
# refuses STATUS WORDS OPTIONS...: train ends with the status, and the words are in its last line.
refuses() {
    wanted=$1 words=$2
    shift 2
    train "$@" >log 2>&1
    status=$?
    if [ "$status" -eq "$wanted" ] && tail -n 1 log | grep -qF -- "$words"; then ok
    else fail "train $*: status $status, wanted $wanted and \"$words\""; fi
}
# says WORDS: they are in the log.
says() {
    if grep -qF -- "$1" log; then ok; else fail "\"$1\" is not there"; fi
}

"$main" demo --data-only --reviews 900 --dir demo >/dev/null || exit 1
head -n 200 demo/train.csv >train.csv
head -n 100 demo/dev.csv >dev.csv
data="--encoder demo/encoder.gguf --data train.csv --validation dev.csv --text review --label stars"
concepts="--concept food --concept service"
train() {
    # shellcheck disable=SC2086
    "$main" train $data $concepts "$@"
}

# --- help ---
"$main" train --help >log
for group in Data Model Optimization Losses Subnetworks Popup Teacher Output Run; do says "$group:"; done
check "the groups stand in order" test "$(grep -E '^[A-Z][a-z]+:$' log | grep -v Example | tr -d '\n')" = \
    "Data:Model:Optimization:Losses:Subnetworks:Popup:Teacher:Output:Run:General:"

# --- what has no effect ---
refuses 2 "--sparsity has no effect without --prune" --sparsity 0.5 -o x.gguf
refuses 2 "--temperature has no effect without --teacher FILE" --temperature 3 -o x.gguf
refuses 2 "--fisher-block has no effect without --prune obert" --prune magnitude --fisher-block 8 -o x.gguf
refuses 2 "--score-lr has no effect without --prune popup or popup-structured" --prune obert --score-lr 1 -o x.gguf
refuses 2 "--damping has no effect beside --damping-absolute X" --prune obert --damping 1 --damping-absolute 1 -o x.gguf
refuses 2 "--lambda has no effect without --mode joint" --mode sequential --lambda 3 -o x.gguf
refuses 2 "--refit-label has no effect without --mode joint" --mode sequential --refit-label -o x.gguf
refuses 2 "--prune has no effect without --mode independent, sequential or joint" --mode vanilla --prune obert -o x.gguf
refuses 2 "--lr wants a number from 0 to 10, got '11'" --lr 11 -o x.gguf
check "nothing was written" test ! -e x.gguf

# --- configurations ---
train --epochs 2 --lr 0.002 --seed 7 --dropout 0 --prune magnitude --sparsity 0.5 --prune-start 1 --prune-end 1 \
    --unknown nix --save-config saved.json -o first.gguf >log 2>&1 || fail "a run that saves its configuration"
tr -d '\t\n' <saved.json >log
for words in '"lr":0.002,' '"batch-size":16,' '"concept":["food", "service"]' '"prune":"magnitude"' '"initial-sparsity":0.2,' \
    '"unknown":["nix"]' '"data":["train.csv"]' '"epochs":2,' '"dropout":0,' '"seed":7'; do says "$words"; done
for absent in fisher-block temperature score-lr class-weights threads resume config; do
    check "$absent is not in it" sh -c "! grep -q '\"$absent\"' saved.json"
done
check "a run by the saved configuration" "$main" train --config saved.json -o second.gguf
check "has the same bits" cmp first.gguf second.gguf
check "it saves what it was" "$main" train --config saved.json --force --save-config again.json -o second.gguf
check "but for the output" sh -c "sed s/second.gguf/first.gguf/ again.json | cmp - saved.json"
check "the command line wins" "$main" train --config saved.json --seed 8 --save-config other.json -o third.gguf
check "and is saved" grep -q '"seed":.*8' other.json
check "another seed, another model" sh -c "! cmp -s first.gguf third.gguf"
# refuses_config STATUS WORDS JSON
refuses_config() {
    printf '%s' "$3" >bad.json
    refuses "$1" "$2" --config bad.json -o x.gguf
}
refuses_config 2 "bad.json: there is no 'batchsize'; did you mean 'batch-size'?" '{"batchsize": 8}'
refuses_config 2 "bad.json: there is no 'config'" '{"config": "saved.json"}'
refuses_config 2 "bad.json: lr wants a number" '{"lr": "fast"}'
refuses_config 2 "bad.json: lr wants a number from 0 to 10, got '20'" '{"lr": 20}'
refuses_config 2 "bad.json: epochs wants a whole number, got '1.5'" '{"epochs": 1.5}'
refuses_config 2 "bad.json: class-weights wants true or false" '{"class-weights": 1}'
refuses_config 2 "bad.json: prune wants none|obert|" '{"prune": "best"}'
refuses_config 2 "bad.json: 'seed' is there twice" '{"seed": 1, "seed": 2}'
refuses_config 1 "bad.json: is not one JSON object" '[1]'
refuses_config 1 "bad.json: is not one JSON object" '{"lr": 0.1} x'
refuses 1 "nothing.json: cannot be read" --config nothing.json -o x.gguf
refuses 2 "--save-config and --config are the same file" --config saved.json --save-config saved.json -o x.gguf
check "an option that the command line makes void is none" "$main" train --config saved.json --prune none -o dense.gguf

# --- what is not overwritten, and what goes on ---
cp first.gguf kept.gguf
refuses 1 "first.gguf is there: --resume goes on with the run that wrote it, --force starts anew" --epochs 1 -o first.gguf
refuses 1 "was made with another --lr (0.002, now 0.5)" --config saved.json --lr 0.5 --resume --json
refuses 2 "give one of the two" --resume --force -o first.gguf
check "its run goes on" "$main" train --config saved.json --resume
check "and has nothing to do" cmp first.gguf kept.gguf
rm first.gguf.checkpoint
refuses 1 "first.gguf is there, without a checkpoint to go on from: --force replaces it" --resume --epochs 1 -o first.gguf
check "what must be replaced is" train --epochs 1 --force -o first.gguf
cp kept.gguf first.gguf
refuses 1 "first.gguf is not the model of the run that first.gguf.checkpoint is of" --epochs 1 --resume --json -o first.gguf
rm first.gguf
refuses 1 "first.gguf.checkpoint is there" --epochs 1 -o first.gguf
if [ "$(uname -m)" = x86_64 ]; then
    SCBM_CPU=portable train --epochs 1 -o tier.gguf >log 2>&1 || fail "a run on the portable tier"
    refuses 1 "with the environment variable SCBM_CPU=portable it goes on to the same bits" --epochs 1 --resume --json -o tier.gguf
    says "--resume-anyway goes on all the same, to other bits"
    check "so it does" env SCBM_CPU=portable "$main" train $data $concepts --epochs 1 --resume -o tier.gguf
else
    skipped=$((skipped + 3))
fi

train --epochs 1 -o more.gguf >log 2>&1 || fail "an epoch"
refuses 1 "was made with another --epochs (1, now 2); go on with as many, or train on from its model (--init); --resume-anyway goes on all the same, to other bits" --epochs 2 --resume --json -o more.gguf
refuses 1 "was made with another --batch-size (16, now 8); go on with the same settings and data" --batch-size 8 --resume-anyway --json --epochs 1 -o more.gguf
train --epochs 2 --lr 0.001 --resume-anyway -o more.gguf >log 2>&1 || fail "more epochs all the same"
says "another epochs (1, now 2): the run goes on all the same, to other bits"
says "another learning_rate"
says "going on after epoch 1 of 2"
check "and the run is one" train --epochs 2 --lr 0.001 --resume -o more.gguf
refuses 1 "is of a run that has done 2 epochs: 1 are too few to go on with" --epochs 1 --resume-anyway --json -o more.gguf
check "of two epochs" test "$(wc -l <more.gguf.epochs.csv)" -eq 3
if [ "$(uname -m)" = x86_64 ]; then
    SCBM_CPU=portable train --epochs 1 -o elsewhere.gguf >log 2>&1 || fail "a run on the portable tier"
    train --epochs 1 --resume-anyway -o elsewhere.gguf >log 2>&1 || fail "another processor all the same"
    says "was made on another kind of processor"
else
    skipped=$((skipped + 1))
fi

# --- columns are in the model from the first epoch on ---
"$main" train $data $concepts --epochs 1000 --json -o running.gguf >lines 2>&1 &
child=$!
while [ ! -s lines ] && kill -0 "$child" 2>/dev/null; do sleep 0.1; done
kill -9 "$child"
wait "$child" 2>/dev/null
check "a run that was killed leaves a model that knows its columns" "$main" eval --model running.gguf --data dev.csv --resamples 0

# --- what a run takes of memory ---
"$main" train $data $concepts --plan >lines 2>log || fail "a plan of memory"
check "it says how much and for what" sh -c "grep -q '^memory: .* MiB at most, while training' lines && grep -q 'the optimizer' lines"
"$main" train $data $concepts --plan --json >lines 2>log || fail "a plan as JSON"
check "it is one object" grep -q '^{"memory":{"bytes":[0-9]*,"limit":[0-9]*,"when":"training","parts":{"the program":.*"fits":true,"advice":""}}$' lines
check "the same with --memory" sh -c "! '$main' train $data $concepts --memory 1 --plan --json >lines 2>log && grep -q '\"fits\":false' lines"
refuses 1 "no setting makes it fit: with a --batch-size of 1 and an --accumulate of 16" --memory 1 -o none.gguf
refuses 2 "--plan writes nothing: leave --html out" --plan --html page.html

# --- rows without a label ---
sed '2,5s/^\("[^"]*"\|[^,]*\),[1-5],/\1,,/' train.csv >holes.csv
sed -i 's/train.csv/holes.csv/' saved.json
refuses 1 "the label is empty" --config saved.json --force --json -o holes.gguf --data holes.csv
check "rows without a label can be dropped" "$main" train --config saved.json --drop-label "" -o holes.gguf
check "and evaluation drops them too" "$main" eval --model holes.gguf --data holes.csv --resamples 0
refuses 2 "contradict each other" --drop-label x --no-drop-label -o y.gguf

# --- one class in several spellings, and classes that training never saw ---
sed '2,9s/,\([1-5]\),/,\1.0,/' train.csv >floats.csv
sed '2,3s/,Positive/,Positive /;2,3s/,Negative/,Negative /;4s/,Positive/,Unkown/;4s/,Negative/,Unkown/' dev.csv >odd.csv
"$main" train $data $concepts --data floats.csv --epochs 1 --json -o twins.gguf >out 2>twins.log || fail "twins are a warning"
check "of each pair with its rows" grep -qE "warning: label: '[1-5]\.0' \([0-9]+ rows?\) is a class of its own beside '[1-5]' \([0-9]+ rows\), which is the same written differently: --merge-classes makes them one" twins.log
"$main" train $data $concepts --data floats.csv --merge-classes --epochs 1 -o merged.gguf >log 2>&1 || fail "twins can be merged"
says "is read as '"
check "to five labels" sh -c "\"$main\" eval --model merged.gguf --data floats.csv --json --resamples 0 2>/dev/null | grep -o '\"name\":\"[1-5]\.0\"' | wc -l | grep -qx 0"
check "with that" grep -q "merge_classes" merged.gguf
if "$main" eval --model kept.gguf --data odd.csv --resamples 0 >log 2>&1; then fail "a value that training never saw is an error"; else ok; fi
says "is not one of the known classes: 'Negative', 'Positive', 'unknown'; it is '"
says "rows have such a value (--unseen error|skip|unknown chooses what becomes of it)"
"$main" eval --model kept.gguf --data odd.csv --resamples 0 --unseen skip >log 2>&1 || fail "such rows can be skipped"
says "rows are left out because of values that training never saw"
"$main" eval --model kept.gguf --data odd.csv --resamples 0 --unseen unknown >log 2>&1 || fail "such values can be unknown"
says "'Unkown' ("
"$main" eval --model kept.gguf --data odd.csv --resamples 0 --merge-classes --unseen skip >log 2>&1 || fail "blanks can be passed over"
says "is read as 'Positive'"
check "in validation data too" "$main" train $data $concepts --validation odd.csv --merge-classes --unseen skip --epochs 1 -o unseen.gguf
alone="--encoder demo/encoder.gguf --data train.csv --text review --label stars --concept food"
"$main" train $alone --validation-split 0.2 --unseen skip -o x.gguf >log 2>&1
says "--unseen has no effect without --validation FILE"

# --- several labels, and names with = in them ---
check "labels can be dropped" "$main" train $data $concepts --drop-label 1 --drop-label "" --ignore-label 2 --ignore-label 3 --data holes.csv --epochs 1 -o labels.gguf
"$main" inspect labels.gguf >log 2>&1
says 'columns.drop_label'
"$main" eval --model labels.gguf --data holes.csv --resamples 0 >log 2>&1 || fail "and evaluation knows them all"
says 'more with label "1" or "" are left out'
refuses 2 "--drop-label and --ignore-label both name '2'" --drop-label 2 --ignore-label 2 -o x.gguf
sed '1s/food/a=b/' train.csv >equals.csv
check "a column may have = in its name" "$main" train --encoder demo/encoder.gguf --data equals.csv --validation equals.csv --text review --label stars --concept a==b --concept s==v=service --epochs 1 -o equals.gguf
"$main" eval --model equals.gguf --data equals.csv --resamples 0 >log 2>&1 || fail "and a concept too"
says "a=b"
says "s=v"
check "which can be set" "$main" intervene --model equals.gguf --method edit --set a=b=Positive --set s=v=Negative text
"$main" train --encoder demo/encoder.gguf --data equals.csv --validation equals.csv --text review --label stars --concept a=b -o x.gguf >log 2>&1
says "there is no column 'b' (--concept NAME=COLUMN, with == for a = of the name, chooses another)"

# --- the log of epochs, a part to validate on, few rows, rare classes ---
check "an epoch log stands beside the model" grep -qx "epoch,train_loss,validation_loss,label_accuracy,label_f1,concept_accuracy,concept_f1,sparsity,magnitude_overlap,score,best" holes.gguf.epochs.csv
check "with a line an epoch" test "$(wc -l <holes.gguf.epochs.csv)" -eq 3
alone="--encoder demo/encoder.gguf --data train.csv --text review --label stars --concept food"
"$main" train $alone --epochs 1 -o part.gguf >log 2>&1
says "--validation FILE is required"
refuses 2 "--validation-split has no effect beside --validation FILE" --validation-split 0.2 -o part.gguf
"$main" train $alone --epochs 1 --validation-split 0.2 --save-config part.json -o part.gguf >log 2>&1 || fail "a run on a part"
says "training on 158 texts (2 more with label \"no majority\" are left out), validation on 39"
check "the split is saved" grep -q '"validation-split":.*0.2' part.json
check "and drawn again" "$main" train --config part.json -o part-again.gguf
check "to the same bits" cmp part.gguf part-again.gguf
train --epochs 1 --limit 50 --log-epochs few.csv -o few.gguf >log 2>&1 || fail "a run on 50 rows"
says "training on 50 texts, validation on 50"
check "the log of epochs can be named" test -s few.csv
{ head -n 1 train.csv; grep -E '",1,|,1,' train.csv | head -n 20; grep -E '",5,|,5,' train.csv | head -n 3; } >rare.csv
"$main" train --encoder demo/encoder.gguf --data rare.csv --validation rare.csv --text review --label stars --concept food \
    --epochs 1 -o rare.gguf >log 2>&1
says "warning: label: there are only a few texts of '5' (3)"
head -n 21 rare.csv >one.csv
"$main" train --encoder demo/encoder.gguf --data one.csv --validation one.csv --text review --label stars --mode vanilla \
    --epochs 1 -o one.gguf >log 2>&1 && fail "one label is nothing to learn"
says "the training data have one label alone, '1': there is nothing to learn"
"$main" train --encoder demo/encoder.gguf --data train.csv --validation dev.csv --text review --label stars --concept same=stars \
    --concept food --drop-label 1 --drop-label 2 --drop-label 3 --drop-label 4 --drop-label "no majority" --limit 30 --epochs 1 -o one.gguf >log 2>&1
says "one label alone, '5'"
sed '1s/$/,same/;2,$s/$/,x/' train.csv >same.csv
"$main" train --encoder demo/encoder.gguf --data same.csv --validation same.csv --text review --label stars --concept same --concept food \
    --epochs 1 --seeds 1,2 -o same.gguf >log 2>&1
says "warning: same: every text that is trained on is 'x'"
n_said=$(grep -c "every text that is trained on" log)
check "which is said once" test "$n_said" -eq 1

# --- batches that are added up, and parts that do not learn ---
train --epochs 1 --batch-size 4 --accumulate 4 --freeze embeddings --save-config sum.json -o sum.gguf >log 2>&1 || fail "accumulated batches"
check "what does not learn is saved" grep -q '"freeze":.*"embeddings"' sum.json
refuses 2 "--freeze is '0', and must be embeddings or a number of blocks" --freeze 0 -o y.gguf
refuses 1 "freeze is 99, and the encoder has" --freeze 99 -o y.gguf

# --- formats, and rows with something wrong in them ---
{ cat train.csv; echo 'a row,with,too,few'; } >bad.csv
refuses 1 "bad.csv, row 200" --data bad.csv --epochs 1 -o bad.gguf --json
"$main" train --encoder demo/encoder.gguf --data bad.csv --validation dev.csv --text review --label stars $concepts --keep-going \
    --epochs 1 --save-config bad-saved.json -o bad.gguf >log 2>&1 || fail "a run that keeps going"
says "warning: 1 of 200 rows are left out because something is wrong with them"
says "warning: left out: bad.csv, row 200"
sed 's/,/\t/g' train.csv | awk -F'\t' 'NF == 6' >train.tsv
"$main" train --encoder demo/encoder.gguf --data - --format tsv --validation train.tsv --text review --label stars $concepts \
    --epochs 1 --save-config tsv.json -o tsv.gguf <train.tsv >log 2>&1 || fail "data from a pipe, with the format named"
check "the format is saved" grep -q '"format":.*"tsv"' tsv.json

# --- progress: a terminal sees one bar for the whole run, which does not begin anew when an epoch is validated ---
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then # there is one, and there are terminals to be had
    TERM=xterm script -qefc "echo \$\$ >bar.pid; exec '$main' train $data $concepts --epochs 10000 -o bar.gguf" /dev/null \
        >bar.log 2>&1 </dev/null &
    child=$!
    tries=0 # until an epoch is over and validated, and there has been a bar
    while ! { grep -q 'epoch  *2/' bar.log && grep -q 'train \[' bar.log; } && kill -0 "$child" 2>/dev/null && [ $tries -lt 1200 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -INT "$(cat bar.pid)"
    wait "$child"
    check "a bar of the training" grep -q 'train \[' bar.log
    check "and of nothing in it" sh -c "! grep -qE '(validate|statistics) \[' bar.log"
else
    skipped=$((skipped + 2))
fi

# --- the page ---
refuses 2 "--html has no effect with --epochs 0" --html page.html --epochs 0 -o p.gguf
train --epochs 2 --html page.html -o p.gguf >log 2>&1 || fail "a run with a page"
says "wrote page.html"
check "the page has curves" grep -q "<polyline" page.html
check "and confusion" grep -q 'class="heat"' page.html
rm page.html
train --epochs 2 --html page.html -o p.gguf --resume >log 2>&1 || fail "a page of a run that is over"
check "it is there again" test -s page.html
"$main" train --encoder demo/encoder.gguf --data train.csv --validation-split 0.2 --text review --label stars --mode vanilla \
    --epochs 1 --seeds 1,2 --html v.html -o v.gguf >log 2>&1 || fail "pages of two vanilla runs"
check "each has its page" test -s v-1.html -a -s v-2.html
check "the share is one of its settings" grep -q "validation-split" v-2.html

# --- several seeds ---
refuses 2 "--seed has no effect beside --seeds" --seeds 1,2 --seed 3 -o s.gguf
refuses 2 "--seeds wants numbers with commas between them, got '1,x'" --seeds 1,x -o s.gguf
refuses 2 "--seeds: 1 is there twice" --seeds 1,1 -o s.gguf
cp train.csv s-2.csv
refuses 2 "--log-steps and --data are the same file, s-2.csv" --data s-2.csv --seeds 1,2 --log-steps s.csv -o t.gguf
train --epochs 2 --lr 0.002 --seeds 1,2 --log-steps s.csv -o s.v1.gguf >log 2>&1 || fail "a run of two seeds"
says "seed 2"
says "2 seeds, best epoch of each on the validation data, mean ± deviation: label "
for file in s.v1-1.gguf s.v1-2.gguf s.v1-1.gguf.checkpoint s.v1-2.gguf.epochs.csv s-1.csv; do check "$file is there" test -s "$file"; done
train --epochs 2 --lr 0.002 --seeds 1,2 --save-config seeds.json -o u.gguf >log 2>&1 || fail "two seeds that save their configuration"
check "the seeds are saved" grep -q '"seeds":.*"1,2"' seeds.json
check "and no other seed" sh -c "! grep -q '\"seed\"' seeds.json"
check "each seed is a run of its own" train --epochs 2 --lr 0.002 --seed 2 -o two.gguf
check "to the same bits" cmp s.v1-2.gguf two.gguf
refuses 1 "s.v1-1.gguf is there: --resume" --epochs 2 --lr 0.002 --seeds 1,2 -o s.v1.gguf
rm s.v1-2.gguf s.v1-2.gguf.checkpoint
train --epochs 2 --lr 0.002 --seeds 1,2 --resume --json -o s.v1.gguf >lines 2>log || fail "two seeds, of which one is over"
check "only the other one runs" test "$(grep -c '"seed":2,' lines)" -eq 2 -a "$(grep -c '"seed":1,' lines)" -eq 0
check "to the same bits" cmp s.v1-2.gguf two.gguf
check "and both are summed up" grep -q '^{"seeds":\[1,2\],"label_accuracy":{"mean":[0-9.e-]*,"deviation":[0-9.e-]*},' lines

ln -s missing/t.gguf link.gguf
refuses 1 "link.gguf (-o): is a symbolic link that leads to no file" --epochs 2 -o link.gguf

# --- encoders that nobody has trained ---
scratch() {
    "$main" train --encoder bilstm --data train.csv --validation dev.csv --text review --label stars --concept food --concept service \
        --lstm-size 12 --word-size 10 --epochs 2 --lr 0.01 "$@"
}
refuses 2 "--word-size has no effect without --encoder bilstm" --word-size 7 -o x.gguf
check "a BiLSTM of the data's words" scratch --vocabulary 60 --save-config scratch.json -o b.gguf
check "its own file is gone" test ! -e b.gguf.encoder
echo "somebody's" >n.gguf.encoder
if scratch -o n.gguf >log 2>&1; then fail "a file of the encoder's name"; else ok; fi
says "n.gguf.encoder is there, and is not an encoder that an earlier run left: --force replaces it"
if scratch --plan -o n.gguf >log 2>&1; then fail "a plan that replaces it"; else ok; fi
says "n.gguf.encoder is there"
check "it is as it was" test "$(cat n.gguf.encoder)" = "somebody's"
check "its run goes on, with the encoder that it began with" scratch --vocabulary 60 --resume -o b.gguf
scratch --vocabulary 61 --resume -o b.gguf >log 2>&1 && fail "another vocabulary"
check "a run by its configuration" "$main" train --config scratch.json -o again.gguf
check "has the same bits" cmp b.gguf again.gguf
"$main" inspect b.gguf >log 2>&1 || fail "inspect"
says "bilstm"
check "each seed has an encoder of its own, pruned" scratch --seeds 1,2 --prune magnitude --sparsity 0.5 --prune-start 1 --prune-end 1 -o c.gguf
check "and predicts" "$main" explain --model c-2.gguf "the food was great"

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
