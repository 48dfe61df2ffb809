# CUDA kernels without a GPU. tests/cuda/kernels.cu and products.cu are right: they have to be silent in every build and
# with every seed. So has tests/cuda/backend.cu, which holds cuda/gpt_cuda.cu to the kernels of the CPU, its products
# once more with -DGPT_CUBLAS. What make gpu-check builds on a GPU is what g++ makes the plain builds of.
# Each bug of tests/cuda/planted.cu has to be reported, by each build that its table names, with the words given there;
# a plain build may take any of the seeds. Where there is an nvcc, both also have to compile for a GPU, and silently.
# The example in the first comment of cuda_on_cpu.h has to print what it says, and without its barrier the checker has
# to say what cuda/README.md shows. Each variable of the environment has to do what that comment says.
# At the end it runs tests/cuda/*.sh: libraries, machine instructions, exercises, several GPUs, memory
# traffic, AArch64.
#     sh tests/test_cuda.sh                 what make test runs
#     FULL=1 sh tests/test_cuda.sh          more compilers, sanitizers, seeds and chips; make test-cuda
# CXX=g++-13 takes another compiler.
cd "$(dirname "$0")/.." || exit 1
name=cuda dir=build/cuda plain=build/gpu seeds="0 1 2 3 4"
. tests/cuda/common.sh
export CUDA_ON_CPU_DEVICES=2                    # so that one can touch the other's memory
unset CUDA_ON_CPU_SEED CUDA_ON_CPU_STACK CUDA_ON_CPU_BLOCKING CUDA_ON_CPU_EXITED_OK CUDA_ON_CPU_LEAKS \
    CUDA_ON_CPU_ABORT CUDA_ON_CPU_REPORT CUDA_ON_CPU_MAX_ERRORS CUDA_ON_CPU_MEGABYTES

command -v "$CXX" > /dev/null || { echo "skipped: CUDA kernels on the CPU, because there is no $CXX"; ok; end; }
echo 'int main() { return 0; }' > $dir/empty.cpp
works() { "$@" $dir/empty.cpp -o $dir/empty > $dir/empty.log 2>&1 && $dir/empty; }

flags="-std=c++17 $lines -O1 -Wall -Wextra -Werror -Icuda -x c++"
address="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
clang_only="-fno-sanitize-link-runtime -mllvm -tsan-instrument-read-before-write"
compile() {                                     # compile COMPILER BUILD PROGRAM: into $dir/PROGRAM_BUILD
    to=$dir/$3_$2
    case $2 in
    plain|clang|ucontext) set -- "$1" "$2" "$3" "$flags" "" ;;
    cublas) set -- "$1" "$2" "$3" "$flags -O0 -g0 -DGPT_CUBLAS" "" ;;
    asan) set -- "$1" "$2" "$3" "$address $flags -O0" "" ;;        # compiles in a third of the time
    check) set -- "$1" "$2" "$3" "$check $flags" "$libraries" ;;
    clang_check) set -- "$1" "$2" "$3" "${check#-fno-tree-sra } $flags" "$clang_only" ;;
    esac
    [ "$2" = ucontext ] && set -- "$1" "$2" "$3" "-DCUDA_ON_CPU_UCONTEXT $4" ""
    source=tests/cuda/$3.cu objects=
    [ -f "$source" ] || source=$dir/$3.cu
    [ "$3" = backend ] && source=cuda/gpt_cuda.cu objects="-x none $dir/backend.o $plain/implementation.o"
    [ "$3_$2" = backend_check ] && source="-x none $dir/checked.o"
    $1 $4 $source $objects -o "$to" $5 > "$to.log" 2>&1
}

sed -n '/^EXAMPLE:/,/^Two spellings/p' cuda/cuda_on_cpu.h | sed -n 's/^    //p; s/^$//p' > $dir/reverse.cu
grep -v '__syncthreads' $dir/reverse.cu > $dir/broken.cu

# Everything is compiled first, two at a time.
builds="plain check ucontext"
if works "$CXX" -fsanitize=address,undefined; then builds="$builds asan"
else echo "skipped: bounds of CUDA kernels, because $CXX -fsanitize=address does not work here"; fi
clang=
if works clang++ -std=c++17; then clang="clang clang_check"
else echo "skipped: CUDA kernels with clang++, because there is none that works"; fi
# an nvcc that is g++
cat > $dir/nvcc << NVCC
#!/bin/sh
for word; do
    shift
    case \$word in
    -arch=*|-lineinfo) ;;
    -E) exit 1 ;;                               # no headers of cuBLAS and NCCL
    -O3) set -- "\$@" -O1 $lines -Wall -Wextra -Werror -DGPT_NCCL ;;
    *.cu) set -- "\$@" -x c++ "\$word" -x none ;;
    *) set -- "\$@" "\$word" ;;
    esac
