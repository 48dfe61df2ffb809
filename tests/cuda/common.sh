# What the scripts of tests/cuda share; each says name=... and dir=... before it reads this, from the root.
passed=0 failed=0
rm -rf "$dir" && mkdir -p "$dir"
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED $name: $*"; }
end() { echo "$name: $passed passed, $failed failed"; [ "$failed" = 0 ] && [ "$passed" != 0 ]; exit; }

CXX=${CXX:-g++} NVCC=${NVCC:-nvcc}
command -v "$NVCC" > /dev/null || NVCC=/usr/local/cuda/bin/nvcc
have_nvcc() { command -v "$NVCC" > /dev/null; }
knows() {                                       # knows CHIP
    "$NVCC" --list-gpu-code 2> /dev/null | grep -qx "$1" && return
    echo "skipped: $1, which this nvcc does not know"
    return 1
}
# Registers that overflow into memory, and sums in double by mistake, are errors.
gates="-Xptxas -v,-warn-spills,-warn-lmem-usage,-warn-double-usage,-Werror"
lines=-g1                                       # no more of -g than lines of source: a third of the time
# The checker with g++: what stands before the source, and what behind it.
check="-fno-tree-sra -DCUDA_ON_CPU_CHECK -fsanitize=thread" libraries="-nodefaultlibs -lstdc++ -lm -lc -lgcc_s -lgcc"
