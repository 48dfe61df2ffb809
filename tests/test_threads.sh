# Does a thread read what another is still writing? ThreadSanitizer watches the pool and the kernels that use it, with
# four threads. It has to find nothing; then each of two planted races, or it would have found nothing anywhere.
passed=0 failed=0 dir=build/threads
mkdir -p $dir
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED threads: $*"; }
end() { echo "threads: $passed passed, $failed failed"; [ "$failed" = 0 ]; exit; }

build() {                                       # build HEADER NAME
    mkdir -p $dir/$2
    mv "$1" $dir/$2/autograd.h
    $cc -g -O1 -fsanitize=thread -I$dir/$2 tests/threads.c -o $dir/$2/run -lm -lpthread > $dir/log 2>&1
}

echo 'int main(void) { return 0; }' > $dir/empty.c
for cc in clang gcc none; do
    command -v $cc > /dev/null || continue
    $cc -fsanitize=thread $dir/empty.c -o $dir/empty > $dir/log 2>&1 && $dir/empty && break
done
[ $cc = none ] && { echo "skipped: no ThreadSanitizer (clang or gcc) that runs here"; ok; end; }

# The portable set of kernels alone: the threads are the same in all of them, and the others take minutes to compile.
sed 's/^#define AGI_X86 1$/#define AGI_X86 0/' autograd.h > $dir/plain.h
race() {                                        # race NAME SED: plants one; the tool must see it
    sed "$2" $dir/plain.h > $dir/raced.h
    cmp -s $dir/plain.h $dir/raced.h && { bad "cannot be planted: $1"; return; }
    build $dir/raced.h race || { bad "$1: does not compile"; head -5 $dir/log; return; }
    for attempt in 1 2 3 4 5; do                # a race shows only if the threads meet
        TSAN_OPTIONS=halt_on_error=1 timeout 100 $dir/race/run > $dir/log 2>&1      # or it may run on for good
        grep -q 'WARNING: ThreadSanitizer: data race' $dir/log && ok && return
    done
    bad "the tool does not see, in $attempt attempts: $1"
}

cp $dir/plain.h $dir/copy.h
if build $dir/copy.h right; then
    if timeout 300 $dir/right/run > $dir/log 2>&1 && ! grep -q ThreadSanitizer $dir/log; then ok
    else bad "four threads"; head -40 $dir/log; fi
else bad "does not compile with $cc -fsanitize=thread"; head -5 $dir/log; fi
race "a worker says that it is done before what it wrote can be seen" \
    's/__atomic_fetch_sub(&cpu->state, 1, __ATOMIC_RELEASE)/__atomic_fetch_sub(\&cpu->state, 1, __ATOMIC_RELAXED)/'
race "the caller does not wait for the workers" \
    's/__ATOMIC_ACQUIRE) & AGI_INSIDE; spins++/__ATOMIC_ACQUIRE) \& 0; spins++/'
end
