# The exercises of cuda/exercises with the checker: each as it is has to print what stands under PRINTS, and not a word
# more; with -DBREAK=n it has to say every line that stands under BREAK=n, up to the dots in it. "silent" demands the
# opposite. What cuda/README.md shows of one of them is what that one says.
# All are compiled at once, as parts of one program, which saves most of the time. tests/test_cuda.sh calls this.
#     sh tests/cuda/exercises.sh
cd "$(dirname "$0")/../.." || exit 1
name=exercises dir=build/cuda_exercises
. tests/cuda/common.sh
unset CUDA_ON_CPU_SEED CUDA_ON_CPU_REPORT CUDA_ON_CPU_BLOCKING

echo '#include "tensor_core.h"' > $dir/all.cu
echo '#include "tensor_core.h"' > $dir/unbroken.cu
cases=
for file in cuda/exercises/[0-9]*.cu; do
    number=$(basename "$file" | sed 's/_.*//')
    for n in 0 $(sed -n 's/^BREAK=\([0-9]*\) .*/\1/p' "$file"); do
        cases="$cases $number:$n"
        printf '%s\n' "#undef BREAK" "#define BREAK $n" "#define main run" "namespace of_${number}_$n {" \
            "#include \"$file\"" "}" "#undef main" > $dir/part
        cat $dir/part >> $dir/all.cu
        [ "$n" = 0 ] && cat $dir/part >> $dir/unbroken.cu
    done
    grep -q "check.sh $number" "$file" && [ "$(wc -l < "$file")" -lt 90 ] && ok ||
        bad "$file: its comment lacks its commands, or it is longer than two screens"
done
{
    echo 'int main(int, char **argv) {'
    for c in $cases; do echo "    if (!strcmp(argv[1], \"$c\")) return of_${c%:*}_${c#*:}::run();"; done
    echo '    return 1;'
    echo '}'
} >> $dir/all.cu
if ! $CXX -std=c++17 $lines -O1 $check -Wall -Wextra -Werror -I. -Icuda -x c++ $dir/all.cu -o $dir/all $libraries \
    > $dir/log 2>&1; then
    bad "the exercises do not compile"
    head -n 20 $dir/log
fi
if have_nvcc; then
    "$NVCC" -std=c++17 -arch=sm_80 -Werror all-warnings -I. -Icuda -c $dir/unbroken.cu -o $dir/unbroken.o \
        > $dir/log 2>&1 && ok || { bad "the exercises do not compile with nvcc"; head -n 20 $dir/log; }
else echo "skipped: compiling the exercises for a GPU, because there is no nvcc"; fi

shown=$(sed -n 's/^    $ CUDA_ON_CPU_REPORT=1 sh cuda.exercises.check.sh \([0-9]*\) -DBREAK=/\1:/p' cuda/README.md)
awk '/^    \$ CUDA_ON_CPU_REPORT=1 sh cuda.exercises/ { on = 1; next } on && !/^    / { exit } on' cuda/README.md |
    tr -s ' ' > $dir/shown
[ "$(wc -l < $dir/shown)" -gt 3 ] || bad "cuda/README.md shows no report of an exercise"

for c in $cases; do
    file=$(echo cuda/exercises/"${c%:*}"_*.cu) n=${c#*:}
    title="BREAK=$n " report=1
    [ "$n" = 0 ] && title=PRINTS
    # the lines that are set off under the title
    awk -v title="$title" 'index($0, title) == 1 { on = 1; if (/silent/) print "silent"; next }
        on && /^    / && !/^            [a-z ]*[a-z]/ { sub(/^    /, ""); print; next }
        on && !/^            / { exit }' "$file" > $dir/want
    silent=
    grep -qx silent $dir/want && silent=1
    [ "$n" = 0 ] && silent=1
    [ "$silent" ] && report=
    grep -vx silent $dir/want > $dir/lines
    [ -s $dir/lines ] || bad "$file says nothing about $title"
    if [ "$report" ]; then CUDA_ON_CPU_REPORT=1 timeout 60 $dir/all "$c" > $dir/log 2>&1
    else timeout 60 $dir/all "$c" > $dir/log 2>&1; fi
    code=$?
    sed 's/of_[0-9]*_[0-9]*:://g; s/0x[0-9a-f][0-9a-f]*/0x.../g; s|\./cuda|cuda|g' $dir/log > $dir/got
    if [ "$silent" ]; then
        [ $code = 0 ] && cmp -s $dir/lines $dir/got && ok ||
            { bad "$file, $title: status $code"; diff $dir/lines $dir/got | head -n 10; }
        continue
    fi
    if [ "$c" = "$shown" ]; then
        shown=
        sed 's/^/    /' $dir/got | tr -s ' ' > $dir/squeezed
        while IFS= read -r line; do
            grep -qxF -e "$line" $dir/squeezed && ok || { bad "cuda/README.md shows of $c: $line"; cat $dir/got; }
        done < $dir/shown
    fi
    while IFS= read -r line; do
        grep -qF -e "${line% ...}" $dir/got && ok || { bad "$file, $title does not say: $line"; cat $dir/got; }
    done < $dir/lines
done
[ "$shown" ] && bad "cuda/README.md shows exercise $shown, which is none"
end
