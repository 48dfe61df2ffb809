# Plants each bug of tests/planted/*.txt in a copy of the headers and demands that the named test program goes red.
# "passed" counts bugs that were found. A bug that cannot be planted, does not compile, or stays unseen counts as
# failed, and so does a program that is red without any bug. Ends with the usual line.
#     sh tests/planted/run.sh [LIST ...]
#     sh tests/planted/run.sh places            asks only whether each bug finds its place; for make quick, 2 seconds
cd "$(dirname "$0")/../.." || exit 1
CC=${CC:-cc} at=build/planted jobs=${JOBS:-2}
if [ "$1" != one ]; then
    rm -rf $at && mkdir -p $at/green && $CC -O1 -o $at/plant tests/planted/plant.c || exit 1
fi
if [ "$*" = places ]; then
    placed=0 lost=0
    for list in tests/planted/*.txt; do
        i=1 count=$($at/plant count "$list") || exit 1
        while [ $i -le "$count" ]; do
            file=$($at/plant show "$list" $i | head -n 1 | cut -d' ' -f1)
            if $at/plant apply "$list" $i "$file" $at/copy; then placed=$((placed + 1)); else lost=$((lost + 1)); fi
            i=$((i + 1))
        done
    done
    echo "places: $placed passed, $lost failed"
    [ $lost = 0 ]; exit
fi

# Copies what the tests include. Tests run in the repository's root, where they find data and golden files.
copy() {                                        # copy DIRECTORY PROGRAM ...
    to=$1; shift
    mkdir -p "$to/examples" "$to/tests"
    cp autograd.h bpe.h gpt.h "$to" && cp examples/*.[ch] "$to/examples" && cp tests/*.h "$to/tests"
    for p; do cp "tests/$p.c" "$to/tests"; done
}

# build DIRECTORY PROGRAM: the cheapest build in which the bug can show. All sets of fast kernels are made from one
# text, so the portable one is enough; and clang, where there is one, takes a tenth of gcc's time for it. For naive
# kernels tcc takes a fiftieth.
build() {
    compiler=$CC
    case $2 in
    test_ops|test_gpt|test_checkpoint|test_scalar|test_lesson|test_chat|test_tools|test_reward|test_dpo|test_ppo|test_grpo|test_questions|test_base|kill)
        command -v tcc > /dev/null && compiler=tcc ;;
    test_engine|test_float|test_matmul)
        command -v clang > /dev/null && compiler=clang
        sed 's/^#define AGI_X86 1$/#define AGI_X86 0/' "$1/autograd.h" > "$1/one.h" && mv "$1/one.h" "$1/autograd.h" ;;
    esac
    case $2 in
    test_ops) flags="-O0 -DAG_REAL=double" ;;
    test_float|test_engine) flags="-O0" ;;
    test_bpe|test_plot|test_matmul) flags="-O1" ;;
    test_gpt) flags="-O1 -DAG_NAIVE" ;;
    *) flags="-O0 -DAG_NAIVE" ;;
    esac
    $compiler -w -DT_STOP $flags -I"$1" -Ibuild "$1/tests/$2.c" -o "$1/$2" -lm > "$1/$2.log" 2>&1
}

# start DIRECTORY PROGRAM FILTER: without a bug it ends within the limits of time and memory, so a hang is found too, and
# a bug that takes all memory there is takes down nobody else. Two of these programs write files of one name, so each copy
# of them runs in a directory of its own.
start() (
    ulimit -v 4194304
    case $2 in
    test_plot|test_lesson) mkdir -p "$1/build" "$1/out" && cd "$1" && timeout 120 "./$2" $3 ;;
    *) timeout 120 "$1/$2" $3 ;;
    esac
)

one() {                                         # one LIST N: writes its verdict to a file
    list=$1 n=$2 dir=$at/$(basename "$1" .txt)_$2
    $at/plant show "$list" "$n" > $dir.what || exit 1
    read -r file program filter < $dir.what
    title=$(sed -n 2p $dir.what) verdict=
    copy $dir $program
    if ! $at/plant apply "$list" "$n" "$file" "$dir/$file" 2> $dir.log; then
        verdict="cannot be planted: $(cat $dir.log)"
    elif ! build $dir "$program"; then verdict="does not compile: $(grep error $dir/$program.log | head -n 2)"
    else
        if start $dir "$program" "$filter" > $dir.log 2>&1; then verdict="was not noticed by $program $filter"; fi
    fi
    if [ -z "$verdict" ]; then echo "found: $title" > $dir.verdict
    else echo "FAILED $list $n: $title: $verdict" > $dir.verdict; fi
    rm -rf $dir
}

# This script calls itself for each bug, so that as many are tried at once as there are jobs.
[ "$1" = one ] && { one "$2" "$3"; exit; }

[ $# -gt 0 ] && lists="$*" || lists=$(ls tests/planted/*.txt)

# Without stb_image_write.h there are no pictures, so nothing could be wrong in them.
if [ "$(printf '#include "plot.h"\nPLOTI_PNG\n' | $CC -E -Iexamples -Ibuild -x c - | tail -n 1)" != 1 ]; then
    echo "skipped: the bugs of plot.txt, because stb_image_write.h is missing"
    lists=$(echo "$lists" | tr ' ' '\n' | grep -v 'plot\.txt$')
fi

# The double twin of test_float is the same for all: built once, from the headers as they are. One set of kernels is
# enough, since all are made from one text.
export AG_CPU=portable
if $CC -O2 -w -DFLOAT_TWIN tests/test_float.c -o $at/twin -lm && $at/twin $at/twin.bin; then
    FLOAT_TWIN_FILE=$at/twin.bin
    export FLOAT_TWIN_FILE
fi

# First without a bug: every program and filter that is named has to be green.
for list in $lists; do
    i=1 count=$($at/plant count "$list")
    while [ $i -le $count ]; do $at/plant show "$list" $i | head -n 1; i=$((i + 1)); done
done | cut -d' ' -f2- | sort -u > $at/programs
cut -d' ' -f1 $at/programs | sort -u > $at/names
while read -r program; do
    copy $at/green "$program"
    build $at/green "$program" ||
        echo "FAILED $program does not compile: $(grep error $at/green/$program.log)" > $at/green_$program.verdict
done < $at/names
while read -r program filter; do
    [ -f $at/green_$program.verdict ] && continue
    start $at/green "$program" "$filter" > $at/green.log 2>&1 ||
        { echo "FAILED $program $filter is red without a bug"; sed 's/^/    /' $at/green.log; } \
            > "$at/green_${program}_$filter.verdict"
done < $at/programs

for list in $lists; do
    i=1 count=$($at/plant count "$list")
    while [ $i -le $count ]; do echo "$list $i"; i=$((i + 1)); done
done | xargs -L 1 -P "$jobs" sh tests/planted/run.sh one
cat $at/*.verdict > $at/all 2> /dev/null
grep -v '^found: ' $at/all
found=$(grep -c '^found: ' $at/all) missed=$(grep -c '^FAILED ' $at/all)
planted=0
for list in $lists; do planted=$((planted + $($at/plant count "$list" || echo 1000000))); done
if [ $((found + missed)) -lt "$planted" ]; then     # a list that cannot be read, or a bug without a verdict
    echo "FAILED: $planted bugs are listed, $((found + missed)) have a verdict"
    missed=$((missed + 1))
fi
echo "planted: $found passed, $missed failed"
[ "$missed" = 0 ] && [ "$found" != 0 ]
