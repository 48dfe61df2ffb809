# The switch between fibers is assembly, once for x86-64 and once for AArch64. With a cross compiler and qemu the second
# one runs as well: the right kernels have to be right and silent, plain and with the checker, and the planted bugs that
# a plain build sees have to be reported. tests/test_cuda.sh calls this.
#     sh tests/cuda/aarch64.sh
cd "$(dirname "$0")/../.." || exit 1
name=aarch64 dir=build/cuda_aarch64 CXX=aarch64-linux-gnu-g++
. tests/cuda/common.sh
export CUDA_ON_CPU_DEVICES=2
for tool in $CXX qemu-aarch64; do
    command -v $tool > /dev/null || { echo "skipped: CUDA kernels on AArch64, because there is no $tool"; ok; end; }
done
run() { timeout 120 qemu-aarch64 -L /usr/aarch64-linux-gnu "$@"; }
build() {                                       # build NAME PROGRAM FLAGS BEHIND
    $CXX -std=c++17 -g -O1 -Wall -Wextra -Werror -Icuda $3 -x c++ tests/cuda/$2.cu -o $dir/$1 $4 > $dir/log 2>&1 ||
        { bad "$2.cu does not compile"; head -n 20 $dir/log; }
}
build kernels kernels -static ""
build planted planted -static ""
build checked kernels "$check" "$libraries"

for program in kernels checked; do
    for seed in 0 1 2; do
        CUDA_ON_CPU_SEED=$seed run $dir/$program > $dir/log 2>&1
        code=$?
        if [ $code = 0 ] && [ "$(wc -l < $dir/log)" = 1 ]; then ok
        else bad "the right kernels, $program, seed $seed: status $code"; head -n 10 $dir/log; fi
    done
done
sees() {                                        # sees N WORDS: with one of the seeds
    for seed in 0 1 2 3 4; do
        CUDA_ON_CPU_SEED=$seed run $dir/planted "$1" > $dir/log 2>&1
        code=$?
        [ $code != 0 ] && [ $code != 124 ] && grep -qF -e "$2" $dir/log && return
    done
    return 1
}
n=0 count=$(run $dir/planted count || echo 0)
[ "$count" -gt 23 ] || bad "the table of planted bugs has $count rows"
while [ $n -lt "$count" ]; do
    row=$(run $dir/planted show $n)
    words=$(echo "$row" | cut -d'|' -f2)
    if [ "$words" != - ]; then
        sees $n "$words" && ok || { bad "planted bug $n (${row%%|*}): '$words' is not reported"; head -n 5 $dir/log; }
    fi
    n=$((n + 1))
done
end
