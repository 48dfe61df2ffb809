# cuBLAS and NCCL on the CPU (tests/cuda/libraries.cu). Right uses have to be silent in each build and with five seeds;
# each wrong one has to be reported with the words of its row. Where nvcc and the libraries' headers are installed the
# same file has to compile with them, and with FULL=1 the backend with both. tests/test_cuda.sh calls this.
#     sh tests/cuda/libraries.sh
cd "$(dirname "$0")/../.." || exit 1
name=libraries dir=build/cuda_libraries
. tests/cuda/common.sh
export CUDA_ON_CPU_DEVICES=2
unset CUDA_ON_CPU_SEED CUDA_ON_CPU_BLOCKING CUDA_ON_CPU_REPORT

flags="-std=c++17 $lines -O1 -Wall -Wextra -Werror -Icuda -x c++ tests/cuda/libraries.cu"
build() {                                       # build NAME FLAGS BEHIND
    $CXX $2 $flags -o $dir/$1 $3 > $dir/$1.log 2>&1 && return
    bad "libraries.cu, build $1, does not compile"
    head -n 20 $dir/$1.log
}
build plain
build check "$check" "$libraries"
builds="plain check"
echo 'int main() { return 0; }' > $dir/empty.cpp
if [ "$FULL" ] && $CXX -fsanitize=address,undefined $dir/empty.cpp -o $dir/empty > /dev/null 2>&1 && $dir/empty; then
    build asan "-fsanitize=address,undefined -fno-sanitize-recover=undefined" "-O0"
    builds="plain check asan"
fi

for build in $builds; do
    for seed in 0 1 2 3 4; do
        CUDA_ON_CPU_SEED=$seed timeout 20 $dir/$build > $dir/log 2>&1
        code=$?
        if [ $code = 0 ] && [ "$(cat $dir/log)" = "libraries: 8 passed, 0 failed" ]; then ok
        else bad "right uses, build $build, seed $seed: status $code"; head -n 10 $dir/log; fi
    done
done
CUDA_ON_CPU_BLOCKING=1 timeout 20 $dir/plain > $dir/log 2>&1 && ok || bad "right uses, CUDA_ON_CPU_BLOCKING=1"

sees() {                                        # sees BUILD N WORDS: with one of the seeds
    for seed in 0 1 2 3 4; do
        CUDA_ON_CPU_SEED=$seed timeout 20 $dir/$1 "$2" > $dir/log 2>&1
        code=$?
        [ $code != 0 ] && [ $code != 124 ] && grep -qF -e "$3" $dir/log && return
    done
    return 1
}
count=$($dir/plain count 2> /dev/null || echo 0)
[ "$count" -gt 30 ] || bad "the table of wrong uses has $count rows"
n=0
while [ $n -lt "$count" ]; do
    row=$($dir/plain show $n)
    title=${row%%|*}
    for build in $builds; do
        words=$(echo "$row" | cut -d'|' -f2)
        [ $build = check ] && words=${row##*|}
        if [ "$words" = - ]; then               # the control
            $dir/$build $n > $dir/log 2>&1 && [ ! -s $dir/log ] && ok || { bad "$title, $build"; head -n 5 $dir/log; }
        elif sees $build $n "$words"; then
            ok
            cat $dir/log >> $dir/said
        else bad "wrong use $n ($title) in build $build: '$words' is not reported, status $code"; head -n 5 $dir/log; fi
    done
    n=$((n + 1))
done
# what cuda/README.md quotes, up to the dots; files and lines are others
place() { sed 's/ at [^ ]*:[0-9]*/ at SOURCE/g' "$@"; }
place $dir/said > $dir/places
grep -E '^    cuda_on_cpu: (cublas|NCCL)' cuda/README.md | sed 's/^    //' | place > $dir/quotes
[ "$(wc -l < $dir/quotes)" = 3 ] && ok || bad "cuda/README.md quotes other than three messages"
while IFS= read -r line; do
    grep -qF -e "${line% ...}" $dir/places && ok || bad "nobody says what cuda/README.md quotes: $line"
done < $dir/quotes
# rows of bfloat16 that are not aligned are right, but slow: a word if it is asked for
$dir/plain slow > $dir/log 2>&1 && [ ! -s $dir/log ] && ok || bad "slow rows are reported unasked"
CUDA_ON_CPU_REPORT=1 $dir/plain slow > $dir/log 2>&1
[ "$(wc -l < $dir/log)" = 1 ] && grep -q 'SLOW: cublasGemm at tests/cuda/libraries.cu:.*columns of A' $dir/log && ok ||
    { bad "slow rows are not reported when asked"; cat $dir/log; }

printf '#include <cublas_v2.h>\n#include <nccl.h>\n' > $dir/headers.cu
if have_nvcc && "$NVCC" -E $dir/headers.cu > /dev/null 2>&1; then
    "$NVCC" -std=c++17 -arch=sm_80 -Werror all-warnings -Icuda -c tests/cuda/libraries.cu -o $dir/libraries.o \
        > $dir/nvcc.log 2>&1 && ok || { bad "libraries.cu does not compile with nvcc"; head -n 20 $dir/nvcc.log; }
    if [ "$FULL" ]; then
        "$NVCC" -std=c++17 -arch=sm_80 -Werror all-warnings -DGPT_CUBLAS -DGPT_NCCL -c cuda/gpt_cuda.cu \
            -o $dir/gpt_cuda.o > $dir/nvcc.log 2>&1 && ok ||
            { bad "gpt_cuda.cu with -DGPT_CUBLAS -DGPT_NCCL does not compile with nvcc"; head -n 20 $dir/nvcc.log; }
    fi
else echo "skipped: compiling with the real cuBLAS and NCCL, because nvcc or their headers are missing"; fi
end
