# Runs every test program and script, and adds up their closing lines. QUICK=1 leaves out the slow ones.
# Each prints what failed and, last, "NAME: N passed, N failed"; one that ends without that line counts as failed.
# The seconds of each are printed beside its counts.
passed=0 failed=0 log=build/tests/log.txt
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1}" UBSAN_OPTIONS=print_stacktrace=1

run() {                                         # run LABEL COMMAND...
    label=$1 began=$(date +%s); shift
    "$@" > "$log" 2>&1 < /dev/null; code=$?
    line=$(grep -E '^[^ ]+: [0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
    p=$(echo "$line" | sed -n 's/^[^ ]*: \([0-9]*\) passed.*/\1/p')
    f=$(echo "$line" | sed -n 's/.*, \([0-9]*\) failed$/\1/p')
    if [ -z "$line" ] || { [ "$code" != 0 ] && [ "$f" = 0 ]; }; then
        p=${p:-0} f=$((${f:-0} + 1))
        echo "FAILED $label: ended with status $code and '${line:-no closing line}'"
    fi
    [ "$f" = 0 ] || tail -n 40 "$log"
    grep -E '^(skipped|note)' "$log"
    echo "$label: $p passed, $f failed, $(($(date +%s) - began)) s"
    passed=$((passed + p)) failed=$((failed + f))
}

for program in build/tests/test_*; do
    [ -x "$program" ] && run "${program#build/}" "$program"
done
if [ -n "$QUICK" ]; then run tests/planted/run.sh sh tests/planted/run.sh places
else
    for program in build/asan/test_*; do
        [ -x "$program" ] && run "${program#build/}" "$program"
    done
    for script in tests/test_*.sh tests/planted/run.sh; do
        [ -f "$script" ] && run "$script" sh "$script"
    done
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
