"""Counts the machine instructions of CUDA kernels, without cuobjdump, and holds them to rules.

    nvcc -std=c++17 -O3 -arch=sm_80 -Icuda -cubin prog.cu -o prog.cubin
    python3 tests/cuda/sass.py prog.cubin [rules=FILE ...]

What the source says and what a GPU runs are two things: a copy of a float4 may become four loads, a product of
bfloat16 may miss the tensor cores, an array may land in local memory, which is global memory. Each shows in the count.

A rule is a line of a file given as rules=FILE, which may be the source itself:

    // sass: KERNEL INSTRUCTION=N INSTRUCTION>N INSTRUCTION<N ...

KERNEL may be a pattern such as matmul* or *; it has to fit at least one kernel, and the rule holds for all that it
fits. INSTRUCTION is a name below, LDG (any width) or LDG.128 (bits per thread). Instructions are counted where they
stand, not how often they run. The last line is "sass: N passed, N failed"; without rules that is how many kernels there
are.

A cubin is an ELF file with a section .text.KERNEL for each kernel. From sm_70 on an instruction is 16 bytes: bits 0-8
say what it does, 9-11 where its operands are, 12-15 under which condition it runs (15: never, the compiler's filling),
73-75 how much memory it moves or, for atomics, which type. NVIDIA does not document that; the numbers are those of
NAK, Mesa's open compiler, and tests/cuda/sass.cu has kernels whose counts are known from their source.
"""
import fnmatch
import re
import struct
import subprocess
import sys

NAMES = {0x020: 'FMUL', 0x021: 'FADD', 0x023: 'FFMA', 0x028: 'DMUL', 0x029: 'DADD', 0x02b: 'DFMA', 0x03b: 'LDSM',
         0x03c: 'HMMA', 0x108: 'MUFU', 0x11d: 'BAR', 0x180: 'LD', 0x181: 'LDG', 0x183: 'LDL', 0x184: 'LDS', 0x185: 'ST',
         0x186: 'STG', 0x187: 'STL', 0x188: 'STS', 0x189: 'SHFL', 0x18a: 'ATOM', 0x18c: 'ATOMS', 0x18e: 'RED',
         0x1a3: 'ATOM.F32', 0x1a6: 'RED.F32', 0x1a8: 'ATOM', 0x1ae: 'LDGSTS', 0x1f0: 'HGMMA'}
WIDTHS = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 64, 6: 128}
TYPE_F32 = 3                                        # of RED and ATOM before sm_90


def kernels(path):
    """Pairs of a kernel's mangled name and its code."""
    try:
        data = open(path, 'rb').read()
    except OSError as error:
        sys.exit(f'{path}: {error.strerror}')
    if data[:4] != b'\x7fELF':
        sys.exit(f'{path} is no cubin: nvcc -cubin makes one')
    table, = struct.unpack_from('<Q', data, 40)
    size, count, names_at = struct.unpack_from('<HHH', data, 58)
    sections = [struct.unpack_from('<IIQQQQ', data, table + i * size) for i in range(count)]
    names = sections[names_at][4]
    for name, _, _, _, offset, length in sections:
        name = data[names + name:data.index(b'\0', names + name)].decode()
        if name.startswith('.text.'):
            yield name[6:], data[offset:offset + length]


def short(names):
    """Names without parameters, template arguments kept; mangled, if c++filt is missing."""
    try:
        text = subprocess.run(['c++filt'], input='\n'.join(names), capture_output=True, text=True).stdout
    except OSError:
        return names
    text = text.replace('(anonymous namespace)::', '')
    return [re.sub(r'^void ', '', line.split('(')[0]) for line in text.splitlines()]


def count(code):
    counts = {}
    for at in range(0, len(code) - 15, 16):
        low, high = struct.unpack_from('<QQ', code, at)
        if low >> 12 & 15 == 15:
            continue
        name, kind = NAMES.get(low & 0x1ff), high >> 9 & 7
        keys = ['all']
        if name in ('LDG', 'STG', 'LDS', 'STS', 'LDL', 'STL'):
            keys += [name, f'{name}.{WIDTHS.get(kind, 0)}']
        elif name in ('RED', 'ATOM') and kind == TYPE_F32:
            keys += [name, name + '.F32']
        elif name:
            keys += [name, name.split('.')[0]] if '.' in name else [name]
        for key in keys:
            counts[key] = counts.get(key, 0) + 1
    return counts


def read_rules(path):
    for number, line in enumerate(open(path), 1):
        found = re.match(r'\s*(?://)? ?sass: (\S+) (.*)', line)
        if not found:
            continue
        for condition in found.group(2).split():
            parts = re.fullmatch(r'([A-Z0-9.]+)([=<>])(\d+)', condition)
            if not parts:
                sys.exit(f'{path}:{number}: "{condition}" is not INSTRUCTION=N, >N or <N')
            if parts.group(1).split('.')[0] not in NAMES.values():
                sys.exit(f'{path}:{number}: there is no instruction {parts.group(1)}; known: '
                         + ' '.join(sorted(set(NAMES.values()))))
            yield f'{path}:{number}', found.group(1), parts.group(1), parts.group(2), int(parts.group(3))


def holds(have, relation, number):
    return have == number if relation == '=' else have > number if relation == '>' else have < number


def print_table(found):
    columns = [('code', ['all']), ('HMMA', ['HMMA']), ('LDSM', ['LDSM']), ('LDGSTS', ['LDGSTS']), ('FFMA', ['FFMA']),
               ('LDG.128', ['LDG.128']), ('LDG<128', ['LDG.8', 'LDG.16', 'LDG.32', 'LDG.64']),
               ('STG.128', ['STG.128']), ('STG<128', ['STG.8', 'STG.16', 'STG.32', 'STG.64']), ('BAR', ['BAR']),
               ('SHFL', ['SHFL']), ('float atomics', ['RED.F32', 'ATOM.F32']), ('local', ['LDL', 'STL']),
               ('double', ['DADD', 'DMUL', 'DFMA'])]
    width = max([len(name) for name, _ in found] + [6])
    print(' '.join(['kernel'.ljust(width)] + [title for title, _ in columns]))
    for name, counts in found:
        cells = [str(sum(counts.get(k, 0) for k in keys) or '-').rjust(len(title)) for title, keys in columns]
        print(' '.join([name.ljust(width)] + cells))


def main(arguments):
    rules = [rule for a in arguments if a.startswith('rules=') for rule in read_rules(a[6:])]
    cubins = [a for a in arguments if not a.startswith('rules=')]
    if not cubins:
        sys.exit(__doc__)
    passed = failed = 0
    for path in cubins:
        code = sorted(kernels(path))
        found = list(zip(short([name for name, _ in code]), [count(text) for _, text in code]))
        print(f'{path}:')
        print_table(found)
        for place, pattern, instruction, relation, number in rules:
            fits = [(name, counts) for name, counts in found if fnmatch.fnmatchcase(name, pattern)]
            if not fits:
                print(f'FAILED {place}: {path} has no kernel {pattern}')
                failed += 1
            for name, counts in fits:
                have = counts.get(instruction, 0)
                if holds(have, relation, number):
                    passed += 1
                    continue
                failed += 1
                print(f'FAILED {place}: {name} has {have} {instruction}, not {relation}{number}')
        if not rules:
            passed += len(found)
    print(f'sass: {passed} passed, {failed} failed')
    sys.exit(failed > 0 or not passed)


main(sys.argv[1:])
