#!/bin/sh
# make_peers.sh - installs the programs that `make bench` compares with into build/peers: PyTorch, tiktoken, tokenizers,
# rustbpe and micrograd from PyPI into build/peers/venv (about 5.5 GB, nearly all of it PyTorch's GPU libraries, which
# the plain package brings along), OpenBLAS from Debian. What is there already is left alone.
#
#     sh tests/peers/make_peers.sh            (from the root of the repository; `make bench-peers` calls it)
#
# nanoGPT, llm.c and llama2.c are in no registry: put checkouts of them into one folder and run
# `make bench PEERS=that_folder`.
set -u
root=build/peers
failed=0
mkdir -p "$root"

# Debian's packages: only where something is missing, and only if we may.
apt_install() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }
    else
        echo "bench-peers: please install by hand: $*"
        return 1
    fi
}

command -v python3 >/dev/null || apt_install python3 || exit 1
python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv || exit 1
# torch.compile builds C++ that includes Python.h; without it the compiled settings are left out of the comparison.
python3 -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    apt_install python3-dev || echo "bench-peers: no Python.h, so PyTorch's compiled settings cannot be measured"
command -v g++ >/dev/null || apt_install g++ || failed=1
echo 'int main(void) { return 0; }' > "$root/probe.c"
cc "$root/probe.c" -o "$root/probe" -lopenblas 2>/dev/null || apt_install libopenblas-dev || failed=1
cc -fopenmp "$root/probe.c" -o "$root/probe" 2>/dev/null || apt_install libgomp1 || failed=1
rm -f "$root/probe" "$root/probe.c"

[ -x "$root/venv/bin/python" ] || python3 -m venv "$root/venv" || exit 1
# One by one, so that a package that cannot be had costs only its own row of the table.
for package in numpy tiktoken tokenizers rustbpe micrograd torch; do
    "$root/venv/bin/python" -c "import $package" 2>/dev/null && continue
    "$root/venv/bin/pip" install --quiet "$package" || { echo "bench-peers: $package could not be installed"; failed=1; }
done
"$root/venv/bin/pip" list 2>/dev/null | grep -E '^(numpy|tiktoken|tokenizers|rustbpe|micrograd|torch) '
exit $failed
