# What kernels move, by the counts of the checker: no kernel that is used may need more than 1.1 times the sectors of
# memory, and passes through shared memory, that its accesses would need at best; and the bytes of each row of
# tests/cuda/roofline.py have to be those that were counted. Where a training step calls a kernel that counts, in both
# architectures, at odd shapes and with bfloat16. Of all others what the tests of the entries ask of them does, which is
# harder: shapes of a few numbers, operands that are not aligned or lie transposed.
# The naive kernels are slow on purpose; and the product of two transposed operands in bfloat16, which no model asks for, is
# tested with rows of 9 to 36 numbers, which are padded to eights. Takes what tests/test_cuda.sh, which calls it, has built.
#     sh tests/cuda/traffic.sh
cd "$(dirname "$0")/../.." || exit 1
name=traffic dir=build/cuda_traffic from=build/cuda
EMULATED=${EMULATED:-build/gpu}
. tests/cuda/common.sh
export CUDA_ON_CPU_SEED=1 CUDA_ON_CPU_DEVICES=2 BACKEND_QUICK=1
[ -x $from/backend_check ] || { bad "there is no $from/backend_check: run tests/test_cuda.sh"; end; }

count() {                                       # count FILE TESTS [NAME]: runs them; the report goes to FILE
    CUDA_ON_CPU_REPORT=1 timeout 240 $from/backend_check $3 > $dir/$1.out 2> $dir/$1
    code=$?
    if [ $code = 0 ] && grep -q "^backend: $2 passed, 0 failed\$" $dir/$1.out; then ok
    else bad "$1 with the checker: status $code"; head -n 20 $dir/$1.out $dir/$1; fi
}
rows() { awk 'NF >= 10 && $NF ~ /^[0-9.]+$/ && $(NF - 1) ~ /^[0-9.]+$/' "$@"; }
beyond() { awk '$NF > 1.1 || $(NF - 1) > 1.1'; }
count models 4 model_
BACKEND_NO_MODELS=1 count entries 23
rows $dir/models > $dir/models_rows                 # its first 28 columns are a kernel's name
cat $dir/models_rows > $dir/rows
rows $dir/entries | awk '{ k = substr($0, 1, 28) } NR == FNR { known[k]; next } !(k in known)' $dir/models_rows - |
    grep -v -e naive -e '^qk_rope.*<1>' -e '^matmul_mma<true, true' >> $dir/rows
beyond < $dir/rows > $dir/beyond
[ -s $dir/beyond ] && { bad "kernels that move more than 1.1 times what they need"; cat $dir/beyond; } || ok
kernels=$(wc -l < $dir/rows)
[ "$kernels" -ge 80 ] && ok || bad "of $kernels kernels the traffic was counted, not of 80"
# the counterexamples: columns of a tile without padding; a row for each thread
for flag in 1 2; do
    CUDA_ON_CPU_REPORT=1 build/cuda_exercises/all 3:$flag 2>&1 | rows | beyond > $dir/beyond
    [ -s $dir/beyond ] && ok || bad "the transpose of exercise 3 with BREAK=$flag is within 1.1"
done

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
