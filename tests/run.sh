# Runs every test program and script, and adds up their closing lines. QUICK=1 leaves out the slow ones.
# Each prints what failed and, last, "NAME: N passed, N failed"; one that ends without that line counts as failed.
# The seconds of each are printed beside its counts.
#     sh tests/run.sh                   two at a time where they leave a core idle
#     sh tests/run.sh only WHAT ...     a program's name (with and without sanitizers) or a script, one after the other
jobs=${JOBS:-2} all=build/tests/all.txt
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1}" UBSAN_OPTIONS=print_stacktrace=1

run() {                                         # run LABEL COMMAND...
    label=$1 began=$(date +%s) log=build/tests/log_$$.txt; shift
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
    rm -f "$log"
}

only() {
    for what; do
        case $what in
        *.sh) run "$what" sh "$what" ;;
        *)
            run "tests/$what" "build/tests/$what"
            [ -x "build/asan/$what" ] && [ -z "$QUICK" ] && run "asan/$what" "build/asan/$what" ;;
        esac
    done
    return 0
}
two() {                                         # a line of input is what one process does, one after the other
    xargs -L 1 -P "$jobs" sh tests/run.sh only || echo "a process that ended early: 0 passed, 1 failed, 0 s"
}
[ "$1" = only ] && { shift; only "$@"; exit; }

{
    # test_lesson and test_plot write files of one name, so they follow each other.
    for program in build/tests/test_*; do
        name=${program##*/}
        case $name in
        test_plot|*.*) ;;
        test_lesson) echo test_lesson test_plot ;;
        *) echo "$name" ;;
        esac
    done | two
    if [ -n "$QUICK" ]; then run tests/planted/run.sh sh tests/planted/run.sh places
    else
        # One core is enough for most of these ...
        others=$(ls tests/test_*.sh | grep -Ev 'notebooks|cuda|lessons' | tr '\n' ' ')
        printf '%s\n' tests/test_notebooks.sh "${others% }" | two
        only tests/test_cuda.sh tests/test_lessons.sh tests/planted/run.sh         # ... these take all
    fi
} | tee $all
sum() { awk -v word="$1" '/ passed, .* failed, [0-9]+ s$/ { for (i = 2; i <= NF; i++) if ($i == word) n += $(i - 1) }
        END { print n + 0 }' $all; }
passed=$(sum passed,) failed=$(sum failed,)
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
