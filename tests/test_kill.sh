# kill -9 in the middle of saving: at every system call, and a thousand times at random; see kill.c.
mkdir -p build/tests
if ! ${CC:-cc} -O1 -DAG_NAIVE tests/kill.c -o build/tests/kill -lm > build/tests/kill.log 2>&1; then
    head -5 build/tests/kill.log
    echo "kill: 0 passed, 1 failed"
    exit 1
fi
build/tests/kill "$@"
