# Runs every lesson as a reader would, in a folder of its own, and compares the numbers that the README and the lessons'
# first comments promise. Figures that need a long run are exact runs of the lesson, not shorter ones.
passed=0 failed=0 root=$PWD dir=$PWD/build/lessons
mkdir -p "$dir" && rm -rf "$dir/out"
mkdir -p "$dir/data"                            # one folder with all that this machine has, wherever it lies
for at in "$root/../shared/data" "$DATA_MIRROR" "$root/examples/data"; do
    [ -n "$at" ] && for f in "$at"/*.t*; do [ -s "$f" ] && ln -sf "$f" "$dir/data/"; done
done
DATA_MIRROR=$dir/data
export DATA_MIRROR LESSON_OFFLINE=1
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED lessons: $*"; }

lesson() {                                      # lesson NN OPTIONS...: output in $dir/NN.txt, exit status in $code
    nn=$1; shift
    program=$(ls "$root"/build/"${nn}"_* | head -n 1)
    (cd "$dir" && exec "$program" "$@") > "$dir/$nn.txt" 2>&1 < /dev/null; code=$?
    [ "$code" = 0 ] && ok || { bad "lesson $nn $* ended with $code"; tail -5 "$dir/$nn.txt"; }
}
says() {                                        # says NN TEXT...: each text is in the output
    nn=$1; shift
    for text in "$@"; do grep -qF -e "$text" "$dir/$nn.txt" && ok || bad "lesson $nn does not print '$text'"; done
}
has() { for f in "$@"; do [ -s "$dir/out/$f" ] && ok || bad "out/$f was not written"; done; }
last_val() { awk -F, '$3 != "" { v = $3 } END { print v }' "$dir/out/08/log.csv"; }
at_most() {                                     # at_most WHAT FIGURE LIMIT
    if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a != "" && a <= b) }'; then ok; echo "note: $1: $2 (at most $3)"
    else bad "$1 is $2, wanted at most $3"; fi
}
refused() {                                     # refused STATUS TEXT NN OPTIONS...: ends so, and says why
    status=$1 text=$2 nn=$3; shift 3
    (cd "$dir" && exec "$(ls "$root"/build/"${nn}"_* | head -n 1)" "$@") > "$dir/x.txt" 2>&1 < /dev/null; code=$?
    [ "$code" = "$status" ] && grep -qF -e "$text" "$dir/x.txt" && ok ||
        bad "lesson $nn $*: status $code (wanted $status), without '$text': $(tail -n 1 "$dir/x.txt")"
}

if [ ! -s "$DATA_MIRROR/tinyshakespeare.txt" ]; then
    echo "skipped: all lessons, Tiny Shakespeare is missing (sh examples/data/get.sh)"
    echo "lessons: 0 passed, 0 failed"; exit 0
fi

lesson 01; says 01 24.7041 138.8338 645.5773; has 01/graph.dot 01/graph.png
lesson 02; says 02 "100.0 %" "99.0 %"; has 02/log.csv
lesson 03; says 03 "ln 65 = 4.174" "unigram             3.347" "counted     2.482" "learned     2.482"
has 03/loss.png 03/table.png 03/table.csv
grep -q '^q,u,0.898' "$dir/out/03/table.csv" && ok || bad "lesson 03: table.csv lacks the pair q, u"
lesson 03 add=100; says 03 "counted     2.631"
lesson 04; says 04 "11 21 12 22 13 23" "2 2 2" "200 of 200 points" "1.915"; has 04/moons.png 04/loss.png
lesson 05; says 05 "8,923,152" "258 100 258 97 99"; has 05/log.csv
have() { for f in "$@"; do [ -s "$DATA_MIRROR/${f}_base.tiktoken" ] || return 1; done; }
if have r50k cl100k o200k; then
    says 05 "1,115,394" "338,025" "301,829" "297,606" "15339 1917" "9906 4435" "15339 220 1917" \
        "91 860 287 11579 3962" "19438" "392 5118 50855" "4095 49711" "24 13 806" "24 13 24"
else echo "skipped: the numbers of GPT-2's and GPT-4's vocabularies (sh examples/data/get.sh all)"; fi
lesson 07; says 07 "809,856" "10,770,816" "124,439,808" "354,823,168" "774,030,080" "1,557,611,200" \
    "405,853,388,800" "1.62 TB"
has 07/attention.png 07/causal.png 07/loss.png
grep -q 'pairs: 13[0-9][0-9] of 1344 answers right' "$dir/07.txt" && ok ||
    bad "lesson 07: $(grep 'answers right' "$dir/07.txt")"
lesson 20; says 20 "109,056 parameters" "3.238401"; has 20/loss.png 20/log.csv
lesson 09 tokens=60; has 09/next.png 09/rules.png           # without a checkpoint: it trains a model of its own

# 08, the real thing: both recipes to their ends
lesson 08; at_most "recipe=nanogpt, validation loss after 2,000 steps" "$(last_val)" 1.895     # rounds to 1.89
says 08 "809,856 parameters" "memory: parameters"
says 08 "after 0 steps" "after 20 steps" "after 400 steps" "after 2000 steps"
has 08/loss.png 08/log.csv 08/model.safetensors
cp "$dir/out/08/log.csv" "$dir/nanogpt.csv"
lesson 08 recipe=fast; at_most "make demo (recipe=fast), validation loss" "$(last_val)" 1.65
says 08 "step  2000: validation loss 1.5542"            # README says 1.55, and shows the end of what it writes
sed -n '/its last sample/,/^## /s/^    //p' "$root/README.md" | while read -r line; do
    [ -z "$line" ] || grep -qF -e "$line" "$dir/08.txt" || echo "$line"
done > "$dir/sample.txt"
[ -s "$dir/sample.txt" ] && { bad "README's sample is not the demo's:"; cat "$dir/sample.txt"; } || ok
lesson 09 tokens=60; says 09 "nano-llama"

# stopped and resumed is the same as never stopped, in every column but the clock's
run="steps=120 every=40 sample=5 recipe=fast"
lesson 08 $run; cp "$dir/out/08/log.csv" "$dir/whole.csv"
rm -rf "$dir/out/08"
(cd "$dir" && exec "$root/build/08_pretrain" $run) > "$dir/stop.txt" 2>&1 & pid=$!
while kill -0 $pid 2> /dev/null && ! grep -q '^30,' "$dir/out/08/log.csv" 2> /dev/null; do sleep 0.05; done
kill -INT $pid; wait $pid; code=$?
[ "$code" = 130 ] && ok || bad "Ctrl-C in lesson 08: status $code, wanted 130"
lesson 08 resume=1 sample=5 every=40
# an interrupted run measures once more, so the validation column may differ
cut -d, -f 1,2,4,5 "$dir/whole.csv" > "$dir/a1"; cut -d, -f 1,2,4,5 "$dir/out/08/log.csv" > "$dir/b1"
cmp -s "$dir/a1" "$dir/b1" && ok ||
    { bad "a resumed run differs from one that was not stopped"; diff "$dir/a1" "$dir/b1" | head -5; }

# the reader's own file, the other tokenizer, another preset
head -c 60000 "$root/examples/corpus.h" > "$dir/mine.txt"
lesson 08 data=mine.txt tokenizer=bpe vocab=300 preset=small steps=2 batch=2 sample=10; says 08 "vocabulary 300"
lesson 08 resume=1 steps=3 sample=10            # the checkpoint knows its text
says 08 "going on from step 2" "vocabulary 300"
lesson 08 resume=1 sample=10 data="$dir/mine.txt" vocab=300 preset=small tokenizer=bpe recipe=nanogpt lr=1e-3 seed=1337
for option in recipe=fast preset=nano tokenizer=char vocab=301 batch=3 accumulate=2 lr=0.002 seed=7; do
    refused 1 "$option: this run was begun with ${option%=*}=" 08 resume=1 $option
done
refused 1 "data=$root/bpe.h: not the text" 08 resume=1 data="$root/bpe.h"
tr -d '\n' < "$dir/mine.txt" > "$dir/line.txt"; lesson 08 data=line.txt steps=1 batch=1 sample=5
lesson 08 steps=4 batch=4 accumulate=4 sample=5
lesson 08 recipe=fast norm=layernorm position=learned qk_norm=0 activation=relu2 optimizer=adamw lr=1e-3 decay=0.1 \
    schedule=constant order=random dropout=0.1 grow=0.5 tied=1 steps=4 batch=8 accumulate=2 sample=5
lesson 08 resume=1 steps=6 sample=5 activation=relu2 qk_norm=0
refused 1 "norm=rmsnorm: this run was begun with norm=layernorm" 08 resume=1 norm=rmsnorm
refused 1 "steps=3: this run has done 6; ask for more" 08 resume=1 steps=3
refused 1 "bf16=1: this run was begun with bf16=0" 08 resume=1 bf16=1
refused 1 "adam= is for Muon" 08 adam=0.01
refused 1 "take position=rotary" 08 qk_norm=1
refused 1 "tied=0.5: wanted 0 or 1" 08 tied=0.5
refused 1 "lr=-0.5: wanted 0 or more" 08 lr=-0.5
lesson 08 optimizer=muon steps=1 batch=2 sample=5; says 08 "muon 0.03"      # not at AdamW's rate
lesson 08 preset=baby steps=1 batch=4 accumulate=2 recompute=1 sample=5
lesson 08 recipe=base steps=2 batch=2 sample=5; says 08 "vocabulary 1024"
lesson 03 data=mine.txt steps=20

# 10 to 16 with few steps, one after the other, each from what the one before has saved; then what they have saved
results=$root/build/results/quick
if command -v python3 > /dev/null; then
    python3 "$root/tests/results.py" quick=1 > "$dir/quick.txt" 2>&1 && ok ||
        { bad "results.py quick=1"; tail -5 "$dir/quick.txt"; }
    python3 "$root/tests/results.py" check=1 && ok ||
        bad "the measured figures in a lesson's comment are not those of tests/results.csv"
    for f in 10/position.png 10/window.png 11/loss.png 11/model.safetensors 12/model.safetensors 13/reward.safetensors \
             13/gold.safetensors 14/rewards.png 14/model.safetensors 15/model.safetensors 16/model.safetensors; do
        [ -s "$results/out/$f" ] && ok || bad "lessons 10 to 16 have not written out/$f"
    done
    # DPO with adapters, for as long as that run of PPO: a checkpoint like any other
    (cd "$results" && "$root/build/16_dpo" lora=4 equal=1 pairs=8 held=8) > "$dir/lora.txt" 2>&1 &&
        grep -q "adapters of rank 4" "$dir/lora.txt" &&
        ! grep -q '\.lora_a"' "$results/out/16/model.safetensors" && ok ||
        { bad "lesson 16 with lora=4 equal=1"; tail -3 "$dir/lora.txt"; }
    # it has said which assistant it begins with, and kept the model that was there; with out= nothing is touched
    grep -q '^out/11/model.safetensors: small, ' "$dir/lora.txt" &&
        [ -s "$results/out/16/previous.safetensors" ] && ok ||
        bad "lesson 16 has not said what it begins with, or not kept the model before"
    was=$(cksum < "$results/out/16/model.safetensors")
    (cd "$results" && "$root/build/16_dpo" out=out/try/16 pairs=16 held=8) > "$dir/x.txt" 2>&1 &&
        [ -s "$results/out/try/16/model.safetensors" ] &&
        [ "$(cksum < "$results/out/16/model.safetensors")" = "$was" ] && ok ||
        { bad "lesson 16 with out=out/try/16"; tail -3 "$dir/x.txt"; }
    # the reader as a rater: two answers and enough
    (cd "$results" && printf '1\n2\nq\n' |
        "$root/build/13_reward_model" rate=5 out=out/try/13 pairs=16 gold=16 held=16 raters=0) > "$dir/x.txt" 2>&1 &&
        grep -q '^of 2 pairs you agree with their maker in [012], with gold in [012]' "$dir/x.txt" &&
        [ "$(wc -l < "$results/out/try/13/rated.csv")" = 3 ] && ok ||
        { bad "lesson 13 with rate=5"; tail -3 "$dir/x.txt"; }
    # Ctrl-C leaves the model that was there
    was=$(cksum < "$results/out/11/model.safetensors") log=$results/out/11/log.csv
    rm -f "$log"; (cd "$results" && exec "$root/build/11_sft" talks=100 steps=1000000 > "$dir/stopped.txt" 2>&1) &
    pid=$!; i=0
    while [ $i -lt 120 ] && ! { [ -f "$log" ] && [ "$(wc -l < "$log")" -gt 2 ]; }; do sleep 0.5; i=$((i + 1)); done
    kill -TERM $pid; wait $pid; code=$?
    { [ $code = 130 ] && [ "$(cksum < "$results/out/11/model.safetensors")" = "$was" ]; } && ok ||
        { bad "lesson 11, stopped: status $code, or it has saved a model"; tail -3 "$dir/stopped.txt"; }
    # a conversation
    mkdir -p "$dir/chat"
    printf '%s\n' /help '/temp 0.5' '/top_p 0.9' /tokens 'Who art thou?' '/system You are a king.' Speak. |
        (cd "$dir/chat" && "$root/build/22_chat" model="$results/out/11/model.safetensors" tokens=8) \
            > "$dir/chat.txt" 2>&1 &&
        grep -q 'temp is 0.5' "$dir/chat.txt" && ok || { bad "lesson 22 does not talk"; tail -3 "$dir/chat.txt"; }
    # it finds the furthest lesson's model, says what that has never seen, repeats what a pipe says; shows no <|...|>
    long=$(printf '%080d' 0)                    # a token each: three do not fit into the context
    (cd "$dir/chat" && rm -rf out && mkdir -p out/08 out/base out/12 && cp "$results/out/08/model.safetensors" out/08 &&
        cp "$results/out/08/model.safetensors" out/base && cp "$results/out/12/model.safetensors" out/12 &&
        { printf '%s\n' '/temp 1' 'What is 12 + 3?' "$long" "$long" "$long" /clear '/tools off' 'Speak!' '/tools on'
          for i in 1 2 3 4 5 6 7 8; do printf '%s\n' /clear "What is 1$i + 3?" /clear '9.11 or 9.9?'; done
          echo '/save talk.txt'; } |
        "$root/build/22_chat" tokens=90 > ../furthest.txt 2>&1 && rm -rf out/12 &&
        "$root/build/22_chat" < /dev/null > ../base.txt 2>&1 && cat talk.txt >> ../furthest.txt)
    for text in "out/12/model.safetensors: stage tools" "A third is foreign to it" "> What is 12 + 3?" "> Speak!" \
                "(forgotten: the oldest turn" "tokens is full" "(all turns are forgotten)" "user: Speak!"; do
        grep -qF -e "$text" "$dir/furthest.txt" && ok || bad "lesson 22 does not print '$text'"
    done
    grep -F -e '<|' "$dir/furthest.txt" && bad "lesson 22 shows special tokens" || ok
    grep -q '^out/base/model.safetensors: stage base' "$dir/base.txt" && ok || bad "lesson 22 does not find out/base"
    wrong() {                                   # wrong NN WANTED GIVEN: another stage's checkpoint is refused by name
        rm -rf "$dir/out" && mkdir -p "$dir/out/08" "$(dirname "$dir/out/$2")"
        cp "$results/out/08/model.safetensors" "$dir/out/08" && cp "$results/out/$3" "$dir/out/$2"
        refused 1 "out/$2 is a model of stage" "$1"
    }
    wrong 10 08/model.safetensors 11/model.safetensors; wrong 11 08/model.safetensors 13/reward.safetensors
    wrong 12 08/model.safetensors 11/model.safetensors; wrong 13 11/model.safetensors 13/gold.safetensors
    wrong 14 11/model.safetensors 12/model.safetensors; wrong 15 11/model.safetensors 13/gold.safetensors
    wrong 16 11/model.safetensors 14/model.safetensors; wrong 09 08/model.safetensors 11/model.safetensors
    refused 1 "this is no checkpoint of lesson 08, but of stage sft" 08 resume=1; rm -rf "$dir/out"
    refused 1 "it judges answers and gives none" 22 model="$results/out/13/gold.safetensors"
    refused 1 "top_k=5000: this model knows" 22 model="$results/out/11/model.safetensors" top_k=5000
else echo "skipped: lessons 10 to 16 (python3 is missing)"; fi

# what is wrong is refused, with what would be right
refused 2 "stesp=5: no such option; did you mean steps=?" 08 stesp=5
refused 2 "options are recipe= preset= data= vocab= steps= batch=" 08 stesp=5
refused 2 "|nano-llama|" 08 preset=huge
refused 1 "nothing.txt" 08 data=nothing.txt

# no data anywhere: one line, and the built-in text
mkdir -p "$dir/bare"
(cd "$dir/bare" && DATA_MIRROR= "$root/build/03_bigram" steps=20) > "$dir/x.txt" 2>&1; code=$?
[ "$code" = 0 ] && grep -q "embedded corpus" "$dir/x.txt" && ok ||
    { bad "lesson 03 without data: status $code"; cat "$dir/x.txt"; }
echo "lessons: $passed passed, $failed failed"
[ "$failed" = 0 ]
