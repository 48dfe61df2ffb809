# What kernels move, by the counts of the checker: in a training step of both architectures, at odd shapes and with
# bfloat16, no kernel may need more than 1.1 times the sectors of memory and passes through shared memory that its
# accesses would need at best; and the bytes of each row of tests/cuda/roofline.py have to be those that were counted.
# Takes what tests/test_cuda.sh, which calls it, has built in build/cuda.
#     sh tests/cuda/traffic.sh
cd "$(dirname "$0")/../.." || exit 1
name=traffic dir=build/cuda_traffic from=build/cuda
. tests/cuda/common.sh
unset CUDA_ON_CPU_SEED
[ -x $from/backend_check ] || { bad "there is no $from/backend_check: run tests/test_cuda.sh"; end; }

within() {                                      # within FILE LEAST: prints kernels beyond; fewer than LEAST fail
    awk 'NF >= 10 && $NF ~ /^[0-9.]+$/ && $(NF - 1) ~ /^[0-9.]+$/ {
             kernels++
             if ($NF > 1.1 || $(NF - 1) > 1.1) print
         }
         END { exit kernels < least }' least="$2" "$1"
}
BACKEND_QUICK=1 CUDA_ON_CPU_REPORT=1 timeout 240 $from/backend_check model_ > $dir/models 2>&1
code=$?
if [ $code = 0 ] && grep -q '^backend: 4 passed, 0 failed$' $dir/models; then ok
else bad "models with the checker: status $code"; head -n 20 $dir/models; fi
if within $dir/models 40 > $dir/beyond && [ ! -s $dir/beyond ]; then ok
else bad "kernels that move more than 1.1 times what they need, or too few of them"; cat $dir/beyond; fi
# the counterexamples: columns of a tile without padding; a row for each thread
for flag in 1 2; do
    CUDA_ON_CPU_REPORT=1 sh cuda/exercises/check.sh 3 -DBREAK=$flag > $dir/exercise 2>&1
    if within $dir/exercise 1 > $dir/beyond && [ -s $dir/beyond ]; then ok
    else bad "the transpose of exercise 3 with BREAK=$flag is within 1.1"; cat $dir/exercise; fi
done

if command -v python3 > /dev/null; then
    # shellcheck disable=SC2086
    if "$CXX" $check -std=c++17 -g -O1 -Icuda -x c++ tests/cuda/timing.cu -x none $from/checked.o \
        $from/implementation.o -o $dir/timing $libraries > $dir/log 2>&1; then
        python3 tests/cuda/roofline.py counted=$dir/timing > $dir/counted 2>&1
        line=$(tail -n 1 $dir/counted)
        case $line in
        "roofline: "*" passed, 0 failed") line=${line#*: } passed=$((passed + ${line%% *})) ;;
        *) bad "roofline.py counted=..."; cat $dir/counted ;;
        esac
    else bad "timing.cu does not compile"; head -n 20 $dir/log; fi
else echo "skipped: bytes of roofline.py, because there is no python3"; fi
end