done
exec $CXX "\$@"
NVCC
chmod +x $dir/nvcc
(
    BUILD_ONLY=1 NVCC=$dir/nvcc sh tests/cuda/gpu_check.sh > $dir/gpu_check.out 2>&1
    "$CXX" -O1 -DGPT_CUDA -DAG_NAIVE -x c examples/20_gpu.c -x none $plain/gpt_cuda.o -lstdc++ -lm -o $dir/20_gpu \
        > $dir/20_gpu.log 2>&1
    # the host's half of backend.cu is the same for the other builds
    "$CXX" $flags -c tests/cuda/backend.cu -o $dir/backend.o
    # shellcheck disable=SC2086
    "$CXX" $check $flags -c cuda/gpt_cuda.cu -o $dir/checked.o
    compile "$CXX" check backend
    compile "$CXX" cublas backend
    case $builds in *asan*)
        for program in kernels ${FULL:+products backend}; do compile "$CXX" asan $program; done
    esac
) &
"$CXX" -std=c++17 -g -Icuda -x c++ $dir/reverse.cu -o $dir/reverse_plain > $dir/reverse_plain.log 2>&1
compile "$CXX" check broken
compile "$CXX" ucontext kernels
compile "$CXX" plain planted
for program in kernels planted products; do compile "$CXX" check $program; done
for build in $clang; do
    compile clang++ "$build" kernels
    [ "$FULL" ] && compile clang++ "$build" products
done
[ "$clang" ] && compile clang++ clang_check planted
case $builds in *asan*) compile "$CXX" asan planted ;; esac
if have_nvcc; then
    more="kernels:sm_90 kernels:sm_120 products:sm_80 products:sm_90 products:sm_120 gpt_cuda:sm_90 gpt_cuda:sm_120"
    for what in kernels:sm_80 planted:sm_80 gpt_cuda:sm_80 ${FULL:+$more}; do
        program=${what%:*} chip=${what#*:} source=tests/cuda/${what%:*}.cu strict= kind=-c
        [ $program = gpt_cuda ] && source=cuda/gpt_cuda.cu
        case $program in products|gpt_cuda)     # where speed matters
            strict=$gates
            [ "$FULL$chip" = 1sm_80 ] || kind=-cubin ;;     # the host's half is compiled once
        esac
        knows $chip || continue
        if "$NVCC" -std=c++17 -O2 -arch=$chip -Werror all-warnings $strict -Icuda $kind "$source" \
            -o $dir/$program.o > $dir/$program.log 2>&1; then ok
        else bad "$program.cu does not compile with nvcc for $chip"; head -n 20 $dir/$program.log; fi
    done
else echo "skipped: compiling for a GPU, because there is no nvcc"; fi
wait
if grep -q '^gpu-check: 4 passed, 0 failed$' $dir/gpu_check.out; then ok
else bad "what make gpu-check builds"; tail -n 10 $dir/gpu_check.out; fi
for program in kernels products backend; do
    [ -x $plain/$program ] && ln -s ../../$plain/$program $dir/${program}_plain
done

built() {                                       # built PROGRAM BUILD
    [ -x $dir/$1_$2 ] && return
    bad "$1.cu, build $2, does not compile"
    head -n 20 $dir/$1_$2.log
    return 1
}

# The example. Addresses of host memory and the order of the two streams of output do not matter.
if built reverse plain; then
    want=$(sed -n 's|^.*printf("%g %g.n", host.0., host.63.); *// ||p' $dir/reverse.cu)
    if [ "$want" ] && [ "$($dir/reverse_plain)" = "$want" ]; then ok
    else bad "the example of cuda_on_cpu.h prints '$($dir/reverse_plain)', not '$want'"; fi
fi
if built broken check; then
    $dir/broken_check > $dir/log.out 2> $dir/log
    [ $? = 97 ] && ok || bad "the example without its barrier does not end with status 97"
    lines=$(grep -c . $dir/log) same=0
    while IFS= read -r line; do
        grep -qF -e "$(echo "$line" | sed 's|build/cuda/||g')" cuda/README.md && same=$((same + 1))
    done < $dir/log
    if [ "$lines" -gt 3 ] && [ "$same" = "$lines" ]; then ok
    else bad "cuda/README.md shows $same of the checker's $lines lines"; cat $dir/log; fi
