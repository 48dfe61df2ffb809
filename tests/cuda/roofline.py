"""The least time that a training step of GPT-2 can take on a GPU: each kernel needs its operations and its bytes.

    python3 tests/cuda/roofline.py [batch=8] [precision=bf16|float32]       the table of cuda/README.md
    python3 tests/cuda/roofline.py measured=FILE gpu=H100                   beside what build/gpu/timing printed
    python3 tests/cuda/roofline.py report=FILE                              from the checker's counts, kernel by kernel
    python3 tests/cuda/roofline.py counted=PROGRAM                          holds the formulas to the checker's counts

A kernel takes at least the larger of operations / peak and bytes / bandwidth (Williams, Waterman and Patterson,
Roofline, 2009). Operations and bytes are counted here from the shapes, bytes as if each operand went once between
memory and chip. No program reaches such a bound. It says which kernels matter, and when to stop improving one; it is no
measurement.

With report=FILE, FILE is what a program of the checker wrote with CUDA_ON_CPU_REPORT=1. The least time is that of the
bytes that are different ones; "moved" says how often each was loaded or stored on average.

With counted=PROGRAM, PROGRAM is tests/cuda/timing.cu built with the checker. It runs each row by itself at a small
shape, and the bytes that the row's kernels touched, each counted once for each launch, have to be those of the formula
within 5 percent, with those of repeated() for rows that are several kernels. The last line is "roofline: N
passed, N failed".
"""
import os
import re
import subprocess
import sys

# Peaks in TFLOP/s, dense, bfloat16 on tensor cores with float32 sums and float32; bandwidth in TB/s.
GPUS = {
    'H100 SXM': (989.4, 66.9, 3.35),                # NVIDIA H100 Tensor Core GPU Architecture, 2022, tables 2 and 3
    'A100 SXM 80 GB': (312.0, 19.5, 2.039),         # NVIDIA A100 80GB datasheet, 2021
    'RTX 4090': (165.2, 82.6, 1.008),               # NVIDIA Ada GPU Architecture, 2023, appendix A
}
MORE = {                                            # to compare with, and not in the table
    'H200 SXM': (989.4, 66.9, 4.8),                 # NVIDIA H200 datasheet, 2024
}
GPT2 = 1024, 12, 768, 12, 50257                     # T, layers, C, heads, vocabulary: 124 million parameters
SMALL = 64, 1, 128, 2, 256
T = GPT2[0]


def rows(batch, shape=GPT2):
    """(name, calls in a step, operations of a call, bytes of a call, on tensor cores if the precision says so)"""
    T, LAYERS, C, HEADS, VOCABULARY = shape
    PARAMETERS = VOCABULARY * C + T * C + LAYERS * (12 * C * C + 13 * C) + 2 * C
    n = batch * T                                   # tokens
    word = 4                                        # activations and gradients are float32 in memory

    def product(name, calls, inputs, outputs, written=1):
        # forward, and two of the same size backward: dx = dy w^T, dw = x^T dy
        return (name, calls, 2 * n * inputs * outputs, word * (n * inputs + inputs * outputs + written * n * outputs),
                True)
    pairs = batch * T * (T + 1) // 2                # of a query and a key that it may see
    return [
        ('embedding', 2, 0, word * 2 * n * C, False),
        ('add', 2 * LAYERS + 1, n * C, word * 3 * n * C, False),
        ('norm', 2 * LAYERS + 1, 8 * n * C, word * 2 * n * C, False),
        product('product qkv', 3 * LAYERS, C, 3 * C),
        product('product out', 3 * LAYERS, C, C),
        product('product up', 2 * LAYERS, C, 4 * C),
        product('product up, GELU', LAYERS, C, 4 * C, 2),
        product('product down', 3 * LAYERS, 4 * C, C),
        product('product logits', 3, C, VOCABULARY),
        ('attention', LAYERS, 4 * pairs * C, word * 4 * n * C, True),
        ('nll', 1, 4 * n * VOCABULARY, word * n * VOCABULARY, False),
        ('nll_back', 1, 4 * n * VOCABULARY, word * 2 * n * VOCABULARY, False),
        ('attention_back', LAYERS, 10 * pairs * C, word * 8 * n * C, True),
        ('gelu_bias_back', LAYERS, 20 * n * 4 * C, word * 3 * n * 4 * C, False),
        ('bias gradient', 2 * LAYERS, n * C, word * n * C, False),
        ('bias gradient qkv', LAYERS, n * 3 * C, word * n * 3 * C, False),
        ('norm_back', 2 * LAYERS + 1, 16 * n * C, word * 3 * n * C, False),
        ('embedding_back', 2, n * C, word * 3 * n * C, False),
        ('sum_squares', 1, 2 * PARAMETERS, word * PARAMETERS, False),
        ('adamw', 1, 16 * PARAMETERS, word * 7 * PARAMETERS, False),
    ]


