# The slow lane: each barrier of each kernel is removed in turn (tests/cuda/barriers.py); and the program that
# make gpu-check times kernels with runs here, at small shapes. Called by make test-cuda.
#     JOBS=2 sh tests/cuda/slow.sh
cd "$(dirname "$0")/../.." || exit 1
failed=0 jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)}
lane() { python3 tests/cuda/barriers.py "$@" jobs="$jobs" || failed=1; }
lane tests/cuda/kernels.cu
lane tests/cuda/products.cu cuda/matmul.cuh cuda/attention.cuh
export BACKEND_QUICK=1
lane tests/cuda/backend.cu cuda/gpt_cuda.cu c=tests/cuda/implementation.c

dir=build/cuda_slow
mkdir -p $dir
flags="-std=c++17 -O1 -Icuda -x c++"
if cc -O2 -c tests/cuda/implementation.c -o $dir/implementation.o &&
    ${CXX:-g++} $flags -c cuda/gpt_cuda.cu -o $dir/gpt_cuda.o &&
    ${CXX:-g++} $flags tests/cuda/timing.cu -x none $dir/gpt_cuda.o $dir/implementation.o -o $dir/timing &&
    $dir/timing 1 16 2 32 2 64 > $dir/timing.out &&
    python3 tests/cuda/roofline.py measured=$dir/timing.out gpu=A100 > $dir/table; then
    echo "timing: 1 passed, 0 failed"
else
    echo "FAILED timing: it does not run on the CPU, or roofline.py has rows that it does not print"
    failed=1
fi
exit $failed