fi

# The session of cuda/README.md in a debugger, as it is typed there.
if command -v gdb > /dev/null; then
    sed -n 's/^    (gdb) //p' cuda/README.md > $dir/gdb_commands
    timeout 60 gdb -batch -x $dir/gdb_commands $dir/reverse_plain > $dir/log 2>&1
    grep -q '^\$1 = {0, 1, 2, .*, 62, 63}$' $dir/log && grep -q '^\$2 = [1-9]' $dir/log && ok ||
        { bad "what cuda/README.md types into gdb does not show s and the line"; tail -n 5 $dir/log; }
else echo "skipped: the session in a debugger, because there is no gdb"; fi

# The right programs: no word but the closing line of test.h. The checker has had enough of the larger ones sooner.
silent() {                                      # silent PROGRAM BUILD SEED...: only=NAME takes some of its tests
    built $1 $2 || return
    program=$1 build=$2
    shift 2
    for seed in "$@"; do
        CUDA_ON_CPU_SEED=$seed timeout 240 $dir/${program}_$build $only > $dir/$program.out 2>&1
        code=$?
        if [ $code = 0 ] && [ "$(wc -l < $dir/$program.out)" = 1 ] &&
            grep -q "^$program: [1-9][0-9]* passed, 0 failed\$" $dir/$program.out
        then ok
        else bad "$program.cu, build $build, seed $seed: status $code"; head -n 20 $dir/$program.out; fi
    done
}
large() {                                       # they run beside all that follows
    name=large passed=0 failed=0
    silent products plain $seeds
    silent backend plain 0
    export BACKEND_QUICK=1
    silent backend plain 1 ${FULL:+2 3 4}       # traffic.sh has both with the checker, seed 1
    if [ "$FULL" ]; then
        silent products check 0 2 3 4
        silent backend check 0 2 3 4
        case $builds in *asan*) silent products asan $seeds; silent backend asan 1 ;; esac
        [ "$clang" ] && { silent products clang 0 3; silent products clang_check 0 3; }
    fi
    for only in products ops ${FULL:+model_ training}; do silent backend cublas 0; done
    unset BACKEND_QUICK only
    # Lesson 20 on the emulation, as its first comment compiles it, but for the CPU's fast kernels, which take long.
    if (cd $dir && export LESSON_OFFLINE=1 &&
        ./20_gpu steps=2 batch=1 bf16=1 && ./20_gpu steps=2 batch=2 gpus=2 && ./20_gpu steps=3 batch=2) \
        > $dir/20_gpu.out 2>> $dir/20_gpu.log && grep '^furthest apart: ' $dir/20_gpu.out > $dir/20_gpu.apart &&
        [ "$(wc -l < $dir/20_gpu.apart)" = 3 ] &&       # the first in bfloat16
        sed -n 1p $dir/20_gpu.apart | grep -q '\(0.0e+00\|[0-9.]*e-0[4-9]\)' &&
        [ "$(sed 1d $dir/20_gpu.apart | grep -c '\(0.0e+00\|[0-9.]*e-0[6-9]\)')" = 2 ]; then ok
    else bad "lesson 20 on the emulation"; tail -n 5 $dir/20_gpu.log $dir/20_gpu.out; fi
    end
}
# What stands around the kernels has scripts of its own.
export EMULATED=$plain
part() { for part; do sh tests/cuda/$part.sh > $dir/part_$part.log 2>&1; done; }
(
    (large) > $dir/part_large.log 2>&1
    part libraries group sass
) &
for build in $builds $clang; do silent kernels $build $seeds; done

# sees BUILD N WORDS SEEDS: is it reported, with these words, with one of the seeds?
sees() {
    for seed in $4; do
        CUDA_ON_CPU_SEED=$seed timeout 20 $dir/planted_$1 "$2" > $dir/log 2>&1
        code=$?
        [ $code != 0 ] && [ $code != 124 ] && grep -qF -e "$3" $dir/log && return
    done
    return 1
}
bug() {                                         # bug BUILD N NAME WORDS SEEDS
    [ "$4" = - ] && return
    if sees "$1" "$2" "$4" "$5"; then ok
    else bad "planted bug $2 ($3) in build $1: '$4' is not reported, status $code"; head -n 5 $dir/log; fi
}
for build in plain asan check clang_check; do
    case " $builds $clang " in *" $build "*) built planted $build ;; esac
