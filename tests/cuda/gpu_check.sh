# For whoever has a GPU: builds everything with nvcc for the one that is there, runs what elsewhere runs in emulation,
# lets compute-sanitizer look, and puts the time of each kernel beside the least possible one. Called by make gpu-check.
# The text from "GPU CHECK" on is meant to be pasted into an issue; reports of any GPU are welcome.
#     sh tests/cuda/gpu_check.sh            GPU=A100 sh tests/cuda/gpu_check.sh: whose peaks to compare with
# BUILD_ONLY=1 needs no GPU and ends when everything is built: tests/test_cuda.sh does that with g++ in nvcc's place.
cd "$(dirname "$0")/../.." || exit 1
name=gpu-check dir=build/gpu
. tests/cuda/common.sh
have_nvcc ||
    { echo "make gpu-check needs nvcc (https://developer.nvidia.com/cuda-downloads). Without: make test-cuda"; exit 1; }
if [ ! "$BUILD_ONLY" ]; then
    nvidia-smi -L > $dir/gpus 2>&1 && [ -s $dir/gpus ] ||
        { echo "make gpu-check needs an NVIDIA GPU, and nvidia-smi sees none. Without one: make test-cuda"; exit 1; }
    echo "GPU CHECK"
    echo "    revision  $(git describe --always --dirty 2> /dev/null || echo unknown)"
    sed 's/^/    /; s/ (UUID.*//' $dir/gpus
    echo "    driver    $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)"
    echo "    nvcc      $("$NVCC" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
fi

flags="-std=c++17 -O3 -arch=native -lineinfo -Icuda"
build() {                                       # build NAME FILE...
    program=$1; shift
    "$NVCC" $flags "$@" -o $dir/$program > $dir/$program.log 2>&1 && { ok; return; }
    bad "$program does not compile"
    head -n 20 $dir/$program.log
    return 1
}
# say NAME CODE: one line of the table
say() { printf '    %-44s %s\n' "$1" "$2"; }
test_run() {                                    # test_run NAME: its closing line goes into the table
    [ "$BUILD_ONLY" ] && return
    $dir/$1 > $dir/$1.out 2>&1
    code=$? line=$(grep -E '^[^ ]+: [0-9]+ passed, [0-9]+ failed$' $dir/$1.out | tail -n 1)
    say "$1" "${line:-status $code}"
    if [ $code = 0 ] && [ "$line" ]; then ok
    else bad "$1: status $code"; head -n 20 $dir/$1.out; fi
}
${CC:-cc} -O2 ${BUILD_ONLY:+-Wall -Wextra -Werror} -c tests/cuda/implementation.c \
    -o $dir/implementation.o > $dir/log 2>&1 ||
    bad "implementation.c does not compile: $(head -n 3 $dir/log)"
# what gpt_cuda.cu and the C half of its tests are made of, for all programs that need them
"$NVCC" $flags -c cuda/gpt_cuda.cu -o $dir/gpt_cuda.o > $dir/log 2>&1 ||
    { bad "gpt_cuda.cu does not compile"; head -n 20 $dir/log; }
objects="$dir/gpt_cuda.o $dir/implementation.o"
build kernels tests/cuda/kernels.cu && test_run kernels
build products tests/cuda/products.cu && test_run products
build backend tests/cuda/backend.cu $objects && test_run backend
printf '#include <cublas_v2.h>\n#include <nccl.h>\n' > $dir/headers.cu
if "$NVCC" -E $dir/headers.cu > /dev/null 2>&1; then
    build libraries tests/cuda/libraries.cu -lcublas -lnccl && test_run libraries
    if build group -DGPT_NCCL tests/cuda/group.cu cuda/gpt_cuda.cu $dir/implementation.o -lnccl; then
        if [ "$BUILD_ONLY" ]; then :
        elif [ "$(wc -l < $dir/gpus)" -gt 1 ]; then test_run group
        else say "group" "skipped: there is one GPU"; fi
    fi
else say "libraries" "skipped: no headers of cuBLAS and NCCL"; fi

# memcheck: bounds, leaks; racecheck: shared memory; synccheck: barriers; initcheck: what nobody has written
for tool in memcheck racecheck synccheck initcheck; do
    for program in kernels products backend; do
        [ "$BUILD_ONLY" ] && break 2
        [ -x $dir/$program ] || continue
        if ! command -v compute-sanitizer > /dev/null; then
            say "compute-sanitizer" "skipped: it is not installed"
            break 2
        fi
        BACKEND_QUICK=1 compute-sanitizer --tool $tool --error-exitcode 9 $dir/$program > $dir/$tool.out 2>&1
        code=$? line=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' $dir/$tool.out | sed 's/=* //' | tail -n 1)
        say "$tool, $program" "${line:-status $code}"
        if [ $code = 0 ]; then ok; else bad "$tool of $program"; head -n 30 $dir/$tool.out; fi
    done
done

build timing tests/cuda/timing.cu $objects && [ ! "$BUILD_ONLY" ] && {
    if $dir/timing > $dir/timing.out 2>&1; then ok
    else bad "timing: $(head -n 5 $dir/timing.out)"; fi
    gpu=${GPU:-$(sed -n '1s/.*\(H100\|H200\|A100\|RTX 4090\).*/\1/p' $dir/gpus)}
    echo
    python3 tests/cuda/roofline.py measured=$dir/timing.out gpu="${gpu:-?}" ||
        grep '^timing' $dir/timing.out
}
end
