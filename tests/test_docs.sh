# What the documents show is compiled, run and compared. In a header's doc block the program stands between the lines
# "EXAMPLE:" and "PRINTS:", its output after that; in README.md a ```c block is a program, and the ```text block after
# it is its output. Of README's sh blocks every line is a make target of the Makefile, or compiles a lesson and runs it.
passed=0 failed=0 dir=build/docs
rm -rf "$dir" && mkdir -p "$dir"
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED docs: $*"; }

compiles() {                                    # the line is right and says nothing; make lessons has made its program
    sh -c "$(echo "$1" | sed 's/ -o [a-z0-9_.]*\( -lm\)*/ -fsyntax-only/')" > "$dir/line.log" 2>&1 &&
        [ ! -s "$dir/line.log" ] && ok
}

check() {                                       # check NAME: $dir/NAME.c must print $dir/NAME.want
    name=$1
    [ -s "$dir/$name.c" ] || { bad "$name: no program was found"; return; }
    for cc in "cc" "c++ -x c++ -std=c++11"; do
        if ! $cc -O1 -I. "$dir/$name.c" -o "$dir/$name" -lm > "$dir/$name.log" 2>&1; then
            bad "$name does not compile with $cc"; head -5 "$dir/$name.log"; continue
        fi
        (cd "$dir" && "./$name") > "$dir/$name.got" 2>&1
        if cmp -s "$dir/$name.got" "$dir/$name.want"; then ok
        else bad "$name prints something else ($cc)"; diff "$dir/$name.want" "$dir/$name.got" | head -20; fi
    done
}

for header in autograd bpe gpt; do
    awk -v c="$dir/$header.c" -v want="$dir/$header.want" '
        /^#ifndef/ { exit }
        /EXAMPLE:/ && !done { on = 1; printf "" > c; printf "" > want; next }
        /PRINTS:/ && on == 1 { on = 2; next }
        on && !/^(\/\/|  *)? *$/ { line = $0; sub(/^\/\/ /, "", line)
            if (line !~ /^    /) { if (on == 2) { on = 0; done = 1 } ; next }
            sub(/^    /, "", line); print line > (on == 1 ? c : want); next }
        on == 1 { print "" > c }
        on == 2 { on = 0; done = 1 }' "$header.h"
    check "$header"
done

awk -v dir="$dir" '
    /^```c$/ { n++; file = dir "/readme" n ".c"; printf "" > file; next }
    /^```text$/ && n { file = dir "/readme" n ".want"; printf "" > file; next }
    /^```sh$/ { file = dir "/readme.sh"; next }
    /^```/ { if (file) close(file); file = ""; next }
    file ~ /readme.sh$/ { print >> file; next }
    file { print > file }
    BEGIN { printf "" > (dir "/readme.sh") }' README.md
n=0
while [ -f "$dir/readme$((n + 1)).c" ]; do n=$((n + 1)); check "readme$n"; done
[ "$n" -ge 1 ] && ok || bad "README.md has no C program"
line=$(grep -o 'cc -O3 try.c -o try -lm' README.md)        # how README says they are compiled: beside the headers
[ -n "$line" ] || bad "README.md does not say how its programs are compiled"
mkdir -p "$dir/try" && cp autograd.h bpe.h gpt.h "$dir/try"
for i in $(seq "$n"); do
    cp "$dir/readme$i.c" "$dir/try/try.c"
    compiles "$(echo "$line" | sed "s|try.c|$dir/try/try.c|")" || bad "README.md, program $i: $line"
done

while read -r line; do                          # make demo and make test are run by whoever runs this
    line=${line%%#*}
    case $line in
    ''|'#'*|git\ clone*|cd\ *) ;;
    make*) for target in $(echo "$line" | sed 's/^make//; s/[A-Z]*=[^ ]*//g'); do
               grep -q "^$target:" Makefile && ok || bad "README.md: make $target is no target"
           done ;;
    cc*) compiles "$line" || bad "README.md: $line" ;;
    *) bad "README.md: nobody tests the line: $line" ;;
    esac
done < "$dir/readme.sh"

for lesson in examples/[0-9][0-9]_*.c; do       # the one line in each first comment
    line=$(grep -m 1 -o 'cc -O3 examples/[^ ]* -o [a-z0-9_]* -lm' "$lesson")
    case $line in
    *"$lesson"*) compiles "$line" || bad "$lesson: $line" ;;
    *) bad "$lesson: its first comment lacks its compile line" ;;
    esac
done
# Lesson 20 has more of them.
lines=$(sed -n '/^#define/q; s|^//     ||p' examples/20_gpu.c |
    sed -n 's/ *&& .*//; /^g++ -std\|^nvcc\|^cc .*GPT_CUDA/p')
n=$(echo "$lines" | wc -l)
[ "$n" = 4 ] || bad "examples/20_gpu.c has $n more lines that compile it, not 4"
while read -r line; do
    case $line in
    nvcc*)                                      # its half of C; cuda/gpt_cuda.cu is compiled in test_cuda.sh
        nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
        [ -x "$nvcc" ] || { echo "skipped: lesson 20 with nvcc, which is missing"; continue; }
        line="$nvcc $(echo "${line#nvcc}" |
            sed "s/native/sm_80/; s|cuda/gpt_cuda.cu||; s|-o gpu|-c --output-file $dir/20.o|")" ;;
    esac
    compiles "$line" || { bad "examples/20_gpu.c: $line"; head -n 5 "$dir/line.log"; }
done << LINES
$lines
LINES
# README's table of speed is made from the file that `make bench` wrote
if command -v python3 > /dev/null; then
    for csv in tests/measured.csv tests/measured_avx2.csv; do
        python3 tests/bench.py readme=$csv > "$dir/table.md" && [ "$(wc -l < "$dir/table.md")" -gt 4 ] ||
            bad "$csv is no table of tests/bench.py"
        while read -r line; do
            grep -qxF -e "$line" README.md && ok || bad "README.md lacks this row of $csv: $line"
        done < "$dir/table.md"
    done
    python3 tests/ablation.py print=1 | cmp -s - tests/bench/ABLATION.md && ok ||
        bad "tests/bench/ABLATION.md is not what python3 tests/ablation.py print=1 makes of tests/ablation.csv"
    python3 tests/cuda/roofline.py > "$dir/roofline.md" && [ "$(wc -l < "$dir/roofline.md")" -gt 20 ] ||
        bad "tests/cuda/roofline.py prints no table"
    while read -r line; do
        grep -qxF -e "$line" cuda/README.md && ok || bad "cuda/README.md lacks this row of roofline.py: $line"
    done < "$dir/roofline.md"
else echo "skipped: README's table of speed (python3 is missing)"; fi
echo "docs: $passed passed, $failed failed"
[ "$failed" = 0 ]
