# The slow lane: each barrier of each kernel is removed in turn (tests/cuda/barriers.py). Called by make test-cuda.
#     JOBS=2 sh tests/cuda/slow.sh
cd "$(dirname "$0")/../.." || exit 1
failed=0 jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)}
lane() {
    for file in "$@"; do
        case $file in *=*) continue ;; esac
        [ -f "$file" ] || { echo "skipped: barriers of $1, because there is no $file"; return; }
    done
    python3 tests/cuda/barriers.py "$@" jobs="$jobs" || failed=1
}
lane tests/cuda/kernels.cu
lane tests/cuda/products.cu cuda/matmul.cuh cuda/attention.cuh
lane tests/cuda/backend.cu cuda/gpt_cuda.cu c=tests/cuda/implementation.c
exit $failed