def repeated(batch, shape, precision):
    """What some rows touch again, in bytes: a bound counts each operand once, and these rows have several kernels."""
    T, LAYERS, C, HEADS, VOCABULARY = shape
    n, word, more = batch * T, 4, {}
    if precision == 'bf16':                         # a copy in two bytes of both factors, written and read
        for name, inputs, outputs in (('qkv', C, 3 * C), ('out', C, C), ('up', C, 4 * C), ('up, GELU', C, 4 * C),
                                      ('down', 4 * C, C), ('logits', C, VOCABULARY)):
            more['product ' + name] = 2 * 2 * (n * inputs + inputs * outputs)
        # of qkv, and backward of dy too. Forward nothing is read from what it was copied from; backward D needs y and
        # dy, and each of the two passes qkv and dy.
        more['attention'] = 2 * 2 * 3 * n * C
        more['attention_back'] = 2 * n * C * (4 + 4 + 4) + word * n * C
    else:
        more['attention_back'] = word * n * C * 5   # D needs y and dy, and each of the two passes qkv and dy
    more['norm_back'] = word * 2 * n * C            # dw and db need x and dy, and so does dx
    more['product up, GELU'] = more.get('product up, GELU', 0) + word * n * 4 * C      # GELU reads the product
    return more


def least(gpu, operations, size, tensor):
    """Milliseconds, and by what: c computing, m memory."""
    bf16, float32, bandwidth = GPUS[gpu] if gpu in GPUS else MORE[gpu]
    compute = operations / (bf16 if tensor else float32) / 1e9
    memory = size / bandwidth / 1e9
    return (compute, 'c') if compute > memory else (memory, 'm')


def print_bounds(batch, precision):
    print('| kernel | calls | GFLOP | MB | ' + ' | '.join(GPUS) + ' |')
    print('|---|--:|--:|--:|' + '--:|' * len(GPUS))
    totals = dict.fromkeys(GPUS, 0.0)
    for name, calls, operations, size, tensor in rows(batch):
        tensor = tensor and precision == 'bf16'
        cells = []
        for gpu in GPUS:
            time, why = least(gpu, operations, size, tensor)
            totals[gpu] += calls * time
            cells.append(f'{calls * time:.2f} {why}')
        print(f'| {name} | {calls} | {calls * operations / 1e9:.0f} | {calls * size / 1e6:.0f} | '
              + ' | '.join(cells) + ' |')
    print('| **a step**, ms | | | | ' + ' | '.join(f'{totals[g]:.1f}' for g in GPUS) + ' |')
    print('| tokens per second | | | | ' + ' | '.join(f'{batch * T / totals[g]:.0f}k' for g in GPUS) + ' |')