done
# variable NAME=VALUE BUILD BUG STATUS: the planted bug of this name then ends with this status.
variable() {
    number=0
    while [ "$($dir/planted_$2 show $number | cut -d'|' -f1)" != "$3" ]; do
        number=$((number + 1))
        [ $number -gt 200 ] && { bad "no planted bug is called '$3'"; return; }
    done
    (ulimit -c 0; env "$1" timeout 20 $dir/planted_$2 $number; exit $?) > $dir/log 2>&1
    code=$?
    if [ $code = "$4" ]; then ok; else bad "$1, build $2, '$3': status $code, not $4"; head -n 5 $dir/log; fi
}
if [ -x $dir/planted_plain ]; then
    variable CUDA_ON_CPU_LEAKS=1 plain "cudaMalloc without cudaFree" 95
    variable CUDA_ON_CPU_LEAKS=0 plain "cudaMalloc without cudaFree" 0
    variable CUDA_ON_CPU_STACK=65536 plain "a local array that is too large" 99
    variable CUDA_ON_CPU_STACK=1000000 plain "a local array that is too large" 0
    variable CUDA_ON_CPU_SEED=0 plain "return before __syncthreads" 98
    variable CUDA_ON_CPU_EXITED_OK=1 plain "return before __syncthreads" 0
    variable CUDA_ON_CPU_SEED=0 plain "missing cudaStreamSynchronize" 3
    variable CUDA_ON_CPU_BLOCKING=1 plain "missing cudaStreamSynchronize" 0
    variable CUDA_ON_CPU_ABORT=1 plain "divergent __syncthreads" 134
    variable CUDA_ON_CPU_DEVICES=1 plain "memory of another device" 0      # cudaSetDevice(1) fails
fi
if [ -x $dir/planted_check ]; then
    variable CUDA_ON_CPU_MAX_ERRORS=1 check "missing __syncthreads, read before written" 97
    grep -q 'stops after 1 errors' $dir/log && ok || bad "CUDA_ON_CPU_MAX_ERRORS=1 does not stop after one error"
    variable CUDA_ON_CPU_MEGABYTES=0 check "none: the control" 99
    grep -q 'the checker has 0 MB' $dir/log && ok || bad "CUDA_ON_CPU_MEGABYTES=0 does not say what to raise"
    variable CUDA_ON_CPU_REPORT=1 check "none: the control" 0
    grep -q '^reverse  *1  *1  *64  *256  *256  *256  *256  *1.00  *1.00$' $dir/log && ok ||
        { bad "CUDA_ON_CPU_REPORT=1 does not count what reverse() loads and stores"; cat $dir/log; }
fi

count=$($dir/planted_plain count 2> /dev/null || echo 0)
want=$(sed -n 's/.*; \([0-9]*\) planted bugs.*/\1/p' tests/README.md)     # the control is a row of its own
[ "$count" = $((want + 1)) ] && ok || bad "the table of planted bugs has $count rows, tests/README.md says $want + 1"
n=0
while [ $n -lt "$count" ]; do
    row=$($dir/planted_plain show $n)
    title=${row%%|*}
    if [ $n = 0 ]; then                         # the control has to be silent
        for build in plain asan check clang_check; do
            [ -x $dir/planted_$build ] || continue
            if timeout 20 $dir/planted_$build 0 > $dir/log 2>&1 && [ ! -s $dir/log ]; then ok
            else bad "build $build complains of the program without a bug"; head -n 5 $dir/log; fi
        done
    fi
    case "$row" in
    *"|-|-|-") [ $n = 0 ] || bad "nobody has to see planted bug $n ($title)" ;;
    esac
    bug plain $n "$title" "$(echo "$row" | cut -d'|' -f2)" "$seeds"
    [ -x $dir/planted_asan ] && bug asan $n "$title" "$(echo "$row" | cut -d'|' -f3)" "0 1"
    for build in check clang_check; do
        [ -x $dir/planted_$build ] && bug $build $n "$title" "$(echo "$row" | cut -d'|' -f4)" "0"
    done
    n=$((n + 1))
done

part exercises traffic ${FULL:+aarch64}
wait
for part in large libraries group sass exercises traffic ${FULL:+aarch64}; do
    line=$(tail -n 1 $dir/part_$part.log)
    case $line in
    "$part: "*" passed, "*" failed")
        line=${line#*: }
        passed=$((passed + ${line%% *})) line=${line#*passed, }
        failed=$((failed + ${line%% *}))
        sed '$d' $dir/part_$part.log ;;
    *) bad "$part has no closing line"; cat $dir/part_$part.log ;;
    esac
done
end
