# tests/cuda/sass.py has to count what tests/cuda/sass.cu says, on each GPU that this nvcc compiles for, and to see that
# other rules do not hold. Without nvcc there is nothing to count. tests/test_cuda.sh calls this.
#     sh tests/cuda/sass.sh
cd "$(dirname "$0")/../.." || exit 1
name=sass dir=build/cuda_sass
. tests/cuda/common.sh
skip() { echo "skipped: counting machine instructions, because there is no $1"; ok; end; }
have_nvcc || skip nvcc
command -v python3 > /dev/null || skip python3

for chip in sm_80 sm_90 sm_120; do
    knows $chip || continue
    "$NVCC" -std=c++17 -O3 -arch=$chip -Icuda -cubin tests/cuda/sass.cu -o $dir/$chip.cubin > $dir/log 2>&1 ||
        { bad "sass.cu does not compile for $chip"; head -n 10 $dir/log; continue; }
    python3 tests/cuda/sass.py $dir/$chip.cubin rules=tests/cuda/sass.cu > $dir/log 2>&1 && ok ||
        { bad "the counts for $chip are not those of the source"; cat $dir/log; }
done
[ "$passed" = 0 ] && skip "chip to compile for"

cat > $dir/wrong << 'RULES'
// sass: copy_four LDG.128=2
// sass: copy_four LDG>1
// sass: copy_* STG<1
// sass: copy_fours LDG=1
// sass: tensor_cores FFMA>0
// sass: doubles DADD=0
RULES
for cubin in "$dir"/*.cubin; do                 # copy_* fits three kernels: eight complaints
    python3 tests/cuda/sass.py "$cubin" rules=$dir/wrong > $dir/log 2>&1
    [ $? = 1 ] && [ "$(grep -c '^FAILED' $dir/log)" = 8 ] && ok || { bad "wrong rules hold"; cat $dir/log; }
done
echo '// sass: copy_four LDX=1' > $dir/wrong
python3 tests/cuda/sass.py "$cubin" rules=$dir/wrong > $dir/log 2>&1
[ $? = 1 ] && grep -q 'no instruction LDX' $dir/log && ok || bad "a rule about an unknown instruction is taken"
python3 tests/cuda/sass.py tests/cuda/sass.cu > $dir/log 2>&1
[ $? = 1 ] && grep -q 'is no cubin' $dir/log && ok || bad "a source is taken for a cubin"
end
