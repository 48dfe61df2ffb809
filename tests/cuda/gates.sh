# What can be said of the GPU backend without a GPU: for each chip it compiles without a warning, spills no register,
# has nothing in local memory, computes nothing in double, and its machine instructions keep to the rules of
# tests/cuda/sass_rules.txt. Called by make cuda. TABLE=1 prints the instructions of each kernel.
#     sh tests/cuda/gates.sh                CHIPS=sm_90 sh tests/cuda/gates.sh: one of them
cd "$(dirname "$0")/../.." || exit 1
name=gates dir=build/cuda_gates source=cuda/gpt_cuda.cu
. tests/cuda/common.sh
missing=
have_nvcc || missing="nvcc (https://developer.nvidia.com/cuda-downloads)"
command -v python3 > /dev/null || missing=python3
[ "$missing" ] && { echo "make cuda needs $missing, which is missing here"; exit 1; }

for chip in ${CHIPS:-sm_80 sm_90 sm_120}; do
    knows $chip || continue
    if ! "$NVCC" -std=c++17 -O3 -arch=$chip -Werror all-warnings $gates -Icuda \
        -cubin $source -o $dir/$chip.cubin > $dir/$chip.log 2>&1; then
        bad "$source for $chip:"
        grep -v -e '^ptxas info' -e '^$' $dir/$chip.log | head -n 20
        continue
    fi
    ok
    # nvcc says "Used 40 registers" for each kernel: shown, not judged; too many of them were spilled, an error above
    most=$(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' $dir/$chip.log | sort -n | tail -n 1)
    python3 tests/cuda/sass.py $dir/$chip.cubin rules=tests/cuda/sass_rules.txt > $dir/$chip.sass 2>&1
    line=$(tail -n 1 $dir/$chip.sass)
    case $line in
    "sass: "*" passed, 0 failed") ok ;;
    *) bad "machine instructions for $chip: $line"; grep FAILED $dir/$chip.sass ;;
    esac
    echo "$chip: $(grep -c 'Used [0-9]* registers' $dir/$chip.log) kernels, at most $most registers; $line"
    [ "$TABLE" ] && cat $dir/$chip.sass
done
end
