# Data parallel training in emulation, two devices, with several seeds. FULL=1: with the checker too; and each wait
# between the two streams is removed in turn, which some seed has to notice.
#     sh tests/cuda/group.sh        EMULATED=build/gpu: gpt_cuda.o (with -DGPT_NCCL) and implementation.o are there
cd "$(dirname "$0")/../.." || exit 1
name=group dir=build/cuda_group
. tests/cuda/common.sh
export CUDA_ON_CPU_DEVICES=2
flags="-std=c++17 -O0 -Wall -Wextra -Werror -Icuda -DGPT_NCCL"
if "$CXX" $flags -x c++ -c tests/cuda/group.cu -o $dir/group.o &&
    if [ "$EMULATED" ]; then cp "$EMULATED/implementation.o" $dir
    else ${CC:-cc} -O2 -c tests/cuda/implementation.c -o $dir/implementation.o; fi; then ok
else bad "group.cu does not compile"; end; fi

build() {                                       # build NAME FLAGS LIBRARIES: from gpt_cuda.cu, or a copy of it
    "$CXX" $flags $2 -x c++ ${source:-cuda/gpt_cuda.cu} -x none $dir/group.o $dir/implementation.o -o $dir/$1 $3 \
        > $dir/$1.log 2>&1 || { bad "group, build $1, does not compile"; head -n 20 $dir/$1.log; return 1; }
}
silent() {                                      # silent NAME SEED
    CUDA_ON_CPU_SEED=$2 timeout 240 $dir/$1 > $dir/$1.out 2>&1 &&
        [ "$(cat $dir/$1.out)" = "group: 6 passed, 0 failed" ]
}
if [ "$EMULATED" ]; then "$CXX" "$EMULATED/gpt_cuda.o" $dir/group.o $dir/implementation.o -o $dir/plain
else build plain; fi
if [ -x $dir/plain ]; then
    for seed in 0 1 ${FULL:+2 3 4}; do
        if silent plain $seed; then ok; else bad "group, plain, seed $seed"; head -n 20 $dir/plain.out; fi
    done
fi
if [ "$FULL" ]; then
    if build check "$check -O1" "$libraries"; then
        if silent check 1; then ok; else bad "group, with the checker"; head -n 20 $dir/check.out; fi
    fi
    grep -n 'cudaStreamWaitEvent(\|cudaEventRecord(' cuda/gpt_cuda.cu | cut -d: -f1 > $dir/places
    [ "$(wc -l < $dir/places)" = 4 ] && ok || bad "gpt_cuda.cu has another number of waits and events than 4"
    while read -r place; do
        source=$dir/without_$place.cu
        sed "$place s/cuda\(StreamWaitEvent\|EventRecord\)([^()]*)/cudaSuccess/" cuda/gpt_cuda.cu > $source
        found=
        if build without_$place -w; then
            for seed in 0 1 2 3 4 5 6 7; do silent without_$place $seed || found=yes; done
            if [ $found ]; then ok; else bad "without line $place nothing is noticed"; fi
        fi
    done < $dir/places
fi
end