def print_measured(path, batch, precision, name):
    known = [*GPUS, *MORE]
    gpus = [g for g in known if name.lower() in g.lower()]
    if len(gpus) != 1:
        sys.exit(f'gpu={name}: one of ' + ', '.join(known) + ' is needed; for another one add its peaks to this file')
    measured = {}
    for line in open(path):
        found = re.fullmatch(r'timing: (.+): ([0-9.]+) ms\n', line)
        if found:
            measured[found.group(1)] = float(found.group(2))
    print(f'| kernel | calls | least ms on {gpus[0]} | measured ms | of the bound |')
    print('|---|--:|--:|--:|--:|')
    total = bound = 0.0
    for row, calls, operations, size, tensor in rows(batch):
        time, why = least(gpus[0], operations, size, tensor and precision == 'bf16')
        if row not in measured:
            sys.exit(f'{path} has no line for "{row}"')
        total, bound = total + calls * measured[row], bound + calls * time
        share = f'{100 * time / measured[row]:.0f}%' if measured[row] else ''
        print(f'| {row} | {calls} | {calls * time:.2f} {why} | {calls * measured[row]:.2f} | {share} |')
    print(f'| **a step** | | {bound:.1f} | {total:.1f} | {100 * bound / total if total else 0:.0f}% |')


def report_rows(lines):
    """(kernel, launches, bytes loaded and stored, different bytes loaded and stored) of the checker's table"""
    for line in lines:
        found = re.match(r'(\S.*?)\s+(\d+)\s+\d+\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[0-9.]+\s+[0-9.]+$', line)
        if found:
            yield (found.group(1), *(int(found.group(i)) for i in range(2, 7)))


def print_report(path):
    print('| kernel | launches | MB moved | MB of different bytes | moved | '
          + ' | '.join(f'least us, {g}' for g in GPUS) + ' |')
    print('|---|--:|--:|--:|--:|' + '--:|' * len(GPUS))
    for name, launches, loaded, stored, loaded_once, stored_once in report_rows(open(path)):
        once = loaded_once + stored_once
        print(f'| {name} | {launches} | {(loaded + stored) / 1e6:.3f} | {once / 1e6:.3f} | '
              f'{(loaded + stored) / once if once else 0:.1f} | '
              + ' | '.join(f'{once / GPUS[g][2] / 1e6:.3f}' for g in GPUS) + ' |')


def check_counted(program):
    passed = failed = 0
    for precision in ('float32', 'bf16'):
        more = repeated(2, SMALL, precision)
        for name, _, _, size, _ in rows(2, SMALL):
            if precision == 'bf16' and name not in more:
                continue                            # it does the same as before
            run = subprocess.run([program, '2', *map(str, SMALL), 'only=' + name, 'times=1', 'precision=' + precision],
                                 capture_output=True, text=True, env=dict(os.environ, CUDA_ON_CPU_REPORT='1'))
            counted = sum(k[3] + k[4] for _, *k in report_rows(run.stderr.splitlines()))
            want = size + more.get(name, 0)
            if run.returncode == 0 and abs(counted - want) <= 0.05 * want:
                passed += 1
            else:
                failed += 1
                print(f'FAILED roofline: {name}, {precision}: {counted} bytes were counted, and {want} are '
                      f'{size} by the formula and what is touched again (status {run.returncode})')
    print(f'roofline: {passed} passed, {failed} failed')
    sys.exit(failed > 0)


def main(arguments):
    options = {'batch': '8', 'precision': 'bf16', 'measured': '', 'gpu': '', 'report': '', 'counted': ''}
    for a in arguments:
        key, equals, value = a.partition('=')
        if key not in options or not equals:
            sys.exit(__doc__)
        options[key] = value
    if options['precision'] not in ('bf16', 'float32'):
        sys.exit('precision is bf16 or float32')
    batch = int(options['batch'])
    if options['counted']:
        check_counted(options['counted'])
    elif options['report']:
        print_report(options['report'])
    elif options['measured']:
        print_measured(options['measured'], batch, options['precision'], options['gpu'])
    else:
        print_bounds(batch, options['precision'])


main(sys.argv[1:])
