# The headers, and every lesson, under each compiler that this machine has: no warnings from gcc and clang as C99 and
# from g++ and clang++ as C++11; tcc and mingw compile; the NEON path computes what the others compute (under qemu).
# And what nm says of the headers: no variable that can change, no call that prints, ends the process or runs another.
passed=0 failed=0 dir=build/compilers
mkdir -p "$dir"
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED compilers: $*"; }
have() { command -v "${1%% *}" > /dev/null || { echo "skipped: ${1%% *} is not installed"; return 1; }; }
silent() {                                      # silent NAME COMMAND...: it succeeds and has nothing to say
    name=$1; shift
    if "$@" > "$dir/log" 2>&1 && [ ! -s "$dir/log" ]; then ok; else bad "$name"; head -5 "$dir/log"; fi
}

for header in autograd bpe gpt; do              # each header alone, declarations and implementation
    upper=$(echo $header | tr a-z A-Z)
    printf '#include "%s.h"\nint declared_%s;\n' $header $header > "$dir/$header.declare.c"
    printf '#define %s_IMPLEMENTATION\n#include "%s.h"\n#include "%s.h"\n' $upper $header $header > "$dir/$header.c"
done
warn="-Wall -Wextra -Wpedantic -Wshadow -Werror -I. -Iexamples"
for cc in gcc clang; do
    have $cc || continue
    for f in "$dir"/*.c examples/[0-9][0-9]_*.c; do
        silent "$cc $f" $cc -std=c99 -Wvla $warn -O2 -fsyntax-only "$f"
    done
    for header in autograd bpe gpt; do
        silent "$cc -O0 $header" $cc -std=c99 -Wvla $warn -O0 -c "$dir/$header.c" -o "$dir/x.o"
    done
done
for cxx in g++ clang++; do
    have $cxx || continue
    for f in "$dir"/*.c; do silent "$cxx $f" $cxx -x c++ -std=c++11 $warn -O1 -c "$f" -o "$dir/x.o"; done
done
have tcc && for f in "$dir"/*.c; do silent "tcc $f" tcc -I. -c "$f" -o "$dir/x.o"; done
have x86_64-w64-mingw32-gcc && for f in "$dir"/*.c examples/08_pretrain.c; do
    silent "mingw $f" x86_64-w64-mingw32-gcc -Wall -Wextra -I. -O1 -c "$f" -o "$dir/x.o"
done
# Windows' headers make macros of plain words (far, near) and types of others (SHORT), so each lesson is read too
have x86_64-w64-mingw32-gcc && for f in examples/[0-9]*.c; do
    silent "mingw $f, read" x86_64-w64-mingw32-gcc -Wall -Wextra -I. -fsyntax-only "$f"
done

# One program, every path: the same training run must print the same bits (the paths whose multiply-adds are fused).
cat > "$dir/digest.c" <<'END'
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#include "gpt.h"
int main(void) {
    static const char *const presets[] = {"nano", "nano-llama"};
    for (int k = 0; k < 2; k++) {
        ag_ctx *ag = ag_new(5);
        gpt_config c = gpt_preset(presets[k]);
        int x[2 * 33], y[2 * 33];
        double last = 0;
        c.n_vocab = 65, c.n_layer = 2, c.n_embd = 48, c.n_hidden = 100, c.n_ctx = 33;
        gpt_model *m = gpt_new(ag, &c);
        gpt_optimizer o = k ? gpt_muon() : gpt_adamw();
        for (int step = 0; step < 10; step++) {
            for (int i = 0; i < 66; i++) x[i] = (i * 7 + step * 13) % 65, y[i] = (i * 11 + step) % 65;
            ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, 2, 33), y, NULL);
            last = ag_item(loss);
            ag_backward(loss);
            gpt_step(m, &o, 1, NULL);
            ag_reset(ag);
        }
        const char *path = getenv("PATH_WANTED");
        if (path && !strstr(ag_backend_name(ag), path)) return puts("this machine lacks it"), 3;
        printf("%s %.9g\n", presets[k], last);
        gpt_free(m), ag_free(ag);
    }
    return 0;
}
END
digest() { "$@" > "$dir/digest.txt" 2>&1 && cat "$dir/digest.txt"; }
cc -O3 -I. "$dir/digest.c" -o "$dir/digest" -lm && want=$(digest "$dir/digest") || bad "the digest program does not run"
for path in avx512 avx2 neon; do
    got=$(AG_CPU=$path PATH_WANTED=$path "$dir/digest")
    [ $? = 3 ] && { echo "skipped: this machine has no $path"; continue; }
    [ "$got" = "$want" ] && ok || bad "AG_CPU=$path: $got instead of $want"
done
if have clang; then
    clang -O2 -I. "$dir/digest.c" -o "$dir/digest_clang" -lm && [ "$(digest "$dir/digest_clang")" = "$want" ] && ok ||
        bad "clang has other bits than gcc"
fi
case $(uname -m) in x86_64)
    grep -q ' fma ' /proc/cpuinfo && { cc -O2 -mfma -I. "$dir/digest.c" -o "$dir/digest_fma" -lm &&
        [ "$(AG_CPU=portable digest "$dir/digest_fma")" = "$want" ] && ok ||
        bad "the portable path with fused multiply-adds has other bits"; }
    if have aarch64-linux-gnu-gcc && have qemu-aarch64; then
        aarch64-linux-gnu-gcc -O2 -static -I. "$dir/digest.c" -o "$dir/digest_arm" -lm &&
            [ "$(digest qemu-aarch64 "$dir/digest_arm")" = "$want" ] && ok ||
            bad "NEON under qemu has other bits: $(cat "$dir/digest.txt") instead of $want"
    fi ;;
esac

# What the library promises not to do, as nm sees it, without AG_DIE_ON_ERROR. Optimised, because at -O0 calls stay that
# are never reached; not position independent, so that constant pointers are constants.
forbidden='_?_?(exit|_exit|_Exit|quick_exit|abort|assert_fail|v?f?printf|v?f?printf_chk|puts|fputs|putchar|putc|fputc'
forbidden="$forbidden"'|perror|system|popen|exec[lv]p?e?|fexecve|posix_spawnp?|v?fork|clone|dlopen|dlsym|stdout|stderr)'
nm_gates() {                                    # nm_gates OBJECT: what it has and should not have, to $dir/log
    { nm "$1" | grep -E ' [bBdDcCsSgG] '; nm -u "$1" | grep -E " $forbidden(@.*)?\$"; } > "$dir/log"
}
if have nm; then
    for header in autograd bpe gpt; do for naive in "" -DAG_NAIVE; do
        rm -f "$dir/$header.o"
        gcc -O1 $naive -fno-pic -fno-pie -I. -c "$dir/$header.c" -o "$dir/$header.o"
        nm_gates "$dir/$header.o"
        [ -s "$dir/$header.o" ] && [ ! -s "$dir/log" ] && { ok; continue; }
        bad "$header.h $naive has variables that can change, or calls what it should not"
        head -5 "$dir/log"
    done; done
    while read -r line; do                      # the gates themselves: each of these has to be caught
        printf '#include <stdio.h>\n#include <stdlib.h>\n%s\n' "$line" > "$dir/gate.h"
        : > "$dir/log"
        gcc -x c -O1 -fno-pic -fno-pie -c "$dir/gate.h" -o "$dir/gate.o" && nm_gates "$dir/gate.o"
        [ -s "$dir/log" ] && ok || bad "nm does not show: $line"
    done << 'END'
int n;
static int n; int next(void) { return ++n; }
int n = 3;
void f(void) { puts("x"); }
void f(void) { printf("%d", 3); }
void f(void) { fprintf(stderr, "x"); }
void f(void) { exit(1); }
void f(void) { abort(); }
int f(void) { return system("x"); }
void *f(void) { return popen("x", "r"); }
int execvp(const char *, char *const *); int f(void) { return execvp("x", 0); }
void *dlopen(const char *, int); void *f(void) { return dlopen("x", 1); }
END
fi
seconds=$( { time -p cc -O3 examples/08_pretrain.c -Ibuild -o "$dir/x" -lm; } 2>&1 | awk '/^user/ { print $2 }')
echo "note: lesson 08 compiles in $seconds s of processor time (cc -O3)"
echo "compilers: $passed passed, $failed failed"
[ "$failed" = 0 ]
