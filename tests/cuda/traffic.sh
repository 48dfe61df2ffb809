# What kernels move, by the counts of the checker: no kernel that is used may need more than 1.1 times the sectors of
# memory, and passes through shared memory, that its accesses would need at best; and the bytes of each row of
# tests/cuda/roofline.py have to be those that were counted. Where a training step calls a kernel that counts, in both
# architectures, at odd shapes and with bfloat16. Of others what tests/cuda/products.cu asks of them does, and of those
# that are not there the tests of the entries, which are harder: shapes of a few numbers, operands that are not aligned.
# The naive kernels are slow on purpose; and the small product of two transposed operands in bfloat16, which no model
# asks for, is tested with rows of 9 to 36 numbers, which are padded to eights. Takes what tests/test_cuda.sh, which
# calls it, has built.
#     sh tests/cuda/traffic.sh
cd "$(dirname "$0")/../.." || exit 1
name=traffic dir=build/cuda_traffic from=build/cuda
EMULATED=${EMULATED:-build/gpu}
. tests/cuda/common.sh
export CUDA_ON_CPU_SEED=1 CUDA_ON_CPU_DEVICES=2 BACKEND_QUICK=1
[ -x $from/backend_check ] || { bad "there is no $from/backend_check: run tests/test_cuda.sh"; end; }

count() {                                       # count FILE PROGRAM TESTS [NAME]: runs them; the report goes to FILE
    CUDA_ON_CPU_REPORT=1 timeout 240 $from/$2_check $4 > $dir/$1.out 2> $dir/$1
    code=$?
    if [ $code = 0 ] && [ "$(cat $dir/$1.out)" = "$2: $3 passed, 0 failed" ]; then ok
    else bad "$1 with the checker: status $code"; head -n 20 $dir/$1.out $dir/$1; fi
    rows $dir/$1 | sed "s/^/$1|/" >> $dir/tagged
}
rows() { awk 'NF >= 10 && $NF ~ /^[0-9.]+$/ && $(NF - 1) ~ /^[0-9.]+$/' "$@"; }
beyond() { awk '$NF > 1.1 || $(NF - 1) > 1.1'; }
count models backend 4 model_
count products products 7
BACKEND_NO_MODELS=1 count entries backend 23
# The first file that has a kernel counts. It is known by 28 columns of its name and the threads of a block.
awk -F'|' '{ n = split($2, word, " "); k = substr($2, 1, 28) word[n - 6] }
    !(k in first) { first[k] = $1 } first[k] == $1 { print $2 }' $dir/tagged |
    grep -v -e '^qk_rope.*<1>' -e '^matmul_mma<true, true.* 128  ' |
    awk '!/naive/ || /^(max_back|nll_back)_naive/' > $dir/rows      # these two also serve where others cannot
beyond < $dir/rows > $dir/beyond
[ -s $dir/beyond ] && { bad "kernels that move more than 1.1 times what they need"; cat $dir/beyond; } || ok
kernels=$(wc -l < $dir/rows)
[ "$kernels" -ge 95 ] && ok || bad "of $kernels kernels the traffic was counted, not of 95"
# the counterexamples: columns of a tile without padding; a row for each thread
for flag in 1 2; do
    CUDA_ON_CPU_REPORT=1 build/cuda_exercises/all 3:$flag 2>&1 | rows | beyond > $dir/beyond
    [ -s $dir/beyond ] && ok || bad "the transpose of exercise 3 with BREAK=$flag is within 1.1"
done
# walks of tests/cuda/kernels.cu: straight, a column for each block, the same with pairs, with gaps that are nobody's.
# 4 sectors are written; 4 or 5 would do for what is read, of which there are 4, 32, 16 and 32.
walk() {                                        # walk N LEAST MOST: times the ideal
    awk -v n="walk<$1>" -v least=$2 -v most=$3 '$1 == n && $(NF - 1) >= least && $(NF - 1) <= most { seen = 1 }
        END { exit !seen }' $dir/walks && ok ||
        { bad "walk<$1> does not need $2 to $3 times the ideal"; cat $dir/walks; }
}
CUDA_ON_CPU_REPORT=1 $from/kernels_check walks > /dev/null 2> $dir/walks
walk 0 1 1; walk 1 3.9 4.6; walk 2 2.1 2.6; walk 3 1 1

if command -v python3 > /dev/null; then
    # shellcheck disable=SC2086
    if "$CXX" $check -std=c++17 $lines -O1 -Icuda -x c++ tests/cuda/timing.cu -x none $from/checked.o \
        $EMULATED/implementation.o -o $dir/timing $libraries > $dir/log 2>&1; then
        python3 tests/cuda/roofline.py counted=$dir/timing > $dir/counted 2>&1
        line=$(tail -n 1 $dir/counted)
        case $line in
        "roofline: "*" passed, 0 failed") line=${line#*: } passed=$((passed + ${line%% *})) ;;
        *) bad "roofline.py counted=..."; cat $dir/counted ;;
        esac
    else bad "timing.cu does not compile"; head -n 20 $dir/log; fi
else echo "skipped: bytes of roofline.py, because there is no python3"; fi
end
